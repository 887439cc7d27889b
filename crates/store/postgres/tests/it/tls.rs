//! Encrypted connections, to a server that is given a certificate for the time of the test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use postgres::{Options, Postgres};
use store::{Engine, Error};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::database::{Database, connect};
use crate::work;

/// What the server's files are called in its folder.
const FILES: [&str; 2] = ["hearth_test.crt", "hearth_test.key"];

fn certificate(folder: &Path, name: &str, host: &str) -> (PathBuf, String, String) {
    let made = rcgen::generate_simple_self_signed(["postgresql.test".to_owned(), host.to_owned()]).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, made.cert.pem()).unwrap();
    (path, made.cert.pem(), made.signing_key.serialize_pem())
}

/// Lets the server write a file into its own folder, for nobody else to read.
async fn write(database: &Database, file: &str, text: &str) {
    let lines: Vec<String> = text.lines().map(|line| format!("('{line}')")).collect();
    let rows = lines.join(", ");
    let copy = format!("COPY (VALUES {rows}) TO PROGRAM 'umask 077; cat > {file}'");
    database.admin.batch_execute(&copy).await.unwrap();
}

/// Whether new connections find TLS switched so.
async fn is_on(database: &Database) -> bool {
    let on: String = connect(&database.url).await.query_one("SHOW ssl", &[]).await.unwrap().get(0);
    on == "on"
}

/// Switches TLS on; `None` where the server is not to be touched.
async fn switch_on(database: &Database, certificate: &str, key: &str) -> Option<()> {
    let may = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
    let may: bool = database.admin.query_one(may, &[]).await.unwrap().get(0);
    if !may || is_on(database).await {
        println!("skipped: TLS of this server is not the test's to switch");
        return None;
    }
    write(database, FILES[0], certificate).await;
    write(database, FILES[1], key).await;
    for setting in
        [&format!("ssl_cert_file = '{}'", FILES[0]), &format!("ssl_key_file = '{}'", FILES[1]), &"ssl = on".to_owned()]
    {
        database.admin.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    database.admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    while !is_on(database).await {}
    Some(())
}

async fn switch_off(database: &Database) {
    for setting in ["ssl", "ssl_cert_file", "ssl_key_file"] {
        database.admin.batch_execute(&format!("ALTER SYSTEM RESET {setting}")).await.unwrap();
    }
    database.admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let remove = format!("COPY (SELECT 1) TO PROGRAM 'cat > /dev/null; rm -f {} {}'", FILES[0], FILES[1]);
    database.admin.batch_execute(&remove).await.unwrap();
}

async fn refusal(url: &str) -> String {
    match Postgres::open(url, Options::default()).await {
        Err(Error::Unusable(text)) => text,
        Err(other) => panic!("refused in another way: {other}"),
        Ok(_) => panic!("not refused: {url}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_as_strict_as_it_is_told_to_be() {
    let Some(database) = Database::make().await else { return };
    let config: Config = database.url.parse().unwrap();
    let (Some(Host::Tcp(host)), false) = (config.get_hosts().first().cloned(), database.url.contains('?')) else {
        println!("skipped: the server is not reached by TCP");
        return database.dispose().await;
    };
    let folder = tempfile::tempdir().unwrap();
    let (ours, pem, key) = certificate(folder.path(), "ours.pem", &host);
    let (theirs, _, _) = certificate(folder.path(), "theirs.pem", &host);
    if !is_on(&database).await {
        let text = refusal(&format!("{}?sslmode=require", database.url)).await;
        assert!(text.contains("TLS"), "{text}");
    }
    if switch_on(&database, &pem, &key).await.is_none() {
        return database.dispose().await;
    }
    let address = host.parse::<std::net::IpAddr>().unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
    // Another name of the same server, which is not in its certificate.
    let misnamed = database.url.replacen(&format!("@{host}"), "@elsewhere.test", 1);
    let (ours, theirs) = (ours.display(), theirs.display());
    for url in [
        format!("{}?sslmode=require", database.url),
        format!("{}?sslmode=verify-full&sslrootcert={ours}", database.url),
        format!("{misnamed}?sslmode=verify-ca&sslrootcert={ours}&hostaddr={address}"),
        format!("{misnamed}?sslmode=require&sslrootcert={ours}&hostaddr={address}"),
    ] {
        let engine: Arc<dyn Engine> = Arc::new(Postgres::open(&url, Options::default()).await.unwrap());
        let last = engine.submit(work::plain(1)).await.unwrap().last;
        work::reach(&engine, last).await;
        let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name LIKE 'hearth%' AND datname = $1 AND NOT ssl";
        let plain: i64 = database.admin.query_one(plain, &[&database.name()]).await.unwrap().get(0);
        assert_eq!(plain, 0, "every connection is encrypted: {url}");
        engine.close().await;
    }
    for url in [
        format!("{}?sslmode=verify-full&sslrootcert={theirs}", database.url),
        format!("{}?sslmode=verify-ca&sslrootcert={theirs}", database.url),
        format!("{}?sslmode=require&sslrootcert={theirs}", database.url),
        format!("{misnamed}?sslmode=verify-full&sslrootcert={ours}&hostaddr={address}"),
    ] {
        let text = refusal(&url).await;
        assert!(text.contains("certificate") && text.contains("sslrootcert"), "{text}");
    }
    switch_off(&database).await;
    database.dispose().await;
}
