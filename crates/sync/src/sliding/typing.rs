//! Who types, as far as a connection shows it (MSC3961). A change is told when it happens, to those who look at the room;
//! whoever looks away is told when it looks at the room again. What was told is volatile, as typing is, and kept in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use quick_cache::sync::Cache;
use serde_json::json;
use store::{DeviceId, RoomNum, UserId};

use crate::json::Object;
use crate::sliding::Context;
use crate::sliding::extensions::Making;
use crate::sliding::pos::Pos;
use crate::sliding::request::Scope;
use crate::{Error, Sync};

/// Connections of which it is kept what they show.
const CONNECTIONS_MAX: usize = 1_000;

/// What a connection showed after an answer.
#[derive(Clone, Default)]
struct Shown {
    /// The rooms of which it was told who types, in order.
    rooms: Arc<[RoomNum]>,
    /// Those of all rooms in which it believes somebody to type.
    busy: Arc<BTreeSet<RoomNum>>,
}

/// The last request of a connection.
struct Last {
    /// The position from which it asked. It may ask there again, if the answer was lost.
    asked: Option<Pos>,
    before: Shown,
    after: Shown,
}

/// What connections show of who types, by user and name of the connection.
pub(crate) struct Typing(Cache<(UserId, DeviceId), Arc<Last>>);

impl Default for Typing {
    fn default() -> Self {
        Self(Cache::new(CONNECTIONS_MAX))
    }
}

impl Typing {
    fn shown(&self, ctx: &Context<'_>) -> Shown {
        let key = (ctx.request.user.clone(), ctx.lazy_device.clone());
        match self.0.get(&key).filter(|_| ctx.pos.is_some()) {
            Some(last) if last.asked.as_ref() == ctx.pos => last.before.clone(),
            Some(last) => last.after.clone(),
            None => Shown::default(),
        }
    }

    /// An answer has the position from which was asked. A request from there goes on with it.
    pub fn stays(&self, ctx: &Context<'_>) {
        let key = (ctx.request.user.clone(), ctx.lazy_device.clone());
        if let Some(last) = self.0.get(&key).filter(|last| last.asked.is_some()) {
            self.0.insert(key, Arc::new(Last { asked: None, before: last.after.clone(), after: last.after.clone() }));
        }
    }

    fn note(&self, ctx: &Context<'_>, before: Shown, after: Shown) {
        let key = (ctx.request.user.clone(), ctx.lazy_device.clone());
        self.0.insert(key, Arc::new(Last { asked: ctx.pos.cloned(), before, after }));
    }
}

impl Sync {
    /// Tells who types in the rooms of the scope.
    pub(crate) async fn extend_typing(
        &self,
        ctx: &Context<'_>,
        scope: &Scope,
        making: &mut Making<'_>,
    ) -> Result<(), Error> {
        let shown = self.typing.shown(ctx);
        let (mut rooms, mut looked_at, mut busy) = (Object::new(), Vec::new(), BTreeSet::clone(&shown.busy));
        for room in self.within(ctx, scope, making).await? {
            if !ctx.is_joined(room) || !making.step.sent(ctx.state, room).is_some_and(|sent| sent.joined) {
                continue;
            }
            looked_at.push(room);
            let answer = making.visits.get(&room).and_then(|visit| visit.answer.as_ref());
            let is_initial = answer.is_some_and(|one| one.initial);
            let is_new = is_initial || shown.rooms.binary_search(&room).is_err();
            let changed = self.users.typing_since(room, ctx.number).filter(|_| !is_initial);
            let typing = match (ctx.typing_is_lost, is_new) {
                (true, _) => Some(self.users.typing_in(room)),
                // What the connection showed may be forgotten.
                (false, true) => changed.or_else(|| {
                    Some(self.users.typing_in(room)).filter(|users| !users.is_empty() || busy.contains(&room))
                }),
                (false, false) => changed,
            };
            if let (Some(typing), Some(room_id)) = (typing, self.room_id(room).await?) {
                let users: Vec<&UserId> = typing.iter().filter(|user| !ctx.ignored.contains(user.as_str())).collect();
                rooms.raw(&room_id, &json!({ "type": "m.typing", "content": { "user_ids": users } }).to_string());
                match users.is_empty() {
                    true => busy.remove(&room),
                    false => busy.insert(room),
                };
            }
        }
        let busy = if busy == *shown.busy { Arc::clone(&shown.busy) } else { Arc::new(busy) };
        let rooms_now = if looked_at == *shown.rooms { Arc::clone(&shown.rooms) } else { looked_at.into() };
        self.typing.note(ctx, shown, Shown { rooms: rooms_now, busy });
        if !rooms.is_empty() {
            let mut extension = Object::new();
            extension.object("rooms", rooms);
            making.add("typing", extension, true);
        }
        Ok(())
    }
}
