//! How a push leaves for its gateway: over the network in the program, in the tests' own way there.

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

/// Carries pushes to gateways. Addresses that may not be reached are for it to refuse.
#[async_trait]
pub trait Gateways: Send + Sync + 'static {
    /// Sends one `POST` with a JSON body to the URL of a pusher and waits for the whole answer.
    ///
    /// # Errors
    /// [`Unreachable`]; any status is an answer.
    async fn notify(&self, url: &str, body: Bytes) -> Result<Answer, Unreachable>;
}

/// What a gateway answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

impl Answer {
    /// Whether the gateway took the push.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether the gateway says that this pushkey leads nowhere. An answer without `rejected`, or with garbage, rejects
    /// none (CP8).
    pub(crate) fn rejects(&self, pushkey: &str) -> bool {
        let answer: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let rejected = answer.get("rejected").and_then(Value::as_array);
        rejected.into_iter().flatten().any(|rejected| rejected.as_str() == Some(pushkey))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cp8_answers_without_rejections_or_with_garbage_reject_nothing() {
        let rejects = |body: &'static str| Answer { status: 200, body: Bytes::from(body) }.rejects("key");
        let none = [
            "",
            "{}",
            "null",
            "<html>",
            "{\"rejected\":[]}",
            "{\"rejected\":null}",
            "{\"rejected\":\"key\"}",
            "{\"rejected\":{\"key\":1}}",
            "{\"rejected\":[\"another\",1,null,[\"key\"]]}",
            "[\"key\"]",
            "{\"rejected\":[\"key\"]",
        ];
        for body in none {
            assert!(!rejects(body), "{body}");
        }
        assert!(rejects("{\"rejected\":[\"another\",\"key\"],\"more\":1}"));
    }
}
