//! Git objects are parsed here, without root, in a process of its own for each question: libgit2 reads the bare
//! repository, budgets are counted on what is walked, and what comes out is a stream of checked names and bytes.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use git2::{ErrorCode, ObjectType, Odb, Oid, Repository};

use super::sandbox::confine;
use crate::path::check_relative;
use crate::source::{Answer, Budget, Commit, REPOSITORY, Relation, Request};

/// Git modes that are accepted (gitformat-index(5)); 160000 is a submodule, and set-id bits do not exist in git.
const REGULAR: [i32; 2] = [0o100_644, 0o100_755];
const LINK: i32 = 0o120_000;
const TREE: i32 = 0o040_000;

/// libgit2 reads it where there is one, and opens no repository when it may not.
pub(crate) const SYSTEM_SETTINGS: &str = "/etc/gitconfig";

/// Runs the worker: one request on standard input, the answer on standard output.
#[must_use]
pub fn main() -> ExitCode {
    let mut input = String::new();
    let result = std::io::stdin().read_to_string(&mut input).map_err(|e| e.to_string()).and_then(|_| answer(&input));
    let (bytes, code) = match result {
        Ok(bytes) => (bytes, ExitCode::SUCCESS),
        Err(reason) => (line(&Answer::Refused { reason }), ExitCode::SUCCESS),
    };
    match std::io::stdout().write_all(&bytes) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer(input: &str) -> Result<Vec<u8>, String> {
    let request: Request = serde_json::from_str(input).map_err(|e| format!("request: {e}"))?;
    match request {
        Request::Publish { .. } => confine(&[SYSTEM_SETTINGS], &[REPOSITORY])?,
        _ => confine(&[REPOSITORY, SYSTEM_SETTINGS], &[])?,
    }
    let repository = open(Path::new(REPOSITORY))?;
    match request {
        Request::Read { commit, descends_from, budget } => read(&repository, &commit, descends_from.as_deref(), budget),
        Request::Publish { reference, old, new } => publish(&repository, &reference, old.as_deref(), &new),
        Request::Compare { base, tip } => Ok(line(&Answer::Related { relation: compare(&repository, oid(&base)?, oid(&tip)?) })),
        Request::Fetched => Ok(line(&Answer::Reference { commit: Some(fetched()?) })),
        Request::Resolve { reference } => Ok(line(&Answer::Reference { commit: resolve(&repository, &reference)? })),
    }
}

/// Opens the bare repository. libgit2 does not check who owns a bare one: we do.
fn open(path: &Path) -> Result<Repository, String> {
    use std::os::unix::fs::MetadataExt;
    let owner = match std::fs::metadata(path) {
        Ok(metadata) => metadata.uid(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err("there is no repository yet: sudo reconcilectl init".to_owned());
        }
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    if owner != rustix::process::geteuid().as_raw() {
        return Err(format!("{} belongs to user {owner}, not to the user that reads it", path.display()));
    }
    Repository::open_bare(path).map_err(|e| format!("{}: {}", path.display(), e.message()))
}

fn line(answer: &Answer) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(answer).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn oid(text: &str) -> Result<Oid, String> {
    if text.len() != 40 {
        return Err(format!("`{}` is not a commit id", crate::path::escape(text)));
    }
    Oid::from_str(text).map_err(|e| e.message().to_owned())
}

fn read(repository: &Repository, id: &str, descends_from: Option<&str>, budget: Budget) -> Result<Vec<u8>, String> {
    let commit = repository.find_commit(oid(id)?).map_err(|e| format!("commit {id}: {}", e.message()))?;
    let descends = match descends_from {
        None => true,
        Some(base) if base == id => true,
        // An unknown base is one that was rewritten away.
        Some(base) => repository.graph_descendant_of(commit.id(), oid(base)?).unwrap_or(false),
    };
    let author = commit.author();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(200).collect::<String>();
    let told = Commit {
        id: commit.id().to_string(),
        summary: text(commit.summary_bytes().unwrap_or_default()),
        author: format!("{} <{}>", text(author.name_bytes()), text(author.email_bytes())),
    };
    let mut walk = Walk::new(repository, budget)?;
    walk.out = line(&Answer::Commit { commit: told, descends });
    walk.tree(commit.tree_id(), "", 0)?;
    let entries = walk.sent;
    walk.out.extend(line(&Answer::End { entries }));
    Ok(walk.out)
}

/// Checks the tree of a commit against names, modes and budgets, without sending anything.
///
/// # Errors
/// The first breach, one line.
pub fn check(repository: &Repository, commit: Oid, budget: Budget) -> Result<(), String> {
    let commit = repository.find_commit(commit).map_err(|e| e.message().to_owned())?;
    let mut walk = Walk::new(repository, budget)?;
    walk.dry = true;
    walk.tree(commit.tree_id(), "", 0)
}

struct Walk<'r> {
    repository: &'r Repository,
    odb: Odb<'r>,
    budget: Budget,
    out: Vec<u8>,
    dry: bool,
    walked: u64,
    sent: u64,
    total: u64,
}

impl<'r> Walk<'r> {
    fn new(repository: &'r Repository, budget: Budget) -> Result<Self, String> {
        let odb = repository.odb().map_err(|e| e.message().to_owned())?;
        Ok(Self { repository, odb, budget, out: Vec::new(), dry: false, walked: 0, sent: 0, total: 0 })
    }

    fn tree(&mut self, id: Oid, prefix: &str, depth: u32) -> Result<(), String> {
        if depth > self.budget.depth {
            return Err(format!("the tree is more than {} directories deep: flatten it", self.budget.depth));
        }
        let tree = self.repository.find_tree(id).map_err(|e| format!("{prefix}: {}", e.message()))?;
        for entry in &tree {
            self.walked += 1;
            if self.walked > self.budget.entries {
                return Err(format!(
                    "the tree has more than {} entries: keep only desired state in this repository",
                    self.budget.entries
                ));
            }
            let name = std::str::from_utf8(entry.name_bytes())
                .map_err(|_| format!("{prefix}{}: the name is not UTF-8", String::from_utf8_lossy(entry.name_bytes())))?;
            let path = format!("{prefix}{name}");
            check_relative(&path)?;
            match entry.filemode_raw() {
                TREE => self.tree(entry.id(), &format!("{path}/"), depth + 1)?,
                mode if mode == LINK || REGULAR.contains(&mode) => self.blob(&path, entry.id(), mode)?,
                0o160_000 => return Err(format!("{path} is a submodule: commit the files themselves")),
                mode => {
                    return Err(format!(
                        "{path} has the git mode {mode:o}; accepted are 100644, 100755 and 120000: commit it anew"
                    ));
                }
            }
        }
        Ok(())
    }

    fn blob(&mut self, path: &str, id: Oid, mode: i32) -> Result<(), String> {
        // The size stands in the object's header: nothing is inflated to learn it.
        let (size, kind) = self.odb.read_header(id).map_err(|e| format!("{path}: {}", e.message()))?;
        let size = size as u64;
        if kind != ObjectType::Blob {
            return Err(format!("{path} is no file"));
        }
        if size > self.budget.file {
            return Err(format!("{path} has {size} bytes, more than the {} that a managed file may have", self.budget.file));
        }
        self.total += size;
        if self.total > self.budget.total {
            return Err(format!("the files have more than {} bytes together", self.budget.total));
        }
        if self.dry {
            return Ok(());
        }
        let blob = self.repository.find_blob(id).map_err(|e| format!("{path}: {}", e.message()))?;
        let (link, executable) = (mode == LINK, mode == REGULAR[1]);
        self.out.extend(line(&Answer::Entry { path: path.to_owned(), link, executable, size }));
        self.out.extend_from_slice(blob.content());
        self.sent += 1;
        Ok(())
    }
}

fn publish(repository: &Repository, reference: &str, old: Option<&str>, new: &str) -> Result<Vec<u8>, String> {
    let new_id = oid(new)?;
    let message = "reconciled: live";
    let moved = match old {
        Some(old) => repository.reference_matching(reference, new_id, true, oid(old)?, message),
        None => repository.reference(reference, new_id, false, message),
    };
    sweep_quarantines();
    moved.map_err(|e| format!("{reference} could not be moved to {new}: {}", e.message()))?;
    Ok(line(&Answer::Reference { commit: Some(new.to_owned()) }))
}

/// A push that dies leaves its quarantine behind (git-receive-pack(1)); after a day nobody comes back for it.
fn sweep_quarantines() {
    let Ok(entries) = std::fs::read_dir(Path::new(REPOSITORY).join("objects")) else { return };
    let day = std::time::Duration::from_secs(86_400);
    for entry in entries.flatten() {
        let old = entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| t.elapsed().is_ok_and(|age| age > day));
        if old && entry.file_name().to_string_lossy().starts_with("tmp_objdir-incoming-") {
            // Should it not go, the next one tries again.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// An unknown base is one that was rewritten away, so it counts as diverged.
fn compare(repository: &Repository, base: Oid, tip: Oid) -> Relation {
    let descends = |a, b| repository.graph_descendant_of(a, b).unwrap_or(false);
    match () {
        () if base == tip => Relation::Same,
        () if descends(tip, base) => Relation::Ahead,
        () if descends(base, tip) => Relation::Behind,
        () => Relation::Diverged,
    }
}

/// git-fetch(1) leaves what it fetched in FETCH_HEAD, one line each, the object id first.
fn fetched() -> Result<String, String> {
    let text = std::fs::read_to_string(Path::new(REPOSITORY).join("FETCH_HEAD")).map_err(|e| format!("FETCH_HEAD: {e}"))?;
    let id = text.split_ascii_whitespace().next().unwrap_or_default();
    oid(id).map(|id| id.to_string())
}

fn resolve(repository: &Repository, reference: &str) -> Result<Option<String>, String> {
    if reference.starts_with("refs/") {
        return match repository.refname_to_id(reference) {
            Ok(id) => Ok(Some(id.to_string())),
            Err(e) if e.code() == ErrorCode::NotFound => Ok(None),
            Err(e) => Err(format!("{reference}: {}", e.message())),
        };
    }
    let hex = reference.len() >= 4 && reference.bytes().all(|b| b.is_ascii_hexdigit());
    if !hex {
        return Err(format!("`{}` is neither a ref nor a commit id", crate::path::escape(reference)));
    }
    match repository.find_commit_by_prefix(reference) {
        Ok(commit) => Ok(Some(commit.id().to_string())),
        Err(e) if e.code() == ErrorCode::NotFound => Ok(None),
        Err(e) => Err(format!("{reference}: {}", e.message())),
    }
}

#[cfg(test)]
mod tests;
