//! Which files define a unit, in the order in which systemd reads them (systemd.unit(5), "Unit File Load Path"). Pure.

use std::collections::BTreeMap;

use super::template_of;

/// Where PID 1 looks, what is found first wins.
const LOAD_PATH: [&str; 9] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/generator.late",
];

/// The unit's own file, if there is one, and then its drop-ins. `names` lists what is in a directory.
#[must_use]
pub fn of_unit(unit: &str, names: &dyn Fn(&str) -> Vec<String>) -> Vec<String> {
    let mut files: Vec<String> = own_file(unit, names).into_iter().collect();
    files.extend(drop_ins(unit, names));
    files
}

fn own_file(unit: &str, names: &dyn Fn(&str) -> Vec<String>) -> Option<String> {
    let template = template_of(unit);
    [Some(unit), template.as_deref()].into_iter().flatten().find_map(|name| {
        let holds = |dir: &&&str| names(dir).iter().any(|entry| entry == name);
        LOAD_PATH.iter().find(holds).map(|dir| format!("{dir}/{name}"))
    })
}

/// A unit's drop-ins, sorted by their names; of two with one name the first that is found counts.
#[must_use]
pub fn drop_ins(unit: &str, names: &dyn Fn(&str) -> Vec<String>) -> Vec<String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let own = drop_in_directories(unit);
    // Those of all units of a type come after all others, wherever they are.
    let of_type: Vec<String> = unit.rsplit_once('.').map(|(_, suffix)| format!("{suffix}.d")).into_iter().collect();
    for (directories, place) in [&own, &of_type].into_iter().flat_map(|d| LOAD_PATH.iter().map(move |place| (d, place))) {
        let there = names(place);
        for directory in directories.iter().filter(|d| there.contains(d)) {
            let path = format!("{place}/{directory}");
            let is_drop_in = |file: &String| file.ends_with(".conf") && !file.starts_with('.');
            for file in names(&path).into_iter().filter(is_drop_in) {
                let whole = format!("{path}/{file}");
                found.entry(file).or_insert(whole);
            }
        }
    }
    found.into_values().collect()
}

/// Whether a unit has the drop-ins that are kept under a name: `a-.service` and `service` of `a-b.service`.
#[must_use]
pub fn takes_drop_ins_of(unit: &str, name: &str) -> bool {
    let is_of_type = unit.rsplit_once('.').is_some_and(|(_, suffix)| suffix == name);
    is_of_type || drop_in_directories(unit).iter().any(|dir| dir.strip_suffix(".d") == Some(name))
}

/// `a-b@1.service.d`, `a-b@.service.d`, `a-.service.d`.
fn drop_in_directories(unit: &str) -> Vec<String> {
    let Some((stem, suffix)) = unit.rsplit_once('.') else { return Vec::new() };
    let mut names = vec![unit.to_owned()];
    names.extend(template_of(unit));
    let prefix = stem.split('@').next().unwrap_or(stem);
    let dashes: Vec<usize> = prefix.match_indices('-').map(|(at, _)| at).collect();
    names.extend(dashes.into_iter().rev().filter(|at| *at + 1 < prefix.len()).map(|at| format!("{}.{suffix}", &prefix[..=at])));
    names.into_iter().map(|name| format!("{name}.d")).collect()
}

/// The same path without the link that `/lib` is.
#[must_use]
pub fn real(path: &str) -> String {
    path.strip_prefix("/lib/").map_or_else(|| path.to_owned(), |rest| format!("/usr/lib/{rest}"))
}

#[cfg(test)]
mod tests {
    use super::of_unit;

    fn files(unit: &str, tree: &[&str]) -> Vec<String> {
        let names = |dir: &str| {
            let below = format!("{dir}/");
            let first = |path: &&str| path.strip_prefix(&below).and_then(|rest| rest.split('/').next().map(str::to_owned));
            tree.iter().filter_map(first).collect()
        };
        of_unit(unit, &names)
    }

    #[test]
    fn the_first_own_file_and_all_drop_ins_by_name() {
        let (etc, usr) = ("/etc/systemd/system", "/usr/lib/systemd/system");
        let tree = [
            format!("{usr}/a.service"),
            format!("{usr}/a.service.d/20.conf"),
            format!("{usr}/a.service.d/10.conf"),
            format!("{usr}/service.d/30.conf"),
            format!("{etc}/a.service.d/20.conf"),
            format!("{etc}/a.service.d/README"),
            format!("{etc}/a.service.d/.hidden.conf"),
            format!("{usr}/w@.service"),
            format!("{etc}/w@2.service"),
            format!("{etc}/w@.service.d/x.conf"),
            format!("{etc}/w@2.service.d/y.conf"),
            format!("{usr}/a-b-c.service"),
            format!("{usr}/a-b-.service.d/1.conf"),
            format!("{usr}/a-.service.d/2.conf"),
            format!("{usr}/a-b-c-.service.d/3.conf"),
        ];
        let tree: Vec<&str> = tree.iter().map(String::as_str).collect();
        let common = format!("{usr}/service.d/30.conf");
        for (unit, expected) in [
            (
                "a.service",
                vec![
                    format!("{usr}/a.service"),
                    format!("{usr}/a.service.d/10.conf"),
                    format!("{etc}/a.service.d/20.conf"),
                    common.clone(),
                ],
            ),
            ("w@1.service", vec![format!("{usr}/w@.service"), common.clone(), format!("{etc}/w@.service.d/x.conf")]),
            (
                "w@2.service",
                vec![
                    format!("{etc}/w@2.service"),
                    common.clone(),
                    format!("{etc}/w@.service.d/x.conf"),
                    format!("{etc}/w@2.service.d/y.conf"),
                ],
            ),
            (
                "a-b-c.service",
                vec![
                    format!("{usr}/a-b-c.service"),
                    format!("{usr}/a-b-.service.d/1.conf"),
                    format!("{usr}/a-.service.d/2.conf"),
                    common.clone(),
                ],
            ),
            ("none.socket", vec![]),
        ] {
            assert_eq!(files(unit, &tree), expected, "{unit}");
        }
    }
}
