//! Writes what is generated from the code: schemas, references, man pages, completions. With `--check` nothing is written:
//! files that differ are listed, and the exit code is 1. What the files say is decided by the code they are made from.

mod commands;
mod reference;
mod schemas;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

/// Generated files by their path in the project.
type Files = BTreeMap<PathBuf, String>;

/// Folders, and endings of names in them, of which everything is generated: a file there that is not made any more is stale.
const WHOLLY_GENERATED: [(&str, &str); 3] = [("schemas", ""), ("packaging/completions", ""), ("packaging/man", ".1")];

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let done = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => files().and_then(|files| write(&root, &files)),
        [flag] if flag == "--check" => files().and_then(|files| check(&root, &files)),
        _ => {
            eprintln!("usage: generate [--check]");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("generate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that is generated.
fn files() -> io::Result<Files> {
    let mut files = Files::new();
    files.extend(schemas::files());
    files.insert("docs/manifest.md".into(), reference::page());
    files.extend(commands::files()?);
    Ok(files)
}

fn write(root: &Path, files: &Files) -> io::Result<ExitCode> {
    for (path, content) in files {
        let path = root.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, content)?;
    }
    for path in stale(root, files)? {
        fs::remove_file(root.join(path))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check(root: &Path, files: &Files) -> io::Result<ExitCode> {
    let wrong = wrong(root, files)?;
    for path in &wrong {
        eprintln!("{} differs from what is generated", path.display());
    }
    if wrong.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("run `cargo run -p reconciled-tests --bin generate` and commit the result");
    Ok(ExitCode::FAILURE)
}

/// Committed files that are not what is generated.
fn wrong(root: &Path, files: &Files) -> io::Result<Vec<PathBuf>> {
    let differs = |(path, wanted): &(&PathBuf, &String)| fs::read_to_string(root.join(path)).ok().as_ref() != Some(*wanted);
    let mut wrong: Vec<PathBuf> = files.iter().filter(differs).map(|(path, _)| path.clone()).collect();
    wrong.extend(stale(root, files)?);
    Ok(wrong)
}

/// Files that nothing generates any more.
fn stale(root: &Path, files: &Files) -> io::Result<Vec<PathBuf>> {
    let mut stale = Vec::new();
    for (folder, ending) in WHOLLY_GENERATED {
        for entry in fs::read_dir(root.join(folder)).into_iter().flatten() {
            let path = Path::new(folder).join(entry?.file_name());
            if path.to_string_lossy().ends_with(ending) && !files.contains_key(&path) {
                stale.push(path);
            }
        }
    }
    Ok(stale)
}

#[cfg(test)]
mod tests {
    use reconciled::manifest;
    use reconciled::source::{Snapshot, SourceEntry};

    use super::{Path, PathBuf, files, reference, wrong};

    #[test]
    fn committed_files_are_what_is_generated() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert_eq!(wrong(&root, &files().unwrap()).unwrap(), Vec::<PathBuf>::new());
    }

    /// What the reference shows is what the daemon reads.
    #[test]
    fn examples_are_valid() {
        let page = reference::page();
        let examples: Vec<&str> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(examples.len() > 3);
        for example in examples {
            let file = |text: &str| SourceEntry::File { content: text.into(), executable: false };
            let entries = [
                ("reconciled.toml", file(example)),
                ("files/etc/nginx/sites-available/shop", file("")),
                ("files/etc/shop/settings.ini", file("")),
                ("roles/web/files/etc/shop/role.ini", file("")),
            ];
            let entries = entries.map(|(path, entry)| (path.to_owned(), entry)).into();
            let read = manifest::read(&Snapshot { entries, ..Snapshot::default() }, &manifest::Context::default());
            assert!(read.is_ok(), "{example}: {read:?}");
        }
    }
}
