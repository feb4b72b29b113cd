//! The repository's secrets: opened for a revision, kept for its generation.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{Engine, Stop};
use crate::digest::Digest;
use crate::host::{Job, Look, Sandbox};
use crate::manifest::Manifest;
use crate::manifest::scope::UNSEALED;
use crate::source::{Snapshot, SourceEntry};
use crate::worker::PROGRAM;
use crate::worker::secrets::{LIMIT, Request};

/// Where secrets are in the repository.
const PLACE: &str = "secrets/";
/// How long it may take to open all of them.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most of what all of them are together, in bytes.
const OUTPUT: usize = 8 << 20;

const TOO_LONG: &str = "longer than 64 KiB: seal what is long with a key of its own, and that key here";

/// What is sealed in a repository.
#[derive(Default)]
struct Sealed<'s> {
    /// `secrets/NAME.age` by its name, and sealed files by their paths.
    age: BTreeMap<&'s str, &'s [u8]>,
    /// `secrets/NAME.cred`, as systemd wants it.
    credentials: BTreeMap<&'s str, Vec<u8>>,
}

/// The secrets of a snapshot, by name, as a key that may only preview has them: it could find out what they are from what a template that it
/// pushes does with them, if only by whether its push is refused.
///
/// # Errors
/// What is no secret.
pub(super) fn leave_sealed(snapshot: &Snapshot, known_as: &str) -> Result<BTreeMap<String, Vec<u8>>, Stop> {
    let Sealed { age, credentials } = sealed(snapshot, known_as)?;
    let names = age.into_keys().chain(credentials.into_keys());
    Ok(names.map(|name| (name.to_owned(), UNSEALED.as_bytes().to_vec())).collect())
}

/// Opens the secrets of a snapshot, by name.
///
/// # Errors
/// What is no secret of this host.
pub(super) fn open(snapshot: &Snapshot, known_as: &str, host: &dyn Look) -> Result<BTreeMap<String, Vec<u8>>, Stop> {
    let Sealed { age, credentials } = sealed(snapshot, known_as)?;
    if age.is_empty() && credentials.is_empty() {
        return Ok(BTreeMap::new());
    }
    let request = Request {
        sealed: age.iter().map(|(name, body)| ((*name).to_owned(), body.len() as u64)).collect(),
        credentials: credentials.keys().map(|name| (*name).to_owned()).collect(),
    };
    let mut input = serde_json::to_vec(&request).unwrap_or_default();
    input.push(b'\n');
    age.values().for_each(|body| input.extend_from_slice(body));
    let credentials = credentials.into_iter().map(|(name, body)| (name.to_owned(), body)).collect();
    let job = Job {
        purpose: "secrets",
        argv: [PROGRAM, "worker", "secrets"].map(str::to_owned).to_vec(),
        input,
        sandbox: Sandbox::Opener { with_key: !age.is_empty(), credentials },
        limit: PATIENCE,
        output_limit: OUTPUT,
        keeps_tail: false,
    };
    let ran = host.run(&job, &mut |_| true)?;
    if !ran.ok() {
        let said = crate::path::escape(String::from_utf8_lossy(&ran.stderr).trim());
        let why = if said.is_empty() { format!("they cannot be opened on this host ({})", ran.result) } else { said };
        return Err(Stop::refused(format!("secrets: {why}")));
    }
    bodies(&ran.stdout).ok_or_else(|| Stop::refused("secrets: the worker answered nonsense"))
}

fn bodies(output: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let end = output.iter().position(|byte| *byte == b'\n')?;
    let names: Vec<(String, usize)> = serde_json::from_slice(&output[..end]).ok()?;
    let mut rest = &output[end + 1..];
    let mut open = BTreeMap::new();
    for (name, length) in names {
        let (body, after) = rest.split_at_checked(length)?;
        open.insert(name, body.to_vec());
        rest = after;
    }
    Some(open)
}

fn sealed<'s>(snapshot: &'s Snapshot, known_as: &str) -> Result<Sealed<'s>, Stop> {
    let mut sealed = Sealed::default();
    let refused = |file: &str, why: &str| Err(Stop::refused(format!("{}: {why}", crate::path::escape(file))));
    for file in crate::manifest::sealed_files(snapshot, known_as) {
        match snapshot.entries.get(file) {
            Some(SourceEntry::File { content, .. }) if content.len() as u64 <= LIMIT => drop(sealed.age.insert(file, content)),
            Some(SourceEntry::File { .. }) => return refused(file, TOO_LONG),
            // The manifest says what is wrong with a link.
            _ => {}
        }
    }
    for (file, entry) in snapshot.entries.range(PLACE.to_owned()..).take_while(|(file, _)| file.starts_with(PLACE)) {
        let name = &file[PLACE.len()..];
        let (name, is_age) = match (name.strip_suffix(".age"), name.strip_suffix(".cred")) {
            (Some(name), _) => (name, true),
            (_, Some(name)) => (name, false),
            _ if name.starts_with("README") || name.ends_with(".gitkeep") => continue,
            _ => {
                return refused(
                    file,
                    "no sealed file: seal it (ssh HOST reconcilectl secret seal <plain >secrets/NAME.age), and forget what it held: it is in git's history now",
                );
            }
        };
        let is_word = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_word || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            return refused(file, "a secret's name is of lower-case letters, digits and _: templates call it secrets.NAME");
        }
        let SourceEntry::File { content, .. } = entry else { return refused(file, "a secret is a file, not a link") };
        if content.len() as u64 > LIMIT {
            return refused(file, TOO_LONG);
        }
        if is_age {
            sealed.age.insert(name, content);
        } else {
            let text: Vec<u8> = content.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            match BASE64_STANDARD.decode(text) {
                Ok(body) => drop(sealed.credentials.insert(name, body)),
                Err(_) => return refused(file, "not what systemd-creds encrypt writes"),
            }
        }
        if sealed.age.contains_key(name) && sealed.credentials.contains_key(name) {
            return refused(file, "there are two secrets of this name: keep one");
        }
    }
    Ok(sealed)
}

impl Manifest {
    /// The manifest with its secrets, which are kept with the generation: what is healed later needs them too.
    pub(super) fn with_secrets(mut self, secrets: BTreeMap<String, Vec<u8>>) -> Self {
        for (name, body) in &secrets {
            let digest = Digest::of(body);
            self.sealed.insert(name.clone(), digest);
            self.contents.insert(digest, body.clone());
        }
        self.secrets = secrets;
        self
    }
}

impl Engine {
    /// The manifest of a generation with the secrets that it was given.
    pub(super) fn reopened(&self, mut manifest: Manifest) -> Manifest {
        for (name, digest) in &manifest.sealed {
            match self.state.objects().get(digest) {
                Ok(Some(body)) => drop(manifest.secrets.insert(name.clone(), body)),
                // Whatever needs it says so, and is left as it is.
                Ok(None) => tracing::error!("the secret {name} of a generation is not in the store any more"),
                Err(error) => tracing::error!("the secret {name} of a generation: {error}"),
            }
        }
        manifest
    }
}

#[cfg(test)]
mod tests {
    use super::{bodies, sealed};
    use crate::cycle::tests::entries;
    use crate::source::Snapshot;

    fn refusal(file: &str, text: &str) -> String {
        let snapshot = Snapshot { entries: entries(&[(file, text)]), ..Snapshot::default() };
        sealed(&snapshot, "web1").err().map(|stop| stop.into_report().reason).unwrap_or_default()
    }

    #[test]
    fn what_is_no_secret() {
        for (file, text, why) in [
            ("secrets/db_password.age", "sealed", ""),
            ("secrets/db.cred", "V2hvIGlz\n\tIHRoZXJl", ""),
            ("secrets/README.md", "how to", ""),
            ("secrets/db.cred", "not base64!", "secrets/db.cred: not what systemd-creds encrypt writes"),
            ("secrets/db_password", "hunter2", "no sealed file"),
            ("secrets/Db.age", "x", "lower-case"),
            ("secrets/a/b.age", "x", "lower-case"),
            ("secrets/db@", "x", "no sealed file"),
        ] {
            let said = refusal(file, text);
            assert!(said.contains(why) && said.is_empty() == why.is_empty(), "{file}: {said}");
        }
    }

    #[test]
    fn answers_that_are_cut_are_none() {
        let open = bodies(b"[[\"a\",2],[\"b\",0]]\nxy").unwrap();
        assert_eq!((open["a"].as_slice(), open["b"].as_slice()), (&b"xy"[..], &b""[..]));
        assert!(bodies(b"[[\"a\",3]]\nxy").is_none() && bodies(b"").is_none());
    }
}
