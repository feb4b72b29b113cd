//! What the fake host's programs do: our own workers that install packages, and speak with PostgreSQL. What they keep stands in the tree, as on a real host.

use std::collections::BTreeMap;

use super::jobs::exited;
use super::{Node, World, postgres};
use crate::host::{Job, Ran};
use crate::packages::{Packages, STATUS};

impl World {
    /// A step that a program makes, or its question.
    pub(super) fn program(&mut self, job: &Job) -> Ran {
        let words: Vec<&str> = job.argv.iter().map(String::as_str).collect();
        match words.as_slice() {
            [_, "worker", "packages", verb, "--", names @ ..] => self.packages(verb, names, &job.input),
            [_, "worker", "accounts", verb] => self.accounts(verb, &job.input),
            [_, "worker", "postgres"] => self.postgres(&job.input),
            _ => exited(127, Vec::new(), "no such program"),
        }
    }

    /// A look of a kind.
    pub(super) fn looked(&self, job: &Job) -> Ran {
        postgres::look(&postgres::Cluster::of(self), &job.input)
    }

    fn postgres(&mut self, input: &[u8]) -> Ran {
        let mut cluster = postgres::Cluster::of(self);
        let ran = postgres::meet(&mut cluster, input);
        cluster.keep(self);
        ran
    }

    fn packages(&mut self, verb: &str, names: &[&str], input: &[u8]) -> Ran {
        let status = match self.tree.get(STATUS) {
            Some(Node::File { content, .. }) => String::from_utf8_lossy(content).into_owned(),
            _ => String::new(),
        };
        let known = Packages::read(&status);
        let census = |packages: &Packages| -> BTreeMap<String, String> {
            packages.census().into_iter().map(|(name, status)| (name.to_owned(), status.to_owned())).collect()
        };
        let mut installed = census(&known);
        match verb {
            "ask" => {
                let answers: String = names.iter().map(|name| format!("{}\n", known.answer(name))).collect();
                return exited(0, answers.into_bytes(), "");
            }
            "install" => installed.extend(names.iter().map(|name| ((*name).to_owned(), "installed".to_owned()))),
            "remove" => installed.retain(|name, _| !names.contains(&name.as_str())),
            "undo" => installed = serde_json::from_slice(input).unwrap(),
            _ => return exited(2, Vec::new(), "no such verb"),
        }
        let stanza = |(name, status): (&String, &String)| format!("Package: {name}\nStatus: install ok {status}\nVersion: 1\n\n");
        self.file(STATUS, &installed.iter().map(stanza).collect::<String>());
        exited(0, Vec::new(), "")
    }
}
