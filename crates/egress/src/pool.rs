//! Open connections, kept for the next request to the same service: a service is the name in the certificate, the
//! `Host` header and the port.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::{Error, Route};

/// Requests to one service at a time; more wait.
pub const REQUESTS_PER_SERVICE_MAX: usize = 32;
/// Requests to all services at a time; more wait.
pub const REQUESTS_MAX: usize = 1_024;
/// HTTP/1.1 connections of one service that are kept idle.
const IDLE_PER_SERVICE_MAX: usize = 4;
/// Services whose connections are kept.
const SERVICES_MAX: usize = 512;
/// A connection that nobody used for so long is closed: most servers close theirs after a minute.
const IDLE_MAX: Duration = Duration::from_secs(50);
/// How often idle connections are looked through, at most.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// What distinguishes services.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    certificate: Option<ServerName<'static>>,
    host: String,
    ports: Vec<u16>,
}

impl Key {
    pub(crate) fn of(route: &Route) -> Self {
        let ports = route.endpoints.iter().map(|endpoint| endpoint.port).collect();
        Self { certificate: route.certificate.clone(), host: route.host.clone(), ports }
    }
}

struct Service {
    idle: VecDeque<(http1::SendRequest<Full<Bytes>>, Instant)>,
    shared: Option<(http2::SendRequest<Full<Bytes>>, Instant)>,
    places: Arc<Semaphore>,
}

impl Service {
    fn new() -> Self {
        Self { idle: VecDeque::new(), shared: None, places: Arc::new(Semaphore::new(REQUESTS_PER_SERVICE_MAX)) }
    }

    /// Whether anything of it is still of use.
    fn sweep(&mut self, now: Instant) -> bool {
        let fresh = |since: &Instant| now.saturating_duration_since(*since) < IDLE_MAX;
        self.idle.retain(|(sender, since)| fresh(since) && !sender.is_closed());
        // Requests that use it go on.
        if self.shared.as_ref().is_some_and(|(sender, since)| sender.is_closed() || !fresh(since)) {
            self.shared = None;
        }
        // Whoever waits for a place or holds one has a share of the semaphore.
        Arc::strong_count(&self.places) > 1 || self.shared.is_some() || !self.idle.is_empty()
    }
}

struct Services {
    by_key: HashMap<Key, Service>,
    swept: Instant,
}

/// The pool.
#[derive(Clone)]
pub(crate) struct Pool {
    services: Arc<Mutex<Services>>,
    places: Arc<Semaphore>,
}

/// A place among the requests of a service, held until the body of the answer ends.
pub(crate) struct Place {
    _of_service: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn new() -> Self {
        let services = Services { by_key: HashMap::new(), swept: Instant::now() };
        Self { services: Arc::new(Mutex::new(services)), places: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }

    /// Waits for a place.
    pub(crate) async fn place(&self, key: &Key) -> Result<Place, Error> {
        let closed = |_| Error::Connection("shutting down".to_owned());
        let of_service = {
            let mut services = self.services.lock();
            services.sweep_sometimes();
            Arc::clone(&services.by_key.entry(key.clone()).or_insert_with(Service::new).places)
        };
        // First among those of the same service, so that one slow service does not hold the places of all.
        let of_service = of_service.acquire_owned().await.map_err(closed)?;
        let of_all = Arc::clone(&self.places).acquire_owned().await.map_err(closed)?;
        Ok(Place { _of_service: of_service, _of_all: of_all })
    }

    /// An open connection, if there is one.
    pub(crate) fn take(&self, key: &Key) -> Option<Connection> {
        let now = Instant::now();
        let mut services = self.services.lock();
        let service = services.by_key.get_mut(key)?;
        service.sweep(now);
        if let Some((sender, since)) = &mut service.shared {
            *since = now;
            return Some(Connection::Two(sender.clone()));
        }
        service.idle.pop_back().map(|(sender, _)| Connection::One(sender))
    }

    /// Keeps a connection that can be shared.
    pub(crate) fn share(&self, key: &Key, sender: http2::SendRequest<Full<Bytes>>) {
        if let Some(service) = self.services.lock().by_key.get_mut(key) {
            service.shared = Some((sender, Instant::now()));
        }
    }

    /// Closes all connections of a service.
    pub(crate) fn close(&self, key: &Key) {
        if let Some(service) = self.services.lock().by_key.get_mut(key) {
            service.idle.clear();
            service.shared = None;
        }
    }

    fn give_back(&self, key: &Key, sender: http1::SendRequest<Full<Bytes>>) {
        let mut services = self.services.lock();
        services.sweep_sometimes();
        let Some(service) = services.by_key.get_mut(key) else { return };
        if !sender.is_closed() {
            service.idle.push_back((sender, Instant::now()));
            if service.idle.len() > IDLE_PER_SERVICE_MAX {
                service.idle.pop_front();
            }
        }
    }
}

impl Services {
    fn sweep_sometimes(&mut self) {
        let now = Instant::now();
        let due = now.saturating_duration_since(self.swept) >= SWEEP_EVERY;
        if !due && self.by_key.len() < SERVICES_MAX {
            return;
        }
        self.swept = now;
        self.by_key.retain(|_, service| service.sweep(now));
        // Above the bound, what is idle goes although it is fresh.
        if self.by_key.len() >= SERVICES_MAX {
            self.by_key.retain(|_, service| Arc::strong_count(&service.places) > 1);
        }
    }
}

/// A connection in use, and the place that its request takes.
pub(crate) struct Lease {
    pub(crate) pool: Pool,
    pub(crate) key: Key,
    /// The HTTP/1.1 connection, to be given back; a shared one stays in the pool.
    pub(crate) sender: Option<http1::SendRequest<Full<Bytes>>>,
    pub(crate) place: Place,
}

impl Lease {
    /// The answer has been read to its end.
    pub(crate) fn give_back(self) {
        let Self { pool, key, sender, place } = self;
        if let Some(sender) = sender {
            pool.give_back(&key, sender);
        }
        drop(place);
    }
}
