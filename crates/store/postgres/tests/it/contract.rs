//! The conformance suite on PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use store::Engine;
use store::conformance::{self, Harness, Size};
use tokio::sync::Mutex;

use crate::database::Database;

/// Databases on one server; a crash ends the server's processes behind the engine.
struct Server {
    databases: Mutex<Vec<Database>>,
}

#[async_trait]
impl Harness for Server {
    async fn fresh(&self) -> Arc<dyn Engine> {
        let database = Database::make().await.unwrap();
        let engine = database.open().await;
        self.databases.lock().await.push(database);
        engine
    }

    async fn reopen(&self, engine: Arc<dyn Engine>, crash: bool) -> Arc<dyn Engine> {
        let databases = self.databases.lock().await;
        let database = databases.last().unwrap();
        if crash {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
            database.admin.query(end, &[&database.name()]).await.unwrap();
            // The old engine lives on beside the new one, as a node that was declared dead too early would.
            drop(engine);
        } else {
            engine.close().await;
        }
        database.open().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_fulfils_the_contract() {
    let Some(first) = Database::make().await else { return };
    let server = Server { databases: Mutex::new(vec![first]) };
    let seeds = std::env::var("STORE_SEEDS").ok().and_then(|text| text.parse().ok());
    let usual = Size::default();
    let size = Size { seeds: 0..seeds.unwrap_or(usual.seeds.end), ..usual };
    let outcome = conformance::run(&server, &size).await;
    for database in server.databases.into_inner() {
        database.dispose().await;
    }
    outcome.unwrap();
}
