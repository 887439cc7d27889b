//! Device lists of other servers' users: what is told of them, and the fetching of whole lists (server-server API,
//! "Device Management"; behaviour CE12). What is kept, and when it holds, stands in [`users::remote_devices`].
//!
//! A list is fetched when somebody asks for it, and anew by itself when an update before the one that came was lost. Who
//! is away is asked again later; of the users of one server who is away, one is tried for all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use event::{Json, Object};
use futures_util::{StreamExt as _, stream};
use store::UserId;
use tokio::sync::{Notify, watch};
use users::Users;
use users::keys::KEY_BYTES_MAX;
use users::remote_devices::{RemoteDevice, RemoteList, RemoteUpdate};

use crate::client::Client;
use crate::receive::Edus;
use crate::{Error, Result};

/// How often lists are looked for that have become due.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Lists that are claimed at a time.
const CLAIMED_MAX: u32 = 200;
/// Servers that are asked at a time.
const SERVERS_AT_ONCE: usize = 10;
/// Bytes of a device's name that are kept.
const NAME_BYTES_MAX: usize = 1_024;
/// Bytes that a device's id may have.
const DEVICE_ID_BYTES_MAX: usize = 255;
/// Updates that one update may follow.
const PREV_IDS_MAX: usize = 100;

/// The device lists of other servers' users.
pub struct RemoteDevices {
    client: Client,
    users: Arc<Users>,
    due: Notify,
}

impl RemoteDevices {
    /// The lists of users that this client can ask for.
    pub fn new(client: Client, users: Arc<Users>) -> Self {
        Self { client, users, due: Notify::new() }
    }

    /// Fetches a user's list and keeps a copy. False if there is none now: something changed meanwhile, or it is too
    /// large.
    ///
    /// # Errors
    /// As [`Client::json`]; [`Error::Malformed`]; as the store says.
    pub async fn fetch(&self, user: &UserId) -> Result<bool> {
        self.fetch_list(user, false).await
    }

    async fn fetch_list(&self, user: &UserId, announce: bool) -> Result<bool> {
        let asked = self.users.before_remote_list(user).await?;
        let server = user.server_name();
        let answer = self.client.query_devices(server, user.as_str()).await?;
        let malformed = || Error::Malformed { server: server.to_owned(), reason: "this is no device list".to_owned() };
        let list = list(user, &answer).ok_or_else(malformed)?;
        Ok(self.users.put_remote_list(&asked, &list, announce).await?)
    }

    /// Fetches lists that are due until `stop` becomes true.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                fetched = self.fetch_due() => if fetched { continue },
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.due.notified() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Fetches the lists that are due. Whether there were any.
    pub async fn fetch_due(&self) -> bool {
        let claimed = match self.users.claim_remote_lists(CLAIMED_MAX).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(%error, "device lists that are to be fetched cannot be read");
                return false;
            }
        };
        let any = !claimed.is_empty();
        let mut by_server: BTreeMap<String, Vec<UserId>> = BTreeMap::new();
        for user in claimed {
            by_server.entry(user.server_name().to_owned()).or_default().push(user);
        }
        let all = by_server.into_values().map(|users| self.fetch_of_server(users));
        stream::iter(all).buffer_unordered(SERVERS_AT_ONCE).collect::<()>().await;
        any
    }

    async fn fetch_of_server(&self, users: Vec<UserId>) {
        let mut away = false;
        for user in users {
            let fetched = if away { Ok(false) } else { self.fetch_list(&user, true).await };
            if let Err(error) = &fetched {
                tracing::info!(%user, %error, "a device list cannot be fetched yet");
                away = !matches!(error, Error::Remote { .. } | Error::Malformed { .. });
            }
            // Where something changed meanwhile it is due still.
            if !matches!(fetched, Ok(true))
                && let Err(error) = self.users.put_off_remote_list(&user).await
            {
                tracing::warn!(%user, %error, "the fetching of a device list cannot be put off");
            }
        }
    }

    fn note(&self, due: std::result::Result<bool, users::Error>) -> std::result::Result<(), store::Error> {
        match due {
            Ok(due) => {
                if due {
                    self.due.notify_one();
                }
                Ok(())
            }
            Err(users::Error::Store(error)) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "a change of another server's devices could not be noted");
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Edus for RemoteDevices {
    async fn device_list_update(
        &self,
        _origin: &str,
        user: &UserId,
        content: &Object,
    ) -> std::result::Result<(), store::Error> {
        let due = match update(user, content) {
            Some(update) => self.users.remote_device_update(user, &update).await,
            None => self.users.remote_devices_changed(user).await.map(|()| true),
        };
        self.note(due)
    }

    async fn signing_key_update(
        &self,
        _origin: &str,
        user: &UserId,
        content: &Object,
    ) -> std::result::Result<(), store::Error> {
        let key = |member: &str| cross_signing_key(user, content.get(member));
        let (master, own) = (key("master_key"), key("self_signing_key"));
        self.note(self.users.remote_signing_update(user, master.as_deref(), own.as_deref()).await)
    }

    async fn device_named(&self, user: &UserId, device: &str) -> std::result::Result<(), store::Error> {
        if device.len() > DEVICE_ID_BYTES_MAX {
            return Ok(());
        }
        self.note(self.users.remote_device_named(user, device).await)
    }
}

/// An update, unless it has another form.
fn update(user: &UserId, content: &Object) -> Option<RemoteUpdate> {
    let device_id = content.get("device_id").and_then(Json::as_str)?;
    let stream_id = content.get("stream_id").and_then(Json::as_i64)?;
    let prev_ids = content.get("prev_id").and_then(Json::as_array).unwrap_or_default();
    let deleted = content.get("deleted").and_then(Json::as_bool).unwrap_or(false);
    let device = match content.get("keys") {
        Some(keys) if !deleted && !keys.is_null() => Some(device(user, device_id, keys, content)?),
        _ => None,
    };
    if device_id.len() > DEVICE_ID_BYTES_MAX || prev_ids.len() > PREV_IDS_MAX {
        return None;
    }
    let prev_ids = prev_ids.iter().map(Json::as_i64).collect::<Option<_>>()?;
    Some(RemoteUpdate { stream_id, prev_ids, device_id: device_id.to_owned(), device })
}

/// A whole list, unless it has another form. Devices whose keys name another user or device are passed over.
fn list(user: &UserId, answer: &Object) -> Option<RemoteList> {
    if answer.get("user_id").and_then(Json::as_str) != Some(user.as_str()) {
        return None;
    }
    let told = answer.get("devices").and_then(Json::as_array)?;
    let devices = told.iter().filter_map(Json::as_object).filter_map(|one| {
        let id = one.get("device_id").and_then(Json::as_str).filter(|id| id.len() <= DEVICE_ID_BYTES_MAX)?;
        Some((id.to_owned(), device(user, id, one.get("keys")?, one)?))
    });
    Some(RemoteList {
        stream_id: answer.get("stream_id").and_then(Json::as_i64)?,
        devices: devices.collect(),
        master: cross_signing_key(user, answer.get("master_key")),
        self_signing: cross_signing_key(user, answer.get("self_signing_key")),
    })
}

/// A device whose keys are its own.
fn device(user: &UserId, id: &str, keys: &Json, told: &Object) -> Option<RemoteDevice> {
    let names = |member: &str, name: &str| keys.get(member).and_then(Json::as_str) == Some(name);
    if !names("user_id", user.as_str()) || !names("device_id", id) {
        return None;
    }
    let display_name = told.get("device_display_name").and_then(Json::as_str);
    let display_name = display_name.filter(|name| name.len() <= NAME_BYTES_MAX).map(str::to_owned);
    Some(RemoteDevice { keys: text(keys)?, display_name })
}

fn cross_signing_key(user: &UserId, key: Option<&Json>) -> Option<String> {
    key.filter(|key| key.get("user_id").and_then(Json::as_str) == Some(user.as_str())).and_then(text)
}

fn text(key: &Json) -> Option<String> {
    let text = key.to_canonical_string();
    (key.as_object().is_some() && text.len() <= KEY_BYTES_MAX).then_some(text)
}
