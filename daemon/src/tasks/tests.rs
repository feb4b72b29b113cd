//! The engine's thread, task by task, on a host in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Clerk, Published, Status};
use crate::config::{Remote, Settings};
use crate::cycle::Order;
use crate::cycle::tests::{Rig, id};
use crate::desk::{Desk, Task};
use crate::host::fake::{Fake, Fault, errno};
use crate::host::linux::Pulse;
use crate::policy::Right;
use crate::report::{Report, Verdict};
use crate::timespan::TimeSpan;

/// A clerk on a host whose repository has the revisions 1, 2 and 3 in a line, and x beside them.
fn clerk() -> (Clerk, Fake, tempfile::TempDir) {
    let fake = Fake::new();
    let rig = Rig::new(fake.clone());
    rig.commit("1", None, &[("files/etc/x", "one")]);
    rig.commit("2", Some("1"), &[("files/etc/x", "two")]);
    rig.commit("3", Some("2"), &[("files/etc/x", "three")]);
    rig.commit("f", Some("1"), &[("files/etc/x", "beside")]);
    let remote = Remote {
        name: "origin".to_owned(),
        url: "/srv/git".to_owned(),
        branch: "main".to_owned(),
        interval: TimeSpan::millis(60_000),
    };
    let clerk = Clerk {
        engine: rig.engine,
        desk: Desk::default(),
        published: Arc::new(watch::channel(Published::default()).0),
        pulse: Pulse::default(),
        settings: Settings { remotes: vec![remote], ..Settings::default() },
        remotes: BTreeMap::new(),
    };
    (clerk, fake, rig.dir)
}

fn perform(clerk: &mut Clerk, task: Task) -> Report {
    let ticket = {
        drop(clerk.desk.submit(task));
        clerk.desk.take(std::time::Duration::ZERO).unwrap()
    };
    let report = clerk.perform(&ticket);
    clerk.publish(Some(report.text()));
    clerk.desk.finish(&ticket, report.clone());
    report
}

fn deploy(short: &str) -> Task {
    Task::Order(Order::Deploy { commit: id(short), actor: "ana".to_owned(), right: Right::Deploy })
}

fn tick() -> Task {
    Task::Order(Order::Repair { actor: "drift".to_owned(), insist: false })
}

fn poll() -> Task {
    Task::Poll { remote: "origin".to_owned() }
}

fn status(clerk: &Clerk) -> Status {
    clerk.published.borrow().status.clone()
}

fn text(fake: &Fake) -> String {
    fake.world().text("/etc/x").unwrap()
}

#[test]
fn while_paused_nothing_is_applied() {
    let (mut clerk, fake, _dir) = clerk();
    assert_eq!(perform(&mut clerk, deploy("1")).verdict, Verdict::Live);
    let pause = Task::Pause { actor: "root".to_owned(), reason: "moving\u{1b} house".to_owned() };
    assert_eq!(perform(&mut clerk, pause.clone()).verdict, Verdict::NothingToDo);
    assert_eq!(perform(&mut clerk, pause).verdict, Verdict::NothingToDo, "may be repeated");
    assert_eq!(status(&clerk).phase, "paused");

    let report = perform(&mut clerk, deploy("2"));
    assert_eq!(report.verdict, Verdict::Refused);
    for words in ["paused by root since", "moving", "reconcilectl resume"] {
        assert!(report.reason.contains(words), "{}", report.reason);
    }
    assert!(!report.reason.contains('\u{1b}'));
    assert_eq!(clerk.engine.state.held(&id("2")).unwrap(), None, "that is not the revision's fault");
    fake.world().file("/etc/x", "by hand");
    assert_eq!(perform(&mut clerk, tick()).verdict, Verdict::NothingToDo);
    assert_eq!(text(&fake), "by hand", "drift is only reported");
    let preview = Task::Order(Order::Preview { commit: id("2"), actor: "ana".to_owned(), right: Right::Deploy });
    assert_eq!(perform(&mut clerk, preview).verdict, Verdict::Accepted);

    assert_eq!(perform(&mut clerk, Task::Resume { actor: "root".to_owned() }).verdict, Verdict::NothingToDo);
    assert_eq!(perform(&mut clerk, tick()).verdict, Verdict::Live);
    assert_eq!(text(&fake), "one");
    assert_eq!(status(&clerk).phase, "idle");
}

#[test]
fn retry_lets_a_held_revision_try_again() {
    let (mut clerk, fake, _dir) = clerk();
    perform(&mut clerk, deploy("1"));
    fake.arm_on("swap", Fault::Fail { late: false, sticky: false, error: || errno("worn disk", 5) });
    assert_eq!(perform(&mut clerk, deploy("2")).verdict, Verdict::RolledBack);
    assert_eq!(status(&clerk).held.unwrap().commit, id("2"));
    assert!(status(&clerk).line().contains("HELD 200000000000: "), "{}", status(&clerk).line());
    assert_eq!(perform(&mut clerk, deploy("2")).verdict, Verdict::Refused);
    let retry = |commit: &str| Task::Retry { commit: commit.to_owned(), actor: "root".to_owned() };
    assert!(!perform(&mut clerk, retry("abcdef")).verdict.is_good());
    assert_eq!(perform(&mut clerk, retry("")).verdict, Verdict::Live, "the newest held one");
    assert_eq!((text(&fake).as_str(), status(&clerk).held), ("two", None));
    assert_eq!(status(&clerk).desired, Some(id("2")));
}

#[test]
fn a_stuck_host_takes_no_orders_until_a_person_ends_it() {
    let (mut clerk, fake, _dir) = clerk();
    perform(&mut clerk, deploy("1"));
    fake.arm_on("sync parents", Fault::Fail { late: false, sticky: true, error: || errno("the disk is gone", 5) });
    assert_eq!(perform(&mut clerk, deploy("2")).verdict, Verdict::Stuck);
    fake.revive();
    assert_eq!(status(&clerk).phase, "stuck");
    assert!(status(&clerk).line().starts_with("STUCK: file:/etc/x"), "{}", status(&clerk).line());
    for task in [deploy("3"), tick(), Task::Sync { actor: "root".to_owned() }] {
        let report = perform(&mut clerk, task);
        assert_eq!(report.verdict, Verdict::Stuck);
        assert!(report.reason.contains("reconcilectl resolve"), "{}", report.reason);
    }
    let resolve = Task::Resolve { path: "all".to_owned(), restore: true, actor: "root".to_owned() };
    assert_eq!(perform(&mut clerk, resolve).verdict, Verdict::NothingToDo);
    assert_eq!(text(&fake), "one");
    assert_eq!(perform(&mut clerk, deploy("3")).verdict, Verdict::Live);
}

#[test]
fn a_remote_is_followed_forward_only() {
    let (mut clerk, fake, _dir) = clerk();
    assert_eq!(perform(&mut clerk, poll()).verdict, Verdict::Failed, "it does not answer");
    assert!(clerk.remotes["origin"].error.is_some());
    fake.world().remote = Some(id("2"));
    assert_eq!(perform(&mut clerk, poll()).verdict, Verdict::Live);
    assert_eq!(perform(&mut clerk, poll()).verdict, Verdict::NothingToDo);
    for (tip, words) in [("1", "went back"), ("f", "was rewritten")] {
        fake.world().remote = Some(id(tip));
        for _ in 0..3 {
            let report = perform(&mut clerk, poll());
            assert_eq!(report.verdict, Verdict::Refused);
            assert!(report.reason.contains(words), "{}", report.reason);
        }
        assert_eq!(text(&fake), "two");
    }
    let log = std::fs::read_to_string(_dir.path().join("audit.jsonl")).unwrap();
    assert_eq!(log.matches("\"event\":\"alarm\"").count(), 2, "an alarm for each, not for each time it is asked");
    // Forward again.
    fake.world().remote = Some(id("3"));
    assert_eq!(perform(&mut clerk, Task::Sync { actor: "root".to_owned() }).verdict, Verdict::NothingToDo);
    assert_eq!(text(&fake), "three");
    assert_eq!(perform(&mut clerk, Task::Poll { remote: "other".to_owned() }).verdict, Verdict::Refused);
}

#[test]
fn a_held_tip_is_not_pulled_again() {
    let (mut clerk, fake, _dir) = clerk();
    fake.world().remote = Some(id("1"));
    perform(&mut clerk, poll());
    fake.world().remote = Some(id("2"));
    fake.arm_on("swap", Fault::Fail { late: false, sticky: false, error: || errno("worn disk", 5) });
    assert_eq!(perform(&mut clerk, poll()).verdict, Verdict::RolledBack);
    let calls = fake.calls();
    for _ in 0..3 {
        assert_eq!(perform(&mut clerk, poll()).verdict, Verdict::Refused);
    }
    assert!(!fake.world().log[calls..].iter().any(|c| c.starts_with("stage")), "no loop on the same revision");
    fake.world().remote = Some(id("3"));
    assert_eq!(perform(&mut clerk, poll()).verdict, Verdict::Live);
}
