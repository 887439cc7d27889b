//! Simplified sliding sync: memberships, filters, extensions, waiting (behaviours CZ7 to CZ10), in both dialects.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sync::sliding::request::Dialect;
use testkit::{Client, Server, encoded};
use users::push_rules::RuleKind;
use users::receipts::ReceiptType;

use crate::sliding::{DIALECTS, Slider, all, bodies, list, pair, pos, rooms, state};
use crate::sync::read;

/// The same request with extensions.
fn with(body: &Value, extensions: Value) -> Value {
    let mut body = body.clone();
    body["extensions"] = extensions;
    body
}

/// A list with one filter.
fn filtered(filters: Value) -> Value {
    json!({ "lists": { "all": { "ranges": [[0, 99]], "timeline_limit": 0, "required_state": [], "filters": filters } } })
}

async fn kick(by: &Client, room: &str, user: &str) {
    by.post(&format!("/rooms/{}/kick", encoded(room)), json!({ "user_id": user })).await.ok();
}

/// What happens in a room after one has left it does not come, on any connection.
#[tokio::test]
async fn cz7_left_rooms_drop_out_and_kicks_are_told() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        let (left, kicked) = (alice.public_room().await, alice.public_room().await);
        for room in [&left, &kicked] {
            bob.join(room).await;
        }
        let slider = Slider::new(&bob, dialect);
        let first = slider.first(&all()).await;
        assert_eq!(first["lists"]["all"]["count"], 2);
        bob.leave(&left).await;
        kick(&alice, &kicked, &bob.user).await;
        alice.say(&left, "secret").await;
        alice.say(&kicked, "secret").await;
        alice.set_state(&kicked, "m.room.topic", json!({ "topic": "secret" })).await;
        let second = slider.next(&first, &all()).await;
        for room in [&left, &kicked] {
            assert_eq!(state(&second, room), [pair("m.room.member", "@bob")], "{second}");
            let own = second["rooms"][room]["required_state"][0].clone();
            assert_eq!(own["content"]["membership"], "leave");
            assert!(slider.stripped(&second["rooms"][room]).is_null());
            if dialect == Dialect::Accepted {
                assert_eq!(second["rooms"][room]["membership"], "leave");
            }
        }
        assert!(!second.to_string().contains("secret"), "{second}");
        assert_eq!(second["lists"]["all"]["count"], 1, "what one left is told, and counts no more");
        let third = slider.next(&second, &all()).await;
        assert_eq!((rooms(&third).len(), &third["lists"]["all"]["count"]), (0, &json!(1)), "what one left drops out");
        // Subscribed to, asked for more of, on a new connection: nothing of later.
        let mut curious = all();
        for room in [&left, &kicked] {
            curious["room_subscriptions"][room] = json!({ "timeline_limit": 50, "required_state": [["*", "*"]] });
        }
        for answer in [slider.next(&third, &curious).await, slider.named("new").first(&curious).await] {
            assert!(!answer.to_string().contains("secret"), "{answer}");
        }
        let anew = slider.named("anew").first(&all()).await;
        assert_eq!(rooms(&anew), [kicked.as_str()]);
        bob.join(&left).await;
        let back = slider.next(&third, &all()).await;
        assert_eq!(back["rooms"][&left]["initial"], true, "what is known is of another stay");
        assert!(bodies(&back, &left).contains(&"secret".to_owned()), "shared history");
        // Unseen by the client, which must not join what it knows of the two stays.
        bob.leave(&left).await;
        bob.join(&left).await;
        let again = slider.next(&back, &all()).await;
        assert_eq!(again["rooms"][&left]["initial"], true);
    }
}

#[tokio::test]
async fn cz7_strangers_get_nothing_of_a_room() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        let room = alice.public_room().await;
        alice.say(&room, "x").await;
        let mut body = all();
        body["room_subscriptions"][&room] = json!({ "timeline_limit": 50, "required_state": [["*", "*"]] });
        body["room_subscriptions"]["!none"] = json!({ "timeline_limit": 50, "required_state": [["*", "*"]] });
        let answer = Slider::new(&bob, dialect).first(&body).await;
        assert!(rooms(&answer).is_empty(), "{answer}");
        assert_eq!(answer["lists"]["all"]["count"], 0);
    }
}

#[tokio::test]
async fn cz7_invites_and_knocks_show_stripped_state_alone() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        let room = alice.create_room(json!({ "name": "tea", "room_version": "11" })).await;
        alice.say(&room, "secret").await;
        let slider = Slider::new(&bob, dialect);
        let first = slider.first(&all()).await;
        alice.invite(&room, &bob.user).await.ok();
        let every = with(
            &list(json!([[0, 9]]), 50, json!([["*", "*"]])),
            json!({ "receipts": { "enabled": true }, "typing": { "enabled": true }, "account_data": { "enabled": true } }),
        );
        let second = slider.next(&first, &every).await;
        let told = &second["rooms"][&room];
        let stripped = slider.stripped(told).as_array().unwrap();
        let own = stripped.iter().find(|event| event["state_key"] == json!(bob.user)).unwrap();
        assert_eq!(own["content"]["membership"], "invite");
        assert!(told.get("timeline").is_none() && told.get("required_state").is_none(), "{told}");
        assert!(!second.to_string().contains("secret"), "{second}");
        alice.say(&room, "secret").await;
        let third = slider.next(&second, &every).await;
        assert!(rooms(&third).is_empty(), "what happens inside is no news: {third}");
        let knocked = alice
            .create_room(json!({ "room_version": "11", "initial_state": [
                { "type": "x.y", "state_key": "", "content": { "z": "secret" } },
                { "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }] }))
            .await;
        bob.post(&format!("/knock/{}", encoded(&knocked)), json!({})).await.ok();
        let fourth = slider.next(&third, &every).await;
        let stripped = slider.stripped(&fourth["rooms"][&knocked]).as_array().unwrap();
        let own = stripped.iter().find(|event| event["state_key"] == json!(bob.user)).unwrap();
        assert_eq!(own["content"]["membership"], "knock");
        assert!(!fourth.to_string().contains("secret"));
    }
}

#[tokio::test]
async fn cz10_invites_are_accepted_rejected_and_rescinded() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        let mut invites = Vec::new();
        for _ in 0..3 {
            let room = alice.create_room(json!({ "room_version": "11" })).await;
            alice.invite(&room, &bob.user).await.ok();
            invites.push(room);
        }
        let [accepted, rejected, rescinded] = &invites[..] else { panic!() };
        let slider = Slider::new(&bob, dialect);
        let body = json!({ "lists": {
            "invites": { "ranges": [[0, 99]], "timeline_limit": 0, "required_state": [], "filters": { "is_invite": true } },
            "rooms": { "ranges": [[0, 99]], "timeline_limit": 9, "required_state": [], "filters": { "is_invite": false } },
        } });
        let counts =
            |answer: &Value| (answer["lists"]["invites"]["count"].clone(), answer["lists"]["rooms"]["count"].clone());
        let first = slider.first(&body).await;
        assert_eq!((counts(&first), rooms(&first).len()), ((json!(3), json!(0)), 3));
        bob.join(accepted).await;
        bob.leave(rejected).await;
        kick(&alice, rescinded, &bob.user).await;
        let second = slider.next(&first, &body).await;
        let joined = &second["rooms"][accepted];
        assert_eq!(joined["initial"], true);
        assert!(slider.stripped(joined).is_null() && joined["timeline"].is_array(), "{joined}");
        for room in [rejected, rescinded] {
            let told = &second["rooms"][room];
            let own = match dialect {
                Dialect::Deployed => &told["required_state"][0],
                Dialect::Accepted => &told["stripped_state"][0],
            };
            assert_eq!(own["content"]["membership"], "leave", "{told}");
        }
        assert_eq!(counts(&second), (json!(0), json!(1)), "what is told of here, too");
        let third = slider.next(&second, &body).await;
        assert_eq!((counts(&third), rooms(&third).len()), ((json!(0), json!(1)), 0), "{third}");
    }
}

// Long: one list of everything that wakes a waiting request, each with the request that it wakes.
#[tokio::test]
async fn cz9_everything_wakes_at_once() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        let room = alice.public_room().await;
        bob.join(&room).await;
        let message = alice.say(&room, "x").await;
        let held = server.state.rooms.room(&room).await.unwrap().unwrap();
        let users = &server.state.users;
        let mut body = with(
            &all(),
            json!({
                "to_device": { "enabled": true }, "e2ee": { "enabled": true }, "account_data": { "enabled": true },
                "receipts": { "enabled": true }, "typing": { "enabled": true },
            }),
        );
        let slider = Slider::new(&bob, dialect);
        let start = slider.first(&body).await;

        let answer = slider.woken_by(&start, &body, async { drop(alice.say(&room, "hi").await) }).await;
        assert_eq!(bodies(&answer, &room), ["hi"]);
        let typing = |answer: &Value| answer["extensions"]["typing"]["rooms"][&room]["content"]["user_ids"].clone();
        let answer =
            slider.woken_by(&answer, &body, async { users.set_typing(held.num, &alice.id(), Some(30_000)) }).await;
        assert_eq!((typing(&answer), rooms(&answer).len()), (json!([alice.user]), 0));
        let answer = slider
            .woken_by(&answer, &body, async {
                server.clock.advance(31_000);
                users.tick();
            })
            .await;
        assert_eq!(typing(&answer), json!([]), "it ends by itself");
        let receipt = |answer: &Value| answer["extensions"]["receipts"]["rooms"][&room]["content"][&message].clone();
        let answer = slider.woken_by(&answer, &body, read(&alice, &room, &message, ReceiptType::Read)).await;
        assert!(receipt(&answer)["m.read"].get(&alice.user).is_some(), "{answer}");
        let answer = slider.woken_by(&answer, &body, read(&bob, &room, &message, ReceiptType::ReadPrivate)).await;
        assert!(receipt(&answer)["m.read.private"].get(&bob.user).is_some(), "{answer}");
        let answer = slider
            .woken_by(&answer, &body, async {
                users.put_account_data(&bob.id(), "", "x.global", "{\"a\":1}".to_owned()).await.unwrap();
            })
            .await;
        let expected = json!({ "global": [{ "type": "x.global", "content": { "a": 1 } }] });
        assert_eq!(answer["extensions"]["account_data"], expected);
        let answer = slider
            .woken_by(&answer, &body, async {
                users.put_tag(&bob.id(), &room, "m.favourite", json!({})).await.unwrap();
            })
            .await;
        assert_eq!(answer["extensions"]["account_data"]["rooms"][&room][0]["type"], "m.tag");
        let answer = slider
            .woken_by(&answer, &body, async {
                users.enable_push_rule(&bob.id(), RuleKind::Override, ".m.rule.master", true).await.unwrap();
            })
            .await;
        assert_eq!(answer["extensions"]["account_data"]["global"][0]["type"], "m.push_rules");
        let answer = slider.woken_by(&answer, &body, tell(&alice, &bob, "{\"b\":2}")).await;
        let to_device = answer["extensions"]["to_device"].clone();
        assert_eq!(to_device["events"][0]["content"], json!({ "b": 2 }));
        body["extensions"]["to_device"]["since"] = to_device["next_batch"].clone();
        let answer = slider.woken_by(&answer, &body, async { drop(alice.login("NEW").await) }).await;
        assert_eq!(answer["extensions"]["e2ee"]["device_lists"]["changed"], json!([alice.user]));
        let answer = slider
            .woken_by(&answer, &body, async {
                alice.create_room(json!({ "invite": [bob.user] })).await;
            })
            .await;
        assert_eq!(rooms(&answer).len(), 1);
        let answer = slider.woken_by(&answer, &body, kick(&alice, &room, &bob.user)).await;
        assert_eq!(rooms(&answer), [room.as_str()]);
    }
}

async fn tell(sender: &Client, recipient: &Client, content: &str) {
    let contents = BTreeMap::from([("*".to_owned(), content.to_owned())]);
    let messages = BTreeMap::from([(recipient.id(), contents)]);
    sender.state.users.send_to_device(&sender.id(), "x.y", None, &messages).await.unwrap();
}

#[tokio::test]
async fn cz9_requests_end_when_they_should() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        let room = alice.public_room().await;
        let slider = Slider::new(&alice, dialect);
        let first = slider.ask(None, 60_000, &all()).await.ok();
        let from = std::time::Instant::now();
        let idle = slider.ask(Some(pos(&first)), 120, &all()).await.ok();
        assert!(from.elapsed() >= std::time::Duration::from_millis(120), "it waits as long as it is told");
        assert!(rooms(&idle).is_empty());
        // What happens elsewhere, and what a window does not show, wakes nobody for long.
        let window = list(json!([[0, 0]]), 5, json!([]));
        let newest = alice.public_room().await;
        let start = slider.first(&window).await;
        let woken = slider
            .woken_by(&start, &window, async {
                bob.public_room().await;
                server.state.users.put_account_data(&alice.id(), "", "x", "{}".to_owned()).await.unwrap();
                alice.say(&newest, "shown").await;
            })
            .await;
        assert_eq!((rooms(&woken), bodies(&woken, &newest)), (vec![newest.as_str()], vec!["shown".to_owned()]));
        // Cancelled while it waits, whatever it had seen so far: the next one has it all.
        let (waiter, from, body) = (slider.clone(), pos(&woken).to_owned(), window.clone());
        let waiting = tokio::spawn(async move { waiter.ask(Some(&from), 60_000, &body).await });
        while server.state.sync.waker().n_waiting() == 0 {
            tokio::task::yield_now().await;
        }
        alice.say(&room, "moves up").await;
        waiting.abort();
        drop(waiting.await);
        let next = slider.next(&woken, &window).await;
        assert_eq!((rooms(&next), &next["rooms"][&room]["initial"]), (vec![room.as_str()], &json!(true)));
        let presence = match dialect {
            Dialect::Deployed => {
                alice
                    .post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?set_presence=x", json!({}))
                    .await
            }
            Dialect::Accepted => alice.post("/_matrix/client/v4/sync", json!({ "set_presence": "x" })).await,
        };
        presence.refused(400, "M_INVALID_PARAM");
    }
}

/// A client gives up a request and asks anew from the same position, but a proxy holds the first one.
#[tokio::test]
async fn cz9_a_request_that_was_given_up_takes_nothing_back() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let alice = server.register("alice").await;
        let (one, two) = (alice.public_room().await, alice.public_room().await);
        let slider = Slider::new(&alice, dialect);
        let window = list(json!([[0, 0]]), 5, json!([]));
        let start = slider.first(&window).await;
        let (waiter, from, body) = (slider.clone(), pos(&start).to_owned(), window.clone());
        let given_up = tokio::spawn(async move { waiter.ask(Some(&from), 60_000, &body).await });
        while server.state.sync.waker().n_waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let mut more = window.clone();
        more["room_subscriptions"] = json!({ &one: { "timeline_limit": 5, "required_state": [] } });
        let second = slider.next(&start, &more).await;
        assert_eq!(second["rooms"][&one]["initial"], true);
        let over = given_up.await.unwrap().ok();
        assert_eq!((pos(&over), rooms(&over)), (pos(&start), vec![]), "it ends, and spends nothing");
        alice.say(&one, "a").await;
        let third = slider.next(&second, &more).await;
        assert_eq!((rooms(&third), bodies(&third, &one)), (vec![one.as_str()], vec!["a".to_owned()]));
        alice.say(&two, "b").await;
        let fourth = slider.next(&third, &more).await;
        assert_eq!(bodies(&fourth, &two), ["b"]);
    }
}

#[tokio::test]
async fn cz8_each_extension_works_without_lists() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        let room = alice.public_room().await;
        bob.join(&room).await;
        let slider = Slider::new(&bob, dialect);
        let nothing = slider.first(&json!({})).await;
        assert_eq!(
            (&nothing["extensions"], &nothing["lists"], &nothing["rooms"]),
            (&json!({}), &json!({}), &json!({}))
        );

        tell(&alice, &bob, "{\"n\":1}").await;
        tell(&alice, &bob, "{\"n\":2}").await;
        let messages = |since: Option<&Value>, limit: u64| {
            let mut wish = json!({ "enabled": true, "limit": limit });
            if let Some(since) = since {
                wish["since"] = since["extensions"]["to_device"]["next_batch"].clone();
            }
            json!({ "conn_id": "encryption", "extensions": { "to_device": wish, "e2ee": { "enabled": true } } })
        };
        let numbers = |answer: &Value| {
            let events = answer["extensions"]["to_device"]["events"].as_array().unwrap();
            events.iter().map(|event| event["content"]["n"].as_i64().unwrap()).collect::<Vec<_>>()
        };
        let first = slider.first(&messages(None, 1)).await;
        assert_eq!(numbers(&first), [1]);
        let e2ee = &first["extensions"]["e2ee"];
        assert!(e2ee.get("device_lists").is_none(), "there is no span");
        assert_eq!(e2ee["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
        assert_eq!(e2ee["device_unused_fallback_key_types"], json!([]));
        let again = slider.next(&first, &messages(None, 9)).await;
        assert_eq!(numbers(&again), [1, 2], "nothing was acknowledged");
        let second = slider.next(&again, &messages(Some(&first), 9)).await;
        assert_eq!(numbers(&second), [2]);
        let third = slider.next(&second, &messages(Some(&second), 9)).await;
        assert!(numbers(&third).is_empty());
        assert!(third["extensions"]["to_device"]["next_batch"].is_string());
        assert!(bob.sync("").await.get("to_device").is_none(), "they are acknowledged for good");
        tell(&alice, &bob, "{\"n\":3}").await;
        let next_batch = bob.sync("").await["next_batch"].clone();
        let body = json!({ "extensions": { "to_device": { "enabled": true, "since": next_batch } } });
        assert!(numbers(&slider.named("other").first(&body).await).is_empty(), "a token of the other sync counts too");
        let account = json!({ "extensions": { "account_data": { "enabled": true } } });
        let data = slider.named("data").first(&account).await;
        let global = data["extensions"]["account_data"]["global"].as_array().unwrap();
        assert!(global.iter().any(|one| one["type"] == "m.push_rules"), "{data}");
    }
}

#[tokio::test]
async fn cz8_rooms_of_extensions_are_those_of_the_request() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        let (old, new) = (alice.public_room().await, alice.public_room().await);
        for room in [&old, &new] {
            bob.join(room).await;
            server.state.users.put_tag(&bob.id(), room, "x", json!({})).await.unwrap();
        }
        let message = alice.say(&old, "first").await;
        alice.say(&new, "x").await;
        read(&alice, &old, &message, ReceiptType::Read).await;
        let slider = Slider::new(&bob, dialect);
        let extensions = json!({ "account_data": { "enabled": true }, "receipts": { "enabled": true } });
        let window = |last: u64| with(&list(json!([[0, last]]), 9, json!([])), extensions.clone());
        let tagged = |answer: &Value| {
            let rooms = answer["extensions"]["account_data"]["rooms"].as_object();
            rooms.map(|rooms| rooms.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        let first = slider.first(&window(0)).await;
        assert_eq!((tagged(&first), rooms(&first)), (vec![new.clone()], vec![new.as_str()]));
        assert!(first["extensions"].get("receipts").is_none());
        server.state.users.put_tag(&bob.id(), &old, "y", json!({})).await.unwrap();
        let second = slider.next(&first, &window(0)).await;
        assert!(tagged(&second).is_empty(), "the client knows nothing of that room");
        let third = slider.next(&second, &window(1)).await;
        assert_eq!(tagged(&third), [old.as_str()]);
        assert!(third["extensions"]["receipts"]["rooms"][&old]["content"].get(&message).is_some(), "{third}");
        // While it is out of the window, it lags.
        let narrowed = slider.next(&third, &window(0)).await;
        server.state.users.put_tag(&bob.id(), &old, "z", json!({})).await.unwrap();
        read(&bob, &old, &message, ReceiptType::Read).await;
        let narrowed = slider.next(&narrowed, &window(0)).await;
        assert!(tagged(&narrowed).is_empty() && narrowed["extensions"].get("receipts").is_none(), "{narrowed}");
        let fourth = slider.next(&narrowed, &window(1)).await;
        assert_eq!(tagged(&fourth), [old.as_str()]);
        let receipts = &fourth["extensions"]["receipts"]["rooms"][&old]["content"][&message]["m.read"];
        assert_eq!(receipts.as_object().unwrap().keys().collect::<Vec<_>>(), [&bob.user]);
        // Named lists and rooms.
        let none =
            with(&list(json!([[0, 9]]), 9, json!([])), json!({ "account_data": { "enabled": true, "lists": [] } }));
        let answer = slider.named("none").first(&none).await;
        assert!(tagged(&answer).is_empty());
        let late = slider.named("none").next(&answer, &window(9)).await;
        assert_eq!(tagged(&late).len(), 2, "asked for later");
    }
}

#[tokio::test]
async fn cz8_receipts_of_a_new_room_are_those_one_sees() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
        let room = alice.public_room().await;
        bob.join(&room).await;
        carol.join(&room).await;
        let (old, new) = (alice.say(&room, "old").await, alice.say(&room, "new").await);
        read(&carol, &room, &old, ReceiptType::Read).await;
        read(&alice, &room, &new, ReceiptType::Read).await;
        read(&bob, &room, &old, ReceiptType::ReadPrivate).await;
        let body = with(&list(json!([[0, 9]]), 1, json!([])), json!({ "receipts": { "enabled": true } }));
        let slider = Slider::new(&bob, dialect);
        let first = slider.first(&body).await;
        let content = &first["extensions"]["receipts"]["rooms"][&room]["content"];
        let expected = |user: &Client, kind: &str, event: &str| content[event][kind].get(&user.user).is_some();
        assert!(expected(&alice, "m.read", &new) && expected(&bob, "m.read.private", &old), "{content}");
        assert!(!expected(&carol, "m.read", &old), "the event is not shown: {content}");
    }
}

#[tokio::test]
async fn cz10_filters_react_while_connected() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let alice = server.register("alice").await;
        let users = &server.state.users;
        let plain = alice.create_room(json!({ "room_version": "11" })).await;
        let space = alice.create_room(json!({ "creation_content": { "type": "m.space" } })).await;
        let count = async |slider: &Slider, answer: &Value, filters: Value| {
            let answer = slider.next(answer, &filtered(filters)).await;
            answer["lists"]["all"]["count"].as_i64().unwrap()
        };
        let slider = Slider::new(&alice, dialect);
        let start = slider.first(&filtered(json!({}))).await;
        let table = |wanted: [i64; 9]| {
            let filters = [
                json!({ "is_dm": true }),
                json!({ "is_dm": false }),
                json!({ "is_encrypted": true }),
                json!({ "room_types": ["m.space"] }),
                json!({ "room_types": [null] }),
                json!({ "not_room_types": ["m.space"] }),
                json!({ "tags": ["m.favourite"] }),
                json!({ "not_tags": ["m.favourite"] }),
                json!({ "spaces": [space] }),
            ];
            filters.into_iter().zip(wanted)
        };
        for (filters, wanted) in table([0, 2, 0, 1, 1, 1, 0, 2, 0]) {
            assert_eq!(count(&slider, &start, filters.clone()).await, wanted, "{filters}");
        }
        users.put_account_data(&alice.id(), "", "m.direct", json!({ "@b:x": [plain] }).to_string()).await.unwrap();
        users.put_tag(&alice.id(), &plain, "m.favourite", json!({})).await.unwrap();
        alice.set_state(&plain, "m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await;
        alice.set_state_of(&space, "m.space.child", &plain, json!({ "via": ["example.org"] })).await;
        for (filters, wanted) in table([1, 1, 1, 1, 1, 1, 1, 1, 1]) {
            assert_eq!(count(&slider, &start, filters.clone()).await, wanted, "{filters}");
        }
        alice.set_state_of(&space, "m.space.child", &plain, json!({})).await;
        assert_eq!(count(&slider, &start, json!({ "spaces": [space] })).await, 0);
        let told = slider.next(&start, &all()).await;
        assert_eq!(told["rooms"][&plain]["is_dm"], true, "{told}");
        users.put_account_data(&alice.id(), "", "m.direct", "{}".to_owned()).await.unwrap();
        let told = slider.next(&told, &all()).await;
        assert_eq!(told["rooms"][&plain]["is_dm"], false, "{told}");
    }
}

/// The user's reading in any dialect changes the counts in this one.
#[tokio::test]
async fn cz5_counts_follow_what_is_read() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let message = alice.say(&room, "x").await;
    let slider = Slider::new(&bob, Dialect::Deployed);
    let first = slider.first(&all()).await;
    assert_eq!(first["rooms"][&room]["notification_count"], 1);
    let second = slider.woken_by(&first, &all(), read(&bob, &room, &message, ReceiptType::ReadPrivate)).await;
    assert_eq!(second["rooms"][&room]["notification_count"], 0, "{second}");
}

/// A room that a client has looked away from shows what became of it when the client looks again: who types now, how much
/// is read, whether it is a direct chat.
#[tokio::test]
async fn cz8_who_looks_away_and_looks_again_sees_what_is_so_now() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob, carol] = server.people(["alice", "bob", "carol"]).await;
        let room = alice.public_room().await;
        bob.join(&room).await;
        alice.say(&room, "x").await;
        let held = server.state.rooms.room(&room).await.unwrap().unwrap();
        let users = &server.state.users;
        let extensions = json!({ "typing": { "enabled": true } });
        let away = with(&json!({ "lists": {} }), extensions.clone());
        let mut at_it = away.clone();
        at_it["room_subscriptions"] = json!({ &room: { "timeline_limit": 1, "required_state": [] } });
        let typing = |answer: &Value| answer["extensions"]["typing"]["rooms"][&room]["content"]["user_ids"].clone();
        let slider = Slider::new(&bob, dialect);
        let first = slider.first(&at_it).await;
        users.set_typing(held.num, &alice.id(), Some(30_000));
        let told = slider.next(&first, &at_it).await;
        assert_eq!(typing(&told), json!([alice.user]));
        let gone = slider.next(&told, &away).await;
        users.set_typing(held.num, &alice.id(), None);
        users.set_typing(held.num, &carol.id(), Some(30_000));
        let gone = slider.next(&gone, &away).await;
        let message = alice.say(&room, "y").await;
        let back = slider.next(&gone, &at_it).await;
        assert_eq!(typing(&back), json!([carol.user]), "{back}");
        assert_eq!(typing(&slider.next(&gone, &at_it).await), json!([carol.user]), "the answer was lost");
        let back = slider.next(&slider.next(&back, &at_it).await, &at_it).await;
        assert!(typing(&back).is_null(), "{back}");
        let gone = slider.next(&back, &away).await;
        users.set_typing(held.num, &carol.id(), None);
        read(&bob, &room, &message, ReceiptType::Read).await;
        let direct = json!({ &alice.user: [&room] }).to_string();
        users.put_account_data(&bob.id(), "", "m.direct", direct).await.unwrap();
        let gone = slider.next(&gone, &away).await;
        let back = slider.next(&gone, &at_it).await;
        assert_eq!(typing(&back), json!([]), "{back}");
        assert_eq!(back["rooms"][&room]["is_dm"], true, "{back}");
        if dialect == Dialect::Deployed {
            assert_eq!(told["rooms"][&room]["notification_count"], Value::Null);
            assert_eq!(first["rooms"][&room]["notification_count"], 1);
            assert_eq!(back["rooms"][&room]["notification_count"], 0, "{back}");
        }
    }
}

/// What a connection showed may be forgotten, and who stopped typing is told of all the same.
#[tokio::test]
async fn cz8_who_types_no_more_is_told_to_connections_that_are_forgotten() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let num = server.state.rooms.room(&room).await.unwrap().unwrap().num;
    let users = &server.state.users;
    let body = with(&all(), json!({ "typing": { "enabled": true } }));
    let typing = |answer: &Value| answer["extensions"]["typing"]["rooms"][&room]["content"]["user_ids"].clone();
    let slider = Slider::new(&bob, Dialect::Deployed);
    let first = slider.first(&body).await;
    users.set_typing(num, &alice.id(), Some(30_000));
    let told = slider.next(&first, &body).await;
    assert_eq!(typing(&told), json!([alice.user]));
    users.set_typing(num, &alice.id(), None);
    let state = &server.state;
    let anew = sync::Sync::new(state.store.clone(), state.rooms.clone(), state.users.clone());
    let slider = Slider::new(&server.with_sync(anew).again(&bob), Dialect::Deployed);
    assert_eq!(typing(&slider.next(&told, &body).await), json!([]));
}

/// The same for what was read alone.
#[tokio::test]
async fn cz5_what_was_read_while_one_looked_away_counts_no_more() {
    let server = Server::new().await;
    let [alice, bob] = server.people(["alice", "bob"]).await;
    let room = alice.public_room().await;
    bob.join(&room).await;
    let message = alice.say(&room, "x").await;
    let away = json!({ "lists": {} });
    let at_it = json!({ "room_subscriptions": { &room: { "timeline_limit": 1, "required_state": [] } } });
    let slider = Slider::new(&bob, Dialect::Deployed);
    let first = slider.first(&at_it).await;
    assert_eq!(first["rooms"][&room]["notification_count"], 1);
    let gone = slider.next(&first, &away).await;
    read(&bob, &room, &message, ReceiptType::Read).await;
    let gone = slider.next(&gone, &away).await;
    let back = slider.next(&gone, &at_it).await;
    assert_eq!(back["rooms"][&room]["notification_count"], 0, "{back}");
}

#[tokio::test]
async fn cz8_of_several_receipts_at_one_event_the_one_for_all_threads_comes() {
    for dialect in DIALECTS {
        let server = Server::new().await;
        let [alice, bob] = server.people(["alice", "bob"]).await;
        let room = alice.public_room().await;
        bob.join(&room).await;
        let message = alice.say(&room, "x").await;
        let path = format!("/rooms/{}/receipt/m.read/{}", encoded(&room), encoded(&message));
        bob.post(&path, json!({})).await.ok();
        bob.post(&path, json!({ "thread_id": "main" })).await.ok();
        let body = with(&all(), json!({ "receipts": { "enabled": true } }));
        let answer = Slider::new(&alice, dialect).first(&body).await;
        let told = &answer["extensions"]["receipts"]["rooms"][&room]["content"][&message]["m.read"][&bob.user];
        assert!(told["ts"].is_i64() && told.get("thread_id").is_none(), "{answer}");
    }
}
