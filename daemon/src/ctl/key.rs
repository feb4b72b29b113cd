//! `reconcilectl key`: who may push. The file is root's; each line forces a command that knows the key's name.

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::Subcommand;

use super::{Problem, USAGE, need_root};
use crate::worker::PROGRAM;

/// sshd reads it as the account's own (sshd(8)).
const FILE: &str = "/var/lib/reconciled/.ssh/authorized_keys";
/// Key types that are taken: those of OpenSSH, but for DSA, which sshd refuses too.
const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Let the public key on standard input push
    Add {
        /// The name under which its pushes are recorded: letters, digits, - _ . @
        name: String,
        /// It may only preview: plan and rehearse, never apply
        #[arg(long)]
        preview: bool,
    },
    /// List the keys
    List,
    /// Take a key's right to push away
    Remove {
        /// Its name
        name: String,
    },
}

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    name: String,
    preview: bool,
    public: String,
}

pub(super) fn run(verb: Verb) -> Result<String, Problem> {
    match verb {
        Verb::List => Ok(keys(&read()?)
            .map(|k| format!("{}{}  {}\n", k.name, if k.preview { " (preview)" } else { "" }, k.public))
            .collect()),
        Verb::Add { name, preview } => {
            need_root()?;
            add(&name, preview)
        }
        Verb::Remove { name } => {
            need_root()?;
            let mut lines = read()?;
            lines.retain(|line| !line.is_of(&name));
            write(&lines)?;
            Ok(format!("{name} may not push"))
        }
    }
}

fn add(name: &str, preview: bool) -> Result<String, Problem> {
    let usage = |message: &str| Problem { message: message.to_owned(), exit: USAGE };
    let valid = !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c));
    if !valid || name.starts_with('-') {
        return Err(usage("a key's name has letters, digits and - _ . @"));
    }
    let mut input = String::new();
    if std::io::stdin().is_terminal() {
        eprintln!("Paste the public key, one line such as `ssh-ed25519 AAAA… you@laptop`; then Enter and Ctrl-D.");
    }
    std::io::stdin().take(64 * 1024).read_to_string(&mut input).map_err(|e| usage(&format!("standard input: {e}")))?;
    let public = public_key(&input).map_err(|why| usage(&why))?;
    let mut lines = read()?;
    if let Some(other) = keys(&lines).find(|k| k.public == public && k.name != name) {
        let other = &other.name;
        return Err(usage(&format!("this key is there already, as {other}: reconcilectl key remove {other} gives it up")));
    }
    lines.retain(|line| !line.is_of(name));
    let what = if preview { "may preview" } else { "may push" };
    lines.push(Line::Key(Key { name: name.to_owned(), preview, public }));
    write(&lines)?;
    Ok(format!("{name} {what}"))
}

/// Reads exactly one public key (`TYPE BASE64 [COMMENT]`), without options.
fn public_key(input: &str) -> Result<String, String> {
    if input.contains("PRIVATE KEY") {
        return Err("this is a private key, which nobody should see: give the public one, whose file ends in .pub".to_owned());
    }
    let mut lines = input.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let line = lines.next().ok_or("no public key on standard input: reconcilectl key add NAME < id_ed25519.pub")?;
    if lines.next().is_some() {
        return Err("more than one key on standard input: add them one at a time, each with a name of its own".to_owned());
    }
    let mut words = line.split_ascii_whitespace();
    let (kind, body) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !TYPES.contains(&kind) {
        return Err(format!("`{}` is not an accepted key type; make one with: ssh-keygen -t ed25519", crate::path::escape(kind)));
    }
    let base64 = body.len() >= 60 && body.len() < 4096 && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    if !base64 {
        return Err("the key is cut short or damaged: copy the whole line of the .pub file".to_owned());
    }
    Ok(format!("{kind} {body}"))
}

/// A line of the file: a key as we write it, or something that an administrator wrote, which stays as it is.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Key(Key),
    Other(String),
}

impl Line {
    fn is_of(&self, name: &str) -> bool {
        matches!(self, Self::Key(key) if key.name == name)
    }
}

fn keys(lines: &[Line]) -> impl Iterator<Item = &Key> {
    lines.iter().filter_map(|line| match line {
        Line::Key(key) => Some(key),
        Line::Other(_) => None,
    })
}

fn read() -> Result<Vec<Line>, Problem> {
    match fs::read_to_string(FILE) {
        Ok(text) => Ok(text.lines().map(parse).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Problem::new(format!("{FILE}: {e}"))),
    }
}

/// Only a line that is to the letter as we would write it is a key of ours: a `from=` that somebody added must not get lost,
/// and a right must not change, because another key comes or goes.
fn parse(line: &str) -> Line {
    let key = || {
        let (command, public) = line.strip_prefix("restrict,command=\"")?.split_once("\" ")?;
        let mut words = command.split(' ').skip(2);
        let (name, preview) = (words.next()?.to_owned(), words.next() == Some("--preview"));
        Some(Key { name, preview, public: public.to_owned() }).filter(|key| written(key) == line)
    };
    key().map_or_else(|| Line::Other(line.to_owned()), Line::Key)
}

fn written(key: &Key) -> String {
    let preview = if key.preview { " --preview" } else { "" };
    format!("restrict,command=\"{PROGRAM} serve {}{preview}\" {}", key.name, key.public)
}

fn write(lines: &[Line]) -> Result<(), Problem> {
    let fail = |e: std::io::Error| Problem::new(format!("{FILE}: {e}"));
    let line = |line: &Line| match line {
        Line::Key(key) => written(key) + "\n",
        Line::Other(text) => format!("{text}\n"),
    };
    let text: String = lines.iter().map(line).collect();
    if let Some(dir) = Path::new(FILE).parent() {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    let temporary = format!("{FILE}.new");
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    // sshd reads it as the account, which is not root: the umask must not hide it.
    fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o644)).map_err(fail)?;
    fs::rename(&temporary, FILE).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::{Key, Line, parse, public_key, written};

    const BODY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJ0dGqHnTJt1Hk3cDJ0p3tZyJ8h9x1jzjzjzjzjzjzjz";

    #[test]
    fn lines_round_trip() {
        for preview in [false, true] {
            let key = Key { name: "anna@laptop".to_owned(), preview, public: format!("ssh-ed25519 {BODY}") };
            assert_eq!(parse(&written(&key)), Line::Key(key));
        }
        let own =
            |options: &str| format!("restrict,command=\"/usr/sbin/reconciled serve ci --preview\"{options} ssh-ed25519 {BODY}");
        assert!(matches!(parse(&own("")), Line::Key(Key { preview: true, .. })));
        for other in [own(",from=\"10.0.0.0/8\""), "ssh-ed25519 AAAA someone".to_owned(), "# mine".to_owned()] {
            assert_eq!(parse(&other), Line::Other(other.clone()));
        }
    }

    #[test]
    fn a_private_key_is_called_one() {
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\nBBBB\n-----END OPENSSH PRIVATE KEY-----\n";
        assert!(public_key(private).unwrap_err().contains("private key"));
    }

    #[test]
    fn only_one_plain_public_key() {
        assert_eq!(public_key(&format!("ssh-ed25519 {BODY} anna\n")).unwrap(), format!("ssh-ed25519 {BODY}"));
        for bad in [
            "",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "ssh-dss AAAA",
            "ssh-ed25519 AAAA",
            &format!("command=\"id\" ssh-ed25519 {BODY}"),
            &format!("ssh-ed25519 {BODY}\nssh-ed25519 {BODY}\n"),
        ] {
            assert!(public_key(bad).is_err(), "{bad}");
        }
    }
}
