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
use super::processes::children_of;
use crate::change::{Proof, UnitFacts, Wake};
use crate::host::{HostError, HostResult, Job, Sandbox, UnitSeen};

/// Limit of a call that only asks.
const ASK_LIMIT: Duration = Duration::from_secs(25);
/// Limit of a job; systemd's own time-outs (90 s by default) come first.
const JOB_LIMIT: Duration = Duration::from_secs(150);
/// Limit of a daemon-reload: hundreds of units take seconds, and rate limits add to that.
const RELOAD_LIMIT: Duration = Duration::from_secs(180);
/// How long a reload may take to bring up a new generation of workers.
const PROOF_LIMIT: Duration = Duration::from_secs(10);
/// Limit of a program that carries files out.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// Most output of it that is kept, in bytes.
const RUN_OUTPUT: usize = 256 * 1024;
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
        self.block_on(&format!("state of {unit}"), ASK_LIMIT, async {
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
        self.block_on(&format!("invocation of {unit}"), ASK_LIMIT, async {
            let properties = self.properties(unit).await?;
            let id = properties.get("InvocationID").and_then(|v| Vec::<u8>::try_from(v.clone()).ok()).unwrap_or_default();
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Some(hex).filter(|hex| !hex.is_empty()))
        })
    }

    pub(super) fn instances(&self, template: &str) -> HostResult<Vec<String>> {
        // What is special in a pattern is not in a unit's name, but for the backslash of systemd-escape(1).
        let pattern = template.replace('\\', "\\\\").replacen("@.", "@?*.", 1);
        self.block_on(&format!("instances of {template}"), ASK_LIMIT, async {
            let units = self.manager().await?.list_units_by_patterns(&[], &[&pattern]).await;
            let units = units.map_err(|e| bus_error(&format!("list {template}"), e))?;
            Ok(units.into_iter().map(|unit| unit.0).collect())
        })
    }

    /// Whether `SystemState` is `stopping` (org.freedesktop.systemd1(5)).
    pub(super) fn is_going_down(&self) -> bool {
        let state = self.block_on("state of the system", ASK_LIMIT, async {
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
                result => return result,
            }
        }
    }

    /// Queues a job, waits for its end, and judges both its result and the unit's state.
    fn job(&self, verb: Verb, unit: &str) -> HostResult<()> {
        let what = format!("{verb} {unit}");
        let mut tries = 0;
        let result = loop {
            let result = self.block_on(&what, JOB_LIMIT, self.queue_and_wait(verb, unit));
            match result {
                Err(HostError::Systemd(why))
                    if why.contains("destructive") && tries < DESTRUCTIVE_TRIES && !self.is_going_down() =>
                {
                    tries += 1;
                    self.pause(Duration::from_millis(500));
                }
                // The connection broke or the answer never came: what happened is unknown, the state below tells.
                Err(HostError::Timeout { .. } | HostError::Io { .. }) => break "unknown".to_owned(),
                result => break result?,
            }
        };
        let seen = self.unit(unit)?;
        let as_wanted = match verb {
            Verb::Stop => seen.is_down(),
            _ => seen.is_active() || (seen.active == "inactive" && seen.result == "success" && seen.main_pid == 0),
        };
        if as_wanted && matches!(result.as_str(), "done" | "unknown" | "skipped") {
            return Ok(());
        }
        if verb == Verb::Stop && as_wanted {
            return Ok(());
        }
        Err(HostError::Systemd(self.explain(&format!("{what}: job {result}"), unit, &seen)))
    }

    async fn queue_and_wait(&self, verb: Verb, unit: &str) -> HostResult<String> {
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
                        return Ok(args.result.clone());
                    }
                }
                Ok(None) => return Ok("unknown".to_owned()),
                // A signal can be lost around a daemon-reload (systemd/systemd#8803): ask whether the job is still there.
                Err(_) if !self.job_exists(&job).await => return Ok("unknown".to_owned()),
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

    pub(super) fn set_unit(&self, unit: &str, want: &UnitFacts) -> HostResult<()> {
        let now = self.unit(unit)?;
        let seen = now.facts_towards(want);
        let differs = |want: Option<bool>, have: Option<bool>| want.filter(|_| have.is_some() && want != have);
        if differs(want.masked, seen.masked) == Some(false) {
            // A mask until the next boot (below /run) is one too.
            let runtime = now.file_state == "masked-runtime";
            self.unit_files(unit, "unmask", async |m| m.unmask_unit_files(&[unit], runtime).await.map(drop))?;
        }
        if want.active == Some(false) && !self.is_down(unit)? {
            self.job(Verb::Stop, unit)?;
        }
        if want.active == Some(false) {
            // One that has failed on its way down, or that failed to come up and is taken back, leaves no mark.
            self.reset_failed(unit)?;
        }
        match differs(want.enabled, seen.enabled) {
            Some(true) => {
                self.unit_files(unit, "enable", async |m| m.enable_unit_files(&[unit], false, false).await.map(drop))?
            }
            Some(false) => self.unit_files(unit, "disable", async |m| m.disable_unit_files(&[unit], false).await.map(drop))?,
            None => {}
        }
        if differs(want.masked, seen.masked) == Some(true) {
            self.unit_files(unit, "mask", async |m| m.mask_unit_files(&[unit], false, false).await.map(drop))?;
        }
        if want.active == Some(true) && !self.unit(unit)?.is_active() {
            self.start_afresh(unit)?;
        }
        Ok(())
    }

    /// Nothing runs, nothing is being started, and nothing waits to be started again.
    fn is_down(&self, unit: &str) -> HostResult<bool> {
        Ok(matches!(self.unit(unit)?.active.as_str(), "inactive" | "failed"))
    }

    /// Changes links below /etc/systemd/system through the manager, then has it read them.
    fn unit_files(
        &self,
        unit: &str,
        verb: &str,
        call: impl AsyncFnOnce(&Manager1Proxy<'static>) -> zbus::Result<()>,
    ) -> HostResult<()> {
        let what = format!("{verb} {unit}");
        self.block_on(&what, ASK_LIMIT, async { call(&self.manager().await?).await.map_err(|e| bus_error(&what, e)) })?;
        self.daemon_reload()
    }

    /// Starts a unit, also one that has hit its start limit; its sockets too, which the limit takes down with it.
    fn start_afresh(&self, unit: &str) -> HostResult<()> {
        self.reset_failed(unit)?;
        for trigger in self.unit(unit)?.triggered_by {
            if self.unit(&trigger)?.active == "failed" {
                self.reset_failed(&trigger)?;
                self.job(Verb::Start, &trigger)?;
            }
        }
        self.job(Verb::Start, unit)
    }

    fn reset_failed(&self, unit: &str) -> HostResult<()> {
        self.block_on("reset-failed", ASK_LIMIT, async {
            // Answers with an error for a unit that is not loaded: then nothing has failed.
            let _ = self.manager().await?.reset_failed_unit(unit).await;
            Ok(())
        })
    }

    pub(super) fn wake(&self, wake: &Wake) -> HostResult<()> {
        match wake {
            Wake::DaemonReload => self.daemon_reload(),
            Wake::Run { argv, success } => self.carry_out(argv, success),
            Wake::Restart { unit } => self.restart(unit),
            Wake::Reload { unit, proof } => {
                let seen = self.unit(unit)?;
                if !seen.is_active() {
                    return self.start_afresh(unit);
                }
                if !seen.can_reload {
                    // As `systemctl reload-or-restart` does: without ExecReload= a reload is not to be had.
                    return self.restart(unit);
                }
                let old = children_of(seen.main_pid);
                self.job(Verb::Reload, unit)?;
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
            sandbox: Sandbox::Live { user: None },
            limit: RUN_LIMIT,
            output_limit: RUN_OUTPUT,
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

    /// Restarts a unit. A service that holds the listening sockets of a changed socket unit would refuse that
    /// (systemd.socket(5)): it stops first, and is started again by its own wake, which the plan owes after this one.
    fn restart(&self, unit: &str) -> HostResult<()> {
        self.reset_failed(unit)?;
        if unit.ends_with(".socket") {
            for service in self.unit(unit)?.triggers {
                if self.unit(&service)?.is_active() {
                    self.job(Verb::Stop, &service)?;
                }
            }
        }
        self.job(Verb::Restart, unit)
    }

    /// Waits until a new generation of workers serves and the old one has stopped taking requests.
    fn prove(&self, unit: &str, main_pid: u32, old: &[crate::host::Process], proof: &Proof) -> HostResult<()> {
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

/// Says what failed on the bus; a lost connection is an I/O error, so that callers can tell "refused" from "unknown".
pub(super) fn bus_error(what: &str, error: zbus::Error) -> HostError {
    match error {
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
