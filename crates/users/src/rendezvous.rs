//! Places where two devices meet that do not know each other yet, one of which signs the other in by a QR code
//! (MSC4108, MSC4388): a few thousand bytes that both read and overwrite, for some minutes.
//!
//! Strangers may open them, so they take bounded room: there is a fixed number of slots, and an id names its slot. Some of
//! them are for users alone, so that strangers cannot keep users from helping a new device of theirs.

use std::ops::Range;

use store::clock::random_text;
use store::tables::users::RendezvousRow;
use store::{CommitBatch, Read, Value};
use subtle::ConstantTimeEq;

use crate::{Error, Users};

/// Bytes of what is left at a place.
pub const PAYLOAD_BYTES_MAX: usize = 4_096;

/// How long a place is there, in milliseconds: as long as the proposals allow, since a person signs in meanwhile.
pub const LIFETIME_MS: i64 = 5 * 60 * 1_000;

/// Slots that anybody may take.
const SLOTS_OF_ALL: Range<u64> = 0..768;

/// Slots that users may take.
const SLOTS_OF_USERS: Range<u64> = 0..1_024;

/// Slots of which one must be free to open a place.
const LOOKS: usize = 8;

/// Characters of an id behind its slot: 190 bits, so that nobody finds a place who was not told.
const SECRET_LENGTH: usize = 32;

/// How often a slot is looked for after another request took it.
const TRIES_MAX: usize = 4;

/// What a place holds at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// What was left there last.
    pub data: Vec<u8>,
    /// Rises with each write.
    pub sequence: i64,
    /// When it was left there, in milliseconds since the epoch.
    pub changed_ms: i64,
    /// When the place ends, in milliseconds since the epoch.
    pub expires_ms: i64,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is what the place holds now.
    Done(Payload),
    /// The place holds something else than the writer has seen.
    Overtaken(Payload),
    /// There is no such place.
    Nowhere,
}

impl Users {
    /// Opens a place for devices that speak `dialect`; answers its id. None if there are too many.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Store`].
    pub async fn open_rendezvous(
        &self,
        dialect: &str,
        data: Vec<u8>,
        for_user: bool,
    ) -> Result<Option<(String, Payload)>, Error> {
        check_size(&data)?;
        for _ in 0..TRIES_MAX {
            let Some((slot, former)) = self.free_slot(for_user).await? else { return Ok(None) };
            let now_ms = self.now();
            let secret = random_text(&*self.entropy, SECRET_LENGTH);
            let row = RendezvousRow {
                slot,
                secret: secret.clone(),
                dialect: dialect.to_owned(),
                data: data.clone(),
                sequence: 1,
                changed_ms: now_ms,
                expires_ms: now_ms + LIFETIME_MS,
            };
            let mut batch = CommitBatch::new();
            match former {
                Some(former) => batch.expect_equals::<RendezvousRow>(vec![slot.into()], "secret", former.secret),
                None => batch.expect_absent::<RendezvousRow>(vec![slot.into()]),
            };
            let payload = Payload::from(&row);
            batch.put(row);
            match self.commit(batch).await {
                Ok(_) => return Ok(Some((format!("{slot}-{secret}"), payload))),
                Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// A slot that is free, and whose time has come that was there before.
    async fn free_slot(&self, for_user: bool) -> Result<Option<(i64, Option<RendezvousRow>)>, Error> {
        let slots = if for_user { SLOTS_OF_USERS } else { SLOTS_OF_ALL };
        let chosen: Vec<i64> = (0..LOOKS).map(|_| self.random_below(slots.end)).collect();
        let reads = chosen.iter().map(|slot| Read::get::<RendezvousRow>(vec![(*slot).into()]));
        let now_ms = self.now();
        for (slot, rows) in chosen.iter().zip(self.store.read(reads.collect()).await?) {
            let row = rows.one::<RendezvousRow>()?;
            if row.as_ref().is_none_or(|row| row.expires_ms <= now_ms) {
                return Ok(Some((*slot, row)));
            }
        }
        Ok(None)
    }

    fn random_below(&self, end: u64) -> i64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        i64::try_from(u64::from_le_bytes(bytes) % end).unwrap_or_default()
    }

    /// What a place holds, if it is there.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn rendezvous(&self, dialect: &str, id: &str) -> Result<Option<Payload>, Error> {
        Ok(self.rendezvous_row(dialect, id).await?.as_ref().map(Payload::from))
    }

    async fn rendezvous_row(&self, dialect: &str, id: &str) -> Result<Option<RendezvousRow>, Error> {
        let Some((slot, secret)) = id.split_once('-') else { return Ok(None) };
        let Ok(slot) = slot.parse::<i64>() else { return Ok(None) };
        let row = self.store.get::<RendezvousRow>(vec![slot.into()]).await?;
        let now_ms = self.now();
        Ok(row.filter(|row| {
            let same: bool = row.secret.as_bytes().ct_eq(secret.as_bytes()).into();
            same && row.dialect == dialect && row.expires_ms > now_ms
        }))
    }

    /// Leaves something at a place, for whoever has seen what is there. The same once more changes nothing, for whoever did
    /// not get the answer.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Store`].
    pub async fn write_rendezvous(
        &self,
        dialect: &str,
        id: &str,
        seen: Option<i64>,
        data: Vec<u8>,
    ) -> Result<Written, Error> {
        check_size(&data)?;
        let Some(row) = self.rendezvous_row(dialect, id).await? else { return Ok(Written::Nowhere) };
        if seen != Some(row.sequence) {
            let known = Payload::from(&row);
            return Ok(if row.data == data { Written::Done(known) } else { Written::Overtaken(known) });
        }
        let key = vec![Value::from(row.slot)];
        let mut batch = CommitBatch::new();
        batch.expect_equals::<RendezvousRow>(key.clone(), "secret", row.secret.as_str());
        batch.expect_equals::<RendezvousRow>(key, "sequence", row.sequence);
        let row = RendezvousRow { data, sequence: row.sequence + 1, changed_ms: self.now(), ..row };
        let payload = Payload::from(&row);
        batch.put(row);
        match self.commit(batch).await {
            Ok(_) => Ok(Written::Done(payload)),
            Err(Error::Conflict) => {
                let now = self.rendezvous(dialect, id).await?;
                Ok(now.map_or(Written::Nowhere, Written::Overtaken))
            }
            Err(error) => Err(error),
        }
    }

    /// Ends a place; whether there was one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn close_rendezvous(&self, dialect: &str, id: &str) -> Result<bool, Error> {
        let Some(row) = self.rendezvous_row(dialect, id).await? else { return Ok(false) };
        let key = vec![Value::from(row.slot)];
        let mut batch = CommitBatch::new();
        batch.expect_equals::<RendezvousRow>(key.clone(), "secret", row.secret).delete::<RendezvousRow>(key);
        match self.commit(batch).await {
            Ok(_) => Ok(true),
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes places whose time has come, unless another is in their slot by now.
    pub(crate) async fn remove_ended_rendezvous(&self, rows_max: u32) -> Result<(), Error> {
        let read = Read::along::<RendezvousRow>(RendezvousRow::BY_EXPIRY, vec![]).up_to(self.now()).limit(rows_max);
        for row in self.store.all::<RendezvousRow>(read).await? {
            let (key, mut batch) = (vec![Value::from(row.slot)], CommitBatch::new());
            batch.expect_equals::<RendezvousRow>(key.clone(), "secret", row.secret).delete::<RendezvousRow>(key);
            match self.commit(batch).await {
                Ok(_) | Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn check_size(data: &[u8]) -> Result<(), Error> {
    if data.len() > PAYLOAD_BYTES_MAX { Err(Error::TooLarge("the payload")) } else { Ok(()) }
}

impl From<&RendezvousRow> for Payload {
    fn from(row: &RendezvousRow) -> Self {
        Self { data: row.data.clone(), sequence: row.sequence, changed_ms: row.changed_ms, expires_ms: row.expires_ms }
    }
}
