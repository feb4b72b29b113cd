//! What is given back, what is let go, what stays.

use std::collections::BTreeMap;

use super::releases;
use crate::change::{Change, DirFacts, FileFacts, Object, UnitFacts};
use crate::digest::Digest;
use crate::host::fake::{Fake, Node, World};
use crate::path::ManagedPath;

fn path(path: &str) -> ManagedPath {
    ManagedPath::new(path).unwrap()
}

fn object(text: &str) -> Object {
    let facts = |t: &str| FileFacts { digest: Digest::of(t.as_bytes()), size: t.len() as u64, mode: 0o644, uid: 0, gid: 0 };
    if text.is_empty() { Object::Absent } else { Object::File(facts(text)) }
}

fn entry(at: &str, before: &str, after: &str) -> Change {
    Change::Entry { path: path(at), before: object(before), after: object(after), secret: false }
}

fn dir(at: &str, before: Option<u32>) -> Change {
    let facts = |mode| DirFacts { mode, uid: 0, gid: 0 };
    Change::Dir { path: path(at), before: before.map(facts), after: Some(facts(0o755)) }
}

/// What the ledger gives up when only these are claimed: claims, targets, remarks.
fn given_up(ledger: &[Change], claimed: &[Change], host: impl FnOnce(&mut World)) -> (Vec<String>, Vec<String>, usize) {
    let fake = Fake::new();
    host(&mut fake.world());
    let ledger: BTreeMap<String, Change> = ledger.iter().map(|c| (c.target(), c.clone())).collect();
    let releases = releases(&ledger, &claimed.iter().collect::<Vec<_>>(), &fake).unwrap();
    let claims = releases.claims.iter().map(|c| format!("{}{} {}", c.change.sign(), c.change.target(), c.reason));
    (claims.collect(), releases.targets, releases.notes.len())
}

#[test]
fn what_is_still_claimed_is_not_given_up() {
    let ours = entry("/etc/x", "", "ours");
    assert_eq!(given_up(std::slice::from_ref(&ours), &[entry("/etc/x", "ours", "new")], |_| {}), (vec![], vec![], 0));
}

#[test]
fn what_we_made_goes_and_what_we_displaced_comes_back() {
    let put = |w: &mut World| {
        w.file("/etc/x", "ours");
        w.file("/etc/y", "ours");
    };
    let (claims, targets, notes) = given_up(&[entry("/etc/x", "", "ours"), entry("/etc/y", "theirs", "ours")], &[], put);
    assert_eq!(
        claims,
        ["-file:/etc/x left the repository", "~file:/etc/y left the repository: what stood here before comes back"]
    );
    assert_eq!((targets.len(), notes), (2, 0));
}

#[test]
fn a_directory_stays_while_something_declared_stands_in_it() {
    let ledger = [dir("/srv/a", None), dir("/srv/b", Some(0o700))];
    let put = |w: &mut World| {
        w.dir("/srv/a");
        w.dir("/srv/b");
    };
    let (claims, targets, _) = given_up(&ledger, &[entry("/srv/a/x", "", "x")], put);
    assert_eq!(claims, ["~directory:/srv/b left the repository: what stood here before comes back"]);
    assert_eq!(targets, ["directory:/srv/b"]);
    // A claim that removes does not hold its directory; nor does a neighbour whose name begins alike.
    for claim in [entry("/srv/a/x", "x", ""), entry("/srv/ab", "", "x")] {
        assert!(given_up(&ledger, &[claim], put).1.contains(&"directory:/srv/a".to_owned()));
    }
    assert_eq!(given_up(&ledger[..1], &[], |_| {}), (vec![], vec!["directory:/srv/a".to_owned()], 0), "it is gone already");
}

#[test]
fn nothing_is_forced_where_the_place_is_another() {
    let ledger = [entry("/etc/x", "theirs", "ours"), entry("/srv/l/y", "", "ours")];
    let put = |w: &mut World| {
        w.dir("/etc/x");
        w.tree.insert("/srv/l".to_owned(), Node::Link("/var/l".to_owned()));
    };
    let (claims, targets, notes) = given_up(&ledger, &[], put);
    assert_eq!((claims.len(), targets.len(), notes), (0, 2, 2), "let go, and said");
}

#[test]
fn a_unit_goes_back_to_how_it_was_in_what_we_managed() {
    let facts = |enabled, active| UnitFacts { enabled, active, ..UnitFacts::default() };
    let ledger =
        [Change::Unit { unit: "a.service".to_owned(), before: facts(Some(false), None), after: facts(Some(true), None) }];
    let fake = Fake::new();
    fake.world().file("/usr/lib/systemd/system/a.service", "[Service]\n");
    fake.world().running("a.service", "/usr/lib/systemd/system/a.service", &[]);
    let ledger: BTreeMap<String, Change> = ledger.iter().map(|c| (c.target(), c.clone())).collect();
    let claim = releases(&ledger, &[], &fake).unwrap().claims.remove(0).change;
    let Change::Unit { before, after, .. } = claim else { panic!("{claim:?}") };
    assert_eq!((before.enabled, before.active), (Some(true), None));
    assert_eq!(after, facts(Some(false), None), "whether it runs was never ours");
}
