//! The part of the disk shim that SQLite calls.
#![expect(unsafe_code, reason = "a SQLite VFS is a table of C functions; used by tests and simulations only")]

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libsqlite3_sys as ffi;
use parking_lot::Mutex;

use super::{Durable, Fault, State};

type Shared = Arc<Mutex<State>>;

/// So many bytes at a time go to the system: SQLite's own functions take fewer than 128 KiB.
const PIECE: usize = 64 << 10;

/// What our VFS carries.
struct AppData {
    state: Shared,
    system: *mut ffi::sqlite3_vfs,
}

/// An open file: SQLite allocates it, with room for the system's own behind it.
#[repr(C)]
struct Open {
    base: ffi::sqlite3_file,
    ours: *mut Ours,
    system: *mut ffi::sqlite3_file,
}

/// What we keep of an open file. `path` is `None` for temporary files, which pass through.
struct Ours {
    state: Shared,
    path: Option<PathBuf>,
    generation: u64,
}

/// Registers a VFS over the system's; returns its name. It is never freed: connections may point to it.
pub(super) fn register(state: &Shared) -> Result<String, c_int> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!("hearth-disk-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let c_name = CString::new(name.clone()).map_err(|_| ffi::SQLITE_MISUSE)?;
    // SAFETY: the default VFS is found once SQLite is initialized and lives as long as the process.
    let system = unsafe {
        ffi::sqlite3_initialize();
        ffi::sqlite3_vfs_find(std::ptr::null())
    };
    if system.is_null() {
        return Err(ffi::SQLITE_ERROR);
    }
    // SAFETY: `system` was just found and is a valid VFS.
    let mut vfs = unsafe { *system };
    // The system's other functions do not look at the VFS that they are called with.
    vfs.pNext = std::ptr::null_mut();
    vfs.szOsFile += size_of::<Open>() as c_int;
    vfs.zName = c_name.into_raw();
    vfs.pAppData = Box::into_raw(Box::new(AppData { state: state.clone(), system })).cast();
    vfs.xOpen = Some(open);
    vfs.xDelete = Some(delete);
    // SAFETY: the structure is valid and leaked, so it outlives the registration.
    match unsafe { ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 0) } {
        ffi::SQLITE_OK => Ok(name),
        code => Err(code),
    }
}

/// The system's file, as the durable bytes.
struct System(*mut ffi::sqlite3_file);

impl System {
    fn methods(&self) -> Result<&ffi::sqlite3_io_methods, Fault> {
        // SAFETY: the file was opened by the system's VFS, which set its methods, and is not closed yet.
        unsafe { (*self.0).pMethods.as_ref() }.ok_or(Fault::Failed)
    }
}

fn done(code: c_int) -> Result<(), Fault> {
    match code {
        ffi::SQLITE_OK => Ok(()),
        ffi::SQLITE_FULL => Err(Fault::Full),
        _ => Err(Fault::Failed),
    }
}

impl Durable for System {
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let read = self.methods()?.xRead.ok_or(Fault::Failed)?;
        let mut at = offset as i64;
        for piece in bytes.chunks_mut(PIECE) {
            // SAFETY: the buffer has the length that is passed; the file is open.
            match unsafe { read(self.0, piece.as_mut_ptr().cast(), length(piece.len()), at) } {
                ffi::SQLITE_IOERR_SHORT_READ => {}
                code => done(code)?,
            }
            at += piece.len() as i64;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let write = self.methods()?.xWrite.ok_or(Fault::Failed)?;
        let mut at = offset as i64;
        for piece in bytes.chunks(PIECE) {
            // SAFETY: the buffer has the length that is passed; the file is open.
            done(unsafe { write(self.0, piece.as_ptr().cast(), length(piece.len()), at) })?;
            at += piece.len() as i64;
        }
        Ok(())
    }

    fn truncate(&mut self, size: u64) -> Result<(), Fault> {
        let truncate = self.methods()?.xTruncate.ok_or(Fault::Failed)?;
        // SAFETY: the file is open.
        done(unsafe { truncate(self.0, size as i64) })
    }

    fn size(&mut self) -> Result<u64, Fault> {
        let size_of = self.methods()?.xFileSize.ok_or(Fault::Failed)?;
        let mut size = 0;
        // SAFETY: the file is open and `size` may be written.
        done(unsafe { size_of(self.0, &raw mut size) })?;
        Ok(size as u64)
    }
}

fn length(bytes: usize) -> c_int {
    c_int::try_from(bytes).unwrap_or(c_int::MAX)
}

/// SQLite's code for an outcome; a panic must not unwind into C.
fn code(failed: c_int, work: impl FnOnce() -> Result<(), Fault>) -> c_int {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => ffi::SQLITE_OK,
        Ok(Err(Fault::Full)) => ffi::SQLITE_FULL,
        Ok(Err(Fault::Dead | Fault::Failed)) | Err(_) => failed,
    }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes our VFS, whose data `register` set, and `szOsFile` bytes for the file.
    let (app, open) = unsafe { (&*(*vfs).pAppData.cast::<AppData>(), &mut *file.cast::<Open>()) };
    open.base.pMethods = std::ptr::null();
    // SAFETY: room for the system's file lies behind ours, by `szOsFile`.
    open.system = unsafe { file.cast::<Open>().add(1).cast() };
    // SAFETY: `name` is null or a C string that lives as long as the file.
    let path = (!name.is_null())
        .then(|| unsafe { CStr::from_ptr(name) })
        .map(|name| PathBuf::from(OsStr::from_bytes(name.to_bytes())));
    if app.state.lock().dead {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: the system's VFS opens its own file in the room for it.
    let opened = unsafe {
        match (*app.system).xOpen {
            Some(xopen) => xopen(app.system, name, open.system, flags, out_flags),
            None => ffi::SQLITE_ERROR,
        }
    };
    if opened != ffi::SQLITE_OK {
        return opened;
    }
    let mut state = app.state.lock();
    let outcome = path.as_ref().map_or(Ok(()), |path| state.opened(path, &mut System(open.system)));
    let generation = state.generation;
    drop(state);
    let ours = Ours { state: app.state.clone(), path, generation };
    open.ours = Box::into_raw(Box::new(ours));
    open.base.pMethods = &raw const METHODS;
    code(ffi::SQLITE_CANTOPEN, || outcome)
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_directory: c_int) -> c_int {
    // SAFETY: as in `open`; the name is a C string.
    let (app, path) = unsafe { (&*(*vfs).pAppData.cast::<AppData>(), CStr::from_ptr(name)) };
    let path = PathBuf::from(OsStr::from_bytes(path.to_bytes()));
    if app.state.lock().deleted(&path).is_err() {
        return ffi::SQLITE_IOERR_DELETE;
    }
    // SAFETY: the system's VFS is asked what we were asked.
    unsafe { (*app.system).xDelete.map_or(ffi::SQLITE_ERROR, |xdelete| xdelete(app.system, name, sync_directory)) }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Our part of an open file, and the system's.
///
/// # Safety
/// `file` must have been opened by `open` and not closed.
unsafe fn parts<'a>(file: *mut ffi::sqlite3_file) -> (&'a Ours, System) {
    // SAFETY: by the caller's word.
    unsafe {
        let open = &*file.cast::<Open>();
        (&*open.ours, System(open.system))
    }
}

/// Runs `work` on the state if the file still has power; temporary files go to `through`.
///
/// # Safety
/// As [`parts`].
unsafe fn with_state(
    file: *mut ffi::sqlite3_file,
    failed: c_int,
    through: impl FnOnce(&mut System) -> Result<(), Fault>,
    work: impl FnOnce(&mut State, &std::path::Path, &mut System) -> Result<(), Fault>,
) -> c_int {
    // SAFETY: by the caller's word.
    let (ours, mut system) = unsafe { parts(file) };
    code(failed, || {
        let mut state = ours.state.lock();
        state.alive(ours.generation)?;
        match &ours.path {
            Some(path) => work(&mut state, path, &mut system),
            None => through(&mut system),
        }
    })
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once; what `open` made is taken back here.
    unsafe {
        let open = &mut *file.cast::<Open>();
        drop(Box::from_raw(open.ours));
        open.base.pMethods = std::ptr::null();
        let methods = (*open.system).pMethods.as_ref();
        methods.and_then(|methods| methods.xClose).map_or(ffi::SQLITE_OK, |xclose| xclose(open.system))
    }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, buffer: *mut c_void, amount: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite passes a buffer of `amount` bytes and a file that `open` opened.
    unsafe {
        let bytes = std::slice::from_raw_parts_mut(buffer.cast::<u8>(), amount as usize);
        let mut whole = true;
        let outcome = {
            let whole = &mut whole;
            let target = &mut *bytes;
            let (ours, mut system) = parts(file);
            code(ffi::SQLITE_IOERR_READ, || {
                let state = ours.state.lock();
                state.alive(ours.generation)?;
                match &ours.path {
                    Some(path) => *whole = state.read(path, offset as u64, target)?,
                    None => system.read(offset as u64, target)?,
                }
                Ok(())
            })
        };
        if outcome == ffi::SQLITE_OK && !whole { ffi::SQLITE_IOERR_SHORT_READ } else { outcome }
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, buffer: *const c_void, amount: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite passes a buffer of `amount` bytes and a file that `open` opened.
    unsafe {
        let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), amount as usize);
        with_state(
            file,
            ffi::SQLITE_IOERR_WRITE,
            |system| system.write(offset as u64, bytes),
            |state, path, _| state.write(path, offset as u64, bytes),
        )
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: SQLite passes a file that `open` opened.
    unsafe {
        with_state(
            file,
            ffi::SQLITE_IOERR_TRUNCATE,
            |system| system.truncate(size as u64),
            |state, path, _| state.truncate(path, size as u64),
        )
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: SQLite passes a file that `open` opened.
    unsafe { with_state(file, ffi::SQLITE_IOERR_FSYNC, |_| Ok(()), |state, path, system| state.sync(path, system)) }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: SQLite passes a file that `open` opened and a place for the size.
    unsafe {
        let mut found = 0;
        let target = &raw mut found;
        let outcome = with_state(
            file,
            ffi::SQLITE_IOERR_FSTAT,
            |system| system.size().map(|size| target.write(size)),
            |state, path, _| state.size(path).map(|size| target.write(size)),
        );
        *size = found as i64;
        outcome
    }
}

/// Passes a call through to the system's file, if there is power.
macro_rules! pass {
    ($name:ident, $method:ident, $failed:expr, ($($argument:ident : $type:ty),*)) => {
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $argument: $type)*) -> c_int {
            // SAFETY: SQLite passes a file that `open` opened; the system gets what we got.
            unsafe {
                let (ours, system) = parts(file);
                if ours.state.lock().alive(ours.generation).is_err() {
                    return $failed;
                }
                match system.methods().ok().and_then(|methods| methods.$method) {
                    Some(method) => method(system.0 $(, $argument)*),
                    None => $failed,
                }
            }
        }
    };
}

pass!(lock, xLock, ffi::SQLITE_IOERR_LOCK, (level: c_int));
pass!(check_reserved_lock, xCheckReservedLock, ffi::SQLITE_IOERR_LOCK, (held: *mut c_int));
pass!(shm_map, xShmMap, ffi::SQLITE_IOERR_SHMMAP, (page: c_int, size: c_int, extend: c_int, memory: *mut *mut c_void));

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as above; locks are let go also without power, as they are when a machine dies.
    unsafe {
        let (_, system) = parts(file);
        match system.methods().ok().and_then(|methods| methods.xUnlock) {
            Some(xunlock) => xunlock(system.0, level),
            None => ffi::SQLITE_OK,
        }
    }
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        let (ours, system) = parts(file);
        let releases = flags & ffi::SQLITE_SHM_UNLOCK != 0;
        if !releases && ours.state.lock().alive(ours.generation).is_err() {
            return ffi::SQLITE_IOERR_SHMLOCK;
        }
        match system.methods().ok().and_then(|methods| methods.xShmLock) {
            Some(xshm_lock) => xshm_lock(system.0, offset, n, flags),
            None => ffi::SQLITE_IOERR_SHMLOCK,
        }
    }
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: as above.
    unsafe {
        let (_, system) = parts(file);
        if let Some(barrier) = system.methods().ok().and_then(|methods| methods.xShmBarrier) {
            barrier(system.0);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        let (_, system) = parts(file);
        match system.methods().ok().and_then(|methods| methods.xShmUnmap) {
            Some(unmap) => unmap(system.0, delete),
            None => ffi::SQLITE_OK,
        }
    }
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, operation: c_int, argument: *mut c_void) -> c_int {
    // What would change the file's size or map it goes past the shim, so it is not known here.
    if !matches!(operation, ffi::SQLITE_FCNTL_PERSIST_WAL | ffi::SQLITE_FCNTL_HAS_MOVED | ffi::SQLITE_FCNTL_LAST_ERRNO)
    {
        return ffi::SQLITE_NOTFOUND;
    }
    // SAFETY: as above.
    unsafe {
        let (_, system) = parts(file);
        match system.methods().ok().and_then(|methods| methods.xFileControl) {
            Some(control) => control(system.0, operation, argument),
            None => ffi::SQLITE_NOTFOUND,
        }
    }
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    super::SECTOR as c_int
}

unsafe extern "C" fn device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}
