//! The secrets worker, `reconciled worker secrets`: opens what is sealed, as a user that nobody else is, without network.
//!
//! Standard input is one line of JSON, the request, and then the sealed bodies. Standard output is one line of JSON, names with lengths,
//! and then the open bodies. The host's key and what systemd has opened itself come as credentials (systemd.exec(5), `LoadCredential=`).

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};

/// The credential that is the host's key.
pub const IDENTITY: &str = "host.key";
/// Longest secret, sealed or open, in bytes.
pub const LIMIT: u64 = 64 * 1024;
/// The program that opens `*.age` (age(1)).
pub const AGE: &str = "/usr/bin/age";
/// Longest request, in bytes.
const REQUEST_LIMIT: u64 = 1 << 20;

/// What is to be opened.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Request {
    /// Sealed with age: names of secrets or paths of files, and the lengths of the bodies that follow, in bytes.
    pub sealed: Vec<(String, u64)>,
    /// Sealed with systemd-creds(1): names of credentials.
    pub credentials: Vec<String>,
}

/// The verb's body.
#[must_use]
pub fn main() -> ExitCode {
    super::ended(serve(&mut io::stdin().lock(), &mut io::stdout().lock()))
}

fn serve(input: &mut impl BufRead, output: &mut impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    input.take(REQUEST_LIMIT).read_until(b'\n', &mut line)?;
    let request: Request = serde_json::from_slice(&line)?;
    let credentials = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY").unwrap_or_default());
    let mut open = Vec::new();
    for (name, length) in request.sealed {
        let mut sealed = Vec::new();
        input.take(length.min(LIMIT)).read_to_end(&mut sealed)?;
        // A sealed file is named by its path.
        let file = if name.contains('/') { name.clone() } else { format!("secrets/{name}.age") };
        let body = unseal(&sealed, &credentials.join(IDENTITY)).map_err(|e| io::Error::other(format!("{file}: {e}")))?;
        open.push((name, body));
    }
    for name in request.credentials {
        let mut body = Vec::new();
        std::fs::File::open(credentials.join(&name))?.take(LIMIT).read_to_end(&mut body)?;
        open.push((name, body));
    }
    let names: Vec<(&str, usize)> = open.iter().map(|(name, body)| (name.as_str(), body.len())).collect();
    writeln!(output, "{}", serde_json::to_string(&names)?)?;
    open.iter().try_for_each(|(_, body)| output.write_all(body))
}

/// What was sealed to the host's key.
fn unseal(sealed: &[u8], identity: &Path) -> io::Result<Vec<u8>> {
    let mut command = Command::new(AGE);
    command.arg("--decrypt").arg("--identity").arg(identity).env_clear();
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut age = child.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => io::Error::other("age is not installed: apt-get install age"),
        _ => e,
    })?;
    if let Some(mut stdin) = age.stdin.take() {
        // A pipe takes this much at once (pipe(7)). What age does not read it complains of itself.
        let _ = stdin.write_all(sealed);
    }
    let ended = age.wait_with_output()?;
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let said = said.lines().next().unwrap_or_default().trim_start_matches("age: ").trim_start_matches("error: ");
    Err(io::Error::other(format!("{said}: seal it anew: ssh HOST reconcilectl secret seal <plain >secrets/NAME.age")))
}
