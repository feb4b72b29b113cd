//! The journal: what units have said, read when all of it has arrived.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::systemd::Manager;
use crate::host::{HostResult, Job, Sandbox};

/// Where journald is asked (varlink).
const SOCKET: &str = "/run/systemd/journal/io.systemd.journal";
/// What it is asked: to answer when it has written all that was said to it before (`--sync` of journalctl(1)). A call ends with a zero byte.
const SYNCHRONIZE: &[u8] = b"{\"method\":\"io.systemd.Journal.Synchronize\"}\0";
/// How long that may take: what has failed is live meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

impl Manager {
    /// What a unit has said since it was last started, and what PID 1 said of it (systemd.journal-fields(7)).
    pub(super) fn journal(&self, unit: &str, lines: usize) -> HostResult<Vec<String>> {
        let lines = lines.to_string();
        let mut argv: Vec<String> = ["/usr/bin/journalctl", "--no-pager", "--quiet", "--boot", "--output=cat", "--lines", &lines]
            .map(str::to_owned)
            .to_vec();
        match self.invocation(unit)? {
            Some(id) => argv.extend([format!("_SYSTEMD_INVOCATION_ID={id}"), "+".to_owned(), format!("INVOCATION_ID={id}")]),
            None => argv.push(format!("--unit={unit}")),
        }
        let job = Job {
            purpose: "journal",
            argv,
            input: Vec::new(),
            sandbox: Sandbox::Probe,
            limit: Duration::from_secs(10),
            output_limit: 64 * 1024,
            keeps_tail: false,
        };
        settle();
        let ran = self.run(&job, &mut |_| true)?;
        Ok(String::from_utf8_lossy(&ran.stdout).lines().map(crate::path::escape).collect())
    }
}

/// Waits until the journal has what was said until now: the last words of what has just failed may still be on their way. Where it does not
/// answer, it is read as it is.
pub(super) fn settle() {
    let asked = || -> std::io::Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut journal = UnixStream::connect(SOCKET)?;
        journal.set_write_timeout(Some(PATIENCE))?;
        journal.write_all(SYNCHRONIZE)?;
        let mut answer = [0; 256];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            journal.set_read_timeout(Some(left))?;
            let read = journal.read(&mut answer)?;
            if read == 0 || answer[..read].contains(&0) {
                return Ok(());
            }
        }
    };
    if let Err(error) = asked() {
        tracing::debug!("the journal does not say when it has everything: {error}");
    }
}
