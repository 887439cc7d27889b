//! What clients send besides bodies and queries: access tokens, push rules.

use bytes::Bytes;
use event::{Pdu, Rules};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use serde_json::Value;
use store::UserId;
use users::push_rules::{Compiled, Context, Rule, RuleKind};

use super::{bytes_of, short};

pub(super) fn access_token_seeds() -> Vec<Vec<u8>> {
    bytes_of(&["Bearer abc\nx=1", "bearer  a\naccess_token=a", "\naccess_token=%61%20b", "Basic eDp5\naccess_token="])
}

/// Access tokens, of header and query.
pub(super) fn access_token(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let (header, query) = text.split_once('\n').unwrap_or((&text, ""));
    let request = http::Request::builder().uri(format!("/sync?{query}"));
    let Ok((mut parts, ())) = request.body(()).map(http::Request::into_parts) else { return "no address".to_owned() };
    if let Ok(value) = HeaderValue::from_bytes(header.as_bytes()) {
        parts.headers.insert(AUTHORIZATION, value);
    }
    match endpoint::requester::access_token(&parts) {
        Ok(Some(token)) => {
            let odd = |c: char| c.is_whitespace() || c.is_control();
            assert!(!token.is_empty() && !token.chars().any(odd), "the token `{token}`");
            format!("token {}", token.len().min(20))
        }
        Ok(None) => "none".to_owned(),
        Err(error) => short(error.errcode),
    }
}

pub(super) fn push_rule_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        r#"[{"kind":"event_match","key":"content.body","pattern":"f?o*bar"},{"kind":"room_member_count","is":">=2"}]"#,
        r#"[{"kind":"event_property_is","key":"content.m\\.relates_to.rel_type","value":"m.thread"}]"#,
        r#"[{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":"@a:b"},{"kind":"contains_display_name"}]"#,
        r#"[{"kind":"sender_notification_permission","key":"room"},{"kind":"event_match","key":"type","pattern":"*m*.*r*"}]"#,
        r#"[{"kind":"room_member_count","is":"==99999999999999999999"},{"kind":"device"}]"#,
    ])
}

/// Conditions of push rules: any of them judges an event, and none that is not understood holds.
pub(super) fn push_rules(input: &[u8]) -> String {
    let Ok(conditions) = serde_json::from_slice::<Vec<Value>>(input) else { return "no list".to_owned() };
    let text = r#"{"room_id":"!r:b","type":"m.room.message","content":{"body":"the foo bar of Ann","m.relates_to":{"rel_type":"m.thread"},"m.mentions":{"user_ids":["@a:b"]}},"auth_events":[],"prev_events":[],"sender":"@c:b","origin_server_ts":1,"depth":1,"hashes":{"sha256":"x"},"signatures":{}}"#;
    let Some(rules) = Rules::of("11") else { panic!("version 11 is supported") };
    let Ok(event) = Pdu::parse(rules, Bytes::from_static(text.as_bytes())) else { panic!("the event has the format") };
    let context = Context {
        room_id: "!r:b",
        joined: 2,
        sender_level: 50,
        notification_level: &|_| 50,
        display_name: &|_| Some("Ann".to_owned()),
    };
    let rule = |conditions: Vec<Value>| Rule {
        kind: RuleKind::Override,
        rule_id: "r".to_owned(),
        default: false,
        enabled: true,
        actions: vec!["notify".into()],
        conditions,
        pattern: None,
    };
    let user = UserId::from("@a:b");
    let holds = |conditions| Compiled::new(&[rule(conditions)]).evaluate(&user, &event, &context).notify;
    let one_by_one: Vec<bool> = conditions.iter().map(|condition| holds(vec![condition.clone()])).collect();
    let together = holds(conditions);
    assert_eq!(together, one_by_one.iter().all(|holds| *holds), "conditions hold together as they do one by one");
    format!("{together} {:?}", one_by_one.iter().take(4).collect::<Vec<_>>())
}
