//! Whether the path of the database still names the files that are open: whoever removes, moves or replaces them under a running process
//! has taken its storage away. What would be written then is in no file that a restart finds.
use std::{
    fs::{File, Metadata},
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use ledger::StoreError;
use parking_lot::Mutex;

use crate::{open::OpenError, sqlite::file_error};

/// Reads may rest on an answer as old as this; a change never does.
const TRUSTED_FOR: Duration = Duration::from_millis(100);

/// One file: its path, and which file was there when it was opened.
#[derive(Debug)]
struct Named {
    path: PathBuf,
    identity: (u64, u64),
}

/// The files of an open database: itself, the lock beside it and its write-ahead log.
#[derive(Debug)]
pub(crate) struct Place {
    files: Vec<Named>,
    gone: AtomicBool,
    looked: Mutex<Option<Instant>>,
}

impl Place {
    /// The files as they are now. `lock` is the one that is held.
    pub(crate) fn of(database: &Path, lock: (&Path, &File)) -> Result<Self, OpenError> {
        let held = lock.1.metadata().map_err(|e| file_error(lock.0, &e))?;
        let mut files = vec![Named { path: lock.0.to_owned(), identity: identity(&held) }];
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        for path in [database.to_owned(), PathBuf::from(log)] {
            match std::fs::metadata(&path) {
                Ok(found) => files.push(Named { path, identity: identity(&found) }),
                Err(e) if e.kind() == ErrorKind::NotFound && path != database => {}
                Err(e) => return Err(file_error(&path, &e)),
            }
        }
        let place = Self { files, gone: AtomicBool::new(false), looked: Mutex::default() };
        // Somebody may have exchanged the lock between its opening and now.
        place.look()?;
        Ok(place)
    }

    /// Looks, at most ten times a second.
    pub(crate) fn glance(&self) -> Result<(), StoreError> {
        if !self.is_gone() && self.looked.lock().is_some_and(|at| at.elapsed() < TRUSTED_FOR) {
            return Ok(());
        }
        self.look()
    }

    /// Looks. Once a file is not the one that was opened, storage is away until a restart: what happened to it meanwhile is not known.
    pub(crate) fn look(&self) -> Result<(), StoreError> {
        if self.is_gone() {
            return Err(away("the database's files were removed or replaced; a restart is needed"));
        }
        for file in &self.files {
            match std::fs::metadata(&file.path) {
                Ok(found) if identity(&found) == file.identity => {}
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(away(&format!("{}: {e}", file.path.display()))),
                Ok(_) | Err(_) => {
                    if !self.gone.swap(true, Ordering::AcqRel) {
                        tracing::error!(file = %file.path.display(), "removed or replaced while it was open: nothing is served until a restart");
                    }
                    return Err(away("the database's files were removed or replaced; a restart is needed"));
                }
            }
        }
        *self.looked.lock() = Some(Instant::now());
        Ok(())
    }

    /// Whether a file was found missing or exchanged.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

fn away(why: &str) -> StoreError {
    StoreError::Unavailable(why.to_owned())
}

#[cfg(unix)]
fn identity(found: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (found.dev(), found.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64) {
    (0, 0)
}
