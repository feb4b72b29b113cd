//! Bytes to declarations: `reconciled.toml` and the `files/` tree of a snapshot become resources and probes. Pure: no
//! file, clock or environment is read here.
//!
//! ```text
//!  layers ─► reconciled.toml ─► syntax ─► document ─► table (one table, its mistakes explained) ─┐
//!         ─► files/ ────────────────────► tree ─────────────────────────► overlay ──────────────┴─► claims ─► Manifest, notes
//! ```
//!
//! On the way `template` carries out what `document` and `overlay` meet: expressions in tables, templates of the tree.

mod claims;
mod diagnostic;
mod document;
mod layers;
mod notes;
mod overlay;
mod probes;
pub(crate) mod scope;
mod suggest;
mod syntax;
mod table;
mod template;
#[cfg(test)]
mod tests;
mod tree;
mod vars;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use self::claims::{Claim, Content};
pub use self::diagnostic::Diagnostic;
use self::diagnostic::{Faults, Text};
use self::document::Document;
use self::template::Renderer;
use self::tree::Tree;
use crate::digest::Digest;
use crate::facts::Facts;
use crate::kind::{FileSpec, Spec as _};
use crate::probe::Probe;
use crate::source::{Snapshot, SourceEntry};

/// The manifest of a repository.
pub const MANIFEST: &str = "reconciled.toml";
/// Largest manifest, in bytes: far more than a person writes, and little enough to be read in no time.
const MANIFEST_LIMIT: usize = 1 << 20;

/// Stack that reading a repository may take, in bytes. Templates may nest what is then parsed, printed and dropped level by level;
/// the worst that their limits let through was measured to take half of this.
pub const STACK: usize = 64 << 20;

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
    /// The facts of the host, if anything was rendered with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// What was done for the generation, and nothing takes back: `command:migrate`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stays: BTreeSet<String>,
    /// Secrets that templates ask for and nobody has opened; what was rendered then is for no host.
    #[serde(skip)]
    pub unopened: BTreeSet<String>,
    /// Remarks that fail nothing.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// File contents by digest.
    #[serde(skip)]
    pub contents: BTreeMap<Digest, Vec<u8>>,
    /// What the repository's secrets hold, by name: contents of the generation as those of files are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sealed: BTreeMap<String, Digest>,
    /// Secrets of the repository, open, by name.
    #[serde(skip)]
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// An empty repository is meant.
    #[serde(skip)]
    pub allow_empty: bool,
}

impl Manifest {
    /// A line of a check with the files of the repository behind the places that it names: `… in /etc/nginx/sites-enabled/shop:4` gets
    /// ` (files/etc/nginx/sites-available/shop:4)`.
    #[must_use]
    pub fn with_sources(&self, line: &str) -> String {
        let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || "/._-@".contains(c));
        let named = self.resources.iter().filter(|resource| matches!(resource.kind.as_str(), "file" | "link"));
        let found = named.filter_map(|resource| {
            let rest = line.split_once(resource.name.as_str())?.1;
            is_end(rest).then_some((resource, rest))
        });
        let Some((resource, rest)) = found.max_by_key(|(resource, _)| resource.name.len()) else {
            return self
                .quoted_in(line)
                .map_or_else(|| line.to_owned(), |place| format!("{line} ({})", crate::path::escape(&place)));
        };
        let Some(source) = self.source_of(resource) else { return line.to_owned() };
        let number: String = rest.strip_prefix(':').unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        // What is rendered has other lines than what it was rendered from.
        let number = if source.ends_with(".j2") { String::new() } else { number };
        let place = if number.is_empty() { source.to_owned() } else { format!("{source}:{number}") };
        if line.contains(&place) { line.to_owned() } else { format!("{line} ({})", crate::path::escape(&place)) }
    }

    /// The one place of the repository that names what a line quotes or is about to bind: a certificate that is missing, an address that is
    /// not this host's.
    fn quoted_in(&self, line: &str) -> Option<String> {
        let quoted = line.split('"').skip(1).step_by(2).find(|part| part.starts_with('/'));
        let bound = line.split_once("bind() to ").and_then(|(_, rest)| rest.split(' ').next());
        let what = quoted.or(bound)?;
        let mut places = self.resources.iter().filter(|resource| resource.kind == "file").flat_map(|resource| {
            let digest = resource.spec["source"].get(0).and_then(|digest| digest.as_str()?.parse::<Digest>().ok());
            let text = digest.and_then(|digest| self.contents.get(&digest)).and_then(|bytes| std::str::from_utf8(bytes).ok());
            let file = self.source_of(resource).unwrap_or_default();
            let names = |text: &str| text.split(|c: char| c.is_whitespace() || ";\"'".contains(c)).any(|word| word == what);
            let lines = text.unwrap_or_default().lines().enumerate().filter(move |(_, text)| names(text));
            lines.map(move |(number, _)| format!("{file}:{}", number + 1))
        });
        let place = places.next().filter(|place| !place.starts_with(':'))?;
        places.next().is_none().then_some(place)
    }

    /// The file of the repository behind a file, or behind what a link leads to.
    fn source_of<'a>(&'a self, resource: &'a Resource) -> Option<&'a str> {
        if resource.kind == "file" {
            return Some(resource.origin.file.as_str()).filter(|file| resource.origin.line == 0 && !file.is_empty());
        }
        let target = resource.spec.get("target")?.as_str()?;
        let above = resource.name.rsplit_once('/')?.0;
        let led = crate::path::joined(above, target)?;
        self.resources.iter().find(|r| r.kind == "file" && r.name == led).and_then(|file| self.source_of(file))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::path::escape(&self.file))?;
        if self.line > 0 { write!(f, ":{}:{}", self.line, self.column) } else { Ok(()) }
    }
}

/// For whom a repository is read.
#[derive(Clone, Default)]
pub struct Context {
    /// The name that chooses the layer below `hosts/`.
    pub host: String,
    /// What the host says of itself.
    pub facts: Facts,
    /// What its secrets hold, by name.
    pub secrets: BTreeMap<String, Vec<u8>>,
}

/// Never the secrets.
impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secrets: Vec<_> = self.secrets.keys().collect();
        f.debug_struct("Context").field("host", &self.host).field("facts", &self.facts).field("secrets", &secrets).finish()
    }
}

/// Reads what a repository declares for a host.
///
/// # Errors
/// All mistakes that were found, in order, at most a screenful.
pub fn read(snapshot: &Snapshot, context: &Context) -> Result<Manifest, Vec<Diagnostic>> {
    let mut faults = Faults::default();
    let mut text = Text::default();
    let mut layers = layers::read(snapshot, &context.host, &mut text, &mut faults);
    let mut tree = tree::read(snapshot, &layers, &mut faults);
    let vars = vars::take(&mut layers, &text, &mut faults);
    if layers.iter().any(|layer| layer.broken) {
        // Names that it defines would be missing everywhere else.
        return Err(faults.into_sorted(MANIFEST));
    }
    let mut renderer = Renderer::new(snapshot, context, vars);
    let document = document::read(&mut layers, &text, &mut renderer, &mut faults);
    let mut manifest = assemble(document, &mut tree, &text, (&mut renderer, &mut faults));
    if !faults.is_empty() {
        return Err(faults.into_sorted(MANIFEST));
    }
    manifest.facts = renderer.has_seen_facts().then(|| context.facts.clone());
    manifest.unopened = renderer.unopened();
    if manifest.resources.is_empty() && !manifest.allow_empty {
        return Err(vec![nothing()]);
    }
    let notes = notes::all(snapshot, &context.host, &tree, &manifest);
    Ok(Manifest { notes, ..manifest })
}

impl Manifest {
    /// Whether a resource of another manifest is declared the very same here, with the same secrets.
    #[must_use]
    pub fn declares_the_same(&self, resource: &Resource, of: &Manifest) -> bool {
        let is_it = |own: &Resource| (&own.kind, &own.name, &own.spec) == (&resource.kind, &resource.name, &resource.spec);
        let mut secrets = Vec::new();
        secrets_in(&resource.spec, &mut secrets);
        self.resources.iter().any(is_it) && secrets.iter().all(|name| self.sealed.get(*name) == of.sealed.get(*name))
    }
}

/// The secrets that a declaration names: `{ secret = "db_password" }`.
fn secrets_in<'v>(value: &'v serde_json::Value, names: &mut Vec<&'v str>) {
    match value {
        serde_json::Value::Object(keys) => {
            names.extend(keys.get("secret").and_then(serde_json::Value::as_str));
            keys.values().for_each(|value| secrets_in(value, names));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| secrets_in(value, names)),
        _ => {}
    }
}

/// The sealed files that a host gets, by their paths in the repository; those of other hosts' layers are sealed to them.
#[must_use]
pub fn sealed_files<'a>(snapshot: &'a Snapshot, host: &str) -> Vec<&'a str> {
    // What is wrong with a manifest is said when it is read.
    let layers = layers::read(snapshot, host, &mut Text::default(), &mut Faults::default());
    tree::sealed(snapshot, &layers)
}

/// The text of the file that a diagnostic is about, for [`Diagnostic::render`].
#[must_use]
pub fn source_of<'a>(snapshot: &'a Snapshot, diagnostic: &Diagnostic) -> Option<&'a str> {
    match snapshot.entries.get(&diagnostic.file) {
        Some(SourceEntry::File { content, .. }) => std::str::from_utf8(content).ok(),
        _ => None,
    }
}

fn nothing() -> Diagnostic {
    let message = "the repository declares nothing: this would remove everything that is managed on the host";
    Diagnostic::of_file(MANIFEST, message).help("add a file under files/ or a table, or set allow_empty = true")
}

/// Puts tables and tree together and checks the whole.
fn assemble(
    document: Document,
    tree: &mut Tree<'_>,
    text: &Text<'_>,
    (renderer, faults): (&mut Renderer, &mut Faults),
) -> Manifest {
    let (tables, others): (Vec<_>, Vec<_>) = document.declared.into_iter().partition(|d| d.kind == FileSpec::KIND);
    let replaced = overlay::take_replaced(tree, &tables, text);
    let mut claims = overlay::merge(tree, &tables, &replaced, text, (renderer, faults));
    claims.extend(others.iter().map(|d| Claim::of_table(d, d.spec.clone(), text, Content::None)));
    claims::settle(&mut claims);
    claims::check(&claims, text, faults);
    let mut manifest = Manifest { allow_empty: document.allow_empty, ..Manifest::default() };
    for Claim { resource, content, .. } in claims {
        manifest.contents.extend(content.bytes().map(|bytes| (Digest::of(bytes), bytes.to_vec())));
        manifest.resources.push(resource);
    }
    manifest.probes = document.probes;
    manifest
}
