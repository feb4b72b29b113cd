//! What must not be quoted: checks, units and probes may repeat what they have read. Pure.

use crate::path::ManagedPath;

/// Shorter words of a secret file are no secrets: they would hide every message.
const QUOTABLE: usize = 6;

/// The secret files that a plan concerns, with what stood and will stand in them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    files: Vec<(ManagedPath, String)>,
}

/// Never the contents: whatever holds secrets may be printed for a person.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.files.iter().map(|(path, _)| path)).finish()
    }
}

impl Secrets {
    /// Adds a content of a secret file.
    pub fn add(&mut self, path: &ManagedPath, content: &[u8]) {
        self.files.push((path.clone(), String::from_utf8_lossy(content).into_owned()));
    }

    /// Replaces each line that names a secret file, or quotes one of its lines or longer words.
    #[must_use]
    pub fn conceal(&self, text: &str) -> String {
        if self.files.is_empty() {
            return text.to_owned();
        }
        text.split('\n').map(|line| self.conceal_line(line)).collect::<Vec<_>>().join("\n")
    }

    fn conceal_line(&self, line: &str) -> String {
        match self.files.iter().find(|(path, content)| line.contains(path.as_str()) || quotes(line, content)) {
            Some((path, _)) => format!("file:{path}: what was said of it is not shown, the file is secret"),
            None => line.to_owned(),
        }
    }
}

fn quotes(line: &str, content: &str) -> bool {
    let words = content.split(|c: char| c.is_whitespace() || "\"';={}:,".contains(c));
    let lines = content.lines().map(str::trim);
    words.chain(lines).any(|part| part.len() >= QUOTABLE && line.contains(part))
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
        secrets.add(&path, b"# of\nKEY=hunter2hunter2\npin: ab1:cd2\n");
        let hidden = "file:/etc/shop.env: what was said of it is not shown, the file is secret";
        for said in ["got hunter2hunter2!", "in /etc/shop.env:2", "x pin: ab1:cd2"] {
            assert_eq!(secrets.conceal(said), hidden, "{said}");
        }
        assert_eq!(secrets.conceal("KEY is wrong\nhunter2hunter2"), format!("KEY is wrong\n{hidden}"));
        assert!(!format!("{secrets:?}").contains("hunter2"));
    }
}
