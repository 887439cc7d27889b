//! The index beside a plain list of what was said: on the in-memory store, on SQLite, and, where `HEARTH_TEST_POSTGRES`
//! names a server whose user may create databases, on PostgreSQL.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../../store/postgres/tests/it/database.rs"]
#[expect(dead_code, reason = "shared with the tests of the PostgreSQL engine, which use more of it")]
mod database;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use event::{Json, Object, SigningKey};
use rand::{RngExt as _, SeedableRng as _};
use rooms::{CreateRoom, MessagesCount, NewEvent, Options, Preset, Rooms};
use search::{Key, Order, Query, Search};
use serde_json::json;
use store::model::Model;
use store::shards::Alone;
use store::tables::search::{SearchBlockRow, SearchDocumentRow, SearchRunRow};
use store::{Clock, CommitBatch, Engine, Entropy, Read, Store, StreamKind, UserId};
use tokio::sync::watch;

/// A clock that moves one millisecond with each look.
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Never twice the same, always the same in each run.
struct TestEntropy(AtomicU64);

impl Entropy for TestEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
            chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Rooms on a store, and what indexes them.
struct World {
    store: Store,
    clock: Arc<TestClock>,
    rooms: Arc<Rooms>,
    search: Arc<Search>,
    user: UserId,
}

impl World {
    async fn on(engine: Arc<dyn Engine>) -> Self {
        let store = Store::new(engine).await.unwrap();
        let clock = Arc::new(TestClock(AtomicI64::new(1_700_000_000_000)));
        let entropy = Arc::new(TestEntropy(AtomicU64::new(1)));
        let key = Arc::new(SigningKey::generate(&[7; 32]));
        let options = Options::new("one.test");
        let rooms = Rooms::new(store.clone(), clock.clone(), entropy, key, Arc::new(MessagesCount), options);
        let search = Search::new(store.clone(), rooms.clone(), clock.clone(), Arc::new(Alone));
        Self { store, clock, rooms, search, user: UserId::from("@alice:one.test") }
    }

    /// As after a crash, or as another node that takes over.
    fn another_search(&self) -> Arc<Search> {
        Search::new(self.store.clone(), self.rooms.clone(), self.clock.clone(), Arc::new(Alone))
    }

    async fn room(&self) -> String {
        let request = CreateRoom {
            creator: self.user.clone(),
            version: None,
            preset: Preset::PrivateChat,
            published: false,
            alias_localpart: None,
            name: None,
            topic: None,
            invite: Vec::new(),
            creation_content: Object::new(),
            initial_state: Vec::new(),
            is_direct: false,
            power_level_content_override: None,
            creator_profile: Object::new(),
            predecessor: None,
        };
        self.rooms.create_room(&request).await.unwrap()
    }

    async fn send(&self, room: &str, content: serde_json::Value) -> String {
        let content = match Json::from(content) {
            Json::Object(content) => content,
            other => panic!("no object: {other:?}"),
        };
        let event = NewEvent::message(&self.user, "m.room.message", content);
        self.rooms.send(room, event).await.unwrap().to_string()
    }

    async fn redact(&self, room: &str, event: &str) {
        let content = Object::from([("redacts".to_owned(), Json::String(event.to_owned()))]);
        let redaction = NewEvent::message(&self.user, "m.room.redaction", content);
        let redacts = Some(event.try_into().unwrap());
        self.rooms.send(room, NewEvent { redacts, ..redaction }).await.unwrap();
    }

    /// The ids of what is found, over all pages.
    async fn found(&self, search: &Search, term: &str, rooms: Option<&[String]>) -> Vec<String> {
        let (mut ids, mut from) = (Vec::new(), None);
        loop {
            let query = Query {
                user: &self.user,
                search_term: term,
                keys: &Key::ALL.into(),
                rooms,
                not_rooms: &[],
                accepts: &|_| true,
                order: Order::Recent,
                limit: 7,
                from,
            };
            let found = search.find(&query).await.unwrap();
            ids.extend(found.hits.iter().map(|hit| hit.event.id().to_string()));
            from = found.next;
            if from.is_none() {
                return ids;
            }
        }
    }

    async fn count<R: store::Row>(&self) -> usize {
        self.store.all::<R>(Read::prefix::<R>(vec![])).await.unwrap().len()
    }
}

/// Runs a story on every engine.
async fn on_all(story: impl AsyncFn(World)) {
    story(World::on(Arc::new(Model::new())).await).await;
    let folder = tempfile::tempdir().unwrap();
    let engine = sqlite::Sqlite::open(&folder.path().join("hearth.db"), sqlite::Options::default()).unwrap();
    story(World::on(Arc::new(engine)).await).await;
    let Some(database) = database::Database::make().await else { return };
    let engine = database.open().await;
    story(World::on(Arc::clone(&engine) as _).await).await;
    engine.close().await;
    database.dispose().await;
}

const WORDS: [&str; 8] = ["alpha", "Beta", "γάμμα", "дельта", "東京都", "京都", "서울", "ก"];

// Long: one story, step by step.
/// Whatever is said, edited and redacted, and wherever indexing breaks off or is taken over: what is found is what a look
/// through everything finds, newest first.
#[tokio::test]
async fn the_index_finds_what_a_look_through_everything_finds() {
    on_all(async |world| {
        let mut dice = rand::rngs::StdRng::seed_from_u64(3);
        let rooms = [world.room().await, world.room().await, world.room().await];
        // What each message says now, in the order in which they were sent; and all edits.
        let (mut said, mut edits) = (Vec::<(String, String, String)>::new(), Vec::new());
        let mut indexers = vec![Arc::clone(&world.search)];
        for step in 0..400 {
            let text = || -> String {
                let mut dice = rand::rngs::StdRng::seed_from_u64(step);
                (0..3).map(|_| format!("{} ", WORDS[dice.random_range(0..WORDS.len())])).collect()
            };
            match dice.random_range(0..10) {
                0..6 => {
                    let room = &rooms[dice.random_range(0..rooms.len())];
                    let text = text();
                    let id = world.send(room, json!({ "msgtype": "m.text", "body": text })).await;
                    said.push((id, room.clone(), text));
                }
                6 if !said.is_empty() => {
                    let place = dice.random_range(0..said.len());
                    let (id, room, now) = &mut said[place];
                    let text = text();
                    let content = json!({
                        "msgtype": "m.text", "body": "* ", "m.new_content": { "msgtype": "m.text", "body": text },
                        "m.relates_to": { "rel_type": "m.replace", "event_id": id },
                    });
                    edits.push((room.clone(), world.send(room, content).await));
                    *now = text;
                }
                7 if !said.is_empty() => {
                    let (id, room, _) = said.remove(dice.random_range(0..said.len()));
                    world.redact(&room, &id).await;
                }
                8 => {
                    let indexer = &indexers[dice.random_range(0..indexers.len())];
                    indexer.catch_up().await.unwrap();
                }
                _ => {
                    // Somebody else takes over; whoever had it notices when it writes.
                    indexers.push(world.another_search());
                    indexers.drain(..indexers.len().saturating_sub(3));
                }
            }
        }
        let last = world.another_search();
        last.catch_up().await.unwrap();
        let everywhere: &[Option<&[String]>] = &[None, Some(&rooms[..1])];
        for word in WORDS {
            for only in everywhere {
                let folded = word.to_lowercase();
                let holds = |text: &str| match word {
                    "京都" => text.contains(word),
                    _ => text.to_lowercase().split(' ').any(|part| part == folded),
                };
                let listed = said
                    .iter()
                    .rev()
                    .filter(|(_, room, text)| holds(text) && only.is_none_or(|only| only.contains(room)));
                let listed: Vec<&String> = listed.map(|(id, ..)| id).collect();
                let found = world.found(&last, word, *only).await;
                assert_eq!(found.iter().collect::<Vec<_>>(), listed, "{word}");
                assert!(!found.is_empty() || only.is_some());
            }
        }
        assert!(world.count::<SearchRunRow>().await < 30, "runs are merged");
        edits.extend(said.into_iter().map(|(id, room, _)| (room, id)));
        for (room, event) in edits {
            world.redact(&room, &event).await;
        }
        last.catch_up().await.unwrap();
        assert_eq!(world.count::<SearchDocumentRow>().await, 0, "nothing is left of what is gone");
        assert_eq!(world.count::<SearchBlockRow>().await, 0);
    })
    .await;
}

/// What is sent is found soon, without anybody's doing.
#[tokio::test]
async fn what_is_sent_is_found_soon() {
    on_all(async |world| {
        let room = world.room().await;
        let (stop, stopped) = watch::channel(false);
        let search = Arc::clone(&world.search);
        let running = tokio::spawn(async move { search.run(stopped).await });
        for n in 0..3 {
            let id = world.send(&room, json!({ "msgtype": "m.text", "body": format!("message {n}") })).await;
            world.search.caught_up(world.store.watermark()).await;
            assert_eq!(world.found(&world.search, &format!("message {n}"), None).await, [id]);
        }
        stop.send_replace(true);
        running.await.unwrap().unwrap();
        let all = world.found(&world.another_search(), "message", None).await;
        assert_eq!(all.len(), 3, "whoever asks, the index is in the store");
    })
    .await;
}

/// An event of the history from before, of which the stream tells by itself, is found like any other.
#[tokio::test]
async fn history_from_before_is_found() {
    on_all(async |world| {
        let room = world.room().await;
        let id = world.send(&room, json!({ "msgtype": "m.text", "body": "ancient" })).await;
        world.search.catch_up().await.unwrap();
        let known = world.rooms.room(&room).await.unwrap().unwrap();
        let event = world.rooms.event_by_id(&known, &id).await.unwrap().unwrap();
        // As if it had just come, and nobody had looked at it.
        let mut batch = CommitBatch::new();
        batch.delete_prefix::<SearchDocumentRow>(vec![]).delete_prefix::<SearchBlockRow>(vec![]);
        world.store.commit(batch).await.unwrap();
        assert_eq!(world.found(&world.search, "ancient", None).await, [""; 0]);
        let mut batch = CommitBatch::new();
        let _pos = batch.announce(StreamKind::History, None, None, Some(event.num().0));
        world.store.commit(batch).await.unwrap();
        world.search.catch_up().await.unwrap();
        assert_eq!(world.found(&world.search, "ancient", None).await, [id]);
    })
    .await;
}

/// Building the index anew can break off anywhere, and goes on meanwhile with what is said.
#[tokio::test]
async fn building_anew_goes_on_after_a_break() {
    on_all(async |world| {
        let room = world.room().await;
        let mut ids = BTreeSet::new();
        for n in 0..20 {
            ids.insert(world.send(&room, json!({ "msgtype": "m.text", "body": format!("entry {n}") })).await);
        }
        world.search.catch_up().await.unwrap();
        world.search.rebuild().await.unwrap();
        // The old one is buried, and then nobody does anything for a while.
        let next = world.another_search();
        assert!(next.rebuilding().await.unwrap().is_some());
        ids.insert(world.send(&room, json!({ "msgtype": "m.text", "body": "entry meanwhile" })).await);
        next.catch_up().await.unwrap();
        assert_eq!(next.rebuilding().await.unwrap(), None);
        let found = world.found(&next, "entry", None).await;
        assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), ids);
        assert_eq!(found.len(), ids.len(), "none twice");
        let documents: BTreeMap<i64, usize> =
            world.store.all::<SearchRunRow>(Read::prefix::<SearchRunRow>(vec![])).await.unwrap().into_iter().fold(
                BTreeMap::new(),
                |mut all, run| {
                    *all.entry(run.state).or_default() += 1;
                    all
                },
            );
        assert_eq!(documents.keys().collect::<Vec<_>>(), [&0], "no dead run is left");
    })
    .await;
}
