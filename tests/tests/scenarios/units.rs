//! Units, from the installed package: what is enabled, started, restarted and given back, and what a failure of theirs does to a push.

use reconciled_tests::{Host, scenario};

/// A unit file with these lines of its service, started by the default target.
fn service(lines: &str) -> String {
    format!("[Service]\n{lines}\n[Install]\nWantedBy=multi-user.target\n")
}

/// One that shows in /run/WORD which configuration its process has read.
fn marked(word: &str, mark: &str) -> String {
    service(&format!("ExecStart=/bin/sh -c 'echo {mark} >/run/{word}; exec sleep infinity'"))
}

/// A property of a unit, as systemd has it.
#[track_caller]
fn prop(host: &Host, unit: &str, name: &str) -> String {
    host.exec(&format!("systemctl show --property={name} --value {unit}")).ok()
}

/// `ActiveState UnitFileState` of a unit.
#[track_caller]
fn state(host: &Host, unit: &str) -> String {
    format!("{} {}", prop(host, unit, "ActiveState"), prop(host, unit, "UnitFileState"))
}

/// The main process of a service and when it began, in microseconds since boot.
#[track_caller]
fn process(host: &Host, unit: &str) -> (String, u64) {
    let began = prop(host, unit, "ExecMainStartTimestampMonotonic").parse().expect("a time");
    (prop(host, unit, "MainPID"), began)
}

/// The host has nothing of this unit: no file, no link, no process, nothing that PID 1 remembers as failed.
#[track_caller]
fn assert_no_trace(host: &Host, unit: &str) {
    let found = host.sh(&format!("find /etc/systemd /run/systemd/system -name '{unit}*'")).ok();
    assert_eq!(found, "", "left of {unit}");
    assert_eq!(
        (prop(host, unit, "LoadState"), prop(host, unit, "ActiveState")),
        ("not-found".into(), "inactive".into()),
        "{unit}"
    );
    assert_eq!(host.exec("systemctl --failed --plain --no-legend").ok(), "");
}

scenario! {
    fn a_unit_follows_its_table_and_its_file(host: installed) {
        let repo = host.clone_repo();
        let unit = "files/etc/systemd/system/shop.service";
        repo.write("reconciled.toml", "units = [\"shop.service\"]\n").write(unit, marked("shop", "one"));
        repo.commit_and_push().assert_live().says("+ file:/etc/systemd/system/shop.service").says("unit:shop.service (enable, start)");
        assert_eq!(state(host, "shop.service"), "active enabled");
        assert!(host.exists("/etc/systemd/system/multi-user.target.wants/shop.service"));
        let first = process(host, "shop.service");

        repo.write(unit, marked("shop", "two"));
        repo.commit_and_push().assert_live().says("! daemon-reload").says("! restart shop.service");
        let second = process(host, "shop.service");
        assert!(second.0 != first.0 && second.1 > first.1, "{first:?} → {second:?}");
        assert_eq!(host.read("/run/shop"), "two\n");
        assert_eq!(prop(host, "shop.service", "NeedDaemonReload"), "no");

        // What has nothing to do with it leaves the process alone.
        repo.write("files/etc/motd.d/hello", "hello\n");
        repo.commit_and_push().assert_live();
        assert_eq!(process(host, "shop.service"), second);

        repo.write("reconciled.toml", "[[unit]]\nname = \"shop.service\"\nenabled = false\nactive = false\n");
        repo.commit_and_push().assert_live().says("disable, stop");
        assert_eq!(state(host, "shop.service"), "inactive disabled");

        // Naming one key manages only that key.
        repo.write("reconciled.toml", "[[unit]]\nname = \"shop.service\"\nactive = true\n");
        repo.commit_and_push().assert_live();
        assert_eq!(state(host, "shop.service"), "active disabled");
    }
}

scenario! {
    fn a_mask_comes_and_goes(host: installed) {
        host.write("/usr/lib/systemd/system/vendor.service", marked("vendor", "up"));
        host.exec("systemctl daemon-reload").ok();
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "[[unit]]\nname = \"vendor.service\"\nmasked = true\n");
        repo.commit_and_push().assert_live().says("mask");
        let _ = host.exec("systemctl start vendor.service").fails(1).says("masked");

        repo.write("reconciled.toml", "units = [\"vendor.service\"]\n");
        repo.commit_and_push().assert_live();
        assert_eq!(state(host, "vendor.service"), "active enabled");

        // Whoever asks for a running unit asks for one without a mask, of either kind.
        for mask in ["mask", "mask --runtime"] {
            host.exec(&format!("systemctl {mask} --now vendor.service")).ok();
            host.ctl("sync").ok();
            assert_eq!(state(host, "vendor.service"), "active enabled", "after {mask}");
        }

        // Before us it was neither masked nor enabled nor running.
        repo.write("reconciled.toml", "allow_empty = true\n");
        repo.commit_and_push().assert_live();
        assert_eq!(state(host, "vendor.service"), "inactive disabled");
    }
}

scenario! {
    fn on_change_says_what_a_change_does(host: installed on bookworm) {
        let repo = host.clone_repo();
        let lines = "ExecStart=/bin/sh -c 'echo started >>/run/NAME; exec sleep infinity'\nExecReload=/bin/sh -c 'echo reloaded >>/run/NAME'";
        let table = |name: &str, more: &str| {
            repo.write(&format!("files/etc/systemd/system/{name}.service"), service(&lines.replace("NAME", name)));
            format!("[[unit]]\nname = \"{name}.service\"\nactive = true\nwatch = [\"/etc/shop/**\"]\n{more}")
        };
        let tables = [
            table("plain", ""),
            table("reload", "on_change = \"reload\"\n"),
            table("later", "on_change = \"daemon-reload\"\n"),
            table("never", "on_change = \"none\"\n"),
        ];
        repo.write("reconciled.toml", tables.concat()).write("files/etc/shop/conf.d/a", "1\n").write("files/etc/shops", "1\n");
        repo.commit_and_push().assert_live();
        let happened = || ["plain", "reload", "later", "never"].map(|name| host.read(&format!("/run/{name}")).replace('\n', " "));
        assert_eq!(happened(), ["started "; 4]);

        repo.write("files/etc/shop/conf.d/a", "2\n");
        repo.commit_and_push().assert_live().says("! reload reload.service").says("! restart plain.service");
        assert_eq!(happened(), ["started started ", "started reloaded ", "started ", "started "]);

        // A neighbour of the glob, and a watched file that comes and goes.
        repo.write("files/etc/shops", "2\n");
        repo.commit_and_push().assert_live();
        assert_eq!(happened()[0], "started started ");
        repo.remove("files/etc/shop/conf.d/a");
        repo.commit_and_push().assert_live();
        assert_eq!(happened()[0], "started started started ");

        for name in ["plain", "reload", "later", "never"] {
            let more = "\nEnvironment=A=1";
            repo.write(&format!("files/etc/systemd/system/{name}.service"), service(&(lines.replace("NAME", name) + more)));
        }
        repo.commit_and_push().assert_live();
        let now = happened();
        assert_eq!(now[0].matches("started").count(), 4);
        assert_eq!(&now[1..], ["started reloaded reloaded reloaded ", "started ", "started "]);
        assert!(prop(host, "later.service", "Environment").contains("A=1"));
    }
}

scenario! {
    fn a_drop_in_restarts_what_it_belongs_to(host: installed) {
        host.write("/usr/lib/systemd/system/vendor.service", service("ExecStart=/bin/sh -c 'echo got $A >/run/vendor; exec sleep infinity'"));
        host.exec("systemctl daemon-reload").ok();
        host.exec("systemctl start vendor.service").ok();
        let repo = host.clone_repo();
        repo.write("files/etc/systemd/system/vendor.service.d/a.conf", "[Service]\nEnvironment=A=1\n").write("files/etc/motd.d/x", "");
        repo.commit_and_push().assert_live().says("! restart vendor.service");
        assert_eq!(host.read("/run/vendor"), "got 1\n");

        repo.remove("files/etc/systemd");
        repo.commit_and_push().assert_live().says("! restart vendor.service");
        assert_eq!(host.read("/run/vendor"), "got\n");
        assert!(!host.exists("/etc/systemd/system/vendor.service.d"));
    }
}

scenario! {
    fn a_service_that_dies_after_its_start_fails_the_push(host: installed) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "units = [\"shop.service\"]\n");
        repo.write("files/etc/systemd/system/shop.service", service("ExecStart=/bin/sh -c 'sleep 0.1; echo the till is empty; exit 3'"));
        let push = repo.commit_and_push();
        push.assert_refused("rolled back").says("shop.service did not stay up").says("exit-code").says("the till is empty");
        assert_no_trace(host, "shop.service");
        assert_eq!(repo.remote_main(), None);
        assert_eq!(host.status()["held"]["commit"], push.commit.as_str());

        // With a good generation before it, that one runs again.
        repo.write("files/etc/systemd/system/shop.service", marked("shop", "good"));
        repo.commit_and_push().assert_live();
        let good = process(host, "shop.service");
        repo.write("files/etc/systemd/system/shop.service", service("ExecStart=/bin/sh -c 'echo bad >/run/shop; sleep 0.1; exit 3'"));
        repo.commit_and_push().assert_refused("rolled back to generation 1");
        let now = process(host, "shop.service");
        assert!(now.0 != good.0 && now.1 > good.1, "{good:?} → {now:?}");
        assert_eq!((host.read("/run/shop"), state(host, "shop.service")), ("good\n".into(), "active enabled".into()));
    }
}

scenario! {
    fn a_crash_loop_is_caught_and_ended(host: installed) {
        let repo = host.clone_repo();
        let looping = service("ExecStart=/bin/sh -c 'echo x >>/run/starts; sleep 0.1; exit 1'\nRestart=always\nRestartSec=100ms\n[Unit]\nStartLimitBurst=0");
        let waiting = service("ExecStart=/bin/sh -c 'echo x >>/run/starts; exit 1'\nRestart=always\nRestartSec=1h");
        repo.write("reconciled.toml", "units = [\"shop.service\"]\n");
        for (file, what) in [(&looping, "loops"), (&waiting, "waits for its next start")] {
            repo.write("files/etc/systemd/system/shop.service", file);
            repo.commit_and_push().assert_refused("shop.service");
            assert_eq!(host.status()["stuck"], serde_json::json!([]), "{what}");
            assert_no_trace(host, "shop.service");
        }
    }
}

scenario! {
    fn a_service_that_ends_well_is_not_active_either(host: installed) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "units = [\"once.service\"]\n");
        repo.write("files/etc/systemd/system/once.service", service("Type=oneshot\nExecStart=/bin/true"));
        repo.commit_and_push().assert_refused("once.service").says("RemainAfterExit=yes");
        assert_no_trace(host, "once.service");
        repo.write("files/etc/systemd/system/once.service", service("Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true"));
        repo.commit_and_push().assert_live();
        assert_eq!(state(host, "once.service"), "active enabled");
    }
}

scenario! {
    fn only_what_a_push_touches_is_judged(host: installed on bookworm) {
        host.write("/etc/systemd/system/broken.service", service("ExecStart=/bin/false"));
        host.exec("systemctl daemon-reload").ok();
        let _ = host.exec("systemctl start broken.service");
        host.wait_until("broken.service has failed", || prop(host, "broken.service", "ActiveState") == "failed");
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "units = [\"shop.service\"]\n").write("files/etc/systemd/system/shop.service", marked("shop", "one"));
        repo.commit_and_push().assert_live();
        assert_eq!(prop(host, "broken.service", "ActiveState"), "failed");

        // A service that looped before us and that this push does not mend: taken back, and that is not a failed undo.
        host.write("/etc/systemd/system/loop.service", service("ExecStart=/bin/false\nRestart=always\nRestartSec=50ms\n[Unit]\nStartLimitIntervalSec=0"));
        host.exec("systemctl daemon-reload").ok();
        host.exec("systemctl start --no-block loop.service").ok();
        host.wait_until("loop.service loops", || prop(host, "loop.service", "NRestarts") != "0");
        repo.write("files/etc/systemd/system/loop.service.d/a.conf", "[Service]\nEnvironment=A=1\n");
        repo.commit_and_push().assert_refused("rolled back to generation 1").says("loop.service");
        let status = host.status();
        assert_eq!((&status["phase"], &status["stuck"]), (&"idle".into(), &serde_json::json!([])));

        // And one that does mend it goes live.
        repo.write("files/etc/systemd/system/loop.service.d/a.conf", "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n");
        repo.commit_and_push().assert_live();
        assert_eq!(prop(host, "loop.service", "ActiveState"), "active");
    }
}

scenario! {
    fn starts_and_stops_that_hang_have_an_end(host: installed) {
        let repo = host.clone_repo();
        let unit = "files/etc/systemd/system/slow.service";
        repo.write("reconciled.toml", "units = [\"slow.service\"]\n");
        repo.write(unit, service("Type=notify\nExecStart=/bin/sleep infinity\nTimeoutStartSec=2s"));
        repo.commit_and_push().assert_refused("slow.service").says("timeout");
        assert_no_trace(host, "slow.service");

        let deaf = "ExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'\nExecStop=/bin/sleep infinity\nTimeoutStopSec=2s";
        repo.write(unit, service(deaf));
        repo.commit_and_push().assert_live();
        let old = process(host, "slow.service").0;
        repo.remove(unit).write("reconciled.toml", "allow_empty = true\n");
        repo.commit_and_push().assert_live();
        assert_no_trace(host, "slow.service");
        assert!(!host.exists(&format!("/proc/{old}")));
    }
}

scenario! {
    fn a_dropped_table_gives_back_what_was_before(host: installed on bookworm) {
        for name in ["on", "off"] {
            host.write(&format!("/usr/lib/systemd/system/{name}.service"), marked(name, "up"));
        }
        host.exec("systemctl daemon-reload").ok();
        host.exec("systemctl enable --now on.service").ok();
        let repo = host.clone_repo();
        let on = "[[unit]]\nname = \"on.service\"\nactive = false\n";
        repo.write("files/etc/motd.d/x", "").write("reconciled.toml", format!("units = [\"off.service\"]\n{on}"));
        repo.commit_and_push().assert_live();
        assert_eq!((state(host, "on.service"), state(host, "off.service")), ("inactive enabled".into(), "active enabled".into()));

        // A key that is named later was noted then, not with the first one.
        repo.write("reconciled.toml", format!("units = [\"off.service\"]\n{on}enabled = false\n"));
        repo.commit_and_push().assert_live();
        assert_eq!(state(host, "on.service"), "inactive disabled");

        repo.remove("reconciled.toml");
        repo.commit_and_push().assert_live().says("as it was before");
        assert_eq!((state(host, "on.service"), state(host, "off.service")), ("active enabled".into(), "inactive disabled".into()));
    }
}

scenario! {
    fn a_dropped_unit_file_stops_disables_and_removes_its_unit(host: installed) {
        let repo = host.clone_repo();
        let stops = marked("shop", "one").replace("[Install]", "ExecStop=/bin/sh -c 'echo stopped >/run/shop'\n[Install]");
        repo.write("reconciled.toml", "units = [\"shop.service\"]\n").write("files/etc/systemd/system/shop.service", stops);
        repo.write("files/etc/motd.d/x", "");
        repo.commit_and_push().assert_live();
        let unseen = process(host, "shop.service").0;
        repo.remove("reconciled.toml").remove("files/etc/systemd");
        repo.commit_and_push().assert_live().says("- file:/etc/systemd/system/shop.service");
        assert_eq!(host.read("/run/shop"), "stopped\n");
        assert_no_trace(host, "shop.service");
        assert!(!host.exists(&format!("/proc/{unseen}")));

        // A file that covered the vendor's uncovers it again: its unit goes on, with the vendor's file.
        host.write("/usr/lib/systemd/system/vendor.service", marked("vendor", "theirs"));
        host.sh("systemctl daemon-reload; systemctl enable --now vendor.service").ok();
        repo.write("files/etc/systemd/system/vendor.service", marked("vendor", "ours"));
        repo.commit_and_push().assert_live();
        assert_eq!(host.read("/run/vendor"), "ours\n");
        repo.remove("files/etc/systemd");
        repo.commit_and_push().assert_live();
        assert_eq!((host.read("/run/vendor"), state(host, "vendor.service")), ("theirs\n".into(), "active enabled".into()));
    }
}

scenario! {
    fn static_units_instances_and_timers(host: installed) {
        let repo = host.clone_repo();
        let bare = |mark: &str| marked("still", mark).replace("[Install]\nWantedBy=multi-user.target\n", "");
        repo.write("reconciled.toml", "units = [\"still.service\", \"worker@1.service\", \"tick.timer\"]\n");
        repo.write("files/etc/systemd/system/still.service", bare("one"));
        let template = |mark: &str| service(&format!("ExecStart=/bin/sh -c 'echo {mark} >/run/worker-%i; exec sleep infinity'"));
        repo.write("files/etc/systemd/system/worker@.service", template("one"));
        repo.write("files/etc/systemd/system/tick.timer", "[Timer]\nOnActiveSec=1h\n[Install]\nWantedBy=timers.target\n");
        repo.write("files/etc/systemd/system/tick.service", "[Service]\nExecStart=/bin/true\n");
        repo.commit_and_push().assert_live();
        let states = ["still.service", "worker@1.service", "tick.timer"].map(|unit| state(host, unit));
        assert_eq!(states, ["active static", "active enabled", "active enabled"]);
        assert!(host.ctl("sync").ok().contains("nothing to do"));

        // A template restarts its instances, also those that nobody declared; a timer takes its new time over.
        host.exec("systemctl start worker@2.service").ok();
        repo.write("files/etc/systemd/system/worker@.service", template("two"));
        repo.write("files/etc/systemd/system/tick.timer", "[Timer]\nOnActiveSec=2h\n[Install]\nWantedBy=timers.target\n");
        repo.commit_and_push().assert_live();
        assert_eq!((host.read("/run/worker-1"), host.read("/run/worker-2")), ("two\n".into(), "two\n".into()));
        assert!(prop(host, "tick.timer", "TimersMonotonic").contains("OnActiveUSec=2h"));

        repo.remove("files/etc/systemd/system/worker@.service");
        repo.write("reconciled.toml", "units = [\"still.service\", \"tick.timer\"]\n");
        repo.commit_and_push().assert_live();
        assert_no_trace(host, "worker@1.service");
        assert_no_trace(host, "worker@2.service");
    }
}

scenario! {
    fn a_socket_and_its_service_change_together(host: installed) {
        let repo = host.clone_repo();
        let socket = |path: &str| format!("[Socket]\nListenStream={path}\n[Install]\nWantedBy=sockets.target\n");
        let echo = |word: &str| format!("[Service]\nExecStart=/usr/bin/python3 -c \"import socket\\ns=socket.socket(fileno=3)\\nwhile 1: s.accept()[0].send(b'{word}')\"\n");
        let ask = |path: &str| host.sh(&format!("python3 -c \"import socket;s=socket.socket(socket.AF_UNIX);s.settimeout(20);s.connect('{path}');print(s.recv(9).decode())\"")).ok();
        repo.write("reconciled.toml", "units = [\"echo.socket\"]\n");
        repo.write("files/etc/systemd/system/echo.socket", socket("/run/echo1")).write("files/etc/systemd/system/echo.service", echo("one"));
        repo.commit_and_push().assert_live();
        assert_eq!(prop(host, "echo.service", "ActiveState"), "inactive", "only a client starts it");
        assert_eq!(ask("/run/echo1"), "one");

        repo.write("files/etc/systemd/system/echo.service", echo("two"));
        repo.commit_and_push().assert_live();
        assert_eq!(ask("/run/echo1"), "two");

        repo.write("files/etc/systemd/system/echo.socket", socket("/run/echo2")).write("files/etc/systemd/system/echo.service", echo("three"));
        repo.commit_and_push().assert_live();
        assert_eq!(ask("/run/echo2"), "three");
        assert!(prop(host, "echo.socket", "Listen").contains("/run/echo2"));

        // A socket that cannot listen is taken back together with the service that it had to stop.
        repo.write("files/etc/systemd/system/echo.socket", socket("/proc/echo"));
        let push = repo.commit_and_push();
        push.assert_refused("echo.socket").says("rolled back to generation 3");
        assert_eq!(state(host, "echo.service"), "active static");
        assert_eq!(ask("/run/echo2"), "three");

        // What starts others is started before them, and stopped before them.
        repo.write("reconciled.toml", "units = [\"echo.socket\"]\n[[unit]]\nname = \"echo.service\"\nactive = true\n");
        repo.write("files/etc/systemd/system/echo.socket", socket("/run/echo3"));
        host.exec("systemctl stop echo.socket echo.service").ok();
        repo.commit_and_push().assert_live();
        assert_eq!(ask("/run/echo3"), "three");
        repo.write("reconciled.toml", "allow_empty = true\n");
        repo.remove("files/etc/systemd/system/echo.socket").remove("files/etc/systemd/system/echo.service");
        repo.commit_and_push().assert_live();
        assert_no_trace(host, "echo.socket");
        assert_no_trace(host, "echo.service");
    }
}

scenario! {
    fn a_restart_is_judged_whatever_else_the_push_does(host: installed) {
        host.write("/usr/lib/systemd/system/vendor.service", service("ExecStart=/bin/sleep infinity"));
        host.sh("systemctl daemon-reload; systemctl start vendor").ok();
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "[[unit]]\nname = \"shop.service\"\nactive = true\n");
        repo.write("files/etc/systemd/system/shop.service", marked("shop", "one"));
        repo.commit_and_push().assert_live();
        // Enabled by the same push that makes it crash.
        repo.write("reconciled.toml", "[[unit]]\nname = \"shop.service\"\nenabled = true\n");
        repo.write("files/etc/systemd/system/shop.service", service("ExecStart=/bin/sh -c 'sleep 0.1; exit 3'"));
        repo.commit_and_push().assert_refused("shop.service did not stay up");
        assert_eq!((state(host, "shop.service"), host.read("/run/shop")), ("active disabled".into(), "one\n".into()));
        // A drop-in that ends a service which no table names.
        repo.write("reconciled.toml", "").write("files/etc/systemd/system/shop.service", marked("shop", "one"));
        repo.write("files/etc/systemd/system/vendor.service.d/x.conf", "[Service]\nExecStart=\nExecStart=/bin/true\n");
        repo.commit_and_push().assert_refused("vendor.service did not stay up");
        assert_eq!(prop(host, "vendor.service", "ActiveState"), "active");
    }
}

scenario! {
    fn what_a_unit_cannot_do_is_known_or_made_up_for(host: installed) {
        let repo = host.clone_repo();
        let table = "[[unit]]\nname = \"shop.service\"\nactive = true\nwatch = [\"/etc/shop/*\"]\non_change = \"reload\"\n";
        repo.write("reconciled.toml", table).write("files/etc/shop/a", "1\n").write("files/etc/shop/deep/b", "1\n");
        repo.write("files/etc/systemd/system/shop.service", marked("shop", "one"));
        repo.commit_and_push().assert_live();
        let first = process(host, "shop.service");
        // It has no ExecReload=: a restart does what a reload would.
        repo.write("files/etc/shop/a", "2\n");
        repo.commit_and_push().assert_live();
        let second = process(host, "shop.service");
        assert!(second.1 > first.1, "{first:?} → {second:?}");
        // A star stays within its directory.
        repo.write("files/etc/shop/deep/b", "2\n");
        repo.commit_and_push().assert_live();
        assert_eq!(process(host, "shop.service"), second);
        // A file that goes while its table stays is a contradiction, not an outage.
        repo.remove("files/etc/systemd/system/shop.service");
        repo.commit_and_push().assert_refused("there is no unit shop.service");
        assert_eq!(process(host, "shop.service"), second);
        // A service that systemd is about to start again is left to it; a link that was removed by hand is seen.
        host.write("/etc/systemd/system/late.service", service("ExecStart=/bin/sh -c 'test -e /run/ready && exec sleep infinity'\nRestart=always\nRestartSec=2"));
        host.write("/run/ready", "");
        host.sh("systemctl daemon-reload; systemctl start late").ok();
        repo.write("files/etc/systemd/system/shop.service", marked("shop", "one"));
        repo.write("reconciled.toml", format!("units = [\"late.service\"]\n{table}"));
        repo.commit_and_push().assert_live();
        host.sh("rm /run/ready /etc/systemd/system/multi-user.target.wants/late.service; systemctl kill late").ok();
        host.wait_until("it waits for its restart", || prop(host, "late.service", "SubState") == "auto-restart");
        host.ctl("sync").ok();
        host.write("/run/ready", "");
        host.wait_until("systemd has started it", || state(host, "late.service") == "active enabled");
    }
}

scenario! {
    fn a_rollback_restores_processes_too(host: installed) {
        let repo = host.clone_repo();
        let shop = service("ExecStart=/bin/sh -c 'cp /etc/shop.conf /run/shop; exec sleep infinity'");
        let probe = "[[probe]]\nname = \"till\"\ncommand = [\"/usr/bin/grep\", \"-q\", \"good\", \"/run/shop\"]\nattempts = 2\ninterval = \"100ms\"\n";
        repo.write("reconciled.toml", format!("[[unit]]\nname = \"shop.service\"\nactive = true\nwatch = [\"/etc/shop.conf\"]\n{probe}"));
        repo.write("files/etc/systemd/system/shop.service", shop).write("files/etc/shop.conf", "good\n");
        repo.commit_and_push().assert_live();
        let good = process(host, "shop.service");
        repo.write("files/etc/shop.conf", "bad\n");
        repo.commit_and_push().assert_refused("rolled back to generation 1").says("probe till");
        let now = process(host, "shop.service");
        assert!(now.0 != good.0 && now.1 > good.1, "{good:?} → {now:?}");
        assert_eq!((host.read("/etc/shop.conf"), host.read("/run/shop")), ("good\n".into(), "good\n".into()));
    }
}

scenario! {
    fn a_unit_that_is_not_there_is_a_clear_refusal(host: installed on bookworm) {
        let repo = host.clone_repo();
        for table in ["units = [\"ghost.service\"]\n", "[[unit]]\nname = \"ghost.service\"\nactive = true\n"] {
            repo.write("reconciled.toml", table).write("files/etc/motd.d/x", "");
            repo.commit_and_push().assert_refused("refused, nothing was touched").says("there is no unit ghost.service");
            assert_no_trace(host, "ghost.service");
            assert!(!host.exists("/etc/motd.d/x"));
        }
        // What is wanted off is off.
        repo.write("reconciled.toml", "[[unit]]\nname = \"ghost.service\"\nenabled = false\nactive = false\n");
        repo.commit_and_push().assert_live();
        assert_no_trace(host, "ghost.service");
    }
}
