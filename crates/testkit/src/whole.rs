//! A server in this process: the rooms put together as the program does, with time and chance of the test's.

use std::sync::Arc;

use axum::Router;
use client_api::State;
use endpoint::{Door, RateLimits, layers};
use event::SigningKey;
use rooms::Rooms;
use server::notify::PushRules;
use server::sessions::Accounts;
use store::model::Model;
use store::{Engine, Store, UserId};
use tempfile::TempDir;
use users::login::{LoggedIn, NewDevice};
use users::registration::NewAccount;
use users::{Inline, Users};

use crate::{Client, FakeClock, SeededEntropy};

/// The name of the server.
pub const SERVER: &str = "example.org";

/// The key with which the server signs its events.
pub fn signing_key() -> SigningKey {
    SigningKey::generate(&[7; 32])
}

/// The options of the client API.
fn client_options() -> client_api::Options {
    client_api::Options {
        server_name: SERVER.to_owned(),
        default_room_version: "12".to_owned(),
        public_base_url: None,
        support_contacts: Vec::new(),
        support_page: None,
        policy_server_key: None,
        livekit_urls: Vec::new(),
        http_push_gateways: false,
    }
}

/// The engine of a test's store: in memory, or SQLite where `HEARTH_TEST_STORE=sqlite` asks for it.
fn engine(directory: &TempDir) -> Arc<dyn Engine> {
    match std::env::var("HEARTH_TEST_STORE").as_deref() {
        Ok("sqlite") => {
            let path = directory.path().join("hearth.db");
            Arc::new(sqlite::Sqlite::open(&path, sqlite::Options::default()).unwrap())
        }
        _ => Arc::new(Model::new()),
    }
}

/// A server with all that its clients see.
pub struct Server {
    /// What its handlers are given: every room of the program below HTTP.
    pub state: State,
    /// Its clock.
    pub clock: Arc<FakeClock>,
    router: Router,
    _directory: TempDir,
}

/// A server of which a part was made anew.
pub struct Restarted {
    state: State,
    router: Router,
}

impl Restarted {
    /// A client that was there before.
    pub fn again(&self, client: &Client) -> Client {
        Client { state: self.state.clone(), router: self.router.clone(), ..client.clone() }
    }
}

impl Server {
    /// A server with open registration and without rate limits.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A server whose options of accounts are changed.
    pub async fn with(change: impl FnOnce(&mut users::Options)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(FakeClock::default());
        let entropy = Arc::new(SeededEntropy::new(1));
        let store = Store::new(engine(&directory)).await.unwrap();
        let mut user_options = users::Options::new(SERVER);
        user_options.registration = users::RegistrationMode::Open;
        change(&mut user_options);
        let users =
            Users::new(store.clone(), clock.clone(), entropy.clone(), Arc::new(Inline), user_options).await.unwrap();
        let key = Arc::new(signing_key());
        let notify = Arc::new(PushRules(Arc::clone(&users)));
        let options = rooms::Options::new(SERVER);
        let rooms = Rooms::new(store.clone(), clock.clone(), entropy.clone(), key, notify, options);
        let sync = sync::Sync::new(store.clone(), Arc::clone(&rooms), Arc::clone(&users));
        let options = media::Options::new(SERVER, directory.path());
        let blocking = Arc::new(|job: media::Job| job());
        let media = media::Media::open(options, store.clone(), clock.clone(), entropy, blocking, None).await.unwrap();
        let rate_limits = RateLimits { enabled: false, ..RateLimits::default() };
        let options = endpoint::Options { rate_limits, ..endpoint::Options::default() };
        let door = Arc::new(Door::new(Arc::new(Accounts(Arc::clone(&users))), clock.clone(), options));
        let options = Arc::new(client_options());
        let search =
            search::Search::new(store.clone(), Arc::clone(&rooms), clock.clone(), Arc::new(store::shards::Alone));
        let state = State {
            store,
            users,
            rooms,
            sync,
            search,
            clock: clock.clone(),
            media,
            previews: None,
            door,
            remote: None,
            options,
        };
        let router = layers::wrap(layers::with_fallbacks(client_api::router(state.clone())));
        Self { state, clock, router, _directory: directory }
    }

    /// The same server once more, as after a restart of its sync engine.
    pub fn with_sync(&self, sync: Arc<sync::Sync>) -> Restarted {
        self.with_state(State { sync, ..self.state.clone() })
    }

    /// The same server with other things given to its handlers.
    pub fn with_state(&self, state: State) -> Restarted {
        let router = layers::wrap(layers::with_fallbacks(client_api::router(state.clone())));
        Restarted { state, router }
    }

    /// Registers a user without password, with one device.
    pub async fn register(&self, localpart: &str) -> Client {
        let device = NewDevice { id: Some("DEVICE".into()), ..NewDevice::default() };
        let localpart = Some(localpart.to_owned());
        let account = NewAccount { localpart, login: Some(device), ..NewAccount::default() };
        let login = self.state.users.register(account).await.unwrap().login.unwrap();
        self.client(login)
    }

    /// Registers several users.
    pub async fn people<const N: usize>(&self, localparts: [&str; N]) -> [Client; N] {
        let mut clients = Vec::new();
        for localpart in localparts {
            clients.push(self.register(localpart).await);
        }
        clients.try_into().unwrap_or_else(|_| panic!("as many clients as names"))
    }

    /// Registers a guest.
    pub async fn guest(&self) -> Client {
        let login = Some(NewDevice::default());
        let account = NewAccount { guest: true, login, ..NewAccount::default() };
        let login = self.state.users.register(account).await.unwrap().login.unwrap();
        self.client(login)
    }

    /// Logs a user in on another device, or on the same one again.
    pub async fn login(&self, user: &str, device: &str) -> Client {
        let device = NewDevice { id: Some(device.into()), ..NewDevice::default() };
        let login = self.state.users.login(&UserId::from(user), device).await.unwrap();
        self.client(login)
    }

    /// A client without access token.
    pub fn nobody(&self) -> Client {
        self.client_of(String::new(), String::new(), String::new())
    }

    /// The client of a device that has just logged in.
    fn client(&self, login: LoggedIn) -> Client {
        self.client_of(login.user.to_string(), login.device.to_string(), login.access_token)
    }

    fn client_of(&self, user: String, device: String, token: String) -> Client {
        Client { state: self.state.clone(), router: self.router.clone(), user, device, token }
    }
}
