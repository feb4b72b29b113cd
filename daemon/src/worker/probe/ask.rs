//! One question to a server and its answer, each over a fresh connection. Every answer is foreign: bounded, and escaped
//! before it is shown.

use std::io;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{certificate, redis, tls};
use crate::probe::{Http, NETWORK_TEXT_LIMIT, Probe, Question, clean};

/// How much of a body is looked at, in bytes.
const BODY_LIMIT: usize = 64 * 1024;
/// How much of a status line and headers is accepted, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;
/// How much of a wanted text is shown, in characters.
const WANTED_LIMIT: usize = 80;

/// Asks once: what was got, or what was wanted and what was got instead.
pub(super) async fn once(probe: &Probe, password: Option<&str>) -> Result<String, String> {
    let question = probe.questions().next();
    let answer = async {
        match question {
            Some(Question::Http(http)) => ask_http(http).await,
            Some(Question::Tcp(address)) => ask_tcp(address).await,
            Some(Question::Redis(redis)) => redis::ask(redis, password).await,
            Some(Question::Certificate(certificate)) => certificate::ask(certificate).await,
            _ => Err("wanted something to ask over a connection, got another kind of probe".to_owned()),
        }
    };
    match tokio::time::timeout(probe.timeout.0, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("wanted {}, got no answer within {}", wanted(question), probe.timeout)),
    }
}

fn wanted(question: Option<Question<'_>>) -> String {
    match question {
        Some(Question::Http(http)) => http.wanted(),
        Some(Question::Redis(_)) => "PONG".to_owned(),
        Some(Question::Certificate(_)) => "a certificate".to_owned(),
        _ => "a connection".to_owned(),
    }
}

async fn ask_tcp(address: &str) -> Result<String, String> {
    match dial(address, address).await {
        Ok(_) => Ok("connected".to_owned()),
        Err(why) => Err(format!("wanted a connection, got {why}")),
    }
}

async fn ask_http(http: &Http) -> Result<String, String> {
    let got = fetch(http).await.map_err(|why| format!("wanted {}, got {why}", http.wanted()))?;
    if !http.accepts(got.status) {
        return Err(format!("wanted {}, got {}", http.wanted(), got.status));
    }
    match &http.body {
        Some(text) if !contains(&got.body, text.as_bytes()) => Err(format!(
            "wanted {} with \"{}\" in the body, got {} and {}",
            http.wanted(),
            clean(text, WANTED_LIMIT),
            got.status,
            describe(&got.body)
        )),
        _ => Ok(got.status.to_string()),
    }
}

/// An answer: the status, and the beginning of the body where that was asked for.
struct Got {
    status: u16,
    body: Vec<u8>,
}

/// Sends the request; the error says what was got instead of an answer.
async fn fetch(http: &Http) -> Result<Got, String> {
    let target = Target::of(http)?;
    match &target.place {
        Place::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(|e| connect_words(&e, path, true))?;
            exchange(stream, &target, http.body.is_some()).await
        }
        Place::Tcp { host, port, is_https } => {
            let stream = dial((host.as_str(), *port), &format!("{host}:{port}")).await?;
            if *is_https {
                let stream = tls::trusted(stream, target.name(), http.ca.as_deref()).await?;
                exchange(stream, &target, http.body.is_some()).await
            } else {
                exchange(stream, &target, http.body.is_some()).await
            }
        }
    }
}

/// Connects to the first address of a name that accepts.
pub(super) async fn dial(address: impl tokio::net::ToSocketAddrs, words: &str) -> Result<TcpStream, String> {
    let addresses = tokio::net::lookup_host(address).await.map_err(|e| match e.kind() {
        io::ErrorKind::InvalidInput => format!("`{}`, which is not ADDRESS:PORT", clean(words, NETWORK_TEXT_LIMIT)),
        _ => format!("no address for {}: {}", clean(words, NETWORK_TEXT_LIMIT), clean(&e.to_string(), NETWORK_TEXT_LIMIT)),
    })?;
    let mut last = format!("no address for {}", clean(words, NETWORK_TEXT_LIMIT));
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = connect_words(&e, &address.to_string(), false),
        }
    }
    Err(last)
}

/// Speaks HTTP over a connection.
async fn exchange<S>(stream: S, target: &Target, with_body: bool) -> Result<Got, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = http1::Builder::new().max_buf_size(HEAD_LIMIT).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| hyper_words(&e))?;
    let request = target.request()?;
    let mut conversation = pin!(async {
        let response = sender.send_request(request).await.map_err(|e| hyper_words(&e))?;
        let status = response.status().as_u16();
        let body = if with_body { read_body(response).await? } else { Vec::new() };
        Ok(Got { status, body })
    });
    // The connection only makes progress while it is polled; what it ends with, the conversation learns as well.
    tokio::select! {
        got = &mut conversation => got,
        _ = connection => conversation.await,
    }
}

/// Reads at most `BODY_LIMIT` bytes of a body.
async fn read_body(response: Response<Incoming>) -> Result<Vec<u8>, String> {
    let (mut incoming, mut body) = (response.into_body(), Vec::new());
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|_| "a connection closed in the middle of the answer".to_owned())?;
        if let Ok(data) = frame.into_data() {
            body.extend_from_slice(&data[..data.len().min(BODY_LIMIT - body.len())]);
        }
        if body.len() == BODY_LIMIT {
            break;
        }
    }
    Ok(body)
}

/// Where a request goes and what it says.
struct Target {
    place: Place,
    path: String,
    host: String,
}

enum Place {
    Tcp { host: String, port: u16, is_https: bool },
    Unix(String),
}

impl Target {
    fn of(http: &Http) -> Result<Self, String> {
        let mut target = match (&http.url, &http.unix) {
            (Some(url), None) => Self::of_url(url).map_err(|why| format!("a URL that cannot be asked: {why}"))?,
            (None, Some(socket)) => {
                Self { place: Place::Unix(socket.clone()), path: http.unix_path().to_owned(), host: "localhost".to_owned() }
            }
            _ => return Err("neither one `url` nor one `unix` to ask".to_owned()),
        };
        if let Some(host) = &http.host {
            target.host.clone_from(host);
        }
        Ok(target)
    }

    fn of_url(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|e: hyper::http::uri::InvalidUri| e.to_string())?;
        let (is_https, own_port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err("it begins neither with http:// nor with https://".to_owned()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("it names no host")?;
        // The parser lets any port pass, and a user name, which no request of ours would carry.
        let rest = uri.authority().and_then(|authority| authority.as_str().strip_prefix(host)).ok_or("it names a user")?;
        let port = match rest.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| "its port is not a number up to 65535")?,
            None => own_port,
        };
        Ok(Self {
            // Brackets belong to the URL and the `Host` header, not to the IPv6 address.
            place: Place::Tcp { host: host.trim_start_matches('[').trim_end_matches(']').to_owned(), port, is_https },
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            host: if port == own_port { host.to_owned() } else { format!("{host}:{port}") },
        })
    }

    /// The name that a certificate has to be for: that of the `Host` header.
    fn name(&self) -> &str {
        let host = match self.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => host,
            _ => &self.host,
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        Request::get(self.path.as_str())
            .header(header::HOST, self.host.as_str())
            .header(header::CONNECTION, "close")
            .header(header::USER_AGENT, concat!("reconciled-probe/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "*/*")
            .body(Empty::new())
            .map_err(|e| format!("a request that cannot be sent: {e}"))
    }
}

/// Why there is no connection, as an administrator would say it.
pub(super) fn connect_words(error: &io::Error, place: &str, socket: bool) -> String {
    let place = clean(place, NETWORK_TEXT_LIMIT);
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NotFound if socket => format!("no such socket: {place}"),
        io::ErrorKind::PermissionDenied => format!("permission denied: {place}"),
        io::ErrorKind::TimedOut => format!("no answer from {place}"),
        _ => format!("{error}: {place}"),
    }
}

/// Why there is no answer.
fn hyper_words(error: &hyper::Error) -> String {
    if error.is_parse() {
        return format!("an answer that is not HTTP ({})", clean(&error.to_string(), NETWORK_TEXT_LIMIT));
    }
    let io = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>()).map(io::Error::kind);
    let closed = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe, io::ErrorKind::UnexpectedEof];
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() || io.is_some_and(|k| closed.contains(&k)) {
        return "connection closed before an answer".to_owned();
    }
    clean(&error.to_string(), NETWORK_TEXT_LIMIT)
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

/// A body that lacks what was wanted. Not a word of it is shown: nobody can know that it holds no secret.
fn describe(body: &[u8]) -> String {
    match body.len() {
        0 => "an empty body".to_owned(),
        BODY_LIMIT => "a body without it in its first 64 KiB".to_owned(),
        length => format!("a body of {length} bytes without it"),
    }
}
