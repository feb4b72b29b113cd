//! The fake host's ufw: its files, and what our own worker does with them.

use std::collections::BTreeMap;

use super::World;
use super::jobs::exited;
use crate::host::Ran;
use crate::ufw::{
    CONF, DEFAULTS, FILES, Firewall, PROFILES, Policy, RULES, RULES6, Request, Subject, Wanted, profiles, tuple_of,
};

impl World {
    /// As the package leaves it: off, without rules.
    pub(super) fn install_ufw(&mut self) {
        for dir in ["/etc/ufw", PROFILES, "/etc/default"] {
            self.dir(dir);
        }
        self.file(CONF, "ENABLED=no\n");
        self.file(DEFAULTS, "IPV6=yes\nDEFAULT_INPUT_POLICY=\"DROP\"\nDEFAULT_OUTPUT_POLICY=\"ACCEPT\"\n");
        self.file(RULES, "");
        self.file(RULES6, "");
        self.dir("/etc/ssh");
        self.file(crate::ufw::sshd::CONFIG, "Include /etc/ssh/sshd_config.d/*.conf\n");
        self.file(&format!("{PROFILES}/openssh-server"), "[OpenSSH]\nports=22/tcp\n");
    }

    fn ufw_files(&self) -> BTreeMap<String, String> {
        FILES.iter().filter_map(|path| Some(((*path).to_owned(), self.text(path)?))).collect()
    }

    pub(super) fn ufw(&mut self, verb: &str, input: &[u8]) -> Ran {
        let request: Request = serde_json::from_slice(input).unwrap();
        match verb {
            "ask" => {}
            "set" => self.set_ufw(&request.wanted),
            "undo" => request.files.iter().for_each(|(path, text)| self.file(path, text)),
            _ => return exited(2, Vec::new(), "no such verb"),
        }
        exited(0, Firewall::read(&self.ufw_files()).answer(&request.wanted).into_bytes(), "")
    }

    fn set_ufw(&mut self, wanted: &Wanted) {
        match wanted {
            Wanted::Allow(allow) => allow.iter().for_each(|subject| self.rule("allow", subject)),
            Wanted::Deny { deny, .. } => deny.iter().for_each(|subject| self.rule("deny", subject)),
            Wanted::DefaultIncoming(policy) => self.policy("DEFAULT_INPUT_POLICY", *policy),
            Wanted::DefaultOutgoing(policy) => self.policy("DEFAULT_OUTPUT_POLICY", *policy),
            Wanted::Enabled(enabled) => self.file(CONF, if *enabled { "ENABLED=yes\n" } else { "ENABLED=no\n" }),
        }
    }

    fn policy(&mut self, key: &str, policy: Policy) {
        let word = match policy {
            Policy::Allow => "ACCEPT",
            Policy::Deny => "DROP",
            Policy::Reject => "REJECT",
        };
        let text = self.text(DEFAULTS).unwrap();
        let line = |line: &str| if line.starts_with(key) { format!("{key}=\"{word}\"\n") } else { format!("{line}\n") };
        self.file(DEFAULTS, &text.lines().map(line).collect::<String>());
    }

    fn rule(&mut self, action: &str, subject: &Subject) {
        let now = Firewall::read(&self.ufw_files());
        if now.has(action, subject) || (action == "allow" && now.lets(subject)) {
            return;
        }
        let ports = match subject {
            Subject::Ports(ports, protocol) => (ports.clone(), protocol.clone()),
            Subject::Profile(name) => profiles(&self.text(&format!("{PROFILES}/openssh-server")).unwrap())[name][0].clone(),
        };
        for (path, anywhere) in [(RULES, "0.0.0.0/0"), (RULES6, "::/0")] {
            let text = self.text(path).unwrap_or_default() + &tuple_of(action, subject, &ports, anywhere);
            self.file(path, &text);
        }
    }
}
