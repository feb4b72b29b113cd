//! The order in which resources are looked at and changed: by phase, then as they are declared, but after what they name. Pure.

use std::collections::BTreeMap;

use serde::Deserialize as _;

use crate::kind::{self, Kind};
use crate::manifest::Resource;

/// Longest chain of `after`.
const DEPTH: usize = 256;

/// A resource and what it is.
pub type Known<'r> = (&'r Resource, &'static dyn Kind);

/// Brings resources into order.
///
/// # Errors
/// For a kind that is not known, and for an `after` that cannot be.
pub fn of(resources: &[Resource]) -> Result<Vec<Known<'_>>, String> {
    let known = |r: &Resource| format!("this version knows no kind `{}`", r.kind);
    let mut all: Vec<Known<'_>> =
        resources.iter().map(|r| Ok((r, kind::find(&r.kind).ok_or_else(|| known(r))?))).collect::<Result<_, String>>()?;
    all.sort_by_key(|(_, kind)| kind.phase());
    if all.iter().all(|(resource, _)| after(resource).is_empty()) {
        return Ok(all);
    }
    let places = all.iter().enumerate().map(|(place, (resource, _))| (id(resource), place)).collect();
    let mut queue = Queue { places, all, state: Vec::new(), order: Vec::new() };
    queue.state = vec![State::Waiting; queue.all.len()];
    for place in 0..queue.all.len() {
        queue.put(place, 0)?;
    }
    Ok(queue.order)
}

fn id(resource: &Resource) -> String {
    format!("{}:{}", resource.kind, resource.name)
}

/// What a resource comes after, as it declares it.
fn after(resource: &Resource) -> Vec<String> {
    resource.spec.get("after").and_then(|value| Vec::deserialize(value).ok()).unwrap_or_default()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// What it comes after is being put.
    Asked,
    Put,
}

struct Queue<'r> {
    all: Vec<Known<'r>>,
    places: BTreeMap<String, usize>,
    state: Vec<State>,
    order: Vec<Known<'r>>,
}

impl Queue<'_> {
    /// Puts a resource behind what it comes after.
    fn put(&mut self, place: usize, depth: usize) -> Result<(), String> {
        let (resource, kind) = self.all[place];
        if depth > DEPTH {
            return Err(format!(
                "{}: `after` leads through more than {DEPTH} others: declare them in their order",
                resource.origin
            ));
        }
        if self.state[place] == State::Put {
            return Ok(());
        }
        self.state[place] = State::Asked;
        for name in after(resource) {
            let fault = |why: &str| format!("{}: `after` names {}, {why}", resource.origin, crate::path::escape(&name));
            let Some(earlier) = self.places.get(&name).copied() else {
                return Err(fault("which is not declared: write kind:name of what is, as \"command:migrate\""));
            };
            if self.all[earlier].1.phase() > kind.phase() {
                return Err(fault(&format!("which comes later than any {}: remove it", kind.kind())));
            }
            match self.state[earlier] {
                State::Asked => return Err(fault("which comes after it: remove one of the two")),
                State::Waiting => self.put(earlier, depth + 1)?,
                State::Put => {}
            }
        }
        self.state[place] = State::Put;
        self.order.push((resource, kind));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{id, of};
    use crate::manifest::{Origin, Resource};

    fn ordered(list: &[(&str, &[&str])]) -> String {
        let resource = |(id, after): &(&str, &[&str])| {
            let (kind, name) = id.split_once(':').unwrap();
            let spec = serde_json::json!({ "after": after });
            let origin = Origin { file: "reconciled.toml".to_owned(), line: 1, column: 1 };
            Resource { kind: kind.to_owned(), name: name.to_owned(), spec, origin }
        };
        let resources: Vec<Resource> = list.iter().map(resource).collect();
        match of(&resources) {
            Ok(order) => order.iter().map(|(resource, _)| id(resource)).collect::<Vec<_>>().join(" "),
            Err(why) => why,
        }
    }

    #[test]
    fn a_chain_ends() {
        let names: Vec<(String, String)> = (0..300).map(|n| (format!("command:{n}"), format!("command:{}", n + 1))).collect();
        let afters: Vec<[&str; 1]> = names.iter().map(|(_, after)| [after.as_str()]).collect();
        let mut list: Vec<(&str, &[&str])> =
            names.iter().zip(&afters).map(|((name, _), after)| (name.as_str(), &after[..])).collect();
        list.push(("command:300", &[]));
        assert!(ordered(&list).contains("through more than 256 others"), "{}", ordered(&list));
        assert!(ordered(&list[200..]).starts_with("command:300 command:299"));
    }

    #[test]
    fn by_phase_then_as_declared_but_after_what_is_named() {
        let declared: &[(&str, &[&str])] = &[
            ("unit:u.service", &[]),
            ("command:b", &["command:c"]),
            ("command:a", &[]),
            ("command:c", &["venv:/v"]),
            ("venv:/v", &[]),
        ];
        assert_eq!(ordered(declared), "venv:/v command:c command:b command:a unit:u.service");
        assert_eq!(ordered(&[("command:b", &[]), ("file:/a", &[]), ("command:a", &[])]), "file:/a command:b command:a");
        for (list, why) in [
            (&[("command:a", &["command:x"] as &[&str])] as &[(&str, &[&str])], "names command:x, which is not declared"),
            (&[("command:a", &["command:b"]), ("command:b", &["command:a"])], "names command:a, which comes after it"),
            (&[("command:a", &["command:a"])], "which comes after it"),
            (&[("command:a", &["unit:u.service"]), ("unit:u.service", &[])], "which comes later than any command"),
            (&[("nonsense:a", &[])], "knows no kind `nonsense`"),
        ] {
            assert!(ordered(list).contains(why), "{}", ordered(list));
        }
    }
}
