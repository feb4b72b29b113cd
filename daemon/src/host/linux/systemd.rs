//! The systemd manager over D-Bus (org.freedesktop.systemd1(5)): units, jobs, enablement. Subscribes before acting, judges
//! the job's result and reads the state all the same, and waits for nothing without a limit.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

use super::Pulse;
use super::files::enablement_links;
use super::jobs::Verb;
use super::processes::{children_of, process};
use super::sockets::deaf;
use crate::change::UnitFacts;
use crate::host::{HostError, HostResult, Patience, Process, SystemState, UnitSeen};

/// Limit of a call that only asks.
const ASK_LIMIT: Duration = Duration::from_secs(25);
/// Pause between two questions while the bus or the manager is away.
pub(super) const AWAY: Duration = Duration::from_millis(100);
/// Limit of a daemon-reload: hundreds of units take seconds, and rate limits add to that.
const RELOAD_LIMIT: Duration = Duration::from_secs(180);

/// A unit in a list: its name, description, states (load, active, sub), whom it follows, its object, and its job.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);
/// All properties of one interface, or some of it.
pub(super) type Properties = HashMap<String, OwnedVariant>;

/// The interface that every unit has.
pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";
/// What is asked of a service's own interface: all that is there fills tens of kilobytes, and has the manager read control groups.
const OF_SERVICE: [&str; 5] = ["MainPID", "NRestarts", "Result", "ExecMainStartTimestamp", "Type"];
/// The same of a socket's.
const OF_SOCKET: [&str; 4] = ["Result", "Listen", "SocketMode", "ExecStartPost"];
/// Units of these types can fail too.
const WITH_RESULT: [&str; 6] = [".timer", ".path", ".mount", ".automount", ".swap", ".scope"];

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
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<Listed>>;
    fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<Listed>>;
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
    pub(super) fn ask<T>(&self, what: &str, question: impl AsyncFn() -> HostResult<T>) -> HostResult<T> {
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

    /// The object of a unit, which is loaded if need be.
    pub(super) async fn object_of(&self, unit: &str) -> HostResult<OwnedObjectPath> {
        self.manager().await?.load_unit(unit).await.map_err(|e| bus_error(&format!("load {unit}"), e))
    }

    /// All properties of one interface of a unit.
    async fn all(&self, object: &OwnedObjectPath, interface: &str) -> HostResult<Properties> {
        let what = format!("read {object}");
        let reply = read(&self.connection().await?, object, "GetAll", &(interface)).await.map_err(|e| bus_error(&what, e))?;
        reply.body().deserialize().map_err(|e| bus_error(&what, e))
    }

    /// These properties of one interface of a unit, as far as it has them; all are asked for at once.
    pub(super) async fn some(&self, object: &OwnedObjectPath, interface: &str, names: &[&str]) -> HostResult<Properties> {
        use zbus::fdo::Error as Fdo;
        let connection = self.connection().await?;
        let is_none_of_its = |error: &zbus::Error| matches!(error, zbus::Error::FDO(fdo) if matches!(**fdo, Fdo::UnknownProperty(_) | Fdo::UnknownInterface(_)));
        let one = async |name: &str| {
            let reply = match read(&connection, object, "Get", &(interface, name)).await {
                Err(error) if is_none_of_its(&error) => return Ok(None),
                reply => reply?,
            };
            Ok(Some((name.to_owned(), reply.body().deserialize()?)))
        };
        let all = futures_util::future::join_all(names.iter().map(|name| one(name))).await;
        let all: zbus::Result<Vec<_>> = all.into_iter().collect();
        Ok(all.map_err(|e| bus_error(&format!("read {object}"), e))?.into_iter().flatten().collect())
    }

    /// What [`UnitSeen`] tells, as far as properties do.
    async fn properties(&self, unit: &str) -> HostResult<Properties> {
        let object = self.object_of(unit).await?;
        let names = match unit.rsplit_once('.') {
            Some((_, "service")) => OF_SERVICE.as_slice(),
            Some((_, "socket")) => OF_SOCKET.as_slice(),
            _ if WITH_RESULT.iter().any(|suffix| unit.ends_with(suffix)) => &["Result"],
            _ => &[],
        };
        let own = own_interface(unit);
        let (all, own) = tokio::join!(self.all(&object, UNIT), self.some(&object, &own, names));
        let mut properties = all?;
        properties.extend(own?);
        Ok(properties)
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
                stale: flag(&properties, "NeedDaemonReload"),
                dependents: ["RequiredBy", "BoundBy", "ConsistsOf"].iter().flat_map(|key| strings(&properties, key)).collect(),
                drop_ins: strings(&properties, "DropInPaths"),
                started: properties.get("ExecMainStartTimestamp").and_then(|v| u64::try_from(v.clone()).ok()).unwrap_or_default(),
                service_type: text("Type"),
                members: {
                    let parts = strings(&properties, "ConsistsOf");
                    strings(&properties, "Wants").into_iter().filter(|unit| parts.contains(unit)).collect()
                },
                triggered_by: strings(&properties, "TriggeredBy"),
                triggers: strings(&properties, "Triggers"),
                links: enablement_links(unit),
                deaf: None,
            };
            let listen = properties.get("Listen").and_then(|v| <Vec<(String, String)>>::try_from(v.clone()).ok());
            let deaf = listen.filter(|_| seen.is_active()).and_then(|listen| deaf(&listen, mode(&properties)));
            Ok(UnitSeen { deaf, ..seen })
        })
    }

    /// The id of a unit's current or last run (`InvocationID`), as hexadecimal digits.
    pub(super) fn invocation(&self, unit: &str) -> HostResult<Option<String>> {
        self.ask(&format!("invocation of {unit}"), async || {
            let properties = self.some(&self.object_of(unit).await?, UNIT, &["InvocationID"]).await?;
            let id = properties.get("InvocationID").and_then(|v| Vec::<u8>::try_from(v.clone()).ok()).unwrap_or_default();
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Some(hex).filter(|hex| !hex.is_empty()))
        })
    }

    pub(super) fn units_like(&self, pattern: &str) -> HostResult<Vec<String>> {
        self.ask(&format!("units like {pattern}"), async || {
            let units = self.manager().await?.list_units_by_patterns(&[], &[pattern]).await;
            let units = units.map_err(|e| bus_error(&format!("list {pattern}"), e))?;
            Ok(units.into_iter().map(|unit| unit.0).collect())
        })
    }

    /// The children of a service's main process that run the same program as it does, by its name (proc_pid_comm(5)).
    pub(super) fn workers(&self, unit: &str) -> HostResult<Vec<Process>> {
        let main = self.ask(&format!("main process of {unit}"), async || {
            let properties = self.some(&self.object_of(unit).await?, &own_interface(unit), &["MainPID"]).await?;
            Ok(number(&properties, "MainPID"))
        })?;
        let Some(program) = process(main).map(|process| process.program) else { return Ok(Vec::new()) };
        Ok(children_of(main).into_iter().filter(|child| child.program == program).collect())
    }

    pub(super) fn up_among(&self, names: &[&str]) -> HostResult<Vec<String>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        self.ask("which units are up", async || {
            let units = self.manager().await?.list_units_by_names(names).await;
            let units = units.map_err(|e| bus_error("list units", e))?;
            // An alias is answered for by the unit's own name, each in its turn.
            let is_down = |unit: &Listed| matches!(unit.3.as_str(), "inactive" | "failed");
            let is_up = |place: usize| units.len() != names.len() || units.get(place).is_none_or(|unit| !is_down(unit));
            Ok(names.iter().enumerate().filter(|(place, _)| is_up(*place)).map(|(_, name)| (*name).to_owned()).collect())
        })
    }

    pub(super) fn running_services(&self) -> HostResult<Vec<String>> {
        self.ask("services that run", async || {
            let units =
                self.manager().await?.list_units_by_patterns(&["active", "reloading", "activating"], &["*.service"]).await;
            let units = units.map_err(|e| bus_error("list services", e))?;
            Ok(units.into_iter().map(|unit| unit.0).collect())
        })
    }

    pub(super) fn system_state(&self) -> SystemState {
        let state = self.ask("state of the system", async || {
            self.manager().await?.system_state().await.map_err(|e| bus_error("state of the system", e))
        });
        match state.as_deref() {
            Ok("initializing" | "starting") => SystemState::Starting,
            Ok("stopping") => SystemState::Stopping,
            _ => SystemState::Up,
        }
    }

    pub(super) fn daemon_reload(&self) -> HostResult<()> {
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

    pub(super) fn reset_failed(&self, unit: &str) -> HostResult<()> {
        self.ask("reset-failed", async || {
            // Answers with an error for a unit that is not loaded: then nothing has failed.
            let _ = self.manager().await?.reset_failed_unit(unit).await;
            Ok(())
        })
    }
}

/// Asks an object for properties (`org.freedesktop.DBus.Properties`).
async fn read(
    connection: &Connection,
    object: &OwnedObjectPath,
    method: &str,
    words: &(impl serde::Serialize + zbus::zvariant::DynamicType),
) -> zbus::Result<zbus::Message> {
    let interface = Some("org.freedesktop.DBus.Properties");
    connection.call_method(Some("org.freedesktop.systemd1"), object, interface, method, words).await
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

/// The interface of a unit's own type: `org.freedesktop.systemd1.Service`.
pub(super) fn own_interface(unit: &str) -> String {
    let kind = unit.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    let (first, rest) = kind.split_at_checked(1).unwrap_or_default();
    format!("org.freedesktop.systemd1.{}{rest}", first.to_ascii_uppercase())
}

pub(super) fn string(properties: &Properties, key: &str) -> String {
    properties.get(key).and_then(|v| String::try_from(v.clone()).ok()).unwrap_or_default()
}

pub(super) fn number(properties: &Properties, key: &str) -> u32 {
    properties.get(key).and_then(|v| u32::try_from(v.clone()).ok()).unwrap_or_default()
}

/// `SocketMode`, unless programs of the unit may have given its files another.
fn mode(properties: &Properties) -> Option<u32> {
    let runs = properties.get("ExecStartPost").is_some_and(|v| matches!(&**v, Variant::Array(all) if !all.is_empty()));
    properties.get("SocketMode").and_then(|v| u32::try_from(v.clone()).ok()).filter(|_| !runs)
}

fn flag(properties: &Properties, key: &str) -> bool {
    properties.get(key).and_then(|v| bool::try_from(v.clone()).ok()).unwrap_or_default()
}

pub(super) fn strings(properties: &Properties, key: &str) -> Vec<String> {
    properties.get(key).and_then(|v| Vec::<String>::try_from(v.clone()).ok()).unwrap_or_default()
}
