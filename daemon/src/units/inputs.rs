//! What a service reads when it starts, as far as its unit names it: with that changed, it has to start again. Pure.

use globset::GlobMatcher;

use super::definition::Definition;
use crate::path::ManagedPath;

/// Something that a unit names and its process has read.
#[derive(Debug)]
pub struct Input {
    /// In words, with the setting's name: `EnvironmentFile /etc/shop/env`.
    pub what: String,
    /// It stands on the command line, where what is written looks like what is read.
    pub is_argument: bool,
    extent: Extent,
}

#[derive(Debug)]
enum Extent {
    File(String),
    Glob(Box<GlobMatcher>),
    Tree(String),
}

/// Directories whose programs come with packages, and trees that are too wide to mean one service.
const COMMON: [&str; 8] = ["/", "/usr", "/usr/local", "/etc", "/home", "/root", "/var", "/srv"];

/// How an argument is called.
const ARGUMENT: &str = "argument";

impl Input {
    /// Whether a path is part of it.
    #[must_use]
    pub fn covers(&self, path: &ManagedPath) -> bool {
        match &self.extent {
            Extent::File(file) => path.as_str() == file,
            Extent::Glob(glob) => glob.is_match(path.as_path()),
            Extent::Tree(root) => path.as_str().strip_prefix(root.as_str()).is_some_and(|rest| rest.starts_with('/')),
        }
    }

    /// The one file that it is; `None` for a tree or a glob.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match &self.extent {
            Extent::File(file) => Some(file),
            Extent::Glob(_) | Extent::Tree(_) => None,
        }
    }

    fn file(setting: &str, path: &str) -> Option<Self> {
        let what = format!("{setting} {path}");
        if path.contains(['*', '?', '[']) {
            let glob = crate::path::glob(path).ok()?.compile_matcher();
            return Some(Self { what, is_argument: setting == ARGUMENT, extent: Extent::Glob(Box::new(glob)) });
        }
        Some(Self { what, is_argument: setting == ARGUMENT, extent: Extent::File(path.to_owned()) })
    }

    fn tree(setting: &str, path: &str) -> Option<Self> {
        let root = path.trim_end_matches('/');
        let is_wide = root.is_empty() || COMMON.contains(&root);
        let extent = || Extent::Tree(root.to_owned());
        (!is_wide).then(|| Self { what: format!("{setting} {root}"), is_argument: false, extent: extent() })
    }
}

/// What a service names: its program with the arguments that are files, its virtual environment (`is_venv` tells one by its
/// root), `WorkingDirectory=`, `EnvironmentFile=`, `LoadCredential=`. Paths with specifiers that only PID 1 knows are left out.
#[must_use]
pub fn of_service(unit: &str, definition: &Definition, is_venv: &dyn Fn(&str) -> bool) -> Vec<Input> {
    let absolute = |text: &str| expanded(unit, text).filter(|path| path.starts_with('/'));
    let mut inputs = Vec::new();
    for line in definition.values("Service", "ExecStart") {
        let words: Vec<String> = words(line).iter().filter_map(|word| absolute(word)).collect();
        let Some((program, arguments)) = words.split_first() else { continue };
        inputs.extend(Input::file("program", program));
        let root = program.rsplit_once("/bin/").map(|(root, _)| root).filter(|root| is_venv(root));
        inputs.extend(root.and_then(|root| Input::tree("virtual environment", root)));
        inputs.extend(arguments.iter().filter_map(|path| Input::file(ARGUMENT, path)));
    }
    let directory = definition.value("Service", "WorkingDirectory").map(|d| d.trim_start_matches('-'));
    inputs.extend(directory.and_then(absolute).and_then(|path| Input::tree("WorkingDirectory", &path)));
    for file in definition.values("Service", "EnvironmentFile") {
        inputs.extend(absolute(file.trim_start_matches('-')).and_then(|path| Input::file("EnvironmentFile", &path)));
    }
    for key in ["LoadCredential", "LoadCredentialEncrypted"] {
        let paths = definition.values("Service", key).iter().filter_map(|value| value.split_once(':'));
        for path in paths.filter_map(|(_, path)| absolute(path)) {
            inputs.extend(Input::file(key, &path));
            inputs.extend(Input::tree(key, &path));
        }
    }
    inputs
}

/// The words of a command line, without the prefixes of its program (systemd.service(5), "Command Lines").
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut is_word) = (String::new(), None, false);
    for c in line.trim_start_matches(['@', '-', ':', '+', '!', '|']).chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.push(c),
            (None, '"' | '\'') => (quote, is_word) = (Some(c), true),
            (None, c) if c.is_whitespace() => {
                if is_word {
                    words.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            (None, c) => {
                word.push(c);
                is_word = true;
            }
        }
    }
    if is_word {
        words.push(word);
    }
    words
}

/// With the specifiers of systemd.unit(5) that a unit's name and the system manager decide.
fn expanded(unit: &str, text: &str) -> Option<String> {
    let (stem, _) = unit.rsplit_once('.')?;
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next()? {
            '%' => out.push('%'),
            'n' => out.push_str(unit),
            'N' => out.push_str(stem),
            'p' => out.push_str(prefix),
            'i' => out.push_str(instance),
            't' => out.push_str("/run"),
            'S' => out.push_str("/var/lib"),
            'C' => out.push_str("/var/cache"),
            'L' => out.push_str("/var/log"),
            'E' => out.push_str("/etc"),
            'h' => out.push_str("/root"),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{Definition, ManagedPath, of_service};

    /// What a change of this path means to a service with these lines.
    fn named(lines: &str, path: &str) -> Vec<String> {
        let definition = Definition::read([format!("[Service]\n{lines}").as_str()]);
        let inputs = of_service("shop@1.service", &definition, &|root| root == "/srv/shop/venv");
        let path = ManagedPath::new(path).unwrap();
        inputs.into_iter().filter(|input| input.covers(&path)).map(|input| input.what).collect()
    }

    #[test]
    fn what_a_service_names() {
        for (lines, path, expected) in [
            ("ExecStart=/srv/shop/run --fast", "/srv/shop/run", "program /srv/shop/run"),
            ("ExecStart=-+/srv/shop/run", "/srv/shop/run", "program /srv/shop/run"),
            ("ExecStart=/usr/bin/python3 \"/srv/my shop.py\" /x", "/srv/my shop.py", "argument /srv/my shop.py"),
            ("ExecStart=/srv/shop/venv/bin/gunicorn shop", "/srv/shop/venv/lib/x.py", "virtual environment /srv/shop/venv"),
            ("ExecStart=/srv/other/bin/shop", "/srv/other/lib/x.py", ""),
            ("WorkingDirectory=/srv/shop/", "/srv/shop/a/b.py", "WorkingDirectory /srv/shop"),
            ("WorkingDirectory=-/srv/shop", "/srv/shopping/b.py", ""),
            ("WorkingDirectory=/", "/etc/motd", ""),
            ("WorkingDirectory=/srv", "/srv/shop/x", ""),
            ("WorkingDirectory=~", "/home/shop/x", ""),
            ("EnvironmentFile=-/etc/shop/env", "/etc/shop/env", "EnvironmentFile /etc/shop/env"),
            ("EnvironmentFile=/etc/shop/*.env", "/etc/shop/a.env", "EnvironmentFile /etc/shop/*.env"),
            ("EnvironmentFile=%E/shop/%i.env", "/etc/shop/1.env", "EnvironmentFile /etc/shop/1.env"),
            ("EnvironmentFile=/etc/shop/%H.env", "/etc/shop/x.env", ""),
            ("EnvironmentFile=/etc/a\nEnvironmentFile=\nEnvironmentFile=/etc/b", "/etc/a", ""),
            ("LoadCredential=db:/etc/shop/db", "/etc/shop/db", "LoadCredential /etc/shop/db"),
            ("LoadCredential=all:/etc/shop/creds", "/etc/shop/creds/db", "LoadCredential /etc/shop/creds"),
            ("LoadCredential=from-the-manager", "/etc/from-the-manager", ""),
            ("ExecStartPre=/srv/shop/prepare", "/srv/shop/prepare", ""),
        ] {
            assert_eq!(named(lines, path).join("|"), expected, "{lines:?} and {path}");
        }
    }
}
