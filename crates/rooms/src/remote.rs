//! The half of the engine that deals with other servers: joining their rooms, events that are known only by reference,
//! history from before, and what this server answers them as a resident of a room.

mod handshakes;
mod history;
mod import;
mod invites;
pub mod left_out;
mod lookup;
mod membership;
mod outliers;
pub mod partial;
mod reading;
mod residents;
mod resync;
mod templates;
mod viewer;
mod walk;

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::Rooms;

pub use handshakes::read_template;
pub use history::HISTORY_MAX;
pub use import::Import;
pub use membership::RemoteMembership;
pub use reading::StateNums;
pub use resync::MissingEvent;
pub use templates::{JoinPermit, Template, TemplateError};
pub use viewer::{ServerViewer, Sight};

impl Rooms {
    /// What keeps two changes of one room from outside apart: joins through other servers, and memberships without.
    fn remote_stripe(&self, room_id: &str) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        room_id.hash(&mut hasher);
        let stripes = &self.remote_stripes;
        &stripes[usize::try_from(hasher.finish() % stripes.len() as u64).unwrap_or(0)]
    }
}
