//! Which servers may speak: the room's `m.room.server_acl` (client-server API, "Server Access Control Lists (ACLs) for
//! rooms") and the lists of this server's configuration.

use event::{Json, Object};

/// The event type.
pub const SERVER_ACL: &str = "m.room.server_acl";

/// Whether a room with this content of `m.room.server_acl` hears a server. Without a content every server is heard.
///
/// The content is whatever somebody with enough power sent: what is no text in a list is passed over, and a list that is
/// none is empty.
pub fn allows(content: Option<&Object>, server: &str) -> bool {
    let Some(content) = content else { return true };
    let host = host_of(server).to_ascii_lowercase();
    let literals = content.get("allow_ip_literals").and_then(Json::as_bool).unwrap_or(true);
    if !literals && is_ip_literal(&host) {
        return false;
    }
    !lists(content, "deny", &host) && lists(content, "allow", &host)
}

fn lists(content: &Object, member: &str, host: &str) -> bool {
    let globs = content.get(member).and_then(Json::as_array).unwrap_or_default();
    globs.iter().filter_map(Json::as_str).any(|glob| matches(glob, host))
}

/// A server name without its port.
fn host_of(server: &str) -> &str {
    if let Some(end) = server.starts_with('[').then(|| server.find(']')).flatten() {
        return server.get(..=end).unwrap_or(server);
    }
    server.split_once(':').map_or(server, |(host, _)| host)
}

fn is_ip_literal(host: &str) -> bool {
    host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()
}

/// Whether `*` (any number of characters) and `?` (one) of a glob make it a name; ASCII letters match in either case.
/// `name` is in lower case. Takes at most the product of both lengths.
fn matches(glob: &str, name: &str) -> bool {
    // No character but `*` matches nothing, so that most hostile globs end here.
    if glob.bytes().filter(|byte| *byte != b'*').count() > name.len().saturating_mul(4) {
        return false;
    }
    let glob: Vec<char> = glob.chars().map(|c| c.to_ascii_lowercase()).collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut place) = (0, 0);
    // Where the last `*` stood, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = name.get(place) {
        match glob.get(at) {
            Some('*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == c => {
                at += 1;
                place += 1;
            }
            _ => {
                let Some((stood, taken)) = star else { return false };
                star = Some((stood, taken + 1));
                at = stood + 1;
                place = taken + 1;
            }
        }
    }
    glob.iter().skip(at).all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn content(value: serde_json::Value) -> Object {
        Json::object_from_slice(value.to_string().as_bytes()).unwrap()
    }

    /// Servers with a `!` before them are to be refused.
    fn check(acl: serde_json::Value, servers: &[&str]) {
        let acl = content(acl);
        for server in servers {
            let (server, expected) = server.strip_prefix('!').map_or((*server, true), |server| (server, false));
            assert_eq!(allows(Some(&acl), server), expected, "{server} under {acl:?}");
        }
    }

    #[test]
    fn fa10_no_acl_allows_everyone_and_no_allow_list_nobody() {
        assert!(allows(None, "one.test"));
        check(json!({}), &["!one.test"]);
        check(json!({ "allow": [] }), &["!one.test"]);
        check(json!({ "deny": ["two.test"] }), &["!one.test", "!two.test"]);
        check(json!({ "allow": ["*"] }), &["one.test", "one.test:8448", "1.2.3.4", "[::1]:80"]);
    }

    #[test]
    fn fa10_deny_beats_allow() {
        check(
            json!({ "allow": ["*"], "deny": ["evil.test", "*.evil.test"] }),
            &["one.test", "!evil.test", "!a.evil.test", "notevil.test"],
        );
        check(json!({ "allow": ["one.test"], "deny": ["*"] }), &["!one.test"]);
    }

    #[test]
    fn fa10_globs_ignore_case_and_port() {
        check(json!({ "allow": ["*.ONE.test"] }), &["a.one.TEST", "A.one.test:8448", "!one.test"]);
        check(json!({ "allow": ["on?.test"] }), &["one.test", "!on.test", "!onee.test"]);
        check(json!({ "allow": ["one.test:8448"] }), &["!one.test:8448", "!one.test"]);
    }

    #[test]
    fn fa10_ip_literals_are_refused_by_their_flag() {
        let literals = json!({ "allow": ["*"], "allow_ip_literals": false });
        check(literals, &["one.test", "!1.2.3.4", "!1.2.3.4:80", "![::1]", "![2001:db8::1]:8448", "1.2.3.4.test"]);
        check(json!({ "allow": ["[2001:db8::1]"] }), &["[2001:db8::1]:8448", "![2001:db8::2]"]);
    }

    #[test]
    fn fa14_a_flag_that_is_no_boolean_is_true() {
        check(json!({ "allow": ["*"], "allow_ip_literals": "false" }), &["1.2.3.4"]);
        check(json!({ "allow": ["*"], "allow_ip_literals": null }), &["[::1]"]);
    }

    #[test]
    fn fa10_invalid_content_never_crashes() {
        check(json!({ "allow": "*", "deny": 5 }), &["!one.test"]);
        check(json!({ "allow": [1, null, {}, [], "*"], "deny": [["*"], true] }), &["one.test"]);
        check(json!({ "allow": ["", "é*", "**?**"] }), &["one.test"]);
        check(json!({ "allow": ["*"] }), &["[", "[::", ":", "::", "é.test"]);
    }

    /// SEC-acl-cost.
    #[test]
    fn fa10_a_hostile_acl_of_the_greatest_size_costs_little() {
        let deny: Vec<String> = (0..8_000).map(|number| format!("*a*a*{number}")).collect();
        let acl = content(json!({ "allow": ["*"], "deny": deny }));
        let name = "a".repeat(230);
        assert!(!allows(Some(&acl), &format!("{name}7999")));
        for number in 8_000..8_020 {
            assert!(allows(Some(&acl), &format!("{name}{number}x")));
        }
    }

    /// SEC-acl-cost.
    #[test]
    fn fa10_a_hostile_glob_costs_little() {
        let glob = "*a".repeat(30_000);
        assert!(!matches(&glob, &"a".repeat(255)));
        assert!(matches(&"*a".repeat(255), &"a".repeat(255)));
        assert!(!matches(&"*a".repeat(200), &"b".repeat(255)));
        assert!(matches(&"*".repeat(60_000), "one.test"));
    }
}
