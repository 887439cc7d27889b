//! Logging in and out: by password, by login token, by refresh token (client-server API, "Login", "Refreshing access
//! tokens"; behaviours CA4 to CA6, CA9, CA10).

use serde_json::Value as Json;
use store::clock::random_text;
use store::tables::users::{
    AccessTokenRow, AccountRow, CrossSigningKeyRow, DeviceRow, LoginTokenRow, OpenIdTokenRow, RefreshTokenRow,
};
use store::{CommitBatch, DeviceId, Field, Read, StreamKind, UserId, Value};

use crate::{Error, RETRIES_MAX, Session, SessionKind, Users, secret};

/// Characters of a device id that this server makes.
const DEVICE_ID_LENGTH: usize = 10;
/// Bytes that a device id may have.
pub const DEVICE_ID_BYTES_MAX: usize = 255;
/// Bytes that a device's name may have.
pub const DEVICE_NAME_BYTES_MAX: usize = 400;
/// How long an OpenID token lives, in milliseconds.
const OPENID_TOKEN_MS: i64 = 60 * 60 * 1_000;

/// The device that a login asks for.
#[derive(Clone, Debug, Default)]
pub struct NewDevice {
    /// Its id; made up if missing.
    pub id: Option<DeviceId>,
    /// Its name, if it is new.
    pub display_name: Option<String>,
    /// Whether the client can refresh tokens: then the access token is short-lived.
    pub refresh: bool,
    /// By which API it logs in.
    pub kind: SessionKind,
}

/// A fresh login.
#[derive(Clone, Debug)]
pub struct LoggedIn {
    /// Who.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// The access token.
    pub access_token: String,
    /// The refresh token, if one was asked for.
    pub refresh_token: Option<String>,
    /// How long the access token lives, in milliseconds.
    pub expires_in_ms: Option<i64>,
}

/// A fresh pair of tokens.
#[derive(Clone, Debug)]
pub struct Refreshed {
    /// The access token.
    pub access_token: String,
    /// The refresh token.
    pub refresh_token: String,
    /// How long the access token lives, in milliseconds.
    pub expires_in_ms: i64,
}

/// The session that tokens are for.
struct TokensFor<'a> {
    user: &'a UserId,
    device: &'a DeviceId,
    refresh: bool,
    retires: Option<Vec<u8>>,
    kind: SessionKind,
}

struct Tokens {
    access_token: String,
    refresh_token: Option<String>,
    expires_in_ms: Option<i64>,
}

impl Users {
    /// The user that a login names: a localpart or a full id, in any case. `None` if it names another server's.
    pub fn named(&self, name: &str) -> Option<UserId> {
        let lower = name.to_ascii_lowercase();
        match lower.strip_prefix('@') {
            None => Some(self.user_id(&lower)),
            Some(id) => match id.split_once(':') {
                Some((localpart, server)) => {
                    let ours = server == self.options.server_name.to_lowercase();
                    ours.then(|| self.user_id(localpart))
                }
                None => Some(self.user_id(id)),
            },
        }
    }

    /// The name by which the owner of a third-party identifier logs in; one that nobody has if there is none, so that it
    /// takes as long to be refused (CA4).
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn name_of_threepid(&self, medium: &str, address: &str) -> Result<String, Error> {
        let user = self.user_of_threepid(medium, address).await?;
        Ok(user.map_or_else(|| "@".to_owned(), |user| user.to_string()))
    }

    /// Logs in by password. Unknown users take as long as wrong passwords (CA4).
    ///
    /// # Errors
    /// [`Error::WrongCredentials`]; [`Error::Deactivated`] or [`Error::Locked`] only once the password is proven;
    /// [`Error::InvalidParam`] for the device id.
    pub async fn login_by_password(&self, name: &str, password: &str, device: NewDevice) -> Result<LoggedIn, Error> {
        let user = self.prove_password(name, password).await?;
        self.login(&user, device).await
    }

    /// The user whose name and password these are.
    ///
    /// # Errors
    /// [`Error::WrongCredentials`], [`Error::Deactivated`].
    pub async fn prove_password(&self, name: &str, password: &str) -> Result<UserId, Error> {
        let account = match self.named(name) {
            Some(user) => self.historical_account(name, user).await?,
            None => None,
        };
        let hash = account.as_ref().and_then(|account| account.password_hash.clone());
        if !self.passwords.verify(password, hash).await? {
            return Err(Error::WrongCredentials);
        }
        let account = account.ok_or(Error::WrongCredentials)?;
        if account.deactivated { Err(Error::Deactivated) } else { Ok(account.user_id) }
    }

    /// The account of a name, by its lower-case form or else as it was typed: ids of old may have capitals.
    async fn historical_account(&self, name: &str, user: UserId) -> Result<Option<AccountRow>, Error> {
        let typed = if name.starts_with('@') { UserId::from(name) } else { self.user_id(name) };
        let keys = [vec![Value::from(&user)], vec![Value::from(&typed)]];
        let rows = self.store.read(keys.map(Read::get::<AccountRow>).to_vec()).await?;
        for rows in rows {
            if let Some(account) = rows.one()? {
                return Ok(Some(account));
            }
        }
        Ok(None)
    }

    /// Makes a session for a user whose identity is proven. An existing device keeps its keys and messages and loses
    /// its older tokens (CA5).
    ///
    /// # Errors
    /// [`Error::Deactivated`], [`Error::Locked`], [`Error::InvalidParam`] for the device id, [`Error::NotFound`].
    pub async fn login(&self, user: &UserId, device: NewDevice) -> Result<LoggedIn, Error> {
        // Two logins with one device at once: the later ends the tokens of the earlier (CA5).
        let _turn = match &device.id {
            Some(id) => Some(self.queues.turn(&(user, id)).await),
            None => None,
        };
        let account = self.account(user).await?.ok_or(Error::NotFound("the account"))?;
        if account.deactivated {
            return Err(Error::Deactivated);
        }
        if account.locked {
            return Err(Error::Locked);
        }
        let mut batch = CommitBatch::new();
        batch.expect_equals::<AccountRow>(vec![Value::from(user)], "deactivated", false);
        let login = self.add_login(&mut batch, user, device).await?;
        self.commit(batch).await?;
        Ok(login)
    }

    /// Adds a login of a user to a batch.
    pub(crate) async fn add_login(
        &self,
        batch: &mut CommitBatch,
        user: &UserId,
        device: NewDevice,
    ) -> Result<LoggedIn, Error> {
        let id = match device.id {
            Some(id) => self.check_device_id(user, id).await?,
            None => DeviceId::from(random_text(&*self.entropy, DEVICE_ID_LENGTH).to_uppercase()),
        };
        let key = vec![Value::from(user), Value::from(&id)];
        if self.store.get::<DeviceRow>(key).await?.is_some() {
            self.end_tokens(batch, user, Some(&id), None).await?;
        } else {
            self.add_device(batch, user, &id, device.display_name);
            batch.announce(StreamKind::Account, None, Some(user.clone()), None);
        }
        let (refresh, kind) = (device.refresh, device.kind);
        let tokens = self.add_tokens(batch, TokensFor { user, device: &id, refresh, retires: None, kind });
        Ok(LoggedIn {
            user: user.clone(),
            device: id,
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            expires_in_ms: tokens.expires_in_ms,
        })
    }

    /// Refuses device ids that are too long, or equal to a public key of the user's cross-signing (CA4).
    async fn check_device_id(&self, user: &UserId, id: DeviceId) -> Result<DeviceId, Error> {
        if id.as_str().is_empty() || id.as_str().len() > DEVICE_ID_BYTES_MAX {
            return Err(Error::InvalidParam("A device id has 1 to 255 bytes.".to_owned()));
        }
        let keys: Vec<CrossSigningKeyRow> =
            self.store.all(Read::prefix::<CrossSigningKeyRow>(vec![Value::from(user)])).await?;
        let taken = keys.iter().any(|row| {
            let key: Json = serde_json::from_str(&row.key).unwrap_or_default();
            let keys = key.get("keys").and_then(Json::as_object);
            keys.is_some_and(|keys| keys.values().any(|key| key.as_str() == Some(id.as_str())))
        });
        if taken { Err(Error::InvalidParam("This device id is one of your keys.".to_owned())) } else { Ok(id) }
    }

    fn add_tokens(&self, batch: &mut CommitBatch, session: TokensFor<'_>) -> Tokens {
        let TokensFor { user, device, refresh, retires, kind } = session;
        let now = self.now();
        let access_token = secret::token(&*self.entropy, "hat");
        let refresh_token = refresh.then(|| secret::token(&*self.entropy, "hrt"));
        let expires_in_ms = refresh.then_some(self.options.access_token_ms);
        let access = secret::hash(&access_token);
        let refresh_hash = refresh_token.as_deref().map(secret::hash);
        if let Some(refresh) = &refresh_hash {
            batch.put(RefreshTokenRow {
                token_hash: refresh.clone(),
                user_id: user.clone(),
                device_id: device.clone(),
                access: access.clone(),
                retires: retires.clone(),
                successor: None,
                kind: kind.as_str().to_owned(),
            });
        }
        batch.put(AccessTokenRow {
            token_hash: access,
            user_id: user.clone(),
            device_id: device.clone(),
            created_ms: now,
            expires_ms: expires_in_ms.map(|lifetime| now + lifetime),
            refresh: refresh_hash,
            retires,
            kind: kind.as_str().to_owned(),
        });
        Tokens { access_token, refresh_token, expires_in_ms }
    }

    /// Exchanges a refresh token of a session of this kind. It stays usable until what it was exchanged for is used
    /// (CA9); exchanged again before that, even at the same moment, the earlier answer counts as lost and dies.
    ///
    /// # Errors
    /// [`Error::UnknownToken`], also for a token of another kind; [`Error::Locked`] for a locked account.
    pub async fn refresh(&self, token: &str, kind: SessionKind) -> Result<Refreshed, Error> {
        let hash = secret::hash(token);
        let _turn = self.queues.turn(&hash).await;
        for _ in 0..RETRIES_MAX {
            match self.refresh_once(hash.clone(), kind).await {
                Err(Error::Conflict) => {}
                outcome => return outcome,
            }
        }
        Err(Error::Conflict)
    }

    async fn refresh_once(&self, hash: Vec<u8>, kind: SessionKind) -> Result<Refreshed, Error> {
        let key = vec![Value::Blob(hash.clone())];
        let row: Option<RefreshTokenRow> = self.store.get(key.clone()).await?;
        let row = row.filter(|row| SessionKind::stored(&row.kind) == kind).ok_or(Error::UnknownToken)?;
        let account = self.account(&row.user_id).await?.filter(|account| !account.deactivated);
        if account.ok_or(Error::UnknownToken)?.locked {
            return Err(Error::Locked);
        }
        let mut batch = CommitBatch::new();
        batch.expect_equals::<RefreshTokenRow>(key, "successor", row.successor.clone().into_value());
        for other in [&row.retires, &row.successor].into_iter().flatten() {
            self.end_refresh_token(&mut batch, other).await?;
        }
        let (user, device) = (&row.user_id, &row.device_id);
        let session = TokensFor { user, device, refresh: true, retires: Some(hash), kind };
        let tokens = self.add_tokens(&mut batch, session);
        let refresh_token = tokens.refresh_token.unwrap_or_default();
        batch.announce(StreamKind::Account, None, Some(row.user_id.clone()), None);
        batch.put(RefreshTokenRow { retires: None, successor: Some(secret::hash(&refresh_token)), ..row });
        self.commit(batch).await?;
        let expires_in_ms = tokens.expires_in_ms.unwrap_or(self.options.access_token_ms);
        Ok(Refreshed { access_token: tokens.access_token, refresh_token, expires_in_ms })
    }

    /// Logs a session out: its device goes with all that belongs to it (CA6).
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn logout(&self, session: &Session) -> Result<(), Error> {
        self.delete_devices(&session.user, std::slice::from_ref(&session.device)).await
    }

    /// Logs a user out everywhere.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn logout_all(&self, user: &UserId) -> Result<(), Error> {
        let mut batch = CommitBatch::new();
        self.remove_all_devices(&mut batch, user, None).await?;
        self.commit(batch).await?;
        self.sweep_pushers(user).await
    }

    /// A token by which another client of the user can log in once, for a short time, and its lifetime in milliseconds.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn login_token(&self, user: &UserId) -> Result<(String, i64), Error> {
        let token = secret::token(&*self.entropy, "hlt");
        let lifetime_ms = self.options.login_token_ms;
        let mut batch = CommitBatch::new();
        batch.put(LoginTokenRow {
            token_hash: secret::hash(&token),
            user_id: user.clone(),
            expires_ms: self.now() + lifetime_ms,
        });
        self.commit(batch).await?;
        Ok((token, lifetime_ms))
    }

    /// Logs in by a login token, which dies with it (CA10).
    ///
    /// # Errors
    /// [`Error::UnknownToken`]; else as [`Users::login`].
    pub async fn login_by_token(&self, token: &str, device: NewDevice) -> Result<LoggedIn, Error> {
        let key = vec![Value::Blob(secret::hash(token))];
        let row: LoginTokenRow = self.store.get(key.clone()).await?.ok_or(Error::UnknownToken)?;
        let mut batch = CommitBatch::new();
        batch.expect_present::<LoginTokenRow>(key.clone()).delete::<LoginTokenRow>(key);
        match self.commit(batch).await {
            Ok(_) if row.expires_ms > self.now() => self.login(&row.user_id, device).await,
            Ok(_) | Err(Error::Conflict) => Err(Error::UnknownToken),
            Err(error) => Err(error),
        }
    }

    /// A token that tells another service who the user is, and its lifetime in milliseconds.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn openid_token(&self, user: &UserId) -> Result<(String, i64), Error> {
        let token = secret::token(&*self.entropy, "hot");
        let mut batch = CommitBatch::new();
        batch.put(OpenIdTokenRow {
            token_hash: secret::hash(&token),
            user_id: user.clone(),
            expires_ms: self.now() + OPENID_TOKEN_MS,
        });
        self.commit(batch).await?;
        Ok((token, OPENID_TOKEN_MS))
    }

    /// Whom an OpenID token names; nobody once the account is deactivated.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn openid_user(&self, token: &str) -> Result<Option<UserId>, Error> {
        let row: Option<OpenIdTokenRow> = self.store.get(vec![Value::Blob(secret::hash(token))]).await?;
        let Some(row) = row.filter(|row| row.expires_ms > self.now()) else { return Ok(None) };
        Ok(self.is_active(&row.user_id).await?.then_some(row.user_id))
    }
}
