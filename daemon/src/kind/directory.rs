//! Directories with a declared owner or mode.

use serde::{Deserialize, Serialize};

use super::place::{implied_directories, managed, owner_of, parse_mode};
use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec, State};
use crate::change::{Change, DirFacts};

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
    const ABOUT: &'static str = "A directory, with its owner and mode; what is in it stays as it is.";
    const EXAMPLE: &'static str = "[[directory]]\npath = \"/srv/shop/media\"\nowner = \"www-data\"\nmode = \"0750\"\n";

    fn name(&self) -> String {
        self.path.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        self.mode.as_deref().map_or(Ok(()), |mode| parse_mode(mode).map(drop))
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
        claims.push(Claim::new(Change::Dir { path, before, after: Some(after) }, reason));
        Ok(claims)
    }
}
