//! The way to a path with a user's eyes, as namei(1) shows it: which step lacks which right.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use crate::diagnose::{Step, StepKind, Walk};

/// More steps than a path can have; symbolic links that lead round and round end here.
const LONGEST: usize = 80;
/// The extended attribute of an access list (acl(5)).
const ACL: &str = "system.posix_acl_access";

/// Users and groups of this host (passwd(5), group(5)).
struct Accounts {
    users: Vec<(String, u32, u32)>,
    groups: Vec<(String, u32, Vec<String>)>,
}

/// Whose rights count.
struct Eyes {
    uid: u32,
    gids: Vec<u32>,
}

/// Walks to each of these paths as this user.
pub(super) fn all(paths: &BTreeSet<String>, user: &str) -> Vec<Walk> {
    let accounts = Accounts::read();
    let eyes = accounts.eyes(user);
    paths
        .iter()
        .map(|path| Walk { path: path.clone(), user: user.to_owned(), steps: steps(path, &accounts, eyes.as_ref()) })
        .collect()
}

fn steps(path: &str, accounts: &Accounts, eyes: Option<&Eyes>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut here = PathBuf::new();
    let mut ahead: VecDeque<PathBuf> = parts(Path::new(path)).collect();
    while let Some(part) = ahead.pop_front() {
        if steps.len() >= LONGEST || ahead.len() >= LONGEST {
            break;
        }
        match part.as_os_str().to_str() {
            Some("..") => {
                here.pop();
                continue;
            }
            _ => here.push(&part),
        }
        let shown = here.to_string_lossy().into_owned();
        let Ok(found) = fs::symlink_metadata(&here) else {
            steps.push(Step { path: shown, ..Step::default() });
            break;
        };
        if let Some(target) = found.is_symlink().then(|| fs::read_link(&here).ok()).flatten() {
            here.pop();
            for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                ahead.push_front(part);
            }
            // Counted, so that links to themselves end.
            steps.push(step(shown, &found, accounts, None));
            continue;
        }
        steps.push(step(shown, &found, accounts, eyes));
    }
    steps
}

/// The parts of a path; the root is one.
fn parts(path: &Path) -> impl Iterator<Item = PathBuf> {
    path.components().filter(|part| *part != Component::CurDir).map(|part| PathBuf::from(part.as_os_str()))
}

fn step(path: String, found: &Metadata, accounts: &Accounts, eyes: Option<&Eyes>) -> Step {
    const READ: u32 = 4;
    const WRITE: u32 = 2;
    const ENTER: u32 = 1;
    let kind = found.file_type();
    let (kind, right) = if kind.is_dir() {
        (StepKind::Directory, ENTER)
    } else if kind.is_socket() {
        (StepKind::Socket, WRITE)
    } else {
        (StepKind::File, READ)
    };
    let (class, shift) = eyes.map_or(("o", 0), |eyes| eyes.class(found));
    let may = eyes.is_none_or(|eyes| eyes.uid == 0) || (found.mode() >> shift) & right != 0;
    let denied = !may && !has_list(&path);
    Step { kind, mode: found.mode() & 0o7777, owner: accounts.owner(found), class: class.to_owned(), denied, path }
}

/// Whether an access list says more than the permissions: then they prove nothing.
fn has_list(path: &str) -> bool {
    rustix::fs::lgetxattr(path, ACL, &mut [0_u8; 4096][..]).is_ok()
}

impl Eyes {
    /// Whose permissions count, and where they stand in the mode.
    fn class(&self, found: &Metadata) -> (&'static str, u32) {
        if self.uid == found.uid() {
            ("u", 6)
        } else if self.gids.contains(&found.gid()) {
            ("g", 3)
        } else {
            ("o", 0)
        }
    }
}

impl Accounts {
    fn read() -> Self {
        let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let lines = |path: &str| fs::read_to_string(path).unwrap_or_default().lines().map(fields).collect::<Vec<_>>();
        let user = |f: Vec<String>| Some((f.first()?.clone(), f.get(2)?.parse().ok()?, f.get(3)?.parse().ok()?));
        let group = |f: Vec<String>| {
            let members = f.get(3)?.split(',').map(str::to_owned).collect();
            Some((f.first()?.clone(), f.get(2)?.parse().ok()?, members))
        };
        Self {
            users: lines("/etc/passwd").into_iter().filter_map(user).collect(),
            groups: lines("/etc/group").into_iter().filter_map(group).collect(),
        }
    }

    fn eyes(&self, user: &str) -> Option<Eyes> {
        let (name, uid, gid) = self.users.iter().find(|(name, _, _)| name == user)?;
        let more = self.groups.iter().filter(|(_, _, members)| members.contains(name)).map(|(_, gid, _)| *gid);
        Some(Eyes { uid: *uid, gids: std::iter::once(*gid).chain(more).collect() })
    }

    /// `user:group`, by name where there is one.
    fn owner(&self, found: &Metadata) -> String {
        let user = self.users.iter().find(|(_, uid, _)| *uid == found.uid()).map(|(name, _, _)| name.clone());
        let group = self.groups.iter().find(|(_, gid, _)| *gid == found.gid()).map(|(name, _, _)| name.clone());
        format!("{}:{}", user.unwrap_or_else(|| found.uid().to_string()), group.unwrap_or_else(|| found.gid().to_string()))
    }
}
