//! systemd units: enabled, active, masked.

use serde::{Deserialize, Serialize};

use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec};
use crate::change::{Change, UnitFacts};
use crate::host::{HostResult, UnitSeen};
use crate::timespan::TimeSpan;
use crate::units::{self, SUFFIXES};

/// A systemd unit. With only a name it is enabled and active; otherwise only the keys that are named are managed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UnitSpec {
    /// The unit's name with its suffix: `nginx.service`.
    pub name: String,
    /// Started at boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Running now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Nothing can start it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<bool>,
    /// Further paths (globs) whose change it has to read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watch: Vec<String>,
    /// How long its start, stop, reload or restart may take; as long as its own unit allows when not named, and 150 s where that
    /// sets no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// What to do when the host no longer matches: `repair` (the default), `report` (told, and left until the next push), or `ignore`
    /// (somebody else edits it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
    /// What a change of its unit file, of a file that it names or of a watched path does to a running unit; what a guard asks for stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
}

/// What a change does to a running unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    /// It is restarted.
    Restart,
    /// It is reloaded (`ExecReload=`).
    Reload,
    /// Only PID 1 reads its file again; the process goes on as it is.
    DaemonReload,
    /// Its process is left alone.
    None,
}

impl Spec for UnitSpec {
    const KIND: &'static str = "unit";
    const SHORT: Option<&'static str> = Some("units");
    const KEY: &'static str = "name";
    const PHASE: Phase = Phase::Units;
    const ABOUT: &'static str =
        "A systemd unit. With only a name it is enabled and active; otherwise only the named keys are managed.";
    const EXAMPLE: &'static str = "[[unit]]\nname = \"worker.service\"\nenabled = true\nactive = true\nwatch = [\"/etc/shop/**\"]\non_change = \"restart\"\n";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        let bad = |key, message: String, help: &str| Err(Mistake { key, message, help: help.to_owned() });
        let valid = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if self.name.len() > 255 || !self.name.chars().all(valid) {
            return bad(
                "name",
                format!("`{}` is not a unit name", crate::path::escape(&self.name)),
                "see systemd.unit(5): letters, digits and :-_.\\@",
            );
        }
        if !SUFFIXES.iter().any(|s| self.name.ends_with(s) && self.name.len() > s.len()) {
            return bad("name", format!("`{}` has no unit suffix", self.name), &format!("write \"{}.service\"", self.name));
        }
        if crate::units::is_template(&self.name) {
            let instance = self.name.replacen("@.", "@1.", 1);
            return bad("name", format!("`{}` is a template", self.name), &format!("name an instance: \"{instance}\""));
        }
        if units::is_ours(&self.name) && self.active != Some(true) {
            return bad(
                "name",
                format!("{} would stop or forget the daemon that reads this", self.name),
                "leave it out: the package manages it",
            );
        }
        if self.masked == Some(true) && (self.enabled == Some(true) || self.active == Some(true)) {
            return bad(
                "masked",
                "a masked unit can be neither enabled nor active".to_owned(),
                "drop `enabled` and `active`, or `masked`",
            );
        }
        if self.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            return bad("timeout", "nothing can be done in no time".to_owned(), "write timeout = \"90s\", or leave it out");
        }
        if let Some(glob) = self.watch.iter().find(|g| crate::path::glob(g).is_err() || !g.starts_with('/')) {
            return bad("watch", format!("`{glob}` is not a glob over absolute paths"), "write watch = [\"/etc/shop/**\"]");
        }
        Ok(())
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let seen = sight.host.unit(&self.name)?;
        let wanted = self.wanted();
        let facts = seen.facts_towards(&wanted);
        let before = wanted.managed_part_of(&facts);
        let mut parts = Vec::new();
        for (field, want, have) in [
            ("masked", wanted.masked, facts.masked),
            ("enabled", wanted.enabled, facts.enabled),
            ("active", wanted.active, facts.active),
        ] {
            if want.is_some() && have.is_some() && want != have {
                parts.push(describe(field, want == Some(true)));
            }
        }
        let reason = parts.join(", ");
        let mut claims = vec![Claim::new(Change::Unit { unit: self.name.clone(), before, after: wanted.clone() }, reason)];
        if wanted.active == Some(true) && seen.is_active() {
            claims.extend(self.members(&seen, sight)?);
        }
        Ok(claims)
    }
}

impl UnitSpec {
    /// A service may be nothing but what holds others together, and be active while they are dead.
    fn members(&self, seen: &UnitSeen, sight: &Sight<'_>) -> HostResult<Vec<Claim>> {
        let is_declared = |unit: &String| sight.resources.iter().any(|r| r.kind == Self::KIND && r.name == *unit);
        let mut claims = Vec::new();
        for unit in seen.members.iter().filter(|unit| unit.ends_with(".service") && !is_declared(unit)) {
            let member = sight.host.unit(unit)?;
            let is_down = matches!(member.active.as_str(), "inactive" | "failed") && member.service_type != "oneshot";
            if member.load != "loaded" || !is_down {
                continue;
            }
            let facts = |active| UnitFacts { active: Some(active), ..UnitFacts::default() };
            let change = Change::Unit { unit: unit.clone(), before: facts(false), after: facts(true) };
            claims.push(Claim { passing: true, ..Claim::new(change, format!("start, as a part of {}", self.name)) });
        }
        Ok(claims)
    }

    /// What is wanted of the unit, with the rules that a bare name means enabled and active, and that what is to be
    /// either must not be masked.
    #[must_use]
    pub fn wanted(&self) -> UnitFacts {
        let bare = self.enabled.is_none() && self.active.is_none() && self.masked.is_none();
        let default = bare.then_some(true);
        let (enabled, active) = (self.enabled.or(default), self.active.or(default));
        let unmasked = (enabled == Some(true) || active == Some(true)).then_some(false);
        UnitFacts { enabled, active, masked: self.masked.or(unmasked), ..UnitFacts::default() }
    }
}

fn describe(field: &str, on: bool) -> &'static str {
    match (field, on) {
        ("enabled", true) => "enable",
        ("enabled", false) => "disable",
        ("masked", true) => "mask",
        ("masked", false) => "unmask",
        ("active", true) => "start",
        _ => "stop",
    }
}
