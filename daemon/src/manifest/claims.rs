//! Who claims what: every thing has one claimant, and places do not contradict each other.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use super::diagnostic::{Diagnostic, Faults, Text};
use super::document::Declared;
use super::tree::{Entry, unfit_target};
use super::{Origin, Resource};
use crate::digest::Digest;
use crate::kind::{self, DirectorySpec, LinkSpec, Spec as _};
use crate::path::ManagedPath;

/// The key whose value is a path of the host, whatever the kind.
const PATH: &str = "path";

/// What a file is to hold.
#[derive(Debug)]
pub(super) enum Content<'a> {
    None,
    File(&'a [u8]),
    Bytes(Vec<u8>),
}

impl Content<'_> {
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::None => None,
            Self::File(bytes) => Some(bytes),
            Self::Bytes(bytes) => Some(bytes),
        }
    }

    /// Digest and size, as a declaration has them.
    pub(super) fn source(&self) -> Option<Value> {
        let bytes = self.bytes()?;
        serde_json::to_value((Digest::of(bytes), bytes.len() as u64)).ok()
    }
}

/// A resource and where it was declared.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) resource: Resource,
    pub(super) content: Content<'a>,
    /// The last layer that says something of it.
    layer: usize,
    /// The bytes of its name in the manifest; none for an entry of the tree.
    span: Option<Range<usize>>,
}

impl<'a> Claim<'a> {
    pub(super) fn of_tree(kind: &str, name: &str, spec: Value, entry: &Entry<'_>, content: Content<'a>) -> Self {
        let origin = Origin { file: entry.source.to_owned(), line: 0, column: 0 };
        let resource = Resource { kind: kind.to_owned(), name: name.to_owned(), spec, origin };
        Self { resource, content, layer: entry.layer, span: None }
    }

    pub(super) fn of_table(table: &Declared, spec: Value, text: &Text<'_>, content: Content<'a>) -> Self {
        let origin = text.origin(table.start);
        let resource = Resource { kind: table.kind.to_owned(), name: table.name.clone(), spec, origin };
        Self { resource, content, layer: text.layer(table.start), span: Some(table.span.clone()) }
    }

    fn fault(&self, text: &Text<'_>, message: &str) -> Diagnostic {
        match &self.span {
            Some(span) => text.fault(span, message),
            None => Diagnostic::of_file(&self.resource.origin.file, message),
        }
    }

    fn is_absent(&self) -> bool {
        self.resource.spec["state"] == "absent"
    }

    fn is_path(&self) -> bool {
        kind::find(&self.resource.kind).is_some_and(|row| row.key() == PATH)
    }

    fn place(&self, text: &Text<'_>) -> String {
        match &self.span {
            Some(span) => text.origin(span.start).to_string(),
            None => self.resource.origin.to_string(),
        }
    }
}

/// Of one thing that the tree of one layer and a table of another claim, the later layer's word stays.
pub(super) fn settle(claims: &mut Vec<Claim<'_>>) {
    let id = |claim: &Claim<'_>| (claim.resource.kind.clone(), claim.resource.name.clone());
    let (mut trees, mut tables) = (BTreeMap::new(), BTreeMap::new());
    for claim in claims.iter() {
        let layers = if claim.span.is_none() { &mut trees } else { &mut tables };
        let last = layers.entry(id(claim)).or_insert(claim.layer);
        *last = claim.layer.max(*last);
    }
    claims.retain(|claim| {
        let others = if claim.span.is_none() { &tables } else { &trees };
        others.get(&id(claim)).is_none_or(|other| *other <= claim.layer)
    });
}

/// Reports bad paths, things claimed twice, places below something that is no directory, and twins in case.
pub(super) fn check(claims: &[Claim<'_>], text: &Text<'_>, faults: &mut Faults) {
    for claim in claims {
        single(claim, text, faults);
    }
    twice(claims, text, faults);
    let paths: BTreeMap<&str, &Claim<'_>> =
        claims.iter().filter(|c| c.is_path()).map(|c| (c.resource.name.as_str(), c)).collect();
    for claim in paths.values() {
        parents(claim, &paths, text, faults);
    }
    twins(&paths, text, faults);
}

fn single(claim: &Claim<'_>, text: &Text<'_>, faults: &mut Faults) {
    let Resource { kind, name, spec, .. } = &claim.resource;
    if !claim.is_path() {
        return;
    }
    if let Err(why) = ManagedPath::new(name) {
        faults.push(claim.fault(text, &why).help("write an absolute path: path = \"/etc/shop/settings.ini\""));
    }
    if kind == LinkSpec::KIND
        && !claim.is_absent()
        && let Some(why) = spec["target"].as_str().and_then(unfit_target)
    {
        faults.push(claim.fault(text, why).help("write target = \"../sites-available/shop\""));
    }
}

fn twice(claims: &[Claim<'_>], text: &Text<'_>, faults: &mut Faults) {
    let mut first: BTreeMap<(&str, &str), &Claim<'_>> = BTreeMap::new();
    for claim in claims {
        let scope = if claim.is_path() { PATH } else { &claim.resource.kind };
        let other = *first.entry((scope, &claim.resource.name)).or_insert(claim);
        if std::ptr::eq(other, claim) {
            continue;
        }
        let (kind, other_kind) = (&claim.resource.kind, &other.resource.kind);
        let message = if kind == other_kind {
            format!("{} is claimed twice: here and at {}", claim.resource.name, other.place(text))
        } else {
            let (here, there) = (&claim.resource.name, other.place(text));
            format!("{here} is claimed twice: as a {kind} here and as a {other_kind} at {there}")
        };
        faults.push(claim.fault(text, &message).help("keep one of the two"));
        if faults.is_full() {
            return;
        }
    }
}

/// Above a place that is wanted there are only directories.
fn parents(claim: &Claim<'_>, paths: &BTreeMap<&str, &Claim<'_>>, text: &Text<'_>, faults: &mut Faults) {
    let name = claim.resource.name.as_str();
    if claim.is_absent() {
        return;
    }
    let above = name.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(i, _)| &name[..i]);
    for other in above.filter_map(|path| paths.get(path)) {
        let (kind, path) = (&other.resource.kind, &other.resource.name);
        let is = match (other.is_absent(), kind == DirectorySpec::KIND) {
            (false, true) => continue,
            (true, _) => format!("{path} is declared absent"),
            (false, false) => format!("{path} is a {kind}"),
        };
        let message = format!("{name} needs a directory above it, but {is} at {}", other.place(text));
        faults.push(claim.fault(text, &message).help("move one of the two"));
        return;
    }
}

/// Names that differ in case alone: on the disks of many authors they are one file, and git checks out only one.
fn twins(paths: &BTreeMap<&str, &Claim<'_>>, text: &Text<'_>, faults: &mut Faults) {
    let mut folded: BTreeMap<String, &Claim<'_>> = BTreeMap::new();
    for (name, claim) in paths {
        if let Some(other) = folded.insert(name.to_lowercase(), claim) {
            let message = format!("{name} and {} differ only in case ({})", other.resource.name, other.place(text));
            faults.push(claim.fault(text, &message).help("rename one of the two: not every author's disk can hold both"));
        }
    }
}
