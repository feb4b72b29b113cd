//! A plan that stands on packages or accounts that are not there yet: they come first, then all is looked at again.

use super::ending::Failure;
use super::seeing::Drifted;
use super::{Engine, Order, Pass, Say, Stop, Wanted, ending, seeing, show};
use crate::apply::{self, Ground, Staged};
use crate::plan::Plan;
use crate::policy;
use crate::rehearse::{self, Rehearsed};
use crate::report::Progress;

impl Engine {
    /// Stages a plan; before that it lays the foundation and plans the rest, where there is one to lay.
    pub(super) fn stage(
        &mut self,
        order: &Order,
        rehearsed: Rehearsed,
        drifted: Drifted,
        pass: &mut Pass,
        say: Say<'_>,
    ) -> Result<Staged, Stop> {
        if !rehearsed.plan().needs_foundation() {
            let staged = apply::stage(rehearsed, &mut self.ground(say)).map_err(|e| Stop::before_live(&e))?;
            pass.lap("stage");
            return Ok(staged);
        }
        let staged = apply::stage(rehearsed.foundation(), &mut self.ground(say)).map_err(|e| Stop::before_live(&e))?;
        pass.lap("stage");
        let mut ground = Ground { touch: &mut *self.host, state: &mut self.state, say };
        let audit = &mut self.audit;
        let founded = apply::found(staged, &mut ground, &mut |_| ending::record_intent(audit, &pass.record));
        pass.lap("install");
        let mut founded = match founded {
            Ok(founded) => founded,
            Err(failed) => return Err(self.take_back(failed.staged.into_parts(), Failure::of(&failed.error), pass, say)),
        };
        let first = rehearsed.into_plan();
        let rest = loop {
            let rest = match self.rest(order, &first, drifted, founded.overtaken(), pass, say) {
                Ok(rest) => rest,
                Err(stop) => return Err(self.take_back(founded.into_parts(), Failure::of_stop(stop), pass, say)),
            };
            if !rest.plan().needs_foundation() {
                break rest;
            }
            founded = match founded.deepen(rest, &mut self.ground(say)) {
                Ok(founded) => founded,
                Err(failed) => return Err(self.take_back(failed.staged.into_parts(), Failure::of(&failed.error), pass, say)),
            };
            pass.lap("install");
        };
        match founded.extend(rest, &mut self.ground(say)) {
            Ok(staged) => {
                pass.lap("stage");
                Ok(staged)
            }
            Err(failed) => Err(self.take_back(failed.staged.into_parts(), Failure::of(&failed.error), pass, say)),
        }
    }

    /// Plans and rehearses what stands on the foundation; before that, alone, what packages have overtaken in it.
    fn rest(
        &mut self,
        order: &Order,
        first: &Plan,
        drifted: Drifted,
        overtaken: &[String],
        pass: &mut Pass,
        say: Say<'_>,
    ) -> Result<Rehearsed, Stop> {
        let wanted = Wanted { commit: first.commit.clone(), manifest: first.manifest.clone() };
        let allow_empty = wanted.manifest.allow_empty;
        let mut plan = self.plan(order, wanted, drifted)?;
        if plan.forgiving {
            plan.steps.retain(|step| !step.phase.is_foundation());
        }
        pass.record.changes.retain(|change| !overtaken.contains(&change.target));
        if plan.needs_foundation() {
            plan = plan.foundation();
            let targets: Vec<String> = plan.steps.iter().map(|step| step.change.target()).collect();
            if !targets.iter().all(|target| overtaken.contains(target)) {
                return Err(Stop::refused(format!("{}: not as wanted although it was installed", targets.join(", "))));
            }
            say(Progress::Note { text: "the packages have brought accounts, which are seen only now:".to_owned() });
        } else {
            say(Progress::Note { text: "with that in place, the rest:".to_owned() });
        }
        show(&plan, say);
        pass.record.changes.extend(self.change_records(&plan));
        pass.lap("plan");
        let approved = policy::judge(plan, order.right(), allow_empty).map_err(|reasons| Stop::denied(&reasons))?;
        let rehearsed = rehearse::rehearse(approved, &*self.host, &seeing::stored(&self.state), &mut pass.record.guards, say)?;
        pass.lap("rehearse");
        Ok(rehearsed)
    }
}
