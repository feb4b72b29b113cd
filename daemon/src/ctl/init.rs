//! `reconcilectl init`: the bare repository that is pushed to.

use std::path::Path;
use std::process::Command;

use super::{Problem, need_root};
use crate::host::linux::accounts;
use crate::source::{GIT_USER, REPOSITORY};

/// Where pushes come in.
const SSHD: &str = "/usr/sbin/sshd";

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
    let sshd = if Path::new(SSHD).exists() {
        ""
    } else {
        "\nBefore that: pushes come over SSH, and there is no sshd here. sudo apt-get install openssh-server\n"
    };
    Ok(format!(
        "The repository is {REPOSITORY} (branch main).\n\
         {sshd}\n\
         1. Here, let your key push (one line of the .pub file, with the name that its pushes are recorded under):\n\
         \x20      echo 'ssh-ed25519 AAAA… you@laptop' | sudo reconcilectl key add YOUR_NAME\n\
         2. In your work tree, add the remote ({host}, or the name or address that you reach this host by):\n\
         \x20      git remote add {host} {GIT_USER}@{host}:host.git\n\
         3. Push what is to go live:\n\
         \x20      git push {host} main\n"
    ))
}
