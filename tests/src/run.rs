//! Running programs of this machine, with a limit, and what came of it.
//! Knows neither hosts nor git.

use std::ffi::OsStr;
use std::fmt::{self, Display, Formatter};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread;

/// Seconds after which a program that a test started is taken for hung.
const LIMIT: u32 = 180;

/// What a program did: its exit code and all that it printed.
#[derive(Debug, Clone)]
#[must_use = "say .ok() to insist on success"]
pub struct Output {
    /// The exit code; 128 plus the signal's number where a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// What was run, for messages.
    pub command: String,
}

impl Output {
    /// Insists that it succeeded; gives its standard output without the last line's end.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == 0, "expected success of {self}");
        self.stdout.trim_end_matches('\n').to_owned()
    }

    /// Insists that it failed with this exit code, and gives back the whole for a closer look.
    #[track_caller]
    pub fn fails(self, code: i32) -> Output {
        assert!(self.code == code, "expected exit code {code} of {self}");
        self
    }

    /// Insists that this text is somewhere in what it printed.
    #[track_caller]
    pub fn says(self, text: &str) -> Output {
        assert!(self.text().contains(text), "expected {text:?} in the output of {self}");
        self
    }

    /// All that it printed, standard output first.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Display for Output {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` (exit code {})", self.command, self.code)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "\n--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// A program about to be run by [`run`], ended by force with all its children when it takes longer than [`LIMIT`].
pub(crate) fn command<S: AsRef<OsStr>>(argv: &[S]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg(LIMIT.to_string()).args(argv).stdin(Stdio::null());
    command
}

/// The same as root, by sudo where the tests do not run as root.
pub(crate) fn root_command<S: AsRef<OsStr>>(argv: &[S]) -> Command {
    let root = std::fs::metadata("/proc/self").is_ok_and(|of| of.uid() == 0);
    let sudo = if root { [].as_slice() } else { ["sudo", "-n", "--preserve-env=TESTHOST_HOME"].as_slice() };
    let all: Vec<&OsStr> = sudo.iter().map(AsRef::as_ref).chain(argv.iter().map(AsRef::as_ref)).collect();
    command(&all)
}

/// Runs it to its end with these bytes as its standard input.
#[track_caller]
pub(crate) fn run(command: Command, stdin: &[u8]) -> Output {
    try_run(command, stdin).unwrap_or_else(|why| panic!("{why}"))
}

/// The same where a panic would be out of place.
pub(crate) fn try_run(mut command: Command, stdin: &[u8]) -> Result<Output, String> {
    let shown = shown(&command);
    command.stdin(if stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    finish(child.map_err(|e| format!("cannot start `{shown}`: {e}"))?, shown, stdin)
}

/// Waits for a started program.
pub(crate) fn finish(mut child: Child, shown: String, stdin: &[u8]) -> Result<Output, String> {
    let pipe = child.stdin.take();
    let done = thread::scope(|s| {
        if let Some(mut pipe) = pipe {
            s.spawn(move || pipe.write_all(stdin)); // one that does not read all of it is no error
        }
        child.wait_with_output()
    });
    let done = done.map_err(|e| format!("cannot wait for `{shown}`: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = done.status.code().or(done.status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
    let output = Output { code, stdout: text(&done.stdout), stderr: text(&done.stderr), command: shown };
    if code == 124 { Err(format!("took more than {LIMIT} s: {output}")) } else { Ok(output) }
}

/// The command line as a person would type it, without the limit in front.
pub(crate) fn shown(command: &Command) -> String {
    let words: Vec<_> = command.get_args().skip(2).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{command, run};

    #[test]
    fn a_command_has_its_input_and_its_exit_code() {
        let done = run(command(&["sh", "-c", "cat; echo oops >&2; exit 3"]), b"in\n");
        assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (3, "in\n", "oops\n"));
        assert_eq!(done.command, "sh -c cat; echo oops >&2; exit 3");
    }

    #[test]
    fn a_signal_is_an_exit_code() {
        assert_eq!(run(command(&["sh", "-c", "kill -KILL $$"]), b"").code, 137);
    }
}
