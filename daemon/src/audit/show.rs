//! Records for people: which ones, and how they read. Nothing that a terminal would obey comes through. Pure but for the
//! reading of the log that is handed in.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, BufRead};

use super::record::{ChangeRecord, Event, Record};
use super::time::UtcTime;
use crate::path::escape;

/// Which records are wanted; what is not set does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not before.
    pub since: Option<UtcTime>,
    /// Not after.
    pub until: Option<UtcTime>,
    /// About this path, or one below it.
    pub path: Option<String>,
    /// About this unit; `.service` may be left out.
    pub unit: Option<String>,
    /// What happened.
    pub outcome: Option<Event>,
    /// Who wanted it.
    pub actor: Option<String>,
    /// So many of the newest.
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether a record is wanted, but for `limit`.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        self.since.is_none_or(|since| record.at >= since)
            && self.until.is_none_or(|until| record.at <= until)
            && self.outcome.is_none_or(|outcome| record.what.event == outcome)
            && self.actor.as_ref().is_none_or(|actor| record.what.actor == *actor)
            && self.path.as_ref().is_none_or(|path| record.what.changes.iter().any(|change| concerns_path(change, path)))
            && self.unit.as_ref().is_none_or(|unit| concerns_unit(record, unit))
    }
}

fn concerns_path(change: &ChangeRecord, path: &str) -> bool {
    let Some((kind, name)) = change.target.split_once(':') else { return false };
    kind != "unit" && std::path::Path::new(name).starts_with(path)
}

fn concerns_unit(record: &Record, unit: &str) -> bool {
    let is_meant = |name: &str| name == unit || name.strip_suffix(".service") == Some(unit);
    let changed = |change: &ChangeRecord| change.target.strip_prefix("unit:").is_some_and(is_meant);
    record.what.changes.iter().any(changed) || record.what.wakes.iter().any(|wake| wake.split(' ').any(is_meant))
}

/// Records out of a log, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Those that are wanted.
    pub records: Vec<Record>,
    /// Lines that are no records: `verify` says why.
    pub unreadable: u64,
}

/// Reads the wanted records of a log. Proves nothing: that is what `verify` does.
///
/// # Errors
/// Those of the reader.
pub fn select(reader: impl BufRead, filter: &Filter) -> io::Result<Selection> {
    let (mut kept, mut unreadable) = (VecDeque::new(), 0);
    for line in reader.split(b'\n') {
        match serde_json::from_slice::<Record>(&line?) {
            Ok(record) if filter.matches(&record) => kept.push_back(record),
            Ok(_) => {}
            Err(_) => unreadable += 1,
        }
        if filter.limit.is_some_and(|limit| kept.len() > limit) {
            kept.pop_front();
        }
    }
    Ok(Selection { records: kept.into(), unreadable })
}

/// Reads the newest record of a log that is wanted.
///
/// # Errors
/// Those of the reader.
pub fn newest(reader: impl BufRead, wanted: impl Fn(&Record) -> bool) -> io::Result<Option<Record>> {
    let mut newest = None;
    for line in reader.split(b'\n') {
        if let Some(record) = serde_json::from_slice::<Record>(&line?).ok().filter(&wanted) {
            newest = Some(record);
        }
    }
    Ok(newest)
}

/// Reads one record of a log.
///
/// # Errors
/// Those of the reader.
pub fn find(reader: impl BufRead, seq: u64) -> io::Result<Option<Record>> {
    for line in reader.split(b'\n') {
        if let Some(record) = serde_json::from_slice::<Record>(&line?).ok().filter(|record| record.seq == seq) {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// A record in one line.
#[must_use]
pub fn line(record: &Record) -> String {
    let what = &record.what;
    let commit = what.commit.as_deref().unwrap_or("-").chars().take(12).collect::<String>();
    let mut parts = vec![format!(
        "{:>5}  {}  {:<14}  {:<12}  {}",
        record.seq,
        record.at.seconds(),
        what.event,
        escape(&commit),
        escape(&what.actor)
    )];
    parts.extend(what.generation.map(|n| format!("generation {n}")));
    if !what.changes.is_empty() {
        let count = |sign| what.changes.iter().filter(|change| change.sign == sign).count();
        parts.push(format!("+{} ~{} -{}", count('+'), count('~'), count('-')));
    }
    parts.extend(what.reason.as_ref().or(what.summary.as_ref()).map(|text| escape(text)));
    parts.join("  ")
}

/// A record with all that it holds, in lines.
#[must_use]
pub fn full(record: &Record) -> String {
    let what = &record.what;
    let mut out = format!("record {}\n", record.seq);
    field(&mut out, "time", &record.at.to_string());
    let (s, ms) = (record.monotonic_ms / 1000, record.monotonic_ms % 1000);
    field(&mut out, "boot", &format!("{}, {s}.{ms:03} s after its start", record.boot));
    field(&mut out, "event", what.event.name());
    field(&mut out, "actor", &what.actor);
    for (name, value) in [
        ("commit", what.commit.clone()),
        ("summary", what.summary.clone()),
        ("generation", what.generation.map(|n| n.to_string())),
        ("plan", what.plan.map(|digest| digest.to_string())),
        ("reason", what.reason.clone()),
    ] {
        value.iter().for_each(|value| field(&mut out, name, value));
    }
    section(&mut out, "details", what.details.iter().map(|text| block("  ", text)));
    section(&mut out, "changes", what.changes.iter().map(change));
    section(&mut out, "wakes", what.wakes.iter().map(|wake| block("  ", wake)));
    section(
        &mut out,
        "guards",
        what.guards.iter().map(|guard| verdict(guard.passed, &format!("{}: {}", guard.name, guard.text))),
    );
    section(&mut out, "probes", what.probes.iter().map(|probe| verdict(probe.passed, &probe.text)));
    section(&mut out, "because", what.findings.iter().map(|finding| block("  ", &finding.text)));
    section(&mut out, "stages", what.stages.iter().map(|stage| block("  ", &format!("{} {} ms", stage.name, stage.ms))));
    field(&mut out, "previous", &record.prev.map_or("none, this is the first".to_owned(), |digest| digest.to_string()));
    out
}

fn field(out: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{name:<12}{}", escape(value));
}

fn section(out: &mut String, name: &str, blocks: impl Iterator<Item = String>) {
    let blocks: String = blocks.collect();
    if !blocks.is_empty() {
        let _ = write!(out, "{name}\n{blocks}");
    }
}

fn verdict(passed: bool, text: &str) -> String {
    block(if passed { "  ok    " } else { "  FAIL  " }, text)
}

fn change(change: &ChangeRecord) -> String {
    let reason = if change.reason.is_empty() { String::new() } else { format!("  ({})", change.reason) };
    let side = |text: &str, digest: Option<_>| digest.map_or(text.to_owned(), |digest| format!("{text}, sha256 {digest}"));
    let mut out = block("  ", &format!("{} {}{reason}", change.sign, change.target));
    out += &block("      before  ", &side(&change.before, change.before_digest));
    out += &block("      after   ", &side(&change.after, change.after_digest));
    out += &change.diff.as_ref().map_or(String::new(), |diff| block("      | ", diff));
    out
}

/// Lines behind a margin. Of all control characters only the tab stays, which text files are full of.
fn block(margin: &str, text: &str) -> String {
    let safe = |line: &str| line.split('\t').map(escape).collect::<Vec<_>>().join("\t");
    text.lines().map(|line| format!("{margin}{}\n", safe(line))).collect()
}
