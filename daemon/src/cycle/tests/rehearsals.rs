//! Verdicts by difference: a commit answers for what it brings, not for what it finds.

use super::{Order, Rig, id};
use crate::guard::Guards;
use crate::host::fake::{Fake, Fault};
use crate::policy::Right;
use crate::report::Verdict;

const SITE: &str = "files/etc/nginx/conf.d/site.conf";
const CONF: &str = "files/etc/nginx/nginx.conf";

/// A host whose nginx is broken before anybody pushes anything.
fn broken() -> Rig {
    let fake = Fake::with_nginx();
    fake.world().file("/etc/nginx/nginx.conf", "broken since last year\n");
    Rig::new(fake)
}

#[test]
fn what_was_broken_before_is_named_as_such() {
    let mut rig = broken();
    rig.commit("1", None, &[(SITE, "fine")]);
    let report = rig.deploy("1");
    assert_eq!(report.verdict, Verdict::Refused);
    assert!(report.reason.contains("/etc/nginx/nginx.conf: broken since last year"), "{}", report.reason);
    assert!(report.reason.contains("it was so before this change, but nginx.service has to read it"), "{}", report.reason);
}

#[test]
fn what_is_new_is_refused_and_only_that_is_named() {
    let mut rig = broken();
    rig.commit("1", None, &[(SITE, "broken by me\n")]);
    let report = rig.deploy("1");
    assert_eq!(report.verdict, Verdict::Refused);
    assert_eq!(report.reason, "guard nginx: /etc/nginx/conf.d/site.conf: broken by me (files/etc/nginx/conf.d/site.conf)");
}

#[test]
fn what_mends_it_goes_through() {
    let mut rig = broken();
    rig.commit("1", None, &[(CONF, "mended"), (SITE, "fine")]);
    rig.live("1");
    assert!(rig.heard("ok    guard nginx"), "{:?}", rig.said);
}

#[test]
fn a_guard_whose_program_is_missing_says_what_to_install() {
    let mut rig = Rig::new(Fake::with_nginx());
    rig.fake.world().missing.insert("/usr/sbin/nginx".to_owned());
    rig.commit("1", None, &[(SITE, "fine")]);
    let report = rig.deploy("1");
    assert_eq!(report.verdict, Verdict::Refused);
    assert!(report.reason.contains("nginx is not installed and no package installs it"), "{}", report.reason);
}

#[test]
fn a_check_that_complains_with_exit_code_0_has_failed() {
    let mut rig = Rig::new(Fake::new());
    rig.commit("1", None, &[("files/etc/systemd/system/a.service", "[Service]\nUnknown=1\n")]);
    let report = rig.deploy("1");
    assert_eq!(report.verdict, Verdict::Refused);
    assert!(report.reason.contains("guard systemd: /etc/systemd/system/a.service: Unknown=1"), "{}", report.reason);
}

#[test]
fn the_guard_in_place_has_the_last_word_before_any_wake() {
    let mut rig = Rig::new(Fake::with_nginx());
    rig.commit("1", None, &[(SITE, "fine")]);
    let before = rig.picture();
    // Between the rehearsal and the apply somebody breaks another file.
    rig.fake.arm_on("sync parents", Fault::Edit(|w| w.file("/etc/nginx/nginx.conf", "broken meanwhile")));
    let report = rig.deploy("1");
    assert_eq!(report.verdict, Verdict::RolledBack);
    assert!(report.reason.contains("guard nginx failed in place: /etc/nginx/nginx.conf: broken meanwhile"), "{}", report.reason);
    let mut now = rig.picture();
    now.tree.extend(before.tree.get_key_value("/etc/nginx/nginx.conf").map(|(p, n)| (p.clone(), n.clone())));
    assert_eq!(now.tree, before.tree);
    let log = rig.fake.world().log.clone();
    let (guard, wake) = (log.iter().position(|c| c == "run guard"), log.iter().position(|c| c.starts_with("reload")));
    assert!(guard.is_some() && wake > guard, "{log:?}");
}

/// A host whose only guard finds what nginx's does, with these keys besides.
fn guarded(keys: &str) -> Rig {
    let mut rig = Rig::new(Fake::with_nginx());
    let text = format!("name = \"own\"\nglobs = [\"/etc/nginx/**\"]\ncheck = [\"/opt/own-nginx\"]\n{keys}");
    rig.engine.guards = Guards::new(vec![toml::from_str(&text).unwrap()]).unwrap();
    rig
}

#[test]
fn a_check_is_made_when_its_guard_says() {
    let ran = |rig: &Rig, what: &str| rig.fake.world().log.iter().any(|call| call == what);
    for (when, in_rehearsal, in_place) in [("both", true, true), ("rehearsal", true, false), ("in-place", false, true)] {
        let mut rig = guarded(&format!("when = \"{when}\""));
        rig.commit("1", None, &[(SITE, "fine")]);
        rig.live("1");
        assert_eq!((ran(&rig, "run rehearsal"), ran(&rig, "run guard")), (in_rehearsal, in_place), "{when}");
        assert_eq!(rig.heard("guard own: deferred until the files are in place"), !in_rehearsal, "{when}");
    }
    let mut rig = guarded("when = \"in-place\"\nwake = { unit = \"nginx.service\", action = \"reload\" }");
    rig.commit("1", None, &[(SITE, "broken")]);
    let before = rig.picture();
    let report = rig.deploy("1");
    assert_eq!(report.verdict, Verdict::RolledBack);
    assert!(report.reason.contains("guard own failed in place: /etc/nginx/conf.d/site.conf: broken"), "{}", report.reason);
    assert_eq!(rig.picture().tree, before.tree);
}

#[test]
fn what_a_check_may_quote_is_not_for_a_preview_key() {
    let mut rig = guarded("discloses = true");
    rig.commit("1", None, &[(SITE, "broken")]);
    let report = rig.preview("1", Right::Preview);
    assert_eq!(report.verdict, Verdict::Refused);
    assert!(report.reason.starts_with("guard own: it objects; its words"), "{}", report.reason);
    assert!(!report.text().contains("broken") && !rig.heard("broken"), "{:?}", rig.said);
    assert!(rig.preview("1", Right::Deploy).reason.contains("site.conf: broken"));
}

#[test]
fn a_right_over_the_live_host_is_for_no_code_of_the_candidate() {
    let keys = "capabilities = [\"CAP_NET_ADMIN\"]";
    let mut rig = guarded(keys);
    rig.commit("1", None, &[(SITE, "fine")]);
    rig.preview("1", Right::Preview);
    assert!(rig.heard("guard own: deferred, it needs a right over the live host"), "{:?}", rig.said);
    let mut rig = guarded(keys);
    rig.commit("1", None, &[(SITE, "fine"), ("files/usr/local/lib/x.so", "x")]);
    rig.live("1");
    assert!(rig.heard("guard own: deferred until the files are in place"), "{:?}", rig.said);
    assert!(!rig.fake.world().log.contains(&"run rehearsal".to_owned()), "{:?}", rig.fake.world().log);
}

#[test]
fn a_preview_key_runs_no_code_of_the_candidate() {
    let mut rig = Rig::new(Fake::with_nginx());
    rig.commit("1", None, &[(SITE, "broken")]);
    assert_eq!(rig.preview("1", Right::Preview).verdict, Verdict::Accepted);
    assert!(!rig.fake.world().log.contains(&"run rehearsal".to_owned()), "{:?}", rig.fake.world().log);
    let report = rig.run(&Order::Deploy { commit: id("1"), actor: "eve".to_owned(), right: Right::Preview });
    assert_eq!(report.reason, "policy: the key eve may only preview: push to another branch than main");
}

#[test]
fn a_secret_shows_nowhere() {
    let secret = "hunter2hunter2";
    let manifest = "[[file]]\npath = \"/etc/nginx/conf.d/site.conf\"\nsecret = true\nmode = \"0600\"\n";
    let mut rig = Rig::new(Fake::with_nginx());
    rig.commit("1", None, &[("reconciled.toml", manifest), (SITE, secret)]);
    rig.commit("2", Some("1"), &[("reconciled.toml", manifest), (SITE, &format!("{secret} broken"))]);
    rig.live("1");
    let mut shown = rig.said.join("\n");
    let report = rig.deploy("2");
    assert_eq!(report.verdict, Verdict::Refused);
    shown += &report.text();
    shown += &rig.said.join("\n");
    rig.engine.diff(None, "root", &mut |p| shown += &p.text()).unwrap();
    rig.fake.world().file("/etc/nginx/conf.d/site.conf", "by hand");
    rig.engine.diff(None, "root", &mut |p| shown += &p.text()).unwrap();
    shown += &std::fs::read_to_string(rig.dir.path().join("audit.jsonl")).unwrap();
    assert!(!shown.contains(secret), "{shown}");
}
