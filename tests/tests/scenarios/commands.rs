//! Commands of applications: asked, done once, taken back where something takes them back, and said where nothing does.

use reconciled_tests::{Host, Repo, scenario};

const UNIT: &str = "[Unit]\nDescription=The site\n[Service]\nType=notify\nUser=sammy\nGroup=www-data\nWorkingDirectory=/home/sammy/site\n\
    Environment=\"DJANGO_SETTINGS_MODULE=shop.settings\" LANG=C.UTF-8\nEnvironmentFile=/home/sammy/site.env\n\
    ExecStart=/home/sammy/env/bin/gunicorn --bind 127.0.0.1:8000 shop.wsgi\n[Install]\nWantedBy=multi-user.target\n";
const SETTINGS: &str = "import os\nSECRET_KEY = os.environ['SHOP_KEY']\nALLOWED_HOSTS = ['*']\nROOT_URLCONF = 'shop.urls'\n\
    INSTALLED_APPS = ['django.contrib.auth', 'django.contrib.contenttypes']\nDEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'\n\
    DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': '/home/sammy/site/db.sqlite3'}}\n";
const URLS: &str = "from django.contrib.auth.models import User\nfrom django.http import HttpResponse\nfrom django.urls import path\n\
    urlpatterns = [path('', lambda request: HttpResponse(f'{User.objects.count()} users'))]\n";
const MANAGE: &str =
    "import sys\nfrom django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)\n";
const WSGI: &str = "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n";
const COMMANDS: &str = r#"
[[command]]
name = "migrate"
like = "gunicorn.service"
ask = ["python", "manage.py", "migrate", "--check"]
forward = ["python", "manage.py", "migrate", "--no-input"]

[[command]]
name = "admin"
like = "gunicorn.service"
environment = { DJANGO_SUPERUSER_PASSWORD = "correct horse" }
ask = ["python", "manage.py", "shell", "-c", "from django.contrib.auth.models import User; import sys; sys.exit(not User.objects.filter(username='admin'))"]
forward = ["python", "manage.py", "createsuperuser", "--no-input", "--username", "admin", "--email", "admin@shop.example"]

[[probe]]
name = "site"
http = { url = "http://127.0.0.1:8000/", body = "1 users" }
"#;

#[track_caller]
fn wheel(host: &Host, name: &str) -> String {
    let version = host.sh(&format!("ls /srv/mirror/pip | sed -n 's/^{name}-\\([^-]*\\)-.*/\\1/p' | head -n 1")).ok();
    format!("{name}=={version}")
}

/// A Django site in the repository, of a user that was made by hand.
#[track_caller]
fn django(host: &Host) -> Repo {
    host.exec("useradd --create-home sammy").ok();
    let repo = host.clone_repo();
    let packages = [wheel(host, "django"), wheel(host, "gunicorn")].map(|wheel| format!("\"{wheel}\"")).join(", ");
    repo.write(
        "reconciled.toml",
        format!("packages = [\"python3-venv\"]\nunits = [\"gunicorn.service\"]\n[[venv]]\npath = \"/home/sammy/env\"\npackages = [{packages}]\n{COMMANDS}"),
    );
    repo.write("files/etc/systemd/system/gunicorn.service", UNIT).write("files/home/sammy/site.env", "SHOP_KEY=hidden\n");
    for (name, text) in [("__init__", ""), ("settings", SETTINGS), ("urls", URLS), ("wsgi", WSGI)] {
        repo.write(&format!("files/home/sammy/site/shop/{name}.py"), text);
    }
    repo.write("files/home/sammy/site/manage.py", MANAGE);
    repo
}

scenario! {
    fn a_django_site_is_migrated_and_gets_its_first_user(host: reached) {
        let repo = django(host);
        let push = repo.commit_and_push();
        push.assert_live();
        push.says("command:migrate (asked when all else is in place: python manage.py migrate --no-input) [undo: none]");
        push.says("ok    command:migrate").says("ok    command:admin").says("probe site: 200");
        assert_eq!(host.exec("stat -c %U:%G /home/sammy/site/db.sqlite3").ok(), "sammy:www-data");
        // Done is done, also for a push that changes something else.
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        let push = repo.write("files/etc/motd", "hello\n").commit_and_push();
        assert!(!push.assert_live().output.contains("command:"), "{}", push.output);
        // A user that somebody deletes comes back.
        let delete = "python manage.py shell -c 'from django.contrib.auth.models import User; User.objects.all().delete()'";
        let environment = "DJANGO_SETTINGS_MODULE=shop.settings SHOP_KEY=x PATH=/home/sammy/env/bin:/usr/bin";
        host.sh(&format!("cd /home/sammy/site && runuser -u sammy -- env {environment} {delete}")).ok();
        assert!(host.ctl("diff").stdout.contains("command:admin (to do: "));
        host.ctl("sync").ok();
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // New code that does not start is told in its own words, and the site stays as it was.
        repo.write("files/home/sammy/site/shop/settings.py", format!("{SETTINGS}INSTALLED_APPS += ['no_such_app']\n"));
        repo.commit_and_push().assert_refused("rolled back").says("No module named 'no_such_app'");
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // Its password was an argument of nobody.
        assert!(!host.sh("journalctl -o export | grep -a 'correct horse'").stdout.contains("correct"));
    }
}

/// A table of a command that writes its word to a log.
fn command(name: &str, keys: &str) -> String {
    format!("[[command]]\nname = \"{name}\"\nforward = [\"sh\", \"-c\", \"echo {name} >>/srv/log\"]\n{keys}")
}

const RED: &str = "[[probe]]\nname = \"red\"\nattempts = 1\ncommand = [\"/bin/false\"]\n";

#[track_caller]
fn log(host: &Host) -> String {
    host.sh("cat /srv/log 2>/dev/null; true").stdout.replace('\n', " ").trim().to_owned()
}

scenario! {
    fn what_is_red_takes_back_what_can_be_and_says_what_stays(host: installed) {
        let repo = host.clone_repo();
        repo.write("files/etc/x", "x\n").commit_and_push().assert_live();
        let backward = "backward = [\"sh\", \"-c\", \"echo back >>/srv/log\"]\n";
        repo.write("reconciled.toml", [command("one", backward), command("two", ""), RED.to_owned()].concat());
        let push = repo.commit_and_push();
        push.assert_refused("rolled back").says("~ command:one (sh -c").says("command:two: has run, and nothing takes it back");
        assert_eq!(log(host), "one two back");
        // One that fails takes back those before it, and says what it said.
        host.exec("rm /srv/log").ok();
        let fails = "[[command]]\nname = \"three\"\nuser = \"www-data\"\nforward = [\"sh\", \"-c\", \"id -un; echo it went wrong >&2; exit 3\"]\n";
        repo.write("reconciled.toml", [command("one", backward), fails.to_owned()].concat());
        repo.commit_and_push().assert_refused("rolled back").says("command:three: exit code 3").says("www-data").says("it went wrong");
        assert_eq!(log(host), "one back");
        // Nothing of it has a shell, a program that is nowhere, or a user whom nobody knows.
        repo.write("reconciled.toml", "[[command]]\nname = \"x\"\nforward = [\"no-such-program\"]\n");
        repo.commit_and_push().assert_refused("`no-such-program` is in none of /usr/local/sbin");
        repo.write("reconciled.toml", command("x", "user = \"nobody-here\"\n"));
        repo.commit_and_push().assert_refused("the user `nobody-here` is neither on this host nor declared");
    }
}

scenario! {
    fn without_a_question_it_runs_once_and_for_what_it_watches(host: installed) {
        let repo = host.clone_repo();
        let watching = command("watch", "watch = [\"/srv/static/**\"]\n");
        let manifest = [command("last", "after = [\"command:first\"]\n"), command("first", ""), watching].concat();
        repo.write("reconciled.toml", &manifest).write("files/srv/static/a.css", "a\n").commit_and_push().assert_live();
        assert_eq!(log(host), "first last watch");
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        repo.write("files/etc/x", "x\n").commit_and_push().assert_live();
        assert_eq!(log(host), "first last watch");
        repo.write("files/srv/static/a.css", "b\n").commit_and_push().assert_live().says("/srv/static/a.css changed");
        assert_eq!(log(host), "first last watch watch");
        // What has changed runs again; what goes leaves what it has done.
        repo.write("reconciled.toml", manifest.replace("echo first", "echo once")).commit_and_push().assert_live();
        assert_eq!(log(host), "first last watch watch once");
        repo.remove("reconciled.toml").commit_and_push().assert_live().says("command:first is let go: what it has done stays");
        host.ctl("rollback 1").ok();
        assert_eq!(log(host), "first last watch watch once first last watch");
    }
}

scenario! {
    fn the_question_of_a_key_that_may_only_preview_is_not_asked(host: installed) {
        let repo = host.clone_repo();
        repo.write("files/etc/x", "x\n").commit_and_push().assert_live();
        // The question is code of whoever pushes it, and would be asked of the live host, as root.
        let asks = "[[command]]\nname = \"x\"\nask = [\"sh\", \"-c\", \"touch /root/asked; exit 1\"]\nforward = [\"true\"]\n";
        let ci = host.clone_repo_as("ci", &["--preview"]);
        ci.write("reconciled.toml", asks).commit();
        ci.push_to(&["HEAD:refs/heads/try"]).assert_live().says("command:x (not asked for a key that may only preview: true)");
        assert!(!host.exists("/root/asked"));
        repo.write("reconciled.toml", asks).commit();
        repo.push_to(&["HEAD:refs/heads/try"]).assert_live().says("command:x (to do: true)");
        assert!(host.exists("/root/asked"));
    }
}
