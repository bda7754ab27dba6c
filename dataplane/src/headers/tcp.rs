//! TCP (RFC 9293).

use super::{SeqNumber, be16, be32};
use crate::verdict::DropReason;

/// Bytes of a header without options.
pub const HEADER: usize = 20;

/// Flag bits of byte 13.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is significant.
    pub const URG: u8 = 0x20;
}

/// A checked view of bytes that start with a TCP header.
#[derive(Debug, Clone, Copy)]
pub struct Tcp<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Tcp<T> {
    /// Checks the data offset.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] when the bytes end before the header, [`DropReason::BadHeader`] for a data offset under 5.
    #[inline]
    pub fn parse(bytes: T) -> Result<Self, DropReason> {
        let b = bytes.as_ref();
        if b.len() < HEADER {
            return Err(DropReason::Truncated);
        }
        let header = usize::from(b[12] >> 4) * 4;
        if header < HEADER {
            return Err(DropReason::BadHeader);
        }
        if b.len() < header {
            return Err(DropReason::Truncated);
        }
        Ok(Tcp { bytes })
    }

    /// Source port.
    pub fn source_port(&self) -> u16 {
        be16(self.bytes.as_ref(), 0)
    }

    /// Destination port.
    pub fn destination_port(&self) -> u16 {
        be16(self.bytes.as_ref(), 2)
    }

    /// Sequence number.
    pub fn seq(&self) -> SeqNumber {
        SeqNumber(be32(self.bytes.as_ref(), 4))
    }

    /// Acknowledgement number; significant when ACK is set.
    pub fn ack(&self) -> SeqNumber {
        SeqNumber(be32(self.bytes.as_ref(), 8))
    }

    /// Header length in bytes, options included.
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes.as_ref()[12] >> 4) * 4
    }

    /// Flag bits; see [`flags`].
    pub fn flags(&self) -> u8 {
        self.bytes.as_ref()[13]
    }

    /// Receive window, not scaled.
    pub fn window(&self) -> u16 {
        be16(self.bytes.as_ref(), 14)
    }

    /// The options' bytes.
    pub fn options(&self) -> &[u8] {
        &self.bytes.as_ref()[HEADER..self.header_len()]
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[self.header_len()..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_offset_is_believed_only_within_the_bytes() {
        let mut b = [0u8; 60];
        b[12] = 0xf0;
        assert_eq!(Tcp::parse(&b[..]).unwrap().options().len(), 40);
        assert_eq!(Tcp::parse(&b[..59]).unwrap_err(), DropReason::Truncated);
        b[12] = 0x40;
        assert_eq!(Tcp::parse(&b[..]).unwrap_err(), DropReason::BadHeader);
        assert_eq!(Tcp::parse(&b[..19]).unwrap_err(), DropReason::Truncated);
    }
}
