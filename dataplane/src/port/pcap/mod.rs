//! The pcap port: frames come from a capture, and what is sent goes into another.
//!
//! The capture's clock is the wire's: [`PcapPort::next_arrival`] says when the next frame comes, and after
//! [`PcapPort::advance`] to that time it can be received. So time-outs act as they would have, however fast it is replayed.

mod classic;
mod ng;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Captured, Problem, ReadError, Reader, read};
pub use write::Writer;

use super::losses::Losses;
use super::memory::MemoryPort;
use super::{Capabilities, PoolCounts, Port};
use crate::batch::BURST;
use crate::frame::Frame;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Buffers of the pool: a burst being received, one being sent, and some for what a pipeline makes itself.
const BUFFERS: usize = 4 * BURST;

/// How frames of a capture's interface get a number within the port.
pub type Interfaces = Box<dyn Fn(u32, Option<&str>) -> Option<u8>>;

/// Why a captured frame was not received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Skipped {
    /// It is longer than a buffer.
    #[error("longer than a buffer; capture with the offloads off (ethtool -K IF gro off gso off tso off)")]
    TooLong,
    /// It is of an interface that the port does not have.
    #[error("captured on an interface that the director does not have")]
    Interface,
}

/// A frame of the capture that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// Its number in the capture, from 1.
    pub number: u64,
    /// The frame as it was captured.
    pub captured: Captured<'a>,
    /// Its place in the burst, or why it was left out.
    pub place: Result<usize, Skipped>,
}

/// A port between two captures.
pub struct PcapPort<'a, W> {
    memory: MemoryPort,
    reader: Reader<'a>,
    next: Option<Captured<'a>>,
    ended: Option<ReadError>,
    number: u64,
    arrivals: Vec<Arrival<'a>>,
    interfaces: Interfaces,
    behind: bool,
    /// Time on the wire.
    now: u64,
    writer: Writer<W>,
    failed: Option<io::Error>,
}

impl<'a, W: Write> PcapPort<'a, W> {
    /// A port that receives the frames of `capture` (a whole file) and writes what is sent to `sent`.
    ///
    /// It has `interfaces` interfaces; frames come in on that with the number of their interface in the capture.
    /// What a capture kept only the beginning of is filled up with zeros to its length on the wire.
    ///
    /// # Errors
    /// When `capture` is none, or `sent` can't be written.
    pub fn new(capture: &'a [u8], interfaces: u8, sent: W) -> Result<Self, OpenError> {
        let reader = Reader::new(capture)?;
        let by_number = move |number: u32, _: Option<&str>| u8::try_from(number).ok().filter(|n| *n < interfaces);
        let mut port = PcapPort {
            memory: MemoryPort::new(interfaces, BUFFERS),
            reader,
            next: None,
            ended: None,
            number: 0,
            arrivals: Vec::with_capacity(BURST),
            interfaces: Box::new(by_number),
            behind: false,
            now: u64::MAX,
            writer: Writer::new(sent)?,
            failed: None,
        };
        port.read_on();
        Ok(port)
    }

    /// The same port, with another way from a capture's interface (number and name) to one of its own. A number that the
    /// port does not have counts as none.
    #[must_use]
    pub fn with_interfaces(mut self, interfaces: Interfaces) -> Self {
        self.interfaces = interfaces;
        self
    }

    /// The same port, as if a kernel were behind it that answers ARP, NDP and ping, and takes what is not ours. What is
    /// handed to it ends there.
    #[must_use]
    pub fn with_kernel(mut self) -> Self {
        self.behind = true;
        self
    }

    /// When the next frame comes, in nanoseconds since 1970; `None` at the end of the capture.
    pub fn next_arrival(&self) -> Option<u64> {
        self.next.map(|c| c.at)
    }

    /// Lets the wire's time be `now` (nanoseconds since 1970): frames captured until then can be received, and what is
    /// sent from here on is sent then. Before the first call every frame can be received.
    pub fn advance(&mut self, now: u64) {
        self.now = now;
    }

    /// What has come with the last burst, left-out frames included, in the capture's order.
    pub fn arrivals(&self) -> &[Arrival<'a>] {
        &self.arrivals
    }

    /// Why the capture could not be read to its end, if it could not.
    pub fn read_error(&self) -> Option<&ReadError> {
        self.ended.as_ref()
    }

    /// Ends the capture of what was sent, and gives its writer back with the number of frames.
    ///
    /// # Errors
    /// The first that writing it met.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.flush();
        match self.failed {
            Some(error) => Err(error),
            None => {
                let frames = self.writer.frames();
                Ok((self.writer.finish()?, frames))
            }
        }
    }

    fn read_on(&mut self) {
        self.next = match self.reader.next() {
            Some(Ok(captured)) => Some(captured),
            Some(Err(error)) => {
                self.ended = Some(error);
                None
            }
            None => None,
        };
    }

    /// Puts a captured frame into a buffer; `None` when there is none free.
    fn inject(&mut self, captured: &Captured<'_>) -> Option<Result<(), Skipped>> {
        let Some(interface) = (self.interfaces)(captured.interface, captured.name) else {
            return Some(Err(Skipped::Interface));
        };
        if interface >= self.memory.capabilities().interfaces {
            return Some(Err(Skipped::Interface));
        }
        let length = captured.length as usize;
        let write = |to: &mut [u8]| {
            let (head, rest) = to.split_at_mut(captured.bytes.len().min(length));
            head.copy_from_slice(&captured.bytes[..head.len()]);
            rest.fill(0);
        };
        if self.memory.inject_with(interface, length, write) {
            return Some(Ok(()));
        }
        (self.memory.pool().free > 0).then_some(Err(Skipped::TooLong))
    }
}

/// A port between captures that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The capture can't be read.
    #[error("the capture can't be read: {0}")]
    Read(#[from] ReadError),
    /// What is sent can't be written.
    #[error("the capture of what is sent can't be written: {0}")]
    Write(#[from] io::Error),
}

impl<W: Write> Port for PcapPort<'_, W> {
    fn capabilities(&self) -> Capabilities {
        Capabilities { kernel_answers: self.behind, exception_path: self.behind, ..self.memory.capabilities() }
    }

    fn losses(&self, losses: &mut [Losses]) {
        self.memory.losses(losses);
    }

    fn receive(&mut self, frames: &mut [Frame; BURST], interfaces: &mut [u8; BURST]) -> usize {
        self.arrivals.clear();
        let mut place = 0;
        while let Some(captured) = self.next
            && captured.at <= self.now
            && self.arrivals.len() < BURST
        {
            let Some(outcome) = self.inject(&captured) else { break };
            self.number += 1;
            self.arrivals.push(Arrival { number: self.number, captured, place: outcome.map(|()| place) });
            place += usize::from(outcome.is_ok());
            self.read_on();
        }
        self.memory.receive(frames, interfaces)
    }

    fn transmit(&mut self, interface: u8, frame: Frame) -> Result<(), Frame> {
        self.memory.transmit(interface, frame)
    }

    fn to_kernel(&mut self, _interface: u8, frame: Frame) -> Result<(), Frame> {
        if !self.behind {
            return Err(frame);
        }
        self.memory.release(frame);
        Ok(())
    }

    fn flush(&mut self) {
        let PcapPort { memory, writer, failed, now, .. } = self;
        memory.take_sent(|_, bytes| {
            if failed.is_none()
                && let Err(error) = writer.write(*now, bytes)
            {
                *failed = Some(error);
            }
        });
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.memory.allocate()
    }

    fn release(&mut self, frame: Frame) {
        self.memory.release(frame);
    }

    /// Frames of the capture that can be received now end it at once; others come by [`PcapPort::advance`] only.
    fn wait(&mut self, timeout: Duration, bell: Option<BorrowedFd<'_>>) {
        if self.next.is_none_or(|captured| captured.at > self.now) {
            self.memory.wait(timeout, bell);
        }
    }

    fn pool(&self) -> PoolCounts {
        self.memory.pool()
    }
}
