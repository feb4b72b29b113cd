//! Contents by SHA-256: what generations carry and what they displaced. Readable by root alone; verified when read.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use super::{StateError, StateResult};
use crate::digest::Digest;

/// The object store.
#[derive(Debug)]
pub struct Objects {
    dir: PathBuf,
}

impl Objects {
    pub(super) fn new(dir: PathBuf) -> StateResult<Self> {
        let store = Self { dir };
        match fs::DirBuilder::new().mode(0o700).create(&store.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(store.error("make the object store", e)),
            _ => Ok(store),
        }
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.dir.join(&hex[..2]).join(&hex[2..])
    }

    fn error(&self, what: &str, source: std::io::Error) -> StateError {
        StateError::Io { what: format!("{what} ({})", self.dir.display()), source }
    }

    /// Whether a content is there.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.place(digest).exists()
    }

    /// Keeps a content; durable after the next [`Objects::sync`].
    ///
    /// # Errors
    /// Those of the file system.
    pub fn put(&self, digest: &Digest, content: &[u8]) -> StateResult<()> {
        let place = self.place(digest);
        if place.exists() {
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            if let Some(shelf) = place.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(shelf)?;
            }
            let temporary = place.with_extension("new");
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(content)?;
            fs::rename(&temporary, &place)
        };
        write().map_err(|e| self.error("keep an object", e))
    }

    /// A content; `None` when it is not there. One that does not match its name is an error, not a content.
    ///
    /// # Errors
    /// Those of the file system; damage.
    pub fn get(&self, digest: &Digest) -> StateResult<Option<Vec<u8>>> {
        let content = match fs::read(self.place(digest)) {
            Ok(content) => content,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.error("read an object", e)),
        };
        if Digest::of(&content) != *digest {
            let damage = std::io::Error::new(std::io::ErrorKind::InvalidData, format!("object {} is damaged", digest.short()));
            return Err(self.error("read an object", damage));
        }
        Ok(Some(content))
    }

    /// Makes all that was kept durable.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync(&self) -> StateResult<()> {
        let dir = File::open(&self.dir).map_err(|e| self.error("sync objects", e))?;
        rustix::fs::syncfs(&dir).map_err(|e| self.error("sync objects", e.into()))
    }
}
