//! The whole database: every table, in one list.
//!
//! [`core`] holds what the store itself needs; [`rooms`], [`users`], [`media`], [`push`], [`search`] and [`federation`]
//! belong to the rooms of those names, and only they write them. [`mail`] is of `users`.

pub mod core;
pub mod federation;
pub mod mail;
pub mod media;
pub mod push;
pub mod rooms;
pub mod search;
pub mod users;

use crate::Table;

/// The number of the schema that these declarations describe; raised with each change of it.
pub const SCHEMA_VERSION: i64 = 1;

/// Every table, in the order in which they are created and moved.
pub fn all() -> Vec<&'static Table> {
    let of_rooms = [rooms::TABLES, users::TABLES, mail::TABLES, media::TABLES, federation::TABLES, push::TABLES];
    [&[core::TABLES], &of_rooms[..], &[search::TABLES]].concat().concat()
}
