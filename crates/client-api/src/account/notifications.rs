//! `GET /_matrix/client/v3/notifications`
//! (<https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3notifications>; behaviour CP10).

use axum::routing::get;
use axum::{Router, extract};
use endpoint::{Error, Query, Requester};
use serde::Deserialize;
use serde_json::{Value, json};
use sync::notifications::{Notification, Page};

use crate::json_text::JsonText;
use crate::room::access::Reader;
use crate::room::message_pagination::heeds;
use crate::{Routes, State, error_map};

/// Notifications of a page, where the client does not say.
const LIMIT_DEFAULT: u64 = 20;
/// Most notifications of a page.
const LIMIT_MAX: u64 = 100;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/notifications", get(notifications))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    from: Option<String>,
    limit: Option<u64>,
    only: Option<String>,
}

async fn notifications(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Query(parameters): Query<Parameters>,
) -> Result<JsonText, Error> {
    let limit = parameters.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let query = sync::notifications::Query {
        from: parameters.from.filter(|from| !from.is_empty()),
        limit: usize::try_from(limit).unwrap_or(1),
        only_highlights: parameters.only.as_deref() == Some("highlight"),
    };
    let page = state.sync.notifications(&requester.user_id, &query).await.map_err(error_map::sync)?;
    let Page { notifications, next } = page;
    let mut shown = Vec::new();
    for notification in &notifications {
        shown.extend(render(&state, &requester, notification).await?);
    }
    Ok(JsonText::object().list("notifications", &shown).optional("next_token", next))
}

/// A notification as JSON text; none if the event may not be seen, or comes from somebody who is ignored by now.
async fn render(state: &State, requester: &Requester, one: &Notification) -> Result<Option<String>, Error> {
    let mut reader = Reader::new(state, &one.room, requester).await?;
    let event = reader.viewer.view(one.event.clone()).await.map_err(error_map::rooms)?;
    let Some(event) = event.filter(|event| heeds(reader.ignored(), event)) else { return Ok(None) };
    let text = reader.render(std::slice::from_ref(&event)).await?.concat();
    let notification = JsonText::object()
        .value("actions", actions(one.highlight))
        .raw("event", &text)
        .value("read", one.read)
        .value("room_id", one.room.id.as_str())
        .value("ts", event.row.ts);
    Ok(Some(notification.text()))
}

/// What the rules said when the event came. Sounds are not kept.
fn actions(highlight: bool) -> Value {
    match highlight {
        true => json!(["notify", { "set_tweak": "highlight", "value": true }]),
        false => json!(["notify"]),
    }
}
