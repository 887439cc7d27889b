//! The people and rooms that the measurements need, made by the same requests on every server, and how they sync.

use serde_json::{Value, json};

use crate::bench::http::Connection;
use crate::bench::operations::keys_of;
use crate::bench::server::Server;
use crate::bench::world::{User, create, join, register, send, text};

/// Every so many rooms, one has messages.
const TALKED_IN: usize = 20;
/// So many of them.
const MESSAGES: usize = 5;
/// How many parts of a long work are told of.
const TOLD: usize = 5;
/// Rooms in the window of a sliding sync.
pub const WINDOW: usize = 20;

/// What clients ask of `/sync`. Presence would answer waiting syncs that no message wakes.
const FILTER: &str =
    r#"{"presence":{"not_types":["*"]},"room":{"state":{"lazy_load_members":true},"timeline":{"limit":10}}}"#;

/// A server with its people and rooms.
#[derive(Debug)]
pub struct World {
    pub server: Server,
    /// Is in all rooms, and syncs.
    pub alice: User,
    /// Made all rooms, and talks in them.
    pub bob: User,
    /// Rooms of these two.
    pub rooms: Vec<String>,
    /// The people who wait, each with keys.
    pub people: Vec<User>,
    /// The room that all people and Bob are in.
    pub crowd: String,
    /// Where Alice stands, by [`Way`].
    pub alice_at: [String; 2],
    /// Where each of the people stands, by [`Way`].
    pub people_at: [Vec<String>; 2],
    /// Keys that were claimed.
    pub claimed: usize,
    made: usize,
}

/// The two ways to sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `GET /_matrix/client/v3/sync`.
    Plain,
    /// `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync`, on a connection of its own.
    Sliding,
}

impl Way {
    /// Syncs from a token on, or anew where it is empty; answers the body.
    pub fn sync(self, link: &mut Connection, user: &User, token: &str, wait_ms: u32) -> Result<Vec<u8>, String> {
        if self == Self::Sliding {
            return sliding(link, user, "bench", token, wait_ms);
        }
        let since = if token.is_empty() { String::new() } else { format!("&since={token}") };
        let filter = escaped(FILTER);
        let path = format!("/_matrix/client/v3/sync?filter={filter}&set_presence=offline&timeout={wait_ms}{since}");
        granted(link.request("GET", &path, &user.token, "")?)
    }

    /// The next token of an answer.
    pub fn token(self, body: &[u8]) -> Result<String, String> {
        let answer: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        text(&answer, if self == Self::Sliding { "pos" } else { "next_batch" })
    }
}

/// The bytes of an answer whose JSON is not looked at yet: reading it costs time that is not the server's.
fn granted(answer: crate::bench::http::Answer) -> Result<Vec<u8>, String> {
    match answer.status {
        200 => Ok(answer.body),
        _ => answer.json().map(|_| Vec::new()),
    }
}

/// A sliding sync with one list of all rooms, as clients ask for it on their main screen.
pub fn sliding(link: &mut Connection, user: &User, conn_id: &str, pos: &str, wait_ms: u32) -> Result<Vec<u8>, String> {
    let pos = if pos.is_empty() { String::new() } else { format!("&pos={pos}") };
    let path = format!(
        "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?set_presence=offline&timeout={wait_ms}{pos}"
    );
    let state = [
        ["m.room.name", ""],
        ["m.room.topic", ""],
        ["m.room.avatar", ""],
        ["m.room.canonical_alias", ""],
        ["m.room.create", ""],
        ["m.room.encryption", ""],
        ["m.room.history_visibility", ""],
        ["m.room.join_rules", ""],
        ["m.room.power_levels", ""],
        ["m.room.tombstone", ""],
        ["m.room.member", "$LAZY"],
        ["m.room.member", "$ME"],
        ["m.space.parent", "*"],
        ["m.space.child", "*"],
    ];
    let on = json!({ "enabled": true });
    let body = json!({
        "conn_id": conn_id,
        "lists": { "all": { "ranges": [[0, WINDOW - 1]], "timeline_limit": 1, "required_state": state } },
        "extensions": { "to_device": on, "e2ee": on, "account_data": on, "receipts": on, "typing": on },
    });
    granted(link.request("POST", &path, &user.token, &body.to_string())?)
}

/// A value in a query with all encoded that may mean something there.
fn escaped(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// Runs `body` for each number below `count`, and says how far it is.
fn each(
    server: &str,
    what: &str,
    count: usize,
    mut body: impl FnMut(usize) -> Result<(), String>,
) -> Result<(), String> {
    for n in 0..count {
        body(n)?;
        if (n + 1) % count.div_ceil(TOLD) == 0 || n + 1 == count {
            println!("bench: {server}: {} of {count} {what}", n + 1);
        }
    }
    Ok(())
}

impl World {
    /// Makes everything.
    pub fn load(server: Server, rooms: usize, people: usize) -> Result<Self, String> {
        let mut link = Connection::new(server.port);
        let (alice, bob) = (register(&mut link, "alice")?, register(&mut link, "bob")?);
        let crowd = create(&mut link, &bob)?;
        let mut world = Self {
            server,
            alice,
            bob,
            rooms: Vec::new(),
            people: Vec::new(),
            crowd,
            alice_at: Default::default(),
            people_at: [vec![String::new(); people], vec![String::new(); people]],
            claimed: 0,
            made: 0,
        };
        let name = world.server.name.clone();
        each(&name, "people with keys", people, |n| world.add_person(&mut link, n))?;
        each(&name, "rooms", rooms, |_| world.add_room(&mut link))?;
        for n in (0..rooms).step_by(TALKED_IN) {
            for _ in 0..MESSAGES {
                let txn = format!("made{}", world.next());
                send(&mut link, &world.bob, &world.rooms[n], &txn)?;
            }
        }
        Ok(world)
    }

    fn add_person(&mut self, link: &mut Connection, n: usize) -> Result<(), String> {
        let user = register(link, &format!("person{n}"))?;
        let keys = keys_of(&user, n, n).to_string();
        link.request("POST", "/_matrix/client/v3/keys/upload", &user.token, &keys)?.json()?;
        join(link, &user, &self.crowd)?;
        self.people.push(user);
        Ok(())
    }

    fn add_room(&mut self, link: &mut Connection) -> Result<(), String> {
        let room = create(link, &self.bob)?;
        join(link, &self.alice, &room)?;
        self.rooms.push(room);
        Ok(())
    }

    /// A new connection to the server.
    pub fn connect(&self) -> Connection {
        Connection::new(self.server.port)
    }

    /// A number that was not given before.
    pub fn next(&mut self) -> usize {
        self.made += 1;
        self.made
    }

    /// Lets all people sync up to now.
    pub fn catch_up(&mut self, way: Way) -> Result<(), String> {
        let mut link = self.connect();
        for (user, at) in self.people.iter().zip(&mut self.people_at[way as usize]) {
            *at = way.token(&way.sync(&mut link, user, at, 0)?)?;
        }
        Ok(())
    }
}

/// How a message that [`send`] made with this transaction id ends, in JSON.
pub fn ending(txn: &str) -> String {
    format!("number {txn}\"")
}

/// Whether a body holds some text.
pub fn holds(body: &[u8], text: &str) -> bool {
    // Not `windows`, which is slow where nothing is optimized.
    String::from_utf8_lossy(body).contains(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_hold_nothing_that_means_something() {
        assert_eq!(escaped(r#"{"a_b":["*"]}&"#), "%7B%22a_b%22%3A%5B%22%2A%22%5D%7D%26");
    }

    #[test]
    fn each_way_has_a_token_of_its_own() {
        let body = br#"{"next_batch":"s1","pos":"p2"}"#;
        assert_eq!(Way::Plain.token(body), Ok("s1".to_owned()));
        assert_eq!(Way::Sliding.token(body), Ok("p2".to_owned()));
        assert!(Way::Sliding.token(b"{}").is_err());
    }

    #[test]
    fn an_ending_is_that_of_one_message() {
        assert!(holds(br#"{"body":"number wake1"}"#, &ending("wake1")));
        assert!(!holds(br#"{"body":"number wake11"}"#, &ending("wake1")));
    }
}
