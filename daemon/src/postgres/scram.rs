//! SCRAM-SHA-256 verifiers, as pg_authid keeps them (RFC 5803): made of a password, and compared with one. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// How a verifier begins.
const METHOD: &str = "SCRAM-SHA-256";
/// Rounds of a new verifier: the server's own default (`scram_iterations`).
const ROUNDS: u32 = 4096;
/// Verifiers with more are taken for another password's: they would keep everything else waiting.
const MOST_ROUNDS: u32 = 1_000_000;
/// Bytes of a new salt: as many as the server takes.
pub const SALT: usize = 16;

/// A verifier of this password.
#[must_use]
pub fn verifier(password: &str, salt: &[u8]) -> String {
    written(password, salt, ROUNDS)
}

/// Whether a verifier is of this password; one of another method (md5) never is.
#[must_use]
pub fn is_of(verifier: &str, password: &str) -> bool {
    let read = || {
        let (rounds, salt) = verifier.strip_prefix(METHOD)?.strip_prefix('$')?.split('$').next()?.split_once(':')?;
        Some((rounds.parse::<u32>().ok()?, BASE64.decode(salt).ok()?))
    };
    match read() {
        Some((rounds @ 1..=MOST_ROUNDS, salt)) => written(password, &salt, rounds) == verifier,
        _ => false,
    }
}

fn written(password: &str, salt: &[u8], rounds: u32) -> String {
    let mut salted = [0_u8; 32];
    // HMAC takes keys of any length (RFC 2104): this fails for none.
    let _ = pbkdf2::pbkdf2::<Hmac<Sha256>>(password.as_bytes(), salt, rounds, &mut salted);
    let stored = Sha256::digest(keyed(&salted, b"Client Key"));
    let server = keyed(&salted, b"Server Key");
    format!("{METHOD}${rounds}:{}${}:{}", BASE64.encode(salt), BASE64.encode(stored), BASE64.encode(server))
}

fn keyed(key: &[u8; 32], text: &[u8]) -> [u8; 32] {
    // A key that is shorter than a block is filled up with zeros (RFC 2104).
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::{is_of, verifier, written};

    /// The user `user` with the password `pencil` of RFC 7677, as PostgreSQL writes it.
    const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
        wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn a_known_vector() {
        assert!(is_of(PENCIL, "pencil"));
        assert!(!is_of(PENCIL, "Pencil"));
    }

    #[test]
    fn only_its_own_password() {
        let ours = verifier("pass word", &[7; super::SALT]);
        assert!(is_of(&ours, "pass word"));
        for other in ["", "pass", "pass word ", "Pass word"] {
            assert!(!is_of(&ours, other), "{other}");
        }
        assert!(is_of(&written("x", b"salty", 9), "x"), "with its own rounds and salt");
        for none in [
            "",
            "md5d41d8cd98f00b204e9800998ecf8427e",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$0:c2FsdA==$a:b",
            "SCRAM-SHA-256$4294967295:c2FsdA==$a:b",
            "SCRAM-SHA-256$x:?$",
        ] {
            assert!(!is_of(none, "x"), "{none}");
        }
    }
}
