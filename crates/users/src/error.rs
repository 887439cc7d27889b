//! What can go wrong with accounts, in this crate's own words. The door gives each its Matrix code.

/// A request that is refused, or that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The localpart does not fit the grammar, or the id would be too long.
    #[error("invalid user name: {0}")]
    InvalidUsername(&'static str),
    /// The user id is taken, now or in the past.
    #[error("this user name is taken")]
    UserInUse,
    /// Nobody, or no guest, may register here.
    #[error("registration is closed")]
    RegistrationClosed,
    /// The registration token is unknown, expired or used up.
    #[error("the registration token is not valid")]
    InvalidRegistrationToken,
    /// A shared-secret registration has a wrong nonce or MAC.
    #[error("the nonce or the MAC is wrong")]
    BadMac,
    /// The credentials are wrong: no difference is made between an unknown user and a wrong secret.
    #[error("wrong user name or password")]
    WrongCredentials,
    /// What was proven belongs to another user.
    #[error("the proven identity or the session belongs to another user or another request")]
    NotYourIdentity,
    /// The session is of the OAuth API, which knows no user-interactive authentication for this.
    #[error("clients that signed in by OAuth cannot do this: use the account management page")]
    AccountPageOnly,
    /// The account is deactivated; said only after the password was proven.
    #[error("the account is deactivated")]
    Deactivated,
    /// The account is locked.
    #[error("the account is locked")]
    Locked,
    /// This server sends no e-mail.
    #[error("this server sends no e-mail")]
    NoMail,
    /// Addresses of this domain are not taken.
    #[error("e-mail addresses of this domain are not accepted here")]
    AddressDenied,
    /// The address belongs to an account; said only where answers may tell.
    #[error("this e-mail address belongs to an account already")]
    AddressInUse,
    /// The address belongs to no account; said only where answers may tell.
    #[error("this e-mail address belongs to no account")]
    AddressUnknown,
    /// There is no such session in which an address is confirmed, or its secret is another.
    #[error("there is no such session in which an e-mail address is confirmed")]
    EmailSessionUnknown,
    /// The address has not been confirmed, or what was confirmed has been used.
    #[error("the e-mail address has not been confirmed")]
    EmailNotProven,
    /// No more mails can wait.
    #[error("too many e-mails wait to be sent")]
    TooManyMails,
    /// A refresh or login token is unknown, used or expired.
    #[error("the token is not valid")]
    UnknownToken,
    /// There is no such thing.
    #[error("{0} does not exist")]
    NotFound(&'static str),
    /// A parameter has a value that is not allowed.
    #[error("{0}")]
    InvalidParam(String),
    /// A parameter is missing.
    #[error("{0} is missing")]
    MissingParam(&'static str),
    /// The server keeps this itself: it cannot be written so.
    #[error("{0} is controlled by the server")]
    ServerControlled(&'static str),
    /// The value is larger than its limit.
    #[error("{0} is too large")]
    TooLarge(&'static str),
    /// A name of a profile field is longer than 255 bytes.
    #[error("the name of the profile field is too long")]
    KeyTooLarge,
    /// The profile would be larger than 64 KiB.
    #[error("the profile is too large")]
    ProfileTooLarge,
    /// `before` or `after` names a push rule that does not exist.
    #[error("before/after rule not found: {0}")]
    RuleNotFound(String),
    /// This may not be done to this account, or this device.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A signature is missing or wrong.
    #[error("{0}")]
    InvalidSignature(String),
    /// The version of the key backup is not the current one.
    #[error("the current version of the backup is {0}")]
    WrongBackupVersion(String),
    /// Lost the race against others more often than is retried.
    #[error("too many others change the same thing")]
    Conflict,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Why an access token is not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// Nobody's, or no longer anybody's.
    #[error("the access token is unknown")]
    Unknown,
    /// Expired; its refresh token still gets a new one.
    #[error("the access token has expired")]
    Expired,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}
