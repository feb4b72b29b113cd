//! Rows about what units said since the first change: systemd 252 to 257, Python 3.11 to 3.13, gunicorn 20 to 23, libpq 15 to
//! 17 and OpenSSL 3; and about what strerror(3) says, whoever asked. Pure.

use std::net::IpAddr;

use super::evidence::{Evidence, Listener, Mount, Said};

impl Evidence {
    /// The newest line of the journal with this in it.
    fn heard(&self, words: &str) -> Option<&Said> {
        self.facts.journal.iter().rev().find(|said| said.text.contains(words))
    }

    /// What a unit itself said, oldest first.
    fn own_words(&self, unit: &str) -> Vec<&str> {
        self.facts.journal.iter().filter(|said| said.unit == unit && !said.by_manager).map(|said| said.text.as_str()).collect()
    }
}

/// `ENOSPC` and `EDQUOT`, as strerror(3) has them.
const NO_SPACE: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// A program that met a full file system; which one, the numbers tell.
pub(super) fn disk_full(evidence: &Evidence) -> Option<String> {
    let full = |text: &&str| NO_SPACE.iter().any(|words| text.contains(words));
    let heard = evidence.facts.journal.iter().rev().find(|said| full(&said.text.as_str()));
    let (text, who) = match heard {
        Some(said) => (said.text.as_str(), said.unit.as_str()),
        None => match evidence.facts.errors.iter().rev().map(String::as_str).find(full) {
            Some(line) => (line, "nginx"),
            None => (evidence.reason.lines().find(full)?, "reconciled"),
        },
    };
    let left = |mount: &&Mount| (mount.free.saturating_mul(1000) / mount.size.max(1)).min(mount.files.unwrap_or(u64::MAX));
    let above = |mount: &&Mount| paths_in(text).any(|path| std::path::Path::new(path).starts_with(&mount.path));
    let named = evidence.facts.mounts.iter().filter(above).max_by_key(|mount| mount.path.len());
    let mount = named.or_else(|| evidence.facts.mounts.iter().min_by_key(left))?;
    let what = match mount.files {
        Some(0) => "no file can be made there any more (inodes)".to_owned(),
        _ => format!("{} of {} are left there", bytes(mount.free), bytes(mount.size)),
    };
    Some(format!(
        "the disk is full: {who} could not write to {}, {what}; make room (du -xh {} | sort -h | tail)",
        mount.path, mount.path
    ))
}

/// Absolute paths in a text.
fn paths_in(text: &str) -> impl Iterator<Item = &str> {
    let edge = |c: char| c.is_whitespace() || "'\"`(),;".contains(c);
    text.split(edge).map(|word| word.trim_end_matches(':')).filter(|word| word.starts_with('/') && word.len() > 1)
}

fn bytes(number: u64) -> String {
    let (unit, name) = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| number >= *unit)
        .unwrap_or((1, "bytes"));
    format!("{} {name}", number / unit)
}

/// nginx: `bind() to 127.0.0.1:80 failed (98: Address already in use)`; Python: `[Errno 98] Address already in use`; gunicorn:
/// `Connection in use: ('127.0.0.1', 80)`; systemd 257: `Failed to create listening socket (127.0.0.1:80): Address already in
/// use`, which 252 calls `Failed to receive listening socket (127.0.0.1:80): Input/output error`.
const IN_USE: [&str; 4] =
    ["Address already in use", "Connection in use: (", "receive listening socket (", "create listening socket ("];

/// Somebody else listens where a unit wanted to.
pub(super) fn port_taken(evidence: &Evidence) -> Option<String> {
    let hit = |text: &str| IN_USE.iter().any(|words| text.contains(words));
    let heard = evidence.facts.journal.iter().filter(|said| hit(&said.text)).map(|said| (said.unit.as_str(), said.text.as_str()));
    let lines = evidence.facts.errors.iter().filter(|line| hit(line)).map(|line| ("nginx.service", line.as_str()));
    let all: Vec<(&str, &str)> = heard.chain(lines).collect();
    let (unit, _) = *all.first()?;
    // A line may not say where: then it is where a probe was to find it.
    let told = all.iter().find_map(|(_, text)| port_in(text));
    let probed = evidence.probes.iter().filter_map(super::nginx::target).filter_map(|place| port_in(&place));
    let other = |listener: &&Listener| listener.unit != unit;
    let held = |port: u16| Some((port, evidence.facts.on_port(port).find(other)?));
    // One that is declared has its own right to its port.
    let is_declared = |(_, holder): &(u16, &Listener)| evidence.units.contains_key(&holder.unit);
    let ports: Vec<u16> = told.map_or_else(|| probed.collect(), |port| vec![port]);
    let (port, holder) = ports.into_iter().filter_map(held).min_by_key(is_declared)?;
    let remedy = match holder.unit.as_str() {
        other if other.ends_with(".service") => {
            format!("stop that (systemctl disable --now {other}), or give one of the two another port")
        }
        _ => "stop that, or give one of the two another port".to_owned(),
    };
    Some(format!("port {port} is taken: {} listens on {}, where {unit} wants to; {remedy}", holder.who(), holder.address))
}

/// The port of the first address in a text: `127.0.0.1:80`, `[::]:80`, `('127.0.0.1', 80)`.
fn port_in(text: &str) -> Option<u16> {
    let of_pair = || {
        let (_, port) = text.split_once("('")?.1.split_once("', ")?;
        port.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let is_host = |host: &str| host == "*" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let edge = |c: char| c.is_whitespace() || "()'\",;".contains(c);
    let mut words = text.split(edge).filter_map(|word| word.trim_end_matches(':').rsplit_once(':'));
    of_pair().or_else(|| words.find_map(|(host, port)| port.parse().ok().filter(|_| is_host(host))))
}

/// What libpq says behind `connection to server … failed: ` (fe-connect.c, and the server's own errors), and what to do.
const DATABASE: [(&str, &str); 16] = [
    ("Connection refused", "nobody listens there: start PostgreSQL (systemctl status postgresql), or correct host and port"),
    (
        "No such file or directory",
        "no server has its socket there: start PostgreSQL (systemctl status postgresql), or name its host",
    ),
    (
        "password authentication failed",
        "the password is not that of the role, or has expired (VALID UNTIL): set it on both sides (ALTER ROLE … PASSWORD)",
    ),
    (
        "Peer authentication failed",
        "over the socket the unit's user has to have the role's name: connect to 127.0.0.1 with a password, or run as that user",
    ),
    ("no pg_hba.conf entry", "allow it in pg_hba.conf, and reload PostgreSQL"),
    ("pg_hba.conf rejects connection", "a line of pg_hba.conf says so: correct it, and reload PostgreSQL"),
    ("is not permitted to log in", "let the role log in (ALTER ROLE … LOGIN)"),
    ("is not currently accepting connections", "open the database (ALTER DATABASE … ALLOW_CONNECTIONS true)"),
    (
        "too many connections for role",
        "close connections, or raise the role's limit (connection_limit, ALTER ROLE … CONNECTION LIMIT)",
    ),
    ("too many connections for database", "close connections, or raise its limit (ALTER DATABASE … CONNECTION LIMIT)"),
    ("too many clients", "close connections or share them (a pool), or raise max_connections"),
    ("remaining connection slots are reserved", "close connections or share them (a pool), or raise max_connections"),
    ("timeout expired", "something takes the connection and does not answer: is it PostgreSQL, and is it well?"),
    ("does not exist", "create it, or correct its name"),
    ("the database system is", "it was not ready: start the unit after it (After=postgresql.service), and let it try again"),
    (
        "server closed the connection unexpectedly",
        "it went away: see its log (journalctl -u 'postgresql@*', /var/log/postgresql)",
    ),
];

/// How libpq begins.
const CONNECTION: &str = "connection to server ";

/// libpq: `connection to server at "127.0.0.1", port 5432 failed: …`, whoever uses it (psql, psycopg).
pub(super) fn database(evidence: &Evidence) -> Option<String> {
    let of_unit = evidence.heard(CONNECTION).map(|said| (said.unit.as_str(), said.text.as_str()));
    let of_probe = || evidence.red().find(|(_, said)| said.contains(CONNECTION)).map(|(probe, said)| (probe.name.as_str(), said));
    let (who, text) = of_unit.filter(|(_, text)| text.contains(" failed: ")).or_else(of_probe)?;
    let words = text.get(text.find(CONNECTION)?..)?;
    let (_, why) = words.split_once(" failed: ")?;
    let (_, remedy) = DATABASE.iter().find(|(known, _)| why.contains(known))?;
    Some(format!("{who} cannot use its database: {words}; {remedy}"))
}

/// OpenSSL's reasons in the words of nginx (`upstream SSL certificate verify error: (10:certificate has expired)`, `upstream SSL
/// certificate does not match "x"`) and of Python (`certificate verify failed: certificate has expired`, `Hostname mismatch`).
const CERTIFICATE: [(&str, &str); 4] = [
    ("certificate has expired", "has expired: renew it (certbot renew), and reload whoever serves it"),
    (
        "certificate does not match",
        "is for another name: issue it for the name that is asked for, or ask for the name that it has",
    ),
    ("Hostname mismatch", "is for another name: issue it for the name that is asked for, or ask for the name that it has"),
    ("certificate is not yet valid", "is not valid yet: look at the clock of this host (timedatectl)"),
];

/// A certificate that was not accepted.
pub(super) fn certificate(evidence: &Evidence) -> Option<String> {
    let heard = evidence.facts.journal.iter().rev().map(|said| (said.unit.as_str(), said.text.as_str()));
    let lines = super::nginx::lines(evidence).map(|line| ("nginx", line));
    heard.chain(lines).find_map(|(who, text)| {
        let (_, what) = CERTIFICATE.iter().find(|(known, _)| text.contains("ertificate") && text.contains(known))?;
        let place = super::nginx::upstream(text).map(|place| format!(" of {place}")).unwrap_or_default();
        Some(format!("{who} does not accept the certificate{place}: it {what}"))
    })
}

/// Python: the frames `  File "x", line 3, in f`, and behind the last one the error, which alone stands at the margin.
pub(super) fn traceback(evidence: &Evidence) -> Option<String> {
    let units = evidence.units.keys().filter(|unit| unit.ends_with(".service"));
    units.map(|unit| (unit, evidence.own_words(unit))).find_map(|(unit, own)| {
        let (place, error) = last_traceback(&own)?;
        let remedy = match error.split([':', ' ']).next().unwrap_or_default() {
            "ModuleNotFoundError" | "ImportError" => "install it where the unit's Python looks, or correct the import",
            "SyntaxError" | "IndentationError" | "TabError" => "mend the file; its Python may be older than the code",
            "PermissionError" => "give the unit's User= that right",
            "FileNotFoundError" => "bring the file, or correct the path",
            "KeyError" => "a setting may be missing from its environment (Environment=, EnvironmentFile=)",
            _ => "that is where it stopped",
        };
        Some(format!("{unit} failed in its Python: {error} ({place}); {remedy}"))
    })
}

/// The place and the error of the newest traceback.
fn last_traceback(lines: &[&str]) -> Option<(String, String)> {
    let is_frame = |line: &str| line.starts_with("  File \"");
    let last = lines.iter().rposition(|line| is_frame(line))?;
    let error = lines[last..].iter().find(|line| !line.starts_with(' '))?;
    let begin = lines[..last].iter().rposition(|line| !line.starts_with(' ')).map_or(0, |head| head + 1);
    // What has no file of its own is in angle brackets: `<frozen importlib._bootstrap>`.
    let frame = lines[begin..=last].iter().rev().find(|line| is_frame(line) && !line.contains("\"<")).or(lines.get(last))?;
    let (path, rest) = frame.strip_prefix("  File \"")?.split_once("\", line ")?;
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((format!("{path}:{number}"), (*error).to_owned()))
}

/// systemd's steps before a program runs (systemd.exec(5), "Process Exit Codes"), and what to do.
const STEPS: [(&str, &str); 6] = [
    ("EXEC", "bring the program, make it executable, or correct ExecStart=; a script needs its interpreter too"),
    ("CHDIR", "bring the directory and let its User= enter it, or correct WorkingDirectory="),
    ("USER", "create the user, or correct User="),
    ("GROUP", "create the group, or correct Group="),
    ("NAMESPACE", "a path that its sandbox names is missing (ReadWritePaths=, BindPaths=)"),
    ("CREDENTIALS", "bring what LoadCredential= names"),
];

/// systemd: `x.service: Failed at step EXEC spawning /srv/x: No such file or directory`.
pub(super) fn cannot_start(evidence: &Evidence) -> Option<String> {
    let said = evidence.heard(": Failed at step ")?;
    let (unit, rest) = said.text.split_once(": Failed at step ")?;
    let (step, rest) = rest.split_once(" spawning ")?;
    let (program, why) = rest.rsplit_once(": ")?;
    let remedy = STEPS.iter().find(|(known, _)| *known == step).map_or("see systemd.exec(5)", |(_, remedy)| remedy);
    Some(format!("systemd could not start {program} for {unit}: {why} (step {step}); {remedy}"))
}

/// What systemd says of a unit that it started (service.c, unit.c), what that means, and what to do.
const MANAGER: [(&str, &str, &str); 5] = [
    (
        ": Failed to load environment files: ",
        "a file that its EnvironmentFile= names is missing or cannot be read",
        "bring it, or write a - before its path when it may be missing",
    ),
    (
        ": start operation timed out",
        "it did not say in time that it is up",
        "a program that never says so (sd_notify(3)) needs Type=exec instead of Type=notify, a slow one a longer TimeoutStartSec=",
    ),
    (
        "status=31/SYS",
        "it made a system call that its SystemCallFilter= forbids",
        "allow that call (a core dump or the kernel's log names it), or the group @system-service",
    ),
    (
        "killed by the OOM killer",
        "the kernel ended it for want of memory",
        "let it use less (fewer workers), or raise its MemoryMax= or the host's memory",
    ),
    (
        ": Watchdog timeout",
        "it gave no sign of life for its WatchdogSec=",
        "see what it waits for, or take WatchdogSec= away when it does not know of watchdogs",
    ),
];

/// systemd's words on how a unit's start or run ended.
pub(super) fn manager_says(evidence: &Evidence) -> Option<String> {
    let (said, (_, what, remedy)) = evidence.facts.journal.iter().rev().filter(|said| said.by_manager).find_map(|said| {
        let known = MANAGER.iter().find(|(words, ..)| said.text.contains(words))?;
        Some((said, known))
    })?;
    Some(format!("{} failed: {what}; {remedy}", said.unit))
}

/// `EROFS`, as strerror(3) has it: what a unit is told inside its own sandbox, whatever the mount table of the host says.
pub(super) fn read_only(evidence: &Evidence) -> Option<String> {
    let said = evidence.heard("Read-only file system").filter(|said| !said.by_manager)?;
    Some(format!(
        "{} may not write there: {}; its sandbox makes that read-only (ProtectSystem=, ProtectHome=, ReadOnlyPaths=): name the place in ReadWritePaths=, or use StateDirectory=",
        said.unit, said.text
    ))
}

/// systemd: `Result` is `start-limit-hit`, or its words are `Start request repeated too quickly.`
pub(super) fn start_limit(evidence: &Evidence) -> Option<String> {
    let hit = evidence.units.iter().find(|(_, seen)| seen.result == "start-limit-hit").map(|(unit, _)| unit.as_str());
    let unit = hit.or_else(|| evidence.heard("Start request repeated too quickly").map(|said| said.unit.as_str()))?;
    let own = evidence.own_words(unit);
    let words = own.last().map(|words| format!(", its last words being: {words}")).unwrap_or_default();
    Some(format!(
        "{unit} ended again and again, until systemd gave it up (start limit){words}; mend why it ends: a longer RestartSec= would only hide it"
    ))
}

/// Whatever a failing unit said last, unless it was told already.
pub(super) fn last_words(evidence: &Evidence) -> Option<String> {
    let mut failing = evidence.units.iter().filter(|(_, seen)| seen.is_failing());
    failing.find_map(|(unit, _)| {
        let own = evidence.own_words(unit);
        let words = own.last().filter(|words| !evidence.reason.contains(**words))?;
        Some(format!("{unit} has failed, and said last: {words}"))
    })
}
