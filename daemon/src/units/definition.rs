//! What the files of one unit say together, read as systemd does (systemd.syntax(7), systemd.unit(5)). Pure.

use std::collections::BTreeMap;

use super::inputs::words;

/// A setting's section and key: `("Service", "ExecStart")`.
pub type Setting = (String, String);

/// A unit's own file and its drop-ins, put together: each setting with the values that are left of it, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    settings: BTreeMap<Setting, Vec<String>>,
}

/// Settings whose later value replaces the earlier one. All others are taken for lists: that errs on the side of seeing a change.
const SINGLE: [&str; 30] = [
    "Type",
    "User",
    "Group",
    "WorkingDirectory",
    "RootDirectory",
    "Restart",
    "RestartSec",
    "TimeoutSec",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "KillMode",
    "KillSignal",
    "PIDFile",
    "Nice",
    "UMask",
    "LimitNOFILE",
    "LimitNPROC",
    "StandardInput",
    "StandardOutput",
    "StandardError",
    "MemoryMax",
    "MemoryHigh",
    "TasksMax",
    "CPUQuota",
    "PrivateTmp",
    "ProtectSystem",
    "ProtectHome",
    "RemainAfterExit",
    "Accept",
    "Service",
];

/// Settings whose values are sets: neither order nor lines matter (systemd.unit(5)).
const SETS: [&str; 14] = [
    "After",
    "Before",
    "Wants",
    "Requires",
    "Requisite",
    "BindsTo",
    "PartOf",
    "Upholds",
    "Conflicts",
    "WantedBy",
    "RequiredBy",
    "Documentation",
    "Alias",
    "Also",
];

/// Settings that mean something when they are empty: no capability at all (systemd.exec(5)).
const MEANINGFUL_WHEN_EMPTY: [&str; 1] = ["CapabilityBoundingSet"];

impl Definition {
    /// Reads the unit's own file and then its drop-ins, in the order in which systemd does.
    #[must_use]
    pub fn read<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut definition = Self::default();
        for text in texts {
            let mut section = String::new();
            for line in logical_lines(text) {
                if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                    name.clone_into(&mut section);
                } else if let Some((key, value)) = line.split_once('=') {
                    definition.assign(&section, key.trim(), value.trim());
                }
            }
        }
        definition
    }

    fn assign(&mut self, section: &str, key: &str, value: &str) {
        // What begins so is for other programs; systemd reads none of it.
        if section.is_empty() || section.starts_with("X-") || key.starts_with("X-") {
            return;
        }
        let setting = (section.to_owned(), key.to_owned());
        if value.is_empty() && !MEANINGFUL_WHEN_EMPTY.contains(&key) {
            self.settings.remove(&setting);
            return;
        }
        let values = self.settings.entry(setting).or_default();
        if value.is_empty() || SINGLE.contains(&key) {
            values.clear();
        }
        values.push(canonical(value));
    }

    /// The values of a setting, in order; none when it is not set.
    #[must_use]
    pub fn values(&self, section: &str, key: &str) -> &[String] {
        self.settings.get(&(section.to_owned(), key.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// The last value of a setting.
    #[must_use]
    pub fn value(&self, section: &str, key: &str) -> Option<&str> {
        self.values(section, key).last().map(String::as_str)
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn is_on(&self, section: &str, key: &str) -> bool {
        self.value(section, key) == Some(YES)
    }

    /// The settings that do not mean the same in another definition.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<Setting> {
        let all: std::collections::BTreeSet<&Setting> = self.settings.keys().chain(other.settings.keys()).collect();
        all.into_iter().filter(|setting| self.meaning(setting) != other.meaning(setting)).cloned().collect()
    }

    /// What a setting's values come to: of an environment the variables, of command lines their words, of sets what is in them.
    fn meaning(&self, setting: &Setting) -> Vec<String> {
        let values = self.settings.get(setting).map_or(&[][..], Vec::as_slice);
        let of_words = |value: &String| words(value);
        match setting.1.as_str() {
            "Environment" => {
                let assigned = values.iter().flat_map(of_words);
                let variables: BTreeMap<String, String> = assigned
                    .map(|word| {
                        word.split_once('=')
                            .map(|(name, value)| (name.to_owned(), value.to_owned()))
                            .unwrap_or((word, String::new()))
                    })
                    .collect();
                variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
            }
            key if SETS.contains(&key) => {
                let set: std::collections::BTreeSet<String> = values.iter().flat_map(of_words).collect();
                set.into_iter().collect()
            }
            // Prefixes of the program (`-`, `+`, …) are a part of its word's meaning.
            key if key.starts_with("Exec") => {
                values.iter().map(|value| format!("{}\0{}", prefixes(value), words(value).join("\0"))).collect()
            }
            _ => values.to_vec(),
        }
    }
}

fn prefixes(line: &str) -> &str {
    &line[..line.len() - line.trim_start_matches(['@', '-', ':', '+', '!', '|']).len()]
}

/// Lines without comments and blank ones, continued lines joined by a space.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut joined = String::new();
    for line in text.lines() {
        let line = line.trim_start();
        // Also in the middle of a continued line.
        if line.starts_with(['#', ';']) {
            continue;
        }
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        if backslashes % 2 == 1 {
            joined.push_str(&line[..line.len() - 1]);
            joined.push(' ');
            continue;
        }
        joined.push_str(line);
        let whole = std::mem::take(&mut joined);
        if !whole.trim().is_empty() {
            lines.push(whole.trim().to_owned());
        }
    }
    if !joined.trim().is_empty() {
        lines.push(joined.trim().to_owned());
    }
    lines
}

const YES: &str = "yes";

/// The same value in one form: blanks between words are one space, and a switch has one word for on and one for off.
fn canonical(value: &str) -> String {
    match value.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => return YES.to_owned(),
        "0" | "no" | "n" | "false" | "f" | "off" => return "no".to_owned(),
        _ => {}
    }
    let mut out = String::with_capacity(value.len());
    let mut quote = None;
    for c in value.chars() {
        if quote.is_none() && c.is_whitespace() {
            if !out.ends_with(' ') {
                out.push(' ');
            }
            continue;
        }
        if matches!(c, '"' | '\'') && (quote.is_none() || quote == Some(c)) {
            quote = if quote.is_some() { None } else { Some(c) };
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::Definition;

    /// The values of `[Service] K` that these texts leave.
    fn left(texts: &[&str]) -> String {
        let texts: Vec<String> = texts.iter().map(|t| format!("[Service]\n{t}")).collect();
        Definition::read(texts.iter().map(String::as_str)).values("Service", "K").join("|")
    }

    #[test]
    fn read_as_systemd_does() {
        for (texts, values) in [
            (["K=a", ""], "a"),
            (["K=a\nK=b", "K=c"], "a|b|c"),
            (["K=a", "K=\nK=b"], "b"),
            (["K=a", "K="], ""),
            (["K = a  b ", ""], "a b"),
            (["K=a \\\n  b\\\n# in between\n; too\n  c", ""], "a b c"),
            (["K=a \\\\", ""], "a \\\\"),
            (["K=\"a  b\" 'c  \"d' e", ""], "\"a  b\" 'c  \"d' e"),
            (["# K=a\n;K=b", ""], ""),
            (["K=1", "K=TRUE\nK=off"], "yes|yes|no"),
            (["X-K=a\n[X-Ours]\nK=b\n[Unit]\nK=c", ""], ""),
            (["K=a\\", ""], "a"),
            (["\n  K=a", "[Service]\n[Service]\nK=b"], "a|b"),
            (["nonsense", "=x"], ""),
        ] {
            assert_eq!(left(&texts), values, "{texts:?}");
        }
    }

    #[test]
    fn the_same_in_other_words() {
        for (one, other, same) in [
            ("Environment=A=1 B=2", "Environment=B=2\nEnvironment='A=1'", true),
            ("Environment=A=0\nEnvironment=A=1", "Environment=A=1", true),
            ("Environment=A=1", "Environment=A=2", false),
            ("ExecStart=/bin/sleep 1", "ExecStart=\"/bin/sleep\"   '1'", true),
            ("ExecStart=/bin/sleep 1", "ExecStart=-/bin/sleep 1", false),
            ("ExecStart=/bin/sleep 1 2", "ExecStart=/bin/sleep '1 2'", false),
            ("ExecStartPre=/bin/a\nExecStartPre=/bin/b", "ExecStartPre=/bin/b\nExecStartPre=/bin/a", false),
            ("Wants=a.service b.service", "Wants=b.service\nWants=a.service", true),
        ] {
            let read = |text: &str| Definition::read([format!("[Service]\n{text}").as_str()]);
            assert_eq!(read(one).differing(&read(other)).is_empty(), same, "{one:?} and {other:?}");
        }
    }

    #[test]
    fn what_is_single_and_what_may_be_empty() {
        let read = |text| Definition::read([text]);
        assert_eq!(read("[Service]\nUser=a\nUser=b").values("Service", "User"), ["b"]);
        assert_eq!(
            read("[Service]\nCapabilityBoundingSet=CAP_A\nCapabilityBoundingSet=").values("Service", "CapabilityBoundingSet"),
            [""]
        );
        assert_eq!(read("[Service]\nUser=b"), read("; about\n[Service]\nUser=a\nUser=\nUser=b\n"));
        assert!(read("[Socket]\nAccept=true").is_on("Socket", "Accept") && !read("").is_on("Socket", "Accept"));
    }
}
