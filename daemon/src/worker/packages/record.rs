//! What the runs of apt for one plan have changed, as it was before them: noted before each, on the disk, and read by whoever takes it back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::apt::Effect;
use super::traces::Traces;
use crate::packages::{LIMIT, Packages, Request};

/// Where it is: root's alone. One transaction is open at a time, and one record with it; that of a plan that stays is overwritten.
const FOLDER: &str = "/var/lib/reconciled";
const FILE: &str = "packages.json";

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// Which plan.
    request: Request,
    /// Every package that comes, goes or gets another version.
    pub(super) packages: BTreeMap<String, Was>,
    /// What else was there.
    pub(super) traces: Traces,
}

/// What there was of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Was {
    /// Its status; `None`: dpkg knew nothing of it.
    pub(super) status: Option<String>,
    /// Its version.
    pub(super) version: String,
    /// It had come by itself.
    pub(super) automatic: bool,
}

impl Was {
    /// Whether it was there and whole.
    pub(super) fn is_installed(&self) -> bool {
        self.status.as_deref() == Some("installed")
    }
}

impl Record {
    /// What was noted for a plan.
    pub(super) fn read(request: &Request) -> io::Result<Option<Self>> {
        let mut text = Vec::new();
        match File::open(Path::new(FOLDER).join(FILE)) {
            Ok(file) => file.take(LIMIT).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let record: Self = serde_json::from_slice(&text)?;
        Ok(Some(record).filter(|record| record.request == *request))
    }

    /// Notes what a run of apt is about to change. What an earlier run for the same plan has noted stays as it is: that was before.
    pub(super) fn note(request: &Request, effect: &Effect, packages: &Packages, automatic: &BTreeSet<String>) -> io::Result<()> {
        // Nothing has changed since it was planned: what was noted then is an older plan's that was made from the same.
        // One that cannot be read is of another version of this program, and of no plan that is open.
        let earlier = if packages.census() == request.census { None } else { Self::read(request).unwrap_or_default() };
        let mut record = match earlier {
            Some(record) => record,
            None => Self { request: request.clone(), packages: BTreeMap::new(), traces: Traces::look()? },
        };
        for name in effect.comes.union(&effect.goes) {
            let package = packages.package(name).filter(|package| !package.is_unknown());
            let was = Was {
                status: package.map(|package| package.status.clone()),
                version: package.map(|package| package.version.clone()).unwrap_or_default(),
                automatic: automatic.contains(name),
            };
            record.packages.entry(name.clone()).or_insert(was);
        }
        record.write()
    }

    fn write(&self) -> io::Result<()> {
        let folder = Path::new(FOLDER);
        let fresh = folder.join(format!("{FILE}.new"));
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&fresh, folder.join(FILE))?;
        File::open(folder)?.sync_all()
    }

    /// All of it is taken back.
    pub(super) fn forget(self) -> io::Result<()> {
        fs::remove_file(Path::new(FOLDER).join(FILE))?;
        File::open(FOLDER)?.sync_all()
    }
}
