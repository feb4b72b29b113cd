//! Who owns what is in a directory, and what may be done with it: what the worker for subtrees is asked and answers. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Most entries of a subtree, and of what differs in one.
pub const ENTRIES: usize = 100_000;
/// Longest request, in bytes.
pub const LIMIT: u64 = 64 << 20;
/// The answer when all is as it is wanted.
pub const AS_WANTED: &str = "as declared";

/// What is asked about a subtree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The directory that it is in.
    pub path: String,
    /// What all of it is to be.
    pub wanted: Wanted,
    /// Paths that have a declaration of their own: they are passed by.
    pub own: BTreeSet<String>,
    /// Paths of which all that is below is somebody else's too.
    pub closed: BTreeSet<String>,
    /// What differed when the plan was made, as it was: the way back.
    pub before: Vec<Entry>,
}

/// What is managed; what is `None` is left as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Permission bits of directories.
    pub mode: Option<u32>,
    /// Permission bits of files.
    pub file_mode: Option<u32>,
}

/// One file or directory of a subtree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Below the directory.
    pub path: String,
    /// A directory; a file otherwise.
    pub is_directory: bool,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Which one it is: another may have taken its name since.
    pub inode: u64,
}

/// The bits of set-user-ID and set-group-ID: given to another owner they would give away what that one may do.
const SET_ID: u32 = 0o6000;

impl Wanted {
    /// The entry as it is to be.
    #[must_use]
    pub fn of(&self, entry: &Entry) -> Entry {
        let mode = if entry.is_directory { self.mode } else { self.file_mode };
        let wanted = Entry { uid: self.uid.unwrap_or(entry.uid), gid: self.gid.unwrap_or(entry.gid), ..entry.clone() };
        Entry { mode: mode.unwrap_or(wanted.mode_under(entry)), ..wanted }
    }
}

impl Entry {
    /// The permission bits that it keeps when it is given to its owner by another one.
    #[must_use]
    pub fn mode_under(&self, before: &Self) -> u32 {
        let is_given = (self.uid, self.gid) != (before.uid, before.gid);
        if is_given && !self.is_directory { self.mode & !SET_ID } else { self.mode }
    }
}

/// What is said of a subtree in which these differ.
#[must_use]
pub fn words(differing: &[Entry]) -> String {
    match differing {
        [] => AS_WANTED.to_owned(),
        [one] => format!("{} differs", one.path),
        several => format!("{} entries differ", several.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Wanted, words};

    #[test]
    fn only_what_is_written_is_managed() {
        let file = Entry { path: "a".to_owned(), is_directory: false, uid: 1, gid: 2, mode: 0o755, inode: 7 };
        let directory = Entry { is_directory: true, ..file.clone() };
        let wanted = Wanted { uid: Some(33), mode: Some(0o750), ..Wanted::default() };
        assert_eq!(wanted.of(&file), Entry { uid: 33, ..file.clone() });
        assert_eq!(wanted.of(&directory), Entry { uid: 33, mode: 0o750, ..directory.clone() });
        // A program of one user does not become another's with the rights of its owner.
        let program = Entry { mode: 0o6755, ..file.clone() };
        assert_eq!(wanted.of(&program), Entry { uid: 33, mode: 0o755, ..program.clone() });
        assert_eq!(Wanted::default().of(&program), program);
        assert_eq!(Wanted { file_mode: Some(0o4711), ..wanted }.of(&program).mode, 0o4711);
        assert_eq!((words(&[]), words(std::slice::from_ref(&file))), ("as declared".to_owned(), "a differs".to_owned()));
        assert_eq!(words(&[file, directory]), "2 entries differ");
    }
}
