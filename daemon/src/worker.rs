//! Hidden verbs of this very program that run as transient units: what they read is foreign, so they hold no state and
//! their answers are checked by whoever started them.

pub mod accounts;
pub mod command;
pub mod evidence;
pub mod packages;
pub mod postgres;
pub mod probe;
pub mod rehearse;
pub mod sandbox;
pub mod secrets;
pub mod source;
pub mod ufw;
pub mod venv;

/// Where this program is installed: transient units start it from there.
pub const PROGRAM: &str = "/usr/sbin/reconciled";
