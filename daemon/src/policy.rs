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

/// Whether a rollback may go back past what nothing takes back, as a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PastIrreversible {
    /// It may, and says so.
    #[default]
    Warn,
    /// It may not.
    Refuse,
}

/// Judges a rollback by what was done since the generation that it goes back to (with the numbers of the generations), and nothing takes
/// back. The warning, if it may.
///
/// # Errors
/// The reason against it.
pub fn go_back(to: u64, stays: &[(String, u64)], setting: PastIrreversible) -> Result<Option<String>, String> {
    let Some((_, newest)) = stays.first() else { return Ok(None) };
    let words: Vec<String> = stays.iter().map(|(target, number)| format!("{target} (generation {number})")).collect();
    let what = format!("generation {to} is older than {}, which nothing takes back", words.join(", "));
    match setting {
        PastIrreversible::Warn => Ok(Some(format!("{what}: what it runs has to live with that"))),
        PastIrreversible::Refuse => Err(format!(
            "{what}: mend it with a commit on top of generation {newest}, or set rollback_past_irreversible = \"warn\" in the settings"
        )),
    }
}

/// A plan that policy lets through. Only this module can make one.
#[derive(Debug)]
pub struct Approved {
    plan: Plan,
    right: Right,
}

impl Approved {
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

#[cfg(test)]
mod tests {
    use super::{Right, judge};
    use crate::manifest::{Manifest, Origin, Resource};
    use crate::plan::{Intent, Plan};

    fn plan(intent: Intent, resources: usize, released: usize) -> Plan {
        let resource = Resource {
            kind: "file".to_owned(),
            name: "/etc/x".to_owned(),
            spec: serde_json::Value::Null,
            origin: Origin { file: String::new(), line: 0, column: 0 },
        };
        serde_json::from_value(serde_json::json!({
            "intent": intent, "actor": "eve", "commit": { "id": "", "summary": "", "author": "" },
            "manifest": Manifest { resources: vec![resource; resources], ..Manifest::default() },
            "steps": [], "wakes": [], "guards": [], "claimed": {}, "touched": [], "ailing": [], "notes": [],
            "released": vec!["entry:/etc/x"; released],
        }))
        .unwrap()
    }

    #[test]
    fn who_may_do_what() {
        use Intent::{Deploy, Preview, Repair, Rollback};
        for (intent, right, resources, released, allow_empty, denied) in [
            (Deploy, Right::Deploy, 1, 1, false, ""),
            (Deploy, Right::Preview, 1, 1, false, "eve may only preview"),
            (Preview, Right::Preview, 1, 1, false, ""),
            (Deploy, Right::Deploy, 0, 1, false, "allow_empty = true"),
            (Deploy, Right::Deploy, 0, 1, true, ""),
            (Deploy, Right::Deploy, 0, 0, false, ""),
            (Rollback, Right::Deploy, 0, 1, false, ""),
            (Preview, Right::Preview, 0, 1, false, "allow_empty = true"),
            (Repair, Right::Deploy, 0, 1, false, ""),
        ] {
            let said =
                judge(plan(intent, resources, released), right, allow_empty).map_or_else(|r| r.join("; "), |_| String::new());
            assert!(said.contains(denied) && said.is_empty() == denied.is_empty(), "{intent:?} {right:?} {resources}: {said}");
        }
        let both = judge(plan(Deploy, 0, 1), Right::Preview, false).unwrap_err();
        assert_eq!(both.len(), 2, "all reasons at once");
    }
}
