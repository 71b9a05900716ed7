//! The files of a listener's TLS.

use std::path::{Path, PathBuf};

use anyhow::Context;
use sha2::{Digest, Sha256};

/// The files, PEM each.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, and after it those between it and the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Certificates of the authorities of which clients must show one; `None`: they need none.
    pub client_ca: Option<PathBuf>,
}

/// What the files hold.
pub(super) struct Content {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) client_ca: Option<Vec<u8>>,
}

impl TlsFiles {
    /// Reads all of them.
    ///
    /// # Errors
    /// When one cannot be read; the message names it.
    pub(super) fn read(&self) -> anyhow::Result<Content> {
        let read =
            |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(Content {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            client_ca: self.client_ca.as_deref().map(read).transpose()?,
        })
    }
}

impl Content {
    /// A hash by which a change is found: the key itself is kept nowhere else.
    pub(super) fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten()
        {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}
