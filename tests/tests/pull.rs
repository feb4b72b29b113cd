//! Pull mode, from the installed package: a host follows the branch of a forge, forward only, and says so when it cannot.
//! The forge is a `git daemon` of the host itself.

mod shop;

use reconciled_tests::{Host, Repo, scenario};
use serde_json::Value;

use shop::{MANIFEST, SITE, SITE_IN_GIT, assert_live, audit, bad_gateway, held, open_shop, served, site, status_of, write_shop};

/// The forge's repository is asked every second.
const ORIGIN: &str = "[[remote]]\nurl = \"git://127.0.0.1/shop.git\"\ninterval = \"1s\"\n";
/// So is a second one, of another name.
const MIRROR: &str = "[[remote]]\nname = \"mirror\"\nurl = \"git://127.0.0.1/mirror.git\"\ninterval = \"1s\"\n";

/// Starts the forge.
#[track_caller]
fn open_forge(host: &Host) {
    let serve = "git daemon --export-all --reuseaddr --base-path=/srv/forge --listen=127.0.0.1";
    host.exec("git init --quiet --bare --initial-branch=main /srv/forge/shop.git").ok();
    host.exec(&format!("systemd-run --quiet --collect --unit=forge {serve}")).ok();
    host.wait_until("the forge answers", || host.exec("git ls-remote git://127.0.0.1/shop.git").code == 0);
}

/// Makes what the work tree is at the `main` of a repository of the forge, whatever stood there.
#[track_caller]
fn publish(host: &Host, repo: &Repo, name: &str) {
    repo.git(&["bundle", "create", "--quiet", "../bundle", "HEAD"]).ok();
    let bundle = std::fs::read(repo.path().join("../bundle")).expect("a bundle");
    let take = "cat >/root/bundle; git init --quiet --bare \"$0\"; git -C \"$0\" fetch --quiet /root/bundle +HEAD:refs/heads/main";
    host.exec_with(&["sh", "-ec", take, &format!("/srv/forge/{name}.git")], &bundle).ok();
}

/// Commits a shop with this word and publishes it.
#[track_caller]
fn offer(host: &Host, repo: &Repo, word: &str) -> String {
    write_shop(repo, word);
    let commit = repo.commit();
    publish(host, repo, "shop");
    commit
}

/// Sets what is followed, and has the daemon read it.
#[track_caller]
fn follow(host: &Host, settings: &str) {
    host.write("/etc/reconciled/reconciled.d/pull.toml", settings);
    host.exec("systemctl reload reconciled").ok();
}

/// A host that follows a forge where the shop is live with the word `one`.
#[track_caller]
fn followed(host: &Host, settings: &str) -> Repo {
    let repo = host.clone_repo();
    open_forge(host);
    let one = offer(host, &repo, "one");
    follow(host, settings);
    wait_for_live(host, &repo, &one);
    repo
}

#[track_caller]
fn wait_for_live(host: &Host, repo: &Repo, commit: &str) {
    host.wait_until(&format!("{commit} is live"), || status_of(host, "live").as_deref() == Some(commit));
    assert_live(host, repo, commit);
}

/// What `status --json` says of a remote.
#[track_caller]
fn remote(host: &Host, name: &str) -> Value {
    host.status()["remotes"][name].clone()
}

#[track_caller]
fn wait_for_error(host: &Host, name: &str, words: &str) {
    let said = |host: &Host| remote(host, name)["error"].as_str().is_some_and(|error| error.contains(words));
    host.wait_until(&format!("{name}: {words}"), || said(host));
}

/// Waits until a remote has answered three times more.
#[track_caller]
fn three_polls(host: &Host, name: &str) {
    let mut seen = vec![remote(host, name)["answered"].clone()];
    host.wait_until(&format!("three more answers of {name}"), || {
        let answered = remote(host, name)["answered"].clone();
        if seen.last() != Some(&answered) {
            seen.push(answered);
        }
        seen.len() > 3
    });
}

/// The records of one kind, oldest first.
#[track_caller]
fn records(host: &Host, event: &str) -> Vec<Value> {
    audit(host).into_iter().filter(|r| r["event"] == event).collect()
}

/// How many records there are of a commit.
#[track_caller]
fn told_of(host: &Host, commit: &str) -> usize {
    audit(host).iter().filter(|r| r["commit"] == commit).count()
}

scenario! {
    fn a_remote_is_followed(host: with_nginx) {
        let repo = followed(host, ORIGIN);
        assert_eq!(served(host).0, "one");
        for (word, generation) in [("two", 2), ("three", 3)] {
            let commit = offer(host, &repo, word);
            wait_for_live(host, &repo, &commit);
            assert_eq!((served(host).0.as_str(), host.status()["generation"].as_u64()), (word, Some(generation)));
            let Some(live) = records(host, "live").pop() else { panic!("a record") };
            assert_eq!((live["actor"].as_str(), live["commit"].as_str()), (Some("pull:origin"), Some(commit.as_str())));
            let told = remote(host, "origin");
            assert_eq!((told["tip"].as_str(), told["error"].as_str()), (Some(commit.as_str()), None), "{told}");
            let _ = host.ctl("status").fails(0).says(&format!("origin: {}, answered 20", &commit[..12]));
            let log = host.read("/var/lib/reconciled/audit/audit.jsonl");
            three_polls(host, "origin");
            assert_eq!(host.read("/var/lib/reconciled/audit/audit.jsonl"), log, "a poll without news leaves no record");
            host.exec("systemctl restart reconciled").ok(); // it goes on after that
        }
    }
}

scenario! {
    fn sync_fetches_first_and_waits(host: with_nginx) {
        let repo = followed(host, &ORIGIN.replace("1s", "1h"));
        let two = offer(host, &repo, "two");
        let _ = host.ctl("sync").fails(0).says(&format!("~ file:{SITE} (content)")).says("ok    probe site: ").says("success: ");
        assert_live(host, &repo, &two);
        assert_eq!(served(host).0, "two");
        let _ = host.ctl("sync").fails(0).says("nothing to do");

        // What goes wrong with the remote is not hidden by the rest of the cycle, nor in its way.
        repo.write(SITE_IN_GIT, bad_gateway()).commit();
        publish(host, &repo, "shop");
        host.exec(&format!("rm {SITE}")).ok();
        let _ = host.ctl("sync").fails(1).says("got 502");
        assert_eq!((held(host), served(host).0.as_str()), (Some(repo.head()), "two"));
        host.exec("systemctl stop forge").ok();
        host.exec(&format!("rm {SITE}")).ok();
        let _ = host.ctl("sync").fails(1).says("remote origin: git fetch: ").says("unable to connect").says(&format!("+ file:{SITE} (new)"));
        assert_eq!(served(host).0, "two");
        open_forge(host);
        let three = offer(host, &repo, "three");
        host.ctl("sync").ok();
        assert_live(host, &repo, &three);
    }
}

scenario! {
    fn a_broken_tip_is_held_and_not_tried_again(host: with_nginx) {
        let repo = followed(host, &format!("look_interval = \"1s\"\n{ORIGIN}"));
        let one = repo.head();
        let wait_for_held = |commit: &str| host.wait_until("it is held", || held(host).as_deref() == Some(commit));
        repo.write(SITE_IN_GIT, bad_gateway());
        let bad = repo.commit();
        publish(host, &repo, "shop");
        wait_for_held(&bad);
        assert_eq!(records(host, "rolled-back").pop().map(|r| r["actor"].clone()), Some("pull:origin".into()));
        let errors = host.exec("journalctl --no-pager -q -u reconciled -p err -o cat").ok();
        assert!(errors.contains("got 502"), "nobody waits, so the journal says it: {errors}");
        let told = told_of(host, &bad);
        three_polls(host, "origin");
        host.exec("systemctl restart reconciled").ok();
        three_polls(host, "origin");
        assert_eq!(told_of(host, &bad), told, "it is not tried again");
        assert_eq!((remote(host, "origin")["tip"].as_str(), served(host).0.as_str()), (Some(bad.as_str()), "one"));
        assert_live(host, &repo, &one);
        host.exec(&format!("rm {SITE}")).ok();
        host.wait_until("drift is healed meanwhile", || host.exists(SITE) && records(host, "drift-repaired").len() == 1);
        assert_eq!((told_of(host, &bad), held(host)), (told, Some(bad)));

        // Two revisions with the same mistake are two decisions.
        write_shop(&repo, "two");
        for _ in 0..2 {
            repo.write("reconciled.toml", format!("{MANIFEST}\n[surprise]\n"));
            let wrong = repo.commit();
            publish(host, &repo, "shop");
            wait_for_held(&wrong);
            three_polls(host, "origin");
            assert_eq!(records(host, "refused").iter().filter(|r| r["commit"] == wrong.as_str()).count(), 1, "on record, once");
        }
        let better = offer(host, &repo, "two");
        wait_for_live(host, &repo, &better);
        assert_eq!((served(host).0.as_str(), held(host)), ("two", None));

        // Nobody has to build on what never was live.
        repo.write(SITE_IN_GIT, "server {").commit();
        publish(host, &repo, "shop");
        wait_for_held(&repo.head());
        repo.git(&["reset", "--quiet", "--hard", &better]).ok();
        let best = offer(host, &repo, "three");
        wait_for_live(host, &repo, &best);
        assert!(records(host, "alarm").is_empty());
    }
}

scenario! {
    fn a_remote_that_does_not_answer_changes_nothing(host: with_nginx) {
        let repo = followed(host, ORIGIN);
        let one = repo.head();
        host.exec("systemctl stop forge").ok();
        wait_for_error(host, "origin", "unable to connect");
        assert_live(host, &repo, &one);
        let told = remote(host, "origin");
        assert!(told["tip"] == one.as_str() && told["answered"].is_string(), "what it said last is still there: {told}");
        let _ = host.ctl("status").fails(0).says("unable to connect");
        assert_eq!((served(host).0.as_str(), held(host), records(host, "refused").len()), ("one", None, 0));
        let two = offer(host, &repo, "two");
        open_forge(host);
        wait_for_live(host, &repo, &two);
        assert_eq!(remote(host, "origin")["error"], Value::Null);

        // git runs as `reconciled`, and takes a repository on the host from nobody else (safe.directory, git-config(1)).
        host.sh("cp -r /srv/forge/shop.git /srv/local.git; git init --quiet --bare /srv/empty.git; chown -R reconciled /srv/empty.git").ok();
        for (url, why) in [
            ("git://127.0.0.1/none.git", "not exported"), ("/srv/none.git", "'/srv/none.git' does not appear to be a git repository"),
            ("/srv/empty.git", "couldn't find remote ref refs/heads/main"), ("nobody@127.0.0.1:none.git", "Host key verification failed"),
            ("/srv/local.git", "dubious ownership in repository at '/srv/local.git'"),
        ] {
            follow(host, &ORIGIN.replace("git://127.0.0.1/shop.git", url));
            wait_for_error(host, "origin", why);
            assert_live(host, &repo, &two);
        }
        host.exec("chown -R reconciled /srv/local.git").ok();
        host.wait_until("it is taken", || remote(host, "origin")["error"].is_null());
    }
}

scenario! {
    fn a_rewritten_history_is_an_alarm_once_and_not_followed(host: with_nginx) {
        let repo = followed(host, ORIGIN);
        let one = repo.head();
        let two = offer(host, &repo, "two");
        wait_for_live(host, &repo, &two);
        repo.git(&["reset", "--quiet", "--hard", &one]).ok();
        write_shop(&repo, "fork");
        for (commit, what, alarms) in [(repo.commit(), "was rewritten", 1), (one, "went back", 2)] {
            repo.git(&["reset", "--quiet", "--hard", &commit]).ok();
            publish(host, &repo, "shop");
            wait_for_error(host, "origin", what);
            three_polls(host, "origin");
            let _ = host.ctl("sync").fails(1).says(what);
            let _ = host.ctl("status").says(what);
            let told = records(host, "alarm");
            assert_eq!(told.len(), alarms, "{told:?}");
            let last = &told[alarms - 1];
            assert_eq!((last["actor"].as_str(), last["commit"].as_str()), (Some("pull:origin"), Some(commit.as_str())));
            assert!(last["reason"].as_str().is_some_and(|reason| reason.contains(what)), "{last}");
            let loud = host.exec("journalctl --no-pager -q -u reconciled -p err -o cat").ok();
            assert_eq!(loud.lines().filter(|line| line.contains("ALARM: ")).count(), alarms, "{loud}");
            assert_eq!((served(host).0.as_str(), held(host)), ("two", None));
            assert_live(host, &repo, &two);
        }
        // The same news after a while without an answer, or after a restart, is no news.
        host.exec("systemctl stop forge").ok();
        wait_for_error(host, "origin", "unable to connect");
        open_forge(host);
        wait_for_error(host, "origin", "went back");
        assert_eq!(records(host, "alarm").len(), 2);

        repo.git(&["reset", "--quiet", "--hard", &two]).ok();
        let three = offer(host, &repo, "three");
        wait_for_live(host, &repo, &three);
        assert_eq!((remote(host, "origin")["error"].as_str(), records(host, "alarm").len()), (None, 2));
    }
}

scenario! {
    fn two_remotes_serve_one_host(host: with_nginx) {
        follow(host, &format!("{ORIGIN}{ORIGIN}"));
        let _ = host.ctl("validate --settings").fails(2).says("a `name` of its own");
        let repo = followed(host, ORIGIN);
        publish(host, &repo, "mirror");
        follow(host, &format!("{ORIGIN}{MIRROR}"));
        three_polls(host, "mirror");
        // One that lags behind has not gone back.
        let two = offer(host, &repo, "two");
        wait_for_live(host, &repo, &two);
        three_polls(host, "mirror");
        assert_eq!((remote(host, "mirror")["error"].as_str(), records(host, "alarm").len()), (None, 0));
        // Either brings news.
        write_shop(&repo, "three");
        let three = repo.commit();
        publish(host, &repo, "mirror");
        wait_for_live(host, &repo, &three);
        assert_eq!(records(host, "live").pop().map(|r| r["actor"].clone()), Some("pull:mirror".into()));
        // Where they part, the first is followed; the other is told why, once, until it builds on what is live.
        let four = offer(host, &repo, "four");
        wait_for_live(host, &repo, &four);
        repo.git(&["reset", "--quiet", "--hard", &three]).ok();
        repo.write(SITE_IN_GIT, site("aside"));
        let aside = repo.commit();
        publish(host, &repo, "mirror");
        host.wait_until("it is refused", || told_of(host, &aside) > 0);
        three_polls(host, "mirror");
        assert_eq!((told_of(host, &aside), served(host).0.as_str()), (1, "four"));
        assert!(remote(host, "mirror")["error"].as_str().is_some_and(|e| e.contains("does not build on")), "{}", remote(host, "mirror"));
        assert_eq!((remote(host, "origin")["error"].as_str(), held(host)), (None, None));
        repo.git(&["merge", "--quiet", "--strategy=ours", "-m", "both", &four]).ok();
        publish(host, &repo, "mirror");
        wait_for_live(host, &repo, &repo.head());
        assert_eq!((served(host).0.as_str(), remote(host, "mirror")["error"].as_str()), ("aside", None));
    }
}

scenario! {
    fn a_host_is_pushed_to_besides_and_paused(host: with_nginx) {
        let repo = open_shop(host, "one");
        open_forge(host);
        publish(host, &repo, "shop");
        follow(host, &format!("look_interval = \"1s\"\n{ORIGIN}"));
        three_polls(host, "origin");
        write_shop(&repo, "pushed");
        let pushed = repo.commit_and_push();
        pushed.assert_live();
        three_polls(host, "origin");
        assert_eq!((remote(host, "origin")["error"].as_str(), records(host, "alarm").len()), (None, 0), "it has not gone back");

        host.ctl("pause hands off").ok();
        let two = offer(host, &repo, "two");
        host.wait_until("it is seen", || remote(host, "origin")["tip"] == two.as_str());
        three_polls(host, "origin");
        assert!(told_of(host, &two) <= 1, "that it waits is said once: {:?}", records(host, "refused"));
        assert_live(host, &repo, &pushed.commit);
        host.ctl("resume").ok();
        wait_for_live(host, &repo, &two);
        assert_eq!(served(host).0, "two");
    }
}
