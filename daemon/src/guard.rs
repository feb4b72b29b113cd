//! Guards are data: which changed paths need which check, and what makes the running service read them. Pure.

use globset::{GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use crate::change::Proof;
use crate::host::Ran;
use crate::path::{ManagedPath, escape};

/// A guard file (`/usr/lib/reconciled/guards/*.toml`, `/etc/reconciled/guards.d/*.toml`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// Its name in plans and records.
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub about: String,
    /// Changed paths that make it run.
    pub globs: Vec<String>,
    /// The check: program and arguments; `{units}` stands for the names of the changed units. Exit code 0 is a pass.
    pub check: Vec<String>,
    /// A check that passes says nothing: whatever it says is a finding, also with exit code 0.
    #[serde(default)]
    pub quiet: bool,
    /// The Debian package that brings the program.
    #[serde(default)]
    pub package: Option<String>,
    /// The check can run code of the candidate: it is deferred for keys that may only preview.
    #[serde(default)]
    pub executes: bool,
    /// Live sockets that the check has to reach from the rehearsal.
    #[serde(default)]
    pub sockets: Vec<String>,
    /// Capabilities that the check needs (capabilities(7)); it has no others.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// What makes the service read the change.
    #[serde(default)]
    pub wake: Option<GuardWake>,
}

/// What a guard's paths wake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardWake {
    /// Which unit.
    pub unit: String,
    /// How.
    pub action: WakeAction,
    /// How it is proven that the new configuration serves.
    #[serde(default)]
    pub proof: Option<Proof>,
}

/// Reload or restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WakeAction {
    /// `ExecReload=`.
    Reload,
    /// Stop and start.
    Restart,
}

/// A guard as one plan calls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardCall {
    /// The guard's name.
    pub name: String,
    /// Program and arguments, complete.
    pub argv: Vec<String>,
    /// See [`Guard::quiet`].
    #[serde(default)]
    pub quiet: bool,
    /// See [`Guard::package`].
    pub package: Option<String>,
    /// See [`Guard::executes`].
    pub executes: bool,
    /// See [`Guard::sockets`].
    pub sockets: Vec<String>,
    /// See [`Guard::capabilities`].
    pub capabilities: Vec<String>,
    /// The unit that has to read what this guard judges.
    #[serde(default)]
    pub wakes: Option<String>,
    /// Findings that the host has already without this plan: they are not this plan's fault.
    #[serde(default)]
    pub known: Vec<String>,
}

/// Capabilities that a guard may ask for; others would undo the rehearsal's privacy (capabilities(7)).
pub const CAPABILITIES: [&str; 7] =
    ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE"];

/// What a guard said of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Which guard.
    pub name: String,
    /// It has no objection.
    pub passed: bool,
    /// Its check, or what that found.
    pub text: String,
}

impl GuardCall {
    /// Whether a check passed: exit code 0, and silence where that is part of it.
    #[must_use]
    pub fn passes(&self, ran: &Ran) -> bool {
        ran.ok() && (!self.quiet || findings(ran).is_empty())
    }

    /// Whether a failed check found nothing but what was known before.
    #[must_use]
    pub fn tolerates(&self, ran: &Ran) -> bool {
        let found = findings(ran);
        !found.is_empty() && found.iter().all(|line| self.known.contains(line))
    }
}

/// What a check complained about: its lines, without the moment and the process that nginx and others put before them, so
/// that the same complaint is the same text each time; and without the verdict that nginx adds to what it found.
#[must_use]
pub fn findings(ran: &Ran) -> Vec<String> {
    let lines = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).lines().map(|l| escape(without_stamp(l.trim_end()).as_str())).collect::<Vec<_>>()
    };
    let mut all = lines(&ran.stderr);
    all.extend(lines(&ran.stdout));
    let is_verdict = |line: &String| line.starts_with("nginx: configuration file ") && line.ends_with(" test failed");
    all.retain(|line| !line.trim().is_empty());
    if !all.iter().all(is_verdict) {
        all.retain(|line| !is_verdict(line));
    }
    all
}

/// `2026/11/22 18:32:14 [emerg] 12#12: text` becomes `[emerg] text`.
fn without_stamp(line: &str) -> String {
    const STAMP: &[u8] = b"dddd/dd/dd dd:dd:dd ";
    let fits = |(have, want): (u8, &u8)| if *want == b'd' { have.is_ascii_digit() } else { have == *want };
    if line.len() < STAMP.len() || !line.bytes().zip(STAMP).all(fits) {
        return line.to_owned();
    }
    let rest = &line[STAMP.len()..];
    let Some((level, text)) = rest.split_once("] ") else { return rest.to_owned() };
    match text.split_once(": ") {
        Some((process, said)) if process.bytes().all(|b| b.is_ascii_digit() || b == b'#') => format!("{level}] {said}"),
        _ => rest.to_owned(),
    }
}

/// All guards of a host, ready to match paths.
#[derive(Clone, Debug, Default)]
pub struct Guards {
    rows: Vec<(Guard, GlobSet)>,
}

impl Guards {
    /// Compiles the globs. A later guard of the same name replaces an earlier one: that is how an operator changes a
    /// shipped one.
    ///
    /// # Errors
    /// One sentence on a glob or check that cannot be.
    pub fn new(guards: Vec<Guard>) -> Result<Self, String> {
        let mut rows: Vec<(Guard, GlobSet)> = Vec::new();
        for guard in guards {
            if guard.check.first().is_none_or(|program| !program.starts_with('/')) {
                return Err(format!("guard {}: `check` needs a program with its absolute path", guard.name));
            }
            if let Some(odd) = guard.capabilities.iter().find(|name| !CAPABILITIES.contains(&name.as_str())) {
                return Err(format!("guard {}: `{odd}` cannot be had; one of {}", guard.name, CAPABILITIES.join(", ")));
            }
            let mut set = GlobSetBuilder::new();
            for glob in &guard.globs {
                if !glob.starts_with('/') {
                    return Err(format!(
                        "guard {}: `{glob}` matches nothing: globs are of absolute paths, \"/etc/…\"",
                        guard.name
                    ));
                }
                set.add(crate::path::glob(glob).map_err(|e| format!("guard {}: {e}", guard.name))?);
            }
            let set = set.build().map_err(|e| format!("guard {}: {e}", guard.name))?;
            rows.retain(|(row, _)| row.name != guard.name);
            rows.push((guard, set));
        }
        Ok(Self { rows })
    }

    /// The guards that a path concerns.
    pub fn of<'a>(&'a self, path: &'a ManagedPath) -> impl Iterator<Item = &'a Guard> {
        self.rows.iter().filter(move |(_, set)| set.is_match(path.as_path())).map(|(guard, _)| guard)
    }

    /// The calls that changes of these paths and units need, in the order of the guards.
    #[must_use]
    pub fn calls(&self, paths: &[&ManagedPath], units: &[String]) -> Vec<GuardCall> {
        let concerned = |set: &GlobSet| paths.iter().any(|p| set.is_match(p.as_path()));
        let call = |guard: &Guard| {
            let words = guard.check.iter().flat_map(|word| if word == "{units}" { units.to_vec() } else { vec![word.clone()] });
            GuardCall {
                name: guard.name.clone(),
                argv: words.collect(),
                quiet: guard.quiet,
                package: guard.package.clone(),
                executes: guard.executes,
                sockets: guard.sockets.clone(),
                capabilities: guard.capabilities.clone(),
                wakes: guard.wake.as_ref().map(|wake| wake.unit.clone()),
                known: Vec::new(),
            }
        };
        let wants_units = |guard: &Guard| guard.check.iter().any(|word| word == "{units}");
        self.rows
            .iter()
            .filter(|(guard, set)| concerned(set) && (!wants_units(guard) || !units.is_empty()))
            .map(|(guard, _)| call(guard))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Ran, findings, without_stamp};

    #[test]
    fn a_verdict_is_no_finding() {
        let ran = |stderr: &str| Ran { code: Some(1), result: String::new(), stdout: Vec::new(), stderr: stderr.into() };
        let verdict = "nginx: configuration file /etc/nginx/nginx.conf test failed";
        let found = "nginx: [emerg] unknown directive \"retrun\" in /etc/nginx/sites-enabled/shop:4";
        assert_eq!(findings(&ran(&format!("{found}\n{verdict}\n"))), [found]);
        assert_eq!(findings(&ran(verdict)), [verdict]);
    }

    #[test]
    fn the_same_complaint_is_the_same_text() {
        for (line, text) in [
            (
                "2026/11/22 18:32:14 [emerg] 2#2: unknown directive \"x\" in /etc/y:1",
                "[emerg] unknown directive \"x\" in /etc/y:1",
            ),
            ("nginx: [emerg] unknown directive", "nginx: [emerg] unknown directive"),
            ("2026/11/22 18:32:14 something else", "something else"),
            ("", ""),
        ] {
            assert_eq!(without_stamp(line), text);
        }
    }
}
