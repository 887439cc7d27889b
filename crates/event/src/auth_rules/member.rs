//! Rule 5: `m.room.member`.

use super::{Context, Denied, denied};
use crate::json::Json;
use crate::power_levels::{self, PowerLevels};
use crate::{ids, third_party};

/// Rule 5, by the new membership.
pub(super) fn check(context: &Context<'_>) -> Result<(), Denied> {
    let event = &context.event;
    let (Some(target), Some(membership)) = (event.state_key, event.content_str("membership")) else {
        return denied("5.1", "the state key or the membership is missing");
    };
    if !ids::is_user_id(target) {
        return denied("5.1", "the state key is not a user ID");
    }
    match membership {
        "join" => check_join(context, target),
        "invite" => check_invite(context, target),
        "leave" => check_leave(context, target),
        "ban" => check_ban(context, target),
        "knock" if context.rules.knock => check_knock(context, target),
        _ => denied("5.8", "the membership is not known"),
    }
}

/// Rule 5.3.
fn check_join(context: &Context<'_>, target: &str) -> Result<(), Denied> {
    let event = &context.event;
    let after_create = event.prev_events == [context.create.event_id.clone()];
    if after_create && power_levels::creator(context.rules, context.create) == Some(target) {
        return Ok(());
    }
    if event.sender != target {
        return denied("5.3.2", "nobody joins for another");
    }
    let current = context.membership(target);
    if current == "ban" {
        return denied("5.3.3", "the sender is banned");
    }
    let is_in = matches!(current.as_str(), "invite" | "join");
    let rules = context.rules;
    match context.join_rule().as_str() {
        "public" => Ok(()),
        "invite" if is_in => Ok(()),
        "knock" if rules.knock && is_in => Ok(()),
        "restricted" if rules.restricted => check_restricted(context, is_in),
        "knock_restricted" if rules.knock_restricted => check_restricted(context, is_in),
        _ => denied("5.3.7", "the join rule does not let the sender in"),
    }
}

/// Rule 5.3.5.
fn check_restricted(context: &Context<'_>, is_in: bool) -> Result<(), Denied> {
    if is_in {
        return Ok(());
    }
    let Some(user) = context.event.content_str("join_authorised_via_users_server") else {
        return denied("5.3.5.2", "nobody authorises the join");
    };
    if context.membership(user) != "join" {
        return denied("5.3.5.2", "the authorising user is not joined");
    }
    let event = context.state.get("m.room.power_levels", "");
    let levels = PowerLevels::from_state(context.rules, event.as_deref(), context.create);
    if levels.try_user(user)? < levels.try_property("invite")? {
        return denied("5.3.5.2", "the authorising user may not invite");
    }
    Ok(())
}

/// Rule 5.4.
fn check_invite(context: &Context<'_>, target: &str) -> Result<(), Denied> {
    let event = &context.event;
    if let Some(invite) = event.content.get("third_party_invite") {
        return check_third_party_invite(context, target, invite);
    }
    if context.membership(event.sender) != "join" {
        return denied("5.4.2", "the sender is not joined");
    }
    if matches!(context.membership(target).as_str(), "join" | "ban") {
        return denied("5.4.3", "the invited user is joined or banned");
    }
    let power_levels = context.state.get("m.room.power_levels", "");
    let levels = PowerLevels::from_state(context.rules, power_levels.as_deref(), context.create);
    if levels.try_user(event.sender)? < levels.try_property("invite")? {
        return denied("5.4.5", "the sender may not invite");
    }
    Ok(())
}

/// Rule 5.4.1.
fn check_third_party_invite(context: &Context<'_>, target: &str, invite: &Json) -> Result<(), Denied> {
    if context.membership(target) == "ban" {
        return denied("5.4.1.1", "the invited user is banned");
    }
    let Some(signed) = invite.get("signed").and_then(Json::as_object) else {
        return denied("5.4.1.2", "the third-party invite is not signed");
    };
    let mxid = signed.get("mxid").and_then(Json::as_str);
    let (Some(mxid), Some(token)) = (mxid, third_party::token(context.event.content)) else {
        return denied("5.4.1.3", "the third-party invite lacks `mxid` or `token`");
    };
    if mxid != target {
        return denied("5.4.1.4", "the third-party invite is for another user");
    }
    let Some(offer) = context.state.get(third_party::OFFER, token) else {
        return denied("5.4.1.5", "the state has no such third-party invite");
    };
    if offer.sender != context.event.sender {
        return denied("5.4.1.6", "the third-party invite is by another sender");
    }
    if third_party::signing_key(signed, &offer.content).is_some() {
        return Ok(());
    }
    denied("5.4.1.8", "no signature matches a key of the third-party invite")
}

/// Rule 5.5.
fn check_leave(context: &Context<'_>, target: &str) -> Result<(), Denied> {
    let event = &context.event;
    let sender_membership = context.membership(event.sender);
    if event.sender == target {
        return match sender_membership.as_str() {
            "invite" | "join" => Ok(()),
            "knock" if context.rules.knock => Ok(()),
            _ => denied("5.5.1", "the sender has nothing to leave"),
        };
    }
    if sender_membership != "join" {
        return denied("5.5.2", "the sender is not joined");
    }
    let power_levels = context.state.get("m.room.power_levels", "");
    let levels = PowerLevels::from_state(context.rules, power_levels.as_deref(), context.create);
    let sender_level = levels.try_user(event.sender)?;
    if context.membership(target) == "ban" && sender_level < levels.try_property("ban")? {
        return denied("5.5.3", "the sender may not unban");
    }
    if sender_level >= levels.try_property("kick")? && levels.try_user(target)? < sender_level {
        return Ok(());
    }
    denied("5.5.5", "the sender may not kick the user")
}

/// Rule 5.6.
fn check_ban(context: &Context<'_>, target: &str) -> Result<(), Denied> {
    let event = &context.event;
    if context.membership(event.sender) != "join" {
        return denied("5.6.1", "the sender is not joined");
    }
    let power_levels = context.state.get("m.room.power_levels", "");
    let levels = PowerLevels::from_state(context.rules, power_levels.as_deref(), context.create);
    let sender_level = levels.try_user(event.sender)?;
    if sender_level >= levels.try_property("ban")? && levels.try_user(target)? < sender_level {
        return Ok(());
    }
    denied("5.6.3", "the sender may not ban the user")
}

/// Rule 5.7.
fn check_knock(context: &Context<'_>, target: &str) -> Result<(), Denied> {
    let join_rule = context.join_rule();
    let open = join_rule == "knock" || (context.rules.knock_restricted && join_rule == "knock_restricted");
    if !open {
        return denied("5.7.1", "the join rule does not allow knocking");
    }
    if context.event.sender != target {
        return denied("5.7.2", "nobody knocks for another");
    }
    if matches!(context.membership(target).as_str(), "ban" | "invite" | "join") {
        return denied("5.7.4", "the sender is banned, invited or joined");
    }
    Ok(())
}
