//! This server as a notary: it passes on key responses of others with its signature.

use std::collections::BTreeMap;

use event::{Json, Object};
use futures_util::{StreamExt, TryStreamExt, stream};
use store::Error;
use store::tables::federation::ServerKeyResponseRow;

use super::{KeyResponse, KeyRing};
use crate::discovery::ServerName;

/// Servers of one query that are answered for.
pub const SERVERS_PER_QUERY_MAX: usize = 100;
/// Of these, so many are asked at the same time.
const SERVERS_AT_ONCE: usize = 8;

/// What a query wants: by server and key id the time until which the key should be valid, in milliseconds since the
/// epoch; none for now. No key ids means all.
pub type Criteria = BTreeMap<String, BTreeMap<String, Option<u64>>>;

impl KeyRing {
    /// Answers a query: the signed key responses of the servers that can be reached or whose keys are known. The servers
    /// are asked themselves; other notaries are not.
    ///
    /// # Errors
    /// As the store says.
    pub async fn vouch(&self, criteria: &Criteria) -> Result<Vec<Object>, Error> {
        let asked: Vec<_> = criteria.clone().into_iter().take(SERVERS_PER_QUERY_MAX).collect();
        let answers: Vec<Vec<Object>> = stream::iter(asked)
            .map(|(server, keys)| async move { self.vouch_for(&server, &keys, None).await })
            .buffered(SERVERS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Answers a query for all keys of one server.
    ///
    /// # Errors
    /// As the store says.
    pub async fn vouch_for_all(&self, server: &str, minimum_valid_until_ts: Option<u64>) -> Result<Vec<Object>, Error> {
        self.vouch_for(server, &BTreeMap::new(), minimum_valid_until_ts).await
    }

    async fn vouch_for(
        &self,
        server: &str,
        keys: &BTreeMap<String, Option<u64>>,
        minimum: Option<u64>,
    ) -> Result<Vec<Object>, Error> {
        let now_ms = self.now_ms();
        if server == self.own.server_name() {
            return Ok(vec![self.own.response(now_ms)]);
        }
        if ServerName::parse(server).is_err() || !self.client.reach().permits(server) {
            return Ok(Vec::new());
        }
        let of_keys = keys.values().map(|minimum| minimum.unwrap_or(now_ms)).max();
        let minimum = of_keys.or(minimum).unwrap_or(now_ms);
        let mut rows = self.book.responses(server).await?;
        if !serves(&rows, keys, minimum, now_ms) {
            self.refresh(server, rows.is_empty()).await?;
            rows = self.book.responses(server).await?;
        }
        Ok(chosen(&rows, keys).filter_map(|row| self.signed(row)).collect())
    }

    /// The response with our signature beside its server's own.
    fn signed(&self, row: &ServerKeyResponseRow) -> Option<Object> {
        let mut object = Json::object_from_slice(row.response.as_bytes()).ok()?;
        if !KeyResponse::may_be_signed(&object) {
            return None;
        }
        self.own.active().sign_json(&mut object, self.own.server_name());
        Some(object)
    }
}

/// Whether what is stored answers the query: the newest response is valid for long enough and in the first half of its
/// life, after which notaries are to ask again, and no wanted key is missing.
fn serves(rows: &[ServerKeyResponseRow], keys: &BTreeMap<String, Option<u64>>, minimum: u64, now_ms: u64) -> bool {
    let Some(newest) = newest(rows) else { return false };
    let (valid_until, fetched) = (newest.valid_until_ms, newest.fetched_ms);
    let half_life = fetched.saturating_add(valid_until.saturating_sub(fetched) / 2);
    let int = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let complete = keys.keys().all(|key_id| rows.iter().any(|row| holds(row, key_id)));
    complete && valid_until >= int(minimum) && int(now_ms) < half_life
}

/// The responses that hold a wanted key; without wanted keys, all; the newest where none holds one.
fn chosen<'a>(
    rows: &'a [ServerKeyResponseRow],
    keys: &'a BTreeMap<String, Option<u64>>,
) -> impl Iterator<Item = &'a ServerKeyResponseRow> {
    let wanted = |row: &ServerKeyResponseRow| keys.is_empty() || keys.keys().any(|key_id| holds(row, key_id));
    let any = rows.iter().any(wanted);
    let newest = newest(rows).map(|row| &row.hash);
    rows.iter().filter(move |row| if any { wanted(row) } else { Some(&row.hash) == newest })
}

fn newest(rows: &[ServerKeyResponseRow]) -> Option<&ServerKeyResponseRow> {
    rows.iter().max_by_key(|row| row.fetched_ms)
}

/// Whether the response holds a key, current or old.
fn holds(row: &ServerKeyResponseRow, key_id: &str) -> bool {
    let Ok(object) = Json::object_from_slice(row.response.as_bytes()) else { return false };
    ["verify_keys", "old_verify_keys"].iter().any(|kind| object.get(*kind).and_then(|keys| keys.get(key_id)).is_some())
}
