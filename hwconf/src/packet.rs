//! Packet sockets: every frame that passes an interface, as the kernel holds it.
//!
//! What is seen here, on the director's leg, is what the director would receive: oversized frames and unfinished
//! checksums of a veth peer with offloads on included.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::rtnl::Rtnl;
use crate::sys;

/// What the kernel keeps for a packet socket, bytes; it doubles this for its own bookkeeping.
const QUEUE: u32 = 8 << 20;

/// Waits until one of `descriptors` can be read, or has failed, or `timeout` has passed (`None`: for ever). Gives for
/// each whether it's worth reading. A signal ends the wait as a time-out does.
pub fn wait_any<const N: usize>(descriptors: [BorrowedFd<'_>; N], timeout: Option<Duration>) -> Result<[bool; N]> {
    sys::wait_readable(descriptors, timeout).map_err(|e| Error::system("wait for frames", e))
}

/// Which way a captured frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received by the interface, whatever address it was for.
    Received,
    /// Sent by this host through the interface.
    Sent,
}

/// A packet socket on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    link: String,
}

impl PacketSocket {
    /// Starts to capture on the interface `link` of `namespace`, Ethernet header included.
    ///
    /// The kernel keeps up to 16 MiB of frames that were not yet taken, its own bookkeeping (about 2,300 bytes for a
    /// frame of 1,500) included, then drops: [`Self::missed`].
    pub fn open(namespace: &Namespace, link: &str) -> Result<Self> {
        namespace.run(|| {
            let index = Rtnl::open()?.link(link)?.index;
            let failed = |e| Error::system(format!("open a packet socket on the interface {link}"), e);
            // Protocol 0 receives nothing until the socket is bound, so no frame of another interface slips in.
            let socket = Socket::new(Domain::PACKET, Type::RAW, None::<Protocol>).map_err(failed)?;
            socket.set_nonblocking(true).map_err(failed)?;
            // Without the right to it the kernel caps what it gives (net.core.rmem_max); a smaller queue still works.
            if sys::force_receive_buffer(&socket, QUEUE).is_err() {
                let _ = socket.set_recv_buffer_size(QUEUE as usize);
            }
            sys::bind_packet(&socket, index).map_err(failed)?;
            Ok(PacketSocket { socket, link: link.into() })
        })?
    }

    /// Takes the next frame, without waiting: `None` when there is none. A frame longer than `buffer` is cut.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<(usize, Direction)>> {
        match sys::receive_from(&self.socket, buffer) {
            Ok((length, from)) => {
                let sent = sys::packet_type(&from) == Some(libc::PACKET_OUTGOING);
                Ok(Some((length, if sent { Direction::Sent } else { Direction::Received })))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(Error::system(format!("capture on the interface {}", self.link), error)),
        }
    }

    /// Frames that the kernel has dropped since this was asked last, because nobody took those before them in time.
    pub fn missed(&self) -> Result<u64> {
        sys::packets_missed(&self.socket)
            .map(u64::from)
            .map_err(|e| Error::system(format!("count the frames missed on the interface {}", self.link), e))
    }

    /// Waits until there is a frame; `false` when `timeout` passed first.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool> {
        sys::wait_one(&self.socket, timeout)
            .map_err(|e| Error::system(format!("wait for frames of the interface {}", self.link), e))
    }

    /// Sends one frame, Ethernet header included, through the interface.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket.send(frame).map(drop).map_err(|e| {
            Error::system(format!("send a frame of {} bytes through the interface {}", frame.len(), self.link), e)
        })
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
