//! Other servers as the rest of this server uses them.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::Federation;
use crate::client::Client;
use crate::descriptions::Descriptions;
use crate::handshakes::Handshakes;
use crate::outbound::Outbound;
use crate::remote_devices::RemoteDevices;

/// Lets work go on though its caller goes.
pub type Spawner = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// What is asked of other servers on behalf of this server's users.
pub struct Remote {
    /// Asks single questions.
    pub client: Client,
    /// Makes memberships with other servers.
    pub handshakes: Arc<Handshakes>,
    /// The queues to other servers.
    pub outbound: Arc<Outbound>,
    /// The device lists of other servers' users.
    pub devices: Arc<RemoteDevices>,
    /// What others ask and send.
    pub federation: Arc<Federation>,
    /// Rooms as others describe them.
    pub descriptions: Descriptions,
    /// For what may take longer than its caller waits.
    pub spawner: Spawner,
}
