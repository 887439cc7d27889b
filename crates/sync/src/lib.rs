//! "What is new for this device since this token": the one engine behind `/sync`.

pub mod changes;
pub mod device_lists;
pub mod error;
pub mod fields;
pub mod filter;
pub mod json;
mod known;
pub mod lazy_members;
mod lost;
pub mod notifications;
pub mod presence;
pub mod room_section;
pub mod sliding;
pub mod state_delta;
pub mod token;
pub mod v3;
pub mod wake;

use std::sync::Arc;

use rooms::Rooms;
use store::tables::core::LostPositions;
use store::{Follower, Store, StreamPosition};
use users::Users;

pub use device_lists::DeviceLists;
pub use error::Error;
pub use filter::{EventFilter, Filter, RoomFilter};
pub use token::Token;
pub use v3::Request;

use crate::changes::Changes;
use crate::known::Known;
use crate::lazy_members::LazyMembers;
use crate::sliding::connection::States;
use crate::sliding::turns::Turns;
use crate::sliding::typing::Typing;
use crate::wake::{WakeFollower, Waker};

/// The sync engine.
pub struct Sync {
    pub(crate) store: Store,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) users: Arc<Users>,
    pub(crate) waker: Arc<Waker>,
    pub(crate) lazy: LazyMembers,
    pub(crate) changes: Arc<Changes>,
    pub(crate) known: Arc<Known>,
    /// What connections of sliding sync have been sent.
    pub(crate) connections: States,
    /// The newest requests of these.
    pub(crate) turns: Arc<Turns>,
    /// What they show of who types.
    pub(crate) typing: Typing,
    /// The watermark when this engine began to follow the stream.
    pub(crate) began: StreamPosition,
    /// Positions of lost futures, once read.
    pub(crate) lost: tokio::sync::OnceCell<LostPositions>,
}

impl Sync {
    /// The engine on the rooms below it. Must be made after [`Rooms`], whose follower comes first: who is woken depends
    /// on who is in a room after the commit.
    pub fn new(store: Store, rooms: Arc<Rooms>, users: Arc<Users>) -> Arc<Self> {
        Self::following(store, rooms, users, |follower| follower)
    }

    /// The same, with the follower of the stream put into another: for tests of what happens if it is not told.
    pub fn following(
        store: Store,
        rooms: Arc<Rooms>,
        users: Arc<Users>,
        wrap: impl FnOnce(Arc<dyn Follower>) -> Arc<dyn Follower>,
    ) -> Arc<Self> {
        let waker = Arc::new(Waker::default());
        let (changes, known) = (Arc::new(Changes::default()), Arc::new(Known::default()));
        let follower = Arc::new(WakeFollower {
            waker: Arc::clone(&waker),
            rooms: Arc::downgrade(&rooms),
            changes: Arc::clone(&changes),
            known: Arc::clone(&known),
        });
        store.notifier().add_follower(wrap(Arc::<WakeFollower>::clone(&follower)));
        let (began, lost) = (store.watermark(), tokio::sync::OnceCell::new());
        changes.begin(began);
        users.volatile().add_follower(follower);
        let (lazy, connections) = (LazyMembers::default(), States::default());
        let (turns, typing) = (Arc::default(), Typing::default());
        Arc::new(Self { store, rooms, users, waker, lazy, changes, known, connections, turns, typing, began, lost })
    }

    /// The waiting syncs.
    pub fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }
}
