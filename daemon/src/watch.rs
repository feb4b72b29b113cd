//! What happens to managed paths and units between two looks: inotify(7) and the manager's signals, so that drift is seen when it happens. It
//! only says that something did; what, a look finds out.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use zbus::{Connection, MatchRule, MessageStream};

use crate::tasks::Published;

/// What is written goes on being written for a moment: a look waits until nothing has happened for so long…
const QUIET: Duration = Duration::from_secs(1);
/// …but no longer than this.
const UNQUIET: Duration = Duration::from_secs(10);
/// Boots take no longer: a unit that never comes up must not keep all else from being healed.
const BOOT: Duration = Duration::from_secs(5 * 60);
/// Directories that are watched at most; the rest is left to the timer.
const DIRECTORIES: usize = 8192;
/// Signals that may wait to be read.
const SIGNALS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// What is managed, as far as it can be watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Paths of files, links and directories.
    pub paths: BTreeSet<String>,
    /// Units.
    pub units: BTreeSet<String>,
}

/// Watches what the engine says is managed and calls `wake` after a moment of quiet, until that returns false.
pub fn start(connection: Connection, published: &watch::Receiver<Published>, wake: impl Fn() -> bool + Clone + Send + 'static) {
    let (files, units) = (published.clone(), published.clone());
    let wake_for_units = wake.clone();
    tokio::spawn(async move {
        if let Err(error) = watch_files(files, wake).await {
            tracing::warn!("changes of files are seen by the timer only: inotify: {error}");
        }
    });
    tokio::spawn(async move {
        if let Err(error) = watch_units(&connection, units, wake_for_units).await {
            tracing::warn!("changes of units are seen by the timer only: {error}");
        }
    });
}

/// Says once that the host is up, or has booted for so long that nobody waits for that any more.
pub fn once_booted(connection: Connection, tell: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        let latest = Instant::now() + BOOT;
        while Instant::now() < latest && is_starting(&connection).await {
            tokio::time::sleep(QUIET).await;
        }
        tell();
    });
}

/// Whether `SystemState` of the manager says so (org.freedesktop.systemd1(5)).
async fn is_starting(connection: &Connection) -> bool {
    let builder =
        zbus::Proxy::new(connection, "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
    let Ok(manager) = builder.await else { return false };
    let state = manager.get_property::<String>("SystemState").await;
    state.is_ok_and(|state| matches!(state.as_str(), "initializing" | "starting"))
}

/// The managed things, whenever they are others than before.
async fn next(published: &mut watch::Receiver<Published>, than: &Arc<Watched>) -> Option<Arc<Watched>> {
    let other = published.wait_for(|p| p.watched != *than).await.ok()?;
    Some(other.watched.clone())
}

async fn watch_files(mut published: watch::Receiver<Published>, wake: impl Fn() -> bool) -> std::io::Result<()> {
    let mut watched = published.borrow().watched.clone();
    let mut eyes = Eyes::on(&watched)?;
    loop {
        let happened = tokio::select! {
            other = next(&mut published, &watched) => {
                let Some(other) = other else { return Ok(()) };
                watched = other;
                eyes = Eyes::on(&watched)?;
                continue;
            }
            happened = eyes.see() => happened?,
        };
        if !happened {
            continue;
        }
        let latest = Instant::now() + UNQUIET;
        while let Ok(more) = timeout_at(latest.min(Instant::now() + QUIET), eyes.see()).await {
            more?;
        }
        // Directories may have come or gone. What happens from here on is seen, and what happened before is looked at.
        eyes = Eyes::on(&watched)?;
        if !wake() {
            return Ok(());
        }
    }
}

/// inotify on the directories in which managed things stand.
struct Eyes {
    inotify: AsyncFd<OwnedFd>,
    directories: BTreeMap<i32, String>,
    watched: Arc<Watched>,
}

impl Eyes {
    fn on(watched: &Arc<Watched>) -> std::io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let what = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        let mut directories = BTreeMap::new();
        let places: BTreeSet<&Path> = watched.paths.iter().filter_map(|path| Path::new(path).parent()).collect();
        for place in places.into_iter().take(DIRECTORIES) {
            // Where one is missing, the nearest one above sees it come.
            for directory in place.ancestors() {
                match inotify::add_watch(&inotify, directory, what) {
                    Ok(number) => {
                        directories.insert(number, directory.display().to_string());
                        break;
                    }
                    Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        #[allow(deprecated, reason = "its successor is unsafe code; an OwnedFd is what this one is sound for")]
        let inotify = AsyncFd::new(inotify)?;
        Ok(Self { inotify, directories, watched: watched.clone() })
    }

    /// Waits for events, and says whether any of them was about something managed.
    async fn see(&mut self) -> std::io::Result<bool> {
        let mut ready = self.inotify.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        let mut happened = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                    happened |= self.concerns(event.wd(), event.events(), name.as_deref());
                }
                Err(Errno::WOULDBLOCK) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(happened)
    }

    fn concerns(&self, directory: i32, events: ReadFlags, name: Option<&str>) -> bool {
        if events.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
            return true;
        }
        let (Some(directory), Some(name)) = (self.directories.get(&directory), name) else { return false };
        let path = format!("{}/{name}", directory.trim_end_matches('/'));
        let below = format!("{path}/");
        // Itself, or a directory on the way to something.
        self.watched.paths.contains(&path)
            || self.watched.paths.range(below.clone()..).next().is_some_and(|p| p.starts_with(&below))
    }
}

async fn watch_units(
    connection: &Connection,
    mut published: watch::Receiver<Published>,
    wake: impl Fn() -> bool,
) -> zbus::Result<()> {
    const SYSTEMD: &str = "org.freedesktop.systemd1";
    connection
        .call_method(Some(SYSTEMD), "/org/freedesktop/systemd1", Some("org.freedesktop.systemd1.Manager"), "Subscribe", &())
        .await
        .map(drop)
        .or_else(|error| if error.to_string().contains("AlreadySubscribed") { Ok(()) } else { Err(error) })?;
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(SYSTEMD)
        .interface("org.freedesktop.DBus.Properties")
        .member("PropertiesChanged")
        .path_namespace("/org/freedesktop/systemd1/unit")
        .build()?;
    let mut signals = MessageStream::for_match_rule(rule, connection, Some(SIGNALS)).await?;
    let mut watched = published.borrow().watched.clone();
    // How each unit was when it last said so: it says it over and over.
    let mut states: BTreeMap<String, String> = BTreeMap::new();
    let mut latest = None;
    loop {
        let places: BTreeSet<String> = watched.units.iter().map(|unit| object_path(unit)).collect();
        // What a service holds together are mostly instances of its name.
        let stems = watched.units.iter().filter_map(|unit| unit.strip_suffix(".service"));
        let instances: Vec<String> = stems.map(|stem| object_path(&format!("{stem}@"))).collect();
        let quiet = async {
            match latest {
                Some(latest) => tokio::time::sleep_until(Instant::min(latest, Instant::now() + QUIET)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            other = next(&mut published, &watched) => match other {
                Some(other) => watched = other,
                None => return Ok(()),
            },
            signal = signals.next() => {
                let Some(signal) = signal else { return Ok(()) };
                if has_changed_state(&signal?, (&places, &instances), &mut states) {
                    latest.get_or_insert_with(|| Instant::now() + UNQUIET);
                }
            }
            () = quiet => {
                latest = None;
                if !wake() {
                    return Ok(());
                }
            }
        }
    }
}

/// Whether a signal says that a managed unit, or an instance of its name, is in another state than it last said.
fn has_changed_state(
    signal: &zbus::Message,
    (places, instances): (&BTreeSet<String>, &[String]),
    states: &mut BTreeMap<String, String>,
) -> bool {
    type Changed = (String, std::collections::HashMap<String, zbus::OwnedVariant>, Vec<String>);
    let header = signal.header();
    let is_ours = |place: &String| places.contains(place) || instances.iter().any(|begin| place.starts_with(begin.as_str()));
    let Some(place) = header.path().map(ToString::to_string).filter(is_ours) else { return false };
    let Ok((_, properties, _)) = signal.body().deserialize::<Changed>() else { return false };
    let Some(state) = properties.get("ActiveState").and_then(|v| String::try_from(v.clone()).ok()) else { return false };
    states.insert(place, state.clone()).as_ref() != Some(&state)
}

/// The object path of a unit: its name with `_2e` for a dot and the like (sd_bus_path_encode(3)).
fn object_path(unit: &str) -> String {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for (place, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && place > 0) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::object_path;

    #[test]
    fn a_unit_has_its_place_on_the_bus() {
        let below = |name: &str| format!("/org/freedesktop/systemd1/unit/{name}");
        assert_eq!(object_path("nginx.service"), below("nginx_2eservice"));
        assert_eq!(object_path("9-a@1.service"), below("_39_2da_401_2eservice"));
    }
}
