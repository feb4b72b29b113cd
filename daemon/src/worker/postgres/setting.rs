//! Settings of the server. Its files are what counts: they can be read, and put back, when a setting of ours keeps it from starting.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::thread::sleep;

use super::cluster::Cluster;
use super::{COMMON, Fault, LOOKS, unreadable};
use crate::postgres::{Live, Setting, SettingSeen, sql};

/// The file that ALTER SYSTEM writes.
const FILE: &str = "postgresql.auto.conf";

/// What there is of a setting.
pub(super) fn see(cluster: &Cluster, setting: &Setting) -> Result<SettingSeen, Fault> {
    let file = cluster.data.join(FILE);
    let text = read(&file)?;
    let (live, unread) = match cluster.online {
        false => (None, false),
        true => {
            let said = cluster.psql(COMMON, &sql::look_at_setting(setting))?;
            if said.is_empty() {
                return Err(Fault::Said(format!("PostgreSQL knows no setting `{}`", crate::path::escape(&setting.name))));
            }
            let (live, loaded): (Live, i64) = serde_json::from_str(&said).map_err(|error| unreadable(&error))?;
            (Some(live), changed_at(&file)? > loaded)
        }
    };
    let live = live.map(|live| Live { setting: sql::canonical(&setting.name, live.setting), ..live });
    let words = |value: Option<&str>| words(cluster, &setting.name, value).map(|words| sql::canonical(&setting.name, words));
    Ok(SettingSeen {
        configured: words(None)?,
        wanted: setting.value.as_deref().map(|value| words(Some(value))).transpose()?,
        former: value_in(&text, &setting.name),
        unread,
        live,
        unit: cluster.unit(),
    })
}

/// What the files say of a setting, or would with this value, in the server's words. Those of an extension nobody knows who has not loaded
/// it, which a server that only reads its files does not: they are compared as they are written.
fn words(cluster: &Cluster, name: &str, value: Option<&str>) -> Result<String, Fault> {
    match value {
        Some(value) if name.contains('.') => Ok(value.to_owned()),
        None if name.contains('.') => match cluster.configured(name, None) {
            // That it is not set is no fault of the files.
            Err(_) => cluster.configured("port", None).map(|_| String::new()),
            said => said,
        },
        value => cluster.configured(name, value),
    }
}

/// Sets it. A server that runs has read it when this returns; one that does not finds it when it starts.
pub(super) fn make(cluster: &Cluster, setting: &Setting) -> Result<(), Fault> {
    if !cluster.online {
        return Ok(write(cluster, setting)?);
    }
    let loaded = |cluster: &Cluster| cluster.query::<i64>(COMMON, sql::loaded_at());
    let before = loaded(cluster)?;
    cluster.psql(COMMON, &sql::make_setting(setting))?;
    for _ in 0..LOOKS.0 {
        // Not `later than`: a clock may step back.
        if loaded(cluster)? != before {
            return Ok(());
        }
        sleep(LOOKS.1);
    }
    Err(Fault::Said("the server was told to read its files again, and has not".to_owned()))
}

/// As ALTER SYSTEM would, without a server: the file is replaced whole.
fn write(cluster: &Cluster, setting: &Setting) -> io::Result<()> {
    let (file, new) = (cluster.data.join(FILE), cluster.data.join(format!("{FILE}.reconciled")));
    let text = with_value(&read(&file)?, setting);
    let mut to = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    to.write_all(text.as_bytes())?;
    to.sync_all()?;
    fs::rename(&new, &file)?;
    File::open(&cluster.data)?.sync_all()
}

fn read(file: &PathBuf) -> io::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text,
    }
}

/// In microseconds since 1970.
fn changed_at(file: &PathBuf) -> io::Result<i64> {
    match fs::metadata(file) {
        Ok(of) => Ok(of.mtime().saturating_mul(1_000_000).saturating_add(of.mtime_nsec() / 1000)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Whether a line of the file sets this.
fn sets(line: &str, name: &str) -> bool {
    line.split_once('=').is_some_and(|(key, _)| key.trim().eq_ignore_ascii_case(name))
}

/// What the file sets it to: the last line counts.
fn value_in(text: &str, name: &str) -> Option<String> {
    let line = text.lines().rfind(|line| sets(line, name))?;
    let value = line.split_once('=')?.1.trim();
    let Some(quoted) = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')) else { return Some(value.to_owned()) };
    // As the server writes it: both quotes and backslashes are doubled.
    Some(quoted.replace("''", "'").replace("\\\\", "\\"))
}

fn with_value(text: &str, setting: &Setting) -> String {
    let others = text.lines().filter(|line| !sets(line, &setting.name)).map(|line| format!("{line}\n"));
    let escaped = |value: &String| value.replace('\\', "\\\\").replace('\'', "''");
    let line = setting.value.as_ref().map(|value| format!("{} = '{}'\n", setting.name, escaped(value)));
    others.chain(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{value_in, with_value};
    use crate::postgres::Setting;

    #[test]
    fn the_file_of_alter_system() {
        let text = "# Do not edit this file manually!\nwork_mem = '8MB'\nlog_line_prefix = '%m ''\\\\ '\nWork_Mem = '16MB'\n";
        assert_eq!(value_in(text, "work_mem").as_deref(), Some("16MB"));
        assert_eq!(value_in(text, "log_line_prefix").as_deref(), Some("%m '\\ "));
        assert_eq!(value_in(text, "shared_buffers"), None);
        let set =
            |value: Option<&str>| with_value(text, &Setting { name: "work_mem".to_owned(), value: value.map(str::to_owned) });
        assert_eq!(value_in(&set(None), "work_mem"), None);
        for value in ["1MB", "it's", "a\\b"] {
            assert_eq!(value_in(&set(Some(value)), "work_mem").as_deref(), Some(value));
        }
        assert!(set(None).starts_with("# Do not edit") && set(None).contains("log_line_prefix = '%m ''\\\\ '\n"));
    }
}
