//! Which paths may be managed: the strict grammar of names and the places that are never ours. Pure.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Longest accepted path, in bytes (`PATH_MAX` of Linux, `limits.h`).
pub const PATH_LIMIT: usize = 4096;
/// Longest accepted component, in bytes (`NAME_MAX`).
pub const COMPONENT_LIMIT: usize = 255;

/// A glob over absolute paths as the manifest, guards and `watch` write them: `*` stays within one directory, `**` does not.
///
/// # Errors
/// globset's, for what is no glob.
pub fn glob(pattern: &str) -> Result<globset::Glob, globset::Error> {
    globset::GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build()
}

/// Trees that are never managed: kernel interfaces, scratch space, the boot loader's partition and our own state.
const FORBIDDEN: [&str; 9] =
    ["/proc", "/sys", "/dev", "/tmp", "/var/tmp", "/boot", "/var/lib/reconciled", "/run/reconciled", "/.reconciled"];

/// An absolute, normal path that the grammar accepts: UTF-8, no `.`/`..`, no control or direction-changing characters,
/// no `.git` and no `.reconciled` component, not below a forbidden tree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ManagedPath(String);

impl ManagedPath {
    /// Checks an absolute path.
    ///
    /// # Errors
    /// One sentence that says which rule the path breaks.
    pub fn new(path: &str) -> Result<Self, String> {
        let Some(relative) = path.strip_prefix('/') else {
            return Err(format!("`{}` is not an absolute path", escape(path)));
        };
        check_relative(relative)?;
        if let Some(tree) = FORBIDDEN.iter().find(|t| Path::new(path).starts_with(t)) {
            return Err(format!("`{path}` is below {tree}, which is never managed"));
        }
        Ok(Self(path.to_owned()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path for system calls.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The last component.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The directory that holds this path; `None` for a child of the root directory.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        match self.0.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => Some(Self(parent.to_owned())),
            _ => None,
        }
    }

    /// Whether this path lies below `ancestor` (or is it).
    #[must_use]
    pub fn is_below(&self, ancestor: &Self) -> bool {
        self.as_path().starts_with(ancestor.as_path())
    }
}

impl fmt::Display for ManagedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ManagedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ManagedPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(d)?).map_err(de::Error::custom)
    }
}

/// Checks a relative path (a name in the repository, or a managed path without its leading slash).
///
/// # Errors
/// One sentence that says which rule the path breaks.
pub fn check_relative(path: &str) -> Result<(), String> {
    if path.len() > PATH_LIMIT {
        return Err(format!("the path `{}…` is longer than {PATH_LIMIT} bytes", escape(&path[..path.floor_char_boundary(40)])));
    }
    path.split('/').try_for_each(|component| check_component(component).map_err(|why| format!("`{}`: {why}", escape(path))))
}

fn check_component(component: &str) -> Result<(), String> {
    match component {
        "" => return Err("it has an empty component".to_owned()),
        "." | ".." => return Err(format!("it has a `{component}` component")),
        _ => {}
    }
    if component.len() > COMPONENT_LIMIT {
        return Err(format!("it has a component longer than {COMPONENT_LIMIT} bytes"));
    }
    if component.eq_ignore_ascii_case(".git") || component == ".reconciled" {
        return Err(format!("it has a `{component}` component"));
    }
    if let Some(c) = component.chars().find(|c| is_hidden(*c)) {
        return Err(format!("it has the invisible character U+{:04X}", u32::from(c)));
    }
    Ok(())
}

/// Where a link's text leads from the directory that it stands in, without `.` and `..`, resolved as text.
#[must_use]
pub fn joined(directory: &str, target: &str) -> Option<String> {
    use std::path::Component;
    let mut parts: Vec<String> = Vec::new();
    for part in Path::new(directory).join(target).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?.to_owned()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    Some(format!("/{}", parts.join("/")))
}

/// Characters that a terminal obeys instead of showing: controls, direction marks, zero-width characters.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
        || ('\u{e0000}'..='\u{e007f}').contains(&c)
}

/// Text that is safe to show on a terminal: hidden characters become `\u{…}`.
#[must_use]
pub fn escape(text: &str) -> String {
    text.chars().flat_map(|c| if is_hidden(c) { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::{ManagedPath, escape};

    #[test]
    fn grammar() {
        for good in ["/etc/nginx/nginx.conf", "/opt/a b/ü", "/etc/.gitconfig", "/run/x"] {
            ManagedPath::new(good).unwrap();
        }
        for (bad, why) in [
            ("etc/passwd", "absolute"),
            ("/etc/../passwd", "`..`"),
            ("/etc//x", "empty"),
            ("/", "empty"),
            ("/etc/", "empty"),
            ("/etc/.git/config", ".git"),
            ("/etc/.GIT/config", ".GIT"),
            ("/etc/a\nb", "U+000A"),
            ("/etc/a\u{202e}b", "U+202E"),
            ("/proc/sys/kernel/x", "/proc"),
            ("/tmp/x", "/tmp"),
            ("/var/lib/reconciled/state.db", "never managed"),
            ("/opt/.reconciled/x", ".reconciled"),
        ] {
            let error = ManagedPath::new(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
            assert_eq!(error, escape(&error), "an error never carries control characters");
        }
        assert!(ManagedPath::new(&format!("/{}", "x".repeat(256))).unwrap_err().contains("255"));
    }

    #[test]
    fn parents() {
        let p = ManagedPath::new("/etc/nginx/x").unwrap();
        assert_eq!(p.parent().unwrap().as_str(), "/etc/nginx");
        assert_eq!(p.parent().unwrap().parent().unwrap().parent(), None);
        assert_eq!(p.file_name(), "x");
    }
}
