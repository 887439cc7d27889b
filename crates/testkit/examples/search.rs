//! What a search costs: `cargo xtask bench-search`. A server in this process with many messages in six languages; what is
//! printed is the CPU time of indexing them, what the index takes, and what each of some searches costs.

use std::sync::Arc;
use std::time::Instant;

use event::{Json, Object};
use rooms::{NewEvent, Rooms};
use serde_json::{Value, json};
use store::tables::search::{SearchBlockRow, SearchDocumentRow, SearchRunRow};
use store::{Read, UserId};
use testkit::{Client, Server};

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

async fn fill(server: &Server, people: &[(UserId, Vec<String>)], messages: usize) {
    let mut dice = Dice(1);
    let mut sending = tokio::task::JoinSet::new();
    for number in 0..messages {
        let (user, rooms) = &people[usize::from(dice.below(4) == 0)];
        let (room, user) = (rooms[dice.rank(rooms.len())].clone(), user.clone());
        let text = message(&mut dice, number);
        if sending.len() >= AT_A_TIME {
            sending.join_next().await;
        }
        sending.spawn(say(Arc::clone(&server.state.rooms), room, user, text));
    }
    while sending.join_next().await.is_some() {}
}

async fn measure(client: &Client, what: &str, criteria: &Value) {
    let body = json!({ "search_categories": { "room_events": criteria } });
    let first = client.post("/search", body.clone()).await.ok();
    let found = &first["search_categories"]["room_events"];
    let (before_ms, since) = (cpu_ms(), Instant::now());
    for _ in 0..TIMES {
        client.post("/search", body.clone()).await.ok();
    }
    let cpu = (cpu_ms() - before_ms) / f64::from(TIMES);
    let wall = since.elapsed().as_secs_f64() * 1_000.0 / f64::from(TIMES);
    let hits = found["results"].as_array().map_or(0, Vec::len);
    println!("| {what} | {hits} | {} | {cpu:.2} | {wall:.2} |", found["count"]);
}

#[tokio::main]
async fn main() {
    let messages = std::env::args().nth(1).and_then(|number| number.parse().ok()).unwrap_or(MESSAGES);
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let mut people = Vec::new();
    for (client, n_rooms) in [(&alice, OWN_ROOMS), (&bob, OTHER_ROOMS)] {
        let mut rooms = Vec::new();
        for _ in 0..n_rooms {
            rooms.push(client.create_room(json!({})).await);
        }
        people.push((client.id(), rooms));
    }
    let (before_ms, since) = (cpu_ms(), Instant::now());
    fill(&server, &people, messages).await;
    let n = messages as f64;
    println!(
        "{messages} messages sent: {:.0} µs CPU each, {:.0} s",
        (cpu_ms() - before_ms) * 1e3 / n,
        since.elapsed().as_secs_f64()
    );
    let (before_ms, since) = (cpu_ms(), Instant::now());
    if let Err(error) = server.state.search.catch_up().await {
        eprintln!("nothing was indexed: {error}");
    }
    println!("indexed: {:.0} µs CPU each, {:.0} s", (cpu_ms() - before_ms) * 1e3 / n, since.elapsed().as_secs_f64());
    let store = &server.state.store;
    let blocks: Vec<SearchBlockRow> = store.all(Read::prefix::<SearchBlockRow>(vec![])).await.unwrap_or_default();
    let documents: Vec<SearchDocumentRow> =
        store.all(Read::prefix::<SearchDocumentRow>(vec![])).await.unwrap_or_default();
    let runs: Vec<SearchRunRow> = store.all(Read::prefix::<SearchRunRow>(vec![])).await.unwrap_or_default();
    let bytes: usize = blocks.iter().map(|block| block.postings.len() + block.first.len()).sum();
    let terms: usize = documents.iter().map(|document| document.terms.len()).sum();
    println!(
        "the index: {} runs, {} blocks, {:.0} bytes of postings and {:.0} of documents per message\n",
        runs.len(),
        blocks.len(),
        bytes as f64 / n,
        terms as f64 / n
    );
    drop((blocks, documents, runs));
    println!("| the newest 20 by | hits | about | CPU ms | ms |\n|---|---|---|---|---|");
    let own = &people[0].1;
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
        let recent = |filter: Value| json!({ "search_term": term, "order_by": "recent", "filter": filter });
        measure(&alice, what, &recent(json!({ "limit": 20 }))).await;
        measure(&alice, &format!("{what}, in a busy room"), &recent(json!({ "limit": 20, "rooms": [own[0]] }))).await;
        measure(
            &alice,
            &format!("{what}, in a quiet room"),
            &recent(json!({ "limit": 20, "rooms": [own[OWN_ROOMS - 1]] })),
        )
        .await;
    }
    measure(&alice, "a word, ranked", &json!({ "search_term": "coffee", "filter": { "limit": 20 } })).await;
}
