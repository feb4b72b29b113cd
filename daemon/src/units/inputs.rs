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

/// Where credentials are looked for that are named without a path (systemd.exec(5), `LoadCredential=`).
const CREDENTIAL_STORES: [&str; 2] = ["/etc/credstore", "/etc/credstore.encrypted"];

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

    /// Whether it is a tree, or part of one.
    #[must_use]
    pub fn is_within(&self, tree: &ManagedPath) -> bool {
        match &self.extent {
            Extent::File(path) | Extent::Tree(path) => std::path::Path::new(path).starts_with(tree.as_path()),
            Extent::Glob(_) => false,
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

    /// Where it is; of a glob nothing is said.
    #[must_use]
    pub fn root(&self) -> Option<&str> {
        match &self.extent {
            Extent::File(root) | Extent::Tree(root) => Some(root),
            Extent::Glob(_) => None,
        }
    }

    /// The same somewhere else: where links lead.
    #[must_use]
    pub fn at(&self, root: String) -> Self {
        let extent = match &self.extent {
            Extent::Tree(_) => Extent::Tree(root),
            Extent::File(_) | Extent::Glob(_) => Extent::File(root),
        };
        Self { what: self.what.clone(), is_argument: self.is_argument, extent }
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
        // `--config=/etc/shop.conf` names a file too.
        let value = |word: &str| word.strip_prefix('-').and_then(|word| word.split_once('=')).map(|(_, value)| value.to_owned());
        let named = command_words(line).into_iter().map(|word| value(&word).unwrap_or(word));
        let words: Vec<String> = named.filter_map(|word| absolute(&word)).collect();
        let Some((program, arguments)) = words.split_first() else { continue };
        inputs.extend(Input::file("program", program));
        let root = program.rsplit_once("/bin/").map(|(root, _)| root).filter(|root| is_venv(root));
        inputs.extend(root.and_then(|root| Input::tree("virtual environment", root)));
        inputs.extend(arguments.iter().filter_map(|path| Input::file(ARGUMENT, path)));
    }
    inputs.extend(credentials(definition, &absolute));
    for key in ["BindPaths", "BindReadOnlyPaths"] {
        // A file that is replaced is another one: the mount goes on showing the old one.
        let binds = definition.values("Service", key).iter().flat_map(|line| words(line));
        let sources = binds.filter_map(|bind| absolute(bind.split(':').next()?.trim_start_matches('-')));
        inputs.extend(sources.filter_map(|path| Input::file(key, &path)));
    }
    let directory = definition.value("Service", "WorkingDirectory").map(|d| d.trim_start_matches('-'));
    inputs.extend(directory.and_then(absolute).and_then(|path| Input::tree("WorkingDirectory", &path)));
    for file in definition.values("Service", "EnvironmentFile") {
        inputs.extend(absolute(file.trim_start_matches('-')).and_then(|path| Input::file("EnvironmentFile", &path)));
    }
    inputs
}

/// Credentials by path, and those that are found by their names, or by a glob over names.
fn credentials(definition: &Definition, absolute: &dyn Fn(&str) -> Option<String>) -> Vec<Input> {
    let mut inputs = Vec::new();
    for key in ["LoadCredential", "LoadCredentialEncrypted", "ImportCredential"] {
        for value in definition.values("Service", key) {
            match value.split_once(':').filter(|_| key != "ImportCredential").map(|(_, path)| absolute(path)) {
                Some(path) => {
                    inputs.extend(path.as_deref().and_then(|path| Input::file(key, path)));
                    inputs.extend(path.as_deref().and_then(|path| Input::tree(key, path)));
                }
                None => {
                    let name = value.split(':').next().unwrap_or(value);
                    inputs.extend(CREDENTIAL_STORES.iter().filter_map(|store| Input::file(key, &format!("{store}/{name}"))));
                }
            }
        }
    }
    inputs
}

/// The words of a command line, without the prefixes of its program (systemd.service(5), "Command Lines").
pub(super) fn command_words(line: &str) -> Vec<String> {
    words(line.trim_start_matches(['@', '-', ':', '+', '!', '|']))
}

/// The words of a value, which quotes may hold together.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut is_word) = (String::new(), None, false);
    for c in line.chars() {
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
pub(super) fn expanded(unit: &str, text: &str) -> Option<String> {
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
            ("LoadCredential=tok", "/etc/credstore/tok", "LoadCredential /etc/credstore/tok"),
            ("ImportCredential=tok*", "/etc/credstore/token", "ImportCredential /etc/credstore/tok*"),
            ("BindReadOnlyPaths=-/etc/a.conf:/etc/b.conf:norbind /etc/c", "/etc/a.conf", "BindReadOnlyPaths /etc/a.conf"),
            ("BindPaths=/etc/a /etc/c", "/etc/c", "BindPaths /etc/c"),
            ("ExecStart=/bin/x --conf=/etc/x.conf", "/etc/x.conf", "argument /etc/x.conf"),
            ("ExecStart=/bin/x A=/etc/x.conf", "/etc/x.conf", ""),
            ("ExecStartPre=/srv/shop/prepare", "/srv/shop/prepare", ""),
        ] {
            assert_eq!(named(lines, path).join("|"), expected, "{lines:?} and {path}");
        }
    }
}
