//! The worker's answers, true and mangled: the engine believes nothing that it has not checked.

use super::{Answer, Budget, Commit, SourceEntry, SourceError, receive};
use crate::cycle::tests::{Chance, id};
use crate::path::{check_relative, is_hidden};

const BUDGET: Budget = Budget { entries: 10, file: 100, total: 400, depth: 8 };

fn line(answer: &Answer) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(answer).unwrap();
    bytes.push(b'\n');
    bytes
}

fn head() -> Answer {
    let commit = Commit { id: id("1"), summary: "s\u{1b}[31m".to_owned(), author: "a \u{202e}<a@b>".to_owned() };
    Answer::Commit { commit, descends: true }
}

fn entry(path: &str, link: bool, body: &[u8]) -> Vec<u8> {
    let size = body.len() as u64;
    [line(&Answer::Entry { path: path.to_owned(), link, executable: false, size }), body.to_vec()].concat()
}

fn answer(entries: &[Vec<u8>]) -> Vec<u8> {
    [line(&head()), entries.concat(), line(&Answer::End { entries: entries.len() as u64 })].concat()
}

fn good() -> Vec<u8> {
    answer(&[
        entry("reconciled.toml", false, b"x = 1\n"),
        entry("files/etc/x", false, b"\n{\"answer\":\"end\"}\n"),
        entry("files/etc/l", true, b"../x"),
    ])
}

#[test]
fn a_true_answer() {
    let received = receive(&good(), BUDGET, &id("1")).unwrap();
    assert!(received.descends);
    assert_eq!(received.snapshot.entries.len(), 3);
    assert_eq!(received.snapshot.entries["files/etc/l"], SourceEntry::Link { target: "../x".to_owned() });
    let commit = received.snapshot.commit;
    assert!(!commit.summary.chars().any(is_hidden) && !commit.author.chars().any(is_hidden), "safe to show: {commit:?}");
}

#[test]
fn what_is_not_believed() {
    let many: Vec<Vec<u8>> = (0..11).map(|i| entry(&format!("f{i}"), false, b"")).collect();
    let big: Vec<Vec<u8>> = (0..5).map(|i| entry(&format!("f{i}"), false, &[b'x'; 100])).collect();
    let huge = line(&Answer::Entry { path: "x".to_owned(), link: false, executable: false, size: u64::MAX });
    let short = line(&Answer::Entry { path: "x".to_owned(), link: false, executable: false, size: 99 });
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], "cut short"),
        ("no end", good()[..good().len() - 1].to_vec(), "cut short"),
        ("more behind the end", [good(), b"x".to_vec()].concat(), "worker failed"),
        ("another count", [line(&head()), line(&Answer::End { entries: 1 })].concat(), "worker failed"),
        ("no head", entry("x", false, b"x"), "worker failed"),
        ("a refusal", line(&Answer::Refused { reason: "bad\u{1b}".to_owned() }), "bad\\u{1b}"),
        ("too many entries", answer(&many), "over budget"),
        ("one too large", answer(&[entry("x", false, &[b'x'; 101])]), "over budget"),
        ("all too large", answer(&big), "over budget"),
        ("a size that wraps", [line(&head()), huge.clone(), huge].concat(), "over budget"),
        ("less than it says", [line(&head()), short, b"abc".to_vec()].concat(), "cut short"),
        ("twice the same", answer(&[entry("x", false, b"1"), entry("x", false, b"2")]), "twice"),
        ("above the tree", answer(&[entry("files/../../x", false, b"1")]), "`..`"),
        ("absolute", answer(&[entry("/etc/x", false, b"1")]), "empty component"),
        ("git's own", answer(&[entry("files/.git/x", false, b"1")]), ".git"),
        ("a link that is no text", answer(&[entry("l", true, b"\xff")]), "not UTF-8"),
    ];
    for (name, bytes, words) in table {
        let error = receive(&bytes, BUDGET, &id("1")).unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
        assert!(!error.chars().any(is_hidden), "{name}: {error:?}");
    }
    let other = receive(&good(), BUDGET, &id("2")).unwrap_err();
    assert!(matches!(other, SourceError::Host(_)), "another commit than was asked for: {other}");
}

#[test]
fn mangled_answers_are_refused_or_within_bounds() {
    let mut chance = Chance(6);
    let (whole, mut accepted) = (good(), 0);
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..=chance.below(3) {
            let at = chance.below(bytes.len());
            match chance.below(5) {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 1 << chance.below(8),
                2 => bytes.insert(at, b"\n\"{}09-/."[chance.below(9)]),
                3 => {
                    bytes.remove(at);
                }
                _ => {
                    let (from, to) = (chance.below(at + 1), at);
                    let piece = bytes[from..to].to_vec();
                    bytes.splice(to..to, piece);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let Ok(received) = receive(&bytes, BUDGET, &id("1")) else { continue };
        accepted += 1;
        let entries = &received.snapshot.entries;
        let sizes = entries.values().map(|e| match e {
            SourceEntry::File { content, .. } => content.len() as u64,
            SourceEntry::Link { target } => target.len() as u64,
        });
        assert!(entries.len() as u64 <= BUDGET.entries && sizes.sum::<u64>() <= BUDGET.total);
        assert!(entries.keys().all(|path| check_relative(path).is_ok()));
        assert_eq!(received.snapshot.commit.id, id("1"));
    }
    assert!(accepted > 100, "the mangling reaches beyond the head: {accepted}");
}
