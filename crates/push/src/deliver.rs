//! One pusher's task: what waits for it goes to its gateway, one after the other, as long as it is worth telling.

use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use store::tables::push::{PushRow, PushStateRow};
use store::{CommitBatch, Read, StreamPosition, Value};

use crate::notification::{self, Notice};
use crate::people::{Seat, Settings, UNKNOWN};
use crate::{Answer, Counters, Push, Result, Unreachable};

/// Rows of a queue that are read at a time.
const PAGE: u32 = 50;

/// What became of a push.
enum Outcome {
    /// The gateway took it.
    Taken,
    /// It did not; the pusher is left alone for a while.
    Failed,
    /// The pusher is gone.
    Gone,
}

impl Push {
    /// Sends until nothing waits, or the gateway fails.
    pub(crate) async fn deliver(self: &Arc<Self>, seat: &Arc<Seat>) {
        let mut stopping = self.stopping.subscribe();
        let work = async {
            while seat.goes_on(self.clock.now_ms()) {
                let delivered = match seat.settings().by_mail {
                    true => self.deliver_by_mail(seat).await,
                    false => self.deliver_page(seat).await,
                };
                if let Err(error) = delivered {
                    tracing::warn!(user = %seat.user, %error, "what waits for a pusher cannot be read");
                    self.put_off(seat);
                }
            }
        };
        tokio::select! {
            () = work => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    /// Sends what waits, up to some number of rows. Each push takes the rows with it that stand before it, and tells the
    /// number of unread messages too: that goes alone only where no event is left to tell of.
    async fn deliver_page(self: &Arc<Self>, seat: &Arc<Seat>) -> Result<()> {
        let rows: Vec<PushRow> = self.store.all(Read::prefix::<PushRow>(seat.key()).limit(PAGE)).await?;
        let Some(last) = rows.last().map(|row| row.pos) else { return Ok(()) };
        if rows.len() >= PAGE as usize {
            seat.fill();
        }
        let mut told = false;
        for row in &rows {
            if seat.is_gone() {
                return Ok(());
            }
            let notice = self.notice_surely(seat, row).await?;
            told = notice.is_some();
            if told {
                match self.push(seat, notice).await? {
                    Outcome::Taken => self.settle_taken(seat, row.pos).await?,
                    Outcome::Failed | Outcome::Gone => return Ok(()),
                }
            }
        }
        if !told && rows.len() >= PAGE as usize {
            // There may be more: the last row stays, and what stands behind it decides.
            let before = rows.iter().rev().nth(1).map_or(StreamPosition::ZERO, |row| row.pos);
            return self.settle(seat, before).await;
        }
        let badge_told = seat.queue.lock().state.badge;
        if !told && self.badge(&seat.user).await? != badge_told {
            match self.push(seat, None).await? {
                Outcome::Taken => return self.settle_taken(seat, last).await,
                Outcome::Failed | Outcome::Gone => return Ok(()),
            }
        }
        self.settle(seat, last).await
    }

    /// What a row tells: nothing if it cannot be told, so that one broken room does not hold up the others.
    pub(crate) async fn notice_surely(&self, seat: &Seat, row: &PushRow) -> Result<Option<Notice>> {
        match self.notice(seat, row).await {
            Err(error) if !error.will_pass() => {
                tracing::warn!(user = %seat.user, pos = row.pos.0, %error, "what a push is to tell cannot be read");
                Ok(None)
            }
            notice => notice,
        }
    }

    /// What a row tells, as long as it is worth telling: the event is still unread, and not too old.
    async fn notice(&self, seat: &Seat, row: &PushRow) -> Result<Option<Notice>> {
        let (Some(room), Some(event)) = (row.room, row.event) else { return Ok(None) };
        if self.clock.now_ms().saturating_sub(row.queued_ms) > self.options.queued_ms_max {
            return Ok(None);
        }
        let actions: Vec<Json> = serde_json::from_str(&row.actions).unwrap_or_default();
        self.notice_of(&seat.user, room, event, tweaks(&actions)).await
    }

    /// Sends one push: of an event, or of the number of unread messages alone.
    async fn push(self: &Arc<Self>, seat: &Arc<Seat>, notice: Option<Notice>) -> Result<Outcome> {
        let settings = seat.settings();
        let badge = self.badge(&seat.user).await?;
        let shown = (badge > 0 || self.options.zero_counts).then_some(badge);
        let body = notification::body(notice, shown, settings.device.clone(), settings.ids_only);
        let answer = self.send(seat, &settings, body).await;
        if seat.is_gone() {
            return Ok(Outcome::Gone);
        }
        match answer {
            Ok(answer) if answer.is_success() => {
                if answer.rejects(&seat.pushkey) {
                    tracing::info!(user = %seat.user, app = seat.app_id, "a gateway rejects a pusher, which is removed");
                    let (user, app) = (&seat.user, &seat.app_id);
                    if self.users.delete_rejected_pusher(user, app, &seat.pushkey, settings.pos).await? {
                        Counters::add(&self.counters.rejected);
                        seat.leave();
                        return Ok(Outcome::Gone);
                    }
                }
                let mut queue = seat.queue.lock();
                if queue.state.failures > 0 {
                    tracing::info!(user = %seat.user, url = settings.url, "a push gateway answers again");
                }
                queue.state =
                    PushStateRow { badge, failures: 0, failing_since_ms: 0, retry_at_ms: 0, ..queue.state.clone() };
                queue.fails = false;
                Ok(Outcome::Taken)
            }
            Ok(answer) => {
                self.failed(seat, &settings, &format!("it answers with status {}", answer.status)).await?;
                Ok(Outcome::Failed)
            }
            Err(error) => {
                self.failed(seat, &settings, &error.to_string()).await?;
                Ok(Outcome::Failed)
            }
        }
    }

    async fn send(
        &self,
        seat: &Seat,
        settings: &Settings,
        body: bytes::Bytes,
    ) -> std::result::Result<Answer, Unreachable> {
        let closed = |_| Unreachable("this server stops".to_owned());
        // First among those of the same user, then among those of the same gateway, so that neither who names many gateways
        // nor a slow one holds the places of all; and those that do not answer keep none waiting but each other.
        let _of_user = seat.turns.acquire().await.map_err(closed)?;
        let _at_gateway = settings.places.acquire().await.map_err(closed)?;
        let fails = seat.queue.lock().fails;
        let _under_way = if fails { &self.tries } else { &self.under_way }.acquire().await.map_err(closed)?;
        if seat.is_gone() {
            return Err(Unreachable("the pusher is gone".to_owned()));
        }
        self.gateways.notify(&settings.url, body).await
    }

    async fn failed(self: &Arc<Self>, seat: &Arc<Seat>, settings: &Settings, error: &str) -> Result<()> {
        Counters::add(&self.counters.failed);
        let state = self.put_off(seat);
        if state.failures == 1 {
            tracing::info!(user = %seat.user, url = settings.url, error, "a push gateway fails");
        } else {
            tracing::debug!(user = %seat.user, url = settings.url, failures = state.failures, error, "a push gateway still fails");
        }
        let mut batch = CommitBatch::new();
        batch.put(state);
        self.commit_for(&seat.user, batch).await
    }

    /// The pusher is left alone for a while.
    fn put_off(&self, seat: &Arc<Seat>) -> PushStateRow {
        let now_ms = self.clock.now_ms();
        let mut queue = seat.queue.lock();
        queue.fails = true;
        let state = &mut queue.state;
        state.failures = state.failures.saturating_add(1);
        // It may have heard what it did not answer.
        state.badge = UNKNOWN;
        if state.failing_since_ms == 0 {
            state.failing_since_ms = now_ms;
        }
        let failures = u32::try_from(state.failures).unwrap_or(u32::MAX);
        let (first, max) = (self.options.retry_first, self.options.retry_max);
        let wait = store::clock::back_off(first, max, failures, self.entropy.as_ref());
        state.retry_at_ms = now_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        let state = state.clone();
        drop(queue);
        seat.fill();
        self.put_off.lock().push(Arc::clone(seat));
        state
    }

    /// A push was taken, and that is noted.
    async fn settle_taken(&self, seat: &Seat, up_to: StreamPosition) -> Result<()> {
        self.settle(seat, up_to).await?;
        Counters::add(&self.counters.delivered);
        Ok(())
    }

    /// Deletes the rows up to a position, and stores what the gateway was told last.
    async fn settle(&self, seat: &Seat, up_to: StreamPosition) -> Result<()> {
        if up_to == StreamPosition::ZERO {
            return Ok(());
        }
        let state = seat.queue.lock().state.clone();
        let mut batch = CommitBatch::new();
        batch.delete_range::<PushRow>(seat.key(), Bound::Unbounded, Bound::Included(Value::from(up_to)));
        batch.put(state);
        self.commit_for(&seat.user, batch).await
    }

    /// Deletes the oldest rows of a queue in which too many wait.
    pub(crate) async fn trim(&self, seat: &Seat) -> Result<()> {
        let limit = u32::try_from(self.options.queued_max).unwrap_or(u32::MAX).saturating_add(1);
        let newest = Read::prefix::<PushRow>(seat.key()).reverse().limit(limit);
        let rows: Vec<PushRow> = self.store.all(newest).await?;
        match rows.get(self.options.queued_max) {
            Some(row) => {
                tracing::info!(user = %seat.user, app = seat.app_id, "pushes for a gateway that fails or is slow are dropped");
                self.settle(seat, row.pos).await
            }
            None => Ok(()),
        }
    }
}

/// The tweaks of a rule's actions. One without a value is switched on.
fn tweaks(actions: &[Json]) -> Map<String, Json> {
    let tweak = |action: &Json| {
        let name = action.get("set_tweak")?.as_str()?.to_owned();
        Some((name, action.get("value").cloned().unwrap_or(Json::Bool(true))))
    };
    actions.iter().filter_map(tweak).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cp6_tweaks_come_from_the_rule() {
        let check = |actions: Json, expected: Json| {
            assert_eq!(Json::Object(tweaks(actions.as_array().map_or(&[], Vec::as_slice))), expected);
        };
        check(json!(["notify"]), json!({}));
        check(json!(["notify", { "set_tweak": "highlight" }]), json!({ "highlight": true }));
        check(
            json!(["notify", { "set_tweak": "sound", "value": "bing" }, { "set_tweak": "highlight", "value": false }, {}]),
            json!({ "sound": "bing", "highlight": false }),
        );
    }
}
