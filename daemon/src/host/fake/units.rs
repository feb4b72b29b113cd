//! Units of the fake host: what PID 1 has read of them, and which versions of which files their processes run.

use std::collections::BTreeMap;

use super::World;
use crate::change::{UnitFacts, Wake};
use crate::host::{HostError, HostResult, Process, UnitSeen};

/// Where unit files are, the first one wins.
const PLACES: [&str; 2] = ["/etc/systemd/system", "/usr/lib/systemd/system"];

/// A unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) enabled: bool,
    pub(crate) masked: bool,
    pub(crate) active: bool,
    /// Enabling it has no meaning.
    pub(crate) fixed: bool,
    /// It was started and did not stay up.
    pub(crate) failing: bool,
    /// Paths (with all that is below them) that its process reads when it starts and when it reloads.
    pub(crate) reads: Vec<String>,
    /// What is a part of it and runs when it does.
    pub(crate) members: Vec<String>,
    /// Its file as PID 1 knows it.
    loaded: Option<(String, String)>,
    /// What its process runs: the files as it has read them, and its own unit file.
    pub(crate) runs: BTreeMap<String, String>,
    /// How often a process was started.
    pub(crate) starts: u32,
    /// How often it was told to reload.
    pub(crate) reloads: u32,
}

/// What of a unit must be as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    enabled: bool,
    masked: bool,
    active: bool,
    failing: bool,
    /// PID 1 knows its file as it is not.
    stale: bool,
    runs: BTreeMap<String, String>,
}

fn refuse<T>(why: String) -> HostResult<T> {
    Err(HostError::Systemd(why))
}

impl World {
    pub(super) fn unit_pictures(&self) -> BTreeMap<String, Picture> {
        let picture = |name: &String, u: &Unit| Picture {
            enabled: u.enabled,
            masked: u.masked,
            active: u.active,
            failing: u.failing,
            stale: u.loaded.is_some() && u.loaded != self.file_of(name),
            runs: u.runs.clone(),
        };
        let all = self.units.iter().map(|(name, unit)| (name.clone(), picture(name, unit)));
        all.filter(|(_, p)| p.enabled || p.masked || p.active || p.stale).collect()
    }

    /// A unit that is enabled and runs, and reads these paths.
    pub(crate) fn running(&mut self, name: &str, fragment: &str, reads: &[&str]) {
        let reads = reads.iter().map(|r| (*r).to_owned()).collect();
        let loaded = self.text(fragment).map(|text| (fragment.to_owned(), text));
        self.units.insert(name.to_owned(), Unit { enabled: true, active: true, reads, loaded, ..Unit::default() });
        let runs = self.read_by(name);
        self.unit(name).runs = runs;
    }

    /// PID 1 loads a unit when it is first asked about it, and not again until it is told to.
    pub(super) fn unit(&mut self, name: &str) -> &mut Unit {
        let found = self.file_of(name);
        let unit = self.units.entry(name.to_owned()).or_default();
        if unit.loaded.is_none() {
            unit.loaded = found;
        }
        unit
    }

    fn file_of(&self, name: &str) -> Option<(String, String)> {
        PLACES.iter().find_map(|dir| {
            let path = format!("{dir}/{name}");
            self.text(&path).map(|text| (path, text))
        })
    }

    /// What a process of this unit reads when it starts now.
    fn read_by(&self, name: &str) -> BTreeMap<String, String> {
        let Some(unit) = self.units.get(name) else { return BTreeMap::new() };
        let is_read = |path: &str| unit.reads.iter().any(|r| path == r || path.starts_with(&format!("{r}/")));
        let files = self.tree.keys().filter(|p| is_read(p)).filter_map(|p| Some((p.clone(), self.text(p)?)));
        files.chain(unit.loaded.clone()).collect()
    }

    pub(super) fn seen(&mut self, name: &str) -> UnitSeen {
        let on_disk = self.file_of(name);
        let unit = self.unit(name);
        let file_state = match (&on_disk, unit.masked) {
            (_, true) => "masked",
            (None, false) => "",
            (Some(_), false) if unit.fixed => "static",
            (Some(_), false) if unit.enabled => "enabled",
            (Some(_), false) => "disabled",
        };
        let fragment = unit.loaded.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
        let link = (format!("/etc/systemd/system/multi-user.target.wants/{name}"), fragment.clone());
        UnitSeen {
            load: (if unit.masked { "masked" } else { unit.loaded.as_ref().map_or("not-found", |_| "loaded") }).to_owned(),
            active: (if unit.active { "active" } else { "inactive" }).to_owned(),
            sub: (if unit.failing { "auto-restart" } else { "running" }).to_owned(),
            file_state: file_state.to_owned(),
            fragment,
            result: (if unit.failing { "exit-code" } else { "success" }).to_owned(),
            links: if unit.enabled { vec![link] } else { Vec::new() },
            can_reload: true,
            members: unit.members.clone(),
            stale: unit.loaded.is_some() && unit.loaded != on_disk,
            ..UnitSeen::default()
        }
    }

    pub(super) fn set_unit(&mut self, name: &str, want: &UnitFacts) -> HostResult<()> {
        let seen = self.seen(name).facts();
        let differs = |want: Option<bool>, have: Option<bool>| want.filter(|_| have.is_some() && want != have);
        if differs(want.masked, seen.masked) == Some(false) {
            self.unit(name).masked = false;
        }
        if differs(want.active, seen.active) == Some(false) {
            self.stop(name);
        }
        if let Some(enabled) = differs(want.enabled, seen.enabled) {
            if enabled && self.file_of(name).is_none() {
                return refuse(format!("enable {name}: no such unit file"));
            }
            self.unit(name).enabled = enabled;
        }
        if differs(want.masked, seen.masked) == Some(true) {
            self.unit(name).masked = true;
        }
        if want.active == Some(true) && !self.unit(name).active {
            self.start(name)?;
        }
        Ok(())
    }

    /// One worker that lives; of a service that says so, one that is another at each look.
    pub(super) fn workers_of(&self, name: &str) -> Vec<Process> {
        let Some(unit) = self.units.get(name).filter(|unit| unit.active) else { return Vec::new() };
        let dying = unit.runs.values().any(|text| text.contains("workers die"));
        let pid = if dying { u32::try_from(self.moment.replace(self.moment.get() + 1)).unwrap_or(0) } else { 1 };
        vec![Process { pid, started: 0, program: name.to_owned(), title: String::new() }]
    }

    fn take_job(&self, verb: &str, name: &str) -> HostResult<()> {
        if self.going_down { refuse(format!("{verb} {name}: the transaction is destructive")) } else { Ok(()) }
    }

    fn stop(&mut self, name: &str) {
        if self.file_of(name).is_none() {
            self.sins.push(format!("{name} was stopped when its file was gone"));
        }
        let unit = self.unit(name);
        (unit.active, unit.failing) = (false, false);
        unit.runs.clear();
    }

    fn start(&mut self, name: &str) -> HostResult<()> {
        self.take_job("start", name)?;
        let unit = self.unit(name);
        if unit.masked || unit.loaded.is_none() {
            return refuse(format!("start {name}: it is masked or there is no such unit"));
        }
        let runs = self.read_by(name);
        let text = runs.values().cloned().collect::<String>();
        let unit = self.unit(name);
        unit.starts += 1;
        if text.contains("cannot start") {
            return refuse(format!("start {name}: job failed"));
        }
        (unit.active, unit.failing, unit.runs) = (true, text.contains("dies soon"), runs);
        Ok(())
    }

    pub(super) fn wake(&mut self, wake: &Wake) -> HostResult<()> {
        match wake {
            Wake::DaemonReload => {
                let names: Vec<String> = self.units.keys().cloned().collect();
                for name in names {
                    let found = self.file_of(&name);
                    self.unit(&name).loaded = found;
                }
                Ok(())
            }
            Wake::Run { .. } => Ok(()),
            Wake::Restart { unit } | Wake::StopStart { unit } => {
                self.take_job("restart", unit)?;
                let known = self.unit(unit);
                known.active = false;
                known.runs.clear();
                self.start(unit)
            }
            Wake::Reload { unit, .. } if !self.unit(unit).active => self.start(unit),
            Wake::Reload { unit, .. } => {
                self.take_job("reload", unit)?;
                let mut runs = self.read_by(unit);
                let known = self.unit(unit);
                known.reloads += 1;
                if runs.values().any(|text| text.contains("cannot reload")) {
                    return refuse(format!("reload {unit}: job failed"));
                }
                // The process is the same one: it was started from the unit file of then.
                let own = known.runs.iter().filter(|(path, _)| PLACES.iter().any(|dir| path.starts_with(dir)));
                let own: Vec<_> = own.map(|(p, t)| (p.clone(), t.clone())).collect();
                runs.retain(|path, _| !PLACES.iter().any(|dir| path.starts_with(dir)));
                runs.extend(own);
                known.runs = runs;
                Ok(())
            }
        }
    }

    /// The host comes up again: PID 1 reads everything, what is enabled runs, nothing else does.
    pub(crate) fn reboot(&mut self) {
        self.going_down = false;
        let names: Vec<String> = self.units.keys().cloned().collect();
        for name in &names {
            let found = self.file_of(name);
            let unit = self.unit(name);
            (unit.loaded, unit.active, unit.failing) = (found, false, false);
            unit.runs.clear();
        }
        for name in &names {
            if self.units.get(name).is_some_and(|u| u.enabled) {
                // What does not come up does not: a boot goes on.
                let _ = self.start(name);
            }
        }
    }
}
