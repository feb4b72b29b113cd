//! What must not be quoted: checks, units and probes may repeat what they have read. Pure.

use std::collections::BTreeSet;

use crate::path::ManagedPath;

/// Shorter words of a secret file are no secrets: they would hide every message.
const QUOTABLE: usize = 6;

/// One thing that is not to be quoted.
#[derive(Clone, PartialEq, Eq)]
struct Hidden {
    /// `file:/etc/shop.env`, `secret:db_password`.
    name: String,
    /// Where it stands, as far as that is not to be quoted either.
    place: Option<String>,
    /// Its lines and longer words.
    parts: Vec<String>,
}

/// The secrets that a plan concerns: of its repository, and what stood and will stand in secret files.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(Vec<Hidden>);

/// Never the contents: whatever holds secrets may be printed for a person.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|hidden| &hidden.name)).finish()
    }
}

impl Secrets {
    /// Adds a content of a secret file, but for what is no secret in it.
    pub fn add_file(&mut self, path: &ManagedPath, content: &[u8], open: &BTreeSet<String>) {
        self.add(format!("file:{path}"), Some(path.to_string()), content, open);
    }

    /// Adds a secret of the repository.
    pub fn add_secret(&mut self, name: &str, content: &[u8]) {
        self.add(format!("secret:{name}"), None, content, &BTreeSet::new());
    }

    fn add(&mut self, name: String, place: Option<String>, content: &[u8], open: &BTreeSet<String>) {
        let content = String::from_utf8_lossy(content);
        let parts = parts(&content).filter(|part| !open.contains(*part)).map(str::to_owned).collect();
        self.0.push(Hidden { name, place, parts });
    }

    /// Replaces each line that names a secret file, or quotes one of the lines or longer words of a secret.
    #[must_use]
    pub fn conceal(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        text.split('\n').map(|line| self.conceal_line(line)).collect::<Vec<_>>().join("\n")
    }

    fn conceal_line(&self, line: &str) -> String {
        let is_named = |hidden: &Hidden| hidden.place.as_ref().is_some_and(|place| line.contains(place.as_str()));
        match self.0.iter().find(|hidden| is_named(hidden) || hidden.parts.iter().any(|part| line.contains(part.as_str()))) {
            Some(hidden) => format!("{}: what was said of it is not shown, it is secret", hidden.name),
            None => line.to_owned(),
        }
    }
}

/// The secrets of a repository.
#[must_use]
pub fn of(secrets: &std::collections::BTreeMap<String, Vec<u8>>) -> Secrets {
    let mut all = Secrets::default();
    secrets.iter().for_each(|(name, content)| all.add_secret(name, content));
    all
}

/// What a secret of the repository says: one line feed at its end is not a part of it. `None` where it is no text.
#[must_use]
pub fn text(secret: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(secret).ok()?;
    Some(text.strip_suffix('\n').unwrap_or(text))
}

/// What is said where a secret is named that is not in the repository.
#[must_use]
pub fn missing(name: &str) -> String {
    let name = crate::path::escape(name);
    format!(
        "there is no secret `{name}`: seal it with `ssh HOST reconcilectl secret seal <plain >secrets/{name}.age`, and commit that"
    )
}

/// The lines and longer words of a text: what nothing may quote of a secret one.
pub fn parts(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| c.is_whitespace() || "\"';={}:,".contains(c));
    let lines = text.lines().map(str::trim);
    words.chain(lines).filter(|part| part.len() >= QUOTABLE)
}

#[cfg(test)]
mod tests {
    use super::Secrets;
    use crate::path::ManagedPath;

    #[test]
    fn what_quotes_a_secret_is_not_shown() {
        let mut secrets = Secrets::default();
        assert_eq!(secrets.conceal("as it is\nand this"), "as it is\nand this");
        let path = ManagedPath::new("/etc/shop.env").unwrap();
        secrets.add_file(&path, b"# of\nKEY=hunter2hunter2\npin: ab1:cd2\nHOST=localhost\n", &["localhost".to_owned()].into());
        let hidden = "file:/etc/shop.env: what was said of it is not shown, it is secret";
        for said in ["got hunter2hunter2!", "in /etc/shop.env:2", "x pin: ab1:cd2"] {
            assert_eq!(secrets.conceal(said), hidden, "{said}");
        }
        assert_eq!(secrets.conceal("KEY is wrong\nhunter2hunter2"), format!("KEY is wrong\n{hidden}"));
        assert_eq!(secrets.conceal("nobody listens at localhost"), "nobody listens at localhost");
        assert!(!format!("{secrets:?}").contains("hunter2"));
        secrets.add_secret("db_password", b"correct horse battery staple\n");
        assert_eq!(secrets.conceal("the horse is tired"), "the horse is tired");
        assert!(secrets.conceal("with correct horse battery staple").starts_with("secret:db_password: what was said"));
    }
}
