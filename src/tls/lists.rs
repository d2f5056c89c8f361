//! Certificate revocation lists from files (RFC 5280 §5): read whole, believed by their authority's signature, read anew when they change.
use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject as _};
use tokens::pki::{
    Signer,
    crl::{Crl, MAX_SIZE},
};

/// Seconds of clock difference forgiven.
const LEEWAY: i64 = 60;
/// A PEM file is longer than what is in it.
const MOST_OCTETS: u64 = MAX_SIZE as u64 * 3 / 2;
/// Most lists of all files.
const MOST_LISTS: usize = 256;

/// The lists of a listener.
#[derive(Debug, Default)]
pub struct Lists {
    lists: Vec<Crl>,
    /// Whether a certificate that no list in force covers counts for nothing.
    pub hard: bool,
}

/// What the lists say of a certificate.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    /// `None`: no list in force covers it.
    pub revoked: Option<bool>,
    /// Until when that is so, seconds since the epoch.
    pub until: i64,
}

impl Lists {
    /// Reads files in PEM or DER.
    ///
    /// # Errors
    /// A file that cannot be read, holds no list or one that is not supported, or a list whose signature is not its authority's: one that
    /// names an authority of the listener is checked here, those of others when a certificate of theirs is shown.
    pub fn read(files: &[PathBuf], authorities: &[Signer], hard: bool) -> anyhow::Result<Self> {
        let mut lists = Vec::new();
        for file in files {
            for octets in octets(file)? {
                let crl = Crl::read(&octets).with_context(|| format!("client_crl_files: {}", file.display()))?;
                let mut named = authorities.iter().filter(|authority| crl.names(authority)).peekable();
                let believed = named.peek().is_none() || named.any(|authority| crl.is_of(authority));
                anyhow::ensure!(believed, "client_crl_files: {}: its signature is not its authority's", file.display());
                lists.push(crl);
                anyhow::ensure!(lists.len() <= MOST_LISTS, "client_crl_files: more than {MOST_LISTS} lists");
            }
        }
        // Without any list nothing can be demanded of them.
        Ok(Self { hard: hard && !files.is_empty(), lists })
    }

    /// How many certificates all of them name.
    #[must_use]
    pub fn named(&self) -> usize {
        self.lists.iter().map(Crl::len).sum()
    }

    /// What the latest list of an authority says of a certificate that it issued. One that was revoked stays so when the list has grown old.
    #[must_use]
    pub fn ask(&self, certificate: &Signer, issuer: &Signer, now: i64) -> Listed {
        let of_issuer = || self.lists.iter().filter(|crl| crl.is_of(issuer));
        let Some(newest) = of_issuer().max_by_key(|crl| crl.this_update()) else { return Listed { revoked: None, until: i64::MAX } };
        let begun = of_issuer().filter(|crl| crl.this_update() <= now + LEEWAY).max_by_key(|crl| crl.this_update());
        // One that is dated ahead takes nothing back yet, but what it names has been revoked.
        if [Some(newest), begun].into_iter().flatten().any(|crl| crl.revokes(certificate.serial())) {
            return Listed { revoked: Some(true), until: if newest.this_update() > now + LEEWAY { now + 1 } else { i64::MAX } };
        }
        // It may come into force, or be replaced.
        let Some(crl) = begun else { return Listed { revoked: None, until: now + 1 } };
        let mut until = crl.next_update().map_or(i64::MAX, |next| next.saturating_add(LEEWAY));
        if until <= now {
            return Listed { revoked: None, until: now + 1 };
        }
        if newest.this_update() > now + LEEWAY {
            until = until.min(newest.this_update().saturating_sub(LEEWAY));
        }
        Listed { revoked: Some(false), until }
    }
}

fn octets(file: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let whole = || -> anyhow::Result<Vec<u8>> {
        let size = std::fs::metadata(file)?.len();
        anyhow::ensure!(size <= MOST_OCTETS, "larger than {MOST_OCTETS} octets");
        Ok(std::fs::read(file)?)
    };
    let whole = whole().with_context(|| format!("client_crl_files: {}", file.display()))?;
    if !whole.windows(10).any(|window| window == b"-----BEGIN") {
        return Ok(vec![whole]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(&whole)
        .map(|list| list.map(|list| list.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| anyhow::anyhow!("{error:?}"))
        .with_context(|| format!("client_crl_files: {}: not PEM", file.display()))?;
    anyhow::ensure!(!lists.is_empty(), "client_crl_files: {}: no list in PEM", file.display());
    Ok(lists)
}

/// By what a file is known to be another than before.
pub type Stamp = Vec<Option<(u64, u64, i64, i64)>>;

/// The stamp of files.
#[must_use]
pub fn stamp(files: &[PathBuf]) -> Stamp {
    let of = |meta: Metadata| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
    files.iter().map(|file| std::fs::metadata(file).ok().map(of)).collect()
}
