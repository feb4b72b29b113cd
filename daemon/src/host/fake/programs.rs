//! What the fake host's programs do: our own workers that install packages, speak with PostgreSQL, build environments; and a few that
//! commands name. What they keep stands in the tree, as on a real host.

use std::collections::BTreeMap;

use super::jobs::exited;
use super::{Node, World, postgres};
use crate::accounts::{GROUP, PASSWD};
use crate::change::ABSENT;
use crate::host::{Job, Ran};
use crate::packages::{Packages, STATUS};
use crate::venv::Request;
use crate::worker::command::Request as Command;

impl World {
    /// A step that a program makes, or its question.
    pub(super) fn program(&mut self, job: &Job) -> Ran {
        let words: Vec<&str> = job.argv.iter().map(String::as_str).collect();
        match words.as_slice() {
            [_, "worker", "packages", verb, "--", names @ ..] => self.packages(verb, names, &job.input),
            [_, "worker", "accounts", verb] => self.accounts(verb, &job.input),
            [_, "worker", "postgres"] => self.postgres(&job.input),
            [_, "worker", "command"] => self.command(&job.input),
            [_, "worker", "venv", verb] => self.venv(verb, &job.input),
            [_, "worker", "ufw", verb] => self.ufw(verb, &job.input),
            _ => exited(127, Vec::new(), "no such program"),
        }
    }

    /// A look of a kind.
    pub(super) fn looked(&mut self, job: &Job) -> Ran {
        match job.argv.get(2).map(String::as_str) {
            Some("postgres") if self.deaf => exited(1, Vec::new(), "PostgreSQL does not run"),
            Some("postgres") => postgres::look(&postgres::Cluster::of(self), &job.input),
            _ => self.program(job),
        }
    }

    fn postgres(&mut self, input: &[u8]) -> Ran {
        let mut cluster = postgres::Cluster::of(self);
        let ran = postgres::meet(&mut cluster, input);
        cluster.keep(self);
        ran
    }

    /// `… migrate`, its question and its way back; `… count` and `… uncount`, which tell how often; and one that fails.
    fn command(&mut self, input: &[u8]) -> Ran {
        const MIGRATED: &str = "/srv/migrated";
        const COUNTED: &str = "/srv/counted";
        let request: Command = serde_json::from_slice(input).unwrap();
        let words: Vec<&str> = request.argv.iter().map(String::as_str).collect();
        match words.as_slice() {
            [.., "migrate", "--check"] => return exited(i32::from(!self.tree.contains_key(MIGRATED)), Vec::new(), ""),
            [.., "migrate"] => self.file(MIGRATED, ""),
            [.., "migrate", _, _] => drop(self.tree.remove(MIGRATED)),
            [.., "count"] => {
                let counted = self.text(COUNTED).unwrap_or_default();
                self.file(COUNTED, &format!("{counted}|"));
            }
            [.., "uncount"] => match self.text(COUNTED).unwrap_or_default().strip_suffix('|') {
                None | Some("") => drop(self.tree.remove(COUNTED)),
                Some(counted) => {
                    let counted = counted.to_owned();
                    self.file(COUNTED, &counted);
                }
            },
            [.., "leak"] => return exited(127, Vec::new(), &format!("no program takes {}", request.environment["PW"])),
            _ => return exited(1, Vec::new(), "it went wrong"),
        }
        exited(0, Vec::new(), "")
    }

    /// An environment is its folder and its stamp.
    fn venv(&mut self, verb: &str, input: &[u8]) -> Ran {
        let request: Request = serde_json::from_slice(input).unwrap();
        let (path, aside) = (request.path.clone(), request.aside());
        let answer = |world: &Self, place: &str| world.text(&format!("{place}/.reconciled")).unwrap_or_else(|| ABSENT.to_owned());
        let (here, waiting) = (answer(self, &path), answer(self, &aside));
        let wanted = match verb {
            "ask" => return exited(0, format!("{here}\n").into_bytes(), ""),
            "build" if waiting != request.after && (self.offline || request.requirements.contains("no-such")) => {
                return exited(1, Vec::new(), "no-such: no distribution found");
            }
            "build" => &request.after,
            "remove" => ABSENT,
            "back" => &request.before,
            _ => return exited(2, Vec::new(), "no such verb"),
        };
        let parent = path.rsplit_once('/').unwrap().0;
        if here == wanted {
            return exited(0, Vec::new(), "");
        }
        if !self.tree.contains_key(parent) || (verb == "back" && wanted != ABSENT && wanted != waiting) {
            return exited(1, Vec::new(), "no such file or directory");
        }
        let others = if verb == "back" { ABSENT } else { &here };
        for (place, answer) in [(&path, wanted), (&aside, others)] {
            self.tree.retain(|p, _| p != place && !p.starts_with(&format!("{place}/")));
            if answer != ABSENT {
                self.dir(place);
                self.file(&format!("{place}/.reconciled"), answer);
            }
        }
        exited(0, Vec::new(), "")
    }

    fn packages(&mut self, verb: &str, names: &[&str], input: &[u8]) -> Ran {
        let status = match self.tree.get(STATUS) {
            Some(Node::File { content, .. }) => String::from_utf8_lossy(content).into_owned(),
            _ => String::new(),
        };
        let known = Packages::read(&status);
        let plain = |census: BTreeMap<String, String>| -> BTreeMap<String, String> {
            let word = |(name, status): (String, String)| {
                (name.trim_end_matches(':').to_owned(), status.split(' ').next().unwrap().to_owned())
            };
            census.into_iter().map(word).collect()
        };
        let mut installed = plain(known.census());
        match verb {
            "ask" => {
                let answers: String = names.iter().map(|name| format!("{}\n", known.answer(name))).collect();
                return exited(0, answers.into_bytes(), "");
            }
            "install" => installed.extend(names.iter().map(|name| ((*name).to_owned(), "installed".to_owned()))),
            "remove" => installed.retain(|name, _| !names.contains(&name.as_str())),
            "undo" => installed = plain(serde_json::from_slice::<crate::packages::Request>(input).unwrap().census),
            _ => return exited(2, Vec::new(), "no such verb"),
        }
        // As Debian's own: it comes with its account.
        let account = installed.contains_key("redis-server").then_some("redis:x:107:107::/var/lib/redis:/usr/sbin/nologin");
        if account.is_none() || self.databases().user("redis").is_none() {
            self.line(PASSWD, "redis", account.map(str::to_owned));
            self.line(GROUP, "redis", account.map(|_| "redis:x:107:".to_owned()));
        }
        let stanza = |(name, status): (&String, &String)| format!("Package: {name}\nStatus: install ok {status}\nVersion: 1\n\n");
        self.file(STATUS, &installed.iter().map(stanza).collect::<String>());
        exited(0, Vec::new(), "")
    }
}
