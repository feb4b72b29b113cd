//! The audit log, from the installed package: what it holds, how it is read, what tampering it shows, and what never gets into it.

use reconciled_tests::{Host, Repo, scenario};
use serde_json::Value;

/// The log on the host.
const LOG: &str = "/var/lib/reconciled/audit/audit.jsonl";

/// A host with a history: live twice by alice, refused once, rolled back once, drifted once.
#[track_caller]
fn history(host: &Host) -> Repo {
    let repo = host.clone_repo();
    repo.write("files/etc/shop/a.conf", "price = 1\n").write("files/etc/shop/b.conf", "b\n");
    repo.commit_and_push().assert_live();
    repo.write("files/etc/shop/a.conf", "price = 2\n");
    repo.commit_and_push().assert_live();
    repo.write("reconciled.toml", "surprise = 1\n");
    repo.commit_and_push().assert_refused("surprise");
    repo.write("files/etc/shop/a.conf", "price = 3\n");
    repo.write("reconciled.toml", "[[probe]]\nname = \"no\"\ncommand = [\"/bin/false\"]\nattempts = 1\n");
    repo.commit_and_push().assert_refused("rolled back to generation 2");
    host.write("/etc/shop/b.conf", "edited\n");
    host.ctl("sync").ok();
    repo
}

/// The records that these words of `audit log` select.
#[track_caller]
fn select(host: &Host, words: &str) -> Vec<Value> {
    let lines = host.ctl(&format!("audit log --json {words}")).ok();
    lines.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

fn events(records: &[Value]) -> Vec<&str> {
    records.iter().filter_map(|r| r["event"].as_str()).collect()
}

scenario! {
    fn the_log_tells_what_happened(host: installed on trixie) {
        let _repo = history(host);
        let all = select(host, "");
        let seqs: Vec<u64> = all.iter().filter_map(|r| r["seq"].as_u64()).collect();
        assert_eq!(seqs, (1..=u64::try_from(all.len()).expect("a number")).collect::<Vec<_>>());
        let lines = host.ctl("audit log").ok();
        assert_eq!(lines.lines().count(), all.len());

        assert_eq!(events(&select(host, "--outcome live")), ["live", "live"]);
        assert_eq!(select(host, "--outcome live --actor nobody").len(), 0);
        assert_eq!(select(host, "--outcome refused --actor alice").len(), 1);
        assert_eq!(events(&select(host, "--path /etc/shop/b.conf --outcome drift-repaired")), ["drift-repaired"]);
        assert_eq!(events(&select(host, "--path /etc/shop --outcome live")), ["live", "live"]);
        assert_eq!(select(host, "--path /etc/sho").len(), 0, "a path is not a prefix of letters");
        let newest = select(host, "-n 2");
        assert_eq!(newest, all[all.len() - 2..]);
        assert_eq!(select(host, "--since 1h").len(), all.len());
        assert_eq!(select(host, "--until 1h").len(), 0);
        let at = all[3]["at"].as_str().expect("a time");
        let since = select(host, &format!("--since {at}"));
        assert!(since.len() >= all.len() - 3 && since.iter().all(|r| r["at"].as_str() >= Some(at)), "{at}: {since:?}");
        assert!(since.len() < all.len(), "{at}: what was before is left out");
        assert_eq!(select(host, "--since 2099-01-01").len(), 0);
        let _ = host.ctl("audit log --outcome nonsense").fails(2).says("nonsense");
        let _ = host.ctl("audit log --since yesterdayish").fails(2);

        // Every change has its intent before it, and the whole of a record can be read.
        let live = all.iter().rposition(|r| r["event"] == "live").expect("a live record");
        assert_eq!(all[live - 1]["event"], "intent");
        let shown = host.ctl(&format!("audit show {}", all[live]["seq"])).ok();
        for part in ["alice", "-price = 1", "+price = 2", "generation  2", "stages", "/etc/shop/a.conf"] {
            assert!(shown.contains(part), "no {part:?} in\n{shown}");
        }
        let back = host.ctl(&format!("audit show {}", select(host, "--outcome rolled-back")[0]["seq"])).ok();
        assert!(back.contains("+price = 3") && back.contains("FAIL"), "{back}");
        let _ = host.ctl("audit show 99999").fails(1).says("no record 99999");
        assert_eq!(host.ctl("audit export").ok(), host.read(LOG).trim_end());
    }
}

scenario! {
    fn tampering_shows(host: installed on trixie) {
        let repo = history(host);
        let own = host.ctl("audit verify").ok();
        assert!(own.contains("unbroken") && own.contains("anchored"), "{own}");
        let log = host.read(LOG);
        let lines: Vec<&str> = log.lines().collect();
        let joined = |lines: &[&str]| lines.join("\n") + "\n";
        let mut swapped = lines.clone();
        swapped.swap(2, 3);
        let head = host.status()["audit_head"].as_str().expect("a head").to_owned();
        let harms = [
            ("an edited byte", log.replacen("alice", "alicf", 1)),
            ("an edited last record", joined(&[&lines[..lines.len() - 1], &[&lines[lines.len() - 1].replacen("event", "evenu", 1)]].concat())),
            ("a dropped record", joined(&[&lines[..3], &lines[4..]].concat())),
            ("a dropped first record", joined(&lines[1..])),
            ("swapped records", joined(&swapped)),
            ("a repeated record", joined(&[&lines[..4], &lines[3..]].concat())),
            ("a record cut short", log[..log.len() - 20].to_owned()),
        ];
        host.write("/root/copy", &log);
        let _ = host.ctl("audit verify /root/copy").fails(0);
        let _ = host.ctl(&format!("audit verify /root/copy --head {head}")).fails(0);
        for (harm, text) in &harms {
            assert_ne!(*text, log, "{harm}");
            host.write("/root/copy", text);
            let said = host.ctl("audit verify /root/copy").fails(1);
            assert!(said.stderr.contains("line"), "{harm}: {said}");
        }
        // A cut tail shows only against a head that was kept: the one that the push printed, the store's, the journal's. Of a copy
        // of another host's log, and of an older one that comes with its head, this host knows nothing better.
        let cut = joined(&lines[..lines.len() - 2]);
        host.write("/root/copy", &cut);
        let _ = host.ctl("audit verify /root/copy").fails(1).says("the tail was cut off").says("--head");
        let earlier: Value = serde_json::from_str(lines[lines.len() - 2]).expect("a record");
        let earlier = format!("{}:{}", lines.len() - 2, earlier["prev"].as_str().expect("a digest"));
        let _ = host.ctl(&format!("audit verify /root/copy --head {earlier}")).fails(0).says("anchored up to");
        host.sh(&format!("mv {LOG} /root/own")).ok();
        let _ = host.ctl("audit verify /root/copy").fails(0).says("a cut tail would not show");
        host.sh(&format!("mv /root/own {LOG}; chgrp reconciled {LOG}")).ok();
        let _ = host.ctl(&format!("audit verify /root/copy --head {head}")).fails(1).says("the tail was cut off");

        repo.write("reconciled.toml", "").write("files/etc/shop/a.conf", "price = 4\n");
        let push = repo.commit_and_push();
        push.assert_live();
        let head = host.status()["audit_head"].as_str().expect("a head").to_owned();
        push.says(&head);

        host.exec("systemctl stop reconciled").ok();
        let log = host.read(LOG);
        let lines: Vec<&str> = log.lines().collect();
        host.write(LOG, joined(&lines[..lines.len() - 1]));
        let _ = host.ctl("audit verify").fails(1).says("the tail was cut off");
        // Not even with the store's own note gone: the journal knows.
        host.sh("sqlite3 /var/lib/reconciled/state.db \"DELETE FROM setting WHERE key = 'audit-head'\"").ok();
        let _ = host.ctl("audit verify").fails(1).says("the tail was cut off");
    }
}

scenario! {
    fn a_start_on_a_cut_log_raises_an_alarm(host: installed on trixie) {
        let _repo = history(host);
        host.exec("systemctl stop reconciled").ok();
        let log = host.read(LOG);
        let lines: Vec<&str> = log.lines().collect();
        host.write(LOG, lines[..lines.len() - 2].join("\n") + "\n");
        host.exec("systemctl start reconciled").ok();
        let alarms = select(host, "--outcome alarm");
        assert_eq!(alarms.len(), 1);
        assert!(alarms[0]["reason"].as_str().is_some_and(|r| r.contains("cut off")), "{}", alarms[0]);
        let _ = host.exec("journalctl -u reconciled -p err -o cat").says("ALARM");
    }
}

scenario! {
    fn a_secret_is_nowhere(host: installed on trixie) {
        const CANARIES: [&str; 4] = ["kanarie-one", "kanarie-two", "kanarie-three", "kanarie-drift"];
        let repo = host.clone_repo();
        let mut said = String::new();
        let secret = "[[file]]\npath = \"/etc/shop/key\"\nmode = \"0600\"\nsecret = true\n";
        repo.write("reconciled.toml", secret).write("files/etc/shop/key", "kanarie-one\n").write("files/etc/motd.d/x", "");
        said += &repo.commit_and_push().assert_live().output;
        repo.write("files/etc/shop/key", "kanarie-two\n");
        said += &repo.commit_and_push().assert_live().says("~ file:/etc/shop/key").output;

        host.write("/etc/shop/key", "kanarie-drift\n");
        said += &host.ctl("diff").fails(1).says("/etc/shop/key").text();
        said += &host.ctl("sync").text();

        // Rolled back; refused; met by somebody's edit on the way.
        repo.write("files/etc/shop/key", "kanarie-three\n");
        repo.write("reconciled.toml", format!("{secret}[[probe]]\nname = \"no\"\ncommand = [\"/bin/cat\", \"/nonexistent\"]\nattempts = 1\n"));
        said += &repo.commit_and_push().assert_refused("rolled back").output;
        repo.write("reconciled.toml", format!("{secret}surprise = 1\n"));
        said += &repo.commit_and_push().assert_refused("surprise").output;
        said += &repo.push_to(&["HEAD:refs/heads/preview"]).output;
        repo.write("reconciled.toml", "").remove("files/etc/shop");
        said += &repo.commit_and_push().assert_live().output;
        for words in ["status", "status --json", "history", "history --json", "diff", "plan main", "audit log --json", "audit export"] {
            said += &host.ctl(words).text();
        }
        for seq in 1..=select(host, "").len() {
            said += &host.ctl(&format!("audit show {seq}")).text();
        }
        said += &host.exec("journalctl --no-pager -o export").text();
        let canary = |text: &str| CANARIES.into_iter().find(|c| text.contains(c)).map(str::to_owned);
        assert_eq!(canary(&said), None, "{}", said.lines().find(|line| canary(line).is_some()).unwrap_or_default());

        // On disk: in the repository, which is what was pushed; what the store keeps is sealed.
        let holders = host.sh("grep -rlaE 'kanarie-(one|two|three|drift)' / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev --exclude-dir=journal 2>/dev/null; true").ok();
        for path in holders.lines() {
            assert!(path.starts_with("/var/lib/reconciled/git/"), "{path} has it");
        }
        assert_eq!(host.sh("stat -c '%a %U' /var/lib/reconciled/objects").ok(), "700 root");
        assert_eq!(host.sh("find /var/lib/reconciled/objects -type f ! -perm 600").ok(), "");
        assert_eq!(host.exec("stat -c %a /var/lib/reconciled/state.db").ok(), "600");
        // Nor does a record say enough to test a guess against it.
        for digest in CANARIES.map(|c| host.sh(&format!("echo {c} | sha256sum | cut -c1-12")).ok()) {
            assert!(!said.contains(&digest), "the digest {digest} of a secret is shown");
        }
    }
}
