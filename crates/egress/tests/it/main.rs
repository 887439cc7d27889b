//! The client against servers on loopback addresses with certificates of the tests' own authority.

#![expect(clippy::unwrap_used, reason = "tests")]

mod dns_server;
mod hostile;
mod requests;
mod tls_server;
