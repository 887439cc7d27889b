//! That one process at a time uses a database, and only on a file system whose locks and fsync mean something.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use store::Error;

use crate::errors;

/// The lock on a database, held as long as this lives. The system drops it when the process ends, however it ends, so a
/// file that is left behind never blocks.
pub(crate) struct Lock {
    file: File,
    name: PathBuf,
}

impl Lock {
    /// Takes the lock of the database at `path`.
    pub(crate) fn take(path: &Path) -> Result<Self, Error> {
        let name = beside(path, ".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&name)
            .map_err(|error| errors::io(&format!("open the lock file {}", name.display()), &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file, name }),
            Err(TryLockError::WouldBlock) => Err(Error::Unusable(format!(
                "another process is using the database {}: stop it first (two servers on one database need PostgreSQL)",
                path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(errors::io(&format!("lock {}", name.display()), &error)),
        }
    }
}

impl Lock {
    /// Leaves no trace beside a file that is not ours.
    pub(crate) fn withdraw(self) {
        drop(std::fs::remove_file(&self.name));
    }
}

impl Drop for Lock {
    /// Closing the file alone would leave the lock to a child process that is being started just now.
    fn drop(&mut self) {
        drop(self.file.unlock());
    }
}

/// The file beside `path` whose name has `suffix` appended.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Refuses directories on network file systems: their locks and shared memory break SQLite's log.
#[cfg(target_os = "linux")]
pub(crate) fn refuse_network(directory: &Path) -> Result<(), Error> {
    /// NFS, SMB, CIFS, SMB2, AFS, Ceph, 9P, GFS2, OCFS2, Lustre: magic numbers of Linux's `statfs(2)`.
    const NETWORK: [i128; 10] = [
        0x6969,
        0x517B,
        0xFF53_4D42,
        0xFE53_4D42,
        0x5346_414F,
        0x00C3_6400,
        0x0102_1997,
        0x0116_1970,
        0x7461_636F,
        0x0BD0_0BD0,
    ];
    let Ok(status) = rustix::fs::statfs(directory) else { return Ok(()) };
    let kind = i128::from(status.f_type) & 0xFFFF_FFFF;
    if NETWORK.contains(&kind) {
        return Err(Error::Unusable(format!(
            "{} lies on a network file system (type {kind:#x}), on which SQLite can lose data: use a local disk, or PostgreSQL",
            directory.display()
        )));
    }
    Ok(())
}

/// Elsewhere there is no cheap way to tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn refuse_network(_directory: &Path) -> Result<(), Error> {
    Ok(())
}
