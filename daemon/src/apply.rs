//! The executor: carries a plan out, and (`undo`) takes it back. Nothing else changes the host through `Touch`; it knows no kinds.
//!
//! Its one rule: live == after → skip; live == before → do; anything else → foreign, stop. Apply, undo and crash recovery
//! are all this rule.

mod force;
mod foundation;
mod run;
mod settle;
mod undo;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::change::{Change, DirFacts, Object, Reversibility, UnitFacts, Wake};
use crate::guard::{GuardCall, When};
use crate::host::{HostError, HostResult, Job, Sandbox, Slot, Surroundings, Touch};
use crate::journal::Event;
use crate::kind::Phase;
use crate::path::ManagedPath;
use crate::plan::{Plan, Step};
use crate::rehearse::Rehearsed;
use crate::report::Progress;
use crate::state::{Commitment, State, StateError};
use crate::units;

pub use force::force_back;
pub use foundation::{Founded, found};
pub use undo::{Cause, Undone, WithManager, bring_back_unit, bring_down_unit, finish_restored, restore, undo};

/// Limit of one guard in place.
const GUARD_LIMIT: Duration = Duration::from_secs(60);
/// Most output of a guard that is kept, in bytes.
const GUARD_OUTPUT: usize = 256 * 1024;

/// What the executor works with.
pub struct Ground<'a> {
    /// The hands.
    pub touch: &'a mut dyn Touch,
    /// The store.
    pub state: &'a mut State,
    /// Who is told.
    pub say: &'a mut dyn FnMut(Progress),
}

impl std::fmt::Debug for Ground<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ground")
    }
}

/// Why a plan was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The store.
    #[error(transparent)]
    State(#[from] StateError),
    /// A guard in place, or a unit after it had settled.
    #[error("{0}")]
    Judged(String),
}

/// A plan of which nothing live was touched yet: staged and durable.
#[derive(Debug)]
pub struct Staged {
    id: u64,
    plan: Plan,
    staging: Vec<PathBuf>,
    /// The transaction is `acting` already: it stands on a foundation.
    acting: bool,
}

/// A plan whose changes and wakes are all done; it waits for its probes.
#[derive(Debug)]
pub struct Applied {
    id: u64,
    plan: Plan,
    staging: Vec<PathBuf>,
}

/// A plan that could not be carried out to its end.
#[derive(Debug)]
pub struct Failed {
    /// The first failure.
    pub error: ApplyError,
    /// What has to be undone.
    pub staged: Staged,
}

/// What a commit settles beside the plan.
#[derive(Debug, Default)]
pub struct Terms {
    /// Revisions that are held from then on.
    pub hold: Vec<crate::state::Held>,
    /// What the new generation has to be confirmed for.
    pub lifelines: Vec<String>,
    /// It is what a generation that nobody confirmed goes back to.
    pub ends_waiting: bool,
}

impl Staged {
    /// The transaction's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What undo needs.
    #[must_use]
    pub fn into_parts(self) -> (u64, Plan, Vec<PathBuf>) {
        (self.id, self.plan, self.staging)
    }
}

impl Applied {
    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What undo needs.
    #[must_use]
    pub fn into_parts(self) -> (u64, Plan, Vec<PathBuf>) {
        (self.id, self.plan, self.staging)
    }

    /// Makes what nothing takes back, now that all else is known to stay, and what could still fail has been done.
    ///
    /// # Errors
    /// The first failure; all else can still be taken back.
    pub fn finish(&mut self, ground: &mut Ground<'_>) -> Result<(), ApplyError> {
        for (target, displaced) in self.archive(ground)? {
            if let Some(Change::Entry { before, .. }) = self.plan.claimed.get_mut(&target) {
                *before = displaced;
            }
        }
        crate::failpoint!("archived");
        run::run_forward(self.id, &self.plan, is_final, ground)
    }

    /// Commits: from here on the new generation is the truth. Returns its number.
    ///
    /// # Errors
    /// The store's, or those of reading what was displaced; the transaction is then still `acting`.
    pub fn commit(&mut self, ground: &mut Ground<'_>, at: &str, terms: &Terms) -> Result<u64, ApplyError> {
        self.plan.manifest.stays = self.stays(ground)?;
        let Terms { hold, lifelines, ends_waiting } = terms;
        let commitment = Commitment { id: self.id, plan: &self.plan, at, hold, lifelines, ends_waiting: *ends_waiting };
        let number = ground.state.commit(&commitment)?;
        crate::failpoint!("committed");
        // What is left over is swept at the next start.
        let _ = ground.touch.sweep(self.id, &self.staging);
        Ok(number)
    }

    /// Keeps what was displaced: it may have to be given back, and a record may show it. Returns what is not as it was when
    /// it was planned against: a program may have had it open and written to it since the swap.
    fn archive(&self, ground: &mut Ground<'_>) -> Result<Vec<(String, Object)>, ApplyError> {
        let (mut any, mut written_to) = (false, Vec::new());
        for (step, target, path, before) in displaced(&self.plan) {
            let (now, content) = ground.touch.staged(Slot { transaction: self.id, step }, path)?;
            let Object::File(facts) = &now else { continue };
            if !ground.state.objects().has(&facts.digest) {
                ground.state.objects().put(&facts.digest, &content)?;
                any = true;
            }
            if facts != before {
                written_to.push((target, now));
            }
        }
        if any {
            ground.state.objects().sync()?;
        }
        Ok(written_to)
    }
}

impl Applied {
    /// What has been done, and nothing takes back.
    fn stays(&self, ground: &Ground<'_>) -> Result<BTreeSet<String>, ApplyError> {
        let begun = ground.state.begun(self.id)?;
        let steps = self.plan.steps.iter().enumerate().filter(|(number, _)| begun.contains(number)).map(|(_, step)| step);
        Ok(steps.filter(|step| step.change.reversibility() == Reversibility::None).map(|step| step.change.target()).collect())
    }
}

fn displaced(plan: &Plan) -> impl Iterator<Item = (usize, String, &ManagedPath, &crate::change::FileFacts)> {
    plan.steps.iter().enumerate().filter_map(|(i, step)| match &step.change {
        Change::Entry { path, before: Object::File(facts), .. } => Some((i, step.change.target(), path, facts)),
        _ => None,
    })
}

/// Stages every new object beside its target and makes all of it durable. Touches nothing live; on failure nothing is left.
///
/// # Errors
/// The host's or the store's: a full disk is found here.
pub fn stage(rehearsed: Rehearsed, ground: &mut Ground<'_>) -> Result<Staged, ApplyError> {
    let plan = rehearsed.into_plan();
    let staging = staging_places(&plan, ground.touch)?;
    let id = ground.state.begin(&plan, &staging)?;
    crate::failpoint!("planned");
    match stage_all(id, &plan, &staging, ground) {
        Ok(()) => {
            crate::failpoint!("staged");
            Ok(Staged { id, plan, staging, acting: false })
        }
        Err(error) => {
            drop_planned(id, &staging, ground)?;
            Err(error)
        }
    }
}

/// Ends a transaction that has touched nothing live.
///
/// # Errors
/// The host's or the store's.
pub fn drop_planned(id: u64, staging: &[PathBuf], ground: &mut Ground<'_>) -> Result<(), ApplyError> {
    ground.touch.sweep(id, staging)?;
    ground.state.advance(id, Event::Drop)?;
    Ok(())
}

fn staging_places(plan: &Plan, touch: &dyn Touch) -> HostResult<Vec<PathBuf>> {
    let mut places = BTreeSet::new();
    for step in &plan.steps {
        if let Change::Entry { path, .. } = &step.change {
            places.insert(touch.staging_of(path)?);
        }
    }
    Ok(places.into_iter().collect())
}

fn stage_all(id: u64, plan: &Plan, staging: &[PathBuf], ground: &mut Ground<'_>) -> Result<(), ApplyError> {
    for (digest, content) in &plan.manifest.contents {
        ground.state.objects().put(digest, content)?;
    }
    for (step, s) in plan.steps.iter().enumerate() {
        let Change::Entry { path, after, .. } = &s.change else { continue };
        let content = match after {
            Object::File(facts) => match plan.manifest.contents.get(&facts.digest) {
                Some(content) => content.clone(),
                None => ground.state.objects().get(&facts.digest)?.ok_or_else(|| {
                    ApplyError::Judged(format!("{path}: the content {} is in no generation any more", facts.digest.short()))
                })?,
            },
            _ => Vec::new(),
        };
        ground.touch.stage(Slot { transaction: id, step }, path, after, &content)?;
    }
    ground.state.objects().sync()?;
    ground.touch.sync(id, staging)?;
    Ok(())
}

/// Carries the plan out: changes, guards in place, wakes, settling. The journal says `acting` from before the first change;
/// `on_acting` runs right after that.
///
/// # Errors
/// The first failure, with what has to be undone.
pub fn apply(
    staged: Staged,
    ground: &mut Ground<'_>,
    on_acting: &mut dyn FnMut(&Plan) -> Result<(), ApplyError>,
) -> Result<Applied, Box<Failed>> {
    let result = (|| {
        if !cfg!(feature = "planted-late-journal") {
            begin(&staged, ground)?;
            on_acting(&staged.plan)?;
            crate::failpoint!("recorded");
        }
        act(&staged, ground)?;
        if cfg!(feature = "planted-late-journal") {
            begin(&staged, ground)?;
        }
        wake_and_start(&staged, ground)?;
        run::run_forward(staged.id, &staged.plan, |step| step.phase == Phase::Firewall, ground)?;
        if !staged.plan.forgiving {
            settle::settle(&staged.plan, ground)?;
            settle::stand_by(&staged.plan, ground)?;
        }
        crate::failpoint!("settled");
        Ok(())
    })();
    match result {
        Ok(()) => Ok(Applied { id: staged.id, plan: staged.plan, staging: staged.staging }),
        Err(error) => Err(Box::new(Failed { error, staged })),
    }
}

/// From here on the transaction has to be taken back.
fn begin(staged: &Staged, ground: &mut Ground<'_>) -> Result<(), StateError> {
    if !staged.acting {
        ground.state.advance(staged.id, Event::Act)?;
        crate::failpoint!("acting");
    }
    Ok(())
}

/// What commands and units build upon.
fn is_early(step: &Step) -> bool {
    matches!(step.phase, Phase::Files | Phase::Databases | Phase::Environments)
}

/// What nothing takes back, as data that is dropped: only once all else is known to stay.
fn is_final(step: &Step) -> bool {
    is_early(step) && step.change.reversibility() == Reversibility::None
}

/// Makes the changes: what stops, stops while its unit file still says how; then all objects; then what PID 1 has to read.
fn act(staged: &Staged, ground: &mut Ground<'_>) -> Result<(), ApplyError> {
    let plan = &staged.plan;
    set_units(plan, Part::Down, |_| true, ground)?;
    for (step, s) in plan.steps.iter().enumerate().filter(|(_, s)| s.change.path().is_some()) {
        make(Slot { transaction: staged.id, step }, &s.change, ground.touch)?;
        crate::failpoint!("step");
    }
    run::run_forward(staged.id, plan, |step| is_early(step) && !is_final(step), ground)?;
    in_place(staged, ground)?;
    run::run_forward(staged.id, plan, |step| step.phase == Phase::Commands, ground)?;
    set_units(plan, Part::Links, |_| true, ground)?;
    for unit in plan.wakes.iter().filter_map(stopped_first) {
        let down = ground.touch.set_unit(unit, &UnitFacts { active: Some(false), ..UnitFacts::default() }, plan.patience(unit));
        forgive(plan, down, ground)?;
        crate::failpoint!("step");
    }
    for wake in plan.wakes.iter().filter(|wake| wake.is_before_units()) {
        let woken = ground.touch.wake(wake, None);
        let is_good = woken.is_ok();
        forgive(plan, woken, ground)?;
        if is_good {
            (ground.say)(Progress::Good { text: wake.to_string() });
        }
    }
    crate::failpoint!("reloaded");
    Ok(())
}

/// All objects are live: make the renames durable and judge them where they stand, before the first unit is touched by them.
fn in_place(staged: &Staged, ground: &mut Ground<'_>) -> Result<(), ApplyError> {
    let paths: Vec<&ManagedPath> = staged.plan.steps.iter().filter_map(|s| s.change.path()).collect();
    if paths.is_empty() {
        return Ok(());
    }
    ground.touch.sync_parents(&paths)?;
    ground.touch.sync(staged.id, &staged.staging)?;
    crate::failpoint!("synced");
    for guard in &staged.plan.guards {
        check_in_place(guard, &staged.plan, ground)?;
    }
    crate::failpoint!("guarded");
    Ok(())
}

/// A part of the changes of units; they are made at different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Stopped, disabled: before the files go.
    Down,
    /// Enabled, masked, unmasked: before PID 1 reads all of it at once.
    Links,
    /// Started: when all else is in place.
    Up,
}

impl Part {
    fn of(self, facts: &UnitFacts) -> UnitFacts {
        let only = |field: Option<bool>, value: bool| field.filter(|on| *on == value);
        let (enabled, masked, active) = match self {
            Self::Down => (only(facts.enabled, false), None, only(facts.active, false)),
            Self::Links => (only(facts.enabled, true), facts.masked, None),
            Self::Up => (None, None, only(facts.active, true)),
        };
        UnitFacts { enabled, masked, active, anew: facts.anew && self == Self::Links, links: Vec::new() }
    }
}

/// Makes one part of the changes of units, of what starts others before the others.
fn set_units(plan: &Plan, part: Part, is_meant: impl Fn(&str) -> bool, ground: &mut Ground<'_>) -> Result<(), ApplyError> {
    let mut units: Vec<(&str, UnitFacts)> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.change {
            Change::Unit { unit, after, .. } if is_meant(unit) => Some((unit.as_str(), part.of(after))),
            _ => None,
        })
        .filter(|(_, facts)| *facts != UnitFacts::default())
        .collect();
    units.sort_by_key(|(unit, _)| !units::is_trigger(unit));
    for (unit, facts) in units {
        let made = ground.touch.set_unit(unit, &facts, plan.patience(unit));
        forgive(plan, made, ground)?;
        crate::failpoint!("step");
    }
    Ok(())
}

/// What a plan that has to go through does not fail for is told.
fn forgive(plan: &Plan, made: HostResult<()>, ground: &mut Ground<'_>) -> HostResult<()> {
    match made {
        Err(error) if plan.forgiving => {
            let text = plan.secrets.conceal(&format!("going on: {error}"));
            tracing::error!("{text}");
            (ground.say)(Progress::Note { text });
            Ok(())
        }
        made => made,
    }
}

/// The unit that a wake stops before PID 1 reads its files.
fn stopped_first(wake: &Wake) -> Option<&str> {
    match wake {
        Wake::StopStart { unit } => Some(unit),
        _ => None,
    }
}

fn check_in_place(guard: &GuardCall, plan: &Plan, ground: &mut Ground<'_>) -> Result<(), ApplyError> {
    if guard.when == When::Rehearsal {
        return Ok(());
    }
    let job = Job {
        purpose: "guard",
        argv: guard.argv.clone(),
        input: Vec::new(),
        sandbox: Sandbox::Live { user: guard.user.clone(), surroundings: Surroundings::default() },
        limit: GUARD_LIMIT,
        output_limit: GUARD_OUTPUT,
        keeps_tail: false,
    };
    let ran = ground.touch.run(&job, &mut |_| true)?;
    if guard.passes(&ran) || guard.tolerates(&ran) {
        if guard.when == When::InPlace {
            (ground.say)(Progress::Good { text: format!("guard {}: {}", guard.name, guard.shown()) });
        }
        return Ok(());
    }
    let said: Vec<String> = guard.findings(&ran).into_iter().take(20).map(|line| plan.secrets.conceal(&line)).collect();
    Err(ApplyError::Judged(format!("guard {} failed in place: {}", guard.name, said.join("\n"))))
}

/// The one rule, forward.
fn make(slot: Slot, change: &Change, touch: &mut dyn Touch) -> HostResult<()> {
    forward(slot, change, touch).map_err(|error| hush(change, error))
}

/// Of a secret nothing is told by which its content could be guessed.
fn hush(change: &Change, error: HostError) -> HostError {
    match error {
        HostError::Foreign { path, .. } if change.is_secret() => {
            HostError::Foreign { path, expected: "the secret file of the plan".to_owned(), found: "something else".to_owned() }
        }
        error => error,
    }
}

fn forward(slot: Slot, change: &Change, touch: &mut dyn Touch) -> HostResult<()> {
    match change {
        Change::Entry { path, before, after, .. } => {
            let live = touch.object(path)?.object;
            if live == *after {
                return Ok(());
            }
            if live != *before {
                return Err(foreign(path.as_str(), before, &live));
            }
            #[cfg(all(feature = "planted-in-place-write", not(test)))]
            if let (Object::File(old), Object::File(new)) = (before, after)
                && old.mode == new.mode
            {
                return write_in_place(slot, path, touch);
            }
            touch.swap(slot, path, before, after)
        }
        Change::Dir { path, before, after } => {
            let live = touch.directory(path)?;
            match (live, before) {
                _ if live == *after => Ok(()),
                _ if live == *before => touch.set_directory(path, *after),
                // Each field at before or after is ours: a half-done change of metadata.
                (Some(live), Some(before)) if after.is_some_and(|after| live.is_between(before, &after)) => {
                    touch.set_directory(path, *after)
                }
                _ => Err(HostError::Foreign { path: path.to_string(), expected: in_words(*before), found: in_words(live) }),
            }
        }
        Change::Unit { .. } | Change::Run(_) => Ok(()),
    }
}

/// The mistake that the crash tests have to catch: the live file is rewritten instead of swapped. It writes past `Touch`, to
/// the machine that it runs on: never in unit tests.
#[cfg(all(feature = "planted-in-place-write", not(test)))]
fn write_in_place(slot: Slot, path: &ManagedPath, touch: &mut dyn Touch) -> HostResult<()> {
    use std::io::Write as _;
    let (_, content) = touch.staged(slot, path)?;
    let fail = |source| HostError::Io { what: "planted".to_owned(), source };
    let mut file = std::fs::File::create(path.as_path()).map_err(fail)?;
    for half in content.chunks(content.len().div_ceil(2).max(1)) {
        file.write_all(half).map_err(fail)?;
        crate::failpoint!("step");
    }
    Ok(())
}

fn in_words(directory: Option<DirFacts>) -> String {
    directory.map_or_else(|| "no directory".to_owned(), |facts| facts.to_string())
}

fn foreign(path: &str, expected: &Object, found: &Object) -> HostError {
    HostError::Foreign { path: path.to_owned(), expected: expected.to_string(), found: found.to_string() }
}

/// Reloads, restarts, starts; of sockets, timers and paths before what they start, so that a service finds its socket open.
fn wake_and_start(staged: &Staged, ground: &mut Ground<'_>) -> Result<(), ApplyError> {
    let plan = &staged.plan;
    let is_early = |wake: &Wake| !wake.starts() || wake.unit().is_some_and(units::is_trigger);
    for early in [true, false] {
        carry_out_wakes(staged, |wake| is_early(wake) == early, ground)?;
        set_units(plan, Part::Up, |unit| units::is_trigger(unit) == early, ground)?;
    }
    Ok(())
}

/// Going forward no wake is recorded as done: until `committed` all of them are owed to the state that would come back.
fn carry_out_wakes(staged: &Staged, is_meant: impl Fn(&Wake) -> bool, ground: &mut Ground<'_>) -> Result<(), ApplyError> {
    for (seq, wake) in (0..).zip(&staged.plan.wakes).filter(|(_, wake)| !wake.is_before_units() && is_meant(wake)) {
        let woken = ground.touch.wake(wake, wake.unit().and_then(|unit| staged.plan.patience(unit)));
        forgive(&staged.plan, woken, ground)?;
        (ground.say)(Progress::Good { text: wake.to_string() });
        if cfg!(feature = "planted-forgotten-wake") {
            ground.state.wake_done(staged.id, seq)?;
        }
        crate::failpoint!("woken");
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::make as make_step;
    use crate::change::Change;
    use crate::cycle::tests::Rig;
    use crate::host::{HostResult, Slot};

    /// Makes one step of a transaction, as the executor would.
    pub(crate) fn make(rig: &mut Rig, transaction: u64, step: usize, change: &Change) -> HostResult<()> {
        match change {
            Change::Unit { unit, after, .. } => return rig.engine.host.set_unit(unit, after, None),
            Change::Run(run) => {
                let engine = &mut rig.engine;
                let mut ground = super::Ground { touch: &mut *engine.host, state: &mut engine.state, say: &mut |_| {} };
                super::run::tests::do_one(transaction, step, run, &mut ground);
                return Ok(());
            }
            _ => {}
        }
        make_step(Slot { transaction, step }, change, &mut *rig.engine.host)
    }
}
