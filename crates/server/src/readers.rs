//! What runs beside the requests: what time brings (expiry, rewriting of redacted events), each run bounded and free to
//! fail, since the next one goes on; and what a restored backup needs before it is served.

use std::time::Duration;

use store::tables::core::JobRow;
use store::tables::users::OneTimeKeyRow;
use store::{CommitBatch, Nodes as _, Read, Store, Value};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::boot::Running;
use crate::control::Current;

/// How often the rooms are told that time has passed.
const TICK: Duration = Duration::from_secs(1);
/// How often expired things are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// Redacted events that are rewritten in one run.
const REDACTIONS_MAX: u32 = 500;
/// Jobs of one kind that are looked at.
const JOBS_MAX: u32 = 100;
/// By this name the nodes decide who of them sends delayed events.
const DELAYED_EVENTS: &str = "delayed_events";
/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Runs until `stop` becomes true.
pub async fn run(current: Current, mut stop: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(TICK);
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let keep_house = tokio::select! {
            _ = tick.tick() => false,
            _ = housekeeping.tick() => true,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let Some(running) = current() else { continue };
        if keep_house {
            tokio::select! {
                () = running.housekeeping() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        } else {
            running.tick().await;
        }
    }
}

/// Sends mails that wait, until `stop` becomes true. Apart from [`run`], since a mail server may be slow.
pub async fn send_mails(current: Current, mut stop: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let Some(running) = current() else { continue };
        tokio::select! {
            sent = running.users.send_mails() => {
                if let Err(cause) = sent {
                    tracing::warn!(%cause, "mails that wait could not be sent");
                }
            }
            // What is under way goes again after the next start.
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Sends delayed events when they are due, until `stop` becomes true. Apart from [`run`], since a room may take long.
pub async fn send_delayed(current: Current, mut stop: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let Some(running) = current() else { continue };
        tokio::select! {
            () = running.send_delayed() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

impl Running {
    /// Sends the delayed events that are due, if no other node does; to be called about once a second. Should two nodes
    /// hold themselves for the one, each event is sent once all the same.
    pub async fn send_delayed(&self) {
        if self.nodes.is_mine(DELAYED_EVENTS)
            && let Err(cause) = client_api::room::delayed_events::send_due(&self.api).await
        {
            tracing::warn!(?cause, "delayed events could not be sent");
        }
    }

    /// What is due by time alone, or by what has been decided since, to be called about once a second.
    pub async fn tick(&self) {
        self.users.tick();
        if let Some(push) = &self.push {
            push.tick();
        }
        if self.rooms.has_closed_to_guests()
            && let Err(cause) = client_api::account::jobs::part_with_guests(&self.users, &self.rooms).await
        {
            tracing::warn!(?cause, "guests could not be made to leave a room that has closed to them");
        }
    }

    /// Removes what has expired, and goes on with jobs; to be called about once a minute.
    pub async fn housekeeping(&self) {
        if let Err(cause) = self.users.prune().await {
            tracing::warn!(%cause, "expired sessions and tokens could not be removed");
        }
        if let Err(cause) = client_api::account::jobs::resume(&self.users, &self.rooms).await {
            tracing::warn!(?cause, "what changed accounts do to their rooms could not be finished");
        }
        if let Err(cause) = self.rooms.rewrite_redacted(REDACTIONS_MAX).await {
            tracing::warn!(%cause, "redacted events could not be rewritten");
        }
        if let Err(cause) = self.rooms.prune_sticky().await {
            tracing::warn!(%cause, "events that are sticky no more could not be forgotten");
        }
        if let Err(cause) = self.rooms.prune_delayed().await {
            tracing::warn!(%cause, "what became of delayed events some days ago could not be forgotten");
        }
        if let Err(cause) = self.rooms.retry_waiting().await {
            tracing::warn!(%cause, "events whose predecessors have come could not be judged");
        }
        if let Err(cause) = self.rooms.collect_unjoined().await {
            tracing::warn!(%cause, "what joins left behind could not be removed");
        }
        if let Some(remote) = &self.remote
            && let Err(cause) = remote.federation.prune().await
        {
            tracing::warn!(%cause, "old answers to other servers could not be removed");
        }
        if let Err(cause) = self.rooms.resume_purges().await {
            tracing::warn!(%cause, "purged rooms could not be removed to the end");
        }
        let kept_ms = i64::from(self.config.media_remote_days).saturating_mul(DAY_MS);
        if kept_ms > 0
            && let Err(cause) = self.media.purge_remote(self.clock.now_ms().saturating_sub(kept_ms)).await
        {
            tracing::warn!(%cause, "media of other servers that nobody asks for could not be removed");
        }
        if let Some(previews) = &self.api.previews
            && let Err(cause) = previews.purge().await
        {
            tracing::warn!(%cause, "old previews of URLs could not be removed");
        }
        let bytes_max = self.config.media_remote_bytes_max;
        if bytes_max > 0
            && let Err(cause) = self.media.shrink_remote(bytes_max).await
        {
            tracing::warn!(%cause, "media of other servers for which there is no room could not be removed");
        }
    }
}

/// Does what must be done once after a restore, before anything is served; each job is deleted with what it did.
///
/// # Errors
/// As the store says.
pub async fn after_restore(store: &Store) -> Result<(), store::Error> {
    let kind = Value::from(sqlite::backup::AFTER_RESTORE);
    let jobs: Vec<JobRow> = store.all(Read::prefix::<JobRow>(vec![kind]).limit(JOBS_MAX)).await?;
    for job in jobs {
        let mut batch = CommitBatch::new();
        match job.name.as_str() {
            // Keys that were claimed after the backup must not be claimed again: devices upload new ones.
            "drop_one_time_keys" => drop(batch.delete_prefix::<OneTimeKeyRow>(Vec::new())),
            // There are no sessions with other servers: no peer holds positions or transaction ids of ours.
            "mark_device_lists_stale" | "new_transaction_ids_to_peers" => {}
            name => {
                tracing::warn!(name, "a job of a restored backup is not known");
                continue;
            }
        }
        batch.delete::<JobRow>(vec![Value::from(job.kind.as_str()), Value::from(job.name.as_str())]);
        if let Err(store::CommitError::Store(error)) = store.commit(batch).await {
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use store::Row;
    use store::model::Model;

    use super::*;

    #[tokio::test]
    async fn a_restored_server_forgets_one_time_keys_once() {
        let store = Store::new(Arc::new(Model::new())).await.unwrap();
        for name in sqlite::backup::RESTORE_JOBS {
            let (kind, name) = (sqlite::backup::AFTER_RESTORE.to_owned(), name.to_owned());
            let job = JobRow { kind, name, cursor: String::new(), due_ms: 0, failures: 0 };
            store.engine().import(JobRow::TABLE, vec![job.into_values()]).await.unwrap();
        }
        let columns = OneTimeKeyRow::TABLE.columns.iter();
        let key: Vec<Value> = columns
            .map(|column| match column.column_type {
                store::ColumnType::Int | store::ColumnType::Position => Value::Int(1),
                store::ColumnType::Text => Value::from("a"),
                store::ColumnType::Blob => Value::Blob(vec![1]),
            })
            .collect();
        let count = async || store.all::<OneTimeKeyRow>(Read::prefix::<OneTimeKeyRow>(vec![])).await.unwrap().len();

        store.engine().import(OneTimeKeyRow::TABLE, vec![key.clone()]).await.unwrap();
        after_restore(&store).await.unwrap();
        assert_eq!(count().await, 0);
        assert!(store.all::<JobRow>(Read::prefix::<JobRow>(vec![])).await.unwrap().is_empty());

        store.engine().import(OneTimeKeyRow::TABLE, vec![key]).await.unwrap();
        after_restore(&store).await.unwrap();
        assert_eq!(count().await, 1);
    }
}
