//! Asking for keys: their own server first, then the notaries.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use event::{Json, Object};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use store::Error;

use super::book::Source;
use super::{KeyResponse, KeyRing, KeySet, Wanted};
use crate::discovery::ServerName;
use crate::transport::Limits;

/// Where a server publishes its keys.
const SERVER_PATH: &str = "/_matrix/key/v2/server";
/// Where a notary answers.
const QUERY_PATH: &str = "/_matrix/key/v2/query";

/// Bounds on a server's answer about itself.
const SERVER_LIMITS: Limits = Limits { timeout: Duration::from_secs(10), body_bytes_max: 256 * 1024 };
/// Bounds on a notary's answer.
const QUERY_LIMITS: Limits = Limits { timeout: Duration::from_secs(30), body_bytes_max: 8 * 1024 * 1024 };
/// Servers that one request to a notary asks about.
const SERVERS_PER_BATCH: usize = 50;
/// Responses of one answer of a notary that are looked at.
const RESPONSES_PER_ANSWER_MAX: usize = 4 * SERVERS_PER_BATCH;
/// Servers of one batch that are asked at the same time.
const ORIGINS_AT_ONCE: usize = 32;

impl KeyRing {
    /// Asks for what is open and adds what comes to `known`.
    pub(super) async fn fetch(&self, open: BTreeSet<Wanted>, known: &mut KeySet) -> Result<(), Error> {
        // Another node may have got them meanwhile.
        known.0.extend(self.book.read(servers(&open)).await?);
        let open = self.open(open.iter(), known);
        let by_server = group(&open);
        stream::iter(by_server)
            .map(|(server, wanted)| self.ask_origin(server, wanted))
            .buffer_unordered(ORIGINS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        let mut open = self.reread(open, known).await?;
        for notary in &self.notaries {
            if open.is_empty() {
                return Ok(());
            }
            if self.client.reach().permits(notary) && notary != self.own.server_name() {
                self.ask_notary(notary, &open).await?;
                open = self.reread(open, known).await?;
            }
        }
        let now_ms = self.clock.now_ms();
        open.iter().for_each(|wanted| self.refusals.key_missing(wanted, now_ms));
        Ok(())
    }

    /// Takes over what has come, and returns what is still missing.
    async fn reread(&self, open: BTreeSet<Wanted>, known: &mut KeySet) -> Result<BTreeSet<Wanted>, Error> {
        let servers = servers(&open);
        known.0.extend(self.book.keys(servers).await?);
        Ok(open.into_iter().filter(|wanted| !known.satisfies(wanted)).collect())
    }

    /// Asks a server for its keys, unless somebody else has just done so.
    async fn ask_origin(&self, server: String, wanted: Vec<Wanted>) -> Result<(), Error> {
        let _one_at_a_time = self.locks.hold(&server).await;
        let known = KeySet(self.book.keys(vec![server.clone()]).await?);
        if self.open(wanted.iter(), &known).is_empty() {
            return Ok(());
        }
        let stranger = known.0.values().all(|keys| keys.is_empty());
        self.ask(&server, stranger).await
    }

    /// Asks a server for its keys again, whatever is known, unless it is to be left alone.
    pub(super) async fn refresh(&self, server: &str, stranger: bool) -> Result<(), Error> {
        let _one_at_a_time = self.locks.hold(server).await;
        if self.refusals.pauses(server, self.clock.now_ms()) {
            return Ok(());
        }
        self.ask(server, stranger).await
    }

    /// The request itself; who calls holds the server's lock.
    async fn ask(&self, server: &str, stranger: bool) -> Result<(), Error> {
        if ServerName::parse(server).is_err() {
            return Ok(());
        }
        let places = if stranger { &self.stranger_places } else { &self.known_places };
        let _place = places.acquire().await.map_err(|_| Error::Closed)?;
        let answer = self.client.json_unsigned(server, Method::GET, SERVER_PATH, None, SERVER_LIMITS).await;
        let now_ms = self.clock.now_ms();
        let response = match answer {
            Ok(object) => KeyResponse::read(&object, server, self.now_ms()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match response {
            Ok(response) => {
                self.book.keep(&response, Source::Origin, now_ms).await?;
                self.refusals.server_answered(server, now_ms);
            }
            Err(reason) => {
                tracing::debug!(server, reason, "no keys from their own server");
                self.refusals.server_failed(server, now_ms);
            }
        }
        Ok(())
    }

    /// Asks a notary for all that is open, in batches.
    async fn ask_notary(&self, notary: &str, open: &BTreeSet<Wanted>) -> Result<(), Error> {
        let _one_at_a_time = self.locks.hold(&format!("notary {notary}")).await;
        // Whoever held the lock before may have brought some of it.
        let mut known = KeySet::default();
        let open = self.reread(open.clone(), &mut known).await?;
        let groups: Vec<(String, Vec<Wanted>)> = group(&open).into_iter().collect();
        for batch in groups.chunks(SERVERS_PER_BATCH) {
            if !self.knows_current_key(notary).await? {
                self.refresh(notary, false).await?;
            }
            if !self.ask_notary_once(notary, batch).await? {
                break;
            }
        }
        Ok(())
    }

    async fn knows_current_key(&self, server: &str) -> Result<bool, Error> {
        let keys = KeySet(self.book.keys(vec![server.to_owned()]).await?).current(self.now_ms());
        Ok(keys.0.values().any(|keys| !keys.is_empty()))
    }

    /// One batch; whether the notary answered.
    async fn ask_notary_once(&self, notary: &str, batch: &[(String, Vec<Wanted>)]) -> Result<bool, Error> {
        let body = query(batch);
        let answer = self.client.json_unsigned(notary, Method::POST, QUERY_PATH, Some(&body), QUERY_LIMITS).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::info!(notary, %error, "a notary gives no keys");
                return Ok(false);
            }
        };
        let notary_keys = KeySet(self.book.keys(vec![notary.to_owned()]).await?).current(self.now_ms());
        let asked: BTreeSet<&str> = batch.iter().map(|(server, _)| server.as_str()).collect();
        let responses = answer.get("server_keys").and_then(Json::as_array).unwrap_or_default();
        for object in responses.iter().take(RESPONSES_PER_ANSWER_MAX).filter_map(Json::as_object) {
            let server = object.get("server_name").and_then(Json::as_str).unwrap_or_default();
            if !asked.contains(server) {
                continue;
            }
            if let Err(error) = event::verify_json(object, notary, &notary_keys) {
                tracing::info!(notary, server, %error, "a notary's answer is not signed by it");
                continue;
            }
            match KeyResponse::read(object, server, self.now_ms()) {
                Ok(response) => self.book.keep(&response, Source::Notary, self.clock.now_ms()).await?,
                Err(error) => tracing::info!(notary, server, %error, "a notary passes on keys that are not signed"),
            }
        }
        Ok(true)
    }
}

fn servers(wanted: &BTreeSet<Wanted>) -> Vec<String> {
    let servers: BTreeSet<&String> = wanted.iter().map(|want| &want.server).collect();
    servers.into_iter().cloned().collect()
}

fn group(wanted: &BTreeSet<Wanted>) -> BTreeMap<String, Vec<Wanted>> {
    let mut by_server: BTreeMap<String, Vec<Wanted>> = BTreeMap::new();
    for want in wanted {
        by_server.entry(want.server.clone()).or_default().push(want.clone());
    }
    by_server
}

/// The body of `POST /_matrix/key/v2/query`.
fn query(batch: &[(String, Vec<Wanted>)]) -> Object {
    let criteria = |want: &Wanted| {
        let minimum = Json::Int(i64::try_from(want.minimum_valid_until_ts).unwrap_or(i64::MAX));
        (want.key_id.clone(), Json::from(Object::from([("minimum_valid_until_ts".to_owned(), minimum)])))
    };
    let servers = batch
        .iter()
        .map(|(server, wanted)| (server.clone(), Json::from(wanted.iter().map(criteria).collect::<Object>())));
    Object::from([("server_keys".to_owned(), Json::from(servers.collect::<Object>()))])
}
