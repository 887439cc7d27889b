//! Asking policy servers: `POST /_matrix/policy/v1/sign` (`data/api/server-server/room_policy.yaml`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use event::Pdu;
use event::policy::POLICY_KEY_ID;
use http::{Method, StatusCode};
use quick_cache::sync::Cache;
use rooms::{PolicyRefusal, PolicyServers};
use store::Clock;

use crate::Error;
use crate::client::Client;
use crate::transport::Limits;

/// A person waits for the answer before a message is sent.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), body_bytes_max: 64 << 10 };
/// For how long a server that could not be asked is not asked again, in milliseconds: events of its rooms come in
/// meanwhile, and each would wait.
const AWAY_MS: i64 = 30_000;
/// Servers that are remembered as away.
const AWAY_MAX: usize = 1_000;

/// Asks policy servers over federation.
pub struct PolicyClient {
    client: Client,
    clock: Arc<dyn Clock>,
    /// Until when a server is not asked again, and why.
    away: Cache<String, (i64, String)>,
}

impl fmt::Debug for PolicyClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PolicyClient").finish_non_exhaustive()
    }
}

impl PolicyClient {
    /// Asks with this client.
    pub fn new(client: Client, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock, away: Cache::new(AWAY_MAX) }
    }

    async fn ask(&self, server: &str, event: &Pdu) -> Result<String, PolicyRefusal> {
        let body = event.object();
        let answer = self.client.json(server, Method::POST, "/_matrix/policy/v1/sign", Some(&body), LIMITS).await;
        let answer = answer.map_err(refusal)?;
        let signature = answer.get(server).and_then(|keys| keys.get(POLICY_KEY_ID)?.as_str());
        signature.map(str::to_owned).ok_or_else(|| PolicyRefusal::Away("it answered without a signature".to_owned()))
    }
}

#[async_trait]
impl PolicyServers for PolicyClient {
    async fn sign(&self, server: &str, event: &Pdu) -> Result<String, PolicyRefusal> {
        if let Some((until_ms, reason)) = self.away.get(server)
            && until_ms > self.clock.now_ms()
        {
            return Err(PolicyRefusal::Away(reason));
        }
        let signed = self.ask(server, event).await;
        if let Err(PolicyRefusal::Away(reason)) = &signed {
            self.away.insert(server.to_owned(), (self.clock.now_ms().saturating_add(AWAY_MS), reason.clone()));
        }
        signed
    }
}

/// What a failure means: that the server says no, or that it cannot say.
fn refusal(error: Error) -> PolicyRefusal {
    match error {
        Error::Remote { status: StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN, errcode, message, .. }
            if errcode == "M_FORBIDDEN" =>
        {
            PolicyRefusal::Refused(message)
        }
        error => PolicyRefusal::Away(error.to_string()),
    }
}
