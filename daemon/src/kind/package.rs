//! Debian packages. All that a plan installs is installed by one run of apt.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec, State};
use crate::change::{ABSENT, Call, Change, Run};
use crate::digest::Digest;
use crate::packages::{LIMIT, Packages, Request, UPDATES};
use crate::path::ManagedPath;
use crate::worker::PROGRAM;

/// How long apt may take: a large installation over a slow line.
const APT: Duration = Duration::from_secs(30 * 60);
/// More changes than these dpkg never leaves in files of their own.
const UPDATES_LIMIT: usize = 10_000;
/// How long the database may take to read.
const ASK: Duration = Duration::from_secs(30);

/// A Debian package. With only a name it is installed, in whatever version the host's sources have; it is not upgraded later.
/// All of a plan are installed by one run of apt, with fresh lists where these do not know a name. dpkg's lock is waited for, what an interrupted
/// run has left is finished first, configuration files stay as somebody has edited them, and nobody is asked. A push that fails removes exactly
/// what came with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PackageSpec {
    /// The package's name: `nginx`. One that another installed package stands for (`Provides`) counts as installed. What would have to go
    /// for it has to be declared absent.
    pub name: String,
    /// This version and no other: `1.22.1-9`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `absent`: it is removed; its configuration files stay, as with `apt-get remove`. What needs it has to be declared absent too.
    #[serde(default)]
    pub state: State,
    /// What to do when the host no longer matches: `repair` (the default), `report` (told, and left until the next push), or `ignore`
    /// (somebody else sees to it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
}

impl Spec for PackageSpec {
    const KIND: &'static str = "package";
    const SHORT: Option<&'static str> = Some("packages");
    const KEY: &'static str = "name";
    const PHASE: Phase = Phase::Packages;
    const ABOUT: &'static str = "A Debian package. It is installed when it is missing, and let go when it leaves the repository: `state = \"absent\"` removes it.";
    const EXAMPLE: &'static str = "[[package]]\nname = \"nginx\"\n";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        let bad = |key, message: String, help: &str| Err(Mistake { key, message, help: help.to_owned() });
        // Debian policy §5.6.7; a name that began with `-` would be an option of apt's, one that ended in `-` or `+` a request.
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        let begins = self.name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !begins || self.name.len() < 2 || !self.name.chars().all(valid) || self.name.ends_with('-') {
            let message = format!("`{}` is not a package name", crate::path::escape(&self.name));
            return bad("name", message, "see apt-cache search: lower-case letters, digits and +-.");
        }
        // The same of its last letter.
        let of_version = |c: char| c.is_ascii_alphanumeric() || ".+-~:".contains(c);
        let is_version = |version: &String| {
            version.chars().all(of_version) && version.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '~')
        };
        if self.version.as_ref().is_some_and(|version| !is_version(version)) {
            return bad("version", "not a version of a package".to_owned(), "write it as apt-cache policy shows it");
        }
        if self.version.is_some() && self.state == State::Absent {
            return bad("version", "an absent package has no version".to_owned(), "drop `version`, or `state`");
        }
        Ok(())
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let packages = packages(sight)?;
        let wanted = self.version.as_ref().map_or_else(|| self.name.clone(), |version| format!("{}={version}", self.name));
        let (before, after) = (packages.answer(&wanted), self.answer());
        let absent = sight.resources.iter().filter(|resource| resource.kind == Self::KIND && resource.spec["state"] == "absent");
        let request = Request { census: packages.census(), absent: absent.map(|resource| resource.name.clone()).collect() };
        let input = serde_json::to_vec(&request).unwrap_or_default();
        let digest = Digest::of(&input);
        let apt = |verb: &str, limit| Call::new(&[PROGRAM, "worker", "packages", verb, "--"], limit).on(&wanted);
        let (forward, reason) = match self.state {
            State::Present => ("install", install_reason(&before, &after)),
            State::Absent => ("remove", "remove".to_owned()),
        };
        let run = Run {
            backward: Some(apt("undo", APT).reading(digest)),
            does_more: true,
            ..Run::new(
                format!("package:{}", self.name),
                apt("ask", ASK),
                (Some(before), after),
                apt(forward, APT).reading(digest),
            )
        };
        let mut claim = Claim::new(Change::Run(Box::new(run)), reason);
        if !claim.change.is_noop() {
            claim.inputs.insert(digest, input);
        }
        Ok(vec![claim])
    }
}

impl PackageSpec {
    /// Whether a declared package is still to be installed: nobody can see yet what it brings.
    pub(super) fn are_to_come(sight: &Sight<'_>) -> Result<bool, KindError> {
        let mut declared = sight.resources.iter().filter(|r| r.kind == Self::KIND && r.spec["state"] != "absent").peekable();
        if declared.peek().is_none() {
            return Ok(false);
        }
        let packages = packages(sight)?;
        Ok(declared.any(|package| packages.answer(&package.name) == ABSENT))
    }

    fn answer(&self) -> String {
        match (self.state, &self.version) {
            (State::Absent, _) => ABSENT.to_owned(),
            (State::Present, None) => "installed".to_owned(),
            (State::Present, Some(version)) => format!("installed {version}"),
        }
    }
}

/// dpkg's database.
fn packages(sight: &Sight<'_>) -> Result<Packages, KindError> {
    let path = |path: &str| ManagedPath::new(path).map_err(KindError::Impossible);
    let list = || Ok(sight.host.entries(&path(UPDATES)?, UPDATES_LIMIT)?);
    Packages::gather(list, |name| Ok(sight.host.content(&path(name)?, LIMIT)?))
}

fn install_reason(before: &str, after: &str) -> String {
    match before {
        ABSENT => "install".to_owned(),
        before => format!("{before} → {after}"),
    }
}
