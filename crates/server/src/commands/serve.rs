//! `hearth serve`: binds, boots, serves, drains.

use std::io::IsTerminal;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::boot;
use crate::config::sources::Given;
use crate::config::{Config, LogFormat};
use crate::listeners::{Bound, Switch};
use crate::world::World;

/// Runs the server until it is told to stop.
///
/// # Errors
/// Why it could not start, or had to end.
pub async fn run(given: &Given) -> Result<(), Failure> {
    let (config, warnings) = Config::load(given)?;
    start_log(&config)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    // The addresses first: a second process on the same folder should fail before it touches anything.
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        listeners.push(Bound::new(listener).await?);
    }
    boot::make_data_dir(&config)?;
    let (fatal, mut store_lost) = watch::channel(false);
    let on_fatal = Box::new(move || {
        fatal.send_replace(true);
    });
    let store = boot::open_store(&config, Some(on_fatal)).await?;
    let running = boot::build_on(store, &config, &World::real()).await?;

    let switch = Arc::new(Switch::new(running.router));
    let (stop, stopping) = watch::channel(false);
    for listener in &listeners {
        let url = listener.url().unwrap_or_else(|| "a Unix socket".to_owned());
        tracing::info!(server_name = running.server_name, "listening on {url}");
    }
    let serving: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(listener.serve(Arc::clone(&switch), stopping.clone())))
        .collect();

    let lost = tokio::select! {
        () = told_to_stop() => false,
        Ok(_) = store_lost.wait_for(|lost| *lost) => true,
    };
    tracing::info!("stopping");
    stop.send_replace(true);
    for served in serving {
        if let Err(error) = served.await {
            tracing::error!(%error, "a listener failed");
        }
    }
    running.store.engine().close().await;
    if lost { Err(Failure::StoreLost) } else { Ok(()) }
}

/// Resolves at the first SIGTERM or SIGINT. A second one ends the process at once.
async fn told_to_stop() {
    let terminate = signal(SignalKind::terminate());
    let interrupt = signal(SignalKind::interrupt());
    let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
        tracing::error!("signals cannot be received: only SIGKILL will end this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(1);
    });
}

fn start_log(config: &Config) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.log_filter)
        .map_err(|error| Failure::Other(format!("configuration: `log.filter`: {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match config.log_format {
        LogFormat::Pretty => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| Failure::Other(format!("the log cannot be started: {error}")))
}
