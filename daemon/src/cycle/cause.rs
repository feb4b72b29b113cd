//! Why a transaction failed: evidence is gathered while the failed state still stands, and told before anything is taken back.
//! A failure without findings is taken back all the same: whatever goes wrong here is logged, and limited in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Engine;
use crate::audit::Stamp;
use crate::diagnose::{self, Evidence, Facts, Finding, Request};
use crate::host::{HostError, HostResult, Job, LogEnd, Sandbox, UnitSeen};
use crate::path::ManagedPath;
use crate::plan::Plan;
use crate::probe::Verdict as Probed;
use crate::units;

/// How long evidence is gathered at most: the failed state is live all the while.
const LIMIT: Duration = Duration::from_secs(3);
/// Most that the worker may answer, in bytes.
const ANSWER_LIMIT: usize = 1 << 20;
/// Where Debian's nginx keeps its logs.
const LOGS: &str = "/var/log/nginx";
/// More names in there than so many are not looked at.
const MOST_LOGS: usize = 4096;
/// More units than so many are not asked for.
const MOST_UNITS: usize = 32;

/// How things stood before the first change: what is said after it is about it.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    since_ms: u64,
    logs: Option<Vec<LogEnd>>,
}

impl Engine {
    /// Notes how far logs and time have come.
    pub(super) fn mark(&self) -> Mark {
        let logs = ManagedPath::new(LOGS).map_err(HostError::Unfit).and_then(|logs| self.host.ends(&logs, MOST_LOGS));
        if let Err(error) = &logs {
            tracing::warn!("the logs of nginx will explain no failure, ignoring: {error}");
        }
        Mark { since_ms: Stamp::now().monotonic_ms, logs: logs.ok() }
    }

    /// What is the matter with a plan that failed, by what stands there now.
    pub(super) fn causes(&self, plan: &Plan, reason: &str, verdicts: &[Probed], mark: &Mark) -> Vec<Finding> {
        let red = |verdict: &&Probed| !verdict.passed && verdict.required;
        let told = |verdict: &Probed| {
            let probe = plan.manifest.probes.iter().find(|probe| probe.name == verdict.name)?;
            Some((probe.clone(), verdict.text.clone()))
        };
        let mut evidence = Evidence {
            reason: reason.to_owned(),
            red: verdicts.iter().filter(red).filter_map(told).collect(),
            probes: plan.manifest.probes.clone(),
            units: self.concerned(plan),
            facts: Facts::default(),
        };
        match self.gather(&evidence, mark) {
            Ok(facts) => evidence.facts = facts,
            Err(error) => tracing::warn!("evidence could not be gathered, ignoring: {error}"),
        }
        let mut findings = diagnose::findings(&evidence);
        findings.iter_mut().for_each(|finding| finding.text = plan.secrets.conceal(&finding.text));
        findings
    }

    /// The units that the plan touches or wakes, that are declared, that are probed, and what they start.
    fn concerned(&self, plan: &Plan) -> BTreeMap<String, UnitSeen> {
        let declared = plan.manifest.resources.iter().filter(|r| r.kind == "unit").map(|r| r.name.clone());
        let woken = plan.wakes.iter().filter_map(|wake| wake.unit()).map(str::to_owned);
        let probed = plan.manifest.probes.iter().filter_map(|probe| probe.unit.clone());
        let names: BTreeSet<String> =
            plan.touched.iter().cloned().chain(woken).chain(probed).chain(declared).take(MOST_UNITS).collect();
        let mut seen = BTreeMap::new();
        for name in names {
            // Each of them may take as long as it takes PID 1 not to answer: once is enough.
            let Ok(unit) = self.host.unit(&name) else { break };
            let started = unit.triggers.iter().filter(|_| units::is_trigger(&name)).cloned();
            let others: Vec<_> = started.filter_map(|other| Some((other.clone(), self.host.unit(&other).ok()?))).collect();
            seen.extend(others);
            seen.insert(name, unit);
        }
        seen
    }

    fn gather(&self, evidence: &Evidence, mark: &Mark) -> HostResult<Facts> {
        let sockets = evidence.probes.iter().filter_map(|probe| probe.http.as_ref()?.unix.clone());
        let request = Request {
            units: evidence.units.keys().cloned().collect(),
            paths: sockets.collect(),
            logs: mark.logs.clone(),
            since_ms: mark.since_ms,
        };
        let wrong = |error: serde_json::Error| HostError::Unfit(format!("the evidence worker: {error}"));
        let job = Job {
            purpose: "evidence",
            argv: [crate::worker::PROGRAM, "worker", "evidence"].map(str::to_owned).to_vec(),
            input: serde_json::to_vec(&request).map_err(wrong)?,
            sandbox: Sandbox::Evidence,
            limit: LIMIT,
            output_limit: ANSWER_LIMIT,
            keeps_tail: false,
        };
        let ran = self.host.run(&job, &mut |_| true)?;
        if !ran.ok() {
            let said = crate::probe::clean(&String::from_utf8_lossy(&ran.stderr), 200);
            return Err(HostError::Unfit(format!("the evidence worker failed ({}): {said}", ran.result)));
        }
        Facts::read(&ran.stdout).map_err(wrong)
    }
}
