//! Joining a room through another server, whose answer is read as it comes (behaviour FJ4).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use event::Object;
use federation::Error;
use federation::client::{Client, Reach};
use federation::handshakes::Handshakes;
use federation::transport::{Incoming, Outgoing, Transport, TransportError};
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use rooms::Room;

use crate::harness::{Net, TestClock, World, key};

/// Members of the room besides its creator: more than one chunk of events.
pub const MEMBERS: usize = 230;
/// Bytes of a piece of an answer: no event ends where a piece does.
const PIECE: usize = 997;

/// A network in which answers with a room's state come in pieces, the first of them not to the end.
struct Pieces {
    net: Arc<Net>,
    /// How many answers break off before their last event.
    broken: AtomicUsize,
}

#[async_trait]
impl Transport for Pieces {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        let path = &request.path_and_query;
        let is_state = path.contains("/send_join/") || path.contains("/federation/v1/state/");
        let answer = self.net.send(request).await?;
        if !is_state {
            return Ok(answer);
        }
        let mut whole = answer.body.collect().await?.to_bytes();
        let breaks = self.broken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if breaks.is_ok() {
            whole.truncate(whole.len() / 2);
        }
        let pieces: Vec<Result<Frame<Bytes>, Infallible>> =
            whole.chunks(PIECE).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        let body = StreamBody::new(stream::iter(pieces)).map_err(|never| match never {}).boxed_unsync();
        Ok(Incoming { body, ..answer })
    }
}

/// A resident with a room of many members, and one that is to join.
pub async fn worlds() -> (World, World, Arc<Room>) {
    let (net, clock) = (Arc::<Net>::default(), Arc::<TestClock>::default());
    let one = World::named("one.test", &net, &clock).await;
    let two = World::named("two.test", &net, &clock).await;
    let room = one.room("11").await;
    for n in 0..MEMBERS {
        one.rooms.join(&room.id, &one.user(&format!("user{n}")), None, Object::new()).await.unwrap();
    }
    let room = one.now(&room).await;
    (one, two, room)
}

fn handshakes(world: &World, broken: usize) -> Handshakes {
    let net = Pieces { net: Arc::clone(&world.net), broken: AtomicUsize::new(broken) };
    let client = Client::new(&world.name, Arc::new(key(&world.name)), Arc::new(net), Reach::default());
    Handshakes::new(Arc::new(client), Arc::clone(&world.key_ring), Arc::clone(&world.rooms))
}

pub async fn state(world: &World, room_id: &str) -> BTreeSet<String> {
    let room = world.rooms.room(room_id).await.unwrap().unwrap();
    let state = world.rooms.whole_state(&room, room.head().state).await.unwrap();
    state.iter().map(|event| event.id().to_string()).collect()
}

/// A handshake of a user of the second server who was in the room before: then the resident is asked for all of it.
async fn leave_and_join(world: &World, room_id: &str, via: &str, broken: usize) -> federation::Result<()> {
    let bob = world.user("bob");
    world.rooms.leave(room_id, &bob, None).await.unwrap();
    handshakes(world, broken).join(room_id, &bob, &[via.to_owned()], &Object::new()).await.map(drop)
}

#[tokio::test]
async fn fj4_the_state_is_whole_however_the_answer_is_cut() {
    let (one, two, room) = worlds().await;
    let (bob, via) = (two.user("bob"), [one.name.clone()]);
    handshakes(&two, 0).join(&room.id, &bob, &via, &Object::new()).await.unwrap();
    leave_and_join(&two, &room.id, &one.name, 0).await.unwrap();
    let joined = state(&two, &room.id).await;
    assert_eq!(joined, state(&one, &room.id).await);
    assert!(joined.len() > MEMBERS, "{} events", joined.len());
    let head = two.rooms.room(&room.id).await.unwrap().unwrap().head();
    assert_eq!(two.federation.complete_rooms().await, 1, "of the first stay something is missing");
    assert_eq!(state(&two, &room.id).await, joined);
    assert_eq!(usize::try_from(head.row.joined).unwrap(), MEMBERS + 2);
}

#[tokio::test]
async fn fj4_an_answer_that_breaks_off_is_no_room_and_another_one_helps() {
    let (one, two, room) = worlds().await;
    let (bob, via) = (two.user("bob"), [one.name.clone()]);
    let refused = handshakes(&two, 1).join(&room.id, &bob, &via, &Object::new()).await;
    assert!(matches!(refused, Err(Error::Malformed { .. })), "{refused:?}");
    assert!(two.rooms.room(&room.id).await.unwrap().is_none());
    handshakes(&two, 0).join(&room.id, &bob, &via, &Object::new()).await.unwrap();
    let refused = leave_and_join(&two, &room.id, &one.name, 1).await;
    assert!(matches!(refused, Err(Error::Malformed { .. })), "{refused:?}");
    let head = two.rooms.room(&room.id).await.unwrap().unwrap().head();
    assert!(head.local.is_empty());
    handshakes(&two, 0).join(&room.id, &bob, &via, &Object::new()).await.unwrap();
    assert_eq!(state(&two, &room.id).await, state(&one, &room.id).await);
}
