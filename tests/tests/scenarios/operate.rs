//! The operator's verbs, from the installed package: what each does, who may, and which exit code says how it went.

use reconciled_tests::{Host, Output, Repo, scenario};

/// A repository with two live generations: /etc/shop.conf holds the generation's number.
#[track_caller]
fn two_generations(host: &Host) -> Repo {
    let repo = host.clone_repo();
    for n in ["1", "2"] {
        repo.write("files/etc/shop.conf", format!("{n}\n")).write("files/etc/motd.d/x", "");
        repo.commit_and_push().assert_live();
    }
    repo
}

/// Runs `reconcilectl` as a user.
#[track_caller]
fn as_user(host: &Host, user: &str, words: &str) -> Output {
    host.exec(&format!("runuser -u {user} -- reconcilectl {words}"))
}

scenario! {
    fn each_verb_for_root_group_and_others(host: installed) {
        let _repo = two_generations(host);
        host.sh("useradd reader; useradd other; usermod -aG reconciled reader").ok();
        for (verb, codes) in [
            ("status", [0, 0, 4]),
            ("status --json", [0, 0, 4]),
            ("history", [0, 0, 4]),
            ("history --json", [0, 0, 4]),
            ("diff", [0, 0, 4]),
            ("diff 1", [1, 1, 4]),
            ("explain", [1, 1, 4]),
            ("plan main", [0, 4, 4]),
            ("sync", [0, 4, 4]),
            ("pause", [0, 4, 4]),
            ("resume", [0, 4, 4]),
            ("retry", [1, 4, 4]),
            ("rollback 99", [1, 4, 4]),
            ("resolve /etc/shop.conf --keep", [0, 4, 4]),
            ("init", [0, 4, 4]),
            ("key add x", [2, 4, 4]),
            ("key remove x", [0, 4, 4]),
            ("audit log", [0, 0, 4]),
            ("audit show 1", [0, 0, 4]),
            ("audit export", [0, 0, 4]),
            ("audit verify", [0, 0, 4]),
            ("validate --settings", [0, 0, 0]),
        ] {
            let done = [host.ctl(verb), as_user(host, "reader", verb), as_user(host, "other", verb)];
            assert_eq!(done.each_ref().map(|d| d.code), codes, "{verb}: {done:#?}");
            for refused in done.iter().filter(|d| d.code == 4) {
                assert!(refused.stdout.is_empty() && !refused.stderr.contains("Error"), "{refused}");
            }
        }
        // A push does not come over the bus from anybody but the hook.
        let submit = "dbus-send --system --print-reply --dest=org.reconciled1 /org/reconciled1 org.reconciled1.Manager.Submit string:deploy";
        for user in ["reader", "other"] {
            let _ = host.exec(&format!("runuser -u {user} -- {submit}")).fails(1).says("AccessDenied");
        }
        assert_eq!(host.status()["generation"], 2);
        for nonsense in ["nonsense", "rollback", "rollback x", "diff 0", "audit", "resolve /x", "status --nonsense"] {
            let _ = host.ctl(nonsense).fails(2);
        }
        let _ = host.ctl("--help").fails(0).says("Exit codes");
        let _ = host.ctl("--version").fails(0);

        host.exec("systemctl stop reconciled").ok();
        for verb in ["status", "history", "plan main", "sync", "diff", "rollback 1", "retry", "pause", "resume", "resolve /x --keep"] {
            let _ = host.ctl(verb).fails(3).says("the daemon is not running");
        }
        let _ = host.ctl("audit log").fails(0);
        let _ = host.ctl("audit verify").fails(0);
    }
}

scenario! {
    fn polkit_grants_action_by_action(host: installed) {
        let _repo = two_generations(host);
        host.sh("useradd ops").ok();
        let pause = "pause maintenance";
        let _ = as_user(host, "ops", pause).fails(4);
        let rule = "polkit.addRule(function(action, subject) { if (action.id == 'org.reconciled1.pause' && subject.user == 'ops') return polkit.Result.YES; });";
        host.write("/etc/polkit-1/rules.d/10-ops.rules", rule);
        host.sh("chown -R root:polkitd /etc/polkit-1/rules.d; chmod 750 /etc/polkit-1/rules.d; systemctl restart polkit").ok();
        as_user(host, "ops", pause).ok();
        let log = host.ctl("audit log --json --outcome paused").ok();
        assert!(log.lines().count() == 1 && log.contains("\"actor\":\"ops\""), "{log}");
        for verb in ["rollback 1", "sync", "retry", "status"] {
            let _ = as_user(host, "ops", verb).fails(4);
        }
        as_user(host, "ops", "resume").ok();
        // Nobody to ask is a no.
        host.exec("systemctl mask --now polkit").ok();
        let _ = as_user(host, "ops", pause).fails(4);
        host.ctl("status").ok();
    }
}

scenario! {
    fn settings_are_read_in_order_and_mistakes_change_nothing(host: installed on trixie) {
        host.write("/usr/lib/reconciled/reconciled.toml", "look_interval = \"1h\"\n");
        host.write("/usr/lib/reconciled/reconciled.d/10.toml", "[[remote]]\nname = \"forge\"\nurl = \"/srv/one.git\"\ninterval = \"1h\"\n");
        host.write("/etc/reconciled/reconciled.d/20.toml", "[[remote]]\nname = \"forge\"\nurl = \"/srv/two.git\"\ninterval = \"1h\"\n");
        host.ctl("validate --settings").ok();
        host.ctl("init").ok();
        host.exec("systemctl reload reconciled").ok();
        host.wait_until("the later of two remotes is asked", || {
            host.status()["remotes"]["forge"]["error"].as_str().is_some_and(|error| error.contains("/srv/two.git"))
        });
        for (text, words) in [
            ("look_interval = 5\n", "look_interval"),
            ("[[remote]]\nurl = \"http://git.example/x.git\"\n", "https://"),
            ("[[remote]]\nurl = \"/a\"\n[[remote]]\nurl = \"/b\"\n", "of its own"),
        ] {
            host.write("/etc/reconciled/reconciled.d/30.toml", text);
            let _ = host.ctl("validate --settings").fails(2).says("/etc/reconciled/reconciled.d/30.toml").says(words);
            let _ = host.exec("systemctl reload reconciled");
            host.wait_until("it is said in the journal", || host.exec("journalctl -u reconciled -o cat").stdout.contains("settings stay as they are"));
            assert!(host.status()["remotes"]["forge"].is_object(), "the daemon goes on with what it has");
        }
    }
}

scenario! {
    fn status_has_the_words_of_the_design(host: installed on trixie) {
        let status = host.status();
        for key in ["live", "desired", "generation", "held"] {
            assert!(status.get(key).is_some_and(serde_json::Value::is_null), "{key}: {status}");
        }
        assert_eq!(status["phase"], "idle");
        let repo = two_generations(host);
        let live = repo.head();
        let status = host.status();
        assert_eq!((status["live"].as_str(), status["desired"].as_str()), (Some(&*live), Some(&*live)));
        assert_eq!((status["generation"].as_u64(), status["held"].is_null()), (Some(2), true));

        repo.write("reconciled.toml", "surprise = 1\n");
        let bad = repo.commit_and_push();
        bad.assert_refused("surprise");
        let status = host.status();
        assert_eq!((status["live"].as_str(), status["desired"].as_str()), (Some(&*live), Some(&*bad.commit)));
        assert_eq!(status["held"]["commit"], *bad.commit);
        assert!(status["held"]["reason"].as_str().is_some_and(|r| r.contains("surprise")));
        assert!(status["held"]["since"].as_str().is_some_and(|s| s.starts_with("20")));
        let _ = host.ctl("status").fails(1).says("held").says("surprise");
        assert!(host.exec("systemctl show -P StatusText reconciled").ok().contains("HELD"));

        // A newer one that is live ends the matter.
        repo.write("reconciled.toml", "");
        repo.commit_and_push().assert_live();
        assert!(host.status()["held"].is_null());
        let _ = host.ctl("status").fails(0);
    }
}

scenario! {
    fn a_rollback_moves_the_branch_and_holds_what_it_leaves(host: installed on trixie) {
        let repo = two_generations(host);
        let second = repo.head();
        let first = repo.git(&["rev-parse", "HEAD~1"]).ok();
        host.ctl("rollback 1").ok();
        assert_eq!(host.read("/etc/shop.conf"), "1\n");
        assert_eq!(repo.remote_main(), Some(first.clone()));
        let status = host.status();
        assert_eq!((status["generation"].as_u64(), status["live"].as_str()), (Some(3), Some(&*first)));
        assert_eq!(status["held"]["commit"], *second);
        assert!(status["held"]["reason"].as_str().is_some_and(|r| r.contains("rollback to generation 1 by root")), "{status}");
        let history = host.ctl("history").ok();
        let numbers: Vec<&str> = history.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(numbers, ["3", "2", "1"]);

        // What was left behind is not pushed back by accident; what builds on it goes live.
        repo.push().assert_refused("retry");
        repo.write("files/etc/shop.conf", "4\n");
        repo.commit_and_push().assert_live();
        assert_eq!(host.read("/etc/shop.conf"), "4\n");
        let _ = host.ctl("diff 1").fails(1).says("-4").says("+1");
        let _ = host.ctl("diff 77").fails(1).says("there is no generation 77");
    }
}

scenario! {
    fn retry_tries_a_held_revision_again(host: installed on trixie) {
        let repo = two_generations(host);
        repo.write("files/etc/shop.conf", "3\n");
        repo.write("reconciled.toml", "[[probe]]\nname = \"till\"\ncommand = [\"/usr/bin/test\", \"-e\", \"/run/till\"]\nattempts = 1\n");
        let push = repo.commit_and_push();
        push.assert_refused("rolled back to generation 2");
        repo.push().assert_refused("retry");
        host.exec("systemctl restart reconciled").ok();
        host.ctl("sync").ok();
        assert_eq!((host.read("/etc/shop.conf"), host.status()["held"]["commit"].as_str()), ("2\n".into(), Some(&*push.commit)));

        let _ = host.ctl("retry").fails(1).says("rolled back");
        host.write("/run/till", "");
        host.ctl(&format!("retry {}", &push.commit[..10])).ok();
        assert_eq!((host.read("/etc/shop.conf"), repo.remote_main()), ("3\n".into(), Some(push.commit)));
        assert!(host.status()["held"].is_null());
    }
}

scenario! {
    fn a_pause_holds_everything_and_says_whose_it_is(host: installed on trixie) {
        let repo = two_generations(host);
        host.ctl("pause moving house").ok();
        host.ctl("pause again").ok();
        let status = host.status();
        assert_eq!((status["phase"].as_str(), status["paused"]["by"].as_str()), (Some("paused"), Some("root")));
        assert_eq!(status["paused"]["reason"], "moving house");
        let since = status["paused"]["since"].as_str().expect("a time").to_owned();
        host.exec("systemctl restart reconciled").ok();
        repo.write("files/etc/shop.conf", "3\n");
        let push = repo.commit_and_push();
        push.assert_refused("paused by root").says(&since).says("moving house").says("reconcilectl resume");
        let _ = host.ctl("sync").fails(1).says("paused by root");
        let _ = host.ctl("rollback 1").fails(1).says("paused by root");
        assert!(repo.push_to(&["HEAD:refs/heads/preview"]).output.contains("would be accepted"));
        host.ctl("resume").ok();
        host.ctl("resume").ok();
        // It was not the revision's fault: it may come again.
        repo.push().assert_live();
    }
}

scenario! {
    fn signals_and_restarts(host: installed) {
        let repo = two_generations(host);
        let settings = "/etc/reconciled/reconciled.d/test.toml";
        let said = |what: &str| host.exec("journalctl -u reconciled -o cat --no-pager").stdout.matches(what).count();
        host.write(settings, "look_interval = \"1s\"\n");
        host.exec("systemctl reload reconciled").ok();
        host.wait_until("settings were read", || said("settings were read again") == 1);
        host.write("/etc/shop.conf", "edited\n");
        host.wait_until("the new interval", || host.read("/etc/shop.conf") == "2\n");

        // Broken settings: the old ones stay in force, and it says so.
        host.write(settings, "look_interval = 5\nsurprise = true\n");
        let _ = host.ctl("validate --settings").fails(2).says("test.toml");
        host.exec("systemctl reload reconciled").ok();
        host.wait_until("it complains", || said("settings stay as they are") == 1);
        let _ = host.exec("journalctl -u reconciled -p err -o cat").says("test.toml");
        host.write("/etc/shop.conf", "edited\n");
        host.wait_until("the old interval", || host.read("/etc/shop.conf") == "2\n");

        // A start with broken settings fails at once, is not tried for ever, and touches nothing.
        let _ = host.exec("systemctl restart reconciled").fails(1);
        host.wait_until("it has given up", || host.exec("systemctl show -P ActiveState reconciled").ok() == "failed");
        assert_eq!(host.exec("systemctl show -P NRestarts reconciled").ok(), "0");
        assert_eq!(host.read("/etc/shop.conf"), "2\n");
        host.exec(&format!("rm {settings}")).ok();
        host.exec("systemctl reset-failed reconciled").ok();
        host.exec("systemctl start reconciled").ok();
        let status = host.status();
        assert_eq!((status["generation"].as_u64(), status["live"].as_str()), (Some(2), Some(&*repo.head())));

        // SIGTERM ends it in good order.
        host.exec("systemctl stop reconciled").ok();
        assert_eq!(host.exec("systemctl show -P Result reconciled").ok(), "success");
        host.exec("systemctl start reconciled").ok();
        repo.write("files/etc/shop.conf", "3\n");
        repo.commit_and_push().assert_live();
        let _ = host.ctl("audit verify").fails(0);
    }
}

scenario! {
    fn sigterm_ends_what_is_in_flight(host: installed) {
        let repo = two_generations(host);
        repo.write("files/etc/shop.conf", "3\n");
        repo.write("reconciled.toml", "[[probe]]\nname = \"never\"\ncommand = [\"/bin/false\"]\nattempts = 60\ninterval = \"1s\"\ntimeout = \"1s\"\n");
        repo.commit();
        let push = repo.start_push(&["HEAD:refs/heads/main"]);
        host.wait_until("it probes", || host.status()["phase"] == "probing");
        assert_eq!(host.read("/etc/shop.conf"), "3\n");
        host.exec("systemctl stop reconciled").ok();
        assert_eq!(host.read("/etc/shop.conf"), "2\n");
        assert_eq!(host.exec("systemctl show -P Result reconciled").ok(), "success");
        assert!(!push.wait().ok);
        host.exec("systemctl start reconciled").ok();
        assert_eq!(host.status()["generation"], 2);
    }
}

scenario! {
    fn what_undo_could_not_put_back_waits_for_a_person(host: installed on trixie) {
        let repo = two_generations(host);
        let stick = || {
            // The probe is somebody's editor: it changes the file that the undo wants to put back.
            repo.write("files/etc/shop.conf", "3\n").write("files/etc/motd.d/x", format!("{}\n", repo.commit()));
            repo.write("reconciled.toml", "[[probe]]\nname = \"no\"\ncommand = [\"/bin/sh\", \"-c\", \"grep -q 3 /etc/shop.conf && echo mine >/etc/shop.conf; exit 1\"]\nattempts = 1\n");
            repo.commit_and_push().assert_refused("STUCK").says("/etc/shop.conf");
        };
        stick();
        let status = host.status();
        assert_eq!(status["phase"], "stuck");
        assert!(status["stuck"][0].as_str().is_some_and(|s| s.contains("/etc/shop.conf")), "{status}");
        let _ = host.ctl("status").fails(5).says("STUCK");
        assert_eq!((host.read("/etc/shop.conf"), host.read("/etc/motd.d/x")), ("mine\n".into(), String::new()));
        let _ = host.ctl("sync").fails(5).says("reconcilectl resolve");
        repo.write("reconciled.toml", "");
        repo.commit_and_push().assert_refused("stuck");
        host.exec("systemctl restart reconciled").ok();
        let _ = host.ctl("status").fails(5);
        let _ = host.ctl("resolve /etc/other --keep").fails(1).says("/etc/shop.conf");
        host.ctl("resolve /etc/shop.conf --restore").ok();
        assert_eq!((host.read("/etc/shop.conf"), host.status()["phase"].as_str()), ("2\n".into(), Some("idle")));

        stick();
        host.ctl("resolve /etc/shop.conf --keep").ok();
        assert_eq!(host.read("/etc/shop.conf"), "mine\n");
        // Kept for now; the next look finds that it is not what is live.
        host.ctl("sync").ok();
        assert_eq!(host.read("/etc/shop.conf"), "2\n");
        let _ = host.ctl("audit log --outcome resolved").fails(0).says("kept").says("restored");
    }
}

scenario! {
    fn validate_needs_neither_daemon_nor_root(host: installed on trixie) {
        host.exec("systemctl stop reconciled").ok();
        host.sh("useradd other").ok();
        host.write("/srv/repo/reconciled.toml", "units = [\"nginx.service\"]\n[[file]]\npath = \"/etc/a\"\ncontent = \"x\"\nmod = \"0644\"\n");
        let said = as_user(host, "other", "validate /srv/repo").fails(2).text();
        for part in ["reconciled.toml:5:1", "mod", "did you mean", "mode", "^"] {
            assert!(said.contains(part), "no {part:?} in\n{said}");
        }
        host.write("/srv/repo/reconciled.toml", "units = [\"nginx.service\"]\n[[file]]\npath = \"/etc/a\"\ncontent = \"x\"\nmode = \"0644\"\n");
        as_user(host, "other", "validate /srv/repo").ok();
        let _ = as_user(host, "other", "validate --strict /srv/repo").fails(2).says("no probes");
        let _ = as_user(host, "other", "validate /srv/nowhere").fails(2).says("/srv/nowhere");
    }
}
