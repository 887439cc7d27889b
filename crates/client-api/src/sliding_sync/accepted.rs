//! The body of `POST /_matrix/client/v4/sync` (MSC4186).

use std::collections::BTreeMap;
use std::sync::Arc;

use endpoint::Error;
use serde::Deserialize;
use sync::sliding::config::{Config, Rule, Rules};
use sync::sliding::request::{Filters, List, Lists, Subscriptions};

use super::{ExtensionsBody, LISTS_MAX, check_count, check_texts, place, timeline_limit};

/// Most subscriptions.
const SUBSCRIPTIONS_MAX: usize = 100;
/// Most patterns of one `required_state`.
const PATTERNS_MAX: usize = 500;

/// The body.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Body {
    pub conn_id: Option<String>,
    pub pos: Option<String>,
    pub timeout: Option<u64>,
    pub set_presence: Option<String>,
    pub extensions: ExtensionsBody,
    lists: BTreeMap<String, ListBody>,
    room_subscriptions: BTreeMap<String, ConfigBody>,
}

#[derive(Debug, Deserialize)]
struct ListBody {
    range: Option<(u64, u64)>,
    required_state: Rule,
    timeline_limit: u64,
    filters: Option<FiltersBody>,
}

#[derive(Debug, Deserialize)]
struct ConfigBody {
    required_state: Rule,
    timeline_limit: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FiltersBody {
    is_dm: Option<bool>,
    is_encrypted: Option<bool>,
    is_invited: Option<bool>,
    room_types: Option<Vec<Option<String>>>,
    not_room_types: Option<Vec<Option<String>>>,
    spaces: Option<Vec<String>>,
    tags: Option<Vec<String>>,
    not_tags: Option<Vec<String>>,
}

impl Body {
    /// What of which rooms is wanted.
    pub fn wishes(&self) -> Result<(Lists, Subscriptions), Error> {
        check_count(self.lists.len(), LISTS_MAX, "lists")?;
        check_count(self.room_subscriptions.len(), SUBSCRIPTIONS_MAX, "room subscriptions")?;
        let mut lists = BTreeMap::new();
        for (name, list) in &self.lists {
            let ranges = list.range.map(|(first, last)| vec![(place(first), place(last))]);
            let config = config(&list.required_state, list.timeline_limit)?;
            let filters = list.filters.as_ref().map(FiltersBody::filters).unwrap_or_default();
            lists.insert(name.clone(), List { ranges, config, filters });
        }
        let mut subscriptions = BTreeMap::new();
        for (room_id, wish) in &self.room_subscriptions {
            subscriptions.insert(room_id.clone(), config(&wish.required_state, wish.timeline_limit)?);
        }
        Ok((lists, subscriptions))
    }
}

impl FiltersBody {
    fn filters(&self) -> Filters {
        Filters {
            is_dm: self.is_dm,
            is_encrypted: self.is_encrypted,
            is_invite: self.is_invited,
            room_types: self.room_types.clone(),
            not_room_types: self.not_room_types.clone().unwrap_or_default(),
            spaces: self.spaces.clone(),
            tags: self.tags.clone(),
            not_tags: self.not_tags.clone().unwrap_or_default(),
        }
    }
}

fn config(rule: &Rule, limit: u64) -> Result<Config, Error> {
    check_count(rule.include.len() + rule.exclude.len(), PATTERNS_MAX, "patterns in `required_state`")?;
    for pattern in rule.include.iter().chain(&rule.exclude) {
        check_texts([&pattern.kind, &pattern.state_key].into_iter().flatten())?;
    }
    Ok(Config { rules: Arc::new(Rules(vec![rule.clone()])), timeline_limit: timeline_limit(limit) })
}
