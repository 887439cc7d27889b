//! Looking up many events of a room by id, a bounded number at a time, without reading their bytes.

use std::collections::HashMap;

use ruma_common::OwnedEventId;
use store::Read;
use store::tables::rooms::EventRow;

use crate::room::Room;
use crate::{Result, Rooms};

/// Rows that are asked for in one read.
pub(super) const LOOKUP_CHUNK: usize = 250;

impl Rooms {
    /// The committed rows of those of the events that are stored, by id.
    pub(super) async fn rows_by_id<'a>(
        &self,
        room: &Room,
        ids: impl IntoIterator<Item = &'a OwnedEventId>,
    ) -> Result<HashMap<OwnedEventId, EventRow>> {
        let ids: Vec<&OwnedEventId> = ids.into_iter().collect();
        let mut found = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(LOOKUP_CHUNK) {
            let reads = chunk
                .iter()
                .map(|id| Read::along::<EventRow>(EventRow::BY_ID, vec![room.num.into(), id.as_str().into()]).limit(1));
            let rows = self.store.read(reads.collect()).await?;
            for (id, rows) in chunk.iter().zip(rows) {
                if let Some(row) = rows.one::<EventRow>()? {
                    found.insert((*id).clone(), row);
                }
            }
        }
        Ok(found)
    }
}
