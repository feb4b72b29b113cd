//! Proving a log, or finding where it was tampered with. Needs nothing but its bytes, and heads that were kept elsewhere.
//!
//! A line ends with `,"sum":"…"}`, the SHA-256 of all of the line before that, so an edited record shows by itself, the
//! last one too. It carries the SHA-256 of the whole line before it, so a dropped, repeated, swapped or replaced record
//! shows in the next one. A cut tail and a log that was rewritten from some record to its end show in nothing that is
//! left: only in an anchor, the head of the log as it was known elsewhere.

use std::io::{self, BufRead, Read as _};

use serde::Deserialize;

use super::Head;
use super::record::VERSION;
use crate::digest::Digest;

/// Longest accepted line, in bytes.
pub(super) const LINE_LIMIT: u64 = 64 * 1024 * 1024;
/// Length of `,"sum":"` with 64 digits and `"}`.
const SEAL_LENGTH: usize = 8 + 64 + 2;

/// Where a log is not what was written, and how that shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Broken {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub why: String,
}

/// A log that is what was written.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many records.
    pub records: u64,
    /// The last one; nothing in an empty log.
    pub head: Option<Head>,
    /// The last record that an anchor vouches for: up to there not even root can have rewritten it.
    pub anchored: Option<u64>,
}

/// Verifies a whole log. `anchors` are heads of it that were kept elsewhere.
///
/// # Errors
/// The first line that is not as it was written.
pub fn verify(reader: impl BufRead, anchors: &[Head]) -> Result<Verified, Broken> {
    let scan = scan(reader, anchors).map_err(|e| Broken { line: 0, why: e.to_string() })?;
    let next = scan.lines + 1;
    if let Some(broken) = scan.broken {
        return Err(broken);
    }
    if scan.torn.is_some() {
        return Err(Broken { line: next, why: "the last record is torn: no newline ends it".to_owned() });
    }
    let last = scan.head.map_or(0, |head| head.seq);
    match anchors.iter().filter(|anchor| anchor.seq > last).max_by_key(|anchor| anchor.seq) {
        Some(anchor) => Err(Broken { line: next, why: missing(last, anchor.seq) }),
        None => Ok(Verified { records: scan.lines, head: scan.head, anchored: scan.anchored }),
    }
}

/// In words: the records after `last` up to `known` are gone.
pub(super) fn missing(last: u64, known: u64) -> String {
    let end = if last == 0 { "the log is empty".to_owned() } else { format!("the log ends with record {last}") };
    format!("{end}, but record {known} was written: the tail was cut off")
}

/// What a log holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Whole lines.
    pub lines: u64,
    /// Their length in bytes.
    pub length: u64,
    /// The last of them, whether it is good or not.
    pub head: Option<Head>,
    /// The first that is not good.
    pub broken: Option<Broken>,
    /// The highest record that an anchor vouches for.
    pub anchored: Option<u64>,
    /// What follows the last newline.
    pub torn: Option<Torn>,
}

/// A last line that no newline ends.
#[derive(Debug)]
pub(super) struct Torn {
    /// Its length in bytes.
    pub bytes: u64,
    /// It is a whole record, and only its newline is missing.
    pub whole: Option<Head>,
}

/// Reads a log to its end, whatever is found on the way.
pub(super) fn scan(mut reader: impl BufRead, anchors: &[Head]) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut line)? as u64;
        match line.pop() {
            None => return Ok(scan),
            Some(b'\n') => scan.take(&line, anchors),
            Some(_) if read == LINE_LIMIT => {
                let why = format!("line {} of the audit log is too long to be a record", scan.lines + 1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            Some(last) => {
                line.push(last);
                let whole = follows(&line, scan.head).ok();
                scan.torn = Some(Torn { bytes: read, whole });
                return Ok(scan);
            }
        }
        scan.length += read;
    }
}

impl Scan {
    fn take(&mut self, line: &[u8], anchors: &[Head]) {
        self.lines += 1;
        let head = match follows(line, self.head) {
            Ok(head) => {
                self.check_anchors(head, anchors);
                head
            }
            Err(why) => {
                self.note(why);
                // Go on from what stands there, to count and to find the end.
                let seq = parse(line).map_or_else(|_| self.head.map_or(0, |head| head.seq) + 1, |link| link.seq);
                Head { seq, hash: Digest::of(line) }
            }
        };
        self.head = Some(head);
    }

    fn check_anchors(&mut self, head: Head, anchors: &[Head]) {
        for anchor in anchors.iter().filter(|anchor| anchor.seq == head.seq) {
            if anchor.hash == head.hash {
                self.anchored = Some(head.seq);
            } else {
                self.note(format!("record {} is not the one that was written: its hash was {}", head.seq, anchor.hash));
            }
        }
    }

    fn note(&mut self, why: String) {
        self.broken.get_or_insert(Broken { line: self.lines, why });
    }
}

/// What the chain needs of a record.
#[derive(Deserialize)]
struct Link {
    version: u32,
    seq: u64,
    prev: Option<Digest>,
}

fn parse(line: &[u8]) -> Result<Link, String> {
    serde_json::from_slice(line).map_err(|_| "this is not an audit record".to_owned())
}

/// Checks that a line is an unharmed record that follows on `previous`.
fn follows(line: &[u8], previous: Option<Head>) -> Result<Head, String> {
    check_seal(line)?;
    let link = parse(line)?;
    if link.version != VERSION {
        return Err(format!("the record has version {}, this program reads version {VERSION}", link.version));
    }
    let expected = previous.map_or(0, |head| head.seq).saturating_add(1);
    if link.seq > expected {
        return Err(format!("this is record {}, but record {expected} comes next: records are missing", link.seq));
    }
    if link.seq < expected {
        return Err(format!("this is record {}, but record {expected} comes next: it is repeated or out of order", link.seq));
    }
    if link.prev != previous.map(|head| head.hash) {
        return Err(format!("record {} does not follow on the line before, which was replaced", link.seq));
    }
    Ok(Head { seq: link.seq, hash: Digest::of(line) })
}

/// Puts the checksum of a record, given as a JSON object, at its end.
pub(super) fn seal(json: &str) -> String {
    let body = json.strip_suffix('}').unwrap_or(json);
    format!("{body},\"sum\":\"{}\"}}", Digest::of(body.as_bytes()))
}

fn check_seal(line: &[u8]) -> Result<(), String> {
    let body = line.len().checked_sub(SEAL_LENGTH).and_then(|length| line.get(..length)).unwrap_or_default();
    let json = [body, b"}"].concat();
    let sealed = std::str::from_utf8(&json).is_ok_and(|json| seal(json).as_bytes() == line);
    if sealed { Ok(()) } else { Err("the record was edited: it does not match its own checksum".to_owned()) }
}
