//! Secrets in the repository: sealed to one host, opened there, in the files that need them and nowhere else.

use reconciled_tests::{Host, Repo, scenario};

const CANARY: &str = "kanarie-in-the-mine";

/// Seals on the host, as an administrator would.
#[track_caller]
fn seal(host: &Host, repo: &Repo, name: &str, plain: &str) {
    let sealed = host.exec_with(&["reconcilectl", "secret", "seal"], plain.as_bytes()).ok();
    repo.write(&format!("secrets/{name}.age"), sealed);
}

#[track_caller]
fn look(host: &Host, path: &str) -> String {
    host.exec(&format!("stat -c %a {path}")).ok() + " " + host.read(path).trim_end()
}

scenario! {
    fn i16_a_sealed_secret_reaches_its_file_and_nothing_else(host: reached) {
        let repo = host.clone_repo();
        seal(host, &repo, "token", &format!("{CANARY}\n"));
        let credential = host.sh("printf other-kanarie | systemd-creds encrypt --name=other - - 2>/dev/null").ok();
        repo.write("secrets/other.cred", credential);
        repo.write("secrets/README.md", "How to seal.\n");
        repo.write("files/etc/shop.env.j2", "TOKEN={{ secrets.token }}\nOTHER={{ secrets.other }}\n");
        // A service that gives away what it was given, and fails.
        let mut said = repo.commit_and_push().assert_live().output.clone();
        let wanted = format!("600 TOKEN={CANARY}\nOTHER=other-kanarie");
        assert_eq!(look(host, "/etc/shop.env"), wanted);
        // It is healed without the repository, and nothing is to do once it is right.
        host.write("/etc/shop.env", "TOKEN=wrong\n");
        said += &host.ctl("sync").text();
        assert_eq!(look(host, "/etc/shop.env"), wanted);
        said += &repo.push().output;
        repo.write("reconciled.toml", "units = [\"tells.service\"]\n");
        repo.write("files/etc/systemd/system/tells.service", "[Service]\nEnvironmentFile=/etc/shop.env\nExecStart=/bin/sh -c 'echo the token is $TOKEN; exit 3'\n[Install]\nWantedBy=multi-user.target\n");
        let push = repo.commit_and_push();
        push.assert_refused("rolled back").says("what was said of it is not shown");
        said += &push.output;
        for words in ["status --json", "history --json", "diff", "plan main", "explain", "audit log --json", "audit export"] {
            said += &host.ctl(words).text();
        }
        let leaks: Vec<&str> = said.lines().filter(|line| line.contains("kanarie")).collect();
        assert_eq!(leaks, Vec::<&str>::new());
        let held = host.sh("grep -rla kanarie- / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev --exclude-dir=journal 2>/dev/null; true").ok();
        assert_eq!(held, "/etc/shop.env");
        // What somebody guesses cannot be found to be right by its digest.
        let digests = format!("{{ sha256sum </etc/shop.env; printf '%s' {CANARY} | sha256sum; printf '%s\\n' {CANARY} | sha256sum; }} | cut -c -64 >/run/digests");
        host.sh(&digests).ok();
        let told = host.sh("grep -rlaFf /run/digests /var/lib/reconciled /var/log /run/log /etc").stdout;
        assert_eq!(told, "");
        // Nor would a crash write down what is in memory.
        let limits = host.sh("grep '^Max core file size' /proc/$(systemctl show -P MainPID reconciled)/limits").ok();
        assert_eq!(limits.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
    }
}

scenario! {
    fn secrets_are_sealed_by_anybody_and_used_in_tables(host: reached) {
        let repo = host.clone_repo();
        // On the host as who is nobody there, on another machine with what the host says of itself, and bound to the host by systemd.
        let by_anybody = host.exec_with(&["runuser", "-u", "nobody", "--", "reconcilectl", "secret", "seal"], b"by-anybody").ok();
        let elsewhere = host.sh("reconcilectl secret recipient >/run/web1.pub; printf elsewhere | age -a -r \"$(cat /run/web1.pub)\"").ok();
        let bound = host.sh("printf bound-to-it | systemd-creds encrypt --name=bound - - 2>/dev/null").ok();
        repo.write("secrets/anybody.age", by_anybody).write("secrets/elsewhere.age", elsewhere).write("secrets/bound.cred", bound);
        let says = "[[command]]\nname = \"says\"\nforward = [\"sh\", \"-c\", \"umask 77; echo $A $E $B >/run/said\"]\n\
            environment = { A = { secret = \"anybody\" }, E = { secret = \"elsewhere\" }, B = { secret = \"bound\" } }\n";
        repo.write("reconciled.toml", says).commit_and_push().assert_live();
        assert_eq!(host.read("/run/said"), "by-anybody elsewhere bound-to-it\n");
    }
}

scenario! {
    fn what_this_host_cannot_open_is_refused(host: reached on trixie) {
        let repo = host.clone_repo();
        repo.write("files/etc/motd.d/x", "x\n").commit_and_push().assert_live();
        host.sh("ssh-keygen -q -t ed25519 -N '' -f /root/other").ok();
        let foreign = host.sh("echo x | age -a -R /root/other.pub").ok();
        repo.write("secrets/token.age", foreign).commit_and_push().assert_refused("secrets/token.age: no identity matched").says("seal it anew: ssh HOST reconcilectl secret seal");
        repo.write("secrets/token.age", "no age at all\n").commit_and_push().assert_refused("secrets/token.age:");
        repo.remove("secrets/token.age").write("secrets/token.cred", "AAAA\n").commit_and_push().assert_refused("secrets:");
        repo.remove("secrets/token.cred").write("secrets/token", "hunter2\n").commit_and_push().assert_refused("secrets/token: no sealed file");
        repo.remove("secrets").write("files/etc/x.j2", "{{ secrets.none }}\n").commit_and_push().assert_refused("files/etc/x.j2:1");
        assert!(!host.exists("/etc/x"));
        // Of a host without age it is said what is missing.
        repo.remove("files/etc/x.j2");
        seal(host, &repo, "token", "x\n");
        host.exec("apt-get remove -y -q age").ok();
        repo.commit_and_push().assert_refused("age is not installed: apt-get install age");
    }
}

scenario! {
    fn i16_a_key_that_may_only_preview_finds_nothing_out(host: reached on trixie) {
        let repo = host.clone_repo();
        seal(host, &repo, "token", CANARY);
        repo.write("files/etc/shop.env.j2", "TOKEN={{ secrets.token }}\n").commit_and_push().assert_live();
        // What is refused or accepted depends on the secret: with enough of such pushes one would have it.
        let guess = |letter: &str| format!("{{% if secrets.token[0] == '{letter}' %}}{{{{ vars.none }}}}{{% endif %}}\n");
        let ci = host.clone_repo_as("ci", &["--preview"]);
        for letter in ["k", "x"] {
            ci.write("files/etc/guess.j2", guess(letter)).commit();
            ci.push_to(&["HEAD:refs/heads/try"]).assert_live().says("secrets stay sealed for a key that may only preview");
        }
        // Who may deploy may know it.
        repo.write("files/etc/guess.j2", guess("k")).commit();
        repo.push_to(&["HEAD:refs/heads/try"]).assert_refused("`vars.none` is undefined");
    }
}

scenario! {
    fn i16_a_sealed_file_is_opened_at_its_place(host: reached on trixie) {
        let repo = host.clone_repo();
        let seal = |path: &str, plain: &[u8]| {
            repo.write(path, host.exec_with(&["reconcilectl", "secret", "seal"], plain).ok());
        };
        seal("files/etc/ssl/private/shop.key.age", b"-----BEGIN OF IT-----\nhunter2-hunter2\n\x00\xff");
        seal("files/etc/shop/token.age", b"swordfish-swordfish");
        repo.write("reconciled.toml", "[[file]]\npath = \"/etc/shop/token\"\nmode = \"0644\"\n");
        // What is sealed to another host is opened there alone.
        repo.write("hosts/elsewhere/files/etc/other.age", "not for this host");
        let push = repo.commit_and_push();
        push.assert_live();
        assert_eq!(host.exec("stat -c %a /etc/ssl/private/shop.key").ok(), "600");
        assert_eq!(look(host, "/etc/shop/token"), "644 swordfish-swordfish");
        assert!(!host.exists("/etc/ssl/private/shop.key.age") && !host.exists("/etc/other"));
        assert!(!push.output.contains("hunter2") && !host.ctl("audit show 3").text().contains("swordfish"));
        // It is healed from what the generation keeps.
        host.write("/etc/shop/token", "edited");
        host.ctl("sync").ok();
        assert_eq!(host.read("/etc/shop/token"), "swordfish-swordfish");
        repo.write("files/etc/shop/token.age", "not sealed");
        repo.commit_and_push().assert_refused("files/etc/shop/token.age: ");
    }
}
