//! What no file and no unit can say: packages, accounts, databases, environments, commands. A program does it, and a question tells
//! whether it is done. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::path::ManagedPath;

/// The answer of a question about something that is not there.
pub const ABSENT: &str = "absent";

/// A change that a program makes, seen through a question.
///
/// The rule of every change holds: the answer is `after` → skip; it is `before` → do; anything else → foreign, stop. That it has begun is
/// durable before `forward` runs: what is neither is then ours, and torn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// What it is about: `package:nginx`.
    pub target: String,
    /// Prints the answer, and changes nothing; [`Call::nothing`] where nobody can tell but who has done it.
    pub ask: Call,
    /// The answer that was planned against; `None` where it could not be asked yet: anything but `after` will do.
    pub before: Option<String>,
    /// The answer once it is done.
    pub after: String,
    /// Does it. May find it half done.
    pub forward: Call,
    /// Run right before that: it keeps what could be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare: Option<Call>,
    /// Takes it back, also from half-way; `None` where nothing does.
    pub backward: Option<Call>,
    /// What it has made of what is taken back is made of what comes back: run once all objects are restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redo: Option<Call>,
    /// The answer tells of what it names alone, and the program does more (dependencies, a home): `before` does not mean that nothing
    /// has happened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub does_more: bool,
    /// Paths that it makes: what is missing below them before is still to come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub makes: Vec<ManagedPath>,
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Program (absolute) and arguments.
    pub argv: Vec<String>,
    /// Further arguments. Calls next to each other that differ in these alone are one call, which answers with a line for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operands: Vec<String>,
    /// Whose identity; `None` is root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its group, where that is not the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Working directory; `/` when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Environment, `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
    /// Files with more of it (systemd.exec(5), `EnvironmentFile=`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment_files: Vec<String>,
    /// What it reads on its standard input, by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Digest>,
    /// After this many milliseconds it is killed.
    pub limit_ms: u64,
    /// The answer is its exit code: 0 is `done`, anything else `to do`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_exit: bool,
}

/// The answers of a call that answers by its exit code.
pub const DONE: &str = "done";
/// See [`DONE`].
pub const TO_DO: &str = "to do";

impl Call {
    /// A program of ours, as root.
    #[must_use]
    pub fn new(argv: &[&str], limit: Duration) -> Self {
        Self {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            operands: Vec::new(),
            user: None,
            group: None,
            directory: None,
            environment: Vec::new(),
            environment_files: Vec::new(),
            input: None,
            limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            by_exit: false,
        }
    }

    /// No program at all: the question of what cannot be asked.
    #[must_use]
    pub fn nothing() -> Self {
        Self::new(&[], Duration::ZERO)
    }

    /// The same for one of several that are done together.
    #[must_use]
    pub fn on(mut self, operand: &str) -> Self {
        self.operands = vec![operand.to_owned()];
        self
    }

    /// With this on its standard input.
    #[must_use]
    pub fn reading(mut self, input: Digest) -> Self {
        self.input = Some(input);
        self
    }

    /// Whether one call can do what two do.
    #[must_use]
    pub fn goes_with(&self, other: &Self) -> bool {
        let alone = |call: &Self| Self { operands: Vec::new(), ..call.clone() };
        !self.operands.is_empty() && !other.operands.is_empty() && alone(self) == alone(other)
    }

    /// Its limit.
    #[must_use]
    pub fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_ms)
    }
}

impl Run {
    /// With nothing but what every one has.
    #[must_use]
    pub fn new(target: String, ask: Call, (before, after): (Option<String>, String), forward: Call) -> Self {
        Self {
            target,
            ask,
            before,
            after,
            forward,
            prepare: None,
            backward: None,
            redo: None,
            does_more: false,
            makes: Vec::new(),
        }
    }

    /// Whether nothing is there after it, or nothing was before.
    pub(super) fn sign(&self) -> char {
        match (self.before.as_deref(), self.after.as_str()) {
            (Some(ABSENT), _) => '+',
            (_, ABSENT) => '-',
            _ => '~',
        }
    }

    /// Whether there is a question. Where there is none, what has ended without an error is done.
    #[must_use]
    pub fn can_be_asked(&self) -> bool {
        !self.ask.argv.is_empty()
    }

    /// Whether the answer is what is there, and not only whether something has been done.
    #[must_use]
    pub fn knows_what(&self) -> bool {
        self.can_be_asked() && !self.ask.by_exit
    }

    /// Whether the answer `before` means that nothing has happened: what answers by its exit code says the same when it is half done.
    #[must_use]
    pub fn knows_torn(&self) -> bool {
        self.knows_what() && !self.does_more
    }

    /// Whether both can be done by one call, each way.
    #[must_use]
    pub fn goes_with(&self, other: &Self) -> bool {
        let back = match (&self.backward, &other.backward) {
            (Some(a), Some(b)) => a.goes_with(b),
            (None, None) => true,
            _ => false,
        };
        self.ask.goes_with(&other.ask) && self.forward.goes_with(&other.forward) && back
    }
}
