//! The engine's side against a small fake host.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Passwords, baseline, run};
use crate::change::DirFacts;
use crate::host::{
    Account, HostError, HostResult, Job, LogEnd, Look, Process, Ran, Sandbox, Seen, Surroundings, SystemState, UnitSeen,
};
use crate::path::ManagedPath;
use crate::probe::{Asked, Probe, Verdict};

/// What the fake host answers when it is asked.
#[derive(Default)]
struct Fake {
    /// States of every unit, one for each question; the last one stays.
    units: RefCell<VecDeque<UnitSeen>>,
    /// Lines that the probe worker says.
    worker: Vec<String>,
    /// How jobs end.
    ran: RefCell<VecDeque<HostResult<Ran>>>,
    jobs: RefCell<Vec<Job>>,
    paused: Cell<Duration>,
}

impl Look for Fake {
    fn object(&self, _: &ManagedPath) -> HostResult<Seen> {
        unreachable!()
    }
    fn directory(&self, _: &ManagedPath) -> HostResult<Option<DirFacts>> {
        unreachable!()
    }
    fn is_empty(&self, _: &ManagedPath) -> HostResult<bool> {
        unreachable!()
    }
    fn entries(&self, _: &ManagedPath, _: usize) -> HostResult<Vec<String>> {
        unreachable!()
    }
    fn up_among(&self, _: &[&str]) -> HostResult<Vec<String>> {
        unreachable!()
    }
    fn running_services(&self) -> HostResult<Vec<String>> {
        unreachable!()
    }
    fn workers(&self, _: &str) -> HostResult<Vec<Process>> {
        unreachable!()
    }
    fn facts(&self) -> crate::facts::Facts {
        unreachable!()
    }
    fn dpkg_lock(&self) -> HostResult<Option<String>> {
        unreachable!()
    }
    fn units_like(&self, _: &str) -> HostResult<Vec<String>> {
        unreachable!()
    }
    fn content(&self, _: &ManagedPath, _: u64) -> HostResult<Vec<u8>> {
        unreachable!()
    }
    fn changed_at(&self, _: &ManagedPath) -> HostResult<Option<u64>> {
        unreachable!()
    }
    fn ends(&self, _: &ManagedPath, _: usize) -> HostResult<Vec<LogEnd>> {
        unreachable!()
    }
    fn accounts(&self) -> HostResult<Vec<Account>> {
        unreachable!()
    }
    fn group(&self, _: &str) -> HostResult<Option<u32>> {
        unreachable!()
    }
    fn unit(&self, _: &str) -> HostResult<UnitSeen> {
        let mut units = self.units.borrow_mut();
        let next = if units.len() > 1 { units.pop_front() } else { units.front().cloned() };
        next.ok_or_else(|| HostError::Systemd("no bus".to_owned()))
    }
    fn journal(&self, _: &str, _: usize) -> HostResult<Vec<String>> {
        unreachable!()
    }
    fn run(&self, job: &Job, on_line: &mut dyn FnMut(&str) -> bool) -> HostResult<Ran> {
        self.jobs.borrow_mut().push(job.clone());
        if job.sandbox == Sandbox::Probe && !self.worker.iter().all(|line| on_line(line)) {
            return Ok(ran(None, "signal", ""));
        }
        self.ran.borrow_mut().pop_front().unwrap_or_else(|| Ok(ran(Some(0), "success", "")))
    }
    fn system_state(&self) -> SystemState {
        unreachable!()
    }
    fn pause(&self, time: Duration) {
        self.paused.set(self.paused.get() + time);
        std::thread::sleep(time.min(Duration::from_millis(20)));
    }
}

fn ran(code: Option<i32>, result: &str, stderr: &str) -> Ran {
    Ran { code, result: result.to_owned(), stdout: Vec::new(), stderr: stderr.into() }
}

fn unit(active: &str, sub: &str) -> UnitSeen {
    UnitSeen { load: "loaded".to_owned(), active: active.to_owned(), sub: sub.to_owned(), ..UnitSeen::default() }
}

fn probe(name: &str, fields: &Value) -> Probe {
    let mut all = json!({ "name": name, "attempts": 3, "interval": "20ms", "timeout": "2s" });
    for (key, value) in fields.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

/// What the worker was asked.
fn asked(job: &Job) -> Vec<Probe> {
    let asked: Vec<Asked<Probe>> = serde_json::from_slice(&job.input).unwrap();
    asked.into_iter().map(|asked| asked.probe).collect()
}

fn all(host: &Fake, probes: &[Probe]) -> Vec<Verdict> {
    let mut said = 0;
    let verdicts = run(host, probes, &Passwords::new(), &mut |_| said += 1, &|| true).unwrap();
    assert_eq!((verdicts.len(), said), (probes.len(), probes.len()));
    verdicts
}

/// A verdict's text without how long it took.
fn text(verdict: &Verdict) -> String {
    match verdict.text.split_once(" ms (") {
        Some((before, after)) => format!("{} ms ({after}", before.trim_end_matches(|c: char| c.is_ascii_digit())),
        None => verdict.text.clone(),
    }
}

fn line(place: usize, name: &str, text: &str) -> String {
    let verdict = json!({ "name": name, "passed": true, "required": true, "attempts": 1, "millis": 3, "text": text });
    json!([place, verdict]).to_string()
}

#[test]
fn units() {
    let failed = UnitSeen { result: "exit-code".to_owned(), ..unit("failed", "failed") };
    let missing = UnitSeen { load: "not-found".to_owned(), ..unit("inactive", "dead") };
    for (states, passed, attempts, wanted) in [
        (vec![unit("active", "running")], true, 1, "w: active (running) in  ms (unit w.service)"),
        (
            vec![unit("activating", "auto-restart"), unit("active", "running")],
            true,
            2,
            "w: active (running) in  ms (unit w.service)",
        ),
        (vec![unit("activating", "auto-restart")], false, 3, "w: wanted active, got activating (auto-restart) (unit w.service)"),
        (vec![failed], false, 3, "w: wanted active, got failed (exit-code) (unit w.service)"),
        (vec![missing], false, 3, "w: wanted active, got no such unit (unit w.service)"),
        (vec![], false, 3, "w: wanted active, got no answer: no bus (unit w.service)"),
    ] {
        let host = Fake { units: RefCell::new(states.into()), ..Fake::default() };
        let verdict = all(&host, &[probe("w", &json!({ "unit": "w.service" }))]).remove(0);
        assert_eq!((verdict.passed, verdict.attempts, text(&verdict).as_str()), (passed, attempts, wanted));
    }
}

#[test]
fn a_unit_must_stay_up() {
    let states = vec![unit("active", "running"), unit("failed", "failed")];
    let host = Fake { units: RefCell::new(states.into()), ..Fake::default() };
    let verdict = all(&host, &[probe("w", &json!({ "unit": "w.service", "attempts": 1, "stable_for": "1s" }))]).remove(0);
    assert!(!verdict.passed && verdict.text.contains("of good answers; wanted 1s"), "{}", verdict.text);
}

#[test]
fn units_are_asked_in_turn() {
    let host = Fake { units: RefCell::new(vec![unit("failed", "failed")].into()), ..Fake::default() };
    let probes: Vec<Probe> = ["a", "b", "c", "d"].map(|name| probe(name, &json!({ "unit": "w.service" }))).to_vec();
    all(&host, &probes);
    assert!(host.paused.get() < Duration::from_millis(4 * 40), "{:?}", host.paused.get());
}

#[test]
fn commands() {
    let argv = json!({ "command": ["/usr/bin/pg_isready", "-q"], "user": "postgres", "attempts": 1 });
    for (end, passed, finding) in [
        (Ok(ran(Some(0), "success", "")), true, "exit code 0 in  ms"),
        (
            Ok(ran(Some(2), "exit-code", "x\nno \u{1b}response\n\n")),
            false,
            "wanted exit code 0, got exit code 2: no \\u{1b}response",
        ),
        (Ok(ran(None, "timeout", "")), false, "wanted exit code 0, got no answer within 2s"),
        (Ok(ran(None, "oom-kill", "")), false, "wanted exit code 0, got oom-kill"),
        (Err(HostError::Systemd("no such user".to_owned())), false, "wanted exit code 0, got no such user"),
    ] {
        let host = Fake { ran: RefCell::new([end].into()), ..Fake::default() };
        let verdict = all(&host, &[probe("db", &argv)]).remove(0);
        assert_eq!((verdict.passed, text(&verdict)), (passed, format!("db: {finding} (command /usr/bin/pg_isready -q)")));
        let jobs = host.jobs.borrow();
        assert_eq!(jobs[0].sandbox, Sandbox::Live { user: Some("postgres".to_owned()), surroundings: Surroundings::default() });
        assert_eq!(jobs[0].limit, Duration::from_secs(2));
    }
}

#[test]
fn a_password_is_in_a_file_without_a_name() {
    let session = json!({ "postgres": { "database": "shop", "role": "shop", "password": { "secret": "db" } }, "attempts": 1 });
    let said = "psql: error: FATAL:  no\npassword retrieved from file \"/proc/self/fd/3\"\n";
    let host = Fake { ran: RefCell::new([Ok(ran(Some(2), "exit-code", said))].into()), ..Fake::default() };
    let passwords = Passwords::from([("db".to_owned(), b"a:b\\c".to_vec())]);
    let verdicts = run(&host, &[probe("db", &session)], &passwords, &mut |_| {}, &|| true).unwrap();
    assert!(verdicts[0].text.starts_with("db: wanted an answer, got exit code 2: psql: error: FATAL:  no ("), "{verdicts:?}");
    let request: Value = serde_json::from_slice(&host.jobs.borrow()[0].input).unwrap();
    assert_eq!(request["files"], json!({ "PGPASSFILE": "*:*:*:*:a\\:b\\\\c\n" }));
    assert!(!request["environment"].to_string().contains("a:b"), "{request}");
    // libpq reads one line of that file.
    let passwords = Passwords::from([("db".to_owned(), b"a\nb".to_vec())]);
    let verdicts = run(&host, &[probe("db", &session)], &passwords, &mut |_| {}, &|| true).unwrap();
    assert!(verdicts[0].text.contains("the secret `db` is no password for PostgreSQL"), "{verdicts:?}");
}

#[test]
fn the_worker_asks_the_others() {
    let probes = [
        probe("a", &json!({ "tcp": "127.0.0.1:1", "required": false })),
        probe("u", &json!({ "unit": "w.service" })),
        probe("b", &json!({ "http": { "url": "http://127.0.0.1/" } })),
    ];
    let host = Fake {
        units: RefCell::new(vec![unit("active", "running")].into()),
        worker: vec![line(1, "b", "b: 200 in 3 ms"), String::new(), line(0, "a", "a: \u{1b}connected")],
        ..Fake::default()
    };
    let verdicts = all(&host, &probes);
    let texts: Vec<String> = verdicts.iter().map(text).collect();
    assert_eq!(texts, ["a: \\u{1b}connected", "u: active (running) in  ms (unit w.service)", "b: 200 in 3 ms"]);
    assert!(!verdicts[0].required, "what is required is for the manifest to say, not for the worker");
    let jobs = host.jobs.borrow();
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].argv, ["/usr/sbin/reconciled", "worker", "probe"]);
    assert_eq!(asked(&jobs[0]), [probes[0].clone(), probes[2].clone()]);
    // Three attempts, each with two questions of 2 s and a pause of 20 ms at most, and the slack.
    assert_eq!(jobs[0].limit, Duration::from_millis(3 * 2 * 2020 + 10_000));
}

#[test]
fn a_worker_is_not_believed_everything() {
    let probes = [probe("a", &json!({ "tcp": "127.0.0.1:1" })), probe("b", &json!({ "tcp": "127.0.0.1:2" }))];
    let good = line(0, "a", "a: connected");
    let many = good.replace("\"attempts\":1", "\"attempts\":4");
    for lines in [
        vec!["nonsense".to_owned()],
        vec!["{\"x\":\u{7}}".to_owned()],
        vec![line(7, "a", "")],
        vec![line(0, "b", "")],
        vec![good.clone(), good.clone()],
        vec![many],
        vec![line(0, "a", &"x".repeat(20_000))],
    ] {
        let error =
            run(&Fake { worker: lines, ..Fake::default() }, &probes, &Passwords::new(), &mut |_| {}, &|| true).unwrap_err();
        assert!(error.to_string().starts_with("the probe worker's answer: "), "{error}");
    }
}

#[test]
fn a_lost_worker_leaves_red_probes() {
    let probes = [probe("a", &json!({ "tcp": "127.0.0.1:1" })), probe("b", &json!({ "tcp": "127.0.0.1:2" }))];
    let host = Fake {
        worker: vec![line(0, "a", "a: connected")],
        ran: RefCell::new([Ok(ran(None, "oom-kill", ""))].into()),
        ..Fake::default()
    };
    let verdicts = all(&host, &probes);
    assert!(verdicts[0].passed && !verdicts[1].passed);
    assert_eq!(verdicts[1].text, "b: the probe worker ended without an answer (oom-kill)");
    let host = Fake { ran: RefCell::new([Err(HostError::Systemd("refused".to_owned()))].into()), ..Fake::default() };
    assert!(run(&host, &probes, &Passwords::new(), &mut |_| {}, &|| true).is_err());
}

#[test]
fn interrupted() {
    let probes = [probe("u", &json!({ "unit": "w.service" })), probe("a", &json!({ "tcp": "127.0.0.1:1" }))];
    let failing = || RefCell::new(vec![unit("failed", "failed")].into());
    // It turns false after so many looks: before the units, among them, and while the worker works.
    for patience in 0..12 {
        let asked = Cell::new(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            asked.get() <= patience
        };
        let host = Fake { units: failing(), worker: vec![String::new(); 20], ..Fake::default() };
        let verdicts = run(&host, &probes, &Passwords::new(), &mut |_| {}, &go_on).unwrap();
        assert_eq!(verdicts.len(), 2);
        assert_eq!(verdicts[1].text, "a: interrupted");
        assert!(!verdicts[0].passed && !verdicts[1].passed);
    }
}

#[test]
fn a_baseline_asks_once() {
    let host = Fake {
        units: RefCell::new(vec![unit("failed", "failed"), unit("active", "running")].into()),
        worker: vec![line(0, "a", "a: connected")],
        ..Fake::default()
    };
    let probes = [probe("u", &json!({ "unit": "w.service" })), probe("a", &json!({ "tcp": "127.0.0.1:1", "stable_for": "1h" }))];
    let verdicts = baseline(&host, &probes, &Passwords::new()).unwrap();
    assert!(!verdicts[0].passed && verdicts[0].attempts == 1);
    assert_eq!(host.paused.get(), Duration::ZERO);
    let asked = asked(&host.jobs.borrow()[0]);
    assert_eq!((asked[0].attempts, asked[0].stable_for.0), (1, Duration::ZERO));
}
