//! The only two seams to the host: `Look`, its eyes, and `Touch`, its hands. `linux` is the real host,
//! `fake` one in memory for tests.

pub mod linux;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::change::{Call, DONE, DirFacts, Object, TO_DO, UnitFacts, Wake};
use crate::facts::Facts;
use crate::path::ManagedPath;

/// What went wrong at the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The host is not as such a change needs it, and no retry will mend that: a symlinked parent, a mount point.
    #[error("{0}")]
    Unfit(String),
    /// Somebody changed the object between the look and the write; it was left as it was found.
    #[error("{path} changed under us: planned against {expected}, found {found}")]
    Foreign {
        /// The path (or unit) in question.
        path: String,
        /// What the plan had seen.
        expected: String,
        /// What stands there now.
        found: String,
    },
    /// systemd refused or failed a job.
    #[error("{0}")]
    Systemd(String),
    /// No answer within the limit: the state is unknown and has to be looked at.
    #[error("{what}: no answer within {} ms", limit.as_millis())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
}

/// Shorthand of this module and its users.
pub type HostResult<T> = Result<T, HostError>;

/// How long a job of a unit may take; `None` leaves that to the unit's own time-outs.
pub type Patience = Option<Duration>;

/// An object at a path and what only matters while looking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What stands there.
    pub object: Object,
    /// How many names the inode has (hard links); 0 when absent.
    pub names: u64,
}

/// A user account, as passwd(5) has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

/// A unit as systemd has it (org.freedesktop.systemd1(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSeen {
    /// `LoadState`: loaded, not-found, masked, bad-setting, error…
    pub load: String,
    /// `ActiveState`: active, reloading, inactive, failed, activating, deactivating.
    pub active: String,
    /// `SubState`: running, dead, auto-restart, listening…
    pub sub: String,
    /// `UnitFileState`: enabled, disabled, static, masked…, empty when there is no file.
    pub file_state: String,
    /// `FragmentPath`, empty when there is none.
    pub fragment: String,
    /// `MainPID` of a service; 0 when there is none.
    pub main_pid: u32,
    /// `NRestarts` of a service.
    pub restarts: u32,
    /// `Result` of a service or socket: success, exit-code, start-limit-hit…
    pub result: String,
    /// `ConditionResult`: of its last start; false before the first.
    #[serde(default)]
    pub condition: bool,
    /// `CanReload`: it has an `ExecReload=`, or another way to read its configuration again.
    #[serde(default)]
    pub can_reload: bool,
    /// `NeedDaemonReload`: its files are not as the manager has read them.
    #[serde(default)]
    pub stale: bool,
    /// `RequiredBy`, `BoundBy` and `ConsistsOf`: what stops when it stops.
    #[serde(default)]
    pub dependents: Vec<String>,
    /// `DropInPaths`: the drop-ins that the manager has read.
    #[serde(default)]
    pub drop_ins: Vec<String>,
    /// `ExecMainStartTimestamp` of a service: when its process started, in microseconds since 1970; 0 when never.
    #[serde(default)]
    pub started: u64,
    /// `Type` of a service: simple, notify, forking, oneshot…
    #[serde(default)]
    pub service_type: String,
    /// `Wants` that are also in `ConsistsOf`: what runs when it does, as the clusters of Debian's `postgresql.service`.
    #[serde(default)]
    pub members: Vec<String>,
    /// `TriggeredBy`: the socket, timer or path units of a service.
    pub triggered_by: Vec<String>,
    /// `Triggers`: what a socket, timer or path unit starts.
    pub triggers: Vec<String>,
    /// Symbolic links that carry enablement, `(path, text)`.
    pub links: Vec<(String, String)>,
    /// Of a socket that listens, why nobody reaches it: its file is gone.
    #[serde(default)]
    pub deaf: Option<String>,
}

impl UnitSeen {
    /// The fields that a change speaks of.
    #[must_use]
    pub fn facts(&self) -> UnitFacts {
        UnitFacts {
            enabled: self.enabled(),
            masked: Some(self.load == "masked" || self.file_state.starts_with("masked")),
            active: Some(self.is_active()),
            anew: false,
            links: self.links.clone(),
        }
    }

    /// `None` where enabling has no meaning: a static unit is pulled in by others, a generated one by its generator.
    fn enabled(&self) -> Option<bool> {
        match self.file_state.as_str() {
            "static" | "generated" | "transient" | "indirect" => None,
            "enabled" | "enabled-runtime" | "alias" => Some(true),
            _ => Some(false),
        }
    }

    /// The same, seen by somebody who wants this: what waits for its next automatic restart is not active for one who wants
    /// it active, what is on its way up or down is not yet inactive for one who wants it inactive; and for one who wants it
    /// active it is neither, and best left alone.
    #[must_use]
    pub fn facts_towards(&self, wanted: &UnitFacts) -> UnitFacts {
        let active = match wanted.active {
            Some(false) => Some(!self.is_down()),
            _ if self.is_active() => Some(true),
            _ if self.is_down() || self.is_failing() => Some(false),
            _ => None,
        };
        UnitFacts { active, ..self.facts() }
    }

    /// Nothing of it runs, or is about to.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }

    /// It has failed, or fails over and over and is restarted.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.active == "failed" || self.sub == "auto-restart" || (self.active == "activating" && self.restarts > 0)
    }

    /// Running, listening, mounted; a unit that reloads counts, one that waits for its next automatic restart does not.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading")
    }
}

/// A child of a service's main process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (proc_pid_stat(5), field 22): with the pid it names one process for good.
    pub started: u64,
    /// The name of its program (proc_pid_comm(5)).
    pub program: String,
    /// Its command line, NULs as spaces.
    pub title: String,
}

/// How far a log goes: the file, by its inode, and its length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEnd {
    /// Where it stands.
    pub path: String,
    /// Its inode: a log that was rotated since is another file.
    pub inode: u64,
    /// Its length, in bytes.
    pub length: u64,
}

/// What a transient unit of ours may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// No root, no socket at all; what it may read and write it takes from itself: parsers of foreign bytes. As this user.
    Parser {
        /// Whose identity.
        user: String,
    },
    /// As `Parser`, with write access to the bare repository and the network: git.
    Git {
        /// Whose identity.
        user: String,
    },
    /// Root at first, in private mounts; the worker builds the future there and drops what it does not need.
    Rehearsal,
    /// Any socket can be reached and any file seen, nothing written: health checks.
    Probe,
    /// Any file and any process can be seen, no socket reached, nothing written: who listens, who may read what.
    Evidence,
    /// A user that nobody else is, without network; what is sealed to this host can be opened.
    Opener {
        /// With the host's key ([`crate::worker::secrets::IDENTITY`]).
        with_key: bool,
        /// Credentials that PID 1 opens, by name (systemd-creds(1)).
        credentials: Vec<(String, Vec<u8>)>,
    },
    /// As it is: a guard in place, a command.
    Live {
        /// Whose identity; `None` is root.
        user: Option<String>,
        /// Where it runs and what it finds there.
        surroundings: Surroundings,
    },
}

/// Where a program runs (systemd.exec(5)); each as systemd has it when not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `Group=`.
    pub group: Option<String>,
    /// `WorkingDirectory=`.
    pub directory: Option<String>,
    /// `Environment=`.
    pub environment: Vec<String>,
    /// `EnvironmentFile=`.
    pub environment_files: Vec<String>,
}

/// A process to run in a transient unit of its own.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it is for; part of the unit's name and description: `[a-z-]`.
    pub purpose: &'static str,
    /// Program (absolute) and arguments.
    pub argv: Vec<String>,
    /// Standard input, whole.
    pub input: Vec<u8>,
    /// What it may do.
    pub sandbox: Sandbox,
    /// After this long it is killed.
    pub limit: Duration,
    /// More output than this many bytes, on each of both streams, kills it; see `keeps_tail`.
    pub output_limit: usize,
    /// It is not killed for that: what it said first is forgotten. For what must not be ended half-way for being talkative.
    pub keeps_tail: bool,
}

/// What a question of a kind is for.
pub const LOOK: &str = "look";
/// Most output of a call that is kept, in bytes.
const CALL_OUTPUT: usize = 4 << 20;
/// Last lines of a program that failed, for the message.
const LAST_LINES: usize = 20;

impl Job {
    /// What a call asks for; `operands` follow on its own words.
    #[must_use]
    pub fn of(call: &Call, purpose: &'static str, operands: impl Iterator<Item = String>, input: Vec<u8>) -> Self {
        let surroundings = Surroundings {
            group: call.group.clone(),
            directory: call.directory.clone(),
            environment: call.environment.clone(),
            environment_files: call.environment_files.clone(),
        };
        Self {
            purpose,
            argv: call.argv.iter().cloned().chain(operands).collect(),
            input,
            sandbox: Sandbox::Live { user: call.user.clone(), surroundings },
            limit: call.limit(),
            output_limit: CALL_OUTPUT,
            keeps_tail: purpose != LOOK,
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The exit code; `None` when a signal or systemd ended it.
    pub code: Option<i32>,
    /// systemd's `Result` of it: success, exit-code, signal, timeout, oom-kill…
    pub result: String,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Ran {
    /// Exit code 0 and nothing else.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0) && self.result == "success"
    }

    /// What it answers to so many questions that were asked together; `None` where it does not.
    #[must_use]
    pub fn answers(&self, call: &Call, count: usize) -> Option<Vec<String>> {
        if call.by_exit {
            let answer = match self.code {
                _ if self.ok() => DONE,
                // A program that says no; one that could not be run (126, 127, systemd's from 200 on) or was ended says nothing.
                Some(1..=125) if self.result == "exit-code" => TO_DO,
                _ => return None,
            };
            return Some(vec![answer.to_owned()]);
        }
        let said = String::from_utf8_lossy(&self.stdout);
        let answers: Vec<String> = match count {
            1 => vec![said.trim_end().to_owned()],
            _ => said.lines().map(str::to_owned).collect(),
        };
        (self.ok() && answers.len() == count).then_some(answers)
    }

    /// What a program said last, and how it ended.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = [&self.stdout, &self.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
        let lines: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(crate::path::escape).collect();
        let end = match (self.code, self.result.as_str()) {
            (_, "timeout") => "it took too long and was stopped".to_owned(),
            (Some(code), _) => format!("exit code {code}"),
            (None, result) => format!("ended by {result}"),
        };
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        if last.is_empty() { end } else { format!("{end}\n{}", last.join("\n")) }
    }
}

/// `SystemState` of the manager (org.freedesktop.systemd1(5)), as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SystemState {
    /// `initializing` and `starting`.
    Starting,
    /// `running`, `degraded`, `maintenance`, and what cannot be told.
    #[default]
    Up,
    /// `stopping`.
    Stopping,
}

/// The eyes: reads the live host, changes nothing.
pub trait Look {
    /// What stands at a path. No symlink on the way is followed: a symlinked parent is `Unfit` and names the real path.
    fn object(&self, path: &ManagedPath) -> HostResult<Seen>;
    /// A directory's metadata; `None` when nothing is there; `Unfit` when something else is.
    fn directory(&self, path: &ManagedPath) -> HostResult<Option<DirFacts>>;
    /// Whether a directory has no entries (a missing one has none).
    fn is_empty(&self, path: &ManagedPath) -> HostResult<bool>;
    /// The names in a directory, at most so many (a missing one has none).
    fn entries(&self, path: &ManagedPath, limit: usize) -> HostResult<Vec<String>>;
    /// The content of a regular file, at most `limit` bytes.
    fn content(&self, path: &ManagedPath, limit: u64) -> HostResult<Vec<u8>>;
    /// When a file or its metadata last changed (`st_ctime`), in microseconds since 1970; `None` when nothing is there.
    fn changed_at(&self, path: &ManagedPath) -> HostResult<Option<u64>>;
    /// How far the files in a directory go (none in a missing one).
    fn ends(&self, directory: &ManagedPath, limit: usize) -> HostResult<Vec<LogEnd>>;
    /// All user accounts of passwd(5).
    fn accounts(&self) -> HostResult<Vec<Account>>;
    /// The id of a group of group(5).
    fn group(&self, name: &str) -> HostResult<Option<u32>>;
    /// A unit, loaded if need be.
    fn unit(&self, unit: &str) -> HostResult<UnitSeen>;
    /// Which of these units are neither inactive nor failed: one question, where [`Look::unit`] tells all of one.
    fn up_among(&self, units: &[&str]) -> HostResult<Vec<String>>;
    /// The services that run now.
    fn running_services(&self) -> HostResult<Vec<String>>;
    /// The units that PID 1 has loaded whose names match a glob (`worker@?*.service`).
    fn units_like(&self, pattern: &str) -> HostResult<Vec<String>>;
    /// The last lines of a unit's journal, oldest first.
    fn journal(&self, unit: &str, lines: usize) -> HostResult<Vec<String>>;
    /// The children of a service's main process that run the same program: its workers.
    fn workers(&self, unit: &str) -> HostResult<Vec<Process>>;
    /// Runs a process in a transient unit of its own and waits for it. Each whole line of its standard output is given
    /// to `on_line` as it comes; when that returns false the job is stopped.
    fn run(&self, job: &Job, on_line: &mut dyn FnMut(&str) -> bool) -> HostResult<Ran>;
    /// What the host says of itself.
    fn facts(&self) -> Facts;
    /// Who holds dpkg's lock, in words; `None` when packages are left alone.
    fn dpkg_lock(&self) -> HostResult<Option<String>>;
    /// Whether it boots, is up, or shuts down.
    fn system_state(&self) -> SystemState;
    /// Whether the host is shutting down: units are stopped then, and no other job is taken.
    fn is_going_down(&self) -> bool {
        self.system_state() == SystemState::Stopping
    }
    /// Whether it boots: what is not running yet may be about to.
    fn is_starting(&self) -> bool {
        self.system_state() == SystemState::Starting
    }
    /// Waits; what else the engine has to do meanwhile (a sign of life) happens here.
    fn pause(&self, time: Duration);
}

/// Where the objects of one transaction wait: its number and the number of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The transaction.
    pub transaction: u64,
    /// The step's place in the plan.
    pub step: usize,
}

/// The hands: changes the live host, one reversible step at a time. Only `apply` uses them.
pub trait Touch: Look {
    /// The staging directory of a path: `.reconciled/` in the highest directory of the path's own mount.
    fn staging_of(&self, path: &ManagedPath) -> HostResult<PathBuf>;
    /// Makes the new object in the step's staging slot, with owner and mode, not yet durable.
    fn stage(&mut self, slot: Slot, path: &ManagedPath, object: &Object, content: &[u8]) -> HostResult<()>;
    /// Makes all that a transaction has staged in these directories durable.
    fn sync(&mut self, transaction: u64, staging: &[PathBuf]) -> HostResult<()>;
    /// Swaps the live object with the one in the slot, either of which may be absent, in one atomic rename; then looks at
    /// what came out. If that is not `before`, it is put back and the answer is `Foreign`.
    fn swap(&mut self, slot: Slot, path: &ManagedPath, before: &Object, after: &Object) -> HostResult<()>;
    /// The object that waits in a slot, and its content.
    fn staged(&self, slot: Slot, path: &ManagedPath) -> HostResult<(Object, Vec<u8>)>;
    /// Creates, changes or removes (only when empty) a directory.
    fn set_directory(&mut self, path: &ManagedPath, facts: Option<DirFacts>) -> HostResult<()>;
    /// What waits in a slot.
    fn waiting(&self, slot: Slot, path: &ManagedPath) -> HostResult<Object>;
    /// Makes the renames in the directories of these paths durable.
    fn sync_parents(&mut self, paths: &[&ManagedPath]) -> HostResult<()>;
    /// Removes the slots of a transaction.
    fn sweep(&mut self, transaction: u64, staging: &[PathBuf]) -> HostResult<()>;
    /// Brings the managed fields of a unit to `facts` and waits for the jobs. The manager knows changed links from its next reload on.
    fn set_unit(&mut self, unit: &str, facts: &UnitFacts, patience: Patience) -> HostResult<()>;
    /// Gives a unit exactly these enablement links, without asking the manager.
    fn restore_links(&mut self, unit: &str, links: &[(String, String)]) -> HostResult<()>;
    /// Carries out a wake and proves it.
    fn wake(&mut self, wake: &Wake, patience: Patience) -> HostResult<()>;
}

#[cfg(test)]
pub(crate) mod fake;
