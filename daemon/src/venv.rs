//! Virtual environments: what the worker that builds them is asked, and which requirements are exact. Pure.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// What the worker reads on its standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where the environment stands.
    pub path: String,
    /// The Python that it is made with.
    pub interpreter: String,
    /// What is in it, one requirement a line.
    pub requirements: String,
    /// The answer that was planned against.
    pub before: String,
    /// The answer once it is built.
    pub after: String,
}

impl Request {
    /// The folder beside it in which it is built, and where the one before it waits.
    #[must_use]
    pub fn aside(&self) -> String {
        let (parent, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        format!("{parent}/.{name}.aside")
    }
}

/// The answer of an environment that is as wanted: two with the same are built of the same.
#[must_use]
pub fn built(interpreter: &str, requirements: &str) -> String {
    format!("built {}", Digest::of(format!("{interpreter}\n{requirements}").as_bytes()).short())
}

/// The answer of a directory that holds something else: whoever named it may have meant another.
pub const NONE: &str = "no virtual environment";

/// A line that leaves open what is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it, and what to write instead.
    pub why: String,
}

/// Options that say where packages come from, and nothing of what is installed (pip's requirements file format).
const SOURCES: [&str; 11] = [
    "-i",
    "--index-url",
    "--extra-index-url",
    "--no-index",
    "-f",
    "--find-links",
    "--no-binary",
    "--only-binary",
    "--prefer-binary",
    "--require-hashes",
    "--trusted-host",
];

/// The requirements of a text, one a line, without comments: each names a version or a hash.
///
/// # Errors
/// The first line that does not.
pub fn requirements(text: &str) -> Result<String, Flaw> {
    let mut all = String::new();
    for (line, requirement) in logical_lines(text) {
        exact(&requirement).map_err(|why| Flaw { line, why })?;
        all.push_str(&requirement);
        all.push('\n');
    }
    Ok(all)
}

/// Lines with their numbers, without comments and blank ones, continued lines joined.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (1..).zip(text.lines()) {
        let comment = line.find('#').filter(|at| line[..*at].is_empty() || line[..*at].ends_with(char::is_whitespace));
        let line = line[..comment.unwrap_or(line.len())].trim();
        let (line, more) = line.strip_suffix('\\').map_or((line, false), |line| (line.trim_end(), true));
        match lines.last_mut() {
            Some((_, joined)) if goes_on => {
                joined.push(' ');
                joined.push_str(line);
            }
            _ => lines.push((number, line.to_owned())),
        }
        goes_on = more;
    }
    lines.iter_mut().for_each(|(_, line)| *line = line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.retain(|(_, line)| !line.is_empty());
    lines
}

/// Whether a requirement leaves nothing open (PEP 508, pip's requirement specifiers).
fn exact(requirement: &str) -> Result<(), String> {
    let shown = crate::path::escape(requirement.split(" --hash").next().unwrap_or_default());
    if requirement.starts_with('-') {
        let option = requirement.split([' ', '=']).next().unwrap_or_default();
        return match SOURCES.contains(&option) {
            true => Ok(()),
            false => {
                Err(format!("`{}` is not taken: write the packages themselves, as name==version", crate::path::escape(option)))
            }
        };
    }
    if requirement.contains(" --hash=") {
        return Ok(());
    }
    let specifier = requirement.split(';').next().unwrap_or_default().replace(' ', "");
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.[],".contains(c))
    };
    let is_version =
        |version: &str| !version.is_empty() && version.chars().all(|c| c.is_ascii_alphanumeric() || ".+!-_".contains(c));
    match specifier.split_once("==") {
        Some((name, version)) if is_name(name) && is_version(version.trim_start_matches('=')) => Ok(()),
        _ => {
            let name: String = requirement.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
            Err(format!("`{shown}` names no exact version: write {name}==VERSION, or add --hash=sha256:…"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Request, built, requirements};

    #[test]
    fn only_what_is_exact_is_taken() {
        let good = "# the site\nDjango==5.2.1  # not 6\n\ngunicorn == 23.0.0\npsycopg[binary]==3.2.3; python_version >= \"3.9\"\n\
            --index-url https://pypi.example/simple\nredis>=5 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\nx @ https://a.example/x#egg=1 --hash=sha256:22\n";
        assert_eq!(
            requirements(good).unwrap(),
            "Django==5.2.1\ngunicorn == 23.0.0\npsycopg[binary]==3.2.3; python_version >= \"3.9\"\n--index-url https://pypi.example/simple\n\
             redis>=5 --hash=sha256:00 --hash=sha256:11\nx @ https://a.example/x#egg=1 --hash=sha256:22\n"
        );
        assert_eq!(requirements("").unwrap(), "");
        for (text, line, why) in [
            ("Django==5.2\ngevent\n", 2, "`gevent` names no exact version: write gevent==VERSION"),
            ("\n\nDjango>=5", 3, "write Django==VERSION"),
            ("Django==5.*", 1, "no exact version"),
            ("Django==5.1,!=5.1.2", 1, "no exact version"),
            ("Django==", 1, "no exact version"),
            ("x; python_version == \"3.9\"", 1, "no exact version"),
            ("-r base.txt", 1, "`-r` is not taken"),
            ("a==1\n--requirement=base.txt", 2, "`--requirement` is not taken"),
            ("-e .", 1, "`-e` is not taken"),
            ("./local", 1, "no exact version"),
            ("git+https://a.example/x", 1, "no exact version"),
        ] {
            let flaw = requirements(text).unwrap_err();
            assert_eq!(flaw.line, line, "{text}: {flaw:?}");
            assert!(flaw.why.contains(why), "{text}: {flaw:?}");
        }
    }

    #[test]
    fn where_it_is_built_and_what_it_is_called() {
        let request = |path: &str| Request {
            path: path.to_owned(),
            interpreter: String::new(),
            requirements: String::new(),
            before: String::new(),
            after: String::new(),
        };
        assert_eq!(request("/home/sammy/site/env").aside(), "/home/sammy/site/.env.aside");
        assert_eq!(request("/env").aside(), "/.env.aside");
        assert_ne!(built("/usr/bin/python3", "a==1\n"), built("/usr/bin/python3", "a==2\n"));
        assert!(built("", "").starts_with("built "));
    }
}
