//! Pushers of the kind `email`: what stays unread comes by mail, after a while and all at once.

use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use store::Clock as _;
use testkit::Letters;
use tower::ServiceExt as _;
use users::email::sessions::{Purpose, TokenRequest};
use users::email::{Kind, Mail};

use super::world::{PATIENCE, Person, World};

const ADDRESS: &str = "alice@example.org";
const DELAY_MS: i64 = 10 * 60 * 1_000;
const INTERVAL_MS: i64 = 60 * 60 * 1_000;

/// Gives a user an address.
async fn add_address(world: &World, letters: &Letters, person: &Person) {
    let (users, user) = (&world.running.users, person.id());
    let request = TokenRequest {
        purpose: Purpose::Add,
        user: Some(&user),
        email: ADDRESS,
        client_secret: "s3cret",
        send_attempt: 1,
        next_link: None,
    };
    let sid = users.request_email_token(request).await.unwrap();
    users.send_mails().await.unwrap();
    let link = letters.take()[0].content["link"].as_str().unwrap().to_owned();
    users.confirm_email(&sid, link.rsplit_once("token=").unwrap().1).await.unwrap().unwrap();
    users.add_threepid(&user, &sid, "s3cret").await.unwrap();
}

fn pusher(address: &str) -> Value {
    json!({
        "kind": "email", "app_id": "m.email", "pushkey": address, "app_display_name": "Mail",
        "device_display_name": "Mail", "lang": "en", "append": true, "data": { "brand": "x" },
    })
}

/// Lets minutes pass until a mail comes; the mail, and how long that took.
async fn next_mail(world: &World, letters: &Letters) -> (Mail, i64) {
    let began_ms = world.clock.now_ms();
    let waiting = async {
        loop {
            world.running.users.send_mails().await.unwrap();
            if let Some(mail) = letters.take().pop() {
                return (mail, world.clock.now_ms() - began_ms);
            }
            world.pass(10_000).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap()
}

/// The texts that a mail shows, by room.
fn told(mail: &Mail) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rooms = mail.content["rooms"].as_array().unwrap().iter();
    let messages =
        |room: &Value| room["messages"].as_array().unwrap().iter().map(|message| text(&message["text"])).collect();
    rooms.map(|room| (text(&room["name"]), messages(room))).collect()
}

async fn open(world: &World, method: Method, link: &str) -> (u16, String) {
    let path = link.strip_prefix("https://matrix.hearth.test").unwrap();
    let request = Request::builder().method(method).uri(path).body(axum::body::Body::empty()).unwrap();
    let (head, body) = world.running.router.clone().oneshot(request).await.unwrap().into_parts();
    (head.status.as_u16(), String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn cp7_what_stays_unread_comes_in_one_mail() {
    let (world, letters) = World::mailing().await;
    let [alice, bob] = world.people(["alice", "bob"]).await;
    add_address(&world, &letters, &alice).await;
    world.post(&alice, "pushers/set", pusher("Alice@example.org")).await;
    let tea = world.room(&[&bob, &alice], json!({ "name": "Tea room" })).await;
    let quiet = world.room(&[&bob, &alice], json!({ "name": "Quiet room" })).await;
    let read = world.say(&bob, &quiet, "already read").await;
    world.read(&alice, &quiet, &read).await;
    world.say(&bob, &tea, "one").await;
    world.say(&bob, &tea, "two").await;
    let (mail, after_ms) = next_mail(&world, &letters).await;
    assert_eq!((mail.kind, mail.to.as_str()), (Kind::Notifications, ADDRESS));
    assert_eq!(told(&mail), [("Tea room".to_owned(), vec!["one".to_owned(), "two".to_owned()])]);
    assert_eq!(mail.content["unread"], 2);
    assert!(after_ms >= DELAY_MS - 1_000, "{after_ms}");
    // The next one does not follow at once.
    world.say(&bob, &tea, "three").await;
    let (mail, after_ms) = next_mail(&world, &letters).await;
    assert_eq!(told(&mail), [("Tea room".to_owned(), vec!["three".to_owned()])]);
    assert!(after_ms >= INTERVAL_MS - 60_000, "{after_ms}");
}

/// SEC-mail-floods: mails go to addresses of one's own alone, and end by a link that programs may look at.
#[tokio::test]
async fn cp7_mails_about_messages_end_by_their_link() {
    let (world, letters) = World::mailing().await;
    let [alice, bob] = world.people(["alice", "bob"]).await;
    let set = async |person: &Person, address: &str| {
        let (status, answer) = world.try_ask(person, Method::POST, "pushers/set", pusher(address)).await;
        (status, answer["errcode"].as_str().unwrap_or_default().to_owned())
    };
    let refused = (400, "M_THREEPID_NOT_FOUND".to_owned());
    assert_eq!(set(&alice, ADDRESS).await, refused);
    add_address(&world, &letters, &alice).await;
    assert_eq!(set(&bob, ADDRESS).await, refused);
    assert_eq!(set(&alice, ADDRESS).await.0, 200);
    let room = world.room(&[&bob, &alice], json!({ "name": "Tea room" })).await;
    world.say(&bob, &room, "one").await;
    let (mail, _) = next_mail(&world, &letters).await;
    let link = mail.content["unsubscribe"].as_str().unwrap();
    assert_eq!(mail.content.get("pusher"), None);
    let page = open(&world, Method::GET, link).await;
    assert!(page.0 == 200 && page.1.contains("<form method=\"post\">"), "{page:?}");
    assert_eq!(world.pushkeys(&alice).await, [ADDRESS]);
    assert_eq!(open(&world, Method::POST, &format!("{link}x")).await.0, 410);
    assert_eq!(open(&world, Method::POST, link).await.0, 200);
    assert_eq!(world.pushkeys(&alice).await, Vec::<String>::new());
    // Nor are there any to an address that is given away.
    assert_eq!(set(&alice, ADDRESS).await.0, 200);
    let identifier = json!({ "medium": "email", "address": ADDRESS });
    world.post(&alice, "account/3pid/delete", identifier).await;
    assert_eq!(world.pushkeys(&alice).await, Vec::<String>::new());
}
