//! What was started has to show that it stays: judged is what the plan touched, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{ApplyError, Ground};
use crate::change::{Change, Wake};
use crate::host::{HostResult, Process, Touch, UnitSeen};
use crate::plan::Plan;

/// How long what was started has to stay up before it counts.
const SETTLE: Duration = Duration::from_secs(2);
/// How often the workers of a service are counted meanwhile.
const SETTLE_LOOKS: u32 = 8;
/// More workers than these, none of which stays, are more than a start that needs a second try.
const DEAD_WORKERS: usize = 3;

/// Waits for what was started to show whether it stays, then judges what the plan touched and nothing else.
pub(super) fn settle(plan: &Plan, ground: &mut Ground<'_>) -> Result<(), ApplyError> {
    if plan.touched.is_empty() {
        return Ok(());
    }
    let restarts = |touch: &dyn Touch, unit: &str| touch.unit(unit).map(|seen| seen.restarts);
    let before: Vec<u32> = plan.touched.iter().map(|u| restarts(ground.touch, u)).collect::<HostResult<_>>()?;
    let mut books: Vec<Workers> = plan.touched.iter().map(|_| Workers::default()).collect();
    if plan.has_to_settle() || plan.manifest.probes.is_empty() {
        for _ in 0..SETTLE_LOOKS {
            for (unit, book) in plan.touched.iter().zip(&mut books) {
                book.look(&ground.touch.workers(unit)?);
            }
            ground.touch.pause(SETTLE / SETTLE_LOOKS);
        }
    }
    for ((unit, before), book) in plan.touched.iter().zip(before).zip(&books) {
        let seen = ground.touch.unit(unit)?;
        let wanted = |change: &Change| matches!(change, Change::Unit { after, .. } if after.active == Some(true));
        let wanted_up = plan.claimed.get(&format!("unit:{unit}")).is_some_and(wanted);
        let woken = plan.wakes.iter().any(|wake| wake.unit() == Some(unit));
        // What is only disabled or masked is judged all the same if it was woken; what is stopped is not.
        let spared = plan
            .steps
            .iter()
            .any(|s| matches!(&s.change, Change::Unit { unit: u, after, .. } if u == unit && after.active != Some(true)))
            && !woken;
        let failing = seen.is_failing() || seen.restarts > before;
        let is_down = (failing && !spared) || ((wanted_up || woken) && seen.is_down());
        if is_down || book.die() {
            let mut text = if is_down {
                let was_reloaded = plan.wakes.iter().any(|wake| matches!(wake, Wake::Reload { unit: u, .. } if u == unit));
                format!("{unit} did not stay up: it is {} ({}), {}", seen.active, seen.sub, why_down(&seen, before, was_reloaded))
            } else {
                format!("{unit} is active, but its workers die: {} of them in {} s", book.known.len(), SETTLE.as_secs())
            };
            for line in ground.touch.journal(unit, 10).unwrap_or_default() {
                text.push_str(&format!("\n  {unit}: {line}"));
            }
            return Err(ApplyError::Judged(plan.secrets.conceal(&text)));
        }
    }
    Ok(())
}

/// What this plan does not touch and has to stay up still does. What failed by itself meanwhile is nobody's fault here; what was stopped, something
/// that was started has stopped (systemd.unit(5), `Conflicts=`).
pub(super) fn stand_by(plan: &Plan, ground: &mut Ground<'_>) -> Result<(), ApplyError> {
    let has_to_stay = plan.bystanders.iter().filter(|(_, has_to_stay)| **has_to_stay).map(|(unit, _)| unit.as_str());
    let names: Vec<&str> = has_to_stay.collect();
    let up = ground.touch.up_among(&names)?;
    for unit in names.into_iter().filter(|unit| !up.iter().any(|other| other == unit)) {
        let seen = ground.touch.unit(unit)?;
        if seen.active == "inactive" && seen.result == "success" {
            let text = format!(
                "{unit} was running and is not to be stopped, and is stopped now: a unit that this push starts conflicts with it, or it needs one that has stopped"
            );
            return Err(ApplyError::Judged(text));
        }
    }
    Ok(())
}

/// The workers of a service while it settles. A main process can live on and start one worker after the other, none of which
/// stays: the manager calls that active.
#[derive(Default)]
struct Workers {
    known: BTreeSet<(u32, u64)>,
    /// Those of each look, by pid and start.
    looks: Vec<BTreeSet<(u32, u64)>>,
}

impl Workers {
    fn look(&mut self, now: &[Process]) {
        let now: BTreeSet<(u32, u64)> = now.iter().map(|process| (process.pid, process.started)).collect();
        self.known.extend(&now);
        self.looks.push(now);
    }

    /// At each look there were others: none lives through half of the time, and there is no end of them.
    fn die(&self) -> bool {
        let half = self.looks.len() / 2;
        let stays =
            |worker: &(u32, u64)| self.looks.windows(half.max(1)).any(|some| some.iter().all(|look| look.contains(worker)));
        self.known.len() > DEAD_WORKERS
            && self.looks.iter().filter(|look| !look.is_empty()).count() > half
            && !self.known.iter().any(stays)
    }
}

fn why_down(seen: &UnitSeen, restarts: u32, was_reloaded: bool) -> String {
    if seen.restarts > restarts && seen.is_active() {
        return "but it had ended meanwhile, and systemd has started it again".to_owned();
    }
    if seen.active != "inactive" || seen.result != "success" {
        return format!("result {}", seen.result);
    }
    if !seen.condition {
        return "a condition in its unit file is not met".to_owned();
    }
    if was_reloaded {
        return "its reload ended it: what ExecReload= does has to leave it running".to_owned();
    }
    "it ran to its end: write RemainAfterExit=yes in its [Service] if that is what it does, or manage only `enabled`".to_owned()
}
