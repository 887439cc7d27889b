//! The accounts as the other rooms of a server ask for them.

use std::sync::Arc;

use async_trait::async_trait;
use endpoint::requester::Origin;
use endpoint::{Error, Lookup, Session, Sessions};
use event::Pdu;
use rooms::notify::{Exception, Judgement, Notify, RoomContext};
use store::UserId;
use users::push_rules::evaluate::{Context, Notified};
use users::{TokenError, Users};

/// The access tokens, as the door asks for them.
pub(crate) struct Accounts(pub(crate) Arc<Users>);

#[async_trait]
impl Sessions for Accounts {
    async fn session(&self, token: &str, _: &Origin) -> Result<Lookup, Error> {
        let session = match self.0.authenticate(token).await {
            Ok(session) => session,
            Err(TokenError::Unknown) => return Ok(Lookup::Unknown),
            Err(TokenError::Expired) => return Ok(Lookup::Expired),
            Err(TokenError::Store(error)) => return Err(error.into()),
        };
        Ok(Lookup::Known(Session {
            user_id: session.user.clone(),
            device_id: Some(session.device.clone()),
            guest: session.guest,
            admin: session.admin,
            locked: session.locked,
            suspended: session.suspended,
            rate_limited: true,
        }))
    }
}

/// The push rules, as the room engine asks for them. Where the program would go on without counts, the test fails.
pub(crate) struct PushRules(pub(crate) Arc<Users>);

#[async_trait]
impl Notify for PushRules {
    async fn judge(&self, event: &Arc<Pdu>, context: &RoomContext<'_>, users: &[UserId]) -> Judgement {
        let display_name = |user: &UserId| {
            let member = context.state.event("m.room.member", user.as_str())?;
            Some(member.pdu.content.get("displayname")?.as_str()?.to_owned())
        };
        let asked = Context {
            room_id: context.room_id,
            joined: context.joined,
            sender_level: context.sender_level,
            room_notification_level: context.room_notification_level,
            display_name: &display_name,
        };
        let judged = self.0.judge(event, &asked, users).await.unwrap();
        let exception =
            |(user, says): (UserId, Notified)| Exception { user, notify: says.notify, highlight: says.highlight };
        Judgement { by_default: judged.by_default, exceptions: judged.exceptions.into_iter().map(exception).collect() }
    }
}
