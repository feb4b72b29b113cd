//! Commands of the applications: migrations, static files, a first user. What no other kind can say.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::place::{managed, owner_of};
use super::user::is_present;
use super::{Claim, Drift, KindError, Mistake, Phase, Sealed, Sight, Spec, UserSpec};
use crate::change::{Call, Change, DONE, Object, Run, TO_DO};
use crate::digest::Digest;
use crate::host::HostError;
use crate::path::ManagedPath;
use crate::timespan::TimeSpan;
use crate::units::surroundings::{self, Surroundings};
use crate::worker::command::Request;
use crate::worker::{PROGRAM, dump};

/// How long one may take that does not say.
const TIMEOUT: TimeSpan = TimeSpan(Duration::from_secs(10 * 60));
/// How long a dump may take.
const DUMP: Duration = Duration::from_secs(30 * 60);
/// How long a question may take: a plan waits for it.
const ASK: Duration = Duration::from_secs(60);
/// Where programs are looked for (`DEFAULT_PATH` of systemd.exec(5)).
const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Variables that the manager gives every service (systemd.exec(5), "Environment Variables Set or Propagated by the Service Manager").
const SET_BY_MANAGER: [&str; 6] = ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"];

/// A command of an application: `ask` says whether it is done, `forward` does it, `backward` takes it back. Without `ask` it runs once, and
/// again when its table changes or a path that it watches does. Commands run in the order in which they are declared, when files and
/// environments are in place and before units start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// What it is called: `migrate`.
    pub name: String,
    /// Program and arguments that change nothing: exit code 0 is done, anything else is to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<Vec<String>>,
    /// Program and arguments that do it. A program without a slash is looked for beside that of `like`, then where the system has
    /// programs. No shell is started.
    pub forward: Vec<String>,
    /// Program and arguments that take it back, also when it is done by half. Without them nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backward: Option<Vec<String>>,
    /// A database of the PostgreSQL cluster that is dumped right before it runs, into `/var/lib/reconciled/dumps`; the last three dumps of
    /// each are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<String>,
    /// A service whose user, group, directory and environment it has, as the repository will leave them: `gunicorn.service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
    /// Who runs it; as `like` has it, else whose home the directory is in, else root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its group; the user's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Further environment: `{ NAME = "value", PASSWORD = { secret = "admin_password" } }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, Word>,
    /// How long it may take; 10m by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Paths (globs) whose change makes it run again, whatever `ask` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watch: Vec<String>,
    /// Commands that have to come before it although they are declared later: `["command:migrate"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// What to do when `ask` says that it is to do again: `repair` (the default), `report` (told, and left until the next push), or
    /// `ignore` (somebody else sees to it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
}

/// The value of a variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "neither text nor a secret; write NAME = \"text\", or NAME = { secret = \"name\" }")]
pub enum Word {
    /// As it is.
    Text(String),
    /// What is sealed in `secrets/NAME.age`.
    Secret(Sealed),
}

impl Spec for CommandSpec {
    const KIND: &'static str = "command";
    const KEY: &'static str = "name";
    const PHASE: Phase = Phase::Commands;
    const ABOUT: &'static str =
        "A command of an application, for what no other table can say: a migration, static files, a first user.";
    const EXAMPLE: &'static str = "[[command]]\nname = \"migrate\"\nlike = \"gunicorn.service\"\nask = [\"python\", \"manage.py\", \"migrate\", \"--check\"]\nforward = [\"python\", \"manage.py\", \"migrate\"]\nbackward = [\"python\", \"manage.py\", \"migrate\", \"shop\", \"0007\"]\n";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        let bad = |key, message: String, help: &str| Err(Mistake { key, message, help: help.to_owned() });
        let of_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || !self.name.chars().all(of_name) {
            return bad("name", "not a name of a command".to_owned(), "write letters, digits and -_.");
        }
        for (key, argv) in [("ask", self.ask.as_ref()), ("forward", Some(&self.forward)), ("backward", self.backward.as_ref())] {
            let Some(argv) = argv else { continue };
            let program = argv.first().map(String::as_str).unwrap_or_default();
            if program.is_empty() || argv.iter().any(|word| word.contains('\0')) {
                return bad(key, "no program".to_owned(), &format!("write {key} = [\"program\", \"argument\"]"));
            }
            if program.contains(char::is_whitespace) && argv.len() == 1 {
                let words: Vec<String> = program.split_whitespace().map(|word| format!("\"{word}\"")).collect();
                return bad(
                    key,
                    "one word is one argument, no shell parts it".to_owned(),
                    &format!("write {key} = [{}]", words.join(", ")),
                );
            }
            if program.contains('/') && !program.starts_with('/') {
                return bad(
                    key,
                    format!("`{}` is neither a name nor an absolute path", crate::path::escape(program)),
                    "write one of both",
                );
            }
        }
        if self.like.as_ref().is_some_and(|unit| !unit.ends_with(".service") || crate::units::is_template(unit)) {
            return bad("like", "not a service".to_owned(), "write like = \"gunicorn.service\"");
        }
        if let Some(why) = self.directory.as_ref().filter(|path| *path != "/").and_then(|path| ManagedPath::new(path).err()) {
            return bad("directory", why, "write the folder's absolute path");
        }
        if self.dump.as_ref().is_some_and(|name| !dump::is_name(name)) {
            return bad("dump", "not a name of a database that can be dumped".to_owned(), "write letters, digits and -_");
        }
        let of_variable = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if let Some(name) =
            self.environment.keys().find(|n| !n.chars().all(of_variable) || !n.starts_with(|c: char| !c.is_ascii_digit()))
        {
            return bad(
                "environment",
                format!("`{}` is no name of a variable", crate::path::escape(name)),
                "write letters, digits and _",
            );
        }
        if self.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            return bad("timeout", "nothing can be done in no time".to_owned(), "write timeout = \"10m\", or leave it out");
        }
        if let Some(glob) = self.watch.iter().find(|g| crate::path::glob(g).is_err() || !g.starts_with('/')) {
            let message = format!("`{}` is not a glob over absolute paths", crate::path::escape(glob));
            return bad("watch", message, "write watch = [\"/srv/shop/static/**\"]");
        }
        Ok(())
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let setting = self.setting(sight)?;
        let (forward, forward_input) = self.call(&self.forward, &setting, sight)?;
        let backward = self.backward.as_ref().map(|argv| self.call(argv, &setting, sight)).transpose()?;
        let asked = self.ask.as_ref().map(|argv| self.call(argv, &setting, sight)).transpose()?;
        let asked = asked.map(|(call, input)| (Call { by_exit: true, limit_ms: Call::new(&[], ASK).limit_ms, ..call }, input));
        let target = format!("command:{}", self.name);
        let words = crate::guard::in_words(&self.forward);
        let watched = self.watched(sight);
        let is_known = || {
            sight.former.iter().any(|r| {
                r.kind == Self::KIND && r.name == self.name && Self::deserialize(&r.spec).is_ok_and(|former| former == *self)
            })
        };
        let (before, reason) = match (&asked, watched) {
            (_, Some(path)) => (None, format!("{path} changed: {words}")),
            (None, None) if is_known() => (Some(DONE.to_owned()), String::new()),
            (None, None) => (None, words),
            // The question is the candidate's, and it would be asked of the live host.
            (Some(_), None) if !sight.may_run => (None, format!("not asked for a key that may only preview: {words}")),
            (Some(_), None) if self.may_change(&setting, sight) => (None, format!("asked when all else is in place: {words}")),
            (Some((call, input)), None) => {
                let answer = sight.ask(&target, call, input)?;
                let reason = format!("{TO_DO}: {words}");
                (Some(answer), reason)
            }
        };
        let mut inputs: Vec<Vec<u8>> = vec![forward_input];
        let backward = backward.map(|(call, input)| {
            inputs.push(input);
            call
        });
        // What runs again although it is done cannot be asked.
        let ask = match asked.filter(|_| self.watched(sight).is_none()) {
            Some((call, input)) => {
                inputs.push(input);
                call
            }
            None => Call::nothing(),
        };
        let mut run = Run { backward, ..Run::new(target, ask, (before, DONE.to_owned()), forward) };
        run.prepare = self.dump.as_ref().map(|name| Call::new(&[PROGRAM, "worker", "dump", name], DUMP));
        if run.backward.is_none() && !run.can_be_asked() {
            run.redo = self.former(sight).map(|(call, input)| {
                inputs.push(input);
                call
            });
        }
        let mut claim = Claim { follows: watched.is_some(), ..Claim::new(Change::Run(Box::new(run)), reason) };
        if !claim.change.is_noop() {
            claim.inputs.extend(inputs.into_iter().map(|input| (Digest::of(&input), input)));
        }
        Ok(vec![claim])
    }
}

/// What it runs in.
struct Setting {
    user: Option<String>,
    group: Option<String>,
    directory: Option<String>,
    like: Surroundings,
    /// Where its programs are looked for.
    folders: Vec<String>,
}

impl CommandSpec {
    fn setting(&self, sight: &Sight<'_>) -> Result<Setting, KindError> {
        let like = match &self.like {
            None => Surroundings::default(),
            Some(unit) => surroundings::of_service(unit, &(sight.definition)(unit)).ok_or_else(|| {
                let why = format!("there is no {unit} that starts a program, on this host or in the repository: correct `like`");
                KindError::NotYet(why)
            })?,
        };
        if like.is_dynamic && self.user.is_none() {
            let why = "the user of `like` is there only while that runs (DynamicUser=): name a `user`";
            return Err(KindError::Impossible(why.to_owned()));
        }
        let accounts = sight.host.accounts()?;
        let mut user = self.user.clone().or_else(|| like.user.clone());
        if let (None, None, Some(directory)) = (&user, &self.like, self.directory.as_ref().filter(|path| *path != "/")) {
            let (uid, _) = owner_of(&managed(directory)?, None, None, sight)?;
            user = accounts.iter().find(|account| account.uid == uid && uid != 0).map(|account| account.name.clone());
        }
        let account = user.as_ref().map(|user| accounts.iter().find(|account| account.name == *user));
        if let (Some(user), Some(None)) = (&user, account) {
            let user = crate::path::escape(user);
            let declared = sight.resources.iter().any(|r| r.kind == UserSpec::KIND && r.name == user && is_present(r));
            let why = match declared {
                true => format!("the user {user} is not on this host yet"),
                false => format!("the user `{user}` is neither on this host nor declared: create it, or correct `user`"),
            };
            return Err(KindError::NotYet(why));
        }
        let home = account.flatten().map_or_else(|| "/root".to_owned(), |account| account.home.clone());
        let directory =
            self.directory.clone().or_else(|| like.directory.clone()).map(|path| if path == "~" { home } else { path });
        if let Some(directory) = directory.as_ref().filter(|path| *path != "/") {
            let path = managed(directory)?;
            if !matches!(sight.host.directory(&path), Ok(Some(_)) | Err(HostError::Unfit(_))) && !sight.changes_below(&path) {
                let why = format!(
                    "the directory {path} is neither on this host nor in the repository: create it, or correct `directory`"
                );
                return Err(KindError::NotYet(why));
            }
        }
        let group = self.group.clone().or_else(|| like.group.clone());
        if let Some(group) = group.as_ref().filter(|group| !group.bytes().all(|b| b.is_ascii_digit()))
            && sight.host.group(group)?.is_none()
        {
            let group = crate::path::escape(group);
            let why = format!("the group `{group}` is neither on this host nor declared: create it, or correct `group`");
            return Err(KindError::NotYet(why));
        }
        let of_unit =
            like.environment.iter().filter_map(|variable| variable.strip_prefix("PATH=")).flat_map(|path| path.split(':'));
        let of_unit = of_unit.filter(|folder| folder.starts_with('/'));
        let mut folders: Vec<String> = Vec::new();
        for folder in like.folder.iter().map(String::as_str).chain(of_unit).chain(FOLDERS) {
            if !folders.iter().any(|known| known == folder) {
                folders.push(folder.to_owned());
            }
        }
        Ok(Setting { user, group, directory, like, folders })
    }

    /// What the live generation runs under this name when a path that it watches changes: what makes it right again for what comes back.
    fn former(&self, sight: &Sight<'_>) -> Option<(Call, Vec<u8>)> {
        let former = sight.former.iter().find(|r| r.kind == Self::KIND && r.name == self.name)?;
        let former = Self::deserialize(&former.spec).ok().filter(|former| !former.watch.is_empty())?;
        former.call(&former.forward, &former.setting(sight).ok()?, sight).ok()
    }

    /// A call of ours that becomes the program, and what it reads: secrets are neither in arguments nor in a unit's properties.
    fn call(&self, argv: &[String], setting: &Setting, sight: &Sight<'_>) -> Result<(Call, Vec<u8>), KindError> {
        let program = argv.first().map(String::as_str).unwrap_or_default();
        refuse_missing(program, setting, sight)?;
        let mut environment = BTreeMap::new();
        for (name, word) in &self.environment {
            let value = match word {
                Word::Text(text) => text.clone(),
                Word::Secret(Sealed { secret }) => {
                    let text = crate::secrets::text(sight.secret(secret)?).map(str::to_owned);
                    text.ok_or_else(|| {
                        let secret = crate::path::escape(secret);
                        KindError::Impossible(format!(
                            "the secret `{secret}` is no UTF-8 text: an environment can only hold text"
                        ))
                    })?
                }
            };
            environment.insert(name.clone(), value);
        }
        // What the manager sets itself has to be set there too, to go before that. All else may be secret.
        let is_of_manager = |variable: &&String| SET_BY_MANAGER.iter().any(|name| variable.starts_with(&format!("{name}=")));
        let (of_manager, defaults): (Vec<String>, Vec<String>) =
            setting.like.environment.iter().cloned().partition(|variable| is_of_manager(&variable));
        let defaults = defaults.iter().filter_map(|variable| variable.split_once('='));
        let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let files = BTreeMap::new();
        let request = Request { argv: argv.to_vec(), folders: setting.folders.clone(), defaults, environment, files };
        let input = serde_json::to_vec(&request).map_err(|e| KindError::Impossible(e.to_string()))?;
        let call = Call {
            user: setting.user.clone(),
            group: setting.group.clone(),
            directory: setting.directory.clone(),
            environment: of_manager,
            environment_files: setting.like.environment_files.clone(),
            ..Call::new(&[PROGRAM, "worker", "command"], self.timeout.unwrap_or(TIMEOUT).0)
        };
        Ok((call.reading(Digest::of(&input)), input))
    }

    /// The first path that it watches of those that change before it.
    fn watched<'s>(&self, sight: &Sight<'s>) -> Option<&'s ManagedPath> {
        let globs: Vec<_> = self.watch.iter().filter_map(|glob| Some(crate::path::glob(glob).ok()?.compile_matcher())).collect();
        let is_watched = |path: &std::path::Path| globs.iter().any(|glob| glob.is_match(path));
        sight.earlier.iter().filter(|change| !change.is_noop()).find_map(|change| match change {
            // What is made is a tree: a glob may mean it, or what is in it.
            Change::Run(run) => {
                run.makes.iter().find(|made| is_watched(made.as_path()) || is_watched(&made.as_path().join("any")))
            }
            Change::Entry { path, .. } => Some(path).filter(|path| is_watched(path.as_path())),
            _ => None,
        })
    }

    /// Whether the answer of the host as it is would say nothing of the host as it will be, or cannot be had.
    fn may_change(&self, setting: &Setting, sight: &Sight<'_>) -> bool {
        let is_run = |change: &&Change| matches!(change, Change::Run(_)) && !change.is_noop();
        let defines = |change: &&Change| {
            let file = (**change).path().filter(|_| !change.is_noop()).and_then(crate::units::of_path);
            self.like.as_ref().is_some_and(|unit| file.is_some_and(|file| file.defines(unit)))
        };
        let argv = self.ask.iter().chain([&self.forward]).flatten();
        let files = setting.like.environment_files.iter().map(|file| file.trim_start_matches('-'));
        let named = argv.map(String::as_str).chain(files).chain(setting.directory.as_deref());
        let mut paths = named.filter_map(|path| ManagedPath::new(path).ok());
        sight.earlier.iter().copied().any(|change| is_run(&change) || defines(&change))
            || paths.any(|path| sight.changes_below(&path))
    }
}

/// A program that is nowhere, and that nothing brings.
fn refuse_missing(program: &str, setting: &Setting, sight: &Sight<'_>) -> Result<(), KindError> {
    let candidates: Vec<String> = match program.starts_with('/') {
        true => vec![program.to_owned()],
        false => setting.folders.iter().map(|folder| format!("{folder}/{program}")).collect(),
    };
    for path in candidates.iter().filter_map(|path| ManagedPath::new(path).ok()) {
        let comes = sight.earlier.iter().any(|change| match change {
            Change::Entry { path: file, after, .. } => *file == path && *after != Object::Absent,
            Change::Run(run) => !change.is_noop() && run.makes.iter().any(|made| path.is_below(made)),
            _ => false,
        });
        match sight.host.object(&path).map(|seen| seen.object) {
            Ok(Object::Absent) if !comes => {}
            Ok(_) | Err(HostError::Unfit(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    let program = crate::path::escape(program);
    Err(KindError::NotYet(match program.starts_with('/') {
        true => format!("{program} is neither on this host nor in the repository: correct it, or add the package that brings it"),
        false => {
            let folders = setting.folders.join(", ");
            format!(
                "`{program}` is in none of {folders}: correct it, name a `like` beside whose program it is, or add the package that brings it"
            )
        }
    }))
}
