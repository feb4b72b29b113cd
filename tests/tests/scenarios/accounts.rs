//! Users and groups: made with their homes, kept as declared, and taken back without a trace.

use reconciled::accounts::{Accounts, Fields, GROUP, GSHADOW, PASSWD, Request, SHADOW, SUBGID, SUBUID, UserRequest};
use reconciled_tests::{Host, scenario};

const MANIFEST: &str = "groups = [\"deployers\"]\n\
    [[user]]\nname = \"sammy\"\nhome_mode = \"0711\"\ngroups = [\"www-data\", \"deployers\"]\ncomment = \"Sammy the shark\"\n\
    [[directory]]\npath = \"/home/sammy/media\"\ngroup = \"www-data\"\nmode = \"0750\"\n\
    [[file]]\npath = \"/etc/shop.conf\"\nowner = \"sammy\"\ngroup = \"deployers\"\nmode = \"0640\"\n";
const RED: &str = "[[probe]]\nname = \"never\"\nattempts = 1\ncommand = [\"/bin/false\"]\n";

/// All that the databases know, in an order of its own, with what stands in the homes.
#[track_caller]
fn all(host: &Host) -> String {
    host.sh("sort /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/subuid /etc/subgid; find /home /srv /var/mail -printf '%p %u:%g %m\\n' | sort")
        .ok()
}

#[track_caller]
fn stat(host: &Host, path: &str) -> String {
    host.exec(&format!("stat -c %U:%G:%a {path}")).ok()
}

scenario! {
    fn a_user_comes_with_a_home_and_what_stands_in_it(host: reached) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", MANIFEST).write("files/home/sammy/app/settings.py", "DEBUG = False\n").write("files/etc/shop.conf", "x\n");
        let push = repo.commit_and_push();
        push.assert_live().says("+ group:deployers (new)").says("+ user:sammy (new)").says("file:/home/sammy/app/settings.py");
        assert!(!push.output.contains("directory:/home/sammy "), "its home comes with it: {}", push.output);
        assert_eq!(host.exec("id -nG sammy").ok(), "sammy www-data deployers");
        assert_eq!(host.sh("getent passwd sammy | cut -d: -f5-").ok(), "Sammy the shark:/home/sammy:/bin/bash");
        for (path, wanted) in [
            ("/home/sammy", "sammy:sammy:711"),
            ("/home/sammy/.bashrc", "sammy:sammy:644"),
            ("/home/sammy/app", "sammy:sammy:755"),
            ("/home/sammy/app/settings.py", "sammy:sammy:644"),
            ("/home/sammy/media", "sammy:www-data:750"),
            ("/etc/shop.conf", "sammy:deployers:640"),
        ] {
            assert_eq!(stat(host, path), wanted, "{path}");
        }
        assert!(host.exec("passwd -S sammy").ok().starts_with("sammy L "), "no password lets in");
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // What nobody declared is a person's: a password, another group.
        host.sh("echo sammy:secret | chpasswd && gpasswd -a sammy adm").ok();
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // What is declared comes back.
        let before = all(host);
        host.sh("gpasswd -d sammy www-data && chmod 700 /home/sammy && usermod -c other sammy").ok();
        host.ctl("sync").ok();
        assert_eq!(all(host), before);
        host.sh("userdel sammy && rm -r /home/sammy").ok();
        host.ctl("sync").ok();
        assert_eq!(stat(host, "/home/sammy/media"), "sammy:www-data:750");
        assert_eq!(host.read("/home/sammy/app/settings.py"), "DEBUG = False\n");
        // A home that somebody has moved away is made anew.
        host.sh("mv /home/sammy /root/away").ok();
        host.ctl("sync").ok();
        assert_eq!(stat(host, "/home/sammy"), "sammy:sammy:711");
        assert_eq!(stat(host, "/home/sammy/.bashrc").split(':').next(), Some("sammy"));
        // What leaves the repository is let go; what is declared absent goes, and leaves its data.
        repo.write("reconciled.toml", "").remove("files/etc/shop.conf");
        repo.commit_and_push().assert_live().says("user:sammy is let go").says("group:deployers is let go");
        host.exec("id sammy").ok();
        repo.write("reconciled.toml", "[[user]]\nname = \"sammy\"\nstate = \"absent\"\n[[group]]\nname = \"deployers\"\nstate = \"absent\"\n");
        repo.remove("files/home/sammy/app/settings.py");
        repo.commit_and_push().assert_live().says("- user:sammy (remove)").says("- group:deployers (remove)");
        assert!(host.exec("id sammy").code != 0 && host.exec("getent group deployers").code != 0);
        assert!(host.exists("/home/sammy/.bashrc"));
    }
}

scenario! {
    fn what_fails_on_new_accounts_takes_them_back(host: reached) {
        let repo = host.clone_repo();
        repo.write("files/etc/motd.d/x", "x\n").commit_and_push().assert_live();
        let before = all(host);
        // A service of the new user, and a process that it has let out of its cgroup.
        let unit = "[Service]\nUser=sammy\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
        let manifest = MANIFEST.replace("name = \"sammy\"\n", "name = \"sammy\"\nuid = 1234\n");
        host.sh("printf '#!/bin/sh\\ngetent passwd 1234 && systemd-run --quiet --unit=loose --uid=1234 sleep infinity\\nexit 1\\n' >/root/leave && chmod 755 /root/leave").ok();
        // The same number in another root directory, as in a container, is somebody else.
        host.sh("mkdir -p /jail/usr && mount --bind /usr /jail/usr && ln -s usr/bin usr/lib usr/lib64 /jail/ && \
            systemd-run --quiet --unit=jailed chroot /jail setpriv --reuid=1234 --clear-groups sleep infinity").ok();
        let red = RED.replace("/bin/false", "/root/leave");
        let system = "[[user]]\nname = \"shop\"\nsystem = true\nhome = \"/srv/apps/shop\"\nuid = 850\n";
        repo.write("reconciled.toml", format!("units = [\"app.service\"]\n{manifest}{system}{red}"));
        repo.write("files/home/sammy/app/settings.py", "x\n").write("files/etc/shop.conf", "x\n");
        repo.write("files/etc/systemd/system/app.service", unit);
        let push = repo.commit_and_push();
        push.assert_refused("rolled back").says("+ user:shop (new)").says("probe never");
        assert_eq!(all(host), before);
        assert!(!host.exists("/etc/shop.conf") && !host.exists("/home/sammy") && !host.exists("/srv/apps"));
        assert_eq!(host.exec("systemctl is-active loose").stdout.trim(), "failed", "it was ended");
        host.exec("systemctl is-active jailed").ok();
        // With the probe out of the way it goes live; a process that still runs as one that goes is in the way of that.
        repo.write("reconciled.toml", format!("units = [\"app.service\"]\n{manifest}{system}"));
        repo.commit_and_push().assert_live();
        assert_eq!(host.exec("id -u shop").ok(), "850");
        assert!(stat(host, "/srv/apps/shop").starts_with("shop:shop:"));
        let live = all(host);
        repo.write("reconciled.toml", "[[user]]\nname = \"sammy\"\nstate = \"absent\"\n");
        for path in ["files/etc/shop.conf", "files/home/sammy/app/settings.py"] {
            repo.remove(path);
        }
        repo.commit_and_push().assert_refused("rolled back").says("user sammy is currently used by process");
        assert_eq!(all(host), live);
    }
}

scenario! {
    fn changed_and_removed_accounts_come_back_as_they_were(host: reached) {
        host.sh("touch /etc/subuid /etc/subgid && groupadd -g 1700 team && useradd -m -u 1500 -c Bob -s /bin/sh -G adm,team bob && echo bob:secret | chpasswd && chage -M 90 bob").ok();
        host.sh("useradd -m -g team eve && rm -r /home/eve && passwd -d eve").ok();
        // Ranges of its own, what it administers, and a password of a group.
        host.sh("usermod --add-subuids 300000-300999 bob && gpasswd -A root,bob team && gpasswd -A bob adm && echo team:secret | chgpasswd").ok();
        let repo = host.clone_repo();
        repo.write("files/etc/motd.d/x", "x\n").commit_and_push().assert_live();
        let before = all(host);
        for manifest in [
            "[[group]]\nname = \"team\"\ngid = 1800\n\
             [[user]]\nname = \"bob\"\nshell = \"/bin/bash\"\ncomment = \"\"\ngroups = [\"adm\", \"www-data\"]\ngroup = \"users\"\nuid = 1600\nhome = \"/srv/homes/bob\"\nhome_mode = \"0711\"\npassword = \"locked\"\n\
             [[user]]\nname = \"eve\"\nhome = \"/srv/homes/eve\"\npassword = \"locked\"\n",
            "[[user]]\nname = \"bob\"\nstate = \"absent\"\n[[user]]\nname = \"eve\"\nstate = \"absent\"\n[[group]]\nname = \"team\"\nstate = \"absent\"\n",
        ] {
            let push = repo.write("reconciled.toml", format!("{manifest}{RED}")).commit_and_push();
            push.assert_refused("rolled back").says("user:bob").says("probe never");
            assert_eq!(all(host), before);
            repo.write("reconciled.toml", manifest);
            let preview = repo.commit();
            assert!(!preview.is_empty());
            repo.git(&["push", "origin", "main:try"]).ok();
            assert_eq!(all(host), before, "a preview changes nothing");
        }
        // It works without the probe.
        repo.push().assert_live();
        assert!(host.exec("id bob").code != 0 && host.exists("/home/bob/.bashrc"));
        // Debian's own accounts stay.
        repo.write("reconciled.toml", "[[user]]\nname = \"www-data\"\nstate = \"absent\"\n");
        repo.commit_and_push().assert_refused("www-data belongs to the system");
    }
}

/// One user, that is to go, as a request to the worker.
#[track_caller]
fn removal(host: &Host, name: &str) -> Vec<u8> {
    let [passwd, group, shadow, gshadow, subuid, subgid] =
        [PASSWD, GROUP, SHADOW, GSHADOW, SUBUID, SUBGID].map(|path| host.read(path));
    let removed = Accounts::read(&passwd, &group, &shadow).with(&gshadow, &subuid, &subgid).all_of(name);
    let request = UserRequest { name: name.to_owned(), before: Some(Fields::default()), removed, ..UserRequest::default() };
    serde_json::to_vec(&Request::User(Box::new(request))).expect("a request")
}

scenario! {
    fn an_account_that_came_back_in_part_is_completed(host: reached) {
        host.sh("touch /etc/subuid /etc/subgid && groupadd team && useradd -m -u 1500 -c Bob -s /bin/sh -G adm,team bob && echo bob:secret | chpasswd && \
            chage -M 90 bob && gpasswd -A bob team && usermod --add-subuids 300000-300999 bob").ok();
        let (before, request) = (all(host), removal(host, "bob"));
        let worker = |verb: &str| host.exec_with(&["/usr/sbin/reconciled", "worker", "accounts", verb], &request).ok();
        let whole = worker("ask");
        for half in [
            "true",
            "userdel bob",
            "userdel bob && groupadd -g 1500 bob",
            "userdel bob && useradd -M -u 1500 -c Bob -s /bin/sh bob",
            "passwd -l bob",
            "gpasswd -d bob adm",
            "chage -M 99 bob",
            "gpasswd -A '' team",
            "usermod --del-subuids 300000-300999 bob",
        ] {
            host.sh(half).ok();
            assert!(half == "true" || worker("ask") != whole, "{half}");
            worker("undo");
            assert_eq!((all(host), worker("ask")), (before.clone(), whole.clone()), "{half}");
        }
    }
}

scenario! {
    fn nobody_leads_root_elsewhere(host: reached) {
        host.exec("useradd -m bob").ok();
        let repo = host.clone_repo();
        let before = all(host);
        repo.write("reconciled.toml", "[[user]]\nname = \"shop\"\nsystem = true\nhome = \"/home/bob/shop\"\n");
        repo.commit_and_push().assert_refused("rolled back").says("a directory of another user");
        assert_eq!(all(host), before);
    }
}
