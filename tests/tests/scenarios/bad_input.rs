//! Repositories made to hurt: each is refused with one clear line, nothing moves, the daemon lives on and stays small.
//!
//! Trees are written byte by byte with git's plumbing, because git itself would not make most of them.

use std::cell::RefCell;

use reconciled_tests::{Host, Push, Repo, scenario};

use crate::shop::look::{assert_untouched, quiet};
use crate::shop::{MANIFEST, SITE_IN_GIT, assert_live, open_shop, served, site};

/// The most memory that any one process may ever have had. The largest pack of this file, taken apart, is 200 MB.
const MEMORY_KIB: u64 = 100 * 1024;

/// One entry of a tree: its mode as git writes it, its name as bytes, its object.
type Entry<'a> = (&'a str, &'a [u8], &'a str);

/// What is too large, the tree that is, and words of its refusal.
type Large<'a> = (&'a str, &'a dyn Fn() -> String, &'a [&'a str]);

/// Writes an object as it is, however malformed.
#[track_caller]
fn object(repo: &Repo, kind: &str, content: &[u8]) -> String {
    repo.git_with(&["hash-object", "-t", kind, "-w", "--stdin", "--literally"], content).ok()
}

/// Writes a tree of these entries, in this order.
#[track_caller]
fn tree(repo: &Repo, entries: &[Entry<'_>]) -> String {
    let hex = |id: &str| (0..20).map(|i| u8::from_str_radix(&id[2 * i..2 * i + 2], 16).expect("an id")).collect::<Vec<u8>>();
    let entry = |(mode, name, id): &Entry<'_>| [mode.as_bytes(), b" ", name, b"\0", &hex(id)].concat();
    object(repo, "tree", &entries.iter().flat_map(entry).collect::<Vec<u8>>())
}

/// A tree with these entries under `files/etc`, and the shop's manifest.
fn in_etc(repo: &Repo, entries: &[Entry<'_>]) -> String {
    let etc = tree(repo, entries);
    let files = tree(repo, &[("40000", b"etc", &etc)]);
    let manifest = object(repo, "blob", MANIFEST.as_bytes());
    tree(repo, &[("40000", b"files", &files), ("100644", b"reconciled.toml", &manifest)])
}

/// Commits a tree on top of what the work tree is at, and pushes it.
#[track_caller]
fn push_tree(repo: &Repo, tree: &str) -> Push {
    let commit = repo.git(&["commit-tree", tree, "-p", "HEAD", "-m", "made to hurt"]).ok();
    repo.push_to(&[&format!("{commit}:refs/heads/main")])
}

/// Host and branch as they were, and the same daemon.
struct Before {
    commit: String,
    host: String,
    daemon: String,
    wrong: RefCell<Vec<String>>,
}

impl Before {
    #[track_caller]
    fn of(host: &Host, repo: &Repo) -> Before {
        let commit = repo.remote_main().expect("something is live");
        Before {
            commit,
            host: quiet(host),
            daemon: host.exec("systemctl show -P MainPID reconciled").ok(),
            wrong: RefCell::default(),
        }
    }

    /// Notes where a push was not refused in these words, on one line that is safe to show, and insists that nothing moved.
    #[track_caller]
    fn refused(&self, host: &Host, repo: &Repo, push: &Push, what: &str, words: &[&str]) {
        eprintln!("--- {what}\n{}", push.output);
        let hidden = |c: char| (c.is_control() && !"\n\t\r\u{1b}".contains(c)) || "\u{202e}\u{200b}\u{200c}".contains(c);
        for (holds, rule) in [
            (!push.ok, "a refusal"),
            (push.output.lines().any(|line| words.iter().all(|word| line.contains(word))), "one line with these words"),
            (!push.output.contains(hidden), "nothing that a terminal obeys"),
            (push.output.lines().count() <= 25, "a clear word, not a flood"),
        ] {
            if !holds {
                self.wrong.borrow_mut().push(format!("{what}: expected {rule}: {words:?}:\n{}", push.output));
            }
        }
        assert_live(host, repo, &self.commit);
        assert_untouched(host, &self.host);
        assert_eq!(host.exec("systemctl show -P MainPID reconciled").ok(), self.daemon, "{what}: the daemon");
    }

    /// Insists that all were refused well.
    #[track_caller]
    fn all_refused(self) {
        let wrong = self.wrong.into_inner();
        assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// Notes the most memory that any process of a pusher, any worker and the daemon ever had (`VmHWM` of proc_pid_status(5),
/// which only grows, so that a look every few milliseconds misses little), by name, in KiB.
const WATCH: &str = r#"
import glob, pwd, time
uid, peaks = str(pwd.getpwnam("reconciled").pw_uid), {}
while True:
    for path in glob.glob("/proc/[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in open(path))
            ours = fields["Uid"].split()[0] == uid or "reconciled" in open(path.replace("status", "cgroup")).read()
            name, peak = fields["Name"].strip(), int(fields["VmHWM"].split()[0])
        except (OSError, KeyError, ValueError):
            continue
        if ours and peak > peaks.get(name, 0):
            peaks[name] = peak
            open("/run/systemd/peaks", "w").write("".join(f"{peak} {name}\n" for name, peak in peaks.items()))
    time.sleep(0.003)
"#;

scenario! {
    fn mistakes_in_the_manifest_are_told_with_their_place(host: with_nginx on bookworm) {
        let repo = open_shop(host, "one");
        host.sh("mkdir -p /srv/real && ln -s /srv/real /srv/alias && mkdir /etc/shop && mkfifo /etc/pipe").ok();
        let before = Before::of(host, &repo);
        for (what, manifest, words) in [
            ("an unknown key", "nonsense = 1\n", &["unknown key `nonsense`"][..]),
            ("a misspelt key", "[[unit]]\nname = \"nginx.service\"\nenabeld = true\n", &["enabeld"]),
            ("a wrong type", "units = \"nginx.service\"\n", &["units"]),
            ("a number for a text", "[[file]]\npath = 5\n", &["path"]),
            ("a mode that is no mode", "[[file]]\npath = \"/etc/x\"\ncontent = \"\"\nmode = \"0999\"\n", &["mode"]),
            ("a mode that is a number", "[[file]]\npath = \"/etc/x\"\ncontent = \"\"\nmode = 644\n", &["mode"]),
            ("a user that is not there", "[[file]]\npath = \"/etc/x\"\ncontent = \"\"\nowner = \"nosuchuser\"\n", &["nosuchuser"]),
            ("a group that is not there", "[[file]]\npath = \"/etc/x\"\ncontent = \"\"\ngroup = \"nosuchgroup\"\n", &["nosuchgroup"]),
            ("one claim twice", "units = [\"nginx.service\"]\n[[unit]]\nname = \"nginx.service\"\n", &["nginx.service is claimed twice"]),
            ("a path that climbs", "[[file]]\npath = \"/etc/../x\"\ncontent = \"\"\n", &["`..`"]),
            ("a relative path", "[[file]]\npath = \"etc/x\"\ncontent = \"\"\n", &["absolute"]),
            ("a place of the kernel", "[[file]]\npath = \"/proc/sys/kernel/core_pattern\"\ncontent = \"\"\n", &["/proc"]),
            ("our own state", "[[file]]\npath = \"/var/lib/reconciled/state.db\"\ncontent = \"\"\n", &["never managed"]),
            ("control characters", "[[file]]\npath = \"/etc/a\\u001bb\"\ncontent = \"\"\n", &["U+001B"]),
            ("case twins", "[[file]]\npath = \"/etc/Shop.conf\"\ncontent = \"\"\n[[file]]\npath = \"/etc/shop.conf\"\ncontent = \"\"\n", &["differ only in case"]),
            ("not TOML", "units = [\n", &["reconciled.toml"]),
            ("not UTF-8", "units = [\"\u{fffd}\"]\n", &["unit"]),
            ("a bad probe", "[[probe]]\nname = \"x\"\nhttp = { url = \"ftp://x/\" }\n", &["ftp"]),
            ("a unit name that is a path", "units = [\"../../x.service\"]\n", &["../../x.service"]),
            ("a directory that is a file", "directories = [\"/etc/passwd\"]\n", &["/etc/passwd"]),
            ("a file that is a directory", "[[file]]\npath = \"/etc/shop\"\ncontent = \"\"\n", &["/etc/shop"]),
            ("a file that is a FIFO", "[[file]]\npath = \"/etc/pipe\"\ncontent = \"\"\n", &["/etc/pipe"]),
            ("a file below a file", "[[file]]\npath = \"/etc/passwd/x\"\ncontent = \"\"\n", &["/etc/passwd"]),
            ("a symlinked parent", "[[file]]\npath = \"/srv/alias/x\"\ncontent = \"\"\n", &["/srv/alias", "/srv/real"]),
            ("a parent that Debian links", "[[file]]\npath = \"/bin/x\"\ncontent = \"\"\n", &["/bin", "/usr/bin"]),
        ] {
            repo.write("reconciled.toml", manifest);
            let push = repo.commit_and_push();
            before.refused(host, &repo, &push, what, words);
            // What the manifest alone shows is told with its place; what the host shows, with its name.
            let of_host = words.iter().any(|word| word.starts_with(['/', 'n']) && !word.contains(' '));
            assert!(of_host || push.output.contains("--> reconciled.toml:"), "{what}: no place in\n{}", push.output);
        }
        before.all_refused();
        assert_eq!(served(host).0, "one");
    }
}

scenario! {
    fn malformed_trees_are_refused_by_name(host: with_nginx on bookworm) {
        let repo = open_shop(host, "one");
        let before = Before::of(host, &repo);
        let blob = object(&repo, "blob", b"x\n");
        let link = object(&repo, "blob", b"/etc/shadow");
        let commit = repo.head();
        let inner = tree(&repo, &[("100644", b"x", &blob)]);
        let long = vec![b'x'; 300];
        let cases: &[(&str, &[Entry<'_>], &[&str])] = &[
            ("dot dot", &[("40000", b"..", &inner)], &["'..'"]),
            ("dot", &[("40000", b".", &inner)], &["'.'"]),
            (".git", &[("40000", b".git", &inner)], &[".git"]),
            (".GIT", &[("40000", b".GIT", &inner)], &[".git"]),
            ("an HFS .git", &[("40000", ".g\u{200c}it".as_bytes(), &inner)], &[".git"]),
            ("an NTFS .git", &[("40000", b"git~1", &inner)], &[".git"]),
            ("a slash", &[("100644", b"a/b", &blob)], &["full pathnames"]),
            ("an empty name", &[("100644", b"", &blob)], &["empty"]),
            ("a name that is not UTF-8", &[("100644", b"\xff\xfe", &blob)], &["files/etc/", "UTF-8"]),
            ("a line break", &[("100644", b"a\nb", &blob)], &["files/etc/a", "U+000A"]),
            ("an escape sequence", &[("100644", b"a\x1b[2Jb", &blob)], &["files/etc/a", "U+001B"]),
            ("a direction override", &[("100644", "a\u{202e}b".as_bytes(), &blob)], &["files/etc/a", "U+202E"]),
            ("an invisible character", &[("100644", "a\u{200b}b".as_bytes(), &blob)], &["files/etc/a", "U+200B"]),
            ("a long name", &[("100644", &long, &blob)], &["255 bytes"]),
            ("the same name twice", &[("100644", b"a", &blob), ("100644", b"a", &link)], &["duplicate"]),
            ("a file and a folder of one name", &[("100644", b"a", &blob), ("40000", b"a", &inner)], &["duplicate"]),
            ("names that differ in case", &[("100644", b"A.conf", &blob), ("100644", b"a.conf", &blob)], &["differ only in case"]),
            ("a submodule", &[("160000", b"sub", &commit)], &["files/etc/sub is a submodule"]),
            ("a set-user-ID mode", &[("104755", b"suid", &blob)], &["suid", "104755"]),
            ("a group-writable mode", &[("100664", b"loose", &blob)], &["loose", "100664"]),
            ("a device's mode", &[("20000", b"dev", &blob)], &["20000"]),
            ("a mode with a zero", &[("0100644", b"zero", &blob)], &["zero"]),
            ("our staging's name", &[("40000", b".reconciled", &inner)], &[".reconciled"]),
            ("a file that is a tree", &[("100644", b"a", &inner)], &["is a tree, not a blob"]),
            ("a folder that is a file", &[("40000", b"a", &blob)], &[""]),
            ("a link where a folder is", &[("120000", b"nginx", &link)], &["/etc/nginx"]),
            ("a file where a folder is", &[("100644", b"nginx", &blob)], &["/etc/nginx"]),
        ];
        for (what, entries, words) in cases {
            let push = push_tree(&repo, &in_etc(&repo, entries));
            before.refused(host, &repo, &push, what, words);
        }
        before.all_refused();
        // Links are data: what they point at is never read, and nothing is written through them.
        host.write("/srv/canary", "CANARY-OF-THE-HOST\n");
        let before = Before::of(host, &repo);
        let canary = object(&repo, "blob", b"/srv/canary");
        for (what, entries) in [
            ("a manifest that is a link", vec![("120000", &b"reconciled.toml"[..], canary.as_str())]),
            ("files/ that is a link", vec![("120000", b"files", canary.as_str())]),
            ("files/ that is a file", vec![("100644", b"files", blob.as_str())]),
        ] {
            let push = push_tree(&repo, &tree(&repo, &entries));
            before.refused(host, &repo, &push, what, &[]);
            assert!(!push.output.contains("CANARY"), "{}", push.output);
        }
        before.all_refused();
        assert_eq!(served(host).0, "one");
    }
}

scenario! {
    fn what_is_too_large_is_refused_before_it_is_read(host: with_nginx on bookworm) {
        let repo = open_shop(host, "one");
        let blob = object(&repo, "blob", b"x\n");
        host.exec_with(&["systemd-run", "--quiet", "--unit=watch-memory", "python3", "-c", WATCH], b"").ok();
        host.wait_until("the watch has begun", || host.exists("/run/systemd/peaks"));
        let before = Before::of(host, &repo);

        let many = |names: &[String], object: &str| {
            in_etc(&repo, &names.iter().map(|name| ("100644", name.as_bytes(), object)).collect::<Vec<_>>())
        };
        let wide = || many(&(0..200_000).map(|i| format!("{i:06}")).collect::<Vec<_>>(), &blob);
        let bomb = || {
            let mut bomb = blob.clone();
            for level in 0..10 {
                let mode = if level == 0 { "100644" } else { "40000" };
                let names: Vec<[u8; 1]> = (b'a'..=b'j').map(|c| [c]).collect();
                bomb = tree(&repo, &names.iter().map(|name| (mode, name.as_slice(), bomb.as_str())).collect::<Vec<_>>());
            }
            in_etc(&repo, &[("40000", b"bomb", &bomb)])
        };
        let deep = || {
            let deep = (0..200).fold(tree(&repo, &[("100644", b"x", &blob)]), |deep, _| tree(&repo, &[("40000", b"d", &deep)]));
            in_etc(&repo, &[("40000", b"deep", &deep)])
        };
        let big = || in_etc(&repo, &[("100644", b"big", &object(&repo, "blob", &vec![0; 200 << 20]))]);
        let halves = || {
            let halves: Vec<String> = (0..10).map(|i| object(&repo, "blob", &vec![i; 15 << 20])).collect();
            let names: Vec<String> = (0..10).map(|i| format!("half{i}")).collect();
            let entries = names.iter().zip(&halves).map(|(name, id)| ("100644", name.as_bytes(), id.as_str()));
            in_etc(&repo, &entries.collect::<Vec<_>>())
        };
        let long = || in_etc(&repo, &[("120000", b"link", &object(&repo, "blob", &vec![b'/'; 1 << 20]))]);
        let manifest = |text: String| tree(&repo, &[("100644", b"reconciled.toml", &object(&repo, "blob", text.as_bytes()))]);
        let nested = || manifest(format!("units = {}{}\n", "[".repeat(200_000), "]".repeat(200_000)));
        let tables = || manifest("[[file]]\npath = \"/etc/x\"\nnonsense = 1\n".repeat(100_000));
        let cases: [Large<'_>; 8] = [
            ("200,000 entries", &wide, &["more than 20000 entries"]),
            ("a tree bomb", &bomb, &["more than 20000 entries"]),
            ("200 levels", &deep, &["64 directories deep"]),
            ("200 MB", &big, &["files/etc/big", "209715200 bytes", "16777216"]),
            ("150 MB in all", &halves, &["67108864 bytes together"]),
            ("a link with a text of 1 MB", &long, &["files/etc/link"]),
            ("a manifest nested 200,000 deep", &nested, &["reconciled.toml"]),
            ("a manifest of 300,000 lines of mistakes", &tables, &["reconciled.toml"]),
        ];
        for (what, made, words) in cases {
            before.refused(host, &repo, &push_tree(&repo, &made()), what, words);
        }
        before.all_refused();
        let peaks = host.read("/run/systemd/peaks");
        eprintln!("peaks in KiB:\n{peaks}");
        assert!(peaks.contains("reconciled") && peaks.contains("git"), "{peaks}");
        let size = |line: &str| line.split(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number");
        let large: Vec<&str> = peaks.lines().filter(|line| size(line) > MEMORY_KIB).collect();
        assert!(large.is_empty(), "{large:?}");
        repo.write(SITE_IN_GIT, site("two")).commit_and_push().assert_live();
    }
}

scenario! {
    fn an_emptied_repository_removes_nothing_by_accident(host: with_nginx on bookworm) {
        let repo = open_shop(host, "one");
        let before = Before::of(host, &repo);
        let nothing = repo.git(&["mktree"]).ok();
        let readme = tree(&repo, &[("100644", b"README", &object(&repo, "blob", b"hello\n"))]);
        for (what, tree) in [("an empty tree", nothing), ("a tree without manifest and files/", readme)] {
            let push = push_tree(&repo, &tree);
            before.refused(host, &repo, &push, what, &["the repository declares nothing"]);
        }
        before.all_refused();
        // Meant, it is done: the site goes, what was there before it stays.
        repo.remove("files").write("reconciled.toml", "allow_empty = true\n");
        repo.commit_and_push().assert_live();
        assert!(!host.exists(crate::shop::SITE) && host.exists("/etc/nginx/sites-enabled/default"));
    }
}

scenario! {
    fn a_first_push_of_nothing_says_so(host: with_nginx on bookworm) {
        let repo = host.clone_repo();
        let before = quiet(host);
        repo.commit_and_push().assert_refused("the repository declares nothing").says("allow_empty = true");
        repo.write("README", "hello\n").commit_and_push().assert_refused("the repository declares nothing");
        assert_untouched(host, &before);
        assert_eq!(repo.remote_main(), None);
    }
}

scenario! {
    fn a_secret_is_in_no_output(host: with_nginx on bookworm) {
        let canary = "c4n4ry-0f-th3-s3cr3t";
        let repo = open_shop(host, "one");
        let secret = "[[file]]\npath = \"/etc/nginx/conf.d/secret.conf\"\nsecret = true\nmode = \"0600\"\n";
        repo.write("reconciled.toml", format!("{MANIFEST}{secret}"));
        let mut said = String::new();
        for (content, live) in [
            (format!("# {canary} 1\n"), true),
            (format!("# {canary} 2\n"), true), // a change, with its difference
            (format!("{canary} on;\n"), false), // nginx quotes what it does not know
            (format!("server {{ listen {canary}; }}\n"), false),
            (format!("# {canary} 3\n"), true),
        ] {
            repo.write("files/etc/nginx/conf.d/secret.conf", &content);
            let push = repo.commit_and_push();
            assert_eq!(push.ok, live, "{}", push.output);
            said.push_str(&push.output);
        }
        repo.write("files/etc/nginx/conf.d/secret.conf", format!("# {canary} 4\n")).write(SITE_IN_GIT, crate::shop::bad_gateway());
        let push = repo.commit_and_push();
        push.assert_refused("rolled back");
        said.push_str(&push.output);
        host.write("/etc/nginx/conf.d/secret.conf", format!("# {canary} by hand\n"));
        for words in ["status", "status --json", "history --json", "diff", "sync", "audit log", "audit log --json"] {
            said.push_str(&host.ctl(words).text());
        }
        said.push_str(&host.exec("journalctl --no-pager -q -o json --all").ok());
        said.push_str(&host.sh("cat /var/lib/reconciled/audit/*").ok());
        assert!(!said.contains(canary), "{}", said.lines().filter(|l| l.contains(canary)).collect::<Vec<_>>().join("\n"));
        assert!(said.contains("secret.conf"), "that it changed is said");
        let modes = host.exec("find /var/lib/reconciled -path */host.git -prune -o -type f -perm /077 -newer /etc/nginx/conf.d/secret.conf -print").ok();
        let leaks = host.exec_with(&["grep", "-rlaF", "--exclude-dir=host.git", canary, "/var/lib/reconciled", "/var/log", "/run"], b"").stdout;
        for place in leaks.lines() {
            assert!(!modes.contains(place), "{place} holds the secret and others may read it");
        }
    }
}
