//! The git side of a push: the forced command of a key, and the two hooks. They run as the repository's user and decide
//! nothing: the daemon does. What they print reaches the pusher's terminal.

mod pktline;

use std::io::{BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use git2::{Oid, Repository};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::client::{self, Followed};
use crate::lifeline::connection;
use crate::report::Verdict;
use crate::source::{Budget, MAIN, REPOSITORY};
use crate::worker::sandbox::confine;
use crate::worker::source::{SYSTEM_SETTINGS, check};
use pktline::Packets;

/// Who pushes: set by the forced command, seen by the hooks.
const KEY: &str = "RECONCILED_KEY";
/// What the key may do: `deploy` or `preview`.
const RIGHT: &str = "RECONCILED_RIGHT";
/// Where our hooks are.
const HOOKS: &str = "/usr/lib/reconciled/hooks";
/// Address space of each process of a push or fetch, in bytes.
const SESSION_MEMORY: u64 = 2 << 30;
/// The object id that stands for "no object" in the protocol.
const NONE: &str = "0000000000000000000000000000000000000000";

/// The forced command of a key: only fetch from and push to the one repository (`sshd(8)`, authorized_keys `command=`).
#[must_use]
pub fn serve(arguments: &[String]) -> ExitCode {
    let Some(key) = arguments.first() else { return refuse("which key?") };
    let right = if arguments.iter().any(|a| a == "--preview") { "preview" } else { "deploy" };
    let asked = std::env::var("SSH_ORIGINAL_COMMAND").unwrap_or_default();
    let Some(service) = wanted_service(&asked) else {
        return refuse("this account only takes `git push` and `git fetch` of host.git (the remote is reconciled@HOST:host.git)");
    };
    tell_of_connection(key);
    if !Path::new(REPOSITORY).join("HEAD").exists() {
        return refuse("there is no repository yet: run `sudo reconcilectl init` on the host");
    }
    let mut git = Command::new("/usr/bin/git");
    let protocol = std::env::var("GIT_PROTOCOL")
        .ok()
        .filter(|p| p.len() < 64 && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"=:-".contains(&b)));
    git.env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        // The account's own settings are for fetching.
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C.UTF-8")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs(protocol.map(|p| ("GIT_PROTOCOL", p)))
        .env(KEY, key)
        .env(RIGHT, right);
    for setting in [
        format!("core.hooksPath={HOOKS}"),
        "receive.procReceiveRefs=refs".to_owned(),
        "receive.fsckObjects=true".to_owned(),
        "receive.maxInputSize=268435456".to_owned(),
        "receive.autogc=true".to_owned(),
        // What was refused is not kept long.
        "gc.pruneExpire=1.day.ago".to_owned(),
        // With the limit on memory below: large objects are streamed, and how much is mapped does not grow with the host.
        "core.bigFileThreshold=16m".to_owned(),
        "core.packedGitWindowSize=64m".to_owned(),
        "core.packedGitLimit=256m".to_owned(),
        "pack.threads=2".to_owned(),
        "receive.advertisePushOptions=false".to_owned(),
        "uploadpack.allowFilter=false".to_owned(),
    ] {
        git.arg("-c").arg(setting);
    }
    // A pack of a few bytes can ask for any amount of memory; git and all that it starts inherit the limit.
    limit(Resource::As, SESSION_MEMORY);
    let error = git.arg(service).arg(REPOSITORY).exec();
    refuse(&format!("git cannot be run: {error}"))
}

/// That somebody came in over SSH may be what a change of a lifeline waits for. A daemon that does not answer is no reason to turn them away.
fn tell_of_connection(key: &str) {
    if let (Ok(ssh), Some(made_at)) = (std::env::var("SSH_CONNECTION"), connection::made_at()) {
        let made_at = u64::try_from(made_at.as_millis()).unwrap_or_default();
        let _ = client::ask(async |manager| manager.connected(key, &ssh, made_at).await.map(|()| String::new()));
    }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("reconciled: {why}");
    ExitCode::FAILURE
}

/// The git service that a client's command line asks for, if it is one of the two and about our repository.
fn wanted_service(command: &str) -> Option<&'static str> {
    let (service, path) = command.strip_prefix("git-").or_else(|| command.strip_prefix("git "))?.split_once(' ')?;
    let path = path.trim().trim_matches('\'');
    let path = path.strip_prefix("~/").or_else(|| path.strip_prefix("./")).unwrap_or(path);
    let ours = [REPOSITORY, "host.git", "/host.git", "host", "git/host.git"].contains(&path);
    let service = ["receive-pack", "upload-pack"].into_iter().find(|s| *s == service)?;
    ours.then_some(service)
}

/// `pre-receive`: the bouncer. The objects are in git's quarantine; what is over budget or malformed never leaves it.
#[must_use]
pub fn pre_receive() -> ExitCode {
    let mut input = String::new();
    let checked = std::io::stdin().read_to_string(&mut input).map_err(|e| e.to_string()).and_then(|_| check_all(&input));
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => refuse(&crate::path::escape(&why)),
    }
}

fn check_all(input: &str) -> Result<(), String> {
    limit_ourselves();
    confine(&[REPOSITORY, SYSTEM_SETTINGS], &[])?;
    let repository = Repository::open_bare(REPOSITORY).map_err(|e| e.message().to_owned())?;
    if let Ok(quarantine) = std::env::var("GIT_OBJECT_DIRECTORY") {
        let odb = repository.odb().map_err(|e| e.message().to_owned())?;
        odb.add_disk_alternate(&quarantine).map_err(|e| e.message().to_owned())?;
    }
    for line in input.lines() {
        let new = line.split(' ').nth(1).unwrap_or(NONE);
        if new == NONE {
            continue;
        }
        let id = Oid::from_str(new).map_err(|e| e.message().to_owned())?;
        // Tags and other things that are no commits are refused by name later.
        if repository.find_commit(id).is_ok() {
            check(&repository, id, Budget::STANDARD)?;
        }
    }
    Ok(())
}

/// Where a limit is lower already, that one holds.
fn limit(resource: Resource, most: u64) {
    let _ = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
}

/// A tree bomb must not take the host's memory or processor with it.
fn limit_ourselves() {
    limit(Resource::As, 1 << 30);
    limit(Resource::Cpu, 30);
}

/// `proc-receive` (githooks(5)): hands each ref to the daemon, prints what it is told, and answers with the verdict. It may
/// die at any time; the deploy goes on.
#[must_use]
pub fn proc_receive() -> ExitCode {
    let (stdin, stdout) = (std::io::stdin().lock(), std::io::stdout().lock());
    match talk(stdin, stdout, &mut submit) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => refuse(&why),
    }
}

/// One ref of a push. Where it stood is not asked: the daemon judges against the branch as it stands then.
struct Update {
    new: String,
    reference: String,
}

fn talk(
    input: impl BufRead,
    mut output: impl Write,
    decide: &mut dyn FnMut(&Update) -> Result<(), String>,
) -> Result<(), String> {
    let mut packets = Packets::new(input);
    let version = packets.next()?.ok_or("git said nothing")?;
    if !version.starts_with(b"version=1") {
        return Err("this git speaks another proc-receive protocol".to_owned());
    }
    while packets.next()?.is_some() {}
    let fail = |e: std::io::Error| e.to_string();
    pktline::write(&mut output, b"version=1").map_err(fail)?;
    pktline::flush(&mut output).map_err(fail)?;
    let mut updates = Vec::new();
    while let Some(packet) = packets.next()? {
        updates.push(parse_update(&packet)?);
    }
    for update in &updates {
        let answer = match decide(update) {
            Ok(()) => format!("ok {}", update.reference),
            Err(reason) => format!("ng {} {reason}", update.reference),
        };
        pktline::write(&mut output, answer.as_bytes()).map_err(fail)?;
    }
    pktline::flush(&mut output).map_err(fail)
}

fn parse_update(packet: &[u8]) -> Result<Update, String> {
    let text = std::str::from_utf8(packet).map_err(|_| "a ref name that is not UTF-8".to_owned())?;
    let mut words = text.trim_end_matches('\n').splitn(3, ' ');
    let mut word = || words.next().map(str::to_owned).ok_or("a ref update that is cut short".to_owned());
    word()?;
    Ok(Update { new: word()?, reference: word()? })
}

/// What a ref update means: `main` deploys, any other branch is a preview, everything else is refused.
fn submit(update: &Update) -> Result<(), String> {
    let Some(branch) = update.reference.strip_prefix("refs/heads/") else {
        return Err("only branches are taken: push to main, or to any other branch for a preview".to_owned());
    };
    if update.new == NONE {
        return Err(format!("{branch} is not deleted: what is live stays on record"));
    }
    let kind = if update.reference == MAIN { "deploy" } else { "preview" };
    let (key, right) = (std::env::var(KEY).unwrap_or_default(), std::env::var(RIGHT).unwrap_or_default());
    if kind == "preview" {
        eprintln!("{branch} is a preview: nothing will be applied (what goes live is main: git push REMOTE {branch}:main)");
    }
    let followed = client::follow(&mut |progress| eprintln!("{}", progress.text()), async |manager, pipe| {
        manager.submit(kind, &update.new, &key, &right, pipe).await
    });
    if let Followed::Report(report) = &followed
        && let Some(head) = &report.audit_head
    {
        eprintln!("audit head {head}");
    }
    match followed {
        Followed::Report(report) if report.verdict.is_good() => Ok(()),
        Followed::Report(report) => Err(verdict_line(report.verdict, &report.reason)),
        Followed::Lost => Err("the daemon went away; it finishes or undoes by itself: see reconcilectl status".to_owned()),
        Followed::Failed(why) => {
            eprintln!("error: {}", why.message);
            Err("the daemon cannot be reached".to_owned())
        }
    }
}

/// git shows it in brackets behind the ref, on one line.
fn verdict_line(verdict: Verdict, reason: &str) -> String {
    let word = match verdict {
        Verdict::RolledBack => "rolled back",
        Verdict::Stuck => "STUCK",
        Verdict::Superseded => "not tried",
        Verdict::Refused => "refused",
        _ => "failed",
    };
    let first = reason.lines().next().unwrap_or_default();
    let cut: String = first.chars().take(160).collect();
    format!("{word}: {cut}")
}

/// The verb that a program name stands for: git runs a hook by its path.
#[must_use]
pub fn hook_of(program: &str) -> Option<fn() -> ExitCode> {
    match Path::new(program).file_name()?.to_str()? {
        "pre-receive" => Some(pre_receive),
        "proc-receive" => Some(proc_receive),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
