//! Moves a whole database from one engine to another: every table, in key order, positions and numbers as they are.

use async_trait::async_trait;
use store::tables::core::{MetaRow, StreamRow, WriterRow};
use store::tables::rooms::RoomRow;
use store::tables::users::AccountRow;
use store::{Engine, Error, Read, Row, Rows, Table, Value};

/// What is copied.
#[async_trait]
pub trait Source: Send + Sync {
    /// Answers reads as [`Engine::read`] does. From one call to the next nothing may change.
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error>;
}

/// A database on which nobody works.
pub struct Resting<'a>(pub &'a dyn Engine);

#[async_trait]
impl Source for Resting<'_> {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        self.0.read(reads).await
    }
}

#[async_trait]
impl Source for postgres::Snapshot {
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        Self::read(self, reads).await
    }
}

/// Rows that are read and written at a time.
const PAGE_ROWS: u32 = 500;

/// Copies everything. `progress` is told the table and how many of its rows are done.
///
/// # Errors
/// [`Error::Unusable`] if the target holds anything; else as the engines say. What was copied until then stays, so an
/// unfinished target must be emptied before the next attempt.
pub async fn copy(from: &dyn Source, to: &dyn Engine, mut progress: impl FnMut(&str, u64)) -> Result<u64, Error> {
    refuse_used(to).await?;
    let mut all = 0;
    // Whose commits a process made is of no interest to others. The facts come last: without a server name, an
    // unfinished copy is not taken for a whole one.
    let (facts, tables): (Vec<_>, Vec<_>) =
        store::tables::all().into_iter().partition(|table| *table == MetaRow::TABLE);
    for table in tables.into_iter().filter(|table| *table != WriterRow::TABLE).chain(facts) {
        let mut pages = Pages::new(table);
        let mut rows = 0;
        while let Some(page) = pages.next(from).await? {
            rows += page.len() as u64;
            to.import(table, page).await?;
            progress(table.name, rows);
        }
        all += rows;
    }
    Ok(all)
}

async fn refuse_used(to: &dyn Engine) -> Result<(), Error> {
    let reads = vec![
        Read::prefix::<AccountRow>(Vec::new()).limit(1),
        Read::prefix::<RoomRow>(Vec::new()).limit(1),
        Read::prefix::<StreamRow>(Vec::new()).limit(1),
    ];
    if to.read(reads).await?.iter().all(|rows| rows.0.is_empty()) {
        return Ok(());
    }
    Err(Error::Unusable("the target database is not empty: name another one, or empty it".to_owned()))
}

/// Walks a table along its primary key.
struct Pages {
    table: &'static Table,
    /// The key of the last row that was seen.
    last: Option<Vec<Value>>,
}

impl Pages {
    fn new(table: &'static Table) -> Self {
        Self { table, last: None }
    }

    /// The next rows, or `None` at the end.
    async fn next(&mut self, from: &dyn Source) -> Result<Option<Vec<Vec<Value>>>, Error> {
        let mut page = Vec::new();
        for rows in from.read(self.reads()).await? {
            let full = rows.0.len() as u64 >= u64::from(PAGE_ROWS);
            page.extend(rows.0);
            if full {
                break;
            }
        }
        let Some(last) = page.last() else { return Ok(None) };
        self.last = Some(self.table.key_of(last));
        Ok(Some(page))
    }

    /// What follows (a, b, c) in key order: what follows c under (a, b), then what follows b under (a), then what
    /// follows a.
    fn reads(&self) -> Vec<Read> {
        let all = Read { limit: PAGE_ROWS, table: self.table, ..Read::prefix::<MetaRow>(Vec::new()) };
        let Some(last) = &self.last else { return vec![all] };
        let mut reads = Vec::new();
        for (depth, value) in last.iter().enumerate().rev() {
            let prefix = last.iter().take(depth).cloned().collect();
            reads.push(Read { prefix, ..all.clone() }.after(value.clone()));
        }
        reads
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use store::model::Model;
    use store::tables::core::{CounterRow, JobRow};

    use super::*;

    async fn rows<R: Row>(engine: &Model) -> Vec<Vec<Value>> {
        engine.read(vec![Read::prefix::<R>(Vec::new())]).await.unwrap().remove(0).0
    }

    fn job(kind: usize, name: usize) -> Vec<Value> {
        JobRow { kind: format!("{kind:04}"), name: format!("{name:04}"), cursor: String::new(), due_ms: 0, failures: 0 }
            .into_values()
    }

    #[tokio::test]
    async fn every_row_arrives_once_and_the_counter_too() {
        let (from, to) = (Model::new(), Model::new());
        // Sections larger and smaller than a page, and one that ends with it.
        let sizes = [1, PAGE_ROWS as usize, 2 * PAGE_ROWS as usize + 7, 3, PAGE_ROWS as usize - 1];
        for (kind, size) in sizes.iter().enumerate() {
            from.import(JobRow::TABLE, (0..*size).map(|name| job(kind, name)).collect()).await.unwrap();
        }
        from.import(CounterRow::TABLE, vec![CounterRow { id: 1, pos: 77 }.into_values()]).await.unwrap();
        let writer = WriterRow { writer: "gone".to_owned(), commits: 1, last_pos: 1 }.into_values();
        from.import(WriterRow::TABLE, vec![writer]).await.unwrap();

        let copied = copy(&Resting(&from), &to, |_, _| {}).await.unwrap();

        assert_eq!(copied, sizes.iter().sum::<usize>() as u64 + 1);
        assert_eq!(rows::<JobRow>(&to).await, rows::<JobRow>(&from).await);
        assert_eq!(rows::<CounterRow>(&to).await, rows::<CounterRow>(&from).await);
        assert!(rows::<WriterRow>(&to).await.is_empty());
    }

    #[tokio::test]
    async fn a_used_target_is_refused() {
        let (from, to) = (Model::new(), Model::new());
        let row = StreamRow { pos: store::StreamPosition(1), kind: 1, room: None, user_id: None, number: None };
        to.import(StreamRow::TABLE, vec![row.into_values()]).await.unwrap();
        assert!(matches!(copy(&Resting(&from), &to, |_, _| {}).await, Err(Error::Unusable(_))));
    }
}
