//! The shipped guards, each with its real program: a bad file is refused in the program's own words and nothing was touched,
//! a good one is in force in what runs afterwards.

use reconciled_tests::{Host, Push, Release, Repo, scenario};

use crate::shop::library;
use crate::shop::look::{assert_untouched, quiet};

/// One program, and how its guard is put to the test.
struct Row<'a> {
    /// The guard.
    guard: &'a str,
    /// The unit that runs before, where it is a service.
    runs: &'a str,
    /// Where its file stands; `PG` is the version of PostgreSQL.
    path: &'a str,
    /// `[[file]]` tables that it needs.
    manifest: &'a str,
    /// What it must refuse.
    bad: &'a str,
    /// Its own words on it, with file and line where it says them.
    says: &'a [&'a str],
    /// What it must take.
    good: &'a str,
    /// A wake of the plan, if there is one.
    wake: &'a str,
    /// Asks what runs, and what the answer has to have in it once the good file is in force.
    asks: (&'a str, &'a str),
}

const NOTHING: Row<'_> =
    Row { guard: "", runs: "", path: "", manifest: "", bad: "", says: &[], good: "", wake: "", asks: ("true", "") };

impl Row<'_> {
    fn path(&self, host: &Host) -> String {
        let version = if host.release() == Release::Bookworm { "15" } else { "17" };
        self.path.replace("PG", version)
    }

    /// Starts the service and writes the bad file; gives the work tree and how the host looks.
    #[track_caller]
    fn open(&self, host: &Host) -> (Repo, String) {
        // Words on a file that not everybody may read are not shown.
        host.sh(&format!("[ ! -e {0} ] || chmod o+r {0}", self.path(host))).ok();
        if !self.runs.is_empty() {
            host.exec(&format!("systemctl start {}", self.runs)).ok();
        }
        let repo = host.clone_repo();
        repo.write("reconciled.toml", self.manifest).write(&format!("files{}", self.path(host)), self.bad);
        (repo, quiet(host))
    }

    #[track_caller]
    fn refuses(&self, push: &Push) {
        push.assert_refused(&format!("guard {}", self.guard));
        for words in self.says {
            push.says(words);
        }
    }

    #[track_caller]
    fn goes_live(&self, host: &Host, repo: &Repo) {
        repo.write(&format!("files{}", self.path(host)), self.good);
        repo.commit_and_push().assert_live().says(&format!("ok    guard {}: ", self.guard)).says(self.wake);
        let (question, answer) = self.asks;
        host.wait_until(&format!("{question} answers {answer}"), || host.sh(question).text().contains(answer));
    }

    /// The whole test of most guards; gives the work tree for more.
    #[track_caller]
    fn holds(&self, host: &Host) -> Repo {
        let (repo, before) = self.open(host);
        let (question, answer) = self.asks;
        let said = host.sh(question).text();
        assert!(!said.contains(answer), "{answer} is in force before");
        let push = repo.commit_and_push();
        self.refuses(&push);
        push.says(&format!("refused, nothing was touched: guard {}: ", self.guard));
        assert_untouched(host, &before);
        assert_eq!(host.sh(question).text(), said);
        self.goes_live(host, &repo);
        repo
    }
}

scenario! {
    fn sshd(host: with_programs) {
        Row {
            guard: "sshd",
            runs: "ssh",
            path: "/etc/ssh/sshd_config.d/shop.conf",
            bad: "PermitRootLogin no\nMaxSesions 3\n",
            says: &["/etc/ssh/sshd_config.d/shop.conf: line 2: Bad configuration option: MaxSesions"],
            good: "VersionAddendum shop\n",
            wake: "! reload ssh.service",
            // The daemon itself says it to everyone who connects.
            asks: ("timeout 5 head -n 1 </dev/tcp/127.0.0.1/22", " shop"),
            ..NOTHING
        }
        .holds(host);
        assert!(host.exec("sshd -T").ok().contains("versionaddendum shop"));
    }
}

scenario! {
    fn sudo(host: with_programs) {
        Row {
            guard: "sudo",
            path: "/etc/sudoers.d/shop",
            manifest: "[[file]]\npath = \"/etc/sudoers.d/*\"\nmode = \"0440\"\n",
            bad: "# who may restart the shop\ndaemon ALL=(root NOPASSWD: /bin/true\n",
            says: &["/etc/sudoers.d/shop:2:18: syntax error", "daemon ALL=(root NOPASSWD: /bin/true"],
            good: "daemon ALL=(root) NOPASSWD: /bin/true\n",
            asks: ("sudo -l -U daemon", "NOPASSWD: /bin/true"),
            ..NOTHING
        }
        .holds(host)
        // visudo judges more than the syntax.
        .write("reconciled.toml", "")
        .commit_and_push().assert_refused("/etc/sudoers.d/shop: bad permissions, should be mode 0440");
    }
}

scenario! {
    fn postgresql(host: with_programs) {
        Row {
            guard: "postgresql",
            runs: "postgresql",
            path: "/etc/postgresql/PG/main/conf.d/shop.conf",
            bad: "work_mem = 7MB\nmax_conections = 3\n",
            says: &["unrecognized configuration parameter \"max_conections\" in file \"/etc/postgresql/", "/main/conf.d/shop.conf\" line 2"],
            good: "work_mem = 7MB\n",
            wake: "! reload postgresql.service",
            asks: ("runuser -u postgres -- psql -Atc 'SHOW work_mem'", "7MB"),
            ..NOTHING
        }
        .holds(host);
    }
}

scenario! {
    fn postgresql_hba(host: with_programs) {
        let row = Row {
            guard: "postgresql-hba",
            runs: "postgresql",
            path: "/etc/postgresql/PG/main/pg_hba.conf",
            bad: "local all postgres peer\nlocal all all pear\n",
            says: &["/main/pg_hba.conf:2: invalid authentication method \"pear\""],
            good: "local all postgres peer\nlocal all shop trust\n",
            wake: "! reload postgresql.service",
            asks: ("psql -U shop -d postgres -Atc 'SELECT current_user'", "shop"),
            ..NOTHING
        };
        let (repo, _) = row.open(host);
        host.wait_until("there is a user", || host.sh("runuser -u postgres -- createuser shop").text().contains("already exists"));
        let was = host.sh(&format!("ls -li {0}; sha256sum {0}", row.path(host))).ok();
        let push = repo.commit_and_push();
        push.says("hint: guard postgresql-hba: deferred until the files are in place: the live service has to be asked");
        push.says("rolled back").says("guard postgresql-hba failed in place: ");
        row.refuses(&push);
        assert_eq!(host.sh(&format!("ls -li {0}; sha256sum {0}", row.path(host))).ok(), was, "the same inode is back");
        // It was never told to read the bad one.
        assert!(!host.sh("grep -r pear /var/log/postgresql").text().contains("pear"));
        row.goes_live(host, &repo);
        let ident = row.path(host).replace("hba", "ident");
        host.exec(&format!("chmod o+r {ident}")).ok();
        repo.write(&format!("files{ident}"), "map\n");
        repo.commit_and_push().assert_refused("/main/pg_ident.conf:1: missing entry at end of line");
        // A server that does not run has nothing to say, and nothing to read.
        host.exec("systemctl stop postgresql").ok();
        repo.commit_and_push().assert_live();
    }
}

scenario! {
    fn redis(host: with_programs) {
        let says: &[&str] = match host.release() {
            Release::Bookworm => &["Reading the configuration file, at line 3", ">>> 'maxmemori 64mb'", "Bad directive"],
            Release::Trixie => &["Unresolved Configuration(s) Detected", ">>> 'maxmemori 64mb'"],
        };
        let row = Row {
            guard: "redis",
            runs: "redis-server",
            path: "/etc/redis/redis.conf",
            bad: "bind 127.0.0.1\ndir /var/lib/redis\nmaxmemori 64mb\n",
            says,
            good: "bind 127.0.0.1\ndir /var/lib/redis\nmaxmemory 64mb\n",
            wake: "! restart redis-server.service",
            asks: ("redis-cli CONFIG GET maxmemory", "67108864"),
            ..NOTHING
        };
        let repo = row.holds(host);
        repo.write("files/etc/redis/redis.conf", row.good.replace("64mb", "64xb"));
        repo.commit_and_push().assert_refused("guard redis: Reading the configuration file, at line 3").says("argument must be a memory value");
    }
}

scenario! {
    fn pgbouncer(host: with_programs) {
        let rest = "listen_addr = 127.0.0.1\nunix_socket_dir = /run/postgresql\nauth_file = /etc/pgbouncer/userlist.txt\nadmin_users = postgres\n";
        Row {
            guard: "pgbouncer",
            runs: "pgbouncer",
            path: "/etc/pgbouncer/pgbouncer.ini",
            bad: "[databases]\n[pgbouncer]\nmax_client_con = 77\n",
            says: &["guard pgbouncer: ERROR unknown parameter: pgbouncer/max_client_con", "(/etc/pgbouncer/pgbouncer.ini:3)"],
            good: &format!("[databases]\n[pgbouncer]\nmax_client_conn = 77\n{rest}"),
            wake: "! reload pgbouncer.service",
            asks: ("runuser -u postgres -- psql -p 6432 -U pgbouncer pgbouncer -Atc 'SHOW CONFIG'", "max_client_conn|77|"),
            ..NOTHING
        }
        .holds(host);
    }
}

scenario! {
    fn haproxy(host: with_programs) {
        let front = "defaults\n mode http\n timeout connect 1s\n timeout client 1s\n timeout server 1s\nfrontend shop\n bind 127.0.0.1:8404\n";
        Row {
            guard: "haproxy",
            runs: "haproxy",
            path: "/etc/haproxy/haproxy.cfg",
            bad: &format!("{front} http-reqest return status 200\n"),
            says: &["guard haproxy: [ALERT] config : parsing [/etc/haproxy/haproxy.cfg:8]", "unknown keyword 'http-reqest'"],
            good: &format!("{front} http-request return status 200 content-type text/plain string shop\n"),
            wake: "! reload haproxy.service",
            asks: (FETCH_8404, "shop"),
            ..NOTHING
        }
        .holds(host);
    }
}

/// What port 8404 answers; bash alone can ask.
const FETCH_8404: &str = "exec 3<>/dev/tcp/127.0.0.1/8404 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 5 cat <&3";

scenario! {
    fn apache2(host: with_programs) {
        let site = |line: &str| format!("Listen 127.0.0.1:8404\n<VirtualHost *:8404>\n {line}\n</VirtualHost>\n");
        let repo = Row {
            guard: "apache2",
            runs: "apache2",
            path: "/etc/apache2/sites-enabled/shop.conf",
            bad: &site("Redirekt /x http://shop/"),
            says: &["Syntax error on line 3 of /etc/apache2/sites-enabled/shop.conf:", "Invalid command 'Redirekt'"],
            good: &site("Redirect / http://shop.example/"),
            wake: "! reload apache2.service",
            asks: (FETCH_8404, "http://shop.example/"),
            ..NOTHING
        }
        .holds(host);
        // One that does not run is judged the same, and left alone.
        host.sh("systemctl stop apache2; rm -rf /run/apache2 /run/lock/apache2").ok();
        repo.write("files/etc/apache2/conf-enabled/more.conf", "Nonsense\n");
        repo.commit_and_push().assert_refused("Syntax error on line 1 of /etc/apache2/conf-enabled/more.conf");
        repo.write("files/etc/apache2/conf-enabled/more.conf", "ServerTokens Prod\n");
        repo.commit_and_push().assert_live().says("ok    guard apache2");
        assert_eq!(host.exec("systemctl is-active apache2").text().trim(), "inactive");
    }
}

scenario! {
    fn logrotate(host: with_programs) {
        Row {
            guard: "logrotate",
            path: "/etc/logrotate.d/shop",
            bad: "/var/log/shop.log {\n  daily\n  rottate 3\n}\n",
            says: &["shop:3 unknown option 'rottate'"],
            good: "/var/log/shop.log {\n  daily\n  rotate 3\n}\n",
            asks: ("logrotate -d /etc/logrotate.conf 2>&1 | grep 'pattern: /var/log/shop.log'", "(3 rotations)"),
            ..NOTHING
        }
        .holds(host);
        // What it names is looked for at each run, not now: there is no such log.
        assert!(!host.exists("/var/log/shop.log"));
    }
}

scenario! {
    fn what_was_broken_before_is_not_blamed_on_a_commit(host: with_programs on bookworm) {
        host.write("/etc/logrotate.d/hand", "/var/log/hand.log {\n  daly\n}\n");
        let repo = host.clone_repo();
        repo.write("files/etc/logrotate.d/shop", "/var/log/shop.log {\n  daily\n}\n");
        repo.commit_and_push().assert_live().says("hint: guard logrotate: as before this change: ").says("hand:2 unknown option 'daly'");
        repo.write("files/etc/logrotate.d/more", "/var/log/more.log {\n  wekly\n}\n");
        let push = repo.commit_and_push();
        push.assert_refused("more:2 unknown option 'wekly'");
        assert!(!push.output.contains("daly"), "{}", push.output);
        // Mended by a commit, it is well again.
        repo.remove("files/etc/logrotate.d/more").write("files/etc/logrotate.d/hand", "/var/log/hand.log {\n  daily\n}\n");
        repo.commit_and_push().assert_live().says("ok    guard logrotate");
    }
}

scenario! {
    fn cron(host: with_programs) {
        host.exec("systemctl start cron").ok();
        let job = |when: &str| format!("PATH=/usr/bin:/bin\n{when} root touch /run/shop-was-here\n");
        let row = Row {
            guard: "cron",
            path: "/etc/cron.d/shop",
            bad: &job("* * * * 9"),
            says: &["/etc/cron.d/shop\":", "bad day-of-week"],
            good: &job("* * * * *"),
            // Its next minute.
            asks: ("ls /run/shop-was-here", "/run/shop-was-here\n"),
            ..NOTHING
        };
        let repo = row.holds(host);
        repo.write("files/etc/crontab", "61 * * * * root true\n");
        repo.commit_and_push().assert_refused("/etc/crontab\":").says("bad minute");
        // What cron passes over is not judged, and what goes neither.
        repo.remove("files/etc/crontab").write("files/etc/cron.d/shop.disabled", "nonsense\n");
        repo.commit_and_push().assert_live();
        repo.remove("files/etc/cron.d").write("files/etc/motd", "").commit_and_push().assert_live();
    }
}

scenario! {
    fn nftables(host: with_programs) {
        let rules = |rule: &str| format!("flush ruleset\ntable inet filter {{\n chain in {{\n  type filter hook input priority 0;\n  {rule}\n }}\n}}\n");
        let row = Row {
            guard: "nftables",
            runs: "nftables",
            path: "/etc/nftables.conf",
            // Only the kernel knows that there is no such chain.
            bad: &rules("jump nowhere"),
            says: &["/etc/nftables.conf:5:8-14: Error: No such file or directory"],
            // An interface of this host, which an empty network of the check's own would not have.
            good: &rules("iif host0 tcp dport 8404 counter drop"),
            wake: "! reload nftables.service",
            asks: ("nft list ruleset", "dport 8404"),
            ..NOTHING
        };
        let repo = row.holds(host);
        repo.write("files/etc/nftables.conf", rules("tcp dprt 22 accept")).commit();
        repo.push_to(&["HEAD:refs/heads/try"]).assert_refused("guard nftables: /etc/nftables.conf:5:");

        // A right over the live network is neither for keys that may only preview, nor for code of the candidate.
        let ci = host.clone_repo_as("ci", &["--preview"]);
        ci.write("files/etc/nftables.conf", rules("jump nowhere")).commit();
        ci.push_to(&["HEAD:refs/heads/try"]).assert_live().says("hint: guard nftables: deferred");
        let bob = host.clone_repo_as("bob", &[]);
        bob.write("files/etc/nginx/escape.so", library());
        bob.write("files/etc/nginx/modules-enabled/escape.conf", "load_module /etc/nginx/escape.so;\n");
        bob.write("files/etc/nftables.conf", rules("counter")).commit();
        let push = bob.push_to(&["HEAD:refs/heads/try"]);
        push.assert_refused("the library has tried everything").says("ok    guard nftables");
        assert!(!push.output.contains("GOT the network's settings"), "{}", push.output);
        bob.remove("files/etc/nginx").write("files/usr/local/lib/shop", "").commit();
        bob.push_to(&["HEAD:refs/heads/try"]).assert_live().says("hint: guard nftables: deferred until the files are in place");
    }
}

scenario! {
    fn tmpfiles(host: with_programs) {
        Row {
            guard: "tmpfiles",
            path: "/etc/tmpfiles.d/shop.conf",
            bad: "d /run/shop 0750 daemon daemon -\nd /run/shop/cache 07x0 - - -\n",
            says: &["/etc/tmpfiles.d/shop.conf:2: Invalid mode '07x0'."],
            good: "d /run/shop 0750 daemon daemon -\n",
            wake: "! run /usr/bin/systemd-tmpfiles --create",
            asks: ("stat -c '%U %a' /run/shop", "daemon 750"),
            ..NOTHING
        }
        .holds(host);
    }
}

scenario! {
    fn sysusers(host: with_programs) {
        Row {
            guard: "sysusers",
            path: "/etc/sysusers.d/shop.conf",
            bad: "u shop - \"the shop\" /srv/shop\nu 9till - \"its till\"\n",
            says: &["/etc/sysusers.d/shop.conf:2: '9till' is not a valid user or group name."],
            good: "u shop - \"the shop\" /srv/shop\n",
            wake: "! run /usr/bin/systemd-sysusers",
            asks: ("getent passwd shop", "the shop:/srv/shop"),
            ..NOTHING
        }
        .holds(host);
    }
}

scenario! {
    fn an_account_its_directory_and_its_service_come_in_one_push(host: with_programs) {
        let repo = host.clone_repo();
        repo.write("files/etc/sysusers.d/shop.conf", "u shop - \"the shop\"\n");
        repo.write("files/etc/tmpfiles.d/shop.conf", "d /run/shop 0700 shop shop -\n");
        let unit = "[Service]\nUser=shop\nExecStart=/bin/sh -c 'date >/run/shop/began; exec sleep infinity'\n";
        repo.write("files/etc/systemd/system/shop.service", unit);
        repo.write("reconciled.toml", "[[unit]]\nname = \"shop.service\"\nactive = true\n");
        repo.commit_and_push().assert_live();
        assert_eq!(host.exec("stat -c %U /run/shop/began").ok(), "shop");

        // What fails after a run is taken back, and a run that fails fails the push.
        repo.write("files/etc/tmpfiles.d/shop.conf", "d /run/shop 0700 shop shop -\nd /run/more 0700 shop shop -\n");
        repo.write("files/etc/systemd/system/shop.service", unit.replace("date", "false; exit 3"));
        repo.commit_and_push().assert_refused("rolled back to generation 1");
        assert_eq!(host.exec("systemctl is-active shop").ok(), "active");
        assert!(!host.read("/etc/tmpfiles.d/shop.conf").contains("more"));
        host.write("/etc/reconciled/guards.d/list.toml", "name = \"list\"\nglobs = [\"/etc/shop.list\"]\ncheck = [\"/bin/true\"]\n[run]\ncommand = [\"/bin/sh\", \"-c\", \"cp /etc/shop.list /run/shop.list; grep -q good /etc/shop.list || { echo no good >&2; exit 3; }\"]\n");
        host.exec("systemctl reload reconciled").ok();
        repo.write("files/etc/systemd/system/shop.service", unit).write("files/etc/tmpfiles.d/shop.conf", "d /run/shop 0700 shop shop -\n");
        repo.write("files/etc/shop.list", "good one\n");
        repo.commit_and_push().assert_live();
        repo.write("files/etc/shop.list", "two\n");
        repo.commit_and_push().assert_refused("rolled back to generation 2").says("exit code 3").says("no good");
        assert_eq!(host.read("/run/shop.list"), "good one\n", "run once more for what came back");
    }
}

scenario! {
    fn a_check_quotes_no_file_of_the_host_to_a_key_that_may_only_preview(host: with_programs on bookworm) {
        let secret = "squeamish-ossifrage";
        host.sh(&format!("umask 077; echo 'Squeamish {secret}' >/etc/secret")).ok();
        let spy = |repo: &Repo| {
            repo.write("files/etc/ssh/sshd_config.d/spy.conf", "Include /etc/secret\n").commit();
            repo.push_to(&["HEAD:refs/heads/try"])
        };
        spy(&host.clone_repo()).assert_refused("/etc/secret: line 1: Bad configuration option: Squeamish");
        let push = spy(&host.clone_repo_as("ci", &["--preview"]));
        push.assert_refused("guard sshd: it objects; its words may quote other files");
        assert!(!push.output.contains("queamish"), "{}", push.output);
        let of_ci: Vec<String> = crate::shop::audit(host).iter().map(ToString::to_string).filter(|record| record.contains("\"ci\"")).collect();
        assert!(of_ci.iter().any(|record| record.contains("it objects")), "{of_ci:#?}");
        assert!(!of_ci.iter().any(|record| record.contains("queamish")), "{of_ci:#?}");
    }
}
