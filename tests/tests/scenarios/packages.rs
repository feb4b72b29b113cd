//! Packages, and what stands on them: a bare host gets its programs and their configuration with one push, or neither.

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

scenario! {
    fn a_bare_host_gets_programs_and_their_configuration(host: reached) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "packages = [\"nginx\", \"redis-server\"]\nunits = [\"nginx.service\"]\n\
            [[file]]\npath = \"/etc/nginx/sites-enabled/default\"\nstate = \"absent\"\n\
            [[probe]]\nname = \"site\"\nhttp = { url = \"http://127.0.0.1:8080/\", body = \"one\" }\n");
        repo.write(SITE, site("one"));
        let push = repo.commit_and_push();
        push.assert_live().says("+ package:nginx (install)").says("+ package:redis-server (install)").says("file:/etc/nginx/conf.d/shop.conf");
        assert_eq!([status(host, "nginx"), status(host, "redis-server")], ["installed", "installed"]);
        let runs = host.sh("grep -c -e '^Install:.* nginx:.* redis-server:' -e '^Install:.* redis-server:.* nginx:' /var/log/apt/history.log").ok();
        assert_eq!(runs, "1", "one run of apt for both");
        assert!(!host.exists("/etc/nginx/sites-enabled/default"));
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
        // So does a probe that stays red.
        repo.write(SITE, site("one"));
        repo.write("reconciled.toml", "packages = [\"nginx\"]\nunits = [\"nginx.service\"]\n\
            [[probe]]\nname = \"site\"\nattempts = 2\nhttp = { url = \"http://127.0.0.1:8080/\", body = \"two\" }\n");
        repo.commit_and_push().assert_refused("rolled back");
        assert_eq!(installed(host), before);
        // A package that no source has, and one that is no name of one.
        repo.write("reconciled.toml", "packages = [\"no-such-thing\"]\n").commit_and_push().assert_refused("rolled back").says("Unable to locate package no-such-thing");
        repo.write("reconciled.toml", "packages = [\"Nginx\"]\n").commit_and_push().assert_refused("`Nginx` is not a package name");
        assert_eq!(installed(host), before);
    }
}
