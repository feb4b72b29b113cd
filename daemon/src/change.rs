//! The closed half: reversible changes, the wakes that make processes read them, and how both are printed. Pure.
//!
//! A change is a pair `(before, after)`. Undoing it is the swap of the two. Whatever a kind wants, it says in these.

mod run;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::path::ManagedPath;

pub use run::{ABSENT, Call, DONE, Run, TO_DO};

/// What stands at a path, as far as one rename can swap it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "object", rename_all = "snake_case")]
pub enum Object {
    /// Nothing stands there.
    Absent,
    /// A regular file.
    File(FileFacts),
    /// A symbolic link with this text.
    Link {
        /// The link's text, exactly as `readlink(2)` gives it.
        target: String,
    },
    /// A directory, socket, device or FIFO: never replaced.
    Other {
        /// What it is, for the message.
        what: String,
    },
}

/// A regular file: content and metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// SHA-256 of the content.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A directory: only its own metadata, never its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirFacts {
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A systemd unit, field by field; `None` is a field that nobody manages here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFacts {
    /// Started at boot (systemctl(1), `is-enabled`).
    pub enabled: Option<bool>,
    /// Linked to `/dev/null`, so that nothing can start it.
    pub masked: Option<bool>,
    /// Running, listening or mounted now.
    pub active: Option<bool>,
    /// It is enabled already, and its new `[Install]` asks for other links: all are made anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
    /// The symbolic links below `/etc/systemd/system` that carry enablement or mask the unit, `(path, text)`: what the way back
    /// restores, with a manager or, in early boot, without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<(String, String)>,
}

/// One reversible step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A file or link appears, is replaced, or goes: one atomic rename.
    Entry {
        /// Where.
        path: ManagedPath,
        /// What was planned against.
        before: Object,
        /// What will stand there.
        after: Object,
        /// Its content is never shown.
        #[serde(default)]
        secret: bool,
    },
    /// A directory appears, changes its metadata, or goes when empty; compared field by field.
    Dir {
        /// Where.
        path: ManagedPath,
        /// What was planned against; `None` is absent.
        before: Option<DirFacts>,
        /// What will stand there.
        after: Option<DirFacts>,
    },
    /// A unit is enabled, masked, started, or the opposite; compared field by field.
    Unit {
        /// The unit's name with its suffix.
        unit: String,
        /// What was planned against.
        before: UnitFacts,
        /// What is wanted.
        after: UnitFacts,
    },
    /// A program does it, and a question tells whether it is done.
    Run(Box<Run>),
}

/// How well a change can be undone; shown in every plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reversibility {
    /// The very object comes back.
    Exact,
    /// The state comes back; what happened meanwhile does not unhappen.
    BestEffort,
    /// Nothing takes it back.
    None,
}

/// What makes running processes read what changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "wake", rename_all = "snake_case")]
pub enum Wake {
    /// PID 1 reads all unit files again (`Manager.Reload`).
    DaemonReload,
    /// A program carries out what the files say; like the manager's reload, before units are started.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
        /// Exit codes besides 0 with which it has done its work.
        success: Vec<i32>,
    },
    /// `ExecReload=` of a running unit (`Manager.ReloadUnit`).
    Reload {
        /// Which unit.
        unit: String,
        /// How it is proven that the new configuration serves.
        proof: Option<Proof>,
    },
    /// Stop and start of a running unit (`Manager.RestartUnit`).
    Restart {
        /// Which unit.
        unit: String,
    },
    /// Stop of a running unit before PID 1 reads its changed files, by what it was started by; start after that.
    StopStart {
        /// Which unit.
        unit: String,
    },
}

/// Proof that a reload took effect; exit code 0 is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Proof {
    /// A child of the main process that was not there before must appear, and every child that was there must have gone
    /// or carry this text in its command line (nginx says `shutting down`).
    pub draining: String,
}

impl Change {
    /// The thing that this change is about: `file:/etc/x` (a link too), `directory:/etc/y`, `unit:z.service`. Two changes of one plan
    /// never have the same target.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Entry { path, .. } => format!("file:{path}"),
            Self::Dir { path, .. } => format!("directory:{path}"),
            Self::Unit { unit, .. } => format!("unit:{unit}"),
            Self::Run(run) => run.target.clone(),
        }
    }

    /// Its path in the file tree; `None` for what has none.
    #[must_use]
    pub fn path(&self) -> Option<&ManagedPath> {
        match self {
            Self::Entry { path, .. } | Self::Dir { path, .. } => Some(path),
            Self::Unit { .. } | Self::Run(_) => None,
        }
    }

    /// Its unit; `None` for what is none.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        match self {
            Self::Unit { unit, .. } => Some(unit),
            _ => None,
        }
    }

    /// The change that takes this one back.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn inverse(&self) -> Self {
        let mut inverse = self.clone();
        match &mut inverse {
            Self::Entry { before, after, .. } => std::mem::swap(before, after),
            Self::Dir { before, after, .. } => std::mem::swap(before, after),
            Self::Unit { before, after, .. } => std::mem::swap(before, after),
            Self::Run(run) => {
                let before = run.before.take().unwrap_or_default();
                run.before = Some(std::mem::replace(&mut run.after, before));
            }
        }
        inverse
    }

    /// What is remembered of a target when a later change claims it again: what stood there before the first, of a unit
    /// what the later one manages and the first did not, and of a file that it was secret once.
    #[must_use]
    pub fn noting(mut self, later: &Self) -> Self {
        match (&mut self, later) {
            (Self::Unit { before, .. }, Self::Unit { before: later, .. }) => {
                before.enabled = before.enabled.or(later.enabled);
                before.masked = before.masked.or(later.masked);
                before.active = before.active.or(later.active);
            }
            (Self::Entry { secret, .. }, Self::Entry { secret: later, .. }) => *secret |= later,
            _ => {}
        }
        self
    }

    /// Nothing is to change: what is wanted is what stands there.
    pub fn leave(&mut self) {
        match self {
            Self::Entry { before, after, .. } => after.clone_from(before),
            Self::Dir { before, after, .. } => *after = *before,
            Self::Unit { before, after, .. } => after.clone_from(before),
            Self::Run(run) => run.before = Some(run.after.clone()),
        }
    }

    /// Its content is never shown from here on.
    pub fn hide(&mut self) {
        if let Self::Entry { secret, .. } = self {
            *secret = true;
        }
    }

    /// Whether its content is never shown.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        matches!(self, Self::Entry { secret: true, .. })
    }

    /// Whether there is nothing to do: what is wanted stands there already.
    #[must_use]
    pub fn is_noop(&self) -> bool {
        match self {
            Self::Entry { before, after, .. } => before == after,
            Self::Dir { before, after, .. } => before == after,
            Self::Unit { before, after, .. } => after.holds_in(before),
            Self::Run(run) => run.before.as_ref() == Some(&run.after),
        }
    }

    /// How well it can be undone.
    #[must_use]
    pub fn reversibility(&self) -> Reversibility {
        match self {
            Self::Entry { .. } | Self::Dir { .. } => Reversibility::Exact,
            // A stopped process does not come back with its memory.
            Self::Unit { before, after, .. } if before.active != after.active && after.active.is_some() => {
                Reversibility::BestEffort
            }
            Self::Unit { .. } => Reversibility::Exact,
            Self::Run(run) if run.backward.is_some() || run.redo.is_some() => Reversibility::BestEffort,
            Self::Run(_) => Reversibility::None,
        }
    }

    /// `+` appears, `~` changes, `-` goes.
    #[must_use]
    pub fn sign(&self) -> char {
        match self {
            Self::Entry { before: Object::Absent, .. } | Self::Dir { before: None, .. } => '+',
            Self::Entry { after: Object::Absent, .. } | Self::Dir { after: None, .. } => '-',
            Self::Run(run) => run.sign(),
            _ => '~',
        }
    }
}

impl Wake {
    /// Whom it wakes; `None` where that is no unit.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        match self {
            Self::DaemonReload | Self::Run { .. } => None,
            Self::Reload { unit, .. } | Self::Restart { unit } | Self::StopStart { unit } => Some(unit),
        }
    }

    /// Whether its unit has stopped and started when it is done.
    #[must_use]
    pub fn starts(&self) -> bool {
        matches!(self, Self::Restart { .. } | Self::StopStart { .. })
    }

    /// What it wakes, in the words of [`Change::target`]: `unit:nginx.service`, or `manager`; or what it runs.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::DaemonReload => "manager".to_owned(),
            Self::Run { .. } => self.to_string(),
            Self::Reload { unit, .. } | Self::Restart { unit } | Self::StopStart { unit } => format!("unit:{unit}"),
        }
    }

    /// Whether units that are started need to find it done.
    #[must_use]
    pub fn is_before_units(&self) -> bool {
        matches!(self, Self::DaemonReload | Self::Run { .. })
    }
}

impl DirFacts {
    /// Whether every field is as in one of two states: a change between them that was interrupted.
    #[must_use]
    pub fn is_between(&self, a: &Self, b: &Self) -> bool {
        let one_of = |now, a, b| now == a || now == b;
        one_of(self.mode, a.mode, b.mode) && one_of(self.uid, a.uid, b.uid) && one_of(self.gid, a.gid, b.gid)
    }

    /// What a directory that is like this now has to be for a change to be taken back: fields that the change has set are
    /// as before it, what somebody else has set stays.
    #[must_use]
    pub fn taken_back(&self, before: &Self, after: &Self) -> Self {
        let back = |now, before, after| if now == after { before } else { now };
        Self {
            mode: back(self.mode, before.mode, after.mode),
            uid: back(self.uid, before.uid, after.uid),
            gid: back(self.gid, before.gid, after.gid),
        }
    }
}

impl UnitFacts {
    /// Whether every field that is wanted here is so in `seen`.
    #[must_use]
    pub fn holds_in(&self, seen: &Self) -> bool {
        // A field that has no meaning for the unit (a static unit cannot be enabled) is never in the way.
        let same = |want: Option<bool>, have: Option<bool>| want.is_none() || have.is_none() || want == have;
        same(self.enabled, seen.enabled) && same(self.masked, seen.masked) && same(self.active, seen.active) && !self.anew
    }

    /// The fields of `seen` that `self` manages: what has to be remembered to take a change back.
    #[must_use]
    pub fn managed_part_of(&self, seen: &Self) -> Self {
        Self {
            enabled: self.enabled.and(seen.enabled),
            masked: self.masked.and(seen.masked),
            active: self.active.and(seen.active),
            anew: false,
            links: seen.links.clone(),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::File(file) => write!(f, "file {} {:04o} {}:{}", file.digest.short(), file.mode, file.uid, file.gid),
            Self::Link { target } => write!(f, "link to {}", crate::path::escape(target)),
            Self::Other { what } => f.write_str(what),
        }
    }
}

impl fmt::Display for DirFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory {:04o} {}:{}", self.mode, self.uid, self.gid)
    }
}

impl fmt::Display for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DaemonReload => f.write_str("daemon-reload"),
            Self::Run { argv, .. } => write!(f, "run {}", crate::guard::in_words(argv)),
            Self::Reload { unit, .. } => write!(f, "reload {unit}"),
            Self::Restart { unit } => write!(f, "restart {unit}"),
            Self::StopStart { unit } => write!(f, "stop and start {unit}"),
        }
    }
}

impl fmt::Display for Reversibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::BestEffort => "best effort",
            Self::None => "none",
        })
    }
}
