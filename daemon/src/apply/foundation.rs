//! What the rest of a plan stands on: packages bring files, accounts and units, which nobody can see before. They are installed first, then
//! everything is looked at again, planned and rehearsed as it is, and joins the same transaction: all of it is taken back together.

use std::path::PathBuf;

use super::{ApplyError, Failed, Ground, Staged, begin, run, stage_all, staging_places};
use crate::plan::Plan;
use crate::rehearse::Rehearsed;

/// A transaction whose foundation is laid; it waits for the rest.
#[derive(Debug)]
pub struct Founded {
    id: u64,
    plan: Plan,
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
        .and_then(|()| run::run_forward(staged.id, &staged.plan, |step| step.phase.is_foundation(), ground));
    match laid {
        Ok(()) => Ok(Founded { id: staged.id, plan: staged.plan }),
        Err(error) => Err(Box::new(Failed { error, staged })),
    }
}

impl Founded {
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
        let Self { id, plan: foundation } = self;
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
