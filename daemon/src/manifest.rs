//! Bytes to declarations: `reconciled.toml` and the `files/` tree of a snapshot become resources and probes. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::probe::Probe;

/// Where something was declared, for messages: `reconciled.toml:12:5`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Path in the repository.
    pub file: String,
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// One declared thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// What it is: `file`, `unit`… (a row of `kind::KINDS`).
    pub kind: String,
    /// Which one: a path, a unit name.
    pub name: String,
    /// The kind's own declaration, complete with its defaults.
    pub spec: serde_json::Value,
    /// Where it was declared.
    pub origin: Origin,
}

/// What a repository declares: the content of a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Declared things, in order of declaration.
    pub resources: Vec<Resource>,
    /// Health checks.
    pub probes: Vec<Probe>,
    /// Remarks that fail nothing.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// File contents by digest.
    #[serde(skip)]
    pub contents: BTreeMap<Digest, Vec<u8>>,
    /// An empty repository is meant.
    #[serde(skip)]
    pub allow_empty: bool,
}
