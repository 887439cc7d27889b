//! Orders of the administrator's commands to the running server, over a Unix socket in the data folder.
//!
//! A SQLite database belongs to one process, so `hearth user …` and `hearth backup` ask the server that has it open; if
//! none runs, the command opens the database itself and does the same. The folder is its owner's alone, and so is the
//! socket.

mod reports;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use store::tables::rooms::RoomRow;
use store::{Read, UserId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use users::registration::{GUEST, NewAccount};

use crate::boot::Running;
use crate::config::{Address, Config, RegistrationMode};
use crate::copies;

/// The socket's name in the data folder.
const SOCKET: &str = "hearth.sock";
/// Bytes of an order.
const ORDER_BYTES_MAX: u64 = 64 * 1024;
/// How long an order may take to arrive, in seconds.
const ORDER_S_MAX: u64 = 10;
/// Accounts that are read at a time.
const PAGE: u32 = 500;
/// Milliseconds of an hour and of a day.
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// What is longer than so many hours is told in days.
const HOURS_SHOWN_MAX: i64 = 72;
/// Where `hearth doctor` writes in the store when it was there.
const LOOKED_AT: &str = "doctor_ms";
/// Bytes of a MiB, and how many of those should be free.
const MIB: u64 = 1024 * 1024;
const MIB_FREE_WANTED: u64 = 1024;
/// How often it is told how far the building of the search index has come.
const REBUILD_TELL: Duration = Duration::from_secs(1);
/// Lines that may wait for a slow reader.
const LINES_MAX: usize = 64;

/// What the administrator wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Make an account.
    CreateUser {
        /// Localpart.
        name: String,
        /// Password.
        password: String,
        /// Whether it administers the server.
        admin: bool,
    },
    /// List all accounts.
    ListUsers,
    /// Set a new password and end all sessions.
    ResetPassword {
        /// Localpart or full id.
        name: String,
        /// The new password.
        password: String,
    },
    /// Deactivate an account for ever.
    Deactivate {
        /// Localpart or full id.
        name: String,
        /// Also remove account data and filters.
        erase: bool,
    },
    /// Make a token with which people can register.
    CreateToken {
        /// The token; made up if missing.
        token: Option<String>,
        /// How many accounts it is good for; without limit if missing.
        uses: Option<u32>,
        /// Days until it expires; never if missing.
        days: Option<u32>,
    },
    /// List the registration tokens.
    ListTokens,
    /// Delete a registration token.
    DeleteToken {
        /// The token.
        token: String,
    },
    /// List reports, newest first.
    ListReports {
        /// Also those that are closed.
        all: bool,
    },
    /// Show a report.
    ShowReport {
        /// Its number.
        number: i64,
    },
    /// Note that a report is done.
    CloseReport {
        /// Its number.
        number: i64,
    },
    /// List all rooms.
    ListRooms,
    /// Build the search index from nothing.
    RebuildSearch,
    /// Back everything up.
    Backup {
        /// The folder, new or empty; absolute.
        to: PathBuf,
    },
    /// Say how the server is.
    Doctor,
}

/// A line of the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// Something to show.
    Line(String),
    /// It is done.
    Done,
    /// It failed.
    Failed(String),
}

/// Where lines for the administrator go.
pub type Say = mpsc::Sender<String>;

/// Does what was ordered.
///
/// # Errors
/// What went wrong, in words for the administrator.
pub async fn perform(running: &Arc<Running>, order: Order, say: &Say) -> Result<(), String> {
    let users = &running.users;
    match order {
        Order::CreateUser { name, password, admin } => {
            let new = NewAccount { localpart: Some(name), password: Some(password), admin, ..NewAccount::default() };
            let registered = users.register(new).await.map_err(|error| error.to_string())?;
            tell(say, format!("Created {}.", registered.user)).await;
        }
        Order::ListUsers => list_users(running, say).await.map_err(|error| error.to_string())?,
        Order::ResetPassword { name, password } => {
            let user = existing(running, &name).await?;
            users.change_password(&user, &password, true, None).await.map_err(|error| error.to_string())?;
            tell(say, format!("{user} has a new password, and all its sessions have ended.")).await;
        }
        Order::Deactivate { name, erase } => {
            let user = existing(running, &name).await?;
            running.deactivate(&user, erase).await?;
            tell(say, format!("{user} is deactivated.")).await;
        }
        Order::CreateToken { token, uses, days } => {
            let expires_ms = days.map(|days| running.clock.now_ms() + i64::from(days) * DAY_MS);
            let made = users.set_registration_token(token, uses.map(i64::from), expires_ms).await;
            tell(say, made.map_err(|error| error.to_string())?.token).await;
        }
        Order::ListTokens => list_tokens(running, say).await.map_err(|error| error.to_string())?,
        Order::DeleteToken { token } => {
            match users.delete_registration_token(&token).await.map_err(|error| error.to_string())? {
                true => tell(say, "Deleted. Nobody can register with it any more.".to_owned()).await,
                false => return Err("there is no such token".to_owned()),
            }
        }
        Order::ListReports { all } => reports::list(running, all, say).await.map_err(|error| error.to_string())?,
        Order::ShowReport { number } => reports::show(running, number, say).await?,
        Order::CloseReport { number } => reports::close(running, number, say).await?,
        Order::ListRooms => list_rooms(running, say).await?,
        Order::RebuildSearch => rebuild_search(running, say).await?,
        Order::Backup { to } => backup(running, to, say).await?,
        Order::Doctor => doctor(running, say).await?,
    }
    Ok(())
}

async fn tell(say: &Say, line: String) {
    // Whoever asked may have gone: the order is carried out all the same.
    drop(say.send(line).await);
}

async fn existing(running: &Running, name: &str) -> Result<UserId, String> {
    let unknown = || format!("there is no account {name}");
    let user = running.users.named(name).ok_or_else(unknown)?;
    let account = running.users.account(&user).await.map_err(|error| error.to_string())?;
    account.map(|account| account.user_id).ok_or_else(unknown)
}

async fn list_users(running: &Running, say: &Say) -> Result<(), users::Error> {
    let mut after: Option<UserId> = None;
    loop {
        let page = running.users.accounts(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.user_id.clone());
        for account in &page {
            let marks = [
                (account.admin, "administrator"),
                (account.kind == GUEST, "guest"),
                (account.locked, "locked"),
                (account.suspended, "suspended"),
                (account.deactivated, "deactivated"),
            ];
            let marks: Vec<&str> = marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect();
            tell(say, format!("{} {}", account.user_id, marks.join(", ")).trim_end().to_owned()).await;
        }
    }
}

async fn list_tokens(running: &Running, say: &Say) -> Result<(), users::Error> {
    let now_ms = running.clock.now_ms();
    for row in running.users.registration_tokens().await? {
        let uses = row.uses_allowed.map_or("any number".to_owned(), |uses| uses.to_string());
        let expiry = match row.expires_ms {
            Some(expires_ms) if expires_ms <= now_ms => "expired".to_owned(),
            Some(expires_ms) if expires_ms - now_ms > HOURS_SHOWN_MAX * HOUR_MS => {
                format!("expires in {} days", (expires_ms - now_ms) / DAY_MS)
            }
            Some(expires_ms) => format!("expires in {} hours", (expires_ms - now_ms) / HOUR_MS),
            None => "never expires".to_owned(),
        };
        tell(say, format!("{} used {} of {uses}, {expiry}", row.token, row.completed)).await;
    }
    Ok(())
}

/// Each room with its version and its joined members, and since when its state is partial where it is (MSC3902).
async fn list_rooms(running: &Running, say: &Say) -> Result<(), String> {
    let partial_since = running.rooms.partial_since().await.map_err(|error| error.to_string())?;
    let now_ms = running.clock.now_ms();
    let mut read = Read::prefix::<RoomRow>(vec![]).limit(PAGE);
    loop {
        let page: Vec<RoomRow> = running.store.all(read).await.map_err(|error| error.to_string())?;
        let Some(last) = page.last().map(|row| row.room) else { return Ok(()) };
        for row in page {
            let since_ms = partial_since.get(&row.room);
            tell(say, room_line(&row, since_ms.map(|since_ms| now_ms.saturating_sub(*since_ms)))).await;
        }
        read = Read::prefix::<RoomRow>(vec![]).after(last).limit(PAGE);
    }
}

fn room_line(row: &RoomRow, partial_ms: Option<i64>) -> String {
    let members = if row.joined == 1 { "member" } else { "members" };
    let line = format!("{} version {}, {} {members} joined", row.room_id, row.room_version, row.joined);
    match partial_ms {
        Some(ms) => format!("{line}, more are to come (partial for {} s)", ms.max(0) / 1_000),
        None => line,
    }
}

/// Has the search index built from nothing, by the node that has it, and tells how far that has come.
async fn rebuild_search(running: &Running, say: &Say) -> Result<(), String> {
    let search = &running.search;
    let failed = |error: search::Error| error.to_string();
    search.rebuild().await.map_err(failed)?;
    let mut told = None;
    while let Some(progress) = search.rebuilding().await.map_err(failed)? {
        if told != Some(progress) {
            tell(say, format!("{} of {} events", progress.seen, progress.all)).await;
            told = Some(progress);
        }
        // In a command nobody else builds it.
        match search.is_run() {
            true => tokio::time::sleep(REBUILD_TELL).await,
            false => search.catch_up().await.map_err(failed)?,
        }
    }
    tell(say, "The search index is built.".to_owned()).await;
    Ok(())
}

async fn backup(running: &Arc<Running>, to: PathBuf, say: &Say) -> Result<(), String> {
    if let Some(database) = &running.postgres {
        // Steps that nobody has room to read are left out.
        let progress = |line| drop(say.try_send(line));
        copies::begin_from_postgres(database, &running.config, &to, progress)
            .await
            .map_err(|error| error.to_string())?;
    }
    let (running, say) = (Arc::clone(running), say.clone());
    let work = tokio::task::spawn_blocking(move || {
        let progress = |line| drop(say.blocking_send(line));
        match &running.sqlite {
            Some(database) => copies::backup(database, &running.config, &to, progress),
            None => copies::finish(&running.config, &to, progress),
        }
    });
    match work.await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

async fn doctor(running: &Running, say: &Say) -> Result<(), String> {
    let position =
        running.store.stored_counter().await.map_err(|error| format!("the store does not answer: {error}"))?;
    tell(say, format!("fine     the store answers; the stream is at position {position}")).await;
    tell(say, can_write(running).await?).await;
    for line in room_on_disks(&running.config) {
        tell(say, line).await;
    }
    let fresh = running.users.is_fresh().await.map_err(|error| error.to_string())?;
    let accounts = if fresh { "note     there is no account yet" } else { "fine     there are accounts" };
    tell(say, accounts.to_owned()).await;
    for line in look_at(&running.config, &running.server_name) {
        tell(say, line).await;
    }
    Ok(())
}

/// Whether the store takes what is to be kept: an answer alone says nothing of a full disk.
async fn can_write(running: &Running) -> Result<String, String> {
    let now = running.clock.now_ms().to_string();
    let written = running.store.set_meta(LOOKED_AT, &now).await;
    written.map_err(|error| format!("the store answers, but nothing can be written to it: {error}"))?;
    Ok("fine     the store can be written to".to_owned())
}

/// How much can still be written to the file systems of database and media.
fn room_on_disks(config: &Config) -> Vec<String> {
    let mut folders = vec![&config.data_dir];
    if !config.media_dir.starts_with(&config.data_dir) {
        folders.push(&config.media_dir);
    }
    let said = |folder: &PathBuf| {
        let shown = folder.display();
        match rustix::fs::statvfs(folder) {
            Ok(disk) => {
                let mib = disk.f_bavail.saturating_mul(disk.f_frsize) / MIB;
                match mib >= MIB_FREE_WANTED {
                    true => format!("fine     {shown}: {mib} MiB are free"),
                    false => format!("note     {shown}: only {mib} MiB are free, soon nothing more can be kept"),
                }
            }
            Err(error) => format!("note     {shown}: it cannot be seen how much is free: {error}"),
        }
    };
    folders.into_iter().map(said).collect()
}

/// What can be said of a configuration without running it.
fn look_at(config: &Config, server_name: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut check = |wrong: bool, fine: &str, note: &str| {
        lines.push(if wrong { format!("note     {note}") } else { format!("fine     {fine}") });
    };
    check(
        server_name.starts_with("localhost"),
        &format!("the server's name is {server_name}"),
        "the server's name is localhost: fine for a trial, never for a server that others should find",
    );
    check(
        config.registration_mode == RegistrationMode::Open,
        "registration is not open to everybody",
        "registration is open to everybody: expect spam",
    );
    check(
        config.public_base_url.is_none(),
        "public_base_url is set",
        "public_base_url is not set: clients need the full address",
    );
    let exposed = config.listeners.iter().any(|listener| match listener.address {
        Address::Tcp(address) => listener.tls.is_none() && !address.ip().is_loopback(),
        Address::Unix(_) => false,
    });
    check(
        exposed,
        "no plain listener beyond loopback",
        "a listener without TLS listens beyond loopback: put a proxy before it",
    );
    check(!config.rate_limits.enabled, "rate limits are on", "rate limits are off");
    lines
}

/// Takes the socket. `None`, with a warning, where that is not possible: the server works without.
pub async fn bind(data_dir: &Path) -> Option<UnixListener> {
    let path = data_dir.join(SOCKET);
    let bound = match UnixStream::connect(&path).await {
        Ok(_) => Err(std::io::Error::from(std::io::ErrorKind::AddrInUse)),
        Err(_) => {
            // A socket that a killed process left, or nothing.
            drop(std::fs::remove_file(&path));
            UnixListener::bind(&path)
        }
    };
    let bound = bound.and_then(|listener| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    });
    match bound {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "commands cannot reach this server while it runs");
            None
        }
    }
}

/// Answers the system as it is now: it may be built anew.
pub type Current = Arc<dyn Fn() -> Option<Arc<Running>> + Send + Sync>;

/// Carries out orders until `stop` becomes true.
pub async fn serve(listener: UnixListener, current: Current, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (Ok((stream, _)), Some(running)) = (accepted, current()) else { continue };
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &running).await {
                tracing::debug!(%error, "an order broke off");
            }
        });
    }
    let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
    if let Some(path) = path {
        drop(std::fs::remove_file(path));
    }
}

async fn answer(mut stream: UnixStream, running: &Arc<Running>) -> std::io::Result<()> {
    let mut text = String::new();
    let (read, mut write) = stream.split();
    let mut reader = BufReader::new(read.take(ORDER_BYTES_MAX));
    let line = reader.read_line(&mut text);
    tokio::time::timeout(Duration::from_secs(ORDER_S_MAX), line).await??;
    let order: Order = serde_json::from_str(&text)?;
    let (say, mut said) = mpsc::channel(LINES_MAX);
    let work = async {
        let done = perform(running, order, &say).await;
        drop(say);
        done
    };
    let pass_on = async {
        while let Some(line) = said.recv().await {
            send(&mut write, &Answer::Line(line)).await?;
        }
        std::io::Result::Ok(())
    };
    let (done, passed) = tokio::join!(work, pass_on);
    passed?;
    send(&mut write, &done.map_or_else(Answer::Failed, |()| Answer::Done)).await
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    write.write_all(line.as_bytes()).await
}

/// Asks the server that runs on this data folder. `None` if none runs.
pub async fn ask(data_dir: &Path, order: &Order, show: &mut dyn FnMut(&str)) -> Option<Result<(), String>> {
    let stream = UnixStream::connect(data_dir.join(SOCKET)).await.ok()?;
    Some(converse(stream, order, show).await.unwrap_or_else(|error| Err(format!("the server broke off: {error}"))))
}

async fn converse(
    mut stream: UnixStream,
    order: &Order,
    show: &mut dyn FnMut(&str),
) -> std::io::Result<Result<(), String>> {
    let mut line = serde_json::to_string(order)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line)? {
            Answer::Line(line) => show(&line),
            Answer::Done => return Ok(Ok(())),
            Answer::Failed(why) => return Ok(Err(why)),
        }
    }
    Ok(Err("the server broke off".to_owned()))
}
