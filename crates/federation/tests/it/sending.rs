//! A server that sends: its queues, over a transport of the test.

use std::sync::Arc;

use federation::client::{Client, Reach};
use federation::outbound::{Options, Outbound, Parts};
use federation::transport::Transport;
use store::shards::Alone;
use store::{Clock, Nodes};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::{TestEntropy, US, World, key};

impl World {
    /// The queues of the server, which begin to send when they are run. Another seed makes other transaction ids.
    pub fn queues(&self, client: Client, nodes: Arc<dyn Nodes>, seed: u64, options: Options) -> Arc<Outbound> {
        Outbound::new(Parts {
            client: Arc::new(client),
            store: self.store.clone(),
            rooms: Arc::clone(&self.rooms),
            users: Arc::clone(&self.users),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            entropy: Arc::new(TestEntropy::new(seed)),
            nodes,
            options,
        })
    }
}

/// Queues under way, until they are stopped.
pub struct Sending {
    pub outbound: Arc<Outbound>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Sending {
    /// The queues of a server that is alone with its database.
    pub fn start(world: &World, transport: Arc<dyn Transport>, options: Options) -> Self {
        Self::run(world.queues(client(transport), Arc::new(Alone), 3, options))
    }

    /// The queues of one of several nodes.
    pub fn of_node(world: &World, transport: Arc<dyn Transport>, nodes: Arc<dyn Nodes>, seed: u64) -> Self {
        Self::run(world.queues(client(transport), nodes, seed, Options::default()))
    }

    fn run(outbound: Arc<Outbound>) -> Self {
        let (stop, stopping) = watch::channel(false);
        let running = Arc::clone(&outbound);
        let task = tokio::spawn(async move { running.run(stopping).await.unwrap() });
        Self { outbound, stop, task }
    }

    /// Stops them in order.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }

    /// Ends them as if the process died.
    pub fn kill(self) {
        self.task.abort();
    }
}

fn client(transport: Arc<dyn Transport>) -> Client {
    Client::new(US, Arc::new(key(US)), transport, Reach::default())
}
