//! The store: what it keeps, what it refuses, what it never forgets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{Commitment, FORMAT, Held, Setting, State, StateError};
use crate::audit::Head;
use crate::change::{Change, FileFacts, Object, Wake};
use crate::cycle::tests::{id, scratch};
use crate::digest::Digest;
use crate::journal::{Event, Phase};
use crate::manifest::Manifest;
use crate::path::ManagedPath;
use crate::plan::{Intent, Plan, Step};
use crate::source::Commit;

fn change(path: &str, before: &str) -> Change {
    let object = |text: &str| match text {
        "" => Object::Absent,
        text => {
            let (digest, size) = (Digest::of(text.as_bytes()), text.len() as u64);
            Object::File(FileFacts { digest, size, mode: 0o644, uid: 0, gid: 0 })
        }
    };
    Change::Entry { path: ManagedPath::new(path).unwrap(), before: object(before), after: object("ours"), secret: false }
}

fn plan(intent: Intent, commit: &str, claimed: &[Change], released: &[&str]) -> Plan {
    let step = |change: &Change| Step {
        resource: "file:/etc/x".to_owned(),
        reason: "new".to_owned(),
        phase: crate::kind::Phase::Files,
        change: change.clone(),
        within_reach: false,
    };
    Plan {
        intent,
        actor: "ana".to_owned(),
        commit: Commit { id: id(commit), summary: "s".to_owned(), author: "a".to_owned() },
        manifest: Manifest::default(),
        steps: claimed.iter().map(step).collect(),
        wakes: vec![Wake::DaemonReload, Wake::Restart { unit: "a.service".to_owned() }],
        why: Vec::new(),
        only_for: Vec::new(),
        guards: Vec::new(),
        claimed: claimed.iter().map(|c| (c.target(), c.clone())).collect(),
        released: released.iter().map(|r| (*r).to_owned()).collect(),
        touched: Vec::new(),
        bystanders: BTreeMap::new(),
        ailing: Vec::new(),
        let_go: Vec::new(),
        forgiving: false,
        secrets: crate::secrets::Secrets::default(),
        notes: Vec::new(),
    }
}

fn commit(state: &mut State, plan: &Plan, hold: &[Held]) -> u64 {
    let id = state.begin(plan, &["/.reconciled".into()]).unwrap();
    state.advance(id, Event::Act).unwrap();
    state.commit(&Commitment { id, plan, at: "2026-04-01T00:00:00Z", hold, lifelines: &[], ends_waiting: false }).unwrap()
}

fn held(commit: &str) -> Held {
    Held { commit: id(commit), reason: format!("bad {commit}"), since: "2026-04-01T00:00:00Z".to_owned() }
}

/// Changes the file behind the store's back.
fn meddle(dir: &Path, sql: &str) {
    Connection::open(dir.join("state.db")).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn a_new_store_is_empty_and_stays_as_it_is() {
    let dir = scratch();
    for _ in 0..2 {
        let state = State::open(dir.path()).unwrap();
        assert!(state.live().unwrap().is_none() && state.open_transaction().unwrap().is_none());
        assert!(state.ledger().unwrap().is_empty() && state.newest_held().unwrap().is_none());
    }
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("objects"), 0o700);
}

#[test]
fn an_unknown_newer_format_is_refused_and_left_alone() {
    let dir = scratch();
    commit(&mut State::open(dir.path()).unwrap(), &plan(Intent::Deploy, "1", &[], &[]), &[]);
    meddle(dir.path(), &format!("PRAGMA user_version = {};", FORMAT + 1));
    let before = std::fs::read(dir.path().join("state.db")).unwrap();
    let error = State::open(dir.path()).unwrap_err();
    assert!(matches!(error, StateError::Version { found } if found == FORMAT + 1), "{error}");
    assert!(error.to_string().contains("nothing was changed"));
    assert_eq!(std::fs::read(dir.path().join("state.db")).unwrap(), before);
}

#[test]
fn a_row_that_does_not_check_is_named_and_never_guessed_at() {
    let damaged = |sql: &str| {
        let dir = scratch();
        let mut state = State::open(dir.path()).unwrap();
        commit(&mut state, &plan(Intent::Deploy, "1", &[change("/etc/x", "old")], &[]), &[]);
        let id = state.begin(&plan(Intent::Deploy, "2", &[], &[]), &[]).unwrap();
        state.advance(id, Event::Act).unwrap();
        meddle(dir.path(), sql);
        (dir, state, id)
    };
    for (sql, named) in [
        ("UPDATE txn SET plan = '{' WHERE id = 2", "transaction 2"),
        ("UPDATE txn SET plan = substr(plan, 1, 40) WHERE id = 2", "transaction 2"),
        ("UPDATE txn SET staging = '7' WHERE id = 2", "transaction 2"),
        ("UPDATE txn SET state = 'committing' WHERE id = 2", "unknown state `committing`"),
    ] {
        let (_dir, mut state, id) = damaged(sql);
        let error = state.open_transaction().unwrap_err().to_string();
        assert!(error.contains(named), "{sql}: {error}");
        if sql.contains("committing") {
            assert!(state.begin_undo(id, "why", None).is_err(), "nothing follows on a state that nobody knows");
        }
    }
    let (_dir, state, _) = damaged("UPDATE ledger SET displaced = 'null'");
    assert!(state.ledger().unwrap_err().to_string().contains("file:/etc/x"));
    let (_dir, state, _) = damaged("UPDATE generation SET manifest = '[]'");
    assert!(state.live().unwrap_err().to_string().contains("generation 1"));
    let (_dir, state, _) = damaged("UPDATE owed SET wake = '{}' WHERE txn = 2");
    assert!(state.owed(2).unwrap_err().to_string().contains("wake"));
}

#[test]
fn only_what_the_journal_allows() {
    let dir = scratch();
    let mut state = State::open(dir.path()).unwrap();
    let plan = plan(Intent::Deploy, "1", &[], &[]);
    let id = state.begin(&plan, &[]).unwrap();
    let error =
        state.commit(&Commitment { id, plan: &plan, at: "", hold: &[], lifelines: &[], ends_waiting: false }).unwrap_err();
    assert!(matches!(error, StateError::Illegal(_)), "planned cannot commit: {error}");
    assert!(state.live().unwrap().is_none());
    state.advance(id, Event::Act).unwrap();
    state.begin_undo(id, "why", None).unwrap();
    state.begin_undo(id, "why again", None).unwrap();
    assert!(
        state.commit(&Commitment { id, plan: &plan, at: "", hold: &[], lifelines: &[], ends_waiting: false }).is_err(),
        "what is undone does not commit"
    );
    drop(state);
    let open = State::open(dir.path()).unwrap().open_transaction().unwrap().unwrap();
    assert_eq!((open.state, open.reason.as_str(), open.plan), (Phase::Undoing, "why", plan));
}

#[test]
fn the_first_claim_is_what_stood_there_before_us() {
    let dir = scratch();
    let mut state = State::open(dir.path()).unwrap();
    let (first, second) = (change("/etc/x", "theirs"), change("/etc/x", "ours"));
    commit(&mut state, &plan(Intent::Deploy, "1", std::slice::from_ref(&first), &[]), &[]);
    commit(&mut state, &plan(Intent::Deploy, "2", &[second.clone(), change("/etc/y", "")], &[]), &[]);
    let ledger = state.ledger().unwrap();
    assert_eq!(ledger["file:/etc/x"], first, "a later claim sees our own work");
    assert_eq!(ledger.len(), 2);
    commit(&mut state, &plan(Intent::Deploy, "3", &[], &["file:/etc/x"]), &[]);
    assert_eq!(state.ledger().unwrap().keys().collect::<Vec<_>>(), ["file:/etc/y"]);
    commit(&mut state, &plan(Intent::Deploy, "4", std::slice::from_ref(&second), &[]), &[]);
    assert_eq!(state.ledger().unwrap()["file:/etc/x"], second, "given up and claimed anew");
}

#[test]
fn generations_are_numbered_and_a_repair_makes_none() {
    let dir = scratch();
    let mut state = State::open(dir.path()).unwrap();
    assert_eq!(commit(&mut state, &plan(Intent::Deploy, "1", &[], &[]), &[]), 1);
    assert_eq!(commit(&mut state, &plan(Intent::Deploy, "2", &[], &[]), &[]), 2);
    assert_eq!(commit(&mut state, &plan(Intent::Repair, "2", &[], &[]), &[]), 2);
    assert_eq!(commit(&mut state, &plan(Intent::Rollback, "1", &[], &[]), &[]), 3);
    let numbers: Vec<u64> = state.history(10).unwrap().iter().map(|g| g.number).collect();
    assert_eq!(numbers, [3, 2, 1]);
    assert_eq!(state.live().unwrap().unwrap().commit.id, id("1"));
    assert_eq!(state.generation(2).unwrap().unwrap().commit.id, id("2"));
    assert!(state.generation(4).unwrap().is_none());
}

#[test]
fn held_revisions() {
    let dir = scratch();
    let mut state = State::open(dir.path()).unwrap();
    for commit in ["b", "a", "c", "a"] {
        state.hold(&held(commit)).unwrap();
    }
    assert_eq!(state.newest_held().unwrap(), Some(held("a")), "held again is held last");
    assert!(state.unhold(&id("a")).unwrap());
    assert!(!state.unhold(&id("a")).unwrap());
    assert_eq!(state.newest_held().unwrap(), Some(held("c")));
    assert_eq!(state.held(&id("b")).unwrap(), Some(held("b")));
    // What goes live is no longer held; what it leaves behind is.
    commit(&mut state, &plan(Intent::Rollback, "c", &[], &[]), &[held("d"), held("e")]);
    assert_eq!(state.held(&id("c")).unwrap(), None);
    drop(state);
    assert_eq!(State::open(dir.path()).unwrap().newest_held().unwrap(), Some(held("e")), "and stays so");
    let mut state = State::open(dir.path()).unwrap();
    // All of these were held at the same time by the clock: only a generation that came since ends the matter.
    assert_eq!(state.standing_held().unwrap(), Some(held("e")));
    commit(&mut state, &plan(Intent::Repair, "c", &[], &[]), &[]);
    assert_eq!(state.standing_held().unwrap(), Some(held("e")), "a repair is no generation");
    commit(&mut state, &plan(Intent::Deploy, "f", &[], &[]), &[]);
    assert_eq!((state.standing_held().unwrap(), state.newest_held().unwrap()), (None, Some(held("e"))));
}

#[test]
fn interruptions_are_counted_until_a_commit() {
    let dir = scratch();
    let mut state = State::open(dir.path()).unwrap();
    let mut count = |commit: &str| state.count_interruption(&id(commit)).unwrap();
    assert_eq!((count("1"), count("1"), count("2"), count("1")), (1, 2, 1, 3));
    commit(&mut state, &plan(Intent::Deploy, "1", &[], &[]), &[]);
    assert_eq!(state.count_interruption(&id("1")).unwrap(), 1);
    assert_eq!(state.count_interruption(&id("2")).unwrap(), 2);
}

#[test]
fn wakes_are_owed_until_they_are_done() {
    let dir = scratch();
    let mut state = State::open(dir.path()).unwrap();
    let plan = plan(Intent::Deploy, "1", &[], &[]);
    let id = state.begin(&plan, &[]).unwrap();
    let owed = |state: &State| state.owed(id).unwrap().into_iter().map(|(_, w)| w.to_string()).collect::<Vec<_>>();
    assert_eq!(owed(&state), ["daemon-reload", "restart a.service"]);
    let (first, _) = state.owed(id).unwrap()[0].clone();
    state.wake_done(id, first).unwrap();
    drop(state);
    assert_eq!(owed(&State::open(dir.path()).unwrap()), ["restart a.service"]);
}

#[test]
fn what_is_over_is_swept_and_forgotten() {
    let dir = scratch();
    let mut state = State::open(dir.path()).unwrap();
    let dropped = state.begin(&plan(Intent::Deploy, "1", &[], &[]), &["/a/.reconciled".into()]).unwrap();
    assert!(state.left_over_staging().unwrap().is_empty(), "what is open is not left over");
    state.advance(dropped, Event::Drop).unwrap();
    assert_eq!(state.left_over_staging().unwrap(), [(dropped, vec!["/a/.reconciled".into()])]);
    assert!(state.open_transaction().unwrap().is_none());
    commit(&mut state, &plan(Intent::Deploy, "2", &[], &[]), &[]);
    assert_eq!(state.left_over_staging().unwrap().len(), 1, "closed ones go with the next commit");
}

#[test]
fn settings_and_the_audit_head() {
    let dir = scratch();
    let mut state = State::open(dir.path()).unwrap();
    assert_eq!((state.setting(Setting::Paused).unwrap(), state.audit_head().unwrap()), (None, None));
    state.set_setting(Setting::Paused, Some("p")).unwrap();
    state.set_setting(Setting::Desired, Some("d")).unwrap();
    let head = Head { seq: 7, hash: Digest::of(b"x") };
    state.set_audit_head(&head).unwrap();
    drop(state);
    let mut state = State::open(dir.path()).unwrap();
    assert_eq!(state.setting(Setting::Paused).unwrap().as_deref(), Some("p"));
    assert_eq!(state.audit_head().unwrap(), Some(head));
    state.set_setting(Setting::Paused, None).unwrap();
    assert_eq!(state.setting(Setting::Paused).unwrap(), None);
    state.set_setting(Setting::AuditHead, Some("{")).unwrap();
    assert!(state.audit_head().unwrap_err().to_string().contains("audit head"));
}

#[test]
fn objects_are_what_their_names_say() {
    let dir = scratch();
    let state = State::open(dir.path()).unwrap();
    let contents: BTreeMap<Digest, Vec<u8>> =
        (0..100_u8).map(|i| vec![i; usize::from(i)]).map(|content| (Digest::of(&content), content)).collect();
    for (digest, content) in &contents {
        state.objects().put(digest, content).unwrap();
    }
    state.objects().sync().unwrap();
    for (digest, content) in &contents {
        assert_eq!(state.objects().get(digest).unwrap().as_ref(), Some(content));
    }
    assert_eq!(state.objects().get(&Digest::of(b"unknown")).unwrap(), None);
    let places = places(dir.path());
    assert_eq!(places.len(), contents.len());
    // Neither what they hold nor whether it is what somebody guesses can be told without the key.
    for (digest, content) in &contents {
        let is_told = |place: &PathBuf| {
            place.ends_with(&digest.to_string()[2..])
                || (content.len() > 7 && std::fs::read(place).unwrap().windows(content.len()).any(|part| part == content))
        };
        assert!(!places.iter().any(is_told));
    }
    places.iter().for_each(|place| std::fs::write(place, "something else").unwrap());
    let (digest, _) = contents.iter().find(|(_, content)| content.len() == 50).unwrap();
    assert!(state.objects().get(digest).unwrap_err().to_string().contains("damaged"));
}

fn places(store: &Path) -> Vec<PathBuf> {
    let shelves = std::fs::read_dir(store.join("objects")).unwrap().map(|shelf| shelf.unwrap().path());
    shelves.flat_map(|shelf| std::fs::read_dir(shelf).unwrap().map(|object| object.unwrap().path())).collect()
}

#[test]
fn a_store_of_the_first_format_is_brought_to_this_one() {
    let dir = scratch();
    let content = b"kept as it was";
    let digest = Digest::of(content);
    drop(State::open(dir.path()).unwrap());
    // As the first format had it: no table of begun steps, contents unsealed under their own digests.
    meddle(dir.path(), "DROP TABLE begun; PRAGMA user_version = 1;");
    std::fs::remove_file(dir.path().join("seal.key")).unwrap();
    let hex = digest.to_string();
    std::fs::create_dir_all(dir.path().join("objects").join(&hex[..2])).unwrap();
    std::fs::write(dir.path().join("objects").join(&hex[..2]).join(&hex[2..]), content).unwrap();

    let mut state = State::open(dir.path()).unwrap();
    assert_eq!(state.objects().get(&digest).unwrap().as_deref(), Some(&content[..]));
    assert!(!places(dir.path()).iter().any(|place| place.ends_with(&hex[2..])));
    let id = state.begin(&plan(Intent::Deploy, "1", &[], &[]), &[]).unwrap();
    state.begin_steps(id, &[3, 1]).unwrap();
    state.end_steps(id, &[3]).unwrap();
    assert_eq!(state.begun(id).unwrap().into_iter().collect::<Vec<_>>(), [1]);
}

#[test]
fn digests_are_sealed_also_those_of_an_earlier_format() {
    let dir = scratch();
    let digest = Digest::of(b"hunter2-hunter2");
    let mut wanted = plan(Intent::Deploy, "1", &[change("/etc/x", "old")], &[]);
    wanted.manifest.sealed.insert("db_password".to_owned(), digest);
    let mut state = State::open(dir.path()).unwrap();
    commit(&mut state, &wanted, &[]);
    let is_told = || {
        let files = std::fs::read_dir(dir.path()).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap_or_default());
        files.collect::<Vec<_>>().concat().windows(64).any(|part| part == digest.to_string().as_bytes())
    };
    assert!(!is_told());
    let (live, ledger) = (state.live().unwrap(), state.ledger().unwrap());
    drop(state);
    // As the second format had them.
    let text = |value: String| value.replace('\'', "''");
    let manifest = text(serde_json::to_string(&wanted.manifest).unwrap());
    let displaced = text(serde_json::to_string(&ledger["file:/etc/x"]).unwrap());
    let plan = text(serde_json::to_string(&wanted).unwrap());
    meddle(
        dir.path(),
        &format!(
            "UPDATE generation SET manifest = '{manifest}'; UPDATE ledger SET displaced = '{displaced}'; UPDATE txn SET plan = '{plan}'; PRAGMA user_version = 2;"
        ),
    );
    assert!(is_told());
    let state = State::open(dir.path()).unwrap();
    assert!(!is_told());
    assert_eq!((state.live().unwrap(), state.ledger().unwrap()), (live, ledger));
}

#[test]
fn a_key_that_is_gone_is_not_replaced() {
    let dir = scratch();
    let state = State::open(dir.path()).unwrap();
    state.objects().put(&Digest::of(b"kept"), b"kept").unwrap();
    state.objects().sync().unwrap();
    drop(state);
    let (key, away) = (dir.path().join("seal.key"), dir.path().join("away"));
    std::fs::rename(&key, &away).unwrap();
    assert!(State::open(dir.path()).unwrap_err().to_string().contains("bring it back from where you keep it"));
    std::fs::rename(&away, &key).unwrap();
    assert_eq!(State::open(dir.path()).unwrap().objects().get(&Digest::of(b"kept")).unwrap().as_deref(), Some(&b"kept"[..]));
}

#[test]
fn one_engine_at_a_time() {
    let dir = scratch();
    let first = State::open(dir.path()).unwrap();
    let error = State::open(dir.path()).unwrap_err();
    assert!(matches!(error, StateError::Busy { .. }), "{error}");
    drop(first);
    State::open(dir.path()).unwrap();
}
