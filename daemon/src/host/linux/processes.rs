//! Processes, from `/proc` (proc(5)).

use std::fs;

use rustix::process::{Flock, FlockType, fcntl_getlk};

use crate::host::Process;

/// Held by apt and dpkg while they work (fcntl(2)).
pub(super) const DPKG_LOCK: &str = "/var/lib/dpkg/lock-frontend";

/// Who holds such a lock. Where there is none to look at, nobody does.
pub(crate) fn lock_holder(path: &str) -> Option<String> {
    let file = fs::File::open(path).ok()?;
    let held = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).ok()??;
    let pid = held.pid.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
    Some(process(pid).map_or_else(|| format!("process {pid}"), |process| format!("{}, process {pid},", process.program)))
}

/// The children of a process; none when it is gone.
pub(super) fn children_of(pid: u32) -> Vec<Process> {
    if pid == 0 {
        return Vec::new();
    }
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| process(pid.parse().ok()?)).collect()
}

/// A process; `None` when it is gone.
pub(super) fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything: count from its end.
    let (head, rest) = stat.rsplit_once(')')?;
    let program = head.split_once('(')?.1.to_owned();
    let started = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let title = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let title = String::from_utf8_lossy(&title).replace('\0', " ").trim().to_owned();
    Some(Process { pid, started, program, title })
}
