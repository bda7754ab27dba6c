//! The generic netlink family `netdev` (`Documentation/netlink/specs/netdev.yaml`): what the kernel tells of network devices,
//! their queues and NAPI instances, and what of it can be set.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::NlasIterator;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

use crate::error::{Error, Result};

/// The family that knows the others, and its command and attributes (`linux/genetlink.h`).
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Netlink header and generic netlink header.
const HEADERS: usize = 16 + 4;
/// More datagrams than a list of all interfaces of a machine takes.
const MOST_DATAGRAMS: usize = 4096;

/// A socket of the family, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netdev {
    socket: Socket,
    family: u16,
}

impl Netdev {
    /// Opens it; none where the kernel has no such family (before Linux 6.3).
    pub(crate) fn open(what: &str) -> Result<Option<Self>> {
        let failed = |e: io::Error| Error::system(what, e);
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        let netdev = Netdev { socket, family: CONTROL };
        let mut name = Vec::new();
        attribute(&mut name, FAMILY_NAME, b"netdev\0");
        match netdev.ask(what, GET_FAMILY, 0, &name) {
            Ok(messages) => {
                let first = messages.first().map(|message| attributes(message));
                let id = first.and_then(|all| u16::try_from(number(all.get(&FAMILY_ID)?)?).ok());
                Ok(id.map(|family| Netdev { family, ..netdev }))
            }
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The answer to a question about one thing.
    pub(crate) fn get(&self, what: &str, command: u8, attributes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.ask(what, command, 0, attributes)
    }

    /// All things of a kind, or those that the attributes ask for.
    pub(crate) fn list(&self, what: &str, command: u8, attributes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.ask(what, command, DUMP, attributes)
    }

    /// Has something set.
    pub(crate) fn set(&self, what: &str, command: u8, attributes: &[u8]) -> Result<()> {
        self.ask(what, command, ACKNOWLEDGE, attributes).map(|_| ())
    }

    /// Sends a request and gives the messages of its answer, each without its headers.
    fn ask(&self, what: &str, command: u8, flags: u16, attributes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let failed = |e: io::Error| Error::system(what, e);
        let mut request = Vec::with_capacity(HEADERS + attributes.len());
        request.extend(((HEADERS + attributes.len()) as u32).to_ne_bytes());
        request.extend(self.family.to_ne_bytes());
        request.extend((REQUEST | flags).to_ne_bytes());
        // Sequence number and port: with one request at a time, taken to its end, neither is needed.
        request.extend([0; 8]);
        request.extend([command, 1, 0, 0]);
        request.extend(attributes);
        self.socket.send(&request, 0).map_err(failed)?;

        let mut answers = Vec::new();
        for _ in 0..MOST_DATAGRAMS {
            let (datagram, _) = self.socket.recv_from_full().map_err(failed)?;
            let last = take(&datagram, &mut answers).map_err(failed)?;
            if last || (flags & (DUMP | ACKNOWLEDGE) == 0 && !answers.is_empty()) {
                return Ok(answers);
            }
        }
        Err(Error::Answer { what: what.into(), detail: "it does not end".into() })
    }
}

/// Appends an attribute, padded as netlink wants it.
pub(crate) fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((4 + value.len()) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
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

/// The attributes of a message by their kind.
pub(crate) fn attributes(message: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    NlasIterator::new(message).map_while(|nla| nla.ok()).map(|nla| (nla.kind(), nla.value().to_vec())).collect()
}

/// A number of two, four or eight bytes in host order.
pub(crate) fn number(value: &[u8]) -> Option<u64> {
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
}
