//! The fake host's PostgreSQL: what the worker would find and make. It stands in the tree, as on a real host; not while it is empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::jobs::exited;
use super::{Node, World};
use crate::host::Ran;
use crate::postgres::{
    Asked, Database, DatabaseFacts, DatabaseSeen, Live, Looked, Request, Role, RoleFacts, RoleSeen, Setting, SettingSeen, Thing,
};

/// Its name.
const CLUSTER: &str = "15/main";
/// Where the cluster is.
const PLACE: &str = "/var/lib/postgresql/data";
/// What its server reads when it starts.
pub(crate) const SETTINGS: &str = "/var/lib/postgresql/settings";

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) roles: BTreeMap<String, RoleFacts>,
    pub(crate) databases: BTreeMap<String, DatabaseFacts>,
    pub(crate) settings: BTreeMap<String, String>,
    /// What keeps each role from being dropped.
    pub(crate) holds: BTreeMap<String, Vec<String>>,
    /// Settings that only a restart changes, and those that wait for one.
    pub(crate) slow: BTreeMap<String, bool>,
}

impl Cluster {
    pub(crate) fn of(world: &World) -> Self {
        let mut cluster = match world.tree.get(PLACE) {
            Some(Node::File { content, .. }) => serde_json::from_slice(content).unwrap(),
            _ => Self::default(),
        };
        if let Some(Node::File { content, .. }) = world.tree.get(SETTINGS) {
            cluster.settings.extend(serde_json::from_slice::<BTreeMap<String, String>>(content).unwrap());
        }
        cluster
    }

    pub(crate) fn keep(mut self, world: &mut World) {
        let (slow, quick) = self.settings.into_iter().partition(|(name, _)| self.slow.contains_key(name));
        self.settings = quick;
        let mut keep = |place: &str, text: String, is_empty: bool| {
            world.tree.remove(place);
            if !is_empty {
                world.file(place, &text);
            }
        };
        keep(PLACE, serde_json::to_string(&self).unwrap(), self == Self::default());
        let slow: BTreeMap<String, String> = slow;
        keep(SETTINGS, serde_json::to_string(&slow).unwrap(), slow.is_empty());
    }

    fn role(&self, role: &Role) -> RoleSeen {
        let there = self.roles.get(&role.name);
        let facts = there.map(|there| role.facts.as_ref().map_or_else(|| there.clone(), |wanted| there.part(wanted)));
        let named = role.facts.iter().flat_map(|facts| facts.member_of.keys());
        RoleSeen {
            facts,
            holds: self.holds.get(&role.name).cloned().unwrap_or_default(),
            missing: self.missing(named.map(String::as_str)),
            salt: "07".repeat(crate::postgres::scram::SALT),
        }
    }

    fn missing<'a>(&self, named: impl Iterator<Item = &'a str>) -> Vec<String> {
        named.filter(|name| *name != "postgres" && !self.roles.contains_key(*name)).map(str::to_owned).collect()
    }

    fn database(&self, database: &Database) -> DatabaseSeen {
        let wanted = database.facts.clone().unwrap_or_default();
        let there = self.databases.get(&database.name);
        let is_fixed = |(wanted, there): (&Option<String>, &Option<String>)| wanted.is_some() && wanted != there;
        DatabaseSeen {
            facts: there.map(|there| there.part(&wanted)),
            fixed: there
                .filter(|there| is_fixed((&wanted.encoding, &there.encoding)))
                .map(|there| format!("encoding {}", there.encoding.as_deref().unwrap_or_default()))
                .into_iter()
                .collect(),
            missing: self.missing(wanted.roles().into_iter()),
            unknown: wanted.extensions.keys().filter(|name| *name == "no_such_thing").cloned().collect(),
        }
    }

    fn setting(&self, setting: &Setting) -> SettingSeen {
        let value = self.settings.get(&setting.name).cloned().unwrap_or_else(|| "4MB".to_owned());
        let slow = self.slow.get(&setting.name);
        SettingSeen {
            configured: value.clone(),
            wanted: setting.value.clone(),
            former: self.settings.get(&setting.name).cloned(),
            unread: false,
            live: Some(Live {
                setting: value.clone(),
                shown: value,
                context: if slow.is_some() { "postmaster" } else { "user" }.to_owned(),
                pending_restart: slow == Some(&true),
            }),
            unit: "postgresql@15-main.service".to_owned(),
        }
    }

    fn make(&mut self, thing: Thing) {
        match thing {
            Thing::Role(Role { name, facts: Some(made) }) => {
                let role = self.roles.entry(name).or_default();
                role.attributes.extend(made.attributes);
                role.settings.extend(made.settings);
                role.member_of.extend(made.member_of);
                role.settings.retain(|_, value| value.is_some());
                role.member_of.retain(|_, is| *is);
                role.connection_limit = made.connection_limit.or(role.connection_limit);
                role.password = made.password.or(role.password.take());
            }
            Thing::Role(Role { name, facts: None }) => drop(self.roles.remove(&name)),
            Thing::Database(Database { name, facts: Some(made), .. }) => {
                let database = self.databases.entry(name).or_insert_with(|| DatabaseFacts { owner: None, ..made.clone() });
                database.owner = made.owner.or(database.owner.take());
                database.extensions.extend(made.extensions);
                database.extensions.retain(|_, is| *is);
                database.grants.extend(made.grants);
            }
            Thing::Database(Database { name, facts: None, .. }) => drop(self.databases.remove(&name)),
            Thing::Setting(Setting { name, value: Some(value) }) => drop(self.settings.insert(name, value)),
            Thing::Setting(Setting { name, value: None }) => drop(self.settings.remove(&name)),
        }
    }
}

/// A look: it changes nothing.
pub(super) fn look(cluster: &Cluster, input: &[u8]) -> Ran {
    let Ok(Asked { request: Request::Look(things), .. }) = serde_json::from_slice(input) else {
        return exited(2, Vec::new(), "only a look");
    };
    let see = |thing: &Thing| match thing {
        Thing::Role(role) => serde_json::to_value(cluster.role(role)),
        Thing::Database(database) => serde_json::to_value(cluster.database(database)),
        Thing::Setting(setting) => serde_json::to_value(cluster.setting(setting)),
    };
    let seen = things.iter().map(|thing| Ok(see(thing).unwrap())).collect();
    exited(0, serde_json::to_vec(&Looked { cluster: CLUSTER.to_owned(), seen }).unwrap(), "")
}

/// A question, or what is to be done.
pub(super) fn meet(cluster: &mut Cluster, input: &[u8]) -> Ran {
    let request = match serde_json::from_slice(input) {
        Ok(Asked { cluster: Some(cluster), request }) if cluster == CLUSTER => request,
        _ => return exited(2, Vec::new(), "no such cluster"),
    };
    let answer = match request {
        Request::Ask(Thing::Role(role)) => role.answer(cluster.role(&role).facts.as_ref()),
        Request::Ask(Thing::Database(database)) => database.answer(cluster.database(&database).facts.as_ref()),
        Request::Ask(Thing::Setting(setting)) => setting.answer(&cluster.setting(&setting)),
        Request::Make(thing) | Request::Undo(thing) => {
            cluster.make(thing);
            String::new()
        }
        Request::Look(_) => return exited(2, Vec::new(), "no such request"),
    };
    exited(0, format!("{answer}\n").into_bytes(), "")
}
