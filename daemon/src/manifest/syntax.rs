//! The text of a manifest as TOML: what is none is explained, and what may be secret is hidden. No key is known here.

use std::ops::Range;

use serde_spanned::Spanned;
use toml::de::{DeString, DeTable, DeValue, Error};

use super::diagnostic::{Diagnostic, Faults, Text, clip};
use super::document::PROBE;
use crate::kind;

/// A key, and where it stands.
pub(super) type Key<'a> = Spanned<DeString<'a>>;
/// A value, and where it stands in the text of all layers.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// Reads a manifest that begins at `base` of the whole text. Of one that is no TOML only that is said.
pub(super) fn parse<'a>(source: &'a str, base: usize, text: &mut Text<'a>, faults: &mut Faults) -> Option<DeTable<'a>> {
    let (root, errors) = DeTable::parse_recoverable(source);
    let root = moved(root.into_inner(), base);
    hide_secrets(&root, text);
    if errors.is_empty() {
        return Some(root);
    }
    // What was recovered of a torn text is not what its author means: lines that might be secret stay unseen.
    if ["secret", "content", "password"].iter().any(|word| source.contains(word)) {
        text.hide(base..base + source.len());
    }
    report(&errors, base, text, faults);
    None
}

/// The same table with its places counted from the beginning of the whole text.
fn moved(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    if by == 0 {
        return table;
    }
    let further = |span: Range<usize>| span.start + by..span.end + by;
    let entries = table.into_iter();
    entries.map(|(key, value)| (Spanned::new(further(key.span()), key.into_inner()), moved_value(value, by))).collect()
}

fn moved_value(value: Value<'_>, by: usize) -> Value<'_> {
    let span = value.span();
    let inner = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(moved(table, by)),
        DeValue::Array(items) => DeValue::Array(items.into_iter().map(|item| moved_value(item, by)).collect()),
        other => other,
    };
    Spanned::new(span.start + by..span.end + by, inner)
}

/// Lines with the content of a file, or of a table that calls itself secret, are never shown.
fn hide_secrets(table: &DeTable<'_>, text: &mut Text<'_>) {
    let secret = table.get("secret").is_some_and(|v| v.get_ref().as_bool() != Some(false));
    for (key, value) in table {
        if secret || matches!(key.get_ref().as_ref(), "content" | "password") {
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
fn report(errors: &[Error], base: usize, text: &Text<'_>, faults: &mut Faults) {
    let place = |error: &Error| error.span().map_or(base..base, |span| span.start + base..span.end + base);
    let mut errors: Vec<_> = errors.iter().map(|e| (place(e), e.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    for (i, (span, message)) in errors.iter().enumerate() {
        let lone = message.starts_with("duplicate key") || message.starts_with("unexpected leading zero");
        if i == 0 || lone {
            faults.push(explain(span, message, text));
        }
    }
}

fn explain(span: &Range<usize>, message: &str, text: &Text<'_>) -> Diagnostic {
    let written = text.slice(span);
    if message.starts_with("unexpected leading zero") {
        return leading_zero(span, text);
    }
    if message.starts_with("duplicate key") {
        let fault = text.fault(span, &format!("`{written}` is set twice"));
        return match kind::find(written) {
            Some(row) if row.is_single() => fault.help(&format!("keep one {}, with all its keys", row.header())),
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

/// A mode as chmod(1) takes it, without quotes.
fn leading_zero(span: &Range<usize>, text: &Text<'_>) -> Diagnostic {
    let key = text.line_at(span.start).split('=').next().unwrap_or_default().trim();
    let digits: String = text.rest(span.start).chars().take_while(char::is_ascii_digit).take(8).collect();
    let help = if key == "mode" { format!("write mode = \"{digits}\"") } else { "put it in quotes".to_owned() };
    text.fault(&(span.start..span.start + digits.len()), "a number cannot begin with 0").help(&help)
}
