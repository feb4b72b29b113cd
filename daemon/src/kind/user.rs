//! User accounts of passwd(5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::place::parse_mode;
use super::{Claim, Drift, GroupSpec, KindError, Mistake, PackageSpec, Phase, Sight, Spec, State};
use crate::accounts::{
    self, Accounts, FIRST_OF_HOST, FIRST_OF_PEOPLE, Fields, GROUP, GSHADOW, LIMIT, MAILBOXES, NO_HOME, PASSWD, Request, SHADOW,
    SUBGID, SUBUID, UserRequest,
};
use crate::change::{ABSENT, Change, Object};
use crate::host::{Account, HostError};
use crate::manifest::Resource;
use crate::path::ManagedPath;

/// How long a change may take: another uid is carried through the whole home.
const CHANGE: Duration = Duration::from_secs(10 * 60);
/// Longest name, as useradd(8) has it.
const NAME_LIMIT: usize = 32;
/// The shell of a new account.
const SHELL: &str = "/bin/bash";
/// The same of the system.
const NO_SHELL: &str = "/usr/sbin/nologin";

/// A user account. Of one that is there only the keys that are written are managed, and that its home is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    /// The login name: `sammy`.
    pub name: String,
    /// A new one gets an id of those for the system's accounts, no home and no shell unless they are set.
    #[serde(default)]
    pub system: bool,
    /// Home directory; for a new one `/home/NAME`, for a system account `/nonexistent`, which is never made. It is made with the files of
    /// `/etc/skel`. Another one for an account that is there is made too; what is in the old one stays there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Permission bits of the home as an octal string: `0711` lets nginx pass through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_mode: Option<String>,
    /// Login shell; for a new one `/bin/bash`, for a system account `/usr/sbin/nologin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Primary group; a new one has a group of its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Groups that it is in too. It stays in others, also in one that leaves the list: `gpasswd -d NAME GROUP`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Its full name, or what it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// User id; by default the next one that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// `locked`: no password lets in (a key of SSH does). So is every new account; a password that is there is left alone unless this is
    /// written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// `absent`: it is removed; its home and its files stay.
    #[serde(default)]
    pub state: State,
    /// What to do when the host no longer matches: `repair` (the default), `report` (told, and left until the next push), or `ignore`
    /// (somebody else sees to it).
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
}

/// What may be declared of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Password {
    /// No password lets in.
    Locked,
}

impl Spec for UserSpec {
    const KIND: &'static str = "user";
    const SHORT: Option<&'static str> = Some("users");
    const KEY: &'static str = "name";
    const PHASE: Phase = Phase::Accounts;
    const ABOUT: &'static str =
        "A user account. One that leaves the repository is let go: `state = \"absent\"` removes it, but never its home.";
    const EXAMPLE: &'static str =
        "[[user]]\nname = \"sammy\"\nhome_mode = \"0711\"   # nginx passes through it\ngroups = [\"www-data\"]\n";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn check(&self) -> Result<(), Mistake> {
        let bad = |key, message: String, help: &str| Err(Mistake { key, message, help: help.to_owned() });
        let named = self.group.iter().map(|name| ("group", name)).chain(self.groups.iter().map(|name| ("groups", name)));
        for (key, name) in [("name", &self.name)].into_iter().chain(named) {
            check_name(key, name)?;
        }
        self.managed()?;
        if let Some(Err(why)) = self.home.as_deref().filter(|home| *home != NO_HOME).map(ManagedPath::new) {
            return bad("home", why, "write an absolute path: home = \"/srv/shop\"");
        }
        // What would end a field or a line of passwd(5).
        let has_colon =
            |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains(|c: char| c == ':' || c.is_control()));
        if has_colon(&self.home) {
            return bad("home", "a home has no colon".to_owned(), "write another path");
        }
        if has_colon(&self.shell) || self.shell.as_ref().is_some_and(|shell| !shell.starts_with('/')) {
            return bad("shell", "not the path of a program".to_owned(), "write shell = \"/bin/bash\"");
        }
        if has_colon(&self.comment) {
            return bad("comment", "a comment is one line without a colon".to_owned(), "drop what is not");
        }
        if self.home_mode.is_some() && self.new_home() == NO_HOME {
            return bad("home_mode", "this account has no home".to_owned(), "set `home`, or drop `home_mode`");
        }
        if self.state == State::Absent && matches!(self.name.as_str(), "root" | "reconciled") {
            return bad("state", format!("the user {} is never removed", self.name), "drop the table");
        }
        if self.state == State::Absent && self.managed()? != Fields::default() {
            return bad("state", "an absent user has no other keys".to_owned(), "drop them, or `state`");
        }
        Ok(())
    }

    fn claims(&self, sight: &Sight<'_>) -> Result<Vec<Claim>, KindError> {
        let accounts = accounts(sight, self.password.is_some() || self.state == State::Absent)?;
        let (request, reason) = match self.state {
            State::Present => self.wanted(sight, &accounts)?,
            State::Absent => (self.unwanted(sight, &accounts)?, "remove".to_owned()),
        };
        let home = ManagedPath::new(&request.home).ok().filter(|_| request.before.is_none());
        let managed = request.before.as_ref().map_or_else(|| ABSENT.to_owned(), Fields::to_string);
        let request = Request::User(Box::new(request));
        let before = if self.state == State::Absent { accounts.answer(&request, |_| None) } else { managed };
        let mut claim = claim(format!("user:{}", self.name), &request, before, reason);
        if let Change::Run(run) = &mut claim.change {
            run.makes.extend(home);
        }
        Ok(vec![claim])
    }
}

impl UserSpec {
    /// The home of a new one.
    fn new_home(&self) -> String {
        let default = || if self.system { NO_HOME.to_owned() } else { format!("/home/{}", self.name) };
        self.home.clone().unwrap_or_else(default)
    }

    /// The keys that are written.
    fn managed(&self) -> Result<Fields, Mistake> {
        let mode = self.home_mode.as_deref().map(parse_mode).transpose();
        let help = || "write three or four octal digits as a string: home_mode = \"0711\"".to_owned();
        Ok(Fields {
            housed: None,
            uid: self.uid,
            group: self.group.clone(),
            groups: (!self.groups.is_empty()).then(|| self.groups.iter().cloned().collect()),
            home: self.home.clone(),
            home_mode: mode.map_err(|mistake| Mistake { key: "home_mode", help: help(), ..mistake })?,
            shell: self.shell.clone(),
            comment: self.comment.clone(),
            password: self.password.map(|Password::Locked| accounts::Password::Locked),
        })
    }

    fn wanted(&self, sight: &Sight<'_>, accounts: &Accounts) -> Result<(UserRequest, String), KindError> {
        self.refuse_what_is_missing(sight, accounts)?;
        let there = accounts.user(&self.name);
        let home = match (there, &self.home) {
            (Some(user), None) => user.home.clone(),
            _ => self.new_home(),
        };
        let mut wanted = self.managed().map_err(|mistake| KindError::Impossible(mistake.message))?;
        let mut modes = BTreeMap::new();
        for home in [Some(&home), there.map(|user| &user.home)].into_iter().flatten() {
            let Ok(path) = ManagedPath::new(home) else { continue };
            let facts = sight.host.directory(&path)?;
            modes.extend(facts.map(|facts| (path, facts.mode)));
        }
        // A place of the system that an account was merely given as its home is not made for it.
        let is_person = there.map_or(!self.system, |user| user.uid >= FIRST_OF_PEOPLE);
        let has_home = home != NO_HOME && ManagedPath::new(&home).is_ok();
        wanted.housed = (has_home && (is_person || self.home.is_some() || self.home_mode.is_some())).then_some(true);
        let before = accounts.managed(&self.name, &wanted, |path| modes.get(path).copied());
        let reason = before.as_ref().map_or_else(|| "new".to_owned(), |before| differing(before, &wanted));
        let request = UserRequest {
            name: self.name.clone(),
            fresh: fresh(&home, there.is_none().then_some(&self.name), sight)?,
            fresh_group: accounts.group(&self.name).is_none(),
            wanted: Some(wanted),
            before,
            system: self.system,
            home,
            shell: self.shell.clone().unwrap_or_else(|| if self.system { NO_SHELL } else { SHELL }.to_owned()),
            removed: None,
            declared: BTreeSet::new(),
        };
        Ok((request, reason))
    }

    fn unwanted(&self, sight: &Sight<'_>, accounts: &Accounts) -> Result<UserRequest, KindError> {
        if accounts.user(&self.name).is_some_and(|user| user.uid < FIRST_OF_HOST) {
            return Err(KindError::Impossible(format!(
                "the user {} belongs to the system and is not removed: drop `state = \"absent\"`",
                self.name
            )));
        }
        let removed = accounts.all_of(&self.name);
        let before = removed.as_ref().map(|_| Fields::default());
        let declared = declared(GroupSpec::KIND, sight);
        Ok(UserRequest { name: self.name.clone(), before, removed, declared, ..UserRequest::default() })
    }

    /// A group or shell that nothing brings.
    fn refuse_what_is_missing(&self, sight: &Sight<'_>, accounts: &Accounts) -> Result<(), KindError> {
        if PackageSpec::are_to_come(sight)? {
            return Ok(());
        }
        let is_own = |group: &&String| **group == self.name;
        for group in self.groups.iter().chain(self.group.iter().filter(|group| !is_own(group))) {
            let comes = |resource: &&Resource| {
                matches!(resource.kind.as_str(), GroupSpec::KIND | Self::KIND) && resource.name == *group && is_present(resource)
            };
            if accounts.group(group).is_none() && !sight.resources.iter().any(|resource| comes(&resource)) {
                return Err(KindError::Impossible(format!(
                    "{}: the group `{group}` is neither on this host nor declared: write a [[group]] table for it, or correct the name",
                    self.name
                )));
            }
        }
        let Some(Ok(shell)) = self.shell.as_deref().map(ManagedPath::new) else { return Ok(()) };
        match sight.host.object(&shell) {
            // One that leads through a link, as /bin does, is taken on trust.
            Err(HostError::Unfit(_)) => Ok(()),
            Ok(seen) if seen.object == Object::Absent => Err(KindError::Impossible(format!(
                "{}: there is no {shell} on this host: declare the package that brings it, or correct `shell`",
                self.name
            ))),
            seen => seen.map(drop).map_err(KindError::from),
        }
    }
}

/// The databases; those with secrets only where somebody asks for them.
pub(super) fn accounts(sight: &Sight<'_>, with_secrets: bool) -> Result<Accounts, KindError> {
    let read = |path: &str| -> Result<String, KindError> {
        let path = ManagedPath::new(path).map_err(KindError::Impossible)?;
        Ok(String::from_utf8_lossy(&sight.host.content(&path, LIMIT)?).into_owned())
    };
    let (passwd, group) = (read(PASSWD)?, read(GROUP)?);
    if !with_secrets {
        return Ok(Accounts::read(&passwd, &group, ""));
    }
    // Not every host has these.
    let read_any = |path: &str| -> Result<String, KindError> {
        let place = ManagedPath::new(path).map_err(KindError::Impossible)?;
        if sight.host.object(&place)?.object == Object::Absent { Ok(String::new()) } else { read(path) }
    };
    Ok(Accounts::read(&passwd, &group, &read(SHADOW)?).with(&read_any(GSHADOW)?, &read_any(SUBUID)?, &read_any(SUBGID)?))
}

/// What is declared of a kind, by name.
pub(super) fn declared(kind: &str, sight: &Sight<'_>) -> BTreeSet<String> {
    sight.resources.iter().filter(|resource| resource.kind == kind).map(|resource| resource.name.clone()).collect()
}

/// What the accounts worker does with a request, as a claim.
pub(super) fn claim(target: String, request: &Request, before: String, reason: String) -> Claim {
    let answers = (before, request.done());
    let mut claim = Claim { reason, ..Claim::by_worker("accounts", target, request, answers, CHANGE) };
    if let Change::Run(run) = &mut claim.change {
        run.does_more = true;
    }
    claim
}

/// What is wrong with the name of an account.
///
/// # Errors
/// The mistake.
pub(super) fn check_name(key: &'static str, name: &str) -> Result<(), Mistake> {
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let valid = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if begins && name.len() <= NAME_LIMIT && name.chars().all(valid) {
        return Ok(());
    }
    let message = format!("`{}` is not a name of an account", crate::path::escape(name));
    Err(Mistake { key, message, help: "letters, digits and _-., a letter first, at most 32".to_owned() })
}

/// A declared user who is still to come and in whose home a path will be: whose it is, nobody can see yet.
pub(super) fn awaited(path: &ManagedPath, accounts: &[Account], resources: &[Resource]) -> Option<String> {
    let users = resources.iter().filter(|resource| resource.kind == UserSpec::KIND && is_present(resource));
    let awaited = users.filter(|user| !accounts.iter().any(|account| account.name == user.name));
    let specs = awaited.filter_map(|user| UserSpec::deserialize(&user.spec).ok());
    specs.into_iter().find(|spec| path.as_path().starts_with(spec.new_home())).map(|spec| spec.name)
}

pub(super) fn is_present(resource: &Resource) -> bool {
    resource.spec["state"] != "absent"
}

/// What is not there before it is: the mailbox of a new account, what is above the home, the home itself.
fn fresh(home: &str, new: Option<&String>, sight: &Sight<'_>) -> Result<Vec<String>, KindError> {
    let mut fresh = Vec::new();
    let mut next = ManagedPath::new(home).ok().filter(|_| home != NO_HOME);
    while let Some(path) = next {
        if sight.host.directory(&path)?.is_some() {
            break;
        }
        next = path.parent();
        fresh.insert(0, path.as_str().to_owned());
    }
    let Some(name) = new else { return Ok(fresh) };
    let mailbox = ManagedPath::new(&format!("{MAILBOXES}/{name}")).map_err(KindError::Impossible)?;
    if sight.host.object(&mailbox)?.object == Object::Absent {
        fresh.insert(0, mailbox.as_str().to_owned());
    }
    Ok(fresh)
}

/// What is to change, in the plan's words.
fn differing(before: &Fields, wanted: &Fields) -> String {
    let pairs = before.words().into_iter().zip(wanted.words()).filter(|(old, new)| old != new);
    let words = pairs.map(|((key, old), (_, new))| match key {
        "home directory" => "its home is missing".to_owned(),
        _ => format!("{key} {old} → {new}"),
    });
    words.collect::<Vec<_>>().join(", ")
}
