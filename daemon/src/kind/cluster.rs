//! What the kinds of things in a PostgreSQL cluster need: a look through the worker, and a change that it makes. No kind.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Claim, KindError, Mistake, PostgresDatabaseSpec, PostgresRoleSpec, PostgresSettingSpec, Sight, Spec};
use crate::change::{ABSENT, Call, Change, Run};
use crate::digest::Digest;
use crate::host::{Job, Sandbox, Surroundings};
use crate::manifest::Resource;
use crate::path::ManagedPath;
use crate::postgres::{Asked, LOOK, Looked, MAKE, NO_CLUSTER, Request, Thing, USER};
use crate::worker::PROGRAM;

/// Most that an answer may say, in bytes.
const OUTPUT: usize = 1 << 20;
/// A program of every host that has clusters.
const TOOL: &str = "/usr/bin/pg_lsclusters";
/// Longest name that the server keeps whole, in bytes (`NAMEDATALEN`).
const LONGEST: usize = 63;

/// A change of something in the cluster.
pub(super) struct Step {
    pub(super) target: String,
    /// The cluster that it was planned for.
    pub(super) cluster: String,
    pub(super) before: String,
    pub(super) after: String,
    /// What is asked for.
    pub(super) managed: Thing,
    /// What it becomes: that, and what only a new one needs.
    pub(super) forward: Thing,
    /// What it was; nothing where that does not come back.
    pub(super) backward: Option<Thing>,
    pub(super) reason: String,
}

impl Step {
    /// The claim: all calls are of the worker, which reads what it is to do.
    pub(super) fn claim(self) -> Claim {
        let mut inputs = std::collections::BTreeMap::new();
        let cluster = Some(self.cluster);
        let mut call = |request: Request, limit| {
            let input = bytes(&Asked { cluster: cluster.clone(), request });
            let digest = Digest::of(&input);
            inputs.insert(digest, input);
            Call { user: Some(USER.to_owned()), ..Call::new(&[PROGRAM, "worker", "postgres"], limit).reading(digest) }
        };
        let ask = call(Request::Ask(self.managed), LOOK);
        let run = Run::new(self.target, ask, (Some(self.before), self.after), call(Request::Make(self.forward), MAKE));
        let run = Run { backward: self.backward.map(|thing| call(Request::Undo(thing), MAKE)), ..run };
        let mut claim = Claim::new(Change::Run(Box::new(run)), self.reason);
        if !claim.change.is_noop() {
            claim.inputs = inputs;
        }
        claim
    }
}

/// What there is in a cluster.
pub(super) struct Found<T> {
    /// Which one was looked at.
    pub(super) cluster: String,
    /// What there is of a thing.
    pub(super) seen: T,
}

/// A kind of things in a cluster.
pub(super) trait InCluster: Spec {
    /// What is asked for to see what has to change.
    fn thing(&self) -> Thing;
}

/// What there is of all that is declared; or what is wrong, and what that means for a declaration.
pub struct Seen(Result<InIt, Failure>);

/// What is wrong, after what it means.
type Failure = (fn(String) -> KindError, String);

/// A cluster, and what there is of each thing in it or why that cannot be told.
type InIt = (String, Vec<(Thing, Result<Value, String>)>);

/// Not what there is: a verifier of a password may be in it.
impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seen")
    }
}

/// What the worker sees of one of the things that are declared, and in which cluster. It looks at all of them once, for whoever asks first.
pub(super) fn look<T: DeserializeOwned>(thing: &Thing, sight: &Sight<'_>) -> Result<Found<T>, KindError> {
    let unexpected = || KindError::Impossible("the look at PostgreSQL was answered with something unexpected".to_owned());
    let Seen(all) = match sight.postgres.get() {
        Some(all) => all,
        None => {
            let all = match look_at_all(sight) {
                Ok(all) => Ok(all.ok_or_else(unexpected)?),
                // A server that answers nobody is waited for once.
                Err(KindError::NotYet(why)) => Err((KindError::NotYet as fn(String) -> _, why)),
                Err(KindError::Impossible(why)) => Err((KindError::Impossible as fn(String) -> _, why)),
                Err(error @ KindError::Host(_)) => return Err(error),
            };
            sight.postgres.get_or_init(|| Seen(all))
        }
    };
    let (cluster, things) = all.as_ref().map_err(|(error, why)| error(why.clone()))?;
    let (_, seen) = things.iter().find(|(of, _)| of == thing).ok_or_else(unexpected)?;
    let seen = seen.as_ref().map_err(|why| KindError::Impossible(crate::path::escape(why)))?;
    Ok(Found { cluster: cluster.clone(), seen: T::deserialize(seen).map_err(|_| unexpected())? })
}

fn look_at_all(sight: &Sight<'_>) -> Result<Option<InIt>, KindError> {
    let things: Vec<Thing> = sight.resources.iter().filter_map(thing_of).collect();
    let looked = ask(&things, sight)?;
    Ok(looked.map(|Looked { cluster, seen }| (cluster, things.into_iter().zip(seen).collect())))
}

fn thing_of(resource: &Resource) -> Option<Thing> {
    fn of<S: InCluster>(resource: &Resource) -> Option<Thing> {
        (resource.kind == S::KIND).then(|| S::deserialize(&resource.spec).ok()).flatten().map(|spec| spec.thing())
    }
    of::<PostgresRoleSpec>(resource)
        .or_else(|| of::<PostgresDatabaseSpec>(resource))
        .or_else(|| of::<PostgresSettingSpec>(resource))
}

/// What the worker answers; nothing where that makes no sense.
fn ask(things: &[Thing], sight: &Sight<'_>) -> Result<Option<Looked>, KindError> {
    let not_yet =
        || KindError::NotYet("there is no PostgreSQL cluster on this host: packages = [\"postgresql\"] brings one".to_owned());
    let tool = ManagedPath::new(TOOL).map_err(KindError::Impossible)?;
    let is_there = sight.host.object(&tool)?.names > 0;
    if !is_there || !sight.host.accounts()?.iter().any(|account| account.name == USER) {
        return Err(not_yet());
    }
    let job = Job {
        purpose: "look",
        argv: [PROGRAM, "worker", "postgres"].map(str::to_owned).to_vec(),
        input: bytes(&Asked { cluster: None, request: Request::Look(things.to_vec()) }),
        sandbox: Sandbox::Live { user: Some(USER.to_owned()), surroundings: Surroundings::default() },
        limit: LOOK,
        output_limit: OUTPUT,
        keeps_tail: false,
    };
    let ran = sight.host.run(&job, &mut |_| true)?;
    let said = String::from_utf8_lossy(&ran.stderr);
    let said = said.lines().last().map_or_else(|| format!("the look at PostgreSQL ended by {}", ran.result), crate::path::escape);
    match ran.code {
        Some(0) if ran.ok() => {
            Ok(serde_json::from_slice(&ran.stdout).ok().filter(|looked: &Looked| looked.seen.len() == things.len()))
        }
        Some(code) if code == i32::from(NO_CLUSTER) => Err(not_yet()),
        _ => Err(KindError::Impossible(said)),
    }
}

/// A request as the worker reads it.
fn bytes(request: &Asked) -> Vec<u8> {
    // Names and texts alone: nothing that JSON cannot say.
    serde_json::to_vec(request).unwrap_or_default()
}

/// Refuses names that the server would cut, or take for another's.
pub(super) fn check_name(key: &'static str, name: &str) -> Result<(), Mistake> {
    let is_bad = name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control);
    if is_bad {
        let message = format!("`{}` is not a name in PostgreSQL", crate::path::escape(name));
        return Err(Mistake { key, message, help: format!("write 1 to {LONGEST} bytes without control characters") });
    }
    if name.starts_with("pg_") && key == "name" {
        let message = "names that begin with `pg_` are PostgreSQL's own".to_owned();
        return Err(Mistake { key, message, help: "choose another name".to_owned() });
    }
    Ok(())
}

/// Whether this is the name of a setting, or of one of an extension: `work_mem`, `plpgsql.extra_errors`.
pub(super) fn is_setting(name: &str) -> bool {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    name.len() <= LONGEST && name.split('.').all(is_word)
}

/// Roles that are not there have to be declared, above who names them: they are made in this order.
pub(super) fn check_missing(missing: &[String], own: (&str, &str), sight: &Sight<'_>) -> Result<(), KindError> {
    let place = |kind: &str, name: &str| sight.resources.iter().position(|r| r.kind == kind && r.name == name);
    let is_made = |resource: &Resource| resource.spec.get("state").and_then(|state| state.as_str()) != Some("absent");
    for name in missing {
        let shown = crate::path::escape(name);
        let declared = sight.resources.iter().any(|r| r.kind == ROLE && r.name == *name && is_made(r));
        if !declared {
            return Err(KindError::Impossible(format!(
                "the role `{shown}` is neither in PostgreSQL nor declared: add a [[{ROLE}]] named so, or correct it"
            )));
        }
        if own.0 == ROLE && place(ROLE, name) > place(ROLE, own.1) {
            return Err(KindError::Impossible(format!("the role `{shown}` is made after this one: declare it above")));
        }
    }
    Ok(())
}

/// The kind of roles.
pub(super) const ROLE: &str = "postgres_role";

/// Why a step is made, of what differs.
pub(super) fn reason(before: &str, differing: &[String]) -> String {
    match before {
        ABSENT => "new".to_owned(),
        _ => differing.join(", "),
    }
}
