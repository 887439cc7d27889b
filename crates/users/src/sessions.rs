//! Access tokens and the sessions they stand for. Every request passes [`Users::authenticate`]: answered from memory,
//! dropped from it by the stream as soon as the account changes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use store::tables::users::{AccessTokenRow, AccountRow, DeviceSeenRow, RefreshTokenRow};
use store::{CommitBatch, DeviceId, Field, Follower, Read, StreamEntry, StreamKind, StreamPosition, UserId, Value};

use crate::registration::GUEST;
use crate::{Error, TokenError, Users, secret};

/// Sessions that are kept in memory.
const CACHED_MAX: usize = 100_000;
/// A device's "last seen" is written at most this often.
const SEEN_EVERY_MS: i64 = 10 * 60_000;
/// Tokens longer than this are nobody's.
const TOKEN_BYTES_MAX: usize = 1_024;

/// By which of the specification's two authentication APIs a session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionKind {
    /// The legacy API: `/login` and `/register`.
    #[default]
    Legacy,
    /// The OAuth 2.0 API, whose accounts are managed on a web page (behaviour CA12).
    OAuth,
}

impl SessionKind {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::OAuth => "oauth",
        }
    }

    /// As it was stored.
    pub(crate) fn stored(word: &str) -> Self {
        if word == Self::OAuth.as_str() { Self::OAuth } else { Self::Legacy }
    }
}

/// What an access token stands for.
#[derive(Debug)]
pub struct Session {
    /// Whose it is.
    pub user: UserId,
    /// Its device.
    pub device: DeviceId,
    /// The account is a guest's.
    pub guest: bool,
    /// The account administers the server.
    pub admin: bool,
    /// The account is locked: it may only log out (CA13).
    pub locked: bool,
    /// The account is suspended: it may read, and little else.
    pub suspended: bool,
    /// When the token expires, in milliseconds since the epoch.
    pub expires_ms: Option<i64>,
    /// Whether a refresh token came with it.
    pub refreshable: bool,
    /// By which API it began.
    pub kind: SessionKind,
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    seen_ms: AtomicI64,
}

#[derive(Default)]
struct Cached {
    sessions: HashMap<[u8; 32], Arc<Session>>,
    by_user: HashMap<UserId, Vec<[u8; 32]>>,
    order: VecDeque<[u8; 32]>,
}

impl Cached {
    fn drop_user(&mut self, user: &UserId) {
        for token in self.by_user.remove(user).unwrap_or_default() {
            self.sessions.remove(&token);
        }
    }

    fn insert(&mut self, session: Arc<Session>) {
        while self.order.len() >= CACHED_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(session) = self.sessions.remove(&oldest)
                && let Some(tokens) = self.by_user.get_mut(&session.user)
            {
                tokens.retain(|token| *token != oldest);
                if tokens.is_empty() {
                    self.by_user.remove(&session.user);
                }
            }
        }
        self.order.push_back(session.token_hash);
        self.by_user.entry(session.user.clone()).or_default().push(session.token_hash);
        self.sessions.insert(session.token_hash, session);
    }
}

/// The sessions in memory. Follows the stream.
#[derive(Default)]
pub(crate) struct Cache {
    cached: Mutex<Cached>,
    /// Raised with each change of any account: what was read before it is not kept after it.
    changes: AtomicU64,
}

impl Cache {
    fn get(&self, token_hash: &[u8; 32]) -> Option<Arc<Session>> {
        self.cached.lock().sessions.get(token_hash).cloned()
    }

    fn install(&self, session: &Arc<Session>, read_at: u64) {
        let mut cached = self.cached.lock();
        if self.changes.load(Ordering::SeqCst) == read_at && !cached.sessions.contains_key(&session.token_hash) {
            cached.insert(Arc::clone(session));
        }
    }
}

impl Follower for Cache {
    fn committed(&self, _first: StreamPosition, entries: &[StreamEntry]) {
        for entry in entries.iter().filter(|entry| entry.kind == StreamKind::Account) {
            let mut cached = self.cached.lock();
            self.changes.fetch_add(1, Ordering::SeqCst);
            if let Some(user) = &entry.user {
                cached.drop_user(user);
            }
        }
    }
}

impl Users {
    /// The session of an access token, locked accounts' included: look at [`Session::locked`]. The first use of a
    /// refreshed token retires the tokens before it (CA9).
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Session>, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Unknown);
        }
        let token_hash = secret::sha256(token.as_bytes());
        let session = match self.sessions.get(&token_hash) {
            Some(session) => session,
            None => self.load_session(token_hash).await?,
        };
        match session.expires_ms {
            Some(expires) if expires <= self.now() && session.refreshable => Err(TokenError::Expired),
            Some(expires) if expires <= self.now() => Err(TokenError::Unknown),
            _ => Ok(session),
        }
    }

    async fn load_session(&self, token_hash: [u8; 32]) -> Result<Arc<Session>, TokenError> {
        let read_at = self.sessions.changes.load(Ordering::SeqCst);
        let key = vec![Value::Blob(token_hash.to_vec())];
        let row: AccessTokenRow = self.store.get(key).await?.ok_or(TokenError::Unknown)?;
        let account: Option<AccountRow> = self.store.get(vec![Value::from(&row.user_id)]).await?;
        let account = account.filter(|account| !account.deactivated).ok_or(TokenError::Unknown)?;
        let session = Arc::new(Session {
            user: row.user_id.clone(),
            device: row.device_id.clone(),
            guest: account.kind == GUEST,
            admin: account.admin,
            locked: account.locked,
            suspended: account.suspended,
            expires_ms: row.expires_ms,
            refreshable: row.refresh.is_some(),
            kind: SessionKind::stored(&row.kind),
            token_hash,
            seen_ms: AtomicI64::new(0),
        });
        if row.retires.is_some() {
            self.retire_before(row).await?;
        } else {
            self.sessions.install(&session, read_at);
        }
        Ok(session)
    }

    /// Ends the tokens that a refreshed access token replaces, now that it is used.
    async fn retire_before(&self, row: AccessTokenRow) -> Result<(), TokenError> {
        let mut batch = CommitBatch::new();
        let key = vec![Value::Blob(row.token_hash.clone())];
        batch.expect_equals::<AccessTokenRow>(key, "retires", row.retires.clone().into_value());
        if let Some(old) = &row.retires {
            self.end_refresh_token(&mut batch, old).await?;
        }
        if let Some(refresh) = &row.refresh {
            let refresh: Option<RefreshTokenRow> = self.store.get(vec![Value::Blob(refresh.clone())]).await?;
            if let Some(refresh) = refresh {
                batch.put(RefreshTokenRow { retires: None, ..refresh });
            }
        }
        batch.announce(StreamKind::Account, None, Some(row.user_id.clone()), None);
        batch.put(AccessTokenRow { retires: None, ..row });
        match self.commit(batch).await {
            // Lost to a request that did the same, or to a logout: the next request sees which.
            Ok(_) | Err(Error::Conflict) => Ok(()),
            Err(Error::Store(error)) => Err(error.into()),
            Err(_) => Err(TokenError::Unknown),
        }
    }

    /// Adds the end of a refresh token, and of the access token that came with it, to a batch.
    pub(crate) async fn end_refresh_token(&self, batch: &mut CommitBatch, hash: &[u8]) -> Result<(), store::Error> {
        let key = vec![Value::Blob(hash.to_vec())];
        let old: Option<RefreshTokenRow> = self.store.get(key.clone()).await?;
        if let Some(old) = old {
            batch.delete::<RefreshTokenRow>(key);
            batch.delete::<AccessTokenRow>(vec![Value::Blob(old.access)]);
        }
        Ok(())
    }

    /// Adds the end of all tokens of a user, or of one device, to a batch; those of the device `keep` live on.
    pub(crate) async fn end_tokens(
        &self,
        batch: &mut CommitBatch,
        user: &UserId,
        device: Option<&DeviceId>,
        keep: Option<&DeviceId>,
    ) -> Result<(), Error> {
        let prefix: Vec<Value> = [Some(Value::from(user)), device.map(Value::from)].into_iter().flatten().collect();
        let access: Vec<AccessTokenRow> =
            self.store.all(Read::along::<AccessTokenRow>(AccessTokenRow::BY_USER, prefix.clone())).await?;
        for token in access.into_iter().filter(|token| Some(&token.device_id) != keep) {
            batch.delete::<AccessTokenRow>(vec![Value::Blob(token.token_hash)]);
        }
        let refresh: Vec<RefreshTokenRow> =
            self.store.all(Read::along::<RefreshTokenRow>(RefreshTokenRow::BY_USER, prefix)).await?;
        for token in refresh.into_iter().filter(|token| Some(&token.device_id) != keep) {
            batch.delete::<RefreshTokenRow>(vec![Value::Blob(token.token_hash)]);
        }
        batch.announce(StreamKind::Account, None, Some(user.clone()), None);
        Ok(())
    }

    /// Notes where and when a session was used: coarsely, and without waiting for the disk.
    pub fn saw(&self, session: &Session, ip: &str, user_agent: &str) {
        let now = self.now();
        let before = session.seen_ms.load(Ordering::Relaxed);
        if now - before < SEEN_EVERY_MS && before != 0 {
            return;
        }
        session.seen_ms.store(now, Ordering::Relaxed);
        let mut batch = CommitBatch::new();
        batch.put(DeviceSeenRow {
            user_id: session.user.clone(),
            device_id: session.device.clone(),
            seen_ms: now,
            ip: ip.to_owned(),
            user_agent: user_agent.to_owned(),
        });
        // A lost note is no loss.
        drop(self.store.submit(batch));
    }
}
