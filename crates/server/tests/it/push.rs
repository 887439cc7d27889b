//! Push notifications over HTTP: a whole server, a gateway that listens on a loopback port, and a clock that the test moves
//! (behaviours CP4 to CP9).

mod bounds;
mod by_mail;
mod gateway;
mod network;
mod numbers;
mod outage;
mod payload;
mod pushers;
mod shared;
mod world;

/// How a gateway's answer looks when all is well.
const FINE: (u16, &str) = (200, "{\"rejected\":[]}");
