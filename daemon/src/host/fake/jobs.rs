//! What the fake host's processes answer: the source worker, the rehearsal, guards in place, probes.

use std::collections::BTreeMap;

use super::{Node, World};
use crate::change::{Change, Object};
use crate::digest::Digest;
use crate::guard::GuardCall;
use crate::host::{HostResult, Job, Ran};
use crate::probe::{Asked, Probe, Verdict};
use crate::rehearse::{GuardRan, Request as Rehearsal};
use crate::source::{Answer, Commit, Relation, Request, SourceEntry};
use crate::worker::secrets;

/// A commit of the fake repository.
#[derive(Clone, Debug, Default)]
pub(crate) struct Revision {
    pub(crate) parent: Option<String>,
    pub(crate) entries: BTreeMap<String, SourceEntry>,
}

pub(crate) fn exited(code: i32, stdout: Vec<u8>, stderr: &str) -> Ran {
    let result = if code == 0 { "success" } else { "exit-code" };
    Ran { code: Some(code), result: result.to_owned(), stdout, stderr: stderr.into() }
}

fn line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap();
    bytes.push(b'\n');
    bytes
}

impl World {
    pub(super) fn answer(&mut self, job: &Job) -> HostResult<Ran> {
        Ok(match (job.purpose, job.argv.get(2).map(String::as_str)) {
            ("fetch", _) if self.remote.is_none() => exited(128, Vec::new(), "fatal: the remote is down\n"),
            ("source", _) => exited(0, self.source(&job.input), ""),
            ("rehearsal", _) => exited(0, self.rehearse(&job.input), ""),
            ("guard", _) => {
                let (code, output) = self.check(&self.tree, &job.argv);
                exited(code, Vec::new(), &output)
            }
            ("secrets", _) => exited(0, open(&job.input), ""),
            ("evidence", _) => exited(0, self.evidence.clone(), ""),
            ("run" | "step" | "look", _) => self.program(job),
            ("probe", Some("probe")) => exited(0, self.probe(&job.input), ""),
            _ => exited(i32::from(job.argv.first().is_some_and(|p| p.ends_with("false"))), Vec::new(), ""),
        })
    }

    fn source(&mut self, input: &[u8]) -> Vec<u8> {
        match serde_json::from_slice(input).unwrap() {
            Request::Read { commit, descends_from, .. } => match self.revisions.get(&commit) {
                Some(revision) => self.read(&commit, revision, descends_from.as_deref()),
                None => line(&Answer::Refused { reason: format!("commit {commit}: not found") }),
            },
            Request::Publish { reference, old, new } => {
                if self.refs.get(&reference) != old.as_ref() {
                    return line(&Answer::Refused { reason: format!("{reference} does not stand there") });
                }
                self.refs.insert(reference, new.clone());
                line(&Answer::Reference { commit: Some(new) })
            }
            Request::Compare { base, tip } => {
                let relation = match (self.descends(&tip, &base), self.descends(&base, &tip)) {
                    _ if base == tip => Relation::Same,
                    (true, _) => Relation::Ahead,
                    (_, true) => Relation::Behind,
                    _ => Relation::Diverged,
                };
                line(&Answer::Related { relation })
            }
            Request::Fetched => line(&Answer::Reference { commit: self.remote.clone() }),
            Request::Resolve { reference } => {
                let known = self.revisions.keys().find(|id| id.starts_with(&reference));
                line(&Answer::Reference { commit: self.refs.get(&reference).or(known).cloned() })
            }
        }
    }

    fn descends(&self, id: &str, base: &str) -> bool {
        let parent = |id: &String| self.revisions.get(id).and_then(|r| r.parent.clone());
        std::iter::successors(Some(id.to_owned()), parent).any(|id| id == base)
    }

    fn read(&self, id: &str, revision: &Revision, base: Option<&str>) -> Vec<u8> {
        let descends = base.is_none_or(|base| self.descends(id, base));
        let commit = Commit { id: id.to_owned(), summary: format!("change {}", &id[..2]), author: "A <a@b>".to_owned() };
        let mut out = line(&Answer::Commit { commit, descends });
        for (path, entry) in &revision.entries {
            let (body, link, executable) = match entry {
                SourceEntry::File { content, executable } => (content.clone(), false, *executable),
                SourceEntry::Link { target } => (target.clone().into_bytes(), true, false),
            };
            out.extend(line(&Answer::Entry { path: path.clone(), link, executable, size: body.len() as u64 }));
            out.extend(body);
        }
        out.extend(line(&Answer::End { entries: revision.entries.len() as u64 }));
        out
    }

    fn rehearse(&self, input: &[u8]) -> Vec<u8> {
        let end = input.iter().position(|b| *b == b'\n').unwrap();
        let request: Rehearsal = serde_json::from_slice(&input[..end]).unwrap();
        let (mut rest, mut bodies) = (&input[end + 1..], BTreeMap::<Digest, &[u8]>::new());
        for (digest, size) in &request.contents {
            let (body, after) = rest.split_at(usize::try_from(*size).unwrap());
            bodies.insert(*digest, body);
            rest = after;
        }
        let mut future = self.tree.clone();
        for change in &request.changes {
            let Change::Entry { path, after, .. } = change else { continue };
            let body = match after {
                Object::File(facts) => bodies[&facts.digest],
                _ => &[],
            };
            future.remove(path.as_str());
            future.extend(Node::made(after, body).map(|node| (path.to_string(), node)));
        }
        request.guards.iter().flat_map(|guard| line(&self.guard_ran(&future, guard))).collect()
    }

    fn guard_ran(&self, tree: &BTreeMap<String, Node>, guard: &GuardCall) -> GuardRan {
        let missing = self.missing.contains(&guard.argv[0]);
        let (code, output) = self.check(tree, &guard.argv);
        GuardRan { name: guard.name.clone(), code: (!missing).then_some(code), missing, output }
    }

    /// nginx complains about every line below its directory that says `broken`; systemd-analyze about unknown keys, with
    /// exit code 0.
    fn check(&self, tree: &BTreeMap<String, Node>, argv: &[String]) -> (i32, String) {
        let text = |path: &String| match &tree[path] {
            Node::File { content, .. } => String::from_utf8_lossy(content).into_owned(),
            _ => String::new(),
        };
        let lines = |path: &String, word: &str| {
            text(path).lines().filter(|l| l.contains(word)).map(|l| format!("{path}: {l}\n")).collect::<String>()
        };
        if argv[0].ends_with("nginx") {
            let said: String = tree.keys().filter(|p| p.starts_with("/etc/nginx/")).map(|p| lines(p, "broken")).collect();
            return (i32::from(!said.is_empty()), said);
        }
        let named = |path: &&String| argv.iter().any(|unit| path.ends_with(&format!("/{unit}")));
        (0, tree.keys().filter(named).map(|p| lines(p, "Unknown=")).collect())
    }

    /// A site is up when no process that runs has read a file that says `502`.
    fn probe(&self, input: &[u8]) -> Vec<u8> {
        let asked: Vec<Asked<Probe>> = serde_json::from_slice(input).unwrap();
        let bad = self.units.values().any(|u| u.active && u.runs.values().any(|text| text.contains("502")));
        let verdict = |probe: &Probe| {
            let passed = !bad && !self.red.contains(&probe.name);
            let found = if passed { "got 200" } else { "wanted 200, got 502" };
            let text = format!("{}: {found}", probe.name);
            Verdict { name: probe.name.clone(), passed, required: probe.required, attempts: 1, millis: 1, text }
        };
        asked.iter().enumerate().flat_map(|(place, asked)| line(&(place, verdict(&asked.probe)))).collect()
    }
}

/// Secrets of a repository in memory are sealed by nothing: what is in the file is what it holds.
fn open(input: &[u8]) -> Vec<u8> {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap();
    let secrets::Request { sealed, .. } = serde_json::from_slice(&input[..end]).unwrap();
    let mut output = serde_json::to_vec(&sealed).unwrap();
    output.extend_from_slice(&input[end..]);
    output
}
