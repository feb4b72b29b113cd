//! The journal's rows: a transaction from `planned` to its end, the wakes that it owes, and its outcome until that is on record.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Held, Open, Setting, State, StateError, StateResult, bytes, insert_held, json, key, opened, parse, sealed};
use crate::change::Wake;
use crate::journal::{self, Event, Phase};
use crate::plan::Plan;

impl State {
    /// A new transaction, `planned`.
    ///
    /// # Errors
    /// SQLite's; no room for the reserve that taking it back may need.
    pub fn begin(&mut self, plan: &Plan, staging: &[PathBuf]) -> StateResult<u64> {
        if !self.reserve.refill() {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(StateError::Io { what: "keep room for taking it back".to_owned(), source });
        }
        let (plan, staging, wakes) = (sealed(&self.objects, "plan", plan)?, json("staging", &staging)?, &plan.wakes);
        let tx = self.db.transaction()?;
        tx.execute("INSERT INTO txn (state, plan, staging) VALUES (?1, ?2, ?3)", params![Phase::Planned.word(), plan, staging])?;
        let id = tx.last_insert_rowid();
        insert_owed(&tx, id, wakes)?;
        tx.commit()?;
        Ok(id.unsigned_abs())
    }

    /// Gives a transaction that is `acting` the rest of its plan: what it stands on is there, and the rest could be seen. Steps that are
    /// done keep their numbers.
    ///
    /// # Errors
    /// SQLite's.
    pub fn extend(&mut self, id: u64, plan: &Plan, staging: &[PathBuf]) -> StateResult<()> {
        let (plan, staging, wakes) = (sealed(&self.objects, "plan", plan)?, json("staging", &staging)?, &plan.wakes);
        let tx = self.db.transaction()?;
        tx.execute("UPDATE txn SET plan = ?2, staging = ?3 WHERE id = ?1", params![key(id), plan, staging])?;
        insert_owed(&tx, key(id), wakes)?;
        Ok(tx.commit()?)
    }

    /// Notes that these steps have begun; durable when this returns.
    ///
    /// # Errors
    /// SQLite's.
    pub fn begin_steps(&mut self, id: u64, steps: &[usize]) -> StateResult<()> {
        let tx = self.db.transaction()?;
        for step in steps {
            tx.execute("INSERT OR IGNORE INTO begun (txn, step) VALUES (?1, ?2)", params![key(id), key(*step as u64)])?;
        }
        Ok(tx.commit()?)
    }

    /// Notes that these steps are taken back.
    ///
    /// # Errors
    /// SQLite's.
    pub fn end_steps(&mut self, id: u64, steps: &[usize]) -> StateResult<()> {
        self.write(|tx| {
            steps.iter().try_for_each(|step| {
                tx.execute("DELETE FROM begun WHERE txn = ?1 AND step = ?2", params![key(id), key(*step as u64)]).map(drop)
            })
        })
    }

    /// The steps that have begun and are not taken back.
    ///
    /// # Errors
    /// SQLite's.
    pub fn begun(&self, id: u64) -> StateResult<BTreeSet<usize>> {
        let mut query = self.db.prepare("SELECT step FROM begun WHERE txn = ?1")?;
        let rows = query.query_map([key(id)], |r| r.get::<_, i64>(0))?;
        rows.map(|row| Ok(usize::try_from(row?).unwrap_or(usize::MAX))).collect()
    }

    /// Moves a transaction on; durable when this returns.
    ///
    /// # Errors
    /// For a transition that the journal does not allow, or SQLite's.
    pub fn advance(&mut self, id: u64, event: Event) -> StateResult<()> {
        let to = journal::next(self.phase_of(id)?, event)?;
        let step = |tx: &rusqlite::Transaction<'_>| {
            tx.execute("UPDATE txn SET state = ?2 WHERE id = ?1", params![key(id), to.word()])?;
            note_outcome(tx, id, to)
        };
        // What has not begun can wait for room: the reserve is for what has.
        if event == Event::Act { Ok(attempt(&mut self.db, &step)?) } else { self.write(step) }
    }

    /// Moves a transaction on and notes what undo could not restore, in one step.
    ///
    /// # Errors
    /// For a transition that the journal does not allow, or SQLite's.
    pub fn advance_with(&mut self, id: u64, event: Event, remains: &[String]) -> StateResult<()> {
        let to = journal::next(self.phase_of(id)?, event)?;
        let remains = json("remains", &remains)?;
        self.write(|tx| {
            tx.execute("UPDATE txn SET state = ?2, remains = ?3 WHERE id = ?1", params![key(id), to.word(), remains])?;
            note_outcome(tx, id, to)
        })
    }

    /// Begins to take a transaction back, or begins again. The first reason stays. A revision that is at fault is held in the
    /// same step: a crash from here on must not have it tried again.
    ///
    /// # Errors
    /// For a transition that the journal does not allow, or SQLite's.
    pub fn begin_undo(&mut self, id: u64, reason: &str, hold: Option<&Held>) -> StateResult<()> {
        let to = journal::next(self.phase_of(id)?, Event::Undo)?;
        self.write(|tx| {
            tx.execute(
                "UPDATE txn SET state = ?2, reason = CASE reason WHEN '' THEN ?3 ELSE reason END WHERE id = ?1",
                params![key(id), to.word(), reason],
            )?;
            hold.map_or(Ok(()), |held| insert_held(tx, held))
        })
    }

    /// One step that must not fail for want of space: the reserve is given up for it.
    pub(super) fn write(&mut self, step: impl Fn(&rusqlite::Transaction<'_>) -> rusqlite::Result<()>) -> StateResult<()> {
        match attempt(&mut self.db, &step) {
            Err(error) if needs_room(&error) && self.reserve.give_up() => Ok(attempt(&mut self.db, &step)?),
            result => Ok(result?),
        }
    }

    /// Where a transaction stands.
    ///
    /// # Errors
    /// SQLite's; a state that this version does not know.
    pub fn phase_of(&self, id: u64) -> StateResult<Phase> {
        let word: String = self.db.query_row("SELECT state FROM txn WHERE id = ?1", [key(id)], |row| row.get(0))?;
        Phase::from_word(&word).ok_or(StateError::Unknown { id, word })
    }

    /// Notes what undo could not restore.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_remains(&mut self, id: u64, targets: &[String]) -> StateResult<()> {
        let targets = json("remains", &targets)?;
        self.write(|tx| tx.execute("UPDATE txn SET remains = ?2 WHERE id = ?1", params![key(id), targets]).map(drop))
    }

    /// The transaction that is not over yet; there is never more than one.
    ///
    /// # Errors
    /// SQLite's; a row that cannot be read, or a state that this version does not know.
    pub fn open_transaction(&self) -> StateResult<Option<Open>> {
        Ok(self.newest_transaction()?.filter(|t| !t.state.is_over()))
    }

    fn newest_transaction(&self) -> StateResult<Option<Open>> {
        let mut query = self.db.prepare("SELECT id, state, plan, staging, reason, remains FROM txn ORDER BY id DESC LIMIT 1")?;
        let row = query
            .query_row([], |r| {
                Ok((
                    r.get::<_, i64>(0)?,
                    r.get::<_, String>(1)?,
                    bytes(r, 2)?,
                    r.get::<_, String>(3)?,
                    r.get(4)?,
                    r.get::<_, String>(5)?,
                ))
            })
            .optional()?;
        let Some((id, word, plan, staging, reason, remains)) = row else { return Ok(None) };
        let id = id.unsigned_abs();
        let state = Phase::from_word(&word).ok_or(StateError::Unknown { id, word })?;
        let what = format!("transaction {id}");
        Ok(Some(Open {
            id,
            state,
            plan: opened(&self.objects, &what, &plan)?,
            staging: parse(&what, &staging)?,
            reason,
            remains: parse(&what, &remains)?,
        }))
    }

    /// The staging places of transactions that are over: a crash may have left objects there.
    ///
    /// # Errors
    /// SQLite's, or a row that cannot be read.
    pub fn left_over_staging(&self) -> StateResult<Vec<(u64, Vec<PathBuf>)>> {
        let mut query = self.db.prepare("SELECT id, state, staging FROM txn")?;
        let rows = query.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?, r.get::<_, String>(2)?)))?;
        let mut over = Vec::new();
        for row in rows {
            let (id, word, staging) = row?;
            if Phase::from_word(&word).is_some_and(Phase::is_over) {
                over.push((id.unsigned_abs(), parse("staging", &staging)?));
            }
        }
        Ok(over)
    }

    /// The wakes that a transaction still owes, in order.
    ///
    /// # Errors
    /// SQLite's, or a row that cannot be read.
    pub fn owed(&self, id: u64) -> StateResult<Vec<(u64, Wake)>> {
        let mut query = self.db.prepare("SELECT seq, wake FROM owed WHERE txn = ?1 ORDER BY seq")?;
        let rows = query.query_map([key(id)], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?)))?;
        rows.map(|row| row.map_err(StateError::from).and_then(|(seq, wake)| Ok((seq.unsigned_abs(), parse("wake", &wake)?))))
            .collect()
    }

    /// Records a wake as done.
    ///
    /// # Errors
    /// SQLite's.
    pub fn wake_done(&mut self, id: u64, seq: u64) -> StateResult<()> {
        self.write(|tx| tx.execute("DELETE FROM owed WHERE txn = ?1 AND seq = ?2", params![key(id), key(seq)]).map(drop))
    }

    /// The transaction that has ended without a record of how: the daemon died just then.
    ///
    /// # Errors
    /// SQLite's, or a row that cannot be read.
    pub fn unrecorded(&self) -> StateResult<Option<Open>> {
        let Some(id) = self.setting(Setting::Unrecorded)?.and_then(|id| id.parse::<u64>().ok()) else { return Ok(None) };
        Ok(self.newest_transaction()?.filter(|t| t.id == id))
    }
}

fn insert_owed(tx: &rusqlite::Transaction<'_>, id: i64, wakes: &[Wake]) -> StateResult<()> {
    for (seq, wake) in wakes.iter().enumerate() {
        let seq = i64::try_from(seq).unwrap_or(i64::MAX);
        tx.execute("INSERT INTO owed (txn, seq, wake) VALUES (?1, ?2, ?3)", params![id, seq, json("wake", wake)?])?;
    }
    Ok(())
}

fn attempt(db: &mut Connection, step: &impl Fn(&rusqlite::Transaction<'_>) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    step(&tx)?;
    tx.commit()
}

/// A full disk shows in more than one way: SQLite's shared memory and log are files too.
pub(super) fn needs_room(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as Code;
    matches!(error.sqlite_error_code(), Some(Code::DiskFull | Code::SystemIoFailure | Code::CannotOpen))
}

/// A transaction that ends is noted until the audit log says how.
pub(super) fn note_outcome(db: &Connection, id: u64, to: Phase) -> rusqlite::Result<()> {
    if matches!(to, Phase::Committed | Phase::RolledBack | Phase::Stuck) {
        let value = id.to_string();
        db.execute("INSERT OR REPLACE INTO setting (key, value) VALUES (?1, ?2)", [Setting::Unrecorded.word(), &value])?;
    }
    Ok(())
}
