//! What handlers are given: the rooms below, the door, and the options of this API.

use std::sync::Arc;

use axum::extract::FromRef;
use endpoint::Door;
use store::Store;

/// The rooms of the server. Cheap to clone.
#[derive(Clone)]
pub struct State {
    /// The store.
    pub store: Store,
    /// Accounts and all that belongs to a user.
    pub users: Arc<users::Users>,
    /// The room engine.
    pub rooms: Arc<rooms::Rooms>,
    /// What is new for whom.
    pub sync: Arc<::sync::Sync>,
    /// The search index.
    pub search: Arc<::search::Search>,
    /// The time.
    pub clock: Arc<dyn store::Clock>,
    /// The media store.
    pub media: media::Media,
    /// Previews of URLs; none where they are switched off.
    pub previews: Option<media::previews::Previews>,
    /// Who asks, and may they.
    pub door: Arc<Door>,
    /// Other servers; none where this server does not federate.
    pub remote: Option<Arc<federation::Remote>>,
    /// The options.
    pub options: Arc<Options>,
}

/// The options of the client-server API.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's name.
    pub server_name: String,
    /// The room version of new rooms.
    pub default_room_version: String,
    /// The address under which clients reach the server, for `.well-known/matrix/client`.
    pub public_base_url: Option<String>,
    /// Whom `.well-known/matrix/support` names.
    pub support_contacts: Vec<SupportContact>,
    /// The page that `.well-known/matrix/support` names.
    pub support_page: Option<String>,
    /// The public key of the policy server that bears this server's name, as unpadded base64, for
    /// `.well-known/matrix/policy_server`.
    pub policy_server_key: Option<String>,
    /// Addresses of services that let clients into calls over LiveKit, the preferred first.
    pub livekit_urls: Vec<String>,
    /// Whether push gateways may be reached over `http`, without TLS.
    pub http_push_gateways: bool,
}

/// Somebody who answers for the server.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SupportContact {
    /// A Matrix user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matrix_id: Option<String>,
    /// An e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_address: Option<String>,
    /// `m.role.admin` or `m.role.security`.
    pub role: String,
}

impl FromRef<State> for Arc<Door> {
    fn from_ref(state: &State) -> Self {
        Arc::clone(&state.door)
    }
}

impl FromRef<State> for Store {
    fn from_ref(state: &State) -> Self {
        state.store.clone()
    }
}

impl FromRef<State> for media::Media {
    fn from_ref(state: &State) -> Self {
        state.media.clone()
    }
}

impl FromRef<State> for Arc<Options> {
    fn from_ref(state: &State) -> Self {
        Arc::clone(&state.options)
    }
}
