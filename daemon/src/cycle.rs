//! One pass, top to bottom: the only file that knows all stages. It has no I/O of its own; each stage's type can only be
//! made by the stage before it, so that none can be skipped.

mod asides;
mod cause;
mod definitions;
mod drifting;
mod ending;
mod foundation;
mod opening;
mod patience;
mod recovery;
mod seeing;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::apply::{self, Ground};
use crate::audit::{AuditLog, Event, NewRecord, Stage, UtcTime};
use crate::digest::Digest;
use crate::facts::Facts;
use crate::guard::Guards;
use crate::host::Touch;
use crate::lifeline::Lifelines;
use crate::manifest::{self, Context, Manifest};
use crate::plan::{Intent, Plan};
use crate::policy::{self, PastIrreversible, Right};
use crate::probe;
use crate::rehearse::{self, Rehearsed};
use crate::report::{Progress, Report, Verdict};
use crate::source::{self, Commit};
use crate::state::{Generation, Setting, State};

pub use drifting::Repairs;
use ending::Failure;
pub use ending::{Failing, Stop};
use seeing::Drifted;

/// Who is told what happens.
pub type Say<'a> = &'a mut dyn FnMut(Progress);

/// Who asks when the facts of the host have changed.
pub(crate) const FACTS: &str = "facts";

/// What the engine is to bring about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A revision goes live on `main`.
    Deploy {
        /// Which.
        commit: String,
        /// Who asks.
        actor: String,
        /// What the asker may do.
        right: Right,
    },
    /// A revision is planned and rehearsed; nothing is applied.
    Preview {
        /// Which.
        commit: String,
        /// Who asks.
        actor: String,
        /// What the asker may do.
        right: Right,
    },
    /// An earlier generation comes back.
    Rollback {
        /// Which.
        generation: u64,
        /// Who asks.
        actor: String,
    },
    /// A generation that nobody has confirmed is given up.
    Revert {
        /// The generation that comes back; `None` is the host as it was before the first.
        back_to: Option<u64>,
        /// Why, for the record and for the revisions that are held.
        why: String,
    },
    /// The host is healed to the live generation.
    Repair {
        /// Who asks: `drift` for the timer.
        actor: String,
        /// Asked for by a person: a repair that failed is tried again.
        insist: bool,
    },
}

impl Order {
    fn intent(&self) -> Intent {
        match self {
            Self::Deploy { .. } => Intent::Deploy,
            Self::Preview { .. } => Intent::Preview,
            Self::Rollback { .. } | Self::Revert { .. } => Intent::Rollback,
            Self::Repair { .. } => Intent::Repair,
        }
    }

    fn right(&self) -> Right {
        match self {
            Self::Deploy { right, .. } | Self::Preview { right, .. } => *right,
            Self::Rollback { .. } | Self::Revert { .. } | Self::Repair { .. } => Right::Deploy,
        }
    }

    /// The revision that is asked for by its name.
    fn commit(&self) -> Option<&str> {
        match self {
            Self::Deploy { commit, .. } | Self::Preview { commit, .. } => Some(commit),
            Self::Rollback { .. } | Self::Revert { .. } | Self::Repair { .. } => None,
        }
    }

    /// Who asks.
    #[must_use]
    pub fn actor(&self) -> &str {
        match self {
            Self::Deploy { actor, .. }
            | Self::Preview { actor, .. }
            | Self::Rollback { actor, .. }
            | Self::Repair { actor, .. } => actor,
            Self::Revert { .. } => crate::lifeline::ACTOR,
        }
    }
}

/// Everything that a pass works with. It lives on the engine's thread and nowhere else.
pub struct Engine {
    /// The host.
    pub host: Box<dyn Touch>,
    /// The store.
    pub state: State,
    /// The audit log.
    pub audit: AuditLog,
    /// The name of the host that chooses its layer, where that is not its short hostname.
    pub known_as: Option<String>,
    /// The host's guards.
    pub guards: Guards,
    /// What the host is reached by.
    pub lifelines: Lifelines,
    /// How long a change of that waits for its confirmation, in words.
    pub confirm_window: String,
    /// Whether a rollback may go back past what nothing takes back.
    pub past_irreversible: PastIrreversible,
    /// Turns false when the daemon is asked to stop: what waits for probes is undone then.
    pub go_on: Box<dyn Fn() -> bool>,
    /// The facts with which the live revision was rendered once more.
    pub tried: Option<Facts>,
    /// Something waits until all else is healed.
    pub later: bool,
    /// When what was repaired.
    pub repairs: Repairs,
    /// What has drifted and is left so.
    pub left: Vec<String>,
    /// How often in a row a look has found that PID 1 knows a unit otherwise: what a daemon-reload does not mend is left after some.
    pub stale: BTreeMap<String, u32>,
    /// The repair that failed last.
    pub failing: Option<Failing>,
    /// The drift that was reported last, so that it is not reported again.
    pub reported_drift: Option<Digest>,
    /// What was refused last of those who ask by themselves, by actor, so that it is not recorded again.
    pub refused: BTreeMap<String, Digest>,
    /// Told at each change of phase, for the status.
    pub phase: Box<dyn Fn(&'static str)>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

/// What is wanted, before anybody has looked at the host.
struct Wanted {
    commit: Commit,
    manifest: Manifest,
}

/// How a pass ended well.
struct End {
    verdict: Verdict,
    commit: Option<String>,
    generation: Option<u64>,
}

/// A pass on its way: the times of its stages, and what its record will say however it ends.
#[derive(Debug)]
struct Pass {
    began: Instant,
    record: NewRecord,
    /// How things stood before the first change.
    mark: Option<cause::Mark>,
    /// Names the plan that it began with.
    plan: Option<Digest>,
}

impl Pass {
    fn start(order: &Order) -> Self {
        let mut record = NewRecord::new(Event::Refused, order.actor());
        match order {
            Order::Deploy { commit, .. } | Order::Preview { commit, .. } => record.commit = Some(commit.clone()),
            Order::Rollback { generation, .. } => record.reason = Some(format!("rollback to generation {generation}")),
            Order::Revert { why, .. } => record.reason = Some(why.clone()),
            Order::Repair { .. } => {}
        }
        Self { began: Instant::now(), record, mark: None, plan: None }
    }

    fn lap(&mut self, stage: &str) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.record.stages.push(Stage { name: stage.to_owned(), ms });
        self.began = Instant::now();
    }
}

impl Engine {
    /// Carries out an order from beginning to end, and says how it went.
    pub fn run(&mut self, order: &Order, say: Say<'_>) -> Report {
        if let Some(anew) = self.anew(order) {
            let report = self.run_once(&anew, say);
            if report.verdict != Verdict::NothingToDo {
                return report;
            }
        }
        self.later = false;
        let first = self.run_once(order, say);
        if !(std::mem::take(&mut self.later) && first.verdict == Verdict::Live) {
            return first;
        }
        let second = self.run_once(order, say);
        if second.verdict == Verdict::NothingToDo { first } else { second }
    }

    /// The live revision once more, where it was rendered with facts that are others by now. Each change of them is tried once: nobody is at
    /// fault when it does not go live, and what is live stays.
    fn anew(&mut self, order: &Order) -> Option<Order> {
        let live = self.state.live().ok()??;
        let rendered_with =
            live.manifest.facts.filter(|_| matches!(order, Order::Repair { .. }) && !live.commit.id.is_empty())?;
        let now = self.host.facts();
        // A host of another name gets another layer: that is for somebody to push.
        if now == rendered_with
            || now.hostname != rendered_with.hostname
            || self.tried.replace(now.clone()).as_ref() == Some(&now)
        {
            return None;
        }
        Some(Order::Deploy { commit: live.commit.id, actor: FACTS.to_owned(), right: Right::Deploy })
    }

    fn run_once(&mut self, order: &Order, say: Say<'_>) -> Report {
        let mut pass = Pass::start(order);
        let mut report = match self.pass(order, &mut pass, say) {
            Ok(end) => Report {
                verdict: end.verdict,
                commit: end.commit,
                generation: end.generation,
                reason: String::new(),
                stages: Vec::new(),
                audit_head: None,
            },
            Err(stop) => self.stopped(order, stop, &pass),
        };
        report.stages = pass.record.stages.into_iter().map(|stage| (stage.name, stage.ms)).collect();
        report.audit_head = self.audit.head().map(|head| head.to_string());
        (self.phase)("idle");
        report
    }

    /// From the source to the rehearsal: `wanted` reads source and manifest, `plan` has the kinds look. A preview ends here.
    fn pass(&mut self, order: &Order, pass: &mut Pass, say: Say<'_>) -> Result<End, Stop> {
        policy::admit(order.intent(), order.right(), order.actor()).map_err(|why| Stop::denied(&[why]))?;
        (self.phase)("planning");
        let live = self.state.live()?;
        let Some(wanted) = self.wanted(order, live.as_ref())? else {
            return Ok(End { verdict: Verdict::NothingToDo, commit: None, generation: None });
        };
        pass.lap("read");
        let allow_empty = wanted.manifest.allow_empty;
        let drifted = if matches!(order, Order::Repair { insist: true, .. }) { Drifted::Asked } else { Drifted::AsDeclared };
        let plan = self.plan(order, wanted, drifted)?;
        if is_settled(&plan, live.as_ref()) {
            pass.lap("plan");
            if order.intent() == Intent::Repair {
                self.failing = None;
            } else {
                // An earlier attempt to move it may have failed.
                self.publish(None, say);
            }
            let generation = live.map(|g| g.number);
            return Ok(End { verdict: Verdict::NothingToDo, commit: Some(plan.commit.id), generation });
        }
        pass.plan = Some(plan.digest());
        self.refuse_failed_repair(order, &plan)?;
        show(&plan, say);
        pass.record.tell(&plan);
        pass.record.changes = self.change_records(&plan);
        pass.lap("plan");

        let approved = policy::judge(plan, order.right(), allow_empty).map_err(|reasons| Stop::denied(&reasons))?;
        (self.phase)("rehearsing");
        let rehearsed = rehearse::rehearse(approved, &*self.host, &seeing::stored(&self.state), &mut pass.record.guards, say);
        pass.lap("rehearse");
        let rehearsed = rehearsed?;
        if order.intent() == Intent::Preview {
            self.record_preview(pass)?;
            let commit = Some(rehearsed.into_plan().commit.id);
            return Ok(End { verdict: Verdict::Accepted, commit, generation: live.map(|g| g.number) });
        }
        self.carry_out(order, rehearsed, (live.as_ref(), drifted), pass, say)
    }

    /// From staging to the commit, or the way back.
    fn carry_out(
        &mut self,
        order: &Order,
        rehearsed: Rehearsed,
        (live, drifted): (Option<&Generation>, Drifted),
        pass: &mut Pass,
        say: Say<'_>,
    ) -> Result<End, Stop> {
        if self.wait_for_dpkg(order, say)? {
            pass.lap("wait");
        }
        let wanted = &rehearsed.plan().manifest;
        let baseline = match probe::baseline(&*self.host, &wanted.probes, &wanted.secrets) {
            Err(_) if rehearsed.plan().forgiving => Vec::new(),
            baseline => baseline?,
        };
        pass.lap("baseline");
        (self.phase)("applying");
        pass.mark = Some(self.mark());
        let staged = self.stage(order, rehearsed, drifted, pass, say)?;
        let terms = match self.terms(order, staged.plan(), live) {
            Ok(terms) => terms,
            Err(error) => return Err(self.take_back(staged.into_parts(), Failure::of(&error.into()), pass, say)),
        };
        // Not `self.ground`: the record before the first change needs the audit log beside it.
        let mut ground = Ground { touch: &mut *self.host, state: &mut self.state, say };
        let audit = &mut self.audit;
        let applied = apply::apply(staged, &mut ground, &mut |_| ending::record_intent(audit, &pass.record));
        pass.lap("apply");
        let mut applied = match applied {
            Ok(applied) => applied,
            Err(failed) => return Err(self.take_back(failed.staged.into_parts(), Failure::of(&failed.error), pass, say)),
        };

        (self.phase)("probing");
        let Manifest { probes, secrets: passwords, .. } = &applied.plan().manifest;
        let secrets = &applied.plan().secrets;
        let shown = |v: &probe::Verdict| probe::Verdict { text: secrets.conceal(&v.text), ..v.clone() };
        let verdicts = probe::run(&*self.host, probes, passwords, &mut |v| tell_probe(&shown(v), say), &*self.go_on)
            .map(|verdicts| verdicts.iter().map(shown).collect::<Vec<_>>());
        pass.lap("probe");
        crate::failpoint!("probed");
        let red = match &verdicts {
            Ok(verdicts) => ending::first_red(verdicts, &baseline, applied.plan().intent),
            Err(error) => Some(format!("the probes could not be asked: {error}")),
        };
        pass.record.probes = verdicts.unwrap_or_default();
        // What was reachable before is better than what may not be, whatever its probes say.
        let red = red.filter(|_| !matches!(order, Order::Revert { .. }));
        if let Some(red) = red {
            // Told to stop, the daemon did not wait for them: that is nobody's fault.
            let failure = Failure { reason: red, at_fault: (self.go_on)(), is_told: true };
            return Err(self.take_back(applied.into_parts(), failure, pass, say));
        }

        let finished = applied.finish(&mut self.ground(say));
        let committed = finished.and_then(|()| applied.commit(&mut self.ground(say), &UtcTime::now().to_string(), &terms));
        let number = match committed {
            Ok(number) => number,
            Err(error) => return Err(self.take_back(applied.into_parts(), Failure::of(&error), pass, say)),
        };
        self.publish(live.map(|g| g.commit.id.as_str()).filter(|id| !id.is_empty()), say);
        pass.lap("commit");
        crate::failpoint!("published");
        self.repairs.note(order, applied.plan());
        self.record_outcome(applied.plan(), number, &terms.hold, pass);
        self.ask_for_confirmation(&terms, say);
        crate::failpoint!("answered");
        Ok(End { verdict: Verdict::Live, commit: Some(applied.plan().commit.id.clone()), generation: Some(number) })
    }

    fn ground<'a>(&'a mut self, say: Say<'a>) -> Ground<'a> {
        Ground { touch: &mut *self.host, state: &mut self.state, say }
    }

    /// What the order asks for: a revision out of git, or the content of a generation. `None`: nothing was ever live.
    fn wanted(&mut self, order: &Order, live: Option<&Generation>) -> Result<Option<Wanted>, Stop> {
        match order {
            Order::Repair { .. } => {
                Ok(live.map(|g| Wanted { commit: g.commit.clone(), manifest: self.reopened(g.manifest.clone()) }))
            }
            Order::Revert { back_to: None, .. } => {
                self.state.set_setting(Setting::Desired, None)?;
                let manifest = Manifest { allow_empty: true, ..Manifest::default() };
                Ok(Some(Wanted { commit: Commit::default(), manifest }))
            }
            Order::Rollback { generation, .. } | Order::Revert { back_to: Some(generation), .. } => {
                let wanted = self.state.generation(*generation)?;
                let wanted = wanted
                    .ok_or_else(|| Stop::usage(format!("there is no generation {generation}; see reconcilectl history")))?;
                self.state
                    .set_setting(Setting::Desired, Some(&wanted.commit.id).filter(|id| !id.is_empty()).map(String::as_str))?;
                let mut manifest = self.reopened(wanted.manifest);
                if matches!(order, Order::Rollback { .. }) {
                    let warning = policy::go_back(*generation, &self.state.stays_since(*generation)?, self.past_irreversible);
                    manifest.notes.extend(warning.map_err(|why| Stop::denied(&[why]))?);
                }
                Ok(Some(Wanted { commit: wanted.commit, manifest }))
            }
            Order::Deploy { commit, .. } => {
                self.refuse_held(commit)?;
                self.state.set_setting(Setting::Desired, Some(commit))?;
                self.read_revision(commit, order.right(), live).map(Some)
            }
            Order::Preview { commit, .. } => self.read_revision(commit, order.right(), live).map(Some),
        }
    }

    fn read_revision(&self, commit: &str, right: Right, live: Option<&Generation>) -> Result<Wanted, Stop> {
        // A generation of no revision, the host as it was before the first, has none to build on.
        let base = live.map(|g| g.commit.id.as_str()).filter(|id| !id.is_empty());
        let full = match commit.len() {
            40 => Some(commit.to_owned()),
            _ => source::resolve(&*self.host, if commit == "main" { source::MAIN } else { commit })?,
        };
        let full =
            full.ok_or_else(|| Stop::usage(format!("there is no revision {} in this repository", crate::path::escape(commit))))?;
        let received = source::read(&*self.host, &full, base)?;
        if !received.descends {
            return Err(Stop::usage(format!(
                "it does not build on the live revision {}: fetch, rebase and push again (a forced push is never accepted; reconcilectl rollback goes back)",
                base.map_or("", source::short)
            )));
        }
        let mut context = self.context();
        context.secrets = match right {
            Right::Deploy => opening::open(&received.snapshot, &context.host, &*self.host)?,
            Right::Preview => opening::leave_sealed(&received.snapshot, &context.host)?,
        };
        let stays_sealed = right == Right::Preview && !context.secrets.is_empty();
        let mut manifest =
            manifest::read(&received.snapshot, &context).map_err(|mistakes| Stop::invalid(&mistakes, &received.snapshot))?;
        if let Some(name) = manifest.unopened.first() {
            return Err(Stop::refused(format!("the secret `{}` was not opened", crate::path::escape(name))));
        }
        if stays_sealed {
            let text = "secrets stay sealed for a key that may only preview: what is made with them is shown as a change";
            manifest.notes.push(text.to_owned());
        }
        Ok(Wanted { commit: received.snapshot.commit, manifest: manifest.with_secrets(context.secrets) })
    }

    /// For whom a revision is read.
    fn context(&self) -> Context {
        let facts = self.host.facts();
        let host = self.known_as.clone().unwrap_or_else(|| facts.hostname.clone());
        Context { host, facts, secrets: BTreeMap::new() }
    }
}

/// Nothing to change, and the host is held at just this already.
fn is_settled(plan: &Plan, live: Option<&Generation>) -> bool {
    let same = |g: &Generation| {
        g.commit.id == plan.commit.id
            && g.manifest.resources == plan.manifest.resources
            && g.manifest.probes == plan.manifest.probes
            && g.manifest.sealed == plan.manifest.sealed
    };
    plan.is_empty() && plan.released.is_empty() && (plan.intent == Intent::Repair || live.is_some_and(same))
}

fn show(plan: &Plan, say: Say<'_>) {
    for text in plan.lines() {
        say(Progress::Line { text });
    }
    for text in &plan.notes {
        say(Progress::Note { text: text.clone() });
    }
}

fn tell_probe(verdict: &probe::Verdict, say: Say<'_>) {
    let text = format!("probe {}", verdict.text);
    say(match (verdict.passed, verdict.required) {
        (true, _) => Progress::Good { text },
        (false, true) => Progress::Bad { text },
        (false, false) => Progress::Note { text: format!("{text} (not required)") },
    });
}

#[cfg(test)]
pub(crate) mod tests;
