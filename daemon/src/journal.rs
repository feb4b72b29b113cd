//! The durable states of a transaction and the only transitions between them: a total function, no I/O. Recovery goes
//! one way: back, unless `committed`.
//!
//! ```text
//!             act              commit
//!  planned ────────► acting ────────────► committed
//!     │                │
//!     │ drop           │ undo
//!     ▼                ▼        restore              close
//!  dropped          undoing ────────────► restored ────────► rolled-back
//!                      │                     │
//!                      └────────stick────────┴────► stuck ── resolve ──► rolled-back
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Staged at most; nothing live was touched.
    Planned,
    /// Changes may have been made; every wake is owed until it is recorded as done.
    Acting,
    /// Being taken back.
    Undoing,
    /// All objects are back; wakes may still be owed.
    Restored,
    /// Over: the new generation is live.
    Committed,
    /// Over: the old generation is live.
    RolledBack,
    /// Over: it never touched anything.
    Dropped,
    /// Undo itself failed; a person is needed.
    Stuck,
}

/// What moves a transaction on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first change is about to be made.
    Act,
    /// Changed, woken, healthy.
    Commit,
    /// Something failed, or the daemon had died.
    Undo,
    /// Every object is where it was.
    Restore,
    /// The wakes of the restored state are done.
    Close,
    /// Nothing live was touched, and nothing will be.
    Drop,
    /// Undo failed.
    Stick,
    /// A person has decided.
    Resolve,
}

/// A transition that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a transaction that is {state} cannot {event:?}")]
pub struct Illegal {
    /// Where it stood.
    pub state: Phase,
    /// What was asked.
    pub event: Event,
}

/// The state after an event.
///
/// # Errors
/// For a transition that does not exist.
pub fn next(state: Phase, event: Event) -> Result<Phase, Illegal> {
    use {Event as E, Phase as P};
    match (state, event) {
        (P::Planned, E::Act) => Ok(P::Acting),
        (P::Planned, E::Drop) => Ok(P::Dropped),
        (P::Acting, E::Commit) => Ok(P::Committed),
        // Undoing may be begun again: after a crash in the middle of it.
        (P::Acting | P::Undoing, E::Undo) => Ok(P::Undoing),
        (P::Undoing, E::Restore) => Ok(P::Restored),
        (P::Restored, E::Close) | (P::Stuck, E::Resolve) => Ok(P::RolledBack),
        (P::Undoing | P::Restored, E::Stick) => Ok(P::Stuck),
        _ => Err(Illegal { state, event }),
    }
}

impl Phase {
    /// Whether recovery has nothing left to do.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Committed | Self::RolledBack | Self::Dropped)
    }

    /// The word in the store.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Acting => "acting",
            Self::Undoing => "undoing",
            Self::Restored => "restored",
            Self::Committed => "committed",
            Self::RolledBack => "rolled-back",
            Self::Dropped => "dropped",
            Self::Stuck => "stuck",
        }
    }

    /// The state of a word in the store; `None` for a word of another version.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        ALL.into_iter().find(|s| s.word() == word)
    }
}

const ALL: [Phase; 8] = [
    Phase::Planned,
    Phase::Acting,
    Phase::Undoing,
    Phase::Restored,
    Phase::Committed,
    Phase::RolledBack,
    Phase::Dropped,
    Phase::Stuck,
];

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::{ALL, Event, Phase, next};

    const EVENTS: [Event; 8] =
        [Event::Act, Event::Commit, Event::Undo, Event::Restore, Event::Close, Event::Drop, Event::Stick, Event::Resolve];

    #[test]
    fn nothing_leads_out_of_the_end() {
        for state in ALL.into_iter().filter(|s| s.is_over()) {
            for event in EVENTS {
                assert!(next(state, event).is_err(), "{state} {event:?}");
            }
        }
    }

    #[test]
    fn only_acting_commits_and_only_planned_drops() {
        for state in ALL {
            assert_eq!(next(state, Event::Commit).is_ok(), state == Phase::Acting);
            assert_eq!(next(state, Event::Drop).is_ok(), state == Phase::Planned);
            assert_eq!(Phase::from_word(state.word()), Some(state));
        }
    }

    #[test]
    fn every_open_state_can_end() {
        for start in ALL.into_iter().filter(|s| !s.is_over()) {
            let mut reached = vec![start];
            for _ in 0..ALL.len() {
                let more: Vec<_> = reached.iter().flat_map(|s| EVENTS.iter().filter_map(|e| next(*s, *e).ok())).collect();
                reached.extend(more.into_iter().filter(|s| !reached.contains(s)).collect::<Vec<_>>());
                reached.dedup();
                reached.truncate(64);
            }
            assert!(reached.iter().any(|s| s.is_over()), "{start}");
        }
    }
}
