//! Every order, and every way in which it can end.

use super::{Rig, id};
use crate::host::fake::{Fake, Fault, Node, errno};
use crate::journal::Phase;
use crate::policy::Right;
use crate::report::Verdict;

const PROBE: &str = "[[probe]]\nname = \"site\"\nattempts = 1\nhttp = { url = \"http://127.0.0.1/\" }\n";

fn site(text: &str) -> Vec<(&'static str, String)> {
    vec![("reconciled.toml", PROBE.to_owned()), ("files/etc/nginx/conf.d/site.conf", text.to_owned())]
}

/// A host with nginx and a chain of revisions `1`, `2`, …, each with this site.
fn chain(sites: &[&str]) -> Rig {
    let rig = Rig::new(Fake::with_nginx());
    for (i, text) in sites.iter().enumerate() {
        let list = site(text);
        let list: Vec<(&str, &str)> = list.iter().map(|(p, t)| (*p, t.as_str())).collect();
        let parent = i.to_string();
        rig.commit(&(i + 1).to_string(), (i > 0).then_some(parent.as_str()), &list);
    }
    rig
}

fn served(rig: &Rig) -> Option<String> {
    rig.fake.world().units["nginx.service"].runs.get("/etc/nginx/conf.d/site.conf").cloned()
}

#[test]
fn what_a_service_holds_together_runs_when_it_does() {
    const MEMBER: &str = "postgresql@15-main.service";
    let mut rig = Rig::new(Fake::new());
    for unit in ["postgresql.service", MEMBER] {
        let path = format!("/usr/lib/systemd/system/{unit}");
        rig.fake.world().file(&path, "[Service]\nExecStart=/bin/true\n");
        rig.fake.world().running(unit, &path, &[]);
    }
    rig.fake.world().units.get_mut("postgresql.service").unwrap().members = vec![MEMBER.to_owned()];
    let declared = ("reconciled.toml", "units = [\"postgresql.service\"]\n");
    rig.commit("1", None, &[declared]).commit("2", Some("1"), &[declared, ("files/etc/x", "x")]);
    rig.live("1");
    rig.fake.world().units.get_mut(MEMBER).unwrap().active = false;
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
    assert!(rig.heard("unit:postgresql@15-main.service (start, as a part of postgresql.service)"), "{:?}", rig.said);
    assert!(rig.fake.world().units[MEMBER].active);
    assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
    // It is not ours for that: the next push does not stop it.
    rig.live("2");
    assert!(rig.fake.world().units[MEMBER].active && !rig.heard(MEMBER), "{:?}", rig.said);
}

#[test]
fn a_push_waits_for_dpkg_and_not_for_ever() {
    let mut rig = chain(&["one"]);
    rig.fake.world().dpkg = Some("apt-get, process 7,".to_owned());
    let report = rig.deploy("1");
    let why = "dpkg is at work (apt-get, process 7, holds its lock): nothing was touched; try again when that is done";
    assert_eq!((report.verdict, report.reason.as_str()), (Verdict::Refused, why));
    assert!(rig.heard("waiting for its end, at most 300 s"), "{:?}", rig.said);
    assert!(rig.main().is_none() && served(&rig).is_none());
    // It is nobody's fault: the same revision is not held.
    rig.fake.world().dpkg = None;
    rig.live("1");
}

#[test]
fn a_push_goes_live() {
    let mut rig = chain(&["one", "two"]);
    let report = rig.deploy("1");
    assert_eq!((report.verdict, report.generation), (Verdict::Live, Some(1)), "{}", report.text());
    assert_eq!(served(&rig).as_deref(), Some("one"));
    assert_eq!(rig.main(), Some(id("1")));
    assert_eq!(rig.events(), ["intent", "live"]);
    for words in ["+ directory:/etc/nginx/conf.d (implied)", "+ file:/etc/nginx/conf.d/site.conf (new)", "! reload nginx.service"]
    {
        assert!(rig.heard(words), "{words}: {:?}", rig.said);
    }
    assert!(rig.heard("ok    guard nginx") && rig.heard("ok    probe site"), "{:?}", rig.said);
    let stages: Vec<&str> = report.stages.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(stages, ["read", "plan", "rehearse", "baseline", "stage", "apply", "probe", "commit"]);
    rig.sound();

    assert_eq!(rig.live("2").deploy("2").verdict, Verdict::NothingToDo);
    assert_eq!(rig.fake.world().units["nginx.service"].reloads, 2);
    assert_eq!(rig.events(), ["intent", "live", "intent", "live"], "what changes nothing is no news");
}

#[test]
fn what_a_guard_rejects_touches_nothing_and_is_held() {
    let mut rig = chain(&["one", "broken;", "three"]);
    rig.live("1");
    let (before, log) = (rig.picture(), rig.fake.calls());
    let report = rig.deploy("2");
    assert_eq!(report.verdict, Verdict::Refused);
    assert!(report.reason.contains("guard nginx: /etc/nginx/conf.d/site.conf: broken;"), "{}", report.reason);
    rig.picture().must_be(&before, "");
    let calls: Vec<String> = rig.fake.world().log[log..].to_vec();
    assert!(calls.iter().all(|c| c.starts_with("run ")), "a refusal runs checks and touches nothing: {calls:?}");
    assert_eq!(rig.main(), Some(id("1")));
    assert!(rig.engine.state.held(&id("2")).unwrap().is_some());

    let calls = rig.fake.calls();
    let again = rig.deploy("2");
    assert_eq!(again.verdict, Verdict::Refused);
    assert!(again.reason.contains("is held since") && again.reason.contains("reconcilectl retry"), "{}", again.reason);
    assert_eq!(rig.fake.calls(), calls, "a held revision is refused before anything is asked");
    rig.live("3");
}

#[test]
fn a_failure_is_explained_before_it_is_taken_back() {
    let line = r#"2026/11/26 01:31:33 [error] 1#1: *10 connect() failed (111: Connection refused) while connecting to upstream, upstream: "http://127.0.0.1:8099/", host: "127.0.0.1""#;
    let facts = serde_json::json!({ "errors": [line] }).to_string();
    for (answer, text) in
        [(facts.as_str(), Some("nobody listens on 127.0.0.1:8099, to which nginx passes")), ("nonsense", None), ("", None)]
    {
        let mut rig = chain(&["one", "502"]);
        rig.live("1").fake.world().evidence = answer.into();
        let calls = rig.fake.calls();
        assert_eq!(rig.deploy("2").verdict, Verdict::RolledBack, "whatever the evidence is");
        assert_eq!(served(&rig).as_deref(), Some("one"));
        let place = |words: &str| rig.said.iter().position(|line| line.starts_with(words));
        let (error, cause, back) = (place("error: probe site"), place("because: "), place("taking everything back"));
        assert_eq!(cause.map(|at| rig.said[at].contains(text.unwrap_or("nothing"))), text.map(|_| true), "{:?}", rig.said);
        assert!(cause.is_none_or(|at| error < Some(at) && Some(at) < back), "{:?}", rig.said);
        let log = std::fs::read_to_string(rig.dir.path().join("audit.jsonl")).unwrap();
        assert_eq!(log.lines().last().is_some_and(|record| record.contains("nobody-listens")), text.is_some());
        let jobs: Vec<String> = rig.fake.world().log[calls..].to_vec();
        assert_eq!(jobs.iter().filter(|job| *job == "run evidence").count(), 1, "{jobs:?}");
    }
    let mut rig = chain(&["one", "502"]);
    let fault = Fault::Fail { late: false, sticky: false, error: || errno("run evidence", 5) };
    rig.live("1").fake.arm_on("run evidence", fault);
    assert_eq!(rig.deploy("2").verdict, Verdict::RolledBack, "whoever looks may fail");
    assert_eq!(served(&rig).as_deref(), Some("one"));

    let mut rig = chain(&["one", "broken;", "three"]);
    let calls = rig.live("1").fake.calls();
    rig.deploy("2");
    rig.live("3");
    assert!(!rig.fake.world().log[calls..].iter().any(|job| job == "run evidence"), "nothing has failed, or nothing was live");
}

#[test]
fn what_the_probes_reject_is_taken_back_with_its_processes() {
    let mut rig = chain(&["one", "502", "three"]);
    rig.live("1");
    let before = rig.picture();
    let report = rig.deploy("2");
    assert_eq!((report.verdict, report.generation), (Verdict::RolledBack, Some(1)));
    assert_eq!(report.reason, "probe site: wanted 200, got 502");
    rig.picture().must_be(&before, "");
    assert_eq!(served(&rig).as_deref(), Some("one"), "the process runs the restored file");
    assert_eq!(rig.fake.world().units["nginx.service"].reloads, 3);
    assert_eq!(rig.main(), Some(id("1")));
    assert_eq!(rig.events(), ["intent", "live", "intent", "rolled-back"]);
    assert!(rig.heard("ok    probe after the rollback: site: got 200"), "the restored state is probed too: {:?}", rig.said);
    assert!(rig.engine.state.held(&id("2")).unwrap().is_some());
    rig.sound();
    // A held parent does not hold its child.
    rig.live("3");
}

#[test]
fn the_first_generation_goes_back_to_what_stood_there() {
    let mut rig = chain(&["502"]);
    let before = rig.picture();
    let report = rig.deploy("1");
    assert_eq!((report.verdict, report.generation), (Verdict::RolledBack, None), "{}", report.text());
    rig.picture().must_be(&before, "");
    assert_eq!(rig.main(), None);
}

#[test]
fn drift_is_healed_to_the_live_generation_even_while_a_newer_one_is_held() {
    let mut rig = chain(&["one", "502"]);
    rig.live("1");
    let good = rig.picture();
    assert_eq!(rig.deploy("2").verdict, Verdict::RolledBack);
    rig.fake.world().file("/etc/nginx/conf.d/site.conf", "by hand");
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
    rig.picture().must_be(&good, "");
    assert_eq!(served(&rig).as_deref(), Some("one"));
    assert_eq!(rig.events().last().unwrap(), "drift-repaired");
    assert_eq!(rig.engine.state.live().unwrap().unwrap().number, 1, "a repair makes no generation");
    let calls = rig.fake.calls();
    assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
    assert_eq!(rig.fake.calls(), calls, "a look of a converged host starts nothing and changes nothing");
}

#[test]
fn a_repair_that_fails_waits_longer_each_time() {
    let mut rig = chain(&["one"]);
    rig.live("1");
    rig.fake.world().file("/etc/nginx/conf.d/site.conf", "by hand");
    let mut course = String::new();
    for _ in 0..28 {
        if !course.ends_with('.') {
            rig.fake.arm_on("swap", Fault::Fail { late: false, sticky: false, error: || errno("worn disk", 5) });
        }
        course.push(if rig.repair(false).verdict == Verdict::RolledBack { 'x' } else { '.' });
    }
    assert_eq!(course, "x.x...x.......x............x");
}

#[test]
fn a_repair_that_failed_waits_unless_a_person_insists() {
    let mut rig = chain(&["one", "two"]);
    rig.live("1");
    rig.fake.world().file("/etc/nginx/conf.d/site.conf", "by hand");
    let drifted = rig.picture();
    rig.fake.arm_on("swap", Fault::Fail { late: false, sticky: false, error: || errno("worn disk", 5) });
    assert_eq!(rig.repair(false).verdict, Verdict::RolledBack);
    assert_eq!(rig.picture().tree, drifted.tree);
    let calls = rig.fake.calls();
    let again = rig.repair(false);
    assert_eq!(again.verdict, Verdict::Refused);
    assert!(again.reason.contains("failed before"), "{}", again.reason);
    assert_eq!(rig.fake.calls(), calls);
    assert_eq!(rig.events().iter().filter(|e| *e == "refused").count(), 0, "said once, not at every tick");
    assert_eq!(rig.repair(true).verdict, Verdict::Live);
    assert_eq!(rig.engine.failing, None);
    // Other drift is another repair.
    rig.fake.world().file("/etc/nginx/conf.d/site.conf", "again");
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
}

#[test]
fn a_repair_is_not_blamed_for_what_was_red_before() {
    let mut rig = chain(&["one"]);
    rig.live("1");
    rig.fake.world().red.insert("site".to_owned());
    rig.fake.world().file("/etc/nginx/conf.d/site.conf", "by hand");
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
    // A deploy has to end green whatever was before; the finding says what it was.
    let mut rig = chain(&["one", "two"]);
    rig.live("1");
    rig.fake.world().red.insert("site".to_owned());
    let report = rig.deploy("2");
    assert_eq!(report.verdict, Verdict::RolledBack, "one that was red before does not make the rollback stuck");
    assert!(report.reason.ends_with("(it was red before)"), "{}", report.reason);
}

#[test]
fn rollback_n_makes_a_new_generation_and_holds_what_it_leaves_behind() {
    let mut rig = chain(&["one", "two", "three", "four"]);
    rig.live("1").live("2").live("3");
    let report = rig.rollback(1);
    assert_eq!((report.verdict, report.generation), (Verdict::Live, Some(4)), "{}", report.text());
    assert_eq!(served(&rig).as_deref(), Some("one"));
    assert_eq!(rig.main(), Some(id("1")), "the one move of the branch that is not forward");
    for left in ["2", "3"] {
        let held = rig.engine.state.held(&id(left)).unwrap().unwrap();
        assert!(held.reason.contains("left behind by a rollback to generation 1 by root"), "{}", held.reason);
    }
    assert_eq!(rig.deploy("3").verdict, Verdict::Refused);
    // A descendant that is pushed later goes live.
    rig.live("4");
    assert_eq!(served(&rig).as_deref(), Some("four"));
    let missing = rig.rollback(99);
    assert_eq!(missing.verdict, Verdict::Refused);
    assert!(missing.reason.contains("there is no generation 99"), "{}", missing.reason);
}

#[test]
fn a_preview_applies_nothing() {
    let mut rig = chain(&["one", "two", "broken"]);
    rig.live("1");
    let before = rig.picture();
    for right in [Right::Deploy, Right::Preview] {
        assert_eq!(rig.preview("2", right).verdict, Verdict::Accepted);
        assert_eq!(rig.heard("guard nginx: deferred"), right == Right::Preview, "{:?}", rig.said);
    }
    assert_eq!(rig.preview("3", Right::Deploy).verdict, Verdict::Refused);
    rig.picture().must_be(&before, "");
    assert_eq!(rig.main(), Some(id("1")));
    assert_eq!(rig.events(), ["intent", "live", "preview", "preview", "refused"]);
    assert_eq!(rig.engine.state.held(&id("3")).unwrap(), None, "a preview holds nothing");
    rig.sound();
}

#[test]
fn refusals_before_the_plan_name_the_remedy() {
    let mut rig = chain(&["one", "two"]);
    rig.commit("8", None, &[("files/etc/a", "a")]);
    rig.commit("9", Some("2"), &[("reconciled.toml", "unitz = []\n")]);
    rig.commit("a", Some("2"), &[("reconciled.toml", "allow_empty = true\n")]);
    rig.commit("b", Some("2"), &[("reconciled.toml", "")]);
    rig.live("1").live("2");
    for (commit, words, held) in [
        ("8", "does not build on the live revision", false),
        ("9", "unitz", true),
        ("b", "allow_empty = true", true),
        ("f", "not found", true),
    ] {
        let report = rig.deploy(commit);
        assert_eq!(report.verdict, Verdict::Refused, "{commit}: {}", report.text());
        assert!(report.reason.contains(words), "{commit}: {}", report.reason);
        assert_eq!(rig.engine.state.held(&id(commit)).unwrap().is_some(), held, "{commit}");
    }
    let report = rig.run(&super::Order::Deploy { commit: id("a"), actor: "eve".to_owned(), right: Right::Preview });
    assert!(report.reason.contains("may only preview"), "{}", report.reason);
    assert_eq!(rig.main(), Some(id("2")));
    // Meant, it removes all that is ours and gives back what stood there.
    assert_eq!(rig.deploy("a").verdict, Verdict::Live);
    rig.picture().must_be(&chain(&[]).picture(), "");
}

#[test]
fn what_left_comes_back_as_it_was_and_only_that() {
    let mut rig = Rig::new(Fake::with_nginx());
    rig.fake.world().file("/etc/kept", "theirs");
    rig.commit("1", None, &[("files/etc/kept", "ours"), ("files/srv/new/a", "a"), ("files/etc/stays", "s")]);
    rig.commit("2", Some("1"), &[("files/etc/stays", "s")]);
    let before = rig.picture();
    rig.live("1");
    rig.fake.world().file("/srv/new/of-a-person", "mine");
    rig.live("2");
    let mut expected = before.tree.clone();
    expected.insert("/etc/stays".to_owned(), Node::file("s"));
    expected.insert("/srv/new/of-a-person".to_owned(), Node::file("mine"));
    expected.insert("/srv/new".to_owned(), rig.picture().tree["/srv/new"].clone());
    assert_eq!(rig.picture().tree, expected, "a directory that a person uses stays");
    assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
}

#[test]
fn a_stop_of_the_daemon_takes_back_what_waits_for_its_probes() {
    let mut rig = chain(&["one", "two"]);
    rig.live("1");
    let before = rig.picture();
    rig.go_on.set(false);
    let report = rig.deploy("2");
    assert_eq!(report.verdict, Verdict::RolledBack, "{}", report.text());
    assert!(report.reason.contains("interrupted"), "{}", report.reason);
    rig.picture().must_be(&before, "");
}

#[test]
fn a_host_that_goes_down_is_nobodys_fault() {
    let mut rig = chain(&["one", "two"]);
    rig.live("1");
    let before = rig.picture();
    rig.fake.arm_on("reload nginx", Fault::Edit(|world| world.going_down = true));
    let report = rig.deploy("2");
    assert_eq!(report.verdict, Verdict::RolledBack, "{}", report.text());
    assert!(report.reason.contains("is up again"), "{}", report.reason);
    assert_eq!(rig.picture().tree, before.tree);
    assert_eq!(rig.engine.state.open_transaction().unwrap().unwrap().state, Phase::Restored, "its wakes are owed");
    rig.fake.world().reboot();
    let store = rig.dir.path().to_owned();
    rig.reborn(&store);
    rig.engine.recover().unwrap();
    rig.picture().must_be(&before, "after the reboot");
    assert!(rig.engine.state.open_transaction().unwrap().is_none());
    assert_eq!(rig.deploy("2").verdict, Verdict::Live, "it is not held");
}

#[test]
fn what_a_program_wrote_to_a_displaced_file_comes_back_too() {
    let mut rig = chain(&["one"]);
    rig.fake.world().file("/etc/nginx/conf.d/site.conf", "theirs");
    rig.commit("2", Some("1"), &[("reconciled.toml", ""), ("files/etc/base", "base")]);
    // It had the file open and writes to it after the swap.
    rig.fake.arm_on(
        "reload nginx",
        Fault::Edit(|world| {
            world.slots.values_mut().filter(|n| **n == Node::file("theirs")).for_each(|n| *n = Node::file("theirs, and more"));
        }),
    );
    rig.live("1").live("2");
    assert_eq!(rig.picture().tree.get("/etc/nginx/conf.d/site.conf"), Some(&Node::file("theirs, and more")));
}

#[test]
fn diff_and_drift_reports_change_nothing() {
    let mut rig = chain(&["one"]);
    rig.live("1");
    rig.fake.world().file("/etc/nginx/conf.d/site.conf", "by hand");
    let before = rig.picture();
    let mut said = Vec::new();
    let report = rig.engine.diff(None, "root", &mut |p| said.push(p.text())).unwrap();
    assert_eq!(report.verdict, Verdict::Differs);
    assert!(said.iter().any(|l| l == "-by hand") && said.iter().any(|l| l == "+one"), "{said:?}");
    for _ in 0..3 {
        rig.engine.report_drift("drift", &mut |_| {}).unwrap();
    }
    assert_eq!(rig.events(), ["intent", "live", "drift-found"], "the same difference is recorded once");
    rig.picture().must_be(&before, "");
    assert!(!rig.engine.diff(Some(7), "root", &mut |_| {}).unwrap().verdict.is_good());
}

#[test]
fn a_stuck_transaction_is_ended_by_a_person() {
    for restore in [true, false] {
        let mut rig = chain(&["one", "two"]);
        rig.live("1");
        let before = rig.picture();
        // Right before the wake somebody edits the file that was just put there, and the reload fails.
        rig.fake.arm_on("reload", Fault::Edit(|w| w.file("/etc/nginx/conf.d/site.conf", "cannot reload, cannot start")));
        let report = rig.deploy("2");
        assert_eq!(report.verdict, Verdict::Stuck, "{}", report.text());
        assert!(report.reason.contains("file:/etc/nginx/conf.d/site.conf"), "{}", report.reason);
        let open = rig.engine.state.open_transaction().unwrap().unwrap();
        assert_eq!(open.state, Phase::Stuck);
        assert_eq!(
            rig.fake.world().text("/etc/nginx/conf.d/site.conf").as_deref(),
            Some("cannot reload, cannot start"),
            "no edit is lost"
        );

        let other = rig.engine.resolve("/etc/other", restore, "root", &mut |_| {}).unwrap();
        assert_eq!(other.verdict, Verdict::Refused);
        rig.fake.world().file("/etc/nginx/conf.d/site.conf", "mended");
        let report = rig.engine.resolve("all", restore, "root", &mut |_| {}).unwrap();
        assert_eq!(report.verdict, Verdict::NothingToDo, "{}", report.text());
        assert!(rig.engine.state.open_transaction().unwrap().is_none());
        if restore {
            rig.picture().must_be(&before, "");
            assert_eq!(served(&rig).as_deref(), Some("one"));
        } else {
            assert_eq!(rig.fake.world().text("/etc/nginx/conf.d/site.conf").as_deref(), Some("mended"));
        }
        assert_eq!(rig.events().last().unwrap(), "resolved");
        rig.sound();
    }
}

#[test]
fn what_nobody_confirmed_goes_back_whatever_fails_on_the_way() {
    let mut rig = chain(&["one", "two"]);
    rig.live("1").live("2");
    rig.fake.arm_on("reload nginx", Fault::Fail { late: false, sticky: false, error: || errno("reload nginx", 5) });
    let order = super::Order::Revert { back_to: Some(1), why: "not confirmed".to_owned() };
    let report = rig.engine.run(&order, &mut |_| {});
    assert_eq!((report.verdict, report.generation), (Verdict::Live, Some(3)), "{}", report.text());
    assert_eq!(rig.fake.world().text("/etc/nginx/conf.d/site.conf").as_deref(), Some("one"));
    assert!(rig.engine.state.held(&id("2")).unwrap().is_some_and(|held| held.reason == "not confirmed"));
}

#[test]
fn what_is_left_keeps_nothing_beside_it_from_being_healed() {
    let mut rig = Rig::new(Fake::with_nginx());
    let table = "[[file]]\npath = \"/etc/shop/a\"\ndrift = \"ignore\"\n";
    rig.commit("1", None, &[("reconciled.toml", table), ("files/etc/shop/a", "a"), ("files/etc/shop/b", "b")]);
    rig.live("1");
    rig.fake.world().tree.retain(|path, _| !path.starts_with("/etc/shop"));
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
    let text = |path: &str| rig.fake.world().text(path);
    assert_eq!((text("/etc/shop/a"), text("/etc/shop/b").as_deref()), (None, Some("b")));
}
