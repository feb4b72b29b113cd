//! What a host is reached and governed by. A change of it may cut off whoever made it, so that it has to be confirmed. Pure.

pub mod connection;

use std::collections::{BTreeMap, BTreeSet};

use globset::{GlobSet, GlobSetBuilder};

use crate::change::{Change, Run};
use crate::kind::{self, Claim, Phase};
use crate::plan::Plan;
use crate::units;

/// Who takes back what nobody has confirmed, on record.
pub const ACTOR: &str = "confirm-window";

/// The lifelines of a host: places in the file tree, units with their files, and what programs change.
#[derive(Clone, Debug, Default)]
pub struct Lifelines {
    paths: GlobSet,
    units: BTreeSet<String>,
    targets: BTreeSet<String>,
}

impl Lifelines {
    /// From globs over absolute paths, names of units and targets of other kinds.
    ///
    /// # Errors
    /// One sentence on a row that is none of them.
    pub fn new(rows: &[String]) -> Result<Self, String> {
        let (mut paths, mut names, mut targets) = (GlobSetBuilder::new(), BTreeSet::new(), BTreeSet::new());
        for row in rows {
            if row.starts_with('/') {
                paths.add(crate::path::glob(row).map_err(|e| format!("lifelines: {e}"))?);
            } else if units::SUFFIXES.iter().any(|suffix| row.ends_with(suffix)) {
                names.insert(row.clone());
            } else if kind_of(row).is_some() {
                targets.insert(row.clone());
            } else {
                return Err(format!(
                    "lifelines: `{row}` is neither an absolute path nor the name of a unit, as \"ssh.service\", nor another target, as \"ufw:deny\""
                ));
            }
        }
        Ok(Self { paths: paths.build().map_err(|e| format!("lifelines: {e}"))?, units: names, targets })
    }

    /// The units among them.
    #[must_use]
    pub fn units(&self) -> &BTreeSet<String> {
        &self.units
    }

    /// What of a plan changes a lifeline: targets, in order.
    #[must_use]
    pub fn of(&self, plan: &Plan) -> Vec<String> {
        let steps = plan.steps.iter().filter(|step| !step.within_reach).map(|step| &step.change);
        let changed = steps.filter(|change| self.is_changed_by(change)).map(Change::target);
        let woken = plan.wakes.iter().filter(|wake| wake.unit().is_some_and(|unit| self.units.contains(unit)));
        let mut targets: Vec<String> = changed.collect();
        for target in woken.map(crate::change::Wake::target) {
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        targets
    }

    /// What brings back, of what a ledger gives up, that by which the host was reached: nobody has shown that it still can be.
    #[must_use]
    pub fn given_back(&self, ledger: &BTreeMap<String, Change>, targets: &[String]) -> Vec<(Phase, String, Vec<Claim>)> {
        let ours = targets.iter().filter(|target| self.targets.contains(*target));
        let back = ours.filter_map(|target| {
            let Some(Change::Run(run)) = ledger.get(target).filter(|change| !change.is_noop()) else { return None };
            let (before, backward) = (run.before.clone()?, run.backward.clone()?);
            let forward = Some(run.forward.clone());
            let run = Run { before: None, after: before, forward: backward, backward: forward, ..(**run).clone() };
            let claim = Claim::new(Change::Run(Box::new(run)), "left the repository: as it was before");
            Some((kind_of(target)?.phase(), target.clone(), vec![claim]))
        });
        back.collect()
    }

    fn is_changed_by(&self, change: &Change) -> bool {
        match change {
            Change::Unit { unit, .. } => self.units.contains(unit),
            Change::Run(run) => self.targets.contains(&run.target),
            change => change.path().is_some_and(|path| {
                units::of_path(path).is_some_and(|file| self.units.iter().any(|unit| file.defines(unit)))
                    || self.paths.is_match(path.as_path())
            }),
        }
    }
}

/// The kind of a target: `ufw:deny`.
fn kind_of(target: &str) -> Option<&'static dyn kind::Kind> {
    kind::find(target.split_once(':')?.0)
}

#[cfg(test)]
mod tests {
    use super::Lifelines;

    #[test]
    fn a_row_is_a_path_or_a_unit() {
        let rows = |row: &str| Lifelines::new(&[row.to_owned()]).map(drop);
        assert_eq!([rows("/etc/ssh/**"), rows("ssh.service"), rows("ufw:deny")], [Ok(()), Ok(()), Ok(())]);
        assert!(rows("ssh").unwrap_err().contains("neither") && rows("/etc/[").is_err() && rows("fwu:deny").is_err());
    }
}
