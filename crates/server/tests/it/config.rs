//! Configuration: who wins, what is refused, and what the commands print.

use std::collections::BTreeMap;

use server::config::sources::Given;
use server::config::{Config, Database, Error, Resource, reference, show};

use crate::program::run;

fn with_file(text: &str, environment: &[(&str, &str)], set: &[&str]) -> Result<(Config, Vec<String>), Error> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hearth.toml");
    std::fs::write(&file, text).unwrap();
    Config::load(&Given {
        file: Some(file),
        set: set.iter().map(|text| (*text).to_owned()).collect(),
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        default_file: false,
    })
}

fn refused(text: &str, names: &[&str]) {
    let error = with_file(text, &[], &[]).unwrap_err().to_string();
    for name in names {
        assert!(error.contains(name), "{text:?} is refused with {error:?}, without {name:?}");
    }
}

#[test]
fn settings_count_before_and_behind_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["--set", "server_name=a.test", "config", "--set=log.format=json", "show", "--set", "log.filter=warn"];
    let (code, said) = run(folder.path(), &words, &[]);
    assert_eq!(code, 0, "{said}");
    for line in ["server_name = \"a.test\"", "log.format = \"json\"", "log.filter = \"warn\""] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(run(folder.path(), &["config", "check", "--set"], &[]).0, 2);
}

#[test]
fn the_defaults_serve_on_loopback() {
    let config = Config::of(&[]).unwrap();
    assert_eq!(config.server_name, None);
    assert_eq!(config.database, Database::Sqlite("./hearth-data/hearth.db".into()));
    assert_eq!(config.default_room_version, "12");
    assert_eq!(config.media_max_upload_bytes, 50 << 20);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].resources, Resource::ALL);
    assert!(config.rate_limits.enabled);
}

#[test]
fn the_command_line_wins_over_the_environment_over_the_file() {
    let file = "server_name = 'file.test'\nlog.filter = 'warn'\n[media]\nmax_upload_bytes = 1\n";
    let environment = [("HEARTH_SERVER_NAME", "environment.test"), ("HEARTH_MEDIA__MAX_UPLOAD_BYTES", "2 KiB")];
    let (config, _) = with_file(file, &environment, &["server_name=line.test"]).unwrap();
    assert_eq!(config.server_name.as_deref(), Some("line.test"));
    assert_eq!(config.media_max_upload_bytes, 2048);
    let kept =
        |value: &str| Config::of(&[&format!("rooms.redaction_retention={value}")]).unwrap().redaction_retention_ms;
    assert_eq!([kept("2 h"), kept("\"0\""), kept("60")], [7_200_000, 0, 60_000]);
    assert_eq!(config.log_filter, "warn");
}

#[test]
fn lists_and_tables_fit_on_a_line() {
    let listeners = "listeners=[{ address = '127.0.0.1:1', resources = ['media'] }, { address = 'unix:/run/h.sock' }]";
    let config = Config::of(&[listeners, "trusted_proxies=10.0.0.0/8, ::1", "rate_limits.logins.burst=3"]).unwrap();
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.listeners[0].resources, [Resource::Media]);
    assert_eq!(config.trusted_proxies.len(), 2);
    assert!(config.rate_limits.rates.values().any(|rate| rate.burst == 3.0));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known() {
    refused("server_nam = 'x'", &["server_nam", "`server_name`"]);
    refused("[registration]\nmod = 'open'", &["registration.mod", "`registration.mode`"]);
    refused("[databse]\nurl = 'sqlite:'", &["databse", "`database.url`"]);
    refused("[rate_limits.messages]\nburts = 1", &["burts", "`rate_limits.messages.burst`"]);
    refused("listeners = [{ address = '127.0.0.1:1', resourcs = [] }]", &["listeners", "resourcs"]);
}

#[test]
fn wrong_values_are_refused_with_their_key() {
    refused("server_name = 'white space'", &["server_name"]);
    refused("server_name = 5", &["server_name", "text"]);
    refused("database.url = 'mysql://x'", &["database.url", "sqlite:"]);
    refused("rooms.default_version = '99'", &["rooms.default_version", "12"]);
    refused("registration.mode = 'maybe'", &["registration.mode", "token"]);
    refused("rate_limits.joins.burst = -1", &["rate_limits.joins.burst"]);
    refused("rooms.redaction_retention = '1 fortnight'", &["rooms.redaction_retention", "7 days"]);
    refused("media.max_upload_bytes = 'big'", &["media.max_upload_bytes", "50 MiB"]);
    refused("listeners = [{ address = 'nowhere' }]", &["listeners", "nowhere"]);
    refused("listeners = [{ address = '127.0.0.1:1', tls = 'acme' }]", &["listeners", "ACME"]);
    refused("appservices.files = ['irc.yaml']", &["appservices.files"]);
    refused("trusted_proxies = ['example.org']", &["trusted_proxies", "example.org"]);
    refused("= 1", &["hearth.toml"]);
}

#[test]
fn server_names_may_have_ports_and_be_addresses() {
    for name in ["example.org", "localhost:8448", "1.2.3.4", "1.2.3.4:5", "[::1]:8448", "a-b.example"] {
        assert!(Config::of(&[&format!("server_name={name}")]).is_ok(), "{name}");
    }
    for name in ["example.org:", "exa mple.org", "example.org/path", "@a:b", ":8448"] {
        assert!(Config::of(&[&format!("server_name={name}")]).is_err(), "{name}");
    }
}

#[test]
fn foreign_variables_of_a_container_platform_do_no_harm() {
    let environment = [("HEARTH_PORT_8008_TCP_ADDR", "10.0.0.1"), ("HEARTH_SERVICE_HOST", "10.0.0.1")];
    let (_, warnings) = with_file("", &environment, &[]).unwrap();
    assert_eq!(warnings.len(), 2);
    let error = with_file("", &[("HEARTH_LOG__FILTR", "x")], &[]).unwrap_err().to_string();
    assert!(error.contains("`log.filter`"), "{error}");
}

#[test]
fn a_secret_can_stand_in_a_file_and_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "from a file\n").unwrap();
    let set = format!("registration.shared_secret_file={}", secret.display());
    let config = Config::of(&[&set]).unwrap();
    assert_eq!(config.registration_shared_secret.as_deref(), Some("from a file"));

    // The later source wins, whichever of the two keys it uses.
    let config = Config::of(&[&set, "registration.shared_secret=given"]).unwrap();
    assert_eq!(config.registration_shared_secret.as_deref(), Some("given"));

    let given = Given {
        set: vec!["registration.shared_secret=hush".to_owned(), "database.url=postgres://u:hush@h/d".to_owned()],
        environment: BTreeMap::from([("HEARTH_LOG__FILTER".to_owned(), "debug".to_owned())]),
        ..Given::default()
    };
    let shown = show(&given).unwrap();
    assert!(!shown.contains("hush"), "{shown}");
    assert!(shown.contains("log.filter = \"debug\"  # HEARTH_LOG__FILTER"), "{shown}");
    assert!(shown.contains("data_dir = \"./hearth-data\"  # default"), "{shown}");
}

#[test]
fn the_reference_is_a_configuration_with_the_defaults() {
    let text = reference();
    let (config, warnings) = with_file(&text, &[], &[]).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::of(&[]).unwrap()));
    assert!(warnings.is_empty());
    for key in server::config::keys::all() {
        let name = key.name.rsplit('.').next().unwrap();
        assert!(text.contains(name), "{}", key.name);
    }
}

#[test]
fn the_readme_names_every_key() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    for key in server::config::keys::all() {
        let class = key.name.strip_prefix("rate_limits.").and_then(|rest| rest.split_once('.'));
        let known = match class {
            Some((class, _)) => readme.contains(&format!("`{class}`")),
            None => readme.contains(&format!("`{}`", key.name)) || key.name.starts_with("federation."),
        };
        assert!(known, "{}", key.name);
    }
}

#[test]
fn other_servers_are_led_to_the_public_address_unless_it_is_not_for_them() {
    let check = |pairs: &[&str], expect: Option<&str>| {
        assert_eq!(Config::of(pairs).unwrap().delegated_to.as_deref(), expect, "{pairs:?}");
    };
    let public = "public_base_url=https://matrix.a.test";
    check(&[], None);
    check(&[public], Some("matrix.a.test:443"));
    check(&["public_base_url=https://matrix.a.test:8443/"], Some("matrix.a.test:8443"));
    check(&["public_base_url=https://matrix.a.test/somewhere"], Some("matrix.a.test:443"));
    check(&["public_base_url=https://[::1]"], Some("[::1]:443"));
    check(&["public_base_url=http://matrix.a.test"], None);
    check(&[public, "federation.delegated_to=b.test"], Some("b.test"));
    check(&[public, "federation.delegated_to=none"], None);
    check(&["federation.delegated_to=b.test:8448"], Some("b.test:8448"));
    let tls = "tls = { certificate = \"c\", key = \"k\" }";
    let listeners = format!("listeners=[{{ address = \"0.0.0.0:443\", {tls}, resources = [\"client\"] }}]");
    check(&[public, &listeners], None);
    let listeners = format!("listeners=[{{ address = \"0.0.0.0:443\", {tls} }}]");
    check(&[public, &listeners], Some("matrix.a.test:443"));
    for wrong in ["https://b.test", "b.test/x", "b.test:x", "a b"] {
        let error = Config::of(&[&format!("federation.delegated_to={wrong}")]).unwrap_err().to_string();
        assert!(error.contains("federation.delegated_to"), "{error}");
    }
}
