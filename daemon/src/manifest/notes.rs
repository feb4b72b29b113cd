//! Remarks that fail no push: what is legal but seldom meant.

use std::collections::BTreeMap;

use serde_json::Value;

use super::tree::{Entry, Tree};
use super::{Manifest, layers};
use crate::kind::{FileSpec, Spec as _, UnitSpec};
use crate::path::{ManagedPath, escape};
use crate::source::{Snapshot, SourceEntry};
use crate::units::{self, UnitFile};

/// So many hosts are listed.
const NAMED_HOSTS: usize = 8;
/// Longest text that might be a link.
const LINK_LIMIT: usize = 255;
/// Endings of what editors and patch tools leave behind.
const LEFTOVERS: [&str; 5] = ["~", ".swp", ".orig", ".rej", ".bak"];

/// Which names are read in a directory, as its reader has it.
#[derive(Clone, Copy)]
enum Read {
    /// Those that end so.
    Ending(&'static str),
    /// Those of letters, digits, `-` and `_` (run-parts(8), cron(8)).
    RunParts,
    /// Those without a dot, and that do not end in `~` (sudoers(5)).
    NoDot,
}

/// Directories that a program reads whole, but for some names.
const READ_WHOLE: [(&str, Read); 14] = [
    ("/etc/cron.d", Read::RunParts),
    ("/etc/cron.hourly", Read::RunParts),
    ("/etc/cron.daily", Read::RunParts),
    ("/etc/cron.weekly", Read::RunParts),
    ("/etc/cron.monthly", Read::RunParts),
    ("/etc/sudoers.d", Read::NoDot),
    ("/etc/ssh/sshd_config.d", Read::Ending(".conf")),
    ("/etc/nginx/conf.d", Read::Ending(".conf")),
    ("/etc/tmpfiles.d", Read::Ending(".conf")),
    ("/etc/sysusers.d", Read::Ending(".conf")),
    ("/etc/sysctl.d", Read::Ending(".conf")),
    ("/etc/modules-load.d", Read::Ending(".conf")),
    ("/etc/systemd/journald.conf.d", Read::Ending(".conf")),
    ("/etc/profile.d", Read::Ending(".sh")),
];

/// Why the program that a directory is for does not read a file in it.
fn unread(path: &str) -> Option<String> {
    let (dir, name) = path.rsplit_once('/')?;
    let (_, read) = READ_WHOLE.iter().find(|(known, _)| *known == dir)?;
    let why = match read {
        Read::Ending(ending) if !name.ends_with(ending) => format!("does not end in {ending}"),
        Read::RunParts if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) => {
            "has other characters than letters, digits, - and _".to_owned()
        }
        Read::NoDot if name.contains('.') || name.ends_with('~') => "has a dot, or ends in ~".to_owned(),
        _ => return None,
    };
    Some(format!("nobody reads it: its name {why}"))
}

/// All remarks, in a fixed order.
pub(super) fn all(snapshot: &Snapshot, host: &str, tree: &Tree<'_>, manifest: &Manifest) -> Vec<String> {
    let mut notes: Vec<String> = no_layer(snapshot, host).into_iter().collect();
    if manifest.probes.is_empty() && !manifest.resources.is_empty() {
        notes.push("no probes are declared: only the units that a push touches decide whether it is healthy".to_owned());
    }
    if manifest.allow_empty && !manifest.resources.is_empty() {
        notes.push("allow_empty = true, but the repository is not empty: remove it, so that it protects again".to_owned());
    }
    let names = named(manifest, UnitSpec::KIND);
    let files = named(manifest, FileSpec::KIND);
    for (path, Entry { source, entry, .. }) in tree {
        let (SourceEntry::File { content, .. }, Some(spec)) = (entry, files.get(path.as_str())) else { continue };
        let shown = escape(source);
        if let Some(unit) = unnamed_unit(path, &names) {
            notes.push(format!("{shown}: no [[unit]] names {}: it is neither enabled nor started", escape(&unit)));
        }
        notes.extend(unread(path).map(|why| format!("{shown}: {why}")));
        notes.extend(suspicion(path, content, spec).map(|what| format!("{shown}: {what}")));
    }
    notes
}

/// Other hosts have a layer, this one has none: its name may be misspelt.
fn no_layer(snapshot: &Snapshot, host: &str) -> Option<String> {
    let hosts = layers::hosts(snapshot);
    let list: Vec<&str> = hosts.iter().copied().take(NAMED_HOSTS).collect();
    let more = if hosts.len() > list.len() { ", …" } else { "" };
    let none = !hosts.is_empty() && !hosts.contains(host);
    none.then(|| format!("hosts/ has no layer for this host, {} (there are: {}{more})", escape(host), escape(&list.join(", "))))
}

/// The declarations of a kind by name.
fn named<'m>(manifest: &'m Manifest, kind: &str) -> BTreeMap<&'m str, &'m Value> {
    manifest.resources.iter().filter(|r| r.kind == kind).map(|r| (r.name.as_str(), &r.spec)).collect()
}

/// The name of a unit file that nothing declared starts.
fn unnamed_unit(path: &str, names: &BTreeMap<&str, &Value>) -> Option<String> {
    let Some(UnitFile::Fragment(unit)) = ManagedPath::new(path).ok().and_then(|path| units::of_path(&path)) else { return None };
    let (stem, _) = unit.rsplit_once('.')?;
    let starts_it = |name: &&str| units::is_trigger(name) && name.rsplit_once('.').is_some_and(|(trigger, _)| trigger == stem);
    let is_it =
        |name: &&str| **name == unit || units::template_of(name).is_some_and(|template| template == unit) || starts_it(name);
    (!names.keys().any(is_it)).then_some(unit)
}

/// What a file looks like that it should not.
fn suspicion(path: &str, content: &[u8], spec: &Value) -> Option<&'static str> {
    let mode = spec["mode"].as_str().and_then(|m| u32::from_str_radix(m, 8).ok()).unwrap_or_default();
    if LEFTOVERS.iter().any(|ending| path.ends_with(ending)) {
        return Some("looks like an editor's leftover");
    }
    if content.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Some("is a pointer of git-lfs, not the file itself");
    }
    if lost_link(content) {
        return Some("its only content is a path: was it a symbolic link? (git config core.symlinks true, and add it again)");
    }
    if content.starts_with(b"#!") && mode & 0o111 == 0 {
        return Some("begins with #! but is not executable (git update-index --chmod=+x)");
    }
    if conflicted(content) {
        return Some("holds the markers of an unfinished merge");
    }
    if spec["secret"] != true && content.starts_with(b"-----BEGIN ") && first_line(content).ends_with(b"PRIVATE KEY-----") {
        return Some("is a private key: set secret = true and a mode in a [[file]] table, or keep it out of git");
    }
    None
}

/// One line without its end, that is a path: how git writes a symbolic link where there are none.
fn lost_link(content: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(content) else { return false };
    text.len() <= LINK_LIMIT
        && ["../", "./", "/"].iter().any(|start| text.starts_with(start) && text.len() > start.len())
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn conflicted(content: &[u8]) -> bool {
    let mut lines = content.split(|b| *b == b'\n');
    lines.any(|line| line.starts_with(b"<<<<<<< ")) && lines.any(|line| line.starts_with(b">>>>>>> "))
}

fn first_line(content: &[u8]) -> &[u8] {
    content.split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default()
}
