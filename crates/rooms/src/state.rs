//! State as of any event or head: the two roots, the key dictionary, and reading events through them.

use std::collections::BTreeMap;
use std::sync::Arc;

use event::Pdu;
use event::auth_rules::StateView;
use store::tables::rooms::{StateKeyRow, StateSegmentRow};
use store::{EventNum, Read};

use crate::event::Event;
use crate::room::{Overlay, Room};
use crate::state_tree::{
    KeyId, Root, SegNo, Segment, SegmentCache, SegmentLoader, SegmentRow, Tree, TreeError, with_segments,
};
use crate::{Error, Result, Rooms};

/// Event type of memberships, which have a tree of their own.
pub const MEMBER: &str = "m.room.member";

/// A state: the tree of members and the tree of everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Roots {
    /// `m.room.member` events.
    pub members: Root,
    /// All other state events.
    pub rest: Root,
}

impl Roots {
    /// No state at all.
    pub const EMPTY: Self = Self { members: Root::EMPTY, rest: Root::EMPTY };

    /// The stored form: the length of the first root, then both.
    pub fn encode(&self) -> Vec<u8> {
        let members = self.members.to_bytes();
        let mut bytes = vec![u8::try_from(members.len()).unwrap_or(0)];
        bytes.extend(members);
        bytes.extend(self.rest.to_bytes());
        bytes
    }

    /// Reads what [`Roots::encode`] wrote; `None` if it is something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first()?;
        let (members, rest) = rest.split_at_checked(usize::from(*length))?;
        Some(Self { members: Root::from_bytes(members).ok()?, rest: Root::from_bytes(rest).ok()? })
    }

    /// The root of the tree that holds this event type.
    pub fn of(&self, kind: &str) -> &Root {
        if kind == MEMBER { &self.members } else { &self.rest }
    }
}

/// A pair of event type and state key.
pub type TypeKey = (String, String);

/// Makes a [`TypeKey`].
pub fn type_key(kind: &str, state_key: &str) -> TypeKey {
    (kind.to_owned(), state_key.to_owned())
}

/// Some of a state's events, by type and state key.
#[derive(Clone, Debug, Default)]
pub struct StateMap(pub BTreeMap<TypeKey, Arc<Event>>);

impl StateMap {
    /// The event at a type and state key.
    pub fn event(&self, kind: &str, state_key: &str) -> Option<&Arc<Event>> {
        self.0.get(&type_key(kind, state_key))
    }

    /// A member of the content of the event with this type and an empty state key, as text.
    pub fn text(&self, kind: &str, member: &str) -> Option<&str> {
        self.event(kind, "")?.pdu.content.get(member)?.as_str()
    }

    /// The membership of a user; `leave` if there is none.
    pub fn membership(&self, user: &str) -> &str {
        self.event(MEMBER, user).and_then(|event| event.pdu.membership()).unwrap_or("leave")
    }
}

impl StateView for StateMap {
    fn get(&self, kind: &str, state_key: &str) -> Option<Arc<Pdu>> {
        self.event(kind, state_key).map(|event| Arc::clone(&event.pdu))
    }
}

impl From<TreeError> for Error {
    fn from(error: TreeError) -> Self {
        Error::Store(store::Error::Corrupt { table: "state_segments", detail: error.to_string() })
    }
}

/// Reads a room's segments: what is not yet written, then the shared cache, then the store.
pub(crate) struct Segments<'a> {
    pub rooms: &'a Rooms,
    pub room: &'a Room,
    pub overlay: Option<&'a Overlay>,
}

impl SegmentLoader for Segments<'_> {
    type Error = Error;

    async fn load(&self, segments: &[SegNo]) -> Result<Vec<SegmentRow>> {
        let reads = segments
            .iter()
            .map(|segment| {
                Read::get::<StateSegmentRow>(vec![self.room.num.into(), i64::try_from(*segment).unwrap_or(-1).into()])
            })
            .collect();
        let mut rows = Vec::with_capacity(segments.len());
        for found in self.rooms.store.read(reads).await? {
            if let Some(row) = found.one::<StateSegmentRow>()? {
                rows.push(SegmentRow {
                    segment: u64::try_from(row.segment).unwrap_or(0),
                    lowest: u64::try_from(row.lowest).unwrap_or(0),
                    nodes: row.nodes.into(),
                    crc32: row.crc32,
                });
            }
        }
        Ok(rows)
    }
}

impl SegmentCache for Segments<'_> {
    fn get(&self, segment: SegNo) -> Option<Arc<Segment>> {
        if let Some(found) = self.overlay.and_then(|overlay| overlay.segments.get(&segment)) {
            return Some(Arc::clone(found));
        }
        if let Some(found) = self.room.unwritten.lock().segments.get(&segment) {
            return Some(Arc::clone(found));
        }
        self.rooms.segments.get(&(self.room.num, segment))
    }

    fn put(&self, segment: Arc<Segment>) {
        self.rooms.segments.insert((self.room.num, segment.number()), segment);
    }
}

impl Rooms {
    /// Runs a tree operation on a room's state, loading what is not in memory.
    pub(crate) async fn on_tree<T>(
        &self,
        room: &Room,
        overlay: Option<&Overlay>,
        operation: impl FnMut(&Tree<'_>) -> Result<T, TreeError>,
    ) -> Result<T> {
        let segments = Segments { rooms: self, room, overlay };
        with_segments(&segments, &segments, operation).await
    }

    /// The dense numbers of these pairs; `None` where the room never had one.
    pub(crate) async fn key_ids(
        &self,
        room: &Room,
        overlay: Option<&Overlay>,
        pairs: &[TypeKey],
    ) -> Result<Vec<Option<KeyId>>> {
        let known = |pair: &TypeKey| {
            overlay
                .and_then(|overlay| overlay.keys.get(pair).copied())
                .or_else(|| room.unwritten.lock().keys.get(pair).copied())
                .map(Some)
                .or_else(|| room.keys.lock().get(pair).copied())
        };
        let known: Vec<Option<Option<KeyId>>> = pairs.iter().map(known).collect();
        let unknown: Vec<usize> =
            (known.iter().enumerate()).filter(|(_, id)| id.is_none()).map(|(place, _)| place).collect();
        let mut ids: Vec<Option<KeyId>> = known.into_iter().map(Option::flatten).collect();
        // A room that was never committed has no stored keys.
        if unknown.is_empty() || room.head().row.version == 0 {
            return Ok(ids);
        }
        let reads = unknown
            .iter()
            .filter_map(|place| pairs.get(*place))
            .map(|(kind, state_key)| {
                let prefix = vec![room.num.into(), kind.as_str().into(), state_key.as_str().into()];
                Read::along::<StateKeyRow>(StateKeyRow::BY_NAME, prefix).limit(1)
            })
            .collect();
        for (place, found) in unknown.into_iter().zip(self.store.read(reads).await?) {
            let id = found.one::<StateKeyRow>()?.map(|row| key_id(row.key_id)).transpose()?;
            if let Some(pair) = pairs.get(place) {
                room.remember_key(pair, id);
            }
            if let Some(slot) = ids.get_mut(place) {
                *slot = id;
            }
        }
        Ok(ids)
    }

    /// The event numbers at these pairs in a state.
    pub async fn state_nums(
        &self,
        room: &Room,
        overlay: Option<&Overlay>,
        roots: Roots,
        pairs: &[TypeKey],
    ) -> Result<Vec<Option<EventNum>>> {
        let ids = self.key_ids(room, overlay, pairs).await?;
        let wanted: Vec<(bool, KeyId)> =
            (pairs.iter().zip(&ids)).filter_map(|((kind, _), id)| id.map(|id| (kind == MEMBER, id))).collect();
        let mut found = self
            .on_tree(room, overlay, |tree| {
                // Both trees are walked before either reports what it misses, so one load serves both.
                let (mut values, mut missing) = (Vec::with_capacity(wanted.len()), Vec::new());
                for (member, id) in &wanted {
                    let root = if *member { &roots.members } else { &roots.rest };
                    match tree.get(root, *id) {
                        Ok(value) => values.push(value),
                        Err(TreeError::Missing(segments)) => missing.extend(segments),
                        Err(error) => return Err(error),
                    }
                }
                if missing.is_empty() { Ok(values) } else { Err(TreeError::Missing(missing)) }
            })
            .await?
            .into_iter();
        Ok(ids.into_iter().map(|id| id.and_then(|_| found.next().flatten()).map(EventNum)).collect())
    }

    /// The events at these pairs in a state; pairs without one are left out.
    pub async fn state_map(
        &self,
        room: &Room,
        overlay: Option<&Overlay>,
        roots: Roots,
        pairs: &[TypeKey],
    ) -> Result<StateMap> {
        let nums = self.state_nums(room, overlay, roots, pairs).await?;
        let wanted: Vec<EventNum> = nums.iter().flatten().copied().collect();
        let mut events = self.events(room, overlay, &wanted).await?.into_iter();
        let found =
            pairs.iter().zip(nums).filter_map(|(pair, num)| Some((pair.clone(), num.and_then(|_| events.next())?)));
        Ok(StateMap(found.collect()))
    }

    /// The pairs of these types that a room has ever had, with any state key.
    pub async fn keys_of(&self, room: &Room, kinds: &[&str]) -> Result<Vec<TypeKey>> {
        let read =
            |kind: &&str| Read::along::<StateKeyRow>(StateKeyRow::BY_NAME, vec![room.num.into(), (*kind).into()]);
        let mut pairs = Vec::new();
        for found in self.store.read(kinds.iter().map(read).collect()).await? {
            for row in found.all::<StateKeyRow>()? {
                // It is looked up next.
                room.remember_key(&(row.kind.clone(), row.state_key.clone()), Some(key_id(row.key_id)?));
                pairs.push((row.kind, row.state_key));
            }
        }
        Ok(pairs)
    }

    /// All event numbers of one tree of a state.
    pub async fn tree_nums(&self, room: &Room, root: Root) -> Result<Vec<EventNum>> {
        let entries = self.on_tree(room, None, |tree| tree.entries(&root)).await?;
        Ok(entries.into_iter().map(|(_, value)| EventNum(value)).collect())
    }

    /// All state events of a state.
    pub async fn whole_state(&self, room: &Room, roots: Roots) -> Result<Vec<Arc<Event>>> {
        let mut nums = self.tree_nums(room, roots.rest).await?;
        nums.extend(self.tree_nums(room, roots.members).await?);
        self.events(room, None, &nums).await
    }

    /// The events that differ between two states: for each differing key, the event of the later state, if any.
    pub async fn state_delta(&self, room: &Room, earlier: Roots, later: Roots) -> Result<Vec<StateChange>> {
        let mut changes = Vec::new();
        for (a, b) in [(earlier.rest, later.rest), (earlier.members, later.members)] {
            if a == b {
                continue;
            }
            let diff = self.on_tree(room, None, |tree| tree.diff(&a, &b)).await?;
            changes.extend(diff.into_iter().map(|(key, before, after)| StateChange {
                key,
                before: before.map(EventNum),
                after: after.map(EventNum),
            }));
        }
        Ok(changes)
    }
}

/// A key at which two states differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The dense key.
    pub key: KeyId,
    /// The event in the earlier state.
    pub before: Option<EventNum>,
    /// The event in the later state.
    pub after: Option<EventNum>,
}

/// A stored key number.
pub(crate) fn key_id(number: i64) -> Result<KeyId> {
    KeyId::try_from(number).map_err(|_| {
        Error::Store(store::Error::Corrupt {
            table: "state_keys",
            detail: format!("key number {number} is out of range"),
        })
    })
}
