//! Settings of the daemon: `/usr/lib/reconciled` and `/etc/reconciled`, with their drop-ins.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::guard::{Guard, Guards};
use crate::lifeline::Lifelines;
use crate::policy::PastIrreversible;
use crate::timespan::TimeSpan;

/// What the package ships.
pub const SHIPPED: &str = "/usr/lib/reconciled";
/// What the administrator writes.
pub const LOCAL: &str = "/etc/reconciled";

/// The settings, complete with their defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of this host for layers; the short host name by default.
    pub host: Option<String>,
    /// How often the whole host is looked at for drift.
    pub look_interval: TimeSpan,
    /// Whether changes of managed things are seen when they happen, and not only by the look.
    pub watch: bool,
    /// How long a lifeline change waits for its confirmation.
    pub confirm_window: TimeSpan,
    /// Whether a rollback may go back past what nothing takes back.
    pub rollback_past_irreversible: PastIrreversible,
    /// What the host is reached by: globs over paths, and names of units.
    pub lifelines: Vec<String>,
    /// Remotes to pull from.
    pub remotes: Vec<Remote>,
}

/// A repository that is polled.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// Its name; part of a ref name: letters, digits, `-` and `_`.
    #[serde(default = "origin")]
    pub name: String,
    /// What `git fetch` understands; without a password in it.
    pub url: String,
    /// The branch to follow.
    #[serde(default = "main_branch")]
    pub branch: String,
    /// How often it is asked.
    #[serde(default = "one_minute")]
    pub interval: TimeSpan,
}

fn origin() -> String {
    "origin".to_owned()
}

fn main_branch() -> String {
    "main".to_owned()
}

const fn one_minute() -> TimeSpan {
    TimeSpan::millis(60_000)
}

/// One settings file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fragment {
    host: Option<String>,
    look_interval: Option<TimeSpan>,
    confirm_window: Option<TimeSpan>,
    watch: Option<bool>,
    rollback_past_irreversible: Option<PastIrreversible>,
    #[serde(default)]
    lifelines: Vec<String>,
    #[serde(default)]
    remote: Vec<Remote>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: None,
            look_interval: TimeSpan::millis(300_000),
            watch: true,
            confirm_window: TimeSpan::millis(300_000),
            rollback_past_irreversible: PastIrreversible::default(),
            lifelines: Vec::new(),
            remotes: Vec::new(),
        }
    }
}

impl Settings {
    /// Reads all settings files; of two that set one key the later one in the order of the file names wins.
    ///
    /// # Errors
    /// One sentence per mistake, with file and line.
    pub fn read() -> Result<Self, String> {
        let mut files = Vec::new();
        for dir in [SHIPPED, LOCAL] {
            let main = Path::new(dir).join("reconciled.toml");
            if main.exists() {
                files.push(main);
            }
            files.extend(toml_files(&Path::new(dir).join("reconciled.d"))?);
        }
        Self::from_files(&files)
    }

    /// Reads these files, in this order.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn from_files(files: &[PathBuf]) -> Result<Self, String> {
        let mut settings = Self::default();
        for file in files {
            settings.merge(parse(file)?).map_err(|why| format!("{}: {why}", file.display()))?;
        }
        Ok(settings)
    }

    fn merge(&mut self, fragment: Fragment) -> Result<(), String> {
        self.host = fragment.host.or_else(|| self.host.take());
        self.look_interval = fragment.look_interval.unwrap_or(self.look_interval);
        self.confirm_window = fragment.confirm_window.unwrap_or(self.confirm_window);
        self.watch = fragment.watch.unwrap_or(self.watch);
        self.rollback_past_irreversible = fragment.rollback_past_irreversible.unwrap_or(self.rollback_past_irreversible);
        if self.look_interval.0 < std::time::Duration::from_secs(1) {
            return Err("look_interval is shorter than a second: write at least \"1s\"".to_owned());
        }
        if self.confirm_window.0 < std::time::Duration::from_secs(1) {
            return Err("confirm_window is shorter than a second: write at least \"1s\"".to_owned());
        }
        Lifelines::new(&fragment.lifelines)?;
        self.lifelines.extend(fragment.lifelines);
        let names: Vec<String> = fragment.remote.iter().map(|remote| remote.name.clone()).collect();
        for (index, remote) in fragment.remote.into_iter().enumerate() {
            check_remote(&remote)?;
            if names[..index].contains(&remote.name) {
                return Err(format!("two [[remote]] tables have the name {}: give each a `name` of its own", remote.name));
            }
            self.remotes.retain(|r| r.name != remote.name);
            self.remotes.push(remote);
        }
        Ok(())
    }
}

fn check_remote(remote: &Remote) -> Result<(), String> {
    let word = |s: &str, more: &str| {
        !s.is_empty() && !s.starts_with('-') && s.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    if !word(&remote.name, "-_") {
        return Err(format!("remote name `{}`: write letters, digits, - and _", remote.name));
    }
    if !word(&remote.branch, "-_./") || remote.branch.contains("..") {
        return Err(format!("remote {}: `{}` is not a branch name", remote.name, remote.branch));
    }
    if remote.url.starts_with('-') || remote.url.contains("::") {
        return Err(format!("remote {}: this URL is not accepted: write https://…, ssh://…, HOST:PATH or a path", remote.name));
    }
    let (scheme, rest) = remote.url.split_once("://").unwrap_or(("", ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    // With ssh the user is no secret; with the others a token would stand there, and then in lists of processes.
    if user.contains(':') || (!user.is_empty() && scheme != "ssh") {
        return Err(format!("remote {}: the URL carries a password or token: use a key or a credential helper", remote.name));
    }
    let is_here = ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| host == *name || host.starts_with(&format!("{name}:")));
    if matches!(scheme, "http" | "git" | "ftp") && !is_here {
        let why = "whoever is on the way could answer in its place: write https:// or ssh://";
        return Err(format!("remote {}: {scheme}:// is not accepted, {why}", remote.name));
    }
    if remote.interval.0 < std::time::Duration::from_secs(1) {
        return Err(format!("remote {}: interval is shorter than a second", remote.name));
    }
    Ok(())
}

fn parse(file: &Path) -> Result<Fragment, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    toml::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))
}

/// The guards of this host: shipped ones, then the administrator's, which replace those of the same name.
///
/// # Errors
/// One sentence per mistake, with the file.
pub fn guards() -> Result<Guards, String> {
    let mut guards = Vec::new();
    for dir in [Path::new(SHIPPED).join("guards"), Path::new(LOCAL).join("guards.d")] {
        for file in toml_files(&dir)? {
            let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            let guard: Guard = toml::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?;
            // Each by itself first: the message then names its file.
            Guards::new(vec![guard.clone()]).map_err(|why| format!("{}: {why}", file.display()))?;
            guards.push(guard);
        }
    }
    Guards::new(guards)
}

fn toml_files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("{}: {e}", dir.display())),
    };
    let mut files: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|x| x == "toml")).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{Fragment, Settings};

    fn read(text: &str) -> Result<Settings, String> {
        let fragment: Fragment = toml::from_str(text).map_err(|e| e.to_string())?;
        let mut settings = Settings::default();
        settings.merge(fragment)?;
        Ok(settings)
    }

    #[test]
    fn keys_and_mistakes() {
        let settings = read("look_interval = \"10s\"\n[[remote]]\nurl = \"https://git.example/x.git\"\n").unwrap();
        assert_eq!(settings.look_interval.to_string(), "10s");
        assert_eq!((settings.remotes[0].name.as_str(), settings.remotes[0].branch.as_str()), ("origin", "main"));
        for (text, why) in [
            ("look_intervall = \"10s\"", "look_intervall"),
            ("look_interval = \"10ms\"", "shorter than a second"),
            ("confirm_window = \"10ms\"", "shorter than a second"),
            ("lifelines = [\"ssh\"]", "neither an absolute path"),
            ("[[remote]]\nurl = \"https://me:pw@git.example/x.git\"", "password"),
            ("[[remote]]\nurl = \"https://ghp_x@git.example/x.git\"", "token"),
            ("[[remote]]\nurl = \"http://git.example/x.git\"", "https://"),
            ("[[remote]]\nurl = \"git://127.0.0.1.example/x.git\"", "https://"),
            ("[[remote]]\nurl = \"/x\"\n[[remote]]\nurl = \"/y\"", "of its own"),
            ("[[remote]]\nurl = \"ext::sh -c id\"", "not accepted"),
            ("[[remote]]\nurl = \"--upload-pack=x\"", "not accepted"),
            ("[[remote]]\nurl = \"/x\"\nbranch = \"a..b\"", "branch"),
        ] {
            assert!(read(text).unwrap_err().contains(why), "{text}");
        }
    }
}
