//! One table of the manifest: its declaration, or every mistake in it, explained. No word of any kind is known here.

use std::ops::Range;

use serde_spanned::Spanned;
use toml::de::{DeString, DeTable, DeValue, Error, ValueDeserializer};

use super::diagnostic::{Diagnostic, Faults, Text};
use super::suggest::nearest;
use crate::kind::{Mistake, Undeclared};

/// Keys of stored declarations that nobody writes.
const STORED_ONLY: [&str; 1] = ["source"];
/// So many mistakes of one table are looked for.
const TRIES: usize = 8;

/// A table and what it is called in messages: `[[unit]]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    pub(super) called: &'a str,
    pub(super) text: &'a Text<'a>,
    pub(super) value: &'a Spanned<DeValue<'a>>,
    /// Keys of the top level, for the trap of TOML that a key below a header belongs to that header.
    pub(super) above: &'a [&'a str],
}

impl Table<'_> {
    /// Reads the table with `parse`; all mistakes that can be told apart are reported.
    pub(super) fn read<T>(
        &self,
        parse: impl Fn(ValueDeserializer<'_>) -> Result<T, Undeclared>,
        faults: &mut Faults,
    ) -> Option<T> {
        let mut value = self.value.clone();
        if let Some(table) = value.get_mut().as_table_like() {
            for key in STORED_ONLY {
                if let Some((key, _)) = table.remove_entry(key) {
                    faults.push(self.unknown(key.get_ref(), &key.span(), &[]));
                    return None;
                }
            }
        }
        let mut mended = false;
        for _ in 0..TRIES {
            let failed = match parse(ValueDeserializer::from(value.clone())) {
                Ok(parsed) if !mended => return Some(parsed),
                Ok(_) => return None,
                Err(failed) => failed,
            };
            match failed {
                // What is left of a table with mistakes lacks what was taken out: its meaning is not judged.
                Undeclared::Mistake(_) if mended => return None,
                Undeclared::Mistake(mistake) => {
                    faults.push(self.mistake(&[mistake.key], &mistake));
                    return None;
                }
                Undeclared::Toml(error) => {
                    if mended && error.message().starts_with("missing field") {
                        return None;
                    }
                    let path = error.span().map(|span| locate(&value, &span)).unwrap_or_default();
                    faults.push(self.explain(&error, &path));
                    // Without the key at fault the next mistake shows.
                    if !remove(&mut value, &path) {
                        return None;
                    }
                    mended = true;
                }
            }
        }
        None
    }

    /// A mistake in meaning, at the value of a key.
    pub(super) fn mistake(&self, path: &[&str], mistake: &Mistake) -> Diagnostic {
        self.text.fault(&self.span_of(path), &mistake.message).help(&mistake.help)
    }

    /// The bytes of a key's value; of the whole table if the key is not written.
    pub(super) fn span_of(&self, path: &[&str]) -> Range<usize> {
        let mut here = self.value;
        for key in path {
            match here.get_ref().get(*key) {
                Some(next) => here = next,
                None => break,
            }
        }
        here.span()
    }

    fn explain(&self, error: &Error, path: &[String]) -> Diagnostic {
        let message = error.message();
        let span = error.span().unwrap_or_else(|| self.value.span());
        let keys: Vec<&str> = path.iter().map(String::as_str).collect();
        let key = keys.last().copied().unwrap_or_default();
        if message.starts_with("unknown field") {
            return self.unknown(key, &span, &expected(message));
        }
        if let Some(missing) = message.strip_prefix("missing field ") {
            let fault = format!("{} has no {missing}", self.place(&keys));
            return self.text.fault(&span, &fault).help(&format!("add {} = …", missing.trim_matches('`')));
        }
        if message.starts_with("unknown variant") {
            let words = expected(message);
            let written = self.value_at(&keys).and_then(DeValue::as_str).unwrap_or_default();
            let help = match nearest(written, words.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"? (it may be {})", listed(&words, '"')),
                None => format!("write {}", listed(&words, '"')),
            };
            return self.text.fault(&span, &format!("`{key}` has no such value")).help(&help);
        }
        self.wrong_type(&keys, &span, message)
    }

    fn unknown(&self, key: &str, span: &Range<usize>, allowed: &[&str]) -> Diagnostic {
        let allowed: Vec<&str> = allowed.iter().copied().filter(|k| !STORED_ONLY.contains(k)).collect();
        let fault = self.text.fault(span, &format!("unknown key `{key}` in {}", self.called));
        if self.above.contains(&key) {
            return fault.help(&format!("`{key}` belongs above the first [header] of the file"));
        }
        match nearest(key, allowed.iter().copied()) {
            Some(near) => fault.help(&format!("did you mean `{near}`? (keys: {})", allowed.join(", "))),
            None if allowed.is_empty() => fault.help("remove it"),
            None => fault.help(&format!("keys: {}", allowed.join(", "))),
        }
    }

    fn wrong_type(&self, path: &[&str], span: &Range<usize>, message: &str) -> Diagnostic {
        let key = path.last().copied().unwrap_or(self.called);
        let Some((_, wanted)) = message.rsplit_once(", expected ").filter(|_| message.starts_with("invalid ")) else {
            let (fault, help) = message.split_once("; ").unwrap_or((message, ""));
            let fault = self.text.fault(span, &format!("`{key}`: {fault}"));
            return if help.is_empty() { fault } else { fault.help(help) };
        };
        let wanted = in_plain_words(wanted);
        let value = self.value_at(path);
        // The value itself is not repeated: it may be a secret at the wrong place.
        let fault = match value {
            Some(value) if message.starts_with("invalid type") => {
                format!("`{key}` must be {wanted}, not {}", with_article(value.type_str()))
            }
            _ => format!("`{key}` must be {wanted}"),
        };
        let fault = self.text.fault(span, &fault);
        match value.and_then(|value| remedy(key, wanted, value)) {
            Some(help) => fault.help(&help),
            None => fault,
        }
    }

    fn value_at(&self, path: &[&str]) -> Option<&DeValue<'_>> {
        path.iter().try_fold(self.value.get_ref(), |here, key| here.get(*key).map(Spanned::get_ref))
    }

    fn place(&self, path: &[&str]) -> String {
        if path.is_empty() { self.called.to_owned() } else { format!("`{}` of {}", path.join("."), self.called) }
    }
}

/// The table that a bare name stands for.
pub(super) fn bare<'i>(key: &'i str, name: DeString<'i>, span: Range<usize>) -> Spanned<DeValue<'i>> {
    let mut table = DeTable::new();
    table.insert(Spanned::new(span.clone(), key.into()), Spanned::new(span.clone(), DeValue::String(name)));
    Spanned::new(span, DeValue::Table(table))
}

/// What to write instead of a value of the wrong type.
fn remedy(key: &str, wanted: &str, value: &DeValue<'_>) -> Option<String> {
    match (wanted, value) {
        ("a string", DeValue::Integer(number))
            if key == "mode" && number.as_str().bytes().all(|b| b.is_ascii_digit() && b < b'8') =>
        {
            Some(format!("write mode = \"{:0>4}\"", number.as_str()))
        }
        ("a string", DeValue::Integer(_)) if key == "mode" => {
            Some("write the octal digits as a string: mode = \"0644\"".to_owned())
        }
        ("a string", DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_)) => {
            Some(format!("put it in quotes: {key} = \"…\""))
        }
        ("a boolean", _) => Some("write true or false, without quotes".to_owned()),
        ("a list", _) => Some(format!("write a list: {key} = [\"…\"]")),
        ("a whole number", DeValue::String(_)) => Some("write it without quotes".to_owned()),
        ("a table", _) => Some(format!("write a table: {key} = {{ … }}")),
        _ => None,
    }
}

/// Serde's words for types, in those of the manual.
fn in_plain_words(wanted: &str) -> &str {
    match wanted {
        "a sequence" => "a list",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        wanted if wanted.starts_with("struct ") => "a table",
        "string or table" => "a string",
        wanted => wanted,
    }
}

pub(super) fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// The words that serde's message offers: "…, expected one of `a`, `b`".
fn expected(message: &str) -> Vec<&str> {
    let (_, offered) = message.rsplit_once(", expected ").unwrap_or_default();
    offered.split('`').skip(1).step_by(2).collect()
}

fn listed(words: &[&str], quote: char) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("{quote}{w}{quote}")).collect();
    quoted.join(", ")
}

/// The keys that lead to the value (or key) at some bytes of the document.
fn locate(value: &Spanned<DeValue<'_>>, wanted: &Range<usize>) -> Vec<String> {
    let inside = |span: Range<usize>| span.start <= wanted.start && wanted.end <= span.end;
    let Some(table) = value.get_ref().as_table() else { return Vec::new() };
    for (key, value) in table {
        // A table with its own header has the header's bytes, its keys lie outside: look below first.
        let below = locate(value, wanted);
        if !below.is_empty() || inside(key.span()) || inside(value.span()) {
            return std::iter::once(key.get_ref().to_string()).chain(below).collect();
        }
    }
    Vec::new()
}

/// Takes a key out; whether there was one.
fn remove(value: &mut Spanned<DeValue<'_>>, path: &[String]) -> bool {
    let Some(table) = value.get_mut().as_table_like() else { return false };
    match path {
        [] => false,
        [key] => table.remove(key.as_str()).is_some(),
        [key, rest @ ..] => table.get_mut(key.as_str()).is_some_and(|next| remove(next, rest)),
    }
}

/// A table that may be changed; the crate keeps its own accessor to itself.
trait TableLike<'i> {
    fn as_table_like(&mut self) -> Option<&mut DeTable<'i>>;
}

impl<'i> TableLike<'i> for DeValue<'i> {
    fn as_table_like(&mut self) -> Option<&mut DeTable<'i>> {
        match self {
            DeValue::Table(table) => Some(table),
            _ => None,
        }
    }
}
