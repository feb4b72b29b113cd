//! Jobs of units over D-Bus (org.freedesktop.systemd1(5)): queued, waited for with a limit, judged by their result and by the state of the unit.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use zbus::OwnedObjectPath;

use super::processes::children_of;
use super::systemd::{AWAY, Manager, UNIT, bus_error, own_interface, strings};
use crate::change::{Proof, Wake};
use crate::host::{HostError, HostResult, Job, Patience, Process, Sandbox, Surroundings, SystemState, UnitSeen};

/// Limit of a job of a unit that has none itself.
const JOB_LIMIT: Duration = Duration::from_secs(150);
/// Added to a unit's own time-outs: systemd ends its job first.
const JOB_SLACK: Duration = Duration::from_secs(30);
/// How often a job is queued again when it is not known what became of it.
const LOST_TRIES: u32 = 3;
/// How long a reload may take to bring up a new generation of workers.
const PROOF_LIMIT: Duration = Duration::from_secs(10);
/// How often a job that conflicts with another one in the queue is tried again.
const DESTRUCTIVE_TRIES: u32 = 20;

/// Limit of a program that carries files out.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// Most output of it that is kept, in bytes.
const RUN_OUTPUT: usize = 256 * 1024;

/// A verb of the manager that queues a job for a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Stop,
    Restart,
    Reload,
}

impl Manager {
    /// Queues a job, waits for its end, and judges both its result and the unit's state.
    pub(super) fn job(&self, verb: Verb, unit: &str, patience: Patience) -> HostResult<()> {
        let what = format!("{verb} {unit}");
        let limit = patience.map_or_else(|| self.limit(verb, unit), Ok)?;
        let end = Instant::now() + limit;
        let earlier = self.invocation(unit)?;
        let (mut in_the_way, mut lost) = (0, 0);
        let result = loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.block_on(&what, left, self.queue_and_wait(verb, unit)) {
                Err(HostError::Systemd(why))
                    if why.contains("destructive")
                        && in_the_way < DESTRUCTIVE_TRIES
                        && self.system_state() != SystemState::Stopping =>
                {
                    in_the_way += 1;
                    self.pause(Duration::from_millis(500));
                }
                Err(HostError::Timeout { .. }) => {
                    self.cancel(unit);
                    break format!(
                        "not done within {} s and cancelled (the key `timeout` of its [[unit]] sets that)",
                        limit.as_secs()
                    );
                }
                Ok(Some(result)) => break result,
                // The connection broke or the signal was lost: what happened is not known, the unit tells.
                Ok(None) | Err(HostError::Io { .. }) => {
                    self.until_no_job(unit, end)?;
                    if lost == LOST_TRIES || self.is_done(verb, unit, &earlier)? {
                        break "unknown".to_owned();
                    }
                    lost += 1;
                }
                Err(error) => return Err(error),
            }
        };
        let seen = self.unit(unit)?;
        let as_wanted = match verb {
            Verb::Stop => seen.is_down(),
            _ => seen.is_active() || (seen.active == "inactive" && seen.result == "success" && seen.main_pid == 0),
        };
        if as_wanted && (verb == Verb::Stop || matches!(result.as_str(), "done" | "unknown" | "skipped")) {
            return Ok(());
        }
        Err(HostError::Systemd(self.explain(&format!("{what}: job {result}"), unit, &seen)))
    }

    /// How long a job may take: as long as the unit itself allows (`TimeoutStartUSec`, `TimeoutStopUSec`), and a little more.
    fn limit(&self, verb: Verb, unit: &str) -> HostResult<Duration> {
        self.ask(&format!("limits of {unit}"), async || {
            let names = ["TimeoutStartUSec", "TimeoutStopUSec"];
            let properties = self.some(&self.object_of(unit).await?, &own_interface(unit), &names).await?;
            let span = |key: &str| properties.get(key).and_then(|v| u64::try_from(v.clone()).ok()).filter(|us| *us != u64::MAX);
            let (start, stop) = (span("TimeoutStartUSec"), span("TimeoutStopUSec"));
            let own = match verb {
                Verb::Start | Verb::Reload => start,
                Verb::Stop => stop,
                Verb::Restart => start.zip(stop).map(|(start, stop)| start.saturating_add(stop)),
            };
            Ok(own.map_or(JOB_LIMIT, |us| Duration::from_micros(us).saturating_add(JOB_SLACK)))
        })
    }

    /// Whether a job that nobody has heard of again has done its work. That of a reload leaves no trace: it is done once more.
    fn is_done(&self, verb: Verb, unit: &str, earlier: &Option<String>) -> HostResult<bool> {
        let seen = self.unit(unit)?;
        Ok(match verb {
            Verb::Start => seen.is_active(),
            Verb::Stop => seen.is_down(),
            Verb::Restart => seen.is_active() && self.invocation(unit)? != *earlier,
            Verb::Reload => false,
        })
    }

    /// The number of the job that waits or runs for a unit; 0 when there is none.
    fn pending_job(&self, unit: &str) -> HostResult<u32> {
        self.ask(&format!("job of {unit}"), async || {
            let properties = self.some(&self.object_of(unit).await?, UNIT, &["Job"]).await?;
            let job = properties.get("Job").and_then(|v| <(u32, OwnedObjectPath)>::try_from(v.clone()).ok());
            Ok(job.map_or(0, |(id, _)| id))
        })
    }

    fn until_no_job(&self, unit: &str, end: Instant) -> HostResult<()> {
        while self.pending_job(unit)? != 0 && Instant::now() < end {
            self.pause(AWAY);
        }
        Ok(())
    }

    /// Gives up a job that takes too long; one that is over is none.
    fn cancel(&self, unit: &str) {
        let cancelled = self.pending_job(unit).and_then(|id| match id {
            0 => Ok(()),
            id => self.ask(&format!("cancel the job of {unit}"), async || {
                let _ = self.manager().await?.cancel_job(id).await;
                Ok(())
            }),
        });
        if let Err(error) = cancelled {
            tracing::warn!("{error}");
        }
    }

    /// The result of the job; `None` when the manager has nothing more to say of it.
    async fn queue_and_wait(&self, verb: Verb, unit: &str) -> HostResult<Option<String>> {
        let manager = self.manager().await?;
        let fail = |e| bus_error(&format!("{verb} {unit}"), e);
        manager.subscribe().await.or_else(already_subscribed).map_err(fail)?;
        let mut removed = manager.receive_job_removed().await.map_err(fail)?;
        let job = match verb {
            Verb::Start => manager.start_unit(unit, "replace").await,
            Verb::Stop => manager.stop_unit(unit, "replace").await,
            Verb::Restart => manager.restart_unit(unit, "replace").await,
            Verb::Reload => manager.reload_unit(unit, "replace").await,
        }
        .map_err(fail)?;
        loop {
            match tokio::time::timeout(Duration::from_secs(3), removed.next()).await {
                Ok(Some(signal)) => {
                    let args = signal.args().map_err(fail)?;
                    if args.job == job {
                        return Ok(Some(args.result.clone()));
                    }
                }
                Ok(None) => return Ok(None),
                // A signal can be lost around a daemon-reload (systemd/systemd#8803): ask whether the job is still there.
                Err(_) if !self.job_exists(&job).await => return Ok(None),
                Err(_) => {}
            }
        }
    }

    async fn job_exists(&self, job: &OwnedObjectPath) -> bool {
        let Ok(connection) = self.connection().await else { return false };
        connection
            .call_method(
                Some("org.freedesktop.systemd1"),
                job,
                Some("org.freedesktop.DBus.Properties"),
                "Get",
                &("org.freedesktop.systemd1.Job", "State"),
            )
            .await
            .is_ok()
    }

    /// One sentence on why a unit is not as wanted, with what it last said.
    fn explain(&self, what: &str, unit: &str, seen: &UnitSeen) -> String {
        let mut text = format!("{what}; it is {} ({}", seen.active, seen.sub);
        if !seen.result.is_empty() && seen.result != "success" {
            text.push_str(&format!(", result {}", seen.result));
        }
        text.push(')');
        if seen.load != "loaded" {
            text.push_str(&format!(", load state {}", seen.load));
        }
        let failed = if what.ends_with("dependency") { self.failed_before(unit).unwrap_or_default() } else { Vec::new() };
        for needed in &failed {
            text.push_str(&format!("; it needs {needed}, which has failed"));
        }
        for unit in failed.iter().map(String::as_str).chain([unit]) {
            for line in self.journal(unit, 5).unwrap_or_default() {
                text.push_str(&format!("\n  {unit}: {line}"));
            }
        }
        text
    }

    /// What a unit needs and that has failed: a job `dependency` says no more than that there is one (systemd.unit(5), `Requires=`).
    fn failed_before(&self, unit: &str) -> HostResult<Vec<String>> {
        let needed = self.ask(&format!("what {unit} needs"), async || {
            let names = ["Requires", "BindsTo", "Requisite"];
            let properties = self.some(&self.object_of(unit).await?, UNIT, &names).await?;
            Ok(names.iter().flat_map(|key| strings(&properties, key)).collect::<Vec<_>>())
        })?;
        let has_failed = |name: &String| self.unit(name).is_ok_and(|seen| seen.active == "failed");
        Ok(needed.into_iter().filter(has_failed).collect())
    }

    /// Starts a unit, also one that has hit its start limit; its sockets too, which the limit takes down with it, and of a socket
    /// what it starts (systemd/systemd#15633).
    pub(super) fn start_afresh(&self, unit: &str, patience: Patience) -> HostResult<()> {
        self.reset_failed(unit)?;
        let seen = self.unit(unit)?;
        for started in &seen.triggers {
            self.reset_failed(started)?;
            // It would refuse to listen; a plan owes that service a start of its own.
            if unit.ends_with(".socket") && self.unit(started)?.is_active() {
                self.job(Verb::Stop, started, None)?;
            }
        }
        for trigger in seen.triggered_by {
            if self.unit(&trigger)?.active == "failed" {
                self.reset_failed(&trigger)?;
                self.job(Verb::Start, &trigger, None)?;
            }
        }
        self.job(Verb::Start, unit, patience)
    }

    pub(super) fn wake(&self, wake: &Wake, patience: Patience) -> HostResult<()> {
        match wake {
            Wake::DaemonReload => self.daemon_reload(),
            Wake::Run { argv, success } => self.carry_out(argv, success),
            Wake::Restart { unit } => self.restart(unit, patience),
            // It has stopped by now, unless a client or a dependency has started it again.
            Wake::StopStart { unit } if self.unit(unit)?.is_active() => self.restart(unit, patience),
            Wake::StopStart { unit } => self.start_afresh(unit, patience),
            Wake::Reload { unit, proof } => {
                let seen = self.unit(unit)?;
                if !seen.is_active() {
                    return self.start_afresh(unit, patience);
                }
                if !seen.can_reload {
                    // As `systemctl reload-or-restart` does: without ExecReload= a reload is not to be had.
                    return self.restart(unit, patience);
                }
                let old = children_of(seen.main_pid);
                self.job(Verb::Reload, unit, patience)?;
                proof.as_ref().map_or(Ok(()), |proof| self.prove(unit, seen.main_pid, &old, proof))
            }
        }
    }

    /// Runs a program of the host to its end.
    fn carry_out(&self, argv: &[String], success: &[i32]) -> HostResult<()> {
        let job = Job {
            purpose: "wake",
            argv: argv.to_vec(),
            input: Vec::new(),
            sandbox: Sandbox::Live { user: None, surroundings: Surroundings::default() },
            limit: RUN_LIMIT,
            output_limit: RUN_OUTPUT,
            keeps_tail: false,
        };
        let ran = self.run(&job, &mut |_| true)?;
        if ran.ok() || ran.code.is_some_and(|code| success.contains(&code)) {
            return Ok(());
        }
        let how = ran.code.map_or(ran.result, |code| format!("exit code {code}"));
        let mut text = format!("run {}: {how}", crate::guard::in_words(argv));
        for line in String::from_utf8_lossy(&[ran.stderr, ran.stdout].concat()).lines().take(20) {
            text.push_str(&format!("\n  {}", crate::path::escape(line)));
        }
        Err(HostError::Systemd(text))
    }

    /// Restarts a unit. A service that holds the listening sockets of a socket unit would refuse that (systemd.socket(5)): it
    /// stops first; a plan owes it a wake of its own.
    fn restart(&self, unit: &str, patience: Patience) -> HostResult<()> {
        self.reset_failed(unit)?;
        if unit.ends_with(".socket") {
            for service in self.unit(unit)?.triggers {
                if self.unit(&service)?.is_active() {
                    self.job(Verb::Stop, &service, None)?;
                }
            }
        }
        self.job(Verb::Restart, unit, patience)
    }

    /// Waits until a new generation of workers serves and the old one has stopped taking requests.
    fn prove(&self, unit: &str, main_pid: u32, old: &[Process], proof: &Proof) -> HostResult<()> {
        let known: BTreeSet<_> = old.iter().map(|p| (p.pid, p.started)).collect();
        let end = Instant::now() + PROOF_LIMIT;
        while Instant::now() < end {
            let now = children_of(main_pid);
            let fresh = now.iter().any(|p| !known.contains(&(p.pid, p.started)));
            let drained = now.iter().all(|p| !known.contains(&(p.pid, p.started)) || p.title.contains(&proof.draining));
            if fresh && drained {
                return Ok(());
            }
            self.pause(Duration::from_millis(10));
        }
        let seen = self.unit(unit)?;
        let what =
            format!("{unit} was reloaded, but no new generation of workers took over: it still runs the old configuration");
        Err(HostError::Systemd(self.explain(&what, unit, &seen)))
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
        })
    }
}

fn already_subscribed(error: zbus::Error) -> zbus::Result<()> {
    match &error {
        zbus::Error::MethodError(name, _, _) if name.as_str() == "org.freedesktop.systemd1.AlreadySubscribed" => Ok(()),
        _ => Err(error),
    }
}
