//! The worker for dumps, `reconciled worker dump DATABASE`: what a migration could lose is kept in a file that root alone can read.
//! pg_dump(1) runs as the cluster's superuser and writes into a file that is open already.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where dumps are kept.
const PLACE: &str = "/var/lib/reconciled/dumps";
/// So many of a database.
const KEPT: usize = 3;

/// Whether a database of this name can be dumped: it is a part of a file's name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    !name.is_empty() && name.len() <= 63 && !name.starts_with('-') && name.chars().all(fits)
}

/// The verb's body.
#[must_use]
pub fn main(name: &str) -> ExitCode {
    let done = dump(Path::new(PLACE), name).map(|path| println!("dump of {name}: {path}"));
    super::ended(done)
}

fn dump(place: &Path, name: &str) -> io::Result<String> {
    if !is_name(name) {
        return Err(io::Error::other("which database?"));
    }
    match DirBuilder::new().mode(0o700).create(place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Whatever the clock says, the new one is the newest.
    let now = times(place, name)?.first().map_or(now, |newest| now.max(newest + 1));
    let (path, unfinished) = (place.join(format!("{name}.{now}.dump")), place.join(format!("{name}.unfinished")));
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let mut command = Command::new("/usr/sbin/runuser");
    command.args(["-u", "postgres", "--", "pg_dump", "--format=custom", "--no-password", name]);
    let status = command.stdin(Stdio::null()).stdout(file.try_clone()?).env("LC_ALL", "C.UTF-8").status()?;
    if !status.success() {
        let _ = fs::remove_file(&unfinished);
        return Err(io::Error::other(format!("{name} could not be dumped: {status}")));
    }
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    File::open(place)?.sync_all()?;
    forget_old(place, name)?;
    Ok(path.display().to_string())
}

/// When dumps of a database were made, the newest first.
fn times(place: &Path, name: &str) -> io::Result<Vec<u64>> {
    let time = |file: &str| file.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".dump")?.parse::<u64>().ok();
    let mut times: Vec<u64> = fs::read_dir(place)?.flatten().filter_map(|entry| time(entry.file_name().to_str()?)).collect();
    times.sort_unstable_by(|a, b| b.cmp(a));
    Ok(times)
}

/// All but the newest go.
fn forget_old(place: &Path, name: &str) -> io::Result<()> {
    for old in times(place, name)?.into_iter().skip(KEPT) {
        fs::remove_file(place.join(format!("{name}.{old}.dump")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{forget_old, is_name};

    #[test]
    fn the_newest_stay() {
        let place = tempfile::tempdir().unwrap();
        let files = ["shop.9.dump", "shop.10.dump", "shop.11.dump", "shop.12.dump", "shop2.1.dump", "shop.unfinished"];
        files.iter().for_each(|file| std::fs::write(place.path().join(file), "").unwrap());
        forget_old(place.path(), "shop").unwrap();
        let stays: Vec<bool> = files.iter().map(|file| place.path().join(file).exists()).collect();
        assert_eq!(stays, [false, true, true, true, true, true]);
        assert!(is_name("my-shop_1") && ["", "-f", "a/b", "a.b", "a b"].iter().all(|name| !is_name(name)));
    }
}
