//! Drift that is seen when it happens, and drift that is left: who may change what is declared, and what is said of it.

use std::thread;
use std::time::Duration;

use reconciled_tests::{Host, Repo, scenario};

/// A host that watches what is managed and otherwise looks only when it is asked to.
fn watching(host: &Host) -> Repo {
    host.write("/etc/reconciled/reconciled.d/00-quiet.toml", "look_interval = \"1h\"\n");
    host.exec("systemctl restart reconciled").ok();
    host.clone_repo()
}

/// How many records of this event there are.
#[track_caller]
fn records(host: &Host, event: &str) -> usize {
    host.ctl("audit log --json").ok().lines().filter(|line| line.contains(&format!("\"event\":\"{event}\""))).count()
}

scenario! {
    fn drift_is_healed_when_it_happens(host: installed) {
        let repo = watching(host);
        let unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
        repo.write("reconciled.toml", "units = [\"shop.service\"]\n").write("files/etc/systemd/system/shop.service", unit);
        for file in ["content", "mode", "gone", "renamed", "half"] {
            repo.write(&format!("files/etc/shop/{file}"), "a\n");
        }
        repo.write("files/srv/deep/er/b", "b\n").symlink("files/etc/shop/link", "content");
        repo.commit_and_push().assert_live();
        let healed = |what: &str, edit: &str, holds: &str| {
            host.sh(edit).ok();
            host.wait_until(what, || host.sh(holds).code == 0);
            // A repair is over when what it started has stayed up.
            host.wait_until("the daemon is idle", || host.status()["phase"] == "idle");
        };
        healed("content", "echo x >/etc/shop/content", "grep -qx a /etc/shop/content");
        healed("mode", "chmod 0600 /etc/shop/mode", "[ $(stat -c %a /etc/shop/mode) = 644 ]");
        healed("a file that is gone", "rm /etc/shop/gone", "grep -qx a /etc/shop/gone");
        healed("an editor's rename", "echo y >/etc/shop/.new && mv /etc/shop/.new /etc/shop/renamed", "grep -qx a /etc/shop/renamed");
        healed("a link", "ln -sfn other /etc/shop/link", "[ $(readlink /etc/shop/link) = content ]");
        healed("a directory that is gone", "rm -r /srv/deep", "grep -qx b /srv/deep/er/b");
        healed("once more in it", "echo x >/srv/deep/er/b", "grep -qx b /srv/deep/er/b");
        healed("a unit that was stopped", "systemctl stop shop", "systemctl -q is-active shop");
        healed("one that was killed", "systemctl kill --signal=KILL shop; sleep 0.2", "systemctl -q is-active shop");
        healed("one that was masked", "systemctl mask --now --runtime shop", "systemctl -q is-active shop");
        // What is not ours wakes nobody, nor does what we do ourselves.
        let before = records(host, "drift-repaired");
        host.write("/etc/shop/theirs", "x\n");
        thread::sleep(Duration::from_secs(3));
        assert_eq!(records(host, "drift-repaired"), before);
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // Half-written is not looked at: the writer gets to its end.
        host.sh("(printf half; sleep 0.6; echo way) >/etc/shop/half").ok();
        host.wait_until("healed", || host.read("/etc/shop/half") == "a\n");
        assert!(host.ctl("audit log").ok().contains("drift:event"));
    }
}

scenario! {
    fn drift_is_left_where_it_is_declared_so(host: installed on bookworm) {
        let repo = watching(host);
        let tables = "[[file]]\npath = \"/etc/shop/reported\"\ndrift = \"report\"\n[[file]]\npath = \"/etc/shop/ignored\"\ndrift = \"ignore\"\n";
        let unit = "[[unit]]\nname = \"shop.service\"\nactive = true\ndrift = \"report\"\n";
        repo.write("reconciled.toml", format!("{tables}{unit}"));
        repo.write("files/etc/systemd/system/shop.service", "[Service]\nExecStart=/bin/sleep infinity\n");
        for file in ["reported", "ignored", "healed"] {
            repo.write(&format!("files/etc/shop/{file}"), "ours\n");
        }
        repo.commit_and_push().assert_live();
        host.sh("for file in reported ignored healed; do echo theirs >/etc/shop/$file; done; systemctl stop shop").ok();
        host.wait_until("one is healed", || host.read("/etc/shop/healed") == "ours\n");
        host.wait_until("the rest is told", || host.status()["drift"].as_array().is_some_and(|drift| drift.len() == 2));
        let status = host.ctl("status").ok();
        assert!(status.contains("file:/etc/shop/reported (content): drift = \"report\""), "{status}");
        assert!(status.contains("unit:shop.service (start): drift = \"report\""), "{status}");
        host.ctl("sync").ok();
        assert_eq!((host.read("/etc/shop/reported"), host.read("/etc/shop/ignored")), ("theirs\n".into(), "theirs\n".into()));
        assert_eq!(records(host, "drift-found"), 1, "said once");
        assert!(host.ctl("diff").fails(1).stdout.contains("/etc/shop/ignored"), "who asks sees all of it");
        // A push brings back what is reported; what is ignored only when its own declaration changes.
        repo.write("files/etc/motd.d/x", "x\n");
        repo.commit_and_push().assert_live().says("~ file:/etc/shop/reported (content)").says("unit:shop.service (start)");
        assert_eq!((host.read("/etc/shop/reported"), host.read("/etc/shop/ignored")), ("ours\n".into(), "theirs\n".into()));
        assert_eq!(host.status()["drift"], serde_json::json!([]));
        repo.write("files/etc/shop/ignored", "new\n");
        repo.commit_and_push().assert_live();
        assert_eq!(host.read("/etc/shop/ignored"), "new\n");
        // It is still ours: it goes with its declaration.
        repo.write("reconciled.toml", "").remove("files/etc/shop/ignored");
        host.sh("echo theirs >/etc/shop/ignored").ok();
        repo.commit_and_push().assert_live();
        assert!(!host.exists("/etc/shop/ignored"));
    }
}

scenario! {
    fn what_somebody_else_brings_back_each_time_is_contested(host: installed on bookworm) {
        let repo = watching(host);
        repo.write("files/etc/shop/a", "ours\n").write("files/etc/shop/b", "ours\n");
        repo.commit_and_push().assert_live();
        for round in 1..=3 {
            host.write("/etc/shop/a", format!("theirs {round}\n"));
            host.wait_until("it is healed", || host.read("/etc/shop/a") == "ours\n");
        }
        host.write("/etc/shop/a", "theirs again\n");
        host.wait_until("it is told", || host.ctl("status").stdout.contains("CONTESTED"));
        // The rest is healed as ever.
        host.write("/etc/shop/b", "theirs\n");
        host.wait_until("the other is healed", || host.read("/etc/shop/b") == "ours\n");
        assert_eq!(host.read("/etc/shop/a"), "theirs again\n");
        // A push decides.
        repo.write("files/etc/motd.d/x", "x\n");
        repo.commit_and_push().assert_live().says("~ file:/etc/shop/a");
        assert_eq!(host.read("/etc/shop/a"), "ours\n");
    }
}
