//! What the nodes of one database tell each other in passing: short texts that nobody stores. Each comes to every other
//! node that listens now, or is lost; who whispers says it again from time to time if it matters for longer.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};

/// The most bytes of one whisper; longer ones are lost.
pub const WHISPER_BYTES_MAX: usize = 4_000;
/// The most whispers that wait to be sent; further ones are lost.
const WAITING_MAX: usize = 10_000;
/// The most whispers that a listener may be behind; it loses the oldest.
const HEARD_MAX: usize = 10_000;

/// One node's mouth and ears.
pub struct Whispers {
    told: mpsc::Sender<String>,
    heard: broadcast::Sender<Arc<str>>,
}

impl Whispers {
    /// For engines: with the end at which the texts of this node come out, to be sent to the others.
    pub fn new() -> (Self, mpsc::Receiver<String>) {
        let (told, sending) = mpsc::channel(WAITING_MAX);
        (Self { told, heard: broadcast::Sender::new(HEARD_MAX) }, sending)
    }

    /// Tells the other nodes a text of one line.
    pub fn tell(&self, text: String) {
        let fits = text.len() <= WHISPER_BYTES_MAX && !text.contains('\n');
        if !fits || self.told.try_send(text).is_err() {
            tracing::debug!("a whisper to the other nodes is lost");
        }
    }

    /// What other nodes tell from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<str>> {
        self.heard.subscribe()
    }

    /// For engines: another node has told this.
    pub fn hear(&self, text: &str) {
        // Nobody may listen.
        drop(self.heard.send(text.into()));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn what_is_told_comes_out_and_what_is_heard_comes_in() {
        let (whispers, mut sending) = Whispers::new();
        let mut ear = whispers.listen();
        whispers.tell("x".repeat(WHISPER_BYTES_MAX + 1));
        whispers.tell("two\nlines".to_owned());
        whispers.tell("news".to_owned());
        assert_eq!(sending.recv().await.unwrap(), "news");
        whispers.hear("other news");
        assert_eq!(&*ear.recv().await.unwrap(), "other news");
        assert!(ear.try_recv().is_err(), "nobody hears himself");
        for _ in 0..=WAITING_MAX {
            whispers.tell("too much".to_owned());
        }
        assert_eq!(sending.len(), WAITING_MAX);
    }
}
