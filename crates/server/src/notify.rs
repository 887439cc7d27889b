//! Who is notified of an event: what the room engine asks of the accounts' push rules.

use std::sync::Arc;

use async_trait::async_trait;
use event::Pdu;
use rooms::notify::{Exception, Judgement, Notify, RoomContext};
use store::UserId;
use users::Users;
use users::push_rules::evaluate::Context;

/// The push rules as the room engine sees them.
pub struct PushRules(pub Arc<Users>);

#[async_trait]
impl Notify for PushRules {
    async fn look_for_names(&self, users: &[UserId]) -> Vec<UserId> {
        self.0.look_for_names(users).await.unwrap_or_else(|cause| {
            tracing::error!(%cause, "push rules could not be read");
            Vec::new()
        })
    }

    async fn judge(&self, event: &Arc<Pdu>, context: &RoomContext<'_>, users: &[UserId]) -> Judgement {
        let display_name = |user: &UserId| {
            let member = context.state.event("m.room.member", user.as_str())?;
            Some(member.pdu.content.get("displayname")?.as_str()?.to_owned())
        };
        let asked = Context {
            room_id: context.room_id,
            joined: context.joined,
            sender_level: context.sender_level,
            notification_level: context.notification_level,
            display_name: &display_name,
        };
        match self.0.judge(event, &asked, users).await {
            Ok(judged) => Judgement {
                by_default: judged.by_default,
                exceptions: judged
                    .exceptions
                    .into_iter()
                    .map(|(user, says, standing)| {
                        let users::push_rules::Notified { notify, highlight } = says;
                        Exception { user, notify, highlight, standing }
                    })
                    .collect(),
            },
            Err(cause) => {
                // The event is worth more than its count.
                tracing::error!(%cause, "push rules could not be evaluated");
                Judgement::default()
            }
        }
    }
}
