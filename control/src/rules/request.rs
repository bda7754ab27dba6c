//! A request that somebody gives to be explained: bytes as they are sent, text, or a connection out of a capture.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use lcs_dataplane::headers::ipv4::Ipv4;
use lcs_dataplane::headers::ipv6::Ipv6;
use lcs_dataplane::headers::parse::{Kind, Parsed, parse};
use lcs_dataplane::headers::seq::SeqNumber;
use lcs_dataplane::headers::tcp::{Tcp, flags};
use lcs_dataplane::port::pcap::{Problem, Reader};

use super::connection::{Connection, HEAD};
use super::table::written_out;

/// Bytes of a captured connection that are looked at: more than any rule may ask for.
pub const MAX_STREAM: usize = 16 << 20;

/// What a client sent, and on which connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenRequest {
    /// The state of the groups and, where no packets were captured, the connection.
    pub connection: Connection,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The packets that brought the bytes, in the order in which they came; none where only the bytes are given.
    pub packets: Vec<Arrived>,
    /// Whether the client has closed behind the last byte.
    pub ended: bool,
}

/// A packet that brought something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// How many bytes could be read once it had come, without a gap.
    pub readable: usize,
    /// Its beginning, from the IP header on.
    pub head: Vec<u8>,
}

/// Why a capture gives no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be read.
    #[error("the capture cannot be read: {0}")]
    Read(#[from] lcs_dataplane::port::pcap::ReadError),
    /// Nobody talks to the port.
    #[error("no client sends anything over TCP to port {0} in this capture; name another with --port")]
    Nothing(u16),
}

impl GivenRequest {
    /// Out of a file's bytes: a capture's first TCP connection toward `port` that carries anything, or else the bytes
    /// themselves.
    ///
    /// # Errors
    /// When it is a capture and has no such connection, or is damaged.
    pub fn from_file(bytes: Vec<u8>, port: u16) -> Result<Self, CaptureError> {
        let error = match Reader::new(&bytes) {
            Ok(reader) => return first_stream(reader, port),
            Err(error) => error,
        };
        // Fewer than the four bytes that would tell are no capture either.
        if matches!(error.problem, Problem::NotACapture { .. }) || bytes.len() < 4 {
            return Ok(GivenRequest::plain(bytes));
        }
        Err(error.into())
    }

    /// Out of text with plain line ends, as in a test table: an HTTP head gets CR LF, and a body its length.
    pub fn from_text(text: &str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        GivenRequest::plain(written_out(&lines))
    }

    fn plain(bytes: Vec<u8>) -> Self {
        GivenRequest { connection: Connection::default(), bytes, packets: Vec::new(), ended: false }
    }

    /// The connection as a packet shows it, and the groups.
    pub(super) fn connection_at(&self, packet: Option<&Arrived>) -> Connection {
        let Some(packet) = packet else { return self.connection.clone() };
        let mut connection = Connection::from_packet(&packet.head);
        connection.servers_up.clone_from(&self.connection.servers_up);
        connection.connections.clone_from(&self.connection.connections);
        connection
    }
}

/// One direction of a captured connection.
struct Stream {
    /// The number of the first byte.
    base: SeqNumber,
    /// Whether its SYN was captured.
    whole: bool,
    /// What came, in that order.
    segments: Vec<Segment>,
    /// Where the client has closed, from `base`.
    fin: Option<i64>,
}

/// A segment with data.
struct Segment {
    /// Its distance from the stream's base, bytes.
    at: i64,
    payload: Vec<u8>,
    /// The beginning of its packet.
    head: Vec<u8>,
}

fn first_stream(reader: Reader<'_>, port: u16) -> Result<GivenRequest, CaptureError> {
    let mut opened: HashMap<(IpAddr, u16), Stream> = HashMap::new();
    // The first that has bytes.
    let mut chosen: Option<((IpAddr, u16), Stream)> = None;
    let mut size = 0;
    for frame in reader {
        let frame = frame?;
        let Ok(parsed) = parse(frame.bytes, false) else { continue };
        let Some((client, packet, tcp)) = toward(frame.bytes, &parsed, port) else { continue };
        let payload = packet.get(usize::from(parsed.l4) - usize::from(parsed.l3) + tcp.header_len()..).unwrap_or(&[]);
        let syn = tcp.flags() & flags::SYN != 0;
        let first = SeqNumber(tcp.seq().0.wrapping_add(u32::from(syn)));
        let stream = || Stream { base: first, whole: syn, segments: vec![], fin: None };
        match &mut chosen {
            Some((other, _)) if *other != client => continue,
            Some((_, chosen)) if syn && chosen.base != first => break, // another connection of the same client
            Some(_) => {}
            None => {
                if syn {
                    opened.insert(client, stream());
                }
                if !payload.is_empty() {
                    chosen = Some((client, opened.remove(&client).unwrap_or_else(stream)));
                }
            }
        }
        if let Some((_, stream)) = &mut chosen {
            let at = i64::from(first.since(stream.base));
            if tcp.flags() & flags::FIN != 0 {
                stream.fin = Some(at + payload.len() as i64);
            }
            if !payload.is_empty() {
                size += payload.len();
                let head = packet[..packet.len().min(HEAD)].to_vec();
                stream.segments.push(Segment { at, payload: payload.to_vec(), head });
            }
        }
        if size > MAX_STREAM {
            break;
        }
    }
    let (_, stream) = chosen.ok_or(CaptureError::Nothing(port))?;
    Ok(assemble(stream))
}

/// A TCP segment: who sent it, the packet from its IP header on, and its TCP header.
type ToService<'f> = ((IpAddr, u16), &'f [u8], Tcp<&'f [u8]>);

/// A frame's segment, if it is toward the port.
fn toward<'f>(frame: &'f [u8], parsed: &Parsed, port: u16) -> Option<ToService<'f>> {
    if parsed.protocol != 6 {
        return None;
    }
    let packet = frame.get(usize::from(parsed.l3)..usize::from(parsed.end))?;
    let source: IpAddr = match parsed.kind {
        Kind::Transport4 => Ipv4::parse(packet).ok()?.source().into(),
        Kind::Transport6 => Ipv6::parse(packet).ok()?.source().into(),
        _ => return None,
    };
    let tcp = Tcp::parse(frame.get(usize::from(parsed.l4)..usize::from(parsed.end))?).ok()?;
    (tcp.destination_port() == port).then(|| ((source, tcp.source_port()), packet, tcp))
}

/// The bytes from the first on, up to the first that is missing; of bytes that were sent twice, the first copy.
fn assemble(stream: Stream) -> GivenRequest {
    let first = stream.segments.iter().map(|segment| segment.at).min().unwrap_or(0);
    let start = if stream.whole { 0 } else { first };
    let mut given = GivenRequest::plain(Vec::new());
    // What came ahead of a gap, by its place.
    let mut ahead: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
    for segment in stream.segments {
        let known = ahead.entry(segment.at).or_default();
        known.extend_from_slice(segment.payload.get(known.len()..).unwrap_or(&[]));
        let before = given.bytes.len();
        while let Some(next) = ahead.first_entry()
            && let Ok(old) = usize::try_from(start + given.bytes.len() as i64 - *next.key())
        {
            given.bytes.extend_from_slice(next.remove().get(old..).unwrap_or(&[]));
        }
        if given.bytes.len() > before {
            given.packets.push(Arrived { readable: given.bytes.len(), head: segment.head });
        }
    }
    given.ended = stream.fin == Some(start + given.bytes.len() as i64);
    given.connection = given.connection_at(given.packets.first());
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::headers::build::Packet;
    use lcs_dataplane::port::pcap::Writer;
    use std::net::SocketAddr;

    fn segment(from: &str, to: &str, tcp_flags: u8, seq: u32, payload: &[u8]) -> Vec<u8> {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mut frame = Packet::tcp(address(from), address(to), tcp_flags).payload(payload).frame();
        let parsed = parse(&frame, false).unwrap();
        let at = usize::from(parsed.l4);
        frame[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
        frame
    }

    fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for (i, frame) in frames.iter().enumerate() {
            writer.write(i as u64, frame).unwrap();
        }
        writer.finish().unwrap()
    }

    const SERVICE: &str = "192.0.2.1:80";
    const CLIENT: &str = "198.51.100.7:4000";

    #[test]
    fn the_first_connection_that_says_something_is_put_together_over_the_wrap() {
        let near = u32::MAX - 2;
        let frames = [
            segment("198.51.100.9:1", SERVICE, flags::SYN, 5, b""),
            segment(SERVICE, CLIENT, flags::SYN | flags::ACK, 9, b""),
            segment(CLIENT, "192.0.2.1:443", flags::ACK, 1, b"not this"),
            segment(CLIENT, SERVICE, flags::SYN, near.wrapping_sub(1), b""),
            segment(CLIENT, SERVICE, flags::ACK, near.wrapping_add(6), b"/a HTTP"),
            segment("198.51.100.9:1", SERVICE, flags::ACK, 6, b"too late"),
            segment(CLIENT, SERVICE, flags::ACK, near, b"GET"),
            segment(CLIENT, SERVICE, flags::ACK, near, b"GET  /"),
            segment(CLIENT, SERVICE, flags::ACK, near.wrapping_add(20), b"behind a gap"),
            segment(CLIENT, SERVICE, flags::SYN, 77, b""),
            segment(CLIENT, SERVICE, flags::ACK, 78, b"another"),
        ];
        let given = GivenRequest::from_file(capture(&frames), 80).unwrap();
        assert_eq!(given.bytes, b"GET  //a HTTP");
        // The packets that brought something, not the SYN, nor what came ahead.
        let readable: Vec<(usize, usize)> = given.packets.iter().map(|p| (p.readable, p.head.len())).collect();
        assert_eq!(readable, [(3, 40 + 3), (13, 40 + 6)]);
        assert!(!given.ended);
        assert_eq!(&given.connection.packet()[12..16], [198, 51, 100, 7]);
        let none = GivenRequest::from_file(capture(&frames), 25).unwrap_err();
        assert_eq!(none, CaptureError::Nothing(25));
    }

    #[test]
    fn a_capture_that_begins_in_the_middle_is_read_from_its_first_byte() {
        let client = "[2001:db8::7]:4000";
        let frames = [
            segment(client, "[2001:db8::1]:80", flags::ACK, 1003, b"b"),
            segment(client, "[2001:db8::1]:80", flags::ACK, 1000, b"GET"),
        ];
        let given = GivenRequest::from_file(capture(&frames), 80).unwrap();
        assert_eq!(given.bytes, b"GETb");
        assert_eq!(given.connection.packet()[0] >> 4, 6);
    }

    #[test]
    fn what_is_no_capture_is_the_request_itself_and_a_damaged_capture_is_an_error() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", b"A", &[0x16, 3, 1, 0, 5]] {
            assert_eq!(GivenRequest::from_file(bytes.to_vec(), 80).unwrap().bytes, bytes);
        }
        let mut cut = capture(&[segment(CLIENT, SERVICE, flags::ACK, 1, b"GET / HTTP/1.1\r\n")]);
        cut.truncate(cut.len() - 3);
        assert!(matches!(GivenRequest::from_file(cut, 80), Err(CaptureError::Read(_))));
    }
}
