//! git's packet lines (gitprotocol-common(5)): four hexadecimal digits of length, then the bytes; `0000` is a flush.

use std::io::{BufRead, Write};

/// Longest packet, in bytes (gitprotocol-common(5)).
const LIMIT: usize = 65_520;

/// Packets of a stream.
pub(super) struct Packets<R> {
    input: R,
}

impl<R: BufRead> Packets<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input }
    }

    /// The next packet; `None` for a flush or the end of the stream.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut head = [0_u8; 4];
        match self.input.read_exact(&mut head) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result.map_err(|e| e.to_string())?,
        }
        let digits = std::str::from_utf8(&head).ok().filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
        let length = digits.and_then(|h| usize::from_str_radix(h, 16).ok());
        match length {
            Some(0) => Ok(None),
            Some(length @ 4..=LIMIT) => {
                let mut packet = vec![0; length - 4];
                self.input.read_exact(&mut packet).map_err(|e| e.to_string())?;
                Ok(Some(packet))
            }
            _ => Err("git sent a malformed packet".to_owned()),
        }
    }
}

pub(super) fn write(output: &mut impl Write, packet: &[u8]) -> std::io::Result<()> {
    let cut = &packet[..packet.len().min(LIMIT - 4)];
    write!(output, "{:04x}", cut.len() + 4)?;
    output.write_all(cut)
}

pub(super) fn flush(output: &mut impl Write) -> std::io::Result<()> {
    output.write_all(b"0000")?;
    output.flush()
}
