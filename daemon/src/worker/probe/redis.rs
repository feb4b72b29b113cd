//! `PING` to a Redis server, and the answer (the protocol's inline and simple forms).

use std::io::ErrorKind;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::ask::{connect_words, dial};
use crate::probe::{NETWORK_TEXT_LIMIT, Redis, clean};

/// Longest accepted line, in bytes.
const LINE_LIMIT: u64 = 4096;

/// Asks once.
pub(super) async fn ask(redis: &Redis, password: Option<&str>) -> Result<String, String> {
    let said = match (&redis.tcp, &redis.unix) {
        (Some(address), _) => speak(dial(address, address).await.map_err(|got| instead(&got))?, password).await,
        (None, Some(path)) => {
            let stream = UnixStream::connect(path).await.map_err(|e| instead(&connect_words(&e, path, true)))?;
            speak(stream, password).await
        }
        (None, None) => Err("neither one `tcp` nor one `unix` to ask".to_owned()),
    };
    said.map_err(|got| instead(&got))
}

fn instead(got: &str) -> String {
    format!("wanted PONG, got {got}")
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin>(stream: S, password: Option<&str>) -> Result<String, String> {
    let mut stream = BufReader::new(stream);
    if let Some(password) = password {
        // With its length before it, whatever it is of; and what is answered is not shown, whatever that quotes.
        let login = format!("*2\r\n$4\r\nAUTH\r\n${}\r\n{password}\r\n", password.len());
        if say(&mut stream, &login).await? != "+OK" {
            return Err("no login: the password is another, or none is wanted".to_owned());
        }
    }
    let answer = say(&mut stream, "PING\r\n").await?;
    match answer.as_str() {
        "+PONG" => Ok("PONG".to_owned()),
        other => Err(clean(other.trim_start_matches(['+', '-']), NETWORK_TEXT_LIMIT)),
    }
}

/// Says one thing, and reads one line.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>, words: &str) -> Result<String, String> {
    let closed = |e: std::io::Error| match e.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "connection closed before an answer".to_owned(),
        _ => e.to_string(),
    };
    stream.write_all(words.as_bytes()).await.map_err(closed)?;
    let mut line = Vec::new();
    stream.take(LINE_LIMIT).read_until(b'\n', &mut line).await.map_err(closed)?;
    if line.is_empty() {
        return Err("connection closed before an answer".to_owned());
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
