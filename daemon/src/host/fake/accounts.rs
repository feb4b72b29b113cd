//! Users and groups of the fake host, and what our own worker does with them. They stand in the tree, as on a real host.

use super::jobs::exited;
use super::{Node, World};
use crate::accounts::{Accounts, Fields, GROUP, GroupRequest, PASSWD, Request, SHADOW, UserRequest};
use crate::change::DirFacts;
use crate::host::{Account, Ran};
use crate::path::ManagedPath;

impl World {
    pub(super) fn databases(&self) -> Accounts {
        let text = |path: &str| self.text(path).unwrap_or_default();
        Accounts::read(&text(PASSWD), &text(GROUP), &text(SHADOW))
    }

    pub(super) fn passwd(&self) -> Vec<Account> {
        let text = self.text(PASSWD).unwrap_or_default();
        let accounts = self.databases();
        let names = text.lines().filter_map(|line| line.split(':').next());
        let account = |name: &str| {
            let user = accounts.user(name)?;
            Some(Account { name: name.to_owned(), uid: user.uid, gid: user.gid, home: user.home.clone() })
        };
        names.filter_map(account).collect()
    }

    pub(super) fn accounts(&mut self, verb: &str, input: &[u8]) -> Ran {
        let request: Request = serde_json::from_slice(input).unwrap();
        match (verb, &request) {
            ("ask", _) => {}
            ("set" | "undo", Request::User(user)) => self.user(verb, user),
            ("set" | "undo", Request::Group(group)) => self.group(verb, group),
            _ => return exited(2, Vec::new(), "no such verb"),
        }
        let mode_of = |path: &ManagedPath| match self.tree.get(path.as_str()) {
            Some(Node::Dir(facts)) => Some(facts.mode),
            _ => None,
        };
        exited(0, self.databases().answer(&request, mode_of).into_bytes(), "")
    }

    /// Puts a line in the place of that of a name, at the end where there is none, or takes it away.
    pub(super) fn line(&mut self, path: &str, name: &str, line: Option<String>) {
        let begins = format!("{name}:");
        let text = self.text(path).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        match (lines.iter().position(|old| old.starts_with(&begins)), line) {
            (Some(place), Some(line)) => lines[place] = line,
            (Some(place), None) => drop(lines.remove(place)),
            (None, line) => lines.extend(line),
        }
        self.file(path, &lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    }

    fn group(&mut self, verb: &str, request: &GroupRequest) {
        let (present, gid) = match verb {
            "set" => (request.present, request.gid),
            _ => (request.before.is_some(), request.before.as_ref().map(|(gid, _)| *gid)),
        };
        let now = self.databases().group(&request.name).cloned();
        let members = now.as_ref().map(|group| group.members.join(",")).unwrap_or_default();
        let gid = gid.or(now.map(|group| group.gid)).unwrap_or(2000);
        self.line(GROUP, &request.name, present.then(|| format!("{}:x:{gid}:{members}", request.name)));
    }

    fn user(&mut self, verb: &str, request: &UserRequest) {
        let to = if verb == "set" { &request.wanted } else { &request.before };
        let Some(to) = to else {
            self.line(PASSWD, &request.name, None);
            self.join(&request.name, &Fields::default());
            if verb == "undo" {
                self.line(GROUP, &request.name, None);
                request.fresh.iter().for_each(|path| drop(self.tree.remove(path)));
            }
            return;
        };
        if self.databases().user(&request.name).is_none() {
            self.line(GROUP, &request.name, Some(format!("{}:x:1001:", request.name)));
            let line = format!("{}:x:1001:1001::{}:{}", request.name, request.home, request.shell);
            self.line(PASSWD, &request.name, Some(line));
        }
        let user = self.databases().user(&request.name).unwrap().clone();
        let (uid, shell) = (to.uid.unwrap_or(user.uid), to.shell.clone().unwrap_or(user.shell));
        let home = to.home.clone().unwrap_or(user.home);
        let line = format!("{}:x:{uid}:{}:{}:{home}:{shell}", request.name, user.gid, user.comment);
        self.line(PASSWD, &request.name, Some(line));
        self.join(&request.name, to);
        match to.housed {
            Some(true) => {
                let mut facts = match self.tree.get(&home) {
                    Some(Node::Dir(facts)) => *facts,
                    _ => DirFacts { mode: 0o700, uid, gid: user.gid },
                };
                facts.mode = to.home_mode.unwrap_or(facts.mode);
                self.tree.insert(home, Node::Dir(facts));
            }
            Some(false) => drop(self.tree.remove(&home)),
            None => {}
        }
    }

    /// Puts a user into exactly these groups.
    fn join(&mut self, name: &str, to: &Fields) {
        let text = self.text(GROUP).unwrap_or_default();
        for line in text.lines() {
            let (begin, members) = line.rsplit_once(':').unwrap();
            let group = begin.split(':').next().unwrap();
            let mut members: Vec<&str> = members.split(',').filter(|member| !member.is_empty() && *member != name).collect();
            members.extend(to.groups.iter().flatten().any(|wanted| wanted == group).then_some(name));
            self.line(GROUP, group, Some(format!("{begin}:{}", members.join(","))));
        }
    }
}
