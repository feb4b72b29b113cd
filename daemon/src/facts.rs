//! What a host says of itself, for templates and manifests. Pure: `host/linux/facts.rs` reads the texts that are understood here.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The facts of a host. What it does not have is left out, so that naming it is a mistake with a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Short hostname.
    pub hostname: String,
    /// Full name, if the host knows one: from its hostname, or from hosts(5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fqdn: Option<String>,
    /// Processors that programs may use.
    pub cpus: usize,
    /// Memory, in MiB.
    pub memory_mb: u64,
    /// Addresses by which others reach it: that of the default route first, IPv4 before IPv6.
    pub addresses: Vec<IpAddr>,
    /// Its operating system.
    pub os: Os,
    /// PostgreSQL, as it is installed.
    pub postgresql: Postgresql,
    /// As `uname -m` says: `x86_64`, `aarch64`.
    pub architecture: String,
}

/// An operating system, as os-release(5) has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Os {
    /// `ID`: `debian`.
    pub id: String,
    /// `VERSION_ID`: `12`; a release that is not out yet has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// `VERSION_CODENAME`: `bookworm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codename: Option<String>,
    /// `ID_LIKE`: what it descends from.
    pub like: Vec<String>,
}

/// PostgreSQL as it is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Postgresql {
    /// The newest major version that is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

/// The first label of a host's name.
#[must_use]
pub fn short(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// The full name of a host: its own if it has several labels, or the first of its line in hosts(5) that has.
#[must_use]
pub fn fqdn(name: &str, hosts: &str) -> Option<String> {
    let full = |candidate: &&str| candidate.contains('.') && short(candidate) == short(name);
    if full(&name) {
        return Some(name.to_owned());
    }
    let names = |line: &'_ str| -> Option<String> {
        let names: Vec<&str> = line.split('#').next()?.split_whitespace().skip(1).collect();
        names.contains(&name).then(|| names.iter().copied().find(full).map(str::to_owned))?
    };
    hosts.lines().find_map(names)
}

/// `MemTotal` of `/proc/meminfo` (proc(5)), in MiB.
#[must_use]
pub fn memory_mb(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kb = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kb.unwrap_or_default() / 1024
}

impl Os {
    /// Reads os-release(5).
    #[must_use]
    pub fn of_release(text: &str) -> Self {
        let value = |key: &str| {
            let written = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?.trim();
            let bare = ['"', '\''].iter().find_map(|quote| written.strip_prefix(*quote)?.strip_suffix(*quote));
            Some(bare.unwrap_or(written).to_owned()).filter(|value| !value.is_empty())
        };
        Self {
            id: value("ID").unwrap_or_else(|| "linux".to_owned()),
            version_id: value("VERSION_ID"),
            codename: value("VERSION_CODENAME"),
            like: value("ID_LIKE").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        }
    }
}

/// The addresses of a host out of three tables of the kernel: `fib_trie` and `route` for IPv4, `if_inet6` for IPv6. Those of the
/// loopback, of single links, and those that change by themselves (temporary ones) are left out.
#[must_use]
pub fn addresses(fib_trie: &str, route: &str, if_inet6: &str) -> Vec<IpAddr> {
    let routes: Vec<Route> = route.lines().filter_map(Route::parse).collect();
    let default = routes.iter().find(|r| r.mask == 0).map(|r| r.interface);
    let is_primary =
        |ip: Ipv4Addr| routes.iter().any(|r| r.mask != 0 && Some(r.interface) == default && u32::from(ip) & r.mask == r.network);
    let v4: BTreeSet<(bool, Ipv4Addr)> = local_v4(fib_trie).map(|ip| (!is_primary(ip), ip)).collect();
    let v6: BTreeSet<(bool, Ipv6Addr)> =
        if_inet6.lines().filter_map(global_v6).map(|(ip, interface)| (Some(interface) != default, ip)).collect();
    v4.into_iter().map(|(_, ip)| IpAddr::V4(ip)).chain(v6.into_iter().map(|(_, ip)| IpAddr::V6(ip))).collect()
}

/// A line of `/proc/net/route`.
struct Route<'a> {
    interface: &'a str,
    network: u32,
    mask: u32,
}

impl<'a> Route<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?;
        // The kernel prints them as they lie in memory, in network order.
        let number = |field: Option<&str>| u32::from_str_radix(field?, 16).ok().map(u32::to_be);
        let network = number(fields.next())?;
        let mask = number(fields.nth(5))?;
        Some(Self { interface, network, mask })
    }
}

/// The host's own addresses: `|-- ADDRESS`, and below it `/32 host LOCAL`.
fn local_v4(fib_trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    let lines = fib_trie.lines().map(str::trim).zip(fib_trie.lines().skip(1));
    let local = lines.filter(|(_, below)| below.trim() == "/32 host LOCAL");
    local.filter_map(|(leaf, _)| leaf.strip_prefix("|-- ")?.parse().ok()).filter(|ip: &Ipv4Addr| !ip.is_loopback())
}

/// A line of `/proc/net/if_inet6`: address, index, prefix, scope, flags, interface.
fn global_v6(line: &str) -> Option<(Ipv6Addr, &str)> {
    /// `IFA_F_TEMPORARY` of if_addr.h: another one tomorrow.
    const TEMPORARY: u32 = 0x01;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [address, _, _, scope, flags, interface] = fields.as_slice() else { return None };
    let number = u128::from_str_radix(address, 16).ok()?;
    let is_global = u32::from_str_radix(scope, 16).ok()? == 0;
    let is_temporary = u32::from_str_radix(flags, 16).ok()? & TEMPORARY != 0;
    (is_global && !is_temporary).then_some((Ipv6Addr::from(number), *interface))
}

#[cfg(test)]
mod tests {
    use super::{Facts, Os, addresses, fqdn, memory_mb, short};

    #[test]
    fn names() {
        assert_eq!((short("web1"), short("web1.shop.example")), ("web1", "web1"));
        let hosts =
            "127.0.0.1 localhost.localdomain localhost\n# 10.0.0.1 web1.no web1\n10.0.0.1\tweb1.shop.example web1 # web1\n";
        for (name, full) in [
            ("web1", Some("web1.shop.example")),
            ("web2", None),
            ("web1.other.example", Some("web1.other.example")),
            ("localhost", Some("localhost.localdomain")),
            ("", None),
        ] {
            assert_eq!(fqdn(name, hosts).as_deref(), full, "{name}");
        }
    }

    #[test]
    fn releases() {
        let debian = Os::of_release(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n",
        );
        let wanted = Os {
            id: "debian".to_owned(),
            version_id: Some("12".to_owned()),
            codename: Some("bookworm".to_owned()),
            like: Vec::new(),
        };
        assert_eq!(debian, wanted);
        let ubuntu = Os::of_release("ID=ubuntu\nID_LIKE='debian other'\nVERSION_ID=\"\"\n");
        assert_eq!((ubuntu.version_id, ubuntu.like.len()), (None, 2));
        assert_eq!(Os::of_release("").id, "linux");
        assert_eq!(memory_mb("MemFree: 1 kB\nMemTotal:       24576000 kB\n"), 24000);
        assert_eq!(memory_mb("nonsense"), 0);
    }

    #[test]
    fn addresses_of_the_default_route_come_first() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.7.0.2\n        /32 host LOCAL\n     |-- 10.7.0.0\n        /24 link UNICAST\n\
                    Local:\n     |-- 10.7.0.2\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n\
                    \u{20}    |-- 10.1.0.1\n        /32 host LOCAL\n     |-- 10.7.0.255\n        /32 link BROADCAST\n";
        let route = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     docker0\t0000010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     eth0\t00000000\t0100070A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t0000070A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let six = "00000000000000000000000000000001 01 80 10 80       lo\n\
                   fe800000000000000000000000000001 02 40 20 80     eth0\n\
                   20010db8000000000000000000000009 03 40 00 80  docker0\n\
                   20010db800000000000000000000000a 02 40 00 01     eth0\n\
                   20010db800000000000000000000000b 02 40 00 80     eth0\n";
        let found: Vec<String> = addresses(trie, route, six).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.7.0.2", "10.1.0.1", "2001:db8::b", "2001:db8::9"]);
        assert!(addresses("", "x", "y z").is_empty());
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let facts = serde_json::to_value(Facts::default()).unwrap();
        assert_eq!(facts["postgresql"], serde_json::json!({}));
        assert_eq!((facts.get("fqdn"), facts["os"].get("codename")), (None, None));
        assert_eq!(serde_json::from_value::<Facts>(facts).unwrap(), Facts::default());
    }
}
