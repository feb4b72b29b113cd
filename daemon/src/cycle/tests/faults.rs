//! Every accident at every step: the host ends wholly old or wholly new, or says what is in the way.

use super::{Chance, Rig, id};
use crate::host::HostError;
use crate::host::fake::postgres::{Cluster, SETTINGS};
use crate::host::fake::{Fake, Fault, Picture, errno};
use crate::journal::Phase;
use crate::kind::KINDS;
use crate::report::Verdict;

/// A host on which every kind's example has something to do, and what has to stand beside the examples.
fn ready() -> Fake {
    let fake = Fake::with_nginx();
    let mut world = fake.world();
    world.dir("/etc/shop");
    world.file("/etc/shop/settings.ini", "as it was");
    world.file("/usr/lib/systemd/system/worker.service", "[Service]\n");
    world.file("/etc/systemd/system/old.service", "[Service]\nNice=1\n");
    world.running("old.service", "/etc/systemd/system/old.service", &["/etc/old.conf"]);
    // A server that reads its settings when it starts.
    let mut cluster = Cluster::default();
    cluster.slow.insert("shared_buffers".to_owned(), false);
    cluster.keep(&mut world);
    world.file("/usr/lib/systemd/system/postgresql@15-main.service", "[Service]\n");
    world.running("postgresql@15-main.service", "/usr/lib/systemd/system/postgresql@15-main.service", &[SETTINGS]);
    world.site();
    drop(world);
    fake
}

/// A change: what was live before, what is pushed.
struct Case {
    name: String,
    first: Vec<(String, String)>,
    second: Vec<(String, String)>,
}

impl Case {
    fn new(name: &str, first: &[(&str, &str)], second: &[(&str, &str)]) -> Self {
        let own = |list: &[(&str, &str)]| list.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect();
        Self { name: name.to_owned(), first: own(first), second: own(second) }
    }

    /// A host on which the first revision is live and the second one can be pushed.
    fn rig(&self) -> Rig {
        let mut rig = Rig::new(ready());
        let list = |list: &[(String, String)]| -> Vec<(String, String)> { list.to_vec() };
        let add = |rig: &Rig, short: &str, parent: Option<&str>, of: &[(String, String)]| {
            let of = list(of);
            let of: Vec<(&str, &str)> = of.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
            rig.commit(short, parent, &of);
        };
        add(&rig, "1", None, &self.first);
        add(&rig, "2", Some("1"), &self.second);
        add(&rig, "3", Some("2"), &self.second);
        rig.live("1");
        rig
    }
}

const PROBE: &str = "[[probe]]\nname = \"site\"\nattempts = 1\nhttp = { url = \"http://127.0.0.1/\" }\n";
const START: (&str, &str) = ("files/etc/base", "base");
/// What the examples name.
const SECRET: (&str, &str) = ("secrets/db_password.age", "correct horse");

/// One case for each row of the table, and some that have everything at once.
fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = KINDS
        .iter()
        .map(|kind| {
            let manifest = ("reconciled.toml", kind.example());
            Case::new(kind.kind(), &[START], &[START, manifest, ("files/etc/shop/settings.ini", "new"), SECRET])
        })
        .collect();
    let everything = format!(
        "{PROBE}[[unit]]\nname = \"app.service\"\nenabled = true\nactive = true\nwatch = [\"/etc/app/**\"]\n\
         [[link]]\npath = \"/etc/nginx/sites-enabled/default\"\nstate = \"absent\"\n\
         [[directory]]\npath = \"/srv/app\"\nowner = \"www-data\"\nmode = \"0750\"\n\
         [[file]]\npath = \"/etc/old.conf\"\nstate = \"absent\"\n"
    );
    let all: &[(&str, &str)] = &[
        ("reconciled.toml", &everything),
        ("files/etc/app/a/b.conf", "b"),
        ("files/etc/nginx/conf.d/site.conf", "one"),
        ("files/etc/nginx/sites-enabled/site@", "../conf.d/site.conf"),
        ("files/etc/systemd/system/app.service", "[Service]\nExecStart=/bin/app\n"),
        ("files/etc/systemd/system/old.service", "[Service]\nNice=2\n"),
        ("files/etc/shop/settings.ini", "ours"),
    ];
    let changed: Vec<(&str, &str)> = all.iter().map(|(p, t)| (*p, if *t == "one" { "two" } else { *t })).collect();
    cases.push(Case::new("everything appears", &[START], all));
    let upon_packages = format!("packages = [\"nginx\", \"redis-server\"]\n{everything}");
    let founded: Vec<(&str, &str)> =
        all.iter().map(|(p, t)| (*p, if *p == "reconciled.toml" { upon_packages.as_str() } else { *t })).collect();
    cases.push(Case::new("everything appears upon packages", &[START], &founded));
    let people = "groups = [\"deployers\"]\n[[user]]\nname = \"sammy\"\ngroups = [\"deployers\"]\n\
                  [[user]]\nname = \"ana\"\nhome_mode = \"0711\"\n";
    let of_people = [START, ("reconciled.toml", people), ("files/home/sammy/app/settings.py", "a")];
    cases.push(Case::new("people come and change", &[START], &of_people));
    let brought = "packages = [\"redis-server\"]\ngroups = [\"deployers\"]\n[[user]]\nname = \"sammy\"\ngroups = [\"redis\"]\n\
                   [[user]]\nname = \"redis\"\ngroups = [\"deployers\"]\n";
    cases.push(Case::new("an account that a package brings", &[START], &[START, ("reconciled.toml", brought)]));
    cases.push(Case::new("everything goes", all, &[START]));
    cases.push(Case::new("one file changes", all, &changed));
    let masked = "[[unit]]\nname = \"worker.service\"\nmasked = true\n\
                  [[unit]]\nname = \"old.service\"\nactive = false\nmasked = true\n";
    let restarted = "[[postgres_setting]]\nname = \"shared_buffers\"\nvalue = \"64MB\"\n";
    cases.push(Case::new("a server restarts for its setting", &[START], &[START, ("reconciled.toml", restarted)]));
    cases.push(Case::new("units are masked", &[START], &[START, ("reconciled.toml", masked)]));
    cases
}

/// The host before and after, and how many calls the change takes.
fn clean_run(case: &Case) -> (Picture, Picture, usize) {
    let mut rig = case.rig();
    let before = rig.picture();
    let calls = rig.fake.calls();
    rig.live("2");
    (before, rig.picture(), rig.fake.calls() - calls)
}

fn is_open(rig: &Rig) -> bool {
    rig.engine.state.open_transaction().unwrap().is_some()
}

#[test]
fn a_plan_after_its_apply_is_empty() {
    for case in cases() {
        let mut rig = case.rig();
        rig.live("2");
        let calls = rig.fake.calls();
        assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo, "{}", case.name);
        assert_eq!(rig.fake.calls(), calls, "{}: a converged host is only looked at", case.name);
        let report = rig.deploy("3");
        assert_eq!(report.verdict, Verdict::Live, "{}: {}", case.name, report.text());
        assert!(rig.heard("nothing to change"), "{}: {:?}", case.name, rig.said);
    }
}

#[test]
fn one_error_at_any_step_unwinds_exactly() {
    let errors: [fn() -> HostError; 3] = [
        || errno("no space", 28),
        || HostError::Systemd("refused".to_owned()),
        || HostError::Timeout { what: "job".to_owned(), limit: std::time::Duration::from_secs(1) },
    ];
    for case in cases() {
        let (before, after, calls) = clean_run(&case);
        assert_ne!(before, after, "{}: nothing happens here", case.name);
        for (at, late) in (0..calls).flat_map(|at| [(at, false), (at, true)]) {
            let mut rig = case.rig();
            rig.fake.arm(at, Fault::Fail { late, sticky: false, error: errors[at % errors.len()] });
            let report = rig.deploy("2");
            let at =
                format!("{}: call {at} late {late} `{}`: {}", case.name, rig.fake.world().log.last().unwrap(), report.text());
            let wanted = if report.verdict == Verdict::Live { &after } else { &before };
            rig.picture().must_be(wanted, &at);
            assert_ne!(report.verdict, Verdict::Stuck, "{at}");
            // The branch is published again at the next start.
            rig.fake.revive();
            rig.engine.recover().unwrap();
            rig.engine.publish(None, &mut |_| {});
            let live = if report.verdict == Verdict::Live { "2" } else { "1" };
            assert_eq!(rig.main(), Some(id(live)), "{at}");
            assert!(!is_open(&rig), "{at}");
            rig.sound();
            // Repeated without the accident, it converges.
            rig.engine.state.unhold(&id("2")).unwrap();
            let verdict = rig.deploy("2").verdict;
            assert!(matches!(verdict, Verdict::Live | Verdict::NothingToDo), "{at}");
            rig.picture().must_be(&after, &at);
        }
    }
}

#[test]
fn a_host_that_fails_for_good_is_stuck_by_name_and_a_person_ends_it() {
    for case in cases() {
        let (before, after, calls) = clean_run(&case);
        let mut stuck = 0;
        for at in 0..calls {
            let mut rig = case.rig();
            rig.fake.arm(at, Fault::Fail { late: false, sticky: true, error: || errno("the disk is gone", 5) });
            let report = rig.deploy("2");
            let place = format!("{}: call {at}: {}", case.name, report.text());
            rig.fake.revive();
            if report.verdict == Verdict::Stuck {
                stuck += 1;
                let open = rig.engine.state.open_transaction().unwrap().unwrap();
                assert_eq!(open.state, Phase::Stuck, "{place}");
                assert!(open.remains.iter().all(|r| report.reason.contains(r)), "{place}");
                // All that is not named is where it was.
                for step in &open.plan.steps {
                    let Some(path) = step.change.path() else { continue };
                    let named = open.remains.iter().any(|r| r.starts_with(&step.change.target()));
                    let (now, then) = (rig.picture().tree.remove(path.as_str()), before.tree.get(path.as_str()).cloned());
                    assert!(named || now == then, "{place}: {path}");
                }
                let ended = rig.engine.resolve("all", true, "root", &mut |_| {}).unwrap();
                assert_eq!(ended.verdict, Verdict::NothingToDo, "{place}\n{}", ended.text());
                rig.picture().must_be(&before, &place);
            } else {
                let wanted = if report.verdict == Verdict::Live { &after } else { &before };
                rig.picture().must_be(wanted, &place);
            }
            rig.engine.recover().unwrap();
            assert!(!is_open(&rig), "{place}");
            rig.sound();
        }
        assert!(stuck > 0, "{}", case.name);
    }
}

/// Cuts the power at one call of the deploy, and, where `again` says so, at one of the recovery.
fn cut(case: &Case, at: usize, late: bool, again: Option<usize>, boot: bool, chance: &mut Chance) -> Rig {
    let mut rig = case.rig();
    let mut store = rig.keep_store_at_cut();
    rig.fake.arm(at, Fault::Cut { late });
    rig.deploy("2");
    let mut cuts = again.into_iter();
    loop {
        if boot {
            rig.fake.power_back(&mut || chance.coin())
        } else {
            rig.fake.revive()
        }
        rig.reborn(&store);
        store = rig.keep_store_at_cut();
        let next = cuts.next();
        if let Some(next) = next {
            rig.fake.arm(next, Fault::Cut { late: chance.coin() });
        }
        if boot {
            // Early boot comes first, then PID 1 starts what is enabled, then the daemon does the rest.
            let restored = rig.engine.restore_at_boot();
            if !store.exists() {
                restored.unwrap();
                rig.fake.world().reboot();
            }
        }
        if !store.exists() {
            rig.engine.recover().unwrap();
        }
        if !store.exists() {
            rig.fake.revive();
            return rig;
        }
    }
}

fn old_or_new(case: &Case, rig: &mut Rig, (before, after): (&Picture, &Picture), place: &str) {
    let open = rig.engine.state.open_transaction().unwrap().map(|open| (open.state, open.remains));
    assert!(open.is_none(), "{}: {place}: {open:?}", case.name);
    let live = rig.engine.state.live().unwrap().unwrap().number;
    let wanted = if live == 2 { after } else { before };
    rig.picture().must_be(wanted, &format!("{}: {place}", case.name));
    rig.sound();
    rig.engine.publish(None, &mut |_| {});
    assert_eq!(rig.main(), Some(id(&live.to_string())), "{place}");
    let verdict = rig.deploy("2").verdict;
    assert!(matches!(verdict, Verdict::Live | Verdict::NothingToDo), "{}: {place}: {verdict:?} {:?}", case.name, rig.said);
    rig.picture().must_be(after, &format!("{}: {place}", case.name));
}

#[test]
fn a_cut_at_any_call_ends_old_or_new() {
    let mut chance = Chance(1);
    for case in cases() {
        let (before, after, calls) = clean_run(&case);
        // The long ones in all four ways, those of single kinds in turn.
        let long = calls > 15;
        for at in 0..calls {
            for way in if long { 0..4 } else { at % 4..at % 4 + 1 } {
                let (late, boot) = (way % 2 == 1, way > 1);
                let place = format!("cut at {at} late {late} boot {boot}");
                let mut rig = cut(&case, at, late, None, boot, &mut chance);
                old_or_new(&case, &mut rig, (&before, &after), &place);
            }
        }
    }
}

#[test]
fn a_second_cut_in_the_recovery_ends_old_or_new() {
    let mut chance = Chance(2);
    for case in cases().into_iter().skip(KINDS.len()) {
        let (before, after, calls) = clean_run(&case);
        for at in 0..calls {
            for again in 0..3 {
                let (second, boot) = (chance.below(again * 6 + 1), chance.coin());
                let place = format!("cut at {at}, then at {second} of the recovery, boot {boot}");
                let mut rig = cut(&case, at, chance.coin(), Some(second), boot, &mut chance);
                old_or_new(&case, &mut rig, (&before, &after), &place);
            }
        }
    }
}

#[test]
fn a_revision_under_which_the_daemon_dies_twice_is_held() {
    let files = [START, ("files/etc/x", "x")];
    let mut rig = Case::new("dies", &[START], &files).rig();
    for (time, held) in [(1, false), (2, true)] {
        rig.fake.arm_on("swap", Fault::Cut { late: true });
        let store = rig.keep_store_at_cut();
        rig.deploy("2");
        rig.fake.revive();
        rig.reborn(&store);
        rig.engine.recover().unwrap();
        assert_eq!(rig.engine.state.held(&id("2")).unwrap().is_some(), held, "time {time}");
        assert!(!rig.picture().tree.contains_key("/etc/x"));
        let events = rig.events();
        let end: &[&str] = if held { &["recovered", "held"] } else { &["recovered"] };
        assert!(events.ends_with(&end.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>()), "{events:?}");
    }
    assert_eq!(rig.deploy("2").verdict, Verdict::Refused);
}

#[test]
fn any_part_of_the_steps_can_be_taken_back() {
    // Not only prefixes: whatever was done when the daemon died, the rule finds out by looking.
    let mut chance = Chance(3);
    for case in cases() {
        for _ in 0..20 {
            let mut rig = case.rig();
            let before = rig.picture();
            rig.fake.arm_on("sync", Fault::Cut { late: true });
            let store = rig.keep_store_at_cut();
            rig.deploy("2");
            rig.fake.revive();
            rig.reborn(&store);
            let Some(open) = rig.engine.state.open_transaction().unwrap() else { continue };
            assert_eq!(open.state, Phase::Planned);
            rig.engine.state.advance(open.id, crate::journal::Event::Act).unwrap();
            for (step, planned) in open.plan.steps.iter().enumerate() {
                if chance.coin() {
                    // What cannot be done without the steps before it was not done.
                    let _ = crate::apply::tests::make(&mut rig, open.id, step, &planned.change);
                }
            }
            rig.engine.recover().unwrap();
            assert!(!is_open(&rig), "{}: {:?}", case.name, rig.engine.state.open_transaction());
            rig.picture().must_be(&before, &case.name);
            rig.sound();
        }
    }
}

#[test]
fn a_mode_that_a_person_sets_stays() {
    let person: fn(&mut crate::host::fake::World) = |w| {
        let facts = crate::change::DirFacts { mode: 0o2775, uid: 0, gid: 33 };
        w.tree.insert("/etc/shop".to_owned(), crate::host::fake::Node::Dir(facts));
    };
    let manifest = "[[directory]]\npath = \"/etc/shop\"\nmode = \"0750\"\n";
    let case = Case::new("mode", &[START], &[START, ("reconciled.toml", manifest), ("files/srv/last", "z")]);
    let (_, _, calls) = clean_run(&case);
    for at in 1..calls {
        let mut rig = case.rig();
        rig.fake.arm(at, Fault::Edit(person));
        let report = rig.deploy("2");
        let expected = Fake::new();
        person(&mut expected.world());
        let theirs = expected.picture().tree.remove("/etc/shop");
        let place = format!("call {at}: {}\n{:?}", report.text(), rig.fake.world().log);
        let now = rig.picture().tree.remove("/etc/shop");
        assert!(now == theirs || report.verdict == Verdict::Live, "{now:?} {place}");
        assert_ne!(report.verdict, Verdict::Stuck, "{place}");
    }
}

/// Somebody edits a path right before any call.
#[test]
fn no_edit_is_overwritten_unseen() {
    const EDITED: &str = "/etc/shop/settings.ini";
    let edit: fn(&mut crate::host::fake::World) = |w| w.file(EDITED, "of a person");
    let files = [START, ("files/etc/a-first", "a"), ("files/etc/shop/settings.ini", "new"), ("files/srv/last", "z")];
    let case = Case::new("edit", &[START], &files);
    let (before, after, calls) = clean_run(&case);
    let (mut refused, mut stuck) = (0, 0);
    // From the moment on that the plan has looked; what stood there before that, it has seen.
    for at in 1..calls {
        let mut rig = case.rig();
        rig.fake.arm(at, Fault::Edit(edit));
        let report = rig.deploy("2");
        let place = format!("call {at}: {}\n{:?}", report.text(), rig.fake.world().log);
        assert_eq!(rig.fake.world().text(EDITED).as_deref(), Some("of a person"), "{place}");
        let (mut now, mut then) = (rig.picture(), if report.verdict == Verdict::Live { &after } else { &before }.clone());
        now.tree.remove(EDITED);
        then.tree.remove(EDITED);
        now.must_be(&then, &place);
        match report.verdict {
            // Edited after we had put ours there: drift, which the next look heals.
            Verdict::Live => {}
            // Met going forward: inverted and refused, with the path named; nothing is stuck, nothing is lost.
            Verdict::RolledBack => {
                refused += 1;
                assert!(report.reason.contains(EDITED) && report.reason.contains("changed under us"), "{place}");
            }
            Verdict::Stuck => stuck += 1,
            other => panic!("{other:?}: {place}"),
        }
    }
    assert!(refused > 2 && stuck == 0, "refused {refused}, stuck {stuck}");
}
