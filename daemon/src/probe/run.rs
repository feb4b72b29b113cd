//! Asking all probes of a generation: units, commands and databases from here, all else through the probe worker.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::verdict::{NETWORK_TEXT_LIMIT, SUPERUSER, Verdict, clean};
use super::{Course, Postgres, Probe, Question, Step};
use crate::host::{HostError, HostResult, Job, Look, Ran, Sandbox, Surroundings, UnitSeen};
use crate::timespan::TimeSpan;
use crate::worker::{PROGRAM, command};

/// Slack of the worker beyond the worst case of its probes: its start and end.
const WORKER_SLACK: Duration = Duration::from_secs(10);
/// Longest accepted line of the worker, in bytes.
const LINE_LIMIT: usize = 16 * 1024;
/// Longest accepted verdict text, in characters.
const TEXT_LIMIT: usize = 1024;
/// Output that a command probe may write, in bytes.
const COMMAND_OUTPUT_LIMIT: usize = 64 * 1024;
/// Longest pause without looking whether to go on.
const NAP: Duration = Duration::from_millis(200);
/// Where `psql` is looked for.
const FOLDERS: [&str; 2] = ["/usr/bin", "/bin"];
/// What is said of a probe that was not finished because somebody wanted to stop.
const INTERRUPTED: &str = "interrupted";

/// The secrets that probes may name, open.
pub type Passwords = BTreeMap<String, Vec<u8>>;

/// Runs all probes and says each verdict as it comes. The verdicts are in the order of `probes`. When `go_on` turns
/// false, probes without a verdict are failed as interrupted.
///
/// # Errors
/// The worker could not be run, or what it said is no answer. Red probes are verdicts, not errors.
pub fn run(
    host: &dyn Look,
    probes: &[Probe],
    passwords: &Passwords,
    say: &mut dyn FnMut(&Verdict),
    go_on: &dyn Fn() -> bool,
) -> HostResult<Vec<Verdict>> {
    let mut book = Book { probes, passwords, verdicts: vec![None; probes.len()], say };
    ask_here(host, &mut book, go_on);
    ask_worker(host, &mut book, go_on)?;
    Ok(book.close(INTERRUPTED))
}

/// Asks all probes once, without waiting for anything to become green: how things stand before a plan.
///
/// # Errors
/// As `run`.
pub fn baseline(host: &dyn Look, probes: &[Probe], passwords: &Passwords) -> HostResult<Vec<Verdict>> {
    let once = |probe: &Probe| Probe { attempts: 1, stable_for: TimeSpan::millis(0), ..probe.clone() };
    let probes: Vec<Probe> = probes.iter().map(once).collect();
    run(host, &probes, passwords, &mut |_| {}, &|| true)
}

/// The verdicts so far.
struct Book<'a> {
    probes: &'a [Probe],
    passwords: &'a Passwords,
    verdicts: Vec<Option<Verdict>>,
    say: &'a mut dyn FnMut(&Verdict),
}

impl Book<'_> {
    /// A probe's password.
    fn password(&self, probe: &Probe) -> Option<String> {
        let sealed = self.passwords.get(&probe.password()?.secret)?;
        crate::secrets::text(sealed).map(str::to_owned)
    }

    fn enter(&mut self, index: usize, verdict: Verdict) {
        (self.say)(&verdict);
        self.verdicts[index] = Some(verdict);
    }

    /// Fails what has no verdict yet.
    fn close(mut self, why: &str) -> Vec<Verdict> {
        for (index, probe) in self.probes.iter().enumerate() {
            if self.verdicts[index].is_none() {
                self.enter(index, Verdict::failed(probe, why));
            }
        }
        self.verdicts.into_iter().flatten().collect()
    }
}

/// A probe that is asked from here, and when it is next.
struct Local<'p> {
    index: usize,
    probe: &'p Probe,
    course: Course<'p>,
    due: Duration,
}

/// Asks units and commands in turn: while one pauses, another is asked.
fn ask_here(host: &dyn Look, book: &mut Book<'_>, go_on: &dyn Fn() -> bool) {
    let probes = book.probes;
    let began = Instant::now();
    let local = probes.iter().enumerate().filter(|(_, probe)| !probe.is_remote());
    let mut open: Vec<Local<'_>> =
        local.map(|(index, probe)| Local { index, probe, course: Course::new(probe), due: Duration::ZERO }).collect();
    while let Some(next) = (0..open.len()).min_by_key(|i| open[*i].due) {
        if !go_on() {
            return;
        }
        let asked = began.elapsed();
        if open[next].due > asked {
            host.pause(NAP.min(open[next].due - asked));
            continue;
        }
        let probe = open[next].probe;
        let answer = ask_once(host, probe, book.password(probe), go_on);
        let now = began.elapsed();
        if !go_on() {
            return;
        }
        match open[next].course.answer(now, now - asked, answer) {
            Step::Wait(pause) => open[next].due = now + pause,
            Step::Done(verdict) => book.enter(open.swap_remove(next).index, verdict),
        }
    }
}

fn ask_once(host: &dyn Look, probe: &Probe, password: Option<String>, go_on: &dyn Fn() -> bool) -> Result<String, String> {
    match probe.questions().next() {
        Some(Question::Unit(unit)) => match host.unit(unit) {
            Ok(seen) => judge_unit(&seen),
            Err(error) => Err(format!("wanted active, got no answer: {}", clean(&error.to_string(), NETWORK_TEXT_LIMIT))),
        },
        Some(Question::Command(argv)) => {
            let ran = host.run(&command_job(probe, argv), &mut |_| go_on());
            judge(probe, "exit code 0", ran).map(|()| "exit code 0".to_owned())
        }
        Some(Question::Postgres(postgres)) => {
            let ran = session_job(probe, postgres, password).and_then(|job| host.run(&job, &mut |_| go_on()));
            judge(probe, "an answer", ran.map(without_passfile)).map(|()| "an answer".to_owned())
        }
        _ => Err("there is nothing to ask".to_owned()),
    }
}

fn judge_unit(seen: &UnitSeen) -> Result<String, String> {
    // The detail is what systemd adds: of a failed unit the reason, otherwise the lower-level state.
    let detail = if seen.active == "failed" { &seen.result } else { &seen.sub };
    let got = match (seen.load.as_str(), detail.as_str()) {
        ("not-found", _) => "no such unit".to_owned(),
        (_, "") => seen.active.clone(),
        (_, detail) => format!("{} ({detail})", seen.active),
    };
    if seen.is_active() && seen.sub != "auto-restart" { Ok(got) } else { Err(format!("wanted active, got {got}")) }
}

fn command_job(probe: &Probe, argv: &[String]) -> Job {
    Job {
        purpose: "probe",
        argv: argv.to_vec(),
        input: Vec::new(),
        sandbox: Sandbox::Live { user: probe.user.clone(), surroundings: Surroundings::default() },
        limit: probe.timeout.0,
        output_limit: COMMAND_OUTPUT_LIMIT,
        keeps_tail: false,
    }
}

/// `psql`, with what it is to connect to in its environment, and the password in a file of no name.
fn session_job(probe: &Probe, postgres: &Postgres, password: Option<String>) -> HostResult<Job> {
    let argv = ["psql", "--no-psqlrc", "--no-password", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null", "--command"];
    let query = postgres.query.as_deref().unwrap_or("SELECT 1");
    // With a password any user would do; but who else runs as that user can read it.
    if password.iter().any(|password| password.contains(char::is_control)) {
        let name = probe.password().map(|password| crate::path::escape(&password.secret)).unwrap_or_default();
        let text = format!("the secret `{name}` is no password for PostgreSQL: it has more than one line; seal it anew");
        return Err(HostError::Unfit(text));
    }
    let who = probe.user.as_deref().unwrap_or(SUPERUSER);
    let environment = [
        ("PGDATABASE", Some(postgres.database.clone())),
        ("PGUSER", Some(postgres.role(probe.user.as_deref()).to_owned())),
        ("PGHOST", postgres.host.clone()),
        ("PGPORT", postgres.port.map(|port| port.to_string())),
        ("PGAPPNAME", Some("reconciled-probe".to_owned())),
        ("LC_MESSAGES", Some("C.UTF-8".to_owned())),
    ];
    let request = command::Request {
        defaults: BTreeMap::new(),
        argv: argv.iter().copied().chain([query]).map(str::to_owned).collect(),
        folders: FOLDERS.map(str::to_owned).into(),
        environment: environment.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
        files: password.map(|password| ("PGPASSFILE".to_owned(), for_any_server(&password))).into_iter().collect(),
    };
    let input = serde_json::to_vec(&request).map_err(|e| not_an_answer(e.to_string()))?;
    let argv = [PROGRAM, "worker", "command"].map(str::to_owned);
    let sandbox = Sandbox::Live { user: Some(who.to_owned()), surroundings: Surroundings::default() };
    Ok(Job { input, sandbox, ..command_job(probe, &argv) })
}

/// What libpq adds to a refusal, where the password came from, is no news.
fn without_passfile(mut ran: Ran) -> Ran {
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    let lines = said.lines().filter(|line| !line.starts_with("password retrieved from file "));
    ran.stderr = lines.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes();
    ran
}

/// A password file with one line, for whichever server it is (libpq, "The Password File").
fn for_any_server(password: &str) -> String {
    format!("*:*:*:*:{}\n", password.replace('\\', "\\\\").replace(':', "\\:"))
}

/// How a program ended that was to end well.
fn judge(probe: &Probe, wanted: &str, ran: HostResult<Ran>) -> Result<(), String> {
    let got = |got: &str| Err(format!("wanted {wanted}, got {got}"));
    match ran {
        Ok(ran) if ran.ok() => Ok(()),
        Ok(ran) if ran.result == "timeout" => got(&format!("no answer within {}", probe.timeout)),
        Ok(ran) => got(&format!("{}{}", how_it_ended(&ran), last_words(&ran))),
        Err(HostError::Timeout { .. }) => got(&format!("no answer within {}", probe.timeout)),
        Err(error) => got(&clean(&error.to_string(), NETWORK_TEXT_LIMIT)),
    }
}

fn how_it_ended(ran: &Ran) -> String {
    ran.code.map_or_else(|| clean(&ran.result, NETWORK_TEXT_LIMIT), |code| format!("exit code {code}"))
}

/// The last line that a program wrote, errors first: `: no response`.
fn last_words(ran: &Ran) -> String {
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(|line| clean(line, NETWORK_TEXT_LIMIT))
    };
    last(&ran.stderr).or_else(|| last(&ran.stdout)).map(|line| format!(": {line}")).unwrap_or_default()
}

/// Has the worker ask the others, all at the same time.
fn ask_worker(host: &dyn Look, book: &mut Book<'_>, go_on: &dyn Fn() -> bool) -> HostResult<()> {
    let remote: Vec<usize> = (0..book.probes.len()).filter(|i| book.probes[*i].is_remote()).collect();
    if remote.is_empty() || !go_on() {
        return Ok(());
    }
    let asked = remote.iter().map(|i| &book.probes[*i]);
    let request: Vec<_> = asked.map(|probe| Asked { probe, password: book.password(probe) }).collect();
    let job = worker_job(&request)?;
    let mut broken = None;
    let ran = host.run(&job, &mut |line| {
        if let Err(why) = take_line(line, &remote, book) {
            broken = Some(why);
            return false;
        }
        go_on()
    });
    if let Some(why) = broken {
        return Err(not_an_answer(why));
    }
    let missing: Vec<usize> = remote.into_iter().filter(|i| book.verdicts[*i].is_none()).collect();
    if missing.is_empty() || !go_on() {
        return Ok(());
    }
    let ran = ran?;
    let why = format!("the probe worker ended without an answer ({}{})", how_it_ended(&ran), last_words(&ran));
    for index in missing {
        book.enter(index, Verdict::failed(&book.probes[index], &why));
    }
    Ok(())
}

/// What the worker is asked for one probe.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked<P> {
    /// The probe.
    pub probe: P,
    /// The password that it names, open.
    pub password: Option<String>,
}

fn worker_job(request: &[Asked<&Probe>]) -> HostResult<Job> {
    let worst = request.iter().map(|asked| asked.probe.worst_case()).max().unwrap_or_default();
    let limit = worst.saturating_add(WORKER_SLACK);
    let ticks = usize::try_from(limit.as_millis() / crate::worker::probe::TICK.as_millis()).unwrap_or(usize::MAX);
    Ok(Job {
        purpose: "probe",
        argv: [PROGRAM, "worker", "probe"].map(str::to_owned).to_vec(),
        input: serde_json::to_vec(&request).map_err(|e| not_an_answer(e.to_string()))?,
        sandbox: Sandbox::Probe,
        limit,
        // A line for each verdict and an empty one for each sign of life.
        output_limit: request.len().saturating_mul(LINE_LIMIT).saturating_add(ticks),
        keeps_tail: false,
    })
}

/// Checks a line of the worker, which has read foreign bytes and may be in foreign hands: it can say that one of the
/// probes that it was asked for is green or red, once, in harmless words.
fn take_line(line: &str, remote: &[usize], book: &mut Book<'_>) -> Result<(), String> {
    if line.is_empty() {
        return Ok(());
    }
    if line.len() > LINE_LIMIT {
        return Err("a line is too long".to_owned());
    }
    let (place, said): (usize, Verdict) = serde_json::from_str(line).map_err(|e| clean(&e.to_string(), NETWORK_TEXT_LIMIT))?;
    let index = *remote.get(place).ok_or("a verdict on a probe that was not asked for")?;
    let probe = &book.probes[index];
    if said.name != probe.name || book.verdicts[index].is_some() || said.attempts > probe.attempts.max(1) {
        return Err("a verdict that does not fit what was asked".to_owned());
    }
    let verdict = Verdict { required: probe.required, text: clean(&said.text, TEXT_LIMIT), ..said };
    book.enter(index, verdict);
    Ok(())
}

fn not_an_answer(why: String) -> HostError {
    HostError::Io { what: "the probe worker's answer".to_owned(), source: io::Error::new(io::ErrorKind::InvalidData, why) }
}

#[cfg(test)]
mod tests;
