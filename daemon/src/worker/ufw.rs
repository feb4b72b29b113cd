//! The ufw worker, `reconciled worker ufw VERB`: which key of what is declared, and how the firewall was, stands on its standard input. Tells
//! ufw(8) what to do; taken back, its files are put where they were. What ufw says goes to standard error.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode, Stdio};

use crate::ufw::{FILES, Firewall, LIMIT, MARK, Request, Wanted};

/// More than all files together.
const INPUT: u64 = 16 * LIMIT;

/// The verb's body.
#[must_use]
pub fn main(arguments: &[&str]) -> ExitCode {
    let done = super::request::<Request>(INPUT).and_then(|request| {
        match arguments {
            ["ask"] => {}
            ["set"] => set(&request.wanted)?,
            ["undo"] => undo(&request.files)?,
            _ => return Err(io::Error::other("which firewall?")),
        }
        println!("{}", firewall()?.answer(&request.wanted));
        Ok(())
    });
    super::ended(done)
}

fn firewall() -> io::Result<Firewall> {
    let mut files = BTreeMap::new();
    for path in FILES {
        match fs::read_to_string(path) {
            Ok(text) => drop(files.insert(path.to_owned(), text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::other(format!("{path}: {error}"))),
        }
    }
    Ok(Firewall::read(&files))
}

fn set(wanted: &Wanted) -> io::Result<()> {
    let now = firewall()?;
    match wanted {
        Wanted::Allow(allow) => {
            for subject in allow.iter().filter(|subject| !now.lets(subject)) {
                ufw(&["allow", &subject.to_string(), "comment", MARK])?;
            }
        }
        Wanted::Deny { deny, allow } => {
            for subject in deny.iter().filter(|subject| !now.has("deny", subject)) {
                ufw(&["deny", &subject.to_string(), "comment", MARK])?;
            }
            // What is denied now may have been a rule of ours that allowed it.
            for rule in firewall()?.stale(allow, deny) {
                ufw(&["delete", &rule.action, &rule.subject.to_string()])?;
            }
        }
        Wanted::DefaultIncoming(policy) => ufw(&["default", &policy.to_string(), "incoming"])?,
        Wanted::DefaultOutgoing(policy) => ufw(&["default", &policy.to_string(), "outgoing"])?,
        Wanted::Enabled(true) => ufw(&["--force", "enable"])?,
        Wanted::Enabled(false) => ufw(&["--force", "disable"])?,
    }
    Ok(())
}

/// Puts the files where they were, and has them loaded; off before it was on.
fn undo(files: &BTreeMap<String, String>) -> io::Result<()> {
    let was = Firewall::read(files);
    if !was.enabled {
        ufw(&["--force", "disable"])?;
    }
    for (path, text) in files {
        if fs::read_to_string(path).is_ok_and(|now| now == *text) {
            continue;
        }
        put(path, text).map_err(|error| io::Error::other(format!("{path}: {error}")))?;
    }
    if was.enabled { ufw(&["reload"]) } else { Ok(()) }
}

/// A file in the place of another, in one rename; as it, for root and whom its mode lets read it.
fn put(path: &str, text: &str) -> io::Result<()> {
    let mode = fs::metadata(path).map_or(0o640, |found| found.permissions().mode());
    let new = format!("{path}.new");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(&new, path)
}

fn ufw(words: &[&str]) -> io::Result<()> {
    let mut command = Command::new("/usr/sbin/ufw");
    command.args(words).env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).stdout(io::stderr());
    let status = command.status().map_err(|error| io::Error::other(format!("/usr/sbin/ufw: {error}")))?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ufw {}: {status}", words.join(" ")))) }
}
