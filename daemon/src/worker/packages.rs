//! The packages worker, `reconciled worker packages VERB -- NAME[=VERSION]…`: asks dpkg's database, and has apt install and remove. What
//! apt says goes to standard error; nobody is ever asked anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::process::{Command, ExitCode, Stdio};

use crate::packages::{LIMIT, Packages, STATUS};

/// What both tools need to be left alone with their work: no questions, no restarts by others, English words.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBIAN_PRIORITY", "critical"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
    ("NEEDRESTART_SUSPEND", "1"),
    ("LC_ALL", "C.UTF-8"),
    ("HOME", "/root"),
];
/// Options of every run of apt-get(8): conffiles stay as they are, and another run is waited for.
const OPTIONS: [&str; 10] = [
    "-y",
    "-q",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "DPkg::Lock::Timeout=300",
    "-o",
    "APT::Get::Assume-Yes=true",
];

/// The verb's body.
#[must_use]
pub fn main(arguments: &[&str]) -> ExitCode {
    let result = match arguments {
        ["ask", "--", names @ ..] => ask(names),
        ["install", "--", names @ ..] => install(names),
        ["remove", "--", names @ ..] => remove(names),
        ["undo", "--", names @ ..] => undo(names),
        _ => Err(io::Error::other("which packages?")),
    };
    super::ended(result)
}

/// One line for each name.
fn ask(names: &[&str]) -> io::Result<()> {
    let packages = read()?;
    names.iter().for_each(|name| println!("{}", packages.answer(name)));
    Ok(())
}

fn install(names: &[&str]) -> io::Result<()> {
    mend()?;
    let mut words = vec!["install", "--allow-downgrades", "--"];
    words.extend(names);
    // Lists that were never fetched, or are too old for what they name.
    if has_lists() && apt(&words).is_ok() {
        return Ok(());
    }
    apt(&["update"])?;
    apt(&words)
}

fn remove(names: &[&str]) -> io::Result<()> {
    mend()?;
    let mut words = vec!["remove", "--"];
    words.extend(names.iter().map(|name| name_of(name)));
    apt(&words)
}

/// Takes an installation back: what it brought goes, with its configuration; what had left only its configuration before has that again. What
/// somebody has installed by hand meanwhile stays.
fn undo(names: &[&str]) -> io::Result<()> {
    let mut census = Vec::new();
    io::stdin().lock().take(LIMIT).read_to_end(&mut census)?;
    let census: BTreeMap<String, String> = serde_json::from_slice(&census)?;
    // What is half configured may be what failed: it goes all the same.
    let _ = mend();
    let automatic = run(Command::new("/usr/bin/apt-mark").arg("showauto").stdout(Stdio::piped()))?;
    let ours: BTreeSet<&str> = names.iter().map(|name| name_of(name)).chain(automatic.lines()).collect();
    let packages = read()?;
    let added = packages.added_since(&census);
    let (mut purge, mut leave): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for (name, had_configuration) in added.into_iter().filter(|(name, _)| ours.contains(name)) {
        if had_configuration { leave.push(name) } else { purge.push(name) }
    }
    for (verb, names) in [("purge", purge), ("remove", leave)] {
        let goes = going(verb, &names)?;
        let ours: Vec<&str> = names.iter().copied().filter(|name| goes.contains(*name)).collect();
        if !ours.is_empty() {
            let mut words = vec![verb, "--"];
            words.extend(&ours);
            apt(&words)?;
        }
    }
    Ok(())
}

/// Which of these can go without anything else: others may have come to need them meanwhile.
fn going(verb: &str, names: &[&str]) -> io::Result<BTreeSet<String>> {
    let mut going: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    loop {
        if going.is_empty() {
            return Ok(going);
        }
        let mut command = apt_get(&["-s", verb, "--"]);
        command.args(&going).stdout(Stdio::piped());
        // `Purg nginx [1.22.1-9]`, `Remv …` (apt-get(8), --simulate).
        let said = run(&mut command)?;
        let gone = said.lines().filter_map(|line| line.strip_prefix("Remv ").or_else(|| line.strip_prefix("Purg ")));
        let others: BTreeSet<String> =
            gone.filter_map(|rest| rest.split(' ').next()).filter(|name| !going.contains(*name)).map(str::to_owned).collect();
        if others.is_empty() {
            return Ok(going);
        }
        let needed = needed_by(&others)?;
        let before = going.len();
        going.retain(|name| !needed.contains(name));
        if going.len() == before {
            let others: Vec<String> = others.into_iter().collect();
            return Err(io::Error::other(format!("{} would go too: remove by hand what is not wanted", others.join(", "))));
        }
    }
}

/// Everything that these packages need.
fn needed_by(names: &BTreeSet<String>) -> io::Result<BTreeSet<String>> {
    let mut command = Command::new("/usr/bin/apt-cache");
    command.args(["depends", "--recurse", "--installed", "--no-recommends", "--no-suggests", "--no-enhances", "--"]);
    let said = run(command.args(names).stdout(Stdio::piped()))?;
    Ok(said.lines().filter(|line| !line.starts_with(' ')).map(str::to_owned).collect())
}

/// Ends what an interrupted run has left half-way (dpkg(1), `--audit`).
fn mend() -> io::Result<()> {
    let torn = run(Command::new("/usr/bin/dpkg").arg("--audit").stdout(Stdio::piped()))?;
    if torn.trim().is_empty() {
        return Ok(());
    }
    eprintln!("dpkg was interrupted, or has packages left to configure: that first");
    run(Command::new("/usr/bin/dpkg").args(["--force-confdef", "--force-confold", "--configure", "-a"])).map(drop)
}

fn has_lists() -> bool {
    let lists = std::fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    lists.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

fn read() -> io::Result<Packages> {
    let mut text = Vec::new();
    std::fs::File::open(STATUS)?.take(LIMIT).read_to_end(&mut text)?;
    Ok(Packages::read(&String::from_utf8_lossy(&text)))
}

fn name_of(name: &str) -> &str {
    name.split('=').next().unwrap_or(name)
}

fn apt_get(words: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/apt-get");
    command.args(OPTIONS).args(words);
    command
}

fn apt(words: &[&str]) -> io::Result<()> {
    run(&mut apt_get(words)).map(drop)
}

/// Runs a program to its end; what it says goes to standard error, but for what is asked for with a pipe.
fn run(command: &mut Command) -> io::Result<String> {
    command.envs(ENVIRONMENT).stdin(Stdio::null());
    let program = command.get_program().to_string_lossy().into_owned();
    let first =
        command.get_args().find(|word| !word.to_string_lossy().starts_with('-')).map(|w| w.to_string_lossy().into_owned());
    let output = command.stderr(Stdio::inherit()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
    Err(io::Error::other(format!("{program} {}: {}", first.unwrap_or_default(), output.status)))
}
