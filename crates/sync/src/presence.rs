//! The presence section: users who share a room, as far as something changed.

use std::collections::BTreeSet;

use serde_json::json;
use store::UserId;
use users::presence::Presence;

use crate::{Filter, Sync};

impl Sync {
    /// Whose presence changed since the volatile number `since`, and that of all of `newcomers`.
    pub(crate) fn presence_of(&self, since: i64, newcomers: &BTreeSet<UserId>) -> Vec<(UserId, Presence)> {
        let mut changed = self.users.presence_since(since);
        let known: BTreeSet<UserId> = changed.iter().map(|(user, _)| user.clone()).collect();
        for newcomer in newcomers.iter().filter(|newcomer| !known.contains(*newcomer)) {
            changed.extend(self.users.presence(newcomer).map(|presence| (newcomer.clone(), presence)));
        }
        changed
    }
}

/// Presence as events, as far as the filter wants it.
pub(crate) fn presence_events(
    changed: impl Iterator<Item = (UserId, Presence)>,
    filter: &Filter,
    now_ms: i64,
) -> Vec<String> {
    changed
        .filter(|(other, _)| filter.presence.accepts("m.presence", Some(other.as_str())))
        .map(|(other, presence)| {
            let mut content = json!({
                "presence": presence.state.as_str(),
                "currently_active": presence.currently_active,
                "last_active_ago": now_ms.saturating_sub(presence.active_ms).max(0),
            });
            if let (Some(status), Some(content)) = (presence.status, content.as_object_mut()) {
                content.insert("status_msg".to_owned(), json!(status));
            }
            json!({ "type": "m.presence", "sender": other, "content": content }).to_string()
        })
        .collect()
}
