//! What a change of a unit, or of what it reads, does to its process: nothing, a daemon-reload, a reload, a restart, a stop and a start; and what
//! is said of it.

use std::thread;
use std::time::Duration;

use reconciled_tests::{Host, Pushing, Repo, scenario};

const UNIT: &str = "files/etc/systemd/system/shop.service";

/// A property of a unit, as systemd has it.
#[track_caller]
fn prop(host: &Host, unit: &str, name: &str) -> String {
    host.exec(&format!("systemctl show --property={name} --value {unit}")).ok()
}

/// The run of a service: another one after each start.
#[track_caller]
fn run(host: &Host, unit: &str) -> String {
    prop(host, unit, "InvocationID")
}

/// Asks a service behind a Unix socket for its word, and waits for it.
#[track_caller]
fn ask(host: &Host, socket: &str) -> String {
    let client =
        format!("import socket;s=socket.socket(socket.AF_UNIX);s.settimeout(30);s.connect('{socket}');print(s.recv(9).decode())");
    host.exec_with(&["python3", "-c", &client], b"").ok()
}

fn socket(lines: &str) -> String {
    format!("[Socket]\n{lines}\n[Install]\nWantedBy=sockets.target\n")
}

/// A service that answers each client of its socket with this word.
fn echo(word: &str) -> String {
    format!(
        "[Service]\nExecStart=/usr/bin/python3 -c \"import socket\\ns=socket.socket(fileno=3)\\nwhile 1: s.accept()[0].send(b'{word}')\"\n"
    )
}

/// Commits, and pushes in the background.
#[track_caller]
fn start(repo: &Repo) -> Pushing {
    repo.commit();
    repo.start_push(&["main"])
}

/// Pushes and insists on a line of the plan and on what happened to the process.
#[track_caller]
fn edit(host: &Host, repo: &Repo, restarts: bool, says: &str) {
    let before = run(host, "shop.service");
    repo.commit_and_push().assert_live().says(says);
    let after = run(host, "shop.service");
    assert_eq!(before != after, restarts, "restarted, after {says:?}");
    assert_eq!(prop(host, "shop.service", "NeedDaemonReload"), "no");
    assert_eq!(prop(host, "shop.service", "ActiveState"), "active");
}

scenario! {
    fn an_edit_does_what_it_has_to_and_says_why(host: installed) {
        let repo = host.clone_repo();
        let unit = |unit: &str, service: &str, install: &str| {
            let start = "ExecStart=/bin/sh -c 'exec sleep infinity'\nExecReload=/bin/sh -c 'echo reloaded >>/run/shop'";
            format!("[Unit]\n{unit}\n[Service]\n{start}\n{service}\n[Install]\n{install}\n")
        };
        let wanted = "WantedBy=multi-user.target";
        repo.write("reconciled.toml", "units = [\"shop.service\"]\n");
        repo.write(UNIT, unit("Description=shop", "", wanted));
        repo.commit_and_push().assert_live();

        repo.write(UNIT, unit("Description=The shop", "", wanted));
        edit(host, &repo, false, "! daemon-reload (shop.service: Description changed)");
        repo.write(UNIT, format!("# The shop's.\n{}", unit("Description=The shop", "", wanted)));
        edit(host, &repo, false, "! daemon-reload (shop.service: says what it said before)");
        repo.write(UNIT, unit("Description=The shop", "TimeoutStopSec=7\nRestart=on-failure", wanted));
        edit(host, &repo, false, "! daemon-reload (shop.service: Restart and TimeoutStopSec changed)");
        repo.write(UNIT, unit("Description=The shop", "ExecReload=/bin/true", wanted));
        edit(host, &repo, false, "! reload shop.service (ExecReload changed)");
        assert_eq!(host.read("/run/shop"), "reloaded\n");
        repo.write(UNIT, unit("Description=The shop", "Nice=3", wanted));
        edit(host, &repo, true, "! restart shop.service (Nice changed)");
        // A drop-in that says the same changes nothing; one that says something else does, also when it goes.
        let drop_in = "files/etc/systemd/system/shop.service.d/nice.conf";
        repo.write(drop_in, "[Service]\nNice=3\n");
        edit(host, &repo, false, "! daemon-reload (shop.service: says what it said before)");
        repo.write(drop_in, "[Service]\nNice=4\n");
        edit(host, &repo, true, "! restart shop.service (Nice changed)");
        repo.remove(drop_in);
        edit(host, &repo, true, "! restart shop.service (Nice changed)");
        // So does one that it shares with others: of its type, or of what its name begins with.
        repo.write("files/etc/systemd/system/service.d/all.conf", "[Service]\nUMask=027\n");
        let others = ["ssh", "cron", "systemd-journald"].map(|other| run(host, other));
        edit(host, &repo, true, "! restart shop.service (UMask changed)");
        assert_eq!(["ssh", "cron", "systemd-journald"].map(|other| run(host, other)), others);
        repo.remove("files/etc/systemd/system/service.d");
        edit(host, &repo, true, "! restart shop.service (UMask changed)");
        host.write("/etc/systemd/system/shop-back.service", "[Service]\nExecStart=/bin/sleep infinity\n");
        host.sh("systemctl daemon-reload; systemctl start shop-back").ok();
        let back = run(host, "shop-back");
        repo.write("files/etc/systemd/system/shop-.service.d/all.conf", "[Service]\nNice=2\n");
        edit(host, &repo, false, "! restart shop-back.service (Nice changed)");
        assert!(run(host, "shop-back") != back && prop(host, "shop-back", "Nice") == "2");
        // How it is stopped, alone, waits for its next stop.
        let stop = |word: &str| format!("Nice=3\nExecStop=/bin/sh -c 'echo {word} >/run/stopped'");
        repo.write(UNIT, unit("Description=The shop", &stop("one"), wanted));
        edit(host, &repo, false, "! daemon-reload (shop.service: ExecStop changed)");
        // With something that needs a start, it stops as it was started.
        repo.write(UNIT, unit("Description=The shop", &format!("{}\nUMask=077", stop("two")), wanted));
        edit(host, &repo, true, "! stop and start shop.service (UMask changed)");
        assert_eq!(host.read("/run/stopped"), "one\n");
        // Its links follow its [Install].
        repo.write(UNIT, unit("Description=The shop", &format!("{}\nUMask=077", stop("two")), "WantedBy=graphical.target"));
        edit(host, &repo, false, "enable anew, its [Install] changed");
        let links = host.sh("cd /etc/systemd/system; find *.wants -name shop.service").ok();
        assert_eq!(links, "graphical.target.wants/shop.service");
        // One that may not be stopped by hand is left alone.
        repo.write(UNIT, unit("Description=The shop\nRefuseManualStop=yes", "Nice=5", "WantedBy=graphical.target"));
        edit(host, &repo, false, "it may not be stopped by hand: it takes effect with the next boot");
    }
}

scenario! {
    fn a_service_restarts_for_what_its_unit_names(host: installed) {
        let repo = host.clone_repo();
        let lines = "WorkingDirectory=/srv/shop\nEnvironmentFile=-/etc/shop/env\nLoadCredential=key:/etc/shop/key";
        let start = "ExecStart=/bin/sh /opt/shop/run";
        repo.write("reconciled.toml", "units = [\"shop.service\"]\n");
        repo.write(UNIT, format!("[Service]\n{start}\n{lines}\n[Install]\nWantedBy=multi-user.target\n"));
        let files = ["srv/shop/app.py", "etc/shop/env", "etc/shop/key", "etc/shop/other"];
        for file in files {
            repo.write(&format!("files/{file}"), "A=1\n");
        }
        repo.write("files/opt/shop/run", "exec sleep infinity\n");
        repo.commit_and_push().assert_live();
        let named = ["WorkingDirectory /srv/shop", "EnvironmentFile /etc/shop/env", "LoadCredential /etc/shop/key"];
        for (file, what) in files.iter().zip(named) {
            repo.write(&format!("files/{file}"), "A=2\n");
            edit(host, &repo, true, &format!("! restart shop.service (its {what} changed)"));
        }
        repo.write("files/opt/shop/run", "exec sleep 10d\n");
        edit(host, &repo, true, "! restart shop.service (its argument /opt/shop/run changed)");
        repo.write("files/etc/shop/other", "A=2\n");
        edit(host, &repo, false, "etc/shop/other");
        // Whether or not a table names the unit; and a table says what is to be done instead.
        host.write("/etc/systemd/system/vendor.service", "[Service]\nExecStart=/bin/sleep infinity\nEnvironmentFile=/etc/shop/other\n");
        host.sh("systemctl daemon-reload; systemctl start vendor").ok();
        repo.write("files/etc/shop/other", "A=3\n");
        edit(host, &repo, false, "! restart vendor.service (its EnvironmentFile /etc/shop/other changed)");
        repo.write("reconciled.toml", "[[unit]]\nname = \"shop.service\"\nactive = true\non_change = \"none\"\n");
        repo.write("files/etc/shop/env", "A=4\n");
        edit(host, &repo, false, "etc/shop/env");
    }
}

scenario! {
    fn t30_sockets_come_go_and_change(host: installed) {
        let repo = host.clone_repo();
        let (socket_file, service_file) = ("files/etc/systemd/system/echo.socket", "files/etc/systemd/system/echo.service");
        repo.write("reconciled.toml", "units = [\"echo.socket\"]\n");
        repo.write(socket_file, socket("ListenStream=/run/echo1")).write(service_file, echo("one"));
        repo.commit_and_push().assert_live();
        assert_eq!(ask(host, "/run/echo1"), "one");

        // Whoever waits in the socket's queue while its service restarts is served by the new one.
        let slow = echo("two").replace("[Service]\n", "[Service]\nExecStartPre=/bin/sleep 2\n");
        repo.write(service_file, slow);
        let listens = run(host, "echo.socket");
        let push = start(&repo);
        host.wait_until("it restarts", || prop(host, "echo.service", "SubState") == "start-pre");
        assert_eq!(ask(host, "/run/echo1"), "two");
        push.wait().assert_live().says("! restart echo.service (ExecStart");
        assert_eq!(run(host, "echo.socket"), listens, "a socket that has not changed goes on");

        // What PID 1 goes by without listening anew.
        repo.write(socket_file, socket("ListenStream=/run/echo1\nMaxConnections=9"));
        repo.commit_and_push().assert_live().says("! daemon-reload (echo.socket: MaxConnections changed)");
        assert_eq!(run(host, "echo.socket"), listens);

        // Another mode is another socket: both stop and start.
        repo.write(socket_file, socket("ListenStream=/run/echo1\nSocketMode=0660"));
        let push = repo.commit_and_push();
        push.assert_live().says("! stop and start echo.socket (SocketMode").says("! stop and start echo.service (echo.socket listens anew)");
        assert_eq!((ask(host, "/run/echo1").as_str(), host.exec("stat -c %a /run/echo1").ok().as_str()), ("two", "660"));

        // Renamed, with the service named in it.
        repo.remove(socket_file).write("files/etc/systemd/system/bell.socket", socket("ListenStream=/run/echo1\nService=echo.service"));
        repo.write("reconciled.toml", "units = [\"bell.socket\"]\n");
        repo.commit_and_push().assert_live().says("stop and start echo.service (bell.socket is about to listen)");
        assert_eq!(ask(host, "/run/echo1"), "two");
        assert_eq!(prop(host, "echo.socket", "LoadState"), "not-found");

        // A service that ran by itself gets a socket.
        let alone = "[Service]\nExecStart=/bin/sh -c 'if [ -n \"$LISTEN_FDS\" ]; then echo given; else echo none; fi >/run/alone; exec sleep infinity'\n";
        repo.write("reconciled.toml", "units = [\"bell.socket\"]\n[[unit]]\nname = \"alone.service\"\nactive = true\n");
        repo.write("files/etc/systemd/system/alone.service", alone);
        repo.commit_and_push().assert_live();
        assert_eq!(host.read("/run/alone"), "none\n");
        repo.write("reconciled.toml", "units = [\"bell.socket\", \"alone.socket\"]\n[[unit]]\nname = \"alone.service\"\nactive = true\n");
        repo.write("files/etc/systemd/system/alone.socket", socket("ListenStream=/run/alone.sock"));
        repo.commit_and_push().assert_live();
        assert_eq!(host.read("/run/alone"), "given\n");
        // And loses it again.
        repo.remove("files/etc/systemd/system/alone.socket");
        repo.write("reconciled.toml", "units = [\"bell.socket\"]\n[[unit]]\nname = \"alone.service\"\nactive = true\n");
        repo.commit_and_push().assert_live().says("alone.socket goes");
        assert_eq!(host.read("/run/alone"), "none\n");
    }
}

scenario! {
    fn t30_templates_behind_sockets(host: installed) {
        let repo = host.clone_repo();
        // A pair for each instance.
        repo.write("reconciled.toml", "units = [\"app@1.socket\", \"app@2.socket\"]\n");
        repo.write("files/etc/systemd/system/app@.socket", socket("ListenStream=/run/app-%i"));
        repo.write("files/etc/systemd/system/app@.service", echo("one"));
        repo.commit_and_push().assert_live();
        assert_eq!(ask(host, "/run/app-1"), "one");
        repo.write("files/etc/systemd/system/app@.service", echo("two"));
        repo.commit_and_push().assert_live().says("! restart app@1.service (ExecStart changed)");
        assert_eq!((ask(host, "/run/app-1").as_str(), ask(host, "/run/app-2").as_str()), ("two", "two"));
        repo.write("files/etc/systemd/system/app@.socket", socket("ListenStream=/run/app-new-%i"));
        repo.commit_and_push().assert_live();
        assert_eq!((ask(host, "/run/app-new-1").as_str(), ask(host, "/run/app-new-2").as_str()), ("two", "two"));

        // An instance for each client: the one that is being served keeps its connection.
        let each = "[Service]\nStandardInput=socket\nExecStart=/bin/sh -c 'read word; echo $word'\n";
        repo.write("reconciled.toml", "units = [\"each.socket\"]\n");
        repo.remove("files/etc/systemd/system/app@.socket").remove("files/etc/systemd/system/app@.service");
        repo.write("files/etc/systemd/system/each.socket", socket("ListenStream=/run/each\nAccept=yes"));
        repo.write("files/etc/systemd/system/each@.service", each);
        repo.commit_and_push().assert_live();
        let patient = "import socket,os,time\ns=socket.socket(socket.AF_UNIX);s.settimeout(60);s.connect('/run/each')\nopen('/run/waits','w').close()\n\
                       while not os.path.exists('/run/go'): time.sleep(0.05)\ns.send(b'hello\\n');print(s.recv(9).decode().strip())";
        thread::scope(|s| {
            let client = s.spawn(|| host.exec_with(&["python3", "-c", patient], b"").ok());
            host.wait_until("a client is served", || host.exists("/run/waits"));
            repo.write("files/etc/systemd/system/each@.service", each.replace("echo $word", "echo new $word"));
            repo.commit_and_push().assert_live().says("it serves one connection: the next one reads that");
            host.write("/run/go", "");
            assert_eq!(client.join().expect("a client"), "hello");
        });
    }
}

scenario! {
    fn t31_a_socket_that_was_tripped_listens_again(host: installed) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "units = [\"echo.socket\"]\n");
        repo.write("files/etc/systemd/system/echo.socket", socket("ListenStream=/run/echo\nTriggerLimitBurst=3\nTriggerLimitIntervalSec=1s"));
        repo.write("files/etc/systemd/system/echo.service", echo("one"));
        repo.commit_and_push().assert_live();
        // A crash loop: the service dies before it has taken the connection.
        host.write("/run/systemd/system/echo.service.d/crash.conf", "[Service]\nExecStart=\nExecStart=/bin/false\n");
        host.exec("systemctl daemon-reload").ok();
        let knock = "import socket;s=socket.socket(socket.AF_UNIX);s.connect('/run/echo')";
        host.exec_with(&["python3", "-c", knock], b"").ok();
        host.wait_until("the socket has failed", || prop(host, "echo.socket", "ActiveState") == "failed");
        host.sh("rm -r /run/systemd/system/echo.service.d; systemctl daemon-reload").ok();
        // The next push brings both back, though neither of their files changes.
        repo.write("files/etc/motd.d/x", "x\n");
        repo.commit_and_push().assert_live().says("unit:echo.socket (start)");
        assert_eq!(ask(host, "/run/echo"), "one");
    }
}

scenario! {
    fn t32_workers_that_die_are_no_health(host: installed) {
        let repo = host.clone_repo();
        let prefork = |life: &str| {
            format!(
                "[Service]\nExecStart=/usr/bin/python3 -c \"import os,time\\nwhile 1:\\n pid=os.fork()\\n if not pid:\\n  {life}\\n os.waitpid(pid,0)\"\n"
            )
        };
        repo.write("reconciled.toml", "[[unit]]\nname = \"shop.service\"\nactive = true\n").write(UNIT, prefork("time.sleep(1e9)"));
        repo.commit_and_push().assert_live();
        let good = run(host, "shop.service");
        repo.write(UNIT, prefork("print('no database',flush=True);time.sleep(0.2);os._exit(1)"));
        repo.commit_and_push().assert_refused("shop.service is active, but its workers die").says("no database");
        assert!(run(host, "shop.service") != good);
        assert_eq!(prop(host, "shop.service", "ActiveState"), "active");
        // Children that do their work and go are something else.
        let busy = "[Service]\nExecStart=/bin/sh -c 'while :; do sleep 0.1; date; done'\nStandardOutput=null\n";
        repo.write(UNIT, busy);
        repo.commit_and_push().assert_live();
    }
}

scenario! {
    fn t27_the_bus_goes_away_in_the_middle(host: installed) {
        let repo = host.clone_repo();
        repo.write("reconciled.toml", "[[unit]]\nname = \"shop.service\"\nactive = true\n");
        let slow = |mark: &str| format!("[Service]\nExecStartPre=/bin/sleep 3\nExecStart=/bin/sh -c 'echo {mark} >/run/shop; exec sleep infinity'\n");
        repo.write(UNIT, slow("0"));
        repo.commit_and_push().assert_live();
        for (number, accident) in ["systemctl daemon-reexec", "systemctl daemon-reload", "systemctl restart dbus"].iter().enumerate() {
            let mark = (number + 1).to_string();
            repo.write(UNIT, slow(&mark));
            let push = start(&repo);
            host.wait_until("it restarts", || prop(host, "shop.service", "SubState") == "start-pre");
            host.sh(accident).ok();
            let _ = push.wait();
            // Whatever the client was told when its bus went: the host is wholly new, and the daemon answers.
            host.wait_until("the daemon is idle", || host.ctl("status --json").stdout.contains("\"idle\""));
            assert_eq!(host.read("/run/shop"), format!("{mark}\n"), "after {accident}");
            assert_eq!(host.status()["generation"], number + 2, "after {accident}");
        }
    }
}

scenario! {
    fn i24_a_reload_that_hangs_has_an_end(host: installed) {
        let repo = host.clone_repo();
        let table = "[[unit]]\nname = \"shop.service\"\nactive = true\nwatch = [\"/etc/shop.conf\"]\non_change = \"reload\"\ntimeout = \"3s\"\n";
        let unit = "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/sh -c 'grep -q good /etc/shop.conf || sleep infinity'\n";
        repo.write("reconciled.toml", table).write(UNIT, unit).write("files/etc/shop.conf", "good\n");
        repo.commit_and_push().assert_live();
        let first = run(host, "shop.service");
        repo.write("files/etc/shop.conf", "bad\n");
        repo.commit_and_push().assert_refused("not done within 3 s and cancelled").says("the key `timeout` of its [[unit]] sets that");
        assert_eq!(host.read("/etc/shop.conf"), "good\n");
        // What hangs in its reload cannot be reloaded once more: on the way back it is restarted.
        assert!(run(host, "shop.service") != first);
        assert_eq!((prop(host, "shop.service", "ActiveState").as_str(), prop(host, "shop.service", "Job").as_str()), ("active", ""));
        assert_eq!(host.status()["phase"], "idle");
    }
}

scenario! {
    fn t54_dpkg_at_work_is_waited_for(host: installed) {
        let repo = host.clone_repo();
        repo.write("files/etc/motd.d/x", "x\n");
        let hold = "import fcntl,time,os\nf=open('/var/lib/dpkg/lock-frontend','w');fcntl.lockf(f,fcntl.LOCK_EX)\nopen('/run/held','w').close()\n\
                    while not os.path.exists('/run/go'): time.sleep(0.05)";
        thread::scope(|s| {
            let holder = s.spawn(|| host.exec_with(&["python3", "-c", hold], b"").ok());
            host.wait_until("the lock is held", || host.exists("/run/held"));
            let mut push = start(&repo);
            push.until("dpkg is at work (python3, process");
            thread::sleep(Duration::from_secs(2));
            assert!(!host.exists("/etc/motd.d/x"), "nothing is written meanwhile");
            host.write("/run/go", "");
            push.wait().assert_live();
            holder.join().expect("the holder");
        });
    }
}

scenario! {
    fn t29_what_pid_1_and_processes_have_not_read_is_seen(host: installed) {
        host.write("/etc/default/shop", "A=1\n");
        let repo = host.clone_repo();
        let unit = "[Service]\nExecStart=/bin/sleep infinity\nEnvironmentFile=/etc/default/shop\n";
        repo.write("reconciled.toml", "[[unit]]\nname = \"shop.service\"\nactive = true\n").write(UNIT, unit);
        repo.commit_and_push().assert_live();
        let first = run(host, "shop.service");
        // A drop-in by hand, and nobody told PID 1; then its removal.
        let drop_in = "/etc/systemd/system/shop.service.d/x.conf";
        for (edit, known) in [(format!("mkdir -p $(dirname {drop_in}); echo '[Unit]' >{drop_in}"), drop_in), (format!("rm -r $(dirname {drop_in})"), "")] {
            host.sh(&edit).ok();
            host.ctl("sync").ok();
            assert_eq!((prop(host, "shop.service", "DropInPaths").as_str(), prop(host, "shop.service", "NeedDaemonReload").as_str()), (known, "no"));
        }
        assert_eq!(run(host, "shop.service"), first);
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        // What a daemon-reload takes over is not pending; what the process has from its start is, and a push restarts it.
        host.sh(&format!("mkdir -p $(dirname {drop_in}); echo '[Service]\nMemoryMax=1G' >{drop_in}; systemctl daemon-reload")).ok();
        assert!(host.ctl("sync").ok().contains("nothing to do"));
        assert_eq!(host.status()["drift"], serde_json::json!([]));
        host.sh(&format!("echo '[Service]\nNice=2' >{drop_in}; systemctl daemon-reload")).ok();
        host.ctl("sync").ok();
        let status = host.ctl("status").ok();
        assert!(status.contains(&format!("unit:shop.service (restart pending): {drop_in} changed after it had started")), "{status}");
        assert_eq!(run(host, "shop.service"), first);
        repo.write("files/etc/motd.d/y", "y\n");
        repo.commit_and_push().assert_live().says(&format!("! restart shop.service ({drop_in} changed after it had started)"));
        let first = run(host, "shop.service");
        // A file that is not ours and that its process has read as it was: a look tells, a push restarts.
        host.write("/etc/default/shop", "A=2\n");
        host.ctl("sync").ok();
        let status = host.ctl("status").ok();
        assert!(status.contains("unit:shop.service (restart pending): its EnvironmentFile /etc/default/shop changed after it had started"), "{status}");
        assert_eq!(run(host, "shop.service"), first);
        repo.write("files/etc/motd.d/x", "x\n");
        repo.commit_and_push().assert_live().says("! restart shop.service (its EnvironmentFile /etc/default/shop changed after it had started)");
        assert!(run(host, "shop.service") != first);
        host.ctl("sync").ok();
        assert_eq!(host.status()["drift"], serde_json::json!([]));
    }
}

scenario! {
    fn what_stops_with_a_unit_comes_back_with_it(host: installed) {
        let repo = host.clone_repo();
        let shop = |lines: &str| format!("[Service]\nExecStart=/bin/sleep infinity\n{lines}\n");
        repo.write("reconciled.toml", "[[unit]]\nname = \"shop.service\"\nactive = true\n[[unit]]\nname = \"worker.service\"\nactive = true\n");
        repo.write(UNIT, shop("")).write(
            "files/etc/systemd/system/worker.service",
            "[Unit]\nRequires=shop.service\nAfter=shop.service\n[Service]\nExecStart=/bin/sleep infinity\n",
        );
        repo.commit_and_push().assert_live();
        // It is stopped by its old definition, and so is what requires it.
        repo.write(UNIT, shop("Nice=1\nKillMode=mixed"));
        let push = repo.commit_and_push();
        push.assert_live().says("! stop and start shop.service (Nice changed)").says("! restart worker.service (it stops with shop.service)");
        assert_eq!(prop(host, "worker.service", "ActiveState"), "active");
        // Also on the way back.
        repo.write(UNIT, shop("Nice=2\nKillMode=process\nExecStartPost=/bin/false"));
        repo.commit_and_push().assert_refused("shop.service");
        assert_eq!([prop(host, "shop.service", "ActiveState"), prop(host, "worker.service", "ActiveState")], ["active", "active"]);
        assert_eq!(host.status()["phase"], "idle");
        // A target is read and goes on: all that belongs to it would stop with it.
        let first = run(host, "worker.service");
        repo.write(UNIT, shop("Nice=1\nKillMode=mixed")).write("files/etc/systemd/system/sysinit.target.d/x.conf", "[Unit]\nWants=shop.service\n");
        repo.commit_and_push().assert_live().says("sysinit.target: Wants changed, but all that belongs to it would stop with it");
        assert_eq!(run(host, "worker.service"), first);
    }
}

scenario! {
    fn a_socket_and_its_service_come_back_in_order(host: installed) {
        let repo = host.clone_repo();
        let probe = "[[probe]]\nname = \"till\"\ncommand = [\"/usr/bin/grep\", \"-q\", \"good\", \"/etc/shop.conf\"]\nattempts = 1\n";
        let tables = |active: bool| format!("units = [\"echo.socket\"]\n[[unit]]\nname = \"echo.service\"\nactive = {active}\n{probe}");
        repo.write("reconciled.toml", tables(true)).write("files/etc/shop.conf", "good\n");
        repo.write("files/etc/systemd/system/echo.socket", socket("ListenStream=/run/echo"));
        repo.write("files/etc/systemd/system/echo.service", echo("one"));
        repo.commit_and_push().assert_live();
        // The socket changes, the service is to stop, and a probe takes it all back.
        repo.write("reconciled.toml", tables(false)).write("files/etc/shop.conf", "bad\n");
        repo.write("files/etc/systemd/system/echo.socket", socket("ListenStream=/run/echo\nSocketMode=0660"));
        repo.commit_and_push().assert_refused("rolled back to generation 1");
        assert_eq!([prop(host, "echo.socket", "ActiveState"), prop(host, "echo.service", "ActiveState")], ["active", "active"]);
        assert_eq!((ask(host, "/run/echo").as_str(), host.status()["phase"].as_str()), ("one", Some("idle")));
    }
}
