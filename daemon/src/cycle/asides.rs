//! Beside the pipeline: what differs, what drifted while paused, and the end of a stuck transaction.

use super::seeing::Drifted;
use super::{Engine, Order, Say, Wanted};
use crate::apply;
use crate::audit::{ChangeRecord, Event, NewRecord};
use crate::journal::{Event as Step, Phase};
use crate::plan::Plan;
use crate::report::{Progress, Report, Verdict};
use crate::state::StateResult;

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
        let plan = match self.difference(Wanted { commit: wanted.commit, manifest: self.reopened(wanted.manifest) }, actor) {
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
            // Nothing is other than declared, but for those who run.
            0 => {
                plan.wakes_in_words().for_each(|wake| say(Progress::Line { text: format!("! {wake}") }));
                "what runs".to_owned()
            }
            1 => "one place (- as it is, + as it should be)".to_owned(),
            many => format!("{many} places (- as it is, + as it should be)"),
        };
        Ok(Report::short(Verdict::Differs, &format!("the host differs in {places}")))
    }

    fn difference(&mut self, wanted: Wanted, actor: &str) -> Result<Plan, Report> {
        let order = Order::Repair { actor: actor.to_owned(), insist: false };
        self.plan(&order, wanted, Drifted::All).map_err(super::Stop::into_report)
    }

    /// Records how the host differs from the live generation and leaves it so; the same difference is recorded once.
    ///
    /// # Errors
    /// The store's.
    pub fn report_drift(&mut self, actor: &str, say: Say<'_>) -> StateResult<Report> {
        let Some(live) = self.state.live()? else { return Ok(Report::short(Verdict::NothingToDo, "")) };
        let plan = match self.difference(Wanted { commit: live.commit, manifest: self.reopened(live.manifest) }, actor) {
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
        let Some(mut open) = self.state.open_transaction()?.filter(|o| o.state == Phase::Stuck) else {
            return Ok(Report::short(Verdict::NothingToDo, "nothing is stuck"));
        };
        open.plan.manifest = self.reopened(open.plan.manifest);
        open.plan.secrets = self.secrets_of(&open.plan);
        let concerns = |remain: &str| {
            path == "all"
                || remain.split_once(": ").is_some_and(|(t, _)| t == path || t.split_once(':').is_some_and(|(_, p)| p == path))
        };
        let (mine, rest): (Vec<String>, Vec<String>) = open.remains.iter().cloned().partition(|r| concerns(r));
        if mine.is_empty() {
            return Ok(Report::short(Verdict::Refused, &format!("nothing is stuck on {path}: {}", open.remains.join("; "))));
        }
        if restore && let Err(why) = apply::force_back(&open, &mine, &mut self.ground(say)) {
            return Ok(Report::short(Verdict::Stuck, &open.plan.secrets.conceal(&why)));
        }
        let mut record = NewRecord::new(Event::Resolved, actor);
        record.reason = Some(format!("{}: {}", if restore { "restored" } else { "kept" }, mine.join("; ")));
        self.record(record);
        if !rest.is_empty() {
            self.state.set_remains(open.id, &rest)?;
            return Ok(Report::short(Verdict::Stuck, &rest.join("; ")));
        }
        for (seq, wake) in self.state.owed(open.id)? {
            match self.host.wake(&wake, wake.unit().and_then(|unit| open.plan.patience(unit))) {
                Ok(()) => self.state.wake_done(open.id, seq)?,
                Err(error) => say(Progress::Note { text: format!("{wake}: {error}") }),
            }
        }
        self.state.advance_with(open.id, Step::Resolve, &rest)?;
        // What is left over is swept at the next start.
        let _ = self.host.sweep(open.id, &open.staging);
        Ok(Report::short(Verdict::NothingToDo, "nothing is stuck any more: pushes are taken again"))
    }
}
