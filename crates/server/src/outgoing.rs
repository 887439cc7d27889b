//! What this server does without being asked for: it sends events to other servers, pushes, and indexes what is said. The
//! nodes of one database share all that among them.

use std::sync::Arc;

use push::Push;
use search::Search;
use tokio::sync::watch;

use crate::boot::Running;
use crate::federation;
use crate::nodes::Nodes;

/// Receives from other servers, sends to them, pushes and indexes, until `stop` becomes true.
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
        tokio::join!(federating, pushing, index(&running.search, &nodes, stop.clone()));
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

async fn index(search: &Arc<Search>, nodes: &Nodes, stop: watch::Receiver<bool>) {
    nodes.meet().await;
    if let Err(error) = search.run(stop).await {
        tracing::error!(%error, "how far everything is indexed cannot be stored, and some is looked at once more");
    }
}
