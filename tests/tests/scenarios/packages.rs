//! Packages, and what stands on them: a bare host gets its programs and their configuration with one push, or neither.

use std::thread;
use std::time::Duration;

use reconciled_tests::{Host, scenario};

const SITE: &str = "files/etc/nginx/conf.d/shop.conf";

fn site(word: &str) -> String {
    format!("server {{ listen 8080; location / {{ return 200 {word}; }} }}\n")
}

/// What there is of a package, as dpkg has it.
#[track_caller]
fn status(host: &Host, package: &str) -> String {
    let status = host.sh(&format!("dpkg-query -W -f='${{db:Status-Status}}' {package} 2>/dev/null"));
    if status.code == 0 { status.stdout } else { "unknown".to_owned() }
}

/// Every package that is installed.
#[track_caller]
fn installed(host: &Host) -> String {
    host.sh("dpkg-query -W -f='${db:Status-Status} ${Package}\\n' | grep ^installed").ok()
}

/// Every package of which dpkg knows anything, with its version, and those that somebody asked for.
#[track_caller]
fn all(host: &Host) -> String {
    host.sh("dpkg-query -W -f='${db:Status-Status} ${Package} ${Version}\\n'; apt-mark showmanual").ok()
}

const RED: &str = "[[probe]]\nname = \"never\"\nattempts = 1\ncommand = [\"/bin/false\"]\n";

/// Makes packages and a source that has them: `deb NAME VERSION [line of its control file]…`, then `index`.
const SOURCE: &str = r#"
set -eu
mkdir -p /srv/source && cd /srv/source
echo 'deb [trusted=yes] file:/srv/source ./' >/etc/apt/sources.list.d/local.list
deb() {
  name=$1 version=$2 tree=$(mktemp -d); shift 2
  chmod 755 "$tree" && mkdir -p "$tree/DEBIAN" "$tree/usr/share/$name" && echo "$version" >"$tree/usr/share/$name/version"
  printf '%s\n' "Package: $name" "Version: $version" "Architecture: all" "Maintainer: x <x@example.com>" "Description: x" "$@" >"$tree/DEBIAN/control"
  [ ! -e "/root/$name.conf" ] || { install -D -m 644 "/root/$name.conf" "$tree/etc/$name.conf"; echo "/etc/$name.conf" >"$tree/DEBIAN/conffiles"; }
  for script in postinst postrm; do
    [ ! -e "/root/$name.$script" ] || install -m 755 "/root/$name.$script" "$tree/DEBIAN/$script"
  done
  dpkg-deb --root-owner-group -b "$tree" "${name}_$version.deb" >/dev/null && rm -r "$tree"
}
index() {
  for deb in *.deb; do
    dpkg-deb -f "$deb"
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "$(sha256sum <"$deb" | cut -d' ' -f1)"
  done >Packages
  apt-get update -q
}
"#;

#[track_caller]
fn offer(host: &Host, debs: &str) {
    host.sh(&format!("{SOURCE}{debs}\nindex")).ok();
}

scenario! {
    fn a_bare_host_gets_programs_and_their_configuration(host: reached) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "packages = [\"nginx\", \"redis-server\"]\nunits = [\"nginx.service\"]\n\
            [[user]]\nname = \"redis\"\ngroups = [\"www-data\"]\n\
            [[file]]\npath = \"/etc/nginx/sites-enabled/default\"\nstate = \"absent\"\n\
            [[probe]]\nname = \"site\"\nhttp = { url = \"http://127.0.0.1:8080/\", body = \"one\" }\n");
        repo.write(SITE, site("one"));
        let push = repo.commit_and_push();
        push.assert_live().says("+ package:nginx (install)").says("+ package:redis-server (install)").says("file:/etc/nginx/conf.d/shop.conf");
        assert_eq!([status(host, "nginx"), status(host, "redis-server")], ["installed", "installed"]);
        let runs = host.sh("grep -c -e '^Install:.* nginx:.* redis-server:' -e '^Install:.* redis-server:.* nginx:' /var/log/apt/history.log").ok();
        assert_eq!(runs, "1", "one run of apt for both");
        assert!(!host.exists("/etc/nginx/sites-enabled/default"));
        // While apt runs systemd reads all units again, and that of the run too.
        assert!(!host.sh("journalctl -b _PID=1 -o cat | grep reconciled-").stdout.contains("Refusing"));
        // An account that a package has brought is changed, not made.
        push.says("~ user:redis (groups none → www-data)");
        let redis = || host.sh("getent passwd redis | cut -d: -f6,7; id -nG redis").ok();
        assert_eq!(redis(), "/var/lib/redis:/usr/sbin/nologin\nredis www-data");
        // Again there is nothing to do; what somebody removes by hand comes back.
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        host.exec("apt-get remove -y redis-server redis-tools").ok();
        host.ctl("sync").ok();
        assert_eq!(status(host, "redis-server"), "installed");
        // What leaves the repository is let go; what is declared absent goes.
        repo.write("reconciled.toml", "[[package]]\nname = \"redis-server\"\nstate = \"absent\"\n");
        repo.commit_and_push().assert_live().says("- package:redis-server (remove)").says("package:nginx is let go");
        assert_eq!([status(host, "nginx"), status(host, "redis-server")], ["installed", "config-files"]);
    }
}

scenario! {
    fn what_fails_on_new_packages_takes_them_back(host: reached) {
        let repo = host.clone_repo();
        repo.write("files/etc/motd.d/x", "x\n").commit_and_push().assert_live();
        let before = installed(host);
        // nginx is there before its configuration can be judged; what it objects to takes it back.
        repo.write("reconciled.toml", "packages = [\"nginx\"]\nunits = [\"nginx.service\"]\n").write(SITE, "server { listen 8080; no_such_thing on; }\n");
        let push = repo.commit_and_push();
        push.assert_refused("rolled back").says("unknown directive \"no_such_thing\"").says("files/etc/nginx/conf.d/shop.conf:1");
        assert_eq!(installed(host), before);
        assert!(!host.exists("/etc/nginx"));
        // It had been started by its package, and has ended with it.
        assert!(host.sh("journalctl -b -o cat _PID=1 | grep 'Started nginx.service'").code == 0 && host.exec("pgrep nginx").code == 1);
        // So does a probe that stays red.
        repo.write(SITE, site("one"));
        repo.write("reconciled.toml", "packages = [\"nginx\"]\nunits = [\"nginx.service\"]\n\
            [[probe]]\nname = \"site\"\nattempts = 2\nhttp = { url = \"http://127.0.0.1:8080/\", body = \"two\" }\n");
        repo.commit_and_push().assert_refused("rolled back");
        assert_eq!(installed(host), before);
        // A package that no source has, and one that is no name of one.
        repo.write("reconciled.toml", "packages = [\"no-such-thing\"]\n").commit_and_push().assert_refused("rolled back").says("apt knows no package `no-such-thing`");
        repo.write("reconciled.toml", "packages = [\"Nginx\"]\n").commit_and_push().assert_refused("`Nginx` is not a package name");
        assert_eq!(installed(host), before);
    }
}

scenario! {
    fn data_that_is_older_than_a_package_outlives_it(host: reached) {
        let repo = host.clone_repo();
        repo.write("files/etc/motd.d/x", "x\n").commit_and_push().assert_live();
        host.write("/root/app.postrm", "#!/bin/sh\n[ \"$1\" != purge ] || rm -rf /var/lib/app\n");
        offer(host, "deb app 1");
        // A real one, which takes up what it finds: all of it goes again, but for a cluster that it has found.
        let before = all(host);
        repo.write("reconciled.toml", format!("packages = [\"postgresql\", \"app\"]\n{RED}"));
        repo.commit_and_push().assert_refused("rolled back").says("+ package:app (install)");
        // Debian 13 has /etc/default/locale before it has what purges that.
        let after = all(host);
        let after: Vec<&str> = after.lines().filter(|line| !line.starts_with("config-files locales ")).collect();
        assert_eq!(after, before.lines().collect::<Vec<_>>());
        assert_eq!(host.sh("find /var/lib/postgresql /etc/postgresql /etc/ssl/private /var/log/postgresql -type f").stdout, "");
        host.sh("apt-get install -y postgresql && cp -a /var/lib/postgresql /root/kept && apt-get purge -y --auto-remove 'postgresql*' ssl-cert && rm -rf /var/lib/postgresql && mv /root/kept /var/lib/postgresql && mkdir /var/lib/app && touch /var/lib/app/data").ok();
        let files = "find /var/lib/postgresql /var/lib/app -type d | sort";
        let (before, data) = (installed(host), host.sh(files).ok());
        repo.write("files/etc/motd.d/x", "y\n").commit_and_push().assert_refused("rolled back");
        assert_eq!(installed(host), before);
        let cluster = data.lines().find(|line| line.ends_with("/main/base")).expect("a cluster");
        assert!(host.exists(cluster) && host.exists("/var/lib/app/data"), "{data}");
        assert_eq!(status(host, "app"), "config-files");
        let told = host.sh("journalctl --no-pager -t reconciled -o cat").ok();
        assert!(told.contains("app is removed, and its configuration and data stay: /var/lib/app was there before"), "{told}");
    }
}

scenario! {
    fn names_are_no_patterns(host: reached on trixie) {
        let repo = host.clone_repo();
        offer(host, "deb app.1 1; deb app11 1; deb app21 1");
        let before = all(host);
        for name in ["app.", "app1.", "app.1+", "app11+"] {
            repo.write("reconciled.toml", format!("packages = [\"{name}\"]\n"));
            repo.commit_and_push().assert_refused("rolled back").says(&format!("apt knows no package `{name}`"));
            assert_eq!(all(host), before, "{name}");
        }
        repo.write("reconciled.toml", "packages = [\"app.1\"]\n").commit_and_push().assert_live();
        assert_eq!(["app.1", "app11", "app21"].map(|name| status(host, name)), ["installed", "unknown", "unknown"]);
    }
}

scenario! {
    fn nothing_goes_that_nobody_has_declared_absent(host: reached on trixie) {
        let repo = host.clone_repo();
        offer(host, "deb ground 1; deb user 1 'Depends: ground'; deb rival 1 'Conflicts: ground'; deb lone 1; deb foe 1 'Conflicts: lone'");
        host.exec("apt-get install -y user lone").ok();
        let before = all(host);
        let absent = |name: &str| format!("[[package]]\nname = \"{name}\"\nstate = \"absent\"\n");
        repo.write("reconciled.toml", "packages = [\"foe\"]\n").commit_and_push().assert_refused("lone would have to go for it");
        assert_eq!(all(host), before);
        repo.write("reconciled.toml", absent("ground")).commit_and_push().assert_refused("user would go too, which needs it");
        assert_eq!(all(host), before);
        // Declared so it is done, and taken back whole: what had come by itself has that again.
        let whole = format!("{}{}[[package]]\nname = \"rival\"\n", absent("ground"), absent("user"));
        repo.write("reconciled.toml", format!("{whole}{RED}")).commit_and_push().assert_refused("rolled back").says("probe never");
        assert_eq!(all(host), before);
        repo.write("reconciled.toml", whole).commit_and_push().assert_live();
        assert_eq!(["ground", "user", "rival"].map(|name| status(host, name)), ["not-installed", "unknown", "installed"], "one that another names stays known");
    }
}

scenario! {
    fn versions_come_back_and_what_somebody_installs_meanwhile_stays(host: reached) {
        let repo = host.clone_repo();
        offer(host, "deb app 1 'Depends: part (>= 1)'; deb app 2 'Depends: part (>= 2), fresh'; deb part 1; deb part 2; deb fresh 1; deb other 1 'Depends: needed'; deb needed 1");
        host.sh("apt-get install -y app=1 part=1 && apt-mark auto part").ok();
        let before = all(host);
        let wanted = "[[package]]\nname = \"app\"\nversion = \"2\"\n";
        repo.write("reconciled.toml", format!("{wanted}{RED}"));
        repo.commit_and_push().assert_refused("rolled back").says("~ package:app (installed 1 → installed 2)").says("probe never");
        assert_eq!(all(host), before);
        // Somebody installs something while the probe is asked.
        host.sh("printf '#!/bin/sh\\napt-get install -y other\\nexit 1\\n' >/root/somebody && chmod 755 /root/somebody").ok();
        repo.write("reconciled.toml", format!("{wanted}{}", RED.replace("/bin/false", "/root/somebody")));
        repo.commit_and_push().assert_refused("rolled back");
        assert_eq!(["other", "needed", "fresh"].map(|name| status(host, name)), ["installed", "installed", "unknown"]);
        host.exec("apt-get purge -y other needed").ok();
        assert_eq!(all(host), before);
        // A part whose old version no source has any more stays in the new one.
        host.sh("cd /srv/source && rm part_1.deb").ok();
        offer(host, "");
        repo.write("reconciled.toml", format!("{wanted}{RED}\n")).commit_and_push().assert_refused("rolled back");
        assert_eq!(host.sh("dpkg-query -W -f='${Version} ' app part").ok(), "1 2 ");
        repo.write("reconciled.toml", wanted).commit_and_push().assert_live();
        assert_eq!(host.sh("dpkg-query -W -f='${Version} ' app fresh").ok(), "2 1 ");
    }
}

/// Holds what apt has while it fetches packages, until a file is there (a struct flock of 64 bits, fcntl(2)).
const FETCHES: &str = "use Fcntl; my $all = pack 's s x4 q q i x4', F_WRLCK, 0, 0, 0, 0;\n\
    open F, '>', '/var/cache/apt/archives/lock'; fcntl F, F_SETLK, $all or die;\nsleep 1 until -e '/run/fetched'\n";

scenario! {
    fn what_others_have_begun_is_ended_and_what_they_have_edited_stays(host: reached) {
        let repo = host.clone_repo();
        host.write("/root/app.conf", "one\n");
        offer(host, "deb app 1; echo two >/root/app.conf; deb app 2; deb torn 1; deb one 1");
        host.exec("apt-get install -y app=1").ok();
        host.write("/etc/app.conf", "edited\n");
        repo.write("files/etc/motd.d/x", "x\n").commit_and_push().assert_live();
        // dpkg was killed: a change is not yet in its database, with which apt refuses everything.
        host.sh("dpkg -s app >/var/lib/dpkg/updates/0000").ok();
        assert_eq!(host.exec("dpkg --audit").stdout, "");
        assert!(host.exec("apt-get install -y one").stderr.contains("dpkg was interrupted"));
        repo.write("reconciled.toml", "packages = [\"one\"]\n").commit_and_push().assert_live();
        // Or a package is unpacked.
        host.sh("dpkg --unpack /srv/source/torn_1.deb").ok();
        // Who fetches is waited for.
        host.write("/root/fetches", FETCHES);
        host.exec("systemd-run --quiet --unit=fetches perl /root/fetches").ok();
        host.wait_until("somebody fetches", || host.sh("grep -q POSIX /proc/locks").code == 0);
        repo.write("reconciled.toml", "packages = [\"one\"]\n[[package]]\nname = \"app\"\nversion = \"2\"\n").commit();
        let pushing = repo.start_push(&["HEAD:refs/heads/main"]);
        let is_running = || host.exec("systemctl list-units --plain --no-legend --state=active reconciled-run-*").ok() != "";
        host.wait_until("the worker has begun", is_running);
        thread::sleep(Duration::from_secs(2));
        assert!(is_running());
        assert_eq!(host.sh("dpkg-query -W -f='${Version} ${db:Status-Status} ' app torn").ok(), "1 installed 1 unpacked ");
        host.write("/run/fetched", "");
        pushing.wait().assert_live().says("~ package:app (installed 1 → installed 2)");
        assert_eq!(host.sh("dpkg-query -W -f='${Version} ${db:Status-Status} ' app torn; ls /var/lib/dpkg/updates").ok(), "2 installed 1 installed ");
        // Nobody was asked which of the two it shall be.
        assert_eq!(host.sh("cat /etc/app.conf /etc/app.conf.dpkg-dist").ok(), "edited\ntwo");
    }
}

scenario! {
    fn a_daemon_that_dies_while_apt_runs_takes_back_what_came(host: reached) {
        let repo = host.clone_repo();
        repo.write("files/etc/motd.d/x", "x\n").commit_and_push().assert_live();
        host.write("/root/slow.postinst", "#!/bin/sh\necho begin >>/root/slow\nsleep 3\necho end >>/root/slow\n");
        offer(host, "deb slow 1; deb other 1");
        let before = all(host);
        repo.write("reconciled.toml", "packages = [\"slow\", \"other\"]\n").commit();
        let pushing = repo.start_push(&["HEAD:refs/heads/main"]);
        host.wait_until("apt is at work", || host.exists("/root/slow"));
        host.exec("systemctl kill --signal=KILL reconciled").ok();
        assert!(!pushing.wait().ok);
        host.wait_until("the daemon is back", || host.ctl("status --json").code == 0 && host.status()["phase"] == "idle");
        // apt was let end: half-way is worse than late.
        assert_eq!(host.read("/root/slow"), "begin\nend\n");
        assert_eq!(all(host), before);
        repo.commit_and_push().assert_live();
        assert_eq!(["slow", "other"].map(|name| status(host, name)), ["installed", "installed"]);
    }
}
