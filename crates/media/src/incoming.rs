//! Content on its way in: chunks are hashed and written to a file, with bounded memory.

use std::fs::File;
use std::io::{self, Write as _};
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::blocking::{self, Blocking};
use crate::directory::{Directory, FileName};

/// So many bytes are gathered before they are written: one trip to the blocking executor each.
const GATHER_BYTES: usize = 256 * 1024;

/// Content that is being received. Dropped unfinished, it leaves nothing behind.
pub struct Incoming {
    guard: Guard,
    bytes_max: u64,
    size: u64,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    writer: Option<Writer>,
}

/// A file that is complete and durable, but that no row names yet.
pub(crate) struct Received {
    pub(crate) guard: Guard,
    pub(crate) size: u64,
    pub(crate) sha256: Vec<u8>,
}

/// Decides what becomes of a new file: unless told otherwise, it is deleted when this is dropped.
pub(crate) struct Guard {
    directory: Directory,
    blocking: Arc<dyn Blocking>,
    name: FileName,
    armed: bool,
}

struct Writer {
    file: File,
    hash: Sha256,
}

impl Incoming {
    pub(crate) fn new(directory: Directory, blocking: Arc<dyn Blocking>, name: FileName, bytes_max: u64) -> Self {
        let guard = Guard { directory, blocking, name, armed: true };
        Self { guard, bytes_max, size: 0, gathered: Vec::new(), gathered_bytes: 0, writer: None }
    }

    /// The limit of the whole content, in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The name of the file.
    pub(crate) fn name(&self) -> &FileName {
        self.guard.name()
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`Error::TooLarge`] once the content exceeds its limit; [`Error::Io`] if it cannot be written.
    pub async fn push(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.size = self.size.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if self.size > self.bytes_max {
            return Err(Error::TooLarge { max: self.bytes_max });
        }
        self.gathered_bytes += chunk.len();
        self.gathered.push(chunk);
        if self.gathered_bytes < GATHER_BYTES {
            return Ok(());
        }
        let work = self.write_gathered();
        self.writer = Some(blocking::run(&self.guard.blocking, work).await??);
        Ok(())
    }

    /// Writes what is left and returns once the file is durable.
    pub(crate) async fn finish(mut self) -> Result<Received, Error> {
        let write = self.write_gathered();
        let (directory, name) = (self.guard.directory.clone(), self.guard.name.clone());
        let sha256 = blocking::run(&self.guard.blocking, move || {
            let writer = write()?;
            directory.make_durable(&name, &writer.file)?;
            io::Result::Ok(writer.hash.finalize().to_vec())
        })
        .await??;
        Ok(Received { guard: self.guard, size: self.size, sha256 })
    }

    /// The blocking work that writes what is gathered, after creating the file if this is the first of it.
    fn write_gathered(&mut self) -> impl FnOnce() -> io::Result<Writer> + Send + use<> {
        let writer = self.writer.take();
        let gathered = mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        let (directory, name) = (self.guard.directory.clone(), self.guard.name.clone());
        move || {
            let mut writer = match writer {
                Some(writer) => writer,
                None => Writer { file: directory.create(&name)?, hash: Sha256::new() },
            };
            for chunk in gathered {
                writer.hash.update(&chunk);
                writer.file.write_all(&chunk)?;
            }
            Ok(writer)
        }
    }
}

impl Guard {
    pub(crate) fn name(&self) -> &FileName {
        &self.name
    }

    /// To be called before the row is submitted: from then on the outcome may not be learnt (the request may be
    /// cancelled), so nothing is deleted unless [`Guard::discard`] says that the row was refused.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }

    /// The row is durable: the marker goes.
    pub(crate) fn settle(self) {
        let (directory, name) = (self.directory.clone(), self.name.clone());
        self.blocking.run(Box::new(move || log_failure(directory.settle(&name), "settle", &name)));
    }

    /// The row was refused: the file goes.
    pub(crate) fn discard(mut self) {
        self.armed = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed {
            let (directory, name) = (self.directory.clone(), self.name.clone());
            self.blocking.run(Box::new(move || log_failure(directory.discard(&name), "discard", &name)));
        }
    }
}

/// A failure to clean up costs only space until the next start.
fn log_failure(outcome: io::Result<()>, what: &'static str, name: &FileName) {
    if let Err(error) = outcome {
        tracing::warn!(file = name.as_str(), %error, "could not {what} a media file");
    }
}
