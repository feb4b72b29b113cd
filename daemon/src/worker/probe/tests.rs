//! The worker against real servers on the loopback interface.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::serve;
use crate::probe::{Asked, Probe, Verdict};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const BAD_GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";

fn probe(fields: &Value) -> Probe {
    let mut all = json!({ "name": "site", "attempts": 1, "interval": "20ms", "timeout": "2s" });
    for (key, value) in fields.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn get(url: &str) -> Probe {
    probe(&json!({ "http": { "url": url, "status": 200 } }))
}

/// Runs the worker over its real input and output; the verdicts in the order of the probes.
fn ask(probes: &[Probe]) -> Vec<Verdict> {
    ask_with(&probes.iter().map(|probe| Asked { probe, password: None }).collect::<Vec<_>>())
}

fn ask_with(asked: &[Asked<&Probe>]) -> Vec<Verdict> {
    let mut output = Vec::new();
    serve(&mut serde_json::to_vec(asked).unwrap().as_slice(), &mut output).unwrap();
    let text = String::from_utf8(output).unwrap();
    let mut verdicts: Vec<(usize, Verdict)> =
        text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect();
    verdicts.sort_by_key(|(index, _)| *index);
    verdicts.into_iter().map(|(_, verdict)| verdict).collect()
}

fn one(probe: &Probe) -> Verdict {
    ask(std::slice::from_ref(probe)).remove(0)
}

/// Answers one connection: reads the request's head, then lets `answer` write (which request this is, its head).
fn converse(mut stream: impl Read + Write, nth: usize, answer: &dyn Fn(usize, &str) -> Vec<u8>) {
    let mut head = String::new();
    let mut reader = BufReader::new(&mut stream);
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|n| n > 0) {}
    let _ = stream.write_all(&answer(nth, &head));
}

/// A server on a port of its own, until the test's process ends; its `ADDRESS:PORT`.
fn server(address: &str, answer: impl Fn(usize, &str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind(address).unwrap();
    let place = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for (nth, stream) in listener.incoming().flatten().enumerate() {
            converse(&stream, nth, &answer);
            let _ = stream.shutdown(Shutdown::Write);
        }
    });
    place
}

fn says(answer: &'static str) -> String {
    format!("http://{}/", server("127.0.0.1:0", move |_, _| answer.into()))
}

/// A port on which nobody listens.
fn closed_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn socket_path(name: &str) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("probe-{}-{n}-{name}", std::process::id()))
}

#[test]
fn a_good_answer() {
    let url = says(OK);
    let verdict = one(&get(&url));
    assert!(verdict.passed && verdict.required);
    assert_eq!(verdict.attempts, 1);
    assert!(verdict.text.starts_with("site: 200 in ") && verdict.text.ends_with(&format!(" ms (GET {url})")), "{}", verdict.text);
}

#[test]
fn answers_that_are_not_wanted() {
    let redirect = "HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    for (answer, finding) in [
        (BAD_GATEWAY, "wanted 200, got 502"),
        (redirect, "wanted 200, got 301"),
        ("", "wanted 200, got connection closed before an answer"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "wanted 200, got connection closed before an answer"),
    ] {
        let url = says(answer);
        let verdict = one(&get(&url));
        assert!(!verdict.passed);
        assert_eq!(verdict.text, format!("site: {finding} (GET {url})"));
    }
    let verdict = one(&get(&says("SSH-2.0-OpenSSH_9.2\r\n")));
    assert!(verdict.text.starts_with("site: wanted 200, got an answer that is not HTTP ("), "{}", verdict.text);
}

#[test]
fn status_by_default_is_200_to_399() {
    let with = |answer, status: Value| {
        let mut probe = get(&says(answer));
        probe.http.as_mut().unwrap().status = serde_json::from_value(status).unwrap();
        one(&probe)
    };
    assert!(with("HTTP/1.0 302 Found\r\n\r\n", Value::Null).passed);
    assert!(with(BAD_GATEWAY, json!([200, 502])).passed);
    assert!(with(BAD_GATEWAY, Value::Null).text.starts_with("site: wanted 200 to 399, got 502 ("));
    assert!(with(BAD_GATEWAY, json!([200, 204])).text.starts_with("site: wanted 200 or 204, got 502 ("));
}

#[test]
fn the_request_is_what_the_probe_says() {
    let place = server("127.0.0.1:0", |_, head| {
        let fine = head.starts_with("GET /x?y=1 HTTP/1.1\r\n")
            && head.contains("host: shop.example\r\n")
            && head.contains("connection: close\r\n");
        if fine { OK.into() } else { BAD_GATEWAY.into() }
    });
    let url = format!("http://{place}/x?y=1");
    let verdict = one(&probe(&json!({ "http": { "url": url, "host": "shop.example" } })));
    assert!(verdict.passed);
    assert!(verdict.text.ends_with(&format!("(GET {url} Host: shop.example)")), "{}", verdict.text);
    let bad = one(&probe(&json!({ "http": { "url": url, "host": "a\r\nb: c" } })));
    assert!(bad.text.contains("got a request that cannot be sent"), "{}", bad.text);
    assert!(!bad.text.contains('\n'));
}

#[test]
fn names_and_ipv6() {
    let host_seen = |_: usize, head: &str| if head.contains("host: [::1]:") { OK.into() } else { BAD_GATEWAY.into() };
    if TcpListener::bind("[::1]:0").is_ok() {
        let place = server("[::1]:0", host_seen);
        assert!(one(&get(&format!("http://{place}/x?y"))).passed);
        assert!(one(&probe(&json!({ "tcp": place }))).passed);
    }
    let place = server("127.0.0.1:0", |_, head| if head.contains("host: localhost:") { OK.into() } else { vec![] });
    let port = place.rsplit(':').next().unwrap();
    let verdict = one(&get(&format!("http://localhost:{port}")));
    assert!(verdict.passed, "{}", verdict.text);
}

#[test]
fn urls_that_cannot_be_asked() {
    let urls =
        ["ftp://127.0.0.1/", "127.0.0.1:80", "http:///x", "http://[::1/", "http://a:99999/", "http://u@a/", "http://a b/", ""];
    for url in urls {
        let text = one(&get(url)).text;
        assert!(text.contains("a URL that cannot be asked: "), "{url}: {text}");
    }
    let text = one(&probe(&json!({ "tcp": "no-port" }))).text;
    assert_eq!(text, "site: wanted a connection, got `no-port`, which is not ADDRESS:PORT (TCP no-port)");
}

#[test]
fn bodies() {
    let with = |answer: &'static str, body: &str| {
        let mut probe = get(&says(answer));
        probe.http.as_mut().unwrap().body = Some(body.to_owned());
        one(&probe)
    };
    assert!(with(OK, "ell").passed);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
    assert!(with(chunked, "hello").passed);
    let text = with("HTTP/1.1 200 OK\r\n\r\npassword: hunter2", "Shop").text;
    let finding = "site: wanted 200 with \"Shop\" in the body, got 200 and a body of 17 bytes without it (GET ";
    assert!(text.starts_with(finding), "{text}");
    assert!(!text.contains("hunter2"), "what a page holds may be secret");
    assert!(with("HTTP/1.1 200 OK\r\n\r\n", "\u{1b}").text.contains("with \"\\u{1b}\" in the body, got 200 and an empty body"));
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhel";
    assert!(with(cut, "hello").text.contains("got a connection closed in the middle of the answer"));
}

#[test]
fn a_huge_body_is_not_swallowed() {
    let place = server("127.0.0.1:0", |_, _| {
        let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        answer.resize(32 * 1024 * 1024, b'x');
        answer
    });
    let mut probe = get(&format!("http://{place}/"));
    assert!(one(&probe).passed, "a body that nobody asked for is not read");
    probe.http.as_mut().unwrap().body = Some("needle".to_owned());
    let text = one(&probe).text;
    assert!(text.contains("got 200 and a body without it in its first 64 KiB") && text.len() < 400, "{text}");
}

#[test]
fn a_huge_head_is_refused() {
    let place = server("127.0.0.1:0", |_, _| format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(1 << 20)).into_bytes());
    let verdict = one(&get(&format!("http://{place}/")));
    assert!(!verdict.passed);
    assert!(verdict.text.contains("not HTTP"), "{}", verdict.text);
}

#[test]
fn nobody_there() {
    let place = closed_port();
    let url = format!("http://{place}/");
    assert_eq!(one(&get(&url)).text, format!("site: wanted 200, got connection refused (GET {url})"));
    let tcp = one(&probe(&json!({ "tcp": place })));
    assert_eq!(tcp.text, format!("site: wanted a connection, got connection refused (TCP {place})"));
}

#[test]
fn unix_sockets() {
    let path = socket_path("gunicorn.sock");
    let socket = path.to_str().unwrap();
    let ask = probe(&json!({ "http": { "unix": socket, "path": "/health", "status": 200 } }));
    let subject = format!("(GET /health on {socket})");
    assert_eq!(one(&ask).text, format!("site: wanted 200, got no such socket: {socket} {subject}"));
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for (nth, stream) in listener.incoming().flatten().enumerate() {
            converse(stream, nth, &|_, head| {
                if head.starts_with("GET /health ") && head.contains("host: localhost\r\n") { OK.into() } else { vec![] }
            });
        }
    });
    let verdict = one(&ask);
    assert!(verdict.passed && verdict.text.ends_with(&subject), "{}", verdict.text);
    std::fs::remove_file(&path).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(one(&ask).text, format!("site: wanted 200, got connection refused {subject}"), "a socket left behind");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn slow_answers() {
    let place = server("127.0.0.1:0", |_, _| {
        thread::sleep(Duration::from_secs(3));
        OK.into()
    });
    let mut probe = get(&format!("http://{place}/"));
    probe.timeout = "100ms".parse().unwrap();
    let began = Instant::now();
    let text = one(&probe).text;
    assert!(text.starts_with("site: wanted 200, got no answer within 100ms (GET "), "{text}");
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn it_may_take_some_attempts() {
    let place = server("127.0.0.1:0", |nth, _| if nth < 3 { BAD_GATEWAY } else { OK }.into());
    let mut probe = get(&format!("http://{place}/"));
    probe.attempts = 10;
    let verdict = one(&probe);
    assert!(verdict.passed);
    assert_eq!(verdict.attempts, 4);
    assert!(verdict.millis >= 60);
}

#[test]
fn what_flaps_is_not_green() {
    let place = server("127.0.0.1:0", |nth, _| if nth % 3 == 2 { BAD_GATEWAY } else { OK }.into());
    let mut probe = get(&format!("http://{place}/"));
    (probe.attempts, probe.stable_for) = (2, "400ms".parse().unwrap());
    let verdict = one(&probe);
    assert!(!verdict.passed);
    assert_eq!(verdict.attempts, 2);
    assert!(
        verdict.text.contains("got 502 (GET ") && verdict.text.ends_with("of good answers; wanted 400ms"),
        "{}",
        verdict.text
    );

    let mut steady = get(&says(OK));
    steady.stable_for = "100ms".parse().unwrap();
    let verdict = one(&steady);
    assert!(verdict.passed && verdict.millis >= 100);
}

#[test]
fn all_at_the_same_time() {
    let slow = |_: usize, _: &str| {
        thread::sleep(Duration::from_millis(300));
        OK.into()
    };
    let probes: Vec<Probe> = (0..8).map(|_| get(&format!("http://{}/", server("127.0.0.1:0", slow)))).collect();
    let began = Instant::now();
    let verdicts = ask(&probes);
    assert!(verdicts.iter().all(|v| v.passed) && verdicts.len() == 8);
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[test]
fn a_request_that_is_none() {
    assert!(serve(&mut b"{}".as_slice(), &mut Vec::new()).is_err());
    let mut output = Vec::new();
    serve(&mut b"[]".as_slice(), &mut output).unwrap();
    assert!(output.iter().all(|b| *b == b'\n'));
}

#[test]
fn redis() {
    let asked = |answers: &'static str, password: Option<&str>| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // An answer to each thing that is said: a login is one of five lines.
            for answer in answers.split_inclusive('\n') {
                let lines = if answers.lines().count() == 2 && answer.starts_with("+OK") { 5 } else { 1 };
                let mut reader = BufReader::new(&stream);
                (0..lines).for_each(|_| drop(reader.read_line(&mut String::new())));
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let probe = probe(&json!({ "redis": { "tcp": place } }));
        let verdict = ask_with(&[Asked { probe: &probe, password: password.map(str::to_owned) }]).remove(0);
        (
            verdict.passed,
            verdict.text.split(" (redis").next().unwrap_or_default().split(" in ").next().unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(asked("+PONG\r\n", None), (true, "site: PONG".to_owned()));
    assert_eq!(asked("+OK\r\n+PONG\r\n", Some("hunter2")), (true, "site: PONG".to_owned()));
    for (answers, password, said) in [
        ("-NOAUTH Authentication required.\r\n", None, "wanted PONG, got NOAUTH Authentication required."),
        ("-LOADING Redis is loading\u{1b}[31m\r\n", None, "wanted PONG, got LOADING Redis is loading\\u{1b}[31m"),
        ("-ERR invalid hunter2\r\n", Some("hunter2"), "wanted PONG, got no login: the password is another, or none is wanted"),
        ("", None, "wanted PONG, got connection closed before an answer"),
    ] {
        assert_eq!(asked(answers, password), (false, format!("site: {said}")));
    }
    let text = one(&probe(&json!({ "redis": { "unix": "/nowhere/redis.sock" } }))).text;
    assert_eq!(text, "site: wanted PONG, got no such socket: /nowhere/redis.sock (redis /nowhere/redis.sock)");
}

#[test]
fn certificates_in_files() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/tests/scenarios/diagnose");
    let asked = |file: &str, more: Value| {
        let mut certificate = json!({ "file": format!("{folder}/{file}") });
        certificate.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let verdict = one(&probe(&json!({ "certificate": certificate })));
        (verdict.passed, verdict.text.replace(folder, ""))
    };
    let (passed, text) = asked("valid.pem", json!({ "name": "shop.example", "valid_for": "365d" }));
    assert!(passed && text.contains("valid for 3"), "{text}");
    let (passed, text) = asked("valid.pem", json!({ "name": "other.example" }));
    assert!(
        !passed && text.contains("wanted a certificate for other.example, valid for 7d or longer, got one for shop.example ("),
        "{text}"
    );
    let (passed, text) = asked("expired.pem", json!({}));
    assert!(
        !passed && text.contains("got one that expired ") && text.contains(" days ago (Feb  1 00:00:00 2020 +00:00)"),
        "{text}"
    );
    for (file, words) in [("key.pem", "got none from /key.pem: "), ("none.pem", "got none from /none.pem: ")] {
        let (passed, text) = asked(file, json!({}));
        assert!(!passed && text.contains(words), "{text}");
    }
}
