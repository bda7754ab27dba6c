//! `lcs perf stages --port dpdk`: what a pipeline costs over a device of DPDK, against the same over the memory port and against
//! the device alone.
//!
//! The device is `net_ring`, whose queue gives back what it was given: a frame is put in before the timed part, received,
//! processed and sent by the worker in it, and taken out after it.

use crate::stages::{Bench, GROUP, Options, StagesError, check};
use crate::summary::Summary;
use crate::wire::Wire;
use lcs_dataplane::batch::BURST;
use lcs_dataplane::cycles::{Tsc, tsc, tsc_hz};
use lcs_dataplane::frame::Frame;
use lcs_dataplane::port::dpdk::{Device, DpdkError, DpdkPort, Options as DpdkOptions, open};
use lcs_dataplane::port::losses::Losses;
use lcs_dataplane::port::{Capabilities, PoolCounts, Port};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum DpdkStagesError {
    /// As on the memory port.
    #[error(transparent)]
    Stages(#[from] StagesError),
    /// DPDK does not start.
    #[error(transparent)]
    Dpdk(#[from] DpdkError),
    /// What is measured over the memory port only.
    #[error("{0} is measured over the memory port only: leave out --port dpdk")]
    MemoryOnly(&'static str),
}

/// What was measured, each in TSC cycles a packet. The four are measured in turn in every round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DpdkFigures {
    /// What was asked.
    pub options: Options,
    /// TSC cycles a second.
    pub tsc_hz: u64,
    /// The device.
    pub device: String,
    /// The device alone: a burst received and sent as it is, in C.
    pub bare: Summary,
    /// The port without a pipeline: received, sent, flushed.
    pub port: Summary,
    /// The worker's whole loop over the memory port.
    pub memory: Summary,
    /// The same over the device.
    pub dpdk: Summary,
    /// By round, cost over the device to the sum of those over the memory port and of the device alone.
    pub ratio: Summary,
    /// Millions of packets a second on this core, over the device.
    pub mpps: f64,
}

/// A queue of a ring device, and what has gone into and come out of it.
struct Ring {
    port: DpdkPort,
    waiting: usize,
    /// Received by the worker's side behind what was waiting: sent frames that are on their way out.
    out: Vec<Frame>,
}

impl Port for Ring {
    fn capabilities(&self) -> Capabilities {
        self.port.capabilities()
    }

    #[inline]
    fn receive(&mut self, frames: &mut [Frame; BURST], interfaces: &mut [u8; BURST]) -> usize {
        let n = self.port.receive(frames, interfaces);
        let ours = n.min(self.waiting);
        self.waiting -= ours;
        for frame in &mut frames[ours..n] {
            self.out.push(std::mem::take(frame));
        }
        ours
    }

    #[inline]
    fn transmit(&mut self, interface: u8, frame: Frame) -> Result<(), Frame> {
        self.port.transmit(interface, frame)
    }

    #[inline]
    fn flush(&mut self) {
        self.port.flush();
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.port.allocate()
    }

    fn release(&mut self, frame: Frame) {
        self.port.release(frame);
    }

    fn wait(&mut self, timeout: Duration, bell: Option<BorrowedFd<'_>>) {
        self.port.wait(timeout, bell);
    }

    fn losses(&self, losses: &mut [Losses]) {
        self.port.losses(losses);
    }

    fn pool(&self) -> PoolCounts {
        self.port.pool()
    }
}

impl Wire for Ring {
    fn inject_with(&mut self, interface: u8, len: usize, write: impl FnOnce(&mut [u8])) -> bool {
        let Some(mut frame) = self.port.allocate() else { return false };
        if u16::try_from(len).is_ok_and(|len| frame.set_len(len)) {
            write(frame.bytes_mut());
            match self.port.transmit(interface, frame) {
                Ok(()) => {
                    self.port.flush();
                    self.waiting += 1;
                    return true;
                }
                Err(back) => frame = back,
            }
        }
        self.port.release(frame);
        false
    }

    fn take_sent(&mut self, mut sink: impl FnMut(u8, &[u8])) -> usize {
        let mut n = 0;
        for frame in self.out.drain(..) {
            sink(0, frame.bytes());
            self.port.release(frame);
            n += 1;
        }
        let mut frames: [Frame; BURST] = Default::default();
        loop {
            let got = self.port.receive(&mut frames, &mut [0; BURST]);
            if got == 0 {
                return n;
            }
            for frame in &mut frames[..got] {
                sink(0, frame.bytes());
                self.port.release(std::mem::take(frame));
            }
            n += got;
        }
    }

    fn waiting(&self) -> usize {
        self.waiting
    }
}

impl Ring {
    /// A round of `packets` frames without a pipeline; `turn` takes a burst in and out. Returns cycles a packet.
    fn round(&mut self, packets: usize, template: &[u8], mut turn: impl FnMut(&mut DpdkPort) -> usize) -> f64 {
        let (mut cycles, mut count) = (0, 0);
        while count < packets {
            for _ in 0..GROUP {
                let injected = self.inject(0, template);
                debug_assert!(injected);
            }
            self.waiting = 0;
            let started = tsc();
            let mut passed = 0;
            while passed < GROUP {
                passed += turn(&mut self.port);
            }
            cycles += tsc().wrapping_sub(started);
            count += self.take_sent(|_, _| {});
        }
        cycles as f64 / count as f64
    }
}

/// A burst through the port alone.
fn through(port: &mut DpdkPort) -> usize {
    let mut frames: [Frame; BURST] = Default::default();
    let mut interfaces = [0; BURST];
    let n = port.receive(&mut frames, &mut interfaces);
    for (frame, interface) in frames[..n].iter_mut().zip(interfaces) {
        if let Err(frame) = port.transmit(interface, std::mem::take(frame)) {
            port.release(frame);
        }
    }
    port.flush();
    n
}

/// Measures. `eal` are arguments for DPDK; without any it runs without hugepages. Once for each process.
///
/// # Errors
/// Options out of range, DPDK that does not start, or frames that the pipeline did not forward.
pub fn measure(
    o: &Options,
    eal: Option<Vec<String>>,
    mut progress: impl FnMut(&str),
) -> Result<DpdkFigures, DpdkStagesError> {
    check(o)?;
    if o.splice {
        return Err(DpdkStagesError::MemoryOnly("--pipeline splice"));
    }
    if o.preallocate {
        return Err(DpdkStagesError::MemoryOnly("--pipeline preallocate"));
    }
    if o.accounting {
        return Err(DpdkStagesError::MemoryOnly("--accounting"));
    }
    const DEVICE: &str = "net_ring0";
    let eal = eal.unwrap_or_else(|| ["--no-huge", "--no-shconf", "-m", "64"].map(str::to_owned).to_vec());
    let devices = vec![Device::parse(DEVICE).map_err(DpdkError::Options)?];
    let options = DpdkOptions { devices, cores: vec![], buffers: 2048, arguments: Some(eal), clients: vec![] };
    let (environment, ports) = open(&options)?;
    let Some(port) = ports.into_iter().next() else {
        return Err(DpdkError::Options("there is no queue".to_owned()).into());
    };
    progress(&format!("opening {} flows over the memory port", o.flows));
    let mut memory = Bench::in_memory(o, Tsc)?;
    progress(&format!("opening {} flows over {DEVICE}", o.flows));
    let mut dpdk = Bench::on(o, Ring { port, waiting: 0, out: Vec::with_capacity(GROUP) }, Tsc);
    dpdk.fill()?;
    let template = vec![0; o.size - 4];
    let (mut bares, mut ports, mut memories, mut dpdks, mut ratios) = (vec![], vec![], vec![], vec![], vec![]);
    memory.round()?;
    dpdk.round()?;
    for round in 0..o.rounds {
        progress(&format!("round {} of {}", round + 1, o.rounds));
        // There and back, so that drift cancels out.
        let first = (memory.round()?, dpdk.round()?);
        let ring = dpdk.port_mut();
        let bare = ring.round(o.packets, &template, DpdkPort::reflect);
        ports.push(ring.round(o.packets, &template, through));
        let bare = (bare + ring.round(o.packets, &template, DpdkPort::reflect)) / 2.0;
        let second = (dpdk.round()?, memory.round()?);
        let (in_memory, on_device) = ((first.0 + second.1) / 2.0, (first.1 + second.0) / 2.0);
        ratios.push(on_device / (in_memory + bare));
        bares.push(bare);
        memories.push(in_memory);
        dpdks.push(on_device);
    }
    drop(dpdk);
    drop(environment);
    let hz = tsc_hz();
    let dpdk = Summary::of(dpdks);
    Ok(DpdkFigures {
        options: o.clone(),
        tsc_hz: hz,
        device: DEVICE.to_owned(),
        bare: Summary::of(bares),
        port: Summary::of(ports),
        memory: Summary::of(memories),
        dpdk,
        ratio: Summary::of(ratios),
        mpps: hz as f64 / dpdk.median / 1e6,
    })
}

impl fmt::Display for DpdkFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = &self.options;
        writeln!(
            f,
            "{:?} over {} on {}, {} flows in random order, {} B frames, {} services, {} servers, {} rounds of {} packets",
            o.forward,
            if o.ipv6 { "IPv6" } else { "IPv4" },
            self.device,
            o.flows,
            o.size,
            o.services,
            o.servers,
            o.rounds,
            o.packets
        )?;
        writeln!(f, "TSC {:.3} GHz; cycles are TSC cycles a packet; median (quartiles)\n", self.tsc_hz as f64 / 1e9)?;
        let rows = [
            ("the device alone, in C", &self.bare),
            ("the port, no pipeline", &self.port),
            ("pipeline, memory port", &self.memory),
            ("pipeline, the device", &self.dpdk),
        ];
        for (name, s) in rows {
            writeln!(f, "{name:<24} {:>8.1}   ({:.1} – {:.1})", s.median, s.quartiles.0, s.quartiles.1)?;
        }
        let r = &self.ratio;
        writeln!(
            f,
            "\ndevice / (memory + device alone), by round: {:.3} ({:.3} – {:.3})",
            r.median, r.quartiles.0, r.quartiles.1
        )?;
        write!(f, "{:.2} Mpps on one core", self.mpps)
    }
}
