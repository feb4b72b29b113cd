//! apt and dpkg: how they are run, what a run of apt would do, which names and versions it knows.

use std::collections::BTreeSet;
use std::io;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use crate::host::linux::lock_holder;
use crate::packages::{UPDATES, is_update};

/// What both tools need to be left alone with their work: no questions, no restarts by others, English words.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBIAN_PRIORITY", "critical"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
    ("NEEDRESTART_SUSPEND", "1"),
    ("LC_ALL", "C.UTF-8"),
    ("HOME", "/root"),
];
/// Options of every run of apt-get(8): conffiles stay as they are, and another run is waited for.
const OPTIONS: [&str; 10] = [
    "-y",
    "-q",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "DPkg::Lock::Timeout=300",
    "-o",
    "APT::Get::Assume-Yes=true",
];

/// Held by who works with packages, and by who fetches them (fcntl(2)). apt-get waits for the first alone.
const LOCKS: [&str; 3] = ["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/cache/apt/archives/lock"];
/// Held by who fetches lists.
const LISTS: &str = "/var/lib/apt/lists/lock";
/// How long all of a run waits for others, in milliseconds, as `DPkg::Lock::Timeout` says it to apt.
const WAIT_MS: u32 = 300_000;
/// Pause between two looks at a lock, in milliseconds.
const LOOK_MS: u32 = 500;

/// What a run of apt does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Packages that come, or get another version.
    pub(super) comes: BTreeSet<String>,
    /// Packages that go.
    pub(super) goes: BTreeSet<String>,
}

impl Effect {
    /// As `apt-get --simulate` tells it: `Inst nginx [1.18] (1.22.1-9 Debian:12/stable [amd64])`, `Remv …`, `Purg …` (apt-get(8)).
    fn read(said: &str) -> Self {
        let of = |verbs: [&str; 2]| {
            let words = said.lines().map(|line| line.split(' '));
            let named = words.filter_map(|mut words| verbs.contains(&words.next()?).then(|| words.next()).flatten());
            named.filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        Self { comes: of(["Inst", "Inst"]), goes: of(["Remv", "Purg"]) }
    }
}

/// Has apt do it.
pub(super) fn apt(words: &[&str]) -> io::Result<()> {
    run(Command::new("/usr/bin/apt-get").args(OPTIONS).args(words)).map(drop)
}

/// What apt would do.
pub(super) fn simulate(words: &[&str]) -> io::Result<Effect> {
    let mut command = Command::new("/usr/bin/apt-get");
    command.args(OPTIONS).arg("--simulate").args(words).stdout(Stdio::piped());
    run(&mut command).map(|said| Effect::read(&said))
}

/// Refuses names that apt does not know. It would take them for a regular expression, or what ends in `+` or `-` for a request (apt-get(8)).
pub(super) fn know(names: &[&str]) -> io::Result<()> {
    let said = run(Command::new("/usr/bin/apt-cache").args(["--all-names", "pkgnames"]).stdout(Stdio::piped()))?;
    let known: BTreeSet<&str> = said.lines().collect();
    match names.iter().find(|name| !known.contains(*name)) {
        None => Ok(()),
        Some(name) => {
            let text = format!("apt knows no package `{name}`: correct the name, or add the source that has it");
            Err(io::Error::other(text))
        }
    }
}

/// Whether a source has this version of a package.
pub(super) fn has(name: &str, version: &str) -> io::Result<bool> {
    // ` nginx | 1.22.1-9 | http://deb.debian.org/debian …` (apt-cache(8), madison).
    let said = run(Command::new("/usr/bin/apt-cache").args(["madison", name]).stdout(Stdio::piped()))?;
    Ok(said.lines().any(|line| line.split('|').nth(1).is_some_and(|found| found.trim() == version)))
}

/// Which packages have come by themselves, for others that need them.
pub(super) fn automatic() -> io::Result<BTreeSet<String>> {
    let said = run(Command::new("/usr/bin/apt-mark").arg("showauto").stdout(Stdio::piped()))?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// These have come by themselves.
pub(super) fn mark_automatic(names: &[&str]) -> io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    run(Command::new("/usr/bin/apt-mark").args(["auto", "--"]).args(names)).map(drop)
}

/// Everything that these packages need.
pub(super) fn needed_by(names: &BTreeSet<String>) -> io::Result<BTreeSet<String>> {
    let mut command = Command::new("/usr/bin/apt-cache");
    command.args(["depends", "--recurse", "--installed", "--no-recommends", "--no-suggests", "--no-enhances", "--"]);
    let said = run(command.args(names).stdout(Stdio::piped()))?;
    Ok(said.lines().filter(|line| !line.starts_with(' ')).map(str::to_owned).collect())
}

/// Fetches the lists of packages.
pub(super) fn update() -> io::Result<()> {
    wait_for(&[LISTS], &LEFT);
    apt(&["update"])
}

/// Waits until nobody else works with packages: what is looked at and simulated has to hold when it is done.
pub(super) fn wait() {
    wait_for(&LOCKS, &LEFT);
}

/// How many looks all of a run may still wait for: it has a limit of its own.
static LEFT: AtomicU32 = AtomicU32::new(WAIT_MS / LOOK_MS);

/// Waits until nobody holds any of these, for so many looks at most. After that it is left to apt to say who is in the way.
fn wait_for(locks: &[&str], left: &AtomicU32) {
    let is_held = || locks.iter().any(|lock| lock_holder(lock).is_some());
    while is_held() && left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
        thread::sleep(Duration::from_millis(LOOK_MS.into()));
    }
}

/// Ends what an interrupted run has left half-way (dpkg(1), `--audit`): packages, or changes that dpkg has not put into its database yet,
/// without which apt refuses everything. While dpkg is at work there are some, too: that is waited for.
pub(super) fn mend() -> io::Result<()> {
    wait();
    let mut updates = std::fs::read_dir(UPDATES).into_iter().flatten().flatten();
    let is_torn = updates.any(|entry| entry.file_name().to_str().is_some_and(is_update));
    if !is_torn && run(Command::new("/usr/bin/dpkg").arg("--audit").stdout(Stdio::piped()))?.trim().is_empty() {
        return Ok(());
    }
    eprintln!("dpkg was interrupted, or has packages left to configure: that first");
    run(Command::new("/usr/bin/dpkg").args(["--force-confdef", "--force-confold", "--configure", "-a"])).map(drop)
}

/// Whether there are lists of what the sources have.
pub(super) fn has_lists() -> bool {
    let lists = std::fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    lists.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

/// Says what nobody has to act upon, where it can be found: in the journal. What a worker that ends well says is not shown.
pub(super) fn tell(text: &str) {
    eprintln!("{text}");
    let mut command = Command::new("/usr/bin/systemd-cat");
    // Who misses it has it in the output above.
    let _ = run(command.args(["--identifier=reconciled", "--priority=warning", "/bin/echo", text]));
}

/// Runs a program to its end; what it says goes to standard error, but for what is asked for with a pipe.
fn run(command: &mut Command) -> io::Result<String> {
    command.envs(ENVIRONMENT).stdin(Stdio::null());
    let program = command.get_program().to_string_lossy().into_owned();
    let first =
        command.get_args().find(|word| !word.to_string_lossy().starts_with('-')).map(|w| w.to_string_lossy().into_owned());
    let output = command.stderr(Stdio::inherit()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
    Err(io::Error::other(format!("{program} {}: {}", first.unwrap_or_default(), output.status)))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    #[test]
    fn whoever_is_at_work_is_waited_for_with_a_limit() {
        let lock = tempfile::NamedTempFile::new().unwrap();
        let path = lock.path().to_str().unwrap();
        // A struct flock of 64 bits (fcntl(2)).
        let script = "$| = 1; $all = pack 's s x4 q q i x4', F_WRLCK, 0, 0, 0, 0; open F, '+<', $ARGV[0]; fcntl F, F_SETLK, $all or die; print \"\\n\"; <STDIN>";
        let mut perl = Command::new("perl");
        let perl = perl.args(["-MFcntl", "-e", script, path]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut other = perl.spawn().unwrap();
        BufReader::new(other.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let locks = ["/nonexistent/lock", path];
        assert!(lock_holder(path).unwrap().starts_with(&format!("perl, process {}", other.id())));
        let left = AtomicU32::new(1);
        wait_for(&locks, &left);
        assert!(lock_holder(path).is_some() && left.into_inner() == 0, "so long and no longer");
        drop(other.stdin.take());
        wait_for(&locks, &LEFT);
        assert!(lock_holder(path).is_none() && other.wait().unwrap().success());
    }

    #[test]
    fn what_apt_would_do() {
        let said = "NOTE: This is only a simulation!\nReading package lists...\nThe following packages will be REMOVED:\n  exim4\n\
            Remv exim4 [4.96-15]\nInst libc6 [2.36-9] (2.36-9+deb12u1 Debian:12/stable [amd64]) []\n\
            Inst nginx (1.22.1-9 Debian:12/stable [amd64])\nPurg old:i386 [1]\nConf nginx (1.22.1-9 Debian:12/stable [amd64])\n";
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(Effect::read(said), Effect { comes: names(&["libc6", "nginx"]), goes: names(&["exim4", "old:i386"]) });
    }
}
