//! The extension of sticky events (MSC4480), which has a token of its own, like that of messages for the device.

use std::collections::BTreeMap;

use rooms::Event;
use store::tables::rooms::StickyRow;
use store::{RoomNum, StreamPosition};

use crate::json::{Object, array};
use crate::sliding::Context;
use crate::sliding::extensions::{Making, acknowledged};
use crate::sliding::request::ToDevice;
use crate::{Error, Sync};

/// Most sticky events of one answer.
const STICKY_MAX: u64 = 100;

impl Sync {
    /// What is new since the extension's own token, of a room that was joined since then all.
    pub(super) async fn extend_sticky(
        &self,
        ctx: &Context<'_>,
        wish: &ToDevice,
        making: &mut Making<'_>,
    ) -> Result<(), Error> {
        if !self.rooms.may_have_sticky() {
            return Ok(());
        }
        let since = acknowledged(wish, ctx.upto);
        let joined = |room: &RoomNum| ctx.memberships.rows.get(room).filter(|row| row.membership == "join");
        let is_old = |room: &RoomNum| joined(room).is_some_and(|row| row.joined_pos <= since);
        let mut rows = self.rooms.sticky_since(since, ctx.upto).await?;
        rows.retain(|row| joined(&row.room).is_some());
        let limit = usize::try_from(wish.limit.unwrap_or(STICKY_MAX).clamp(1, STICKY_MAX)).unwrap_or(1);
        let next = match rows.get(limit) {
            Some(_) => rows.get(limit - 1).and_then(|row| row.pos).unwrap_or(ctx.upto),
            None => ctx.upto,
        };
        rows.truncate(limit);
        rows.retain(|row| since == StreamPosition::ZERO || is_old(&row.room));
        let came = ctx.memberships.rows.values().filter(|row| since > StreamPosition::ZERO && row.joined_pos > since);
        for row in came.filter(|row| row.membership == "join" && row.joined_pos <= next) {
            rows.extend(self.rooms.sticky_in(row.room, next).await?);
        }
        if rows.is_empty() && next == ctx.upto {
            return Ok(());
        }
        let mut by_room: BTreeMap<RoomNum, Vec<StickyRow>> = BTreeMap::new();
        for row in rows {
            by_room.entry(row.room).or_default().push(row);
        }
        let (mut rooms, mut extension) = (Object::new(), Object::new());
        for (num, rows) in by_room {
            let Some(room) = self.rooms.room_by_num(num).await? else { continue };
            let shown = Context::shown(making.visits.get(&num).and_then(|visit| visit.answer.as_ref()));
            let is_shown = |event: &Event| shown.contains(event.id().as_str());
            let events = self.sticky_events(&room, &rows, ctx.ignored, is_shown).await?;
            if !events.is_empty() {
                let rendered = self.rooms.render_states(&room, &events, &ctx.rendering()).await?;
                rooms.raw(&room.id, &format!("{{\"events\":{}}}", array(&rendered)));
            }
        }
        let news = !rooms.is_empty();
        extension.text("next_batch", &format!("s{next}")).object("rooms", rooms);
        making.add("org.matrix.msc4354.sticky_events", extension, news);
        Ok(())
    }
}
