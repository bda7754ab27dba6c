//! What holds for every input whatever: a program of bytes is run against a director with all modes, and looked at after each burst.
//! Used by the property tests, the fuzz targets (`pipelines/fuzz`) and the replay of their corpus.
//!
//! A program is a sequence of instructions, the first byte modulo 8:
//!
//! | byte | then | does |
//! |---|---|---|
//! | 0, 1 | length (2 bytes, little-endian), bytes | puts a frame on interface 0 or 1 into the burst |
//! | 2, 3 | template, n, n × (offset, value) | puts a well-formed frame, with n bytes changed, into the burst; 3 mends its IPv4 checksum after |
//! | 4 | n | sends the burst and lets n ticks of 134 ms pass |
//! | 5 | | sends the burst |
//! | 6 | which, argument | sends the burst, then a command |
//! | 7 | template, n, n × (offset, value) | as 3, with the source port taken from the last value: another connection |
#![allow(dead_code)]

use crate::wire::packet::Packet;
use crate::wire::{checksum, verify};
use crate::world::{CLIENT, World, ended, interface_mac};
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::Port;
use lcs_pipelines::command::{Acknowledgement, Command, TraceFilter};
use lcs_pipelines::snapshot::{NextHop, ServerState};
use std::sync::OnceLock;

/// Services of every mode and family. Few flows and fragments, so that the bounds are met.
pub const SITE: &[&str] = &[
    "worker flows=16 fragments=4",
    "when-full evict-half-open",
    "service nat tcp 198.51.100.1:80 rr",
    "server n1 of nat 10.0.0.1:8080 nat",
    "server n2 of nat 10.0.0.2:8080 nat mtu=600",
    "service natu udp 198.51.100.1:53 wrr",
    "server u1 of natu 10.0.0.1:5353 nat weight=3",
    "server u2 of natu 10.0.0.2:5353 nat",
    "service nat6 tcp [2001:db8:1::1]:80 lc",
    "server v1 of nat6 [fd00::1]:8080 nat",
    "service full udp 198.51.100.2:53 rr sources=10.9.0.1 ports=2000-2005",
    "server f1 of full 10.0.0.1:5353 fullnat",
    "service full6 tcp [2001:db8:1::2]:80 rr sources=fd00::9 ports=2000-2005",
    "server g1 of full6 [fd00::1]:8080 fullnat",
    "service dr tcp 198.51.100.3:80 wlc",
    "server d1 of dr 10.0.0.1 dr",
    "service dr6 udp [2001:db8:1::3]:0 rr",
    "server e1 of dr6 fd00::1 dr",
    "service tun tcp 198.51.100.4:80 rr",
    "server t1 of tun 10.0.0.1 tunnel from=10.9.0.1",
    "server t2 of tun fd00::1 tunnel from=fd00::9",
    "service tun6 udp [2001:db8:1::4]:53 rr",
    "server w1 of tun6 10.0.0.1 tunnel from=10.9.0.1",
    "server w2 of tun6 fd00::1 tunnel from=fd00::9 unresolved",
    "route 203.0.113.0/24 via r1",
];

/// Well-formed packets for [`SITE`]: interface and words.
const TEMPLATES: &[(u8, &str)] = &[
    (0, "tcp 192.0.2.1:1000 > 198.51.100.1:80 S mss=1460 df"),
    (0, "tcp 192.0.2.1:1000 > 198.51.100.1:80 A len=40"),
    (0, "tcp 192.0.2.1:1000 > 198.51.100.1:80 FA df len=700"),
    (0, "tcp 192.0.2.1:1000 > 198.51.100.1:80 R ttl=1"),
    (1, "tcp 10.0.0.1:8080 > 192.0.2.1:1000 SA"),
    (1, "tcp 10.0.0.2:8080 > 192.0.2.1:1000 FA"),
    (0, "udp 192.0.2.1:1000 > 198.51.100.1:53 len=31"),
    (0, "udp 192.0.2.1:1000 > 198.51.100.1:53 len=900 id=7 frag=0..400"),
    (0, "udp 192.0.2.1:1000 > 198.51.100.1:53 len=900 id=7 frag=400.."),
    (1, "udp 10.0.0.1:5353 > 192.0.2.1:1000 len=31 sum=0"),
    (0, "tcp [2001:db8::1]:1000 > [2001:db8:1::1]:80 S ext=hop,dst"),
    (1, "tcp [fd00::1]:8080 > [2001:db8::1]:1000 SA"),
    (0, "udp 203.0.113.1:1000 > 198.51.100.2:53 len=31"),
    (1, "udp 10.0.0.1:5353 > 10.9.0.1:2000 len=31"),
    (0, "tcp [2001:db8::1]:1000 > [2001:db8:1::2]:80 S id=9 frag=0.. "),
    (0, "tcp 192.0.2.1:1000 > 198.51.100.3:80 S vlan=5"),
    (0, "tcp 192.0.2.1:1000 > 198.51.100.3:80 PA len=9 pad=4"),
    (0, "udp [2001:db8::1]:1000 > [2001:db8:1::3]:9 len=600 id=1 frag=0..400"),
    (0, "udp [2001:db8::1]:1000 > [2001:db8:1::3]:9 len=600 id=1 frag=400.."),
    (0, "tcp 192.0.2.1:1000 > 198.51.100.4:80 S df tos=3"),
    (0, "tcp 192.0.2.1:1000 > 198.51.100.4:80 A df len=1460"),
    (0, "udp [2001:db8::1]:1000 > [2001:db8:1::4]:53 len=5"),
    (
        1,
        "icmp 10.0.0.254 > 192.0.2.1 fragmentation-needed mtu=500 [ tcp 192.0.2.1:1000 > 10.0.0.1:8080 A len=600 cut=100 ]",
    ),
    (0, "icmp 192.0.2.254 > 198.51.100.1 time-exceeded [ tcp 198.51.100.1:80 > 192.0.2.1:1000 A cut=8 ]"),
    (1, "icmp fd00::ff > 2001:db8::1 too-big mtu=1280 [ tcp [2001:db8::1]:1000 > [fd00::1]:8080 A ext=dst ]"),
    (0, "icmp 192.0.2.254 > 198.51.100.3 unreachable [ tcp 198.51.100.3:80 > 192.0.2.1:1000 A ]"),
    (
        1,
        "icmp 10.0.0.254 > 10.9.0.1 fragmentation-needed mtu=1400 [ ip4 10.9.0.1 > 10.0.0.1 df [ tcp 192.0.2.1:1000 > 198.51.100.4:80 A df len=600 ] ]",
    ),
    (
        1,
        "icmp fd00::ff > fd00::9 too-big mtu=1300 [ ip6 fd00::9 > fd00::1 [ tcp 192.0.2.1:1000 > 198.51.100.4:80 A ] ]",
    ),
    (0, "icmp 192.0.2.1 > 198.51.100.1 echo-request len=8"),
    (0, "icmp 2001:db8::1 > 2001:db8:1::1 echo-request len=8"),
    (0, "arp who-has 198.51.100.1 tell 192.0.2.1 to=broadcast"),
    (0, "icmp 2001:db8::1 > ff02::1:ff00:1 solicitation target=2001:db8:1::1 ttl=255 to=33:33:ff:00:00:01"),
    (0, "ip 192.0.2.1 > 198.51.100.1 proto=47 len=8"),
];

/// The templates as frames, with the interface of each.
pub fn templates() -> &'static [(u8, Vec<u8>)] {
    static FRAMES: OnceLock<Vec<(u8, Vec<u8>)>> = OnceLock::new();
    FRAMES.get_or_init(|| {
        let frame = |(on, words): &(u8, &str)| {
            let from = if *on == 0 { CLIENT } else { [2, 0, 0, 0, 1, 1] };
            (
                *on,
                Packet::read(words)
                    .and_then(|p| p.frame(from, interface_mac(*on)))
                    .unwrap_or_else(|e| panic!("{words}: {e}")),
            )
        };
        TEMPLATES.iter().map(frame).collect()
    })
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (a, b) = self.0.split_at(n.min(self.0.len()));
        self.0 = b;
        a
    }
}

/// Runs a program and panics where an invariant does not hold.
pub fn run(program: &[u8]) {
    let mut world = World::of(SITE);
    let mut input = Input(program);
    let mut burst: Vec<(u8, Vec<u8>)> = vec![];
    // Enough for any path through the code, and bounded.
    for _ in 0..4096 {
        let Some(op) = input.byte() else { break };
        match op % 8 {
            on @ (0 | 1) => {
                let len = usize::from(u16::from_le_bytes([input.byte().unwrap_or(0), input.byte().unwrap_or(0)]));
                burst.push((on, input.take(len.min(1900)).to_vec()));
            }
            op @ (2 | 3 | 7) => burst.push(template(&mut input, op)),
            4 => {
                send(&mut world, &mut burst);
                world.now += u64::from(input.byte().unwrap_or(0)) << 27;
                world.idle();
            }
            5 => send(&mut world, &mut burst),
            _ => {
                send(&mut world, &mut burst);
                let (which, argument) = (input.byte().unwrap_or(0), input.byte().unwrap_or(0));
                command(&mut world, which, argument);
            }
        }
        if burst.len() == 32 {
            send(&mut world, &mut burst);
        }
    }
    send(&mut world, &mut burst);
    end(&mut world);
}

fn template(input: &mut Input<'_>, op: u8) -> (u8, Vec<u8>) {
    let all = templates();
    let (on, mut frame) = all[usize::from(input.byte().unwrap_or(0)) % all.len()].clone();
    let n = usize::from(input.byte().unwrap_or(0) % 8);
    let mut last = 0;
    for _ in 0..n {
        let (at, value) = (usize::from(input.byte().unwrap_or(0)), input.byte().unwrap_or(0));
        if op != 7
            && let Some(b) = frame.get_mut(at)
        {
            *b = value;
        }
        last = value;
    }
    if frame.len() >= 34 && frame[12..14] == [8, 0] {
        if op == 7 && matches!(frame[23], 6 | 17) && frame[14] == 0x45 {
            frame[35] = last;
        }
        let header = usize::from(frame[14] & 15) * 4;
        if op != 2 && header >= 20 && 14 + header <= frame.len() {
            frame[24..26].fill(0);
            let sum = checksum(&[&frame[14..14 + header]]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
    }
    (on, frame)
}

fn send(world: &mut World, burst: &mut Vec<(u8, Vec<u8>)>) {
    let frames = std::mem::take(burst);
    if frames.is_empty() {
        return;
    }
    let before = ended(world.worker.counters());
    // Asserts that every buffer comes back.
    let sent = world.burst(&frames);
    let after = ended(world.worker.counters());
    assert_eq!(after - before, frames.len() as u64, "every frame has exactly one verdict");
    for (_, frame) in &sent {
        if let Err(e) = verify::frame(frame, false) {
            panic!("a frame was sent that is wrong: {e}\n{frame:02x?}");
        }
    }
    look(world);
}

/// What a report says must agree with itself.
fn look(world: &mut World) {
    let report = world.report();
    assert_eq!(report.states.iter().sum::<u64>(), report.flows as u64, "{report:?}");
    let of_servers: u64 = report.servers.iter().map(|s| u64::from(s.active) + u64::from(s.inactive)).sum();
    assert_eq!(of_servers, report.flows as u64, "connections of servers, and flows");
    assert_eq!(report.half_open as u64, report.states[1], "half-open flows");
    assert!(report.flows <= report.capacity && report.fragments <= world.settings.fragments);
    assert_eq!(world.flows().len(), report.flows, "flows listed");
}

fn command(world: &mut World, which: u8, argument: u8) {
    let slots = world.snapshot.servers.len() as u8;
    let server = u16::from(argument % (slots + 1));
    let command = match which % 8 {
        0 => Command::SetWeight { server, weight: u32::from(argument) },
        1 => {
            let mut hop =
                NextHop::new(MacAddr([2, 0, 0, 0, 1, argument]), MacAddr(interface_mac(1)), argument % 3, 1280);
            hop.resolved = argument.is_multiple_of(2);
            Command::SetNextHop { row: server, hop }
        }
        2 => {
            let filter = TraceFilter {
                drops_only: argument.is_multiple_of(2),
                port: (argument.is_multiple_of(3)).then_some(80),
                ..Default::default()
            };
            Command::Trace { filter, frames: u32::from(argument) }
        }
        3 => {
            if let Some(Some(s)) = world.snapshot.servers.get_mut(usize::from(server)) {
                s.state = if argument.is_multiple_of(2) { ServerState::Up } else { ServerState::Draining };
            }
            return world.install();
        }
        4 => {
            let by = std::time::Duration::from_secs(1 + u64::from(argument) * 8);
            for state in lcs_dataplane::flow::TcpState::ALL {
                world.snapshot.timeouts.set(state, by);
            }
            return world.install();
        }
        5 => {
            world.worker.port_mut().limit_transmit(usize::from(argument) + 1);
            return;
        }
        6 => {
            for service in world.snapshot.services.iter_mut().flatten() {
                let by = usize::from(argument % 2).min(service.servers.len());
                service.servers.rotate_left(by);
            }
            return world.install();
        }
        _ => return look(world),
    };
    let ok = match world.worker.command(command, world.now) {
        Acknowledgement::Done => true,
        Acknowledgement::NoSuchSlot => server >= u16::from(slots),
        _ => false,
    };
    assert!(ok, "a command was not carried out");
    while lcs_dataplane::worker::Pipeline::event(world.worker.pipeline_mut()).is_some() {}
}

/// After the longest time-out nothing is left.
fn end(world: &mut World) {
    // What is held goes, and may open connections of its own.
    world.now += 10 << 30;
    world.idle();
    assert_eq!(world.worker.counters().held, 0);
    for (_, frame) in world.sent() {
        assert!(verify::frame(&frame, false).is_ok(), "{frame:02x?}");
    }
    world.now += 2100 << 30;
    for _ in 0..64 {
        world.idle();
    }
    look(world);
    let report = world.report();
    assert_eq!((report.flows, report.fragments, report.half_open), (0, 0, 0), "{:?}", report.states);
    let pool = world.worker.port().pool();
    assert_eq!(pool.free, pool.total);
}

/// The headers' parsers over arbitrary bytes.
pub fn headers(bytes: &[u8]) {
    use lcs_dataplane::headers::{arp, ipv4, ipv6, parse, tcp};
    let _ = (arp::Arp::parse(bytes), tcp::Tcp::parse(bytes).map(|t| (t.options().len(), t.payload().len())));
    let _ = ipv4::Ipv4::parse_embedded(bytes).map(|p| p.payload().len());
    if let Ok(p) = ipv4::Ipv4::parse(bytes) {
        assert!(p.payload().len() + p.header_len() <= bytes.len());
    }
    if let Ok(p) = ipv6::Ipv6::parse(bytes)
        && let Ok(chain) = p.chain()
    {
        assert!(chain.offset >= 40 && chain.offset <= 40 + p.payload_len());
    }
    for verify in [false, true] {
        let Ok(p) = parse::parse(bytes, verify) else { continue };
        assert!(usize::from(p.end) <= bytes.len());
        if p.l4 != 0 {
            assert!(u16::from(p.l3) < p.l4 && p.l4 <= p.end);
        }
        let mut copy = bytes.to_vec();
        if parse::fill_transport_checksum(&mut copy, &p) {
            assert!(parse::transport_checksum_ok(&copy, &p));
            assert!(verify::frame(&copy, true).is_ok() || !verify, "{copy:02x?}");
        }
    }
}

/// ICMP messages with right checksums about connections that exist. Bytes: which director's address, type, code, word (4), then the packet
/// that is quoted; where it begins with a byte below 64, that template's packet stands for the first 34 bytes.
pub fn icmp(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (to, kind, code) = (input.byte().unwrap_or(0), input.byte().unwrap_or(0), input.byte().unwrap_or(0));
    let mut message = vec![kind, code, 0, 0];
    message.extend(input.take(4));
    message.resize(8, 0);
    if let Some((_, frame)) = input.0.first().filter(|b| **b < 64).and_then(|b| templates().get(usize::from(*b))) {
        let skip = usize::from(*input.0.get(1).unwrap_or(&0));
        message.extend(frame.get(14 + skip..).unwrap_or_default());
        input.take(2);
    }
    message.extend(input.take(1000));
    message.truncate(1400);
    let mut world = World::of(SITE);
    // Connections of every mode for the errors to be about.
    let mut burst: Vec<(u8, Vec<u8>)> = templates().iter().filter(|(on, _)| *on == 0).take(25).cloned().collect();
    send(&mut world, &mut burst);
    let v6 = to & 1 == 1;
    let words = match (v6, to >> 1 & 3) {
        (false, 0) => "ip 192.0.2.254 > 198.51.100.1 proto=1",
        (false, 1) => "ip 10.0.0.254 > 192.0.2.1 proto=1",
        (false, _) => "ip 10.0.0.254 > 10.9.0.1 proto=1",
        (true, 0) => "ip 2001:db8::ff > 2001:db8:1::1 proto=58",
        (true, 1) => "ip fd00::ff > 2001:db8::1 proto=58",
        (true, _) => "ip fd00::ff > fd00::9 proto=58",
    };
    let addresses = Packet::read(words).and_then(|p| p.frame(CLIENT, interface_mac(0))).unwrap();
    let over = if v6 { crate::wire::pseudo(&addresses[22..38], &addresses[38..54], 58, message.len()) } else { vec![] };
    let sum = checksum(&[&over, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let data: String = message.iter().map(|b| format!("{b:02x}")).collect();
    let frame = Packet::read(&format!("{words} data={data}")).and_then(|p| p.frame(CLIENT, interface_mac(0))).unwrap();
    burst.push((0, frame));
    send(&mut world, &mut burst);
    end(&mut world);
}
