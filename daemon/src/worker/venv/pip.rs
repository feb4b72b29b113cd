//! What an environment is filled with, by pip. Python's own way (`python -m venv`, then `pip install`) compiles pip, and then everything one
//! file after the other; here all cores compile what will be run, and where nobody could want another pip, one run installs it with the rest.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::run;
use crate::venv::Request;

/// Debian's Python, whose `ensurepip` installs the wheels in [`WHEELS`] (package python3-pip-whl).
const PYTHON: &str = "/usr/bin/python3";
/// Where Debian keeps them.
const WHEELS: &str = "/usr/share/python-wheels";
/// The first Python 3 whose environments come without setuptools (What's New In Python 3.12).
const WITHOUT_SETUPTOOLS: u32 = 12;
/// What only whoever runs pip by hand needs compiled, and has compiled by that.
const NOT_COMPILED: &str = "/site-packages/pip/";
/// What pip says of requirements that nothing meets together.
const CONFLICT: &str = "ResolutionImpossible";

/// Makes an environment in a folder, with what a file of requirements names.
pub(super) fn install(request: &Request, folder: &Path, file: &Path) -> io::Result<()> {
    let python = folder.join("bin/python");
    if request.requirements.is_empty() {
        return make(request, folder, &[]);
    }
    let real = |path: &str| fs::canonicalize(path).unwrap_or_default();
    let interpreter = real(&request.interpreter);
    let wheels = if interpreter == real(PYTHON) { wheels(&interpreter, Path::new(WHEELS)) } else { Vec::new() };
    if let [pip, ..] = wheels.as_slice() {
        make(request, folder, &["--without-pip"])?;
        // Run from its wheel, as ensurepip does it.
        let pip = || {
            let mut command = Command::new(&python);
            options(command.arg(pip.join("pip"))).args(&wheels);
            command
        };
        if wheels.len() == 1
            && request.requirements.lines().all(lets_pip_be)
            && !is_in_conflict(pip().arg("--requirement").arg(file))?
        {
            compile(&python, folder);
            return Ok(());
        }
        // What is there before gives way to what requirements want.
        run(pip().args(["--no-index", "--no-deps"]).env("PIP_CONFIG_FILE", "/dev/null"))?;
    } else {
        make(request, folder, &[])?;
    }
    let mut pip = Command::new(&python);
    options(pip.args(["-m", "pip"])).arg("--requirement").arg(file);
    if request.requirements.contains(" --hash=") {
        pip.arg("--require-hashes");
    }
    run(&mut pip)?;
    compile(&python, folder);
    Ok(())
}

fn make(request: &Request, folder: &Path, more: &[&str]) -> io::Result<()> {
    let name = Path::new(&request.path).file_name().unwrap_or_default();
    run(Command::new(&request.interpreter).args(["-m", "venv", "--prompt"]).arg(name).args(more).arg(folder))
}

fn options(pip: &mut Command) -> &mut Command {
    pip.args(["install", "--no-compile", "--no-input", "--disable-pip-version-check", "--no-warn-script-location"]);
    pip.args(["--progress-bar", "off"]).env("PIP_ROOT_USER_ACTION", "ignore")
}

/// Runs pip, whose words are passed on as they come; whether it ended in a conflict of requirements. Any other bad end is an error.
fn is_in_conflict(pip: &mut Command) -> io::Result<bool> {
    let mut child = super::quiet(pip).stderr(Stdio::piped()).spawn()?;
    let mut does_conflict = false;
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line?;
            does_conflict |= String::from_utf8_lossy(&line).contains(CONFLICT);
            io::stderr().write_all(&[line.as_slice(), b"\n"].concat())?;
        }
    }
    let status = child.wait()?;
    match (status.success(), does_conflict) {
        (false, true) => Ok(true),
        (true, _) => Ok(false),
        (false, false) => Err(super::failed(pip, status)),
    }
}

/// As pip does it, but with all cores. What is no Python for this version is left, as pip leaves it.
fn compile(python: &Path, folder: &Path) {
    let mut compileall = Command::new(python);
    compileall.args(["-m", "compileall", "-qq", "-j", "0", "-x", NOT_COMPILED]).arg(folder.join("lib"));
    let _ = run(&mut compileall);
}

/// Whether a line of requirements neither wants another pip, nor needs a hash of this one, nor forbids wheels.
fn lets_pip_be(line: &str) -> bool {
    let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    !["pip", "--no-binary", "--require-hashes"].contains(&name.to_lowercase().as_str()) && !line.contains(" --hash=")
}

/// The wheels that an environment of Debian's Python begins with, pip's first; none where they are not what is expected.
fn wheels(interpreter: &Path, place: &Path) -> Vec<PathBuf> {
    let minor = interpreter.to_str().and_then(|real| real.strip_prefix("/usr/bin/python3.")).and_then(|minor| minor.parse().ok());
    let names = match minor {
        Some(minor) if WITHOUT_SETUPTOOLS <= minor => ["pip-"].as_slice(),
        Some(_) => &["pip-", "setuptools-"],
        None => return Vec::new(),
    };
    let find = |name: &&str| {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let mut found = entries.map(|entry| entry.path()).filter(|wheel| {
            let file = wheel.file_name().and_then(|file| file.to_str()).unwrap_or_default();
            file.starts_with(name) && file.ends_with("-none-any.whl")
        });
        found.next().filter(|_| found.next().is_none())
    };
    names.iter().map(find).collect::<Option<Vec<_>>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_environments_begin_with_debians_wheels() {
        let place = tempfile::tempdir().unwrap();
        let found = |interpreter: &str| {
            let all = wheels(Path::new(interpreter), place.path()).into_iter();
            all.map(|wheel| wheel.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert!(found("/usr/bin/python3.13").is_empty(), "there are none");
        let (pip, setuptools) = ("pip-25.1.1-py3-none-any.whl", "setuptools-78-py3-none-any.whl");
        for file in [pip, "pip_api-1-py3-none-any.whl"] {
            fs::write(place.path().join(file), "").unwrap();
        }
        assert_eq!(found("/usr/bin/python3.13"), [pip]);
        assert!(found("/usr/bin/python3.11").is_empty(), "one is missing");
        fs::write(place.path().join(setuptools), "").unwrap();
        assert_eq!(found("/usr/bin/python3.11"), [pip, setuptools]);
        assert!(found("/opt/python/bin/python3.13").is_empty());
        // Which of two is meant, nobody can tell.
        fs::write(place.path().join("pip-26-py3-none-any.whl"), "").unwrap();
        assert!(found("/usr/bin/python3.13").is_empty());
    }

    #[test]
    fn who_could_want_another_pip() {
        let lets = |requirements: &str| requirements.lines().all(lets_pip_be);
        assert!(lets("Django==5.2\npip-tools==7.0\n--index-url https://a.example/simple\n"));
        for other in ["pip==24.0", "PIP==24", "x==1 --hash=sha256:00", "--require-hashes\nx==1", "--no-binary :all:\nx==1"] {
            assert!(!lets(other), "{other}");
        }
    }

    #[test]
    fn only_a_conflict_is_tried_otherwise() {
        let said = |script: &str| is_in_conflict(Command::new("sh").args(["-c", script]));
        assert!(said("echo ERROR: ResolutionImpossible: for help >&2; exit 1").unwrap());
        assert!(!said("echo ResolutionImpossible is no error >&2").unwrap());
        assert!(said("echo no such package >&2; exit 1").unwrap_err().to_string().contains("exit status: 1"));
    }
}
