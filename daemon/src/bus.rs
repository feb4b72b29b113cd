//! The D-Bus service `org.reconciled1`: checks who calls, hands tasks to the desk, answers from what the engine has
//! published. No logic that the engine lacks.
//!
//! Whoever orders something gives the write end of a pipe; what happens is told through it, one JSON line each, the last
//! one being the report. A caller that goes away loses only the telling.

use std::collections::HashMap;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use zbus::message::Header;
use zbus::{Connection, OwnedFd, fdo};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use crate::cycle::Order;
use crate::desk::{Desk, Task};
use crate::lifeline::connection::Waiting;
use crate::policy::Right;
use crate::report::Progress;
use crate::source::GIT_USER;
use crate::tasks::Published;

/// Well-known name of the service.
pub const NAME: &str = "org.reconciled1";
/// The service's only object.
pub const PATH: &str = "/org/reconciled1";
/// Two addresses and two ports, in bytes.
const LONGEST_CONNECTION: usize = 256;
/// A follower that takes nothing for this long is dropped.
const STALL: Duration = Duration::from_secs(30);

/// The object behind the service.
#[derive(Debug)]
pub struct Service {
    /// Where tasks go.
    pub desk: Desk,
    /// Where answers come from.
    pub published: watch::Receiver<Published>,
    /// How many callers are still being told something.
    pub following: watch::Sender<usize>,
    /// What a new connection confirms.
    pub waiting: watch::Receiver<Option<Waiting>>,
}

#[zbus::interface(name = "org.reconciled1.Manager")]
impl Service {
    /// A pushed revision, from the git hook. `kind` is `deploy` or `preview`, `right` the key's.
    #[allow(clippy::too_many_arguments, reason = "the D-Bus method's arguments, and who calls")]
    async fn submit(
        &self,
        kind: &str,
        commit: &str,
        key: &str,
        right: &str,
        out: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        let caller = Caller::of(&header, connection).await?;
        if caller.uid != 0 && caller.name != GIT_USER {
            return Err(fdo::Error::AccessDenied("only the git hook may submit".to_owned()));
        }
        if commit.len() != 40 || !commit.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(fdo::Error::InvalidArgs("a commit id has 40 hexadecimal digits".to_owned()));
        }
        let (commit, actor) = (commit.to_owned(), crate::path::escape(key));
        let right = if right == "deploy" { Right::Deploy } else { Right::Preview };
        let order = match kind {
            "deploy" => Order::Deploy { commit, actor, right },
            "preview" => Order::Preview { commit, actor, right },
            _ => return Err(fdo::Error::InvalidArgs("kind is deploy or preview".to_owned())),
        };
        self.hand_in(Task::Order(order), out)
    }

    /// One full cycle now: remotes are fetched, drift is repaired.
    async fn sync(
        &self,
        out: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        let actor = authorised(&header, connection, "sync").await?;
        self.hand_in(Task::Sync { actor }, out)
    }

    /// A generation comes back.
    async fn rollback(
        &self,
        generation: u64,
        out: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        let actor = authorised(&header, connection, "rollback").await?;
        self.hand_in(Task::Order(Order::Rollback { generation, actor }), out)
    }

    /// A held revision is tried again; the newest one when `commit` is empty.
    async fn retry(
        &self,
        commit: &str,
        out: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        let actor = authorised(&header, connection, "retry").await?;
        self.hand_in(Task::Retry { commit: commit.to_owned(), actor }, out)
    }

    /// Plans and rehearses a revision that is in the repository.
    async fn plan(
        &self,
        commit: &str,
        out: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        let actor = authorised(&header, connection, "sync").await?;
        self.hand_in(Task::Order(Order::Preview { commit: commit.to_owned(), actor, right: Right::Deploy }), out)
    }

    /// How the host differs from a generation; 0 is the live one.
    async fn diff(
        &self,
        generation: u64,
        out: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        let actor = authorised(&header, connection, "read").await?;
        self.hand_in(Task::Diff { generation: Some(generation).filter(|n| *n != 0), actor }, out)
    }

    /// Applies nothing until `Resume`.
    async fn pause(
        &self,
        reason: &str,
        out: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        let actor = authorised(&header, connection, "pause").await?;
        self.hand_in(Task::Pause { actor, reason: reason.to_owned() }, out)
    }

    /// Goes on.
    async fn resume(
        &self,
        out: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        let actor = authorised(&header, connection, "pause").await?;
        self.hand_in(Task::Resume { actor }, out)
    }

    /// A generation that waits for it is confirmed.
    async fn confirm(
        &self,
        out: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        let actor = authorised(&header, connection, "confirm").await?;
        // 0 is no generation: nothing waits.
        let generation = self.published.borrow().status.unconfirmed.as_ref().map_or(0, |waiting| waiting.generation);
        self.hand_in(Task::Confirm { actor, generation }, out)
    }

    /// A key has connected over SSH, from the forced command; `ssh` is sshd's `SSH_CONNECTION`, `made_at` when the connection was made, in
    /// milliseconds since the boot.
    async fn connected(
        &self,
        key: &str,
        ssh: &str,
        made_at: u64,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        let caller = Caller::of(&header, connection).await?;
        if caller.uid != 0 && caller.name != GIT_USER {
            return Err(fdo::Error::AccessDenied("only the forced command of a key may tell".to_owned()));
        }
        if ssh.is_empty() || ssh.len() > LONGEST_CONNECTION {
            return Err(fdo::Error::InvalidArgs("SSH_CONNECTION as sshd(8) has it".to_owned()));
        }
        let proven = self.waiting.borrow().filter(|waiting| Duration::from_millis(made_at) > waiting.since);
        if let Some(Waiting { generation, .. }) = proven.filter(|_| comes_from_elsewhere(ssh)) {
            drop(self.desk.submit(Task::Confirm { actor: crate::path::escape(key), generation }));
        }
        Ok(())
    }

    /// Ends what a stuck transaction left about a path.
    async fn resolve(
        &self,
        path: &str,
        restore: bool,
        out: OwnedFd,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        let actor = authorised(&header, connection, "resolve").await?;
        self.hand_in(Task::Resolve { path: path.to_owned(), restore, actor }, out)
    }

    /// How things stand, as JSON.
    async fn status(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<String> {
        authorised(&header, connection, "read").await?;
        to_json(&self.published.borrow().status)
    }

    /// Generations, newest first, as JSON.
    async fn history(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<String> {
        authorised(&header, connection, "read").await?;
        to_json(&self.published.borrow().history)
    }
}

/// Whether a connection (`CLIENT PORT SERVER PORT`) crosses the network: the host reaches itself in any case.
fn comes_from_elsewhere(ssh: &str) -> bool {
    let words: Vec<&str> = ssh.split(' ').collect();
    let is_loopback = |address: &str| address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    words.len() == 4 && words[0] != words[2] && !is_loopback(words[0])
}

impl Service {
    fn hand_in(&self, task: Task, out: OwnedFd) -> fdo::Result<()> {
        let sender =
            pipe::Sender::from_owned_fd(out.into()).map_err(|e| fdo::Error::InvalidArgs(format!("a pipe is wanted: {e}")))?;
        let (told, following) = (self.desk.submit(task), self.following.clone());
        following.send_modify(|n| *n += 1);
        tokio::spawn(async move {
            pump(told, sender).await;
            following.send_modify(|n| *n -= 1);
        });
        Ok(())
    }
}

fn to_json(value: &impl serde::Serialize) -> fdo::Result<String> {
    serde_json::to_string(value).map_err(|e| fdo::Error::Failed(e.to_string()))
}

/// Writes what is told into the follower's pipe until the report, or until nobody reads it any more.
async fn pump(mut told: UnboundedReceiver<Progress>, mut pipe: pipe::Sender) {
    while let Some(progress) = told.recv().await {
        let Ok(mut line) = serde_json::to_vec(&progress) else { return };
        line.push(b'\n');
        match tokio::time::timeout(STALL, pipe.write_all(&line)).await {
            Ok(Ok(())) if !matches!(progress, Progress::Done { .. }) => {}
            _ => return,
        }
    }
}

/// Who calls, as the kernel and the bus vouch for it.
struct Caller {
    uid: u32,
    name: String,
    gid: u32,
}

impl Caller {
    async fn of(header: &Header<'_>, connection: &Connection) -> fdo::Result<Self> {
        let sender = header.sender().ok_or_else(|| fdo::Error::AccessDenied("a caller without a name".to_owned()))?;
        let bus = fdo::DBusProxy::new(connection).await?;
        let uid = bus.get_connection_unix_user(sender.clone().into()).await?;
        let accounts = crate::host::linux::accounts().unwrap_or_default();
        let account = accounts.into_iter().find(|a| a.uid == uid);
        let gid = account.as_ref().map_or(u32::MAX, |a| a.gid);
        Ok(Self { uid, name: account.map_or_else(|| format!("uid {uid}"), |a| a.name), gid })
    }

    /// Members of the group `reconciled` may read.
    fn may_read(&self) -> bool {
        let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
        text.lines().any(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            fields.len() == 4
                && fields[0] == GIT_USER
                && (fields[2].parse() == Ok(self.gid) || fields[3].split(',').any(|member| member == self.name))
        })
    }
}

/// Lets the caller pass, or says why not: root always, readers by group, the rest by polkit; without polkitd nobody else.
async fn authorised(header: &Header<'_>, connection: &Connection, action: &str) -> fdo::Result<String> {
    let caller = Caller::of(header, connection).await?;
    if caller.uid == 0 || (action == "read" && caller.may_read()) {
        return Ok(caller.name);
    }
    let denied = |why: &str| fdo::Error::AccessDenied(format!("{} may not do this ({action}): {why}", caller.name));
    let ask = async {
        let authority = AuthorityProxy::new(connection).await?;
        let subject = Subject::new_for_message_header(header)?;
        let flags = CheckAuthorizationFlags::ALLOW_USER_INTERACTION;
        let action = format!("org.reconciled1.{action}");
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
            authority.check_authorization(&subject, &action, &HashMap::new(), flags, "").await?,
        )
    };
    match ask.await {
        Ok(answer) if answer.is_authorized => Ok(caller.name),
        Ok(_) if action == "read" => Err(denied("run it with sudo, or join the group reconciled")),
        Ok(_) => Err(denied("run it with sudo")),
        Err(_) => Err(denied("polkit cannot be asked; run it with sudo")),
    }
}
