//! What a restart keeps, and what it refuses.

use std::os::unix::fs::PermissionsExt;

use http::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::program::{Program, ask, hearth, run, run_with_input};

/// What the log says when the server has waited for requests in vain.
const GIVEN_UP: &str = "still in progress";

#[tokio::test]
async fn a_restart_keeps_the_signing_key_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("data/signing.key");
    let mut program = Program::start(folder.path(), &[]);
    let before = std::fs::read_to_string(&key).unwrap();
    assert!(before.starts_with("ed25519 "), "{before}");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(folder.path().join("data")).unwrap().permissions().mode() & 0o777, 0o700);
    let database = folder.path().join("data/hearth.db");
    assert_eq!(std::fs::metadata(database).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(program.stop().success());
    let program = Program::start(folder.path(), &[]);
    assert_eq!(std::fs::read_to_string(&key).unwrap(), before);
    assert_eq!(program.get("/health").await.0, 200);
}

#[test]
fn a_damaged_signing_key_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let key = folder.path().join("data/signing.key");
    std::fs::write(&key, "ed25519 a_1 ???\n").unwrap();
    let create = ["user", "create", "alice", "--password-stdin"];
    let (code, said) = run_with_input(folder.path(), &create, &[], "a secret!\n");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("signing.key"), "{said}");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "ed25519 a_1 ???\n");
}

#[test]
fn a_lost_signing_key_is_not_replaced_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("data/signing.key");
    let hearth = |arguments: &[&str]| run(folder.path(), arguments, &[]);
    assert!(Program::start(folder.path(), &[]).stop().success());
    // Nothing is signed yet: nobody misses it.
    std::fs::remove_file(&key).unwrap();
    assert_eq!(hearth(&["user", "list"]).0, 0);
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder.path(), &create, &[], "a secret!\n").0, 0);
    let first = std::fs::read_to_string(&key).unwrap();

    std::fs::remove_file(&key).unwrap();
    let (code, said) = hearth(&["serve"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("signing.key") && said.contains("backup") && said.contains("hearth key new"), "{said}");
    assert!(!key.exists());
    std::fs::write(&key, &first).unwrap();
    assert_eq!(hearth(&["user", "list"]).0, 0, "put back, it serves as before");

    let (code, said) = hearth(&["key", "new"]);
    assert_eq!(code, 1, "a key that is there is never replaced: {said}");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), first);
    std::fs::remove_file(&key).unwrap();
    assert_eq!(hearth(&["key", "accept"]).0, 1);
    let (code, said) = hearth(&["key", "new"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(hearth(&["user", "list"]), (0, "@alice:localhost\n".to_owned()));

    // The old one turns up again.
    std::fs::write(&key, &first).unwrap();
    let (code, said) = hearth(&["serve"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("hearth key accept"), "{said}");
    let (code, said) = hearth(&["key", "accept"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(hearth(&["user", "list"]).0, 0);
}

/// SEC-own-keys: there is no key that two installations have, whatever else they have in common.
#[tokio::test]
async fn each_installation_makes_a_key_of_its_own() {
    let mut keys = Vec::new();
    for _ in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let create = ["user", "create", "alice", "--password-stdin"];
        assert_eq!(run_with_input(folder.path(), &create, &[], "a secret!\n").0, 0);
        keys.push(std::fs::read_to_string(folder.path().join("data/signing.key")).unwrap());
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 3);
}

#[tokio::test]
async fn a_key_is_not_changed_under_a_running_server() {
    let folder = tempfile::tempdir().unwrap();
    let _running = Program::start(folder.path(), &[]);
    std::fs::remove_file(folder.path().join("data/signing.key")).unwrap();
    let (code, said) = run(folder.path(), &["key", "new"], &[]);
    assert_eq!(code, 4, "{said}");
    assert!(!folder.path().join("data/signing.key").exists());
}

#[tokio::test]
async fn fa8_a_rotated_key_signs_no_more_and_stays_known() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data/signing.key");
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder.path(), &create, &[], "a secret!\n").0, 0);
    let mut program = Program::start(folder.path(), &[]);
    let (_, before) = program.get("/_matrix/key/v2/server").await;
    let first = std::fs::read_to_string(&file).unwrap();
    let (code, said) = run(folder.path(), &["key", "rotate"], &[]);
    assert_eq!(code, 4, "not under a running server: {said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
    assert!(program.stop().success());

    let (code, said) = run(folder.path(), &["key", "rotate"], &[]);
    assert_eq!(code, 0, "{said}");
    let second = std::fs::read_to_string(&file).unwrap();
    assert_ne!(second, first);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut program = Program::start(folder.path(), &[]);
    let (_, after) = program.get("/_matrix/key/v2/server").await;
    assert!(program.stop().success());
    let (old, new) = (before["verify_keys"].as_object().unwrap(), after["verify_keys"].as_object().unwrap());
    assert_eq!((old.len(), new.len()), (1, 1));
    let (old_id, old_key) = old.iter().next().unwrap();
    assert!(!new.contains_key(old_id), "{after}");
    let retired = &after["old_verify_keys"][old_id];
    assert_eq!(retired["key"], old_key["key"]);
    assert!(retired["expired_ts"].as_i64().unwrap() < after["valid_until_ts"].as_i64().unwrap());
    assert!(after["signatures"]["localhost"].get(new.keys().next().unwrap()).is_some(), "{after}");

    // The power failed after the database knew the new key, and before the file had its name.
    std::fs::rename(&file, folder.path().join("data/signing.key.new")).unwrap();
    std::fs::write(&file, &first).unwrap();
    assert!(Program::start(folder.path(), &[]).stop().success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), second);
    // Before that: the draft is nobody's.
    std::fs::write(folder.path().join("data/signing.key.new"), &first).unwrap();
    assert!(Program::start(folder.path(), &[]).stop().success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), second);
}

#[tokio::test]
async fn fa8_a_key_that_was_lost_stays_known_too() {
    let folder = tempfile::tempdir().unwrap();
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder.path(), &create, &[], "a secret!\n").0, 0);
    let mut program = Program::start(folder.path(), &[]);
    let (_, before) = program.get("/_matrix/key/v2/server").await;
    assert!(program.stop().success());
    std::fs::remove_file(folder.path().join("data/signing.key")).unwrap();
    assert_eq!(run(folder.path(), &["key", "rotate"], &[]).0, 3, "there is none to rotate");
    assert_eq!(run(folder.path(), &["key", "new"], &[]).0, 0);
    let program = Program::start(folder.path(), &[]);
    let (_, after) = program.get("/_matrix/key/v2/server").await;
    let (old_id, old_key) = before["verify_keys"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(after["old_verify_keys"][old_id]["key"], old_key["key"]);
}

#[test]
fn a_signing_key_is_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // What a start on a full disk leaves.
    std::fs::write(data.join("signing.key.new"), "ed25519 a_").unwrap();
    let create = ["user", "create", "alice", "--password-stdin"];
    let (code, said) = run_with_input(folder.path(), &create, &[], "a secret!\n");
    assert_eq!(code, 0, "{said}");
    assert!(!data.join("signing.key.new").exists());
    assert!(std::fs::read_to_string(data.join("signing.key")).unwrap().ends_with('\n'));
}

#[test]
fn the_server_name_is_fixed_once_a_user_exists() {
    let folder = tempfile::tempdir().unwrap();
    let user = |name: &str| run(folder.path(), &["user", "list"], &[&format!("server_name={name}")]);
    assert!(Program::start(folder.path(), &["server_name=first.test"]).stop().success());
    assert_eq!(user("second.test").0, 0);
    let create = ["user", "create", "alice", "--password-stdin"];
    let (code, said) = run_with_input(folder.path(), &create, &["server_name=second.test"], "a password of alice\n");
    assert_eq!(code, 0, "{said}");
    let (code, said) = user("third.test");
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("second.test") && said.contains("third.test"), "{said}");
    let (code, said) = run(folder.path(), &["user", "list"], &[]);
    assert_eq!((code, said.trim()), (0, "@alice:second.test"));
}

#[test]
fn a_foreign_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("letters.txt");
    std::fs::write(&file, "dear reader").unwrap();
    let (code, said) = run(
        folder.path(),
        &["serve"],
        &[&format!("database.url=sqlite:{}", file.display()), "listeners=[{ address = '127.0.0.1:0' }]"],
    );
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("letters.txt"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "dear reader");
}

#[tokio::test]
async fn two_servers_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    let (code, said) = run(folder.path(), &["serve"], &["listeners=[{ address = '127.0.0.1:0' }]"]);
    assert_eq!(code, 4, "{said}");
    assert_eq!(program.get("/health").await.0, 200);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // It cannot say which port it got, so it listens on a path.
    let socket = folder.path().join("s");
    let listeners = format!("listeners=[{{ address = 'unix:{}' }}]", socket.display());
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = hearth(folder.path(), &["serve"], &[&listeners, "log.filter=trace"]);
    let mut child = command.stderr(full).spawn().unwrap();
    for path in ["health", "_matrix/client/v3/sync", "nowhere"] {
        let mut stream = loop {
            match UnixStream::connect(&socket).await {
                Ok(stream) => break stream,
                Err(_) => assert!(child.try_wait().unwrap().is_none(), "it has ended"),
            }
            tokio::task::yield_now().await;
        };
        let request = format!("GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(status < 500, "{path}: {answer}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_stop_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(folder.path(), &[]);
    assert_eq!(program.get("/_matrix/client/versions").await.0, 200);
    assert!(program.stop().success());
    let said = program.rest();
    assert!(said.contains("stopping") && !said.contains(GIVEN_UP), "{said}");
}

#[tokio::test]
async fn waiting_syncs_do_not_hold_up_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder.path(), &create, &[], "a secret!\n").0, 0);
    let mut program = Program::start(folder.path(), &[]);
    let client = format!("{}/_matrix/client/v3", program.url);
    let login =
        r#"{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"a secret!"}"#;
    let login = ask(Method::POST, &format!("{client}/login"), login).await;
    let login: Value = serde_json::from_str(login.body()).unwrap();
    let token = login["access_token"].as_str().unwrap();
    let sync = format!("{client}/sync?access_token={token}");
    let first = ask(Method::GET, &sync, "").await;
    let first: Value = serde_json::from_str(first.body()).unwrap();
    let since = first["next_batch"].as_str().unwrap().to_owned();

    let waiting =
        tokio::spawn(async move { ask(Method::GET, &format!("{sync}&since={since}&timeout=600000"), "").await });
    let metrics = format!("{}/metrics", program.url);
    while !ask(Method::GET, &metrics, "").await.body().contains("hearth_sync_waiting 1\n") {
        tokio::task::yield_now().await;
    }
    assert!(program.stop().success());
    let said = program.rest();
    assert!(!said.contains(GIVEN_UP), "{said}");
    assert_eq!(waiting.await.unwrap().status(), 503);
}
