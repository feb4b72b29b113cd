//! What a host is reached and governed by. A change of it may cut off whoever made it, so that it has to be confirmed. Pure.

pub mod connection;

use std::collections::BTreeSet;

use globset::{GlobSet, GlobSetBuilder};

use crate::change::Change;
use crate::plan::Plan;
use crate::units;

/// Who takes back what nobody has confirmed, on record.
pub const ACTOR: &str = "confirm-window";

/// The lifelines of a host: places in the file tree, and units with their files.
#[derive(Clone, Debug, Default)]
pub struct Lifelines {
    paths: GlobSet,
    units: BTreeSet<String>,
}

impl Lifelines {
    /// From globs over absolute paths and names of units.
    ///
    /// # Errors
    /// One sentence on a row that is neither.
    pub fn new(rows: &[String]) -> Result<Self, String> {
        let (mut paths, mut names) = (GlobSetBuilder::new(), BTreeSet::new());
        for row in rows {
            if row.starts_with('/') {
                paths.add(crate::path::glob(row).map_err(|e| format!("lifelines: {e}"))?);
            } else if units::SUFFIXES.iter().any(|suffix| row.ends_with(suffix)) {
                names.insert(row.clone());
            } else {
                return Err(format!("lifelines: `{row}` is neither an absolute path nor the name of a unit, as \"ssh.service\""));
            }
        }
        Ok(Self { paths: paths.build().map_err(|e| format!("lifelines: {e}"))?, units: names })
    }

    /// The units among them.
    #[must_use]
    pub fn units(&self) -> &BTreeSet<String> {
        &self.units
    }

    /// What of a plan changes a lifeline: targets, in order.
    #[must_use]
    pub fn of(&self, plan: &Plan) -> Vec<String> {
        let changed = plan.steps.iter().map(|step| &step.change).filter(|change| self.is_changed_by(change)).map(Change::target);
        let woken = plan.wakes.iter().filter(|wake| wake.unit().is_some_and(|unit| self.units.contains(unit)));
        let mut targets: Vec<String> = changed.collect();
        for target in woken.map(crate::change::Wake::target) {
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        targets
    }

    fn is_changed_by(&self, change: &Change) -> bool {
        match change {
            Change::Unit { unit, .. } => self.units.contains(unit),
            change => change.path().is_some_and(|path| {
                units::of_path(path).is_some_and(|file| self.units.iter().any(|unit| file.defines(unit)))
                    || self.paths.is_match(path.as_path())
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lifelines;

    #[test]
    fn a_row_is_a_path_or_a_unit() {
        let rows = |row: &str| Lifelines::new(&[row.to_owned()]).map(drop);
        assert_eq!([rows("/etc/ssh/**"), rows("ssh.service")], [Ok(()), Ok(())]);
        assert!(rows("ssh").unwrap_err().contains("neither") && rows("/etc/[").is_err());
    }
}
