//! The firewall, through ufw(8).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec};
use crate::change::{Call, Change, Object};
use crate::path::ManagedPath;
use crate::ufw::sshd::{self, Listening};
use crate::ufw::{self, CONF, FILES, Firewall, LIMIT, PROFILES, Policy, Reach, Request, Subject, Wanted};
use crate::worker::PROGRAM;

/// How long one change may take: the whole firewall is loaded anew.
const CHANGE: Duration = Duration::from_secs(120);
/// How long a look at it may take.
const ASK: Duration = Duration::from_secs(30);
/// Most profiles and drop-ins that are looked at.
const ENTRIES: usize = 1000;
/// What SSH is reached by, where sshd does not listen itself.
const SOCKET: &str = "ssh.socket";
const SERVICE: &str = "ssh.service";

/// The firewall of ufw. Only the keys that are written are managed, and rules of others stay; what leaves `allow` or `deny` is deleted if it
/// was added for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UfwSpec {
    /// Whether it is on, now and at boot. It is not turned on unless something lets SSH in, on all ports on which sshd listens; where that is
    /// not from everywhere, or where sshd listens cannot be told, it has to be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// What is let in, from anywhere: applications (`ufw app list`) and ports, as `OpenSSH`, `8080/tcp`, `6000:6007/udp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// What is kept out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// What becomes of what comes in and no rule speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_incoming: Option<Policy>,
    /// The same for what goes out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_outgoing: Option<Policy>,
    /// What to do when the host no longer matches: `repair` (the default), `report` (told, and left until the next push), or `ignore`
    /// (somebody else sees to it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
}

impl Spec for UfwSpec {
    const KIND: &'static str = "ufw";
    const KEY: &'static str = "";
    const PHASE: Phase = Phase::Firewall;
    const ABOUT: &'static str = "The firewall, through ufw. What lets in is done at once; what keeps out has to be confirmed, as every change of how the host is reached. It goes last, once all else runs.";
    const EXAMPLE: &'static str = "[ufw]\nenabled = true\nallow = [\"OpenSSH\", \"8080/tcp\"]\n";

    fn name(&self) -> String {
        "firewall".to_owned()
    }

    fn check(&self) -> Result<(), Mistake> {
        let (allow, deny) = self.subjects()?;
        match allow.intersection(&deny).next() {
            Some(both) => Err(Mistake {
                key: "deny",
                message: format!("{both} is both allowed and denied"),
                help: "keep it in one of the two".to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let files = files(sight)?;
        if !files.contains_key(CONF) {
            return Err(KindError::NotYet("[ufw]: ufw is not on this host: write packages = [\"ufw\"]".to_owned()));
        }
        let mut firewall = Firewall::read(&files);
        if firewall.enabled && self.enabled == Some(true) {
            let request = Request { wanted: Wanted::Enabled(true), files: files.clone() };
            let ask = Call::new(&[PROGRAM, "worker", "ufw", "ask"], ASK);
            let answer = sight.ask("ufw:enabled", &ask, &serde_json::to_vec(&request).unwrap_or_default())?;
            firewall.is_loaded = answer != ufw::STOPPED;
            firewall.comes_at_boot = answer != ufw::NOT_AT_BOOT;
        }
        let (allow, deny) = self.subjects().map_err(|mistake| KindError::Impossible(mistake.message))?;
        let profiles = profiles(sight)?;
        for subject in allow.iter().chain(&deny) {
            if let Subject::Profile(name) = subject
                && !profiles.contains_key(name)
            {
                return Err(KindError::NotYet(format!(
                    "[ufw]: ufw knows no application `{name}` on this host: declare the package that brings it, or write its ports, as \"8080/tcp\""
                )));
            }
        }
        // Turned off, it keeps nobody out.
        let is_safe = self.enabled != Some(true) || self.lets_ssh_in(&firewall, (&allow, &deny), &profiles, sight)?;
        let rules = (!allow.is_empty()).then(|| Wanted::Allow(allow.clone()));
        let wanted = rules.into_iter().chain([Wanted::Deny { deny, allow }]);
        let wanted = wanted.chain(self.default_incoming.map(Wanted::DefaultIncoming));
        let wanted = wanted.chain(self.default_outgoing.map(Wanted::DefaultOutgoing)).chain(self.enabled.map(Wanted::Enabled));
        let claim = |wanted| {
            let within_reach = matches!(wanted, Wanted::Enabled(_)) && is_safe;
            Claim { within_reach, ..claim(&firewall, &files, wanted) }
        };
        Ok(wanted.map(claim).collect())
    }
}

impl UfwSpec {
    fn subjects(&self) -> Result<(BTreeSet<Subject>, BTreeSet<Subject>), Mistake> {
        let parse = |key, words: &[String]| {
            let subjects = words.iter().map(|word| Subject::parse(word)).collect::<Result<BTreeSet<_>, _>>();
            let help = "write an application (ufw app list) or ports, as \"OpenSSH\", \"8080/tcp\", \"6000:6007/udp\"";
            subjects.map_err(|message| Mistake { key, message, help: help.to_owned() })
        };
        Ok((parse("allow", &self.allow)?, parse("deny", &self.deny)?))
    }

    /// Whether SSH can be reached from everywhere once it is on, for sure. A firewall that is turned on and shuts it out shuts out whoever
    /// could turn it off again: that is refused.
    fn lets_ssh_in(
        &self,
        firewall: &Firewall,
        declared: (&BTreeSet<Subject>, &BTreeSet<Subject>),
        profiles: &Profiles,
        sight: &Sight<'_>,
    ) -> Result<bool, KindError> {
        let ports_of = |subject: &Subject| match subject {
            Subject::Ports(ports, protocol) => vec![(ports.clone(), protocol.clone())],
            Subject::Profile(name) => profiles.get(name).cloned().unwrap_or_default(),
        };
        let (ssh, then) = (listening(sight)?, firewall.after(declared, self.default_incoming, ports_of));
        // What is so already shuts nobody out now.
        let is_closed = |port: &u16| firewall.enabled && firewall.is_loaded && firewall.reach(*port) == Reach::Nobody;
        let closes = |port: &u16| then.reach(*port) == Reach::Nobody && !is_closed(port);
        if let Some(port) = ssh.ports.iter().find(|port| closes(port)) {
            let remedy = match *port {
                sshd::PORT => "write allow = [\"OpenSSH\"]".to_owned(),
                port => format!("sshd listens on {port}: write allow = [\"{port}/tcp\"]"),
            };
            let shut = "[ufw]: this would shut SSH out, and with it whoever administers the host";
            return Err(KindError::Impossible(format!("{shut}: {remedy}")));
        }
        Ok(ssh.is_sure && ssh.ports.iter().all(|port| then.reach(*port) == Reach::All))
    }
}

/// Applications with their ports, each with its protocol.
type Profiles = BTreeMap<String, Vec<(String, String)>>;

/// Where SSH is reached: by sshd itself, or by its socket, which then listens in its place.
fn listening(sight: &Sight<'_>) -> Result<Listening, KindError> {
    let seen = sight.host.unit(SOCKET)?;
    let planned = sight.earlier.iter().find_map(|change| match change {
        Change::Unit { unit, after, .. } if unit == SOCKET => Some(after),
        _ => None,
    });
    let is_active = planned.and_then(|after| after.active).unwrap_or_else(|| seen.is_active());
    let is_enabled = planned.and_then(|after| after.enabled).unwrap_or(seen.file_state == "enabled");
    let by_socket = || Listening::of_socket((sight.definition)(SOCKET).values("Socket", "ListenStream"));
    let by_itself = || -> Result<Listening, KindError> {
        let main = text(sshd::CONFIG, sight)?;
        let drop_ins = texts(sshd::DROP_INS, |name| name.ends_with(".conf") && !name.starts_with('.'), sight)?;
        let mut told = Listening::configured(main.as_deref().unwrap_or_default(), &drop_ins);
        let defaults = text(sshd::OPTIONS, sight)?.unwrap_or_default();
        // Without a file it may be another server.
        told.is_sure &=
            main.is_some() && !sshd::has_options(&defaults, (sight.definition)(SERVICE).values("Service", "ExecStart"));
        Ok(told)
    };
    Ok(match (is_active, is_enabled) {
        (true, true) => by_socket(),
        (false, false) => by_itself()?,
        // One now, the other after the next boot.
        _ => by_socket().and(by_itself()?),
    })
}

fn profiles(sight: &Sight<'_>) -> Result<Profiles, KindError> {
    Ok(texts(PROFILES, |name| !name.starts_with('.'), sight)?.iter().flat_map(|text| ufw::profiles(text)).collect())
}

/// All that ufw writes, by path.
fn files(sight: &Sight<'_>) -> Result<BTreeMap<String, String>, KindError> {
    let mut files = BTreeMap::new();
    for path in FILES {
        files.extend(text(path, sight)?.map(|text| (path.to_owned(), text)));
    }
    Ok(files)
}

/// The files in a directory, as they will be, that have such names.
fn texts(directory: &str, is_meant: impl Fn(&str) -> bool, sight: &Sight<'_>) -> Result<Vec<String>, KindError> {
    let path = ManagedPath::new(directory).map_err(KindError::Impossible)?;
    let mut names: BTreeSet<String> = sight.host.entries(&path, ENTRIES)?.into_iter().collect();
    let planned =
        sight.earlier.iter().filter_map(|change| change.path()).filter(|planned| planned.parent().as_ref() == Some(&path));
    names.extend(planned.map(|planned| planned.file_name().to_owned()));
    let mut texts = Vec::new();
    for name in names.iter().filter(|name| is_meant(name)) {
        // One that no path can name is none of a package's.
        if ManagedPath::new(&format!("{directory}/{name}")).is_ok() {
            texts.extend(text(&format!("{directory}/{name}"), sight)?);
        }
    }
    Ok(texts)
}

/// A file as it will be when the firewall's turn comes; `None` where there is none.
fn text(path: &str, sight: &Sight<'_>) -> Result<Option<String>, KindError> {
    let path = ManagedPath::new(path).map_err(KindError::Impossible)?;
    let planned = sight.earlier.iter().find(|change| change.path() == Some(&path));
    let content = match planned {
        Some(Change::Entry { after: Object::File(facts), .. }) => {
            (sight.contents)(&facts.digest).or_else(|_| sight.host.content(&path, LIMIT))?
        }
        Some(_) => return Ok(None),
        None => match sight.host.object(&path)?.object {
            Object::File(_) => sight.host.content(&path, LIMIT)?,
            _ => return Ok(None),
        },
    };
    String::from_utf8(content).map(Some).map_err(|_| KindError::Impossible(format!("{path} is no text")))
}

/// What the ufw worker does with one key.
fn claim(firewall: &Firewall, files: &BTreeMap<String, String>, wanted: Wanted) -> Claim {
    let (before, after) = (firewall.answer(&wanted), wanted.done());
    let (target, mut reason) = (format!("ufw:{}", wanted.key()), format!("{} {before} → {after}", wanted.key()));
    let replaced = match &wanted {
        Wanted::Allow(allow) => firewall.replaced("allow", allow),
        Wanted::Deny { deny, .. } => firewall.replaced("deny", deny),
        _ => BTreeSet::new(),
    };
    if !replaced.is_empty() {
        reason += &format!(", in place of somebody's {}", replaced.into_iter().collect::<Vec<_>>().join(", "));
    }
    let request = Request { wanted, files: files.clone() };
    Claim { reason, ..Claim::by_worker("ufw", target, &request, (before, after), CHANGE) }
}
