//! One host's TCP and UDP: a `smoltcp` interface, its sockets, and what applications may ask of them.

use super::time_wait::{self, Pair, TimeWaits};
use super::{MICROSECOND, MILLISECOND, SECOND};
use lcs_dataplane::headers::icmp::v6::{NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION};
use lcs_dataplane::headers::{MacAddr, protocol};
use lcs_dataplane::worker::Nanos;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{Socket, tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint};
use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// How a host's TCP behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TcpSettings {
    /// Bytes of the receive buffer; above 65,535 windows are scaled.
    pub receive_buffer: usize,
    /// Bytes of the send buffer.
    pub send_buffer: usize,
    /// Whether small segments wait for acknowledgements (RFC 896).
    pub nagle: bool,
    /// How long an acknowledgement may be delayed, ns; 0 for not at all.
    pub ack_delay: Nanos,
    /// Whether the time-stamp option is offered and accepted (RFC 7323).
    pub timestamps: bool,
    /// Whether New Reno controls congestion; nothing does otherwise.
    pub reno: bool,
    /// After how long without any sign of the peer a connection is given up, ns.
    pub patience: Nanos,
}

impl Default for TcpSettings {
    fn default() -> Self {
        TcpSettings {
            receive_buffer: 16 * 1024,
            send_buffer: 16 * 1024,
            nagle: false,
            ack_delay: 10 * MILLISECOND,
            timestamps: false,
            reno: false,
            patience: 60 * SECOND,
        }
    }
}

/// What a host is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Link-layer address.
    pub mac: MacAddr,
    /// Addresses with their prefix lengths; the first of each family is the host's own. With the service addresses, eight at most.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Addresses that the host accepts packets for and does not announce: ARP and NDP for them are not answered,
    /// and they are never given as the sender's (what `arp_ignore` and `arp_announce` do for a DR server).
    pub services: Vec<IpAddr>,
    /// Whether IP in IP (4-in-4, 6-in-4, 4-in-6, 6-in-6) for the host's own addresses is unwrapped.
    pub decapsulates: bool,
    /// Largest IP packet, bytes. The maximum segment size follows from it, so a server behind a tunnel has less than the link.
    pub mtu: usize,
    /// How its TCP behaves.
    pub tcp: TcpSettings,
    /// Ephemeral ports, first and last.
    pub ports: (u16, u16),
    /// Decides its initial sequence numbers.
    pub seed: u64,
}

impl Settings {
    /// A host with these addresses (`"192.0.2.1/24"`), on a link of MTU 1,500. Its link-layer address and seed follow from `number`.
    ///
    /// # Panics
    /// When an address does not parse.
    pub fn new(number: u32, addresses: &[&str]) -> Self {
        let [a, b, c, d] = number.to_be_bytes();
        let parse = |text: &&str| {
            let (address, length) = text.split_once('/').expect("address/length");
            (address.parse().expect("an IP address"), length.parse().expect("a prefix length"))
        };
        Settings {
            mac: MacAddr([0x02, 0x10, a, b, c, d]),
            addresses: addresses.iter().map(parse).collect(),
            gateways: vec![],
            services: vec![],
            decapsulates: false,
            mtu: 1500,
            tcp: TcpSettings::default(),
            ports: (32_768, 60_999),
            seed: super::random::mix(u64::from(number) + 1),
        }
    }
}

thread_local! {
    /// The clock of TCP time stamps: `smoltcp` asks for it through a plain function, and gets the one of the host that is polled.
    static STAMP: Cell<u32> = const { Cell::new(0) };
}

/// A host's clock of time stamps: from somewhere on, in ticks of 100 µs, 1 ms or 10 ms, as its seed has it.
fn clock(seed: u64, now: Nanos) -> u32 {
    let draw = super::random::mix(seed ^ 0x7323);
    let tick = [MILLISECOND / 10, MILLISECOND, 10 * MILLISECOND][draw as usize % 3];
    ((now / tick) as u32).wrapping_add((draw >> 32) as u32)
}

fn stamp() -> u32 {
    STAMP.get()
}

/// A host's interface and sockets.
pub struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    pub(super) wire: Wire,
    pub(super) time_waits: TimeWaits,
    settings: Settings,
    /// Sockets at rest and since when, the longest first.
    free: VecDeque<(Nanos, SocketHandle)>,
    now: Nanos,
    /// The last frame whose answer could not be sent because the neighbour's link-layer address was asked for first.
    /// `smoltcp` drops such an answer; here the frame comes in once more when the address is known (RFC 4861 §7.2.2).
    unanswered: Option<Vec<u8>>,
    open: HashSet<Pair>,
    next_port: u16,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stack {{ {:?}, open: {} }}", self.settings.addresses, self.open.len())
    }
}

impl Stack {
    pub(super) fn new(settings: Settings, now: Nanos) -> Self {
        let mut wire = Wire { mtu: settings.mtu, ..Wire::default() };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(settings.mac.0)));
        config.random_seed = settings.seed;
        let mut interface = Interface::new(config, &mut wire, instant(now));
        interface.update_ip_addrs(|list| {
            let own = settings.addresses.iter().map(|&(a, length)| (a, length));
            let whole = |a: &IpAddr| (*a, if a.is_ipv4() { 32 } else { 128 });
            for (address, length) in own.chain(settings.services.iter().map(whole)) {
                let full = list.push(IpCidr::new(address.into(), length)).is_err();
                assert!(!full, "a host has more than eight addresses");
            }
        });
        for gateway in &settings.gateways {
            let routes = interface.routes_mut();
            let full = match *gateway {
                IpAddr::V4(a) => routes.add_default_ipv4_route(a).is_err(),
                IpAddr::V6(a) => routes.add_default_ipv6_route(a).is_err(),
            };
            assert!(!full, "a host has more than four routes");
        }
        Stack {
            interface,
            sockets: SocketSet::new(vec![]),
            wire,
            time_waits: TimeWaits::default(),
            next_port: settings.ports.0,
            settings,
            free: VecDeque::new(),
            now,
            unanswered: None,
            open: HashSet::new(),
        }
    }

    /// What the host is.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The host's own address of a family.
    pub fn address(&self, v4: bool) -> Option<IpAddr> {
        self.settings.addresses.iter().map(|&(a, _)| a).find(|a| a.is_ipv4() == v4)
    }

    /// A TCP socket that listens on a port of every address.
    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let handle = self.take();
        let listening = self.tcp(handle).listen(port);
        debug_assert!(listening.is_ok(), "a socket at rest can listen on any port but 0");
        handle
    }

    /// Opens a TCP connection from the host's own address; `None` when every ephemeral port toward `remote` is in use
    /// or in TIME-WAIT, or the host has no address of that family.
    pub fn connect(&mut self, remote: SocketAddr, now: Nanos) -> Option<SocketHandle> {
        self.time_waits.expire(now);
        let address = self.address(remote.is_ipv4())?;
        let (first, last) = self.settings.ports;
        let mut local = None;
        for _ in first..=last {
            let port = self.next_port;
            self.next_port = if port >= last { first } else { port + 1 };
            let pair = (SocketAddr::new(address, port), remote);
            if !self.time_waits.contains(&pair) && self.open.insert(pair) {
                local = Some(pair.0);
                break;
            }
        }
        let local = local?;
        let handle = self.take();
        let Stack { interface, sockets, .. } = self;
        let from = IpListenEndpoint { addr: Some(local.ip().into()), port: local.port() };
        match sockets.get_mut::<tcp::Socket>(handle).connect(interface.context(), remote, from) {
            Ok(()) => Some(handle),
            Err(_) => {
                self.open.remove(&(local, remote));
                self.free.push_back((self.now, handle));
                None
            }
        }
    }

    /// A TCP socket.
    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// The endpoints of a TCP socket, ours first, while it has them.
    pub fn pair(&mut self, handle: SocketHandle) -> Option<Pair> {
        let socket = self.tcp(handle);
        let ends = (socket.local_endpoint()?, socket.remote_endpoint()?);
        let address = |e: smoltcp::wire::IpEndpoint| SocketAddr::new(e.addr.into(), e.port);
        Some((address(ends.0), address(ends.1)))
    }

    /// Gives back a TCP socket whose connection has ended (it is closed or in TIME-WAIT, or else it is reset).
    /// `pair` is what [`Stack::pair`] gave while the connection was open.
    pub fn release(&mut self, handle: SocketHandle, pair: Option<Pair>, now: Nanos) {
        let socket = self.tcp(handle);
        match socket.state() {
            tcp::State::TimeWait => {
                if let Some(pair) = self.pair(handle) {
                    self.time_waits.insert(pair, now);
                }
            }
            tcp::State::Closed => {}
            _ => socket.abort(),
        }
        if let Some(pair) = pair {
            self.open.remove(&pair);
        }
        self.free.push_back((now, handle));
    }

    /// A UDP socket bound to a port of every address; `None` for port 0.
    pub fn bind(&mut self, port: u16) -> Option<SocketHandle> {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 64 * 1024]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).ok()?;
        Some(self.sockets.add(socket))
    }

    /// A UDP socket.
    pub fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Ends a UDP socket.
    pub fn close_udp(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
    }

    /// Sockets that are not at rest.
    pub fn in_use(&self) -> usize {
        self.sockets.iter().count() - self.free.len()
    }

    /// Connections in TIME-WAIT.
    pub fn waiting(&self) -> usize {
        self.time_waits.len()
    }

    /// A TCP socket at rest. One that still owes its peer a reset or the acknowledgement of a FIN is left alone.
    fn take(&mut self) -> SocketHandle {
        let t = self.settings.tcp;
        // Said in either case: a new socket has the best that `smoltcp` was built with.
        let congestion = if t.reno { tcp::CongestionControl::Reno } else { tcp::CongestionControl::None };
        if let Some(&(since, handle)) = self.free.front() {
            let socket = self.sockets.get_mut::<tcp::Socket>(handle);
            let settled = self.now > since + t.ack_delay && socket.state() == tcp::State::TimeWait;
            if settled || socket.remote_endpoint().is_none() {
                self.free.pop_front();
                // `smoltcp` keeps its congestion window from one connection of a socket to the next.
                socket.set_congestion_control(congestion);
                return handle;
            }
        }
        let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(t.receive_buffer), buffer(t.send_buffer));
        socket.set_nagle_enabled(t.nagle);
        socket.set_ack_delay((t.ack_delay > 0).then(|| Duration::from_micros(t.ack_delay / MICROSECOND)));
        socket.set_timeout(Some(Duration::from_micros(t.patience / MICROSECOND)));
        if t.timestamps {
            socket.set_tsval_generator(Some(stamp));
        }
        socket.set_congestion_control(congestion);
        self.sockets.add(socket)
    }

    /// Takes in what has been received.
    pub(super) fn ingress(&mut self, now: Nanos) {
        self.now = now;
        STAMP.set(clock(self.settings.seed, now));
        let at = instant(now);
        while let Some(frame) = self.wire.waiting.pop_front() {
            let hidden = self.hide_listeners(&frame);
            let answers = neighbour_message(&frame) == Some(Message::Answer);
            let sent = self.wire.sent.len();
            self.wire.received = Some(frame);
            self.interface.poll_ingress_single(at, &mut self.wire, &mut self.sockets);
            if answers {
                self.wire.waiting.extend(self.unanswered.take());
            } else if self.wire.sent[sent..].iter().any(|f| neighbour_message(f) == Some(Message::Question)) {
                self.unanswered = self.wire.consumed.last().cloned();
            }
            for (handle, endpoint) in hidden {
                let listening = self.tcp(handle).listen(endpoint);
                debug_assert!(listening.is_ok(), "it listened before");
            }
        }
    }

    /// Stops the listening sockets while a SYN comes in for a connection that there is already: `smoltcp` gives a
    /// segment to the first socket that would have it, and a repeated SYN would open the connection twice.
    fn hide_listeners(&mut self, frame: &[u8]) -> Vec<(SocketHandle, IpListenEndpoint)> {
        let Some(pair) = time_wait::opening(frame) else { return vec![] };
        let ends = (IpEndpoint::from(pair.0), IpEndpoint::from(pair.1));
        let tcp = |s: &Socket<'static>| match s {
            Socket::Tcp(t) => {
                Some((t.local_endpoint().zip(t.remote_endpoint()), t.is_listening(), t.listen_endpoint()))
            }
            _ => None,
        };
        if !self.sockets.iter().filter_map(|(_, s)| tcp(s)).any(|(open, ..)| open == Some(ends)) {
            return vec![];
        }
        let all = self.sockets.iter().filter_map(|(h, s)| tcp(s).map(|(_, listening, at)| (h, listening, at)));
        let hidden: Vec<_> = all.filter(|(_, listening, _)| *listening).map(|(h, _, at)| (h, at)).collect();
        for (handle, _) in &hidden {
            self.tcp(*handle).close();
        }
        hidden
    }

    /// The connections that have something to send, or sent, that their peers have not acknowledged.
    pub(super) fn unsent(&self) -> Vec<Pair> {
        let address = |e: IpEndpoint| SocketAddr::new(e.addr.into(), e.port);
        let of = |socket: &Socket<'static>| match socket {
            Socket::Tcp(t) if t.send_queue() > 0 && t.is_open() => {
                Some((address(t.local_endpoint()?), address(t.remote_endpoint()?)))
            }
            _ => None,
        };
        self.sockets.iter().filter_map(|(_, socket)| of(socket)).collect()
    }

    /// Sends what is due, and says when there will be more.
    pub(super) fn egress(&mut self, now: Nanos) -> Option<Nanos> {
        STAMP.set(clock(self.settings.seed, now));
        let at = instant(now);
        while self.interface.poll_egress(at, &mut self.wire, &mut self.sockets) != PollResult::None {}
        let next = self.interface.poll_at(at, &self.sockets)?.total_micros().max(0) as Nanos * MICROSECOND;
        // What should have been sent now and was not waits for something; asking again at once would be in vain.
        Some(next.max(now + 10 * MICROSECOND))
    }
}

/// ARP or neighbour discovery.
#[derive(PartialEq, Eq)]
enum Message {
    Question,
    Answer,
}

fn neighbour_message(frame: &[u8]) -> Option<Message> {
    match (frame.get(12..14)?, frame.get(20), frame.get(21), frame.get(54)) {
        ([0x08, 0x06], _, Some(1), _) => Some(Message::Question),
        ([0x08, 0x06], _, Some(2), _) => Some(Message::Answer),
        ([0x86, 0xdd], Some(&protocol::ICMPV6), _, Some(&NEIGHBOUR_SOLICITATION)) => Some(Message::Question),
        ([0x86, 0xdd], Some(&protocol::ICMPV6), _, Some(&NEIGHBOUR_ADVERTISEMENT)) => Some(Message::Answer),
        _ => None,
    }
}

/// The network's time as `smoltcp`'s, which counts whole microseconds.
fn instant(now: Nanos) -> Instant {
    Instant::from_micros((now / MICROSECOND) as i64)
}

/// The device behind the interface: queues of frames.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// Frames not yet looked at.
    pub waiting: VecDeque<Vec<u8>>,
    received: Option<Vec<u8>>,
    pub consumed: Vec<Vec<u8>>,
    pub sent: Vec<Vec<u8>>,
    pub spare: Vec<Vec<u8>>,
    mtu: usize,
}

pub(super) struct Received<'a> {
    frame: Vec<u8>,
    consumed: &'a mut Vec<Vec<u8>>,
}

pub(super) struct Sending<'a> {
    sent: &'a mut Vec<Vec<u8>>,
    spare: &'a mut Vec<Vec<u8>>,
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(&self.frame);
        self.consumed.push(self.frame);
        result
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(1600));
        frame.clear();
        frame.resize(len, 0);
        let result = f(&mut frame);
        self.sent.push(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sending<'_>)> {
        let frame = self.received.take()?;
        let Wire { consumed, sent, spare, .. } = self;
        Some((Received { frame, consumed }, Sending { sent, spare }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending { sent: &mut self.sent, spare: &mut self.spare })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + lcs_dataplane::headers::ethernet::HEADER;
        capabilities
    }
}
