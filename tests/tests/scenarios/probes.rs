//! Probes, from the installed package: what is asked, what a red answer does to a push, and in which words.

use reconciled_tests::{Host, Repo, scenario};

/// A service that answers on port 8080 and on /run/site.sock with what /etc/site.json says, after `turns` answers with 503.
const SITE: &str = r#"
import http.server, itertools, json, os, socketserver, threading
conf, count = json.load(open('/etc/site.json')), itertools.count()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        turned = next(count) >= conf.get('turns', 1e9)
        self.send_response(503 if turned else conf.get('hosts', {}).get(self.headers['Host'], conf['status']))
        self.send_header('Location', '/elsewhere')
        self.end_headers()
        self.wfile.write(conf.get('body', '').encode())
    def address_string(self): return 'somebody'
class Unix(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): pass
if os.path.exists('/run/site.sock'): os.unlink('/run/site.sock')
http.server.ThreadingHTTPServer.allow_reuse_address = True
unix, tcp = Unix('/run/site.sock', Answer), http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Answer)
threading.Thread(target=unix.serve_forever).start()
tcp.serve_forever()
"#;

/// A probe of it that is patient until the service listens.
const PROBE: &str = "[[probe]]\nname = \"site\"\nattempts = 30\ninterval = \"100ms\"\n";

/// A repository whose only service is [`SITE`]; it is live with this configuration and these probes.
#[track_caller]
fn site(host: &Host, conf: &str, probes: &str) -> Repo {
    let repo = host.clone_repo();
    repo.write("files/usr/local/lib/site.py", SITE);
    let unit = "[Service]\nExecStart=/usr/bin/python3 /usr/local/lib/site.py\n[Install]\nWantedBy=multi-user.target\n";
    repo.write("files/etc/systemd/system/site.service", unit);
    declare(&repo, conf, probes);
    repo.commit_and_push().assert_live();
    repo
}

fn declare(repo: &Repo, conf: &str, probes: &str) {
    let unit = "[[unit]]\nname = \"site.service\"\nenabled = true\nactive = true\nwatch = [\"/etc/site.json\"]\n";
    repo.write("files/etc/site.json", conf).write("reconciled.toml", format!("{unit}{probes}"));
}

/// Makes a probe out of its question and a few more keys.
fn probe(name: &str, question: &str) -> String {
    format!("[[probe]]\nname = \"{name}\"\n{question}\nattempts = 30\ninterval = \"100ms\"\n")
}

scenario! {
    fn every_kind_of_probe_sees_green_and_red(host: installed on trixie) {
        let green = [
            probe("http", "http = { url = \"http://127.0.0.1:8080/x\", body = \"welcome\" }"),
            probe("host", "http = { url = \"http://127.0.0.1:8080/\", host = \"shop.example\", status = [404, 410] }"),
            probe("socket", "http = { unix = \"/run/site.sock\", path = \"/\", status = 200 }"),
            probe("tcp", "tcp = \"127.0.0.1:8080\""),
            probe("unit", "unit = \"site.service\""),
            probe("command", "command = [\"/usr/bin/test\", \"-S\", \"/run/site.sock\"]"),
            probe("shell", "command = [\"/bin/sh\", \"-c\", \"word=a; test ${word}b = ab\"]"),
            probe("dollars", "command = ['/bin/sh', '-c', 'test \"$0\" = \"\\$\\$HOME\"', '$$HOME']"),
            probe("someone", "command = [\"/bin/sh\", \"-c\", \"test $(id -un) = daemon\"]\nuser = \"daemon\""),
        ];
        let conf = r#"{"status": 200, "body": "welcome all", "hosts": {"shop.example": 404}}"#;
        let repo = site(host, conf, &green.concat());

        for (name, question, said) in [
            ("http", "http = { url = \"http://127.0.0.1:8080/x\", status = 204 }", "http: wanted 204, got 200 (GET http://127.0.0.1:8080/x)"),
            ("body", "http = { url = \"http://127.0.0.1:8080/\", body = \"farewell\" }", "body: wanted"),
            ("host", "http = { url = \"http://127.0.0.1:8080/\", host = \"shop.example\" }", "host: wanted 200 to 399, got 404 (GET http://127.0.0.1:8080/ Host: shop.example)"),
            ("socket", "http = { unix = \"/run/nobody.sock\" }", "socket: wanted"),
            ("tcp", "tcp = \"127.0.0.1:9\"", "tcp: wanted"),
            ("unit", "unit = \"nobody.service\"", "unit: wanted active, got no such unit (unit nobody.service)"),
            ("command", "command = [\"/bin/sh\", \"-c\", \"echo out of stock >&2; exit 3\"]", "command: wanted exit code 0, got exit code 3: out of stock"),
            ("slow", "command = [\"/bin/sleep\", \"60\"]\ntimeout = \"300ms\"", "slow: wanted exit code 0, got no answer within 300ms"),
        ] {
            let red = format!("[[probe]]\nname = \"{name}\"\n{question}\nattempts = 1\n");
            declare(&repo, conf, &red);
            repo.commit_and_push().assert_refused("rolled back to generation 1").says(said);
        }
        assert_eq!(host.status()["generation"], 1);
    }
}

scenario! {
    fn databases_caches_and_certificates(host: with_programs) {
        let repo = host.clone_repo();
        let psql = |words: &str| host.exec_with(&["runuser", "-u", "postgres", "--", "psql", "-qc", words], b"").ok();
        host.sh("systemctl start postgresql redis-server nginx").ok();
        host.wait_until("PostgreSQL answers", || host.exec("runuser -u postgres -- psql -qc select").code == 0);
        psql("CREATE ROLE shop LOGIN PASSWORD 'hunter2-hunter2'");
        psql("CREATE DATABASE shop OWNER shop");
        for (name, plain) in [("db_password", "hunter2-hunter2"), ("other", "wrong-wrong-wrong")] {
            let sealed = host.exec_with(&["reconcilectl", "secret", "seal"], plain.as_bytes()).ok();
            repo.write(&format!("secrets/{name}.age"), sealed);
        }
        // An authority of its own, and a certificate of it that lasts a month.
        host.sh("mkdir /etc/tls && cd /etc/tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 99 -subj /CN=ca && \
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out shop.pem -days 30 -subj /CN=shop -CA ca.pem -CAkey ca.key \
            -addext subjectAltName=DNS:shop.example -addext basicConstraints=critical,CA:FALSE").ok();
        let site = "server { listen 127.0.0.1:8443 ssl; ssl_certificate /etc/tls/shop.pem; ssl_certificate_key /etc/tls/key.pem; return 200 one; }\n";
        repo.write("files/etc/nginx/conf.d/shop.conf", site);
        let session = |more: &str| format!("postgres = {{ database = \"shop\"{more} }}");
        let login = |secret: &str| session(&format!(", role = \"shop\", host = \"127.0.0.1\", password = {{ secret = \"{secret}\" }}"));
        let https = |host: &str, ca: &str| format!("http = {{ url = \"https://127.0.0.1:8443/\", host = \"{host}\", ca = \"{ca}\", status = 200 }}");
        let green = [
            probe("peer", &session("")),
            probe("login", &login("db_password")),
            probe("cache", "redis = { tcp = \"127.0.0.1:6379\" }"),
            probe("https", &https("shop.example", "/etc/tls/ca.pem")),
            probe("shown", "certificate = { tcp = \"127.0.0.1:8443\", name = \"shop.example\" }"),
            probe("file", "certificate = { file = \"/etc/tls/shop.pem\", valid_for = \"1d\" }"),
        ];
        repo.write("reconciled.toml", format!("units = [\"nginx.service\"]\n{}", green.concat()));
        let push = repo.commit_and_push();
        push.assert_live().says("probe peer: an answer").says("probe cache: PONG").says("probe shown: valid for 29 days");
        assert!(!host.sh("cat /var/lib/reconciled/audit/audit.jsonl; journalctl").ok().contains("hunter2"));

        for (name, question, said) in [
            ("login", login("other"), "login: wanted an answer, got exit code 2: connection to server at \"127.0.0.1\", port 5432 failed: FATAL:  password authentication failed"),
            ("query", session(", query = \"SELECT nothing\""), "query: wanted an answer, got exit code 1: "),
            ("peer", session(", role = \"shop\""), "Peer authentication failed"),
            ("secret", login("none"), "there is no secret `none`: seal it"),
            ("cache", "redis = { unix = \"/run/nobody.sock\" }".to_owned(), "cache: wanted PONG, got no such socket: /run/nobody.sock"),
            ("name", https("other.example", "/etc/tls/ca.pem"), "name: wanted 200, got no TLS: "),
            ("authority", https("shop.example", "/etc/ssl/certs/ca-certificates.crt"), "UnknownIssuer"),
            ("shown", "certificate = { tcp = \"127.0.0.1:8443\", valid_for = \"60d\" }".to_owned(), "got one that expires in 29 days"),
            ("none", "certificate = { tcp = \"127.0.0.1:80\" }".to_owned(), "none: wanted a certificate, valid for 7d or longer, got "),
        ] {
            repo.write("reconciled.toml", format!("units = [\"nginx.service\"]\n[[probe]]\nname = \"{name}\"\n{question}\nattempts = 1\n"));
            repo.commit_and_push().assert_refused("").says(said);
        }
        assert_eq!(host.status()["generation"], 1);
        // While it is asked, nobody finds the password in its arguments or its environment.
        let slow = "[[probe]]\nname = \"slow\"\nattempts = 1\nstable_for = \"0s\"\ntimeout = \"30s\"\n\
            postgres = { database = \"shop\", role = \"shop\", host = \"127.0.0.1\", password = { secret = \"db_password\" }, query = \"SELECT pg_sleep(4)\" }\n";
        repo.write("reconciled.toml", slow).commit();
        let pushing = repo.start_push(&["HEAD:refs/heads/main"]);
        host.wait_until("it is asked", || host.exec_with(&["pgrep", "-f", "command SELECT pg_sleep"], b"").code == 0);
        host.write("/run/secret", "hunter2-hunter2\n");
        assert_eq!(host.sh("grep -slaf /run/secret /proc/[0-9]*/cmdline /proc/[0-9]*/environ; true").ok(), "");
        pushing.wait().assert_live();
    }
}

scenario! {
    fn a_red_probe_rolls_back_unless_it_is_only_wanted(host: installed on trixie) {
        let ask = format!("{PROBE}http = {{ url = \"http://127.0.0.1:8080/\" }}\n");
        let repo = site(host, r#"{"status": 200}"#, &ask);
        declare(&repo, r#"{"status": 502}"#, &ask.replace("attempts = 30", "attempts = 3"));
        let push = repo.commit_and_push();
        push.assert_refused("rolled back to generation 1").says("probe site: wanted 200 to 399, got 502 (GET http://127.0.0.1:8080/)");
        assert!(!push.output.contains("was red before"), "{}", push.output);
        assert_eq!(host.read("/etc/site.json"), r#"{"status": 200}"#);
        // The push came back when the restored state had answered too.
        let record = host.ctl("audit log --outcome rolled-back --json").ok();
        assert!(record.contains("after the rollback: site: 200"), "{record}");

        let wanted = ask.replace("attempts = 30", "attempts = 3\nrequired = false");
        declare(&repo, r#"{"status": 502}"#, &wanted);
        repo.commit_and_push().assert_live().says("got 502").says("(not required)");

        // What was red before has to be green afterwards all the same, and the words say which it is.
        declare(&repo, r#"{"status": 500}"#, &ask.replace("attempts = 30", "attempts = 3"));
        let push = repo.commit_and_push();
        push.assert_refused("rolled back to generation 2").says("got 500").says("was red before");
        assert_eq!((host.status()["phase"].as_str(), host.ctl("status").code), (Some("idle"), 1));
        declare(&repo, r#"{"status": 200}"#, &ask);
        repo.commit_and_push().assert_live();
    }
}

scenario! {
    fn a_momentary_green_is_not_health(host: installed on trixie) {
        let ask = format!("{PROBE}stable_for = \"4s\"\nhttp = {{ url = \"http://127.0.0.1:8080/\" }}\n").replace("attempts = 30", "attempts = 8");
        let repo = site(host, r#"{"status": 200}"#, &ask);
        declare(&repo, r#"{"status": 200, "turns": 3}"#, &ask);
        repo.commit_and_push().assert_refused("rolled back to generation 1").says("got 503").says("of good answers; wanted 4s");
    }
}

scenario! {
    fn a_redirect_counts_as_it_is_given(host: installed on trixie) {
        let ask = |more: &str| format!("{PROBE}http = {{ url = \"http://127.0.0.1:8080/\"{more} }}\n");
        let repo = site(host, r#"{"status": 301, "body": "moved"}"#, &ask(""));
        declare(&repo, r#"{"status": 301}"#, &ask(", status = 200").replace("attempts = 30", "attempts = 3"));
        repo.commit_and_push().assert_refused("rolled back").says("wanted 200, got 301");
        declare(&repo, r#"{"status": 302}"#, &ask(", status = [302]"));
        repo.commit_and_push().assert_live();
    }
}

scenario! {
    fn a_repair_is_not_blamed_for_what_was_red(host: installed on trixie) {
        let ask = format!("{PROBE}command = [\"/usr/bin/test\", \"!\", \"-e\", \"/run/outage\"]\n").replace("attempts = 30", "attempts = 2");
        let repo = site(host, r#"{"status": 200}"#, &ask);
        host.write("/run/outage", "");
        host.write("/etc/site.json", "edited");
        host.ctl("sync").ok();
        assert_eq!(host.read("/etc/site.json"), r#"{"status": 200}"#);
        // A push is: somebody watches it.
        declare(&repo, r#"{"status": 201}"#, &ask);
        repo.commit_and_push().assert_refused("rolled back to generation 1").says("was red before");
        let status = host.status();
        assert_eq!((status["phase"].as_str(), status["generation"].as_u64()), (Some("idle"), Some(1)), "{status}");
    }
}
