//! Changes that programs make, forward and back. The executor's one rule holds, with the answer of a question in place of a look.

use std::time::Duration;

use super::{ApplyError, Ground};
use crate::change::{Call, Change, Run, UnitFacts};
use crate::host::{HostError, Job, Ran};
use crate::kind::Phase;
use crate::plan::{Plan, Step};
use crate::report::Progress;
use crate::state::{Open, StateError};
use crate::worker::PROGRAM;

/// What may be ended half-way is for: part of its unit's name.
const STEP: &str = "step";

/// What is done for several at once is apt, which killed half-way is worse than late.
const BATCH: &str = "run";
/// Pause between two looks at what is waited for.
const PAUSE: Duration = Duration::from_secs(1);
/// So often what cannot be taken back is tried while the host boots, after a pause each.
const TRIES_AT_BOOT: usize = 90;

/// The answer of what cannot be asked.
const UNKNOWN: &str = "unknown";

/// A step that a program makes, with its place in the plan.
type Numbered<'p> = (usize, &'p Run);

/// Makes some of the changes, in order; those next to each other that one call can do are done by one.
pub(super) fn run_forward(
    id: u64,
    plan: &Plan,
    is_meant: impl Fn(&Step) -> bool,
    ground: &mut Ground<'_>,
) -> Result<(), ApplyError> {
    for batch in batches(&plan.steps, is_meant) {
        match forward(id, plan, &batch, ground) {
            Err(error @ (ApplyError::Judged(_) | ApplyError::Host(_))) if plan.forgiving => go_on(plan, &error, ground),
            made => made?,
        }
    }
    Ok(())
}

/// Whether some of the changes are about what is still as it was when they were planned.
pub(super) fn is_as_planned_against(
    plan: &Plan,
    is_meant: impl Fn(&Step) -> bool,
    ground: &mut Ground<'_>,
) -> Result<bool, ApplyError> {
    for batch in batches(&plan.steps, is_meant) {
        let answers = ask(&batch, ground)?;
        if batch.iter().zip(&answers).any(|((_, run), answer)| run.before.as_ref().is_some_and(|before| before != answer)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The one rule, forward.
fn forward(id: u64, plan: &Plan, batch: &[Numbered<'_>], ground: &mut Ground<'_>) -> Result<(), ApplyError> {
    let mut todo = Vec::new();
    for (&(number, run), answer) in batch.iter().zip(ask(batch, ground)?) {
        if answer == run.after {
            continue;
        }
        if let Some(before) = run.before.as_ref().filter(|before| **before != answer) {
            return Err(foreign(run, before, &answer).into());
        }
        todo.push((number, run));
    }
    if todo.is_empty() {
        return Ok(());
    }
    let numbers: Vec<usize> = todo.iter().map(|(number, _)| *number).collect();
    ground.state.begin_steps(id, &numbers)?;
    crate::failpoint!("begun");
    let targets = targets(&todo);
    for prepare in todo.iter().filter_map(|(_, run)| run.prepare.as_ref()) {
        let ran = call(&[prepare], ground)?;
        if !ran.ok() {
            ground.state.end_steps(id, &numbers)?;
            return Err(ApplyError::Judged(plan.secrets.conceal(&format!("before {targets}: {}", ran.last_words()))));
        }
        (ground.say)(Progress::Good { text: String::from_utf8_lossy(&ran.stdout).trim_end().to_owned() });
    }
    let calls: Vec<&Call> = todo.iter().map(|(_, run)| &run.forward).collect();
    let ran = call(&calls, ground)?;
    crate::failpoint!("step");
    if !ran.ok() {
        let is_untouched =
            |(&(_, run), answer): (&Numbered<'_>, &String)| run.knows_torn() && run.before.as_ref() == Some(answer);
        // Nobody has anything to read again for what has left all as it was.
        if ask(&todo, ground).is_ok_and(|answers| todo.iter().zip(&answers).all(is_untouched)) {
            ground.state.end_steps(id, &numbers)?;
        }
        return Err(ApplyError::Judged(plan.secrets.conceal(&format!("{targets}: {}", ran.last_words()))));
    }
    for ((_, run), answer) in todo.iter().zip(ask(&todo, ground)?) {
        if run.can_be_asked() && answer != run.after {
            let text = format!("{}: it was done without an error, and is {answer} instead of {}", run.target, run.after);
            return Err(ApplyError::Judged(plan.secrets.conceal(&text)));
        }
    }
    (ground.say)(Progress::Good { text: targets });
    Ok(())
}

/// What a plan that has to go through does not fail for is told.
fn go_on(plan: &Plan, error: &ApplyError, ground: &mut Ground<'_>) {
    let text = plan.secrets.conceal(&format!("going on: {error}"));
    tracing::error!("{text}");
    (ground.say)(Progress::Note { text });
}

/// Takes back what has begun of some phases, last change first. Returns what could not be taken back, and why.
pub(super) fn run_back(
    open: &Open,
    is_meant: impl Fn(Phase) -> bool,
    ground: &mut Ground<'_>,
) -> Result<Vec<String>, StateError> {
    let begun = ground.state.begun(open.id)?;
    let mut tries = TRIES_AT_BOOT;
    let mut remains = Vec::new();
    for batch in batches(&open.plan.steps, |step| is_meant(step.phase)).into_iter().rev() {
        // What is run again for what comes back is left to that.
        let is_due = |(number, run): &Numbered<'_>| begun.contains(number) && run.redo.is_none();
        let batch: Vec<Numbered<'_>> = batch.into_iter().filter(is_due).collect();
        if batch.is_empty() {
            continue;
        }
        let back = back_in_time(&batch, &mut tries, ground);
        crate::failpoint!("step-back");
        match back {
            Err(error) => {
                let remain = |run: &Run| open.plan.secrets.conceal(&format!("{}: {error}", run.target));
                remains.extend(batch.iter().map(|(_, run)| remain(run)));
            }
            Ok(stays) => {
                if let Some(text) = stays {
                    (ground.say)(Progress::Note { text: open.plan.secrets.conceal(&text) });
                }
                let numbers: Vec<usize> = batch.iter().map(|(number, _)| *number).collect();
                ground.state.end_steps(open.id, &numbers)?;
            }
        }
    }
    Ok(remains)
}

/// Once all objects are restored, what programs had made of the others is made of these. Where that fails it is told: the next push, or
/// who watches, does it again.
pub(super) fn run_again(open: &Open, ground: &mut Ground<'_>) -> Result<(), StateError> {
    if ground.touch.is_going_down() {
        return Ok(());
    }
    let begun = ground.state.begun(open.id)?;
    for (number, step) in open.plan.steps.iter().enumerate().filter(|(number, _)| begun.contains(number)) {
        let Change::Run(run) = &step.change else { continue };
        let Some(redo) = &run.redo else { continue };
        let made =
            call(&[redo], ground).and_then(|ran| if ran.ok() { Ok(()) } else { Err(ApplyError::Judged(ran.last_words())) });
        let text = match made {
            Ok(()) => format!("{}: run again for what is restored", run.target),
            Err(error) => format!("{}: what it made of the other revision may still be there: {error}", run.target),
        };
        (ground.say)(Progress::Note { text: open.plan.secrets.conceal(&text) });
        ground.state.end_steps(open.id, &[number])?;
    }
    Ok(())
}

/// Nothing that an earlier life of the daemon has started goes on while it is taken back: it is ended, or where that would leave things
/// worse (apt), waited for. Returns what still goes on.
pub(super) fn end_left_over(ground: &mut Ground<'_>) -> Vec<String> {
    let mut remains = Vec::new();
    let mut left = |pattern: String, ground: &mut Ground<'_>| {
        ground.touch.units_like(&pattern).unwrap_or_else(|error| {
            remains.push(format!("{pattern}: whether one runs cannot be told: {error}"));
            Vec::new()
        })
    };
    let steps = left(format!("reconciled-{STEP}-*.service"), ground);
    let mut batches = left(format!("reconciled-{BATCH}-*.service"), ground);
    for unit in steps {
        let down = UnitFacts { active: Some(false), ..UnitFacts::default() };
        if let Err(error) = ground.touch.set_unit(&unit, &down, None) {
            tracing::warn!("{error}, ignoring");
        }
    }
    // Each has a limit of its own.
    while !batches.is_empty() && !ground.touch.is_going_down() {
        tracing::info!("waiting for {}", batches.join(", "));
        ground.touch.pause(PAUSE);
        batches.retain(|unit| ground.touch.unit(unit).is_ok_and(|seen| !matches!(seen.active.as_str(), "inactive" | "failed")));
    }
    remains
}

/// Takes one back, because a person says so.
pub(super) fn back_now(step: usize, run: &Run, ground: &mut Ground<'_>) -> Result<(), String> {
    backward(&[(step, run)], ground).map(drop).map_err(|error| error.to_string())
}

/// One more try: what was in the way may have been a matter of a moment. While the host boots, its servers may just not be up yet: then so many
/// more, for all of a transaction together. What took too long is not tried again and again.
fn back_in_time(batch: &[Numbered<'_>], tries: &mut usize, ground: &mut Ground<'_>) -> Result<Option<String>, ApplyError> {
    let first = backward(batch, ground).or_else(|_| backward(batch, ground));
    let mut back = first;
    while let Err(error) = &back {
        let has_time = !matches!(error, ApplyError::Host(HostError::Timeout { .. }));
        if *tries == 0 || !has_time || !ground.touch.is_starting() {
            return back;
        }
        *tries -= 1;
        ground.touch.pause(PAUSE);
        back = backward(batch, ground);
    }
    back
}

/// The one rule, backward. What stays of it all the same, in words.
fn backward(batch: &[Numbered<'_>], ground: &mut Ground<'_>) -> Result<Option<String>, ApplyError> {
    let is_back = |(&(_, run), answer): (&Numbered<'_>, &String)| run.knows_torn() && run.before.as_ref() == Some(answer);
    let calls: Option<Vec<&Call>> = batch.iter().map(|(_, run)| run.backward.as_ref()).collect();
    let Some(calls) = calls else {
        // It may have failed before it did anything.
        let answers = ask(batch, ground).unwrap_or_default();
        let is_done = batch.iter().zip(&answers).any(|((_, run), answer)| *answer == run.after);
        let how = match batch.iter().all(|(_, run)| run.can_be_asked()) {
            true if is_done => "done, and nothing takes it back",
            true if batch.iter().all(|(_, run)| run.knows_torn()) => return Ok(None),
            true => "has begun and failed: what it did until then stays, nothing takes it back",
            false => "has run, and nothing takes it back",
        };
        return Ok(Some(format!("{}: {how}", targets(batch))));
    };
    let answers = ask(batch, ground);
    if answers.is_ok_and(|answers| batch.iter().zip(&answers).all(is_back)) {
        return Ok(None);
    }
    let ran = call(&calls, ground)?;
    if ran.result == "timeout" {
        let limit = calls.first().map(|call| call.limit()).unwrap_or_default();
        return Err(HostError::Timeout { what: targets(batch), limit }.into());
    }
    if !ran.ok() {
        return Err(ApplyError::Judged(ran.last_words()));
    }
    for (&(_, run), answer) in batch.iter().zip(ask(batch, ground)?) {
        if let Some(before) = run.before.as_ref().filter(|before| run.can_be_asked() && **before != answer) {
            return Err(foreign(run, before, &answer).into());
        }
    }
    Ok(what_stays(batch, &ran))
}

/// A worker of ours that has taken something back says what stays of it, if not the answer.
fn what_stays(batch: &[Numbered<'_>], ran: &Ran) -> Option<String> {
    let [(_, run)] = batch else { return None };
    let argv = &run.backward.as_ref()?.argv;
    if argv.first().is_none_or(|program| program != PROGRAM) || argv.get(2).is_some_and(|worker| worker == "command") {
        return None;
    }
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    (run.before.as_deref() != Some(last)).then(|| format!("{}: {}", run.target, crate::path::escape(last)))
}

/// Steps that programs make, put together where one call can do them.
fn batches(steps: &[Step], is_meant: impl Fn(&Step) -> bool) -> Vec<Vec<Numbered<'_>>> {
    let mut batches: Vec<Vec<Numbered<'_>>> = Vec::new();
    for (number, step) in steps.iter().enumerate().filter(|(_, step)| is_meant(step)) {
        let Change::Run(run) = &step.change else { continue };
        match batches.last_mut() {
            Some(batch) if batch.last().is_some_and(|(_, last)| last.goes_with(run)) => batch.push((number, run)),
            _ => batches.push(vec![(number, run)]),
        }
    }
    batches
}

fn targets(batch: &[Numbered<'_>]) -> String {
    batch.iter().map(|(_, run)| run.target.as_str()).collect::<Vec<_>>().join(", ")
}

fn foreign(run: &Run, expected: &str, found: &str) -> HostError {
    HostError::Foreign { path: run.target.clone(), expected: expected.to_owned(), found: found.to_owned() }
}

/// The answers of a batch, one for each; where there is no question that is [`UNKNOWN`].
fn ask(batch: &[Numbered<'_>], ground: &mut Ground<'_>) -> Result<Vec<String>, ApplyError> {
    if !batch.iter().all(|(_, run)| run.can_be_asked()) {
        return Ok(batch.iter().map(|_| UNKNOWN.to_owned()).collect());
    }
    let calls: Vec<&Call> = batch.iter().map(|(_, run)| &run.ask).collect();
    let ran = call(&calls, ground)?;
    let Some((_, first)) = batch.first() else { return Ok(Vec::new()) };
    ran.answers(&first.ask, batch.len())
        .ok_or_else(|| ApplyError::Judged(format!("{}: what is there cannot be told: {}", targets(batch), ran.last_words())))
}

/// Runs what calls that go together say, as one.
fn call(calls: &[&Call], ground: &mut Ground<'_>) -> Result<Ran, ApplyError> {
    let Some(first) = calls.first() else {
        return Err(HostError::Unfit("nothing to call".to_owned()).into());
    };
    let input = match &first.input {
        None => Vec::new(),
        Some(digest) => ground
            .state
            .objects()
            .get(digest)?
            .ok_or_else(|| ApplyError::Judged(format!("what {} reads is not in the store any more", first.argv.join(" "))))?,
    };
    let operands = calls.iter().flat_map(|call| call.operands.iter().cloned());
    let purpose = if first.operands.is_empty() { STEP } else { BATCH };
    Ok(ground.touch.run(&Job::of(first, purpose, operands, input), &mut |_| true)?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Ground, Run, ask, call};

    /// Makes one step, as far as it can be made without the steps before it, and the one rule lets it be.
    pub(crate) fn do_one(id: u64, step: usize, run: &Run, ground: &mut Ground<'_>) {
        let is_foreign = |answers: Vec<String>| run.before.as_ref().is_some_and(|before| answers.first() != Some(before));
        if run.can_be_asked() && ask(&[(step, run)], ground).is_ok_and(is_foreign) {
            return;
        }
        ground.state.begin_steps(id, &[step]).unwrap();
        let _ = call(&[&run.forward], ground);
    }
}
