//! Broken rows are errors, never panics and never wrong nodes.

#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

fn leaf(values: &[(usize, Value)]) -> Node {
    let mut slots = [None; FAN_OUT];
    for &(slot, value) in values {
        slots[slot] = Some(value);
    }
    Node::Leaf(slots)
}

fn inner(places: &[(usize, SegNo, u16)]) -> Node {
    let mut slots = [None; FAN_OUT];
    for &(slot, segment, index) in places {
        slots[slot] = Some(Place { segment, index });
    }
    Node::Inner(slots)
}

fn written(first: SegNo, lowest: SegNo, nodes: &[Node]) -> Vec<SegmentRow> {
    let mut writer = SegmentWriter::new(first, lowest);
    for node in nodes {
        writer.push(node).unwrap();
    }
    writer.finish()
}

#[test]
fn nodes_come_back() {
    let nodes = [
        leaf(&[(0, 5)]),
        leaf(&[(0, i64::MIN), (7, -1), (15, i64::MAX)]),
        leaf(&[(3, 1 << 40), (4, (1 << 40) + 255)]),
        inner(&[(0, 9, 0), (1, 9, 2), (14, 2, 65_535), (15, 8, 1)]),
    ];
    let rows = written(9, 2, &nodes);
    let segment = Segment::decode(&rows[0]).unwrap();
    assert_eq!((rows.len(), segment.nodes(), segment.number(), segment.lowest()), (1, 4, 9, 2));
    for (index, node) in nodes.iter().enumerate() {
        assert_eq!(&segment.node(index as u16).unwrap(), node);
    }
    assert!(matches!(segment.node(4), Err(TreeError::Corrupt { segment: 9, .. })));
}

#[test]
fn a_full_segment_is_followed_by_the_next() {
    let nodes: Vec<Node> = (0..2_000).map(|n| leaf(&[(0, n), (1, 1 << 60)])).collect();
    let rows = written(5, 5, &nodes);
    assert_eq!(rows.iter().map(|row| row.segment).collect::<Vec<_>>(), [5]);
    let nodes: Vec<Node> = (0..9_000).map(|n| leaf(&[(0, n), (1, 1 << 60)])).collect();
    let rows = written(5, 5, &nodes);
    assert!(rows.len() > 2);
    assert!(rows.iter().all(|row| row.nodes.len() <= SEGMENT_BYTES_MAX && row.lowest == 5));
    let n: usize = rows.iter().map(|row| Segment::decode(row).unwrap().nodes()).sum();
    assert_eq!(n, 9_000);
}

#[test]
fn numbers_come_to_an_end() {
    let mut writer = SegmentWriter::new(SEGMENT_NUMBER_MAX + 1, 0);
    assert!(matches!(writer.push(&leaf(&[(0, 1)])), Err(TreeError::Order { .. })));
}

/// Rows whose checksum is right but whose nodes are not.
#[test]
fn wrong_nodes_are_refused() {
    let check = |segment, lowest, nodes: &[u8], expect: &str| {
        let row = SegmentRow::new(segment, lowest, nodes.to_vec());
        match Segment::decode(&row) {
            Err(TreeError::Corrupt { what, .. }) => assert_eq!(what, expect),
            other => panic!("{nodes:?}: {other:?}, not {expect}"),
        }
    };
    check(9, 2, &[], "it is empty");
    check(9, 2, &[2], "its version is unknown");
    check(9, 2, &[1, 0, 1], "it is cut off");
    check(9, 2, &[1, 0, 0, 0, 0], "a node is empty");
    check(9, 2, &[1, 9, 1, 0, 0], "a node is of an unknown kind");
    check(9, 2, &[1, 2, 1, 0, 0, 7], "it is cut off");
    check(9, 2, &[1, 0, 1, 0, 0x80], "a number is broken");
    // A pointer to itself, to a later node, behind segment 0, below the lowest.
    check(9, 2, &[1, 0x10, 1, 0, 0, 0], "a pointer is out of range");
    check(9, 2, &[1, 0, 1, 0, 0, 0x10, 1, 0, 0, 1], "a pointer is out of range");
    check(9, 2, &[1, 0x10, 1, 0, 10, 0], "a pointer is out of range");
    check(9, 2, &[1, 0x10, 1, 0, 8, 0], "a pointer is out of range");
    check(9, 2, &[1, 0x10, 1, 0, 1, 0x80, 0x80, 0x04], "a pointer is out of range");
    check(2, 9, &[1, 0, 1, 0, 0], "its number is out of range");
    check(9, 2, &vec![1; SEGMENT_BYTES_MAX + 1], "it is too long");
}

#[test]
fn a_row_in_the_wrong_place_is_refused() {
    let row = written(9, 2, &[leaf(&[(0, 5)])]).remove(0);
    assert!(Segment::decode(&row).is_ok());
    for wrong in [
        SegmentRow { segment: 10, ..row.clone() },
        SegmentRow { lowest: 1, ..row.clone() },
        SegmentRow { crc32: row.crc32 ^ 1, ..row.clone() },
    ] {
        let what = "its checksum is wrong";
        let expect = TreeError::Corrupt { segment: wrong.segment, what };
        assert_eq!(Segment::decode(&wrong), Err(expect));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_nodes_or_an_error(tail: Vec<u8>, segment in 0u64..400, lowest in 0u64..400) {
        let mut nodes = vec![SEGMENT_VERSION];
        nodes.extend(tail);
        if let Ok(segment) = Segment::decode(&SegmentRow::new(segment, lowest, nodes)) {
            for index in 0..segment.nodes() {
                prop_assert!(segment.node(index as u16).is_ok());
            }
        }
    }

    #[test]
    fn one_flipped_bit_is_noticed(values in prop::collection::vec((0usize..16, any::<i64>()), 1..16), at: prop::sample::Index, bit in 0u32..8) {
        let row = written(3, 3, &[leaf(&values)]).remove(0);
        let mut nodes = row.nodes.to_vec();
        let at = at.index(nodes.len());
        nodes[at] ^= 1 << bit;
        let flipped = SegmentRow { nodes: nodes.into(), ..row };
        prop_assert!(Segment::decode(&flipped).is_err());
    }
}
