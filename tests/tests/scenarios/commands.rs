//! Commands of applications: asked, done once, taken back where something takes them back, and said where nothing does.

use reconciled_tests::{Host, scenario};

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
        // One that does not end is ended, with all that it has started.
        let slow = "[[command]]\nname = \"slow\"\ntimeout = \"1s\"\nforward = [\"sh\", \"-c\", \"sleep 4711 & sleep 4711\"]\n";
        repo.write("reconciled.toml", slow).commit_and_push().assert_refused("rolled back").says("command:slow: it took too long and was stopped");
        assert_eq!(host.exec_with(&["pgrep", "-fx", "sleep 4711"], b"").stdout, "");
    }
}

scenario! {
    fn one_like_a_service_runs_as_that_does(host: installed) {
        let repo = host.clone_repo();
        let service = "[Service]\nUser=www-data\nGroup=games\nWorkingDirectory=/srv/shop\nEnvironmentFile=/etc/shop.env\nExecStart=sleep infinity\n";
        repo.write("files/etc/systemd/system/shop.service", service).write("files/etc/shop.env", "WORD='two words'\n");
        let says = "[[directory]]\npath = \"/srv/shop\"\nowner = \"www-data\"\n[[command]]\nname = \"says\"\nlike = \"shop.service\"\n\
            forward = [\"sh\", \"-c\", \"echo $(id -un):$(id -gn):$PWD:$WORD:$MORE >said\"]\nenvironment = { MORE = \"more\" }\n";
        repo.write("reconciled.toml", says).commit_and_push().assert_live();
        assert_eq!(host.read("/srv/shop/said"), "www-data:games:/srv/shop:two words:more\n");
        assert_eq!(host.exec("stat -c %U:%G /srv/shop/said").ok(), "www-data:games");
    }
}

scenario! {
    fn without_a_question_it_runs_once_and_for_what_it_watches(host: installed on trixie) {
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
    fn what_follows_files_follows_those_that_come_back(host: installed on trixie) {
        let repo = host.clone_repo();
        let built = "[[command]]\nname = \"build\"\nforward = [\"cp\", \"/srv/static/a.css\", \"/srv/built\"]\nwatch = [\"/srv/static/**\"]\n";
        repo.write("reconciled.toml", built).write("files/srv/static/a.css", "old\n").commit_and_push().assert_live();
        repo.write("reconciled.toml", [built, RED].concat()).write("files/srv/static/a.css", "new\n");
        repo.commit_and_push().assert_refused("rolled back").says("command:build: run again for what is restored");
        assert_eq!(host.read("/srv/static/a.css"), "old\n");
        assert_eq!(host.read("/srv/built"), "old\n");
    }
}

scenario! {
    fn the_question_of_a_key_that_may_only_preview_is_not_asked(host: installed on trixie) {
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
