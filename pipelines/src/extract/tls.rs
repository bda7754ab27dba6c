//! The TLS ClientHello (RFC 8446 section 4.1.2): where the client wants to go. Nothing is decrypted.

use super::error::{ExtractError, Span};

/// What a ClientHello says. Spans are of the handshake message, not of the records that carried it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// Server name (RFC 6066 section 3).
    pub sni: Option<Span>,
    /// The protocol that the client names first (RFC 7301).
    pub alpn: Option<Span>,
    /// Session id, for persistence; TLS 1.3 clients send a random one.
    pub session_id: Option<Span>,
    /// Session ticket (RFC 5077), or the first pre-shared key's identity (RFC 8446 section 4.2.11).
    pub ticket: Option<Span>,
}

/// Collects the handshake message out of its records.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HelloReader {
    /// Bytes of whole records copied so far.
    taken: usize,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

impl HelloReader {
    /// Reads on. The message is returned as its place: in `buffer` if one record holds it, else in `copy`.
    pub(super) fn read(
        &mut self,
        buffer: &[u8],
        limit: usize,
        copy: &mut Vec<u8>,
    ) -> Result<Option<HelloPlace>, ExtractError> {
        loop {
            let rest = &buffer[self.taken..];
            // Refuse as early as the bytes allow.
            if rest.first().is_some_and(|&kind| kind != HANDSHAKE) || rest.get(1).is_some_and(|&major| major != 3) {
                return Err(ExtractError::NotTls);
            }
            if self.taken == 0 && rest.get(5).is_some_and(|&kind| kind != CLIENT_HELLO) {
                return Err(ExtractError::NotTls);
            }
            let [_, _, _, high, low, record @ ..] = rest else { return Ok(None) };
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            // RFC 8446 section 5.1: no empty handshake fragments, none above 2^14.
            if length == 0 || length > 1 << 14 {
                return Err(ExtractError::NotTls);
            }
            // How long the message is comes before how long its record may be.
            if self.taken == 0 && length >= 4 && record.len() < 4 {
                return Ok(None);
            }
            // One record with all of it, or all of it known to be too long, needs no copy.
            if self.taken == 0
                && length >= 4
                && let Some(&[_, a, b, c]) = record.get(..4)
            {
                let message = 4 + usize::from(a) * 65536 + usize::from(b) * 256 + usize::from(c);
                if message > limit {
                    return Err(ExtractError::HelloTooLarge);
                }
                if message <= length {
                    return Ok((record.len() >= message).then_some(HelloPlace::Buffer(Span::new(5, 5 + message))));
                }
            }
            if self.taken + 5 + length > limit {
                return Err(ExtractError::HelloTooLarge);
            }
            let Some(record) = record.get(..length) else { return Ok(None) };
            copy.extend_from_slice(record);
            self.taken += 5 + length;
            if let Some(&[kind, a, b, c]) = copy.get(..4) {
                if kind != CLIENT_HELLO {
                    return Err(ExtractError::NotTls);
                }
                let message = 4 + usize::from(a) * 65536 + usize::from(b) * 256 + usize::from(c);
                if message > limit {
                    return Err(ExtractError::HelloTooLarge);
                }
                if message <= copy.len() {
                    return Ok(Some(HelloPlace::Copy(Span::new(0, message))));
                }
            }
        }
    }
}

/// Where a whole ClientHello stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HelloPlace {
    Buffer(Span),
    Copy(Span),
}

/// Reads bytes in order; running out is a malformed message.
struct Cursor<'b> {
    message: &'b [u8],
    at: usize,
    end: usize,
}

impl<'b> Cursor<'b> {
    fn number(&mut self, bytes: usize) -> Result<usize, ExtractError> {
        let span = self.span(bytes)?;
        Ok(span.of(self.message).iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    }

    fn span(&mut self, length: usize) -> Result<Span, ExtractError> {
        if length > self.end - self.at {
            return Err(ExtractError::Hello);
        }
        let span = Span::new(self.at, self.at + length);
        self.at += length;
        Ok(span)
    }

    /// A vector with its length in so many bytes before it.
    fn vector(&mut self, bytes: usize) -> Result<Span, ExtractError> {
        let length = self.number(bytes)?;
        self.span(length)
    }

    fn inside(&self, span: Span) -> Cursor<'b> {
        Cursor { message: self.message, at: span.start as usize, end: span.end as usize }
    }

    fn is_empty(&self) -> bool {
        self.at == self.end
    }
}

/// Reads a whole handshake message, header included.
pub fn client_hello(message: &[u8]) -> Result<ClientHello, ExtractError> {
    let mut hello = ClientHello::default();
    let mut cursor = Cursor { message, at: 0, end: message.len() };
    if cursor.number(1)? != usize::from(CLIENT_HELLO) {
        return Err(ExtractError::NotTls);
    }
    let body = cursor.vector(3)?;
    let mut body = cursor.inside(body);
    body.span(2 + 32)?;
    let session_id = body.vector(1)?;
    hello.session_id = Some(session_id).filter(|id| id.start < id.end);
    body.vector(2)?;
    body.vector(1)?;
    if body.is_empty() {
        return Ok(hello);
    }
    let extensions = body.vector(2)?;
    let mut extensions = body.inside(extensions);
    while !extensions.is_empty() {
        let kind = extensions.number(2)?;
        let content = extensions.vector(2)?;
        let mut content_cursor = extensions.inside(content);
        match kind {
            0 if hello.sni.is_none() => {
                let names = content_cursor.vector(2)?;
                let mut names = content_cursor.inside(names);
                while !names.is_empty() {
                    let (kind, name) = (names.number(1)?, names.vector(2)?);
                    if kind == 0 && hello.sni.is_none() && name.start < name.end {
                        hello.sni = Some(name);
                    }
                }
            }
            16 if hello.alpn.is_none() => {
                let names = content_cursor.vector(2)?;
                let mut names = content_cursor.inside(names);
                hello.alpn = Some(names.vector(1)?);
            }
            35 if hello.ticket.is_none() => hello.ticket = Some(content).filter(|ticket| ticket.start < ticket.end),
            41 if hello.ticket.is_none() => {
                let identities = content_cursor.vector(2)?;
                let mut identities = content_cursor.inside(identities);
                hello.ticket = Some(identities.vector(2)?);
            }
            _ => {}
        }
    }
    Ok(hello)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(bytes: usize, content: &[u8]) -> Vec<u8> {
        [&content.len().to_be_bytes()[8 - bytes..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(2, content)].concat()
    }

    fn hello(name: &str) -> Vec<u8> {
        let extensions = [
            extension(0x0a0a, &[]),
            extension(0, &vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat())),
            extension(16, &vector(2, &[vector(1, b"h2"), vector(1, b"http/1.1")].concat())),
            extension(35, b"ticket"),
        ]
        .concat();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &vector(1, b"session"),
            &vector(2, &[0x13, 0x01]),
            &vector(1, &[0]),
            &vector(2, &extensions),
        ]
        .concat();
        [&[1][..], &vector(3, &body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &vector(2, part)].concat()).collect()
    }

    fn read(stream: &[u8], piece: usize) -> Result<Option<Vec<u8>>, ExtractError> {
        let (mut reader, mut copy, mut length) = (HelloReader::default(), Vec::new(), 0);
        loop {
            length = stream.len().min(length + piece);
            if let Some(place) = reader.read(&stream[..length], 16384, &mut copy)? {
                return Ok(Some(match place {
                    HelloPlace::Buffer(span) => span.of(stream).to_vec(),
                    HelloPlace::Copy(span) => span.of(&copy).to_vec(),
                }));
            }
            if length == stream.len() {
                return Ok(None);
            }
        }
    }

    #[test]
    fn a_hello_over_any_records_and_segments() {
        let message = hello("Shop.example.com");
        let parsed = client_hello(&message).unwrap();
        let text = |span: Option<Span>| span.map(|span| span.of(&message));
        assert_eq!(text(parsed.sni), Some(&b"Shop.example.com"[..]));
        assert_eq!(text(parsed.alpn), Some(&b"h2"[..]));
        assert_eq!(text(parsed.session_id), Some(&b"session"[..]));
        assert_eq!(text(parsed.ticket), Some(&b"ticket"[..]));
        for record in [1, 3, 4, 50, 5000] {
            let stream = [records(&message, record), b"later".to_vec()].concat();
            for piece in [1, 2, 7, 100, 5000] {
                assert_eq!(read(&stream, piece), Ok(Some(message.clone())), "records of {record}, pieces of {piece}");
            }
        }
        for length in 4..message.len() {
            let mut cut = message[..length].to_vec();
            let body = (length - 4) as u32;
            cut[1..4].copy_from_slice(&body.to_be_bytes()[1..]);
            let _ = client_hello(&cut);
            assert_eq!(client_hello(&message[..length]), Err(ExtractError::Hello));
        }
    }

    #[test]
    fn what_is_no_hello() {
        assert_eq!(read(b"GET / HTTP/1.1\r\n", 1), Err(ExtractError::NotTls));
        assert_eq!(read(&[22, 3, 1, 0, 0], 1), Err(ExtractError::NotTls));
        assert_eq!(read(&[22, 3, 1, 0, 4, 2, 0, 0, 0], 1), Err(ExtractError::NotTls));
        assert_eq!(read(&[22, 3, 1, 0x40, 0, 1, 1, 0, 0], 1), Err(ExtractError::HelloTooLarge));
        assert_eq!(read(&[22, 3], 1), Ok(None));
    }
}
