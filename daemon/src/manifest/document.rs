//! `reconciled.toml`: its top-level keys, and which table is whose. What the tables of a kind mean is the kind's affair.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;
use serde_spanned::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue, Error};

use super::diagnostic::{Diagnostic, Faults, Text, clip};
use super::probes;
use super::suggest::nearest;
use super::table::{self, Table, with_article};
use crate::kind::{self, KINDS, Kind, Undeclared};
use crate::probe::Probe;

/// Words of the language that this version does not understand yet.
const PLANNED: [&str; 9] = ["vars", "include", "user", "group", "ufw", "postgres_role", "postgres_database", "venv", "command"];
/// What other tools call what we have too.
const OTHER_WORDS: [(&str, &str); 6] = [
    ("dir", "directory"),
    ("folder", "directory"),
    ("symlink", "link"),
    ("service", "unit"),
    ("check", "probe"),
    ("healthcheck", "probe"),
];
const PROBE: &str = "probe";
const ALLOW_EMPTY: &str = "allow_empty";

/// One declaration of the manifest.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) spec: Value,
    /// Where it begins.
    pub(super) start: usize,
    /// The bytes of its name.
    pub(super) span: Range<usize>,
    /// The keys that are written, with the bytes of their values.
    pub(super) keys: Vec<(String, Range<usize>)>,
}

/// What the manifest says, in order.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) declared: Vec<Declared>,
    pub(super) probes: Vec<Probe>,
    pub(super) allow_empty: bool,
}

/// Reads the manifest. Of a text that is no TOML only that is said.
pub(super) fn read(text: &mut Text<'_>, faults: &mut Faults) -> Document {
    let source = text.text;
    let (root, errors) = DeTable::parse_recoverable(source);
    hide_secrets(root.get_ref(), text);
    if !errors.is_empty() {
        // What was recovered of a torn text is not what its author means: lines that might be secret stay unseen.
        if source.contains("secret") || source.contains("content") {
            text.hide(0..source.len());
        }
        syntax(&errors, text, faults);
        return Document::default();
    }
    let above = above();
    let mut reader = Reader { text, faults, above: &above, document: Document::default(), probe_names: BTreeMap::new() };
    let mut entries: Vec<_> = root.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        reader.top(key, value);
    }
    let mut document = reader.document;
    document.declared.sort_by_key(|d| d.start);
    document
}

/// Keys that only the top level has.
fn above() -> Vec<&'static str> {
    KINDS.iter().filter_map(|row| row.short()).chain([ALLOW_EMPTY, "include", "packages", "vars"]).collect()
}

/// Lines with the content of a file, or of a table that calls itself secret, are never shown.
fn hide_secrets(table: &DeTable<'_>, text: &mut Text<'_>) {
    let secret = table.get("secret").is_some_and(|v| v.get_ref().as_bool() != Some(false));
    for (key, value) in table {
        if secret || key.get_ref() == "content" {
            text.hide(key.span().start..value.span().end);
        }
        match value.get_ref() {
            DeValue::Table(inner) => hide_secrets(inner, text),
            DeValue::Array(items) => items.iter().filter_map(|i| i.get_ref().as_table()).for_each(|t| hide_secrets(t, text)),
            _ => {}
        }
    }
}

/// Reports what is no TOML: the first error, and those after it that are none of its consequences.
fn syntax(errors: &[Error], text: &Text<'_>, faults: &mut Faults) {
    let mut errors: Vec<_> = errors.iter().map(|e| (e.span().unwrap_or(0..0), e.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    for (i, (span, message)) in errors.iter().enumerate() {
        let lone = message.starts_with("duplicate key") || message.starts_with("unexpected leading zero");
        if i == 0 || lone {
            faults.push(syntax_fault(span, message, text));
        }
    }
}

fn syntax_fault(span: &Range<usize>, message: &str, text: &Text<'_>) -> Diagnostic {
    let line = text.line_at(span.start);
    let key = line.split('=').next().unwrap_or_default().trim();
    if message.starts_with("unexpected leading zero") {
        let digits: String =
            text.text.get(span.start..).unwrap_or_default().chars().take_while(char::is_ascii_digit).take(8).collect();
        let help = if key == "mode" { format!("write mode = \"{digits}\"") } else { "put it in quotes".to_owned() };
        return text.fault(&(span.start..span.start + digits.len()), "a number cannot begin with 0").help(&help);
    }
    let written = text.text.get(span.clone()).unwrap_or_default();
    if message.starts_with("duplicate key") {
        let fault = text.fault(span, &format!("`{written}` is set twice"));
        return match kind::find(written) {
            Some(row) => fault.help(&format!("write [[{}]] for each", row.kind())),
            None if written == PROBE => fault.help("write [[probe]] for each"),
            None => fault.help("keep one of the two; a new table of the same sort begins with its [[header]]"),
        };
    }
    if written.starts_with(|c: char| c.is_ascii_alphabetic())
        && !matches!(written, "true" | "false")
        && message.contains("invalid")
    {
        return text
            .fault(span, &format!("not TOML: `{}` stands without quotes", clip(written, 60)))
            .help("write it in \"quotes\"");
    }
    let (fault, help) = message.split_once(", expected ").unwrap_or((message, ""));
    let fault = text.fault(span, &format!("not TOML: {fault}"));
    match help {
        "" | "nothing" => fault,
        "literal string" => fault.help("write the value in \"quotes\""),
        help => fault.help(&format!("expected {help}")),
    }
}

struct Reader<'a, 'f> {
    text: &'a Text<'a>,
    faults: &'f mut Faults,
    above: &'a [&'static str],
    document: Document,
    /// Where each probe's name stands.
    probe_names: BTreeMap<String, usize>,
}

type Key<'a> = Spanned<DeString<'a>>;

impl Reader<'_, '_> {
    fn top(&mut self, key: &Key<'_>, value: &Spanned<DeValue<'_>>) {
        let word = key.get_ref().as_ref();
        if let Some(row) = kind::find(word) {
            self.tables(word, row.short(), key, value, |reader, table| reader.declare(row, table));
        } else if let Some(row) = KINDS.iter().find(|row| row.short() == Some(word)) {
            self.names(*row, key, value);
        } else if word == PROBE {
            self.tables(word, None, key, value, Self::probe);
        } else if word == ALLOW_EMPTY {
            match value.get_ref().as_bool() {
                Some(meant) => self.document.allow_empty = meant,
                None => self.fault(&value.span(), "`allow_empty` must be a boolean", "write allow_empty = true"),
            }
        } else {
            self.unknown(word, &key.span());
        }
    }

    fn unknown(&mut self, word: &str, span: &Range<usize>) {
        if PLANNED.contains(&word) {
            let help = "remove it; until then do this by hand";
            return self.fault(span, &format!("`{word}` is known, but not supported by this version"), help);
        }
        let words = || KINDS.iter().flat_map(|r| [Some(r.kind()), r.short()]).flatten().chain([PROBE, ALLOW_EMPTY]);
        let list = words().collect::<Vec<_>>().join(", ");
        let meant = OTHER_WORDS.iter().find(|(other, _)| *other == word.trim_end_matches('s')).map(|(_, ours)| *ours);
        let help = match meant.or_else(|| nearest(word, words())) {
            Some(near) => format!("did you mean `{near}`? (there are: {list})"),
            None => format!("there are: {list}"),
        };
        self.fault(span, &format!("unknown key `{word}`"), &help);
    }

    /// `[[word]]` tables.
    fn tables(
        &mut self,
        word: &str,
        short: Option<&str>,
        key: &Key<'_>,
        value: &Spanned<DeValue<'_>>,
        mut each: impl FnMut(&mut Self, &Table<'_>),
    ) {
        let DeValue::Array(items) = value.get_ref() else {
            let help = match (short, value.get_ref()) {
                (Some(short), DeValue::String(_)) => format!("write {short} = [\"…\"] or a [[{word}]] table"),
                _ => format!("write [[{word}]]"),
            };
            let written = with_article(value.get_ref().type_str());
            return self.fault(&key.span(), &format!("`{word}` is a list of tables, not {written}"), &help);
        };
        let called = format!("[[{word}]]");
        for item in items {
            if self.faults.is_full() {
                return;
            }
            if !item.get_ref().is_table() {
                let help = match short {
                    Some(short) => format!("write {short} = [\"…\"] or [[{word}]] tables"),
                    None => format!("write [[{word}]] tables"),
                };
                let written = with_article(item.get_ref().type_str());
                return self.fault(&item.span(), &format!("`{word}` is a list of tables; this is {written}"), &help);
            }
            let table = Table { called: &called, text: self.text, value: item, above: self.above };
            each(self, &table);
        }
    }

    fn declare(&mut self, row: &'static dyn Kind, table: &Table<'_>) {
        let Some((name, spec)) = table.read(|value| row.declare(value), self.faults) else { return };
        let keys = table.value.get_ref().as_table().into_iter().flatten();
        self.document.declared.push(Declared {
            kind: row.kind(),
            name,
            spec,
            start: table.value.span().start,
            span: table.span_of(&[row.key()]),
            keys: keys.map(|(key, value)| (key.get_ref().to_string(), value.span())).collect(),
        });
    }

    fn probe(&mut self, table: &Table<'_>) {
        let Some(probe) = probes::read(table, self.faults) else { return };
        let span = table.span_of(&["name"]);
        if let Some(first) = self.probe_names.insert(probe.name.clone(), span.start) {
            let message = format!("the probe `{}` is declared twice: here and at {}", probe.name, self.text.origin(first));
            self.fault(&span, &message, "give each probe its own name");
        }
        self.document.probes.push(probe);
    }

    /// `words = ["a", "b"]`: each a table with only a name.
    fn names(&mut self, row: &'static dyn Kind, key: &Key<'_>, value: &Spanned<DeValue<'_>>) {
        let word = key.get_ref().as_ref();
        let help = format!("write {word} = [\"…\"], or a [[{}]] table for more than the name", row.kind());
        let DeValue::Array(items) = value.get_ref() else {
            let written = with_article(value.get_ref().type_str());
            return self.fault(&value.span(), &format!("`{word}` is a list of names, not {written}"), &help);
        };
        self.each_name(row, word, items, &help);
    }

    fn each_name(&mut self, row: &'static dyn Kind, word: &str, items: &DeArray<'_>, help: &str) {
        for item in items {
            if self.faults.is_full() {
                return;
            }
            let span = item.span();
            let Some(name) = item.get_ref().as_str() else {
                let written = with_article(item.get_ref().type_str());
                self.fault(&span, &format!("`{word}` is a list of names; this is {written}"), help);
                continue;
            };
            match row.declare(table::named(row.key(), name, span.clone())) {
                Ok((name, spec)) => {
                    let keys = vec![(row.key().to_owned(), span.clone())];
                    self.document.declared.push(Declared { kind: row.kind(), name, spec, start: span.start, span, keys });
                }
                Err(Undeclared::Mistake(mistake)) => self.fault(&span, &mistake.message, &mistake.help),
                Err(Undeclared::Toml(error)) => self.fault(&span, error.message(), help),
            }
        }
    }

    fn fault(&mut self, span: &Range<usize>, message: &str, help: &str) {
        self.faults.push(self.text.fault(span, message).help(help));
    }
}
