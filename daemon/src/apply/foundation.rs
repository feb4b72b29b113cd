//! What the rest of a plan stands on: packages bring files, accounts and units, which nobody can see before. They are installed first, then
//! everything is looked at again, planned and rehearsed as it is, and joins the same transaction: all of it is taken back together.

use std::path::PathBuf;

use super::{ApplyError, Failed, Ground, Staged, begin, run, stage_all, staging_places};
use crate::kind::Phase;
use crate::plan::{Plan, Step};
use crate::rehearse::Rehearsed;

/// A transaction whose foundation is laid; it waits for the rest.
#[derive(Debug)]
pub struct Founded {
    id: u64,
    plan: Plan,
    /// Accounts that the packages have brought or changed themselves: not as they were planned against, and so not touched.
    overtaken: Vec<String>,
}

/// Lays the foundation. The journal says `acting` from before the first program; `on_acting` runs right after that.
///
/// # Errors
/// The first failure, with what has to be undone.
pub fn found(
    staged: Staged,
    ground: &mut Ground<'_>,
    on_acting: &mut dyn FnMut(&Plan) -> Result<(), ApplyError>,
) -> Result<Founded, Box<Failed>> {
    let laid = begin(&staged, ground)
        .map_err(ApplyError::from)
        .and_then(|()| on_acting(&staged.plan))
        .and_then(|()| lay(staged.id, &staged.plan, ground));
    match laid {
        Ok(laid) => Ok(Founded::of(staged, laid)),
        Err(error) => Err(Box::new(Failed { error, staged })),
    }
}

/// What came of laying a foundation.
#[derive(Clone, Copy)]
enum Laid {
    Whole,
    /// Packages alone: accounts are not as they were planned against any more.
    Packages,
}

/// Packages, then accounts: those that no package has brought meanwhile.
fn lay(id: u64, plan: &Plan, ground: &mut Ground<'_>) -> Result<Laid, ApplyError> {
    let has_packages = plan.steps.iter().any(|step| step.phase == Phase::Packages);
    run::run_forward(id, plan, |step| step.phase == Phase::Packages, ground)?;
    if has_packages && !plan.forgiving && !run::is_as_planned_against(plan, is_of_accounts, ground)? {
        return Ok(Laid::Packages);
    }
    run::run_forward(id, plan, is_of_accounts, ground)?;
    Ok(Laid::Whole)
}

fn is_of_accounts(step: &Step) -> bool {
    step.phase == Phase::Accounts
}

impl Founded {
    fn of(staged: Staged, laid: Laid) -> Self {
        let Staged { id, mut plan, .. } = staged;
        let overtaken = match laid {
            Laid::Whole => Vec::new(),
            Laid::Packages => plan.drop_steps(is_of_accounts),
        };
        Self { id, plan, overtaken }
    }

    /// The targets of steps that were left out, since packages have brought what they were about: to be planned anew.
    #[must_use]
    pub fn overtaken(&self) -> &[String] {
        &self.overtaken
    }

    /// Lays what was planned anew for accounts that packages had brought.
    ///
    /// # Errors
    /// The first failure, with what has to be undone.
    pub fn deepen(self, rehearsed: Rehearsed, ground: &mut Ground<'_>) -> Result<Self, Box<Failed>> {
        let staged = self.extend(rehearsed, ground)?;
        match run::run_forward(staged.id, &staged.plan, is_of_accounts, ground) {
            Ok(()) => Ok(Self::of(staged, Laid::Whole)),
            Err(error) => Err(Box::new(Failed { error, staged })),
        }
    }

    /// What undo needs.
    #[must_use]
    pub fn into_parts(self) -> (u64, Plan, Vec<PathBuf>) {
        (self.id, self.plan, Vec::new())
    }

    /// Adds the rest of the plan, staged and durable.
    ///
    /// # Errors
    /// The host's or the store's, with what has to be undone.
    pub fn extend(self, rehearsed: Rehearsed, ground: &mut Ground<'_>) -> Result<Staged, Box<Failed>> {
        let Self { id, plan: foundation, .. } = self;
        let plan = rehearsed.into_plan().upon(&foundation);
        let staged = |plan, staging| Staged { id, plan, staging, acting: true };
        let staging = match staging_places(&plan, ground.touch) {
            Ok(staging) => staging,
            Err(error) => return Err(Box::new(Failed { error: error.into(), staged: staged(foundation, Vec::new()) })),
        };
        // The places first: what waits there is swept whatever happens.
        if let Err(error) = ground.state.extend(id, &plan, &staging) {
            return Err(Box::new(Failed { error: error.into(), staged: staged(foundation, Vec::new()) }));
        }
        crate::failpoint!("extended");
        match stage_all(id, &plan, &staging, ground) {
            Ok(()) => Ok(staged(plan, staging)),
            Err(error) => Err(Box::new(Failed { error, staged: staged(plan, staging) })),
        }
    }
}
