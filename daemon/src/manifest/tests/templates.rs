//! Variables, templates and expressions: what they see, what is said of mistakes, and that none runs away.

use std::time::{Duration, Instant};

use super::{good, lines, names, repo, web1};
use crate::facts::{Facts, Os, Postgresql};
use crate::manifest::{Context, Manifest, read};

/// A host with PostgreSQL, and two secrets.
fn host() -> Context {
    let os = Os { id: "debian".to_owned(), codename: Some("bookworm".to_owned()), ..Os::default() };
    let facts = Facts {
        hostname: "web1".to_owned(),
        cpus: 4,
        addresses: vec!["10.0.0.7".parse().unwrap()],
        os,
        postgresql: Postgresql { version: Some(15) },
        ..Facts::default()
    };
    let secrets = [("db", &b"hunter2\n"[..]), ("blob", b"\xff\xfe")].map(|(name, value)| (name.to_owned(), value.to_vec()));
    Context { facts, secrets: secrets.into(), ..web1() }
}

const VARS: &str = "[vars]\ndomain = \"shop.example\"\nports = [80, 443]\ndb = { name = \"shop\", pool = 5 }\nwide = true\nratio = 0.5\nday = 2026-01-02\n";

/// The manifest and one template at `/etc/shop.conf`.
fn with(manifest: &str, template: &str, context: &Context) -> Result<Manifest, String> {
    let entries = [
        ("reconciled.toml", manifest),
        ("files/etc/shop.conf.j2", template),
        ("templates/part.conf", "part of {{ vars.domain }}\n"),
        ("templates/bad.conf", "# one\n{{ vars.nothing }}\n"),
        ("templates/torn.conf", "{% if"),
        ("templates/loop.conf", "{% include 'loop.conf' %}"),
        ("templates/macros.conf", "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}"),
        ("secrets/sealed.age", "…"),
    ];
    read(&repo(&entries), context).map_err(|faults| lines(&faults))
}

#[track_caller]
fn text(manifest: &Manifest) -> String {
    let at = names(manifest).iter().position(|name| name == "file:/etc/shop.conf").unwrap();
    let (digest, _): (crate::digest::Digest, u64) =
        serde_json::from_value(manifest.resources[at].spec["source"].clone()).unwrap();
    String::from_utf8(manifest.contents[&digest].clone()).unwrap()
}

#[test]
fn what_templates_render_to() {
    for (template, wanted) in [
        ("server_name {{ vars.domain }};\n", "server_name shop.example;\n"),
        ("{% for p in vars.ports %}\nlisten {{ p }};\n{% endfor %}\n", "listen 80;\nlisten 443;\n"),
        ("{% if vars.wide %}\n  wide\n{% else %}\n  narrow\n{% endif %}", "  wide\n"),
        ("{{ vars.db.pool * 2 }} {{ vars.ratio }} {{ vars.day }} {{ vars.wide }}", "10 0.5 2026-01-02 true"),
        ("{% for k, v in vars.db | items %}{{ k }}={{ v }} {% endfor %}", "name=shop pool=5 "),
        ("{{ facts.hostname }} {{ facts.cpus }} {{ facts.addresses[0] }}\n", "web1 4 10.0.0.7\n"),
        ("{{ facts.os.codename }}/{{ facts.postgresql.version }}", "bookworm/15"),
        ("{{ vars.missing | default('none') }}{{ facts.fqdn is defined }}", "nonefalse"),
        ("{% if facts.fqdn is not defined and facts.cpus > 2 %}x{% endif %}", "x"),
        ("<a href=\"{{ vars.domain }}\">&amp;</a>", "<a href=\"shop.example\">&amp;</a>"),
        ("{{ '{{' }} {% raw %}{{ x }}{% endraw %}", "{{ {{ x }}"),
        ("{% include 'part.conf' %}{% include \"templates/part.conf\" %}", "part of shop.example\npart of shop.example\n"),
        ("{% from 'macros.conf' import twice %}{{ twice(vars.db.name) }}", "shopshop"),
        ("no end of line", "no end of line"),
        ("", ""),
        ("{# nothing #}\n", ""),
        ("{{ secrets.db }}!", "hunter2!"),
    ] {
        let manifest = with(VARS, template, &host()).unwrap_or_else(|said| panic!("{template}: {said}"));
        assert_eq!(text(&manifest), wanted, "{template}");
        assert_eq!(manifest.facts.is_some(), template.contains("facts."), "{template}");
        assert!(manifest.unopened.is_empty());
        assert_eq!(manifest.resources[0].spec["secret"], template.contains("secrets."), "{template}");
    }
}

#[test]
fn who_may_read_what_holds_a_secret() {
    let spec = |manifest: &str, template: &str, name: &str| {
        let entries = [("reconciled.toml", manifest), (name, template)];
        read(&repo(&entries), &host()).unwrap().resources[0].spec.clone()
    };
    let table = |keys: &str| format!("[[file]]\npath = \"/etc/x\"\n{keys}");
    let secret = "{{ secrets.db }}";
    for (manifest, template, name, mode, is_secret) in [
        ("", secret, "files/etc/x.j2", Some("0600"), true),
        ("", secret, "files/etc/x.j2*", Some("0700"), true),
        ("", "{% if secrets.db == 'x' %}{% endif %}", "files/etc/x.j2", Some("0600"), true),
        ("", "plain", "files/etc/x.j2", None, false),
        ("", "plain", "files/etc/x.j2*", Some("0755"), false),
        (table("mode = \"0640\"\n").as_str(), secret, "files/etc/x.j2", Some("0640"), true),
        ("[[file]]\npath = \"/etc/*\"\nmode = \"0440\"\n", secret, "files/etc/x.j2", Some("0440"), true),
        (table("secret = false\n").as_str(), secret, "files/etc/x.j2", Some("0600"), true),
        (table("owner = \"daemon\"\n").as_str(), secret, "files/etc/x.j2", Some("0600"), true),
    ] {
        let spec = spec(manifest, template, name);
        assert_eq!((spec["mode"].as_str(), spec["secret"] == true), (mode, is_secret), "{manifest}{template}{name}");
    }
}

#[test]
fn secrets_that_nobody_has_opened() {
    let manifest = with(VARS, "a {{ secrets.sealed }}", &host()).unwrap();
    assert_eq!((text(&manifest).as_str(), manifest.unopened.first().map(String::as_str)), ("a (sealed)", Some("sealed")));
    assert_eq!(manifest.resources[0].spec["mode"], "0600");
    let unused = with(VARS, "a", &host()).unwrap();
    assert!(unused.unopened.is_empty());
}

#[test]
fn mistakes_in_templates() {
    let at = "files/etc/shop.conf.j2";
    for (template, words) in [
        ("a\nb {{ vars.domian }}\n", format!("{at}:2:6: `vars.domian` is undefined: did you mean `vars.domain`?")),
        ("{{ vars.db.nmae }}", format!("{at}:1:4: `vars.db.nmae` is undefined: did you mean `vars.db.name`?")),
        ("{{ vars.port.http }}", format!("{at}:1:8: `vars.port` is undefined: did you mean `vars.ports`?")),
        ("{{ domain }}", format!("{at}:1:4: `domain` is undefined: did you mean `vars.domain`?")),
        ("{{ hostname }}", "did you mean `facts.hostname`?".to_owned()),
        ("{{ fatcs.cpus }}", "`fatcs` is undefined: did you mean `facts`?".to_owned()),
        ("{{ nonsense }}", "`nonsense` is undefined: there are: vars, facts, secrets".to_owned()),
        ("{% if vars.wiide %}{% endif %}", format!("{at}:1:7: `vars.wiide` is undefined: did you mean `vars.wide`?")),
        ("{% for x in vars.portz %}{% endfor %}", "`vars.portz` is undefined: did you mean `vars.ports`?".to_owned()),
        ("{{ vars.color == 'red' }}", "`vars.color` is undefined: add it to [vars] (vars has: ".to_owned()),
        ("{{ facts.os.nme }}", "`facts.os.nme` is undefined: this host does not have it (facts.os has: ".to_owned()),
        ("{{ secrets.dc }}", "`secrets.dc` is undefined: did you mean `secrets.db`?".to_owned()),
        (
            "{{ secrets.password }}",
            "`secrets.password` is undefined: seal it with `ssh HOST reconcilectl secret seal <plain >secrets/password.age`"
                .to_owned(),
        ),
        ("{{ secrets.blob }}", format!("{at}:1:4: the secret `blob` is no UTF-8 text")),
        ("{% include secrets.db %}", format!("{at}:1:4: template not found: templates include")),
        ("{{ secrets.db }}{{ vars[secrets.db] }}", format!("{at}:1:20: `vars[secrets.db]` is undefined")),
        ("{{ secrets.db.nope() }}", "unknown method: ".to_owned()),
        ("{{ secrets.db | int }}", "look at what is done with the secret".to_owned()),
        ("{{ debug() }}", "unknown function: ".to_owned()),
        ("{{ secrets.db + 1 }}", format!("{at}:1:4: invalid operation: look at what is done with the secret")),
        ("x\n{% if a", format!("{at}:2:")),
        ("{{ vars.domain", "not a template: ".to_owned()),
        ("{% endif %}", "literal braces stand between {% raw %} and {% endraw %}".to_owned()),
        ("{{ vars.domain | upcase }}", "unknown filter: ".to_owned()),
        ("{% include 'no.conf' %}", "templates include files below templates/ of the repository".to_owned()),
        ("{% include '../reconciled.toml' %}", "templates include files below templates/".to_owned()),
        ("{% include 'bad.conf' %}", "templates/bad.conf:2:4: `vars.nothing` is undefined".to_owned()),
        ("{% include 'torn.conf' %}", "templates/torn.conf:1:".to_owned()),
        ("{% include 'loop.conf' %}", "recursion".to_owned()),
        ("{{ 1 / 0 }}", format!("{at}:1:4: ")),
    ] {
        let said = with(VARS, template, &host()).map(|m| text(&m)).unwrap_err();
        assert!(said.contains(&words), "{template}\nlacks {words}:\n{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let fresh = Context { facts: Facts::default(), ..host() };
    let said = with(VARS, "{{ facts.postgresql.version }}", &fresh).unwrap_err();
    assert!(
        said.contains("`facts.postgresql.version` is undefined: PostgreSQL is not installed: facts are read before"),
        "{said}"
    );
}

#[test]
fn expressions_in_the_manifest() {
    let manifest = "[vars]\napp = \"shop\"\nport = 8000\n\
        [[unit]]\nname = \"{{ vars.app }}.service\"\nwatch = [\"/etc/{{ vars.app }}/**\", \"/etc/{a,b}\"]\n\
        [[file]]\npath = \"/etc/motd\"\ncontent = \"{{ facts.hostname }} {% if %} {# x #}\\n{{ '{{' }}\\n\"\n\
        [[probe]]\nname = \"site\"\nhttp = { url = \"http://127.0.0.1:{{ vars.port }}/\", host = \"{{ vars.app }}.example\" }\n";
    let manifest = format!("units = [\"{{{{ vars.app }}}}.socket\"]\n{manifest}");
    let read = read(&repo(&[("reconciled.toml", &manifest)]), &host()).unwrap();
    assert_eq!(names(&read), ["file:/etc/motd", "unit:shop.socket", "unit:shop.service"]);
    assert_eq!(read.resources[2].spec["watch"], serde_json::json!(["/etc/shop/**", "/etc/{a,b}"]));
    assert_eq!(read.contents.values().collect::<Vec<_>>(), [b"web1 {% if %} {# x #}\n{{\n"]);
    let http = read.probes[0].http.clone().unwrap();
    assert_eq!((http.url.as_deref(), http.host.as_deref()), (Some("http://127.0.0.1:8000/"), Some("shop.example")));
    assert!(read.facts.is_some());

    for (manifest, words) in [
        (
            "[vars]\napp = 1\n[[unit]]\nname = \"{{ vars.apt }}.service\"\n",
            "4:12: `vars.apt` is undefined: did you mean `vars.app`?",
        ),
        ("[[unit]]\nname = \"{{ vars.app }}.service\"\n", "2:12: `vars.app` is undefined: add it to [vars]"),
        ("[[unit]]\nname = \"\\u0061{{ vars.app }}.service\"\n", "2:8: `vars.app` is undefined"),
        ("[[unit]]\nname = \"{{ secrets.db }}.service\"\n", "`secrets` is undefined: secrets are only seen by templates"),
        ("[[unit]]\nname = \"{{ oops\"\n", "not a template: "),
        ("[vars]\napp = \"shop\"\n[[unit]]\nname = \"{{ vars.app }}\"\n", "4:8: `shop` has no unit suffix"),
        (
            "[vars]\nn = 5\n[[probe]]\nname = \"x\"\ntcp = \"a:1\"\nattempts = \"{{ vars.n }}\"\n",
            "`attempts` must be a whole number",
        ),
        ("[[vars]]\na = 1\n", "1:3: `vars` is a table, not an array: write [vars]"),
        ("vars = 5\n", "1:1: `vars` is a table, not an integer: write [vars]"),
        ("[vars]\na = 99999999999999999999\n", "2:5: this number is too large: put it in quotes"),
        (
            "[[unit]]\nname = \"a.service\"\n[unit.vars]\n",
            "unknown key `vars` in [[unit]]: `vars` belongs above the first [header]",
        ),
    ] {
        super::refused(manifest, &[words]);
    }
}

#[test]
fn variables_merge_key_by_key() {
    let manifest = good(&[
        ("reconciled.toml", "include = [\"roles/web\"]\n[vars]\na = 1\nlist = [1, 2]\n[vars.db]\nname = \"base\"\nport = 1\n"),
        ("roles/web/reconciled.toml", "[vars]\na = \"two\"\ndb = { port = 2 }\n"),
        (
            "roles/web/files/etc/x.j2",
            "{{ vars.a }} {{ vars.db.name }}:{{ vars.db.port }} {{ vars.list | join('+') }} {{ vars.h }}",
        ),
        ("hosts/web1/reconciled.toml", "[vars]\nlist = [3]\nh = true\n"),
    ]);
    assert_eq!(manifest.contents.values().collect::<Vec<_>>(), [b"two base:2 3 true"]);
    assert_eq!(manifest.resources[0].origin.to_string(), "roles/web/files/etc/x.j2");
}

#[test]
fn trees_with_templates() {
    for (entries, words) in [
        (&[("files/etc/x", "a"), ("files/etc/x.j2", "b")][..], "files/etc/x.j2: files/etc/x has the same place: keep one"),
        (&[("files/etc/x.j2@", "y")], "files/etc/x.j2: a symbolic link is no template"),
        (&[("files/etc/.j2", "")], "empty component"),
        (&[("files/etc/x.j2.age", "")], "a sealed file is not rendered"),
    ] {
        let said = super::faults(entries);
        assert!(said.contains(words), "{said}");
    }
    let over = good(&[("files/etc/x", "a"), ("hosts/web1/files/etc/x.j2", "{{ 1 + 1 }}"), ("files/etc/y.j2.j2", "z")]);
    assert_eq!(names(&over), ["file:/etc/x", "file:/etc/y.j2"]);
    assert!(over.contents.values().any(|content| content == b"2"));
    let mut snapshot = repo(&[]);
    let file = crate::source::SourceEntry::File { content: b"ok\n\xff".to_vec(), executable: false };
    snapshot.entries.insert("files/etc/x.j2".to_owned(), file);
    let said = lines(&read(&snapshot, &web1()).unwrap_err());
    assert!(said.contains("files/etc/x.j2:2:1: a template has to be UTF-8 text"), "{said}");
}

/// Templates that want to be without end.
fn endless() -> Vec<String> {
    let nested = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    // As many as fit into the largest template.
    let chain = |open: &str, link: &str, close: &str| format!("{open}{}{close}", link.repeat(((64 << 10) - 20) / link.len()));
    vec![
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}".to_owned(),
        "{{ 'x' * 100000000000 }}".to_owned(),
        "{% set ns = namespace(s='x') %}{% for a in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}".to_owned(),
        "{% set ns = namespace(s=[]) %}{% for a in range(90000) %}{% set ns.s = [[[[ns.s]]]] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(s=[]) %}{% for a in range(5000) %}{% set ns.s = [[[[[[[[[[[[ns.s]]]]]]]]]]]] %}{% endfor %}{{ ns.s }}".to_owned(),
        "{% set ns = namespace(s=[]) %}{% for a in range(5000) %}{% set ns.s = {'a': {'a': {'a': ns.s}}} %}{% endfor %}{{ ns.s }}".to_owned(),
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}".to_owned(),
        "{% for x in [[[]]] recursive %}{{ loop([[x]]) }}{% endfor %}".to_owned(),
        "{{ 2 ** (2 ** (2 ** (2 ** 9))) }}".to_owned(),
        format!("{{{{ {} }}}}", nested("(", ")", 30_000)),
        format!("{{{{ {} }}}}", nested("[", "]", 30_000)),
        nested("{% if true %}", "{% endif %}", 2000),
        nested("{% for x in [1] %}", "{% endfor %}", 140),
        chain("", "{% if true %}", ""),
        chain("{% set x = [] %}", "{%set x=[x]%}", "{{ x }}"),
        chain("{% if 0 %}", "{%elif 0%}", "{% endif %}"),
        chain("{{ ", "not ", "1 }}"),
        chain("{{ ", "-", "1 }}"),
        chain("{{ 1", "+1", " }}"),
        chain("{{ 1", " if 1 else 1", " }}"),
        chain("{{ 'a'", "|e", " }}"),
        chain("{{ 1", " is odd", " }}"),
        chain("{{ [1]", "[0]", " }}"),
        chain("{{ vars", ".a", " }}"),
        "x".repeat((64 << 10) + 1),
    ]
}

#[test]
fn no_template_runs_away() {
    let began = Instant::now();
    let run = || {
        for template in endless() {
            // Some are long and mean something; no more is asked than that each comes to an end.
            let said = with(VARS, &template, &host()).map_or_else(|said| said, |m| text(&m));
            assert!(said.len() < 200_000, "{said:.1000}");
        }
    };
    // What is not optimised takes more.
    let thread = std::thread::Builder::new().stack_size(4 * crate::manifest::STACK);
    thread.spawn(run).unwrap().join().unwrap();
    for (template, message) in [
        ("{% for a in range(90000) %}{{ 'x' * 300 }}{% endfor %}".to_owned(), "this template does too much: shorten its loops"),
        ("x".repeat((64 << 10) + 1), "a template is at most 64 KiB: include parts of it"),
    ] {
        let said = with(VARS, &template, &host()).map(|m| text(&m).len()).unwrap_err();
        assert!(said.contains(message), "{said}");
    }
    // What each may do is bounded, and so is what all do together.
    let busy = "{% for a in range(90) %}{% for b in range(90) %}{% endfor %}{% endfor %}";
    let large = "{{ 'x' * 2500000 }}";
    for (template, message) in
        [(busy, "this template does too much"), (large, "all templates together render to more than 64 MiB")]
    {
        let many: Vec<(String, &str)> = (0..5000).map(|i| (format!("files/etc/{i}.j2"), template)).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let said = super::faults(&many);
        assert!(said.contains(message), "{said}");
    }
    assert!(began.elapsed() < Duration::from_secs(240), "{:?}", began.elapsed());
}
