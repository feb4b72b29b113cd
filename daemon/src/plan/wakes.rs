//! Which processes have to read what changed, and how they are made to.

use std::collections::{BTreeMap, BTreeSet};

use globset::GlobSetBuilder;

use super::{Step, entry_path};
use crate::change::{Change, Object, Wake};
use crate::guard::{Guard, Guards};
use crate::host::UnitSeen;
use crate::kind::{OnChange, Spec as _, UnitSpec};
use crate::manifest::Manifest;
use crate::path::ManagedPath;
use crate::units::{self, UnitFile};

/// What besides the steps decides on the wakes.
pub(super) struct Scene<'a> {
    /// The units that the steps may concern, as they are now.
    pub(super) units: &'a BTreeMap<String, UnitSeen>,
    /// Unit files whose removal leaves another file of the same unit.
    pub(super) uncovering: &'a BTreeSet<ManagedPath>,
    /// The host's guards.
    pub(super) guards: &'a Guards,
}

/// The wakes that these steps owe, in the order in which they are carried out: the manager first, then programs, then
/// reloads, then restarts.
pub(super) fn owed(steps: &[Step], manifest: &Manifest, scene: &Scene<'_>) -> Vec<Wake> {
    let changed: Vec<(&ManagedPath, bool)> = steps
        .iter()
        .filter_map(|s| match &s.change {
            Change::Entry { path, after, .. } => Some((path, *after == Object::Absent && !scene.uncovering.contains(path))),
            _ => None,
        })
        .collect();
    let mut wakes = BTreeSet::new();
    if changed.iter().any(|(path, _)| units::of_path(path).is_some()) {
        wakes.insert(Wake::DaemonReload);
    }
    let specs = unit_specs(manifest);
    for (path, removed) in &changed {
        for unit in units_of_file(path, *removed, scene.units) {
            wakes.extend(action(specs.get(&unit).and_then(|s| s.on_change), &unit));
        }
        wakes.extend(scene.guards.of(path).flat_map(Guard::wakes));
    }
    // A socket is restarted without its service in its way; that is owed its own start afterwards.
    let sockets = wakes.iter().filter_map(|wake| match wake {
        Wake::Restart { unit } if unit.ends_with(".socket") => scene.units.get(unit),
        _ => None,
    });
    let served: Vec<String> = sockets.flat_map(|seen| seen.triggers.clone()).collect();
    wakes.extend(served.into_iter().map(|unit| Wake::Restart { unit }));
    for spec in specs.values() {
        if watches(spec, &changed) {
            wakes.extend(action(spec.on_change, &spec.name));
        }
    }
    let started_or_stopped = unit_steps(steps);
    let running = |unit: &str| scene.units.get(unit).is_some_and(|seen| !seen.is_down());
    wakes.retain(|wake| match wake {
        Wake::DaemonReload | Wake::Run { .. } => true,
        // The engine cannot wait for the end of a job that waits for the engine.
        Wake::Reload { unit, .. } | Wake::Restart { unit } if units::is_ours(unit) => false,
        // What is started or stopped anyway reads the new state by that, and what does not run has nothing to read.
        Wake::Reload { unit, .. } | Wake::Restart { unit } => running(unit) && !started_or_stopped.contains(unit.as_str()),
    });
    without_superfluous_reloads(&wakes)
}

fn unit_specs(manifest: &Manifest) -> BTreeMap<String, UnitSpec> {
    let units = manifest.resources.iter().filter(|r| r.kind == UnitSpec::KIND);
    units.filter_map(|r| Some((r.name.clone(), serde_json::from_value(r.spec.clone()).ok()?))).collect()
}

/// The units whose definition a file is part of: one, or all instances of a template.
fn units_of_file(path: &ManagedPath, removed: bool, units: &BTreeMap<String, UnitSeen>) -> Vec<String> {
    match units::of_path(path) {
        // A fragment that goes takes its unit with it (`plan::stops`).
        Some(UnitFile::Fragment(_)) if removed => Vec::new(),
        Some(UnitFile::Fragment(unit) | UnitFile::DropIn(unit)) if units::is_template(&unit) => {
            let is_instance = |name: &&String| units::template_of(name).is_some_and(|template| template == unit);
            units.keys().filter(is_instance).cloned().collect()
        }
        Some(UnitFile::Fragment(unit) | UnitFile::DropIn(unit)) => vec![unit],
        Some(UnitFile::Other) | None => Vec::new(),
    }
}

fn action(on_change: Option<OnChange>, unit: &str) -> Option<Wake> {
    let unit = unit.to_owned();
    match on_change {
        None | Some(OnChange::Restart) => Some(Wake::Restart { unit }),
        Some(OnChange::Reload) => Some(Wake::Reload { unit, proof: None }),
        Some(OnChange::DaemonReload) => Some(Wake::DaemonReload),
        Some(OnChange::None) => None,
    }
}

fn watches(spec: &UnitSpec, changed: &[(&ManagedPath, bool)]) -> bool {
    let mut set = GlobSetBuilder::new();
    for glob in &spec.watch {
        if let Ok(glob) = crate::path::glob(glob) {
            set.add(glob);
        }
    }
    set.build().is_ok_and(|set| changed.iter().any(|(path, _)| set.is_match(path.as_path())))
}

fn unit_steps(steps: &[Step]) -> BTreeSet<&str> {
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

/// A unit that is restarted needs no reload, and one reload is enough: the one that is proven, where one is.
fn without_superfluous_reloads(wakes: &BTreeSet<Wake>) -> Vec<Wake> {
    let is_superfluous = |wake: &Wake| match wake {
        Wake::Reload { unit, proof } => wakes.iter().any(|other| match other {
            Wake::Restart { unit: restarted } => restarted == unit,
            Wake::Reload { unit: reloaded, proof: other } => reloaded == unit && other > proof,
            Wake::DaemonReload | Wake::Run { .. } => false,
        }),
        _ => false,
    };
    let mut wakes: Vec<Wake> = wakes.iter().filter(|wake| !is_superfluous(wake)).cloned().collect();
    let is_restart = |wake: &Wake| matches!(wake, Wake::Restart { .. });
    wakes.sort_by_key(|wake| is_restart(wake) && !wake.unit().is_some_and(units::is_trigger));
    wakes
}
