//! What is left on the local file systems (proc_pid_mountinfo(5), statvfs(3)).

use std::fs;

use rustix::fs::statvfs;

use crate::diagnose::Mount;

/// Those that answer at once: a file system behind a network may not.
const LOCAL: [&str; 10] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "vfat", "tmpfs", "overlay"];
/// More than so many are not told.
const MOST: usize = 100;

/// All of them that can be written.
pub(super) fn all() -> Vec<Mount> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = table.lines().filter_map(local).filter_map(|path| {
        let stat = statvfs(&path).ok()?;
        let block = stat.f_frsize;
        let files = (stat.f_files > 0).then_some(stat.f_favail);
        Some(Mount { free: stat.f_bavail.saturating_mul(block), size: stat.f_blocks.saturating_mul(block), files, path })
    });
    mounts.filter(|mount| mount.size > 0).take(MOST).collect()
}

/// `36 35 98:0 / /srv rw,noatime - ext4 /dev/sda1 rw`: where, if it is local and can be written.
fn local(line: &str) -> Option<String> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(4);
    let (path, options) = (front.next()?, front.next()?);
    let is_writable = options.split(',').any(|option| option == "rw");
    // Blanks in a path are \040.
    (is_writable && LOCAL.contains(&back.split(' ').next()?) && !path.contains('\\')).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::local;

    #[test]
    fn which_mounts_count() {
        for (line, wanted) in [
            ("36 35 98:0 / /srv rw,noatime shared:1 - ext4 /dev/sda1 rw", Some("/srv")),
            ("36 35 98:0 / /srv ro,noatime shared:1 - ext4 /dev/sda1 rw", None),
            ("36 35 0:50 / /mnt rw shared:1 - nfs4 far:/x rw", None),
            ("nonsense", None),
        ] {
            assert_eq!(local(line).as_deref(), wanted, "{line}");
        }
    }
}
