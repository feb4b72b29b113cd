//! Whether what a socket unit listens on in the file system can still be reached: PID 1 listens on all the same when its file is gone.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

/// Kinds of `Listen` that have a file (org.freedesktop.systemd1(5), systemd.socket(5)).
const WITH_FILE: [&str; 4] = ["Stream", "Datagram", "SequentialPacket", "FIFO"];
/// Where the daemon sees other files than the host does (`PrivateTmp=`, `PrivateDevices=` of its unit).
const PRIVATE: [&str; 5] = ["/tmp/", "/var/tmp/", "/dev/", "/proc/", "/sys/"];
/// What of `SocketMode=` a socket's file has (`bind` under a umask).
const PERMISSIONS: u32 = 0o777;

/// Why nobody reaches a socket that listens on these (kind and address), by the permissions that it gives its files. More than these, somebody
/// may have given for a reason.
pub(super) fn deaf(listen: &[(String, String)], mode: Option<u32>) -> Option<String> {
    let has_file = |kind: &str, address: &str| {
        WITH_FILE.contains(&kind) && address.starts_with('/') && !PRIVATE.iter().any(|place| address.starts_with(place))
    };
    listen.iter().filter(|(kind, address)| has_file(kind, address)).find_map(|(_, path)| flaw(path, mode))
}

/// What is wrong with the file of a socket. One that cannot be looked at is nobody's fault, and what is no socket PID 1 would delete, or stumble
/// over.
fn flaw(path: &str, mode: Option<u32>) -> Option<String> {
    let seen = match fs::metadata(path) {
        Ok(seen) => seen,
        Err(error) if error.kind() == ErrorKind::NotFound => return Some(format!("{path} is gone")),
        Err(_) => return None,
    };
    let has = seen.permissions().mode() & PERMISSIONS;
    let wanted = mode.map(|mode| mode & PERMISSIONS).filter(|wanted| seen.file_type().is_socket() && has & wanted != *wanted)?;
    Some(format!("{path} has mode {has:04o} instead of {wanted:04o}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_nobody_reaches() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("s").to_str().unwrap().to_owned();
        assert_eq!(flaw(&path, None), Some(format!("{path} is gone")));
        fs::write(&path, "").unwrap();
        assert_eq!(flaw(&path, Some(0o777)), None, "no socket");
        fs::remove_file(&path).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!((flaw(&path, Some(0o2600)), flaw(&path, Some(0o400)), flaw(&path, None)), (None, None, None));
        assert_eq!(flaw(&path, Some(0o666)), Some(format!("{path} has mode 0600 instead of 0666")));
    }

    #[test]
    fn what_has_no_file_that_can_be_seen() {
        let of = |kind: &str, address: &str| deaf(&[(kind.to_owned(), address.to_owned())], Some(0o666));
        assert_eq!(of("Stream", "/run/no-such.sock"), Some("/run/no-such.sock is gone".to_owned()));
        for (kind, address) in [
            ("Stream", "127.0.0.1:80"),
            ("Stream", "[::]:22"),
            ("Datagram", "@abstract"),
            ("Netlink", "/run/x"),
            ("Stream", "/tmp/x.sock"),
            ("Datagram", "/dev/no-such-log"),
        ] {
            assert_eq!(of(kind, address), None, "{kind} {address}");
        }
    }
}
