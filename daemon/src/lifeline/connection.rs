//! When an SSH connection was made: one from before a change shows nothing about what changed since.

use std::fs;
use std::os::unix::process::parent_id;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A generation that waits for its confirmation, as the daemon's dead man's switch has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub generation: u64,
    /// Since when this life of the daemon knows that it waits, as [`now`].
    pub since: Duration,
}

/// Time since the boot: no clock that is set moves it, and processes are dated by it.
#[must_use]
pub fn now() -> Duration {
    let clock = clock_gettime(ClockId::Boottime);
    Duration::new(clock.tv_sec.unsigned_abs(), u32::try_from(clock.tv_nsec).unwrap_or_default())
}

/// When the SSH connection that this process serves was made, rounded down to a clock tick; `None` where `/proc` does not tell.
///
/// A server keeps one process of another user, root, for each connection (of sshd: `sshd: USER [priv]`), and starts ours below it, for each
/// session anew.
#[must_use]
pub fn made_at() -> Option<Duration> {
    let own = rustix::process::getuid().as_raw();
    let mut pid = parent_id();
    while pid > 1 {
        let process = Ancestor::of(pid)?;
        if process.uid != own {
            return Some(process.started);
        }
        pid = process.parent;
    }
    None
}

/// What proc_pid_stat(5) and proc_pid_status(5) say of a process above ours.
struct Ancestor {
    parent: u32,
    uid: u32,
    started: Duration,
}

impl Ancestor {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses and may hold anything: count from its end.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let ticks: u64 = fields.get(19)?.parse().ok()?;
        let started = Duration::from_millis(ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self { parent: fields.get(1)?.parse().ok()?, uid, started })
    }
}

#[cfg(test)]
mod tests {
    use super::{Ancestor, now};

    #[test]
    fn this_process_is_younger_than_its_parent_and_than_now() {
        let this = Ancestor::of(std::process::id()).unwrap();
        let parent = Ancestor::of(this.parent).unwrap();
        assert!(parent.started <= this.started && this.started <= now());
        assert_eq!(this.uid, rustix::process::getuid().as_raw());
    }
}
