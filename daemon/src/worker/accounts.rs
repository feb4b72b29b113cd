//! The accounts worker, `reconciled worker accounts VERB`: what is asked of a user or group stands on its standard input. Has the programs
//! of the host make, change and remove them; what they say goes to standard error.

mod home;

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::accounts::{
    Accounts, Fields, GROUP, GSHADOW, GroupRequest, LIMIT, NO_HOME, PASSWD, Password, Range, Removed, Request, SHADOW, SUBGID,
    SUBUID, Secret, UserRequest,
};

/// The exit code of userdel(8) for an account that processes run as.
const IN_USE: i32 = 8;
/// So often an account is removed again once its processes have been ended…
const TRIES: usize = 20;
/// …after so long each.
const PAUSE: Duration = Duration::from_millis(100);

/// The verb's body.
#[must_use]
pub fn main(arguments: &[&str]) -> ExitCode {
    let done = super::request::<Request>(LIMIT).and_then(|request| {
        match (arguments, &request) {
            (["ask"], _) => {}
            (["set"], Request::User(user)) => set_user(user)?,
            (["undo"], Request::User(user)) => undo_user(user)?,
            (["set"], Request::Group(group)) => set_group(group)?,
            (["undo"], Request::Group(group)) => undo_group(group)?,
            _ => return Err(io::Error::other("which accounts?")),
        }
        let accounts = databases()?;
        let mode = match &request {
            Request::User(user) if user.wanted.is_some() => mode_of_home(&accounts, &user.name)?,
            _ => None,
        };
        println!("{}", accounts.answer(&request, |_| mode));
        Ok(())
    });
    super::ended(done)
}

fn databases() -> io::Result<Accounts> {
    let read = |path: &str| -> io::Result<String> {
        let mut text = Vec::new();
        fs::File::open(path)?.take(LIMIT).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    // Not every host has these.
    let read_any = |path: &str| match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text,
    };
    Ok(Accounts::read(&read(PASSWD)?, &read(GROUP)?, &read(SHADOW)?).with(
        &read_any(GSHADOW)?,
        &read_any(SUBUID)?,
        &read_any(SUBGID)?,
    ))
}

/// The permission bits of an account's home, where both are there.
fn mode_of_home(accounts: &Accounts, name: &str) -> io::Result<Option<u32>> {
    accounts.user(name).map_or(Ok(None), |user| home::mode(&user.home))
}

fn set_user(request: &UserRequest) -> io::Result<()> {
    let there = databases()?.user(&request.name).is_some();
    match &request.wanted {
        None if there => run("/usr/sbin/userdel", &[&request.name]),
        None => Ok(()),
        Some(wanted) => {
            if !there {
                if wanted.housed == Some(true) {
                    home::judge(&request.home, wanted.uid)?;
                }
                make_user(request, wanted)?;
            }
            bring(&request.name, wanted, wanted)
        }
    }
}

fn make_user(request: &UserRequest, wanted: &Fields) -> io::Result<()> {
    let uid = wanted.uid.map(|uid| uid.to_string());
    let groups = wanted.groups.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(",");
    let mut words = vec!["--home-dir", &request.home, "--shell", &request.shell];
    words.push(if wanted.housed == Some(true) { "--create-home" } else { "--no-create-home" });
    if request.system {
        words.push("--system");
    }
    match &wanted.group {
        Some(group) if *group != request.name => words.extend(["--gid", group]),
        _ if databases()?.group(&request.name).is_some() => words.extend(["--gid", &request.name]),
        _ => words.push("--user-group"),
    }
    for (option, value) in [("--uid", uid.as_deref()), ("--comment", wanted.comment.as_deref())] {
        words.extend(value.map(|value| [option, value]).into_iter().flatten());
    }
    if !groups.is_empty() {
        words.extend(["--groups", &groups]);
    }
    words.push(&request.name);
    run("/usr/sbin/useradd", &words)
}

/// Brings the fields of an account that are declared to what they are `to` be.
fn bring(name: &str, declared: &Fields, to: &Fields) -> io::Result<()> {
    let accounts = databases()?;
    let gone = || io::Error::other(format!("{name} is gone"));
    let mode = mode_of_home(&accounts, name)?;
    let now = accounts.managed(name, declared, |_| mode).ok_or_else(gone)?;
    let uid = to.uid.filter(|_| now.uid != to.uid).map(|uid| uid.to_string());
    let mut words = Vec::new();
    words.extend(uid.as_ref().map(|uid| ["--uid", uid]).into_iter().flatten());
    for (option, now, to) in [
        ("--gid", &now.group, &to.group),
        ("--home", &now.home, &to.home),
        ("--shell", &now.shell, &to.shell),
        ("--comment", &now.comment, &to.comment),
    ] {
        words.extend(to.as_ref().filter(|_| now != to).map(|to| [option, to.as_str()]).into_iter().flatten());
    }
    if !words.is_empty() {
        words.push(name);
        run("/usr/sbin/usermod", &words)?;
    }
    let (have, want) = (now.groups.unwrap_or_default(), to.groups.clone().unwrap_or_default());
    for group in want.difference(&have) {
        run("/usr/sbin/usermod", &["--append", "--groups", group, name])?;
    }
    for group in have.difference(&want) {
        run("/usr/bin/gpasswd", &["--delete", name, group])?;
    }
    match (now.password, to.password) {
        (now, to) if now == to => {}
        (_, Some(Password::Locked)) => run("/usr/sbin/usermod", &["--lock", name])?,
        (_, Some(Password::Set)) => run("/usr/sbin/usermod", &["--unlock", name])?,
        (_, Some(Password::Empty)) => run("/usr/bin/passwd", &["--delete", name])?,
        (_, None) => {}
    }
    let accounts = databases()?;
    let user = accounts.user(name).ok_or_else(gone)?;
    if user.home == NO_HOME {
        return Ok(());
    }
    if to.housed == Some(true) && home::mode(&user.home)?.is_none() {
        home::make(&user.home, user.uid, user.gid)?;
    }
    match (to.home_mode, home::mode(&user.home)?) {
        (Some(to), Some(now)) if to != now && to != 0 => home::set_mode(&user.home, user.uid, to),
        _ => Ok(()),
    }
}

fn undo_user(request: &UserRequest) -> io::Result<()> {
    let name = &request.name;
    match (&request.wanted, &request.before) {
        (None, None) => Ok(()),
        (None, Some(_)) => request.removed.as_ref().map_or(Ok(()), |removed| bring_back(name, removed)),
        (Some(wanted), Some(before)) => {
            bring(name, wanted, before)?;
            if wanted.housed == Some(true) { clear(request) } else { Ok(()) }
        }
        (Some(_), None) => {
            if databases()?.user(name).is_some() {
                remove_made(name)?;
            }
            if request.fresh_group && databases()?.group(name).is_some() {
                run("/usr/sbin/groupdel", &[name])?;
            }
            clear(request)
        }
    }
}

/// Removes an account that this transaction has made; what runs as it has no right to stay.
fn remove_made(name: &str) -> io::Result<()> {
    for _ in 0..TRIES {
        let status = ended("/usr/sbin/userdel", &[name], b"")?;
        if status.code() != Some(IN_USE) {
            return judged("/usr/sbin/userdel", status);
        }
        if let Some(user) = databases()?.user(name) {
            end_processes(user.uid)?;
        }
        thread::sleep(PAUSE);
    }
    Err(io::Error::other(format!("processes of {name} do not end")))
}

/// Ends all that runs as a user (proc_pid_status(5): real, effective, saved and file system ids). In a container the same number is
/// somebody else.
fn end_processes(uid: u32) -> io::Result<()> {
    let uid = uid.to_string();
    let ours = surroundings(Path::new("/proc/self"))?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else { continue };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        if ids.split_ascii_whitespace().any(|id| id == uid) && surroundings(&entry.path()).is_ok_and(|its| its == ours) {
            // One that has ended meanwhile is no matter.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    Ok(())
}

/// What makes a process one of this host: its users (user_namespaces(7)) and its root directory, as userdel(8) has it.
fn surroundings(process: &Path) -> io::Result<(u64, u64, u64)> {
    let (users, root) = (fs::metadata(process.join("ns/user"))?, fs::metadata(process.join("root"))?);
    Ok((users.ino(), root.dev(), root.ino()))
}

/// Removes what was not there before the account or its new home: the home with all that is in it, directories above it unless others use
/// them now, its mailbox.
fn clear(request: &UserRequest) -> io::Result<()> {
    request.fresh.iter().rev().try_for_each(|path| home::clear(path, *path == request.home))
}

/// Makes an account anew that was removed, as it was.
fn bring_back(name: &str, was: &Removed) -> io::Result<()> {
    let accounts = databases()?;
    let (uid, gid) = (was.uid.to_string(), was.gid.to_string());
    if let Some(group) = was.group.as_ref().filter(|group| accounts.group(group).is_none()) {
        run("/usr/sbin/groupadd", &["--gid", &gid, group])?;
    }
    if accounts.user(name).is_none() {
        let words = ["--no-create-home", "--uid", &uid, "--gid", &gid, "--home-dir", &was.home];
        run("/usr/sbin/useradd", &[&words[..], &["--shell", &was.shell, "--comment", &was.comment, name]].concat())?;
    }
    for group in was.groups.iter().filter(|group| accounts.group(group).is_some()) {
        run("/usr/sbin/usermod", &["--append", "--groups", group, name])?;
    }
    bring_back_ids(name, was)?;
    if let (Some(group), Some(secret)) = (&was.group, &was.group_secret) {
        bring_back_secret(group, secret)?;
    }
    for group in &was.administers {
        let accounts = databases()?;
        let Some(secret) = accounts.secret(group).map(Secret::of).filter(|secret| !secret.admins.contains(&name)) else {
            continue;
        };
        run("/usr/bin/gpasswd", &["--administrators", &[&secret.admins[..], &[name]].concat().join(","), group])?;
    }
    let Some(shadow) = &was.shadow else { return Ok(()) };
    let mut fields = shadow.split(':');
    let password = format!("{name}:{}\n", fields.next().unwrap_or_default());
    judged("/usr/sbin/chpasswd", ended("/usr/sbin/chpasswd", &["--encrypted"], password.as_bytes())?)?;
    let mut words = Vec::new();
    for option in ["--lastday", "--mindays", "--maxdays", "--warndays", "--inactive", "--expiredate"] {
        // One that is not set is -1 (chage(1)).
        words.extend([option, fields.next().filter(|field| !field.is_empty()).unwrap_or("-1")]);
    }
    words.push(name);
    run("/usr/bin/chage", &words)
}

/// Its subordinate ids: a new account is given others.
fn bring_back_ids(name: &str, was: &Removed) -> io::Result<()> {
    let now = databases()?.all_of(name).unwrap_or_default();
    let text = |(first, last): &Range| format!("{first}-{last}");
    for (add, del, now, was) in [
        ("--add-subuids", "--del-subuids", &now.subuids, &was.subuids),
        ("--add-subgids", "--del-subgids", &now.subgids, &was.subgids),
    ] {
        now.difference(was).try_for_each(|range| run("/usr/sbin/usermod", &[del, &text(range), name]))?;
        was.difference(now).try_for_each(|range| run("/usr/sbin/usermod", &[add, &text(range), name]))?;
    }
    Ok(())
}

/// The password and the administrators of a group that is made anew.
fn bring_back_secret(group: &str, was: &str) -> io::Result<()> {
    let (accounts, was) = (databases()?, Secret::of(was));
    let Some(now) = accounts.secret(group).map(Secret::of) else { return Ok(()) };
    if now.password != was.password {
        let line = format!("{group}:{}\n", was.password);
        judged("/usr/sbin/chgpasswd", ended("/usr/sbin/chgpasswd", &["--encrypted"], line.as_bytes())?)?;
    }
    // Those who are still to come back see to it themselves.
    let admins: Vec<&str> = was.admins.iter().copied().filter(|admin| accounts.user(admin).is_some()).collect();
    if now.admins != admins {
        run("/usr/bin/gpasswd", &["--administrators", &admins.join(","), group])?;
    }
    Ok(())
}

fn set_group(request: &GroupRequest) -> io::Result<()> {
    let name = request.name.as_str();
    let gid = request.gid.map(|gid| gid.to_string());
    match (databases()?.group(name), request.present) {
        (None, false) => Ok(()),
        (Some(_), false) => run("/usr/sbin/groupdel", &[name]),
        (None, true) => {
            let mut words = Vec::new();
            words.extend(request.system.then_some("--system"));
            words.extend(gid.iter().flat_map(|gid| ["--gid", gid]));
            words.push(name);
            run("/usr/sbin/groupadd", &words)
        }
        (Some(now), true) => match &gid {
            Some(gid) if request.gid != Some(now.gid) => run("/usr/sbin/groupmod", &["--gid", gid, name]),
            _ => Ok(()),
        },
    }
}

fn undo_group(request: &GroupRequest) -> io::Result<()> {
    let name = request.name.as_str();
    let there = databases()?.group(name).map(|group| group.gid);
    match (there, &request.before) {
        (None, None) => Ok(()),
        (Some(_), None) => run("/usr/sbin/groupdel", &[name]),
        (now, Some((gid, members))) => {
            let id = gid.to_string();
            match now {
                None => run("/usr/sbin/groupadd", &["--gid", &id, name])?,
                Some(now) if now != *gid => run("/usr/sbin/groupmod", &["--gid", &id, name])?,
                Some(_) => {}
            }
            if request.present {
                return Ok(());
            }
            let accounts = databases()?;
            let members: Vec<&str> = members.iter().map(String::as_str).filter(|name| accounts.user(name).is_some()).collect();
            run("/usr/bin/gpasswd", &["--members", &members.join(","), name])?;
            request.secret.as_ref().map_or(Ok(()), |secret| bring_back_secret(name, secret))
        }
    }
}

/// Runs a program to its end.
fn run(program: &str, words: &[&str]) -> io::Result<()> {
    judged(program, ended(program, words, b"")?)
}

fn ended(program: &str, words: &[&str], input: &[u8]) -> io::Result<ExitStatus> {
    let failed = |error: io::Error| io::Error::other(format!("{program}: {error}"));
    let mut command = Command::new(program);
    command.args(words).env("LC_ALL", "C.UTF-8").stdin(Stdio::piped()).stdout(io::stderr());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // Who does not read it says so by how it ends.
        let _ = pipe.write_all(input);
    }
    child.wait().map_err(failed)
}

fn judged(program: &str, status: ExitStatus) -> io::Result<()> {
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{program}: {status}"))) }
}
