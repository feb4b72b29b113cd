//! `reconcilectl`: the operator's verbs; those with more to do than ask the daemon in files of their own. Text and `--json` come from the same values.

mod audit;
mod explain;
mod init;
mod key;
mod secret;
mod status;
pub mod validate;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueHint};

use crate::client::{self, CallError, Followed};
use crate::report::{Progress, Report};

/// Exit code of wrong usage or an invalid manifest.
const USAGE: u8 = 2;

/// What an exit code means: shown by `--help` and in the man pages.
pub const EXIT_CODES: [(u8, &str); 6] = [
    (0, "done, healthy, nothing to do"),
    (1, "refused, rolled back, held, failed, difference found"),
    (USAGE, "wrong usage, or an invalid manifest or settings file"),
    (3, "the daemon cannot be reached"),
    (4, "not permitted"),
    (5, "stuck: an undo failed, and a person has to decide (reconcilectl resolve)"),
];

/// See and steer what reconciled holds this host at
///
/// The host is brought to what the repository says by `git push`, not by this tool: reconcilectl sets that up, shows how
/// things stand, and goes back, pauses or decides where a person has to.
#[derive(Debug, Parser)]
#[command(name = "reconcilectl", version, disable_help_subcommand = true, after_help = exit_codes())]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

fn exit_codes() -> String {
    let lines: Vec<String> = EXIT_CODES.iter().map(|(code, meaning)| format!("  {code}  {meaning}")).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the repository that is pushed to, and print the remote to add
    ///
    /// May be repeated: what is there stays as it is.
    Init,
    /// Manage the keys that may push
    #[command(subcommand)]
    Key(key::Verb),
    /// Seal secrets for this host
    #[command(subcommand)]
    Secret(secret::Verb),
    /// Show how things stand
    ///
    /// Exits with 1 while a revision is held, and with 5 while a rollback is stuck.
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Plan and rehearse a revision that is in the repository; apply nothing
    Plan {
        /// `main`, a commit id, or the beginning of one
        revision: String,
    },
    /// Say why a revision was refused or rolled back, with cause and remedy
    ///
    /// Answers from the audit log. Exits with 1 when there is nothing to explain.
    Explain {
        /// A commit id, or the beginning of one; the newest one that did not go live by default
        revision: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run one full cycle now: fetch the remotes, repair drift, and wait for it
    Sync,
    /// List the generations, newest first
    History {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how the host differs from the live generation, or from another one
    ///
    /// Exits with 1 when there is a difference. What is secret is named, not shown.
    Diff {
        /// Number of a generation (see history); the live one by default
        generation: Option<u64>,
    },
    /// Go back to the content of an earlier generation
    ///
    /// That content becomes a new generation, checked and probed like a push. `main` moves back to its commit, and the
    /// revisions left behind are held: fetch, and push a commit that builds on it.
    Rollback {
        /// Number of a generation (see history)
        generation: u64,
    },
    /// Try a held revision again
    Retry {
        /// A commit id, or the beginning of one; the newest held one by default
        revision: Option<String>,
    },
    /// Apply nothing until resume; drift is only reported
    ///
    /// Pushes to main are refused meanwhile, with the reason; previews go on.
    Pause {
        /// Why, for whoever meets it
        reason: Vec<String>,
    },
    /// Go on after a pause
    Resume,
    /// Keep a change of how the host is reached
    ///
    /// A push that changes SSH, the network, the firewall, sudo or the bus is taken back after `confirm_window` unless somebody shows that
    /// the host can still be reached: by any new git connection over SSH, or by this.
    Confirm,
    /// Decide what becomes of something that a rollback could not put back
    ///
    /// Until everything that `reconcilectl status` lists as STUCK is decided, nothing else is applied.
    Resolve {
        /// The path, the unit, or `all`
        path: String,
        /// Keep what stands there now
        #[arg(long, conflicts_with = "restore", required_unless_present = "restore")]
        keep: bool,
        /// Put back what stood there before
        #[arg(long)]
        restore: bool,
    },
    /// Check a repository's work tree; needs neither the daemon nor root
    ///
    /// Reads the directory as the daemon would read its commit, and says what is wrong with file, line and column. What
    /// only the host knows (users, installed programs, nginx's own opinion) is checked by a push, or a preview of one.
    Validate {
        /// The directory that holds reconciled.toml and files/; here by default
        #[arg(value_hint = ValueHint::DirPath)]
        directory: Option<PathBuf>,
        /// Fail on notes too
        #[arg(long)]
        strict: bool,
        /// Read the layer of this host; by default that of this machine, whose facts are taken in any case
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// Check the daemon's settings and guards instead
        #[arg(long, conflicts_with_all = ["directory", "strict", "host"])]
        settings: bool,
    },
    /// Review the audit log
    #[command(subcommand)]
    Audit(audit::Verb),
}

/// The command line, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs `reconcilectl`.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A reader that goes away is no failure of ours.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    ExitCode::from(run(arguments.verb))
}

fn run(verb: Verb) -> u8 {
    match verb {
        Verb::Init => say(init::init()),
        Verb::Key(verb) => say(key::run(verb)),
        Verb::Secret(verb) => say(secret::run(&verb)),
        Verb::Status { json } => status::status(json),
        Verb::History { json } => status::history(json),
        Verb::Plan { revision } => follow(async |m, out| m.plan(&revision, out).await),
        Verb::Explain { revision, json } => say(explain::explain(revision.as_deref(), json)),
        Verb::Sync => follow(async |m, out| m.sync(out).await),
        Verb::Diff { generation } => {
            if generation == Some(0) {
                return say(Err(Problem { message: "generations are numbered from 1".to_owned(), exit: USAGE }));
            }
            follow(async |m, out| m.diff(generation.unwrap_or(0), out).await)
        }
        Verb::Rollback { generation } => follow(async |m, out| m.rollback(generation, out).await),
        Verb::Retry { revision } => follow(async |m, out| m.retry(revision.as_deref().unwrap_or_default(), out).await),
        Verb::Pause { reason } => follow(async |m, out| m.pause(&reason.join(" "), out).await),
        Verb::Resume => follow(async |m, out| m.resume(out).await),
        Verb::Confirm => follow(async |m, out| m.confirm(out).await),
        Verb::Resolve { path, restore, .. } => follow(async |m, out| m.resolve(&path, restore, out).await),
        Verb::Validate { settings: true, .. } => say(check_settings()),
        Verb::Validate { directory, strict, host, .. } => {
            let directory = directory.unwrap_or_else(|| PathBuf::from("."));
            let color = std::io::stdout().is_terminal();
            match validate::run(&directory, &validate::context(host), strict, color) {
                Ok((text, ok)) => {
                    print(&text);
                    if ok { 0 } else { USAGE }
                }
                Err(error) => say(Err(Problem::new(error.to_string()))),
            }
        }
        Verb::Audit(verb) => say(audit::run(verb)),
    }
}

/// What a verb could not do.
#[derive(Debug)]
struct Problem {
    message: String,
    exit: u8,
}

impl Problem {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit: 1 }
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        Self { message: error.message, exit: error.exit }
    }
}

/// Prints a verb's text, or its problem on standard error.
fn say(result: Result<String, Problem>) -> u8 {
    match result {
        Ok(text) => {
            print(&text);
            0
        }
        Err(problem) => {
            eprintln!("reconcilectl: {}", problem.message);
            problem.exit
        }
    }
}

fn print(text: &str) {
    use std::io::Write;
    if !text.is_empty() {
        // A reader that goes away is no failure of ours.
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n'));
    }
}

fn follow(order: impl AsyncFnOnce(&client::ManagerProxy<'static>, zbus::Fd<'static>) -> zbus::Result<()>) -> u8 {
    match client::follow(&mut |progress| print(&progress_text(progress)), order) {
        Followed::Report(report) => report.verdict.exit_code(),
        Followed::Lost => say(Err(Problem {
            message: "the daemon went away; it finishes or undoes by itself: see reconcilectl status".to_owned(),
            exit: 3,
        })),
        Followed::Failed(error) => say(Err(error.into())),
    }
}

fn progress_text(progress: &Progress) -> String {
    let text = progress.text();
    if !std::io::stdout().is_terminal() {
        return text;
    }
    let color = match progress {
        Progress::Line { text } if text.starts_with('+') => "32",
        Progress::Line { text } if text.starts_with('-') => "31",
        Progress::Line { text } if text.starts_with('~') || text.starts_with('!') => "33",
        Progress::Line { .. } => return text,
        Progress::Good { .. } => "32",
        Progress::Because { .. } | Progress::Note { .. } => "33",
        Progress::Bad { .. } => "1;31",
        Progress::Done { report: Report { verdict, .. } } if verdict.is_good() => "1;32",
        Progress::Done { .. } => "1;31",
    };
    format!("\x1b[{color}m{text}\x1b[0m")
}

fn check_settings() -> Result<String, Problem> {
    let usage = |message| Problem { message, exit: USAGE };
    let settings = crate::config::Settings::read().map_err(usage)?;
    crate::config::guards().map_err(usage)?;
    Ok(format!("settings are valid: look_interval {}, {} remotes", settings.look_interval, settings.remotes.len()))
}

/// Only root may change what these verbs change.
fn need_root() -> Result<(), Problem> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Problem { message: "only root may do this: run it with sudo".to_owned(), exit: 4 })
}
