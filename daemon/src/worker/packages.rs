//! The packages worker, `reconciled worker packages VERB -- NAME[=VERSION]…`: asks dpkg's database, and has apt install, remove and take
//! back. What apt says goes to standard error; nobody is ever asked anything.

mod apt;
mod record;
mod traces;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::process::ExitCode;
use std::sync::Once;

use apt::{apt, simulate, tell};
use record::Record;

use crate::packages::{LIMIT, Packages, Request, UPDATES};

/// A version may be lower than the one that is there: it is asked for by name.
const INSTALL: [&str; 3] = ["install", "--allow-downgrades", "--"];
/// The same where nothing may come that was not there.
const RESTORE: [&str; 4] = ["install", "--allow-downgrades", "--no-install-recommends", "--"];

/// What came with the plan may go with it, whatever it says of itself: what is essential is installed with anything.
const ESSENTIAL: &str = "--allow-remove-essential";

/// The verb's body.
#[must_use]
pub fn main(arguments: &[&str]) -> ExitCode {
    let result = match arguments {
        ["ask", "--", names @ ..] => ask(names),
        ["install", "--", names @ ..] => request().and_then(|request| install(names, &request)),
        ["remove", "--", names @ ..] => request().and_then(|request| remove(names, &request)),
        ["undo", "--", names @ ..] => request().and_then(|request| undo(names, &request)),
        _ => Err(io::Error::other("which packages?")),
    };
    super::ended(result)
}

fn request() -> io::Result<Request> {
    super::request(LIMIT)
}

/// One line for each name.
fn ask(names: &[&str]) -> io::Result<()> {
    let packages = read()?;
    names.iter().for_each(|name| println!("{}", packages.answer(name)));
    Ok(())
}

fn install(names: &[&str], request: &Request) -> io::Result<()> {
    apt::mend()?;
    let bare: Vec<&str> = names.iter().map(|name| name_of(name)).collect();
    let words = [&INSTALL[..], names].concat();
    let once = || {
        apt::know(&bare)?;
        act(&words, &[], request, |others| format!("{others} would have to go for it: declare that absent, or drop one of both"))
    };
    // Lists that were never fetched, or are too old for what they name.
    let first = if apt::has_lists() { once() } else { Err(io::Error::other("apt has no lists of packages")) };
    let Err(first) = first else { return Ok(()) };
    match apt::update() {
        Ok(()) => once(),
        // One source out of order is no reason to do without the others.
        Err(error) => once().map_err(|then| {
            let why = if apt::has_lists() { then } else { first };
            io::Error::other(format!("{error}\n{why}"))
        }),
    }
}

fn remove(names: &[&str], request: &Request) -> io::Result<()> {
    apt::mend()?;
    let words = [&["remove", "--"][..], names].concat();
    act(&words, names, request, |others| {
        format!("{others} would go too, which needs it: declare that absent as well, or drop this")
    })
}

/// Has apt do something, unless more would go than these and what is declared absent; what is about to change is noted before.
fn act(words: &[&str], going: &[&str], request: &Request, refusal: impl Fn(&str) -> String) -> io::Result<()> {
    apt::wait();
    let effect = simulate(words)?;
    let is_meant = |name: &&String| going.contains(&name.as_str()) || request.absent.contains(*name);
    let others: Vec<&str> = effect.goes.iter().filter(|name| !is_meant(name)).map(String::as_str).collect();
    if !others.is_empty() {
        return Err(io::Error::other(refusal(&others.join(", "))));
    }
    Record::note(request, &effect, &read()?, &apt::automatic()?)?;
    apt(words)
}

/// Takes back all that was installed, changed and removed for a plan. What somebody has installed by hand meanwhile stays.
fn undo(names: &[&str], request: &Request) -> io::Result<()> {
    // What was never noted was never begun, or is taken back.
    let Some(record) = Record::read(request)? else { return Ok(()) };
    // What is half configured may be what failed: it goes all the same.
    let _ = apt::mend();
    let missing = restore(names, &record)?;
    take_away(&record)?;
    let packages = read()?;
    let automatic = record.packages.iter().filter(|(name, was)| {
        was.is_installed() && was.automatic && packages.package(name).is_some_and(|package| package.is_there())
    });
    apt::mark_automatic(&automatic.map(|(name, _)| name.as_str()).collect::<Vec<_>>())?;
    if !missing.is_empty() {
        return Err(io::Error::other(format!("{}: in no source any more, and cannot be brought back", missing.join(", "))));
    }
    record.forget()
}

/// Brings back what has gone, and the versions that were there. Returns what is asked for and is nowhere to be had.
fn restore(names: &[&str], record: &Record) -> io::Result<Vec<String>> {
    let packages = read()?;
    let (mut gone, mut changed, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for (name, was) in record.packages.iter().filter(|(_, was)| was.is_installed()) {
        let is_named = names.iter().any(|wanted| wanted.split_once('=').is_some_and(|(wanted, _)| wanted == name));
        match packages.package(name).filter(|package| package.is_there()) {
            Some(package) if package.version == was.version => {}
            now if available(name, &was.version)? => {
                let list = if now.is_none() || is_named { &mut gone } else { &mut changed };
                list.push(format!("{name}={}", was.version));
            }
            _ if is_named => missing.push(format!("{name} {}", was.version)),
            Some(_) => tell(&format!("{name} stays in its new version: {} is in no source any more", was.version)),
            None => {
                tell(&format!("{name} comes back in another version: {} is in no source any more", was.version));
                gone.push(name.clone());
            }
        }
    }
    let all: Vec<&str> = gone.iter().chain(&changed).map(String::as_str).collect();
    if all.is_empty() || bring_back(&all, record).is_ok() {
        return Ok(missing);
    }
    if !changed.is_empty() {
        tell(&format!("{} cannot be brought back", changed.join(", ")));
    }
    if !gone.is_empty() {
        bring_back(&gone.iter().map(String::as_str).collect::<Vec<_>>(), record)?;
    }
    Ok(missing)
}

/// Whether a source has a version, with fresh lists if need be.
fn available(name: &str, version: &str) -> io::Result<bool> {
    static FRESH: Once = Once::new();
    if apt::has(name, version)? {
        return Ok(true);
    }
    // Without a way to the sources what is known has to do.
    FRESH.call_once(|| drop(apt::update()));
    apt::has(name, version)
}

/// Installs these; what this plan has brought may go for them, and nothing else.
fn bring_back(wanted: &[&str], record: &Record) -> io::Result<()> {
    apt::wait();
    let words = [&RESTORE[..], wanted].concat();
    let is_ours = |name: &&String| record.packages.get(*name).is_some_and(|was| !was.is_installed());
    let others: Vec<String> = simulate(&words)?.goes.into_iter().filter(|name| !is_ours(&name)).collect();
    if others.is_empty() { apt(&words) } else { Err(io::Error::other(format!("{} would have to go", others.join(", ")))) }
}

/// Removes what has come; with its configuration and data, unless some of that may have been there before.
fn take_away(record: &Record) -> io::Result<()> {
    apt::wait();
    let packages = read()?;
    let is_new = |was: &record::Was| matches!(was.status.as_deref(), None | Some("config-files"));
    let mut there = BTreeSet::new();
    let mut purged = BTreeSet::new();
    for (name, was) in record.packages.iter().filter(|(_, was)| is_new(was)) {
        let Some(package) = packages.package(name).filter(|package| !package.is_unknown()) else { continue };
        if package.is_there() {
            there.insert(name.clone());
        }
        if was.status.is_some() {
            continue;
        }
        let bare = name.split(':').next().unwrap_or(name);
        let why = match traces::script(bare, &package.architecture)? {
            Some(script) => record.traces.of(&package.conffiles, &script),
            None => Some("its script is no text".to_owned()),
        };
        match why {
            None => drop(purged.insert(name.clone())),
            Some(why) => tell(&format!("{name} is removed, and its configuration and data stay: {why}")),
        }
    }
    let goes = going(there.clone())?;
    let goes: Vec<&str> = goes.iter().map(String::as_str).collect();
    if !goes.is_empty() {
        let verb = if goes.iter().all(|name| purged.contains(*name)) { "purge" } else { "remove" };
        apt(&[&[verb, ESSENTIAL, "--"][..], &goes].concat())?;
    }
    apt::wait();
    let packages = read()?;
    let is_left = |name: &&str| packages.package(name).is_some_and(|package| !package.is_unknown() && !package.is_there());
    let left: Vec<&str> = purged.iter().map(String::as_str).filter(is_left).collect();
    if left.is_empty() { Ok(()) } else { apt(&[&["purge", ESSENTIAL, "--"][..], &left].concat()) }
}

/// Which of these can go without anything else: others may have come to need them meanwhile.
fn going(mut going: BTreeSet<String>) -> io::Result<BTreeSet<String>> {
    loop {
        if going.is_empty() {
            return Ok(going);
        }
        let words: Vec<&str> = ["remove", ESSENTIAL, "--"].into_iter().chain(going.iter().map(String::as_str)).collect();
        let others: BTreeSet<String> = simulate(&words)?.goes.difference(&going).cloned().collect();
        if others.is_empty() {
            return Ok(going);
        }
        let needed = apt::needed_by(&others)?;
        let before = going.len();
        going.retain(|name| !needed.contains(name));
        if going.len() == before {
            let others: Vec<String> = others.into_iter().collect();
            return Err(io::Error::other(format!("{} would go too: remove by hand what is not wanted", others.join(", "))));
        }
    }
}

fn read() -> io::Result<Packages> {
    let list = || -> io::Result<Vec<String>> {
        let names = fs::read_dir(UPDATES)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    };
    Packages::gather(list, |path| {
        let mut text = Vec::new();
        fs::File::open(path)?.take(LIMIT).read_to_end(&mut text)?;
        Ok(text)
    })
}

fn name_of(name: &str) -> &str {
    name.split('=').next().unwrap_or(name)
}
