//! Nothing that a repository can hold makes the reader panic, take long, or show what it must not.

use super::{good, repo, web1};
use crate::kind::KINDS;
use crate::manifest::{Diagnostic, read, source_of};
use crate::path::escape;
use crate::source::{Snapshot, SourceEntry};

/// Xorshift: the same edits in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }
}

/// Pieces that meet the reader's special cases.
const PIECES: [&str; 26] = [
    "[[",
    "]]",
    "[unit]\n",
    "[[file]]\n",
    "[[probe]]\n",
    "\"",
    "'''",
    "\"\"\"",
    "= ",
    "0644",
    "\u{202e}",
    "\u{1b}[2J",
    "é",
    "\n",
    "{",
    "}",
    "secret = true\n",
    "path = \"/etc/*\"\n",
    "content = \"x\"\n",
    "http = { url = \"http://a\" }\n",
    "[vars]\n",
    "include = [\"roles/web\"]\n",
    "{{ vars.x }}",
    "{{ facts.hostname }}",
    "}}",
    "{%",
];

fn shown(snapshot: &Snapshot, fault: &Diagnostic) -> String {
    format!("{fault}\n{}", fault.render(source_of(snapshot, fault), false))
}

#[test]
fn edited_manifests_never_panic() {
    let examples: String = KINDS.iter().map(|k| k.example()).collect();
    let start = format!(
        "include = [\"roles/web\"]\nunits = [\"a.service\"]\nallow_empty = true\n{examples}\n[[file]]\npath = \"/etc/shop/**\"\nmode = \"0640\"\n[[probe]]\nname = \"é\"\nhttp = {{ url = \"http://127.0.0.1/\", status = 200 }}\nattempts = 10\n[vars]\nx = \"y\"\n[vars.z]\nn = 1\n"
    );
    let mut snapshot = repo(&[
        ("files/etc/shop/settings.ini", "x"),
        ("files/etc/shop/l@", "x"),
        ("files/etc/shop/t.j2", "{{ vars.x }}"),
        ("roles/web/reconciled.toml", "[[unit]]\nname = \"a.service\"\nwatch = [\"/etc/{{ vars.z.n }}\"]\n"),
    ]);
    let mut random = Random(0x5eed_cafe_f00d_0001);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..4000 {
        let mut bytes = start.clone().into_bytes();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(5) {
                0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                1 => drop(bytes.remove(at)),
                2 => drop(bytes.splice(at..at, PIECES[random.below(PIECES.len())].bytes())),
                3 => drop(bytes.drain(at..(at + random.below(30)).min(bytes.len()))),
                _ => {
                    let piece: Vec<u8> = bytes[at..(at + random.below(60)).min(bytes.len())].to_vec();
                    let to = random.below(bytes.len());
                    drop(bytes.splice(to..to, piece));
                }
            }
        }
        snapshot.entries.insert("reconciled.toml".to_owned(), SourceEntry::File { content: bytes, executable: false });
        match read(&snapshot, &web1()) {
            Ok(_) => accepted += 1,
            Err(faults) => {
                refused += 1;
                for fault in &faults {
                    let text = shown(&snapshot, fault);
                    assert!(text.lines().all(|line| line == escape(line)), "{text:?}");
                    assert!(text.len() < 4000, "{text}");
                }
            }
        }
    }
    assert!(accepted > 100 && refused > 1000, "{accepted} accepted, {refused} refused");
}

#[test]
fn edited_templates_never_panic() {
    let start = "{% for x in vars.l %}\n{{ x | upper }}{% if x is odd %}{# é #}{% set y = [x, {'a': 1}] %}{{ y[1].a ~ secrets.s }}{% endif %}\n{% endfor %}\n\
        {% macro m(a, b=2) %}{{ a + b }}{% endmacro %}{{ m(1) }}{% include 'p' ignore missing %}{% raw %}{{{% endraw %}{{ facts.cpus }}\n";
    let pieces = [
        "{{", "}}", "{%", "%}", "{#", "#}", "'", "\"", "(", "[", "vars", ".", "|", "~", "-", "raw", "endfor", "\u{202e}", "é",
        "\n",
    ];
    let mut snapshot =
        repo(&[("reconciled.toml", "[vars]\nl = [1, \"é\"]\n"), ("templates/p", "{{ vars.l }}"), ("files/etc/a", "")]);
    let mut context = web1();
    context.secrets.insert("s".to_owned(), b"hunter2hunter2\n".to_vec());
    let mut random = Random(0x5eed_cafe_f00d_0002);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..4000 {
        let mut bytes = start.as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                1 => drop(bytes.remove(at)),
                2 => drop(bytes.splice(at..at, pieces[random.below(pieces.len())].bytes())),
                _ => drop(bytes.drain(at..(at + random.below(30)).min(bytes.len()))),
            }
        }
        snapshot.entries.insert("files/etc/t.j2".to_owned(), SourceEntry::File { content: bytes, executable: false });
        let Err(faults) = read(&snapshot, &context) else {
            accepted += 1;
            continue;
        };
        refused += 1;
        for fault in &faults {
            let text = shown(&snapshot, fault);
            assert!(text.lines().all(|line| line == escape(line)), "{text:?}");
            assert!(text.len() < 4000 && !text.contains("hunter2"), "{text}");
        }
    }
    assert!(accepted > 100 && refused > 1000, "{accepted} accepted, {refused} refused");
}

#[test]
fn secrets_are_never_shown() {
    for manifest in [
        "[[file]]\npath = \"/etc/key\"\nsecret = true\ncontent = 271828\n",
        "[[file]]\npath = \"/etc/key\"\nsecret = true\ncontent = [\"271828\"]\n",
        "[[file]]\npath = \"/etc/key\"\nsecret = 271828\n",
        "[[file]]\npath = \"/etc/key\"\nsecret = \"271828\"\n",
        "[[file]]\npath = \"/etc/key\"\nsecret = true\nstate = \"271828\"\n",
        "[[file]]\npath = \"/etc/key\"\nsecret = true\ncontent = 271828x\n",
        "[[file]]\npath = \"/etc/key\"\nsecret = true\ncontent = \"271828\n",
        "[[file]]\npath = \"/etc/key\"\nsecret = true\nmode = 644\ncontent = \"271828\"\nstate = \"absent\"\n",
        "[[file]]\npath = \"/etc/a\"\nsecret = true\ncontent = \"271828\"\n",
        "[[file]]\npath = \"/etc/glob*\"\nsecret = true\ncontent = \"271828\"\n",
        "file = [{ path = \"/etc/key\", secret = true, content = \"271828\" }, { path = \"/etc/b\", mdoe = 1 }]\n",
        "file = [{ path = \"/etc/key\", content = \"271828\", mdoe = 1 }]\n",
        "[[postgres_role]]\nname = \"x\"\npassword = \"271828\"\n",
        "[[postgres_role]]\nname = \"x\"\npassword = \"271828\"\nlogin = 1\n",
        "[[postgres_role]]\nname = \"x\"\npassword = \"271828\nlogin = true\n",
        "[[postgres_role]]\nname = \"x\"\npassword = { plain = \"271828\" }\n",
        "[[file]]\npath = \"/etc/key\"\nsecret = true\ncontent = \"\"\"\na\n271828\n\"\"\"\nmode = 1\n",
    ] {
        let snapshot = repo(&[("reconciled.toml", manifest), ("files/etc/a", "")]);
        for fault in read(&snapshot, &web1()).unwrap_err() {
            let text = shown(&snapshot, &fault);
            assert!(!text.contains("271828"), "{text}");
        }
    }
}

#[test]
fn large_repositories_are_read_in_no_time() {
    let names: Vec<String> = (0..20_000).map(|i| format!("files/srv/{:03}/{i}.txt", i % 100)).collect();
    let mut entries: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x\n")).collect();
    let globs: String = (0..200).map(|i| format!("[[file]]\npath = \"/srv/*/{i}*.t{{x,y}}t\"\nlinks = \"break\"\n")).collect();
    entries.push(("reconciled.toml", &globs));
    let began = std::time::Instant::now();
    let faults = read(&repo(&entries), &web1()).unwrap_err();
    assert!(faults.len() <= 21);
    entries.pop();
    assert_eq!(good(&entries).resources.len(), 20_000);
    let one_line = format!("units = [{}]\n", "\"a\",".repeat(200_000));
    assert_eq!(read(&repo(&[("reconciled.toml", &one_line)]), &web1()).unwrap_err().len(), 21);
    let took = began.elapsed();
    assert!(took.as_secs() < 60, "{took:?}");
}
