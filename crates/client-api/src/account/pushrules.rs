//! `/_matrix/client/v3/pushrules/` and what stands below it
//! (<https://spec.matrix.org/v1.19/client-server-api/#push-rules-api>; behaviour CP1).

use axum::routing::get;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, Path, Query, Requester, error};
use serde::Deserialize;
use serde_json::{Value, json};
use users::push_rules::{NewRule, Place, Rule, RuleKind};

use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    let rule = "/pushrules/global/{kind}/{rule_id}";
    Router::new()
        .client("/pushrules/", get(all))
        .client("/pushrules", get(all))
        .client("/pushrules/global/", get(global))
        .client("/pushrules/global", get(global))
        .client(rule, get(get_rule).put(put_rule).delete(delete_rule))
        .client(&format!("{rule}/enabled"), get(get_enabled).put(put_enabled))
        .client(&format!("{rule}/actions"), get(get_actions).put(put_actions))
}

async fn content(state: &State, requester: &Requester) -> Result<Value, Error> {
    let rules = state.users.push_rules_for(&requester.user_id).await.map_err(error_map::users)?;
    Ok(rules.content(&requester.user_id))
}

async fn all(extract::State(state): extract::State<State>, requester: Requester) -> Result<Json<Value>, Error> {
    content(&state, &requester).await.map(Json)
}

async fn global(extract::State(state): extract::State<State>, requester: Requester) -> Result<Json<Value>, Error> {
    let mut content = content(&state, &requester).await?;
    Ok(Json(content["global"].take()))
}

fn kind_of(kind: &str) -> Result<RuleKind, Error> {
    RuleKind::parse(kind).ok_or_else(|| Error::invalid_param(format!("`{kind}` is no kind of push rule.")))
}

async fn find(state: &State, requester: &Requester, kind: &str, rule_id: &str) -> Result<Rule, Error> {
    let kind = kind_of(kind)?;
    let rules = state.users.push_rules_for(&requester.user_id).await.map_err(error_map::users)?;
    rules.get(&requester.user_id, kind, rule_id).ok_or_else(|| Error::not_found("The push rule was not found."))
}

async fn get_rule(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((kind, rule_id)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    Ok(Json(find(&state, &requester, &kind, &rule_id).await?.to_json()))
}

#[derive(Debug, Deserialize)]
struct NewBody {
    actions: Vec<Value>,
    #[serde(default)]
    conditions: Option<Vec<Value>>,
    pattern: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Where {
    before: Option<String>,
    after: Option<String>,
}

async fn put_rule(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((kind, rule_id)): Path<(String, String)>,
    Query(place): Query<Where>,
    JsonBody(body): JsonBody<NewBody>,
) -> Result<Json<Value>, Error> {
    let kind = kind_of(&kind)?;
    let conditions = body.conditions.unwrap_or_default();
    let new = NewRule { actions: body.actions, conditions, pattern: body.pattern };
    let place = Place { before: place.before, after: place.after };
    let users = &state.users;
    users.put_push_rule(&requester.user_id, kind, &rule_id, new, &place).await.map_err(error_map::users)?;
    Ok(error::empty())
}

async fn delete_rule(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((kind, rule_id)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    let kind = kind_of(&kind)?;
    state.users.delete_push_rule(&requester.user_id, kind, &rule_id).await.map_err(error_map::users)?;
    Ok(error::empty())
}

async fn get_enabled(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((kind, rule_id)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    let rule = find(&state, &requester, &kind, &rule_id).await?;
    Ok(Json(json!({ "enabled": rule.enabled })))
}

#[derive(Debug, Deserialize)]
struct Enabled {
    enabled: bool,
}

async fn put_enabled(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((kind, rule_id)): Path<(String, String)>,
    JsonBody(Enabled { enabled }): JsonBody<Enabled>,
) -> Result<Json<Value>, Error> {
    let kind = kind_of(&kind)?;
    state.users.enable_push_rule(&requester.user_id, kind, &rule_id, enabled).await.map_err(error_map::users)?;
    Ok(error::empty())
}

async fn get_actions(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((kind, rule_id)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    let rule = find(&state, &requester, &kind, &rule_id).await?;
    Ok(Json(json!({ "actions": rule.actions })))
}

#[derive(Debug, Deserialize)]
struct Actions {
    actions: Vec<Value>,
}

async fn put_actions(
    extract::State(state): extract::State<State>,
    requester: Requester,
    Path((kind, rule_id)): Path<(String, String)>,
    JsonBody(Actions { actions }): JsonBody<Actions>,
) -> Result<Json<Value>, Error> {
    let kind = kind_of(&kind)?;
    let users = &state.users;
    users.set_push_rule_actions(&requester.user_id, kind, &rule_id, actions).await.map_err(error_map::users)?;
    Ok(error::empty())
}
