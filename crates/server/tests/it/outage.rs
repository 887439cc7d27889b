//! The program while PostgreSQL is away: refusals that say "later", and no restart once it is back.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_postgres::config::Host;

use crate::postgres::{admin, drop_database, make};
use crate::program::{Program, ask};

/// A way to PostgreSQL that can be closed.
struct Way {
    open: Arc<watch::Sender<bool>>,
    port: u16,
}

impl Way {
    async fn to(host: String, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = Self { open: Arc::new(watch::Sender::new(true)), port: listener.local_addr().unwrap().port() };
        let open = Arc::clone(&way.open);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut open, host) = (open.subscribe(), host.clone());
                tokio::spawn(async move {
                    if !*open.borrow() {
                        return;
                    }
                    let Ok(mut server) = TcpStream::connect((host.as_str(), port)).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = open.wait_for(|open| !*open) => {}
                    }
                });
            }
        });
        way
    }

    fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

async fn call(method: Method, url: String, body: Value) -> (u16, Option<String>, Value) {
    let answer = ask(method, &url, &body.to_string()).await;
    let later = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    (answer.status().as_u16(), later, serde_json::from_str(answer.body()).unwrap_or(Value::Null))
}

/// Demands that each of these requests, asked at once, is told to come back later, and no more than that.
async fn are_refused(requests: impl IntoIterator<Item = (Method, String, Value)>) {
    let asked = requests
        .into_iter()
        .map(|(method, url, body)| tokio::spawn(async move { (url.clone(), call(method, url, body).await) }));
    for asked in asked.collect::<Vec<_>>() {
        let (url, (status, later, body)) = asked.await.unwrap();
        assert_eq!((status, body["errcode"].as_str()), (503, Some("M_UNKNOWN")), "{url}: {body}");
        assert!(later.is_some_and(|seconds| seconds.parse::<u32>().unwrap() > 0), "{url}");
        assert!(!body.to_string().contains("127.0.0.1"), "{url}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgresql_is_away_clients_are_told_to_come_back() {
    let Some((admin, base)) = admin().await else { return };
    let (name, setting) = make(&admin, &base, "outage").await;
    let config: tokio_postgres::Config = base.parse().unwrap();
    let Some(Host::Tcp(host)) = config.get_hosts().first().cloned() else {
        println!("skipped: PostgreSQL is not reached by TCP");
        return drop_database(&admin, &name).await;
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let way = Way::to(host.clone(), port).await;
    let setting = setting.replace(&format!("{host}:{port}"), &format!("127.0.0.1:{}", way.port));
    assert!(setting.contains(&way.port.to_string()), "{setting}");
    let folder = tempfile::tempdir().unwrap();
    let settings = [setting.as_str(), "server_name=hearth.test", "registration.mode=open", "rate_limits.enabled=false"];
    let program = Program::start(folder.path(), &settings);
    let path = |path: &str| format!("{}{path}", program.url);
    let register =
        |name: &str| json!({ "username": name, "password": "a secret!", "auth": { "type": "m.login.dummy" } });
    let (status, _, alice) = call(Method::POST, path("/_matrix/client/v3/register"), register("alice")).await;
    assert_eq!(status, 200, "{alice}");
    let token = alice["access_token"].as_str().unwrap();
    let client = |to: &str| path(&format!("/_matrix/client/v3/{to}?access_token={token}"));
    let (_, _, made) = call(Method::POST, client("createRoom"), json!({})).await;
    let room = made["room_id"].as_str().unwrap();
    let message = json!({ "msgtype": "m.text", "body": "hello" });
    let send = client(&format!("rooms/{room}/send/m.room.message/first"));

    way.set_open(false);
    let requests = [
        (Method::GET, client("joined_rooms"), Value::Null),
        (Method::PUT, send.clone(), message.clone()),
        (Method::GET, client("sync"), Value::Null),
        (
            Method::POST,
            path("/_matrix/client/v3/login"),
            json!({
                "type": "m.login.password",
                "identifier": { "type": "m.id.user", "user": "alice" },
                "password": "a secret!",
            }),
        ),
        (Method::GET, path("/_matrix/client/v3/account/whoami?access_token=unknown"), Value::Null),
    ];
    are_refused(requests).await;
    assert_eq!(program.get("/health").await.0, 503);

    // By itself, and the refused message may be sent again.
    way.set_open(true);
    while program.get("/health").await.0 != 200 {}
    let sent = loop {
        let (status, _, sent) = call(Method::PUT, send.clone(), message.clone()).await;
        if status == 200 {
            break sent;
        }
        assert_eq!(status, 503, "{sent}");
    };
    let (status, _, all) =
        call(Method::GET, format!("{}&dir=f&limit=100", client(&format!("rooms/{room}/messages"))), Value::Null).await;
    assert_eq!(status, 200);
    let hello: Vec<&Value> =
        all["chunk"].as_array().unwrap().iter().filter(|event| event["type"] == "m.room.message").collect();
    assert_eq!(hello.len(), 1, "{all}");
    assert_eq!(hello[0]["event_id"], sent["event_id"]);
    drop(program);
    drop_database(&admin, &name).await;
}
