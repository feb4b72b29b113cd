//! dpkg's database of packages, as its status file has it (deb822(5), dpkg-query(1)); what the packages worker is asked. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::change::ABSENT;

/// Where dpkg keeps it.
pub const STATUS: &str = "/var/lib/dpkg/status";
/// What it has changed since it last wrote that anew: a file of one record for each change, numbered.
pub const UPDATES: &str = "/var/lib/dpkg/updates";
/// Longest status file that is read, in bytes: some megabytes are usual.
pub const LIMIT: u64 = 64 << 20;

/// Whether a file of [`UPDATES`] is a change, by its name: others are being written.
#[must_use]
pub fn is_update(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_digit())
}

/// What is known of one package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// Its architecture.
    pub architecture: String,
    /// The third word of `Status`: installed, config-files, half-configured…
    pub status: String,
    /// Its version.
    pub version: String,
    /// Its configuration files.
    pub conffiles: Vec<String>,
}

/// What the packages worker reads. All packages of one plan have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Every package with its status and version, as the plan saw it.
    pub census: BTreeMap<String, String>,
    /// What is declared absent: only that may go for something else.
    pub absent: BTreeSet<String>,
}

/// All packages that dpkg knows.
#[derive(Debug, Default)]
pub struct Packages {
    /// By name and architecture.
    known: BTreeMap<(String, String), Package>,
    /// Names that installed packages stand for (`Provides`), and the package that does.
    provided: BTreeMap<String, String>,
}

impl Packages {
    /// Reads dpkg's files, by their paths: the status file, and what is newer. `list` tells the names of these.
    ///
    /// # Errors
    /// What `list` and `read` say.
    pub fn gather<E>(list: impl Fn() -> Result<Vec<String>, E>, read: impl Fn(&str) -> Result<Vec<u8>, E>) -> Result<Self, E> {
        let once = || {
            let mut newer: Vec<String> = list()?.into_iter().filter(|name| is_update(name)).collect();
            newer.sort_by_key(|name| (name.len(), name.clone()));
            let paths = newer.iter().map(|name| format!("{UPDATES}/{name}"));
            let mut text = String::new();
            for path in [STATUS.to_owned()].into_iter().chain(paths) {
                text.push_str(&String::from_utf8_lossy(&read(&path)?));
                text.push_str("\n\n");
            }
            Ok(Self::read(&text))
        };
        // dpkg may have put them into the file meanwhile.
        once().or_else(|_: E| once())
    }

    /// Reads such files, the newest last. Stanzas without a name are left out, as dpkg does.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let (mut known, mut provides) = (BTreeMap::new(), BTreeMap::new());
        for stanza in text.split("\n\n") {
            let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
            let Some(name) = field("Package") else { continue };
            let text = |name| field(name).unwrap_or_default().to_owned();
            let package = Package {
                architecture: text("Architecture"),
                status: field("Status").and_then(|status| status.split(' ').nth(2)).unwrap_or_default().to_owned(),
                version: text("Version"),
                conffiles: conffiles(stanza),
            };
            let key = (name.to_owned(), package.architecture.clone());
            provides.insert(key.clone(), text("Provides"));
            known.insert(key, package);
        }
        let mut provided = BTreeMap::new();
        for (key, names) in &provides {
            if known.get(key).is_some_and(|package| package.status == "installed") {
                let names = names.split(',').filter_map(|one| one.split_ascii_whitespace().next());
                provided.extend(names.map(|name| (name.to_owned(), key.0.clone())));
            }
        }
        Self { known, provided }
    }

    /// A package, by its name or `NAME:ARCHITECTURE`; of two architectures the one that is installed.
    #[must_use]
    pub fn package(&self, name: &str) -> Option<&Package> {
        if let Some((name, architecture)) = name.split_once(':') {
            return self.known.get(&(name.to_owned(), architecture.to_owned()));
        }
        let mut all = self.known.range((name.to_owned(), String::new())..).take_while(|((known, _), _)| known == name);
        let first = all.next();
        let installed = first.into_iter().chain(all).find(|(_, package)| package.status == "installed");
        installed.or(first).map(|(_, package)| package)
    }

    /// What there is of a package, or of one that stands for it: `absent`, `installed`, `half-configured`; with `version` that of an
    /// installed one too.
    #[must_use]
    pub fn answer(&self, wanted: &str) -> String {
        let (name, with_version) = wanted.split_once('=').map_or((wanted, false), |(name, _)| (name, true));
        let own = self.package(name).filter(|package| package.is_there());
        match own.or_else(|| self.package(self.provided.get(name)?)) {
            None => ABSENT.to_owned(),
            Some(package) if package.status == "installed" && with_version => format!("installed {}", package.version),
            Some(package) => package.status.clone(),
        }
    }

    /// Every package of which dpkg knows anything, with its status and version.
    #[must_use]
    pub fn census(&self) -> BTreeMap<String, String> {
        let names = self.known.iter().map(|((name, architecture), package)| {
            (format!("{name}:{architecture}"), format!("{} {}", package.status, package.version))
        });
        names.collect()
    }
}

impl Package {
    /// Whether more of it is there than its configuration.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !matches!(self.status.as_str(), "not-installed" | "config-files" | "")
    }

    /// Whether dpkg knows nothing of it, or no more than its name.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self.status.as_str(), "not-installed" | "")
    }
}

/// The paths in a stanza's `Conffiles`: a line of its own for each, with its digest.
fn conffiles(stanza: &str) -> Vec<String> {
    let lines = stanza.lines().skip_while(|line| !line.starts_with("Conffiles:")).skip(1);
    let paths = lines.take_while(|line| line.starts_with(' ')).filter_map(|line| line.split_ascii_whitespace().next());
    paths.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{Packages, STATUS};

    const TEXT: &str = "Package: nginx\nStatus: install ok installed\nVersion: 1.22.1-9\nProvides: httpd, httpd-cgi (= 1)\nConffiles:\n \
        /etc/nginx/nginx.conf 0123\n /etc/logrotate.d/nginx 4567 obsolete\nDescription: x\n y\n\n\
        Package: old\nStatus: deinstall ok config-files\nVersion: 1\n\n\
        Package: torn\nStatus: install ok half-configured\nVersion: 2\n\n\
        Package: libc6\nStatus: deinstall ok config-files\nArchitecture: i386\nVersion: 1\n\n\
        Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36\n\n\
        Package: libc6-dev\nStatus: install ok unpacked\nArchitecture: amd64\nVersion: 2.36\n";

    #[test]
    fn answers() {
        let packages = Packages::read(TEXT);
        for (wanted, answer) in [
            ("nginx", "installed"),
            ("nginx=1.22.1-9", "installed 1.22.1-9"),
            ("nginx=2", "installed 1.22.1-9"),
            ("httpd", "installed"),
            ("httpd-cgi", "installed"),
            ("old", "absent"),
            ("torn", "half-configured"),
            ("libc6", "installed"),
            ("libc6-dev", "unpacked"),
            ("none", "absent"),
        ] {
            assert_eq!(packages.answer(wanted), answer, "{wanted}");
        }
        assert_eq!(packages.package("libc6:i386").unwrap().status, "config-files");
        assert_eq!(packages.package("nginx").unwrap().conffiles, ["/etc/nginx/nginx.conf", "/etc/logrotate.d/nginx"]);
        assert_eq!(packages.census()["libc6:amd64"], "installed 2.36");
    }

    #[test]
    fn what_dpkg_has_not_put_into_its_file_yet_counts() {
        let list = || Ok::<_, ()>(["0010", "0009", "tmp.i"].map(str::to_owned).to_vec());
        let gone = Cell::new(true);
        let read = |path: &str| match path {
            STATUS => Ok(TEXT.as_bytes().to_vec()),
            "/var/lib/dpkg/updates/0009" => {
                Ok(b"Package: nginx\nStatus: install ok half-configured\nVersion: 1.22.1-9\n".to_vec())
            }
            // Put into the file just now, and there again with the next change.
            _ if gone.replace(false) => Err(()),
            _ => Ok(b"Package: nginx\nStatus: install ok installed\nVersion: 2\n".to_vec()),
        };
        let packages = Packages::gather(list, read).unwrap();
        assert_eq!([packages.answer("nginx=2"), packages.answer("httpd")], ["installed 2", "absent"]);
    }
}
