//! `cargo xtask`: the tasks of the developers of this repository.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{Error, bench, nightly, postgres, root, setup, spec, test, tidy};

/// Tasks beside cargo's own.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check the laws of the house: dependencies, layers, words, lengths, documents.
    Tidy,
    /// Print every route of the specification as done, partly or not yet, and the behaviours
    /// without a test.
    Spec(spec::Options),
    /// Install what the tests need, and say what is installed.
    Setup,
    /// Set up, then run every check and test, on SQLite and on a PostgreSQL of its own.
    Test(test::Options),
    /// Run a command beside a throw-away PostgreSQL, with its URL in `HEARTH_TEST_POSTGRES`:
    /// `cargo xtask with-postgres cargo test -p postgres`.
    WithPostgres(postgres::Options),
    /// What takes longer than a change should wait for: many seeds, long fuzzing, large databases.
    Nightly(nightly::Options),
    /// Measure the operations that have a budget, beside Synapse, in one run.
    Bench(bench::Options),
    /// Measure joining a large room and the traffic with other servers, beside Synapse.
    BenchFederation(bench::federation::Options),
    /// Measure syncs of an account with many rooms, waiting syncs, keys and to-device messages, beside Synapse.
    BenchSync(bench::sync::Options),
    /// Measure indexing and searching many messages in six languages.
    BenchSearch(bench::search::Options),
    /// Measure what media costs those who chat: sends and memory beside uploads, thumbnails, bombs and slow clients.
    BenchMedia(bench::media::Options),
}

fn main() -> ExitCode {
    let root = root();
    let result: Result<(), Error> = match Arguments::parse().task {
        Task::Tidy => tidy::tidy(&root),
        Task::Spec(options) => spec::spec(&root, &options),
        Task::Setup => setup::setup(&root).map(|_| ()),
        Task::Test(options) => test::test(&root, &options),
        Task::WithPostgres(options) => postgres::with_postgres(&root, &options),
        Task::Nightly(options) => nightly::nightly(&root, &options),
        Task::Bench(options) => bench::bench(&root, &options),
        Task::BenchFederation(options) => bench::federation::bench(&root, &options),
        Task::BenchSync(options) => bench::sync::bench(&root, &options),
        Task::BenchSearch(options) => bench::search::bench(&root, &options),
        Task::BenchMedia(options) => bench::media::bench(&root, &options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
