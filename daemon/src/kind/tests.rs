//! Kinds by table: a repository and a host, and what is claimed.

mod postgres;
mod programs;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use super::{KINDS, Sight};
use crate::change::{Change, DirFacts};
use crate::cycle::tests::entries;
use crate::digest::Digest;
use crate::host::fake::{Fake, Node, World};
use crate::manifest;
use crate::source::Snapshot;
use crate::units::definition::Definition;

/// Every claim as the plan would show it, `=` for one that is right already; or the first thing that cannot be.
fn claims(list: &[(&str, &str)], host: impl FnOnce(&mut World)) -> Vec<String> {
    let fake = Fake::new();
    host(&mut fake.world());
    let snapshot = Snapshot { entries: entries(list), ..Snapshot::default() };
    let manifest = manifest::read(&snapshot, &manifest::Context::default()).unwrap_or_else(|e| panic!("{list:?}: {e:?}"));
    // What the examples name.
    let secrets = BTreeMap::from([("db_password".to_owned(), b"correct horse".to_vec())]);
    let contents = |digest: &Digest| Ok(manifest.contents.get(digest).cloned().unwrap_or_default());
    let (mut said, mut earlier) = (Vec::new(), Vec::<Change>::new());
    for (resource, kind) in crate::plan::order::of(&manifest.resources).unwrap() {
        let before: Vec<&Change> = earlier.iter().collect();
        let definition = |unit: &str| {
            let texts = ["/usr/lib/systemd/system", "/etc/systemd/system"].map(|dir| fake.world().text(&format!("{dir}/{unit}")));
            Definition::read(texts.iter().flatten().map(String::as_str))
        };
        let sight = Sight {
            host: &fake,
            secrets: &secrets,
            resources: &manifest.resources,
            former: &[],
            earlier: &before,
            contents: &contents,
            definition: &definition,
            may_run: true,
            postgres: OnceCell::new(),
        };
        match kind.claims(resource, &sight) {
            Err(error) => said.push(format!("error: {error}")),
            Ok(claims) => {
                said.extend(claims.iter().map(|c| {
                    let sign = if c.change.is_noop() { '=' } else { c.change.sign() };
                    let reach = if c.within_reach { ", within reach" } else { "" };
                    let reason = if c.change.is_noop() { String::new() } else { format!(" ({}{reach})", c.reason) };
                    format!("{sign} {}{reason}", c.change.target())
                }));
                earlier.extend(claims.into_iter().map(|claim| claim.change));
            }
        }
    }
    assert_eq!(fake.calls(), 0, "a kind only looks");
    said
}

fn file(content: &str, mode: u32, uid: u32, names: u64) -> Node {
    Node::File { content: content.into(), mode, uid, gid: uid, names }
}

/// Keys of a table, a host, and what is claimed.
type Row<'a> = (&'a str, Box<dyn FnOnce(&mut World)>, Vec<&'a str>);

#[test]
fn files() {
    let put = |node: Node| move |w: &mut World| drop(w.tree.insert("/etc/x".to_owned(), node));
    let plain: &[(&str, &str)] = &[("files/etc/x", "a")];
    let table: Vec<Row<'_>> = vec![
        ("", Box::new(|_| {}), vec!["+ file:/etc/x (new)"]),
        ("", Box::new(put(file("a", 0o644, 0, 1))), vec!["= file:/etc/x"]),
        ("", Box::new(put(file("b", 0o644, 0, 1))), vec!["~ file:/etc/x (content)"]),
        ("", Box::new(put(file("b", 0o600, 33, 1))), vec!["~ file:/etc/x (content, mode 0600 → 0644, owner 33:33 → 0:0)"]),
        ("", Box::new(put(Node::Link("y".to_owned()))), vec!["~ file:/etc/x (was a link to y)"]),
        (
            "",
            Box::new(put(Node::Other("socket"))),
            vec!["error: /etc/x is a socket; only files and links are replaced: move it away first"],
        ),
        (
            "",
            Box::new(|w| w.dir("/etc/x")),
            vec!["error: /etc/x is a directory; only files and links are replaced: move it away first"],
        ),
        (
            "",
            Box::new(put(file("b", 0o644, 0, 2))),
            vec!["error: /etc/x has 2 names (hard links); replacing it would part them: set links = \"break\" if that is meant"],
        ),
        ("", Box::new(put(file("a", 0o644, 0, 2))), vec!["= file:/etc/x"]),
        ("links = \"break\"\n", Box::new(put(file("b", 0o644, 0, 2))), vec!["~ file:/etc/x (content)"]),
        (
            "owner = \"ana\"\nmode = \"0400\"\n",
            Box::new(put(file("a", 0o644, 0, 1))),
            vec!["~ file:/etc/x (mode 0644 → 0400, owner 0:0 → 1000:1000)"],
        ),
        (
            "owner = \"nobody-here\"\n",
            Box::new(|_| {}),
            vec!["error: /etc/x: the user `nobody-here` is neither on this host nor declared: create it, or correct `owner`"],
        ),
        (
            "group = \"none-here\"\n",
            Box::new(|_| {}),
            vec!["error: /etc/x: the group `none-here` is neither on this host nor declared: create it, or correct `group`"],
        ),
    ];
    for (keys, host, expected) in table {
        let table = format!("[[file]]\npath = \"/etc/x\"\n{keys}");
        let more = [("reconciled.toml", if keys.is_empty() { "" } else { table.as_str() })];
        assert_eq!(claims(&[plain, &more].concat(), host), expected, "{keys}");
    }
    let absent = [("reconciled.toml", "[[file]]\npath = \"/etc/x\"\nstate = \"absent\"\n")];
    assert_eq!(claims(&absent, put(file("b", 0o644, 0, 1))), ["- file:/etc/x (unwanted)"]);
    assert_eq!(claims(&absent, |_| {}), ["= file:/etc/x"]);
}

#[test]
fn what_follows_from_the_place() {
    // Implied directories are made once where they are missing; under a home all is its user's.
    let said = claims(&[("files/home/ana/.config/app/x", "a"), ("files/srv/there/y", "b")], |w| w.dir("/srv/there"));
    assert_eq!(
        said,
        [
            "+ directory:/home/ana/.config (implied)",
            "+ directory:/home/ana/.config/app (implied)",
            "+ file:/home/ana/.config/app/x (new)",
            "+ file:/srv/there/y (new)",
        ]
    );
    let mine = |w: &mut World| {
        w.dir("/home/ana/.config");
        w.tree.insert("/home/ana/.config/x".to_owned(), file("a", 0o644, 1000, 1));
    };
    assert_eq!(claims(&[("files/home/ana/.config/x", "a")], mine), ["= file:/home/ana/.config/x"]);
    // A link on the way is named with where it leads.
    let linked = |w: &mut World| drop(w.tree.insert("/srv/www".to_owned(), Node::Link("/var/www".to_owned())));
    let said = claims(&[("files/srv/www/x", "a")], linked);
    assert!(said[0].starts_with("error: ") && said[0].contains("/srv/www") && said[0].contains("/var/www"), "{said:?}");
}

#[test]
fn directories() {
    let with = |keys: &str| format!("[[directory]]\npath = \"/srv/x\"\n{keys}");
    let put = |mode, uid| move |w: &mut World| drop(w.tree.insert("/srv/x".into(), Node::Dir(DirFacts { mode, uid, gid: uid })));
    let of = |keys: &str, host: Box<dyn FnOnce(&mut World)>| claims(&[("reconciled.toml", &with(keys))], host);
    assert_eq!(of("", Box::new(|_| {})), ["+ directory:/srv/x (new)"]);
    assert_eq!(of("", Box::new(put(0o700, 33))), ["= directory:/srv/x"], "naming one key manages only that key");
    assert_eq!(of("mode = \"0750\"\n", Box::new(put(0o700, 33))), ["~ directory:/srv/x (mode 0700 → 0750)"]);
    assert_eq!(of("owner = \"www-data\"\n", Box::new(put(0o700, 0))), ["~ directory:/srv/x (owner 0:0 → 33:33)"]);
    assert_eq!(of("group = \"www-data\"\n", Box::new(put(0o700, 0))), ["~ directory:/srv/x (owner 0:0 → 0:33)"]);
    assert_eq!(of("state = \"absent\"\n", Box::new(put(0o700, 0))), ["- directory:/srv/x (unwanted)"]);
    assert_eq!(of("state = \"absent\"\n", Box::new(|_| {})), ["= directory:/srv/x"]);
    let full = |w: &mut World| {
        w.dir("/srv/x");
        w.file("/srv/x/data", "precious");
    };
    assert!(of("state = \"absent\"\n", Box::new(full))[0].contains("is not empty: empty it by hand"));
    let said = of("", Box::new(|w| w.file("/srv/x", "a file")));
    assert!(said[0].contains("not a directory"), "{said:?}");
    assert_eq!(claims(&[("reconciled.toml", "directories = [\"/srv/a/b\"]\n")], |_| {}).len(), 2, "its parent is implied");
}

#[test]
fn links() {
    let list: &[(&str, &str)] = &[("files/etc/x@", "../y")];
    let put = |node: Node| move |w: &mut World| drop(w.tree.insert("/etc/x".to_owned(), node));
    assert_eq!(claims(list, |_| {}), ["+ file:/etc/x (new)"]);
    assert_eq!(claims(list, put(Node::Link("../y".to_owned()))), ["= file:/etc/x"]);
    assert_eq!(claims(list, put(Node::Link("z".to_owned()))), ["~ file:/etc/x (target z → ../y)"]);
    assert_eq!(claims(list, put(Node::file("f"))), ["~ file:/etc/x (was a file)"]);
    assert!(claims(list, |w| w.dir("/etc/x"))[0].contains("is a directory"));
    let absent = [("reconciled.toml", "[[link]]\npath = \"/etc/x\"\nstate = \"absent\"\n")];
    assert_eq!(claims(&absent, put(Node::Link("z".to_owned()))), ["- file:/etc/x (unwanted)"]);
    assert_eq!(claims(&absent, |_| {}), ["= file:/etc/x"]);
}

#[test]
fn units() {
    let place = "/usr/lib/systemd/system/a.service";
    let there = move |w: &mut World| w.file(place, "[Service]\n");
    let up = move |w: &mut World| {
        there(w);
        w.running("a.service", place, &[]);
    };
    let of = |keys: &str, host: Box<dyn FnOnce(&mut World)>| {
        claims(&[("reconciled.toml", &format!("[[unit]]\nname = \"a.service\"\n{keys}"))], host)
    };
    assert_eq!(of("", Box::new(there)), ["~ unit:a.service (enable, start)"], "only a name: enabled and active");
    assert_eq!(of("", Box::new(up)), ["= unit:a.service"]);
    assert_eq!(of("enabled = false\n", Box::new(up)), ["~ unit:a.service (disable)"]);
    assert_eq!(of("active = false\n", Box::new(up)), ["~ unit:a.service (stop)"]);
    assert_eq!(of("masked = true\n", Box::new(up)), ["~ unit:a.service (mask)"]);
    assert_eq!(of("masked = false\n", Box::new(up)), ["= unit:a.service"]);
    assert_eq!(of("enabled = true\n", Box::new(there)), ["~ unit:a.service (enable)"], "active is nobody's business then");
    let fixed = move |w: &mut World| {
        up(w);
        w.units.get_mut("a.service").unwrap().fixed = true;
    };
    assert_eq!(of("", Box::new(fixed)), ["= unit:a.service"], "a static unit cannot be enabled, and need not be");
}

#[test]
fn users() {
    let of = |keys: &str, host: Box<dyn FnOnce(&mut World)>| {
        claims(&[("reconciled.toml", &format!("[[user]]\nname = \"ana\"\n{keys}"))], host)
    };
    let none = || Box::new(|_: &mut World| {});
    let without = || {
        Box::new(|w: &mut World| {
            w.file("/etc/passwd", "root:x:0:0::/root:\n");
            w.tree.remove("/home/ana");
        })
    };
    assert_eq!(of("", without()), ["+ user:ana (new)"]);
    assert_eq!(of("", none()), ["= user:ana"]);
    assert_eq!(of("", Box::new(|w| drop(w.tree.remove("/home/ana")))), ["~ user:ana (its home is missing)"]);
    assert_eq!(
        of("home_mode = \"0711\"\nshell = \"/bin/zsh\"\n", Box::new(|w| w.file("/bin/zsh", ""))),
        ["~ user:ana (home_mode 0755 → 0711, shell  → /bin/zsh)"]
    );
    assert_eq!(
        of("shell = \"/bin/zsh\"\n", none()),
        ["error: ana: there is no /bin/zsh on this host: declare the package that brings it, or correct `shell`"]
    );
    assert_eq!(of("groups = [\"www-data\"]\n", none()), ["~ user:ana (groups none → www-data)"]);
    let member = |w: &mut World| w.file("/etc/group", "www-data:x:33:ana\nadm:x:4:ana\n");
    assert_eq!(of("groups = [\"www-data\"]\n", Box::new(member)), ["= user:ana"], "others stay");
    assert_eq!(
        of("groups = [\"docker\"]\n", none()),
        [
            "error: ana: the group `docker` is neither on this host nor declared: write a [[group]] table for it, or correct the name"
        ]
    );
    assert_eq!(of("groups = [\"docker\"]\n[[group]]\nname = \"docker\"\n", none()).len(), 2);
    assert_eq!(of("groups = [\"docker\"]\n[[package]]\nname = \"docker.io\"\n", none()).len(), 2, "a package may bring it");
    let password = |hash: &'static str| Box::new(move |w: &mut World| w.file("/etc/shadow", &format!("ana:{hash}:1::::::\n")));
    assert_eq!(of("password = \"locked\"\n", password("$y$x")), ["~ user:ana (password set → locked)"]);
    assert_eq!(of("password = \"locked\"\n", password("!")), ["= user:ana"]);
    assert_eq!(of("", password("$y$x")), ["= user:ana"], "a password that is there stays");
    assert_eq!(of("state = \"absent\"\n", none()), ["- user:ana (remove)"]);
    assert_eq!(of("state = \"absent\"\n", without()), ["= user:ana"]);
    let said = claims(&[("reconciled.toml", "[[user]]\nname = \"www-data\"\nstate = \"absent\"\n")], |_| {});
    assert!(said[0].contains("belongs to the system"), "{said:?}");
    assert_eq!(claims(&[("reconciled.toml", "users = [\"www-data\"]\n")], |_| {}), ["= user:www-data"], "/var/www is not made");
    let system = claims(&[("reconciled.toml", "[[user]]\nname = \"shop\"\nsystem = true\n")], |_| {});
    assert_eq!(system, ["+ user:shop (new)"]);
    // What will stand in a home waits until its owner can be seen.
    let said = claims(&[("reconciled.toml", "users = [\"sammy\"]\n"), ("files/home/sammy/x", "a")], |_| {});
    assert_eq!(
        said,
        ["+ user:sammy (new)", "error: /home/sammy/x: it is in the home of the user sammy, who is not on this host yet"]
    );
}

#[test]
fn groups() {
    let of = |keys: &str| claims(&[("reconciled.toml", &format!("[[group]]\n{keys}"))], |_| {});
    assert_eq!(of("name = \"deployers\"\n"), ["+ group:deployers (new)"]);
    assert_eq!(of("name = \"ana\"\n"), ["= group:ana"]);
    assert_eq!(of("name = \"ana\"\ngid = 1500\n"), ["~ group:ana (gid 1000 → 1500)"]);
    assert_eq!(of("name = \"ana\"\nstate = \"absent\"\n"), ["- group:ana (remove)"]);
    assert_eq!(of("name = \"none\"\nstate = \"absent\"\n"), ["= group:none"]);
    assert!(of("name = \"www-data\"\nstate = \"absent\"\n")[0].contains("belongs to the system"));
}

/// What `[ufw]` with these keys claims.
fn of_ufw(keys: &str, host: Box<dyn FnOnce(&mut World)>) -> Vec<String> {
    claims(&[("reconciled.toml", &format!("[ufw]\n{keys}"))], host)
}

/// A host with these rules, of both families.
fn rules(tuples: &'static str) -> Box<dyn FnOnce(&mut World)> {
    Box::new(move |w| {
        for (path, anywhere) in [("/etc/ufw/user.rules", "0.0.0.0/0"), ("/etc/ufw/user6.rules", "::/0")] {
            let line = |tuple: &str| format!("### tuple ### {}\n", tuple.replace('A', anywhere));
            w.file(path, &tuples.lines().map(line).collect::<String>());
        }
    })
}

const SHUT_OUT: &str = "error: [ufw]: this would shut SSH out, and with it whoever administers the host: ";

#[test]
fn firewalls() {
    let of = of_ufw;
    let none = || Box::new(|_: &mut World| {});
    assert_eq!(
        of("enabled = true\nallow = [\"OpenSSH\"]\n", none()),
        ["~ ufw:allow (allow none → OpenSSH)", "= ufw:deny", "~ ufw:enabled (enabled off → on, within reach)"]
    );
    assert_eq!(of("enabled = true\n", none()), [format!("{SHUT_OUT}write allow = [\"OpenSSH\"]")]);
    let elsewhere = Box::new(|w: &mut World| w.file("/etc/ssh/sshd_config", "Port 2222\n"));
    let said = of("enabled = true\nallow = [\"OpenSSH\"]\n", elsewhere);
    assert_eq!(said, [format!("{SHUT_OUT}sshd listens on 2222: write allow = [\"2222/tcp\"]")]);
    // A rule of others lets it in as well, and stays; one of ours that nobody wants goes.
    assert_eq!(
        of("enabled = true\n", rules("allow tcp 22 A any A in\nallow tcp 9000 A any A in comment=7265636f6e63696c6564")),
        ["~ ufw:deny (deny our allow 9000/tcp → none)", "~ ufw:enabled (enabled off → on, within reach)"]
    );
    assert!(of("enabled = true\ndeny = [\"22/tcp\"]\n", rules("allow any 22 A any A in"))[0].starts_with(SHUT_OUT));
    assert_eq!(of("allow = [\"22/tcp\"]\n", rules("limit tcp 22 A any A in")), ["= ufw:allow", "= ufw:deny"]);
    let said = of("allow = [\"22/tcp\"]\ndeny = [\"80\"]\n", rules("reject tcp 22 A any A in\nallow any 80 A any A in"));
    assert_eq!(
        said,
        [
            "~ ufw:allow (allow none → 22/tcp, in place of somebody's reject 22/tcp)",
            "~ ufw:deny (deny none → 80, in place of somebody's allow 80)"
        ]
    );
    assert_eq!(
        of("default_incoming = \"reject\"\n", none()),
        ["= ufw:deny", "~ ufw:default_incoming (default_incoming deny → reject)"]
    );
    let unknown = of("allow = [\"Nginx Full\"]\n", none());
    assert!(unknown[0].contains("ufw knows no application `Nginx Full`"), "{unknown:?}");
    // An application that comes with the same commit, and one that goes with it.
    let shop = ("files/etc/ufw/applications.d/shop", "[Shop]\ntitle=Shop\ndescription=x\nports=8443/tcp\n");
    let said = claims(&[("reconciled.toml", "[ufw]\nallow = [\"Shop\"]\n"), shop], |_| {});
    assert_eq!(said.last().map(String::as_str), Some("= ufw:deny"), "{said:?}");
    assert!(said.contains(&"~ ufw:allow (allow none → Shop)".to_owned()), "{said:?}");
    let other = ("files/etc/ufw/applications.d/openssh-server", "[Shell]\nports=22/tcp\n");
    let said = claims(&[("reconciled.toml", "[ufw]\nallow = [\"OpenSSH\"]\n"), other], |_| {});
    assert!(said.last().is_some_and(|last| last.contains("ufw knows no application `OpenSSH`")), "{said:?}");
    let missing = of("enabled = true\n", Box::new(|w| drop(w.tree.remove("/etc/ufw/ufw.conf"))));
    assert!(missing[0].contains("packages = [\"ufw\"]"), "{missing:?}");
}

#[test]
fn a_firewall_that_ssh_comes_through() {
    // Where sshd listens, and who is let in, has to be known for sure, or somebody has to confirm it.
    let told = |path: &'static str, text: &'static str| Box::new(move |w: &mut World| w.file(path, text));
    let unsure = ["= ufw:deny", "~ ufw:enabled (enabled off → on)"];
    assert_eq!(of_ufw("enabled = true\n", rules("allow tcp 22 A any 192.0.2.1 in")), unsure);
    let open = "enabled = true\ndefault_incoming = \"allow\"\n";
    for (path, text, is_sure) in [
        ("/etc/ssh/sshd_config", "", true),
        ("/etc/ssh/sshd_config", "Include more\n", false),
        ("/etc/ssh/sshd_config.d/a.conf", "Include more\n", false),
        ("/etc/ssh/sshd_config.d/a.off", "Include more\n", true),
        ("/etc/default/ssh", "SSHD_OPTS=-p9\n", false),
        ("/etc/default/ufw", "IPV6=no\n", false),
        ("/usr/lib/systemd/system/ssh.service", "[Service]\nExecStart=/usr/sbin/sshd -D -p 9\n", false),
    ] {
        let said = of_ufw(open, told(path, text));
        assert_eq!(said.last().is_some_and(|last| last.ends_with("within reach)")), is_sure, "{path}: {said:?}");
    }
    let said =
        of_ufw("enabled = true\nallow = [\"OpenSSH\"]\n", told("/etc/ssh/sshd_config", "ListenAddress 0.0.0.0:2222 # x\n"));
    assert_eq!(said, [format!("{SHUT_OUT}sshd listens on 2222: write allow = [\"2222/tcp\"]")]);
    // On each of its ports; also on one that comes with the same commit.
    let two = ("files/etc/ssh/sshd_config.d/two.conf", "Port 22\nPort 2222\n");
    let with_two = |keys: &str| claims(&[("reconciled.toml", &format!("[ufw]\nenabled = true\n{keys}")), two], |_| {}).pop();
    assert!(with_two("allow = [\"OpenSSH\"]\n").is_some_and(|said| said.contains("sshd listens on 2222")));
    assert!(with_two("allow = [\"2222/tcp\"]\n").is_some_and(|said| said.ends_with("write allow = [\"OpenSSH\"]")));
    assert!(with_two("allow = [\"OpenSSH\", \"2222/tcp\"]\n").is_some_and(|said| said.ends_with("within reach)")));
    // Its socket listens in its place.
    let socket = |w: &mut World| {
        let path = "/usr/lib/systemd/system/ssh.socket";
        w.file(path, "[Socket]\nListenStream=\nListenStream=2222\n");
        w.file("/etc/ssh/sshd_config", "Port 9\n");
        w.running("ssh.socket", path, &[]);
    };
    let said = of_ufw("enabled = true\nallow = [\"OpenSSH\", \"9/tcp\"]\n", Box::new(socket));
    assert!(said[0].contains("sshd listens on 2222"), "{said:?}");
    assert!(
        of_ufw("enabled = true\nallow = [\"2222/tcp\", \"9/tcp\"]\n", Box::new(socket))
            .last()
            .unwrap()
            .ends_with("within reach)")
    );
    // Where it is on and SSH shut out already, nothing else is refused for it.
    let shut = |w: &mut World| w.file("/etc/ufw/ufw.conf", "ENABLED=yes\n");
    assert_eq!(of_ufw("enabled = true\n", Box::new(shut)), ["= ufw:deny", "= ufw:enabled"]);
}

#[test]
fn accounts_that_cannot_be() {
    for (table, message) in [
        ("[[user]]\nname = \"-x\"\n", "`-x` is not a name of an account"),
        ("[[user]]\nname = \"x\"\ngroups = [\"a,b\"]\n", "`a,b` is not a name of an account"),
        ("[[user]]\nname = \"x\"\nhome = \"/tmp/x\"\n", "is never managed"),
        ("[[user]]\nname = \"x\"\nhome_mode = \"9\"\n", "home_mode = \"0711\""),
        ("[[user]]\nname = \"x\"\nsystem = true\nhome_mode = \"0711\"\n", "this account has no home"),
        ("[[user]]\nname = \"x\"\ncomment = \"a:b\"\n", "one line without a colon"),
        ("[[user]]\nname = \"root\"\nstate = \"absent\"\n", "the user root is never removed"),
        ("[[user]]\nname = \"reconciled\"\nstate = \"absent\"\n", "the user reconciled is never removed"),
        ("[[user]]\nname = \"x\"\nuid = 5\nstate = \"absent\"\n", "an absent user has no other keys"),
        ("[ufw]\nallow = [\"1/x\"]\n", "`1/x` needs a protocol"),
        ("[ufw]\nallow = [\"22\"]\ndeny = [\"22\"]\n", "22 is both allowed and denied"),
        ("[ufw]\nalow = []\n", "unknown key `alow` in [ufw]: did you mean `allow`?"),
        ("[[ufw]]\nenabled = true\n", "`ufw` is one table, not an array: write [ufw]"),
        ("ufw = true\n", "`ufw` is one table, not a boolean"),
        ("[[group]]\nname = \"a b\"\n", "`a b` is not a name of an account"),
    ] {
        let snapshot = Snapshot { entries: entries(&[("reconciled.toml", table)]), ..Snapshot::default() };
        let said = manifest::read(&snapshot, &manifest::Context::default())
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect::<String>();
        assert!(said.contains(message), "{table}: {said}");
    }
}

#[test]
fn a_template_is_no_unit() {
    for (name, instance) in [("worker@.service", "worker@1.service"), ("app@.socket", "app@1.socket")] {
        let text = format!("units = [\"{name}\"]\n");
        let snapshot = Snapshot { entries: entries(&[("reconciled.toml", &text)]), ..Snapshot::default() };
        let said = manifest::read(&snapshot, &manifest::Context::default())
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect::<String>();
        assert!(said.contains("is a template") && said.contains(instance), "{said}");
    }
}

#[test]
fn every_row_stands_by_its_example() {
    for row in KINDS {
        let list = [("reconciled.toml", row.example()), ("files/etc/shop/settings.ini", "x")];
        let said = claims(&list, |w| {
            w.file("/usr/lib/systemd/system/worker.service", "[Service]\n");
            w.dir("/etc/nginx");
            w.site();
        });
        assert!(said.iter().all(|s| !s.starts_with("error")), "{}: {said:?}", row.kind());
        assert!(!said.is_empty());
    }
}

#[test]
fn words_are_unique() {
    let words: Vec<_> = KINDS.iter().flat_map(|k| [Some(k.kind()), k.short()]).flatten().collect();
    assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len());
}

#[test]
fn examples_parse_and_unknown_keys_are_refused() {
    for row in KINDS {
        let parse = |text: &str| {
            let table = toml::de::DeTable::parse(text).unwrap();
            let value = &table.get_ref()[row.kind()];
            let table = value.get_ref().as_array().map_or(value, |tables| &tables[0]).clone();
            row.declare(toml::de::ValueDeserializer::from(table))
        };
        let (name, _) = parse(row.example()).unwrap_or_else(|e| panic!("{}: {e:?}", row.kind()));
        assert!(!name.is_empty());
        assert!(parse(&format!("{}\nsurprise = 1\n", row.example())).is_err(), "{}", row.kind());
    }
}

#[test]
fn what_comes_into_a_subtree_is_made_as_wanted() {
    let tree = "[[directory]]\npath = \"/srv/shop\"\nowner = \"ana\"\nrecurse = true\n";
    let said = claims(&[("reconciled.toml", tree), ("files/srv/shop/static/css/a.css", "a")], |_| {});
    assert!(said.contains(&"~ subtree:/srv/shop (new directories in it)".to_owned()), "{said:?}");
    // Directories that are there are none that come.
    let all = [("reconciled.toml", tree), ("files/srv/shop/static/a.css", "a")];
    let said = claims(&all, |w| w.dir("/srv/shop/static"));
    assert!(!said.iter().any(|line| line.contains("new directories in it")), "{said:?}");
    // Where nothing comes into it there is nothing to look at.
    let said = claims(&[("reconciled.toml", tree), ("files/srv/shop/a.css", "a")], |_| {});
    assert!(!said.iter().any(|line| line.contains("subtree")), "{said:?}");
}
