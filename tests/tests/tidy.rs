//! The rules of this source tree that no compiler checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Longest file, without its unit tests.
const MAX_LINES: usize = 600;
/// Where the daemon meets the bus and the clock: only here may its runtime be named (a trailing slash: the whole folder).
const DOORS: [&str; 15] = [
    "daemon.rs",
    "watch.rs",
    "bus.rs",
    "bus/",
    // The other end of the bus, for the hooks and the operator's tool.
    "client.rs",
    // The channels between the main thread and the engine's: orders go in, what is told and published comes out.
    "desk.rs",
    "tasks.rs",
    "host/linux.rs",
    "host/linux/",
    "ctl.rs",
    "ctl/",
    "worker.rs",
    "worker/",
    "probe.rs",
    "probe/",
];

/// What decides and reaches for nothing: same input, same answer.
const PURE: [&str; 24] = [
    "accounts.rs",
    "change.rs",
    "diagnose.rs",
    "diagnose/",
    "digest.rs",
    "facts.rs",
    "guard.rs",
    "journal.rs",
    "kind.rs",
    "kind/",
    "ledger.rs",
    "manifest.rs",
    "manifest/",
    "packages.rs",
    "path.rs",
    "plan.rs",
    "plan/",
    "policy.rs",
    "postgres.rs",
    "postgres/",
    "report.rs",
    "timespan.rs",
    "ufw.rs",
    "units.rs",
];
/// Files, processes, environment, clocks, threads, the log, and the libraries that lead to them.
const REACHES: [&str; 17] = [
    "std::fs",
    "fs::",
    "std::process",
    "Command::",
    "std::env",
    "env::var",
    "Instant",
    "SystemTime",
    "::now()",
    "thread::",
    "stdin()",
    "stdout()",
    "rustix::",
    "git2::",
    "rusqlite::",
    "tracing::",
    "host::linux",
];
/// Who may start a process: workers, the forced command of a key, and the operator's tool. The engine never does.
const STARTERS: [&str; 4] = ["worker.rs", "worker/", "push.rs", "ctl/"];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files below a folder whose names end so, relative to the top.
fn files(below: &str, endings: &[&str]) -> Vec<(String, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![top().join(below)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let entry = entry.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let kind = entry.file_type().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            if kind.is_dir() && !["target", ".git"].contains(&name.as_str()) {
                folders.push(path);
            } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let path = path.strip_prefix(top()).unwrap_or(&path).to_string_lossy().into_owned();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "nothing to check in {below}");
    found.sort();
    found
}

fn rust() -> Vec<(String, String)> {
    [files("daemon", &[".rs"]), files("tests", &[".rs"])].concat()
}

/// A file without its unit tests, which stand last.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| *line != "#[cfg(test)]")
}

fn none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

/// Every line with one of these words, as `file:line`.
fn lines_with(files: &[(String, String)], words: &[&str]) -> Vec<String> {
    let hit = |line: &str| words.iter().any(|word| line.contains(word));
    let of = |(path, text): &(String, String)| -> Vec<String> {
        text.lines()
            .enumerate()
            .filter(|(_, line)| hit(line))
            .map(|(n, line)| format!("{path}:{}: {}", n + 1, line.trim()))
            .collect()
    };
    files.iter().flat_map(of).collect()
}

#[test]
fn no_test_is_ignored() {
    none(&lines_with(&rust(), &[concat!("#[", "ignore")]), "a test that does not run proves nothing");
}

#[test]
fn nothing_is_left_for_later() {
    let all = files(".", &[".rs", ".toml", ".md", ".service", ".conf", "Makefile", "setup", "run", "testhost", "build-deb"]);
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("to", "do!("), concat!("unimple", "mented!(")];
    none(&lines_with(&all, &words), "finish it, or take it out");
}

#[test]
fn every_file_says_what_lives_in_it() {
    let silent = rust().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path);
    none(&silent.collect::<Vec<_>>(), "a file starts with a `//!` line");
}

#[test]
fn no_file_is_too_long() {
    let mut sizes: Vec<(usize, String)> = rust().iter().map(|(path, text)| (code(text).count(), path.clone())).collect();
    sizes.sort();
    let at = |percent: usize| sizes[(sizes.len() - 1) * percent / 100].0;
    println!(
        "{} files; lines without unit tests: half have {}, 95 of 100 have {}, the longest {}",
        sizes.len(),
        at(50),
        at(95),
        at(100)
    );
    let long = sizes.iter().filter(|(lines, _)| *lines > MAX_LINES).map(|(lines, path)| format!("{path}: {lines}"));
    none(&long.collect::<Vec<_>>(), "a file has at most 600 lines besides its unit tests");
}

/// Whether a file of the daemon is one of these, or in one of these folders (with a trailing slash).
fn is_among(path: &str, places: &[&str]) -> bool {
    let inside = path.strip_prefix("daemon/src/").unwrap_or(path);
    places.iter().any(|place| inside == *place || (place.ends_with('/') && inside.starts_with(place)))
}

/// The daemon's files that this is true of, without their unit tests and comments.
fn daemon_code(wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let is_test = |path: &str| path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("/fake");
    let uncommented =
        |text: &str| code(text).map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let ours = files("daemon/src", &[".rs"]).into_iter().filter(|(path, _)| !is_test(path) && wanted(path));
    let ours: Vec<_> = ours.map(|(path, text)| (path, uncommented(&text))).collect();
    assert!(!ours.is_empty(), "nothing to check");
    ours
}

#[test]
fn the_runtime_is_named_at_the_doors_only() {
    let inner = daemon_code(|path| !is_among(path, &DOORS));
    none(&lines_with(&inner, &["tokio::", "zbus::", "use tokio", "use zbus"]), "async stays outside the engine");
}

#[test]
fn what_decides_reaches_for_nothing() {
    let pure = daemon_code(|path| is_among(path, &PURE));
    none(&lines_with(&pure, &REACHES), "a pure module has neither files, processes, environment nor clock");
}

#[test]
fn processes_are_started_by_workers_and_tools_only() {
    let inner = daemon_code(|path| !is_among(path, &STARTERS));
    none(&lines_with(&inner, &["process::Command", "Command::new", "tokio::process"]), "the engine never forks");
}

/// A file of the project.
fn page(name: &str) -> String {
    fs::read_to_string(top().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Pages for people, by their path in the project.
fn pages() -> Vec<(String, String)> {
    let root: Vec<_> = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
        .into_iter()
        .map(|name| (name.to_owned(), page(name)))
        .collect();
    [root, files("docs", &[".md"])].concat()
}

#[test]
fn the_code_map_is_complete() {
    let map = page("ARCHITECTURE.md");
    let missing = daemon_code(|_| true).into_iter().filter_map(|(path, _)| {
        let name = path.strip_prefix("daemon/src/")?.to_owned();
        (!map.contains(&format!("`{name}`"))).then_some(name)
    });
    none(&missing.collect::<Vec<_>>(), "ARCHITECTURE.md says of every file of the daemon what lives there");
    let gone = map.split('`').filter(|word| word.ends_with(".rs") && !word.contains(' ')).filter(|word| {
        let is_there = |place: &str| top().join(place).join(word).exists();
        !is_there("daemon/src") && !is_there("")
    });
    none(&gone.map(str::to_owned).collect::<Vec<_>>(), "ARCHITECTURE.md names files that exist");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let dead = pages().into_iter().flat_map(|(path, text)| {
        let links: Vec<String> = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect();
        let beside = top().join(&path).parent().unwrap().to_owned();
        links.into_iter().filter_map(move |link| {
            let file = link.split('#').next().unwrap_or_default();
            let is_dead = !link.starts_with("http") && !file.is_empty() && !beside.join(file).exists();
            is_dead.then(|| format!("{path}: {link}"))
        })
    });
    none(&dead.collect::<Vec<_>>(), "a link leads to a file that exists");
}

/// All packages that are built for a platform, as `cargo metadata` tells of them.
fn packages(platform: &str) -> Vec<Value> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--locked", "--all-features", "--format-version", "1", "--filter-platform", platform]);
    let said = cargo.current_dir(top()).output().unwrap_or_else(|e| panic!("cargo metadata: {e}"));
    assert!(said.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&said.stderr));
    let told: Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|e| panic!("cargo metadata: {e}"));
    let built: Vec<&Value> = told["resolve"]["nodes"].as_array().into_iter().flatten().map(|node| &node["id"]).collect();
    let all = told["packages"].as_array().cloned().unwrap_or_default();
    let packages: Vec<Value> = all.into_iter().filter(|package| built.contains(&&package["id"])).collect();
    assert!(packages.len() > 50, "cargo metadata tells of {} packages only", packages.len());
    packages
}

/// What `cargo deny` would say of licences, names and sources: it takes longer to build than all else that reads the project. Known holes and
/// yanked versions it alone knows: `make advisories`.
#[test]
fn dependencies_are_what_deny_toml_allows() {
    let rules: toml::Table = page("deny.toml").parse().unwrap_or_else(|e| panic!("deny.toml: {e}"));
    let list = |section: &str, key: &str| rules[section][key].as_array().cloned().unwrap_or_default();
    let allowed: Vec<spdx::Licensee> =
        list("licenses", "allow").iter().filter_map(|name| spdx::Licensee::parse(name.as_str()?).ok()).collect();
    let denied: Vec<String> = list("bans", "deny").iter().filter_map(|ban| Some(ban.get("name")?.as_str()?.to_owned())).collect();
    assert_eq!((allowed.len(), denied.len()), (list("licenses", "allow").len(), list("bans", "deny").len()), "deny.toml is read");
    let is_allowed = |licence: &str| {
        let read = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX);
        read.is_ok_and(|expression| expression.evaluate(|wanted| allowed.iter().any(|licensee| licensee.satisfies(wanted))))
    };
    let platforms = list("graph", "targets");
    assert!(!platforms.is_empty(), "deny.toml names no platform");
    let mut sources = BTreeSet::new();
    for package in platforms.iter().flat_map(|platform| packages(platform.as_str().unwrap_or_default())) {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let (name, source) = (text("name"), text("source"));
        assert!(is_allowed(text("license")), "{name}: the licence {:?} is not among those of deny.toml", text("license"));
        assert!(!denied.iter().any(|ban| ban == name), "{name} is banned by deny.toml");
        let is_ours = source.is_empty() && name.starts_with("reconciled");
        if !is_ours {
            assert!(source.starts_with("registry+"), "{name} comes from {source:?}");
            sources.insert(source.to_owned());
        }
        let any =
            package["dependencies"].as_array().into_iter().flatten().find(|d| is_ours && d["req"] == "*" && d["path"].is_null());
        assert!(any.is_none(), "{name} takes any version: {any:?}");
    }
    assert_eq!(sources.len(), 1, "one registry, which is cargo's own: {sources:?}");
}
