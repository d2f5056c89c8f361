//! The key-encryption key: a file only its owner may read, or a text from the environment. Without it the database's secrets stay shut.
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokens::{Entropy, b64, id, seal::Kek, secret::Plain};
use zeroize::{Zeroize as _, Zeroizing};

/// Where the key-encryption key comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file (mode 0600) with the key as text.
    File(PathBuf),
    /// The key as text: 43 characters of base64url or 64 hexadecimal digits.
    Text(Plain),
}

/// What is wrong with the key-encryption key.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// Others may read the file.
    #[error("{path} holds the key-encryption key and is open to others (mode {mode:04o}): run `chmod 600 {path}`")]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is gone but the database needs it.
    #[error("the database has keys but the key-encryption key's file {0} is not there: put it back (no new one is made)")]
    Missing(PathBuf),
    /// Nothing was ever set up, and this command does not.
    #[error("there is no key-encryption key at {0}: run `doorward bootstrap`")]
    NotYet(PathBuf),
    /// Not 32 octets in a known spelling.
    #[error("the key-encryption key is not 43 characters of base64url or 64 hexadecimal digits")]
    Malformed,
    /// The file system says no.
    #[error("the key-encryption key's file {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
}

/// Reads the key; makes its file if it is absent, the database is `virgin` and `create` is asked. The path tells that it was made.
///
/// # Errors
/// [`KekError`].
pub fn take(source: &Source, virgin: bool, create: bool, entropy: &dyn Entropy) -> Result<(Kek, Option<PathBuf>), KekError> {
    let path = match source {
        Source::Text(text) => return Ok((parse(text.expose())?, None)),
        Source::File(path) => path,
    };
    match read(path) {
        Ok(Some(kek)) => Ok((kek, None)),
        Ok(None) if !virgin => Err(KekError::Missing(path.clone())),
        Ok(None) if !create => Err(KekError::NotYet(path.clone())),
        Ok(None) => make(path, entropy),
        Err(error) => Err(error),
    }
}

/// Removes a file that was made in vain.
pub fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a key-encryption key that is of no use could not be removed");
    }
}

fn read(path: &Path) -> Result<Option<Kek>, KekError> {
    let wrong = |why| KekError::File { path: path.to_owned(), why };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(wrong(why)),
    };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KekError::Loose { path: path.to_owned(), mode });
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(wrong)?);
    parse(&text).map(Some)
}

fn make(path: &Path, entropy: &dyn Entropy) -> Result<(Kek, Option<PathBuf>), KekError> {
    let wrong = |why| KekError::File { path: path.to_owned(), why };
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    if let Some(directory) = directory.filter(|directory| !directory.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(wrong)?;
        let above = directory.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(above).and_then(|above| above.sync_all()).map_err(wrong)?;
    }
    let mut key = Zeroizing::new([0; 32]);
    entropy.fill(key.as_mut_slice());
    let text = Zeroizing::new(b64::encode(key.as_slice()) + "\n");
    // Written whole under a name nobody else has, then linked: nobody ever reads half a key, and of two processes one wins.
    let draft = path.with_extension(format!("{}.draft", id::random_text(entropy, 12)));
    let linked = write(&draft, &text).and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    let ours = match linked {
        Ok(()) => true,
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => false,
        Err(why) => return Err(wrong(why)),
    };
    removed.map_err(wrong)?;
    // The database must not outlive the key: the file's name is durable before anything is sealed under it.
    fs::File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all()).map_err(wrong)?;
    // What counts is what every other process will read.
    let kek = read(path)?.ok_or_else(|| KekError::Missing(path.to_owned()))?;
    Ok((kek, ours.then(|| path.to_owned())))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn parse(text: &str) -> Result<Kek, KekError> {
    let text = text.trim();
    let mut octets = match text.len() {
        64 => hex(text),
        _ => b64::decode_array::<32>(text),
    }
    .ok_or(KekError::Malformed)?;
    let kek = Kek::new(octets);
    octets.zeroize();
    Ok(kek)
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let octets: Vec<u8> = digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |octet, digit| octet << 4 | digit)).collect();
    octets.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemEntropy;

    #[test]
    fn a_new_file_is_for_its_owner_only_and_reads_back() {
        let home = tempfile::tempdir().expect("a directory");
        let source = Source::File(home.path().join("deep/kek"));
        let (made, path) = take(&source, true, true, &SystemEntropy).expect("made");
        let path = path.expect("told");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o600);
        let (read, again) = take(&source, false, false, &SystemEntropy).expect("read");
        assert!(again.is_none() && read.open("p", &made.seal("p", b"x", &SystemEntropy)).is_ok());
    }

    #[test]
    fn a_file_open_to_others_is_refused_by_name() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("kek");
        take(&Source::File(path.clone()), true, true, &SystemEntropy).expect("made");
        for mode in [0o644, 0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            let error = take(&Source::File(path.clone()), false, true, &SystemEntropy).expect_err("refused").to_string();
            assert!(error.contains("chmod 600") && error.contains(&format!("{mode:04o}")), "{error}");
        }
    }

    #[test]
    fn of_many_that_start_at_once_all_hold_the_key_of_the_file() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("new/kek");
        let source = Source::File(path);
        let made: Vec<Kek> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| take(&source, true, true, &SystemEntropy).expect("made").0)).collect();
            all.into_iter().map(|one| one.join().expect("no panic")).collect()
        });
        let (kept, _) = take(&source, false, false, &SystemEntropy).expect("read");
        let sealed = kept.seal("p", b"x", &SystemEntropy);
        assert!(made.iter().all(|kek| kek.open("p", &sealed).is_ok()));
        assert_eq!(fs::read_dir(home.path().join("new")).expect("a directory").count(), 1, "no draft is left");
    }

    #[test]
    fn no_new_file_where_keys_exist_or_nothing_may_be_made() {
        let home = tempfile::tempdir().expect("a directory");
        let source = Source::File(home.path().join("kek"));
        assert!(matches!(take(&source, false, true, &SystemEntropy), Err(KekError::Missing(_))));
        assert!(matches!(take(&source, true, false, &SystemEntropy), Err(KekError::NotYet(_))));
        assert!(fs::read_dir(home.path()).expect("a directory").next().is_none());
    }

    #[test]
    fn both_spellings_are_read_and_nothing_else() {
        for good in ["07".repeat(32), b64::encode(&[7; 32]), format!("{}\n", b64::encode(&[7; 32]))] {
            assert!(parse(&good).is_ok_and(|k| k.open("p", &Kek::new([7; 32]).seal("p", b"x", &SystemEntropy)).is_ok()));
        }
        for bad in [String::new(), "0".repeat(63), "é".repeat(32), "g".repeat(64), b64::encode(&[7; 31])] {
            assert!(matches!(parse(&bad), Err(KekError::Malformed)), "{bad}");
        }
    }
}
