//! Who may do what: a plan becomes `Approved`, or the reasons why not. Pure.

use crate::plan::{Intent, Plan};

/// What a key (or a local caller) may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Everything.
    Deploy,
    /// Plans and rehearsals only; no check that executes the candidate's code.
    Preview,
}

/// A plan that policy lets through. Only this module can make one.
#[derive(Debug)]
pub struct Approved {
    plan: Plan,
    right: Right,
}

impl Approved {
    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the asker may do.
    #[must_use]
    pub fn right(&self) -> Right {
        self.right
    }

    pub(crate) fn into_plan(self) -> Plan {
        self.plan
    }
}

/// Judges the asker, before anything is read: a key that may only preview decides nothing about `main`, not even what is
/// held or wanted.
///
/// # Errors
/// The reason against it.
pub fn admit(intent: Intent, right: Right, actor: &str) -> Result<(), String> {
    if right == Right::Preview && intent == Intent::Deploy {
        return Err(format!("the key {actor} may only preview: push to another branch than main"));
    }
    Ok(())
}

/// Judges a plan.
///
/// # Errors
/// All reasons against it.
pub fn judge(plan: Plan, right: Right, allow_empty: bool) -> Result<Approved, Vec<String>> {
    let mut reasons = Vec::from_iter(admit(plan.intent, right, &plan.actor).err());
    if matches!(plan.intent, Intent::Deploy | Intent::Preview)
        && plan.manifest.resources.is_empty()
        && !plan.released.is_empty()
        && !allow_empty
    {
        reasons.push(
            "this would remove everything that is managed here: set allow_empty = true in reconciled.toml if that is meant"
                .to_owned(),
        );
    }
    if reasons.is_empty() { Ok(Approved { plan, right }) } else { Err(reasons) }
}
