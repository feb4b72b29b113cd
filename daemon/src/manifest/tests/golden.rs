//! Diagnostics as a person sees them.

use super::{repo, web1};
use crate::manifest::{read, source_of};

/// All diagnostics of a repository, rendered without colour.
fn rendered(entries: &[(&str, &str)]) -> String {
    let snapshot = repo(entries);
    let faults = read(&snapshot, &web1()).unwrap_err();
    // Ends of lines are no matter of taste: the renderer pads some.
    let text: Vec<String> = faults.iter().map(|f| f.render(source_of(&snapshot, f), false)).collect();
    text.join("\n\n").lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn check(entries: &[(&str, &str)], wanted: &str) {
    let got = rendered(entries);
    assert_eq!(got, wanted.trim_matches('\n'), "\n--- got ---\n{got}\n");
}

#[test]
fn unknown_key() {
    check(
        &[("reconciled.toml", "# shop\n[[unit]]\nname = \"worker.service\"\n\tenabeld = true # on\n")],
        r#"
error: unknown key `enabeld` in [[unit]]
 --> reconciled.toml:4:2
  |
4 |  enabeld = true # on
  |  ^^^^^^^
  |
  = help: did you mean `enabled`? (keys: name, enabled, active, masked, watch, timeout, drift, on_change)
"#,
    )
}

#[test]
fn mode_without_quotes() {
    check(
        &[("reconciled.toml", "[[directory]]\npath = \"/srv/shop\"\nmode = 0750\n")],
        r#"
error: a number cannot begin with 0
 --> reconciled.toml:3:8
  |
3 | mode = 0750
  |        ^^^^
  |
  = help: write mode = "0750"
"#,
    )
}

#[test]
fn key_below_a_header() {
    check(
        &[("reconciled.toml", "[[directory]]\npath = \"/srv/shop\"\n\nunits = [\"nginx.service\"]\n")],
        r#"
error: unknown key `units` in [[directory]]
 --> reconciled.toml:4:1
  |
4 | units = ["nginx.service"]
  | ^^^^^
  |
  = help: `units` belongs above the first [header] of the file
"#,
    )
}

#[test]
fn claimed_twice() {
    check(
        &[("reconciled.toml", "units = [\"a.service\", \"b.service\"]\n[[unit]]\nname = \"b.service\"\n")],
        r#"
error: b.service is claimed twice: here and at reconciled.toml:1:23
 --> reconciled.toml:3:8
  |
3 | name = "b.service"
  |        ^^^^^^^^^^^
  |
  = help: keep one of the two
"#,
    )
}

#[test]
fn torn_text() {
    check(
        &[("reconciled.toml", "[[unit]\nname = \"ü\"\n")],
        r#"
error: not TOML: unclosed array table
 --> reconciled.toml:1:8
  |
1 | [[unit]
  |        ^
  |
  = help: expected `]`
"#,
    )
}

#[test]
fn missing_key() {
    check(
        &[("reconciled.toml", "[[link]]\npath = \"/etc/x\"\n[[probe]]\ntcp = \"a:1\"\n")],
        r#"
error: a link needs a target
 --> reconciled.toml:1:1
  |
1 | [[link]]
  | ^^^^^^^^
  |
  = help: write target = "../sites-available/shop", or state = "absent" alone

error: [[probe]] has no `name`
 --> reconciled.toml:3:1
  |
3 | [[probe]]
  | ^^^^^^^^^
  |
  = help: add name = …
"#,
    )
}

#[test]
fn no_source_line() {
    check(
        &[("reconciled.toml", "[[file]]\npath = \"/etc/key\"\nsecret = true\ncontent = 5\n"), ("files/etc/a.j2.age", "")],
        r#"
error: `content` must be a string, not an integer
--> reconciled.toml:4:11
 = help: put it in quotes: content = "…"

error: a sealed file is not rendered
--> files/etc/a.j2.age
 = help: seal what is secret in it alone, and write {{ secrets.NAME }} in a .j2 file
"#,
    );
}

#[test]
fn undefined_in_a_template() {
    check(
        &[
            ("reconciled.toml", "[vars]\ndomain = \"shop.example\"\n"),
            ("files/etc/nginx/conf.d/shop.conf.j2", "server {\n    server_name {{ vars.domian }};\n}\n"),
        ],
        r#"
error: `vars.domian` is undefined
 --> files/etc/nginx/conf.d/shop.conf.j2:2:20
  |
2 |     server_name {{ vars.domian }};
  |                    ^^^^^^^^^^^
  |
  = help: did you mean `vars.domain`?
"#,
    );
}

#[test]
fn undefined_in_an_included_template() {
    check(
        &[("files/etc/a.j2", "{% include 'tls.conf' %}\n"), ("templates/tls.conf", "# TLS\nssl {{ vars.tls }};\n")],
        r#"
error: `vars.tls` is undefined
 --> templates/tls.conf:2:8
  |
2 | ssl {{ vars.tls }};
  |        ^^^^^^^^
  |
  = help: add it to [vars]
"#,
    );
}

#[test]
fn undefined_in_a_table() {
    check(
        &[("reconciled.toml", "[vars]\nport = 80\n[[probe]]\nname = \"site\"\nhttp = { url = \"http://a:{{ vars.prot }}/\" }\n")],
        r#"
error: `vars.prot` is undefined
 --> reconciled.toml:5:29
  |
5 | http = { url = "http://a:{{ vars.prot }}/" }
  |                             ^^^^^^^^^
  |
  = help: did you mean `vars.port`?
"#,
    );
}

#[test]
fn torn_template() {
    check(
        &[("files/etc/a.j2", "a\n{% if vars %}\nb\n")],
        r#"
error: not a template: unexpected end of input, expected end of block
 --> files/etc/a.j2:3:1
  |
3 | b
  | ^
  |
  = help: literal braces stand between {% raw %} and {% endraw %}
"#,
    );
}

#[test]
fn template_of_a_secret_file() {
    check(
        &[
            ("reconciled.toml", "[[file]]\npath = \"/etc/key\"\nsecret = true\n"),
            ("files/etc/key.j2", "swordfish {{ vars.swordfish }}\n"),
        ],
        r#"
error: this template cannot be rendered: undefined value
--> files/etc/key.j2:1:14
 = help: add it to [vars]
"#,
    );
}

#[test]
fn include_that_is_not_there() {
    check(
        &[("reconciled.toml", "include = [\"roles/wbe\"]\n"), ("roles/web/files/etc/a", "")],
        r#"
error: this repository has no directory roles/wbe
 --> reconciled.toml:1:12
  |
1 | include = ["roles/wbe"]
  |            ^^^^^^^^^^^
  |
  = help: did you mean `roles/web`?
"#,
    );
}

#[test]
fn long_lines_are_cut() {
    let units: Vec<String> =
        (0..60).map(|i| if i == 30 { "\"bad\\u0000\"".to_owned() } else { format!("\"u{i}.service\"") }).collect();
    let units = format!("units = [{}]\n", units.join(", "));
    check(
        &[("reconciled.toml", &units)],
        r#"
error: `bad\u{0}` is not a unit name
 --> reconciled.toml:1:450
  |
 :::
1 | …ce", "u25.service", "u26.service", "u27.service", "u28.service", "u29.service", "bad\u0000", "u31.service", "u32.service", "u33.serv...
  |                                                                                  ^^^^^^^^^^^
  |
  = help: see systemd.unit(5): letters, digits and :-_.\@
"#,
    );
}
