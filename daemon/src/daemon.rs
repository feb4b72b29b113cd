//! The main thread: bus, timers, signals, watchdog, and the engine's thread beside it. No decisions.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use tokio::sync::{mpsc, watch};
use zbus::Connection;

use crate::audit::{AuditLog, Event as Recorded, NewRecord};
use crate::bus::{self, Service};
use crate::config::{self, Settings};
use crate::cycle::{Engine, Order};
use crate::desk::{Desk, Fresh, Task};
use crate::host::linux::{Linux, Manager, Pulse};
use crate::lifeline::Lifelines;
use crate::lifeline::connection::{self, Waiting};
use crate::policy::PastIrreversible;
use crate::state::{STATE_DIR, State, StateError};
use crate::tasks::{Clerk, Published, TIMER};

/// Exit code of a start with settings that cannot be read: trying again does not mend them (`RestartPreventExitStatus=`).
const WRONG_SETTINGS: u8 = 2;
/// How much longer systemd waits for the start with each sign of life, in microseconds.
const MORE_TIME_USEC: u32 = 180_000_000;
/// How long after SIGTERM a transaction may still wait for its probes before it is taken back instead.
const PATIENCE_AT_STOP: Duration = Duration::from_secs(20);

/// How long the daemon waits for another process to leave its store; well within `TimeoutStartSec=`.
const PATIENCE_AT_START: Duration = Duration::from_secs(120);

/// How long the end of an order may take to reach those who follow it.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Everything that can happen to the main thread.
#[derive(Debug)]
enum Event {
    Signal(i32),
    Look,
    /// The host is up.
    Booted,
    /// Something managed has changed.
    Changed,
    Poll(String),
    Unconfirmed(u64),
    Watchdog,
    EngineStarted(Result<(), String>),
    EngineEnded,
    BusLost,
}

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn main() -> ExitCode {
    start_logging();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no runtime: {error}")),
    };
    let settings = match read_settings() {
        Ok(fresh) => fresh.settings,
        Err(why) => {
            fail(&why);
            return ExitCode::from(WRONG_SETTINGS);
        }
    };
    match runtime.block_on(run(settings, runtime.handle().clone())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why),
    }
}

fn fail(why: &str) -> ExitCode {
    tracing::error!("{why}");
    let _ = sd_notify::notify(&[NotifyState::Status(why.lines().next().unwrap_or_default())]);
    ExitCode::FAILURE
}

/// To the journal with its fields where there is one, to standard error otherwise.
fn start_logging() {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let filter = tracing_subscriber::EnvFilter::try_from_env("RECONCILED_LOG").unwrap_or_else(|_| "info,zbus=warn".into());
    let registry = tracing_subscriber::registry().with(filter);
    match tracing_journald::layer() {
        Ok(journal) => registry.with(journal).init(),
        Err(_) => registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr)).init(),
    }
}

async fn run(settings: Settings, handle: tokio::runtime::Handle) -> Result<(), String> {
    let connection = Connection::system().await.map_err(|e| format!("the system bus cannot be reached: {e}"))?;
    let desk = Desk::default();
    let pulse = Pulse::default();
    let give_up = Arc::new(AtomicBool::new(false));
    let (publish, published) = watch::channel(Published::default());
    let (events, mut happens) = mpsc::unbounded_channel();
    watch_signals(&events)?;
    watch_bus(connection.clone(), &events);
    feed_watchdog(&events);
    let engine = Start {
        manager: Manager::new(connection.clone(), handle, pulse.clone()),
        desk: desk.clone(),
        publish: Arc::new(publish),
        pulse: pulse.clone(),
        give_up: give_up.clone(),
        settings: settings.clone(),
    };
    let thread = engine.spawn(events.clone())?;
    let following = watch::Sender::new(0);
    let mut timers = Timers::default();
    let mut settings = settings;
    // Until then what is to run may just not be up: that is no drift.
    let mut is_booted = false;
    // Something did meanwhile, and is looked at then.
    let mut has_changed = false;
    let mut is_started = false;
    let window = watch::Sender::new(settings.confirm_window.0);
    let mut fed = 0;
    let result = loop {
        match happens.recv().await {
            None => break Ok(()),
            Some(Event::EngineStarted(Err(why))) => break Err(why),
            Some(Event::EngineStarted(Ok(()))) => {
                is_started = true;
                // Armed before anything that a change of the bus may have broken.
                let waiting = watch_confirmation(published.clone(), window.subscribe(), &events);
                let service = Service { desk: desk.clone(), published: published.clone(), following: following.clone(), waiting };
                serve(&connection, service).await?;
                show_status(published.clone());
                let (happened, booted) = (events.clone(), events.clone());
                crate::watch::start(connection.clone(), &published, move || happened.send(Event::Changed).is_ok());
                crate::watch::once_booted(connection.clone(), move || drop(booted.send(Event::Booted)));
                let _ = sd_notify::notify(&[NotifyState::Ready]);
            }
            Some(Event::Booted) => {
                is_booted = true;
                timers.start(&settings, &events);
                if std::mem::take(&mut has_changed) && settings.watch {
                    look(&desk, "drift:event");
                }
            }
            Some(Event::Look) => look(&desk, TIMER),
            Some(Event::Changed) if settings.watch && is_booted => look(&desk, "drift:event"),
            Some(Event::Changed) => has_changed = !is_booted,
            Some(Event::Poll(remote)) => drop(desk.submit(Task::Poll { remote })),
            Some(Event::Unconfirmed(generation)) => drop(desk.submit(Task::Revert { generation })),
            Some(Event::Watchdog) => fed = feed(pulse.count(), fed, is_started),
            Some(Event::Signal(SIGHUP)) => {
                if let Some(fresh) = reread(&desk) {
                    settings = fresh;
                    window.send_replace(settings.confirm_window.0);
                    if is_booted {
                        timers.start(&settings, &events);
                    }
                }
            }
            Some(Event::Signal(SIGUSR1)) => drop(desk.submit(Task::Sync { actor: "SIGUSR1".to_owned() })),
            Some(Event::Signal(_)) => stop(&desk, &give_up),
            Some(Event::BusLost) if desk.is_idle() => {
                desk.stop();
                break Err("the system bus went away".to_owned());
            }
            // The engine reconnects and looks; the next idle moment ends this process.
            Some(Event::BusLost) => {}
            Some(Event::EngineEnded) if desk.is_stopping() => break Ok(()),
            Some(Event::EngineEnded) => break Err("the engine ended: this is a bug".to_owned()),
        }
    };
    drop(thread);
    // Whoever follows hears the end of it.
    let _ = tokio::time::timeout(LAST_WORDS, following.subscribe().wait_for(|n| *n == 0)).await;
    result
}

/// Fed by the engine's progress, not by the timer. Returns how far that is.
fn feed(count: u64, fed: u64, is_started: bool) -> u64 {
    if count != fed {
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        if !is_started {
            // What an earlier life left open may take programs a while to take back.
            let _ = sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(MORE_TIME_USEC)]);
        }
    }
    count
}

fn stop(desk: &Desk, give_up: &Arc<AtomicBool>) {
    tracing::info!("stopping: what is in flight is finished or undone first");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    desk.stop();
    let give_up = give_up.clone();
    tokio::spawn(async move {
        tokio::time::sleep(PATIENCE_AT_STOP).await;
        give_up.store(true, Ordering::Release);
    });
}

fn look(desk: &Desk, actor: &str) {
    drop(desk.submit(Task::Order(Order::Repair { actor: actor.to_owned(), insist: false })));
}

async fn serve(connection: &Connection, service: Service) -> Result<(), String> {
    let fail = |e: zbus::Error| format!("the D-Bus service cannot be offered: {e}");
    connection.object_server().at(bus::PATH, service).await.map_err(fail)?;
    connection.request_name(bus::NAME).await.map_err(fail)
}

fn read_settings() -> Result<Fresh, String> {
    Settings::read().and_then(|settings| {
        let lifelines = Lifelines::new(&settings.lifelines)?;
        Ok(Fresh { settings, guards: config::guards()?, lifelines })
    })
}

/// A settings file with a mistake changes nothing.
fn reread(desk: &Desk) -> Option<Settings> {
    match read_settings() {
        Ok(fresh) => {
            let settings = fresh.settings.clone();
            drop(desk.submit(Task::Reload(Box::new(fresh))));
            tracing::info!("settings were read again");
            Some(settings)
        }
        Err(why) => {
            tracing::error!("settings stay as they are: {why}");
            None
        }
    }
}

fn watch_signals(events: &mpsc::UnboundedSender<Event>) -> Result<(), String> {
    let mut signals = signal_hook_tokio::Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1]).map_err(|e| format!("signals: {e}"))?;
    let events = events.clone();
    tokio::spawn(async move {
        while let Some(signal) = signals.next().await {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// The stream of messages ends when the connection does.
fn watch_bus(connection: Connection, events: &mpsc::UnboundedSender<Event>) {
    let events = events.clone();
    tokio::spawn(async move {
        let mut messages = zbus::MessageStream::from(connection);
        while messages.next().await.is_some() {}
        loop {
            if events.send(Event::BusLost).is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
}

fn feed_watchdog(events: &mpsc::UnboundedSender<Event>) {
    let period = sd_notify::watchdog_enabled().map_or(Duration::from_secs(10), |limit| limit / 4);
    repeat(period.min(Duration::from_secs(10)), events, || Event::Watchdog);
}

fn repeat(
    period: Duration,
    events: &mpsc::UnboundedSender<Event>,
    event: impl Fn() -> Event + Send + 'static,
) -> tokio::task::AbortHandle {
    let events = events.clone();
    let task = tokio::spawn(async move {
        while events.send(event()).is_ok() {
            tokio::time::sleep(period).await;
        }
    });
    task.abort_handle()
}

/// The timers that settings decide on.
#[derive(Debug, Default)]
struct Timers(Vec<tokio::task::AbortHandle>);

impl Timers {
    fn start(&mut self, settings: &Settings, events: &mpsc::UnboundedSender<Event>) {
        self.0.drain(..).for_each(|timer| timer.abort());
        self.0.push(repeat(settings.look_interval.0, events, || Event::Look));
        for remote in &settings.remotes {
            let name = remote.name.clone();
            self.0.push(repeat(remote.interval.0, events, move || Event::Poll(name.clone())));
        }
    }
}

/// The dead man's switch: a generation that waits for its confirmation has the whole window from when it is first seen here, which is after
/// its commit, or after a start of the daemon.
fn watch_confirmation(
    mut published: watch::Receiver<Published>,
    windows: watch::Receiver<Duration>,
    events: &mpsc::UnboundedSender<Event>,
) -> watch::Receiver<Option<Waiting>> {
    fn waiting(published: &Published) -> Option<u64> {
        published.status.unconfirmed.as_ref().map(|unconfirmed| unconfirmed.generation)
    }
    let (tell, told) = watch::channel(None);
    let events = events.clone();
    tokio::spawn(async move {
        loop {
            let now = waiting(&published.borrow_and_update());
            tell.send_if_modified(|known: &mut Option<Waiting>| {
                let is_other = known.map(|known| known.generation) != now;
                if is_other {
                    *known = now.map(|generation| Waiting { generation, since: connection::now() });
                }
                is_other
            });
            let window = *windows.borrow();
            let Some(generation) = now else {
                if published.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match tokio::time::timeout(window, published.wait_for(|p| waiting(p) != now)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return,
                // Again after another window, should taking it back not have worked.
                Err(_) if events.send(Event::Unconfirmed(generation)).is_err() => return,
                Err(_) => {}
            }
        }
    });
    told
}

/// Keeps `systemctl status` honest.
fn show_status(mut published: watch::Receiver<Published>) {
    tokio::spawn(async move {
        loop {
            let text = published.borrow_and_update().status.line();
            let _ = sd_notify::notify(&[NotifyState::Status(&text)]);
            if published.changed().await.is_err() {
                return;
            }
        }
    });
}

/// What the engine's thread is made from.
struct Start {
    manager: Manager,
    desk: Desk,
    publish: Arc<watch::Sender<Published>>,
    pulse: Pulse,
    give_up: Arc<AtomicBool>,
    settings: Settings,
}

/// Tells the main thread that the engine's thread is over, however it ended.
struct Ended(mpsc::UnboundedSender<Event>);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.send(Event::EngineEnded);
    }
}

impl Start {
    fn spawn(self, events: mpsc::UnboundedSender<Event>) -> Result<std::thread::JoinHandle<()>, String> {
        let body = move || {
            // Said also when the engine panics: nobody must go on taking orders for it.
            let _ended = Ended(events.clone());
            match self.begin() {
                Ok(mut clerk) => {
                    let _ = events.send(Event::EngineStarted(Ok(())));
                    clerk.work();
                }
                Err(why) => {
                    let _ = events.send(Event::EngineStarted(Err(why)));
                }
            }
        };
        let thread = std::thread::Builder::new().name("engine".to_owned()).stack_size(crate::manifest::STACK);
        thread.spawn(body).map_err(|e| format!("no thread for the engine: {e}"))
    }

    fn begin(self) -> Result<Clerk, String> {
        let dir = Path::new(STATE_DIR);
        let mut state = open_state(dir, &self.pulse)?;
        let audit = open_audit(dir, &mut state)?;
        let host = Linux::new(self.manager).map_err(|e| e.to_string())?;
        let (give_up, publish) = (self.give_up, self.publish.clone());
        let engine = Engine {
            host: Box::new(host),
            state,
            audit,
            known_as: self.settings.host.clone(),
            guards: config::guards()?,
            lifelines: Lifelines::new(&self.settings.lifelines)?,
            confirm_window: self.settings.confirm_window.to_string(),
            past_irreversible: self.settings.rollback_past_irreversible,
            go_on: Box::new(move || !give_up.load(Ordering::Acquire)),
            later: false,
            tried: None,
            repairs: crate::cycle::Repairs::default(),
            left: Vec::new(),
            stale: BTreeMap::new(),
            failing: None,
            reported_drift: None,
            refused: BTreeMap::new(),
            phase: Box::new(move |phase| {
                publish.send_modify(|p: &mut Published| phase.clone_into(&mut p.status.phase));
            }),
        };
        let mut clerk = Clerk {
            engine,
            desk: self.desk,
            published: self.publish,
            pulse: self.pulse,
            settings: self.settings,
            remotes: BTreeMap::new(),
        };
        clerk.engine.recover().map_err(|e| e.to_string())?;
        clerk.engine.record(NewRecord::new(Recorded::Started, "daemon"));
        clerk.engine.publish(None, &mut |_| {});
        clerk.publish(None);
        Ok(clerk)
    }
}

/// The store, once nobody else has it open: a recovery that was started by hand ends soon.
fn open_state(dir: &Path, pulse: &Pulse) -> Result<State, String> {
    let end = std::time::Instant::now() + PATIENCE_AT_START;
    loop {
        match State::open(dir) {
            Err(StateError::Busy { .. }) if std::time::Instant::now() < end => {
                pulse.beat();
                std::thread::sleep(Duration::from_secs(1));
            }
            result => return result.map_err(|e| e.to_string()),
        }
    }
}

fn open_audit(dir: &Path, state: &mut State) -> Result<AuditLog, String> {
    let head = state.audit_head().map_err(|e| e.to_string())?;
    let path = dir.join("audit/audit.jsonl");
    let (mut log, opened) = AuditLog::open(&path, head).map_err(|e| format!("{}: {e}", path.display()))?;
    for finding in &opened.findings {
        if finding.is_alarm() {
            tracing::error!("ALARM: {finding}");
            let mut record = NewRecord::new(Recorded::Alarm, "daemon");
            record.reason = Some(finding.to_string());
            log.append(record, &crate::audit::Stamp::now()).map_err(|e| e.to_string())?;
        } else {
            tracing::warn!("{finding}");
        }
    }
    Ok(log)
}

/// Early boot: takes an open transaction's files back before anything reads them (`reconciled recover`).
#[must_use]
pub fn recover() -> ExitCode {
    let recover = || -> Result<bool, String> {
        let state = State::open(Path::new(STATE_DIR)).map_err(|e| e.to_string())?;
        let host = Linux::without_manager().map_err(|e| e.to_string())?;
        let (audit, _) = AuditLog::open(Path::new("/dev/null"), None).map_err(|e| e.to_string())?;
        let mut engine = Engine {
            host: Box::new(host),
            state,
            audit,
            known_as: None,
            guards: crate::guard::Guards::default(),
            lifelines: Lifelines::default(),
            confirm_window: String::new(),
            past_irreversible: PastIrreversible::default(),
            go_on: Box::new(|| true),
            later: false,
            tried: None,
            repairs: crate::cycle::Repairs::default(),
            left: Vec::new(),
            stale: BTreeMap::new(),
            failing: None,
            reported_drift: None,
            refused: BTreeMap::new(),
            phase: Box::new(|_| {}),
        };
        engine.restore_at_boot().map_err(|e| e.to_string())
    };
    match recover() {
        Ok(reload) => {
            if reload {
                // PID 1 has read the torn unit files; in early boot there is no bus to ask it over (systemd(1), SIGHUP).
                let _ = rustix::process::kill_process(rustix::process::Pid::INIT, rustix::process::Signal::HUP);
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
