//! Databases for tests: made on the server that the environment names, and dropped at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use postgres::{Options, Postgres};
use tokio_postgres::{Client, NoTls};

const VARIABLE: &str = "HEARTH_TEST_POSTGRES";

static MADE: AtomicU64 = AtomicU64::new(0);

/// An empty database.
pub struct Database {
    /// Its URL.
    pub url: String,
    name: String,
    /// A connection to the database that the environment names.
    pub admin: Client,
}

/// A connection of the driver, without the engine.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A name for a database that no other test of any process uses.
fn fresh_name() -> String {
    format!("hearth_test_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}

/// The URL with another database.
fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let start = base.find("://").map_or(0, |place| place + 3);
    let end = base[start..].find('/').map_or(base.len(), |place| start + place);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}/{name}{query}", &base[..end])
}

impl Database {
    /// Makes a database, or says that the test is skipped.
    pub async fn make() -> Option<Self> {
        Self::make_with("ENCODING 'UTF8'").await
    }

    /// Makes a database with options of CREATE DATABASE.
    pub async fn make_with(options: &str) -> Option<Self> {
        let Ok(server) = std::env::var(VARIABLE) else {
            println!("skipped: {VARIABLE} is not set");
            return None;
        };
        let admin = connect(&server).await;
        let name = fresh_name();
        admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0 {options}")).await.unwrap();
        Some(Self { url: with_database(&server, &name), name, admin })
    }

    /// Opens the engine on it.
    pub async fn open(&self) -> Arc<Postgres> {
        Arc::new(Postgres::open(&self.url, Options::default()).await.unwrap())
    }

    /// Drops it, together with whatever is still connected to it.
    pub async fn dispose(self) {
        self.admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await.unwrap();
    }

    /// Drops it after the server has been started again, which ended the connection that made it.
    pub async fn dispose_anew(mut self) {
        self.admin = connect(&std::env::var(VARIABLE).unwrap()).await;
        self.dispose().await;
    }

    /// Name of the database.
    pub fn name(&self) -> &str {
        &self.name
    }
}
