//! The open set of resource kinds: the `Spec` trait that a kind implements, its adapter, and the KINDS table. A new kind
//! is one file below `kind/` and one row here. No kind-specific word lives in this file.

mod cluster;
mod command;
mod directory;
mod file;
mod group;
mod link;
mod package;
mod place;
mod postgres_database;
mod postgres_role;
mod postgres_setting;
mod ufw;
mod unit;
mod user;
mod venv;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::change::{Call, Change, Object, Run};
use crate::digest::Digest;
use crate::host::{HostError, HostResult, Job, LOOK, Look};
use crate::manifest::Resource;
use crate::path::ManagedPath;
use crate::units::definition::Definition;
use crate::worker::PROGRAM;

pub use command::{CommandSpec, Word};
pub use directory::DirectorySpec;
pub use file::{FileSpec, LinksPolicy};
pub use group::GroupSpec;
pub use link::LinkSpec;
pub use package::PackageSpec;
pub use place::State;
pub use postgres_database::PostgresDatabaseSpec;
pub use postgres_role::{PasswordSpec, PostgresRoleSpec};
pub use postgres_setting::PostgresSettingSpec;
pub use ufw::UfwSpec;
pub use unit::{OnChange, UnitSpec};
pub use user::{Password, UserSpec};
pub use venv::VenvSpec;

/// The order of a plan: what comes first is there for what comes later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Packages: they bring programs, accounts, files and units.
    Packages,
    /// Users and groups.
    Accounts,
    /// Directories, files and links.
    #[default]
    Files,
    /// Databases, their roles and settings.
    Databases,
    /// What programs run in, as a virtual environment.
    Environments,
    /// Commands of the applications.
    Commands,
    /// Units.
    Units,
    /// Who may reach what runs by then.
    Firewall,
}

impl Phase {
    /// Whether it has to be over before the rest can be seen as it is: what it brings is a part of the host.
    #[must_use]
    pub fn is_foundation(self) -> bool {
        matches!(self, Self::Packages | Self::Accounts)
    }
}

/// What becomes of a resource that the host no longer matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Drift {
    /// It is brought back.
    #[default]
    Repair,
    /// It is on record and in the status, and stays until the next push.
    Report,
    /// It stays, also when something else is pushed: somebody else keeps it.
    Ignore,
}

impl Drift {
    /// As a resource declares it.
    #[must_use]
    pub fn of(resource: &Resource) -> Self {
        resource.spec.get("drift").and_then(|value| Self::deserialize(value).ok()).unwrap_or_default()
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A change with its reason, as a kind proposes it. One that changes nothing still claims its target: the ledger learns
/// from it what stood there before us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The change.
    pub change: Change,
    /// Why, in a few words for the plan: `content`, `mode 0644 → 0640`, `new`.
    pub reason: String,
    /// Only needed for another claim of the same resource, as the directory of a file is: one that is declared goes before.
    pub implied: bool,
    /// What its calls read, by digest.
    pub inputs: BTreeMap<Digest, Vec<u8>>,
    /// It follows files that the same plan changes: its declaration is not all that it depends on.
    pub follows: bool,
    /// It is carried out and not kept: nothing is given back when the resource leaves.
    pub passing: bool,
    /// A unit that has to start anew before it takes effect, and why: it need not be what the change is about.
    pub restart: Option<(String, String)>,
    /// It has been made sure that it leaves the host within reach: also of what the host is reached by nobody has to confirm it.
    pub within_reach: bool,
}

impl Claim {
    /// A claim of the resource's own.
    #[must_use]
    pub fn new(change: Change, reason: impl Into<String>) -> Self {
        Self {
            change,
            reason: reason.into(),
            implied: false,
            inputs: BTreeMap::new(),
            follows: false,
            passing: false,
            restart: None,
            within_reach: false,
        }
    }

    /// A claim that a worker of ours carries out, as root: its verbs `ask`, `set` and `undo` read the same request.
    fn by_worker(worker: &str, target: String, request: &impl Serialize, answers: (String, String), limit: Duration) -> Self {
        const ASK: Duration = Duration::from_secs(30);
        let input = serde_json::to_vec(request).unwrap_or_default();
        let digest = Digest::of(&input);
        let call = |verb: &str, limit| Call::new(&[PROGRAM, "worker", worker, verb], limit).reading(digest);
        let run = Run::new(target, call("ask", ASK), (Some(answers.0), answers.1), call("set", limit));
        let run = Run { backward: Some(call("undo", limit)), ..run };
        let mut claim = Self::new(Change::Run(Box::new(run)), "");
        if !claim.change.is_noop() {
            claim.inputs.insert(digest, input);
        }
        claim
    }
}

/// Why a declaration cannot be planned on this host.
#[derive(Debug, thiserror::Error)]
pub enum KindError {
    /// The host could not be read, or is unfit.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The declaration asks for what this host cannot give; the sentence ends in the remedy.
    #[error("{0}")]
    Impossible(String),
    /// The same, of what a package or an account that is still to come may bring.
    #[error("{0}")]
    NotYet(String),
}

/// A mistake in a declaration that its types do not rule out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Which key.
    pub key: &'static str,
    /// What is wrong, one clause.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// A secret of the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// Its name.
    pub secret: String,
}

/// What a kind may see while it looks.
pub struct Sight<'a> {
    /// The host.
    pub host: &'a dyn Look,
    /// The repository's secrets, open, by name.
    pub secrets: &'a BTreeMap<String, Vec<u8>>,
    /// All that is declared: what one resource names of another.
    pub resources: &'a [Resource],
    /// What the live generation declares.
    pub former: &'a [Resource],
    /// What the same plan claims of earlier phases, also where nothing has to change; and files that leave the repository.
    pub earlier: &'a [&'a Change],
    /// Contents of the files that these bring, by digest.
    pub contents: &'a dyn Fn(&Digest) -> HostResult<Vec<u8>>,
    /// What the files of a unit will say once all of it is done.
    pub definition: &'a dyn Fn(&str) -> Definition,
    /// Whether code of the candidate may run while it is looked at; not for a key that may only preview.
    pub may_run: bool,
    /// What there is in PostgreSQL, once somebody has asked.
    pub postgres: OnceCell<cluster::Seen>,
}

impl<'a> Sight<'a> {
    /// A secret of the repository.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn secret(&self, name: &str) -> Result<&'a [u8], KindError> {
        let secret = self.secrets.get(name).map(Vec::as_slice);
        secret.ok_or_else(|| KindError::Impossible(crate::secrets::missing(name)))
    }
}

impl Sight<'_> {
    /// Asks a question of the host as it is, in a process of its own.
    ///
    /// # Errors
    /// When it cannot be asked, or does not answer.
    pub fn ask(&self, target: &str, call: &Call, input: &[u8]) -> Result<String, KindError> {
        let ran = self.host.run(&Job::of(call, LOOK, std::iter::empty(), input.to_owned()), &mut |_| true)?;
        let answer = ran.answers(call, 1).and_then(|answers| answers.into_iter().next());
        answer.ok_or_else(|| {
            let said = self.conceal(&ran.last_words());
            KindError::Impossible(format!("{target}: what is there cannot be told: {said}"))
        })
    }

    /// What a program says may repeat what it has read.
    fn conceal(&self, said: &str) -> String {
        let mut secrets = crate::secrets::of(self.secrets);
        for change in self.earlier {
            let Change::Entry { path, after: Object::File(facts), secret: true, .. } = change else { continue };
            if let Ok(content) = (self.contents)(&facts.digest) {
                secrets.add_file(path, &content, &BTreeSet::new());
            }
        }
        secrets.conceal(said)
    }

    /// Whether something that comes before in the same plan changes a path, or something below it.
    #[must_use]
    pub fn changes_below(&self, path: &ManagedPath) -> bool {
        self.earlier.iter().filter(|change| !change.is_noop()).any(|change| match change {
            Change::Run(run) => run.makes.iter().any(|made| made.is_below(path) || path.is_below(made)),
            change => change.path().is_some_and(|changed| changed.is_below(path)),
        })
    }
}

impl fmt::Debug for Sight<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sight")
    }
}

/// A kind of resource: how it is declared and what changes bring it about.
pub trait Spec: Serialize + DeserializeOwned + Schema + 'static {
    /// Its word in the manifest (`[[unit]]`).
    const KIND: &'static str;
    /// The key of its short form (`units = […]`), whose strings are tables with only a name.
    const SHORT: Option<&'static str> = None;
    /// The key that names one of it; empty where a host has one alone, and its table is `[kind]`.
    const KEY: &'static str;
    /// When its changes are made.
    const PHASE: Phase;
    /// One line for the reference.
    const ABOUT: &'static str;
    /// A table as a user would write it: shown in the reference, checked by tests.
    const EXAMPLE: &'static str;

    /// Which one this is.
    fn name(&self) -> String;

    /// Mistakes that the types do not rule out.
    ///
    /// # Errors
    /// The first mistake.
    fn check(&self) -> Result<(), Mistake>;

    /// Reads the host and says what would have to change; targets that are right already are claimed with a change that
    /// changes nothing.
    ///
    /// # Errors
    /// When the host cannot be read, or cannot give what is asked.
    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError>;
}

/// The JSON Schema of a declaration, where the generator asks for it.
#[cfg(feature = "schema")]
pub trait Schema: schemars::JsonSchema {}
#[cfg(feature = "schema")]
impl<T: schemars::JsonSchema> Schema for T {}
/// The JSON Schema of a declaration, where the generator asks for it.
#[cfg(not(feature = "schema"))]
pub trait Schema {}
#[cfg(not(feature = "schema"))]
impl<T> Schema for T {}

/// A row of the table: a kind without its type.
pub trait Kind: Sync {
    /// See [`Spec::KIND`].
    fn kind(&self) -> &'static str;
    /// See [`Spec::SHORT`].
    fn short(&self) -> Option<&'static str>;
    /// See [`Spec::KEY`].
    fn key(&self) -> &'static str;
    /// Whether a host has one alone, which needs no name.
    fn is_single(&self) -> bool {
        self.key().is_empty()
    }
    /// Its table in the manifest, as it is written: `[[unit]]`.
    fn header(&self) -> String {
        if self.is_single() { format!("[{}]", self.kind()) } else { format!("[[{}]]", self.kind()) }
    }
    /// See [`Spec::PHASE`].
    fn phase(&self) -> Phase;
    /// See [`Spec::ABOUT`].
    fn about(&self) -> &'static str;
    /// See [`Spec::EXAMPLE`].
    fn example(&self) -> &'static str;
    /// Reads one table of the manifest: its name and its complete declaration.
    ///
    /// # Errors
    /// TOML's own, with a byte span in the document, or a mistake.
    fn declare(&self, table: toml::de::ValueDeserializer<'_>) -> Result<(String, Value), Undeclared>;
    /// See [`Spec::claims`].
    ///
    /// # Errors
    /// See [`Spec::claims`].
    fn claims(&self, resource: &Resource, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError>;
    /// The JSON Schema of one table.
    #[cfg(feature = "schema")]
    fn schema(&self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema;
}

/// Why a table is no declaration.
#[derive(Debug)]
pub enum Undeclared {
    /// Wrong keys or types.
    Toml(Box<toml::de::Error>),
    /// Right types, wrong meaning.
    Mistake(Mistake),
}

struct Row<S>(PhantomData<fn() -> S>);

impl<S: Spec> Kind for Row<S> {
    fn kind(&self) -> &'static str {
        S::KIND
    }
    fn short(&self) -> Option<&'static str> {
        S::SHORT
    }
    fn key(&self) -> &'static str {
        S::KEY
    }
    fn phase(&self) -> Phase {
        S::PHASE
    }
    fn about(&self) -> &'static str {
        S::ABOUT
    }
    fn example(&self) -> &'static str {
        S::EXAMPLE
    }
    fn declare(&self, table: toml::de::ValueDeserializer<'_>) -> Result<(String, Value), Undeclared> {
        let spec = S::deserialize(table).map_err(|e| Undeclared::Toml(Box::new(e)))?;
        spec.check().map_err(Undeclared::Mistake)?;
        let value = serde_json::to_value(&spec).map_err(|e| {
            Undeclared::Mistake(Mistake { key: S::KEY, message: e.to_string(), help: "report this as a bug".to_owned() })
        })?;
        Ok((spec.name(), value))
    }
    fn claims(&self, resource: &Resource, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let spec = S::deserialize(&resource.spec).map_err(|e| {
            KindError::Impossible(format!("the stored declaration of {}:{} cannot be read: {e}", S::KIND, resource.name))
        })?;
        spec.claims(sight)
    }
    #[cfg(feature = "schema")]
    fn schema(&self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        S::json_schema(generator)
    }
}

/// All kinds. The order is that of the reference, and within a phase that of a plan.
pub static KINDS: [&dyn Kind; 13] = [
    &Row::<PackageSpec>(PhantomData),
    &Row::<GroupSpec>(PhantomData),
    &Row::<UserSpec>(PhantomData),
    &Row::<FileSpec>(PhantomData),
    &Row::<DirectorySpec>(PhantomData),
    &Row::<LinkSpec>(PhantomData),
    &Row::<PostgresRoleSpec>(PhantomData),
    &Row::<PostgresDatabaseSpec>(PhantomData),
    &Row::<PostgresSettingSpec>(PhantomData),
    &Row::<VenvSpec>(PhantomData),
    &Row::<CommandSpec>(PhantomData),
    &Row::<UnitSpec>(PhantomData),
    &Row::<UfwSpec>(PhantomData),
];

/// The row of a kind.
#[must_use]
pub fn find(kind: &str) -> Option<&'static dyn Kind> {
    KINDS.iter().find(|row| row.kind() == kind).copied()
}

/// Its place in the table.
#[must_use]
pub fn rank(kind: &str) -> usize {
    KINDS.iter().position(|row| row.kind() == kind).unwrap_or(KINDS.len())
}

#[cfg(test)]
mod tests;
