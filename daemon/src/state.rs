//! The durable store: SQLite with WAL and `synchronous=FULL`. Journal, generations, ledger and held revisions share it so
//! that committing a generation is one atomic step. Sole holder of the connection; decides nothing.

mod format;
mod objects;
mod reserve;
mod seal;
mod transaction;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::audit::Head;
use crate::change::Change;
use crate::journal::{self, Event, Illegal, Phase};
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::source::Commit;

use format::{FORMAT, SCHEMA, UNSEALED, migrate};
pub use objects::Objects;
pub use reserve::Reserve;
use transaction::{needs_room, note_outcome};

/// Where everything durable lives.
pub const STATE_DIR: &str = "/var/lib/reconciled";
/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// SQLite's own.
    #[error("state.db: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A row that does not check: nothing is done on the strength of it.
    #[error("state.db: {what} cannot be read: {source}")]
    Corrupt {
        /// Which row.
        what: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Made by another version.
    #[error("state.db has format {found}, this version knows {FORMAT}: install the version that wrote it; nothing was changed")]
    Version {
        /// Its format.
        found: u32,
    },
    /// A word or transition that this version does not know.
    #[error("state.db: transaction {id} is in the unknown state `{word}`: nothing was changed")]
    Unknown {
        /// Which transaction.
        id: u64,
        /// The word.
        word: String,
    },
    /// Another process has it open.
    #[error("another reconciled process is at work on {dir}: two at once would undo each other's changes; wait for it to end")]
    Busy {
        /// The state directory.
        dir: PathBuf,
    },
    /// A step that the journal does not allow.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// The object store.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Shorthand of this module and its users.
pub type StateResult<T> = Result<T, StateError>;

/// A committed transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// From 1.
    pub number: u64,
    /// The revision that it carries out.
    pub commit: Commit,
    /// Who asked for it.
    pub actor: String,
    /// When, RFC 3339.
    pub at: String,
    /// What the host is held at.
    #[serde(skip)]
    pub manifest: Manifest,
}

/// A revision that is not tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which.
    pub commit: String,
    /// Why, one paragraph.
    pub reason: String,
    /// Since when, RFC 3339.
    pub since: String,
}

/// A transaction that recovery has to end.
#[derive(Clone, Debug)]
pub struct Open {
    /// Its number.
    pub id: u64,
    /// Where it stands.
    pub state: Phase,
    /// What it set out to do.
    pub plan: Plan,
    /// Where its objects wait.
    pub staging: Vec<PathBuf>,
    /// Why it is being undone.
    pub reason: String,
    /// Targets that undo could not restore.
    pub remains: Vec<String>,
}

/// What a commit writes in one step.
#[derive(Debug)]
pub struct Commitment<'a> {
    /// The transaction.
    pub id: u64,
    /// Its plan.
    pub plan: &'a Plan,
    /// When, RFC 3339.
    pub at: &'a str,
    /// Revisions to hold: those that a rollback leaves behind.
    pub hold: &'a [Held],
    /// What the new generation has to be confirmed for; empty when nothing.
    pub lifelines: &'a [String],
    /// Whether an earlier generation that waits for its confirmation is what this one gives up.
    pub ends_waiting: bool,
}

/// A generation that is taken back unless somebody proves that the host can still be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// Which.
    pub generation: u64,
    /// The generation that comes back; `None` is the host as it was before the first.
    pub back_to: Option<u64>,
    /// What it changed.
    pub changed: Vec<String>,
}

/// The store.
#[derive(Debug)]
pub struct State {
    db: Connection,
    objects: Objects,
    reserve: Reserve,
    /// Locked for as long as the store is open; the kernel unlocks it with the process, however that ends.
    _lock: File,
}

impl State {
    /// Opens or makes the store below a directory.
    ///
    /// # Errors
    /// When it cannot be opened, is open in another process, or was written by an unknown version.
    pub fn open(dir: &Path) -> StateResult<Self> {
        let lock = lock(dir)?;
        let (db, found) = match connect(dir) {
            // On a full disk SQLite has no room for its shared memory: the reserve makes some.
            Err(error) if needs_room(&error) && std::fs::remove_file(dir.join("reserve")).is_ok() => connect(dir)?,
            result => result?,
        };
        let key = dir.join("seal.key");
        // Another key in its place would make noise of all that is kept: what is live, what was displaced, what an undo needs.
        if found > UNSEALED && !key.exists() {
            let remedy =
                "bring it back from where you keep it, or move the whole directory away and begin anew (reconcilectl init)";
            let source = std::io::Error::other(format!("it is gone, and what is kept here cannot be read without it: {remedy}"));
            return Err(StateError::Io { what: key.display().to_string(), source });
        }
        let objects = Objects::new(dir.join("objects"), &key)?;
        match found {
            FORMAT => {}
            0 => db.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;"))?,
            older if older < FORMAT => migrate(&db, older, &objects)?,
            found => return Err(StateError::Version { found }),
        }
        Ok(Self { db, objects, reserve: Reserve::keep(dir.join("reserve")), _lock: lock })
    }

    /// The contents of generations and displaced files.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The space kept back for outcomes.
    #[must_use]
    pub fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    /// The generation that waits for its confirmation.
    ///
    /// # Errors
    /// SQLite's, or a row that cannot be read.
    pub fn unconfirmed(&self) -> StateResult<Option<Unconfirmed>> {
        self.setting(Setting::Unconfirmed)?.map(|text| parse("unconfirmed", &text)).transpose()
    }

    /// Commits: journal closed, generation written, ledger changed, held list changed, in one step.
    ///
    /// # Errors
    /// For a transition that the journal does not allow, or SQLite's.
    pub fn commit(&mut self, commitment: &Commitment<'_>) -> StateResult<u64> {
        let Commitment { id, plan, at, hold, lifelines, ends_waiting } = commitment;
        let waiting = if *ends_waiting { None } else { self.unconfirmed()? };
        let to = journal::next(self.phase_of(*id)?, Event::Commit)?;
        let tx = self.db.transaction()?;
        tx.execute("UPDATE txn SET state = ?2 WHERE id = ?1", params![key(*id), to.word()])?;
        note_outcome(&tx, *id, to)?;
        tx.execute("DELETE FROM owed WHERE txn = ?1", [key(*id)])?;
        tx.execute("DELETE FROM begun WHERE txn <= ?1", [key(*id)])?;
        let last: Option<i64> = tx.query_row("SELECT MAX(number) FROM generation", [], |r| r.get(0))?;
        let number = if plan.intent == crate::plan::Intent::Repair { last.unwrap_or(0) } else { last.unwrap_or(0) + 1 };
        if plan.intent != crate::plan::Intent::Repair {
            tx.execute(
                "INSERT INTO generation (number, commit_id, commit_json, actor, at, manifest) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    number,
                    plan.commit.id,
                    json("commit", &plan.commit)?,
                    plan.actor,
                    at,
                    sealed(&self.objects, "manifest", &plan.manifest)?
                ],
            )?;
            tx.execute("DELETE FROM held WHERE commit_id = ?1", [&plan.commit.id])?;
        }
        if !lifelines.is_empty() {
            let back_to = waiting.map_or(last.map(i64::unsigned_abs), |earlier| earlier.back_to);
            let waiting = Unconfirmed { generation: number.unsigned_abs(), back_to, changed: lifelines.to_vec() };
            tx.execute(
                "INSERT OR REPLACE INTO setting (key, value) VALUES (?1, ?2)",
                params![Setting::Unconfirmed.word(), json("unconfirmed", &waiting)?],
            )?;
        } else if *ends_waiting {
            tx.execute("DELETE FROM setting WHERE key = ?1", [Setting::Unconfirmed.word()])?;
        }
        for (target, change) in &plan.claimed {
            // What stood there before us is what the first claim saw; later ones see our own work.
            let known = tx.query_row("SELECT displaced FROM ledger WHERE target = ?1", [target], |r| bytes(r, 0)).optional()?;
            let noted = match known {
                Some(known) => opened::<Change>(&self.objects, target, &known)?.noting(change),
                None => change.clone(),
            };
            tx.execute(
                "INSERT OR REPLACE INTO ledger (target, displaced) VALUES (?1, ?2)",
                params![target, sealed(&self.objects, "ledger", &noted)?],
            )?;
        }
        for target in &plan.released {
            tx.execute("DELETE FROM ledger WHERE target = ?1", [target])?;
        }
        for held in *hold {
            insert_held(&tx, held)?;
        }
        tx.execute("DELETE FROM interrupted WHERE commit_id = ?1", [&plan.commit.id])?;
        // Closed transactions are history; the audit log has them.
        tx.execute("DELETE FROM owed WHERE txn < ?1", [key(*id)])?;
        tx.execute("DELETE FROM txn WHERE id < ?1", [key(*id)])?;
        tx.commit()?;
        Ok(number.unsigned_abs())
    }

    /// A generation by its number.
    ///
    /// # Errors
    /// SQLite's, or a row that cannot be read.
    pub fn generation(&self, number: u64) -> StateResult<Option<Generation>> {
        Ok(self.generations_where("WHERE number = ?1", key(number))?.pop())
    }

    /// The live generation.
    ///
    /// # Errors
    /// SQLite's, or a row that cannot be read.
    pub fn live(&self) -> StateResult<Option<Generation>> {
        Ok(self.generations_where("ORDER BY number DESC LIMIT ?1", 1)?.pop())
    }

    /// What was done for generations after this one and nothing takes back, with their numbers, the newest first.
    ///
    /// # Errors
    /// The store's.
    pub fn stays_since(&self, number: u64) -> StateResult<Vec<(String, u64)>> {
        let since = self.generations_where("WHERE number > ?1 ORDER BY number DESC", key(number))?;
        let of = |g: Generation| g.manifest.stays.into_iter().map(move |target| (target, g.number));
        Ok(since.into_iter().flat_map(of).collect())
    }

    /// The newest generations, newest first, without what they declare.
    ///
    /// # Errors
    /// SQLite's, or a row that cannot be read.
    pub fn history(&self, limit: u32) -> StateResult<Vec<Generation>> {
        let mut query = self.db.prepare("SELECT number, commit_json, actor, at FROM generation ORDER BY number DESC LIMIT ?1")?;
        let rows = query.query_map([limit], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?, r.get(2)?, r.get(3)?)))?;
        rows.map(|row| {
            let (number, commit, actor, at) = row?;
            let commit = parse(&format!("generation {number}"), &commit)?;
            Ok(Generation { number: number.unsigned_abs(), commit, actor, at, manifest: Manifest::default() })
        })
        .collect()
    }

    fn generations_where(&self, clause: &str, argument: i64) -> StateResult<Vec<Generation>> {
        let mut query = self.db.prepare(&format!("SELECT number, commit_json, actor, at, manifest FROM generation {clause}"))?;
        let rows = query
            .query_map([argument], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?, r.get(2)?, r.get(3)?, bytes(r, 4)?)))?;
        rows.map(|row| {
            let (number, commit, actor, at, manifest) = row?;
            let what = format!("generation {number}");
            Ok(Generation {
                number: number.unsigned_abs(),
                commit: parse(&what, &commit)?,
                actor,
                at,
                manifest: opened(&self.objects, &what, &manifest)?,
            })
        })
        .collect()
    }

    /// What we own, and what stood there before us.
    ///
    /// # Errors
    /// SQLite's, or a row that cannot be read.
    pub fn ledger(&self) -> StateResult<BTreeMap<String, Change>> {
        let mut query = self.db.prepare("SELECT target, displaced FROM ledger")?;
        let rows = query.query_map([], |r| Ok((r.get::<_, String>(0)?, bytes(r, 1)?)))?;
        rows.map(|row| {
            let (target, displaced) = row?;
            Ok((target.clone(), opened(&self.objects, &target, &displaced)?))
        })
        .collect()
    }

    /// Holds a revision.
    ///
    /// # Errors
    /// SQLite's.
    pub fn hold(&mut self, held: &Held) -> StateResult<()> {
        self.write(|tx| insert_held(tx, held))
    }

    /// Lets a revision be tried again; whether it was held.
    ///
    /// # Errors
    /// SQLite's.
    pub fn unhold(&mut self, commit: &str) -> StateResult<bool> {
        Ok(self.db.execute("DELETE FROM held WHERE commit_id = ?1", [commit])? > 0)
    }

    /// Whether a revision is held.
    ///
    /// # Errors
    /// SQLite's.
    pub fn held(&self, commit: &str) -> StateResult<Option<Held>> {
        self.held_where("WHERE commit_id = ?1", &[&commit])
    }

    /// The revision that was held last, unless a generation has come since: told by numbers, whatever the clock did.
    ///
    /// # Errors
    /// SQLite's.
    pub fn standing_held(&self) -> StateResult<Option<Held>> {
        self.held_where("WHERE live >= (SELECT COALESCE(MAX(number), 0) FROM generation) ORDER BY seq DESC LIMIT 1", &[])
    }

    /// The revision that was held last.
    ///
    /// # Errors
    /// SQLite's.
    pub fn newest_held(&self) -> StateResult<Option<Held>> {
        self.held_where("ORDER BY seq DESC LIMIT 1", &[])
    }

    fn held_where(&self, clause: &str, arguments: &[&dyn rusqlite::ToSql]) -> StateResult<Option<Held>> {
        let sql = format!("SELECT commit_id, reason, since FROM held {clause}");
        let held = |r: &rusqlite::Row<'_>| Ok(Held { commit: r.get(0)?, reason: r.get(1)?, since: r.get(2)? });
        Ok(self.db.query_row(&sql, arguments, held).optional()?)
    }

    /// Counts an attempt that the daemon's death ended; how many there were.
    ///
    /// # Errors
    /// SQLite's.
    pub fn count_interruption(&mut self, commit: &str) -> StateResult<u32> {
        let sql = "INSERT INTO interrupted (commit_id, times) VALUES (?1, 1)
                   ON CONFLICT (commit_id) DO UPDATE SET times = times + 1 RETURNING times";
        Ok(self.db.query_row(sql, [commit], |r| r.get(0))?)
    }

    /// A single value kept under a name.
    ///
    /// # Errors
    /// SQLite's.
    pub fn setting(&self, name: Setting) -> StateResult<Option<String>> {
        Ok(self.db.query_row("SELECT value FROM setting WHERE key = ?1", [name.word()], |r| r.get(0)).optional()?)
    }

    /// Keeps a single value, or forgets it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_setting(&mut self, name: Setting, value: Option<&str>) -> StateResult<()> {
        match value {
            Some(value) => {
                self.db.execute("INSERT OR REPLACE INTO setting (key, value) VALUES (?1, ?2)", [name.word(), value])?
            }
            None => self.db.execute("DELETE FROM setting WHERE key = ?1", [name.word()])?,
        };
        Ok(())
    }

    /// The head of the audit log as it was last written.
    ///
    /// # Errors
    /// SQLite's, or a value that cannot be read.
    pub fn audit_head(&self) -> StateResult<Option<Head>> {
        self.setting(Setting::AuditHead)?.map(|text| parse("audit head", &text)).transpose()
    }

    /// Notes the head of the audit log.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_audit_head(&mut self, head: &Head) -> StateResult<()> {
        let head = json("audit head", head)?;
        self.write(|tx| {
            tx.execute("INSERT OR REPLACE INTO setting (key, value) VALUES (?1, ?2)", [Setting::AuditHead.word(), &head])?;
            tx.execute("DELETE FROM setting WHERE key = ?1", [Setting::Unrecorded.word()]).map(drop)
        })
    }
}

/// Single values in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The newest revision asked for.
    Desired,
    /// Who paused, since when and why (JSON); absent when not paused.
    Paused,
    /// The audit log's newest sequence number and hash (JSON).
    AuditHead,
    /// The transaction that has ended and whose outcome is not in the audit log yet.
    Unrecorded,
    /// The accepted tip of each remote in pull mode (JSON).
    Pins,
    /// The last alarm about each remote (JSON).
    Alarms,
    /// The generation that waits for its confirmation (JSON).
    Unconfirmed,
}

impl Setting {
    fn word(self) -> &'static str {
        match self {
            Self::Desired => "desired",
            Self::Paused => "paused",
            Self::AuditHead => "audit-head",
            Self::Unrecorded => "unrecorded",
            Self::Pins => "pins",
            Self::Alarms => "alarms",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

/// The head of the audit log that the store below a directory knows, for one who only reads it.
///
/// # Errors
/// SQLite's: it is root's.
pub fn audit_head_of(dir: &Path) -> StateResult<Option<Head>> {
    let db = Connection::open_with_flags(dir.join("state.db"), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let text: Option<String> =
        db.query_row("SELECT value FROM setting WHERE key = ?1", [Setting::AuditHead.word()], |r| r.get(0)).optional()?;
    text.map(|text| parse("audit head", &text)).transpose()
}

/// Opens the database as it has to be for commits to last; its format.
fn connect(dir: &Path) -> rusqlite::Result<(Connection, u32)> {
    let db = Connection::open(dir.join("state.db"))?;
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    let found = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok((db, found))
}

/// One engine at a time works on a store: the daemon's, or that of early boot.
fn lock(dir: &Path) -> StateResult<File> {
    let fail = |source| StateError::Io { what: format!("lock {}", dir.display()), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock")).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StateError::Busy { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

fn insert_held(db: &Connection, held: &Held) -> rusqlite::Result<()> {
    db.execute(
        "INSERT OR REPLACE INTO held (commit_id, reason, since, seq, live)
         VALUES (?1, ?2, ?3, (SELECT COALESCE(MAX(seq), 0) + 1 FROM held), (SELECT COALESCE(MAX(number), 0) FROM generation))",
        params![held.commit, held.reason, held.since],
    )?;
    Ok(())
}

/// SQLite's integers are signed.
fn key(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn json<T: Serialize>(what: &str, value: &T) -> StateResult<String> {
    serde_json::to_string(value).map_err(|source| StateError::Corrupt { what: what.to_owned(), source })
}

fn parse<T: DeserializeOwned>(what: &str, text: &str) -> StateResult<T> {
    serde_json::from_str(text).map_err(|source| StateError::Corrupt { what: what.to_owned(), source })
}

/// The bytes of a column, of whichever type.
fn bytes(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    Ok(row.get_ref(column)?.as_bytes()?.to_vec())
}

/// A value of a column that is sealed ([`format::SEALED`]).
fn sealed<T: Serialize>(objects: &Objects, what: &str, value: &T) -> StateResult<Vec<u8>> {
    objects.seal(what, json(what, value)?.as_bytes())
}

fn opened<T: DeserializeOwned>(objects: &Objects, what: &str, sealed: &[u8]) -> StateResult<T> {
    let text = objects.open(what, sealed)?;
    serde_json::from_slice(&text).map_err(|source| StateError::Corrupt { what: what.to_owned(), source })
}

#[cfg(test)]
mod tests;
