//! The schema: created on first use, under a lock so that nodes may start at once, and compared on every later one, when
//! tables and indexes that are declared and missing are made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use store::{Error, Table, tables};

use crate::connection::{Connection, Fault};
use crate::params::Param;
use crate::sql;

/// The table that says which schema the database holds. It marks a database as Hearth's.
const MARKER: &str = "hearth_schema";

/// The advisory lock under which the schema is looked at and created.
const SCHEMA_LOCK: i64 = 0x4845_4152_5448_0001;

/// How long creating or waiting for another node that creates may take.
const SCHEMA_WAIT: Duration = Duration::from_secs(60);

/// Oldest version of PostgreSQL that is known to work.
const SERVER_VERSION_MIN: i64 = 130_000;

/// Commits of the whole cluster of databases after which the entry of a process that is gone is dropped.
const WRITER_AGE_MAX: i64 = 10_000_000;

/// Creates the schema in an empty database, or checks the one that is there. Returns the last position given.
///
/// # Errors
/// [`Error::Unusable`] if the database cannot be Hearth's; says what to do.
pub async fn prepare(connection: &mut Connection) -> Result<i64, Error> {
    check_server(connection).await?;
    let prepared = prepare_locked(connection).await;
    let end = if prepared.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = connection.execute(end).await.map_err(Fault::into_error);
    let position = prepared?;
    ended?;
    Ok(position)
}

async fn prepare_locked(connection: &mut Connection) -> Result<i64, Error> {
    connection.execute("BEGIN").await.map_err(Fault::into_error)?;
    integers(connection, "SELECT count(pg_advisory_xact_lock($1::bigint))", vec![Param::Int(Some(SCHEMA_LOCK))])
        .await?;
    let found = columns(connection).await?;
    if found.contains_key(MARKER) {
        check_version(connection).await?;
        if create_missing(connection).await? {
            check_columns(&columns(connection).await?)?;
        } else {
            check_columns(&found)?;
        }
        let old = format!("DELETE FROM writers WHERE age(xmin) > {WRITER_AGE_MAX}");
        connection.execute(&old).await.map_err(Fault::into_error)?;
    } else if found.is_empty() {
        create(connection).await?;
    } else {
        let names: Vec<&str> = found.keys().take(5).map(String::as_str).collect();
        return Err(Error::Unusable(format!(
            "the PostgreSQL database already holds tables that are not Hearth's ({}): give Hearth a database of its own, \
             made with: createdb --encoding=UTF8 --template=template0 hearth",
            names.join(", ")
        )));
    }
    let end = integers(connection, "SELECT pos FROM counter WHERE id = 1", Vec::new()).await?;
    Ok(end.first().copied().unwrap_or(0))
}

async fn check_server(connection: &mut Connection) -> Result<(), Error> {
    let sql = "SELECT (getdatabaseencoding() = 'UTF8')::int::bigint, current_setting('server_version_num')::bigint, \
               pg_is_in_recovery()::int::bigint, (current_setting('fsync') = 'on')::int::bigint";
    let facts = integers(connection, sql, Vec::new()).await?;
    let [utf8, version, standby, durable] = facts.as_slice() else {
        return Err(Error::Engine("PostgreSQL does not tell its version".to_owned()));
    };
    let unusable = |text: &str| Err(Error::Unusable(text.to_owned()));
    if *utf8 == 0 {
        return unusable(
            "the PostgreSQL database is not encoded in UTF-8: make one with: \
             createdb --encoding=UTF8 --template=template0 hearth",
        );
    }
    if *version < SERVER_VERSION_MIN {
        return unusable("this PostgreSQL is too old: upgrade it to version 13 or newer");
    }
    if *standby != 0 {
        return unusable("this PostgreSQL is a standby that takes no writes: give the address of the primary");
    }
    if *durable == 0 {
        tracing::warn!("PostgreSQL runs with fsync = off: commits are lost when its machine loses power");
    }
    Ok(())
}

/// All tables of the current schema, but for those of extensions, with their columns: name to type and whether NULL is allowed.
type Found = BTreeMap<String, BTreeMap<String, (String, bool)>>;

async fn columns(connection: &mut Connection) -> Result<Found, Error> {
    let sql = "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull \
               FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
               WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
               AND NOT EXISTS (SELECT 1 FROM pg_depend d \
               WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";
    let call = connection.call(sql, Vec::new()).await.map_err(Fault::into_error)?;
    let rows = connection.run(&[call], SCHEMA_WAIT).await.map_err(Fault::into_error)?;
    let mut found = Found::new();
    for row in rows.into_iter().flatten() {
        let text = |place: usize| row.try_get::<_, Option<String>>(place).ok().flatten().unwrap_or_default();
        let nullable = row.try_get::<_, Option<bool>>(3).ok().flatten().unwrap_or(true);
        found.entry(text(0)).or_default().insert(text(1), (text(2), nullable));
    }
    Ok(found)
}

async fn check_version(connection: &mut Connection) -> Result<(), Error> {
    let found = integers(connection, &format!("SELECT version FROM {MARKER}"), Vec::new()).await?;
    let wanted = tables::SCHEMA_VERSION;
    match found.first() {
        Some(version) if *version == wanted => Ok(()),
        Some(version) if *version > wanted => Err(Error::Unusable(format!(
            "the PostgreSQL database was written by a newer Hearth (schema {version}; this one knows {wanted}): \
             start that version or a newer one, or restore a backup of the older"
        ))),
        Some(version) => Err(Error::Unusable(format!(
            "the PostgreSQL database has schema {version}, this Hearth needs {wanted} and cannot convert it: \
             export it with the version that wrote it"
        ))),
        None => Err(Error::Unusable(format!(
            "the table {MARKER} of the PostgreSQL database is empty: restore the database from a backup"
        ))),
    }
}

fn check_columns(found: &Found) -> Result<(), Error> {
    for table in tables::all() {
        let columns = found.get(table.name);
        for (place, column) in table.columns.iter().enumerate() {
            let wanted = (sql::type_of(column.column_type).to_owned(), column.nullable && place >= table.key);
            if columns.and_then(|columns| columns.get(column.name)) != Some(&wanted) {
                return Err(Error::Unusable(format!(
                    "table {} of the PostgreSQL database does not have the column {} that schema {} wants: it was \
                     changed by hand or made by an unfinished version; restore a backup, or start with an empty database",
                    table.name,
                    column.name,
                    tables::SCHEMA_VERSION
                )));
            }
        }
    }
    Ok(())
}

/// The table that holds the last position given. Where it is gone no other may take its place: positions would begin anew.
const COUNTER: &str = "counter";

/// Makes the declared tables and indexes that a database of this schema lacks, as one does that an earlier build of the
/// same schema made. Returns whether there were any.
async fn create_missing(connection: &mut Connection) -> Result<bool, Error> {
    let sql = "SELECT relname::text FROM pg_class \
               WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'i', 'I')";
    let call = connection.call(sql, Vec::new()).await.map_err(Fault::into_error)?;
    let rows = connection.run(&[call], SCHEMA_WAIT).await.map_err(Fault::into_error)?;
    let there: BTreeSet<String> = rows.into_iter().flatten().filter_map(|row| row.try_get(0).ok()).collect();
    let declared = tables::all().into_iter().filter(|table| table.name != COUNTER).flat_map(sql::create);
    let missing: Vec<(String, String)> = declared.filter(|(name, _)| !there.contains(name)).collect();
    if missing.is_empty() {
        return Ok(false);
    }
    let (names, script): (Vec<String>, Vec<String>) = missing.into_iter().unzip();
    tracing::info!(names = names.join(", "), "tables or indexes are made that this version adds");
    run_script(connection, &script).await?;
    Ok(true)
}

async fn create(connection: &mut Connection) -> Result<(), Error> {
    let declared = tables::all().into_iter().flat_map(|table: &Table| sql::create(table));
    let mut script: Vec<String> = declared.map(|(_, statement)| statement).collect();
    // Both are updated by every commit: room on the page keeps their row versions from spreading over the table.
    script.push("ALTER TABLE counter SET (fillfactor = 10)".to_owned());
    script.push("ALTER TABLE writers SET (fillfactor = 10)".to_owned());
    script.push(format!("CREATE TABLE {MARKER} (version bigint PRIMARY KEY)"));
    script.push(format!("INSERT INTO {MARKER} (version) VALUES ({})", tables::SCHEMA_VERSION));
    run_script(connection, &script).await
}

async fn run_script(connection: &mut Connection, script: &[String]) -> Result<(), Error> {
    connection.execute(&script.join(";\n")).await.map_err(|fault| match fault {
        Fault::Refused(Error::Engine(reason)) => Error::Unusable(format!(
            "PostgreSQL does not let Hearth create its tables ({reason}): make Hearth's user the owner of the database, \
             with: ALTER DATABASE hearth OWNER TO hearth"
        )),
        fault => fault.into_error(),
    })
}

/// How many other connections to this database have an application name that begins so.
pub async fn connections_of_others(connection: &mut Connection, application: &str) -> Result<i64, Error> {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
               AND starts_with(application_name, $1::text)";
    let found = integers(connection, sql, vec![Param::Text(Some(application.into()))]).await?;
    Ok(found.first().copied().unwrap_or(0))
}

/// The integers of the first row of an answer.
async fn integers(connection: &mut Connection, sql: &str, params: Vec<Param<'_>>) -> Result<Vec<i64>, Error> {
    let call = connection.call(sql, params).await.map_err(Fault::into_error)?;
    let rows = connection.run(&[call], SCHEMA_WAIT).await.map_err(Fault::into_error)?;
    let Some(row) = rows.into_iter().flatten().next() else { return Ok(Vec::new()) };
    Ok((0..row.len()).map(|place| row.try_get(place).unwrap_or(0)).collect())
}
