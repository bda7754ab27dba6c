//! `lcs perf linerate --port af_xdp`: the real port, over two veth pairs in a namespace of their own.
//!
//! The generator has one end of each pair, a subject the other: the director's worker, or a bare loop that receives, sends and flushes on the same
//! port and has no pipeline. Both have a core of their own. What is sent into a veth is received on the sender's core, up to and including the XDP
//! program, so that each core does half of the kernel's work. Rounds are interleaved; the namespace ends with its thread and leaves nothing behind.

use super::open_loop::{self, Ends};
use super::report::Ratio;
use super::{Device, Figures, LinerateError, Options, Seen, Size, Subject, Trial, check, flows};
use crate::stages::{self, worker};
use crate::summary::Summary;
use crate::traffic::{DIRECTOR, Stamp, Traffic, server_address, service_address, snapshot};
use crate::wire::Wire;
use lcs_dataplane::DropReason;
use lcs_dataplane::batch::BURST;
use lcs_dataplane::cycles::{Tsc, tsc, tsc_hz};
use lcs_dataplane::frame::Frame;
use lcs_dataplane::headers::protocol;
use lcs_dataplane::headers::tcp::flags::{ACK, SYN};
use lcs_dataplane::port::Port;
use lcs_dataplane::port::af_xdp::{AfXdpPort, Attached, FilterKey, ModePreference, PortOptions, XdpFilter};
use lcs_dataplane::worker::Clock;
use lcs_hwconf::netns::Namespace;
use lcs_hwconf::rtnl::{Rtnl, VethEnd};
use lcs_hwconf::{cores, links};
use lcs_pipelines::snapshot::{Forward, Interface};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Seconds; a turn of a subject that takes longer was interrupted. System calls for 32 frames take some 50 µs.
const GAP: f64 = 500e-6;
/// Busy turns after which timers are served, as in the worker's own loop.
const BUSY_TURNS: u32 = 8;
/// How long flows may take to be opened, a group.
const PATIENCE: Duration = Duration::from_secs(2);
/// Flows opened at a time, so that none is lost.
const OPENED: usize = 64;
/// Interfaces: subject's and generator's end of each pair.
const PAIRS: [[&str; 2]; 2] = [["lcs-d0", "lcs-g0"], ["lcs-d1", "lcs-g1"]];

impl Wire for AfXdpPort {
    fn inject_with(&mut self, interface: u8, len: usize, write: impl FnOnce(&mut [u8])) -> bool {
        let Some(mut frame) = self.allocate() else { return false };
        if u16::try_from(len).is_ok_and(|len| frame.set_len(len)) {
            write(frame.bytes_mut());
            match self.transmit(interface, frame) {
                Ok(()) => return true,
                Err(back) => frame = back,
            }
        }
        self.release(frame);
        false
    }

    /// What has come back, at most a burst.
    fn take_sent(&mut self, mut sink: impl FnMut(u8, &[u8])) -> usize {
        let mut frames: [Frame; BURST] = Default::default();
        let mut interfaces = [0; BURST];
        let n = self.receive(&mut frames, &mut interfaces);
        for (frame, interface) in frames.iter_mut().zip(interfaces).take(n) {
            sink(interface, frame.bytes());
            self.release(std::mem::take(frame));
        }
        n
    }

    fn waiting(&self) -> usize {
        0
    }
}

/// The generator's end.
struct Generator<'p> {
    port: &'p mut AfXdpPort,
    traffic: Traffic,
    flows: usize,
    /// Which trial this is: the upper eight bits of its probes' numbers.
    trial: u32,
}

impl Generator<'_> {
    fn frame(&mut self, pair: crate::traffic::Pair, flags: u8, stamp: Option<Stamp>, part: usize) -> bool {
        // Servers are on the second interface.
        let interface = u8::from(pair.0.port() == 8080);
        self.traffic.inject(self.port, interface, pair, flags, stamp, part)
    }

    /// Opens all flows through the director.
    fn open(&mut self) -> Result<(), LinerateError> {
        // A server's answer where it passes the director: without it the connection stays half-open.
        for flags in [SYN, SYN | ACK, ACK] {
            for first in (0..self.flows).step_by(OPENED) {
                let group = OPENED.min(self.flows - first);
                let answer = flags == SYN | ACK;
                if answer && self.traffic.server_side(first).is_none() {
                    continue;
                }
                for n in first..first + group {
                    let pair = if answer { self.traffic.server_side(n) } else { Some(self.traffic.client_side(n)) };
                    if let Some(pair) = pair {
                        let _ = self.frame(pair, flags, None, 0);
                    }
                }
                self.port.flush();
                let deadline = Instant::now() + PATIENCE;
                let mut came = 0;
                while came < group {
                    let traffic = &mut self.traffic;
                    came += self.port.take_sent(|_, b| {
                        if flags == SYN {
                            traffic.opened(b);
                        }
                    });
                    self.port.flush();
                    if Instant::now() > deadline {
                        return Err(LinerateError::Opening { opened: first + came, asked: self.flows });
                    }
                }
            }
        }
        Ok(())
    }
}

impl Ends for Generator<'_> {
    fn begin(&mut self, trial: u32, size: Size) {
        // A subject that lost its core for longer than a trial waits sends on probes of the trial before, which know nothing of this one's clock.
        self.trial = trial;
        self.traffic.set_sizes(&size.parts().iter().map(|p| p.0).collect::<Vec<_>>());
    }

    fn send(&mut self, size: Size, stamp: Option<Stamp>) -> bool {
        let pair = self.traffic.any(self.flows);
        let part = size.pick(self.traffic.random());
        self.frame(pair, ACK, stamp, part)
    }

    fn flush(&mut self) {
        self.port.flush();
    }

    fn take(&mut self, probe: &mut dyn FnMut(Stamp)) -> (u64, bool) {
        let (traffic, trial) = (&self.traffic, self.trial);
        let n = self.port.take_sent(|_, b| {
            if let Some(stamp) = traffic.stamp_of(b).filter(|s| s.number >> 24 == trial) {
                probe(stamp);
            }
        });
        (n as u64, n == BURST)
    }

    fn end(&mut self, _: &mut Trial) {}
}

impl Device for Generator<'_> {
    fn trial(&mut self, rate: f64, seconds: f64, size: Size, probes: bool) -> Result<Trial, LinerateError> {
        let number = self.trial.wrapping_add(1);
        Ok(open_loop::trial(self, number, rate, seconds, size, probes))
    }

    fn most(&self, _: Size) -> f64 {
        // More than any veth carries.
        10e6
    }
}

/// What a subject has to say when it is taken away.
#[derive(Debug, Default, Clone)]
struct Account {
    /// Frames of turns that were not interrupted, and cycles of these turns.
    frames: u64,
    cycles: u64,
    busy: u64,
    idle: u64,
    dropped: BTreeMap<String, u64>,
}

impl Account {
    fn rings(&mut self, port: &AfXdpPort) {
        for interface in 0..2 {
            let Ok(s) = port.statistics(interface) else { continue };
            for (what, n) in
                [("receive ring full", s.receive_ring_full), ("no buffer to receive into", s.receive_no_buffer)]
            {
                if n > 0 {
                    *self.dropped.entry(format!("{what} on {}", PAIRS[usize::from(interface)][0])).or_default() += n;
                }
            }
        }
    }

    /// Counts a turn with so many frames.
    #[inline]
    fn turn(&mut self, frames: usize, cycles: u64, gap: u64) {
        if frames == 0 {
            self.idle += 1;
            return;
        }
        self.busy += 1;
        if cycles < gap {
            self.frames += frames as u64;
            self.cycles += cycles;
        }
    }

    /// Cycles a frame.
    fn cost(&self) -> f64 {
        self.cycles as f64 / self.frames.max(1) as f64
    }

    fn add(&mut self, other: &Account) {
        self.frames += other.frames;
        self.cycles += other.cycles;
        self.busy += other.busy;
        self.idle += other.idle;
        for (what, n) in &other.dropped {
            *self.dropped.entry(what.clone()).or_default() += n;
        }
    }
}

/// The bare loop.
fn reflect(mut port: AfXdpPort, stop: &AtomicBool) -> Account {
    let mut frames: [Frame; BURST] = Default::default();
    let mut interfaces = [0; BURST];
    let mut account = Account::default();
    let gap = (tsc_hz() as f64 * GAP) as u64;
    while !stop.load(Ordering::Relaxed) {
        let begin = tsc();
        let n = port.receive(&mut frames, &mut interfaces);
        for (frame, interface) in frames.iter_mut().zip(interfaces).take(n) {
            if let Err(frame) = port.transmit(interface ^ 1, std::mem::take(frame)) {
                *account.dropped.entry(DropReason::TransmitFull.to_string()).or_default() += 1;
                port.release(frame);
            }
        }
        port.flush();
        account.turn(n, tsc().wrapping_sub(begin), gap);
    }
    account.rings(&port);
    account
}

/// The director's worker.
fn direct(o: &stages::Options, port: AfXdpPort, stop: &AtomicBool) -> Account {
    let mut s = snapshot(o);
    s.interfaces =
        ["clients", "servers"].map(|name| Interface { name: name.to_owned(), mac: DIRECTOR, mtu: 1500 }).to_vec();
    for hop in &mut s.next_hops {
        *hop = lcs_pipelines::snapshot::NextHop::new(
            lcs_dataplane::headers::MacAddr([2, 0, 0, 1, 0, 0]),
            DIRECTOR,
            1,
            1500,
        );
    }
    let mut worker = worker(o, port, Tsc, (0, 1), s);
    let mut account = Account::default();
    let (clock, gap, mut busy) = (Clock::start(), (tsc_hz() as f64 * GAP) as u64, 0);
    // The worker's own loop, each turn of it timed.
    while !stop.load(Ordering::Relaxed) {
        let begin = tsc();
        let now = clock.now();
        let n = worker.poll(now);
        busy = if n > 0 { busy + 1 } else { BUSY_TURNS };
        if busy >= BUSY_TURNS {
            busy = 0;
            worker.between(now);
        }
        account.turn(n, tsc().wrapping_sub(begin), gap);
    }
    let dropped = DropReason::ALL.iter().zip(&worker.counters().dropped).filter(|(_, n)| **n > 0);
    account.dropped = dropped.map(|(r, n)| (r.to_string(), *n)).collect();
    account.rings(worker.port());
    account
}

/// The two ends of the pairs: programs attached, tables filled.
struct Bed {
    // Attachments before their filters, which they read.
    subject: Vec<Attached>,
    generator: Vec<Attached>,
    _filters: [XdpFilter; 2],
}

impl Bed {
    /// In the calling thread's namespace.
    fn build(o: &stages::Options) -> Result<Bed, LinerateError> {
        let rtnl = Rtnl::open()?;
        for names in PAIRS {
            let [a, b] = names.map(|name| VethEnd { name, namespace: None, mac: None, mtu: 1500, queues: 1 });
            rtnl.create_veth(&a, &b)?;
            for name in names {
                rtnl.set_up(name, true)?;
            }
        }
        // Both ends see packets to the service and to the servers, and from them.
        let mut keys = vec![FilterKey::new(service_address(o, 0), 80, protocol::TCP)];
        keys.extend((0..o.servers).map(|n| FilterKey::new(server_address(o, n), 8080, protocol::TCP)));
        let mut filters = [XdpFilter::load()?, XdpFilter::load()?];
        for filter in &mut filters {
            filter.set_services(&keys)?;
            filter.set_replies(&keys)?;
        }
        let attach = |end: usize| -> Result<Vec<Attached>, LinerateError> {
            PAIRS
                .iter()
                .map(|names| Ok(filters[end].attach(&links::interface(names[end])?, ModePreference::Auto)?))
                .collect()
        };
        Ok(Bed { subject: attach(0)?, generator: attach(1)?, _filters: filters })
    }
}

fn port(attached: &[Attached]) -> Result<AfXdpPort, LinerateError> {
    Ok(AfXdpPort::open(&attached.iter().collect::<Vec<_>>(), 0, &PortOptions::default())?)
}

/// Measures over veth pairs that are made for it. `progress` is told what is being done.
///
/// # Errors
/// Options out of range, fewer than two cores, or what the kernel does not let this process do.
pub fn measure(o: &Options, mut progress: impl FnMut(&str) + Send) -> Result<Figures, LinerateError> {
    check(o)?;
    let Subject::Director(forward) = o.subject else {
        return Err(LinerateError::Port(
            "the reflector is always measured beside it: name a --pipeline of the director",
        ));
    };
    if forward == Forward::Tunnel || o.ipv6 {
        return Err(LinerateError::Port("tunnels and IPv6 are measured on the memory port: leave out --port af-xdp"));
    }
    let cores: Vec<usize> = cores::available()?.into_iter().map(|c| c.id).collect();
    let [of_generator, .., of_subject] = cores[..] else {
        return Err(LinerateError::Port("generator and director need a core each, and this process has one only"));
    };
    let namespace = Namespace::create()?;
    namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    namespace.run(|| inside(o, flows(o, forward), [of_generator, of_subject], &mut progress))?
}

/// What is seen of both subjects, and ratios by round.
fn inside(
    o: &Options,
    flows: stages::Options,
    [of_generator, of_subject]: [usize; 2],
    progress: &mut impl FnMut(&str),
) -> Result<Figures, LinerateError> {
    cores::pin(of_generator)?;
    let bed = Bed::build(&flows)?;
    let mut generator = port(&bed.generator)?;
    let report: Vec<String> = generator.interfaces().map(|i| i.to_string()).collect();
    let subjects = [o.subject, Subject::Reflector];
    let mut seen: Vec<[Seen; 2]> = o.sizes.iter().map(|_| Default::default()).collect();
    let mut accounts: [Account; 2] = Default::default();
    let mut costs: [Vec<f64>; 2] = Default::default();
    let rounds = o.fixed_rounds();
    for round in 0..rounds {
        for which in [0, 1] {
            let subject = subjects[which];
            progress(&format!("round {} of {}: {subject}", round + 1, rounds));
            let stop = AtomicBool::new(false);
            let opened = port(&bed.subject)?;
            let result: Result<Account, LinerateError> = thread::scope(|scope| {
                let run = || {
                    cores::pin(of_subject)?;
                    Ok(if subject == Subject::Reflector {
                        reflect(opened, &stop)
                    } else {
                        direct(&flows, opened, &stop)
                    })
                };
                let thread = scope.spawn(run);
                let mut device =
                    Generator { port: &mut generator, traffic: Traffic::new(&flows), flows: o.flows, trial: 0 };
                let measured = (|| {
                    if subject != Subject::Reflector {
                        device.open()?;
                    }
                    for (size, seen) in o.sizes.iter().zip(&mut seen) {
                        progress(&format!("round {} of {}, {size}: {subject}", round + 1, rounds));
                        seen[which].search(&mut device, o, *size)?;
                        if round + 1 == rounds {
                            seen[which].loads(&mut device, o, *size)?;
                        }
                    }
                    Ok(())
                })();
                stop.store(true, Ordering::Relaxed);
                let account = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                measured.and(account)
            });
            let account = result?;
            costs[which].push(account.cost());
            accounts[which].add(&account);
        }
    }
    let mut notes = vec![format!(
        "generator on core {of_generator}, subject on core {of_subject}; {}; veth has no wire: these are the kernel's figures more than a card's",
        report.join(", ")
    )];
    for (subject, account) in subjects.iter().zip(&accounts) {
        let share = account.busy as f64 / (account.busy + account.idle).max(1) as f64;
        let dropped: Vec<String> = account.dropped.iter().map(|(what, n)| format!("{what}: {n}")).collect();
        let dropped = if dropped.is_empty() { "nothing".to_owned() } else { dropped.join(", ") };
        notes.push(format!(
            "{subject}: {:.0} cycles a frame; {:.0} % of its turns found one; dropped over all trials, those beyond its rate included: {dropped}",
            account.cost(),
            share * 100.0
        ));
    }
    let (mut rows, mut ratios) = (vec![], vec![]);
    let cost = Summary::of(costs[1].iter().zip(&costs[0]).map(|(bare, director)| bare / director).collect());
    for (size, [director, bare]) in o.sizes.iter().zip(seen) {
        let ratio = |of: fn(&Seen) -> Vec<f64>| {
            let all = of(&director).into_iter().zip(of(&bare)).filter(|(_, bare)| *bare > 0.0);
            Summary::of(all.map(|(director, bare)| director / bare).collect())
        };
        ratios.push(Ratio {
            size: *size,
            saturated: ratio(|s| s.saturated.clone()),
            ndr: ratio(|s| s.searches.iter().map(|s| s[0].rate).collect()),
            pdr: ratio(|s| s.searches.iter().map(|s| s[1].rate).collect()),
            cost,
        });
        rows.push(director.row(o.subject, *size));
        rows.push(bare.row(Subject::Reflector, *size));
    }
    Ok(Figures {
        options: o.clone(),
        between: None,
        line_rate: None,
        port: "af-xdp".to_owned(),
        tsc_hz: tsc_hz(),
        rows,
        ratios,
        notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linerate::Search;

    #[test]
    fn director_and_reflector_carry_frames_over_veth() {
        let root = std::fs::read_to_string("/proc/self/status")
            .is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:") && l.split_ascii_whitespace().nth(2) == Some("0")));
        if !root || cores::available().map_or(0, |c| c.len()) < 2 {
            println!("skipped: director_and_reflector_carry_frames_over_veth needs root and two cores");
            return;
        }
        let search = Search { seconds: 0.05, resolution: 0.1, agree: 1, budget: Duration::from_secs(20) };
        for forward in [Forward::Nat, Forward::FullNat, Forward::Dr] {
            let o = Options {
                subject: Subject::Director(forward),
                flows: 200,
                sizes: vec![Size::Imix],
                rounds: Some(1),
                search,
                ..Options::default()
            };
            let figures = measure(&o, |_| {}).unwrap_or_else(|e| panic!("{forward:?}: {e}"));
            assert_eq!((figures.rows.len(), figures.ratios.len()), (2, 1));
            // A rate to compare needs a quiet machine; that frames pass does not.
            assert!(figures.rows.iter().all(|r| r.saturated.median > 100.0), "{figures}");
            let gaps: u64 = figures.rows.iter().map(|r| r.gaps.0).sum();
            assert!(figures.ratios[0].saturated.median > 0.1 || gaps > 0, "{figures}");
        }
    }
}
