//! Regular files.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::place::{State, implied_directories, managed, owner_of, parse_mode, reason};
use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec};
use crate::change::{Change, FileFacts, Object};
use crate::digest::Digest;

/// A file at a path: what `files/` holds at the same place, or `content`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Absolute path; in the manifest also a glob over the paths of `files/`.
    pub path: String,
    /// The whole content, for a short file that needs no place in `files/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Owner; under the home of a user that user, elsewhere root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Group; by default as with `owner`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Permission bits as an octal string; by default git's: 0644, or 0755 for an executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Its content is never shown in a plan, diff, log or record.
    #[serde(default)]
    pub secret: bool,
    /// What to do with a file that has more than one name.
    #[serde(default)]
    pub links: LinksPolicy,
    /// `absent`: the file must not be there.
    #[serde(default)]
    pub state: State,
    /// What to do when the host no longer matches: `repair` (the default), `report` (told, and left until the next push), or `ignore`
    /// (somebody else edits it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
    /// Digest and size of the content; filled in from `files/` or `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub source: Option<(Digest, u64)>,
    /// What is no secret in a secret file: filled in for templates, which say the same whatever the secrets are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub open: BTreeSet<String>,
}

/// What to do with a path whose file has more than one hard link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LinksPolicy {
    /// Refuse: replacing it would silently part it from its other names.
    #[default]
    Refuse,
    /// Replace it; the other names keep the old content.
    Break,
}

impl Spec for FileSpec {
    const KIND: &'static str = "file";
    const KEY: &'static str = "path";
    const PHASE: Phase = Phase::Files;
    const ABOUT: &'static str =
        "A regular file. Only needed where the defaults of files/ do not fit; an exact path beats a glob.";
    const EXAMPLE: &'static str = "[[file]]\npath = \"/etc/shop/settings.ini\"\ngroup = \"www-data\"\nmode = \"0640\"\n";

    fn name(&self) -> String {
        self.path.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        if let Some(mode) = &self.mode {
            parse_mode(mode)?;
        }
        if self.state == State::Absent && self.content.is_some() {
            return Err(Mistake {
                key: "content",
                message: "an absent file has no content".to_owned(),
                help: "remove `content`, or `state = \"absent\"`".to_owned(),
            });
        }
        Ok(())
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let path = managed(&self.path)?;
        let seen = sight.host.object(&path)?;
        if let Object::Other { what } = &seen.object {
            return Err(KindError::Impossible(format!(
                "{path} is a {what}; only files and links are replaced: move it away first"
            )));
        }
        let mut claims = Vec::new();
        let after = match (self.state, self.source) {
            (State::Absent, _) => Object::Absent,
            (State::Present, None) => {
                return Err(KindError::Impossible(format!("{path} has no content: add files{path} or `content`")));
            }
            (State::Present, Some((digest, size))) => {
                let (uid, gid) = owner_of(&path, self.owner.as_deref(), self.group.as_deref(), sight)?;
                let mode = self.mode.as_deref().map_or(Ok(0o644), parse_mode).map_err(|m| KindError::Impossible(m.message))?;
                claims.extend(implied_directories(&path, sight)?);
                Object::File(FileFacts { digest, size, mode, uid, gid })
            }
        };
        if seen.names > 1 && seen.object != after && self.links == LinksPolicy::Refuse {
            return Err(KindError::Impossible(format!(
                "{path} has {} names (hard links); replacing it would part them: set links = \"break\" if that is meant",
                seen.names
            )));
        }
        let reason = reason(&seen.object, &after);
        claims.push(Claim::new(Change::Entry { path, before: seen.object, after, secret: self.secret }, reason));
        Ok(claims)
    }
}
