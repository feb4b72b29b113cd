//! The ufw worker, `reconciled worker ufw VERB`: which key of what is declared, and how the firewall was, stands on its standard input. Tells
//! ufw(8) what to do; taken back, its files are put where they were, or, where others have changed them since, what was done is taken back
//! alone. What ufw says goes to standard error.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ufw::{FILES, Firewall, LIMIT, MARK, NOT_AT_BOOT, Request, STOPPED, UNIT, Wanted};

/// More than all files together.
const INPUT: u64 = 16 * LIMIT;
/// Where it is kept how the firewall was before each request, until it may be taken back no more.
const KEPT: &str = "/var/lib/reconciled/ufw";
/// How many are kept: more than the keys of all generations that can still be taken back.
const MOST: usize = 50;

/// What its service runs: tells whether the kernel has the rules, and takes them out of it.
const INIT: &str = "/usr/lib/ufw/ufw-init";

/// All files, by path.
type Files = BTreeMap<String, String>;

/// The firewall around one request.
#[derive(Serialize, Deserialize)]
struct Kept {
    before: Files,
    /// The answer before.
    was: String,
    /// Whether the kernel had it.
    was_loaded: bool,
    /// As the request has left it; `None` as long as it has not ended.
    after: Option<Files>,
}

/// The verb's body.
#[must_use]
pub fn main(arguments: &[&str]) -> ExitCode {
    let done = super::request::<Request>(INPUT).and_then(|request| {
        match arguments {
            ["ask"] => {}
            ["set"] => set(&request)?,
            ["undo"] => undo(&request)?,
            _ => return Err(io::Error::other("which firewall?")),
        }
        println!("{}", firewall()?.answer(&request.wanted));
        Ok(())
    });
    super::ended(done)
}

fn firewall() -> io::Result<Firewall> {
    let mut firewall = Firewall::read(&files()?);
    // Of one that is off nobody asks.
    if firewall.enabled {
        firewall.is_loaded = is_loaded()?;
        firewall.comes_at_boot = systemctl(&["show", "--value", "--property=UnitFileState", UNIT])?.trim() != "disabled";
    }
    Ok(firewall)
}

/// Whether the kernel has its rules.
fn is_loaded() -> io::Result<bool> {
    let mut command = Command::new(INIT);
    let status = command.arg("status").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.map(|status| status.success()).map_err(|error| io::Error::other(format!("{INIT}: {error}")))
}

fn files() -> io::Result<Files> {
    let mut files = BTreeMap::new();
    for path in FILES {
        match fs::read_to_string(path) {
            Ok(text) => drop(files.insert(path.to_owned(), text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::other(format!("{path}: {error}"))),
        }
    }
    Ok(files)
}

/// Does it, and keeps how it was: between the plan and now somebody may have changed it.
fn set(request: &Request) -> io::Result<()> {
    let was = firewall()?.answer(&request.wanted);
    let mut kept = Kept { before: files()?, was, was_loaded: is_loaded()?, after: None };
    kept.keep(request)?;
    change(&request.wanted)?;
    kept.after = Some(files()?);
    kept.keep(request)
}

fn change(wanted: &Wanted) -> io::Result<()> {
    let now = firewall()?;
    match wanted {
        Wanted::Allow(allow) => {
            for subject in allow.iter().filter(|subject| !now.lets(subject)) {
                tell(&["allow", &subject.to_string(), "comment", MARK])?;
            }
        }
        Wanted::Deny { deny, allow } => {
            for subject in deny.iter().filter(|subject| !now.has("deny", subject)) {
                tell(&["deny", &subject.to_string(), "comment", MARK])?;
            }
            // What is denied now may have been a rule of ours that allowed it.
            for rule in firewall()?.stale(allow, deny) {
                tell(&["delete", &rule.action, &rule.subject.to_string()])?;
            }
        }
        Wanted::DefaultIncoming(policy) => ufw(&["default", &policy.to_string(), "incoming"])?,
        Wanted::DefaultOutgoing(policy) => ufw(&["default", &policy.to_string(), "outgoing"])?,
        Wanted::Enabled(true) => {
            if !now.enabled || !now.is_loaded {
                ufw(&["--force", "enable"])?;
            }
            if !firewall()?.comes_at_boot {
                systemctl(&["enable", "--quiet", UNIT])?;
            }
        }
        Wanted::Enabled(false) => ufw(&["--force", "disable"])?,
    }
    Ok(())
}

/// Tells ufw of a rule. One that is on by its files and not loaded notes the rule, for one family at a time, and fails: there is nothing in the
/// kernel to add it to. What it comes to, the answer says.
fn tell(words: &[&str]) -> io::Result<()> {
    match ufw(words) {
        Err(error) if is_loaded()? => Err(error),
        Err(_) => {
            let _ = ufw(words);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Takes it back. Where the files are as it left them, or it did not end, all of them are put where they were; where somebody has changed them
/// since, only what was done is undone.
fn undo(request: &Request) -> io::Result<()> {
    let now = files()?;
    match Kept::of(request)? {
        Some(Kept { was, .. }) if was == STOPPED && request.wanted == Wanted::Enabled(true) => {
            if is_loaded()? {
                unload()
            } else {
                Ok(())
            }
        }
        Some(Kept { was, .. }) if was == NOT_AT_BOOT && request.wanted == Wanted::Enabled(true) => {
            systemctl(&["disable", "--quiet", UNIT]).map(drop)
        }
        Some(Kept { before, after, was_loaded, .. }) if after.as_ref().is_none_or(|after| *after == now) => {
            put_back(&before, was_loaded)
        }
        Some(Kept { before, .. }) => take_back(&now, &before, &request.wanted),
        None => take_back(&now, &request.files, &request.wanted),
    }
}

/// Takes it out of the kernel, and lets all in; its files stay.
fn unload() -> io::Result<()> {
    let status = Command::new(INIT).arg("stop").stdin(Stdio::null()).stdout(io::stderr()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{INIT} stop: {status}"))) }
}

fn take_back(now: &Files, before: &Files, wanted: &Wanted) -> io::Result<()> {
    for words in Firewall::read(now).back(&Firewall::read(before), wanted) {
        ufw(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Puts the files where they were, and has them loaded where they were loaded; off before it was on.
fn put_back(files: &Files, was_loaded: bool) -> io::Result<()> {
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
    match was.enabled {
        true if was_loaded => ufw(&["reload"]),
        true if is_loaded()? => unload(),
        _ => Ok(()),
    }
}

impl Kept {
    fn place(request: &Request) -> io::Result<PathBuf> {
        Ok(PathBuf::from(KEPT).join(Digest::of(&serde_json::to_vec(request)?).to_string()))
    }

    fn of(request: &Request) -> io::Result<Option<Self>> {
        match fs::read(Self::place(request)?) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// For root alone, and on the disk before anything else is done.
    fn keep(&self, request: &Request) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(KEPT)?;
        let (place, text) = (Self::place(request)?, serde_json::to_vec(self)?);
        let new = place.with_extension("new");
        let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &place)?;
        fs::File::open(KEPT)?.sync_all()?;
        forget()
    }
}

/// The oldest go.
fn forget() -> io::Result<()> {
    let mut all = Vec::new();
    for entry in fs::read_dir(KEPT)? {
        let entry = entry?;
        all.push((entry.metadata()?.modified()?, entry.path()));
    }
    all.sort();
    let surplus = all.len().saturating_sub(MOST);
    all.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
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

fn systemctl(words: &[&str]) -> io::Result<String> {
    let done = Command::new("/usr/bin/systemctl").args(words).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(io::Error::other(format!("systemctl {}: {}", words.join(" "), done.status))),
    }
}

fn ufw(words: &[&str]) -> io::Result<()> {
    let mut command = Command::new("/usr/sbin/ufw");
    command.args(words).env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).stdout(io::stderr());
    let status = command.status().map_err(|error| io::Error::other(format!("/usr/sbin/ufw: {error}")))?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ufw {}: {status}", words.join(" ")))) }
}
