//! What no crash does: a plug pulled, a person who edits at the wrong moment, a unit that does not come back, a full disk, and
//! a daemon that is told to stop. The numbers in the names: i01 all or nothing, i05 a recovery that is
//! interrupted, i07 edits by hand, i08 refused before anything is touched, i09 services too, i10 loud, i11 held.

use reconciled_tests::{Host, Push, Pushing, Repo, scenario};

const STATE: &str = "/var/lib/reconciled";

/// A service that notes, before it counts as started, what it has read; it starts only where a flag says so.
fn service(generation: &str) -> String {
    format!(
        "[Unit]\nDescription=svc {generation}\nConditionPathExists=/srv\n[Service]\nEnvironment=GEN={generation}\nExecStartPre=/usr/bin/test -e /srv/flag\n\
         ExecStartPre=/bin/cp /srv/app/conf /run/read.svc\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    )
}

const UNIT: &str = "units = [\"svc.service\"]\n";
/// Red as long as nobody says otherwise.
const RED: &str = "[[probe]]\nname = \"ready\"\ncommand = [\"/usr/bin/test\", \"-e\", \"/srv/ready\"]\nattempts = 1\n";

/// At generation 1, with a service that has read it.
fn at_generation_one(host: &Host) -> Repo {
    host.write("/srv/flag", "");
    host.write(
        "/etc/systemd/system/reconciled.service.d/test.conf",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=100ms\n",
    );
    host.exec("systemctl daemon-reload").ok();
    host.write("/etc/systemd/system/toggled.service", service("always"));
    let repo = host.clone_repo();
    repo.write("reconciled.toml", format!("{UNIT}{READ}[[unit]]\nname = \"toggled.service\"\nenabled = true\n"))
        .write("files/etc/systemd/system/svc.service", service("one"))
        .write("files/etc/systemd/system/reader.service", READER)
        .write("files/srv/app/conf", "one\n")
        .write("files/srv/app/other", "one\n");
    repo.commit_and_push().assert_live();
    repo
}

/// Reads, once in each boot and before any usual service, what a service would find.
const READER: &str = "[Unit]\nDefaultDependencies=no\nAfter=sysinit.target\nBefore=basic.target\n[Service]\nType=oneshot\n\
                      ExecStart=/bin/sh -c 'cat /srv/app/conf /srv/app/other; ls -A /srv/app'\n[Install]\nWantedBy=basic.target\n";

const READ: &str = "[[unit]]\nname = \"reader.service\"\nenabled = true\n";

/// Pushes generation 2, which replaces, creates and deletes files, restarts a service, enables a unit and disables another.
fn start_two(repo: &Repo) -> Pushing {
    let units = "units = [\"svc.service\", \"fresh.service\"]\n[[unit]]\nname = \"toggled.service\"\nenabled = false\n";
    repo.write("reconciled.toml", format!("{units}{READ}"))
        .write("files/etc/systemd/system/svc.service", service("two"))
        .write("files/etc/systemd/system/fresh.service", service("two").replace("read.svc", "read.fresh"))
        .write("files/srv/app/conf", "two\n")
        .write("files/srv/app/new", "two\n")
        .remove("files/srv/app/other");
    repo.commit();
    repo.start_push(&["HEAD:refs/heads/main"])
}

/// Waits until the daemon has stopped at the point where it was told to.
#[track_caller]
fn wait_until_stopped(host: &Host) {
    host.wait_until("the daemon is stopped", || is_stopped(host, 0));
}

/// Has it stopped, with so many orders left for later lives?
fn is_stopped(host: &Host, orders_left: usize) -> bool {
    let stat = host.sh("cat /proc/$(systemctl show -p MainPID --value reconciled)/stat").stdout;
    let orders = host.sh("cat /var/lib/reconciled/failpoint 2>/dev/null || true").stdout;
    orders.lines().count() == orders_left && stat.contains(") T ")
}

fn go_on(host: &Host) {
    host.exec("systemctl kill --signal=CONT --kill-who=main reconciled").ok();
}

#[track_caller]
fn wait_until_up(host: &Host) {
    host.wait_until("the daemon is up and idle", || {
        host.exec("systemctl is-active reconciled").stdout == "active\n" && host.status()["phase"] == "idle"
    });
}

/// Is generation 1 what stands there, what runs and what starts at boot?
#[track_caller]
fn is_at_generation_one(host: &Host, repo: &Repo, when: &str) {
    assert_eq!(host.read("/srv/app/conf"), "one\n", "{when}");
    assert_eq!(host.read("/srv/app/other"), "one\n", "{when}");
    assert!(!host.exists("/srv/app/new") && !host.exists("/etc/systemd/system/fresh.service"), "{when}");
    let show =
        |unit: &str| host.sh(&format!("systemctl show -p Description,ActiveState,UnitFileState,NeedDaemonReload {unit}")).ok();
    let of_svc = show("svc.service");
    for wanted in ["Description=svc one", "ActiveState=active", "UnitFileState=enabled", "NeedDaemonReload=no"] {
        assert!(of_svc.contains(wanted), "{when}: {of_svc}");
    }
    assert!(show("fresh.service").contains("ActiveState=inactive"), "{when}");
    assert_eq!(host.exec("systemctl is-enabled toggled.service").stdout, "enabled\n", "{when}");
    assert!(!host.exists("/etc/systemd/system/multi-user.target.wants/fresh.service"), "{when}");
    assert_eq!(host.read("/run/read.svc"), "one\n", "{when}");
    assert_eq!(host.sh("find / -xdev -name .reconciled").ok(), "", "{when}");
    assert_eq!(host.status()["live"].as_str().map(str::to_owned), repo.remote_main(), "{when}");
    let _ = host.ctl("audit verify").fails(0);
}

scenario! {
    fn i05_the_plug_is_pulled(host: with_failpoints) {
        let repo = at_generation_one(host);
        let base = repo.head();
        for point in ["recorded 1", "step 2", "step 5", "guarded 1", "step 6", "woken 1", "settled 1"] {
            repo.git(&["reset", "-q", "--hard", &base]).ok();
            host.order(&[&format!("{point} stop")]);
            let push = start_two(&repo);
            wait_until_stopped(host);
            host.off();
            push.kill();
            host.boot_again();
            wait_until_up(host);
            is_at_generation_one(host, &repo, point);
            // What starts at boot has read the restored files, whether or not the daemon was up by then.
            let read = host.exec("journalctl -b -o cat _SYSTEMD_UNIT=reader.service").stdout;
            assert!(read.contains("one\none\nconf\nother\n"), "{point}: at boot a service read {read}");
            assert!(!read.contains("two") && !read.contains("new"), "{point}: at boot a service read {read}");
            let order = host.sh("journalctl -b -o short-monotonic -u reconciled-recover -u reader.service | grep -n -e Finished").ok();
            assert!(order.find("recover").unwrap_or(usize::MAX) < order.find("reader").unwrap_or(0), "{point}: {order}");
            let last = host.sh("grep -o '\"event\":\"[a-z-]*\"' /var/lib/reconciled/audit/audit.jsonl | tail -n 2").ok();
            assert_eq!(last, "\"event\":\"recovered\"\n\"event\":\"started\"", "{point}");
        }
        // Killed in the recovery at boot, and again in that of the daemon.
        repo.git(&["reset", "-q", "--hard", &base]).ok();
        host.order(&["settled 1 stop", "step-back 3", "unit-back 1"]);
        let push = start_two(&repo);
        host.wait_until("the daemon is stopped", || is_stopped(host, 2));
        host.off();
        push.kill();
        host.boot_again();
        wait_until_up(host);
        assert!(!host.exists("/var/lib/reconciled/failpoint"), "both recoveries were killed");
        is_at_generation_one(host, &repo, "killed in the recovery at boot");
        // The plug is pulled in the recovery.
        for point in ["undoing 1", "step-back 4", "restored 1", "unit-back 1", "woken-back 1"] {
            repo.git(&["reset", "-q", "--hard", &base]).ok();
            host.order(&["settled 1", &format!("{point} stop")]);
            let push = start_two(&repo);
            wait_until_stopped(host);
            host.off();
            push.kill();
            host.boot_again();
            wait_until_up(host);
            is_at_generation_one(host, &repo, &format!("the plug pulled in the recovery at {point}"));
        }
        repo.git(&["reset", "-q", "--hard", &base]).ok();
        start_two(&repo).wait().assert_live();
    }
}

scenario! {
    fn i09_a_reboot_in_the_middle_takes_back_and_blames_nobody(host: with_failpoints) {
        let repo = at_generation_one(host);
        let base = repo.head();
        for point in ["recorded 1", "guarded 1", "woken 1"] {
            repo.git(&["reset", "-q", "--hard", &base]).ok();
            host.order(&[&format!("{point} stop")]);
            let push = start_two(&repo);
            wait_until_stopped(host);
            // systemd wakes what is stopped and tells it to end: it goes on in a host that takes no jobs any more.
            host.reboot();
            push.kill();
            wait_until_up(host);
            is_at_generation_one(host, &repo, point);
            assert!(host.status()["held"].is_null(), "{point}: {}", host.status());
        }
        repo.git(&["reset", "-q", "--hard", &base]).ok();
        start_two(&repo).wait().assert_live();
    }
}

scenario! {
    fn i07_an_edit_between_look_and_write_stops_the_transaction(host: with_failpoints on bookworm) {
        let repo = at_generation_one(host);
        host.order(&["recorded 1 stop"]);
        let push = start_two(&repo);
        wait_until_stopped(host);
        host.write("/srv/app/conf", "a person's\n");
        go_on(host);
        push.wait().assert_refused("/srv/app/conf changed under us");
        assert_eq!(host.read("/srv/app/conf"), "a person's\n");
        assert_eq!(host.status()["phase"], "idle");
        assert_eq!(host.status()["held"], serde_json::Value::Null, "nobody's fault but the moment's");
        assert!(!host.exists("/srv/app/new") && !host.exists("/etc/systemd/system/fresh.service"));
        assert_eq!(host.read("/srv/app/other"), "one\n");
        // Looked at again, it is a difference like any other, and on record.
        repo.push().assert_live();
        assert_eq!(host.read("/srv/app/conf"), "two\n");
        assert!(host.ctl("audit log --path /srv/app/conf").ok().contains("rolled-back"));
        let diff = host.sh("reconcilectl audit show $(reconcilectl audit log --json --path /srv/app/conf -n 1 | grep -o '\"seq\":[0-9]*' | cut -d: -f2)").ok();
        assert!(diff.contains("-a person's") && diff.contains("+two"), "{diff}");
    }
}

scenario! {
    fn i07_i10_an_edit_during_the_undo_is_kept_and_loud(host: with_failpoints on bookworm) {
        let repo = at_generation_one(host);
        for keep in [true, false] {
            let base = repo.head();
            repo.write("reconciled.toml", format!("{UNIT}{RED}")).write("files/srv/app/conf", "two\n").write("files/srv/app/other", "two\n");
            repo.remove("files/etc/systemd/system/reader.service");
            repo.commit();
            host.order(&["undoing 1 stop"]);
            let push = repo.start_push(&["HEAD:refs/heads/main"]);
            wait_until_stopped(host);
            host.write("/srv/app/conf", "a person's\n");
            go_on(host);
            let said = push.wait();
            said.assert_refused("STUCK").says("/srv/app/conf");
            assert_eq!(host.read("/srv/app/conf"), "a person's\n");
            assert_eq!(host.read("/srv/app/other"), "one\n", "the rest is inverted");
            assert!(host.exists("/etc/systemd/system/reader.service"));
            is_stuck_on(host, &said, "/srv/app/conf");
            // It stays so: after a restart, and for whoever pushes.
            host.exec("systemctl restart reconciled").ok();
            is_stuck_on(host, &said, "/srv/app/conf");
            let refused = repo.commit_and_push();
            refused.assert_refused("/srv/app/conf").says("reconcilectl resolve");
            assert_eq!(host.read("/srv/app/conf"), "a person's\n");
            let _ = host.ctl("sync").fails(5);
            let _ = host.ctl("resolve /etc/passwd --keep").fails(1);
            host.ctl(if keep { "resolve /srv/app/conf --keep" } else { "resolve /srv/app/conf --restore" }).ok();
            assert_eq!(host.read("/srv/app/conf"), if keep { "a person's\n" } else { "one\n" });
            wait_until_up(host);
            assert_eq!(host.ctl("status").code, 1, "the revision is held");
            assert_eq!(host.sh("find / -xdev -name .reconciled").ok(), "");
            host.ctl("sync").ok();
            assert_eq!(host.read("/srv/app/conf"), "one\n", "drift is healed again");
            repo.git(&["reset", "-q", "--hard", &base]).ok();
            let _ = host.ctl("audit verify").fails(0);
        }
    }
}

/// Says so in every way that there is, and has kept what stood there.
#[track_caller]
fn is_stuck_on(host: &Host, push: &Push, path: &str) {
    let status = host.ctl("status --json").fails(5);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap_or_default();
    assert_eq!(status["phase"], "stuck", "{status}");
    let remains = status["stuck"].to_string();
    assert!(remains.contains(path), "{status}");
    let text = host.exec("systemctl show -p StatusText --value reconciled").stdout;
    assert!(text.contains("STUCK") && text.contains(path), "{text}");
    let remedy = format!("what stood there before is kept: reconcilectl resolve {path} --restore brings it back");
    assert!(remains.contains(&remedy), "{remains}");
    push.says(&remedy);
}

scenario! {
    fn i10_a_unit_that_does_not_come_back_is_loud(host: with_failpoints) {
        let repo = at_generation_one(host);
        host.exec("rm /srv/flag").ok();
        repo.write("files/etc/systemd/system/svc.service", service("two").replace("/srv/flag", "/srv"));
        repo.write("reconciled.toml", format!("{UNIT}{RED}")).remove("files/etc/systemd/system/reader.service");
        repo.write("files/srv/app/conf", "two\n");
        let push = repo.commit_and_push();
        push.assert_refused("STUCK").says("svc.service");
        assert_eq!(host.read("/srv/app/conf"), "one\n", "the rest is inverted");
        let _ = host.ctl("status").fails(5).says("svc.service");
        let _ = host.ctl("resolve svc.service --restore").fails(5).says("svc.service");
        host.write("/srv/flag", "");
        host.ctl("resolve svc.service --restore").ok();
        assert_eq!(host.exec("systemctl is-active svc.service").stdout, "active\n");
        assert_eq!(host.read("/run/read.svc"), "one\n");
        wait_until_up(host);
        assert_eq!(host.status()["held"]["commit"], push.commit);
    }
}

scenario! {
    fn i11_what_was_red_stays_held_although_the_daemon_died(host: with_failpoints on bookworm) {
        let repo = at_generation_one(host);
        repo.write("reconciled.toml", format!("{UNIT}{RED}")).write("files/srv/app/conf", "two\n");
        repo.remove("files/etc/systemd/system/reader.service");
        repo.commit();
        host.order(&["undoing 1"]);
        let push = repo.push();
        assert!(!push.ok, "{}", push.output);
        wait_until_up(host);
        assert_eq!(host.read("/srv/app/conf"), "one\n");
        assert_eq!(host.status()["held"]["commit"], push.commit);
        host.write("/srv/ready", "");
        repo.push().assert_refused("held");
        host.ctl("retry").ok();
        assert_eq!(host.read("/srv/app/conf"), "two\n");
    }
}

scenario! {
    fn i11_what_interrupts_the_daemon_twice_is_held(host: with_failpoints on bookworm) {
        let repo = at_generation_one(host);
        let mut push = None;
        for _ in 0..2 {
            host.order(&["step 2"]);
            push = Some(match push {
                None => start_two(&repo).wait(),
                Some(_) => repo.push(),
            });
            wait_until_up(host);
        }
        let Some(push) = push else { return };
        assert_eq!(host.status()["held"]["commit"], push.commit);
        repo.push().assert_refused("interrupted twice");
        is_at_generation_one(host, &repo, "interrupted twice");
    }
}

scenario! {
    fn i01_a_stop_during_the_probes_undoes(host: with_failpoints on bookworm) {
        let repo = at_generation_one(host);
        repo.write("reconciled.toml", format!("{UNIT}{}", RED.replace("attempts = 1", "attempts = 100\ninterval = \"1s\"")));
        repo.write("files/srv/app/conf", "two\n").remove("files/etc/systemd/system/reader.service");
        repo.commit();
        let push = repo.start_push(&["HEAD:refs/heads/main"]);
        host.wait_until("it probes", || host.status()["phase"] == "probing");
        host.exec("systemctl restart reconciled").ok();
        let said = push.wait();
        assert!(!said.ok, "{}", said.output);
        assert_eq!(host.exec("systemctl show -p Result --value reconciled").stdout, "success\n");
        assert_eq!(host.read("/srv/app/conf"), "one\n");
        wait_until_up(host);
        assert_eq!(host.status()["held"], serde_json::Value::Null, "nobody's fault");
        assert!(host.ctl("audit log --outcome rolled-back").ok().contains("interrupted"));
    }
}

scenario! {
    fn i08_a_full_disk_refuses_before_anything_is_touched(host: with_failpoints on bookworm) {
        host.sh("mkdir -p /srv/tiny && mount -t tmpfs -o size=1m tmpfs /srv/tiny").ok();
        let repo = at_generation_one(host);
        repo.write("files/srv/tiny/big", "x".repeat(2 << 20)).write("files/srv/app/conf", "two\n").commit();
        repo.push().assert_refused("No space left on device");
        assert_eq!(host.read("/srv/app/conf"), "one\n");
        assert_eq!(host.sh("find /srv/tiny /.reconciled -mindepth 1 2>/dev/null || true").ok(), "");
        assert_eq!(host.status()["phase"], "idle");
        assert_eq!(host.status()["held"], serde_json::Value::Null, "the disk's fault");
        host.sh("mount -o remount,size=8m /srv/tiny").ok();
        repo.push().assert_live();
    }
}

/// Leaves not a byte on the small file system of the daemon's state.
#[track_caller]
fn fill(host: &Host) {
    host.sh(&format!("mountpoint -q {STATE}")).ok();
    let full = host.sh(&format!("head -c 128M /dev/zero >{STATE}/filler")).text();
    assert!(full.contains("No space left"), "{full}");
}

scenario! {
    fn i01_a_disk_that_fills_up_on_the_way_is_undone_and_on_record(host: with_failpoints on bookworm) {
        host.sh(&format!(
            "set -e; systemctl stop reconciled; cp -a {STATE} /srv/state; mount -t tmpfs -o size=64m tmpfs {STATE}
             cp -a /srv/state/. {STATE}; systemctl start reconciled"
        ))
        .ok();
        let repo = at_generation_one(host);
        for point in ["planned 1", "staged 1", "recorded 1", "step 2", "woken 1", "settled 1", "probed 1", "archived 1"] {
            repo.git(&["reset", "-q", "--hard", "origin/main"]).ok();
            host.order(&[&format!("{point} stop")]);
            let push = start_two(&repo);
            wait_until_stopped(host);
            fill(host);
            go_on(host);
            let said = push.wait();
            host.wait_until("it is over", || ["idle", "stuck"].contains(&host.status()["phase"].as_str().unwrap_or_default()));
            let status = host.status();
            assert_eq!(status["phase"], "idle", "full at {point}: {}", said.output);
            assert!(!said.ok, "full at {point}: {}", said.output);
            is_at_generation_one(host, &repo, &format!("full at {point}"));
            host.sh(&format!("rm {STATE}/filler")).ok();
            host.exec("systemctl restart reconciled").ok();
            let _ = host.ctl("audit verify").fails(0);
        }
        // Full before anything is begun: nothing is, and the daemon still says how things stand.
        host.exec(&format!("rm -f {STATE}/reserve")).ok();
        fill(host);
        host.write("/srv/app/conf", "drift\n");
        let _ = host.ctl("sync").fails(1);
        assert_eq!(host.status()["phase"], "idle");
        assert_eq!(host.read("/srv/app/conf"), "drift\n");
        host.sh(&format!("rm {STATE}/filler")).ok();
        host.ctl("sync").ok();
        assert_eq!(host.read("/srv/app/conf"), "one\n");
    }
}
