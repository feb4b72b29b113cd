//! Directories with a declared owner or mode.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::place::{implied_directories, managed, owner_of, parse_mode};
use super::user::is_present;
use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec, State};
use crate::change::{Call, Change, DirFacts, Run};
use crate::digest::Digest;
use crate::host::HostError;
use crate::path::ManagedPath;
use crate::subtree::{self, Request, Wanted};
use crate::worker::PROGRAM;

/// How long a walk through a subtree may take.
const WALK: Duration = Duration::from_secs(60);

/// A directory. Its content is not ours: other files in it stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DirectorySpec {
    /// Absolute path.
    pub path: String,
    /// Owner; under the home of a user that user, elsewhere root. A directory that is there keeps its owner unless this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Group; by default as with `owner`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Permission bits as an octal string; 0755 for a new directory, otherwise as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// `owner`, `group` and `mode` hold for all that is in it too, but for what has a table or a file of the repository of its own: `mode` for
    /// directories, `file_mode` for files. Links are left alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recurse: bool,
    /// With `recurse`: permission bits of files; as they are when not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<String>,
    /// `absent`: the directory must not be there. Only an empty one is removed.
    #[serde(default)]
    pub state: State,
    /// What to do when the host no longer matches: `repair` (the default), `report` (told, and left until the next push), or `ignore`
    /// (somebody else edits it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
}

impl Spec for DirectorySpec {
    const KIND: &'static str = "directory";
    const SHORT: Option<&'static str> = Some("directories");
    const KEY: &'static str = "path";
    const PHASE: Phase = Phase::Files;
    const ABOUT: &'static str =
        "A directory, with its owner and mode; what is in it stays as it is, unless `recurse` says that it belongs to the same.";
    const EXAMPLE: &'static str = "[[directory]]\npath = \"/srv/shop/media\"\nowner = \"www-data\"\nmode = \"0750\"\n";

    fn name(&self) -> String {
        self.path.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        self.mode.as_deref().map_or(Ok(()), |mode| parse_mode(mode).map(drop))?;
        let bad = |key, message: &str, help: &str| Err(Mistake { key, message: message.to_owned(), help: help.to_owned() });
        if let Some(mode) = &self.file_mode {
            parse_mode(mode).map_err(|mistake| Mistake { key: "file_mode", ..mistake })?;
            if !self.recurse {
                return bad("file_mode", "`file_mode` is for the files of a whole subtree", "add recurse = true, or remove it");
            }
        }
        if self.recurse && self.state == State::Absent {
            return bad("recurse", "what is not there has nothing in it", "remove `recurse`");
        }
        let says = [&self.owner, &self.group, &self.mode, &self.file_mode].into_iter().any(Option::is_some);
        if self.recurse && !says {
            return bad("recurse", "nothing is said that could hold for what is in it", "write owner, group, mode or file_mode");
        }
        Ok(())
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let path = managed(&self.path)?;
        let before = sight.host.directory(&path)?;
        if self.state == State::Absent {
            if before.is_some() && !sight.host.is_empty(&path)? {
                return Err(KindError::Impossible(format!(
                    "{path} is declared absent but is not empty: empty it by hand; data is never deleted with a directory"
                )));
            }
            return Ok(vec![Claim::new(Change::Dir { path, before, after: None }, "unwanted")]);
        }
        let mut claims = implied_directories(&path, sight)?;
        let mode = self.mode.as_deref().map(parse_mode).transpose().map_err(|m| KindError::Impossible(m.message))?;
        let (uid, gid) = owner_of(&path, self.owner.as_deref(), self.group.as_deref(), sight)?;
        let after = match before {
            None => DirFacts { mode: mode.unwrap_or(0o755), uid, gid },
            // Naming one key manages only that key.
            Some(now) => DirFacts {
                mode: mode.unwrap_or(now.mode),
                uid: if self.owner.is_some() { uid } else { now.uid },
                gid: if self.group.is_some() || self.owner.is_some() { gid } else { now.gid },
            },
        };
        let reason = match before {
            None => "new".to_owned(),
            Some(now) if now.mode != after.mode => format!("mode {:04o} → {:04o}", now.mode, after.mode),
            Some(now) => format!("owner {}:{} → {}:{}", now.uid, now.gid, after.uid, after.gid),
        };
        claims.push(Claim::new(Change::Dir { path: path.clone(), before, after: Some(after) }, reason));
        if self.recurse {
            let wanted = Wanted {
                uid: self.owner.is_some().then_some(uid),
                gid: (self.group.is_some() || self.owner.is_some()).then_some(gid),
                mode,
                file_mode: self.file_mode.as_deref().map(parse_mode).transpose().map_err(|m| KindError::Impossible(m.message))?,
            };
            claims.extend(subtree(&path, before.is_some(), wanted, sight)?);
        }
        Ok(claims)
    }
}

/// What all in a directory is to be, as far as nobody says otherwise; nothing where there is none, and nothing comes into it.
fn subtree(path: &ManagedPath, is_there: bool, wanted: Wanted, sight: &Sight<'_>) -> Result<Option<Claim>, KindError> {
    let below = |name: &str| ManagedPath::new(name).is_ok_and(|inner| inner.is_below(path));
    let of = |is_closed: bool| -> BTreeSet<String> {
        let resources = sight.resources.iter().filter(|resource| below(&resource.name));
        let closes =
            |resource: &&crate::manifest::Resource| (resource.kind == "venv" || resource.spec["recurse"] == true) == is_closed;
        resources.filter(closes).map(|resource| resource.name.clone()).collect()
    };
    let mut request = Request { path: path.to_string(), wanted, own: of(false), closed: of(true), before: Vec::new() };
    let target = format!("subtree:{path}");
    let call = |verb| Call::new(&[PROGRAM, "worker", "subtree", verb], WALK);
    let done = subtree::AS_WANTED.to_owned();
    if !sight.may_run {
        // Root looks there: names in it are not for everybody.
        let run = Run::new(target, Call::nothing(), (None, done), call("set"));
        return Ok(is_there.then(|| Claim::new(Change::Run(Box::new(run)), "not looked at for a key that may only preview")));
    }
    let is_filled = brings_directories(path, sight)?;
    if !is_there && !is_filled {
        return Ok(None);
    }
    let json = |request: &Request| serde_json::to_vec(request).map_err(|e| KindError::Impossible(e.to_string()));
    if is_there {
        let answer = sight.ask(&target, &call("look"), &json(&request)?)?;
        request.before = serde_json::from_str(&answer).map_err(|e| KindError::Impossible(format!("{target}: {e}")))?;
    }
    let (reason, input) = (subtree::words(&request.before), json(&request)?);
    let reason = if request.before.is_empty() { "new directories in it".to_owned() } else { reason };
    let digest = Digest::of(&input);
    // There is no question: what others put there meanwhile is no reason to fail.
    let before = (request.before.is_empty() && !is_filled).then(|| done.clone());
    let run = Run {
        backward: Some(call("undo").reading(digest)),
        ..Run::new(target, Call::nothing(), (before, done), call("set").reading(digest))
    };
    let mut claim = Claim::new(Change::Run(Box::new(run)), reason);
    if !claim.change.is_noop() {
        claim.inputs.insert(digest, input);
    }
    Ok(Some(claim))
}

/// Whether what is declared below a directory stands in directories that are not there yet, and come with it.
fn brings_directories(path: &ManagedPath, sight: &Sight<'_>) -> Result<bool, KindError> {
    let below = |name: &str| ManagedPath::new(name).ok().filter(|inner| inner.is_below(path));
    let parents = sight.resources.iter().filter(|resource| is_present(resource)).filter_map(|resource| {
        let parent = resource.name.rsplit_once('/')?.0;
        below(&resource.name).and(below(parent)).filter(|parent| parent != path)
    });
    for parent in parents.collect::<BTreeSet<_>>() {
        match sight.host.directory(&parent) {
            Ok(None) => return Ok(true),
            // What else stands there is for whose parent it is to say.
            Ok(Some(_)) | Err(HostError::Unfit(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}
