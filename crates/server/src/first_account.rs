//! `/_hearth/first-account`: the page behind the one-time link that is printed while no account exists.
//!
//! Whoever opens it makes the first account, an administrator's, and names the server if the configuration does not. The
//! link dies with the first account, also with one that was made otherwise.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use endpoint::page::{escape, page};
use endpoint::{ClientAddress, Door, Error, RateClass, query};
use http::StatusCode;
use http::header::HOST;
use serde::Deserialize;
use users::Users;
use users::registration::NewAccount;

use crate::listeners::Scheme;

/// Where the page stands.
pub const PATH: &str = "/_hearth/first-account";

/// Bytes that the form may have.
const FORM_BYTES_MAX: usize = 16 * 1024;

/// Characters that the administrator's password needs.
const PASSWORD_CHARS_MIN: usize = 8;

/// Gives the server another name, while it has no users.
#[async_trait]
pub trait Rename: Send + Sync + 'static {
    /// Rebuilds the system under this name, and answers its accounts.
    ///
    /// # Errors
    /// What went wrong; for the log.
    async fn rename(&self, server_name: &str) -> Result<Arc<Users>, String>;
}

/// What the page needs.
#[derive(Clone)]
pub struct FirstAccount {
    /// The accounts.
    pub users: Arc<Users>,
    /// The door, for rate limits.
    pub door: Arc<Door>,
    /// How to name the server; none where the configuration names it.
    pub rename: Option<Arc<dyn Rename>>,
    /// The address under which clients reach the server, if it is configured.
    pub public_base_url: Option<String>,
}

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    token: String,
}

/// What was typed in.
#[derive(Default)]
struct Form {
    username: String,
    password: String,
    server_name: Option<String>,
}

impl axum::extract::FromRef<FirstAccount> for Arc<Door> {
    fn from_ref(state: &FirstAccount) -> Self {
        Arc::clone(&state.door)
    }
}

/// The routes of this file.
pub fn routes(state: FirstAccount) -> Router {
    Router::new().route(PATH, get(show).post(create)).with_state(state)
}

async fn show(
    State(state): State<FirstAccount>,
    client: ClientAddress,
    Query(link): Query<Link>,
) -> Result<Response, Error> {
    state.door.limit_address(RateClass::Registrations, client)?;
    if !state.is_valid(&link.token).await? {
        return Ok(state.dead_link());
    }
    Ok(state.form_page(StatusCode::OK, &Form::default(), None))
}

async fn create(
    State(state): State<FirstAccount>,
    client: ClientAddress,
    Query(link): Query<Link>,
    Extension(scheme): Extension<Scheme>,
    request: Request<Body>,
) -> Result<Response, Error> {
    state.door.limit_address(RateClass::Registrations, client)?;
    if !state.is_valid(&link.token).await? {
        return Ok(state.dead_link());
    }
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost").to_owned();
    let form = read_form(request).await?;
    if form.password.chars().count() < PASSWORD_CHARS_MIN {
        let wrong = format!("The password needs at least {PASSWORD_CHARS_MIN} characters.");
        return Ok(state.form_page(StatusCode::BAD_REQUEST, &form, Some(&wrong)));
    }
    let users = match state.users_under(form.server_name.as_deref()).await? {
        Ok(users) => users,
        Err(wrong) => return Ok(state.form_page(StatusCode::BAD_REQUEST, &form, Some(&wrong))),
    };
    let new = NewAccount {
        localpart: Some(form.username.clone()),
        password: Some(form.password.clone()),
        admin: true,
        ..NewAccount::default()
    };
    match users.register_first(&link.token, new).await {
        Ok(registered) => {
            tracing::info!(user = %registered.user, "the first account has been made");
            let url = state.public_base_url.clone().unwrap_or_else(|| format!("{}://{host}", scheme.0));
            Ok(state.done_page(registered.user.as_str(), &form.username, &url))
        }
        Err(users::Error::Store(error)) => Err(error.into()),
        Err(users::Error::InvalidRegistrationToken) => Ok(state.dead_link()),
        Err(wrong) => Ok(state.form_page(StatusCode::BAD_REQUEST, &form, Some(&wrong.to_string()))),
    }
}

async fn read_form(request: Request<Body>) -> Result<Form, Error> {
    let bytes = endpoint::read_body(request.into_body(), FORM_BYTES_MAX).await?;
    let text = String::from_utf8_lossy(&bytes);
    let mut form = Form::default();
    for (name, value) in query::pairs(&text) {
        match name.as_str() {
            "username" => form.username = value.trim().to_owned(),
            "password" => form.password = value,
            "server_name" => form.server_name = Some(value.trim().to_owned()).filter(|name| !name.is_empty()),
            _ => {}
        }
    }
    Ok(form)
}

impl FirstAccount {
    async fn is_valid(&self, token: &str) -> Result<bool, Error> {
        match self.users.is_first_account_token(token).await {
            Ok(valid) => Ok(valid),
            Err(users::Error::Store(error)) => Err(error.into()),
            Err(cause) => Err(Error::internal(cause)),
        }
    }

    /// The accounts of the server under the wanted name, or what is wrong with the name.
    async fn users_under(&self, wanted: Option<&str>) -> Result<Result<Arc<Users>, String>, Error> {
        let wanted = wanted.filter(|name| *name != self.users.options().server_name);
        let (Some(name), Some(rename)) = (wanted, &self.rename) else { return Ok(Ok(Arc::clone(&self.users))) };
        if !event::ids::is_server_name(name) {
            return Ok(Err("The server name must be a host name, such as example.org.".to_owned()));
        }
        rename.rename(name).await.map(Ok).map_err(Error::internal)
    }

    fn form_page(&self, status: StatusCode, form: &Form, wrong: Option<&str>) -> Response {
        let wrong =
            wrong.map_or(String::new(), |wrong| format!("<p class=\"wrong\" role=\"alert\">{}</p>", escape(wrong)));
        let server_name = form.server_name.as_deref().unwrap_or(&self.users.options().server_name);
        let name = if self.rename.is_some() {
            format!(
                "<label>Server name<input name=\"server_name\" value=\"{}\" required autocomplete=\"off\" \
                 autocapitalize=\"none\" spellcheck=\"false\"></label><p class=\"hint\">The part after the colon in \
                 everybody's id. It can never be changed once this account exists.</p>",
                escape(server_name)
            )
        } else {
            format!("<p class=\"hint\">The account belongs to the server <b>{}</b>.</p>", escape(server_name))
        };
        let body = format!(
            "<h1>The first account</h1><p>It administers this server.</p>{wrong}<form method=\"post\">{name}\
             <label>User name<input name=\"username\" value=\"{}\" required autofocus autocomplete=\"username\" \
             autocapitalize=\"none\" spellcheck=\"false\"></label>\
             <label>Password<input name=\"password\" type=\"password\" required minlength=\"{PASSWORD_CHARS_MIN}\" \
             autocomplete=\"new-password\"></label><button type=\"submit\">Create the account</button></form>",
            escape(&form.username)
        );
        page(status, &body, None)
    }

    fn done_page(&self, user: &str, username: &str, url: &str) -> Response {
        let body = format!(
            "<h1>Done</h1><p>The account <b>{}</b> has been created.</p><p>In a Matrix client, choose to sign in to \
             another server (often “Edit” or “Other homeserver”), and type:</p><dl><dt>Homeserver</dt><dd>{}</dd>\
             <dt>User name</dt><dd>{}</dd><dt>Password</dt><dd>the one you have just chosen</dd></dl>",
            escape(user),
            escape(url),
            escape(&username.to_lowercase())
        );
        page(StatusCode::OK, &body, None)
    }

    fn dead_link(&self) -> Response {
        let body = "<h1>This link is not valid</h1><p>It works once, until the first account exists. While there is \
                    none, the server prints a new link at each start.</p>";
        page(StatusCode::GONE, body, None)
    }
}
