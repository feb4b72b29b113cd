//! Health checks: what is asked, how often, and what counts as an answer.
//!
//! Foreign bytes are not read here: HTTP and TCP are asked by the probe worker (`worker::probe`).

mod course;
mod run;
mod verdict;

pub(crate) use course::{Course, Step};
pub use run::{baseline, run};
pub use verdict::Verdict;
pub(crate) use verdict::{NETWORK_TEXT_LIMIT, clean};

use serde::{Deserialize, Serialize};

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
    /// This systemd unit is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// This command (program with its absolute path, and arguments; no shell) exits with 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The user whom `command` runs as.
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

/// An HTTP request and the answer that is wanted. Redirects are not followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// `http://ADDRESS[:PORT]/PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Instead of `url`: the path of a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix: Option<String>,
    /// With `unix`: the path to ask for; `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The `Host` header; the URL's own by default, `localhost` over a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Accepted status: a number or a list of numbers; 200 to 399 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// A text that the body must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
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
    pub(super) fn required() -> bool {
        true
    }
}
