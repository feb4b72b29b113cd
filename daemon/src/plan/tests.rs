//! Plans by table: order, wakes, conflicts, and how they read.

use std::collections::{BTreeMap, BTreeSet};

use super::{Defined, Intent, Material, Plan, PlanError, concerned_units, make};
use crate::change::{Change, DirFacts, FileFacts, Object, UnitFacts, Wake};
use crate::cycle::tests::{Chance, shipped_guards};
use crate::digest::Digest;
use crate::guard::Guards;
use crate::host::UnitSeen;
use crate::kind::{Claim, Phase};
use crate::manifest::{Manifest, Origin, Resource};
use crate::path::ManagedPath;
use crate::source::Commit;
use crate::units::definition::Definition;

fn object(text: Option<&str>) -> Object {
    match text.map(|t| (t, t.strip_prefix("-> "))) {
        None => Object::Absent,
        Some((_, Some(target))) => Object::Link { target: target.to_owned() },
        Some((text, None)) => {
            let (digest, size) = (Digest::of(text.as_bytes()), text.len() as u64);
            Object::File(FileFacts { digest, size, mode: 0o644, uid: 0, gid: 0 })
        }
    }
}

fn entry(path: &str, before: Option<&str>, after: Option<&str>) -> Change {
    Change::Entry { path: ManagedPath::new(path).unwrap(), before: object(before), after: object(after), secret: false }
}

fn dir(path: &str, before: Option<u32>, after: Option<u32>) -> Change {
    let facts = |mode: Option<u32>| mode.map(|mode| DirFacts { mode, uid: 0, gid: 0 });
    Change::Dir { path: ManagedPath::new(path).unwrap(), before: facts(before), after: facts(after) }
}

/// `+e` enabled, `-a` not active, `+m` masked…
fn facts(words: &str) -> UnitFacts {
    let field = |letter: char| words.split(' ').find(|w| w.ends_with(letter)).map(|w| w.starts_with('+'));
    UnitFacts { enabled: field('e'), masked: field('m'), active: field('a'), ..UnitFacts::default() }
}

fn unit(name: &str, before: &str, after: &str) -> Change {
    Change::Unit { unit: name.to_owned(), before: facts(before), after: facts(after) }
}

fn running(fragment: &str) -> UnitSeen {
    UnitSeen {
        load: "loaded".to_owned(),
        active: "active".to_owned(),
        file_state: "enabled".to_owned(),
        fragment: fragment.to_owned(),
        can_reload: true,
        ..UnitSeen::default()
    }
}

/// Everything that a plan is made from.
#[derive(Default)]
struct Given {
    wanted: Vec<Change>,
    left: Vec<Change>,
    /// `[[unit]]` tables as JSON.
    units: Vec<serde_json::Value>,
    seen: Vec<(&'static str, UnitSeen)>,
    definitions: BTreeMap<String, Defined>,
    /// `[[unit]]` tables that were live before.
    former: Vec<serde_json::Value>,
    guards: Option<Guards>,
}

impl Given {
    fn wanted(wanted: Vec<Change>) -> Self {
        Self { wanted, ..Self::default() }
    }

    fn left(self, left: Vec<Change>) -> Self {
        Self { left, ..self }
    }

    fn unit(mut self, table: serde_json::Value) -> Self {
        self.units.push(table);
        self
    }

    fn running(mut self, unit: &'static str, fragment: &str) -> Self {
        self.seen.push((unit, running(fragment)));
        self
    }

    fn try_plan(&self) -> Result<Plan, PlanError> {
        let guards = self.guards.clone().unwrap_or_else(shipped_guards);
        let resource = |spec: &serde_json::Value| Resource {
            kind: "unit".to_owned(),
            name: spec["name"].as_str().unwrap().to_owned(),
            spec: spec.clone(),
            origin: Origin { file: "reconciled.toml".to_owned(), line: 1, column: 1 },
        };
        let manifest = Manifest { resources: self.units.iter().map(resource).collect(), ..Manifest::default() };
        let claim = |change: &Change| Claim::new(change.clone(), "why");
        let claims = self.wanted.iter().enumerate().map(|(i, change)| {
            let (phase, kind) = if change.path().is_some() { (Phase::Files, "file") } else { (Phase::Units, "unit") };
            let target = change.target();
            let name = target.split_once(':').unwrap().1;
            let resource = if name.starts_with("/same") { format!("{kind}:{name}#{i}") } else { format!("{kind}:{name}") };
            (phase, resource, vec![claim(change)])
        });
        let places = crate::units::Places::of(self.wanted.iter());
        make(Material {
            places,
            lifelines: BTreeSet::new(),
            intent: Intent::Deploy,
            actor: "ana".to_owned(),
            commit: Commit::default(),
            manifest,
            claims: claims.collect(),
            releases: self.left.iter().map(claim).collect(),
            released: self.left.iter().map(Change::target).collect(),
            let_go: Vec::new(),
            units: self.seen.iter().map(|(name, seen)| ((*name).to_owned(), seen.clone())).collect(),
            definitions: self.definitions.clone(),
            former: self.former.iter().map(resource).collect(),
            pending: BTreeMap::new(),
            uncovering: BTreeSet::new(),
            guards: &guards,
        })
    }

    fn plan(&self) -> Plan {
        self.try_plan().unwrap()
    }

    fn wakes(&self) -> Vec<String> {
        self.plan().wakes.iter().map(|w| if proven(w) { format!("{w}, proven") } else { w.to_string() }).collect()
    }
}

fn proven(wake: &Wake) -> bool {
    matches!(wake, Wake::Reload { proof: Some(_), .. })
}

fn targets(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|s| format!("{}{}", s.change.sign(), s.change.target())).collect()
}

const SITE: &str = "/etc/nginx/conf.d/site.conf";
const FRAGMENT: &str = "/etc/systemd/system/app.service";

#[test]
fn order() {
    let plan = Given::wanted(vec![
        unit("app.service", "-e -a", "+e +a"),
        entry("/srv/a/b/c", None, Some("c")),
        entry("/etc/old", Some("x"), None),
        dir("/srv/a/b", None, Some(0o755)),
        entry("/etc/new", None, Some("n")),
        entry("/etc/systemd/system/unwanted.service", Some("u"), None),
        dir("/srv/a", None, Some(0o755)),
        unit("same.service", "+e +a", "+e +a"),
        entry("/etc/same", Some("s"), Some("s")),
    ])
    .left(vec![
        unit("gone.service", "+e +a", "-e -a"),
        unit("again.service", "-a", "+a"),
        dir("/opt/x", Some(0o755), None),
        entry("/opt/x/y", Some("y"), None),
        entry("/opt/back", Some("ours"), Some("theirs")),
        entry("/etc/systemd/system/left.service", Some("u"), None),
    ])
    .running("left.service", "/etc/systemd/system/left.service")
    .running("unwanted.service", "/etc/systemd/system/unwanted.service")
    .plan();
    assert_eq!(
        targets(&plan),
        [
            // Stops first: a reload that has forgotten a unit forgets how to stop it.
            "~unit:gone.service",
            "~unit:left.service",
            "~unit:unwanted.service",
            // What is made, directories before what stands in them…
            "+file:/etc/new",
            "~file:/opt/back",
            "+directory:/srv/a",
            "+directory:/srv/a/b",
            "+file:/srv/a/b/c",
            // …then what goes, children first…
            "-file:/opt/x/y",
            "-directory:/opt/x",
            "-file:/etc/systemd/system/unwanted.service",
            "-file:/etc/systemd/system/left.service",
            "-file:/etc/old",
            // …and units when all of that is there.
            "~unit:app.service",
            "~unit:again.service",
        ]
    );
    assert!(plan.claimed.contains_key("file:/etc/same"), "what is right already is claimed all the same");
}

#[test]
fn two_claims_on_one_target() {
    let same = |after| entry("/same/x", None, Some(after));
    assert_eq!(targets(&Given::wanted(vec![same("a"), same("a")]).plan()), ["+file:/same/x"]);
    let error = Given::wanted(vec![same("a"), same("b")]).try_plan().unwrap_err().to_string();
    assert_eq!(error, "file:/same/x#0 and file:/same/x#1 both claim file:/same/x and want different things: remove one of them");
}

#[test]
fn wakes() {
    use serde_json::json;
    let site = || Given::wanted(vec![entry(SITE, Some("a"), Some("b")), entry("/etc/nginx/nginx.conf", Some("c"), Some("d"))]);
    let app = || Given::wanted(vec![entry(FRAGMENT, Some("a"), Some("b"))]);
    let shop = || Given::wanted(vec![entry("/etc/shop/x.ini", Some("a"), Some("b"))]);
    let watching = |on: &str| json!({ "name": "app.service", "watch": ["/etc/shop/**"], "on_change": on });
    let nginx = "/usr/lib/systemd/system/nginx.service";
    let table: Vec<(&str, Given, Vec<&str>)> = vec![
        ("two nginx files, one reload", site().running("nginx.service", nginx), vec!["reload nginx.service, proven"]),
        ("nginx does not run", site(), vec![]),
        ("a file of no unit", shop(), vec![]),
        ("unit file of a running unit", app().running("app.service", FRAGMENT), vec!["daemon-reload", "restart app.service"]),
        ("unit file of a unit that does not run", app(), vec!["daemon-reload"]),
        (
            "unit file of a unit that is started anyway",
            Given::wanted(vec![entry(FRAGMENT, None, Some("b")), unit("app.service", "-e -a", "+e +a")])
                .running("app.service", FRAGMENT),
            vec!["daemon-reload"],
        ),
        (
            "unit file of a unit that is only enabled",
            Given::wanted(vec![entry(FRAGMENT, Some("a"), Some("b")), unit("app.service", "-e", "+e")])
                .running("app.service", FRAGMENT),
            vec!["daemon-reload", "restart app.service"],
        ),
        (
            "drop-in",
            Given::wanted(vec![entry("/etc/systemd/system/app.service.d/limits.conf", None, Some("b"))])
                .running("app.service", FRAGMENT),
            vec!["daemon-reload", "restart app.service"],
        ),
        (
            "drop-in that goes",
            Given::wanted(vec![entry("/etc/systemd/system/app.service.d/limits.conf", Some("b"), None)])
                .running("app.service", FRAGMENT),
            vec!["daemon-reload", "restart app.service"],
        ),
        (
            "unit file that goes",
            Given::default().left(vec![entry(FRAGMENT, Some("a"), None)]).running("app.service", FRAGMENT),
            vec!["daemon-reload"],
        ),
        (
            "link that enables",
            Given::wanted(vec![entry("/etc/systemd/system/x.wants/app.service", None, Some("-> ../app.service"))])
                .running("app.service", FRAGMENT),
            vec!["daemon-reload"],
        ),
        ("watch", shop().unit(watching("restart")).running("app.service", FRAGMENT), vec!["restart app.service"]),
        ("watch, reload", shop().unit(watching("reload")).running("app.service", FRAGMENT), vec!["reload app.service"]),
        ("watch, manager only", shop().unit(watching("daemon-reload")).running("app.service", FRAGMENT), vec!["daemon-reload"]),
        ("watch, nothing", shop().unit(watching("none")).running("app.service", FRAGMENT), vec![]),
        ("watch, not running", shop().unit(watching("restart")), vec![]),
        (
            "watch of a table that goes",
            Given { former: vec![watching("restart")], ..shop() }.running("app.service", FRAGMENT),
            vec!["restart app.service"],
        ),
        (
            "unit file, only the manager is to read it",
            app().unit(json!({ "name": "app.service", "on_change": "daemon-reload" })).running("app.service", FRAGMENT),
            vec!["daemon-reload"],
        ),
        (
            "unit file, nothing is to happen",
            app().unit(json!({ "name": "app.service", "on_change": "none" })).running("app.service", FRAGMENT),
            vec!["daemon-reload"],
        ),
        (
            "reload by guard and by watch: the proof stays",
            site()
                .unit(json!({ "name": "nginx.service", "watch": ["/etc/nginx/**"], "on_change": "reload" }))
                .running("nginx.service", nginx),
            vec!["reload nginx.service, proven"],
        ),
        (
            "restart makes the reload superfluous",
            site().unit(json!({ "name": "nginx.service", "watch": ["/etc/nginx/**"] })).running("nginx.service", nginx),
            vec!["restart nginx.service"],
        ),
        (
            "what guards run, before anything that may need it",
            Given::wanted(vec![
                entry("/etc/systemd/system/app.service", Some("a"), Some("b")),
                entry("/etc/sysusers.d/app.conf", None, Some("u")),
                entry("/etc/tmpfiles.d/app.conf", Some("d"), None),
            ])
            .running("app.service", FRAGMENT),
            vec![
                "daemon-reload",
                "run /usr/bin/systemd-sysusers",
                "run /usr/bin/systemd-tmpfiles --create",
                "restart app.service",
            ],
        ),
    ];
    for (name, given, expected) in table {
        assert_eq!(given.wakes(), expected, "{name}");
    }
}

#[test]
fn two_guards_on_one_unit_wake_it_once_and_prove_it() {
    let guard = |name: &str, proof: &str| {
        let text = format!(
            "name = \"{name}\"\nglobs = [\"/etc/nginx/**\"]\ncheck = [\"/bin/true\"]\n\
             [wake]\nunit = \"nginx.service\"\naction = \"reload\"\n{proof}"
        );
        toml::from_str(&text).unwrap()
    };
    for names in [["a", "b"], ["b", "a"]] {
        let guards = names.map(|n| guard(n, if n == "a" { "proof = { draining = \"going\" }\n" } else { "" }));
        let given = Given {
            wanted: vec![entry(SITE, Some("a"), Some("b"))],
            seen: vec![("nginx.service", running(""))],
            guards: Some(Guards::new(guards.into()).unwrap()),
            ..Given::default()
        };
        assert_eq!(given.wakes(), ["reload nginx.service, proven"]);
        assert_eq!(given.plan().guards.len(), 2);
    }
}

#[test]
fn guards_are_called_with_the_units_that_change() {
    let plan = Given::wanted(vec![
        entry("/etc/systemd/system/worker@.service", None, Some("w")),
        entry("/etc/systemd/system/app.service.d/x.conf", None, Some("x")),
        entry("/etc/systemd/system/gone.service", Some("g"), None),
        entry("/etc/systemd/system/a.wants/b.service", None, Some("-> x")),
    ])
    .plan();
    let calls: Vec<String> = plan.guards.iter().map(|g| g.argv.join(" ")).collect();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert!(calls[0].ends_with("verify --man=no -- app.service worker@check.service"), "{calls:?}");
    let only_gone = Given::wanted(vec![entry("/etc/systemd/system/gone.service", Some("g"), None)]).plan();
    assert_eq!(only_gone.guards, [], "there is nothing to verify");
}

#[test]
fn only_what_the_plan_touches_is_judged_and_looked_at() {
    use serde_json::json;
    let given = Given::wanted(vec![entry(SITE, Some("a"), Some("b")), unit("app.service", "-a", "+a")])
        .unit(json!({ "name": "other.service" }))
        .running("nginx.service", "")
        .running("other.service", "");
    assert_eq!(given.plan().touched, ["app.service", "nginx.service"]);
    assert!(given.plan().has_to_settle());
    let of =
        |unit_name: &str, before: &str, after: &str| Given::wanted(vec![unit(unit_name, before, after)]).plan().has_to_settle();
    assert_eq!(
        [
            of("app.service", "-a", "+a"),
            of("app.service", "-e +a", "+e +a"),
            of("app.socket", "-a", "+a"),
            of("app.path", "-a", "+a")
        ],
        [true, false, false, true]
    );
    assert!(!Given::wanted(vec![entry(SITE, Some("a"), Some("b"))]).running("nginx.service", "").plan().has_to_settle());

    let names = concerned_units(
        given.wanted.iter(),
        given.plan().manifest.resources.iter(),
        &shipped_guards(),
        &crate::units::Places::default(),
    );
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["app.service", "nginx.service", "other.service"]);
    // What does not change is looked at all the same: PID 1 may know it as it was. What only a guard names is not.
    let same = [entry(SITE, Some("a"), Some("a")), entry(FRAGMENT, Some("a"), Some("a"))];
    let names =
        concerned_units(same.iter(), given.plan().manifest.resources.iter(), &shipped_guards(), &crate::units::Places::default());
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["app.service", "other.service"]);
}

#[test]
fn the_same_claims_in_any_order_make_the_same_plan() {
    let given = || {
        let wanted = vec![
            dir("/srv/a", None, Some(0o755)),
            entry("/srv/a/x", None, Some("x")),
            entry("/srv/a/y", None, Some("y")),
            entry("/etc/old", Some("o"), None),
            entry(SITE, Some("a"), Some("b")),
            entry(FRAGMENT, Some("a"), Some("b")),
            unit("app.service", "-e", "+e"),
        ];
        let left = vec![entry("/opt/x/y", Some("y"), None), dir("/opt/x", Some(0o755), None), unit("z.service", "+a", "-a")];
        Given::wanted(wanted).left(left).running("nginx.service", "").running("app.service", FRAGMENT)
    };
    let first = given().plan();
    let mut chance = Chance(4);
    for _ in 0..200 {
        let mut other = given();
        for list in [&mut other.wanted, &mut other.left] {
            for i in (1..list.len()).rev() {
                list.swap(i, chance.below(i + 1));
            }
        }
        assert_eq!(other.plan().digest(), first.digest());
    }
    let mut changed = given();
    changed.wanted.push(entry("/etc/more", None, Some("m")));
    assert_ne!(changed.plan().digest(), first.digest());
}

#[test]
fn a_change_and_its_inverse_are_nothing() {
    let mut chance = Chance(5);
    for _ in 0..2000 {
        let text = |c: &mut Chance| [None, Some("a"), Some("b"), Some("-> t"), Some("-> u")][c.below(5)];
        let mode = |c: &mut Chance| [None, Some(0o755), Some(0o700), Some(0o2775)][c.below(4)];
        let words = |c: &mut Chance| ["", "+e", "-e +a", "+m -a", "-e -a -m"][c.below(5)];
        let change = match chance.below(3) {
            0 => entry("/etc/x", text(&mut chance), text(&mut chance)),
            1 => dir("/etc/x", mode(&mut chance), mode(&mut chance)),
            _ => unit("x.service", words(&mut chance), words(&mut chance)),
        };
        assert_eq!(change.inverse().inverse(), change);
        assert_eq!(change.inverse().target(), change.target());
        if change.path().is_some() {
            assert_eq!(change.inverse().is_noop(), change.is_noop());
            let sign = BTreeMap::from([('+', '-'), ('-', '+'), ('~', '~')])[&change.sign()];
            assert!(change.is_noop() || change.inverse().sign() == sign, "{change:?}");
        }
    }
}

#[test]
fn plans_read_like_this() {
    let nginx = |given: Given| given.running("nginx.service", "");
    let table: Vec<(Given, &str)> = vec![
        (Given::default(), "nothing to change"),
        (Given::wanted(vec![entry("/etc/x", Some("a"), Some("a"))]), "nothing to change"),
        (Given::wanted(vec![entry("/etc/x", None, Some("a"))]), "+ file:/etc/x (why) [undo: exact]"),
        (Given::wanted(vec![entry("/etc/x", Some("b"), Some("a"))]), "~ file:/etc/x (why) [undo: exact]"),
        (Given::wanted(vec![entry("/etc/x", Some("b"), None)]), "- file:/etc/x (why) [undo: exact]"),
        (Given::wanted(vec![dir("/srv/x", None, Some(0o755))]), "+ directory:/srv/x (why) [undo: exact]"),
        (Given::default().left(vec![dir("/srv/x", Some(0o755), None)]), "- directory:/srv/x (why) [undo: exact]"),
        (Given::default().left(vec![entry("/srv/x", Some("a"), Some("b"))]), "~ file:/srv/x (why) [undo: exact]"),
        (Given::wanted(vec![unit("a.service", "-e", "+e")]), "~ unit:a.service (why) [undo: exact]\n! daemon-reload"),
        (Given::wanted(vec![unit("a.service", "-e -a", "+e +a")]), "~ unit:a.service (why) [undo: best effort]\n! daemon-reload"),
        (
            nginx(Given::wanted(vec![entry(SITE, Some("a"), Some("b"))])),
            "~ file:/etc/nginx/conf.d/site.conf (why) [undo: exact]\n! reload nginx.service (/etc/nginx/conf.d/site.conf changed)",
        ),
        (
            Given::wanted(vec![entry(FRAGMENT, Some("a"), Some("b"))]).running("app.service", FRAGMENT),
            "~ file:/etc/systemd/system/app.service (why) [undo: exact]\n! daemon-reload\n! restart app.service (its unit file changed)",
        ),
        (
            Given::default().left(vec![entry(FRAGMENT, Some("a"), None)]).running("app.service", FRAGMENT),
            "~ unit:app.service (its file goes) [undo: best effort]\n- file:/etc/systemd/system/app.service (why) [undo: exact]\n! daemon-reload",
        ),
    ];
    for (given, expected) in table {
        assert_eq!(given.plan().lines().join("\n"), expected);
    }
}

/// What the files of a unit say, now and then.
fn defined(now: &str, then: &str) -> Defined {
    Defined { now: Definition::read([now]), then: Definition::read([then]), read: Vec::new() }
}

#[test]
fn what_a_unit_is_asked_to_do_and_why() {
    let app = |now: &str, then: &str| {
        let mut given = Given::wanted(vec![entry(FRAGMENT, Some("a"), Some("b"))]).running("app.service", FRAGMENT);
        given.definitions.insert("app.service".to_owned(), defined(now, then));
        given
    };
    let on_change = |on: &str| serde_json::json!({ "name": "app.service", "on_change": on });
    let restarted = || app("[Service]\nNice=1", "[Service]\nNice=2\nExecReload=/bin/true");
    let oneshot = |state: &str| {
        let mut given = app("[Service]\nType=oneshot", "[Service]\nType=oneshot\nNice=1");
        given.seen[0].1.active = state.to_owned();
        given
    };
    let mut named = Given::wanted(vec![entry("/etc/a", Some("a"), Some("b")), entry(SITE, Some("a"), Some("b"))]);
    named.seen = vec![("app.service", running("")), ("nginx.service", running(""))];
    for unit in ["app.service", "nginx.service"] {
        let path = |path: &str| (ManagedPath::new(path).unwrap(), format!("argument {path}"));
        named.definitions.insert(
            unit.to_owned(),
            Defined { read: vec![path("/etc/a"), path(SITE)], ..defined("", "[Service]\nExecReload=x") },
        );
    }
    let table: Vec<(&str, Given, &[&str])> = vec![
        (
            "words only",
            app("[Unit]\nDescription=a", "[Unit]\nDescription=b"),
            &["daemon-reload (app.service: Description changed)"],
        ),
        ("nothing", app("[Unit]", "[Unit]\n"), &["daemon-reload (app.service: says what it said before)"]),
        ("restart", restarted(), &["daemon-reload", "restart app.service (Nice changed)"]),
        ("declared: reload", restarted().unit(on_change("reload")), &["daemon-reload", "reload app.service (Nice changed)"]),
        (
            "declared: nothing",
            restarted().unit(on_change("none")),
            &["daemon-reload (app.service: Nice changed; on_change = \"none\")"],
        ),
        (
            "declared: reload, which it cannot",
            app("[Service]\nNice=1", "[Service]\nNice=2").unit(on_change("reload")),
            &["daemon-reload", "restart app.service (Nice changed, and it has no ExecReload=)"],
        ),
        (
            "at work",
            oneshot("activating"),
            &["daemon-reload (app.service: Nice changed, but it is at work: its next start reads that)"],
        ),
        ("not at work", oneshot("inactive"), &["daemon-reload"]),
        (
            "a guard knows better what its program reads",
            named,
            &[
                "restart app.service (its argument /etc/a changed, its argument /etc/nginx/conf.d/site.conf changed)",
                "restart nginx.service (its argument /etc/a changed)",
            ],
        ),
    ];
    for (name, given, expected) in table {
        let words: Vec<String> = given.plan().wakes_in_words().collect();
        assert_eq!(words, expected, "{name}");
    }
}

#[test]
fn what_pid_1_has_not_read_is_read() {
    let mut given = Given::wanted(vec![entry("/etc/x", Some("a"), Some("a"))]).running("app.service", FRAGMENT);
    given.seen[0].1.stale = true;
    assert_eq!(given.plan().lines(), ["! daemon-reload (app.service: PID 1 knows its files as they were)"]);
}
