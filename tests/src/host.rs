//! A throwaway host with a real systemd: boot it, look at it, break it. It is gone when the value is dropped.

use std::fmt::{self, Debug, Formatter};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{process, thread};

use serde_json::Value;

use crate::image::{self, Image, Release, testhost};
use crate::repo::Repo;
use crate::run::Output;

/// How long [`Host::wait_until`] waits.
const PATIENCE: Duration = Duration::from_secs(120);

/// One booted host.
pub struct Host {
    name: String,
    ip: String,
    release: Release,
}

impl Debug for Host {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.name, self.release.name(), self.ip)
    }
}

/// The answer to an HTTP request; status 0 when there was none, `body` then says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Host {
    /// Debian as it is, with a package source to install from (`apt-get update` first).
    #[must_use]
    #[track_caller]
    pub fn bare(release: Release) -> Host {
        Host::boot(&Image::base(release))
    }

    /// With sshd and git up, nginx and tools installed, and without our package.
    #[must_use]
    #[track_caller]
    pub fn stack(release: Release) -> Host {
        Host::boot(&Image::stack(release))
    }

    /// The same with our package installed; nginx is installed, neither enabled nor running.
    #[must_use]
    #[track_caller]
    pub fn installed(release: Release) -> Host {
        Host::boot(&Image::installed(release))
    }

    /// The same with nginx enabled and serving Debian's default site.
    #[must_use]
    #[track_caller]
    pub fn with_nginx(release: Release) -> Host {
        let host = Host::installed(release);
        host.exec("systemctl enable --quiet --now nginx").ok();
        host
    }

    /// A host with our package and nothing else but what it is reached by.
    #[must_use]
    #[track_caller]
    pub fn reached(release: Release) -> Host {
        Host::boot(&Image::bare(release))
    }

    /// As `installed`, with the programs that guards are shipped for and those of a web application; those that are services do not run.
    #[must_use]
    #[track_caller]
    pub fn with_programs(release: Release) -> Host {
        Host::boot(&Image::programs(release))
    }

    /// The same with nginx and PostgreSQL up, as under a web application.
    #[must_use]
    #[track_caller]
    pub fn with_web(release: Release) -> Host {
        let host = Host::with_programs(release);
        host.exec("systemctl enable --quiet --now nginx postgresql").ok();
        host
    }

    /// The same with the package that was built with the feature `failpoints`: it dies where [`Host::order`] says.
    #[must_use]
    #[track_caller]
    pub fn with_failpoints(release: Release) -> Host {
        Host::boot(&Image::with_failpoints(release))
    }

    /// A host of any image, such as one made by [`Image::derive`].
    #[must_use]
    #[track_caller]
    pub fn boot(image: &Image) -> Host {
        static BOOTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", process::id(), BOOTED.fetch_add(1, Ordering::Relaxed));
        let mut host = Host { name, ip: String::new(), release: image.release };
        let owner = process::id().to_string();
        let mut args = vec!["up", &host.name, "--release", image.release.name()];
        args.extend(image.name.iter().flat_map(|name| ["--image", name]));
        if !keep() {
            args.extend(["--owner", &owner]);
        }
        let up = testhost(&args, b"").ok();
        host.ip = up.rsplit(' ').next().unwrap_or_default().to_owned();
        host
    }

    /// The image of this release with our package, to derive others from.
    #[must_use]
    #[track_caller]
    pub fn image(release: Release) -> Image {
        Image::installed(release)
    }

    /// The image of a host with our package and nothing else, to derive others from.
    #[must_use]
    #[track_caller]
    pub fn bare_image(release: Release) -> Image {
        Image::bare(release)
    }

    /// Its name, which is its hostname too.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address, reachable from this machine and from other hosts.
    #[must_use]
    pub fn ip(&self) -> &str {
        &self.ip
    }

    /// What it runs.
    #[must_use]
    pub fn release(&self) -> Release {
        self.release
    }

    /// Runs a command as root; words are split at spaces, no shell is involved.
    #[track_caller]
    pub fn exec(&self, command: &str) -> Output {
        self.exec_with(&command.split_whitespace().collect::<Vec<_>>(), b"")
    }

    /// Runs a command line by bash as root.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        self.exec_with(&["bash", "-c", script], b"")
    }

    /// Runs these words as root, with a standard input.
    #[track_caller]
    pub fn exec_with(&self, words: &[&str], stdin: &[u8]) -> Output {
        let mut output = testhost(&[["exec", &self.name, "--"].as_slice(), words].concat(), stdin);
        output.command = words.join(" ");
        output
    }

    /// Runs `reconcilectl` with these words.
    #[track_caller]
    pub fn ctl(&self, words: &str) -> Output {
        self.exec(&format!("reconcilectl {words}"))
    }

    /// What `reconcilectl status --json` says.
    #[track_caller]
    pub fn status(&self) -> Value {
        let said = self.ctl("status --json");
        serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("no JSON ({e}) from {said}"))
    }

    /// A file's text; fails the test when there is none.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let done = self.exec_with(&["cat", "--", path], b"");
        assert!(done.code == 0, "cannot read {path} of {self:?}: {done}");
        done.stdout
    }

    /// Writes a file in place, as a person's editor would, and the directories above it.
    #[track_caller]
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        self.exec_with(&["sh", "-ec", "mkdir -p \"$(dirname \"$0\")\" && cat >\"$0\"", path], content.as_ref()).ok();
    }

    /// Is there anything at this path? A link to nowhere counts.
    #[track_caller]
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.exec_with(&["sh", "-c", "[ -e \"$0\" ] || [ -L \"$0\" ]", path], b"").code == 0
    }

    /// Copies a file of this machine to the host.
    #[track_caller]
    pub fn copy_in(&self, from: &Path, to: &str) {
        testhost(&["push", &self.name, &from.to_string_lossy(), to], b"").ok();
    }

    /// Does what the README says: copies the package and runs `apt-get install ./reconciled_….deb`. Gives what apt printed.
    #[track_caller]
    pub fn install_deb(&self) -> String {
        self.install(&image::deb())
    }

    #[track_caller]
    pub(crate) fn install(&self, deb: &Path) -> String {
        let Some(name) = deb.file_name().map(|name| name.to_string_lossy()) else { panic!("{} is no file", deb.display()) };
        self.copy_in(deb, "/var/tmp/");
        self.apt(&format!("update -qq && cd /var/tmp && apt-get install -y ./{name}"))
    }

    /// Runs `apt-get` with these words, and what else the line says, asking nothing.
    #[track_caller]
    pub fn apt(&self, words: &str) -> String {
        self.sh(&format!("export DEBIAN_FRONTEND=noninteractive; apt-get {words}")).ok()
    }

    /// Tells a daemon with failpoints where to die (`NAME COUNT`) or stop (`NAME COUNT stop`), one order for each of its lives.
    #[track_caller]
    pub fn order(&self, orders: &[&str]) {
        self.write("/var/lib/reconciled/failpoint", orders.join("\n"));
    }

    /// Fetches a path from port 80 under this `Host:`.
    #[must_use]
    pub fn http(&self, path: &str, host: &str) -> Response {
        let ask = || -> Result<Response, Box<dyn std::error::Error>> {
            let limit = Duration::from_secs(10);
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(self.ip.parse()?, 80), limit)?;
            stream.set_read_timeout(Some(limit))?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            parse_response(&String::from_utf8_lossy(&answer))
        };
        ask().unwrap_or_else(|e| Response { status: 0, body: e.to_string() })
    }

    /// Whether a TCP port answers those outside: what a firewall drops does not within two seconds.
    #[must_use]
    pub fn is_open(&self, port: u16) -> bool {
        let address = self.ip.parse().map(|ip| SocketAddr::new(ip, port));
        address.is_ok_and(|address| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
    }

    /// Waits until `holds` does, for two minutes at most.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let (start, mut pause) = (Instant::now(), Duration::from_millis(25));
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "after {PATIENCE:?} {self:?} still does not meet: {what}");
            thread::sleep(pause);
            // To look costs the processor time for which others wait.
            pause = (pause * 2).min(Duration::from_millis(400));
        }
    }

    /// A work tree on this machine whose `origin` is this host: `reconcilectl init`, a key of its own, and a clone over SSH.
    #[must_use]
    #[track_caller]
    pub fn clone_repo(&self) -> Repo {
        self.ctl("init").ok();
        Repo::clone_from(self, "alice", &[])
    }

    /// Another person's work tree of the same remote, the key registered under this name with these options of `key add`.
    #[must_use]
    #[track_caller]
    pub fn clone_repo_as(&self, person: &str, options: &[&str]) -> Repo {
        Repo::clone_from(self, person, options)
    }

    /// Pulls the plug: every process is killed, the disk stays.
    #[track_caller]
    pub fn off(&self) {
        testhost(&["off", &self.name], b"").ok();
    }

    /// Boots the same disk again after [`Host::off`] or [`Host::stop`].
    #[track_caller]
    pub fn boot_again(&self) {
        testhost(&["up", &self.name, "--keep"], b"").ok();
    }

    /// Powers off in good order.
    #[track_caller]
    pub fn stop(&self) {
        testhost(&["stop", &self.name], b"").ok();
    }

    /// Reboots in good order and waits until it is up.
    #[track_caller]
    pub fn reboot(&self) {
        testhost(&["reboot", &self.name], b"").ok();
    }

    /// Powers off and keeps the disk as an image.
    #[track_caller]
    pub(crate) fn save(&self, image: &str) {
        self.stop();
        testhost(&["save", &self.name, image], b"").ok();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if thread::panicking() {
            let units = ["-u", "reconciled", "-u", "reconciled-recover", "-n", "60"];
            let said = image::try_testhost(&[["logs", &self.name].as_slice(), &units].concat());
            eprintln!("--- {self:?}: its console and the daemon's journal\n{}", said.map_or_else(|why| why, |said| said.text()));
            if keep() {
                eprintln!("--- it stays: tests/testhost/testhost exec {} -- bash", self.name);
                return;
            }
        }
        match image::try_testhost(&["down", &self.name]) {
            Ok(done) if done.code == 0 => {}
            left => eprintln!("{self:?} is left behind: {left:?}"),
        }
    }
}

/// Are the hosts of failed tests to stay?
fn keep() -> bool {
    std::env::var_os("KEEP_HOSTS").is_some_and(|value| !value.is_empty())
}

fn parse_response(answer: &str) -> Result<Response, Box<dyn std::error::Error>> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    let status = head.split(' ').nth(1).ok_or("no status line")?.parse()?;
    Ok(Response { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::{Response, parse_response};

    #[test]
    fn an_answer_is_taken_apart() {
        let got = parse_response("HTTP/1.1 404 Not Found\r\nServer: x\r\n\r\ngone\r\n\r\n").ok();
        assert_eq!(got, Some(Response { status: 404, body: "gone\r\n\r\n".into() }));
        assert!(parse_response("nonsense").is_err());
    }
}
