//! The search index of the program.

use http::Method;
use serde_json::{Value, json};

use crate::postgres::{admin, drop_database, make};
use crate::program::{Program, ask, run, run_with_input};

const NAME: &str = "server_name=hearth.test";

/// Somebody at a program.
struct Person {
    client: String,
    token: String,
}

impl Person {
    async fn login(program: &Program) -> Self {
        let client = format!("{}/_matrix/client/v3", program.url);
        let login = json!({ "type": "m.login.password", "password": "a secret!", "user": "alice" });
        let login = ask(Method::POST, &format!("{client}/login"), &login.to_string()).await;
        let login: Value = serde_json::from_str(login.body()).unwrap();
        Self { client, token: login["access_token"].as_str().unwrap().to_owned() }
    }

    async fn ok(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("{}/{path}?access_token={}", self.client, self.token);
        let answer = ask(method, &url, &body.to_string()).await;
        assert_eq!(answer.status(), 200, "{path}: {}", answer.body());
        serde_json::from_str(answer.body()).unwrap()
    }

    async fn found(&self, term: &str) -> usize {
        let criteria = json!({ "search_categories": { "room_events": { "search_term": term } } });
        let answer = self.ok(Method::POST, "search", criteria).await;
        answer["search_categories"]["room_events"]["results"].as_array().unwrap().len()
    }
}

/// What was said while a server runs is found after the index was built from nothing: by the server, and while none runs.
async fn rebuilt(settings: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder, &create, settings, "a secret!\n").0, 0);
    {
        let program = Program::start(folder, settings);
        let alice = Person::login(&program).await;
        let made = alice.ok(Method::POST, "createRoom", json!({})).await;
        let room = made["room_id"].as_str().unwrap();
        for n in 0..3 {
            let message = json!({ "msgtype": "m.text", "body": format!("message {n}") });
            alice.ok(Method::PUT, &format!("rooms/{room}/send/m.room.message/{n}"), message).await;
        }
        let (code, said) = run(folder, &["search", "rebuild"], settings);
        assert_eq!(code, 0, "{said}");
        assert_eq!(said.lines().last(), Some("The search index is built."), "{said}");
        assert_eq!(alice.found("message").await, 3);
    }
    let (code, said) = run(folder, &["search", "rebuild"], settings);
    assert_eq!((code, said.lines().last()), (0, Some("The search index is built.")), "{said}");
    let program = Program::start(folder, settings);
    let alice = Person::login(&program).await;
    assert_eq!(alice.found("message 2").await, 1);
}

#[tokio::test]
async fn the_search_index_is_rebuilt_with_and_without_a_running_server() {
    rebuilt(&[NAME]).await;
    let Some((admin, base)) = admin().await else { return };
    let (database, setting) = make(&admin, &base, "search").await;
    rebuilt(&[NAME, &setting]).await;
    drop_database(&admin, &database).await;
}
