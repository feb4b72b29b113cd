//! Databases of PostgreSQL: their owner, their extensions, who may do what. What is in them is nobody's business here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cluster::{Found, InCluster, Step, check_missing, check_name, look, reason};
use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec, State};
use crate::postgres::{Database, DatabaseFacts, DatabaseSeen, PRIVILEGES, Thing};

/// What a new database is encoded in: what the cluster's own encoding is depends on the locale that it was installed in.
const ENCODING: &str = "UTF8";
/// What every cluster needs.
const OWN: [&str; 3] = ["postgres", "template0", "template1"];

/// A database of the PostgreSQL cluster at port 5432. What is not named is not managed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PostgresDatabaseSpec {
    /// The database's name.
    pub name: String,
    /// The role that owns it, which alone may make tables in its schema `public`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Its encoding. Only a new database can be given one; it is UTF8 when this is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Its `lc_collate` and `lc_ctype`: `C.UTF-8`. Only a new database can be given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// How it sorts, where that is not its locale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lc_collate: Option<String>,
    /// What it takes for a letter, where that is not its locale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lc_ctype: Option<String>,
    /// Extensions that it has: `["pg_trgm"]`. Others stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// What roles may do with it: `{ reports = ["CONNECT"] }`; `CONNECT`, `CREATE` and `TEMPORARY`. What others may, they may
    /// still, and so may one that leaves the table (`REVOKE`). What a role may by way of another or of PUBLIC counts: everybody may connect to a new database.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grants: BTreeMap<String, Vec<String>>,
    /// `absent`: it is dropped, with all that is in it; only together with `drop_data = true`.
    #[serde(default)]
    pub state: State,
    /// Its data is not needed any more. Nothing brings it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drop_data: bool,
    /// What to do when the cluster no longer matches: `repair` (the default), `report` (told, and left until the next push), or `ignore`
    /// (somebody else sees to it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
}

impl Spec for PostgresDatabaseSpec {
    const KIND: &'static str = "postgres_database";
    const KEY: &'static str = "name";
    const PHASE: Phase = Phase::Databases;
    const ABOUT: &'static str = "A database of PostgreSQL. It is let go when it leaves the repository: `state = \"absent\"` with `drop_data = true` drops it with its data, once all else has succeeded.";
    const EXAMPLE: &'static str =
        "[[postgres_database]]\nname = \"myproject\"\nowner = \"postgres\"\nextensions = [\"pg_trgm\"]\n";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        let bad = |key, message: &str, help: &str| Err(Mistake { key, message: message.to_owned(), help: help.to_owned() });
        check_name("name", &self.name)?;
        self.owner.iter().try_for_each(|name| check_name("owner", name))?;
        self.extensions.iter().try_for_each(|name| check_name("extensions", name))?;
        self.grants.keys().try_for_each(|name| check_name("grants", name))?;
        if OWN.contains(&self.name.as_str()) {
            return bad("name", "this database is PostgreSQL's own", "choose another name");
        }
        if let Some(other) = self.grants.values().flatten().find(|privilege| !PRIVILEGES.contains(&privilege.as_str())) {
            let message = format!("`{}` is not a privilege on a database", crate::path::escape(other));
            return bad("grants", &message, "write CONNECT, CREATE or TEMPORARY; who owns a database may do everything with it");
        }
        match (self.state, self.drop_data) {
            (State::Absent, false) => {
                return bad("state", "all that is in this database would be lost", "add drop_data = true if that is meant");
            }
            (State::Present, true) => return bad("drop_data", "only an absent database loses its data", "drop `drop_data`"),
            _ => {}
        }
        let (name, drift) = (self.name.clone(), self.drift);
        let plain = Self { name, state: State::Absent, drop_data: true, drift, ..Self::default() };
        if self.state == State::Absent && *self != plain {
            return bad("state", "an absent database has nothing else", "drop the other keys, or `state`");
        }
        Ok(())
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let database = self.database();
        let Found { cluster, seen }: Found<DatabaseSeen> = look(&self.thing(), sight)?;
        check_missing(&seen.missing, (Self::KIND, &self.name), sight)?;
        let name = crate::path::escape(&self.name);
        if let Some(unknown) = seen.unknown.first() {
            return Err(KindError::NotYet(format!(
                "PostgreSQL has no extension `{}`: add the package that brings it, or correct its name",
                crate::path::escape(unknown)
            )));
        }
        if !seen.fixed.is_empty() {
            return Err(KindError::Impossible(format!(
                "the database `{name}` has {}, and only a new one can be given another: declare what it has, or dump it, drop it and restore it",
                crate::path::escape(&seen.fixed.join(" and "))
            )));
        }
        let (before, after) = (database.answer(seen.facts.as_ref()), database.answer(database.facts.as_ref()));
        let (mut new, mut back) =
            (database.clone(), Some(Database { facts: seen.facts.clone(), disconnect: true, ..database.clone() }));
        let differing = match (&mut new.facts, &seen.facts) {
            (Some(wanted), Some(there)) => wanted.differing(there),
            (Some(wanted), None) => {
                wanted.encoding.get_or_insert_with(|| ENCODING.to_owned());
                Vec::new()
            }
            (None, _) => {
                back = None;
                vec!["drop with all that is in it".to_owned()]
            }
        };
        let step = Step {
            cluster,
            target: format!("{}:{}", Self::KIND, self.name),
            reason: reason(&before, &differing),
            before,
            after,
            managed: Thing::Database(database),
            forward: Thing::Database(new),
            backward: back.map(Thing::Database),
        };
        Ok(vec![step.claim()])
    }
}

impl InCluster for PostgresDatabaseSpec {
    fn thing(&self) -> Thing {
        Thing::Database(self.database())
    }
}

impl PostgresDatabaseSpec {
    /// What is asked for.
    fn database(&self) -> Database {
        let facts = (self.state == State::Present).then(|| self.facts());
        Database { name: self.name.clone(), facts, disconnect: false }
    }

    fn facts(&self) -> DatabaseFacts {
        let has = |names: &[String]| names.iter().map(|name| (name.clone(), true)).collect();
        DatabaseFacts {
            owner: self.owner.clone(),
            encoding: self.encoding.clone(),
            lc_collate: self.lc_collate.clone().or_else(|| self.locale.clone()),
            lc_ctype: self.lc_ctype.clone().or_else(|| self.locale.clone()),
            extensions: has(&self.extensions),
            grants: self.grants.iter().map(|(role, privileges)| (role.clone(), has(privileges))).collect(),
        }
    }
}
