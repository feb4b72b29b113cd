//! The language, rule by rule: what a repository says and what is answered.

mod golden;
mod layers;
mod robust;
mod templates;

use serde_json::json;

use super::{Context, Diagnostic, Manifest, Origin, Resource, read};
use crate::digest::Digest;
use crate::kind::KINDS;
use crate::source::{Snapshot, SourceEntry};

/// A repository: `("path", "content")`, `("path*", "content")` for an executable, `("path@", "target")` for a link.
pub(super) fn repo(entries: &[(&str, &str)]) -> Snapshot {
    let entry = |name: &str, text: &str| match (name.strip_suffix('@'), name.strip_suffix('*')) {
        (Some(name), _) => (name.to_owned(), SourceEntry::Link { target: text.to_owned() }),
        (_, Some(name)) => (name.to_owned(), SourceEntry::File { content: text.into(), executable: true }),
        _ => (name.to_owned(), SourceEntry::File { content: text.into(), executable: false }),
    };
    Snapshot { entries: entries.iter().map(|(name, text)| entry(name, text)).collect(), ..Snapshot::default() }
}

/// The host that a repository is read for.
pub(super) fn web1() -> Context {
    Context { host: "web1".to_owned(), ..Context::default() }
}

fn good(entries: &[(&str, &str)]) -> Manifest {
    read(&repo(entries), &web1()).unwrap_or_else(|faults| panic!("{entries:?}: {}", lines(&faults)))
}

fn lines(faults: &[Diagnostic]) -> String {
    faults.iter().map(|f| format!("{f}\n")).collect()
}

fn faults(entries: &[(&str, &str)]) -> String {
    lines(&read(&repo(entries), &web1()).map(|m| m.resources).unwrap_err())
}

/// The manifest alone, with one file of a tree beside it, is refused; the answer has these words.
fn refused(manifest: &str, words: &[&str]) {
    let answer = faults(&[("reconciled.toml", manifest), ("files/etc/shop/a.ini", "a")]);
    for word in words {
        assert!(answer.contains(word), "{manifest}\nlacks {word:?}:\n{answer}");
    }
}

/// `kind:name` of all resources.
fn names(manifest: &Manifest) -> Vec<String> {
    manifest.resources.iter().map(|r| format!("{}:{}", r.kind, r.name)).collect()
}

const PROBE: &str = "[[probe]]\nname = \"site\"\nhttp = { url = \"http://127.0.0.1/\" }\n";

#[test]
fn the_tree_is_the_host() {
    let manifest = good(&[
        ("reconciled.toml", PROBE),
        ("README.md", "not managed"),
        ("files/etc/shop/.gitkeep", ""),
        ("files/etc/shop/a.ini", "a"),
        ("files/etc/shop/on@", "../shop/a.ini"),
        ("files/usr/local/bin/run*", "#!/bin/sh\n"),
    ]);
    assert_eq!(names(&manifest), ["file:/etc/shop/a.ini", "link:/etc/shop/on", "file:/usr/local/bin/run"]);
    let digest = Digest::of(b"a");
    assert_eq!(manifest.resources[0].spec["source"], json!([digest, 1]));
    assert_eq!(manifest.resources[0].spec.get("mode"), None);
    assert_eq!(manifest.resources[1].spec["target"], "../shop/a.ini");
    assert_eq!(manifest.resources[2].spec["mode"], "0755");
    assert_eq!(manifest.contents[&digest], b"a");
    assert_eq!(manifest.resources[0].origin.to_string(), "files/etc/shop/a.ini");
    assert_eq!(manifest.notes, [""; 0]);
}

#[test]
fn short_and_long_forms() {
    let manifest = good(&[(
        "reconciled.toml",
        "units = [\"nginx.service\", \"b.socket\"]\ndirectories = [\"/srv/a\"]\n\n[[unit]]\nname = \"w.service\"\nenabled = true\n\n[[directory]]\npath = \"/srv/b\"\nmode = \"0750\"\n",
    )]);
    let wanted = ["unit:nginx.service", "unit:b.socket", "directory:/srv/a", "unit:w.service", "directory:/srv/b"];
    assert_eq!(names(&manifest), wanted);
    assert_eq!(manifest.resources[0].origin.to_string(), "reconciled.toml:1:10");
    assert_eq!(manifest.resources[3].origin.to_string(), "reconciled.toml:4:1");
    assert_eq!(manifest.resources[3].spec, json!({"name": "w.service", "enabled": true}));
}

#[test]
fn examples_of_all_kinds_are_one_manifest() {
    let manifest: String = KINDS.iter().map(|row| row.example()).collect();
    let read = good(&[("reconciled.toml", &manifest), ("files/etc/shop/settings.ini", "")]);
    let kinds: Vec<&str> = KINDS.iter().map(|row| row.kind()).collect();
    assert!(kinds.iter().all(|kind| read.resources.iter().any(|r| r.kind == *kind)), "{:?}", names(&read));
}

#[test]
fn file_tables_over_the_tree() {
    let tree = [
        ("files/etc/shop/a.ini", "a"),
        ("files/etc/shop/b.ini*", "b"),
        ("files/etc/shop/sub/c.ini", "c"),
        ("files/etc/shop/link@", "a.ini"),
    ];
    let with = |manifest: &'static str| {
        let mut entries = vec![("reconciled.toml", manifest)];
        entries.extend(tree);
        good(&entries)
    };
    let mode = |manifest: &Manifest, i: usize| manifest.resources[i].spec["mode"].as_str().map(str::to_owned);

    let globbed = with("[[file]]\npath = \"/etc/shop/*\"\ngroup = \"www-data\"\nmode = \"0640\"\n");
    assert_eq!(mode(&globbed, 0).as_deref(), Some("0640"));
    assert_eq!(mode(&globbed, 1).as_deref(), Some("0640"));
    assert_eq!(globbed.resources[0].spec["group"], "www-data");
    assert_eq!(globbed.resources[2].kind, "link");
    assert_eq!(mode(&globbed, 3), None, "* stays within a directory");

    let both = with(
        "[[file]]\npath = \"/etc/shop/**\"\nmode = \"0640\"\ngroup = \"adm\"\n[[file]]\npath = \"/etc/shop/a.ini\"\nmode = \"0600\"\nsecret = true\n",
    );
    assert_eq!(mode(&both, 0).as_deref(), Some("0600"), "an exact path beats a glob");
    assert_eq!(both.resources[0].spec["group"], "adm", "key by key");
    assert_eq!(both.resources[0].spec["secret"], true);
    assert_eq!(both.resources[1].spec["secret"], false);
    assert_eq!(mode(&both, 3).as_deref(), Some("0640"));

    let parted = with("[[file]]\npath = \"/etc/shop/*\"\nmode = \"0640\"\n[[file]]\npath = \"/etc/shop/a*\"\ngroup = \"adm\"\n");
    assert_eq!(parted.resources[0].spec["group"], "adm", "two globs may set different keys");
}

#[test]
fn file_tables_that_stand_alone() {
    let manifest = good(&[(
        "reconciled.toml",
        "[[file]]\npath = \"/etc/motd\"\ncontent = \"hello\\n\"\n[[file]]\npath = \"/etc/old\"\nstate = \"absent\"\n",
    )]);
    assert_eq!(names(&manifest), ["file:/etc/motd", "file:/etc/old"]);
    let digest = Digest::of(b"hello\n");
    assert_eq!(manifest.resources[0].spec["source"], json!([digest, 6]));
    assert_eq!(manifest.resources[0].spec.get("content"), None, "contents are kept apart");
    assert_eq!(manifest.contents[&digest], b"hello\n");
    assert_eq!(manifest.resources[1].spec["state"], "absent");
}

#[test]
fn file_tables_that_do_not_fit() {
    for (manifest, words) in [
        ("[[file]]\npath = \"/etc/motd\"\n", &["2:8: /etc/motd has no content", "add files/etc/motd or `content`"][..]),
        ("[[file]]\npath = \"/etc/shop/b.ini\"\n", &["did you mean /etc/shop/a.ini?"]),
        ("[[file]]\npath = \"/etc/shop\"\n", &["/etc/shop is a directory", "write [[directory]]"]),
        ("[[file]]\npath = \"/etc/nginx/*\"\nmode = \"0600\"\n", &["no file under files/ matches `/etc/nginx/*`"]),
        ("[[file]]\npath = \"etc/*\"\n", &["no glob over absolute paths"]),
        ("[[file]]\npath = \"/etc/[\"\n", &["no glob over absolute paths"]),
        ("[[file]]\npath = \"/etc/shop/*\"\ncontent = \"x\"\n", &["3:11: `content` needs an exact path"]),
        ("[[file]]\npath = \"/etc/shop/*\"\nstate = \"absent\"\n", &["`state` needs an exact path"]),
        (
            "[[file]]\npath = \"/etc/shop/*\"\nmode = \"0600\"\n[[file]]\npath = \"/etc/shop/a*\"\nmode = \"0640\"\n",
            &["6:8: `mode` of /etc/shop/a.ini is set by two globs: `/etc/shop/a*` here and `/etc/shop/*` at reconciled.toml:2:8"],
        ),
        (
            "[[file]]\npath = \"/etc/shop/a.ini\"\ncontent = \"x\"\n",
            &["3:11: /etc/shop/a.ini is claimed twice: by `content` here and by files/etc/shop/a.ini"],
        ),
        ("[[file]]\npath = \"/etc/shop/a.ini\"\nstate = \"absent\"\n", &["claimed twice: by `state` here"]),
        (
            "[[file]]\npath = \"/etc/shop/a.ini\"\n[[file]]\npath = \"/etc/shop/a.ini\"\n",
            &["4:8: /etc/shop/a.ini is claimed twice: here and at reconciled.toml:2:8"],
        ),
        ("[[file]]\npath = \"/etc/shop/a.ini\"\nsource = \"x\"\n", &["3:1: unknown key `source` in [[file]]"]),
        ("[[file]]\npath = \"/etc/old\"\nstate = \"absent\"\ncontent = \"\"\n", &["an absent file has no content"]),
    ] {
        refused(manifest, words);
    }
    let link = faults(&[("reconciled.toml", "[[file]]\npath = \"/etc/a\"\n"), ("files/etc/a@", "b")]);
    assert!(link.contains("files/etc/a is a symbolic link"), "{link}");
}

#[test]
fn claims_that_contradict_each_other() {
    for (manifest, words) in [
        (
            "units = [\"a.service\"]\n[[unit]]\nname = \"a.service\"\n",
            &["reconciled.toml:3:8: a.service is claimed twice: here and at reconciled.toml:1:10: keep one"][..],
        ),
        ("units = [\"a.service\", \"a.service\"]\n", &["1:23: a.service is claimed twice"]),
        ("directories = [\"/etc/shop/a.ini\"]\n", &["claimed twice: as a directory here and as a file at files/etc/shop/a.ini"]),
        (
            "[[link]]\npath = \"/etc/shop\"\ntarget = \"x\"\n",
            &["files/etc/shop/a.ini: /etc/shop/a.ini needs a directory above it, but /etc/shop is a link at reconciled.toml:2:8"],
        ),
        ("[[directory]]\npath = \"/etc/shop\"\nstate = \"absent\"\n", &["/etc/shop is declared absent"]),
        ("[[link]]\npath = \"/etc/shop/A.ini\"\ntarget = \"x\"\n", &["/etc/shop/a.ini and /etc/shop/A.ini differ only in case"]),
        ("[[link]]\npath = \"/etc/b\"\ntarget = \"a\\u0007b\"\n", &["invisible character"]),
        ("[[link]]\npath = \"/etc/b\"\n", &["a link needs a target"]),
        ("directories = [\"/tmp/x\"]\n", &["1:16: `/tmp/x` is below /tmp, which is never managed"]),
        ("directories = [\"srv/x\"]\n", &["`srv/x` is not an absolute path", "write an absolute path"]),
        ("directories = [\"/srv/x/\"]\n", &["empty component"]),
        ("directories = [\"/srv/../x\"]\n", &["`..` component"]),
    ] {
        refused(manifest, words);
    }
    // What is absent may lie below what is absent, and a directory may hold anything.
    good(&[(
        "reconciled.toml",
        "directories = [\"/srv/b\", \"/srv/b/c\"]\n[[directory]]\npath = \"/srv/a\"\nstate = \"absent\"\n[[file]]\npath = \"/srv/a/x\"\nstate = \"absent\"\n",
    )]);
}

#[test]
fn trees_that_do_not_fit() {
    for (name, text, words) in [
        ("files/etc/key.j2.age", "a", "a sealed file is not rendered"),
        ("files/tmp/x", "a", "files/tmp/x: `/tmp/x` is below /tmp"),
        ("files/var/lib/reconciled/x", "a", "never managed"),
        ("files@", "elsewhere", "`files` is no directory"),
        ("files", "", "`files` is no directory"),
        ("files/etc/l@", "", "the link has no target"),
        ("files/etc/l@", "a\nb", "invisible character"),
        ("reconciled.toml@", "x", "the manifest is a symbolic link"),
    ] {
        let answer = faults(&[(name, text), ("files/etc/ok", "")]);
        assert!(answer.contains(words), "{name}: {answer}");
    }
    let twins = faults(&[("files/etc/A", ""), ("files/etc/a", "")]);
    assert!(twins.contains("files/etc/a: /etc/a and /etc/A differ only in case (files/etc/A)"), "{twins}");
}

#[test]
fn likely_mistakes_have_remedies() {
    for (manifest, words) in [
        (
            "[[unit]]\nname = \"a.service\"\nenabeld = true\n",
            &["3:1: unknown key `enabeld` in [[unit]]: did you mean `enabled`?"][..],
        ),
        ("[[unit]]\nname = \"a.service\"\ncolour = 1\n", &["unknown key `colour` in [[unit]]: keys: name, enabled, active"]),
        ("[[unit]]\nname = \"a.service\"\nenabled = \"yes\"\n", &["3:11: `enabled` must be a boolean, not a string: write true"]),
        ("[[unit]]\nenabled = true\n", &["1:1: [[unit]] has no `name`: add name = …"]),
        ("[[unit]]\nname = \"nginx\"\n", &["2:8: `nginx` has no unit suffix: write \"nginx.service\""]),
        ("[[unit]]\nname = \"a.service\"\nwatch = \"/etc\"\n", &["`watch` must be a list, not a string: write a list"]),
        (
            "[[unit]]\nname = \"a.service\"\non_change = \"relaod\"\n",
            &["3:13: `on_change` has no such value: did you mean \"reload\"?"],
        ),
        ("[[file]]\npath = \"/etc/shop/a.ini\"\nmode = 0644\n", &["3:8: a number cannot begin with 0: write mode = \"0644\""]),
        (
            "[[file]]\npath = \"/etc/shop/a.ini\"\nmode = 644\n",
            &["`mode` must be a string, not an integer: write mode = \"0644\""],
        ),
        ("[[file]]\npath = \"/etc/shop/a.ini\"\nmode = 0o644\n", &["write mode = \"0644\""]),
        ("[[file]]\npath = \"/etc/shop/a.ini\"\nmode = \"rw\"\n", &["3:8: `rw` is not a mode", "0644"]),
        ("[[file]]\npath = \"/etc/shop/a.ini\"\nstate = 5\n", &["`state`"]),
        (
            "[[unit]]\nname = \"a.service\"\nunits = [\"b.service\"]\n",
            &["3:1: unknown key `units` in [[unit]]: `units` belongs above the first [header]"],
        ),
        ("[[probe]]\nname = \"x\"\ntcp = \"a:1\"\npackages = [\"b\"]\n", &["`packages` belongs above the first [header]"]),
        ("[unit]\nname = \"a.service\"\n", &["1:2: `unit` is a list of tables, not a table: write [[unit]]"]),
        ("unit = \"a.service\"\n", &["write units = [\"…\"] or a [[unit]] table"]),
        ("unit = [\"a.service\"]\n", &["write units = [\"…\"] or [[unit]] tables"]),
        ("link = [\"/etc/a\"]\n", &["write [[link]] tables"]),
        ("[[units]]\nname = \"a.service\"\n", &["`units` is a list of names; this is a table", "[[unit]]"]),
        ("units = \"a.service\"\n", &["`units` is a list of names, not a string: write units = [\"…\"]"]),
        ("units = [5]\n", &["1:10: `units` is a list of names; this is an integer"]),
        ("[unit]\nname = \"a.service\"\n[unit]\nname = \"b.service\"\n", &["`unit` is set twice: write [[unit]] for each"]),
        ("allow_empty = \"yes\"\n", &["`allow_empty` must be a boolean"]),
        ("[[untis]]\n", &["unknown key `untis`: did you mean `unit"]),
        ("frobnicate = 1\n", &["unknown key `frobnicate`: there are: package, packages, group"]),
        ("[[ufw]]\nenabled = true\n", &["1:3: `ufw` is one table, not an array: write [ufw] with keys below it"]),
        ("[ufw]\n[ufw]\n", &["2:2: `ufw` is set twice: keep one [ufw], with all its keys"]),
        ("[[venv]]\npath = \"/x\"\n", &["2:8: nothing says what is in it: add requirements = "]),
        (
            "[[venv]]\npath = \"/x\"\npackages = [\"a==1\", \"Django\"]\n",
            &["3:12: `Django` names no exact version: write Django=="],
        ),
        ("[[command]]\nname = \"x\"\n", &["[[command]] has no `forward`"]),
        (
            "[[command]]\nname = \"x\"\nforward = [\"python manage.py migrate\"]\n",
            &["3:11: one word is one argument, no shell parts it: write forward = [\"python\", \"manage.py\", \"migrate\"]"],
        ),
        (
            "[[command]]\nname = \"x\"\nforward = [\"true\"]\nenvironment = { A = 1 }\n",
            &["neither text nor a secret: write NAME = \"text\", or NAME = { secret"],
        ),
        ("units = [\"a.service\"\n", &["not TOML"]),
        ("name = hello\n", &["1:8: not TOML: string values must be quoted: write the value in \"quotes\""]),
        ("a = 1\na = 2\n", &["2:1: `a` is set twice"]),
    ] {
        refused(manifest, words);
    }
}

#[test]
fn all_mistakes_are_reported() {
    let manifest =
        "[[unit]]\nnmae = \"a.service\"\nenabeld = true\nactive = 5\n[[unit]]\nname = \"b\"\n[[probe]]\nname = \"x\"\n";
    let answer = faults(&[("reconciled.toml", manifest), ("files/tmp/x", "")]);
    let places: Vec<_> = answer.lines().map(|l| l.split(": ").next().unwrap()).collect();
    let wanted = ["reconciled.toml:2:1", "reconciled.toml:3:1", "reconciled.toml:4:10", "reconciled.toml:6:8"];
    assert_eq!(places[..4], wanted, "{answer}");
    assert_eq!(places[4..], ["reconciled.toml:8:8", "files/tmp/x"], "{answer}");

    let many: String = (0..1000).map(|i| format!("[[unit]]\nname = \"u{i}\"\n")).collect();
    let answer = faults(&[("reconciled.toml", &many)]);
    assert_eq!(answer.lines().count(), 21);
    assert!(answer.ends_with("more mistakes are not shown\n"), "{answer}");
}

#[test]
fn probes() {
    for body in [
        "http = { url = \"http://127.0.0.1:8000/x?y=1\", host = \"shop.example\", status = [200, 204], body = \"ok\" }",
        "http = { url = \"http://[::1]:80\" }",
        "http = { unix = \"/run/g.sock\", path = \"/health\" }",
        "tcp = \"127.0.0.1:5432\"",
        "tcp = \"[::1]:5432\"",
        "unit = \"nginx.service\"",
        "command = [\"/usr/bin/true\"]\nuser = \"postgres\"\nattempts = 1000\ninterval = \"300ms\"\ntimeout = \"1s\"\nrequired = false",
    ] {
        let manifest = format!("[[probe]]\nname = \"p\"\n{body}\n");
        assert_eq!(good(&[("reconciled.toml", &manifest), ("files/etc/a", "")]).probes.len(), 1);
    }
    for (body, words) in [
        ("", "2:8: the probe `p` asks nothing: write one of http"),
        ("tcp = \"a:1\"\nunit = \"a.service\"", "asks more than one thing"),
        ("tcp = \"localhost\"", "3:7: `tcp` must be an address and a port"),
        ("tcp = \"a:0\"", "an address and a port"),
        ("tcp = \"a:99999\"", "an address and a port"),
        ("tcp = \"[::1]\"", "an address and a port"),
        ("tcp = \"::1:80\"", "an address and a port"),
        ("unit = \"nginx\"", "3:8: `nginx` has no unit suffix"),
        ("command = [\"true\"]", "needs its absolute path"),
        ("command = []", "needs its absolute path"),
        ("command = \"/bin/true\"", "`command` must be a list, not a string"),
        ("tcp = \"a:1\"\nuser = \"x\"", "4:8: only a command or a database session has a user"),
        ("tcp = \"a:1\"\nattempts = 0", "4:12: `attempts` must be 1 to 1000"),
        ("tcp = \"a:1\"\nattempts = 1001", "must be 1 to 1000"),
        ("tcp = \"a:1\"\nattempts = 1000\ntimeout = \"10s\"", "longer than half an hour"),
        ("tcp = \"a:1\"\nattempts = -1", "`attempts` must be a whole number"),
        ("tcp = \"a:1\"\ntimeout = \"0s\"", "needs some time"),
        ("tcp = \"a:1\"\ninterval = \"2h\"", "longer than an hour"),
        ("tcp = \"a:1\"\ninterval = \"5\"", "4:12: `interval`: `5` is not a time span: write a whole number and a unit"),
        ("tcp = \"a:1\"\ninterval = 5", "`interval` must be a string, not an integer"),
        ("http = {}", "3:8: `http` needs exactly one of `url` and `unix`"),
        ("http = { url = \"http://a/\", unix = \"/x\" }", "exactly one of"),
        ("http = \"http://a/\"", "`http` must be a table, not a string"),
        ("http = { url = \"ftp://a/\" }", "3:16: this is no URL that can be asked"),
        ("http = { url = \"http://a/\", ca = \"/x\" }", "`ca` goes with https"),
        ("http = { url = \"https://a/\", ca = \"x\" }", "it must be an absolute path"),
        ("postgres = {}", "`database`"),
        ("postgres = { database = \"\" }", "an empty word"),
        ("postgres = { database = \"a\", password = \"hunter2\" }", "`password` must be a table, not a string"),
        ("postgres = { database = \"a\", password = { secret = \"s\" } }", "over the socket nobody is asked for a password"),
        ("redis = {}", "3:9: `redis` needs exactly one of `tcp` and `unix`"),
        ("redis = { tcp = \"localhost\" }", "3:17: `tcp` must be an address and a port"),
        ("certificate = { name = \"a\" }", "needs exactly one of `file` and `tcp`"),
        ("certificate = { file = \"/x\", name = \"a b\" }", "this is no host name"),
        ("certificate = { file = \"x\" }", "it must be an absolute path"),
        ("http = { url = \"a/\" }", "no URL that can be asked"),
        ("http = { url = \"http://\" }", "no URL that can be asked"),
        ("http = { url = \"http://a:x/\" }", "no URL that can be asked"),
        ("http = { url = \"http://a/ b\" }", "no URL that can be asked"),
        ("http = { url = \"http://a/\", host = \"a\\r\\nb\" }", "no host name"),
        ("http = { url = \"http://a/\", path = \"/x\" }", "`path` goes with `unix`"),
        ("http = { unix = \"run/x\" }", "absolute path"),
        ("http = { unix = \"/x\", path = \"x\" }", "must begin with /"),
        ("http = { url = \"http://a/\", status = 99 }", "a number from 100 to 599"),
        ("http = { url = \"http://a/\", status = [] }", "no status would be accepted"),
        (
            "http = { url = \"http://a/\", status = \"ok\" }",
            "`status`: it must be a number or a list of numbers: write status = 200",
        ),
        ("http = { url = \"http://a/\", stauts = 200 }", "unknown key `stauts` in [[probe]]: did you mean `status`?"),
    ] {
        refused(&format!("[[probe]]\nname = \"p\"\n{body}\n"), &[words]);
    }
    refused(&format!("{PROBE}{PROBE}"), &["5:8: the probe `site` is declared twice: here and at reconciled.toml:2:8"]);
    refused("[[probe]]\nname = \"\"\ntcp = \"a:1\"\n", &["no name for a probe"]);
}

#[test]
fn an_empty_repository_is_refused_unless_meant() {
    for entries in [&[][..], &[("reconciled.toml", "")], &[("README.md", "x")], &[("reconciled.toml", PROBE)]] {
        let answer = faults(entries);
        assert!(answer.contains("this would remove everything") && answer.contains("allow_empty = true"), "{answer}");
    }
    let meant = good(&[("reconciled.toml", "allow_empty = true\n")]);
    assert!(meant.allow_empty && meant.resources.is_empty());
    let answer = faults(&[("reconciled.toml", "allow_empty = false\n")]);
    assert!(answer.contains("remove everything"), "{answer}");
}

#[test]
fn manifests_that_are_no_text() {
    let mut snapshot = repo(&[("files/etc/a", "")]);
    let bytes = b"units = []\n# \xff\n".to_vec();
    snapshot.entries.insert("reconciled.toml".to_owned(), SourceEntry::File { content: bytes, executable: false });
    assert_eq!(lines(&read(&snapshot, &web1()).unwrap_err()), "reconciled.toml:2:1: not UTF-8 text: save it as UTF-8\n");

    let large = "#".repeat(super::MANIFEST_LIMIT + 1);
    assert!(faults(&[("reconciled.toml", &large)]).starts_with("reconciled.toml: the manifest is larger than"));
    good(&[("reconciled.toml", "\u{feff}units = [\"a.service\"]\r\n[[unit]]\r\nname = \"b.service\"\r\n")]);
}

#[test]
fn notes_fail_nothing() {
    let notes = |entries: &[(&str, &str)]| good(entries).notes;
    assert!(notes(&[("files/etc/a", "a\n")])[0].contains("no probes"));
    let noted = |name: &str, text: &str, words: &str| {
        let notes = notes(&[("reconciled.toml", PROBE), ("files/etc/ok", "a\n"), (name, text)]);
        assert_eq!(notes.len(), 1, "{name}: {notes:?}");
        assert!(notes[0].contains(words), "{name}: {notes:?}");
    };
    noted("files/etc/systemd/system/w.service", "[Unit]\n", "no [[unit]] names w.service");
    noted("files/etc/systemd/system/w@.service", "[Unit]\n", "no [[unit]] names w@.service");
    noted("files/etc/nginx/sites-enabled/shop", "../sites-available/shop", "was it a symbolic link?");
    noted("files/etc/big", "version https://git-lfs.github.com/spec/v1\n", "git-lfs");
    noted("files/etc/run", "#!/bin/sh\n", "not executable");
    noted("files/etc/c", "a\n<<<<<<< HEAD\nb\n=======\nc\n>>>>>>> x\n", "unfinished merge");
    noted("files/etc/a.conf~", "x\n", "leftover");
    noted("files/etc/key", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "secret = true");
    noted("files/etc/cron.d/job.conf", "# x\n", "nobody reads it: its name has other characters");
    noted("hosts/web2/files/etc/x", "", "hosts/ has no layer for this host, web1 (there are: web2)");

    let quiet = format!("units = [\"w.service\", \"t@1.service\", \"j.timer\"]\n{PROBE}");
    let unit = |name: &str| format!("files/etc/systemd/system/{name}");
    let silent = notes(&[
        ("reconciled.toml", &quiet),
        (&unit("w.service"), ""),
        (&unit("t@.service"), ""),
        (&unit("j.timer"), ""),
        (&unit("j.service"), ""),
        (&unit("other.service.d/limits.conf"), ""),
        ("files/usr/bin/x*", "#!/bin/sh\n"),
        ("files/etc/timezone", "Europe/Berlin"),
    ]);
    assert_eq!(silent, [""; 0]);
    let left = good(&[("reconciled.toml", &format!("allow_empty = true\n{PROBE}")), ("files/etc/a", "")]).notes;
    assert!(left[0].contains("allow_empty"), "{left:?}");
}

#[test]
fn what_a_check_says_leads_to_the_repository() {
    let origin = |file: &str| Origin { file: file.to_owned(), ..Origin::default() };
    let resource = |kind: &str, name: &str, spec: serde_json::Value, file: &str| Resource {
        kind: kind.to_owned(),
        name: name.to_owned(),
        spec,
        origin: origin(file),
    };
    let manifest = Manifest {
        resources: vec![
            resource("file", "/etc/nginx/sites-available/shop", serde_json::json!({}), "files/etc/nginx/sites-available/shop"),
            resource("file", "/etc/nginx", serde_json::json!({}), "files/etc/nginx"),
            resource("link", "/etc/nginx/sites-enabled/shop", serde_json::json!({ "target": "../sites-available/shop" }), "x"),
            resource("link", "/etc/else", serde_json::json!({ "target": "/usr/else" }), "y"),
        ],
        ..Manifest::default()
    };
    for (line, source) in [
        ("[emerg] oops in /etc/nginx/sites-available/shop:4", "files/etc/nginx/sites-available/shop:4"),
        ("[emerg] oops in /etc/nginx/sites-enabled/shop:12", "files/etc/nginx/sites-available/shop:12"),
        ("/etc/nginx/sites-enabled/shop is odd", "files/etc/nginx/sites-available/shop"),
        ("[emerg] oops in /etc/nginx/sites-enabled/shop2:4", ""),
        ("/etc/else:1: not of the repository", ""),
        ("nothing is named", ""),
    ] {
        let expected = if source.is_empty() { line.to_owned() } else { format!("{line} ({source})") };
        assert_eq!(manifest.with_sources(line), expected);
    }
}
