//! The mails that wait: written in the batch of what decides them, sent one after the other, tried again while the mail
//! server is away.
//!
//! Before a mail leaves its row is put off by a while, and with that the hash of a fresh token is stored if it carries a
//! link. The row goes when the mail server has taken the mail. So nothing is lost when the process ends in between, and
//! nodes that share a database do not send the same mail at once; at worst one comes twice, with the same id.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Map, Value as Json};
use store::clock::{back_off, random_text};
use store::tables::mail::{EmailSessionRow, MailRow};
use store::{CommitBatch, Read, Value};

use super::{CONFIRM_PATH, Kind, Mail, Options, Undelivered};
use crate::accounts::expect_unchanged;
use crate::{Error, Users, secret};

/// Mails that may wait.
const WAITING_MAX: usize = 10_000;
/// Mails that are looked at in one run.
const RUN_MAX: u32 = 64;
/// Mails under way at a time.
const UNDER_WAY_MAX: usize = 4;
/// For so long a mail under way is nobody else's, in milliseconds: longer than a mail server is waited for.
const LEASE_MS: i64 = 3 * 60 * 1_000;
/// Wait after the first failure; each further one doubles it.
const RETRY_FIRST: Duration = Duration::from_secs(10);
/// Longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(10 * 60);
/// How long a mail is tried, in milliseconds.
const GIVE_UP_MS: i64 = 2 * 24 * 60 * 60 * 1_000;
/// How often the store is asked though nothing was queued here, in milliseconds: another node may have ended.
const LOOK_AGAIN_MS: i64 = 30 * 1_000;
/// How long a mail server that is away is left alone, in milliseconds, unless something is queued.
const AWAY_MS: i64 = 5 * 1_000;
/// Characters of a mail's id.
const ID_LENGTH: usize = 24;
/// Characters of a token: 62^43 values, 256 bits.
pub(crate) const TOKEN_LENGTH: usize = 43;
/// Bytes of a token's hash.
const HASH_BYTES: usize = 32;
/// Tokens of a session that count: each try to send a mail makes one.
const TOKENS_MAX: usize = 4;

/// What is known of the mails that wait, which themselves are in the store.
#[derive(Default)]
pub(crate) struct Post {
    /// Not before this time is the store asked, in milliseconds since the epoch.
    look_ms: AtomicI64,
    /// About how many wait.
    pub(crate) waiting: AtomicUsize,
    sent: AtomicUsize,
    failed: AtomicUsize,
}

/// How mails fare, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Mails that wait, as of the last look.
    pub waiting: usize,
    /// Mails that the mail server has taken since the start.
    pub sent: usize,
    /// Tries that failed since the start.
    pub failed: usize,
}

impl Post {
    /// Something was queued.
    fn ring(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.look_ms.store(0, Ordering::Relaxed);
    }
}

impl Users {
    /// Adds a mail to a batch. [`Users::mails_queued`] is to be called when that is committed.
    ///
    /// # Errors
    /// [`Error::TooManyMails`].
    pub(crate) fn add_mail(
        &self,
        batch: &mut CommitBatch,
        kind: Kind,
        mailbox: &str,
        sid: &str,
        content: Map<String, Json>,
    ) -> Result<(), Error> {
        if self.post.waiting.load(Ordering::Relaxed) >= WAITING_MAX {
            return Err(Error::TooManyMails);
        }
        let now_ms = self.now();
        batch.put(MailRow {
            id: random_text(&*self.entropy, ID_LENGTH),
            kind: kind.name().to_owned(),
            mailbox: mailbox.to_owned(),
            sid: sid.to_owned(),
            content: Json::Object(content).to_string(),
            queued_ms: now_ms,
            due_ms: now_ms,
            failures: 0,
        });
        Ok(())
    }

    /// Mails were committed: the next [`Users::send_mails`] looks for them.
    pub fn mails_queued(&self) {
        self.post.ring();
    }

    /// How mails fare; none where this server sends none.
    pub fn mail_report(&self) -> Option<Report> {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let post = &self.post;
        let report = || Report { waiting: count(&post.waiting), sent: count(&post.sent), failed: count(&post.failed) };
        self.options.email.as_ref().map(|_| report())
    }

    /// Sends mails that are due; to be called about once a second, and not twice at once.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn send_mails(&self) -> Result<(), Error> {
        let Some(email) = &self.options.email else { return Ok(()) };
        let now_ms = self.now();
        if now_ms < self.post.look_ms.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Before the store is asked: what is queued meanwhile rings anew.
        self.post.look_ms.store(now_ms + LOOK_AGAIN_MS, Ordering::Relaxed);
        let read = Read::along::<MailRow>(MailRow::BY_DUE, vec![]).up_to(now_ms).limit(RUN_MAX);
        let rows: Vec<MailRow> = self.store.all(read).await?;
        let mut away = false;
        for some in rows.chunks(UNDER_WAY_MAX) {
            for outcome in join_all(some.iter().map(|row| self.send_mail(email, row.clone()))).await {
                away |= outcome?;
            }
            if away {
                break;
            }
        }
        self.look_ahead(if away { now_ms + AWAY_MS } else { 0 }).await
    }

    /// Notes when the next mail is due, which is not to be tried before some time, and how many wait.
    async fn look_ahead(&self, not_before_ms: i64) -> Result<(), Error> {
        let limit = u32::try_from(WAITING_MAX).unwrap_or(u32::MAX);
        let rows: Vec<MailRow> = self.store.all(Read::along::<MailRow>(MailRow::BY_DUE, vec![]).limit(limit)).await?;
        self.post.waiting.store(rows.len(), Ordering::Relaxed);
        if let Some(first) = rows.first() {
            self.post.look_ms.fetch_min(first.due_ms.max(not_before_ms), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sends one mail; whether the mail server is away.
    async fn send_mail(&self, email: &Options, row: MailRow) -> Result<bool, Error> {
        let Some((row, mail)) = self.take_mail(email, row).await? else { return Ok(false) };
        let outcome = email.mailer.send(&mail).await;
        let key = vec![Value::from(row.id.as_str())];
        let mut batch = CommitBatch::new();
        batch.expect_equals::<MailRow>(key.clone(), "due_ms", row.due_ms);
        let too_old = self.now().saturating_sub(row.queued_ms) > GIVE_UP_MS;
        match &outcome {
            Ok(()) => {
                self.post.sent.fetch_add(1, Ordering::Relaxed);
                batch.delete::<MailRow>(key);
            }
            Err(cause) => {
                self.post.failed.fetch_add(1, Ordering::Relaxed);
                if too_old || matches!(cause, Undelivered::Refused(_)) {
                    tracing::warn!(mail = row.id, kind = row.kind, %cause, "a mail is given up");
                    batch.delete::<MailRow>(key);
                } else {
                    tracing::info!(mail = row.id, kind = row.kind, %cause, "a mail is tried again later");
                    let failures = row.failures + 1;
                    let tries = u32::try_from(failures).unwrap_or(u32::MAX);
                    let wait = back_off(RETRY_FIRST, RETRY_MAX, tries, &*self.entropy);
                    let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                    batch.put(MailRow { failures, due_ms: self.now().saturating_add(wait_ms), ..row });
                }
            }
        }
        match self.commit(batch).await {
            // It took longer than it may: who has it now settles it.
            Ok(_) | Err(Error::Conflict) => Ok(matches!(outcome, Err(Undelivered::Away(_)))),
            Err(error) => Err(error),
        }
    }

    /// Takes a mail for this node, with a fresh token if it carries one. None if it is another's, or of no use any more.
    async fn take_mail(&self, email: &Options, row: MailRow) -> Result<Option<(MailRow, Mail)>, Error> {
        let mut batch = CommitBatch::new();
        expect_unchanged(&mut batch, row.clone());
        let mut content: Map<String, Json> = serde_json::from_str(&row.content).unwrap_or_default();
        self.add_unsubscribing(&mut batch, email, &row, &mut content);
        let mut of_use = true;
        if !row.sid.is_empty() {
            match self.fresh_token(&mut batch, &row).await? {
                Some(token) => {
                    let link = format!("{}{CONFIRM_PATH}?sid={}&token={token}", email.base_url, row.sid);
                    content.insert("link".to_owned(), link.into());
                }
                None => of_use = false,
            }
        }
        let Some(kind) = Kind::named(&row.kind).filter(|_| of_use) else {
            batch.delete::<MailRow>(vec![Value::from(row.id.as_str())]);
            return self.commit_unless_raced(batch).await.map(|_| None);
        };
        let taken = MailRow { due_ms: self.now() + LEASE_MS, ..row };
        batch.put(taken.clone());
        let mail = Mail { id: taken.id.clone(), to: taken.mailbox.clone(), kind, content };
        Ok(self.commit_unless_raced(batch).await?.then_some((taken, mail)))
    }

    async fn commit_unless_raced(&self, batch: CommitBatch) -> Result<bool, Error> {
        match self.commit(batch).await {
            Ok(_) => Ok(true),
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a token for the session of a mail and adds its hash to a batch. None if there is nothing to confirm, or the
    /// mail goes elsewhere than the session says.
    async fn fresh_token(&self, batch: &mut CommitBatch, row: &MailRow) -> Result<Option<String>, Error> {
        let session: Option<EmailSessionRow> = self.store.get(vec![Value::from(row.sid.as_str())]).await?;
        let now_ms = self.now();
        let waits = |session: &EmailSessionRow| {
            session.open
                && session.validated_ms.is_none()
                && session.expires_ms > now_ms
                && session.mailbox == row.mailbox
        };
        let Some(session) = session.filter(waits) else { return Ok(None) };
        let token = random_text(&*self.entropy, TOKEN_LENGTH);
        let mut hashes: Vec<u8> = [session.tokens.as_slice(), &secret::hash(&token)].concat();
        hashes.drain(..hashes.len().saturating_sub(TOKENS_MAX * HASH_BYTES));
        expect_unchanged(batch, session.clone());
        batch.put(EmailSessionRow { tokens: hashes, ..session });
        Ok(Some(token))
    }
}

/// Whether a token is one of those whose hashes are stored, in time that depends on their number only.
pub(crate) fn is_token_of(session: &EmailSessionRow, token: &str) -> bool {
    let hash = secret::hash(token);
    session.tokens.chunks(HASH_BYTES).fold(false, |found, stored| found | secret::equal(stored, &hash))
}
