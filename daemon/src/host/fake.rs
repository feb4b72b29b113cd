//! A host in memory, for tests: the same two seams as the real one, a log of every call, and every accident on order.
//!
//! Renames and contents are durable only once they are synced, so that a power cut shows a forgotten sync.

mod accounts;
mod firewall;
mod jobs;
pub(crate) mod postgres;
mod programs;
mod units;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::{
    Account, HostError, HostResult, Job, LogEnd, Look, Patience, Process, Ran, Seen, Slot, SystemState, Touch, UnitSeen,
};
use crate::accounts::{GROUP, PASSWD, SHADOW};
use crate::change::{DirFacts, FileFacts, Object, UnitFacts, Wake};
use crate::digest::Digest;
use crate::facts::Facts;
use crate::path::ManagedPath;

pub(crate) use jobs::Revision;
pub(crate) use units::Unit;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Dir(DirFacts),
    File { content: Vec<u8>, mode: u32, uid: u32, gid: u32, names: u64 },
    Link(String),
    Other(&'static str),
}

impl Node {
    pub(crate) fn file(text: &str) -> Self {
        Self::File { content: text.into(), mode: 0o644, uid: 0, gid: 0, names: 1 }
    }

    fn object(&self) -> Object {
        match self {
            Self::Dir(_) => Object::Other { what: "directory".to_owned() },
            Self::Other(what) => Object::Other { what: (*what).to_owned() },
            Self::Link(target) => Object::Link { target: target.clone() },
            Self::File { content, mode, uid, gid, .. } => Object::File(FileFacts {
                digest: Digest::of(content),
                size: content.len() as u64,
                mode: *mode,
                uid: *uid,
                gid: *gid,
            }),
        }
    }

    /// What an object looks like once it is made; `None` for nothing.
    fn made(object: &Object, content: &[u8]) -> Option<Self> {
        match object {
            Object::Absent => None,
            Object::Link { target } => Some(Self::Link(target.clone())),
            Object::File(f) => Some(Self::File { content: content.to_vec(), mode: f.mode, uid: f.uid, gid: f.gid, names: 1 }),
            Object::Other { .. } => Some(Self::Other("thing")),
        }
    }
}

/// An accident.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The call fails, before (or, `late`, after) it has done its work; `sticky`: and all that follow.
    Fail { late: bool, sticky: bool, error: fn() -> HostError },
    /// Somebody else does this right before the call.
    Edit(fn(&mut World)),
    /// The power goes, right before (or, `late`, right after) the call. Nothing answers until it is back.
    Cut { late: bool },
}

/// Everything there is.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) tree: BTreeMap<String, Node>,
    pub(crate) slots: BTreeMap<(u64, usize), Node>,
    pub(crate) units: BTreeMap<String, Unit>,
    pub(crate) mounts: BTreeSet<String>,
    pub(crate) revisions: BTreeMap<String, Revision>,
    pub(crate) refs: BTreeMap<String, String>,
    /// The tip of the remote that is polled; none when it does not answer.
    pub(crate) remote: Option<String>,
    /// Programs that are not installed.
    pub(crate) missing: BTreeSet<String>,
    /// Probes that are red whatever is served.
    pub(crate) red: BTreeSet<String>,
    /// What the evidence worker answers.
    pub(crate) evidence: Vec<u8>,
    /// Every call that changes something, and every job.
    pub(crate) log: Vec<String>,
    /// What must never happen and did.
    pub(crate) sins: Vec<String>,
    /// Called at the moment of the power cut.
    pub(crate) on_cut: Option<Box<dyn FnMut()>>,
    /// What the host says of itself.
    pub(crate) facts: Facts,
    /// Who holds dpkg's lock.
    pub(crate) dpkg: Option<String>,
    /// The host shuts down: no unit is started, reloaded or restarted any more.
    pub(crate) going_down: bool,
    /// The database server does not answer.
    pub(crate) deaf: bool,
    /// Nothing can be fetched from elsewhere.
    pub(crate) offline: bool,
    /// Counts looks at workers that die.
    moment: std::cell::Cell<u64>,
    faults: BTreeMap<usize, Fault>,
    named: Vec<(&'static str, Fault)>,
    dead: bool,
    /// Contents that are not on disk yet, by their digests.
    unsynced: BTreeSet<Digest>,
    /// Renames that are not on disk yet, in order.
    undurable: Vec<((u64, usize), String)>,
}

/// What must be as it was: files, and what processes run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) tree: BTreeMap<String, Node>,
    pub(crate) units: BTreeMap<String, units::Picture>,
}

impl Picture {
    /// Says what is not as it should be, and nothing else.
    #[track_caller]
    pub(crate) fn must_be(&self, wanted: &Self, place: &str) {
        let mut differs = Vec::new();
        for path in self.tree.keys().chain(wanted.tree.keys()).collect::<BTreeSet<_>>() {
            let (is, must) = (self.tree.get(path), wanted.tree.get(path));
            if is != must {
                differs.push(format!("{path}: is {is:?}, must be {must:?}"));
            }
        }
        for unit in self.units.keys().chain(wanted.units.keys()).collect::<BTreeSet<_>>() {
            let (is, must) = (self.units.get(unit), wanted.units.get(unit));
            if is != must {
                differs.push(format!("{unit}: is {is:?}, must be {must:?}"));
            }
        }
        assert!(differs.is_empty(), "{place}\n{}", differs.join("\n"));
    }
}

/// A handle on the host; all clones are the same host.
#[derive(Clone, Default)]
pub(crate) struct Fake(pub(crate) Rc<RefCell<World>>);

fn power() -> HostError {
    HostError::Io { what: "the power is out".to_owned(), source: std::io::ErrorKind::NotConnected.into() }
}

pub(crate) fn errno(what: &str, code: i32) -> HostError {
    HostError::Io { what: what.to_owned(), source: std::io::Error::from_raw_os_error(code) }
}

impl Fake {
    /// A host with an `/etc` and what a small server has.
    pub(crate) fn new() -> Self {
        let fake = Self::default();
        {
            let mut w = fake.0.borrow_mut();
            for dir in ["/etc", "/etc/systemd", "/etc/systemd/system", "/usr", "/srv", "/home", "/home/ana"] {
                w.dir(dir);
            }
            w.file(crate::packages::STATUS, "");
            w.file(PASSWD, "root:x:0:0::/root:\nwww-data:x:33:33::/var/www:\npostgres:x:105:105::/var/lib/postgresql:\nana:x:1000:1000::/home/ana:\n");
            w.file(GROUP, "root:x:0:\nwww-data:x:33:\npostgres:x:105:\nana:x:1000:\n");
            w.file(SHADOW, "");
            w.file("/usr/bin/pg_lsclusters", "");
            w.tree.insert("/usr/bin/python3".to_owned(), Node::Link("python3.11".to_owned()));
            w.file("/usr/bin/python3.11", "");
            w.file("/usr/lib/python3.11/ensurepip/__init__.py", "");
            w.install_ufw();
        }
        fake
    }

    /// The same, with an nginx that serves what `/etc/nginx` says.
    pub(crate) fn with_nginx() -> Self {
        let fake = Self::new();
        {
            let mut w = fake.0.borrow_mut();
            w.dir("/etc/nginx");
            w.dir("/etc/nginx/sites-enabled");
            w.file("/etc/nginx/nginx.conf", "v0");
            w.tree.insert("/etc/nginx/sites-enabled/default".to_owned(), Node::Link("../sites-available/default".to_owned()));
            w.file("/usr/lib/systemd/system/nginx.service", "[Service]\n");
            w.running("nginx.service", "/usr/lib/systemd/system/nginx.service", &["/etc/nginx"]);
        }
        fake
    }

    pub(crate) fn world(&self) -> std::cell::RefMut<'_, World> {
        self.0.borrow_mut()
    }

    pub(crate) fn picture(&self) -> Picture {
        let world = self.0.borrow();
        Picture { tree: world.tree.clone(), units: world.unit_pictures() }
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> usize {
        self.0.borrow().log.len()
    }

    /// Puts an accident at the call with this number, counted from the next one on as 0.
    pub(crate) fn arm(&self, at: usize, fault: Fault) {
        let mut world = self.0.borrow_mut();
        let at = at + world.log.len();
        world.faults.insert(at, fault);
    }

    /// No more accidents: it was only the daemon that died.
    pub(crate) fn revive(&self) {
        let mut world = self.0.borrow_mut();
        world.faults.clear();
        world.named.clear();
        world.dead = false;
    }

    /// The power is back. What was not synced is lost, as `chance` decides; nothing runs yet (`World::reboot`).
    pub(crate) fn power_back(&self, chance: &mut dyn FnMut() -> bool) {
        self.revive();
        self.0.borrow_mut().lose(chance);
    }

    /// Puts an accident at the next call whose name begins so.
    pub(crate) fn arm_on(&self, call: &'static str, fault: Fault) {
        self.0.borrow_mut().named.push((call, fault));
    }

    fn touch<T>(&self, call: String, act: impl FnOnce(&mut World) -> HostResult<T>) -> HostResult<T> {
        let mut world = self.0.borrow_mut();
        let late = world.strike(call)?;
        let done = act(&mut world)?;
        match late {
            None => Ok(done),
            Some(Fault::Cut { .. }) => Err(world.cut()),
            Some(Fault::Fail { error, .. }) => Err(error()),
            Some(Fault::Edit(_)) => Ok(done),
        }
    }

    fn look<T>(&self, look: impl FnOnce(&World) -> HostResult<T>) -> HostResult<T> {
        let world = self.0.borrow();
        if world.dead { Err(power()) } else { look(&world) }
    }
}

impl World {
    /// What the example of a command is about.
    pub(crate) fn site(&mut self) {
        let unit = "[Service]\nUser=ana\nWorkingDirectory=/srv/site\nExecStart=/srv/site/env/bin/gunicorn site.wsgi\n";
        self.file("/usr/lib/systemd/system/gunicorn.service", unit);
        ["/srv/site", "/srv/site/env", "/srv/site/env/bin"].iter().for_each(|dir| self.dir(dir));
        self.file("/srv/site/env/bin/python", "");
    }

    pub(crate) fn dir(&mut self, path: &str) {
        self.tree.insert(path.to_owned(), Node::Dir(DirFacts { mode: 0o755, uid: 0, gid: 0 }));
    }

    pub(crate) fn file(&mut self, path: &str, text: &str) {
        self.tree.insert(path.to_owned(), Node::file(text));
    }

    pub(crate) fn text(&self, path: &str) -> Option<String> {
        match self.tree.get(path)? {
            Node::File { content, .. } => Some(String::from_utf8_lossy(content).into_owned()),
            _ => None,
        }
    }

    /// Counts a call; the fault that strikes after it has done its work.
    fn strike(&mut self, call: String) -> HostResult<Option<Fault>> {
        if self.dead {
            return Err(power());
        }
        let number = self.log.len();
        if let Some(place) = self.named.iter().position(|(name, _)| call.starts_with(name)) {
            let (_, fault) = self.named.remove(place);
            self.faults.insert(number, fault);
        }
        self.log.push(call);
        let sticky = |fault: &&Fault| matches!(fault, Fault::Fail { sticky: true, .. });
        let earlier = self.faults.range(..number).map(|(_, f)| f).find(sticky);
        match earlier.or(self.faults.get(&number)).cloned() {
            Some(Fault::Fail { late: false, error, .. }) => Err(error()),
            Some(Fault::Cut { late: false }) => Err(self.cut()),
            Some(Fault::Edit(edit)) => {
                edit(self);
                Ok(None)
            }
            late => Ok(late),
        }
    }

    fn cut(&mut self) -> HostError {
        self.dead = true;
        if let Some(hook) = &mut self.on_cut {
            hook();
        }
        power()
    }

    /// What a power cut takes: contents that were not synced, and any of the renames that were not; of one path the newest
    /// first.
    fn lose(&mut self, chance: &mut dyn FnMut() -> bool) {
        let unsynced = std::mem::take(&mut self.unsynced);
        for node in self.tree.values_mut().chain(self.slots.values_mut()) {
            if let Node::File { content, .. } = node
                && unsynced.contains(&Digest::of(content))
            {
                content.clear();
            }
        }
        let mut kept = BTreeSet::new();
        for (slot, path) in std::mem::take(&mut self.undurable).into_iter().rev() {
            // A directory that is gone took what was renamed out of it before along into the file system's journal.
            let is_gone = ManagedPath::new(&path).is_ok_and(|p| !self.has_parent(&p));
            if is_gone || kept.contains(&path) || !chance() {
                kept.insert(path);
            } else {
                self.exchange(slot, &path);
            }
        }
    }

    fn exchange(&mut self, slot: (u64, usize), path: &str) {
        let (live, waiting) = (self.tree.remove(path), self.slots.remove(&slot));
        self.tree.extend(waiting.map(|node| (path.to_owned(), node)));
        self.slots.extend(live.map(|node| (slot, node)));
    }

    fn has_parent(&self, path: &ManagedPath) -> bool {
        path.parent().is_none_or(|p| matches!(self.tree.get(p.as_str()), Some(Node::Dir(_))))
    }

    /// As the kernel walks: a link on the way is refused, naming where it leads.
    fn walk(&self, path: &ManagedPath) -> HostResult<()> {
        let mut next = path.parent();
        while let Some(dir) = next {
            match self.tree.get(dir.as_str()) {
                Some(Node::Link(target)) => {
                    let why = format!("{path}: {dir} leads through a symbolic link; manage the real path below {target}");
                    return Err(HostError::Unfit(why));
                }
                Some(Node::Dir(_)) | None => next = dir.parent(),
                Some(_) => return Err(HostError::Unfit(format!("{path}: {dir} is not a directory"))),
            }
        }
        Ok(())
    }

    fn is_empty(&self, path: &str) -> bool {
        let below = format!("{path}/");
        !self.tree.keys().any(|p| p.starts_with(&below))
    }

    fn object(&self, path: &str) -> Object {
        self.tree.get(path).map_or(Object::Absent, Node::object)
    }

    fn stage(&mut self, slot: Slot, path: &ManagedPath, object: &Object, content: &[u8]) -> HostResult<()> {
        let key = (slot.transaction, slot.step);
        if self.slots.contains_key(&key) {
            return Err(errno(&format!("stage {path}"), 17));
        }
        let Some(node) = Node::made(object, content) else { return Ok(()) };
        if node.object() != *object {
            self.sins.push(format!("{path}: staged content does not match its facts"));
        }
        if let Object::File(facts) = object {
            self.unsynced.insert(facts.digest);
        }
        self.slots.insert(key, node);
        Ok(())
    }

    fn swap(&mut self, slot: Slot, path: &ManagedPath, before: &Object, after: &Object) -> HostResult<()> {
        let key = (slot.transaction, slot.step);
        let foreign = |found: &Object| HostError::Foreign {
            path: path.to_string(),
            expected: before.to_string(),
            found: found.to_string(),
        };
        let live = self.object(path.as_str());
        if !self.has_parent(path) || (live == Object::Absent) != (*before == Object::Absent) {
            return Err(foreign(&live));
        }
        if self.slots.contains_key(&key) == (*after == Object::Absent) {
            return Err(errno(&format!("swap {path}: its slot is not as it should be"), 2));
        }
        self.exchange(key, path.as_str());
        if live != *before {
            self.exchange(key, path.as_str());
            return Err(foreign(&live));
        }
        self.undurable.push((key, path.to_string()));
        Ok(())
    }

    fn set_directory(&mut self, path: &ManagedPath, facts: Option<DirFacts>) -> HostResult<()> {
        match (facts, self.tree.get(path.as_str())) {
            (_, Some(Node::File { .. } | Node::Link(_) | Node::Other(_))) => Err(errno(&format!("open {path}"), 20)),
            (None, _) => {
                if self.is_empty(path.as_str()) {
                    self.tree.remove(path.as_str());
                }
                Ok(())
            }
            (Some(_), _) if !self.has_parent(path) => Err(HostError::Unfit(format!("{path}: its parent directory is missing"))),
            (Some(facts), _) => {
                self.tree.insert(path.to_string(), Node::Dir(facts));
                Ok(())
            }
        }
    }

    fn sweep(&mut self, transaction: u64) {
        if self.undurable.iter().any(|((t, _), _)| *t == transaction) {
            self.sins.push(format!("transaction {transaction} was closed before its renames were on disk"));
        }
        self.slots.retain(|(t, _), _| *t != transaction);
    }
}

impl Look for Fake {
    fn object(&self, path: &ManagedPath) -> HostResult<Seen> {
        self.look(|w| {
            w.walk(path)?;
            let node = w.tree.get(path.as_str());
            let names = match node {
                None => 0,
                Some(Node::File { names, .. }) => *names,
                Some(_) => 1,
            };
            Ok(Seen { object: w.object(path.as_str()), names })
        })
    }
    fn directory(&self, path: &ManagedPath) -> HostResult<Option<DirFacts>> {
        self.look(|w| {
            w.walk(path)?;
            match w.tree.get(path.as_str()) {
                None => Ok(None),
                Some(Node::Dir(facts)) => Ok(Some(*facts)),
                Some(other) => Err(HostError::Unfit(format!("{path} is a {}, not a directory", other.object()))),
            }
        })
    }
    fn is_empty(&self, path: &ManagedPath) -> HostResult<bool> {
        self.look(|w| Ok(w.is_empty(path.as_str())))
    }
    fn entries(&self, path: &ManagedPath, limit: usize) -> HostResult<Vec<String>> {
        let below = format!("{path}/");
        let name = |p: &String| p.strip_prefix(&below).filter(|rest| !rest.contains('/')).map(str::to_owned);
        self.look(|w| Ok(w.tree.keys().filter_map(name).take(limit).collect()))
    }
    fn up_among(&self, units: &[&str]) -> HostResult<Vec<String>> {
        let is_up = |w: &World, name: &str| w.units.get(name).is_some_and(|unit| unit.active);
        self.look(|w| Ok(units.iter().filter(|name| is_up(w, name)).map(|name| (*name).to_owned()).collect()))
    }
    fn running_services(&self) -> HostResult<Vec<String>> {
        self.look(|w| {
            Ok(w.units.iter().filter(|(name, u)| u.active && name.ends_with(".service")).map(|(n, _)| n.clone()).collect())
        })
    }
    fn ends(&self, _: &ManagedPath, _: usize) -> HostResult<Vec<LogEnd>> {
        self.look(|_| Ok(Vec::new()))
    }
    fn units_like(&self, _: &str) -> HostResult<Vec<String>> {
        self.look(|_| Ok(Vec::new()))
    }
    fn content(&self, path: &ManagedPath, limit: u64) -> HostResult<Vec<u8>> {
        self.look(|w| match w.tree.get(path.as_str()) {
            Some(Node::File { content, .. }) => Ok(content.iter().copied().take(limit as usize).collect()),
            _ => Err(errno(&format!("read {path}"), 2)),
        })
    }
    fn changed_at(&self, _: &ManagedPath) -> HostResult<Option<u64>> {
        self.look(|_| Ok(None))
    }
    fn accounts(&self) -> HostResult<Vec<Account>> {
        self.look(|w| Ok(w.passwd()))
    }
    fn group(&self, name: &str) -> HostResult<Option<u32>> {
        self.look(|w| Ok(w.databases().group(name).map(|group| group.gid)))
    }
    fn unit(&self, unit: &str) -> HostResult<UnitSeen> {
        self.look(|_| Ok(()))?;
        Ok(self.0.borrow_mut().seen(unit))
    }
    fn journal(&self, unit: &str, _: usize) -> HostResult<Vec<String>> {
        self.look(|_| Ok(vec![format!("{unit} has said its last words")]))
    }
    fn workers(&self, unit: &str) -> HostResult<Vec<Process>> {
        self.look(|w| Ok(w.workers_of(unit)))
    }
    fn run(&self, job: &Job, on_line: &mut dyn FnMut(&str) -> bool) -> HostResult<Ran> {
        if job.purpose == "look" {
            // Who only looks is not counted.
            return self.look(|_| Ok(())).map(|()| self.0.borrow_mut().looked(job));
        }
        let ran = self.touch(format!("run {}", job.purpose), |w| w.answer(job))?;
        let all = String::from_utf8_lossy(&ran.stdout).lines().all(on_line);
        if all { Ok(ran) } else { Ok(Ran { code: None, result: "signal".to_owned(), ..ran }) }
    }
    fn facts(&self) -> Facts {
        self.0.borrow().facts.clone()
    }
    fn dpkg_lock(&self) -> HostResult<Option<String>> {
        self.look(|w| Ok(w.dpkg.clone()))
    }
    fn system_state(&self) -> SystemState {
        if self.0.borrow().going_down { SystemState::Stopping } else { SystemState::Up }
    }
    fn pause(&self, time: Duration) {
        // Only as long as a real clock has to move for the one who waits.
        std::thread::sleep(time.min(Duration::from_millis(2)));
    }
}

impl Touch for Fake {
    fn staging_of(&self, path: &ManagedPath) -> HostResult<PathBuf> {
        self.look(|w| {
            if w.mounts.contains(path.as_str()) {
                return Err(HostError::Unfit(format!("{path} is a mount point: unmount it, or manage what is in it")));
            }
            let mount = w.mounts.iter().rfind(|m| path.as_str().starts_with(&format!("{m}/")));
            Ok(PathBuf::from(mount.map_or("/", |m| m.as_str())).join(".reconciled"))
        })
    }
    fn stage(&mut self, slot: Slot, path: &ManagedPath, object: &Object, content: &[u8]) -> HostResult<()> {
        self.touch(format!("stage {path}"), |w| w.stage(slot, path, object, content))
    }
    fn sync(&mut self, _: u64, _: &[PathBuf]) -> HostResult<()> {
        self.touch("sync".to_owned(), |w| {
            w.unsynced.clear();
            Ok(())
        })
    }
    fn swap(&mut self, slot: Slot, path: &ManagedPath, before: &Object, after: &Object) -> HostResult<()> {
        self.touch(format!("swap {path}"), |w| w.swap(slot, path, before, after))
    }
    fn waiting(&self, slot: Slot, _: &ManagedPath) -> HostResult<Object> {
        self.look(|w| Ok(w.slots.get(&(slot.transaction, slot.step)).map_or(Object::Absent, Node::object)))
    }
    fn staged(&self, slot: Slot, _: &ManagedPath) -> HostResult<(Object, Vec<u8>)> {
        self.look(|w| {
            let node = w.slots.get(&(slot.transaction, slot.step));
            let content = match node {
                Some(Node::File { content, .. }) => content.clone(),
                _ => Vec::new(),
            };
            Ok((node.map_or(Object::Absent, Node::object), content))
        })
    }
    fn set_directory(&mut self, path: &ManagedPath, facts: Option<DirFacts>) -> HostResult<()> {
        self.touch(format!("directory {path}"), |w| w.set_directory(path, facts))
    }
    fn sync_parents(&mut self, paths: &[&ManagedPath]) -> HostResult<()> {
        self.touch("sync parents".to_owned(), |w| {
            let parents: BTreeSet<_> = paths.iter().map(|p| p.parent()).collect();
            w.undurable.retain(|(_, path)| !ManagedPath::new(path).is_ok_and(|p| parents.contains(&p.parent())));
            Ok(())
        })
    }
    fn sweep(&mut self, transaction: u64, _: &[PathBuf]) -> HostResult<()> {
        self.touch(format!("sweep {transaction}"), |w| {
            w.sweep(transaction);
            Ok(())
        })
    }
    fn set_unit(&mut self, unit: &str, facts: &UnitFacts, _: Patience) -> HostResult<()> {
        self.touch(format!("set {unit}"), |w| w.set_unit(unit, facts))
    }
    fn restore_links(&mut self, unit: &str, links: &[(String, String)]) -> HostResult<()> {
        self.touch(format!("links {unit}"), |w| {
            w.unit(unit).enabled = !links.is_empty();
            Ok(())
        })
    }
    fn wake(&mut self, wake: &Wake, _: Patience) -> HostResult<()> {
        self.touch(wake.to_string(), |w| w.wake(wake))
    }
}
