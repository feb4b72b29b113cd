//! The tables of the store, and how one of an earlier version is brought to them.

use rusqlite::{Connection, params};

use super::{Objects, StateResult};

/// Version of the store's format (`PRAGMA user_version`).
pub(super) const FORMAT: u32 = 3;
/// The first format, which had no key yet.
pub(super) const UNSEALED: u32 = 1;

pub(super) const SCHEMA: &str = "
CREATE TABLE txn (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL,
    plan BLOB NOT NULL,
    staging TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    remains TEXT NOT NULL DEFAULT '[]'
);
CREATE TABLE owed (
    txn INTEGER NOT NULL REFERENCES txn(id),
    seq INTEGER NOT NULL,
    wake TEXT NOT NULL,
    PRIMARY KEY (txn, seq)
);
CREATE TABLE begun (
    txn INTEGER NOT NULL REFERENCES txn(id),
    step INTEGER NOT NULL,
    PRIMARY KEY (txn, step)
);
CREATE TABLE generation (
    number INTEGER PRIMARY KEY,
    commit_id TEXT NOT NULL,
    commit_json TEXT NOT NULL,
    actor TEXT NOT NULL,
    at TEXT NOT NULL,
    manifest BLOB NOT NULL
);
CREATE TABLE ledger (target TEXT PRIMARY KEY, displaced BLOB NOT NULL);
CREATE TABLE held (commit_id TEXT PRIMARY KEY, reason TEXT NOT NULL, since TEXT NOT NULL, seq INTEGER NOT NULL, live INTEGER NOT NULL);
CREATE TABLE interrupted (commit_id TEXT PRIMARY KEY, times INTEGER NOT NULL);
CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL);
";

/// What each earlier format lacks.
const MIGRATIONS: [&str; 2] =
    ["CREATE TABLE begun (txn INTEGER NOT NULL REFERENCES txn(id), step INTEGER NOT NULL, PRIMARY KEY (txn, step));", ""];

/// Columns that may hold the digest of a secret, which would tell whoever guesses that he was right: they are sealed, as contents are.
pub(super) const SEALED: [(&str, &str); 3] = [("generation", "manifest"), ("ledger", "displaced"), ("txn", "plan")];

/// Brings a store of an earlier version to this one, in one transaction.
pub(super) fn migrate(db: &Connection, from: u32, objects: &Objects) -> StateResult<()> {
    if from == UNSEALED {
        objects.seal_all()?;
    }
    let missing = MIGRATIONS.iter().skip(from.saturating_sub(1) as usize).copied().collect::<String>();
    // What was there before is overwritten, and not only let go of.
    db.pragma_update(None, "secure_delete", true)?;
    let tx = db.unchecked_transaction()?;
    tx.execute_batch(&missing)?;
    for (table, column) in SEALED {
        let mut rows = tx.prepare(&format!("SELECT rowid, {column} FROM {table} WHERE typeof({column}) = 'text'"))?;
        let rows: Vec<(i64, String)> = rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
        for (row, text) in rows {
            let sealed = objects.seal(table, text.as_bytes())?;
            tx.execute(&format!("UPDATE {table} SET {column} = ?2 WHERE rowid = ?1"), params![row, sealed])?;
        }
    }
    tx.execute_batch(&format!("PRAGMA user_version = {FORMAT}"))?;
    tx.commit()?;
    // The log has it still until it is put into the file, which any later commit may do as well.
    if let Err(error) = db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
        tracing::warn!("state.db: {error}, ignoring");
    }
    Ok(())
}
