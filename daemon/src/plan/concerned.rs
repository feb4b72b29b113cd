//! What a plan has to know and say of units: which it concerns, which stop before their files go, which may stop although nobody asks for it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Defined, GONE, PlanError, Step, entry_path};
use crate::change::{Change, Object, Wake};
use crate::guard::Guards;
use crate::host::UnitSeen;
use crate::kind::{Phase, Spec as _, UnitSpec};
use crate::manifest::{Manifest, Resource};
use crate::path::ManagedPath;
use crate::units::{self, UnitFile};

/// The units whose state a plan has to know: those whose files are managed and those that declarations name, since PID 1 may know
/// them otherwise; and those that guards name for what changes.
#[must_use]
pub fn concerned_units<'a, 'r>(
    changes: impl Iterator<Item = &'a Change>,
    declared: impl Iterator<Item = &'r Resource>,
    guards: &Guards,
    places: &units::Places,
) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = declared.filter(|r| r.kind == UnitSpec::KIND).map(|r| r.name.clone()).collect();
    for change in changes {
        if let Change::Unit { unit, .. } = change {
            names.insert(unit.clone());
        }
        let Some(path) = entry_path(change) else { continue };
        names.extend(places.of_path(path).and_then(|file| file.unit().map(str::to_owned)));
        if !change.is_noop() {
            names.extend(guards.of(path).filter_map(|g| g.wake.as_ref()).map(|w| w.unit.clone()));
        }
    }
    names
}

/// Units that these changes concern without naming them, as globs: instances of templates, and those whose names begin so.
#[must_use]
pub fn concerned_patterns<'a>(changes: impl Iterator<Item = &'a Change>, places: &units::Places) -> BTreeSet<String> {
    let pattern = |change: &Change| places.of_path(entry_path(change)?)?.others();
    changes.filter(|c| !c.is_noop()).filter_map(pattern).collect()
}

/// Files that generators of systemd make units from: what a change of them brings is known after it.
const GENERATED_FROM: [&str; 4] = ["/etc/fstab", "/etc/crypttab", "/etc/init.d/", "/etc/containers/systemd/"];

pub(super) fn is_trigger_step(step: &Step) -> bool {
    matches!(&step.change, Change::Unit { unit, .. } if units::is_trigger(unit))
}

/// A service that waits for its next automatic restart is not started: when that failed once more, the undo would take even
/// this restart from it.
pub(super) fn leave_in_good_hands(step: &mut Step, units: &BTreeMap<String, UnitSeen>) {
    let Change::Unit { unit, before, after } = &mut step.change else { return };
    if after.active == Some(true) && units.get(unit).is_some_and(|seen| seen.sub == "auto-restart") {
        (before.active, after.active) = (None, None);
        step.reason = step.reason.trim_end_matches(", start").to_owned();
    }
}

/// A unit that is enabled, and stays so, follows a changed `[Install]`: PID 1 goes by the links that are there.
pub(super) fn renew_links(step: &mut Step, units: &BTreeMap<String, UnitSeen>, definitions: &BTreeMap<String, Defined>) {
    let Change::Unit { unit, before, after } = &mut step.change else { return };
    let differs = |d: &Defined| d.now.differing(&d.then).iter().any(|(section, _)| section == "Install");
    if before.enabled == Some(true) && after.enabled == Some(true) && definitions.get(unit).is_some_and(differs) {
        before.links = units.get(unit).map(|seen| seen.links.clone()).unwrap_or_default();
        after.anew = true;
        let others = Some(std::mem::take(&mut step.reason)).filter(|reason| !reason.is_empty());
        step.reason = ["enable anew, its [Install] changed".to_owned()].into_iter().chain(others).collect::<Vec<_>>().join(", ");
    }
}

/// A start of what is not there, or of what this plan takes away, would fail half-way through: better said before anything
/// is touched.
pub(super) fn refuse_missing_units(
    wanted: &[Step],
    files: &[Step],
    stopped: &[Step],
    manifest: &Manifest,
    units: &BTreeMap<String, UnitSeen>,
) -> Result<(), PlanError> {
    let made: Vec<&ManagedPath> = files.iter().filter(|s| s.change.sign() != '-').filter_map(|s| entry_path(&s.change)).collect();
    if made.iter().any(|path| GENERATED_FROM.iter().any(|from| path.as_str().starts_with(from))) {
        return Ok(());
    }
    let made: BTreeSet<String> = made
        .into_iter()
        .filter_map(|path| match units::of_path(path) {
            Some(UnitFile::Fragment(unit)) => Some(unit),
            _ => None,
        })
        .collect();
    for step in wanted {
        let Change::Unit { unit, after, .. } = &step.change else { continue };
        let wanted_up = after.enabled == Some(true) || after.active == Some(true);
        let goes = stopped.iter().any(|step| matches!(&step.change, Change::Unit { unit: stopped, .. } if stopped == unit));
        let missing = goes || units.get(unit).is_some_and(|seen| seen.load == "not-found");
        let comes = made.contains(unit) || units::template_of(unit).is_some_and(|template| made.contains(&template));
        if wanted_up && missing && !comes {
            let declared = manifest.resources.iter().find(|r| r.kind == UnitSpec::KIND && r.name == *unit);
            let origin = declared.map_or_else(|| step.resource.clone(), |r| r.origin.to_string());
            return Err(PlanError::NoUnit { origin, unit: unit.clone() });
        }
    }
    Ok(())
}

/// Stops and disablements come before the files go: a reload that has forgotten a unit forgets how to stop it.
pub(super) fn stops<'a>(
    unit_releases: &[Step],
    files: impl Iterator<Item = &'a Step>,
    units: &BTreeMap<String, UnitSeen>,
    uncovering: &BTreeSet<ManagedPath>,
) -> Vec<Step> {
    let mut steps: Vec<Step> = unit_releases.iter().filter(|s| is_stop(&s.change)).cloned().collect();
    for step in files.filter(|step| !step.change.is_noop()) {
        let Some((file @ UnitFile::Fragment(_), path)) = removed_unit(&step.change) else { continue };
        if uncovering.contains(path) {
            continue;
        }
        let read_from = |seen: &UnitSeen| seen.fragment.is_empty() || seen.fragment == path.as_str();
        for (unit, seen) in units.iter().filter(|(name, seen)| file.defines(name) && read_from(seen)) {
            let after = crate::change::UnitFacts { enabled: Some(false), active: Some(false), ..Default::default() };
            let before = after.managed_part_of(&seen.facts_towards(&after));
            steps.retain(|s| s.change.target() != format!("unit:{unit}"));
            let (unit, reason) = (unit.clone(), "its file goes".to_owned());
            let change = Change::Unit { unit, before, after };
            steps.push(Step { resource: GONE.to_owned(), reason, phase: Phase::Units, change, within_reach: false });
        }
    }
    steps.sort_by_key(|step| !is_trigger_step(step));
    steps
}

pub(super) fn removed_unit(change: &Change) -> Option<(UnitFile, &ManagedPath)> {
    match change {
        Change::Entry { path, after: Object::Absent, .. } => Some((units::of_path(path)?, path)),
        _ => None,
    }
}

pub(super) fn is_stop(change: &Change) -> bool {
    matches!(change, Change::Unit { after, .. } if after.active == Some(false) || after.enabled == Some(false))
}

/// Units whose files appear or change, and that will be there. Of those that share a drop-in, the ones that are known.
pub(super) fn changed_units(
    steps: &[Step],
    known: &BTreeMap<String, UnitSeen>,
    places: &units::Places,
    uncovering: &BTreeSet<ManagedPath>,
) -> BTreeSet<String> {
    let changed = steps.iter().filter_map(|step| match &step.change {
        Change::Entry { path, after, .. } => Some((places.of_path(path)?, path, after)),
        _ => None,
    });
    let changed: Vec<(UnitFile, &ManagedPath, &Object)> = changed.collect();
    let of = |gone: bool| {
        let own = changed
            .iter()
            .filter(move |(file, _, after)| matches!(file, UnitFile::Fragment(_)) && (**after == Object::Absent) == gone);
        own.filter(move |(_, path, _)| !gone || !uncovering.contains(*path)).map(|(file, _, _)| file)
    };
    let goes = |unit: &String| of(true).any(|file| file.defines(unit)) && !of(false).any(|file| file.defines(unit));
    let named = changed.iter().map(|(file, _, after)| (file.clone(), *after));
    named
        .flat_map(|(file, after)| match (file, after) {
            (UnitFile::Fragment(_), Object::Absent) | (UnitFile::Other, _) => Vec::new(),
            (UnitFile::Fragment(unit) | UnitFile::DropIn(unit), _) => vec![unit],
            (file @ UnitFile::CommonDropIn(_), _) => known.keys().filter(|unit| file.defines(unit)).cloned().collect(),
        })
        .filter(|unit| !goes(unit))
        .collect()
}

/// What runs, is not touched, and may stop all the same.
pub(super) fn bystanders(
    units: &BTreeMap<String, UnitSeen>,
    steps: &[Step],
    touched: &[String],
    manifest: &Manifest,
    lifelines: &BTreeSet<String>,
) -> BTreeMap<String, bool> {
    let declared = manifest.resources.iter().filter(|r| r.kind == UnitSpec::KIND);
    let specs = declared.filter_map(|r| serde_json::from_value::<UnitSpec>(r.spec.clone()).ok());
    let wanted: BTreeSet<String> = specs.filter(|spec| spec.wanted().active == Some(true)).map(|spec| spec.name).collect();
    if !steps.iter().any(|step| matches!(step.change, Change::Unit { .. })) && touched.is_empty() {
        return BTreeMap::new();
    }
    let runs = units.iter().filter(|(unit, seen)| seen.is_active() && !touched.contains(unit) && !units::is_ours(unit));
    runs.map(|(unit, _)| (unit.clone(), wanted.contains(unit) || lifelines.contains(unit))).collect()
}

pub(super) fn touched(steps: &[Step], wakes: &[Wake]) -> Vec<String> {
    let from_steps = steps.iter().filter_map(|s| match &s.change {
        Change::Unit { unit, .. } => Some(unit.clone()),
        _ => None,
    });
    let from_wakes = wakes.iter().filter_map(|wake| wake.unit().map(str::to_owned));
    from_steps.chain(from_wakes).collect::<BTreeSet<_>>().into_iter().collect()
}
