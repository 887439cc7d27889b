//! `GET /_matrix/client/v3/capabilities`

use axum::extract;
use axum::routing::get;
use axum::{Json, Router};
use endpoint::{GuestRequester, Requester};
use serde_json::{Value, json};

use crate::{Options, Routes, State};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/capabilities", get(capabilities))
}

async fn capabilities(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
) -> Json<Value> {
    let login_tokens = state.users.options().login_tokens;
    let mut capabilities = of(&requester, &state.options, login_tokens);
    // MSC4452, under the name that it has as a proposal.
    let previews = state.previews.is_some() && !requester.guest;
    capabilities["io.element.msc4452.preview_url"] = json!({ "enabled": previews });
    // Sessions of the OAuth API cannot prove who they are here, as adding an address demands.
    let addresses = state.users.options().email.is_some() && !requester.guest && !requester.oauth;
    capabilities["m.3pid_changes"] = json!({ "enabled": addresses });
    let limits = state.rooms.options();
    if limits.delayed_max > 0 {
        let mut delays = json!({ "max_scheduled": limits.delayed_max });
        if limits.delay_ms_max < i64::MAX {
            delays["max_delay_ms"] = limits.delay_ms_max.into();
        }
        // Under the name of the proposal too, by which clients look for it.
        capabilities["org.matrix.msc4140.delayed_events"] = delays.clone();
        capabilities["m.delayed_events"] = delays;
    }
    Json(json!({ "capabilities": capabilities }))
}

fn of(requester: &Requester, options: &Options, login_tokens: bool) -> Value {
    let user = !requester.guest;
    let versions: serde_json::Map<String, Value> =
        event::SUPPORTED_VERSIONS.iter().map(|version| ((*version).to_owned(), "stable".into())).collect();
    let mut capabilities = json!({
        "m.room_versions": { "default": options.default_room_version, "available": versions },
        "m.change_password": { "enabled": user },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": user },
        "m.get_login_token": { "enabled": user && login_tokens },
        // The same, as it was called in the proposal (MSC3882).
        "org.matrix.msc3882.get_login_token": { "enabled": user && login_tokens },
        "m.profile_fields": { "enabled": user },
        "m.forget_forced_upon_leave": { "enabled": false },
    });
    if requester.admin {
        capabilities["m.account_moderation"] = json!({ "suspend": true, "lock": true });
    }
    capabilities
}
