//! Every row of the table, on what real hosts said: bookworm's nginx 1.22, systemd 252 and Python 3.11, trixie's 1.26, 257, 3.13.

use super::{CAUSES, Doubled, Evidence, Facts, LAST_WORDS, Listener, Mount, Said, Server, Step, StepKind, Walk, findings};
use crate::host::UnitSeen;
use crate::probe::Probe;

/// What the first rows to find something say, as `(row, text)`.
fn told(evidence: &Evidence) -> Vec<(String, String)> {
    findings(evidence).into_iter().map(|finding| (finding.name, finding.text)).collect()
}

/// Insists that exactly these rows find something, and that the first says this.
#[track_caller]
fn check(evidence: &Evidence, rows: &[&str], text: &str) {
    let told = told(evidence);
    assert_eq!(told.iter().map(|(row, _)| row.as_str()).collect::<Vec<_>>(), rows, "{told:#?}");
    assert_eq!(told.first().map_or("", |(_, text)| text), text);
}

fn said(unit: &str, text: &str) -> Said {
    Said { unit: unit.to_owned(), by_manager: text.starts_with(unit), text: text.to_owned() }
}

fn unit(active: &str, sub: &str, result: &str) -> UnitSeen {
    UnitSeen { active: active.to_owned(), sub: sub.to_owned(), result: result.to_owned(), ..UnitSeen::default() }
}

/// A unit that has said this.
fn journal(name: &str, lines: &[&str]) -> Evidence {
    let facts = Facts { journal: lines.iter().map(|line| said(name, line)).collect(), ..Facts::default() };
    Evidence { facts, units: [(name.to_owned(), unit("failed", "failed", "exit-code"))].into(), ..Evidence::default() }
}

/// nginx that has written this, below its time and process.
fn nginx(words: &str) -> Evidence {
    let mut evidence = asked(Evidence::default(), r#""http": {"url": "http://127.0.0.1/", "host": "shop"}"#, "502");
    evidence.facts.nginx.user = "www-data".to_owned();
    evidence.facts.errors = vec![format!("2026/11/26 01:31:30 {words}")];
    evidence
}

/// nginx that failed to connect to its upstream.
fn upstream(failure: &str, url: &str) -> Evidence {
    let rest = "client: 127.0.0.1, server: shop, request: \"GET / HTTP/1.1\"";
    nginx(&format!("[crit] 3311#3311: *1 {failure}, {rest}, upstream: \"{url}\", host: \"shop\""))
}

fn probe(question: &str) -> Probe {
    let json = format!("{{\"name\": \"site\", {question}}}");
    serde_json::from_str(&json).unwrap()
}

fn asked(mut evidence: Evidence, question: &str, got: &str) -> Evidence {
    let probe = probe(question);
    evidence.red.push((probe.clone(), format!("site: wanted 200, got {got} (GET …)")));
    evidence.probes.push(probe);
    evidence
}

fn listener(address: &str, name: &str, unit: &str) -> Listener {
    Listener { address: address.to_owned(), pid: 12, name: name.to_owned(), unit: unit.to_owned() }
}

fn step(path: &str, kind: StepKind, mode: u32, owner: &str, denied: bool) -> Step {
    Step { path: path.to_owned(), kind, mode, owner: owner.to_owned(), class: "o".to_owned(), denied }
}

fn walk(path: &str, last: Step) -> Walk {
    let root = step("/", StepKind::Directory, 0o755, "root:root", false);
    Walk { path: path.to_owned(), user: "www-data".to_owned(), steps: vec![root, last] }
}

#[test]
fn names_are_told_apart() {
    let mut names: Vec<&str> = CAUSES.iter().chain(&LAST_WORDS).map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    check(&Evidence::default(), &[], "");
}

#[test]
fn a_directory_that_nginx_may_not_enter() {
    let path = "/home/sammy/shop.sock";
    let mut evidence = upstream(
        &format!("connect() to unix:{path} failed (13: Permission denied) while connecting to upstream"),
        &format!("http://unix:{path}:/"),
    );
    evidence.facts.walks = vec![walk(path, step("/home/sammy", StepKind::Directory, 0o700, "sammy:sammy", true))];
    let wanted = "nginx may not enter /home/sammy (0700 sammy:sammy): it runs as www-data; chmod o+x /home/sammy, or move the socket to /run";
    check(&evidence, &["permission"], wanted);
    evidence.facts.walks = vec![walk(path, step(path, StepKind::Socket, 0o755, "sammy:sammy", true))];
    let told = told(&evidence);
    assert!(
        told[0]
            .1
            .starts_with("nginx may not write to /home/sammy/shop.sock (0755 sammy:sammy): it runs as www-data; have it made so"),
        "{told:?}"
    );
    evidence.facts.walks.clear();
    assert!(told_first(&evidence).contains("look for an ACL"), "the permissions do not show it");
}

fn told_first(evidence: &Evidence) -> String {
    told(evidence).into_iter().next().unwrap_or_default().1
}

#[test]
fn a_file_that_nginx_may_not_read_or_find() {
    for (words, kind, wanted) in [
        (
            "open() \"/srv/a.html\" failed (13: Permission denied), client",
            StepKind::File,
            "nginx may not read /srv/a.html (0600 root:root): it runs as www-data; chmod o+r /srv/a.html",
        ),
        (
            "\"/srv/a.html\" is forbidden (13: Permission denied), client",
            StepKind::File,
            "nginx may not read /srv/a.html (0600 root:root): it runs as www-data; chmod o+r /srv/a.html",
        ),
        (
            "open() \"/srv/a.html\" failed (2: No such file or directory), client",
            StepKind::Missing,
            "nginx was to serve /srv/a.html, which is not there: correct root or alias, or bring the file",
        ),
    ] {
        let mut evidence = nginx(&format!(
            "[error] 1#1: *7 {words}: 127.0.0.1, server: shop, request: \"GET /a.html HTTP/1.1\", host: \"shop\""
        ));
        evidence.facts.walks = vec![walk("/srv/a.html", step("/srv/a.html", kind, 0o600, "root:root", kind == StepKind::File))];
        assert_eq!(told_first(&evidence), wanted);
    }
}

#[test]
fn a_socket_that_is_not_there() {
    let mut evidence = upstream(
        "connect() to unix:/run/x/shop.sock failed (2: No such file or directory) while connecting to upstream",
        "http://unix:/run/x/shop.sock:/",
    );
    evidence.facts.walks = vec![walk("/run/x/shop.sock", step("/run/x", StepKind::Missing, 0, "", false))];
    let look = "what makes it does not run, or makes it elsewhere; look at its unit (systemctl status), and compare the paths";
    check(
        &evidence,
        &["socket-missing"],
        &format!("there is no socket /run/x/shop.sock (not even /run/x), to which nginx passes: {look}"),
    );
    evidence.facts.listeners = vec![listener("/run/shop.sock", "gunicorn", "shop.service")];
    check(
        &evidence,
        &["socket-missing"],
        "there is no socket /run/x/shop.sock, to which nginx passes: gunicorn (pid 12, shop.service) listens on /run/shop.sock; one of the two paths is wrong",
    );
    let mut evidence = asked(Evidence::default(), r#""http": {"unix": "/run/y.sock"}"#, "no such socket: /run/y.sock");
    evidence.facts.walks = vec![walk("/run/y.sock", step("/run/y.sock", StepKind::Missing, 0, "", false))];
    check(&evidence, &["socket-missing"], &format!("there is no socket /run/y.sock, which the probe asks: {look}"));
}

#[test]
fn an_address_where_nobody_listens() {
    let failure = "connect() failed (111: Connection refused) while connecting to upstream";
    let mut evidence = upstream(failure, "http://127.0.0.1:8099/");
    check(
        &evidence,
        &["nobody-listens"],
        "nobody listens on 127.0.0.1:8099, to which nginx passes: start what is to listen there, or correct the address",
    );
    evidence.facts.listeners = vec![listener("[::1]:8099", "gunicorn", "shop.service")];
    check(
        &evidence,
        &["nobody-listens"],
        "nobody listens on 127.0.0.1:8099, to which nginx passes: gunicorn (pid 12, shop.service) listens on [::1]:8099, not on 127.0.0.1: correct one of the two",
    );
    let stale = upstream(
        "connect() to unix:/run/x.sock failed (111: Connection refused) while connecting to upstream",
        "http://unix:/run/x.sock:/",
    );
    assert!(told_first(&stale).starts_with("the socket /run/x.sock is there, and nobody listens on it"));
    for (question, place) in
        [(r#""tcp": "127.0.0.1:9""#, "127.0.0.1:9"), (r#""http": {"url": "http://localhost/x"}"#, "localhost:80")]
    {
        let evidence = asked(Evidence::default(), question, "connection refused");
        check(
            &evidence,
            &["nobody-listens"],
            &format!("nobody listens on {place}, which the probe asks: start what is to listen there, or correct the address"),
        );
    }
}

#[test]
fn a_port_that_is_taken() {
    let holder =
        || vec![listener("127.0.0.1:8020", "python3", "other.service"), listener("0.0.0.0:80", "nginx", "nginx.service")];
    let mut evidence = nginx("[emerg] 1654#1654: bind() to 127.0.0.1:8020 failed (98: Address already in use)");
    evidence.facts.listeners = holder();
    let remedy = "stop that (systemctl disable --now other.service), or give one of the two another port";
    let taken = |unit| {
        format!("port 8020 is taken: python3 (pid 12, other.service) listens on 127.0.0.1:8020, where {unit} wants to; {remedy}")
    };
    check(&evidence, &["port-taken"], &taken("nginx.service"));
    for (name, line) in [
        ("shop.service", "[2026-11-26 01:32:24 +0000] [3654] [ERROR] Connection in use: ('127.0.0.1', 8020)"),
        ("shop.service", "OSError: [Errno 98] Address already in use"),
        ("shop.socket", "shop.socket: Failed to receive listening socket (127.0.0.1:8020): Input/output error"),
        ("shop.socket", "shop.socket: Failed to create listening socket (127.0.0.1:8020): Address already in use"),
    ] {
        let mut evidence = journal(name, &[line]);
        evidence.probes.extend([r#""http": {"url": "http://127.0.0.1/"}"#, r#""tcp": "127.0.0.1:8020""#].map(probe));
        evidence.units.insert("nginx.service".to_owned(), unit("active", "running", "success"));
        evidence.facts.listeners = holder();
        check(&evidence, &["port-taken"], &taken(name));
    }
}

#[test]
fn a_name_that_no_server_has() {
    let server = |at: &str, default, names: &[&str]| Server {
        at: at.to_owned(),
        ports: vec![(80, default)],
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let answer = |names: &[&str], host: &str| {
        let mut evidence =
            asked(Evidence::default(), &format!(r#""http": {{"url": "http://127.0.0.1/", "host": "{host}"}}"#), "404");
        evidence.facts.listeners = vec![listener("0.0.0.0:80", "nginx", "nginx.service")];
        evidence.facts.nginx.servers = vec![
            server("/etc/nginx/sites-enabled/default:21", true, &["_"]),
            server("/etc/nginx/sites-enabled/shop:1", false, names),
        ];
        evidence
    };
    check(
        &answer(&["shop.exampel"], "shop.example"),
        &["default-site"],
        "no server of nginx is named shop.example on port 80, so the default site answers (/etc/nginx/sites-enabled/default:21); /etc/nginx/sites-enabled/shop:1 says shop.exampel: correct server_name, or the probe's `host`",
    );
    assert!(told_first(&answer(&["shop.example"], "127.0.0.1")).ends_with("write the probe's `host`"));
    for known in ["shop.example", "*.example", ".shop.example", "shop.*", "~^shop", "SHOP.example"] {
        check(&answer(&[known], "shop.example"), &[], "");
    }
    assert!(told_first(&answer(&["*.example"], "example")).starts_with("no server of nginx is named example"));
}

#[test]
fn a_header_that_is_passed_twice() {
    let doubled = Doubled {
        header: "Host".to_owned(),
        first: "/etc/nginx/proxy_params:1".to_owned(),
        second: "/etc/nginx/sites-enabled/shop:5".to_owned(),
    };
    let mut evidence = asked(Evidence::default(), r#""http": {"url": "http://127.0.0.1/"}"#, "400");
    check(&evidence, &[], "");
    evidence.facts.nginx.doubled = vec![doubled];
    check(
        &evidence,
        &["doubled-header"],
        "the application gets two Host headers, and answers 400: `proxy_set_header Host` stands at /etc/nginx/proxy_params:1 and again at /etc/nginx/sites-enabled/shop:5; leave out one of them",
    );
}

#[test]
fn an_upstream_that_hangs_or_hangs_up() {
    let mut evidence = upstream(
        "upstream timed out (110: Connection timed out) while reading response header from upstream",
        "http://127.0.0.1:8000/",
    );
    evidence.facts.listeners = vec![listener("127.0.0.1:8000", "gunicorn", "shop.service")];
    check(
        &evidence,
        &["no-answer"],
        "127.0.0.1:8000 took the request and did not answer in time (nginx waits for proxy_read_timeout): it hangs, perhaps on something that it asks itself; journalctl -u shop.service",
    );
    let evidence =
        upstream("upstream prematurely closed connection while reading response header from upstream", "http://127.0.0.1:8000/");
    check(
        &evidence,
        &["hung-up"],
        "127.0.0.1:8000 took the request and closed the connection without an answer: its process ended or was killed; nobody listens there any more",
    );
}

#[test]
fn a_traceback() {
    let lines = [
        "Traceback (most recent call last):",
        "  File \"/srv/app/main.py\", line 3, in <module>",
        "    go()",
        "    ~~^^",
        "  File \"<frozen importlib._bootstrap>\", line 1206, in _gcd_import",
        "  File \"/srv/app/wsgi.py\", line 1, in <module>",
        "    import nothere",
        "ModuleNotFoundError: No module named 'nothere'",
        "[2026-11-26 01:32:16 +0000] [3510] [INFO] Worker exiting (pid: 3510)",
    ];
    let wanted = "shop.service failed in its Python: ModuleNotFoundError: No module named 'nothere' (/srv/app/wsgi.py:1); install it where the unit's Python looks, or correct the import";
    check(&journal("shop.service", &lines), &["traceback"], wanted);
    let lines = [
        "Traceback (most recent call last):",
        "  File \"/usr/lib/python3.11/importlib/__init__.py\", line 126, in import_module",
        "    return _bootstrap._gcd_import(name[level:], package, level)",
        "  File \"<frozen importlib._bootstrap>\", line 1140, in _find_and_load_unlocked",
        "ModuleNotFoundError: No module named 'shop'",
    ];
    assert!(told_first(&journal("shop.service", &lines)).contains("'shop' (/usr/lib/python3.11/importlib/__init__.py:126)"));
    let lines = ["  File \"/srv/bad.py\", line 1", "    def x(:", "          ^", "SyntaxError: invalid syntax"];
    let wanted = "shop.service failed in its Python: SyntaxError: invalid syntax (/srv/bad.py:1); mend the file; its Python may be older than the code";
    check(&journal("shop.service", &lines), &["traceback"], wanted);
    for lines in [&["Traceback (most recent call last):"][..], &["  File \"/x.py\", line 1, in x"], &["  File \"/x.py", "x"]] {
        let told = told(&journal("shop.service", lines));
        assert!(told.iter().all(|(row, _)| row == "unit-says"), "{told:?}");
    }
}

#[test]
fn a_database_that_refuses() {
    for (why, remedy) in [
        ("Connection refused", "nobody listens there: start PostgreSQL (systemctl status postgresql), or correct host and port"),
        (
            "FATAL:  password authentication failed for user \"shop\"",
            "the password is not that of the role, or has expired (VALID UNTIL): set it on both sides (ALTER ROLE … PASSWORD)",
        ),
        (
            "FATAL:  pg_hba.conf rejects connection for host \"127.0.0.1\", user \"shop\", database \"shop\", SSL encryption",
            "a line of pg_hba.conf says so: correct it, and reload PostgreSQL",
        ),
        ("FATAL:  role \"shop\" is not permitted to log in", "let the role log in (ALTER ROLE … LOGIN)"),
        (
            "FATAL:  database \"shop\" is not currently accepting connections",
            "open the database (ALTER DATABASE … ALLOW_CONNECTIONS true)",
        ),
        (
            "FATAL:  too many connections for role \"shop\"",
            "close connections, or raise the role's limit (connection_limit, ALTER ROLE … CONNECTION LIMIT)",
        ),
        ("FATAL:  sorry, too many clients already", "close connections or share them (a pool), or raise max_connections"),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "close connections or share them (a pool), or raise max_connections",
        ),
        ("FATAL:  database \"shopx\" does not exist", "create it, or correct its name"),
        ("timeout expired", "something takes the connection and does not answer: is it PostgreSQL, and is it well?"),
    ] {
        let words = format!("connection to server at \"127.0.0.1\", port 5432 failed: {why}");
        let wanted = format!("shop.service cannot use its database: {words}; {remedy}");
        check(&journal("shop.service", &[&format!("psycopg2.OperationalError: {words}")]), &["database"], &wanted);
    }
}

#[test]
fn a_certificate_that_is_not_accepted() {
    let evidence = upstream(
        "upstream SSL certificate verify error: (10:certificate has expired) while SSL handshaking to upstream",
        "https://127.0.0.1:8443/",
    );
    check(
        &evidence,
        &["certificate"],
        "nginx does not accept the certificate of 127.0.0.1:8443: it has expired: renew it (certbot renew), and reload whoever serves it",
    );
    let line = "ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch, certificate is not valid for 'x'. (_ssl.c:1)";
    assert!(
        told_first(&journal("shop.service", &[line]))
            .starts_with("shop.service does not accept the certificate: it is for another name")
    );
}

#[test]
fn a_disk_that_is_full() {
    let mount = |path: &str, free, files| Mount { path: path.to_owned(), free, size: 1 << 20, files };
    let mut evidence = journal("shop.service", &["dd: error writing '/srv/data/x': No space left on device"]);
    evidence.facts.mounts = vec![mount("/", 1 << 19, None), mount("/srv/data", 0, Some(10)), mount("/tmp", 1, None)];
    check(
        &evidence,
        &["disk-full"],
        "the disk is full: shop.service could not write to /srv/data, 0 bytes of 1 MiB are left there; make room (du -xh /srv/data | sort -h | tail)",
    );
    evidence.facts.journal = vec![said("shop.service", "OSError: [Errno 28] No space left on device")];
    evidence.facts.mounts[2] = mount("/tmp", 1 << 19, Some(0));
    evidence.facts.mounts[1].free = 1 << 12;
    assert!(told_first(&evidence).contains("/tmp, no file can be made there any more (inodes)"), "{}", told_first(&evidence));
    let refused = Evidence {
        reason: "write the journal: No space left on device".to_owned(),
        facts: evidence.facts,
        ..Evidence::default()
    };
    assert!(told_first(&refused).contains("shop.service could not write"), "who said it goes before what we say");
}

#[test]
fn a_unit_that_cannot_be_started_or_is_given_up() {
    let line = "shop.service: Failed at step EXEC spawning /srv/venv/bin/gunicorn: No such file or directory";
    check(
        &journal("shop.service", &[line]),
        &["cannot-start"],
        "systemd could not start /srv/venv/bin/gunicorn for shop.service: No such file or directory (step EXEC); bring the program, make it executable, or correct ExecStart=; a script needs its interpreter too",
    );
    let wanted = "shop.service ended again and again, until systemd gave it up (start limit), its last words being: no configuration; mend why it ends: a longer RestartSec= would only hide it";
    check(
        &journal("shop.service", &["no configuration", "shop.service: Start request repeated too quickly."]),
        &["start-limit"],
        wanted,
    );
    let mut evidence = journal("shop.service", &["no configuration"]);
    evidence.units.insert("shop.service".to_owned(), unit("failed", "failed", "start-limit-hit"));
    check(&evidence, &["start-limit"], wanted);
}

#[test]
fn how_systemd_says_that_a_unit_ended() {
    for (line, text) in [
        (
            "shop.service: Failed to load environment files: No such file or directory",
            "shop.service failed: a file that its EnvironmentFile= names is missing or cannot be read; bring it, or write a - before its path when it may be missing",
        ),
        ("shop.service: start operation timed out. Terminating.", "shop.service failed: it did not say in time that it is up; "),
        ("shop.service: Main process exited, code=dumped, status=31/SYS", "a system call that its SystemCallFilter= forbids; "),
        ("shop.service: A process of this unit has been killed by the OOM killer.", "for want of memory; "),
        ("shop.service: Watchdog timeout (limit 1s)!", "no sign of life for its WatchdogSec=; "),
    ] {
        let mut evidence = journal("shop.service", &[line]);
        assert_eq!(told(&evidence)[0].0, "manager-says", "{line}");
        assert!(told_first(&evidence).contains(text), "{}", told_first(&evidence));
        // Only systemd's own words count.
        evidence.facts.journal[0].by_manager = false;
        assert!(told(&evidence).iter().all(|(row, _)| row != "manager-says"), "{line}");
    }
    let evidence = journal("shop.service", &["cp: cannot create regular file '/srv/x': Read-only file system"]);
    assert_eq!(
        told_first(&evidence),
        "shop.service may not write there: cp: cannot create regular file '/srv/x': Read-only file system; its sandbox makes that read-only (ProtectSystem=, ProtectHome=, ReadOnlyPaths=): name the place in ReadWritePaths=, or use StateDirectory="
    );
}

#[test]
fn what_others_asked_for_explains_nothing() {
    let mut evidence =
        upstream("connect() failed (111: Connection refused) while connecting to upstream", "http://127.0.0.1:8099/");
    evidence.facts.errors[0] = evidence.facts.errors[0].replace("host: \"shop\"", "host: \"blog\"");
    check(&evidence, &[], "");
    for question in [
        r#""http": {"url": "http://blog:80/x"}"#,
        r#""http": {"url": "http://127.0.0.1/", "host": "blog"}"#,
        r#""command": ["/usr/bin/curl"]"#,
    ] {
        assert_eq!(told(&asked(evidence.clone(), question, "502"))[0].0, "nobody-listens", "{question}");
    }
}

#[test]
fn last_words_where_no_cause_is_known() {
    let evidence = nginx("[alert] 1#1: something new");
    check(&evidence, &["nginx-says"], "nginx says: [alert] 1#1: something new");
    let mut evidence = journal("shop.service", &["out of stock", "shop.service: Failed with result 'exit-code'."]);
    check(&evidence, &["unit-says"], "shop.service has failed, and said last: out of stock");
    evidence.reason = "shop.service did not stay up: …\n  shop.service: out of stock".to_owned();
    check(&evidence, &[], "");
}

#[test]
fn the_workers_answer_is_tamed() {
    let answer = serde_json::json!({"errors": ["\u{1b}[31mred", "x".repeat(10_000)], "journal": vec![said("x", "y"); 2000]});
    let facts = Facts::read(answer.to_string().as_bytes()).unwrap();
    assert_eq!(facts.errors[0], "\\u{1b}[31mred");
    assert!(facts.errors[1].chars().count() < 1000 && facts.journal.len() < 1000);
    for nonsense in ["", "x", "{\"errors\": 1}", "{\"listeners\": [{\"pid\": -1}]}"] {
        assert!(Facts::read(nonsense.as_bytes()).is_err(), "{nonsense}");
    }
    let all = Evidence { facts, ..Evidence::default() };
    assert!(findings(&all).iter().all(|finding| !finding.text.chars().any(crate::path::is_hidden)));
}
