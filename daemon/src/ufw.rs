//! The firewall of ufw(8), as its files have it: what is declared of it, and how that is told. Pure.
//!
//! Rules of ours carry a comment, so that ufw itself remembers which they are.

pub mod sshd;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether it is on.
pub const CONF: &str = "/etc/ufw/ufw.conf";
/// Its policies, and whether it sees to IPv6.
pub const DEFAULTS: &str = "/etc/default/ufw";
/// The rules that people add.
pub const RULES: &str = "/etc/ufw/user.rules";
/// The same for IPv6.
pub const RULES6: &str = "/etc/ufw/user6.rules";
/// All that ufw writes when it is told something.
pub const FILES: [&str; 8] = [
    CONF,
    DEFAULTS,
    RULES,
    RULES6,
    "/etc/ufw/before.rules",
    "/etc/ufw/before6.rules",
    "/etc/ufw/after.rules",
    "/etc/ufw/after6.rules",
];
/// Where packages say which ports their programs need.
pub const PROFILES: &str = "/etc/ufw/applications.d";
/// The comment of our rules.
pub const MARK: &str = "reconciled";
/// What loads it at boot.
pub const UNIT: &str = "ufw.service";
/// The answer of one that is on by its files alone.
pub const STOPPED: &str = "stopped";
/// That of one that the next boot does not load.
pub const NOT_AT_BOOT: &str = "on, and not at boot";
/// Longest file that is read, in bytes.
pub const LIMIT: u64 = 4 << 20;

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// Ports, in ufw's own words, of a protocol or of `any`.
    Ports(String, String),
    /// An application, by the name of its profile.
    Profile(String),
}

/// A rule on what comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does: allow, deny, reject, limit.
    pub action: String,
    /// What it is about.
    pub subject: Subject,
    /// The ports that this means.
    ports: (String, String),
    /// Whether it holds for everybody, whoever and wherever.
    pub for_all: bool,
    /// Whether it is one of ours.
    pub ours: bool,
    /// What somebody says of it.
    comment: Option<String>,
}

/// All that is declared about or known of a firewall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Whether it is to be on.
    pub enabled: bool,
    /// Whether the kernel has it: otherwise nobody is kept out, whatever the files say.
    pub is_loaded: bool,
    /// Whether its service loads it at boot.
    pub comes_at_boot: bool,
    /// What becomes of what no rule speaks of.
    pub incoming: Option<Policy>,
    /// The same of what goes out.
    pub outgoing: Option<Policy>,
    /// Whether it sees to IPv6.
    pub ipv6: bool,
    /// Rules on what comes in, in their order.
    pub rules: Vec<Rule>,
}

/// Who reaches a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Whoever tries.
    All,
    /// It depends on where from: on an address, an interface, a port.
    Some,
    /// Nobody.
    Nobody,
}

/// What becomes of what no rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
    /// It is dropped, and the sender is told.
    Reject,
}

/// What the ufw worker reads: one key of what is declared, and how all of it was when that was planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which key, and what is wanted of it.
    pub wanted: Wanted,
    /// The files as they were, by path.
    pub files: BTreeMap<String, String>,
}

/// One key of what is declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// What is let in.
    Allow(BTreeSet<Subject>),
    /// What is kept out; and of our own rules only these stay.
    Deny {
        /// What is kept out.
        deny: BTreeSet<Subject>,
        /// What is let in.
        allow: BTreeSet<Subject>,
    },
    /// What comes in and no rule speaks of.
    DefaultIncoming(Policy),
    /// The same for what goes out.
    DefaultOutgoing(Policy),
    /// Whether it is on.
    Enabled(bool),
}

impl Subject {
    /// As a manifest writes it: `OpenSSH`, `8080/tcp`, `25`, `6000:6007/tcp`, `80,443/tcp`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown = crate::path::escape(text);
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            let valid = |c: char| c.is_ascii_alphanumeric() || " _-.+".contains(c);
            let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
            return match begins && text.chars().all(valid) {
                true => Ok(Self::Profile(text.to_owned())),
                false => Err(format!("`{shown}` is neither a port nor the name of an application")),
            };
        }
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "any"));
        let mut ranges = ports.split(',').map(range).collect::<Option<Vec<_>>>().ok_or(format!("`{shown}` is not a port"))?;
        let is_simple = ranges.len() == 1 && !ports.contains(':');
        let has_protocol = matches!(protocol, "tcp" | "udp") || (is_simple && !text.contains('/'));
        if !has_protocol {
            return Err(format!("`{shown}` needs a protocol, tcp or udp"));
        }
        ranges.sort_unstable();
        let words = ranges.iter().map(|(from, to)| if from == to { from.to_string() } else { format!("{from}:{to}") });
        Ok(Self::Ports(words.collect::<Vec<_>>().join(","), protocol.to_owned()))
    }
}

/// A port or a range of ports.
fn range(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once(':').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && text.bytes().all(|b| b.is_ascii_digit()));
    Some((port(from)?, port(to)?)).filter(|(from, to)| from <= to)
}

/// Whether ports in ufw's words (`80,443`), of a protocol, are about a TCP port.
fn cover((ports, protocol): &(String, String), port: u16) -> bool {
    let all = ports == "any";
    let one = || ports.split(',').filter_map(range).any(|(from, to)| (from..=to).contains(&port));
    matches!(protocol.as_str(), "tcp" | "any") && (all || one())
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(ports, protocol) if protocol == "any" => f.write_str(ports),
            Self::Ports(ports, protocol) => write!(f, "{ports}/{protocol}"),
            Self::Profile(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
        })
    }
}

impl Firewall {
    /// Reads the files, by path. A rule that stands in one of the two families alone, where both are seen to, is half made: it does not count.
    #[must_use]
    pub fn read(files: &BTreeMap<String, String>) -> Self {
        let text = |path: &str| files.get(path).map(String::as_str).unwrap_or_default();
        let setting = |path: &str, key: &str| {
            let value = text(path).lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            value.map(|value| value.trim().trim_matches('"').to_ascii_lowercase())
        };
        let policy = |key: &str| match setting(DEFAULTS, key).as_deref() {
            Some("accept") => Some(Policy::Allow),
            Some("drop") => Some(Policy::Deny),
            Some("reject") => Some(Policy::Reject),
            _ => None,
        };
        let tuples = |path: &str| -> Vec<Rule> { text(path).lines().filter_map(tuple).collect() };
        let mut rules = tuples(RULES);
        let ipv6 = setting(DEFAULTS, "IPV6").as_deref() == Some("yes");
        if ipv6 {
            let others = tuples(RULES6);
            rules.retain(|rule| !rule.for_all || others.contains(rule));
        }
        Self {
            enabled: setting(CONF, "ENABLED").as_deref() == Some("yes"),
            is_loaded: true,
            comes_at_boot: true,
            incoming: policy("DEFAULT_INPUT_POLICY"),
            outgoing: policy("DEFAULT_OUTPUT_POLICY"),
            ipv6,
            rules,
        }
    }

    /// Whether a rule for everybody says this.
    #[must_use]
    pub fn has(&self, action: &str, subject: &Subject) -> bool {
        self.rules.iter().any(|rule| rule.for_all && rule.action == action && rule.subject == *subject)
    }

    /// Whether a rule for everybody lets this in; one of somebody else may let in only so many at a time, and is left so.
    #[must_use]
    pub fn lets(&self, subject: &Subject) -> bool {
        self.has("allow", subject) || self.has("limit", subject)
    }

    /// Rules of others that say otherwise of these, and whose place a rule of ours takes.
    #[must_use]
    pub fn replaced(&self, action: &str, subjects: &BTreeSet<Subject>) -> BTreeSet<String> {
        let stays = |said: &str| said == action || (action, said) == ("allow", "limit");
        let others = self.rules.iter().filter(|rule| rule.for_all && !rule.ours && subjects.contains(&rule.subject));
        others.filter(|rule| !stays(&rule.action)).map(|rule| format!("{} {}", rule.action, rule.subject)).collect()
    }

    /// Our own rules that are not wanted any more.
    pub fn stale<'a>(&'a self, allow: &'a BTreeSet<Subject>, deny: &'a BTreeSet<Subject>) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(|rule| rule.ours).filter(move |rule| match rule.action.as_str() {
            "allow" => !allow.contains(&rule.subject),
            _ => !deny.contains(&rule.subject),
        })
    }

    /// How it is once what is declared is done. `ports_of` knows the profiles.
    #[must_use]
    pub fn after(
        &self,
        (allow, deny): (&BTreeSet<Subject>, &BTreeSet<Subject>),
        incoming: Option<Policy>,
        ports_of: impl Fn(&Subject) -> Vec<(String, String)>,
    ) -> Self {
        let stays = |rule: &&Rule| !self.stale(allow, deny).any(|stale| stale == *rule);
        let mut rules: Vec<Rule> = self.rules.iter().filter(stays).cloned().collect();
        for (action, subjects) in [("allow", allow), ("deny", deny)] {
            for subject in subjects {
                // ufw turns a rule that says otherwise of the same into this one.
                let mut same = rules.iter_mut().filter(|rule| rule.for_all && rule.subject == *subject).peekable();
                if same.peek().is_some() {
                    same.filter(|rule| (action, rule.action.as_str()) != ("allow", "limit"))
                        .for_each(|rule| action.clone_into(&mut rule.action));
                    continue;
                }
                let new = |ports| Rule {
                    action: action.to_owned(),
                    subject: subject.clone(),
                    ports,
                    for_all: true,
                    ours: true,
                    comment: None,
                };
                rules.extend(ports_of(subject).into_iter().map(new));
            }
        }
        Self { incoming: incoming.or(self.incoming), rules, ..self.clone() }
    }

    /// Who reaches a TCP port while it is on, by its rules or by default.
    #[must_use]
    pub fn reach(&self, port: u16) -> Reach {
        let says = |opens: bool, for_all: bool| {
            let about = self.rules.iter().filter(|rule| rule.for_all == for_all && cover(&rule.ports, port));
            about.into_iter().any(|rule| matches!(rule.action.as_str(), "allow" | "limit") == opens)
        };
        if says(false, true) {
            return Reach::Nobody;
        }
        let is_open = self.incoming == Some(Policy::Allow) || says(true, true);
        match (is_open, says(true, false)) {
            // What speaks IPv6 is dropped by a firewall that does not see to it.
            (true, _) if self.ipv6 && !says(false, false) => Reach::All,
            (true, _) | (_, true) => Reach::Some,
            (false, false) => Reach::Nobody,
        }
    }

    /// What ufw is told so that of what is wanted all is as it was, and nothing else: what somebody has changed since stays.
    #[must_use]
    pub fn back(&self, was: &Self, wanted: &Wanted) -> Vec<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let policy = |way: &str, was: Option<Policy>, now: Option<Policy>| {
            let back = was.filter(|_| was != now).map(|was| words(&["default", &was.to_string(), way]));
            back.into_iter().collect()
        };
        match wanted {
            Wanted::Allow(allow) => self.rules_back(was, "allow", allow),
            Wanted::Deny { deny, allow } => {
                let mut all = self.rules_back(was, "deny", deny);
                let gone = was.stale(allow, deny).filter(|rule| !self.has(&rule.action, &rule.subject));
                all.extend(gone.map(Rule::words));
                all.dedup();
                all
            }
            Wanted::DefaultIncoming(_) => policy("incoming", was.incoming, self.incoming),
            Wanted::DefaultOutgoing(_) => policy("outgoing", was.outgoing, self.outgoing),
            Wanted::Enabled(_) if was.enabled == self.enabled => Vec::new(),
            Wanted::Enabled(_) => vec![words(&["--force", if was.enabled { "enable" } else { "disable" }])],
        }
    }

    fn rules_back(&self, was: &Self, action: &str, subjects: &BTreeSet<Subject>) -> Vec<Vec<String>> {
        let is_ours = |of: &Self, subject: &Subject| {
            of.rules.iter().any(|rule| rule.ours && rule.for_all && rule.action == action && rule.subject == *subject)
        };
        let new = subjects.iter().filter(|subject| is_ours(self, subject) && !is_ours(was, subject));
        let back = |subject: &Subject| match was.rules.iter().find(|rule| rule.for_all && rule.subject == *subject) {
            // Ours took its place, and it takes ours.
            Some(rule) => rule.words(),
            None => ["delete", action, &subject.to_string()].map(str::to_owned).to_vec(),
        };
        new.map(back).collect()
    }

    /// What there is of what is wanted.
    #[must_use]
    pub fn answer(&self, wanted: &Wanted) -> String {
        let known = |policy: Option<Policy>| policy.map_or_else(|| "unknown".to_owned(), |policy| policy.to_string());
        match wanted {
            Wanted::Allow(allow) => listed(allow.iter().filter(|subject| self.lets(subject)).map(Subject::to_string)),
            Wanted::Deny { deny, allow } => {
                let denied = deny.iter().filter(|subject| self.has("deny", subject)).map(Subject::to_string);
                let stale = self.stale(allow, deny).map(|rule| format!("our {} {}", rule.action, rule.subject));
                listed(denied.chain(stale))
            }
            Wanted::DefaultIncoming(_) => known(self.incoming),
            Wanted::DefaultOutgoing(_) => known(self.outgoing),
            Wanted::Enabled(_) if self.enabled && !self.is_loaded => STOPPED.to_owned(),
            Wanted::Enabled(_) if self.enabled && !self.comes_at_boot => NOT_AT_BOOT.to_owned(),
            Wanted::Enabled(_) => on_or_off(self.enabled),
        }
    }
}

impl Rule {
    /// What ufw is told to have it.
    fn words(&self) -> Vec<String> {
        let comment = if self.ours { Some(MARK) } else { self.comment.as_deref() };
        let words = [self.action.as_str(), &self.subject.to_string()].map(str::to_owned);
        words.into_iter().chain(comment.iter().flat_map(|comment| ["comment", comment].map(str::to_owned))).collect()
    }
}

impl Wanted {
    /// The key in the manifest.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Allow(_) => "allow",
            Self::Deny { .. } => "deny",
            Self::DefaultIncoming(_) => "default_incoming",
            Self::DefaultOutgoing(_) => "default_outgoing",
            Self::Enabled(_) => "enabled",
        }
    }

    /// The answer once it is done.
    #[must_use]
    pub fn done(&self) -> String {
        match self {
            Self::Allow(subjects) | Self::Deny { deny: subjects, .. } => listed(subjects.iter().map(Subject::to_string)),
            Self::DefaultIncoming(policy) | Self::DefaultOutgoing(policy) => policy.to_string(),
            Self::Enabled(enabled) => on_or_off(*enabled),
        }
    }
}

fn on_or_off(enabled: bool) -> String {
    if enabled { "on" } else { "off" }.to_owned()
}

fn listed(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// A rule on what comes in: `### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 OpenSSH - in comment=…`.
fn tuple(line: &str) -> Option<Rule> {
    let words: Vec<&str> = line.strip_prefix("### tuple ### ")?.split(' ').collect();
    let [action, protocol, ports, to, from_ports, from, rest @ ..] = words.as_slice() else { return None };
    let (rest, comment) = match rest {
        [rest @ .., comment] if comment.starts_with("comment=") => (rest, comment.strip_prefix("comment=").and_then(unhex)),
        rest => (rest, None),
    };
    let (profile, direction) = match rest {
        [direction] => (None, *direction),
        [to, _, direction] if *to != "-" => (Some(to.replace("%20", " ")), *direction),
        _ => return None,
    };
    let is_anywhere = |address: &str| matches!(address, "0.0.0.0/0" | "::/0");
    let ports = ((*ports).to_owned(), (*protocol).to_owned());
    let subject = profile.map_or_else(|| Subject::Ports(ports.0.clone(), ports.1.clone()), Subject::Profile);
    let for_all = is_anywhere(to) && is_anywhere(from) && *from_ports == "any" && direction == "in";
    let comes_in = direction == "in" || direction.starts_with("in_");
    let ours = comment.as_deref() == Some(MARK);
    comes_in.then(|| Rule { action: (*action).to_owned(), subject, ports, for_all, ours, comment })
}

fn unhex(text: &str) -> Option<String> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?);
    String::from_utf8(text.as_bytes().chunks(2).map(byte).collect::<Option<_>>()?).ok()
}

#[cfg(test)]
fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The line that ufw writes for one of our rules.
#[cfg(test)]
pub(crate) fn tuple_of(action: &str, subject: &Subject, (ports, protocol): &(String, String), anywhere: &str) -> String {
    let profile = match subject {
        Subject::Profile(name) => format!("{} - ", name.replace(' ', "%20")),
        Subject::Ports(..) => String::new(),
    };
    format!("### tuple ### {action} {protocol} {ports} {anywhere} any {anywhere} {profile}in comment={}\n", hex(MARK))
}

/// The applications that a file of profiles describes: name and ports, each with its protocol.
#[must_use]
pub fn profiles(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut profiles: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut name = None;
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name = Some(header.to_owned());
            profiles.entry(header.to_owned()).or_default();
        } else if let (Some(name), Some(ports)) = (&name, line.strip_prefix("ports=")) {
            let one = |part: &str| {
                let (ports, protocol) = part.split_once('/').unwrap_or((part, "any"));
                (ports.to_owned(), protocol.to_owned())
            };
            profiles.insert(name.clone(), ports.split('|').map(one).collect());
        }
    }
    profiles
}

#[cfg(test)]
mod tests;
