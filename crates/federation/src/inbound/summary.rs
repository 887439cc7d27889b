//! Which servers may know of a room that is described to them.

use endpoint::Error;
use rooms::summary::Summary;

use crate::Federation;

/// Whether some user of a server may know of the room: it has members in the room or invited, anybody can join, knock or
/// read it, or it has members in a room that lets in.
pub(super) async fn is_accessible(federation: &Federation, summary: &Summary<'_>, server: &str) -> Result<bool, Error> {
    if summary.open_to_all() || summary.world_readable() || summary.room().has_server(server) {
        return Ok(true);
    }
    for allowed in summary.allowed_rooms() {
        let room = federation.resident_room(allowed).await?;
        if room.is_some_and(|room| room.has_server(server)) {
            return Ok(true);
        }
    }
    Ok(false)
}
