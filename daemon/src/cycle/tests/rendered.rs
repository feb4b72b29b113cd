//! Layers, variables, facts and secrets on their way from a revision to a host and back.

use super::Rig;
use crate::host::fake::{Fake, Fault, Node, errno};
use crate::report::Verdict;

const BASE: &str = "include = [\"roles/web\"]\n[vars]\nport = 80\n";
const TEMPLATE: &str = "{{ facts.hostname }} {{ facts.cpus }} {{ vars.port }}\n";

/// A host named web1 with revisions of layers and a template.
fn rig() -> Rig {
    let rig = Rig::new(Fake::with_nginx());
    rig.fake.world().facts.hostname = "web1".to_owned();
    rig.fake.world().facts.cpus = 2;
    let role = ("roles/web/files/etc/app.conf.j2", TEMPLATE);
    let plain = ("roles/web/files/etc/plain.conf", "plain\n");
    rig.commit("1", None, &[("reconciled.toml", BASE), role, plain]);
    rig.commit(
        "2",
        Some("1"),
        &[("reconciled.toml", BASE), role, plain, ("hosts/web1/reconciled.toml", "[vars]\nport = 8080\n")],
    );
    rig
}

fn written(rig: &Rig, path: &str) -> String {
    match rig.fake.world().tree.get(path) {
        Some(Node::File { content, .. }) => String::from_utf8_lossy(content).into_owned(),
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn what_is_rendered_is_what_is_kept() {
    let mut rig = rig();
    rig.live("1");
    assert_eq!(written(&rig, "/etc/app.conf"), "web1 2 80\n");
    assert_eq!(rig.engine.state.live().unwrap().unwrap().manifest.facts.map(|facts| facts.cpus), Some(2));
    assert_eq!(rig.deploy("1").verdict, Verdict::NothingToDo);
    rig.live("2");
    assert_eq!(written(&rig, "/etc/app.conf"), "web1 2 8080\n");
    assert!(rig.heard("~ file:/etc/app.conf") && !rig.heard("plain.conf"), "{:?}", rig.said);

    // Neither a repair nor a rollback asks for the facts again.
    rig.fake.world().tree.insert("/etc/app.conf".to_owned(), Node::file("drifted\n"));
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
    assert_eq!(written(&rig, "/etc/app.conf"), "web1 2 8080\n");
    rig.rollback(1);
    assert_eq!(written(&rig, "/etc/app.conf"), "web1 2 80\n");
}

#[test]
fn facts_that_change_make_a_generation_of_their_own() {
    let mut rig = rig();
    rig.live("1");
    rig.fake.world().facts.cpus = 16;
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
    assert_eq!(written(&rig, "/etc/app.conf"), "web1 16 80\n");
    let live = rig.engine.state.live().unwrap().unwrap();
    assert_eq!((live.number, live.actor.as_str(), live.manifest.facts.unwrap().cpus), (2, "facts", 16));
    assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
    // What nothing is made of changes nothing; what does not go live is tried once, and nobody is at fault.
    rig.fake.world().facts.memory_mb += 1;
    assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
    rig.fake.world().facts.cpus = 32;
    rig.fake.arm_on("swap", Fault::Fail { late: false, sticky: false, error: || errno("swap", 5) });
    assert_eq!(rig.repair(false).verdict, Verdict::RolledBack);
    assert_eq!(written(&rig, "/etc/app.conf"), "web1 16 80\n");
    assert!(rig.engine.state.held(&crate::cycle::tests::id("1")).unwrap().is_none());
    assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
    // Another name is for a push.
    rig.fake.world().facts.hostname = "elsewhere".to_owned();
    rig.fake.world().facts.cpus = 64;
    assert_eq!(rig.repair(false).verdict, Verdict::NothingToDo);
    assert_eq!(written(&rig, "/etc/app.conf"), "web1 16 80\n");
}

#[test]
fn a_host_is_known_by_its_setting() {
    let mut rig = rig();
    rig.engine.known_as = Some("other".to_owned());
    rig.live("1").live("2");
    assert_eq!(written(&rig, "/etc/app.conf"), "web1 2 80\n");
    assert!(rig.heard("hosts/ has no layer for this host, other (there are: web1)"), "{:?}", rig.said);
}

#[test]
fn what_is_made_with_a_secret_is_secret() {
    let mut rig = rig();
    let secret = ("secrets/key.age", "hunter2hunter2\n");
    rig.commit("3", None, &[secret, ("files/etc/app.conf.j2", "key = {{ secrets.key }}\n")]);
    rig.live("3");
    assert!(rig.heard("+ file:/etc/app.conf") && !rig.heard("hunter2"), "{:?}", rig.said);
    let log = std::fs::read_to_string(rig.dir.path().join("audit.jsonl")).unwrap();
    assert!(!log.contains("hunter2"), "{log}");
    let wanted = Node::File { content: b"key = hunter2hunter2\n".to_vec(), mode: 0o600, uid: 0, gid: 0, names: 1 };
    assert_eq!(rig.fake.world().tree.get("/etc/app.conf"), Some(&wanted));
    rig.fake.world().tree.insert("/etc/app.conf".to_owned(), Node::file("drifted\n"));
    assert_eq!(rig.repair(false).verdict, Verdict::Live);
    assert_eq!(rig.fake.world().tree.get("/etc/app.conf"), Some(&wanted));
}
