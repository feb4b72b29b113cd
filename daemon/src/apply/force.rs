//! What a person decides about a stuck transaction: that what stood there before comes back, whatever stands there now.

use super::run::back_now;
use super::undo::links_back;
use super::{Ground, bring_back_unit, bring_down_unit};
use crate::change::{Change, Object, Wake};
use crate::digest::Digest;
use crate::host::{HostError, HostResult, Slot};
use crate::path::ManagedPath;
use crate::state::Open;

/// Puts back what these remains of an undo name: objects, last change first, then units, then what reads them.
///
/// # Errors
/// The first that cannot be put back, and why; it may be tried again.
pub fn force_back(open: &Open, remains: &[String], ground: &mut Ground<'_>) -> Result<(), String> {
    let concerned = |target: &str| remains.iter().any(|remain| remain.starts_with(&format!("{target}: ")));
    let steps = open.plan.steps.iter().enumerate().rev().filter(|(_, planned)| concerned(&planned.change.target()));
    let (units, objects): (Vec<_>, Vec<_>) = steps.partition(|(_, planned)| matches!(planned.change, Change::Unit { .. }));
    for (_, planned) in &units {
        bring_down_unit(&planned.change, ground.touch);
    }
    for (step, planned) in objects {
        one_back(open, step, &planned.change, ground)?;
    }
    for (_, planned) in &units {
        links_back(&planned.change, ground.touch).map_err(|error| format!("{}: {error}", planned.change.target()))?;
    }
    let paths: Vec<&ManagedPath> = open.plan.steps.iter().filter_map(|step| step.change.path()).collect();
    ground.touch.sync_parents(&paths).map_err(|error| format!("sync: {error}"))?;
    let owed = ground.state.owed(open.id).map_err(|e| e.to_string())?;
    let (first, others): (Vec<_>, Vec<_>) = owed.into_iter().partition(|(_, wake)| wake.is_before_units());
    for (seq, wake) in first {
        wake_now(open, seq, &wake, ground)?;
    }
    for (step, planned) in units {
        one_back(open, step, &planned.change, ground)?;
    }
    for (seq, wake) in others.iter().filter(|(_, wake)| concerned(&wake.target())) {
        wake_now(open, *seq, wake, ground)?;
    }
    Ok(())
}

fn wake_now(open: &Open, seq: u64, wake: &Wake, ground: &mut Ground<'_>) -> Result<(), String> {
    let patience = wake.unit().and_then(|unit| open.plan.patience(unit));
    ground.touch.wake(wake, patience).map_err(|error| format!("{}: {error}", wake.target()))?;
    ground.state.wake_done(open.id, seq).map_err(|e| e.to_string())
}

fn one_back(open: &Open, step: usize, change: &Change, ground: &mut Ground<'_>) -> Result<(), String> {
    let back = match change {
        Change::Entry { path, before, .. } => object_back(open, step, path, before, ground),
        Change::Dir { path, before, .. } => ground.touch.set_directory(path, *before),
        Change::Unit { unit, .. } => bring_back_unit(change, open.plan.patience(unit), ground.touch),
        Change::Run(run) => return back_now(step, run, ground).map_err(|error| format!("{}: {error}", change.target())),
    };
    back.map_err(|error| format!("{}: {error}", change.target()))
}

fn object_back(open: &Open, step: usize, path: &ManagedPath, before: &Object, ground: &mut Ground<'_>) -> HostResult<()> {
    let live = ground.touch.object(path)?.object;
    if live == *before {
        return Ok(());
    }
    let slot = free_slot(open, step, path, ground)?;
    let content = match before {
        Object::File(facts) => kept(&facts.digest, ground)?,
        _ => Vec::new(),
    };
    ground.touch.stage(slot, path, before, &content)?;
    ground.touch.sync(open.id, &open.staging)?;
    ground.touch.swap(slot, path, &live, before)
}

fn kept(digest: &Digest, ground: &Ground<'_>) -> HostResult<Vec<u8>> {
    let content = ground.state.objects().get(digest).map_err(|e| HostError::Unfit(e.to_string()))?;
    content.ok_or_else(|| HostError::Unfit(format!("the content {} was not kept", digest.short())))
}

/// A slot that nothing waits in: the step's own one may still hold what a person will want to look at, and so may those of
/// earlier tries.
fn free_slot(open: &Open, step: usize, path: &ManagedPath, ground: &Ground<'_>) -> HostResult<Slot> {
    let mut slot = Slot { transaction: open.id, step };
    loop {
        slot.step += open.plan.steps.len();
        // The first try makes the directory that the slot is looked for in.
        match ground.touch.waiting(slot, path) {
            Ok(Object::Absent) | Err(HostError::Io { .. }) => return Ok(slot),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
}
