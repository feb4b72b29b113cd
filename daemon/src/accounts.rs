//! User accounts and groups as passwd(5), group(5) and shadow(5) have them: what a declaration manages of one, and how that is told. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::change::ABSENT;
use crate::digest::Digest;
use crate::path::ManagedPath;

/// The databases.
pub const PASSWD: &str = "/etc/passwd";
/// See [`PASSWD`].
pub const GROUP: &str = "/etc/group";
/// See [`PASSWD`].
pub const SHADOW: &str = "/etc/shadow";
/// The databases of what goes with an account and is nobody's to declare: subordinate ids, secrets of groups.
pub const SUBUID: &str = "/etc/subuid";
/// See [`SUBUID`].
pub const SUBGID: &str = "/etc/subgid";
/// See [`SUBUID`].
pub const GSHADOW: &str = "/etc/gshadow";
/// Longest database that is read, in bytes.
pub const LIMIT: u64 = 16 << 20;
/// Accounts below this id are Debian's own (Debian policy §9.2.2).
pub const FIRST_OF_HOST: u32 = 100;
/// People's accounts begin here (the same).
pub const FIRST_OF_PEOPLE: u32 = 1000;
/// Where the mailboxes are.
pub const MAILBOXES: &str = "/var/mail";
/// A home that is none (Debian policy §9.2.3).
pub const NO_HOME: &str = "/nonexistent";

/// What a password lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Password {
    /// Nobody.
    Locked,
    /// Who knows it.
    Set,
    /// Everybody: there is none.
    Empty,
}

/// A user, as the databases have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// The comment field, GECOS.
    pub comment: String,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// A group, as the databases have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Group id.
    pub gid: u32,
    /// Its members by name, without those whose primary group it is.
    pub members: Vec<String>,
}

/// All there are.
#[derive(Debug, Default)]
pub struct Accounts {
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, Group>,
    shadow: BTreeMap<String, String>,
    gshadow: BTreeMap<String, String>,
    /// First and last, by name.
    subuids: BTreeMap<String, BTreeSet<Range>>,
    subgids: BTreeMap<String, BTreeSet<Range>>,
}

/// Subordinate ids, the first and the last.
pub type Range = (u64, u64);

/// What is managed of a user, or how that is; what is `None` is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fields {
    /// Whether its home directory is there.
    pub housed: Option<bool>,
    /// User id.
    pub uid: Option<u32>,
    /// Primary group.
    pub group: Option<String>,
    /// Supplementary groups, of those that are declared.
    pub groups: Option<BTreeSet<String>>,
    /// Home directory.
    pub home: Option<String>,
    /// Permission bits of the home directory; 0 when that is missing.
    pub home_mode: Option<u32>,
    /// Login shell.
    pub shell: Option<String>,
    /// Comment.
    pub comment: Option<String>,
    /// Password.
    pub password: Option<Password>,
}

/// What the accounts worker reads: one user or group, what is wanted of it and what was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "sort", rename_all = "lowercase")]
pub enum Request {
    /// A user.
    User(Box<UserRequest>),
    /// A group.
    Group(GroupRequest),
}

/// See [`Request`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRequest {
    /// Its name.
    pub name: String,
    /// What is wanted; `None`: that it goes.
    pub wanted: Option<Fields>,
    /// How it was; `None`: it was not there.
    pub before: Option<Fields>,
    /// Where it is to be made: as an account of the system.
    pub system: bool,
    /// The same: its home.
    pub home: String,
    /// The same: its shell.
    pub shell: String,
    /// Paths that are not there before it is, parents first: its home, what is above it, its mailbox.
    pub fresh: Vec<String>,
    /// The group of its own name was not there either.
    pub fresh_group: bool,
    /// Where it is to go: what brings it back.
    pub removed: Option<Removed>,
    /// The same: groups that the same plan may change, which are no part of the answer.
    pub declared: BTreeSet<String>,
}

/// All of a user that goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// User id.
    pub uid: u32,
    /// Id of its primary group.
    pub gid: u32,
    /// The name of that.
    pub group: Option<String>,
    /// Supplementary groups.
    pub groups: Vec<String>,
    /// Comment.
    pub comment: String,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
    /// Its line in shadow(5), without its name.
    pub shadow: Option<String>,
    /// Subordinate user ids.
    pub subuids: BTreeSet<Range>,
    /// Subordinate group ids.
    pub subgids: BTreeSet<Range>,
    /// Groups whose administrator it is.
    pub administers: Vec<String>,
    /// The line of its primary group in gshadow(5), without its name: a group of its own goes with it.
    pub group_secret: Option<String>,
}

/// See [`Request`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRequest {
    /// Its name.
    pub name: String,
    /// Whether it is wanted.
    pub present: bool,
    /// The id that is wanted, where one is.
    pub gid: Option<u32>,
    /// Made as a group of the system.
    pub system: bool,
    /// How it was: its id and members; `None`: it was not there.
    pub before: Option<(u32, Vec<String>)>,
    /// The same: its line in gshadow(5), without its name.
    pub secret: Option<String>,
    /// Users that the same plan may change, which are no part of the answer where it is to go.
    pub declared: BTreeSet<String>,
}

impl Accounts {
    /// Reads the databases. Lines that are none of theirs are left out, as libc does. `shadow` may be empty where nobody asks for passwords.
    #[must_use]
    pub fn read(passwd: &str, group: &str, shadow: &str) -> Self {
        let user = |line: &str| {
            let [name, _, uid, gid, comment, home, shell] = fields(line)?;
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            Some((name, User { uid, gid, comment, home, shell }))
        };
        let group_of = |line: &str| {
            let [name, _, gid, members] = fields(line)?;
            let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
            Some((name, Group { gid: gid.parse().ok()?, members }))
        };
        let secret = |line: &str| line.split_once(':').map(|(name, rest)| (name.to_owned(), rest.to_owned()));
        Self {
            users: firsts(passwd.lines().filter_map(user)),
            groups: firsts(group.lines().filter_map(group_of)),
            shadow: firsts(shadow.lines().filter_map(secret)),
            ..Self::default()
        }
    }

    /// The same with what goes with accounts.
    #[must_use]
    pub fn with(mut self, gshadow: &str, subuid: &str, subgid: &str) -> Self {
        let secret = |line: &str| line.split_once(':').map(|(name, rest)| (name.to_owned(), rest.to_owned()));
        self.gshadow = firsts(gshadow.lines().filter_map(secret));
        self.subuids = ranges(subuid);
        self.subgids = ranges(subgid);
        self
    }

    /// A user.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// A group.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    /// What a user is, of the fields that are managed. `mode_of` tells the permission bits of a directory, where there is one.
    #[must_use]
    pub fn managed(&self, name: &str, wanted: &Fields, mode_of: impl Fn(&ManagedPath) -> Option<u32>) -> Option<Fields> {
        let user = self.users.get(name)?;
        let is_member = |group: &&String| self.groups.get(*group).is_some_and(|group| group.members.iter().any(|m| m == name));
        let mode = ManagedPath::new(&user.home).ok().and_then(|home| mode_of(&home));
        Some(Fields {
            housed: wanted.housed.map(|_| mode.is_some()),
            uid: wanted.uid.map(|_| user.uid),
            group: wanted.group.as_ref().map(|_| self.name_of(user.gid).unwrap_or_else(|| user.gid.to_string())),
            groups: wanted.groups.as_ref().map(|groups| groups.iter().filter(is_member).cloned().collect()),
            home: wanted.home.as_ref().map(|_| user.home.clone()),
            home_mode: wanted.home_mode.map(|_| mode.unwrap_or_default()),
            shell: wanted.shell.as_ref().map(|_| user.shell.clone()),
            comment: wanted.comment.as_ref().map(|_| user.comment.clone()),
            password: wanted.password.map(|_| self.password(name)),
        })
    }

    /// All of a user that is about to go.
    #[must_use]
    pub fn all_of(&self, name: &str) -> Option<Removed> {
        let User { uid, gid, comment, home, shell } = self.users.get(name)?.clone();
        let groups = self.groups.iter().filter(|(_, group)| group.members.iter().any(|member| member == name));
        let groups = groups.map(|(name, _)| name.clone()).collect();
        let shadow = self.shadow.get(name).cloned();
        let group = self.name_of(gid);
        let is_theirs = |(_, secret): &(&String, &String)| Secret::of(secret).admins.contains(&name);
        Some(Removed {
            uid,
            gid,
            groups,
            comment,
            home,
            shell,
            shadow,
            subuids: self.subuids.get(name).cloned().unwrap_or_default(),
            subgids: self.subgids.get(name).cloned().unwrap_or_default(),
            administers: self.gshadow.iter().filter(is_theirs).map(|(group, _)| group.clone()).collect(),
            group_secret: group.as_ref().and_then(|group| self.secret(group)).map(str::to_owned),
            group,
        })
    }

    /// The line of a group in gshadow(5), without its name.
    #[must_use]
    pub fn secret(&self, group: &str) -> Option<&str> {
        self.gshadow.get(group).map(String::as_str)
    }

    /// Names of users and groups whose id is this or higher.
    #[must_use]
    pub fn names_from(&self, first: u32) -> BTreeSet<String> {
        let users = self.users.iter().filter(|(_, user)| user.uid >= first).map(|(name, _)| name.clone());
        users.chain(self.groups.iter().filter(|(_, group)| group.gid >= first).map(|(name, _)| name.clone())).collect()
    }

    fn name_of(&self, gid: u32) -> Option<String> {
        self.groups.iter().find(|(_, group)| group.gid == gid).map(|(name, _)| name.clone())
    }

    fn password(&self, name: &str) -> Password {
        match self.shadow.get(name).map(|rest| rest.split(':').next().unwrap_or_default()) {
            Some("") => Password::Empty,
            Some(hash) if !hash.starts_with(['!', '*']) => Password::Set,
            _ => Password::Locked,
        }
    }

    /// The answer to a request: what there is of it, as far as it is managed.
    #[must_use]
    pub fn answer(&self, request: &Request, mode_of: impl Fn(&ManagedPath) -> Option<u32>) -> String {
        match request {
            Request::User(user) if user.wanted.is_none() => match (self.all_of(&user.name), &user.removed) {
                (None, _) => ABSENT.to_owned(),
                (Some(now), was) => now.answer(was.as_ref(), &user.declared),
            },
            Request::User(user) => {
                let managed = self.managed(&user.name, user.wanted.as_ref().unwrap_or(&Fields::default()), mode_of);
                managed.map_or_else(|| ABSENT.to_owned(), |fields| fields.to_string())
            }
            Request::Group(group) => match self.groups.get(&group.name) {
                None => ABSENT.to_owned(),
                Some(found) if group.present => group_answer(group.gid.map(|_| found.gid)),
                Some(found) => self.all_of_group(group, found),
            },
        }
    }

    /// All of a group that is to go, so that one that has come back in part is not taken for what it was.
    fn all_of_group(&self, request: &GroupRequest, found: &Group) -> String {
        let is_ours = |member: &&str| !request.declared.contains(*member);
        let members: BTreeSet<&str> = found.members.iter().map(String::as_str).filter(is_ours).collect();
        let secret = request.secret.as_ref().map(|_| {
            let secret = Secret::of(self.secret(&request.name).unwrap_or_default());
            (secret.password, secret.admins.into_iter().filter(is_ours).collect::<BTreeSet<_>>())
        });
        in_all(&(found.gid, members, secret))
    }
}

/// What gshadow(5) says of a group after its name.
#[derive(Debug)]
pub struct Secret<'a> {
    /// Its password.
    pub password: &'a str,
    /// Its administrators.
    pub admins: Vec<&'a str>,
}

impl<'a> Secret<'a> {
    /// Of such a line.
    #[must_use]
    pub fn of(line: &'a str) -> Self {
        let mut fields = line.split(':');
        let password = fields.next().unwrap_or_default();
        Self { password, admins: fields.next().unwrap_or_default().split(',').filter(|admin| !admin.is_empty()).collect() }
    }
}

impl Removed {
    /// All of it in one answer, so that one that has come back in part is not taken for what it was. What was not there is not compared: it
    /// comes with an account that is made.
    fn answer(&self, was: Option<&Self>, declared: &BTreeSet<String>) -> String {
        let group = self.group.as_ref().filter(|group| declared.contains(*group));
        let others = |groups: &[String]| groups.iter().filter(|group| !declared.contains(*group)).cloned().collect();
        // The last field of shadow(5) means nothing, and -1 the same as none.
        let aging = |line: &String| {
            line.split(':').take(7).map(|field| if field == "-1" { "" } else { field }).collect::<Vec<_>>().join(":")
        };
        let is_kept = |of: fn(&Self) -> &Option<String>| was.is_some_and(|was| of(was).is_some());
        let password = |line: &String| Secret::of(line).password.to_owned();
        in_all(&Self {
            gid: if group.is_some() { 0 } else { self.gid },
            groups: others(&self.groups),
            administers: others(&self.administers),
            shadow: self.shadow.as_ref().filter(|_| is_kept(|was| &was.shadow)).map(aging),
            group_secret: self
                .group_secret
                .as_ref()
                .filter(|_| group.is_none() && is_kept(|was| &was.group_secret))
                .map(password),
            ..self.clone()
        })
    }
}

/// So much in one word.
fn in_all(all: &impl Serialize) -> String {
    format!("there, in all {}", Digest::of(&serde_json::to_vec(all).unwrap_or_default()).short())
}

/// Lines of subuid(5): `name:first:count`.
fn ranges(text: &str) -> BTreeMap<String, BTreeSet<Range>> {
    let mut ranges: BTreeMap<String, BTreeSet<Range>> = BTreeMap::new();
    for [name, first, count] in text.lines().filter_map(fields) {
        if let (Ok(first), Ok(count @ 1..)) = (first.parse::<u64>(), count.parse::<u64>()) {
            ranges.entry(name).or_default().insert((first, first.saturating_add(count - 1)));
        }
    }
    ranges
}

impl Request {
    /// The answer once it is done.
    #[must_use]
    pub fn done(&self) -> String {
        match self {
            Self::User(user) => user.wanted.as_ref().map_or_else(|| ABSENT.to_owned(), Fields::to_string),
            Self::Group(GroupRequest { present: true, gid, .. }) => group_answer(*gid),
            Self::Group(_) => ABSENT.to_owned(),
        }
    }
}

fn group_answer(gid: Option<u32>) -> String {
    gid.map_or_else(|| "there".to_owned(), |gid| format!("there, gid {gid}"))
}

/// So many fields of a line; none of another number.
fn fields<const N: usize>(line: &str) -> Option<[String; N]> {
    let fields: Vec<String> = line.split(':').map(str::to_owned).collect();
    fields.try_into().ok()
}

/// Of two entries of one name the first counts, as for libc.
fn firsts<T>(entries: impl Iterator<Item = (String, T)>) -> BTreeMap<String, T> {
    let mut firsts = BTreeMap::new();
    for (name, entry) in entries {
        firsts.entry(name).or_insert(entry);
    }
    firsts
}

impl Fields {
    /// What is managed, in words, in one order.
    #[must_use]
    pub fn words(&self) -> Vec<(&'static str, String)> {
        let listed = |groups: &BTreeSet<String>| match groups.len() {
            0 => "none".to_owned(),
            _ => groups.iter().map(String::as_str).collect::<Vec<_>>().join(","),
        };
        let words = [
            ("home directory", self.housed.map(|housed| if housed { "there" } else { "missing" }.to_owned())),
            ("uid", self.uid.map(|uid| uid.to_string())),
            ("group", self.group.clone()),
            ("groups", self.groups.as_ref().map(listed)),
            ("home", self.home.clone()),
            ("home_mode", self.home_mode.map(|mode| format!("{mode:04o}"))),
            ("shell", self.shell.clone()),
            ("comment", self.comment.as_ref().map(|comment| format!("\"{}\"", crate::path::escape(comment)))),
            ("password", self.password.map(|password| format!("{password:?}").to_lowercase())),
        ];
        words.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there")?;
        self.words().iter().try_for_each(|(key, value)| write!(f, ", {key} {value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Accounts, Fields, GroupRequest, Password, Removed, Request, UserRequest};
    use crate::path::ManagedPath;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nana:x:1000:1000:Ana,,,:/home/ana:/bin/sh\ntorn:x:1\n\
        bob:x:1001:33::/home/bob:/bin/bash\nana:x:7:7::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nana:x:1000:\nwww-data:x:33:ana,bob\nadm:x:4:\n";
    const SHADOW: &str = "root:*:19000::::::\nana:$y$abc:19000:0:99999:7:::\nbob::1:::::\n";

    #[test]
    fn answers() {
        let accounts = Accounts::read(PASSWD, GROUP, SHADOW);
        let mode_of = |path: &ManagedPath| (path.as_str() == "/home/ana").then_some(0o700);
        let of = |name: &str, wanted: Fields| {
            let request = UserRequest { name: name.to_owned(), wanted: Some(wanted), ..UserRequest::default() };
            accounts.answer(&Request::User(Box::new(request)), mode_of)
        };
        let text = |word: &str| Some(word.to_owned());
        let groups = Some(["adm", "www-data", "none"].map(str::to_owned).into());
        let all = Fields {
            housed: Some(true),
            uid: Some(1),
            group: text("x"),
            groups,
            home: text("/x"),
            home_mode: Some(0o711),
            shell: text("/x"),
            comment: text("x"),
            password: Some(Password::Locked),
        };
        assert_eq!(
            of("ana", all.clone()),
            "there, home directory there, uid 1000, group ana, groups www-data, home /home/ana, home_mode 0700, shell /bin/sh, \
             comment \"Ana,,,\", password set"
        );
        assert_eq!(
            of("bob", all),
            "there, home directory missing, uid 1001, group www-data, groups www-data, home /home/bob, home_mode 0000, \
             shell /bin/bash, comment \"\", password empty"
        );
        assert_eq!(of("ana", Fields::default()), "there");
        assert_eq!(of("root", Fields { password: Some(Password::Locked), ..Fields::default() }), "there, password locked");
        assert_eq!(of("torn", Fields::default()), "absent");
        let group = |name: &str, gid| {
            let name = name.to_owned();
            accounts.answer(&Request::Group(GroupRequest { name, gid, present: true, ..GroupRequest::default() }), |_| None)
        };
        assert_eq!([group("adm", None), group("adm", Some(9)), group("x", None)], ["there", "there, gid 4", "absent"]);
    }

    #[test]
    fn what_has_come_back_in_part_is_not_what_it_was() {
        let (gshadow, subuid) = ("ana:!::\nwww-data:x:bob:ana,bob\nadm:*::\n", "bob:100000:65536\nroot:1:1\nbob:5:0\n");
        let accounts = Accounts::read(PASSWD, GROUP, SHADOW).with(gshadow, subuid, "bob:7:3\n");
        let removed = accounts.all_of("bob").unwrap();
        assert_eq!((removed.subuids.len(), &removed.administers), (1, &vec!["www-data".to_owned()]));
        assert!(removed.subuids.contains(&(100_000, 165_535)) && removed.subgids.contains(&(7, 9)));
        let user = |declared: &[&str]| {
            let declared = declared.iter().map(|name| (*name).to_owned()).collect();
            let removed = Some(removed.clone());
            Request::User(Box::new(UserRequest { name: "bob".to_owned(), removed, declared, ..UserRequest::default() }))
        };
        let group = |declared: &[&str]| {
            let (declared, secret) = (declared.iter().map(|name| (*name).to_owned()).collect(), Some(String::new()));
            Request::Group(GroupRequest { name: "www-data".to_owned(), secret, declared, ..GroupRequest::default() })
        };
        let answer = |accounts: &Accounts, request: &Request| accounts.answer(request, |_| None);
        for (passwd, shadow, group_text, gshadow, subuid) in [
            (PASSWD.replace("1001", "1002"), SHADOW.to_owned(), GROUP.to_owned(), gshadow.to_owned(), subuid),
            (PASSWD.to_owned(), SHADOW.replace("bob::1", "bob:!:1"), GROUP.to_owned(), gshadow.to_owned(), subuid),
            (PASSWD.to_owned(), SHADOW.replace("bob::1:", "bob::1:7"), GROUP.to_owned(), gshadow.to_owned(), subuid),
            (PASSWD.to_owned(), SHADOW.to_owned(), GROUP.replace("ana,bob", "ana"), gshadow.to_owned(), subuid),
            (PASSWD.to_owned(), SHADOW.to_owned(), GROUP.to_owned(), gshadow.replace("x:bob", "x:"), subuid),
            (PASSWD.to_owned(), SHADOW.to_owned(), GROUP.to_owned(), gshadow.to_owned(), ""),
        ] {
            let other = Accounts::read(&passwd, &group_text, &shadow).with(&gshadow, subuid, "bob:7:3\n");
            assert_ne!(answer(&accounts, &user(&[])), answer(&other, &user(&[])));
        }
        // What the same plan changes of groups and of their members is judged there.
        let other =
            Accounts::read(PASSWD, &GROUP.replace("ana,bob", "ana"), SHADOW).with("www-data:x::ana\n", subuid, "bob:7:3\n");
        assert_eq!(answer(&accounts, &user(&["www-data"])), answer(&other, &user(&["www-data"])));
        assert_ne!(answer(&accounts, &group(&[])), answer(&other, &group(&[])));
        assert_eq!(answer(&accounts, &group(&["bob"])), answer(&other, &group(&["bob"])));
        // A missing line is not made up for: the programs write one.
        let bare = Removed { shadow: None, ..removed.clone() };
        let request = UserRequest { name: "bob".to_owned(), removed: Some(bare), ..UserRequest::default() };
        let request = Request::User(Box::new(request));
        let unlike = Accounts::read(PASSWD, GROUP, "").with(gshadow, subuid, "bob:7:3\n");
        assert_eq!(answer(&accounts, &request), answer(&unlike, &request));
    }

    #[test]
    fn all_of_one_that_goes() {
        let accounts = Accounts::read(PASSWD, GROUP, SHADOW);
        let bob = accounts.all_of("bob").unwrap();
        assert_eq!(
            (bob.uid, bob.group.as_deref(), bob.groups.as_slice()),
            (1001, Some("www-data"), ["www-data".to_owned()].as_slice())
        );
        assert_eq!(bob.shadow.as_deref(), Some(":1:::::"));
        assert_eq!(accounts.all_of("nobody-here"), None);
    }
}
