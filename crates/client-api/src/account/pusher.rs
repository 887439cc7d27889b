//! `GET /_matrix/client/v3/pushers`, `POST /_matrix/client/v3/pushers/set`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset>; behaviours CP7, CP9).

use axum::routing::{get, post};
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, RateClass, Requester, error};
use http::Uri;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use store::UserId;
use store::tables::users::PusherRow;
use users::email::unsubscribing::APP;
use users::pushers::ENABLED;

use crate::{Routes, State, error_map};

/// Bytes that the address of a gateway may have.
const URL_BYTES_MAX: usize = 2_048;
/// The one path of push gateways.
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/pushers", get(list)).client("/pushers/set", post(set))
}

async fn list(extract::State(state): extract::State<State>, requester: Requester) -> Result<Json<Value>, Error> {
    let rows = state.users.pushers(&requester.user_id).await.map_err(error_map::users)?;
    Ok(Json(json!({ "pushers": rows.iter().filter_map(shown).collect::<Vec<_>>() })))
}

/// A pusher with what MSC3881 adds.
fn shown(row: &PusherRow) -> Option<Value> {
    let mut pusher: Map<String, Value> = serde_json::from_str(&row.pusher).ok()?;
    let enabled = pusher.get(ENABLED).and_then(Value::as_bool).unwrap_or(true);
    pusher.insert(ENABLED.to_owned(), enabled.into());
    pusher.insert("device_id".to_owned(), row.device_id.as_str().into());
    pusher.insert("org.matrix.msc3881.enabled".to_owned(), enabled.into());
    pusher.insert("org.matrix.msc3881.device_id".to_owned(), row.device_id.as_str().into());
    Some(pusher.into())
}

#[derive(Debug, Deserialize)]
struct Body {
    app_id: Option<String>,
    pushkey: Option<String>,
    /// Null deletes the pusher; missing is a mistake.
    #[serde(default, deserialize_with = "given")]
    kind: Option<Option<String>>,
    app_display_name: Option<String>,
    device_display_name: Option<String>,
    profile_tag: Option<String>,
    lang: Option<String>,
    data: Option<Map<String, Value>>,
    #[serde(default)]
    append: bool,
    enabled: Option<bool>,
    #[serde(rename = "org.matrix.msc3881.enabled")]
    unstable_enabled: Option<bool>,
}

/// A member that is there, be it null.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

async fn set(
    extract::State(state): extract::State<State>,
    requester: Requester,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::Requests, &requester)?;
    let (users, user) = (&state.users, &requester.user_id);
    let (app_id, pushkey) = (needed("app_id", &body.app_id)?, needed("pushkey", &body.pushkey)?);
    let Some(kind) = body.kind.as_ref().ok_or_else(|| Error::missing_param("kind"))? else {
        users.delete_pusher(user, app_id, pushkey).await.map_err(error_map::users)?;
        return Ok(error::empty());
    };
    let pusher = match kind.as_str() {
        "email" => by_mail(&state, user, &body, (app_id, pushkey)).await?,
        _ => checked(&body, kind, (app_id, pushkey), state.options.http_push_gateways)?,
    };
    let pusher = pusher.to_string();
    let device = requester.device()?;
    users.put_pusher(user, device, app_id, pushkey, pusher, body.append).await.map_err(error_map::users)?;
    Ok(error::empty())
}

/// A member that the specification calls missing, not bad, where it is not there.
fn needed<'a>(name: &str, value: &'a Option<String>) -> Result<&'a str, Error> {
    value.as_deref().ok_or_else(|| Error::missing_param(name))
}

/// The pusher as it is kept, if all that a new one needs is there.
fn checked(body: &Body, kind: &str, (app_id, pushkey): (&str, &str), http: bool) -> Result<Value, Error> {
    if kind != "http" {
        return Err(Error::invalid_param("The `kind` of a pusher is `http` or `email`."));
    }
    let data = body.data.as_ref().ok_or_else(|| Error::missing_param("data"))?;
    let url = data.get("url").ok_or_else(|| Error::missing_param("data.url"))?;
    check_url(url.as_str().ok_or_else(|| Error::bad_json("`data.url` is a string."))?, http)?;
    if data.get("format").is_some_and(|format| !format.is_string()) {
        return Err(Error::bad_json("`data.format` is a string."));
    }
    kept(body, kind, (app_id, pushkey), data)
}

/// A pusher that sends mail, to an address of the user's own alone.
async fn by_mail(state: &State, user: &UserId, body: &Body, (app_id, pushkey): (&str, &str)) -> Result<Value, Error> {
    if !state.users.sends_mail() {
        return Err(Error::invalid_param("This server sends no e-mail, so it has no pushers of the `kind` `email`."));
    }
    if app_id != APP {
        return Err(Error::invalid_param(format!("The `app_id` of a pusher of the `kind` `email` is `{APP}`.")));
    }
    if state.users.mailbox_of(user, pushkey).await.map_err(error_map::users)?.is_none() {
        return Err(Error::threepid_not_found());
    }
    kept(body, "email", (app_id, pushkey), &body.data.clone().unwrap_or_default())
}

fn kept(body: &Body, kind: &str, (app_id, pushkey): (&str, &str), data: &Map<String, Value>) -> Result<Value, Error> {
    let mut pusher = json!({
        "app_id": app_id,
        "pushkey": pushkey,
        "kind": kind,
        "app_display_name": needed("app_display_name", &body.app_display_name)?,
        "device_display_name": needed("device_display_name", &body.device_display_name)?,
        "lang": needed("lang", &body.lang)?,
        "data": data,
        "enabled": body.enabled.or(body.unstable_enabled).unwrap_or(true),
    });
    if let Some(tag) = &body.profile_tag {
        pusher["profile_tag"] = tag.as_str().into();
    }
    Ok(pusher)
}

/// Gateways are reached over `https` by one path; where `http` is allowed, over that too.
fn check_url(url: &str, http: bool) -> Result<(), Error> {
    if url.len() > URL_BYTES_MAX {
        return Err(Error::invalid_param(format!("`data.url` may have {URL_BYTES_MAX} bytes.")));
    }
    let uri: Uri = url.parse().map_err(|_| Error::invalid_param("`data.url` is no URL."))?;
    let secure = uri.scheme_str() == Some("https") || (http && uri.scheme_str() == Some("http"));
    if !secure || uri.host().is_none_or(str::is_empty) {
        return Err(Error::invalid_param("`data.url` begins with `https://` and the name of a host."));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Error::invalid_param("`data.url` has neither user nor password."));
    }
    if uri.path() != GATEWAY_PATH {
        return Err(Error::invalid_param(format!("The path of `data.url` is `{GATEWAY_PATH}`.")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cp9_gateways_are_https_and_have_one_path() {
        assert!(check_url("https://push.example.org/_matrix/push/v1/notify", false).is_ok());
        assert!(check_url("https://push.example.org:8443/_matrix/push/v1/notify", false).is_ok());
        assert!(check_url("http://push.example.org/_matrix/push/v1/notify", true).is_ok());
        let long = format!("https://push.example.org/_matrix/push/v1/notify?{}", "x".repeat(URL_BYTES_MAX));
        for bad in [
            &long,
            "https://user:password@push.example.org/_matrix/push/v1/notify",
            "https:///_matrix/push/v1/notify",
            "ftp://push.example.org/_matrix/push/v1/notify",
            "http://push.example.org/_matrix/push/v1/notify",
            "https://push.example.org/notify",
            "/_matrix/push/v1/notify",
            "not a url",
        ] {
            assert!(check_url(bad, false).is_err(), "{bad}");
        }
    }
}
