//! What an earlier life of the daemon left open: at its start, and in early boot. Back, unless `committed`.

use super::ending::{first_line, held_now};
use super::{Engine, FACTS, Say};
use crate::apply::{self, Cause, Ground, Undone, WithManager};
use crate::audit::{Event, NewRecord};
use crate::change::{Change, Wake};
use crate::journal::{Event as Step, Phase};
use crate::plan::Intent;
use crate::report::Progress;
use crate::state::{StateError, StateResult};

/// Why a transaction is taken back that was neither finished nor found wanting.
const INTERRUPTED: &str = "the daemon was interrupted";
/// The same, found in early boot.
const WENT_DOWN: &str = "the host went down in the middle of it";

impl Engine {
    /// Ends what an earlier life of the daemon left open. Recovery goes back, unless `committed`.
    ///
    /// # Errors
    /// The store's: then nothing was changed.
    pub fn recover(&mut self) -> Result<(), StateError> {
        for (id, staging) in self.state.left_over_staging()? {
            if let Err(error) = self.host.sweep(id, &staging) {
                tracing::warn!("staging of transaction {id}: {error}, ignoring");
            }
        }
        self.record_lost_outcome()?;
        let Some(mut open) = self.state.open_transaction()? else { return Ok(()) };
        open.plan.manifest = self.reopened(open.plan.manifest);
        open.plan.secrets = self.secrets_of(&open.plan);
        let say: &mut dyn FnMut(Progress) = &mut |p| tracing::info!("{}", p.text());
        let mut ground = Ground { touch: &mut *self.host, state: &mut self.state, say };
        let undone = match open.state {
            Phase::Planned => {
                if let Err(error) = apply::drop_planned(open.id, &open.staging, &mut ground) {
                    tracing::error!("staging of transaction {}: {error}", open.id);
                }
                return Ok(());
            }
            Phase::Acting | Phase::Undoing => apply::undo(&open, &Cause { reason: INTERRUPTED, hold: None }, &mut ground)?,
            Phase::Restored => apply::finish_restored(&open, &mut ground)?,
            Phase::Stuck | Phase::Committed | Phase::RolledBack | Phase::Dropped => return Ok(()),
        };
        match &undone {
            Undone::Restored => {}
            Undone::Owed(asleep) => tracing::warn!("the host is going down, left for its next start: {}", asleep.join("; ")),
            Undone::Stuck(remains) => tracing::error!("STUCK: {}", remains.join("; ")),
        }
        self.record_lost_outcome()?;
        let interrupted = open.state == Phase::Acting || [INTERRUPTED, WENT_DOWN].contains(&open.reason.as_str());
        let is_somebodys = open.plan.intent == Intent::Deploy && open.plan.actor != FACTS;
        if interrupted && is_somebodys && self.state.count_interruption(&open.plan.commit.id)? > 1 {
            let held = held_now(&open.plan.commit.id, "the daemon was interrupted twice while it was being applied");
            self.state.hold(&held)?;
            self.record_held(&held, "daemon");
        }
        Ok(())
    }

    /// Records how a transaction ended that has no record of it yet: the daemon died in between, or has just recovered it.
    fn record_lost_outcome(&mut self) -> Result<(), StateError> {
        let Some(open) = self.state.unrecorded()? else { return Ok(()) };
        let (event, how) = match (open.state, open.plan.intent) {
            (Phase::Committed, Intent::Repair) => (Event::DriftRepaired, "all was done when the daemon was interrupted"),
            (Phase::Committed, _) => (Event::Live, "all was done when the daemon was interrupted"),
            (Phase::Stuck, _) => (Event::Stuck, "not all could be taken back"),
            _ => (Event::Recovered, "the host is back where it was"),
        };
        let mut record = NewRecord::new(event, &open.plan.actor);
        record.tell(&open.plan);
        record.generation = self.state.live()?.map(|g| g.number);
        let why = if open.state == Phase::Committed {
            String::new()
        } else {
            format!("{}: ", first_line(&open.reason).0.unwrap_or_default())
        };
        record.reason = Some(format!("{why}{how}"));
        record.details = Some(open.remains.join("\n")).filter(|text| !text.is_empty());
        self.record(record);
        Ok(())
    }

    /// Early boot: puts files, directories and enablement links of an open transaction back from the store alone; whether
    /// PID 1 has to read its units again.
    ///
    /// # Errors
    /// The store's.
    pub fn restore_at_boot(&mut self) -> StateResult<bool> {
        let Some(open) = self.state.open_transaction()? else { return Ok(false) };
        if !matches!(open.state, Phase::Acting | Phase::Undoing) {
            return Ok(false);
        }
        self.state.begin_undo(open.id, WENT_DOWN, None)?;
        crate::failpoint!("undoing");
        let say: Say<'_> = &mut |p| eprintln!("{}", p.text());
        let remains = apply::restore(&open, WithManager::No, &mut self.ground(say));
        self.state.advance_with(open.id, Step::Restore, &remains)?;
        crate::failpoint!("restored");
        Ok(open.plan.wakes.contains(&Wake::DaemonReload)
            || open.plan.steps.iter().any(|s| matches!(s.change, Change::Unit { .. })))
    }
}
