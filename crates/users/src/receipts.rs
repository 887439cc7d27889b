//! Receipts and read markers (client-server API, "Receipts", "Fully read markers"; behaviours CR25, CR32).

use serde_json::json;
use store::tables::users::ReceiptRow;
use store::{CommitBatch, EventNum, Read, RoomNum, StreamKind, StreamPosition, UserId, Value};

use crate::account_data::{FULLY_READ, add_account_data};
use crate::accounts::expect_unchanged;
use crate::{Error, RETRIES_MAX, Users};

/// Rows that are read at first: usually there are fewer, and a store answers a read of so few on the spot.
const FEW: u32 = 4;

/// The type of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptType {
    /// Seen by the whole room.
    Read,
    /// Seen by nobody but its user.
    ReadPrivate,
    /// The user's own marker; account data of the room.
    FullyRead,
}

impl ReceiptType {
    /// The specification's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "m.read",
            Self::ReadPrivate => "m.read.private",
            Self::FullyRead => FULLY_READ,
        }
    }

    /// From the specification's word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Read, Self::ReadPrivate, Self::FullyRead].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// The event that a receipt points to, and its place in the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadUpTo {
    /// The event id.
    pub event_id: String,
    /// The event's number, if it is known.
    pub event: Option<EventNum>,
    /// Its stream position, by which receipts are compared; zero if unknown.
    pub pos: StreamPosition,
    /// The room's message counter at the event.
    pub messages: i64,
}

impl Users {
    /// Sets a receipt of a local user, unless a newer event has one. `thread` is the thread root's event id, `main`, or
    /// empty for an unthreaded receipt. Whether the thread fits the event is for the caller. True if it moved.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Conflict`].
    pub async fn set_receipt(
        &self,
        room: RoomNum,
        room_id: &str,
        user: &UserId,
        kind: ReceiptType,
        thread: &str,
        target: &ReadUpTo,
    ) -> Result<bool, Error> {
        self.move_receipt(room, room_id, user, kind, thread, target, self.now()).await
    }

    /// Sets a receipt of a remote user, with the time that its server gives.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Conflict`].
    pub async fn receive_receipt(
        &self,
        room: RoomNum,
        user: &UserId,
        thread: &str,
        target: &ReadUpTo,
        ts: i64,
    ) -> Result<bool, Error> {
        self.move_receipt(room, "", user, ReceiptType::Read, thread, target, ts).await
    }

    #[expect(clippy::too_many_arguments, reason = "a receipt has so many parts")]
    async fn move_receipt(
        &self,
        room: RoomNum,
        room_id: &str,
        user: &UserId,
        kind: ReceiptType,
        thread: &str,
        target: &ReadUpTo,
        ts: i64,
    ) -> Result<bool, Error> {
        let key = vec![room.into(), Value::from(user), Value::from(kind.as_str()), Value::from(thread)];
        for _ in 0..RETRIES_MAX {
            let before: Option<ReceiptRow> = self.store.get(key.clone()).await?;
            if before.as_ref().is_some_and(|before| !is_newer(before, target)) {
                return Ok(false);
            }
            let mut batch = CommitBatch::new();
            match before {
                Some(before) => expect_unchanged(&mut batch, before),
                None => drop(batch.expect_absent::<ReceiptRow>(key.clone())),
            }
            let pos = if kind == ReceiptType::FullyRead {
                let content = json!({ "event_id": target.event_id }).to_string();
                add_account_data(&mut batch, user, room_id, FULLY_READ, content)?;
                StreamPosition::pending(0)
            } else {
                // A private receipt wakes its user only.
                let woken = (kind == ReceiptType::Read).then_some(room);
                batch.announce(StreamKind::Receipt, woken, Some(user.clone()), Some(room.0))
            };
            batch.put(ReceiptRow {
                room,
                user_id: user.clone(),
                receipt_type: kind.as_str().to_owned(),
                thread: thread.to_owned(),
                event_id: target.event_id.clone(),
                event: target.event,
                event_pos: target.pos,
                messages: target.messages,
                ts,
                pos,
            });
            match self.commit(batch).await {
                Err(Error::Conflict) => {}
                outcome => return outcome.map(|_| true),
            }
        }
        Err(Error::Conflict)
    }

    /// The receipts of a room that moved after `since`, up to and including `up_to`, as `viewer` may see them: without
    /// others' private ones, and without read markers.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn receipts_since(
        &self,
        room: RoomNum,
        since: StreamPosition,
        up_to: StreamPosition,
        viewer: &UserId,
    ) -> Result<Vec<ReceiptRow>, Error> {
        let read = Read::along::<ReceiptRow>(ReceiptRow::BY_POS, vec![room.into()]).after(since).up_to(up_to);
        let mut rows = self.few_or_all(read).await?;
        rows.retain(|row| row.receipt_type == "m.read" || is_private_of(row, viewer));
        Ok(rows)
    }

    /// All receipts and markers of one user in a room, from which unread counts begin.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn receipts_of(&self, room: RoomNum, user: &UserId) -> Result<Vec<ReceiptRow>, Error> {
        self.few_or_all(Read::prefix::<ReceiptRow>(vec![room.into(), Value::from(user)])).await
    }

    async fn few_or_all(&self, read: Read) -> Result<Vec<ReceiptRow>, Error> {
        let rows = self.store.all(read.clone().limit(FEW)).await?;
        Ok(if rows.len() < FEW as usize { rows } else { self.store.all(read).await? })
    }
}

fn is_private_of(row: &ReceiptRow, viewer: &UserId) -> bool {
    row.receipt_type == "m.read.private" && row.user_id == *viewer
}

/// Receipts go forward only. One that points to an unknown event gives way to any.
fn is_newer(before: &ReceiptRow, target: &ReadUpTo) -> bool {
    target.event_id != before.event_id && (before.event_pos < target.pos || target.pos == StreamPosition::ZERO)
}
