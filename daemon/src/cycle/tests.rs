//! The pipeline from beginning to end on a host in memory.

mod faults;
mod orders;
mod programs;
mod rehearsals;
mod rendered;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::{Engine, Order};
use crate::audit::AuditLog;
use crate::guard::Guards;
use crate::host::fake::{Fake, Picture, Revision};
use crate::policy::Right;
use crate::report::{Progress, Report, Verdict};
use crate::source::{MAIN, SourceEntry};
use crate::state::State;

/// A generator of numbers that are the same in every run (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next().is_multiple_of(2)
    }
}

/// The guards that the package ships.
pub(crate) fn shipped_guards() -> Guards {
    // Thousands of hosts are made by some tests, and to compile the guards' globs takes longer than all else.
    static SHIPPED: OnceLock<Guards> = OnceLock::new();
    let read = || {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/guards")).unwrap();
        let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        Guards::new(files.iter().map(|file| toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()).collect()).unwrap()
    };
    SHIPPED.get_or_init(read).clone()
}

/// A directory in memory where there is one: the store syncs a lot.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
}

/// A commit id that begins with this.
pub(crate) fn id(short: &str) -> String {
    format!("{short:0<40}")
}

/// The entries of a repository: `("path", "content")`, `("path@", "target")` for a link.
pub(crate) fn entries(list: &[(&str, &str)]) -> std::collections::BTreeMap<String, SourceEntry> {
    let entry = |(name, text): &(&str, &str)| match name.strip_suffix('@') {
        Some(name) => (name.to_owned(), SourceEntry::Link { target: (*text).to_owned() }),
        None => ((*name).to_owned(), SourceEntry::File { content: (*text).into(), executable: false }),
    };
    list.iter().map(entry).collect()
}

/// A host with an engine on it.
pub(crate) struct Rig {
    pub(crate) fake: Fake,
    pub(crate) dir: TempDir,
    pub(crate) engine: Engine,
    /// What the last order was told.
    pub(crate) said: Vec<String>,
    /// Whether a stop of the daemon makes it give up.
    pub(crate) go_on: Rc<Cell<bool>>,
}

impl Rig {
    pub(crate) fn new(fake: Fake) -> Self {
        let dir = scratch();
        let go_on = Rc::new(Cell::new(true));
        let engine = engine(&fake, dir.path(), &go_on);
        Self { fake, dir, engine, said: Vec::new(), go_on }
    }

    /// Adds a revision to the fake repository, on top of another one.
    pub(crate) fn commit(&self, short: &str, parent: Option<&str>, list: &[(&str, &str)]) -> &Self {
        let revision = Revision { parent: parent.map(id), entries: entries(list) };
        self.fake.world().revisions.insert(id(short), revision);
        self
    }

    pub(crate) fn run(&mut self, order: &Order) -> Report {
        self.said.clear();
        let said = &mut self.said;
        self.engine.run(order, &mut |progress: Progress| said.push(progress.text()))
    }

    pub(crate) fn deploy(&mut self, short: &str) -> Report {
        self.run(&Order::Deploy { commit: id(short), actor: "ana".to_owned(), right: Right::Deploy })
    }

    pub(crate) fn preview(&mut self, short: &str, right: Right) -> Report {
        self.run(&Order::Preview { commit: id(short), actor: "ana".to_owned(), right })
    }

    pub(crate) fn rollback(&mut self, generation: u64) -> Report {
        self.run(&Order::Rollback { generation, actor: "root".to_owned() })
    }

    pub(crate) fn repair(&mut self, insist: bool) -> Report {
        self.run(&Order::Repair { actor: "drift".to_owned(), insist })
    }

    /// Goes live, or shows why not.
    pub(crate) fn live(&mut self, short: &str) -> &mut Self {
        let report = self.deploy(short);
        assert_eq!(report.verdict, Verdict::Live, "{}\n{}", report.text(), self.said.join("\n"));
        self.sound();
        self
    }

    /// What holds whenever nothing is in flight.
    pub(crate) fn sound(&self) {
        let world = self.fake.world();
        assert_eq!(world.sins, Vec::<String>::new());
        assert!(world.slots.is_empty(), "left in staging: {:?}", world.slots);
    }

    pub(crate) fn main(&self) -> Option<String> {
        self.fake.world().refs.get(MAIN).cloned()
    }

    pub(crate) fn picture(&self) -> Picture {
        self.fake.picture()
    }

    /// The events of the audit log, in order.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("audit.jsonl")).unwrap();
        let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].as_str().unwrap().to_owned();
        text.lines().map(event).collect()
    }

    /// Whether one of the lines of the last order has these words.
    pub(crate) fn heard(&self, words: &str) -> bool {
        self.said.iter().any(|line| line.contains(words))
    }

    /// From now on a cut of the power keeps the store as it was at that moment, in this directory.
    pub(crate) fn keep_store_at_cut(&self) -> PathBuf {
        let (from, to) = (self.dir.path().to_owned(), self.dir.path().join("at-cut"));
        let kept = to.clone();
        self.fake.world().on_cut = Some(Box::new(move || copy(&from, &kept)));
        to
    }

    /// The daemon's next life, with the store that it finds there.
    pub(crate) fn reborn(&mut self, store: &Path) {
        let dir = scratch();
        copy(store, dir.path());
        self.go_on.set(true);
        self.engine = engine(&self.fake, dir.path(), &self.go_on);
        self.dir = dir;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_file() {
            // The next life makes its own index of the write-ahead log.
            if entry.file_name() != "state.db-shm" {
                std::fs::copy(entry.path(), target).unwrap();
            }
        } else if entry.file_name() != "at-cut" {
            copy(&entry.path(), &target);
        }
    }
}

fn engine(fake: &Fake, dir: &Path, go_on: &Rc<Cell<bool>>) -> Engine {
    let state = State::open(dir).unwrap();
    let (audit, opened) = AuditLog::open(&dir.join("audit.jsonl"), state.audit_head().unwrap()).unwrap();
    assert_eq!(opened.findings, [], "the audit log does not follow on its last head");
    let go_on = go_on.clone();
    Engine {
        host: Box::new(fake.clone()),
        state,
        audit,
        lifelines: crate::lifeline::Lifelines::new(&["/etc/ssh/**".to_owned(), "ssh.service".to_owned()]).unwrap(),
        confirm_window: "5m".to_owned(),
        past_irreversible: crate::policy::PastIrreversible::default(),
        known_as: None,
        guards: shipped_guards(),
        go_on: Box::new(move || go_on.get()),
        later: false,
        tried: None,
        repairs: crate::cycle::Repairs::default(),
        left: Vec::new(),
        stale: BTreeMap::new(),
        failing: None,
        reported_drift: None,
        refused: BTreeMap::new(),
        phase: Box::new(|_| {}),
    }
}
