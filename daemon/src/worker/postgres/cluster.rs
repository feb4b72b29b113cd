//! The cluster that is spoken with, and psql, which speaks with it.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::{COMMON, Fault, LOOKS, unreadable};
use crate::postgres::{APPLICATION, LOOK, USER, sql};

/// Where everybody expects a server.
const PORT: &str = "5432";
/// How long a connection may take, in seconds.
const CONNECT: u64 = 10;
/// With less time than this nothing more is asked.
const LEAST: Duration = Duration::from_secs(5);

/// A cluster of Debian's packages (pg_lsclusters(1)).
#[derive(Debug)]
pub(super) struct Cluster {
    version: String,
    name: String,
    port: String,
    /// Its server runs.
    pub(super) online: bool,
    /// Where its data is.
    pub(super) data: PathBuf,
    /// How long one statement may take.
    pub(super) limit: Duration,
    /// When all has to be over, where much is asked.
    pub(super) end: Option<Instant>,
}

impl Cluster {
    /// The one of this name; not said, the one at the usual port, or else the only one.
    pub(super) fn find(name: Option<&str>) -> Result<Self, Fault> {
        let mut list = Command::new("/usr/bin/pg_lsclusters");
        let output = list.arg("--no-header").stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(Fault::Said(format!("pg_lsclusters: {}", words(&output.stderr))));
        }
        Self::chosen(&String::from_utf8_lossy(&output.stdout), name)
    }

    /// Whether it runs is no reason: while the one that is meant is down, another one's databases would be taken for its own.
    fn chosen(list: &str, name: Option<&str>) -> Result<Self, Fault> {
        let of_line = |line: &str| {
            let mut fields = line.split_ascii_whitespace().map(str::to_owned);
            let (version, name, port) = (fields.next()?, fields.next()?, fields.next()?);
            let online = fields.next()?.split(',').any(|word| word == "online");
            Some(Self { version, name, port, online, data: fields.nth(1)?.into(), limit: LOOK, end: None })
        };
        let mut all: Vec<Self> = list.lines().filter_map(of_line).collect();
        if let Some(name) = name {
            let gone =
                || Fault::Said(format!("there is no PostgreSQL cluster {} on this host any more", crate::path::escape(name)));
            return all.into_iter().find(|cluster| cluster.to_string() == name).ok_or_else(gone);
        }
        if all.len() > 1 {
            let names = all.iter().map(Self::to_string).collect::<Vec<_>>().join(", ");
            all.retain(|cluster| cluster.port == PORT);
            if all.len() != 1 {
                let how_many = if all.is_empty() { "none" } else { "more than one" };
                return Err(Fault::Said(format!(
                    "of the PostgreSQL clusters on this host ({names}) {how_many} is at port {PORT}: give the one that is meant this port, and no other (pg_lsclusters)"
                )));
            }
        }
        all.pop().ok_or(Fault::NoCluster)
    }

    /// The unit that runs it (postgresql-common).
    pub(super) fn unit(&self) -> String {
        format!("postgresql@{}-{}.service", self.version, self.name)
    }

    /// Runs a script in a database, whole or not at all beyond its first error; what it printed.
    pub(super) fn psql(&self, database: &str, script: &str) -> Result<String, Fault> {
        if !self.online {
            let unit = self.unit();
            return Err(Fault::Said(format!("PostgreSQL does not run: systemctl start {unit}, or see journalctl -u {unit}")));
        }
        let (connect, limit) = self.time()?;
        let mut psql = self.client();
        // Terse: no error quotes the statement.
        psql.args([
            "-U",
            USER,
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            "VERBOSITY=terse",
            "-v",
            "SHOW_CONTEXT=never",
            "-d",
            database,
        ]);
        psql.env("PGCLIENTENCODING", "UTF8")
            .env("PGCONNECT_TIMEOUT", connect.to_string())
            .env("PGOPTIONS", sql::OPTIONS)
            .env("LC_ALL", "C.UTF-8")
            .env("PGAPPNAME", APPLICATION);
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ended before it had read all says why.
            let _ = stdin.write_all([sql::PREAMBLE, &sql::limit(limit), script].concat().as_bytes());
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(Fault::Said(words(&output.stderr)))
        }
    }

    /// The client of its own version at its own socket. Debian's `psql` is a script that finds these two, for more time than most answers
    /// take (pg_wrapper(1)); where the server does not say, that is left to it.
    fn client(&self) -> Command {
        let program = self.programs().join("psql");
        let pid_file = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let is_there = |(port, directory): &(&str, &str)| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists();
        match socket(&pid_file).filter(|socket| program.exists() && is_there(socket)) {
            Some((port, directory)) => {
                let mut psql = Command::new(program);
                psql.args(["-h", directory, "-p", port]);
                psql
            }
            None => {
                let mut wrapper = Command::new("/usr/bin/psql");
                wrapper.args(["--cluster", &self.to_string()]);
                wrapper
            }
        }
    }

    /// Where the programs of its version are (postgresql-common).
    fn programs(&self) -> PathBuf {
        Path::new("/usr/lib/postgresql").join(&self.version).join("bin")
    }

    /// How long a connection may take, in seconds, and each statement.
    fn time(&self) -> Result<(u64, Duration), Fault> {
        let Some(end) = self.end else { return Ok((CONNECT, self.limit)) };
        let left = end.saturating_duration_since(Instant::now());
        if left < LEAST {
            return Err(Fault::Said("PostgreSQL takes too long to answer: this was not looked at".to_owned()));
        }
        let connect = (left.as_secs() / 2).min(CONNECT);
        Ok((connect, left - Duration::from_secs(connect)))
    }

    /// The same for a query that answers with one JSON value.
    pub(super) fn query<T: DeserializeOwned>(&self, database: &str, script: &str) -> Result<T, Fault> {
        serde_json::from_str(&self.psql(database, script)?).map_err(|error| unreadable(&error))
    }

    /// Ends what is still going in the server for a worker that was killed, and waits until it has: half of it may come to be otherwise, after
    /// it was looked at.
    pub(super) fn end_left_over(&self) -> Result<(), Fault> {
        if !self.online {
            return Ok(());
        }
        for _ in 0..LOOKS.0 {
            if self.query::<u32>(COMMON, &sql::end_left_over())? == 0 {
                return Ok(());
            }
            sleep(LOOKS.1);
        }
        Err(Fault::Said("what was begun earlier is still going on in the server, and cannot be ended".to_owned()))
    }

    /// What the server's files say of a setting, in the server's own words; with `value` what they would say if it were so. The server need
    /// not run.
    pub(super) fn configured(&self, setting: &str, value: Option<&str>) -> Result<String, Fault> {
        let mut postgres = Command::new(self.programs().join("postgres"));
        postgres.arg("-D").arg(Path::new("/etc/postgresql").join(&self.version).join(&self.name)).args(["-C", setting]);
        postgres.args(value.map(|value| format!("{setting}={value}")).iter().flat_map(|word| ["-c", word]));
        let output = postgres.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(Fault::Said(words(&output.stderr)));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }
}

/// The port of a server that runs, and the directory of its first socket: lines 4 and 5 of its `postmaster.pid` (PostgreSQL's
/// src/include/utils/pidfile.h).
fn socket(pid_file: &str) -> Option<(&str, &str)> {
    let mut lines = pid_file.lines().skip(3);
    let (port, directory) = (lines.next()?.trim(), lines.next()?.trim());
    (port.parse::<u16>().is_ok() && directory.starts_with('/')).then_some((port, directory))
}

/// As postgresql-common names it: `15/main`.
impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.version, self.name)
    }
}

/// What a program said, without the places in scripts that nobody sees and the time.
fn words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = |line: &str| {
        let place = line.strip_prefix("psql:<stdin>:").and_then(|rest| rest.split_once(": "));
        let message = place.map_or(line, |(_, message)| message);
        let kind = ["ERROR:  ", "FATAL:  ", "DETAIL:  "].iter().find_map(|kind| Some(message.split_once(kind)?.1));
        crate::path::escape(kind.unwrap_or(message))
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(line).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{CONNECT, Cluster, Fault, LOOK, socket, words};

    #[test]
    fn the_cluster_that_is_meant() {
        let named = |list: &str, name| Cluster::chosen(list, name).map(|cluster| (cluster.unit(), cluster.online));
        let unit = |list: &str| named(list, None).map_err(|fault| fault.to_string());
        let is = |unit: &str, online| Ok((unit.to_owned(), online));
        let old = "15 main 5432 down postgres /var/lib/postgresql/15/main /var/log/postgresql/postgresql-15-main.log\n";
        let new = "17 main 5433 online postgres /var/lib/postgresql/17/main /var/log/postgresql/postgresql-17-main.log\n";
        let third = "17 x 5434 online,recovery postgres /data/x /var/log/x.log\n";
        assert!(matches!(Cluster::chosen("", None), Err(Fault::NoCluster)));
        assert_eq!(unit(old), is("postgresql@15-main.service", false));
        assert_eq!(unit(third), is("postgresql@17-x.service", true), "the only one, wherever it is");
        // The one at the usual port, also when it is down.
        assert_eq!(unit(&[new, old, third].concat()), is("postgresql@15-main.service", false));
        let both = new.replace("5433", "5431") + &third.replace("5434", "5432");
        assert_eq!(unit(&both), is("postgresql@17-x.service", true));
        let said = unit(&[new, third].concat()).unwrap_err();
        assert!(said.contains("(17/main, 17/x) none is at port 5432"), "{said}");
        assert!(unit(&[old, &new.replace("5433", "5432")].concat()).unwrap_err().contains("more than one is at port 5432"));
        // What was planned for one is of no other.
        assert_eq!(named(&[old, new].concat(), Some("17/main")).unwrap().0, "postgresql@17-main.service");
        assert!(named(old, Some("17/main")).unwrap_err().to_string().contains("no PostgreSQL cluster 17/main"));
        assert_eq!(Cluster::chosen(old, None).unwrap().data, std::path::Path::new("/var/lib/postgresql/15/main"));
    }

    #[test]
    fn what_is_asked_together_is_over_together() {
        let mut cluster = Cluster::chosen("15 main 5432 online postgres /data /log\n", None).unwrap();
        assert_eq!(cluster.time().unwrap(), (CONNECT, LOOK));
        for (left, connect) in [(50, 10), (12, 6), (6, 3)] {
            cluster.end = Some(Instant::now() + Duration::from_millis(left * 1000 + 900));
            let (to_connect, limit) = cluster.time().unwrap();
            assert_eq!((to_connect, limit.as_secs()), (connect, left - connect), "{left} s");
        }
        cluster.end = Some(Instant::now() + Duration::from_secs(3));
        assert!(cluster.time().unwrap_err().to_string().contains("takes too long"));
    }

    #[test]
    fn where_a_server_that_runs_is_reached() {
        let file = "4711\n/var/lib/postgresql/17/main\n1764201600\n5433\n/run/db\nlocalhost\n  5432001 1\nready   \n";
        assert_eq!(socket(file), Some(("5433", "/run/db")));
        assert_eq!(socket(&file.replace("/run/db", "")), None, "it has no socket");
        assert_eq!((socket("4711\n/var\n1\n"), socket("")), (None, None), "it only begins, or does not run");
    }

    #[test]
    fn what_is_repeated() {
        assert_eq!(words(b"psql:<stdin>:7: ERROR:  role \"x\" does not exist\n"), "role \"x\" does not exist");
        let said = b"2026-01-01 10:00:00.000 UTC [7] FATAL:  invalid value for parameter \"work_mem\": \"x\"\n\n";
        assert_eq!(words(said), "invalid value for parameter \"work_mem\": \"x\"");
        assert_eq!(words(b"psql: error: connection refused\n"), "psql: error: connection refused");
    }
}
