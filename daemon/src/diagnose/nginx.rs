//! Rows about what nginx wrote into its error log and what its configuration says. Its words are those of nginx 1.22 to 1.26
//! (`ngx_log.c`, `ngx_http_upstream.c`, `ngx_http_static_module.c`), with the texts of strerror(3). Pure.

use std::net::IpAddr;

use super::evidence::{Evidence, Server, StepKind};
use crate::probe::Probe;

/// What nginx wrote that may be about this failure, the newest first: what others asked for meanwhile is not.
pub(super) fn lines(evidence: &Evidence) -> impl Iterator<Item = &str> {
    let asked = move |host: &str| evidence.red().any(|(probe, _)| probe.command.is_some() || host_of(probe) == Some(host));
    evidence.facts.errors.iter().rev().map(String::as_str).filter(move |line| field(line, "host").is_none_or(asked))
}

/// The `Host` header that a probe sends, as `worker::probe` makes it.
fn host_of(probe: &Probe) -> Option<&str> {
    let http = probe.http.as_ref()?;
    let of_url = || {
        let authority = http.url.as_ref()?.split_once("://")?.1.split('/').next()?;
        Some(authority.strip_suffix(":80").unwrap_or(authority))
    };
    http.host.as_deref().or_else(of_url).or(Some("localhost"))
}

/// The newest of these lines with this in it.
fn line<'e>(evidence: &'e Evidence, words: &str) -> Option<&'e str> {
    lines(evidence).find(|line| line.contains(words))
}

/// A field at the end of a line: `upstream: "http://127.0.0.1:8099/"`.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let (_, rest) = line.split_once(&format!(", {name}: \""))?;
    Some(rest.split_once('"')?.0)
}

/// The upstream as one would write it: `/run/shop.sock`, `127.0.0.1:8099`.
pub(super) fn upstream(line: &str) -> Option<&str> {
    let url = field(line, "upstream")?;
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    match rest.strip_prefix("unix:") {
        // `unix:/run/x.sock:/uri`; without a URI of its own the request's is put behind the path.
        Some(path) => path.split(':').next().map(|path| path.strip_suffix('/').unwrap_or(path)),
        None => rest.split('/').next(),
    }
}

/// The path that a line is about: of its upstream's socket, or the first in quotes.
fn path_of(line: &str) -> Option<&str> {
    upstream(line).filter(|place| place.starts_with('/')).or_else(|| {
        let (_, rest) = line.split_once("\"/")?;
        let end = rest.find('"')?;
        let begin = line.len() - rest.len() - 1;
        Some(&line[begin..=begin + end])
    })
}

fn user(evidence: &Evidence) -> &str {
    match evidence.facts.nginx.user.as_str() {
        "" => "its user",
        user => user,
    }
}

/// nginx: `connect() to unix:/x failed (13: Permission denied)`, `open() "/x" failed (13: …)`, `"/x" is forbidden (13: …)`.
pub(super) fn permission(evidence: &Evidence) -> Option<String> {
    let line = line(evidence, "(13: Permission denied)")?;
    let (path, user) = (path_of(line)?, user(evidence));
    let Some(step) = evidence.facts.walk(path).and_then(|walk| walk.denied()) else {
        return Some(format!(
            "nginx may not reach {path} (13: Permission denied), although the permissions on the way let {user} pass: look for an ACL (getfacl), AppArmor, or a sandbox in its unit"
        ));
    };
    let (at, class) = (&step.path, &step.class);
    let (may_not, remedy) = match step.kind {
        StepKind::Directory if line.contains("to unix:") => {
            ("enter", format!("chmod {class}+x {at}, or move the socket to /run"))
        }
        StepKind::Directory => ("enter", format!("chmod {class}+x {at}, or move what is served to /srv or /var/www")),
        StepKind::Socket => (
            "write to",
            format!("have it made so that {user} may (SocketMode= and SocketGroup= of a socket unit, or the program's umask)"),
        ),
        StepKind::File | StepKind::Missing => ("read", format!("chmod {class}+r {at}")),
    };
    Some(format!("nginx may not {may_not} {} ({:04o} {}): it runs as {user}; {remedy}", step.path, step.mode, step.owner))
}

/// nginx: `connect() to unix:/x failed (2: No such file or directory)`; and a probe of ours that finds no socket.
pub(super) fn socket_missing(evidence: &Evidence) -> Option<String> {
    let said = line(evidence, "(2: No such file or directory) while connecting to upstream");
    let asked = || {
        let sockets = evidence.red().filter_map(|(probe, _)| probe.http.as_ref()?.unix.as_deref());
        sockets
            .map(|path| (path, "which the probe asks"))
            .find(|(path, _)| evidence.facts.walk(path).is_some_and(|walk| walk.missing().is_some()))
    };
    let (path, who) = said.and_then(path_of).map(|path| (path, "to which nginx passes")).or_else(asked)?;
    let name = path.rsplit('/').next().unwrap_or(path);
    let elsewhere = evidence.facts.listeners.iter().find(|l| l.address.rsplit('/').next() == Some(name) && l.address != path);
    if let Some(other) = elsewhere {
        let at = &other.address;
        return Some(format!("there is no socket {path}, {who}: {} listens on {at}; one of the two paths is wrong", other.who()));
    }
    let gone = evidence.facts.walk(path).and_then(|walk| walk.missing()).filter(|step| step.path != path);
    let part = gone.map(|step| format!(" (not even {})", step.path)).unwrap_or_default();
    Some(format!(
        "there is no socket {path}{part}, {who}: what makes it does not run, or makes it elsewhere; look at its unit (systemctl status), and compare the paths"
    ))
}

/// nginx: `connect() failed (111: Connection refused) while connecting to upstream`; and a probe of ours that was refused.
pub(super) fn nobody_listens(evidence: &Evidence) -> Option<String> {
    let said = line(evidence, "(111: Connection refused) while connecting to upstream");
    if let Some(path) = said.and_then(upstream).filter(|place| place.starts_with('/')) {
        return Some(format!(
            "the socket {path} is there, and nobody listens on it: whoever made it has ended; start it again, and have it removed at its end (RemoveOnStop=yes)"
        ));
    }
    let asked = || {
        let mut refused = evidence.red().filter(|(_, said)| said.contains("connection refused"));
        refused.find_map(|(probe, _)| Some((target(probe)?, "which the probe asks")))
    };
    let (place, who) = said.and_then(upstream).map(|place| (place.to_owned(), "to which nginx passes")).or_else(asked)?;
    let (host, port) = place.rsplit_once(':')?;
    let remedy = match evidence.facts.on_port(port.parse().ok()?).next() {
        Some(other) => format!("{} listens on {}, not on {host}: correct one of the two", other.who(), other.address),
        None => "start what is to listen there, or correct the address".to_owned(),
    };
    Some(format!("nobody listens on {place}, {who}: {remedy}"))
}

/// Where a probe over TCP goes: `127.0.0.1:8000`.
pub(super) fn target(probe: &Probe) -> Option<String> {
    if let Some(address) = &probe.tcp {
        return Some(address.clone());
    }
    let (_, rest) = probe.http.as_ref()?.url.as_ref()?.split_once("://")?;
    let authority = rest.split('/').next()?;
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(if has_port { authority.to_owned() } else { format!("{authority}:80") })
}

/// The status that a red probe got, in our own words: `wanted 200, got 502`.
fn got(said: &str) -> Option<u16> {
    let (_, rest) = said.split_once("got ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok().filter(|status| (100..600).contains(status))
}

/// Django's answer to `HTTP_HOST` of `shop,shop` (WSGI joins what came twice) is 400, and by default it logs nothing: seen in
/// the configuration of nginx, by Debian's `proxy_params` as a rule.
pub(super) fn doubled_header(evidence: &Evidence) -> Option<String> {
    evidence.red().find(|(_, said)| got(said) == Some(400))?;
    let doubled = evidence.facts.nginx.doubled.iter().find(|d| d.header.eq_ignore_ascii_case("host"))?;
    let (first, second) = (&doubled.first, &doubled.second);
    Some(format!(
        "the application gets two Host headers, and answers 400: `proxy_set_header Host` stands at {first} and again at {second}; leave out one of them"
    ))
}

/// nginx answers a name that no server has from the default server of the port (`listen`, `server_name`).
pub(super) fn default_site(evidence: &Evidence) -> Option<String> {
    evidence.red().filter(|(_, said)| got(said).is_some()).find_map(|(probe, _)| default_answers(evidence, probe))
}

fn default_answers(evidence: &Evidence, probe: &Probe) -> Option<String> {
    let place = target(probe)?;
    let (host, port) = place.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let asked = probe.http.as_ref()?.host.as_deref().unwrap_or(host);
    let name = asked.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(asked, |(name, _)| name);
    if !evidence.facts.on_port(port).any(|listener| listener.name == "nginx") {
        return None;
    }
    let here: Vec<&Server> = evidence.facts.nginx.servers.iter().filter(|s| s.ports.iter().any(|(p, _)| *p == port)).collect();
    let is_default = |server: &&&Server| server.ports.contains(&(port, true));
    let default = here.iter().find(is_default).or(here.first())?;
    let others: Vec<String> = here
        .iter()
        .filter(|server| server.at != default.at)
        .map(|server| format!("{} says {}", server.at, server.names.join(" ")))
        .take(MOST_NAMES)
        .collect();
    if others.is_empty() || here.iter().flat_map(|server| &server.names).any(|known| may_match(known, name)) {
        return None;
    }
    let remedy =
        if name.parse::<IpAddr>().is_ok() { "write the probe's `host`" } else { "correct server_name, or the probe's `host`" };
    Some(format!(
        "no server of nginx is named {name} on port {port}, so the default site answers ({}); {}: {remedy}",
        default.at,
        others.join(", ")
    ))
}

/// Names that are told at most.
const MOST_NAMES: usize = 3;

/// Whether a `server_name` stands for this name; of a regular expression nothing is known, so it may.
fn may_match(known: &str, name: &str) -> bool {
    if known.starts_with('~') || known.contains('$') {
        return true;
    }
    let (known, name) = (known.to_ascii_lowercase(), name.to_ascii_lowercase());
    match (known.strip_prefix('*'), known.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (_, Some(begin)) => name.starts_with(begin),
        _ if known.starts_with('.') => name.ends_with(&known) || name == known[1..],
        _ => name == known,
    }
}

/// nginx: `upstream timed out (110: Connection timed out) while reading response header from upstream`.
pub(super) fn no_answer(evidence: &Evidence) -> Option<String> {
    let line = line(evidence, "upstream timed out (110: Connection timed out)")?;
    let place = upstream(line)?;
    let look = behind(evidence, place);
    if line.contains("while connecting to upstream") {
        return Some(format!(
            "{place} does not take connections, to which nginx passes: no host there, a full queue, or a firewall; {look}"
        ));
    }
    Some(format!(
        "{place} took the request and did not answer in time (nginx waits for proxy_read_timeout): it hangs, perhaps on something that it asks itself; {look}"
    ))
}

/// nginx: `upstream prematurely closed connection while reading response header from upstream`.
pub(super) fn hung_up(evidence: &Evidence) -> Option<String> {
    let line = line(evidence, "upstream prematurely closed connection")
        .or_else(|| line(evidence, "recv() failed (104: Connection reset by peer) while reading response header"))?;
    let place = upstream(line)?;
    let look = behind(evidence, place);
    Some(format!("{place} took the request and closed the connection without an answer: its process ended or was killed; {look}"))
}

/// Where to look on: the journal of whoever listens there.
fn behind(evidence: &Evidence, place: &str) -> String {
    let listener = evidence.facts.listeners.iter().find(|l| l.address == place);
    let port = place.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    match listener.or_else(|| evidence.facts.on_port(port?).next()) {
        Some(listener) if listener.unit.ends_with(".service") => format!("journalctl -u {}", listener.unit),
        Some(listener) => format!("{} listens there", listener.who()),
        None => "nobody listens there any more".to_owned(),
    }
}

/// nginx: `open() "/x" failed (2: No such file or directory)`.
pub(super) fn file_missing(evidence: &Evidence) -> Option<String> {
    let line = line(evidence, "\" failed (2: No such file or directory)").or_else(|| line(evidence, "\" is not found (2: "))?;
    let path = path_of(line)?;
    let gone = evidence.facts.walk(path)?.missing()?;
    let part = if gone.path == path { String::new() } else { format!(" (not even {})", gone.path) };
    Some(format!("nginx was to serve {path}, which is not there{part}: correct root or alias, or bring the file"))
}

/// Whatever nginx wrote last.
pub(super) fn last_words(evidence: &Evidence) -> Option<String> {
    let line = lines(evidence).next()?;
    // Time and process say nothing here: `2026/11/26 01:31:30 [crit] 3311#3311: *1 connect() …`.
    let words = line.splitn(3, ' ').nth(2).unwrap_or(line);
    Some(format!("nginx says: {words}"))
}
