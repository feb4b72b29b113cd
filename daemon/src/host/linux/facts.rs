//! Where the facts of this host are read. What the texts mean is said in `facts`.

use std::fs;
use std::path::Path;

use crate::facts::{Facts, Os, Postgresql, addresses, fqdn, memory_mb, short};

/// Where Debian installs each major version of PostgreSQL.
const POSTGRESQL: &str = "/usr/lib/postgresql";

/// The facts of this host; what cannot be read is not there.
#[must_use]
pub fn facts() -> Facts {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    Facts {
        hostname: short(&name).to_owned(),
        fqdn: fqdn(&name, &text("/etc/hosts")),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mb: memory_mb(&text("/proc/meminfo")),
        addresses: addresses(&network("fib_trie"), &network("route"), &network("if_inet6")),
        os: Os::of_release(&text("/etc/os-release")),
        postgresql: Postgresql { version: newest_postgresql() },
        architecture: uname.machine().to_string_lossy().into_owned(),
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A table of the network of PID 1: the daemon itself has none.
fn network(table: &str) -> String {
    fs::read_to_string(format!("/proc/1/net/{table}")).unwrap_or_else(|_| text(&format!("/proc/net/{table}")))
}

fn newest_postgresql() -> Option<u32> {
    let versions = fs::read_dir(POSTGRESQL).ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    versions.filter(|version: &u32| Path::new(POSTGRESQL).join(format!("{version}/bin/postgres")).exists()).max()
}
