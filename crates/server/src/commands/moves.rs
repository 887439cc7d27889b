//! `hearth restore` and `hearth migrate-database`: while no server runs.

use std::path::Path;

use super::Failure;
use crate::config::sources::Given;
use crate::config::{self, Config};
use crate::{boot, copies, transfer};

/// Rows between two lines of progress.
const PROGRESS_ROWS: u64 = 50_000;

/// Puts a backup into the data folder.
///
/// # Errors
/// Why it failed.
pub fn restore(backup: &Path, given: &Given) -> Result<(), Failure> {
    let (config, _) = Config::load(given)?;
    copies::restore(backup, &config, |line| println!("{line}")).map_err(|error| Failure::Other(error.to_string()))
}

/// Copies the configured database into another one.
///
/// # Errors
/// Why it failed, also that a server is using the database.
pub async fn migrate_database(to: &str, given: &Given) -> Result<(), Failure> {
    let (config, _) = Config::load(given)?;
    let mut there = given.clone();
    there.set.push(format!("database.url={to}"));
    let (target, _) = Config::load(&there).map_err(|error| match error {
        config::Error::Wrong { wrong, .. } => Failure::Other(format!("`--to {to}` {wrong}")),
        error => error.into(),
    })?;
    if target.database == config.database {
        return Err(Failure::Other("the target is the configured database itself".to_owned()));
    }
    boot::require_server(&config)?;
    boot::refuse_while_served(&config).await?;
    let from = boot::open_store(&config, None).await?.store;
    let to_store = boot::open_store(&target, None).await?.store;
    let mut told = 0;
    let mut current = String::new();
    let copied =
        transfer::copy(&transfer::Resting(from.engine().as_ref()), to_store.engine().as_ref(), |table, rows| {
            if table != current {
                current = table.to_owned();
                told = 0;
            }
            if rows >= told + PROGRESS_ROWS {
                told = rows;
                println!("{table}: {rows} rows");
            }
        })
        .await;
    from.engine().close().await;
    to_store.engine().close().await;
    println!("Copied {} rows. Now set `database.url` to the new database; the old one is as it was.", copied?);
    Ok(())
}
