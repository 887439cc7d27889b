//! `GET /_matrix/client/v3/pushers`, `POST /_matrix/client/v3/pushers/set`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset>; behaviours CP7, CP9).

use axum::routing::{get, post};
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, RateClass, Requester, error};
use http::Uri;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::{Routes, State, error_map};

/// The one path of push gateways.
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/pushers", get(list)).client("/pushers/set", post(set))
}

async fn list(extract::State(state): extract::State<State>, requester: Requester) -> Result<Json<Value>, Error> {
    let rows = state.users.pushers(&requester.user_id).await.map_err(error_map::users)?;
    let pushers: Vec<Value> = rows.iter().filter_map(|row| serde_json::from_str(&row.pusher).ok()).collect();
    Ok(Json(json!({ "pushers": pushers })))
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
    let pusher = checked(&body, kind, app_id, pushkey)?.to_string();
    let device = requester.device()?;
    users.put_pusher(user, device, app_id, pushkey, pusher, body.append).await.map_err(error_map::users)?;
    Ok(error::empty())
}

/// A member that the specification calls missing, not bad, where it is not there.
fn needed<'a>(name: &str, value: &'a Option<String>) -> Result<&'a str, Error> {
    value.as_deref().ok_or_else(|| Error::missing_param(name))
}

/// The pusher as it is kept, if all that a new one needs is there.
fn checked(body: &Body, kind: &str, app_id: &str, pushkey: &str) -> Result<Value, Error> {
    if kind != "http" {
        return Err(Error::invalid_param("The only `kind` of pusher is `http`."));
    }
    let data = body.data.as_ref().ok_or_else(|| Error::missing_param("data"))?;
    let url = data.get("url").ok_or_else(|| Error::missing_param("data.url"))?;
    check_url(url.as_str().ok_or_else(|| Error::bad_json("`data.url` is a string."))?)?;
    if data.get("format").is_some_and(|format| !format.is_string()) {
        return Err(Error::bad_json("`data.format` is a string."));
    }
    let mut pusher = json!({
        "app_id": app_id,
        "pushkey": pushkey,
        "kind": kind,
        "app_display_name": needed("app_display_name", &body.app_display_name)?,
        "device_display_name": needed("device_display_name", &body.device_display_name)?,
        "lang": needed("lang", &body.lang)?,
        "data": data,
    });
    if let Some(tag) = &body.profile_tag {
        pusher["profile_tag"] = tag.as_str().into();
    }
    Ok(pusher)
}

fn check_url(url: &str) -> Result<(), Error> {
    let uri: Uri = url.parse().map_err(|_| Error::invalid_param("`data.url` is no URL."))?;
    if uri.scheme_str() != Some("https") || uri.host().is_none() {
        return Err(Error::invalid_param("`data.url` begins with `https://`."));
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
        assert!(check_url("https://push.example.org/_matrix/push/v1/notify").is_ok());
        for bad in [
            "http://push.example.org/_matrix/push/v1/notify",
            "https://push.example.org/notify",
            "/_matrix/push/v1/notify",
            "not a url",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
