//! `hearth config check|reference|show`

use clap::Subcommand;

use super::Failure;
use crate::config::sources::Given;
use crate::config::{self, Config};
use crate::listeners::tls::Certificate;

/// What to do with the configuration.
#[derive(Subcommand)]
pub enum Command {
    /// Checks the configuration, with the certificates that it names, and says what is wrong with it.
    Check,
    /// Prints every key with its meaning and default, as a file to start from.
    Reference,
    /// Prints every key with its value and where that comes from, without secrets.
    Show,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the configuration.
pub fn run(command: &Command, given: &Given) -> Result<(), Failure> {
    match command {
        Command::Check => {
            let (config, warnings) = Config::load(given)?;
            for warning in warnings {
                println!("warning: {warning}");
            }
            for files in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
                Certificate::read(files)?;
            }
            println!("The configuration is fine.");
        }
        Command::Reference => print!("{}", config::reference()),
        Command::Show => print!("{}", config::show(given)?),
    }
    Ok(())
}
