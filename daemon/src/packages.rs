//! dpkg's database of packages, as its status file has it (deb822(5), dpkg-query(1)). Pure.

use std::collections::BTreeMap;

use crate::change::ABSENT;

/// Where dpkg keeps it.
pub const STATUS: &str = "/var/lib/dpkg/status";
/// Longest status file that is read, in bytes: some megabytes are usual.
pub const LIMIT: u64 = 64 << 20;

/// What is known of one package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Package {
    /// The third word of `Status`: installed, config-files, half-configured…
    status: String,
    version: String,
}

/// All packages that dpkg knows.
#[derive(Debug, Default)]
pub struct Packages {
    by_name: BTreeMap<String, Package>,
    /// Names that installed packages stand for (`Provides`), and the package that does.
    provided: BTreeMap<String, String>,
}

impl Packages {
    /// Reads the status file. Stanzas without a name are left out, as dpkg does.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut packages = Self::default();
        for stanza in text.split("\n\n") {
            let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
            let Some(name) = field("Package") else { continue };
            let status = field("Status").and_then(|status| status.split(' ').nth(2)).unwrap_or_default().to_owned();
            let version = field("Version").unwrap_or_default().to_owned();
            if status == "installed" {
                let provided = field("Provides").unwrap_or_default().split(',');
                let names = provided.filter_map(|one| one.split_ascii_whitespace().next());
                packages.provided.extend(names.map(|provided| (provided.to_owned(), name.to_owned())));
            }
            // Of two architectures of one package the one that is installed counts.
            let known = packages.by_name.entry(name.to_owned()).or_default();
            if known.status != "installed" {
                *known = Package { status, version };
            }
        }
        packages
    }

    /// What there is of a package, or of one that stands for it: `absent`, `installed`, `half-configured`; with `version` that of an
    /// installed one too.
    #[must_use]
    pub fn answer(&self, wanted: &str) -> String {
        let (name, with_version) = wanted.split_once('=').map_or((wanted, false), |(name, _)| (name, true));
        let own = self.by_name.get(name).filter(|package| !is_gone(package));
        match own.or_else(|| self.by_name.get(self.provided.get(name)?)) {
            None => ABSENT.to_owned(),
            Some(package) if package.status == "installed" && with_version => format!("installed {}", package.version),
            Some(package) => package.status.clone(),
        }
    }

    /// Every package of which dpkg knows anything, with its status: what there was before an installation.
    #[must_use]
    pub fn census(&self) -> BTreeMap<&str, &str> {
        self.by_name.iter().map(|(name, package)| (name.as_str(), package.status.as_str())).collect()
    }

    /// Packages that are there now and were not in an earlier census; with whether only their configuration was left then.
    #[must_use]
    pub fn added_since(&self, census: &BTreeMap<String, String>) -> BTreeMap<&str, bool> {
        let mut added = BTreeMap::new();
        for (name, _) in self.by_name.iter().filter(|(_, package)| !is_gone(package)) {
            match census.get(name).map(String::as_str) {
                None | Some("not-installed") => drop(added.insert(name.as_str(), false)),
                Some("config-files") => drop(added.insert(name.as_str(), true)),
                Some(_) => {}
            }
        }
        added
    }
}

fn is_gone(package: &Package) -> bool {
    matches!(package.status.as_str(), "not-installed" | "config-files" | "")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Packages;

    const TEXT: &str = "Package: nginx\nStatus: install ok installed\nVersion: 1.22.1-9\nProvides: httpd, httpd-cgi (= 1)\nDescription: x\n y\n\n\
        Package: old\nStatus: deinstall ok config-files\nVersion: 1\n\n\
        Package: torn\nStatus: install ok half-configured\nVersion: 2\n\n\
        Package: libc6\nStatus: deinstall ok config-files\nArchitecture: i386\nVersion: 1\n\n\
        Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36\n";

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
            ("none", "absent"),
        ] {
            assert_eq!(packages.answer(wanted), answer, "{wanted}");
        }
    }

    #[test]
    fn what_was_added() {
        let census =
            BTreeMap::from([("libc6", "installed"), ("torn", "config-files")].map(|(n, s)| (n.to_owned(), s.to_owned())));
        let packages = Packages::read(TEXT);
        assert_eq!(packages.added_since(&census), BTreeMap::from([("nginx", false), ("torn", true)]));
        let now: BTreeMap<String, String> = packages.census().into_iter().map(|(n, s)| (n.to_owned(), s.to_owned())).collect();
        assert_eq!(packages.added_since(&now), BTreeMap::new());
    }
}
