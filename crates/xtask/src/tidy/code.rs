//! What code of a room may not contain: HTTP, SQL, the clock, chance, tasks, the network,
//! configuration, room-version comparisons, setters.

use super::manifests::{is_ours, may_use};
use super::{Source, Tree, Violation};

/// A pattern that is forbidden in all crates but some.
struct Ban {
    law: &'static str,
    /// Text to find in code; it must not stand in the middle of a name.
    patterns: &'static [&'static str],
    /// Crates or files in which it is at home.
    home: &'static [&'static str],
    /// What to do instead.
    instead: &'static str,
}

/// Where the outside world begins: the program, the tests' own world, the engines with their writer
/// threads and connections, and the client through which every request leaves.
const EDGE: &[&str] = &["server", "testkit", "fuzz", "sqlite", "postgres", "egress", "xtask"];

const BANS: &[Ban] = &[
    Ban {
        // One decision, one transaction: who decides, commits. Edges and readers ask a room.
        law: "law-2",
        patterns: &["CommitBatch"],
        home: &[
            "store",
            "sqlite",
            "postgres",
            "rooms",
            "users",
            "media",
            "push",
            "search",
            "appservice",
            "federation",
            "identity",
            "server",
            "testkit",
        ],
        instead: "let the room that decides commit the decision",
    },
    Ban {
        // The stream row commits with the fact; nothing is told beside it.
        law: "law-2",
        patterns: &["notifier().publish", "notifier.publish", "broadcast::channel"],
        home: &["store", "sqlite", "postgres", "testkit"],
        instead: "put a stream entry into the batch",
    },
    Ban {
        // Readers own their position, in the store or in the client's token: not in memory, which a
        // restart forgets and a second node does not share.
        law: "law-3",
        patterns: &["AtomicI64", "AtomicU64", "Mutex<StreamPosition", "RwLock<StreamPosition", "Cell<StreamPosition"],
        home: &[
            "event",
            "store",
            "sqlite",
            "postgres",
            "rooms",
            "users",
            "media",
            "endpoint",
            "client-api",
            "admin",
            "identity",
            "relay",
            "server",
            "testkit",
            "xtask",
        ],
        instead: "keep the position in the store's reader row or in the token",
    },
    Ban {
        // Internal numbers never leave: the edges speak of ids.
        law: "numbers",
        patterns: &["EventNum", "RoomNum"],
        home: &[
            "store",
            "sqlite",
            "postgres",
            "rooms",
            "users",
            "sync",
            "push",
            "search",
            "appservice",
            "federation",
            "testkit",
        ],
        instead: "name the room or the event by its id",
    },
    Ban {
        law: "clock",
        patterns: &["SystemTime::now", "Instant::now", "Timestamp::now", "Zoned::now"],
        home: EDGE,
        instead: "take a `Clock`",
    },
    Ban {
        law: "chance",
        patterns: &[
            "rand::rng",
            "rand::random",
            "rand::fill",
            "thread_rng",
            "OsRng",
            "SysRng",
            "ThreadRng",
            "from_os_rng",
            "getrandom",
        ],
        home: EDGE,
        instead: "take an `Entropy`",
    },
    Ban {
        law: "spawn",
        patterns: &["tokio::spawn", "task::spawn", "spawn_blocking", "spawn_local", "thread::spawn", "JoinSet"],
        home: EDGE,
        instead: "let the caller run it, or take a spawner",
    },
    Ban {
        law: "network",
        patterns: &[
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "reqwest::",
            "tokio::net",
            "std::net::Tcp",
        ],
        home: EDGE,
        instead: "declare what is needed as a trait that is given at boot",
    },
    Ban {
        law: "http",
        patterns: &["axum::", "hyper::", "http::", "StatusCode", "HeaderMap"],
        home: &["endpoint", "egress", "client-api", "admin", "federation", "identity", "server", "testkit", "xtask"],
        instead: "say it in the room's own words; `endpoint` makes HTTP of it",
    },
    Ban {
        law: "law-5",
        patterns: &["toml::", "std::env::var", "env::var", "env::vars"],
        home: &["crates/server/src/config.rs", "crates/server/src/config/", "xtask", "testkit"],
        instead: "put it into the room's `Options`; only `server/config.rs` reads configuration",
    },
    Ban {
        law: "room-version",
        patterns: &["RoomVersionId::V"],
        home: &["event", "testkit", "xtask", "crates/server/src/config"],
        instead: "ask `event` for the rule by its name",
    },
];

/// What makes a `static` a place to keep a service in, or one that a setter fills.
const CHANGEABLE: &[&str] = &["OnceLock<", "OnceCell<", "Mutex<", "RwLock<", "Atomic", "Cell<"];

/// How SQL begins.
const SQL_STARTS: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "INSERT OR ",
    "UPDATE ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "CREATE UNIQUE INDEX ",
    "ALTER TABLE ",
    "DROP TABLE ",
    "PRAGMA ",
    "WITH RECURSIVE ",
    "VACUUM",
    "BEGIN IMMEDIATE",
];

/// Crates in which SQL is at home; `xtask` starts a database for the tests.
const SQL_HOME: &[&str] = &["store", "sqlite", "postgres", "xtask"];

/// Checks every Rust file.
pub fn check(tree: &Tree, found: &mut Vec<Violation>) {
    for source in &tree.sources {
        check_bans(source, found);
        check_statics(source, found);
        check_sql(source, found);
        check_uses(source, tree, found);
    }
}

fn check_bans(source: &Source, found: &mut Vec<Violation>) {
    for ban in BANS.iter().filter(|ban| !at_home(source, ban.home)) {
        for (n, line) in source.product_lines() {
            if let Some(pattern) = ban.patterns.iter().find(|p| contains_path(line, p)) {
                let message = format!("`{pattern}` does not belong here: {}", ban.instead);
                found.push(Violation { path: source.path.clone(), line: n + 1, law: ban.law, message });
            }
        }
    }
}

/// Whether the crate or the file is one of those named.
fn at_home(source: &Source, home: &[&str]) -> bool {
    home.iter().any(|h| *h == source.package || (h.contains('/') && source.path.starts_with(h)))
}

/// Whether `line` holds `pattern` where no name runs into it from the left.
fn contains_path(line: &str, pattern: &str) -> bool {
    line.match_indices(pattern).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// Law 4: a room is given what it needs at boot, so it keeps nothing global that changes.
fn check_statics(source: &Source, found: &mut Vec<Violation>) {
    if at_home(source, EDGE) {
        return;
    }
    for (n, line) in source.product_lines() {
        let item = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        let global = item.starts_with("static ") || item.starts_with("thread_local!");
        if global && (item.contains("static mut ") || CHANGEABLE.iter().any(|kind| item.contains(kind))) {
            let message = "take it as an argument at boot: no setters, no service locator".to_owned();
            found.push(Violation { path: source.path.clone(), line: n + 1, law: "law-4", message });
        }
    }
}

fn check_sql(source: &Source, found: &mut Vec<Violation>) {
    if at_home(source, SQL_HOME) {
        return;
    }
    for (line, text) in &source.strings {
        let text = text.trim_start();
        if SQL_STARTS.iter().any(|start| text.starts_with(start)) {
            let message = "SQL stands in the store alone: add a read operation there".to_owned();
            found.push(Violation { path: source.path.clone(), line: line + 1, law: "sql", message });
        }
    }
}

/// Looks at the lines that name another crate of ours: is it allowed, and is it no re-export?
fn check_uses(source: &Source, tree: &Tree, found: &mut Vec<Violation>) {
    for (n, line) in source.product_lines() {
        let Some((public, name)) = used_crate(line) else { continue };
        if !is_ours(&name) || name == source.package || is_local_module(source, tree, &name) {
            continue;
        }
        let violation = |law, message| Violation { path: source.path.clone(), line: n + 1, law, message };
        if !may_use(&source.package, &name) {
            found.push(violation("table", format!("`{}` may not use `{name}`", source.package)));
        }
        if public && source.package != "testkit" {
            let message = format!("no re-exports between rooms: name `{name}` where it is used");
            found.push(violation("re-export", message));
        }
    }
}

/// The first name of a `use` line in the manifest's spelling, and whether it is public.
fn used_crate(line: &str) -> Option<(bool, String)> {
    let line = line.trim_start();
    let (public, rest) = match line.strip_prefix("pub use ") {
        Some(rest) => (true, rest),
        None => (false, line.strip_prefix("pub(crate) use ").or_else(|| line.strip_prefix("use "))?),
    };
    let rest = rest.strip_prefix("::").unwrap_or(rest);
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    Some((public, rest[..end].replace('_', "-")))
}

/// Whether the crate has a module of that name, which then is what the line means.
fn is_local_module(source: &Source, tree: &Tree, name: &str) -> bool {
    let file = format!("/{}.rs", name.replace('-', "_"));
    tree.sources.iter().any(|s| s.package == source.package && s.path.ends_with(&file))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Laws broken by a file of `package` with this text.
    fn laws(package: &str, path: &str, text: &str) -> Vec<&'static str> {
        let sources = vec![Source::parse(Path::new(path), package, text)];
        let tree = Tree { sources, ..Tree::default() };
        let mut found = Vec::new();
        check(&tree, &mut found);
        found.into_iter().map(|v| v.law).collect()
    }

    fn in_rooms(text: &str) -> Vec<&'static str> {
        laws("rooms", "crates/rooms/src/send.rs", text)
    }

    #[test]
    fn the_world_outside_is_passed_in() {
        assert_eq!(in_rooms("fn f() { let t = std::time::SystemTime::now(); }"), ["clock"]);
        assert_eq!(in_rooms("fn f() { let t = Instant::now(); }"), ["clock"]);
        assert_eq!(in_rooms("fn f() { let t = rand::random::<u8>(); }"), ["chance"]);
        assert_eq!(in_rooms("fn f() { tokio::spawn(async {}); }"), ["spawn"]);
        assert_eq!(in_rooms("use std::net::TcpStream;"), ["network"]);
        assert_eq!(laws("server", "crates/server/src/main.rs", "fn f() { tokio::spawn(g()); }"), [""; 0]);
    }

    #[test]
    fn tests_and_words_are_free() {
        assert_eq!(in_rooms("#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }"), [""; 0]);
        assert_eq!(in_rooms("// Never Instant::now here.\nfn f() {}"), [""; 0]);
        assert_eq!(in_rooms("fn f() { my_http::x(); }"), [""; 0]);
    }

    #[test]
    fn http_and_configuration_are_caught() {
        assert_eq!(in_rooms("use axum::Router;"), ["http"]);
        assert_eq!(in_rooms("fn f() { std::env::var(\"X\"); }"), ["law-5"]);
        let read = "fn f() { let v: T = toml::from_str(s); }";
        assert_eq!(laws("server", "crates/server/src/boot.rs", read), ["law-5"]);
        assert_eq!(laws("server", "crates/server/src/config.rs", read), [""; 0]);
    }

    #[test]
    fn edges_do_not_commit_and_nobody_tells_beside_the_commit() {
        let commit = "fn f() { store.commit(CommitBatch::new()); }";
        assert_eq!(in_rooms(commit), [""; 0]);
        assert_eq!(laws("client-api", "crates/client-api/src/room/send.rs", commit), ["law-2"]);
        assert_eq!(laws("sync", "crates/sync/src/v3.rs", commit), ["law-2"]);
        assert_eq!(in_rooms("fn f() { store.notifier().publish(n, &[]); }"), ["law-2"]);
    }

    #[test]
    fn readers_keep_no_position_in_memory_and_numbers_do_not_leave() {
        let position = "struct Sync { at: Mutex<StreamPosition> }";
        assert_eq!(laws("sync", "crates/sync/src/v3.rs", position), ["law-3"]);
        assert_eq!(laws("store", "crates/store/src/notifier.rs", position), [""; 0]);
        let number = "fn f(n: EventNum) {}";
        assert_eq!(laws("client-api", "crates/client-api/src/room/send.rs", number), ["numbers"]);
        assert_eq!(in_rooms(number), [""; 0]);
    }

    #[test]
    fn sql_outside_the_store_is_caught() {
        let query = "fn f() { q(\"SELECT x FROM y\"); }";
        assert_eq!(in_rooms(query), ["sql"]);
        assert_eq!(in_rooms("fn f() { q(r#\"\n  DELETE FROM y\"#); }"), ["sql"]);
        assert_eq!(laws("sqlite", "crates/store/sqlite/src/read.rs", query), [""; 0]);
        assert_eq!(in_rooms("fn f() { q(\"Selected rooms\"); }"), [""; 0]);
    }

    #[test]
    fn versions_and_locators_are_caught() {
        assert_eq!(in_rooms("fn f() { if v == RoomVersionId::V11 {} }"), ["room-version"]);
        assert_eq!(in_rooms("static ROOMS: OnceLock<u8> = OnceLock::new();"), ["law-4"]);
        assert_eq!(in_rooms("pub static N: AtomicU64 = AtomicU64::new(0);"), ["law-4"]);
        assert_eq!(in_rooms("struct Pdu { hash: OnceLock<Hash> }"), [""; 0]);
    }

    #[test]
    fn use_lines_follow_the_table() {
        assert_eq!(in_rooms("use sync::Token;"), ["table"]);
        assert_eq!(in_rooms("use std::sync::Arc;"), [""; 0]);
        assert_eq!(in_rooms("pub use event::Pdu;"), ["re-export"]);
        assert_eq!(laws("client-api", "crates/client-api/src/sync.rs", "use sync::Token;"), [""; 0]);
    }
}
