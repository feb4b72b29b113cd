//! Regular files.

use serde::{Deserialize, Serialize};

use super::{Claim, KindError, Mistake, Phase, Sight, Spec};
use crate::change::{Change, DirFacts, FileFacts, Object};
use crate::digest::Digest;
use crate::host::Account;
use crate::path::ManagedPath;

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
    /// Digest and size of the content; filled in from `files/` or `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub source: Option<(Digest, u64)>,
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

/// Whether a thing is wanted or unwanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It must be there.
    #[default]
    Present,
    /// It must not be there.
    Absent,
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
        claims.push(Claim {
            change: Change::Entry { path, before: seen.object, after, secret: self.secret },
            reason,
            implied: false,
        });
        Ok(claims)
    }
}

/// Checks a path that came from a declaration or from the store.
pub(super) fn managed(path: &str) -> Result<ManagedPath, KindError> {
    ManagedPath::new(path).map_err(KindError::Impossible)
}

/// Reads permission bits from an octal string of three or four digits.
pub(super) fn parse_mode(mode: &str) -> Result<u32, Mistake> {
    let digits = (3..=4).contains(&mode.len()) && mode.bytes().all(|b| (b'0'..=b'7').contains(&b));
    digits.then(|| u32::from_str_radix(mode, 8).ok()).flatten().ok_or_else(|| Mistake {
        key: "mode",
        message: format!("`{mode}` is not a mode"),
        help: "write three or four octal digits as a string: mode = \"0644\"".to_owned(),
    })
}

/// The owner of a path: as declared, else by its place.
pub(super) fn owner_of(
    path: &ManagedPath,
    owner: Option<&str>,
    group: Option<&str>,
    sight: &Sight<'_>,
) -> Result<(u32, u32), KindError> {
    let accounts = sight.host.accounts()?;
    let (mut uid, mut gid) = home_owner(path, &accounts).map_or((0, 0), |a| (a.uid, a.gid));
    if let Some(owner) = owner {
        let account = accounts.iter().find(|a| a.name == owner).ok_or_else(|| {
            KindError::Impossible(format!(
                "{path}: the user `{owner}` is neither on this host nor declared: create it, or correct `owner`"
            ))
        })?;
        (uid, gid) = (account.uid, account.gid);
    }
    if let Some(group) = group {
        gid = sight.host.group(group)?.ok_or_else(|| {
            KindError::Impossible(format!(
                "{path}: the group `{group}` is neither on this host nor declared: create it, or correct `group`"
            ))
        })?;
    }
    Ok((uid, gid))
}

/// Where a system account, too, has a home that is its own. Elsewhere (`/usr/sbin`, `/var/www`, `/run/…`) it is a place of the
/// system that the account was merely given.
const HOMES: [&str; 3] = ["/home/", "/srv/", "/opt/"];

/// The user whose home directory holds a path: a person's (uids from 1000 on, login.defs(5)), or a system account's in one of
/// [`HOMES`].
fn home_owner<'a>(path: &ManagedPath, accounts: &'a [Account]) -> Option<&'a Account> {
    let is_own =
        |a: &Account| (a.uid >= 1000 && a.uid != 65534 && a.home.len() > 1) || HOMES.iter().any(|h| a.home.starts_with(h));
    accounts.iter().filter(|a| is_own(a)).filter(|a| path.as_path().starts_with(&a.home)).max_by_key(|a| a.home.len())
}

/// Claims on the missing directories above a path: made 0755, owned as the place says; those that are there stay as they are.
pub(super) fn implied_directories(path: &ManagedPath, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
    let mut missing = Vec::new();
    let mut next = path.parent();
    while let Some(dir) = next {
        if sight.host.directory(&dir)?.is_some() {
            break;
        }
        next = dir.parent();
        missing.push(dir);
    }
    missing
        .into_iter()
        .rev()
        .map(|path| {
            let (uid, gid) = owner_of(&path, None, None, sight)?;
            let after = Some(DirFacts { mode: 0o755, uid, gid });
            Ok(Claim { change: Change::Dir { path, before: None, after }, reason: "implied".to_owned(), implied: true })
        })
        .collect()
}

/// What differs, in the plan's words.
pub(super) fn reason(before: &Object, after: &Object) -> String {
    let (Object::File(old), Object::File(new)) = (before, after) else {
        return match (before, after) {
            (Object::Absent, _) => "new".to_owned(),
            (_, Object::Absent) => "unwanted".to_owned(),
            (Object::Link { target: old }, Object::Link { target: new }) => format!("target {old} → {new}"),
            (Object::Link { target }, Object::File(_)) => format!("was a link to {target}"),
            (Object::File(_), Object::Link { .. }) => "was a file".to_owned(),
            _ => "replaced".to_owned(),
        };
    };
    let mut parts = Vec::new();
    if old.digest != new.digest {
        parts.push("content".to_owned());
    }
    if old.mode != new.mode {
        parts.push(format!("mode {:04o} → {:04o}", old.mode, new.mode));
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        parts.push(format!("owner {}:{} → {}:{}", old.uid, old.gid, new.uid, new.gid));
    }
    parts.join(", ")
}
