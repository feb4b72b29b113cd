//! Claims become a plan: ordered, without what is right already, with the guards that judge it and the wakes that it
//! owes. Pure: no host, no clock.

mod concerned;
pub mod order;
mod render;
mod wakes;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::change::{Change, Object, Run, Wake};
use crate::digest::Digest;
use crate::guard::{GuardCall, Guards};
use crate::host::{Patience, UnitSeen};
use crate::kind::{self, Claim, Phase, Spec as _, UnitSpec};
use crate::manifest::{Manifest, Resource};
use crate::path::ManagedPath;
use crate::secrets::Secrets;
use crate::source::Commit;
use crate::units::definition::Definition;
use crate::units::{self, Places};

use concerned::{
    bystanders, changed_units, is_stop, is_trigger_step, leave_in_good_hands, refuse_missing_units, renew_links, stops, touched,
};
pub use concerned::{concerned_patterns, concerned_units};
pub(crate) use wakes::maker;

/// The resource of a step that no declaration asked for: what left the repository, and what stops because its file goes.
pub(crate) const GONE: &str = "gone";

/// Why a plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Intent {
    /// A new revision goes live.
    Deploy,
    /// An earlier generation comes back.
    Rollback,
    /// The host is healed to the live generation.
    Repair,
    /// Only to be shown.
    Preview,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The resource that asked for it: `file:/etc/x`; or `gone`: what left the repository, or stops because its file goes.
    pub resource: String,
    /// Why, in a few words.
    pub reason: String,
    /// When it is made.
    #[serde(default)]
    pub phase: Phase,
    /// What.
    pub change: Change,
    /// It is known to leave the host within reach.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub within_reach: bool,
}

/// Everything that a transaction will do, and all that it needs to be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Why.
    pub intent: Intent,
    /// Who asked: a key's name, `drift`, `pull:REMOTE`, a user.
    pub actor: String,
    /// The revision.
    pub commit: Commit,
    /// What the host shall be held at: the content of the new generation.
    pub manifest: Manifest,
    /// Steps in order.
    pub steps: Vec<Step>,
    /// Wakes in order; owed from the first change on.
    pub wakes: Vec<Wake>,
    /// Why each of them is owed, in the same order, in a few words; empty where the change says it all.
    #[serde(default)]
    pub why: Vec<String>,
    /// For which of them there is one step of a program alone, by its target; in the same order.
    #[serde(default)]
    pub only_for: Vec<Option<String>>,
    /// Checks in order.
    pub guards: Vec<GuardCall>,
    /// For the ledger: what stood at each claimed target when this plan looked.
    pub claimed: BTreeMap<String, Change>,
    /// Targets that the ledger gives up.
    pub released: Vec<String>,
    /// Units that this plan touches: the only ones that are judged.
    pub touched: Vec<String>,
    /// Units that run and that it does not touch, but may stop all the same: what needs a touched one, what conflicts with it. True of those
    /// that have to stay up: declared to be active, or what the host is reached by.
    #[serde(default)]
    pub bystanders: BTreeMap<String, bool>,
    /// Those of them that were failing before it: that they still do after an undo is no failure of the undo.
    #[serde(default)]
    pub ailing: Vec<String>,
    /// What the ledger gives up and leaves on the host, and why.
    #[serde(default)]
    pub let_go: Vec<String>,
    /// What fails once its files are in place does not have it taken back: what it goes back to is better than what it leaves.
    #[serde(default)]
    pub forgiving: bool,
    /// What nothing that is said of it may quote.
    #[serde(skip)]
    pub secrets: Secrets,
    /// Remarks.
    pub notes: Vec<String>,
}

/// What a unit's files say, and what of its inputs changes.
#[derive(Clone, Debug, Default)]
pub struct Defined {
    /// As the host has it.
    pub now: Definition,
    /// As the plan will leave it.
    pub then: Definition,
    /// Changed paths that its process has read, with the setting that names each.
    pub read: Vec<(ManagedPath, String)>,
}

impl Defined {
    /// It does something and is done: started anew it would do it twice.
    pub(crate) fn runs_to_its_end(&self) -> bool {
        self.then.value("Service", "Type") == Some("oneshot") && !self.then.is_on("Service", "RemainAfterExit")
    }

    /// A service has a way to read its configuration again (systemd.service(5)).
    pub(crate) fn can_reload(&self) -> bool {
        !self.then.values("Service", "ExecReload").is_empty() || self.then.value("Service", "Type") == Some("notify-reload")
    }
}

/// What looking has brought together for one plan.
#[derive(Debug)]
pub struct Material<'a> {
    /// Why.
    pub intent: Intent,
    /// Who.
    pub actor: String,
    /// Which revision.
    pub commit: Commit,
    /// What is declared.
    pub manifest: Manifest,
    /// Claims of each declared resource, in the manifest's order: (phase, resource id, claims).
    pub claims: Vec<(Phase, String, Vec<Claim>)>,
    /// Claims that give back what left the repository, by target.
    pub releases: Vec<Claim>,
    /// Ledger targets that are no longer declared.
    pub released: Vec<String>,
    /// Those of them that stay on the host, and why.
    pub let_go: Vec<String>,
    /// The units that any of the changes may concern, as they are now.
    pub units: BTreeMap<String, UnitSeen>,
    /// What is known of the files of units that change, and of services that read what changes.
    pub definitions: BTreeMap<String, Defined>,
    /// What the live generation declares.
    pub former: Vec<Resource>,
    /// Services that have to start anew for another reason than their definitions, and why.
    pub pending: BTreeMap<String, String>,
    /// What paths mean to PID 1.
    pub places: Places,
    /// Units that the host is reached by.
    pub lifelines: BTreeSet<String>,
    /// Unit files that go and bring another file of the same unit to light, the vendor's.
    pub uncovering: BTreeSet<ManagedPath>,
    /// The host's guards.
    pub guards: &'a Guards,
}

/// Why claims do not make a plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Two resources want different things of one target.
    #[error("{first} and {second} both claim {target} and want different things: remove one of them")]
    Conflict {
        /// Who claimed it first.
        first: String,
        /// Who claimed it too.
        second: String,
        /// What.
        target: String,
    },
    /// A unit is to run, and nothing brings it.
    #[error(
        "{origin}: there is no unit {unit} on this host, and no file of the repository makes one: correct its name, or add files/etc/systemd/system/{unit}"
    )]
    NoUnit {
        /// Where it was declared.
        origin: String,
        /// Its name.
        unit: String,
    },
}

/// Makes the plan.
///
/// # Errors
/// When two claims contradict each other, or a unit is to run that nothing brings.
pub fn make(material: Material<'_>) -> Result<Plan, PlanError> {
    let Material {
        intent,
        actor,
        commit,
        manifest,
        claims,
        releases,
        released,
        let_go,
        units,
        definitions,
        former,
        pending,
        places,
        lifelines,
        uncovering,
        guards,
    } = material;
    let mut manifest = manifest;
    let Claimed { runs, files, units: mut wanted_units, claimed, inputs } = taken(claims)?;
    manifest.contents.extend(inputs);
    wanted_units.sort_by_key(|step| !is_trigger_step(step));
    let (foundation, runs): (Vec<_>, Vec<_>) = runs.into_iter().partition(|step| step.phase.is_foundation());
    let (unit_releases, file_releases): (Vec<_>, Vec<_>) =
        releases.into_iter().map(gone).partition(|step| matches!(step.change, Change::Unit { .. }));
    let mut steps = stops(&unit_releases, file_releases.iter().chain(&files), &units, &uncovering);
    // A package that is to come may bring it.
    if foundation.iter().all(|step| step.change.is_noop()) {
        refuse_missing_units(&wanted_units, &files, &steps, &manifest, &units)?;
    }
    steps.extend(foundation);
    steps.extend(in_file_order(files, file_releases));
    steps.extend(runs);
    steps.extend(wanted_units);
    steps.extend(unit_releases.into_iter().filter(|s| !is_stop(&s.change)));
    steps.sort_by_key(|step| step.phase == Phase::Firewall);
    dedup_targets(&mut steps);
    if intent == Intent::Repair {
        steps.iter_mut().for_each(|step| leave_in_good_hands(step, &units));
    }
    steps.iter_mut().for_each(|step| renew_links(step, &units, &definitions));
    steps.retain(|step| !step.change.is_noop());
    let paths: Vec<&ManagedPath> = steps.iter().filter_map(|s| entry_path(&s.change)).collect();
    let judged: Vec<String> = changed_units(&steps, &units, &places, &uncovering).iter().map(|u| units::verifiable(u)).collect();
    let calls = guards.calls(&changed_paths(&steps, &places), &judged);
    let scene = wakes::Scene {
        units: &units,
        definitions: &definitions,
        former: &former,
        pending: &pending,
        places: &places,
        uncovering: &uncovering,
        guards,
    };
    let (wakes, why): (Vec<_>, Vec<_>) = wakes::owed(&steps, &manifest, &scene, None).into_iter().unzip();
    let only_for = wakes::only_for(&steps, &wakes, &manifest, &scene);
    let touched = touched(&steps, &wakes);
    let bystanders = bystanders(&units, &steps, &touched, &manifest, &lifelines);
    let ailing = touched.iter().filter(|u| units.get(*u).is_some_and(UnitSeen::is_failing)).cloned().collect();
    let notes = notes(&manifest, &let_go, &paths);
    Ok(Plan {
        intent,
        actor,
        commit,
        manifest,
        steps,
        wakes,
        why,
        only_for,
        guards: calls,
        claimed,
        released,
        touched,
        bystanders,
        ailing,
        let_go,
        forgiving: false,
        secrets: Secrets::default(),
        notes,
    })
}

/// A step for what left the repository.
fn gone(claim: Claim) -> Step {
    let Claim { change, reason, .. } = claim;
    Step { resource: GONE.to_owned(), reason, phase: Phase::Files, change, within_reach: false }
}

/// Remarks of the manifest, on what is let go, and on what does not last.
fn notes(manifest: &Manifest, let_go: &[String], paths: &[&ManagedPath]) -> Vec<String> {
    let lasts_not = paths.iter().find(|path| path.as_str().starts_with("/run/"));
    let lasts_not = lasts_not.map(|path| format!("{path}: what is below /run lasts until the next boot"));
    manifest.notes.iter().chain(let_go).cloned().chain(lasts_not).collect()
}

/// Claims as steps.
struct Claimed {
    /// What programs do, in the order of the phases.
    runs: Vec<Step>,
    files: Vec<Step>,
    units: Vec<Step>,
    /// What is claimed of each target, also where nothing has to change.
    claimed: BTreeMap<String, Change>,
    /// What calls read.
    inputs: BTreeMap<Digest, Vec<u8>>,
}

/// Each target once; what is declared goes before what is only implied.
fn taken(mut claims: Vec<(Phase, String, Vec<Claim>)>) -> Result<Claimed, PlanError> {
    claims.sort_by_key(|(phase, resource, claims)| (*phase, order_of(resource, claims)));
    let declared: BTreeSet<String> = claims
        .iter()
        .flat_map(|(_, _, claims)| claims)
        .filter(|claim| !claim.implied && !matches!(claim.change, Change::Dir { after: None, .. }))
        .map(|claim| claim.change.target())
        .collect();
    let mut claimed: BTreeMap<String, (String, Change)> = BTreeMap::new();
    let (mut files, mut wanted_units, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    let mut inputs = BTreeMap::new();
    for (phase, resource, claims) in claims {
        for Claim { change, reason, implied, inputs: read, follows: _, passing, restart: _, within_reach } in claims {
            inputs.extend(read);
            let target = change.target();
            if implied && declared.contains(&target) {
                continue;
            }
            if let Some((first, earlier)) = claimed.get(&target) {
                if *earlier != change {
                    return Err(PlanError::Conflict { first: first.clone(), second: resource, target });
                }
                continue;
            }
            if !passing {
                claimed.insert(target, (resource.clone(), change.clone()));
            }
            let steps = match &change {
                Change::Run(_) => &mut runs,
                Change::Unit { .. } => &mut wanted_units,
                Change::Entry { .. } | Change::Dir { .. } => &mut files,
            };
            steps.push(Step { resource: resource.clone(), reason, phase, change, within_reach });
        }
    }
    let claimed = claimed.into_iter().map(|(target, (_, change))| (target, change)).collect();
    Ok(Claimed { runs, files, units: wanted_units, claimed, inputs })
}

/// Within a phase kinds go by their order in the table, which is that of what they need; what goes, goes last and the other way round.
fn order_of(resource: &str, claims: &[Claim]) -> (bool, usize) {
    let rank = kind::rank(resource.split(':').next().unwrap_or_default());
    let goes = claims.iter().any(|claim| matches!(claim.change, Change::Run(_)) && claim.change.sign() == '-');
    (goes, if goes { usize::MAX - rank } else { rank })
}

/// Directories before what stands in them; removals after all that is made, children before their directories.
fn in_file_order(wanted: Vec<Step>, releases: Vec<Step>) -> Vec<Step> {
    let (mut gone, mut made): (Vec<_>, Vec<_>) = wanted.into_iter().chain(releases).partition(|s| s.change.sign() == '-');
    made.sort_by(|a, b| a.change.path().cmp(&b.change.path()));
    gone.sort_by(|a, b| b.change.path().cmp(&a.change.path()));
    made.extend(gone);
    made
}

fn dedup_targets(steps: &mut Vec<Step>) {
    let mut seen = BTreeSet::new();
    steps.retain(|s| seen.insert(s.change.target()));
}

fn entry_path(change: &Change) -> Option<&ManagedPath> {
    match change {
        Change::Entry { path, .. } => Some(path),
        _ => None,
    }
}

/// The paths of files and links that change, with the links in unit directories that lead to them, and whether anything is there afterwards.
fn changed_paths<'s>(steps: &'s [Step], places: &'s Places) -> Vec<(&'s ManagedPath, bool)> {
    let changed = steps.iter().filter_map(|step| match &step.change {
        Change::Entry { path, after, .. } => Some((path, *after != Object::Absent)),
        _ => None,
    });
    changed
        .flat_map(|(path, remains)| [Some(path), places.link_to(path)].into_iter().flatten().map(move |p| (p, remains)))
        .collect()
}

impl Plan {
    /// The wakes with their reasons: `restart shop.service (ExecStart changed)`.
    pub fn wakes_in_words(&self) -> impl Iterator<Item = String> {
        let why = self.why.iter().map(String::as_str).chain(std::iter::repeat(""));
        self.wakes.iter().zip(why).map(|(wake, why)| if why.is_empty() { wake.to_string() } else { format!("{wake} ({why})") })
    }

    /// How long a job of a unit may take, where its table says that.
    #[must_use]
    pub fn patience(&self, unit: &str) -> Patience {
        let table = self.manifest.resources.iter().find(|r| r.kind == UnitSpec::KIND && r.name == unit)?;
        let spec: UnitSpec = serde_json::from_value(table.spec.clone()).ok()?;
        spec.timeout.map(|timeout| timeout.0)
    }

    /// Nothing to change and nothing to wake; the ledger may change all the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.wakes.is_empty()
    }

    /// It goes through: guards let all of it pass when it went live, and an objection now would keep a locked-out host locked out.
    pub fn forgive(&mut self) {
        self.guards.clear();
        self.forgiving = true;
    }

    /// Whether something has to be there before the rest can be seen as it is: packages, accounts.
    #[must_use]
    pub fn needs_foundation(&self) -> bool {
        self.steps.iter().any(|step| step.phase.is_foundation())
    }

    /// That alone, without what follows.
    #[must_use]
    pub(crate) fn foundation(&self) -> Self {
        let steps: Vec<Step> = self.steps.iter().filter(|step| step.phase.is_foundation()).cloned().collect();
        let targets: BTreeSet<String> = steps.iter().map(|step| step.change.target()).collect();
        let mut claimed = self.claimed.clone();
        claimed.retain(|target, _| targets.contains(target));
        Self {
            steps,
            claimed,
            wakes: Vec::new(),
            why: Vec::new(),
            only_for: Vec::new(),
            guards: Vec::new(),
            released: Vec::new(),
            touched: Vec::new(),
            bystanders: BTreeMap::new(),
            ailing: Vec::new(),
            let_go: Vec::new(),
            ..self.clone()
        }
    }

    /// Leaves out steps, and what they claim. Returns their targets.
    pub(crate) fn drop_steps(&mut self, is_meant: impl Fn(&Step) -> bool) -> Vec<String> {
        let targets: Vec<String> = self.steps.iter().filter(|step| is_meant(step)).map(|step| step.change.target()).collect();
        self.steps.retain(|step| !is_meant(step));
        self.claimed.retain(|target, _| !targets.contains(target));
        targets
    }

    /// The plan with a foundation before it that is laid already: what is taken back together.
    #[must_use]
    pub(crate) fn upon(mut self, foundation: &Self) -> Self {
        self.steps.splice(0..0, foundation.steps.iter().cloned());
        self.claimed.extend(foundation.claimed.clone());
        self
    }

    /// Whether what a check misses is still to come: below a path that a step makes, or anything while there are packages to install.
    #[must_use]
    pub fn may_bring(&self, finding: &str) -> bool {
        const MISSES: [&str; 3] = ["No such file or directory", "not found", "does not exist"];
        let makes = |step: &Step| maker(&step.change).is_some_and(|run| run.makes.iter().any(|p| finding.contains(p.as_str())));
        self.steps.iter().any(makes) || (self.needs_foundation() && MISSES.iter().any(|words| finding.contains(words)))
    }

    /// Names this plan: two plans with the same digest do the same, but for what is in secret files, which nobody must be able
    /// to guess from it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let steps: Vec<String> = self.steps.iter().map(step_for_digest).collect();
        let guards: Vec<_> = self.guards.iter().map(|guard| (&guard.name, &guard.argv)).collect();
        let body = serde_json::to_vec(&(&self.commit.id, &steps, &self.wakes, &guards)).unwrap_or_default();
        Digest::of(&body)
    }

    /// Whether something is started or restarted that has to settle: a service, or a path, which fails with what it triggers. A socket does so
    /// only when somebody connects, as the probes do.
    #[must_use]
    pub fn has_to_settle(&self) -> bool {
        let woken = self.wakes.iter().filter(|wake| wake.starts()).filter_map(Wake::unit);
        let started = self.steps.iter().filter_map(|step| match &step.change {
            Change::Unit { unit, before, after } if after.active == Some(true) && before.active != Some(true) => {
                Some(unit.as_str())
            }
            _ => None,
        });
        woken.chain(started).any(|unit| unit.ends_with(".service") || unit.ends_with(".path"))
    }
}

/// A step as it is named: whole, or of a secret what may be known of it.
fn step_for_digest(step: &Step) -> String {
    if step.change.is_secret() {
        return format!("{} {} secret", step.change.sign(), step.change.target());
    }
    let mut step = step.clone();
    if let Change::Run(run) = &mut step.change {
        // What its calls read may be secret; what comes of it is in the answers.
        let Run { ask, forward, backward, prepare, redo, .. } = &mut **run;
        [ask, forward].into_iter().chain(backward).chain(prepare).chain(redo).for_each(|call| call.input = None);
    }
    serde_json::to_string(&step).unwrap_or_default()
}

#[cfg(test)]
mod tests;
