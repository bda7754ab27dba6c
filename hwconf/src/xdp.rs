//! What a driver can do with XDP, told by the kernel without attaching anything: the generic netlink family `netdev`
//! (`Documentation/netlink/specs/netdev.yaml`, Linux 6.3 and newer).

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::NlasIterator;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The family that knows the others, and its command and attributes (`linux/genetlink.h`).
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `NETDEV_CMD_DEV_GET` and its attributes.
const DEVICE_GET: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_FEATURES: u16 = 3;

const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Netlink header and generic netlink header.
const HEADERS: usize = 16 + 4;
/// More datagrams than a list of all interfaces of a machine takes.
const MOST_DATAGRAMS: usize = 4096;

/// What a driver can do with XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpAbilities {
    /// A program may run in the driver ("native").
    pub native: bool,
    /// That program may redirect frames, also to AF_XDP sockets.
    pub redirect: bool,
    /// AF_XDP without a copy by the kernel.
    pub zero_copy: bool,
}

impl XdpAbilities {
    /// From `NETDEV_A_DEV_XDP_FEATURES`: basic, redirect, transmission of others' frames, zero-copy, …
    fn from_bits(bits: u64) -> Self {
        XdpAbilities { native: bits & 1 != 0, redirect: bits & 2 != 0, zero_copy: bits & 8 != 0 }
    }
}

/// The abilities of every interface of the calling thread's network namespace, by their index; empty where the kernel
/// has no such family.
pub fn abilities() -> Result<BTreeMap<u32, XdpAbilities>> {
    let what = "ask for what interfaces can do with XDP";
    let mut found = BTreeMap::new();
    let Some(family) = family(what)? else { return Ok(found) };
    for message in ask(what, family, DEVICE_GET, DUMP, &[])? {
        let attributes = attributes(&message);
        let number = |kind: u16| attributes.get(&kind).and_then(|value| number(value));
        if let (Some(index), Some(bits)) = (number(DEVICE_INDEX), number(DEVICE_FEATURES)) {
            found.insert(index as u32, XdpAbilities::from_bits(bits));
        }
    }
    Ok(found)
}

fn family(what: &str) -> Result<Option<u16>> {
    let name = b"netdev\0";
    let mut attribute = Vec::from(((4 + name.len()) as u16).to_ne_bytes());
    attribute.extend(FAMILY_NAME.to_ne_bytes());
    attribute.extend(name);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    match ask(what, CONTROL, GET_FAMILY, 0, &attribute) {
        Ok(messages) => Ok(messages
            .first()
            .and_then(|message| attributes(message).get(&FAMILY_ID).and_then(|value| number(value)))
            .and_then(|id| u16::try_from(id).ok())),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a request and gives the messages of its answer, each without its headers.
fn ask(what: &str, family: u16, command: u8, flags: u16, attributes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let failed = |e: io::Error| Error::system(what, e);
    let mut socket = Socket::new(NETLINK_GENERIC).map_err(failed)?;
    socket.bind_auto().map_err(failed)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
    let mut request = Vec::with_capacity(HEADERS + attributes.len());
    request.extend(((HEADERS + attributes.len()) as u32).to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend((REQUEST | flags).to_ne_bytes());
    // Sequence number and port: one request on a socket of its own needs neither.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send(&request, 0).map_err(failed)?;

    let mut answers = Vec::new();
    for _ in 0..MOST_DATAGRAMS {
        let (datagram, _) = socket.recv_from_full().map_err(failed)?;
        if take(&datagram, &mut answers).map_err(failed)? || (flags & DUMP == 0 && !answers.is_empty()) {
            return Ok(answers);
        }
    }
    Err(Error::Answer { what: what.into(), detail: "it does not end".into() })
}

/// Takes the messages of one datagram; true when a list is complete.
fn take(mut rest: &[u8], answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    while let Some((length, kind)) = header(rest) {
        let message = &rest[..length];
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = message.get(16..20).and_then(|c| c.try_into().ok()).map_or(0, i32::from_ne_bytes);
                return if code == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(code.saturating_neg())) };
            }
            _ => answers.push(message.get(HEADERS..).unwrap_or_default().to_vec()),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Length and kind of the first message; none where there is no whole one.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    (length >= 16 && length <= bytes.len()).then_some((length, kind))
}

fn attributes(message: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    NlasIterator::new(message).map_while(|nla| nla.ok()).map(|nla| (nla.kind(), nla.value().to_vec())).collect()
}

/// A number of two, four or eight bytes in host order.
fn number(value: &[u8]) -> Option<u64> {
    match *value {
        [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
        [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Some(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_specification() {
        let all = XdpAbilities { native: true, redirect: true, zero_copy: true };
        assert_eq!(XdpAbilities::from_bits(0x7f), all);
        assert_eq!(XdpAbilities::from_bits(0x7), XdpAbilities { zero_copy: false, ..all });
        assert_eq!(XdpAbilities::from_bits(0), XdpAbilities { native: false, redirect: false, zero_copy: false });
    }

    #[test]
    fn a_broken_answer_ends_and_a_refusal_is_an_error() {
        let mut answers = Vec::new();
        for broken in [&[][..], &[1, 0, 0], &[255; 40], &[0; 40]] {
            assert!(!take(broken, &mut answers).unwrap(), "{broken:?}");
        }
        assert!(answers.is_empty());
        let mut refusal = [0u8; 36];
        refusal[..4].copy_from_slice(&36u32.to_ne_bytes());
        refusal[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        refusal[16..20].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        assert_eq!(take(&refusal, &mut answers).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn the_loopback_has_no_driver_program() {
        // A kernel before 6.3 tells nothing.
        if let Some(lo) = abilities().unwrap().get(&1) {
            assert!(!lo.native && !lo.zero_copy);
        }
    }
}
