//! What has drifted and is left so: because its declaration says that, or because somebody else brings it back each time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::seeing::Drifted;
use super::{Engine, Order};
use crate::audit::{Event, NewRecord};
use crate::kind::{Claim, Drift};
use crate::manifest::Resource;
use crate::plan::{Intent, Plan};

/// So many repairs of one thing…
const REPAIRS: usize = 3;
/// …within this time are a fight.
const FIGHT: Duration = Duration::from_secs(3600);

/// When each target was repaired.
#[derive(Debug, Default)]
pub struct Repairs(BTreeMap<String, Vec<Instant>>);

impl Repairs {
    /// Notes what a repair has brought back that nobody asked for.
    pub(super) fn note(&mut self, order: &Order, plan: &Plan) {
        if matches!(order, Order::Repair { insist: false, .. }) {
            for step in &plan.steps {
                self.0.entry(step.change.target()).or_default().push(Instant::now());
            }
        }
    }

    fn is_contested(&mut self, target: &str) -> bool {
        let Some(times) = self.0.get_mut(target) else { return false };
        times.retain(|time| time.elapsed() < FIGHT);
        times.len() >= REPAIRS
    }
}

/// What is left as it drifted: which resource, what differs, and why it is left.
pub(super) type Left = Vec<String>;

impl Engine {
    /// Takes the changes out of a resource's claims where its drift is not to be repaired now. They go on claiming their targets.
    pub(super) fn leave_drift(
        &mut self,
        resource: &Resource,
        claims: &mut [Claim],
        (intent, drifted, is_live): (Intent, Drifted, bool),
        left: &mut Left,
    ) {
        // The directories above it are everybody's who has something in them.
        let differs: Vec<&Claim> = claims.iter().filter(|claim| !claim.implied && !claim.change.is_noop()).collect();
        if differs.is_empty() {
            return;
        }
        let id = format!("{}:{}", resource.kind, resource.name);
        let why = match (Drift::of(resource), intent) {
            (Drift::Ignore, Intent::Repair) => None,
            // Another declaration than the live one is no drift: it goes live. Nor is what follows files of the push.
            (Drift::Ignore, _) if is_live && !differs.iter().any(|claim| claim.follows) => None,
            (Drift::Report, Intent::Repair) => Some("drift = \"report\"".to_owned()),
            (_, Intent::Repair)
                if drifted == Drifted::AsDeclared
                    && differs.iter().any(|claim| self.repairs.is_contested(&claim.change.target())) =>
            {
                Some(format!(
                    "CONTESTED: repaired {REPAIRS} times within an hour, and something else changes it back: stop that, or declare drift = \"ignore\"; reconcilectl sync repairs it once more"
                ))
            }
            _ => return,
        };
        if let Some(why) = why {
            let what: Vec<&str> = differs.iter().map(|claim| claim.reason.as_str()).collect();
            left.push(format!("{id} ({}): {why}", what.join(", ")));
        }
        for claim in claims.iter_mut().filter(|claim| !claim.implied) {
            claim.change.leave();
            claim.restart = None;
        }
    }

    /// Says what is left, once for as long as it is the same.
    pub(super) fn report_left(&mut self, left: Left) {
        if self.left == left {
            return;
        }
        if !left.is_empty() {
            let text = left.join("; ");
            tracing::warn!("left as it is: {text}");
            let mut record = NewRecord::new(Event::DriftFound, "drift");
            record.reason = Some(text);
            self.record(record);
        }
        self.left = left;
    }
}
