//! The shop: one nginx site whose answer says which revision serves it, from which worker process. What several files of
//! scenarios need to look at it.

pub mod look;

use std::path::Path;
use std::process::Command;

use reconciled_tests::{Host, Repo};
use serde_json::Value;

/// Where the site stands on the host.
pub const SITE: &str = "/etc/nginx/sites-enabled/shop";
/// The same in the repository.
pub const SITE_IN_GIT: &str = "files/etc/nginx/sites-enabled/shop";
/// nginx is to run, and the site has to answer.
pub const MANIFEST: &str = r#"
units = ["nginx.service"]

[[probe]]
name = "site"
http = { url = "http://127.0.0.1/", host = "shop", status = 200 }
attempts = 3
interval = "100ms"
"#;
/// A health check that stays red until somebody makes the file `/run/gate`: a push is in flight as long as a test wants.
pub const GATE: &str = r#"
[[probe]]
name = "gate"
command = ["/usr/bin/test", "-e", "/run/gate"]
attempts = 1000
interval = "50ms"
timeout = "1s"
"#;

/// A server whose body is this word and the process id of the worker that answered.
pub fn site(word: &str) -> String {
    format!(
        "server {{ listen 80; server_name shop; location / {{ default_type text/plain; return 200 \"{word} $pid\\n\"; }} }}\n"
    )
}

/// A server that passes `nginx -t` and answers 502: there is nobody behind it.
pub fn bad_gateway() -> String {
    "server { listen 80; server_name shop; location / { proxy_pass http://127.0.0.1:8099; } }\n".to_owned()
}

/// Writes the manifest and a site with this word.
pub fn write_shop(repo: &Repo, word: &str) {
    repo.write("reconciled.toml", MANIFEST).write(SITE_IN_GIT, site(word));
}

/// A work tree of a host where the shop is live with this word.
pub fn open_shop(host: &Host, word: &str) -> Repo {
    let repo = host.clone_repo();
    write_shop(&repo, word);
    repo.commit_and_push().assert_live();
    assert_eq!(served(host).0, word);
    repo
}

/// The word that is served now, and the worker that serves it.
#[track_caller]
pub fn served(host: &Host) -> (String, u32) {
    let answer = host.http("/", "shop");
    assert_eq!(answer.status, 200, "the shop answers: {}", answer.body);
    let Some((word, pid)) = answer.body.trim().split_once(' ') else { panic!("not the shop's answer: {}", answer.body) };
    (word.to_owned(), pid.parse().unwrap_or_else(|e| panic!("{e} in {}", answer.body)))
}

/// The process ids of nginx: its master's and its workers', with their start times in clock ticks since boot.
#[track_caller]
pub fn nginx(host: &Host) -> Vec<String> {
    let script =
        "m=$(systemctl show -P MainPID nginx); for p in $m $(pgrep -P $m); do echo $p $(cut -d' ' -f22 /proc/$p/stat); done";
    host.sh(script).ok().lines().map(str::to_owned).collect()
}

/// A text field of `reconcilectl status --json`; none where it is null.
#[track_caller]
pub fn status_of(host: &Host, key: &str) -> Option<String> {
    host.status()[key].as_str().map(str::to_owned)
}

/// The revision that is held.
#[track_caller]
pub fn held(host: &Host) -> Option<String> {
    host.status()["held"]["commit"].as_str().map(str::to_owned)
}

/// Insists that this revision is live, published as `main`, and nothing else of note.
#[track_caller]
pub fn assert_live(host: &Host, repo: &Repo, commit: &str) {
    assert_eq!(status_of(host, "live").as_deref(), Some(commit), "live");
    assert_eq!(repo.remote_main().as_deref(), Some(commit), "the branch");
}

/// Waits until the daemon says that it is in this phase.
#[track_caller]
pub fn wait_for_phase(host: &Host, phase: &str) {
    host.wait_until(&format!("phase {phase}"), || status_of(host, "phase").as_deref() == Some(phase));
}

/// The records of the audit log, oldest first.
#[track_caller]
pub fn audit(host: &Host) -> Vec<Value> {
    let text = host.read("/var/lib/reconciled/audit/audit.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"))).collect()
}

/// The library that tries everything, built on this machine.
pub fn library() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let to = folder.path().join("escape.so");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/shop/escape.c");
    let done =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).args([&to, &from]).output();
    let done = done.expect("a C compiler");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::read(to).expect("the library")
}
