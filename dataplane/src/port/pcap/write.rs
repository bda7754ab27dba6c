//! Writing captures: classic pcap with nanoseconds, Ethernet.

use std::io::{self, Write};

/// Nanosecond pcap, version 2.4, snaplen 262,144, Ethernet; little-endian.
const HEADER: [u8; 24] = [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];

/// Writes a capture frame by frame. Give it a buffered writer.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    frames: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a capture.
    ///
    /// # Errors
    /// The writer's.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        Ok(Writer { out, frames: 0 })
    }

    /// Writes a frame; `at` is in nanoseconds since 1970, and is written as the year 2106 from then on.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&mut self, at: u64, frame: &[u8]) -> io::Result<()> {
        let seconds = u32::try_from(at / 1_000_000_000).unwrap_or(u32::MAX);
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut header = [0; 16];
        header[..4].copy_from_slice(&seconds.to_le_bytes());
        header[4..8].copy_from_slice(&((at % 1_000_000_000) as u32).to_le_bytes());
        header[8..12].copy_from_slice(&length);
        header[12..].copy_from_slice(&length);
        self.out.write_all(&header)?;
        self.out.write_all(frame)?;
        self.frames += 1;
        Ok(())
    }

    /// Frames written.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Ends the capture, and gives the writer back.
    ///
    /// # Errors
    /// The writer's.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}
