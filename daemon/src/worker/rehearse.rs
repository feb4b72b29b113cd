//! The rehearsal's own side: builds the future in private mounts, gives up what it does not need, runs the guards.
//!
//! It is started as root in a mount and a process namespace of its own. Over every mount of the host goes an
//! overlay whose upper side is a sized tmpfs; the plan's file part is carried out in that merged view with the executor's
//! own code; then the merged view becomes the root, and the live one is gone from sight.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{self, MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use crate::change::{Change, Object};
use crate::digest::Digest;
use crate::guard::GuardCall;
use crate::host::linux::{Files, accounts};
use crate::host::{HostResult, Slot};
use crate::rehearse::{GuardRan, Request};

/// Where the private mounts are made: a directory of the daemon that every boot has.
const PLACE: &str = "/run/reconciled";
/// Size of the tmpfs that takes all writes of a rehearsal.
const TMPFS: &str = "size=512m,mode=0700";
/// Limit of one guard.
const GUARD_LIMIT: Duration = Duration::from_secs(60);
/// Most output that is kept of one guard, in bytes.
const OUTPUT: u64 = 256 * 1024;

/// What a refused system call answers (errno(3)).
const EPERM: u32 = 1;

/// See [`refuse_calls`]: mounts and namespaces, other processes, the kernel's keys, modules and clock, and doors that other
/// filters do not see through (systemd.exec(5), `@mount @keyring @debug @module @reboot @swap @clock`, io_uring).
const REFUSED_CALLS: [i64; 45] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
];

type Result<T> = std::result::Result<T, String>;

/// Runs the worker: request on standard input, one JSON line per guard on standard output.
#[must_use]
pub fn main() -> ExitCode {
    match rehearse() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn rehearse() -> Result<()> {
    let (request, contents) = read_request()?;
    let sockets: Vec<String> = request.guards.iter().flat_map(|g| g.sockets.clone()).collect();
    enter_future(&sockets)?;
    carry_out(&request.changes, &contents)?;
    drop(contents);
    give_up_for_all(&request.guards)?;
    let mut out = std::io::stdout();
    for guard in &request.guards {
        let ran = check_confined(guard)?;
        let line = serde_json::to_string(&ran).map_err(|e| e.to_string())?;
        writeln!(out, "{line}").map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn read_request() -> Result<(Request, BTreeMap<Digest, Vec<u8>>)> {
    let mut stdin = std::io::stdin().lock();
    let mut line = Vec::new();
    stdin.read_until(b'\n', &mut line).map_err(|e| e.to_string())?;
    let request: Request = serde_json::from_slice(&line).map_err(|e| format!("request: {e}"))?;
    let mut contents = BTreeMap::new();
    for (digest, size) in &request.contents {
        let mut content = Vec::new();
        stdin.by_ref().take(*size).read_to_end(&mut content).map_err(|e| e.to_string())?;
        if Digest::of(&content) != *digest {
            return Err(format!("the content {} arrived damaged", digest.short()));
        }
        contents.insert(*digest, content);
    }
    Ok((request, contents))
}

/// Builds the merged view and makes it the root directory.
fn enter_future(sockets: &[String]) -> Result<()> {
    let fail = |what: &str| {
        let what = what.to_owned();
        move |e: rustix::io::Errno| format!("{what}: {e}")
    };
    let mounts = mounts()?;
    mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(fail("make mounts private"))?;
    mount::mount("tmpfs", PLACE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(&*c(TMPFS)))
        .map_err(fail("mount a tmpfs"))?;
    let root = PathBuf::from(PLACE).join("root");
    std::fs::create_dir(&root).map_err(|e| format!("make {}: {e}", root.display()))?;
    for (number, entry) in mounts.iter().enumerate() {
        entry.show_in(&root, number)?;
    }
    for socket in sockets {
        let target = under(&root, Path::new(socket));
        if Path::new(socket).exists() {
            mount::mount_bind(socket.as_str(), &target).map_err(fail(&format!("bind {socket}")))?;
        }
    }
    private_devices(&root.join("dev"))?;
    let proc = root.join("proc");
    mount::mount("proc", &proc, "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
        .map_err(fail("mount /proc"))?;
    // Through it a process of root, even without capabilities, would change the kernel for everybody.
    mount::mount_bind(&proc, &proc).and_then(|()| remount_read_only(&proc)).map_err(fail("make /proc read-only"))?;
    rustix::process::chdir(&root).map_err(fail("enter the merged view"))?;
    rustix::process::pivot_root(".", ".").map_err(fail("make the merged view the root"))?;
    mount::unmount(".", UnmountFlags::DETACH).map_err(fail("leave the live root"))?;
    rustix::process::chdir("/").map_err(fail("enter the merged view"))
}

/// A /dev with what every program may use. Disks, the kernel's log and the live host's shared memory are not in it.
/// systemd's `PrivateDevices=` would do so too, but it makes a directory in the live /tmp for a moment.
fn private_devices(dev: &Path) -> Result<()> {
    let fail = |e: std::io::Error| format!("make a private /dev: {e}");
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount::mount("tmpfs", dev, "tmpfs", flags, Some(c"size=1m,mode=0755")).map_err(|e| fail(e.into()))?;
    for node in ["null", "zero", "full", "random", "urandom", "tty"] {
        let target = dev.join(node);
        std::fs::File::create(&target).map_err(fail)?;
        mount::mount_bind(Path::new("/dev").join(node), &target).map_err(|e| fail(e.into()))?;
    }
    for (link, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        std::os::unix::fs::symlink(format!("/proc/self/fd{target}"), dev.join(link)).map_err(fail)?;
    }
    std::fs::create_dir(dev.join("shm")).map_err(fail)
}

/// A mount of the host, as proc_pid_mountinfo(5) lists it.
#[derive(Debug)]
struct Mount {
    point: PathBuf,
    kind: String,
}

impl Mount {
    fn show_in(&self, root: &Path, number: usize) -> Result<()> {
        let target = under(root, &self.point);
        if ["/proc", "/dev", PLACE].iter().any(|tree| self.point.starts_with(tree)) {
            return Ok(());
        }
        // Also what is mounted read-only: a socket seen through a bind is the live one, through an overlay it is not.
        let overlaid = self.point.is_dir() && !self.is_kernel_interface();
        if overlaid && self.overlay(&target, number).is_ok() {
            return Ok(());
        }
        use std::os::unix::fs::FileTypeExt;
        if std::fs::symlink_metadata(&self.point).is_ok_and(|meta| meta.file_type().is_socket() || meta.file_type().is_fifo()) {
            return Ok(());
        }
        if !target.exists() {
            // Shadowed by another mount: not reachable in the live tree either.
            return Ok(());
        }
        mount::mount_bind(&self.point, &target).map_err(|e| format!("bind {}: {e}", self.point.display()))?;
        remount_read_only(&target).map_err(|e| format!("make {} read-only: {e}", self.point.display()))
    }

    fn is_kernel_interface(&self) -> bool {
        let kinds = ["proc", "sysfs", "cgroup", "cgroup2", "devtmpfs", "devpts", "mqueue", "bpf", "autofs"];
        self.point.starts_with("/sys") || kinds.contains(&self.kind.as_str())
    }

    fn overlay(&self, target: &Path, number: usize) -> Result<()> {
        let side = |name: &str| -> Result<PathBuf> {
            let dir = PathBuf::from(PLACE).join(format!("{name}{number}"));
            std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
            Ok(dir)
        };
        let lower = self.point.to_str().filter(|p| !p.contains([':', ',', '\\'])).ok_or("a mount point with an odd name")?;
        let (upper, work) = (side("upper")?, side("work")?);
        copy_look(&self.point, &upper);
        let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
        mount::mount("overlay", target, "overlay", MountFlags::empty(), Some(&*c(&options))).map_err(|e| e.to_string())
    }
}

/// Flags that the mount has had from the start are locked in a namespace like ours: they have to be said again.
fn remount_read_only(path: &Path) -> std::result::Result<(), rustix::io::Errno> {
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    let locked = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount::mount_remount(path, flags | locked, c"").or_else(|_| mount::mount_remount(path, flags, c""))
}

/// The upper directory decides the mode and owner of the merged root of a mount.
fn copy_look(from: &Path, to: &Path) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if let Ok(meta) = std::fs::metadata(from) {
        // Without them the view is merely less exact.
        let _ = std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid()));
        let _ = std::fs::set_permissions(to, std::fs::Permissions::from_mode(meta.mode() & 0o7777));
    }
}

fn mounts() -> Result<Vec<Mount>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| format!("read mountinfo: {e}"))?;
    Ok(text.lines().filter_map(mount_of_line).collect())
}

fn mount_of_line(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let point = PathBuf::from(unescape(front.split(' ').nth(4)?));
    let kind = back.split(' ').next()?.to_owned();
    Some(Mount { point, kind })
}

/// mountinfo writes blanks and backslashes as `\040`, `\011`, `\012`, `\134`.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |s, (code, c)| s.replace(code, c))
}

fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn c(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).unwrap_or_default()
}

/// Carries out the plan's file part in the merged view, by the same staging and swaps as on the live host.
fn carry_out(changes: &[Change], contents: &BTreeMap<Digest, Vec<u8>>) -> Result<()> {
    let files = Files::open_root().map_err(|e| e.to_string())?;
    changes.iter().enumerate().try_for_each(|(step, change)| one(&files, step, change, contents)).map_err(|e| e.to_string())
}

fn one(files: &Files, step: usize, change: &Change, contents: &BTreeMap<Digest, Vec<u8>>) -> HostResult<()> {
    let slot = Slot { transaction: 0, step };
    match change {
        Change::Dir { path, after, .. } => files.set_directory(path, *after),
        Change::Entry { path, before, after, .. } => {
            let content = match after {
                Object::File(facts) => contents.get(&facts.digest).map(Vec::as_slice).unwrap_or_default(),
                _ => &[],
            };
            if before == after {
                return Ok(());
            }
            files.stage(slot, path, after, content)?;
            files.swap(slot, path, before, after)
        }
        Change::Unit { .. } | Change::Run(_) => Ok(()),
    }
}

/// Gives up every capability that no guard needs, and what no check may do: for good, also for what is executed from here on.
fn give_up_for_all(guards: &[GuardCall]) -> Result<()> {
    let needed: CapabilitySet = guards.iter().map(needed_by).collect();
    let own: CapabilitySet = guards.iter().map(needed_to_start).collect();
    // What a check runs could otherwise look into this process, which can still do more than it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| format!("close this process: {e}"))?;
    keep(needed, needed | own | CapabilitySet::SETPCAP)?;
    rustix::thread::set_no_new_privs(true).map_err(|e| format!("no_new_privs: {e}"))?;
    refuse_calls()
}

/// A check has the capabilities of its own guard and of no other: it runs from a thread that has given up the rest.
fn check_confined(guard: &GuardCall) -> Result<GuardRan> {
    let confined = || {
        keep(needed_by(guard), needed_by(guard) | needed_to_start(guard))?;
        Ok(check(guard))
    };
    let done = std::thread::scope(|scope| scope.spawn(confined).join());
    done.unwrap_or_else(|_| Err(format!("the check of guard {} could not be run", guard.name)))
}

fn needed_by(guard: &GuardCall) -> CapabilitySet {
    guard.capabilities.iter().filter_map(|name| capability(name)).collect()
}

/// To become another user. The check itself has neither: they go with its execution.
fn needed_to_start(guard: &GuardCall) -> CapabilitySet {
    if guard.user.is_some() { CapabilitySet::SETUID | CapabilitySet::SETGID } else { CapabilitySet::empty() }
}

/// Of this thread, and of the threads and programs that it starts: no capability but `own`, and none but `bounding` after an
/// execution.
fn keep(bounding: CapabilitySet, own: CapabilitySet) -> Result<()> {
    for one in CapabilitySet::all().iter().filter(|one| !bounding.contains(*one)) {
        // EINVAL: a capability that this kernel does not know.
        match remove_capability_from_bounding_set(one) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(format!("give up {one:?}: {e}")),
        }
    }
    let sets = rustix::thread::CapabilitySets { effective: own, permitted: own, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(|e| format!("give up capabilities: {e}"))
}

/// System calls that no check needs and that reach beyond the rehearsal, or would undo its privacy should a capability be had
/// after all: they fail from here on, also for what is executed.
fn refuse_calls() -> Result<()> {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let fail = |e: &dyn std::fmt::Display| format!("refuse system calls: {e}");
    let arch = std::env::consts::ARCH.try_into().map_err(|e| fail(&e))?;
    let rules = REFUSED_CALLS.iter().map(|call| (*call, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EPERM), arch).map_err(|e| fail(&e))?;
    let program: BpfProgram = filter.try_into().map_err(|e: seccompiler::BackendError| fail(&e))?;
    seccompiler::apply_filter(&program).map_err(|e| fail(&e))
}

/// A capability by its name (capabilities(7)). Those that would undo the rehearsal's privacy cannot be asked for.
fn capability(name: &str) -> Option<CapabilitySet> {
    Some(match name {
        "CAP_CHOWN" => CapabilitySet::CHOWN,
        "CAP_DAC_OVERRIDE" => CapabilitySet::DAC_OVERRIDE,
        "CAP_FOWNER" => CapabilitySet::FOWNER,
        "CAP_FSETID" => CapabilitySet::FSETID,
        "CAP_SETGID" => CapabilitySet::SETGID,
        "CAP_SETUID" => CapabilitySet::SETUID,
        "CAP_NET_BIND_SERVICE" => CapabilitySet::NET_BIND_SERVICE,
        "CAP_NET_ADMIN" => CapabilitySet::NET_ADMIN,
        _ => return None,
    })
}

fn check(guard: &GuardCall) -> GuardRan {
    let answer = |code, missing, output: String| GuardRan { name: guard.name.clone(), code, missing, output };
    let Some((program, arguments)) = guard.argv.split_first() else { return answer(None, true, String::new()) };
    if !Path::new(program).exists() {
        return answer(None, true, String::new());
    }
    let mut command = Command::new(program);
    if let Some(user) = &guard.user {
        // As the candidate has them: it may bring the account.
        let accounts = accounts().unwrap_or_default();
        let Some(account) = accounts.into_iter().find(|account| account.name == *user) else {
            return answer(None, true, String::new());
        };
        command.uid(account.uid).gid(account.gid);
    }
    let spawned = command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) => return answer(None, false, format!("{program}: {e}")),
    };
    let readers: Vec<_> = [child.stderr.take().map(boxed), child.stdout.take().map(boxed)]
        .into_iter()
        .flatten()
        .map(|stream| std::thread::spawn(move || read_some(stream)))
        .collect();
    let code = wait(&mut child);
    let mut output: String = readers.into_iter().filter_map(|r| r.join().ok()).collect();
    if code.is_none() {
        output.push_str(&format!("\n{program} was killed, or gave no answer within {} s", GUARD_LIMIT.as_secs()));
    }
    answer(code, false, output)
}

fn boxed(stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(stream)
}

fn read_some(mut stream: Box<dyn Read + Send>) -> String {
    let mut kept = Vec::new();
    let _ = stream.by_ref().take(OUTPUT).read_to_end(&mut kept);
    // What is beyond is read and dropped, so that the program is not blocked by it.
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}

fn wait(child: &mut std::process::Child) -> Option<i32> {
    let end = Instant::now() + GUARD_LIMIT;
    let mut nap = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.code(),
            Ok(None) if Instant::now() < end => std::thread::sleep(nap),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
        nap = (nap * 2).min(Duration::from_millis(20));
    }
}
