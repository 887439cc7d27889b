//! Stories of other servers and this one, by the numbers of the behaviours: a server on the in-memory store, and peers
//! with keys of their own behind a simulated network.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod completion;
mod content_repository;
mod discovery;
mod harness;
mod history;
mod hostile;
mod inbound;
mod joining;
mod key_routes;
mod keys;
mod network;
mod outage;
mod outbound;
mod receive;
mod remote_devices;
mod senders;
mod sending;
mod sticky;
mod trust;
mod verify;
mod x_matrix;

#[path = "../../../egress/tests/it/dns_server.rs"]
mod dns_server;
#[path = "../../../egress/tests/it/tls_server.rs"]
#[expect(dead_code, reason = "the tests of `egress` use more of it")]
mod tls_server;
