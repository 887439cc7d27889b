//! Events of local users: built on the room's head, checked, signed, appended.

use std::sync::Arc;

use event::auth_rules;
use event::{BuildError, Object, Template, Verified};
use ruma_common::{OwnedEventId, OwnedRoomId};
use store::tables::rooms::TransactionRow;
use store::{DeviceId, EventNum, UserId};

use crate::accept::{ATTEMPTS_MAX, judge, missing_of};
use crate::delayed::{Delayed, Outcome};
use crate::draft::{Draft, Judged};
use crate::event::Event;
use crate::room::{Extremity, Room};
use crate::state::MEMBER;
use crate::{Error, Result, Rooms, flags};

/// Most previous events that an event of ours names (server-server API, PDU format).
const PREV_EVENTS_MAX: usize = 20;

/// A client's transaction: the scope within which a repeated request adds nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// The sending device.
    pub device: DeviceId,
    /// The request path without the transaction id.
    pub path: String,
    /// The transaction id.
    pub txn_id: String,
}

/// What a local user wants to say.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The sender.
    pub sender: UserId,
    /// Event type.
    pub kind: String,
    /// State key, for a state event.
    pub state_key: Option<String>,
    /// Content.
    pub content: Object,
    /// The redacted event, for a redaction.
    pub redacts: Option<OwnedEventId>,
    /// Another `origin_server_ts` than now (appservices).
    pub ts: Option<i64>,
    /// For how long it is to be sticky, in milliseconds, if it is to be (MSC4354).
    pub sticky_ms: Option<i64>,
    /// The transaction, if the request has one.
    pub transaction: Option<Transaction>,
    /// The delayed event that this one ends (MSC4140).
    pub delayed: Option<Box<Delayed>>,
}

impl NewEvent {
    /// A message or other event without state key.
    pub fn message(sender: &UserId, kind: &str, content: Object) -> Self {
        Self {
            sender: sender.clone(),
            kind: kind.to_owned(),
            state_key: None,
            content,
            redacts: None,
            ts: None,
            sticky_ms: None,
            transaction: None,
            delayed: None,
        }
    }

    /// A state event.
    pub fn state(sender: &UserId, kind: &str, state_key: &str, content: Object) -> Self {
        Self { state_key: Some(state_key.to_owned()), ..Self::message(sender, kind, content) }
    }
}

impl Rooms {
    /// Sends an event of a local user and returns its id once it is durable. The same transaction gets the same answer;
    /// setting a state that is already so returns the event that set it.
    ///
    /// # Errors
    /// [`Error::NotInRoom`] for an unknown room, [`Error::Forbidden`] if the auth rules do not allow it,
    /// [`Error::TooLarge`], [`Error::BadContent`], [`Error::DuplicateAnnotation`], and as the store says.
    pub async fn send(&self, room_id: &str, new: NewEvent) -> Result<OwnedEventId> {
        let _alone = match &new.transaction {
            Some(transaction) => Some(self.stripe(&new.sender, transaction).lock().await),
            None => None,
        };
        if new.kind == MEMBER && new.state_key.as_deref().is_some_and(|target| target != new.sender.as_str()) {
            // Whether it may be depends on a membership that may not be known yet.
            self.need_members(room_id).await?;
        }
        for _ in 0..ATTEMPTS_MAX {
            if let Some(answer) = self.answered_now(&new).await? {
                return Ok(answer);
            }
            if let Some(delayed) = &new.delayed
                && let Some(sent) = self.sent_already(delayed).await?
            {
                return Ok(sent);
            }
            let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
            match self.try_send(&room, &new).await {
                Err(Error::Busy) => {}
                // Another node may have carried out the same transaction meanwhile.
                Err(Error::DuplicateAnnotation) => {
                    return self.stored_answer(&new).await?.ok_or(Error::DuplicateAnnotation);
                }
                other => return other,
            }
        }
        Err(Error::Busy)
    }

    /// The answer that the event's transaction got before, if it has one and was sent before.
    ///
    /// # Errors
    /// As the store says.
    pub async fn answered(&self, new: &NewEvent) -> Result<Option<OwnedEventId>> {
        let answer = self.stored_answer(new).await?;
        if let (None, Some(transaction)) = (&answer, &new.transaction) {
            self.unanswered.insert(self.hash_of(&new.sender, transaction), ());
        }
        Ok(answer)
    }

    /// [`Rooms::answered`] for who is about to send: what was just looked for in vain is not looked for again. Should it
    /// have come in between, the batch is refused, and next time it is looked for.
    async fn answered_now(&self, new: &NewEvent) -> Result<Option<OwnedEventId>> {
        let transaction = new.transaction.as_ref();
        let just_asked =
            transaction.and_then(|transaction| self.unanswered.remove(&self.hash_of(&new.sender, transaction)));
        if just_asked.is_some() { Ok(None) } else { self.stored_answer(new).await }
    }

    async fn stored_answer(&self, new: &NewEvent) -> Result<Option<OwnedEventId>> {
        let Some(transaction) = &new.transaction else { return Ok(None) };
        let row = self.store.get::<TransactionRow>(transaction_key(&new.sender, transaction)).await?;
        Ok(row.and_then(|row| OwnedEventId::try_from(row.answer).ok()))
    }

    async fn try_send(&self, room: &Arc<Room>, new: &NewEvent) -> Result<OwnedEventId> {
        let mut draft = Draft::begin(self, room).await;
        draft.check_alive()?;
        if let Some(same) = self.same_state(&draft, new).await? {
            self.make_durable(room, draft, same.num()).await?;
            if let Some(delayed) = &new.delayed {
                self.finalise(delayed, Outcome::Sent(same.id().as_str())).await?;
            }
            return Ok(same.id().clone());
        }
        if let Some(same) = self.same_annotation(&draft, new).await? {
            self.make_durable(room, draft, same).await?;
            return Err(Error::DuplicateAnnotation);
        }
        let event = match self.policy_server(room, Some(&draft.overlay), &draft.head).await? {
            Some(policy) if !is_exempt(new) => {
                let (verified, _) = self.build_local(&draft, new).await?;
                // Nobody shall wait in the room's queue for another server, and that is not to see what may be lost yet.
                drop(draft);
                self.wait_for_all(room).await?;
                let recommended = self.recommended(&policy, room.rules, &verified).await?;
                draft = Draft::begin(self, room).await;
                draft.check_alive()?;
                if !missing_of(&draft, recommended.pdu()).await?.is_empty() {
                    return Err(Error::Busy);
                }
                let judged = judge(&mut draft, recommended.pdu()).await?;
                self.append_judged(&mut draft, judged, new).await?
            }
            _ => self.append_local(&mut draft, new).await?,
        };
        if let Some(transaction) = &new.transaction {
            let row = transaction_row(&new.sender, transaction, event.id().to_string(), self.clock.now_ms());
            draft.batch.expect_absent::<TransactionRow>(transaction_key(&new.sender, transaction));
            draft.batch.put(row);
        }
        if let Some(delayed) = &new.delayed {
            self.finalise_with(&mut draft.batch, delayed, Outcome::Sent(event.id().as_str()));
        }
        self.commit(room, draft).await?;
        Ok(event.id().clone())
    }

    /// The current state event, if the new one would say the same again.
    async fn same_state(&self, draft: &Draft<'_>, new: &NewEvent) -> Result<Option<Arc<Event>>> {
        let Some(state_key) = &new.state_key else { return Ok(None) };
        let pairs = [crate::state::type_key(&new.kind, state_key)];
        let state = self.state_map(draft.room, Some(&draft.overlay), draft.head.state, &pairs).await?;
        let current = state.event(&new.kind, state_key).cloned();
        Ok(current.filter(|event| {
            let same = event.pdu.content == new.content && event.row.sender == new.sender;
            // Who wants it to be sticky wants that to begin anew.
            same && new.sticky_ms.is_none()
        }))
    }

    /// Builds an event on the draft's head, judges it like any other, and appends it.
    pub(crate) async fn append_local(&self, draft: &mut Draft<'_>, new: &NewEvent) -> Result<Arc<Event>> {
        let (verified, auth) = self.build_local(draft, new).await?;
        let judged = if draft.head.extremities.len() <= PREV_EVENTS_MAX {
            // It names every extremity and was checked against the state that these resolve to, which is both the state
            // before it and the current state, and its auth events were chosen from that: nothing is left to judge.
            Judged::on_head(draft, verified.pdu(), auth)
        } else {
            judge(draft, verified.pdu()).await?
        };
        self.append_judged(draft, judged, new).await
    }

    async fn append_judged(&self, draft: &mut Draft<'_>, mut judged: Judged, new: &NewEvent) -> Result<Arc<Event>> {
        if judged.flags & flags::HIDDEN != 0 {
            return Err(Error::Forbidden(judged.reason.unwrap_or_else(|| "the event is not allowed".to_owned())));
        }
        judged.transaction = match (&new.transaction, &new.delayed) {
            (Some(transaction), _) => Some(format!("{}\n{}", transaction.device, transaction.txn_id)),
            (None, Some(delayed)) => Some(delayed.row.delay_id.clone()),
            (None, None) => None,
        };
        self.place_redaction(draft, &mut judged).await?;
        let event = draft.append(judged).await?;
        self.apply_redactions(draft, &event).await?;
        Ok(event)
    }

    pub(crate) async fn build_local(&self, draft: &Draft<'_>, new: &NewEvent) -> Result<(Verified, Vec<EventNum>)> {
        let room = draft.room;
        let pairs =
            auth_rules::auth_types(room.rules, new.sender.as_str(), &new.kind, new.state_key.as_deref(), &new.content);
        let state = self.state_map(room, Some(&draft.overlay), draft.head.state, &pairs).await?;
        let auth_events = state.0.values().map(|event| event.id().clone()).collect();
        let prev = newest(&draft.head.extremities);
        let template = Template {
            room_id: Some(room_id(&room.id)?),
            sender: new.sender.to_string(),
            kind: new.kind.clone(),
            state_key: new.state_key.clone(),
            content: new.content.clone(),
            redacts: new.redacts.clone(),
            prev_events: prev.iter().map(|extremity| extremity.id.clone()).collect(),
            auth_events,
            depth: Template::next_depth(prev.iter().map(|extremity| extremity.depth)),
            origin_server_ts: new.ts.unwrap_or_else(|| self.clock.now_ms()),
            sticky_ms: new.sticky_ms,
            opaque_id: (!room.rules.event_id_is_hash()).then(|| self.opaque_id()),
            ..Template::default()
        };
        // The rules first: what they refuse need not be signed.
        auth_rules::check(room.rules, &template, &state, &room.create)
            .map_err(|denied| Error::Forbidden(denied.to_string()))?;
        let auth = state.0.values().map(|event| event.num()).collect();
        Ok((self.build(room.rules, template)?, auth))
    }

    /// Signs a template; the only caller of the signing function.
    pub(crate) fn build(&self, rules: &event::Rules, template: Template) -> Result<Verified> {
        event::build(rules, template, &self.key, self.server_name()).map_err(|error| match error {
            BuildError::TooLarge => Error::TooLarge(error.to_string()),
            BuildError::Format(event::FormatError::TooLong(_)) => Error::TooLarge(error.to_string()),
            other => Error::BadContent(other.to_string()),
        })
    }

    pub(crate) fn opaque_id(&self) -> String {
        store::clock::random_text(self.entropy.as_ref(), 18)
    }
}

/// Whether the policy server is not asked: the event that names it (see [`event::policy::is_exempt`]).
fn is_exempt(new: &NewEvent) -> bool {
    new.kind == "m.room.policy" && new.state_key.as_deref() == Some("")
}

/// The forward extremities that a new event names: all, or the newest if there are too many.
pub(crate) fn newest(extremities: &[Extremity]) -> Vec<&Extremity> {
    let mut newest: Vec<&Extremity> = extremities.iter().collect();
    newest.sort_by_key(|extremity| std::cmp::Reverse(extremity.depth));
    newest.truncate(PREV_EVENTS_MAX);
    newest
}

pub(crate) fn room_id(text: &str) -> Result<OwnedRoomId> {
    OwnedRoomId::try_from(text.to_owned()).map_err(|_| Error::NotInRoom)
}

pub(crate) fn transaction_key(sender: &UserId, transaction: &Transaction) -> Vec<store::Value> {
    vec![
        sender.into(),
        (&transaction.device).into(),
        transaction.path.as_str().into(),
        transaction.txn_id.as_str().into(),
    ]
}

pub(crate) fn transaction_row(
    sender: &UserId,
    transaction: &Transaction,
    answer: String,
    at_ms: i64,
) -> TransactionRow {
    TransactionRow {
        user_id: sender.clone(),
        device_id: transaction.device.clone(),
        path: transaction.path.clone(),
        txn_id: transaction.txn_id.clone(),
        answer,
        at_ms,
    }
}
