//! Accounts and what belongs to one user: every route whose subject is the requester, one file per thing that the
//! specification names.

mod account_data;
mod account_deactivation;
mod admin;
mod administrative_contact;
mod cross_signing;
mod dehydrated_device;
mod devices;
mod email_page;
mod filter;
pub mod jobs;
mod key_backup;
mod keys;
mod login;
mod login_token;
mod logout;
mod notifications;
mod openid;
mod password_management;
mod presence;
mod profile;
mod pusher;
mod pushrules;
mod read_markers;
mod receipts;
mod refresh;
mod registration;
mod registration_tokens;
pub(crate) mod remote_keys;
mod rendezvous;
mod report_content;
mod request_token;
mod shared_secret;
mod tags;
mod to_device;
mod typing;
mod uia;
mod voip;
mod whoami;

use axum::Router;
use endpoint::Error;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::State;

/// The routes of all files.
pub fn routes() -> Router<State> {
    let all = [
        account_data::routes(),
        account_deactivation::routes(),
        admin::routes(),
        administrative_contact::routes(),
        cross_signing::routes(),
        dehydrated_device::routes(),
        devices::routes(),
        email_page::routes(),
        filter::routes(),
        key_backup::routes(),
        keys::routes(),
        login::routes(),
        login_token::routes(),
        logout::routes(),
        notifications::routes(),
        openid::routes(),
        password_management::routes(),
        presence::routes(),
        profile::routes(),
        pusher::routes(),
        pushrules::routes(),
        read_markers::routes(),
        receipts::routes(),
        refresh::routes(),
        registration::routes(),
        registration_tokens::routes(),
        rendezvous::routes(),
        report_content::routes(),
        shared_secret::routes(),
        tags::routes(),
        to_device::routes(),
        typing::routes(),
        voip::routes(),
        whoami::routes(),
    ];
    all.into_iter().fold(Router::new(), Router::merge)
}

/// A body that was read whole, for the sake of user-interactive authentication, as its own type.
///
/// # Errors
/// `M_BAD_JSON`, also for an `auth` of the wrong shape.
fn typed<T: DeserializeOwned>(body: &Map<String, Value>) -> Result<T, Error> {
    uia::check_shape(body.get("auth"))?;
    endpoint::body::from_value(Value::Object(body.clone()))
}
