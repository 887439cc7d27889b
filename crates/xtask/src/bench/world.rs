//! The users and rooms that the operations need, made alike on every server.

use serde_json::{Value, json};

use super::http::Connection;
use super::server::Server;

/// Users, each with a token.
const USERS: usize = 101;

/// Rooms of the people with many rooms.
const LIST_ROOMS: usize = 40;
/// Members of each of those rooms.
pub const LIST_MEMBERS: usize = 30;
/// Messages in each of those rooms.
const LIST_MESSAGES: usize = 20;

/// Rooms that the senders write to at once.
pub const MANY_ROOMS: usize = 50;

/// Messages in the room that is paged through.
const HISTORY_MESSAGES: usize = 400;

/// State events in the room with much state.
pub const STATE_EVENTS: usize = 1_000;

/// Senders that write at once.
pub const SENDERS: usize = 16;

/// A user with a token.
#[derive(Debug, Clone)]
pub struct User {
    pub id: String,
    pub token: String,
    pub device: String,
}

/// A server with its users and rooms.
#[derive(Debug)]
pub struct World {
    pub server: Server,
    pub memory_at_start_mib: f64,
    pub users: Vec<User>,
    /// All users are in it.
    pub crowd: String,
    /// The senders are in it.
    pub one: String,
    /// Each belongs to one sender: room `n` to sender `n % SENDERS`.
    pub many: Vec<String>,
    /// A room with a history.
    pub old: String,
    /// A room with much state.
    pub state: String,
    /// CPU seconds that went into preparing a measurement.
    pub aside_seconds: f64,
    /// Counts what is made, so that names and transaction ids never repeat.
    pub made: usize,
}

/// A path segment with what is special in room ids and event ids encoded.
pub fn segment(text: &str) -> String {
    text.replace('%', "%25").replace('!', "%21").replace(':', "%3A").replace('$', "%24").replace('@', "%40")
}

impl World {
    /// Makes everything.
    pub fn settle(server: Server, scale: usize) -> Result<Self, String> {
        let memory_at_start_mib = server.memory_mib();
        let mut world = Self {
            server,
            memory_at_start_mib,
            users: Vec::new(),
            crowd: String::new(),
            one: String::new(),
            many: Vec::new(),
            old: String::new(),
            state: String::new(),
            aside_seconds: 0.0,
            made: 0,
        };
        let mut link = world.connect();
        for n in 0..USERS {
            let user = register(&mut link, &format!("user{n}"))?;
            world.users.push(user);
        }
        world.crowd = world.room_of(&mut link, USERS)?;
        world.one = world.room_of(&mut link, SENDERS)?;
        for n in 0..MANY_ROOMS {
            let room = create(&mut link, &world.users[n % SENDERS])?;
            world.many.push(room);
        }
        for _ in 0..LIST_ROOMS * scale {
            let room = world.room_of(&mut link, LIST_MEMBERS)?;
            world.say(&mut link, &room, LIST_MESSAGES)?;
        }
        world.old = create(&mut link, &world.users[0].clone())?;
        world.say(&mut link, &world.old.clone(), HISTORY_MESSAGES * scale)?;
        world.state = create(&mut link, &world.users[0].clone())?;
        for n in 0..STATE_EVENTS * scale {
            world.set_state(&mut link, n, 0)?;
        }
        Ok(world)
    }

    /// A new connection to the server.
    pub fn connect(&self) -> Connection {
        Connection::new(self.server.port)
    }

    /// Does something that is no part of what is being measured.
    pub fn aside<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.server.cpu_seconds();
        let result = body(self);
        self.aside_seconds += self.server.cpu_seconds() - before;
        result
    }

    /// A number that was not given before.
    pub fn next(&mut self) -> usize {
        self.made += 1;
        self.made
    }

    /// A public room of the first users.
    pub fn room_of(&self, link: &mut Connection, members: usize) -> Result<String, String> {
        let room = create(link, &self.users[0])?;
        for user in &self.users[1..members] {
            join(link, user, &room)?;
        }
        Ok(room)
    }

    fn say(&mut self, link: &mut Connection, room: &str, messages: usize) -> Result<(), String> {
        for _ in 0..messages {
            let n = self.next();
            send(link, &self.users[0], room, &format!("made{n}"))?;
        }
        Ok(())
    }

    /// Sets state event `key` of the room with much state.
    pub fn set_state(&self, link: &mut Connection, key: usize, value: usize) -> Result<(), String> {
        let room = segment(&self.state);
        let path = format!("/_matrix/client/v3/rooms/{room}/state/org.example.bench/key{key}");
        let body = json!({ "value": value, "text": "as long as a state event usually is" });
        link.request("PUT", &path, &self.users[0].token, &body.to_string())?.json().map(|_| ())
    }
}

/// Registers openly, with the one stage that means nothing.
pub fn register(link: &mut Connection, name: &str) -> Result<User, String> {
    let path = "/_matrix/client/v3/register";
    let mut body = json!({ "username": name, "password": "a pass phrase for benchmarks" });
    let first = link.request("POST", path, "", &body.to_string())?;
    let answer = if first.status == 401 {
        let asked: Value = serde_json::from_slice(&first.body).map_err(|e| e.to_string())?;
        body["auth"] = json!({ "type": "m.login.dummy", "session": asked["session"] });
        link.request("POST", path, "", &body.to_string())?.json()?
    } else {
        first.json()?
    };
    Ok(User {
        id: text(&answer, "user_id")?,
        token: text(&answer, "access_token")?,
        device: text(&answer, "device_id")?,
    })
}

/// Creates a public room.
pub fn create(link: &mut Connection, user: &User) -> Result<String, String> {
    let body = json!({ "preset": "public_chat", "name": "bench", "room_version": "11" });
    let answer = link.request("POST", "/_matrix/client/v3/createRoom", &user.token, &body.to_string())?.json()?;
    text(&answer, "room_id")
}

/// Joins a room.
pub fn join(link: &mut Connection, user: &User, room: &str) -> Result<(), String> {
    let path = format!("/_matrix/client/v3/join/{}", segment(room));
    link.request("POST", &path, &user.token, "{}")?.json().map(|_| ())
}

/// Sends a message, and answers its event id.
pub fn send(link: &mut Connection, user: &User, room: &str, txn: &str) -> Result<String, String> {
    let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{txn}", segment(room));
    let body = json!({ "msgtype": "m.text", "body": format!("a message of usual length, number {txn}") });
    let answer = link.request("PUT", &path, &user.token, &body.to_string())?.json()?;
    text(&answer, "event_id")
}

/// Syncs, and answers the next token and the whole answer.
pub fn sync(link: &mut Connection, user: &User, since: &str, wait_ms: u32) -> Result<(String, Vec<u8>), String> {
    let since = if since.is_empty() { String::new() } else { format!("&since={since}") };
    let path = format!("/_matrix/client/v3/sync?timeout={wait_ms}{since}");
    let answer = link.request("GET", &path, &user.token, "")?;
    let token = text(&answer.json()?, "next_batch")?;
    Ok((token, answer.body))
}

/// A member of a JSON object that has to be a string.
pub fn text(value: &Value, name: &str) -> Result<String, String> {
    value.get(name).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| format!("no `{name}`"))
}
