//! `reconcilectl validate DIR`: reads a work tree as the daemon would read its commit; needs neither daemon nor root.
//! What the manifest means is judged by `manifest` alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use crate::config::Settings;
use crate::host::linux::facts;
use crate::manifest::{self, Context, Manifest};
use crate::path::{check_relative, escape};
use crate::source::{Budget, Snapshot, SourceEntry};

const FILE_LIMIT: u64 = Budget::STANDARD.file;
const TOTAL_LIMIT: u64 = Budget::STANDARD.total;
const DEPTH_LIMIT: usize = Budget::STANDARD.depth as usize;

/// Why a directory cannot be read as a repository.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system said no.
    #[error("{path}: {error}")]
    Io {
        /// What was read, safe to show.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// It holds what git could not bring to the host, or too much.
    #[error("{path}: {why}")]
    Refused {
        /// Where, safe to show.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// Reads a work tree into a snapshot without a commit: `.git` is left out, links are read and not followed.
///
/// # Errors
/// When something cannot be read, is neither file, link nor directory, has a name that is refused, or is too much.
pub fn read_directory(dir: &Path) -> Result<Snapshot, DirectoryError> {
    if dir.is_file() {
        let why = "it is a file: name the directory that holds it".to_owned();
        return Err(refused(&dir.display().to_string(), why));
    }
    let mut reading = Reading { snapshot: Snapshot::default(), walked: 0, total: 0 };
    reading.directory(dir, "", 1)?;
    Ok(reading.snapshot)
}

/// For whom a work tree is read: for a host with this name, or this one, with the facts of the machine that it is read on.
#[must_use]
pub fn context(host: Option<String>) -> Context {
    let facts = facts();
    // The settings may be out of reach, and there need be none: this runs anywhere.
    let known_as = || Settings::read().ok().and_then(|settings| settings.host);
    let host = host.or_else(known_as).unwrap_or_else(|| facts.hostname.clone());
    Context { host, facts, secrets: BTreeMap::new() }
}

/// Judges a work tree on a thread with all the stack that this may take. With `strict`, notes make it invalid.
///
/// # Errors
/// When there can be no such thread.
pub fn run(dir: &Path, context: &Context, strict: bool, color: bool) -> io::Result<(String, bool)> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(manifest::STACK);
        let judging = thread.spawn_scoped(scope, || validate(dir, context, strict, color))?;
        judging.join().map_err(|_| io::Error::other("the reader of the manifest failed"))
    })
}

/// What to print, and whether it is valid.
fn validate(dir: &Path, context: &Context, strict: bool, color: bool) -> (String, bool) {
    match read_directory(dir) {
        Ok(snapshot) if !is_repository(&snapshot) => {
            let dir = escape(&dir.display().to_string());
            (format!("error: {dir} has neither reconciled.toml nor files/: is it the top of the work tree?\n"), false)
        }
        Ok(snapshot) => judge(&snapshot, context, strict, color),
        Err(error) => (format!("error: {error}\n"), false),
    }
}

fn is_repository(snapshot: &Snapshot) -> bool {
    let begins = |path: &String| path == "reconciled.toml" || path.starts_with("files/") || path.starts_with("hosts/");
    snapshot.entries.keys().any(begins)
}

fn judge(snapshot: &Snapshot, context: &Context, strict: bool, color: bool) -> (String, bool) {
    match manifest::read(snapshot, context) {
        Ok(manifest) => {
            let valid = !strict || manifest.notes.is_empty();
            (summary(&manifest, valid), valid)
        }
        Err(faults) => {
            let shown = faults.iter().map(|fault| fault.render(manifest::source_of(snapshot, fault), color) + "\n");
            let text = shown.collect::<Vec<_>>().join("\n");
            (text, false)
        }
    }
}

fn summary(manifest: &Manifest, valid: bool) -> String {
    let mut text: String = manifest.notes.iter().map(|note| format!("note: {note}\n")).collect();
    let verdict = if valid { "valid" } else { "not valid: --strict makes notes errors" };
    let counted = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let resources = counted(manifest.resources.len(), "resource", "resources");
    let probes = counted(manifest.probes.len(), "probe", "probes");
    let _ = writeln!(text, "{verdict} ({resources}, {probes})");
    text
}

struct Reading {
    snapshot: Snapshot,
    /// Entries, directories included.
    walked: u64,
    total: u64,
}

impl Reading {
    /// Reads what is in a directory; `prefix` is its path in the repository with a slash behind it.
    fn directory(&mut self, dir: &Path, prefix: &str, depth: usize) -> Result<(), DirectoryError> {
        if depth > DEPTH_LIMIT {
            return Err(refused(prefix, format!("it is deeper than {DEPTH_LIMIT} directories")));
        }
        let shown = if prefix.is_empty() { escape(&dir.display().to_string()) } else { escape(prefix) };
        let failed = |error| DirectoryError::Io { path: shown.clone(), error };
        for entry in fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            // One further below is a repository of its own: git would bring a submodule, which is refused like the name.
            if name == ".git" && prefix.is_empty() {
                continue;
            }
            let Some(name) = name.to_str() else {
                let name = name.to_string_lossy();
                return Err(refused(&format!("{prefix}{name}"), "its name is not UTF-8".to_owned()));
            };
            let path = format!("{prefix}{name}");
            check_relative(&path).map_err(|why| refused(&path, why))?;
            self.entry(&entry, path, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &fs::DirEntry, path: String, depth: usize) -> Result<(), DirectoryError> {
        let failed = |error| DirectoryError::Io { path: escape(&path), error };
        let kind = entry.file_type().map_err(failed)?;
        self.walked += 1;
        let limit = Budget::STANDARD.entries;
        if self.walked > limit {
            return Err(refused(&path, format!("the directory has more than {limit} entries")));
        }
        if kind.is_dir() {
            return self.directory(&entry.path(), &format!("{path}/"), depth + 1);
        }
        let content = if kind.is_symlink() {
            let target = fs::read_link(entry.path()).map_err(failed)?;
            let Ok(target) = target.into_os_string().into_string() else {
                return Err(refused(&path, "the link's target is not UTF-8".to_owned()));
            };
            SourceEntry::Link { target }
        } else if kind.is_file() {
            self.file(&entry.path(), &path)?
        } else {
            return Err(refused(&path, "it is neither a file, a link nor a directory".to_owned()));
        };
        self.snapshot.entries.insert(path, content);
        Ok(())
    }

    fn file(&mut self, file: &Path, path: &str) -> Result<SourceEntry, DirectoryError> {
        use std::os::unix::fs::PermissionsExt as _;
        let failed = |error| DirectoryError::Io { path: escape(path), error };
        let opened = fs::File::open(file).map_err(failed)?;
        let executable = opened.metadata().map_err(failed)?.permissions().mode() & 0o100 != 0;
        let mut content = Vec::new();
        opened.take(FILE_LIMIT + 1).read_to_end(&mut content).map_err(failed)?;
        let size = content.len() as u64;
        self.total += size;
        if size > FILE_LIMIT {
            return Err(refused(path, format!("it is larger than {} MiB", FILE_LIMIT >> 20)));
        }
        if self.total > TOTAL_LIMIT {
            return Err(refused(path, format!("all files together are larger than {} MiB", TOTAL_LIMIT >> 20)));
        }
        Ok(SourceEntry::File { content, executable })
    }
}

fn refused(path: &str, why: String) -> DirectoryError {
    DirectoryError::Refused { path: escape(path), why }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::{Path, PathBuf};

    use super::{DEPTH_LIMIT, FILE_LIMIT, read_directory, validate};
    use crate::manifest::Context;
    use crate::source::SourceEntry;

    /// A directory that goes away with its owner.
    struct Work(PathBuf);

    impl Work {
        fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
            let dir = std::env::temp_dir().join(format!("reconciled-validate-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            for (path, content) in files {
                let path = dir.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Self(dir)
        }

        fn refusal(&self) -> String {
            read_directory(&self.0).unwrap_err().to_string()
        }
    }

    impl Drop for Work {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn reads_files_links_and_modes() {
        let work = Work::new("read", &[("files/etc/a", b"a"), ("files/usr/b", b"b"), (".git/config", b"x")]);
        fs::set_permissions(work.0.join("files/usr/b"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/nowhere", work.0.join("files/etc/l")).unwrap();
        let entries = read_directory(&work.0).unwrap().entries;
        let wanted = [
            ("files/etc/a", SourceEntry::File { content: b"a".to_vec(), executable: false }),
            ("files/etc/l", SourceEntry::Link { target: "/nowhere".to_owned() }),
            ("files/usr/b", SourceEntry::File { content: b"b".to_vec(), executable: true }),
        ];
        assert_eq!(entries, wanted.map(|(path, entry)| (path.to_owned(), entry)).into());
    }

    #[test]
    fn refuses_what_git_could_not_bring() {
        let work = Work::new("names", &[("files/a", b"")]);
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"files/\xff");
        fs::write(work.0.join(name), b"").unwrap();
        assert!(work.refusal().ends_with("its name is not UTF-8"), "{}", work.refusal());

        let work = Work::new("controls", &[("files/a\u{1b}[2Jb", b"")]);
        assert!(work.refusal().contains("invisible character U+001B"), "{}", work.refusal());

        let work = Work::new("nested", &[("files/srv/app/.git/config", b"")]);
        assert!(work.refusal().contains("`.git` component"), "{}", work.refusal());

        let work = Work::new("large", &[("files/a", b"")]);
        fs::File::create(work.0.join("files/a")).unwrap().set_len(FILE_LIMIT + 1).unwrap();
        assert_eq!(work.refusal(), "files/a: it is larger than 16 MiB");

        let deep = format!("{}a", "d/".repeat(DEPTH_LIMIT));
        assert!(Work::new("deep", &[(&deep, b"")]).refusal().contains("deeper than 64"));

        let work = Work::new("special", &[("files/a", b"")]);
        let _socket = std::os::unix::net::UnixListener::bind(work.0.join("files/s")).unwrap();
        assert_eq!(work.refusal(), "files/s: it is neither a file, a link nor a directory");

        assert!(read_directory(Path::new("/nonexistent")).unwrap_err().to_string().contains("/nonexistent"));
    }

    #[test]
    fn judges_as_the_daemon_would() {
        let work = Work::new("judge", &[("files/etc/a", b"a\n")]);
        let (text, valid) = validate(&work.0, &Context::default(), false, false);
        assert!(valid && text.contains("note: no probes") && text.ends_with("valid (1 resource, 0 probes)\n"), "{text}");
        let (text, valid) = validate(&work.0, &Context::default(), true, false);
        assert!(!valid && text.contains("--strict"), "{text}");

        fs::write(work.0.join("reconciled.toml"), "[[unit]]\nnmae = \"a\"\n[[unit]]\nname = \"b\"\n").unwrap();
        let (text, valid) = validate(&work.0, &Context::default(), false, false);
        assert!(!valid && text.contains("reconciled.toml:2:1") && text.contains("reconciled.toml:4:8"), "{text}");
        assert!(validate(&work.0, &Context::default(), false, true).0.contains("\u{1b}["));
        assert!(!validate(Path::new("/nonexistent"), &Context::default(), false, false).1);
        let (text, valid) = validate(&work.0.join("files"), &Context::default(), false, false);
        assert!(!valid && text.contains("top of the work tree"), "{text}");
    }
}
