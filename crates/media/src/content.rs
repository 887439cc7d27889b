//! Content on its way out: read in chunks, whole or in part, with bounded memory.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, preadv2};

use crate::Error;
use crate::blocking::{self, Blocking};
use crate::directory::{Directory, FileName};

/// Most bytes of one chunk: what one reader holds in memory, and what it may have sent before others have their turn.
const CHUNK_BYTES_MAX: u64 = 64 * 1024;

/// Content that may be served, with what its headers need. Nothing has been read yet.
pub struct Content {
    /// Content type to declare.
    pub content_type: String,
    /// File name to declare.
    pub file_name: Option<String>,
    /// Bytes of the whole.
    pub size: u64,
    /// A text that is the same only for the same bytes: visible ASCII without quotes.
    pub tag: String,
    pub(crate) source: Source,
}

/// Where the bytes are.
pub(crate) enum Source {
    /// In memory: a thumbnail that has just been made.
    Memory(Bytes),
    /// In a file that a row of `table` names.
    Stored { directory: Directory, blocking: Arc<dyn Blocking>, file: String, table: &'static str },
}

/// Bytes of a [`Content`], chunk by chunk.
pub struct Reader {
    state: State,
    remaining: Range<u64>,
    /// Where the range began.
    started: u64,
}

enum State {
    Memory(Bytes),
    Stored { file: Arc<File>, blocking: Arc<dyn Blocking>, first: Option<Bytes> },
}

impl Content {
    /// Opens the bytes of `range` (of the whole, if `None`) and reads the first chunk of them, so that a lost file
    /// is known before an answer begins. A range beyond the end is cut.
    ///
    /// # Errors
    /// [`Error::FileLost`] if the file is missing or of another size; [`Error::Io`].
    pub async fn open(self, range: Option<Range<u64>>) -> Result<Reader, Error> {
        let range = range.unwrap_or(0..self.size);
        let remaining = range.start.min(self.size)..range.end.min(self.size);
        match self.source {
            Source::Memory(bytes) => Ok(Reader { state: State::Memory(bytes), started: remaining.start, remaining }),
            Source::Stored { directory, blocking, file, table } => {
                let lost = Error::FileLost { table, file: file.clone() };
                let name = FileName::from_text(&file).ok_or_else(|| lost.clone())?;
                let chunk = next_chunk(&remaining);
                let size = self.size;
                let opened = blocking::run(&blocking, move || open_file(&directory, &name, size, &chunk)).await?;
                match opened {
                    Ok(Some((file, first))) => {
                        let state = State::Stored { file: Arc::new(file), blocking, first: Some(first) };
                        Ok(Reader { state, started: remaining.start, remaining })
                    }
                    Ok(None) => Err(lost),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }
}

impl Reader {
    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = next_chunk(&self.remaining);
        if chunk.is_empty() {
            return Ok(None);
        }
        self.remaining.start = chunk.end;
        if chunk.start > self.started {
            // A connection takes megabytes at once. Whoever sends a message must not wait for all downloads to be served so.
            tokio::task::yield_now().await;
        }
        match &mut self.state {
            State::Memory(bytes) => Ok(Some(slice(bytes, &chunk))),
            State::Stored { file, blocking, first } => {
                if let Some(first) = first.take() {
                    return Ok(Some(first));
                }
                if let Some(bytes) = read_cached(file, &chunk) {
                    return Ok(Some(bytes));
                }
                let file = Arc::clone(file);
                Ok(Some(blocking::run(blocking, move || read_chunk(&file, &chunk)).await??))
            }
        }
    }
}

fn next_chunk(remaining: &Range<u64>) -> Range<u64> {
    remaining.start..remaining.end.min(remaining.start + CHUNK_BYTES_MAX)
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(place(range.start)..place(range.end))
}

/// `None` if the file is not there or not of this size.
fn open_file(
    directory: &Directory,
    name: &FileName,
    size: u64,
    chunk: &Range<u64>,
) -> io::Result<Option<(File, Bytes)>> {
    let file = match directory.read(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if file.metadata()?.len() != size {
        return Ok(None);
    }
    let first = read_chunk(&file, chunk)?;
    Ok(Some((file, first)))
}

/// The chunk, if all of it is in the page cache: then it is there at once, without a trip to the blocking executor.
fn read_cached(file: &File, chunk: &Range<u64>) -> Option<Bytes> {
    let length = usize::try_from(chunk.end.checked_sub(chunk.start)?).ok()?;
    let mut bytes = vec![0; length];
    let read = preadv2(file, &mut [IoSliceMut::new(&mut bytes)], chunk.start, ReadWriteFlags::NOWAIT).ok()?;
    (read == length).then(|| bytes.into())
}

fn read_chunk(file: &File, chunk: &Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(chunk.end.saturating_sub(chunk.start)).unwrap_or(0);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, chunk.start)?;
    Ok(bytes.into())
}
