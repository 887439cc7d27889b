//! Password hashing: Argon2id, off the threads that serve requests, a few at a time.

use std::sync::{Arc, OnceLock};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use store::Entropy;
use tokio::sync::{Semaphore, oneshot};

use crate::Error;

/// Bytes that a password may have.
pub const PASSWORD_BYTES_MAX: usize = 512;
/// Hashes computed at the same time. Each takes 19 MiB and some 15 ms of a core.
const CONCURRENT_MAX: usize = 4;
const SALT_BYTES: usize = 16;

/// Runs work that keeps a core busy, elsewhere than on the threads that serve requests.
pub trait Blocking: Send + Sync + 'static {
    /// Runs `work`, soon.
    fn run(&self, work: Box<dyn FnOnce() + Send>);
}

/// Runs the work at once, on the caller's thread: for tests and tools.
pub struct Inline;

impl Blocking for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

/// The password hasher.
pub(crate) struct Passwords {
    blocking: Arc<dyn Blocking>,
    entropy: Arc<dyn Entropy>,
    permits: Semaphore,
    decoy: OnceLock<String>,
}

impl Passwords {
    pub(crate) fn new(blocking: Arc<dyn Blocking>, entropy: Arc<dyn Entropy>) -> Self {
        Self { blocking, entropy, permits: Semaphore::new(CONCURRENT_MAX), decoy: OnceLock::new() }
    }

    /// The PHC string of a password with a fresh salt.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, Error> {
        check_length(password)?;
        let mut salt = [0_u8; SALT_BYTES];
        self.entropy.fill(&mut salt);
        let password = password.to_owned();
        self.run(move || hash_with(&password, &salt)).await?.ok_or_else(unhashable)
    }

    /// Whether the password fits the hash. Without a hash it takes as long, and the answer is no: whoever measures the
    /// time does not learn which users exist (CA4).
    pub(crate) async fn verify(&self, password: &str, hash: Option<String>) -> Result<bool, Error> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let password = password.to_owned();
        let known = hash.is_some();
        let hash = match hash {
            Some(hash) => hash,
            None => self.decoy().await?,
        };
        let fits = self.run(move || fits(&password, &hash)).await?;
        Ok(fits && known)
    }

    async fn decoy(&self) -> Result<String, Error> {
        if let Some(decoy) = self.decoy.get() {
            return Ok(decoy.clone());
        }
        let decoy = self.hash("a password that nobody has").await?;
        Ok(self.decoy.get_or_init(|| decoy).clone())
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let _permit = self.permits.acquire().await.map_err(|_| store::Error::Closed)?;
        let (sender, receiver) = oneshot::channel();
        self.blocking.run(Box::new(move || drop(sender.send(work()))));
        receiver.await.map_err(|_| Error::Store(store::Error::Closed))
    }
}

fn check_length(password: &str) -> Result<(), Error> {
    if password.is_empty() {
        return Err(Error::InvalidParam("The password is empty.".to_owned()));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Error::InvalidParam(format!("A password may have {PASSWORD_BYTES_MAX} bytes.")));
    }
    Ok(())
}

fn unhashable() -> Error {
    Error::InvalidParam("The password cannot be hashed.".to_owned())
}

fn hash_with(password: &str, salt: &[u8]) -> Option<String> {
    let hash: PasswordHash = Argon2::default().hash_password_with_salt(password.as_bytes(), salt).ok()?;
    Some(hash.to_string())
}

fn fits(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}
