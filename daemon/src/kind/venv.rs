//! Virtual environments of Python. Each is built beside its place and swapped in, so that it is whole or as before.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::place::{implied_directories, managed, owner_of};
use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec, State};
use crate::change::{ABSENT, Call, Change, DirFacts, Object, Run};
use crate::digest::Digest;
use crate::host::{Account, HostError};
use crate::path::ManagedPath;
use crate::venv::{self, Request};
use crate::worker::PROGRAM;

/// How long a build may take: packages may have to be compiled, or come over a slow line.
const BUILD: Duration = Duration::from_secs(30 * 60);
/// How long a look may take: of a large one on a slow disk.
const ASK: Duration = Duration::from_secs(2 * 60);
/// Longest file of requirements, in bytes.
const LIMIT: u64 = 1 << 20;
/// Everybody may read it.
const FOR_OTHERS: u32 = 0o004;
/// Everybody may pass.
const THROUGH: u32 = 0o001;
/// Others than its owner may rename what is in it, but for what is not theirs in one that is sticky.
const BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;
/// Links from one interpreter to another that are followed.
const LINKS: usize = 8;
const PYTHON: &str = "/usr/bin/python3";

/// A virtual environment of Python with exactly these packages. It is built beside its place and swapped in when it is whole; the one
/// before it waits there (`.NAME.aside`) until the next build, and comes back when the push is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VenvSpec {
    /// Where it stands. Nothing else can be managed in it: the next build takes its place.
    pub path: String,
    /// The file that says what is in it: its path on the host, usually that of a file of the repository. Each line names an exact version
    /// (`Django==5.2.1`) or a hash; where there are hashes, pip demands one of every package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<String>,
    /// The same, written here: `["Django==5.2.1", "gunicorn==23.0.0"]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<Vec<String>>,
    /// The Python that it is made with, `/usr/bin/python3` unless it is said; Debian's needs the package python3-venv.
    #[serde(default = "python", skip_serializing_if = "is_python")]
    pub interpreter: String,
    /// Who builds and owns it; under the home of a user that user, elsewhere root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// `absent`: it must not be there.
    #[serde(default)]
    pub state: State,
    /// What to do when it is damaged, or is not of these packages any more: `repair` (the default), `report` (told, and left until the
    /// next push), or `ignore` (somebody else sees to it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
}

fn python() -> String {
    PYTHON.to_owned()
}

fn is_python(interpreter: &String) -> bool {
    interpreter == PYTHON
}

impl Spec for VenvSpec {
    const KIND: &'static str = "venv";
    const KEY: &'static str = "path";
    const PHASE: Phase = Phase::Environments;
    const ABOUT: &'static str =
        "A virtual environment of Python. Services that run from it, or watch it, are restarted when it is built anew.";
    const EXAMPLE: &'static str =
        "[[venv]]\npath = \"/home/ana/site/env\"\npackages = [\"Django==5.2.1\", \"gunicorn==23.0.0\"]\n";

    fn name(&self) -> String {
        self.path.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        let bad = |key, message: String, help: &str| Err(Mistake { key, message, help: help.to_owned() });
        if let Err(why) = ManagedPath::new(&self.path) {
            return bad("path", why, "write the folder's absolute path");
        }
        if !self.interpreter.starts_with('/') {
            return bad("interpreter", "not an absolute path".to_owned(), "write interpreter = \"/usr/bin/python3\"");
        }
        match (&self.requirements, &self.packages, self.state) {
            (None, None, State::Absent) => {}
            (_, _, State::Absent) => {
                return bad("state", "an absent environment has no packages".to_owned(), "drop `state`, or what is in it");
            }
            (None, None, _) => {
                let help = "add requirements = \"/path/of/requirements.txt\", or packages = [\"name==version\"]";
                return bad("path", "nothing says what is in it".to_owned(), help);
            }
            (Some(_), Some(_), _) => {
                return bad("packages", "there is a file of requirements too".to_owned(), "name one of the two");
            }
            (Some(file), None, _) => {
                if let Err(why) = ManagedPath::new(file) {
                    return bad("requirements", why, "write the file's absolute path on the host");
                }
            }
            (None, Some(packages), _) => {
                let one = packages.iter().find(|p| p.contains(['\n', '#', '\\']) || p.trim().is_empty());
                if one.is_some() {
                    return bad("packages", "each is one requirement".to_owned(), "write packages = [\"name==version\"]");
                }
                if let Err(flaw) = venv::requirements(&packages.join("\n")) {
                    let (message, help) = flaw.why.split_once(": ").unwrap_or((&flaw.why, "write name==version"));
                    return bad("packages", message.to_owned(), help);
                }
            }
        }
        Ok(())
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let path = managed(&self.path)?;
        let (uid, _) = owner_of(&path, self.owner.as_deref(), None, sight)?;
        let accounts = sight.host.accounts()?;
        refuse_hands_of_others(&path, uid, &accounts, sight)?;
        let user = accounts.into_iter().find(|account| account.uid == uid && uid != 0).map(|account| account.name);
        let (requirements, mut claims) = match self.state {
            State::Absent => (String::new(), Vec::new()),
            State::Present => {
                self.refuse_what_makes_none(sight)?;
                (self.text(sight)?, implied_directories(&path, sight)?)
            }
        };
        let after = match self.state {
            State::Absent => ABSENT.to_owned(),
            // What is secret in it says who may fetch, not what: neither a digest nor another build comes of it.
            State::Present => venv::built(&self.interpreter, &crate::secrets::of(sight.secrets).conceal(&requirements)),
        };
        let target = format!("venv:{path}");
        let call = |verb: &str, limit| Call { user: user.clone(), ..Call::new(&[PROGRAM, "worker", "venv", verb], limit) };
        let mut request = Request {
            path: self.path.clone(),
            interpreter: self.interpreter.clone(),
            requirements,
            before: String::new(),
            after: after.clone(),
        };
        let json = |request: &Request| serde_json::to_vec(request).unwrap_or_default();
        request.before = sight.ask(&target, &call("ask", ASK), &json(&request))?;
        if request.before == venv::NONE {
            let why = format!("{path} holds something that is no virtual environment: move it away, or correct `path`");
            return Err(KindError::Impossible(why));
        }
        let (input, reason) = (json(&request), reason(&request.before, &after));
        let digest = Digest::of(&input);
        let forward = call(if self.state == State::Present { "build" } else { "remove" }, BUILD).reading(digest);
        let run = Run {
            backward: Some(call("back", ASK).reading(digest)),
            makes: if self.state == State::Present { vec![path] } else { Vec::new() },
            ..Run::new(target, call("ask", ASK).reading(digest), (Some(request.before), after), forward)
        };
        let mut claim = Claim { follows: self.follows(sight), ..Claim::new(Change::Run(Box::new(run)), reason) };
        if !claim.change.is_noop() {
            claim.inputs.insert(digest, input);
        }
        claims.push(claim);
        Ok(claims)
    }
}

fn reason(before: &str, after: &str) -> String {
    match (before, after) {
        (ABSENT, _) => "build".to_owned(),
        (_, ABSENT) => "unwanted".to_owned(),
        (before, _) if before.starts_with("built ") => "other requirements".to_owned(),
        (before, _) => format!("{before}; build anew"),
    }
}

impl VenvSpec {
    /// Debian's Python makes environments with pip only with the package python3-venv.
    fn refuse_what_makes_none(&self, sight: &Sight<'_>) -> Result<(), KindError> {
        const REMEDY: &str = "add packages = [\"python3-venv\"] above the first [header]";
        let Some(real) = real(&self.interpreter, sight)? else {
            let remedy = if self.interpreter == PYTHON { REMEDY } else { "correct `interpreter`" };
            return Err(KindError::NotYet(format!("{} is not on this host: {remedy}", self.interpreter)));
        };
        let Some(version) = real.strip_prefix("/usr/bin/").filter(|name| name.starts_with("python3.")) else { return Ok(()) };
        let ensurepip = managed(&format!("/usr/lib/{version}/ensurepip/__init__.py"))?;
        match sight.host.object(&ensurepip)?.object {
            Object::Absent => Err(KindError::NotYet(format!("{real} makes no virtual environment without ensurepip: {REMEDY}"))),
            _ => Ok(()),
        }
    }

    /// Whether the same plan changes the file of its requirements.
    fn follows(&self, sight: &Sight<'_>) -> bool {
        let is_it = |change: &&&Change| {
            !change.is_noop() && change.path().is_some_and(|path| self.requirements.as_deref() == Some(path.as_str()))
        };
        sight.earlier.iter().any(|change| is_it(&change))
    }

    /// What is in it, one requirement a line.
    fn text(&self, sight: &Sight<'_>) -> Result<String, KindError> {
        let Some(file) = &self.requirements else {
            let listed = self.packages.clone().unwrap_or_default().join("\n");
            return venv::requirements(&listed).map_err(|flaw| KindError::Impossible(flaw.why));
        };
        let path = managed(file)?;
        let planned = sight.earlier.iter().find(|change| change.path() == Some(&path));
        // Nobody is told what stands in a file of the host, or in a secret one.
        let (bytes, is_shown) = match planned {
            Some(Change::Entry { after: Object::File(facts), secret, .. }) => {
                ((sight.contents)(&facts.digest).or_else(|_| sight.host.content(&path, LIMIT))?, !secret)
            }
            Some(_) => return Err(KindError::Impossible(format!("{path} is declared, and is no file: name a file"))),
            None => match sight.host.object(&path)?.object {
                Object::File(facts) if !is_for_everybody(&path, facts.mode, sight)? => {
                    let why =
                        format!("{path} is not for everybody to read: keep the requirements in the repository, as files{path}");
                    return Err(KindError::Impossible(why));
                }
                Object::File(_) => (sight.host.content(&path, LIMIT)?, false),
                Object::Absent => {
                    let why = format!(
                        "{path} is neither on this host nor in the repository: add files{path}, or correct `requirements`"
                    );
                    return Err(KindError::NotYet(why));
                }
                _ => return Err(KindError::Impossible(format!("{path} is no file: name a file"))),
            },
        };
        let text = String::from_utf8_lossy(&bytes);
        venv::requirements(&text).map_err(|flaw| {
            let declared = sight.resources.iter().find(|r| r.kind == "file" && r.name == *file);
            let place = declared.map(|r| &r.origin).filter(|origin| origin.line == 0).map_or(file, |origin| &origin.file);
            let why = if is_shown { flaw.why } else { "no exact version, or an option that is not taken".to_owned() };
            KindError::Impossible(format!("{}:{}: {why}", crate::path::escape(place), flaw.line))
        })
    }
}

/// Who may rename what is in a directory above could have whoever builds run something else: root or the builder alone may.
fn refuse_hands_of_others(path: &ManagedPath, builder: u32, accounts: &[Account], sight: &Sight<'_>) -> Result<(), KindError> {
    let mut above = path.parent();
    while let Some(directory) = above {
        let planned = sight.earlier.iter().find_map(|change| match change {
            Change::Dir { path, after, .. } if *path == directory => Some(*after),
            _ => None,
        });
        let facts = planned.map_or_else(|| sight.host.directory(&directory), Ok)?;
        let is_open = |facts: &DirFacts| builder == 0 && facts.mode & BY_OTHERS != 0 && facts.mode & STICKY == 0;
        if let Some(facts) = facts.filter(|facts| ![0, builder].contains(&facts.uid) || is_open(facts)) {
            let name = |uid: u32| accounts.iter().find(|a| a.uid == uid).map_or_else(|| uid.to_string(), |a| a.name.clone());
            return Err(KindError::Impossible(format!(
                "{} would build in {directory}, where {} could put something else in its place: set `owner` of the environment, or of the directory",
                name(builder),
                if is_open(&facts) { "others".to_owned() } else { name(facts.uid) },
            )));
        }
        above = directory.parent();
    }
    Ok(())
}

/// Whether everybody may read a file: its mode, and a way to it.
fn is_for_everybody(path: &ManagedPath, mode: u32, sight: &Sight<'_>) -> Result<bool, KindError> {
    let mut above = path.parent();
    while let Some(directory) = above {
        if sight.host.directory(&directory)?.is_none_or(|facts| facts.mode & THROUGH == 0) {
            return Ok(false);
        }
        above = directory.parent();
    }
    Ok(mode & FOR_OTHERS != 0)
}

/// Where a program's links lead; `None` when nothing stands there. One whose folder is a link is taken as it is.
fn real(program: &str, sight: &Sight<'_>) -> Result<Option<String>, KindError> {
    let mut here = program.to_owned();
    for _ in 0..LINKS {
        let path = managed(&here)?;
        match sight.host.object(&path).map(|seen| seen.object) {
            Ok(Object::Absent) => return Ok(None),
            Ok(Object::Link { target }) => {
                let folder = path.parent().map_or_else(|| "/".to_owned(), |parent| parent.to_string());
                here = crate::path::joined(&folder, &target).unwrap_or(here);
            }
            Ok(_) | Err(HostError::Unfit(_)) => return Ok(Some(here)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(here))
}
