//! The way back: every object as it was, then every unit, then the processes that had read what is no longer there. The
//! same code after a failure, after a crash, and (objects only) in early boot. It goes on where it fails, and says where.

use super::run::{end_left_over, run_again, run_back};
use super::{Ground, Part, drop_planned, foreign, hush, stopped_first};
use crate::change::{Change, Object, UnitFacts, Wake};
use crate::host::{HostResult, Patience, Slot, Touch};
use crate::journal::{Event, Phase as State};
use crate::kind::Phase;
use crate::path::ManagedPath;
use crate::plan::Step;
use crate::report::Progress;
use crate::state::{Held, Open, StateError};
use crate::units;

/// Where everything is gone after a reboot.
const UNTIL_REBOOT: &str = "/run/";

/// Why a transaction is taken back.
#[derive(Clone, Debug)]
pub struct Cause<'a> {
    /// In words.
    pub reason: &'a str,
    /// The revision is at fault: it is held from the moment on at which the undo begins.
    pub hold: Option<&'a Held>,
}

/// How an undo ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// All is where it was.
    Restored,
    /// All objects are; these targets will be when the host is up again, which is going down: no job is taken any more.
    Owed(Vec<String>),
    /// These targets are not, and why.
    Stuck(Vec<String>),
}

/// Takes a transaction back, wherever it stands. May be called again after a crash in the middle of it.
///
/// # Errors
/// The store's; what the host refuses is in the answer instead.
pub fn undo(open: &Open, cause: &Cause<'_>, ground: &mut Ground<'_>) -> Result<Undone, StateError> {
    let state = ground.state.phase_of(open.id)?;
    if state == State::Planned {
        // It never began: its first record found no room.
        if let Err(error) = drop_planned(open.id, &open.staging, ground) {
            tracing::warn!("staging of transaction {}: {error}, ignoring", open.id);
        }
        return Ok(Undone::Restored);
    }
    if state == State::Acting {
        spare(open, ground)?;
    }
    ground.state.begin_undo(open.id, cause.reason, cause.hold)?;
    crate::failpoint!("undoing");
    bring_down(open, ground);
    let mut remains = end_left_over(ground);
    remains.extend(run_back(open, |phase| !phase.is_foundation(), ground)?);
    remains.extend(restore(open, WithManager::Yes, ground));
    ground.state.advance_with(open.id, Event::Restore, &remains)?;
    crate::failpoint!("restored");
    let open = Open { remains, ..open.clone() };
    finish_restored(&open, ground)
}

/// Who would be woken for one step of a program alone goes on as it is when that has not begun, or has left all as it was.
fn spare(open: &Open, ground: &mut Ground<'_>) -> Result<(), StateError> {
    let begun = ground.state.begun(open.id)?;
    let has_begun =
        |target: &str| open.plan.steps.iter().enumerate().any(|(n, s)| begun.contains(&n) && s.change.target() == target);
    for (seq, target) in (0..).zip(&open.plan.only_for) {
        if target.as_ref().is_some_and(|target| !has_begun(target)) {
            ground.state.wake_done(open.id, seq)?;
        }
    }
    Ok(())
}

/// Ends a transaction whose objects are all restored: what programs made and early boot could not take back, units, owed wakes, what all
/// of it stood on, then the end.
///
/// # Errors
/// The store's.
pub fn finish_restored(open: &Open, ground: &mut Ground<'_>) -> Result<Undone, StateError> {
    let mut remains = open.remains.clone();
    if remains.is_empty() {
        remains.extend(end_left_over(ground));
        let begun = ground.state.begun(open.id)?;
        remains.extend(run_back(open, |phase| !phase.is_foundation(), ground)?);
        if open.plan.steps.iter().enumerate().any(|(n, step)| !step.phase.is_foundation() && begun.contains(&n)) {
            // What programs had put there has kept the directories in early boot.
            remains.extend(restore(open, WithManager::Yes, ground));
        }
    }
    run_again(open, ground)?;
    let mut asleep = wake_up(open, ground)?;
    if ground.touch.is_going_down() {
        // It takes no program any more either.
        let begun = ground.state.begun(open.id)?;
        let steps = open.plan.steps.iter().enumerate().filter(|(number, _)| begun.contains(number));
        asleep.extend(steps.map(|(_, step)| step.change.target()));
        if !asleep.is_empty() {
            return Ok(Undone::Owed(asleep));
        }
    }
    if !remains.is_empty() {
        // A program that could not take its own back may have missed a process that only now runs as it did.
        let is_programs =
            |remain: &String| open.plan.steps.iter().any(|step| is_run(&step.change) && speaks_of(remain, &step.change));
        remains.retain(|remain| !is_programs(remain));
        remains.extend(run_back(open, |phase| !phase.is_foundation(), ground)?);
    }
    remains.extend(asleep);
    remains.extend(run_back(open, Phase::is_foundation, ground)?);
    if !remains.is_empty() {
        ground.state.advance_with(open.id, Event::Stick, &remains)?;
        crate::failpoint!("stuck");
        return Ok(Undone::Stuck(remains));
    }
    ground.state.advance(open.id, Event::Close)?;
    crate::failpoint!("closed");
    // What is left over is swept at the next start.
    let _ = ground.touch.sweep(open.id, &open.staging);
    Ok(Undone::Restored)
}

fn is_run(change: &Change) -> bool {
    matches!(change, Change::Run(_))
}

fn speaks_of(remain: &str, change: &Change) -> bool {
    remain.strip_prefix(&change.target()).is_some_and(|rest| rest.starts_with(": "))
}

/// Whether a service manager answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithManager {
    /// As usual.
    Yes,
    /// In early boot, when what is below `/run` is gone.
    No,
}

/// What was not running before stops, and what was not enabled is disabled, as long as its unit file still says how.
fn bring_down(open: &Open, ground: &mut Ground<'_>) {
    for change in units(open) {
        bring_down_unit(change, ground.touch);
    }
}

/// The same for one unit. What fails is tried again, and reported, by [`bring_back_unit`].
pub fn bring_down_unit(change: &Change, touch: &mut dyn Touch) {
    let Change::Unit { unit, before, .. } = change else { return };
    let down = Part::Down.of(before);
    if down != UnitFacts::default() {
        let _ = touch.set_unit(unit, &down, None);
        crate::failpoint!("down");
    }
}

/// Brings a unit whose files are restored to the state that it had, with exactly the links that it had.
///
/// # Errors
/// Those of the host.
pub fn bring_back_unit(change: &Change, patience: Patience, touch: &mut dyn Touch) -> HostResult<()> {
    let Change::Unit { unit, before, .. } = change else { return Ok(()) };
    let state = touch.set_unit(unit, before, patience);
    state.and(links_back(change, touch))
}

/// The plan's changes of units: those that start others first, then the last change first. A socket that listens on while its
/// service stops would start it again.
fn units(open: &Open) -> Vec<&Change> {
    let is_late = |change: &Change| match change {
        Change::Unit { unit, .. } => !units::is_trigger(unit),
        _ => true,
    };
    let mut all: Vec<&Change> =
        open.plan.steps.iter().rev().map(|step| &step.change).filter(|c| matches!(c, Change::Unit { .. })).collect();
    all.sort_by_key(|change| is_late(change));
    all
}

/// Puts every object back, last change first, and makes that durable. Returns what could not be put back, and why.
pub fn restore(open: &Open, manager: WithManager, ground: &mut Ground<'_>) -> Vec<String> {
    let mut remains = Vec::new();
    for (number, step) in open.plan.steps.iter().enumerate().rev() {
        let slot = Slot { transaction: open.id, step: number };
        let taken_back = take_back(slot, &step.change, manager, ground.touch);
        // One more try: what was in the way may have been a matter of a moment.
        if let Err(error) = taken_back.or_else(|_| take_back(slot, &step.change, manager, ground.touch)) {
            let kept = keep_before(slot, step, ground);
            remains.push(format!("{}: {error}{kept}", step.change.target()));
        }
        crate::failpoint!("step-back");
    }
    let paths: Vec<&ManagedPath> = open.plan.steps.iter().filter_map(|s| s.change.path()).collect();
    let synced = ground.touch.sync_parents(&paths).and_then(|()| ground.touch.sync(open.id, &open.staging));
    if let Err(error) = synced {
        remains.push(format!("sync: {error}"));
    }
    remains
}

/// The one rule, backward.
fn take_back(slot: Slot, change: &Change, manager: WithManager, touch: &mut dyn Touch) -> HostResult<()> {
    backward(slot, change, manager, touch).map_err(|error| hush(change, error))
}

fn backward(slot: Slot, change: &Change, manager: WithManager, touch: &mut dyn Touch) -> HostResult<()> {
    match change {
        Change::Entry { path, before, after, .. } => {
            let live = touch.object(path)?.object;
            let gone_with_the_boot =
                manager == WithManager::No && live == Object::Absent && path.as_str().starts_with(UNTIL_REBOOT);
            if live == *before || gone_with_the_boot {
                return Ok(());
            }
            // Ours still waits, so it never went live (or is back already): what stands there is not our doing, and stays.
            if touch.waiting(slot, path).is_ok_and(|waiting| waiting == *after) {
                return Ok(());
            }
            if live != *after {
                return Err(foreign(path.as_str(), after, &live));
            }
            touch.swap(slot, path, after, before)
        }
        Change::Dir { path, before, after } => {
            let live = touch.directory(path)?;
            let wanted = match (live, before, after) {
                (Some(live), Some(before), Some(after)) => Some(live.taken_back(before, after)),
                _ => *before,
            };
            if live == wanted { Ok(()) } else { touch.set_directory(path, wanted) }
        }
        Change::Unit { .. } => links_back(change, touch),
        Change::Run(_) => Ok(()),
    }
}

/// Gives a unit the links that it had, before PID 1 reads them together with the restored files.
pub(super) fn links_back(change: &Change, touch: &mut dyn Touch) -> HostResult<()> {
    match change {
        Change::Unit { unit, before, after } if has_links(after) => touch.restore_links(unit, &before.links),
        _ => Ok(()),
    }
}

/// Whether a change of these fields is one of links below `/etc/systemd/system`.
fn has_links(facts: &UnitFacts) -> bool {
    facts.enabled.is_some() || facts.masked.is_some()
}

/// What cannot be put back is at least not lost with the staging directory; says where it is.
fn keep_before(slot: Slot, step: &Step, ground: &mut Ground<'_>) -> String {
    let Change::Entry { path, after, .. } = &step.change else { return String::new() };
    match ground.touch.staged(slot, path) {
        Ok((waiting @ Object::File(_), _)) if waiting == *after => String::new(),
        Ok((Object::File(facts), content)) => {
            let objects = ground.state.objects();
            match objects.put(&facts.digest, &content).and_then(|()| objects.sync()) {
                Ok(()) => format!("; what stood there before is kept: reconcilectl resolve {path} --restore brings it back"),
                Err(error) => format!("; what stood there before could not be kept outside staging: {error}"),
            }
        }
        _ => String::new(),
    }
}

/// The manager reads the restored unit files, units get back the state that they had, and what had read the other
/// configuration reads this one. Returns what failed, and why.
fn wake_up(open: &Open, ground: &mut Ground<'_>) -> Result<Vec<String>, StateError> {
    let mut failed = Vec::new();
    let (first, others): (Vec<_>, Vec<_>) = ground.state.owed(open.id)?.into_iter().partition(|(_, wake)| wake.is_before_units());
    for unit in others.iter().filter_map(|(_, wake)| stopped_first(wake)) {
        // What fails is tried again, and reported, by the wake itself.
        let _ = ground.touch.set_unit(unit, &UnitFacts { active: Some(false), ..UnitFacts::default() }, open.plan.patience(unit));
        crate::failpoint!("down");
    }
    for (seq, wake) in first {
        wake_again(open, seq, &wake, ground, &mut failed)?;
    }
    // Sockets, timers and paths before what they start: a socket cannot listen once its service runs.
    let is_trigger = |unit: Option<&str>| unit.is_some_and(units::is_trigger);
    for early in [true, false] {
        for change in units(open).into_iter().filter(|change| is_trigger(change.unit()) == early) {
            unit_again(open, change, ground, &mut failed);
            crate::failpoint!("unit-back");
        }
        for (seq, wake) in others.iter().filter(|(_, wake)| is_trigger(wake.unit()) == early) {
            wake_again(open, *seq, wake, ground, &mut failed)?;
        }
    }
    bystanders_again(open, ground, &mut failed);
    Ok(failed)
}

/// What ran before and stopped with a unit that was restarted, or because of one that was started, runs again.
fn bystanders_again(open: &Open, ground: &mut Ground<'_>, failed: &mut Vec<String>) {
    let mut stopped: Vec<&String> = Vec::new();
    for unit in open.plan.bystanders.keys() {
        if ground.touch.unit(unit).is_ok_and(|seen| seen.active == "inactive") {
            stopped.push(unit);
        }
    }
    stopped.sort_by_key(|unit| !units::is_trigger(unit));
    for unit in stopped {
        let up = UnitFacts { active: Some(true), ..UnitFacts::default() };
        if let Err(error) = ground.touch.set_unit(unit, &up, open.plan.patience(unit)) {
            failed.push(open.plan.secrets.conceal(&format!("unit:{unit}: {error}")));
        }
    }
}

fn unit_again(open: &Open, change: &Change, ground: &mut Ground<'_>, failed: &mut Vec<String>) {
    let touch = &mut *ground.touch;
    // One more try: a unit may have been in the way of another.
    let patience = change.unit().and_then(|unit| open.plan.patience(unit));
    let back = bring_back_unit(change, patience, touch).or_else(|_| bring_back_unit(change, patience, touch));
    if let Err(error) = back
        && !was_ailing(open, change.unit())
    {
        failed.push(open.plan.secrets.conceal(&format!("{}: {error}", change.target())));
    }
}

fn wake_again(open: &Open, seq: u64, wake: &Wake, ground: &mut Ground<'_>, failed: &mut Vec<String>) -> Result<(), StateError> {
    // One more try, and where a reload does not do it, a restart has to: the process must not keep what is not there any more.
    let patience = wake.unit().and_then(|unit| open.plan.patience(unit));
    let result = ground.touch.wake(wake, patience).or_else(|error| match wake {
        Wake::Reload { unit, .. } => ground.touch.wake(&Wake::Restart { unit: unit.clone() }, patience).map_err(|_| error),
        _ => ground.touch.wake(wake, patience),
    });
    crate::failpoint!("waking-back");
    match result {
        Err(error) if !was_ailing(open, wake.unit()) => {
            failed.push(open.plan.secrets.conceal(&format!("{}: {error}", wake.target())));
        }
        result => {
            if result.is_ok() {
                (ground.say)(Progress::Good { text: wake.to_string() });
            }
            ground.state.wake_done(open.id, seq)?;
        }
    }
    crate::failpoint!("woken-back");
    Ok(())
}

/// A unit that was failing before the plan may fail again when it is put back: that is where it was.
fn was_ailing(open: &Open, unit: Option<&str>) -> bool {
    unit.is_some_and(|unit| open.plan.ailing.iter().any(|ailing| ailing == unit))
}
