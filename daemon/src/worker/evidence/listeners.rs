//! Who listens where: the kernel's tables of sockets (proc_net(5)), and who holds them (proc_pid_fd(5)).

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::diagnose::Listener;

/// `TCP_LISTEN`, as /proc/net/tcp shows it.
const LISTENING: &str = "0A";
/// `__SO_ACCEPTCON`, as /proc/net/unix shows it.
const ACCEPTS: u32 = 1 << 16;
/// More than so many are not told.
const MOST: usize = 400;

/// All of them, by address.
pub(super) fn all() -> Vec<Listener> {
    let mut sockets: BTreeMap<u64, String> = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        sockets.extend(text(table).lines().filter_map(tcp));
    }
    sockets.extend(text("/proc/net/unix").lines().filter_map(unix));
    let holders = holders(&sockets);
    let listener = |(inode, address): (u64, String)| {
        let pid = holders.get(&inode).copied().unwrap_or_default();
        Listener { address, pid, name: name(pid), unit: unit(pid) }
    };
    let mut all: Vec<Listener> = sockets.into_iter().map(listener).collect();
    all.sort_by(|a, b| a.address.cmp(&b.address));
    all.truncate(MOST);
    all
}

/// A path may hold anything.
fn text(table: &str) -> String {
    fs::read(table).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// `  0: 0100007F:1F90 00000000:0000 0A …`: inode and address.
fn tcp(line: &str) -> Option<(u64, String)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    if *fields.get(3)? != LISTENING {
        return None;
    }
    // Four bytes at a time, each in the order of the machine.
    let words =
        (0..address.len() / 8).map(|i| u32::from_str_radix(address.get(i * 8..i * 8 + 8)?, 16).ok().map(u32::to_ne_bytes));
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::from(Ipv4Addr::from(four)),
        Err(_) => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?)),
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((fields.get(9)?.parse().ok()?, SocketAddr::new(ip, port).to_string()))
}

/// `0000000000000000: 00000002 00000000 00010000 0001 01 1234 /run/x.sock`: inode and path.
fn unix(line: &str) -> Option<(u64, String)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, _, _, flags, _, _, inode, path] = fields.as_slice() else { return None };
    let accepts = u32::from_str_radix(flags, 16).ok()? & ACCEPTS != 0;
    (accepts && path.starts_with('/')).then(|| Some((inode.parse().ok()?, (*path).to_owned())))?
}

/// The process that holds each of these: the eldest, and PID 1 only where nobody else does.
fn holders(sockets: &BTreeMap<u64, String>) -> BTreeMap<u64, u32> {
    let mut holders: BTreeMap<u64, u32> = BTreeMap::new();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for inode in open.filter_map(|fd| socket(&fs::read_link(fd.path()).ok()?)) {
            if sockets.contains_key(&inode) {
                let rank = |pid: u32| if pid == 1 { u32::MAX } else { pid };
                let holder = holders.entry(inode).or_insert(pid);
                if rank(pid) < rank(*holder) {
                    *holder = pid;
                }
            }
        }
    }
    holders
}

/// `socket:[1234]`
fn socket(link: &std::path::Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).map(|name| name.trim_end().to_owned()).unwrap_or_default()
}

/// The last part of the control group that is a unit (systemd.unit(5)).
fn unit(pid: u32) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let ours =
        groups.lines().filter_map(|line| line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, p)| p)));
    let is_unit = |part: &&str| [".service", ".scope", ".socket"].iter().any(|suffix| part.ends_with(suffix));
    ours.flat_map(|path| path.rsplit('/').find(is_unit)).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{tcp, unix};

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_tables() {
        for (line, wanted) in [
            (
                "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100",
                Some((4711, "127.0.0.1:8080")),
            ),
            ("   0: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100", None),
            (
                "   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1",
                Some((12, "[::]:80")),
            ),
            ("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", None),
        ] {
            assert_eq!(tcp(line), wanted.map(|(inode, at)| (inode, at.to_owned())), "{line}");
        }
        for (line, wanted) in [
            ("0000000000000000: 00000002 00000000 00010000 0001 01 1234 /run/x.sock", Some((1234, "/run/x.sock"))),
            ("0000000000000000: 00000003 00000000 00000000 0001 03 1234 /run/x.sock", None),
            ("0000000000000000: 00000002 00000000 00010000 0001 01 1234 @abstract", None),
            ("Num       RefCount Protocol Flags    Type St Inode Path", None),
        ] {
            assert_eq!(unix(line), wanted.map(|(inode, at)| (inode, at.to_owned())), "{line}");
        }
    }
}
