//! What leaves this server without being asked for: events for other servers, and pushes. The nodes of one database share
//! both among them.

use std::sync::Arc;

use push::Push;
use tokio::sync::watch;

use crate::boot::Running;
use crate::federation;
use crate::nodes::Nodes;

/// Receives from other servers, sends to them, and pushes, until `stop` becomes true.
pub async fn run(running: Arc<Running>, stop: watch::Receiver<bool>) {
    let nodes = Arc::clone(&running.nodes);
    let federating = async {
        if let Some(remote) = running.remote.clone() {
            federation::run(remote, Arc::clone(&nodes), stop.clone()).await;
        }
    };
    let pushing = async {
        if let Some(push) = &running.push {
            run_pushers(push, &nodes, stop.clone()).await;
        }
    };
    let sending = async {
        tokio::join!(federating, pushing);
        // The others need not wait until they miss this node.
        nodes.leave();
    };
    tokio::join!(nodes.run(stop.clone()), sending);
}

async fn run_pushers(push: &Arc<Push>, nodes: &Nodes, stop: watch::Receiver<bool>) {
    nodes.meet().await;
    if let Err(error) = push.run(stop).await {
        tracing::error!(%error, "how far pushes were queued cannot be stored, and some may come twice");
    }
}
