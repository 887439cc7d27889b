//! Rooms: what happens to an event from its arrival to the room state after it.

pub mod auth_graph;
pub mod packed;
pub mod state_tree;
