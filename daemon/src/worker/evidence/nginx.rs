//! What nginx's configuration says of what fails most often. Read as it stands: nginx itself is not asked, since to test it
//! means to make files and to load modules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::diagnose::{Doubled, Nginx, Server};

/// Where Debian's nginx begins to read.
const MAIN: &str = "/etc/nginx/nginx.conf";
/// What a path in an `include` is relative to.
const PREFIX: &str = "/etc/nginx";
/// The user of Debian's nginx when none is named.
const USER: &str = "www-data";
/// More files than so many are not read.
const FILES: usize = 400;
/// Longer files are not read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// Blocks and includes in each other, at most.
const DEEPEST: usize = 20;
/// More servers or doubled headers are not told.
const MOST: usize = 200;

/// What was found in it.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) nginx: Nginx,
    /// Sockets that it passes requests to.
    pub(super) sockets: Vec<String>,
    /// Its error logs.
    pub(super) logs: BTreeSet<String>,
}

/// A directive with its block, if it has one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Directive {
    at: String,
    words: Vec<String>,
    block: Vec<Directive>,
}

/// Reads it; what cannot be read is not there.
pub(super) fn read() -> Read {
    let mut files = FILES;
    of(&load(Path::new(MAIN), &mut files, 0))
}

/// What these directives say.
pub(super) fn of(main: &[Directive]) -> Read {
    let mut read = Read::default();
    collect(main, 0, &mut read);
    if read.nginx.user.is_empty() && !main.is_empty() {
        USER.clone_into(&mut read.nginx.user);
    }
    read.nginx.servers.truncate(MOST);
    read.nginx.doubled.truncate(MOST);
    read
}

fn collect(block: &[Directive], depth: usize, read: &mut Read) {
    let mut headers: Vec<(&str, &str)> = Vec::new();
    for directive in block {
        let words: Vec<&str> = directive.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["user", user, ..] if depth == 0 => (*user).clone_into(&mut read.nginx.user),
            ["error_log", path, ..] => read.logs.extend([(*path).to_owned()]),
            ["proxy_set_header", name, ..] => match headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
                Some((_, first)) => read.nginx.doubled.push(Doubled {
                    header: (*name).to_owned(),
                    first: (*first).to_owned(),
                    second: directive.at.clone(),
                }),
                None => headers.push((*name, &directive.at)),
            },
            ["server"] => read.nginx.servers.push(server(directive)),
            ["listen", ..] => {}
            [_, place, ..] => {
                read.sockets.extend(place.split_once("unix:").and_then(|(_, rest)| socket(rest)).map(str::to_owned))
            }
            _ => {}
        }
        collect(&directive.block, depth + 1, read);
    }
}

/// The path before what ends it in `unix:/run/x.sock:/uri`.
pub(super) fn socket(rest: &str) -> Option<&str> {
    let end = rest.find(|c: char| c.is_whitespace() || ":\";".contains(c)).unwrap_or(rest.len());
    Some(rest[..end].trim_end_matches('/')).filter(|path| path.starts_with('/'))
}

fn server(directive: &Directive) -> Server {
    let inside = |name: &'static str| directive.block.iter().filter(move |d| d.words.first().is_some_and(|word| word == name));
    let mut ports: Vec<(u16, bool)> = inside("listen").filter_map(|d| listen(&d.words)).collect();
    if ports.is_empty() {
        ports.push((80, false));
    }
    ports.sort_unstable();
    ports.dedup();
    let names = inside("server_name").flat_map(|d| d.words[1..].iter().cloned()).collect();
    Server { at: directive.at.clone(), ports, names }
}

/// `listen 127.0.0.1:8080 default_server;`: the port, and whether it is the default server of it.
fn listen(words: &[String]) -> Option<(u16, bool)> {
    let place = words.get(1)?;
    if place.starts_with("unix:") {
        return None;
    }
    let port = match place.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse().ok()?,
        _ => place.parse().unwrap_or(80),
    };
    Some((port, words[2..].iter().any(|word| word == "default_server")))
}

/// A file's directives, with what it includes in the place of the include.
fn load(path: &Path, files: &mut usize, depth: usize) -> Vec<Directive> {
    let is_small = |found: &fs::Metadata| found.is_file() && found.len() <= FILE_LIMIT;
    if *files == 0 || depth > DEEPEST || !fs::metadata(path).is_ok_and(|found| is_small(&found)) {
        return Vec::new();
    }
    *files -= 1;
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    include(parse(&text, &path.to_string_lossy()), files, depth)
}

fn include(directives: Vec<Directive>, files: &mut usize, depth: usize) -> Vec<Directive> {
    let mut all = Vec::new();
    for mut directive in directives {
        match directive.words.as_slice() {
            [word, pattern] if word == "include" => {
                for path in matching(pattern) {
                    all.extend(load(&path, files, depth + 1));
                }
            }
            _ => {
                directive.block = include(directive.block, files, depth);
                all.push(directive);
            }
        }
    }
    all
}

/// The files that a pattern stands for, in order (glob(3)).
fn matching(pattern: &str) -> Vec<PathBuf> {
    let pattern = Path::new(PREFIX).join(pattern);
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str().to_string_lossy().into_owned();
        if !part.contains(['*', '?', '[']) {
            found.iter_mut().for_each(|path| path.push(&part));
            continue;
        }
        let Ok(glob) = crate::path::glob(&part).map(|glob| glob.compile_matcher()) else { return Vec::new() };
        let mut next = Vec::new();
        for folder in found {
            let names = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
            let fits = |name: &std::ffi::OsString| !name.to_string_lossy().starts_with('.') && glob.is_match(Path::new(name));
            next.extend(names.filter(fits).map(|name| folder.join(name)));
        }
        next.sort();
        found = next;
    }
    found
}

/// The directives of a text. What is no configuration gives some or none, and never fails.
pub(super) fn parse(text: &str, name: &str) -> Vec<Directive> {
    // The blocks that are open, the innermost last, each with what is in it so far.
    let mut open: Vec<Vec<Directive>> = vec![Vec::new()];
    let (mut words, mut begun) = (Vec::new(), 0);
    for (line, token) in tokens(text) {
        match token {
            Token::Word(word) => {
                if words.is_empty() {
                    begun = line;
                }
                words.push(word);
            }
            Token::End | Token::Open if !words.is_empty() => {
                let directive = Directive { at: format!("{name}:{begun}"), words: std::mem::take(&mut words), block: Vec::new() };
                if let Some(block) = open.last_mut() {
                    block.push(directive);
                }
                if token == Token::Open && open.len() <= DEEPEST {
                    open.push(Vec::new());
                }
            }
            Token::Close if open.len() > 1 => close(&mut open),
            _ => words.clear(),
        }
    }
    while open.len() > 1 {
        close(&mut open);
    }
    open.pop().unwrap_or_default()
}

/// Gives the innermost block to the directive that opened it.
fn close(open: &mut Vec<Vec<Directive>>) {
    let block = open.pop().unwrap_or_default();
    if let Some(directive) = open.last_mut().and_then(|outer| outer.last_mut()) {
        directive.block = block;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// Words, quoted or not, and what stands between them, each with its line.
fn tokens(text: &str) -> Vec<(usize, Token)> {
    let mut tokens = Vec::new();
    let mut letters = text.chars().peekable();
    let mut line = 1;
    while let Some(letter) = letters.next() {
        let token = match letter {
            '\n' => {
                line += 1;
                continue;
            }
            _ if letter.is_whitespace() => continue,
            '#' => {
                while letters.next_if(|c| *c != '\n').is_some() {}
                continue;
            }
            ';' => Token::End,
            '{' => Token::Open,
            '}' => Token::Close,
            '"' | '\'' => {
                let mut word = String::new();
                while let Some(c) = letters.next().filter(|c| *c != letter) {
                    word.push(if c == '\\' { letters.next().unwrap_or(c) } else { c });
                }
                tokens.push((line, Token::Word(word.clone())));
                line += word.matches('\n').count();
                continue;
            }
            _ => {
                let mut word = String::from(letter);
                // `${name}` is part of a word.
                while let Some(c) =
                    letters.next_if(|c| !c.is_whitespace() && !";}".contains(*c) && (*c != '{' || word.ends_with('$')))
                {
                    word.push(c);
                    if c == '{' {
                        word.extend(std::iter::from_fn(|| letters.next_if(|c| !c.is_whitespace() && *c != '}')));
                        word.extend(letters.next_if(|c| *c == '}'));
                    }
                }
                Token::Word(word)
            }
        };
        tokens.push((line, token));
    }
    tokens
}
