//! The database file: permissions (0600), its identity (device and inode), and the lock file
//! `.lock` beside it, which allows one service.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// Identity of a file: device and inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileId(u64, u64);

impl FileId {
    /// Of the file that is at `path` now.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|m| Self(m.dev(), m.ino()))
    }
}

/// The files of one database: the one that was opened, and SQLite's write-ahead log beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileSet {
    /// The database.
    pub(super) main: FileId,
    /// Its write-ahead log, if there was one.
    wal: Option<FileId>,
}

impl FileSet {
    /// Of the file that is at `path` now.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { main: FileId::of(path)?, wal: FileId::of(&beside(path, "-wal")).ok() })
    }

    /// Moves this set's write-ahead log aside when another database was moved to `path`: SQLite
    /// would replay it into the new one. A log that came with the new database is not touched.
    /// Returns where the log is now, if it is not empty: it holds the last changes of the
    /// replaced database.
    pub(super) fn clear_leftovers(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let wal = beside(path, "-wal");
        if self.wal.is_none() || FileId::of(&wal).ok() != self.wal {
            return Ok(None);
        }
        let aside = beside(path, ".replaced-wal");
        let is_empty = std::fs::metadata(&wal)?.len() == 0;
        std::fs::rename(&wal, &aside)?;
        match std::fs::remove_file(beside(path, "-shm")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        Ok((!is_empty).then_some(aside))
    }
}

/// `path` with `suffix` appended to the file name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

/// Lock that only one service can hold on a database. It is taken on a file beside it: closing
/// any handle of the database itself would release SQLite's own locks, and the lock file stays
/// when the database is replaced.
#[derive(Debug)]
pub(super) struct ServiceLock(File);

impl Drop for ServiceLock {
    /// Closing the file would keep the lock while a child process has it, too: until `exec`, every
    /// program that this process starts.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the lock of the database could not be released");
        }
    }
}

impl ServiceLock {
    /// Takes the lock; the error names the process that has it.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let lock_path = beside(path, ".lock");
        let failed = |e: io::Error| StoreError::Failed(format!("{}: {e}", lock_path.display()));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(StoreError::Failed(format!(
                    "{} is in use by another admin service (process {}): only one may run on a database",
                    path.display(),
                    holder.trim()
                )));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self(file))
    }
}

/// Creates the directory (0700) and an empty file (0600) at `path` if they are missing. Returns
/// the path without symbolic links, so that two names of one database use the same lock.
pub(super) fn create(path: &Path) -> io::Result<PathBuf> {
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    // Opened and closed before SQLite holds locks on it: closing releases them.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    path.canonicalize()
}

/// Logs a warning if others than the owner may read the database.
pub(super) fn warn_if_open_to_others(path: &Path) {
    let mode = std::fs::metadata(path).map_or(0, |m| m.mode() & 0o077);
    if mode != 0 {
        let path = path.display();
        tracing::warn!(
            "{path} holds hashes of tokens and addresses of clients, and others may read it: chmod 600 {path}"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::store::sqlite::connection::connect;

    #[test]
    fn only_the_owner_reads_what_is_created() {
        let base = tempfile::tempdir().unwrap();
        let path = create(&base.path().join("new/tidegate.db")).unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let conn = connect(&path, Duration::ZERO).unwrap();
        conn.execute_batch("CREATE TABLE t (x)").unwrap();
        assert_eq!(mode(&beside(&path, "-wal")), 0o600);
        let _lock = ServiceLock::take(&path).unwrap();
        assert_eq!(mode(&beside(&path, ".lock")), 0o600);
    }

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let base = tempfile::tempdir().unwrap();
        let path = create(&base.path().join("tidegate.db")).unwrap();
        let link = base.path().join("other-name.db");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let first = ServiceLock::take(&path).unwrap();
        let message = ServiceLock::take(&create(&link).unwrap()).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        // What a program gets that is being started.
        let _inherited = first.0.try_clone().unwrap();
        drop(first);
        ServiceLock::take(&path).unwrap();
    }
}
