//! Which processes have to read what changed, how they are made to, and why.

use std::collections::{BTreeMap, BTreeSet};

use globset::GlobSetBuilder;

use super::{Defined, Step, entry_path};
use crate::change::{Change, Object, Proof, Run, Wake};
use crate::guard::{GuardWake, Guards, WakeAction};
use crate::host::UnitSeen;
use crate::kind::{OnChange, Spec as _, UnitSpec};
use crate::manifest::{Manifest, Resource};
use crate::path::ManagedPath;
use crate::units::definition::Definition;
use crate::units::effect::{Difference, Effect, spared};
use crate::units::{self, UnitFile};

/// What besides the steps decides on the wakes.
pub(super) struct Scene<'a> {
    /// The units that the steps may concern, as they are now.
    pub(super) units: &'a BTreeMap<String, UnitSeen>,
    /// What their files say, now and then.
    pub(super) definitions: &'a BTreeMap<String, Defined>,
    /// What was declared before this plan.
    pub(super) former: &'a [Resource],
    /// Services that have to start anew for another reason than their definitions, and why.
    pub(super) pending: &'a BTreeMap<String, String>,
    /// What paths mean to PID 1.
    pub(super) places: &'a units::Places,
    /// Unit files whose removal leaves another file of the same unit.
    pub(super) uncovering: &'a BTreeSet<ManagedPath>,
    /// The host's guards.
    pub(super) guards: &'a Guards,
}

/// Reasons that are told of one wake; the others are counted.
const TOLD: usize = 2;

/// The wakes that these steps owe, each with its reason, in the order in which they are carried out: the manager first, then
/// reloads, then restarts, of what starts others before the others. As if nothing was made by the step `without`.
pub(super) fn owed(steps: &[Step], manifest: &Manifest, scene: &Scene<'_>, without: Option<&Run>) -> Vec<(Wake, String)> {
    let changed: Vec<(&ManagedPath, bool)> = steps
        .iter()
        .filter_map(|s| match &s.change {
            Change::Entry { path, after, .. } => Some((path, *after == Object::Absent && !scene.uncovering.contains(path))),
            _ => None,
        })
        .collect();
    let mut asks = Asks::new(manifest, scene.former);
    asks.definitions(&changed, scene);
    asks.guards(&changed, scene.guards);
    let left_out: &[ManagedPath] = without.map_or(&[], |run| &run.makes);
    let made = steps.iter().filter_map(|step| maker(&step.change)).flat_map(|run| &run.makes);
    let made: Vec<&ManagedPath> = made.filter(|path| !left_out.contains(path)).collect();
    asks.inputs(scene, left_out);
    asks.watches(&changed, &made);
    for (unit, why) in scene.pending {
        asks.ask(unit, Effect::Restart, why.as_str());
    }
    asks.limit_to_what_can_be(steps, scene);
    asks.sockets(steps, scene);
    asks.dependents(steps, scene);
    let moves = |from: Option<bool>, to: Option<bool>| from.is_some() && to.is_some() && from != to;
    let links_change = |step: &Step| {
        matches!(&step.change, Change::Unit { before, after, .. }
            if moves(before.enabled, after.enabled) || moves(before.masked, after.masked) || after.anew)
    };
    let manager = changed.iter().any(|(path, _)| scene.places.of_path(path).is_some()) || steps.iter().any(links_change);
    let stale = scene.units.iter().filter(|(unit, seen)| seen.stale && !asks.by_unit.contains_key(*unit));
    let stale: Vec<String> = stale.map(|(unit, _)| format!("{unit}: PID 1 knows its files as they were")).collect();
    asks.into_wakes(manager, stale)
}

/// Of each wake the one step that makes something without which it would not be owed.
pub(super) fn only_for(steps: &[Step], wakes: &[Wake], manifest: &Manifest, scene: &Scene<'_>) -> Vec<Option<String>> {
    let mut only_for = vec![None; wakes.len()];
    for run in steps.iter().filter_map(|step| maker(&step.change)) {
        let others: Vec<Wake> = owed(steps, manifest, scene, Some(run)).into_iter().map(|(wake, _)| wake).collect();
        for (target, _) in only_for.iter_mut().zip(wakes).filter(|(_, wake)| !others.contains(wake)) {
            *target = Some(run.target.clone());
        }
    }
    only_for
}

/// The program's step that makes paths, if a change is one.
pub(crate) fn maker(change: &Change) -> Option<&Run> {
    match change {
        Change::Run(run) if !run.makes.is_empty() && !change.is_noop() => Some(run),
        _ => None,
    }
}

/// What one unit is asked to do.
#[derive(Default)]
struct Ask {
    proof: Option<Proof>,
    why: Vec<(Effect, String)>,
}

impl Ask {
    /// The most that is asked.
    fn effect(&self) -> Effect {
        self.why.iter().map(|(effect, _)| *effect).max().unwrap_or(Effect::Nothing)
    }

    /// Who asks for that.
    fn reasons(&self) -> String {
        let mut told: Vec<&str> = Vec::new();
        for (_, why) in self.why.iter().filter(|(effect, _)| *effect == self.effect()) {
            if !told.contains(&why.as_str()) {
                told.push(why);
            }
        }
        let more = told.len().saturating_sub(TOLD);
        told.truncate(TOLD);
        match more {
            0 => told.join(", "),
            more => format!("{} and {more} more", told.join(", ")),
        }
    }

    /// No more than this happens, and why.
    fn limit(&mut self, most: Effect, why: &str) {
        if self.effect() > most {
            self.why = vec![(most, format!("{}, but {why}", self.reasons()))];
        }
    }
}

/// What all units are asked to do.
struct Asks {
    specs: BTreeMap<String, UnitSpec>,
    /// Tables that leave the repository with this plan: their units have read what they watch all the same.
    former: BTreeMap<String, UnitSpec>,
    by_unit: BTreeMap<String, Ask>,
    /// Programs that carry out what changed files say.
    runs: BTreeMap<Wake, Ask>,
}

impl Asks {
    fn new(manifest: &Manifest, former: &[Resource]) -> Self {
        let tables = |resources: &[Resource]| -> BTreeMap<String, UnitSpec> {
            let units = resources.iter().filter(|r| r.kind == UnitSpec::KIND);
            units.filter_map(|r| Some((r.name.clone(), serde_json::from_value(r.spec.clone()).ok()?))).collect()
        };
        let specs = tables(&manifest.resources);
        let mut former = tables(former);
        former.retain(|name, _| !specs.contains_key(name));
        Self { specs, former, by_unit: BTreeMap::new(), runs: BTreeMap::new() }
    }

    fn ask(&mut self, unit: &str, effect: Effect, why: impl Into<String>) -> &mut Ask {
        let ask = self.by_unit.entry(unit.to_owned()).or_default();
        ask.why.push((effect, why.into()));
        ask
    }

    /// As the unit's table has it where that says what a change does.
    fn ask_as_declared(&mut self, unit: &str, effect: Effect, why: String) {
        let on_change = self
            .specs
            .get(unit)
            .or_else(|| self.former.get(unit))
            .and_then(|spec| spec.on_change)
            .filter(|_| effect >= Effect::Reload);
        match on_change {
            None => self.ask(unit, effect, why),
            Some(OnChange::Restart) => self.ask(unit, effect.max(Effect::Restart), why),
            Some(OnChange::Reload) => self.ask(unit, Effect::Reload, why),
            Some(OnChange::DaemonReload) => self.ask(unit, Effect::DaemonReload, format!("{why}; on_change = \"daemon-reload\"")),
            Some(OnChange::None) => self.ask(unit, Effect::Nothing, format!("{why}; on_change = \"none\"")),
        };
    }

    /// Units whose own files change.
    fn definitions(&mut self, changed: &[(&ManagedPath, bool)], scene: &Scene<'_>) {
        let of_file = |(path, removed): &(&ManagedPath, bool)| self.units_of_file(path, *removed, scene);
        let touched: BTreeSet<String> = changed.iter().flat_map(of_file).collect();
        for unit in touched {
            let difference = match scene.definitions.get(&unit) {
                Some(defined) => Difference::between(&unit, &defined.now, &defined.then),
                None => Difference { effect: Effect::Restart, why: "its unit file changed".to_owned(), of_schedule: false },
            };
            if difference.of_schedule && scene.units.get(&unit).is_some_and(|seen| seen.sub == "elapsed") {
                self.ask(&unit, Effect::Restart, format!("it has elapsed, and {}", difference.why));
            }
            self.ask_as_declared(&unit, difference.effect, difference.why);
        }
    }

    /// The units whose definition a file is part of; of those of a whole type the ones that are declared.
    fn units_of_file(&self, path: &ManagedPath, removed: bool, scene: &Scene<'_>) -> Vec<String> {
        let is_declared = |unit: &str| self.specs.contains_key(unit) || self.former.contains_key(unit);
        match scene.places.of_path(path) {
            // A fragment that goes takes its unit with it (`plan::stops`).
            Some(UnitFile::Fragment(_)) if removed => Vec::new(),
            Some(file) => {
                let is_meant = |unit: &&String| file.defines(unit) && (!file.is_of_type() || is_declared(unit));
                scene.units.keys().filter(is_meant).cloned().collect()
            }
            None => Vec::new(),
        }
    }

    /// Services whose programs have a guard that knows how they read their configuration.
    fn guards(&mut self, changed: &[(&ManagedPath, bool)], guards: &Guards) {
        for (path, _) in changed {
            for run in guards.of(path).filter_map(|guard| guard.run.as_ref()) {
                let wake = Wake::Run { argv: run.command.clone(), success: run.success.clone() };
                self.runs.entry(wake).or_default().why.push((Effect::Nothing, format!("{path} changed")));
            }
            for GuardWake { unit, action, proof, .. } in guards.of(path).filter_map(|guard| guard.wake.as_ref()) {
                let effect = match action {
                    WakeAction::Reload => Effect::Reload,
                    WakeAction::Restart => Effect::Restart,
                };
                let ask = self.ask(unit, effect, format!("{path} changed"));
                ask.proof = ask.proof.take().max(proof.clone());
            }
        }
    }

    /// Services that name what changes. A guard that wakes the same one knows better.
    fn inputs(&mut self, scene: &Scene<'_>, left_out: &[ManagedPath]) {
        for (unit, defined) in scene.definitions {
            for (path, what) in defined.read.iter().filter(|(path, _)| !left_out.contains(path)) {
                if !scene.guards.wakes(path, unit) {
                    self.ask_as_declared(unit, Effect::Restart, format!("its {what} changed"));
                }
            }
        }
    }

    fn watches(&mut self, changed: &[(&ManagedPath, bool)], made: &[&ManagedPath]) {
        let watching: Vec<(String, String)> = self
            .specs
            .values()
            .chain(self.former.values())
            .flat_map(|spec| {
                let mut set = GlobSetBuilder::new();
                for glob in spec.watch.iter().filter_map(|glob| crate::path::glob(glob).ok()) {
                    set.add(glob);
                }
                let set = set.build().unwrap_or_default();
                let files = changed.iter().map(|(path, _)| *path).filter(|path| set.is_match(path.as_path()));
                // What is made is a tree: a glob may mean it, or what is in it.
                let trees =
                    made.iter().copied().filter(|path| set.is_match(path.as_path()) || set.is_match(path.as_path().join("any")));
                let seen: Vec<_> = files.chain(trees).map(|path| (spec.name.clone(), format!("{path} changed"))).collect();
                seen
            })
            .collect();
        for (unit, why) in watching {
            self.ask_as_declared(&unit, Effect::Restart, why);
        }
    }

    /// What is started or stopped anyway reads the new state by that, what does not run has nothing to read, and some units are
    /// left alone.
    fn limit_to_what_can_be(&mut self, steps: &[Step], scene: &Scene<'_>) {
        let moved = started_or_stopped(steps);
        let runs = |unit: &String| scene.units.get(unit).is_some_and(|seen| !seen.is_down());
        self.by_unit.retain(|unit, _| runs(unit) && !moved.contains(unit.as_str()));
        for (unit, ask) in &mut self.by_unit {
            let (seen, defined) = (scene.units.get(unit), scene.definitions.get(unit));
            if let Some(why) = left_alone(unit, scene).filter(|_| ask.effect() >= Effect::Restart || units::is_ours(unit)) {
                ask.limit(Effect::DaemonReload, why);
            } else if ask.effect() == Effect::Reload && !can_reload(unit, seen, defined) {
                ask.why.push((Effect::Restart, format!("{}, and it has no ExecReload=", ask.reasons())));
            }
        }
    }

    /// A socket cannot listen anew while its service runs (systemd.socket(5)): both stop, the socket first, so that no client
    /// starts the service in between; and both start, the socket first, so that the service gets what it listens on.
    fn sockets(&mut self, steps: &[Step], scene: &Scene<'_>) {
        let runs = |unit: &String| scene.units.get(unit).is_some_and(|seen| !seen.is_down());
        let moved = started_or_stopped(steps);
        let mut behind: Vec<(String, String)> = Vec::new();
        let restarted =
            self.by_unit.iter_mut().filter(|(unit, ask)| unit.ends_with(".socket") && ask.effect() >= Effect::Restart);
        for (socket, ask) in restarted {
            let services = served(socket, scene);
            if services.iter().any(|service| runs(service) && left_alone(service, scene).is_some()) {
                ask.limit(Effect::DaemonReload, "its service has to go on: it listens as before until the next boot");
                continue;
            }
            ask.why
                .iter_mut()
                .filter(|(effect, _)| *effect == Effect::Restart)
                .for_each(|(effect, _)| *effect = Effect::StopStart);
            behind.extend(services.into_iter().map(|service| (service, format!("{socket} listens anew"))));
        }
        for step in steps {
            let Change::Unit { unit, before, after } = &step.change else { continue };
            if !unit.ends_with(".socket") || after.active == before.active {
                continue;
            }
            let services = served(unit, scene).into_iter();
            match after.active {
                Some(true) => behind.extend(services.map(|service| (service, format!("{unit} is about to listen")))),
                // Without its socket only a service that somebody wants up goes on, and has to listen by itself.
                Some(false) => behind.extend(services.filter(|s| self.is_wanted_up(s)).map(|s| (s, format!("{unit} goes")))),
                None => {}
            }
        }
        let can_stop = |service: &str| !moved.contains(service) && left_alone(service, scene).is_none();
        for (service, why) in behind.into_iter().filter(|(service, _)| runs(service) && can_stop(service)) {
            self.ask(&service, Effect::StopStart, why);
        }
    }

    /// What requires a unit stops with it, and a start of that does not bring it back, as a restart does.
    fn dependents(&mut self, steps: &[Step], scene: &Scene<'_>) {
        let moved = started_or_stopped(steps);
        let stops = |ask: &Ask| ask.effect() == Effect::StopStart;
        let mut stopped: Vec<String> = self.by_unit.iter().filter(|(_, ask)| stops(ask)).map(|(unit, _)| unit.clone()).collect();
        while let Some(unit) = stopped.pop() {
            let dependents = scene.units.get(&unit).map(|seen| seen.dependents.clone()).unwrap_or_default();
            for dependent in dependents {
                let runs = scene.units.get(&dependent).is_some_and(|seen| !seen.is_down());
                let asked = self.by_unit.get(&dependent).is_some_and(|ask| ask.effect() >= Effect::Restart);
                if runs && !asked && !moved.contains(dependent.as_str()) && !units::is_ours(&dependent) {
                    self.ask(&dependent, Effect::Restart, format!("it stops with {unit}"));
                    stopped.push(dependent);
                }
            }
        }
    }

    fn is_wanted_up(&self, unit: &str) -> bool {
        self.specs.get(unit).is_some_and(|spec| spec.wanted().active == Some(true))
    }

    fn into_wakes(self, manager: bool, stale: Vec<String>) -> Vec<(Wake, String)> {
        let only_read = self
            .by_unit
            .iter()
            .filter(|(_, ask)| ask.effect() <= Effect::DaemonReload)
            .map(|(unit, ask)| format!("{unit}: {}", ask.reasons()));
        let is_stale = !stale.is_empty();
        let only_read: Vec<String> = only_read.chain(stale).collect();
        let declared = self.by_unit.values().any(|ask| ask.effect() == Effect::DaemonReload);
        let mut wakes: Vec<(Wake, String)> = self.runs.into_iter().map(|(wake, ask)| (wake, ask.reasons())).collect();
        for (unit, ask) in self.by_unit {
            let why = ask.reasons();
            match ask.effect() {
                Effect::Nothing | Effect::DaemonReload => {}
                Effect::Reload => wakes.push((Wake::Reload { unit, proof: ask.proof }, why)),
                Effect::Restart => wakes.push((Wake::Restart { unit }, why)),
                Effect::StopStart => wakes.push((Wake::StopStart { unit }, why)),
            }
        }
        if manager || declared || is_stale {
            wakes.push((Wake::DaemonReload, only_read.join("; ")));
        }
        let rank = |wake: &Wake| match wake {
            Wake::DaemonReload => 0,
            Wake::Run { .. } => 1,
            Wake::Reload { .. } => 2,
            Wake::Restart { unit } | Wake::StopStart { unit } => {
                if units::is_trigger(unit) {
                    3
                } else {
                    4
                }
            }
        };
        wakes.sort_by_key(|(wake, _)| rank(wake));
        wakes
    }
}

/// Why a unit that runs is neither stopped nor started by a plan.
fn left_alone(unit: &str, scene: &Scene<'_>) -> Option<&'static str> {
    let defined = scene.definitions.get(unit);
    let is_at_work =
        || defined.is_some_and(Defined::runs_to_its_end) && scene.units.get(unit).is_some_and(|seen| seen.active == "activating");
    let nothing = Definition::default();
    spared(unit, defined.map_or(&nothing, |d| &d.then))
        .or_else(|| is_at_work().then_some("it is at work: its next start reads that"))
        .or_else(|| serves_one_connection(unit, scene).then_some("it serves one connection: the next one reads that"))
}

fn can_reload(unit: &str, seen: Option<&UnitSeen>, defined: Option<&Defined>) -> bool {
    match defined {
        Some(defined) if unit.ends_with(".service") => defined.can_reload(),
        _ => seen.is_some_and(|seen| seen.can_reload),
    }
}

/// The services that get their sockets from this one: those that PID 1 knows of, and those that its file will name. One that
/// accepts connections itself (`Accept=yes`) never has a service in its way.
fn served(socket: &str, scene: &Scene<'_>) -> BTreeSet<String> {
    let defined = scene.definitions.get(socket);
    if defined.is_some_and(|defined| defined.then.is_on("Socket", "Accept")) {
        return BTreeSet::new();
    }
    let mut services: BTreeSet<String> =
        scene.units.get(socket).map(|seen| seen.triggers.clone()).unwrap_or_default().into_iter().collect();
    services.extend(defined.map(|defined| units::service_of(socket, &defined.then)));
    services
}

/// An instance that a socket with `Accept=yes` has made for a client: nobody could start it again.
fn serves_one_connection(unit: &str, scene: &Scene<'_>) -> bool {
    let accepts = |socket: &String| scene.definitions.get(socket).is_some_and(|d| d.now.is_on("Socket", "Accept"));
    units::maker_of(unit).is_some_and(|socket| accepts(&socket))
        || scene.units.get(unit).is_some_and(|seen| seen.triggered_by.iter().any(accepts))
}

fn started_or_stopped(steps: &[Step]) -> BTreeSet<&str> {
    steps
        .iter()
        .filter(|s| entry_path(&s.change).is_none())
        .filter_map(|s| match &s.change {
            Change::Unit { unit, before, after } if after.active.is_some() && after.active != before.active => {
                Some(unit.as_str())
            }
            _ => None,
        })
        .collect()
}
