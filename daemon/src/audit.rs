//! The audit log: what was decided and done, by whom and why, one JSON line each, every line bound to the one before.
//!
//! Append-only and synchronous; read, verified and shown with nothing but the file. It decides nothing.

mod diff;
mod record;
mod show;
mod time;
mod verify;

use std::fmt;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use diff::text_diff;
pub use record::{ChangeRecord, Event, NewRecord, Record, Stage, VERSION};
pub use show::{Filter, Selection, find, full, line, newest, select};
pub use time::UtcTime;
pub use verify::{Broken, Verified, verify};

use crate::digest::Digest;

/// The log's permissions: root writes, its group reads.
const MODE: u32 = 0o640;

/// The last record of a log: kept elsewhere (state.db, the journal, the pusher's terminal) it is an anchor, which a
/// shortened or rewritten log does not match. Printed as `SEQ:HASH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The record's number.
    pub seq: u64,
    /// SHA-256 of its line, without the newline.
    pub hash: Digest,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (seq, hash) = text.split_once(':').ok_or("a head is written SEQ:HASH")?;
        Ok(Self { seq: seq.parse().map_err(|_| "a head begins with a record number")?, hash: hash.parse()? })
    }
}

/// When something happened, by all clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The wall clock.
    pub at: UtcTime,
    /// The kernel's `boot_id`.
    pub boot: String,
    /// Milliseconds since that boot, time asleep not counted.
    pub monotonic_ms: u64,
}

impl Stamp {
    /// Now, on this host.
    #[must_use]
    pub fn now() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let ms = clock.tv_sec.saturating_mul(1000).saturating_add(clock.tv_nsec / 1_000_000);
        Self { at: UtcTime::now(), boot: boot.trim().to_owned(), monotonic_ms: u64::try_from(ms).unwrap_or_default() }
    }
}

/// The log, open for appending. There is one writer, the engine.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: File,
    head: Option<Head>,
    /// A failed append could not be taken back: the file has to be cut to this length first.
    unclean: Option<u64>,
}

/// What was found on opening.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Records in the file.
    pub records: u64,
    /// What is wrong with it, if anything.
    pub findings: Vec<Finding>,
}

/// Something that is wrong with a log. Only `Torn` is what a crash leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A crash cut off the last append, which nobody had been told of; the rest of it was removed.
    Torn {
        /// How much of it there was.
        bytes: u64,
    },
    /// Records that were known to be written are not there.
    Missing {
        /// The last record that is there; 0 when there is none.
        last: u64,
        /// The last record that was written.
        known: u64,
    },
    /// A line is not as it was written.
    Broken(Broken),
}

impl Finding {
    /// Whether somebody has to be told loudly: a crash does not do this.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        !matches!(self, Self::Torn { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn { bytes } => write!(f, "the audit log ended in a torn record; {bytes} bytes of it were removed"),
            Self::Missing { last, known } => write!(f, "audit log: {}", verify::missing(*last, *known)),
            Self::Broken(broken) => write!(f, "the audit log was tampered with: {broken}"),
        }
    }
}

impl AuditLog {
    /// Opens the log, or creates it, and verifies it against the last head that the caller knows of. What is wrong with
    /// it is reported and stays visible: the next record then follows on the *known* head, not on what the file pretends.
    ///
    /// # Errors
    /// Those of the file system. A log that was tampered with is a finding, not an error: it can be appended to.
    pub fn open(path: &Path, expected: Option<Head>) -> io::Result<(Self, Opened)> {
        let file = open_or_create(path)?;
        let scan = verify::scan(BufReader::new(&file), expected.as_slice())?;
        let mut log = Self { path: path.to_owned(), file, head: scan.head, unclean: None };
        let mut opened = Opened { records: scan.lines, findings: scan.broken.map(Finding::Broken).into_iter().collect() };
        let mut anchored = scan.anchored.is_some();
        if let Some(torn) = scan.torn {
            match torn.whole {
                Some(head) => {
                    (&log.file).write_all(b"\n")?;
                    log.head = Some(head);
                    opened.records += 1;
                    anchored |= expected == Some(head);
                }
                None => {
                    log.file.set_len(scan.length)?;
                    opened.findings.push(Finding::Torn { bytes: torn.bytes });
                }
            }
            log.file.sync_data()?;
        }
        if let Some(known) = expected.filter(|_| !anchored) {
            let last = log.head.map_or(0, |head| head.seq);
            if last < known.seq {
                opened.findings.push(Finding::Missing { last, known: known.seq });
            }
            log.head = Some(Head { seq: last.max(known.seq), hash: known.hash });
        }
        Ok((log, opened))
    }

    /// The last record; nothing in a new log.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// Appends a record; when this returns, it is on disk.
    ///
    /// # Errors
    /// Those of the file system; then the log is as it was.
    pub fn append(&mut self, what: NewRecord, stamp: &Stamp) -> io::Result<Head> {
        self.write_with(what, stamp, &|mut file, line| file.write_all(line))
    }

    fn write_with(&mut self, what: NewRecord, stamp: &Stamp, write: Write<'_>) -> io::Result<Head> {
        self.keep_path()?;
        let seq = self.head.map_or(0, |head| head.seq).saturating_add(1);
        let record = Record {
            version: VERSION,
            seq,
            at: stamp.at,
            boot: stamp.boot.clone(),
            monotonic_ms: stamp.monotonic_ms,
            what: what.bounded(),
            prev: self.head.map(|head| head.hash),
        };
        let mut line = verify::seal(&serde_json::to_string(&record)?);
        let head = Head { seq, hash: Digest::of(line.as_bytes()) };
        line.push('\n');
        if line.len() as u64 > verify::LINE_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the audit record is too long"));
        }
        self.put(line.as_bytes(), write)?;
        self.head = Some(head);
        Ok(head)
    }

    /// Writes a line and makes it durable, or leaves the file as it was: a full disk must not tear the log.
    fn put(&mut self, line: &[u8], write: Write<'_>) -> io::Result<()> {
        if let Some(length) = self.unclean {
            self.file.set_len(length)?;
            self.unclean = None;
        }
        let length = self.file.metadata()?.len();
        write(&self.file, line).and_then(|()| self.file.sync_data()).inspect_err(|_| {
            if self.file.set_len(length).and_then(|()| self.file.sync_data()).is_err() {
                self.unclean = Some(length);
            }
        })
    }

    /// If the file was removed or moved away, a new one is begun at its place; the chain goes on, and so shows that.
    fn keep_path(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let there = std::fs::metadata(&self.path).ok();
        if there.is_none_or(|there| (there.dev(), there.ino()) != (ours.dev(), ours.ino())) {
            self.file = open_or_create(&self.path)?;
            self.unclean = None;
        }
        Ok(())
    }
}

/// How a line gets into the file; tests put a full disk here.
type Write<'a> = &'a dyn Fn(&File, &[u8]) -> io::Result<()>;

fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(MODE);
    match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let file = options.create(true).open(path)?;
    // The daemon's umask would keep the readers out; the directory decides which group that is.
    file.set_permissions(Permissions::from_mode(MODE))?;
    // The name has to survive a crash as well as the content.
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(directory)?.sync_all()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
