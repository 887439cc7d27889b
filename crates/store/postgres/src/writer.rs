//! The writer: one task with one connection turns the queue of batches into transactions, several batches in each.
//!
//! A group takes one or two round trips. If any batch has checks, the first begins the transaction, claims the commit
//! number, locks and reads the checked rows. The second deletes ranges, writes rows, moves the counter, writes the rows
//! that carry positions, and commits. The row lock on the counter is held from its update to the commit, so positions
//! become visible in their order, over all nodes.
//!
//! Each transaction carries a number that grows, in this process's row of `writers`. When the connection is lost after a
//! COMMIT was sent, the row tells whether that number was committed; if not, the number is burnt in the same statement, so
//! that what may still lie in a buffer of the old connection fails when it comes to be executed. Only then is the group
//! answered or submitted again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use store::merge::{self, Address, Merged};
use store::{
    Check, CommitBatch, CommitError, Committed, Error, Expect, Outcome, StreamEntry, StreamPosition, Table, Value,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::connection::{Backoff, CHANNEL, Call, Connection, Fault, Hints};
use crate::params::{Param, decode_row, key_arrays};
use crate::route::Route;
use crate::sql::{self, Insertion};

/// The most batches of one transaction.
const GROUP_BATCHES_MAX: usize = 256;

/// The writes after which a transaction takes no further batch.
const GROUP_WRITES_MAX: usize = 20_000;

/// The bytes of values after which a transaction takes no further batch.
const GROUP_BYTES_MAX: usize = 16 << 20;

/// How often a group is tried again because other transactions are in its way.
const BUSY_MAX: usize = 50;

/// How long PostgreSQL may be away before groups that are known not to be committed are given up.
const PATIENCE: Duration = Duration::from_secs(30);

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Claims commit number `$2`, which must be the highest so far: else it divides by zero and the transaction fails.
const CLAIM: &str = "WITH claim AS (INSERT INTO writers (writer, commits, last_pos) VALUES ($1::text, $2::bigint, 0) \
    ON CONFLICT (writer) DO UPDATE SET commits = excluded.commits WHERE writers.commits < excluded.commits RETURNING 1) \
    SELECT 1 / count(*) FROM claim";

/// Waits for the old connection's transaction, then burns number `$2` unless it was committed: committed numbers are even.
const LEARN: &str = "INSERT INTO writers (writer, commits, last_pos) VALUES ($1::text, $2::bigint + 1, 0) \
    ON CONFLICT (writer) DO UPDATE SET commits = CASE WHEN writers.commits = $2::bigint THEN $2::bigint \
    ELSE $2::bigint + 1 END RETURNING commits, last_pos";

const FORGET: &str = "DELETE FROM writers WHERE writer = $1::text";

/// Ends the server process of this writer's lost connections: it may wait for the network while it holds locks.
const END_OTHERS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE application_name = $1::text AND pid <> pg_backend_pid() AND datname = current_database()";

const ADVISORY: &str = "SELECT pg_advisory_xact_lock(hash) FROM unnest($1::bigint[]) AS u(hash)";

/// The row appears with the first stream entry.
const COUNTER: &str = "SELECT coalesce(max(pos), 0) FROM counter WHERE id = 1";

const NOTE_END: &str = "WITH c AS (SELECT coalesce(max(pos), 0) AS pos FROM counter WHERE id = 1), \
    w AS (UPDATE writers SET last_pos = c.pos FROM c WHERE writer = $1::text) SELECT pos FROM c";

/// A queued batch.
pub struct Job {
    /// What is to be committed.
    pub batch: CommitBatch,
    /// Whom to tell.
    pub outcome: Outcome,
}

/// A group whose outcome is known: to be published, then answered.
pub struct Settled {
    /// The position up to which everything must have been published before the answers go out.
    pub end: i64,
    /// What the group itself committed: the last entries before `end`.
    pub entries: Vec<StreamEntry>,
    /// Whom to tell what.
    pub answers: Vec<(Outcome, Result<Committed, CommitError>)>,
}

/// The writer's task.
pub struct Writer {
    /// Where PostgreSQL is; its application name is unique to this writer.
    pub route: Route,
    /// Name of this process in `writers`.
    pub name: String,
    /// The queue.
    pub queue: mpsc::Receiver<Job>,
    /// To the publisher.
    pub settled: mpsc::Sender<Settled>,
    /// The connection, if it stands.
    pub connection: Option<Connection>,
    /// What other nodes tell of, and where the writer's server process is noted for the listener.
    pub hints: Hints,
    /// How long PostgreSQL may take for one round trip.
    pub commit_wait: Duration,
    /// Number of the last transaction tried; even.
    pub number: i64,
    /// Since when PostgreSQL has been away.
    pub away: Option<Instant>,
}

struct Group {
    batches: Vec<CommitBatch>,
    outcomes: Vec<Outcome>,
}

/// What a transaction did, or is about to.
struct Judged {
    stream: Vec<StreamEntry>,
    outcomes: Vec<Result<(usize, usize), usize>>,
}

enum Tried {
    /// It is known what became of every batch; the stream ends here.
    Known(Judged, i64),
    /// Nothing was committed.
    Failed(Fault),
    /// The connection was lost when COMMIT may have been sent.
    InDoubt(Judged, String),
}

/// The publisher has ended.
struct Unpublished;

/// What a group came to.
enum Came {
    Settled(Judged, i64),
    /// One batch spoils it: each is to be tried alone.
    Split,
    Failed(Error),
}

impl Writer {
    /// Works until the queue is closed and empty.
    pub async fn run(mut self) {
        let mut waiting = VecDeque::new();
        while let Some(group) = self.next_group(&mut waiting).await {
            if self.settle(group).await.is_err() {
                tracing::error!("a commit cannot be published, since the publisher has ended: the writer ends too");
                return;
            }
        }
        if let Some(connection) = &mut self.connection
            && let Ok(call) = connection.call(FORGET, vec![text(&self.name)]).await
            && let Err(fault) = connection.run(&[call], self.commit_wait).await
        {
            tracing::debug!(?fault, "the writer's row stays behind");
        }
    }

    async fn next_group(&mut self, waiting: &mut VecDeque<Job>) -> Option<Group> {
        let room = GROUP_BATCHES_MAX.saturating_sub(waiting.len());
        if waiting.is_empty() {
            waiting.push_back(self.queue.recv().await?);
        }
        for _ in 0..room {
            let Ok(job) = self.queue.try_recv() else { break };
            waiting.push_back(job);
        }
        let mut group = Group { batches: Vec::new(), outcomes: Vec::new() };
        let (mut writes, mut bytes) = (0, 0);
        while let Some(job) = waiting.pop_front() {
            writes += job.batch.writes.len() + job.batch.checks.len() + job.batch.stream.len();
            bytes += job.batch.writes.iter().map(weight).sum::<usize>();
            if !group.batches.is_empty() && (writes > GROUP_WRITES_MAX || bytes > GROUP_BYTES_MAX) {
                waiting.push_front(job);
                break;
            }
            group.batches.push(job.batch);
            group.outcomes.push(job.outcome);
        }
        Some(group)
    }

    /// Commits a group, and its batches one by one if one of them spoils it.
    async fn settle(&mut self, group: Group) -> Result<(), Unpublished> {
        let mut groups = VecDeque::from([group]);
        while let Some(group) = groups.pop_front() {
            match self.commit(&group.batches).await {
                Came::Settled(judged, end) => self.answer(group.outcomes, judged, end).await?,
                Came::Split => {
                    let alone = group.batches.into_iter().zip(group.outcomes);
                    groups
                        .extend(alone.map(|(batch, outcome)| Group { batches: vec![batch], outcomes: vec![outcome] }));
                }
                Came::Failed(error) => {
                    for outcome in group.outcomes {
                        // Nobody may wait for it any more.
                        drop(outcome.send(Err(CommitError::Store(error.clone()))));
                    }
                }
            }
        }
        Ok(())
    }

    async fn answer(&self, outcomes: Vec<Outcome>, judged: Judged, end: i64) -> Result<(), Unpublished> {
        let before = end - int(judged.stream.len());
        let answers = outcomes.into_iter().zip(judged.outcomes).map(|(outcome, judgment)| {
            let answer = match judgment {
                Ok((place, count)) => {
                    let last = before + int(place) + int(count);
                    let first = if count > 0 { before + int(place) + 1 } else { last };
                    Ok(Committed { first: StreamPosition(first), last: StreamPosition(last) })
                }
                Err(check) => Err(CommitError::Conflict { check }),
            };
            (outcome, answer)
        });
        let settled = Settled { end, entries: judged.stream, answers: answers.collect() };
        self.settled.send(settled).await.map_err(|_| Unpublished)
    }

    /// Tries until the outcome is known.
    async fn commit(&mut self, batches: &[CommitBatch]) -> Came {
        let mut backoff = Backoff::new();
        let mut busy = 0;
        let mut thorough = false;
        loop {
            match self.attempt(batches, thorough).await {
                Tried::Known(judged, end) => return Came::Settled(judged, end),
                Tried::InDoubt(judged, reason) => {
                    tracing::warn!(reason, "the connection to PostgreSQL was lost in a commit; asking for its outcome");
                    if let Some(end) = self.learn().await {
                        return Came::Settled(judged, end);
                    }
                }
                Tried::Failed(Fault::Lost(reason)) => {
                    let since = *self.away.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        return Came::Failed(Fault::Lost(reason).into_error());
                    }
                    tracing::warn!(reason, "PostgreSQL cannot be reached; a commit waits");
                    backoff.pause().await;
                }
                Tried::Failed(Fault::Busy(reason)) => {
                    busy += 1;
                    if busy > BUSY_MAX {
                        return Came::Failed(Fault::Busy(reason).into_error());
                    }
                    tracing::debug!(reason, "a commit is tried again");
                    backoff.pause().await;
                }
                Tried::Failed(Fault::Refused(Error::DiskFull)) => return Came::Failed(Error::DiskFull),
                Tried::Failed(_) if batches.len() > 1 => return Came::Split,
                Tried::Failed(Fault::Unique(_)) if !thorough => thorough = true,
                Tried::Failed(fault) => return Came::Failed(fault.into_error()),
            }
        }
    }

    async fn connect(&mut self) -> Result<Connection, Fault> {
        if let Some(connection) = self.connection.take().filter(|connection| !connection.is_closed()) {
            return Ok(connection);
        }
        let mut connection = Connection::open(&self.route, None).await?;
        self.away = None;
        let name = self.route.config.get_application_name().unwrap_or_default().to_owned();
        let call = connection.call(END_OTHERS, vec![text(&name)]).await?;
        connection.run(&[call], self.commit_wait).await?;
        self.hints.own.store(connection.pid, Ordering::Relaxed);
        Ok(connection)
    }

    async fn attempt(&mut self, batches: &[CommitBatch], thorough: bool) -> Tried {
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(fault) => return Tried::Failed(fault),
        };
        self.number += 2;
        let mut transaction = Transaction {
            connection: &mut connection,
            name: &self.name,
            number: self.number,
            wait: self.commit_wait,
            thorough,
            alone: *self.hints.told.borrow() == 0,
        };
        let tried = transaction.run(batches).await;
        match &tried {
            Tried::Known(..) => self.connection = Some(connection),
            Tried::Failed(Fault::Lost(_)) | Tried::InDoubt(..) => {}
            Tried::Failed(_) => {
                if connection.execute("ROLLBACK").await.is_ok() {
                    self.connection = Some(connection);
                }
            }
        }
        tried
    }

    /// Whether the last transaction was committed, and if so, where the stream ended then. Takes as long as it takes:
    /// nobody may be answered before this is known.
    async fn learn(&mut self) -> Option<i64> {
        let mut backoff = Backoff::new();
        loop {
            match self.learn_once().await {
                Ok(end) => return end,
                Err(fault) => {
                    tracing::warn!(?fault, "the outcome of a commit is not known yet");
                    backoff.pause().await;
                }
            }
        }
    }

    async fn learn_once(&mut self) -> Result<Option<i64>, Fault> {
        let mut connection = self.connect().await?;
        let call = connection.call(LEARN, vec![text(&self.name), Param::Int(Some(self.number))]).await?;
        let rows = connection.run(&[call], self.commit_wait).await?;
        let row = rows.first().and_then(|rows| rows.first());
        let committed = row.and_then(|row| row.try_get::<_, i64>(0).ok());
        let end = row.and_then(|row| row.try_get::<_, i64>(1).ok());
        let (Some(committed), Some(end)) = (committed, end) else {
            return Err(Fault::Lost("PostgreSQL does not tell what was committed".to_owned()));
        };
        self.connection = Some(connection);
        Ok((committed == self.number).then_some(end))
    }
}

/// One try of one group.
struct Transaction<'a> {
    connection: &'a mut Connection,
    name: &'a str,
    number: i64,
    wait: Duration,
    /// Delete every row before it is written, so that unique values may change places.
    thorough: bool,
    /// No other node was heard of, so nobody is in the way.
    alone: bool,
}

impl Transaction<'_> {
    async fn run(&mut self, batches: &[CommitBatch]) -> Tried {
        let checked = merge::checked_rows(batches);
        let mut stored = BTreeMap::new();
        if !checked.is_empty() {
            let (rows, end) = match self.lock(batches, &checked).await {
                Ok(found) => found,
                Err(fault) => return Tried::Failed(fault),
            };
            stored = rows;
            let merged = merge::merge(batches, &stored);
            if merged.is_empty() {
                return match self.connection.execute("ROLLBACK").await {
                    Ok(()) => Tried::Known(Judged { stream: merged.stream, outcomes: merged.outcomes }, end),
                    Err(fault) => Tried::Failed(fault),
                };
            }
            return self.write(merged, &absent(&checked, &stored), true).await;
        }
        self.write(merge::merge(batches, &stored), &BTreeSet::new(), false).await
    }

    async fn opening(&mut self) -> Result<Vec<Call<'static>>, Fault> {
        let claim = vec![Param::Text(Some(self.name.to_owned().into())), Param::Int(Some(self.number))];
        Ok(vec![self.connection.call(BEGIN, Vec::new()).await?, self.connection.call(CLAIM, claim).await?])
    }

    /// Begins the transaction; locks and reads the checked rows and then the stream's end.
    async fn lock(
        &mut self,
        batches: &[CommitBatch],
        checked: &[(&'static Table, Vec<Value>)],
    ) -> Result<(BTreeMap<Address, Vec<Value>>, i64), Fault> {
        let mut calls: Vec<Call<'_>> = self.opening().await?;
        let hashes = expected_absent(batches);
        if !hashes.is_empty() {
            calls.push(self.connection.call(ADVISORY, vec![Param::Ints(hashes)]).await?);
        }
        let first = calls.len();
        let mut tables: Vec<(&'static Table, Vec<&[Value]>)> = Vec::new();
        for (table, key) in checked {
            match tables.last_mut() {
                Some((last, keys)) if last == table => keys.push(key),
                _ => tables.push((table, vec![key])),
            }
        }
        for (table, keys) in &tables {
            calls.push(self.connection.call(&sql::lock(table), key_arrays(table, table.key, keys)).await?);
        }
        calls.push(self.connection.call(COUNTER, Vec::new()).await?);
        let mut answers = self.connection.run(&calls, self.wait).await?.into_iter().skip(first);
        let mut stored = BTreeMap::new();
        for ((table, _), rows) in tables.iter().zip(answers.by_ref()) {
            for row in rows {
                let values = decode_row(table, &row, 0).map_err(Fault::Refused)?;
                stored.insert((table.name, table.key_of(&values)), values);
            }
        }
        Ok((stored, position(answers.next().as_deref())?))
    }

    /// Writes and commits, in one round trip.
    async fn write(&mut self, merged: Merged, absent: &BTreeSet<Address>, begun: bool) -> Tried {
        let prepared = self.write_calls(&merged, absent, begun).await;
        let (calls, counter) = match prepared {
            Ok(prepared) => prepared,
            Err(fault) => return Tried::Failed(fault),
        };
        let result = self.connection.run(&calls, self.wait).await;
        drop(calls);
        let fresh = |index: &str| absent.iter().any(|(table, _)| index.strip_suffix("_pkey") == Some(table));
        match result {
            Ok(answers) => match position(answers.get(counter).map(Vec::as_slice)) {
                Ok(end) => Tried::Known(judged(merged), end),
                // It is committed; where, the writer's row tells.
                Err(_) => Tried::InDoubt(judged(merged), "the counter's answer cannot be read".to_owned()),
            },
            Err(Fault::Lost(reason)) => Tried::InDoubt(judged(merged), reason),
            // Another node wrote a row that was absent a moment ago: the checks must be judged again.
            Err(Fault::Unique(index)) if fresh(&index) => Tried::Failed(Fault::Busy(format!("{index} was overtaken"))),
            Err(fault) => Tried::Failed(fault),
        }
    }

    /// All statements up to COMMIT, and the place of the counter's.
    async fn write_calls<'m>(
        &mut self,
        merged: &'m Merged,
        absent: &BTreeSet<Address>,
        begun: bool,
    ) -> Result<(Vec<Call<'m>>, usize), Fault> {
        let mut calls: Vec<Call<'m>> = if begun { Vec::new() } else { self.opening().await? };
        for range in &merged.ranges {
            let (text, params) = sql::delete_range(range);
            calls.push(self.connection.call(&text, params).await?);
        }
        let mut insertions: BTreeMap<Insert, (&'static Table, Vec<&'m [Value]>)> = BTreeMap::new();
        for (name, (table, rows)) in &merged.rows {
            let gone = |row: &Option<Vec<Value>>| self.thorough || row.is_none();
            let deleted: Vec<&[Value]> =
                rows.iter().filter(|(_, row)| gone(row)).map(|(key, _)| key.as_slice()).collect();
            if !deleted.is_empty() {
                calls.push(self.connection.call(&sql::delete(table), key_arrays(table, table.key, &deleted)).await?);
            }
            for (key, row) in rows {
                let Some(row) = row else { continue };
                let fresh = !absent.is_empty() && absent.contains(&(*name, key.clone()));
                let insertion = if fresh { Insertion::Fresh } else { Insertion::Replace };
                let insert = Insert { placed: is_placed(table, row), name, insertion };
                insertions.entry(insert).or_insert_with(|| (table, Vec::new())).1.push(row);
            }
        }
        let placed = insertions.split_off(&Insert { placed: true, name: "", insertion: Insertion::Fresh });
        let entries = int(merged.stream.len());
        for (insert, (table, rows)) in &insertions {
            calls.push(self.insertion(*insert, table, rows, entries).await?);
        }
        // Who holds the counter must not wait for a row whose holder waits for the counter.
        for (insert, (table, rows)) in placed.iter().filter(|_| !self.alone) {
            let keys = rows.iter().filter_map(|row| row.get(..table.key)).filter(|key| !is_placed(table, key));
            let keys: Vec<&[Value]> = keys.collect();
            if insert.insertion == Insertion::Replace && !keys.is_empty() {
                calls.push(self.connection.call(&sql::hold(table), key_arrays(table, table.key, &keys)).await?);
            }
        }
        let counter = calls.len();
        calls.push(self.counter(entries).await?);
        for (insert, (table, rows)) in &placed {
            calls.push(self.insertion(*insert, table, rows, entries).await?);
        }
        calls.push(self.connection.call("COMMIT", Vec::new()).await?);
        Ok((calls, counter))
    }

    async fn insertion<'m>(
        &mut self,
        insert: Insert,
        table: &Table,
        rows: &[&'m [Value]],
        entries: i64,
    ) -> Result<Call<'m>, Fault> {
        let mut params = key_arrays(table, table.columns.len(), rows);
        if insert.placed {
            params.push(Param::Int(Some(entries)));
        }
        self.connection.call(&sql::insert(table, insert.insertion, insert.placed), params).await
    }

    /// Moves the counter by the number of stream entries, notes its place in the writer's row, and tells other nodes.
    async fn counter(&mut self, entries: i64) -> Result<Call<'static>, Fault> {
        let name = Param::Text(Some(self.name.to_owned().into()));
        if entries == 0 {
            return self.connection.call(NOTE_END, vec![name]).await;
        }
        let text = format!(
            "WITH c AS (INSERT INTO counter (id, pos) VALUES (1, $2::bigint) \
             ON CONFLICT (id) DO UPDATE SET pos = counter.pos + excluded.pos RETURNING pos), \
             w AS (UPDATE writers SET last_pos = c.pos FROM c WHERE writer = $1::text) \
             SELECT pos, pg_notify('{CHANNEL}', (pos - $2::bigint + 1)::text || ',' || pos::text) FROM c"
        );
        self.connection.call(&text, vec![name, Param::Int(Some(entries))]).await
    }
}

/// Rows that one statement inserts; those with positions come after the counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Insert {
    placed: bool,
    name: &'static str,
    insertion: Insertion,
}

fn judged(merged: Merged) -> Judged {
    Judged { stream: merged.stream, outcomes: merged.outcomes }
}

fn int(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn text(content: &str) -> Param<'_> {
    Param::Text(Some(content.into()))
}

fn position(rows: Option<&[Row]>) -> Result<i64, Fault> {
    rows.and_then(|rows| rows.first()).and_then(|row| row.try_get(0).ok()).ok_or_else(|| {
        let detail = "the stream counter cannot be read".to_owned();
        Fault::Refused(Error::Corrupt { table: "counter", detail })
    })
}

fn is_placed(table: &Table, row: &[Value]) -> bool {
    table.columns.iter().zip(row).any(|(column, value)| {
        column.column_type == store::ColumnType::Position && matches!(value, Value::Int(number) if *number < 0)
    })
}

fn absent(checked: &[(&'static Table, Vec<Value>)], stored: &BTreeMap<Address, Vec<Value>>) -> BTreeSet<Address> {
    let addresses = checked.iter().map(|(table, key)| (table.name, key.clone()));
    addresses.filter(|address| !stored.contains_key(address)).collect()
}

/// Lock numbers of the rows that are expected to be absent, sorted: a row that is not there cannot be locked itself.
fn expected_absent(batches: &[CommitBatch]) -> Vec<Option<i64>> {
    let checks = batches.iter().flat_map(|batch| &batch.checks).filter(|check| check.expect == Expect::Absent);
    let hashes: BTreeSet<i64> = checks.map(lock_number).collect();
    hashes.into_iter().map(Some).collect()
}

/// FNV-1a over table and key: the same in every build, since nodes of several versions share these locks. Two keys with
/// one number only wait for each other.
fn lock_number(check: &Check) -> i64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in int(bytes.len()).to_le_bytes().iter().chain(bytes) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(check.table.name.as_bytes());
    for value in &check.key {
        match value {
            Value::Null => add(&[]),
            Value::Int(number) => add(&number.to_le_bytes()),
            Value::Text(content) => add(content.as_bytes()),
            Value::Blob(bytes) => add(bytes),
        }
    }
    i64::from_le_bytes(hash.to_le_bytes())
}

fn weight(write: &store::Write) -> usize {
    let store::Write::Put { row, .. } = write else { return 0 };
    row.iter()
        .map(|value| match value {
            Value::Null | Value::Int(_) => 8,
            Value::Text(content) => content.len(),
            Value::Blob(bytes) => bytes.len(),
        })
        .sum()
}
