//! `GET /metrics`: figures in the text form of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::CONTENT_TYPE;
use parking_lot::Mutex;
use push::Push;
use rooms::Rooms;
use store::{Follower, StreamEntry, StreamPosition};
use sync::Sync;
use users::Users;

/// Clock ticks per second in `/proc/self/stat`: fixed by Linux' interface to programs.
const TICKS_PER_S: f64 = 100.0;
/// How long figures out of the store are waited for.
const STORE_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of a page in `/proc/self/statm` on the platforms we run on.
const PAGE_BYTES: u64 = 4096;
/// The content type of Prometheus' text form.
const TEXT_FORM: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A route's method, path as declared, and status.
type Route = (String, String, u16);

#[derive(Clone, Copy, Default)]
struct Served {
    requests: u64,
    seconds: f64,
}

/// What is counted while the process runs.
#[derive(Default)]
pub struct Metrics {
    served: Mutex<BTreeMap<Route, Served>>,
    in_flight: AtomicI64,
    publications: AtomicU64,
    entries: AtomicU64,
    position: AtomicI64,
}

impl Follower for Metrics {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        let count = entries.len() as u64;
        self.publications.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(count, Ordering::Relaxed);
        self.position.store(first.0 + entries.len() as i64 - 1, Ordering::Relaxed);
    }
}

/// Takes a request that is being served back out of the count, also if its client went away.
struct InFlight<'a>(&'a AtomicI64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts requests: a layer around all routes.
pub async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    metrics.in_flight.fetch_add(1, Ordering::Relaxed);
    let in_flight = InFlight(&metrics.in_flight);
    // The declared path, never the real one: that would be a label without bound, with ids in it.
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str).to_owned();
    let method = known_method(request.method());
    let response = next.run(request).await;
    drop(in_flight);
    let mut served = metrics.served.lock();
    let route = served.entry((method.to_owned(), path, response.status().as_u16())).or_default();
    route.requests += 1;
    route.seconds += started.elapsed().as_secs_f64();
    response
}

/// A method's name; those that no route has share one, since a client can invent any.
fn known_method(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// The route of this file.
pub fn routes(
    metrics: Arc<Metrics>,
    sync: Arc<Sync>,
    rooms: Arc<Rooms>,
    users: Arc<Users>,
    push: Option<Arc<Push>>,
) -> Router {
    Router::new().route("/metrics", get(show)).with_state((metrics, sync, rooms, users, push))
}

/// Where figures come from.
type Sources = (Arc<Metrics>, Arc<Sync>, Arc<Rooms>, Arc<Users>, Option<Arc<Push>>);

async fn show(State((metrics, sync, rooms, users, push)): State<Sources>) -> Response {
    let mut text = metrics.text(sync.waker().n_waiting());
    let help = "To-device messages of other servers that were dropped, because too many of the same sender waited.";
    one(&mut text, "hearth_to_device_dropped_total", "counter", help, &users.to_device_dropped().to_string());
    if let Some(push) = push {
        add_push(&mut text, &push.report());
    }
    if let Some(report) = users.mail_report() {
        add_mails(&mut text, &report);
    }
    // The other figures are worth having when the store does not answer.
    if let Ok(Ok(partial)) = tokio::time::timeout(STORE_PATIENCE, rooms.partial_since()).await {
        let help = "Rooms that were joined with part of their state, of which the rest is being fetched.";
        one(&mut text, "hearth_rooms_partial", "gauge", help, &partial.len().to_string());
    }
    ([(CONTENT_TYPE, TEXT_FORM)], text).into_response()
}

impl Metrics {
    /// All figures; `waiting` is the number of syncs that wait for something new.
    pub fn text(&self, waiting: usize) -> String {
        let mut text = String::new();
        process(&mut text);
        one(
            &mut text,
            "hearth_sync_waiting",
            "gauge",
            "Users with a sync that waits for something new.",
            &waiting.to_string(),
        );
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        let signed = |gauge: &AtomicI64| gauge.load(Ordering::Relaxed).to_string();
        one(&mut text, "hearth_http_requests_in_flight", "gauge", "Requests being served.", &signed(&self.in_flight));
        let help = "Groups of commits that were published.";
        one(&mut text, "hearth_store_publications_total", "counter", help, &load(&self.publications));
        let help = "Entries of the stream that were committed.";
        one(&mut text, "hearth_store_stream_entries_total", "counter", help, &load(&self.entries));
        let help = "Last position of the stream that was published since the start.";
        one(&mut text, "hearth_store_stream_position", "gauge", help, &signed(&self.position));
        self.write_served(&mut text);
        text
    }

    fn write_served(&self, text: &mut String) {
        let served = self.served.lock().clone();
        head(text, "hearth_http_requests_total", "counter", "Answered requests by route and status.");
        for ((method, route, status), of) in &served {
            let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
            let _ = writeln!(text, "hearth_http_requests_total{{{labels}}} {}", of.requests);
        }
        head(text, "hearth_http_request_seconds_total", "counter", "Time until the answer's head, summed up.");
        for ((method, route, status), of) in &served {
            let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
            let _ = writeln!(text, "hearth_http_request_seconds_total{{{labels}}} {:.6}", of.seconds);
        }
    }
}

fn add_mails(text: &mut String, report: &users::email::queue::Report) {
    let mut add = |name, kind, help, value: usize| one(text, name, kind, help, &value.to_string());
    add("hearth_mails_waiting", "gauge", "Mails that wait for the mail server.", report.waiting);
    add("hearth_mails_sent_total", "counter", "Mails that the mail server took.", report.sent);
    add("hearth_mails_failed_total", "counter", "Tries to send a mail that failed.", report.failed);
}

fn add_push(text: &mut String, report: &push::Report) {
    let mut add = |name, kind, help, value: usize| one(text, name, kind, help, &value.to_string());
    add("hearth_pushers", "gauge", "Pushers that this node serves.", report.pushers);
    let help = "Pushers whose gateway did not take the last push.";
    add("hearth_pushers_failing", "gauge", help, report.failing);
    add("hearth_pushes_delivered_total", "counter", "Pushes that gateways took.", report.delivered);
    add(
        "hearth_pushes_failed_total",
        "counter",
        "Pushes that gateways did not take; they are tried again.",
        report.failed,
    );
    add(
        "hearth_pushers_rejected_total",
        "counter",
        "Pushers that gateways rejected, and that are gone.",
        report.rejected,
    );
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn one(text: &mut String, name: &str, kind: &str, help: &str, value: &str) {
    head(text, name, kind, help);
    let _ = writeln!(text, "{name} {value}");
}

/// What the system knows of the process. Left out where `/proc` does not say.
fn process(text: &mut String) {
    if let Some(seconds) = cpu_seconds() {
        let help = "User and system time of the process.";
        one(text, "process_cpu_seconds_total", "counter", help, &format!("{seconds:.2}"));
    }
    if let Some(bytes) = resident_bytes() {
        one(text, "process_resident_memory_bytes", "gauge", "Resident memory.", &bytes.to_string());
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        one(text, "process_open_fds", "gauge", "Open files and sockets.", &files.count().to_string());
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_S)
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}
