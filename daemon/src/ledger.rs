//! What we own and what stood there before us: how things that left the repository are given back. No kind-specific word.

use std::collections::{BTreeMap, BTreeSet};

use crate::change::{Change, Object};
use crate::host::{HostError, HostResult, Look};
use crate::kind::{self, Claim};
use crate::path::ManagedPath;

/// What the ledger gives up for one plan.
#[derive(Debug, Default)]
pub struct Releases {
    /// Changes that bring back what stood there before us.
    pub claims: Vec<Claim>,
    /// Targets that leave the ledger.
    pub targets: Vec<String>,
    /// Remarks on what stays.
    pub notes: Vec<String>,
}

/// Compares the ledger with what a plan claims.
///
/// # Errors
/// When the host cannot be read.
pub fn releases(ledger: &BTreeMap<String, Change>, claimed: &[&Change], host: &dyn Look) -> HostResult<Releases> {
    let targets: BTreeSet<String> = claimed.iter().map(|c| c.target()).collect();
    let paths: Vec<&ManagedPath> = claimed.iter().filter(|c| !removes(c)).filter_map(|c| c.path()).collect();
    let mut releases = Releases::default();
    for (target, displaced) in ledger.iter().filter(|(target, _)| !targets.contains(*target)) {
        if is_still_needed(displaced, &paths) {
            continue;
        }
        releases.targets.push(target.clone());
        match give_back(displaced, host) {
            Ok(Some(claim)) => releases.claims.push(claim),
            Ok(None) => {}
            // Its place is not as it was: nothing is forced there.
            Err(HostError::Unfit(why)) => releases.notes.push(format!("{target} is let go: {why}")),
            Err(error) => return Err(error),
        }
    }
    let_go_of_full_directories(&mut releases, host)?;
    Ok(releases)
}

/// A directory that we made and that others have put something into stays: data is never deleted by omission.
fn let_go_of_full_directories(releases: &mut Releases, host: &dyn Look) -> HostResult<()> {
    let goes = |change: &Change| matches!(change, Change::Entry { after: Object::Absent, .. } | Change::Dir { after: None, .. });
    let mut going: BTreeSet<ManagedPath> =
        releases.claims.iter().filter(|c| goes(&c.change)).filter_map(|c| c.change.path().cloned()).collect();
    // Children before their directories: a directory that stays keeps those above it.
    let dirs: Vec<ManagedPath> = releases
        .claims
        .iter()
        .filter(|c| matches!(c.change, Change::Dir { after: None, .. }))
        .filter_map(|c| c.change.path().cloned())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .rev()
        .collect();
    for dir in dirs {
        let ours = |name: &String| going.iter().any(|p| p.file_name() == name && p.parent().as_ref() == Some(&dir));
        let Some(theirs) = host.entries(&dir, going.len() + 1)?.into_iter().find(|name| !ours(name)) else { continue };
        going.remove(&dir);
        releases.claims.retain(|c| c.change.path() != Some(&dir));
        releases.notes.push(format!("directory:{dir} is let go: it holds {}", crate::path::escape(&theirs)));
    }
    Ok(())
}

fn removes(change: &Change) -> bool {
    change.sign() == '-'
}

/// A directory that we made for something is needed as long as anything declared stands in it. One that was there before us
/// gets its mode and owner back all the same.
fn is_still_needed(displaced: &Change, paths: &[&ManagedPath]) -> bool {
    match displaced {
        Change::Dir { path, before: None, .. } => paths.iter().any(|p| p.is_below(path)),
        _ => false,
    }
}

fn give_back(displaced: &Change, host: &dyn Look) -> HostResult<Option<Claim>> {
    let change = match displaced {
        Change::Entry { path, before: displaced, secret, .. } => {
            let live = host.object(path)?.object;
            if matches!(live, Object::Other { .. }) || matches!(displaced, Object::Other { .. }) {
                return Err(HostError::Unfit(format!("{path} is {live} now")));
            }
            Change::Entry { path: path.clone(), before: live, after: displaced.clone(), secret: *secret }
        }
        Change::Dir { path, before: displaced, .. } => {
            let live = host.directory(path)?;
            if live.is_none() {
                return Ok(None);
            }
            Change::Dir { path: path.clone(), before: live, after: *displaced }
        }
        Change::Unit { unit, before: displaced, .. } => {
            let mut after = displaced.clone();
            after.links.clear();
            let seen = host.unit(unit)?;
            if seen.load == "not-found" && (after.enabled == Some(true) || after.active == Some(true)) {
                return Err(HostError::Unfit(format!("{unit} was running or enabled before, and is not on this host any more")));
            }
            let seen = seen.facts_towards(&after);
            Change::Unit { unit: unit.clone(), before: after.managed_part_of(&seen), after }
        }
        // What programs made may hold data by now: it goes when somebody says so.
        Change::Run(run) if !run.knows_what() => return Err(HostError::Unfit("what it has done stays".to_owned())),
        Change::Run(run) => {
            let kind = run.target.split(':').next().and_then(kind::find);
            let remedy = match kind.is_some_and(|kind| !kind.is_single()) {
                true => format!("; state = \"absent\" for {} removes it", run.target),
                false => String::new(),
            };
            return Err(HostError::Unfit(format!("it stays as it is{remedy}")));
        }
    };
    let reason = match &change {
        Change::Entry { after: Object::Absent, .. } | Change::Dir { after: None, .. } => "left the repository",
        Change::Unit { .. } => "left the repository: as it was before",
        _ => "left the repository: what stood here before comes back",
    };
    Ok(Some(Claim::new(change, reason)))
}

#[cfg(test)]
mod tests;
