//! A server: the program as it boots, its disk, and its lives between two losses of power.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use parking_lot::Mutex;
use rooms::Room;
use server::boot::{self, Opened, Running};
use server::config::Config;
use server::world::World;
use sqlite::shim::Disk;
use store::{Clock, Store};
use tempfile::TempDir;
use tokio::sync::watch;

use super::chance::Chance;
use super::disk::Lockstep;
use super::network::{Network, Wire};
use super::story::Mutant;

/// When the simulated time begins, in milliseconds since the Unix epoch.
const BEGINNING_MS: i64 = 1_700_000_000_000;
/// Events of other servers that are worked on at a time. The program has more workers, which wake each second.
const WORKERS: usize = 3;
/// How often expired things are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// The simulated time as one server sees it.
struct SkewedClock {
    began: tokio::time::Instant,
    skew_ms: i64,
}

impl Clock for SkewedClock {
    fn now_ms(&self) -> i64 {
        BEGINNING_MS + self.skew_ms + i64::try_from(self.began.elapsed().as_millis()).unwrap()
    }
}

/// The time from a start to the next loss of power.
#[derive(Clone)]
pub struct Life(watch::Sender<bool>);

impl Life {
    fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Whether it is over: then nothing of it does anything any more.
    pub fn is_over(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends it.
    pub fn end(&self) {
        self.0.send_replace(true);
    }

    /// What the future comes to, unless life ends before.
    pub async fn within<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut over = self.0.subscribe();
        tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => None,
            value = future => Some(value),
        }
    }
}

/// A server that runs.
pub struct Up {
    /// The program.
    pub running: Running,
    /// How long it runs.
    pub life: Life,
    engine: Arc<Lockstep>,
}

impl Up {
    /// Its routes.
    pub fn router(&self) -> Router {
        self.running.router.clone()
    }

    /// A room of it.
    pub async fn room(&self, room_id: &str) -> Option<Arc<Room>> {
        self.running.rooms.room(room_id).await.unwrap()
    }
}

/// A server, running or not.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its disk.
    pub disk: Arc<Disk>,
    omits_members: bool,
    network: Arc<Network>,
    clock: Arc<dyn Clock>,
    chance: Chance,
    mutant: Mutant,
    directory: TempDir,
    up: Mutex<Option<Arc<Up>>>,
}

impl Node {
    /// A server that is off.
    pub fn new(number: usize, network: &Arc<Network>, chance: &Chance, mutant: Mutant) -> Arc<Self> {
        let (name, omits_members) = (format!("s{number}.test"), number.is_multiple_of(2));
        let chance = chance.fork();
        let skew_ms = i64::try_from(chance.below(4_000)).unwrap() - 2_000;
        let node = Arc::new(Self {
            name,
            omits_members,
            disk: Arc::new(Disk::new(chance.draw()).unwrap()),
            network: Arc::clone(network),
            clock: Arc::new(SkewedClock { began: tokio::time::Instant::now(), skew_ms }),
            chance,
            mutant,
            directory: directory(),
            up: Mutex::default(),
        });
        network.join(&node);
        node
    }

    /// The server, if it runs.
    pub fn up(&self) -> Option<Arc<Up>> {
        self.up.lock().clone().filter(|up| !up.life.is_over())
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("hearth.db")
    }

    /// The key with which it signs.
    pub fn key(&self) -> event::SigningKey {
        server::keys::read(self.directory.path()).unwrap().unwrap()
    }

    /// Begins a life.
    pub async fn start(&self) {
        self.disk.restore_power();
        let life = Life::new();
        let engine = Lockstep::open(&self.path(), &self.disk, &life, &self.chance, self.mutant).unwrap();
        let store = Store::new(Arc::clone(&engine) as _).await.unwrap();
        let opened = Opened { store, sqlite: Some(engine.sqlite()), postgres: None };
        let wire = Wire { network: Arc::clone(&self.network), from: self.name.clone(), life: life.clone() };
        let world = World {
            transport: Some(Arc::new(wire)),
            inline: true,
            ..World::of(Arc::clone(&self.clock), Arc::new(self.chance.fork()))
        };
        let settings = [
            format!("data_dir={}", self.directory.path().display()),
            format!("server_name={}", self.name),
            "rate_limits.enabled=false".to_owned(),
            // There is no web here.
            "url_previews.enabled=false".to_owned(),
            // Some let others in with part of the state, some with all of it.
            format!("federation.members_omitted_from={}", if self.omits_members { 0 } else { 100 }),
        ];
        let config = Config::of(&settings.each_ref().map(String::as_str)).unwrap();
        let running = boot::build_on(opened, &config, &world, None).await.unwrap();
        let up = Arc::new(Up { running, life, engine });
        run(&up);
        *self.up.lock() = Some(up);
    }

    /// Cuts the power.
    pub fn crash(&self) {
        let Some(up) = self.up.lock().take() else { return };
        self.disk.cut_power();
        up.life.end();
        up.engine.end();
    }

    /// Closes the database, so that nothing of the server is left.
    pub fn stop(&self) {
        if let Some(up) = self.up.lock().take() {
            up.life.end();
            up.engine.end();
        }
    }
}

/// Memory if the system has a folder of it: a simulated disk needs no real one.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// What the program runs beside the requests.
fn run(up: &Arc<Up>) {
    let remote = up.running.remote.clone().unwrap();
    let stop = up.life.0.subscribe();
    let life = up.life.clone();
    tokio::spawn(async move {
        remote.federation.resume().await.unwrap();
        for _ in 0..WORKERS {
            let (remote, stop) = (Arc::clone(&remote), stop.clone());
            tokio::spawn(async move { remote.federation.receive(stop).await });
        }
        let (federation, stops) = (Arc::clone(&remote.federation), stop.clone());
        tokio::spawn(async move { federation.complete(stops).await });
        let outcome = remote.outbound.run(stop).await;
        assert!(life.is_over() || outcome.is_ok(), "{outcome:?}");
    });
    let (kept, life) = (Arc::clone(up), up.life.clone());
    tokio::spawn(async move {
        let house = async {
            loop {
                tokio::time::sleep(HOUSEKEEPING).await;
                kept.running.tick().await;
                kept.running.housekeeping().await;
            }
        };
        life.within(house).await
    });
}
