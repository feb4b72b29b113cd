//! The worker for subtrees, `reconciled worker subtree VERB`: what all in a directory is to belong to stands on its standard input. It goes
//! by descriptors, follows no link and leaves no file system: whoever may write there cannot lead it elsewhere.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::ExitCode;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};

use crate::subtree::{ENTRIES, Entry, LIMIT, Request};

/// Deeper directories are nobody's: each holds a descriptor open.
const DEPTH: usize = 128;
/// Where new objects of ours wait; not a part of anything.
const STAGING: &str = ".reconciled";

/// The verb's body.
#[must_use]
pub fn main(arguments: &[&str]) -> ExitCode {
    let done = super::request::<Request>(LIMIT).and_then(|request| {
        match arguments {
            // The list itself, for whoever plans.
            ["look"] => {
                println!("{}", serde_json::to_string(&differing(&request)?)?);
                Ok(())
            }
            ["set"] => Walk::new(&request, true)?.finish().map(drop),
            ["undo"] => bring_back(&request),
            _ => Err(io::Error::other("which subtree?")),
        }
    });
    super::ended(done)
}

fn differing(request: &Request) -> io::Result<Vec<Entry>> {
    Walk::new(request, false)?.finish()
}

/// One walk through a subtree.
struct Walk<'r> {
    request: &'r Request,
    /// What differs is set right at once.
    sets: bool,
    device: u64,
    seen: usize,
    differing: Vec<Entry>,
}

impl<'r> Walk<'r> {
    /// All of it, unless there is no such directory.
    fn new(request: &'r Request, sets: bool) -> io::Result<Self> {
        let mut walk = Self { request, sets, device: 0, seen: 0, differing: Vec::new() };
        let Some(top) = open_top(&request.path)? else { return Ok(walk) };
        walk.device = fs::fstat(&top)?.st_dev;
        walk.directory(&top, "", 0)?;
        Ok(walk)
    }

    fn finish(mut self) -> io::Result<Vec<Entry>> {
        self.differing.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.differing)
    }

    fn directory(&mut self, directory: &OwnedFd, below: &str, depth: usize) -> io::Result<()> {
        if depth > DEPTH {
            return Err(io::Error::other(format!("{}/{below}: more than {DEPTH} directories deep", self.request.path)));
        }
        let readable = match fs::openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            // It has just gone.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            opened => opened?,
        };
        for entry in fs::Dir::new(readable)? {
            let entry = entry?;
            // A name that no path can say is left to whoever gave it.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | ".." | STAGING) {
                continue;
            }
            self.seen += 1;
            if self.seen > ENTRIES {
                return Err(io::Error::other(format!("{}: more than {ENTRIES} entries", self.request.path)));
            }
            let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            let whole = format!("{}/{path}", self.request.path);
            if self.request.closed.contains(&whole) {
                continue;
            }
            let Some((fd, seen)) = open(directory, name, path)? else { continue };
            if fs::fstat(&fd)?.st_dev != self.device {
                continue;
            }
            if !self.request.own.contains(&whole) {
                self.judge(&fd, &seen)?;
            }
            if seen.is_directory {
                self.directory(&fd, &seen.path, depth + 1)?;
            }
        }
        Ok(())
    }

    fn judge(&mut self, fd: &OwnedFd, seen: &Entry) -> io::Result<()> {
        let wanted = self.request.wanted.of(seen);
        if wanted == *seen {
            return Ok(());
        }
        // By another name it may be anything: a user could have what they may not write given away, or to themselves.
        if has_other_names(fd, seen)? {
            // It has come since the plan was made: the next look refuses it.
            if self.sets {
                return Ok(());
            }
            let place = format!("{}/{}", self.request.path, seen.path);
            return Err(io::Error::other(format!(
                "{place} has another name too (a hard link): unlink one, or declare it by itself"
            )));
        }
        if self.sets {
            set(fd, seen, &wanted)?;
        }
        self.differing.push(seen.clone());
        Ok(())
    }
}

/// Whatever is still there of what was different, as it was.
fn bring_back(request: &Request) -> io::Result<()> {
    let Some(top) = open_top(&request.path)? else { return Ok(()) };
    for was in &request.before {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let Ok(fd) = fs::openat2(&top, &was.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) else { continue };
        let Some(now) = entry(&fd, was.path.clone())? else { continue };
        let is_it = now.is_directory == was.is_directory && now.inode == was.inode && !has_other_names(&fd, &now)?;
        let back = Entry { mode: was.mode_under(&now), ..was.clone() };
        if is_it && now != back {
            set(&fd, &now, &back)?;
        }
    }
    Ok(())
}

/// Whether a file has a name elsewhere too, where it may be anything.
fn has_other_names(fd: &OwnedFd, seen: &Entry) -> io::Result<bool> {
    Ok(!seen.is_directory && fs::fstat(fd)?.st_nlink > 1)
}

fn set(fd: &OwnedFd, now: &Entry, wanted: &Entry) -> io::Result<()> {
    if (now.uid, now.gid) != (wanted.uid, wanted.gid) {
        let owner = (Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid)));
        fs::chownat(fd, "", owner.0, owner.1, AtFlags::EMPTY_PATH)?;
    }
    if entry(fd, String::new())?.is_some_and(|now| now.mode != wanted.mode) {
        fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(wanted.mode))?;
    }
    Ok(())
}

fn open_top(path: &str) -> io::Result<Option<OwnedFd>> {
    let root = fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match fs::openat2(&root, path.trim_start_matches('/'), flags, Mode::empty(), resolve) {
        Ok(top) => Ok(Some(top)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(io::Error::other(format!("{path}: {errno}"))),
    }
}

/// A file or directory by its name; `None` for what is neither, or has just gone.
fn open(directory: &OwnedFd, name: &str, path: String) -> io::Result<Option<(OwnedFd, Entry)>> {
    match fs::openat(directory.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(entry(&fd, path)?.map(|seen| (fd, seen))),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn entry(fd: &OwnedFd, path: String) -> io::Result<Option<Entry>> {
    let stat = fs::fstat(fd)?;
    let is_directory = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile => false,
        _ => return Ok(None),
    };
    Ok(Some(Entry { path, is_directory, uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, inode: stat.st_ino }))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::{Walk, bring_back, differing};
    use crate::subtree::{Request, Wanted};

    #[test]
    fn modes_are_set_and_brought_back_and_no_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        let mode = |path: &str| fs::metadata(at(path)).unwrap().permissions().mode() & 0o7777;
        for directory in ["a/b", "own", "closed/x"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for file in ["a/one", "a/b/two", "own/three", "closed/x/four"] {
            fs::write(at(file), "").unwrap();
            fs::set_permissions(at(file), Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o755)).unwrap();
        symlink(elsewhere.path(), at("a/link")).unwrap();
        let whole = |path: &str| at(path).to_str().unwrap().to_owned();
        let wanted = Wanted { mode: Some(0o750), file_mode: Some(0o600), ..Wanted::default() };
        let mut request = Request {
            path: place.path().to_str().unwrap().to_owned(),
            wanted,
            own: [whole("own"), whole("a/one")].into(),
            closed: [whole("closed")].into(),
            before: Vec::new(),
        };
        request.before = differing(&request).unwrap();
        let paths: Vec<&str> = request.before.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/two", "own/three"]);
        assert_eq!(Walk::new(&request, true).unwrap().finish().unwrap(), request.before);
        assert_eq!((mode("a"), mode("a/b/two"), mode("a/one"), mode("own/three")), (0o750, 0o600, 0o644, 0o600));
        assert_eq!(fs::metadata(elsewhere.path()).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(differing(&request).unwrap().is_empty());
        // What is gone, or is another sort of thing by now, is no matter.
        fs::remove_file(at("own/three")).unwrap();
        fs::remove_file(at("a/b/two")).unwrap();
        fs::create_dir(at("a/b/two")).unwrap();
        bring_back(&request).unwrap();
        assert_eq!(mode("a"), request.before[0].mode);
        // A file with two names may be somebody else's.
        fs::write(at("a/here"), "").unwrap();
        fs::hard_link(at("a/here"), elsewhere.path().join("there")).unwrap();
        assert!(differing(&request).unwrap_err().to_string().contains("a/here has another name too"));
    }
}
