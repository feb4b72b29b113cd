//! What is said about a probe: its verdict, in words for an administrator. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Certificate, Http, Postgres, Probe, Question, Redis, Status};
use crate::path::escape;

/// Longest piece of text from the network that is shown, in characters.
pub(crate) const NETWORK_TEXT_LIMIT: usize = 200;
/// Longest description of what was asked, in characters: a URL, a command line.
const SUBJECT_LIMIT: usize = 300;

/// Who may do everything in a PostgreSQL cluster, and owns its processes.
pub(crate) const SUPERUSER: &str = "postgres";

/// How a probe ended.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The probe's name.
    pub name: String,
    /// It is green.
    pub passed: bool,
    /// A failure rolls back; otherwise it is only reported.
    pub required: bool,
    /// How many attempts it took; one attempt may be several questions while `stable_for` runs.
    pub attempts: u32,
    /// How long all of it took.
    pub millis: u64,
    /// One line, safe to show: `site: wanted 200, got 502 (GET http://127.0.0.1/ Host: shop.example)`.
    pub text: String,
}

impl Verdict {
    /// A red verdict that no answer led to: interrupted, or the worker was lost.
    pub(crate) fn failed(probe: &Probe, why: &str) -> Self {
        let text = format!("{}: {}", clean(&probe.name, NETWORK_TEXT_LIMIT), clean(why, NETWORK_TEXT_LIMIT));
        Self { name: probe.name.clone(), passed: false, required: probe.required, attempts: 0, millis: 0, text }
    }
}

impl Probe {
    /// What is asked, as it stands in brackets behind the answer: `GET http://127.0.0.1/ Host: shop.example`.
    pub(crate) fn subject(&self) -> String {
        let text = match self.questions().next() {
            Some(Question::Http(http)) => http.subject(),
            Some(Question::Tcp(address)) => format!("TCP {address}"),
            Some(Question::Postgres(postgres)) => postgres.subject(self.user.as_deref()),
            Some(Question::Redis(redis)) => format!("redis {}", redis.place()),
            Some(Question::Certificate(certificate)) => certificate.subject(),
            Some(Question::Unit(unit)) => format!("unit {unit}"),
            Some(Question::Command(argv)) => format!("command {}", argv.join(" ")),
            None => "nothing to ask".to_owned(),
        };
        clean(&text, SUBJECT_LIMIT)
    }

    /// Whether the worker asks it, because the answer is made of foreign bytes.
    pub(crate) fn is_remote(&self) -> bool {
        self.questions().any(|question| !matches!(question, Question::Unit(_) | Question::Command(_) | Question::Postgres(_)))
    }

    /// The longest time that the probe can take, if every question is answered at the last moment.
    pub(crate) fn worst_case(&self) -> Duration {
        let question = self.timeout.0.saturating_add(self.interval.0);
        question.saturating_mul(2).saturating_add(self.stable_for.0).saturating_mul(self.attempts.max(1))
    }
}

impl Http {
    fn subject(&self) -> String {
        let place = match (&self.url, &self.unix) {
            (Some(url), _) => url.clone(),
            (None, Some(socket)) => format!("{} on {socket}", self.unix_path()),
            (None, None) => "nowhere".to_owned(),
        };
        match &self.host {
            Some(host) => format!("GET {place} Host: {host}"),
            None => format!("GET {place}"),
        }
    }

    /// The path to ask for over a Unix socket.
    pub(crate) fn unix_path(&self) -> &str {
        self.path.as_deref().unwrap_or("/")
    }

    /// Whether a status is one of those wanted.
    pub(crate) fn accepts(&self, status: u16) -> bool {
        match &self.status {
            None => (200..400).contains(&status),
            Some(Status::One(wanted)) => status == *wanted,
            Some(Status::Any(wanted)) => wanted.contains(&status),
        }
    }

    /// The wanted status in words.
    pub(crate) fn wanted(&self) -> String {
        match &self.status {
            None => "200 to 399".to_owned(),
            Some(Status::One(wanted)) => wanted.to_string(),
            Some(Status::Any(wanted)) => wanted.iter().map(u16::to_string).collect::<Vec<_>>().join(" or "),
        }
    }
}

impl Postgres {
    /// Who logs in.
    pub(crate) fn role<'p>(&'p self, user: Option<&'p str>) -> &'p str {
        self.role.as_deref().or(user).unwrap_or(SUPERUSER)
    }

    fn subject(&self, user: Option<&str>) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let place = self.host.as_deref().unwrap_or("the local socket");
        format!("database {} as {} at {place}{port}", self.database, self.role(user))
    }
}

impl Redis {
    /// Where it is.
    pub(crate) fn place(&self) -> &str {
        self.tcp.as_deref().or(self.unix.as_deref()).unwrap_or("nowhere")
    }
}

impl Certificate {
    fn subject(&self) -> String {
        let place = self.file.as_deref().or(self.tcp.as_deref()).unwrap_or("nowhere");
        match &self.name {
            Some(name) => format!("certificate {place} for {name}"),
            None => format!("certificate {place}"),
        }
    }
}

/// Text that is safe to show and at most `limit` characters long.
pub(crate) fn clean(text: &str, limit: usize) -> String {
    // Cut before escaping, so that the work is bounded, and after it, so that the result is.
    let escaped = escape(&text.chars().take(limit.saturating_add(1)).collect::<String>());
    match escaped.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &escaped[..end]),
        None => escaped,
    }
}
