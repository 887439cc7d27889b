//! User-interactive authentication: a request is repeated with proofs, stage by stage, until a flow is complete
//! (client-server API, "User-Interactive Authentication API"; behaviours CA1, CA2).
//!
//! A session belongs to one operation (method, path, body) of one account, and keeps which stages were completed, never
//! what completed them. Where there is no account yet, at registration, the body is bound by the first completed stage
//! only: clients ask for the flows with an empty body first.

use serde_json::{Map, Value as Json};
use store::clock::random_text;
use store::tables::users::{
    CrossSigningResetRow, LoginTokenRow, OpenIdTokenRow, ToDeviceTransactionRow, UiaSessionRow,
};
use store::{CommitBatch, Read, UserId, Value};

use crate::email::sessions::Purpose;
use crate::{Error, RETRIES_MAX, SessionKind, Users, email, secret};

/// How long a session lives, in milliseconds.
const SESSION_MS: i64 = 15 * 60 * 1_000;
/// How long a transaction id of to-device messages is remembered, in milliseconds.
const TRANSACTION_MS: i64 = 24 * 60 * 60 * 1_000;
/// How long a user's leave to reset cross-signing holds, in milliseconds.
const RESET_MS: i64 = 10 * 60 * 1_000;
const SESSION_LENGTH: usize = 24;
/// Expired rows of a kind that are removed at a time.
const PRUNED_MAX: u32 = 1_000;

/// The password of the account.
pub const PASSWORD: &str = "m.login.password";
/// A registration token.
pub const REGISTRATION_TOKEN: &str = "m.login.registration_token";
/// Nothing at all.
pub const DUMMY: &str = "m.login.dummy";

/// An e-mail address, confirmed by a link in a mail.
pub const EMAIL: &str = "m.login.email.identity";

/// The user's leave, given on the account-management page.
pub const OAUTH: &str = "m.oauth";
/// [`OAUTH`] under the name that it had as a proposal (MSC4312).
pub const OAUTH_UNSTABLE: &str = "org.matrix.cross_signing_reset";

/// Stages in their order, all of which are to be completed.
pub type Flow = &'static [&'static str];

/// The request that is to be authenticated.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Path, as the client wrote it.
    pub path: &'a str,
    /// The whole body; its member `auth` is looked at here.
    pub body: &'a Map<String, Json>,
    /// Whose token came with it.
    pub user: Option<&'a UserId>,
    /// By which API the token's session began.
    pub kind: SessionKind,
    /// What an e-mail address is confirmed for, where a flow asks for that.
    pub email: Option<Purpose>,
}

/// What user-interactive authentication says.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// A flow is complete: go on.
    Proven(Proof),
    /// Not yet: 401 with this.
    Challenge(Challenge),
}

/// A complete flow. Registration hands it on, to settle the token; elsewhere it can be dropped.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    pub(crate) session: Option<String>,
    pub(crate) registration_token: Option<String>,
    pub(crate) email_session: Option<String>,
}

/// What the client is told while the flow is not complete.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// The flows of which one is to be completed.
    pub flows: Vec<Flow>,
    /// What clients need to know for some stages, by stage.
    pub params: Map<String, Json>,
    /// The session to name in the next request.
    pub session: String,
    /// The stages that are complete.
    pub completed: Vec<String>,
    /// Why the stage of this request failed, if it did.
    pub failure: Option<Failure>,
}

/// Why a stage failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The password is wrong.
    WrongPassword,
    /// The registration token is not valid.
    WrongToken,
    /// No flow goes on with this stage.
    WrongStage,
    /// The account is deactivated.
    Deactivated,
    /// The user has not allowed it on the account-management page, or not lately.
    NotAllowedYet,
    /// The e-mail address has not been confirmed.
    NotConfirmedYet,
    /// There is no such session in which an address is confirmed, or its secret is another.
    UnknownEmailSession,
    /// A member of `auth` is missing or of another type.
    Missing(&'static str),
}

/// What one stage has proven.
#[derive(Default)]
struct StageOutcome {
    registration_token: Option<String>,
    email_session: Option<String>,
}

impl Challenge {
    /// The members of the answer, as the specification has them.
    pub fn members(&self) -> Map<String, Json> {
        let flows = self.flows.iter().map(|stages| serde_json::json!({ "stages": stages })).collect::<Vec<_>>();
        let mut members = Map::new();
        members.insert("flows".to_owned(), flows.into());
        members.insert("params".to_owned(), Json::Object(self.params.clone()));
        members.insert("session".to_owned(), self.session.clone().into());
        members.insert("completed".to_owned(), self.completed.clone().into());
        members
    }
}

impl Users {
    /// Takes the request's `auth` one stage further. The whole engine of user-interactive authentication.
    ///
    /// # Errors
    /// [`Error::UnknownToken`] if the session is unknown, expired or another's; [`Error::NotYourIdentity`] if the
    /// password is another user's (CA2) or the session belongs to another operation; [`Error::AccountPageOnly`] for a
    /// session of the OAuth API, unless the flows are its own and there is such a page (CA12).
    pub async fn interactive(&self, flows: &[Flow], operation: Operation<'_>) -> Result<Verdict, Error> {
        let by_page = flows.iter().all(|flow| flow.iter().all(|stage| is_oauth(stage)));
        if operation.kind == SessionKind::OAuth && !(by_page && self.options.account_management_url.is_some()) {
            return Err(Error::AccountPageOnly);
        }
        for _ in 0..RETRIES_MAX {
            match self.interactive_once(flows, operation).await {
                Err(Error::Conflict) => {}
                verdict => return verdict,
            }
        }
        Err(Error::Conflict)
    }

    async fn interactive_once(&self, flows: &[Flow], operation: Operation<'_>) -> Result<Verdict, Error> {
        let auth = operation.body.get("auth").and_then(Json::as_object);
        let named = auth.and_then(|auth| auth.get("session")).and_then(Json::as_str);
        let (mut row, stored) = match named {
            Some(session) => (self.uia_session(flows, session, operation).await?, true),
            None => (self.new_uia_session(flows, operation), false),
        };
        // A registration that failed after its flow was complete may be tried again.
        if stored && is_complete(flows, &stages_of(&row)) {
            return Ok(Verdict::Proven(Proof {
                session: Some(row.session),
                registration_token: row.registration_token,
                email_session: row.email_session,
            }));
        }
        let mut completed = stages_of(&row);
        let stage = auth.and_then(|auth| auth.get("type")).and_then(Json::as_str);
        // A stage that is completed elsewhere is shown by naming the session alone.
        let stage = stage.or_else(|| next_stages(flows, &completed).find(|next| stored && is_oauth(next)));
        let (Some(auth), Some(stage)) = (auth, stage) else {
            if !stored {
                self.keep_uia_session(CommitBatch::new(), row.clone(), None).await?;
            }
            return Ok(self.challenge(flows, &row, None));
        };
        let before = stored.then(|| row.clone());
        let mut batch = CommitBatch::new();
        let outcome = if next_stages(flows, &completed).any(|next| next == stage) {
            self.try_stage(&mut batch, stage, auth, operation).await?
        } else {
            Err(Failure::WrongStage)
        };
        let proven = match outcome {
            Ok(proven) => proven,
            Err(failure) => {
                if !stored {
                    self.keep_uia_session(CommitBatch::new(), row.clone(), None).await?;
                }
                return Ok(self.challenge(flows, &row, Some(failure)));
            }
        };
        completed.push(stage.to_owned());
        row.body_hash = Some(body_hash(operation.body));
        row.registration_token = row.registration_token.or(proven.registration_token);
        row.email_session = row.email_session.or(proven.email_session);
        let done = is_complete(flows, &completed);
        row.completed = Json::from(completed).to_string();
        if done {
            return self.finish_uia_session(batch, row, before).await.map(Verdict::Proven);
        }
        self.keep_uia_session(batch, row.clone(), before).await?;
        Ok(self.challenge(flows, &row, None))
    }

    fn challenge(&self, flows: &[Flow], row: &UiaSessionRow, failure: Option<Failure>) -> Verdict {
        let mut params = Map::new();
        let page = self.options.account_management_url.as_deref().unwrap_or_default();
        for stage in flows.iter().copied().flatten().filter(|stage| is_oauth(stage)) {
            params.insert((*stage).to_owned(), serde_json::json!({ "url": with_action(page, OAUTH_UNSTABLE) }));
        }
        let (flows, session, completed) = (flows.to_vec(), row.session.clone(), stages_of(row));
        Verdict::Challenge(Challenge { flows, params, session, completed, failure })
    }

    fn new_uia_session(&self, flows: &[Flow], operation: Operation<'_>) -> UiaSessionRow {
        // Mails are slow, and so are people who read them.
        let by_mail = flows.iter().any(|flow| flow.contains(&EMAIL));
        let lifetime_ms = if by_mail { email::sessions::SESSION_MS } else { SESSION_MS };
        UiaSessionRow {
            session: random_text(&*self.entropy, SESSION_LENGTH),
            user_id: operation.user.map(ToString::to_string).unwrap_or_default(),
            operation: format!("{} {}", operation.method, operation.path),
            body_hash: operation.user.map(|_| body_hash(operation.body)),
            completed: "[]".to_owned(),
            registration_token: None,
            email_session: None,
            expires_ms: self.now() + lifetime_ms,
        }
    }

    async fn uia_session(
        &self,
        flows: &[Flow],
        session: &str,
        operation: Operation<'_>,
    ) -> Result<UiaSessionRow, Error> {
        let row: Option<UiaSessionRow> = self.store.get(vec![Value::from(session)]).await?;
        let row = row.filter(|row| row.expires_ms > self.now()).ok_or(Error::UnknownToken)?;
        let fresh = self.new_uia_session(flows, operation);
        let same_body = row.body_hash.is_none() || row.body_hash == Some(body_hash(operation.body));
        if row.user_id != fresh.user_id || row.operation != fresh.operation || !same_body {
            return Err(Error::NotYourIdentity);
        }
        Ok(row)
    }

    async fn keep_uia_session(
        &self,
        mut batch: CommitBatch,
        row: UiaSessionRow,
        before: Option<UiaSessionRow>,
    ) -> Result<(), Error> {
        if let Some(before) = before {
            crate::accounts::expect_unchanged(&mut batch, before);
        }
        batch.put(row);
        self.commit(batch).await.map(drop)
    }

    /// Ends a session whose flow is complete. A registration keeps the session until the account is made, since the
    /// token's pending use hangs on it; so does what a confirmed address is for.
    async fn finish_uia_session(
        &self,
        mut batch: CommitBatch,
        row: UiaSessionRow,
        before: Option<UiaSessionRow>,
    ) -> Result<Proof, Error> {
        if row.registration_token.is_some() || row.email_session.is_some() {
            let proof = Proof {
                session: Some(row.session.clone()),
                registration_token: row.registration_token.clone(),
                email_session: row.email_session.clone(),
            };
            self.keep_uia_session(batch, row, before).await?;
            return Ok(proof);
        }
        if let Some(before) = before {
            let key = vec![Value::from(row.session.as_str())];
            crate::accounts::expect_unchanged(&mut batch, before);
            batch.delete::<UiaSessionRow>(key);
        }
        if !batch.is_empty() {
            self.commit(batch).await?;
        }
        Ok(Proof::default())
    }

    async fn try_stage(
        &self,
        batch: &mut CommitBatch,
        stage: &str,
        auth: &Map<String, Json>,
        operation: Operation<'_>,
    ) -> Result<Result<StageOutcome, Failure>, Error> {
        let user = operation.user;
        match stage {
            DUMMY => Ok(Ok(StageOutcome::default())),
            PASSWORD => self.try_password(auth, user).await,
            EMAIL => self.try_email(auth, operation).await,
            REGISTRATION_TOKEN => {
                let Some(token) = auth.get("token").and_then(Json::as_str) else {
                    return Ok(Err(Failure::Missing("token")));
                };
                let registration_token = self.begin_token_use(batch, token).await?;
                Ok(match registration_token {
                    Some(_) => Ok(StageOutcome { registration_token, ..StageOutcome::default() }),
                    None => Err(Failure::WrongToken),
                })
            }
            OAUTH | OAUTH_UNSTABLE => self.try_page(batch, user).await,
            _ => Ok(Err(Failure::WrongStage)),
        }
    }

    /// The stage that is completed by a link in a mail. What is proven is used up by what it is for, not here.
    async fn try_email(
        &self,
        auth: &Map<String, Json>,
        operation: Operation<'_>,
    ) -> Result<Result<StageOutcome, Failure>, Error> {
        let Some(purpose) = operation.email else { return Ok(Err(Failure::WrongStage)) };
        // The second name is what clients sent before the specification had this.
        let creds = auth.get("threepid_creds").or_else(|| auth.get("threepidCreds"));
        let member = |name: &str| creds.and_then(|creds| creds.get(name)).and_then(Json::as_str);
        let Some(sid) = member("sid") else { return Ok(Err(Failure::Missing("threepid_creds.sid"))) };
        let Some(client_secret) = member("client_secret") else {
            return Ok(Err(Failure::Missing("threepid_creds.client_secret")));
        };
        let proven = self.proven_session(sid, client_secret, purpose, operation.user).await?;
        Ok(proven.map(|row| StageOutcome { email_session: Some(row.sid), ..StageOutcome::default() }))
    }

    /// The stage that is completed on the account-management page: the leave given there is used up.
    async fn try_page(
        &self,
        batch: &mut CommitBatch,
        user: Option<&UserId>,
    ) -> Result<Result<StageOutcome, Failure>, Error> {
        let Some(user) = user else { return Ok(Err(Failure::WrongStage)) };
        let key = vec![Value::from(user)];
        let row: Option<CrossSigningResetRow> = self.store.get(key.clone()).await?;
        if row.is_none_or(|row| row.expires_ms <= self.now()) {
            return Ok(Err(Failure::NotAllowedYet));
        }
        batch.expect_present::<CrossSigningResetRow>(key.clone()).delete::<CrossSigningResetRow>(key);
        Ok(Ok(StageOutcome::default()))
    }

    /// Notes that a user allowed, on the account-management page, to reset cross-signing once within the next minutes:
    /// what completes the stage [`OAUTH`].
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn allow_cross_signing_reset(&self, user: &UserId) -> Result<(), Error> {
        let mut batch = CommitBatch::new();
        batch.put(CrossSigningResetRow { user_id: user.clone(), expires_ms: self.now() + RESET_MS });
        self.commit(batch).await.map(drop)
    }

    /// The password stage. Without an identifier it is the account's own.
    async fn try_password(
        &self,
        auth: &Map<String, Json>,
        user: Option<&UserId>,
    ) -> Result<Result<StageOutcome, Failure>, Error> {
        let Some(password) = auth.get("password").and_then(Json::as_str) else {
            return Ok(Err(Failure::Missing("password")));
        };
        let identifier = auth.get("identifier").and_then(Json::as_object);
        let member = |name: &str| identifier.and_then(|identifier| identifier.get(name)).and_then(Json::as_str);
        let by_address = match (member("medium"), member("address")) {
            (Some(medium), Some(address)) => Some(self.name_of_threepid(medium, address).await?),
            _ => None,
        };
        let named = by_address.as_deref().or(member("user")).or_else(|| auth.get("user").and_then(Json::as_str));
        let Some(name) = named.or_else(|| user.map(UserId::as_str)) else {
            return Ok(Err(Failure::Missing("identifier")));
        };
        match self.prove_password(name, password).await {
            Ok(proven) if user.is_none_or(|user| *user == proven) => Ok(Ok(StageOutcome::default())),
            Ok(_) => Err(Error::NotYourIdentity),
            Err(Error::WrongCredentials) => Ok(Err(Failure::WrongPassword)),
            Err(Error::Deactivated) => Ok(Err(Failure::Deactivated)),
            Err(error) => Err(error),
        }
    }

    /// Removes what has expired: sessions with their pending token uses, login and OpenID tokens, old transaction ids,
    /// unused leave to reset cross-signing, connections of sliding sync that nobody uses, ended rendezvous,
    /// sessions of e-mail addresses and old reports.
    /// To be called every few minutes.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn prune(&self) -> Result<(), Error> {
        let now = self.now();
        let read = Read::along::<UiaSessionRow>(UiaSessionRow::BY_EXPIRY, vec![]).up_to(now).limit(PRUNED_MAX);
        let sessions: Vec<UiaSessionRow> = self.store.all(read).await?;
        for session in sessions {
            let mut batch = CommitBatch::new();
            let key = vec![Value::from(session.session.as_str())];
            batch.expect_present::<UiaSessionRow>(key.clone()).delete::<UiaSessionRow>(key);
            if let Some(token) = &session.registration_token {
                self.abandon_token_use(&mut batch, token).await?;
            }
            match self.commit(batch).await {
                Ok(_) | Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        let mut batch = CommitBatch::new();
        let read = Read::along::<LoginTokenRow>(LoginTokenRow::BY_EXPIRY, vec![]).up_to(now).limit(PRUNED_MAX);
        for row in self.store.all::<LoginTokenRow>(read).await? {
            batch.delete::<LoginTokenRow>(vec![Value::Blob(row.token_hash)]);
        }
        let read = Read::along::<OpenIdTokenRow>(OpenIdTokenRow::BY_EXPIRY, vec![]).up_to(now).limit(PRUNED_MAX);
        for row in self.store.all::<OpenIdTokenRow>(read).await? {
            batch.delete::<OpenIdTokenRow>(vec![Value::Blob(row.token_hash)]);
        }
        let read = Read::along::<CrossSigningResetRow>(CrossSigningResetRow::BY_EXPIRY, vec![]).up_to(now);
        for row in self.store.all::<CrossSigningResetRow>(read.limit(PRUNED_MAX)).await? {
            batch.delete::<CrossSigningResetRow>(vec![row.user_id.into()]);
        }
        let read = Read::along::<ToDeviceTransactionRow>(ToDeviceTransactionRow::BY_TIME, vec![]);
        let read = read.up_to(now - TRANSACTION_MS).limit(PRUNED_MAX);
        for row in self.store.all::<ToDeviceTransactionRow>(read).await? {
            let key = [row.user_id.into(), row.device_id.into(), row.kind.into(), row.txn_id.into()];
            batch.delete::<ToDeviceTransactionRow>(key.to_vec());
        }
        self.add_unused_connections(&mut batch, PRUNED_MAX).await?;
        self.prune_unsubscribing(&mut batch, PRUNED_MAX).await?;
        self.prune_email_sessions(PRUNED_MAX).await?;
        self.remove_ended_rendezvous(PRUNED_MAX).await?;
        self.prune_reports().await?;
        if batch.is_empty() { Ok(()) } else { self.commit(batch).await.map(drop) }
    }
}

fn is_oauth(stage: &str) -> bool {
    stage == OAUTH || stage == OAUTH_UNSTABLE
}

/// The address of the account-management page that opens with an action (client-server API, "Account management URL
/// parameters").
fn with_action(page: &str, action: &str) -> String {
    let separator = if page.contains('?') { '&' } else { '?' };
    format!("{page}{separator}action={action}")
}

fn stages_of(row: &UiaSessionRow) -> Vec<String> {
    serde_json::from_str(&row.completed).unwrap_or_default()
}

/// The stages that may come next in any flow.
fn next_stages<'a>(flows: &'a [Flow], completed: &'a [String]) -> impl Iterator<Item = &'static str> + 'a {
    let going_on = flows.iter().filter(move |flow| starts_with(flow, completed));
    going_on.filter_map(|flow| flow.get(completed.len()).copied())
}

fn is_complete(flows: &[Flow], completed: &[String]) -> bool {
    flows.iter().any(|flow| flow.len() == completed.len() && starts_with(flow, completed))
}

fn starts_with(flow: Flow, completed: &[String]) -> bool {
    flow.len() >= completed.len() && flow.iter().zip(completed).all(|(stage, done)| stage == done)
}

/// SHA-256 of the body without `auth`. `serde_json` keeps members sorted, so their order does not matter.
fn body_hash(body: &Map<String, Json>) -> Vec<u8> {
    let mut body = body.clone();
    body.remove("auth");
    secret::hash(&Json::Object(body).to_string())
}
