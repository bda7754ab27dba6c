//! Clients and servers of the bench: each frame of the director's is answered as the ends' kernels would.

use super::Rules;
use crate::connections::{client, frame, seen};
use hashbrown::HashMap;
use lcs_dataplane::cycles::tsc;
use lcs_dataplane::headers::build::{Packet, Transport};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Payload of a client's segment, bytes.
const SEGMENT: usize = 1400;
/// Bytes of a response, head included.
const RESPONSE: usize = 1000;
/// First byte of the addresses of the clients of layer 4.
const BESIDE: u8 = 11;
/// The service of layer 4.
pub(super) const BESIDE_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Where its frames carry the time at which they were due: behind Ethernet, IPv4 and TCP headers without options.
const STAMP: std::ops::Range<usize> = 54..62;

/// A client's connection, both ends of it.
struct Connection {
    /// Which request is in turn, and how many follow it.
    request: usize,
    left: usize,
    /// When its last segment was put on the wire; nothing has gone to a server since.
    asked: Option<u64>,
    /// Bytes of it that the server has.
    received: usize,
    /// The server's next number; the next that it expects, and the next that the client does. On a machine that takes cores away,
    /// time-outs come up, and segments come twice.
    server_next: u32,
    server_expects: u32,
    client_expects: u32,
}

/// A frame toward the director, and whose request it ends.
pub(super) struct Outgoing {
    pub bytes: Vec<u8>,
    pub ends_request_of: Option<SocketAddr>,
}

pub(super) struct Ends {
    requests: Vec<Vec<u8>>,
    responses: [Vec<u8>; 2],
    of_each: usize,
    connections: HashMap<SocketAddr, Connection>,
    next: usize,
    /// Connections that are to be open.
    pub at_once: usize,
    /// Frames toward the director.
    pub wire: VecDeque<Outgoing>,
    /// Requests answered.
    pub answered: u64,
    /// Frames of layer 4 that came through.
    pub passed: u64,
    /// Cycles from a request's last byte to the first segment to a server; of frames of layer 4, from when they were due.
    pub decisions: Vec<f64>,
    pub packets: Vec<f64>,
    beside: Vec<Vec<u8>>,
    turn: usize,
}

/// Samples of delays that are kept of one measurement.
const SAMPLES: usize = 1 << 18;

impl Ends {
    /// Ends for requests under these rules, so many on each connection.
    pub fn new(rules: Rules, of_each: usize) -> Self {
        let response = |close: bool| {
            let close = if close { "Connection: close\r\n" } else { "" };
            let head = |n: usize| format!("HTTP/1.1 200 OK\r\nServer: bench\r\n{close}Content-Length: {n}\r\n\r\n");
            let body = RESPONSE - head(RESPONSE).len();
            let mut bytes = head(body).into_bytes();
            bytes.resize(bytes.len() + body, b'y');
            bytes
        };
        Ends {
            requests: rules.requests(),
            responses: [response(false), response(true)],
            of_each,
            connections: HashMap::new(),
            next: 0,
            at_once: 0,
            wire: VecDeque::new(),
            answered: 0,
            passed: 0,
            decisions: Vec::new(),
            packets: Vec::new(),
            beside: Vec::new(),
            turn: 0,
        }
    }

    /// Segments of the longest request.
    pub fn segments(&self) -> usize {
        self.requests.iter().map(|r| r.len().div_ceil(SEGMENT)).max().unwrap_or(1)
    }

    /// Opens connections until there are enough.
    pub fn open(&mut self) {
        while self.connections.len() < self.at_once {
            let (from, to) = client(self.next);
            let request = self.next % self.requests.len();
            self.next += 1;
            let connection = Connection {
                request,
                left: self.of_each - 1,
                asked: None,
                received: 0,
                server_next: 0,
                server_expects: 0,
                client_expects: 0,
            };
            self.connections.insert(from, connection);
            self.put(frame(from, to, SYN, 0x1000_0000, 0, &[]));
        }
    }

    fn put(&mut self, bytes: Vec<u8>) {
        self.wire.push_back(Outgoing { bytes, ends_request_of: None });
    }

    /// Forgets when requests were asked: between two measurements nobody decides.
    pub fn forget_times(&mut self) {
        for c in self.connections.values_mut() {
            c.asked = None;
        }
    }

    /// A request has been put on the wire to its end.
    pub fn asks(&mut self, client: SocketAddr) {
        if let Some(c) = self.connections.get_mut(&client) {
            c.asked = Some(tsc());
        }
    }

    fn request(&mut self, from: SocketAddr, to: SocketAddr, seq: u32, ack: u32) {
        let Some(c) = self.connections.get(&from) else { return };
        let bytes = &self.requests[c.request];
        let last = bytes.len().div_ceil(SEGMENT) - 1;
        for (n, part) in bytes.chunks(SEGMENT).enumerate() {
            let flags = if n == last { ACK | PSH } else { ACK };
            let bytes = frame(from, to, flags, seq.wrapping_add((n * SEGMENT) as u32), ack, part);
            self.wire.push_back(Outgoing { bytes, ends_request_of: (n == last).then_some(from) });
        }
    }

    /// A frame of the director's. `now` is the workers' own time.
    pub fn receives(&mut self, b: &[u8], now: u64) {
        if b.get(26) == Some(&BESIDE) {
            self.passed += 1;
            let due = b.get(STAMP).and_then(|stamp| stamp.try_into().ok()).map_or(now, u64::from_ne_bytes);
            if due > 0 && self.packets.len() < SAMPLES {
                self.packets.push(now.saturating_sub(due) as f64);
            }
            return;
        }
        let Some(s) = seen(b) else { return };
        let (fin, syn) = (s.flags & FIN != 0, s.flags & SYN != 0);
        let end = s.seq.wrapping_add(s.payload as u32).wrapping_add(u32::from(fin));
        if s.flags & RST != 0 {
            return;
        }
        if matches!(s.to.ip(), IpAddr::V4(a) if a.octets()[0] == 172) {
            return self.server(s.from, s.to, (syn, fin, s.payload), (s.seq, end, s.ack));
        }
        if syn {
            let Some(c) = self.connections.get_mut(&s.to).filter(|c| c.client_expects == 0) else { return };
            c.client_expects = end.wrapping_add(1);
            self.put(frame(s.to, s.from, ACK, s.ack, end.wrapping_add(1), &[]));
            return self.request(s.to, s.from, s.ack, end.wrapping_add(1));
        }
        if s.payload > 0 {
            let Some(c) = self.connections.get_mut(&s.to).filter(|c| c.client_expects == s.seq) else { return };
            c.client_expects = end;
            self.answered += 1;
            if c.left > 0 && !fin {
                c.left -= 1;
                return self.request(s.to, s.from, s.ack, end);
            }
        }
        if fin {
            self.connections.remove(&s.to);
            self.put(frame(s.to, s.from, ACK | FIN, s.ack, end, &[]));
        } else if s.payload > 0 {
            self.put(frame(s.to, s.from, ACK, s.ack, end, &[]));
        }
    }

    /// What the server's kernel and the server do for a segment.
    fn server(
        &mut self,
        client: SocketAddr,
        server: SocketAddr,
        (syn, fin, payload): (bool, bool, usize),
        (seq, end, ack): (u32, u32, u32),
    ) {
        let Some(c) = self.connections.get_mut(&client) else {
            // The client has closed; so does its server.
            if fin {
                self.put(frame(server, client, ACK, ack, end, &[]));
            }
            return;
        };
        if (syn || payload > 0)
            && let Some(asked) = c.asked.take()
            && self.decisions.len() < SAMPLES
        {
            self.decisions.push(tsc().wrapping_sub(asked) as f64);
        }
        if syn {
            c.server_next = 0x5000_0000;
            c.received = 0;
            c.server_expects = seq.wrapping_add(1);
            let isn = c.server_next.wrapping_sub(1);
            return self.put(frame(server, client, SYN | ACK, isn, seq.wrapping_add(1), &[]));
        }
        if payload == 0 {
            return;
        }
        let next = c.server_next;
        if seq != c.server_expects {
            let expects = c.server_expects;
            return self.put(frame(server, client, ACK, next, expects, &[]));
        }
        c.server_expects = end;
        c.received += payload;
        if c.received < self.requests[c.request].len() {
            return self.put(frame(server, client, ACK, next, end, &[]));
        }
        c.received = 0;
        let last = c.left == 0;
        let response = &self.responses[usize::from(last)];
        c.server_next = next.wrapping_add(response.len() as u32);
        let flags = ACK | PSH | if last { FIN } else { 0 };
        let bytes = frame(server, client, flags, next, end, response);
        self.put(bytes);
    }

    /// Frames that open so many flows of layer 4.
    pub fn open_beside(&mut self, flows: usize) -> Vec<Vec<u8>> {
        let mut opening = vec![];
        for n in 0..flows {
            let from = SocketAddr::new(Ipv4Addr::new(BESIDE, 0, 0, 1).into(), 1024 + n as u16);
            let to = SocketAddr::new(BESIDE_SERVICE.into(), 80);
            opening.push(frame(from, to, SYN, 1, 0, &[]));
            opening.push(frame(from, to, ACK, 2, 1, &[]));
            let mut p = Packet { destination_mac: crate::connections::DIRECTOR, ..Packet::tcp(from, to, ACK) }
                .payload(&[0; 16]);
            p.transport = Transport::Tcp { flags: ACK, seq: 2, ack: 1, window: 512, options: vec![] };
            self.beside.push(p.frame());
        }
        opening
    }

    /// The next frame of layer 4 that was due at `due`, in the workers' own time; 0 where its delay is not asked for.
    pub fn beside(&mut self, due: u64) -> &[u8] {
        self.turn = (self.turn + 7) % self.beside.len();
        let bytes = &mut self.beside[self.turn];
        // Forwarding changes the checksum by what it changes, whatever it was.
        bytes[STAMP].copy_from_slice(&due.to_ne_bytes());
        bytes
    }
}
