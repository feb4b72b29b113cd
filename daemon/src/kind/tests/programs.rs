//! Kinds whose changes programs make: environments, commands.

use super::claims;
use crate::host::fake::{Node, World};

/// What is claimed of a manifest, and of a file `/home/ana/r.txt` where it is given.
fn of(manifest: &str, requirements: Option<&str>, host: impl FnOnce(&mut World)) -> Vec<String> {
    let mut list = vec![("reconciled.toml", manifest)];
    list.extend(requirements.map(|text| ("files/home/ana/r.txt", text)));
    claims(&list, host)
}

#[test]
fn environments() {
    let listed = "[[venv]]\npath = \"/home/ana/env\"\npackages = [\"Django==5.2\"]\n";
    let filed = "[[venv]]\npath = \"/home/ana/env\"\nrequirements = \"/home/ana/r.txt\"\n";
    let stamped = |answer: &'static str| move |w: &mut World| w.file("/home/ana/env/.reconciled", answer);
    assert_eq!(of(listed, None, |_| {}), ["+ venv:/home/ana/env (build)"]);
    assert_eq!(of(listed, None, stamped("built of others")), ["~ venv:/home/ana/env (other requirements)"]);
    assert_eq!(of(listed, None, stamped("damaged: x")), ["~ venv:/home/ana/env (damaged: x; build anew)"]);
    let answer = crate::venv::built("/usr/bin/python3", "Django==5.2\n");
    assert_eq!(of(listed, None, |w| w.file("/home/ana/env/.reconciled", &answer)), ["= venv:/home/ana/env"]);
    // Comments are no reason to build anew.
    let said = of(filed, Some("# the site\nDjango==5.2 # not 6\n"), |w| w.file("/home/ana/env/.reconciled", &answer));
    assert_eq!(said, ["+ file:/home/ana/r.txt (new)", "= venv:/home/ana/env"]);
    assert_eq!(of(filed, None, |w| w.file("/home/ana/r.txt", "a==1")), ["+ venv:/home/ana/env (build)"]);
    let deep = listed.replace("/home/ana/env", "/srv/site/env");
    assert_eq!(of(&deep, None, |_| {}), ["+ directory:/srv/site (implied)", "+ venv:/srv/site/env (build)"]);
    let absent = "[[venv]]\npath = \"/home/ana/env\"\nstate = \"absent\"\n";
    assert_eq!(of(absent, None, |_| {}), ["= venv:/home/ana/env"]);
    assert_eq!(of(absent, None, stamped("built x")), ["- venv:/home/ana/env (unwanted)"]);
}

#[test]
fn environments_that_cannot_be() {
    let filed = "[[venv]]\npath = \"/home/ana/env\"\nrequirements = \"/home/ana/r.txt\"\n";
    let error = |manifest: &str, requirements: Option<&str>, host: &dyn Fn(&mut World)| {
        of(manifest, requirements, |w| host(w)).pop().unwrap()
    };
    let nothing = |_: &mut World| {};
    assert_eq!(
        error(filed, Some("Django==5.2\ngevent\n"), &nothing),
        "error: files/home/ana/r.txt:2: `gevent` names no exact version: write gevent==VERSION, or add --hash=sha256:…"
    );
    assert!(
        error(filed, None, &nothing).contains("/home/ana/r.txt is neither on this host nor in the repository: add files/home")
    );
    // A line that is none is quoted: what not everybody may read is not read for whoever pushes.
    let kept = Node::File { content: b"root:hash".to_vec(), mode: 0o640, uid: 0, gid: 42, names: 1 };
    let said = error(filed, None, &move |w| drop(w.tree.insert("/home/ana/r.txt".to_owned(), kept.clone())));
    assert!(said.contains("is not for everybody to read") && !said.contains("hash"), "{said}");
    let without = |path: &'static str| move |w: &mut World| drop(w.tree.remove(path));
    let said = error(filed, Some(""), &without("/usr/bin/python3"));
    assert_eq!(said, "error: /usr/bin/python3 is not on this host: add packages = [\"python3-venv\"] above the first [header]");
    let said = error(filed, Some(""), &without("/usr/lib/python3.11/ensurepip/__init__.py"));
    assert!(
        said.contains("/usr/bin/python3.11 makes no virtual environment without ensurepip: add packages = [\"python3-venv\"]")
    );
    let owned = format!("{filed}owner = \"nobody-here\"\n");
    assert!(error(&owned, Some(""), &nothing).contains("the user `nobody-here` is neither on this host nor declared"));
}

const MIGRATE: &str =
    "[[command]]\nname = \"migrate\"\nlike = \"gunicorn.service\"\nforward = [\"python\", \"manage.py\", \"migrate\"]\n";
const ASK: &str = "ask = [\"python\", \"manage.py\", \"migrate\", \"--check\"]\n";

#[test]
fn commands() {
    let asked = format!("{MIGRATE}{ASK}");
    let of = |manifest: &str, more: &[(&str, &str)], host: &dyn Fn(&mut World)| {
        let list = [&[("reconciled.toml", manifest)], more].concat();
        let claims = claims(&list, |w| {
            w.site();
            host(w);
        });
        claims.into_iter().filter(|claim| claim.contains("command:") || claim.starts_with("error")).collect::<Vec<_>>().join("|")
    };
    let nothing = |_: &mut World| {};
    assert_eq!(of(&asked, &[], &nothing), "~ command:migrate (to do: python manage.py migrate)");
    assert_eq!(of(&asked, &[], &|w| w.file("/srv/migrated", "")), "= command:migrate");
    // What the host would answer says nothing of code, units and environments that are still to come.
    let later = "~ command:migrate (asked when all else is in place: python manage.py migrate)";
    assert_eq!(of(&asked, &[("files/srv/site/shop/models.py", "")], &nothing), later);
    let unit = "[Service]\nUser=www-data\nExecStart=/srv/site/env/bin/gunicorn\n";
    assert_eq!(of(&asked, &[("files/etc/systemd/system/gunicorn.service", unit)], &nothing), later);
    let built = format!("{asked}[[venv]]\npath = \"/srv/site/env\"\npackages = [\"a==1\"]\n");
    assert_eq!(of(&built, &[], &|w| drop(w.tree.remove("/srv/site/env/bin/python"))), later);
    assert_eq!(of(&asked, &[("files/etc/motd", "")], &nothing), "~ command:migrate (to do: python manage.py migrate)");
    // Without a question it runs once; what it watches has it run whatever the answer is.
    assert_eq!(of(MIGRATE, &[], &nothing), "~ command:migrate (python manage.py migrate)");
    let watching = format!("{asked}watch = [\"/srv/static/**\"]\n");
    let said = of(&watching, &[("files/srv/static/a.css", "")], &|w| w.file("/srv/migrated", ""));
    assert_eq!(said, "~ command:migrate (/srv/static/a.css changed: python manage.py migrate)");
    for (keys, host, why) in [
        (
            "",
            Box::new(|w: &mut World| drop(w.tree.remove("/srv/site/env/bin/python"))) as Box<dyn Fn(&mut World)>,
            "`python` is in none of /srv/site/env/bin, ",
        ),
        (
            "",
            Box::new(|w| drop(w.tree.remove("/usr/lib/systemd/system/gunicorn.service"))),
            "there is no gunicorn.service that starts a program",
        ),
        ("user = \"nobody-here\"\n", Box::new(nothing), "the user `nobody-here` is neither"),
        ("group = \"none-here\"\n", Box::new(nothing), "the group `none-here` is neither"),
        ("directory = \"/srv/none\"\n", Box::new(nothing), "the directory /srv/none is neither"),
        ("backward = [\"/srv/none\"]\n", Box::new(nothing), "/srv/none is neither on this host nor in the repository"),
        ("environment = { A = { secret = \"none\" } }\n", Box::new(nothing), "there is no secret `none`"),
    ] {
        let said = of(&format!("{MIGRATE}{keys}"), &[], &*host);
        assert!(said.starts_with("error: ") && said.contains(why), "{keys}: {said}");
    }
}
