//! Events that are sent later (MSC4140): scheduled, kept alive by heart-beats, and at last sent, cancelled or found
//! impossible.
//!
//! What is to be sent stands in a row that is written once. When it is due stands in another, small one (`delays`): a
//! heart-beat changes nothing else, and without it the delayed event is finalised. The event and the end of its delay are
//! one batch ([`Rooms::send`]), so it is sent once, whoever else tries at the same time and whenever the process ends. A
//! batch that ends a delay holds only while that is due when its maker thought: a restart in between wins.
//!
//! A delayed state event is not cancelled by what others set meanwhile: the proposal leaves that to those who use it.

use std::sync::atomic::Ordering;

use event::{Json, Object};
use ruma_common::OwnedEventId;
use store::clock::random_text;
use store::tables::rooms::{DelayRow, DelayedEventRow, TransactionRow};
use store::{CommitBatch, CommitError, Read, UserId, Value};

use crate::accept::ATTEMPTS_MAX;
use crate::send::{transaction_key, transaction_row};
use crate::{Error, Result, Rooms, Transaction};

/// Characters of a delay id. It is a secret: who knows it may decide about the event without an access token.
const ID_CHARS: usize = 32;
/// Bytes that a content may have: no event is larger than this.
const CONTENT_BYTES_MAX: usize = 65_535;
/// How long it is remembered what became of a delayed event, in milliseconds.
const FINALISED_KEPT_MS: i64 = 7 * 24 * 3_600 * 1_000;
/// After so long it is looked again whether anything is due, in milliseconds: a request that was given up before its answer
/// may have scheduled an event all the same.
const UNREAD_MS_MAX: i64 = 30_000;
/// Finalised events of one user that are remembered, the newest ones.
const FINALISED_MAX: u32 = 100;
/// Rows that one step removes.
const STEP_ROWS: u32 = 500;

/// What a local user wants to say later.
#[derive(Clone, Debug)]
pub struct NewDelayed {
    /// The sender.
    pub sender: UserId,
    /// The room id.
    pub room_id: String,
    /// Event type.
    pub kind: String,
    /// State key, for a state event.
    pub state_key: Option<String>,
    /// Content.
    pub content: Object,
    /// How long after now, and after each restart, it is sent, in milliseconds.
    pub delay_ms: i64,
    /// How long the event is to be sticky once it is sent, in milliseconds.
    pub sticky_ms: Option<i64>,
    /// The transaction, if the request has one.
    pub transaction: Option<Transaction>,
}

/// A delayed event, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// What is to be sent, and what became of it.
    pub row: DelayedEventRow,
    /// When it is due; `None` once it is finalised.
    pub timer: Option<DelayRow>,
}

impl Delayed {
    /// When it was scheduled or last restarted, in milliseconds since the epoch.
    pub fn since_ms(&self) -> i64 {
        self.timer.as_ref().map(|timer| timer.since_ms).or(self.row.since_ms).unwrap_or_default()
    }

    /// The content as the event will have it.
    ///
    /// # Errors
    /// [`store::Error::Corrupt`] if the store holds something else.
    pub fn content(&self) -> Result<Object> {
        Json::object_from_slice(self.row.content.as_bytes()).map_err(|error| {
            Error::Store(store::Error::Corrupt { table: "delayed_events", detail: format!("content: {error}") })
        })
    }
}

/// What becomes of a delayed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// It was sent, as the event of this id.
    Sent(&'a str),
    /// It could not be sent: the error, as JSON.
    Failed(&'a str),
    /// It was cancelled.
    Cancelled,
}

impl Rooms {
    /// Schedules an event, and returns its delay id once that is durable. The same transaction gets the same id.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if nobody may delay events, [`Error::DelayTooLong`], [`Error::TooManyDelayed`],
    /// [`Error::TooLarge`], and as the store says.
    pub async fn schedule(&self, new: NewDelayed) -> Result<String> {
        let _alone = self.user_stripe(&new.sender).lock().await;
        if let Some(answer) = self.scheduled_by(&new).await? {
            return Ok(answer);
        }
        self.check_limits(&new).await?;
        self.forget_oldest(&new.sender).await?;
        let content = serde_json::to_string(&new.content).map_err(|error| Error::BadContent(error.to_string()))?;
        if content.len() > CONTENT_BYTES_MAX {
            return Err(Error::TooLarge("the content is larger than an event may be".to_owned()));
        }
        let delay_id = random_text(self.entropy.as_ref(), ID_CHARS);
        let now_ms = self.clock.now_ms();
        let due_ms = now_ms.saturating_add(new.delay_ms);
        let mut batch = CommitBatch::new();
        batch.put(DelayRow { delay_id: delay_id.clone(), user_id: new.sender.clone(), since_ms: now_ms, due_ms });
        if let Some(transaction) = &new.transaction {
            batch.expect_absent::<TransactionRow>(transaction_key(&new.sender, transaction));
            batch.put(transaction_row(&new.sender, transaction, delay_id.clone(), now_ms));
        }
        batch.put(DelayedEventRow {
            delay_id: delay_id.clone(),
            user_id: new.sender.clone(),
            room_id: new.room_id.clone(),
            kind: new.kind.clone(),
            state_key: new.state_key.clone(),
            content,
            sticky_ms: new.sticky_ms,
            delay_ms: new.delay_ms,
            since_ms: None,
            finalised_ms: None,
            event_id: None,
            error: None,
        });
        match self.store.commit(batch).await {
            Ok(_) => {}
            // Another node has carried out the same transaction.
            Err(CommitError::Conflict { .. }) => return self.scheduled_by(&new).await?.ok_or(Error::Busy),
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
        self.next_due_ms.fetch_min(due_ms, Ordering::AcqRel);
        Ok(delay_id)
    }

    async fn scheduled_by(&self, new: &NewDelayed) -> Result<Option<String>> {
        let Some(transaction) = &new.transaction else { return Ok(None) };
        let row = self.store.get::<TransactionRow>(transaction_key(&new.sender, transaction)).await?;
        Ok(row.map(|row| row.answer))
    }

    async fn check_limits(&self, new: &NewDelayed) -> Result<()> {
        let (delay_ms_max, delayed_max) = (self.options.delay_ms_max, self.options.delayed_max);
        if delayed_max == 0 || delay_ms_max <= 0 {
            return Err(Error::Forbidden("this server does not delay events".to_owned()));
        }
        if new.delay_ms > delay_ms_max {
            return Err(Error::DelayTooLong(delay_ms_max));
        }
        let read = Read::along::<DelayRow>(DelayRow::BY_USER, vec![Value::from(&new.sender)]).limit(delayed_max);
        let scheduled: Vec<DelayRow> = self.store.all(read).await?;
        match scheduled.first() {
            Some(next) if scheduled.len() >= usize::try_from(delayed_max).unwrap_or(usize::MAX) => {
                let wait_ms = next.due_ms.saturating_sub(self.clock.now_ms());
                Err(Error::TooManyDelayed(u64::try_from(wait_ms).unwrap_or(0)))
            }
            _ => Ok(()),
        }
    }

    /// A delayed event, finalised or not.
    ///
    /// # Errors
    /// As the store says.
    pub async fn delayed(&self, delay_id: &str) -> Result<Option<Delayed>> {
        let reads = vec![Read::get::<DelayedEventRow>(key(delay_id)), Read::get::<DelayRow>(key(delay_id))];
        let mut found = self.store.read(reads).await?.into_iter();
        let row = found.next().unwrap_or_default().one::<DelayedEventRow>()?;
        let timer = found.next().unwrap_or_default().one::<DelayRow>()?;
        Ok(row.map(|row| Delayed { row, timer }))
    }

    /// What a user has scheduled, the next to be sent first.
    ///
    /// # Errors
    /// As the store says.
    pub async fn scheduled(&self, user: &UserId) -> Result<Vec<Delayed>> {
        let read = Read::along::<DelayRow>(DelayRow::BY_USER, vec![Value::from(user)]).limit(self.options.delayed_max);
        self.with_rows(self.store.all(read).await?).await
    }

    /// What is due now, the longest due first, at most `limit`.
    ///
    /// # Errors
    /// As the store says.
    pub async fn due(&self, limit: u32) -> Result<Vec<Delayed>> {
        let now_ms = self.clock.now_ms();
        // Where others write too, only the store knows.
        let alone = self.store.engine().whispers().is_none();
        if alone && now_ms < self.next_due_ms.load(Ordering::Acquire) {
            return Ok(Vec::new());
        }
        // What is scheduled from here on lowers it again.
        self.next_due_ms.store(i64::MAX, Ordering::Release);
        let along = || Read::along::<DelayRow>(DelayRow::BY_DUE, vec![]);
        let found = self.store.read(vec![along().up_to(now_ms).limit(limit), along().after(now_ms).limit(1)]).await;
        let mut found = found.inspect_err(|_| self.next_due_ms.store(i64::MIN, Ordering::Release))?.into_iter();
        let timers = found.next().unwrap_or_default().all::<DelayRow>()?;
        let later = found.next().unwrap_or_default().one::<DelayRow>()?;
        // What is due stays so until it is finalised.
        let next_ms = timers.first().map(|_| i64::MIN).or(later.map(|later| later.due_ms));
        let next_ms = next_ms.unwrap_or(i64::MAX).min(now_ms.saturating_add(UNREAD_MS_MAX));
        self.next_due_ms.fetch_min(next_ms, Ordering::AcqRel);
        self.with_rows(timers).await
    }

    /// The delayed events of these timers, in their order; without those that were finalised in between.
    async fn with_rows(&self, timers: Vec<DelayRow>) -> Result<Vec<Delayed>> {
        let reads = timers.iter().map(|timer| Read::get::<DelayedEventRow>(key(&timer.delay_id))).collect();
        let rows = self.store.read(reads).await?;
        let mut delayed = Vec::with_capacity(timers.len());
        for (timer, row) in timers.into_iter().zip(rows) {
            if let Some(row) = row.one::<DelayedEventRow>()?.filter(|row| row.finalised_ms.is_none()) {
                delayed.push(Delayed { row, timer: Some(timer) });
            }
        }
        Ok(delayed)
    }

    /// Lets the delay begin anew, if the event is still scheduled; returns the delayed event as it is then.
    ///
    /// # Errors
    /// As the store says; [`Error::Busy`] if others decide about it all the time.
    pub async fn restart(&self, mut delayed: Delayed) -> Result<Option<Delayed>> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(timer) = &delayed.timer else { return Ok(Some(delayed)) };
            let since_ms = self.clock.now_ms();
            let due_ms = since_ms.saturating_add(delayed.row.delay_ms);
            if let Some(restarted) = self.set_timer(timer, DelayRow { since_ms, due_ms, ..timer.clone() }).await? {
                return Ok(Some(Delayed { timer: Some(restarted), ..delayed }));
            }
            let Some(now) = self.delayed(&delayed.row.delay_id).await? else { return Ok(None) };
            delayed = now;
        }
        Err(Error::Busy)
    }

    /// Tries again later what could not be sent for a reason that may pass.
    ///
    /// # Errors
    /// As the store says.
    pub async fn postpone(&self, delayed: &Delayed, by_ms: i64) -> Result<()> {
        let Some(timer) = &delayed.timer else { return Ok(()) };
        let due_ms = self.clock.now_ms().saturating_add(by_ms);
        self.set_timer(timer, DelayRow { due_ms, ..timer.clone() }).await.map(drop)
    }

    /// Writes a timer in the place of one that is still so; `None` if it is not.
    async fn set_timer(&self, from: &DelayRow, to: DelayRow) -> Result<Option<DelayRow>> {
        let mut batch = CommitBatch::new();
        batch.expect_equals::<DelayRow>(key(&from.delay_id), "due_ms", from.due_ms);
        batch.put(to.clone());
        match self.store.commit(batch).await {
            Ok(_) => {
                self.next_due_ms.fetch_min(to.due_ms, Ordering::AcqRel);
                Ok(Some(to))
            }
            Err(CommitError::Conflict { .. }) => Ok(None),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Cancels a delayed event, if it is still scheduled; returns it as it is then.
    ///
    /// # Errors
    /// As the store says; [`Error::Busy`] if others decide about it all the time.
    pub async fn cancel(&self, mut delayed: Delayed) -> Result<Option<Delayed>> {
        for _ in 0..ATTEMPTS_MAX {
            if delayed.timer.is_none() {
                return Ok(Some(delayed));
            }
            self.finalise(&delayed, Outcome::Cancelled).await?;
            let Some(now) = self.delayed(&delayed.row.delay_id).await? else { return Ok(None) };
            delayed = now;
        }
        Err(Error::Busy)
    }

    /// Notes what became of a delayed event, unless something became of it already, or it was restarted.
    ///
    /// # Errors
    /// As the store says.
    pub async fn finalise(&self, delayed: &Delayed, outcome: Outcome<'_>) -> Result<()> {
        let mut batch = CommitBatch::new();
        self.finalise_with(&mut batch, delayed, outcome);
        match self.store.commit(batch).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// The same as part of a decision, which then holds only if nothing became of it already.
    pub(crate) fn finalise_with(&self, batch: &mut CommitBatch, delayed: &Delayed, outcome: Outcome<'_>) {
        let id = &delayed.row.delay_id;
        let due_ms = delayed.timer.as_ref().map(|timer| timer.due_ms).unwrap_or_default();
        batch.expect_equals::<DelayRow>(key(id), "due_ms", due_ms);
        batch.delete::<DelayRow>(key(id));
        let row = delayed.row.clone();
        // What was sent stands in the event, and must not stay behind where that is redacted.
        let (content, event_id, error) = match outcome {
            Outcome::Sent(event_id) => ("{}".to_owned(), Some(event_id.to_owned()), None),
            Outcome::Failed(error) => (row.content, None, Some(error.to_owned())),
            Outcome::Cancelled => (row.content, None, None),
        };
        let finalised_ms = Some(self.clock.now_ms());
        let since_ms = Some(delayed.since_ms());
        batch.put(DelayedEventRow { since_ms, finalised_ms, content, event_id, error, ..row });
    }

    /// The event as which a delayed one has been sent, by this node or another; `None` if it is still due.
    pub(crate) async fn sent_already(&self, delayed: &Delayed) -> Result<Option<OwnedEventId>> {
        let gone = || Error::NotFound("the delayed event was cancelled".to_owned());
        let now = self.delayed(&delayed.row.delay_id).await?.ok_or_else(gone)?;
        match (now.timer, now.row.event_id) {
            (Some(timer), _) if Some(&timer) == delayed.timer.as_ref() => Ok(None),
            (Some(_), _) => Err(Error::Busy),
            (None, Some(sent)) => OwnedEventId::try_from(sent).map(Some).map_err(|_| gone()),
            (None, None) => Err(gone()),
        }
    }

    /// Forgets what became of delayed events some days ago; to be called every few minutes.
    ///
    /// # Errors
    /// As the store says.
    pub async fn prune_delayed(&self) -> Result<()> {
        let before_ms = self.clock.now_ms().saturating_sub(FINALISED_KEPT_MS);
        let along = || Read::along::<DelayedEventRow>(DelayedEventRow::BY_FINALISED, vec![]);
        while self.remove_delayed(along().up_to(before_ms)).await? {}
        Ok(())
    }

    /// Forgets the oldest of a user's finalised events, if there are too many.
    async fn forget_oldest(&self, user: &UserId) -> Result<()> {
        let most = self.options.delayed_max.saturating_add(FINALISED_MAX);
        let read = Read::along::<DelayedEventRow>(DelayedEventRow::BY_USER, vec![Value::from(user)]);
        let rows: Vec<DelayedEventRow> = self.store.all(read.limit(most.saturating_add(STEP_ROWS))).await?;
        let mut finalised: Vec<_> = rows.iter().filter_map(|row| Some((row.finalised_ms?, &row.delay_id))).collect();
        let too_many = finalised.len().saturating_sub(FINALISED_MAX as usize);
        if too_many == 0 {
            return Ok(());
        }
        finalised.sort_unstable();
        let mut batch = CommitBatch::new();
        for (_, delay_id) in finalised.iter().take(too_many) {
            batch.delete::<DelayedEventRow>(key(delay_id));
        }
        match self.store.commit(batch).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Forgets a user's delayed events, scheduled and finalised.
    ///
    /// # Errors
    /// As the store says.
    pub async fn forget_delayed(&self, user: &UserId) -> Result<()> {
        let along = || Read::along::<DelayedEventRow>(DelayedEventRow::BY_USER, vec![Value::from(user)]);
        while self.remove_delayed(along()).await? {}
        Ok(())
    }

    /// Removes some of the rows of a read; true if there may be more.
    async fn remove_delayed(&self, read: Read) -> Result<bool> {
        let rows: Vec<DelayedEventRow> = self.store.all(read.limit(STEP_ROWS)).await?;
        let mut batch = CommitBatch::new();
        for row in &rows {
            batch.delete::<DelayRow>(key(&row.delay_id)).delete::<DelayedEventRow>(key(&row.delay_id));
        }
        if batch.is_empty() {
            return Ok(false);
        }
        match self.store.commit(batch).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(true),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }
}

fn key(delay_id: &str) -> Vec<Value> {
    vec![Value::from(delay_id)]
}
