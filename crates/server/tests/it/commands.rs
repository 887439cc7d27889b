//! The administrator's commands, with the server running and without.

use http::Method;
use serde_json::{Value, json};

use crate::program::{Program, ask, run, run_with_input};

const NAME: &str = "server_name=hearth.test";

#[tokio::test]
async fn accounts_are_managed_with_and_without_a_running_server() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create =
        |name: &str| run_with_input(folder, &["user", "create", name, "--password-stdin"], &[NAME], "a secret!\n");
    assert_eq!(create("alice").0, 0);
    {
        let _running = Program::start(folder, &[NAME]);
        let (code, said) = create("bob");
        assert_eq!((code, said.trim()), (0, "Created @bob:hearth.test."));
        let (code, said) = create("bob");
        assert_eq!(code, 1, "{said}");
        let (code, said) = run(folder, &["user", "create", "carol", "--admin"], &[NAME]);
        assert_eq!(code, 0);
        assert!(said.contains("Password: "), "{said}");
        assert_eq!(run(folder, &["user", "deactivate", "@bob:hearth.test"], &[NAME]).0, 0);
        assert_eq!(run(folder, &["user", "reset-password", "nobody"], &[NAME]).0, 1);
    }
    let (_, listed) = run(folder, &["user", "list"], &[NAME]);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines, ["@alice:hearth.test", "@bob:hearth.test deactivated", "@carol:hearth.test administrator"]);
}

#[tokio::test]
async fn a_backup_of_a_running_server_can_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder, &create, &[NAME], "a secret!\n").0, 0);
    {
        let _running = Program::start(folder, &[NAME]);
        let (code, said) = run(folder, &["backup", "copy"], &[NAME]);
        assert_eq!(code, 0, "{said}");
        let (code, said) = run(folder, &["backup", "copy"], &[NAME]);
        assert_eq!(code, 1, "{said}");
    }
    let (code, said) = run(folder, &["backup", "data/media/copy"], &[NAME]);
    assert_eq!(code, 1, "a copy that would copy itself: {said}");
    let elsewhere = ["data_dir=again", "database.url=sqlite:data/hearth.db"];
    let (code, said) = run(folder, &["restore", "copy"], &elsewhere);
    assert_eq!(code, 1, "a database is never replaced: {said}");
    assert!(!folder.join("again").exists());
    let (code, said) = run(folder, &["restore", "copy"], &[NAME]);
    assert_eq!(code, 1, "a used folder is left alone: {said}");
    std::fs::write(folder.join("copy/hearth.db-wal"), "unmoved").unwrap();
    let (code, said) = run(folder, &["restore", "copy", "--data-dir", "again"], &[]);
    assert_eq!(code, 1, "a data folder is no backup: {said}");
    assert!(!folder.join("again").exists());
    std::fs::remove_file(folder.join("copy/hearth.db-wal")).unwrap();
    let (code, said) = run(folder, &["restore", "copy", "--data-dir", "again"], &[]);
    assert_eq!(code, 0, "{said}");
    let mut restored: Vec<_> =
        std::fs::read_dir(folder.join("again")).unwrap().map(|e| e.unwrap().file_name()).collect();
    restored.sort();
    assert_eq!(restored, ["hearth.db", "media", "signing.key"], "no drafts are left");
    let key = |data: &str| std::fs::read(folder.join(data).join("signing.key")).unwrap();
    assert_eq!(key("again"), key("data"));
    let (_, listed) = run(folder, &["user", "list"], &["data_dir=again"]);
    assert_eq!(listed.trim(), "@alice:hearth.test");
    assert_eq!(run(folder, &["restore", "nowhere", "--data-dir", "third"], &[]).0, 1);
}

#[test]
fn a_database_moves_with_all_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder, &create, &[NAME], "a secret!\n").0, 0);
    let (code, said) = run(folder, &["migrate-database", "--to", "sqlite:new.db"], &[]);
    assert_eq!(code, 0, "{said}");
    let (_, listed) = run(folder, &["user", "list"], &["database.url=sqlite:new.db"]);
    assert_eq!(listed.trim(), "@alice:hearth.test");
    let (code, said) = run(folder, &["migrate-database", "--to", "sqlite:new.db"], &[]);
    assert_eq!(code, 4, "a used target is left alone: {said}");
}

#[tokio::test]
async fn rooms_are_listed_with_and_without_a_running_server() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder, &create, &[NAME], "a secret!\n").0, 0);
    assert_eq!(run(folder, &["rooms"], &[NAME]).0, 0);
    let expected = {
        let program = Program::start(folder, &[NAME]);
        let client = format!("{}/_matrix/client/v3", program.url);
        let login = json!({ "type": "m.login.password", "password": "a secret!", "user": "alice" });
        let login = ask(Method::POST, &format!("{client}/login"), &login.to_string()).await;
        let login: Value = serde_json::from_str(login.body()).unwrap();
        let token = login["access_token"].as_str().unwrap();
        let room = json!({ "room_version": "11" }).to_string();
        let made = ask(Method::POST, &format!("{client}/createRoom?access_token={token}"), &room).await;
        let made: Value = serde_json::from_str(made.body()).unwrap();
        let expected = format!("{} version 11, 1 member joined", made["room_id"].as_str().unwrap());
        let (code, said) = run(folder, &["rooms"], &[NAME]);
        assert_eq!((code, said.trim()), (0, expected.as_str()));
        let metrics = ask(Method::GET, &format!("{}/metrics", program.url), "").await;
        assert!(metrics.body().contains("hearth_rooms_partial 0\n"), "{}", metrics.body());
        assert!(metrics.body().contains("hearth_to_device_dropped_total 0\n"), "{}", metrics.body());
        expected
    };
    let (code, said) = run(folder, &["rooms"], &[NAME]);
    assert_eq!((code, said.trim()), (0, expected.as_str()));
}

#[tokio::test]
async fn reports_are_read_and_closed_with_and_without_a_running_server() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder, &create, &[NAME], "a secret!\n").0, 0);
    {
        let program = Program::start(folder, &[NAME]);
        let client = format!("{}/_matrix/client/v3", program.url);
        let login = json!({ "type": "m.login.password", "password": "a secret!", "user": "alice" });
        let login = ask(Method::POST, &format!("{client}/login"), &login.to_string()).await;
        let login: Value = serde_json::from_str(login.body()).unwrap();
        let token = login["access_token"].as_str().unwrap();
        let reason = json!({ "reason": "spam\n2 \u{1b}[2Jé" }).to_string();
        let path = format!("{client}/users/@bob:elsewhere.test/report?access_token={token}");
        assert_eq!(ask(Method::POST, &path, &reason).await.status(), 200);
        let (code, said) = run(folder, &["reports", "list"], &[NAME]);
        let number = said.split(' ').next().unwrap().to_owned();
        let line = "user @bob:elsewhere.test, by @alice:hearth.test 0 min ago: spam\\n2 \\u{1b}[2Jé";
        assert_eq!((code, said.trim()), (0, format!("{number} {line}").as_str()), "in one line, without escapes");
        let (code, said) = run(folder, &["reports", "show", &number], &[NAME]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("\nreporter @alice:hearth.test\n") && said.contains("\nuser     @bob:els"), "{said}");
        assert_eq!(run(folder, &["reports", "close", &number], &[NAME]).0, 0);
        assert_eq!(run(folder, &["reports", "close", "1000"], &[NAME]).0, 1);
    }
    let (code, said) = run(folder, &["reports", "list"], &[NAME]);
    assert_eq!((code, said.trim()), (0, "There is no report."));
    let (code, said) = run(folder, &["reports", "list", "--all"], &[NAME]);
    assert_eq!(code, 0);
    assert!(said.contains("@bob:elsewhere.test, by @alice:hearth.test 0 min ago, closed: spam"), "{said}");
}

#[tokio::test]
async fn the_doctor_speaks_with_and_without_a_running_server() {
    let folder = tempfile::tempdir().unwrap();
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder.path(), &create, &[NAME], "a secret!\n").0, 0);
    let (code, said) = run(folder.path(), &["doctor"], &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("hearth.test"), "{said}");
    let _running = Program::start(folder.path(), &[NAME]);
    let (code, said) = run(folder.path(), &["doctor"], &[]);
    assert_eq!(code, 0, "{said}");
    for fine in ["hearth.test", "the store can be written to", "MiB are free"] {
        assert!(said.contains(fine), "{fine}: {said}");
    }
}

/// Every command but those that begin a server, with its words.
const ON_A_SERVER: &[&[&str]] = &[
    &["backup", "copy"],
    &["migrate-database", "--to", "sqlite:new.db"],
    &["doctor"],
    &["rooms"],
    &["user", "list"],
    &["user", "reset-password", "alice"],
    &["user", "deactivate", "alice"],
    &["reports", "list"],
    &["reports", "show", "1"],
    &["reports", "close", "1"],
    &["token", "create"],
    &["token", "list"],
    &["token", "delete", "welcome"],
    &["key", "new"],
    &["key", "rotate"],
];

#[test]
fn only_serve_and_the_first_account_begin_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let names = || std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    for words in ON_A_SERVER {
        let (code, said) = run(folder, words, &[NAME]);
        assert_eq!(code, 3, "{words:?}: {said}");
        let data_dir = folder.join("data").display().to_string();
        assert!(said.contains(&data_dir) && said.contains("`data_dir`"), "{words:?}: {said}");
        assert!(names().is_empty(), "{words:?} made {:?}", names());
    }
    // A folder that holds something else.
    std::fs::create_dir(folder.join("data")).unwrap();
    for words in ON_A_SERVER {
        let (code, said) = run(folder, words, &[NAME]);
        assert_eq!(code, 3, "{words:?}: {said}");
        assert!(said.contains("hearth.db"), "{words:?}: {said}");
        assert_eq!(std::fs::read_dir(folder.join("data")).unwrap().count(), 0, "{words:?}");
        assert_eq!(names(), ["data"], "{words:?}");
    }
    std::fs::remove_dir(folder.join("data")).unwrap();
    assert_eq!(run(folder, &["user", "create", "no spaces"], &[NAME]).0, 1);
    assert!(names().is_empty(), "a name that cannot be begins no server");
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder, &create, &[NAME], "a secret!\n").0, 0);
    assert_eq!(run(folder, &["user", "list"], &[NAME]).1.trim(), "@alice:hearth.test");
    let (code, said) = run(folder, &["migrate-database", "--to", "nonsense"], &[NAME]);
    assert!(code == 1 && said.contains("`--to nonsense`"), "{said}");
}

#[test]
fn a_backup_without_a_usable_key_is_not_restored() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder, &create, &[NAME], "a secret!\n").0, 0);
    let (code, said) = run(folder, &["backup", "copy"], &[NAME]);
    assert_eq!(code, 0, "{said}");
    let key = folder.join("copy/signing.key");
    let restore = || run(folder, &["restore", "copy", "--data-dir", "again"], &[]);
    let good = std::fs::read(&key).unwrap();
    for bad in ["", "garbage", "ed25519 a_key c2hvcnQ"] {
        std::fs::write(&key, bad).unwrap();
        let (code, said) = restore();
        assert_eq!(code, 1, "{bad:?}: {said}");
        assert!(said.contains("copy/signing.key"), "{bad:?}: {said}");
        assert!(!folder.join("again").exists(), "{bad:?}");
    }
    std::fs::remove_file(&key).unwrap();
    let (code, said) = restore();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("signing.key") && !folder.join("again").exists(), "{said}");
    std::fs::write(&key, good).unwrap();
    let (code, said) = restore();
    assert_eq!(code, 0, "{said}");
}

#[test]
fn the_check_looks_at_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let listeners = "listeners=[{ address = '127.0.0.1:0', tls = { certificate = 'c.pem', key = 'k.pem' } }]";
    let check = || run(folder, &["config", "check"], &[listeners]);
    let (code, said) = check();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("c.pem") && !said.contains("is fine"), "{said}");
    let made = rcgen::generate_simple_self_signed(["hearth.test".to_owned()]).unwrap();
    std::fs::write(folder.join("c.pem"), made.cert.pem()).unwrap();
    let (code, said) = check();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("k.pem"), "{said}");
    std::fs::write(folder.join("k.pem"), made.signing_key.serialize_pem()).unwrap();
    let (code, said) = check();
    assert_eq!(code, 0, "{said}");
}

#[test]
fn exit_codes_tell_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &["config", "check"], &[]).0, 0);
    assert_eq!(run(folder.path(), &["config", "check"], &["no.such.key=1"]).0, 3);
    assert_eq!(run(folder.path(), &["config", "check"], &["log.filter=[["]).0, 3);
    assert_eq!(run(folder.path(), &["no-such-command"], &[]).0, 2);
    let (code, said) = run(folder.path(), &["--help"], &[]);
    assert_eq!(code, 0);
    assert!(said.contains("Exit codes"), "{said}");
}

#[tokio::test]
async fn people_register_with_a_token_of_the_administrator() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert_eq!(run_with_input(folder, &["user", "create", "admin", "--password-stdin"], &[NAME], "a secret!\n").0, 0);
    let program = Program::start(folder, &[NAME]);
    let (code, said) = run(folder, &["token", "create", "welcome", "--uses", "1", "--days", "2"], &[NAME]);
    assert_eq!((code, said.trim()), (0, "welcome"));
    assert_eq!(run(folder, &["token", "create", "no spaces"], &[NAME]).0, 1);
    for wrong in ["--uses=0", "--uses=-1", "--days=0", "--days=4000000000", "--days=x"] {
        assert_eq!(run(folder, &["token", "create", wrong], &[NAME]).0, 2, "{wrong}");
    }

    let url = format!("{}/_matrix/client/v3/register", program.url);
    let register = async |name: &str, auth: Value| {
        let body = json!({ "username": name, "password": "a long secret", "auth": auth, "inhibit_login": true });
        let answer = ask(Method::POST, &url, &body.to_string()).await;
        let json: Value = serde_json::from_str(answer.body()).unwrap();
        (answer.status().as_u16(), json)
    };
    let register_with_token = async |name: &str| {
        let (_, flows) = register(name, Value::Null).await;
        let auth = json!({ "type": "m.login.registration_token", "token": "welcome", "session": flows["session"] });
        let (status, answer) = register(name, auth).await;
        if status == 200 {
            return (status, answer);
        }
        register(name, json!({ "type": "m.login.dummy", "session": flows["session"] })).await
    };
    let (status, answer) = register_with_token("bob").await;
    assert_eq!((status, answer["user_id"].as_str()), (200, Some("@bob:hearth.test")), "{answer}");
    assert_eq!(register_with_token("carol").await.0, 401);
    let (_, listed) = run(folder, &["token", "list"], &[NAME]);
    assert!(listed.starts_with("welcome used 1 of 1, expires in 4"), "{listed}");
    assert_eq!(run(folder, &["token", "delete", "welcome"], &[NAME]).0, 0);
    assert_eq!(run(folder, &["token", "delete", "welcome"], &[NAME]).0, 1);
    assert!(run(folder, &["token", "list"], &[NAME]).1.starts_with("There is no token"));
}
