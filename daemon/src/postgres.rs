//! What is asked of a PostgreSQL cluster and what it answers: the words between the kinds, which decide, and the worker, which alone
//! speaks with the server. Pure.

pub mod scram;
pub mod sql;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::change::ABSENT;

/// Whose the clusters of Debian's packages are, and the role that may do everything in them.
pub const USER: &str = "postgres";
/// How long a look may take.
pub const LOOK: Duration = Duration::from_secs(60);
/// How long a change may take: a database is a copy of another one.
pub const MAKE: Duration = Duration::from_secs(300);
/// So much earlier the server gives up a statement by itself.
pub const MARGIN: Duration = Duration::from_secs(10);
/// What our sessions are called in the server.
pub const APPLICATION: &str = "reconciled";
/// The worker's exit code where there is no cluster yet.
pub const NO_CLUSTER: u8 = 3;

/// What the worker reads.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Which cluster, as `15/main`: what has been planned for one is neither made in another nor taken back there. Not said, it is the one
    /// that is meant on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// What of it.
    #[serde(flatten)]
    pub request: Request,
}

/// What a look is answered with.
#[derive(Serialize, Deserialize)]
pub struct Looked {
    /// The cluster that was looked at.
    pub cluster: String,
    /// What there is of each thing in it, in the order of the request ([`RoleSeen`], [`DatabaseSeen`] or [`SettingSeen`]); or why that cannot
    /// be told.
    pub seen: Vec<Result<Value, String>>,
}

/// Not what there is: a verifier of a password may be in it.
impl std::fmt::Debug for Looked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Looked({})", self.cluster)
    }
}

impl Request {
    /// How long it may take.
    #[must_use]
    pub fn limit(&self) -> Duration {
        match self {
            Self::Look(_) | Self::Ask(_) => LOOK,
            Self::Make(_) | Self::Undo(_) => MAKE,
        }
    }
}

/// What is asked of a cluster.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What there is of each, and what a change has to know of it: [`Looked`]. For planning.
    Look(Vec<Thing>),
    /// What there is of what is managed, in one line.
    Ask(Thing),
    /// It becomes so.
    Make(Thing),
    /// It becomes so again. What is new and something else has come to depend on stays, out of use, and counts as gone ([`LEFT`]).
    Undo(Thing),
}

/// The comment on what was taken back and stays: a role without its login, or an extension. It is answered for as if it were not there, and
/// taken into use again when it is wanted again.
pub const LEFT: &str = "reconciled: taken back, and stays since something depends on it";

/// Something in a cluster, as far as it is managed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thing {
    /// A role.
    Role(Role),
    /// A database.
    Database(Database),
    /// A setting of the server.
    Setting(Setting),
}

/// A role; without facts it is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// What is managed of it.
    pub facts: Option<RoleFacts>,
}

/// What is managed of a role, or known of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleFacts {
    /// [`ATTRIBUTES`].
    #[serde(default)]
    pub attributes: BTreeMap<String, bool>,
    /// How many connections it may have at once; -1 is any number.
    #[serde(default)]
    pub connection_limit: Option<i32>,
    /// Its password.
    #[serde(default)]
    pub password: Option<Password>,
    /// Settings of its sessions, by their names in lower case; `None` is not set.
    #[serde(default)]
    pub settings: BTreeMap<String, Option<String>>,
    /// Roles, and whether it is a member of each.
    #[serde(default)]
    pub member_of: BTreeMap<String, bool>,
}

/// Attributes that a role has or has not: as CREATE ROLE names them, in lower case.
pub const ATTRIBUTES: [&str; 7] = ["bypassrls", "createdb", "createrole", "inherit", "login", "replication", "superuser"];

/// The password of a role, as the server keeps it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Password {
    /// It has none.
    None,
    /// What a password is compared with.
    Verifier(String),
}

/// Never the verifier: whatever holds one may be printed for a person.
impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::None { "None" } else { "Verifier" })
    }
}

/// What a change of a role has to know.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RoleSeen {
    /// What there is of what is managed; all there is where it is to go.
    pub facts: Option<RoleFacts>,
    /// What would keep it from being dropped.
    pub holds: Vec<String>,
    /// Roles that it names and that are not there.
    pub missing: Vec<String>,
    /// Random bytes, hexadecimal.
    pub salt: String,
}

/// A database; without facts it is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// What is managed of it.
    pub facts: Option<DatabaseFacts>,
    /// Where it goes: whoever is connected to it is sent away.
    #[serde(default)]
    pub disconnect: bool,
}

/// What is managed of a database, or known of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// The role that owns it.
    #[serde(default)]
    pub owner: Option<String>,
    /// Its encoding, when it is made.
    #[serde(default)]
    pub encoding: Option<String>,
    /// How it sorts, when it is made.
    #[serde(default)]
    pub lc_collate: Option<String>,
    /// What it takes for a letter, when it is made.
    #[serde(default)]
    pub lc_ctype: Option<String>,
    /// Extensions, and whether each is there.
    #[serde(default)]
    pub extensions: BTreeMap<String, bool>,
    /// Roles, and which of [`PRIVILEGES`] each has.
    #[serde(default)]
    pub grants: BTreeMap<String, BTreeMap<String, bool>>,
}

/// What a role may do with a database.
pub const PRIVILEGES: [&str; 3] = ["CONNECT", "CREATE", "TEMPORARY"];

/// What a change of a database has to know.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct DatabaseSeen {
    /// What there is of what is managed.
    pub facts: Option<DatabaseFacts>,
    /// What is otherwise and cannot be changed: `encoding SQL_ASCII`.
    pub fixed: Vec<String>,
    /// Roles that it names and that are not there.
    pub missing: Vec<String>,
    /// Extensions that cannot be had.
    pub unknown: Vec<String>,
}

/// A setting of the server; without a value it is what the configuration files say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// What ALTER SYSTEM sets it to.
    pub value: Option<String>,
}

/// What a change of a setting has to know. Values are in the server's own words, so that `64MB` is `65536kB`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SettingSeen {
    /// What the server's files say: it is so after the next reload or restart at the latest.
    pub configured: String,
    /// What it is to be.
    pub wanted: Option<String>,
    /// What ALTER SYSTEM has set it to before.
    pub former: Option<String>,
    /// The server has not read its files since ALTER SYSTEM last wrote one.
    pub unread: bool,
    /// What it is now; `None` when the server does not run.
    pub live: Option<Live>,
    /// The unit that runs the server.
    pub unit: String,
}

/// A setting of a server that runs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Live {
    /// Its value, to be compared.
    pub setting: String,
    /// Its value, to be shown.
    pub shown: String,
    /// When it can be changed (pg_settings): `sighup`, `postmaster`, `internal`…
    pub context: String,
    /// It waits for a restart.
    pub pending_restart: bool,
}

impl Role {
    /// What is managed of it, in one line. The password is only compared.
    #[must_use]
    pub fn answer(&self, seen: Option<&RoleFacts>) -> String {
        let Some(seen) = seen else { return ABSENT.to_owned() };
        let Some(wanted) = &self.facts else { return PRESENT.to_owned() };
        let mut words: Vec<String> = Vec::new();
        for name in wanted.attributes.keys() {
            let is_on = seen.attributes.get(name).is_some_and(|on| *on);
            words.push(if is_on { name.clone() } else { format!("no{name}") });
        }
        if wanted.connection_limit.is_some() {
            words.push(format!("connection_limit={}", seen.connection_limit.unwrap_or(-1)));
        }
        if let Some(password) = &wanted.password {
            words.push(format!("password={}", compared(password, seen.password.as_ref())));
        }
        let settings = wanted.settings.keys().filter_map(|name| Some(format!("{name}={}", seen.settings.get(name)?.as_ref()?)));
        if !wanted.settings.is_empty() {
            words.push(list("settings", settings));
        }
        let groups = wanted.member_of.keys().filter(|name| seen.member_of.get(*name) == Some(&true)).cloned();
        if !wanted.member_of.is_empty() {
            words.push(list("member_of", groups));
        }
        line(&words)
    }
}

impl RoleFacts {
    /// The part that others manage too: all that is needed to take a change of theirs back.
    #[must_use]
    pub fn part(&self, managed: &Self) -> Self {
        let of = |name: &String| (name.clone(), self.settings.get(name).cloned().flatten());
        Self {
            attributes: self.attributes.iter().filter(|(name, _)| managed.attributes.contains_key(*name)).map(own).collect(),
            connection_limit: managed.connection_limit.and(self.connection_limit),
            password: managed.password.as_ref().and_then(|_| self.password.clone()),
            settings: managed.settings.keys().map(of).collect(),
            member_of: managed.member_of.keys().map(|name| (name.clone(), self.member_of.get(name) == Some(&true))).collect(),
        }
    }

    /// What is otherwise there, in words for the plan.
    #[must_use]
    pub fn differing(&self, there: &Self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        for (name, on) in self.attributes.iter().filter(|(name, on)| there.attributes.get(*name) != Some(*on)) {
            words.push(if *on { name.clone() } else { format!("no{name}") });
        }
        if self.connection_limit.is_some() && self.connection_limit != there.connection_limit {
            words.push("connection_limit".to_owned());
        }
        if self.password.is_some() && self.password != there.password {
            words.push("password".to_owned());
        }
        let is_set = |(name, value): &(&String, &Option<String>)| there.settings.get(*name) != Some(*value);
        words.extend(self.settings.iter().filter(is_set).map(|(name, _)| name.clone()));
        let is_member = |(name, is): &(&String, &bool)| there.member_of.get(*name) != Some(*is);
        words.extend(self.member_of.iter().filter(is_member).map(|(name, _)| format!("member of {name}")));
        words
    }
}

impl Database {
    /// What is managed of it, in one line.
    #[must_use]
    pub fn answer(&self, seen: Option<&DatabaseFacts>) -> String {
        let Some(seen) = seen else { return ABSENT.to_owned() };
        let Some(wanted) = &self.facts else { return PRESENT.to_owned() };
        let mut words: Vec<String> = Vec::new();
        if wanted.owner.is_some() {
            words.push(format!("owner={}", seen.owner.as_deref().unwrap_or_default()));
        }
        let extensions = wanted.extensions.keys().filter(|name| seen.extensions.get(*name) == Some(&true)).cloned();
        if !wanted.extensions.is_empty() {
            words.push(list("extensions", extensions));
        }
        let granted = |(role, privileges): (&String, &BTreeMap<String, bool>)| {
            let has = |privilege: &&String| seen.grants.get(role).and_then(|of| of.get(*privilege)) == Some(&true);
            let has: Vec<&str> = privileges.keys().filter(has).map(String::as_str).collect();
            (!has.is_empty()).then(|| format!("{role}: {}", has.join(" ")))
        };
        if !wanted.grants.is_empty() {
            words.push(list("grants", wanted.grants.iter().filter_map(granted)));
        }
        line(&words)
    }
}

impl DatabaseFacts {
    /// The part that others manage too.
    #[must_use]
    pub fn part(&self, managed: &Self) -> Self {
        let extension = |name: &String| (name.clone(), self.extensions.get(name) == Some(&true));
        let grant = |(role, privileges): (&String, &BTreeMap<String, bool>)| {
            let has = |name: &String| self.grants.get(role).and_then(|of| of.get(name)) == Some(&true);
            (role.clone(), privileges.keys().map(|name| (name.clone(), has(name))).collect())
        };
        Self {
            owner: managed.owner.as_ref().and_then(|_| self.owner.clone()),
            extensions: managed.extensions.keys().map(extension).collect(),
            grants: managed.grants.iter().map(grant).collect(),
            ..Self::default()
        }
    }

    /// What is otherwise there, in words for the plan.
    #[must_use]
    pub fn differing(&self, there: &Self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        if let Some(owner) = self.owner.as_ref().filter(|owner| there.owner.as_ref() != Some(owner)) {
            words.push(format!("owner {} → {owner}", there.owner.as_deref().unwrap_or_default()));
        }
        let is_other = |(name, is): &(&String, &bool)| there.extensions.get(*name) != Some(*is);
        words.extend(self.extensions.iter().filter(is_other).map(|(name, _)| format!("extension {name}")));
        let is_granted = |(role, privileges): &(&String, &BTreeMap<String, bool>)| there.grants.get(*role) != Some(*privileges);
        words.extend(self.grants.iter().filter(is_granted).map(|(role, _)| format!("grants to {role}")));
        words
    }

    /// The roles that it names.
    #[must_use]
    pub fn roles(&self) -> BTreeSet<&str> {
        self.owner.iter().chain(self.grants.keys()).map(String::as_str).collect()
    }
}

impl Setting {
    /// What its files say of it, in one line; quoted, since the end of a line is no part of an answer.
    #[must_use]
    pub fn answer(&self, seen: &SettingSeen) -> String {
        let said = match (&self.value, &seen.former) {
            (None, None) => ABSENT.to_owned(),
            _ => quoted(&seen.configured),
        };
        if seen.unread { format!("{said} (not read yet)") } else { said }
    }

    /// What that is to be.
    #[must_use]
    pub fn goal(&self, seen: &SettingSeen) -> String {
        seen.wanted.as_deref().map_or_else(|| ABSENT.to_owned(), quoted)
    }
}

/// The answer of something of which nothing but its being there is managed.
const PRESENT: &str = "present";

fn own((name, on): (&String, &bool)) -> (String, bool) {
    (name.clone(), *on)
}

fn compared(wanted: &Password, seen: Option<&Password>) -> &'static str {
    match (wanted, seen) {
        (_, None | Some(Password::None)) => "none",
        (wanted, Some(seen)) if wanted == seen => "as wanted",
        _ => "other",
    }
}

fn list(word: &str, items: impl Iterator<Item = String>) -> String {
    format!("{word}({})", items.collect::<Vec<_>>().join(", "))
}

fn line(words: &[String]) -> String {
    if words.is_empty() { PRESENT.to_owned() } else { crate::path::escape(&words.join(" ")) }
}

fn quoted(value: &str) -> String {
    format!("'{}'", crate::path::escape(value))
}

#[cfg(test)]
mod tests;
