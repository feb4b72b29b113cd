//! The worker for virtual environments, `reconciled worker venv VERB`, as the user whose they are: says what is there, builds one aside and
//! swaps it in, takes it back. Reads a request on its standard input.

mod pip;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::change::ABSENT;
use crate::digest::Digest;
use crate::venv::{NONE, Request};

/// Longest accepted request, in bytes.
const REQUEST_LIMIT: u64 = 4 << 20;
/// Longest stamp that is read, in bytes: a file of an environment takes some 150.
const STAMP_LIMIT: u64 = 64 << 20;
/// What a build leaves in the environment: of what it was made, and what was in it then.
const STAMP: &str = ".reconciled";
/// Where Python keeps what it has compiled.
const COMPILED: &str = "__pycache__";
/// What pip was told to install, for whoever looks.
const REQUIREMENTS: &str = "requirements.txt";

/// What a build has left.
#[derive(Debug, Serialize, Deserialize)]
struct Stamp {
    answer: String,
    /// Where the interpreter's links led: after an upgrade to another Python nothing of it runs.
    interpreter: PathBuf,
    /// The same of its own: another one where the interpreter is a script that finds one.
    python: PathBuf,
    /// Everything in it, by path, but for what Python compiles by itself.
    files: BTreeMap<String, Kept>,
}

/// One of its files or links.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kept {
    Link(PathBuf),
    /// Of one that nobody has touched since (`st_mtime`, `st_ctime`, in nanoseconds) the content need not be read.
    File {
        mode: u32,
        digest: Digest,
        untouched: (i64, i64, i64, i64),
    },
}

/// The verb's body.
#[must_use]
pub fn main(verb: &str) -> ExitCode {
    let served = super::request::<Request>(REQUEST_LIMIT).and_then(|request| match verb {
        "ask" => answer(Path::new(&request.path), &request).map(|answer| println!("{answer}")),
        "build" => build(&request),
        "remove" => remove(&request),
        "back" => back(&request),
        _ => Err(io::Error::other("what of virtual environments?")),
    });
    super::ended(served)
}

/// What stands in a place, in one line: the answer of its build where all of that is still there.
fn answer(place: &Path, request: &Request) -> io::Result<String> {
    match fs::symlink_metadata(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ABSENT.to_owned()),
        Err(error) => return Err(of(place, &error)),
        Ok(seen) if !seen.is_dir() => return Ok("not a directory".to_owned()),
        Ok(_) => {}
    }
    let Some(stamp) = stamp_of(place) else {
        let is_one = place.join("pyvenv.cfg").exists() || is_empty(place);
        return Ok(if is_one { "made by somebody else" } else { NONE }.to_owned());
    };
    let shown = |path: &Path| crate::path::escape(&path.to_string_lossy());
    match fs::canonicalize(&request.interpreter) {
        Ok(real) if real == stamp.interpreter => {}
        Ok(real) => {
            return Ok(format!("made with {}, and {} is {} now", shown(&stamp.interpreter), request.interpreter, shown(&real)));
        }
        Err(_) => return Ok(format!("made with {}, which is gone", shown(&stamp.interpreter))),
    }
    let flaw = if fs::canonicalize(place.join("bin/python")).is_ok_and(|real| real == stamp.python) {
        flaw(place, &stamp)?
    } else {
        Some("bin/python leads elsewhere".to_owned())
    };
    Ok(flaw.map_or(stamp.answer, |flaw| format!("damaged: {}", crate::path::escape(&flaw))))
}

fn is_empty(place: &Path) -> bool {
    fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none())
}

fn stamp_of(place: &Path) -> Option<Stamp> {
    let mut bytes = Vec::new();
    File::open(place.join(STAMP)).ok()?.take(STAMP_LIMIT).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The first thing in it that is not as it was built.
fn flaw(place: &Path, stamp: &Stamp) -> io::Result<Option<String>> {
    for (path, kept) in &stamp.files {
        let file = place.join(path);
        let seen = match fs::symlink_metadata(&file) {
            Ok(seen) => seen,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(format!("{path} is missing"))),
            Err(error) => return Err(of(&file, &error)),
        };
        let same = match kept {
            Kept::File { mode, untouched, .. } if seen.is_file() && untouched == &touched(&seen) => *mode == seen.mode(),
            Kept::File { mode, digest, .. } => {
                seen.is_file() && *mode == seen.mode() && digest_of(&file).is_ok_and(|now| now == *digest)
            }
            Kept::Link(target) => fs::read_link(&file).is_ok_and(|now| now == *target),
        };
        if !same {
            return Ok(Some(format!("{path} has changed")));
        }
    }
    // What was added since stands beside what was built; a file too (sitecustomize.py, x.pth) is run by each start of Python (site).
    for added in packages_of(place) {
        let below = format!("{added}/");
        let is_built = |(path, _): (&String, &Kept)| *path == added || path.starts_with(&below);
        if stamp.files.contains_key(&added) || stamp.files.range(below.clone()..).next().is_some_and(is_built) {
            continue;
        }
        if holds_something(&place.join(&added)) {
            return Ok(Some(format!("{added} was added")));
        }
    }
    Ok(None)
}

/// Whether this is a file, or one is below it that Python has not compiled by itself. What cannot be looked into may be.
fn holds_something(path: &Path) -> bool {
    if !fs::symlink_metadata(path).is_ok_and(|seen| seen.is_dir()) {
        return true;
    }
    let Ok(entries) = fs::read_dir(path) else { return true };
    entries.into_iter().any(|entry| entry.map_or(true, |entry| entry.file_name() != COMPILED && holds_something(&entry.path())))
}

fn touched(seen: &fs::Metadata) -> (i64, i64, i64, i64) {
    (seen.mtime(), seen.mtime_nsec(), seen.ctime(), seen.ctime_nsec())
}

fn digest_of(file: &Path) -> io::Result<Digest> {
    Ok(Digest::of_reader(&mut File::open(file)?)?.0)
}

/// What stands in its `site-packages`, as paths in it, sorted.
fn packages_of(place: &Path) -> Vec<String> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        // A name that is no text is none that was built, and is not taken for one.
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut all = Vec::new();
    for python in names(&place.join("lib")) {
        let packages = format!("lib/{python}/site-packages");
        let entries = names(&place.join(&packages)).into_iter().filter(|name| name != COMPILED);
        all.extend(entries.map(|name| format!("{packages}/{name}")));
    }
    all.sort();
    all
}

/// Builds it aside, and swaps it in when it is whole. What stood there waits aside then.
fn build(request: &Request) -> io::Result<()> {
    let (path, aside) = (PathBuf::from(&request.path), PathBuf::from(request.aside()));
    let now = answer(&path, request)?;
    if now == request.after {
        return Ok(());
    }
    // What is swapped out goes with the build after this one.
    if now == NONE {
        return Err(io::Error::other(format!("{} is no virtual environment: move it away, or correct `path`", path.display())));
    }
    // The one before, as after a push that was taken back, or is to be undone where nothing can be fetched.
    if answer(&aside, request).is_ok_and(|waiting| waiting == request.after) {
        return swap(&aside, &path);
    }
    clear(&aside)?;
    if let Err(error) = make(request, &path, &aside) {
        let _ = clear(&aside);
        return Err(error);
    }
    swap(&aside, &path)
}

fn make(request: &Request, path: &Path, aside: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir(aside).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::other(format!(
            "{} is not the user's who builds here: give it to them (a [[directory]] with `owner`), or correct `owner`",
            parent.display()
        )),
        _ => of(aside, &error),
    })?;
    let requirements = aside.join(REQUIREMENTS);
    // They may hold the password of an index.
    let written = File::options().write(true).create_new(true).mode(0o600).open(&requirements);
    written.and_then(|mut file| file.write_all(request.requirements.as_bytes())).map_err(|error| of(&requirements, &error))?;
    pip::install(request, aside, &requirements)?;
    relocate(path, aside)?;
    put_stamp(request, aside)?;
    // After a power cut it is there as a whole, or not at all.
    rustix::fs::syncfs(File::open(aside)?)?;
    Ok(())
}

fn put_stamp(request: &Request, aside: &Path) -> io::Result<()> {
    let (interpreter, python) = (fs::canonicalize(&request.interpreter)?, fs::canonicalize(aside.join("bin/python"))?);
    let mut files = BTreeMap::new();
    list(aside, "", &mut files)?;
    // Pip alone has read it, and its digest would tell of what is secret in it.
    files.remove(REQUIREMENTS);
    let stamp = Stamp { answer: request.after.clone(), interpreter, python, files };
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(aside.join(STAMP))?;
    file.write_all(&serde_json::to_vec(&stamp)?)
}

/// Scripts and settings name the place in which they were made; compiled code does not care.
fn relocate(path: &Path, aside: &Path) -> io::Result<()> {
    let (from, to) = (aside.to_string_lossy().into_owned(), path.to_string_lossy().into_owned());
    let scripts = fs::read_dir(aside.join("bin"))?.collect::<io::Result<Vec<_>>>()?.into_iter().map(|entry| entry.path());
    for file in scripts.chain([aside.join("pyvenv.cfg")]) {
        if !fs::symlink_metadata(&file)?.is_file() {
            continue;
        }
        // A program in machine code that packages bring is none of these.
        let Ok(text) = String::from_utf8(fs::read(&file)?) else { continue };
        if text.contains(&from) {
            fs::write(&file, text.replace(&from, &to)).map_err(|error| of(&file, &error))?;
        }
    }
    Ok(())
}

/// Everything below a folder, but for what Python compiles by itself.
fn list(root: &Path, below: &str, files: &mut BTreeMap<String, Kept>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, file) = (if below.is_empty() { name.clone() } else { format!("{below}/{name}") }, entry.path());
        let seen = fs::symlink_metadata(&file)?;
        if seen.is_dir() {
            if name != COMPILED {
                list(root, &path, files)?;
            }
        } else if seen.is_symlink() {
            files.insert(path, Kept::Link(fs::read_link(&file)?));
        } else if seen.is_file() {
            let mode = seen.permissions().mode();
            files.insert(path, Kept::File { mode, digest: digest_of(&file)?, untouched: touched(&seen) });
        }
    }
    Ok(())
}

/// Takes it away; it waits aside.
fn remove(request: &Request) -> io::Result<()> {
    let (path, aside) = (PathBuf::from(&request.path), PathBuf::from(request.aside()));
    if answer(&path, request)? == ABSENT {
        return Ok(());
    }
    if !path.join("pyvenv.cfg").exists() {
        return Err(io::Error::other(format!("{} is no virtual environment: remove it by hand", path.display())));
    }
    clear(&aside)?;
    rename(&path, &aside, RenameFlags::NOREPLACE)
}

/// Brings what was there before.
fn back(request: &Request) -> io::Result<()> {
    let (path, aside) = (PathBuf::from(&request.path), PathBuf::from(request.aside()));
    if answer(&path, request)? == request.before {
        return Ok(());
    }
    if request.before == ABSENT {
        if stamp_of(&path).is_none() {
            return Err(io::Error::other(format!("what is in {} was not built here: remove it by hand", path.display())));
        }
        clear(&aside)?;
        rename(&path, &aside, RenameFlags::NOREPLACE)?;
        return clear(&aside);
    }
    if answer(&aside, request)? != request.before {
        return Err(io::Error::other(format!(
            "what was in {} before does not wait in {} any more",
            path.display(),
            aside.display()
        )));
    }
    swap(&aside, &path)?;
    clear(&aside)
}

/// What is aside takes the place, and what was in that, if anything, waits aside.
fn swap(aside: &Path, path: &Path) -> io::Result<()> {
    let flags = if fs::symlink_metadata(path).is_ok() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    rename(aside, path, flags)
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
    renameat_with(CWD, from, CWD, to, flags).map_err(|error| of(to, &error.into()))?;
    let parent = File::open(to.parent().unwrap_or(Path::new("/")))?;
    parent.sync_all()
}

fn clear(place: &Path) -> io::Result<()> {
    let gone = match fs::symlink_metadata(place) {
        Ok(seen) if seen.is_dir() => fs::remove_dir_all(place),
        Ok(_) => fs::remove_file(place),
        Err(error) => Err(error),
    };
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(of(place, &error)),
        _ => Ok(()),
    }
}

fn of(place: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", place.display()))
}

/// Runs a tool to its end.
fn run(command: &mut Command) -> io::Result<()> {
    let status = quiet(command).status()?;
    if status.success() { Ok(()) } else { Err(failed(command, status)) }
}

/// It asks nobody, and says what it says in English.
fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8")
}

fn failed(command: &Command, status: ExitStatus) -> io::Error {
    io::Error::other(format!("{}: {status}", command.get_program().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const MODULE: &str = "lib/python3.11/site-packages/x/__init__.py";

    /// An environment as a build would leave it aside, and the request for it.
    fn aside(root: &Path, before: &str, after: &str) -> Request {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let interpreter = root.join("python3");
        fs::create_dir_all(root).unwrap();
        fs::write(&interpreter, "").unwrap();
        let (path, after) = (text(&root.join("env")), after.to_owned());
        let request =
            Request { path, interpreter: text(&interpreter), requirements: String::new(), before: before.to_owned(), after };
        let aside = PathBuf::from(request.aside());
        for (file, content) in [
            ("bin/x", format!("#!{}/bin/python\n", aside.display())),
            (MODULE, "one".to_owned()),
            ("lib/python3.11/site-packages/x-1.dist-info/RECORD", String::new()),
        ] {
            let file = aside.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        symlink(&interpreter, aside.join("bin/python")).unwrap();
        fs::write(aside.join("pyvenv.cfg"), format!("command = {}\n", aside.display())).unwrap();
        relocate(Path::new(&request.path), &aside).unwrap();
        put_stamp(&request, &aside).unwrap();
        request
    }

    #[test]
    fn what_is_not_as_it_was_built_is_found() {
        type Harm = fn(&Path);
        let cases: [(Harm, &str); 11] = [
            (|_| (), "built x"),
            (|env| fs::remove_file(env.join(MODULE)).unwrap(), "damaged: lib/python3.11/site-packages/x/__init__.py is missing"),
            (
                |env| fs::write(env.join(MODULE), "two").unwrap(),
                "damaged: lib/python3.11/site-packages/x/__init__.py has changed",
            ),
            (
                |env| fs::set_permissions(env.join("bin/x"), fs::Permissions::from_mode(0o600)).unwrap(),
                "damaged: bin/x has changed",
            ),
            (
                |env| {
                    // The same content at another time is the same.
                    fs::write(env.join(MODULE), "one").unwrap();
                    fs::create_dir(env.join("lib/python3.11/site-packages/x/__pycache__")).unwrap();
                    fs::write(env.join("lib/python3.11/site-packages/x/__pycache__/y.pyc"), "").unwrap();
                },
                "built x",
            ),
            (
                |env| {
                    fs::create_dir(env.join("lib/python3.11/site-packages/empty")).unwrap();
                    fs::create_dir(env.join("lib/python3.11/site-packages/y-2.dist-info")).unwrap();
                    fs::write(env.join("lib/python3.11/site-packages/y-2.dist-info/RECORD"), "").unwrap();
                },
                "damaged: lib/python3.11/site-packages/y-2.dist-info was added",
            ),
            (
                |env| fs::write(env.join("lib/python3.11/site-packages/x.pth"), "import os\n").unwrap(),
                "damaged: lib/python3.11/site-packages/x.pth was added",
            ),
            (|env| fs::remove_file(env.join("bin/python")).unwrap(), "damaged: bin/python leads elsewhere"),
            (|env| fs::remove_file(env.join("../python3")).unwrap(), "made with ROOT/python3, which is gone"),
            (|env| fs::remove_file(env.join(STAMP)).unwrap(), "made by somebody else"),
            (
                |env| {
                    fs::remove_file(env.join(STAMP)).unwrap();
                    fs::remove_file(env.join("pyvenv.cfg")).unwrap();
                },
                "no virtual environment",
            ),
        ];
        for (harm, said) in cases {
            let root = tempfile::tempdir().unwrap();
            let request = aside(root.path(), ABSENT, "built x");
            let env = Path::new(&request.path);
            assert_eq!(answer(env, &request).unwrap(), ABSENT);
            swap(Path::new(&request.aside()), env).unwrap();
            harm(env);
            let real = fs::canonicalize(root.path()).unwrap();
            assert_eq!(answer(env, &request).unwrap().replace(real.to_str().unwrap(), "ROOT"), said);
            assert_eq!(fs::read_to_string(env.join("bin/x")).unwrap(), format!("#!{}/bin/python\n", request.path));
        }
    }

    #[test]
    fn what_was_there_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let first = aside(root.path(), ABSENT, "built one");
        let (env, beside) = (PathBuf::from(&first.path), PathBuf::from(first.aside()));
        swap(&beside, &env).unwrap();
        let second = aside(root.path(), "built one", "built two");
        swap(&beside, &env).unwrap();
        assert_eq!([answer(&env, &second).unwrap(), answer(&beside, &second).unwrap()], ["built two", "built one"]);
        // As often as it is asked for.
        for _ in 0..2 {
            back(&second).unwrap();
            assert_eq!([answer(&env, &second).unwrap(), answer(&beside, &second).unwrap()], ["built one", ABSENT]);
        }
        for _ in 0..2 {
            back(&first).unwrap();
            assert_eq!([answer(&env, &first).unwrap(), answer(&beside, &first).unwrap()], [ABSENT, ABSENT]);
        }
        // What is gone from aside cannot come back, and what nobody built stays.
        let third = aside(root.path(), "built none", "built three");
        swap(&beside, &env).unwrap();
        assert!(back(&third).unwrap_err().to_string().contains("does not wait in"));
        fs::remove_file(env.join(STAMP)).unwrap();
        assert!(back(&first).unwrap_err().to_string().contains("was not built here"));
        // What is declared absent waits aside; what is no environment stays.
        remove(&first).unwrap();
        assert!(!env.exists() && beside.exists());
        fs::create_dir(&env).unwrap();
        assert!(remove(&first).unwrap_err().to_string().contains("is no virtual environment"));
        // What waits aside need not be built; what is somebody's data is not swapped out.
        let one = aside(&root.path().join("other"), ABSENT, "built one");
        fs::create_dir(&one.path).unwrap();
        build(&one).unwrap();
        assert_eq!(answer(Path::new(&one.path), &one).unwrap(), "built one");
        let media = aside(&root.path().join("media"), NONE, "built one");
        fs::create_dir(&media.path).unwrap();
        fs::write(Path::new(&media.path).join("photo.jpg"), "").unwrap();
        assert!(build(&media).unwrap_err().to_string().contains("is no virtual environment: move it away"));
    }
}
