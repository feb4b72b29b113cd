//! From what is wanted to a plan: every kind looks, the ledger gives back, units are read, `plan::make` does the rest.

use std::cell::OnceCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde::Deserialize as _;

use super::definitions::{Shelf, touched_definitions};
use super::drifting::Left;
use super::{Engine, FACTS, Order, Stop, Wanted};
use crate::audit::ChangeRecord;
use crate::change::{Change, FileFacts, Object};
use crate::digest::Digest;
use crate::host::{HostError, HostResult, UnitSeen};
use crate::kind::{self, Claim, Drift, Phase, Sight, Spec as _, UnitSpec};
use crate::ledger;
use crate::manifest::{Manifest, Resource};
use crate::path::ManagedPath;
use crate::plan::{self, Intent, Material, Plan};
use crate::policy::Right;
use crate::secrets::Secrets;
use crate::state::State;
use crate::units;
use crate::units::definition::Definition;
use crate::units::effect::spared;

/// Longer files are recorded by their digests alone, in bytes.
const DIFF_LIMIT: u64 = 1 << 20;

/// A daemon-reload that does not mend it so often in a row never will: a file with a time in the future.
const STALE_LOOKS: u32 = 3;

/// Whether a plan shows what has drifted and is declared to be left so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drifted {
    /// It is left, and so is what is fought over.
    AsDeclared,
    /// It is left; what is fought over is not, since a person asks.
    Asked,
    /// It is shown with the rest.
    All,
}

/// What each resource claims: (phase, resource id, claims).
type Claims = Vec<(Phase, String, Vec<Claim>)>;

/// Resources that could not be looked at and are left as they are, each with what is said of it.
type Unseen = Vec<(Resource, Option<String>)>;

impl Engine {
    pub(super) fn plan(&mut self, order: &Order, wanted: Wanted, drifted: Drifted) -> Result<Plan, Stop> {
        let Wanted { commit, mut manifest } = wanted;
        let ledger = self.state.ledger()?;
        let mut unseen = Unseen::new();
        let (mut claims, mut left) = self.claims(&manifest, order, drifted, &ledger, &mut unseen)?;
        manifest.notes.extend(unseen.iter().filter_map(|(_, note)| note.clone()));
        let ledger = of_what_is_seen(ledger, &unseen);
        keep_secret(&mut claims, &ledger);
        let restarts = restarts(&claims, order.intent(), &mut left);
        let all: Vec<&Change> = claims.iter().flat_map(|(_, _, claims)| claims).map(|c| &c.change).collect();
        let releases = match order.intent() {
            Intent::Repair => ledger::Releases::default(),
            _ => ledger::releases(&ledger, &all, &*self.host)?,
        };
        if matches!(order, Order::Revert { .. }) {
            claims.extend(self.lifelines.given_back(&ledger, &releases.targets));
        }
        let all = claims.iter().flat_map(|(_, _, claims)| claims).map(|c| &c.change);
        let changes: Vec<&Change> = all.chain(releases.claims.iter().map(|c| &c.change)).collect();
        if order.intent() != Intent::Repair {
            self.refuse_unreachable(&changes)?;
        }
        let former = self.state.live()?.map(|live| live.manifest.resources).unwrap_or_default();
        let uncovering = self.uncovering(&changes)?;
        let places = units::Places::of(changes.iter().copied());
        let mut units = self.units_concerned(&changes, manifest.resources.iter().chain(&former), &places)?;
        let content = |digest: &Digest| match manifest.contents.get(digest) {
            Some(content) => Ok(content.clone()),
            None => stored(&self.state)(digest),
        };
        let shelf = Shelf::new(&*self.host, &changes, &places, &content);
        let definitions = shelf.define(&touched_definitions(&changes, units.keys(), &places))?;
        for (name, seen) in &mut units {
            seen.stale |= shelf.has_other_drop_ins(name, seen);
            if !seen.stale {
                self.stale.remove(name);
            } else if order.intent() == Intent::Repair {
                let looks = self.stale.entry(name.clone()).or_default();
                *looks += 1;
                seen.stale = *looks <= STALE_LOOKS;
            }
        }
        let mut pending = self.pending(&shelf, &manifest, &units, &former);
        if order.intent() == Intent::Repair || order.actor() == FACTS {
            // A push restarts; a look only tells, since whoever changed that may have a reason not to.
            left.extend(std::mem::take(&mut pending).into_iter().map(|(unit, why)| {
                format!("unit:{unit} (restart pending): {why}; the next push restarts it, or: systemctl restart {unit}")
            }));
        }
        self.see_units(definitions.keys().chain(restarts.keys()).cloned(), &mut units)?;
        pending.extend(shelf.beyond_reload(&self.guards));
        pending.extend(restarts.into_iter().chain(deaf_sockets(&manifest, &units, &definitions, order.intent())));
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
            definitions,
            former,
            pending,
            places,
            lifelines: self.lifelines.units().clone(),
            uncovering,
            guards: &self.guards,
        };
        if !matches!(order, Order::Revert { .. }) && !material.claims.iter().any(is_foundation) {
            self.refuse_blind_probes(order.intent(), &material)?;
        }
        let mut plan = plan::make(material).map_err(|e| Stop::refused(e.to_string()))?;
        plan.secrets = self.secrets_of(&plan);
        if matches!(order, Order::Revert { .. }) {
            plan.forgive();
        }
        if order.intent() == Intent::Repair && drifted != Drifted::All {
            self.report_left(left);
        }
        Ok(plan)
    }

    /// The units that changes and declarations concern, as they are: with what changed sockets start, and with what stops when they do.
    fn units_concerned<'r>(
        &self,
        changes: &[&Change],
        declared: impl Iterator<Item = &'r Resource>,
        places: &units::Places,
    ) -> Result<BTreeMap<String, UnitSeen>, Stop> {
        let mut names = plan::concerned_units(changes.iter().copied(), declared, &self.guards, places);
        for pattern in plan::concerned_patterns(changes.iter().copied(), places) {
            names.extend(self.host.units_like(&pattern)?);
        }
        let mut units = BTreeMap::new();
        self.see_units(names, &mut units)?;
        // What a changed socket starts has to be started again after it.
        let served: BTreeSet<String> =
            units.iter().filter(|(name, _)| name.ends_with(".socket")).flat_map(|(_, seen)| seen.triggers.clone()).collect();
        self.see_units(served, &mut units)?;
        // What stops with a unit that has to stop has to be started again too.
        loop {
            let known = units.len();
            let others: Vec<String> =
                units.values().filter(|seen| !seen.is_down()).flat_map(|seen| seen.dependents.clone()).collect();
            self.see_units(
                others.into_iter().filter(|name| name.ends_with(".service") || name.ends_with(".socket")),
                &mut units,
            )?;
            if units.len() == known {
                break;
            }
        }
        // A unit that starts can stop what the host is reached by (`Conflicts=`).
        let is_of_unit = |change: &Change| change.unit().is_some() || change.path().is_some_and(|p| places.of_path(p).is_some());
        if changes.iter().any(|change| !change.is_noop() && is_of_unit(change)) {
            let lifelines: Vec<&str> = self.lifelines.units().iter().map(String::as_str).collect();
            self.see_units(self.host.up_among(&lifelines)?, &mut units)?;
        }
        Ok(units)
    }

    /// Looks at these units, as far as they were not looked at before.
    fn see_units(&self, names: impl IntoIterator<Item = String>, units: &mut BTreeMap<String, UnitSeen>) -> HostResult<()> {
        for name in names {
            if let Entry::Vacant(place) = units.entry(name) {
                let seen = self.host.unit(place.key())?;
                place.insert(seen);
            }
        }
        Ok(())
    }

    /// Declared services whose processes are older than what they have read.
    fn pending(
        &self,
        shelf: &Shelf<'_>,
        manifest: &Manifest,
        units: &BTreeMap<String, UnitSeen>,
        former: &[Resource],
    ) -> BTreeMap<String, String> {
        let tables = manifest.resources.iter().filter(|r| r.kind == UnitSpec::KIND && r.name.ends_with(".service"));
        let specs = tables.filter_map(|r| serde_json::from_value::<UnitSpec>(r.spec.clone()).ok());
        specs
            .filter(|spec| spec.wanted().active == Some(true) && spec.on_change.is_none())
            .filter_map(|spec| {
                let seen = units.get(&spec.name).filter(|seen| seen.is_active())?;
                Some((spec.name.clone(), shelf.newer_than_its_process(&spec.name, seen, &self.guards, former)?))
            })
            .collect()
    }

    /// The secrets of a plan's repository, and what stands and will stand in the secret files that it concerns.
    pub(super) fn secrets_of(&self, plan: &Plan) -> Secrets {
        let manifest = &plan.manifest;
        let mut secrets = crate::secrets::of(&manifest.secrets);
        for change in plan.steps.iter().map(|step| &step.change).chain(plan.claimed.values()) {
            let Change::Entry { path, before, after, secret: true } = change else { continue };
            let open = self.open_words(path, manifest);
            secrets.add_file(path, b"", &open);
            for object in [before, after] {
                let Object::File(facts) = object else { continue };
                let content = manifest.contents.get(&facts.digest).cloned();
                if let Some(content) = content.or_else(|| stored(&self.state)(&facts.digest).ok()) {
                    secrets.add_file(path, &content, &open);
                }
            }
        }
        secrets
    }

    /// What is no secret in a secret file, as it is to be and as it was.
    fn open_words(&self, path: &ManagedPath, manifest: &Manifest) -> BTreeSet<String> {
        let live = self.state.live().ok().flatten().map(|live| live.manifest.resources).unwrap_or_default();
        let files = manifest.resources.iter().chain(&live).filter(|r| r.kind == "file" && r.name == path.as_str());
        let words = |r: &Resource| BTreeSet::<String>::deserialize(r.spec.get("open")?).ok();
        files.filter_map(words).flatten().collect()
    }

    /// A place that no rename reaches is found here, before anything is rehearsed; a preview is told too.
    fn refuse_unreachable(&self, changes: &[&Change]) -> Result<(), Stop> {
        for path in changes.iter().filter(|c| matches!(c, Change::Entry { .. }) && !c.is_noop()).filter_map(|c| c.path()) {
            self.host.staging_of(path)?;
        }
        Ok(())
    }

    /// A probe that nobody could ever ask would be found red only after everything is live.
    fn refuse_blind_probes(&self, intent: Intent, material: &Material<'_>) -> Result<(), Stop> {
        if intent == Intent::Repair {
            return Ok(());
        }
        let claims = material.claims.iter().flat_map(|(_, _, claims)| claims).chain(&material.releases);
        let changes: Vec<&Change> = claims.map(|claim| &claim.change).collect();
        for probe in &material.manifest.probes {
            let fault = |why: String| Err(Stop::refused(format!("probe {}: {why}", probe.name)));
            if let Some(user) = &probe.user
                && !self.host.accounts()?.iter().any(|account| account.name == *user)
            {
                return fault(format!("the user `{user}` is neither on this host nor declared: create it, or correct `user`"));
            }
            if let Some(password) = probe.password()
                && !material.manifest.secrets.contains_key(&password.secret)
            {
                return fault(crate::secrets::missing(&password.secret));
            }
            let program = probe.command.as_ref().and_then(|argv| argv.first()).map(|program| ManagedPath::new(program));
            if let Some(Ok(program)) = program
                && !self.stands_there(&program, &changes)?
            {
                return fault(format!("{program} is not on this host, and this commit does not bring it: correct `command`"));
            }
        }
        Ok(())
    }

    /// Whether something stands at a path once these changes are made; one that leads through a link is taken on trust.
    fn stands_there(&self, path: &ManagedPath, changes: &[&Change]) -> Result<bool, Stop> {
        if changes.iter().filter_map(|change| plan::maker(change)).any(|run| run.makes.iter().any(|made| path.is_below(made))) {
            return Ok(true);
        }
        let change = changes.iter().find(|change| matches!(change, Change::Entry { .. }) && change.path() == Some(path));
        if let Some(Change::Entry { after, .. }) = change {
            return Ok(*after != Object::Absent);
        }
        match self.host.object(path) {
            Ok(seen) => Ok(seen.object != Object::Absent),
            Err(HostError::Unfit(_)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Unit files that go and have another one of the same unit behind them.
    fn uncovering(&self, changes: &[&Change]) -> Result<BTreeSet<ManagedPath>, Stop> {
        let mut uncovering = BTreeSet::new();
        for change in changes {
            let Change::Entry { path, after: Object::Absent, .. } = change else { continue };
            for behind in units::behind(path) {
                let planned = changes.iter().find_map(|change| match change {
                    Change::Entry { path, after, .. } if *path == behind => Some(after),
                    _ => None,
                });
                let remains = match planned {
                    Some(after) => *after != Object::Absent,
                    None => self.host.object(&behind)?.object != Object::Absent,
                };
                if remains {
                    uncovering.insert(path.clone());
                }
            }
        }
        Ok(uncovering)
    }

    /// Every resource looks and claims; all that is impossible is said at once. A repair leaves such a resource out: whoever may
    /// put something in one place must not keep the rest from being healed.
    fn claims(
        &mut self,
        manifest: &Manifest,
        order: &Order,
        drifted: Drifted,
        ledger: &BTreeMap<String, Change>,
        unseen: &mut Unseen,
    ) -> Result<(Claims, Left), Stop> {
        let (intent, may_run) = (order.intent(), order.right() == Right::Deploy);
        // One thing that cannot be seen must not keep the others from being healed, or a host from being reached again.
        let goes_on = intent == Intent::Repair || matches!(order, Order::Revert { .. });
        let live = if intent == Intent::Repair { None } else { self.state.live()? };
        let former = match (intent, &live) {
            (Intent::Repair, _) => manifest.resources.clone(),
            (_, live) => live.as_ref().map(|live| live.manifest.resources.clone()).unwrap_or_default(),
        };
        let is_live = |resource: &Resource| live.as_ref().is_some_and(|live| live.manifest.declares_the_same(resource, manifest));
        let (mut claims, mut impossible, mut not_yet, mut left) = (Claims::new(), Vec::new(), Vec::new(), Vec::new());
        let ordered = plan::order::of(&manifest.resources).map_err(Stop::refused)?;
        for of_phase in ordered.chunk_by(|(_, a), (_, b)| a.phase() == b.phase()) {
            let phase = of_phase.first().map(|(_, kind)| kind.phase()).unwrap_or_default();
            let mut earlier: Vec<&Change> = claims.iter().flat_map(|(_, _, claims)| claims).map(|claim| &claim.change).collect();
            let going = match phase {
                Phase::Environments | Phase::Commands | Phase::Firewall if intent != Intent::Repair => {
                    self.going(ledger, &earlier)?
                }
                _ => Vec::new(),
            };
            earlier.extend(going.iter().map(|claim| &claim.change));
            let mut found = Vec::new();
            for (resource, looked) in self.look(of_phase, manifest, (&former, &earlier), may_run) {
                match looked {
                    Ok(claims) => found.push((resource, claims)),
                    Err(kind::KindError::NotYet(why)) => not_yet.push((resource, why)),
                    Err(error) if goes_on => unseen.push((resource.clone(), Some(left_as_it_is(resource, &error)))),
                    Err(kind::KindError::Host(error @ (HostError::Io { .. } | HostError::Timeout { .. }))) => {
                        return Err(error.into());
                    }
                    // A server that is down is no reason to refuse what would mend it.
                    Err(error) if phase == Phase::Databases && is_live(resource) => {
                        let note = format!("{}: left as it is, since it is declared as before: {error}", resource.origin);
                        unseen.push((resource.clone(), Some(note)));
                    }
                    Err(error) => impossible.push(format!("{}: {error}", resource.origin)),
                }
            }
            for (resource, mut found) in found {
                if drifted != Drifted::All {
                    // Facts that change are no push of what has not changed with them.
                    let intent = if order.actor() == FACTS && is_live(resource) { Intent::Repair } else { intent };
                    self.leave_drift(resource, &mut found, (intent, drifted, is_live(resource)), &mut left);
                }
                claims.push((phase, format!("{}:{}", resource.kind, resource.name), found));
            }
        }
        if intent == Intent::Repair {
            self.later = put_off(&mut claims);
        }
        // What is still to come may bring it: with that in place all is planned once more.
        let comes = claims.iter().any(is_foundation);
        for (resource, why) in not_yet {
            match (goes_on, comes) {
                // Where it does not come a repair fails as a whole; whatever else goes on does without.
                (true, true) if intent == Intent::Repair => unseen.push((resource.clone(), None)),
                (true, _) => unseen.push((resource.clone(), Some(left_as_it_is(resource, &why)))),
                (false, true) => {}
                (false, false) => impossible.push(format!("{}: {why}", resource.origin)),
            }
        }
        if impossible.is_empty() { Ok((claims, left)) } else { Err(Stop::refused(impossible.join("\n"))) }
    }

    /// Files that leave the repository.
    fn going(&self, ledger: &BTreeMap<String, Change>, claimed: &[&Change]) -> HostResult<Vec<Claim>> {
        let files = ledger.iter().filter(|(_, change)| matches!(change, Change::Entry { .. }));
        let files: BTreeMap<String, Change> = files.map(|(target, change)| (target.clone(), change.clone())).collect();
        Ok(ledger::releases(&files, claimed, &*self.host)?.claims)
    }

    /// The resources of one phase look, each seeing what those of earlier ones claim, and which files go.
    fn look<'r>(
        &self,
        of_phase: &[plan::order::Known<'r>],
        manifest: &Manifest,
        (former, earlier): (&[Resource], &[&Change]),
        may_run: bool,
    ) -> Vec<(&'r Resource, Result<Vec<Claim>, kind::KindError>)> {
        let contents = |digest: &Digest| match manifest.contents.get(digest) {
            Some(content) => Ok(content.clone()),
            None => stored(&self.state)(digest),
        };
        let places = units::Places::of(earlier.iter().copied());
        let definition = |unit: &str| Shelf::new(&*self.host, earlier, &places, &contents).then(unit);
        let sight = Sight {
            host: &*self.host,
            secrets: &manifest.secrets,
            resources: &manifest.resources,
            former,
            earlier,
            contents: &contents,
            definition: &definition,
            may_run,
            postgres: OnceCell::new(),
        };
        of_phase.iter().map(|(resource, kind)| (*resource, kind.claims(resource, &sight))).collect()
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

/// Whether something has to be there before the rest can be seen as it is.
/// Of a host that is not as it should be otherwise, the questions of commands may have been answered for want of that (a database that does not
/// run): they wait for the look after this. Returns whether any does.
fn put_off(claims: &mut Claims) -> bool {
    let to_do = |claims: &[Claim]| claims.iter().any(|claim| !claim.change.is_noop());
    if !claims.iter().any(|(phase, _, claims)| *phase != Phase::Commands && to_do(claims)) {
        return false;
    }
    let mut any = false;
    let of_commands = claims.iter_mut().filter(|(phase, _, _)| *phase == Phase::Commands).flat_map(|(_, _, claims)| claims);
    for claim in of_commands.filter(|claim| matches!(&claim.change, Change::Run(run) if run.can_be_asked())) {
        any |= !claim.change.is_noop();
        claim.change.leave();
    }
    any
}

/// What is said, also in the journal, of what a repair cannot look at.
fn left_as_it_is(resource: &Resource, why: &impl Display) -> String {
    tracing::error!("left as it is: {}:{}: {why}", resource.kind, resource.name);
    format!("{}: left as it is: {why}", resource.origin)
}

/// What could not be looked at has not left the repository.
fn of_what_is_seen(ledger: BTreeMap<String, Change>, unseen: &Unseen) -> BTreeMap<String, Change> {
    ledger.into_iter().filter(|(target, _)| !unseen.iter().any(|(resource, _)| is_of(resource, target))).collect()
}

/// Whether a target of the ledger is one of a resource, or a directory above it.
fn is_of(resource: &Resource, target: &str) -> bool {
    let Some((sort, name)) = target.split_once(':') else { return false };
    let is_above = || sort == "directory" && resource.name.starts_with(&format!("{name}/"));
    match resource.kind.as_str() {
        "link" => (sort, name) == ("file", resource.name.as_str()) || is_above(),
        "ufw" => sort == "ufw",
        "directory" => (sort, name) == ("subtree", resource.name.as_str()) || name == resource.name || is_above(),
        kind => (sort, name) == (kind, resource.name.as_str()) || is_above(),
    }
}

/// Declared sockets that listen and that nobody reaches, and why. They listen anew, at a look too; but for those that may not be stopped, or whose
/// table says what happens instead.
fn deaf_sockets(
    manifest: &Manifest,
    units: &BTreeMap<String, UnitSeen>,
    definitions: &BTreeMap<String, plan::Defined>,
    intent: Intent,
) -> BTreeMap<String, String> {
    let nothing = Definition::default();
    let is_spared = |unit: &String| spared(unit, definitions.get(unit).map_or(&nothing, |defined| &defined.then)).is_some();
    let tables = manifest.resources.iter().filter(|r| r.kind == UnitSpec::KIND && r.name.ends_with(".socket"));
    let specs = tables.filter_map(|r| UnitSpec::deserialize(&r.spec).ok());
    specs
        .filter(|spec| spec.wanted().active == Some(true) && spec.on_change.is_none())
        .filter(|spec| intent != Intent::Repair || spec.drift == Drift::Repair)
        .filter_map(|spec| {
            let seen = units.get(&spec.name)?;
            let can_stop = !is_spared(&spec.name) && !seen.triggers.iter().any(is_spared);
            Some((spec.name, seen.deaf.clone().filter(|_| can_stop)?))
        })
        .collect()
}

fn is_foundation((phase, _, claims): &(Phase, String, Vec<Claim>)) -> bool {
    phase.is_foundation() && claims.iter().any(|claim| !claim.change.is_noop())
}

/// Units that claims have start anew, and why. What only waits for that is told by a repair, as with services: whoever changed that may have a
/// reason not to.
fn restarts(claims: &Claims, intent: Intent, left: &mut Left) -> BTreeMap<String, String> {
    let mut restarts: BTreeMap<String, String> = BTreeMap::new();
    for (_, id, claims) in claims {
        for claim in claims {
            let Some((unit, why)) = &claim.restart else { continue };
            if intent == Intent::Repair && claim.change.is_noop() {
                left.push(format!("{id} (restart pending): the next push restarts {unit}, or: systemctl restart {unit}"));
                continue;
            }
            restarts.entry(unit.clone()).and_modify(|all| *all += &format!(", {why}")).or_insert_with(|| why.clone());
        }
    }
    restarts
}

/// What was secret once is not shown in any later change of it either: it is the old content, or will be. Nor is what we find
/// in the place of a file and not everybody may read: who reads plans and records need not be who may.
fn keep_secret(claims: &mut [(Phase, String, Vec<Claim>)], ledger: &BTreeMap<String, Change>) {
    const FOR_OTHERS: u32 = 0o004;
    for claim in claims.iter_mut().flat_map(|(_, _, claims)| claims) {
        let secret = match (ledger.get(&claim.change.target()), &claim.change) {
            (Some(known), _) => known.is_secret(),
            (None, Change::Entry { before: Object::File(found), .. }) => found.mode & FOR_OTHERS == 0,
            _ => false,
        };
        if secret {
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
