//! The JSON parser against its grammar and against `serde_json`.

use event::{Json, JsonError, MAX_DEPTH, canonical_json};
use proptest::prelude::*;

fn parse(text: &str) -> Result<Json, JsonError> {
    Json::from_slice(text.as_bytes())
}

#[test]
fn numbers_keep_their_digits() {
    let check = |text: &str, expected: Json| {
        assert_eq!(parse(text).unwrap(), expected, "{text}");
        let through_serde: Json = serde_json::from_str(text).unwrap();
        assert_eq!(through_serde, expected, "{text}");
        assert_eq!(serde_json::to_string(&expected).unwrap(), text);
    };
    let number = |text: &str| Json::Number(text.into());
    check("0", Json::Int(0));
    check("-1", Json::Int(-1));
    check("9223372036854775807", Json::Int(i64::MAX));
    check("-9223372036854775808", Json::Int(i64::MIN));
    check("9223372036854775808", number("9223372036854775808"));
    check("123456789012345678901234567890", number("123456789012345678901234567890"));
    check("-0", number("-0"));
    check("1.50", number("1.50"));
    check("5.114698E4", number("5.114698E4"));
    check("1e999", number("1e999"));
}

#[test]
fn what_is_no_json_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "[",
        "[1,]",
        "{\"a\":1,}",
        "{\"a\"}",
        "{a:1}",
        "01",
        "1.",
        ".5",
        "+1",
        "-",
        "1e",
        "1e+",
        "NaN",
        "Infinity",
        "-Infinity",
        "nul",
        "tru",
        "\"",
        "\"\u{1}\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "1 2",
        "[1 2]",
        "'a'",
        "\u{feff}1",
        "{\"a\":1 \"b\":2}",
        "0x10",
        "\"\t\"",
    ] {
        assert!(parse(text).is_err(), "{text:?}");
    }
    assert!(Json::from_slice(b"\"\xff\"").is_err());
    assert!(Json::from_slice(b"\"\xed\xa0\x80\"").is_err(), "a surrogate in UTF-8");
}

#[test]
fn duplicate_keys_are_refused_at_any_depth() {
    let duplicate = Err(JsonError::DuplicateKey("a".to_owned()));
    assert_eq!(parse(r#"{"a":1,"a":1}"#), duplicate);
    assert_eq!(parse(r#"[{"b":{"a":1,"\u0061":2}}]"#), duplicate);
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(&nested(MAX_DEPTH)).is_ok());
    assert!(parse(&nested(MAX_DEPTH + 1)).is_err());
    assert!(parse(&"[".repeat(1_000_000)).is_err());
    assert!(parse(&"{\"a\":".repeat(1_000_000)).is_err());
}

#[test]
fn what_is_nested_too_deeply_can_be_left_as_it_stands() {
    let shallow = |text: &str| Json::from_slice_shallow(text.as_bytes());
    let nested = |depth: usize| format!("{}\"]\\\"\"{}", "[".repeat(depth), "]".repeat(depth));
    for depth in [1, MAX_DEPTH, MAX_DEPTH + 1, 1_000, 1_000_000] {
        let text = format!("{{\"a\":{},\"b\":1}}", nested(depth));
        let json = shallow(&text).unwrap();
        assert_eq!(json.is_read(), depth < MAX_DEPTH, "{depth}");
        assert_eq!(json.get("b"), Some(&Json::Int(1)));
        assert_eq!(json.to_canonical_string(), text);
        assert_eq!(canonical_json::check_strict(&json).is_ok(), depth < MAX_DEPTH);
        assert_eq!(serde_json::to_string(&json).unwrap(), text);
    }
    assert!(shallow(&"[".repeat(1_000_000)).is_err());
    assert!(shallow(&format!("{}\"", "[".repeat(1_000))).is_err());
    assert!(shallow(&"]".repeat(10)).is_err());
    assert!(shallow("{\"a\":1,\"a\":2}").is_err());
}

#[test]
fn strict_canonical_json() {
    let strict = |text: &str| canonical_json::check_strict(&parse(text).unwrap()).is_ok();
    assert!(strict("9007199254740991"));
    assert!(strict("-9007199254740991"));
    assert!(strict(r#"{"a":[null,true,"1.5",{"b":0}]}"#));
    for text in
        ["9007199254740992", "-9007199254740992", "1.0", "1e3", "-0", r#"{"a":[{"b":0.5}]}"#, "99999999999999999999"]
    {
        assert!(!strict(text), "{text}");
    }
}

#[test]
fn control_characters_are_escaped_the_short_way() {
    let text: String = (0..0x20).map(char::from).chain("\"\\/\u{7f}\u{2028}é".chars()).collect();
    let expected = concat!(
        r#""\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f"#,
        r#"\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b"#,
        r#"\u001c\u001d\u001e\u001f\"\\/"#,
        "\u{7f}\u{2028}é\""
    );
    assert_eq!(Json::String(text).to_canonical_string(), expected);
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn agrees_with_serde_json(value in any_json(), pretty in any::<bool>()) {
        let text = if pretty {
            serde_json::to_string_pretty(&value).unwrap()
        } else {
            value.to_string()
        };
        let ours = parse(&text).unwrap();
        prop_assert_eq!(&ours, &Json::from(value.clone()));
        let again = parse(&ours.to_canonical_string()).unwrap();
        prop_assert_eq!(&again, &ours);
        prop_assert_eq!(serde_json::to_value(&ours).unwrap(), value.clone());
        prop_assert_eq!(serde_json::Value::from(ours), value);
    }

    #[test]
    fn refuses_what_serde_json_refuses(text in r#"[\[\]{},:"0-9a-e\\.\-+ truefalsn]{0,24}"#) {
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        match parse(&text) {
            Ok(_) => prop_assert!(theirs.is_ok() || text.contains('e'), "{text}"),
            Err(JsonError::DuplicateKey(_)) => {}
            Err(_) => prop_assert!(theirs.is_err(), "{text}"),
        }
    }

    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Json::from_slice(&bytes);
    }
}
