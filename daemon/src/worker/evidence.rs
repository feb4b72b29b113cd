//! The evidence worker, `reconciled worker evidence`: what an administrator would look up after a failure, as bare facts.
//!
//! Standard input is one JSON request, standard output one JSON answer. It judges nothing and can change nothing: first it
//! reads what the kernel says of processes and sockets, then it gives up that right, and only then reads what others wrote.

mod listeners;
mod mounts;
mod nginx;
mod walk;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, ExitCode, Stdio};

use rustix::thread::{CapabilitySet, CapabilitySets};
use serde_json::Value;

use crate::diagnose::{Facts, Request, Said};
use crate::host::LogEnd;

/// Longest accepted request, in bytes.
const REQUEST_LIMIT: u64 = 1 << 20;
/// How much of a log is read, in bytes: the end of it.
const LOG_LIMIT: u64 = 256 * 1024;
/// How many lines of all logs are told: the newest.
const ERRORS: usize = 60;
/// How many lines of the journal are asked for.
const JOURNAL_LINES: &str = "400";
/// How much of what journalctl(1) answers is read, in bytes.
const JOURNAL_LIMIT: u64 = 2 << 20;
/// Longest line that is told, in bytes.
const LINE_LIMIT: usize = 1024;
/// How many paths are walked.
const WALKS: usize = 24;
/// Where the logs of nginx are whose beginning is known; others are not read.
const LOGS: &str = "/var/log/nginx/";
/// Where Debian's nginx writes unless it is told otherwise.
const DEFAULT_LOG: &str = "/var/log/nginx/error.log";
/// From this level on a line is an error (`error_log`, ngx_core_module).
const LEVELS: [&str; 4] = ["[error]", "[crit]", "[alert]", "[emerg]"];

/// The verb's body.
#[must_use]
pub fn main() -> ExitCode {
    match gather(&mut io::stdin().lock()).and_then(|facts| Ok(serde_json::to_string(&facts)?)) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("evidence worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn gather(input: &mut dyn Read) -> io::Result<Facts> {
    let mut request = Vec::new();
    input.take(REQUEST_LIMIT).read_to_end(&mut request)?;
    let request: Request = serde_json::from_slice(&request)?;
    // Landlock hides other processes from whoever it confines.
    let listeners = listeners::all();
    see_no_processes()?;
    super::sandbox::write_nothing().map_err(io::Error::other)?;
    let nginx::Read { nginx, sockets, logs } = nginx::read();
    let errors = request.logs.as_ref().map(|ends| errors(&logs, ends)).unwrap_or_default();
    let named = errors.iter().flat_map(|line| paths_in(line));
    let paths: BTreeSet<String> = request.paths.iter().cloned().chain(sockets).chain(named).take(WALKS).collect();
    let walks = walk::all(&paths, &nginx.user);
    Ok(Facts { listeners, mounts: mounts::all(), walks, nginx, errors, journal: journal(&request) })
}

/// Gives up the right to look into other processes, for good.
fn see_no_processes() -> io::Result<()> {
    let keep = CapabilitySet::DAC_READ_SEARCH;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// What the error logs got since they ended there, oldest first.
fn errors(logs: &BTreeSet<String>, ends: &[LogEnd]) -> Vec<String> {
    let known = logs.iter().map(String::as_str).chain([DEFAULT_LOG]).filter(|log| log.starts_with(LOGS));
    let mut lines: Vec<String> =
        known.collect::<BTreeSet<_>>().into_iter().flat_map(|log| since(log, ends).unwrap_or_default()).collect();
    lines.retain(|line| LEVELS.iter().any(|level| line.contains(level)));
    // Each begins with its time, to the second: `2026/11/26 01:31:30`.
    lines.sort_by(|a, b| a.get(..19).cmp(&b.get(..19)));
    lines.split_off(lines.len().saturating_sub(ERRORS))
}

/// What a log got since it ended there; all of one that was not there.
fn since(log: &str, ends: &[LogEnd]) -> io::Result<Vec<String>> {
    let found = std::fs::symlink_metadata(log)?;
    if !found.is_file() {
        return Ok(Vec::new());
    }
    let known = ends.iter().find(|end| end.path == log && end.inode == found.ino() && end.length <= found.len());
    let begin = known.map_or(0, |end| end.length).max(found.len().saturating_sub(LOG_LIMIT));
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(LOG_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).lines().map(cut).collect())
}

fn cut(line: &str) -> String {
    line[..line.floor_char_boundary(LINE_LIMIT)].to_owned()
}

/// Absolute paths in quotes, and those of sockets (`unix:/run/x.sock:/`).
fn paths_in(line: &str) -> impl Iterator<Item = String> {
    let quoted = line.split('"').skip(1).step_by(2).filter(|word| word.starts_with('/'));
    quoted.chain(line.split("unix:").skip(1).filter_map(nginx::socket)).map(str::to_owned)
}

/// What these units said since then, and what PID 1 said of them (systemd.journal-fields(7)); nothing when it cannot be read.
fn journal(request: &Request) -> Vec<Said> {
    let Some(first) = request.units.first() else { return Vec::new() };
    let matches = |unit: &String| [format!("_SYSTEMD_UNIT={unit}"), "+".to_owned(), format!("UNIT={unit}"), "_UID=0".to_owned()];
    let mut words: Vec<String> = matches(first).into();
    for unit in &request.units[1..] {
        words.push("+".to_owned());
        words.extend(matches(unit));
    }
    let child = Command::new("/usr/bin/journalctl")
        .args(["--boot", "--no-pager", "--quiet", "--output=json", "--output-fields=MESSAGE,UNIT,_SYSTEMD_UNIT"])
        .args(["--lines", JOURNAL_LINES])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return Vec::new() };
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let _ = stdout.take(JOURNAL_LIMIT).read_to_end(&mut answer);
    }
    let _ = child.kill();
    let _ = child.wait();
    answer.split(|byte| *byte == b'\n').filter_map(|line| said(line, request.since_ms)).collect()
}

/// One line of `journalctl --output=json`, if it is new enough by the clock that nobody sets.
fn said(line: &[u8], since_ms: u64) -> Option<Said> {
    let fields: serde_json::Map<String, Value> = serde_json::from_slice(line).ok()?;
    let field = |name: &str| fields.get(name).and_then(Value::as_str);
    let at: u64 = field("__MONOTONIC_TIMESTAMP")?.parse().ok()?;
    let text = match fields.get("MESSAGE")? {
        Value::String(text) => text.clone(),
        // What is not UTF-8 comes as numbers.
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|b| u8::try_from(b.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => return None,
    };
    let by_manager = fields.contains_key("UNIT");
    let unit = field("UNIT").or(field("_SYSTEMD_UNIT"))?.to_owned();
    (at >= since_ms.saturating_mul(1000)).then(|| Said { unit, by_manager, text: cut(&text) })
}

#[cfg(test)]
mod tests;
