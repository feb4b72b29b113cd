//! `reconcilectl audit`: review the log; verify it with nothing but the file.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Subcommand, ValueHint};

use super::{Problem, USAGE};
use crate::audit::{self, Event, Filter, Head, UtcTime};
use crate::client;
use crate::state::{self, STATE_DIR};
use crate::tasks::Status;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List records, one line each, oldest first
    Log {
        /// Only since then: 2026-04-01, 2026-04-01T12:00:00Z (UTC), or 2h for two hours ago
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Only until then
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Only what changed this path or something below it
        #[arg(long, value_hint = ValueHint::AnyPath)]
        path: Option<String>,
        /// Only what touched this unit
        #[arg(long)]
        unit: Option<String>,
        /// Only this outcome
        #[arg(long, value_parser = outcome())]
        outcome: Option<Event>,
        /// Only what this actor asked for: a key's name, a user, or drift
        #[arg(long)]
        actor: Option<String>,
        /// Only the newest so many
        #[arg(long, short = 'n', value_name = "NUMBER")]
        limit: Option<usize>,
        /// Print JSON, one record a line
        #[arg(long)]
        json: bool,
    },
    /// Show one record whole, with its differences
    Show {
        /// Its number, the first word of its line in `audit log`
        seq: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check the chain: an edited, dropped, swapped or cut record is found
    Verify {
        /// A copy of the log; this host's own by default
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        /// A head that was noted elsewhere, as every push prints it; may be repeated
        #[arg(long, value_name = "SEQ:HASH")]
        head: Vec<Head>,
    },
    /// Print the log as it is, for keeping it elsewhere
    Export,
}

fn outcome() -> impl TypedValueParser<Value = Event> {
    PossibleValuesParser::new(Event::ALL.map(Event::name)).try_map(|name| name.parse::<Event>())
}

pub(super) fn own() -> PathBuf {
    Path::new(STATE_DIR).join("audit/audit.jsonl")
}

pub(super) fn open(path: &Path) -> Result<BufReader<File>, Problem> {
    File::open(path).map(BufReader::new).map_err(|e| {
        if e.kind() == std::io::ErrorKind::PermissionDenied {
            let message = format!("{} is not yours to read: run it with sudo, or join the group reconciled", path.display());
            return Problem { message, exit: 4 };
        }
        Problem::new(format!("{}: {e}", path.display()))
    })
}

pub(super) fn cannot_read(error: impl std::fmt::Display) -> Problem {
    Problem::new(format!("the audit log cannot be read: {error}"))
}

pub(super) fn run(verb: Verb) -> Result<String, Problem> {
    match verb {
        Verb::Export => std::io::read_to_string(open(&own())?).map_err(cannot_read),
        Verb::Show { seq, json } => {
            let record = audit::find(open(&own())?, seq).map_err(cannot_read)?;
            let record = record.ok_or_else(|| Problem::new(format!("there is no record {seq}")))?;
            if json { serde_json::to_string_pretty(&record).map_err(cannot_read) } else { Ok(audit::full(&record)) }
        }
        Verb::Verify { file, head } => verify(file, head),
        Verb::Log { since, until, path, unit, outcome, actor, limit, json } => {
            let usage = |message| Problem { message, exit: USAGE };
            let now = UtcTime::now();
            let when = |text: Option<String>| text.map(|t| UtcTime::parse_when(&t, now)).transpose().map_err(usage);
            let filter = Filter { since: when(since)?, until: when(until)?, path, unit, outcome, actor, limit };
            log(&filter, json)
        }
    }
}

fn log(filter: &Filter, json: bool) -> Result<String, Problem> {
    let selection = audit::select(open(&own())?, filter).map_err(cannot_read)?;
    if selection.unreadable > 0 {
        eprintln!("reconcilectl: {} lines are no records: reconcilectl audit verify", selection.unreadable);
    }
    let line =
        |record: &audit::Record| if json { serde_json::to_string(record).unwrap_or_default() } else { audit::line(record) };
    Ok(selection.records.iter().map(|r| line(r) + "\n").collect())
}

/// Compares with the heads given; for this host's own log, and for a copy of it that comes without a head, with those in
/// state.db and the journal.
fn verify(file: Option<PathBuf>, mut anchors: Vec<Head>) -> Result<String, Problem> {
    let is_own = file.is_none();
    let path = file.unwrap_or_else(own);
    let reader = open(&path)?;
    let is_copy = !is_own && anchors.is_empty() && is_of_this_host(&path);
    if is_own {
        anchors.extend(known_heads()?);
    } else if is_copy {
        anchors.extend(known_heads().unwrap_or_default());
    }
    match audit::verify(reader, &anchors) {
        Ok(verified) => {
            let head = verified.head.map_or_else(|| "empty".to_owned(), |h| h.to_string());
            let anchored = match verified.anchored {
                Some(seq) => format!("anchored up to record {seq}"),
                None => "no head to compare with: a cut tail would not show (--head)".to_owned(),
            };
            Ok(format!("{}: {} records, unbroken; {anchored}\nhead {head}", path.display(), verified.records))
        }
        Err(broken) => {
            let older = if is_copy && broken.why.contains("cut off") {
                " (an older copy is judged by its own end: --head SEQ:HASH)"
            } else {
                ""
            };
            Err(Problem::new(format!("{}: {broken}{older}", path.display())))
        }
    }
}

/// Whether a log begins as this host's own does: two logs share no first record, which has its boot and time in it.
fn is_of_this_host(path: &Path) -> bool {
    let first = |path: &Path| -> Option<String> {
        let mut line = String::new();
        BufReader::new(File::open(path).ok()?).read_line(&mut line).ok()?;
        Some(line).filter(|line| !line.is_empty())
    };
    first(path).is_some_and(|line| Some(line) == first(&own()))
}

fn head_by_daemon() -> Option<Head> {
    let answer = client::ask(async |m| m.status().await).ok()?;
    serde_json::from_str::<Status>(&answer).ok()?.audit_head?.parse().ok()
}

/// The heads that state.db and the journal know of.
fn known_heads() -> Result<Vec<Head>, Problem> {
    let mut heads: Vec<Head> = match state::audit_head_of(Path::new(STATE_DIR)) {
        Ok(head) => head.into_iter().collect(),
        // Readers by group cannot open it; the daemon tells them what it holds.
        Err(error) => vec![
            head_by_daemon()
                .ok_or_else(|| Problem { message: format!("{error}: run it with sudo, or name a copy of the log"), exit: 4 })?,
        ],
    };
    let journal = std::process::Command::new("/usr/bin/journalctl")
        .args(["--unit=reconciled.service", "--output=cat", "--no-pager", "--quiet", "--grep=^audit head "])
        .output();
    if let Ok(journal) = journal {
        let text = String::from_utf8_lossy(&journal.stdout);
        heads.extend(text.lines().filter_map(|l| l.strip_prefix("audit head ")?.trim().parse::<Head>().ok()));
    }
    Ok(heads)
}
