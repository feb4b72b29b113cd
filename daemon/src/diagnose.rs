//! Why it failed, as an experienced administrator would say it: a table of findings over what was gathered. Pure.
//!
//! What other programs write is recognised here and nowhere else, each row saying whose words it knows. A finding explains;
//! nothing is decided by it.

mod evidence;
mod nginx;
mod said;

use serde::{Deserialize, Serialize};

pub use evidence::{Doubled, Evidence, Facts, Listener, Mount, Nginx, Request, Said, Server, Step, StepKind, Walk};

use crate::probe::{Probe, clean};

/// More than so many findings say less than fewer.
const MOST: usize = 3;
/// Longest finding, in characters.
const TEXT_LIMIT: usize = 900;

/// A cause and its remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its row of the table.
    pub name: String,
    /// One sentence, safe to show.
    pub text: String,
}

/// A row: its name, and how it finds what it is about.
type Row = (&'static str, fn(&Evidence) -> Option<String>);

/// From the most specific to the least: what is said first is where to look first.
const CAUSES: [Row; 17] = [
    ("disk-full", said::disk_full),
    ("port-taken", said::port_taken),
    ("database", said::database),
    ("certificate", said::certificate),
    ("read-only", said::read_only),
    ("traceback", said::traceback),
    ("cannot-start", said::cannot_start),
    ("manager-says", said::manager_says),
    ("start-limit", said::start_limit),
    ("permission", nginx::permission),
    ("socket-missing", nginx::socket_missing),
    ("nobody-listens", nginx::nobody_listens),
    ("doubled-header", nginx::doubled_header),
    ("default-site", nginx::default_site),
    ("no-answer", nginx::no_answer),
    ("hung-up", nginx::hung_up),
    ("file-missing", nginx::file_missing),
];

/// Where no cause is known: what was last said.
const LAST_WORDS: [Row; 2] = [("nginx-says", nginx::last_words), ("unit-says", said::last_words)];

/// What is the matter, the most telling first.
#[must_use]
pub fn findings(evidence: &Evidence) -> Vec<Finding> {
    let found = |rows: &[Row]| -> Vec<Finding> {
        let finding = |(name, find): &Row| {
            let text = clean(&find(evidence)?, TEXT_LIMIT);
            Some(Finding { name: (*name).to_owned(), text })
        };
        rows.iter().filter_map(finding).take(MOST).collect()
    };
    Some(found(&CAUSES)).filter(|causes| !causes.is_empty()).unwrap_or_else(|| found(&LAST_WORDS))
}

impl Evidence {
    /// Red probes, each with what was said of it.
    fn red(&self) -> impl Iterator<Item = (&Probe, &str)> {
        self.red.iter().map(|(probe, said)| (probe, said.as_str()))
    }
}

impl Facts {
    /// Who listens on a TCP port, at whatever address.
    fn on_port(&self, port: u16) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(move |l| l.port() == Some(port))
    }

    /// The walk to a path.
    fn walk(&self, path: &str) -> Option<&Walk> {
        self.walks.iter().find(|walk| walk.path == path)
    }
}

impl Listener {
    /// Its port; none for a socket in the file system.
    fn port(&self) -> Option<u16> {
        self.address.rsplit_once(':')?.1.parse().ok()
    }

    /// `python3 (pid 12, shop.service)`.
    fn who(&self) -> String {
        match self.unit.as_str() {
            "" => format!("{} (pid {})", self.name, self.pid),
            unit => format!("{} (pid {}, {unit})", self.name, self.pid),
        }
    }
}

#[cfg(test)]
mod tests;
