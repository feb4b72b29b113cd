//! Confirm or revert: a change of how the host is reached is taken back unless somebody shows that it still can be.

use reconciled_tests::{Host, Repo, scenario};

const DROP_IN: &str = "files/etc/ssh/sshd_config.d/50-ours.conf";

/// A host that waits this long for a confirmation, and a repository with something live.
fn ready(host: &Host, window: &str) -> Repo {
    host.write("/etc/reconciled/reconciled.d/window.toml", format!("confirm_window = \"{window}\"\n"));
    host.exec("systemctl reload reconciled").ok();
    let repo = host.clone_repo();
    repo.write("files/etc/motd.d/x", "x\n");
    repo.commit_and_push().assert_live();
    repo
}

/// The generation that waits, as the status has it.
fn waiting(host: &Host) -> Option<u64> {
    host.status()["unconfirmed"]["generation"].as_u64()
}

scenario! {
    fn i25_a_connection_confirms(host: installed) {
        let repo = ready(host, "1h");
        repo.write(DROP_IN, "X11Forwarding no\n");
        let push = repo.commit_and_push();
        push.assert_live().says("this changes how the host is reached (file:/etc/ssh/sshd_config.d/50-ours.conf").says("reconcilectl confirm");
        assert_eq!(waiting(host), Some(2));
        host.ctl("status").ok().find("WAITS").expect("the status says so");
        repo.git(&["fetch"]).ok();
        host.wait_until("it is confirmed", || waiting(host).is_none());
        host.ctl("audit log").ok().find("confirmed").expect("it is on record");
        // A person on the host can say so too; what is no lifeline asks for nothing.
        repo.write(DROP_IN, "X11Forwarding yes\n");
        repo.commit_and_push().assert_live();
        assert_eq!(waiting(host), Some(3));
        host.ctl("confirm").ok();
        assert_eq!(waiting(host), None);
        repo.write("files/etc/motd.d/x", "y\n");
        let push = repo.commit_and_push();
        assert!(!push.assert_live().output.contains("how the host is reached"));
        assert_eq!(waiting(host), None);
    }
}

scenario! {
    fn i25_a_connection_that_was_there_before_confirms_nothing(host: installed) {
        let repo = ready(host, "1h");
        // One connection for all that follows, kept open for it.
        let control = repo.path().join(".git/control");
        let shared = format!("-o ControlMaster=auto -o ControlPersist=60 -o ControlPath={}", control.display());
        repo.git_over(&shared, &["fetch"]).ok();
        repo.write(DROP_IN, "X11Forwarding no\n");
        repo.commit();
        repo.git_over(&shared, &["push", "origin", "main"]).ok();
        repo.git_over(&shared, &["fetch"]).ok();
        assert_eq!(waiting(host), Some(2));
        // Nor does a daemon that has forgotten everything take it for a new one.
        host.exec("systemctl restart reconciled").ok();
        repo.git_over(&shared, &["fetch"]).ok();
        assert_eq!(waiting(host), Some(2));
        repo.git(&["fetch"]).ok();
        host.wait_until("it is confirmed", || waiting(host).is_none());
    }
}

scenario! {
    fn i25_what_nobody_confirms_is_taken_back(host: installed on bookworm) {
        let repo = ready(host, "3s");
        let good = repo.head();
        // A push that locks everybody out: sshd takes it, and nobody gets in any more.
        repo.write(DROP_IN, "DenyUsers *\n");
        repo.write("reconciled.toml", "[[unit]]\nname = \"ssh.service\"\nactive = true\nwatch = [\"/etc/ssh/**\"]\n");
        let push = repo.commit_and_push();
        push.assert_live();
        assert!(repo.git(&["fetch"]).code != 0, "nobody gets in");
        host.wait_until("it is taken back", || !host.exists("/etc/ssh/sshd_config.d/50-ours.conf"));
        host.wait_until("one gets in again", || repo.git(&["fetch"]).code == 0);
        host.wait_until("nothing waits", || waiting(host).is_none());
        assert_eq!(repo.remote_main(), Some(good));
        let status = host.status();
        assert_eq!(status["held"]["commit"], push.commit.as_str());
        assert!(status["held"]["reason"].as_str().is_some_and(|why| why.contains("was not confirmed in time")), "{status}");
        host.ctl("audit log").ok().find("was not confirmed in time").expect("it is on record");
        repo.push().assert_refused("is held since");
    }
}

scenario! {
    fn i25_also_after_a_crash_a_reboot_and_while_paused(host: installed on bookworm) {
        let repo = ready(host, "6s");
        repo.write(DROP_IN, "X11Forwarding no\n");
        repo.commit_and_push().assert_live();
        host.ctl("pause testing").ok();
        host.exec("systemctl kill --signal=KILL reconciled").ok();
        host.wait_until("the daemon is back", || host.ctl("status").code == 0);
        assert_eq!(waiting(host), Some(2));
        host.reboot();
        host.wait_until("the daemon is back", || host.ctl("status").code <= 1);
        host.wait_until("it is taken back", || !host.exists("/etc/ssh/sshd_config.d/50-ours.conf"));
        host.wait_until("nothing waits", || waiting(host).is_none());
        host.wait_until("it is paused as before", || host.status()["phase"] == "paused");
    }
}

scenario! {
    fn i25_the_first_generation_goes_back_to_the_host_as_it_was(host: installed on bookworm) {
        host.write("/etc/reconciled/reconciled.d/window.toml", "confirm_window = \"3s\"\n");
        host.exec("systemctl restart reconciled").ok();
        host.write("/etc/ssh/sshd_config.d/50-ours.conf", "X11Forwarding yes\n");
        let repo = host.clone_repo();
        repo.write(DROP_IN, "X11Forwarding no\n").write("files/etc/motd.d/x", "x\n");
        repo.commit_and_push().assert_live();
        assert_eq!(waiting(host), Some(1));
        host.wait_until("it is taken back", || !host.exists("/etc/motd.d/x"));
        assert_eq!(host.read("/etc/ssh/sshd_config.d/50-ours.conf"), "X11Forwarding yes\n");
        host.wait_until("nothing waits", || waiting(host).is_none());
        // Another first one can follow.
        repo.remove(DROP_IN);
        repo.commit_and_push().assert_live();
        assert_eq!(host.read("/etc/motd.d/x"), "x\n");
    }
}
