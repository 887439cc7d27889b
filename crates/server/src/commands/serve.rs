//! `hearth serve`: binds, boots, serves, drains.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use parking_lot::RwLock;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;
use users::Users;

use super::Failure;
use crate::boot::{self, Opened, Running};
use crate::config::sources::Given;
use crate::config::{Config, LogFormat, Resource};
use crate::first_account::{PATH, Rename};
use crate::listeners::{Bound, Switch};
use crate::world::World;
use crate::{control, outgoing, readers};

/// Open files and sockets that a busy server may need.
const OPEN_FILES_WANTED: u64 = 65_536;

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
    // Each waiting sync is an open socket, and systems begin with a limit of a thousand or so.
    match rlimit::increase_nofile_limit(OPEN_FILES_WANTED) {
        Ok(files) if files >= OPEN_FILES_WANTED => {}
        Ok(files) => tracing::debug!(files, "the system allows fewer open files than a busy server wants"),
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
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
    let opened = boot::open_store(&config, Some(on_fatal)).await?;
    let store = opened.store.clone();
    let builder = Arc::new(Builder::new(opened, config, World::real()));
    let running = builder.build().await?;
    print_first_account_link(&running.users, &listeners).await?;
    // Before anybody is told that we listen: who then stops us is heard. Until now a signal just ends the process,
    // also in the middle of a long migration, as it may.
    let told_to_stop = told_to_stop();

    let (stop, stopping) = watch::channel(false);
    let current = Arc::clone(&builder);
    let current: control::Current = Arc::new(move || current.current());
    let mut tasks = vec![
        tokio::spawn(readers::run(Arc::clone(&current), stopping.clone())),
        tokio::spawn(readers::send_delayed(Arc::clone(&current), stopping.clone())),
        tokio::spawn(readers::send_mails(Arc::clone(&current), stopping.clone())),
    ];
    if let Some(control) = control::bind(&builder.config.data_dir).await {
        tasks.push(tokio::spawn(control::serve(control, current, stopping.clone())));
    }
    for listener in listeners {
        let url = listener.url().unwrap_or_else(|| "a Unix socket".to_owned());
        tracing::info!(server_name = running.server_name, "listening on {url}");
        tasks.push(tokio::spawn(listener.serve(Arc::clone(&builder.switch), stopping.clone())));
    }
    drop(running);

    let lost = tokio::select! {
        () = told_to_stop => false,
        Ok(_) = store_lost.wait_for(|lost| *lost) => true,
    };
    tracing::info!("stopping");
    stop.send_replace(true);
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task failed");
        }
    }
    builder.stop_sending().await;
    store.engine().close().await;
    if lost { Err(Failure::StoreLost) } else { Ok(()) }
}

/// Builds the system, and builds it again under another name when the first-account page asks for that.
struct Builder {
    opened: Opened,
    config: Config,
    world: World,
    switch: Arc<Switch>,
    running: RwLock<Option<Arc<Running>>>,
    /// The tasks that speak with other servers and push gateways, and what ends them.
    sending: tokio::sync::Mutex<Option<(watch::Sender<bool>, JoinHandle<()>)>>,
}

impl Builder {
    fn new(opened: Opened, config: Config, world: World) -> Self {
        let switch = Arc::new(Switch::new(Router::new()));
        Self { opened, config, world, switch, running: RwLock::default(), sending: tokio::sync::Mutex::default() }
    }

    async fn build(self: &Arc<Self>) -> Result<Arc<Running>, boot::Error> {
        let rename = Arc::new(Renamer(Arc::clone(self)));
        let running = boot::build_on(self.opened.clone(), &self.config, &self.world, Some(rename)).await?;
        let running = Arc::new(running);
        self.switch.turn(running.router.clone());
        *self.running.write() = Some(Arc::clone(&running));
        self.stop_sending().await;
        let (stop, stopping) = watch::channel(false);
        *self.sending.lock().await = Some((stop, tokio::spawn(outgoing::run(Arc::clone(&running), stopping))));
        Ok(running)
    }

    /// Ends what speaks with other servers and push gateways, if anything does.
    async fn stop_sending(&self) {
        let Some((stop, task)) = self.sending.lock().await.take() else { return };
        stop.send_replace(true);
        if let Err(error) = task.await {
            tracing::error!(%error, "what speaks with other servers and push gateways failed");
        }
    }

    fn current(&self) -> Option<Arc<Running>> {
        self.running.read().clone()
    }
}

/// How the first-account page names the server.
struct Renamer(Arc<Builder>);

#[async_trait]
impl Rename for Renamer {
    async fn rename(&self, server_name: &str) -> Result<Arc<Users>, String> {
        boot::name_server(&self.0.opened.store, server_name).await.map_err(|error| error.to_string())?;
        let running = self.0.build().await.map_err(|error| error.to_string())?;
        Ok(Arc::clone(&running.users))
    }
}

/// Prints the one-time link while there is no account. On stderr like the log, and always, whatever is logged.
async fn print_first_account_link(users: &Users, listeners: &[Bound]) -> Result<(), Failure> {
    let token = users.first_account_token().await.map_err(boot::Error::from)?;
    let url = listeners.iter().filter(|listener| listener.serves(Resource::Admin)).find_map(Bound::url);
    let text = match (token, url) {
        (Some(token), Some(url)) => {
            format!("\nThere is no account yet. Make the first one here:\n\n  {url}{PATH}?token={token}\n")
        }
        (Some(_), None) => {
            "\nThere is no account yet: `hearth user create --admin NAME` makes the first one.\n".to_owned()
        }
        (None, _) => return Ok(()),
    };
    // Not `eprintln!`, which panics where nothing can be written.
    drop(writeln!(std::io::stderr(), "{text}"));
    Ok(())
}

/// Catches signals from the call on; resolves at the first SIGTERM or SIGINT. A second one ends the process at once.
fn told_to_stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
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
}

fn start_log(config: &Config) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.log_filter)
        .map_err(|error| Failure::Other(format!("configuration: `log.filter`: {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written (the disk of the log is full) is lost: telling of it there would panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match config.log_format {
        LogFormat::Pretty => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| Failure::Other(format!("the log cannot be started: {error}")))
}
