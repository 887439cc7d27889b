//! Whose a token is: what the door asks of the accounts.

use std::sync::Arc;

use async_trait::async_trait;
use endpoint::requester::Origin;
use endpoint::{Error, Lookup, Session, Sessions};
use users::{SessionKind, TokenError, Users};

/// The accounts as the door sees them.
pub struct Accounts(pub Arc<Users>);

#[async_trait]
impl Sessions for Accounts {
    async fn session(&self, token: &str, origin: &Origin) -> Result<Lookup, Error> {
        let session = match self.0.authenticate(token).await {
            Ok(session) => session,
            Err(TokenError::Unknown) => return Ok(Lookup::Unknown),
            Err(TokenError::Expired) => return Ok(Lookup::Expired),
            Err(TokenError::Store(error)) => return Err(error.into()),
        };
        self.0.saw(&session, &origin.address.to_string(), &origin.user_agent);
        Ok(Lookup::Known(Session {
            user_id: session.user.clone(),
            device_id: Some(session.device.clone()),
            guest: session.guest,
            admin: session.admin,
            locked: session.locked,
            suspended: session.suspended,
            rate_limited: true,
            oauth: session.kind == SessionKind::OAuth,
        }))
    }
}
