//! Who may use whom: the dependency table of ARCHITECTURE.md, read from every manifest.

use std::path::PathBuf;

use super::{Manifest, Tree, Violation};
use crate::Error;

/// A crate of ours and those of ours that it may use.
struct Room {
    name: &'static str,
    may_use: &'static [&'static str],
    dev_may_use: &'static [&'static str],
}

/// Short form for the table below.
const fn room(name: &'static str, may_use: &'static [&'static str], dev_may_use: &'static [&'static str]) -> Room {
    Room { name, may_use, dev_may_use }
}

/// The table. A line that is changed here is changed in ARCHITECTURE.md too, in a commit of its own.
/// The third column is what tests may use on top: the engines below a room, never a reader above it.
const ROOMS: &[Room] = &[
    room("event", &[], &[]),
    room("store", &["event"], &[]),
    room("sqlite", &["store"], &["event"]),
    room("postgres", &["store"], &["event"]),
    room("rooms", &["event", "store"], &["sqlite", "postgres"]),
    room("users", &["event", "store"], &["sqlite", "postgres"]),
    room("media", &["store"], &["sqlite", "postgres"]),
    room("sync", &["event", "store", "rooms", "users"], &["sqlite", "postgres"]),
    room("push", &["event", "store", "rooms", "users"], &["sqlite", "postgres"]),
    room("search", &["event", "store", "rooms"], &["sqlite", "postgres"]),
    room("appservice", &["event", "store", "rooms", "users"], &["sqlite", "postgres"]),
    // `store` for its clock, which rate limits and sessions count by.
    room("endpoint", &["event", "store", "users", "appservice"], &["sqlite"]),
    // The one way out for requests.
    room("egress", &[], &[]),
    room("federation", &["event", "store", "rooms", "users", "media", "endpoint", "egress"], &["sqlite", "testkit"]),
    room("identity", &["store", "endpoint"], &["sqlite"]),
    room("relay", &[], &[]),
    room(
        "client-api",
        &[
            "event",
            "store",
            "rooms",
            "users",
            "media",
            "sync",
            "push",
            "search",
            "appservice",
            "endpoint",
            "federation",
        ],
        &["sqlite", "postgres", "testkit"],
    ),
    room(
        "admin",
        &[
            "event",
            "store",
            "rooms",
            "users",
            "media",
            "sync",
            "push",
            "search",
            "appservice",
            "endpoint",
            "federation",
        ],
        &["sqlite", "postgres", "testkit"],
    ),
    room("server", EVERYTHING_SERVED, &["testkit"]),
    room("testkit", EVERYTHING, &[]),
    room("fuzz", &["event", "store", "rooms", "sync", "media", "endpoint", "users", "federation", "appservice"], &[]),
    room("xtask", &[], &[]),
];

/// What the program is put together from.
const EVERYTHING_SERVED: &[&str] = &[
    "event",
    "store",
    "sqlite",
    "postgres",
    "rooms",
    "users",
    "media",
    "sync",
    "push",
    "search",
    "appservice",
    "endpoint",
    "egress",
    "federation",
    "identity",
    "relay",
    "client-api",
    "admin",
];

/// The same and the program.
const EVERYTHING: &[&str] = &[
    "event",
    "store",
    "sqlite",
    "postgres",
    "rooms",
    "users",
    "media",
    "sync",
    "push",
    "search",
    "appservice",
    "endpoint",
    "egress",
    "federation",
    "identity",
    "relay",
    "client-api",
    "admin",
    "server",
];

/// The rooms that write facts. Law 1: they name no reader, not even in a test.
const WRITERS: &[&str] = &["event", "store", "rooms", "users", "media"];

/// The rooms that follow what was written, or carry it over the network.
const READERS: &[&str] =
    &["sync", "push", "search", "appservice", "federation", "endpoint", "client-api", "admin", "server"];

/// The rooms that know nothing of HTTP.
const WITHOUT_HTTP: &[&str] = &["event", "store", "sqlite", "postgres", "rooms", "users", "media", "sync", "search"];

/// Crates that carry HTTP's types.
const HTTP_CRATES: &[&str] =
    &["axum", "http", "http-body", "http-body-util", "hyper", "hyper-util", "reqwest", "tower", "tower-http"];

/// SQL drivers, and who may use which.
const DRIVERS: &[(&str, &[&str])] =
    &[("rusqlite", &["sqlite"]), ("libsqlite3-sys", &["sqlite", "testkit"]), ("tokio-postgres", &["postgres"])];

/// Law 5: configuration is read in one crate.
const CONFIG_CRATES: &[(&str, &[&str])] = &[("toml", &["server", "xtask"])];

/// Reads a manifest.
pub fn parse(path: &str, text: &str) -> Result<Manifest, Error> {
    let wrong = |message: String| Error::Content { path: PathBuf::from(path), message };
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong(e.to_string()))?;
    let package = table
        .get("package")
        .and_then(|p| p.get("name"))
        .and_then(toml::Value::as_str)
        .ok_or_else(|| wrong("no package name".to_owned()))?;
    let names = |section: &str| -> Vec<String> {
        let section = table.get(section).and_then(toml::Value::as_table);
        section.map(|t| t.keys().cloned().collect()).unwrap_or_default()
    };
    let mut dependencies = names("dependencies");
    dependencies.extend(names("build-dependencies"));
    Ok(Manifest {
        path: path.to_owned(),
        package: package.to_owned(),
        dependencies,
        dev_dependencies: names("dev-dependencies"),
    })
}

/// Checks every manifest against the table.
pub fn check(tree: &Tree, found: &mut Vec<Violation>) {
    for manifest in &tree.manifests {
        check_table(manifest, found);
        check_outside(manifest, found);
    }
}

/// Whether a name is one of our crates.
pub fn is_ours(name: &str) -> bool {
    ROOMS.iter().any(|r| r.name == name)
}

/// Whether `package` may name our crate `other` in code that is not a test.
pub fn may_use(package: &str, other: &str) -> bool {
    package == other || ROOMS.iter().any(|r| r.name == package && r.may_use.contains(&other))
}

fn check_table(manifest: &Manifest, found: &mut Vec<Violation>) {
    let violation = |law, message| Violation { path: manifest.path.clone(), line: 0, law, message };
    let Some(room) = ROOMS.iter().find(|r| r.name == manifest.package) else {
        let message = format!("`{}` is not in the table of who may use whom", manifest.package);
        found.push(violation("table", message));
        return;
    };
    let ours = |names: &[String]| -> Vec<String> { names.iter().filter(|n| is_ours(n)).cloned().collect() };
    for name in ours(&manifest.dependencies) {
        if !room.may_use.contains(&name.as_str()) {
            found.push(violation("table", format!("`{}` may not use `{name}`", room.name)));
        }
    }
    for name in ours(&manifest.dev_dependencies) {
        let allowed = room.may_use.contains(&name.as_str()) || room.dev_may_use.contains(&name.as_str());
        if !allowed {
            found.push(violation("table", format!("the tests of `{}` may not use `{name}`", room.name)));
        }
    }
    if WRITERS.contains(&room.name) {
        let all = manifest.dependencies.iter().chain(&manifest.dev_dependencies);
        for name in all.filter(|n| READERS.contains(&n.as_str())) {
            let message = format!("a writer never names a reader: `{}` names `{name}`", room.name);
            found.push(violation("law-1", message));
        }
    }
}

fn check_outside(manifest: &Manifest, found: &mut Vec<Violation>) {
    let violation = |law, message| Violation { path: manifest.path.clone(), line: 0, law, message };
    let package = manifest.package.as_str();
    for name in &manifest.dependencies {
        if WITHOUT_HTTP.contains(&package) && HTTP_CRATES.contains(&name.as_str()) {
            found.push(violation("http", format!("`{package}` knows no HTTP, so it may not use `{name}`")));
        }
        for (law, table) in [("sql", DRIVERS), ("law-5", CONFIG_CRATES)] {
            let owners = table.iter().find(|(driver, _)| driver == name).map(|(_, owners)| *owners);
            if let Some(owners) = owners.filter(|owners| !owners.contains(&package)) {
                let message = format!("`{name}` is for {} alone", owners.join(" and "));
                found.push(violation(law, message));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Laws broken by a manifest of `package` with these dependencies.
    fn laws(package: &str, dependencies: &str, dev: &str) -> Vec<&'static str> {
        let text =
            format!("[package]\nname = \"{package}\"\n[dependencies]\n{dependencies}\n[dev-dependencies]\n{dev}\n");
        let tree =
            Tree { manifests: vec![parse("crates/x/Cargo.toml", &text).expect("a manifest")], ..Tree::default() };
        let mut found = Vec::new();
        check(&tree, &mut found);
        found.into_iter().map(|v| v.law).collect()
    }

    #[test]
    fn the_table_is_enforced() {
        assert_eq!(laws("rooms", "event.workspace = true\nstore.workspace = true", ""), [""; 0]);
        assert_eq!(laws("media", "rooms.workspace = true", ""), ["table"]);
        assert_eq!(laws("store", "sqlite = { path = \"x\" }", ""), ["table"]);
        assert_eq!(laws("event", "", "store.workspace = true"), ["table"]);
        assert_eq!(laws("newcomer", "", ""), ["table"]);
    }

    #[test]
    fn a_writer_that_names_a_reader_is_caught_also_in_its_tests() {
        assert_eq!(laws("rooms", "sync.workspace = true", ""), ["table", "law-1"]);
        assert_eq!(laws("users", "", "federation.workspace = true"), ["table", "law-1"]);
    }

    #[test]
    fn http_sql_and_configuration_stay_in_their_rooms() {
        assert_eq!(laws("rooms", "axum.workspace = true", ""), ["http"]);
        assert_eq!(laws("sync", "http = \"1\"", ""), ["http"]);
        assert_eq!(laws("endpoint", "axum.workspace = true", ""), [""; 0]);
        assert_eq!(laws("client-api", "rusqlite.workspace = true", ""), ["sql"]);
        assert_eq!(laws("users", "toml.workspace = true", ""), ["law-5"]);
    }

    #[test]
    fn the_table_has_no_cycle() {
        // A room may only use rooms that stand above it in the table.
        for (n, room) in ROOMS.iter().enumerate() {
            for used in room.may_use {
                let at = ROOMS.iter().position(|r| r.name == *used);
                let fine = at.is_some_and(|at| at < n) || (room.name, *used) == ("endpoint", "appservice");
                assert!(fine, "`{}` uses `{used}`", room.name);
            }
        }
    }
}
