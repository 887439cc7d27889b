//! What a database file must look like: its mark, its version, its tables, and how older versions become this one.
//!
//! `schema(version, compat_version)` holds one row: the version that the tables have, and the oldest version of the
//! program's schema that can still use them. Tables and indexes that are declared and missing are made at each start; a
//! table whose columns differ from the declaration needs a migration.

use std::collections::Bound;
use std::path::Path;

use rusqlite::Connection;
use store::{Error, Index, Read, Table, Value};

use crate::{backup, errors, lock, sql};

/// `application_id` of a Hearth database: "Hrth".
pub(crate) const APPLICATION_ID: i32 = 0x4872_7468;

/// The tables of this program and the way to them from older versions.
pub struct Schema {
    /// The version of the tables.
    pub version: i64,
    /// The oldest schema version whose program can use these tables.
    pub compat_version: i64,
    /// The tables.
    pub tables: Vec<&'static Table>,
    /// One step per version, in order; those above the version found are run.
    pub migrations: &'static [Migration],
}

/// One step from a version to the next, run in one transaction.
pub struct Migration {
    /// The version that it leads to, from the one below.
    pub to: i64,
    /// What it does; tables that are merely new need nothing.
    pub run: fn(&Connection) -> rusqlite::Result<()>,
}

/// The steps between released versions.
const MIGRATIONS: &[Migration] = &[];

impl Schema {
    /// What this program declares.
    pub fn current() -> Self {
        Self {
            version: store::tables::SCHEMA_VERSION,
            compat_version: store::tables::SCHEMA_VERSION,
            tables: store::tables::all(),
            migrations: MIGRATIONS,
        }
    }

    /// Makes everything in an empty database.
    pub(crate) fn create(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection
            .execute_batch("CREATE TABLE schema (version INTEGER NOT NULL, compat_version INTEGER NOT NULL) STRICT")?;
        connection.execute("INSERT INTO schema VALUES (?1, ?2)", (self.version, self.compat_version))?;
        self.create_missing(connection)
    }

    fn create_missing(&self, connection: &Connection) -> rusqlite::Result<()> {
        for table in &self.tables {
            connection.execute_batch(&sql::create_table(table))?;
            for index in sql::create_indexes(table) {
                connection.execute_batch(&index)?;
            }
        }
        Ok(())
    }

    /// Brings an opened database to this version, after a backup beside it where steps are needed.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the database is of a newer, incompatible version or does not have the declared tables.
    pub(crate) fn bring_up(&self, connection: &Connection, path: &Path, vfs: Option<&str>) -> Result<(), Error> {
        let (version, compat) = connection
            .query_row("SELECT version, compat_version FROM schema", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(|error| {
                Error::Unusable(format!("{}: the schema version cannot be read: {error}", path.display()))
            })?;
        self.refuse_newer(path, version, compat)?;
        if version > self.version {
            // A newer program added what this one need not know.
            return self.check(connection);
        }
        if version < self.version {
            self.migrate(connection, path, vfs, version)?;
        }
        in_transaction(connection, |connection| self.create_missing(connection))?;
        self.check(connection)
    }

    fn refuse_newer(&self, path: &Path, version: i64, compat: i64) -> Result<(), Error> {
        if compat <= self.version {
            return Ok(());
        }
        Err(Error::Unusable(format!(
            "{} was written by a newer version of the server (schema {version}, usable from {compat} on; this one has \
             {}): start that version, or restore a backup from before the upgrade",
            path.display(),
            self.version
        )))
    }

    fn migrate(&self, connection: &Connection, path: &Path, vfs: Option<&str>, from: i64) -> Result<(), Error> {
        let copy = lock::beside(path, &format!(".before-v{}", self.version));
        tracing::info!(from, to = self.version, backup = %copy.display(), "the database is brought to a newer schema");
        backup::copy(path, vfs, &copy, |_, _| {})?;
        for to in from + 1..=self.version {
            let Some(step) = self.migrations.iter().find(|step| step.to == to) else {
                return Err(Error::Unusable(format!(
                    "{} has schema {from}, from which this version of the server knows no way to schema {to}: upgrade \
                     by way of an older release first",
                    path.display()
                )));
            };
            in_transaction(connection, |connection| {
                (step.run)(connection)?;
                let compat = if to == self.version { self.compat_version } else { to };
                connection.execute("UPDATE schema SET version = ?1, compat_version = ?2", (to, compat)).map(drop)
            })?;
        }
        Ok(())
    }

    /// Whether each declared table has the declared columns.
    fn check(&self, connection: &Connection) -> Result<(), Error> {
        for table in &self.tables {
            let found = columns(connection, table.name).map_err(errors::engine)?;
            let mut wanted: Vec<_> = table
                .columns
                .iter()
                .enumerate()
                .map(|(place, column)| {
                    let key = if place < table.key { i64::try_from(place + 1).unwrap_or(0) } else { 0 };
                    (column.name.to_owned(), sql::type_name(column.column_type).to_owned(), !column.nullable, key)
                })
                .collect();
            wanted.sort();
            if found != wanted {
                return Err(Error::Unusable(format!(
                    "table {} of the database does not have the columns that this version of the server declares: \
                     restore a backup, or start the version that wrote it",
                    table.name
                )));
            }
        }
        Ok(())
    }
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<(String, String, bool, i64)>> {
    let mut statement =
        connection.prepare("SELECT name, type, \"notnull\", pk FROM pragma_table_info(?1) ORDER BY name")?;
    let rows = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let mut columns: Vec<_> = rows.collect::<Result<_, _>>()?;
    columns.sort();
    Ok(columns)
}

/// The SQL of a read: along `index` or the key, with `length` values of the prefix, bounded below or not. For looking at
/// query plans.
pub fn read_text(
    table: &'static Table,
    index: Option<&'static Index>,
    length: usize,
    bounded: bool,
    reverse: bool,
) -> String {
    let lower = if bounded { Bound::Excluded(Value::Int(0)) } else { Bound::Unbounded };
    let prefix = vec![Value::Int(0); length];
    sql::text_of(&Read { table, index, prefix, lower, upper: Bound::Unbounded, reverse, limit: 1 })
}

/// Runs `work` in one transaction.
pub(crate) fn in_transaction(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<(), Error> {
    connection.execute_batch("BEGIN IMMEDIATE").map_err(errors::engine)?;
    let done = work(connection).and_then(|()| connection.execute_batch("COMMIT"));
    if done.is_err() && !connection.is_autocommit() {
        drop(connection.execute_batch("ROLLBACK"));
    }
    done.map_err(errors::engine)
}
