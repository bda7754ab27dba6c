//! The kernel's links, addresses, routes and neighbours through rtnetlink: one request, one answer.
//!
//! A [`Rtnl`] belongs to the network namespace in which it was opened and may be used from any thread.
//! Each call waits for the kernel's acknowledgement, so what it asked for is in force when it returns.
//! (The director follows changes live with the asynchronous `rtnetlink` crate; this is for setting up and looking.)

mod address;
mod link;
mod policy;

use std::io;
use std::sync::{Mutex, PoisonError};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlaBuffer,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use address::{Neighbour, Route};
pub use link::{Link, VethEnd};
pub use policy::Policy;

use crate::error::{Error, Result};
use crate::netns::Namespace;

/// `NLMSGERR_ATTR_MSG`: the kernel's own words on why it refused.
const WORDS_OF_REFUSAL: u16 = 1;
/// Length of a netlink header, the only part of the request that a refusal repeats (`NETLINK_CAP_ACK`).
const HEADER_BYTES: usize = 16;

/// Attempts to list objects that change meanwhile.
const MOST_DUMPS: usize = 8;

/// A connection to the rtnetlink of one network namespace.
#[derive(Debug)]
pub struct Rtnl {
    connection: Mutex<Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    sequence: u32,
    /// Whether the last list is inconsistent.
    interrupted: bool,
}

impl Rtnl {
    /// For the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|e| Error::system("open a netlink socket", e))?;
        Ok(Rtnl { connection: Mutex::new(Connection { socket, sequence: 0, interrupted: false }) })
    }

    /// For `namespace`; the calling thread stays where it is.
    pub fn open_in(namespace: &Namespace) -> Result<Self> {
        namespace.run(Self::open)?
    }

    /// Asks the kernel to do something. `flags` are added to request and acknowledge.
    fn change(&self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.ask(what, message, flags | NLM_F_ACK).map(drop)
    }

    /// Asks for one object.
    fn get(&self, what: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        self.ask(what, message, NLM_F_ACK)
    }

    /// Asks for all objects of a kind; again when they changed while the kernel listed them (`NLM_F_DUMP_INTR`).
    fn dump(&self, what: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..MOST_DUMPS {
            let answers = connection.ask(what, message.clone(), NLM_F_DUMP)?;
            if !connection.interrupted {
                return Ok(answers);
            }
        }
        Err(Error::System {
            what: what.into(),
            source: io::ErrorKind::Interrupted.into(),
            mend: format!("the list changed during each of {MOST_DUMPS} attempts; try again when it's quieter"),
        })
    }

    fn ask(&self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.ask(what, message, flags)
    }
}

impl Connection {
    fn ask(&mut self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.interrupted = false;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(|e| Error::system(what, e))?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(|e| Error::system(what, e))?;
            if self.take(what, &datagram, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Takes the messages of one datagram; true when the answer is complete.
    fn take(&mut self, what: &str, datagram: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> Result<bool> {
        let unreadable = |detail: String| Error::Answer { what: what.into(), detail };
        let mut rest = datagram;
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|e| unreadable(e.to_string()))?;
            // Messages are aligned to four bytes; the last may end the datagram without its padding.
            let length = (message.header.length as usize).next_multiple_of(4).clamp(4, rest.len().max(4));
            rest = rest.get(length..).unwrap_or_default();
            if message.header.sequence_number != self.sequence {
                // The answer to an earlier request that was given up half-way.
                continue;
            }
            self.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                NetlinkPayload::Error(error) => return Err(refusal(what, error.to_io(), words_of(&error.header))),
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(refusal(what, io::Error::from_raw_os_error(done.code.saturating_neg()), None));
                }
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Noop => {}
                NetlinkPayload::Overrun(_) => return Err(unreadable("messages were lost".into())),
                other => {
                    return Err(unreadable(format!("unexpected message {}", other.message_type())));
                }
            }
        }
        Ok(false)
    }
}

fn refusal(what: &str, source: io::Error, words: Option<String>) -> Error {
    match words {
        Some(words) => Error::system(format!("{what} (kernel: {words})"), source),
        None => Error::system(what, source),
    }
}

/// The kernel's text in the attributes that follow the repeated header.
fn words_of(refused: &[u8]) -> Option<String> {
    NlasIterator::new(refused.get(HEADER_BYTES..)?)
        .flatten()
        .find(|nla: &NlaBuffer<_>| nla.kind() == WORDS_OF_REFUSAL)
        .map(|nla| String::from_utf8_lossy(nla.value()).trim_end_matches('\0').to_owned())
}
