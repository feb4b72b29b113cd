//! The log as a whole: written, opened after accidents, tampered with, shown.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    AuditLog, Broken, ChangeRecord, Event, Filter, Finding, Head, NewRecord, Stage, Stamp, UtcTime, find, full, line, select,
    verify,
};
use crate::change::{Change, FileFacts, Object};
use crate::digest::Digest;
use crate::guard::Judgement;
use crate::path::ManagedPath;
use crate::probe::Verdict;

const SECRET: &str = "hunter2-planted-secret";

/// A log in a directory of its own, which goes with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("audit-{}-{n}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    fn file(&self) -> PathBuf {
        self.0.join("audit.jsonl")
    }

    fn read(&self) -> Vec<u8> {
        fs::read(self.file()).unwrap()
    }

    fn open(&self, expected: Option<Head>) -> (AuditLog, Vec<Finding>) {
        let (log, opened) = AuditLog::open(&self.file(), expected).unwrap();
        (log, opened.findings)
    }

    /// Writes `count` records; the log, and the head after each of them.
    fn filled(&self, count: usize) -> (AuditLog, Vec<Head>) {
        let (mut log, findings) = self.open(None);
        assert_eq!(findings, []);
        let heads = (0..count).map(|_| log.append(pushed(), &stamp()).unwrap()).collect();
        (log, heads)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn stamp() -> Stamp {
    Stamp { at: "2026-04-01T12:34:56.789Z".parse().unwrap(), boot: "b0".to_owned(), monotonic_ms: 12_345 }
}

fn file(content: &str) -> Object {
    let facts = FileFacts { digest: Digest::of(content.as_bytes()), size: content.len() as u64, mode: 0o640, uid: 0, gid: 33 };
    Object::File(facts)
}

fn change(path: &str, before: &str, after: &str, secret: bool) -> ChangeRecord {
    let path = ManagedPath::new(path).unwrap();
    let change = Change::Entry { path, before: file(before), after: file(after), secret };
    ChangeRecord::new(&change, "content", Some((before.as_bytes(), after.as_bytes())))
}

fn pushed() -> NewRecord {
    NewRecord {
        commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
        summary: Some("Serve \u{1b}[31mthe shop".to_owned()),
        generation: Some(7),
        changes: vec![
            change("/etc/nginx/nginx.conf", "a\n\tb\n", "a\n\tc \u{202e}\n", false),
            change("/etc/shop/db.env", "old\n", SECRET, true),
        ],
        wakes: vec!["reload nginx.service".to_owned()],
        guards: vec![Judgement { name: "nginx".to_owned(), passed: true, text: "syntax is ok".to_owned() }],
        probes: vec![Verdict {
            name: "site".to_owned(),
            passed: false,
            required: true,
            attempts: 5,
            millis: 4012,
            text: "site: wanted 200, got 502 (GET http://127.0.0.1/)".to_owned(),
        }],
        findings: vec![crate::diagnose::Finding { name: "x".to_owned(), text: "nobody listens\u{7}".to_owned() }],
        stages: vec![Stage { name: "plan".to_owned(), ms: 12 }],
        reason: None,
        details: Some("two\nlines\u{7}".to_owned()),
        ..NewRecord::new(Event::Live, "alice")
    }
}

fn check(bytes: &[u8], anchors: &[Head]) -> Result<(u64, Option<u64>), Broken> {
    verify(bytes, anchors).map(|verified| (verified.records, verified.anchored))
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

/// These records as somebody would forge them, from one on, who knows the format: numbers, hashes and checksums fit.
fn forge(records: &[Vec<u8>], from: usize) -> Vec<u8> {
    let mut out = records[..from].concat();
    let mut prev = records[..from].last().map(|line| Digest::of(line.strip_suffix(b"\n").unwrap()));
    for (n, record) in records.iter().enumerate().skip(from) {
        let mut value: serde_json::Value = serde_json::from_slice(record).unwrap();
        value.as_object_mut().unwrap().remove("sum");
        value["seq"] = (n + 1).into();
        value["prev"] = serde_json::to_value(prev).unwrap();
        let line = super::verify::seal(&value.to_string());
        prev = Some(Digest::of(line.as_bytes()));
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    out
}

#[test]
fn a_good_log() {
    use std::os::unix::fs::MetadataExt as _;
    let place = Place::new();
    let (log, heads) = place.filled(3);
    let bytes = place.read();
    let verified = verify(bytes.as_slice(), &heads).unwrap();
    assert_eq!((verified.records, verified.head, verified.anchored), (3, log.head(), Some(3)));
    assert_eq!(check(&bytes, &[]).unwrap(), (3, None));
    assert_eq!(check(b"", &[]).unwrap(), (0, None));
    let last = bytes.strip_suffix(b"\n").unwrap().rsplit(|b| *b == b'\n').next().unwrap();
    assert_eq!(Digest::of(last), heads[2].hash, "the hash is that of the line's exact bytes");
    assert_eq!(fs::metadata(place.file()).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(heads[1].to_string().parse::<Head>().unwrap(), heads[1]);
    assert!("x".parse::<Head>().is_err() && "1:x".parse::<Head>().is_err() && "x:".parse::<Head>().is_err());
    assert!(Stamp::now().monotonic_ms > 0);
}

#[test]
fn the_chain_goes_on_after_a_restart() {
    let place = Place::new();
    let (log, heads) = place.filled(2);
    drop(log);
    let (mut log, findings) = place.open(Some(heads[1]));
    assert_eq!((findings, log.head()), (vec![], Some(heads[1])));
    log.append(pushed(), &stamp()).unwrap();
    // The caller may have died before it noted the newest head.
    let (_, findings) = place.open(Some(heads[1]));
    assert_eq!(findings, []);
    assert_eq!(check(&place.read(), &heads).unwrap(), (3, Some(2)));
}

#[test]
fn any_edited_byte_is_found() {
    let place = Place::new();
    place.filled(2);
    let bytes = place.read();
    let ends: Vec<usize> = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i).collect();
    for position in 0..bytes.len() {
        for flip in [0x01, 0x20] {
            let mut edited = bytes.clone();
            edited[position] ^= flip;
            let broken = check(&edited, &[]).unwrap_err();
            let line = ends.iter().filter(|end| **end < position).count() as u64 + 1;
            assert_eq!(broken.line, line, "byte {position}: {broken}");
        }
    }
    for position in 0..=bytes.len() {
        let mut longer = bytes.clone();
        longer.insert(position, b' ');
        check(&longer, &[]).unwrap_err();
    }
    for position in 0..bytes.len() {
        let mut shorter = bytes.clone();
        shorter.remove(position);
        check(&shorter, &[]).unwrap_err();
    }
}

#[test]
fn dropped_repeated_and_swapped_records_are_found() {
    let place = Place::new();
    let (_, heads) = place.filled(4);
    let whole = lines(&place.read());
    let anchor = &heads[3..];
    for i in 0..4 {
        let mut dropped = whole.clone();
        dropped.remove(i);
        let broken = check(&dropped.concat(), anchor).unwrap_err();
        assert_eq!(broken.line, i as u64 + 1, "{broken}");
        let mut repeated = whole.clone();
        repeated.insert(i, whole[i].clone());
        let broken = check(&repeated.concat(), &[]).unwrap_err();
        assert_eq!(broken.line, i as u64 + 2);
        assert!(broken.why.contains("repeated or out of order"), "{broken}");
        for j in 0..i {
            let mut swapped = whole.clone();
            swapped.swap(i, j);
            assert_eq!(check(&swapped.concat(), &[]).unwrap_err().line, j as u64 + 1);
        }
    }
    let broken = check(&[&whole[0][..], &whole[2], &whole[3]].concat(), &[]).unwrap_err();
    assert_eq!(broken.to_string(), "line 2: this is record 3, but record 2 comes next: records are missing");
}

#[test]
fn a_cut_tail_shows_in_an_anchor_only() {
    let place = Place::new();
    let (_, heads) = place.filled(3);
    let bytes = place.read();
    let whole = lines(&bytes);
    for kept in 0..3 {
        let cut = whole[..kept].concat();
        assert!(check(&cut, &[]).is_ok());
        let broken = check(&cut, &heads).unwrap_err();
        assert_eq!(broken.line, kept as u64 + 1);
        assert!(broken.why.ends_with("record 3 was written: the tail was cut off"), "{broken}");
    }
    for length in 0..bytes.len() {
        check(&bytes[..length], &heads).unwrap_err();
    }
    let torn = check(&bytes[..bytes.len() - 1], &[]).unwrap_err();
    assert_eq!(torn.to_string(), "line 3: the last record is torn: no newline ends it");
}

#[test]
fn a_rewritten_log_shows_in_an_anchor_only() {
    let place = Place::new();
    let (_, heads) = place.filled(3);
    let whole = lines(&place.read());
    let reworded = |n: usize| {
        let mut records = whole.clone();
        records[n] = String::from_utf8(records[n].clone()).unwrap().replace("alice", "mallory").into();
        records
    };
    for n in 0..3 {
        let forged = forge(&reworded(n), n);
        assert_eq!(check(&forged, &[]).unwrap(), (3, None), "the chain alone cannot see it");
        assert!(check(&forged, &heads[2..]).unwrap_err().why.contains("is not the one that was written"));
        // Only one record forged, with a checksum that fits: the next one does not follow.
        let mut one = whole.clone();
        one[n] = lines(&forged)[n].clone();
        let broken = check(&one.concat(), &heads[2..]).unwrap_err();
        assert_eq!(broken.line, (n as u64 + 2).min(3), "{broken}");
    }
}

#[test]
fn foreign_bytes_are_no_log() {
    for junk in [&b"\n"[..], b"{}\n", b"null\n", b"\xff\n", b"[[[[\n", b"{\"sum\":\"\"}\n", &vec![b'{'; 100_000]] {
        check(junk, &[]).unwrap_err();
        assert!(select(junk, &Filter::default()).unwrap().records.is_empty());
    }
    let sealed = super::verify::seal("{\"version\":2,\"seq\":1,\"prev\":null}") + "\n";
    assert!(check(sealed.as_bytes(), &[]).unwrap_err().why.contains("version 2"));
}

#[test]
fn a_crash_during_an_append_is_cut_off() {
    let place = Place::new();
    let (_, heads) = place.filled(3);
    let bytes = place.read();
    let two = lines(&bytes)[..2].concat().len();
    for length in two + 1..bytes.len() - 1 {
        fs::write(place.file(), &bytes[..length]).unwrap();
        let (log, findings) = place.open(Some(heads[1]));
        assert_eq!(findings, [Finding::Torn { bytes: (length - two) as u64 }]);
        assert!(!findings[0].is_alarm());
        assert_eq!((log.head(), place.read().len()), (Some(heads[1]), two));
    }
    // Only the newline is missing: the record is whole and stays.
    fs::write(place.file(), &bytes[..bytes.len() - 1]).unwrap();
    for expected in [heads[1], heads[2]] {
        let (log, findings) = place.open(Some(expected));
        assert_eq!((findings, log.head()), (vec![], Some(heads[2])));
        assert_eq!(place.read(), bytes);
    }
}

#[test]
fn a_missing_tail_is_loud_and_stays_visible() {
    let place = Place::new();
    let (_, heads) = place.filled(3);
    let bytes = place.read();
    for kept in 0..3 {
        fs::write(place.file(), lines(&bytes)[..kept].concat()).unwrap();
        let (mut log, findings) = place.open(Some(heads[2]));
        assert_eq!(findings, [Finding::Missing { last: kept as u64, known: 3 }]);
        assert!(findings[0].is_alarm());
        assert_eq!(log.append(pushed(), &stamp()).unwrap().seq, 4);
        let broken = check(&place.read(), &[]).unwrap_err();
        assert_eq!(broken.line, kept as u64 + 1);
        assert!(broken.why.contains("records are missing"), "{broken}");
    }
    fs::remove_file(place.file()).unwrap();
    let (_, findings) = place.open(Some(heads[2]));
    assert_eq!(findings, [Finding::Missing { last: 0, known: 3 }]);
}

#[test]
fn a_forged_log_is_found_on_opening_and_stays_visible() {
    let place = Place::new();
    let (_, heads) = place.filled(3);
    let whole = lines(&place.read());
    let text = String::from_utf8(forge(&whole, 0)).unwrap();
    let forged = forge(&lines(text.replace("alice", "mallory").as_bytes()), 0);
    for expected in [heads[1], heads[2]] {
        fs::write(place.file(), &forged).unwrap();
        let (mut log, findings) = place.open(Some(expected));
        assert!(matches!(&findings[..], [Finding::Broken(broken)] if broken.line == expected.seq), "{findings:?}");
        log.append(pushed(), &stamp()).unwrap();
        assert_eq!(check(&place.read(), &[]).unwrap_err().line, 4);
    }
}

#[test]
fn a_full_disk_tears_nothing() {
    let place = Place::new();
    let (mut log, _) = place.filled(1);
    let before = place.read();
    let full_disk = |mut file: &fs::File, line: &[u8]| {
        io::Write::write_all(&mut file, &line[..line.len() / 2])?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    };
    let error = log.write_with(pushed(), &stamp(), &full_disk).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(place.read(), before);
    log.append(pushed(), &stamp()).unwrap();
    assert_eq!(check(&place.read(), &[]).unwrap().0, 2);
    // What could not be taken back at once is taken back before the next record.
    let good = place.read();
    log.unclean = Some(good.len() as u64);
    fs::write(place.file(), [&good[..], b"{\"torn"].concat()).unwrap();
    log.append(pushed(), &stamp()).unwrap();
    assert_eq!(check(&place.read(), &[]).unwrap().0, 3);
}

#[test]
fn a_log_that_is_taken_away_shows() {
    let place = Place::new();
    let (mut log, _) = place.filled(2);
    fs::rename(place.file(), place.0.join("elsewhere")).unwrap();
    log.append(pushed(), &stamp()).unwrap();
    assert!(check(&place.read(), &[]).unwrap_err().why.starts_with("this is record 3, but record 1 comes next"));
}

#[test]
fn secrets_never_show() {
    let place = Place::new();
    place.filled(1);
    let bytes = place.read();
    let record = select(bytes.as_slice(), &Filter::default()).unwrap().records.remove(0);
    let log = String::from_utf8(bytes).unwrap();
    for text in [log, line(&record), full(&record), format!("{record:?}")] {
        assert!(!text.contains(SECRET) && !text.contains(&Digest::of(SECRET.as_bytes()).to_string()), "{text}");
        assert!(!text.contains(&Digest::of(SECRET.as_bytes()).short()));
    }
    assert!(full(&record).contains("  ~ file:/etc/shop/db.env  (content)\n      before  secret file 0640 0:33\n"));
}

#[test]
fn records_read_well_and_harm_no_terminal() {
    let place = Place::new();
    place.filled(2);
    let record = find(place.read().as_slice(), 2).unwrap().unwrap();
    assert_eq!(find(place.read().as_slice(), 3).unwrap(), None);
    assert_eq!(record.what, pushed());
    assert_eq!(
        line(&record),
        "    2  2026-04-01T12:34:56Z  live            0123456789ab  alice  generation 7  +0 ~2 -0  Serve \\u{1b}[31mthe shop"
    );
    let text = full(&record);
    for part in [
        "record 2\n",
        "time        2026-04-01T12:34:56.789Z\n",
        "boot        b0, 12.345 s after its start\n",
        "commit      0123456789abcdef0123456789abcdef01234567\n",
        "details\n  two\n  lines\\u{7}\n",
        "      | -\tb\n      | +\tc \\u{202e}\n",
        "wakes\n  reload nginx.service\n",
        "guards\n  ok    nginx: syntax is ok\n",
        "probes\n  FAIL  site: wanted 200, got 502 (GET http://127.0.0.1/)\n",
        "because\n  nobody listens\\u{7}\n",
        "stages\n  plan 12 ms\n",
    ] {
        assert!(text.contains(part), "{part:?} in:\n{text}");
    }
    assert!(!text.chars().any(|c| crate::path::is_hidden(c) && c != '\n' && c != '\t'));
}

#[test]
fn filters() {
    let place = Place::new();
    let (mut log, _) = place.filled(2);
    let later = Stamp { at: UtcTime(stamp().at.0 + 3_600_000), ..stamp() };
    log.append(NewRecord::new(Event::Refused, "bob"), &later).unwrap();
    let seqs = |filter: Filter| {
        let selection = select(place.read().as_slice(), &filter).unwrap();
        assert_eq!(selection.unreadable, 0);
        selection.records.iter().map(|record| record.seq).collect::<Vec<_>>()
    };
    let none = Filter::default;
    let path = |text: &str| Filter { path: Some(text.to_owned()), ..none() };
    let unit = |text: &str| Filter { unit: Some(text.to_owned()), ..none() };
    for (filter, expected) in [
        (none(), vec![1, 2, 3]),
        (Filter { limit: Some(2), ..none() }, vec![2, 3]),
        (Filter { limit: Some(0), ..none() }, vec![]),
        (Filter { actor: Some("bob".to_owned()), ..none() }, vec![3]),
        (Filter { outcome: Some(Event::Live), limit: Some(1), ..none() }, vec![2]),
        (Filter { since: Some(later.at), ..none() }, vec![3]),
        (Filter { until: Some(stamp().at), ..none() }, vec![1, 2]),
        (path("/etc/nginx/nginx.conf"), vec![1, 2]),
        (path("/etc/nginx/"), vec![1, 2]),
        (path("/etc/ngin"), vec![]),
        (unit("nginx.service"), vec![1, 2]),
        (unit("nginx"), vec![1, 2]),
        (unit("ngin"), vec![]),
    ] {
        let said = format!("{filter:?}");
        assert_eq!(seqs(filter), expected, "{said}");
    }
}
