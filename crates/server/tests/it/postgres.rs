//! The program on PostgreSQL, where `HEARTH_TEST_POSTGRES` names a server whose user may create databases.

use std::path::Path;

use tokio_postgres::{Client, NoTls};

use crate::program::{Program, run, run_with_input};

const VARIABLE: &str = "HEARTH_TEST_POSTGRES";
const NAME: &str = "server_name=hearth.test";

/// A connection by which databases are made and dropped, and the address without a database.
pub async fn admin() -> Option<(Client, String)> {
    let Ok(url) = std::env::var(VARIABLE) else {
        println!("skipped: {VARIABLE} is not set");
        return None;
    };
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let (base, _) = url.rsplit_once('/').unwrap();
    Some((client, base.to_owned()))
}

/// Makes a database of this name for this process; answers its name and its setting.
pub async fn make(admin: &Client, base: &str, name: &str) -> (String, String) {
    let name = format!("hearth_server_{name}_{}", std::process::id());
    admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")).await.unwrap();
    let setting = format!("database.url={base}/{name}");
    (name, setting)
}

pub async fn drop_database(admin: &Client, name: &str) {
    admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
}

fn users(folder: &Path, database: &str) -> (i32, String) {
    run(folder, &["user", "list"], &[database])
}

#[tokio::test]
async fn a_database_moves_to_postgresql_and_back() {
    let Some((admin, base)) = admin().await else { return };
    let (name, setting) = make(&admin, &base, "moves").await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = ["user", "create", "alice", "--password-stdin"];
    assert_eq!(run_with_input(folder, &create, &[NAME], "a secret!\n").0, 0);
    let url = setting.strip_prefix("database.url=").unwrap();
    let (code, said) = run(folder, &["migrate-database", "--to", url], &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(users(folder, &setting), (0, "@alice:hearth.test\n".to_owned()));
    {
        let running = Program::start(folder, &[&setting]);
        assert_eq!(running.get("/health").await.0, 200);
        assert_eq!(running.first_account_link(), None);
        for words in [&["migrate-database", "--to", "sqlite:early.db"][..], &["key", "rotate"]] {
            let (code, said) = run(folder, words, &[&setting]);
            assert!(code != 0 && said.contains("another process is using the database"), "{words:?}: {said}");
        }
        assert!(!folder.join("data/early.db").exists() && !folder.join("early.db").exists());
    }
    let (code, said) = run(folder, &["migrate-database", "--to", "sqlite:back.db"], &[&setting]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(users(folder, "database.url=sqlite:back.db"), (0, "@alice:hearth.test\n".to_owned()));
    drop_database(&admin, &name).await;
}

#[tokio::test]
async fn nodes_of_one_database_share_one_signing_key() {
    let Some((admin, base)) = admin().await else { return };
    let (name, setting) = make(&admin, &base, "nodes").await;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for node in [&one, &two] {
        let (code, said) = users(node.path(), &setting);
        assert_eq!(code, 3, "without a data folder nothing is begun: {said}");
        assert!(!node.path().join("data").exists());
        std::fs::create_dir(node.path().join("data")).unwrap();
    }
    assert_eq!(users(one.path(), &setting).0, 0);
    let (code, said) = users(two.path(), &setting);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("signing.key"), "{said}");
    std::fs::copy(one.path().join("data/signing.key"), two.path().join("data/signing.key")).unwrap();
    assert_eq!(users(two.path(), &setting).0, 0);
    drop_database(&admin, &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_running_server_goes_back_into_postgresql() {
    let Some((admin, base)) = admin().await else { return };
    let (name, setting) = make(&admin, &base, "backup").await;
    let (other, other_setting) = make(&admin, &base, "restored").await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let create = |name: &str| {
        run_with_input(folder, &["user", "create", name, "--password-stdin"], &[NAME, &setting], "a secret!\n")
    };
    assert_eq!(create("alice").0, 0);
    {
        let _running = Program::start(folder, &[NAME, &setting]);
        let (code, said) = run(folder, &["backup", "copy"], &[NAME, &setting]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(create("bob").0, 0);
        let (code, said) = run(folder, &["backup", "copy"], &[NAME, &setting]);
        assert_eq!(code, 1, "a backup is never replaced: {said}");
    }
    let mut files: Vec<_> =
        std::fs::read_dir(folder.join("copy")).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["hearth.db", "media", "signing.key"], "no drafts are left");
    let (code, said) = run(folder, &["restore", "copy", "--data-dir", "again"], &[&other_setting]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("migrate-database"), "it says how: {said}");
    let (code, said) = run(folder, &["restore", "copy", "--data-dir", "again"], &["database.url=sqlite:"]);
    assert_eq!(code, 0, "{said}");
    let url = other_setting.strip_prefix("database.url=").unwrap();
    let again = ["data_dir=again", "database.url=sqlite:"];
    let (code, said) = run(folder, &["migrate-database", "--to", url], &again);
    assert_eq!(code, 0, "{said}");
    let (code, listed) = run(folder, &["user", "list"], &["data_dir=again", &other_setting]);
    assert_eq!((code, listed.trim()), (0, "@alice:hearth.test"), "as it was then");
    for name in [name, other] {
        drop_database(&admin, &name).await;
    }
}
