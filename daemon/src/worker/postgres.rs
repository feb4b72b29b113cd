//! The PostgreSQL worker, `reconciled worker postgres`: looks into the cluster of Debian's packages and changes it, as the user `postgres`.
//! It reads one request and prints one line; what it is given, and what stands in its scripts, may be secret and is never repeated.

mod cluster;
mod setting;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use self::cluster::Cluster;
use crate::postgres::{Asked, Database, DatabaseSeen, Looked, MARGIN, Request, Role, RoleSeen, SettingSeen, Thing, sql};

/// Longest request, in bytes.
const LIMIT: u64 = 1 << 20;
/// How often, and how long apart, it is looked whether the server has done what it does by itself.
const LOOKS: (u32, Duration) = (100, Duration::from_millis(50));
/// Where what belongs to no database in particular is asked.
const COMMON: &str = "postgres";

/// Why a request was not met.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("there is no PostgreSQL cluster on this host: pg_createcluster(1) makes one")]
    NoCluster,
    #[error("{0}")]
    Said(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The verb's body.
#[must_use]
pub fn main() -> ExitCode {
    let fault = match meet() {
        Ok(line) => {
            println!("{line}");
            return ExitCode::SUCCESS;
        }
        Err(fault) => fault,
    };
    eprintln!("{fault}");
    match fault {
        Fault::NoCluster => ExitCode::from(crate::postgres::NO_CLUSTER),
        Fault::Said(_) | Fault::Io(_) => ExitCode::FAILURE,
    }
}

fn meet() -> Result<String, Fault> {
    let mut input = Vec::new();
    io::stdin().lock().take(LIMIT).read_to_end(&mut input)?;
    // What is wrong with it is not said: an error of the parser quotes.
    let Asked { cluster, request } =
        serde_json::from_slice(&input).map_err(|_| Fault::Said("a request that this version does not know".to_owned()))?;
    let mut cluster = Cluster::find(cluster.as_deref())?;
    cluster.limit = request.limit().saturating_sub(MARGIN);
    if matches!(request, Request::Ask(_) | Request::Undo(_)) {
        cluster.end_left_over()?;
    }
    match request {
        Request::Look(things) => look(&mut cluster, &things),
        Request::Ask(thing) => ask(&cluster, &thing),
        Request::Make(thing) => make(&cluster, &thing).map(|()| String::new()),
        Request::Undo(thing) => undo(&cluster, &thing),
    }
}

/// Looks at each; what there is no time for is answered so, that a server that hangs at one hides no other that was seen.
fn look(cluster: &mut Cluster, things: &[Thing]) -> Result<String, Fault> {
    cluster.end = Some(Instant::now() + cluster.limit);
    let see = |thing: &Thing| match thing {
        Thing::Role(role) => see_role(cluster, role).and_then(value),
        Thing::Database(database) => see_database(cluster, database).and_then(value),
        Thing::Setting(setting) => setting::see(cluster, setting).and_then(value),
    };
    let seen = things.iter().map(|thing| see(thing).map_err(|fault| fault.to_string())).collect();
    value(Looked { cluster: cluster.to_string(), seen }).map(|looked| looked.to_string())
}

fn ask(cluster: &Cluster, thing: &Thing) -> Result<String, Fault> {
    Ok(match thing {
        Thing::Role(role) => role.answer(see_role(cluster, role)?.facts.as_ref()),
        Thing::Database(database) => database.answer(see_database(cluster, database)?.facts.as_ref()),
        Thing::Setting(setting) => {
            let seen: SettingSeen = setting::see(cluster, setting)?;
            setting.answer(&seen)
        }
    })
}

fn make(cluster: &Cluster, thing: &Thing) -> Result<(), Fault> {
    match thing {
        Thing::Role(role) => cluster.psql(COMMON, &sql::make_role(role)).map(drop),
        Thing::Database(database) => {
            cluster.psql(COMMON, &sql::make_database(database))?;
            match database.facts.as_ref().map(sql::make_extensions) {
                Some(extensions) if !extensions.is_empty() => cluster.psql(&database.name, &extensions).map(drop),
                _ => Ok(()),
            }
        }
        Thing::Setting(setting) => setting::make(cluster, setting),
    }
}

/// Takes it back; what stays of it, in words.
fn undo(cluster: &Cluster, thing: &Thing) -> Result<String, Fault> {
    match thing {
        Thing::Role(role) => {
            cluster.psql(COMMON, &sql::undo_role(role))?;
            let seen: RoleSeen = cluster.query(COMMON, &sql::look_at_role(role))?;
            let stays = role.facts.is_none() && seen.facts.is_some();
            let name = crate::path::escape(&role.name);
            let holds = crate::path::escape(&seen.holds.join(", "));
            Ok(if stays {
                format!("the role {name} stays without its login, since {holds} depends on it")
            } else {
                String::new()
            })
        }
        Thing::Database(database @ Database { name, facts: Some(facts), .. }) if !facts.extensions.is_empty() => {
            cluster.psql(COMMON, &sql::make_database(database))?;
            cluster.psql(name, &sql::undo_extensions(facts))?;
            let mut left: BTreeMap<String, bool> = cluster.query(name, &sql::extensions(false))?;
            left.retain(|extension, _| facts.extensions.contains_key(extension));
            let left = left.into_keys().collect::<Vec<_>>().join(", ");
            let stays = || format!("the extension {} stays, since something depends on it", crate::path::escape(&left));
            Ok(if left.is_empty() { left.clone() } else { stays() })
        }
        Thing::Database(_) | Thing::Setting(_) => make(cluster, thing).map(|()| String::new()),
    }
}

fn see_role(cluster: &Cluster, role: &Role) -> Result<RoleSeen, Fault> {
    let mut seen: RoleSeen = cluster.query(COMMON, &sql::look_at_role(role))?;
    let mut salt = [0_u8; crate::postgres::scram::SALT];
    rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty()).map_err(io::Error::from)?;
    seen.salt = salt.iter().map(|byte| format!("{byte:02x}")).collect();
    if let (Some(facts), Some(wanted)) = (&mut seen.facts, &role.facts) {
        *facts = facts.part(wanted);
        let set = |name: &String| facts.settings.get(name).cloned().flatten();
        let settings: Vec<(String, String, String)> = wanted
            .settings
            .iter()
            .filter_map(|(name, value)| {
                let value = value.clone()?;
                Some((name.clone(), set(name).unwrap_or_else(|| value.clone()), value))
            })
            .collect();
        let same = alike(cluster, &settings)?;
        for ((name, _, value), _) in settings.into_iter().zip(same).filter(|(_, same)| *same) {
            facts.settings.entry(name).and_modify(|set| *set = set.is_some().then_some(value));
        }
    } else if let (None, Some(wanted)) = (&seen.facts, &role.facts) {
        // Only to hear of values that cannot be, before anything is touched.
        let wanted = wanted.settings.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        alike(cluster, &wanted.map(|(name, value)| (name, value.clone(), value)).collect::<Vec<_>>())?;
    }
    Ok(seen)
}

/// Of each of these settings whether both values mean the same to the server, which also says which mean nothing.
fn alike(cluster: &Cluster, settings: &[(String, String, String)]) -> Result<Vec<bool>, Fault> {
    if settings.is_empty() {
        return Ok(Vec::new());
    }
    let settings: Vec<_> = settings.iter().map(|(name, a, b)| (name.as_str(), a.as_str(), b.as_str())).collect();
    let said = cluster.psql(COMMON, &sql::normal(&settings))?;
    let pairs = said.lines().map(serde_json::from_str::<(String, String)>).zip(settings);
    let same = |name, one, other| sql::canonical(name, one) == sql::canonical(name, other);
    pairs.map(|(pair, (name, ..))| pair.map(|(one, other)| same(name, one, other)).map_err(|error| unreadable(&error))).collect()
}

fn see_database(cluster: &Cluster, database: &Database) -> Result<DatabaseSeen, Fault> {
    let mut seen: DatabaseSeen = cluster.query(COMMON, &sql::look_at_database(database))?;
    if let (Some(facts), Some(wanted)) = (&mut seen.facts, &database.facts) {
        if !wanted.extensions.is_empty() {
            facts.extensions = cluster.query(&database.name, &sql::extensions(true))?;
        }
        *facts = facts.part(wanted);
    }
    Ok(seen)
}

fn value(seen: impl Serialize) -> Result<Value, Fault> {
    serde_json::to_value(seen).map_err(|error| unreadable(&error))
}

/// The values themselves are not repeated.
fn unreadable(error: &serde_json::Error) -> Fault {
    Fault::Said(format!("psql answered something unexpected ({:?} error)", error.classify()))
}
