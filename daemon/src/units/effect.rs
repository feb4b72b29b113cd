//! What has to happen so that a changed definition is in force in a unit that runs, and why: a table of settings. Pure.

use super::definition::{Definition, Setting};
use super::is_scope_of_sessions;

/// What a running unit needs to have its new definition in force; each is more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing: it says what it said.
    Nothing,
    /// PID 1 reads it again; the process goes on.
    DaemonReload,
    /// `ExecReload=`, or of a mount a remount.
    Reload,
    /// Stop and start, by the new definition.
    Restart,
    /// Stop by the old definition, then start by the new one: how to stop it has changed too.
    StopStart,
}

/// An effect with the settings that ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What has to happen.
    pub effect: Effect,
    /// Why: `ExecStart changed`, `only its comments changed`.
    pub why: String,
    /// It is about when a timer elapses.
    pub of_schedule: bool,
}

/// What a change of one setting asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// For people; PID 1 shows it.
    Words,
    /// PID 1 goes by it from the next daemon-reload on.
    Manager,
    /// How a process is reloaded: it is, unless there is nothing left to do that with.
    HowToReload,
    /// How a process is stopped. On its own it can wait for the next stop.
    HowToStop,
    /// It is remounted.
    Remount,
    /// PID 1 goes by it from the next daemon-reload on, unless the timer has elapsed: that has no next time until it is started anew.
    Schedule,
    /// A process has it from its start.
    Process,
}

use Rule::{HowToReload, HowToStop, Manager, Remount, Schedule, Words};

/// Settings that a running process does not have from its start, by section; any other is [`Rule::Process`].
///
/// Sources: systemd.unit(5), systemd.service(5), systemd.kill(5), systemd.socket(5), systemd.mount(5). That PID 1 goes by what a daemon-reload
/// has read was tried with systemd 252 and 257 (timers and paths), and is so for resource control since 233 (systemd/systemd#5619).
const RULES: &[(&str, &[&str], Rule)] = &[
    ("Unit", &["Description", "Documentation", "SourcePath"], Words),
    // Of the dependencies only those count that bring another unit up: a start has to pull that in.
    ("Unit", &["Wants", "Requires", "Requisite", "BindsTo", "Upholds", "JoinsNamespaceOf"], Rule::Process),
    ("Unit", ANY, Manager),
    ("Install", ANY, Manager),
    ("Service", &["ExecReload"], HowToReload),
    (
        "Service",
        &["ExecStop", "ExecStopPost", "KillMode", "KillSignal", "RestartKillSignal", "FinalKillSignal", "SendSIGHUP"],
        HowToStop,
    ),
    ("Service", &["SendSIGKILL", "TimeoutStopSec", "TimeoutAbortSec", "TimeoutSec", "WatchdogSignal"], Manager),
    ("Service", &["Restart", "RestartSec", "RestartSteps", "RestartMaxDelaySec", "RestartMode"], Manager),
    ("Service", &["RestartPreventExitStatus", "RestartForceExitStatus", "SuccessExitStatus", "RemainAfterExit"], Manager),
    ("Service", &["TimeoutStartSec", "TimeoutStartFailureMode", "TimeoutStopFailureMode", "RuntimeMaxSec"], Manager),
    ("Service", &["ExecCondition", "FailureAction", "StartLimitInterval", "StartLimitIntervalSec", "StartLimitBurst"], Manager),
    ("Service", &["OOMPolicy", "FileDescriptorStoreMax", "NotifyAccess"], Manager),
    ("Service", RESOURCES, Manager),
    ("Socket", &["TriggerLimitIntervalSec", "TriggerLimitBurst", "PollLimitIntervalSec", "PollLimitBurst"], Manager),
    (
        "Socket",
        &["MaxConnections", "MaxConnectionsPerSource", "RemoveOnStop", "TimeoutSec", "ExecStopPre", "ExecStopPost"],
        Manager,
    ),
    ("Mount", &["Options"], Remount),
    ("Mount", &["TimeoutSec", "DirectoryMode", "LazyUnmount", "ForceUnmount", "SloppyOptions", "ReadWriteOnly"], Manager),
    ("Timer", ANY, Schedule),
    ("Path", ANY, Manager),
    ("Slice", ANY, Manager),
];

const ANY: &[&str] = &[];

/// systemd.resource-control(5): PID 1 writes these to the control group of what runs.
const RESOURCES: &[&str] = &[
    "CPUWeight",
    "StartupCPUWeight",
    "CPUQuota",
    "CPUQuotaPeriodSec",
    "AllowedCPUs",
    "AllowedMemoryNodes",
    "MemoryMin",
    "MemoryLow",
    "MemoryHigh",
    "MemoryMax",
    "MemorySwapMax",
    "MemoryZSwapMax",
    "TasksMax",
    "IOWeight",
    "StartupIOWeight",
    "IODeviceWeight",
    "IOReadBandwidthMax",
    "IOWriteBandwidthMax",
    "IOReadIOPSMax",
    "IOWriteIOPSMax",
    "CPUAccounting",
    "MemoryAccounting",
    "TasksAccounting",
    "IOAccounting",
    "ManagedOOMSwap",
    "ManagedOOMMemoryPressure",
    "ManagedOOMMemoryPressureLimit",
    "ManagedOOMPreference",
];

fn rule((section, key): &Setting) -> Rule {
    let covers = |(s, keys, _): &&(&str, &[&str], Rule)| s == section && (keys.is_empty() || keys.contains(&key.as_str()));
    RULES.iter().find(covers).map_or(Rule::Process, |(_, _, rule)| *rule)
}

impl Difference {
    /// What has to happen to a running unit whose definition was the first and is the second.
    #[must_use]
    pub fn between(unit: &str, old: &Definition, new: &Definition) -> Self {
        let changed = old.differing(new);
        if changed.is_empty() {
            return Self { effect: Effect::Nothing, why: "says what it said before".to_owned(), of_schedule: false };
        }
        let effect = |setting: &Setting| match rule(setting) {
            Words | Manager | HowToStop | Schedule => Effect::DaemonReload,
            HowToReload if new.values("Service", "ExecReload").is_empty() => Effect::DaemonReload,
            HowToReload | Remount => Effect::Reload,
            Rule::Process => Effect::Restart,
        };
        let most = changed.iter().map(effect).max().unwrap_or(Effect::Nothing);
        let stops_otherwise = changed.iter().any(|setting| rule(setting) == HowToStop);
        let asking: Vec<&str> = changed.iter().filter(|s| effect(s) == most).map(|(_, key)| key.as_str()).collect();
        let difference = Self {
            effect: if most == Effect::Restart && stops_otherwise { Effect::StopStart } else { most },
            why: format!("{} changed", listed(&asking)),
            of_schedule: changed.iter().any(|setting| rule(setting) == Schedule),
        };
        match spared(unit, new) {
            Some(why) if difference.effect >= Effect::Restart => {
                Self { effect: Effect::DaemonReload, why: format!("{}, but {why}", difference.why), ..difference }
            }
            _ => difference,
        }
    }
}

/// Why a unit is never stopped or started by a plan, whatever changed: who asks has to do it by hand, or reboot.
#[must_use]
pub fn spared(unit: &str, definition: &Definition) -> Option<&'static str> {
    let switched = |key| definition.is_on("Unit", key);
    match unit {
        "dbus.service" | "dbus-broker.service" | "dbus.socket" => {
            Some("every client of the bus would lose it: it takes effect with the next boot")
        }
        "-.mount" => Some("the root file system stays mounted"),
        _ if unit.ends_with(".target") || unit.ends_with(".slice") => {
            Some("all that belongs to it would stop with it: what it newly wants, a table of its own can start")
        }
        _ if super::is_ours(unit) => Some("it is the daemon itself: systemctl restart reconciled, when it suits"),
        _ if is_scope_of_sessions(unit) => Some("it would end sessions: it takes effect with the next login"),
        _ if switched("RefuseManualStop") || switched("RefuseManualStart") => {
            Some("it may not be stopped by hand: it takes effect with the next boot")
        }
        _ => None,
    }
}

/// `A`, `A and B`, `A, B and C`, `A, B, C and 2 more`.
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] if names.len() <= 3 => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {} more", names[..3].join(", "), names.len() - 3),
    }
}

#[cfg(test)]
mod tests {
    use super::{Definition, Difference, Effect};

    const OLD: &str = "[Unit]\nDescription=shop\nAfter=a.service\n[Service]\nExecStart=/bin/shop --fast\nExecReload=/bin/kill -HUP $MAINPID\nUser=shop\nMemoryMax=1G\nEnvironment=A=1\n[Install]\nWantedBy=multi-user.target\n";

    /// What changing OLD by this replacement, or adding this drop-in, asks for.
    fn asked(unit: &str, old: &str, new: &str) -> (Effect, String) {
        let difference = Difference::between(unit, &Definition::read([old]), &Definition::read([new]));
        (difference.effect, difference.why)
    }

    #[test]
    fn edits_of_a_service() {
        use Effect::{DaemonReload, Nothing, Reload, Restart, StopStart};
        let replaced: [(&str, &str, Effect, &str); 22] = [
            ("[Unit]\n", "# a comment\n[Unit]\n\n", Nothing, "says what it said before"),
            ("/bin/shop --fast", "/bin/shop \\\n  --fast", Nothing, "says what it said before"),
            ("User=shop\n", "User=other\nUser=shop\n", Nothing, "says what it said before"),
            ("Description=shop", "Description=The shop", DaemonReload, "Description changed"),
            ("Description=shop\n", "Documentation=man:shop(8)\n", DaemonReload, "Description and Documentation changed"),
            ("After=a.service", "After=b.service", DaemonReload, "After changed"),
            ("WantedBy=multi-user.target", "WantedBy=graphical.target", DaemonReload, "WantedBy changed"),
            ("MemoryMax=1G", "MemoryMax=2G", DaemonReload, "MemoryMax changed"),
            ("User=shop\n", "User=shop\nRestart=always\nRestartSec=1\n", DaemonReload, "Restart and RestartSec changed"),
            ("User=shop\n", "User=shop\nExecStop=/bin/shop --stop\n", DaemonReload, "ExecStop changed"),
            ("User=shop\n", "User=shop\nTimeoutStopSec=5\n", DaemonReload, "TimeoutStopSec changed"),
            ("[Unit]\n", "[X-Shop]\nA=1\n[Unit]\n", Nothing, "says what it said before"),
            ("-HUP", "-USR1", Reload, "ExecReload changed"),
            ("ExecReload=/bin/kill -HUP $MAINPID\n", "", DaemonReload, "ExecReload changed"),
            ("-HUP $MAINPID\nUser=shop", "-USR1 $MAINPID\nUser=web", Restart, "User changed"),
            ("--fast", "--slow", Restart, "ExecStart changed"),
            ("User=shop", "User=web", Restart, "User changed"),
            ("A=1", "A=1\nEnvironment=B=2", Restart, "Environment changed"),
            ("[Service]\n", "Requires=b.service\n[Service]\n", Restart, "Requires changed"),
            (
                "[Service]\n",
                "[Service]\nLimitNOFILE=4096\nNice=5\nUMask=077\nPrivateTmp=1\n",
                Restart,
                "LimitNOFILE, Nice, PrivateTmp and 1 more changed",
            ),
            ("User=shop\n", "User=web\nExecStop=/bin/shop --stop\n", StopStart, "User changed"),
            ("User=shop\n", "User=shop\nProtectHome=yes\n", Restart, "ProtectHome changed"),
        ];
        for (from, to, effect, why) in replaced {
            assert!(OLD.contains(from), "{from:?}");
            assert_eq!(asked("shop.service", OLD, &OLD.replacen(from, to, 1)), (effect, why.to_owned()), "{from:?} → {to:?}");
        }
    }

    #[test]
    fn edits_of_other_units() {
        use Effect::{DaemonReload, Reload, Restart};
        for (unit, old, new, effect) in [
            ("a.socket", "[Socket]\nListenStream=1", "[Socket]\nListenStream=2", Restart),
            ("a.socket", "[Socket]\nListenStream=1", "[Socket]\nListenStream=1\nMaxConnections=9", DaemonReload),
            ("a.socket", "[Socket]\nSocketMode=0600", "[Socket]\nSocketMode=0660", Restart),
            ("a.timer", "[Timer]\nOnCalendar=daily", "[Timer]\nOnCalendar=weekly", DaemonReload),
            ("a.path", "[Path]\nPathExists=/a", "[Path]\nPathExists=/b", DaemonReload),
            ("sysinit.target", "[Unit]\nWants=a.service", "[Unit]\nWants=b.service", DaemonReload),
            ("a.slice", "[Unit]\nWants=a.service", "[Unit]\nWants=b.service", DaemonReload),
            ("a.slice", "[Slice]\nMemoryMax=1G", "[Slice]\nMemoryMax=2G", DaemonReload),
            ("srv.mount", "[Mount]\nWhat=tmpfs\nOptions=size=1M", "[Mount]\nWhat=tmpfs\nOptions=size=2M", Reload),
            ("srv.mount", "[Mount]\nWhat=tmpfs", "[Mount]\nWhat=tmpfs\nLazyUnmount=yes", DaemonReload),
            ("srv.mount", "[Mount]\nWhat=tmpfs\nOptions=size=1M", "[Mount]\nWhat=other\nOptions=size=2M", Restart),
            ("dbus.service", "[Service]\nNice=1", "[Service]\nNice=2", DaemonReload),
            ("user@1000.service", "[Service]\nNice=1", "[Service]\nNice=2", DaemonReload),
            ("reconciled.service", "[Service]\nNice=1", "[Service]\nNice=2", DaemonReload),
            ("a.service", "[Service]\nNice=1", "[Unit]\nRefuseManualStop=yes\n[Service]\nNice=2", DaemonReload),
        ] {
            assert_eq!(asked(unit, old, new).0, effect, "{unit}: {old:?} → {new:?}");
        }
        assert_eq!(asked("dbus.service", "[Service]\nNice=1", "[Service]\nNice=2").1.split(',').next(), Some("Nice changed"));
    }
}
