//! Beside the pipeline: what differs, what drifted while paused, and the end of a stuck transaction.

use super::ending::WENT_DOWN;
use super::{Engine, Order, Say, Wanted};
use crate::apply::{self, WithManager};
use crate::audit::{ChangeRecord, Event, NewRecord};
use crate::change::{Change, Object, Wake};
use crate::host::{HostError, HostResult, Slot};
use crate::journal::{Event as Step, State as Phase};
use crate::plan::Plan;
use crate::report::{Progress, Report, Verdict};
use crate::state::{Open, StateResult};

impl Engine {
    /// Says how the host differs from a generation, with the text of each difference that is no secret. A difference is
    /// exit code 1, as with diff(1).
    ///
    /// # Errors
    /// The store's.
    pub fn diff(&mut self, generation: Option<u64>, actor: &str, say: Say<'_>) -> StateResult<Report> {
        let wanted = match generation {
            Some(number) => self.state.generation(number)?,
            None => self.state.live()?,
        };
        let Some(wanted) = wanted else {
            let why = match generation {
                Some(number) => format!("there is no generation {number}: see reconcilectl history"),
                None => "nothing is live yet: there is nothing to compare the host with".to_owned(),
            };
            return Ok(Report::short(Verdict::Failed, &why));
        };
        let plan = match self.difference(Wanted { commit: wanted.commit, manifest: wanted.manifest }, actor) {
            Ok(plan) => plan,
            Err(report) => return Ok(report),
        };
        if plan.is_empty() {
            return Ok(Report::short(Verdict::NothingToDo, ""));
        }
        for record in self.change_records(&plan) {
            say(Progress::Line { text: format!("{} {} ({})", record.sign, record.target, record.reason) });
            for line in record.diff.iter().flat_map(|d| d.lines()) {
                say(Progress::Line { text: crate::path::escape(line) });
            }
        }
        let places = match plan.steps.len() {
            1 => "one place".to_owned(),
            many => format!("{many} places"),
        };
        Ok(Report::short(Verdict::Differs, &format!("the host differs in {places} (- as it is, + as it should be)")))
    }

    fn difference(&mut self, wanted: Wanted, actor: &str) -> Result<Plan, Report> {
        let order = Order::Repair { actor: actor.to_owned(), insist: false };
        self.plan(&order, wanted).map_err(super::Stop::into_report)
    }

    /// Records how the host differs from the live generation and leaves it so; the same difference is recorded once.
    ///
    /// # Errors
    /// The store's.
    pub fn report_drift(&mut self, actor: &str, say: Say<'_>) -> StateResult<Report> {
        let Some(live) = self.state.live()? else { return Ok(Report::short(Verdict::NothingToDo, "")) };
        let plan = match self.difference(Wanted { commit: live.commit, manifest: live.manifest }, actor) {
            Ok(plan) => plan,
            Err(report) => return Ok(report),
        };
        let digest = Some(plan.digest()).filter(|_| !plan.is_empty());
        if self.reported_drift != digest {
            self.reported_drift = digest;
            if digest.is_some() {
                let changes: Vec<ChangeRecord> = self.change_records(&plan);
                let mut record = NewRecord::new(Event::DriftFound, actor);
                record.generation = Some(live.number);
                record.changes = changes;
                self.record(record);
            }
        }
        for text in plan.lines() {
            say(Progress::Line { text });
        }
        Ok(Report::short(Verdict::NothingToDo, ""))
    }

    /// Ends what a stuck transaction left about a path: what stands there stays, or what stood there comes back. When
    /// nothing is left, its wakes are carried out and the transaction is over.
    ///
    /// # Errors
    /// The store's.
    pub fn resolve(&mut self, path: &str, restore: bool, actor: &str, say: Say<'_>) -> StateResult<Report> {
        let Some(open) = self.state.open_transaction()?.filter(|o| o.state == Phase::Stuck) else {
            return Ok(Report::short(Verdict::NothingToDo, "nothing is stuck"));
        };
        let concerns = |remain: &str| {
            path == "all"
                || remain.split_once(": ").is_some_and(|(t, _)| t == path || t.split_once(':').is_some_and(|(_, p)| p == path))
        };
        let (mine, rest): (Vec<String>, Vec<String>) = open.remains.iter().cloned().partition(|r| concerns(r));
        if mine.is_empty() {
            return Ok(Report::short(Verdict::Refused, &format!("nothing is stuck on {path}: {}", open.remains.join("; "))));
        }
        if restore && let Err(why) = self.restore_by_force(&open, &mine) {
            return Ok(Report::short(Verdict::Stuck, &why));
        }
        let mut record = NewRecord::new(Event::Resolved, actor);
        record.reason = Some(format!("{}: {}", if restore { "restored" } else { "kept" }, mine.join("; ")));
        self.record(record);
        if !rest.is_empty() {
            self.state.set_remains(open.id, &rest)?;
            return Ok(Report::short(Verdict::Stuck, &rest.join("; ")));
        }
        for (seq, wake) in self.state.owed(open.id)? {
            match self.host.wake(&wake) {
                Ok(()) => self.state.wake_done(open.id, seq)?,
                Err(error) => say(Progress::Note { text: format!("{wake}: {error}") }),
            }
        }
        self.state.advance_with(open.id, Step::Resolve, &rest)?;
        // What is left over is swept at the next start.
        let _ = self.host.sweep(open.id, &open.staging);
        Ok(Report::short(Verdict::NothingToDo, "nothing is stuck any more: pushes are taken again"))
    }

    /// Puts back what remains, whatever stands there now: objects, last change first, and what reads them after that.
    fn restore_by_force(&mut self, open: &Open, mine: &[String]) -> Result<(), String> {
        let concerned = |target: &str| mine.iter().any(|m| m.starts_with(&format!("{target}: ")));
        let steps = open.plan.steps.iter().enumerate().rev().filter(|(_, planned)| concerned(&planned.change.target()));
        let (units, objects): (Vec<_>, Vec<_>) = steps.partition(|(_, planned)| matches!(planned.change, Change::Unit { .. }));
        for (_, planned) in &units {
            if let Change::Unit { unit, before, .. } = &planned.change {
                apply::bring_down_unit(unit, before, &mut *self.host);
            }
        }
        for (step, planned) in objects {
            let target = planned.change.target();
            self.force_back(open, step, &planned.change).map_err(|error| format!("{target}: {error}"))?;
        }
        let paths: Vec<_> = open.plan.steps.iter().filter_map(|s| s.change.path()).collect();
        self.host.sync_parents(&paths).map_err(|error| format!("sync: {error}"))?;
        let (reload, others): (Vec<_>, Vec<_>) =
            self.state.owed(open.id).map_err(|e| e.to_string())?.into_iter().partition(|(_, wake)| *wake == Wake::DaemonReload);
        for (seq, wake) in reload {
            self.wake_by_force(open.id, seq, &wake)?;
        }
        for (step, planned) in units {
            let target = planned.change.target();
            self.force_back(open, step, &planned.change).map_err(|error| format!("{target}: {error}"))?;
        }
        for (seq, wake) in others.iter().filter(|(_, wake)| concerned(&wake.target())) {
            self.wake_by_force(open.id, *seq, wake)?;
        }
        Ok(())
    }

    fn wake_by_force(&mut self, id: u64, seq: u64, wake: &Wake) -> Result<(), String> {
        self.host.wake(wake).map_err(|error| format!("{}: {error}", wake.target()))?;
        self.state.wake_done(id, seq).map_err(|e| e.to_string())
    }

    fn force_back(&mut self, open: &Open, step: usize, change: &Change) -> HostResult<()> {
        match change {
            Change::Entry { path, before, .. } => {
                let live = self.host.object(path)?.object;
                if live == *before {
                    return Ok(());
                }
                let slot = self.free_slot(open, step, path)?;
                let content = match before {
                    Object::File(facts) => super::seeing::stored(&self.state)(&facts.digest)?,
                    _ => Vec::new(),
                };
                self.host.stage(slot, path, before, &content)?;
                self.host.sync(open.id, &open.staging)?;
                self.host.swap(slot, path, &live, before)
            }
            Change::Dir { path, before, .. } => self.host.set_directory(path, *before),
            Change::Unit { unit, before, after } => apply::bring_back_unit(unit, before, after, &mut *self.host),
        }
    }

    /// A slot of its own: the step's own one may still hold what a person will want to look at, and so may those of earlier tries.
    fn free_slot(&self, open: &Open, step: usize, path: &crate::path::ManagedPath) -> HostResult<Slot> {
        let mut slot = Slot { transaction: open.id, step };
        loop {
            slot.step += open.plan.steps.len();
            // The first try makes the directory that the slot is looked for in.
            match self.host.waiting(slot, path) {
                Ok(Object::Absent) | Err(HostError::Io { .. }) => return Ok(slot),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
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
