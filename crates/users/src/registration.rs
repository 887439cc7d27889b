//! Registration: who may, under which name, by which token (client-server API, "Account registration"; behaviours CA3,
//! CA17). Also the first account of a fresh server, and registration by a shared secret.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use sha1::Sha1;
use store::clock::random_text;
use store::tables::mail::EmailSessionRow;
use store::tables::users::{AccountRow, RegistrationTokenRow, SetupTokenRow, UiaSessionRow};
use store::{CommitBatch, Read, StreamKind, UserId, Value};

use crate::accounts::expect_unchanged;
use crate::login::{LoggedIn, NewDevice};
use crate::uia::Proof;
use crate::{Error, RETRIES_MAX, Users, secret};

/// Bytes that a user id may have.
pub const USER_ID_BYTES_MAX: usize = 255;
/// Characters of a localpart that this server makes.
const LOCALPART_LENGTH: usize = 12;
/// Nonces of shared-secret registration that are valid at one time.
const NONCES_MAX: usize = 1_000;
/// How long a nonce is valid, in milliseconds.
const NONCE_MS: i64 = 60_000;
/// The kind of a guest's account.
pub const GUEST: &str = "guest";
/// The mark, in a UIA session, of the token that makes the first account.
pub(crate) const FIRST_ACCOUNT: &str = "first-account";

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationMode {
    /// Nobody, but by the administrator's tools.
    Closed,
    /// Whoever has a registration token.
    Token,
    /// Anybody.
    Open,
}

/// An account to be made.
#[derive(Clone, Debug, Default)]
pub struct NewAccount {
    /// Its localpart, as the client wrote it; made up if missing.
    pub localpart: Option<String>,
    /// Its password, if it has one.
    pub password: Option<String>,
    /// Whether it administers the server.
    pub admin: bool,
    /// Whether it is a guest's.
    pub guest: bool,
    /// The guest who becomes its user and keeps what it has: devices, rooms, profile.
    pub upgrades: Option<UserId>,
    /// The appservice that makes it.
    pub appservice: Option<String>,
    /// The device to log in at once, if any.
    pub login: Option<NewDevice>,
    /// What user-interactive authentication has proven: settles the registration token.
    pub proof: Option<Proof>,
}

/// An account that was made.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The user.
    pub user: UserId,
    /// The login, if one was asked for.
    pub login: Option<LoggedIn>,
}

/// The nonces of shared-secret registration that have been given and not used.
#[derive(Default)]
pub(crate) struct Nonces(Mutex<BTreeMap<String, i64>>);

/// What a shared-secret registration says, besides the account.
#[derive(Clone, Debug)]
pub struct SharedSecretProof<'a> {
    /// A nonce of [`Users::registration_nonce`].
    pub nonce: &'a str,
    /// HMAC-SHA1 over nonce, name, password, `admin` or `notadmin`, and the user type if given, parted by NULs, in hex.
    pub mac: &'a str,
    /// The user name.
    pub name: &'a str,
    /// The password.
    pub password: &'a str,
    /// Whether the account is to administer the server.
    pub admin: bool,
    /// The user type, if the request names one.
    pub user_type: Option<&'a str>,
}

/// The grammar of the part of a user id before the colon (appendices, "User Identifiers").
///
/// # Errors
/// [`Error::InvalidUsername`].
pub fn check_localpart(localpart: &str) -> Result<(), Error> {
    if localpart.is_empty() {
        return Err(Error::InvalidUsername("it is empty"));
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte);
    if localpart.bytes().all(allowed) {
        Ok(())
    } else {
        Err(Error::InvalidUsername("only a-z, 0-9 and . _ = - / + are allowed"))
    }
}

impl Users {
    /// The user id that a name would get: lower-cased, within grammar and length, and free.
    ///
    /// # Errors
    /// [`Error::InvalidUsername`], [`Error::UserInUse`].
    pub async fn available(&self, name: &str) -> Result<UserId, Error> {
        let user = self.check_name(name)?;
        match self.account(&user).await? {
            Some(_) => Err(Error::UserInUse),
            None => Ok(user),
        }
    }

    /// The user id that a name stands for, if a new account may have it (appendices, "User Identifiers").
    ///
    /// # Errors
    /// [`Error::InvalidUsername`].
    pub fn check_name(&self, name: &str) -> Result<UserId, Error> {
        let localpart = name.to_ascii_lowercase();
        check_localpart(&localpart)?;
        let user = self.user_id(&localpart);
        if user.as_str().len() > USER_ID_BYTES_MAX {
            return Err(Error::InvalidUsername("the whole user id may have 255 bytes"));
        }
        Ok(user)
    }

    /// Makes an account. Whether the request may, is for the caller: by mode, UIA proof, secret or appservice.
    ///
    /// # Errors
    /// [`Error::InvalidUsername`], [`Error::UserInUse`], [`Error::InvalidParam`], [`Error::InvalidRegistrationToken`],
    /// [`Error::EmailNotProven`], [`Error::AddressInUse`].
    pub async fn register(&self, new: NewAccount) -> Result<Registered, Error> {
        let user = match &new.localpart {
            Some(name) => self.check_name(name)?,
            None => self.user_id(&random_text(&*self.entropy, LOCALPART_LENGTH).to_lowercase()),
        };
        let password_hash = match &new.password {
            Some(password) => Some(self.passwords.hash(password).await?),
            None => None,
        };
        for _ in 0..RETRIES_MAX {
            let mut batch = CommitBatch::new();
            let guest = match new.upgrades.as_ref() {
                Some(guest) if *guest == user => Some(self.guest(guest).await?),
                Some(_) => return Err(Error::InvalidParam("`username` must be the guest's own".to_owned())),
                None => None,
            };
            let first = self.settle_proof(&mut batch, new.proof.as_ref()).await?;
            self.settle_address(&mut batch, new.proof.as_ref(), &user).await?;
            let row = self.account_row(&user, &new, password_hash.clone(), first);
            match guest {
                Some(guest) => {
                    let created_ms = guest.created_ms;
                    expect_unchanged(&mut batch, guest);
                    batch.put(AccountRow { created_ms, ..row });
                }
                None => {
                    batch.expect_absent::<AccountRow>(vec![Value::from(&user)]);
                    batch.put(row);
                }
            }
            let login = match &new.login {
                Some(device) => Some(self.add_login(&mut batch, &user, device.clone()).await?),
                None => None,
            };
            batch.announce(StreamKind::Account, None, Some(user.clone()), None);
            match self.commit(batch).await {
                Ok(_) => return Ok(Registered { user, login }),
                Err(Error::Conflict) if new.upgrades.is_none() && self.account(&user).await?.is_some() => {
                    return Err(Error::UserInUse);
                }
                Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict)
    }

    /// The account of a guest.
    async fn guest(&self, user: &UserId) -> Result<AccountRow, Error> {
        let account = self.account(user).await?;
        account.filter(|account| account.kind == GUEST && !account.deactivated).ok_or(Error::UserInUse)
    }

    fn account_row(&self, user: &UserId, new: &NewAccount, password_hash: Option<String>, first: bool) -> AccountRow {
        let kind = match (new.guest, &new.appservice) {
            (true, _) => GUEST,
            (false, Some(_)) => "appservice",
            (false, None) => "user",
        };
        AccountRow {
            user_id: user.clone(),
            password_hash,
            admin: new.admin || first,
            kind: kind.to_owned(),
            deactivated: false,
            locked: false,
            suspended: false,
            erased: false,
            created_ms: self.now(),
            appservice: new.appservice.clone(),
        }
    }

    /// Turns the pending use of the proof's token into a completed one; true if it was the first account's token.
    async fn settle_proof(&self, batch: &mut CommitBatch, proof: Option<&Proof>) -> Result<bool, Error> {
        let Some(proof) = proof else { return Ok(false) };
        if let Some(session) = &proof.session {
            let key = vec![Value::from(session.as_str())];
            batch.expect_present::<UiaSessionRow>(key.clone()).delete::<UiaSessionRow>(key);
        }
        match proof.registration_token.as_deref() {
            None => Ok(false),
            Some(FIRST_ACCOUNT) => {
                let tokens: Vec<SetupTokenRow> = self.store.all(Read::prefix::<SetupTokenRow>(vec![])).await?;
                if tokens.is_empty() || !self.is_fresh().await? {
                    return Err(Error::InvalidRegistrationToken);
                }
                for token in tokens {
                    let key = vec![Value::Blob(token.token_hash)];
                    batch.expect_present::<SetupTokenRow>(key.clone()).delete::<SetupTokenRow>(key);
                }
                Ok(true)
            }
            Some(token) => {
                let row = self.registration_token(token).await?.ok_or(Error::InvalidRegistrationToken)?;
                expect_unchanged(batch, row.clone());
                let pending = (row.pending - 1).max(0);
                batch.put(RegistrationTokenRow { pending, completed: row.completed + 1, ..row });
                Ok(false)
            }
        }
    }

    /// Gives a new account the address that the proof has confirmed.
    async fn settle_address(&self, batch: &mut CommitBatch, proof: Option<&Proof>, user: &UserId) -> Result<(), Error> {
        let Some(sid) = proof.and_then(|proof| proof.email_session.as_deref()) else { return Ok(()) };
        let session = self.email_session(sid).await?;
        let proven = |session: &EmailSessionRow| session.open && session.validated_ms.is_some();
        let session = session.filter(proven).ok_or(Error::EmailNotProven)?;
        if self.threepid(&session.address).await?.is_some() {
            return Err(Error::AddressInUse);
        }
        self.add_threepid_row(batch, user, session);
        Ok(())
    }

    /// A registration token, valid or not.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn registration_token(&self, token: &str) -> Result<Option<RegistrationTokenRow>, Error> {
        Ok(self.store.get(vec![Value::from(token)]).await?)
    }

    /// All registration tokens.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn registration_tokens(&self) -> Result<Vec<RegistrationTokenRow>, Error> {
        Ok(self.store.all(Read::prefix::<RegistrationTokenRow>(vec![])).await?)
    }

    /// Whether an account could be made with this token now (CA17).
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn registration_token_is_valid(&self, token: &str) -> Result<bool, Error> {
        let row = self.registration_token(token).await?;
        Ok(row.is_some_and(|row| is_usable(&row, self.now())) || self.is_first_account_token(token).await?)
    }

    /// Makes a registration token. One that exists keeps its limits: to change them, delete it first.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] if the token is not 1 to 64 characters of `A-Za-z0-9._~-`, if it exists, or if it would
    /// allow less than one use.
    pub async fn set_registration_token(
        &self,
        token: Option<String>,
        uses_allowed: Option<i64>,
        expires_ms: Option<i64>,
    ) -> Result<RegistrationTokenRow, Error> {
        let token = token.unwrap_or_else(|| random_text(&*self.entropy, 16));
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
        if token.is_empty() || token.len() > 64 || !token.bytes().all(fits) {
            let message = "A registration token has 1 to 64 characters of A-Z, a-z, 0-9 and . _ ~ -";
            return Err(Error::InvalidParam(message.to_owned()));
        }
        if uses_allowed.is_some_and(|uses| uses < 1) {
            return Err(Error::InvalidParam("A registration token allows at least one use.".to_owned()));
        }
        let row = RegistrationTokenRow { token, uses_allowed, pending: 0, completed: 0, expires_ms };
        let mut batch = CommitBatch::new();
        batch.expect_absent::<RegistrationTokenRow>(vec![Value::from(row.token.as_str())]);
        batch.put(row.clone());
        match self.commit(batch).await {
            Ok(_) => Ok(row),
            Err(Error::Conflict) => {
                let message =
                    format!("The registration token {} exists. Delete it to give it other limits.", row.token);
                Err(Error::InvalidParam(message))
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes a registration token; whether there was one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn delete_registration_token(&self, token: &str) -> Result<bool, Error> {
        let key = vec![Value::from(token)];
        let mut batch = CommitBatch::new();
        batch.expect_present::<RegistrationTokenRow>(key.clone()).delete::<RegistrationTokenRow>(key);
        match self.commit(batch).await {
            Ok(_) => Ok(true),
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Counts a pending use of a registration token, or the first account's token; what the session is to remember.
    pub(crate) async fn begin_token_use(&self, batch: &mut CommitBatch, token: &str) -> Result<Option<String>, Error> {
        if let Some(row) = self.registration_token(token).await? {
            if !is_usable(&row, self.now()) {
                return Ok(None);
            }
            expect_unchanged(batch, row.clone());
            batch.put(RegistrationTokenRow { pending: row.pending + 1, ..row });
            return Ok(Some(token.to_owned()));
        }
        Ok(self.is_first_account_token(token).await?.then(|| FIRST_ACCOUNT.to_owned()))
    }

    /// Adds to a batch that a session with a pending use of `token` came to nothing.
    pub(crate) async fn abandon_token_use(&self, batch: &mut CommitBatch, token: &str) -> Result<(), Error> {
        if let Some(row) = self.registration_token(token).await? {
            expect_unchanged(batch, row.clone());
            batch.put(RegistrationTokenRow { pending: (row.pending - 1).max(0), ..row });
        }
        Ok(())
    }

    /// On a server without accounts: a fresh token for the first one, which makes older ones void. Else `None`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn first_account_token(&self) -> Result<Option<String>, Error> {
        if !self.is_fresh().await? {
            return Ok(None);
        }
        let token = secret::token(&*self.entropy, "first");
        let mut batch = CommitBatch::new();
        batch.delete_prefix::<SetupTokenRow>(vec![]);
        batch.put(SetupTokenRow { token_hash: secret::hash(&token), created_ms: self.now() });
        self.commit(batch).await?;
        Ok(Some(token))
    }

    /// Whether this is the token for the first account, and there is no account yet.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn is_first_account_token(&self, token: &str) -> Result<bool, Error> {
        let row: Option<SetupTokenRow> = self.store.get(vec![Value::Blob(secret::hash(token))]).await?;
        Ok(row.is_some() && self.is_fresh().await?)
    }

    /// Makes the first account, an administrator's, by its one-time token.
    ///
    /// # Errors
    /// [`Error::InvalidRegistrationToken`]; else as [`Users::register`].
    pub async fn register_first(&self, token: &str, mut new: NewAccount) -> Result<Registered, Error> {
        if !self.is_first_account_token(token).await? {
            return Err(Error::InvalidRegistrationToken);
        }
        new.proof = Some(Proof { registration_token: Some(FIRST_ACCOUNT.to_owned()), ..Proof::default() });
        self.register(new).await
    }

    /// A nonce for one shared-secret registration within the next minute. `None` if no secret is set.
    pub fn registration_nonce(&self) -> Option<String> {
        self.options.shared_secret.as_ref()?;
        let nonce = random_text(&*self.entropy, 32);
        let now = self.now();
        let mut nonces = self.nonces.0.lock();
        nonces.retain(|_, until| *until > now);
        while nonces.len() >= NONCES_MAX {
            nonces.pop_first();
        }
        nonces.insert(nonce.clone(), now + NONCE_MS);
        Some(nonce)
    }

    /// Uses up the nonce and checks the MAC of a shared-secret registration.
    ///
    /// # Errors
    /// [`Error::RegistrationClosed`] if no secret is set; [`Error::BadMac`].
    pub fn check_shared_secret(&self, proof: &SharedSecretProof<'_>) -> Result<(), Error> {
        let shared_secret = self.options.shared_secret.as_ref().ok_or(Error::RegistrationClosed)?;
        let until = self.nonces.0.lock().remove(proof.nonce);
        if until.is_none_or(|until| until <= self.now()) {
            return Err(Error::BadMac);
        }
        let mut mac = Hmac::<Sha1>::new_from_slice(shared_secret.as_bytes()).map_err(|_| Error::BadMac)?;
        let admin = if proof.admin { "admin" } else { "notadmin" };
        let mut parts = vec![proof.nonce, proof.name, proof.password, admin];
        parts.extend(proof.user_type);
        mac.update(parts.join("\0").as_bytes());
        let expected = secret::hex(&mac.finalize().into_bytes());
        if secret::equal(expected.as_bytes(), proof.mac.to_ascii_lowercase().as_bytes()) {
            Ok(())
        } else {
            Err(Error::BadMac)
        }
    }
}

fn is_usable(row: &RegistrationTokenRow, now_ms: i64) -> bool {
    row.expires_ms.is_none_or(|expires| expires > now_ms)
        && row.uses_allowed.is_none_or(|allowed| row.pending + row.completed < allowed)
}
