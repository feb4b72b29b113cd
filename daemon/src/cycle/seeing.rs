//! From what is wanted to a plan: every kind looks, the ledger gives back, units are read, `plan::make` does the rest.

use std::collections::{BTreeMap, BTreeSet};

use super::{Engine, Order, Stop, Wanted};
use crate::audit::ChangeRecord;
use crate::change::{Change, FileFacts, Object};
use crate::digest::Digest;
use crate::host::{HostError, HostResult};
use crate::kind::{self, Claim, Phase, Sight};
use crate::ledger;
use crate::manifest::Manifest;
use crate::path::ManagedPath;
use crate::plan::{self, Intent, Material, Plan};
use crate::state::State;
use crate::units;

/// Longer files are recorded by their digests alone, in bytes.
const DIFF_LIMIT: u64 = 1 << 20;

impl Engine {
    pub(super) fn plan(&mut self, order: &Order, wanted: Wanted) -> Result<Plan, Stop> {
        let Wanted { commit, manifest } = wanted;
        let ledger = self.state.ledger()?;
        let mut claims = self.claims(&manifest)?;
        keep_secret(&mut claims, &ledger);
        let all: Vec<&Change> = claims.iter().flat_map(|(_, _, claims)| claims).map(|c| &c.change).collect();
        let releases = match order.intent() {
            Intent::Repair => ledger::Releases::default(),
            _ => ledger::releases(&ledger, &all, &*self.host)?,
        };
        let changes = all.into_iter().chain(releases.claims.iter().map(|c| &c.change));
        let changes: Vec<&Change> = changes.collect();
        let mut names = plan::concerned_units(changes.iter().copied(), &manifest, &self.guards);
        for template in plan::concerned_templates(changes.iter().copied()) {
            names.extend(self.host.instances(&template)?);
        }
        let uncovering = self.uncovering(&changes)?;
        let mut units = BTreeMap::new();
        for name in names {
            let seen = self.host.unit(&name)?;
            units.insert(name, seen);
        }
        let material = Material {
            intent: order.intent(),
            actor: order.actor().to_owned(),
            commit,
            manifest,
            claims,
            releases: releases.claims,
            released: releases.targets,
            let_go: releases.notes,
            units,
            uncovering,
            guards: &self.guards,
        };
        plan::make(material).map_err(|e| Stop::refused(e.to_string()))
    }

    /// Unit files that go and have another one of the same unit behind them.
    fn uncovering(&self, changes: &[&Change]) -> Result<BTreeSet<ManagedPath>, Stop> {
        let mut uncovering = BTreeSet::new();
        for change in changes {
            let Change::Entry { path, after: Object::Absent, .. } = change else { continue };
            for behind in units::behind(path) {
                if self.host.object(&behind)?.object != Object::Absent {
                    uncovering.insert(path.clone());
                }
            }
        }
        Ok(uncovering)
    }

    /// Every resource looks and claims; all that is impossible is said at once.
    fn claims(&self, manifest: &Manifest) -> Result<Vec<(Phase, String, Vec<Claim>)>, Stop> {
        let sight = Sight { host: &*self.host };
        let (mut claims, mut impossible) = (Vec::new(), Vec::new());
        for resource in &manifest.resources {
            let Some(kind) = kind::find(&resource.kind) else {
                return Err(Stop::refused(format!("this version knows no kind `{}`", resource.kind)));
            };
            match kind.claims(resource, &sight) {
                Ok(found) => claims.push((kind.phase(), format!("{}:{}", resource.kind, resource.name), found)),
                Err(kind::KindError::Host(error @ (HostError::Io { .. } | HostError::Timeout { .. }))) => {
                    return Err(error.into());
                }
                Err(error) => impossible.push(format!("{}: {error}", resource.origin)),
            }
        }
        if impossible.is_empty() { Ok(claims) } else { Err(Stop::refused(impossible.join("\n"))) }
    }

    /// The plan's changes for the audit log, with the difference of each text that is no secret.
    pub(super) fn change_records(&self, plan: &Plan) -> Vec<ChangeRecord> {
        let record = |step: &plan::Step| {
            let contents = self.both_contents(plan, &step.change);
            let contents = contents.as_ref().map(|(old, new)| (old.as_slice(), new.as_slice()));
            ChangeRecord::new(&step.change, &step.reason, contents)
        };
        plan.steps.iter().map(record).collect()
    }

    fn both_contents(&self, plan: &Plan, change: &Change) -> Option<(Vec<u8>, Vec<u8>)> {
        let Change::Entry { path, before, after, secret: false } = change else { return None };
        let small = |facts: &FileFacts| facts.size <= DIFF_LIMIT;
        let old = match before {
            Object::File(facts) if small(facts) => self.host.content(path, DIFF_LIMIT).ok()?,
            Object::Absent => Vec::new(),
            _ => return None,
        };
        let new = match after {
            Object::File(facts) if small(facts) => match plan.manifest.contents.get(&facts.digest) {
                Some(content) => content.clone(),
                None => stored(&self.state)(&facts.digest).ok()?,
            },
            Object::Absent => Vec::new(),
            _ => return None,
        };
        Some((old, new))
    }
}

/// What was secret once is not shown in any later change of it either: it is the old content, or will be.
fn keep_secret(claims: &mut [(Phase, String, Vec<Claim>)], ledger: &BTreeMap<String, Change>) {
    for claim in claims.iter_mut().flat_map(|(_, _, claims)| claims) {
        if ledger.get(&claim.change.target()).is_some_and(Change::is_secret) {
            claim.change.hide();
        }
    }
}

/// Contents of earlier generations and of what they displaced, by digest.
pub(super) fn stored(state: &State) -> impl Fn(&Digest) -> HostResult<Vec<u8>> + use<'_> {
    |digest| {
        let stored = state.objects().get(digest).map_err(|e| HostError::Unfit(e.to_string()))?;
        stored.ok_or_else(|| HostError::Unfit(format!("the content {} is in no generation any more", digest.short())))
    }
}
