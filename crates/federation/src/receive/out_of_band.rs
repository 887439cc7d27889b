//! Events of rooms that this server is not in: of these only the end of a local user's invite or knock counts, and only
//! from somebody who may end it (behaviour FJ8).

use event::ids;
use event::{Rules, Verified};
use rooms::remote::RemoteMembership;
use serde_json::Value;
use store::UserId;
use store::tables::federation::InboundPduRow;
use store::tables::rooms::{EventRow, MembershipRow};

use super::queue::Outcome;
use crate::Federation;

impl Federation {
    /// Takes in an event of a room in which this server has no joined member.
    pub(super) async fn take_out_of_band(
        &self,
        row: &InboundPduRow,
        rules: &'static Rules,
        event: Verified,
    ) -> Outcome {
        let dropped = |reason: &str| Outcome::Dropped(reason.to_owned());
        let pdu = event.pdu();
        let user = pdu.state_key.as_deref().filter(|_| pdu.kind == "m.room.member").map(UserId::from);
        let ended = pdu.membership().filter(|membership| matches!(*membership, "leave" | "ban")).map(str::to_owned);
        let (Some(user), Some(membership)) = (user.filter(|user| self.users.is_local(user)), ended) else {
            return dropped("this server is not in the room");
        };
        let open = match self.rooms.any_membership(&row.room_id, &user).await {
            Ok(open) => open.filter(|open| matches!(open.membership.as_str(), "invite" | "knock")),
            Err(_) => return self.own_fault(row),
        };
        let Some(open) = open else { return dropped("the user is neither invited nor knocks") };
        if !may_end(&open, &pdu.sender) {
            return dropped("it is not known that the sender may end the user's membership");
        }
        // An end that does not build on it is older: the end of a ban, say, that an invite has overtaken.
        match self.store.get::<EventRow>(vec![open.event.into()]).await {
            Ok(Some(begun)) if !pdu.auth_events.iter().any(|id| id.as_str() == begun.event_id) => {
                return dropped("it is from before the user's invite or knock");
            }
            Ok(_) => {}
            Err(_) => return self.own_fault(row),
        }
        let ended = RemoteMembership {
            room_id: row.room_id.clone(),
            rules,
            user,
            membership,
            sender: UserId::from(pdu.sender.as_str()),
            event: Some(event),
            stripped: Vec::new(),
        };
        match self.rooms.set_remote_membership(&ended).await {
            Ok(()) => Outcome::Done,
            Err(rooms::Error::Busy | rooms::Error::Store(_)) => self.own_fault(row),
            Err(error) => Outcome::Dropped(error.to_string()),
        }
    }
}

/// Whether a user may end an invite or a knock, by what little is known of the room: who invited may, and whoever the
/// stripped state gives the power to kick. A knock may also be refused by users of the servers that speak in it.
fn may_end(open: &MembershipRow, sender: &str) -> bool {
    if open.membership == "invite" && open.sender.as_str() == sender {
        return true;
    }
    let stripped: Vec<Value> =
        open.stripped.as_deref().and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default();
    let level = |name: &str, levels: &Value| levels.get(name).and_then(Value::as_i64);
    let power = stripped.iter().find(|event| event["type"] == "m.room.power_levels").map(|event| &event["content"]);
    if let Some(power) = power {
        let own = power.get("users").and_then(|users| level(sender, users)).or(level("users_default", power));
        return own.unwrap_or(0) >= level("kick", power).unwrap_or(50);
    }
    let server = ids::user_server(sender);
    let own = open.user_id.server_name();
    let speaks = |event: &Value| {
        let speaker = event["sender"].as_str().and_then(ids::user_server);
        speaker.is_some_and(|speaker| speaker != own && Some(speaker) == server)
    };
    open.membership == "knock" && stripped.iter().any(speaks)
}
