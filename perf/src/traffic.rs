//! The traffic of the benches: a snapshot with services and servers, connections through it, and their frames.
//!
//! Frames are written from templates whose checksums are carried on by difference, so that making one costs little; what it
//! costs is never in a figure of the director's.

use crate::stages::Options;
use crate::wire::Wire;
use lcs_dataplane::checksum::{Difference, Sum};
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::headers::build::Packet;
use lcs_dataplane::headers::protocol;
use lcs_dataplane::headers::tcp::flags::ACK;
use lcs_pipelines::content::{Guess, Scheme, Switching};
use lcs_pipelines::snapshot::{Forward, Interface, NextHop, Scheduler, Server, ServerState, Service, Snapshot};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Addresses of clients begin here.
const CLIENTS: u32 = 0x0a00_0001;

pub(crate) fn next_random(state: &mut u64) -> u64 {
    // xorshift64*: the order of flows must be unpredictable to the prefetcher, nothing more.
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

pub(crate) fn service_address(o: &Options, service: usize) -> IpAddr {
    if o.ipv6 {
        IpAddr::V6(Ipv6Addr::from(0x2001_0db8_0000_0000_0000_0000_0000_0000_u128 + service as u128))
    } else {
        IpAddr::V4(Ipv4Addr::from(0xc612_0000 + service as u32))
    }
}

pub(crate) fn server_address(o: &Options, server: usize) -> IpAddr {
    if o.ipv6 {
        IpAddr::V6(Ipv6Addr::from(0xfd00_0000_0000_0000_0000_0000_0000_0001_u128 + server as u128))
    } else {
        IpAddr::V4(Ipv4Addr::from(0xac10_0001 + server as u32))
    }
}

pub(crate) fn client_address(o: &Options, client: u32) -> IpAddr {
    if o.ipv6 {
        IpAddr::V6(Ipv6Addr::from(0x2001_0db8_0001_0000_0000_0000_0000_0000_u128 + u128::from(client)))
    } else {
        IpAddr::V4(Ipv4Addr::from(client))
    }
}

/// The MTU of clients, bytes of an IP packet.
const MTU: u16 = 1500;

/// The MTU on the way to the servers: where they are reached through tunnels, larger by the outer header, as it is set up where clients' packets
/// must fit whole. Every frame that is offered can be carried then, and loss is the director's.
pub(crate) fn server_mtu(o: &Options) -> u16 {
    match (o.forward, o.ipv6) {
        (Forward::Tunnel, false) => MTU + 20,
        (Forward::Tunnel, true) => MTU + 40,
        _ => MTU,
    }
}

pub(crate) const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// A snapshot with the services and servers that the options ask for.
pub fn snapshot(o: &Options) -> Snapshot {
    let mut s = Snapshot {
        interfaces: vec![Interface { name: "memory0".into(), mac: DIRECTOR, mtu: server_mtu(o) }],
        ..Snapshot::default()
    };
    let source =
        if o.ipv6 { IpAddr::V6(Ipv6Addr::from(0xfd01 << 112 | 1)) } else { IpAddr::V4(Ipv4Addr::new(172, 31, 0, 1)) };
    for n in 0..o.services {
        let address = service_address(o, n);
        s.by_endpoint.insert((address, 80, 6), n as u16);
        s.own.insert(address);
        s.services.push(Some(Service {
            name: format!("service{n}"),
            address,
            port: 80,
            protocol: 6,
            scheduler: Scheduler::Rr,
            servers: (0..o.servers).filter(|r| r % o.services == n).map(|r| r as u16).collect(),
            sources: match (o.forward, source) {
                (Forward::FullNat, IpAddr::V4(a)) => {
                    (0..64).map(|k| IpAddr::V4(Ipv4Addr::from(u32::from(a) + k))).collect()
                }
                (Forward::FullNat, IpAddr::V6(a)) => {
                    (0..64).map(|k| IpAddr::V6(Ipv6Addr::from(u128::from(a) + k))).collect()
                }
                _ => vec![],
            },
            source_ports: (1024, 65535),
            persistence: None,
            content: None,
        }));
    }
    if o.splice {
        crate::connections::switch_by_content(&mut s, Scheme::Delayed, Switching::Request);
    }
    if o.preallocate {
        crate::connections::switch_by_content(&mut s, Scheme::Preallocate(Guess::Hash), Switching::Connection);
        // Behind direct routing, what would mend a wrong guess; without it nothing is guessed.
        for service in s.services.iter_mut().flatten().filter(|service| service.sources.is_empty()) {
            service.sources.push(source);
        }
    }
    for r in 0..o.servers {
        s.next_hops.push(NextHop::new(MacAddr([2, 0, 0, 1, (r >> 8) as u8, r as u8]), DIRECTOR, 0, server_mtu(o)));
        s.servers.push(Some(Server {
            name: format!("server{r}"),
            service: (r % o.services) as u16,
            address: server_address(o, r),
            port: if o.forward.replies_return() { 8080 } else { 0 },
            forward: o.forward,
            weight: 1,
            state: ServerState::Up,
            next_hop: r as u16,
            tunnel_source: (o.forward == Forward::Tunnel).then_some(source),
        }));
    }
    s
}

/// Ends of one flow as packets of either side have them.
#[derive(Debug, Clone, Copy)]
struct Ends {
    client: u32,
    server: u32,
    /// Client's port and, in full NAT, the director's.
    ports: (u16, u16),
}

/// What a probe carries in its sequence and acknowledgement numbers, which layer 4 leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The probe's number, above 1, which is what every other frame has.
    pub number: u32,
    /// When it was due on the wire, ns, the low 32 bits.
    pub due: u32,
}

/// Source and destination.
pub(crate) type Pair = (SocketAddr, SocketAddr);

/// Connections, and how their frames are written.
#[derive(Debug)]
pub(crate) struct Traffic {
    options: Options,
    /// One for each size of frame.
    templates: Vec<Vec<u8>>,
    /// Which connections these are, of all that there are; the first ones when empty.
    numbers: Vec<u32>,
    ends: Vec<Ends>,
    random: u64,
}

impl Traffic {
    /// The connections that the options say, none of them open.
    pub fn new(o: &Options) -> Self {
        let mut traffic = Traffic {
            options: o.clone(),
            templates: vec![],
            numbers: vec![],
            ends: Vec::with_capacity(o.flows),
            random: 0x1234_5678_9abc_def1,
        };
        traffic.set_sizes(&[o.size]);
        traffic
    }

    /// Of all connections, these.
    pub fn set_numbers(&mut self, numbers: Vec<u32>) {
        self.numbers = numbers;
    }

    /// Frames of these sizes from now on, bytes with FCS; the last argument of [`Traffic::inject`] chooses.
    pub fn set_sizes(&mut self, sizes: &[usize]) {
        let (from, to) = (client_address(&self.options, CLIENTS), service_address(&self.options, 0));
        let (from, to) = (SocketAddr::new(from, 1), SocketAddr::new(to, 80));
        let template = |size: &usize| {
            // The FCS is the device's.
            Packet { destination_mac: DIRECTOR, ..Packet::tcp(from, to, ACK) }.sized(size.saturating_sub(4)).frame()
        };
        self.templates = sizes.iter().map(template).collect();
    }

    /// A number that the prefetcher does not expect.
    pub fn random(&mut self) -> u64 {
        next_random(&mut self.random)
    }

    /// Puts one frame on the wire. Its checksums follow from the template's by the pipeline's own incremental rule, so they are right.
    pub fn inject(
        &self,
        wire: &mut impl Wire,
        interface: u8,
        pair: Pair,
        flags: u8,
        stamp: Option<Stamp>,
        size: usize,
    ) -> bool {
        let Some(template) = self.templates.get(size) else { return false };
        wire.inject_with(interface, template.len(), |b| {
            b.copy_from_slice(template);
            address(b, self.options.ipv6, pair, flags);
            if let Some(stamp) = stamp {
                self::stamp(b, self.options.ipv6, stamp);
            }
        })
    }

    /// The client's packets of flow `n`: source and destination.
    pub fn client_side(&self, n: usize) -> Pair {
        let o = &self.options;
        let n = self.numbers.get(n).map_or(n, |n| *n as usize);
        client_pair(o, n)
    }

    /// The server's packets of flow `n`, which is open, where they come back through the director.
    pub fn server_side(&self, n: usize) -> Option<Pair> {
        let e = self.ends.get(n).filter(|_| self.options.forward.replies_return())?;
        let (client, _) = self.client_side(n);
        let server = SocketAddr::new(self.server_of(e), 8080);
        Some((server, SocketAddr::new(self.local_of(e, client.ip()), e.ports.1)))
    }

    /// A frame of a connection at random, from a side at random where both pass the director.
    pub fn any(&mut self, flows: usize) -> Pair {
        let r = self.random();
        let n = ((r >> 33) as usize) % flows;
        if r & 1 == 1 { self.server_side(n).unwrap_or_else(|| self.client_side(n)) } else { self.client_side(n) }
    }

    /// Notes, of the next flow, what the director has made of its first packet.
    pub fn opened(&mut self, b: &[u8]) {
        let read = |at: usize| b.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let l4 = if self.options.ipv6 { 54 } else { 34 };
        let port = (read(l4) >> 16) as u16;
        // Where the packet went: the last four bytes of an address tell servers and clients apart.
        let (client, server) = if self.options.ipv6 { (read(34), read(50)) } else { (read(26), read(30)) };
        let server = if self.options.forward.replies_return() { server } else { 0 };
        self.ends.push(Ends { client, server, ports: (port, port) });
    }

    /// Flows that were noted.
    pub fn open(&self) -> usize {
        self.ends.len()
    }

    fn server_of(&self, e: &Ends) -> IpAddr {
        match server_address(&self.options, 0) {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(e.server)),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a) & !0xffff_ffff | u128::from(e.server))),
        }
    }

    fn local_of(&self, e: &Ends, client: IpAddr) -> IpAddr {
        if self.options.forward != Forward::FullNat {
            return client;
        }
        if self.options.ipv6 {
            IpAddr::V6(Ipv6Addr::from((0xfd01_u128 << 112) | u128::from(e.client)))
        } else {
            IpAddr::V4(Ipv4Addr::from(e.client))
        }
    }

    /// The TCP header of a frame of these connections that the director has sent on; `None` where it says something of its own, such as an ICMP
    /// error, which carries the beginning of the frame that it is about.
    fn transport<'b>(&self, frame: &'b [u8]) -> Option<&'b [u8]> {
        // A tunnel's outer header is of the servers' family, which is the clients'.
        let tunnel = self.options.forward == Forward::Tunnel;
        let (ethertype, header, next, inside) = if self.options.ipv6 {
            ([0x86, 0xdd], 40, 6, protocol::IPV6)
        } else {
            ([0x08, 0x00], 20, 9, protocol::IPIP)
        };
        let is = |at: usize, protocol: u8| frame.get(at + next) == Some(&protocol);
        let inner = if tunnel { 14 + header } else { 14 };
        let carried =
            frame.get(12..14) == Some(&ethertype[..]) && (!tunnel || is(14, inside)) && is(inner, protocol::TCP);
        frame.get(inner + header..).filter(|_| carried)
    }

    /// Whether the director has sent on a frame of these connections here, and nothing of its own.
    pub fn carries(&self, frame: &[u8]) -> bool {
        self.transport(frame).is_some()
    }

    /// The probe's stamp in a frame that the director has sent on; `None` where it is no probe.
    pub fn stamp_of(&self, frame: &[u8]) -> Option<Stamp> {
        let numbers = self.transport(frame)?.get(4..12)?;
        let read = |at: usize| u32::from_be_bytes([numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]]);
        (read(0) > 1).then(|| Stamp { number: read(0), due: read(4) })
    }
}

/// The client's packets of the connection of this number.
pub(crate) fn client_pair(o: &Options, n: usize) -> Pair {
    // 50,000 connections a client, as behind a large NAT; neighbouring addresses and ports.
    let (client, port) = (CLIENTS + (n / 50_000) as u32, 1024 + (n % 50_000) as u16);
    (SocketAddr::new(client_address(o, client), port), SocketAddr::new(service_address(o, n % o.services), 80))
}

/// Gives the template `b` other ends and flags.
fn address(b: &mut [u8], v6: bool, (source, destination): Pair, flags: u8) {
    let (at, l4, n) = if v6 { (22, 54, 16) } else { (26, 34, 4) };
    let mut new = [0u8; 36];
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            new[..4].copy_from_slice(&s.octets());
            new[4..8].copy_from_slice(&d.octets());
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            new[..16].copy_from_slice(&s.octets());
            new[16..32].copy_from_slice(&d.octets());
        }
        _ => {}
    }
    let mut ports = [0u8; 4];
    ports[..2].copy_from_slice(&source.port().to_be_bytes());
    ports[2..].copy_from_slice(&destination.port().to_be_bytes());
    let change = Difference::NONE.replacing(&b[at..at + 2 * n], &new[..2 * n]);
    let transport = change.replacing(&b[l4..l4 + 4], &ports).replacing(&b[l4 + 12..l4 + 14], &[b[l4 + 12], flags]);
    b[at..at + 2 * n].copy_from_slice(&new[..2 * n]);
    b[l4..l4 + 4].copy_from_slice(&ports);
    b[l4 + 13] = flags;
    let sum = transport.apply(u16::from_ne_bytes([b[l4 + 16], b[l4 + 17]]));
    b[l4 + 16..l4 + 18].copy_from_slice(&sum.to_ne_bytes());
    if !v6 {
        b[24..26].fill(0);
        let sum = Sum::ZERO.bytes(&b[14..34]).checksum();
        b[24..26].copy_from_slice(&sum.to_ne_bytes());
    }
}

/// Makes a written frame a probe.
fn stamp(b: &mut [u8], v6: bool, stamp: Stamp) {
    let l4 = if v6 { 54 } else { 34 };
    let mut new = [0; 8];
    new[..4].copy_from_slice(&stamp.number.to_be_bytes());
    new[4..].copy_from_slice(&stamp.due.to_be_bytes());
    let change = Difference::NONE.replacing(&b[l4 + 4..l4 + 12], &new);
    b[l4 + 4..l4 + 12].copy_from_slice(&new);
    let sum = change.apply(u16::from_ne_bytes([b[l4 + 16], b[l4 + 17]]));
    b[l4 + 16..l4 + 18].copy_from_slice(&sum.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::batch::BURST;
    use lcs_dataplane::frame::Frame;
    use lcs_dataplane::port::Port;
    use lcs_dataplane::port::memory::MemoryPort;

    #[test]
    fn frames_have_their_size_right_checksums_and_the_stamp_that_they_were_given() {
        for ipv6 in [false, true] {
            let o = Options { flows: 100, ipv6, size: 78, forward: Forward::Nat, ..Options::default() };
            let mut traffic = Traffic::new(&o);
            traffic.set_sizes(&[78, 594, 1518]);
            let mut port = MemoryPort::new(1, 8);
            let stamp = Stamp { number: 0xfeed_f00d, due: 77 };
            assert!(traffic.inject(&mut port, 0, traffic.client_side(60), ACK, Some(stamp), 1));
            assert!(traffic.inject(&mut port, 0, traffic.client_side(61), ACK, None, 0));
            assert!(!traffic.inject(&mut port, 0, traffic.client_side(61), ACK, None, 3));
            let mut frames: [Frame; BURST] = Default::default();
            assert_eq!(port.receive(&mut frames, &mut [0; BURST]), 2);
            let b = frames[0].bytes();
            assert_eq!((b.len(), traffic.stamp_of(b)), (590, Some(stamp)));
            assert_eq!(traffic.stamp_of(frames[1].bytes()), None);
            let (at, l4) = if ipv6 { (22, 54) } else { (26, 34) };
            let length = (b.len() - l4) as u16;
            let pseudo = Sum::ZERO.bytes(&b[at..l4]).bytes(&[0, 6]).bytes(&length.to_be_bytes());
            assert_eq!(pseudo.bytes(&b[l4..]).checksum(), 0, "IPv6 {ipv6}");
            for frame in &mut frames[..2] {
                port.release(std::mem::take(frame));
            }
        }
    }
}
