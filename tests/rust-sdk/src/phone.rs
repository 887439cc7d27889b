//! A client made of the SDK, as an app on a phone would be, and what its user sees: the list of rooms, and events.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use matrix_sdk::ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use matrix_sdk::sliding_sync::VersionBuilder;
use matrix_sdk::{Client, Room, RoomState};
use matrix_sdk_ui::eyeball_im::{Vector, VectorDiff};
use matrix_sdk_ui::room_list_service::filters::new_filter_non_left;
use matrix_sdk_ui::room_list_service::{RoomList, RoomListItem, RoomListLoadingState, RoomListService};
use matrix_sdk_ui::sync_service::{State, SyncService};
use matrix_sdk_ui::timeline::{RoomExt, TimelineItem};

use crate::checks::{Fallible, within};
use crate::front::Front;
use crate::hearth::Hearth;
use crate::person::{PASSWORD, Person};

/// The connection of the list of rooms.
pub const ROOM_LIST: &str = "room-list";

/// The connection of keys and messages to devices.
pub const ENCRYPTION: &str = "encryption";

/// More rooms than there are.
const PAGE: usize = 1_000;

/// Events of a page of history.
const HISTORY: u16 = 20;

/// A signed-in client behind a front of its own.
pub struct Phone {
    /// What was said between it and the server.
    pub front: Front,
    /// The SDK.
    pub client: Client,
}

impl Phone {
    /// Signs in on a new device.
    pub async fn sign_in(hearth: &Hearth, person: &Person, device_id: &str) -> Fallible<Self> {
        let front = Front::open(hearth.base_url()).await?;
        let found = VersionBuilder::DiscoverNative;
        let client = Client::builder().homeserver_url(front.url()).sliding_sync_version_builder(found).build().await?;
        client.matrix_auth().login_username(&person.id, PASSWORD).device_id(device_id).send().await?;
        Ok(Self { front, client })
    }

    /// The service that syncs the list and keys, not started yet. It survives that the server cannot be reached.
    pub async fn service(&self) -> Fallible<SyncService> {
        Ok(SyncService::builder(self.client.clone()).with_offline_mode().build().await?)
    }

    /// The same user and device without the SDK, as another process of the app would be.
    pub fn other_process(&self, person: &Person) -> Fallible<Person> {
        let token = self.client.access_token().ok_or("not signed in")?;
        Ok(person.with_token(&token))
    }

    /// A room that must be known.
    pub fn room(&self, room_id: &RoomId) -> Fallible<Room> {
        Ok(self.client.get_room(room_id).ok_or_else(|| format!("{room_id} is not known"))?)
    }
}

/// The list as it is shown: rooms that were not left, in order.
pub struct View<'a> {
    shown: Vector<RoomListItem>,
    changes: Pin<Box<dyn Stream<Item = Vec<VectorDiff<RoomListItem>>> + 'a>>,
}

impl<'a> View<'a> {
    /// Looks at a list.
    pub fn of(list: &'a RoomList) -> Self {
        let (changes, controller) = list.entries_with_dynamic_adapters(PAGE);
        controller.set_filter(Box::new(new_filter_non_left()));
        Self { shown: Vector::new(), changes: Box::pin(changes) }
    }

    /// Waits until what is shown is as it should be.
    pub async fn until(&mut self, what: &str, fits: impl Fn(&Vector<RoomListItem>) -> bool) -> Fallible {
        let shown = async {
            while !fits(&self.shown) {
                let changes = self.changes.next().await.ok_or("the list ended")?;
                for change in changes {
                    change.apply(&mut self.shown);
                }
            }
            Ok(())
        };
        let outcome = within(what, shown).await;
        outcome.map_err(|error| format!("{error}; shown are {:?}", self.names()))?
    }

    /// The ids of the rooms, in order.
    pub fn ids(&self) -> Vec<OwnedRoomId> {
        ids(&self.shown)
    }

    fn names(&self) -> Vec<String> {
        self.shown.iter().map(|room| room.name().unwrap_or_else(|| room.room_id().to_string())).collect()
    }
}

/// The ids of rooms, in order.
pub fn ids(shown: &Vector<RoomListItem>) -> Vec<OwnedRoomId> {
    shown.iter().map(|room| room.room_id().to_owned()).collect()
}

/// Whether a room is shown with this membership.
pub fn shows(shown: &Vector<RoomListItem>, room_id: &RoomId, state: RoomState) -> bool {
    shown.iter().any(|room| room.room_id() == room_id && room.state() == state)
}

/// Waits until the list knows how many rooms there are.
pub async fn counts(list: &RoomList, expected: u32) -> Fallible {
    let mut states = list.loading_state();
    let known = RoomListLoadingState::Loaded { maximum_number_of_rooms: Some(expected) };
    let counted = async {
        while states.next().await.ok_or("the list ended")? != known {}
        Ok(())
    };
    within(&format!("{expected} rooms in the list's count"), counted).await?
}

/// Waits until the service is in a state.
pub async fn in_state(service: &SyncService, what: &str, fits: impl Fn(&State) -> bool) -> Fallible {
    let mut states = service.state();
    let came = async {
        while !fits(&states.get()) {
            states.next().await.ok_or("the service ended")?;
        }
        Ok(())
    };
    within(what, came).await?
}

/// Waits until the list is synced as a whole.
pub async fn is_running(service: &RoomListService) -> Fallible {
    let mut states = service.state();
    let came = async {
        while states.get() != matrix_sdk_ui::room_list_service::State::Running {
            states.next().await.ok_or("the service ended")?;
        }
        Ok(())
    };
    within("the list of all rooms", came).await?
}

/// Waits until a room is as it should be.
pub async fn room_until(room: &Room, what: &str, fits: impl Fn(&Room) -> bool) -> Fallible {
    let mut changes = room.subscribe_info();
    let came = async {
        while !fits(room) {
            changes.next().await.ok_or("the room ended")?;
        }
        Ok(())
    };
    within(what, came).await?
}

/// Waits until the client has an event of a room.
pub async fn has_event(room: &Room, event_id: &OwnedEventId) -> Fallible {
    let (cache, _drop_handles) = room.event_cache().await?;
    let (mut events, mut changes) = cache.subscribe().await?;
    let came = async {
        while !events.iter().any(|event| event.event_id().as_ref() == Some(event_id)) {
            changes.recv().await?;
            events = cache.events().await?;
        }
        Ok(())
    };
    within(&format!("the event {event_id}"), came).await?
}

/// The messages that the client has of a room without asking for history, in order.
pub async fn messages_held(room: &Room) -> Fallible<Vec<OwnedEventId>> {
    let (cache, _drop_handles) = room.event_cache().await?;
    let is_message = |raw: &str| raw.contains("\"m.room.message\"");
    let events = cache.events().await?;
    Ok(events
        .iter()
        .filter(|event| is_message(event.raw().json().get()))
        .filter_map(|event| event.event_id())
        .collect())
}

/// Waits until the timeline of a room, from its beginning on, shows these messages and no others, each once. `forgotten` is
/// left out: the server knows it no more, and the client may.
pub async fn shows_messages(room: &Room, expected: &[OwnedEventId], forgotten: Option<&EventId>) -> Fallible {
    let timeline = room.timeline().await?;
    let (mut items, mut changes) = timeline.subscribe().await;
    let to_the_start = async {
        while !timeline.paginate_backwards(HISTORY).await? {}
        Fallible::Ok(())
    };
    within("the beginning of the room", to_the_start).await??;
    let mut seen = messages(&items, forgotten);
    let shown = async {
        while seen != expected {
            for change in changes.next().await.ok_or("the timeline ended")? {
                change.apply(&mut items);
            }
            seen = messages(&items, forgotten);
        }
        Fallible::Ok(())
    };
    let outcome = within("the messages of the room", shown).await;
    outcome.map_err(|error| format!("{error}: {seen:?} instead of {expected:?}"))?
}

/// The ids of the messages among the items of a timeline.
fn messages(items: &Vector<Arc<TimelineItem>>, forgotten: Option<&EventId>) -> Vec<OwnedEventId> {
    let events = items.iter().filter_map(|item| item.as_event()).filter(|event| event.content().is_message());
    let ids = events.filter_map(|event| event.event_id());
    ids.filter(|id| Some(*id) != forgotten).map(ToOwned::to_owned).collect()
}
