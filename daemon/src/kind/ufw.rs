//! The firewall, through ufw(8).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Claim, Drift, KindError, Mistake, Phase, Sight, Spec};
use crate::change::{Change, Object};
use crate::path::ManagedPath;
use crate::ufw::{self, CONF, FILES, Firewall, LIMIT, PROFILES, Policy, Request, Subject, Wanted};

/// How long one change may take: the whole firewall is loaded anew.
const CHANGE: Duration = Duration::from_secs(120);
/// Most profiles and drop-ins that are looked at.
const ENTRIES: usize = 1000;
/// Where sshd listens when it is not told.
const SSH: u16 = 22;
/// Where it is told.
const SSHD: [&str; 2] = ["/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d"];

/// The firewall of ufw. Only the keys that are written are managed, and rules of others stay; what leaves `allow` or `deny` is deleted if it
/// was added for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UfwSpec {
    /// Whether it is on, now and at boot. It is not turned on unless something lets SSH in.
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
        let firewall = Firewall::read(&files);
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
        if self.enabled == Some(true) {
            self.refuse_to_shut_ssh_out(&firewall, (&allow, &deny), &profiles, sight)?;
        }
        let rules = (!allow.is_empty()).then(|| Wanted::Allow(allow.clone()));
        let wanted = rules.into_iter().chain([Wanted::Deny { deny, allow }]);
        let wanted = wanted.chain(self.default_incoming.map(Wanted::DefaultIncoming));
        let wanted = wanted.chain(self.default_outgoing.map(Wanted::DefaultOutgoing)).chain(self.enabled.map(Wanted::Enabled));
        Ok(wanted.map(|wanted| claim(&firewall, &files, wanted)).collect())
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

    /// A firewall that is turned on without a rule for SSH shuts out whoever could turn it off again.
    fn refuse_to_shut_ssh_out(
        &self,
        firewall: &Firewall,
        declared: (&BTreeSet<Subject>, &BTreeSet<Subject>),
        profiles: &Profiles,
        sight: &Sight<'_>,
    ) -> Result<(), KindError> {
        let ports_of = |subject: &Subject| match subject {
            Subject::Ports(ports, protocol) => vec![(ports.clone(), protocol.clone())],
            Subject::Profile(name) => profiles.get(name).cloned().unwrap_or_default(),
        };
        let ports = sshd_ports(sight)?;
        if ports.iter().any(|port| firewall.lets_in(*port, declared, self.default_incoming, ports_of)) {
            return Ok(());
        }
        let remedy = match ports.first() {
            Some(port) if !ports.contains(&SSH) => format!("sshd listens on {port}: write allow = [\"{port}/tcp\"]"),
            _ => "write allow = [\"OpenSSH\"]".to_owned(),
        };
        Err(KindError::Impossible(format!("[ufw]: this would shut SSH out, and with it whoever administers the host: {remedy}")))
    }
}

/// Applications with their ports, each with its protocol.
type Profiles = BTreeMap<String, Vec<(String, String)>>;

/// Where sshd listens.
fn sshd_ports(sight: &Sight<'_>) -> Result<Vec<u16>, KindError> {
    let [main, drop_ins] = SSHD;
    let mut ports = text(main, sight)?.map(|text| ufw::sshd_ports(&text)).unwrap_or_default();
    for text in texts(drop_ins, |_| true, sight)? {
        ports.extend(ufw::sshd_ports(&text));
    }
    if ports.is_empty() {
        ports.push(SSH);
    }
    Ok(ports)
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
    let (target, reason) = (format!("ufw:{}", wanted.key()), format!("{} {before} → {after}", wanted.key()));
    let request = Request { wanted, files: files.clone() };
    Claim { reason, ..Claim::by_worker("ufw", target, &request, (before, after), CHANGE) }
}
