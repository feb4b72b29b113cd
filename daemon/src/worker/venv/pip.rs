//! What an environment is filled with, by pip. Python's own way (`python -m venv`, then `pip install`) unpacks pip, reads it in without having
//! compiled it, and compiles everything one file after the other; where Debian's wheels allow it, one run of pip installs all, pip included,
//! and all cores compile.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;
use crate::venv::Request;

/// Where Debian keeps the wheels that `ensurepip` installs (package python3-pip-whl).
const WHEELS: &str = "/usr/share/python-wheels";
/// The first Python 3 whose environments come without setuptools (What's New In Python 3.12).
const WITHOUT_SETUPTOOLS: u32 = 12;
/// What only whoever runs pip by hand needs compiled, and has compiled by that.
const NOT_COMPILED: &str = "/site-packages/(pip|setuptools|pkg_resources|_distutils_hack)/";
/// What pip says of requirements that nothing meets together.
const CONFLICT: &[u8] = b"ResolutionImpossible";

/// Makes an environment in a folder, with what a file of requirements names.
pub(super) fn install(request: &Request, folder: &Path, file: &Path) -> io::Result<()> {
    let python = folder.join("bin/python");
    let wheels = wheels(request, Path::new(WHEELS));
    if let [pip, ..] = wheels.as_slice() {
        make(request, folder, &["--without-pip"])?;
        let mut all_at_once = Command::new(&python);
        let output = options(all_at_once.arg(pip.join("pip")), file).args(&wheels).env("LC_ALL", "C.UTF-8").output()?;
        let does_conflict =
            [&output.stdout, &output.stderr].iter().any(|said| said.windows(CONFLICT.len()).any(|w| w == CONFLICT));
        if !does_conflict {
            io::stdout().write_all(&output.stdout)?;
            io::stderr().write_all(&output.stderr)?;
            if !output.status.success() {
                return Err(io::Error::other(format!("{}: {}", python.display(), output.status)));
            }
            compile(&python, folder);
            return Ok(());
        }
        // Perhaps with Debian's pip or setuptools alone, which otherwise give way. Nothing is installed yet.
    }
    make(request, folder, &[])?;
    if request.requirements.is_empty() {
        return Ok(());
    }
    let mut pip = Command::new(&python);
    options(pip.args(["-m", "pip"]), file);
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

fn options<'c>(pip: &'c mut Command, requirements: &Path) -> &'c mut Command {
    pip.args(["install", "--no-compile", "--no-input", "--disable-pip-version-check", "--no-warn-script-location"]);
    pip.args(["--progress-bar", "off", "--requirement"]).arg(requirements).env("PIP_ROOT_USER_ACTION", "ignore")
}

/// As pip does it, but with all cores. What is no Python for this version is left, as pip leaves it.
fn compile(python: &Path, folder: &Path) {
    let mut compileall = Command::new(python);
    compileall.args(["-m", "compileall", "-qq", "-j", "0", "-x", NOT_COMPILED]).arg(folder.join("lib"));
    let _ = run(&mut compileall);
}

/// The wheels that an environment of Debian's Python begins with, pip's first. None where requirements could want others than these, where each
/// needs a hash, and where none is to be used.
fn wheels(request: &Request, place: &Path) -> Vec<PathBuf> {
    let mut lines = request.requirements.lines();
    let is_plain = |line: &str| {
        let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
        !["pip", "setuptools", "--no-binary", "--require-hashes"].contains(&name.to_lowercase().as_str())
            && !line.contains(" --hash=")
    };
    let real = fs::canonicalize(&request.interpreter).unwrap_or_default();
    let minor = real.to_str().and_then(|real| real.strip_prefix("/usr/bin/python3.")).and_then(|minor| minor.parse::<u32>().ok());
    let (Some(minor), true, false) = (minor, lines.all(is_plain), request.requirements.is_empty()) else { return Vec::new() };
    let names = if minor < WITHOUT_SETUPTOOLS { ["pip-", "setuptools-"].as_slice() } else { &["pip-"] };
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
        let request = |requirements: &str| Request {
            path: "/env".to_owned(),
            interpreter: "/usr/bin/python3".to_owned(),
            requirements: requirements.to_owned(),
            before: String::new(),
            after: String::new(),
        };
        let found = |requirements: &str| {
            let all = wheels(&request(requirements), place.path()).into_iter();
            all.map(|wheel| wheel.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let plain = "Django==5.2\npip-tools==7.0\n--index-url https://a.example/simple\n";
        assert!(found(plain).is_empty(), "there are none");
        for wheel in ["pip-25.1.1-py3-none-any.whl", "pip_api-1-py3-none-any.whl", "setuptools-66.1.1-py3-none-any.whl"] {
            fs::write(place.path().join(wheel), "").unwrap();
        }
        assert!(["pip-25.1.1-py3-none-any.whl".to_owned()] == found(plain)[..1], "{:?}", found(plain));
        for other in [
            "",
            "pip==24.0\n",
            "Setuptools==75\n",
            "x==1 --hash=sha256:00\n",
            "--require-hashes\nx==1\n",
            "--no-binary :all:\nx==1\n",
        ] {
            assert!(found(other).is_empty(), "{other}");
        }
        let of_another = Request { interpreter: "/opt/python/bin/python3".to_owned(), ..request(plain) };
        assert!(wheels(&of_another, place.path()).is_empty());
        // Which of two is meant, nobody can tell.
        fs::write(place.path().join("pip-26-py3-none-any.whl"), "").unwrap();
        assert!(found(plain).is_empty());
    }
}
