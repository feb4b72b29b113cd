//! Who owns what is in a directory, and what may be done with it: what the worker for subtrees is asked and answers. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

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
}

impl Wanted {
    /// The entry as it is to be.
    #[must_use]
    pub fn of(&self, entry: &Entry) -> Entry {
        let mode = if entry.is_directory { self.mode } else { self.file_mode };
        Entry {
            uid: self.uid.unwrap_or(entry.uid),
            gid: self.gid.unwrap_or(entry.gid),
            mode: mode.unwrap_or(entry.mode),
            ..entry.clone()
        }
    }
}

/// What is said of a subtree in which these differ: the same for the same.
#[must_use]
pub fn answer(differing: &[Entry]) -> String {
    if differing.is_empty() {
        return AS_WANTED.to_owned();
    }
    let digest = Digest::of(&serde_json::to_vec(differing).unwrap_or_default()).to_string();
    let mark = digest.get(..8).unwrap_or_default();
    match differing {
        [one] => format!("{} differs ({mark})", one.path),
        several => format!("{} entries differ ({mark})", several.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Wanted, answer};

    #[test]
    fn only_what_is_written_is_managed() {
        let file = Entry { path: "a".to_owned(), is_directory: false, uid: 1, gid: 2, mode: 0o755 };
        let directory = Entry { is_directory: true, ..file.clone() };
        let wanted = Wanted { uid: Some(33), mode: Some(0o750), ..Wanted::default() };
        assert_eq!(wanted.of(&file), Entry { uid: 33, ..file.clone() });
        assert_eq!(wanted.of(&directory), Entry { uid: 33, mode: 0o750, ..directory.clone() });
        assert_eq!(answer(&[]), "as declared");
        assert!(answer(std::slice::from_ref(&file)).starts_with("a differs ("));
        assert_ne!(answer(&[file.clone(), directory.clone()]), answer(&[directory, file]));
    }
}
