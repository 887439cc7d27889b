//! E-mail addresses of accounts: confirmed by the link of a mail, for registration, resets of passwords and more
//! (behaviour CA15).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use endpoint::rate_limit::Rate;
use endpoint::requester::Origin;
use endpoint::{Door, Lookup, RateClass, RateLimits, Sessions};
use http::Method;
use serde_json::{Value, json};
use store::UserId;
use testkit::{Answer, Client, Letters, Server, text};
use users::email::{AtRegistration, Kind, Mail, Options};
use users::login::NewDevice;
use users::registration::NewAccount;

const ADDRESS: &str = "alice@example.com";
const PASSWORD: &str = "secret";
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// A server that sends mail, and the mails.
struct World {
    server: Server,
    letters: Arc<Letters>,
    nobody: Client,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let letters = Arc::new(Letters::default());
        let mut email = Options::new(Arc::clone(&letters) as _, "https://matrix.example.org/");
        change(&mut email);
        let server = Server::with(|options| options.email = Some(email)).await;
        let nobody = server.nobody();
        Self { server, letters, nobody }
    }

    /// A user with a password and a device.
    async fn join(&self, name: &str) -> Client {
        let new = NewAccount {
            localpart: Some(name.to_owned()),
            password: Some(PASSWORD.to_owned()),
            login: Some(NewDevice { id: Some("DEVICE".into()), ..NewDevice::default() }),
            ..NewAccount::default()
        };
        let login = self.server.state.users.register(new).await.unwrap().login.unwrap();
        let mut client = self.nobody.clone();
        (client.user, client.device, client.token) = (login.user.to_string(), "DEVICE".to_owned(), login.access_token);
        client
    }

    /// A user with an address.
    async fn join_with_address(&self, name: &str, address: &str) -> Client {
        let user = self.join(name).await;
        let sid = ask(&user, "/account/3pid/email", address, "s3cret", 1).await.sid();
        self.follow(&self.link().await).await;
        add(&user, &sid, "s3cret").await.ok();
        self.mails().await;
        user
    }

    /// Sends what waits; what came.
    async fn mails(&self) -> Vec<Mail> {
        self.server.state.users.send_mails().await.unwrap();
        self.letters.take()
    }

    /// The link of the one mail that came.
    async fn link(&self) -> String {
        let mails = self.mails().await;
        assert_eq!(mails.len(), 1, "{mails:?}");
        let link = mails[0].content["link"].as_str().unwrap();
        link.strip_prefix("https://matrix.example.org").unwrap().to_owned()
    }

    /// Opens a link and presses the button.
    async fn follow(&self, link: &str) -> Answer {
        let page = self.nobody.get(link).await;
        assert_eq!(page.status, 200, "{}", page.text);
        self.nobody.request(Method::POST, link, "").await
    }

    async fn log_in(&self, address: &str, password: &str) -> Answer {
        let identifier = json!({ "type": "m.id.thirdparty", "medium": "email", "address": address });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
        self.nobody.post("/login", body).await
    }

    async fn log_in_by_name(&self, user: &str, password: &str) -> u16 {
        let identifier = json!({ "type": "m.id.user", "user": user });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
        self.nobody.post("/login", body).await.status
    }
}

/// No token is anybody's.
struct NoSessions;

#[async_trait]
impl Sessions for NoSessions {
    async fn session(&self, _: &str, _: &Origin) -> Result<Lookup, endpoint::Error> {
        Ok(Lookup::Unknown)
    }
}

trait Sid {
    fn sid(self) -> String;
}

impl Sid for Answer {
    #[track_caller]
    fn sid(self) -> String {
        text(&self.ok()["sid"])
    }
}

/// Asks for a token at `…/requestToken`.
async fn ask(client: &Client, route: &str, email: &str, secret: &str, attempt: i64) -> Answer {
    let body = json!({ "email": email, "client_secret": secret, "send_attempt": attempt });
    client.post(&format!("{route}/requestToken"), body).await
}

/// Adds a confirmed address, with the password.
async fn add(user: &Client, sid: &str, secret: &str) -> Answer {
    let asked = user.post("/account/3pid/add", json!({ "sid": sid, "client_secret": secret })).await;
    if asked.json.get("flows").is_none() {
        return asked;
    }
    let identifier = json!({ "type": "m.id.user", "user": user.user });
    let auth = json!({ "type": "m.login.password", "identifier": identifier, "password": PASSWORD, "session": asked.json["session"] });
    user.post("/account/3pid/add", json!({ "sid": sid, "client_secret": secret, "auth": auth })).await
}

fn creds(sid: &str, secret: &str) -> Value {
    json!({ "sid": sid, "client_secret": secret })
}

/// Sets a new password by a session.
async fn reset(client: &Client, sid: &str, secret: &str, password: &str) -> Answer {
    let auth = json!({ "type": "m.login.email.identity", "threepid_creds": creds(sid, secret) });
    client.post("/account/password", json!({ "new_password": password, "auth": auth })).await
}

async fn addresses(user: &Client) -> Vec<String> {
    let listed = user.get("/account/3pid").await.ok();
    listed["threepids"].as_array().unwrap().iter().map(|threepid| text(&threepid["address"])).collect()
}

#[tokio::test]
async fn ca15_an_address_is_added_by_its_mail_and_the_password() {
    let world = World::new().await;
    let alice = world.join("alice").await;
    assert_eq!(alice.get("/capabilities").await.ok()["capabilities"]["m.3pid_changes"]["enabled"], true);
    let answer = ask(&alice, "/account/3pid/email", "Alice@Example.COM", "s3cret", 1).await.ok();
    assert_eq!(answer.get("submit_url"), None, "{answer}");
    let sid = text(&answer["sid"]);
    // Nothing is added before the mail has been read.
    add(&alice, &sid, "s3cret").await.refused(400, "M_THREEPID_AUTH_FAILED");
    let mails = world.mails().await;
    assert_eq!((mails.len(), mails[0].kind, mails[0].to.as_str()), (1, Kind::Add, "Alice@example.com"));
    let link = text(&mails[0].content["link"]).replace("https://matrix.example.org", "");
    assert_eq!(world.follow(&link).await.status, 200);
    add(&alice, &sid, "another").await.refused(400, "M_THREEPID_AUTH_FAILED");
    let asked = alice.post("/account/3pid/add", creds(&sid, "s3cret")).await;
    assert_eq!((asked.status, &asked.json["flows"][0]["stages"][0]), (401, &json!("m.login.password")));
    assert_eq!(addresses(&alice).await, Vec::<String>::new());
    assert_eq!(add(&alice, &sid, "s3cret").await.ok(), json!({}));
    let listed = alice.get("/account/3pid").await.ok();
    let threepid = &listed["threepids"][0];
    assert_eq!((&threepid["medium"], &threepid["address"]), (&json!("email"), &json!(ADDRESS)));
    assert!(threepid["validated_at"].as_i64() <= threepid["added_at"].as_i64(), "{threepid}");

    let delete = json!({ "medium": "email", "address": "ALICE@example.com" });
    let deleted = alice.post("/account/3pid/delete", delete.clone()).await.ok();
    assert_eq!(deleted, json!({ "id_server_unbind_result": "no-support" }));
    assert_eq!(addresses(&alice).await, Vec::<String>::new());
    let mails = world.mails().await;
    assert_eq!((mails.len(), mails[0].kind, mails[0].to.as_str()), (1, Kind::AddressRemoved, "Alice@example.com"));
    assert_eq!(alice.post("/account/3pid/delete", delete).await.status, 200);
}

#[tokio::test]
async fn ca15_the_same_attempt_sends_no_second_mail() {
    let world = World::new().await;
    let alice = world.join("alice").await;
    let first = ask(&alice, "/account/3pid/email", ADDRESS, "s3cret", 1).await.sid();
    assert_eq!(world.mails().await.len(), 1);
    assert_eq!(ask(&alice, "/account/3pid/email", "ALICE@example.com", "s3cret", 1).await.sid(), first);
    assert_eq!(ask(&alice, "/account/3pid/email", ADDRESS, "s3cret", 0).await.sid(), first);
    assert_eq!(world.mails().await.len(), 0);
    assert_eq!(ask(&alice, "/account/3pid/email", ADDRESS, "s3cret", 2).await.sid(), first);
    assert_eq!(world.mails().await.len(), 1);
    // Of another client, for another address or another purpose it is another session.
    let mut others = vec![
        ask(&alice, "/account/3pid/email", ADDRESS, "other", 1).await.sid(),
        ask(&alice, "/account/3pid/email", "bob@example.com", "s3cret", 1).await.sid(),
        ask(&world.nobody, "/account/3pid/email", ADDRESS, "s3cret", 1).await.sid(),
        ask(&world.nobody, "/account/password/email", ADDRESS, "s3cret", 1).await.sid(),
        first,
    ];
    others.sort();
    others.dedup();
    assert_eq!(others.len(), 5);
}

/// SEC-address-disclosure: neither answers nor what comes later tell strangers whose an address is.
#[tokio::test]
async fn ca15_answers_do_not_tell_which_addresses_are_known() {
    let world = World::with(|email| email.at_registration = AtRegistration::Optional).await;
    world.join_with_address("alice", ADDRESS).await;
    let bob = world.join("bob").await;
    let unknown = "nobody@example.com";
    for (client, route) in
        [(&world.nobody, "/register/email"), (&world.nobody, "/account/password/email"), (&bob, "/account/3pid/email")]
    {
        for address in [ADDRESS, unknown] {
            let answer = ask(client, route, address, "s3cret", 1).await;
            let keys: Vec<&str> = answer.json.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!((answer.status, keys), (200, vec!["sid"]), "{route} {address}");
            assert_eq!(answer.json["sid"].as_str().unwrap().len(), 40, "{route} {address}");
        }
    }
    let mut mails: Vec<(Kind, String)> = world.mails().await.into_iter().map(|mail| (mail.kind, mail.to)).collect();
    mails.sort_by_key(|(kind, to)| (kind.name(), to.clone()));
    let expected = [
        (Kind::Add, unknown),
        (Kind::InUse, ADDRESS),
        (Kind::InUse, ADDRESS),
        (Kind::Register, unknown),
        (Kind::Reset, ADDRESS),
    ];
    assert_eq!(mails, expected.map(|(kind, to)| (kind, to.to_owned())));
    // What cannot be confirmed is answered like what has not been confirmed.
    let known = ask(&world.nobody, "/account/password/email", ADDRESS, "s3cret", 1).await.sid();
    let other = ask(&world.nobody, "/account/password/email", unknown, "s3cret", 1).await.sid();
    let mut answers = Vec::new();
    for sid in [known, other] {
        let answer = reset(&world.nobody, &sid, "s3cret", "new").await;
        answers.push((answer.status, answer.json["errcode"].clone(), answer.json["error"].clone()));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!((answers[0].0, &answers[0].1), (401, &json!("M_THREEPID_AUTH_FAILED")));
    // Nor does a sign-in by address.
    let (wrong, nobody) = (world.log_in(ADDRESS, "wrong").await.pair(), world.log_in(unknown, "wrong").await.pair());
    assert_eq!((wrong.0, &wrong), (403, &nobody));
}

#[tokio::test]
async fn ca15_answers_tell_where_the_administrator_says_so() {
    let world = World::with(|email| {
        email.reveal_addresses = true;
        email.at_registration = AtRegistration::Optional;
    })
    .await;
    world.join_with_address("alice", ADDRESS).await;
    let bob = world.join("bob").await;
    ask(&world.nobody, "/register/email", ADDRESS, "s3cret", 1).await.refused(400, "M_THREEPID_IN_USE");
    ask(&bob, "/account/3pid/email", ADDRESS, "s3cret", 1).await.refused(400, "M_THREEPID_IN_USE");
    let unknown = ask(&world.nobody, "/account/password/email", "nobody@example.com", "s3cret", 1).await;
    unknown.refused(400, "M_THREEPID_NOT_FOUND");
    assert_eq!(world.mails().await.len(), 0);
}

/// SEC-account-recovery: only who reads the mail of the account's own address sets a new password, once.
#[tokio::test]
async fn ca7_ca15_a_forgotten_password_is_replaced() {
    let world = World::new().await;
    let alice = world.join_with_address("alice", ADDRESS).await;
    let phone = alice.login("PHONE").await;
    let pusher = json!({
        "app_id": "app", "pushkey": "key", "kind": "http", "app_display_name": "a", "device_display_name": "d",
        "lang": "en", "data": { "url": "https://push.example.org/_matrix/push/v1/notify" },
    });
    phone.post("/pushers/set", pusher).await.ok();
    let asked = world.nobody.post("/account/password", json!({ "new_password": "new" })).await;
    assert_eq!((asked.status, &asked.json["flows"]), (401, &json!([{ "stages": ["m.login.email.identity"] }])));
    let sid = ask(&world.nobody, "/account/password/email", "ALICE@example.com", "s3cret", 1).await.sid();
    reset(&world.nobody, &sid, "s3cret", "new").await.refused(401, "M_THREEPID_AUTH_FAILED");
    let mails = world.mails().await;
    assert_eq!((mails.len(), mails[0].kind, mails[0].to.as_str()), (1, Kind::Reset, ADDRESS));
    assert_eq!(mails[0].content["user_id"], "@alice:example.org");
    let link = text(&mails[0].content["link"]).replace("https://matrix.example.org", "");
    assert_eq!(world.follow(&link).await.status, 200);
    reset(&world.nobody, &sid, "wrong", "new").await.refused(401, "M_THREEPID_AUTH_FAILED");
    // A password that cannot be used does not use up what was proven.
    reset(&world.nobody, &sid, "s3cret", &"x".repeat(600)).await.refused(400, "M_INVALID_PARAM");
    let auth = json!({ "type": "m.login.email.identity", "threepid_creds": creds(&sid, "s3cret"), "session": asked.json["session"] });
    let body = json!({ "new_password": "new", "auth": auth });
    assert_eq!(world.nobody.post("/account/password", body.clone()).await.ok(), json!({}));
    // Once, whoever repeats it, and however.
    reset(&world.nobody, &sid, "s3cret", "again").await.refused(401, "M_THREEPID_AUTH_FAILED");
    assert_eq!(world.nobody.post("/account/password", body).await.status, 400);
    assert_eq!(world.nobody.request(Method::POST, &link, "").await.status, 410);
    assert_eq!(world.log_in_by_name("alice", PASSWORD).await, 403);
    for device in [&alice, &phone] {
        device.get("/account/whoami").await.refused(401, "M_UNKNOWN_TOKEN");
    }
    assert_eq!(world.server.state.users.pushers(&alice.id()).await.unwrap(), Vec::new());
    let told = world.mails().await;
    assert_eq!((told.len(), told[0].kind, told[0].to.as_str()), (1, Kind::PasswordChanged, ADDRESS));
    assert_eq!(world.log_in_by_name("alice", "new").await, 200);
}

#[tokio::test]
async fn ca7_ca15_devices_stay_where_the_reset_says_so() {
    let world = World::new().await;
    let alice = world.join_with_address("alice", ADDRESS).await;
    let sid = ask(&world.nobody, "/account/password/email", ADDRESS, "s3cret", 1).await.sid();
    world.follow(&world.link().await).await;
    let auth = json!({ "type": "m.login.email.identity", "threepidCreds": creds(&sid, "s3cret") });
    let body = json!({ "new_password": "new", "logout_devices": false, "auth": auth });
    world.nobody.post("/account/password", body).await.ok();
    assert_eq!(alice.get("/account/whoami").await.status, 200);
    assert_eq!(world.log_in_by_name("alice", "new").await, 200);
}

/// SEC-account-recovery: a session is good for its own purpose, address, user and client alone.
#[tokio::test]
async fn ca15_what_was_confirmed_for_one_thing_is_good_for_no_other() {
    let world = World::with(|email| email.at_registration = AtRegistration::Optional).await;
    let alice = world.join_with_address("alice", ADDRESS).await;
    let bob = world.join("bob").await;
    let eve = world.join("eve").await;
    // Bob confirms an address for his account: Eve cannot have it, nor can it make an account or set a password.
    let sid = ask(&bob, "/account/3pid/email", "bob@example.com", "s3cret", 1).await.sid();
    world.follow(&world.link().await).await;
    add(&eve, &sid, "s3cret").await.refused(400, "M_THREEPID_AUTH_FAILED");
    reset(&world.nobody, &sid, "s3cret", "new").await.refused(401, "M_THREEPID_AUTH_FAILED");
    let auth = json!({ "type": "m.login.email.identity", "threepid_creds": creds(&sid, "s3cret") });
    let register = json!({ "username": "carol", "password": "x", "auth": auth });
    world.nobody.post("/register", register).await.refused(401, "M_THREEPID_AUTH_FAILED");
    add(&bob, &sid, "s3cret").await.ok();
    add(&bob, &sid, "s3cret").await.refused(400, "M_THREEPID_AUTH_FAILED");
    // A reset that Alice has confirmed sets no other password, and none once her address is another's.
    let sid = ask(&world.nobody, "/account/password/email", ADDRESS, "s3cret", 1).await.sid();
    let link = world.link().await;
    world.follow(&link).await;
    alice.post("/account/3pid/delete", json!({ "medium": "email", "address": ADDRESS })).await.ok();
    world.mails().await;
    reset(&world.nobody, &sid, "s3cret", "new").await.refused(401, "M_THREEPID_AUTH_FAILED");
    assert_eq!(world.log_in_by_name("alice", PASSWORD).await, 200);
    assert_eq!(world.log_in_by_name("bob", PASSWORD).await, 200);
}

/// SEC-account-recovery: mail goes to the mailbox that was confirmed, not to one that merely compares equal.
#[tokio::test]
async fn ca15_a_lookalike_address_gets_no_mail() {
    let world = World::new().await;
    world.join_with_address("alice", "strauss@example.com").await;
    ask(&world.nobody, "/account/password/email", "strauß@example.com", "s3cret", 1).await.ok();
    let mails = world.mails().await;
    assert_eq!((mails.len(), mails[0].to.as_str()), (1, "strauss@example.com"));
    let bob = world.join("bob").await;
    ask(&bob, "/account/3pid/email", "STRAUß@EXAMPLE.com", "s3cret", 1).await.ok();
    let mails = world.mails().await;
    assert_eq!((mails.len(), mails[0].kind, mails[0].to.as_str()), (1, Kind::InUse, "strauss@example.com"));
    assert_eq!(world.log_in("STRAUß@example.com", PASSWORD).await.status, 200);
}

/// SEC-account-recovery: tokens are long, stored as hashes, of one session, and end.
#[tokio::test]
async fn ca15_a_link_confirms_its_own_session_for_a_day() {
    let world = World::new().await;
    let alice = world.join("alice").await;
    let sid = ask(&alice, "/account/3pid/email", ADDRESS, "s3cret", 1).await.sid();
    let link = world.link().await;
    let token = link.rsplit_once("token=").unwrap().1;
    assert!(token.len() >= 43, "{token}");
    let other = ask(&alice, "/account/3pid/email", "other@example.com", "s3cret", 1).await.sid();
    let other_link = world.link().await;
    for dead in [
        link.replace(&sid, &other),
        link.replace(token, ""),
        link.replace(token, &"x".repeat(43)),
        link.replace(token, &"x".repeat(10_000)),
        "/_hearth/email/confirm".to_owned(),
        format!("/_hearth/email/confirm?sid={sid}"),
    ] {
        for method in [Method::GET, Method::POST] {
            let page = world.nobody.request(method, &dead, "").await;
            assert_eq!(page.status, 410, "{}", page.text);
        }
    }
    let dump = format!(
        "{:?}",
        world
            .server
            .state
            .store
            .all::<store::tables::mail::EmailSessionRow>(store::Read::prefix::<store::tables::mail::EmailSessionRow>(
                vec![]
            ))
            .await
            .unwrap()
    );
    assert!(!dump.contains(token) && !dump.contains("s3cret"), "{dump}");
    world.server.clock.advance(DAY_MS);
    for link in [&link, &other_link] {
        assert_eq!(world.nobody.request(Method::POST, link, "").await.status, 410);
    }
    world.server.state.users.prune().await.unwrap();
    add(&alice, &sid, "s3cret").await.refused(400, "M_THREEPID_AUTH_FAILED");
}

/// SEC-account-recovery: programs that follow links confirm nothing, and the page runs nothing.
#[tokio::test]
async fn ca15_looking_at_the_page_confirms_nothing() {
    let world = World::with(|email| email.next_link_hosts = vec!["app.example.org".to_owned()]).await;
    let alice = world.join("alice").await;
    let next = "https://app.example.org/#/settings?a=1&b=2";
    let body = json!({ "email": "a'b&c@example.com", "client_secret": "s3cret", "send_attempt": 1, "next_link": next });
    let sid = text(&alice.post("/account/3pid/email/requestToken", body).await.ok()["sid"]);
    let link = world.link().await;
    for method in [Method::GET, Method::HEAD, Method::GET] {
        let page = world.nobody.request(method, &link, "").await;
        assert_eq!(page.status, 200);
        let header = |name: &str| page.headers[name].to_str().unwrap().to_owned();
        assert!(header("content-security-policy").starts_with("default-src 'none';"));
        assert!(header("content-security-policy").contains("form-action 'self' https://app.example.org;"));
        assert_eq!((header("referrer-policy").as_str(), header("cache-control").as_str()), ("no-referrer", "no-store"));
        assert!(!page.text.contains("a'b&c@"), "{}", page.text);
    }
    let page = world.nobody.get(&link).await.text;
    assert!(page.contains("a&#39;b&amp;c@example.com") && page.contains("@alice:example.org"), "{page}");
    add(&alice, &sid, "s3cret").await.refused(400, "M_THREEPID_AUTH_FAILED");
    let confirmed = world.nobody.request(Method::POST, &link, "").await;
    assert_eq!((confirmed.status, &confirmed.headers["location"]), (303, &http::HeaderValue::from_static(next)));
    // Once more does no harm.
    assert_eq!(world.nobody.request(Method::POST, &link, "").await.status, 303);
    assert!(world.nobody.get(&link).await.text.contains("Confirmed"));
    add(&alice, &sid, "s3cret").await.ok();
}

/// SEC-open-redirects: the page leads to pages of the administrator's choice alone.
#[tokio::test]
async fn ca15_the_page_leads_on_to_known_hosts_alone() {
    let world = World::with(|email| email.next_link_hosts = vec!["app.example.org".to_owned()]).await;
    let alice = world.join("alice").await;
    let ask_with = async |secret: &str, next: &str| {
        let body = json!({ "email": ADDRESS, "client_secret": secret, "send_attempt": 1, "next_link": next });
        alice.post("/account/3pid/email/requestToken", body).await
    };
    for bad in [
        "javascript:alert(1)",
        "//evil.example.com",
        "https://app.example.org@evil.example.com/",
        "https:\\\\evil.example.com",
        "https://app.example.org\r\nSet-Cookie: a=b",
        "https://",
        "data:text/html,x",
        "file:///etc/passwd",
    ] {
        ask_with("bad", bad).await.refused(400, "M_INVALID_PARAM");
    }
    for (secret, elsewhere) in [
        ("a", "https://evil.example.com/"),
        ("b", "https://app.example.org.evil.com/"),
        ("c", "https://app.example.org:81/"),
    ] {
        ask_with(secret, elsewhere).await.ok();
        assert_eq!(world.follow(&world.link().await).await.status, 200, "{elsewhere}");
    }
}

#[tokio::test]
async fn ca15_bad_requests_name_the_parameter() {
    let world = World::new().await;
    let alice = world.join("alice").await;
    let good = json!({ "email": ADDRESS, "client_secret": "s3cret", "send_attempt": 1 });
    for (member, value, errcode) in [
        ("email", Value::Null, "M_MISSING_PARAM"),
        ("client_secret", Value::Null, "M_MISSING_PARAM"),
        ("send_attempt", Value::Null, "M_MISSING_PARAM"),
        ("email", json!("not an address"), "M_INVALID_PARAM"),
        ("email", json!("a@b.example\r\nBcc: c@d.example"), "M_INVALID_PARAM"),
        ("client_secret", json!("has spaces"), "M_INVALID_PARAM"),
        ("client_secret", json!(""), "M_INVALID_PARAM"),
        ("client_secret", json!("x".repeat(256)), "M_INVALID_PARAM"),
        ("send_attempt", json!(-1), "M_INVALID_PARAM"),
        ("send_attempt", json!("1"), "M_BAD_JSON"),
    ] {
        let mut body = good.clone();
        body[member] = value;
        let answer = alice.post("/account/3pid/email/requestToken", body).await;
        assert!(answer.json["error"].as_str().unwrap().contains(member), "{}", answer.json);
        answer.refused(400, errcode);
    }
    assert_eq!(world.mails().await.len(), 0);
    for path in ["/account/3pid/add", "/account/3pid/bind", "/account/3pid/unbind", "/account/3pid/delete"] {
        alice.post(path, json!({})).await.refused(400, "M_MISSING_PARAM");
        assert_eq!(world.nobody.post(path, json!({})).await.status, 401, "{path}");
    }
    let identifier = json!({ "medium": "pigeon", "address": "coo" });
    alice.post("/account/3pid/delete", identifier).await.refused(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn ca15_no_identity_server_and_no_telephones() {
    let world = World::new().await;
    let alice = world.join("alice").await;
    let bind = json!({ "sid": "1", "client_secret": "2", "id_server": "id.example.org", "id_access_token": "3" });
    alice.post("/account/3pid/bind", bind).await.refused(400, "M_SERVER_NOT_TRUSTED");
    let identifier = json!({ "medium": "email", "address": ADDRESS, "id_server": "id.example.org" });
    let unbound = json!({ "id_server_unbind_result": "no-support" });
    assert_eq!(alice.post("/account/3pid/unbind", identifier).await.ok(), unbound);
    let telephone = json!({ "country": "GB", "phone_number": "07700900001", "client_secret": "s", "send_attempt": 1 });
    for route in ["/account/3pid", "/account/password", "/register"] {
        let answer = alice.post(&format!("{route}/msisdn/requestToken"), telephone.clone()).await;
        answer.refused(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED");
    }
    let phone = json!({ "type": "m.login.password", "password": "x", "identifier": { "type": "m.id.phone", "country": "GB", "phone": "1" } });
    world.nobody.post("/login", phone).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn ca15_without_a_mail_server_there_are_no_addresses() {
    let server = Server::new().await;
    let alice = server.register("alice").await;
    assert_eq!(alice.get("/capabilities").await.ok()["capabilities"]["m.3pid_changes"]["enabled"], false);
    for route in ["/account/3pid/email", "/account/password/email", "/register/email"] {
        ask(&alice, route, ADDRESS, "s3cret", 1).await.refused(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED");
    }
    server.nobody().post("/account/password", json!({ "new_password": "x" })).await.refused(401, "M_MISSING_TOKEN");
    alice.post("/account/3pid/add", creds("1", "2")).await.refused(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED");
    let asked = server.nobody().post("/register", json!({})).await;
    assert!(!asked.json.to_string().contains("m.login.email.identity"), "{}", asked.json);
    assert_eq!(addresses(&alice).await, Vec::<String>::new());
}

#[tokio::test]
async fn ca15_the_way_of_old_asks_for_the_password_too() {
    let world = World::new().await;
    let alice = world.join("alice").await;
    let sid = ask(&world.nobody, "/account/3pid/email", ADDRESS, "s3cret", 1).await.sid();
    let body = json!({ "three_pid_creds": creds(&sid, "s3cret") });
    alice.post("/account/3pid", body.clone()).await.refused(403, "M_THREEPID_AUTH_FAILED");
    world.follow(&world.link().await).await;
    let asked = alice.post("/account/3pid", body.clone()).await;
    assert_eq!(asked.status, 401, "{}", asked.json);
    let mut proven = body;
    proven["auth"] = json!({ "type": "m.login.password", "password": PASSWORD, "session": asked.json["session"] });
    alice.post("/account/3pid", proven).await.ok();
    assert_eq!(addresses(&alice).await, [ADDRESS]);
}

/// SEC-account-recovery: what an account could be lost by is told to all its addresses.
#[tokio::test]
async fn ca15_changes_are_told_to_the_addresses() {
    let world = World::new().await;
    let alice = world.join_with_address("alice", ADDRESS).await;
    let sid = ask(&alice, "/account/3pid/email", "second@example.com", "s3cret", 1).await.sid();
    world.follow(&world.link().await).await;
    add(&alice, &sid, "s3cret").await.ok();
    let told = world.mails().await;
    assert_eq!((told.len(), told[0].kind, told[0].to.as_str()), (1, Kind::AddressAdded, ADDRESS));
    assert_eq!(told[0].content["changed"], "second@example.com");
    let auth = json!({ "type": "m.login.password", "password": PASSWORD, "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": ADDRESS } });
    alice.post("/account/password", json!({ "new_password": "new", "auth": auth })).await.ok();
    let mut told: Vec<(Kind, String)> = world.mails().await.into_iter().map(|mail| (mail.kind, mail.to)).collect();
    told.sort_by(|one, other| one.1.cmp(&other.1));
    let to = [ADDRESS, "second@example.com"].map(|to| (Kind::PasswordChanged, to.to_owned()));
    assert_eq!(told, to);
}

/// SEC-account-recovery: what is deactivated or locked is not opened by mail.
#[tokio::test]
async fn ca8_ca15_the_end_of_an_account_frees_its_address() {
    let world = World::new().await;
    let alice = world.join_with_address("alice", ADDRESS).await;
    let confirm = async |secret: &str| {
        let sid = ask(&world.nobody, "/account/password/email", ADDRESS, secret, 1).await.sid();
        world.follow(&world.link().await).await;
        sid
    };
    let sid = confirm("locked").await;
    let admin = UserId::from("@admin:example.org");
    world.server.state.users.set_locked(&admin, &alice.id(), true).await.unwrap();
    reset(&world.nobody, &sid, "locked", "new").await.refused(401, "M_USER_LOCKED");
    world.server.state.users.set_locked(&admin, &alice.id(), false).await.unwrap();
    let sid = confirm("gone").await;
    world.server.state.users.deactivate(&alice.id(), false).await.unwrap();
    reset(&world.nobody, &sid, "gone", "new").await.refused(401, "M_THREEPID_AUTH_FAILED");
    world.mails().await;
    ask(&world.nobody, "/account/password/email", ADDRESS, "after", 1).await.ok();
    assert_eq!(world.mails().await.len(), 0);
    world.join_with_address("bob", ADDRESS).await;
}

#[tokio::test]
async fn ca15_an_address_is_one_accounts() {
    let world = World::new().await;
    let (alice, bob) = (world.join("alice").await, world.join("bob").await);
    let mut sids = Vec::new();
    for user in [&alice, &bob] {
        sids.push(ask(user, "/account/3pid/email", ADDRESS, "s3cret", 1).await.sid());
        world.follow(&world.link().await).await;
    }
    add(&alice, &sids[0], "s3cret").await.ok();
    add(&bob, &sids[1], "s3cret").await.refused(400, "M_THREEPID_IN_USE");
    assert_eq!(addresses(&bob).await, Vec::<String>::new());
    // Its owner is told so at once: nothing new is revealed.
    ask(&alice, "/account/3pid/email", ADDRESS, "more", 1).await.refused(400, "M_THREEPID_IN_USE");
}

#[tokio::test]
async fn ca4_ca15_an_address_signs_in() {
    let world = World::new().await;
    world.join_with_address("alice", "Alice@example.com").await;
    assert_eq!(world.log_in("aLICE@EXAMPLE.com", PASSWORD).await.ok()["user_id"], "@alice:example.org");
    for body in [
        json!({ "type": "m.login.password", "identifier": { "medium": "email", "address": ADDRESS }, "password": PASSWORD }),
        json!({ "type": "m.login.password", "medium": "email", "address": ADDRESS, "password": PASSWORD }),
    ] {
        assert_eq!(world.nobody.post("/login", body).await.ok()["user_id"], "@alice:example.org");
    }
    world.log_in(ADDRESS, "wrong").await.refused(403, "M_FORBIDDEN");
    let telephone = json!({ "type": "m.id.thirdparty", "medium": "msisdn", "address": ADDRESS });
    let body = json!({ "type": "m.login.password", "identifier": telephone, "password": PASSWORD });
    world.nobody.post("/login", body).await.refused(403, "M_FORBIDDEN");
}

/// Registers with an address, and answers the last answer.
async fn register(world: &World, name: &str, address: &str) -> Answer {
    let sid = ask(&world.nobody, "/register/email", address, "s3cret", 1).await.sid();
    let asked = world.nobody.post("/register", json!({ "username": name, "password": PASSWORD })).await;
    let auth = json!({ "type": "m.login.email.identity", "threepid_creds": creds(&sid, "s3cret"), "session": asked.json["session"] });
    let body = json!({ "username": name, "password": PASSWORD, "auth": auth });
    world.nobody.post("/register", body.clone()).await.refused(401, "M_THREEPID_AUTH_FAILED");
    let link = world.link().await;
    assert_eq!(world.follow(&link).await.status, 200);
    // A day may pass until somebody reads a mail.
    world.server.clock.advance(DAY_MS / 2);
    world.nobody.post("/register", body).await
}

#[tokio::test]
async fn ca3_ca15_who_registers_may_have_an_address() {
    let world = World::with(|email| email.at_registration = AtRegistration::Optional).await;
    world.join("first").await;
    let asked = world.nobody.post("/register", json!({})).await;
    assert_eq!(asked.json["flows"], json!([{ "stages": ["m.login.dummy"] }, { "stages": ["m.login.email.identity"] }]));
    let made = register(&world, "alice", "Alice@example.com").await.ok();
    assert_eq!(made["user_id"], "@alice:example.org");
    let mut alice = world.nobody.clone();
    alice.token = text(&made["access_token"]);
    assert_eq!(addresses(&alice).await, [ADDRESS]);
    assert_eq!(world.log_in(ADDRESS, PASSWORD).await.status, 200);
    let free = json!({ "username": "bob", "password": "x", "auth": { "type": "m.login.dummy" } });
    world.nobody.post("/register", free).await.ok();
}

/// SEC-account-recovery: what was confirmed makes one account.
#[tokio::test]
async fn ca3_ca15_who_registers_must_have_an_address() {
    let world = World::with(|email| email.at_registration = AtRegistration::Required).await;
    world.join("first").await;
    let free = json!({ "username": "bob", "password": "x", "auth": { "type": "m.login.dummy" } });
    let refused = world.nobody.post("/register", free).await;
    assert_eq!((refused.status, &refused.json["flows"]), (401, &json!([{ "stages": ["m.login.email.identity"] }])));
    register(&world, "alice", ADDRESS).await.ok();
    let sid = ask(&world.nobody, "/register/email", ADDRESS, "s3cret", 1).await.sid();
    let auth = json!({ "type": "m.login.email.identity", "threepid_creds": creds(&sid, "s3cret") });
    let again = json!({ "username": "bob", "password": PASSWORD, "auth": auth });
    world.nobody.post("/register", again).await.refused(401, "M_THREEPID_AUTH_FAILED");
    // Two confirm one address: the first to come has it.
    let mut bodies = Vec::new();
    for (name, secret) in [("carol", "one"), ("dave", "two")] {
        let sid = ask(&world.nobody, "/register/email", "both@example.com", secret, 1).await.sid();
        let mails = world.mails().await;
        let link =
            mails.iter().find(|mail| mail.kind == Kind::Register).map(|mail| text(&mail.content["link"])).unwrap();
        world.follow(&link.replace("https://matrix.example.org", "")).await;
        let auth = json!({ "type": "m.login.email.identity", "threepid_creds": creds(&sid, secret) });
        bodies.push(json!({ "username": name, "password": PASSWORD, "auth": auth }));
    }
    world.nobody.post("/register", bodies[0].clone()).await.ok();
    world.nobody.post("/register", bodies[1].clone()).await.refused(400, "M_THREEPID_IN_USE");
}

#[tokio::test]
async fn ca15_a_registration_token_and_an_address() {
    let letters = Arc::new(Letters::default());
    let email = Options {
        at_registration: AtRegistration::Required,
        ..Options::new(Arc::clone(&letters) as _, "https://matrix.example.org")
    };
    let server = Server::with(|options| {
        options.email = Some(email);
        options.registration = users::RegistrationMode::Token;
    })
    .await;
    let nobody = server.nobody();
    let world = World { server, letters, nobody };
    world.join("first").await;
    let users = &world.server.state.users;
    users.set_registration_token(Some("token".to_owned()), Some(1), None).await.unwrap();
    let asked = world.nobody.post("/register", json!({ "username": "alice", "password": PASSWORD })).await;
    let stages = json!([{ "stages": ["m.login.email.identity", "m.login.registration_token"] }]);
    assert_eq!((asked.status, &asked.json["flows"]), (401, &stages));
    let sid = ask(&world.nobody, "/register/email", ADDRESS, "s3cret", 1).await.sid();
    world.follow(&world.link().await).await;
    let with = |auth: Value| {
        let mut auth = auth;
        auth["session"] = asked.json["session"].clone();
        json!({ "username": "alice", "password": PASSWORD, "auth": auth })
    };
    let token_first = with(json!({ "type": "m.login.registration_token", "token": "token" }));
    assert_eq!(world.nobody.post("/register", token_first.clone()).await.status, 401);
    let address = with(json!({ "type": "m.login.email.identity", "threepid_creds": creds(&sid, "s3cret") }));
    let next = world.nobody.post("/register", address).await;
    assert_eq!((next.status, &next.json["completed"]), (401, &json!(["m.login.email.identity"])));
    assert_eq!(world.nobody.post("/register", token_first).await.ok()["user_id"], "@alice:example.org");
    assert_eq!(world.log_in(ADDRESS, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn ca15_addresses_of_some_domains_are_taken() {
    let world = World::with(|email| {
        email.at_registration = AtRegistration::Optional;
        email.allowed_domains = vec!["example.com".to_owned(), "*.example.com".to_owned()];
        email.denied_domains = vec!["bad.example.com".to_owned()];
    })
    .await;
    let alice = world.join("alice").await;
    for (client, route) in [(&world.nobody, "/register/email"), (&alice, "/account/3pid/email")] {
        for denied in ["a@example.net", "a@bad.example.com", "a@BAD.example.com"] {
            ask(client, route, denied, "s3cret", 1).await.refused(403, "M_THREEPID_DENIED");
        }
        ask(client, route, "a@good.example.com", "s3cret", 1).await.ok();
    }
    assert_eq!(world.mails().await.len(), 2);
    let off = World::new().await;
    ask(&off.nobody, "/register/email", ADDRESS, "s3cret", 1).await.refused(403, "M_THREEPID_DENIED");
}

/// SEC-mail-floods: mails are limited per mailbox and per client, and who waits for one may ask often.
#[tokio::test]
async fn ca15_cb9_mails_are_limited_by_mailbox_and_by_client() {
    let world = World::with(|email| email.at_registration = AtRegistration::Required).await;
    world.join("first").await;
    let state = &world.server.state;
    let rates = BTreeMap::from([
        (RateClass::Mails, Rate { per_second: 0.001, burst: 3.0 }),
        (RateClass::Registrations, Rate { per_second: 0.001, burst: 1.0 }),
        (RateClass::Logins, Rate { per_second: 0.001, burst: 2.0 }),
    ]);
    let options =
        endpoint::Options { rate_limits: RateLimits { enabled: true, rates }, ..endpoint::Options::default() };
    let door = Door::new(Arc::new(NoSessions), world.server.clock.clone(), options);
    let limited = world.server.with_state(client_api::State { door: Arc::new(door), ..state.clone() });
    let nobody = limited.again(&world.nobody);
    let sid = ask(&nobody, "/register/email", ADDRESS, "s3cret", 1).await.sid();
    let auth = json!({ "type": "m.login.email.identity", "threepid_creds": creds(&sid, "s3cret") });
    let body = json!({ "username": "alice", "password": PASSWORD, "auth": auth });
    for _ in 0..10 {
        nobody.post("/register", body.clone()).await.refused(401, "M_THREEPID_AUTH_FAILED");
    }
    for attempt in 2..4 {
        ask(&nobody, "/register/email", ADDRESS, "s3cret", attempt).await.ok();
    }
    let refused = ask(&nobody, "/register/email", ADDRESS, "s3cret", 4).await;
    assert!(refused.json["retry_after_ms"].as_i64() > Some(0), "{}", refused.json);
    refused.refused(429, "M_LIMIT_EXCEEDED");
    ask(&nobody, "/register/email", "bob@example.com", "s3cret", 1).await.refused(429, "M_LIMIT_EXCEEDED");
    // Who guesses the secret of a session may not go on for long.
    for guess in ["a", "b"] {
        let auth = json!({ "type": "m.login.email.identity", "threepid_creds": creds(&sid, guess) });
        let body = json!({ "username": "alice", "password": PASSWORD, "auth": auth });
        nobody.post("/register", body).await.refused(401, "M_THREEPID_AUTH_FAILED");
    }
    nobody.post("/register", body).await.refused(429, "M_LIMIT_EXCEEDED");
}
