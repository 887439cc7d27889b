//! Accounts and all that belongs to one user: sessions, devices, login, user-interactive authentication, profiles,
//! account data, tags, filters, push rules, receipts, typing, presence, to-device messages and e-mail addresses.
//!
//! [`Users`] is the door. Every durable change is one commit batch with its stream entries, by which waiting syncs wake
//! and caches drop. Typing and presence are volatile ([`Volatile`]): they are counted apart and lost at a restart.
//! Nothing here knows HTTP, and nothing secret is stored but as a hash.

pub mod account_data;
pub mod accounts;
pub mod connections;
pub mod dehydrated;
pub mod devices;
pub mod email;
pub mod error;
pub mod filters;
pub mod jobs;
pub mod keys;
pub mod login;
pub mod passwords;
pub mod presence;
pub mod profile;
pub mod purge;
pub mod push_rules;
pub mod pushers;
mod queues;
pub mod receipts;
pub mod registration;
pub mod remote_devices;
pub mod rendezvous;
pub mod reports;
pub mod secret;
pub mod sessions;
pub mod thread_subscriptions;
pub mod threepids;
pub mod to_device;
pub mod turn;
pub mod typing;
pub mod uia;
pub mod volatile;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use store::{Clock, CommitBatch, CommitError, Committed, Entropy, Store, UserId};

pub use email::{Mailer, Undelivered};
pub use error::{Error, TokenError};
pub use passwords::{Blocking, Inline};
pub use registration::RegistrationMode;
pub use sessions::{Session, SessionKind};
pub use volatile::{Volatile, VolatilePosition};

/// How often a decision that lost a race is made again. On one node most decisions queue ([`queues`]): this is for races
/// with other nodes.
const RETRIES_MAX: usize = 20;

/// What the administrator decides about accounts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name in user ids.
    pub server_name: String,
    /// Who may register.
    pub registration: RegistrationMode,
    /// The secret by which tools register accounts; none refuses them.
    pub shared_secret: Option<String>,
    /// Whether guests may register.
    pub guests: bool,
    /// How long an access token that came with a refresh token lives, in milliseconds.
    pub access_token_ms: i64,
    /// How long a login token lives, in milliseconds.
    pub login_token_ms: i64,
    /// Whether `/login/get_token` is offered.
    pub login_tokens: bool,
    /// Whether presence is kept at all.
    pub presence: bool,
    /// Where sessions of the OAuth API are sent to manage their account: an `https` address (CA12).
    pub account_management_url: Option<String>,
    /// How long reports are kept, in milliseconds.
    pub reports_kept_ms: i64,
    /// The TURN servers through which calls may go, if there are any.
    pub turn: Option<turn::Servers>,
    /// How e-mail is sent; without it there is none.
    pub email: Option<email::Options>,
}

impl Options {
    /// The defaults for a server of this name.
    pub fn new(server_name: impl Into<String>) -> Self {
        Self {
            server_name: server_name.into(),
            registration: RegistrationMode::Token,
            shared_secret: None,
            guests: false,
            access_token_ms: 5 * 60 * 1_000,
            login_token_ms: 2 * 60 * 1_000,
            login_tokens: false,
            presence: true,
            account_management_url: None,
            reports_kept_ms: 365 * 24 * 3_600 * 1_000,
            turn: None,
            email: None,
        }
    }
}

/// Accounts and what belongs to them. One per process; share it behind an [`Arc`].
pub struct Users {
    store: Store,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    options: Options,
    passwords: passwords::Passwords,
    sessions: Arc<sessions::Cache>,
    push_rules: Arc<push_rules::Cache>,
    key_texts: keys::device_keys::Cache,
    volatile: Arc<Volatile>,
    typing: Arc<typing::Typists>,
    presence: presence::Board,
    nonces: registration::Nonces,
    /// What waits for devices of users of other servers.
    backlogs: to_device::backlog::Backlogs,
    /// What is known of the mails that wait.
    post: email::queue::Post,
    /// Whoever changes what a user keeps by reading and writing it whole waits here for its turn.
    queues: queues::Queues,
}

impl Users {
    /// Opens the accounts of a store: reads all push rules that differ from the default, and begins to follow the
    /// stream.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        blocking: Arc<dyn Blocking>,
        options: Options,
    ) -> Result<Arc<Self>, Error> {
        let sessions = Arc::new(sessions::Cache::default());
        let push_rules = Arc::new(push_rules::Cache::default());
        store.notifier().add_follower(Arc::clone(&sessions) as Arc<dyn store::Follower>);
        store.notifier().add_follower(Arc::clone(&push_rules) as Arc<dyn store::Follower>);
        let volatile = Arc::new(Volatile::new(store::clock::random_text(&*entropy, volatile::EPOCH_LENGTH)));
        let typing = Arc::new(typing::Typists::new(Arc::clone(&volatile)));
        store.notifier().add_follower(Arc::clone(&typing) as Arc<dyn store::Follower>);
        let users = Self {
            key_texts: keys::device_keys::Cache::default(),
            passwords: passwords::Passwords::new(blocking, Arc::clone(&entropy)),
            typing,
            presence: presence::Board::new(Arc::clone(&volatile), options.server_name.clone()),
            nonces: registration::Nonces::default(),
            backlogs: to_device::backlog::Backlogs::default(),
            post: email::queue::Post::default(),
            queues: queues::Queues::default(),
            store,
            clock,
            entropy,
            options,
            sessions,
            push_rules,
            volatile,
        };
        users.load_push_rules().await?;
        Ok(Arc::new(users))
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The store, for readers that need a snapshot over several tables.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The counter of typing and presence.
    pub fn volatile(&self) -> &Arc<Volatile> {
        &self.volatile
    }

    /// Whether a user id belongs to this server.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.options.server_name
    }

    /// The full id of a localpart of this server.
    pub fn user_id(&self, localpart: &str) -> UserId {
        UserId::from(format!("@{localpart}:{}", self.options.server_name))
    }

    /// What is due by time alone: typing that ends, presence that fades. To be called about once a second.
    pub fn tick(&self) {
        let now = self.now();
        self.typing.expire(now);
        self.presence.fade(now);
    }

    fn now(&self) -> i64 {
        self.clock.now_ms()
    }

    async fn commit(&self, batch: CommitBatch) -> Result<Committed, Error> {
        match self.store.commit(batch).await {
            Ok(committed) => Ok(committed),
            Err(CommitError::Conflict { .. }) => Err(Error::Conflict),
            Err(CommitError::Store(error)) => Err(Error::Store(error)),
        }
    }
}
