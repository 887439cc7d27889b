//! Sessions in which somebody shows to receive the mail of an address (client-server API, `…/email/requestToken`;
//! behaviour CA15).
//!
//! A session is for one purpose and one address, of one client that knows its secret. Its id follows from these, so the
//! same request has the same answer, whether or not there is anything to confirm. What is confirmed is used once, in the
//! batch of what it was for.

use serde_json::{Map, Value as Json};
use store::tables::mail::{EmailSessionRow, ThreepidRow};
use store::tables::users::AccountRow;
use store::{CommitBatch, Read, UserId, Value};

use super::address::Address;
use super::queue::is_token_of;
use super::{Kind, MEDIUM, Options};
use crate::accounts::expect_unchanged;
use crate::uia::Failure;
use crate::{Error, RETRIES_MAX, Users, secret};

/// How long a session lives after its last change, in milliseconds (identity service API: 24 hours).
pub(crate) const SESSION_MS: i64 = 24 * 60 * 60 * 1_000;
/// Characters of a client secret, of a session id and of a token, at most.
const SECRET_LENGTH_MAX: usize = 255;
/// Bytes of an address to which the confirming page leads on.
const LINK_BYTES_MAX: usize = 2_048;
/// Bytes of the hash that make a session's id.
const SID_BYTES: usize = 20;

/// What an address is confirmed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To make an account.
    Register,
    /// To add it to an account.
    Add,
    /// To set a new password.
    Reset,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Add => "add",
            Self::Reset => "reset",
        }
    }

    fn stored(text: &str) -> Option<Self> {
        [Self::Register, Self::Add, Self::Reset].into_iter().find(|purpose| purpose.as_str() == text)
    }

    fn kind(self) -> Kind {
        match self {
            Self::Register => Kind::Register,
            Self::Add => Kind::Add,
            Self::Reset => Kind::Reset,
        }
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct TokenRequest<'a> {
    /// What for.
    pub purpose: Purpose,
    /// Whose token came with it.
    pub user: Option<&'a UserId>,
    /// The address.
    pub email: &'a str,
    /// What the client proves later to be the same by.
    pub client_secret: &'a str,
    /// A mail is sent for a higher attempt than the last.
    pub send_attempt: i64,
    /// Where the confirming page is to lead on.
    pub next_link: Option<&'a str>,
}

/// What the page behind a link shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// What for.
    pub purpose: Purpose,
    /// The address.
    pub address: String,
    /// The account, if it is known.
    pub user: Option<String>,
    /// Where to go on.
    pub next_link: Option<String>,
    /// Whether it is confirmed.
    pub confirmed: bool,
}

/// To whom an address belongs, as far as it matters to a session.
struct Aim {
    mailbox: String,
    /// Whose the session is; empty for nobody's.
    user: String,
    open: bool,
    kind: Option<Kind>,
    /// The account that the mail names.
    told: Option<String>,
}

impl Users {
    /// Begins to confirm an address, or goes on with it; answers the session's id.
    ///
    /// # Errors
    /// [`Error::NoMail`]; [`Error::InvalidParam`] naming the parameter; [`Error::AddressDenied`]; [`Error::AddressInUse`]
    /// and [`Error::AddressUnknown`] only where answers may tell; [`Error::TooManyMails`].
    pub async fn request_email_token(&self, request: TokenRequest<'_>) -> Result<String, Error> {
        let email = self.email()?;
        check_secret("client_secret", request.client_secret)?;
        if request.send_attempt < 0 {
            return Err(Error::InvalidParam("`send_attempt` must not be negative".to_owned()));
        }
        let next_link = request.next_link.map(|link| checked_link(email, link)).transpose()?.flatten();
        let address = self.address_of(request.email)?;
        if request.purpose != Purpose::Reset && !email.takes(address.domain()) {
            return Err(Error::AddressDenied);
        }
        for _ in 0..RETRIES_MAX {
            match self.request_once(email, &request, &address, next_link.clone()).await {
                Err(Error::Conflict) => {}
                outcome => return outcome,
            }
        }
        Err(Error::Conflict)
    }

    /// An address that a client gave.
    ///
    /// # Errors
    /// [`Error::InvalidParam`].
    pub fn address_of(&self, email: &str) -> Result<Address, Error> {
        Address::parse(email).ok_or_else(|| Error::InvalidParam("`email` is no e-mail address".to_owned()))
    }

    async fn request_once(
        &self,
        email: &Options,
        request: &TokenRequest<'_>,
        address: &Address,
        next_link: Option<String>,
    ) -> Result<String, Error> {
        let sid = session_id(request, &address.canonical);
        let key = vec![Value::from(sid.as_str())];
        let holder = self.threepid(&address.canonical).await?;
        let aim = self.aim(email, request, address, holder).await?;
        let before: Option<EmailSessionRow> = self.store.get(key.clone()).await?;
        let living = before.clone().filter(|row| row.expires_ms > self.now());
        if let Some(row) = &living
            && (row.send_attempt >= request.send_attempt || row.validated_ms.is_some())
        {
            return Ok(sid);
        }
        let same =
            |row: &EmailSessionRow| row.mailbox == aim.mailbox && row.user_id == aim.user && row.open == aim.open;
        let tokens = living.filter(same).map(|row| row.tokens).unwrap_or_default();
        let mut batch = CommitBatch::new();
        match before {
            Some(before) => expect_unchanged(&mut batch, before),
            None => drop(batch.expect_absent::<EmailSessionRow>(key)),
        }
        if let Some(kind) = aim.kind {
            let carries = if aim.open { sid.as_str() } else { "" };
            let content = self.content(&aim.mailbox, aim.told.as_deref());
            self.add_mail(&mut batch, kind, &aim.mailbox, carries, content)?;
        }
        batch.put(EmailSessionRow {
            sid: sid.clone(),
            purpose: request.purpose.as_str().to_owned(),
            user_id: aim.user,
            address: address.canonical.clone(),
            mailbox: aim.mailbox,
            client_secret_hash: secret::hash(request.client_secret),
            send_attempt: request.send_attempt,
            tokens,
            next_link,
            open: aim.open,
            validated_ms: None,
            expires_ms: self.now() + SESSION_MS,
        });
        self.commit(batch).await?;
        self.mails_queued();
        Ok(sid)
    }

    /// Who gets which mail. Nobody is told whose an address is but the mailbox itself: where the address is not to be
    /// used, the session looks the same and cannot be confirmed.
    async fn aim(
        &self,
        email: &Options,
        request: &TokenRequest<'_>,
        address: &Address,
        holder: Option<ThreepidRow>,
    ) -> Result<Aim, Error> {
        let mailbox = address.mailbox.clone();
        let asker = request.user.map(ToString::to_string).unwrap_or_default();
        match (request.purpose, holder) {
            (Purpose::Reset, Some(holder)) if self.is_active(&holder.user_id).await? => {
                // To the mailbox that was confirmed, not to one that merely compares equal.
                let (mailbox, user) = (holder.mailbox, holder.user_id.to_string());
                Ok(Aim { mailbox, told: Some(user.clone()), user, open: true, kind: Some(Kind::Reset) })
            }
            (Purpose::Reset, _) if email.reveal_addresses => Err(Error::AddressUnknown),
            (Purpose::Reset, _) => Ok(Aim { mailbox, user: String::new(), open: false, kind: None, told: None }),
            (purpose, None) => {
                let told = request.user.map(ToString::to_string);
                Ok(Aim { mailbox, user: asker, open: true, kind: Some(purpose.kind()), told })
            }
            (_, Some(holder)) if email.reveal_addresses || request.user == Some(&holder.user_id) => {
                Err(Error::AddressInUse)
            }
            (_, Some(holder)) => {
                let (mailbox, told) = (holder.mailbox, Some(holder.user_id.to_string()));
                Ok(Aim { mailbox, user: String::new(), open: false, kind: Some(Kind::InUse), told })
            }
        }
    }

    /// What every mail can fill in.
    pub(crate) fn content(&self, address: &str, user: Option<&str>) -> Map<String, Json> {
        let mut content = Map::new();
        content.insert("server_name".to_owned(), self.options.server_name.clone().into());
        content.insert("address".to_owned(), address.into());
        content.extend(user.map(|user| ("user_id".to_owned(), Json::from(user))));
        content
    }

    /// What a link of a mail stands for; none if it is not valid, or no longer.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn email_confirmation(&self, sid: &str, token: &str) -> Result<Option<Confirmation>, Error> {
        Ok(self.session_of_token(sid, token).await?.as_ref().and_then(confirmation))
    }

    /// Confirms the address of a session by the token of a mail. Once more changes nothing.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn confirm_email(&self, sid: &str, token: &str) -> Result<Option<Confirmation>, Error> {
        for _ in 0..RETRIES_MAX {
            let Some(row) = self.session_of_token(sid, token).await? else { return Ok(None) };
            if row.validated_ms.is_some() {
                return Ok(confirmation(&row));
            }
            let now_ms = self.now();
            let mut batch = CommitBatch::new();
            expect_unchanged(&mut batch, row.clone());
            let row = EmailSessionRow { validated_ms: Some(now_ms), expires_ms: now_ms + SESSION_MS, ..row };
            batch.put(row.clone());
            match self.commit(batch).await {
                Ok(_) => return Ok(confirmation(&row)),
                Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict)
    }

    async fn session_of_token(&self, sid: &str, token: &str) -> Result<Option<EmailSessionRow>, Error> {
        let row = self.email_session(sid).await?;
        Ok(row.filter(|row| row.open && token.len() <= SECRET_LENGTH_MAX && is_token_of(row, token)))
    }

    /// A session that has not ended.
    pub(crate) async fn email_session(&self, sid: &str) -> Result<Option<EmailSessionRow>, Error> {
        if sid.len() > SECRET_LENGTH_MAX {
            return Ok(None);
        }
        let row: Option<EmailSessionRow> = self.store.get(vec![Value::from(sid)]).await?;
        Ok(row.filter(|row| row.expires_ms > self.now()))
    }

    /// A session whose address is confirmed, for who knows its secret.
    pub(crate) async fn proven_session(
        &self,
        sid: &str,
        client_secret: &str,
        purpose: Purpose,
        user: Option<&UserId>,
    ) -> Result<Result<EmailSessionRow, Failure>, Error> {
        let row = self.email_session(sid).await?;
        let known = row.filter(|row| {
            let same_secret = secret::equal(&row.client_secret_hash, &secret::hash(client_secret));
            let same_user = purpose == Purpose::Reset || user.is_none_or(|user| is_for(row, user));
            same_secret && same_user && row.purpose == purpose.as_str()
        });
        Ok(match known {
            None => Err(Failure::UnknownEmailSession),
            Some(row) if row.open && row.validated_ms.is_some() => Ok(row),
            Some(_) => Err(Failure::NotConfirmedYet),
        })
    }

    /// Adds to a batch that what a session has proven is used: it holds only if nobody else uses it.
    pub(crate) fn use_email_session(batch: &mut CommitBatch, row: EmailSessionRow) {
        let key = vec![Value::from(row.sid.as_str())];
        expect_unchanged(batch, row);
        batch.delete::<EmailSessionRow>(key);
    }

    /// Adds to a batch the end of all sessions by which a user could set a new password.
    pub(crate) async fn end_resets(&self, batch: &mut CommitBatch, user: &UserId, but: &str) -> Result<(), Error> {
        let read = Read::along::<EmailSessionRow>(EmailSessionRow::BY_USER, vec![Value::from(user.as_str())]);
        let rows: Vec<EmailSessionRow> = self.store.all(read).await?;
        for row in rows.into_iter().filter(|row| row.purpose == Purpose::Reset.as_str() && row.sid != but) {
            batch.delete::<EmailSessionRow>(vec![Value::from(row.sid)]);
        }
        Ok(())
    }

    /// Removes sessions whose time has come, unless they have begun anew meanwhile.
    pub(crate) async fn prune_email_sessions(&self, rows_max: u32) -> Result<(), Error> {
        let read = Read::along::<EmailSessionRow>(EmailSessionRow::BY_EXPIRY, vec![]).up_to(self.now()).limit(rows_max);
        for row in self.store.all::<EmailSessionRow>(read).await? {
            let (key, mut batch) = (vec![Value::from(row.sid)], CommitBatch::new());
            batch.expect_equals::<EmailSessionRow>(key.clone(), "expires_ms", row.expires_ms);
            batch.delete::<EmailSessionRow>(key);
            match self.commit(batch).await {
                Ok(_) | Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The active account to which an address belongs.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn user_of_threepid(&self, medium: &str, address: &str) -> Result<Option<UserId>, Error> {
        let Some(address) = Some(address).filter(|_| medium == MEDIUM).and_then(Address::parse) else {
            return Ok(None);
        };
        Ok(self.threepid(&address.canonical).await?.map(|row| row.user_id))
    }

    pub(crate) async fn threepid(&self, canonical: &str) -> Result<Option<ThreepidRow>, Error> {
        Ok(self.store.get(vec![MEDIUM.into(), canonical.into()]).await?)
    }

    /// The account whose address a session of [`Purpose::Reset`] has confirmed, if it still is the account's.
    pub(crate) async fn account_to_reset(&self, session: &EmailSessionRow) -> Result<AccountRow, Error> {
        let holder = self.threepid(&session.address).await?;
        let holder = holder.filter(|holder| holder.user_id.as_str() == session.user_id);
        let account = self.account(&holder.ok_or(Error::EmailNotProven)?.user_id).await?;
        let account = account.ok_or(Error::EmailNotProven)?;
        match (account.deactivated, account.locked) {
            (true, _) => Err(Error::Deactivated),
            (false, true) => Err(Error::Locked),
            (false, false) => Ok(account),
        }
    }
}

/// Whether a user may use a session: who asked for it, or anybody who knows its secret if nobody was signed in then.
fn is_for(row: &EmailSessionRow, user: &UserId) -> bool {
    row.user_id.is_empty() || row.user_id == user.as_str()
}

fn confirmation(row: &EmailSessionRow) -> Option<Confirmation> {
    Some(Confirmation {
        purpose: Purpose::stored(&row.purpose)?,
        address: row.mailbox.clone(),
        user: Some(row.user_id.clone()).filter(|user| !user.is_empty()),
        next_link: row.next_link.clone(),
        confirmed: row.validated_ms.is_some(),
    })
}

/// The id of the session of a request: the same for each copy of it, on any node.
fn session_id(request: &TokenRequest<'_>, address: &str) -> String {
    let user = request.user.map(ToString::to_string).unwrap_or_default();
    let parts = [request.purpose.as_str(), &user, address, request.client_secret].join("\0");
    secret::hex(secret::hash(&parts).get(..SID_BYTES).unwrap_or_default())
}

/// Refuses what is no client secret (`[0-9a-zA-Z.=_-]`, 1 to 255 of them).
///
/// # Errors
/// [`Error::InvalidParam`].
pub(crate) fn check_secret(name: &str, text: &str) -> Result<(), Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".=_-".contains(&byte);
    if !text.is_empty() && text.len() <= SECRET_LENGTH_MAX && text.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::InvalidParam(format!("`{name}` has 1 to 255 characters of 0-9, a-z, A-Z and . = _ -")))
}

/// An address of a page, if it is one to which a link may lead; none if it may not.
fn checked_link(email: &Options, link: &str) -> Result<Option<String>, Error> {
    let wrong = || Error::InvalidParam("`next_link` is no address of a page (https://…)".to_owned());
    let visible = link.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'<>\\`{}|^;,".contains(&byte));
    let rest = link.strip_prefix("https://").or_else(|| link.strip_prefix("http://"));
    let Some(rest) = rest.filter(|_| visible && link.len() <= LINK_BYTES_MAX) else { return Err(wrong()) };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || authority.contains('@') {
        return Err(wrong());
    }
    let authority = authority.to_ascii_lowercase();
    Ok(email.next_link_hosts.contains(&authority).then(|| link.to_owned()))
}
