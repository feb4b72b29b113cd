//! Contents by SHA-256: what generations carry and what they displaced. Readable by root alone, sealed with the key of this host, and
//! verified when read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::seal::Seal;
use super::{StateError, StateResult};
use crate::digest::Digest;

/// Up to so many new objects are synced one by one; beyond that the whole file system is, which may hold much that is not
/// ours.
const FEW: usize = 64;

/// The object store.
#[derive(Debug)]
pub struct Objects {
    dir: PathBuf,
    seal: Seal,
    /// Written under a temporary name, not yet durable.
    pending: RefCell<BTreeSet<Digest>>,
}

impl Objects {
    pub(super) fn new(dir: PathBuf, key: &Path) -> StateResult<Self> {
        let seal = Seal::with_key_in(key)
            .map_err(|source| StateError::Io { what: format!("the key of the object store ({})", key.display()), source })?;
        let store = Self { dir, seal, pending: RefCell::default() };
        match fs::DirBuilder::new().mode(0o700).create(&store.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(store.error("make the object store", e)),
            _ => Ok(store),
        }
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        let hex = self.seal.name(digest).to_string();
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

    /// Keeps a content: there, and durable, after the next [`Objects::sync`].
    ///
    /// # Errors
    /// Those of the file system.
    pub fn put(&self, digest: &Digest, content: &[u8]) -> StateResult<()> {
        if self.has(digest) || self.pending.borrow().contains(digest) {
            return Ok(());
        }
        let temporary = self.temporary(digest);
        let write = || -> std::io::Result<()> {
            if let Some(shelf) = temporary.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(shelf)?;
            }
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&self.seal.seal(content)?)
        };
        write().map_err(|e| self.error("keep an object", e))?;
        self.pending.borrow_mut().insert(*digest);
        Ok(())
    }

    /// Seals what is kept elsewhere than here.
    pub(super) fn seal(&self, what: &str, plain: &[u8]) -> StateResult<Vec<u8>> {
        self.seal.seal(plain).map_err(|source| StateError::Io { what: what.to_owned(), source })
    }

    /// Opens what was sealed so.
    pub(super) fn open(&self, what: &str, sealed: &[u8]) -> StateResult<Vec<u8>> {
        let damage = || std::io::Error::new(std::io::ErrorKind::InvalidData, "it is damaged, or was sealed with another key");
        self.seal.open(sealed).ok_or_else(|| StateError::Io { what: format!("state.db: {what}"), source: damage() })
    }

    fn temporary(&self, digest: &Digest) -> PathBuf {
        self.place(digest).with_extension("new")
    }

    /// A content; `None` when it is not there. One that does not match its name is an error, not a content.
    ///
    /// # Errors
    /// Those of the file system; damage.
    pub fn get(&self, digest: &Digest) -> StateResult<Option<Vec<u8>>> {
        let sealed = match fs::read(self.place(digest)) {
            Ok(sealed) => sealed,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.error("read an object", e)),
        };
        let Some(content) = self.seal.open(&sealed).filter(|content| Digest::of(content) == *digest) else {
            let damage = std::io::Error::new(std::io::ErrorKind::InvalidData, format!("object {} is damaged", digest.short()));
            return Err(self.error("read an object", damage));
        };
        Ok(Some(content))
    }

    /// Seals what an earlier version kept as it was, under its own digest.
    ///
    /// # Errors
    /// Those of the file system; it may be done again.
    pub(super) fn seal_all(&self) -> StateResult<()> {
        let sealing = || -> std::io::Result<Vec<PathBuf>> {
            let mut open = Vec::new();
            for shelf in fs::read_dir(&self.dir)? {
                let shelf = shelf?;
                for object in fs::read_dir(shelf.path())? {
                    let object = object?;
                    let name = [shelf.file_name(), object.file_name()].map(|part| part.to_string_lossy().into_owned()).concat();
                    let content = fs::read(object.path())?;
                    let digest = Digest::of(&content);
                    if digest.to_string() == name {
                        self.put(&digest, &content).map_err(std::io::Error::other)?;
                        open.push(object.path());
                    }
                }
            }
            Ok(open)
        };
        let open = sealing().map_err(|e| self.error("seal objects", e))?;
        self.sync()?;
        open.iter().try_for_each(fs::remove_file).map_err(|e| self.error("seal objects", e))
    }

    /// Makes all that was kept durable. An object has its name only from then on: what has a name is whole.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync(&self) -> StateResult<()> {
        let pending = std::mem::take(&mut *self.pending.borrow_mut());
        self.name_all(&pending).map_err(|e| self.error("sync objects", e))
    }

    fn name_all(&self, pending: &BTreeSet<Digest>) -> std::io::Result<()> {
        if pending.len() > FEW {
            rustix::fs::syncfs(File::open(&self.dir)?)?;
        } else {
            pending.iter().try_for_each(|digest| File::open(self.temporary(digest))?.sync_all())?;
        }
        let mut shelves = BTreeSet::new();
        for digest in pending {
            let place = self.place(digest);
            fs::rename(self.temporary(digest), &place)?;
            shelves.extend(place.parent().map(Path::to_owned));
        }
        if !shelves.is_empty() {
            shelves.insert(self.dir.clone());
        }
        shelves.iter().try_for_each(|shelf| File::open(shelf)?.sync_all())
    }
}
