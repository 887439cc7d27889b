//! Whose keys are whose: keys of other servers, fetched when something signed with them comes, and kept for ever.
//!
//! A key is asked for at its server first, then at the configured notaries, in batches. A response counts if its own
//! keys have signed it ([`response`]). Two who want keys of one server at the same time ask once. A server that does not
//! answer, and a key that nobody has, are left alone for growing pauses ([`refusals`]); what was known stays usable for
//! old events. Servers of which nothing is known yet share few places, so that made-up names cannot hold up the others.

mod book;
mod fetch;
mod notary;
mod own;
mod refusals;
mod request;
mod response;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use event::{JsonSignatureError, Keys, Object, Rules, SignatureLookup, Unverified, VerifyError, VerifyKey};
use store::{Clock, Store};
use tokio::sync::{Semaphore, oneshot};
use users::Blocking;

pub use notary::{Criteria, SERVERS_PER_QUERY_MAX};
pub use own::{OwnKeys, retire};
pub use request::RequestError;
pub use response::{KeyResponse, KnownKey, ResponseError};

use crate::client::Client;
use crate::locks::Locks;
use book::{Book, ServerKeys};
use refusals::Refusals;

/// Fetches at the same time from servers whose keys are known already.
const KNOWN_AT_ONCE: usize = 64;
/// Fetches at the same time from servers of which nothing is known.
const STRANGERS_AT_ONCE: usize = 64;

/// What a key ring is made of.
pub struct Parts {
    /// Where keys are kept.
    pub store: Store,
    /// Asks for them.
    pub client: Client,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This server's own keys.
    pub own: OwnKeys,
    /// Servers that are asked for keys which their own server does not give, in order; they are trusted to tell the truth.
    pub notaries: Vec<String>,
    /// Checks signatures elsewhere than on the threads that serve requests.
    pub blocking: Arc<dyn Blocking>,
    /// How many signatures are checked at the same time; at least one.
    pub cores: usize,
}

/// The key ring.
pub struct KeyRing {
    client: Client,
    clock: Arc<dyn Clock>,
    own: OwnKeys,
    notaries: Vec<String>,
    book: Book,
    refusals: Refusals,
    locks: Locks,
    blocking: Arc<dyn Blocking>,
    jobs: Semaphore,
    known_places: Semaphore,
    stranger_places: Semaphore,
}

/// A key that is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wanted {
    /// Whose.
    pub server: String,
    /// Its id, `ed25519:…`.
    pub key_id: String,
    /// The time for which it must vouch, in milliseconds since the epoch; 0 if any will do.
    pub minimum_valid_until_ts: u64,
}

impl Wanted {
    /// The keys that [`event::verify`] will look for. Something that is no event wants none.
    ///
    /// # Errors
    /// As [`event::wanted_signatures`].
    pub fn of_event(rules: &Rules, event: &Object, now_ms: u64) -> Result<Vec<Self>, VerifyError> {
        let sent = event.get("origin_server_ts").and_then(event::Json::as_i64);
        Ok(Self::of_lookups(rules, &event::wanted_signatures(rules, event)?, sent.unwrap_or(0), now_ms).collect())
    }

    /// The keys that checking an event will look for.
    pub fn of_unverified(rules: &Rules, event: &Unverified, now_ms: u64) -> impl Iterator<Item = Self> {
        Self::of_lookups(rules, event.wanted(), event.pdu().origin_server_ts, now_ms)
    }

    fn of_lookups(rules: &Rules, lookups: &[SignatureLookup], sent: i64, now_ms: u64) -> impl Iterator<Item = Self> {
        let sent = u64::try_from(sent).unwrap_or(0);
        // An event from the future is no reason to ask for a key over and over.
        let minimum_valid_until_ts = if rules.enforce_key_validity { sent.min(now_ms) } else { 0 };
        lookups.iter().flat_map(move |lookup| {
            lookup.signatures.iter().take(KEYS_PER_SIGNER_MAX).map(move |(key_id, _)| Self {
                server: lookup.server.clone(),
                key_id: key_id.clone(),
                minimum_valid_until_ts,
            })
        })
    }
}

/// Keys of one server on one event that are asked for; more are not looked up, though used if known.
const KEYS_PER_SIGNER_MAX: usize = 8;

/// Keys that were asked for, and whatever else is known of the same servers.
#[derive(Clone, Debug, Default)]
pub struct KeySet(BTreeMap<String, ServerKeys>);

impl Keys for KeySet {
    fn key(&self, server: &str, key_id: &str) -> Option<VerifyKey> {
        self.0.get(server)?.get(key_id)?.verify_key()
    }
}

impl KeySet {
    /// Those that may sign now: neither given up by their server nor past their time.
    pub fn current(&self, now_ms: u64) -> Self {
        let current = |keys: &ServerKeys| {
            let usable = keys.iter().filter(|(_, key)| key.expired_ts.is_none() && key.valid_until_ts >= now_ms);
            ServerKeys::new(usable.map(|(key_id, key)| (key_id.clone(), key.clone())).collect())
        };
        Self(self.0.iter().map(|(server, keys)| (server.clone(), current(keys))).collect())
    }

    /// Whether it holds what is wanted.
    fn satisfies(&self, wanted: &Wanted) -> bool {
        let key = self.0.get(&wanted.server).and_then(|keys| keys.get(&wanted.key_id));
        key.is_some_and(|key| key.reaches(wanted.minimum_valid_until_ts))
    }
}

impl KeyRing {
    /// A key ring.
    pub fn new(parts: Parts) -> Self {
        Self {
            client: parts.client,
            clock: parts.clock,
            own: parts.own,
            notaries: parts.notaries,
            book: Book::new(parts.store),
            refusals: Refusals::default(),
            locks: Locks::default(),
            blocking: parts.blocking,
            jobs: Semaphore::new(parts.cores.max(1)),
            known_places: Semaphore::new(KNOWN_AT_ONCE),
            stranger_places: Semaphore::new(STRANGERS_AT_ONCE),
        }
    }

    /// This server's own keys.
    pub fn own(&self) -> &OwnKeys {
        &self.own
    }

    /// The client that asks.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The time, in milliseconds since the epoch.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now_ms()).unwrap_or(0)
    }

    /// Runs work that keeps a core busy elsewhere than on the threads that serve requests, as much of it at a time as
    /// there are cores. `None` if the server shuts down.
    pub(crate) async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _place = self.jobs.acquire().await.ok()?;
        let (sender, receiver) = oneshot::channel();
        // The asker may have gone.
        self.blocking.run(Box::new(move || drop(sender.send(work()))));
        receiver.await.ok()
    }

    /// The wanted keys as far as they can be had: from memory, the store, their servers, the notaries.
    ///
    /// Another server's failure is no error: its keys are not among the result.
    ///
    /// # Errors
    /// As the store says.
    pub async fn keys_for(&self, wanted: &[Wanted]) -> Result<KeySet, store::Error> {
        let mut servers: BTreeSet<String> = wanted.iter().map(|want| want.server.clone()).collect();
        let own = servers.remove(self.own.server_name());
        let mut known = KeySet(self.book.keys(servers.into_iter().collect()).await?);
        if own {
            let keys = ServerKeys::new(self.own.known(self.now_ms()));
            known.0.insert(self.own.server_name().to_owned(), keys);
        }
        let open = self.open(wanted.iter(), &known);
        if !open.is_empty() {
            self.fetch(open, &mut known).await?;
        }
        self.look_again(wanted, &mut known).await?;
        Ok(known)
    }

    /// A server that has just answered somebody else is not asked again, and what it said may have come after this one
    /// had looked.
    async fn look_again(&self, wanted: &[Wanted], known: &mut KeySet) -> Result<(), store::Error> {
        let lacking = wanted.iter().filter(|want| want.server != self.own.server_name() && !known.satisfies(want));
        let lacking: BTreeSet<String> = lacking.map(|want| want.server.clone()).collect();
        if !lacking.is_empty() {
            known.0.extend(self.book.keys(lacking.into_iter().collect()).await?);
        }
        Ok(())
    }

    /// Checks the signature of a server on an object that is no event, with a key that is valid now.
    ///
    /// # Errors
    /// [`VerifyJsonError::Signature`] unless a known key of the server signed it and no signature is wrong.
    pub async fn verify_json(&self, object: &Object, server: &str) -> Result<(), VerifyJsonError> {
        let now_ms = self.now_ms();
        let signatures = object.get("signatures").and_then(|all| all.get(server)?.as_object());
        let key_ids = signatures.into_iter().flat_map(|by| by.keys()).filter(|key_id| key_id.starts_with("ed25519:"));
        let wanted: Vec<Wanted> = key_ids
            .take(KEYS_PER_SIGNER_MAX)
            .map(|key_id| Wanted { server: server.to_owned(), key_id: key_id.clone(), minimum_valid_until_ts: now_ms })
            .collect();
        let keys = self.keys_for(&wanted).await?.current(now_ms);
        Ok(event::verify_json(object, server, &keys)?)
    }

    /// What is wanted and neither known nor held back.
    fn open<'a>(&self, wanted: impl Iterator<Item = &'a Wanted>, known: &KeySet) -> BTreeSet<Wanted> {
        let now_ms = self.clock.now_ms();
        wanted
            .filter(|want| want.server != self.own.server_name())
            .filter(|want| !known.satisfies(want) && !self.refusals.hold_back(want, now_ms))
            .cloned()
            .collect()
    }
}

/// Why a signed object is not believed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyJsonError {
    /// Not signed, wrongly signed, or by a key that is not known or not valid now.
    #[error(transparent)]
    Signature(#[from] JsonSignatureError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}
