//! Pull mode, from the installed package: a host follows the branch of a forge, forward only, and says so where it cannot.
//! The forge is a `git daemon` of the host itself.

use reconciled_tests::{Host, Repo, scenario};
use serde_json::Value;

use crate::shop::{MANIFEST, SITE, SITE_IN_GIT, assert_live, audit, bad_gateway, held, served, site, status_of, write_shop};

/// The forge's repository is asked every second.
const ORIGIN: &str = "[[remote]]\nurl = \"git://127.0.0.1/shop.git\"\ninterval = \"1s\"\n";
/// So is a second one, of another name.
const MIRROR: &str = "[[remote]]\nname = \"mirror\"\nurl = \"git://127.0.0.1/mirror.git\"\ninterval = \"1s\"\n";

/// Starts the forge, which has a repository already.
#[track_caller]
fn open_forge(host: &Host) {
    let serve = "git daemon --export-all --reuseaddr --base-path=/srv/forge --listen=127.0.0.1";
    host.exec(&format!("systemd-run --quiet --collect --unit=forge {serve}")).ok();
    host.wait_until("the forge answers", || host.exec("git ls-remote git://127.0.0.1/shop.git").code == 0);
}

/// Makes what the work tree is at the `main` of a repository of the forge, whatever stood there.
#[track_caller]
fn publish(host: &Host, repo: &Repo, name: &str) {
    repo.git(&["bundle", "create", "--quiet", "../bundle", "HEAD"]).ok();
    let bundle = std::fs::read(repo.path().join("../bundle")).expect("a bundle");
    let take = "cat >/root/in; git init --quiet --bare \"$0\"; git -C \"$0\" fetch --quiet /root/in +HEAD:refs/heads/main";
    host.exec_with(&["sh", "-ec", take, &format!("/srv/forge/{name}.git")], &bundle).ok();
}

/// Commits a shop with this site and publishes it.
#[track_caller]
fn offer(host: &Host, repo: &Repo, site: &str) -> String {
    repo.write("reconciled.toml", MANIFEST).write(SITE_IN_GIT, site);
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

/// A host where the shop is live with the word `one`, pulled from a forge that it goes on to follow.
#[track_caller]
fn followed(host: &Host, settings: &str) -> Repo {
    let repo = host.clone_repo();
    let one = offer(host, &repo, &site("one"));
    open_forge(host);
    follow(host, settings);
    wait_for_live(host, &repo, &one);
    repo
}

#[track_caller]
fn wait_for_live(host: &Host, repo: &Repo, commit: &str) {
    host.wait_until(&format!("{commit} is live"), || status_of(host, "live").as_deref() == Some(commit));
    assert_live(host, repo, commit);
}

/// A field of what `status --json` says of a remote; none where it is null.
#[track_caller]
fn remote(host: &Host, name: &str, field: &str) -> Option<String> {
    host.status()["remotes"][name][field].as_str().map(str::to_owned)
}

#[track_caller]
fn wait_for_error(host: &Host, name: &str, words: &str) {
    host.wait_until(&format!("{name}: {words}"), || remote(host, name, "error").is_some_and(|error| error.contains(words)));
}

/// Waits until a remote has answered three times more.
#[track_caller]
fn three_polls(host: &Host, name: &str) {
    let answered = || remote(host, name, "answered");
    for _ in 0..3 {
        let last = answered();
        host.wait_until(&format!("one more answer of {name}"), || answered() != last);
    }
}

/// The records of one event, oldest first.
#[track_caller]
fn records(host: &Host, event: &str) -> Vec<Value> {
    audit(host).into_iter().filter(|r| r["event"] == event).collect()
}

/// The events on record about a commit, oldest first.
#[track_caller]
fn events_of(host: &Host, commit: &str) -> Vec<String> {
    audit(host).iter().filter(|r| r["commit"] == commit).filter_map(|r| r["event"].as_str().map(str::to_owned)).collect()
}

scenario! {
    fn a_remote_is_followed(host: with_nginx) {
        let repo = followed(host, &format!("look_interval = \"1s\"\n{ORIGIN}"));
        assert_eq!(served(host).0, "one");
        for word in ["two", "three"] {
            let commit = offer(host, &repo, &site(word));
            wait_for_live(host, &repo, &commit);
            assert_eq!(served(host).0, word);
            let Some(live) = records(host, "live").pop() else { panic!("a record") };
            assert_eq!((live["actor"].as_str(), live["commit"].as_str()), (Some("pull:origin"), Some(commit.as_str())));
            assert_eq!(remote(host, "origin", "error"), None);
            let _ = host.ctl("status").fails(0).says(&format!("origin: {}, answered 20", &commit[..12]));
            let before = audit(host);
            three_polls(host, "origin");
            assert_eq!(audit(host), before, "a poll without news leaves no record");
            host.exec("systemctl restart reconciled").ok(); // it goes on after that
        }

        let three = repo.head();
        host.ctl("pause hands off").ok();
        let four = offer(host, &repo, &site("four"));
        host.wait_until("it is seen", || remote(host, "origin", "tip").as_deref() == Some(&four));
        three_polls(host, "origin");
        assert!(events_of(host, &four).len() <= 1, "that it waits is said once: {:?}", records(host, "refused"));
        assert_live(host, &repo, &three);
        host.ctl("resume").ok();
        wait_for_live(host, &repo, &four);
    }
}

scenario! {
    fn sync_fetches_first_and_waits(host: with_nginx on bookworm) {
        let repo = followed(host, &ORIGIN.replace("1s", "1h"));
        let two = offer(host, &repo, &site("two"));
        let _ = host.ctl("sync").fails(0).says(&format!("~ file:{SITE} (content)")).says("ok    probe site: ").says("success: ");
        assert_live(host, &repo, &two);
        assert_eq!(served(host).0, "two");
        let _ = host.ctl("sync").fails(0).says("nothing to do");

        // What is wrong with a remote neither hides behind the rest of the cycle nor keeps it from healing.
        let heals = format!("+ file:{SITE} (new)");
        let bad = offer(host, &repo, &bad_gateway());
        let _ = host.ctl("sync").fails(1).says("got 502");
        host.exec("systemctl stop forge").ok();
        host.exec(&format!("rm {SITE}")).ok();
        let _ = host.ctl("sync").fails(1).says("remote origin: git fetch: ").says("unable to connect").says(&heals);
        assert_eq!((held(host), served(host).0.as_str()), (Some(bad), "two"));
        open_forge(host);
        let three = offer(host, &repo, &site("three"));
        host.ctl("sync").ok();
        assert_live(host, &repo, &three);
    }
}

scenario! {
    fn a_broken_tip_is_held_and_not_tried_again(host: with_nginx on bookworm) {
        let repo = followed(host, &format!("look_interval = \"1s\"\n{ORIGIN}"));
        let one = repo.head();
        let wait_for_held = |commit: &str| host.wait_until("it is held", || held(host).as_deref() == Some(commit));
        let bad = offer(host, &repo, &bad_gateway());
        wait_for_held(&bad);
        let tried = events_of(host, &bad);
        assert_eq!(tried[..2], ["intent", "rolled-back"]);
        assert_eq!(records(host, "rolled-back")[0]["actor"], "pull:origin");
        let errors = host.exec("journalctl --no-pager -q -u reconciled -p err -o cat").ok();
        assert!(errors.contains("got 502"), "nobody waits for it, so the journal says it: {errors}");
        three_polls(host, "origin");
        host.exec("systemctl restart reconciled").ok();
        three_polls(host, "origin");
        host.exec(&format!("rm {SITE}")).ok();
        host.wait_until("drift is healed meanwhile", || !records(host, "drift-repaired").is_empty());
        three_polls(host, "origin");
        assert_eq!((events_of(host, &bad), held(host)), (tried, Some(bad)), "it is not tried again");
        assert_live(host, &repo, &one);
        assert_eq!(served(host).0, "one");

        // The same mistake once more is another revision's, and on record.
        repo.write("reconciled.toml", format!("{MANIFEST}\n[surprise]\n"));
        for _ in 0..2 {
            let wrong = repo.commit();
            publish(host, &repo, "shop");
            wait_for_held(&wrong);
            three_polls(host, "origin");
            assert_eq!(events_of(host, &wrong).iter().filter(|event| *event == "refused").count(), 1, "{wrong}");
        }
        let better = offer(host, &repo, &site("two"));
        wait_for_live(host, &repo, &better);
        assert_eq!((served(host).0.as_str(), held(host)), ("two", None));
    }
}

scenario! {
    fn a_remote_that_does_not_answer_changes_nothing(host: with_nginx on bookworm) {
        let repo = followed(host, ORIGIN);
        let (one, before) = (repo.head(), audit(host));
        host.exec("systemctl stop forge").ok();
        wait_for_error(host, "origin", "unable to connect");
        assert_eq!(remote(host, "origin", "tip"), Some(one.clone()), "what it said last");
        let _ = host.ctl("status").fails(0).says("unable to connect");
        assert_live(host, &repo, &one);
        assert_eq!((served(host).0.as_str(), audit(host)), ("one", before));
        let two = offer(host, &repo, &site("two"));
        open_forge(host);
        wait_for_live(host, &repo, &two);
        assert_eq!(remote(host, "origin", "error"), None);

        // git runs as `reconciled`, and takes a repository of this host from nobody else (safe.directory, git-config(1)).
        host.sh("cp -r /srv/forge/shop.git /srv/ours.git; git init -q --bare /srv/empty.git; chown -R reconciled /srv/empty.git").ok();
        for (url, why) in [
            ("git://127.0.0.1/none.git", "not exported"), ("/srv/none.git", "'/srv/none.git' does not appear to be a git repository"),
            ("/srv/empty.git", "couldn't find remote ref refs/heads/main"), ("git@127.0.0.1:none.git", "host key is known"),
            ("/srv/ours.git", "dubious ownership in repository at '/srv/ours.git'"),
        ] {
            follow(host, &ORIGIN.replace("git://127.0.0.1/shop.git", url));
            wait_for_error(host, "origin", why);
            assert_live(host, &repo, &two);
        }
        host.exec("chown -R reconciled /srv/ours.git").ok();
        host.wait_until("it is taken", || remote(host, "origin", "error").is_none());
    }
}

scenario! {
    fn a_rewritten_history_is_an_alarm_once_and_not_followed(host: with_nginx on bookworm) {
        let repo = followed(host, ORIGIN);
        let one = repo.head();
        let two = offer(host, &repo, &site("two"));
        wait_for_live(host, &repo, &two);
        repo.git(&["reset", "--quiet", "--hard", &one]).ok();
        repo.write(SITE_IN_GIT, site("fork"));
        for (commit, what, alarms) in [(repo.commit(), "was rewritten", 1), (one, "went back", 2)] {
            repo.git(&["reset", "--quiet", "--hard", &commit]).ok();
            publish(host, &repo, "shop");
            wait_for_error(host, "origin", what);
            three_polls(host, "origin");
            let _ = host.ctl("sync").fails(1).says(what);
            let _ = host.ctl("status").says(what);
            assert_eq!((events_of(host, &commit).pop(), records(host, "alarm").len()), (Some("alarm".to_owned()), alarms));
            let loud = host.exec("journalctl --no-pager -q -u reconciled -p err -o cat").ok();
            assert_eq!(loud.lines().filter(|line| line.contains("ALARM: ")).count(), alarms, "{loud}");
            assert_eq!((served(host).0.as_str(), held(host)), ("two", None));
            assert_live(host, &repo, &two);
        }
        host.exec("systemctl stop forge").ok();
        wait_for_error(host, "origin", "unable to connect");
        open_forge(host);
        wait_for_error(host, "origin", "went back");
        assert_eq!(records(host, "alarm").len(), 2, "the same again after a silence is no news");
        repo.git(&["reset", "--quiet", "--hard", &two]).ok();
        let three = offer(host, &repo, &site("three"));
        wait_for_live(host, &repo, &three);
        assert_eq!((remote(host, "origin", "error"), records(host, "alarm").len()), (None, 2));
    }
}

scenario! {
    fn two_remotes_and_a_push_serve_one_host(host: with_nginx on bookworm) {
        follow(host, &format!("{ORIGIN}{ORIGIN}"));
        let _ = host.ctl("validate --settings").fails(2).says("a `name` of its own");
        let repo = followed(host, ORIGIN);
        publish(host, &repo, "mirror");
        follow(host, &format!("{ORIGIN}{MIRROR}"));
        three_polls(host, "mirror");
        write_shop(&repo, "two");
        repo.commit_and_push().assert_live();
        for name in ["origin", "mirror"] {
            three_polls(host, name);
            assert_eq!(remote(host, name, "error"), None, "{name} lags, and has not gone back");
        }
        assert_eq!(records(host, "alarm").len(), 0);
        write_shop(&repo, "three");
        let three = repo.commit();
        publish(host, &repo, "mirror");
        wait_for_live(host, &repo, &three);
        assert_eq!(records(host, "live").pop().map(|r| r["actor"].clone()), Some("pull:mirror".into()));

        // Where they part, the first is followed; the other is refused, once, until it builds on what is live.
        let four = offer(host, &repo, &site("four"));
        wait_for_live(host, &repo, &four);
        repo.git(&["reset", "--quiet", "--hard", &three]).ok();
        repo.write(SITE_IN_GIT, site("aside"));
        let aside = repo.commit();
        publish(host, &repo, "mirror");
        host.wait_until("it is refused", || !events_of(host, &aside).is_empty());
        three_polls(host, "mirror");
        assert_eq!((events_of(host, &aside), served(host).0.as_str(), held(host)), (vec!["refused".to_owned()], "four", None));
        wait_for_error(host, "mirror", "does not build on");
        assert_eq!(remote(host, "origin", "error"), None);
        repo.git(&["merge", "--quiet", "--strategy=ours", "-m", "both", &four]).ok();
        publish(host, &repo, "mirror");
        wait_for_live(host, &repo, &repo.head());
        assert_eq!((served(host).0.as_str(), remote(host, "mirror", "error")), ("aside", None));
    }
}
