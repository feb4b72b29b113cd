//! What `reconciled` is started as: the daemon, a worker, a git hook.

use std::process::ExitCode;

use crate::{daemon, push, worker};

/// Runs what the program name and the arguments say.
#[must_use]
#[allow(clippy::needless_pass_by_value, reason = "the arguments are the program's own")]
pub fn main(arguments: Vec<String>) -> ExitCode {
    let program = arguments.first().map(String::as_str).unwrap_or_default();
    if let Some(hook) = push::hook_of(program) {
        return hook();
    }
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        [] => daemon::main(),
        ["worker", "source"] => worker::source::main(),
        ["worker", "rehearse"] => worker::rehearse::main(),
        ["worker", "evidence"] => worker::evidence::main(),
        ["worker", "probe"] => worker::probe::main(),
        ["worker", "secrets"] => worker::secrets::main(),
        ["worker", "accounts", rest @ ..] => worker::accounts::main(rest),
        ["worker", "postgres"] => worker::postgres::main(),
        ["worker", "ufw", rest @ ..] => worker::ufw::main(rest),
        ["worker", "dump", name] => worker::dump::main(name),
        ["worker", "subtree", rest @ ..] => worker::subtree::main(rest),
        ["worker", "packages", rest @ ..] => worker::packages::main(rest),
        ["worker", "command"] => worker::command::main(),
        ["worker", "venv", verb] => worker::venv::main(verb),
        ["recover"] => daemon::recover(),
        ["serve", ..] => push::serve(&arguments[2..]),
        ["--version" | "-V"] => {
            println!("reconciled {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "reconciled is the daemon and takes no arguments: see reconciled(8); the operator's tool is reconcilectl(1)"
            );
            ExitCode::from(2)
        }
    }
}
