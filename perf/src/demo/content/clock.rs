//! Whether a client sees one clock: the timestamps of everything that a service sends it, captured on its interface.

use lcs_dataplane::headers::options::read_timestamps;
use lcs_dataplane::headers::tcp::{Tcp, flags};
use lcs_dataplane::headers::{parse, protocol};
use lcs_hwconf::packet::{Direction, PacketSocket};
use lcs_hwconf::testbed::{ETH0, Host};
use std::collections::HashMap;
use std::net::SocketAddr;

/// Largest frame that a veth passes with segmentation left to the receiver, bytes.
const FRAME: usize = 66_000;

/// A capture on a client's interface.
pub(super) struct Clock {
    socket: PacketSocket,
    service: SocketAddr,
    buffer: Vec<u8>,
    /// The latest timestamp by the client's port.
    latest: HashMap<u16, u32>,
    segments: u64,
    wrong: Vec<String>,
}

impl Clock {
    /// Begins to capture.
    pub(super) fn new(client: &Host, service: SocketAddr) -> Result<Self, lcs_hwconf::Error> {
        let socket = PacketSocket::open(client.namespace(), ETH0)?;
        let buffer = vec![0; FRAME];
        Ok(Clock { socket, service, buffer, latest: HashMap::new(), segments: 0, wrong: vec![] })
    }

    /// Looks at what has come since.
    pub(super) fn look(&mut self) -> Result<(), lcs_hwconf::Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some((length, direction)) = self.socket.receive(&mut buffer)? {
            if direction == Direction::Received {
                self.segment(buffer.get(..length).unwrap_or(&buffer));
            }
        }
        self.buffer = buffer;
        Ok(())
    }

    fn segment(&mut self, frame: &[u8]) {
        let Some(p) = parse(frame, false).ok().filter(|p| p.protocol == protocol::TCP) else { return };
        let Some(Ok(tcp)) = frame.get(usize::from(p.l4)..usize::from(p.end)).map(Tcp::parse) else { return };
        if tcp.source_port() != self.service.port() || tcp.flags() & flags::RST != 0 {
            return;
        }
        self.segments += 1;
        let port = tcp.destination_port();
        let what = |what: String| format!("port {port}, flags {:#x}: {what}", tcp.flags());
        let Some((value, _)) = read_timestamps(tcp.options()) else {
            self.wrong.push(what("a segment without timestamps".into()));
            return;
        };
        let latest = self.latest.get(&port).copied().filter(|_| tcp.flags() & flags::SYN == 0);
        let back = latest.map_or(0, |latest| latest.wrapping_sub(value) as i32);
        // What the director says itself leaves at once, what it forwards with its batch: an acknowledgement without data may so be
        // overtaken, as on any network, by the grain of a clock. It says nothing that the other has not said.
        let overtaken = back == 1 && tcp.payload().is_empty() && tcp.flags() & (flags::SYN | flags::FIN) == 0;
        if back > 0 && !overtaken {
            self.wrong.push(what(format!("{value} after {}", value.wrapping_add(back as u32))));
        }
        if !overtaken {
            self.latest.insert(port, value);
        }
    }

    /// What was seen.
    pub(super) fn outcome(&self) -> Result<String, String> {
        match self.wrong.first() {
            None if self.segments > 0 => {
                Ok(format!("{} segments of {} connections with timestamps", self.segments, self.latest.len()))
            }
            None => Err("no segment was captured".into()),
            Some(first) => Err(format!("{} of {} segments; the first: {first}", self.wrong.len(), self.segments)),
        }
    }
}
