//! What is measured, one function per operation that has a budget.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Map, Value, json};

use super::world::{
    LIST_MEMBERS, MANY_ROOMS, SENDERS, STATE_EVENTS, User, World, create, join, segment, send, sync, text,
};

/// A sample is repeated until it used this much CPU time, so that the clock's grain does not matter.
const CPU_SECONDS_MIN: f64 = 0.5;

/// … or took this long.
const WALL_MAX: Duration = Duration::from_secs(6);

/// How long a server may still work on what it has answered already.
const SETTLE: Duration = Duration::from_millis(100);

/// Syncs that wait at once.
const WAITING: usize = 100;

/// Messages in a burst.
const BURST: usize = 30;

/// A sync that is answered later than this was not woken.
const WOKEN_MAX: Duration = Duration::from_secs(15);

/// How long a waiting sync asks to wait.
const WAIT_MS: u32 = 20_000;

/// The size of a file.
const FILE_BYTES: usize = 1 << 20;

/// What one operation did in one run: how many, and the time of each where that is asked for.
type Run = Result<(usize, Vec<Duration>), String>;

/// An operation and its budget.
#[derive(Debug)]
pub struct Operation {
    /// What is done.
    pub name: &'static str,
    /// CPU milliseconds that one may cost.
    pub goal_ms: Option<f64>,
    run: fn(&mut World) -> Run,
}

/// What one run of an operation showed.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// CPU milliseconds of the whole process tree per operation.
    pub cpu_ms: f64,
    /// The least and the most of them among the rounds.
    pub cpu_ms_range: [f64; 2],
    /// Operations per second of wall time.
    pub per_second: f64,
    /// The middle of the operations' wall times in milliseconds, where they were taken one by one.
    pub wall_p50_ms: Option<f64>,
}

/// Short form for the table below.
const fn operation(name: &'static str, goal_ms: f64, run: fn(&mut World) -> Run) -> Operation {
    Operation { name, goal_ms: Some(goal_ms), run }
}

/// The table.
pub const OPERATIONS: &[Operation] = &[
    operation("/versions", 0.03, |w| get(w, 500, "/_matrix/client/versions")),
    operation("/whoami", 0.03, |w| get(w, 500, "/_matrix/client/v3/account/whoami")),
    operation("create a room", 2.0, create_rooms),
    operation("send, 16 senders, one room", 0.3, |w| senders(w, |w, _, _| w.one.clone())),
    operation("send, 16 senders, 50 rooms", 0.3, |w| senders(w, |w, sender, n| w.many[room_of(sender, n)].clone())),
    operation("send, one sender", 0.3, one_sender),
    operation("send until the other's sync answers", 1.5, send_until_seen),
    operation("one message to 100 waiting syncs", 8.0, wake_all),
    operation("burst, per delivery", 0.08, burst),
    operation("initial sync, 40 rooms of 30", 12.0, initial_sync),
    operation("idle incremental sync of that user", 0.05, idle_sync),
    operation("page of 100 old events", 0.6, page),
    operation("set one state event among 1,000", 0.4, set_state),
    operation("/state of 1,000 events", 1.2, |w| get_of(w, &w.state.clone(), "state")),
    operation("/members of 100", 0.8, |w| get_of(w, &w.crowd.clone(), "members")),
    operation("local join", 0.6, local_joins),
    operation("upload device keys", 0.3, upload_keys),
    operation("claim a one-time key", 0.07, claim_keys),
    operation("query the keys of 100 users", 0.6, query_keys),
    operation("upload 1 MiB", 1.5, upload),
    operation("download 1 MiB", 0.5, download),
];

impl Operation {
    /// Runs the operation until it has cost enough to be measured.
    pub fn sample(&self, world: &mut World) -> Result<Sample, String> {
        // One run first, so that no cache is cold for one server and warm for the other.
        (self.run)(world)?;
        let (started, before) = (Instant::now(), world.server.cpu_seconds());
        world.aside_seconds = 0.0;
        let (mut count, mut walls, mut cpu, mut busy) = (0, Vec::new(), 0.0, Duration::ZERO);
        while cpu < CPU_SECONDS_MIN && started.elapsed() < WALL_MAX {
            let run_started = Instant::now();
            let (n, each) = (self.run)(world)?;
            busy += run_started.elapsed();
            count += n;
            walls.extend(each);
            cpu = world.server.cpu_seconds() - before - world.aside_seconds;
        }
        std::thread::sleep(SETTLE);
        cpu = world.server.cpu_seconds() - before - world.aside_seconds;
        walls.sort_unstable();
        let cpu_ms = cpu * 1e3 / count as f64;
        Ok(Sample {
            cpu_ms,
            cpu_ms_range: [cpu_ms; 2],
            per_second: count as f64 / busy.as_secs_f64(),
            wall_p50_ms: walls.get(walls.len() / 2).map(|wall| wall.as_secs_f64() * 1e3),
        })
    }
}

impl Sample {
    /// The sample with the middle cost, and the range of all.
    pub fn median(samples: &[Self]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(|a, b| a.cpu_ms.total_cmp(&b.cpu_ms));
        let range = [sorted[0].cpu_ms, sorted[sorted.len() - 1].cpu_ms];
        Self { cpu_ms_range: range, ..sorted[sorted.len() / 2] }
    }
}

/// The same `GET` by the first user, again and again on one connection.
fn get(world: &mut World, count: usize, path: &str) -> Run {
    let mut link = world.connect();
    for _ in 0..count {
        link.request("GET", path, &world.users[0].token, "")?.json()?;
    }
    Ok((count, Vec::new()))
}

/// A `GET` below a room.
fn get_of(world: &mut World, room: &str, what: &str) -> Run {
    get(world, 10, &format!("/_matrix/client/v3/rooms/{}/{what}", segment(room)))
}

fn create_rooms(world: &mut World) -> Run {
    let mut link = world.connect();
    for _ in 0..5 {
        create(&mut link, &world.users[0])?;
    }
    Ok((5, Vec::new()))
}

/// One of the rooms of a sender: those whose number leaves the sender's when divided.
fn room_of(sender: usize, n: usize) -> usize {
    let rooms = (MANY_ROOMS - sender).div_ceil(SENDERS);
    sender + (n % rooms) * SENDERS
}

/// All senders at once, each in a closed loop.
fn senders(world: &mut World, room: fn(&World, usize, usize) -> String) -> Run {
    const EACH: usize = 20;
    let first = world.made;
    world.made += SENDERS * EACH;
    let world = &*world;
    let one = |sender: usize| -> Result<(), String> {
        let mut link = world.connect();
        for n in 0..EACH {
            let txn = format!("load{}", first + sender * EACH + n);
            send(&mut link, &world.users[sender], &room(world, sender, n), &txn)?;
        }
        Ok(())
    };
    at_once((0..SENDERS).collect(), one)?;
    Ok((SENDERS * EACH, Vec::new()))
}

/// Runs `body` for each item in a thread of its own; the first error counts.
fn at_once<T: Send>(items: Vec<T>, body: impl Fn(T) -> Result<(), String> + Sync) -> Result<(), String> {
    std::thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || body(item))).collect();
        let results = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a thread ended".to_owned())));
        results.collect::<Vec<_>>().into_iter().collect()
    })
}

fn one_sender(world: &mut World) -> Run {
    let (mut link, mut walls) = (world.connect(), Vec::new());
    for _ in 0..20 {
        let txn = format!("one{}", world.next());
        let started = Instant::now();
        send(&mut link, &world.users[0], &world.one, &txn)?;
        walls.push(started.elapsed());
    }
    Ok((walls.len(), walls))
}

/// A token of now for a user.
fn token_of_now(world: &World, user: &User) -> Result<String, String> {
    let mut link = world.connect();
    let (mut since, _) = sync(&mut link, user, "", 0)?;
    // The first token may be followed by what the sync itself caused (presence).
    for _ in 0..2 {
        since = sync(&mut link, user, &since, 0)?.0;
    }
    Ok(since)
}

/// Syncs until the event has come.
fn sync_until(world: &World, user: &User, since: &str, event_id: &str) -> Result<Duration, String> {
    let (mut link, mut since, started) = (world.connect(), since.to_owned(), Instant::now());
    loop {
        let asked = Instant::now();
        let (next, body) = sync(&mut link, user, &since, WAIT_MS)?;
        if asked.elapsed() > WOKEN_MAX {
            return Err(format!("a waiting sync was not woken within {WOKEN_MAX:?}"));
        }
        since = next;
        let found = body.windows(event_id.len()).any(|window| window == event_id.as_bytes());
        if found {
            return Ok(started.elapsed());
        }
    }
}

fn send_until_seen(world: &mut World) -> Run {
    const COUNT: usize = 10;
    let (alice, bob) = (world.users[0].clone(), world.users[1].clone());
    let mut since = world.aside(|world| token_of_now(world, &bob))?;
    let (mut link, mut walls) = (world.connect(), Vec::new());
    for _ in 0..COUNT {
        let txn = format!("seen{}", world.next());
        let (world, told) = (&*world, mpsc::channel());
        std::thread::scope(|scope| -> Result<(), String> {
            let (bob, from, sender) = (&bob, since.clone(), told.0);
            let waiting = scope.spawn(move || {
                let answer = sync(&mut world.connect(), bob, &from, WAIT_MS);
                // Nobody listens any more where sending failed.
                let _ = sender.send(Instant::now());
                answer
            });
            // Long enough for the sync to be waiting.
            std::thread::sleep(Duration::from_millis(20));
            let started = Instant::now();
            send(&mut link, &alice, &world.one, &txn)?;
            let answered = told.1.recv().map_err(|e| e.to_string())?;
            walls.push(answered.saturating_duration_since(started));
            since = waiting.join().map_err(|_| "a thread ended".to_owned())??.0;
            Ok(())
        })?;
    }
    Ok((COUNT, walls))
}

/// The readers' tokens of now.
fn tokens_of_now(world: &mut World) -> Result<Vec<String>, String> {
    world.aside(|world| {
        let readers = &world.users[1..=WAITING];
        readers.iter().map(|user| token_of_now(world, user)).collect()
    })
}

/// Lets everybody wait in a sync, runs `send`, and waits until all have seen the event it answers.
fn wake(world: &World, tokens: Vec<String>, send: impl FnOnce() -> Result<String, String>) -> Result<(), String> {
    let readers = &world.users[1..=WAITING];
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel::<String>();
        let listeners: Vec<mpsc::Sender<String>> = readers
            .iter()
            .zip(tokens)
            .map(|(user, since)| {
                let (listener, event) = mpsc::channel::<String>();
                let tell = tell.clone();
                scope.spawn(move || {
                    let result = wait_for(world, user, &since, &event);
                    let _ = tell.send(result.err().unwrap_or_default());
                });
                listener
            })
            .collect();
        std::thread::sleep(Duration::from_millis(150));
        let event_id = send()?;
        for listener in listeners {
            listener.send(event_id.clone()).map_err(|e| e.to_string())?;
        }
        for _ in 0..WAITING {
            let error = told.recv().map_err(|e| e.to_string())?;
            if !error.is_empty() {
                return Err(error);
            }
        }
        Ok(())
    })
}

/// One waiting reader: syncs at once, learns which event to look for afterwards, and goes on until it
/// has come.
fn wait_for(world: &World, user: &User, since: &str, event: &mpsc::Receiver<String>) -> Result<(), String> {
    let asked = Instant::now();
    let (next, body) = sync(&mut world.connect(), user, since, WAIT_MS)?;
    if asked.elapsed() > WOKEN_MAX {
        return Err(format!("a waiting sync was not woken within {WOKEN_MAX:?}"));
    }
    let event_id = event.recv().map_err(|e| e.to_string())?;
    if body.windows(event_id.len()).any(|window| window == event_id.as_bytes()) {
        return Ok(());
    }
    sync_until(world, user, &next, &event_id).map(|_| ())
}

fn wake_all(world: &mut World) -> Run {
    let txn = format!("wake{}", world.next());
    let tokens = tokens_of_now(world)?;
    let world = &*world;
    wake(world, tokens, || send(&mut world.connect(), &world.users[0], &world.crowd, &txn))?;
    Ok((1, Vec::new()))
}

fn burst(world: &mut World) -> Run {
    let first = world.made;
    world.made += BURST;
    let tokens = tokens_of_now(world)?;
    let world = &*world;
    wake(world, tokens, || {
        let (mut link, mut last) = (world.connect(), String::new());
        for n in 0..BURST {
            last = send(&mut link, &world.users[0], &world.crowd, &format!("burst{}", first + n))?;
        }
        Ok(last)
    })?;
    Ok((BURST * WAITING, Vec::new()))
}

/// Each time another member of the many rooms, since servers keep an answer for a while.
fn initial_sync(world: &mut World) -> Run {
    let member = world.next() % LIST_MEMBERS;
    sync(&mut world.connect(), &world.users[member], "", 0)?;
    Ok((1, Vec::new()))
}

fn idle_sync(world: &mut World) -> Run {
    let (user, mut link) = (world.users[0].clone(), world.connect());
    let mut since = world.aside(|world| token_of_now(world, &user))?;
    const COUNT: usize = 200;
    for _ in 0..COUNT {
        since = sync(&mut link, &user, &since, 0)?.0;
    }
    Ok((COUNT, Vec::new()))
}

fn page(world: &mut World) -> Run {
    let (mut link, mut pages) = (world.connect(), 0);
    let room = segment(&world.old);
    let mut from = String::new();
    for _ in 0..4 {
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=100{from}");
        let answer = link.request("GET", &path, &world.users[0].token, "")?.json()?;
        pages += 1;
        from = match text(&answer, "end") {
            Ok(end) => format!("&from={end}"),
            Err(_) => break,
        };
    }
    Ok((pages, Vec::new()))
}

fn set_state(world: &mut World) -> Run {
    let mut link = world.connect();
    for _ in 0..20 {
        let n = world.next();
        world.set_state(&mut link, n * 7 % STATE_EVENTS, n)?;
    }
    Ok((20, Vec::new()))
}

/// Joins of a new room.
fn local_joins(world: &mut World) -> Run {
    let mut link = world.connect();
    let room = world.aside(|world| create(&mut world.connect(), &world.users[0]))?;
    let users = &world.users[1..];
    for user in users {
        join(&mut link, user, &room)?;
    }
    Ok((users.len(), Vec::new()))
}

/// Uploads the keys of users' devices, each with ten one-time keys that are new.
fn upload_keys(world: &mut World) -> Run {
    let mut link = world.connect();
    for _ in 0..20 {
        let made = world.next();
        // Over all users, since a server may bound the keys of each.
        let n = made % WAITING;
        let user = world.users[1 + n].clone();
        let body = keys_of(&user, n, made).to_string();
        link.request("POST", "/_matrix/client/v3/keys/upload", &user.token, &body)?.json()?;
    }
    Ok((20, Vec::new()))
}

/// The body of an upload: the `device`-th device's keys, and the `made`-th ten of one-time keys.
pub fn keys_of(user: &User, device: usize, made: usize) -> Value {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&device.to_le_bytes());
    let key = SigningKey::from_bytes(&seed);
    let own = format!("ed25519:{}", user.device);
    let sign = |mut object: Value| {
        // Canonical: the keys of objects are sorted, and there are no numbers and no escapes.
        let signature = STANDARD_NO_PAD.encode(key.sign(object.to_string().as_bytes()).to_bytes());
        object["signatures"] = json!({ &user.id: { &own: signature } });
        object
    };
    let public = |n: usize| {
        let mut bytes = [9; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        STANDARD_NO_PAD.encode(bytes)
    };
    let one_time: Map<String, Value> = (0..10)
        .map(|n| (format!("signed_curve25519:K{made}x{n}"), sign(json!({ "key": public(made * 16 + n) }))))
        .collect();
    let device_keys = sign(json!({
        "user_id": user.id,
        "device_id": user.device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            format!("curve25519:{}", user.device): public(device),
            &own: STANDARD_NO_PAD.encode(key.verifying_key().to_bytes()),
        },
    }));
    json!({ "device_keys": device_keys, "one_time_keys": one_time })
}

fn claim_keys(world: &mut World) -> Run {
    let mut link = world.connect();
    let mut claimed = 0;
    for _ in 0..20 {
        let n = world.next() % WAITING;
        let user = &world.users[1 + n];
        let body = json!({ "one_time_keys": { &user.id: { &user.device: "signed_curve25519" } } });
        let token = &world.users[0].token;
        link.request("POST", "/_matrix/client/v3/keys/claim", token, &body.to_string())?.json()?;
        claimed += 1;
    }
    Ok((claimed, Vec::new()))
}

fn query_keys(world: &mut World) -> Run {
    let mut link = world.connect();
    let all: Map<String, Value> = world.users[1..].iter().map(|user| (user.id.clone(), json!([]))).collect();
    let body = json!({ "device_keys": all }).to_string();
    for _ in 0..10 {
        link.request("POST", "/_matrix/client/v3/keys/query", &world.users[0].token, &body)?.json()?;
    }
    Ok((10, Vec::new()))
}

/// Bytes that do not compress and differ from file to file.
fn file(seed: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    bytes.take(FILE_BYTES).collect()
}

fn upload_one(world: &mut World) -> Result<String, String> {
    let bytes = file(world.next());
    let path = "/_matrix/media/v3/upload?filename=bench.bin";
    let answer = world.connect().send("POST", path, &world.users[0].token, "application/octet-stream", &bytes)?;
    text(&answer.json()?, "content_uri")
}

fn upload(world: &mut World) -> Run {
    for _ in 0..10 {
        upload_one(world)?;
    }
    Ok((10, Vec::new()))
}

/// Downloads of one file.
fn download(world: &mut World) -> Run {
    let uri = world.aside(upload_one)?;
    let path = format!("/_matrix/client/v1/media/download/{}", uri.trim_start_matches("mxc://"));
    let mut link = world.connect();
    for _ in 0..40 {
        let answer = link.request("GET", &path, &world.users[0].token, "")?;
        if answer.status != 200 || answer.body.len() != FILE_BYTES {
            return Err(format!("{} with {} bytes", answer.status, answer.body.len()));
        }
    }
    Ok((40, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sender_writes_to_rooms_of_its_own() {
        for sender in 0..SENDERS {
            for n in 0..100 {
                let room = room_of(sender, n);
                assert!(room < MANY_ROOMS && room % SENDERS == sender, "sender {sender}, room {room}");
            }
        }
    }

    #[test]
    fn keys_are_signed_by_themselves() {
        let user = User { id: "@a:b".to_owned(), token: String::new(), device: "D".to_owned() };
        let mut keys = keys_of(&user, 3, 5)["device_keys"].clone();
        let signature = keys["signatures"]["@a:b"]["ed25519:D"].clone();
        let signature = STANDARD_NO_PAD.decode(signature.as_str().expect("a signature")).expect("base64");
        let public = STANDARD_NO_PAD.decode(keys["keys"]["ed25519:D"].as_str().expect("a key")).expect("base64");
        let public = ed25519_dalek::VerifyingKey::from_bytes(&public.try_into().expect("32 bytes")).expect("a key");
        keys.as_object_mut().expect("an object").remove("signatures");
        let signature = ed25519_dalek::Signature::from_slice(&signature).expect("64 bytes");
        assert!(public.verify_strict(keys.to_string().as_bytes(), &signature).is_ok());
    }

    #[test]
    fn the_median_is_the_middle_cost() {
        let sample = |cpu_ms| Sample { cpu_ms, cpu_ms_range: [cpu_ms; 2], per_second: 1.0, wall_p50_ms: None };
        let median = Sample::median(&[sample(9.0), sample(1.0), sample(2.0)]);
        assert_eq!((median.cpu_ms, median.cpu_ms_range), (2.0, [1.0, 9.0]));
    }
}
