//! Roles, databases and settings of PostgreSQL: what is claimed of them, and what is refused.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::{claims, entries};
use crate::change::{ABSENT, Change};
use crate::host::fake::postgres::Cluster;
use crate::host::fake::{Fake, World};
use crate::kind::{Claim, KindError, Sight, find};
use crate::manifest::{self, Manifest};
use crate::postgres::{Password, RoleFacts, scram};
use crate::source::Snapshot;

const ROLE: &str = "[[postgres_role]]\nname = \"shop\"\n";
const SEALED: &str = "[[postgres_role]]\nname = \"shop\"\npassword = { secret = \"db\" }\n";
const DATABASE: &str = "[[postgres_database]]\nname = \"shop\"\n";
const SETTING: &str = "[[postgres_setting]]\nname = \"work_mem\"\nvalue = \"8MB\"\n";

fn of(text: &str, host: impl FnOnce(&mut World)) -> Vec<String> {
    claims(&[("reconciled.toml", text)], host)
}

/// A cluster as it is before.
fn cluster(fill: impl Fn(&mut Cluster)) -> impl Fn(&mut World) {
    move |world| {
        let mut cluster = Cluster::default();
        fill(&mut cluster);
        cluster.keep(world);
    }
}

fn role(facts: RoleFacts) -> impl Fn(&mut Cluster) {
    move |cluster| drop(cluster.roles.insert("shop".to_owned(), facts.clone()))
}

fn refused(text: &str) -> String {
    let snapshot = Snapshot { entries: entries(&[("reconciled.toml", text)]), ..Snapshot::default() };
    let Err(faults) = manifest::read(&snapshot, &manifest::Context::default()) else { panic!("{text} is taken") };
    faults.iter().map(ToString::to_string).collect()
}

/// What the only resource claims when the repository has this secret.
fn with_secret(text: &str, secret: &str, host: impl FnOnce(&mut World)) -> Result<Claim, KindError> {
    let fake = Fake::new();
    host(&mut fake.world());
    let snapshot = Snapshot { entries: entries(&[("reconciled.toml", text)]), ..Snapshot::default() };
    let Manifest { resources, .. } = manifest::read(&snapshot, &manifest::Context::default()).unwrap();
    let secrets = BTreeMap::from([("db".to_owned(), secret.as_bytes().to_vec())]);
    let sight = Sight {
        host: &fake,
        secrets: &secrets,
        resources: &resources,
        former: &[],
        earlier: &[],
        contents: &|_| Ok(Vec::new()),
        definition: &|_| crate::units::definition::Definition::default(),
        may_run: true,
        postgres: OnceCell::new(),
    };
    find(&resources[0].kind).unwrap().claims(&resources[0], &sight).map(|mut claims| claims.remove(0))
}

#[test]
fn roles() {
    assert_eq!(of(ROLE, |_| {}), ["+ postgres_role:shop (new)"]);
    let there = || cluster(role(RoleFacts::default()));
    assert_eq!(of(ROLE, there()), ["= postgres_role:shop"], "naming one key manages only that key");
    let more = format!("{ROLE}createdb = true\nlogin = false\nsettings = {{ TimeZone = \"UTC\" }}\n");
    assert_eq!(of(&more, there()), ["~ postgres_role:shop (createdb, nologin, timezone)"]);
    let absent = format!("{ROLE}state = \"absent\"\n");
    assert_eq!(of(&absent, there()), ["- postgres_role:shop (drop)"]);
    assert_eq!(of(&absent, |_| {}), ["= postgres_role:shop"]);
    let owner = cluster(|cluster| {
        role(RoleFacts::default())(cluster);
        cluster.holds.insert("shop".to_owned(), vec!["the database shop".to_owned()]);
    });
    let said = of(&absent, owner);
    assert!(said[0].contains("cannot be dropped, since there is still the database shop: see REASSIGN OWNED"), "{said:?}");
}

#[test]
fn a_role_comes_after_those_that_it_names() {
    let member = "[[postgres_role]]\nname = \"a\"\nmember_of = [\"b\"]\n";
    let group = "[[postgres_role]]\nname = \"b\"\n";
    assert_eq!(of(&[group, member].concat(), |_| {}).len(), 2);
    assert!(of(&[member, group].concat(), |_| {})[0].contains("the role `b` is made after this one: declare it above"));
    assert!(of(member, |_| {})[0].contains("the role `b` is neither in PostgreSQL nor declared"));
    let owned = "[[postgres_database]]\nname = \"d\"\nowner = \"b\"\n";
    assert_eq!(of(&[owned, group].concat(), |_| {}), ["+ postgres_database:d (new)", "+ postgres_role:b (new)"]);
    let gone = "[[postgres_role]]\nname = \"b\"\nstate = \"absent\"\n";
    assert!(of(&[owned, gone].concat(), |_| {})[0].contains("neither in PostgreSQL nor declared"));
}

#[test]
fn a_password_is_set_once_and_never_said() {
    let claim = with_secret(SEALED, "hunter2 hunter2\n", |_| {}).unwrap();
    let Change::Run(run) = &claim.change else { panic!("{claim:?}") };
    assert_eq!([run.before.as_deref(), Some(run.after.as_str())], [Some(ABSENT), Some("login password=as wanted")]);
    let inputs = claim.inputs.values().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect::<String>();
    let said = format!("{claim:?}").replace(&format!("{:?}", claim.inputs), "");
    assert!(inputs.contains("SCRAM-SHA-256$4096:") && !inputs.contains("hunter2"), "the server gets a verifier");
    assert!(!said.contains("SCRAM") && !said.contains("hunter2"), "{said}");
    for call in [Some(&run.ask), Some(&run.forward), run.backward.as_ref()].into_iter().flatten() {
        assert_eq!((call.user.as_deref(), call.argv.len()), (Some("postgres"), 3));
        assert!(claim.inputs.contains_key(&call.input.unwrap()));
    }
    // Whatever salt the server's has, it stays where it is of this password.
    let login = |on| BTreeMap::from([("login".to_owned(), on)]);
    let with = |password: Password| {
        cluster(role(RoleFacts { password: Some(password), attributes: login(true), ..RoleFacts::default() }))
    };
    let salted = || Password::Verifier(scram::verifier("hunter2 hunter2", b"another salt"));
    assert!(with_secret(SEALED, "hunter2 hunter2", with(salted())).unwrap().change.is_noop());
    for (there, answer) in [
        (salted(), "login password=other"),
        (Password::Verifier("md5d41d8cd98f00b204e9800998ecf8427e".to_owned()), "login password=other"),
        (Password::None, "login password=none"),
    ] {
        let claim = with_secret(SEALED, "changed", with(there.clone())).unwrap();
        let Change::Run(run) = &claim.change else { panic!("{claim:?}") };
        assert_eq!((run.before.as_deref(), claim.reason.as_str()), (Some(answer), "password"));
        let back = &claim.inputs[&run.backward.as_ref().unwrap().input.unwrap()];
        let old = serde_json::to_string(&there).unwrap();
        assert!(String::from_utf8_lossy(back).contains(&old), "what was there comes back");
    }
    // Who has a password is to get in with it.
    let shut = RoleFacts { password: Some(salted()), attributes: login(false), ..RoleFacts::default() };
    assert_eq!(with_secret(SEALED, "hunter2 hunter2", cluster(role(shut))).unwrap().reason, "login");
    for bad in ["", "\n", "naïve", "a\tb"] {
        assert!(with_secret(SEALED, bad, |_| {}).unwrap_err().to_string().contains("printable ASCII"), "{bad:?}");
    }
    let said = of(SEALED, |_| {});
    assert!(said[0].contains("there is no secret `db`"), "{said:?}");
}

#[test]
fn databases() {
    assert_eq!(of(DATABASE, |_| {}), ["+ postgres_database:shop (new)"]);
    let there = || cluster(|cluster| drop(cluster.databases.insert("shop".to_owned(), latin())));
    assert_eq!(of(DATABASE, there()), ["= postgres_database:shop"]);
    assert_eq!(
        of(&format!("{DATABASE}owner = \"postgres\"\nextensions = [\"pg_trgm\"]\n"), there()),
        ["~ postgres_database:shop (owner ana → postgres, extension pg_trgm)"]
    );
    let said = of(&format!("{DATABASE}encoding = \"UTF8\"\n"), there());
    assert!(said[0].contains("has encoding LATIN1, and only a new one can be given another"), "{said:?}");
    assert!(
        of(&format!("{DATABASE}extensions = [\"no_such_thing\"]\n"), there())[0].contains("has no extension `no_such_thing`")
    );
    let absent = format!("{DATABASE}state = \"absent\"\ndrop_data = true\n");
    assert_eq!(of(&absent, there()), ["- postgres_database:shop (drop with all that is in it)"]);
    assert_eq!(of(&absent, |_| {}), ["= postgres_database:shop"]);
}

fn latin() -> crate::postgres::DatabaseFacts {
    let text = |text: &str| Some(text.to_owned());
    crate::postgres::DatabaseFacts { owner: text("ana"), encoding: text("LATIN1"), ..Default::default() }
}

#[test]
fn settings() {
    assert_eq!(of(SETTING, |_| {}), ["~ postgres_setting:work_mem (4MB → 8MB)"]);
    let set = |value: &'static str, slow: Option<bool>| {
        cluster(move |cluster| {
            cluster.settings.insert("work_mem".to_owned(), value.to_owned());
            cluster.slow.extend(slow.map(|pending| ("work_mem".to_owned(), pending)));
        })
    };
    assert_eq!(of(SETTING, set("8MB", None)), ["= postgres_setting:work_mem"]);
    assert_eq!(of(SETTING, set("1MB", Some(false))), ["~ postgres_setting:work_mem (1MB → 8MB, with a restart)"]);
    let absent = "[[postgres_setting]]\nname = \"work_mem\"\nstate = \"absent\"\n";
    assert_eq!(of(absent, set("1MB", None)), ["- postgres_setting:work_mem (1MB → reset)"]);
    assert_eq!(of(absent, |_| {}), ["= postgres_setting:work_mem"]);
    let restart = |host| with_secret(SETTING, "", host).unwrap().restart.map(|(unit, _)| unit);
    let unit = Some("postgresql@15-main.service".to_owned());
    assert_eq!(restart(Box::new(set("8MB", Some(true))) as Box<dyn Fn(&mut World)>), unit, "it waits for one");
    assert_eq!(restart(Box::new(set("1MB", Some(false)))), unit);
    assert_eq!(restart(Box::new(set("8MB", Some(false)))), None);
    assert_eq!(restart(Box::new(set("1MB", None))), None);
}

#[test]
fn what_is_not_there_yet_may_come() {
    for gone in ["/usr/bin/pg_lsclusters", ""] {
        let claim = with_secret(ROLE, "", |w| {
            w.tree.remove(gone);
            if gone.is_empty() {
                w.file(crate::accounts::PASSWD, "root:x:0:0::/root:\n");
            }
        });
        assert!(matches!(claim, Err(KindError::NotYet(why)) if why.contains("packages = [\"postgresql\"]")));
    }
}

#[test]
fn what_makes_no_sense() {
    for (table, said) in [
        ("[[postgres_role]]\nname = \"x\"\npassword = \"hunter2hunter2\"\n", "does not stand in a repository as it is"),
        ("[[postgres_role]]\nname = \"pg_x\"\n", "PostgreSQL's own"),
        ("[[postgres_role]]\nname = \"\"\n", "not a name in PostgreSQL"),
        ("[[postgres_role]]\nname = \"postgres\"\nlogin = false\n", "by way of `postgres`"),
        ("[[postgres_role]]\nname = \"x\"\nsettings = { \"a b\" = \"1\" }\n", "`a b` is not a setting"),
        ("[[postgres_role]]\nname = \"x\"\nsettings = { role = \"y\" }\n", "use member_of"),
        ("[[postgres_role]]\nname = \"x\"\nconnection_limit = -2\n", "-1 for any number"),
        ("[[postgres_role]]\nname = \"x\"\nstate = \"absent\"\nlogin = true\n", "an absent role has nothing else"),
        ("[[postgres_database]]\nname = \"x\"\nstate = \"absent\"\n", "would be lost"),
        ("[[postgres_database]]\nname = \"x\"\ndrop_data = true\n", "only an absent database"),
        ("[[postgres_database]]\nname = \"template1\"\n", "PostgreSQL's own"),
        ("[[postgres_database]]\nname = \"x\"\ngrants = { y = [\"SELECT\"] }\n", "not a privilege on a database"),
        ("[[postgres_setting]]\nname = \"x\"\n", "a setting without a value"),
        ("[[postgres_setting]]\nname = \"x; y\"\nvalue = \"1\"\n", "is not a setting"),
        ("[[postgres_setting]]\nname = \"hba_file\"\nvalue = \"/x\"\n", "is not managed"),
        ("[[postgres_setting]]\nname = \"unix_socket_directories\"\nvalue = \"/x\"\n", "conf.d/sockets.conf"),
        ("[[postgres_setting]]\nname = \"x\"\nvalue = \"a\\nb\"\n", "one line"),
    ] {
        let text = refused(table);
        assert!(text.contains(said), "{table}: {text}");
        assert!(!text.contains("hunter2"), "a password is not shown: {text}");
    }
}
