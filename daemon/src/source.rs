//! What comes out of git: a commit and the bounded, checked snapshot of its tree. Parsing of git objects happens in the
//! unprivileged source worker; parsing of manifests does not happen here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A commit, as far as anybody here asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Object id, 40 hexadecimal digits.
    pub id: String,
    /// First line of the message, safe to show.
    pub summary: String,
    /// `Name <mail>` of the author, safe to show.
    pub author: String,
}

/// One entry of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEntry {
    /// A regular file (git modes 100644 and 100755).
    File {
        /// Its bytes.
        content: Vec<u8>,
        /// Mode 100755.
        executable: bool,
    },
    /// A symbolic link (git mode 120000).
    Link {
        /// Its text.
        target: String,
    },
}

/// The tree of one commit: every name has passed `path::check_relative`, every size the budgets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Which commit; empty for a directory that is only validated.
    pub commit: Commit,
    /// Entries by their path in the repository.
    pub entries: BTreeMap<String, SourceEntry>,
}
