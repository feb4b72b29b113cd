//! Reads units' files as they are and as a plan will have left them: what PID 1 and the processes are about to learn.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::change::{Change, Object};
use crate::digest::Digest;
use crate::guard::Guards;
use crate::host::{HostResult, Look, UnitSeen};
use crate::manifest::Resource;
use crate::path::ManagedPath;
use crate::plan::{Defined, maker};
use crate::units::effect::{Difference, Effect};
use crate::units::{self, definition::Definition, files, inputs};

/// Entries of a directory of units that are looked at.
const ENTRIES: usize = 10_000;
/// Longest unit file that is read, in bytes.
const LENGTH: u64 = 1 << 20;
/// A link to it masks a unit, or hides a drop-in (systemd.unit(5)).
const NOTHING: &str = "/dev/null";

/// The host's unit files, and the changes that are about to be made to them.
pub(super) struct Shelf<'a> {
    host: &'a dyn Look,
    changes: BTreeMap<&'a str, &'a Object>,
    /// Trees that programs make.
    made: Vec<&'a ManagedPath>,
    /// What is managed, as it will be.
    managed: BTreeMap<&'a str, &'a Object>,
    places: &'a units::Places,
    contents: &'a dyn Fn(&Digest) -> HostResult<Vec<u8>>,
    listed: RefCell<BTreeMap<String, Vec<String>>>,
}

/// Before the changes or after them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    Then,
}

impl<'a> Shelf<'a> {
    /// What these changes make of this host, with those that change nothing; `contents` gives those of files that are to come.
    pub(super) fn new(
        host: &'a dyn Look,
        changes: &[&'a Change],
        places: &'a units::Places,
        contents: &'a dyn Fn(&Digest) -> HostResult<Vec<u8>>,
    ) -> Self {
        let entry = |change: &&'a Change| match change {
            Change::Entry { path, after, .. } => Some((path.as_str(), after)),
            _ => None,
        };
        let managed = changes.iter().filter_map(entry).collect();
        let made = changes.iter().filter_map(|change| maker(change)).flat_map(|run| &run.makes).collect();
        let changes = changes.iter().filter(|c| !c.is_noop()).filter_map(entry).collect();
        Self { host, changes, made, managed, places, contents, listed: RefCell::default() }
    }

    /// Everything that a plan has to know of these units' files, and of all services that run where other files change.
    pub(super) fn define(&self, named: &BTreeSet<String>) -> HostResult<BTreeMap<String, Defined>> {
        let mut units = named.clone();
        let others: Vec<ManagedPath> = self.others();
        let running = if others.is_empty() && self.made.is_empty() { Vec::new() } else { self.host.running_services()? };
        units.extend(running.iter().cloned());
        let mut all = BTreeMap::new();
        for unit in units {
            let (now, then) = (self.read(&unit, When::Now), self.read(&unit, When::Then));
            let read = if running.contains(&unit) { self.changed_inputs(&unit, &now, &others) } else { Vec::new() };
            if named.contains(&unit) || !read.is_empty() {
                all.insert(unit, Defined { now, then, read });
            }
        }
        Ok(all)
    }

    /// Whether a unit has other drop-ins than the manager has read. Of those in directories that are new it does not say by itself that it
    /// should: `NeedDaemonReload` of systemd 252 goes by the directories of its last reload.
    pub(super) fn has_other_drop_ins(&self, unit: &str, seen: &UnitSeen) -> bool {
        let there: BTreeSet<String> = files::drop_ins(unit, &|dir| self.names(dir, When::Now)).into_iter().collect();
        let read: BTreeSet<String> = seen.drop_ins.iter().map(|path| files::real(path)).collect();
        // It has also read those of other names of the unit, and those that are links to nothing may or may not count.
        let is_new = there.difference(&read).any(|path| matches!(self.object(path), Some(Object::File(_))));
        let is_gone = read.difference(&there).any(|path| self.object(path) == Some(Object::Absent));
        seen.load == "loaded" && (is_new || is_gone)
    }

    /// Why a service that runs should start anew, whoever is at fault: its unit files, or files that they name, changed after its start.
    pub(super) fn newer_than_its_process(
        &self,
        unit: &str,
        seen: &UnitSeen,
        guards: &Guards,
        former: &[Resource],
    ) -> Option<String> {
        self.newer_files(unit, seen, former).or_else(|| self.newer_inputs(unit, seen, guards))
    }

    /// Unit files of other hands. Of those that we wrote it is known which change needed what; one that is as it should be and was not before
    /// somebody else has written.
    fn newer_files(&self, unit: &str, seen: &UnitSeen, former: &[Resource]) -> Option<String> {
        let paths = files::of_unit(unit, &|dir| self.names(dir, When::Now));
        let texts: BTreeMap<&str, String> = paths.iter().filter_map(|p| Some((p.as_str(), self.text(p, When::Now)?))).collect();
        let without =
            |left_out: &str| Definition::read(texts.iter().filter(|(p, _)| **p != left_out).map(|(_, text)| text.as_str()));
        let whole = without("");
        let is_ours = |path: &str| self.managed.contains_key(path);
        let of_others =
            |path: &&String| !path.starts_with("/usr/") && !["generator", "system.control"].iter().any(|dir| path.contains(dir));
        paths.iter().filter(of_others).filter(|path| !self.changes.contains_key(path.as_str())).find_map(|path| {
            let before = match is_ours(path) {
                false => without(path),
                true => {
                    let text = self.former_text(path, former)?;
                    let texts = texts.iter().map(|(p, now)| if *p == path { text.as_str() } else { now.as_str() });
                    Definition::read(texts)
                }
            };
            let asks = Difference::between(unit, &before, &whole).effect >= Effect::Restart;
            (asks && self.is_newer(&ManagedPath::new(path).ok()?, seen)).then(|| format!("{path} changed after it had started"))
        })
    }

    /// What the live generation has of a file, where that is another content than now.
    fn former_text(&self, path: &str, former: &[Resource]) -> Option<String> {
        let resource = former.iter().find(|resource| resource.kind == "file" && resource.name == path)?;
        let digest: Digest = resource.spec.get("source")?.get(0)?.as_str()?.parse().ok()?;
        let is_now = matches!(self.object(path), Some(Object::File(facts)) if facts.digest == digest);
        let content = if is_now { return None } else { (self.contents)(&digest).ok()? };
        Some(String::from_utf8_lossy(&content).into_owned())
    }

    fn is_newer(&self, path: &ManagedPath, seen: &UnitSeen) -> bool {
        let is_file = || matches!(self.object(path.as_str()), Some(Object::File(_)));
        let changed = self.host.changed_at(path).ok().flatten();
        seen.started != 0 && changed.is_some_and(|changed| changed > seen.started) && is_file()
    }

    fn newer_inputs(&self, unit: &str, seen: &UnitSeen, guards: &Guards) -> Option<String> {
        let inputs = inputs::of_service(unit, &self.read(unit, When::Now), &|_| false);
        // An argument may as well be what the process writes: its log, its pid file.
        inputs.iter().filter(|input| !input.is_argument).find_map(|input| {
            // What packages bring they restart themselves.
            let path = ManagedPath::new(input.path()?).ok().filter(|path| !path.as_str().starts_with("/usr/"))?;
            let is_newer = !guards.wakes(&path, unit) && self.is_newer(&path, seen);
            is_newer.then(|| format!("its {} changed after it had started", input.what))
        })
    }

    /// Services that have to restart where a reload would do for other changes of the same files, and why.
    pub(super) fn beyond_reload(&self, guards: &Guards) -> BTreeMap<String, String> {
        let mut restarts = BTreeMap::new();
        for path in self.others() {
            let wakes: Vec<_> = guards.of(&path).filter_map(|guard| guard.wake.as_ref()).collect();
            for wake in wakes.iter().filter(|wake| !wake.restart_for.is_empty()) {
                let [now, then] = [When::Now, When::Then].map(|when| self.text(path.as_str(), when).unwrap_or_default());
                let differs = |word: &&String| {
                    let [now, then] = [&now, &then].map(|text| lines_of(text, word));
                    !now.is_subset(&then) && !then.is_subset(&now)
                };
                if let Some(word) = wake.restart_for.iter().find(differs) {
                    restarts.insert(wake.unit.clone(), format!("{word} changed in {path}: a reload does not take that over"));
                }
            }
        }
        restarts
    }

    /// Changed paths that mean nothing to PID 1 itself.
    fn others(&self) -> Vec<ManagedPath> {
        let paths = self.changes.keys().filter_map(|path| ManagedPath::new(path).ok());
        paths.filter(|path| self.places.of_path(path).is_none()).collect()
    }

    /// What the process of a service has read that is about to change: (path, how the unit names it).
    fn changed_inputs(&self, unit: &str, definition: &Definition, changed: &[ManagedPath]) -> Vec<(ManagedPath, String)> {
        let is_venv = |root: &str| {
            let mark = format!("{root}/pyvenv.cfg");
            self.changes.contains_key(mark.as_str())
                || self.made.iter().any(|made| made.as_str() == root)
                || matches!(self.object(&mark), Some(Object::File(_)))
        };
        let inputs = inputs::of_service(unit, definition, &is_venv);
        let leads_there = |input: &&inputs::Input, path: &ManagedPath| {
            let Some(root) = input.root() else { return input.covers(path) };
            let is_link_on_its_way = matches!(self.changes.get(path.as_str()), Some(Object::Link { .. }))
                && root.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            input.covers(path) || is_link_on_its_way || self.behind_links(root).is_some_and(|real| input.at(real).covers(path))
        };
        let named = |path: &ManagedPath| inputs.iter().find(|input| leads_there(input, path)).map(|input| input.what.clone());
        // What is named with the whole tree says more than one program in it.
        let within = |made: &ManagedPath| {
            let mut inside = inputs.iter().filter(|input| input.is_within(made));
            inside.clone().find(|input| input.path().is_none()).or_else(|| inside.next()).map(|input| input.what.clone())
        };
        let files = changed.iter().filter_map(|path| Some((path.clone(), named(path)?)));
        files.chain(self.made.iter().filter_map(|path| Some(((*path).clone(), within(path)?)))).collect()
    }

    /// What the files of a unit say once the changes are made.
    pub(super) fn then(&self, unit: &str) -> Definition {
        self.read(unit, When::Then)
    }

    /// Where a path leads by managed links; `None` when by none.
    fn behind_links(&self, path: &str) -> Option<String> {
        /// More links than these in a row are a loop.
        const LINKS: usize = 8;
        let step = |path: &String| {
            self.managed.iter().find_map(|(link, object)| {
                let Object::Link { target } = object else { return None };
                let rest = path.strip_prefix(link).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
                crate::path::joined(link.rsplit_once('/')?.0, &format!("{target}{rest}"))
            })
        };
        std::iter::successors(step(&path.to_owned()), step).take(LINKS).last()
    }

    fn read(&self, unit: &str, when: When) -> Definition {
        let paths = files::of_unit(unit, &|dir| self.names(dir, when));
        let texts: Vec<String> = paths.iter().filter_map(|path| self.text(path, when)).collect();
        Definition::read(texts.iter().map(String::as_str))
    }

    /// What is in a directory. One that cannot be read is as good as empty: what is compared is the difference that a plan makes.
    fn names(&self, dir: &str, when: When) -> Vec<String> {
        let mut listed = self.listed.borrow_mut();
        let there = listed.entry(dir.to_owned()).or_insert_with(|| {
            ManagedPath::new(dir).ok().and_then(|path| self.host.entries(&path, ENTRIES).ok()).unwrap_or_default()
        });
        let mut names = there.clone();
        if when == When::Then {
            for (path, after) in &self.changes {
                let Some(rest) = path.strip_prefix(dir).and_then(|rest| rest.strip_prefix('/')) else { continue };
                match rest.split_once('/') {
                    Some((first, _)) => names.push(first.to_owned()),
                    None if **after == Object::Absent => names.retain(|name| name != rest),
                    None => names.push(rest.to_owned()),
                }
            }
        }
        names
    }

    fn object(&self, path: &str) -> Option<Object> {
        self.host.object(&ManagedPath::new(path).ok()?).ok().map(|seen| seen.object)
    }

    /// A unit file's text; a link is followed once, as those of aliases and linked units are.
    fn text(&self, path: &str, when: When) -> Option<String> {
        match self.change(path, when).cloned().or_else(|| self.object(path))? {
            Object::Link { target } if target == NOTHING => None,
            Object::Link { target } => {
                let target = crate::path::joined(ManagedPath::new(path).ok()?.parent()?.as_str(), &target)?;
                let object = self.change(&target, when).cloned().or_else(|| self.object(&target))?;
                self.content(&target, &object, when)
            }
            object => self.content(path, &object, when),
        }
    }

    fn change(&self, path: &str, when: When) -> Option<&Object> {
        if when == When::Now { None } else { self.changes.get(path).copied() }
    }

    fn content(&self, path: &str, object: &Object, when: When) -> Option<String> {
        let Object::File(facts) = object else { return None };
        let bytes = match self.change(path, when) {
            Some(_) => (self.contents)(&facts.digest).ok()?,
            None => self.host.content(&ManagedPath::new(path).ok()?, LENGTH).ok()?,
        };
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The lines of a text that begin with a word.
fn lines_of<'t>(text: &'t str, word: &str) -> BTreeSet<&'t str> {
    text.lines().map(str::trim).filter(|line| line.split_whitespace().next() == Some(word)).collect()
}

/// The units whose definitions these changes may alter, of those that are known; sockets that are about to start, whose files say
/// which service is theirs; and those that may have made the instance of a template for a client.
pub(super) fn touched_definitions<'a>(
    changes: &[&Change],
    known: impl Iterator<Item = &'a String>,
    places: &units::Places,
) -> BTreeSet<String> {
    let mut files = Vec::new();
    let mut units = BTreeSet::new();
    for change in changes.iter().filter(|c| !c.is_noop()) {
        match change {
            Change::Unit { unit, .. } => drop(units.insert(unit.clone())),
            change => files.extend(change.path().and_then(|path| places.of_path(path))),
        }
    }
    units.extend(known.filter(|unit| files.iter().any(|file| file.defines(unit))).cloned());
    let makers: Vec<String> = units.iter().filter_map(|unit| units::maker_of(unit)).collect();
    units.extend(makers);
    units
}
