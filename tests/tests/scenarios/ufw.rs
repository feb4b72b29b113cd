//! The firewall: it never shuts SSH out, leaves the rules of others alone, and goes back to what it was.

use reconciled_tests::{Host, scenario};

const ON: &str = "packages = [\"ufw\", \"nginx\"]\nunits = [\"nginx.service\"]\n[ufw]\nenabled = true\n";
const SITE: &str = "server { listen 8080; location / { return 200 one; } }\n";
const RED: &str = "[[probe]]\nname = \"never\"\nattempts = 1\ncommand = [\"/bin/false\"]\n";

/// All of the firewall: its files, and what the kernel does. Turned off, ufw leaves empty chains behind until the next boot.
#[track_caller]
fn all(host: &Host) -> String {
    host.sh(
        "cd /etc/ufw && sha256sum *.rules ufw.conf /etc/default/ufw && stat -c '%n %a' *.rules && (iptables -S; ip6tables -S) | grep -v -e '^-N ' -e ' -j ufw'",
    )
    .ok()
}

fn waiting(host: &Host) -> Option<u64> {
    host.status()["unconfirmed"]["generation"].as_u64()
}

scenario! {
    fn a_firewall_comes_with_its_package(host: reached) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", format!("{ON}allow = [\"OpenSSH\", \"Nginx Full\"]\n")).write("files/etc/nginx/conf.d/shop.conf", SITE);
        let push = repo.commit_and_push();
        push.assert_live().says("~ ufw:firewall (allow none → Nginx Full, OpenSSH)").says("~ ufw:firewall (enabled off → on)");
        assert_eq!(waiting(host), None, "what lets in needs no confirmation");
        let status = host.exec("ufw status").ok();
        assert!(status.contains("Status: active") && status.contains("Nginx Full"), "{status}");
        assert_eq!([80, 22, 8080].map(|port| host.is_open(port)), [true, true, false]);
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // What is declared comes back; a rule of somebody else stays.
        host.sh("ufw delete allow 'Nginx Full' && ufw allow 9000/tcp && ufw --force disable").ok();
        host.ctl("sync").ok();
        let status = host.exec("ufw status").ok();
        assert!(status.contains("Status: active") && status.contains("Nginx Full") && status.contains("9000/tcp"), "{status}");
        // So does what was stopped behind its back, with a rule less, and what the next boot would not load.
        host.sh("ufw delete allow 'Nginx Full' && /usr/lib/ufw/ufw-init stop && systemctl disable --quiet ufw").ok();
        assert!(host.is_open(8080));
        assert!(host.ctl("diff").stdout.contains("enabled stopped → on"));
        host.ctl("sync").ok();
        assert_eq!([80, 22, 8080].map(|port| host.is_open(port)), [true, true, false]);
        assert_eq!(host.exec("systemctl is-enabled ufw").ok(), "enabled");
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // What leaves the list goes, if it came by it: somebody has to show that the host can still be reached.
        repo.write("reconciled.toml", format!("{ON}allow = [\"OpenSSH\", \"8080/tcp\"]\n"));
        let push = repo.commit_and_push();
        push.assert_live().says("~ ufw:firewall (deny our allow Nginx Full → none)").says("this changes how the host is reached (ufw:deny)");
        assert_eq!(waiting(host), Some(2));
        let status = host.exec("ufw status").ok();
        assert!(!status.contains("Nginx Full") && status.contains("9000/tcp"), "{status}");
        assert_eq!([80, 22, 8080].map(|port| host.is_open(port)), [false, true, true]);
        repo.git(&["fetch"]).ok();
        host.wait_until("it is confirmed", || waiting(host).is_none());
        host.reboot();
        host.wait_until("the daemon is back", || host.ctl("status").code <= 1);
        assert_eq!([80, 8080].map(|port| host.is_open(port)), [false, true]);
        // Without the table it is left as it is.
        repo.write("reconciled.toml", "packages = [\"ufw\", \"nginx\"]\n");
        repo.commit_and_push().assert_live().says("ufw:allow is let go");
        assert!(host.exec("ufw status").ok().contains("8080/tcp"));
    }
}

scenario! {
    fn ssh_is_never_shut_out(host: reached) {
        let repo = host.clone_repo();
        repo.write("files/etc/motd.d/x", "x\n").commit_and_push().assert_live();
        // Before ufw is there nobody can tell; with it, all is taken back.
        let push = repo.write("reconciled.toml", "packages = [\"ufw\"]\n[ufw]\nenabled = true\nallow = [\"80/tcp\"]\n").commit_and_push();
        push.assert_refused("write allow = [\"OpenSSH\"]");
        assert!(!host.exists("/usr/sbin/ufw"));
        repo.write("reconciled.toml", "packages = [\"ufw\"]\n").commit_and_push().assert_live();
        for (keys, why) in [
            ("enabled = true\n", "this would shut SSH out"),
            ("enabled = true\nallow = [\"OpenSSH\"]\ndeny = [\"22\"]\n", "this would shut SSH out"),
            ("enabled = true\nallow = [\"OpenSSH\", \"Nginx Full\"]\n", "ufw knows no application `Nginx Full`"),
            ("enabled = true\nallow = [\"OpenSSH\", \"70000/tcp\"]\n", "`70000/tcp` is not a port"),
        ] {
            repo.write("reconciled.toml", format!("packages = [\"ufw\"]\n[ufw]\n{keys}"));
            repo.commit_and_push().assert_refused("").says(why);
        }
        assert!(host.exec("ufw status").ok().contains("inactive"));
        // A rule of somebody else lets it in as well, and stays as it is.
        host.exec("ufw limit 22/tcp").ok();
        repo.write("reconciled.toml", "packages = [\"ufw\"]\n[ufw]\nenabled = true\nallow = [\"22/tcp\"]\n");
        repo.commit_and_push().assert_live();
        assert_eq!(waiting(host), None, "it is let in for sure");
        assert!(host.exec("ufw status").ok().contains("LIMIT"));
        assert!(host.exec("ufw status").ok().contains("Status: active") && host.is_open(22));
        // On all ports on which sshd listens.
        let two = "Port 22\nListenAddress 0.0.0.0\nListenAddress 0.0.0.0:2222 # for us\n";
        repo.write("reconciled.toml", "packages = [\"ufw\"]\n").commit_and_push().assert_live();
        host.exec("ufw --force disable").ok();
        repo.write("files/etc/ssh/sshd_config.d/two.conf", two);
        let push = repo.write("reconciled.toml", "packages = [\"ufw\"]\n[ufw]\nenabled = true\n").commit_and_push();
        push.assert_refused("sshd listens on 2222: write allow = [\"2222/tcp\"]");
        // Where nobody can tell for sure, somebody has to show that the host can be reached; or it is off again.
        repo.git(&["rm", "-qf", "files/etc/ssh/sshd_config.d/two.conf"]).ok();
        host.write("/etc/ssh/sshd_config.d/x.conf", "Include /etc/ssh/more/*.conf\n");
        host.write("/etc/reconciled/reconciled.d/window.toml", "confirm_window = \"3s\"\n");
        host.exec("systemctl reload reconciled").ok();
        repo.write("reconciled.toml", "packages = [\"ufw\"]\n[ufw]\nenabled = true\n");
        repo.commit_and_push().assert_live().says("this changes how the host is reached (ufw:enabled)");
        host.wait_until("it is taken back", || waiting(host).is_none());
        assert!(host.exec("ufw status").ok().contains("inactive"));
    }
}

scenario! {
    fn a_firewall_goes_back_to_what_it_was(host: reached) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "packages = [\"ufw\"]\n").commit_and_push().assert_live();
        host.sh("ufw allow 9000/tcp && ufw allow from 10.0.0.0/8 to any port 5432 proto tcp && ufw deny 25").ok();
        let wanted = "packages = [\"ufw\"]\n[ufw]\nenabled = true\nallow = [\"OpenSSH\"]\ndeny = [\"9000/tcp\", \"443\"]\n\
            default_incoming = \"reject\"\ndefault_outgoing = \"deny\"\n";
        let former = all(host);
        let push = repo.write("reconciled.toml", format!("{wanted}{RED}")).commit_and_push();
        push.assert_refused("rolled back").says("~ ufw:firewall (default_outgoing allow → deny)").says("probe never");
        push.says("~ ufw:firewall (deny none → 443, 9000/tcp, in place of somebody's allow 9000/tcp)");
        assert_eq!(all(host), former, "off, as it was");
        // So it does when it was on.
        host.sh("ufw allow OpenSSH && ufw --force enable").ok();
        let former = all(host);
        repo.write("reconciled.toml", format!("{wanted}default_routed = 1\n")).commit_and_push().assert_refused("unknown key `default_routed` in [ufw]");
        repo.write("reconciled.toml", format!("{wanted}{RED}")).commit_and_push().assert_refused("rolled back");
        assert_eq!(all(host), former, "on, as it was");
        // And when it was on by its files alone.
        host.exec("/usr/lib/ufw/ufw-init stop").ok();
        let stopped = all(host);
        repo.write("reconciled.toml", format!("{wanted}{RED}\n")).commit_and_push().assert_refused("rolled back").says("enabled stopped → on");
        assert_eq!(all(host), stopped, "stopped, as it was");
        host.exec("ufw --force enable").ok();
        assert_eq!(all(host), former);
        // And when it went live and nobody has shown that the host can be reached.
        host.write("/etc/reconciled/reconciled.d/window.toml", "confirm_window = \"8s\"\n");
        host.exec("systemctl reload reconciled").ok();
        repo.write("reconciled.toml", wanted).commit_and_push().assert_live().says("this changes how the host is reached (ufw:deny, ufw:default_incoming, ufw:default_outgoing)");
        host.wait_until("it is taken back", || waiting(host).is_none());
        assert_eq!(all(host), former, "nobody confirmed it");
        // What somebody else has changed meanwhile stays.
        let rules = || {
            let said = host.exec("ufw status verbose").ok();
            let mut lines: Vec<String> = said.lines().map(|line| line.trim().to_owned()).collect();
            lines.sort();
            lines
        };
        let before = rules();
        repo.write("files/etc/motd.d/x", "x\n").write("reconciled.toml", wanted).commit_and_push().assert_live().says("in place of somebody's allow 9000/tcp");
        host.exec("ufw allow 7777/tcp").ok();
        host.wait_until("it is taken back", || waiting(host).is_none());
        assert!(host.exec("ufw status").ok().contains("7777/tcp"));
        host.exec("ufw delete allow 7777/tcp").ok();
        assert_eq!(rules(), before);
        assert_eq!(host.sh("stat -c '%a %U' /var/lib/reconciled/ufw /var/lib/reconciled/ufw/* | sort -u").ok(), "600 root\n700 root");
    }
}
