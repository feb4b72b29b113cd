//! `reconciled.toml`: its top-level keys, and which table is whose. What the tables of a kind mean is the kind's affair.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use serde_json::Value as Json;
use toml::de::{DeArray, DeValue};

use super::diagnostic::{Faults, Text};
use super::layers::{INCLUDE, Layer};
use super::probes;
use super::suggest::nearest;
use super::syntax::{Key, Value};
use super::table::{self, Table, with_article};
use super::template::Renderer;
use super::vars::VARS;
use crate::kind::{self, KINDS, Kind};
use crate::probe::Probe;

/// What other tools call what we have too.
const OTHER_WORDS: [(&str, &str); 6] = [
    ("dir", "directory"),
    ("folder", "directory"),
    ("symlink", "link"),
    ("service", "unit"),
    ("check", "probe"),
    ("healthcheck", "probe"),
];
pub(super) const PROBE: &str = "probe";
const ALLOW_EMPTY: &str = "allow_empty";
/// Begins an expression.
const EXPRESSION: &str = "{{";
/// The key and the word of a thing that is to be gone.
const STATE: &str = "state";
const ABSENT: &str = "absent";

/// One declaration of the manifest.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) spec: Json,
    /// Where it begins, in the last layer that says something of it.
    pub(super) start: usize,
    /// The bytes of its name.
    pub(super) span: Range<usize>,
    /// The keys that are written, with the bytes of their values.
    pub(super) keys: Vec<(String, Range<usize>)>,
}

/// What the manifests of all layers say together, in order.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) declared: Vec<Declared>,
    pub(super) probes: Vec<Probe>,
    pub(super) allow_empty: bool,
}

/// Reads the manifests, the later over the earlier.
pub(super) fn read<'a>(layers: &mut [Layer<'a>], text: &Text<'a>, renderer: &mut Renderer, faults: &mut Faults) -> Document {
    let mut reader = Reader { text, renderer, faults, layer: 0, tables: Vec::new(), first: BTreeMap::new(), allow_empty: false };
    for (index, layer) in layers.iter_mut().enumerate() {
        reader.layer = index;
        let mut entries: Vec<_> = std::mem::take(&mut layer.root).into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            reader.top(&key, value);
        }
    }
    let Reader { tables, allow_empty, .. } = reader;
    let mut document = declare(&tables, text, faults);
    document.allow_empty = allow_empty;
    document.declared.sort_by_key(|d| d.start);
    document
}

/// Keys that only the top level has.
fn above() -> Vec<&'static str> {
    KINDS.iter().filter_map(|row| row.short()).chain([ALLOW_EMPTY, INCLUDE, VARS]).collect()
}

/// Whose a table is.
#[derive(Clone, Copy)]
enum Sort {
    Kind(&'static dyn Kind),
    Probe,
}

impl Sort {
    /// Its word in the manifest.
    fn word(self) -> &'static str {
        match self {
            Self::Kind(row) => row.kind(),
            Self::Probe => PROBE,
        }
    }

    /// The key that names one of it.
    fn key(self) -> &'static str {
        match self {
            Self::Kind(row) => row.key(),
            Self::Probe => "name",
        }
    }

    fn short(self) -> Option<&'static str> {
        match self {
            Self::Kind(row) => row.short(),
            Self::Probe => None,
        }
    }

    fn is_single(self) -> bool {
        matches!(self, Self::Kind(row) if row.is_single())
    }

    /// Its table, as it is written.
    fn header(self) -> String {
        match self {
            Self::Kind(row) => row.header(),
            Self::Probe => format!("[[{PROBE}]]"),
        }
    }
}

/// A table, as it is written in one layer or in several.
struct Written<'a> {
    sort: Sort,
    /// The last layer that says something of it.
    layer: usize,
    value: Value<'a>,
}

struct Reader<'a, 't, 'f> {
    text: &'t Text<'a>,
    renderer: &'f mut Renderer,
    faults: &'f mut Faults,
    /// The layer that is read.
    layer: usize,
    tables: Vec<Written<'a>>,
    /// The first table of each name.
    first: BTreeMap<(&'static str, String), usize>,
    allow_empty: bool,
}

impl<'a> Reader<'a, '_, '_> {
    fn top(&mut self, key: &Key<'a>, value: Value<'a>) {
        let word = key.get_ref().as_ref();
        if let Some(row) = kind::find(word) {
            let sort = Sort::Kind(row);
            if row.is_single() { self.single(sort, key, value) } else { self.tables(sort, key, value) }
        } else if let Some(row) = KINDS.iter().find(|row| row.short() == Some(word)) {
            self.names(*row, key, &value);
        } else if word == PROBE {
            self.tables(Sort::Probe, key, value);
        } else if word == ALLOW_EMPTY {
            match value.get_ref().as_bool() {
                Some(meant) => self.allow_empty = meant,
                None => self.fault(&value.span(), "`allow_empty` must be a boolean", "write allow_empty = true"),
            }
        } else if word != INCLUDE {
            self.unknown(word, &key.span());
        }
    }

    fn unknown(&mut self, word: &str, span: &Range<usize>) {
        let words =
            || KINDS.iter().flat_map(|r| [Some(r.kind()), r.short()]).flatten().chain([PROBE, VARS, INCLUDE, ALLOW_EMPTY]);
        let list = words().collect::<Vec<_>>().join(", ");
        let meant = OTHER_WORDS.iter().find(|(other, _)| *other == word.trim_end_matches('s')).map(|(_, ours)| *ours);
        let help = match meant.or_else(|| nearest(word, words())) {
            Some(near) => format!("did you mean `{near}`? (there are: {list})"),
            None => format!("there are: {list}"),
        };
        self.fault(span, &format!("unknown key `{word}`"), &help);
    }

    /// The one table `[word]`.
    fn single(&mut self, sort: Sort, key: &Key<'_>, value: Value<'a>) {
        if value.get_ref().is_table() {
            return self.add(sort, value);
        }
        let (word, written) = (sort.word(), with_article(value.get_ref().type_str()));
        self.fault(&key.span(), &format!("`{word}` is one table, not {written}"), &format!("write [{word}] with keys below it"));
    }

    /// `[[word]]` tables.
    fn tables(&mut self, sort: Sort, key: &Key<'_>, value: Value<'a>) {
        let (word, short) = (sort.word(), sort.short());
        let items = match value.into_inner() {
            DeValue::Array(items) => items,
            other => {
                let help = match (short, &other) {
                    (Some(short), DeValue::String(_)) => format!("write {short} = [\"…\"] or a [[{word}]] table"),
                    _ => format!("write [[{word}]]"),
                };
                let written = with_article(other.type_str());
                return self.fault(&key.span(), &format!("`{word}` is a list of tables, not {written}"), &help);
            }
        };
        for item in items {
            if self.faults.is_full() {
                return;
            }
            if item.get_ref().is_table() {
                self.add(sort, item);
                continue;
            }
            let help = match short {
                Some(short) => format!("write {short} = [\"…\"] or [[{word}]] tables"),
                None => format!("write [[{word}]] tables"),
            };
            let written = with_article(item.get_ref().type_str());
            return self.fault(&item.span(), &format!("`{word}` is a list of tables; this is {written}"), &help);
        }
    }

    /// `words = ["a", "b"]`: each a table with only a name.
    fn names(&mut self, row: &'static dyn Kind, key: &Key<'_>, value: &Value<'a>) {
        let word = key.get_ref().as_ref();
        let help = format!("write {word} = [\"…\"], or a [[{}]] table for more than the name", row.kind());
        let DeValue::Array(items) = value.get_ref() else {
            let written = with_article(value.get_ref().type_str());
            return self.fault(&value.span(), &format!("`{word}` is a list of names, not {written}"), &help);
        };
        self.each_name(row, word, items, &help);
    }

    fn each_name(&mut self, row: &'static dyn Kind, word: &str, items: &DeArray<'a>, help: &str) {
        for item in items {
            if self.faults.is_full() {
                return;
            }
            let span = item.span();
            match item.get_ref() {
                DeValue::String(name) => self.add(Sort::Kind(row), table::bare(row.key(), name.clone(), span)),
                other => {
                    let written = with_article(other.type_str());
                    self.fault(&span, &format!("`{word}` is a list of names; this is {written}"), help);
                }
            }
        }
    }

    /// A table stands by itself, or lies over that of an earlier layer with the same name. Of two in one layer both stay: what is
    /// wrong with that is said where claims are compared.
    fn add(&mut self, sort: Sort, mut value: Value<'a>) {
        if !self.carry_out(&mut value) {
            return;
        }
        let written = Written { sort, layer: self.layer, value };
        let table = written.value.get_ref();
        let name = if sort.is_single() { Some("") } else { table.get(sort.key()).and_then(|name| name.get_ref().as_str()) };
        if let Some(name) = name {
            match self.first.entry((sort.word(), name.to_owned())) {
                Entry::Vacant(place) => drop(place.insert(self.tables.len())),
                Entry::Occupied(place) => {
                    let earlier = &mut self.tables[*place.get()];
                    if earlier.layer < self.layer {
                        earlier.lay_over(written);
                        return;
                    }
                }
            }
        }
        self.tables.push(written);
    }

    /// Carries out the expressions in all strings of a value; whether that could be done. What could not is left out: its
    /// meaning is not judged.
    fn carry_out(&mut self, value: &mut Value<'a>) -> bool {
        let span = value.span();
        let mut done = true;
        match value.get_mut() {
            DeValue::String(written) if written.contains(EXPRESSION) => match self.renderer.value(written) {
                Ok(text) => *written = text.into(),
                Err(blunder) => {
                    let at = within(&span, self.text.slice(&span), written, &blunder.range);
                    self.fault(&at, &blunder.message, &blunder.help);
                    done = false;
                }
            },
            DeValue::Array(items) => items.iter_mut().for_each(|item| done &= self.carry_out(item)),
            DeValue::Table(table) => table.iter_mut().for_each(|(_, item)| done &= self.carry_out(item)),
            _ => {}
        }
        done
    }

    fn fault(&mut self, span: &Range<usize>, message: &str, help: &str) {
        self.faults.push(self.text.fault(span, message).help(help));
    }
}

impl<'a> Written<'a> {
    /// Key by key the later layer wins. What is to be gone has no other keys: there one table takes the place of the other.
    fn lay_over(&mut self, over: Self) {
        self.layer = over.layer;
        let under = std::mem::replace(&mut self.value, over.value);
        if is_absent(&under) || is_absent(&self.value) {
            return;
        }
        let (DeValue::Table(under), DeValue::Table(over)) = (under.into_inner(), self.value.get_mut()) else { return };
        for (key, value) in under {
            if !over.contains_key(&key) {
                over.insert(key, value);
            }
        }
    }
}

/// Some bytes of a string, where it stands in the file as it is meant: without escapes. Otherwise all of it.
fn within(span: &Range<usize>, source: &str, written: &str, range: &Range<usize>) -> Range<usize> {
    let start = source.find(written).filter(|_| !written.is_empty()).map(|at| span.start + at);
    start.map_or_else(|| span.clone(), |start| start + range.start..start + range.end)
}

fn is_absent(table: &Value<'_>) -> bool {
    table.get_ref().get(STATE).is_some_and(|state| state.get_ref().as_str() == Some(ABSENT))
}

/// Reads each table as what it declares.
fn declare(tables: &[Written<'_>], text: &Text<'_>, faults: &mut Faults) -> Document {
    let above = above();
    let mut document = Document::default();
    let mut probe_names: BTreeMap<String, usize> = BTreeMap::new();
    for Written { sort, value, .. } in tables {
        if faults.is_full() {
            break;
        }
        let table = Table { called: &sort.header(), text, value, above: &above };
        match sort {
            Sort::Kind(row) => document.declared.extend(resource(*row, &table, faults)),
            Sort::Probe => {
                let Some(probe) = probes::read(&table, faults) else { continue };
                let span = table.span_of(&[sort.key()]);
                if let Some(first) = probe_names.insert(probe.name.clone(), span.start) {
                    let message = format!("the probe `{}` is declared twice: here and at {}", probe.name, text.origin(first));
                    faults.push(text.fault(&span, &message).help("give each probe its own name"));
                }
                document.probes.push(probe);
            }
        }
    }
    document
}

fn resource(row: &'static dyn Kind, table: &Table<'_>, faults: &mut Faults) -> Option<Declared> {
    let (name, spec) = table.read(|value| row.declare(value), faults)?;
    let keys = table.value.get_ref().as_table().into_iter().flatten();
    Some(Declared {
        kind: row.kind(),
        name,
        spec,
        start: table.value.span().start,
        span: table.span_of(&[row.key()]),
        keys: keys.map(|(key, value)| (key.get_ref().to_string(), value.span())).collect(),
    })
}
