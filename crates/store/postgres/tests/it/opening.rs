//! Opening: what is refused, with what words, and first starts at the same time.

use std::sync::Arc;
use std::time::Duration;

use postgres::{Options, Postgres};
use store::{Engine, Error};

use crate::database::{Database, connect};
use crate::work;

async fn refusal(url: &str) -> String {
    // A refusal needs no patience, a slow machine does.
    let options = Options { patience: Duration::from_secs(300), ..Options::default() };
    match Postgres::open(url, options).await {
        Err(Error::Unusable(text)) => text,
        Err(other) => panic!("refused in another way: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn foreign_tables_are_left_alone() {
    let Some(database) = Database::make().await else { return };
    let client = connect(&database.url).await;
    client.batch_execute("CREATE TABLE zoo (id bigint PRIMARY KEY)").await.unwrap();
    let text = refusal(&database.url).await;
    assert!(text.contains("(zoo)") && text.contains("createdb --encoding=UTF8"), "{text}");
    let tables = client.query("SELECT 1 FROM pg_tables WHERE schemaname = 'public'", &[]).await.unwrap();
    assert_eq!(tables.len(), 1, "nothing was added");
    database.dispose().await;
}

#[tokio::test]
async fn another_schema_is_refused() {
    let Some(database) = Database::make().await else { return };
    database.open().await.close().await;
    let client = connect(&database.url).await;
    for (change, words) in [
        ("UPDATE hearth_schema SET version = 1000000", "written by a newer Hearth (schema 1000000"),
        ("UPDATE hearth_schema SET version = 0", "cannot convert it"),
        ("DELETE FROM hearth_schema", "restore the database from a backup"),
    ] {
        client.batch_execute(change).await.unwrap();
        let text = refusal(&database.url).await;
        assert!(text.contains(words), "{text}");
    }
    let version = store::tables::SCHEMA_VERSION;
    client.batch_execute(&format!("INSERT INTO hearth_schema VALUES ({version})")).await.unwrap();
    database.open().await.close().await;
    client.batch_execute("ALTER TABLE jobs ALTER COLUMN due_ms TYPE text").await.unwrap();
    let text = refusal(&database.url).await;
    assert!(text.contains("table jobs") && text.contains("column due_ms"), "{text}");
    database.dispose().await;
}

/// A database that an earlier build of the same schema made lacks what was declared since.
#[tokio::test]
async fn missing_tables_and_indexes_are_made_and_the_rest_is_kept() {
    let Some(database) = Database::make().await else { return };
    let node: Arc<dyn Engine> = database.open().await;
    node.submit(work::claiming(1)).await.unwrap();
    node.close().await;
    let client = connect(&database.url).await;
    let all =
        "SELECT tablename::text, indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2";
    let listed = async || -> Vec<(String, String, String)> {
        let rows = client.query(all, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    };
    let position = async || -> i64 { client.query_one("SELECT pos FROM counter", &[]).await.unwrap().get(0) };
    let (before, at) = (listed().await, position().await);
    let index = &before.iter().find(|(table, name, _)| table != "jobs" && !name.ends_with("_pkey")).unwrap().1;
    client.batch_execute(&format!("DROP TABLE jobs; DROP INDEX \"{index}\"")).await.unwrap();
    assert!(listed().await.len() < before.len());
    database.open().await.close().await;
    assert_eq!(listed().await, before);
    assert_eq!(position().await, at, "what was there is kept");
    client.batch_execute("DROP TABLE counter").await.unwrap();
    let text = refusal(&database.url).await;
    assert!(text.contains("table counter"), "positions would begin anew: {text}");
    database.dispose().await;
}

/// Where the user may not create tables, the error says what to do.
#[tokio::test]
async fn a_user_without_rights_is_told() {
    let Some(database) = Database::make().await else { return };
    let role = format!("{}_guest", database.name());
    let client = connect(&database.url).await;
    client
        .batch_execute(&format!("CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        .await
        .unwrap();
    let mut url = database.url.clone();
    let (start, end) = (url.find("://").unwrap() + 3, url.find('@').unwrap());
    url.replace_range(start..end, &role);
    let refused = Postgres::open(&url, Options::default()).await.err().unwrap().to_string();
    // Where the server asks for passwords, this user has none.
    assert!(refused.contains("make Hearth's user the owner") || refused.contains("password"), "{refused}");
    database.admin.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();
    database.dispose().await;
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    let Some(database) = Database::make_with("ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'").await else { return };
    let text = refusal(&database.url).await;
    assert!(text.contains("not encoded in UTF-8"), "{text}");
    database.dispose().await;
}

#[tokio::test]
async fn wrong_addresses_say_what_is_wrong() {
    let Some(database) = Database::make().await else { return };
    assert!(refusal("mysql://nowhere").await.contains("write postgres://"));
    assert!(refusal(&format!("{}_gone", database.url)).await.contains("create what it names"));
    let separator = if database.url.contains('?') { '&' } else { '?' };
    assert!(refusal(&format!("{}{separator}sslmode=perhaps", database.url)).await.contains("sslmode"));
    database.dispose().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_may_start_at_once_on_an_empty_database() {
    let Some(database) = Database::make().await else { return };
    let url = Arc::new(database.url.clone());
    let nodes: Vec<_> = (0..5)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { Postgres::open(&url, Options::default()).await.unwrap() })
        })
        .collect();
    for (number, node) in (0..).zip(nodes) {
        let node: Arc<dyn Engine> = Arc::new(node.await.unwrap());
        node.submit(work::claiming(number)).await.unwrap();
        node.close().await;
    }
    database.dispose().await;
}

#[tokio::test]
async fn a_local_socket_serves_as_well() {
    let Some(database) = Database::make().await else { return };
    let setting = async |name: &str| -> String {
        let sql = format!("SELECT current_setting('{name}')");
        database.admin.query_one(&sql, &[]).await.unwrap().get(0)
    };
    let directories = setting("unix_socket_directories").await;
    let directory = directories.split(',').next().unwrap().trim().to_owned();
    let port = setting("port").await;
    if !std::path::Path::new(&format!("{directory}/.s.PGSQL.{port}")).exists() {
        println!("skipped: the server is not on this machine");
        return database.dispose().await;
    }
    let user: String = database.admin.query_one("SELECT current_user::text", &[]).await.unwrap().get(0);
    let url = format!("postgres://{user}@/{}?host={directory}&port={port}", database.name());
    let engine = Postgres::open(&url, Options::default()).await.unwrap();
    engine.submit(work::claiming(1)).await.unwrap();
    engine.close().await;
    database.dispose().await;
}
