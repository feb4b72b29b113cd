//! Killed at every point that it passes, and again at every point of the recovery: the host ends wholly old or wholly new,
//! and what runs has read what is on the disk. The promises of the README: all or nothing, behaviour restored, held, on record.

use std::collections::BTreeMap;

use reconciled_tests::{Host, Release, Repo};

/// Everything that a look from outside can tell the two generations apart by; the same text means the same state.
const LOOK: &str = r#"
cd /
of() { find /srv/app /srv/deep /srv/other /etc/nginx/sites-enabled /etc/systemd/system -not -path '*/reconciled.service.d*' "$@" 2>/dev/null | sort; }
of -printf '%p %y %m %u:%g %l\n'
of -type f -exec sha256sum {} +
units=(nginx svc dropped fresh lent halted hidden)
systemctl show -p Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload "${units[@]/%/.service}" | awk -v RS= '{ gsub("\n", " ") } 1'
for u in "${units[@]}"; do echo "$u has read: $(uniq -c /run/read."$u" 2>/dev/null | tr -s ' \n' ' ')"; done
exec 3<>/dev/tcp/127.0.0.1/80
printf 'GET / HTTP/1.0\r\nHost: shop\r\n\r\n' >&3
echo "nginx serves: $(tail -n 1 <&3)"
echo "group: $(getent group deployers)"
echo "failed: $(systemctl list-units --failed --plain --no-legend | tr '\n' ' ')"
"#;

/// What must never be left.
const LITTER: &str = r#"
find / -xdev -name .reconciled; find /srv/other -name .reconciled
systemctl list-units --all --plain --no-legend 'reconciled-*' | grep -v -e reconciled-recover.service || true
findmnt -rno TARGET | grep -e reconciled || true
ls /var/lib/reconciled/objects | grep -v '^..$' || true
"#;

/// A service that notes, before it counts as started, what it has read.
fn service(name: &str, generation: &str) -> String {
    format!(
        "[Unit]\nDescription={name} {generation}\n[Service]\nEnvironment=GEN={generation}\nExecStartPre=/srv/app/mark {name}\n\
         ExecStart=/bin/sleep infinity\nExecStopPost=/bin/rm -f /run/read.{name}\n[Install]\nWantedBy=multi-user.target\n"
    )
}

fn site(body: &str) -> String {
    format!("server {{ listen 80 default_server; server_name shop; location / {{ return 200 \"{body}\\n\"; }} }}\n")
}

const PROBE: &str =
    "[[probe]]\nname = \"site\"\nhttp = { url = \"http://127.0.0.1/\", host = \"shop\", status = 200 }\ninterval = \"100ms\"\n";

/// The generation that the host is at before each kill.
fn write_old(repo: &Repo) {
    let lent = "[[unit]]\nname = \"lent.service\"\nenabled = true\nactive = true\n";
    let halted = "[[unit]]\nname = \"halted.service\"\nenabled = true\nactive = true\n";
    let units = "units = [\"nginx.service\", \"svc.service\", \"dropped.service\"]\n";
    repo.write("reconciled.toml", format!("{units}{lent}{halted}{PROBE}"))
        .write("files/etc/nginx/sites-enabled/default", site("old"))
        .write("files/etc/systemd/system/svc.service", service("svc", "old"))
        .write("files/etc/systemd/system/dropped.service", service("dropped", "old"))
        .write("files/etc/systemd/system/halted.service", service("halted", "always"))
        .write("files/srv/app/mark", "#!/bin/sh\n{ echo \"$GEN\"; cat /srv/app/conf; } >\"/run/read.$1\"\n")
        .executable("files/srv/app/mark")
        .write("files/srv/app/conf", "old\n".repeat(3000))
        .write("files/srv/app/goes", "old\n")
        .write("files/srv/app/mode", "same\n")
        .write("files/srv/app/was-file", "old\n")
        .symlink("files/srv/app/link", "conf")
        .symlink("files/srv/app/was-link", "conf")
        .write("files/srv/other/file", "old\n");
}

/// Something of everything: replaced, created, deleted, its mode changed, links swapped, units of all kinds, an account, a command.
fn write_new(repo: &Repo) {
    let halted = "[[unit]]\nname = \"halted.service\"\nenabled = false\nactive = false\n";
    let hidden = "[[unit]]\nname = \"hidden.service\"\nmasked = true\n";
    let made = "[[directory]]\npath = \"/srv/app/made\"\nowner = \"www-data\"\nmode = \"0750\"\n";
    let mark = "[[command]]\nname = \"mark\"\nask = [\"test\", \"-e\", \"/srv/app/marked\"]\nforward = [\"touch\", \"/srv/app/marked\"]\n\
                backward = [\"rm\", \"-f\", \"/srv/app/marked\"]\n";
    let units = "units = [\"nginx.service\", \"svc.service\", \"fresh.service\"]\ngroups = [\"deployers\"]\n";
    repo.write("reconciled.toml", format!("{units}{halted}{hidden}{made}{mark}{PROBE}"))
        .write("files/etc/nginx/sites-enabled/default", site("new"))
        .write("files/etc/systemd/system/svc.service", service("svc", "new"))
        .write("files/etc/systemd/system/fresh.service", service("fresh", "new"))
        .write("files/srv/app/conf", "new\n".repeat(3000))
        .write("files/srv/deep/er/file", "new\n")
        .write("files/srv/other/file", "new\n")
        .executable("files/srv/app/mode");
    for gone in ["etc/systemd/system/dropped.service", "srv/app/goes", "srv/app/link", "srv/app/was-link", "srv/app/was-file"] {
        repo.remove(&format!("files/{gone}"));
    }
    repo.symlink("files/srv/app/link", "mode").write("files/srv/app/was-link", "new\n").symlink("files/srv/app/was-file", "conf");
}

/// What a look sees in each of the two generations, and the means to get from one to the other.
struct Story<'h> {
    host: &'h Host,
    repo: Repo,
    old: String,
    new: String,
    /// The old generation's commit and the new one's tree.
    base: String,
    tree: String,
    visited: u32,
}

impl<'h> Story<'h> {
    #[track_caller]
    fn begin(host: &'h Host) -> Self {
        host.write("/etc/systemd/system/lent.service", service("lent", "always"));
        host.write("/etc/systemd/system/hidden.service", service("hidden", "always"));
        host.write(
            "/etc/systemd/system/reconciled.service.d/test.conf",
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=100ms\n",
        );
        host.sh("mkdir -p /srv/other && mv /etc/systemd/system/hidden.service /usr/lib/systemd/system/").ok();
        host.sh("rm /etc/nginx/sites-enabled/default; systemctl daemon-reload; systemctl enable -q --now nginx").ok();
        let repo = host.clone_repo();
        write_old(&repo);
        repo.commit_and_push().assert_live();
        let base = repo.head();
        let old = look(host);
        write_new(&repo);
        repo.commit();
        let tree = repo.git(&["rev-parse", "HEAD^{tree}"]).ok();
        let mut story = Story { host, repo, old, new: String::new(), base, tree, visited: 0 };
        story.push().assert_live();
        story.new = look(host);
        assert_ne!(story.old, story.new);
        story.reset("before the first kill");
        story
    }

    /// Pushes the new generation as a revision that nobody has seen yet: one that was interrupted twice would be held.
    fn push(&self) -> reconciled_tests::Push {
        let message = format!("attempt {}", self.visited);
        let commit = self.repo.git(&["commit-tree", &self.tree, "-p", &self.base, "-m", &message]).ok();
        self.repo.git(&["reset", "-q", "--hard", &commit]).ok();
        self.repo.push()
    }

    /// Back to the old generation from the new one.
    #[track_caller]
    fn reset(&self, when: &str) {
        self.host.ctl("rollback 1").ok();
        self.is_settled(when);
        // What programs have made is let go: the next push is to make it again.
        self.host.sh("groupdel deployers && rm /srv/app/marked").ok();
        same(&self.old, &look(self.host), &format!("rolled back {when}"));
    }

    /// The points that are passed under these orders, each as often as it is.
    #[track_caller]
    fn points(&mut self, orders: &[&str]) -> Vec<String> {
        self.host.sh("rm -f /var/lib/reconciled/failpoint.passed; systemctl restart reconciled").ok();
        let pid = self.pid();
        self.host.order(&[orders, &["count"]].concat());
        self.visited += 1;
        let push = self.push();
        if orders.is_empty() {
            push.assert_live();
        } else {
            let is_back =
                format!("[ $(systemctl show -p MainPID --value reconciled) != {pid} ] && systemctl is-active -q reconciled");
            self.host.wait_until("the recovery's end", || self.host.sh(&is_back).code == 0);
        }
        self.host.sh("rm /var/lib/reconciled/failpoint").ok();
        let passed = self.host.read("/var/lib/reconciled/failpoint.passed");
        self.host.sh("systemctl restart reconciled").ok();
        if orders.is_empty() {
            self.reset("after counting");
        }
        let passed: Vec<String> = passed.lines().map(str::to_owned).collect();
        assert!(!passed.is_empty(), "no point was passed");
        passed
    }

    /// The daemon's process: while one that was killed dies, the manager still calls it active.
    #[track_caller]
    fn pid(&self) -> String {
        self.host.exec("systemctl show -p MainPID --value reconciled").ok()
    }

    /// Pushes, dies where the orders say, and checks the world that systemd and the recovery make of it.
    #[track_caller]
    fn visit(&mut self, orders: &[&str]) {
        self.visited += 1;
        let at = orders.join(", then ");
        let audit = "/var/lib/reconciled/audit/audit.jsonl";
        let before: usize = self.host.sh(&format!("wc -l <{audit}")).ok().trim().parse().unwrap_or_default();
        let pid = self.pid();
        self.host.order(orders);
        let push = self.push();
        let settled = format!(
            "for ((i = 0; i < 300; i++)); do
               [[ ! -e /var/lib/reconciled/failpoint && $(systemctl show -p MainPID --value reconciled) != {pid} ]] &&
                 systemctl is-active -q reconciled && exit 0
               sleep 0.1
             done; exit 1"
        );
        assert!(
            self.host.sh(&settled).code == 0,
            "killed at {at}: the orders were not met, or it did not come back: {}",
            push.output
        );
        self.is_settled(&format!("killed at {at}"));
        let now = look(self.host);
        let went_back = self.host.status()["live"] == *self.base;
        let wanted = if went_back { &self.old } else { &self.new };
        let generation = if went_back { "old" } else { "new" };
        same(wanted, &now, &format!("killed at {at}, the {generation} generation is live"));
        assert!(!(went_back && push.ok), "killed at {at}: the push was told success: {}", push.output);
        let events = self
            .host
            .sh(&format!("tail -n +{} {audit} | grep -o '\"event\":\"[a-z-]*\"' | cut -d: -f2 | tr -d '\"'", before + 1));
        let events: Vec<&str> = events.stdout.lines().collect();
        let outcome = if went_back { "recovered" } else { "live" };
        let outcomes = events.iter().filter(|event| **event == outcome).count();
        let right = if events.contains(&"intent") { outcomes == 1 } else { outcomes <= 1 };
        assert!(right, "killed at {at}: on record is {events:?}");
        for never in ["drift-repaired", "drift-found", "stuck", "alarm"] {
            assert!(!events.contains(&never), "killed at {at}: on record is {events:?}");
        }
        println!("{at}: {generation} {events:?}");
        if !went_back {
            assert_eq!(self.repo.remote_main(), Some(self.repo.head()), "killed at {at}");
            self.reset(&format!("killed at {at}"));
        }
    }

    /// Idle, nothing left over, the audit log whole.
    #[track_caller]
    fn is_settled(&self, when: &str) {
        // One answer: the daemon looks by itself once it is up again, and is idle again after that.
        self.host.wait_until(&format!("{when}: an end"), || {
            let status = self.host.status();
            assert!(status["phase"] != "stuck", "{when}: {status}");
            status["phase"] == "idle"
        });
        self.host.wait_until(&format!("{when}: no litter"), || {
            let litter = self.host.sh(LITTER).ok();
            litter.is_empty() || {
                println!("{when}: {litter}");
                false
            }
        });
        let _ = self.host.ctl("audit verify").fails(0);
    }
}

#[track_caller]
fn look(host: &Host) -> String {
    host.sh(LOOK).ok()
}

/// Insists that two looks saw the same; shows the lines that only one of them has.
#[track_caller]
fn same(wanted: &str, found: &str, when: &str) {
    let mut lines: BTreeMap<&str, i32> = BTreeMap::new();
    wanted.lines().for_each(|line| *lines.entry(line).or_default() -= 1);
    found.lines().for_each(|line| *lines.entry(line).or_default() += 1);
    let sign = |n: i32| if n < 0 { "wanted" } else { "found " };
    let differ: String = lines.into_iter().filter(|(_, n)| *n != 0).map(|(line, n)| format!("\n{} {line}", sign(n))).collect();
    assert!(differ.is_empty(), "{when}, and the host is not as it should be:{differ}");
}

/// The points that a release visits: the two share them, so that together they visit each; all of them where `EVERY_POINT` is
/// set, those of one name where `KILL_AT` says so.
fn share(points: &[String], release: Release) -> impl Iterator<Item = &String> {
    let only = std::env::var("KILL_AT").unwrap_or_default();
    let all = !only.is_empty() || std::env::var_os("EVERY_POINT").is_some();
    let is_mine = move |index: usize| all || index % 2 == usize::from(release == Release::Trixie);
    let points = points.iter().enumerate().filter(move |(index, _)| is_mine(*index)).map(|(_, point)| point);
    points.filter(move |point| point.starts_with(&only))
}

/// Every point of a deploy.
fn i01_killed_at_every_point(release: Release) {
    let host = Host::with_failpoints(release);
    let mut story = Story::begin(&host);
    let points = story.points(&[]);
    for point in share(&points, release) {
        story.visit(&[point]);
    }
    story.push().assert_live();
    story.is_settled("after the last");
    same(&story.new, &look(&host), "pushed after the last kill");
    println!("{host:?}: {} kill points visited of {points:?}", share(&points, release).count());
}

/// Every point of the recovery from a kill in the middle of the files, and from one when all was done.
fn i05_killed_in_recovery(release: Release) {
    let host = Host::with_failpoints(release);
    let mut story = Story::begin(&host);
    let mut visited = 0;
    for first in ["step 9", "woken 2"] {
        let points = story.points(&[first]);
        println!("{host:?}: after {first} the recovery passes {points:?}");
        for point in share(&points, release) {
            story.visit(&[first, point]);
            visited += 1;
        }
    }
    story.visit(&["woken 2", "step-back 4", "undoing 1", "step-back 9", "restored 1"]);
    assert!(visited > 0);
    println!("{host:?}: {visited} kill points in recoveries visited");
}

mod bookworm {
    use super::Release::Bookworm;

    #[test]
    fn i01_killed_at_every_point() {
        super::i01_killed_at_every_point(Bookworm);
    }

    #[test]
    fn i05_killed_in_recovery() {
        super::i05_killed_in_recovery(Bookworm);
    }
}

mod trixie {
    use super::Release::Trixie;

    #[test]
    fn i01_killed_at_every_point() {
        super::i01_killed_at_every_point(Trixie);
    }

    #[test]
    fn i05_killed_in_recovery() {
        super::i05_killed_in_recovery(Trixie);
    }
}
