//! The client of our own D-Bus service: the git hook and `reconcilectl` order and follow through it.

use std::future::Future;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use zbus::{Connection, DBusError, Fd};

use crate::report::{Progress, Report};

/// Limit of a call; what is ordered is told through the pipe and has no limit here.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// The service's methods as a client sees them.
#[zbus::proxy(interface = "org.reconciled1.Manager", default_service = "org.reconciled1", default_path = "/org/reconciled1")]
pub trait Manager {
    /// See `bus::Service`.
    fn submit(&self, kind: &str, commit: &str, key: &str, right: &str, out: Fd<'_>) -> zbus::Result<()>;
    /// See `bus::Service`.
    fn sync(&self, out: Fd<'_>) -> zbus::Result<()>;
    /// See `bus::Service`.
    fn rollback(&self, generation: u64, out: Fd<'_>) -> zbus::Result<()>;
    /// See `bus::Service`.
    fn retry(&self, commit: &str, out: Fd<'_>) -> zbus::Result<()>;
    /// See `bus::Service`.
    fn plan(&self, commit: &str, out: Fd<'_>) -> zbus::Result<()>;
    /// See `bus::Service`.
    fn diff(&self, generation: u64, out: Fd<'_>) -> zbus::Result<()>;
    /// See `bus::Service`.
    fn pause(&self, reason: &str, out: Fd<'_>) -> zbus::Result<()>;
    /// See `bus::Service`.
    fn resume(&self, out: Fd<'_>) -> zbus::Result<()>;
    /// See `bus::Service`.
    fn confirm(&self, out: Fd<'_>) -> zbus::Result<()>;
    /// See `bus::Service`.
    fn connected(&self, key: &str, ssh: &str, made_at: u64) -> zbus::Result<()>;
    /// See `bus::Service`.
    fn resolve(&self, path: &str, restore: bool, out: Fd<'_>) -> zbus::Result<()>;
    /// See `bus::Service`.
    fn status(&self) -> zbus::Result<String>;
    /// See `bus::Service`.
    fn history(&self) -> zbus::Result<String>;
}

/// How following ended.
#[derive(Debug)]
pub enum Followed {
    /// With the daemon's report.
    Report(Box<Report>),
    /// The daemon went away in the middle.
    Lost,
    /// The call itself failed.
    Failed(CallError),
}

/// Why a call failed.
#[derive(Debug)]
pub struct CallError {
    /// One sentence with the remedy.
    pub message: String,
    /// Exit code: 3 not reachable, 4 not permitted, 2 wrong arguments.
    pub exit: u8,
}

impl CallError {
    fn of(error: &zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, detail, _) => Self::named(name.as_str(), detail.as_deref()),
            // The bus's own errors, which zbus tells apart from those of other services.
            zbus::Error::FDO(error) => match &**error {
                zbus::fdo::Error::ZBus(inner) => Self::of(inner),
                error => Self::named(error.name().as_str(), error.description()),
            },
            other => unreachable(&other.to_string()),
        }
    }

    fn named(name: &str, detail: Option<&str>) -> Self {
        let detail = detail.filter(|d| !d.is_empty()).unwrap_or(name);
        match name.strip_prefix("org.freedesktop.DBus.Error.") {
            Some("AccessDenied") => Self { message: detail.to_owned(), exit: 4 },
            Some("ServiceUnknown" | "NameHasNoOwner") => Self {
                message: "the daemon is not running: systemctl status reconciled; journalctl -u reconciled".to_owned(),
                exit: 3,
            },
            Some("NoReply" | "Timeout" | "TimedOut" | "Disconnected") => unreachable(detail),
            _ => Self { message: detail.to_owned(), exit: 1 },
        }
    }
}

/// Orders something and tells what happens until it is over.
pub fn follow(
    tell: &mut dyn FnMut(&Progress),
    order: impl AsyncFnOnce(&ManagerProxy<'static>, Fd<'static>) -> zbus::Result<()>,
) -> Followed {
    let ended = block_on(async {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| unreachable(&e.to_string()))?;
        let manager = connect().await?;
        order(&manager, Fd::from(write)).await.map_err(|e| CallError::of(&e))?;
        let read = pipe::Receiver::from_owned_fd(read).map_err(|e| unreachable(&e.to_string()))?;
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(progress) = serde_json::from_str::<Progress>(&line) else { continue };
            tell(&progress);
            if let Progress::Done { report } = progress {
                return Ok(Some(report));
            }
        }
        Ok(None)
    });
    match ended {
        Ok(Some(report)) => Followed::Report(Box::new(report)),
        Ok(None) => Followed::Lost,
        Err(error) => Followed::Failed(error),
    }
}

/// Asks something that is answered at once.
///
/// # Errors
/// Why the daemon did not answer.
pub fn ask(question: impl AsyncFnOnce(&ManagerProxy<'static>) -> zbus::Result<String>) -> Result<String, CallError> {
    block_on(async {
        let manager = connect().await?;
        question(&manager).await.map_err(|e| CallError::of(&e))
    })
}

async fn connect() -> Result<ManagerProxy<'static>, CallError> {
    let connection = zbus::connection::Builder::system().method_timeout(CALL_LIMIT).build().await;
    let connection: Connection = connection.map_err(|e| unreachable(&e.to_string()))?;
    ManagerProxy::new(&connection).await.map_err(|e| CallError::of(&e))
}

fn unreachable(why: &str) -> CallError {
    CallError { message: format!("the daemon cannot be reached: {why}"), exit: 3 }
}

fn block_on<T>(future: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => Err(unreachable(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use zbus::fdo;

    use super::CallError;

    #[test]
    fn what_the_bus_says_has_its_exit_code() {
        for (error, exit, said) in [
            (fdo::Error::AccessDenied("anna may not do this".to_owned()), 4, "anna may not do this"),
            (fdo::Error::ServiceUnknown("The name is not activatable".to_owned()), 3, "systemctl status reconciled"),
            (fdo::Error::NoReply("no answer".to_owned()), 3, "cannot be reached"),
            (fdo::Error::Failed("no".to_owned()), 1, "no"),
        ] {
            let error = CallError::of(&zbus::Error::FDO(Box::new(error)));
            assert!(error.exit == exit && error.message.contains(said), "{error:?}");
        }
    }
}
