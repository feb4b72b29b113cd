//! Symbolic links.

use serde::{Deserialize, Serialize};

use super::place::{implied_directories, managed, reason};
use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec, State};
use crate::change::{Change, Object};
use crate::host::Seen;

/// A symbolic link, also straight from a git symlink under `files/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LinkSpec {
    /// Absolute path of the link.
    pub path: String,
    /// The link's text, absolute or relative to the link's directory; it need not exist.
    #[serde(default)]
    pub target: String,
    /// `absent`: the link must not be there.
    #[serde(default)]
    pub state: State,
    /// What to do when the host no longer matches: `repair` (the default), `report` (told, and left until the next push), or `ignore`
    /// (somebody else edits it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
}

impl Spec for LinkSpec {
    const KIND: &'static str = "link";
    const KEY: &'static str = "path";
    const PHASE: Phase = Phase::Files;
    const ABOUT: &'static str = "A symbolic link. A git symlink under files/ is one too, its text as it is in git.";
    const EXAMPLE: &'static str = "[[link]]\npath = \"/etc/nginx/sites-enabled/default\"\nstate = \"absent\"\n";

    fn name(&self) -> String {
        self.path.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        let fault = match (self.state, self.target.as_str()) {
            (State::Present, "") => "a link needs a target",
            (State::Absent, target) if !target.is_empty() => "an absent link has no target",
            (State::Present, target) if target.len() >= crate::path::PATH_LIMIT || target.contains('\0') => "this is no path",
            _ => return Ok(()),
        };
        let help = "write target = \"../sites-available/shop\", or state = \"absent\" alone".to_owned();
        Err(Mistake { key: "target", message: fault.to_owned(), help })
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let path = managed(&self.path)?;
        let Seen { object: seen, names } = sight.host.object(&path)?;
        if let Object::Other { what } = &seen {
            return Err(KindError::Impossible(format!(
                "{path} is a {what}; only files and links are replaced: move it away first"
            )));
        }
        let mut claims = Vec::new();
        let after = if self.state == State::Absent {
            Object::Absent
        } else {
            claims.extend(implied_directories(&path, sight)?);
            Object::Link { target: self.target.clone() }
        };
        if names > 1 && matches!(seen, Object::File(_)) {
            return Err(KindError::Impossible(format!(
                "{path} is a file with {names} names (hard links); a link in its place would part them: move it away first"
            )));
        }
        let reason = reason(&seen, &after);
        claims.push(Claim::new(Change::Entry { path, before: seen, after, secret: false }, reason));
        Ok(claims)
    }
}
