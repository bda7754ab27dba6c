//! Ethernet II framing, with at most one 802.1Q tag.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// Bytes of an Ethernet header without a tag.
pub const HEADER: usize = 14;
/// Bytes that one 802.1Q tag adds.
pub const TAG: usize = 4;

/// EtherType values.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// A 48-bit link-layer address, written `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All ones.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Whether the group bit is set (multicast or broadcast).
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether all bytes are zero.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no link-layer address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no link-layer address; write six hexadecimal bytes, such as 02:00:00:00:00:01")]
pub struct BadMacAddr(String);

impl FromStr for MacAddr {
    type Err = BadMacAddr;
    fn from_str(s: &str) -> Result<Self, BadMacAddr> {
        let bad = || BadMacAddr(s.to_owned());
        let mut out = [0u8; 6];
        let mut parts = s.split(':');
        for byte in &mut out {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(MacAddr(out)) }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The source address of a frame; zero when it is too short.
#[inline]
pub fn source(frame: &[u8]) -> MacAddr {
    frame.get(6..12).and_then(|s| s.try_into().ok()).map_or(MacAddr::default(), MacAddr)
}

/// The destination address of a frame; zero when it is too short.
#[inline]
pub fn destination(frame: &[u8]) -> MacAddr {
    frame.get(..6).and_then(|s| s.try_into().ok()).map_or(MacAddr::default(), MacAddr)
}

/// Writes both addresses (destination first, as on the wire); nothing when the frame is too short.
#[inline]
pub fn set_addresses(frame: &mut [u8], addresses: &[u8; 12]) {
    if let Some(place) = frame.first_chunk_mut::<12>() {
        *place = *addresses;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_both_ways() {
        let mac: MacAddr = "02:ab:00:00:00:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:ab:00:00:00:01");
        for bad in ["", "02:ab:00:00:00", "02:ab:00:00:00:01:02", "2:ab:00:00:00:01", "02:ab:00:00:00:zz"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }
}
