//! One process at a time: an exclusive lock on a file beside the database, held for the process's life.
use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
};

use crate::{open::OpenError, sqlite::file_error};

/// The lock; the system lets go of it when it is dropped or its process dies.
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes `<database>.lock`, or says who cannot be there.
    pub(crate) fn take(database: &Path) -> Result<Self, OpenError> {
        let mut lock = database.as_os_str().to_owned();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        let file = private(&lock)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: lock, file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { database: database.to_owned(), lock }),
            Err(TryLockError::Error(e)) => Err(file_error(&lock, &e)),
        }
    }

    /// Its path, and the file that is held.
    pub(crate) fn held(&self) -> (&Path, &File) {
        (&self.path, &self.file)
    }
}

/// Opens a file for writing, creating it for its owner only.
pub(crate) fn private(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|e| file_error(path, &e))
}
