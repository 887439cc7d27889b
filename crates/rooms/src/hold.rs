//! Taking rooms into memory, one or many at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ruma_common::OwnedEventId;
use store::tables::rooms::{
    EventBytesRow, EventRow, LeftOutRow, MembershipRow, MutedRow, PartialRoomRow, RoomRow, RoomServerRow,
};
use store::{EventNum, Read, RoomNum};

use crate::event::{state_after, stored_rules};
use crate::load::lost;
use crate::remote::left_out::LeftOutEvents;
use crate::room::{Extremity, Head, Room};
use crate::state::Roots;
use crate::state_tree::Root;
use crate::{Result, Rooms, packed};

/// Rooms that are loaded together.
const TOGETHER: usize = 100;

/// A room as it is stored, but for its events.
struct Stored {
    row: RoomRow,
    joined: Vec<MembershipRow>,
    muted: Vec<MutedRow>,
    servers: Vec<RoomServerRow>,
    partial: Option<PartialRoomRow>,
    left_out: Vec<LeftOutRow>,
    extremities: Vec<EventNum>,
}

/// What rooms need of their events: rows of forward extremities, bytes of create events.
struct Needed {
    rows: HashMap<EventNum, EventRow>,
    bytes: HashMap<EventNum, Vec<u8>>,
    /// [`Rooms::changes_seen`] from before they were read.
    seen: u64,
}

impl Rooms {
    /// The room with this number.
    ///
    /// # Errors
    /// As the store says.
    pub async fn room_by_num(&self, num: RoomNum) -> Result<Option<Arc<Room>>> {
        match self.held(num) {
            Some(room) => Ok(Some(room)),
            None => Ok(self.take_in(&[num]).await?.pop()),
        }
    }

    /// Takes rooms into memory, reading many at a time. From then on a commit in one of them finds its local members there.
    /// Says whether any was not in memory before.
    ///
    /// # Errors
    /// As the store says.
    pub async fn hold(&self, nums: &[RoomNum]) -> Result<bool> {
        let absent: Vec<RoomNum> = {
            let mut rooms = self.rooms.lock();
            nums.iter().copied().filter(|num| rooms.get(*num).is_none_or(|room| room.is_dead())).collect()
        };
        for some in absent.chunks(TOGETHER) {
            self.take_in(some).await?;
        }
        Ok(!absent.is_empty())
    }

    fn held(&self, num: RoomNum) -> Option<Arc<Room>> {
        self.rooms.lock().get(num).filter(|room| !room.is_dead()).cloned()
    }

    /// Those of the rooms that this server knows, taken into memory.
    async fn take_in(&self, nums: &[RoomNum]) -> Result<Vec<Arc<Room>>> {
        // One loader at a time: a room must not exist twice in memory.
        let _loading = self.loading.lock().await;
        let (mut rooms, mut absent) = (Vec::with_capacity(nums.len()), Vec::new());
        for num in nums {
            match self.held(*num) {
                Some(room) => rooms.push(room),
                None => absent.push(*num),
            }
        }
        let loaded: Vec<Arc<Room>> = self.load_rooms(&absent).await?.into_iter().map(Arc::new).collect();
        for room in &loaded {
            // Dead until it is known to be up to date: nobody but this caller may take it from the map.
            room.kill();
            self.rooms.lock().insert(Arc::clone(room));
        }
        // A commit between the read and the insertion was not followed; the row tells.
        let reads = loaded.iter().map(|room| Read::get::<RoomRow>(vec![room.num.into()])).collect();
        let now = self.store.read(reads).await?;
        let held = self.rooms.lock();
        for (room, now) in loaded.iter().zip(now) {
            let version = now.one::<RoomRow>()?.map(|row| row.version);
            // A commit since the insertion was followed, and took the room out.
            let is_held = held.peek(room.num).is_some_and(|held| Arc::ptr_eq(held, room));
            if is_held && version == Some(room.head().row.version) {
                room.dead.store(false, Ordering::Release);
            }
        }
        drop(held);
        rooms.extend(loaded);
        Ok(rooms)
    }

    async fn load_rooms(&self, nums: &[RoomNum]) -> Result<Vec<Room>> {
        if nums.is_empty() {
            return Ok(Vec::new());
        }
        let reads = |num: &RoomNum| {
            [
                Read::get::<RoomRow>(vec![(*num).into()]),
                Read::along::<MembershipRow>(MembershipRow::BY_ROOM, vec![(*num).into(), "join".into()]),
                Read::prefix::<MutedRow>(vec![(*num).into()]),
                Read::prefix::<RoomServerRow>(vec![(*num).into()]),
                Read::get::<PartialRoomRow>(vec![(*num).into()]),
                Read::prefix::<LeftOutRow>(vec![(*num).into()]),
            ]
        };
        let mut found = self.store.read(nums.iter().flat_map(reads).collect()).await?.into_iter();
        let mut next = || found.next().unwrap_or_default();
        let mut stored = Vec::with_capacity(nums.len());
        for _ in nums {
            let [row, joined, muted, servers, partial, left_out] = std::array::from_fn(|_| next());
            let Some(row) = row.one::<RoomRow>()? else { continue };
            let extremities = packed::unpack(0, &row.extremities).map_err(|error| corrupt(error.to_string()))?;
            stored.push(Stored {
                row,
                joined: joined.all()?,
                muted: muted.all()?,
                servers: servers.all()?,
                partial: partial.one()?,
                left_out: left_out.all()?,
                extremities: extremities.into_iter().map(EventNum).collect(),
            });
        }
        let mut needed = self.events_needed(&stored).await?;
        stored.into_iter().map(|stored| self.decode_room(stored, &mut needed)).collect()
    }

    async fn events_needed(&self, stored: &[Stored]) -> Result<Needed> {
        let creates: Vec<EventNum> = stored.iter().map(|stored| EventNum(stored.row.create)).collect();
        let mut nums: BTreeSet<EventNum> = creates.iter().copied().collect();
        nums.extend(stored.iter().flat_map(|stored| &stored.extremities).copied());
        let seen = self.changes_seen();
        let mut reads: Vec<Read> = nums.iter().map(|num| Read::get::<EventRow>(vec![(*num).into()])).collect();
        reads.extend(creates.iter().map(|num| Read::get::<EventBytesRow>(vec![(*num).into()])));
        let mut found = self.store.read(reads).await?;
        let (mut rows, mut bytes) = (HashMap::new(), HashMap::new());
        for found in found.split_off(nums.len()) {
            bytes.extend(found.one::<EventBytesRow>()?.map(|row| (row.event, row.json)));
        }
        for found in found {
            rows.extend(found.one::<EventRow>()?.map(|row| (row.event, row)));
        }
        Ok(Needed { rows, bytes, seen })
    }

    fn decode_room(&self, stored: Stored, needed: &mut Needed) -> Result<Room> {
        let Stored { row, joined, muted, servers, partial, left_out, extremities } = stored;
        let rules = stored_rules(&row.room_version)?;
        let in_room = |num: &EventNum| needed.rows.get(num).filter(|event| event.room == row.room);
        let extremities = extremities.iter().map(|num| extremity(in_room(num).ok_or_else(|| lost(*num))?));
        let extremities = extremities.collect::<Result<Vec<_>>>()?;
        let create = EventNum(row.create);
        let lacking = || corrupt(format!("room {} has no create event", row.room_id));
        let (event, bytes) = (in_room(&create).ok_or_else(lacking)?.clone(), needed.bytes.remove(&create));
        let create = self.decode(event, bytes.ok_or_else(lacking)?, &row.room_version, needed.seen)?;
        let root = |bytes: &[u8]| Root::from_bytes(bytes).map_err(|error| corrupt(error.to_string()));
        let whole_pos = partial.as_ref().map_or(0, |partial| partial.whole_pos.0);
        let head = Head {
            state: Roots { members: root(&row.head_members)?, rest: root(&row.head_rest)? },
            row,
            extremities,
            local: Arc::new(joined.into_iter().map(|row| row.user_id).collect()),
            muted: Arc::new(muted.into_iter().map(|row| row.user_id).collect()),
            servers: Arc::new(servers.into_iter().map(|row| (row.server, row.joined)).collect::<BTreeMap<_, _>>()),
            partial: partial.filter(|_| whole_pos == 0).map(Arc::new),
            left_out: LeftOutEvents::of(&left_out),
        };
        let room = Room::new(head, rules, Arc::clone(&create.pdu));
        room.whole_pos.store(whole_pos, Ordering::Release);
        Ok(room)
    }
}

fn extremity(row: &EventRow) -> Result<Extremity> {
    let id = OwnedEventId::try_from(row.event_id.as_str()).map_err(|error| corrupt(error.to_string()))?;
    Ok(Extremity { num: row.event, id, depth: row.depth, state: state_after(row) })
}

fn corrupt(detail: String) -> store::Error {
    store::Error::Corrupt { table: "rooms", detail }
}
