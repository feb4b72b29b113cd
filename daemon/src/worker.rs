//! Hidden verbs of this very program that run as transient units: what they read is foreign, so they hold no state and
//! their answers are checked by whoever started them.

pub mod accounts;
pub mod command;
pub mod dump;
pub mod evidence;
pub mod packages;
pub mod postgres;
pub mod probe;
pub mod rehearse;
pub mod sandbox;
pub mod secrets;
pub mod source;
pub mod subtree;
pub mod ufw;
pub mod venv;

use std::process::ExitCode;

/// How a worker ends: what went wrong goes to standard error, for whoever started it.
fn ended(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What a worker is asked, one JSON value on its standard input, of at most so many bytes.
fn request<T: serde::de::DeserializeOwned>(limit: u64) -> std::io::Result<T> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::io::stdin().lock().take(limit).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Where this program is installed: transient units start it from there.
pub const PROGRAM: &str = "/usr/sbin/reconciled";
