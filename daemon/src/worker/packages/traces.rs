//! What stood on the host before packages came to it, and whether purging one of them could take that away: its configuration files, and
//! what the script that it is purged with names (deb-postrm(5)). When in doubt it could.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::accounts::{Accounts, FIRST_OF_HOST, GROUP, PASSWD};

/// Where packages and people keep data, and how many names deep that is told apart; `/etc` to its end.
const ROOTS: [(&str, usize); 9] = [
    ("/etc", usize::MAX),
    ("/var", 3),
    ("/srv", 3),
    ("/opt", 3),
    ("/home", 3),
    ("/root", 3),
    ("/boot", 2),
    ("/mnt", 2),
    ("/usr/local", 4),
];
/// With more places than these nobody can tell.
const LIMIT: usize = 200_000;
/// dpkg's lists of the files of each package, and its scripts.
const INFO: &str = "/var/lib/dpkg/info";
/// Programs that remove accounts, which may be older than the package.
const REMOVERS: [&str; 4] = ["userdel", "deluser", "groupdel", "delgroup"];

/// What stood on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Traces {
    /// Every place, and whether a package has it.
    places: BTreeMap<String, bool>,
    /// Names of users and groups, but for Debian's own.
    accounts: BTreeSet<String>,
    /// Whether that is all.
    is_all: bool,
}

impl Traces {
    /// As it is now.
    pub(super) fn look() -> io::Result<Self> {
        let owned = owned()?;
        let mut traces = Self { places: BTreeMap::new(), accounts: accounts()?, is_all: true };
        for (root, depth) in ROOTS {
            traces.walk(Path::new(root), depth, &owned);
        }
        Ok(traces)
    }

    fn walk(&mut self, directory: &Path, depth: usize, owned: &BTreeSet<String>) {
        let names = directory.components().count() - 1;
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            // One that not even root may read (FUSE).
            Err(_) => return self.is_all = false,
            Ok(entries) => entries,
        };
        for entry in entries {
            let Ok(entry) = entry else { return self.is_all = false };
            // A name that is no text cannot be compared with what a script says.
            let Some(path) = entry.path().to_str().map(str::to_owned) else {
                self.is_all = false;
                continue;
            };
            if self.places.len() >= LIMIT {
                return self.is_all = false;
            }
            let is_owned = owned.contains(&path);
            self.places.insert(path, is_owned);
            // One that goes while it is looked at was none of a package's data.
            if names + 1 < depth && entry.file_type().is_ok_and(|of| of.is_dir()) {
                self.walk(&entry.path(), depth, owned);
            }
        }
    }

    /// What purging a package could take away of it, in words; `None`: nothing.
    pub(super) fn of(&self, conffiles: &[String], script: &str) -> Option<String> {
        if !self.is_all {
            return Some("it cannot be told what was there before".to_owned());
        }
        if let Some(path) = conffiles.iter().find(|path| self.places.contains_key(*path)) {
            return Some(format!("{path} was there before"));
        }
        let script = expanded(script);
        let lines = script.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let place = lines.flat_map(named).find_map(|named| self.meets(&named));
        if let Some(path) = place {
            return Some(format!("{path} was there before"));
        }
        let mut words = script.split(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c)));
        if !words.clone().any(|word| REMOVERS.contains(&word)) {
            return None;
        }
        words.find(|word| self.accounts.contains(*word)).map(|name| format!("the account {name} was there before"))
    }

    /// A place that was there and that is meant, or may be.
    fn meets(&self, named: &Named) -> Option<&str> {
        let depth = ROOTS.iter().find(|(root, _)| named.path.starts_with(&format!("{root}/"))).map_or(1, |(_, depth)| *depth);
        // As much of it as was looked at.
        let cut = named.path.match_indices('/').nth(depth).map(|(end, _)| &named.path[..end]);
        match (cut, named.is_whole) {
            (Some(cut), _) => self.places.get_key_value(cut).map(|(path, _)| path.as_str()),
            (None, true) => {
                let (path, is_owned) = self.places.get_key_value(named.path.trim_end_matches('/'))?;
                // A directory that another package has stays, whatever is in it: a script that names it means something in it by name.
                (!is_owned).then_some(path.as_str())
            }
            (None, false) => {
                let below = self.places.range(named.path.clone()..).take_while(|(path, _)| path.starts_with(&named.path));
                // Nor does a script take what another package has there, where it has no data of which nobody knows.
                let counts = |(_, is_owned): &(&String, &bool)| !**is_owned || depth != usize::MAX;
                below.into_iter().find(counts).map(|(path, _)| path.as_str())
            }
        }
    }
}

/// A path in a script.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    path: String,
    /// Nothing is added to it: neither a pattern nor a variable stands after it, nor is it kept in one.
    is_whole: bool,
}

/// The paths in a line of a script that lie where data may be.
fn named(line: &str) -> Vec<Named> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./+@:%,~".contains(c);
    let mut found = Vec::new();
    for (root, _) in &ROOTS {
        for (at, _) in line.match_indices(root) {
            let (before, rest) = (&line[..at], &line[at..]);
            let path: String = rest.chars().take_while(|c| is_plain(*c)).collect();
            // `/etcetera`, or `/usr/share/x/etc`: what such a word is part of is read where it begins.
            let is_root = path[root.len()..].starts_with('/') || path.len() == root.len();
            if !is_root || before.ends_with(|c: char| is_plain(c) && c != '/') && !is_after_variable(before) {
                continue;
            }
            let after = rest[path.len()..].chars().next();
            let adds = after.is_some_and(|c| "$*?[{(`".contains(c)) || followed_by_variable(&rest[path.len()..]);
            let is_kept = before.trim_end_matches(['"', '\'']).ends_with(['=', ':']) || line.starts_with("for ");
            // `cd /var/lib`, or what is added in another line.
            let is_base = path.trim_end_matches('/').matches('/').count() < if *root == "/var" { 3 } else { 2 };
            found.push(Named { is_whole: !adds && !is_kept && !is_base, path });
        }
    }
    found
}

/// A script with the variables in it that are set once, to a plain word.
fn expanded(script: &str) -> String {
    let mut script = script.to_owned();
    let lines: Vec<String> = script.lines().map(|line| line.trim().to_owned()).collect();
    for line in &lines {
        let Some((name, value)) = line.split_once('=') else { continue };
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let value = value.trim_matches(['"', '\'']);
        let is_word = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "_-./+".contains(c));
        let sets = |line: &&String| {
            let mut words = line.split([' ', '\t', ';']).filter(|word| !word.is_empty());
            line.contains(&format!("{name}="))
                || (words.any(|word| matches!(word, "for" | "read" | "local" | "unset")) && line.contains(name))
        };
        if is_name && is_word && lines.iter().filter(sets).count() == 1 {
            script = script.replace(&format!("${{{name}}}"), value);
            script = substituted(&script, name, value);
        }
    }
    script
}

/// `$name`, where the name ends there.
fn substituted(script: &str, name: &str, value: &str) -> String {
    let variable = format!("${name}");
    let mut parts = script.split(&variable);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let goes_on = part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        text.push_str(if goes_on { &variable } else { value });
        text.push_str(part);
    }
    text
}

/// `$ROOT/etc`, `${ROOT}/etc`, `${ROOT:-}/etc`: the variable is most often empty.
fn is_after_variable(before: &str) -> bool {
    let name = before.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
    name.ends_with('$')
}

/// `"/etc/x/"$name`.
fn followed_by_variable(rest: &str) -> bool {
    let inner = rest.trim_start_matches(['"', '\'']);
    inner.len() < rest.len() && inner.starts_with(|c: char| "$*?[{(`/".contains(c) || c.is_ascii_alphanumeric())
}

/// The script that dpkg runs when it purges a package; `None` where it is no text.
pub(super) fn script(name: &str, architecture: &str) -> io::Result<Option<String>> {
    for file in [format!("{INFO}/{name}.postrm"), format!("{INFO}/{name}:{architecture}.postrm")] {
        match fs::read(file) {
            Ok(text) => return Ok(String::from_utf8(text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(String::new()))
}

/// Every place that a package has.
fn owned() -> io::Result<BTreeSet<String>> {
    let mut owned = BTreeSet::new();
    for entry in fs::read_dir(INFO)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "list") {
            let text = fs::read(&path)?;
            let lines = String::from_utf8_lossy(&text).into_owned();
            owned.extend(lines.lines().filter(|line| ROOTS.iter().any(|(root, _)| line.starts_with(root))).map(str::to_owned));
        }
    }
    Ok(owned)
}

fn accounts() -> io::Result<BTreeSet<String>> {
    let accounts = Accounts::read(&fs::read_to_string(PASSWD)?, &fs::read_to_string(GROUP)?, "");
    Ok(accounts.names_from(FIRST_OF_HOST))
}

#[cfg(test)]
mod tests {
    use super::{BTreeMap, Traces};

    fn traces(loose: &[&str], owned: &[&str]) -> Traces {
        let of = |paths: &[&str], owned| paths.iter().map(|path| ((*path).to_owned(), owned)).collect::<BTreeMap<_, _>>();
        let mut places = of(loose, false);
        places.extend(of(owned, true));
        Traces { places, accounts: ["mysql".to_owned()].into(), is_all: true }
    }

    const BARE: [&str; 16] = [
        "/etc/ufw",
        "/etc/ufw/applications.d",
        "/etc/ufw/applications.d/openssh-server",
        "/etc/apt",
        "/etc/apt/apt.conf.d",
        "/etc/default",
        "/etc/default/dbus",
        "/etc/init.d",
        "/etc/ssl",
        "/etc/ssl/certs",
        "/etc/ssl/private",
        "/usr/local/lib",
        "/var/cache",
        "/var/lib",
        "/var/lib/dpkg",
        "/var/log",
    ];

    /// As Debian has them, shortened.
    const SCRIPTS: [(&str, &str); 7] = [
        ("sysstat", "PACKAGE=sysstat\nDEFAULT=\"/etc/default/$PACKAGE\"\nrm -f $DEFAULT /etc/default/${PACKAGE}.old"),
        (
            "nginx",
            "if [ \"$1\" = \"remove\" ] && [ -x \"/etc/init.d/nginx\" ] ; then\nrm -rf /var/lib/nginx /var/log/nginx /etc/nginx",
        ),
        (
            "postgresql",
            "rm -rf \"/var/lib/postgresql/$VERSION/$1/\"\nrm -f /var/log/postgresql/postgresql-$VERSION-\"$1\".log*\n\
             for c in /etc/postgresql/$VERSION/*; do\nrm -f /etc/apt/apt.conf.d/02autoremove-postgresql*",
        ),
        (
            "ssl-cert",
            "rm -f /etc/ssl/certs/ssl-cert-snakeoil.pem\nfind /etc/ssl/certs -lname x -delete\nchmod 700 /etc/ssl/private",
        ),
        ("ufw", "RULES_PATH=\"/etc/ufw\"\nrm -f $RULES_PATH/$f"),
        ("python", "if [ -d /usr/local/lib/python3.13 ]; then rmdir --ignore-fail-on-non-empty /usr/local/lib/python3.13; fi"),
        ("dpkg-root", "rm -f \"${DPKG_ROOT:-}/etc/thing\" \"$DPKG_ROOT/var/lib/thing/x\""),
    ];

    fn of(traces: &Traces, name: &str) -> Option<String> {
        traces.of(&[], SCRIPTS.iter().find(|(known, _)| *known == name).unwrap().1)
    }

    #[test]
    fn on_a_bare_host_everything_may_go_again() {
        for (name, _) in SCRIPTS {
            assert_eq!(of(&traces(&[], &BARE), name), None, "{name}");
        }
        assert_eq!(traces(&[], &BARE).of(&["/etc/x.conf".to_owned()], ""), None);
    }

    #[test]
    fn what_was_there_keeps_a_package_from_being_purged() {
        for (place, name) in [
            ("/etc/init.d/nginx", "nginx"),
            ("/var/log/nginx", "nginx"),
            ("/var/lib/postgresql", "postgresql"),
            ("/etc/postgresql/15", "postgresql"),
            ("/etc/apt/apt.conf.d/02autoremove-postgresql-15", "postgresql"),
            ("/etc/ssl/certs/ssl-cert-snakeoil.pem", "ssl-cert"),
            ("/etc/ufw/user.rules", "ufw"),
            ("/etc/default/sysstat", "sysstat"),
            ("/usr/local/lib/python3.13", "python"),
            ("/etc/thing", "dpkg-root"),
            ("/var/lib/thing", "dpkg-root"),
        ] {
            let why = of(&traces(&[place], &BARE), name);
            assert_eq!(why, Some(format!("{place} was there before")), "{name}");
        }
        let conffile = ["/etc/x.conf".to_owned()];
        assert!(traces(&["/etc/x.conf"], &[]).of(&conffile, "").is_some());
        assert!(Traces { is_all: false, ..traces(&[], &[]) }.of(&[], "").is_some());
    }

    #[test]
    fn what_may_mean_anything_is_taken_to_mean_what_was_there() {
        let bare = traces(&[], &BARE);
        for script in [
            "rm -rf /var/lib/$NAME",
            "rm -rf \"/var/lib/\"$NAME",
            "BASE=/var/lib",
            "for d in /var/lib /var/log; do rm -rf $d/x; done",
            "cd /var && rm -rf lib/x",
            "deluser --system mysql",
            "NAME=x\nNAME=y\nrm -rf /var/lib/$NAME",
            "NAME=x\nfor NAME in a b; do\nrm -rf /var/lib/$NAME",
            "NAME=x\nrm -rf /var/lib/$NAMES",
        ] {
            assert!(bare.of(&[], script).is_some(), "{script}");
        }
        assert_eq!(bare.of(&[], "deluser --system other # not mysqld"), None);
        assert_eq!(bare.of(&[], "# /etc/ssl/$x\ncat /usr/share/var/lib/x /usr/share/etc"), None);
    }
}
