//! The names that templates and expressions know, and what somebody meant who wrote another.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::Value;

use super::Context;
use super::suggest::nearest;
use super::vars::VARS;
use crate::source::Snapshot;

const FACTS: &str = "facts";
const SECRETS: &str = "secrets";
/// Endings of sealed secrets.
const SEALS: [&str; 2] = [".age", ".cred"];
/// Stands for a secret that nobody has opened.
pub(crate) const UNSEALED: &str = "(sealed)";
/// So many names are listed.
const LISTED: usize = 12;

/// What is rendered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// A string of the manifest: it sees no secrets.
    Expression,
    /// A file.
    Template,
}

/// What there is to name.
pub(super) struct Scope {
    pub(super) vars: Value,
    facts: Value,
    /// What each secret holds; `None` where nobody has opened it.
    pub(super) secrets: Arc<BTreeMap<String, Option<Vec<u8>>>>,
}

impl Scope {
    pub(super) fn new(snapshot: &Snapshot, context: &Context, vars: Value, facts: Value) -> Self {
        let inside = format!("{SECRETS}/");
        let paths = snapshot.entries.range(inside.clone()..).map_while(|(path, _)| path.strip_prefix(&inside));
        let sealed = paths.filter_map(|path| SEALS.iter().find_map(|seal| path.strip_suffix(seal)));
        let mut secrets: BTreeMap<String, Option<Vec<u8>>> = sealed.map(|name| (name.to_owned(), None)).collect();
        secrets.extend(context.secrets.iter().map(|(name, value)| (name.clone(), Some(value.clone()))));
        Self { vars, facts, secrets: Arc::new(secrets) }
    }

    /// All secrets by name, none of them told.
    pub(super) fn placeholders(&self) -> Arc<BTreeMap<String, Option<Vec<u8>>>> {
        Arc::new(self.secrets.keys().map(|name| (name.clone(), Some(UNSEALED.as_bytes().to_vec()))).collect())
    }

    /// What is undefined, and what to write instead. `detail` is what the engine says, `at` what stands at the place.
    pub(super) fn explain_undefined(&self, detail: &str, at: &str, sort: Sort) -> (String, String) {
        let quoted = detail.split_once("` is undefined").and_then(|(before, _)| Some(before.rsplit_once('`')?.1));
        let path = quoted.unwrap_or(at).trim();
        let message = if quoted.is_some() { detail.to_owned() } else { format!("`{path}` is undefined") };
        (message, self.remedy(path, sort))
    }

    fn remedy(&self, path: &str, sort: Sort) -> String {
        let mut steps = path.split(['.', '[']);
        match steps.next().unwrap_or_default() {
            SECRETS if sort == Sort::Expression => {
                "secrets are only seen by templates: put it in a file under files/ that ends in .j2".to_owned()
            }
            SECRETS => self.remedy_for_secret(steps.next().unwrap_or_default()),
            VARS => missing(&self.vars, VARS, steps, "add it to [vars]"),
            FACTS if path == "facts.postgresql.version" => "PostgreSQL is not installed: facts are read before a push installs \
                anything; install it by a push of its own first, or write facts.postgresql.version | default(15)"
                .to_owned(),
            FACTS => missing(&self.facts, FACTS, steps, "this host does not have it"),
            other => self.remedy_for_root(other, sort),
        }
    }

    fn remedy_for_secret(&self, name: &str) -> String {
        match nearest(name, self.secrets.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `secrets.{near}`?"),
            None => format!("seal it with `ssh HOST reconcilectl secret seal <plain >secrets/{name}.age`, and commit that"),
        }
    }

    /// A name that stands alone: a variable without `vars.`, or another word for what there is.
    fn remedy_for_root(&self, name: &str, sort: Sort) -> String {
        for (root, value) in [(VARS, &self.vars), (FACTS, &self.facts)] {
            if names(value).iter().any(|known| known == name) {
                return format!("did you mean `{root}.{name}`?");
            }
        }
        if !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            return "look at what stands before it".to_owned();
        }
        let roots: &[&str] = if sort == Sort::Expression { &[VARS, FACTS] } else { &[VARS, FACTS, SECRETS] };
        match nearest(name, roots.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", roots.join(", ")),
        }
    }
}

/// Walks along a path as far as it leads; says which of the names there was meant.
fn missing<'p>(root: &Value, called: &str, steps: impl Iterator<Item = &'p str>, otherwise: &str) -> String {
    let (mut here, mut walked) = (root.clone(), called.to_owned());
    for step in steps {
        match here.get_attr(step) {
            Ok(next) if !next.is_undefined() => {
                here = next;
                walked = format!("{walked}.{step}");
            }
            _ => {
                let known = names(&here);
                if let Some(near) = nearest(step, known.iter().map(String::as_str)) {
                    return format!("did you mean `{walked}.{near}`?");
                }
                let list = known.into_iter().take(LISTED).collect::<Vec<_>>().join(", ");
                return if list.is_empty() { otherwise.to_owned() } else { format!("{otherwise} ({walked} has: {list})") };
            }
        }
    }
    otherwise.to_owned()
}

/// The keys of a table; a list has none.
fn names(value: &Value) -> Vec<String> {
    let keys = value.try_iter().ok().filter(|_| value.kind() == minijinja::value::ValueKind::Map);
    keys.into_iter().flatten().filter_map(|key| key.as_str().map(str::to_owned)).collect()
}
