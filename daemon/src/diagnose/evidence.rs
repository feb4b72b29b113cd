//! What is known of a failure: what was asked and answered, the units, and the facts that the evidence worker found. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::host::{LogEnd, UnitSeen};
use crate::probe::{Probe, clean};

/// Longest text of a fact, in characters.
const TEXT_LIMIT: usize = 600;
/// Most facts of one sort.
const FACTS_LIMIT: usize = 512;

/// All that a row of the table may look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Why the transaction is taken back, as it was told.
    pub reason: String,
    /// Red probes, each with what was said of it.
    pub red: Vec<(Probe, String)>,
    /// All probes.
    pub probes: Vec<Probe>,
    /// The units that the plan is about.
    pub units: BTreeMap<String, UnitSeen>,
    /// What the worker found.
    pub facts: Facts,
}

/// What the evidence worker is asked: its standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Units whose journal is wanted.
    pub units: Vec<String>,
    /// Paths to walk, besides those that nginx names.
    pub paths: Vec<String>,
    /// How far the logs of nginx went before the first change; nothing when that could not be seen: old lines would mislead.
    pub logs: Option<Vec<LogEnd>>,
    /// When that was, in milliseconds since boot.
    pub since_ms: u64,
}

/// What the evidence worker found: its standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Who listens where.
    pub listeners: Vec<Listener>,
    /// Local file systems that can be written.
    pub mounts: Vec<Mount>,
    /// The way to each path that somebody named.
    pub walks: Vec<Walk>,
    /// What nginx is configured to be.
    pub nginx: Nginx,
    /// What nginx wrote into its error logs since the first change.
    pub errors: Vec<String>,
    /// What the units said since the first change.
    pub journal: Vec<Said>,
}

/// A listening socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// `127.0.0.1:8000`, `[::]:80`, `/run/x.sock`.
    pub address: String,
    /// The process that holds it; of several the eldest that is not systemd.
    pub pid: u32,
    /// Its name (proc_pid_comm(5)).
    pub name: String,
    /// Its unit, by its control group.
    pub unit: String,
}

/// A mounted file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where.
    pub path: String,
    /// Bytes that others than root can still write.
    pub free: u64,
    /// All of them.
    pub size: u64,
    /// Files that can still be made; nothing where there is no such limit.
    pub files: Option<u64>,
}

/// The way to a path, one directory after the other, with the eyes of a user: what namei(1) shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// Where it was to lead.
    pub path: String,
    /// Who goes.
    pub user: String,
    /// What is on the way, to the first that is missing.
    pub steps: Vec<Step>,
}

/// One step of a walk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where it stands.
    pub path: String,
    /// What stands there.
    pub kind: StepKind,
    /// Its permissions.
    pub mode: u32,
    /// `user:group`.
    pub owner: String,
    /// Whose permissions are the user's there, as chmod(1) calls them: `u`, `g` or `o`.
    pub class: String,
    /// The user lacks the right that is needed here: to enter a directory, to read a file, to write to a socket.
    pub denied: bool,
}

/// What stands at a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// Nothing.
    #[default]
    Missing,
    /// A directory.
    Directory,
    /// A socket.
    Socket,
    /// Anything else.
    File,
}

impl Walk {
    /// The place at which the user is stopped.
    #[must_use]
    pub fn denied(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.denied)
    }

    /// The place at which nothing stands.
    #[must_use]
    pub fn missing(&self) -> Option<&Step> {
        self.steps.last().filter(|step| step.kind == StepKind::Missing)
    }
}

/// What nginx's configuration says of what fails most often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nginx {
    /// Whose rights its workers have.
    pub user: String,
    /// Its servers, in order.
    pub servers: Vec<Server>,
    /// Places that pass the same header on twice.
    pub doubled: Vec<Doubled>,
}

/// A `server` block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// `/etc/nginx/sites-enabled/shop:3`.
    pub at: String,
    /// Its ports; the default server of one is marked.
    pub ports: Vec<(u16, bool)>,
    /// Its names.
    pub names: Vec<String>,
}

/// A block with two `proxy_set_header` of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubled {
    /// `Host`.
    pub header: String,
    /// Where it is set first.
    pub first: String,
    /// Where it is set again.
    pub second: String,
}

/// A line of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The unit that it is about.
    pub unit: String,
    /// systemd said it, not the unit itself.
    pub by_manager: bool,
    /// The line.
    pub text: String,
}

impl Facts {
    /// Reads the worker's answer, which has read foreign bytes: bounded, and harmless to show.
    ///
    /// # Errors
    /// Why it is no answer.
    pub fn read(answer: &[u8]) -> Result<Self, serde_json::Error> {
        let mut value: Value = serde_json::from_slice(answer)?;
        tame(&mut value);
        serde_json::from_value(value)
    }
}

fn tame(value: &mut Value) {
    match value {
        Value::String(text) => *text = clean(text, TEXT_LIMIT),
        Value::Array(list) => {
            list.truncate(FACTS_LIMIT);
            list.iter_mut().for_each(tame);
        }
        Value::Object(fields) => fields.values_mut().for_each(tame),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
