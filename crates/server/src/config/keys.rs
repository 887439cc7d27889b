//! Every key of the configuration, declared once.

use endpoint::RateClass;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A text that is not to be seen; also as `…_file`.
    Secret,
    /// `true` or `false`.
    Boolean,
    /// A number of bytes, or a text such as `"50 MiB"`.
    Size,
    /// A time, such as `"7 days"`.
    Time,
    /// A number.
    Number,
    /// A list of texts.
    Texts,
    /// The list of listeners.
    Listeners,
}

/// A key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its full name, with dots.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// Its default in TOML, or empty if it is unset.
    pub default: String,
    /// What it means.
    pub meaning: String,
}

type Declared = (&'static str, Kind, &'static str, &'static str);

const KEYS: &[Declared] = &[
    (
        "server_name",
        Kind::Text,
        "",
        "The name in user ids, with or without a port. Fixed once a user exists. Unset: `localhost` until the page for\n\
         the first account sets it.",
    ),
    ("data_dir", Kind::Text, "\"./hearth-data\"", "Where database, keys and media lie."),
    (
        "listeners",
        Kind::Listeners,
        "[{ address = \"127.0.0.1:8008\" }]",
        "Where to listen: a list of { address, tls, resources }. `address` is host:port or unix:PATH; `tls` is\n\
         { certificate = PATH, key = PATH } (PEM); `resources` are some of client, federation, media, metrics, admin,\n\
         identity (unset: all).",
    ),
    (
        "trusted_proxies",
        Kind::Texts,
        "[]",
        "Addresses and ranges of proxies whose X-Forwarded-For is believed. Unix sockets are believed always.",
    ),
    (
        "public_base_url",
        Kind::Text,
        "",
        "The address under which clients reach the server, for /.well-known/matrix/client.",
    ),
    (
        "database.url",
        Kind::Secret,
        "\"sqlite:\"",
        "`sqlite:` (a file in data_dir), `sqlite:PATH`, or `postgres://user:password@host/name`. For TLS to PostgreSQL add\n\
         `?sslmode=verify-full&sslrootcert=PATH` (PEM; without sslrootcert, what the machine trusts). `sslmode=require`\n\
         encrypts without looking at the certificate.",
    ),
    ("database.cache_bytes", Kind::Size, "\"32 MiB\"", "Memory for the pages of a SQLite database."),
    ("registration.mode", Kind::Text, "\"token\"", "Who may make an account: `closed`, `token` or `open`."),
    ("registration.guests", Kind::Boolean, "false", "Whether anybody may be a guest, without an account."),
    (
        "registration.shared_secret",
        Kind::Secret,
        "",
        "Enables /_synapse/admin/v1/register for whoever knows this secret.",
    ),
    (
        "registration.email",
        Kind::Text,
        "\"off\"",
        "Whether who registers confirms an e-mail address: `off`, `optional` or `required`. Needs `email.url`.",
    ),
    (
        "registration.email_allowed_domains",
        Kind::Texts,
        "[]",
        "The only domains whose addresses may be used, at registration and later; empty: all. \"*.example.org\" stands for\n\
         all below example.org.",
    ),
    ("registration.email_denied_domains", Kind::Texts, "[]", "Domains whose addresses may not be used."),
    (
        "email.url",
        Kind::Secret,
        "",
        "The mail server by which this one writes to people: `smtps://user:password@host` (TLS, port 465),\n\
         `smtp://user:password@host` (STARTTLS, port 587) or `smtp+plain://host` (no TLS, port 25), each with or without a\n\
         port. What is special in user or password is written as %XX. Unset: no mail is sent, and accounts have no\n\
         addresses.",
    ),
    ("email.from", Kind::Text, "", "Whom mails come from, such as \"Hearth <noreply@example.org>\"."),
    (
        "email.templates",
        Kind::Text,
        "",
        "A folder with files that take the place of the built-in texts of mails: reset.subject, reset.txt, reset.html, …",
    ),
    ("email.trusted_ca_files", Kind::Texts, "[]", "Further certificate authorities of the mail server, PEM."),
    (
        "email.next_link_hosts",
        Kind::Texts,
        "[]",
        "Hosts to whose pages people may be led on after they have confirmed an address, such as \"app.element.io\".",
    ),
    (
        "email.notification_delay",
        Kind::Time,
        "\"10 min\"",
        "How long a message is unread before a mail tells of it, to users who want such mails.",
    ),
    (
        "email.notification_interval",
        Kind::Time,
        "\"1 h\"",
        "How long after a mail about unread messages the next may come.",
    ),
    (
        "email.reveal_addresses",
        Kind::Boolean,
        "false",
        "Whether strangers may learn if an address belongs to an account: then mistakes are told at once, not by mail.",
    ),
    (
        "reports.retention",
        Kind::Time,
        "\"365 days\"",
        "How long reports of rooms, events and users are kept for `hearth reports`: a text such as \"90 days\", a number\n\
         of seconds, or \"forever\". Each holds the event as it was when it was reported, also if it is redacted later.",
    ),
    ("federation.enabled", Kind::Boolean, "true", "Whether to speak with other servers."),
    (
        "federation.delegated_to",
        Kind::Text,
        "",
        "Where other servers reach this one, as host or host:port, for /.well-known/matrix/server; `none`: there is no such\n\
         file. Unset: host and port of `public_base_url`, if that is https and no listener on this port leaves federation\n\
         out.",
    ),
    ("federation.allow", Kind::Texts, "[]", "The only servers to speak with; empty: all."),
    ("federation.deny", Kind::Texts, "[]", "Servers not to speak with."),
    ("federation.trusted_ca_files", Kind::Texts, "[]", "Further certificate authorities, PEM."),
    ("federation.allowed_private_ranges", Kind::Texts, "[]", "Private address ranges that may be connected to."),
    (
        "federation.members_omitted_from",
        Kind::Number,
        "100",
        "Joined members from which on a room is given to a joining server without its members first, if that asks for it.",
    ),
    ("federation.verify_certificates", Kind::Boolean, "true", "Whether certificates of other servers are checked."),
    (
        "appservices.files",
        Kind::Texts,
        "[]",
        "Registration files of application services. This version has none: the list must be empty.",
    ),
    ("rooms.default_version", Kind::Text, "\"12\"", "The room version of new rooms."),
    (
        "rooms.redaction_retention",
        Kind::Time,
        "\"7 days\"",
        "How long the database keeps what a redacted event said before, though nobody is shown it: a text such as\n\
         \"7 days\" or \"12 h\" (s, min, h, d, weeks), a number of seconds, or \"forever\".",
    ),
    (
        "rooms.delay_max",
        Kind::Time,
        "\"1 day\"",
        "For how long an event may be delayed (MSC4140): calls let the server say that somebody has left who is not heard\n\
         of any more. A text such as \"1 day\" or \"6 h\", a number of seconds, or \"forever\".",
    ),
    (
        "rooms.delayed_events_max",
        Kind::Number,
        "100",
        "How many delayed events a user may have scheduled at once; 0: nobody may delay events.",
    ),
    ("media.max_upload_bytes", Kind::Size, "\"50 MiB\"", "How large an uploaded file may be."),
    (
        "media.remote_days",
        Kind::Number,
        "90",
        "For how many days media of other servers is kept after somebody last asked for it; 0: for ever. It can be\n\
         fetched again as long as its server is there.",
    ),
    (
        "media.remote_bytes_max",
        Kind::Size,
        "0",
        "How much room media of other servers may take; beyond it, what nobody has asked for longest is deleted. 0: as\n\
         much as there is. Within an hour more may come.",
    ),
    ("media.store", Kind::Text, "\"file:\"", "Where media lies: `file:` (in data_dir) or `file:PATH`."),
    (
        "url_previews.enabled",
        Kind::Boolean,
        "true",
        "Whether the server looks at web pages that users' clients ask about, to show what links lead to. Private\n\
         addresses are never reached. The sites see this server's address, as other servers do.",
    ),
    (
        "url_previews.allow",
        Kind::Texts,
        "[]",
        "The only URLs that are previewed; empty: all. Domains with all below them (`example.org`), beginnings of URLs\n\
         (`https://example.org/wiki/`) and patterns (`*.html`).",
    ),
    (
        "url_previews.deny",
        Kind::Texts,
        "[]",
        "URLs that are not previewed, written in the same ways; also none to which others lead. Wins over `allow`.",
    ),
    ("url_previews.allowed_private_ranges", Kind::Texts, "[]", "Private address ranges whose pages may be looked at."),
    ("url_previews.trusted_ca_files", Kind::Texts, "[]", "Further certificate authorities of web sites, PEM."),
    (
        "url_previews.languages",
        Kind::Texts,
        "[\"en\"]",
        "The languages in which pages are asked for, the preferred first.",
    ),
    (
        "url_previews.kept",
        Kind::Time,
        "\"7 days\"",
        "How long previews and the copies of their images are kept: a text such as \"7 days\", or a number of seconds.",
    ),
    (
        "url_previews.bytes_max",
        Kind::Size,
        "\"1 GiB\"",
        "How much room the copies of images may take; beyond it, new ones are left out and the oldest are deleted.",
    ),
    (
        "calls.livekit_urls",
        Kind::Texts,
        "[]",
        "Addresses of services that let clients into calls over LiveKit (lk-jwt-service), the preferred first: for\n\
         Element Call and others.",
    ),
    (
        "calls.turn_uris",
        Kind::Texts,
        "[]",
        "TURN servers for calls between two, such as \"turn:turn.example.org:3478?transport=udp\".",
    ),
    (
        "calls.turn_shared_secret",
        Kind::Secret,
        "",
        "The secret that the TURN servers share with this one (`static-auth-secret` of coturn).",
    ),
    ("calls.turn_lifetime", Kind::Time, "\"1 day\"", "How long credentials for the TURN servers are good."),
    (
        "push.enabled",
        Kind::Boolean,
        "true",
        "Whether notifications are pushed to phones, through the gateways that their apps name.",
    ),
    (
        "push.badge",
        Kind::Text,
        "\"rooms\"",
        "What the number on an app's icon counts: `rooms` with something unread, or unread `messages`.",
    ),
    (
        "push.include_content",
        Kind::Boolean,
        "true",
        "Whether gateways are told who wrote what where, if an app does not ask for ids alone. Encrypted messages stay so.",
    ),
    (
        "push.zero_counts",
        Kind::Boolean,
        "false",
        "Whether gateways are told when nothing is unread any more. The specification leaves counts of zero out; some\n\
         gateways clear the number on an icon only if they are told.",
    ),
    (
        "push.allowed_private_ranges",
        Kind::Texts,
        "[]",
        "Private address ranges in which push gateways may be: users name gateways, so none is allowed at first.",
    ),
    ("push.trusted_ca_files", Kind::Texts, "[]", "Further certificate authorities of push gateways, PEM."),
    (
        "push.http_gateways",
        Kind::Boolean,
        "false",
        "Whether push gateways may be reached without TLS, for tests and networks of one's own.",
    ),
    (
        "policy_server.public_key",
        Kind::Text,
        "",
        "The ed25519 key (unpadded base64) of a policy server under this server's name, for\n\
         /.well-known/matrix/policy_server.",
    ),
    ("support.email", Kind::Text, "", "E-mail address of the administrator, for /.well-known/matrix/support."),
    ("support.matrix_id", Kind::Text, "", "Matrix id of the administrator, for /.well-known/matrix/support."),
    ("support.page", Kind::Text, "", "A page for users who need help, for /.well-known/matrix/support."),
    ("log.filter", Kind::Text, "\"info\"", "What is logged: a level, or `level,crate=level,…`."),
    ("log.format", Kind::Text, "\"pretty\"", "How lines look: `pretty` or `json`."),
    ("rate_limits.enabled", Kind::Boolean, "true", "Whether requests are limited at all."),
];

/// All keys, in the order of the reference.
pub fn all() -> Vec<Key> {
    let declared = KEYS.iter().map(|(name, kind, default, meaning)| Key {
        name: (*name).to_owned(),
        kind: *kind,
        default: (*default).to_owned(),
        meaning: (*meaning).to_owned(),
    });
    declared.chain(RateClass::ALL.into_iter().flat_map(of_class)).collect()
}

fn of_class(class: RateClass) -> [Key; 2] {
    let rate = class.default_rate();
    let key = |member: &str, default: f64, meaning: &str| Key {
        name: format!("rate_limits.{}.{member}", class.name()),
        kind: Kind::Number,
        default: format!("{default:?}"),
        meaning: meaning.to_owned(),
    };
    [
        key("per_second", rate.per_second, "Requests that are allowed per second in the long run."),
        key("burst", rate.burst, "Requests that are allowed at once."),
    ]
}

/// The known key that looks most like `name`, if any does.
pub fn nearest(name: &str) -> Option<String> {
    let far = name.len() / 2 + 1;
    let distances = all().into_iter().map(|key| {
        // A key that lacks its section is near to the one that has it.
        let bare = key.name.rsplit('.').next().unwrap_or(&key.name);
        (distance(name, &key.name).min(distance(name, bare) + 1), key.name)
    });
    distances.min().filter(|(distance, _)| *distance <= far).map(|(_, name)| name)
}

/// How many letters have to be added, dropped or changed to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.chars().enumerate() {
        let mut before = line;
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
        for (column, b) in other.iter().enumerate() {
            let above = row.get(column + 1).copied().unwrap_or(0);
            let left = row.get(column).copied().unwrap_or(0);
            let cost = (before + usize::from(a != *b)).min(above + 1).min(left + 1);
            before = above;
            if let Some(cell) = row.get_mut(column + 1) {
                *cell = cost;
            }
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_edits() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn every_key_stands_once() {
        let mut names: Vec<String> = all().into_iter().map(|key| key.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
