//! The key of this host's store. What generations hold may be secret, and copies of the store travel: backups, disks that are given away.
//! Without the key, which stays out of them, contents are noise, and their names tell nobody whether a guess was right.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::digest::Digest;

/// Length of the key, in bytes.
const KEY: usize = 32;
/// Length of a nonce, in bytes; it stands before what it was used for.
const NONCE: usize = 24;

/// Seals and opens contents (XChaCha20-Poly1305), and names them.
pub(super) struct Seal {
    key: [u8; KEY],
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// With the key in this file, which is made where there is none.
    pub(super) fn with_key_in(path: &Path) -> io::Result<Self> {
        let key = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => new_key(path)?,
            result => result?,
        };
        let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{} is no key", path.display()));
        let key: [u8; KEY] = key.try_into().map_err(wrong)?;
        Ok(Self { key, cipher: XChaCha20Poly1305::new(&key.into()) })
    }

    /// The name under which a content is kept: only who has the key can tell whose it is.
    pub(super) fn name(&self, digest: &Digest) -> Digest {
        Digest::of(&[self.key.as_slice(), digest.to_string().as_bytes()].concat())
    }

    pub(super) fn seal(&self, content: &[u8]) -> io::Result<Vec<u8>> {
        let nonce: [u8; NONCE] = random()?;
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), content).map_err(|_| io::Error::other("too long to be sealed"))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// What was sealed; `None` when this is not what the key has sealed.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_at_checked(NONCE)?;
        let nonce: [u8; NONCE] = nonce.try_into().ok()?;
        self.cipher.decrypt(&XNonce::from(nonce), rest).ok()
    }
}

/// A new key, durable under its name before anything is sealed with it.
fn new_key(path: &Path) -> io::Result<Vec<u8>> {
    let key: [u8; KEY] = random()?;
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())?;
    Ok(key.to_vec())
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::Seal;
    use crate::cycle::tests::scratch;
    use crate::digest::Digest;

    #[test]
    fn only_the_key_opens_and_names() {
        let dir = scratch();
        let place = dir.path().join("seal.key");
        let (one, again) = (Seal::with_key_in(&place).unwrap(), Seal::with_key_in(&place).unwrap());
        let other = Seal::with_key_in(&dir.path().join("other.key")).unwrap();
        let sealed = one.seal(b"hunter2").unwrap();
        assert_eq!(again.open(&sealed).as_deref(), Some(&b"hunter2"[..]));
        assert!(other.open(&sealed).is_none() && one.open(&sealed[..sealed.len() - 1]).is_none() && one.open(b"").is_none());
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        let digest = Digest::of(b"hunter2");
        assert!(
            one.name(&digest) == again.name(&digest) && one.name(&digest) != other.name(&digest) && one.name(&digest) != digest
        );
        std::fs::write(&place, "short").unwrap();
        assert!(Seal::with_key_in(&place).is_err());
    }
}
