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
    /// The check: program and arguments; `{units}` stands for the names of the changed units, `{files}` for the changed files
    /// that match the globs and remain. Exit code 0 is a pass.
    pub check: Vec<String>,
    /// When it is asked.
    #[serde(default)]
    pub when: When,
    /// As whom; root where nobody is named.
    #[serde(default)]
    pub user: Option<String>,
    /// How the lines begin that are no findings.
    #[serde(default)]
    pub noise: Vec<String>,
    /// What is in findings that pass by themselves (a name that does not resolve just now): they are waited for, and are no fault
    /// of the candidate.
    #[serde(default)]
    pub transient: Vec<String>,
    /// A check that passes has no findings: whatever it says counts, also with exit code 0.
    #[serde(default)]
    pub quiet: bool,
    /// The Debian package that brings the program.
    #[serde(default)]
    pub package: Option<String>,
    /// The check can run code of the candidate: it is deferred for keys that may only preview.
    #[serde(default)]
    pub executes: bool,
    /// The check can be made to quote other files of the host: its words are kept from keys that may only preview.
    #[serde(default)]
    pub discloses: bool,
    /// Live sockets that the check has to reach from the rehearsal.
    #[serde(default)]
    pub sockets: Vec<String>,
    /// Capabilities that the check needs (capabilities(7)); it has no others.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// What makes the service read the change.
    #[serde(default)]
    pub wake: Option<GuardWake>,
    /// What carries the change out where no service does.
    #[serde(default)]
    pub run: Option<GuardRun>,
}

/// When a check is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// In the rehearsal, and again in place.
    #[default]
    Both,
    /// In the rehearsal alone: on the live host it would do what it judges.
    Rehearsal,
    /// In place alone: the live service has to be asked.
    InPlace,
}

/// A program that makes a change take effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardRun {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Exit codes besides 0 with which it has done its work.
    #[serde(default)]
    pub success: Vec<i32>,
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
    /// Words at the beginning of a line for which a reload is not enough when such lines change; new ones alone are.
    #[serde(default)]
    pub restart_for: Vec<String>,
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

impl Guard {
    fn asks_for(&self, placeholder: &str) -> bool {
        self.check.iter().any(|word| word == placeholder)
    }

    /// Why it cannot be as it is written.
    fn flaw(&self) -> Option<String> {
        let absolute = |argv: &[String]| argv.first().is_some_and(|program| program.starts_with('/'));
        if !absolute(&self.check) {
            return Some("`check` needs a program with its absolute path".to_owned());
        }
        if self.run.as_ref().is_some_and(|run| !absolute(&run.command)) {
            return Some("`run.command` needs a program with its absolute path".to_owned());
        }
        if let Some(odd) = self.capabilities.iter().find(|name| !CAPABILITIES.contains(&name.as_str())) {
            return Some(format!("`{odd}` cannot be had; one of {}", CAPABILITIES.join(", ")));
        }
        if self.user.as_deref().is_some_and(|user| user != "root") && !self.capabilities.is_empty() {
            return Some("`capabilities` are for a check of root: remove them, or `user`".to_owned());
        }
        let odd = self.globs.iter().find(|glob| !glob.starts_with('/'))?;
        Some(format!("`{odd}` matches nothing: globs are of absolute paths, \"/etc/…\""))
    }
}

/// A guard as one plan calls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardCall {
    /// The guard's name.
    pub name: String,
    /// Program and arguments, complete.
    pub argv: Vec<String>,
    /// See [`Guard::when`].
    #[serde(default)]
    pub when: When,
    /// See [`Guard::user`].
    #[serde(default)]
    pub user: Option<String>,
    /// See [`Guard::transient`].
    #[serde(default)]
    pub transient: Vec<String>,
    /// See [`Guard::noise`].
    #[serde(default)]
    pub noise: Vec<String>,
    /// See [`Guard::quiet`].
    #[serde(default)]
    pub quiet: bool,
    /// See [`Guard::package`].
    pub package: Option<String>,
    /// See [`Guard::executes`].
    pub executes: bool,
    /// See [`Guard::discloses`].
    #[serde(default)]
    pub discloses: bool,
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
pub const CAPABILITIES: [&str; 8] =
    ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE", NET_ADMIN];

/// The one of them that reaches out of the rehearsal, for the network is the host's.
const NET_ADMIN: &str = "CAP_NET_ADMIN";

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
        ran.ok() && (!self.quiet || self.findings(ran).is_empty())
    }

    /// Whether a failed check found nothing but what was known before.
    #[must_use]
    pub fn tolerates(&self, ran: &Ran) -> bool {
        let found = self.findings(ran);
        !found.is_empty() && found.iter().all(|line| self.known.contains(line))
    }

    /// What a check complained about: its lines, without the moment and the process that programs put before them, so that
    /// the same complaint is the same text each time; and without what the guard knows as noise.
    #[must_use]
    pub fn findings(&self, ran: &Ran) -> Vec<String> {
        let all = lines(ran);
        let is_noise = |line: &String| self.noise.iter().any(|start| line.starts_with(start.as_str()));
        let meant: Vec<String> = all.iter().filter(|line| !is_noise(line)).cloned().collect();
        // Of a check that has failed anything is better than nothing.
        if meant.is_empty() && !ran.ok() { all } else { meant }
    }

    /// Whether a check has failed for nothing but what passes by itself.
    #[must_use]
    pub fn may_pass(&self, ran: &Ran) -> bool {
        let passes = |line: &String| self.transient.iter().any(|text| line.contains(text.as_str()));
        let found = self.findings(ran);
        !self.passes(ran) && !found.is_empty() && found.iter().all(passes)
    }

    /// Whether what it runs could change the live host even from within the rehearsal.
    #[must_use]
    pub fn reaches_out(&self) -> bool {
        self.capabilities.iter().any(|name| name == NET_ADMIN)
    }

    /// The command on one line, without the scripts in it.
    #[must_use]
    pub fn shown(&self) -> String {
        in_words(&self.argv)
    }
}

/// A command line for people: a word that is a script is only hinted at.
#[must_use]
pub fn in_words(argv: &[String]) -> String {
    const LONG: usize = 100;
    let word = |word: &String| if word.contains('\n') || word.len() > LONG { "…".to_owned() } else { escape(word) };
    argv.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn lines(ran: &Ran) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = [text(&ran.stderr), text(&ran.stdout)];
    let lines = said.iter().flat_map(|said| said.lines()).map(|line| escape(without_stamp(line.trim_end()).as_str()));
    lines.filter(|line| !line.trim().is_empty()).collect()
}

/// Cuts off what differs each time: `2026/11/22 18:32:14 [emerg] 12#12: text` becomes `[emerg] text`,
/// `2026-11-22 18:32:14.123 UTC [12] ERROR text` becomes `ERROR text`, and `[ALERT]    (12) : text` becomes `[ALERT] text`.
fn without_stamp(line: &str) -> String {
    let rest = without_moment(line).map_or(line, |rest| without_process(rest).unwrap_or(rest));
    let Some((level, text)) = rest.split_once(']').filter(|_| rest.starts_with('[')) else { return rest.to_owned() };
    match text.split_once(':') {
        Some((process, said)) if is_process(process.trim()) => format!("{level}] {}", said.trim_start()),
        _ => rest.to_owned(),
    }
}

/// `12#12` or `(12)`: a bare number may be that of a line.
fn is_process(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_digit() || b"#()".contains(&b)) && word.contains(['#', '('])
}

/// What follows `2026/11/22 18:32:14 ` or `2026-11-22 18:32:14.123 UTC `.
fn without_moment(line: &str) -> Option<&str> {
    const MOMENT: &[u8] = b"dddd-dd-dd dd:dd:dd";
    let fits = |(have, want): (u8, &u8)| match *want {
        b'd' => have.is_ascii_digit(),
        b'-' => have == b'-' || have == b'/',
        want => have == want,
    };
    let (moment, rest) = line.split_at_checked(MOMENT.len())?;
    if !moment.bytes().zip(MOMENT).all(fits) {
        return None;
    }
    let rest = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit()).strip_prefix(' ')?;
    let is_zone = |word: &str| (2..=5).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_uppercase());
    Some(match rest.split_once(' ') {
        Some((zone, text)) if is_zone(zone) && text.starts_with('[') => text,
        _ => rest,
    })
}

/// What follows `[123] `.
fn without_process(text: &str) -> Option<&str> {
    let (process, rest) = text.strip_prefix('[')?.split_once("] ")?;
    process.bytes().all(|b| b.is_ascii_digit()).then_some(rest)
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
            if let Some(flaw) = guard.flaw() {
                return Err(format!("guard {}: {flaw}", guard.name));
            }
            let mut set = GlobSetBuilder::new();
            for glob in &guard.globs {
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

    /// Whether a guard has this unit read a change of this path.
    #[must_use]
    pub fn wakes(&self, path: &ManagedPath, unit: &str) -> bool {
        self.of(path).filter_map(|guard| guard.wake.as_ref()).any(|wake| wake.unit == unit)
    }

    /// The calls that changes of these paths and units need, in the order of the guards. A path comes with whether anything
    /// is there after the change.
    #[must_use]
    pub fn calls(&self, changed: &[(&ManagedPath, bool)], units: &[String]) -> Vec<GuardCall> {
        self.rows.iter().filter_map(|(guard, set)| call(guard, set, changed, units)).collect()
    }
}

/// One guard's call, if these changes need it.
fn call(guard: &Guard, set: &GlobSet, changed: &[(&ManagedPath, bool)], units: &[String]) -> Option<GuardCall> {
    let concerned: Vec<_> = changed.iter().filter(|(path, _)| set.is_match(path.as_path())).collect();
    let files: Vec<String> = concerned.iter().filter(|(_, remains)| *remains).map(|(path, _)| path.to_string()).collect();
    let nothing_to_judge = (guard.asks_for("{units}") && units.is_empty()) || (guard.asks_for("{files}") && files.is_empty());
    if concerned.is_empty() || nothing_to_judge {
        return None;
    }
    let words = guard.check.iter().flat_map(|word| match word.as_str() {
        "{units}" => units.to_vec(),
        "{files}" => files.clone(),
        _ => vec![word.clone()],
    });
    Some(GuardCall {
        name: guard.name.clone(),
        argv: words.collect(),
        when: guard.when,
        user: guard.user.clone().filter(|user| user != "root"),
        noise: guard.noise.clone(),
        transient: guard.transient.clone(),
        quiet: guard.quiet,
        package: guard.package.clone(),
        executes: guard.executes,
        discloses: guard.discloses,
        sockets: guard.sockets.clone(),
        capabilities: guard.capabilities.clone(),
        wakes: guard.wake.as_ref().map(|wake| wake.unit.clone()),
        known: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Guard, GuardCall, Guards, ManagedPath, Ran, in_words, without_stamp};

    fn guard(keys: &str) -> Guard {
        toml::from_str(&format!("name = \"g\"\nglobs = [\"/etc/g/**\"]\n{keys}")).unwrap()
    }

    fn calls(keys: &str, changed: &[(&str, bool)]) -> Vec<GuardCall> {
        let paths: Vec<_> = changed.iter().map(|(path, remains)| (ManagedPath::new(path).unwrap(), *remains)).collect();
        let paths: Vec<_> = paths.iter().map(|(path, remains)| (path, *remains)).collect();
        Guards::new(vec![guard(keys)]).unwrap().calls(&paths, &[])
    }

    fn ran(code: i32, stderr: &str) -> Ran {
        let result = if code == 0 { "success" } else { "exit-code" };
        Ran { code: Some(code), result: result.to_owned(), stdout: Vec::new(), stderr: stderr.into() }
    }

    #[test]
    fn noise_is_no_finding() {
        let call = |keys: &str| calls(&format!("check = [\"/bin/g\"]\n{keys}"), &[("/etc/g/a", true)]).remove(0);
        let picky = call("noise = [\"reading \", \"[notice]\", \"g: test failed\"]\nquiet = true");
        let said = "reading a\nerror: a:3 unknown\n2026/11/22 18:32:14 [notice] 12#12: x\ng: test failed\n";
        assert_eq!(picky.findings(&ran(1, said)), ["error: a:3 unknown"]);
        assert!(!picky.passes(&ran(0, said)) && picky.passes(&ran(0, "reading a\n")));
        assert_eq!(picky.findings(&ran(1, "g: test failed\n")), ["g: test failed"], "better than nothing");
        assert_eq!(call("").findings(&ran(1, said)).len(), 4);
        assert!(call("").passes(&ran(0, said)));
    }

    #[test]
    fn only_what_is_all_transient_may_pass() {
        let call = calls("check = [\"/bin/g\"]\ntransient = [\"host not found\"]", &[("/etc/g/a", true)]).remove(0);
        for (code, said, may_pass) in [
            (1, "host not found in upstream \"a\"", true),
            (1, "host not found: a\nhost not found: b", true),
            (1, "host not found: a\nunknown directive", false),
            (1, "", false),
            (0, "host not found: a", false),
        ] {
            assert_eq!(call.may_pass(&ran(code, said)), may_pass, "{code} {said:?}");
        }
    }

    #[test]
    fn files_that_go_are_no_arguments() {
        let keys = "check = [\"/bin/g\", \"-c\", \"{files}\"]";
        let changed = [("/etc/g/a", true), ("/etc/g/b c", true), ("/etc/g/gone", false), ("/etc/other", true)];
        assert_eq!(calls(keys, &changed)[0].argv, ["/bin/g", "-c", "/etc/g/a", "/etc/g/b c"]);
        assert!(calls(keys, &[("/etc/g/gone", false)]).is_empty(), "there is nothing to judge");
        assert_eq!(calls("check = [\"/bin/g\"]", &[("/etc/g/gone", false)]).len(), 1);
    }

    #[test]
    fn a_guard_that_cannot_be_says_why() {
        for (keys, why) in [
            ("check = [\"g\"]", "`check` needs a program"),
            ("check = [\"/bin/g\"]\nrun = { command = [\"g\"] }", "`run.command` needs a program"),
            ("check = [\"/bin/g\"]\ncapabilities = [\"CAP_SYS_ADMIN\"]", "`CAP_SYS_ADMIN` cannot be had"),
            ("check = [\"/bin/g\"]\ncapabilities = [\"CAP_CHOWN\"]\nuser = \"g\"", "`capabilities` are for a check of root"),
        ] {
            let said = Guards::new(vec![guard(keys)]).unwrap_err();
            assert!(said.starts_with("guard g: ") && said.contains(why), "{keys}: {said}");
        }
    }

    #[test]
    fn a_script_is_only_hinted_at() {
        let argv = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(in_words(&argv(&["/bin/sh", "-c", "a\nb", "sh", "/etc/x"])), "/bin/sh -c … sh /etc/x");
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
            ("2026-11-22 18:32:14.123 UTC [5252] ERROR unknown parameter: x", "ERROR unknown parameter: x"),
            ("2026-11-22 18:32:14.123 GMT [5252] LOG:  invalid value", "LOG:  invalid value"),
            ("[ALERT]    (5293) : config : parsing [/etc/y:1] : unknown", "[ALERT] config : parsing [/etc/y:1] : unknown"),
            ("[/etc/y:12] 34: unknown", "[/etc/y:12] 34: unknown"),
            ("[/etc/y:12] : unknown", "[/etc/y:12] : unknown"),
            ("/etc/y:12:34: unknown", "/etc/y:12:34: unknown"),
            ("2026-11-22", "2026-11-22"),
            ("2026-11-22 18:32:1é", "2026-11-22 18:32:1é"),
            ("", ""),
        ] {
            assert_eq!(without_stamp(line), text);
        }
    }
}
