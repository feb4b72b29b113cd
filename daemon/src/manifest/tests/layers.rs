//! Which layers there are, and what becomes of a thing that several of them declare.

use serde_json::json;

use super::{faults, good, names, repo, web1};
use crate::manifest::{Manifest, read};

/// A repository with a base, a role and the layer of web1, whose manifests are these.
fn layered(base: &str, role: &str, host: &str) -> Manifest {
    let base = format!("include = [\"roles/web\"]\n{base}");
    good(&[("reconciled.toml", &base), ("roles/web/reconciled.toml", role), ("hosts/web1/reconciled.toml", host)])
}

/// What is said of such a repository.
#[track_caller]
fn refused(base: &str, role: &str, host: &str, words: &[&str]) {
    let base = format!("include = [\"roles/web\"]\n{base}");
    let said = faults(&[("reconciled.toml", &base), ("roles/web/reconciled.toml", role), ("hosts/web1/reconciled.toml", host)]);
    for word in words {
        assert!(said.contains(word), "lacks {word:?}:\n{said}");
    }
}

/// The spec of a resource, and where it was declared.
#[track_caller]
fn found<'m>(manifest: &'m Manifest, id: &str) -> (&'m serde_json::Value, String) {
    let at = names(manifest).iter().position(|name| name == id).unwrap_or_else(|| panic!("no {id} in {:?}", names(manifest)));
    (&manifest.resources[at].spec, manifest.resources[at].origin.to_string())
}

#[test]
fn the_last_layer_wins_key_by_key() {
    let unit = "[[unit]]\nname = \"w.service\"\n";
    let manifest = layered(
        &format!("units = [\"a.service\"]\n{unit}enabled = true\nactive = true\n"),
        &format!("\n{unit}active = false\nwatch = [\"/etc/w\"]\n"),
        &format!("units = [\"b.service\"]\n\n{unit}watch = [\"/etc/x\"]\n"),
    );
    let (spec, origin) = found(&manifest, "unit:w.service");
    assert_eq!(*spec, json!({ "name": "w.service", "enabled": true, "active": false, "watch": ["/etc/x"] }));
    assert_eq!(origin, "hosts/web1/reconciled.toml:3:1");
    assert_eq!(found(&manifest, "unit:a.service").1, "reconciled.toml:2:10");
    assert_eq!(found(&manifest, "unit:b.service").1, "hosts/web1/reconciled.toml:1:10");
    assert_eq!(manifest.resources.len(), 3);

    // A short form is a table with only the name.
    let short = layered("units = [\"a.service\"]\n", "[[unit]]\nname = \"a.service\"\non_change = \"reload\"\n", "");
    assert_eq!(*found(&short, "unit:a.service").0, json!({ "name": "a.service", "on_change": "reload" }));
    let short = layered("[[unit]]\nname = \"a.service\"\nactive = true\n", "", "units = [\"a.service\"]\n");
    assert_eq!(*found(&short, "unit:a.service").0, json!({ "name": "a.service", "active": true }));
    assert_eq!(found(&short, "unit:a.service").1, "hosts/web1/reconciled.toml:1:10");
}

#[test]
fn probes_merge_by_name() {
    let probe = "[[probe]]\nname = \"site\"\n";
    let manifest = layered(
        &format!("units = [\"a.service\"]\n{probe}http = {{ url = \"http://127.0.0.1/\" }}\nattempts = 3\n"),
        "[[probe]]\nname = \"db\"\ntcp = \"127.0.0.1:5432\"\n",
        &format!("{probe}attempts = 7\n"),
    );
    let told: Vec<_> = manifest.probes.iter().map(|p| (p.name.as_str(), p.attempts)).collect();
    assert_eq!(told, [("site", 7), ("db", 5)]);
    refused(
        "",
        &format!("{probe}tcp = \"a:1\"\n{probe}tcp = \"a:1\"\n"),
        "",
        &["roles/web/reconciled.toml:5:8: the probe `site`"],
    );
}

#[test]
fn what_is_to_be_gone_takes_nothing_with_it() {
    let present = "[[file]]\npath = \"/etc/motd\"\ncontent = \"a\"\nmode = \"0600\"\n";
    let absent = "[[file]]\npath = \"/etc/motd\"\nstate = \"absent\"\n";
    let gone = layered(present, "", absent);
    assert_eq!(
        (&found(&gone, "file:/etc/motd").0["state"], found(&gone, "file:/etc/motd").0.get("mode")),
        (&json!("absent"), None)
    );
    let back = layered(absent, present, "");
    assert_eq!(found(&back, "file:/etc/motd").0["state"], "present");
}

#[test]
fn places_of_later_trees_take_those_of_earlier_ones() {
    let manifest = good(&[
        ("reconciled.toml", "include = [\"roles/a\", \"roles/b\"]\n[[file]]\npath = \"/etc/*\"\nmode = \"0640\"\n"),
        ("files/etc/x", "base"),
        ("files/etc/y", "base"),
        ("roles/a/files/etc/x", "a"),
        ("roles/a/files/etc/z", "a"),
        ("roles/b/files/etc/x", "b"),
        ("roles/b/files/etc/z@", "y"),
        ("roles/unused/files/tmp/x", "ignored"),
        ("hosts/web1/files/etc/y*", "web1"),
        ("hosts/web2/files/etc/y", "web2"),
        ("hosts/web2/reconciled.toml", "nonsense"),
    ]);
    assert_eq!(names(&manifest), ["file:/etc/x", "file:/etc/y", "link:/etc/z"]);
    let origins: Vec<String> = manifest.resources.iter().map(|r| r.origin.to_string()).collect();
    assert_eq!(origins, ["roles/b/files/etc/x", "hosts/web1/files/etc/y", "roles/b/files/etc/z"]);
    assert_eq!(manifest.resources[1].spec["mode"], "0640", "a glob of the base is over all trees");
    assert_eq!(manifest.contents.len(), 2);
}

#[test]
fn tables_and_trees_of_different_layers() {
    let tree = |table: &str, layer: &str| {
        good(&[
            ("reconciled.toml", "[[file]]\npath = \"/etc/*\"\ngroup = \"adm\"\n"),
            ("files/etc/x*", "base"),
            ("files/etc/l@", "base"),
            (layer, table),
        ])
    };
    let host = "hosts/web1/reconciled.toml";
    let replaced = tree("[[file]]\npath = \"/etc/x\"\ncontent = \"host\"\n", host);
    assert_eq!(found(&replaced, "file:/etc/x").1, "hosts/web1/reconciled.toml:1:1");
    assert_eq!(replaced.contents.values().collect::<Vec<_>>(), [b"host"]);
    let gone = tree("[[file]]\npath = \"/etc/x\"\nstate = \"absent\"\n", host);
    assert_eq!(found(&gone, "file:/etc/x").0["state"], "absent");
    let over = tree("[[file]]\npath = \"/etc/x\"\nmode = \"0700\"\n", host);
    assert_eq!(
        (&found(&over, "file:/etc/x").0["mode"], &found(&over, "file:/etc/x").0["group"]),
        (&json!("0700"), &json!("adm"))
    );
    let glob = tree("[[file]]\npath = \"/etc/[x]\"\ngroup = \"mail\"\n", host);
    assert_eq!(found(&glob, "file:/etc/x").0["group"], "mail", "of two globs that of the later layer wins");
    let relinked = tree("[[link]]\npath = \"/etc/l\"\ntarget = \"host\"\n", host);
    assert_eq!(found(&relinked, "link:/etc/l").0["target"], "host");
    assert_eq!(names(&relinked).len(), 2);

    // And the other way round: what an earlier table put there is gone, its other keys are not.
    let under = |table: &str| {
        let base = format!("[[file]]\npath = \"/etc/x\"\nowner = \"daemon\"\n{table}");
        let manifest = good(&[("reconciled.toml", &base), ("hosts/web1/files/etc/x", "host")]);
        assert_eq!(found(&manifest, "file:/etc/x").0["owner"], "daemon");
        assert_eq!(found(&manifest, "file:/etc/x").0["state"], "present");
        assert_eq!(manifest.contents.values().collect::<Vec<_>>(), [b"host"]);
    };
    under("content = \"base\"\n");
    under("state = \"absent\"\n");
    let link = good(&[("reconciled.toml", "[[link]]\npath = \"/etc/l\"\ntarget = \"x\"\n"), ("hosts/web1/files/etc/l@", "y")]);
    assert_eq!(found(&link, "link:/etc/l").0["target"], "y");
}

#[test]
fn two_claims_in_one_layer_stay_a_mistake() {
    let twice = "[[unit]]\nname = \"a.service\"\n[[unit]]\nname = \"a.service\"\n";
    refused(
        "",
        twice,
        "",
        &["roles/web/reconciled.toml:4:8: a.service is claimed twice: here and at roles/web/reconciled.toml:2:8"],
    );
    refused("units = [\"a.service\"]\n", twice, "units = [\"a.service\"]\n", &["claimed twice"]);
    let globs = "[[file]]\npath = \"/etc/*\"\nmode = \"0600\"\n[[file]]\npath = \"/etc/m*\"\nmode = \"0640\"\n";
    let said = faults(&[("hosts/web1/reconciled.toml", globs), ("files/etc/motd", "")]);
    assert!(said.contains("hosts/web1/reconciled.toml:6:8: `mode` of /etc/motd is set by two globs"), "{said}");
    let kinds = faults(&[("files/etc/x", ""), ("hosts/web1/reconciled.toml", "directories = [\"/etc/x\"]\n")]);
    assert!(kinds.contains("claimed twice: as a directory here and as a file at files/etc/x"), "{kinds}");
    let tree = faults(&[("files/etc/x", ""), ("reconciled.toml", "[[file]]\npath = \"/etc/x\"\ncontent = \"\"\n")]);
    assert!(tree.contains("claimed twice: by `content` here and by files/etc/x"), "{tree}");
}

#[test]
fn mistakes_name_the_file_of_their_layer() {
    refused(
        "",
        "# ü\n[[unit]]\nname = \"a.service\"\nenabeld = true\n",
        "",
        &["roles/web/reconciled.toml:4:1: unknown key `enabeld`"],
    );
    refused("", "", "[[unit]]\nenabled = true\n", &["hosts/web1/reconciled.toml:1:1: [[unit]] has no `name`"]);
    refused(
        "",
        "[[unit]\n",
        "x = hello\n",
        &["roles/web/reconciled.toml:1:8: not TOML", "hosts/web1/reconciled.toml:1:5: not TOML"],
    );
    refused("", "mode = 0644\n", "", &["roles/web/reconciled.toml:1:8: a number cannot begin with 0: write mode = \"0644\""]);
    // A merged table: each key is blamed where it is written.
    let unit = "[[unit]]\nname = \"a.service\"\n";
    refused(
        &format!("{unit}active = 1\n"),
        &format!("{unit}enabled = 2\n"),
        "",
        &["reconciled.toml:4:10", "roles/web/reconciled.toml:3:11"],
    );
}

#[test]
fn includes_that_lead_nowhere() {
    for (include, words) in [
        ("[\"roles/wbe\"]", "1:12: this repository has no directory roles/wbe: did you mean `roles/web`?"),
        ("[\"web\"]", "this repository has no directory web: add web/reconciled.toml or web/files/"),
        ("[\"roles\"]", "roles has neither reconciled.toml nor files/"),
        ("[\"roles/web/reconciled.toml\"]", "roles/web/reconciled.toml is no directory"),
        ("[\"../other\"]", "`../other` is outside the repository: write include = [\"roles/web\"]"),
        ("[\"/etc\"]", "`/etc` is outside the repository"),
        ("[\"roles/../..\"]", "outside the repository"),
        ("[\"\"]", "empty component"),
        ("[\".\"]", "`.` component"),
        ("[\"roles/web\", \"roles/web/\"]", "1:25: `roles/web` is included twice: remove one of the two"),
        ("[\"hosts/web1\"]", "`hosts/web1` belongs to one host"),
        ("[5]", "`include` is a list of directories; this is an integer"),
        ("\"roles/web\"", "1:11: `include` is a list of directories, not a string: write include = [\"roles/web\"]"),
    ] {
        let manifest = format!("include = {include}\n");
        let said = faults(&[("reconciled.toml", &manifest), ("roles/web/reconciled.toml", ""), ("files/etc/a", "")]);
        assert!(said.contains(words), "{include}: {said}");
    }
    refused(
        "",
        "include = [\"roles/db\"]\n",
        "",
        &["roles/web/reconciled.toml:1:1: only the reconciled.toml at the top includes others"],
    );
    refused("", "[[unit]]\nname = \"a.service\"\ninclude = []\n", "", &["`include` belongs above the first [header]"]);
}

#[test]
fn a_host_without_a_layer_is_told() {
    let entries = [("files/etc/a", "a\n"), ("hosts/web2/files/etc/b", "b\n"), ("hosts/README", "x")];
    let told = |host: &str| {
        let context = crate::manifest::Context { host: host.to_owned(), ..web1() };
        read(&repo(&entries), &context).unwrap().notes.iter().any(|n| n.contains("hosts/ has no layer for this host"))
    };
    assert!(told("web1") && !told("web2"));
    assert!(good(&entries[..]).notes.iter().any(|n| n.ends_with("for this host, web1 (there are: web2)")));
    assert!(!good(&[("files/etc/a", "a\n"), ("hosts/README", "x")]).notes.iter().any(|n| n.contains("hosts/")));
}
