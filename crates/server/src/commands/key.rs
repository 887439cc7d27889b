//! `hearth key rotate|new|accept`: another signing key, and the way on for a server whose key is lost.

use clap::Subcommand;
use event::SigningKey;
use store::Clock;

use super::Failure;
use crate::boot;
use crate::config::Config;
use crate::config::sources::Given;
use crate::keys;
use crate::world::{SystemClock, SystemEntropy};

/// What to do about the key.
#[derive(Subcommand)]
pub enum Command {
    /// Makes a new key and retires the old one: what that has signed stays valid.
    Rotate,
    /// Makes a new key in place of a lost one. Other servers may doubt what was signed with the old one.
    New,
    /// Goes on with the key of the file, though the database knows another one.
    Accept,
}

/// Runs the command.
///
/// # Errors
/// Why it failed.
pub async fn run(command: &Command, given: &Given) -> Result<(), Failure> {
    let (config, _) = Config::load(given)?;
    boot::require_server(&config)?;
    boot::refuse_while_served(&config).await?;
    let path = keys::path(&config.data_dir);
    let file = keys::read(&config.data_dir).map_err(boot::Error::from)?;
    match (command, &file) {
        (Command::Rotate, _) => {}
        (Command::New, Some(_)) => {
            let path = path.display();
            return Err(Failure::Other(format!(
                "{path} exists: if the server shall have another key, move it away first"
            )));
        }
        (Command::Accept, None) => return Err(Failure::Other(format!("there is no {}", path.display()))),
        _ => {}
    }
    // The database before the file: while a server runs on it, nothing is changed.
    let store = boot::open_store(&config, None).await?.store;
    let done = match command {
        Command::Rotate => boot::rotate_key(&store, &config.data_dir, &SystemEntropy, SystemClock.now_ms()).await,
        Command::New | Command::Accept => note(&config, &store, file).await,
    };
    store.engine().close().await;
    println!("The server signs with `{}` from its next start on.", done?);
    if matches!(command, Command::Rotate) {
        println!("The old key is published as such, so that what it has signed stays valid.");
    }
    println!("Keep {} in your backup, and copy it to all nodes of the database before they start.", path.display());
    Ok(())
}

async fn note(config: &Config, store: &store::Store, file: Option<SigningKey>) -> Result<String, boot::Error> {
    let key = match file {
        Some(key) => key,
        None => keys::make(&config.data_dir, &SystemEntropy)?,
    };
    boot::accept_key(store, &key, SystemClock.now_ms()).await
}
