//! The daemon, its hidden verbs, and git's hooks: one program.

fn main() -> std::process::ExitCode {
    reconciled::verbs::main(std::env::args().collect())
}
