//! What clients ask before they do anything else: well-known documents, capabilities, what there is none of.

use http::Method;
use serde_json::{Value, json};

use crate::program::{Program, ask, run_with_input};

/// A server with an account, and a token of it.
async fn with_account(folder: &std::path::Path, admin: bool, settings: &[&str]) -> (Program, String) {
    let create = ["user", "create", "alice", "--password-stdin", "--admin"];
    let create = if admin { &create[..] } else { &create[..4] };
    assert_eq!(run_with_input(folder, create, settings, "a secret!\n").0, 0);
    let program = Program::start(folder, settings);
    let login =
        r#"{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"a secret!"}"#;
    let answer = ask(Method::POST, &format!("{}/_matrix/client/v3/login", program.url), login).await;
    let answer: Value = serde_json::from_str(answer.body()).unwrap();
    let token = answer["access_token"].as_str().unwrap().to_owned();
    (program, token)
}

#[tokio::test]
async fn well_known_documents_say_what_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let key = event::SigningKey::generate(&[1; 32]).public_b64();
    let program = Program::start(
        folder.path(),
        &[
            "public_base_url=https://matrix.hearth.test/",
            "support.email=admin@hearth.test",
            "support.page=https://hearth.test/help",
            &format!("policy_server.public_key={key}"),
        ],
    );
    let client = ask(Method::GET, &format!("{}/.well-known/matrix/client", program.url), "").await;
    assert_eq!(client.headers()["access-control-allow-origin"], "*");
    assert_eq!(client.headers()["content-type"], "application/json");
    let expected = json!({ "m.homeserver": { "base_url": "https://matrix.hearth.test" } });
    assert_eq!(serde_json::from_str::<Value>(client.body()).unwrap(), expected);
    let expected = json!({
        "contacts": [{ "email_address": "admin@hearth.test", "role": "m.role.admin" }],
        "support_page": "https://hearth.test/help",
    });
    assert_eq!(program.get("/.well-known/matrix/support").await, (200, expected));
    let expected = json!({ "public_keys": { "ed25519": key } });
    assert_eq!(program.get("/.well-known/matrix/policy_server").await, (200, expected));
    let server = ask(Method::GET, &format!("{}/.well-known/matrix/server", program.url), "").await;
    assert_eq!(server.headers()["content-type"], "application/json");
    assert_eq!(serde_json::from_str::<Value>(server.body()).unwrap(), json!({ "m.server": "matrix.hearth.test:443" }));
}

#[tokio::test]
async fn well_known_documents_are_absent_where_nothing_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    for path in ["client", "support", "server", "policy_server"].map(|name| format!("/.well-known/matrix/{name}")) {
        let (status, body) = program.get(&path).await;
        assert_eq!((status, body["errcode"].as_str()), (404, Some("M_NOT_FOUND")), "{path}");
    }
}

#[tokio::test]
async fn capabilities_are_those_of_the_requester() {
    for admin in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (program, token) = with_account(folder.path(), admin, &["rooms.default_version=11"]).await;
        let path = format!("/_matrix/client/v3/capabilities?access_token={token}");
        let (status, body) = program.get(&path).await;
        let capabilities = &body["capabilities"];
        assert_eq!((status, &capabilities["m.room_versions"]["default"]), (200, &json!("11")));
        assert_eq!(capabilities["m.room_versions"]["available"]["12"], "stable");
        assert_eq!(capabilities["m.change_password"]["enabled"], true);
        assert_eq!(capabilities["m.3pid_changes"]["enabled"], false);
        assert_eq!(capabilities.get("m.account_moderation").is_some(), admin, "{body}");
        let token_login =
            program.get("/_matrix/client/v3/login").await.1.to_string().contains("\"get_login_token\":true");
        assert_eq!(capabilities["m.get_login_token"]["enabled"], token_login);
    }
}

#[tokio::test]
async fn there_are_no_third_parties() {
    let folder = tempfile::tempdir().unwrap();
    let (program, token) = with_account(folder.path(), false, &[]).await;
    let get = async |path: &str| program.get(&format!("/_matrix/client/v3{path}?access_token={token}")).await;
    assert_eq!(get("/account/3pid").await, (200, json!({ "threepids": [] })));
    assert_eq!(get("/thirdparty/protocols").await, (200, json!({})));
    assert_eq!(program.get("/_matrix/client/v3/account/3pid").await.0, 401);
}
