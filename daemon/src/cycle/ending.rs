//! How a pass ends: refused, rolled back, stuck, or live; what is recorded and held for it.

use std::path::PathBuf;

use super::{Engine, FACTS, Order, Pass};
use crate::apply::{self, ApplyError, Cause, Ground, Terms, Undone};
use crate::audit::{AuditLog, ChangeRecord, Event, NewRecord, Stamp, UtcTime};
use crate::digest::Digest;
use crate::guard::Judgement;
use crate::host::HostError;
use crate::journal::Phase;
use crate::manifest::Diagnostic;
use crate::plan::{Intent, Plan};
use crate::probe::{self, Verdict as Probed};
use crate::rehearse::RehearseError;
use crate::report::{Progress, Report, Verdict};
use crate::source::{self, MAIN, Snapshot, SourceError};
use crate::state::{Generation, Held, Open, State, StateError};

/// The longest pause between two tries of a repair that fails, in looks: an hour with the default `look_interval`.
const LONGEST_PAUSE: u32 = 12;

/// A repair that failed: it is tried again after a pause that doubles, counted in looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    plan: Digest,
    tries: u32,
    pause: u32,
}

impl Failing {
    /// The state after one more failure of this plan.
    fn after(earlier: Option<Self>, plan: Digest) -> Self {
        let tries = earlier.filter(|e| e.plan == plan).map_or(1, |e| e.tries.saturating_add(1));
        Self { plan, tries, pause: 2_u32.saturating_pow(tries).saturating_sub(1).min(LONGEST_PAUSE) }
    }
}

/// Why a pass stopped.
#[derive(Debug)]
pub struct Stop {
    verdict: Verdict,
    reason: String,
    /// The revision's own fault: it is held.
    hold: bool,
    /// The record is written already, with more in it than is known here.
    recorded: bool,
    /// The guard that rejected it.
    judgement: Option<Judgement>,
}

impl Stop {
    fn new(verdict: Verdict, reason: impl Into<String>) -> Self {
        Self { verdict, reason: reason.into(), hold: false, recorded: false, judgement: None }
    }

    /// The report of a stop outside of a pass.
    pub(super) fn into_report(self) -> Report {
        Report::short(self.verdict, &self.reason)
    }

    /// The revision is at fault; nothing was touched.
    pub(super) fn refused(reason: impl Into<String>) -> Self {
        Self { hold: true, ..Self::new(Verdict::Refused, reason) }
    }

    /// The order is at fault, not the revision.
    pub(super) fn usage(reason: impl Into<String>) -> Self {
        Self::new(Verdict::Refused, reason)
    }

    /// Neither is at fault: what is in the way passes.
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self::new(Verdict::Refused, reason)
    }

    pub(super) fn denied(reasons: &[String]) -> Self {
        Self::new(Verdict::Refused, format!("policy: {}", reasons.join("; ")))
    }

    pub(super) fn invalid(mistakes: &[Diagnostic], snapshot: &Snapshot) -> Self {
        let source = |d: &Diagnostic| match snapshot.entries.get(&d.file) {
            Some(source::SourceEntry::File { content, .. }) => std::str::from_utf8(content).ok(),
            _ => None,
        };
        // The first line is what git shows beside the ref and what `status` shows: it has to be enough to mend the mistake.
        let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
        let more = match mistakes.len() {
            0 | 1 => String::new(),
            all => format!(" (and {} more)", all - 1),
        };
        let shown: Vec<String> = mistakes.iter().map(|d| d.render(source(d), false)).collect();
        Self::refused(format!("{first}{more}\n{}", shown.join("\n")))
    }

    /// A failure before anything live was touched: a full disk, a place that rename cannot reach.
    pub(super) fn before_live(error: &ApplyError) -> Self {
        let verdict = if matches!(error, ApplyError::Host(HostError::Unfit(_))) { Verdict::Refused } else { Verdict::Failed };
        Self::new(verdict, error.to_string())
    }
}

/// Why a transaction is taken back.
#[derive(Debug)]
pub(super) struct Failure {
    /// In words.
    pub reason: String,
    /// The revision is held for it.
    pub at_fault: bool,
    /// Whoever follows has heard of it already: of a red probe.
    pub is_told: bool,
}

impl Failure {
    /// Somebody else's edit in the middle is no reason to hold the revision: the next look sees it. Anything else is, be it a
    /// worn disk: what failed once half-way is not tried again and again.
    pub(super) fn of(error: &ApplyError) -> Self {
        let at_fault = !matches!(error, ApplyError::Host(HostError::Foreign { .. }));
        Self { reason: error.to_string(), at_fault, is_told: false }
    }

    /// What stands on a foundation that is laid already could not be planned, or did not pass its rehearsal.
    pub(super) fn of_stop(stop: Stop) -> Self {
        Self { reason: stop.reason, at_fault: stop.hold, is_told: false }
    }
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Self {
        Self::new(Verdict::Failed, error.to_string())
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::new(Verdict::Failed, format!("audit log: {error}"))
    }
}

impl From<HostError> for Stop {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Unfit(why) => Self::refused(why),
            other => Self::new(Verdict::Failed, other.to_string()),
        }
    }
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Refused(why) => Self::refused(why),
            SourceError::Host(error) => Self::new(Verdict::Failed, error.to_string()),
        }
    }
}

impl From<RehearseError> for Stop {
    fn from(error: RehearseError) -> Self {
        match error {
            RehearseError::Host(error) => Self::new(Verdict::Failed, error.to_string()),
            RehearseError::Rejected { guard, findings, passing } => {
                let text = findings.join("\n");
                let mut reason = format!("guard {guard}: {text}");
                if passing {
                    reason.push_str("\nthis may pass by itself: the revision is not held, push it again");
                }
                let judgement = Some(Judgement { name: guard, passed: false, text });
                Self { judgement, hold: !passing, ..Self::refused(reason) }
            }
        }
    }
}

impl Engine {
    /// Records a stop and holds the revision where it is at fault.
    pub(super) fn stopped(&mut self, order: &Order, stop: Stop, pass: &Pass) -> Report {
        let generation = self.state.live().ok().flatten().map(|g| g.number);
        if !stop.recorded && !self.is_known_refusal(order, &stop) {
            let mut record = pass.record.clone();
            if stop.verdict == Verdict::Stuck {
                record.event = Event::Stuck;
            }
            record.generation = generation;
            record.guards.extend(stop.judgement);
            (record.reason, record.details) = first_line(&stop.reason);
            self.record(record);
        }
        if let (true, Order::Deploy { commit, actor, .. }) = (stop.hold, order)
            && actor != FACTS
        {
            self.hold(commit, &stop.reason);
        }
        if stop.verdict != Verdict::Refused {
            tracing::error!(verdict = ?stop.verdict, actor = order.actor(), "{}", stop.reason);
        }
        let commit = order.commit().map(str::to_owned);
        Report { verdict: stop.verdict, commit, generation, reason: stop.reason, stages: Vec::new(), audit_head: None }
    }

    /// What a timer asks for again and again is refused on record once.
    fn is_known_refusal(&mut self, order: &Order, stop: &Stop) -> bool {
        if !matches!(order, Order::Repair { insist: false, .. }) && !order.actor().starts_with("pull:") {
            return false;
        }
        let refusal = Digest::of(format!("{:?} {}", order.commit(), stop.reason).as_bytes());
        self.refused.insert(order.actor().to_owned(), refusal) == Some(refusal)
    }

    /// Refuses an order before its pass begins, on record: while paused, while stuck.
    pub fn turn_away(&mut self, order: &Order, verdict: Verdict, reason: &str) -> Report {
        let stop = Stop { recorded: matches!(order, Order::Repair { insist: false, .. }), ..Stop::new(verdict, reason) };
        self.stopped(order, stop, &Pass::start(order))
    }

    fn hold(&mut self, commit: &str, reason: &str) {
        if let Err(error) = self.state.hold(&held_now(commit, reason)) {
            tracing::error!("{commit} could not be held: {error}");
        }
    }

    /// Writes a record and notes the new head where a cut log shows.
    pub fn record(&mut self, record: NewRecord) {
        if let Err(error) = write_record(&mut self.audit, &mut self.state, record) {
            tracing::error!("audit: {error}");
        }
    }

    pub(super) fn refuse_held(&self, commit: &str) -> Result<(), Stop> {
        let Some(held) = self.state.held(commit)? else { return Ok(()) };
        let short = source::short(commit);
        let reason = held.reason.lines().next().unwrap_or_default();
        let why = format!("{short} is held since {}: {reason}; push a better commit, or: reconcilectl retry {short}", held.since);
        Err(Stop::usage(why))
    }

    /// A repair that failed waits for its turn, unless what it would do is another thing by now, or a person insists.
    pub(super) fn refuse_failed_repair(&mut self, order: &Order, plan: &Plan) -> Result<(), Stop> {
        let Order::Repair { insist: false, .. } = order else { return Ok(()) };
        let digest = plan.digest();
        let Some(failing) = self.failing.as_mut().filter(|f| f.plan == digest && f.pause > 0) else { return Ok(()) };
        let looks = match failing.pause {
            1 => "one more look".to_owned(),
            more => format!("{more} more looks"),
        };
        // What happens on the host makes it look, and does not bring its turn nearer.
        if order.actor() == crate::tasks::TIMER {
            failing.pause -= 1;
        }
        let why =
            format!("this repair has failed before and waits for {looks}: see reconcilectl audit log, then reconcilectl sync");
        Err(Stop { recorded: true, ..Stop::new(Verdict::Refused, why) })
    }

    /// Inverts a transaction, probes the restored state, and says how that went.
    pub(super) fn take_back(
        &mut self,
        (id, plan, staging): (u64, Plan, Vec<PathBuf>),
        Failure { reason, at_fault, is_told }: Failure,
        pass: &mut Pass,
        say: &mut dyn FnMut(Progress),
    ) -> Stop {
        (self.phase)("rolling-back");
        let reason = plan.secrets.conceal(&reason);
        if !is_told {
            say(Progress::Bad { text: reason.clone() });
        }
        // A host that goes down stops what was started and takes no more jobs: that is nobody's fault.
        let at_fault = at_fault && !self.host.is_going_down();
        if let Some(mark) = pass.mark.take().filter(|_| at_fault) {
            pass.record.findings = self.causes(&plan, &reason, &pass.record.probes, &mark);
            for finding in &pass.record.findings {
                // Nobody may be following.
                tracing::error!("because: {}", finding.text);
                say(Progress::Because { text: finding.text.clone() });
            }
            pass.lap("diagnose");
        }
        say(Progress::Line { text: "taking everything back".to_owned() });
        let open = Open { id, state: Phase::Acting, plan, staging, reason: reason.clone(), remains: Vec::new() };
        let hold = (at_fault && open.plan.intent == Intent::Deploy && open.plan.actor != FACTS)
            .then(|| held_now(&open.plan.commit.id, &reason));
        let mut ground = Ground { touch: &mut *self.host, state: &mut self.state, say };
        let undone = apply::undo(&open, &Cause { reason: &reason, hold: hold.as_ref() }, &mut ground);
        let is_owed = matches!(undone, Ok(Undone::Owed(_)));
        if !is_owed {
            let restored = self.probe_restored(&open.plan, say);
            pass.record.probes.extend(restored);
        }
        pass.lap("undo");
        let mut stop = Stop { recorded: true, ..Stop::new(Verdict::RolledBack, reason) };
        match undone {
            Ok(Undone::Restored) => {}
            Ok(Undone::Owed(asleep)) => {
                let later = "the host is going down, what is left is done when it is up again:";
                stop.reason.push_str(&format!("\n{later}\n{}", asleep.join("\n")));
            }
            Ok(Undone::Stuck(remains)) => stop.stick(&remains.join("\n")),
            Err(error) => stop.stick(&error.to_string()),
        }
        // What is owed has not ended: the next start records how it did.
        if !is_owed {
            let mut record = pass.record.clone();
            record.event = if stop.verdict == Verdict::Stuck { Event::Stuck } else { Event::RolledBack };
            record.generation = self.state.live().ok().flatten().map(|g| g.number);
            (record.reason, record.details) = first_line(&stop.reason);
            self.record(record);
        }
        if open.plan.intent == Intent::Repair {
            // By the plan that the next look will make of the same host, whatever became of it on the way.
            let plan = pass.plan.unwrap_or_else(|| open.plan.digest());
            self.failing = Some(Failing::after(self.failing, plan));
        }
        stop
    }

    /// Asks the probes of the live generation after a rollback: the push returns only when that is known too.
    fn probe_restored(&mut self, taken_back: &Plan, say: &mut dyn FnMut(Progress)) -> Vec<Probed> {
        let live = self.state.live().ok().flatten();
        let live = live.map(|g| self.reopened(g.manifest)).unwrap_or_default();
        let after = |v: &Probed| {
            let text = taken_back.secrets.conceal(&format!("after the rollback: {}", v.text));
            Probed { text, ..v.clone() }
        };
        let tell: &mut dyn FnMut(&Probed) = &mut |v| super::tell_probe(&after(v), say);
        let verdicts = probe::run(&*self.host, &live.probes, &live.secrets, tell, &*self.go_on).unwrap_or_default();
        verdicts.iter().map(after).collect()
    }

    /// Moves `main` to the live generation's commit: at once when it stands where it is expected, else after a look. A failure
    /// does not undo what is live: the next start tries again.
    pub fn publish(&mut self, expected: Option<&str>, say: &mut dyn FnMut(Progress)) {
        let Ok(Some(live)) = self.state.live() else { return };
        let id = live.commit.id.as_str();
        if id.is_empty() || expected == Some(id) {
            return;
        }
        let host = &*self.host;
        let moved = source::publish(host, MAIN, expected, id).or_else(|_| match source::resolve(host, MAIN)? {
            Some(now) if now == id => Ok(()),
            now => source::publish(host, MAIN, now.as_deref(), id),
        });
        if let Err(error) = moved {
            tracing::error!("main could not be moved to {id}: {error}");
            say(Progress::Note { text: format!("main could not be moved: {error}") });
        }
    }

    /// What this order's commit settles beside its plan.
    pub(super) fn terms(&self, order: &Order, plan: &Plan, live: Option<&Generation>) -> Result<Terms, StateError> {
        let asks = matches!(order, Order::Deploy { .. } | Order::Rollback { .. });
        Ok(Terms {
            hold: self.left_behind(order, live)?,
            lifelines: if asks { self.lifelines.of(plan) } else { Vec::new() },
            ends_waiting: matches!(order, Order::Revert { .. }),
        })
    }

    /// Says how to confirm, where that is asked for.
    pub(super) fn ask_for_confirmation(&self, terms: &Terms, say: &mut dyn FnMut(Progress)) {
        if terms.lifelines.is_empty() {
            return;
        }
        let changed = terms.lifelines.join(", ");
        let text = format!(
            "this changes how the host is reached ({changed}): it is taken back in {} unless somebody shows that it still can be: \
             git fetch, or any new git connection over SSH; or on the host: sudo reconcilectl confirm",
            self.confirm_window
        );
        say(Progress::Note { text });
    }

    /// The revisions that a rollback leaves behind: held, so that no pull brings them back.
    fn left_behind(&self, order: &Order, live: Option<&Generation>) -> Result<Vec<Held>, StateError> {
        let Some(live) = live else { return Ok(Vec::new()) };
        let (back_to, why) = match order {
            Order::Rollback { generation, actor } => {
                (*generation, format!("left behind by a rollback to generation {generation} by {actor}"))
            }
            Order::Revert { back_to, why } => (back_to.unwrap_or(0), why.clone()),
            _ => return Ok(Vec::new()),
        };
        let target = self.state.generation(back_to)?.map(|g| g.commit.id).unwrap_or_default();
        let since = UtcTime::now().to_string();
        let newer = self.state.history(u32::MAX)?.into_iter().filter(|g| g.number > back_to && g.number <= live.number);
        let mut held: Vec<Held> = newer
            .filter(|g| g.commit.id != target)
            .map(|g| Held { commit: g.commit.id, reason: why.clone(), since: since.clone() })
            .collect();
        held.dedup_by(|a, b| a.commit == b.commit);
        held.reverse();
        Ok(held)
    }

    pub(super) fn record_preview(&mut self, pass: &Pass) -> Result<(), Stop> {
        let record = NewRecord { event: Event::Preview, ..pass.record.clone() };
        Ok(write_record(&mut self.audit, &mut self.state, record)?)
    }

    /// Records a commit, and what it gave up and holds. What is live stays so, whatever becomes of the record.
    pub(super) fn record_outcome(&mut self, plan: &Plan, number: u64, left_behind: &[Held], pass: &Pass) {
        let mut record = pass.record.clone();
        record.event = if plan.intent == Intent::Repair { Event::DriftRepaired } else { Event::Live };
        record.generation = Some(number);
        if plan.intent == Intent::Repair {
            self.failing = None;
        }
        self.record(record);
        for text in &plan.let_go {
            let mut record = NewRecord::new(Event::LetGo, &plan.actor);
            record.commit = Some(plan.commit.id.clone()).filter(|id| !id.is_empty());
            record.generation = Some(number);
            record.reason = Some(text.clone());
            self.record(record);
        }
        for held in left_behind {
            self.record_held(held, &plan.actor);
        }
    }

    pub(super) fn record_held(&mut self, held: &Held, actor: &str) {
        let mut record = NewRecord::new(Event::Held, actor);
        record.commit = Some(held.commit.clone());
        record.reason = Some(held.reason.clone());
        self.record(record);
    }
}

impl Stop {
    fn stick(&mut self, remains: &str) {
        self.verdict = Verdict::Stuck;
        self.reason = format!("{}\nand it could not all be taken back:\n{remains}", self.reason);
    }
}

/// The record before the first change.
pub(super) fn record_intent(audit: &mut AuditLog, so_far: &NewRecord) -> Result<(), ApplyError> {
    // The outcome carries the differences; the intent only names what is about to change.
    let changes = so_far.changes.iter().map(|c| ChangeRecord { diff: None, ..c.clone() }).collect();
    let record = NewRecord { event: Event::Intent, changes, guards: Vec::new(), stages: Vec::new(), ..so_far.clone() };
    // Only an outcome moves the head in the store: an anchor of one record before is as good, and a sync cheaper.
    let head = audit.append(record, &Stamp::now()).map_err(|e| ApplyError::Judged(format!("no change without a record: {e}")))?;
    tracing::info!("audit head {head}");
    Ok(())
}

fn write_record(audit: &mut AuditLog, state: &mut State, record: NewRecord) -> Result<(), std::io::Error> {
    let head = match audit.append(record.clone(), &Stamp::now()) {
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull && state.reserve().give_up() => {
            audit.append(record, &Stamp::now())?
        }
        result => result?,
    };
    tracing::info!("audit head {head}");
    if let Err(error) = state.set_audit_head(&head) {
        tracing::error!("the audit head could not be noted: {error}");
    }
    Ok(())
}

pub(super) fn held_now(commit: &str, reason: &str) -> Held {
    Held { commit: commit.to_owned(), reason: reason.to_owned(), since: UtcTime::now().to_string() }
}

/// The first required probe that is red. A repair is not blamed for what was red before it.
pub(super) fn first_red(verdicts: &[Probed], baseline: &[Probed], intent: Intent) -> Option<String> {
    let was_red = |name: &str| baseline.iter().any(|b| b.name == name && !b.passed);
    let red = verdicts.iter().find(|v| v.required && !v.passed && !(intent == Intent::Repair && was_red(&v.name)))?;
    let before = if was_red(&red.name) { " (it was red before)" } else { "" };
    Some(format!("probe {}{before}", red.text))
}

pub(super) fn first_line(reason: &str) -> (Option<String>, Option<String>) {
    match reason.split_once('\n') {
        Some((first, rest)) => (Some(first.to_owned()), Some(rest.to_owned())),
        None => (Some(reason.to_owned()), None),
    }
}
