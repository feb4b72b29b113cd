//! `reconcilectl init`: the bare repository that is pushed to.

use std::path::Path;
use std::process::Command;

use super::{Problem, need_root};
use crate::host::linux::accounts;
use crate::source::{GIT_USER, REPOSITORY};

/// Makes what is missing, changes nothing that is there, and says what to do next.
pub(super) fn init() -> Result<String, Problem> {
    need_root()?;
    let accounts = accounts().map_err(|e| Problem::new(e.to_string()))?;
    let Some(account) = accounts.into_iter().find(|a| a.name == GIT_USER) else {
        return Err(Problem::new(format!("the user {GIT_USER} is missing: run systemd-sysusers, or install the package again")));
    };
    if !Path::new(REPOSITORY).join("HEAD").exists() {
        use std::os::unix::process::CommandExt;
        let made = Command::new("/usr/bin/git")
            .args(["init", "--quiet", "--bare", "--initial-branch=main", REPOSITORY])
            .env_clear()
            .env("HOME", "/var/lib/reconciled")
            .env("PATH", "/usr/bin:/bin")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .current_dir("/")
            .uid(account.uid)
            .gid(account.gid)
            .output()
            .map_err(|e| Problem::new(format!("git cannot be run: {e}")))?;
        if !made.status.success() {
            return Err(Problem::new(format!("git init: {}", String::from_utf8_lossy(&made.stderr).trim())));
        }
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(format!(
        "The repository is {REPOSITORY} (branch main).\n\n\
         1. Let your key push:   ssh-add -L | sudo reconcilectl key add YOUR_NAME     (or: … < id_ed25519.pub)\n\
         2. Add the remote:      git remote add {host} {GIT_USER}@{host}:host.git\n\
         3. Push:                git push {host} main\n"
    ))
}
