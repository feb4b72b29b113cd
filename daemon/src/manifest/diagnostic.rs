//! What is wrong with a manifest, where, and what to write instead; as one line or with the source line and a caret.
//! No decision is made here.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::{Deserialize, Serialize};

use super::Origin;
use crate::path::{escape, is_hidden};

/// Longest message or help shown, in characters: a manifest may hold anything, and none of it may flood a terminal.
const MESSAGE_LIMIT: usize = 400;
/// Longest piece of a source line that is shown, in bytes.
const LINE_LIMIT: usize = 160;
/// More mistakes than this are only counted.
const FAULT_LIMIT: usize = 20;

/// One mistake in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Path in the repository.
    pub file: String,
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Column in characters, from 1; 0 when the whole file is meant.
    pub column: usize,
    /// Bytes of the file that are meant.
    pub span: Option<Range<usize>>,
    /// What is wrong, one clause, safe to show.
    pub message: String,
    /// What to write instead, safe to show.
    pub help: Option<String>,
    /// The source line may hold a secret and is never shown.
    pub private: bool,
}

/// A source line as it may be shown.
struct Excerpt {
    line: String,
    /// The bytes of `line` that are at fault.
    fault: Range<usize>,
    /// The line is shown from its beginning.
    whole: bool,
}

impl Diagnostic {
    /// A mistake of a whole file.
    #[must_use]
    pub fn of_file(file: &str, message: &str) -> Self {
        Self {
            file: escape(file),
            line: 0,
            column: 0,
            span: None,
            message: clip(&escape(message), MESSAGE_LIMIT),
            help: None,
            private: false,
        }
    }

    /// With a remedy.
    #[must_use]
    pub fn help(mut self, help: &str) -> Self {
        self.help = Some(clip(&escape(help), MESSAGE_LIMIT));
        self
    }

    /// For people: the message, the source line with a caret under the fault where `source` is the text of the file, and
    /// the remedy.
    #[must_use]
    pub fn render(&self, source: Option<&str>, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let title = Level::ERROR.primary_title(self.message.as_str());
        let mut group = match source.and_then(|s| self.excerpt(s)) {
            None => title.element(self.place()),
            Some(excerpt) => {
                let snippet = Snippet::source(excerpt.line).line_start(self.line);
                let snippet = snippet.annotation(AnnotationKind::Primary.span(excerpt.fault));
                // The renderer counts columns in what it is given, which is wrong for a line that was cut at its head.
                if excerpt.whole {
                    title.element(snippet.path(self.file.as_str()))
                } else {
                    title.element(self.place()).element(snippet)
                }
            }
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }

    fn place(&self) -> annotate_snippets::Origin<'_> {
        let place = annotate_snippets::Origin::path(self.file.as_str());
        if self.line == 0 { place } else { place.line(self.line).char_column(self.column) }
    }

    /// The line of the fault as it may be shown.
    fn excerpt(&self, source: &str) -> Option<Excerpt> {
        let span = self.span.clone().filter(|_| !self.private)?;
        let before = source.get(..span.start)?;
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let end = source[span.start..].find('\n').map_or(source.len(), |i| span.start + i);
        let first = ceil(source, start.max(span.start.saturating_sub(LINE_LIMIT / 2)));
        let last = floor(source, end.min(span.start + LINE_LIMIT));
        let stop = floor(source, span.end.clamp(span.start, last.max(span.start)));
        let cut = |cut: bool| if cut { "…" } else { "" };
        let head = format!("{}{}", cut(first > start), visible(&source[first..span.start]));
        let fault = visible(&source[span.start..stop]);
        let tail = if last > stop { visible(&source[stop..last]) } else { String::new() };
        // A caret behind the last character needs something to stand under.
        let line = format!("{head}{fault}{tail}{} ", cut(last < end));
        let next = line[head.len()..].chars().next().map_or(0, char::len_utf8);
        Some(Excerpt { line, fault: head.len()..head.len() + fault.len().max(next), whole: first == start })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, ": {help}"))
    }
}

/// At most so many characters.
pub(super) fn clip(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The last place between two characters that is not behind a byte.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or_default()
}

/// The first place between two characters that is not before a byte.
fn ceil(text: &str, at: usize) -> usize {
    (at..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len())
}

/// A piece of a source line without anything that a terminal would obey.
fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if is_hidden(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// The manifests of all layers, one behind the other: a place in any of them is an offset in the whole. From bytes to lines, and
/// which lines must not be shown.
#[derive(Debug, Default)]
pub(super) struct Text<'a> {
    pages: Vec<Page<'a>>,
    /// Byte ranges, in order of their start, whose lines are never shown.
    private: Vec<Range<usize>>,
}

/// The manifest of one layer.
#[derive(Debug)]
struct Page<'a> {
    file: &'a str,
    text: &'a str,
    /// Which layer, in their order.
    layer: usize,
    /// Where it begins in the whole.
    base: usize,
    /// Where its lines begin, in itself.
    starts: Vec<usize>,
}

impl<'a> Text<'a> {
    /// One file alone.
    pub(super) fn alone(file: &'a str, text: &'a str) -> Self {
        let mut whole = Self::default();
        whole.add(0, file, text);
        whole
    }

    /// Puts a manifest behind the others; returns where it begins.
    pub(super) fn add(&mut self, layer: usize, file: &'a str, text: &'a str) -> usize {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        // Behind the last character of a file there is still a place in it.
        let base = self.pages.last().map_or(0, |page| page.base + page.text.len() + 1);
        self.pages.push(Page { file, text, layer, base, starts });
        base
    }

    /// Never shows the lines of these bytes.
    pub(super) fn hide(&mut self, bytes: Range<usize>) {
        self.private.push(bytes);
    }

    /// Which layer a place is in.
    pub(super) fn layer(&self, offset: usize) -> usize {
        self.page(offset).map_or(0, |page| page.layer)
    }

    /// What is written there.
    pub(super) fn slice(&self, span: &Range<usize>) -> &'a str {
        let page = self.page(span.start);
        page.and_then(|page| page.text.get(span.start - page.base..span.end.checked_sub(page.base)?)).unwrap_or_default()
    }

    /// What is written from there on.
    pub(super) fn rest(&self, offset: usize) -> &'a str {
        self.page(offset).and_then(|page| page.text.get(offset - page.base..)).unwrap_or_default()
    }

    pub(super) fn origin(&self, offset: usize) -> Origin {
        let Some(page) = self.page(offset) else { return Origin::default() };
        let (line, column) = page.place(offset - page.base);
        Origin { file: page.file.to_owned(), line, column }
    }

    pub(super) fn fault(&self, span: &Range<usize>, message: &str) -> Diagnostic {
        let Some(page) = self.page(span.start) else { return Diagnostic::of_file(super::MANIFEST, message) };
        let (from, to) = (span.start - page.base, span.end.saturating_sub(page.base));
        let (line, column) = page.place(from);
        // Both ends stand on characters, whatever the parser counted.
        let start = floor(page.text, from);
        let end = ceil(page.text, to.max(start));
        let private = self.is_private(page, from);
        Diagnostic { line, column, span: Some(start..end), private, ..Diagnostic::of_file(page.file, message) }
    }

    /// The line that a byte stands in, from its beginning.
    pub(super) fn line_at(&self, offset: usize) -> &'a str {
        let Some(page) = self.page(offset) else { return "" };
        page.text[page.starts[page.line(offset - page.base)]..].lines().next().unwrap_or_default()
    }

    fn page(&self, offset: usize) -> Option<&Page<'a>> {
        let after = self.pages.partition_point(|page| page.base <= offset);
        self.pages.get(after.checked_sub(1)?)
    }

    fn is_private(&self, page: &Page<'_>, from: usize) -> bool {
        let line = page.line(from);
        let start = page.base + page.starts[line];
        let end = page.base + page.starts.get(line + 1).copied().unwrap_or(page.text.len() + 1);
        self.private.iter().any(|hidden| hidden.start < end && hidden.end >= start)
    }
}

impl Page<'_> {
    /// The line, from 0.
    fn line(&self, from: usize) -> usize {
        self.starts.partition_point(|start| *start <= from).saturating_sub(1)
    }

    /// Line and column, from 1.
    fn place(&self, from: usize) -> (usize, usize) {
        let line = self.line(from);
        let start = self.starts[line];
        // A line that is longer than anybody's editor has no exact column: counting must not cost more than reading.
        let before = self.text.get(start..floor(self.text, from.min(start + 4096))).unwrap_or_default();
        (line + 1, before.chars().count() + 1)
    }
}

/// The mistakes found so far. The first few are kept, the rest counted.
#[derive(Debug, Default)]
pub(super) struct Faults {
    kept: Vec<Diagnostic>,
    more: usize,
}

impl Faults {
    pub(super) fn push(&mut self, fault: Diagnostic) {
        if self.kept.len() < FAULT_LIMIT {
            self.kept.push(fault);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// So many that looking for more is not worth the time.
    pub(super) fn is_full(&self) -> bool {
        self.more > FAULT_LIMIT * 10
    }

    /// In the order of the repository: the manifest's by line, then the tree's by path.
    pub(super) fn into_sorted(mut self, manifest: &str) -> Vec<Diagnostic> {
        self.kept.sort_by(|a, b| {
            let key = |d: &Diagnostic| (d.file != manifest, d.file.clone(), d.line, d.column);
            key(a).cmp(&key(b))
        });
        if self.more > 0 {
            self.kept.push(Diagnostic::of_file(manifest, &format!("{} more mistakes are not shown", self.more)));
        }
        self.kept
    }
}
