//! Real repositories, good and malicious, made object by object.

use std::time::{Duration, Instant};

use git2::{ObjectType, Oid, Repository, Signature};
use tempfile::TempDir;

use super::{check, compare, publish, read, resolve};
use crate::cycle::tests::{id, scratch};
use crate::source::{Budget, Relation};

const BUDGET: Budget = Budget { entries: 2000, file: 1000, total: 5000, depth: 10 };

struct Place {
    repository: Repository,
    _dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = scratch();
        Self { repository: Repository::init_bare(dir.path()).unwrap(), _dir: dir }
    }

    fn blob(&self, content: &[u8]) -> Oid {
        self.repository.blob(content).unwrap()
    }

    /// A tree as its bytes are, which no git would write: mode, name, object.
    fn tree(&self, entries: &[(&str, &[u8], Oid)]) -> Oid {
        let raw = entries.iter().flat_map(|(mode, name, id)| [mode.as_bytes(), b" ", name, b"\0", id.as_bytes()].concat());
        self.repository.odb().unwrap().write(ObjectType::Tree, &raw.collect::<Vec<_>>()).unwrap()
    }

    fn commit(&self, tree: Oid, parent: Option<Oid>) -> Oid {
        let me = Signature::now("A", "a@b").unwrap();
        let parents: Vec<_> = parent.map(|id| self.repository.find_commit(id).unwrap()).into_iter().collect();
        let parents: Vec<_> = parents.iter().collect();
        match self.repository.find_tree(tree) {
            Ok(tree) => self.repository.commit(None, &me, &me, "summary\n\nbody", &tree, &parents).unwrap(),
            // A tree that libgit2 does not even parse.
            Err(_) => {
                let text = format!("tree {tree}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\ns\n");
                self.repository.odb().unwrap().write(ObjectType::Commit, text.as_bytes()).unwrap()
            }
        }
    }

    fn file(&self, content: &str) -> Oid {
        self.commit(self.tree(&[("100644", b"x", self.blob(content.as_bytes()))]), None)
    }
}

#[test]
fn a_tree_comes_out_as_it_is() {
    let place = Place::new();
    let sub = place.tree(&[("100755", b"run", place.blob(b"#!")), ("120000", b"to", place.blob(b"../x"))]);
    let commit = place.commit(place.tree(&[("40000", b"files", sub), ("100644", b"reconciled.toml", place.blob(b""))]), None);
    check(&place.repository, commit, BUDGET).unwrap();
    let out = read(&place.repository, &commit.to_string(), None, BUDGET).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("\"path\":\"files/run\",\"link\":false,\"executable\":true,\"size\":2}\n#!"), "{text}");
    assert!(text.contains("\"path\":\"files/to\",\"link\":true,\"executable\":false,\"size\":4}\n../x"), "{text}");
    assert!(text.ends_with("{\"answer\":\"end\",\"entries\":3}\n"), "{text}");
    assert!(text.contains("\"summary\":\"summary\""), "{text}");
}

#[test]
fn what_no_tree_may_hold() {
    let place = Place::new();
    let x = place.blob(b"x");
    let missing = Oid::from_str(&id("abc")).unwrap();
    let entry = |mode, name: &'static [u8]| place.tree(&[(mode, name, x)]);
    let table: Vec<(&str, Oid, &str)> = vec![
        ("submodule", entry("160000", b"sub"), "sub is a submodule: commit the files themselves"),
        ("set-id", entry("104755", b"su"), "su has the git mode 104755"),
        ("group-writable", entry("100664", b"x"), "x has the git mode 100664"),
        ("FIFO", entry("10644", b"x"), "x has the git mode 10644"),
        ("not UTF-8", entry("100644", b"a\xff"), "the name is not UTF-8"),
        ("parent", entry("100644", b".."), "`..`"),
        ("slash", entry("100644", b"a/../../b"), "`..`"),
        ("git", entry("100644", b".GIT"), ".GIT"),
        ("escape", entry("100644", b"a\x1b[31m"), "U+001B"),
        ("direction", entry("100644", "a\u{202e}".as_bytes()), "U+202E"),
        ("a tree that is a file", entry("40000", b"dir"), "dir/"),
        ("a file that is a tree", place.tree(&[("100644", b"x", place.tree(&[]))]), "x is no file"),
        ("a file that is not there", place.tree(&[("100644", b"x", missing)]), "x: "),
        ("a tree that is not there", place.tree(&[("40000", b"x", missing)]), "x/: "),
        (
            "a file that is too large",
            place.tree(&[("100644", b"x", place.blob(&[0; 1001]))]),
            "x has 1001 bytes, more than the 1000",
        ),
    ];
    for (name, tree, words) in table {
        let commit = place.commit(tree, None);
        let error = check(&place.repository, commit, BUDGET).unwrap_err();
        assert!(error.contains(words), "{name}: {error}");
        assert_eq!(error.lines().count(), 1, "{name}: {error}");
        assert_eq!(read(&place.repository, &commit.to_string(), None, BUDGET).unwrap_err(), error, "{name}");
    }
    assert!(check(&place.repository, missing, BUDGET).is_err());
    assert!(read(&place.repository, "main", None, BUDGET).unwrap_err().contains("is not a commit id"));
}

#[test]
fn bombs_are_counted_not_unpacked() {
    let place = Place::new();
    let x = place.blob(b"x");
    // Ten levels of ten times the same tree: ten thousand million files in eleven objects.
    let names: Vec<String> = (0..10).map(|i| format!("{i}")).collect();
    let files: Vec<(&str, &[u8], Oid)> = names.iter().map(|n| ("100644", n.as_bytes(), x)).collect();
    let mut tree = place.tree(&files);
    for _ in 0..9 {
        let trees: Vec<(&str, &[u8], Oid)> = names.iter().map(|n| ("40000", n.as_bytes(), tree)).collect();
        tree = place.tree(&trees);
    }
    let mut deep = place.tree(&[("100644", b"x", x)]);
    for _ in 0..5000 {
        deep = place.tree(&[("40000", b"d", deep)]);
    }
    let many: Vec<String> = (0..3000).map(|i| format!("{i:05}")).collect();
    let many: Vec<(&str, &[u8], Oid)> = many.iter().map(|n| ("100644", n.as_bytes(), x)).collect();
    let heavy = place.blob(&[7; 900]);
    let heavy: Vec<(&str, &[u8], Oid)> = names.iter().map(|n| ("100644", n.as_bytes(), heavy)).collect();
    for (tree, words) in [
        (tree, "more than 2000 entries"),
        (deep, "more than 10 directories deep"),
        (place.tree(&many), "more than 2000 entries"),
        (place.tree(&heavy), "more than 5000 bytes together"),
    ] {
        let began = Instant::now();
        let error = check(&place.repository, place.commit(tree, None), BUDGET).unwrap_err();
        assert!(error.contains(words), "{error}");
        // Unpacked it would take hours: this only tells the two apart.
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn lines_of_descent() {
    let place = Place::new();
    let tree = place.tree(&[]);
    let first = place.commit(tree, None);
    let second = place.commit(tree, Some(first));
    let other = place.file("other");
    for (base, tip, relation) in [
        (first, first, Relation::Same),
        (first, second, Relation::Ahead),
        (second, first, Relation::Behind),
        (second, other, Relation::Diverged),
    ] {
        assert_eq!(compare(&place.repository, base, tip), relation);
    }
    for (tip, base, descends) in
        [(second, None, true), (second, Some(first), true), (second, Some(second), true), (other, Some(first), false)]
    {
        let base = base.map(|b: Oid| b.to_string());
        let out = read(&place.repository, &tip.to_string(), base.as_deref(), BUDGET).unwrap();
        let head = String::from_utf8_lossy(&out).lines().next().unwrap().to_owned();
        assert!(head.contains(&format!("\"descends\":{descends}")), "{head}");
    }
    let gone = read(&place.repository, &second.to_string(), Some(&id("dead")), BUDGET).unwrap();
    assert!(String::from_utf8_lossy(&gone).contains("\"descends\":false"), "a base that was rewritten away");
}

#[test]
fn refs_move_by_compare_and_swap() {
    let place = Place::new();
    let (a, b) = (place.file("a"), place.file("b"));
    let (a, b) = (a.to_string(), b.to_string());
    let main = "refs/heads/main";
    assert_eq!(resolve(&place.repository, main).unwrap(), None);
    publish(&place.repository, main, None, &a).unwrap();
    assert!(publish(&place.repository, main, None, &b).is_err(), "it is there by now");
    assert!(publish(&place.repository, main, Some(&b), &b).is_err(), "it stands elsewhere");
    assert_eq!(resolve(&place.repository, main).unwrap().as_ref(), Some(&a));
    publish(&place.repository, main, Some(&a), &b).unwrap();
    assert_eq!(resolve(&place.repository, main).unwrap().as_ref(), Some(&b));
    assert_eq!(resolve(&place.repository, &a[..10]).unwrap().as_ref(), Some(&a));
    assert_eq!(resolve(&place.repository, "ffffffff").unwrap(), None);
    for bad in ["ab", "HEAD", "../x", "main^{tree}"] {
        assert!(resolve(&place.repository, bad).unwrap_err().contains("neither a ref nor a commit id"), "{bad}");
    }
    assert!(publish(&place.repository, main, Some(&b), "nonsense").is_err());
}
