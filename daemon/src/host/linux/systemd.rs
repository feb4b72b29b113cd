//! The systemd manager over D-Bus (org.freedesktop.systemd1(5)): units, jobs, enablement. Subscribes before acting, judges
//! the job's result and reads the state all the same, and waits for nothing without a limit.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::runtime::Handle;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

use super::Pulse;
use super::files::enablement_links;
use super::processes::{children_of, process};
use crate::change::{Proof, UnitFacts, Wake};
use crate::host::{HostError, HostResult, Patience, Process, UnitSeen};

/// Limit of a call that only asks.
const ASK_LIMIT: Duration = Duration::from_secs(25);
/// Limit of a job of a unit that has none itself.
const JOB_LIMIT: Duration = Duration::from_secs(150);
/// Added to a unit's own time-outs: systemd ends its job first.
const JOB_SLACK: Duration = Duration::from_secs(30);
/// How often a job is queued again when it is not known what became of it.
const LOST_TRIES: u32 = 3;
/// Pause between two questions while the bus or the manager is away.
const AWAY: Duration = Duration::from_millis(100);
/// Limit of a daemon-reload: hundreds of units take seconds, and rate limits add to that.
const RELOAD_LIMIT: Duration = Duration::from_secs(180);
/// How long a reload may take to bring up a new generation of workers.
const PROOF_LIMIT: Duration = Duration::from_secs(10);
/// How often a job that conflicts with another one in the queue is tried again.
const DESTRUCTIVE_TRIES: u32 = 20;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub(super) trait Manager1 {
    fn subscribe(&self) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn cancel_job(&self, id: u32) -> zbus::Result<()>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn unref_unit(&self, name: &str) -> zbus::Result<()>;
    fn get_unit_file_state(&self, name: &str) -> zbus::Result<String>;
    #[allow(clippy::type_complexity, reason = "the signature of ListUnitsByPatterns")]
    fn list_units_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<Vec<(String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath)>>;
    fn enable_unit_files(
        &self,
        names: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    fn reenable_unit_files(
        &self,
        names: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    fn disable_unit_files(&self, names: &[&str], runtime: bool) -> zbus::Result<Vec<(String, String, String)>>;
    fn mask_unit_files(&self, names: &[&str], runtime: bool, force: bool) -> zbus::Result<Vec<(String, String, String)>>;
    fn unmask_unit_files(&self, names: &[&str], runtime: bool) -> zbus::Result<Vec<(String, String, String)>>;
    #[allow(clippy::type_complexity, reason = "the signature of StartTransientUnit")]
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, &[(&str, Variant<'_>)])],
    ) -> zbus::Result<OwnedObjectPath>;
    #[zbus(property)]
    fn system_state(&self) -> zbus::Result<String>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// A verb of the manager that queues a job for a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Start,
    Stop,
    Restart,
    Reload,
}

/// The connection to PID 1, used from the engine's thread while the main thread drives the runtime.
#[derive(Debug)]
pub struct Manager {
    connection: Mutex<Connection>,
    runtime: Handle,
    pulse: Pulse,
}

impl Manager {
    /// Uses a system bus connection that lives on this runtime.
    #[must_use]
    pub fn new(connection: Connection, runtime: Handle, pulse: Pulse) -> Self {
        Self { connection: Mutex::new(connection), runtime, pulse }
    }

    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Drives a future from the engine's thread, giving a sign of life each second of it.
    pub(super) fn block_on<T>(&self, what: &str, limit: Duration, future: impl Future<Output = HostResult<T>>) -> HostResult<T> {
        self.runtime.block_on(async {
            let mut future = std::pin::pin!(future);
            let end = Instant::now() + limit;
            loop {
                self.pulse.beat();
                match tokio::time::timeout(Duration::from_secs(1), &mut future).await {
                    Ok(result) => return result,
                    Err(_) if Instant::now() >= end => return Err(HostError::Timeout { what: what.to_owned(), limit }),
                    Err(_) => {}
                }
            }
        })
    }

    /// Asks what may be asked twice, again for as long as the bus or the manager is away: a restart of dbus, systemd executing itself
    /// anew.
    fn ask<T>(&self, what: &str, question: impl AsyncFn() -> HostResult<T>) -> HostResult<T> {
        self.block_on(what, ASK_LIMIT, async {
            loop {
                match question().await {
                    Err(HostError::Io { .. }) => tokio::time::sleep(AWAY).await,
                    result => return result,
                }
            }
        })
    }

    pub(super) fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            self.pulse.beat();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_secs(1)));
        }
    }

    /// The connection; a new one when the bus had gone away (a restart of dbus, systemd re-executing).
    pub(super) async fn connection(&self) -> HostResult<Connection> {
        let current = self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if !current.is_closed() {
            return Ok(current);
        }
        let fresh = Connection::system().await.map_err(|e| bus_error("connect to the system bus", e))?;
        *self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = fresh.clone();
        Ok(fresh)
    }

    pub(super) async fn manager(&self) -> HostResult<Manager1Proxy<'static>> {
        let connection = self.connection().await?;
        Manager1Proxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(|e| bus_error("reach systemd", e))
    }

    /// The properties of a unit, of `Unit` and of its own type's interface together.
    pub(super) async fn properties(&self, unit: &str) -> HostResult<HashMap<String, OwnedVariant>> {
        let manager = self.manager().await?;
        let path = manager.load_unit(unit).await.map_err(|e| bus_error(&format!("load {unit}"), e))?;
        let connection = self.connection().await?;
        let reply = connection
            .call_method(
                Some("org.freedesktop.systemd1"),
                &path,
                Some("org.freedesktop.DBus.Properties"),
                "GetAll",
                // The empty name asks for all interfaces at once (sd-bus(3) objects answer so).
                &(""),
            )
            .await
            .map_err(|e| bus_error(&format!("read {unit}"), e))?;
        reply.body().deserialize().map_err(|e| bus_error(&format!("read {unit}"), e))
    }

    pub(super) fn unit(&self, unit: &str) -> HostResult<UnitSeen> {
        self.ask(&format!("state of {unit}"), async || {
            let properties = self.properties(unit).await?;
            let text = |key: &str| string(&properties, key);
            let seen = UnitSeen {
                load: text("LoadState"),
                active: text("ActiveState"),
                sub: text("SubState"),
                // The property is what the manager read at its last reload; a link that was made or removed by hand since
                // is on the disk, where this call looks.
                file_state: match self.manager().await?.get_unit_file_state(unit).await {
                    Ok(state) => state,
                    Err(_) => text("UnitFileState"),
                },
                fragment: text("FragmentPath"),
                main_pid: number(&properties, "MainPID"),
                restarts: number(&properties, "NRestarts"),
                result: text("Result"),
                condition: flag(&properties, "ConditionResult"),
                can_reload: flag(&properties, "CanReload"),
                triggered_by: strings(&properties, "TriggeredBy"),
                triggers: strings(&properties, "Triggers"),
                links: enablement_links(unit),
            };
            Ok(seen)
        })
    }

    /// The id of a unit's current or last run (`InvocationID`), as hexadecimal digits.
    pub(super) fn invocation(&self, unit: &str) -> HostResult<Option<String>> {
        self.ask(&format!("invocation of {unit}"), async || {
            let properties = self.properties(unit).await?;
            let id = properties.get("InvocationID").and_then(|v| Vec::<u8>::try_from(v.clone()).ok()).unwrap_or_default();
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Some(hex).filter(|hex| !hex.is_empty()))
        })
    }

    pub(super) fn instances(&self, template: &str) -> HostResult<Vec<String>> {
        // What is special in a pattern is not in a unit's name, but for the backslash of systemd-escape(1).
        let pattern = template.replace('\\', "\\\\").replacen("@.", "@?*.", 1);
        self.ask(&format!("instances of {template}"), async || {
            let units = self.manager().await?.list_units_by_patterns(&[], &[&pattern]).await;
            let units = units.map_err(|e| bus_error(&format!("list {template}"), e))?;
            Ok(units.into_iter().map(|unit| unit.0).collect())
        })
    }

    /// The children of a service's main process that run the same program as it does, by its name (proc_pid_comm(5)).
    pub(super) fn workers(&self, unit: &str) -> HostResult<Vec<Process>> {
        let main = self.unit(unit)?.main_pid;
        let Some(program) = process(main).map(|process| process.program) else { return Ok(Vec::new()) };
        Ok(children_of(main).into_iter().filter(|child| child.program == program).collect())
    }

    pub(super) fn running_services(&self) -> HostResult<Vec<String>> {
        self.ask("services that run", async || {
            let units =
                self.manager().await?.list_units_by_patterns(&["active", "reloading", "activating"], &["*.service"]).await;
            let units = units.map_err(|e| bus_error("list services", e))?;
            Ok(units.into_iter().map(|unit| unit.0).collect())
        })
    }

    /// Whether `SystemState` is `stopping` (org.freedesktop.systemd1(5)).
    pub(super) fn is_going_down(&self) -> bool {
        let state = self.ask("state of the system", async || {
            self.manager().await?.system_state().await.map_err(|e| bus_error("state of the system", e))
        });
        state.is_ok_and(|state| state == "stopping")
    }

    fn daemon_reload(&self) -> HostResult<()> {
        let end = Instant::now() + RELOAD_LIMIT;
        loop {
            let result = self.block_on("daemon-reload", RELOAD_LIMIT, async {
                // Answers when the reload is over (systemd/src/core/dbus-manager.c sends the reply then).
                self.manager().await?.reload().await.map_err(|e| bus_error("daemon-reload", e))
            });
            match result {
                // systemd ≥ 253 limits the rate of reloads: wait it out.
                Err(HostError::Systemd(why)) if why.contains("rate limit") && Instant::now() < end => {
                    self.pause(Duration::from_secs(1))
                }
                // Whether it has read everything is not known; twice does no harm.
                Err(HostError::Io { .. }) if Instant::now() < end => self.pause(AWAY),
                result => return result,
            }
        }
    }

    /// Queues a job, waits for its end, and judges both its result and the unit's state.
    fn job(&self, verb: Verb, unit: &str, patience: Patience) -> HostResult<()> {
        let what = format!("{verb} {unit}");
        let limit = patience.map_or_else(|| self.limit(verb, unit), Ok)?;
        let end = Instant::now() + limit;
        let earlier = self.invocation(unit)?;
        let (mut in_the_way, mut lost) = (0, 0);
        let result = loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.block_on(&what, left, self.queue_and_wait(verb, unit)) {
                Err(HostError::Systemd(why))
                    if why.contains("destructive") && in_the_way < DESTRUCTIVE_TRIES && !self.is_going_down() =>
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
            let properties = self.properties(unit).await?;
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
            let properties = self.properties(unit).await?;
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
        for line in self.journal(unit, 5).unwrap_or_default() {
            text.push_str(&format!("\n  {unit}: {line}"));
        }
        text
    }

    pub(super) fn set_unit(&self, unit: &str, want: &UnitFacts, patience: Patience) -> HostResult<()> {
        let now = self.unit(unit)?;
        let seen = now.facts_towards(want);
        let differs = |want: Option<bool>, have: Option<bool>| want.filter(|_| have.is_some() && want != have);
        if differs(want.masked, seen.masked) == Some(false) {
            // A mask until the next boot (below /run) is one too.
            let runtime = now.file_state == "masked-runtime";
            self.unit_files(unit, "unmask", &async |m| m.unmask_unit_files(&[unit], runtime).await.map(drop))?;
        }
        if want.active == Some(false) && !self.is_down(unit)? {
            self.job(Verb::Stop, unit, patience)?;
        }
        if want.active == Some(false) {
            // One that has failed on its way down, or that failed to come up and is taken back, leaves no mark.
            self.reset_failed(unit)?;
        }
        match differs(want.enabled, seen.enabled) {
            Some(true) => {
                self.unit_files(unit, "enable", &async |m| m.enable_unit_files(&[unit], false, false).await.map(drop))?
            }
            Some(false) => self.unit_files(unit, "disable", &async |m| m.disable_unit_files(&[unit], false).await.map(drop))?,
            None if want.anew => {
                self.unit_files(unit, "enable anew", &async |m| m.reenable_unit_files(&[unit], false, false).await.map(drop))?
            }
            None => {}
        }
        if differs(want.masked, seen.masked) == Some(true) {
            self.unit_files(unit, "mask", &async |m| m.mask_unit_files(&[unit], false, false).await.map(drop))?;
        }
        if want.active == Some(true) && !self.unit(unit)?.is_active() {
            self.start_afresh(unit, patience)?;
        }
        Ok(())
    }

    /// Nothing runs, nothing is being started, and nothing waits to be started again.
    fn is_down(&self, unit: &str) -> HostResult<bool> {
        Ok(matches!(self.unit(unit)?.active.as_str(), "inactive" | "failed"))
    }

    /// Changes links below /etc/systemd/system through the manager; it knows them from its next reload on.
    fn unit_files(
        &self,
        unit: &str,
        verb: &str,
        call: &impl AsyncFn(&Manager1Proxy<'static>) -> zbus::Result<()>,
    ) -> HostResult<()> {
        let what = format!("{verb} {unit}");
        self.ask(&what, async || call(&self.manager().await?).await.map_err(|e| bus_error(&what, e)))
    }

    /// Starts a unit, also one that has hit its start limit; its sockets too, which the limit takes down with it, and of a socket
    /// what it starts (systemd/systemd#15633).
    fn start_afresh(&self, unit: &str, patience: Patience) -> HostResult<()> {
        self.reset_failed(unit)?;
        let seen = self.unit(unit)?;
        for started in &seen.triggers {
            self.reset_failed(started)?;
        }
        for trigger in seen.triggered_by {
            if self.unit(&trigger)?.active == "failed" {
                self.reset_failed(&trigger)?;
                self.job(Verb::Start, &trigger, None)?;
            }
        }
        self.job(Verb::Start, unit, patience)
    }

    fn reset_failed(&self, unit: &str) -> HostResult<()> {
        self.ask("reset-failed", async || {
            // Answers with an error for a unit that is not loaded: then nothing has failed.
            let _ = self.manager().await?.reset_failed_unit(unit).await;
            Ok(())
        })
    }

    pub(super) fn wake(&self, wake: &Wake, patience: Patience) -> HostResult<()> {
        match wake {
            Wake::DaemonReload => self.daemon_reload(),
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

/// Says what failed on the bus; a lost connection or peer is an I/O error, so that callers can tell "refused" from "unknown".
pub(super) fn bus_error(what: &str, error: zbus::Error) -> HostError {
    use zbus::fdo::Error as Fdo;
    let lost = |detail: String| {
        let source = std::io::Error::new(std::io::ErrorKind::NotConnected, detail);
        HostError::Io { what: what.to_owned(), source }
    };
    match error {
        zbus::Error::Handshake(detail) => lost(detail),
        zbus::Error::FDO(fdo) => match *fdo {
            Fdo::NoReply(detail)
            | Fdo::Disconnected(detail)
            | Fdo::ServiceUnknown(detail)
            | Fdo::NameHasNoOwner(detail)
            | Fdo::TimedOut(detail)
            | Fdo::Timeout(detail) => lost(detail),
            other => HostError::Systemd(format!("{what}: {other}")),
        },
        zbus::Error::MethodError(name, detail, _) => {
            HostError::Systemd(format!("{what}: {}", detail.unwrap_or_else(|| name.to_string())))
        }
        zbus::Error::InputOutput(source) => {
            HostError::Io { what: what.to_owned(), source: std::io::Error::new(source.kind(), source.to_string()) }
        }
        other => HostError::Systemd(format!("{what}: {other}")),
    }
}

fn already_subscribed(error: zbus::Error) -> zbus::Result<()> {
    match &error {
        zbus::Error::MethodError(name, _, _) if name.as_str() == "org.freedesktop.systemd1.AlreadySubscribed" => Ok(()),
        _ => Err(error),
    }
}

pub(super) fn string(properties: &HashMap<String, OwnedVariant>, key: &str) -> String {
    properties.get(key).and_then(|v| String::try_from(v.clone()).ok()).unwrap_or_default()
}

pub(super) fn number(properties: &HashMap<String, OwnedVariant>, key: &str) -> u32 {
    properties.get(key).and_then(|v| u32::try_from(v.clone()).ok()).unwrap_or_default()
}

fn flag(properties: &HashMap<String, OwnedVariant>, key: &str) -> bool {
    properties.get(key).and_then(|v| bool::try_from(v.clone()).ok()).unwrap_or_default()
}

fn strings(properties: &HashMap<String, OwnedVariant>, key: &str) -> Vec<String> {
    properties.get(key).and_then(|v| Vec::<String>::try_from(v.clone()).ok()).unwrap_or_default()
}
