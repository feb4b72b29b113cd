//! Paths of the live host. Every path is opened beneath one trusted directory with no symlink followed (openat2(2)), and
//! all that follows is relative to that descriptor. Objects go live by one rename each (renameat2(2)).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::io;
use crate::change::{DirFacts, FileFacts, Object};
use crate::digest::Digest;
use crate::host::{Account, HostError, HostResult, LogEnd, Seen, Slot};
use crate::path::ManagedPath;

/// The name of a staging directory.
pub const STAGING: &str = ".reconciled";
/// Longer files are not ours to read or replace, in bytes: whoever owns one could keep the engine busy with it.
const FILE_LIMIT: u64 = 64 << 20;
/// Where enablement links live (systemd.unit(5)).
const UNIT_LINKS: &str = "/etc/systemd/system";
/// The text of a link in the place of a unit that masks it (systemctl(1)).
const MASK: &str = "/dev/null";

/// The file system from one root directory on.
#[derive(Debug)]
pub struct Files {
    root: OwnedFd,
}

impl Files {
    /// From `/`, as this process sees it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_root() -> HostResult<Self> {
        let root = fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(io(|| "open /".to_owned()))?;
        Ok(Self { root })
    }

    fn open_beneath(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let relative = path.trim_start_matches('/');
        let relative = if relative.is_empty() { "." } else { relative };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match fs::openat2(&self.root, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // A rename elsewhere raced with the walk (openat2(2)).
                Err(Errno::AGAIN) if tries < 64 => tries += 1,
                result => return result,
            }
        }
    }

    /// The directory that holds a path; `None` when it is missing.
    fn parent(&self, path: &ManagedPath) -> HostResult<Option<OwnedFd>> {
        let parent = path.parent();
        let parent = parent.as_ref().map_or("/", ManagedPath::as_str);
        match self.open_beneath(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => Err(HostError::Unfit(symlinked(path, parent))),
            Err(Errno::NOTDIR) if is_symlinked(parent) => Err(HostError::Unfit(symlinked(path, parent))),
            Err(Errno::NOTDIR) => Err(HostError::Unfit(format!("{path}: {parent} is not a directory"))),
            Err(errno) => Err(io(|| format!("open {parent}"))(errno)),
        }
    }

    fn existing_parent(&self, path: &ManagedPath) -> HostResult<OwnedFd> {
        self.parent(path)?.ok_or_else(|| HostError::Foreign {
            path: path.to_string(),
            expected: "its directory".to_owned(),
            found: "no directory".to_owned(),
        })
    }

    pub(crate) fn object(&self, path: &ManagedPath) -> HostResult<Seen> {
        match self.parent(path)? {
            Some(parent) => object_at(&parent, path.file_name(), path),
            None => Ok(Seen { object: Object::Absent, names: 0 }),
        }
    }

    pub(crate) fn changed_at(&self, path: &ManagedPath) -> HostResult<Option<u64>> {
        let Some(parent) = self.parent(path)? else { return Ok(None) };
        match fs::statat(&parent, path.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let seconds = u64::try_from(stat.st_ctime).unwrap_or_default();
                Ok(Some(seconds.saturating_mul(1_000_000).saturating_add(stat.st_ctime_nsec / 1000)))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(io(|| format!("stat {path}"))(errno)),
        }
    }

    pub(crate) fn directory(&self, path: &ManagedPath) -> HostResult<Option<DirFacts>> {
        let Some(parent) = self.parent(path)? else { return Ok(None) };
        let stat = match fs::statat(&parent, path.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(io(|| format!("stat {path}"))(errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Some(DirFacts { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid })),
            FileType::Symlink => Err(HostError::Unfit(symlinked(path, path.as_str()))),
            other => Err(HostError::Unfit(format!("{path} is a {}, not a directory", name_of(other)))),
        }
    }

    pub(crate) fn is_empty(&self, path: &ManagedPath) -> HostResult<bool> {
        Ok(self.entries(path, 1)?.is_empty())
    }

    pub(crate) fn entries(&self, path: &ManagedPath, limit: usize) -> HostResult<Vec<String>> {
        let dir = match self.open_beneath(path.as_str(), OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            result => result.map_err(io(|| format!("open {path}")))?,
        };
        let mut names = Vec::new();
        for entry in fs::Dir::new(dir).map_err(io(|| format!("list {path}")))? {
            let entry = entry.map_err(io(|| format!("list {path}")))?;
            if names.len() >= limit {
                break;
            }
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    pub(crate) fn ends(&self, directory: &ManagedPath, limit: usize) -> HostResult<Vec<LogEnd>> {
        let names = self.entries(directory, limit)?;
        let Ok(dir) = self.open_beneath(directory.as_str(), OFlags::PATH | OFlags::DIRECTORY) else { return Ok(Vec::new()) };
        let end = |name: String| {
            let stat = fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            let length = u64::try_from(stat.st_size).ok()?;
            is_file.then(|| LogEnd { path: format!("{directory}/{name}"), inode: stat.st_ino, length })
        };
        Ok(names.into_iter().filter_map(end).collect())
    }

    pub(crate) fn content(&self, path: &ManagedPath, limit: u64) -> HostResult<Vec<u8>> {
        let parent = self.existing_parent(path)?;
        let (file, _) = open_regular(&parent, path.file_name(), path)?;
        read_limited(file, limit, path)
    }

    pub(crate) fn staging_of(&self, path: &ManagedPath) -> HostResult<PathBuf> {
        let mut place = self.deepest_existing(path)?;
        let mount = mount_of(&place)?;
        if let Some(parent) = self.parent(path)?
            && is_mount_root(&parent, path.file_name())
        {
            return Err(HostError::Unfit(format!("{path} is a mount point: unmount it, or manage what is in it")));
        }
        while let Some(parent) = place.parent().map(Path::to_owned) {
            if mount_of(&parent)? != mount {
                break;
            }
            place = parent;
        }
        Ok(place.join(STAGING))
    }

    fn deepest_existing(&self, path: &ManagedPath) -> HostResult<PathBuf> {
        let mut next = path.parent();
        while let Some(dir) = next {
            if self.directory(&dir)?.is_some() {
                return Ok(dir.as_path().to_owned());
            }
            next = dir.parent();
        }
        Ok(PathBuf::from("/"))
    }

    /// The directory of a transaction's slots for this path.
    fn slots(&self, slot: Slot, path: &ManagedPath) -> HostResult<OwnedFd> {
        let staging = self.staging_of(path)?;
        let dir = staging.join(slots_name(slot.transaction));
        let dir = dir.to_string_lossy();
        self.open_beneath(&dir, OFlags::PATH | OFlags::DIRECTORY).map_err(io(|| format!("open {dir}")))
    }

    pub(crate) fn stage(&self, slot: Slot, path: &ManagedPath, object: &Object, content: &[u8]) -> HostResult<()> {
        let staging = self.staging_of(path)?;
        let dir = self.make_slots(&staging, slot.transaction)?;
        let name = slot.step.to_string();
        let what = || format!("stage {path} in {}", staging.display());
        match object {
            Object::Absent => Ok(()),
            Object::Link { target } => fs::symlinkat(target.as_str(), &dir, name.as_str()).map_err(io(what)),
            Object::Other { what } => Err(HostError::Unfit(format!("{path}: a {what} cannot be made"))),
            Object::File(facts) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = fs::openat(&dir, name.as_str(), flags, Mode::from_raw_mode(0o600)).map_err(io(what))?;
                let mut file = File::from(fd);
                file.write_all(content).map_err(|source| HostError::Io { what: what(), source })?;
                fs::fchown(&file, Some(uid(facts.uid)), Some(gid(facts.gid))).map_err(io(what))?;
                // After chown, which clears the set-id bits.
                fs::fchmod(&file, Mode::from_raw_mode(facts.mode)).map_err(io(what))
            }
        }
    }

    fn make_slots(&self, staging: &Path, transaction: u64) -> HostResult<OwnedFd> {
        let place = staging.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        let parent = self.open_beneath(&place, OFlags::PATH | OFlags::DIRECTORY).map_err(io(|| format!("open {place}")))?;
        let dir = private_directory(&parent, STAGING, staging)?;
        private_directory(&dir, &slots_name(transaction), staging)
    }

    pub(crate) fn swap(&self, slot: Slot, path: &ManagedPath, before: &Object, after: &Object) -> HostResult<()> {
        let parent = self.existing_parent(path)?;
        let slots = self.slots(slot, path)?;
        let (live, staged) = (path.file_name(), slot.step.to_string());
        let staged = staged.as_str();
        let foreign = |found: &Object| HostError::Foreign {
            path: path.to_string(),
            expected: before.to_string(),
            found: found.to_string(),
        };
        if before == &Object::Absent {
            return match fs::renameat_with(&slots, staged, &parent, live, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => Err(foreign(&object_at(&parent, live, path)?.object)),
                result => result.map_err(io(|| format!("create {path}"))),
            };
        }
        let (flags, back) = match after {
            Object::Absent => (RenameFlags::NOREPLACE, RenameFlags::NOREPLACE),
            _ => (RenameFlags::EXCHANGE, RenameFlags::EXCHANGE),
        };
        match fs::renameat_with(&parent, live, &slots, staged, flags) {
            Err(Errno::NOENT) => return Err(foreign(&object_at(&parent, live, path)?.object)),
            result => result.map_err(io(|| format!("swap {path}")))?,
        }
        let out = object_at(&slots, staged, path)?.object;
        if &out == before {
            return Ok(());
        }
        fs::renameat_with(&slots, staged, &parent, live, back).map_err(io(|| format!("put {path} back")))?;
        Err(foreign(&out))
    }

    pub(crate) fn waiting(&self, slot: Slot, path: &ManagedPath) -> HostResult<Object> {
        Ok(object_at(&self.slots(slot, path)?, &slot.step.to_string(), path)?.object)
    }

    pub(crate) fn staged(&self, slot: Slot, path: &ManagedPath) -> HostResult<(Object, Vec<u8>)> {
        let slots = self.slots(slot, path)?;
        let name = slot.step.to_string();
        let object = object_at(&slots, &name, path)?.object;
        let Object::File(_) = object else { return Ok((object, Vec::new())) };
        // Facts and content are of one reading: a program may have it open and write to it.
        let (file, stat) = open_regular(&slots, &name, path)?;
        let content = read_limited(file, FILE_LIMIT, path)?;
        Ok((Object::File(facts(&stat, Digest::of(&content), content.len() as u64)), content))
    }

    pub(crate) fn set_directory(&self, path: &ManagedPath, facts: Option<DirFacts>) -> HostResult<()> {
        let Some(parent) = self.parent(path)? else {
            return match facts {
                None => Ok(()),
                Some(_) => Err(HostError::Unfit(format!("{path}: its parent directory is missing"))),
            };
        };
        let name = path.file_name();
        let Some(facts) = facts else {
            return match fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                // What others put there is theirs: the directory is let go.
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
                Err(errno) => Err(io(|| format!("remove {path}"))(errno)),
            };
        };
        match fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(io(|| format!("make {path}"))(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = fs::openat(&parent, name, flags, Mode::empty()).map_err(io(|| format!("open {path}")))?;
        fs::fchown(&dir, Some(uid(facts.uid)), Some(gid(facts.gid))).map_err(io(|| format!("chown {path}")))?;
        fs::fchmod(&dir, Mode::from_raw_mode(facts.mode)).map_err(io(|| format!("chmod {path}")))
    }

    pub(crate) fn sync_parents(&self, paths: &[&ManagedPath]) -> HostResult<()> {
        let mut parents: Vec<_> = paths.iter().map(|p| p.parent()).collect();
        parents.sort();
        parents.dedup();
        for parent in parents {
            let parent = parent.as_ref().map_or("/", ManagedPath::as_str);
            match self.open_beneath(parent, OFlags::RDONLY | OFlags::DIRECTORY) {
                // Gone with the change itself.
                Err(Errno::NOENT) => {}
                result => {
                    let dir = result.map_err(io(|| format!("open {parent}")))?;
                    fs::fsync(&dir).map_err(io(|| format!("sync {parent}")))?;
                }
            }
        }
        Ok(())
    }
}

fn slots_name(transaction: u64) -> String {
    format!("tx-{transaction}")
}

fn uid(raw: u32) -> fs::Uid {
    fs::Uid::from_raw(raw)
}

fn gid(raw: u32) -> fs::Gid {
    fs::Gid::from_raw(raw)
}

/// Makes a directory that only root may enter, or checks that the one that is there is such.
fn private_directory(parent: &OwnedFd, name: &str, for_message: &Path) -> HostResult<OwnedFd> {
    let what = || format!("make {} ({name})", for_message.display());
    match fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(io(what)(errno)),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = fs::openat(parent, name, flags, Mode::empty()).map_err(io(what))?;
    let stat = fs::fstat(&dir).map_err(io(what))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
        return Err(HostError::Unfit(format!("{} is not a private directory of root: remove it", for_message.display())));
    }
    Ok(dir)
}

fn object_at(parent: &OwnedFd, name: &str, path: &ManagedPath) -> HostResult<Seen> {
    let stat = match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Seen { object: Object::Absent, names: 0 }),
        Err(errno) => return Err(io(|| format!("stat {path}"))(errno)),
    };
    let object = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let (file, stat) = open_regular(parent, name, path)?;
            let too_long = Object::Other { what: format!("file of more than {} MiB", FILE_LIMIT >> 20) };
            if u64::try_from(stat.st_size).unwrap_or_default() > FILE_LIMIT {
                return Ok(Seen { object: too_long, names: 1 });
            }
            let (digest, size) = Digest::of_reader(&mut file.take(FILE_LIMIT + 1))
                .map_err(|source| HostError::Io { what: format!("read {path}"), source })?;
            if size > FILE_LIMIT {
                return Ok(Seen { object: too_long, names: 1 });
            }
            Object::File(facts(&stat, digest, size))
        }
        FileType::Symlink => {
            let text = fs::readlinkat(parent, name, Vec::new()).map_err(io(|| format!("read link {path}")))?;
            match text.into_string() {
                Ok(target) => Object::Link { target },
                Err(_) => Object::Other { what: "link whose text is not UTF-8".to_owned() },
            }
        }
        other => Object::Other { what: name_of(other).to_owned() },
    };
    let names = if matches!(object, Object::File(_)) { u64::from(u32::try_from(stat.st_nlink).unwrap_or(u32::MAX)) } else { 1 };
    Ok(Seen { object, names })
}

fn facts(stat: &Stat, digest: Digest, size: u64) -> FileFacts {
    FileFacts { digest, size, mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }
}

fn open_regular(parent: &OwnedFd, name: &str, path: &ManagedPath) -> HostResult<(File, Stat)> {
    // NONBLOCK: should it have become a FIFO since we looked, opening must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = fs::openat(parent, name, flags, Mode::empty()).map_err(io(|| format!("open {path}")))?;
    let stat = fs::fstat(&fd).map_err(io(|| format!("stat {path}")))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(HostError::Unfit(format!("{path} is not a regular file")));
    }
    Ok((File::from(fd), stat))
}

fn read_limited(file: File, limit: u64, path: &ManagedPath) -> HostResult<Vec<u8>> {
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content).map_err(|source| HostError::Io { what: format!("read {path}"), source })?;
    Ok(content)
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "directory",
        FileType::Socket => "socket",
        FileType::Fifo => "FIFO",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Symlink => "link",
        FileType::RegularFile => "file",
        FileType::Unknown => "thing of unknown type",
    }
}

fn is_symlinked(path: &str) -> bool {
    std::fs::canonicalize(path).is_ok_and(|real| real != Path::new(path))
}

/// Why a path cannot be reached without following a link; `dir` is its parent, whose last parts need not be there.
fn symlinked(path: &ManagedPath, dir: &str) -> String {
    let resolved = Path::new(dir).ancestors().find_map(|there| Some((there, std::fs::canonicalize(there).ok()?)));
    match resolved {
        Some((there, real)) if real != there => {
            let rest = path.as_path().strip_prefix(there).unwrap_or(path.as_path());
            let (there, real) = (there.display(), real.join(rest));
            format!("{path}: {there} leads through a symbolic link; manage the real path {}", real.display())
        }
        _ => format!("{path}: {dir} leads through a broken symbolic link"),
    }
}

fn mount_of(path: &Path) -> HostResult<(u64, u64)> {
    let fd = fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(io(|| format!("open {}", path.display())))?;
    mount_of_fd(&fd)
}

/// Whether a mount begins at this name (statx(2), `STATX_ATTR_MOUNT_ROOT`); device numbers do not tell: on overlayfs a file
/// has another one than its directory.
fn is_mount_root(parent: &OwnedFd, name: &str) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    fs::statx(parent, name, flags, StatxFlags::MNT_ID).is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Mount id and device: both must agree for a rename to work.
fn mount_of_fd(fd: &OwnedFd) -> HostResult<(u64, u64)> {
    let stat = fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_err(io(|| "statx".to_owned()))?;
    Ok((stat.stx_mnt_id, (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor)))
}

/// Up to so many staged objects are synced one by one; beyond that the whole file system is, which on a busy host holds much
/// that is not ours.
const FEW: usize = 64;

pub(super) fn sync(transaction: u64, staging: &[PathBuf]) -> HostResult<()> {
    for place in staging {
        sync_place(place, &place.join(slots_name(transaction)))
            .map_err(|source| HostError::Io { what: format!("sync {}", place.display()), source })?;
    }
    Ok(())
}

fn sync_place(place: &Path, slots: &Path) -> std::io::Result<()> {
    if !slots.exists() {
        // Only deletions: nothing was staged.
        return Ok(());
    }
    let files: Vec<PathBuf> = std::fs::read_dir(slots)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    if files.len() > FEW {
        return Ok(fs::syncfs(File::open(slots)?)?);
    }
    for file in files.iter().filter(|f| f.symlink_metadata().is_ok_and(|m| m.is_file())) {
        File::open(file)?.sync_all()?;
    }
    [Some(slots), Some(place), place.parent()].into_iter().flatten().try_for_each(|dir| File::open(dir)?.sync_all())
}

/// Makes enablement links durable, wherever below their directory they are.
pub(super) fn sync_links() -> HostResult<()> {
    let fail = |source| HostError::Io { what: format!("sync {UNIT_LINKS}"), source };
    let dir = File::open(UNIT_LINKS).map_err(fail)?;
    fs::syncfs(&dir).map_err(|errno| fail(errno.into()))
}

pub(super) fn sweep(transaction: u64, staging: &[PathBuf]) -> HostResult<()> {
    for place in staging {
        let slots = place.join(slots_name(transaction));
        match std::fs::remove_dir_all(&slots) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(HostError::Io { what: format!("remove {}", slots.display()), source: e });
            }
            _ => {}
        }
        // Fails while another transaction has slots there: then it stays.
        let _ = std::fs::remove_dir(place);
    }
    Ok(())
}

/// The links below `/etc/systemd/system` that carry a unit's enablement: in `*.wants/` and `*.requires/` under its name,
/// aliases that point to its file, and the one that masks it.
pub(super) fn enablement_links(unit: &str) -> Vec<(String, String)> {
    let mut links = Vec::new();
    let Ok(entries) = std::fs::read_dir(UNIT_LINKS) else { return links };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".wants") || name.ends_with(".requires") {
            links.extend(link_text(&path.join(unit)));
        } else if let Some((place, text)) = link_text(&path)
            && if name == unit { text == MASK } else { Path::new(&text).file_name().is_some_and(|n| n == unit) }
        {
            links.push((place, text));
        }
    }
    links.sort();
    links
}

fn link_text(path: &Path) -> Option<(String, String)> {
    let text = std::fs::read_link(path).ok()?;
    Some((path.to_str()?.to_owned(), text.to_str()?.to_owned()))
}

pub(super) fn restore_links(unit: &str, links: &[(String, String)]) -> HostResult<()> {
    let fail = |path: &str| {
        let what = format!("restore the enablement link {path}");
        move |source| HostError::Io { what, source }
    };
    let now = enablement_links(unit);
    for (path, _) in now.iter().filter(|link| !links.contains(link)) {
        std::fs::remove_file(path).map_err(fail(path))?;
    }
    for (path, text) in links.iter().filter(|link| !now.contains(link)) {
        if let Some(parent) = Path::new(path).parent() {
            std::fs::create_dir_all(parent).map_err(fail(path))?;
        }
        std::os::unix::fs::symlink(text, path).map_err(fail(path))?;
    }
    Ok(())
}

/// All accounts of passwd(5).
///
/// # Errors
/// When `/etc/passwd` cannot be read.
pub fn accounts() -> HostResult<Vec<Account>> {
    let text = read_database("/etc/passwd")?;
    let account = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, uid, gid, _, home) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(Account { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.to_owned() })
    };
    Ok(text.lines().filter_map(account).collect())
}

pub(super) fn group(name: &str) -> HostResult<Option<u32>> {
    let text = read_database("/etc/group")?;
    let id = |line: &str| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    Ok(text.lines().find_map(id))
}

fn read_database(path: &str) -> HostResult<String> {
    std::fs::read_to_string(path).map_err(|source| HostError::Io { what: format!("read {path}"), source })
}
