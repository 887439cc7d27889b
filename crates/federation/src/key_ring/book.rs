//! Keys of other servers as the store keeps them, with the newest in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use event::canonical_json;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use store::tables::federation::{ServerKeyResponseRow, ServerKeyRow};
use store::{CommitBatch, CommitError, Error, Read, Store, Value};

use super::response::{KeyResponse, KnownKey};
use crate::locks::Locks;

/// Servers whose keys are kept in memory.
const SERVERS_IN_MEMORY_MAX: usize = 10_000;
/// Most keys of one server that are kept; beyond it those go that were got first.
const KEYS_PER_SERVER_MAX: usize = 256;
/// Servers whose keys are read from the store at a time.
const SERVERS_PER_READ: usize = 500;

/// The keys of one server by id.
pub(super) type ServerKeys = Arc<BTreeMap<String, KnownKey>>;

/// Who gave us a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The server itself: what it says now counts.
    Origin,
    /// A notary, which may hold an old response: it never takes back what we know.
    Notary,
}

/// The keys of other servers.
pub(super) struct Book {
    store: Store,
    memory: Cache<String, ServerKeys>,
    writing: Locks,
}

impl Book {
    pub(super) fn new(store: Store) -> Self {
        Self { store, memory: Cache::new(SERVERS_IN_MEMORY_MAX), writing: Locks::default() }
    }

    /// The keys of these servers, from memory where they are there.
    pub(super) async fn keys(&self, servers: Vec<String>) -> Result<BTreeMap<String, ServerKeys>, Error> {
        let mut found = BTreeMap::new();
        let mut missing = Vec::new();
        for server in servers {
            match self.memory.get(&server) {
                Some(keys) => drop(found.insert(server, keys)),
                None => missing.push(server),
            }
        }
        found.extend(self.read(missing).await?);
        Ok(found)
    }

    /// The keys of these servers from the store, which another node may have written.
    pub(super) async fn read(&self, servers: Vec<String>) -> Result<BTreeMap<String, ServerKeys>, Error> {
        let mut found = BTreeMap::new();
        for some in servers.chunks(SERVERS_PER_READ) {
            let reads = some.iter().map(|server| rows_of(server)).collect();
            for (server, rows) in some.iter().zip(self.store.read(reads).await?) {
                let rows: Vec<ServerKeyRow> = rows.all()?;
                let keys = rows.iter().map(|row| (row.key_id.clone(), KnownKey::of(row))).collect();
                let keys = ServerKeys::new(keys);
                if !keys.is_empty() {
                    self.memory.insert(server.clone(), Arc::clone(&keys));
                }
                found.insert(server.clone(), keys);
            }
        }
        Ok(found)
    }

    /// Keeps what a response says.
    pub(super) async fn keep(&self, response: &KeyResponse, source: Source, now_ms: i64) -> Result<(), Error> {
        let _one_at_a_time = self.writing.hold(&response.server).await;
        let rows: Vec<ServerKeyRow> = self.store.all(rows_of(&response.server)).await?;
        let mut rows: BTreeMap<String, ServerKeyRow> = rows.into_iter().map(|row| (row.key_id.clone(), row)).collect();
        let before: BTreeSet<Vec<u8>> = rows.values().map(|row| row.response.clone()).collect();
        let text = canonical_json::to_string(&response.object);
        let hash = Sha256::digest(text.as_bytes()).to_vec();
        let mut batch = CommitBatch::new();
        for (key_id, key) in &response.keys {
            if source == Source::Origin || rows.get(key_id).is_none_or(|row| adds(key, &KnownKey::of(row))) {
                let row = row(response, key_id, key, &hash, now_ms);
                batch.put(row.clone());
                rows.insert(key_id.clone(), row);
            }
        }
        for gone in surplus(&rows, &hash) {
            rows.remove(&gone);
            batch.delete::<ServerKeyRow>(vec![Value::from(response.server.as_str()), gone.into()]);
        }
        let after: BTreeSet<&Vec<u8>> = rows.values().map(|row| &row.response).collect();
        for idle in before.iter().filter(|hash| !after.contains(hash)) {
            batch.delete::<ServerKeyResponseRow>(vec![Value::from(response.server.as_str()), idle.clone().into()]);
        }
        if after.contains(&hash) {
            batch.put(response_row(response, hash, text, now_ms));
        }
        self.commit(batch).await?;
        let keys = rows.iter().map(|(key_id, row)| (key_id.clone(), KnownKey::of(row))).collect();
        self.memory.insert(response.server.clone(), ServerKeys::new(keys));
        Ok(())
    }

    /// The responses of a server that hold a key which is still known.
    pub(super) async fn responses(&self, server: &str) -> Result<Vec<ServerKeyResponseRow>, Error> {
        self.store.all(Read::prefix::<ServerKeyResponseRow>(vec![Value::from(server)])).await
    }

    async fn commit(&self, batch: CommitBatch) -> Result<(), Error> {
        match self.store.commit(batch).await {
            Ok(_) => Ok(()),
            Err(CommitError::Store(error)) => Err(error),
            Err(CommitError::Conflict { .. }) => Err(Error::Engine("a batch without checks met a conflict".to_owned())),
        }
    }
}

fn rows_of(server: &str) -> Read {
    Read::prefix::<ServerKeyRow>(vec![Value::from(server)])
}

/// Whether what a notary says of a key goes beyond what is known: it is valid for longer, and not revived.
fn adds(new: &KnownKey, known: &KnownKey) -> bool {
    let revives = known.expired_ts.is_some() && new.expired_ts.is_none();
    !revives && new.valid_until_ts >= known.valid_until_ts
}

/// The ids of keys to be dropped for the bound, of those that this response does not hold.
fn surplus(rows: &BTreeMap<String, ServerKeyRow>, response: &[u8]) -> Vec<String> {
    let mut others: Vec<&ServerKeyRow> = rows.values().filter(|row| row.response != response).collect();
    others.sort_by_key(|row| row.fetched_ms);
    let count = rows.len().saturating_sub(KEYS_PER_SERVER_MAX);
    others.into_iter().take(count).map(|row| row.key_id.clone()).collect()
}

fn row(response: &KeyResponse, key_id: &str, key: &KnownKey, hash: &[u8], now_ms: i64) -> ServerKeyRow {
    ServerKeyRow {
        server: response.server.clone(),
        key_id: key_id.to_owned(),
        public: key.public.clone(),
        valid_until_ms: int(key.valid_until_ts),
        expired_ms: key.expired_ts.map(int),
        fetched_ms: now_ms,
        response: hash.to_vec(),
    }
}

fn response_row(response: &KeyResponse, hash: Vec<u8>, text: String, now_ms: i64) -> ServerKeyResponseRow {
    ServerKeyResponseRow {
        server: response.server.clone(),
        hash,
        response: text,
        valid_until_ms: int(response.valid_until_ts),
        fetched_ms: now_ms,
    }
}

fn int(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
