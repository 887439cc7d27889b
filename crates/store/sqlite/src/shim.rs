//! A disk for tests and simulations, under the real SQLite: it keeps open files in memory, and what was not synced there
//! alone. When the power is cut each sector of that reaches the file, does not, does in part, or turns to garbage. It also
//! runs full and fails on demand. Seeded: the same operations meet the same fate.
//!
//! A [`Disk`] registers itself as a SQLite VFS; open a database on it with [`crate::Options::vfs`]. The files on the real
//! disk are what is durable. Locks and the shared memory of the log's index pass through to the system; that a file was
//! created, renamed or deleted counts as durable at once.

mod vfs;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use store::Error;

/// What a disk writes as one.
const SECTOR: usize = 512;
const SECTOR_U64: u64 = SECTOR as u64;

/// A disk that can lose power. Its VFS stays registered until the process ends; what it keeps of files goes with it, so it
/// has to outlive the databases on it.
pub struct Disk {
    name: String,
    state: Arc<Mutex<State>>,
}

impl Disk {
    /// A disk of its own, with power.
    ///
    /// # Errors
    /// [`Error::Engine`] if SQLite takes no further VFS.
    pub fn new(seed: u64) -> Result<Self, Error> {
        let state = Arc::new(Mutex::new(State::new(seed)));
        let name = vfs::register(&state).map_err(|code| Error::Engine(format!("no VFS: SQLite error {code}")))?;
        Ok(Self { name, state })
    }

    /// The name of its VFS, for [`crate::Options::vfs`].
    pub fn vfs(&self) -> &str {
        &self.name
    }

    /// Cuts the power now. Every open file is dead from here on, also after [`Disk::restore_power`].
    pub fn cut_power(&self) {
        self.state.lock().cut();
    }

    /// Cuts the power at the write or sync that comes after `operations` further ones.
    pub fn cut_power_after(&self, operations: u64) {
        self.state.lock().cut_after = Some(operations);
    }

    /// Lets files be opened again. Close what was open before the cut first.
    pub fn restore_power(&self) {
        let mut state = self.state.lock();
        state.dead = false;
        state.cut_after = None;
    }

    /// From now on files may grow by `bytes` in all; `None`: without limit.
    pub fn limit_growth(&self, bytes: Option<u64>) {
        self.state.lock().room = bytes;
    }

    /// Whether writes fail from now on.
    pub fn fail_writes(&self, fail: bool) {
        self.state.lock().fail_writes = fail;
    }

    /// Whether syncs fail from now on; what they should have made durable is not.
    pub fn fail_syncs(&self, fail: bool) {
        self.state.lock().fail_syncs = fail;
    }

    /// Whether syncs do nothing from now on and say that they did: a disk that lies.
    pub fn pretend_syncs(&self, pretend: bool) {
        self.state.lock().pretend_syncs = pretend;
    }

    /// How many syncs there were.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Whether the power is cut.
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The VFS holds the state for ever.
        self.state.lock().files = BTreeMap::new();
    }
}

/// Why an operation did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no power, or the file was open when it was cut.
    Dead,
    /// No room is left.
    Full,
    /// The disk says so.
    Failed,
}

/// The durable bytes of an open file.
pub(crate) trait Durable {
    /// Fills `bytes` from `offset`; zeros beyond the end.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Fault>;
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Fault>;
    fn truncate(&mut self, size: u64) -> Result<(), Fault>;
    fn size(&mut self) -> Result<u64, Fault>;
}

pub(crate) struct State {
    /// Counts power cuts: a file that was opened before the last one is dead.
    pub(crate) generation: u64,
    dead: bool,
    random: u64,
    cut_after: Option<u64>,
    room: Option<u64>,
    fail_writes: bool,
    fail_syncs: bool,
    pretend_syncs: bool,
    syncs: u64,
    files: BTreeMap<PathBuf, Cached>,
}

/// A file as those see it who have it open.
struct Cached {
    /// All its bytes.
    bytes: Vec<u8>,
    /// Durable bytes from here on were truncated away.
    valid: u64,
    /// Sectors that were written and not synced.
    dirty: BTreeSet<u64>,
}

impl State {
    fn new(seed: u64) -> Self {
        Self {
            generation: 0,
            dead: false,
            random: seed,
            cut_after: None,
            room: None,
            fail_writes: false,
            fail_syncs: false,
            pretend_syncs: false,
            syncs: 0,
            files: BTreeMap::new(),
        }
    }

    /// Whether a file opened in this generation still works.
    pub(crate) fn alive(&self, generation: u64) -> Result<(), Fault> {
        if self.dead || generation != self.generation { Err(Fault::Dead) } else { Ok(()) }
    }

    /// Counts an operation: the power may go with it.
    fn tick(&mut self) -> Result<(), Fault> {
        match self.cut_after {
            Some(0) => {
                self.cut();
                Err(Fault::Dead)
            }
            Some(left) => {
                self.cut_after = Some(left - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(crate) fn opened(&mut self, path: &Path, durable: &mut dyn Durable) -> Result<(), Fault> {
        if self.dead {
            return Err(Fault::Dead);
        }
        if !self.files.contains_key(path) {
            let size = durable.size()?;
            let mut bytes = vec![0; index(size)];
            durable.read(0, &mut bytes)?;
            self.files.insert(path.to_owned(), Cached { bytes, valid: size, dirty: BTreeSet::new() });
        }
        Ok(())
    }

    pub(crate) fn deleted(&mut self, path: &Path) -> Result<(), Fault> {
        if self.dead {
            return Err(Fault::Dead);
        }
        self.files.remove(path);
        Ok(())
    }

    pub(crate) fn size(&self, path: &Path) -> Result<u64, Fault> {
        self.files.get(path).map(Cached::size).ok_or(Fault::Dead)
    }

    /// Fills `bytes`; returns whether the file reaches so far.
    pub(crate) fn read(&self, path: &Path, offset: u64, bytes: &mut [u8]) -> Result<bool, Fault> {
        let file = self.files.get(path).ok_or(Fault::Dead)?;
        let there = file.bytes.get(index(offset)..).unwrap_or_default();
        let length = there.len().min(bytes.len());
        let (known, beyond) = bytes.split_at_mut(length);
        known.copy_from_slice(part(there, length));
        beyond.fill(0);
        Ok(beyond.is_empty())
    }

    pub(crate) fn write(&mut self, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        if self.fail_writes {
            return Err(Fault::Failed);
        }
        let file = self.files.get_mut(path).ok_or(Fault::Dead)?;
        let end = offset + bytes.len() as u64;
        let growth = end.saturating_sub(file.size());
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(growth).ok_or(Fault::Full)?;
        }
        if growth > 0 {
            file.bytes.resize(index(end), 0);
        }
        if let Some(target) = file.bytes.get_mut(index(offset)..index(end)) {
            target.copy_from_slice(bytes);
        }
        file.dirty.extend(offset / SECTOR_U64..end.div_ceil(SECTOR_U64));
        // The write is on its way when the power goes.
        self.tick()
    }

    pub(crate) fn truncate(&mut self, path: &Path, size: u64) -> Result<(), Fault> {
        let file = self.files.get_mut(path).ok_or(Fault::Dead)?;
        if size < file.size() {
            if let Some(room) = &mut self.room {
                *room += file.size() - size;
            }
            drop(file.dirty.split_off(&size.div_ceil(SECTOR_U64)));
            if !size.is_multiple_of(SECTOR_U64) {
                file.dirty.insert(size / SECTOR_U64);
            }
            file.valid = file.valid.min(size);
        }
        file.bytes.resize(index(size), 0);
        self.tick()
    }

    pub(crate) fn sync(&mut self, path: &Path, durable: &mut dyn Durable) -> Result<(), Fault> {
        self.tick()?;
        self.syncs += 1;
        if self.fail_syncs {
            return Err(Fault::Failed);
        }
        if self.pretend_syncs {
            return Ok(());
        }
        let file = self.files.get_mut(path).ok_or(Fault::Dead)?;
        if file.valid < durable.size()? {
            durable.truncate(file.valid)?;
        }
        let mut dirty = std::mem::take(&mut file.dirty).into_iter().peekable();
        while let Some(first) = dirty.next() {
            let mut end = first + 1;
            while dirty.next_if_eq(&end).is_some() {
                end += 1;
            }
            let (from, to) = (index(first * SECTOR_U64), index(end * SECTOR_U64).min(file.bytes.len()));
            durable.write(first * SECTOR_U64, file.bytes.get(from..to).unwrap_or_default())?;
        }
        if durable.size()? != file.size() {
            durable.truncate(file.size())?;
        }
        file.valid = file.size();
        Ok(())
    }

    /// The power goes: each sector that was not synced meets its fate.
    fn cut(&mut self) {
        if self.dead {
            return;
        }
        self.dead = true;
        self.generation += 1;
        for (path, file) in std::mem::take(&mut self.files) {
            // A file that is gone has nothing left to lose.
            drop(self.settle(&path, file));
        }
    }

    fn settle(&mut self, path: &Path, cached: Cached) -> std::io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if cached.valid < file.metadata()?.len() && self.draw().is_multiple_of(2) {
            file.set_len(cached.valid)?;
        }
        for sector in &cached.dirty {
            let offset = sector * SECTOR_U64;
            let written = cached.bytes.get(index(offset)..).unwrap_or_default();
            let length = written.len().min(SECTOR);
            let (mut old, mut new) = ([0; SECTOR], [0; SECTOR]);
            new.get_mut(..length).unwrap_or_default().copy_from_slice(part(written, length));
            let there = index(file.metadata()?.len().saturating_sub(offset)).min(SECTOR);
            file.read_exact_at(old.get_mut(..there).unwrap_or_default(), offset)?;
            if let Some(bytes) = self.fate(&old, &new) {
                file.write_all_at(bytes.get(..length).unwrap_or_default(), offset)?;
            }
        }
        Ok(())
    }

    /// What a sector holds after the cut; `None`: what it held before.
    fn fate(&mut self, old: &[u8; SECTOR], new: &[u8; SECTOR]) -> Option<[u8; SECTOR]> {
        let draw = self.draw();
        let torn_at = index(draw >> 8) % SECTOR;
        let mix = |pick: &dyn Fn(usize, u8, u8) -> u8| {
            let mut mixed = *old;
            for (place, byte) in mixed.iter_mut().enumerate() {
                *byte = pick(place, *byte, new.get(place).copied().unwrap_or(0));
            }
            mixed
        };
        match draw % 8 {
            0..=2 => None,
            3..=5 => Some(*new),
            6 => Some(mix(&|place, old, new| if place < torn_at { new } else { old })),
            // Only where something was being written.
            _ => Some(mix(&|place, old, new| if old == new { old } else { new ^ (torn_at ^ place).to_le_bytes()[0] })),
        }
    }

    fn draw(&mut self) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl Cached {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The first bytes, as far as there are any.
fn part(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(..length).unwrap_or(bytes)
}
