//! `reconcilectl secret`: seals what only this host may read, so that it can be kept in its repository.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use clap::Subcommand;

use super::Problem;
use crate::worker::secrets::AGE;

/// What `*.age` files are sealed to.
const RECIPIENT: &str = "/etc/ssh/ssh_host_ed25519_key.pub";

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
            let error = Command::new(AGE).args(["--armor", "--recipients-file", RECIPIENT]).exec();
            Err(Problem::new(format!("{AGE}: {error}")))
        }
    }
}
