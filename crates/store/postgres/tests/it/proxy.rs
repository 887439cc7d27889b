//! A proxy on loopback between engine and server that cuts the writer's connection at chosen points of its commits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Notify, watch};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::database::Database;

/// Where the connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// After BEGIN went on to the server: nothing can have been committed.
    Begin,
    /// Just before COMMIT goes on to the server.
    BeforeCommit,
    /// Just after COMMIT went on to the server; its answer never comes back.
    AfterCommit,
    /// Before COMMIT, which goes on to the server only when the engine has connected again.
    LateCommit,
    /// Before BEGIN, which goes on to the server together with all up to COMMIT only when the engine tries again. The
    /// server does not know this connection as the writer's, so the engine cannot have it ended.
    LateAll,
    /// Not at all, but from COMMIT on no answer comes back.
    Stall,
    /// Not at all, but COMMIT never goes on to the server.
    Hold,
}

/// The proxy.
pub struct Proxy {
    state: Arc<State>,
    port: u16,
    config: Config,
}

struct State {
    config: Config,
    /// What to do at each further commit.
    plan: Mutex<VecDeque<Option<Cut>>>,
    cuts: AtomicUsize,
    down: AtomicBool,
    writers: Notify,
    begins: Notify,
    /// All of a late transaction was executed, or refused.
    late: Notify,
    /// Changes when everything is to be cut.
    generation: watch::Sender<u64>,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Upstream = tokio::io::WriteHalf<Box<dyn Duplex>>;

impl Proxy {
    /// A proxy before the server of a database.
    pub async fn start(database: &Database) -> Self {
        let config: Config = database.url.parse().unwrap();
        let state = Arc::new(State {
            config: config.clone(),
            plan: Mutex::default(),
            cuts: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            writers: Notify::new(),
            begins: Notify::new(),
            late: Notify::new(),
            generation: watch::Sender::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !accepting.down.load(Ordering::Acquire) {
                    tokio::spawn(serve(accepting.clone(), client));
                }
            }
        });
        Self { state, port, config }
    }

    /// The URL by which the engine reaches the database through the proxy.
    pub fn url(&self) -> String {
        let password = self.config.get_password().map(|it| format!(":{}", String::from_utf8_lossy(it)));
        format!(
            "postgres://{}{}@127.0.0.1:{}/{}",
            self.config.get_user().unwrap(),
            password.unwrap_or_default(),
            self.port,
            self.config.get_dbname().unwrap()
        )
    }

    /// Says what to do at the next commits, in order.
    pub fn plan(&self, cuts: impl IntoIterator<Item = Option<Cut>>) {
        self.state.plan.lock().extend(cuts);
    }

    /// How often the connection was cut so far.
    pub fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::Acquire)
    }

    /// Waits until the server is done with a transaction that came late.
    pub async fn late_is_done(&self) {
        self.state.late.notified().await;
    }

    /// Ends all connections and takes no new ones, or takes them again.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::Release);
        self.state.generation.send_modify(|generation| *generation += 1);
    }
}

async fn upstream(config: &Config) -> Box<dyn Duplex> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts().first().unwrap() {
        Host::Tcp(host) => {
            let stream = TcpStream::connect((host.as_str(), port)).await.unwrap();
            stream.set_nodelay(true).unwrap();
            Box::new(stream)
        }
        Host::Unix(directory) => {
            Box::new(UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).await.unwrap())
        }
    }
}

async fn serve(state: Arc<State>, client: TcpStream) {
    client.set_nodelay(true).unwrap();
    let mut ended = state.generation.subscribe();
    let (mut from_server, to_server) = tokio::io::split(upstream(&state.config).await);
    let (from_client, mut to_client) = client.into_split();
    let silent = Arc::new(AtomicBool::new(false));
    let cut = Arc::new(Notify::new());
    let (hush, hang_up) = (silent.clone(), cut.clone());
    let back = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            tokio::select! {
                biased;
                () = hang_up.notified() => break,
                read = from_server.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(length) if !hush.load(Ordering::Acquire) => {
                        if to_client.write_all(&buffer[..length]).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                },
            }
        }
        // The engine hears no more; the server goes on until it has done what it was sent.
        drop(to_client);
        while !matches!(from_server.read(&mut buffer).await, Ok(0) | Err(_)) {}
    });
    let mut back = back;
    let late = state.clone();
    let mut passage = Passage { state, from_client, to_server, silent, cut, statements: BTreeMap::new() };
    tokio::select! {
        done = passage.run() => if matches!(done, Ok(Cut::LateAll)) {
            let _ended = (&mut back).await;
            late.late.notify_one();
        },
        _ = ended.changed() => back.abort(),
    }
}

/// The way from engine to server.
struct Passage {
    state: Arc<State>,
    from_client: OwnedReadHalf,
    to_server: Upstream,
    silent: Arc<AtomicBool>,
    cut: Arc<Notify>,
    /// Which prepared statements begin and commit.
    statements: BTreeMap<Vec<u8>, &'static str>,
}

impl Passage {
    async fn run(&mut self) -> std::io::Result<Cut> {
        let mut startup = self.frame(0).await?;
        let mark = b"application_name\0hearth-test-";
        let writer = startup.windows(mark.len()).position(|part| part == mark);
        if let Some(place) = writer {
            self.state.writers.notify_waiters();
            if self.state.plan.lock().front() == Some(&Some(Cut::LateAll)) {
                startup[place + mark.len() - 12..][..6].copy_from_slice(b"hidden");
            }
        }
        let writer = writer.is_some();
        self.to_server.write_all(&startup).await?;
        loop {
            let frame = self.frame(1).await?;
            let what = if writer { self.meaning(&frame) } else { None };
            let cut = match what {
                Some("COMMIT") => self.state.plan.lock().pop_front().flatten(),
                Some("BEGIN") => {
                    self.state.begins.notify_waiters();
                    let mut plan = self.state.plan.lock();
                    let first = matches!(plan.front(), Some(Some(Cut::Begin | Cut::LateAll)));
                    if first { plan.pop_front().flatten() } else { None }
                }
                _ => None,
            };
            match cut {
                None => self.to_server.write_all(&frame).await?,
                Some(cut) => {
                    let mut rest = self.until_sync(frame).await?;
                    let mut complete = cut != Cut::LateAll;
                    while !complete {
                        let next = self.frame(1).await?;
                        complete = self.meaning(&next) == Some("COMMIT");
                        rest.extend(self.until_sync(next).await?);
                    }
                    self.perform(cut, &rest).await?;
                    return Ok(cut);
                }
            }
        }
    }

    async fn perform(&mut self, cut: Cut, statement: &[u8]) -> std::io::Result<()> {
        self.state.cuts.fetch_add(1, Ordering::AcqRel);
        match cut {
            Cut::Begin | Cut::AfterCommit => {
                self.silent.store(true, Ordering::Release);
                self.to_server.write_all(statement).await?;
                self.cut.notify_one();
                // Half closed, the engine's side still counts as open: it must see the end.
                Ok(())
            }
            Cut::BeforeCommit => {
                self.cut.notify_one();
                self.to_server.shutdown().await
            }
            Cut::LateCommit => {
                let again = self.state.writers.notified();
                self.cut.notify_one();
                again.await;
                self.to_server.write_all(statement).await
            }
            Cut::LateAll => {
                let again = self.state.begins.notified();
                self.cut.notify_one();
                again.await;
                self.to_server.write_all(statement).await?;
                self.to_server.shutdown().await
            }
            Cut::Stall | Cut::Hold => {
                self.silent.store(true, Ordering::Release);
                if cut == Cut::Stall {
                    self.to_server.write_all(statement).await?;
                }
                // The engine must give up by itself.
                while !matches!(self.from_client.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {}
                Ok(())
            }
        }
    }

    /// One message: `tag` bytes of type, then its length and content.
    async fn frame(&mut self, tag: usize) -> std::io::Result<Vec<u8>> {
        let mut frame = vec![0; tag + 4];
        self.from_client.read_exact(&mut frame).await?;
        let length = u32::from_be_bytes(frame[tag..].try_into().unwrap()) as usize;
        frame.resize(tag + length, 0);
        self.from_client.read_exact(&mut frame[tag + 4..]).await?;
        Ok(frame)
    }

    /// The rest of the statement that begins with `frame`.
    async fn until_sync(&mut self, mut frame: Vec<u8>) -> std::io::Result<Vec<u8>> {
        loop {
            let next = self.frame(1).await?;
            let last = next.first() == Some(&b'S');
            frame.extend(next);
            if last {
                return Ok(frame);
            }
        }
    }

    /// Whether the message executes a BEGIN or COMMIT: a Bind of a statement that a Parse named.
    fn meaning(&mut self, frame: &[u8]) -> Option<&'static str> {
        let mut parts = frame.get(5..)?.split(|byte| *byte == 0);
        let (first, second) = (parts.next()?, parts.next()?);
        match frame.first()? {
            b'P' if second == b"COMMIT" => {
                self.statements.insert(first.to_vec(), "COMMIT");
                None
            }
            b'P' if second.starts_with(b"BEGIN") => {
                self.statements.insert(first.to_vec(), "BEGIN");
                None
            }
            b'B' => self.statements.get(second).copied(),
            _ => None,
        }
    }
}
