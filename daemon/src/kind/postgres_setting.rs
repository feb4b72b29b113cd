//! Settings of the PostgreSQL server, as ALTER SYSTEM sets them. What they are is compared in the server's own words.

use serde::{Deserialize, Serialize};

use super::cluster::{Found, InCluster, Step, is_setting, look};
use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec, State};
use crate::postgres::{Setting, SettingSeen, Thing};

/// What only superusers may see (`GUC_SUPERUSER_ONLY`) because of what is in it.
const HOLDS_PASSWORD: [&str; 2] = ["primary_conninfo", "ssl_passphrase_command"];
/// Settings that say where the server's own files are: without them nobody finds it again.
const PLACES: [&str; 5] = ["config_file", "data_directory", "external_pid_file", "hba_file", "ident_file"];

/// Where its sockets are.
const SOCKETS: &str = "unix_socket_directories";

/// A setting of the PostgreSQL server at port 5432, set by `ALTER SYSTEM`: it goes before what stands in `postgresql.conf`. The server reads it
/// at once; it is restarted when that is what the setting needs, which the plan says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PostgresSettingSpec {
    /// The setting's name: `shared_buffers`.
    pub name: String,
    /// Its value as a string, as in `postgresql.conf` but without quotes: `"256MB"`, `"100"`, `"on"`. What means the same to the server is not changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `absent`: it is as `postgresql.conf` has it (`ALTER SYSTEM RESET`).
    #[serde(default)]
    pub state: State,
    /// What to do when the server no longer matches: `repair` (the default), `report` (told, and left until the next push), or `ignore`
    /// (somebody else sees to it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
}

impl Spec for PostgresSettingSpec {
    const KIND: &'static str = "postgres_setting";
    const KEY: &'static str = "name";
    const PHASE: Phase = Phase::Databases;
    const ABOUT: &'static str =
        "A setting of the PostgreSQL server. It is let go when it leaves the repository: `state = \"absent\"` resets it.";
    const EXAMPLE: &'static str = "[[postgres_setting]]\nname = \"work_mem\"\nvalue = \"8MB\"\n";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        let bad = |key, message: &str, help: &str| Err(Mistake { key, message: message.to_owned(), help: help.to_owned() });
        if !is_setting(&self.name) || self.name.chars().any(|c| c.is_ascii_uppercase()) {
            let message = format!("`{}` is not a setting", crate::path::escape(&self.name));
            return bad("name", &message, "write it as in pg_settings, in lower case: letters, digits and _");
        }
        if PLACES.contains(&self.name.as_str()) {
            return bad("name", "where the server's files are is not managed", "see pg_createcluster(1)");
        }
        if self.name == SOCKETS {
            // ALTER SYSTEM quotes each directory, and the wrapper of postgresql-common takes the quotes for a part of its name.
            return bad(
                "name",
                "no psql of Debian's would find the server: they do not read this as ALTER SYSTEM writes it",
                "write it in files/etc/postgresql/VERSION/CLUSTER/conf.d/sockets.conf",
            );
        }
        if HOLDS_PASSWORD.contains(&self.name.as_str()) {
            return bad(
                "name",
                "its value may hold a password, which a plan would show",
                "use a .pgpass file, or set it by hand",
            );
        }
        match (self.state, &self.value) {
            (State::Present, None) => bad("name", "a setting without a value", "add value = \"…\", or state = \"absent\""),
            (State::Absent, Some(_)) => bad("value", "an absent setting has no value", "drop `value`, or `state`"),
            (_, Some(value)) if value.chars().any(char::is_control) => {
                bad("value", "a value is one line without control characters", "write it as in postgresql.conf, without quotes")
            }
            _ => Ok(()),
        }
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let setting = self.setting();
        let Found { cluster, seen }: Found<SettingSeen> = look(&self.thing(), sight)?;
        let live = seen.live.as_ref().ok_or_else(|| {
            KindError::Impossible(format!("PostgreSQL does not run: systemctl start {0}, or see journalctl -u {0}", seen.unit))
        })?;
        if live.context == "internal" {
            return Err(KindError::Impossible(format!("`{}` is built into PostgreSQL and cannot be set", self.name)));
        }
        let (before, after) = (setting.answer(&seen), setting.goal(&seen));
        let is_right = before == after;
        // What it will be on its own is only known to who reads all files; what it is already needs no restart.
        let comes = live.context == "postmaster" && !is_right && seen.wanted.as_ref() != Some(&live.setting);
        let restart = comes || (is_right && live.pending_restart);
        let value = self.value.as_deref().unwrap_or("reset");
        let mut reason = format!("{} → {value}", crate::path::escape(&live.shown));
        if restart {
            reason += ", with a restart";
        }
        let step = Step {
            cluster,
            target: format!("{}:{}", Self::KIND, self.name),
            before,
            after,
            managed: Thing::Setting(setting.clone()),
            backward: Some(Thing::Setting(Setting { value: seen.former, ..setting.clone() })),
            forward: Thing::Setting(setting),
            reason,
        };
        let mut claim = step.claim();
        claim.restart = restart.then(|| (seen.unit, format!("{} takes effect with a restart", self.name)));
        Ok(vec![claim])
    }
}

impl InCluster for PostgresSettingSpec {
    fn thing(&self) -> Thing {
        Thing::Setting(self.setting())
    }
}

impl PostgresSettingSpec {
    /// What is asked for.
    fn setting(&self) -> Setting {
        Setting { name: self.name.clone(), value: self.value.clone() }
    }
}
