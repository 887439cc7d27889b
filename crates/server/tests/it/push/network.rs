//! Which gateways are reached, and how (behaviour CP9).

use axum::Router;
use axum::response::Redirect;
use axum::routing::post;
use serde_json::{Value, json};
use server::config::{Address, Listener, Resource, Tls};
use server::listeners::{Bound, Switch};
use tokio::sync::{mpsc, watch};

use super::gateway::Gateway;
use super::world::World;

/// SEC-ssrf: users name gateways, so none is reached inside the network unless an administrator allows it, however the
/// address is written.
#[tokio::test]
async fn cp9_gateways_inside_are_not_reached() {
    let (world, gateway) = (World::with(&["push.http_gateways=true"]).await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    let hosts = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"];
    for host in hosts {
        let url = gateway.url().replace("127.0.0.1", host);
        world.set_pusher(&alice, &url, json!({ "pushkey": host })).await;
    }
    world.say(&bob, &room, "hello").await;
    world.until(|report| report.failed == hosts.len()).await;
    assert_eq!(gateway.rest(), [] as [Value; 0]);
}

/// SEC-ssrf: no redirection is followed, be it to the outside or inside.
#[tokio::test]
async fn cp9_gateways_cannot_send_pushes_elsewhere() {
    let (world, inside) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    let to = inside.url();
    let redirect = post(move || async move { Redirect::temporary(&to) });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/_matrix/push/v1/notify", listener.local_addr().unwrap());
    let served = axum::serve(listener, Router::new().route("/_matrix/push/v1/notify", redirect));
    tokio::spawn(async move { served.await.unwrap() });
    world.set_pusher(&alice, &url, json!({})).await;
    world.say(&bob, &room, "hello").await;
    world.until(|report| report.failed == 1).await;
    assert_eq!(inside.rest(), [] as [Value; 0]);
}

/// An answer without end is not read to its end.
#[tokio::test]
async fn cp9_answers_are_bounded() {
    let (world, gateway) = (World::new().await, Gateway::start().await);
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let room = world.room(&[&bob, &alice], json!({})).await;
    world.set_pusher(&alice, &gateway.url(), json!({})).await;
    gateway.answers(200, &" ".repeat(1 << 20));
    world.say(&bob, &room, "hello").await;
    assert_eq!(gateway.next_body().await, "hello");
    world.until(|report| report.failed == 1).await;
}

#[tokio::test]
async fn cp9_certificates_of_gateways_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let (heard, mut hears) = mpsc::unbounded_channel();
    let routes = Router::new().route(
        "/_matrix/push/v1/notify",
        post(move |body: String| async move {
            heard.send(body).unwrap();
            "{}"
        }),
    );
    let tls = Some(Tls { certificate: certificate.clone(), key });
    let address = Address::Tcp("127.0.0.1:0".parse().unwrap());
    let bound = Bound::new(&Listener { address, tls, resources: Resource::ALL.to_vec() }).await.unwrap();
    let url = format!("https://{}/_matrix/push/v1/notify", bound.address().unwrap());
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(bound.serve(std::sync::Arc::new(Switch::new(routes)), stopped));

    let inside = "push.allowed_private_ranges=[\"127.0.0.1\"]";
    let trusted = format!("push.trusted_ca_files=[\"{}\"]", certificate.display());
    for (settings, arrives) in [(vec![inside], false), (vec![inside, &trusted], true)] {
        let world = World::with(&settings).await;
        let [alice, bob] = world.people(["alice", "bob"]).await;
        let room = world.room(&[&bob, &alice], json!({})).await;
        world.set_pusher(&alice, &url, json!({})).await;
        world.say(&bob, &room, "hello").await;
        world.until(|report| (report.failed, report.delivered) == if arrives { (0, 1) } else { (1, 0) }).await;
        let told: Option<Value> = hears.try_recv().ok().map(|told| serde_json::from_str(&told).unwrap());
        assert_eq!(told.is_some(), arrives);
        assert!(told.is_none_or(|told| told["notification"]["content"]["body"] == "hello"));
    }
}
