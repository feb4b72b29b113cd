//! Templates and expressions: what they see, what they may cost, and what is wrong with one. Which values and files are rendered
//! is decided by those who ask.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, context, escape_formatter};

use super::Context;
use super::diagnostic::{Diagnostic, Text};
use super::scope::{Scope, Sort, UNSEALED};
use crate::secrets;
use crate::source::{Budget, Snapshot, SourceEntry};

/// Where templates find what they include.
const PARTIALS: &str = "templates/";
/// Largest template, in bytes: each may be one more level for the parser, which takes its part of [`super::STACK`].
const TEMPLATE_LIMIT: usize = 64 << 10;
/// What one rendering may cost: so many steps, or 64 times as many bytes. It bounds what can be nested in each other, too.
const FUEL: u64 = 100_000;
/// What all renderings of a repository may cost together.
const FUEL_OF_ALL: u64 = 100 * FUEL;
/// So many words of a file are known to be no secret.
const OPEN_LIMIT: usize = 1000;
/// How deep templates may include and call each other.
const DEPTH: usize = 100;

/// Renders for one host.
pub(super) struct Renderer {
    templates: Environment<'static>,
    expressions: Environment<'static>,
    scope: Scope,
    secrets: Value,
    /// The same, each as if nobody had opened it.
    sealed: Value,
    facts: Value,
    partials: Arc<BTreeMap<String, String>>,
    seen: Arc<Seen>,
    fuel: u64,
    /// Bytes that may still be rendered.
    room: u64,
}

/// What a rendering has looked at.
#[derive(Debug, Default)]
struct Seen {
    facts: AtomicBool,
    secret: AtomicBool,
    /// Secrets that nobody has opened.
    unopened: Mutex<BTreeSet<String>>,
    /// A secret that is no text.
    no_text: Mutex<Option<String>>,
}

/// A rendered file.
#[derive(Debug)]
pub(super) struct Rendered {
    pub(super) text: String,
    /// It was made with a secret.
    pub(super) secret: bool,
    /// What is no secret in it: it says the same whatever the secrets are.
    pub(super) open: BTreeSet<String>,
}

/// What is wrong with a template.
#[derive(Debug)]
pub(super) struct Blunder {
    /// The file that is at fault, when it is one that was included.
    file: Option<String>,
    /// Which bytes of it.
    pub(super) range: Range<usize>,
    pub(super) message: String,
    pub(super) help: String,
    /// The same without a word of the template.
    discreet: String,
}

impl Renderer {
    pub(super) fn new(snapshot: &Snapshot, context: &Context, vars: Value) -> Self {
        let seen = Arc::new(Seen::default());
        let facts = Value::from(Serde(&context.facts));
        let scope = Scope::new(snapshot, context, vars, facts.clone());
        let partials = Arc::new(partials(snapshot));
        Self {
            templates: templates(partials.clone()),
            expressions: environment(expression_syntax()),
            sealed: Value::from_object(Secrets { values: scope.placeholders(), seen: Arc::default() }),
            secrets: Value::from_object(Secrets { values: scope.secrets.clone(), seen: seen.clone() }),
            facts: Value::from_object(Watched { inner: facts, seen: seen.clone() }),
            scope,
            partials,
            seen,
            fuel: FUEL_OF_ALL,
            room: Budget::STANDARD.total,
        }
    }

    /// A string of the manifest with its `{{ … }}` carried out.
    pub(super) fn value(&mut self, written: &str) -> Result<String, Blunder> {
        check_size(written)?;
        self.seen.secret.store(false, Ordering::Relaxed);
        self.expressions.set_fuel(Some(self.fuel.min(FUEL)));
        let sight = context! { vars => &self.scope.vars, facts => &self.facts };
        let done = render(&self.expressions, "", written, sight);
        self.settle(done).map_err(|failed| self.blunder(&failed, "", written)).and_then(|text| self.within_limits(text))
    }

    /// A file of `files/`.
    pub(super) fn file(&mut self, source: &str, content: &[u8]) -> Result<Rendered, Blunder> {
        let written = std::str::from_utf8(content).map_err(|error| {
            let at = error.valid_up_to();
            Blunder::new(at..at, "a template has to be UTF-8 text", "save it as UTF-8, or take .j2 off its name")
        })?;
        check_size(written)?;
        self.templates.set_fuel(Some(self.fuel.min(FUEL)));
        self.seen.secret.store(false, Ordering::Relaxed);
        let sight = context! { vars => &self.scope.vars, facts => &self.facts, secrets => &self.secrets };
        let done = render(&self.templates, source, written, sight);
        let text = self.settle(done).map_err(|failed| self.blunder(&failed, source, written))?;
        let text = self.within_limits(text)?;
        let secret = self.has_seen_secret();
        let open = if secret { self.open(source, written, &text) } else { BTreeSet::new() };
        Ok(Rendered { text, secret, open })
    }

    /// A sealed file, open, by its path in the repository.
    pub(super) fn opened(&self, source: &str) -> Vec<u8> {
        self.scope.secrets.get(source).cloned().flatten().unwrap_or_else(|| {
            if let Ok(mut unopened) = self.seen.unopened.lock() {
                unopened.insert(source.to_owned());
            }
            UNSEALED.as_bytes().to_vec()
        })
    }

    /// What a file says also without its secrets; nothing where that cannot be told.
    fn open(&mut self, source: &str, written: &str, text: &str) -> BTreeSet<String> {
        self.templates.set_fuel(Some(self.fuel.min(FUEL)));
        let sight = context! { vars => &self.scope.vars, facts => &self.facts, secrets => &self.sealed };
        let done = render(&self.templates, source, written, sight);
        let Ok(without) = self.settle(done) else { return BTreeSet::new() };
        let said: BTreeSet<&str> = secrets::parts(text).collect();
        let open = secrets::parts(&without).filter(|part| said.contains(part));
        open.take(OPEN_LIMIT).map(str::to_owned).collect()
    }

    /// Whether anything that was rendered depends on the host's facts.
    pub(super) fn has_seen_facts(&self) -> bool {
        self.seen.facts.load(Ordering::Relaxed)
    }

    /// The secrets that were asked for and that nobody has opened.
    pub(super) fn unopened(&self) -> BTreeSet<String> {
        self.seen.unopened.lock().map(|names| names.clone()).unwrap_or_default()
    }

    /// What is wrong, at its place in the file of the repository.
    pub(super) fn diagnose(&self, blunder: &Blunder, source: &str, content: &[u8]) -> Diagnostic {
        let (file, text) = match &blunder.file {
            Some(file) => (file.as_str(), self.partials.get(file).map_or("", String::as_str)),
            // What is no text is shown up to there.
            None => (source, utf8_part(content)),
        };
        Text::alone(file, text).fault(&blunder.range, &blunder.message).help(&blunder.help)
    }

    fn has_seen_secret(&self) -> bool {
        self.seen.secret.load(Ordering::Relaxed)
    }

    /// Pays for a rendering.
    fn settle(&mut self, done: Result<(String, u64), Error>) -> Result<String, Error> {
        let cost = done.as_ref().map_or(FUEL, |(_, cost)| *cost);
        self.fuel = self.fuel.saturating_sub(cost);
        done.map(|(text, _)| text)
    }

    fn within_limits(&mut self, text: String) -> Result<String, Blunder> {
        let message = format!("all templates together render to more than {} MiB", Budget::STANDARD.total >> 20);
        let left = self.room.checked_sub(text.len() as u64);
        self.room = left.ok_or_else(|| Blunder::new(0..0, &message, "render less"))?;
        Ok(text)
    }

    /// The engine's error in our words, at the innermost place that it names.
    fn blunder(&self, error: &Error, source: &str, written: &str) -> Blunder {
        let inner = std::iter::successors(Some(error), |e| std::error::Error::source(*e)?.downcast_ref::<Error>());
        let error = inner.filter(|e| e.name().is_some()).last().unwrap_or(error);
        let file = error.name().filter(|name| *name != source && self.partials.contains_key(*name)).map(str::to_owned);
        let text = file.as_ref().and_then(|file| self.partials.get(file)).map_or(written, String::as_str);
        let range = error.range().unwrap_or_else(|| line(text, error.line().unwrap_or(1)));
        let sort = if source.is_empty() { Sort::Expression } else { Sort::Template };
        let (message, help) = self.explain(error, text.get(range.clone()).unwrap_or_default(), sort);
        Blunder { file, range, message, help, discreet: format!("this template cannot be rendered: {}", error.kind()) }
    }

    fn explain(&self, error: &Error, at: &str, sort: Sort) -> (String, String) {
        // What the engine says of values may quote them; of the text of a template it may.
        let of_text = matches!(error.kind(), ErrorKind::SyntaxError | ErrorKind::UnknownFilter | ErrorKind::UnknownTest);
        let detail = error.detail().filter(|_| of_text || !self.has_seen_secret()).unwrap_or_default().to_owned();
        if let Some(name) = self.seen.no_text.lock().ok().and_then(|mut name| name.take()) {
            return (format!("the secret `{name}` is no UTF-8 text"), "templates can only hold text".to_owned());
        }
        let literal = match sort {
            Sort::Expression => "a literal {{ is written {{ '{{' }}",
            Sort::Template => "literal braces stand between {% raw %} and {% endraw %}",
        };
        match error.kind() {
            ErrorKind::UndefinedError => self.scope.explain_undefined(&detail, at, sort),
            ErrorKind::SyntaxError => (format!("not a template: {detail}"), literal.to_owned()),
            ErrorKind::OutOfFuel => ("this template does too much".to_owned(), "shorten its loops".to_owned()),
            ErrorKind::TemplateNotFound => {
                let message = if detail.is_empty() { error.kind().to_string() } else { detail };
                (message, format!("templates include files below {PARTIALS} of the repository"))
            }
            ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction | ErrorKind::UnknownMethod => (
                format!("{}: {}", error.kind(), if detail.is_empty() { at } else { &detail }),
                "those of Jinja2 that there are: docs.rs/minijinja".to_owned(),
            ),
            _ if self.has_seen_secret() => (error.kind().to_string(), "look at what is done with the secret".to_owned()),
            _ if detail.is_empty() => (error.kind().to_string(), literal.to_owned()),
            _ => (detail, "look at what stands here".to_owned()),
        }
    }
}

impl Blunder {
    fn new(range: Range<usize>, message: &str, help: &str) -> Self {
        let (message, help) = (message.to_owned(), help.to_owned());
        Self { file: None, range, discreet: message.clone(), message, help }
    }

    /// As it may be said of a file that is secret.
    pub(super) fn discreet(self) -> Self {
        Self { message: self.discreet.clone(), ..self }
    }
}

fn check_size(written: &str) -> Result<(), Blunder> {
    let message = || format!("a template is at most {} KiB", TEMPLATE_LIMIT >> 10);
    if written.len() > TEMPLATE_LIMIT { Err(Blunder::new(0..0, &message(), "include parts of it")) } else { Ok(()) }
}

fn render(env: &Environment<'_>, name: &str, source: &str, sight: Value) -> Result<(String, u64), Error> {
    let rendered = env.template_from_named_str(name, source)?.render_captured(sight)?;
    let cost = rendered.state().fuel_levels().map_or(FUEL, |(spent, _)| spent);
    Ok((rendered.into_output(), cost))
}

fn environment(syntax: SyntaxConfig) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_syntax(syntax);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    // As the manifest has them, and programs' own files: not as Python would.
    env.set_formatter(|out, state, value| match bool::try_from(value.clone()) {
        Ok(word) if value.kind() == ValueKind::Bool => out.write_str(if word { "true" } else { "false" }).map_err(Error::from),
        _ => escape_formatter(out, state, value),
    });
    // It would print whatever a template sees.
    env.remove_global("debug");
    env.set_recursion_limit(DEPTH);
    // Without it an error has no place.
    env.set_debug(true);
    env
}

fn templates(partials: Arc<BTreeMap<String, String>>) -> Environment<'static> {
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
    let mut env = environment(syntax.build().unwrap_or_default());
    env.set_path_join_callback(|name, _| match name.strip_prefix(PARTIALS) {
        Some(_) => name.into(),
        None => format!("{PARTIALS}{name}").into(),
    });
    env.set_loader(move |name| match partials.get(name) {
        Some(text) if text.len() > TEMPLATE_LIMIT => Err(Error::new(ErrorKind::TemplateNotFound, format!("{name} is too large"))),
        found => Ok(found.cloned()),
    });
    env
}

/// In values only `{{ … }}` means anything: the marks of blocks and comments are such that nobody writes them.
fn expression_syntax() -> SyntaxConfig {
    let mut syntax = SyntaxConfig::builder();
    syntax.block_delimiters("\0{", "}\0").comment_delimiters("\0#", "#\0").keep_trailing_newline(true);
    syntax.build().unwrap_or_default()
}

fn partials(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let below = snapshot.entries.range(PARTIALS.to_owned()..).take_while(|(path, _)| path.starts_with(PARTIALS));
    let texts = below.filter_map(|(path, entry)| match entry {
        SourceEntry::File { content, .. } => Some((path.clone(), std::str::from_utf8(content).ok()?.to_owned())),
        SourceEntry::Link { .. } => None,
    });
    texts.collect()
}

fn utf8_part(content: &[u8]) -> &str {
    let valid = std::str::from_utf8(content).map_or_else(|error| error.valid_up_to(), str::len);
    std::str::from_utf8(&content[..valid]).unwrap_or_default()
}

/// The bytes of a line, counted from 1.
fn line(text: &str, number: usize) -> Range<usize> {
    let start: usize = text.split_inclusive('\n').take(number.saturating_sub(1)).map(str::len).sum();
    let length = text[start..].lines().next().map_or(0, str::len);
    start..start + length
}

/// Values that notice when they are looked at.
#[derive(Debug)]
struct Watched {
    inner: Value,
    seen: Arc<Seen>,
}

impl Object for Watched {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.seen.facts.store(true, Ordering::Relaxed);
        self.inner.get_item(key).ok().filter(|value| !value.is_undefined())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.seen.facts.store(true, Ordering::Relaxed);
        Enumerator::Values(self.inner.try_iter().map(Iterator::collect).unwrap_or_default())
    }
}

/// `secrets`: its members are had by name alone, so that none is in a template by accident.
struct Secrets {
    values: Arc<BTreeMap<String, Option<Vec<u8>>>>,
    seen: Arc<Seen>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secrets")
    }
}

impl Object for Secrets {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.seen.secret.store(true, Ordering::Relaxed);
        let name = key.as_str()?;
        let Some(bytes) = self.values.get(name)? else {
            if let Ok(mut unopened) = self.seen.unopened.lock() {
                unopened.insert(name.to_owned());
            }
            return Some(Value::from(UNSEALED));
        };
        match crate::secrets::text(bytes) {
            Some(text) => Some(Value::from(text)),
            None => {
                if let Ok(mut no_text) = self.seen.no_text.lock() {
                    *no_text = Some(name.to_owned());
                }
                Some(Value::from(Error::new(ErrorKind::InvalidOperation, "no text")))
            }
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
}
