//! What the worker makes of files and lines that others wrote.

use super::nginx::{of, parse};
use super::{paths_in, said, since, walk};
use crate::diagnose::{Doubled, Server, StepKind};
use crate::host::LogEnd;

const CONF: &str = r#"
user www-data; # as always
error_log /var/log/nginx/error.log;
http {
    upstream app { server unix:/run/app.sock fail_timeout=0; }
    server { listen 80 default_server; listen [::]:80 default_server; server_name _; }
    server {
        listen 127.0.0.1:8080;
        server_name "shop.example" *.shop.example;
        error_log /var/log/nginx/shop.log warn;
        location ~ ^/x{2}$ { proxy_pass http://unix:/run/x.sock:/y; }
        location / {
            proxy_set_header Host $http_host;
            proxy_set_header X-Real-IP ${remote_addr};
            proxy_set_header host $host;
        }
    }
}
"#;

#[test]
fn a_configuration_is_read_as_far_as_it_matters() {
    let read = of(&parse(CONF, "n"));
    assert_eq!(read.nginx.user, "www-data");
    assert_eq!(read.logs.iter().map(String::as_str).collect::<Vec<_>>(), ["/var/log/nginx/error.log", "/var/log/nginx/shop.log"]);
    assert_eq!(read.sockets, ["/run/app.sock", "/run/x.sock"]);
    let server = |at: &str, ports: &[(u16, bool)], names: &[&str]| Server {
        at: at.to_owned(),
        ports: ports.to_vec(),
        names: names.iter().map(|n| (*n).to_owned()).collect(),
    };
    let wanted = [server("n:6", &[(80, true)], &["_"]), server("n:7", &[(8080, false)], &["shop.example", "*.shop.example"])];
    assert_eq!(read.nginx.servers, wanted);
    let doubled = Doubled { header: "host".to_owned(), first: "n:13".to_owned(), second: "n:15".to_owned() };
    assert_eq!(read.nginx.doubled, [doubled]);
}

#[test]
fn what_is_no_configuration_fails_nothing() {
    for text in
        ["", "}}}}", "{{{{", "a", "a {", "\"", "a \"b", "${", "\\", "include", "listen;", "server { listen; server_name; }"]
    {
        let _ = of(&parse(text, "n"));
    }
    let deep = "a {".repeat(100_000);
    let _ = of(&parse(&deep, "n"));
}

#[test]
fn paths_in_the_words_of_nginx() {
    let line =
        r#"x connect() to unix:/run/a b.sock failed (2: x), request: "GET /i HTTP/1.1", upstream: "http://unix:/run/a.sock:/""#;
    assert_eq!(paths_in(line).collect::<Vec<_>>(), ["/run/a", "/run/a.sock"]);
    assert_eq!(paths_in(r#"open() "/srv/x" failed (13: x), request: "GET /x""#).collect::<Vec<_>>(), ["/srv/x"]);
}

#[test]
fn only_what_a_log_got_since() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("error.log");
    let log = path.to_str().unwrap();
    std::fs::write(&path, "old\nnew\n").unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
    let end = |inode, length| LogEnd { path: log.to_owned(), inode, length };
    for (ends, wanted) in [
        (vec![end(inode, 4)], vec!["new"]),
        (vec![end(inode, 8)], vec![]),
        // Rotated, emptied, or made since.
        (vec![end(inode + 1, 4)], vec!["old", "new"]),
        (vec![end(inode, 100)], vec!["old", "new"]),
        (vec![], vec!["old", "new"]),
    ] {
        assert_eq!(since(log, &ends).unwrap(), wanted, "{ends:?}");
    }
}

#[test]
fn lines_of_the_journal() {
    let line = |more: &str| format!(r#"{{"__MONOTONIC_TIMESTAMP":"2000000","_SYSTEMD_UNIT":"init.scope",{more}}}"#);
    let heard = said(line(r#""UNIT":"x.service","MESSAGE":"Failed""#).as_bytes(), 2000).unwrap();
    assert_eq!((heard.unit.as_str(), heard.by_manager, heard.text.as_str()), ("x.service", true, "Failed"));
    assert_eq!(said(line(r#""MESSAGE":"x""#).as_bytes(), 2001), None, "it is from before");
    assert_eq!(said(line(r#""MESSAGE":[104,105,255]"#).as_bytes(), 0).unwrap().text, "hi\u{fffd}");
    assert_eq!(said(line(r#""MESSAGE":null"#).as_bytes(), 0), None);
    assert_eq!(said(b"nonsense", 0), None);
}

#[test]
fn a_walk_ends_where_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap();
    std::os::unix::fs::symlink("loop", top.join("loop")).unwrap();
    std::fs::write(top.join("file"), "").unwrap();
    std::os::unix::fs::symlink(top.join("file"), top.join("link")).unwrap();
    let walk = |name: &str| {
        let path = top.join(name).to_string_lossy().into_owned();
        walk::all(&[path].into(), "root").remove(0)
    };
    assert_eq!(walk("none/x").missing().map(|step| step.path.clone()), Some(top.join("none").to_string_lossy().into_owned()));
    assert_eq!(
        walk("link").steps.last().map(|s| (s.path.clone(), s.kind)),
        Some((top.join("file").to_string_lossy().into_owned(), StepKind::File))
    );
    assert!(walk("file").missing().is_none() && walk("file").denied().is_none());
    let _ = walk("loop");
    std::fs::set_permissions(&top, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let others = walk::all(&[top.join("file").to_string_lossy().into_owned()].into(), "nobody").remove(0);
    let denied = others.denied().map(|step| (step.path.clone(), step.mode, step.class.as_str()));
    assert_eq!(denied, Some((top.to_string_lossy().into_owned(), 0o700, "o")));
}
