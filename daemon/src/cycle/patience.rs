//! A push waits while packages are being installed or removed: that passes by itself, and is nobody's fault.

use std::time::Duration;

use super::{Engine, Order, Say, Stop};
use crate::plan::Intent;
use crate::report::Progress;

/// How long a push waits for dpkg: unattended upgrades of a small server take minutes.
const DPKG_LIMIT: Duration = Duration::from_secs(300);
/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(1);

impl Engine {
    /// Waits until no package is being installed or removed: maintainer scripts write the same files and restart the same units. Says
    /// whether it had to.
    pub(super) fn wait_for_dpkg(&self, order: &Order, say: Say<'_>) -> Result<bool, Stop> {
        let mut waited = Duration::ZERO;
        while let Some(holder) = self.host.dpkg_lock()? {
            let why = format!("dpkg is at work ({holder} holds its lock)");
            // Whoever is locked out cannot end dpkg: a mixture would be the lesser evil.
            if matches!(order, Order::Revert { .. }) && waited >= DPKG_LIMIT {
                return Ok(true);
            }
            // A repair comes again by itself.
            if order.intent() == Intent::Repair || waited >= DPKG_LIMIT || !(self.go_on)() {
                return Err(Stop::passing(format!("{why}: nothing was touched; try again when that is done")));
            }
            if waited.is_zero() {
                say(Progress::Note { text: format!("{why}: waiting for its end, at most {} s", DPKG_LIMIT.as_secs()) });
            }
            self.host.pause(LOOK);
            waited += LOOK;
        }
        Ok(!waited.is_zero())
    }
}
