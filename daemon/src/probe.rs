//! Health checks: what is asked, how often, and what counts as an answer.
//!
//! Foreign bytes are not read here: what speaks over a connection is asked by the probe worker (`worker::probe`).

mod course;
mod run;
mod verdict;

pub(crate) use course::{Course, Step};
pub(crate) use run::Asked;
pub use run::{Passwords, baseline, run};
pub use verdict::Verdict;
pub(crate) use verdict::{NETWORK_TEXT_LIMIT, clean};

use serde::{Deserialize, Serialize};

use crate::kind::Sealed;
use crate::timespan::TimeSpan;

/// A health check that a generation must pass (`[[probe]]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Its name in output and audit; unique in the repository.
    pub name: String,
    /// Ask over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// Connect to `ADDRESS:PORT`; accepting the connection is the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// A session with a PostgreSQL server, and one query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
    /// `PING` to a Redis server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// A certificate that is valid, for its name, and will be for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// This systemd unit is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// This command (program with its absolute path, and arguments; no shell) exits with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The user whom `command` runs as; with `postgres`, who connects (`postgres` by default), whose processes could read its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How many times to ask before it counts as failed.
    #[serde(default = "defaults::attempts")]
    pub attempts: u32,
    /// Pause between two attempts.
    #[serde(default = "defaults::interval")]
    pub interval: TimeSpan,
    /// Limit of one attempt.
    #[serde(default = "defaults::timeout")]
    pub timeout: TimeSpan,
    /// Once green, it must stay green this long.
    #[serde(default = "defaults::stable_for")]
    pub stable_for: TimeSpan,
    /// A failure rolls back; otherwise it is only reported.
    #[serde(default = "defaults::required")]
    pub required: bool,
}

/// What a probe asks: one of its keys.
#[derive(Clone, Copy, Debug)]
pub enum Question<'p> {
    /// `http`.
    Http(&'p Http),
    /// `tcp`.
    Tcp(&'p str),
    /// `postgres`.
    Postgres(&'p Postgres),
    /// `redis`.
    Redis(&'p Redis),
    /// `certificate`.
    Certificate(&'p Certificate),
    /// `unit`.
    Unit(&'p str),
    /// `command`.
    Command(&'p [String]),
}

impl Probe {
    /// All that its table asks: one thing, once the manifest has been read.
    pub fn questions(&self) -> impl Iterator<Item = Question<'_>> {
        [
            self.http.as_ref().map(Question::Http),
            self.tcp.as_deref().map(Question::Tcp),
            self.postgres.as_ref().map(Question::Postgres),
            self.redis.as_ref().map(Question::Redis),
            self.certificate.as_ref().map(Question::Certificate),
            self.unit.as_deref().map(Question::Unit),
            self.command.as_deref().map(Question::Command),
        ]
        .into_iter()
        .flatten()
    }

    /// The secret that is its password.
    #[must_use]
    pub fn password(&self) -> Option<&Sealed> {
        let of_postgres = self.postgres.as_ref().and_then(|postgres| postgres.password.as_ref());
        of_postgres.or_else(|| self.redis.as_ref()?.password.as_ref())
    }
}

/// An HTTP request and the answer that is wanted. Redirects are not followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// `http://ADDRESS[:PORT]/PATH`, or `https://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Instead of `url`: the path of a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix: Option<String>,
    /// With `unix`: the path to ask for; `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The `Host` header; the URL's own by default, `localhost` over a Unix socket. With `https` the certificate has to be for this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Accepted status: a number or a list of numbers; 200 to 399 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// A text that the body must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// With `https`: a PEM file of the authorities to trust; those of the system by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// A session with a PostgreSQL server, as `psql` would open it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// The database.
    pub database: String,
    /// Who logs in; by default the probe's `user`, `postgres` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The role's password, sealed: `{ secret = "db_password" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Sealed>,
    /// Where the server is: an address, a name, or the directory of its socket; this host's own socket by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its port; 5432 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What has to work; `SELECT 1` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// A Redis server that has to say `PONG`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `ADDRESS:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// Instead: the path of its socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix: Option<String>,
    /// Its password (`requirepass`), sealed: `{ secret = "redis_password" }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Sealed>,
}

/// A certificate, in a file or as a server shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// A PEM file; of several certificates in it the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Instead: `ADDRESS:PORT` of a server that speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// The name that it has to be for, and that the server is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How long it must still be valid; `7d` by default.
    #[serde(default = "defaults::valid_for")]
    pub valid_for: TimeSpan,
}

/// Accepted HTTP status codes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "it must be a number or a list of numbers; write status = 200 or [200, 204]")]
pub enum Status {
    /// Exactly this one.
    One(u16),
    /// Any of these.
    Any(Vec<u16>),
}

mod defaults {
    use crate::timespan::TimeSpan;

    pub(super) fn attempts() -> u32 {
        5
    }
    pub(super) fn interval() -> TimeSpan {
        TimeSpan::millis(1000)
    }
    pub(super) fn timeout() -> TimeSpan {
        TimeSpan::millis(5000)
    }
    pub(super) fn stable_for() -> TimeSpan {
        TimeSpan::millis(0)
    }
    pub(super) fn valid_for() -> TimeSpan {
        TimeSpan::millis(7 * 86_400_000)
    }
    pub(super) fn required() -> bool {
        true
    }
}
