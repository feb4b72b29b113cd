//! `[[file]]` tables over the `files/` tree: key by key, an exact path beats a glob, and what is left stands alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use globset::GlobMatcher;
use serde_json::Value;

use super::claims::{Claim, Content};
use super::diagnostic::{Diagnostic, Faults, Text, clip};
use super::document::Declared;
use super::suggest::nearest;
use super::template::{Rendered, Renderer};
use super::tree::{Entry, Form, Tree};
use crate::kind::{Drift, FileSpec, LinkSpec, LinksPolicy, Spec as _, State};
use crate::source::SourceEntry;

/// More globs than this are refused: each is compared with every file.
const GLOB_LIMIT: usize = 256;
/// Keys that say what a file is, not what it is like: they need an exact path.
const EXACT_ONLY: [&str; 2] = ["content", "state"];

/// A `[[file]]` table whose path is a glob.
struct Glob<'d> {
    matcher: GlobMatcher,
    table: &'d Declared,
}

/// A wish for one key of one file, and who has it.
type Wishes<'d> = BTreeMap<&'d str, &'d Declared>;

/// Merges the tree and the tables on it; `tables` are the `[[file]]` tables in order.
pub(super) fn merge<'a>(
    tree: &Tree<'a>,
    tables: &'a [Declared],
    replaced: &BTreeSet<String>,
    text: &Text<'_>,
    (renderer, faults): (&mut Renderer, &mut Faults),
) -> Vec<Claim<'a>> {
    let mut merging = Merging { tree, text, renderer, faults, replaced, exact: BTreeMap::new(), globs: Vec::new() };
    let alone = merging.sort(tables);
    let mut used = BTreeSet::new();
    let mut claims: Vec<Claim<'a>> = tree.iter().filter_map(|(path, entry)| merging.place(path, *entry, &mut used)).collect();
    merging.unused(&used);
    claims.extend(alone.into_iter().filter_map(|table| merging.stand_alone(table)));
    claims
}

/// Takes the files out of the tree in whose place a table of a later layer puts something else, or nothing.
pub(super) fn take_replaced(tree: &mut Tree<'_>, tables: &[Declared], text: &Text<'_>) -> BTreeSet<String> {
    let replaces = |table: &&Declared| {
        let Some(Entry { entry: SourceEntry::File { .. }, layer, .. }) = tree.get(&table.name) else { return false };
        brought(table).is_some_and(|(_, span)| text.layer(span.start) > *layer)
    };
    let replaced: BTreeSet<String> = tables.iter().filter(replaces).map(|table| table.name.clone()).collect();
    tree.retain(|path, _| !replaced.contains(path));
    replaced
}

/// The key by which a table says what stands in a place, if it does.
fn brought(table: &Declared) -> Option<(&'static str, &Range<usize>)> {
    let says = |key: &&'static str| *key == "content" || table.spec[*key] == "absent";
    EXACT_ONLY.into_iter().filter(says).find_map(|key| Some((key, written(table, key)?)))
}

struct Merging<'m, 'a, 't, 'f> {
    tree: &'m Tree<'a>,
    text: &'m Text<'t>,
    renderer: &'f mut Renderer,
    faults: &'f mut Faults,
    /// Files that were in the tree until a table took their place.
    replaced: &'m BTreeSet<String>,
    /// Tables with the exact path of a file of the tree.
    exact: BTreeMap<&'a str, &'a Declared>,
    globs: Vec<Glob<'a>>,
}

impl<'a> Merging<'_, 'a, '_, '_> {
    /// Sorts the tables: over one file, over many, and those that stand alone, which are returned.
    fn sort(&mut self, tables: &'a [Declared]) -> Vec<&'a Declared> {
        let mut alone = Vec::new();
        for table in tables {
            match self.tree.get(&table.name).map(|e| e.entry) {
                Some(SourceEntry::File { .. }) => self.over_one(table),
                Some(SourceEntry::Link { .. }) => alone.push(table),
                None if table.name.contains(['*', '?', '[', '{']) => self.over_many(table),
                None => alone.push(table),
            }
        }
        alone
    }

    fn over_one(&mut self, table: &'a Declared) {
        let entry = self.tree.get(&table.name);
        if let (Some((key, span)), Some(Entry { source, layer, .. })) = (brought(table), entry)
            && self.text.layer(span.start) == *layer
        {
            let claimed = format!("{} is claimed twice: by `{key}` here and by {source}", table.name);
            self.fault(span, &claimed, &format!("remove `{key}`, or {source}"));
            return;
        }
        if let Some(first) = self.exact.insert(&table.name, table) {
            let place = self.text.origin(first.span.start);
            let message = format!("{} is claimed twice: here and at {place}", table.name);
            self.fault(&table.span, &message, "merge the two [[file]] tables");
        }
    }

    fn over_many(&mut self, table: &'a Declared) {
        let glob = crate::path::glob(&table.name);
        let fit = |glob: &globset::Glob| glob.glob().starts_with('/');
        match glob.ok().filter(fit) {
            None => {
                self.fault(&table.span, "this is no glob over absolute paths", "write path = \"/etc/nginx/sites-available/*\"")
            }
            Some(_) if self.globs.len() >= GLOB_LIMIT => {
                self.fault(&table.span, &format!("more than {GLOB_LIMIT} globs"), "join some of them: /etc/**/{a,b}.conf");
            }
            Some(glob) => {
                if let Some((key, span)) = EXACT_ONLY.iter().find_map(|key| written(table, key).map(|span| (key, span))) {
                    self.fault(span, &format!("`{key}` needs an exact path, not a glob"), "name each path in a table of its own");
                    return;
                }
                self.globs.push(Glob { matcher: glob.compile_matcher(), table });
            }
        }
    }

    /// A file or link of the tree, with what the tables say of it.
    fn place(&mut self, path: &str, entry: Entry<'a>, used: &mut BTreeSet<usize>) -> Option<Claim<'a>> {
        match entry.entry {
            SourceEntry::Link { target } => {
                let (path_of, target) = (path.to_owned(), target.clone());
                let spec = LinkSpec { path: path_of, target, state: State::Present, drift: Drift::default() };
                Some(Claim::of_tree(LinkSpec::KIND, path, serde_json::to_value(spec).ok()?, &entry, Content::None))
            }
            SourceEntry::File { content, executable } => {
                let wishes = self.wishes(path, used);
                let spec = FileSpec {
                    path: path.to_owned(),
                    content: None,
                    owner: None,
                    group: None,
                    mode: executable.then(|| "0755".to_owned()),
                    secret: false,
                    links: LinksPolicy::Refuse,
                    state: State::Present,
                    drift: Drift::default(),
                    source: None,
                    open: BTreeSet::new(),
                };
                let mut spec = serde_json::to_value(spec).ok()?;
                for (key, table) in &wishes {
                    spec[*key] = table.spec[*key].clone();
                }
                let content = if entry.form == Form::Sealed {
                    hide(&mut spec, (*executable, !wishes.contains_key("mode")));
                    Content::Bytes(self.renderer.opened(entry.source))
                } else if entry.form == Form::Template {
                    // Whoever calls it secret means all of it.
                    let is_secret = spec["secret"] == true;
                    let rendered = self.render(&entry, content, is_secret)?;
                    if rendered.secret {
                        hide(&mut spec, (*executable, !wishes.contains_key("mode")));
                    }
                    if rendered.secret && !is_secret {
                        spec["open"] = serde_json::to_value(&rendered.open).ok()?;
                    }
                    Content::Bytes(rendered.text.into_bytes())
                } else {
                    Content::File(content)
                };
                spec["source"] = content.source()?;
                Some(Claim::of_tree(FileSpec::KIND, path, spec, &entry, content))
            }
        }
    }

    /// A template carried out. What is wrong with one that is declared secret is said without a word of it.
    fn render(&mut self, entry: &Entry<'a>, content: &[u8], is_secret: bool) -> Option<Rendered> {
        match self.renderer.file(entry.source, content) {
            Ok(rendered) => Some(rendered),
            Err(blunder) => {
                let blunder = if is_secret { blunder.discreet() } else { blunder };
                let fault = self.renderer.diagnose(&blunder, entry.source, content);
                self.faults.push(Diagnostic { private: is_secret, ..fault });
                None
            }
        }
    }

    /// Who says what about a file: an exact path beats a glob, a later layer an earlier one, and two globs of one layer must not
    /// speak of the same key.
    fn wishes(&mut self, path: &str, used: &mut BTreeSet<usize>) -> Wishes<'a> {
        let exact = self.exact.get(path).copied();
        let mut wishes = Wishes::new();
        for i in 0..self.globs.len() {
            let Glob { matcher, table } = &self.globs[i];
            let table = *table;
            if !matcher.is_match(path) {
                continue;
            }
            used.insert(i);
            for (key, span) in &table.keys {
                if key == "path" || exact.is_some_and(|e| written(e, key).is_some()) {
                    continue;
                }
                let layer = |table: &Declared| written(table, key).map(|span| self.text.layer(span.start));
                let other = wishes.get(key.as_str()).copied();
                if other.is_none_or(|other| layer(other) < layer(table)) {
                    wishes.insert(key, table);
                } else if let Some(other) = other.filter(|other| layer(other) == layer(table)) {
                    let place = self.text.origin(other.span.start);
                    let message =
                        format!("`{key}` of {path} is set by two globs: `{}` here and `{}` at {place}", table.name, other.name);
                    self.fault(span, &message, &format!("name the file in a [[file]] table: path = \"{path}\""));
                    return wishes;
                }
            }
        }
        let own = exact.into_iter().flat_map(|table| table.keys.iter().map(move |(key, _)| (key.as_str(), table)));
        // What an earlier layer put in this place is not there any more.
        wishes.extend(own.filter(|(key, _)| *key != "path" && !EXACT_ONLY.contains(key)));
        wishes
    }

    /// Globs that match nothing are mistakes: their author meant some file.
    fn unused(&mut self, used: &BTreeSet<usize>) {
        for i in (0..self.globs.len()).filter(|i| !used.contains(i)) {
            let Glob { matcher, table } = &self.globs[i];
            let table = *table;
            if self.replaced.iter().any(|path| matcher.is_match(path)) {
                continue;
            }
            let message = format!("no file under files/ matches `{}`", table.name);
            self.fault(&table.span, &message, "correct the glob (* stays within a directory, ** does not), or remove the table");
        }
    }

    /// A table without a file in the tree: it brings its content, or says that the file must not be there.
    fn stand_alone(&mut self, table: &'a Declared) -> Option<Claim<'a>> {
        let mut spec = table.spec.clone();
        let content = spec.as_object_mut().and_then(|s| s.remove("content"));
        match content {
            Some(Value::String(content)) => {
                let content = Content::Bytes(content.into_bytes());
                spec["source"] = content.source()?;
                Some(Claim::of_table(table, spec, self.text, content))
            }
            _ if spec["state"] == "absent" => Some(Claim::of_table(table, spec, self.text, Content::None)),
            _ => {
                self.no_content(table);
                None
            }
        }
    }

    fn no_content(&mut self, table: &Declared) {
        let path = &table.name;
        let below = format!("{path}/");
        let (message, help) = match self.tree.get(path) {
            Some(link) => (format!("{} is a symbolic link, not a file", link.source), "remove this table".to_owned()),
            None if self.tree.range(below.clone()..).next().is_some_and(|(p, _)| p.starts_with(&below)) => {
                (format!("{path} is a directory"), "write [[directory]]".to_owned())
            }
            None if path.starts_with("files/") => {
                let place = path.trim_start_matches("files");
                (format!("{} is a place in the repository", clip(path, 200)), format!("write path = \"{}\"", clip(place, 200)))
            }
            None => (format!("{} has no content", clip(path, 200)), format!("add files{} or `content`", self.similar(path))),
        };
        self.fault(&table.span, &message, &help);
    }

    /// The path, or the one of the tree that was probably meant.
    fn similar(&self, path: &str) -> String {
        let near = nearest(path, self.tree.keys().map(String::as_str));
        near.map_or_else(|| path.to_owned(), |near| format!("{path} (or did you mean {near}?)"))
    }

    fn fault(&mut self, span: &Range<usize>, message: &str, help: &str) {
        self.faults.push(self.text.fault(span, message).help(help));
    }
}

/// The bytes of a key's value, if the table has the key.
fn written<'d>(table: &'d Declared, key: &str) -> Option<&'d Range<usize>> {
    table.keys.iter().find(|(k, _)| k == key).map(|(_, span)| span)
}

/// What was made with a secret is one: never shown, and nobody's to read unless a table says whose.
fn hide(spec: &mut Value, (is_executable, has_no_mode): (bool, bool)) {
    spec["secret"] = Value::Bool(true);
    if has_no_mode {
        spec["mode"] = Value::from(if is_executable { "0700" } else { "0600" });
    }
}
