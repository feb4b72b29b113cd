//! What the tree of a repository means on the host, from the installed package: owners and modes by place and by table, what
//! cannot be replaced, links and files in each other's place, and all that belongs to an inode.

use reconciled_tests::{Host, Push, Repo, scenario};

use crate::shop::look::{assert_untouched, quiet};

/// A health check that is never green.
const RED: &str = "[[probe]]\nname = \"red\"\ncommand = [\"/bin/false\"]\nattempts = 1\n";

/// Shows all that `stat` knows of each path, and its extended attributes, ACLs among them.
const INODES: &str = r#"
import os, sys
for path in sys.argv[1:]:
    s = os.lstat(path)
    print(path, s.st_ino, oct(s.st_mode), s.st_nlink, s.st_uid, s.st_gid, s.st_size, s.st_mtime_ns)
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        print(" ", name, os.getxattr(path, name, follow_symlinks=False).hex())
"#;

/// Gives each path a user attribute, an ACL that lets uid 1 read (acl(5); the kernel's form of it), and a time of its own.
const MARK: &str = r#"
import os, struct, sys
nobody = 0xffffffff
for i, path in enumerate(sys.argv[1:]):
    os.setxattr(path, "user.note", b"theirs")
    acl = [(1, 6, nobody), (2, 4, 1), (4, 4, nobody), (16, 4, nobody), (32, 0, nobody)]
    os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in acl))
    os.utime(path, ns=(1, 981173106_000000007 + i))
"#;

/// Insists on what these paths are like, each written as `PATH MODE OWNER:GROUP`.
#[track_caller]
fn looks(host: &Host, wanted: &[&str]) {
    let paths = wanted.iter().filter_map(|line| line.split(' ').next());
    let words: Vec<&str> = ["stat", "-c", "%n %a %U:%G", "--"].into_iter().chain(paths).collect();
    assert_eq!(host.exec_with(&words, b"").ok().lines().collect::<Vec<_>>(), wanted);
}

/// Writes these files of the host into the tree, `x` in each.
#[track_caller]
fn write_all(repo: &Repo, paths: &[&str]) {
    for path in paths {
        repo.write(&format!("files{path}"), "x\n");
    }
}

/// The remarks of a push, in order.
fn hints(push: &Push) -> Vec<&str> {
    push.output.lines().filter_map(|line| line.strip_prefix("remote: hint: ")).map(str::trim_end).collect()
}

/// Every object below a directory: its type, mode, owner, link text and content.
#[track_caller]
fn picture(host: &Host, dir: &str) -> String {
    host.sh(&format!("cd {dir} && find . -printf '%p %y %m %u %l\\n' | sort; find . -type f -exec head -v {{}} + | sort")).ok()
}

/// Runs a program of Python on the host with these arguments.
#[track_caller]
fn python(host: &Host, program: &str, args: &[&str]) -> String {
    host.exec_with(&[["python3", "-c", program].as_slice(), args].concat(), b"").ok()
}

/// Insists that no transaction has left anything in a staging directory.
#[track_caller]
fn assert_no_litter(host: &Host) {
    let elsewhere = "-path /proc -o -path /sys -o -path /dev -o -path /srv/mirror";
    assert_eq!(host.sh(&format!("find / \\( {elsewhere} \\) -prune -o -path '*/.reconciled/*' -print")).ok(), "", "litter");
}

scenario! {
    fn the_place_says_whose_a_file_is(host: installed on bookworm) {
        host.sh("groupadd crew && useradd -m -g crew ada && chmod 0711 /home/ada && install -d -m 2775 -o daemon -g mail /srv/kept").ok();
        let repo = host.clone_repo();
        write_all(&repo, &["/etc/plain", "/run/shop/x", "/home/ada/.config/app/rc", "/home/ada/bin/run", "/home/adalbert/rc"]);
        write_all(&repo, &["/srv/kept/made/x", "/srv/ours/a/b/x", "/srv/shared/a/x", "/usr/local/bin/tool"]);
        repo.executable("files/home/ada/bin/run").executable("files/usr/local/bin/tool");
        repo.write("files/etc/systemd/system/lonely.service", "[Service]\nExecStart=/bin/true\n");
        repo.write("files/etc/systemd/system/named.service", "[Service]\nExecStart=/bin/true\n");
        repo.write("files/srv/ours/lost", "../shared/a/x").write("files/srv/ours/prose", "../shared is a place\n");
        let tables = "[[unit]]\nname = \"named.service\"\nactive = false\n[[probe]]\nname = \"green\"\ncommand = [\"/bin/true\"]\n";
        repo.write("reconciled.toml", tables);
        let push = repo.commit_and_push();
        push.assert_live().says("+ directory:/home/ada/.config (implied)");
        assert_eq!(hints(&push), [
            "files/etc/systemd/system/lonely.service: no [[unit]] names lonely.service: it is neither enabled nor started",
            "files/srv/ours/lost: its only content is a path: was it a symbolic link? (git config core.symlinks true, and add it again)",
            "/run/shop/x: what is below /run lasts until the next boot",
        ]);
        looks(host, &[
            "/etc/plain 644 root:root", "/usr/local/bin/tool 755 root:root", "/run/shop 755 root:root", "/run/shop/x 644 root:root",
            "/home/ada 711 ada:crew", "/home/ada/.config 755 ada:crew", "/home/ada/.config/app 755 ada:crew",
            "/home/ada/.config/app/rc 644 ada:crew", "/home/ada/bin 755 ada:crew", "/home/ada/bin/run 755 ada:crew",
            "/home/adalbert 755 root:root", "/home/adalbert/rc 644 root:root", // her name is only the beginning of his
            "/srv/kept 2775 daemon:mail", "/srv/kept/made 755 root:root", "/srv/kept/made/x 644 root:root",
            "/srv/ours/a/b 755 root:root",
        ]);

        // What was made for them goes with them, but not a directory that somebody else has come to use.
        host.write("/srv/shared/a/theirs", "precious\n");
        for place in ["home", "run", "srv"] {
            repo.remove(&format!("files/{place}"));
        }
        write_all(&repo, &["/srv/ours/a/other"]);
        let push = repo.commit_and_push();
        push.assert_live().says("/srv/shared/a is let go: it holds theirs").says("- directory:/srv/ours/a/b (left the repository)");
        let left = host.exec("find /home /srv/kept /srv/ours /srv/shared -not -name .[bp]*").ok();
        let kept = "/home /home/ada /srv/kept /srv/ours /srv/ours/a /srv/ours/a/other /srv/shared /srv/shared/a /srv/shared/a/theirs";
        assert_eq!(left.lines().collect::<Vec<_>>(), kept.split(' ').collect::<Vec<_>>());
        assert!(!host.exists("/run/shop"));
        looks(host, &["/home/ada 711 ada:crew", "/srv/kept 2775 daemon:mail"]);
        assert_no_litter(host);
    }
}

scenario! {
    fn tables_say_what_the_place_does_not(host: installed on bookworm) {
        let globs = r#"
            [[file]]
            path = "/srv/app/*.conf"
            mode = "0640"
            [[file]]
            path = "/srv/**/*.conf"
            group = "mail"
            [[file]]
            path = "/srv/app/mode.conf"
            mode = "0600"
            [[file]]
            path = "/srv/app/deep/group.conf"
            group = "daemon"
            [[file]]
            path = "/srv/app/[a-c]?.txt"
            mode = "0444"
        "#;
        let modes = |suid: &str, sgid: &str, drop: &str| format!(r#"
            [[file]]
            path = "/usr/local/bin/suid"
            owner = "daemon"
            mode = "{suid}"
            [[file]]
            path = "/usr/local/bin/sgid"
            group = "mail"
            mode = "{sgid}"
            [[directory]]
            path = "/srv/drop"
            mode = "{drop}"
        "#);
        let repo = host.clone_repo();
        write_all(&repo, &["/usr/local/bin/suid", "/usr/local/bin/sgid", "/srv/top.conf", "/srv/app/a.conf", "/srv/app/mode.conf"]);
        write_all(&repo, &["/srv/app/deep/b.conf", "/srv/app/deep/er/c.conf", "/srv/app/deep/group.conf", "/srv/app/c.conf.txt"]);
        write_all(&repo, &["/srv/app/two.txt", "/srv/app/three.txt", "/srv/app/b1.txt", "/srv/app/d1.txt"]);
        repo.write("reconciled.toml", globs.to_owned() + &modes("4755", "2755", "1777")).commit_and_push().assert_live();
        looks(host, &[
            "/srv/top.conf 644 root:mail", "/srv/app/a.conf 640 root:mail", "/srv/app/mode.conf 600 root:mail",
            "/srv/app/deep/b.conf 644 root:mail", "/srv/app/deep/er/c.conf 644 root:mail", "/srv/app/deep/group.conf 644 root:daemon",
            "/srv/app/c.conf.txt 644 root:root", "/srv/app/two.txt 644 root:root", "/srv/app/three.txt 644 root:root",
            "/srv/app/b1.txt 444 root:root", "/srv/app/d1.txt 644 root:root",
        ]);

        // Every bit of a mode, and on every way back to it.
        let special = ["/usr/local/bin/suid 4755 daemon:daemon", "/usr/local/bin/sgid 2755 root:mail", "/srv/drop 1777 root:root"];
        looks(host, &special);
        host.sh("cd /usr/local/bin && chown root suid && chmod 0755 suid sgid && chmod 0777 /srv/drop").ok();
        host.ctl("sync").ok();
        looks(host, &special);
        repo.write("reconciled.toml", globs.to_owned() + &modes("0755", "0755", "0777") + RED).commit_and_push().assert_refused("rolled back");
        looks(host, &special);
        repo.write("reconciled.toml", globs.to_owned() + &modes("0755", "4711", "0700")).commit_and_push().assert_live();
        looks(host, &["/usr/local/bin/suid 755 daemon:daemon", "/usr/local/bin/sgid 4711 root:mail", "/srv/drop 700 root:root"]);
        host.ctl("rollback 1").ok();
        looks(host, &special);

        // Braces alone are a glob, too.
        let braces = "[[file]]\npath = \"/srv/app/{one,two}.txt\"\nmode = \"0604\"\n";
        repo.write("reconciled.toml", braces).commit_and_push().assert_live();
        looks(host, &["/srv/app/two.txt 604 root:root", "/srv/app/three.txt 644 root:root", "/srv/app/a.conf 644 root:root"]);
    }
}

scenario! {
    fn what_cannot_be_replaced_is_refused_untouched(host: installed on bookworm) {
        host.sh("cd /srv && mkdir -p real/in mnt && ln -s real alias && echo old >one && ln one two && echo their >bound && cp bound other").ok();
        host.sh("mount --bind /srv/other /srv/bound && mount -t tmpfs -o size=1m none /srv/mnt").ok();
        let (repo, before) = (host.clone_repo(), quiet(host));
        let refused = |path: &str, link: bool, tables: &str, words: &[&str]| {
            repo.remove("files").write("reconciled.toml", tables).write("files/etc/aaa", "in front of it\n");
            if link {
                repo.symlink(&format!("files{path}"), "other");
            } else if !path.is_empty() {
                write_all(&repo, &[path]);
            }
            repo.commit();
            for branch in ["try", "main"] { // a preview says so, too
                let push = repo.push_to(&[&format!("HEAD:refs/heads/{branch}")]);
                push.assert_refused("refused, nothing was touched");
                for word in words {
                    push.says(word);
                }
            }
            assert_untouched(host, &before);
        };
        let names = ["/srv/one has 2 names (hard links)", "set links = \"break\""];
        refused("/srv/one", false, "", &names);
        refused("", false, "[[file]]\npath = \"/srv/one\"\nstate = \"absent\"\n", &names);
        refused("", false, "directories = [\"/srv/alias\"]\n", &["manage the real path /srv/real"]);
        refused("", false, "directories = [\"/srv/alias/in/x\"]\n", &["manage the real path /srv/real/in/x"]);
        for link in [false, true] {
            refused("/srv/alias/in/x", link, "", &["/srv/alias/in leads through a symbolic link; manage the real path /srv/real/in/x"]);
            refused("/srv/alias/new/er/x", link, "", &["leads through a symbolic link; manage the real path /srv/real/new/er/x"]);
            refused("/srv/mnt", link, "", &["/srv/mnt is a directory"]);
            refused("/srv/bound", link, "", &["/srv/bound is a mount point: unmount it"]);
        }
        refused("", false, "[[file]]\npath = \"/srv/bound\"\nstate = \"absent\"\n", &["/srv/bound is a mount point"]);

        // The remedies are remedies.
        repo.write("reconciled.toml", "[[file]]\npath = \"/srv/one\"\nlinks = \"break\"\n");
        write_all(&repo, &["/srv/one", "/srv/mnt/x", "/srv/real/in/x", "/srv/real/new/er/x"]);
        repo.commit_and_push().assert_live();
        assert_eq!(host.exec("head -qn9 /srv/one /srv/two /srv/mnt/x /srv/alias/in/x").ok(), "x\nold\nx\nx");
        assert_eq!(host.exec("stat -c %h /srv/one /srv/two").ok(), "1\n1");
        assert_no_litter(host);
    }
}

scenario! {
    fn files_and_links_take_each_others_place(host: installed on bookworm) {
        let text = "../über//./all/ two  blanks/";
        let manifest = |target: &str| format!("[[link]]\npath = \"/srv/x/table\"\ntarget = \"{target}\"\n");
        let repo = host.clone_repo();
        repo.symlink("files/srv/x/exact", text).symlink("files/srv/x/current", "one").symlink("files/srv/x/link", "/nowhere");
        repo.write("files/srv/x/file", "1\n").executable("files/srv/x/file").write("reconciled.toml", manifest("old"));
        write_all(&repo, &["/srv/x/one/in", "/srv/x/two/in"]);
        repo.commit_and_push().assert_live();
        let first = picture(host, "/srv/x");
        assert_eq!(host.exec("readlink /srv/x/exact /srv/x/current /srv/x/link /srv/x/table").ok(), format!("{text}\none\n/nowhere\nold"));

        let change = |red: &str| {
            repo.remove("files/srv/x/file").symlink("files/srv/x/file", "current/in");
            repo.remove("files/srv/x/link").write("files/srv/x/link", "2\n");
            repo.remove("files/srv/x/current").symlink("files/srv/x/current", "two").write("reconciled.toml", manifest("new") + red);
            repo.commit_and_push()
        };
        let red = change(RED);
        red.assert_refused("rolled back").says("~ link:/srv/x/file (was a file)").says("~ file:/srv/x/link (was a link to /nowhere)");
        red.says("~ link:/srv/x/current (target one → two)").says("~ link:/srv/x/table (target old → new)");
        assert_eq!(picture(host, "/srv/x"), first);

        change("").assert_live();
        let second = picture(host, "/srv/x");
        assert_eq!(host.exec("readlink /srv/x/exact /srv/x/current /srv/x/file /srv/x/table").ok(), format!("{text}\ntwo\ncurrent/in\nnew"));
        assert_eq!((host.read("/srv/x/link"), host.exec("stat -c %F%a /srv/x/link").ok()), ("2\n".into(), "regular file644".into()));
        assert_eq!(host.exec("ls /srv/x/one /srv/x/two").ok(), "/srv/x/one:\nin\n\n/srv/x/two:\nin", "nothing went through a link");
        for (generation, wanted) in [(1, &first), (2, &second)] {
            host.ctl(&format!("rollback {generation}")).ok();
            assert_eq!(&picture(host, "/srv/x"), wanted, "generation {generation}");
            let _ = host.ctl("diff").fails(0);
        }
        assert_no_litter(host);
    }
}

scenario! {
    fn a_push_taken_back_leaves_each_inode_as_it_was(host: installed on bookworm) {
        let files = ["/srv/x/content", "/srv/x/mode", "/srv/x/gone", "/srv/x/link", "/srv/x/names"];
        host.sh("mkdir /srv/x && cd /srv/x && echo x | tee content mode gone link >names && ln names name && ln -s content to").ok();
        python(host, MARK, &files);
        let inodes = || python(host, INODES, &[files.as_slice(), &["/srv/x/to", "/srv/x/name"]].concat());
        let before = inodes();
        for mark in ["user.note", "system.posix_acl_access"] {
            assert_eq!(before.matches(mark).count(), files.len() + 1, "{mark} in\n{before}");
        }
        let repo = host.clone_repo();
        let tables = "[[file]]\npath = \"/srv/x/gone\"\nstate = \"absent\"\n[[file]]\npath = \"/srv/x/names\"\nlinks = \"break\"\n";
        write_all(&repo, &["/srv/x/to", "/srv/x/mode"]);
        repo.write("files/srv/x/content", "ours\n").write("files/srv/x/names", "ours\n").symlink("files/srv/x/link", "to");
        repo.write("reconciled.toml", format!("{tables}{RED}"));
        let push = repo.commit_and_push();
        push.assert_refused("rolled back").says("- file:/srv/x/gone").says("~ file:/srv/x/mode (mode 0640 → 0644)");
        assert_eq!(inodes(), before);

        // The same on top of a generation; and a file that goes live is a new one, with nothing of the old.
        repo.write("reconciled.toml", tables).commit_and_push().assert_live();
        assert_eq!(python(host, INODES, &["/srv/x/content"]).lines().count(), 1);
        python(host, MARK, &["/srv/x/content"]);
        let theirs = || python(host, INODES, &["/srv/x/content"]);
        let before = theirs();
        for content in ["ours again\n", ""] {
            repo.remove("files/srv/x/content").write("reconciled.toml", format!("{tables}{RED}"));
            if !content.is_empty() {
                repo.write("files/srv/x/content", content);
            }
            repo.commit_and_push().assert_refused("rolled back");
            assert_eq!(theirs(), before);
        }
        assert_no_litter(host);
    }
}

scenario! {
    fn a_subtree_belongs_to_whom_it_says(host: installed) {
        let repo = host.clone_repo();
        host.sh("mkdir -p /srv/media/a/b /srv/elsewhere && echo one >/srv/media/a/one && echo two >/srv/media/a/b/two && ln -s /srv/elsewhere /srv/media/a/link && chmod 700 /srv/media/a/b").ok();
        let modes = || host.sh("cd /srv && find media elsewhere -printf '%p %u:%g %m\\n' | sort").ok();
        let before = modes();
        let table = "[[directory]]\npath = \"/srv/media\"\nowner = \"www-data\"\nmode = \"0750\"\nfile_mode = \"0640\"\nrecurse = true\n";
        repo.write("files/srv/media/ours.txt", "ours\n");
        // What fails takes it back, entry by entry.
        repo.write("reconciled.toml", format!("{table}[[probe]]\nname = \"red\"\ncommand = [\"/bin/false\"]\nattempts = 1\n"));
        repo.commit_and_push().assert_refused("rolled back").says("~ directory:/srv/media (4 entries differ) [undo: best effort]");
        assert_eq!(modes(), before);
        repo.write("reconciled.toml", table).commit_and_push().assert_live();
        let after = "elsewhere root:root 755\nmedia www-data:www-data 750\nmedia/a www-data:www-data 750\nmedia/a/b www-data:www-data 750\nmedia/a/b/two www-data:www-data 640\n\
                     media/a/link root:root 777\nmedia/a/one www-data:www-data 640\nmedia/ours.txt root:root 644";
        assert_eq!(modes(), after);
        // What comes later is seen to.
        host.sh("echo new >/srv/media/new").ok();
        host.ctl("sync").ok();
        assert!(modes().contains("media/new www-data:www-data 640"), "{}", modes());
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // So are directories that come with a push: in the same one.
        repo.write("files/srv/media/a/deep/er/x.txt", "x\n").commit_and_push().assert_live();
        assert!(modes().contains("media/a/deep www-data:www-data 750\nmedia/a/deep/er www-data:www-data 750"), "{}", modes());
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // A file that has another name elsewhere is not given away.
        host.sh("echo secret >/srv/elsewhere/secret && ln /srv/elsewhere/secret /srv/media/taken").ok();
        repo.write("files/etc/x", "x").commit_and_push().assert_refused("/srv/media/taken has another name too (a hard link)");
        assert!(modes().contains("elsewhere/secret root:root 644"), "{}", modes());
    }
}
