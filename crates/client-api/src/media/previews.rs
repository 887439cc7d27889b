//! `GET /_matrix/client/v1/media/preview_url` and its predecessor (`data/api/client-server/authed-content-repo.yaml`,
//! `content-repo.yaml`).

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use endpoint::{Error, Query, RateClass, Requester};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{CLIENT_MEDIA, MEDIA, refused};

/// The routes of this file.
pub fn routes() -> Router<crate::State> {
    let authenticated = Router::new().route(&format!("{CLIENT_MEDIA}/preview_url"), get(preview));
    MEDIA.iter().fold(authenticated, |router, prefix| router.route(&format!("{prefix}/preview_url"), get(preview)))
}

/// The parameters.
#[derive(Debug, Deserialize)]
struct Parameters {
    url: String,
    ts: Option<i64>,
}

async fn preview(
    requester: Requester,
    State(state): State<crate::State>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Map<String, Value>>, Error> {
    // What MSC4452 asks for; the specification itself names no code.
    let previews = state.previews.as_ref().ok_or_else(|| Error::forbidden("This server makes no previews of URLs."))?;
    state.door.limit(RateClass::Previews, &requester)?;
    let found = previews.preview(&requester.user_id, &parameters.url, parameters.ts).await;
    found.map(Json).map_err(refused)
}
