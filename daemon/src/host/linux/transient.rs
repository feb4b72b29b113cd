//! Processes in transient units of their own: their identity, limits and sandbox are systemd's business, not a child's
//! inheritance. The engine itself never forks.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use zbus::{Fd, Variant};

use super::systemd::{Manager, UNIT, bus_error, number, own_interface, string};
use crate::host::{HostError, HostResult, Job, Ran, Sandbox, Surroundings};
use crate::worker::secrets::IDENTITY;

/// Added to a job's own limit before we stop waiting for systemd to end it.
const GRACE: Duration = Duration::from_secs(15);

/// What `*.age` files are sealed to (sshd_config(5), `HostKey`).
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";

static COUNTER: AtomicU64 = AtomicU64::new(0);

impl Manager {
    pub(super) fn run(&self, job: &Job, on_line: &mut dyn FnMut(&str) -> bool) -> HostResult<Ran> {
        if matches!(job.sandbox, Sandbox::Evidence) {
            super::journal::settle();
        }
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("reconciled-{}-{}-{number}.service", job.purpose, std::process::id());
        self.block_on(job.purpose, job.limit + GRACE, self.run_unit(&name, job, on_line))
    }

    async fn run_unit(&self, name: &str, job: &Job, on_line: &mut dyn FnMut(&str) -> bool) -> HostResult<Ran> {
        let (stdin, stdout, stderr) = self.start(name, job).await?;
        let manager = self.manager().await?;
        let write = async {
            let mut stdin = stdin;
            // A program that does not read all of its input is no error of ours: its exit code tells.
            let _ = stdin.write_all(&job.input).await;
        };
        let mut lines = Lines { rest: Vec::new(), on_line, stopped: false };
        let (out, err, ()) = tokio::join!(collect(stdout, job, Some(&mut lines)), collect(stderr, job, None), write);
        let stop = lines.stopped || out.is_err() || err.is_err();
        if stop {
            // The unit is ended by its own limit at the latest.
            let _ = manager.stop_unit(name, "replace").await;
        }
        let ended = self.ended(name, Instant::now() + job.limit + GRACE).await;
        let _ = manager.unref_unit(name).await;
        let (code, result) = ended?;
        let over = |_| HostError::Unfit(format!("{} wrote more than {} bytes and was stopped", job.purpose, job.output_limit));
        Ok(Ran { code, result, stdout: out.map_err(over)?, stderr: err.map_err(over)? })
    }

    async fn start(&self, name: &str, job: &Job) -> HostResult<(pipe::Sender, pipe::Receiver, pipe::Receiver)> {
        let (in_read, in_write) = new_pipe()?;
        let (out_read, out_write) = new_pipe()?;
        let (err_read, err_write) = new_pipe()?;
        let manager = self.manager().await?;
        {
            let program = job.argv.first().ok_or_else(|| HostError::Unfit("a job without a program".to_owned()))?;
            let exec = vec![(program.clone(), job.argv.iter().map(|word| literal(word)).collect::<Vec<_>>(), false)];
            let micros = u64::try_from(job.limit.as_micros()).unwrap_or(u64::MAX);
            let mut properties: Vec<(&str, Variant<'_>)> = vec![
                ("Description", Variant::from(format!("reconciled: {}", job.purpose))),
                ("Type", "exec".into()),
                // ExecStartEx, which knows `no-env-expand`, systemd 252 cannot read again when it reloads.
                ("ExecStart", Variant::from(exec)),
                ("AddRef", true.into()),
                ("CollectMode", "inactive-or-failed".into()),
                ("StandardInputFileDescriptor", Variant::from(Fd::from(in_read))),
                ("StandardOutputFileDescriptor", Variant::from(Fd::from(out_write))),
                ("StandardErrorFileDescriptor", Variant::from(Fd::from(err_write))),
                ("RuntimeMaxUSec", micros.into()),
                ("TimeoutStopUSec", 5_000_000_u64.into()),
                ("KillMode", "control-group".into()),
                ("LimitCORE", 0_u64.into()),
            ];
            properties.extend(sandbox(&job.sandbox));
            // The block ends here so that the message, with its duplicates of the pipe ends, is gone before we read.
            manager
                .start_transient_unit(name, "replace", &properties, &[])
                .await
                .map_err(|e| bus_error(&format!("start {name}"), e))?;
        }
        let receiver = |fd| pipe::Receiver::from_owned_fd(fd).map_err(pipe_error);
        Ok((pipe::Sender::from_owned_fd(in_write).map_err(pipe_error)?, receiver(out_read)?, receiver(err_read)?))
    }

    /// Waits until the unit has ended; its exit code and systemd's `Result`.
    async fn ended(&self, name: &str, end: Instant) -> HostResult<(Option<i32>, String)> {
        /// `CLD_EXITED` (sigaction(2)). 0 is *unknown*, never success: a forgotten unit answers with defaults.
        const EXITED: u32 = 1;
        let mut nap = Duration::from_millis(1);
        let unit = self.object_of(name).await?;
        loop {
            let state = self.some(&unit, UNIT, &["ActiveState"]).await?;
            if matches!(string(&state, "ActiveState").as_str(), "inactive" | "failed") {
                let names = ["ExecMainCode", "ExecMainStatus", "ExecMainPID", "Result"];
                let properties = self.some(&unit, &own_interface(name), &names).await?;
                let exited = number_of(&properties, "ExecMainCode") == Some(EXITED as i32);
                let code = exited.then(|| number_of(&properties, "ExecMainStatus")).flatten();
                let mut result = string(&properties, "Result");
                if number_of(&properties, "ExecMainCode") == Some(0) && number(&properties, "ExecMainPID") == 0 {
                    "unknown".clone_into(&mut result);
                }
                return Ok((code, result));
            }
            if Instant::now() >= end {
                return Err(HostError::Timeout { what: format!("end of {name}"), limit: GRACE });
            }
            tokio::time::sleep(nap).await;
            nap = (nap * 2).min(Duration::from_millis(100));
        }
    }
}

/// A word as it is: `$word` and `${word}` in one would be taken for variables of the manager's, `$$` stands for the sign (systemd.service(5)).
fn literal(word: &str) -> String {
    word.replace('$', "$$")
}

/// Properties that keep a process from what it does not need (systemd.exec(5)).
fn sandbox(kind: &Sandbox) -> Vec<(&'static str, Variant<'static>)> {
    let user = |name: &str| vec![("User", Variant::from(name.to_owned()))];
    match kind {
        Sandbox::Opener { with_key, credentials } => opener(*with_key, credentials),
        Sandbox::Live { user: name, surroundings } => {
            let mut set = name.as_deref().map(user).unwrap_or_default();
            set.extend(surrounded(surroundings));
            set
        }
        Sandbox::Rehearsal => rehearsal(),
        Sandbox::Probe => confined(CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH, &["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]),
        Sandbox::Evidence => confined(CAP_DAC_READ_SEARCH | CAP_SYS_PTRACE, &[]),
        Sandbox::Parser { user: name } => {
            let mut set = user(name);
            // No sockets at all: not even the bus, which takes this user for the git hook.
            set.extend(confined(0, &[]));
            set.push(("PrivateNetwork", true.into()));
            // The account's own settings are for fetching; a parser needs none.
            set.push(("Environment", Variant::from(vec!["HOME=/nonexistent".to_owned()])));
            set
        }
        Sandbox::Git { user: name } => {
            let mut set = user(name);
            set.extend(confined(0, &["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]));
            set.push(("Environment", git_environment().into()));
            set
        }
    }
}

fn opener(with_key: bool, credentials: &[(String, Vec<u8>)]) -> Vec<(&'static str, Variant<'static>)> {
    let mut set = confined(0, &[]);
    set.push(("DynamicUser", true.into()));
    set.push(("PrivateNetwork", true.into()));
    if with_key {
        set.push(("LoadCredential", Variant::from(vec![(IDENTITY.to_owned(), HOST_KEY.to_owned())])));
    }
    if !credentials.is_empty() {
        set.push(("SetCredentialEncrypted", Variant::from(credentials.to_vec())));
    }
    set
}

fn surrounded(surroundings: &Surroundings) -> Vec<(&'static str, Variant<'static>)> {
    let Surroundings { group, directory, environment, environment_files } = surroundings.clone();
    let mut set = Vec::new();
    set.extend(group.map(|group| ("Group", Variant::from(group))));
    set.extend(directory.map(|directory| ("WorkingDirectory", Variant::from(directory))));
    if !environment.is_empty() {
        set.push(("Environment", Variant::from(environment)));
    }
    if !environment_files.is_empty() {
        // A file that is named with `-` may be missing.
        let files: Vec<(String, bool)> =
            environment_files.iter().map(|file| (file.trim_start_matches('-').to_owned(), file.starts_with('-'))).collect();
        set.push(("EnvironmentFiles", Variant::from(files)));
    }
    set
}

const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
/// Which sockets a process holds is not shown without it (proc_pid_fd(5)); the worker gives it up once it has seen them.
const CAP_SYS_PTRACE: u64 = 1 << 19;
/// Mount and process namespaces (`CLONE_NEWNS | CLONE_NEWPID`, clone(2)).
const CLONE_NEWNS_AND_PID: u64 = 0x0002_0000 | 0x2000_0000;

/// With these a worker confines itself (landlock(7)).
const LANDLOCK: [&str; 3] = ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"];

/// git never asks a person, and ssh neither: a host key that has changed is an error, not a question.
fn git_environment() -> Vec<String> {
    [
        "HOME=/var/lib/reconciled",
        "LC_ALL=C.UTF-8",
        "GIT_CONFIG_NOSYSTEM=1",
        "GIT_TERMINAL_PROMPT=0",
        "GIT_SSH_COMMAND=ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=20",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// No mount namespaces here: they cost tens of milliseconds each. Workers take the file system from themselves by Landlock
/// (`worker::sandbox`), which costs less than one.
fn confined(capabilities: u64, families: &[&str]) -> Vec<(&'static str, Variant<'static>)> {
    let families: Vec<String> = families.iter().map(|f| (*f).to_owned()).collect();
    vec![
        ("CapabilityBoundingSet", capabilities.into()),
        ("NoNewPrivileges", true.into()),
        ("RestrictNamespaces", 0_u64.into()),
        ("RestrictAddressFamilies", Variant::from((true, families))),
        ("MemoryMax", (1_u64 << 30).into()),
        ("TasksMax", 64_u64.into()),
        // systemd 252 does not count Landlock among the services' calls (systemd.exec(5)).
        (
            "SystemCallFilter",
            Variant::from((true, ["@system-service"].into_iter().chain(LANDLOCK).map(str::to_owned).collect::<Vec<_>>())),
        ),
        ("SystemCallErrorNumber", 1_i32.into()),
        // Else the filters are made for every architecture that the kernel knows: a third of what a worker costs.
        ("SystemCallArchitectures", Variant::from(vec!["native".to_owned()])),
        ("OOMScoreAdjust", 500_i32.into()),
        ("UMask", 0o077_u32.into()),
    ]
}

/// What the rehearsal gives up by itself comes later (`worker::rehearse`): it needs mounts first.
fn rehearsal() -> Vec<(&'static str, Variant<'static>)> {
    vec![
        ("PrivateMounts", true.into()),
        ("DevicePolicy", "closed".into()),
        ("PrivateIPC", true.into()),
        // The two that it makes for itself; in a user namespace of its own a candidate's code would be root again.
        ("RestrictNamespaces", CLONE_NEWNS_AND_PID.into()),
        ("NoNewPrivileges", true.into()),
        // The filter that the worker takes on itself sees the native numbers of system calls only.
        ("SystemCallArchitectures", Variant::from(vec!["native".to_owned()])),
        ("ProtectKernelModules", true.into()),
        ("MemoryMax", (2_u64 << 30).into()),
        ("TasksMax", 256_u64.into()),
        ("OOMScoreAdjust", 500_i32.into()),
    ]
}

fn number_of(properties: &std::collections::HashMap<String, zbus::OwnedVariant>, key: &str) -> Option<i32> {
    i32::try_from(properties.get(key)?.clone()).ok()
}

fn new_pipe() -> HostResult<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|e| pipe_error(e.into()))
}

fn pipe_error(source: std::io::Error) -> HostError {
    HostError::Io { what: "make a pipe".to_owned(), source }
}

/// Cuts a stream into lines and hands each to its reader.
struct Lines<'a> {
    rest: Vec<u8>,
    on_line: &'a mut dyn FnMut(&str) -> bool,
    stopped: bool,
}

impl Lines<'_> {
    fn feed(&mut self, bytes: &[u8]) {
        let mut begin = 0;
        for (end, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            self.rest.extend_from_slice(&bytes[begin..end]);
            if !self.stopped {
                self.stopped = !(self.on_line)(&String::from_utf8_lossy(&self.rest));
            }
            self.rest.clear();
            begin = end + 1;
        }
        self.rest.extend_from_slice(&bytes[begin..]);
    }
}

/// Reads to the end, or answers `Err` once there is more than a job may write; of one that may write more the last half of that is kept.
async fn collect(mut from: pipe::Receiver, job: &Job, mut lines: Option<&mut Lines<'_>>) -> Result<Vec<u8>, ()> {
    let mut all = Vec::new();
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(all),
            Ok(n) => {
                all.extend_from_slice(&buffer[..n]);
                if all.len() > job.output_limit {
                    if !job.keeps_tail {
                        return Err(());
                    }
                    all.drain(..all.len() - job.output_limit / 2);
                }
                if let Some(lines) = lines.as_deref_mut() {
                    lines.feed(&buffer[..n]);
                    if lines.stopped {
                        return Ok(all);
                    }
                }
            }
        }
    }
}
