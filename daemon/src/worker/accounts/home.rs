//! Homes, as root sees to them: whoever owns one, or a directory above it, must not be able to lead root elsewhere. Every name is opened
//! for itself, no link is followed, and what is above belongs to root or to whose the home is.

use std::fs as tree;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Where a path ends: the directory that it stands in and its name in there.
type Place = (OwnedFd, String);

/// The permission bits of a directory.
pub(super) fn mode(path: &str) -> io::Result<Option<u32>> {
    let Some((parent, name)) = place(path, &|_| true)? else { return Ok(None) };
    let found = stat(&parent, &name)?.filter(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory);
    Ok(found.map(|found| found.st_mode & 0o7777))
}

/// Refuses a place where root does not make a home for this user: somebody else could have it made elsewhere.
pub(super) fn judge(path: &str, uid: Option<u32>) -> io::Result<()> {
    place(path, &|owner| owner == 0 || Some(owner) == uid).map(drop)
}

/// Makes a user's home, with what every new one has in it: by useradd's rules, and not by way of paths that its owner may lead elsewhere.
pub(super) fn make(path: &str, uid: u32, gid: u32) -> io::Result<()> {
    const SKELETON: &str = "/etc/skel";
    make_directory(path, (uid, gid), 0o700, &|owner| owner == 0 || owner == uid)?;
    if !Path::new(SKELETON).is_dir() {
        return Ok(());
    }
    // As the user: wherever that leads, it is no further than they get by themselves.
    let mut copy = Command::new("/usr/bin/cp");
    copy.args(["--recursive", "--no-target-directory", SKELETON, path]).uid(uid).gid(gid).current_dir("/");
    let copied = copy.stdin(Stdio::null()).stdout(io::stderr()).status()?;
    if copied.success() { Ok(()) } else { Err(io::Error::other(format!("{path}: {SKELETON} could not be copied: {copied}"))) }
}

/// Makes a directory, and those above it that are missing as root's.
fn make_directory(path: &str, (uid, gid): (u32, u32), mode: u32, may_own: &dyn Fn(u32) -> bool) -> io::Result<()> {
    let (parent, name) = match place(path, may_own)? {
        Some(found) => found,
        None => {
            let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| !above.is_empty()) else {
                return Err(Errno::NOENT.into());
            };
            make_directory(above, (0, 0), 0o755, may_own)?;
            place(path, may_own)?.ok_or(Errno::NOENT)?
        }
    };
    fs::mkdirat(&parent, name.as_str(), Mode::from_raw_mode(0o700))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = fs::openat(&parent, name.as_str(), flags, Mode::empty())?;
    // Whose directory it is made in may have put another one of root's in its place by now: it must not get what is in that.
    let owner = fs::fstat(&made)?.st_uid;
    let is_empty = fs::Dir::read_from(&made)?.flatten().all(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."));
    if owner != rustix::process::geteuid().as_raw() || !is_empty {
        return Err(foreign(path, owner));
    }
    fs::fchown(&made, Some(fs::Uid::from_raw(uid)), Some(fs::Gid::from_raw(gid)))?;
    Ok(fs::fchmod(&made, Mode::from_raw_mode(mode))?)
}

/// Sets the permission bits of a user's home.
pub(super) fn set_mode(path: &str, uid: u32, mode: u32) -> io::Result<()> {
    let is_theirs = |owner| owner == 0 || owner == uid;
    let Some((parent, name)) = place(path, &is_theirs)? else { return Err(Errno::NOENT.into()) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let home = fs::openat(&parent, name.as_str(), flags, Mode::empty())?;
    let owner = fs::fstat(&home)?.st_uid;
    if !is_theirs(owner) {
        return Err(foreign(path, owner));
    }
    Ok(fs::fchmod(&home, Mode::from_raw_mode(mode))?)
}

/// Removes what an account has brought: with `whole` all that is in it, otherwise a file or an empty directory.
pub(super) fn clear(path: &str, whole: bool) -> io::Result<()> {
    let Some((parent, name)) = place(path, &|_| true)? else { return Ok(()) };
    let Some(found) = stat(&parent, &name)? else { return Ok(()) };
    if place(path, &|owner| owner == 0 || owner == found.st_uid)?.is_none() {
        return Ok(());
    }
    match FileType::from_raw_mode(found.st_mode) {
        // It follows no link below either.
        FileType::Directory if whole => tree::remove_dir_all(format!("/proc/self/fd/{}/{name}", parent.as_raw_fd())),
        FileType::Directory => match fs::unlinkat(&parent, name.as_str(), AtFlags::REMOVEDIR) {
            // Others use it now.
            Err(Errno::NOTEMPTY | Errno::BUSY) => Ok(()),
            removed => Ok(removed?),
        },
        _ => Ok(fs::unlinkat(&parent, name.as_str(), AtFlags::empty())?),
    }
}

fn stat(parent: &OwnedFd, name: &str) -> io::Result<Option<Stat>> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// Where a path ends, if all that is above it is there and belongs to whom it may; nowhere for what is no path of a home.
fn place(path: &str, may_own: &dyn Fn(u32) -> bool) -> io::Result<Option<Place>> {
    let is_name = |name: &str| !matches!(name, "" | "." | "..");
    let Some(names) = path.strip_prefix('/').filter(|names| names.split('/').all(is_name)) else { return Ok(None) };
    let mut parent = fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = names.split('/').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return Ok(Some((parent, name.to_owned())));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        parent = match fs::openat(&parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(io::Error::other(format!("{path}: {name} is no directory that can be passed: {errno}"))),
            Ok(parent) => parent,
        };
        let owner = fs::fstat(&parent)?.st_uid;
        if !may_own(owner) {
            return Err(foreign(path, owner));
        }
    }
    Ok(None)
}

fn foreign(path: &str, owner: u32) -> io::Error {
    io::Error::other(format!(
        "{path}: it is, or stands in, a directory of another user (uid {owner}), who could lead root elsewhere"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    use rustix::process::getuid;

    use super::{clear, mode, set_mode, tree};

    fn bits(path: &Path) -> u32 {
        tree::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn no_link_leads_root_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let (home, other) = (folder.path().join("home"), folder.path().join("other"));
        let of = |path: &Path| path.to_str().unwrap().to_owned();
        for path in [&home, &other] {
            tree::create_dir(path).unwrap();
            tree::set_permissions(path, tree::Permissions::from_mode(0o700)).unwrap();
            tree::write(path.join("data"), "").unwrap();
        }
        let uid = getuid().as_raw();
        set_mode(&of(&home), uid, 0o711).unwrap();
        assert_eq!((bits(&home), mode(&of(&home)).unwrap()), (0o711, Some(0o711)));
        assert_eq!(mode(&of(&folder.path().join("none/home"))).unwrap(), None);
        // One in its place, and one above it.
        let (link, above) = (folder.path().join("link"), folder.path().join("above"));
        symlink(&other, &link).unwrap();
        symlink(folder.path(), &above).unwrap();
        for path in [of(&link), of(&above.join("other"))] {
            assert!(set_mode(&path, uid, 0o777).is_err(), "{path}");
            assert_eq!(mode(&path).ok().flatten(), None, "{path}");
        }
        assert!(clear(&of(&above.join("other")), true).is_err());
        clear(&of(&link), true).unwrap();
        symlink(&other, home.join("link")).unwrap();
        clear(&of(&home), false).unwrap();
        assert!(home.exists(), "it is not empty");
        clear(&of(&home), true).unwrap();
        assert!(!home.exists() && !link.exists() && other.join("data").exists());
        assert_eq!(bits(&other), 0o700);
    }

    #[test]
    fn a_directory_of_another_user_above_is_refused() {
        if !getuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (above, home) = (folder.path().join("above"), folder.path().join("above/home"));
        tree::create_dir_all(&home).unwrap();
        std::os::unix::fs::chown(&above, Some(1001), None).unwrap();
        std::os::unix::fs::chown(&home, Some(1000), None).unwrap();
        let home = home.to_str().unwrap();
        assert!(set_mode(home, 1000, 0o777).unwrap_err().to_string().contains("uid 1001"));
        assert!(clear(home, true).is_err() && super::judge(home, Some(1000)).is_err());
        std::os::unix::fs::chown(&above, Some(1000), None).unwrap();
        set_mode(home, 1000, 0o711).unwrap();
        assert!(super::judge(home, Some(1000)).is_ok() && super::judge(home, None).is_err());
        clear(home, true).unwrap();
    }
}
