//! The package: installed as the README says, upgraded, removed and purged, and the two verbs that set a host up.

use reconciled_tests::{Host, scenario};

/// A line of a unit's properties.
#[track_caller]
fn prop(host: &Host, unit: &str, name: &str) -> String {
    host.exec(&format!("systemctl show --property={name} --value {unit}")).ok()
}

scenario! {
    fn the_readme_way_on_a_bare_host(host: bare) {
        let said = host.install_deb();
        assert!(said.contains("sudo reconcilectl init"), "{said}");
        assert_eq!(host.exec("systemctl is-active reconciled").ok(), "active");
        assert_eq!(host.exec("systemctl is-enabled reconciled reconciled-recover").ok(), "enabled\nenabled");
        assert_eq!((prop(host, "reconciled", "Type"), prop(host, "reconciled", "NRestarts")), ("notify".into(), "0".into()));
        assert_ne!(prop(host, "reconciled", "WatchdogUSec"), "0");
        assert!(prop(host, "reconciled", "StatusText").contains("nothing is live yet"));
        assert_eq!(host.exec("systemctl --failed --plain --no-legend").ok(), "");
        for (package, version) in [("git", "1:2.29"), ("systemd", "252"), ("dbus", "1")] {
            let depends = host.sh("dpkg-query -W -f '${Depends}' reconciled").ok();
            assert!(depends.contains(package), "{package} in {depends}");
            host.sh(&format!("dpkg --compare-versions $(dpkg-query -W -f '${{Version}}' {package}) ge {version}")).ok();
        }
        let recommends = host.sh("dpkg-query -W -f '${Recommends}' reconciled").ok();
        assert_eq!(recommends, "openssh-server, polkitd, age");

        let account = host.exec("getent passwd reconciled").ok();
        assert!(account.ends_with(":/var/lib/reconciled:/bin/sh"), "{account}");
        host.exec("getent group reconciled").ok();
        assert_eq!(host.sh("stat -c '%U %a' /var/lib/reconciled /var/lib/reconciled/objects").ok(), "root 755\nroot 700");
        let files = host.exec("dpkg -L reconciled").ok();
        for file in [
            "/usr/sbin/reconciled",
            "/usr/bin/reconcilectl",
            "/usr/lib/reconciled/guards/nginx.toml",
            "/usr/share/dbus-1/system.d/org.reconciled1.conf",
            "/usr/share/polkit-1/actions/org.reconciled1.policy",
            "/usr/share/man/man1/reconcilectl.1.gz",
            "/usr/share/man/man5/reconciled.toml.5.gz",
            "/usr/share/man/man8/reconciled.8.gz",
            "/usr/share/bash-completion/completions/reconcilectl",
            "/usr/share/doc/reconciled/copyright",
            "/usr/share/doc/reconciled/examples/django/reconciled.toml",
            "/usr/share/doc/reconciled/examples/django/files/etc/nginx/sites-enabled/myproject",
            "/usr/share/doc/reconciled/examples/django/files/home/sammy/myprojectdir/manage.py",
        ] {
            assert!(files.lines().any(|line| line == file), "{file} is not in\n{files}");
            assert!(file.contains("/man/") || file.contains("/doc/") || host.exists(file), "{file}");
        }
        host.ctl("status").ok();
        assert!(host.ctl("init").ok().contains("git remote add"));
    }
}

scenario! {
    fn init_and_keys_may_be_repeated(host: installed) {
        let first = host.ctl("init").ok();
        assert!(first.contains(&format!("reconciled@{}:host.git", host.name())), "{first}");
        let repository = || host.exec("find /var/lib/reconciled/git/host.git -printf %p,%T@,%u,%m\\n").ok();
        let before = repository();
        assert_eq!(host.ctl("init").ok(), first);
        assert_eq!(repository(), before);

        let key = |name: &str| host.sh(&format!("rm -f /root/{name}*; ssh-keygen -q -t ed25519 -N '' -f /root/{name}; cat /root/{name}.pub")).ok();
        let (anna, ben) = (key("anna"), key("ben"));
        let add = |words: &[&str], key: &str| host.exec_with(&[["reconcilectl", "key", "add"].as_slice(), words].concat(), key.as_bytes());
        for _ in 0..2 {
            add(&["anna"], &anna).ok();
            add(&["ben", "--preview"], &ben).ok();
        }
        let list = host.ctl("key list").ok();
        assert_eq!(list.lines().count(), 2, "{list}");
        assert!(list.contains("anna  ssh-ed25519") && list.contains("ben (preview)  ssh-ed25519"), "{list}");
        let _ = add(&["carl"], &anna).fails(2).says("anna");
        let _ = add(&["carl"], "nonsense").fails(2).says("ssh-keygen");
        let _ = add(&["carl"], "").fails(2);
        let _ = add(&["../carl"], &key("carl")).fails(2);
        let _ = add(&["carl"], &host.read("/root/anna")).fails(2).says("private key");
        for _ in 0..2 {
            host.ctl("key remove anna").ok();
        }
        assert_eq!(host.ctl("key list").ok().lines().count(), 1);
        let file = host.sh("stat -c '%U %a' /var/lib/reconciled/.ssh/authorized_keys").ok();
        assert_eq!(file, "root 644");
        let lines = host.read("/var/lib/reconciled/.ssh/authorized_keys");
        assert!(lines.lines().all(|line| line.starts_with("restrict,command=\"/usr/")), "{lines}");
    }
}

scenario! {
    fn man_pages_can_be_read(host: installed) {
        // The base leaves documentation out of what dpkg unpacks, as container images do.
        host.install_deb();
        host.sh("rm -f /etc/dpkg/dpkg.cfg.d/*; cd /var/tmp && dpkg -i --force-confold reconciled_*.deb").ok();
        for (page, word) in [("1 reconcilectl", "rollback"), ("5 reconciled.toml", "look_interval"), ("8 reconciled", "SIGHUP")] {
            let said = host.sh(&format!("man --warnings=all {page} | cat"));
            assert!(said.stdout.contains(word) && said.stderr.is_empty(), "man {page}: {said}");
        }
    }
}

scenario! {
    fn upgrade_remove_and_purge_leave_the_host_as_it_is(host: installed) {
        let service = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "units = [\"shop.service\"]\n").write("files/etc/systemd/system/shop.service", service);
        repo.write("files/etc/shop.conf", "1\n");
        repo.commit_and_push().assert_live();
        let managed = || host.sh("stat -c '%n %i %Y' /etc/shop.conf /etc/systemd/system/shop.service; systemctl show -p MainPID -p UnitFileState shop").ok();
        let before = managed();

        host.install_deb();
        assert_eq!(managed(), before);
        // An upgrade: the same version once more, which runs the same scripts.
        let daemon = prop(host, "reconciled", "MainPID");
        host.apt("install -y --reinstall /var/tmp/reconciled_*.deb");
        assert_ne!(prop(host, "reconciled", "MainPID"), daemon, "the new program runs");
        let status = host.status();
        assert_eq!((status["generation"].as_u64(), status["live"].as_str()), (Some(1), Some(&*repo.head())));
        assert_eq!(managed(), before);
        repo.write("files/etc/motd.d/x", "x\n");
        repo.commit_and_push().assert_live();
        let _ = host.ctl("audit verify").fails(0);

        let said = host.apt("remove -y reconciled");
        assert!(said.contains("stays exactly as it is now") && said.contains("/var/lib/reconciled"), "{said}");
        assert_eq!(managed(), before);
        assert!(!host.exists("/usr/sbin/reconciled"));
        assert!(!repo.push_to(&["HEAD:refs/heads/main"]).ok);

        // And on again, from where it was.
        let said = host.apt("install -y /var/tmp/reconciled_*.deb");
        assert!(said.contains("goes on from there"), "{said}");
        assert_eq!(host.status()["generation"], 2);
        repo.write("files/etc/motd.d/x", "y\n");
        repo.commit_and_push().assert_live();

        let said = host.apt("purge -y reconciled");
        assert!(said.contains("stays exactly as it is now"), "{said}");
        assert_eq!(managed(), before);
        assert_eq!(host.read("/etc/motd.d/x"), "y\n");
        assert!(!host.exists("/etc/reconciled"));
        assert_eq!(host.exec("find /var/lib/reconciled").ok(), "/var/lib/reconciled\n/var/lib/reconciled/audit\n/var/lib/reconciled/audit/audit.jsonl");
        assert_eq!(host.sh("find / -xdev -name '*reconciled*' -not -path '/var/lib/*' -not -path '/var/cache/*' -not -path '/var/tmp/*' -not -path '/var/log/*' -not -path '/proc/*' -not -path '/run/*'").ok(), "");
    }
}
