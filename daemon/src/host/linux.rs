//! The real host: `files` for paths, `systemd` and `jobs` for units, `transient` for processes, `journal` for what
//! they said. No decisions.

mod facts;
mod files;
mod jobs;
mod journal;
mod processes;
mod sockets;
mod systemd;
mod transient;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::change::{DirFacts, Object, UnitFacts, Wake};
use crate::facts::Facts;
use crate::host::{
    Account, HostError, HostResult, Job, LogEnd, Look, Patience, Process, Ran, Seen, Slot, SystemState, Touch, UnitSeen,
};
use crate::path::ManagedPath;

pub use facts::facts;
pub use files::{Files, accounts};
pub(crate) use processes::lock_holder;
pub use systemd::Manager;

/// Counts the engine's signs of life; the watchdog is fed only while it moves.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// One sign of life.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The real host, seen and touched from the engine thread.
#[derive(Debug)]
pub struct Linux {
    files: Files,
    manager: Option<Manager>,
    pulse: Pulse,
}

impl Linux {
    /// A host whose files are reached from the root directory and whose units through this manager.
    ///
    /// # Errors
    /// When the root directory cannot be opened.
    pub fn new(manager: Manager) -> HostResult<Self> {
        Ok(Self { files: Files::open_root()?, pulse: manager.pulse().clone(), manager: Some(manager) })
    }

    /// A host in early boot: its files, and no manager to ask.
    ///
    /// # Errors
    /// When the root directory cannot be opened.
    pub fn without_manager() -> HostResult<Self> {
        Ok(Self { files: Files::open_root()?, pulse: Pulse::default(), manager: None })
    }

    fn manager(&self) -> HostResult<&Manager> {
        self.manager.as_ref().ok_or_else(|| HostError::Unfit("no manager can be asked in early boot".to_owned()))
    }
}

impl Look for Linux {
    fn object(&self, path: &ManagedPath) -> HostResult<Seen> {
        self.pulse.beat();
        self.files.object(path)
    }
    fn directory(&self, path: &ManagedPath) -> HostResult<Option<DirFacts>> {
        self.files.directory(path)
    }
    fn is_empty(&self, path: &ManagedPath) -> HostResult<bool> {
        self.files.is_empty(path)
    }
    fn entries(&self, path: &ManagedPath, limit: usize) -> HostResult<Vec<String>> {
        self.files.entries(path, limit)
    }
    fn content(&self, path: &ManagedPath, limit: u64) -> HostResult<Vec<u8>> {
        self.files.content(path, limit)
    }
    fn changed_at(&self, path: &ManagedPath) -> HostResult<Option<u64>> {
        self.files.changed_at(path)
    }
    fn ends(&self, directory: &ManagedPath, limit: usize) -> HostResult<Vec<LogEnd>> {
        self.files.ends(directory, limit)
    }
    fn accounts(&self) -> HostResult<Vec<Account>> {
        files::accounts()
    }
    fn group(&self, name: &str) -> HostResult<Option<u32>> {
        files::group(name)
    }
    fn unit(&self, unit: &str) -> HostResult<UnitSeen> {
        self.manager()?.unit(unit)
    }
    fn up_among(&self, units: &[&str]) -> HostResult<Vec<String>> {
        self.manager()?.up_among(units)
    }
    fn running_services(&self) -> HostResult<Vec<String>> {
        self.manager()?.running_services()
    }
    fn units_like(&self, pattern: &str) -> HostResult<Vec<String>> {
        self.manager()?.units_like(pattern)
    }
    fn journal(&self, unit: &str, lines: usize) -> HostResult<Vec<String>> {
        self.manager()?.journal(unit, lines)
    }
    fn workers(&self, unit: &str) -> HostResult<Vec<Process>> {
        self.manager()?.workers(unit)
    }
    fn run(&self, job: &Job, on_line: &mut dyn FnMut(&str) -> bool) -> HostResult<Ran> {
        self.manager()?.run(job, on_line)
    }
    fn facts(&self) -> Facts {
        facts()
    }
    fn dpkg_lock(&self) -> HostResult<Option<String>> {
        Ok(processes::lock_holder(processes::DPKG_LOCK))
    }
    fn system_state(&self) -> SystemState {
        self.manager.as_ref().map(Manager::system_state).unwrap_or_default()
    }
    fn pause(&self, time: Duration) {
        match &self.manager {
            Some(manager) => manager.pause(time),
            None => std::thread::sleep(time),
        }
    }
}

impl Touch for Linux {
    fn staging_of(&self, path: &ManagedPath) -> HostResult<PathBuf> {
        self.files.staging_of(path)
    }
    fn stage(&mut self, slot: Slot, path: &ManagedPath, object: &Object, content: &[u8]) -> HostResult<()> {
        self.pulse.beat();
        self.files.stage(slot, path, object, content)
    }
    fn sync(&mut self, transaction: u64, staging: &[PathBuf]) -> HostResult<()> {
        files::sync(transaction, staging)
    }
    fn swap(&mut self, slot: Slot, path: &ManagedPath, before: &Object, after: &Object) -> HostResult<()> {
        self.pulse.beat();
        self.files.swap(slot, path, before, after)
    }
    fn staged(&self, slot: Slot, path: &ManagedPath) -> HostResult<(Object, Vec<u8>)> {
        self.files.staged(slot, path)
    }
    fn set_directory(&mut self, path: &ManagedPath, facts: Option<DirFacts>) -> HostResult<()> {
        self.files.set_directory(path, facts)
    }
    fn waiting(&self, slot: Slot, path: &ManagedPath) -> HostResult<Object> {
        self.pulse.beat();
        self.files.waiting(slot, path)
    }
    fn sync_parents(&mut self, paths: &[&ManagedPath]) -> HostResult<()> {
        self.files.sync_parents(paths)
    }
    fn sweep(&mut self, transaction: u64, staging: &[PathBuf]) -> HostResult<()> {
        files::sweep(transaction, staging)
    }
    fn set_unit(&mut self, unit: &str, facts: &UnitFacts, patience: Patience) -> HostResult<()> {
        self.manager()?.set_unit(unit, facts, patience)?;
        // The manager does not wait until the links that it makes are on disk.
        if facts.enabled.is_some() || facts.masked.is_some() { files::sync_links() } else { Ok(()) }
    }
    fn restore_links(&mut self, unit: &str, links: &[(String, String)]) -> HostResult<()> {
        files::restore_links(unit, links)?;
        files::sync_links()
    }
    fn wake(&mut self, wake: &Wake, patience: Patience) -> HostResult<()> {
        self.manager()?.wake(wake, patience)
    }
}

/// Gives a failed system call its place in a sentence.
pub(crate) fn io(what: impl FnOnce() -> String) -> impl FnOnce(rustix::io::Errno) -> HostError {
    move |errno| HostError::Io { what: what(), source: errno.into() }
}
