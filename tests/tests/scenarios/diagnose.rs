//! Why a push failed: each cause is brought about on a host, and the push has to name it and its remedy, before it takes anything back.

use reconciled_tests::{Host, Push, Repo, scenario};

use crate::shop::{SITE_IN_GIT, audit, bad_gateway, open_shop, served};

/// A server of the shop that passes requests on.
fn passes(to: &str) -> String {
    format!("server {{ listen 80; server_name shop; location / {{ {to} }} }}\n")
}

/// Insists that the push was rolled back for this cause, told between what failed and the way back, and kept in its record.
#[track_caller]
fn because(host: &Host, push: &Push, text: &str) {
    push.assert_refused("rolled back to generation");
    let said = &push.output;
    let at = |word: &str| said.find(word).unwrap_or_else(|| panic!("expected {word:?} in\n{said}"));
    let (error, cause, back) = (at("remote: error: "), at(&format!("remote: because: {text}")), at("taking everything back"));
    assert!(error < cause && cause < back, "{said}");
    let log = audit(host);
    let Some(record) = log.iter().rev().find(|record| record["commit"] == push.commit.as_str()) else { panic!("a record") };
    let found = record["findings"].as_array().cloned().unwrap_or_default();
    assert!(found.iter().any(|finding| finding["text"].as_str().is_some_and(|told| told.starts_with(text))), "{record}");
}

/// Pushes this site of the shop, which has to fail for this cause.
#[track_caller]
fn site_fails(host: &Host, repo: &Repo, site: &str, text: &str) {
    drop(failed_site(host, repo, site, text));
}

/// The same, for a closer look at the push.
#[track_caller]
fn failed_site(host: &Host, repo: &Repo, site: &str, text: &str) -> Push {
    repo.write(SITE_IN_GIT, site);
    let push = repo.commit_and_push();
    because(host, &push, text);
    assert_eq!(served(host).0, "one");
    push
}

/// Runs this Python in a unit of its own, and waits until `up` holds there.
#[track_caller]
fn python(host: &Host, unit: &str, program: &str, up: &str) {
    host.exec_with(&["systemd-run", "--quiet", &format!("--unit={unit}"), "python3", "-c", program], b"").ok();
    host.wait_until(up, || host.sh(up).code == 0);
}

/// A server on this port that does this with each connection `c`.
#[track_caller]
fn server(host: &Host, unit: &str, port: u16, with_each: &str) {
    let program = format!(
        "import socket, time\ns = socket.create_server(('127.0.0.1', {port}))\nkept = []\nwhile True:\n  c = s.accept()[0]\n  kept.append(c)\n  {with_each}\n"
    );
    python(host, unit, &program, &format!("ss -ltn 2>/dev/null | grep -q :{port} || grep -q :{port:04X} /proc/net/tcp"));
}

scenario! {
    fn a_socket_that_is_missing_or_elsewhere(host: with_nginx) {
        let repo = open_shop(host, "one");
        let text = "there is no socket /run/shop/shop.sock (not even /run/shop), to which nginx passes: what makes it does not run";
        site_fails(host, &repo, &passes("proxy_pass http://unix:/run/shop/shop.sock;"), text);
        let upstream = "upstream shop { server unix:/run/shop/shop.sock fail_timeout=0; }\n";
        site_fails(host, &repo, &format!("{upstream}{}", passes("proxy_pass http://shop;")), text);
        let listen = "import os, socket, time\nos.mkdir('/run/other')\ns = socket.socket(socket.AF_UNIX)\ns.bind('/run/other/shop.sock')\ns.listen()\ntime.sleep(999)";
        python(host, "other", listen, "test -S /run/other/shop.sock");
        let pid = host.exec("systemctl show -P MainPID other.service").ok();
        let text = format!("there is no socket /run/shop/shop.sock, to which nginx passes: python3 (pid {pid}, other.service) listens on /run/other/shop.sock; one of the two paths is wrong");
        site_fails(host, &repo, &passes("proxy_pass http://unix:/run/shop/shop.sock;"), &text);
        // It stays there when its maker is killed.
        host.sh("chmod 666 /run/other/shop.sock; systemctl kill --signal=KILL other").ok();
        site_fails(host, &repo, &passes("proxy_pass http://unix:/run/other/shop.sock;"), "the socket /run/other/shop.sock is there, and nobody listens on it");
    }
}

scenario! {
    fn a_probe_that_finds_no_socket(host: installed) {
        let repo = host.clone_repo();
        repo.write("files/etc/shop.conf", "1\n").commit_and_push().assert_live();
        repo.write("reconciled.toml", "[[probe]]\nname = \"app\"\nattempts = 1\nhttp = { unix = \"/run/nobody.sock\" }\n");
        because(host, &repo.commit_and_push(), "there is no socket /run/nobody.sock, which the probe asks: what makes it does not run");
        repo.write("reconciled.toml", "[[probe]]\nname = \"app\"\nattempts = 1\ntcp = \"127.0.0.1:9\"\n");
        because(host, &repo.commit_and_push(), "nobody listens on 127.0.0.1:9, which the probe asks: start what is to listen there");
    }
}

scenario! {
    fn a_directory_that_nginx_may_not_enter(host: with_nginx) {
        let repo = open_shop(host, "one");
        host.sh("useradd --create-home sammy && chmod 0700 /home/sammy").ok();
        let answer = "import http.server, os, socketserver\nclass S(socketserver.UnixStreamServer):\n  def get_request(self): return self.socket.accept()[0], ('x', 0)\nos.umask(0)\nS('/home/sammy/shop.sock', http.server.SimpleHTTPRequestHandler).serve_forever()";
        python(host, "app", answer, "test -S /home/sammy/shop.sock");
        let site = passes("proxy_pass http://unix:/home/sammy/shop.sock;");
        let text = "nginx may not enter /home/sammy (0700 sammy:sammy): it runs as www-data; chmod o+x /home/sammy, or move the socket to /run";
        let push = failed_site(host, &repo, &site, text);
        // Of the group's permissions only the group's count, and then those of the socket itself.
        host.exec("chgrp www-data /home/sammy").ok();
        site_fails(host, &repo, &site, "nginx may not enter /home/sammy (0700 sammy:www-data): it runs as www-data; chmod g+x /home/sammy, or");
        host.sh("chmod g+x /home/sammy; chmod 0755 /home/sammy/shop.sock").ok();
        site_fails(host, &repo, &site, "nginx may not write to /home/sammy/shop.sock (0755 root:root): it runs as www-data; have it made so that www-data may");
        // What the finding says helps.
        host.exec("chmod 0666 /home/sammy/shop.sock").ok();
        let _ = host.ctl(&format!("retry {}", push.commit)).says("success: live and healthy");
    }
}

scenario! {
    fn files_that_nginx_may_not_read_or_finds_not(host: with_nginx) {
        let repo = open_shop(host, "one");
        host.sh("mkdir -p /srv/www && echo x >/srv/www/index.html && chmod 0600 /srv/www/index.html").ok();
        site_fails(host, &repo, &passes("root /srv/www;"), "nginx may not read /srv/www/index.html (0600 root:root): it runs as www-data; chmod o+r /srv/www/index.html");
        site_fails(host, &repo, &passes("root /srv/none; rewrite ^ /x.html break;"), "nginx was to serve /srv/none/x.html, which is not there (not even /srv/none): correct root or alias");
        // What the table does not know is quoted.
        host.sh("mkdir -p /srv/empty").ok();
        failed_site(host, &repo, &passes("root /srv/empty;"), "nginx says: [error]").says("directory index of \"/srv/empty/\" is forbidden");
    }
}

scenario! {
    fn an_upstream_that_refuses_hangs_or_hangs_up(host: with_nginx) {
        let repo = open_shop(host, "one");
        site_fails(host, &repo, &bad_gateway(), "nobody listens on 127.0.0.1:8099, to which nginx passes: start what is to listen there, or correct the address");
        server(host, "hangs", 8098, "pass");
        server(host, "dies", 8097, "c.recv(999); kept.clear(); c.close()");
        site_fails(
            host,
            &repo,
            &passes("proxy_pass http://127.0.0.1:8098; proxy_read_timeout 1s;"),
            "127.0.0.1:8098 took the request and did not answer in time (nginx waits for proxy_read_timeout): it hangs, perhaps on something that it asks itself; journalctl -u hangs.service",
        );
        site_fails(
            host,
            &repo,
            &passes("proxy_pass http://127.0.0.1:8097;"),
            "127.0.0.1:8097 took the request and closed the connection without an answer: its process ended or was killed; journalctl -u dies.service",
        );
        // Lines of before the push explain nothing: here the probe wants what the site does not say.
        repo.write(SITE_IN_GIT, "server { listen 80; server_name shop; location / { return 404; } }\n");
        let push = repo.commit_and_push();
        push.assert_refused("got 404");
        assert!(!push.output.contains("because: "), "{}", push.output);
    }
}

scenario! {
    fn a_port_that_somebody_else_holds(host: with_nginx) {
        let repo = open_shop(host, "one");
        server(host, "other", 8096, "pass");
        let pid = host.exec("systemctl show -P MainPID other.service").ok();
        let taken = |unit: &str| format!("port 8096 is taken: python3 (pid {pid}, other.service) listens on 127.0.0.1:8096, where {unit} wants to; stop that (systemctl disable --now other.service), or give one of the two another port");
        // nginx -t is content, and so is the reload.
        let push = failed_site(host, &repo, "server { listen 80; listen 127.0.0.1:8096; server_name shop; return 200 two; }\n", &taken("nginx.service"));
        push.says("ok    guard nginx").says("no new generation of workers took over");

        let manifest = |more: &str| format!("{}{more}", crate::shop::MANIFEST);
        repo.write(SITE_IN_GIT, crate::shop::site("one")).write("reconciled.toml", manifest("[[unit]]\nname = \"shop.service\"\nactive = true\n\n[[probe]]\nname = \"app\"\ntcp = \"127.0.0.1:8096\"\n"));
        repo.write("files/etc/systemd/system/shop.service", "[Service]\nExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 8096\n");
        because(host, &repo.commit_and_push(), &taken("shop.service"));
        repo.write("reconciled.toml", manifest("[[unit]]\nname = \"shop.socket\"\nactive = true\n"));
        repo.write("files/etc/systemd/system/shop.socket", "[Socket]\nListenStream=127.0.0.1:8096\n");
        because(host, &repo.commit_and_push(), &taken("shop.socket"));
    }
}

scenario! {
    fn a_name_that_no_server_has(host: with_nginx) {
        let repo = open_shop(host, "one");
        // Debian's default site says 200 to everybody.
        repo.write("reconciled.toml", crate::shop::MANIFEST.replace("status = 200", "body = \"two\""));
        site_fails(
            host,
            &repo,
            &crate::shop::site("two").replace("server_name shop", "server_name shpo"),
            "no server of nginx is named shop on port 80, so the default site answers (/etc/nginx/sites-enabled/default:21); /etc/nginx/sites-enabled/shop:1 says shpo: correct server_name, or the probe's `host`",
        );
    }
}

/// A manifest with this service, which is to run.
fn service(repo: &Repo, name: &str, lines: &str, more: &str) {
    repo.write(&format!("files/etc/systemd/system/{name}.service"), format!("[Service]\n{lines}\n"));
    repo.write("reconciled.toml", format!("[[unit]]\nname = \"{name}.service\"\nactive = true\n{more}"));
}

/// Pushes a service that has to fail for this cause.
#[track_caller]
fn service_fails(host: &Host, repo: &Repo, lines: &str, text: &str) {
    service(repo, "shop", lines, "");
    because(host, &repo.commit_and_push(), text);
}

scenario! {
    fn a_unit_that_does_not_come_up(host: installed) {
        let repo = host.clone_repo();
        repo.write("files/etc/shop.conf", "1\n").commit_and_push().assert_live();
        repo.write("files/srv/shop/main.py", "def go():\n    import wsgi\ngo()\n").write("files/srv/shop/wsgi.py", "# the shop\nimport nothere\n");
        service_fails(
            host,
            &repo,
            "ExecStart=/usr/bin/python3 /srv/shop/main.py",
            "shop.service failed in its Python: ModuleNotFoundError: No module named 'nothere' (/srv/shop/wsgi.py:2); install it where the unit's Python looks, or correct the import",
        );
        repo.write("files/srv/shop/main.py", "def go(:\n");
        service_fails(host, &repo, "ExecStart=/usr/bin/python3 /srv/shop/main.py", "shop.service failed in its Python: SyntaxError: invalid syntax (/srv/shop/main.py:1); mend the file");
        service_fails(
            host,
            &repo,
            "ExecStart=/bin/sh -c 'echo no configuration; sleep 0.1; exit 3'\nRestart=always\nRestartSec=50ms",
            "shop.service ended again and again, until systemd gave it up (start limit), its last words being: no configuration; mend why it ends",
        );
        service_fails(host, &repo, "WorkingDirectory=/srv/none\nExecStart=/bin/sleep 999", "systemd could not start /bin/sleep for shop.service: No such file or directory (step CHDIR); bring the directory");
        host.sh("mkdir -p /srv/data && mount -t tmpfs -o size=64k tmpfs /srv/data").ok();
        service_fails(
            host,
            &repo,
            "ExecStart=/bin/dd if=/dev/zero of=/srv/data/x bs=1k count=200",
            "the disk is full: shop.service could not write to /srv/data, 0 bytes of 64 KiB are left there; make room (du -xh /srv/data | sort -h | tail)",
        );
        // What the table does not know is quoted, unless it was told already.
        service(&repo, "shop", "ExecStart=/bin/sh -c 'sleep 3; echo out of stock; sleep 0.1; exit 3'", "\n[[probe]]\nname = \"app\"\nunit = \"shop.service\"\nstable_for = \"5s\"\nattempts = 3\n");
        because(host, &repo.commit_and_push(), "shop.service has failed, and said last: out of stock");
        service(&repo, "shop", "ExecStart=/bin/sh -c 'sleep 0.3; echo out of stock; sleep 0.3; exit 3'", "");
        let push = repo.commit_and_push();
        push.assert_refused("did not stay up").says("shop.service: out of stock");
        assert!(!push.output.contains("because: "), "{}", push.output);
    }
}

scenario! {
    fn a_unit_that_systemd_ends(host: installed) {
        let repo = host.clone_repo();
        repo.write("files/etc/shop.conf", "1\n").commit_and_push().assert_live();
        let fails = |lines: &str, text: &str| service_fails(host, &repo, lines, text);
        fails(
            "EnvironmentFile=/etc/none.env\nExecStart=/bin/sleep 999",
            "shop.service failed: a file that its EnvironmentFile= names is missing or cannot be read; bring it",
        );
        fails("Type=notify\nTimeoutStartSec=1s\nExecStart=/bin/sleep 999", "shop.service failed: it did not say in time that it is up; a program that never says so");
        fails("SystemCallFilter=~mkdir mkdirat\nExecStart=/bin/mkdir /srv/x", "shop.service failed: it made a system call that its SystemCallFilter= forbids; ");
        fails(
            "ProtectSystem=strict\nExecStart=/bin/mkdir /srv/x",
            "shop.service may not write there: ",
        );
    }
}

scenario! {
    fn a_host_header_that_is_doubled(host: with_web) {
        let repo = open_shop(host, "one");
        let app = "import django\nfrom django.conf import settings\nsettings.configure(SECRET_KEY='x', ALLOWED_HOSTS=['shop'], ROOT_URLCONF=__name__, MIDDLEWARE=['django.middleware.common.CommonMiddleware'])\n\
                   django.setup()\nfrom django.http import HttpResponse\nfrom django.urls import path\n\
                   urlpatterns = [path('', lambda request: HttpResponse('one ' + str(__import__('os').getpid())))]\n\
                   from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n";
        host.write("/srv/app/app.py", app);
        host.exec("systemd-run --quiet --unit=app --working-directory=/srv/app gunicorn --bind 127.0.0.1:8000 app:application").ok();
        host.wait_until("the application answers", || host.exec("curl -s -o /dev/null -H Host:shop http://127.0.0.1:8000/").code == 0);
        let pass = "proxy_pass http://127.0.0.1:8000;";
        let site = format!("server {{ listen 80; server_name shop; location / {{\n    include proxy_params;\n    proxy_set_header Host $host;\n    {pass}\n}} }}\n");
        let text = "the application gets two Host headers, and answers 400: `proxy_set_header Host` stands at /etc/nginx/proxy_params:";
        failed_site(host, &repo, &site, text).says(" and again at /etc/nginx/sites-enabled/shop:3; leave out one of them");
        repo.write(SITE_IN_GIT, site.replace("    proxy_set_header Host $host;\n", ""));
        repo.commit_and_push().assert_live();
    }
}

scenario! {
    fn a_database_that_refuses_or_hangs(host: with_web) {
        let repo = host.clone_repo();
        repo.write("files/etc/shop.conf", "1\n").commit_and_push().assert_live();
        let asks = |place: &str| format!("Environment=PGPASSWORD=wrong PGCONNECT_TIMEOUT=2\nExecStart=/usr/bin/psql \"host=127.0.0.1 user=shop dbname=shop {place}\" -c \"select 1\"");
        let fails = |place: &str, text: &str| service_fails(host, &repo, &asks(place), &format!("shop.service cannot use its database: connection to server at \"127.0.0.1\", {text}"));
        host.exec("systemctl stop postgresql").ok();
        fails("", "port 5432 failed: Connection refused; nobody listens there: start PostgreSQL (systemctl status postgresql)");
        host.exec("systemctl start postgresql").ok();
        let sql = |words: &str| host.exec_with(&["runuser", "-u", "postgres", "--", "psql", "-qc", words], b"").ok();
        host.wait_until("PostgreSQL answers", || host.exec("runuser -u postgres -- psql -qc select").code == 0);
        sql("create role shop login password 'right'");
        sql("create database shop owner shop");
        fails("", "port 5432 failed: FATAL:  password authentication failed for user \"shop\"; the password is not that of the role");
        fails("password=right dbname=nowhere", "port 5432 failed: FATAL:  database \"nowhere\" does not exist; create it, or correct its name");
        sql("alter role shop connection limit 100");
        sql("alter system set max_connections = 5");
        host.exec("systemctl restart postgresql").ok();
        host.wait_until("PostgreSQL answers", || host.exec("runuser -u postgres -- psql -qc select").code == 0);
        host.sh("for n in 1 2 3 4 5; do PGPASSWORD=right systemd-run --quiet --setenv=PGPASSWORD psql 'host=127.0.0.1 user=shop' -c 'select pg_sleep(600)'; done").ok();
        let full = || host.exec_with(&["env", "PGPASSWORD=right", "psql", "host=127.0.0.1 user=shop", "-c", "select"], b"").code != 0;
        host.wait_until("no connection is free", full);
        service(&repo, "shop", &asks("password=right"), "");
        let push = repo.commit_and_push();
        because(host, &push, "shop.service cannot use its database: connection to server at \"127.0.0.1\", port 5432 failed: FATAL:");
        push.says("; close connections or share them (a pool), or raise max_connections");

        // Something that takes the connection and says nothing; the service is to listen once it has its database.
        server(host, "silent", 5499, "pass");
        service(&repo, "shop", &asks("port=5499").replace("TIMEOUT=2", "TIMEOUT=4"), "\n[[probe]]\nname = \"app\"\ntcp = \"127.0.0.1:8000\"\nattempts = 14\ninterval = \"500ms\"\n");
        let push = repo.commit_and_push();
        because(host, &push, "shop.service cannot use its database: connection to server at \"127.0.0.1\", port 5499 failed: timeout expired; something takes the connection and does not answer");
        push.says("because: nobody listens on 127.0.0.1:8000, which the probe asks");
    }
}

scenario! {
    fn a_certificate_that_has_expired_or_is_for_another_name(host: with_nginx) {
        let repo = open_shop(host, "one");
        host.write("/etc/ssl/shop/key.pem", include_str!("diagnose/key.pem"));
        host.write("/etc/ssl/shop/valid.pem", include_str!("diagnose/valid.pem"));
        host.write("/etc/ssl/shop/expired.pem", include_str!("diagnose/expired.pem"));
        let site = |certificate: &str, name: &str| {
            let behind = format!("server {{ listen 127.0.0.1:8443 ssl; ssl_certificate {certificate}; ssl_certificate_key /etc/ssl/shop/key.pem; return 200 \"one 1\"; }}\n");
            let to = format!("proxy_pass https://127.0.0.1:8443; proxy_ssl_verify on; proxy_ssl_trusted_certificate {certificate}; proxy_ssl_name {name};");
            behind + &passes(&to)
        };
        let not_accepted = "nginx does not accept the certificate of 127.0.0.1:8443: it";
        site_fails(host, &repo, &site("/etc/ssl/shop/expired.pem", "shop.example"), &format!("{not_accepted} has expired: renew it (certbot renew)"));
        site_fails(host, &repo, &site("/etc/ssl/shop/valid.pem", "other.example"), &format!("{not_accepted} is for another name: issue it for the name that is asked for"));
        repo.write(SITE_IN_GIT, site("/etc/ssl/shop/valid.pem", "shop.example"));
        repo.commit_and_push().assert_live();
    }
}

scenario! {
    fn explain_answers_from_the_record(host: with_nginx on trixie) {
        let _ = host.ctl("explain").fails(1).says("nothing was refused or rolled back here");
        let repo = open_shop(host, "one");
        let live = repo.head();
        let text = "nobody listens on 127.0.0.1:8099, to which nginx passes: start what is to listen there, or correct the address";
        let bad = failed_site(host, &repo, &bad_gateway(), text);
        let seq = audit(host).last().and_then(|record| record["seq"].as_u64()).unwrap_or_default();
        let said = host.ctl("explain").ok();
        for line in [
            format!("revision   {}  change 2", bad.commit),
            "reason     probe site: wanted 200, got 502 (GET http://127.0.0.1/ Host: shop)".to_owned(),
            format!("because    {text}"),
            format!("more       reconcilectl audit show {seq}"),
        ] {
            assert!(said.lines().any(|said| said == line), "{line:?} in\n{said}");
        }
        let _ = host.ctl(&format!("audit show {seq}")).fails(0).says(&format!("because\n  {text}\n"));
        // The same for the pushed again, by its prefix, when something else was refused since.
        repo.push().assert_refused("is held since");
        repo.write(SITE_IN_GIT, "server {");
        repo.commit_and_push().assert_refused("guard nginx");
        assert_eq!(host.ctl(&format!("explain {}", &bad.commit[..8])).ok(), said);
        let _ = host.ctl("explain").fails(0).says("outcome    refused at ").says("guard nginx: [emerg] unexpected end of file");
        let json: serde_json::Value = serde_json::from_str(&host.ctl(&format!("explain --json {}", bad.commit)).ok()).unwrap_or_default();
        assert_eq!((json["record"].as_u64(), json["outcome"].as_str(), json["findings"][0]["text"].as_str()), (Some(seq), Some("rolled-back"), Some(text)), "{json}");
        assert_eq!(json["findings"][0]["name"], "nobody-listens");
        let _ = host.ctl(&format!("explain {live}")).fails(1).says("no revision");
        host.sh("useradd reader; usermod -aG reconciled reader; useradd other").ok();
        host.exec("runuser -u reader -- reconcilectl explain").ok();
        let _ = host.exec("runuser -u other -- reconcilectl explain").fails(4);
    }
}

scenario! {
    fn a_secret_is_in_no_finding(host: installed on trixie) {
        let repo = host.clone_repo();
        repo.write("files/etc/shop.conf", "1\n").commit_and_push().assert_live();
        let secret = "hunter2-planted-secret";
        repo.write("files/etc/shop.env", format!("KEY={secret}\n"));
        let more = "\n[[file]]\npath = \"/etc/shop.env\"\nsecret = true\n";
        repo.write("files/srv/main.py", "import os\nraise ValueError(os.environ['KEY'])\n");
        service(&repo, "shop", "EnvironmentFile=/etc/shop.env\nExecStart=/usr/bin/python3 /srv/main.py", more);
        let push = repo.commit_and_push();
        because(host, &push, "file:/etc/shop.env: what was said of it is not shown, it is secret");
        let said = format!("{}{}{}", push.output, host.ctl("explain").ok(), host.read("/var/lib/reconciled/audit/audit.jsonl"));
        assert!(!said.contains(secret), "{said}");
    }
}
