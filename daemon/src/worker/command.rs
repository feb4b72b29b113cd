//! The worker for commands, `reconciled worker command`: becomes the program that it is told on its standard input. What is secret in the
//! environment comes that way: arguments can be read by everybody, and so can the properties of units.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Longest accepted request, in bytes.
const REQUEST_LIMIT: u64 = 4 << 20;
/// As a shell says that there is no such program.
const NO_PROGRAM: u8 = 127;

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Where a program without a slash is looked for; the program finds others there too (`PATH`).
    pub folders: Vec<String>,
    /// Added to the environment, where it has no such variable.
    #[serde(default)]
    pub defaults: BTreeMap<String, String>,
    /// Added to the environment.
    pub environment: BTreeMap<String, String>,
    /// Variables that name a file with this content, which has no other name: who may not look into the process cannot read it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// The verb's body.
#[must_use]
pub fn main() -> ExitCode {
    let error = match super::request::<Request>(REQUEST_LIMIT) {
        Ok(request) => become_it(&request),
        Err(error) => error,
    };
    eprintln!("{error}");
    ExitCode::from(NO_PROGRAM)
}

/// Returns only when it cannot.
fn become_it(request: &Request) -> io::Error {
    let Some((program, arguments)) = request.argv.split_first() else { return io::Error::other("no program") };
    let Some(path) = find(program, &request.folders) else {
        return io::Error::other(format!("`{}` is in none of {}", crate::path::escape(program), request.folders.join(", ")));
    };
    let mut command = Command::new(&path);
    command.args(arguments).env("PATH", request.folders.join(":")).stdin(Stdio::null());
    // systemd names it only for those who are not root.
    if std::env::var_os("HOME").is_none() {
        command.env("HOME", "/root");
    }
    command.envs(request.defaults.iter().filter(|(name, _)| std::env::var_os(name).is_none()));
    command.envs(&request.environment);
    for (name, content) in &request.files {
        match nameless(content) {
            Ok(path) => drop(command.env(name, path)),
            Err(error) => return io::Error::other(format!("{name}: {error}")),
        }
    }
    let error = command.exec();
    io::Error::other(format!("{}: {error}", path.display()))
}

/// A file in memory that only its owner may read, and whose path holds as long as the process does (memfd_create(2)).
fn nameless(content: &str) -> io::Result<String> {
    // Open on exec: it is for the program that this process becomes. A host may demand that it is none itself; Linux before 6.3 knows no such flag.
    let made = match rustix::fs::memfd_create("reconciled", MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("reconciled", MemfdFlags::empty()),
        made => made,
    };
    let mut file = File::from(made?);
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content.as_bytes())?;
    Ok(format!("/proc/self/fd/{}", file.into_raw_fd()))
}

fn find(program: &str, folders: &[String]) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program));
    }
    let is_program = |path: &PathBuf| path.metadata().is_ok_and(|seen| seen.is_file() && seen.permissions().mode() & 0o111 != 0);
    folders.iter().map(|folder| Path::new(folder).join(program)).find(is_program)
}
