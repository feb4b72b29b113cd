//! `reconcilectl secret`: seals what only this host may read, so that it can be kept in its repository.

use std::io::{self, IsTerminal, Read, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Subcommand;

use super::Problem;
use crate::worker::secrets::AGE;

/// What `*.age` files are sealed to.
const RECIPIENT: &str = "/etc/ssh/ssh_host_ed25519_key.pub";

/// Longest secret, in bytes: sealed, it has to fit into what the daemon reads ([`crate::worker::secrets::LIMIT`]).
const LIMIT: u64 = 46 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Seal a secret for this host: plain text in, a file for secrets/NAME.age out
    ///
    /// `ssh HOST reconcilectl secret seal <plain >secrets/NAME.age`; needs neither the daemon nor root. On a workstation the same is
    /// `age -a -r "$(ssh HOST reconcilectl secret recipient)" <plain >secrets/NAME.age`.
    Seal,
    /// Print what secrets of this host are sealed to, for age -r
    Recipient,
}

/// Carries it out.
pub(super) fn run(verb: &Verb) -> Result<String, Problem> {
    let recipient = std::fs::read_to_string(RECIPIENT).map_err(|e| {
        Problem::new(format!("{RECIPIENT}: {e}: this host has no key of that sort; sudo ssh-keygen -A makes one"))
    })?;
    match verb {
        Verb::Recipient => Ok(recipient),
        Verb::Seal => {
            if !Path::new(AGE).exists() {
                return Err(Problem::new("age is not installed: sudo apt-get install age".to_owned()));
            }
            if std::io::stdout().is_terminal() {
                return Err(Problem::new("it would be printed here: add >secrets/NAME.age".to_owned()));
            }
            let plain = read(std::io::stdin().lock()).map_err(Problem::new)?;
            seal(&plain).map_err(|error| Problem::new(format!("{AGE}: {error}")))?;
            Ok(String::new())
        }
    }
}

/// What is to be sealed. A pipe whose beginning failed brings nothing, and nobody could log in with that.
fn read(input: impl Read) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    input.take(LIMIT + 1).read_to_end(&mut plain).map_err(|error| format!("the secret cannot be read: {error}"))?;
    match plain.len() as u64 {
        _ if plain.trim_ascii().is_empty() => Err("nothing came in on the standard input: printf %s SECRET | …".to_owned()),
        length if length > LIMIT => Err(format!("a secret has {LIMIT} bytes at most")),
        _ => Ok(plain),
    }
}

fn seal(plain: &[u8]) -> io::Result<()> {
    let mut age = Command::new(AGE).args(["--armor", "--recipients-file", RECIPIENT]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = age.stdin.take() {
        // Where it has ended before, its exit code says so.
        let _ = stdin.write_all(plain);
    }
    let status = age.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::{LIMIT, read};

    #[test]
    fn a_secret_is_something() {
        for nothing in ["", "\n", "  \n"] {
            assert!(read(nothing.as_bytes()).unwrap_err().contains("nothing came in"));
        }
        assert_eq!(read("x\n".as_bytes()).unwrap(), b"x\n", "as it came");
        assert!(read(std::io::repeat(b'x').take(LIMIT + 5)).unwrap_err().contains("bytes at most"));
    }
}
