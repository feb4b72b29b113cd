//! The hand-over between files, the manager and processes, where it is easy to lose something: units that go with what belongs to them, links,
//! units that others stop, what somebody has changed by hand.

use reconciled_tests::{Host, Repo, scenario};

const UNITS: &str = "files/etc/systemd/system";
const SLEEP: &str = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";

#[track_caller]
fn prop(host: &Host, unit: &str, name: &str) -> String {
    host.exec(&format!("systemctl show --property={name} --value {unit}")).ok()
}

#[track_caller]
fn state(host: &Host, unit: &str) -> String {
    prop(host, unit, "ActiveState")
}

/// The run of a service: another one after each start.
#[track_caller]
fn run(host: &Host, unit: &str) -> String {
    prop(host, unit, "InvocationID")
}

fn with(lines: &str) -> String {
    SLEEP.replace("[Install]", &format!("{lines}\n[Install]"))
}

fn declared(units: &[&str]) -> String {
    let names: Vec<String> = units.iter().map(|unit| format!("\"{unit}\"")).collect();
    format!("units = [{}]\n", names.join(", "))
}

#[track_caller]
fn put(repo: &Repo, units: &[(&str, String)]) {
    for (name, text) in units {
        repo.write(&format!("{UNITS}/{name}"), text);
    }
}

scenario! {
    fn what_belongs_to_a_unit_goes_with_it(host: installed) {
        let repo = host.clone_repo();
        repo.write("files/etc/motd.d/x", "x\n").commit_and_push().assert_live();
        // A unit with a drop-in, a template with drop-ins of it and of an instance.
        repo.write("reconciled.toml", declared(&["a.service", "t@1.service"]));
        put(&repo, &[("a.service", SLEEP.into()), ("a.service.d/x.conf", "[Service]\nNice=1\n".into()), ("t@.service", SLEEP.into()),
            ("t@.service.d/x.conf", "[Service]\nNice=1\n".into()), ("t@1.service.d/y.conf", "[Service]\nUMask=077\n".into())]);
        repo.commit_and_push().assert_live();
        repo.remove(UNITS).remove("reconciled.toml").commit_and_push().assert_live();
        assert_eq!([state(host, "a.service"), state(host, "t@1.service")], ["inactive", "inactive"]);
        // A rollback over that, both ways.
        host.ctl("rollback 2").ok();
        assert_eq!([state(host, "a.service"), prop(host, "t@1.service", "Nice")], ["active", "1"]);
        host.ctl("rollback 1").ok();
        assert_eq!(state(host, "a.service"), "inactive");
    }
}

scenario! {
    fn an_instance_without_its_own_file_is_what_its_template_says(host: installed) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", declared(&["t@1.service"]));
        put(&repo, &[("t@.service", SLEEP.into()), ("t@1.service", with("Nice=1"))]);
        repo.commit_and_push().assert_live();
        assert_eq!(prop(host, "t@1.service", "Nice"), "1");
        repo.remove(&format!("{UNITS}/t@1.service")).commit_and_push().assert_live().says("! restart t@1.service");
        assert_eq!([state(host, "t@1.service"), prop(host, "t@1.service", "Nice")], ["active", "0"]);
    }
}

scenario! {
    fn what_stopped_with_a_failed_unit_comes_back(host: installed) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", declared(&["s.service", "b.service"]));
        put(&repo, &[("s.service", SLEEP.into()), ("b.service", format!("[Unit]\nRequires=s.service\nAfter=s.service\n{SLEEP}"))]);
        repo.commit_and_push().assert_live();
        put(&repo, &[("s.service", with("ExecStartPost=/bin/false"))]);
        repo.commit_and_push().assert_refused("rolled back to generation 1");
        assert_eq!([state(host, "s.service"), state(host, "b.service")], ["active", "active"]);
        // What fails before what needs it is named, with its last words.
        repo.write("reconciled.toml", declared(&["s.service", "b.service", "d.service"]));
        put(&repo, &[("s.service", SLEEP.into()), ("c.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo c cannot reach its database; exit 5'\n".into()),
            ("d.service", format!("[Unit]\nRequires=c.service\nAfter=c.service\n{SLEEP}"))]);
        let push = repo.commit_and_push();
        push.assert_refused("rolled back").says("it needs c.service, which has failed").says("c cannot reach its database");
    }
}

scenario! {
    fn a_unit_that_stops_another_is_taken_back(host: with_nginx) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", declared(&["nginx.service"])).commit_and_push().assert_live();
        for other in ["nginx.service", "ssh.service"] {
            repo.write("reconciled.toml", declared(&["nginx.service", "cf.service"]));
            put(&repo, &[("cf.service", format!("[Unit]\nConflicts={other}\n{SLEEP}"))]);
            repo.commit_and_push().assert_refused("rolled back").says(&format!("{other} was running and is not to be stopped"));
            assert_eq!([state(host, other), state(host, "cf.service")], ["active", "inactive"]);
        }
    }
}

scenario! {
    fn links_lead_to_what_a_unit_is_and_names(host: installed) {
        let repo = host.clone_repo();
        // The usual layout of releases: a link that is flipped.
        repo.write("reconciled.toml", declared(&["app.service", "linked.service"]));
        for version in ["v1", "v2"] {
            let program = format!("files/opt/{version}/run");
            repo.write(&program, "#!/bin/sh\nexec sleep infinity\n").executable(&program);
        }
        repo.symlink("files/opt/cur", "v1");
        put(&repo, &[("app.service", "[Service]\nExecStart=/opt/cur/run\n[Install]\nWantedBy=multi-user.target\n".into())]);
        // A unit that lives elsewhere and is linked.
        repo.write("files/opt/ap/linked.service", SLEEP).symlink(&format!("{UNITS}/linked.service"), "/opt/ap/linked.service");
        repo.commit_and_push().assert_live();
        let first = run(host, "app.service");
        repo.remove("files/opt/cur").symlink("files/opt/cur", "v2").commit_and_push().assert_live().says("! restart app.service (its program /opt/cur/run changed)");
        let second = run(host, "app.service");
        assert_ne!(first, second);
        repo.write("files/opt/v2/run", "#!/bin/sh\n# again\nexec sleep infinity\n").executable("files/opt/v2/run");
        repo.commit_and_push().assert_live().says("! restart app.service");
        assert_ne!(run(host, "app.service"), second);
        repo.write("files/opt/ap/linked.service", with("Nice=3")).commit_and_push().assert_live().says("! restart linked.service (Nice changed)");
        assert_eq!([prop(host, "linked.service", "Nice"), prop(host, "linked.service", "NeedDaemonReload")], ["3", "no"]);
        repo.write("files/opt/ap/linked.service", "[Service]\nExecStartt=/bin/x\n").commit_and_push().assert_refused("nothing was touched").says("ExecStartt");
    }
}

scenario! {
    fn an_elapsed_timer_gets_its_new_time(host: installed) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", declared(&["w.timer"]));
        let timer = |line: &str| format!("[Timer]\n{line}\n[Install]\nWantedBy=timers.target\n");
        put(&repo, &[("w.timer", timer("OnActiveSec=1s")), ("w.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n".into())]);
        repo.commit_and_push().assert_live();
        host.wait_until("it has elapsed", || prop(host, "w.timer", "SubState") == "elapsed");
        put(&repo, &[("w.timer", timer("OnCalendar=hourly"))]);
        repo.commit_and_push().assert_live().says("! restart w.timer (it has elapsed");
        assert_eq!(prop(host, "w.timer", "SubState"), "waiting");
    }
}

scenario! {
    fn files_that_units_name_in_other_ways(host: installed) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", declared(&["app.service"]));
        let lines = "LoadCredential=tok\nBindReadOnlyPaths=/etc/bind.conf:/etc/seen.conf";
        let text = with(lines).replace("/bin/sleep infinity", "/bin/sh -c 'exec sleep infinity' --conf=/etc/x.conf");
        put(&repo, &[("app.service", text)]);
        for file in ["etc/x.conf", "etc/credstore/tok", "etc/bind.conf"] {
            repo.write(&format!("files/{file}"), "1\n");
        }
        repo.commit_and_push().assert_live();
        for (file, what) in [("etc/x.conf", "argument /etc/x.conf"), ("etc/credstore/tok", "LoadCredential /etc/credstore/tok"), ("etc/bind.conf", "BindReadOnlyPaths /etc/bind.conf")] {
            let before = run(host, "app.service");
            repo.write(&format!("files/{file}"), "2\n").commit_and_push().assert_live().says(&format!("! restart app.service (its {what} changed)"));
            assert_ne!(run(host, "app.service"), before, "{file}");
        }
        // What only looks different is not.
        let before = run(host, "app.service");
        let reordered = with("Environment=B=2 A=1").replace("/bin/sleep", "\"/bin/sleep\"");
        put(&repo, &[("app.service", with("Environment=A=1\nEnvironment=B=2"))]);
        repo.commit_and_push().assert_live();
        let again = run(host, "app.service");
        assert_ne!(again, before);
        put(&repo, &[("app.service", reordered)]);
        repo.commit_and_push().assert_live().says("! daemon-reload (app.service: says what it said before)");
        assert_eq!(run(host, "app.service"), again);
    }
}

scenario! {
    fn a_unit_that_was_edited_by_hand_is_restarted_by_the_push_that_says_the_same(host: installed) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", declared(&["a.service"]));
        put(&repo, &[("a.service", SLEEP.into())]);
        repo.commit_and_push().assert_live();
        let first = run(host, "a.service");
        host.write("/etc/systemd/system/a.service", with("Nice=5"));
        host.exec("systemctl daemon-reload").ok();
        put(&repo, &[("a.service", with("Nice=5"))]);
        repo.commit_and_push().assert_live().says("! restart a.service (/etc/systemd/system/a.service changed after it had started)");
        assert_ne!(run(host, "a.service"), first);
        // What only shows in words starts nothing.
        let second = run(host, "a.service");
        let worded = format!("[Unit]\nDescription=A\n{}", with("Nice=5"));
        host.write("/etc/systemd/system/a.service", &worded);
        put(&repo, &[("a.service", worded)]);
        repo.commit_and_push().assert_live();
        assert_eq!(run(host, "a.service"), second);
    }
}

scenario! {
    fn nginx_says_which_line_of_the_repository_names_a_missing_certificate(host: with_nginx) {
        let repo = host.clone_repo();
        repo.write("files/etc/nginx/conf.d/tls.conf", "server {\n  listen 8443 ssl;\n  ssl_certificate /etc/ssl/none.pem;\n  ssl_certificate_key /etc/ssl/none.key;\n}\n");
        repo.commit_and_push().assert_refused("nothing was touched").says("(files/etc/nginx/conf.d/tls.conf:3)");
        repo.write("files/etc/nginx/conf.d/tls.conf", "server {\n  listen 10.99.99.99:81;\n}\n").commit_and_push().assert_refused("nothing was touched").says("(files/etc/nginx/conf.d/tls.conf:2)");
        // Files that their reader would never read are told.
        repo.remove("files/etc/nginx").write("files/etc/cron.d/job.conf", "# nothing\n").commit_and_push().assert_live().says("nobody reads it");
    }
}
