//! `hearth`, the program.

use std::process::ExitCode;

/// The system's allocator gives memory back too seldom for a process that runs for months.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    server::commands::run()
}
