//! The operator's tool.

fn main() -> std::process::ExitCode {
    reconciled::ctl::main()
}
