//! Pages of the public directory (`list_public_rooms.yaml` for clients, `public_rooms.yaml` for other servers).

use std::cmp::Reverse;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::summary::Summary;
use crate::{Error, Result, Rooms};

/// Rooms of a page where nobody says.
const LIMIT_DEFAULT: usize = 100;
/// Most rooms of a page.
const LIMIT_MAX: usize = 500;

/// Which rooms of the directory are wanted, and which of them a page shows; also the body of the requests for it.
#[derive(Debug, Default, Deserialize)]
pub struct DirectoryQuery {
    /// Most rooms of the page.
    pub limit: Option<usize>,
    /// Where the page begins, as another page said; nothing for the first.
    pub since: Option<String>,
    /// Which rooms are wanted.
    pub filter: Option<Filter>,
}

/// Which rooms of the directory are wanted.
#[derive(Debug, Default, Deserialize)]
pub struct Filter {
    /// What name, topic or alias contain, in letters of any case.
    pub generic_search_term: Option<String>,
    /// The types that they may have; null is that of rooms without a type.
    pub room_types: Option<Vec<Option<String>>>,
}

impl Filter {
    fn accepts(&self, summary: &Summary<'_>) -> bool {
        let term = self.generic_search_term.as_deref().map(str::to_lowercase).filter(|term| !term.is_empty());
        let named = term.is_none_or(|term| summary.texts().any(|text| text.to_lowercase().contains(&term)));
        let types = self.room_types.as_ref();
        named && types.is_none_or(|types| types.iter().any(|one| one.as_deref() == summary.room_type()))
    }
}

impl Rooms {
    /// The answer to a request for the directory: a page of it, the rooms with most members first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `since` is no token; as the store says.
    pub async fn directory_page(&self, query: DirectoryQuery) -> Result<Value> {
        let filter = query.filter.unwrap_or_default();
        let mut found: Vec<(i64, Map<String, Value>)> = Vec::new();
        for room in self.published_rooms().await? {
            let summary = self.summary(&room).await?;
            if filter.accepts(&summary) {
                found.push((room.head().row.joined, summary.members()));
            }
        }
        let id = |members: &Map<String, Value>| members.get("room_id").and_then(Value::as_str).map(str::to_owned);
        found.sort_by_cached_key(|(joined, members)| (Reverse(*joined), id(members)));
        let total = found.len();
        let start = offset(query.since.as_deref())?.min(total);
        let limit = query.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
        let end = start.saturating_add(limit).min(total);
        let chunk: Vec<Value> = found.drain(start..end).map(|(_, members)| Value::Object(members)).collect();
        let mut answer = json!({ "chunk": chunk, "total_room_count_estimate": total });
        if end < total {
            answer["next_batch"] = token(end).into();
        }
        if start > 0 {
            answer["prev_batch"] = token(start.saturating_sub(limit)).into();
        }
        Ok(answer)
    }
}

/// A place in the directory: how many rooms come before it.
fn token(offset: usize) -> String {
    format!("p{offset}")
}

fn offset(since: Option<&str>) -> Result<usize> {
    let Some(since) = since.filter(|since| !since.is_empty()) else { return Ok(0) };
    let offset = since.strip_prefix('p').and_then(|number| number.parse().ok());
    offset.ok_or_else(|| Error::Invalid("`since` is no token of this directory".to_owned()))
}
