//! The body of `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync`.

use std::collections::BTreeMap;
use std::sync::Arc;

use endpoint::Error;
use serde::Deserialize;
use store::UserId;
use sync::sliding::config::{Config, Rule, Rules};
use sync::sliding::request::{Filters, List, Lists, Subscriptions};

use super::{ExtensionsBody, LISTS_MAX, check_count, check_texts, place, timeline_limit};

/// Most subscriptions: clients of this dialect know no bound.
const SUBSCRIPTIONS_MAX: usize = 500;
/// Most pairs of one `required_state`.
const PAIRS_MAX: usize = 500;

/// The body.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Body {
    pub conn_id: Option<String>,
    pub txn_id: Option<String>,
    pub extensions: ExtensionsBody,
    lists: BTreeMap<String, ListBody>,
    room_subscriptions: BTreeMap<String, ConfigBody>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListBody {
    ranges: Option<Vec<(u64, u64)>>,
    slow_get_all_rooms: Option<bool>,
    required_state: Vec<(String, String)>,
    timeline_limit: u64,
    filters: Option<FiltersBody>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigBody {
    required_state: Vec<(String, String)>,
    timeline_limit: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FiltersBody {
    is_dm: Option<bool>,
    is_encrypted: Option<bool>,
    is_invite: Option<bool>,
    room_types: Option<Vec<Option<String>>>,
    not_room_types: Option<Vec<Option<String>>>,
    spaces: Option<Vec<String>>,
    tags: Option<Vec<String>>,
    not_tags: Option<Vec<String>>,
}

impl Body {
    /// What of which rooms is wanted.
    pub fn wishes(&self, user: &UserId) -> Result<(Lists, Subscriptions), Error> {
        check_count(self.lists.len(), LISTS_MAX, "lists")?;
        check_count(self.room_subscriptions.len(), SUBSCRIPTIONS_MAX, "room subscriptions")?;
        let mut lists = BTreeMap::new();
        for (name, list) in &self.lists {
            let ranges = list.ranges.as_ref().filter(|_| list.slow_get_all_rooms != Some(true));
            let ranges =
                ranges.map(|ranges| ranges.iter().map(|(first, last)| (place(*first), place(*last))).collect());
            let config = config(&list.required_state, list.timeline_limit, user)?;
            let filters = list.filters.as_ref().map(FiltersBody::filters).unwrap_or_default();
            lists.insert(name.clone(), List { ranges, config, filters });
        }
        let mut subscriptions = BTreeMap::new();
        for (room_id, wish) in &self.room_subscriptions {
            subscriptions.insert(room_id.clone(), config(&wish.required_state, wish.timeline_limit, user)?);
        }
        Ok((lists, subscriptions))
    }
}

impl FiltersBody {
    fn filters(&self) -> Filters {
        Filters {
            is_dm: self.is_dm,
            is_encrypted: self.is_encrypted,
            is_invite: self.is_invite,
            room_types: self.room_types.clone(),
            not_room_types: self.not_room_types.clone().unwrap_or_default(),
            spaces: self.spaces.clone(),
            tags: self.tags.clone(),
            not_tags: self.not_tags.clone().unwrap_or_default(),
        }
    }
}

fn config(pairs: &[(String, String)], limit: u64, user: &UserId) -> Result<Config, Error> {
    check_count(pairs.len(), PAIRS_MAX, "pairs in `required_state`")?;
    check_texts(pairs.iter().flat_map(|(kind, state_key)| [kind, state_key]))?;
    Ok(Config { rules: Arc::new(Rules(vec![Rule::of_pairs(pairs, user)])), timeline_limit: timeline_limit(limit) })
}
