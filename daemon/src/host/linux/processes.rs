//! Processes, from `/proc` (proc(5)).

use std::fs;

use crate::host::Process;

/// The children of a process; none when it is gone.
pub(super) fn children_of(pid: u32) -> Vec<Process> {
    if pid == 0 {
        return Vec::new();
    }
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| process(pid.parse().ok()?)).collect()
}

fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything: count from its end.
    let started = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let title = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let title = String::from_utf8_lossy(&title).replace('\0', " ").trim().to_owned();
    Some(Process { pid, started, title })
}
