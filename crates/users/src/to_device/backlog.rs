//! What waits for a device of users of other servers, with its bounds.
//!
//! A device may be away for months, so nobody can be asked to wait until it has fetched its messages: the sender's whole
//! server would be held up, with all its rooms, because of one device. Nor may what one sender sends cost another's messages.
//! So each sender has a bound of its own at each device, and what goes beyond is dropped. Senders of whom this server knows
//! nothing can be made up without end: all senders of their server together have a bound for them, which is larger, since
//! one of them may have come just now, in a room that is yet to be judged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use store::tables::users::ToDeviceRow;
use store::{DeviceId, Read, Store, StreamPosition, UserId};

use crate::Error;

/// Most that waits for a device of one sender, in units.
const UNITS_MAX: usize = 10_000;
/// Most that waits for a device of all senders of a server when one who is not known adds to it, in units.
const SERVER_UNITS_MAX: usize = 2 * UNITS_MAX;
/// Bytes of one unit. A room's key has about half of it.
const UNIT_BYTES: usize = 4 * 1_024;
/// Once a device's messages have been counted and there are too many, they are not counted again for so long.
const RECOUNT_MS: i64 = 60_000;
/// The same where the device has fetched some since.
const RECOUNT_FEWER_MS: i64 = 1_000;
/// Rows that are read at a time.
const PAGE: u32 = 100;
/// Devices of which the counts are remembered.
const DEVICES_MAX: usize = 2_000;

/// A device of a user.
type Key = (UserId, DeviceId);

/// The units that wait for devices.
#[derive(Default)]
pub(crate) struct Backlogs {
    by_device: Mutex<HashMap<Key, Backlog>>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Backlog {
    by_sender: HashMap<UserId, usize>,
    counted_ms: i64,
    /// The device has fetched messages since: there are no more than this, and may be fewer.
    fewer: bool,
}

impl Backlog {
    fn add(&mut self, sender: &UserId, content: &str) {
        *self.by_sender.entry(sender.clone()).or_default() += 1 + content.len() / UNIT_BYTES;
    }

    fn is_full(&self, sender: &UserId, known: bool) -> bool {
        if self.by_sender.get(sender).is_some_and(|units| *units >= UNITS_MAX) {
            return true;
        }
        if known {
            return false;
        }
        let server = sender.server_name();
        let of_server = self.by_sender.iter().filter(|(sender, _)| sender.server_name() == server);
        of_server.map(|(_, units)| units).sum::<usize>() >= SERVER_UNITS_MAX
    }
}

impl Backlogs {
    /// How many messages were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Counts a message in, unless too much waits already.
    pub async fn admit(
        &self,
        store: &Store,
        now_ms: i64,
        device: &Key,
        (sender, known): (&UserId, bool),
        content: &str,
    ) -> Result<bool, Error> {
        // Another process may have delivered what waited: that shows when it is counted anew.
        let fresh = |backlog: &Backlog| {
            let recount_ms = if backlog.fewer { RECOUNT_FEWER_MS } else { RECOUNT_MS };
            now_ms.saturating_sub(backlog.counted_ms) < recount_ms
        };
        let is_counted = |backlog: &Backlog| fresh(backlog) || !backlog.is_full(sender, known);
        if !self.by_device.lock().get(device).is_some_and(is_counted) {
            let counted = count(store, device, now_ms).await?;
            if counted.is_full(sender, known) {
                tracing::warn!(%sender, user = %device.0, device = %device.1, "too many of its messages wait: more are dropped");
            }
            let mut by_device = self.by_device.lock();
            if by_device.len() >= DEVICES_MAX {
                by_device.clear();
            }
            by_device.insert(device.clone(), counted);
        }
        let mut by_device = self.by_device.lock();
        let backlog = by_device.entry(device.clone()).or_default();
        let admitted = !backlog.is_full(sender, known);
        if admitted {
            backlog.add(sender, content);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(admitted)
    }

    /// The device has fetched messages.
    pub fn fetched(&self, user: &UserId, device: &DeviceId) {
        if let Some(backlog) = self.by_device.lock().get_mut(&(user.clone(), device.clone())) {
            backlog.fewer = true;
        }
    }
}

/// What waits for a device now.
async fn count(store: &Store, (user, device): &Key, now_ms: i64) -> Result<Backlog, Error> {
    let mut backlog = Backlog { counted_ms: now_ms, ..Backlog::default() };
    let mut after = StreamPosition::ZERO;
    loop {
        let read = Read::prefix::<ToDeviceRow>(vec![user.into(), device.into()]).after(after).limit(PAGE);
        let rows: Vec<ToDeviceRow> = store.all(read).await?;
        let Some(last) = rows.last() else { return Ok(backlog) };
        after = last.pos;
        rows.iter().for_each(|row| backlog.add(&row.sender, &row.content));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_have_a_bound_and_strangers_another_with_their_server() {
        let user = |name: &str| UserId::from(format!("@{name}:evil.test").as_str());
        let mut backlog = Backlog::default();
        for name in ["a", "b"] {
            for _ in 0..UNITS_MAX - 1 {
                backlog.add(&user(name), "{}");
            }
            assert!(!backlog.is_full(&user(name), true), "one more");
            backlog.add(&user(name), "{}");
            assert!(backlog.is_full(&user(name), true) && backlog.is_full(&user(name), false));
            assert!(!backlog.is_full(&user("known"), true), "what others send costs nobody anything");
            assert_eq!(backlog.is_full(&user("stranger"), false), name == "b");
        }
        assert!(!backlog.is_full(&UserId::from("@stranger:good.test"), false));
        backlog.add(&user("large"), &"x".repeat(UNIT_BYTES * UNITS_MAX));
        assert!(backlog.is_full(&user("large"), true));
    }
}
