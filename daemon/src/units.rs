//! What the place of a path means to systemd: which unit a file belongs to, and what a name says of its unit. Pure.

pub mod definition;
pub mod effect;
pub mod files;
pub mod inputs;
pub mod surroundings;

use std::collections::BTreeMap;

use crate::change::{Change, Object};
use crate::path::ManagedPath;

/// Directories that PID 1 reads units from (systemd.unit(5)) and that an administrator may write to.
const UNIT_DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// What a path below a unit directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitFile {
    /// The unit's own file.
    Fragment(String),
    /// A drop-in of this unit (`NAME.d/x.conf`).
    DropIn(String),
    /// A drop-in of all units whose names begin so (`shop-.service`), or of all of a type (`service`).
    CommonDropIn(String),
    /// A link that carries enablement of this unit (`*.wants/NAME`), or something else PID 1 reads.
    Other,
}

impl UnitFile {
    /// Whether it is part of what this unit is.
    #[must_use]
    pub fn defines(&self, unit: &str) -> bool {
        match self {
            Self::Fragment(name) | Self::DropIn(name) => name == unit || template_of(unit).as_ref() == Some(name),
            Self::CommonDropIn(name) => files::takes_drop_ins_of(unit, name),
            Self::Other => false,
        }
    }

    /// Whether it defines all units of a type (`service.d/x.conf`).
    #[must_use]
    pub fn is_of_type(&self) -> bool {
        matches!(self, Self::CommonDropIn(name) if !name.contains('.'))
    }

    /// The unit that it names; templates and beginnings of names are none.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        match self {
            Self::Fragment(name) | Self::DropIn(name) => Some(name).filter(|name| !is_template(name)).map(String::as_str),
            Self::CommonDropIn(_) | Self::Other => None,
        }
    }

    /// The units that it does not name and may define, as a glob for the manager: `worker@?*.service`, `shop-*.service`. Those
    /// of a whole type are not looked for: what everybody runs is not restarted for one file.
    #[must_use]
    pub fn others(&self) -> Option<String> {
        // What is special in a pattern is not in a unit's name, but for the backslash of systemd-escape(1).
        let escaped = |name: &str| name.replace('\\', "\\\\");
        match self {
            Self::Fragment(name) | Self::DropIn(name) if is_template(name) => Some(escaped(name).replacen("@.", "@?*.", 1)),
            Self::CommonDropIn(name) => {
                let (stem, suffix) = name.rsplit_once('.')?;
                Some(format!("{}?*.{suffix}", escaped(stem)))
            }
            _ => None,
        }
    }
}

/// What a path means to PID 1; `None` when nothing.
#[must_use]
pub fn of_path(path: &ManagedPath) -> Option<UnitFile> {
    let rest = UNIT_DIRECTORIES.iter().find_map(|dir| path.as_str().strip_prefix(dir)?.strip_prefix('/'))?;
    let parts: Vec<&str> = rest.split('/').collect();
    Some(match parts.as_slice() {
        [name] if is_unit_name(name) => UnitFile::Fragment((*name).to_owned()),
        [dir, file] if file.ends_with(".conf") => match dir.strip_suffix(".d") {
            Some(name) if is_common(name) => UnitFile::CommonDropIn(name.to_owned()),
            Some(name) if is_unit_name(name) => UnitFile::DropIn(name.to_owned()),
            _ => UnitFile::Other,
        },
        _ => UnitFile::Other,
    })
}

/// What paths mean to PID 1 on one host: also files elsewhere that links in a unit directory lead to (systemctl(1), `link`).
#[derive(Debug, Default)]
pub struct Places {
    /// The link in a unit directory that leads to a path.
    linked: BTreeMap<ManagedPath, ManagedPath>,
}

impl Places {
    /// With the links that these changes leave, or find as they are.
    #[must_use]
    pub fn of<'a>(changes: impl Iterator<Item = &'a Change>) -> Self {
        let linked = changes.filter_map(|change| {
            let Change::Entry { path, after: Object::Link { target }, .. } = change else { return None };
            of_path(path).filter(|file| *file != UnitFile::Other)?;
            let led = ManagedPath::new(&crate::path::joined(path.parent()?.as_str(), target)?).ok()?;
            of_path(&led).is_none().then(|| (led, path.clone()))
        });
        Self { linked: linked.collect() }
    }

    /// What a path means to PID 1; `None` when nothing.
    #[must_use]
    pub fn of_path(&self, path: &ManagedPath) -> Option<UnitFile> {
        of_path(path).or_else(|| of_path(self.linked.get(path)?))
    }

    /// The link in a unit directory that leads to a path.
    #[must_use]
    pub fn link_to(&self, path: &ManagedPath) -> Option<&ManagedPath> {
        self.linked.get(path)
    }
}

/// Our own units: they are never restarted or stopped by a plan.
#[must_use]
pub fn is_ours(unit: &str) -> bool {
    unit == "reconciled.service" || unit == "reconciled-recover.service"
}

/// Units that people are logged in through: to stop them is to end what those people do.
#[must_use]
pub fn is_scope_of_sessions(unit: &str) -> bool {
    ["user@", "user-runtime-dir@", "getty@", "serial-getty@", "console-getty."].iter().any(|stem| unit.starts_with(stem))
        || unit.ends_with(".scope")
}

/// Suffixes that systemd.unit(5) knows.
pub const SUFFIXES: [&str; 9] = [".service", ".socket", ".timer", ".path", ".mount", ".automount", ".target", ".slice", ".swap"];

/// Whether a unit starts others: it is started before them and stopped before them, so that it neither finds its place taken
/// nor brings them back.
#[must_use]
pub fn is_trigger(unit: &str) -> bool {
    [".socket", ".timer", ".path"].iter().any(|suffix| unit.ends_with(suffix))
}

/// The service that a socket without `Accept=yes` starts (systemd.socket(5), `Service=`).
#[must_use]
pub fn service_of(socket: &str, definition: &definition::Definition) -> String {
    let same_name = || format!("{}.service", socket.trim_end_matches(".socket"));
    definition.value("Socket", "Service").map_or_else(same_name, str::to_owned)
}

fn is_unit_name(name: &str) -> bool {
    SUFFIXES.iter().any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
}

/// `shop-.service`, `service`: what drop-ins of many units are kept under.
fn is_common(name: &str) -> bool {
    SUFFIXES.iter().any(|suffix| *name == suffix[1..] || name.strip_suffix(suffix).is_some_and(|stem| stem.ends_with('-')))
}

/// Where systemd finds a unit's own file when this one of it is gone: the directories that come after its own.
#[must_use]
pub fn behind(path: &ManagedPath) -> Vec<ManagedPath> {
    let Some(UnitFile::Fragment(unit)) = of_path(path) else { return Vec::new() };
    let after = UNIT_DIRECTORIES.iter().skip_while(|dir| path.as_str() != format!("{dir}/{unit}")).skip(1);
    let own = after.map(|dir| format!("{dir}/{unit}"));
    // An instance without a file of its own is what its template says.
    let template = template_of(&unit).into_iter().flat_map(|template| UNIT_DIRECTORIES.map(|dir| format!("{dir}/{template}")));
    // `/lib` is a link to what stands before it in the list.
    own.chain(template).filter(|place| !place.starts_with("/lib/")).filter_map(|place| ManagedPath::new(&place).ok()).collect()
}

/// Whether a unit name is a template, which is never started itself.
#[must_use]
pub fn is_template(unit: &str) -> bool {
    unit.rsplit_once('.').is_some_and(|(stem, _)| stem.ends_with('@'))
}

/// The template that a unit is an instance of: `worker@.service` of `worker@1.service`.
#[must_use]
pub fn template_of(unit: &str) -> Option<String> {
    let (stem, suffix) = unit.rsplit_once('.')?;
    let (name, instance) = stem.split_once('@')?;
    (!instance.is_empty()).then(|| format!("{name}@.{suffix}"))
}

/// The socket that may have made an instance of a service for a client (systemd.socket(5), `Accept=yes`): `each.socket` of
/// `each@0-250-0.service`.
#[must_use]
pub fn maker_of(unit: &str) -> Option<String> {
    Some(format!("{}.socket", template_of(unit)?.strip_suffix("@.service")?))
}

/// The name by which `systemd-analyze verify` checks a unit: a template through a made-up instance.
#[must_use]
pub fn verifiable(unit: &str) -> String {
    match unit.rsplit_once('.') {
        Some((stem, suffix)) if stem.ends_with('@') => format!("{stem}check.{suffix}"),
        _ => unit.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{UnitFile, of_path, template_of, verifiable};
    use crate::path::ManagedPath;

    #[test]
    fn places() {
        for (path, expected) in [
            ("/etc/systemd/system/a.service", Some(UnitFile::Fragment("a.service".into()))),
            ("/usr/local/lib/systemd/system/a.socket", Some(UnitFile::Fragment("a.socket".into()))),
            ("/etc/systemd/system/nginx.service.d/limits.conf", Some(UnitFile::DropIn("nginx.service".into()))),
            ("/etc/systemd/system/multi-user.target.wants/a.service", Some(UnitFile::Other)),
            ("/etc/systemd/system/service.d/all.conf", Some(UnitFile::CommonDropIn("service".into()))),
            ("/etc/systemd/system/shop-.service.d/all.conf", Some(UnitFile::CommonDropIn("shop-.service".into()))),
            ("/etc/systemd/system/services.d/all.conf", Some(UnitFile::Other)),
            ("/etc/systemd/system/README", Some(UnitFile::Other)),
            ("/etc/systemd/network/a.network", None),
            ("/etc/systemd/systemx/a.service", None),
        ] {
            assert_eq!(of_path(&ManagedPath::new(path).unwrap()), expected, "{path}");
        }
        let others = |file: UnitFile| file.others();
        assert_eq!(others(UnitFile::Fragment("worker@.service".into())).as_deref(), Some("worker@?*.service"));
        assert_eq!(others(UnitFile::CommonDropIn(r"a\x2db-.service".into())).as_deref(), Some(r"a\\x2db-?*.service"));
        assert_eq!(
            [others(UnitFile::Fragment("a.service".into())), others(UnitFile::CommonDropIn("service".into()))],
            [None, None]
        );
        for (name, unit, defines) in [
            ("shop-.service", "shop-web.service", true),
            ("shop-.service", "shop-web@1.service", true),
            ("shop-.service", "shop.service", false),
            ("shop-.service", "shop-web.socket", false),
            ("service", "a.service", true),
            ("service", "a.socket", false),
        ] {
            assert_eq!(UnitFile::CommonDropIn(name.into()).defines(unit), defines, "{name} {unit}");
        }
        assert_eq!(verifiable("worker@.service"), "worker@check.service");
        assert_eq!(verifiable("worker@1.service"), "worker@1.service");
        assert_eq!(template_of("worker@1.service"), Some("worker@.service".to_owned()));
        assert_eq!([template_of("worker@.service"), template_of("a.service")], [None, None]);
    }
}
