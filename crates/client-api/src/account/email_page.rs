//! `/_hearth/email/confirm`: the page behind the link of a mail. Looking at it confirms nothing, since programs follow the
//! links of mails too; its button does. And `/_hearth/email/unsubscribe`, the same for mails about what is unread, which mail
//! programs press themselves (RFC 8058).

use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, extract};
use endpoint::page::{escape, page};
use endpoint::{ClientAddress, Error, Query, RateClass};
use http::header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use users::email::CONFIRM_PATH;
use users::email::sessions::{Confirmation, Purpose};
use users::email::unsubscribing::UNSUBSCRIBE_PATH;

use crate::{State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .route(CONFIRM_PATH, get(show).post(confirm))
        .route(UNSUBSCRIBE_PATH, get(show_unsubscribing).post(unsubscribe))
}

#[derive(Debug, Deserialize)]
struct Link {
    #[serde(default)]
    sid: String,
    #[serde(default)]
    token: String,
}

async fn show(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Query(link): Query<Link>,
) -> Result<Response, Error> {
    state.door.limit_address(RateClass::Requests, client)?;
    let found = state.users.email_confirmation(&link.sid, &link.token).await.map_err(error_map::users)?;
    Ok(match found {
        None => dead_link(),
        Some(found) if found.confirmed => done(&found),
        Some(found) => question(&found, &state.options.server_name),
    })
}

async fn confirm(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Query(link): Query<Link>,
) -> Result<Response, Error> {
    state.door.limit_address(RateClass::Requests, client)?;
    let found = state.users.confirm_email(&link.sid, &link.token).await.map_err(error_map::users)?;
    let Some(found) = found else { return Ok(dead_link()) };
    let Some(next) = found.next_link.as_deref().and_then(|next| HeaderValue::from_str(next).ok()) else {
        return Ok(done(&found));
    };
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(LOCATION, next);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

async fn show_unsubscribing(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Query(link): Query<Link>,
) -> Result<Response, Error> {
    state.door.limit_address(RateClass::Requests, client)?;
    let Some(address) = state.users.unsubscription(&link.token).await.map_err(error_map::users)? else {
        return Ok(dead_link());
    };
    let body = format!(
        "<h1>No more mails?</h1><p>Then nothing that is unread is told to <b>{}</b> any more.</p>\
         <form method=\"post\"><button type=\"submit\">No more mails</button></form>",
        escape(&address)
    );
    Ok(page(StatusCode::OK, &body, None))
}

async fn unsubscribe(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Query(link): Query<Link>,
) -> Result<Response, Error> {
    state.door.limit_address(RateClass::Requests, client)?;
    let Some(address) = state.users.unsubscribe(&link.token).await.map_err(error_map::users)? else {
        return Ok(dead_link());
    };
    let body = format!("<h1>Done</h1><p>Nothing that is unread is told to <b>{}</b> any more.</p>", escape(&address));
    Ok(page(StatusCode::OK, &body, None))
}

fn question(found: &Confirmation, server_name: &str) -> Response {
    let (address, server) = (escape(&found.address), escape(server_name));
    let account = found
        .user
        .as_deref()
        .map_or_else(|| "an account".to_owned(), |user| format!("the account <b>{}</b>", escape(user)));
    let asked = match found.purpose {
        Purpose::Register => format!("an account on <b>{server}</b> be made with the address <b>{address}</b>"),
        Purpose::Add => format!("the address <b>{address}</b> be added to {account} on <b>{server}</b>"),
        Purpose::Reset => format!("a new password be set for {account}, whose address is <b>{address}</b>"),
    };
    let warning = match found.purpose {
        Purpose::Reset => "Whoever asked can then sign in to the account.",
        Purpose::Register | Purpose::Add => "Nothing happens then.",
    };
    let otherwise = match found.purpose {
        Purpose::Reset => format!("If that was not you, close this page and do not confirm. {warning}"),
        Purpose::Register | Purpose::Add => format!("If that was not you, close this page. {warning}"),
    };
    let body = format!(
        "<h1>Is this you?</h1><p>Somebody has asked that {asked}.</p><p>{otherwise}</p>\
         <form method=\"post\"><button type=\"submit\">Yes, confirm</button></form>"
    );
    page(StatusCode::OK, &body, found.next_link.as_deref().and_then(origin))
}

fn done(found: &Confirmation) -> Response {
    let body = format!(
        "<h1>Confirmed</h1><p>The address <b>{}</b> is confirmed. Go back to where you began, and continue there.</p>",
        escape(&found.address)
    );
    page(StatusCode::OK, &body, None)
}

fn dead_link() -> Response {
    let body = "<h1>This link is not valid</h1><p>It may be too old, or what it was for is done. Ask for another mail \
                where you began.</p>";
    page(StatusCode::GONE, body, None)
}

/// The part of an address to which a form may lead on.
fn origin(link: &str) -> Option<&str> {
    let authority_at = link.find("://")? + 3;
    let end = link.get(authority_at..)?.find(['/', '?', '#']).map_or(link.len(), |at| authority_at + at);
    link.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_ends_before_the_path() {
        let check = |link: &str, expect: Option<&str>| assert_eq!(origin(link), expect, "{link}");
        check("https://app.example.org/#/register", Some("https://app.example.org"));
        check("https://app.example.org:8443?x", Some("https://app.example.org:8443"));
        check("https://app.example.org", Some("https://app.example.org"));
        check("nothing", None);
    }
}
