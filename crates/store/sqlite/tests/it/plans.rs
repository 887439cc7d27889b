//! That every read shape walks its index in order: no sorting, no scan of a whole table for a prefix.

use rusqlite::Connection;
use store::Engine;

use crate::support::open;

/// Reads of every table, along its key and every index, with every length of prefix, both ways.
#[tokio::test]
async fn every_read_walks_its_index() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    open(&path).close().await;
    let connection = Connection::open(&path).unwrap();
    for table in store::tables::all() {
        for index in std::iter::once(None).chain(table.indexes.iter().copied().map(Some)) {
            let order = table.order(index);
            for length in 0..=order.len() {
                for (ranged, reverse) in [(false, false), (false, true), (true, false), (true, true)] {
                    if ranged && length == order.len() {
                        continue;
                    }
                    let text = sqlite::schema::read_text(table, index, length, ranged, reverse);
                    let plan: Vec<String> = connection
                        .prepare(&format!("EXPLAIN QUERY PLAN {text}"))
                        .unwrap()
                        .query_map(
                            rusqlite::params_from_iter(std::iter::repeat_n(1, length + usize::from(ranged) + 1)),
                            |row| row.get(3),
                        )
                        .unwrap()
                        .collect::<Result<_, _>>()
                        .unwrap();
                    let plan = plan.join("; ");
                    assert!(!plan.contains("TEMP B-TREE"), "{text}: {plan}");
                    assert!((length == 0 && !ranged) || plan.starts_with("SEARCH"), "{text}: {plan}");
                }
            }
        }
    }
}
