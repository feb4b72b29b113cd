//! What programs do, in whole pushes: environments and who runs from them, commands with and without a question.

use super::{Rig, id};
use crate::accounts::PASSWD;
use crate::cycle::Order;
use crate::host::fake::{Fake, Fault, errno};
use crate::policy::PastIrreversible;
use crate::report::Verdict;

const UNIT: &str = "/etc/systemd/system/gunicorn.service";
const PROBE: &str = "[[probe]]\nname = \"site\"\nattempts = 1\nhttp = { url = \"http://127.0.0.1/\" }\n";

fn venv(packages: &str) -> String {
    format!("[[venv]]\npath = \"/home/ana/env\"\npackages = [{packages}]\n{PROBE}")
}

/// A host on which a service runs from an environment that is live.
fn served() -> Rig {
    let fake = Fake::new();
    fake.world().file(UNIT, "[Service]\nUser=ana\nExecStart=/home/ana/env/bin/gunicorn site.wsgi\n");
    fake.world().running("gunicorn.service", UNIT, &["/home/ana/env"]);
    let mut rig = Rig::new(fake);
    rig.commit("1", None, &[("reconciled.toml", &venv("\"gunicorn==1\""))]);
    rig.live("1");
    rig
}

impl Rig {
    fn restarts(&self) -> usize {
        self.fake.world().log.iter().filter(|call| *call == "restart gunicorn.service").count()
    }
}

#[test]
fn who_runs_from_an_environment_is_restarted_when_it_is_built_anew() {
    let mut rig = served();
    let first = rig.restarts();
    rig.commit("2", Some("1"), &[("reconciled.toml", &venv("\"gunicorn==2\""))]);
    rig.live("2");
    assert!(rig.heard("! restart gunicorn.service (its virtual environment /home/ana/env changed)"), "{:?}", rig.said);
    assert_eq!(rig.restarts(), first + 1);
    // What cannot be built leaves everything as it was, and nobody is woken for it.
    let before = rig.picture();
    rig.commit("3", Some("2"), &[("reconciled.toml", &venv("\"no-such==1\""))]);
    let report = rig.deploy("3");
    assert_eq!(report.verdict, Verdict::RolledBack, "{}", report.text());
    assert!(report.reason.contains("venv:/home/ana/env: exit code 1\nno-such: no distribution found"), "{}", report.reason);
    assert_eq!(rig.restarts(), first + 1);
    rig.picture().must_be(&before, "after a build that failed");
    // What was built and is red goes back, and so does the process.
    rig.commit("4", Some("2"), &[("reconciled.toml", &venv("\"gunicorn==4\""))]);
    rig.fake.world().red.insert("site".to_owned());
    assert_eq!(rig.deploy("4").verdict, Verdict::RolledBack);
    assert_eq!(rig.restarts(), first + 3);
    rig.fake.world().red.clear();
    // A damaged one is healed.
    rig.fake.world().file("/home/ana/env/.reconciled", "damaged: lib/x.py is missing");
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
    assert_eq!(rig.restarts(), first + 4);
    assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
}

#[test]
fn a_command_without_a_question_runs_once_and_when_it_or_what_it_watches_changes() {
    let count = |more: &str| format!("[[command]]\nname = \"count\"\nforward = [\"/usr/bin/python3\", \"count\"]\n{more}{PROBE}");
    let counted = |rig: &Rig| rig.fake.world().text("/srv/counted").unwrap_or_default().len();
    let mut rig = Rig::new(Fake::new());
    let push = |rig: &Rig, number: u32, text: &str, file: &str| {
        let parent = (number > 1).then(|| (number - 1).to_string());
        rig.commit(&number.to_string(), parent.as_deref(), &[("reconciled.toml", text), ("files/srv/static/a.css", file)]);
    };
    let watching = count("watch = [\"/srv/static/**\"]\nbackward = [\"/usr/bin/python3\", \"uncount\"]\n");
    for (number, text, file, times) in [
        (1, count(""), "a", 1),
        (2, count(""), "b", 1),
        (3, watching.clone(), "b", 2),
        (4, watching.clone(), "c", 3),
        (5, watching.clone(), "c", 3),
    ] {
        push(&rig, number, &text, file);
        rig.live(&number.to_string());
        assert_eq!(counted(&rig), times, "push {number}");
        assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
    }
    // So it does when a file of it leaves the repository.
    rig.commit(
        "5a",
        Some("5"),
        &[("reconciled.toml", &watching), ("files/srv/static/a.css", "c"), ("files/srv/static/b.css", "b")],
    );
    rig.commit("5b", Some("5a"), &[("reconciled.toml", &watching), ("files/srv/static/a.css", "c")]);
    rig.live("5a").live("5b");
    assert_eq!(counted(&rig), 5);
    // Drift of what it watches has it run too, and a rollback takes it back.
    rig.fake.world().file("/srv/static/a.css", "edited by hand");
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
    assert_eq!(counted(&rig), 6);
    rig.commit("6", Some("5b"), &[("reconciled.toml", &watching), ("files/srv/static/a.css", "d")]);
    rig.fake.world().red.insert("site".to_owned());
    assert_eq!(rig.deploy("6").verdict, Verdict::RolledBack);
    assert_eq!(counted(&rig), 6);
    assert!(!rig.heard("nothing takes it back"));
}

#[test]
fn what_nothing_takes_back_is_said_before_and_after() {
    let migrate = |forward: &str| {
        format!(
            "[[command]]\nname = \"migrate\"\nforward = [\"/usr/bin/python3\", {forward}]\nask = [\"/usr/bin/python3\", \"migrate\", \"--check\"]\n{PROBE}"
        )
    };
    let mut rig = Rig::new(Fake::new());
    rig.commit("1", None, &[("files/etc/x", "x")]).commit(
        "2",
        Some("1"),
        &[("reconciled.toml", &migrate("\"migrate\"")), ("files/etc/x", "y")],
    );
    rig.live("1");
    rig.fake.world().red.insert("site".to_owned());
    assert_eq!(rig.deploy("2").verdict, Verdict::RolledBack);
    assert!(rig.heard("~ command:migrate (to do: /usr/bin/python3 migrate) [undo: none]"), "{:?}", rig.said);
    assert!(rig.heard("command:migrate: done, and nothing takes it back"), "{:?}", rig.said);
    assert_eq!(rig.fake.world().text("/etc/x").as_deref(), Some("x"));
    // It is done already: the next one has nothing to do.
    rig.fake.world().red.clear();
    rig.engine.state.unhold(&id("2")).unwrap();
    rig.live("2");
    assert!(!rig.heard("command:migrate"), "{:?}", rig.said);
    // One that fails takes all back, with its last words.
    rig.fake.world().tree.remove("/srv/migrated");
    rig.commit("3", Some("2"), &[("reconciled.toml", &migrate("\"fail\"")), ("files/etc/x", "z")]);
    let report = rig.deploy("3");
    assert_eq!(report.verdict, Verdict::RolledBack);
    assert!(report.reason.contains("command:migrate: exit code 1\nit went wrong"), "{}", report.reason);
    assert!(rig.heard("command:migrate: has begun and failed: what it did until then stays"), "{:?}", rig.said);
    assert_eq!(rig.fake.world().text("/etc/x").as_deref(), Some("y"));
}

#[test]
fn who_goes_back_past_it_is_told_or_refused() {
    let migrate = "[[command]]\nname = \"migrate\"\nforward = [\"/usr/bin/python3\", \"migrate\"]\nask = [\"/usr/bin/python3\", \"migrate\", \"--check\"]\n";
    let mut rig = Rig::new(Fake::new());
    rig.commit("1", None, &[("files/etc/x", "x")]);
    rig.commit("2", Some("1"), &[("reconciled.toml", migrate), ("files/etc/x", "y")]);
    rig.live("1").live("2");
    for (setting, verdict, said) in [
        (
            PastIrreversible::Refuse,
            Verdict::Refused,
            "generation 1 is older than command:migrate (generation 2), which nothing takes back: mend it",
        ),
        (PastIrreversible::Warn, Verdict::Live, "which nothing takes back: what it runs has to live with that"),
    ] {
        rig.engine.past_irreversible = setting;
        let report = rig.run(&Order::Rollback { generation: 1, actor: "root".to_owned() });
        assert_eq!(report.verdict, verdict, "{}", report.text());
        assert!(rig.heard(said) || report.reason.contains(said), "{:?} {}", rig.said, report.reason);
    }
    // Nothing was done since then.
    rig.run(&Order::Rollback { generation: 3, actor: "root".to_owned() });
    assert!(!rig.heard("which nothing takes back"), "{:?}", rig.said);
}

#[test]
fn what_watches_files_runs_again_for_those_that_come_back() {
    let counts = format!(
        "[[command]]\nname = \"count\"\nforward = [\"/usr/bin/python3\", \"count\"]\nwatch = [\"/srv/static/**\"]\n{PROBE}"
    );
    let counted = |rig: &Rig| rig.fake.world().text("/srv/counted").unwrap_or_default().len();
    let mut rig = Rig::new(Fake::new());
    for (number, parent, file) in [("1", None, "a"), ("2", Some("1"), "b")] {
        rig.commit(number, parent, &[("reconciled.toml", &counts), ("files/srv/static/a.css", file)]);
    }
    rig.live("1");
    rig.fake.world().red.insert("site".to_owned());
    assert_eq!(rig.deploy("2").verdict, Verdict::RolledBack);
    assert!(rig.heard("command:count (/srv/static/a.css changed: /usr/bin/python3 count) [undo: best effort]"), "{:?}", rig.said);
    assert!(rig.heard("command:count: run again for what is restored"), "{:?}", rig.said);
    assert!(!rig.heard("nothing takes it back"), "{:?}", rig.said);
    assert_eq!(counted(&rig), 3);
    // The first of its name has nothing to come back to.
    let mut rig = Rig::new(Fake::new());
    rig.commit("1", None, &[("files/etc/x", "x")]);
    rig.commit("2", Some("1"), &[("files/etc/x", "x"), ("reconciled.toml", &counts), ("files/srv/static/a.css", "a")]);
    rig.live("1");
    rig.fake.world().red.insert("site".to_owned());
    assert_eq!(rig.deploy("2").verdict, Verdict::RolledBack);
    assert_eq!(counted(&rig), 1);
}

#[test]
fn what_a_question_says_of_a_secret_is_not_repeated() {
    let asks = "[[command]]\nname = \"x\"\nask = [\"/usr/bin/python3\", \"leak\"]\nforward = [\"/usr/bin/python3\", \"count\"]\n\
                environment = { PW = { secret = \"db_password\" } }\n";
    let mut rig = Rig::new(Fake::new());
    rig.commit("1", None, &[("reconciled.toml", asks), ("secrets/db_password.age", "correct horse")]);
    let report = rig.deploy("1");
    assert_eq!(report.verdict, Verdict::Refused);
    assert!(report.reason.contains("command:x: what is there cannot be told"), "{}", report.reason);
    assert!(report.reason.contains("secret:db_password: what was said of it is not shown"), "{}", report.reason);
    assert!(!report.reason.contains("horse"), "{}", report.reason);
}

#[test]
fn drift_that_is_ignored_is_no_reason_to_leave_what_a_push_changes() {
    let counts = "[[command]]\nname = \"count\"\nforward = [\"/usr/bin/python3\", \"count\"]\nwatch = [\"/srv/static/**\"]\ndrift = \"ignore\"\n";
    let role = "[[postgres_role]]\nname = \"shop\"\npassword = { secret = \"db_password\" }\ndrift = \"ignore\"\n";
    let mut rig = Rig::new(Fake::new());
    for (number, parent, file, secret) in [("1", None, "a", "correct horse"), ("2", Some("1"), "b", "battery staple")] {
        let manifest = format!("{counts}{role}");
        let all = [("reconciled.toml", manifest.as_str()), ("files/srv/static/a.css", file), ("secrets/db_password.age", secret)];
        rig.commit(number, parent, &all);
    }
    rig.live("1").live("2");
    assert!(rig.heard("postgres_role:shop (password)"), "{:?}", rig.said);
    assert_eq!(rig.fake.world().text("/srv/counted").as_deref(), Some("||"));
}

#[test]
fn a_repair_that_fails_on_its_packages_waits_for_its_turn() {
    let manifest = format!("packages = [\"redis-server\"]\n{PROBE}");
    let mut rig = Rig::new(Fake::new());
    rig.commit("1", None, &[("reconciled.toml", &manifest), ("files/etc/x", "x")]);
    rig.live("1");
    rig.fake.world().tree.remove("/etc/x");
    rig.fake.world().file(crate::packages::STATUS, "");
    rig.fake.arm_on("swap /etc/x", Fault::Fail { late: false, sticky: false, error: || errno("worn disk", 5) });
    assert_eq!(rig.repair(false).verdict, Verdict::RolledBack);
    let report = rig.repair(false);
    assert_eq!(report.verdict, Verdict::Refused, "{}", report.text());
    assert!(report.reason.contains("this repair has failed before and waits for"), "{}", report.reason);
}

#[test]
fn data_is_dropped_when_all_else_is_known_to_stay() {
    let declared = format!("[[postgres_database]]\nname = \"shop\"\n{PROBE}");
    let dropped = declared.replace("\"shop\"\n", "\"shop\"\nstate = \"absent\"\ndrop_data = true\n");
    let mut rig = Rig::new(Fake::new());
    rig.commit("1", None, &[("reconciled.toml", &declared)]).commit("2", Some("1"), &[("reconciled.toml", &dropped)]);
    rig.live("1");
    let before = rig.picture();
    rig.fake.world().red.insert("site".to_owned());
    assert_eq!(rig.deploy("2").verdict, Verdict::RolledBack);
    rig.picture().must_be(&before, "after a probe that was red");
    assert!(!rig.heard("nothing takes it back"), "{:?}", rig.said);
    rig.fake.world().red.clear();
    rig.engine.state.unhold(&id("2")).unwrap();
    rig.live("2");
    assert!(rig.heard("postgres_database:shop"), "{:?}", rig.said);
    assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
}

#[test]
fn what_nobody_confirmed_goes_back_although_nothing_can_be_fetched() {
    for is_kept in [true, false] {
        let mut rig = served();
        rig.commit("2", Some("1"), &[("reconciled.toml", &venv("\"gunicorn==2\"")), ("files/etc/x", "x")]);
        rig.live("2");
        rig.fake.world().offline = true;
        if !is_kept {
            rig.fake.world().tree.retain(|path, _| !path.starts_with("/home/ana/.env.aside"));
        }
        let report = rig.run(&Order::Revert { back_to: Some(1), why: "not confirmed".to_owned() });
        assert_eq!(report.verdict, Verdict::Live, "{}", report.text());
        assert_eq!(rig.heard("going on: venv:/home/ana/env: exit code 1"), !is_kept, "{:?}", rig.said);
        assert_eq!(rig.fake.world().text("/etc/x"), None);
    }
}

#[test]
fn commands_wait_until_all_else_is_healed() {
    let migrate = "[[command]]\nname = \"migrate\"\nforward = [\"/usr/bin/python3\", \"migrate\"]\nask = [\"/usr/bin/python3\", \"migrate\", \"--check\"]\n";
    let mut rig = Rig::new(Fake::new());
    rig.commit("1", None, &[("reconciled.toml", migrate), ("files/etc/x", "x")]);
    rig.live("1");
    // Neither is as it should be: the file first, then the question is asked again.
    rig.fake.world().tree.remove("/srv/migrated");
    rig.fake.world().file("/etc/x", "edited");
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
    assert_eq!(rig.fake.world().text("/etc/x").as_deref(), Some("x"));
    assert!(rig.fake.world().tree.contains_key("/srv/migrated"));
    let repaired = rig.events().iter().filter(|event| *event == "drift-repaired").count();
    assert_eq!(repaired, 2, "{:?}", rig.events());
    assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
}

#[test]
fn an_account_that_is_gone_comes_back_with_what_is_in_its_home() {
    let mut rig = Rig::new(Fake::new());
    rig.commit("1", None, &[("reconciled.toml", "users = [\"sammy\"]\n"), ("files/home/sammy/x", "x")]);
    let without = rig.fake.world().text(PASSWD).unwrap();
    rig.live("1");
    rig.fake.world().file(PASSWD, &without);
    rig.fake.world().file("/home/sammy/x", "edited");
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
    assert_eq!(rig.fake.world().text("/home/sammy/x").as_deref(), Some("x"));
    assert!(!rig.heard("left as it is"), "it is seen once its owner is there: {:?}", rig.said);
}

#[test]
fn what_cannot_be_looked_at_is_not_let_go() {
    let role = "[[postgres_role]]\nname = \"shop\"\n";
    let mut rig = Rig::new(Fake::new());
    for (number, parent, file) in [("1", None, "x"), ("2", Some("1"), "y")] {
        rig.commit(number, parent, &[("reconciled.toml", role), ("files/etc/x", file)]);
    }
    rig.live("1");
    rig.fake.world().deaf = true;
    rig.live("2");
    assert!(rig.heard("left as it is, since it is declared as before"), "{:?}", rig.said);
    assert!(!rig.heard("let go"), "{:?}", rig.said);
    // So it is where nobody has confirmed.
    let report = rig.run(&Order::Revert { back_to: Some(1), why: "not confirmed".to_owned() });
    assert_eq!(report.verdict, Verdict::Live, "{}", report.text());
    assert!(rig.heard("left as it is") && !rig.heard("let go"), "{:?}", rig.said);
    rig.fake.world().deaf = false;
    assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
    assert!(rig.engine.state.ledger().unwrap().contains_key("postgres_role:shop"));
}
