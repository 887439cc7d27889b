//! The tree against a plain map, its sizes and costs, and loading.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

type Model = BTreeMap<KeyId, Value>;

/// The stored segments of a room, which counts what is read.
#[derive(Default)]
struct Room {
    segments: BTreeMap<SegNo, Arc<Segment>>,
    bytes: usize,
    reads: Cell<usize>,
}

impl Segments for Room {
    fn segment(&self, segment: SegNo) -> Option<Arc<Segment>> {
        self.reads.set(self.reads.get() + 1);
        self.segments.get(&segment).cloned()
    }
}

impl Room {
    fn tree(&self) -> Tree<'_> {
        Tree::new(self)
    }

    fn next(&self) -> SegNo {
        self.segments.keys().next_back().map_or(1, |last| last + 1)
    }

    fn store(&mut self, rows: &[SegmentRow]) {
        for row in rows {
            self.bytes += row.nodes.len();
            let old = self.segments.insert(row.segment, Segment::decode(row).unwrap());
            assert!(old.is_none(), "a segment was written twice");
        }
    }

    fn apply(&mut self, root: &Root, changes: &[(KeyId, Option<Value>)]) -> Root {
        let written = self.tree().apply(root, changes, self.next()).unwrap();
        self.store(&written.segments);
        written.root
    }

    /// What `read` costs in node reads.
    fn cost<T>(&self, read: impl FnOnce(&Tree<'_>) -> T) -> (T, usize) {
        self.reads.set(0);
        let outcome = read(&self.tree());
        (outcome, self.reads.get())
    }
}

/// An event number as they are in a room that is a small part of a busy server.
fn event(n: u32) -> Value {
    (1 << 33) + i64::from(n.wrapping_mul(2_654_435_761))
}

/// A room of `n` keys, each with an event of its own, freshly written.
fn large_room(n: u32) -> (Room, Root) {
    let mut room = Room::default();
    let written = build((0..n).map(|key| (key, event(key))), 1).unwrap();
    room.store(&written.segments);
    (room, written.root)
}

#[test]
fn the_empty_state_has_nothing() {
    let room = Room::default();
    let tree = room.tree();
    assert_eq!(tree.get(&Root::EMPTY, 0), Ok(None));
    assert_eq!(tree.entries(&Root::EMPTY), Ok(vec![]));
    assert_eq!(tree.diff(&Root::EMPTY, &Root::EMPTY), Ok(vec![]));
    assert_eq!(tree.compare(&[]), Ok(vec![]));
    assert_eq!(tree.lowest_reached(&[Root::EMPTY]), Ok(None));
    let unchanged = Written { root: Root::EMPTY, segments: vec![] };
    assert_eq!(tree.apply(&Root::EMPTY, &[(7, None)], 1), Ok(unchanged.clone()));
    assert_eq!(tree.checkpoint(&Root::EMPTY, 1), Ok(unchanged));
}

#[test]
fn the_last_change_of_a_key_counts() {
    let mut room = Room::default();
    let root = room.apply(&Root::EMPTY, &[(3, Some(1)), (3, Some(2)), (4, Some(9)), (4, None)]);
    assert_eq!(room.tree().entries(&root), Ok(vec![(3, 2)]));
    assert_eq!(root.count(), 1);
}

#[test]
fn the_shape_depends_on_the_keys_alone() {
    let mut room = Room::default();
    let low = room.apply(&Root::EMPTY, &[(1, Some(1))]);
    let mut root = low;
    for key in [16, 255, 256, 70_000, u32::MAX] {
        let before = root;
        root = room.apply(&root, &[(key, Some(5))]);
        assert_eq!(root.height, root::height_for(key));
        let back = room.apply(&root, &[(key, None)]);
        assert_eq!((back.height, back.count), (before.height, before.count));
        assert_eq!(room.tree().diff(&back, &before), Ok(vec![]));
    }
    let removed: Vec<_> = [16, 255, 256, 70_000, u32::MAX].map(|key| (key, None)).into();
    // What is left was never rewritten, so it is the very same node.
    assert_eq!(room.apply(&root, &removed).height, 1);
    assert_eq!(room.apply(&root, &[(1, None)]).height, 8);
    let all: Vec<_> = removed.into_iter().chain([(1, None)]).collect();
    assert_eq!(room.apply(&root, &all), Root::EMPTY);
}

#[test]
fn segments_go_upward_only() {
    let mut room = Room::default();
    let root = room.apply(&Root::EMPTY, &[(1, Some(1))]);
    let order = Err(TreeError::Order { segment: 1 });
    assert_eq!(room.tree().apply(&root, &[(2, Some(2))], 1), order);
    assert_eq!(room.tree().checkpoint(&root, 1), order);
    assert!(matches!(room.tree().move_above(&[root], 1, 1), Err(TreeError::Order { .. })));
    assert!(matches!(room.tree().move_above(&[root], 3, 2), Err(TreeError::Order { .. })));
}

#[test]
fn a_root_leading_astray_is_an_error() {
    let mut room = Room::default();
    let root = room.apply(&Root::EMPTY, &[(1, Some(1)), (99, Some(2))]);
    for wrong in
        [Root { index: 77, ..root }, Root { height: 1, ..root }, Root { height: 5, ..root }, Root { index: 0, ..root }]
    {
        let entries = room.tree().entries(&wrong);
        assert!(matches!(entries, Err(TreeError::Corrupt { segment: 1, .. })), "{wrong:?}");
    }
    let absent = Root { segment: 8, ..root };
    assert_eq!(room.tree().get(&absent, 1), Err(TreeError::Missing(vec![8])));
}

#[test]
fn roots_come_back_from_bytes() {
    let longest = Root { segment: SEGMENT_NUMBER_MAX, index: u16::MAX, height: HEIGHT_MAX, count: u32::MAX };
    for root in [Root::EMPTY, Root { segment: 3, index: 0, height: 1, count: 1 }, longest] {
        let bytes = root.to_bytes();
        assert!(bytes.len() <= ROOT_BYTES_MAX);
        assert_eq!(Root::from_bytes(&bytes), Ok(root));
        for cut in 0..bytes.len() {
            assert_eq!(Root::from_bytes(&bytes[..cut]), Err(TreeError::CorruptRoot));
        }
        let longer: Vec<u8> = bytes.into_iter().chain([0]).collect();
        assert_eq!(Root::from_bytes(&longer), Err(TreeError::CorruptRoot));
    }
    for wrong in [&[0x20][..], &[0x19, 1, 0, 1], &[0x11, 1, 0, 0], &[0xff]] {
        assert_eq!(Root::from_bytes(wrong), Err(TreeError::CorruptRoot));
    }
}

#[test]
fn one_change_of_many_is_small_and_cheap() {
    let (mut room, mut root) = large_room(100_000);
    let fresh = room.bytes;
    assert!(fresh < 600_000, "{fresh} bytes for a fresh state");
    let estimate = root.bytes_estimate() as usize;
    assert!(estimate > fresh / 2 && estimate < fresh * 2, "{estimate} for {fresh}");
    let changes = 20_000u32;
    for n in 0..changes {
        let key = n.wrapping_mul(2_654_435_761) % 100_000;
        let next = room.apply(&root, &[(key, Some(event(n + 200_000)))]);
        if n % 500 == 0 {
            let (diff, reads) = room.cost(|tree| tree.diff(&root, &next).unwrap());
            assert_eq!(diff.len(), 1);
            assert!(reads <= 12, "{reads} nodes read");
            let (_, reads) = room.cost(|tree| tree.get(&next, key).unwrap());
            assert_eq!(reads, 5);
        }
        root = next;
    }
    let each = (room.bytes - fresh) / changes as usize;
    assert!(each <= 350, "{each} bytes for a change");
    assert_eq!(room.tree().entries(&root).unwrap().len(), 100_000);
}

#[test]
fn a_diff_costs_what_has_changed() {
    let (mut room, root) = large_room(100_000);
    let (mut a, mut b) = (root, root);
    for n in 0..100 {
        a = room.apply(&a, &[(n * 991, Some(1))]);
        b = room.apply(&b, &[(n * 997 + 1, Some(2))]);
    }
    let (diff, reads) = room.cost(|tree| tree.diff(&a, &b).unwrap());
    assert_eq!(diff.len(), 200);
    assert!(reads <= 200 * 10, "{reads} nodes read");
    let (differences, _) = room.cost(|tree| tree.compare(&[a, root, b]).unwrap());
    assert_eq!(differences.len(), 200);
    assert_eq!(differences[0], (0, vec![Some(1), Some(event(0)), Some(event(0))]));
}

#[test]
fn a_large_join_comes_in_bounded_segments() {
    let (room, root) = large_room(300_000);
    assert_eq!(root.count(), 300_000);
    assert!(room.segments.len() > 10 && room.segments.len() < 40);
    assert!(room.segments.values().all(|segment| segment.memory_bytes() < 80_000));
    assert_eq!(room.tree().lowest_reached(&[root]), Ok(Some(1)));
}

#[test]
fn a_checkpoint_leaves_the_past_behind() {
    let (mut room, mut root) = large_room(10_000);
    let (mut bytes, mut at) = (room.bytes, None);
    for n in 0..4_000u32 {
        root = room.apply(&root, &[(n * 7 % 10_000, Some(i64::from(n)))]);
        if needs_checkpoint((room.bytes - bytes) as u64, root.bytes_estimate()) {
            let first = room.next();
            let before = room.tree().entries(&root).unwrap();
            let written = room.tree().checkpoint(&root, first).unwrap();
            room.store(&written.segments);
            assert_eq!(room.tree().entries(&written.root).unwrap(), before);
            root = written.root;
            assert_eq!(room.tree().lowest_reached(&[root]), Ok(Some(first)));
            (bytes, at) = (room.bytes, Some(first));
        }
    }
    let first = at.unwrap();
    assert_eq!(room.tree().lowest_reached(&[root]), Ok(Some(first)));
    room.segments = room.segments.split_off(&first);
    assert_eq!(room.tree().entries(&root).unwrap().len(), 10_000);
}

/// A branch that was delayed shares nodes with the time before the purge.
#[test]
fn a_delayed_branch_survives_a_purge() {
    let (mut room, root) = large_room(5_000);
    let branch = room.apply(&root, &[(17, Some(1))]);
    let written = room.tree().checkpoint(&root, room.next()).unwrap();
    room.store(&written.segments);
    let bound = written.segments[0].segment;
    let head = room.apply(&written.root, &[(18, Some(2))]);
    assert_eq!(room.tree().lowest_reached(&[head]), Ok(Some(bound)));
    assert_eq!(room.tree().lowest_reached(&[head, branch]), Ok(Some(1)));
    let before = room.tree().entries(&branch).unwrap();
    let moved = room.tree().move_above(&[head, branch, Root::EMPTY], bound, room.next()).unwrap();
    room.store(&moved.segments);
    assert_eq!((moved.roots[0], moved.roots[2]), (head, Root::EMPTY));
    room.segments = room.segments.split_off(&bound);
    assert_eq!(room.tree().entries(&moved.roots[1]).unwrap(), before);
    assert_eq!(room.tree().lowest_reached(&moved.roots), Ok(Some(bound)));
    // Snapshots made from the moved one carry the bound on.
    let later = room.apply(&moved.roots[1], &[(19, Some(3))]);
    assert_eq!(room.tree().lowest_reached(&[later]), Ok(Some(bound)));
}

/// A storage that counts its reads.
struct Rows {
    rows: BTreeMap<SegNo, SegmentRow>,
    loads: Mutex<Vec<usize>>,
}

#[derive(Debug, PartialEq, thiserror::Error)]
enum RowsError {
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl SegmentLoader for Rows {
    type Error = RowsError;

    async fn load(&self, segments: &[SegNo]) -> Result<Vec<SegmentRow>, RowsError> {
        self.loads.lock().unwrap().push(segments.len());
        Ok(segments.iter().filter_map(|segment| self.rows.get(segment).cloned()).collect())
    }
}

#[derive(Default)]
struct Cache(Mutex<HashMap<SegNo, Arc<Segment>>>);

impl SegmentCache for Cache {
    fn get(&self, segment: SegNo) -> Option<Arc<Segment>> {
        self.0.lock().unwrap().get(&segment).cloned()
    }

    fn put(&self, segment: Arc<Segment>) {
        self.0.lock().unwrap().insert(segment.number(), segment);
    }
}

/// 20,000 keys, every hundredth of which was then changed in a segment of its own.
fn stored() -> (Rows, Root, Root) {
    let first = build((0..20_000).map(|key| (key, 1)), 1).unwrap();
    let mut rows: BTreeMap<_, _> = BTreeMap::new();
    let mut room = Room::default();
    let mut keep = |room: &mut Room, written: &Written| {
        room.store(&written.segments);
        rows.extend(written.segments.iter().map(|row| (row.segment, row.clone())));
        written.root
    };
    let old = keep(&mut room, &first);
    let mut root = old;
    for key in (0..20_000).step_by(100) {
        let written = room.tree().apply(&root, &[(key, Some(2))], room.next()).unwrap();
        root = keep(&mut room, &written);
    }
    (Rows { rows, loads: Mutex::default() }, old, root)
}

/// Handlers run on any thread.
#[test]
fn loading_can_move_between_threads() {
    fn is_send(_: impl Send) {}
    let (rows, _, root) = stored();
    let cache = Cache::default();
    is_send(with_segments(&rows, &cache, |tree| tree.entries(&root)));
}

#[tokio::test]
async fn missing_segments_are_loaded_level_by_level() {
    let (rows, old, root) = stored();
    let entries = with_segments(&rows, &(), |tree| tree.entries(&root)).await.unwrap();
    assert_eq!(entries.iter().filter(|(_, value)| *value == 2).count(), 200);
    let loads = std::mem::take(&mut *rows.loads.lock().unwrap());
    assert!(loads.len() <= 5, "{loads:?}");
    assert_eq!(loads.iter().sum::<usize>(), rows.rows.len());

    let cache = Cache::default();
    let diff = with_segments(&rows, &cache, |tree| tree.diff(&old, &root)).await.unwrap();
    assert_eq!(diff.len(), 200);
    assert!(std::mem::take(&mut *rows.loads.lock().unwrap()).len() <= 5);
    with_segments(&rows, &cache, |tree| tree.diff(&old, &root)).await.unwrap();
    assert!(rows.loads.lock().unwrap().is_empty());

    let next = rows.rows.len() as SegNo + 1;
    let changes: Vec<_> = (0..200).map(|n| (n * 100 + 50, None)).collect();
    let written = with_segments(&rows, &(), |tree| tree.apply(&root, &changes, next)).await.unwrap();
    assert_eq!((written.root.count(), written.segments.len()), (19_800, 1));
    assert!(rows.loads.lock().unwrap().len() <= 5);

    let moved = with_segments(&rows, &(), |tree| tree.move_above(&[old, root], 100, next)).await;
    assert_eq!(moved.unwrap().roots.len(), 2);
    let written = with_segments(&rows, &(), |tree| tree.checkpoint(&root, next)).await.unwrap();
    assert_eq!(written.segments[0].lowest, next);
}

#[tokio::test]
async fn a_lost_or_damaged_segment_is_named() {
    let (mut rows, _, root) = stored();
    let lost = rows.rows.remove(&9).unwrap();
    let read = with_segments(&rows, &(), |tree| tree.entries(&root)).await;
    assert_eq!(read, Err(TreeError::Lost { segment: 9 }.into()));
    rows.rows.insert(9, SegmentRow { crc32: !lost.crc32, ..lost });
    let read = with_segments(&rows, &(), |tree| tree.entries(&root)).await;
    assert!(matches!(read, Err(RowsError::Tree(TreeError::Corrupt { segment: 9, .. }))));
}

#[tokio::test]
async fn an_operation_that_never_ends_is_ended() {
    let (rows, _, root) = stored();
    let read = with_segments(&rows, &(), |_| Err::<(), _>(TreeError::Missing(vec![root.segment().unwrap()])));
    assert_eq!(read.await, Err(TreeError::Rounds.into()));
}

#[derive(Debug, Clone)]
enum Step {
    /// A new snapshot on top of some earlier one.
    Apply(prop::sample::Index, Vec<(KeyId, Option<Value>)>),
    Checkpoint(prop::sample::Index),
    /// Keep some snapshots, delete all segments below a bound.
    Purge(Vec<prop::sample::Index>, prop::sample::Index),
}

fn key() -> impl Strategy<Value = KeyId> {
    prop_oneof![6 => 0u32..40, 3 => 0u32..3_000, 1 => u32::MAX - 20..=u32::MAX]
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![3 => any::<i64>().prop_map(Some), 2 => Just(None)];
    let changes = prop::collection::vec((key(), value), 0..12);
    let keep = prop::collection::vec(any::<prop::sample::Index>(), 1..4);
    prop_oneof![
        8 => (any::<prop::sample::Index>(), changes).prop_map(|(on, changes)| Step::Apply(on, changes)),
        1 => any::<prop::sample::Index>().prop_map(Step::Checkpoint),
        1 => (keep, any::<prop::sample::Index>()).prop_map(|(keep, bound)| Step::Purge(keep, bound)),
    ]
}

fn run(room: &mut Room, snapshots: &mut Vec<(Root, Model)>, step: Step) {
    match step {
        Step::Apply(on, changes) => {
            let (root, mut model) = on.get(snapshots).clone();
            for &(key, value) in &changes {
                match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
            }
            snapshots.push((room.apply(&root, &changes), model));
        }
        Step::Checkpoint(of) => {
            let (root, model) = of.get(snapshots).clone();
            let written = room.tree().checkpoint(&root, room.next()).unwrap();
            room.store(&written.segments);
            snapshots.push((written.root, model));
        }
        Step::Purge(keep, bound) => {
            let keep: BTreeSet<usize> = keep.iter().map(|k| k.index(snapshots.len())).collect();
            let kept: Vec<(Root, Model)> = keep.iter().map(|&k| snapshots[k].clone()).collect();
            let roots: Vec<Root> = kept.iter().map(|(root, _)| *root).collect();
            let bound = bound.index(room.next() as usize) as SegNo + 1;
            let moved = room.tree().move_above(&roots, bound, room.next()).unwrap();
            room.store(&moved.segments);
            room.segments = room.segments.split_off(&bound);
            *snapshots = moved.roots.into_iter().zip(kept).map(|(root, (_, model))| (root, model)).collect();
        }
    }
}

fn model_diff(a: &Model, b: &Model) -> Vec<(KeyId, Option<Value>, Option<Value>)> {
    let keys: BTreeSet<KeyId> = a.keys().chain(b.keys()).copied().collect();
    let values = keys.into_iter().map(|key| (key, a.get(&key).copied(), b.get(&key).copied()));
    values.filter(|(_, before, after)| before != after).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_tree_is_a_map(steps in prop::collection::vec(step(), 1..60), keys in prop::collection::vec(key(), 8)) {
        let mut room = Room::default();
        let mut snapshots = vec![(Root::EMPTY, Model::new())];
        for step in steps {
            run(&mut room, &mut snapshots, step);
            let (root, model) = snapshots.last().unwrap();
            prop_assert_eq!(root.count() as usize, model.len());
            let top = model.keys().next_back().map_or(0, |&key| root::height_for(key));
            prop_assert_eq!(root.height, top);
        }
        // All snapshots still stand after all that came later.
        let tree = room.tree();
        let (last_root, last) = snapshots.last().unwrap();
        for (root, model) in &snapshots {
            let root = &Root::from_bytes(&root.to_bytes()).unwrap();
            let entries: Model = tree.entries(root).unwrap().into_iter().collect();
            prop_assert_eq!(&entries, model);
            let expect: Vec<_> = keys.iter().map(|key| model.get(key).copied()).collect();
            prop_assert_eq!(tree.get_many(root, &keys).unwrap(), expect);
            prop_assert_eq!(tree.diff(root, last_root).unwrap(), model_diff(model, last));
            if let Some(lowest) = tree.lowest_reached(&[*root]).unwrap() {
                let rest = room.segments.clone().split_off(&lowest);
                prop_assert_eq!(Tree::new(&rest).entries(root).unwrap().len(), model.len());
            }
        }
    }
}
