//! The example of a Django site, from a bare host with one push: what its tutorial wants to hold, holds.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use reconciled_tests::{Host, Push, Release, Repo, scenario};

/// The example, as the package installs it.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/examples/django");
const ADMIN: &str = "correct-horse-battery";
const KEY: &str = "0123456789-0123456789-0123456789";

/// Logs in to the admin through nginx, as a browser does.
const LOGIN: &str = r#"
import http.cookiejar, sys, urllib.parse, urllib.request
jar = http.cookiejar.CookieJar()
browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
def ask(path, data=None):
    request = urllib.request.Request("http://127.0.0.1" + path, data, {"Host": "example.test"})
    return browser.open(request).read().decode()
page = ask("/admin/login/")
token = page.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]
jar.set_cookie(http.cookiejar.Cookie(0, "csrftoken", [c.value for c in jar if c.name == "csrftoken"][0], None, False, "127.0.0.1", False, False, "/", True, False, None, False, None, None, {}))
form = {"csrfmiddlewaretoken": token, "username": "admin", "password": sys.argv[1], "next": "/admin/"}
print("Log out" in ask("/admin/login/?next=/admin/", urllib.parse.urlencode(form).encode()))
"#;

/// Copies the example into a repository, and seals its secrets for this host.
#[track_caller]
fn example(host: &Host) -> Repo {
    let repo = host.clone_repo();
    copy(Path::new(EXAMPLE), "", &repo);
    seal(host, &repo, "db_password", "hunter2-hunter2");
    seal(host, &repo, "admin_password", ADMIN);
    seal(host, &repo, "secret_key", KEY);
    repo
}

#[track_caller]
fn seal(host: &Host, repo: &Repo, name: &str, plain: &str) {
    let sealed = host.exec_with(&["reconcilectl", "secret", "seal"], plain.as_bytes()).ok();
    repo.write(&format!("secrets/{name}.age"), sealed);
}

fn copy(from: &Path, below: &str, repo: &Repo) {
    for entry in must(fs::read_dir(from)).map(must) {
        let path = format!("{below}{}", entry.file_name().to_string_lossy());
        let kind = must(entry.file_type());
        if kind.is_dir() {
            copy(&entry.path(), &format!("{path}/"), repo);
        } else if kind.is_symlink() {
            repo.symlink(&path, &must(fs::read_link(entry.path())).to_string_lossy());
        } else {
            repo.write(&path, must(fs::read(entry.path())));
            if must(entry.metadata()).permissions().mode() & 0o100 != 0 {
                repo.executable(&path);
            }
        }
    }
}

/// The example is there, and can be read.
#[track_caller]
fn must<T>(read: std::io::Result<T>) -> T {
    read.unwrap_or_else(|error| panic!("{EXAMPLE}: {error}"))
}

#[track_caller]
fn logs_in(host: &Host) -> bool {
    host.exec_with(&["python3", "-c", LOGIN, ADMIN], b"").ok() == "True"
}

#[track_caller]
fn status(host: &Host, path: &str) -> String {
    host.exec(&format!("curl -s -o /dev/null -w %{{http_code}} -H Host:example.test http://127.0.0.1{path}")).ok()
}

/// The rows of the tutorial's table, each seen by other means than ours.
#[track_caller]
fn holds(host: &Host) {
    let listed =
        host.sh("dpkg-query -Wf '${db:Status-Abbrev}' python3-venv python3-dev libpq-dev postgresql nginx curl ufw").ok();
    assert_eq!(listed, "ii ".repeat(7));
    // A part of postgresql on Debian 13.
    host.sh("dpkg-query -Wf '${Package} ${Provides}\\n' 'postgresql*' | grep -q postgresql-contrib").ok();
    assert_eq!(host.exec("stat -c %U:%G:%a /home/sammy /etc/myproject.env").ok(), "sammy:sammy:711\nroot:root:600");
    let asked = "SHOW client_encoding; SHOW default_transaction_isolation; SHOW timezone; SELECT pg_get_userbyid(datdba) FROM pg_database \
        WHERE datname = current_database()";
    let psql = format!("PGPASSWORD=hunter2-hunter2 psql -XAtq -h localhost -U myprojectuser myproject -c \"{asked}\"");
    assert_eq!(host.sh(&psql).ok(), "UTF8\nread committed\nUTC\nmyprojectuser");
    let python = "set -a && . /etc/myproject.env && cd /home/sammy/myprojectdir && runuser -u sammy -- myprojectenv/bin/python";
    assert_eq!(
        host.sh(&format!("{python} -m pip freeze | cut -d= -f1 | sort -f | paste -sd' '")).ok(),
        "asgiref Django gunicorn psycopg2-binary sqlparse"
    );
    host.sh(&format!(
        "{python} manage.py migrate --check && runuser -u sammy -- myprojectenv/bin/python manage.py check --deploy"
    ))
    .ok();
    assert_eq!(host.exec("stat -c %F:%a /run/gunicorn.sock").ok(), "socket:666");
    assert_eq!(
        host.exec("systemctl is-enabled gunicorn.socket gunicorn.service nginx postgresql").stdout,
        "enabled\nstatic\nenabled\nenabled\n"
    );
    let process =
        host.sh("cd /proc/$(systemctl show -P MainPID gunicorn) && stat -c %U:%G . && wc -w <task/${PWD#/proc/}/children");
    assert_eq!(process.ok(), "sammy:www-data\n3", "its workers");
    assert!(!host.exists("/etc/nginx/sites-enabled/default"));
    let foreign = host.exec(
        "curl -s -o /dev/null -w %{http_code} -H Host:other.test --unix-socket /run/gunicorn.sock http://other.test/admin/login/",
    );
    assert_eq!(foreign.ok(), "400");
    // From outside: SSH and nginx, and not the development server's port.
    host.exec("systemd-run --quiet --unit=other python3 -m http.server 8000").ok();
    host.wait_until("something listens at 8000", || host.exec("curl -s -o /dev/null http://127.0.0.1:8000/").code == 0);
    assert_eq!([22, 80, 8000].map(|port| host.is_open(port)), [true, true, false]);
    host.exec("systemctl stop other").ok();
    // nginx itself answers for the icon that the site has not, and keeps no log of it.
    let icon = "curl -s -H Host:example.test http://127.0.0.1/favicon.ico && ! grep favicon /var/log/nginx/access.log /var/log/nginx/error.log";
    assert!(host.sh(icon).ok().contains("404 Not Found"));
}

/// Looks again and again whether a secret is in the arguments or the environment of a process; those of the site's own user may have them, for
/// they are given to it there.
const WATCH: &str = r#"
while sleep 0.1; do
  for file in $(grep -slaf /run/secrets /proc/[0-9]*/cmdline /proc/[0-9]*/environ); do
    # The folder stays its user's when the process ends, and what is in it becomes root's.
    whose=$(stat -c %U "${file%/*}" 2>/dev/null) || continue
    [[ $file == */environ && $whose == sammy ]] || { echo "$file of $whose:"; tr '\0' ' ' <"${file%/*}/cmdline"; } >>/run/seen
  done
done
"#;

/// From a bare host to a site that serves.
#[track_caller]
fn one_push(host: &Host) {
    let repo = example(host);
    let runs = || host.sh("grep -c ^Start-Date /var/log/apt/history.log").stdout.trim().parse().unwrap_or(0);
    let before: u32 = runs();
    host.write("/run/secrets", format!("hunter2-hunter2\n{ADMIN}\n{KEY}\n"));
    host.write("/run/watch", WATCH);
    host.exec("systemd-run --quiet --unit=watch bash /run/watch").ok();
    repo.commit_and_push().assert_live();
    assert_eq!(runs(), before + 1, "apt runs once");
    assert_eq!(host.exec("systemctl is-active watch").ok(), "active");
    assert_eq!(host.sh("systemctl stop watch; cat /run/seen").stdout, "", "who could see a secret");
    assert!(logs_in(host));
    assert_eq!(status(host, "/static/admin/css/base.css"), "200");
    holds(host);
    // The admin's password is nowhere in the journal, with what it says of commands.
    assert!(!host.sh(&format!("journalctl -o export | grep -a {ADMIN}")).stdout.contains(ADMIN));
    assert!(host.ctl("sync").ok().contains("nothing to do"));
}

/// A host on which the example is live, and answers: what [`one_push`] makes of a bare one.
#[track_caller]
fn serving(release: Release) -> Host {
    let content: Vec<u8> = contents(Path::new(EXAMPLE));
    // Also what is asserted of that push.
    let image = Host::bare_image(release).derive("django", &[&content, include_bytes!("django.rs")], one_push);
    let host = Host::boot(&image);
    host.wait_until("the site answers", || status(&host, "/admin/login/") == "200");
    host.wait_until("the daemon is up", || host.ctl("status").code == 0);
    // It looks by itself when it starts: what a scenario does comes after that.
    assert!(host.ctl("sync").ok().contains("nothing to do"));
    host
}

fn contents(place: &Path) -> Vec<u8> {
    let mut entries: Vec<_> = must(fs::read_dir(place)).map(must).map(|entry| entry.path()).collect();
    entries.sort();
    let of = |path: &std::path::PathBuf| if path.is_dir() { contents(path) } else { fs::read(path).unwrap_or_default() };
    entries.iter().flat_map(|path| [path.to_string_lossy().into_owned().into_bytes(), of(path)].concat()).collect()
}

/// The live repository.
#[track_caller]
fn live(host: &Host) -> Repo {
    let repo = host.clone_repo();
    repo.git(&["pull", "--quiet", "origin", "main"]).ok();
    repo
}

/// Somebody who has logged in, as [`LOGIN`] does, asks for pages again and again, and notes what is not 200: one page asks the database for the
/// session and the user, one is a file.
const VISITOR: &str = r#"
import http.client, itertools, time
headers = {"Host": "example.test", "Cookie": "; ".join(f"{c.name}={c.value}" for c in jar)}
with open("/run/visitor", "w", buffering=1) as notes:
    for asked in itertools.count(1):
        path = ["/admin/", "/static/admin/css/base.css"][asked % 2]
        try:
            site = http.client.HTTPConnection("127.0.0.1", timeout=30)
            site.request("GET", path, headers=headers)
            got = site.getresponse()
            got.read()
            word = None if got.status == 200 else got.status
        except OSError as error:
            word = repr(error)
        if word:
            notes.write(f"{path}: {word} at {time.time()}\n")
        open("/run/visits", "w").write(str(asked))
        time.sleep(0.1)
"#;

#[track_caller]
fn visit(host: &Host) {
    host.write("/usr/local/bin/visitor", [LOGIN, VISITOR].concat());
    host.exec(&format!("systemd-run --quiet --unit=visitor python3 /usr/local/bin/visitor {ADMIN}")).ok();
    host.wait_until("somebody visits", || host.exists("/run/visits"));
}

/// Whoever visited was served all the time.
#[track_caller]
fn all_served(host: &Host) {
    assert_eq!(host.read("/run/visitor"), "", "what a visitor got instead of a page");
    let visits = || host.read("/run/visits").parse().unwrap_or(0);
    let before: u64 = visits();
    host.wait_until("somebody visits", || visits() > before + 5);
}

/// What the processes of the site are.
#[derive(Debug, PartialEq, Eq)]
struct Processes {
    nginx: String,
    gunicorn: String,
    postgresql: String,
    socket: String,
}

#[track_caller]
fn processes(host: &Host) -> Processes {
    let property = |unit: &str, name: &str| host.exec(&format!("systemctl show --value -p {name} {unit}")).ok();
    Processes {
        nginx: property("nginx.service", "MainPID"),
        gunicorn: property("gunicorn.service", "MainPID"),
        postgresql: host.sh("head -n 1 /var/lib/postgresql/*/main/postmaster.pid").ok(),
        socket: property("gunicorn.socket", "InvocationID"),
    }
}

/// Changes a file of the repository by replacing a text in it.
#[track_caller]
fn edit(repo: &Repo, path: &str, old: &str, new: &str) {
    let text = must(fs::read_to_string(repo.path().join(path)));
    assert!(text.contains(old), "{path} has no {old}");
    repo.write(path, text.replace(old, new));
}

const SITE: &str = "files/home/sammy/myprojectdir/myproject";

scenario! {
    fn each_change_does_what_it_has_to_and_no_more(host = serving) {
        let repo = live(host);
        visit(host);
        let mut now = processes(host);
        // The application.
        edit(&repo, &format!("{SITE}/urls.py"), "urlpatterns = [", "from django.http import HttpResponse\n\nurlpatterns = [path(\"hello/\", lambda _: HttpResponse(\"hello\")), ");
        repo.commit_and_push().assert_live().says("! restart gunicorn.service");
        let then = std::mem::replace(&mut now, processes(host));
        assert_ne!(then.gunicorn, now.gunicorn);
        assert_eq!(Processes { gunicorn: now.gunicorn.clone(), ..then }, now);
        assert_eq!(status(host, "/hello/"), "200");
        // The site: a reload.
        edit(&repo, "files/etc/nginx/sites-available/myproject.j2", "access_log off;", "access_log off; expires 1d;");
        let push = repo.commit_and_push();
        push.assert_live().says("ok    guard nginx").says("! reload nginx.service");
        assert!(!push.output.contains("command:"), "{}", push.output);
        assert_eq!(processes(host), now);
        let page = host.exec("curl -sI -H Host:example.test http://127.0.0.1/admin/login/").ok();
        assert!(page.contains("\nExpires: "), "{page}");
        // The service: only itself.
        edit(&repo, "files/etc/systemd/system/gunicorn.service", "--workers 3", "--workers 2");
        repo.commit_and_push().assert_live().says("! restart gunicorn.service").says("ExecStart");
        let then = std::mem::replace(&mut now, processes(host));
        assert_ne!(then.gunicorn, now.gunicorn);
        assert_eq!(Processes { gunicorn: now.gunicorn.clone(), ..then }, now);
        // What only people read: nobody.
        edit(&repo, "files/etc/systemd/system/gunicorn.service", "Description=gunicorn daemon", "Description=The site");
        repo.commit_and_push().assert_live();
        assert_eq!(processes(host), now);
        all_served(host);
        // The socket: both, for there is no other way.
        edit(&repo, "files/etc/systemd/system/gunicorn.socket", "ListenStream=/run/gunicorn.sock", "ListenStream=/run/gunicorn.sock\nBacklog=512");
        repo.commit_and_push().assert_live();
        let then = std::mem::replace(&mut now, processes(host));
        assert!(then.gunicorn != now.gunicorn && then.socket != now.socket);
        assert_eq!((then.nginx, then.postgresql), (now.nginx.clone(), now.postgresql.clone()));
        host.write("/run/visitor", "");
        // The same again does nothing.
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        assert_eq!(processes(host), now);
        assert!(logs_in(host));
    }
}

/// An application with a table of its own, a page that counts what is in it, one that fails, and a static file.
const MODEL: &str = "from django.db import models\n\n\nclass Thing(models.Model):\n    name = models.TextField()\n";
const MIGRATION: &str = "from django.db import migrations, models\n\n\nclass Migration(migrations.Migration):\n    initial = True\n    operations = [\n        \
    migrations.CreateModel(\"Thing\", [(\"id\", models.BigAutoField(primary_key=True)), (\"name\", models.TextField())])\n    ]\n";
const PAGES: &str = "from django.http import HttpResponse\nfrom shop.models import Thing\n\nurlpatterns = [\n    \
    path(\"things/\", lambda _: HttpResponse(Thing.objects.count())),\n    path(\"fails/\", lambda _: 1 / 0),\n";

scenario! {
    fn what_its_readme_says_of_changes_holds(host = serving) {
        let repo = live(host);
        visit(host);
        let mut now = processes(host);
        let mut only_gunicorn_is_another = |host: &Host| {
            let then = std::mem::replace(&mut now, processes(host));
            assert_ne!(then.gunicorn, now.gunicorn);
            assert_eq!(Processes { gunicorn: now.gunicorn.clone(), ..then }, now);
        };
        let shop = "files/home/sammy/myprojectdir/shop";
        for (file, text) in [("__init__.py", ""), ("models.py", MODEL), ("migrations/__init__.py", ""), ("migrations/0001_initial.py", MIGRATION), ("static/shop/x.css", "a {}\n")] {
            repo.write(&format!("{shop}/{file}"), text);
        }
        edit(&repo, &format!("{SITE}/settings.py"), "INSTALLED_APPS = [", "INSTALLED_APPS = [\n    \"shop\",");
        edit(&repo, &format!("{SITE}/urls.py"), "urlpatterns = [", PAGES);
        repo.commit_and_push().assert_live().says("command:migrate").says("[undo: none]").says("ok    command:collectstatic");
        only_gunicorn_is_another(host);
        assert_eq!(["/things/", "/static/shop/x.css", "/fails/"].map(|page| status(host, page)), ["200", "200", "500"]);
        host.wait_until("the journal tells of it", || host.exec("journalctl -u gunicorn").stdout.contains("ZeroDivisionError"));
        // Another environment.
        let sqlparse = host.sh("ls /srv/mirror/pip | sed -n 's/^sqlparse-\\([^-]*\\)-.*/\\1/p'").ok();
        edit(&repo, "files/home/sammy/myprojectdir/requirements.txt", "gunicorn==", &format!("sqlparse=={sqlparse}\ngunicorn=="));
        repo.commit_and_push().assert_live().says("~ venv:/home/sammy/myprojectdir/myprojectenv (other requirements)");
        only_gunicorn_is_another(host);
        all_served(host);
        // Secrets: what is made of one changes with it. Who asks the database meanwhile still has the old password.
        host.exec("systemctl stop visitor").ok();
        seal(host, &repo, "db_password", "another-one");
        repo.commit_and_push().assert_live().says("~ postgres_role:myprojectuser").says("! restart gunicorn.service");
        only_gunicorn_is_another(host);
        assert!(logs_in(host));
        seal(host, &repo, "secret_key", "another-9876543210-9876543210");
        repo.commit_and_push().assert_live().says("! restart gunicorn.service");
        only_gunicorn_is_another(host);
        let then = processes(host);
        seal(host, &repo, "admin_password", "another-one");
        assert!(repo.commit_and_push().ok);
        assert_eq!(processes(host), then);
        assert!(logs_in(host), "by the password that it has");
        // Back before the migration, which stays: the code of then lives with it, and with the secrets of then.
        let said = host.ctl("rollback 1").ok();
        assert!(said.contains("command:migrate") && said.contains("which nothing takes back: what it runs has to live with that"), "{said}");
        assert_eq!(["/admin/login/", "/things/"].map(|page| status(host, page)), ["200", "404"]);
        assert!(logs_in(host));
    }
}

/// A push that is taken back, and of which nobody who visits the site learns.
#[track_caller]
fn fails(host: &Host, repo: &Repo, texts: &[&str]) -> Push {
    let push = repo.commit_and_push();
    push.assert_refused("");
    for text in texts {
        push.says(text);
    }
    all_served(host);
    repo.git(&["reset", "--quiet", "--hard", "origin/main"]).ok();
    repo.git(&["clean", "--quiet", "-fd"]).ok();
    assert!(host.ctl("sync").ok().contains("nothing to do"));
    push
}

scenario! {
    fn what_fails_leaves_the_old_site_serving(host = serving) {
        let repo = live(host);
        visit(host);
        let before = processes(host);
        let settings = format!("{SITE}/settings.py");
        // Settings that are no Python: found by the first command that reads them.
        edit(&repo, &settings, "DEBUG = False", "DEBUG = = False");
        let _ = fails(host, &repo, &["SyntaxError"]);
        // A migration that fails.
        edit(&repo, &settings, "INSTALLED_APPS = [", "INSTALLED_APPS = [\n    \"shop\",");
        let shop = "files/home/sammy/myprojectdir/shop";
        repo.write(&format!("{shop}/__init__.py"), "").write(&format!("{shop}/migrations/__init__.py"), "");
        let migration = "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n    operations = [migrations.RunSQL(\"SELECT nothing\")]\n";
        repo.write(&format!("{shop}/migrations/0001_initial.py"), migration);
        let _ = fails(host, &repo, &["command:migrate", "column \"nothing\" does not exist"]);
        // A package that is nowhere.
        edit(&repo, "files/home/sammy/myprojectdir/requirements.txt", "gunicorn==27.0.1", "gunicorn==99.0.0");
        let _ = fails(host, &repo, &["venv:/home/sammy/myprojectdir/myprojectenv", "No matching distribution found for gunicorn==99.0.0"]);
        // A site that nginx does not take.
        edit(&repo, "files/etc/nginx/sites-available/myproject.j2", "listen 80;", "listen 80; no_such_thing on;");
        let _ = fails(host, &repo, &["guard nginx", "unknown directive \"no_such_thing\"", "files/etc/nginx/sites-available/myproject.j2"]);
        // A database that is not where it is said to be.
        edit(&repo, &settings, "\"PORT\": \"\"", "\"PORT\": \"5433\"");
        let _ = fails(host, &repo, &["port 5433 failed: Connection refused"]);
        // A password that is not the role's.
        edit(&repo, "files/etc/myproject.env.j2", "{{ secrets.db_password }}", "wrong");
        let _ = fails(host, &repo, &["password authentication failed for user \"myprojectuser\""]);
        // A disk on which a second environment finds no room.
        host.sh("cd /home/sammy && cp -a myprojectdir aside && mount -t tmpfs -o mode=755,size=$(($(du -sk aside | cut -f1) + 20000))k tmpfs myprojectdir && \
            chown sammy: myprojectdir && cp -a aside/. myprojectdir && systemctl restart gunicorn").ok();
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        host.write("/run/visitor", "");
        edit(&repo, "files/home/sammy/myprojectdir/requirements.txt", "gunicorn==", "--prefer-binary\ngunicorn==");
        let _ = fails(host, &repo, &["venv:/home/sammy/myprojectdir/myprojectenv", "No space left on device", "because: the disk is full: "]);
        assert!(!host.exists("/home/sammy/myprojectdir/.myprojectenv.aside"));
        // Who serves nginx and the database was never touched.
        let now = processes(host);
        assert_eq!((now.nginx, now.postgresql, now.socket), (before.nginx, before.postgresql, before.socket));
        // What only the new process finds: it is taken back to one that serves.
        edit(&repo, "files/etc/systemd/system/gunicorn.service", "--workers 3", "--workers three");
        repo.commit_and_push().assert_refused("gunicorn.service").says("invalid int value: 'three'");
        host.wait_until("the site is back", || status(host, "/admin/login/") == "200");
        assert!(logs_in(host));
    }
}

/// A push that is taken back, after which the site serves as before; the push says why.
#[track_caller]
fn goes_back(host: &Host, repo: &Repo, texts: &[&str]) {
    let push = repo.commit_and_push();
    push.assert_refused("rolled back");
    for text in texts {
        push.says(text);
    }
    host.wait_until("the site is back", || status(host, "/admin/login/") == "200");
    assert!(logs_in(host));
    assert!(host.ctl("sync").ok().contains("nothing to do"));
    repo.git(&["reset", "--quiet", "--hard", "origin/main"]).ok();
}

scenario! {
    fn troubles_that_are_pushed_are_explained_and_go_back(host = serving) {
        let repo = live(host);
        let site = "files/etc/nginx/sites-available/myproject.j2";
        // The default page instead of the application.
        edit(&repo, site, "server_name {{ vars.domain }}", "server_name www.{{ vars.domain }}");
        edit(&repo, "reconciled.toml", "sites-enabled/default", "sites-enabled/other");
        repo.symlink("files/etc/nginx/sites-enabled/default", "/etc/nginx/sites-available/default");
        goes_back(host, &repo, &["404", "because: no server of nginx is named example.test on port 80"]);
        // 502: nothing listens there (2), nobody may (13).
        edit(&repo, site, "unix:/run/gunicorn.sock", "unix:/run/unicorn.sock");
        goes_back(host, &repo, &["502", "because: there is no socket /run/unicorn.sock"]);
        edit(&repo, "files/etc/systemd/system/gunicorn.socket", "ListenStream=", "SocketMode=0600\nListenStream=");
        goes_back(host, &repo, &["502", "because: nginx may not write to /run/gunicorn.sock (0600 root:root)"]);
        // Twice the same header: gunicorn answers 400.
        edit(&repo, site, "include proxy_params;", "include proxy_params; proxy_set_header Host $host;");
        goes_back(host, &repo, &["400"]);
        // A full disk under the database.
        host.sh("systemctl stop gunicorn 'postgresql@*' && cd /var/lib && cp -a postgresql aside && \
            mount -t tmpfs -o mode=755,size=$(($(du -sk aside | cut -f1) + 20000))k tmpfs postgresql && chown postgres: postgresql && \
            cp -a aside/. postgresql").ok();
        host.ctl("sync").ok();
        assert!(logs_in(host));
        host.sh("dd if=/dev/zero of=/var/lib/postgresql/full bs=64k; true").ok();
        let shop = "files/home/sammy/myprojectdir/shop";
        edit(&repo, &format!("{SITE}/settings.py"), "INSTALLED_APPS = [", "INSTALLED_APPS = [\n    \"shop\",");
        let fills = "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n    \
            operations = [migrations.RunSQL(\"CREATE TABLE shop AS SELECT md5(n::text) FROM generate_series(1, 1000000) AS n\")]\n";
        repo.write(&format!("{shop}/__init__.py"), "").write(&format!("{shop}/migrations/__init__.py"), "").write(&format!("{shop}/migrations/0001_initial.py"), fills);
        let push = repo.commit_and_push();
        push.assert_refused("").says("No space left on device").says("because: the disk is full: ");
        host.exec("rm /var/lib/postgresql/full").ok();
        host.ctl("sync").ok();
        host.wait_until("the site is back", || status(host, "/admin/login/") == "200");
        assert!(logs_in(host));
        assert!(host.ctl("sync").ok().contains("nothing to do"));
    }
}

/// What was harmed is brought back by one look.
#[track_caller]
fn healed(host: &Host, what: &str, harm: &str) {
    host.sh(harm).ok();
    let said = host.ctl("sync").ok();
    assert!(said.contains("live and healthy"), "{what}: {said}");
    host.wait_until(what, || status(host, "/admin/login/") == "200" && status(host, "/static/admin/css/base.css") == "200");
    assert!(host.ctl("sync").ok().contains("nothing to do"), "{what}");
}

scenario! {
    fn what_is_edited_or_deleted_comes_back(host = serving) {
        healed(host, "the site of nginx", "rm /etc/nginx/sites-enabled/myproject && systemctl reload nginx");
        healed(host, "its name, and the default site", "sed -i s/example.test/other.test/ /etc/nginx/sites-available/myproject && \
            ln -s /etc/nginx/sites-available/default /etc/nginx/sites-enabled/default && systemctl reload nginx");
        healed(host, "the file of the socket", "rm /run/gunicorn.sock");
        healed(host, "who may write into the socket", "chmod 600 /run/gunicorn.sock");
        healed(host, "who may go to the static files", "chmod 700 /home/sammy/myprojectdir /home/sammy/myprojectdir/static");
        healed(host, "whose the project is", "chown root: /home/sammy/myprojectdir");
        healed(host, "what each start of Python would run", "cd /home/sammy/myprojectdir/myprojectenv/lib/python3*/site-packages && \
            echo 'raise SystemExit(1)' >sitecustomize.py && systemctl restart gunicorn; true");
        healed(host, "the socket, and who may read what", "systemctl stop gunicorn.socket gunicorn.service; rm -f /run/gunicorn.sock; \
            chown root: /home/sammy/myprojectdir/myproject/urls.py && chmod 700 /home/sammy && chmod 644 /etc/myproject.env");
        let whose = host.exec("stat -c %U:%G:%a /home/sammy /home/sammy/myprojectdir/myproject/urls.py /etc/myproject.env").ok();
        assert_eq!(whose, "sammy:sammy:711\nsammy:sammy:644\nroot:root:600");
        healed(host, "settings.py and the static files", "cd /home/sammy/myprojectdir && rm -r myproject/settings.py static");
        healed(host, "the environment, in part", "cd /home/sammy/myprojectdir/myprojectenv && \
            rm -r bin/gunicorn lib/python3*/site-packages/django/core; systemctl restart gunicorn; true");
        healed(host, "the whole project, environment and all", "rm -r /home/sammy/myprojectdir; systemctl restart gunicorn; true");
        healed(host, "the unit", "sed -i s/wsgi:application/wsgi:nothing/ /etc/systemd/system/gunicorn.service && systemctl daemon-reload && systemctl restart gunicorn; true");
        healed(host, "the start limit", "sed -i s,bin/gunicorn,bin/nothing, /etc/systemd/system/gunicorn.service && systemctl daemon-reload; \
            for n in 1 2 3 4 5 6 7; do systemctl restart gunicorn; done; true");
        healed(host, "the secrets", "sed -i s/hunter2/hunter3/ /etc/myproject.env && systemctl restart gunicorn");
        healed(host, "the file of the secrets", "rm /etc/myproject.env && systemctl restart gunicorn; true");
        assert!(logs_in(host));
    }
}

scenario! {
    fn what_is_stopped_dropped_or_removed_comes_back(host = serving) {
        healed(host, "enablement and the firewall", "systemctl disable gunicorn.socket nginx && ufw --force disable");
        assert_eq!(host.exec("systemctl is-enabled gunicorn.socket nginx").ok(), "enabled\nenabled");
        assert!(host.exec("ufw status").ok().contains("Status: active"));
        healed(host, "the firewall that is on by its files alone", "/usr/lib/ufw/ufw-init stop");
        assert!(host.sh("iptables -S INPUT").ok().starts_with("-P INPUT DROP"));
        healed(host, "a masked unit", "systemctl mask --now nginx");
        healed(host, "a server that was removed", "DEBIAN_FRONTEND=noninteractive apt-get -qq remove -y nginx nginx-common");
        healed(host, "a user that was deleted", "systemctl stop gunicorn.socket gunicorn && userdel sammy");
        healed(host, "the database server", "systemctl stop postgresql");
        healed(host, "its one cluster", "systemctl stop 'postgresql@*'");
        healed(host, "the death of its process", "kill -9 $(head -n 1 /var/lib/postgresql/*/main/postmaster.pid); sleep 1");
        let by_postgres = |what: &str, words: &str| healed(host, what, &format!("runuser -u postgres -- psql -q {words}"));
        by_postgres("the password", "-c \"ALTER ROLE myprojectuser PASSWORD 'other'\"");
        by_postgres("who may log in, and whose the database is", "-c 'ALTER ROLE myprojectuser NOLOGIN' -c 'ALTER DATABASE myproject OWNER TO postgres'");
        let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'myproject'";
        assert_eq!(host.exec_with(&["runuser", "-u", "postgres", "--", "psql", "-XAtqc", owner], b"").ok(), "myprojectuser");
        assert!(logs_in(host));
        by_postgres("the migrations and the admin", "myproject -c 'DROP TABLE django_session' \
            -c \"DELETE FROM django_migrations WHERE app = 'sessions'\" -c 'DELETE FROM auth_user'");
        healed(host, "the database", "systemctl stop gunicorn.socket gunicorn && runuser -u postgres -- dropdb -f myproject");
        assert!(logs_in(host));
    }
}

scenario! {
    fn a_bare_host_serves_after_one_push_and_all_comes_back_with_it(host = serving) {
        // The same again does nothing.
        let repo = live(host);
        let before = processes(host);
        repo.commit_and_push().assert_live().says("nothing to change");
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        assert_eq!(processes(host), before);
        host.reboot();
        // The first visitor starts it.
        host.wait_until("the socket listens", || host.exec("systemctl is-active gunicorn.socket").stdout == "active\n");
        assert_eq!(host.exec("systemctl show -P ActiveState gunicorn.service").ok(), "inactive");
        host.wait_until("the site is back", || status(host, "/admin/login/") == "200");
        assert!(logs_in(host));
        host.wait_until("the daemon is back", || host.ctl("status").code <= 1);
        assert!(host.ctl("sync").ok().contains("nothing to do"));
    }
}
