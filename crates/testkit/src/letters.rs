//! Mails, kept instead of sent.

use async_trait::async_trait;
use parking_lot::Mutex;
use users::email::Mail;
use users::{Mailer, Undelivered};

/// A mail server that keeps what it gets.
#[derive(Default)]
pub struct Letters {
    kept: Mutex<Vec<Mail>>,
    fails: Mutex<Option<Undelivered>>,
}

impl Letters {
    /// What came since the last call.
    pub fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut self.kept.lock())
    }

    /// Fails from now on, or no more.
    pub fn fail(&self, how: Option<Undelivered>) {
        *self.fails.lock() = how;
    }
}

#[async_trait]
impl Mailer for Letters {
    async fn send(&self, mail: &Mail) -> Result<(), Undelivered> {
        if let Some(how) = self.fails.lock().clone() {
            return Err(how);
        }
        self.kept.lock().push(mail.clone());
        Ok(())
    }
}
