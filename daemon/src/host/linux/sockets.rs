//! Whether what a socket unit listens on in the file system can still be reached: PID 1 listens on all the same when its file is gone.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

/// Kinds of `Listen` that have a file (org.freedesktop.systemd1(5), systemd.socket(5)).
const WITH_FILE: [&str; 4] = ["Stream", "Datagram", "SequentialPacket", "FIFO"];
/// What of a mode `SocketMode=` sets.
const PERMISSIONS: u32 = 0o7777;

/// Why nobody reaches a socket that listens on these (kind and address), by the permissions that it gives its files.
pub(super) fn deaf(listen: &[(String, String)], mode: Option<u32>) -> Option<String> {
    let with_file = listen.iter().filter(|(kind, address)| WITH_FILE.contains(&kind.as_str()) && address.starts_with('/'));
    with_file.map(|(_, path)| path).find_map(|path| {
        let Ok(seen) = fs::metadata(path) else { return Some(format!("{path} is gone")) };
        if !seen.file_type().is_socket() && !seen.file_type().is_fifo() {
            return Some(format!("{path} is no socket"));
        }
        let has = seen.permissions().mode() & PERMISSIONS;
        let wanted = mode.filter(|mode| *mode != has)?;
        Some(format!("{path} has mode {has:04o} instead of {wanted:04o}"))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_nobody_reaches() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("s").to_str().unwrap().to_owned();
        let listen = |kind: &str, address: &str| [(kind.to_owned(), address.to_owned())];
        assert_eq!(deaf(&listen("Stream", &path), None), Some(format!("{path} is gone")));
        for elsewhere in ["127.0.0.1:80", "@abstract", "/dev/log"].map(|address| listen("Netlink", address)) {
            assert_eq!(deaf(&elsewhere, Some(0o666)), None);
        }
        assert_eq!(deaf(&listen("Stream", "[::]:22"), Some(0o666)), None);
        fs::write(&path, "").unwrap();
        assert_eq!(deaf(&listen("Stream", &path), None), Some(format!("{path} is no socket")));
        fs::remove_file(&path).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(deaf(&listen("Stream", &path), Some(0o600)), None);
        assert_eq!(deaf(&listen("Stream", &path), Some(0o666)), Some(format!("{path} has mode 0600 instead of 0666")));
    }
}
