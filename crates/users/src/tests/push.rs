//! Push rules: keeping them and judging by them.

use bytes::Bytes;
use event::{Pdu, Rules};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value as Json, json};
use store::UserId;

use super::{Bench, user};
use crate::Error;
use crate::push_rules::evaluate::{Compiled, Context, Glob, Looks, Notified};
use crate::push_rules::{NewRule, Place, Rule, RuleKind, Ruleset};

fn message(content: Json) -> Json {
    json!({ "type": "m.room.message", "content": content })
}

/// An event of Bob's; members that a test does not care about are filled in.
fn pdu(event: Json) -> Pdu {
    let mut whole = json!({
        "room_id": "!room:example.org", "sender": "@bob:example.org", "origin_server_ts": 1, "depth": 1,
        "prev_events": [], "auth_events": [], "hashes": { "sha256": "" }, "signatures": {}, "content": {},
    });
    for (member, value) in event.as_object().unwrap() {
        whole[member] = value.clone();
    }
    let rules = Rules::of("11").unwrap();
    Pdu::parse(rules, Bytes::from(whole.to_string())).unwrap()
}

fn context(joined: u64, sender_level: i64) -> Context<'static> {
    Context {
        room_id: "!room:example.org",
        joined,
        sender_level,
        notification_level: &|key| if key == "loud" { 80 } else { 50 },
        display_name: &|user| (user.as_str() == "@alice:example.org").then(|| "Ali C.".to_owned()),
    }
}

const NOTHING: Notified = Notified { notify: false, highlight: false };
const NOTIFY: Notified = Notified { notify: true, highlight: false };
const HIGHLIGHT: Notified = Notified { notify: true, highlight: true };

fn by_default(event: Json, joined: u64, level: i64) -> Notified {
    let alice = user("alice");
    Compiled::new(&Ruleset::default().rules(&alice)).evaluate(&alice, &pdu(event), &context(joined, level))
}

#[test]
fn cp3_the_default_rules() {
    let mentions = |ids: Json| message(json!({ "body": "hi", "m.mentions": ids }));
    let state = |kind: &str, key: &str, content: Json| json!({ "type": kind, "state_key": key, "content": content });
    let cases = [
        ("a message", message(json!({ "body": "hi", "msgtype": "m.text" })), 3, 0, NOTIFY),
        ("a notice", message(json!({ "body": "hi", "msgtype": "m.notice" })), 3, 0, NOTHING),
        ("encrypted", json!({ "type": "m.room.encrypted" }), 3, 0, NOTIFY),
        ("a call", json!({ "type": "m.call.invite" }), 3, 0, NOTIFY),
        ("anything else", json!({ "type": "org.example" }), 2, 0, NOTHING),
        ("a mention", mentions(json!({ "user_ids": ["@alice:example.org"] })), 3, 0, HIGHLIGHT),
        ("another's mention", mentions(json!({ "user_ids": ["@carol:example.org"] })), 3, 0, NOTIFY),
        ("@room by an admin", mentions(json!({ "room": true })), 3, 50, HIGHLIGHT),
        ("@room by the creator of a v12 room", mentions(json!({ "room": true })), 3, i64::MAX, HIGHLIGHT),
        ("@room by anybody", mentions(json!({ "room": true })), 3, 49, NOTIFY),
        ("@room that is no boolean", mentions(json!({ "room": "true" })), 3, 50, NOTIFY),
        ("an invite", state("m.room.member", "@alice:example.org", json!({ "membership": "invite" })), 3, 0, NOTIFY),
        ("another's", state("m.room.member", "@carol:example.org", json!({ "membership": "invite" })), 3, 0, NOTHING),
        ("a tombstone", state("m.room.tombstone", "", json!({})), 3, 0, HIGHLIGHT),
        ("a tombstone message", json!({ "type": "m.room.tombstone" }), 3, 0, NOTHING),
        ("a reaction", json!({ "type": "m.reaction" }), 2, 0, NOTHING),
        ("an ACL", state("m.room.server_acl", "", json!({})), 2, 0, NOTHING),
        (
            "an edit",
            message(json!({ "body": "x", "m.relates_to": { "rel_type": "m.replace", "event_id": "$x" } })),
            2,
            0,
            NOTHING,
        ),
    ];
    for (name, event, joined, level, expected) in cases {
        assert_eq!(by_default(event, joined, level), expected, "{name}");
    }
}

#[test]
fn cp3_rooms_of_two_make_a_sound() {
    let alice = user("alice");
    let rules = Compiled::new(&Ruleset::default().rules(&alice));
    let event = pdu(message(json!({ "body": "hi" })));
    assert_eq!(rules.actions(&alice, &event, &context(2, 0)).len(), 2);
    assert_eq!(rules.actions(&alice, &event, &context(3, 0)).len(), 1);
}

fn holds(condition: Json, event: Json) -> bool {
    let rule = Rule {
        kind: RuleKind::Override,
        rule_id: "x".to_owned(),
        default: false,
        enabled: true,
        actions: vec![json!("notify")],
        conditions: vec![condition],
        pattern: None,
    };
    Compiled::new(&[rule]).evaluate(&user("alice"), &pdu(event), &context(10, 0)).notify
}

#[test]
fn cp2_event_match() {
    let cases = [
        ("content.topic", "lunc?*", json!({ "topic": "Lunch plans" }), true),
        ("content.topic", "lunc?*", json!({ "topic": "LUNCH" }), true),
        ("content.topic", "lunc?*", json!({ "topic": " lunch" }), false),
        ("content.topic", "lunc?*", json!({ "topic": "lunc" }), false),
        ("content.topic", "*", json!({ "topic": null }), false),
        ("content.topic", "*", json!({ "topic": 1 }), false),
        ("content.topic", "*", json!({}), false),
        ("content.topic", "", json!({ "topic": "" }), true),
        ("content.body", "ex*ple", json!({ "body": "An example event." }), true),
        ("content.body", "ex*ple", json!({ "body": "exple" }), true),
        ("content.body", "ex*ple", json!({ "body": "An exciting triple-whammy" }), true),
        ("content.body", "ex*ple", json!({ "body": "examples" }), false),
        ("content.body", "cake", json!({ "body": "pancake" }), false),
        ("content.body", "cake", json!({ "body": "CAKE!" }), true),
        ("content.body", "straße", json!({ "body": "die Straße hier" }), true),
        ("content.body", "*", json!({ "body": "" }), true),
        ("content.body", "", json!({ "body": "x" }), false),
        ("content.body", "*ake", json!({ "body": "a pancake" }), true),
        ("content.m\\.x.y", "z", json!({ "m.x": { "y": "z" } }), true),
        ("content.m.x.y", "z", json!({ "m.x": { "y": "z" } }), false),
        ("content.a\\\\b", "z", json!({ "a\\b": "z" }), true),
        ("type", "M.ROOM.MESSAGE", json!({}), true),
        ("room_id", "!room:*", json!({}), true),
        ("sender", "@bob:*", json!({}), true),
        ("state_key", "*", json!({}), false),
    ];
    for (key, pattern, content, expected) in cases {
        let condition = json!({ "kind": "event_match", "key": key, "pattern": pattern });
        assert_eq!(holds(condition, message(content.clone())), expected, "{key} {pattern} {content}");
    }
}

#[test]
fn cp2_other_conditions() {
    let event =
        message(json!({ "n": 5, "b": true, "s": "Text", "z": null, "l": [1, "a", null], "body": "hey ali c.!" }));
    let is = |key: &str, value: Json| json!({ "kind": "event_property_is", "key": key, "value": value });
    let has = |key: &str, value: Json| json!({ "kind": "event_property_contains", "key": key, "value": value });
    let count = |is: &str| json!({ "kind": "room_member_count", "is": is });
    let cases = [
        (is("content.n", json!(5)), true),
        (is("content.n", json!("5")), false),
        (is("content.b", json!(true)), true),
        (is("content.b", json!(1)), false),
        (is("content.s", json!("Text")), true),
        (is("content.s", json!("text")), false),
        (is("content.z", json!(null)), true),
        (is("content.missing", json!(null)), false),
        (is("content.l", json!([1, "a", null])), false),
        (is("type", json!("m.room.message")), true),
        (has("content.l", json!(1)), true),
        (has("content.l", json!("a")), true),
        (has("content.l", json!(null)), true),
        (has("content.l", json!("A")), false),
        (has("content.n", json!(5)), false),
        (count("10"), true),
        (count("==10"), true),
        (count("<10"), false),
        (count("<=10"), true),
        (count(">9"), true),
        (count(">=11"), false),
        (count("ten"), false),
        (json!({ "kind": "contains_display_name" }), true),
        (json!({ "kind": "org.example.unknown" }), false),
        (json!({}), false),
        (json!("nonsense"), false),
    ];
    for (condition, expected) in cases {
        assert_eq!(holds(condition.clone(), event.clone()), expected, "{condition}");
    }
}

#[test]
fn globs_with_many_stars_end_soon() {
    let pattern = "*a".repeat(200);
    let body = "a".repeat(20_000) + "b";
    let condition = json!({ "kind": "event_match", "key": "content.topic", "pattern": pattern });
    assert!(!holds(condition, message(json!({ "topic": body }))));
}

#[tokio::test]
async fn cp1_own_rules_stand_between_master_and_the_defaults() {
    let bench = Bench::new().await;
    let alice = user("alice");
    let rule = NewRule { actions: vec![json!("notify"), json!("dont_notify")], ..NewRule::default() };
    let put = |id: &'static str, place: Place| {
        bench.users.put_push_rule(&alice, RuleKind::Override, id, rule.clone(), Box::leak(Box::new(place)))
    };
    let after = |id: &str| Place { after: Some(id.to_owned()), before: None };
    let before = |id: &str| Place { before: Some(id.to_owned()), after: None };
    put("one", Place::default()).await.unwrap();
    put("two", Place::default()).await.unwrap();
    put("three", after("two")).await.unwrap();
    put("four", before("one")).await.unwrap();
    let ids = || async {
        let content = bench.users.push_rules_for(&alice).await.unwrap().content(&alice);
        let rules = content["global"]["override"].as_array().unwrap().clone();
        rules.iter().map(|rule| rule["rule_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids().await[..6], [".m.rule.master", "two", "three", "four", "one", ".m.rule.suppress_notices"]);
    put("two", after("one")).await.unwrap();
    assert_eq!(ids().await[1..5], ["three", "four", "one", "two"]);
    put("three", Place::default()).await.unwrap();
    assert_eq!(ids().await[1..5], ["three", "four", "one", "two"], "an update stays where it is");
    let kept = bench.users.push_rules_for(&alice).await.unwrap().get(&alice, RuleKind::Override, "one").unwrap();
    assert_eq!((kept.actions, kept.enabled, kept.default), (vec![json!("notify")], true, false));
    for place in [after("none"), before("none"), after(".m.rule.master")] {
        assert!(matches!(put("five", place).await, Err(Error::RuleNotFound(_))));
    }
    for bad in [".own", "a/b", "a\\b", ""] {
        assert!(matches!(put(bad, Place::default()).await, Err(Error::InvalidParam(_))), "{bad}");
    }
    assert_eq!(ids().await.len(), 4 + 10);
}

#[test]
fn cp1_the_default_rules_are_those_of_the_specification_in_its_order() {
    let alice = "@alice:example.org";
    let like = |key: &str, pattern: &str| json!({ "kind": "event_match", "key": key, "pattern": pattern });
    let is = |key: &str, value: Json| json!({ "kind": "event_property_is", "key": key, "value": value });
    let two = json!({ "kind": "room_member_count", "is": "2" });
    let named = json!({ "kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": alice });
    let may_name_all = json!({ "kind": "sender_notification_permission", "key": "room" });
    let all_named = is(r"content.m\.mentions.room", json!(true));
    let edit = is(r"content.m\.relates_to.rel_type", json!("m.replace"));
    let invite_for_me =
        json!([like("type", "m.room.member"), like("content.membership", "invite"), like("state_key", alice)]);
    let sound = |name: &str| json!({ "set_tweak": "sound", "value": name });
    let highlight = json!({ "set_tweak": "highlight" });
    let rule = |(id, conditions, actions): (&str, Json, Json)| {
        let (rule_id, enabled) = (format!(".m.rule.{id}"), id != "master");
        json!({
            "rule_id": rule_id, "default": true, "enabled": enabled, "conditions": conditions, "actions": actions,
        })
    };
    let overrides = [
        ("master", json!([]), json!([])),
        ("suppress_notices", json!([like("content.msgtype", "m.notice")]), json!([])),
        ("invite_for_me", invite_for_me, json!(["notify", sound("default")])),
        ("member_event", json!([like("type", "m.room.member")]), json!([])),
        ("is_user_mention", json!([named]), json!(["notify", sound("default"), highlight])),
        ("is_room_mention", json!([all_named, may_name_all]), json!(["notify", highlight])),
        ("tombstone", json!([like("type", "m.room.tombstone"), like("state_key", "")]), json!(["notify", highlight])),
        ("reaction", json!([like("type", "m.reaction")]), json!([])),
        ("room.server_acl", json!([like("type", "m.room.server_acl"), like("state_key", "")]), json!([])),
        ("suppress_edits", json!([edit]), json!([])),
    ];
    let encrypted = like("type", "m.room.encrypted");
    let message = like("type", "m.room.message");
    let underrides = [
        ("call", json!([like("type", "m.call.invite")]), json!(["notify", sound("ring")])),
        ("encrypted_room_one_to_one", json!([two, encrypted]), json!(["notify", sound("default")])),
        ("room_one_to_one", json!([two, message]), json!(["notify", sound("default")])),
        ("message", json!([message]), json!(["notify"])),
        ("encrypted", json!([encrypted]), json!(["notify"])),
    ];
    let global = Ruleset::default().content(&user("alice"))["global"].take();
    assert_eq!(global["override"], json!(overrides.map(rule)));
    assert_eq!(global["underride"], json!(underrides.map(rule)));
    for kind in ["content", "room", "sender"] {
        assert_eq!(global[kind], json!([]), "{kind}");
    }
    assert_eq!(global.as_object().unwrap().len(), 5, "{global}");
}

#[tokio::test]
async fn cp2_kinds_go_by_their_importance_and_disabled_rules_are_skipped() {
    let bench = Bench::new().await;
    let alice = user("alice");
    let rules = [
        (RuleKind::Underride, "own"),
        (RuleKind::Sender, "@bob:example.org"),
        (RuleKind::Room, "!room:example.org"),
        (RuleKind::Content, "cake"),
        (RuleKind::Override, "own"),
    ];
    for (kind, id) in rules {
        let actions = vec![json!("notify"), json!({ "set_tweak": "sound", "value": kind.as_str() })];
        let rule = NewRule { actions, pattern: Some("cake".to_owned()), conditions: vec![] };
        let rule = if kind == RuleKind::Content { rule } else { NewRule { pattern: None, ..rule } };
        bench.users.put_push_rule(&alice, kind, id, rule, &Place::default()).await.unwrap();
    }
    let event = pdu(message(json!({ "body": "cake for all" })));
    let sound = async || {
        let rules = bench.users.push_rules_for(&alice).await.unwrap().rules(&alice);
        let rules = Compiled::new(&rules);
        let actions = rules.actions(&alice, &event, &context(3, 0));
        actions.get(1).map(|action| action["value"].as_str().unwrap().to_owned())
    };
    let enable = |(kind, id): (RuleKind, &'static str), on| bench.users.enable_push_rule(&alice, kind, id, on);
    for (kind, id) in rules.into_iter().rev() {
        assert_eq!(sound().await.as_deref(), Some(kind.as_str()));
        enable((kind, id), false).await.unwrap();
    }
    assert_eq!(sound().await, None, "the default rule for messages has no sound");
    enable(rules[2], true).await.unwrap();
    assert_eq!(sound().await.as_deref(), Some("room"));
    enable((RuleKind::Override, ".m.rule.master"), true).await.unwrap();
    assert_eq!(sound().await, None, "the master rule goes before all");
}

#[tokio::test]
async fn cp1_default_rules_change_and_stay() {
    let bench = Bench::new().await;
    let (alice, kind, id) = (user("alice"), RuleKind::Underride, ".m.rule.message");
    bench.users.enable_push_rule(&alice, kind, id, false).await.unwrap();
    bench.users.set_push_rule_actions(&alice, kind, id, vec![]).await.unwrap();
    let rule = bench.users.push_rules_for(&alice).await.unwrap().get(&alice, kind, id).unwrap();
    assert!(!rule.enabled && rule.actions.is_empty() && rule.default);
    assert!(matches!(bench.users.delete_push_rule(&alice, kind, id).await, Err(Error::InvalidParam(_))));
    for id in [".m.rule.unknown", "own"] {
        assert!(matches!(bench.users.enable_push_rule(&alice, kind, id, true).await, Err(Error::NotFound(_))));
        assert!(matches!(bench.users.delete_push_rule(&alice, kind, id).await, Err(Error::NotFound(_))));
    }
    let wrong_kind = bench.users.enable_push_rule(&alice, RuleKind::Override, ".m.rule.message", true).await;
    assert!(matches!(wrong_kind, Err(Error::NotFound(_))));
    let bad = bench.users.set_push_rule_actions(&alice, kind, id, vec![json!(1)]).await;
    assert!(matches!(bad, Err(Error::InvalidParam(_))));
}

async fn judge(bench: &Bench, event: Json, users: &[&str]) -> (bool, Vec<(UserId, Notified, bool)>) {
    let users: Vec<UserId> = users.iter().map(|name| user(name)).collect();
    let judgement = bench.users.judge(&pdu(event), &context(5, 0), &users).await.unwrap();
    (judgement.by_default, judgement.exceptions)
}

#[tokio::test]
async fn judging_names_only_those_who_differ() {
    let bench = Bench::new().await;
    let (alice, carol) = (user("alice"), user("carol"));
    let plain = || message(json!({ "body": "hi cake" }));
    let all = ["alice", "carol", "dave"];
    assert_eq!(judge(&bench, plain(), &all).await, (true, vec![]));
    let mention = message(json!({ "body": "hi", "m.mentions": { "user_ids": [carol.as_str()] } }));
    assert_eq!(judge(&bench, mention, &all).await, (true, vec![(carol.clone(), HIGHLIGHT, false)]));

    let rule = NewRule {
        actions: vec![json!("notify"), json!({ "set_tweak": "highlight" })],
        pattern: Some("cake".to_owned()),
        ..NewRule::default()
    };
    bench.users.put_push_rule(&alice, RuleKind::Content, "cake", rule, &Place::default()).await.unwrap();
    let mute = NewRule::default();
    bench.users.put_push_rule(&carol, RuleKind::Room, "!room:example.org", mute, &Place::default()).await.unwrap();
    let content = json!({ "ignored_users": { "@bob:example.org": {} } }).to_string();
    bench.users.put_account_data(&user("dave"), "", "m.ignored_user_list", content).await.unwrap();
    // What is not seen is left out when it is counted, by the list as it is then.
    let expected = vec![(alice.clone(), HIGHLIGHT, false), (carol.clone(), NOTHING, true)];
    assert_eq!(judge(&bench, plain(), &all).await, (true, expected));

    bench.users.delete_push_rule(&alice, RuleKind::Content, "cake").await.unwrap();
    assert_eq!(judge(&bench, plain(), &["alice"]).await, (true, vec![]));
    assert_eq!(judge(&bench, plain(), &["bob"]).await.1, [(user("bob"), NOTHING, true)], "never for own events");
}

/// Another process on the same store.
async fn again(bench: &Bench) -> std::sync::Arc<crate::Users> {
    let (clock, entropy) = (std::sync::Arc::clone(&bench.clock), std::sync::atomic::AtomicU64::new(5));
    let entropy = std::sync::Arc::new(super::FakeEntropy(entropy));
    let options = crate::Options::new("example.org");
    crate::Users::new(bench.store.clone(), clock, entropy, std::sync::Arc::new(crate::Inline), options).await.unwrap()
}

#[tokio::test]
async fn rules_hold_after_a_restart_and_on_other_nodes() {
    let bench = Bench::new().await;
    let alice = user("alice");
    bench.users.enable_push_rule(&alice, RuleKind::Override, ".m.rule.master", true).await.unwrap();
    let other = again(&bench).await;
    let event = pdu(message(json!({ "body": "hi" })));
    let alone = std::slice::from_ref(&alice);
    let judged = other.judge(&event, &context(5, 0), alone).await.unwrap();
    assert_eq!(judged.exceptions, [(alice.clone(), NOTHING, true)]);
    other.enable_push_rule(&alice, RuleKind::Override, ".m.rule.master", false).await.unwrap();
    let judged = bench.users.judge(&event, &context(5, 0), alone).await.unwrap();
    assert_eq!(judged.exceptions, []);
}

/// For each length, whether a glob matches exactly that much of `text`: said slowly.
fn reach(pattern: &str, text: &[char]) -> Vec<bool> {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for wanted in pattern.chars() {
        let mut next = vec![false; text.len() + 1];
        let mut seen = false;
        for length in 0..=text.len() {
            seen |= reached[length];
            next[length] = match wanted {
                '*' => seen,
                wanted => length > 0 && reached[length - 1] && (wanted == '?' || wanted == text[length - 1]),
            };
        }
        reached = next;
    }
    reached
}

/// Whether it matches between two word boundaries, said slowly.
fn between_words(pattern: &str, text: &[char]) -> bool {
    let in_word = |place: usize| text.get(place).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_');
    let boundary = |place: usize| place == 0 || place == text.len() || !in_word(place - 1) || !in_word(place);
    let from = |start: usize| reach(pattern, &text[start..]).into_iter().enumerate().collect::<Vec<_>>();
    !pattern.is_empty()
        && (0..=text.len())
            .filter(|start| boundary(*start))
            .any(|start| from(start).into_iter().any(|(length, reached)| reached && boundary(start + length)))
}

#[test]
fn cp2_globs_match_what_the_slow_way_matches() {
    let mut random = StdRng::seed_from_u64(1);
    let mut matched = [0; 2];
    for _ in 0..20_000 {
        let mut some = |alphabet: &[char], most: usize| -> String {
            (0..random.random_range(0..=most)).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect()
        };
        let pattern = some(&['a', 'b', ' ', '*', '?'], 5);
        let text: Vec<char> = some(&['a', 'b', ' ', '-'], 9).chars().collect();
        let (glob, looks) = (Glob::new(&pattern), Looks::new(u64::MAX));
        let whole = glob.matches(&text, &looks);
        assert_eq!(whole, reach(&pattern, &text)[text.len()], "{pattern:?} and all of {text:?}");
        let part = glob.matches_words(&text, &looks);
        assert_eq!(part, between_words(&pattern, &text), "{pattern:?} and a part of {text:?}");
        matched = [matched[0] + i32::from(whole), matched[1] + i32::from(part)];
    }
    assert!(matched.iter().all(|count| *count > 500), "{matched:?}");
}

#[test]
fn cp2_absurd_patterns_cost_no_more_than_they_may() {
    let long: Vec<char> = "a ".repeat(32_000).chars().collect();
    for pattern in ["a ".repeat(100) + "b", "a*b".to_owned(), "*a".repeat(2_000) + "b", "?".repeat(16_000) + "b"] {
        let looks = Looks::new(1_000_000);
        assert!(!Glob::new(&pattern).matches_words(&long, &looks));
        let looks = Looks::new(1_000);
        assert!(!Glob::new(&pattern).matches(&long, &looks), "nothing is left to look with");
    }
    // A usual word is found at the end of the longest message.
    let mut text = long;
    text.extend("lunch".chars());
    assert!(Glob::new("lunch").matches_words(&text, &Looks::new(200_000)));
}
