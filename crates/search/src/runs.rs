//! The runs in the store: how they are read, how postings are taken out of them, and how small ones become large ones.
//!
//! What is indexed at a time becomes a run, a few rows. Eight runs of about one size are merged into the next larger one,
//! up to a size at which looking through a word's postings is still quick. So a posting is written five times in its life
//! rather than with every message that has the same word.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use store::tables::search::{SearchBlockRow, SearchRunRow};
use store::{CommitBatch, EventNum, Read, Value};

use crate::block::{Packer, Posting, pack, unpack};
use crate::words::Term;
use crate::{Result, Search};

/// A run that is read.
const LIVE: i64 = 0;
/// A run in the making; if nobody makes it, it is cleared away.
const BUILDING: i64 = 1;
/// A run whose blocks are cleared away.
const DEAD: i64 = 2;

/// Runs of one size that become one of the next.
const FAN_IN: usize = 8;
/// From so many documents on a run is not merged any more.
const DOCUMENTS_FINAL: i64 = 32_768;
/// Blocks that are written, read or deleted at a time.
const BLOCKS_AT_A_TIME: u32 = 64;
/// Most runs: those of the last size are as many as there are.
const RUNS_MAX: u32 = 100_000;
/// Postings whose blocks are looked for at a time.
const LOOKED_FOR_MAX: usize = 2_000;

/// A document as the runs know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub documents: i64,
    pub from_ms: i64,
    pub to_ms: i64,
    pub from_event: EventNum,
    pub to_event: EventNum,
}

impl Bounds {
    /// Of postings; `None` if there are none.
    fn of(postings: &[Posting]) -> Option<Self> {
        let documents: BTreeSet<EventNum> = postings.iter().map(|posting| posting.event).collect();
        let times = || postings.iter().map(|posting| posting.at_ms);
        Some(Self {
            documents: i64::try_from(documents.len()).unwrap_or(i64::MAX),
            from_ms: times().min()?,
            to_ms: times().max()?,
            from_event: *documents.first()?,
            to_event: *documents.last()?,
        })
    }

    /// Of several runs together.
    fn around(runs: &[SearchRunRow]) -> Option<Self> {
        Some(Self {
            documents: runs.iter().map(|run| run.documents).sum(),
            from_ms: runs.iter().map(|run| run.from_ms).min()?,
            to_ms: runs.iter().map(|run| run.to_ms).max()?,
            from_event: runs.iter().map(|run| run.from_event).min()?,
            to_event: runs.iter().map(|run| run.to_event).max()?,
        })
    }

    fn row(self, run: i64, state: i64) -> SearchRunRow {
        let Self { documents, from_ms, to_ms, from_event, to_event } = self;
        SearchRunRow { run, state, documents, from_ms, to_ms, from_event, to_event }
    }
}

/// The size class of a run.
fn tier(documents: i64) -> u32 {
    let fan_in = i64::try_from(FAN_IN).unwrap_or(i64::MAX);
    let (mut tier, mut reach) = (0, fan_in);
    while reach <= documents {
        (tier, reach) = (tier + 1, reach.saturating_mul(fan_in));
    }
    tier
}

impl Search {
    /// The runs that are read.
    pub(crate) async fn live_runs(&self) -> Result<Vec<SearchRunRow>> {
        let mut runs = self.all_runs().await?;
        runs.retain(|run| run.state == LIVE);
        Ok(runs)
    }

    async fn all_runs(&self) -> Result<Vec<SearchRunRow>> {
        Ok(self.store.all(Read::prefix::<SearchRunRow>(vec![]).limit(RUNS_MAX)).await?)
    }

    /// Adds a run of these postings to a batch.
    pub(crate) async fn add_run(&self, mut postings: Vec<Posting>, batch: &mut CommitBatch) -> Result<()> {
        postings.sort_unstable();
        postings.dedup();
        let Some(bounds) = Bounds::of(&postings) else { return Ok(()) };
        let run = self.store.next_number("search_runs").await?;
        batch.put(bounds.row(run, LIVE));
        let mut packer = Packer::default();
        for posting in postings {
            put_block(batch, run, packer.push(posting));
        }
        put_block(batch, run, packer.finish());
        Ok(())
    }

    /// Takes postings out of the runs that have them.
    pub(crate) async fn remove_postings(&self, removed: &BTreeSet<Posting>, batch: &mut CommitBatch) -> Result<()> {
        if removed.is_empty() {
            return Ok(());
        }
        let runs = self.live_runs().await?;
        let mut places: Vec<(i64, Posting)> = Vec::new();
        for posting in removed {
            let holding = runs.iter().filter(|run| {
                (run.from_ms..=run.to_ms).contains(&posting.at_ms)
                    && (run.from_event..=run.to_event).contains(&posting.event)
            });
            places.extend(holding.map(|run| (run.run, *posting)));
        }
        let mut blocks: BTreeMap<(i64, Vec<u8>), Vec<u8>> = BTreeMap::new();
        for some in places.chunks(LOOKED_FOR_MAX) {
            let reads = some.iter().map(|(run, posting)| block_with(*run, posting)).collect();
            for rows in self.store.read(reads).await? {
                if let Some(row) = rows.one::<SearchBlockRow>()? {
                    blocks.insert((row.run, row.first), row.postings);
                }
            }
        }
        for ((run, first), bytes) in blocks {
            let mut postings = unpack(&bytes).ok_or_else(|| damaged(run))?;
            let before = postings.len();
            postings.retain(|posting| !removed.contains(posting));
            if postings.is_empty() {
                batch.delete::<SearchBlockRow>(vec![run.into(), first.into()]);
            } else if postings.len() < before {
                batch.put(SearchBlockRow { run, first, postings: pack(&postings) });
            }
        }
        Ok(())
    }

    /// Does some of what keeps the runs few: false if there was nothing to do.
    pub(crate) async fn tidy_runs(&self) -> Result<bool> {
        let runs = self.all_runs().await?;
        if let Some(run) = runs.iter().find(|run| run.state != LIVE) {
            return self.clear_run(run).await;
        }
        let mut tiers: BTreeMap<u32, Vec<SearchRunRow>> = BTreeMap::new();
        for run in runs.into_iter().filter(|run| run.documents < DOCUMENTS_FINAL) {
            tiers.entry(tier(run.documents)).or_default().push(run);
        }
        match tiers.into_values().find(|runs| runs.len() >= FAN_IN) {
            Some(mut runs) => {
                runs.truncate(FAN_IN);
                self.merge(runs).await
            }
            None => Ok(false),
        }
    }

    /// Marks all runs as dead.
    pub(crate) async fn bury_runs(&self, batch: &mut CommitBatch) -> Result<()> {
        for run in self.all_runs().await? {
            batch.put(SearchRunRow { state: DEAD, ..run });
        }
        Ok(())
    }

    /// Deletes some blocks of a run that nobody reads, and the run with the last of them.
    async fn clear_run(&self, run: &SearchRunRow) -> Result<bool> {
        let read = Read::prefix::<SearchBlockRow>(vec![run.run.into()]).limit(BLOCKS_AT_A_TIME);
        let blocks: Vec<SearchBlockRow> = self.store.all(read).await?;
        let mut batch = CommitBatch::new();
        if blocks.len() < BLOCKS_AT_A_TIME as usize {
            batch.delete::<SearchRunRow>(vec![run.run.into()]);
        }
        for block in blocks {
            batch.delete::<SearchBlockRow>(vec![block.run.into(), block.first.into()]);
        }
        self.commit_held(batch, None).await
    }

    /// Makes one run of several. Its blocks are written ahead; then it takes their place in one step.
    async fn merge(&self, runs: Vec<SearchRunRow>) -> Result<bool> {
        let Some(bounds) = Bounds::around(&runs) else { return Ok(false) };
        let run = self.store.next_number("search_runs").await?;
        let mut batch = CommitBatch::new();
        batch.put(bounds.row(run, BUILDING));
        let mut sources = Vec::new();
        for row in &runs {
            sources.push(Source {
                run: row.run,
                after: None,
                done: false,
                blocks: VecDeque::new(),
                postings: VecDeque::new(),
            });
        }
        let (mut packer, mut n_blocks, mut last) = (Packer::default(), 0, None);
        loop {
            for source in &mut sources {
                source.fill(self).await?;
            }
            let next = sources.iter_mut().filter(|source| !source.postings.is_empty());
            let Some(source) = next.min_by_key(|source| source.postings.front().copied()) else { break };
            let Some(posting) = source.postings.pop_front() else { break };
            if last.replace(posting) == Some(posting) {
                continue;
            }
            if let Some(block) = packer.push(posting) {
                put_block(&mut batch, run, Some(block));
                n_blocks += 1;
                if n_blocks % BLOCKS_AT_A_TIME == 0 && !self.commit_held(std::mem::take(&mut batch), None).await? {
                    return Ok(false);
                }
            }
        }
        put_block(&mut batch, run, packer.finish());
        batch.put(bounds.row(run, LIVE));
        for row in runs {
            batch.put(SearchRunRow { state: DEAD, ..row });
        }
        self.commit_held(batch, None).await
    }

    /// The postings of a run that lie between two, both included; how many were read besides.
    pub(crate) async fn postings_between(
        &self,
        run: i64,
        ranges: &[(Posting, Posting)],
    ) -> Result<(Vec<Posting>, usize)> {
        let mut reads = Vec::with_capacity(ranges.len() * 2);
        for (first, last) in ranges {
            reads.push(block_with(run, first));
            reads.push(Read::prefix::<SearchBlockRow>(vec![run.into()]).after(first.key()).up_to(last.key()));
        }
        let (mut found, mut n_read) = (Vec::new(), 0);
        let mut rows = self.store.read(reads).await?.into_iter();
        for (first, last) in ranges {
            for rows in rows.by_ref().take(2) {
                for row in rows.all::<SearchBlockRow>()? {
                    let postings = unpack(&row.postings).ok_or_else(|| damaged(run))?;
                    n_read += postings.len();
                    let from = postings.partition_point(|posting| posting < first);
                    found.extend(postings.into_iter().skip(from).take_while(|posting| posting <= last));
                }
            }
        }
        Ok((found, n_read))
    }
}

/// The ranges of postings of some terms, in rooms or in all.
pub(crate) fn ranges_of((first, last): (Term, Term), rooms: Option<&[store::RoomNum]>) -> Vec<(Posting, Posting)> {
    match rooms {
        Some(rooms) if first == last => {
            rooms.iter().map(|room| (Posting::first_in(first, *room), Posting::last_in(first, *room))).collect()
        }
        _ => vec![(Posting::first_of(first), Posting::last_of(last))],
    }
}

/// A run that is being merged.
struct Source {
    run: i64,
    after: Option<Vec<u8>>,
    /// All of it was read.
    done: bool,
    blocks: VecDeque<SearchBlockRow>,
    postings: VecDeque<Posting>,
}

impl Source {
    /// Reads on if nothing is left of what was read.
    async fn fill(&mut self, search: &Search) -> Result<()> {
        while self.postings.is_empty() && !self.done {
            if self.blocks.is_empty() {
                let read = Read::prefix::<SearchBlockRow>(vec![self.run.into()]);
                let read = match &self.after {
                    Some(after) => read.after(after.clone()),
                    None => read,
                };
                self.blocks = search.store.all::<SearchBlockRow>(read.limit(BLOCKS_AT_A_TIME)).await?.into();
            }
            let Some(block) = self.blocks.pop_front() else {
                self.done = true;
                break;
            };
            self.postings = unpack(&block.postings).ok_or_else(|| damaged(self.run))?.into();
            self.after = Some(block.first);
        }
        Ok(())
    }
}

/// The block that has a posting, if the run does.
fn block_with(run: i64, posting: &Posting) -> Read {
    Read::prefix::<SearchBlockRow>(vec![run.into()]).up_to(Value::Blob(posting.key())).reverse().limit(1)
}

fn put_block(batch: &mut CommitBatch, run: i64, block: Option<(Posting, Vec<u8>)>) {
    if let Some((first, postings)) = block {
        batch.put(SearchBlockRow { run, first: first.key(), postings });
    }
}

fn damaged(run: i64) -> store::Error {
    store::Error::Corrupt { table: "search_blocks", detail: format!("a block of run {run} cannot be read") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_like_size_are_of_one_tier() {
        let table = [(0, 0), (1, 0), (7, 0), (8, 1), (63, 1), (64, 2), (4_096, 4), (32_767, 4), (32_768, 5)];
        for (documents, expected) in table {
            assert_eq!(tier(documents), expected, "{documents}");
        }
    }
}
