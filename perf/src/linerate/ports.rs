//! `lcs perf linerate --tx … --rx …`: the generator on two ports that the user names. The device under test is whatever joins them: an LCS in
//! another process or on another machine, or anything else that takes frames in at one side and lets them out at the other.
//!
//! One thread sends by all transmit queues of one port and receives by all queues of the other. XDP programs and sockets end with
//! what [`measure`] holds, and with the process: nothing is left on an interface.

use super::flows::{Flows, Mark, Transport};
use super::open_loop::{self, Ends};
use super::{Device, Figures, LinerateError, Options, QueueCounts, Size, Subject, Trial, check, run};
use crate::demo::interrupt::Interrupt;
use crate::traffic::Stamp;
use lcs_dataplane::batch::BURST;
use lcs_dataplane::cycles::tsc_hz;
use lcs_dataplane::frame::Frame;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::headers::tcp::flags::{ACK, SYN};
use lcs_dataplane::port::Port;
use lcs_dataplane::port::af_xdp::{AfXdpPort, Attached, FilterKey, ModePreference, PortOptions, XdpFilter};
use lcs_hwconf::cores;
use lcs_hwconf::links::{self, Interface};
use lcs_hwconf::rtnl::Rtnl;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Flows that are opened at a time, so that none is lost.
const GROUP: usize = 64;
/// Times that a group is sent before its flows are given up.
const TRIES: usize = 3;
/// How long frames that open flows may take, a group.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most queues of an interface.
const QUEUES: u32 = 64;
/// More frames/s than a core sends, where the link's speed is not known.
const MOST: f64 = 20e6;

/// One of the two ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortName {
    /// A network interface, over AF_XDP.
    Interface(String),
    /// A device of DPDK, by the name that the EAL has for it, and its arguments.
    Dpdk(String),
}

impl FromStr for PortName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("dpdk:") {
            Some(name) => {
                lcs_dataplane::port::device::Device::parse(name)?;
                Ok(PortName::Dpdk(name.to_owned()))
            }
            None if text.is_empty() => {
                Err("name an interface, such as eth0, or a DPDK device, such as dpdk:0000:5e:00.0".to_owned())
            }
            None => Ok(PortName::Interface(text.to_owned())),
        }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortName::Interface(name) => f.write_str(name),
            PortName::Dpdk(name) => write!(f, "dpdk:{name}"),
        }
    }
}

/// Whom frames are addressed to on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gateway {
    /// This hardware address.
    Mac([u8; 6]),
    /// The neighbour with this address, whom the kernel is asked for.
    Address(IpAddr),
}

impl FromStr for Gateway {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Gateway::Address(address));
        }
        let mac = text.parse::<MacAddr>().map(|mac| Gateway::Mac(mac.0));
        mac.map_err(|_| {
            "give a hardware address, such as 02:00:00:00:00:01, or the IP address of a neighbour".to_owned()
        })
    }
}

/// Between which ports, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Between {
    /// Where frames are sent.
    pub tx: PortName,
    /// Where they come out; the same one for a device with one arm.
    pub rx: PortName,
    /// What they carry.
    pub transport: Transport,
    /// Destination of all flows.
    pub to: SocketAddr,
    /// Source of the first 50,000 flows; the next ones are of the next address. By default of the range for such tests (RFC 2544, C.2.2; RFC 5180).
    pub from: Option<IpAddr>,
    /// The device on `tx`'s link; by default frames are addressed to `rx` itself, as behind a bridge or a wire.
    pub gateway: Option<Gateway>,
    /// Destinations that frames have when they come out, where the device changes their source as well, or puts them into tunnels. By default they
    /// are known by their source.
    pub arrive: Vec<IpAddr>,
    /// Speed of the slower link, bits/s, where the driver does not know.
    pub speed: Option<f64>,
    /// Arguments of DPDK's environment.
    pub eal: Option<Vec<String>>,
}

impl Between {
    fn source(&self) -> IpAddr {
        self.from.unwrap_or(match self.to {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1)),
        })
    }

    fn check(&self) -> Result<(), LinerateError> {
        let bad = |what: String| Err(LinerateError::Named(what));
        if self.source().is_ipv4() != self.to.is_ipv4() {
            return bad(format!("--from {} and --to {} are of different families", self.source(), self.to));
        }
        if self.to.port() == 0 {
            return bad(format!("--to {}: name a port of 1 to 65535", self.to));
        }
        if matches!(self.tx, PortName::Interface(_)) != matches!(self.rx, PortName::Interface(_)) {
            return bad(format!("--tx {} and --rx {}: both are interfaces or both are DPDK devices", self.tx, self.rx));
        }
        if matches!(self.tx, PortName::Dpdk(_)) && matches!(self.gateway, Some(Gateway::Address(_))) {
            return bad(
                "--gateway: there is no kernel behind a DPDK device that could be asked; give the hardware address"
                    .to_owned(),
            );
        }
        match self.speed {
            Some(speed) if !(1e6..=1e13).contains(&speed) => {
                bad(format!("--speed is {} Gbit/s; it must be between 0.001 and 10000", speed / 1e9))
            }
            _ => Ok(()),
        }
    }
}

/// A port, and what it says of frames that it had no room for.
pub(super) trait Lane: Port {
    /// Frames so far that came in by this interface and found no room.
    fn missed(&self, interface: u8) -> u64;
}

impl Lane for AfXdpPort {
    fn missed(&self, interface: u8) -> u64 {
        self.statistics(interface).map_or(0, |s| s.receive_ring_full + s.receive_no_buffer)
    }
}

/// One queue, and which interfaces of its port are the transmitting and the receiving one.
pub(super) struct Queue<P> {
    pub port: P,
    pub tx: Option<u8>,
    pub rx: Option<u8>,
}

/// Both ports, queue by queue.
pub(super) struct Wires<P> {
    queues: Vec<Queue<P>>,
    /// Those that send.
    senders: Vec<usize>,
    flows: Flows,
    /// What each has seen in this trial; by the marks of what arrived, for those sent.
    counts: Vec<QueueCounts>,
    arrived: Vec<u64>,
    missed: Vec<u64>,
    trial: u8,
    line: Option<f64>,
    names: String,
    interrupt: Interrupt,
}

impl<P: Lane> Wires<P> {
    pub fn new(queues: Vec<Queue<P>>, flows: Flows, line: Option<f64>, names: String, interrupt: Interrupt) -> Self {
        let senders = (0..queues.len()).filter(|n| queues[*n].tx.is_some()).collect();
        let n = queues.len();
        Wires {
            queues,
            senders,
            flows,
            counts: vec![QueueCounts::default(); n],
            arrived: vec![0; n],
            missed: vec![0; n],
            trial: 0,
            line,
            names,
            interrupt,
        }
    }

    /// Queues one frame of flow `n`.
    fn frame(&mut self, n: usize, part: usize, probe: bool, word: u32, flags: u8) -> bool {
        let Some(&at) = self.senders.get(n % self.senders.len().max(1)) else { return false };
        let queue = &mut self.queues[at];
        let (Some(tx), Some(mut frame)) = (queue.tx, queue.port.allocate()) else { return false };
        if frame.set_len(self.flows.frame_len(part) as u16) {
            let mark = Mark { trial: self.trial, queue: at as u8, probe, word };
            self.flows.write(frame.bytes_mut(), part, n, mark, flags);
            match queue.port.transmit(tx, frame) {
                Ok(()) => {
                    self.counts[at].sent += 1;
                    return true;
                }
                Err(back) => frame = back,
            }
        }
        queue.port.release(frame);
        false
    }

    /// Takes a burst of each queue, and hands over the marks of this trial's frames; whether there may be more.
    fn take_marks(&mut self, mut sink: impl FnMut(Mark)) -> (u64, bool) {
        let mut frames: [Frame; BURST] = Default::default();
        let mut interfaces = [0; BURST];
        let (mut count, mut more) = (0, false);
        for (at, queue) in self.queues.iter_mut().enumerate() {
            let n = queue.port.receive(&mut frames, &mut interfaces);
            more |= n == BURST;
            for (frame, interface) in frames.iter_mut().zip(interfaces).take(n) {
                let frame = std::mem::take(frame);
                if Some(interface) == queue.rx
                    && let Some(mark) = self.flows.read(frame.bytes()).filter(|m| m.trial == self.trial)
                {
                    count += 1;
                    self.counts[at].received += 1;
                    if let Some(arrived) = self.arrived.get_mut(usize::from(mark.queue)) {
                        *arrived += 1;
                    }
                    sink(mark);
                }
                queue.port.release(frame);
            }
        }
        (count, more)
    }

    /// The next trial or opening; what comes from the one before is not counted any more.
    fn next(&mut self) {
        self.trial = self.trial.wrapping_add(1);
        self.counts.fill(QueueCounts::default());
        self.arrived.fill(0);
        for (missed, queue) in self.missed.iter_mut().zip(&self.queues) {
            *missed = queue.rx.map_or(0, |rx| queue.port.missed(rx));
        }
    }

    /// Sends what opens this group of flows until all of it has come out.
    fn open(&mut self, first: usize, group: usize, flags: u8) -> Result<(), LinerateError> {
        let all = if group == 64 { u64::MAX } else { (1 << group) - 1 };
        let mut came = 0u64;
        for _ in 0..TRIES {
            for n in (0..group).filter(|n| came >> n & 1 == 0) {
                let _ = self.frame(first + n, 0, false, n as u32, flags);
            }
            let deadline = Instant::now() + PATIENCE;
            while came != all && Instant::now() < deadline {
                self.flush();
                let _ = self.take_marks(|mark| came |= 1u64.checked_shl(mark.word).unwrap_or(0) & all);
                self.check()?;
            }
            if came == all {
                return Ok(());
            }
        }
        let opened = first + came.count_ones() as usize;
        if opened == 0 {
            return Err(LinerateError::Nothing { names: self.names.clone(), tries: TRIES });
        }
        Err(LinerateError::Opening { opened, asked: self.flows.len() })
    }

    fn check(&self) -> Result<(), LinerateError> {
        if self.interrupt.is_set() { Err(LinerateError::Interrupted) } else { Ok(()) }
    }
}

impl<P: Lane> Ends for Wires<P> {
    fn begin(&mut self, _: u32, size: Size) {
        self.flows.set_sizes(size.parts().iter().map(|p| p.0));
        self.next();
    }

    fn send(&mut self, size: Size, stamp: Option<Stamp>) -> bool {
        let (n, random) = self.flows.any();
        self.frame(n, size.pick(random), stamp.is_some(), stamp.map_or(0, |s| s.due), ACK)
    }

    fn flush(&mut self) {
        for queue in &mut self.queues {
            queue.port.flush();
        }
    }

    fn take(&mut self, probe: &mut dyn FnMut(Stamp)) -> (u64, bool) {
        self.take_marks(|mark| {
            if mark.probe {
                probe(Stamp { number: 2, due: mark.word });
            }
        })
    }

    fn interrupted(&self) -> bool {
        self.interrupt.is_set()
    }

    fn end(&mut self, trial: &mut Trial) {
        for (at, queue) in self.queues.iter().enumerate() {
            let missed = queue.rx.map_or(0, |rx| queue.port.missed(rx));
            let counts = &mut self.counts[at];
            counts.missed = missed.saturating_sub(self.missed[at]);
            counts.lost = counts.sent.saturating_sub(self.arrived[at]);
        }
        trial.queues.clone_from(&self.counts);
    }
}

impl<P: Lane> Device for Wires<P> {
    fn ready(&mut self) -> Result<(), LinerateError> {
        let smallest = if self.flows.sources().first().is_some_and(IpAddr::is_ipv6) { 78 } else { 64 };
        self.flows.set_sizes([smallest]);
        let all: &[u8] = if self.flows.transport() == Transport::Tcp { &[SYN, ACK] } else { &[ACK] };
        for flags in all {
            for first in (0..self.flows.len()).step_by(GROUP) {
                self.next();
                self.open(first, GROUP.min(self.flows.len() - first), *flags)?;
            }
        }
        Ok(())
    }

    fn trial(&mut self, rate: f64, seconds: f64, size: Size, probes: bool) -> Result<Trial, LinerateError> {
        let trial = open_loop::trial(self, 0, rate, seconds, size, probes);
        self.check()?;
        // Each frame that comes twice would hide one that does not come at all.
        let sent = self.counts.iter().map(|q| q.sent).sum();
        if trial.received > sent {
            return Err(LinerateError::Repeated { sent, received: trial.received });
        }
        Ok(trial)
    }

    fn most(&self, size: Size) -> f64 {
        self.line.map_or(MOST, |bits| bits / size.wire_bits(1.0))
    }
}

/// Searches between the ports. `interrupt` ends it, with what it has set up taken down.
///
/// # Errors
/// What cannot be opened, or that nothing comes out at the other side; each says what to do.
pub fn measure(
    o: &Options,
    between: &Between,
    interrupt: &Interrupt,
    mut progress: impl FnMut(&str),
) -> Result<Figures, LinerateError> {
    let o = Options { subject: Subject::Device, ipv6: between.to.is_ipv6(), ..o.clone() };
    check(&o)?;
    between.check()?;
    match (&between.tx, &between.rx) {
        (PortName::Interface(tx), PortName::Interface(rx)) => af_xdp(&o, between, [tx, rx], interrupt, &mut progress),
        #[cfg(feature = "dpdk")]
        (PortName::Dpdk(tx), PortName::Dpdk(rx)) => {
            super::dpdk::measure(&o, between, [tx, rx], interrupt, &mut progress)
        }
        _ => Err(LinerateError::Named(lcs_control::run::WITHOUT_DPDK.to_owned())),
    }
}

/// Flows as they are asked for, by the hardware address of the transmitting port and of who receives.
pub(super) fn flows(o: &Options, between: &Between, macs: (MacAddr, MacAddr)) -> Flows {
    Flows::new(between.transport, between.source(), between.to, macs, o.flows)
}

/// Runs the search over ports that are open.
pub(super) fn searched<P: Lane>(
    o: &Options,
    between: &Between,
    mut wires: Wires<P>,
    mut notes: Vec<String>,
    progress: &mut impl FnMut(&str),
) -> Result<Figures, LinerateError> {
    notes.push(format!(
        "{} to {}, flows from {} on to {}; sent by {} queue(s), received by {}",
        between.tx,
        between.rx,
        between.source(),
        between.to,
        wires.senders.len(),
        wires.queues.iter().filter(|q| q.rx.is_some()).count()
    ));
    let line_rate = wires.line;
    let rows = run(&mut wires, None::<&mut Wires<P>>, o, progress)?;
    let port = if matches!(between.tx, PortName::Dpdk(_)) { "dpdk" } else { "af-xdp" };
    Ok(Figures {
        options: o.clone(),
        between: Some(between.clone()),
        line_rate,
        port: port.to_owned(),
        tsc_hz: tsc_hz(),
        rows,
        ratios: vec![],
        notes,
    })
}

/// An interface that can be measured over.
fn interface(name: &str, o: &Options) -> Result<Interface, LinerateError> {
    let interface = links::interface(name)?;
    let bad = |what: String| Err(LinerateError::Named(what));
    if !interface.link.up {
        return bad(format!("{name} is down; run: ip link set {name} up"));
    }
    if !interface.link.running {
        return bad(format!("{name} has no carrier: is a cable in it, and is the other end up?"));
    }
    let largest = o.sizes.iter().flat_map(|s| s.parts()).map(|p| p.0).max().unwrap_or(0);
    let packet = largest.saturating_sub(18);
    if packet > interface.link.mtu as usize {
        return bad(format!(
            "frames of {largest} bytes carry packets of {packet}, and {name} has an MTU of {}; leave that size out of --sizes, or run: ip link set {name} mtu {packet}",
            interface.link.mtu
        ));
    }
    Ok(interface)
}

/// Speed in bits/s; a veth has no wire, whatever it says.
fn speed(interface: &Interface) -> Option<f64> {
    let veth = interface.link.kind.as_deref() == Some("veth");
    interface.speed.filter(|_| !veth).map(|megabits| f64::from(megabits) * 1e6)
}

/// The hardware address of a neighbour on `link`, whom the kernel asks for.
fn resolve(address: IpAddr, link: &str) -> Result<MacAddr, LinerateError> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let rtnl = Rtnl::open()?;
    let deadline = Instant::now() + 3 * PATIENCE;
    let missing = |why: String| {
        Err(LinerateError::Named(format!(
            "--gateway {address}: {why}; is it the device's address on {link}'s link? Its hardware address can be given instead"
        )))
    };
    // A datagram to the port that discards them has the kernel look for the neighbour.
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| socket.send_to(&[0], (address, 9)));
    loop {
        if let Some(found) = rtnl.neighbours(link)?.into_iter().find(|n| n.address == address) {
            return Ok(MacAddr(found.mac));
        }
        if let Err(e) = &asked {
            return missing(format!("the kernel cannot reach it ({e})"));
        }
        if Instant::now() > deadline {
            return missing(format!("no neighbour on {link} answered"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Over AF_XDP, in the calling thread's network namespace.
fn af_xdp(
    o: &Options,
    between: &Between,
    [tx, rx]: [&str; 2],
    interrupt: &Interrupt,
    progress: &mut impl FnMut(&str),
) -> Result<Figures, LinerateError> {
    progress("opening the ports");
    let interfaces = [interface(tx, o)?, interface(rx, o)?];
    let mac = |at: usize| {
        let link = &interfaces[at].link;
        link.mac.map(MacAddr).ok_or_else(|| LinerateError::Named(format!("{} is no Ethernet interface", link.name)))
    };
    let gateway = match between.gateway {
        Some(Gateway::Mac(mac)) => MacAddr(mac),
        Some(Gateway::Address(address)) => resolve(address, tx)?,
        None => mac(1)?,
    };
    let flows = flows(o, between, (mac(0)?, gateway));
    if let Some(core) = cores::available()?.first() {
        cores::pin(core.id)?;
    }
    // A filter each: what comes back to the transmitting side is not ours.
    let mut filters = [XdpFilter::load()?, XdpFilter::load()?];
    let protocol = if between.transport == Transport::Tcp { 6 } else { 17 };
    let by_source = flows.sources();
    let replies: Vec<FilterKey> = by_source.iter().map(|a| FilterKey::new(*a, 0, protocol)).collect();
    // To these addresses: the flows' packets, and packets within packets.
    let services: Vec<FilterKey> =
        between.arrive.iter().flat_map(|a| [protocol, 4, 41].map(|p| FilterKey::new(*a, 0, p))).collect();
    let one = tx == rx;
    let attach = |filter: &XdpFilter, at: usize| filter.attach(&interfaces[at], ModePreference::Auto);
    let attached: Vec<Attached> =
        if one { vec![attach(&filters[1], 1)?] } else { vec![attach(&filters[0], 0)?, attach(&filters[1], 1)?] };
    let senders = interfaces[0].transmit_queues.min(interfaces[0].receive_queues).clamp(1, QUEUES);
    let receivers = interfaces[1].receive_queues.clamp(1, QUEUES);
    let mut queues = vec![];
    for n in 0..senders.max(receivers) {
        let (sends, receives) = (n < senders, n < receivers);
        let of: Vec<&Attached> = attached
            .iter()
            .enumerate()
            .filter(|(at, _)| {
                if one {
                    true
                } else if *at == 0 {
                    sends
                } else {
                    receives
                }
            })
            .map(|(_, a)| a)
            .collect();
        let port = AfXdpPort::open(&of, n, &PortOptions::default())?;
        queues.push(Queue { port, tx: sends.then_some(0), rx: receives.then_some(if one || !sends { 0 } else { 1 }) });
    }
    filters[1].set_replies(&replies)?;
    filters[1].set_services(&services)?;
    let mut notes: Vec<String> =
        queues.first().map(|q| q.port.interfaces().map(|i| i.to_string()).collect()).unwrap_or_default();
    notes.push(format!("frames are addressed to {gateway}"));
    let known = interfaces.iter().filter_map(speed).reduce(f64::min);
    let names = format!("{tx} to {rx}, to {} at {gateway}", between.to);
    let wires = Wires::new(queues, flows, between.speed.or(known), names, interrupt.clone());
    let figures = searched(o, between, wires, notes, progress);
    // Programs go before the tables that they read.
    drop(attached);
    figures
}
