//! The rehearsal: what a bad candidate must not do to the live host, and what counts as a bad one.

use reconciled_tests::scenario;

use crate::shop::look::{assert_untouched, quiet};
use crate::shop::{MANIFEST, SITE, SITE_IN_GIT, assert_live, held, library, open_shop, served, site, write_shop};

const UNIT: &str = "files/etc/systemd/system/shop.service";

fn unit(lines: &str) -> String {
    format!("[Unit]\nDescription=the shop\n[Service]\n{lines}\n[Install]\nWantedBy=multi-user.target\n")
}

scenario! {
    fn a_bad_nginx_file_leaves_no_trace(host: with_nginx) {
        let repo = open_shop(host, "one");
        let live = repo.head();
        let before = quiet(host);
        for (bad, why) in [
            ("server {", "unexpected end of file"),
            // All that makes `nginx -t` write: logs, cache directories, a socket, a pid file, temporary directories.
            ("proxy_cache_path /var/cache/shop keys_zone=a:1m; client_body_temp_path /var/lib/shop/body;
              server { listen 8123; listen unix:/run/shop.sock; access_log /var/log/shop.log; root /srv; nonsense; }", "nonsense"),
            ("server { listen 80; include /etc/nginx/missing.conf; }", "missing.conf"),
            ("server { listen 443 ssl; ssl_certificate /etc/x.pem; ssl_certificate_key /etc/x.pem; }", "/etc/x.pem"),
        ] {
            repo.write(SITE_IN_GIT, bad);
            repo.write("files/srv/new/deep/file", "new\n").write("files/etc/new.conf", "new\n");
            let push = repo.commit_and_push();
            push.assert_refused(why).says("refused, nothing was touched: guard nginx: ");
            assert_untouched(host, &before);
            assert_live(host, &repo, &live);
        }
        assert_eq!(served(host).0, "one");
    }
}

scenario! {
    fn a_stopped_nginx_that_never_ran_leaves_no_trace(host: installed on trixie) {
        host.sh("systemctl stop nginx; rm -rf /var/lib/nginx/* /var/log/nginx/* /var/cache/nginx /run/nginx.pid").ok();
        let repo = host.clone_repo();
        repo.write(SITE_IN_GIT, site("one"));
        repo.commit();
        let before = quiet(host);
        repo.push_to(&["HEAD:refs/heads/try"]).assert_live(); // what is accepted was tried just so
        assert_untouched(host, &before);
        repo.write(SITE_IN_GIT, "server { listen 80; access_log /var/log/nginx/shop.log; nonsense; }");
        repo.commit_and_push().assert_refused("nonsense");
        assert_untouched(host, &before);
        assert!(!host.exists("/var/lib/nginx/body") && !host.exists("/run/nginx.pid"));
    }
}

scenario! {
    fn a_library_of_the_candidate_changes_nothing_live(host: with_nginx) {
        let repo = open_shop(host, "one");
        let live = repo.head();
        repo.write("files/etc/nginx/escape.so", library());
        repo.write("files/etc/nginx/modules-enabled/escape.conf", "load_module /etc/nginx/escape.so;\n");
        repo.commit();
        let before = quiet(host);
        for place in ["HEAD:refs/heads/try", "HEAD:refs/heads/main"] {
            let push = repo.push_to(&[place]);
            push.assert_refused("escape.so").says("the library runs as uid 0").says("the library has tried everything");
            let worked: Vec<&str> = push.output.lines().filter(|line| line.contains("GOT ")).collect();
            assert!(worked.is_empty(), "{place}: {worked:#?}");
            assert_untouched(host, &before);
        }
        assert_eq!(served(host).0, "one");
        assert_live(host, &repo, &live);
        // A key that may only preview does not even get to run it.
        let ci = host.clone_repo_as("ci", &["--preview"]);
        ci.write("files/etc/nginx/escape.so", library());
        ci.write("files/etc/nginx/modules-enabled/escape.conf", "load_module /etc/nginx/escape.so;\n");
        ci.commit();
        let push = ci.push_to(&["HEAD:refs/heads/try"]);
        push.assert_live().says("guard nginx: deferred");
        assert!(!push.output.contains("the library runs"), "{}", push.output);
    }
}

scenario! {
    fn a_bad_unit_file_leaves_no_trace(host: with_nginx) {
        let repo = open_shop(host, "one");
        let live = repo.head();
        repo.write("reconciled.toml", format!("{MANIFEST}\n[[unit]]\nname = \"shop.service\"\nactive = true\nenabled = true\n"));
        let before = quiet(host);
        for (lines, why) in [
            ("ExecStart=/opt/shop/missing --port 80", "/opt/shop/missing"),
            ("ExecStart=/bin/sleep inf\nRestrat=always", "Restrat"),
            ("ExecStart=/bin/sleep inf\nRestart=sometimes", "sometimes"),
            ("ExecStart=bin/sleep inf", "bin/sleep"),
            ("ExecStart=/bin/sleep inf\nUser=bad name", "bad name"),
            ("Type=oneshot\nExecStart=/bin/true\nRestart=always", "Restart"),
            ("", "ExecStart"),
        ] {
            repo.write(UNIT, unit(lines));
            let push = repo.commit_and_push();
            push.assert_refused(why).says("refused, nothing was touched: guard systemd: ");
            assert_untouched(host, &before);
            assert_live(host, &repo, &live);
        }
        // A drop-in of a unit of the host is judged with it.
        repo.write(UNIT, unit("ExecStart=/bin/sleep inf"));
        repo.write("files/etc/systemd/system/nginx.service.d/shop.conf", "[Service]\nNonsense=1\n");
        repo.commit_and_push().assert_refused("Nonsense");
        assert_untouched(host, &before);
        // What the same push brings is there when its unit is judged.
        repo.remove("files/etc/systemd/system/nginx.service.d/shop.conf");
        repo.write(UNIT, unit("ExecStart=/opt/shop/run --port 80"));
        repo.write("files/opt/shop/run", "#!/bin/sh\nexec sleep inf\n").executable("files/opt/shop/run");
        repo.commit_and_push().assert_live().says("ok    guard systemd");
        assert_eq!(host.exec("systemctl is-active shop").ok(), "active");
    }
}

scenario! {
    fn what_was_broken_by_hand_is_not_blamed_on_a_commit(host: with_nginx on trixie) {
        let repo = open_shop(host, "one");
        host.write("/etc/systemd/system/other.service", unit("ExecStart=/bin/sleep inf"));
        repo.write(UNIT, unit("ExecStart=/bin/sleep inf").replace("[Service]", "Wants=other.service\n[Service]"));
        repo.write("reconciled.toml", format!("{MANIFEST}\n[[unit]]\nname = \"shop.service\"\nactive = true\n"));
        repo.commit_and_push().assert_live();
        host.write("/etc/systemd/system/other.service", unit("ExecStart=/bin/sleep inf\nNonsense=1"));
        repo.write(UNIT, unit("ExecStart=/bin/sleep 1d").replace("[Service]", "Wants=other.service\n[Service]"));
        repo.commit_and_push().assert_live().says("hint: guard systemd: as before this change: ").says("Nonsense");
        // A new mistake beside the old one is still one.
        repo.write(UNIT, unit("ExecStart=/bin/sleep 1d\nMistake=1").replace("[Service]", "Wants=other.service\n[Service]"));
        let push = repo.commit_and_push();
        push.assert_refused("Mistake");
        assert!(!push.output.contains("'Nonsense'") || push.output.contains("hint"), "{}", push.output);
        repo.write(UNIT, unit("ExecStart=/bin/sleep 1d").replace("[Service]", "Wants=other.service\n[Service]"));

        // nginx: the running one goes on with what it has read; what has nothing to do with it goes live.
        host.write("/etc/nginx/conf.d/hand.conf", "nonsense on;\n");
        repo.write("files/etc/unrelated.conf", "x\n");
        repo.commit_and_push().assert_live();
        assert_eq!(served(host).0, "one");
        // A commit that mends it goes live.
        repo.write("files/etc/nginx/conf.d/hand.conf", "# mended\n").write(SITE_IN_GIT, site("two"));
        repo.commit_and_push().assert_live();
        assert_eq!(served(host).0, "two");
    }
}

scenario! {
    fn a_commit_that_a_broken_nginx_has_to_read_is_refused(host: with_nginx) {
        let repo = open_shop(host, "one");
        let (live, before) = (repo.head(), host.read(SITE));
        host.write("/etc/nginx/conf.d/hand.conf", "nonsense on;\n");
        write_shop(&repo, "two");
        let push = repo.commit_and_push();
        push.assert_refused("nonsense").says("it was so before this change, but nginx.service has to read it").says("nothing was touched");
        assert_eq!(host.read(SITE), before);
        assert_eq!(served(host).0, "one");
        assert_live(host, &repo, &live);
        // Once a person has mended it, the revision can be had.
        host.exec("rm /etc/nginx/conf.d/hand.conf").ok();
        host.ctl("retry").ok();
        assert_eq!(served(host).0, "two");
    }
}

scenario! {
    fn a_guard_whose_program_is_missing_names_the_package(host: installed on trixie) {
        host.sh("DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq 'nginx*'").ok();
        let repo = host.clone_repo();
        repo.write(SITE_IN_GIT, site("one"));
        let push = repo.commit_and_push();
        push.assert_refused("nginx is not installed and no package installs it").says("apt-get install nginx");
        assert!(!host.exists("/etc/nginx"));
        assert_eq!(repo.remote_main(), None);
    }
}

scenario! {
    fn an_operators_guard_judges_too(host: with_nginx on trixie) {
        let guard = |name: &str, check: &str| format!("name = \"{name}\"\nglobs = [\"/etc/shop/**\"]\ncheck = {check}\n");
        host.write("/etc/reconciled/guards.d/shop.toml", guard("shop", "[\"/usr/bin/python3\", \"-m\", \"json.tool\", \"/etc/shop/menu.json\"]"));
        host.exec("systemctl reload reconciled").ok();
        host.ctl("validate --settings").ok();
        let repo = host.clone_repo();
        repo.write("files/etc/shop/menu.json", "{\"tea\": }\n");
        let before = quiet(host);
        repo.commit_and_push().assert_refused("guard shop: ").says("Expecting value");
        assert_untouched(host, &before);
        repo.write("files/etc/shop/menu.json", "{\"tea\": 1}\n");
        repo.commit_and_push().assert_live().says("ok    guard shop: /usr/bin/python3 -m json.tool /etc/shop/menu.json");

        // One of the same name takes a shipped one's place; what it writes stays in the rehearsal.
        let rule = "echo no >/etc/nginx/trace; rm -rf /srv/*; ! grep -q 'name shop' /etc/nginx/sites-enabled/* || { echo house rule; exit 1; }";
        let check = format!("[\"/bin/sh\", \"-c\", \"{rule}\"]");
        host.write("/etc/reconciled/guards.d/nginx.toml", guard("nginx", &check).replace("/etc/shop", "/etc/nginx"));
        host.exec("systemctl reload reconciled").ok();
        let before = quiet(host);
        repo.write(SITE_IN_GIT, site("one"));
        repo.commit_and_push().assert_refused("guard nginx: house rule");
        assert_untouched(host, &before);

        // A guard file that cannot be read changes nothing: the earlier guards hold, and it is said where the mistake is.
        host.write("/etc/reconciled/guards.d/nginx.toml", "name = \"nginx\"\nglob = []\n");
        let _ = host.ctl("validate --settings").fails(2).says("/etc/reconciled/guards.d/nginx.toml").says("glob");
        host.exec("systemctl reload reconciled").ok();
        repo.write(SITE_IN_GIT, site("two"));
        repo.commit_and_push().assert_refused("house rule");
        assert_eq!(held(host), Some(repo.head()));
    }
}

scenario! {
    fn t25_a_name_that_does_not_resolve_yet_is_nobodys_fault(host: with_nginx) {
        let repo = host.clone_repo();
        let site = "files/etc/nginx/conf.d/backend.conf";
        repo.write(site, "server { listen 8080; location / { proxy_pass http://backend.test:9; } }\n");
        repo.commit();
        let mut push = repo.start_push(&["HEAD:refs/heads/main"]);
        push.until("host not found in upstream");
        host.sh("echo 127.0.0.1 backend.test >>/etc/hosts").ok();
        push.wait().assert_live().says("asking again in 2 s");
        // For as long as it does not: refused, and not held.
        repo.write(site, "server { listen 8080; location / { proxy_pass http://elsewhere.test:9; } }\n");
        let push = repo.commit_and_push();
        push.assert_refused("host not found in upstream").says("the revision is not held");
        assert!(host.status()["held"].is_null());
        host.sh("echo 127.0.0.1 elsewhere.test >>/etc/hosts").ok();
        repo.push().assert_live();
        // With a mistake of its own it is at fault, at once.
        repo.write(site, "server { listen 8080; nonsense; location / { proxy_pass http://nowhere.test:9; } }\n");
        repo.commit_and_push().assert_refused("nonsense");
        assert!(!host.status()["held"].is_null());
    }
}

scenario! {
    fn nginx_restarts_only_for_what_a_reload_does_not_take_over(host: with_nginx) {
        let main_pid = || host.exec("systemctl show --property=MainPID --value nginx").ok();
        let repo = host.clone_repo();
        let site = |key: &str, zone: &str| format!("limit_req_zone {key} zone=shop:1m rate=9r/s;\n{zone}\nserver {{ listen 8080; limit_req zone=shop; }}\n");
        let file = "files/etc/nginx/conf.d/limits.conf";
        repo.write(file, site("$binary_remote_addr", ""));
        let first = main_pid();
        repo.commit_and_push().assert_live().says("! reload nginx.service");
        // One more zone comes with a reload; another key for one that is there does not.
        repo.write(file, site("$binary_remote_addr", "limit_req_zone $uri zone=other:1m rate=9r/s;"));
        repo.commit_and_push().assert_live().says("! reload nginx.service");
        assert_eq!(main_pid(), first);
        repo.write(file, site("$server_name", ""));
        let push = repo.commit_and_push();
        push.assert_live().says("! restart nginx.service (limit_req_zone changed in /etc/nginx/conf.d/limits.conf: a reload does not take that over)");
        assert!(main_pid() != first);
        // What is wrong is told with its place in the repository.
        repo.write("files/etc/nginx/sites-available/shop", "server { listen 80; nonsense; }\n").symlink("files/etc/nginx/sites-enabled/shop", "../sites-available/shop");
        repo.commit_and_push().assert_refused("in /etc/nginx/sites-enabled/shop:1 (files/etc/nginx/sites-available/shop:1)");
    }
}
