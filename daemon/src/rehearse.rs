//! Guards against the future: the candidate configuration in a private view of the whole host. Never touches live paths.
//!
//! A verdict is the difference between the host as it is and as it will be: what a check finds in both is a note.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::change::{Change, Object};
use crate::digest::Digest;
use crate::guard::{GuardCall, Judgement, When};
use crate::host::{HostError, HostResult, Job, Look, Ran, Sandbox};
use crate::path::ManagedPath;
use crate::plan::{Plan, Step};
use crate::policy::{Approved, Right};
use crate::report::Progress;
use crate::worker::PROGRAM;

/// Limit of a whole rehearsal.
const LIMIT: Duration = Duration::from_secs(120);
/// In place of the words of a check that may quote any file of the host, for a key that may only preview.
const WITHHELD: &str = "it objects; its words may quote other files of this host and are only for keys that may deploy";
/// Pauses before asking again what may pass by itself.
const PAUSES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)];
/// Most output of all guards together, in bytes.
const OUTPUT: usize = 4 * 1024 * 1024;

/// A plan whose guards have passed. Only this module can make one.
#[derive(Debug)]
pub struct Rehearsed {
    plan: Plan,
}

impl Rehearsed {
    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Only what the rest of the plan stands on.
    #[must_use]
    pub fn foundation(&self) -> Self {
        Self { plan: self.plan.foundation() }
    }

    pub(crate) fn into_plan(self) -> Plan {
        self.plan
    }
}

/// Why a rehearsal did not pass.
#[derive(Debug, thiserror::Error)]
pub enum RehearseError {
    /// It could not be held.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A guard's verdict, in its own words.
    #[error("guard {guard}: {}", findings.join("\n"))]
    Rejected {
        /// Which guard.
        guard: String,
        /// What it found that was not so before.
        findings: Vec<String>,
        /// All of it may pass by itself: the candidate is not at fault.
        passing: bool,
    },
}

/// What the worker is asked to do; the contents of the files follow behind it on the pipe.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The plan's file part.
    pub changes: Vec<Change>,
    /// Contents in the order in which they follow, with their lengths in bytes.
    pub contents: Vec<(Digest, u64)>,
    /// The checks.
    pub guards: Vec<GuardCall>,
}

/// One check's result.
#[derive(Debug, Serialize, Deserialize)]
pub struct GuardRan {
    /// Which guard.
    pub name: String,
    /// Exit code; `None` when it was killed or could not be started.
    pub code: Option<i32>,
    /// Its program is not installed.
    #[serde(default)]
    pub missing: bool,
    /// Standard output and error.
    pub output: String,
}

impl GuardRan {
    /// As a process that ran, for the guard to judge.
    fn ran(&self) -> Ran {
        let result = if self.code.is_some() { "success" } else { "killed" };
        Ran { code: self.code, result: result.to_owned(), stdout: Vec::new(), stderr: self.output.clone().into_bytes() }
    }
}

/// Gives contents that did not come with the plan, by digest.
pub type Contents<'a> = &'a dyn Fn(&Digest) -> HostResult<Vec<u8>>;

/// Rehearses an approved plan; what the guards that let it pass said is added to `judgements`.
///
/// # Errors
/// A guard's rejection, or that the rehearsal could not be held.
pub fn rehearse(
    approved: Approved,
    host: &dyn Look,
    contents: Contents<'_>,
    judgements: &mut Vec<Judgement>,
    say: &mut dyn FnMut(Progress),
) -> Result<Rehearsed, RehearseError> {
    let mut passed =
        |guard: &GuardCall, text: String| judgements.push(Judgement { name: guard.name.clone(), passed: true, text });
    let right = approved.right();
    let mut plan = approved.into_plan();
    let may_run = right == Right::Deploy;
    let brings_programs = plan.steps.iter().filter_map(|s| s.change.path()).any(is_program_place);
    let mut asked = Vec::new();
    for guard in &plan.guards {
        match deferred(guard, may_run, brings_programs) {
            Some(why) => defer(guard, why, &mut passed, say),
            None => asked.push(guard.clone()),
        }
    }
    if asked.is_empty() {
        return Ok(Rehearsed { plan });
    }
    let future = run_patiently(&plan, &asked, host, contents, say)?;
    let mut failed: Vec<&GuardCall> = Vec::new();
    for guard in &asked {
        let ran = future.get(&guard.name).ok_or_else(|| HostError::Unfit(format!("guard {} gave no verdict", guard.name)))?;
        if ran.missing && plan.needs_foundation() {
            defer(guard, "deferred until its program is installed", &mut passed, say);
            continue;
        }
        if ran.missing {
            return Err(missing(guard));
        }
        if guard.passes(&ran.ran()) {
            let text = guard.shown();
            say(Progress::Good { text: format!("guard {}: {text}", guard.name) });
            passed(guard, text);
        } else {
            failed.push(guard);
        }
    }
    if failed.is_empty() {
        return Ok(Rehearsed { plan });
    }
    let failed: Vec<GuardCall> = failed.into_iter().cloned().collect();
    let present = run(&[], &failed, host, contents)?;
    for guard in &failed {
        let shown = |lines: Vec<String>| -> Vec<String> {
            if guard.discloses && !may_run {
                return vec![WITHHELD.to_owned()];
            }
            lines.iter().map(|line| plan.secrets.conceal(line)).collect()
        };
        let verdict = tolerated(guard, &future, &present);
        if verdict.as_ref().is_err_and(|new| new.iter().all(|line| plan.may_bring(line))) {
            defer(guard, "deferred, what it misses is still to come", &mut passed, say);
            continue;
        }
        let known = verdict.map_err(|new| RehearseError::Rejected {
            guard: guard.name.clone(),
            findings: shown(new).iter().map(|line| plan.manifest.with_sources(line)).collect(),
            passing: may_pass(guard, &future),
        })?;
        if let Some(unit) = reader(guard, &plan) {
            return Err(unreadable(guard, unit, shown(known), may_pass(guard, &future)));
        }
        let text = format!("as before this change: {}", shown(known.clone()).join("; "));
        say(Progress::Note { text: format!("guard {}: {text}", guard.name) });
        passed(guard, text);
        for call in plan.guards.iter_mut().filter(|g| g.name == guard.name) {
            call.known.clone_from(&known);
        }
    }
    Ok(Rehearsed { plan })
}

/// Why a guard cannot be asked in a rehearsal.
fn deferred(guard: &GuardCall, may_run: bool, brings_programs: bool) -> Option<&'static str> {
    if guard.when == When::InPlace {
        Some("deferred until the files are in place: the live service has to be asked")
    } else if !may_run && (guard.executes || brings_programs) {
        Some("deferred, it runs code of the candidate and this key may only preview")
    } else if !may_run && guard.reaches_out() {
        Some("deferred, it needs a right over the live host and this key may only preview")
    } else if guard.reaches_out() && brings_programs {
        Some("deferred until the files are in place: it needs a right over the live host, and this plan brings programs")
    } else {
        None
    }
}

fn defer(guard: &GuardCall, why: &str, passed: &mut dyn FnMut(&GuardCall, String), say: &mut dyn FnMut(Progress)) {
    say(Progress::Note { text: format!("guard {}: {why}", guard.name) });
    passed(guard, why.to_owned());
}

/// As `run`, again after a pause while all that keeps a check from passing may pass by itself.
fn run_patiently(
    plan: &Plan,
    asked: &[GuardCall],
    host: &dyn Look,
    contents: Contents<'_>,
    say: &mut dyn FnMut(Progress),
) -> Result<BTreeMap<String, GuardRan>, RehearseError> {
    let mut pauses = PAUSES.iter();
    loop {
        let future = run(&plan.steps, asked, host, &|d| own_or(plan, d, contents))?;
        let waits = asked.iter().find(|guard| may_pass(guard, &future));
        let (Some(guard), Some(pause)) = (waits, pauses.next()) else { return Ok(future) };
        let found = future.get(&guard.name).map(|ran| guard.findings(&ran.ran())).unwrap_or_default();
        let found: Vec<String> = found.iter().map(|line| plan.secrets.conceal(line)).collect();
        let text = format!("guard {}: {}: asking again in {} s", guard.name, found.join("; "), pause.as_secs());
        say(Progress::Note { text });
        host.pause(*pause);
    }
}

fn may_pass(guard: &GuardCall, ran: &BTreeMap<String, GuardRan>) -> bool {
    ran.get(&guard.name).is_some_and(|ran| guard.may_pass(&ran.ran()))
}

/// Places whose files any program may load or run: with one of them changed, every check runs code of the candidate.
fn is_program_place(path: &ManagedPath) -> bool {
    const PLACES: [&str; 7] = ["/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/etc/alternatives"];
    PLACES.iter().any(|place| path.as_path().starts_with(place))
        || path.as_str().starts_with("/etc/ld.so")
        || path.as_str() == "/etc/nsswitch.conf"
}

/// The unit that this plan wakes to read what the guard judges.
fn reader<'g>(guard: &'g GuardCall, plan: &Plan) -> Option<&'g str> {
    let unit = guard.wakes.as_deref()?;
    plan.wakes.iter().any(|wake| wake.unit() == Some(unit)).then_some(unit)
}

/// What was broken before is not this plan's fault; but a plan whose service cannot read it could not go live, nor be taken
/// back by the same service.
fn unreadable(guard: &GuardCall, unit: &str, known: Vec<String>, passing: bool) -> RehearseError {
    let remedy = format!("it was so before this change, but {unit} has to read it: mend it in the same commit, or by hand");
    let findings = known.into_iter().chain([remedy]).collect();
    RehearseError::Rejected { guard: guard.name.clone(), findings, passing }
}

fn own_or(plan: &Plan, digest: &Digest, stored: Contents<'_>) -> HostResult<Vec<u8>> {
    plan.manifest.contents.get(digest).map_or_else(|| stored(digest), |content| Ok(content.clone()))
}

fn missing(guard: &GuardCall) -> RehearseError {
    let program = guard.argv.first().cloned().unwrap_or_default();
    let name = guard.package.clone().unwrap_or(program);
    let remedy = format!("{name} is not installed and no package installs it: install it first (apt-get install {name})");
    RehearseError::Rejected { guard: guard.name.clone(), findings: vec![remedy], passing: false }
}

/// What a guard finds in the future is let pass when the present has all of it too; otherwise what is new, in the order in
/// which the check said it: a caret stands below what it points at.
fn tolerated(
    guard: &GuardCall,
    future: &BTreeMap<String, GuardRan>,
    present: &BTreeMap<String, GuardRan>,
) -> Result<Vec<String>, Vec<String>> {
    let lines = |ran: Option<&GuardRan>| ran.map(|r| guard.findings(&r.ran())).unwrap_or_default();
    let after = lines(future.get(&guard.name));
    let before: BTreeSet<String> = lines(present.get(&guard.name)).into_iter().collect();
    let was_failing = present.get(&guard.name).is_some_and(|r| !guard.passes(&r.ran()));
    let new: Vec<String> = after.iter().filter(|line| !before.contains(*line)).take(40).cloned().collect();
    match (new.is_empty(), was_failing && !after.is_empty()) {
        (true, true) => Ok(after),
        (true, false) => Err(vec!["the check failed and said nothing new".to_owned()]),
        (false, _) => Err(new),
    }
}

fn run(
    steps: &[Step],
    guards: &[GuardCall],
    host: &dyn Look,
    contents: Contents<'_>,
) -> Result<BTreeMap<String, GuardRan>, RehearseError> {
    let job = Job {
        purpose: "rehearsal",
        // A process namespace of its own: no way to other processes, nor through /proc/PID/root to the live tree.
        argv: ["/usr/bin/unshare", "--pid", "--fork", "--kill-child", "--", PROGRAM, "worker", "rehearse"]
            .map(str::to_owned)
            .to_vec(),
        input: request(steps, guards, contents)?,
        sandbox: Sandbox::Rehearsal,
        limit: LIMIT,
        output_limit: OUTPUT,
        keeps_tail: false,
    };
    let ran = host.run(&job, &mut |_| true)?;
    if !ran.ok() {
        let said = String::from_utf8_lossy(&ran.stderr);
        let said = crate::path::escape(said.trim());
        return Err(HostError::Unfit(format!("the rehearsal could not be held ({}, {:?}): {said}", ran.result, ran.code)).into());
    }
    let mut verdicts = BTreeMap::new();
    for line in String::from_utf8_lossy(&ran.stdout).lines() {
        let verdict: GuardRan =
            serde_json::from_str(line).map_err(|e| HostError::Unfit(format!("the rehearsal answered nonsense: {e}")))?;
        verdicts.insert(verdict.name.clone(), verdict);
    }
    Ok(verdicts)
}

fn request(steps: &[Step], guards: &[GuardCall], contents: Contents<'_>) -> HostResult<Vec<u8>> {
    let changes: Vec<Change> = steps.iter().map(|s| s.change.clone()).filter(|c| c.path().is_some()).collect();
    let mut bodies = BTreeMap::new();
    for change in &changes {
        if let Change::Entry { after: Object::File(facts), .. } = change {
            bodies.insert(facts.digest, contents(&facts.digest)?);
        }
    }
    let list = bodies.iter().map(|(digest, body)| (*digest, body.len() as u64)).collect();
    let mut guards = guards.to_vec();
    // Code of the candidate could change what the checks after it run: it comes last.
    guards.sort_by_key(|guard| (!guard.reaches_out(), guard.executes));
    let request = Request { changes, contents: list, guards };
    let mut input = serde_json::to_vec(&request).map_err(|e| HostError::Unfit(format!("the rehearsal cannot be asked: {e}")))?;
    input.push(b'\n');
    bodies.values().for_each(|body| input.extend_from_slice(body));
    Ok(input)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{GuardCall, GuardRan, When, tolerated};

    fn guard() -> GuardCall {
        GuardCall {
            name: "g".to_owned(),
            argv: vec!["/bin/g".to_owned()],
            when: When::Both,
            user: None,
            noise: Vec::new(),
            transient: Vec::new(),
            quiet: false,
            package: None,
            executes: false,
            discloses: false,
            sockets: Vec::new(),
            capabilities: Vec::new(),
            known: Vec::new(),
            wakes: None,
        }
    }

    fn ran(code: i32, output: &str) -> BTreeMap<String, GuardRan> {
        let ran = GuardRan { name: "g".to_owned(), code: Some(code), missing: false, output: output.to_owned() };
        BTreeMap::from([("g".to_owned(), ran)])
    }

    fn judged(future: &str, present: (i32, &str)) -> Result<Vec<String>, Vec<String>> {
        tolerated(&guard(), &ran(1, future), &ran(present.0, present.1))
    }

    #[test]
    fn a_verdict_is_the_difference_in_the_order_of_the_check() {
        let said = "z: syntax error\na line of it\n ^";
        assert_eq!(judged(said, (0, "")), Err(said.lines().map(str::to_owned).collect()));
        assert_eq!(judged("old\nz: new", (1, "old")), Err(vec!["z: new".to_owned()]));
        assert_eq!(judged("old", (1, "old")), Ok(vec!["old".to_owned()]));
        assert_eq!(judged("old", (0, "old")), Err(vec!["the check failed and said nothing new".to_owned()]));
    }
}
