//! The whisperer: passes what this node whispers to the others, several texts in one notification, and nothing twice.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::connection::{Connection, Fault, Hints, WHISPERS};
use crate::params::Param;
use crate::route::Route;

/// The most bytes of one notification; PostgreSQL takes fewer than 8,000.
const PAYLOAD_BYTES_MAX: usize = 7_900;

/// The most texts that are sent at once.
const TEXTS_MAX: usize = 1_000;

/// How long further texts are gathered after some were sent.
const PAUSE: Duration = Duration::from_millis(50);

/// How long one notification may take.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Notifications are a transaction too, but not worth an fsync.
const HASTE: &str = "SET synchronous_commit = off";

/// The whisperer's task.
pub struct Whisperer {
    /// Where PostgreSQL is.
    pub route: Route,
    /// What is to be told.
    pub texts: mpsc::Receiver<String>,
    /// Where the whispering connection is noted.
    pub hints: Hints,
    /// That connection, if it stands.
    pub connection: Option<Connection>,
}

impl Whisperer {
    /// Works until nobody can whisper any more.
    pub async fn run(mut self) {
        let mut texts = Vec::new();
        while self.texts.recv_many(&mut texts, TEXTS_MAX).await > 0 {
            if let Err(fault) = self.tell(payloads(texts.drain(..))).await {
                tracing::debug!(?fault, "whispers to the other nodes are lost");
                self.connection = None;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn tell(&mut self, payloads: Vec<String>) -> Result<(), Fault> {
        let connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => self.connection.insert(connection),
            None => {
                let connection = Connection::open(&self.route, None).await?;
                connection.execute(HASTE).await?;
                self.hints.own_mouth.store(connection.pid, Ordering::Relaxed);
                self.connection.insert(connection)
            }
        };
        let payloads = payloads.into_iter().map(|payload| Some(payload.into())).collect();
        let text = "SELECT count(pg_notify($1::text, payload)) FROM unnest($2::text[]) AS u(payload)";
        let call = connection.call(text, vec![Param::Text(Some(WHISPERS.into())), Param::Texts(payloads)]).await?;
        connection.run(&[call], ANSWER_WAIT).await.map(drop)
    }
}

/// The texts, one per line, in as few notifications as hold them.
fn payloads(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut payloads: Vec<String> = Vec::new();
    for text in texts {
        match payloads.last_mut() {
            Some(last) if last.len() + 1 + text.len() <= PAYLOAD_BYTES_MAX => {
                last.push('\n');
                last.push_str(&text);
            }
            _ => payloads.push(text),
        }
    }
    payloads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_hold_whole_texts() {
        let texts: Vec<String> = (1..=40).map(|number| "x".repeat(number * 100)).collect();
        let payloads = payloads(texts.clone().into_iter());
        assert!(payloads.iter().all(|payload| payload.len() <= PAYLOAD_BYTES_MAX));
        assert!(payloads.len() < 20);
        assert!(payloads.iter().flat_map(|payload| payload.lines()).eq(&texts));
    }
}
