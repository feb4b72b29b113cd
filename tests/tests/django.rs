//! The example of a Django site, from a bare host with one push: what its tutorial wants to hold, holds.

use std::fs;
use std::path::Path;

use reconciled_tests::{Host, Repo, scenario};

/// The example, as the package installs it.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/examples/django");
const ADMIN: &str = "correct-horse-battery";

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
    for (name, plain) in
        [("db_password", "hunter2-hunter2"), ("admin_password", ADMIN), ("secret_key", "0123456789-0123456789-0123456789")]
    {
        let sealed = host.exec_with(&["reconcilectl", "secret", "seal"], plain.as_bytes()).ok();
        repo.write(&format!("secrets/{name}.age"), sealed);
    }
    repo
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

scenario! {
    fn a_bare_host_serves_the_site_after_one_push(host: reached) {
        let repo = example(host);
        repo.commit_and_push().assert_live();
        assert!(logs_in(host));
        assert_eq!(status(host, "/static/admin/css/base.css"), "200");
        assert_eq!(host.exec("stat -c %U:%G:%a /home/sammy /etc/myproject.env").ok(), "sammy:sammy:711\nroot:root:600");
        // The same again does nothing.
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        let _ = repo.push();
        // All comes back with the host.
        host.reboot();
        host.wait_until("the site is back", || status(host, "/admin/login/") == "200");
        assert!(logs_in(host));
        host.wait_until("the daemon is back", || host.ctl("status").code <= 1);
        assert!(host.ctl("sync").ok().contains("nothing to do"));
    }
}
