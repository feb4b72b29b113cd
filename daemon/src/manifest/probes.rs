//! `[[probe]]` tables: what their types do not rule out.

use std::time::Duration;

use rustls_pki_types::ServerName;
use serde::Deserialize as _;
use toml::de::ValueDeserializer;

use super::diagnostic::Faults;
use super::table::{self, Table};
use crate::kind::{self, Mistake, Undeclared};
use crate::path::is_hidden;
use crate::probe::{Certificate, Http, Postgres, Probe, Question, Redis, Status};
use crate::timespan::TimeSpan;

/// Most attempts of one probe.
const ATTEMPTS_LIMIT: u32 = 1000;
/// Longest interval, timeout or time of stability: a push waits for all of them.
const SPAN_LIMIT: TimeSpan = TimeSpan::millis(3_600_000);
/// Longest name of a probe, in bytes.
const NAME_LIMIT: usize = 100;

/// Where a mistake is, and which.
type Fault = (&'static [&'static str], Mistake);

/// Reads one probe.
pub(super) fn read(table: &Table<'_>, faults: &mut Faults) -> Option<Probe> {
    let parse = |value: ValueDeserializer<'_>| Probe::deserialize(value).map_err(|e| Undeclared::Toml(Box::new(e)));
    let probe = table.read(parse, faults)?;
    match check(&probe) {
        Ok(()) => Some(probe),
        Err((path, mistake)) => {
            faults.push(table.mistake(path, &mistake));
            None
        }
    }
}

fn fault(path: &'static [&'static str], message: &str, help: &str) -> Result<(), Fault> {
    let key = path.last().copied().unwrap_or("name");
    Err((path, Mistake { key, message: message.to_owned(), help: help.to_owned() }))
}

fn check(probe: &Probe) -> Result<(), Fault> {
    if probe.name.is_empty() || probe.name.len() > NAME_LIMIT || probe.name.chars().any(is_hidden) {
        return fault(&["name"], "this is no name for a probe", "write a short word: name = \"site\"");
    }
    let ways = "write one of http = { url = … }, tcp, postgres, redis, certificate, unit = \"…\", command = [\"…\"]";
    let mut questions = probe.questions();
    let Some(question) = questions.next() else {
        return fault(&["name"], &format!("the probe `{}` asks nothing", probe.name), ways);
    };
    if questions.next().is_some() {
        return fault(&["name"], &format!("the probe `{}` asks more than one thing", probe.name), ways);
    }
    match question {
        Question::Http(http) => check_http(http)?,
        Question::Tcp(address) => check_tcp(&["tcp"], address)?,
        Question::Postgres(postgres) => check_postgres(postgres)?,
        Question::Redis(redis) => check_redis(redis)?,
        Question::Certificate(certificate) => check_certificate(certificate)?,
        Question::Unit(unit) => check_unit(unit)?,
        Question::Command(command) => check_command(command)?,
    }
    if probe.user.is_some() && !matches!(question, Question::Command(_) | Question::Postgres(_)) {
        return fault(&["user"], "only a command or a database session has a user", "remove `user`");
    }
    check_times(probe)
}

/// Longest time that all attempts of a probe may take together.
const WHOLE_LIMIT: Duration = Duration::from_secs(30 * 60);

fn check_times(probe: &Probe) -> Result<(), Fault> {
    if !(1..=ATTEMPTS_LIMIT).contains(&probe.attempts) {
        return fault(&["attempts"], "`attempts` must be 1 to 1000", "write attempts = 10");
    }
    if probe.timeout == TimeSpan::millis(0) {
        return fault(&["timeout"], "an attempt needs some time", "write timeout = \"5s\"");
    }
    for (path, span) in
        [(&["timeout"][..], probe.timeout), (&["interval"][..], probe.interval), (&["stable_for"][..], probe.stable_for)]
    {
        if span > SPAN_LIMIT {
            return fault(path, "a push would wait longer than an hour", "write \"1h\" at most");
        }
    }
    // While a probe is asked nothing else is done on this host: no other push, no repair.
    let attempt = probe.timeout.0.saturating_add(probe.interval.0);
    if attempt.saturating_mul(probe.attempts).saturating_add(probe.stable_for.0) > WHOLE_LIMIT {
        return fault(
            &["attempts"],
            "all attempts together would take longer than half an hour",
            "lower attempts, interval or timeout",
        );
    }
    Ok(())
}

fn check_command(command: &[String]) -> Result<(), Fault> {
    if !command.first().is_some_and(|program| program.starts_with('/')) {
        let help = "write its absolute path: command = [\"/usr/bin/pg_isready\"]; no shell is started";
        return fault(&["command"], "the program of a command needs its absolute path", help);
    }
    if command.iter().any(|argument| argument.contains('\0')) {
        return fault(&["command"], "an argument cannot hold a NUL character", "remove it");
    }
    Ok(())
}

fn check_postgres(postgres: &Postgres) -> Result<(), Fault> {
    let texts = [Some(&postgres.database), postgres.role.as_ref(), postgres.host.as_ref(), postgres.query.as_ref()];
    if texts.into_iter().flatten().any(|text| text.is_empty() || text.contains('\0')) {
        return fault(&["postgres"], "an empty word, or one with a NUL character", "write postgres = { database = \"shop\" }");
    }
    let is_elsewhere = postgres.host.as_ref().is_some_and(|host| !host.starts_with('/'));
    if postgres.password.is_some() && !is_elsewhere {
        let help = "write host = \"127.0.0.1\"";
        return fault(&["postgres", "password"], "over the socket nobody is asked for a password", help);
    }
    Ok(())
}

fn check_redis(redis: &Redis) -> Result<(), Fault> {
    match (&redis.tcp, &redis.unix) {
        (Some(address), None) => check_tcp(&["redis", "tcp"], address),
        (None, Some(socket)) => check_place(&["redis", "unix"], socket, "write unix = \"/run/redis/redis-server.sock\""),
        _ => fault(&["redis"], "`redis` needs exactly one of `tcp` and `unix`", "write redis = { tcp = \"127.0.0.1:6379\" }"),
    }
}

fn check_certificate(certificate: &Certificate) -> Result<(), Fault> {
    match (&certificate.file, &certificate.tcp) {
        (Some(file), None) => check_place(&["certificate", "file"], file, "write file = \"/etc/ssl/certs/shop.pem\"")?,
        (None, Some(address)) => check_tcp(&["certificate", "tcp"], address)?,
        _ => {
            let help = "write certificate = { tcp = \"127.0.0.1:443\", name = \"shop.example\" }";
            return fault(&["certificate"], "`certificate` needs exactly one of `file` and `tcp`", help);
        }
    }
    if certificate.name.as_ref().is_some_and(|name| ServerName::try_from(name.as_str()).is_err()) {
        return fault(&["certificate", "name"], "this is no host name", "write name = \"shop.example\"");
    }
    Ok(())
}

fn check_place(at: &'static [&'static str], path: &str, help: &str) -> Result<(), Fault> {
    if path.starts_with('/') && !path.chars().any(is_hidden) {
        return Ok(());
    }
    fault(at, "it must be an absolute path", help)
}

fn check_unit(name: &str) -> Result<(), Fault> {
    let Some(row) = kind::find("unit") else { return Ok(()) };
    match row.declare(ValueDeserializer::from(table::bare(row.key(), name.into(), 0..0))) {
        Err(Undeclared::Mistake(mistake)) => Err((&["unit"], mistake)),
        Err(Undeclared::Toml(_)) => fault(&["unit"], "this is no unit name", "write unit = \"nginx.service\""),
        Ok(_) => Ok(()),
    }
}

fn check_tcp(at: &'static [&'static str], address: &str) -> Result<(), Fault> {
    if address.contains(':') && is_authority(address) && !address.ends_with(']') {
        return Ok(());
    }
    fault(at, "`tcp` must be an address and a port", "write tcp = \"127.0.0.1:5432\" or \"[::1]:5432\"")
}

fn check_http(http: &Http) -> Result<(), Fault> {
    match (&http.url, &http.unix) {
        (Some(url), None) => check_url(url)?,
        (None, Some(socket)) => check_place(&["http", "unix"], socket, "write unix = \"/run/gunicorn.sock\"")?,
        _ => {
            let help = "write url = \"http://127.0.0.1/\" or unix = \"/run/gunicorn.sock\"";
            return fault(&["http"], "`http` needs exactly one of `url` and `unix`", help);
        }
    }
    if let Some(path) = &http.path {
        if http.unix.is_none() {
            return fault(&["http", "path"], "`path` goes with `unix`", "write the path into the URL");
        }
        if !path.starts_with('/') || !is_token(path) {
            return fault(&["http", "path"], "`path` must begin with / and hold no space", "write path = \"/health\"");
        }
    }
    if http.host.as_deref().is_some_and(|host| host.is_empty() || !is_token(host)) {
        return fault(&["http", "host"], "this is no host name", "write host = \"shop.example\"");
    }
    if let Some(ca) = &http.ca {
        check_place(&["http", "ca"], ca, "write ca = \"/etc/ssl/certs/our-ca.pem\"")?;
        if !http.url.as_ref().is_some_and(|url| url.starts_with("https://")) {
            return fault(&["http", "ca"], "`ca` goes with https", "remove it, or write url = \"https://…\"");
        }
    }
    let wanted = match &http.status {
        Some(Status::One(status)) => std::slice::from_ref(status),
        Some(Status::Any(list)) if list.is_empty() => {
            return fault(&["http", "status"], "no status would be accepted", "write status = [200, 204]");
        }
        Some(Status::Any(list)) => list,
        None => &[],
    };
    if wanted.iter().any(|status| !(100..=599).contains(status)) {
        return fault(&["http", "status"], "a status is a number from 100 to 599", "write status = 200 or [200, 204]");
    }
    Ok(())
}

fn check_url(url: &str) -> Result<(), Fault> {
    let at: &[&str] = &["http", "url"];
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
    if !host.is_some_and(is_authority) || !is_token(url) || url.contains('#') {
        return fault(at, "this is no URL that can be asked", "write url = \"http://127.0.0.1:8000/health\"");
    }
    Ok(())
}

/// Text that can stand in a request line or header: no space, nothing invisible, ASCII.
fn is_token(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// `ADDRESS` or `ADDRESS:PORT`.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p > 0));
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    port_fits && host_fits
}
