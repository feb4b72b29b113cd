//! What comes out of git: a commit and the bounded, checked snapshot of its tree. Parsing of git objects happens in the
//! unprivileged source worker; parsing of manifests does not happen here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::{HostError, Job, Look, Sandbox};
use crate::path::{check_relative, escape};
use crate::worker::PROGRAM;

/// A commit, as far as anybody here asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Object id, 40 hexadecimal digits.
    pub id: String,
    /// First line of the message, safe to show.
    pub summary: String,
    /// `Name <mail>` of the author, safe to show.
    pub author: String,
}

/// One entry of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEntry {
    /// A regular file (git modes 100644 and 100755).
    File {
        /// Its bytes.
        content: Vec<u8>,
        /// Mode 100755.
        executable: bool,
    },
    /// A symbolic link (git mode 120000).
    Link {
        /// Its text.
        target: String,
    },
}

/// The tree of one commit: every name has passed `path::check_relative`, every size the budgets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Which commit; empty for a directory that is only validated.
    pub commit: Commit,
    /// Entries by their path in the repository.
    pub entries: BTreeMap<String, SourceEntry>,
}

/// A commit id as people see it.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// The bare repository that is pushed to.
pub const REPOSITORY: &str = "/var/lib/reconciled/git/host.git";
/// The account that owns it; git and the parser of its objects run as it.
pub const GIT_USER: &str = "reconciled";
/// The branch whose tip the host is held at.
pub const MAIN: &str = "refs/heads/main";

/// Limit of a fetch: while it runs the engine does nothing else.
const FETCH_LIMIT: Duration = Duration::from_secs(45);

/// What a tree may be at most; a larger one is refused before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Entries walked, directories included.
    pub entries: u64,
    /// Bytes of one file.
    pub file: u64,
    /// Bytes of all files together.
    pub total: u64,
    /// Directories below each other.
    pub depth: u32,
}

impl Budget {
    /// The budget of a repository of desired state.
    pub const STANDARD: Self = Self { entries: 20_000, file: 16 << 20, total: 64 << 20, depth: 64 };
}

/// What the source worker is asked; one JSON document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// Read the tree of a commit, and say whether `descends_from` is an ancestor of it.
    Read {
        /// Which commit.
        commit: String,
        /// The commit that it has to build on.
        descends_from: Option<String>,
        /// What it may be at most.
        budget: Budget,
    },
    /// Move a ref, if it still stands at `old`.
    Publish {
        /// Full name of the ref.
        reference: String,
        /// Where it stands; `None`: it does not exist.
        old: Option<String>,
        /// Where it shall stand.
        new: String,
    },
    /// How two commits are related.
    Compare {
        /// The one that is known.
        base: String,
        /// The one that came.
        tip: String,
    },
    /// What the last fetch brought.
    Fetched,
    /// Where a ref stands.
    Resolve {
        /// Full name of the ref, or a commit id or its beginning.
        reference: String,
    },
}

/// The head of the worker's answer, one line of JSON; the entries follow, then an `end` line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// A commit; entries follow.
    Commit {
        /// Which.
        commit: Commit,
        /// Whether it descends from the commit asked about (true when none was).
        descends: bool,
    },
    /// One entry; `size` bytes of content follow the line.
    Entry {
        /// Path in the repository.
        path: String,
        /// Whether it is a link.
        link: bool,
        /// Whether it is executable.
        executable: bool,
        /// Bytes that follow.
        size: u64,
    },
    /// Nothing follows; so many entries went before.
    End {
        /// How many.
        entries: u64,
    },
    /// Where the ref stands now.
    Reference {
        /// The commit, if there is any.
        commit: Option<String>,
    },
    /// How two commits are related.
    Related {
        /// How the tip stands to the base.
        relation: Relation,
    },
    /// The repository's fault: one clear line.
    Refused {
        /// Why.
        reason: String,
    },
}

/// How a commit stands to an earlier known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// It is the same.
    Same,
    /// It builds on it.
    Ahead,
    /// It is one of its ancestors.
    Behind,
    /// Neither: history was rewritten.
    Diverged,
}

/// Why a revision could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The worker could not be run, or the engine does not believe it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The repository's fault.
    #[error("{0}")]
    Refused(String),
}

/// A revision as the engine got it from the worker.
#[derive(Debug)]
pub struct Received {
    /// Its tree.
    pub snapshot: Snapshot,
    /// Whether it builds on the commit asked about.
    pub descends: bool,
}

/// Reads a revision through the unprivileged worker and checks every word of its answer.
///
/// # Errors
/// When it is over budget or malformed, or the worker fails.
pub fn read(host: &dyn Look, commit: &str, descends_from: Option<&str>) -> Result<Received, SourceError> {
    let budget = Budget::STANDARD;
    let request = Request::Read { commit: commit.to_owned(), descends_from: descends_from.map(str::to_owned), budget };
    let bytes = ask(host, &request, usize::try_from(budget.total).unwrap_or(usize::MAX) + (32 << 20))?;
    receive(&bytes, budget, commit)
}

/// Moves a ref by compare-and-swap.
///
/// # Errors
/// When it does not stand where it was expected, or the worker fails.
pub fn publish(host: &dyn Look, reference: &str, old: Option<&str>, new: &str) -> Result<(), SourceError> {
    let request = Request::Publish { reference: reference.to_owned(), old: old.map(str::to_owned), new: new.to_owned() };
    let bytes = ask(host, &request, 64 * 1024)?;
    match first_line(&bytes)?.0 {
        Answer::Reference { commit } if commit.as_deref() == Some(new) => Ok(()),
        Answer::Refused { reason } => Err(SourceError::Refused(reason)),
        other => Err(nonsense(&format!("{other:?}"))),
    }
}

/// Where a ref or an abbreviated commit id stands.
///
/// # Errors
/// When the worker fails.
pub fn resolve(host: &dyn Look, reference: &str) -> Result<Option<String>, SourceError> {
    let bytes = ask(host, &Request::Resolve { reference: reference.to_owned() }, 64 * 1024)?;
    match first_line(&bytes)?.0 {
        Answer::Reference { commit } => {
            commit.as_deref().map_or(Ok(()), check_id)?;
            Ok(commit)
        }
        Answer::Refused { reason } => Err(SourceError::Refused(reason)),
        other => Err(nonsense(&format!("{other:?}"))),
    }
}

/// How `tip` stands to `base`.
///
/// # Errors
/// When the worker fails.
pub fn compare(host: &dyn Look, base: &str, tip: &str) -> Result<Relation, SourceError> {
    let bytes = ask(host, &Request::Compare { base: base.to_owned(), tip: tip.to_owned() }, 64 * 1024)?;
    match first_line(&bytes)?.0 {
        Answer::Related { relation } => Ok(relation),
        Answer::Refused { reason } => Err(SourceError::Refused(reason)),
        other => Err(nonsense(&format!("{other:?}"))),
    }
}

/// Fetches a branch of a remote with the installed git, as the repository's user; returns its tip. No ref is written: a
/// crash in the middle leaves nothing that a later fetch could stumble over.
///
/// # Errors
/// git's own words, without what it says of credentials.
pub fn fetch(host: &dyn Look, url: &str, branch: &str) -> Result<String, SourceError> {
    let reference = format!("refs/heads/{branch}");
    let settings = [
        "core.hooksPath=/dev/null",
        "protocol.allow=never",
        "protocol.https.allow=always",
        "protocol.ssh.allow=always",
        "protocol.file.allow=always",
        // To this host itself only: see the check of the settings.
        "protocol.http.allow=always",
        "protocol.git.allow=always",
        "fetch.fsckObjects=true",
        "gc.auto=0",
        "http.followRedirects=false",
        "http.lowSpeedLimit=1000",
        "http.lowSpeedTime=20",
    ];
    let mut argv = vec!["/usr/bin/git".to_owned(), format!("--git-dir={REPOSITORY}")];
    argv.extend(settings.iter().flat_map(|s| ["-c".to_owned(), (*s).to_owned()]));
    argv.extend(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--", url, &reference].map(str::to_owned));
    let job = Job {
        purpose: "fetch",
        argv,
        input: Vec::new(),
        sandbox: Sandbox::Git { user: GIT_USER.to_owned() },
        limit: FETCH_LIMIT,
        output_limit: 256 * 1024,
        keeps_tail: false,
    };
    let ran = host.run(&job, &mut |_| true)?;
    if !ran.ok() {
        let said = String::from_utf8_lossy(&ran.stderr);
        // The first line says what is wrong; the last of a failed connection is the same whatever it was.
        let said = said.lines().find(|l| !l.trim().is_empty()).unwrap_or("git said nothing");
        let why = if ran.result == "timeout" { "no answer in time".to_owned() } else { escape(said) };
        return Err(SourceError::Refused(format!("git fetch: {why}")));
    }
    let bytes = ask(host, &Request::Fetched, 64 * 1024)?;
    match first_line(&bytes)?.0 {
        Answer::Reference { commit: Some(commit) } => {
            check_id(&commit)?;
            Ok(commit)
        }
        Answer::Refused { reason } => Err(SourceError::Refused(reason)),
        other => Err(nonsense(&format!("{other:?}"))),
    }
}

fn ask(host: &dyn Look, request: &Request, output_limit: usize) -> Result<Vec<u8>, SourceError> {
    let input = serde_json::to_vec(request).map_err(|e| nonsense(&e.to_string()))?;
    let job = Job {
        purpose: "source",
        argv: [PROGRAM, "worker", "source"].map(str::to_owned).to_vec(),
        input,
        sandbox: Sandbox::Parser { user: GIT_USER.to_owned() },
        limit: Duration::from_secs(60),
        output_limit,
        keeps_tail: false,
    };
    let ran = host.run(&job, &mut |_| true)?;
    if ran.ok() {
        return Ok(ran.stdout);
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(nonsense(&format!("it ended with {} ({:?}): {}", ran.result, ran.code, escape(said.trim()))))
}

fn nonsense(detail: &str) -> SourceError {
    SourceError::Host(HostError::Unfit(format!("the source worker failed: {detail}")))
}

/// An object id is 40 hexadecimal digits, whatever the worker says.
fn check_id(id: &str) -> Result<(), SourceError> {
    if id.len() == 40 && id.bytes().all(|b| b.is_ascii_hexdigit()) { Ok(()) } else { Err(nonsense("it named no commit")) }
}

fn first_line(bytes: &[u8]) -> Result<(Answer, &[u8]), SourceError> {
    let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| nonsense("its answer is cut short"))?;
    let answer = serde_json::from_slice(&bytes[..end]).map_err(|e| nonsense(&e.to_string()))?;
    Ok((answer, &bytes[end + 1..]))
}

/// Reads the worker's answer as what it is: foreign bytes.
fn receive(bytes: &[u8], budget: Budget, asked: &str) -> Result<Received, SourceError> {
    let (head, mut rest) = first_line(bytes)?;
    let (commit, descends) = match head {
        Answer::Commit { commit, descends } if commit.id == asked => (commit, descends),
        Answer::Refused { reason } => return Err(SourceError::Refused(escape(&reason))),
        other => return Err(nonsense(&format!("{other:?}"))),
    };
    let mut entries = BTreeMap::new();
    let mut total = 0_u64;
    loop {
        let (answer, after) = first_line(rest)?;
        match answer {
            Answer::Entry { path, link, executable, size } => {
                total = total.saturating_add(size);
                if size > budget.file || total > budget.total || entries.len() as u64 >= budget.entries {
                    return Err(nonsense("its answer is over budget"));
                }
                check_relative(&path).map_err(SourceError::Refused)?;
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                let content = after.get(..size).ok_or_else(|| nonsense("its answer is cut short"))?;
                rest = &after[size..];
                let entry = if link {
                    let target = String::from_utf8(content.to_vec())
                        .map_err(|_| SourceError::Refused(format!("{path}: the link's text is not UTF-8")))?;
                    SourceEntry::Link { target }
                } else {
                    SourceEntry::File { content: content.to_vec(), executable }
                };
                if entries.insert(path.clone(), entry).is_some() {
                    return Err(SourceError::Refused(format!("{path} is twice in the tree")));
                }
            }
            Answer::End { entries: n } if n == entries.len() as u64 && after.is_empty() => break,
            Answer::Refused { reason } => return Err(SourceError::Refused(escape(&reason))),
            other => return Err(nonsense(&format!("{other:?}"))),
        }
    }
    check_id(&commit.id)?;
    let commit = Commit { id: commit.id, summary: escape(&commit.summary), author: escape(&commit.author) };
    Ok(Received { snapshot: Snapshot { commit, entries }, descends })
}

#[cfg(test)]
mod tests;
