//! `git push`, as the pusher sees it: live, refused, rolled back, held, joined, waited for, previewed; and what a key may not do.

use reconciled_tests::{Host, Pushing, Repo, scenario};

use crate::shop::{
    GATE, MANIFEST, SITE, SITE_IN_GIT, assert_live, audit, bad_gateway, held, nginx, open_shop, served, site, write_shop,
};

/// What every push of the shop prints between the plan and the end, in this order.
const GUARD_LINE: &str = "ok    guard nginx: /usr/sbin/nginx -t -q";

/// Insists that these stand in the text, in this order.
#[track_caller]
fn in_order(text: &str, wanted: &[&str]) {
    let mut rest = text;
    for word in wanted {
        let at = rest.find(word).unwrap_or_else(|| panic!("expected {word:?} after what goes before it, in\n{text}"));
        rest = &rest[at + word.len()..];
    }
}

/// A gate that is shut: a push that waits for it stays in flight until [`open_gate`].
fn gated(repo: &Repo, word: &str) {
    repo.write("reconciled.toml", format!("{MANIFEST}{GATE}")).write(SITE_IN_GIT, site(word));
}

/// Starts a push of what was committed, and comes back when it waits for the gate.
fn start_gated(host: &Host, repo: &Repo) -> Pushing {
    let mut push = repo.start_push(&["HEAD:refs/heads/main"]);
    push.until("ok    reload nginx.service");
    crate::shop::wait_for_phase(host, "probing");
    push
}

fn open_gate(host: &Host) {
    host.exec("touch /run/gate").ok();
}

scenario! {
    fn the_first_push_goes_live_and_says_how(host: installed) {
        let said = host.ctl("init").ok();
        in_order(&said, &["/var/lib/reconciled/git/host.git", "key add", &format!("reconciled@{}:host.git", host.name()), "git push"]);
        let repo = host.clone_repo();
        assert_eq!(repo.remote_main(), None);
        write_shop(&repo, "one");
        let push = repo.commit_and_push();
        push.assert_live();
        in_order(&push.output, &[
            &format!("+ file:{SITE} (new)"), "~ unit:nginx.service", GUARD_LINE,
            "ok    probe site: ", "200", "success: live and healthy: generation 1", "ms: read ", "plan ", "rehearse ", "apply ", "probe ", "commit ",
        ]);
        assert_live(host, &repo, &push.commit);
        assert_eq!(served(host).0, "one");
        assert_eq!(host.exec("systemctl is-enabled nginx").ok(), "enabled");
        let status = host.status();
        assert_eq!((status["phase"].as_str(), status["generation"].as_u64()), (Some("idle"), Some(1)), "{status}");
        assert!(status["held"].is_null() && status["desired"] == status["live"], "{status}");
        host.ctl("status").ok();
        let log = audit(host);
        let [.., intent, live] = log.as_slice() else { panic!("two records at least") };
        assert_eq!((intent["event"].as_str(), live["event"].as_str()), (Some("intent"), Some("live")));
        assert_eq!((live["actor"].as_str(), live["commit"].as_str()), (Some("alice"), Some(push.commit.as_str())));

        repo.push().assert_live(); // git itself says that everything is up to date
        let again = repo.commit_and_push(); // another commit with the same tree
        again.assert_live();
        assert_live(host, &repo, &again.commit);
    }
}

scenario! {
    fn a_change_is_shown_with_sign_resource_and_reason(host: with_nginx on trixie) {
        let repo = host.clone_repo();
        write_shop(&repo, "one");
        repo.write("files/srv/shop/a", "1\n").write("files/srv/shop/gone", "1\n").commit_and_push().assert_live();
        let old = nginx(host);
        write_shop(&repo, "two");
        repo.write("files/srv/shop/a", "1\n").executable("files/srv/shop/a").remove("files/srv/shop/gone");
        let push = repo.commit_and_push();
        push.assert_live().says(&format!("~ file:{SITE} (content)")).says("~ file:/srv/shop/a (mode 0644 → 0755)").says("- file:/srv/shop/gone (left the repository)");
        push.says("! reload nginx.service").says(GUARD_LINE);
        assert_eq!(served(host).0, "two");
        let new = nginx(host);
        assert_eq!(old[0], new[0], "a reload, not a restart");
        assert!(old[1..].iter().all(|worker| !new.contains(worker)), "new workers: {old:?} {new:?}");
        assert!(!host.exists("/srv/shop/gone"));
    }
}

scenario! {
    fn a_refused_push_leaves_branch_and_host(host: with_nginx on trixie) {
        let repo = open_shop(host, "one");
        let (live, before) = (repo.head(), nginx(host));
        repo.write(SITE_IN_GIT, "server { listen 80; nonsense on; }\n");
        let push = repo.commit_and_push();
        push.assert_refused("unknown directive \"nonsense\"").says("refused, nothing was touched").says("guard nginx");
        push.says("! [remote rejected] HEAD -> main (refused: guard nginx:");
        assert_live(host, &repo, &live);
        assert_eq!(nginx(host), before);
        assert_eq!(served(host).0, "one");
        assert_eq!(held(host), Some(push.commit.clone()));
        // On record with what was planned and which guard said no, to be found by the path.
        let log = audit(host);
        let Some(refused) = log.last() else { panic!("an audit log") };
        assert_eq!((refused["event"].as_str(), refused["guards"][0]["passed"].as_bool()), (Some("refused"), Some(false)), "{refused}");
        assert!(refused["changes"][0]["diff"].as_str().is_some_and(|diff| diff.contains("+server { listen 80; nonsense on; }")), "{refused}");
        assert!(refused["stages"].as_array().is_some_and(|stages| stages.len() == 3) && refused["wakes"][0] == format!("reload nginx.service (/{SITE} changed)").replace("//", "/").as_str(), "{refused}");
        let by_path = host.ctl(&format!("audit log --outcome refused --path {SITE}")).ok();
        assert!(by_path.contains(&push.commit[..12]) && by_path.lines().count() == 1, "{by_path}");

        write_shop(&repo, "two"); // a held parent does not hold its child
        repo.commit_and_push().assert_live();
        assert_eq!((served(host).0.as_str(), held(host)), ("two", None));
    }
}

scenario! {
    fn a_502_is_rolled_back_to_processes_that_serve_the_old_body(host: with_nginx) {
        let repo = open_shop(host, "one");
        let (live, before) = (repo.head(), nginx(host));
        repo.write(SITE_IN_GIT, bad_gateway());
        let push = repo.commit_and_push();
        let wanted = "site: wanted 200, got 502 (GET http://127.0.0.1/ Host: shop)";
        push.assert_refused(wanted);
        in_order(&push.output, &[
            &format!("~ file:{SITE} (content)"), GUARD_LINE, "error: probe site: wanted 200, got 502", "ok    probe after the rollback: site",
            "rolled back to generation 1", wanted, "[remote rejected]", "(rolled back: ",
        ]);
        assert_live(host, &repo, &live);

        // The exchange that put the file back changed its inode: every process that serves now is younger.
        let restored = host.exec_with(&["stat", "-c", "%.Z", SITE], b"").ok();
        let (word, worker) = served(host);
        assert_eq!(word, "one");
        let after = nginx(host);
        assert_eq!(before[0], after[0], "the master was reloaded, not restarted");
        assert!(after[1..].iter().any(|line| line.starts_with(&format!("{worker} "))), "{worker} is one of {after:?}");
        let age = "import sys, time; r = float(sys.argv[1]); now = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)\n\
                   for t in sys.argv[2:]: print('newer' if now + (int(t) + 1) / 100 >= r else 'OLDER', now + int(t) / 100 - r)";
        let ticks = after[1..].iter().filter_map(|line| line.split(' ').nth(1));
        let words: Vec<&str> = ["python3", "-c", age, &restored].into_iter().chain(ticks).collect();
        let ages = host.exec_with(&words, b"").ok();
        assert!(!ages.is_empty() && ages.lines().all(|line| line.starts_with("newer")), "workers and the restore: {ages}");
        assert!(after[1..].iter().all(|worker| !before.contains(worker)), "no worker of before the push: {before:?} {after:?}");

        // Loud: in the status and its exit code, in systemd's, in the journal, in the audit log.
        let _ = host.ctl("status").fails(1).says("held").says(&push.commit).says("got 502");
        assert_eq!(held(host), Some(push.commit.clone()));
        let text = host.exec("systemctl show -P StatusText reconciled").ok();
        assert!(text.contains("HELD") && text.contains("got 502") && text.contains(&push.commit[..12]), "{text}");
        let errors = host.exec("journalctl --no-pager -q -u reconciled -p err -o cat").ok();
        assert!(errors.contains("got 502"), "the journal at level error: {errors}");
        let log = audit(host);
        let Some(last) = log.last() else { panic!("an audit log") };
        assert_eq!((last["event"].as_str(), last["commit"].as_str()), (Some("rolled-back"), Some(push.commit.as_str())), "{last}");
    }
}

scenario! {
    fn a_held_revision_is_not_tried_again_until_retry(host: with_nginx on trixie) {
        let repo = open_shop(host, "one");
        let live = repo.head();
        repo.write(SITE_IN_GIT, bad_gateway());
        let bad = repo.commit_and_push();
        bad.assert_refused("rolled back");
        let count = |host: &Host| audit(host).iter().filter(|r| r["event"] == "intent").count();
        let refuse_again = |when: &str| {
            let tried = count(host);
            let push = repo.push();
            push.assert_refused("is held since").says(&format!("reconcilectl retry {}", &bad.commit[..12]));
            assert_eq!(count(host), tried, "{when}: it is refused before anything is tried");
            assert_eq!((served(host).0.as_str(), held(host)), ("one", Some(bad.commit.clone())), "{when}");
            assert_live(host, &repo, &live);
        };
        refuse_again("at once");
        host.exec("systemctl restart reconciled").ok();
        refuse_again("after a restart of the daemon");
        host.reboot();
        host.wait_until("nginx is up", || host.http("/", "shop").status == 200);
        host.wait_until("the daemon is up", || host.ctl("history").code == 0);
        refuse_again("after a reboot");

        // The cause is mended: somebody answers behind the site.
        let _ = host.ctl("retry").fails(1).says("got 502");
        refuse_again("after a retry in vain");
        host.exec("systemd-run --quiet --unit=backend python3 -m http.server 8099 --directory /usr/share/nginx/html").ok();
        host.wait_until("the backend listens", || host.exec("curl -sf http://127.0.0.1:8099/").code == 0);
        let _ = host.ctl(&format!("retry {}", &bad.commit[..12])).says("success: live and healthy");
        assert_live(host, &repo, &bad.commit);
        assert_eq!(held(host), None);
        host.ctl("status").ok();
    }
}

scenario! {
    fn a_push_of_the_revision_in_flight_joins(host: with_nginx on trixie) {
        let repo = open_shop(host, "one");
        gated(&repo, "two");
        let commit = repo.commit();
        let first = start_gated(host, &repo);
        let mut second = repo.start_push(&["HEAD:refs/heads/main"]);
        second.until("joined");
        open_gate(host);
        for push in [first.wait(), second.wait()] {
            push.assert_live().says("success: live and healthy: generation 2");
        }
        assert_live(host, &repo, &commit);
        assert_eq!(audit(host).iter().filter(|r| r["event"] == "live").count(), 2, "it was applied once");
    }
}

scenario! {
    fn a_second_push_waits_and_a_third_takes_its_place(host: with_nginx on trixie) {
        let repo = open_shop(host, "one");
        gated(&repo, "two");
        let two = repo.commit();
        let first = start_gated(host, &repo);
        gated(&repo, "three");
        let three = repo.commit();
        let mut second = repo.start_push(&["HEAD:refs/heads/main"]);
        second.until(&format!("{} is being applied: waiting for it to end", &two[..12]));
        gated(&repo, "four");
        let four = repo.commit();
        let mut third = repo.start_push(&["HEAD:refs/heads/main"]);
        third.until("waiting for it to end");
        second.wait().assert_refused("a newer push took its place");
        assert_eq!(served(host).0, "two");
        open_gate(host);
        first.wait().assert_live();
        third.wait().assert_live();
        assert_live(host, &repo, &four);
        assert_eq!(served(host).0, "four");
        assert!(audit(host).iter().all(|r| r["commit"] != three.as_str()), "the one in between was never tried");
    }
}

scenario! {
    fn a_waiting_push_is_judged_against_the_branch_as_it_stands_then(host: with_nginx on trixie) {
        let alice = open_shop(host, "one");
        let bob = host.clone_repo_as("bob", &[]);
        gated(&alice, "alice");
        alice.commit();
        let first = start_gated(host, &alice);
        write_shop(&bob, "bob");
        bob.commit();
        let mut second = bob.start_push(&["HEAD:refs/heads/main"]);
        second.until("waiting for it to end");
        open_gate(host);
        first.wait().assert_live();
        second.wait().assert_refused("does not build on the live revision");
        assert_eq!(served(host).0, "alice");
        assert_live(host, &bob, &alice.head());
        bob.git(&["pull", "--quiet", "--rebase", "-X", "theirs"]).ok();
        bob.push().assert_live();
        assert_eq!(served(host).0, "bob");
    }
}

scenario! {
    fn a_killed_client_does_not_stop_the_deploy(host: with_nginx on trixie) {
        let repo = open_shop(host, "one");
        gated(&repo, "two");
        let commit = repo.commit();
        let push = start_gated(host, &repo);
        push.kill();
        host.exec("pkill -KILL -f hooks/proc-receive").ok(); // nor does it need the hook
        assert_eq!(repo.remote_main(), Some(repo.git(&["rev-parse", "HEAD~"]).ok()), "not live yet");
        open_gate(host);
        crate::shop::wait_for_phase(host, "idle");
        assert_live(host, &repo, &commit);
        assert_eq!(served(host).0, "two");
    }
}

scenario! {
    fn history_is_neither_rewritten_nor_deleted(host: with_nginx on trixie) {
        let repo = open_shop(host, "one");
        write_shop(&repo, "two");
        let live = repo.commit_and_push();
        live.assert_live();
        let before = nginx(host);
        repo.git(&["reset", "--quiet", "--hard", "HEAD~"]).ok();
        repo.push_to(&["--force", "HEAD:refs/heads/main"]).assert_refused("does not build on the live revision");
        write_shop(&repo, "fork");
        repo.commit();
        repo.push_to(&["--force", "HEAD:refs/heads/main"]).assert_refused("a forced push is never accepted");
        assert_eq!(held(host), None, "the order was at fault, not the revision");
        repo.push_to(&[":refs/heads/main"]).assert_refused("main is not deleted");
        repo.push_to(&[":refs/heads/other"]).assert_refused("other");
        repo.git(&["tag", "v1", &live.commit]).ok();
        repo.git(&["tag", "-a", "-m", "x", "v2", &live.commit]).ok();
        let elsewhere = ["refs/tags/v1", "refs/tags/v2", "refs/notes/x", "refs/meta/config", "refs/for/main", "refs/remotes/o/x"];
        for place in elsewhere {
            let from = if place.starts_with("refs/tags") { place } else { "HEAD" };
            repo.push_to(&["--force", &format!("{from}:{place}")]).assert_refused("only branches are taken");
        }
        // One ref of several that is refused fails the push; the others get what they deserve.
        repo.push_to(&["--force", "HEAD:refs/notes/x", "HEAD:refs/heads/main"]).assert_refused("only branches are taken");
        let refs = host.exec("git --git-dir=/var/lib/reconciled/git/host.git -c safe.directory=* for-each-ref").ok();
        assert_eq!(refs, format!("{} commit\trefs/heads/main", live.commit), "nothing but main");
        assert_live(host, &repo, &live.commit);
        assert_eq!((served(host).0.as_str(), nginx(host)), ("two", before));
    }
}

scenario! {
    fn another_branch_is_a_preview(host: with_nginx on trixie) {
        let repo = open_shop(host, "one");
        let (live, before) = (repo.head(), nginx(host));
        write_shop(&repo, "two");
        repo.commit();
        let good = repo.push_to(&["HEAD:refs/heads/try/new"]);
        good.assert_live().says("try/new is a preview").says(&format!("~ file:{SITE} (content)")).says(GUARD_LINE);
        good.says("this would be accepted; nothing was applied");
        repo.write(SITE_IN_GIT, "server {");
        repo.commit();
        let bad = repo.push_to(&["HEAD:refs/heads/try/new"]);
        bad.assert_refused("guard nginx").says("[remote rejected] HEAD -> try/new (refused: ");
        assert_eq!(repo.git(&["ls-remote", "origin"]).ok().lines().count(), 2, "HEAD and main, no other ref is kept");
        assert_live(host, &repo, &live);
        assert_eq!((served(host).0.as_str(), nginx(host), held(host)), ("one", before, None));
        assert_eq!(audit(host).iter().filter(|r| r["event"] == "preview").count(), 1);

        // What a preview has refused is not held: on main it is judged by itself.
        write_shop(&repo, "two");
        repo.commit();
        repo.push_to(&["HEAD:refs/heads/again"]).assert_live();
        repo.push().assert_live();
        assert_eq!(served(host).0, "two");
    }
}

scenario! {
    fn a_preview_key_cannot_deploy(host: with_nginx on trixie) {
        let repo = open_shop(host, "one");
        let live = repo.head();
        let ci = host.clone_repo_as("ci", &["--preview"]);
        write_shop(&ci, "two");
        let commit = ci.commit();
        ci.push().assert_refused("ci may only preview");
        assert_live(host, &repo, &live);
        ci.push_to(&["HEAD:refs/heads/x"]).assert_live().says("guard nginx: deferred").says("may only preview");
        ci.write("reconciled.toml", "nonsense = 1\n").commit();
        ci.push().assert_refused("ci may only preview");
        ci.push_to(&["HEAD:refs/heads/x"]).assert_refused("nonsense");
        assert_eq!((held(host), crate::shop::status_of(host, "desired")), (None, Some(live)), "it decides nothing for others");

        // It takes no place from those who may deploy.
        gated(&repo, "gated");
        repo.commit();
        let first = start_gated(host, &repo);
        gated(&repo, "next");
        repo.commit();
        let mut second = repo.start_push(&["HEAD:refs/heads/main"]);
        second.until("waiting for it to end");
        ci.git(&["reset", "--quiet", "--hard", &commit]).ok();
        let mut third = ci.start_push(&["HEAD:refs/heads/main"]);
        third.until("waiting for it to end");
        open_gate(host);
        first.wait().assert_live();
        second.wait().assert_live();
        third.wait().assert_refused("may only preview");
        assert_eq!(served(host).0, "next");
    }
}

scenario! {
    fn a_key_may_do_nothing_but_git_on_this_repository(host: with_nginx) {
        let repo = open_shop(host, "one");
        host.sh("cp -a /var/lib/reconciled/git/host.git /var/lib/reconciled/git/other.git").ok();
        host.sh("install -d -o reconciled /srv/x && cp -a /var/lib/reconciled/git/host.git /srv/x/host.git").ok();
        let only = "this account only takes `git push` and `git fetch` of host.git";
        for command in [
            &["id"][..], &["git-upload-pack '/srv/x/host.git'"], &["git-upload-pack 'other.git'"], &["git-upload-pack '../git/other.git'"],
            &["git-upload-pack 'host.git'; id >&2"], &["git-upload-pack --help"], &["git-upload-archive 'host.git'"],
            &["git-receive-pack $(id)"], &["git upload-pack -c core.pager=id host.git"], &["git-shell"], &["scp -t /srv/x"],
            &["rsync --server . /srv/x"], &["/usr/lib/reconciled/hooks/proc-receive"], &[],
        ] {
            let done = repo.ssh(host, command).says(only);
            assert!(done.code != 0 && !done.text().contains("uid="), "{done}");
        }
        let done = repo.ssh(host, &["-tt"]);
        assert!(done.code != 0 && done.text().contains("PTY allocation request failed"), "{done}");
        let done = repo.ssh(host, &["-s", "sftp"]); // a subsystem's standard error stays with sshd
        assert!(done.code != 0 && done.stdout.is_empty(), "{done}");
        let done = repo.ssh(host, &["-N", "-W", "127.0.0.1:80"]);
        assert!(done.code != 0 && done.text().contains("forwarding failed"), "port forwarding: {done}");
        let done = repo.ssh(host, &["-o", "ExitOnForwardFailure=yes", "-R", "8123:127.0.0.1:22", "id"]);
        assert!(done.code != 0 && !done.text().contains("uid="), "remote forwarding: {done}");
        for protocol in ["-O", "-s"] {
            let done = repo.scp(host, &[protocol], &repo.key(), "/var/lib/reconciled/git/stolen");
            assert!(done.code != 0, "{done}");
        }
        assert!(!host.exists("/var/lib/reconciled/git/stolen"));
        // Nor may git be told to do more.
        let bend = ["--receive-pack=git-receive-pack --advertise-refs", "--receive-pack=id;git-receive-pack", "--exec=/bin/sh"];
        for option in bend {
            write_shop(&repo, "two");
            repo.commit();
            repo.push_to(&[option, "HEAD:refs/heads/main"]).assert_refused("only takes");
        }
        assert_eq!(served(host).0, "one");
        // A key that is taken away is out at once; another that is there stays.
        let bob = host.clone_repo_as("bob", &[]);
        let listed = host.ctl("key list").ok();
        assert!(listed.contains("alice") && listed.contains("bob"), "{listed}");
        host.ctl("key remove alice").ok();
        host.ctl("key remove alice").ok();
        assert!(!host.ctl("key list").ok().contains("alice"));
        repo.push().assert_refused("Permission denied");
        bob.git(&["fetch", "--quiet"]).ok();
    }
}

scenario! {
    fn a_push_fails_clearly_while_the_daemon_is_stopped(host: with_nginx on trixie) {
        let repo = open_shop(host, "one");
        let live = repo.head();
        host.exec("systemctl stop reconciled").ok();
        write_shop(&repo, "two");
        repo.commit_and_push().assert_refused("the daemon is not running").says("systemctl status reconciled");
        let _ = host.ctl("status").fails(3).says("the daemon is not running");
        assert_eq!((repo.remote_main(), served(host).0.as_str()), (Some(live), "one"));
        host.exec("systemctl start reconciled").ok();
        repo.push().assert_live();
        assert_eq!(served(host).0, "two");
    }
}

scenario! {
    fn a_first_generation_that_fails_gives_back_what_it_displaced(host: with_nginx on trixie) {
        host.write("/etc/shop/settings.ini", "a person's own\n");
        host.sh("chown nobody:www-data /etc/shop/settings.ini && chmod 0604 /etc/shop/settings.ini && chmod 0711 /etc/shop").ok();
        host.sh("ln -s nowhere /etc/shop/link && systemctl disable --quiet nginx").ok();
        let look = "find /etc/nginx /etc/shop /srv /etc/systemd/system -printf '%p %y %m %U %G %i %l' \\( -type d -printf '\\n' -o -printf ' %s %T@\\n' \\) | sort";
        let (before, workers) = (host.sh(look).ok(), nginx(host));
        let repo = host.clone_repo();
        repo.write("reconciled.toml", MANIFEST).write(SITE_IN_GIT, bad_gateway());
        repo.write("files/etc/nginx/sites-enabled/default", "# a file where Debian has a link\n");
        repo.symlink("files/etc/shop/settings.ini", "elsewhere").write("files/etc/shop/link", "a file where a link was\n");
        repo.write("files/srv/new/deep/file", "new\n");
        let push = repo.commit_and_push();
        push.assert_refused("rolled back to what stood here before").says("got 502");
        assert_eq!(repo.remote_main(), None);
        assert_eq!(host.sh(look).ok(), before, "inodes, modes, owners, links and all");
        assert_eq!(host.exec("systemctl is-enabled nginx").code, 1, "it is disabled as before");
        let after = nginx(host);
        assert!(after[1..].iter().all(|worker| !workers.contains(worker)), "{workers:?} {after:?}");
        assert!(host.http("/", "shop").body.contains("Welcome to nginx"), "Debian's own site");
        assert!(host.status()["live"].is_null());

        write_shop(&repo, "one"); // and the next one goes live
        repo.commit_and_push().assert_live();
        assert_eq!(served(host).0, "one");
    }
}

scenario! {
    fn without_probes_a_note_says_so(host: installed on trixie) {
        let repo = host.clone_repo();
        repo.write("files/etc/shop.conf", "x\n");
        repo.commit_and_push().assert_live().says("hint: no probes are declared");
        assert_eq!(host.read("/etc/shop.conf"), "x\n");
    }
}

scenario! {
    fn set_up_asks_nothing_and_may_be_repeated(host: installed on trixie) {
        let first = host.ctl("init").ok();
        assert_eq!(host.ctl("init").ok(), first);
        let head = host.read("/var/lib/reconciled/git/host.git/HEAD");
        assert_eq!(head.trim(), "ref: refs/heads/main");
        let repo = host.clone_repo();
        let key = std::fs::read(format!("{}.pub", repo.key())).expect("a public key");
        let add = |words: &[&str], key: &[u8]| host.exec_with(&[["reconcilectl", "key", "add"].as_slice(), words].concat(), key);
        add(&["alice"], &key).ok();
        assert_eq!(host.ctl("key list").ok().lines().count(), 1, "the same key again is one key");
        let _ = add(&["bob"], &key).fails(2).says("as alice");
        add(&["alice", "--preview"], &key).ok();
        write_shop(&repo, "one");
        repo.commit_and_push().assert_refused("may only preview");
        add(&["alice"], &key).ok();
        repo.push().assert_live();
        for (name, key, why) in [
            ("x", &b""[..], "no public key"), ("x", b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "private key"),
            ("x", b"command=\"id\" ssh-ed25519 AAAA", "not an accepted key type"), ("a b", &key, "letters, digits"), ("-x", &key, ""),
            ("x\nno-pty", &key, "letters, digits"), ("\"", &key, "letters, digits"),
        ] {
            let _ = add(&[name], key).fails(2).says(why);
        }
        host.ctl("key remove nobody").ok();
        let file = host.exec("stat -c %U:%G:%a /var/lib/reconciled/.ssh/authorized_keys /var/lib/reconciled/.ssh /var/lib/reconciled").ok();
        assert_eq!(file, "root:root:644\nroot:root:755\nroot:root:755", "the account cannot add keys");
        let _ = host.exec("runuser -u nobody -- reconcilectl init").fails(4).says("sudo");
        let _ = host.exec("runuser -u nobody -- reconcilectl key remove alice").fails(4).says("sudo");
    }
}
