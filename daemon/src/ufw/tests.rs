//! What ufw's files say, by table.

use std::collections::{BTreeMap, BTreeSet};

use super::{CONF, DEFAULTS, Firewall, Policy, RULES, RULES6, Reach, Subject, Wanted, profiles};

const TUPLES: &str = "### tuple ### allow tcp 22 A any A OpenSSH - in\n\
    ### tuple ### allow tcp 80,443 A any A Nginx%20Full - in comment=7265636f6e63696c6564\n\
    -A ufw-user-input -p tcp --dport 8080 -j ACCEPT\n\
    ### tuple ### deny any 25 A any A in\n\
    ### tuple ### limit tcp 2222 A any A in\n\
    ### tuple ### allow any 53 A any A out\n\
    ### tuple ### deny tcp 9000:9010 A any A in comment=7265636f6e63696c6564\n";

fn firewall(six: &str) -> Firewall {
    let files = [
        (CONF, "# ENABLED=no\nENABLED=yes\nLOGLEVEL=low\n".to_owned()),
        (DEFAULTS, "IPV6=yes\nDEFAULT_INPUT_POLICY=\"DROP\"\nDEFAULT_OUTPUT_POLICY=\"ACCEPT\"\n".to_owned()),
        (RULES, format!("{}### tuple ### allow tcp 5432 0.0.0.0/0 any 10.0.0.0/8 in\n", TUPLES.replace(" A", " 0.0.0.0/0"))),
        (RULES6, six.replace(" A", " ::/0")),
    ];
    Firewall::read(&files.map(|(path, text)| (path.to_owned(), text)).into())
}

fn set(words: &[&str]) -> BTreeSet<Subject> {
    words.iter().map(|word| Subject::parse(word).unwrap()).collect()
}

#[test]
fn one_that_is_not_loaded_is_not_on() {
    let is_on = |firewall: &Firewall| firewall.answer(&Wanted::Enabled(true));
    let stopped = Firewall { is_loaded: false, ..firewall("") };
    let not_at_boot = Firewall { comes_at_boot: false, ..firewall("") };
    assert_eq!([is_on(&firewall("")), is_on(&stopped), is_on(&not_at_boot)], ["on", "stopped", "on, and not at boot"]);
    assert_eq!(is_on(&Firewall { enabled: false, ..stopped }), "off");
}

#[test]
fn subjects() {
    for (text, shown) in [
        ("OpenSSH", "OpenSSH"),
        ("Nginx Full", "Nginx Full"),
        ("8080/tcp", "8080/tcp"),
        ("25", "25"),
        ("443,80/tcp", "80,443/tcp"),
        ("6000:6007/udp", "6000:6007/udp"),
    ] {
        assert_eq!(Subject::parse(text).map(|subject| subject.to_string()), Ok(shown.to_owned()));
    }
    for text in ["", "-x", "0/tcp", "70000/tcp", "8080/sctp", "80,443", "1:2", "9:1/tcp", "80/", "a;b", "+5/tcp"] {
        assert!(Subject::parse(text).is_err(), "{text}");
    }
}

#[test]
fn answers() {
    let firewall = firewall(TUPLES);
    for (wanted, answer, done) in [
        (Wanted::Allow(set(&["OpenSSH", "Nginx Full", "8080/tcp"])), "Nginx Full, OpenSSH", "8080/tcp, Nginx Full, OpenSSH"),
        (Wanted::Deny { deny: set(&["25"]), allow: set(&["Nginx Full"]) }, "25, our deny 9000:9010/tcp", "25"),
        (Wanted::Deny { deny: set(&["9000:9010/tcp"]), allow: set(&[]) }, "9000:9010/tcp, our allow Nginx Full", "9000:9010/tcp"),
        (Wanted::Allow(set(&["2222/tcp", "8080/tcp"])), "2222/tcp", "2222/tcp, 8080/tcp"),
        (Wanted::DefaultIncoming(Policy::Reject), "deny", "reject"),
        (Wanted::DefaultOutgoing(Policy::Allow), "allow", "allow"),
        (Wanted::Enabled(true), "on", "on"),
    ] {
        assert_eq!((firewall.answer(&wanted).as_str(), wanted.done().as_str()), (answer, done));
    }
    // Rules of others that ours take the place of; one that lets in not too many at a time lets in.
    let replaced = |action, words: &[&str]| firewall.replaced(action, &set(words)).into_iter().collect::<Vec<_>>();
    assert_eq!(replaced("deny", &["OpenSSH", "25", "9000:9010/tcp", "1/tcp"]), ["allow OpenSSH"]);
    assert_eq!(replaced("allow", &["OpenSSH", "25", "2222/tcp"]), ["deny 25"]);
    assert_eq!(replaced("deny", &["2222/tcp"]), ["limit 2222/tcp"]);
    // A rule that is made for one family only is half made.
    let half = super::tests::firewall("");
    assert_eq!(half.answer(&Wanted::Allow(set(&["OpenSSH"]))), "none");
}

#[test]
fn who_is_let_in() {
    let ssh = profiles("[OpenSSH]\ntitle=x\nports=22/tcp\n\n[Both]\nports=53|2222/tcp\n");
    assert_eq!(ssh["Both"], [("53".to_owned(), "any".to_owned()), ("2222".to_owned(), "tcp".to_owned())]);
    let ports_of = |subject: &Subject| match subject {
        Subject::Ports(ports, protocol) => vec![(ports.clone(), protocol.clone())],
        Subject::Profile(name) => ssh.get(name).cloned().unwrap_or_default(),
    };
    let empty = Firewall { ipv6: true, ..Firewall::default() };
    let full = firewall(TUPLES);
    let with = |line: &str| {
        let mut more = full.clone();
        more.rules.extend(super::tuple(line));
        more
    };
    let from_one = with("### tuple ### deny tcp 22 0.0.0.0/0 any 192.0.2.1 in");
    let on_one = with("### tuple ### allow tcp 23 0.0.0.0/0 any 0.0.0.0/0 in_eth0");
    let from_port = with("### tuple ### allow tcp any 0.0.0.0/0 23 0.0.0.0/0 in");
    let four = Firewall { ipv6: false, ..full.clone() };
    for (now, port, allow, deny, incoming, wanted) in [
        (&empty, 22, vec![], vec![], None, Reach::Nobody),
        (&empty, 22, vec!["OpenSSH"], vec![], None, Reach::All),
        (&empty, 22, vec!["22/tcp"], vec![], None, Reach::All),
        (&empty, 22, vec!["22/udp"], vec![], None, Reach::Nobody),
        (&empty, 22, vec!["20:30/tcp"], vec![], None, Reach::All),
        (&empty, 2222, vec!["OpenSSH"], vec![], None, Reach::Nobody),
        (&empty, 2222, vec!["Both"], vec![], None, Reach::All),
        (&empty, 22, vec![], vec![], Some(Policy::Allow), Reach::All),
        (&empty, 22, vec![], vec!["22"], Some(Policy::Allow), Reach::Nobody),
        (&full, 22, vec![], vec![], None, Reach::All),
        (&full, 22, vec![], vec!["OpenSSH"], None, Reach::Nobody),
        (&full, 2222, vec![], vec![], None, Reach::All),
        (&full, 25, vec![], vec![], Some(Policy::Allow), Reach::Nobody),
        (&full, 25, vec!["25"], vec![], None, Reach::All),
        (&full, 80, vec![], vec![], None, Reach::Nobody),
        // Not from everywhere.
        (&full, 5432, vec![], vec![], None, Reach::Some),
        (&full, 5432, vec!["5432/tcp"], vec![], None, Reach::All),
        (&from_one, 22, vec![], vec![], None, Reach::Some),
        (&on_one, 23, vec![], vec![], None, Reach::Some),
        (&from_port, 23, vec![], vec![], None, Reach::Some),
        (&four, 22, vec![], vec![], None, Reach::Some),
    ] {
        let said = now.after((&set(&allow), &set(&deny)), incoming, ports_of).reach(port);
        assert_eq!(said, wanted, "{port} {allow:?} {deny:?} {incoming:?}");
    }
}

#[test]
fn what_ufw_writes_is_read() {
    let subject = Subject::Profile("Nginx Full".to_owned());
    let line = |anywhere| super::tuple_of("allow", &subject, &("80,443".to_owned(), "tcp".to_owned()), anywhere);
    let files = BTreeMap::from([(RULES.to_owned(), line("0.0.0.0/0"))]);
    let firewall = Firewall::read(&files);
    assert!(firewall.has("allow", &subject) && firewall.rules[0].ours);
}

/// What somebody else has changed since stays.
#[test]
fn the_way_back_among_others() {
    let was = firewall(TUPLES);
    let ours = |rule: &str| format!("### tuple ### {rule} A any A in comment={}\n", super::hex(super::MARK));
    let back = |now: &Firewall, was: &Firewall, wanted: &Wanted| {
        now.back(was, wanted).into_iter().map(|words| words.join(" ")).collect::<Vec<_>>()
    };
    let with = |rules: &[String]| {
        let mut more = was.clone();
        let lines = rules.iter().flat_map(|rules| rules.lines().map(|line| line.replace(" A", " 0.0.0.0/0")));
        more.rules.extend(lines.filter_map(|line| super::tuple(&line)));
        more
    };
    let allow = Wanted::Allow(set(&["8080/tcp", "Nginx Full"]));
    assert_eq!(back(&with(&[ours("allow tcp 8080"), ours("allow tcp 7777")]), &was, &allow), ["delete allow 8080/tcp"]);
    assert_eq!(back(&was, &was, &allow), [""; 0]);
    // What it took the place of comes back with what was said of it; what was ours and went, too.
    let mut before = was.clone();
    before.rules.extend(super::tuple("### tuple ### allow tcp 443 0.0.0.0/0 any 0.0.0.0/0 in comment=6d696e6520"));
    let mut after = with(&[ours("deny tcp 443")]);
    after.rules.retain(|rule| rule.subject.to_string() != "Nginx Full");
    let deny = Wanted::Deny { deny: set(&["443/tcp", "9000:9010/tcp"]), allow: set(&[]) };
    assert_eq!(back(&after, &before, &deny), ["allow 443/tcp comment mine ", "allow Nginx Full comment reconciled"]);
    let other = Firewall { enabled: false, incoming: Some(Policy::Allow), ..was.clone() };
    assert_eq!(back(&other, &was, &Wanted::DefaultIncoming(Policy::Allow)), ["default deny incoming"]);
    assert_eq!(back(&other, &was, &Wanted::DefaultOutgoing(Policy::Deny)), [""; 0]);
    assert_eq!(back(&other, &was, &Wanted::Enabled(false)), ["--force enable"]);
    assert_eq!(back(&was, &was, &Wanted::Enabled(true)), [""; 0]);
}
