//! What the engine's thread does with a task: orders go through the cycle, the rest is answered here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::audit::{Event, NewRecord, UtcTime};
use crate::config::Settings;
use crate::cycle::{Engine, Order};
use crate::desk::{Desk, Task, Ticket};
use crate::host::linux::Pulse;
use crate::journal::Phase;
use crate::policy::Right;
use crate::report::{Progress, Report, Verdict};
use crate::source::{self, Relation};
use crate::state::{Generation, Held, Setting, StateResult, Unconfirmed};
use crate::watch::Watched;

/// How long the engine waits for a task before it gives a sign of life.
const PATIENCE: Duration = Duration::from_secs(1);
/// Who asks for the looks of the timer.
pub const TIMER: &str = "drift";
/// Generations in a status.
const HISTORY: u32 = 200;

/// Who paused, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Who.
    pub by: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Why.
    pub reason: String,
}

/// What became of a remote when it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStatus {
    /// Its tip.
    pub tip: Option<String>,
    /// When it last answered, RFC 3339: how old the news is.
    pub answered: Option<String>,
    /// Why it did not answer, or why its answer is not taken.
    pub error: Option<String>,
}

/// How things stand: what `reconcilectl status --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `idle planning rehearsing applying probing rolling-back paused stuck`.
    pub phase: String,
    /// The live revision.
    pub live: Option<String>,
    /// The newest revision asked for.
    pub desired: Option<String>,
    /// The live generation.
    pub generation: Option<u64>,
    /// The newest held revision, unless a newer one is live.
    pub held: Option<Held>,
    /// Who paused.
    pub paused: Option<Paused>,
    /// The generation that is taken back unless it is confirmed.
    #[serde(default)]
    pub unconfirmed: Option<Unconfirmed>,
    /// What has drifted and is left so, and why.
    #[serde(default)]
    pub drift: Vec<String>,
    /// What undo could not put back.
    pub stuck: Vec<String>,
    /// What became of each remote when it was last asked.
    #[serde(default)]
    pub remotes: BTreeMap<String, RemoteStatus>,
    /// The audit log's head.
    pub audit_head: Option<String>,
    /// How the last order ended, in one line.
    pub last: Option<String>,
    /// This program's version.
    pub version: String,
}

impl Status {
    /// One line for `systemctl status`: what is wrong comes first.
    #[must_use]
    pub fn line(&self) -> String {
        let short = |id: &Option<String>| id.as_ref().map_or_else(|| "nothing".to_owned(), |id| source::short(id).to_owned());
        let live = match self.generation {
            Some(n) => format!("generation {n} ({}) is live", short(&self.live)),
            None => "nothing is live yet".to_owned(),
        };
        if !self.stuck.is_empty() {
            return format!("STUCK: {}; {live}", self.stuck.join("; "));
        }
        if let Some(waiting) = &self.unconfirmed {
            let changed = waiting.changed.join(", ");
            return format!("{}: {live}; generation {} WAITS for its confirmation ({changed})", self.phase, waiting.generation);
        }
        if let Some(held) = &self.held {
            let reason = held.reason.lines().next().unwrap_or_default();
            return format!("{}: {live}; HELD {}: {reason}", self.phase, short(&Some(held.commit.clone())));
        }
        format!("{}: {live}", self.phase)
    }
}

/// What the main thread sees of the engine.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// How things stand.
    pub status: Status,
    /// Generations, newest first.
    pub history: Vec<Generation>,
    /// What is managed, for those who watch it.
    pub watched: Arc<Watched>,
}

/// The engine's thread: takes one task at a time until the daemon stops.
#[derive(Debug)]
pub struct Clerk {
    /// The pipeline.
    pub engine: Engine,
    /// Where tasks wait.
    pub desk: Desk,
    /// Where the state is published.
    pub published: Arc<watch::Sender<Published>>,
    /// Signs of life.
    pub pulse: Pulse,
    /// The settings.
    pub settings: Settings,
    /// What became of each remote when it was last asked.
    pub remotes: BTreeMap<String, RemoteStatus>,
}

impl Clerk {
    /// Works until the desk says that the daemon stops.
    pub fn work(&mut self) {
        while !self.desk.is_stopping() {
            self.pulse.beat();
            let Some(ticket) = self.desk.take(PATIENCE) else { continue };
            let report = self.perform(&ticket);
            let _ = self.engine.state.reserve().refill();
            // A timer that found nothing to do is no news.
            let news = report.verdict != Verdict::NothingToDo;
            self.publish(news.then(|| report.text()));
            self.desk.finish(&ticket, report);
        }
        self.engine.record(NewRecord::new(Event::Stopped, "daemon"));
    }

    /// Publishes how things stand.
    pub fn publish(&self, last: Option<String>) {
        match self.look_up() {
            Ok((mut status, history, watched)) => {
                self.published.send_modify(|published| {
                    status.last = last.or_else(|| published.status.last.take());
                    let watched = if *published.watched == watched { published.watched.clone() } else { Arc::new(watched) };
                    *published = Published { status, history, watched };
                });
            }
            Err(error) => tracing::error!("the status cannot be read: {error}"),
        }
    }

    fn look_up(&self) -> StateResult<(Status, Vec<Generation>, Watched)> {
        let state = &self.engine.state;
        let live = state.live()?;
        let stuck = state.open_transaction()?.filter(|open| open.state == Phase::Stuck);
        let paused = self.paused()?;
        let held = state.standing_held()?;
        let phase = match (&stuck, &paused) {
            (Some(_), _) => "stuck",
            (_, Some(_)) => "paused",
            _ => "idle",
        };
        let status = Status {
            phase: phase.to_owned(),
            live: live.as_ref().map(|g| g.commit.id.clone()).filter(|id| !id.is_empty()),
            desired: state.setting(Setting::Desired)?,
            generation: live.map(|g| g.number),
            held,
            paused,
            unconfirmed: state.unconfirmed()?,
            drift: self.engine.left.clone(),
            stuck: stuck.map(|open| open.remains).unwrap_or_default(),
            remotes: self.remotes.clone(),
            audit_head: self.engine.audit.head().map(|h| h.to_string()),
            last: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut watched = Watched::default();
        for change in state.ledger()?.values() {
            watched.paths.extend(change.path().map(ToString::to_string));
            watched.units.extend(change.unit().map(str::to_owned));
        }
        Ok((status, state.history(HISTORY)?, watched))
    }

    fn paused(&self) -> StateResult<Option<Paused>> {
        Ok(self.engine.state.setting(Setting::Paused)?.and_then(|text| serde_json::from_str(&text).ok()))
    }

    fn perform(&mut self, ticket: &Ticket) -> Report {
        let followers = ticket.followers.clone();
        let say: &mut dyn FnMut(Progress) = &mut |progress| followers.tell(&progress);
        let done = match &ticket.task {
            Task::Order(order) => self.order(order, say),
            Task::Retry { commit, actor } => self.retry(commit, actor, say),
            Task::Pause { actor, reason } => self.pause(actor, reason),
            Task::Resume { actor } => self.resume(actor),
            Task::Resolve { path, restore, actor } => self.engine.resolve(path, *restore, actor, say),
            Task::Diff { generation, actor } => self.engine.diff(*generation, actor, say),
            Task::Confirm { actor, generation } => self.confirm(actor, *generation),
            Task::Revert { generation } => self.revert(*generation, say),
            Task::Sync { actor } => self.sync(actor, say),
            Task::Poll { remote } => self.poll(remote, say),
            Task::Reload(fresh) => {
                self.settings = fresh.settings.clone();
                self.remotes.retain(|name, _| fresh.settings.remotes.iter().any(|remote| remote.name == *name));
                self.engine.known_as = fresh.settings.host.clone();
                self.engine.guards = fresh.guards.clone();
                self.engine.lifelines = fresh.lifelines.clone();
                self.engine.past_irreversible = fresh.settings.rollback_past_irreversible;
                self.engine.confirm_window = fresh.settings.confirm_window.to_string();
                self.engine.record(NewRecord::new(Event::Reloaded, "daemon"));
                Ok(Report::short(Verdict::NothingToDo, ""))
            }
        };
        done.unwrap_or_else(|error| Report::short(Verdict::Failed, &error.to_string()))
    }

    /// An order, unless the daemon is paused or stuck.
    fn order(&mut self, order: &Order, say: &mut dyn FnMut(Progress)) -> StateResult<Report> {
        let preview = matches!(order, Order::Preview { .. });
        if !preview && self.engine.state.open_transaction()?.is_some_and(|open| open.state != Phase::Stuck) {
            // An undo that the store broke off: nothing new is begun before that is over.
            self.engine.recover()?;
        }
        if !preview && let Some((verdict, reason)) = self.obstacle()? {
            return match order {
                Order::Repair { actor, insist: false } if verdict == Verdict::Refused => self.engine.report_drift(actor, say),
                _ => Ok(self.engine.turn_away(order, verdict, &reason)),
            };
        }
        if let Order::Deploy { commit, .. } = order {
            self.published.send_modify(|p| p.status.desired = Some(commit.clone()));
        }
        Ok(self.engine.run(order, say))
    }

    /// What lets nothing be applied: something is stuck, or somebody has paused.
    fn obstacle(&self) -> StateResult<Option<(Verdict, String)>> {
        if let Some(open) = self.engine.state.open_transaction()?.filter(|o| o.state == Phase::Stuck) {
            let remains = open.remains.join("; ");
            let remedy = "see reconcilectl status, then reconcilectl resolve PATH --keep|--restore";
            return Ok(Some((Verdict::Stuck, format!("an earlier rollback is stuck on {remains}: {remedy}"))));
        }
        Ok(self.paused()?.map(|paused| {
            let why = if paused.reason.is_empty() { String::new() } else { format!(" ({})", paused.reason) };
            (Verdict::Refused, format!("paused by {} since {}{why}: reconcilectl resume", paused.by, paused.since))
        }))
    }

    fn retry(&mut self, commit: &str, actor: &str, say: &mut dyn FnMut(Progress)) -> StateResult<Report> {
        let commit = if commit.is_empty() {
            self.engine.state.newest_held()?.map(|held| held.commit)
        } else {
            match source::resolve(&*self.engine.host, commit) {
                Ok(found) => found,
                Err(error) => return Ok(Report::short(Verdict::Refused, &error.to_string())),
            }
        };
        let Some(commit) = commit else {
            return Ok(Report::short(Verdict::Refused, "there is no such revision here, and none is held"));
        };
        if self.engine.state.held(&commit)?.is_none() {
            let short = source::short(&commit);
            return Ok(Report::short(Verdict::Refused, &format!("{short} is not held: push it, or see reconcilectl status")));
        }
        // It stays held as long as nothing can be tried.
        if self.obstacle()?.is_none() && self.engine.state.unhold(&commit)? {
            let mut record = NewRecord::new(Event::Retried, actor);
            record.commit = Some(commit.clone());
            self.engine.record(record);
        }
        self.order(&Order::Deploy { commit, actor: actor.to_owned(), right: Right::Deploy }, say)
    }

    /// One full cycle: every remote is asked, then the host is healed. It is as good as the worst part of it.
    fn sync(&mut self, actor: &str, say: &mut dyn FnMut(Progress)) -> StateResult<Report> {
        let names: Vec<String> = self.settings.remotes.iter().map(|r| r.name.clone()).collect();
        let mut worst: Option<Report> = None;
        for name in names {
            let mut report = self.poll(&name, say)?;
            if !report.verdict.is_good() {
                report.reason = format!("remote {name}: {}", report.reason);
                say(Progress::Line { text: report.text() });
                worst.get_or_insert(report);
            }
        }
        let repaired = self.order(&Order::Repair { actor: actor.to_owned(), insist: true }, say)?;
        Ok(if repaired.verdict.is_good() { worst.unwrap_or(repaired) } else { repaired })
    }

    /// Asks a remote and deploys its tip where that is forward. A remote that is down changes nothing.
    fn poll(&mut self, name: &str, say: &mut dyn FnMut(Progress)) -> StateResult<Report> {
        let Some(remote) = self.settings.remotes.iter().find(|r| r.name == name).cloned() else {
            return Ok(Report::short(Verdict::Refused, &format!("there is no remote {name} in the settings")));
        };
        let fetched = source::fetch(&*self.engine.host, &remote.url, &remote.branch);
        let tip = match fetched {
            Ok(tip) => tip,
            Err(error) => {
                self.note_remote(name, None, Some(error.to_string()));
                return Ok(Report::short(Verdict::Failed, &error.to_string()));
            }
        };
        if let Some(pin) = self.pin(name)? {
            match source::compare(&*self.engine.host, &pin, &tip) {
                Ok(Relation::Behind) => return self.alarm(name, &tip, &pin, "went back"),
                Ok(Relation::Diverged) => return self.alarm(name, &tip, &pin, "was rewritten"),
                Ok(Relation::Same | Relation::Ahead) => {}
                Err(error) => return Ok(Report::short(Verdict::Failed, &error.to_string())),
            }
        }
        let live = self.engine.state.live()?.map(|g| g.commit.id).filter(|id| !id.is_empty());
        if live.as_deref() == Some(&tip) {
            self.set_pin(name, &tip)?;
        }
        // One that lags behind the host has nothing to say yet: somebody else was quicker.
        let lags = match &live {
            None => false,
            Some(live) => match source::compare(&*self.engine.host, live, &tip) {
                Ok(relation) => matches!(relation, Relation::Same | Relation::Behind),
                Err(error) => return Ok(Report::short(Verdict::Failed, &error.to_string())),
            },
        };
        if lags {
            self.note_remote(name, Some(tip), None);
            return Ok(Report::short(Verdict::NothingToDo, ""));
        }
        if let Some(held) = self.engine.state.held(&tip)? {
            let why = format!("{} is held: {}", source::short(&tip), held.reason.lines().next().unwrap_or_default());
            self.note_remote(name, Some(tip), Some(why.clone()));
            return Ok(Report::short(Verdict::Refused, &why));
        }
        self.note_remote(name, Some(tip.clone()), None);
        let order = Order::Deploy { commit: tip.clone(), actor: format!("pull:{name}"), right: Right::Deploy };
        let report = self.order(&order, say)?;
        if report.verdict == Verdict::Live {
            // Only what has passed everything may be what later tips have to build on.
            self.set_pin(name, &tip)?;
        } else if !report.verdict.is_good() {
            self.note_remote(name, Some(tip), Some(report.reason.lines().next().unwrap_or_default().to_owned()));
        }
        Ok(report)
    }

    /// A remote whose history went back or was rewritten: said once, and never followed.
    fn alarm(&mut self, name: &str, tip: &str, pin: &str, what: &str) -> StateResult<Report> {
        let why = format!("the history of remote {name} {what}: {} does not build on {}", source::short(tip), source::short(pin));
        self.note_remote(name, Some(tip.to_owned()), Some(why.clone()));
        if self.named(Setting::Alarms)?.get(name) != Some(&why) {
            self.set_named(Setting::Alarms, name, &why)?;
            tracing::error!("ALARM: {why}");
            let mut record = NewRecord::new(Event::Alarm, &format!("pull:{name}"));
            record.commit = Some(tip.to_owned());
            record.reason = Some(why.clone());
            self.engine.record(record);
        }
        Ok(Report::short(Verdict::Refused, &why))
    }

    /// Notes how a remote answered.
    fn note_remote(&mut self, name: &str, tip: Option<String>, error: Option<String>) {
        let status = self.remotes.entry(name.to_owned()).or_default();
        let news = status.error != error || tip.as_ref().is_some_and(|tip| status.tip.as_ref() != Some(tip));
        if let Some(error) = error.as_ref().filter(|_| news && tip.is_none()) {
            tracing::warn!("remote {name}: {error}; the live generation stays");
        }
        if tip.is_some() {
            status.answered = Some(UtcTime::now().to_string());
            status.tip = tip;
        }
        status.error = error;
    }

    fn pin(&self, name: &str) -> StateResult<Option<String>> {
        Ok(self.named(Setting::Pins)?.remove(name))
    }

    fn set_pin(&mut self, name: &str, tip: &str) -> StateResult<()> {
        self.set_named(Setting::Pins, name, tip)
    }

    /// What is kept of each remote under a setting.
    fn named(&self, setting: Setting) -> StateResult<BTreeMap<String, String>> {
        Ok(self.engine.state.setting(setting)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    fn set_named(&mut self, setting: Setting, name: &str, value: &str) -> StateResult<()> {
        let mut all = self.named(setting)?;
        if all.insert(name.to_owned(), value.to_owned()).as_deref() == Some(value) {
            return Ok(());
        }
        let text = serde_json::to_string(&all).unwrap_or_default();
        self.engine.state.set_setting(setting, Some(&text))
    }

    fn pause(&mut self, actor: &str, reason: &str) -> StateResult<Report> {
        if let Some(paused) = self.paused()? {
            let since = format!("paused already, by {} since {}", paused.by, paused.since);
            return Ok(Report::short(Verdict::NothingToDo, &since));
        }
        let paused = Paused { by: actor.to_owned(), since: UtcTime::now().to_string(), reason: crate::path::escape(reason) };
        let text = serde_json::to_string(&paused).unwrap_or_default();
        self.engine.state.set_setting(Setting::Paused, Some(&text))?;
        let mut record = NewRecord::new(Event::Paused, actor);
        record.reason = Some(paused.reason).filter(|r| !r.is_empty());
        self.engine.record(record);
        Ok(Report::short(Verdict::NothingToDo, "paused: nothing is applied until reconcilectl resume"))
    }

    /// Somebody has shown that the host can still be reached.
    fn confirm(&mut self, actor: &str, generation: u64) -> StateResult<Report> {
        let Some(waiting) = self.engine.state.unconfirmed()?.filter(|waiting| waiting.generation == generation) else {
            return Ok(Report::short(Verdict::NothingToDo, "nothing waits for a confirmation"));
        };
        self.engine.state.set_setting(Setting::Unconfirmed, None)?;
        let text = format!("generation {} is confirmed", waiting.generation);
        let mut record = NewRecord::new(Event::Confirmed, actor);
        record.generation = Some(waiting.generation);
        record.reason = Some(waiting.changed.join(", "));
        self.engine.record(record);
        tracing::info!("{text} by {actor}");
        Ok(Report::short(Verdict::NothingToDo, &text))
    }

    /// Gives up what nobody has confirmed. No pause is in the way: whoever paused may be the one who is cut off.
    fn revert(&mut self, generation: u64, say: &mut dyn FnMut(Progress)) -> StateResult<Report> {
        let Some(waiting) = self.engine.state.unconfirmed()?.filter(|waiting| waiting.generation == generation) else {
            return Ok(Report::short(Verdict::NothingToDo, ""));
        };
        if self.engine.state.open_transaction()?.is_some_and(|open| open.state == Phase::Stuck) {
            let why = "an earlier rollback is stuck: see reconcilectl status, then reconcilectl resolve PATH --keep|--restore";
            return Ok(Report::short(Verdict::Stuck, why));
        }
        let why = format!("generation {generation} was not confirmed in time ({})", waiting.changed.join(", "));
        tracing::error!("{why}: it is taken back");
        let report = self.engine.run(&Order::Revert { back_to: waiting.back_to, why }, say);
        if report.verdict == Verdict::NothingToDo {
            self.engine.state.set_setting(Setting::Unconfirmed, None)?;
        }
        Ok(report)
    }

    fn resume(&mut self, actor: &str) -> StateResult<Report> {
        if self.paused()?.is_none() {
            return Ok(Report::short(Verdict::NothingToDo, "it was not paused"));
        }
        self.engine.state.set_setting(Setting::Paused, None)?;
        self.engine.record(NewRecord::new(Event::Resumed, actor));
        Ok(Report::short(Verdict::NothingToDo, "it goes on: pushes are taken, drift is healed"))
    }
}

#[cfg(test)]
mod tests;
