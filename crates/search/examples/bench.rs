//! What a search costs: `cargo xtask bench-search`. Many messages in six languages in a SQLite database; what is printed is
//! the CPU time of indexing them, what the index takes, and what some searches cost, without what HTTP and rendering do.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex};

use event::{Json, Object, SigningKey};
use rooms::{CreateRoom, MessagesCount, NewEvent, Options, Preset, Rooms};
use search::{Key, Order, Query, Search};
use store::shards::Alone;
use store::tables::search::{SearchBlockRow, SearchDocumentRow, SearchRunRow};
use store::{Clock, Entropy, Read, Store, UserId};

/// Messages, where the command line does not say.
const MESSAGES: usize = 300_000;
/// Rooms of the user who searches.
const OWN_ROOMS: usize = 150;
/// Rooms of somebody else.
const OTHER_ROOMS: usize = 50;
/// Messages that are sent at a time.
const AT_A_TIME: usize = 64;
/// How often each search is repeated.
const TIMES: u32 = 200;

const ENGLISH: &[&str] = &[
    "the", "to", "and", "is", "we", "meeting", "server", "please", "tomorrow", "update", "thanks", "project",
    "release", "coffee", "question",
];
const GERMAN: &[&str] = &[
    "der",
    "die",
    "und",
    "ist",
    "wir",
    "Besprechung",
    "Rechner",
    "bitte",
    "morgen",
    "Straße",
    "danke",
    "für",
    "schön",
];
const RUSSIAN: &[&str] = &["и", "в", "не", "мы", "встреча", "сервер", "завтра", "спасибо", "ещё", "вопрос", "проект"];

/// A generator of numbers, the same in each run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next()).unwrap_or(0) % most.max(1)
    }

    /// A number below `most`, the lower the likelier, as words are in a language.
    fn rank(&mut self, most: usize) -> usize {
        let uniform = (self.below(1_000_000) + 1) as f64 / 1_000_000.0;
        ((most as f64).powf(uniform) - 1.0) as usize
    }
}

/// A word of a language: a common one, or one that is made up of syllables.
fn word(dice: &mut Dice, common: &[&str], syllables: &[&str]) -> String {
    let rank = dice.rank(30_000);
    match common.get(rank) {
        Some(word) => (*word).to_owned(),
        None => {
            let mut rest = rank;
            let mut word = String::new();
            while rest > 0 {
                word.push_str(syllables[rest % syllables.len()]);
                rest /= syllables.len();
            }
            word
        }
    }
}

fn character(dice: &mut Dice, first: u32, most: usize) -> char {
    char::from_u32(first + u32::try_from(dice.rank(most)).unwrap_or(0)).unwrap_or('一')
}

fn message(dice: &mut Dice, number: usize) -> String {
    let n_words = 4 + dice.below(14);
    let latin = &["ba", "der", "ki", "lo", "mun", "ne", "pro", "ri", "sta", "te", "vo", "zen"];
    let words = |dice: &mut Dice, common: &[&str], syllables: &[&str]| {
        (0..n_words).map(|_| word(dice, common, syllables)).collect::<Vec<_>>().join(" ")
    };
    let run = |dice: &mut Dice, first: u32, most: usize, n: usize| {
        (0..n).map(|_| character(dice, first, most)).collect::<String>()
    };
    let mut text = match number % 6 {
        0 => words(dice, ENGLISH, latin),
        1 => words(dice, GERMAN, latin),
        2 => words(dice, RUSSIAN, &["ба", "вер", "ди", "ло", "на", "про", "ста", "те"]),
        3 => run(dice, 0x4e00, 3_000, n_words * 2),
        4 => {
            let kanji = run(dice, 0x4e00, 2_000, n_words);
            let kana = run(dice, 0x3042, 80, n_words);
            kanji.chars().zip(kana.chars()).flat_map(|(kanji, kana)| [kanji, kana]).collect()
        }
        _ => (0..n_words).map(|_| run(dice, 0xac00, 2_000, 3)).collect::<Vec<_>>().join(" "),
    };
    if number % 50_000 == 7 {
        text.push_str(" needle 東京都庁");
    }
    text
}

/// CPU time of this process so far, in milliseconds.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: f64 = after.split(' ').skip(12).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks * 10.0
}

async fn say(rooms: Arc<Rooms>, room: String, user: UserId, text: String) {
    let mut content = Object::new();
    content.insert("msgtype".to_owned(), Json::String("m.text".to_owned()));
    content.insert("body".to_owned(), Json::String(text));
    let sent = rooms.send(&room, NewEvent::message(&user, "m.room.message", content)).await;
    if let Err(error) = sent {
        eprintln!("a message was not sent: {error}");
    }
}

/// A clock that moves one millisecond with each look.
struct Ticks(Mutex<i64>);

impl Clock for Ticks {
    fn now_ms(&self) -> i64 {
        let mut now = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *now += 1;
        *now
    }
}

impl Entropy for Ticks {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.now_ms().wrapping_mul(0x1E37_79B9_7F4A_7C15);
            chunk.iter_mut().zip(number.to_le_bytes()).for_each(|(byte, random)| *byte = random);
        }
    }
}

fn room_of(creator: &UserId) -> CreateRoom {
    CreateRoom {
        creator: creator.clone(),
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
    }
}

async fn fill(rooms: &Arc<Rooms>, people: &[(UserId, Vec<String>)], messages: usize) {
    let mut dice = Dice(1);
    let mut sending = tokio::task::JoinSet::new();
    for number in 0..messages {
        let (user, ids) = &people[usize::from(dice.below(4) == 0)];
        let (room, user) = (ids[dice.rank(ids.len())].clone(), user.clone());
        let text = message(&mut dice, number);
        if sending.len() >= AT_A_TIME {
            sending.join_next().await;
        }
        sending.spawn(say(Arc::clone(rooms), room, user, text));
    }
    while sending.join_next().await.is_some() {}
}

async fn measure(search: &Search, user: &UserId, what: &str, term: &str, room: Option<&String>, order: Order) {
    let keys: BTreeSet<Key> = Key::ALL.into();
    let rooms: Option<Vec<String>> = room.map(|room| vec![room.clone()]);
    let query = Query {
        user,
        search_term: term,
        keys: &keys,
        rooms: rooms.as_deref(),
        not_rooms: &[],
        accepts: &|_| true,
        order,
        limit: 20,
        from: None,
    };
    let Ok(first) = search.find(&query).await else { return };
    let before_ms = cpu_ms();
    for _ in 0..TIMES {
        drop(search.find(&query).await);
    }
    let cpu = (cpu_ms() - before_ms) / f64::from(TIMES);
    println!("| {what} | {} | {} | {cpu:.2} |", first.hits.len(), first.count);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let messages = std::env::args().nth(1).and_then(|number| number.parse().ok()).unwrap_or(MESSAGES);
    let folder = tempfile::tempdir()?;
    let engine = sqlite::Sqlite::open(&folder.path().join("hearth.db"), sqlite::Options::default())?;
    let store = Store::new(Arc::new(engine)).await?;
    let ticks = Arc::new(Ticks(Mutex::new(1_700_000_000_000)));
    let key = Arc::new(SigningKey::generate(&[7; 32]));
    let notify = Arc::new(MessagesCount);
    let rooms = Rooms::new(store.clone(), ticks.clone(), ticks.clone(), key, notify, Options::new("example.org"));
    let search = Search::new(store.clone(), rooms.clone(), ticks, Arc::new(Alone));
    let mut people = Vec::new();
    for (name, n_rooms) in [("@alice:example.org", OWN_ROOMS), ("@bob:example.org", OTHER_ROOMS)] {
        let user = UserId::from(name);
        let mut ids = Vec::new();
        for _ in 0..n_rooms {
            ids.push(rooms.create_room(&room_of(&user)).await?);
        }
        people.push((user, ids));
    }
    let n = messages as f64;
    let before_ms = cpu_ms();
    fill(&rooms, &people, messages).await;
    println!("{messages} messages sent: {:.0} µs CPU each", (cpu_ms() - before_ms) * 1e3 / n);
    let before_ms = cpu_ms();
    search.catch_up().await?;
    println!("indexed: {:.0} µs CPU each", (cpu_ms() - before_ms) * 1e3 / n);
    tell_size(&store, n).await?;
    println!("| the newest 20 by | hits | about | CPU ms |\n|---|---|---|---|");
    let (alice, own) = &people[0];
    for (what, term) in [
        ("a common word", "the"),
        ("a word", "coffee"),
        ("a rare word", "needle"),
        ("two words", "meeting tomorrow"),
        ("a word that nobody said", "xylophone"),
        ("German", "strasse"),
        ("Russian", "еще"),
        ("Chinese, common", "一丁"),
        ("Chinese, rare", "東京都庁"),
        ("one character", "京"),
        ("Japanese", "あ丁"),
        ("Korean", "가각"),
    ] {
        measure(&search, alice, what, term, None, Order::Recent).await;
        measure(&search, alice, &format!("{what}, in a busy room"), term, own.first(), Order::Recent).await;
        measure(&search, alice, &format!("{what}, in a quiet room"), term, own.last(), Order::Recent).await;
    }
    measure(&search, alice, "a word, the best of the newest", "coffee", None, Order::Rank).await;
    Ok(())
}

async fn tell_size(store: &Store, messages: f64) -> Result<(), store::Error> {
    let blocks: Vec<SearchBlockRow> = store.all(Read::prefix::<SearchBlockRow>(vec![])).await?;
    let documents: Vec<SearchDocumentRow> = store.all(Read::prefix::<SearchDocumentRow>(vec![])).await?;
    let runs: Vec<SearchRunRow> = store.all(Read::prefix::<SearchRunRow>(vec![])).await?;
    let bytes: usize = blocks.iter().map(|block| block.postings.len() + block.first.len()).sum();
    let terms: usize = documents.iter().map(|document| document.terms.len()).sum();
    println!(
        "the index: {} runs, {} blocks, {:.0} bytes of postings and {:.0} of documents per message\n",
        runs.len(),
        blocks.len(),
        bytes as f64 / messages,
        terms as f64 / messages
    );
    Ok(())
}
