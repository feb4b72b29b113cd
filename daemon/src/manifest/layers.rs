//! Which directories of the repository contribute, and in which order: the base, what it includes, and the layer of this host.

use std::collections::BTreeSet;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Faults, Text};
use super::suggest::nearest;
use super::syntax::{self, Key, Value};
use super::table::with_article;
use super::{MANIFEST, MANIFEST_LIMIT};
use crate::path::check_relative;
use crate::source::{Snapshot, SourceEntry};

/// The key of the base that names further layers.
pub(super) const INCLUDE: &str = "include";
/// The folder with a layer for each host.
const HOSTS: &str = "hosts";
/// More layers than this are refused: each is walked whole.
const LAYER_LIMIT: usize = 64;
/// How `include` is written.
const WRITE: &str = "write include = [\"roles/web\"]";

/// A directory that contributes a manifest and files.
#[derive(Debug)]
pub(super) struct Layer<'a> {
    /// Its path with a slash behind it; empty for the base.
    pub(super) prefix: String,
    /// Its manifest; empty when there is none.
    pub(super) root: DeTable<'a>,
    /// It is no TOML: what it says is not known.
    pub(super) broken: bool,
}

/// Reads the manifests of all layers, in the order in which they win: the last one most.
pub(super) fn read<'a>(snapshot: &'a Snapshot, host: &str, text: &mut Text<'a>, faults: &mut Faults) -> Vec<Layer<'a>> {
    let base = layer(snapshot, 0, String::new(), text, faults);
    let mut further = base.root.get(INCLUDE).map(|include| included(include, snapshot, text, faults)).unwrap_or_default();
    let own = format!("{HOSTS}/{host}/");
    if holds_any(snapshot, &own) {
        further.push(own);
    }
    let mut layers = vec![base];
    for prefix in further {
        let next = layer(snapshot, layers.len(), prefix, text, faults);
        if let Some((key, _)) = next.root.get_key_value(INCLUDE) {
            faults.push(nested(key, text));
        }
        layers.push(next);
    }
    layers
}

/// The hosts that have a layer.
pub(super) fn hosts(snapshot: &Snapshot) -> BTreeSet<&str> {
    let inside = format!("{HOSTS}/");
    let paths = snapshot.entries.range(inside.clone()..).map_while(|(path, _)| path.strip_prefix(&inside));
    paths.filter_map(|path| path.split_once('/')).map(|(host, _)| host).collect()
}

fn layer<'a>(snapshot: &'a Snapshot, index: usize, prefix: String, text: &mut Text<'a>, faults: &mut Faults) -> Layer<'a> {
    let found = snapshot.entries.get_key_value(&format!("{prefix}{MANIFEST}"));
    let content = found.and_then(|(file, entry)| Some((file, manifest_text(file, entry, faults)?)));
    let root = content.and_then(|(file, content)| {
        let begin = text.add(index, file, content);
        syntax::parse(content, begin, text, faults)
    });
    Layer { prefix, broken: found.is_some() && root.is_none(), root: root.unwrap_or_default() }
}

fn manifest_text<'a>(file: &str, entry: &'a SourceEntry, faults: &mut Faults) -> Option<&'a str> {
    let SourceEntry::File { content, .. } = entry else {
        faults.push(Diagnostic::of_file(file, "the manifest is a symbolic link").help("put the file itself there"));
        return None;
    };
    if content.len() > MANIFEST_LIMIT {
        let message = format!("the manifest is larger than {MANIFEST_LIMIT} bytes");
        faults.push(Diagnostic::of_file(file, &message).help("put long contents under files/"));
        return None;
    }
    let text = std::str::from_utf8(content);
    if let Err(error) = text {
        let line = content[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        let fault = Diagnostic::of_file(file, "not UTF-8 text").help("save it as UTF-8");
        faults.push(Diagnostic { line, column: 1, ..fault });
    }
    text.ok()
}

/// The directories that `include` names, each with a slash behind it.
fn included(include: &Value<'_>, snapshot: &Snapshot, text: &Text<'_>, faults: &mut Faults) -> Vec<String> {
    let DeValue::Array(items) = include.get_ref() else {
        let written = with_article(include.get_ref().type_str());
        let message = format!("`{INCLUDE}` is a list of directories, not {written}");
        faults.push(text.fault(&include.span(), &message).help(WRITE));
        return Vec::new();
    };
    let mut prefixes = Vec::new();
    for item in items {
        if prefixes.len() >= LAYER_LIMIT {
            faults.push(text.fault(&item.span(), &format!("more than {LAYER_LIMIT} layers")).help("join some of them"));
            break;
        }
        match prefix_of(item, &prefixes, snapshot) {
            Ok(prefix) => prefixes.push(prefix),
            Err((message, help)) => faults.push(text.fault(&item.span(), &message).help(&help)),
        }
    }
    prefixes
}

/// One directory of `include`, or what is wrong with it and what to write instead.
fn prefix_of(item: &Value<'_>, earlier: &[String], snapshot: &Snapshot) -> Result<String, (String, String)> {
    let fault = |message: String, help: &str| Err((message, help.to_owned()));
    let Some(written) = item.get_ref().as_str() else {
        let kind = with_article(item.get_ref().type_str());
        return fault(format!("`{INCLUDE}` is a list of directories; this is {kind}"), WRITE);
    };
    let dir = written.trim_end_matches('/');
    if written.starts_with('/') || dir.split('/').any(|component| component == "..") {
        return fault(format!("`{written}` is outside the repository"), WRITE);
    }
    if let Err(why) = check_relative(dir) {
        return fault(why, WRITE);
    }
    let prefix = format!("{dir}/");
    if dir == HOSTS || prefix.starts_with("hosts/") {
        let help = "move what hosts share to a directory of its own: include = [\"roles/web\"]";
        return fault(format!("`{dir}` belongs to one host, which reads it without being told"), help);
    }
    if earlier.contains(&prefix) {
        return fault(format!("`{dir}` is included twice"), "remove one of the two");
    }
    if holds_layer(snapshot, &prefix) {
        return Ok(prefix);
    }
    let message = if snapshot.entries.contains_key(dir) {
        format!("{dir} is no directory")
    } else if holds_any(snapshot, &prefix) {
        format!("{dir} has neither {MANIFEST} nor files/")
    } else {
        format!("this repository has no directory {dir}")
    };
    let near = nearest(dir, directories(snapshot));
    let help = near.map_or_else(|| format!("add {dir}/{MANIFEST} or {dir}/files/"), |near| format!("did you mean `{near}`?"));
    Err((message, help))
}

fn nested(key: &Key<'_>, text: &Text<'_>) -> Diagnostic {
    let fault = text.fault(&key.span(), &format!("only the {MANIFEST} at the top includes others"));
    fault.help("name the directory there; the order of the list says which wins")
}

fn holds_any(snapshot: &Snapshot, prefix: &str) -> bool {
    snapshot.entries.range(prefix.to_owned()..).next().is_some_and(|(path, _)| path.starts_with(prefix))
}

fn holds_layer(snapshot: &Snapshot, prefix: &str) -> bool {
    snapshot.entries.contains_key(&format!("{prefix}{MANIFEST}")) || holds_any(snapshot, &format!("{prefix}files/"))
}

/// The directories that could be included.
fn directories(snapshot: &Snapshot) -> BTreeSet<&str> {
    let of_manifest = |path: &'_ str| path.strip_suffix(MANIFEST).and_then(|dir| dir.strip_suffix('/')).map(str::len);
    let of_file = |path: &'_ str| path.split_once("/files/").map(|(dir, _)| dir.len());
    let paths = snapshot.entries.keys().map(String::as_str);
    paths.filter_map(|path| of_manifest(path).or_else(|| of_file(path)).map(|end| &path[..end])).collect()
}
