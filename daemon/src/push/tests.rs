//! What git says to the hooks, true and mangled.

use super::{NONE, Verdict, submit, talk, verdict_line, wanted_service};
use crate::cycle::tests::{Chance, id};

fn packet(s: &str) -> String {
    format!("{:04x}{s}", s.len() + 4)
}

fn input(refs: &[&str]) -> String {
    let a = "a".repeat(40);
    let updates = refs.iter().map(|r| packet(&format!("{a} {a} {r}"))).collect::<String>();
    [packet("version=1\0push-options atomic"), "0000".to_owned(), updates, "0000".to_owned()].concat()
}

#[test]
fn only_our_repository() {
    assert_eq!(wanted_service("git-receive-pack 'host.git'"), Some("receive-pack"));
    assert_eq!(wanted_service("git-upload-pack '/host.git'"), Some("upload-pack"));
    for bad in [
        "",
        "sh",
        "git-receive-pack '../../etc'",
        "git-upload-archive 'host.git'",
        "git-receive-pack 'host.git'; id",
        "git-receive-pack",
        "git-receive-pack --exec=id 'host.git'",
        "git -c core.hooksPath=/tmp receive-pack 'host.git'",
    ] {
        assert_eq!(wanted_service(bad), None, "{bad}");
    }
}

#[test]
fn speaks_the_protocol() {
    let mut output = Vec::new();
    let input = input(&["refs/heads/main", "refs/tags/x"]);
    talk(input.as_bytes(), &mut output, &mut |u| if u.reference.ends_with("main") { Ok(()) } else { Err("no".to_owned()) })
        .unwrap();
    let expected = [packet("version=1"), "0000".to_owned(), packet("ok refs/heads/main"), packet("ng refs/tags/x no")].concat();
    assert_eq!(String::from_utf8(output).unwrap(), format!("{expected}0000"));
    for bad in ["0009vers", "zzzz", "+004", "-004", "0003", "fff1", "ffff", " 004"] {
        let said = talk(bad.as_bytes(), Vec::new(), &mut |_| Ok(()));
        assert!(said.is_err(), "{bad}");
    }
    assert!(talk(packet("version=2").as_bytes(), Vec::new(), &mut |_| Ok(())).unwrap_err().contains("another"));
}

#[test]
fn mangled_words_decide_nothing_that_was_not_said() {
    let mut chance = Chance(7);
    let whole = input(&["refs/heads/main", "refs/heads/try", "refs/tags/x"]);
    for _ in 0..20_000 {
        let mut bytes = whole.clone().into_bytes();
        for _ in 0..=chance.below(3) {
            let at = chance.below(bytes.len());
            match chance.below(4) {
                0 => bytes.truncate(at + 1),
                1 => bytes[at] ^= 1 << chance.below(8),
                2 => bytes.insert(at, b"0f\0 \n"[chance.below(5)]),
                _ => bytes = [&bytes[..at], &bytes[chance.below(at + 1)..]].concat(),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let (mut output, mut decided) = (Vec::new(), Vec::new());
        let result = talk(&bytes[..], &mut output, &mut |u| {
            decided.push(u.reference.clone());
            Err("no".to_owned())
        });
        let said = String::from_utf8_lossy(&bytes).into_owned();
        assert!(decided.iter().all(|r| said.contains(r.as_str())), "{decided:?}");
        let answers = String::from_utf8_lossy(&output).matches("ng ").count();
        assert!(result.is_err() || answers >= decided.len(), "every ref is answered: {decided:?}");
    }
}

#[test]
fn what_is_refused_without_asking_the_daemon() {
    let update = |new: &str, reference: &str| super::Update { new: new.to_owned(), reference: reference.to_owned() };
    for (new, reference, words) in [
        (id("1"), "refs/tags/v1", "only branches are taken"),
        (id("1"), "refs/notes/x", "only branches are taken"),
        (id("1"), "HEAD", "only branches are taken"),
        (NONE.to_owned(), "refs/heads/main", "main is not deleted"),
        (NONE.to_owned(), "refs/heads/try", "try is not deleted"),
    ] {
        assert!(submit(&update(&new, reference)).unwrap_err().contains(words), "{reference}");
    }
}

#[test]
fn the_verdict_is_one_line() {
    for (verdict, reason, line) in [
        (Verdict::Refused, "guard nginx: bad\nmore", "refused: guard nginx: bad"),
        (Verdict::RolledBack, "probe site: wanted 200, got 502", "rolled back: probe site: wanted 200, got 502"),
        (Verdict::Stuck, "x", "STUCK: x"),
        (Verdict::Superseded, "a newer push took its place", "not tried: a newer push took its place"),
        (Verdict::Failed, "", "failed: "),
    ] {
        assert_eq!(verdict_line(verdict, reason), line);
    }
    assert!(verdict_line(Verdict::Failed, &"ü".repeat(1000)).chars().count() < 200);
}
