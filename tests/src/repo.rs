//! A person's git work tree on this machine, and pushes from it to a host over SSH.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::{NamedTempFile, TempDir};

use crate::host::Host;
use crate::run::{self, Output};

/// A work tree with its own SSH key; gone when dropped.
#[derive(Debug)]
pub struct Repo {
    dir: TempDir,
    person: String,
    commits: AtomicU32,
}

/// What came of a push.
#[derive(Debug)]
#[must_use = "a push that is not looked at proves nothing"]
pub struct Push {
    /// Did git say that the remote took it?
    pub ok: bool,
    /// All that the pusher saw, the remote's lines included.
    pub output: String,
    /// The commit that was pushed.
    pub commit: String,
    /// How long the pusher waited.
    pub took: Duration,
}

impl Push {
    /// Insists that the push was accepted.
    #[track_caller]
    pub fn assert_live(&self) -> &Push {
        assert!(self.ok, "expected the push to go live, but it said\n{}", self.output);
        self
    }

    /// Insists that the push was not accepted, and that the pusher was told this.
    #[track_caller]
    pub fn assert_refused(&self, text: &str) -> &Push {
        assert!(!self.ok, "expected a refusal with {text:?}, but the push was accepted:\n{}", self.output);
        self.says(text)
    }

    /// Insists that the pusher saw this.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Push {
        assert!(self.output.contains(text), "expected {text:?} in what the push said:\n{}", self.output);
        self
    }
}

/// A push under way, with its client still running.
#[derive(Debug)]
pub struct Pushing {
    child: Child,
    shown: String,
    commit: String,
    start: Instant,
    /// Both of its outputs, in the order in which the pusher sees them.
    said: NamedTempFile,
}

impl Pushing {
    /// Waits for its end.
    #[track_caller]
    pub fn wait(self) -> Push {
        let Pushing { child, shown, commit, start, said } = self;
        let done = run::finish(child, shown, b"").unwrap_or_else(|why| panic!("{why}\n{}", read(&said)));
        Push { ok: done.code == 0, output: read(&said), commit, took: start.elapsed() }
    }

    /// Waits until the pusher has seen this, while the push goes on.
    #[track_caller]
    pub fn until(&mut self, text: &str) {
        while !read(&self.said).contains(text) {
            let ended = self.child.try_wait().unwrap_or_else(|e| panic!("cannot ask for `{}`: {e}", self.shown));
            // What was said between the look and the end counts.
            let said = read(&self.said);
            assert!(ended.is_none() || said.contains(text), "the push ended without {text:?}:\n{said}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the client and its ssh, as a lost connection would.
    #[track_caller]
    pub fn kill(mut self) {
        // timeout(1) made itself the leader of a group of its own, with git and ssh in it.
        run::run(run::command(&["kill", "-KILL", "--", &format!("-{}", self.child.id())]), b"").ok();
        self.child.wait().unwrap_or_else(|e| panic!("cannot wait for `{}`: {e}", self.shown));
    }
}

fn read(file: &NamedTempFile) -> String {
    let bytes = fs::read(file.path()).unwrap_or_else(|e| panic!("{}: {e}", file.path().display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Repo {
    /// Registers a new key under this name, with these options of `reconcilectl key add`, and clones.
    #[track_caller]
    pub(crate) fn clone_from(host: &Host, person: &str, options: &[&str]) -> Repo {
        let dir = TempDir::with_prefix("reconciled-repo-").unwrap_or_else(|e| panic!("no temporary folder: {e}"));
        let repo = Repo { dir, person: person.to_owned(), commits: AtomicU32::new(0) };
        let key = repo.key();
        run::run(run::command(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", person, "-f", &key]), b"").ok();
        let public = fs::read(format!("{key}.pub")).unwrap_or_else(|e| panic!("{key}.pub: {e}"));
        host.exec_with(&[["reconcilectl", "key", "add", person].as_slice(), options].concat(), &public).ok();
        let url = format!("reconciled@{}:host.git", host.ip());
        fs::create_dir(repo.path()).unwrap_or_else(|e| panic!("{}: {e}", repo.path().display()));
        repo.git(&["-c", "init.defaultBranch=main", "clone", "--quiet", &url, "."]).ok();
        repo
    }

    /// The work tree's folder.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// The private key's path.
    #[must_use]
    pub fn key(&self) -> String {
        self.dir.path().join("key").to_string_lossy().into_owned()
    }

    /// Writes a file (mode 0644) and the folders above it.
    #[track_caller]
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Repo {
        let full = self.place(path);
        fs::write(&full, content).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        self
    }

    /// Makes a file of the tree executable.
    #[track_caller]
    pub fn executable(&self, path: &str) -> &Repo {
        let full = self.path().join(path);
        fs::set_permissions(&full, fs::Permissions::from_mode(0o755)).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        self
    }

    /// Makes a symlink with this text.
    #[track_caller]
    pub fn symlink(&self, path: &str, target: &str) -> &Repo {
        let full = self.place(path);
        symlink(target, &full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        self
    }

    /// Removes a file or folder of the tree.
    #[track_caller]
    pub fn remove(&self, path: &str) -> &Repo {
        self.git(&["rm", "-rqf", "--ignore-unmatch", "--", path]).ok();
        let full = self.path().join(path);
        if full.is_dir() {
            fs::remove_dir_all(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        } else if full.is_symlink() || full.exists() {
            fs::remove_file(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        }
        self
    }

    /// Runs git in the work tree, as this person and with this key.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> Output {
        run::run(self.git_command(args), b"")
    }

    /// Runs git in the work tree with these options of ssh besides.
    #[track_caller]
    pub fn git_over(&self, ssh: &str, args: &[&str]) -> Output {
        let mut command = self.git_command(args);
        command.env("GIT_SSH_COMMAND", format!("{} {ssh}", self.ssh_words().join(" ")));
        run::run(command, b"")
    }

    /// Runs git in the work tree with this standard input, as plumbing wants it.
    #[track_caller]
    pub fn git_with(&self, args: &[&str], stdin: &[u8]) -> Output {
        run::run(self.git_command(args), stdin)
    }

    /// Runs a command on the host by ssh with this person's key, as someone who tries for more than git would.
    #[track_caller]
    pub fn ssh(&self, host: &Host, command: &[&str]) -> Output {
        let to = format!("reconciled@{}", host.ip());
        let command = command.iter().map(|word| (*word).to_owned());
        let words: Vec<String> = self.ssh_words().into_iter().chain([to]).chain(command).collect();
        run::run(run::command(&words), b"")
    }

    /// Copies a file to the host with this person's key.
    #[track_caller]
    pub fn scp(&self, host: &Host, options: &[&str], from: &str, to: &str) -> Output {
        let words = [from.to_owned(), format!("reconciled@{}:{to}", host.ip())];
        let options = options.iter().map(|word| (*word).to_owned());
        let ssh = self.ssh_words().into_iter().skip(1);
        run::run(run::command(&["scp".to_owned()].into_iter().chain(ssh).chain(options).chain(words).collect::<Vec<_>>()), b"")
    }

    /// Commits everything, even nothing, and gives the commit's id.
    #[track_caller]
    pub fn commit(&self) -> String {
        let message = format!("change {}", self.commits.fetch_add(1, Ordering::Relaxed) + 1);
        self.git(&["add", "--all"]).ok();
        self.git(&["commit", "--quiet", "--allow-empty", "-m", &message]).ok();
        self.head()
    }

    /// The commit that the work tree is at.
    #[track_caller]
    #[must_use]
    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"]).ok()
    }

    /// What the host's repository calls `main`, none before the first push.
    #[track_caller]
    #[must_use]
    pub fn remote_main(&self) -> Option<String> {
        let said = self.git(&["ls-remote", "origin", "refs/heads/main"]).ok();
        said.split_whitespace().next().map(str::to_owned)
    }

    /// Commits everything and pushes it to `main`.
    #[track_caller]
    pub fn commit_and_push(&self) -> Push {
        self.commit();
        self.push()
    }

    /// Pushes what was committed to `main`.
    #[track_caller]
    pub fn push(&self) -> Push {
        self.push_to(&["HEAD:refs/heads/main"])
    }

    /// Pushes with these options and refspecs.
    #[track_caller]
    pub fn push_to(&self, args: &[&str]) -> Push {
        self.start_push(args).wait()
    }

    /// Starts a push and does not wait for it.
    #[track_caller]
    #[must_use]
    pub fn start_push(&self, args: &[&str]) -> Pushing {
        let commit = self.head();
        let mut command = self.git_command(&[["push", "origin"].as_slice(), args].concat());
        let shown = run::shown(&command);
        let start = Instant::now();
        let said = NamedTempFile::new_in(self.dir.path()).unwrap_or_else(|e| panic!("no file for what a push says: {e}"));
        // One open file for both, so that neither overwrites the other.
        let end = || said.as_file().try_clone().unwrap_or_else(|e| panic!("{}: {e}", said.path().display()));
        let child = command.stdout(end()).stderr(end()).spawn();
        Pushing { child: child.unwrap_or_else(|e| panic!("cannot start `{shown}`: {e}")), shown, commit, start, said }
    }

    fn git_command(&self, args: &[&str]) -> Command {
        let mut command = run::command(&[["git"].as_slice(), args].concat());
        command.current_dir(self.path()).env("GIT_SSH_COMMAND", self.ssh_words().join(" "));
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), &self.person);
            command.env(format!("GIT_{who}_EMAIL"), format!("{}@example.org", self.person));
        }
        command
    }

    fn ssh_words(&self) -> Vec<String> {
        // What is agreed upon by default is proof against machines that nobody has, and costs a quarter of a second of processor time.
        let options = "-F /dev/null -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no \
                       -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o KexAlgorithms=curve25519-sha256";
        let key = ["ssh".to_owned(), "-i".to_owned(), self.key()];
        key.into_iter().chain(options.split(' ').map(str::to_owned)).collect()
    }

    #[track_caller]
    fn place(&self, path: &str) -> PathBuf {
        let full = self.path().join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent).unwrap_or_else(|e| panic!("{}: {e}", parent.display()));
        }
        full
    }
}
