//! Virtual environments: built beside their place, swapped in whole, healed, taken back; who runs from them is restarted.

use reconciled_tests::{Host, Repo, scenario};

const ENV: &str = "/home/sammy/env";
const REQUIREMENTS: &str = "files/home/sammy/requirements.txt";
const UNIT: &str = "[Unit]\nDescription=The site\n[Service]\nType=notify\nUser=sammy\nGroup=www-data\nWorkingDirectory=/home/sammy/site\n\
    ExecStart=/home/sammy/env/bin/gunicorn --bind 127.0.0.1:8000 app:app\n[Install]\nWantedBy=multi-user.target\n";

/// A requirement that the host's index has, with the version that it has.
#[track_caller]
fn wheel(host: &Host, name: &str) -> String {
    let version = host.sh(&format!("ls /srv/mirror/pip | sed -n 's/^{name}-\\([^-]*\\)-.*/\\1/p' | head -n 1")).ok();
    format!("{name}=={version}")
}

fn manifest(body: &str) -> String {
    format!(
        "packages = [\"python3-venv\"]\nunits = [\"gunicorn.service\"]\n\
         [[venv]]\npath = \"{ENV}\"\nrequirements = \"/home/sammy/requirements.txt\"\n\
         [[probe]]\nname = \"site\"\nattempts = 4\nhttp = {{ url = \"http://127.0.0.1:8000/\", body = \"{body}\" }}\n"
    )
}

/// A host with a user made by hand, and a site of theirs in the repository.
#[track_caller]
fn site(host: &Host) -> Repo {
    host.exec("useradd --create-home --shell /bin/bash sammy").ok();
    let repo = host.clone_repo();
    repo.write("reconciled.toml", manifest("one")).write("files/etc/systemd/system/gunicorn.service", UNIT);
    repo.write("files/home/sammy/site/app.py", "def app(environ, start):\n    start('200 OK', [])\n    return [b'one']\n");
    repo.write(REQUIREMENTS, format!("# What the site needs.\n{}\n", wheel(host, "gunicorn")));
    repo
}

/// All that is in the environment, but for what Python compiles.
#[track_caller]
fn digest(host: &Host) -> String {
    let what = "-not -name '*.pyc' \\( -type f -exec sha256sum {} + -o -type l -printf '%p %l\\n' \\)";
    host.sh(&format!("cd {ENV} && find . {what} | sort | sha256sum")).ok()
}

#[track_caller]
fn pid(host: &Host) -> String {
    host.exec("systemctl show -P MainPID gunicorn").ok()
}

scenario! {
    fn a_service_runs_from_an_environment_that_is_swapped_in_whole(host: reached) {
        let repo = site(host);
        let push = repo.commit_and_push();
        push.assert_live().says("+ venv:/home/sammy/env (build) [undo: best effort]");
        assert_eq!(host.exec(&format!("stat -c %U {ENV} {ENV}/bin/gunicorn")).ok(), "sammy\nsammy");
        assert!(host.read("/home/sammy/env/bin/gunicorn").starts_with("#!/home/sammy/env/bin/python"));
        assert_eq!(host.sh(&format!("grep -rIl env.aside {ENV} | grep -v -e .reconciled -e __pycache__")).stdout, "");
        let (first, built) = (pid(host), digest(host));
        assert!(host.ctl("sync").ok().contains("nothing to do"));

        // What cannot be installed leaves the old one as it was, and whoever runs from it.
        let gunicorn = wheel(host, "gunicorn");
        repo.write(REQUIREMENTS, format!("{gunicorn}\nno-such-thing==1.0\n"));
        repo.commit_and_push().assert_refused("rolled back").says("venv:/home/sammy/env: exit code").says("no-such-thing==1.0");
        assert_eq!((pid(host), digest(host)), (first.clone(), built.clone()));
        assert!(!host.exists("/home/sammy/.env.aside"));
        repo.write(REQUIREMENTS, format!("{gunicorn}\n\ngevent\n"));
        repo.commit_and_push().assert_refused("files/home/sammy/requirements.txt:3: `gevent` names no exact version");

        // Another package: swapped in, and the service starts anew from it.
        repo.write(REQUIREMENTS, format!("{gunicorn}\n{}\n", wheel(host, "sqlparse")));
        let push = repo.commit_and_push();
        push.assert_live().says("~ venv:/home/sammy/env (other requirements)");
        push.says("! restart gunicorn.service (its virtual environment /home/sammy/env changed)");
        let (second, with_more) = (pid(host), digest(host));
        assert!(second != first && with_more != built);
        host.sh("/home/sammy/env/bin/python -c 'import sqlparse'").ok();
        assert!(host.exists("/home/sammy/.env.aside/bin/gunicorn"), "the one before it waits beside it");

        // What is red after the swap goes back, and so does the process.
        repo.write("reconciled.toml", manifest("two")).write(REQUIREMENTS, format!("{gunicorn}\n"));
        repo.commit_and_push().assert_refused("rolled back").says("restart gunicorn.service");
        assert_eq!(digest(host), with_more);
        assert!(pid(host) != second && !host.exists("/home/sammy/.env.aside"));
    }
}

scenario! {
    fn damage_is_healed_and_what_pip_added_goes(host: reached) {
        let repo = site(host);
        repo.commit_and_push().assert_live();
        let first = pid(host);
        let module = host.sh(&format!("ls {ENV}/lib/python3*/site-packages/gunicorn/app/base.py")).ok();
        host.exec(&format!("rm {module}")).ok();
        assert!(host.ctl("diff").stdout.contains("site-packages/gunicorn/app/base.py is missing"));
        host.ctl("sync").ok();
        assert!(host.exists(&module) && pid(host) != first);
        host.exec(&format!("runuser -u sammy -- {ENV}/bin/pip -q install sqlparse")).ok();
        assert!(host.ctl("diff").stdout.contains("sqlparse"));
        host.ctl("sync").ok();
        assert!(host.sh(&format!("ls {ENV}/lib/python3*/site-packages | grep -c sqlparse")).stdout.starts_with('0'));
        host.exec(&format!("chmod -x {ENV}/bin/gunicorn")).ok();
        assert!(host.ctl("diff").stdout.contains("bin/gunicorn has changed"));
        host.ctl("sync").ok();
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // What leaves the repository is let go; what is declared absent goes.
        repo.remove("files/etc/systemd/system").write("reconciled.toml", "allow_empty = true\n");
        repo.commit_and_push().assert_live().says("venv:/home/sammy/env is let go");
        assert!(host.exists("/home/sammy/env/bin/gunicorn"));
        repo.write("reconciled.toml", format!("[[venv]]\npath = \"{ENV}\"\nstate = \"absent\"\n"));
        repo.commit_and_push().assert_live().says("- venv:/home/sammy/env (unwanted)");
        assert!(!host.exists(ENV));
    }
}

scenario! {
    fn a_daemon_that_dies_while_it_builds_leaves_the_old_one(host: reached) {
        let repo = site(host);
        repo.commit_and_push().assert_live();
        let built = digest(host);
        repo.write(REQUIREMENTS, format!("{}\n{}\n", wheel(host, "gunicorn"), wheel(host, "django").replace("django", "Django")));
        repo.commit();
        let pushing = repo.start_push(&["HEAD:refs/heads/main"]);
        host.wait_until("the build has begun", || host.exists("/home/sammy/.env.aside/bin/python"));
        host.exec("systemctl kill --signal=KILL reconciled").ok();
        assert!(!pushing.wait().ok);
        host.wait_until("the daemon is back", || host.ctl("status --json").code == 0 && host.status()["phase"] == "idle");
        assert_eq!(host.exec("systemctl list-units --plain --no-legend reconciled-step-*").ok(), "", "what it had started has ended");
        assert_eq!(digest(host), built);
        repo.commit_and_push().assert_live();
        host.sh("/home/sammy/env/bin/python -c 'import django'").ok();
        assert!(host.ctl("sync").ok().contains("nothing to do"));
    }
}

scenario! {
    fn hashes_an_index_an_interpreter_and_an_owner_are_as_they_are_said(host: reached) {
        let repo = host.clone_repo();
        // No settings of pip's: the file says where packages come from.
        host.sh("rm /etc/pip.conf && ln -s /usr/bin/python3 /usr/local/bin/snake").ok();
        let sum = host.sh("sha256sum /srv/mirror/pip/gunicorn-* | head -n 1 | cut -c -64").ok();
        let pinned = |sum: &str| format!("--no-index\n--find-links /srv/mirror/pip\n{} \\\n    --hash=sha256:{sum}\n", wheel(host, "gunicorn"));
        repo.write("reconciled.toml", "packages = [\"python3-venv\"]\n[[directory]]\npath = \"/srv/app\"\nowner = \"www-data\"\n\
            [[venv]]\npath = \"/srv/app/env\"\nowner = \"www-data\"\ninterpreter = \"/usr/local/bin/snake\"\nrequirements = \"/etc/requirements.txt\"\n");
        repo.write("files/etc/requirements.txt", pinned(&sum)).commit_and_push().assert_live();
        let look = || host.sh("cd /srv/app/env && stat -c %U . bin/gunicorn && grep ^home pyvenv.cfg && readlink bin/snake bin/python; bin/gunicorn --version").ok();
        let built = look();
        assert!(built.starts_with("www-data\nwww-data\nhome = /usr/local/bin\n/usr/local/bin/snake\nsnake\ngunicorn "), "{built}");
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // What is not what was pinned is not taken.
        let other = format!("{}0", &sum[1..]);
        repo.write("files/etc/requirements.txt", pinned(&other)).commit_and_push().assert_refused("rolled back").says("DO NOT MATCH THE HASHES");
        assert_eq!(look(), built);
        assert!(host.ctl("sync").ok().contains("nothing to do"));
    }
}
