//! Drift and the ledger, from the installed package: the host is held at what is live, and what was there before us comes back.

use reconciled_tests::{Host, Repo, scenario};
use serde_json::Value;

/// What the daemon manages in [`managed`], in one text that shows any difference.
#[track_caller]
fn picture(host: &Host) -> String {
    let files = "cd /etc && find shop shop.link motd.d/ours -printf '%p %y %m %u %g %l\\n' | sort; cat shop/a.conf shop/deep/b.conf motd.d/ours";
    let units = "systemctl show --property=Id,ActiveState,UnitFileState,LoadState shop.service vendor.service";
    host.sh(&format!("{files}; {units}")).text()
}

/// A host with something of every kind under management.
#[track_caller]
fn managed(host: &Host) -> Repo {
    let service = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
    host.write("/usr/lib/systemd/system/vendor.service", service);
    host.exec("systemctl daemon-reload").ok();
    let repo = host.clone_repo();
    repo.write(
        "reconciled.toml",
        "units = [\"shop.service\", \"vendor.service\"]\n\
         [[file]]\npath = \"/etc/shop/a.conf\"\nowner = \"daemon\"\ngroup = \"mail\"\nmode = \"0640\"\n\
         [[directory]]\npath = \"/etc/shop\"\ngroup = \"mail\"\nmode = \"0750\"\n",
    );
    repo.write("files/etc/shop/a.conf", "price = 1\n")
        .write("files/etc/shop/deep/b.conf", "b\n")
        .write("files/etc/motd.d/ours", "hello\n");
    repo.symlink("files/etc/shop.link", "shop/a.conf").write("files/etc/systemd/system/shop.service", service);
    repo.commit_and_push().assert_live();
    repo
}

/// The records of an outcome, oldest first.
#[track_caller]
fn records(host: &Host, outcome: &str) -> Vec<Value> {
    let lines = host.ctl(&format!("audit log --json --outcome {outcome}")).ok();
    lines.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// Sets the daemon's settings and has it read them.
#[track_caller]
fn settings(host: &Host, text: &str) {
    host.write("/etc/reconciled/reconciled.d/test.toml", text);
    host.exec("systemctl reload reconciled").ok();
}

scenario! {
    fn every_kind_of_drift_is_healed_and_recorded(host: installed) {
        let _repo = managed(host);
        let wanted = picture(host);
        for (harm, target, word) in [
            ("echo price = 2 >/etc/shop/a.conf", "/etc/shop/a.conf", "content"),
            ("chmod 0644 /etc/shop/a.conf", "/etc/shop/a.conf", "mode"),
            ("chown root:root /etc/shop/a.conf", "/etc/shop/a.conf", "owner"),
            ("rm /etc/shop/a.conf", "/etc/shop/a.conf", "new"),
            ("ln -sf /etc/passwd /etc/shop/a.conf", "/etc/shop/a.conf", "was a link to /etc/passwd"),
            ("ln -sfn elsewhere /etc/shop.link", "/etc/shop.link", "target"),
            ("rm /etc/shop.link; echo x >/etc/shop.link", "/etc/shop.link", "was a file"),
            ("rm /etc/shop.link", "/etc/shop.link", "new"),
            ("chmod 0777 /etc/shop", "/etc/shop", "mode"),
            ("rm -r /etc/shop", "/etc/shop/deep/b.conf", "new"),
            ("systemctl stop shop", "unit:shop.service", "start"),
            ("systemctl kill -s KILL shop; until systemctl is-failed -q shop; do sleep 0.1; done", "unit:shop.service", "start"),
            ("systemctl disable -q shop", "unit:shop.service", "enable"),
            ("systemctl disable -q --now shop vendor", "unit:vendor.service", "enable, start"),
            ("systemctl mask -q --now vendor", "unit:vendor.service", "start"),
            ("systemctl mask -q --runtime --now vendor", "unit:vendor.service", "start"),
            ("rm /etc/systemd/system/shop.service; systemctl daemon-reload", "/etc/systemd/system/shop.service", "new"),
        ] {
            let before = records(host, "drift-repaired").len();
            host.sh(harm).ok();
            assert_ne!(picture(host), wanted, "{harm} changes nothing");
            let _ = host.ctl("diff").fails(1).says(target.trim_start_matches("unit:"));
            host.ctl("sync").ok();
            assert_eq!(picture(host), wanted, "after {harm}");
            let repaired = records(host, "drift-repaired");
            assert_eq!(repaired.len(), before + 1, "{harm}");
            let change = repaired[before]["changes"].as_array().into_iter().flatten().find(|c| c["target"].as_str().is_some_and(|t| t.ends_with(target)));
            let change = change.unwrap_or_else(|| panic!("{harm}: no change of {target} in {}", repaired[before]));
            assert!(change["reason"].as_str().is_some_and(|r| r.contains(word)), "{harm}: {change}");
            if word == "content" {
                let seq = repaired[before]["seq"].to_string();
                let _ = host.ctl(&format!("audit show {seq}")).says("-price = 2").says("+price = 1");
            }
        }
        let _ = host.ctl("diff").fails(0);
        host.ctl("audit verify").ok();
    }
}

scenario! {
    fn drift_is_healed_at_start_by_timer_and_on_request(host: installed on trixie) {
        let repo = managed(host);
        let harm = || host.write("/etc/motd.d/ours", "somebody was here\n");
        let healed = || host.read("/etc/motd.d/ours") == "hello\n";
        let last = |event: &str| records(host, event).pop().expect("a record");

        host.exec("systemctl stop reconciled").ok();
        harm();
        host.exec("systemctl start reconciled").ok();
        host.wait_until("healed at start", healed);

        harm();
        host.ctl("sync").ok();
        assert!(healed());
        assert_eq!(last("drift-repaired")["actor"], "root");

        harm();
        host.exec("systemctl kill --kill-whom=main -s USR1 reconciled").ok();
        host.wait_until("healed by SIGUSR1", healed);
        host.wait_until("recorded", || last("drift-repaired")["actor"] == "SIGUSR1");

        settings(host, "look_interval = \"1s\"\n");
        harm();
        host.wait_until("healed by the timer", healed);
        host.wait_until("recorded", || last("drift-repaired")["actor"] == "drift");
        assert_eq!((host.status()["generation"].as_u64(), host.status()["live"].as_str()), (Some(1), Some(repo.head().as_str())));

        // A revision that was refused stands in nobody's way.
        repo.write("reconciled.toml", "surprise = 1\n");
        let bad = repo.commit_and_push();
        bad.assert_refused("surprise");
        harm();
        host.wait_until("healed while a revision is held", healed);
        assert_eq!(host.status()["held"]["commit"], bad.commit.as_str());
    }
}

scenario! {
    fn a_converged_host_is_left_in_peace(host: installed) {
        let _repo = managed(host);
        host.ctl("sync").ok();
        let log = host.read("/var/lib/reconciled/audit/audit.jsonl");
        let trace = host.sh(
            "daemon=$(systemctl show -P MainPID reconciled)
             strace -f -qq -o /root/trace -p $daemon -e trace=openat,openat2,open,creat,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,symlink,symlinkat,chmod,fchmod,fchmodat,?fchmodat2,chown,fchown,fchownat,lchown,truncate,ftruncate,setxattr,fsetxattr,utimensat,mknodat & strace=$!
             until grep -qw $strace /proc/$daemon/task/*/status; do kill -0 $strace || exit 1; done
             for i in 1 2 3; do reconcilectl sync || exit 1; done
             kill $strace; wait $strace; grep -c . /root/trace >&2
             grep -vE 'O_RDONLY|O_PATH|ENOENT' /root/trace; true",
        );
        assert!(trace.stderr.trim().parse::<u32>().is_ok_and(|n| n > 10), "nothing was traced: {trace}");
        assert!(trace.stdout.lines().all(|line| line.contains("nothing to do") || line.contains("/var/lib/reconciled/")), "{trace}");
        assert_eq!(host.read("/var/lib/reconciled/audit/audit.jsonl"), log, "no change, no record");
    }
}

scenario! {
    fn while_paused_drift_is_reported_once(host: installed on trixie) {
        let repo = managed(host);
        host.ctl("pause hands off").ok();
        settings(host, "look_interval = \"1s\"\n");
        host.write("/etc/motd.d/ours", "somebody was here\n");
        host.wait_until("it is reported", || records(host, "drift-found").len() == 1);
        host.wait_until("three more looks", || {
            host.exec("systemctl kill --kill-whom=main -s HUP reconciled").code == 0
                && host.exec("journalctl -u reconciled -g settings.were.read -o cat").stdout.lines().count() > 3
        });
        assert_eq!(records(host, "drift-found").len(), 1);
        let shown = host.ctl(&format!("audit show {}", records(host, "drift-found")[0]["seq"])).ok();
        assert!(shown.contains("-somebody was here") && shown.contains("+hello"), "{shown}");
        assert_eq!(host.read("/etc/motd.d/ours"), "somebody was here\n");
        let _ = host.ctl("sync").fails(1).says("paused by root since").says("hands off");
        repo.commit_and_push().assert_refused("paused by root since");

        host.ctl("resume").ok();
        host.wait_until("healed", || host.read("/etc/motd.d/ours") == "hello\n");
        repo.commit();
        repo.commit_and_push().assert_live();
    }
}

scenario! {
    fn what_was_displaced_comes_back_and_what_we_made_goes(host: installed on trixie) {
        host.sh("mkdir -p /etc/app; echo theirs >/etc/app/file; chown daemon:mail /etc/app/file; chmod 0604 /etc/app/file; ln -s theirs /etc/app/link").ok();
        let theirs = || host.sh("stat -c '%n %F %a %U %G %N' /etc/app/*; cat /etc/app/file; find /etc/app | sort").text();
        let before = theirs();
        let repo = host.clone_repo();
        repo.write("files/etc/app/file", "ours\n").symlink("files/etc/app/link", "ours").write("files/etc/app/made/by/us", "x\n");
        repo.write("files/etc/motd.d/x", "").write("files/etc/shared/ours", "x\n").symlink("files/etc/app/new", "x");
        repo.commit_and_push().assert_live();
        assert_eq!((host.read("/etc/app/file"), host.exec("readlink /etc/app/link").ok()), ("ours\n".into(), "ours".into()));

        // Edits of others in between do not count as what stood there before us.
        host.write("/etc/app/file", "edited\n");
        repo.write("files/etc/app/file", "ours again\n");
        repo.commit_and_push().assert_live();
        host.write("/etc/shared/theirs", "precious\n");

        repo.remove("files/etc/app").remove("files/etc/shared");
        repo.commit_and_push().assert_live().says("what stood here before comes back").says("- file:/etc/app/made/by/us");
        assert_eq!(theirs(), before);
        assert_eq!(host.exec("find /etc/shared").ok(), "/etc/shared\n/etc/shared/theirs");
        let left = host.sh("find / -xdev -name .reconciled -exec find {} -mindepth 1 ';'").ok();
        assert_eq!(left, "", "no litter");
    }
}

scenario! {
    fn data_is_let_go(host: installed on trixie) {
        let repo = host.clone_repo();
        let tables = "directories = [\"/srv/empty\", \"/srv/data\"]\n[[directory]]\npath = \"/srv/old\"\nmode = \"0700\"\n";
        host.exec("mkdir -m 0711 /srv/old").ok();
        repo.write("reconciled.toml", tables).write("files/etc/motd.d/x", "");
        repo.commit_and_push().assert_live();
        host.write("/srv/data/precious", "data\n");
        repo.remove("reconciled.toml");
        repo.commit_and_push().assert_live().says("/srv/data").says("let go");
        assert!(!host.exists("/srv/empty"));
        assert_eq!(host.read("/srv/data/precious"), "data\n");
        assert_eq!(host.exec("stat -c %a /srv/old").ok(), "711");
        assert!(host.ctl("sync").ok().contains("nothing to do"));
    }
}

scenario! {
    fn an_emptied_repository_is_refused(host: installed on trixie) {
        let repo = managed(host);
        let wanted = picture(host);
        repo.remove("files").remove("reconciled.toml");
        let push = repo.commit_and_push();
        push.assert_refused("allow_empty = true");
        assert_eq!(picture(host), wanted);
        repo.write("reconciled.toml", "allow_empty = true\n");
        repo.commit_and_push().assert_live();
        assert_eq!(host.sh("ls -d /etc/shop /etc/shop.link /etc/motd.d/ours /etc/systemd/system/shop.service").stdout, "");
        assert_eq!(host.exec("systemctl is-active vendor.service").stdout, "inactive\n");
        repo.commit_and_push().assert_live();
    }
}

scenario! {
    fn t48_a_repair_that_fails_is_loud_and_waits_longer_each_time(host: installed on trixie) {
        let repo = host.clone_repo();
        host.sh("cp /bin/sleep /usr/local/bin/till").ok();
        repo.write("reconciled.toml", "units = [\"shop.service\"]\n");
        repo.write("files/etc/systemd/system/shop.service", "[Service]\nExecStart=/usr/local/bin/till infinity\n[Install]\nWantedBy=multi-user.target\n");
        repo.commit_and_push().assert_live();
        host.sh("mv /usr/local/bin/till /root; systemctl stop shop").ok();
        settings(host, "look_interval = \"1s\"\n");
        // Tried, one look left out, tried again, three left out.
        let waits = |words: &str| host.status()["last"].as_str().is_some_and(|last| last.contains("failed before") && last.contains(words));
        host.wait_until("the second pause", || waits("3 more looks"));
        // The third look after that may have come by the time that this one counts.
        assert!((2..=3).contains(&records(host, "rolled-back").len()));
        let _ = host.ctl("sync").fails(1).says("shop.service");
        assert_eq!(records(host, "rolled-back").last().expect("a record")["actor"], "root");
        // No person is needed once it can be healed.
        host.sh("mv /root/till /usr/local/bin").ok();
        host.wait_until("it is healed by the timer", || host.exec("systemctl is-active shop").stdout == "active\n");
        host.wait_until("on record", || records(host, "drift-repaired").len() == 1);
    }
}
