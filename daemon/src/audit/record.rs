//! What a record says. A change of a secret is recorded, its content, size and digest are not. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::diff::text_diff;
use super::time::UtcTime;
use crate::change::{Change, DirFacts, Object, UnitFacts};
use crate::diagnose::Finding;
use crate::digest::Digest;
use crate::guard::Judgement;
use crate::plan::Plan;
use crate::probe::Verdict;

/// The format that this program writes.
pub const VERSION: u32 = 1;
/// How much diff text one record carries, in bytes; later changes only have their digests.
const DIFF_BUDGET: usize = 256 * 1024;
/// How much of a long explanation is recorded, in bytes.
const DETAILS_LIMIT: usize = 16 * 1024;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A transaction is about to begin: written before the first change.
    Intent,
    /// A generation is live and healthy.
    Live,
    /// A commit was refused; nothing live was touched.
    Refused,
    /// A transaction failed and was inverted.
    RolledBack,
    /// An undo failed; a person is needed.
    Stuck,
    /// A person said what becomes of a path that was stuck.
    Resolved,
    /// An interrupted transaction was taken back after a crash.
    Recovered,
    /// The host differs from the live generation, and is left as it is.
    DriftFound,
    /// The host differed from the live generation, and was put right.
    DriftRepaired,
    /// Something left the repository and stays on the host, no longer ours.
    LetGo,
    /// A commit is held: it is not tried again.
    Held,
    /// A person wants a held commit tried again.
    Retried,
    /// A commit was planned and rehearsed only.
    Preview,
    /// Something that nobody should do: a rewritten history, an edited audit log.
    Alarm,
    /// Reconciling was paused.
    Paused,
    /// Reconciling goes on.
    Resumed,
    /// Somebody has shown that the host can still be reached.
    Confirmed,
    /// The daemon started.
    Started,
    /// The daemon ended in good order.
    Stopped,
    /// The settings were read again.
    Reloaded,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Intent,
        Self::Live,
        Self::Refused,
        Self::RolledBack,
        Self::Stuck,
        Self::Resolved,
        Self::Recovered,
        Self::DriftFound,
        Self::DriftRepaired,
        Self::LetGo,
        Self::Held,
        Self::Retried,
        Self::Preview,
        Self::Alarm,
        Self::Paused,
        Self::Resumed,
        Self::Confirmed,
        Self::Started,
        Self::Stopped,
        Self::Reloaded,
    ];

    /// Its name in the log and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Live => "live",
            Self::Refused => "refused",
            Self::RolledBack => "rolled-back",
            Self::Stuck => "stuck",
            Self::Resolved => "resolved",
            Self::Recovered => "recovered",
            Self::DriftFound => "drift-found",
            Self::DriftRepaired => "drift-repaired",
            Self::LetGo => "let-go",
            Self::Held => "held",
            Self::Retried => "retried",
            Self::Preview => "preview",
            Self::Alarm => "alarm",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Confirmed => "confirmed",
            Self::Started => "started",
            Self::Stopped => "stopped",
            Self::Reloaded => "reloaded",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Event {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|event| event.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|event| event.name()).collect();
            format!("`{}` is no outcome; one of {}", crate::path::escape(text), names.join(", "))
        })
    }
}

/// One record of the log, as it stands in its line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The format of this record.
    pub version: u32,
    /// Its number, from 1; the order of things, whatever the clock did.
    pub seq: u64,
    /// When, by the wall clock.
    pub at: UtcTime,
    /// Which boot (the kernel's `boot_id`).
    pub boot: String,
    /// When, in milliseconds since that boot.
    pub monotonic_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: NewRecord,
    /// SHA-256 of the line before, without its newline; nothing for the first.
    pub prev: Option<Digest>,
}

/// What happened: all of a record that its writer says. What does not apply is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRecord {
    /// What kind of thing.
    pub event: Event,
    /// Who wanted it: a key's name, an operator, `drift`, `boot`…
    pub actor: String,
    /// The commit, 40 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// First line of its message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The generation that was made or is live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Digest of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Digest>,
    /// Why: the verdict in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// More, in lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
    /// What is or was to be changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ChangeRecord>,
    /// What was reloaded and restarted: `reload nginx.service`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wakes: Vec<String>,
    /// What the guards said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<Judgement>,
    /// What the probes said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Verdict>,
    /// Why it failed, as far as that was found out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// How long each stage took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
}

/// The time that a stage took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Which one: plan, rehearse, apply…
    pub name: String,
    /// Milliseconds.
    pub ms: u64,
}

/// One change: what stood there, what stands there after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// `+` appears, `~` changes, `-` goes.
    pub sign: char,
    /// `file:/etc/x`, `directory:/etc/y`, `unit:z.service`.
    pub target: String,
    /// Why.
    pub reason: String,
    /// What stood there, in words.
    pub before: String,
    /// What stands there afterwards, in words.
    pub after: String,
    /// SHA-256 of the content before; of a file that is no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_digest: Option<Digest>,
    /// SHA-256 of the content afterwards; of a file that is no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_digest: Option<Digest>,
    /// What changed in the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// The content is never shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

impl NewRecord {
    /// A record of this event by this actor, and nothing else yet.
    #[must_use]
    pub fn new(event: Event, actor: &str) -> Self {
        Self {
            event,
            actor: actor.to_owned(),
            commit: None,
            summary: None,
            generation: None,
            plan: None,
            reason: None,
            details: None,
            changes: Vec::new(),
            wakes: Vec::new(),
            guards: Vec::new(),
            probes: Vec::new(),
            findings: Vec::new(),
            stages: Vec::new(),
        }
    }

    /// Says which plan it is about: its revision, its digest, its wakes.
    pub fn tell(&mut self, plan: &Plan) {
        self.commit = Some(plan.commit.id.clone()).filter(|id| !id.is_empty());
        self.summary = Some(plan.commit.summary.clone()).filter(|summary| !summary.is_empty());
        self.plan = Some(plan.digest());
        self.wakes = plan.wakes_in_words().collect();
    }

    /// Keeps the diffs within the budget of one record.
    pub(super) fn bounded(mut self) -> Self {
        if let Some(details) = self.details.as_mut().filter(|details| details.len() > DETAILS_LIMIT) {
            let end = (0..=DETAILS_LIMIT).rev().find(|end| details.is_char_boundary(*end)).unwrap_or(0);
            details.truncate(end);
            details.push_str("\n… and more");
        }
        let mut room = DIFF_BUDGET;
        for change in &mut self.changes {
            let length = change.diff.as_ref().map_or(0, String::len);
            match room.checked_sub(length) {
                Some(rest) => room = rest,
                None => change.diff = Some("not recorded: too many changes at once".to_owned()),
            }
        }
        self
    }
}

impl ChangeRecord {
    /// Records a change. `contents` is what a file held before and holds afterwards, for the diff; of a secret one
    /// neither that nor its size or digest gets into the record, because anybody could test a guess against them.
    #[must_use]
    pub fn new(change: &Change, reason: &str, contents: Option<(&[u8], &[u8])>) -> Self {
        let secret = change.is_secret();
        let (before, after) = match change {
            Change::Entry { before, after, .. } => (object(before, secret), object(after, secret)),
            Change::Dir { before, after, .. } => (directory(before.as_ref()), directory(after.as_ref())),
            Change::Unit { before, after, .. } => (unit(before), unit(after)),
            Change::Run(run) => {
                let before = run.before.clone().unwrap_or_else(|| "not known yet".to_owned());
                ((before, None), (run.after.clone(), None))
            }
        };
        Self {
            sign: change.sign(),
            target: change.target(),
            reason: reason.to_owned(),
            before: before.0,
            after: after.0,
            before_digest: before.1,
            after_digest: after.1,
            diff: contents.filter(|_| !secret).and_then(|(old, new)| text_diff(old, new)),
            secret,
        }
    }
}

/// An object in words, and the digest of its content where that may be known.
fn object(object: &Object, secret: bool) -> (String, Option<Digest>) {
    match object {
        Object::File(file) if secret => (format!("secret file {:04o} {}:{}", file.mode, file.uid, file.gid), None),
        Object::File(file) => {
            (format!("file {:04o} {}:{}, {} bytes", file.mode, file.uid, file.gid, file.size), Some(file.digest))
        }
        Object::Link { .. } if secret => ("secret link".to_owned(), None),
        other => (other.to_string(), None),
    }
}

fn directory(facts: Option<&DirFacts>) -> (String, Option<Digest>) {
    (facts.map_or("absent".to_owned(), |d| format!("directory {:04o} {}:{}", d.mode, d.uid, d.gid)), None)
}

fn unit(facts: &UnitFacts) -> (String, Option<Digest>) {
    let word = |field: Option<bool>, yes: &'static str, no: &'static str| field.map(|on| if on { yes } else { no });
    let words = [
        word(facts.enabled, "enabled", "disabled"),
        word(facts.masked, "masked", "unmasked"),
        word(facts.active, "active", "inactive"),
    ];
    (words.into_iter().flatten().collect::<Vec<_>>().join(", "), None)
}

#[cfg(test)]
mod tests {
    use super::{ChangeRecord, DIFF_BUDGET, Event, NewRecord};
    use crate::change::{Change, UnitFacts};

    #[test]
    fn names_are_the_same_everywhere() {
        for event in Event::ALL {
            assert_eq!(serde_json::to_value(event).unwrap(), event.name());
            assert_eq!(event.name().parse::<Event>().unwrap(), event);
        }
        assert!("lost".parse::<Event>().unwrap_err().contains("rolled-back"));
    }

    #[test]
    fn units_in_words() {
        let facts = |enabled, active| UnitFacts { enabled, active, ..UnitFacts::default() };
        let change =
            Change::Unit { unit: "x.service".to_owned(), before: facts(Some(false), None), after: facts(Some(true), Some(true)) };
        let record = ChangeRecord::new(&change, "enable", None);
        assert_eq!((record.before.as_str(), record.after.as_str()), ("disabled", "enabled, active"));
    }

    #[test]
    fn diffs_have_a_budget() {
        let unit = Change::Unit { unit: "x".to_owned(), before: UnitFacts::default(), after: UnitFacts::default() };
        let mut record = NewRecord::new(Event::Live, "root");
        for _ in 0..40 {
            let diff = Some("x".repeat(DIFF_BUDGET / 20));
            record.changes.push(ChangeRecord { diff, ..ChangeRecord::new(&unit, "", None) });
        }
        let whole = serde_json::to_vec(&record.bounded()).unwrap();
        assert!(whole.len() < DIFF_BUDGET + 20_000);
    }
}
