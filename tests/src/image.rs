//! Saved disks to boot hosts from, so that what takes long is done once: Debian, the packages a scenario needs, ours.
//! An image is named after all that went into it, and made by whoever asks first.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::host::Host;
use crate::run::{self, Output};

/// What the hosts of most scenarios have besides Debian's minimum: all that a run of the package brings in, and tools to look with.
const STACK: &str = "openssh-server,git,polkitd,age,man-db,nginx,sqlite3,strace,python3,dbus";
/// What a bare host needs so that one can push to it.
const REACHED: &str = "openssh-server,git,polkitd,age";
/// dpkg waits for none of thousands of small files: no scenario cuts the power while it is at work.
const FAST: &str = "force-unsafe-io\n";
/// What costs time at each start, daemon-reload and login, and is looked at by no scenario: systemd's own generators, which find nothing on
/// these hosts (systemd.generator(7)), but for that of init scripts, and sessions of logind, each first one with a manager of its own
/// (pam_systemd(8)). Hosts of [`Image::base`] have them.
const LEAN: &str =
    "mkdir -p /etc/systemd/system-generators && cd /usr/lib/systemd/system-generators && for generator in systemd-*; do
    [ $generator = systemd-sysv-generator ] || ln -s /dev/null /etc/systemd/system-generators/$generator
  done && pam-auth-update --package --remove systemd";
/// What the packages of a host's manifest are taken from: a Django site with its database, cache and firewall.
const OFFERED: &str = "python3-venv,python3-dev,libpq-dev,postgresql,postgresql-contrib,nginx,curl,ufw,redis-server,file";
/// The same for pip.
const WHEELS: &str = "Django==5.2.19,gunicorn==27.0.1,psycopg2-binary==2.9.13";
/// Settings of hosts with our package: nothing happens by itself, however long a scenario takes.
const QUIET: &str = "watch = false\nlook_interval = \"1h\"\n";
/// The programs that guards are shipped for, as far as [`STACK`] has them not, and what a web application runs on.
const PROGRAMS: &str = "sudo,postgresql,redis-server,pgbouncer,haproxy,apache2,logrotate,cron,nftables,gunicorn,python3-django";
/// Images of one kind and release that are kept.
const KEEP: &str = "2";

/// A Debian release that scenarios run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian 12, systemd 252.
    Bookworm,
    /// Debian 13, systemd 257.
    Trixie,
}

impl Release {
    /// Its name as Debian writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Release::Bookworm => "bookworm",
            Release::Trixie => "trixie",
        }
    }
}

/// A disk to boot hosts from.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its release.
    pub release: Release,
    /// The saved image's name; none for Debian as it is.
    pub(crate) name: Option<String>,
    /// Digest of all that went into it.
    key: String,
}

impl Image {
    /// Debian's minimum with a package source that has [`STACK`], made when missing.
    #[track_caller]
    pub(crate) fn base(release: Release) -> Image {
        static BASES: [OnceLock<Image>; 2] = [const { OnceLock::new() }; 2];
        let made = BASES[release as usize].get_or_init(|| {
            let lock = lock("base", release);
            let base = testhost(&["build", "--release", release.name()], b"").ok();
            let key = digest(&[base.as_bytes(), STACK.as_bytes()]);
            mirror(release, STACK, &key);
            drop(lock);
            Image { release, name: None, key }
        });
        made.clone()
    }

    /// The packages of [`STACK`] on top; nginx installed, neither enabled nor running.
    #[track_caller]
    pub(crate) fn stack(release: Release) -> Image {
        static STACKS: [OnceLock<Image>; 2] = [const { OnceLock::new() }; 2];
        let made = STACKS[release as usize].get_or_init(|| {
            Image::base(release).derive("stack", &[LEAN.as_bytes()], |host| {
                host.apt(&format!("update -qq && apt-get install -y -qq {}", STACK.replace(',', " ")));
                host.sh(LEAN).ok();
                host.sh("systemctl disable --now nginx && apt-get clean").ok();
                // No scenario looks for a manual, and its index would be made anew with each package that comes.
                host.sh("rm -f /var/lib/man-db/auto-update").ok();
            })
        });
        made.clone()
    }

    /// The package under test on top.
    #[track_caller]
    pub(crate) fn installed(release: Release) -> Image {
        static INSTALLED: [OnceLock<Image>; 2] = [const { OnceLock::new() }; 2];
        let made = INSTALLED[release as usize].get_or_init(|| Image::stack(release).with_deb("deb", &deb()));
        made.clone()
    }

    /// The package under test on top, with [`PROGRAMS`]; those that are services do not run.
    #[track_caller]
    pub(crate) fn programs(release: Release) -> Image {
        static PROGRAMMED: [OnceLock<Image>; 2] = [const { OnceLock::new() }; 2];
        let made = PROGRAMMED[release as usize].get_or_init(|| {
            let lock = lock("base", release);
            mirror(release, PROGRAMS, &digest(&[PROGRAMS.as_bytes()]));
            drop(lock);
            // In this order, so that another package under test costs no apt.
            let stack = Image::stack(release).derive("programs", &[PROGRAMS.as_bytes()], |host| {
                host.apt(&format!("update -qq && apt-get install -y -qq --no-install-recommends {}", PROGRAMS.replace(',', " ")));
                host.sh("systemctl disable --now postgresql redis-server pgbouncer haproxy apache2 && apt-get clean").ok();
            });
            stack.with_deb("guarded", &deb())
        });
        made.clone()
    }

    /// The package under test on a host that has nothing else, and can have what the tutorial of a Django site names.
    #[track_caller]
    pub(crate) fn bare(release: Release) -> Image {
        static BARES: [OnceLock<Image>; 2] = [const { OnceLock::new() }; 2];
        let made = BARES[release as usize].get_or_init(|| {
            let lock = lock("base", release);
            mirror(release, &format!("{REACHED},{OFFERED}"), &digest(&[REACHED.as_bytes(), OFFERED.as_bytes()]));
            let wheeled = home().join(format!(".wheels-{}-{}", release.name(), digest(&[WHEELS.as_bytes()])));
            if !wheeled.exists() {
                testhost(&["mirror", "--release", release.name(), "--pip", WHEELS], b"").ok();
                File::create(&wheeled).unwrap_or_else(|e| panic!("{}: {e}", wheeled.display()));
            }
            drop(lock);
            let reached =
                Image::base(release).derive("reached", &[REACHED.as_bytes(), FAST.as_bytes(), LEAN.as_bytes()], |host| {
                    host.apt(&format!("update -qq && apt-get install -y -qq {}", REACHED.replace(',', " ")));
                    host.sh(LEAN).ok();
                    // As on a host that has never heard of another package.
                    host.sh("apt-get clean && rm -rf /var/lib/apt/lists/*").ok();
                    host.write("/etc/dpkg/dpkg.cfg.d/tests", FAST);
                });
            reached.with_deb("bare", &deb())
        });
        made.clone()
    }

    /// The package that can be told to die, on top.
    #[track_caller]
    pub(crate) fn with_failpoints(release: Release) -> Image {
        static INSTALLED: [OnceLock<Image>; 2] = [const { OnceLock::new() }; 2];
        let made = INSTALLED[release as usize]
            .get_or_init(|| Image::stack(release).with_deb("die", &package("RECONCILED_DEB_FAILPOINTS")));
        made.clone()
    }

    #[track_caller]
    fn with_deb(&self, kind: &str, deb: &Path) -> Image {
        let content = fs::read(deb).unwrap_or_else(|e| panic!("{}: {e}", deb.display()));
        self.derive(kind, &[&content, QUIET.as_bytes()], |host| {
            host.install(deb);
            // What a scenario changes by hand has to stay until it says what is to happen; those about events switch it on.
            host.write("/etc/reconciled/reconciled.d/00-quiet.toml", QUIET);
        })
    }

    /// What `make` does to a host of this image, saved; done once for the same image, kind and inputs.
    #[track_caller]
    pub fn derive(&self, kind: &str, inputs: &[&[u8]], make: impl FnOnce(&Host)) -> Image {
        let all: Vec<&[u8]> = [self.key.as_bytes(), kind.as_bytes()].into_iter().chain(inputs.iter().copied()).collect();
        let key = digest(&all);
        let prefix = format!("{kind}-{}-", self.release.name());
        let name = format!("{prefix}{key}");
        let saved = home().join("images").join(&name);
        let _lock = lock(kind, self.release);
        if !saved.exists() {
            let host = Host::boot(self);
            make(&host);
            host.save(&name);
            testhost(&["prune", &prefix, KEEP], b"").ok();
        }
        Image { release: self.release, name: Some(name), key }
    }
}

/// Has the package source of a release offer these, once for each key.
#[track_caller]
fn mirror(release: Release, packages: &str, key: &str) {
    let mirrored = home().join(format!(".mirrored-{}-{key}", release.name()));
    if !mirrored.exists() {
        testhost(&["mirror", "--release", release.name(), "--deb", packages], b"").ok();
        File::create(&mirrored).unwrap_or_else(|e| panic!("{}: {e}", mirrored.display()));
    }
}

/// The package under test.
#[track_caller]
pub(crate) fn deb() -> PathBuf {
    package("RECONCILED_DEB")
}

#[track_caller]
fn package(variable: &str) -> PathBuf {
    let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) else {
        panic!("no package to test: run make test, or set {variable}");
    };
    // Tests run in the folder of their crate; the path was written in the one above.
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Where hosts, images and locks are: `TESTHOST_HOME`, or a folder of the user's own.
pub(crate) fn home() -> PathBuf {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    let home = HOME.get_or_init(|| {
        let own = || {
            let uid = fs::metadata("/proc/self").map_or(0, |of| std::os::unix::fs::MetadataExt::uid(&of));
            PathBuf::from(format!("/var/tmp/reconciled-testhost-{uid}"))
        };
        let home = std::env::var_os("TESTHOST_HOME").map_or_else(own, PathBuf::from);
        fs::create_dir_all(&home).unwrap_or_else(|e| panic!("{}: {e}", home.display()));
        home
    });
    home.clone()
}

/// Runs the `testhost` program of this crate.
#[track_caller]
pub(crate) fn testhost(args: &[&str], stdin: &[u8]) -> Output {
    run::run(testhost_command(args), stdin)
}

/// The same for where a panic would be out of place.
pub(crate) fn try_testhost(args: &[&str]) -> Result<Output, String> {
    run::try_run(testhost_command(args), b"")
}

fn testhost_command(args: &[&str]) -> Command {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/testhost/testhost");
    let mut command = run::root_command(&[&[program], args].concat());
    command.env("TESTHOST_HOME", home());
    command
}

/// Held while something is made, across threads and processes; given up on drop.
#[track_caller]
fn lock(kind: &str, release: Release) -> File {
    let path = home().join(format!(".making-{kind}-{}", release.name()));
    let file = File::create(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.lock().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file
}

/// A short digest of these, in order, their borders included.
#[track_caller]
fn digest(parts: &[&[u8]]) -> String {
    let all: Vec<u8> = parts.iter().flat_map(|part| [part.len().to_le_bytes().as_slice(), part].concat()).collect();
    run::run(run::command(&["sha256sum"]), &all).ok()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn a_digest_sees_where_one_input_ends() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_eq!(digest(&[b"ab"]).len(), 12);
    }
}
