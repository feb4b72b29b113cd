//! What every kind with a path needs: its grammar, its owner by place, the directories above it, what differs. No kind.

use serde::{Deserialize, Serialize};

use super::user::awaited;
use super::{Claim, KindError, Mistake, Sight};
use crate::change::{Change, DirFacts, Object};
use crate::host::Account;
use crate::path::ManagedPath;

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
    if let Some(user) = awaited(path, &accounts, sight.resources) {
        return Err(KindError::NotYet(format!("{path}: it is in the home of the user {user}, who is not on this host yet")));
    }
    let (mut uid, mut gid) = home_owner(path, &accounts).map_or((0, 0), |a| (a.uid, a.gid));
    if let Some(owner) = owner {
        let account = accounts.iter().find(|a| a.name == owner).ok_or_else(|| {
            KindError::NotYet(format!(
                "{path}: the user `{owner}` is neither on this host nor declared: create it, or correct `owner`"
            ))
        })?;
        (uid, gid) = (account.uid, account.gid);
    }
    if let Some(group) = group {
        gid = sight.host.group(group)?.ok_or_else(|| {
            KindError::NotYet(format!(
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
            Ok(Claim { implied: true, ..Claim::new(Change::Dir { path, before: None, after }, "implied") })
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
