//! `reconcilectl explain`: why a revision did not go live, from its record. Text and JSON come from the same struct.

use std::io::BufRead;

use serde::Serialize;

use super::Problem;
use super::audit::{cannot_read, open, own};
use crate::audit::{self, Event, Record, UtcTime};
use crate::diagnose::Finding;
use crate::lifeline;
use crate::path::escape;

/// Why a revision did not go live.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Explanation {
    /// The record that says so.
    record: u64,
    at: UtcTime,
    actor: String,
    outcome: Event,
    commit: Option<String>,
    summary: Option<String>,
    reason: Option<String>,
    details: Option<String>,
    findings: Vec<Finding>,
}

/// The newest revision, or the one whose id begins so.
pub(super) fn explain(revision: Option<&str>, json: bool) -> Result<String, Problem> {
    let revision = revision.map(str::to_ascii_lowercase);
    let record = pick(|| open(&own()), revision.as_deref())?;
    let explanation = Explanation::of(record.ok_or_else(|| {
        Problem::new(match revision {
            Some(revision) => {
                format!("no revision {} was refused or rolled back here: see reconcilectl audit log", escape(&revision))
            }
            None => "nothing was refused or rolled back here".to_owned(),
        })
    })?);
    if json { serde_json::to_string_pretty(&explanation).map_err(cannot_read) } else { Ok(explanation.text()) }
}

/// The record that tells most of the newest failure. A held revision that was pushed again has a newer record, which only says
/// that it is held.
fn pick<R: BufRead>(log: impl Fn() -> Result<R, Problem>, revision: Option<&str>) -> Result<Option<Record>, Problem> {
    // What nobody confirmed is held by a record of its own: it had gone live.
    let failed = |record: &Record| {
        matches!(record.what.event, Event::Refused | Event::RolledBack | Event::Stuck)
            || (record.what.event == Event::Held && record.what.actor == lifeline::ACTOR)
    };
    let asked = |record: &Record| {
        let commit = record.what.commit.as_deref().unwrap_or_default();
        failed(record) && revision.is_none_or(|revision| commit.starts_with(revision))
    };
    let Some(newest) = audit::newest(log()?, asked).map_err(cannot_read)? else { return Ok(None) };
    let tells = |record: &Record| {
        let what = &record.what;
        let is_about_it = what.commit.is_some() && what.commit == newest.what.commit && failed(record);
        is_about_it && (what.plan.is_some() || what.details.is_some())
    };
    Ok(audit::newest(log()?, tells).map_err(cannot_read)?.or(Some(newest)))
}

impl Explanation {
    fn of(record: Record) -> Self {
        let Record { seq, at, what, .. } = record;
        let (actor, outcome, findings) = (what.actor, what.event, what.findings);
        Self {
            record: seq,
            at,
            actor,
            outcome,
            commit: what.commit,
            summary: what.summary,
            reason: what.reason,
            details: what.details,
            findings,
        }
    }

    fn text(&self) -> String {
        let commit = self.commit.as_deref().map(|commit| [commit, self.summary.as_deref().unwrap_or_default()].join("  "));
        let outcome = format!("{} at {}, asked for by {}", self.outcome, self.at.seconds(), self.actor);
        let details = self.details.iter().flat_map(|details| details.lines()).map(|line| ("", line.to_owned()));
        let findings = self.findings.iter().map(|finding| ("because", finding.text.clone()));
        let lines = commit
            .map(|commit| ("revision", commit.trim_end().to_owned()))
            .into_iter()
            .chain([("outcome", outcome)])
            .chain(self.reason.clone().map(|reason| ("reason", reason)))
            .chain(details)
            .chain(findings)
            .chain([("more", format!("reconcilectl audit show {}", self.record))]);
        lines.map(|(name, text)| format!("{name:<10} {}\n", escape(&text))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Explanation, pick};
    use crate::audit::{Event, NewRecord, Record};
    use crate::diagnose::Finding;
    use crate::digest::Digest;

    fn record(seq: u64, event: Event, commit: &str, reason: &str, told: bool) -> Record {
        let mut what = NewRecord::new(event, "ana");
        what.commit = Some(commit.to_owned()).filter(|commit| !commit.is_empty());
        what.reason = Some(reason.to_owned());
        if told {
            what.plan = Some(Digest::of(b"plan"));
            what.summary = Some("Serve\u{7}".to_owned());
            what.findings = vec![Finding { name: "x".to_owned(), text: "it is broken; mend it".to_owned() }];
        }
        Record {
            version: 1,
            seq,
            at: "2026-04-01T12:34:56.789Z".parse().unwrap(),
            boot: String::new(),
            monotonic_ms: 0,
            what,
            prev: None,
        }
    }

    fn picked(records: &[Record], revision: Option<&str>) -> Option<Record> {
        let log: String = records.iter().map(|r| serde_json::to_string(r).unwrap() + "\n").collect();
        pick(|| Ok(log.as_bytes()), revision).unwrap()
    }

    #[test]
    fn the_record_that_tells_most() {
        let log = [
            record(1, Event::RolledBack, "abc1", "probe site", true),
            record(2, Event::RolledBack, "abd2", "probe shop", true),
            record(3, Event::Live, "abe3", "", true),
            record(4, Event::Refused, "abc1", "abc1 is held since …", false),
            record(5, Event::Refused, "", "policy: no", false),
        ];
        let seq = |upto: usize, revision| picked(&log[..upto], revision).map(|record| record.seq);
        assert_eq!(seq(0, None), None);
        assert_eq!(seq(3, None), Some(2));
        assert_eq!(seq(4, None), Some(1), "why it is held, not that it is");
        assert_eq!(seq(5, None), Some(5));
        let mut held = record(6, Event::Held, "abe3", "generation 3 was not confirmed in time", false);
        crate::lifeline::ACTOR.clone_into(&mut held.what.actor);
        assert_eq!(picked(&[log[2].clone(), held], Some("abe3")).map(|record| record.seq), Some(6));
        assert_eq!((seq(5, Some("abd")), seq(5, Some("abe3")), seq(5, Some("f"))), (Some(2), None, None));
    }

    #[test]
    fn in_words() {
        let text = Explanation::of(record(8, Event::RolledBack, "abc1", "probe site", true)).text();
        let wanted = "revision   abc1  Serve\\u{7}\n\
                      outcome    rolled-back at 2026-04-01T12:34:56Z, asked for by ana\n\
                      reason     probe site\n\
                      because    it is broken; mend it\n\
                      more       reconcilectl audit show 8\n";
        assert_eq!(text, wanted);
    }
}
