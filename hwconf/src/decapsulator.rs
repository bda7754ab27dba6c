//! The far end of a tunnel in user space, for real servers whose kernel has no `ipip`, `sit` or `ip6_tunnel`.
//!
//! Raw sockets in the server's namespace receive what is addressed to the server as IP-in-IP: protocol 4 and 41
//! over IPv4 and over IPv6, reassembled by the kernel where it was fragmented. The outer header is taken off and
//! the inner packet is given back to the kernel through a TUN device, where it is received for the virtual address
//! (which must be an address of the server, on its loopback) with every check that a received packet undergoes.
//! The answer goes straight to the client, as in `LVS-TUN`.
//!
//! For tests and the demo. ECN is not combined (RFC 6040), and a tunnel's source isn't checked: whoever can reach
//! the server can inject, as with a kernel tunnel without a fixed remote.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::sys;
use crate::tun::Tun;

/// IPv4 within IP (IANA protocol number; RFC 2003, RFC 2473).
const IPV4_IN_IP: u8 = 4;
/// IPv6 within IP (RFC 4213, RFC 2473).
const IPV6_IN_IP: u8 = 41;
/// Packets that are taken from one socket before the next is looked at.
const BURST: usize = 64;
/// The largest IP packet in bytes.
const LARGEST: usize = 65_535;

/// What has been received, by outer and inner protocol, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decapsulated {
    /// IPv4 within IPv4.
    pub ipv4_in_ipv4: u64,
    /// IPv6 within IPv4.
    pub ipv6_in_ipv4: u64,
    /// IPv4 within IPv6.
    pub ipv4_in_ipv6: u64,
    /// IPv6 within IPv6.
    pub ipv6_in_ipv6: u64,
    /// Not an IP packet of the announced version inside, or one that the kernel would not take.
    pub refused: u64,
}

impl Decapsulated {
    /// Packets that were given to the kernel.
    pub fn accepted(&self) -> u64 {
        self.ipv4_in_ipv4 + self.ipv6_in_ipv4 + self.ipv4_in_ipv6 + self.ipv6_in_ipv6
    }
}

/// A running decapsulator; it ends, and its TUN device with it, when this is dropped.
#[derive(Debug)]
pub struct Decapsulator {
    thread: Option<JoinHandle<Result<()>>>,
    // Closing our end wakes the thread and tells it to end.
    stop: Option<UnixStream>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: [AtomicU64; 4],
    refused: AtomicU64,
}

/// One raw socket: what surrounds the packets that it receives, and what is inside.
struct Outer {
    socket: Socket,
    over_ipv4: bool,
    inner_version: u8,
    counter: usize,
}

impl Decapsulator {
    /// Starts one in `namespace`, with a TUN device named `tun`.
    pub fn start(namespace: &Namespace, tun: &str) -> Result<Self> {
        // Inner packets of any size: reassembly happened outside.
        let device = Tun::create(namespace, tun, LARGEST as u32)?;
        let outers = namespace.run(|| -> Result<[Outer; 4]> {
            Ok([
                Outer::open(Domain::IPV4, IPV4_IN_IP, 0)?,
                Outer::open(Domain::IPV4, IPV6_IN_IP, 1)?,
                Outer::open(Domain::IPV6, IPV4_IN_IP, 2)?,
                Outer::open(Domain::IPV6, IPV6_IN_IP, 3)?,
            ])
        })??;
        let (stop, stopped) =
            UnixStream::pair().map_err(|e| Error::system("open a socket pair for a decapsulator", e))?;
        let counters = Arc::new(Counters::default());
        let counting = Arc::clone(&counters);
        let thread = namespace.spawn(tun, move || serve(&device, &outers, &stopped, &counting))?;
        Ok(Decapsulator { thread: Some(thread), stop: Some(stop), counters })
    }

    /// What has been received so far.
    pub fn counts(&self) -> Decapsulated {
        let [ipv4_in_ipv4, ipv6_in_ipv4, ipv4_in_ipv6, ipv6_in_ipv6] =
            [0, 1, 2, 3].map(|at: usize| self.counters.accepted[at].load(Ordering::Relaxed));
        Decapsulated {
            ipv4_in_ipv4,
            ipv6_in_ipv4,
            ipv4_in_ipv6,
            ipv6_in_ipv6,
            refused: self.counters.refused.load(Ordering::Relaxed),
        }
    }

    /// Ends it, and gives what it received or the error that it ended with by itself.
    pub fn stop(mut self) -> Result<Decapsulated> {
        self.end()?;
        Ok(self.counts())
    }

    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Decapsulator {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Whoever wants the error calls `stop`.
            let _ = self.end();
        }
    }
}

impl Outer {
    fn open(domain: Domain, protocol: u8, counter: usize) -> Result<Self> {
        let over_ipv4 = domain == Domain::IPV4;
        let what = || {
            let outer = if over_ipv4 { "IPv4" } else { "IPv6" };
            format!("open a raw {outer} socket for protocol {protocol}")
        };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))))
            .map_err(|e| Error::system(what(), e))?;
        socket.set_nonblocking(true).map_err(|e| Error::system(what(), e))?;
        // The kernel caps what it can't give (net.core.rmem_max); a smaller queue still works.
        let _ = socket.set_recv_buffer_size(4 << 20);
        Ok(Outer { socket, over_ipv4, inner_version: if protocol == IPV4_IN_IP { 4 } else { 6 }, counter })
    }

    /// The inner packet within what the socket gave: a raw IPv4 socket leaves the outer header in place,
    /// a raw IPv6 socket takes it off (RFC 3542 §3).
    fn inner<'a>(&self, received: &'a [u8]) -> Option<&'a [u8]> {
        let outer_bytes = match (self.over_ipv4, received.first()) {
            (true, Some(first)) => usize::from(first & 0x0f) * 4,
            _ => 0,
        };
        let inner = received.get(outer_bytes..)?;
        (inner.first()? >> 4 == self.inner_version).then_some(inner)
    }
}

fn serve(device: &Tun, outers: &[Outer; 4], stopped: &UnixStream, counters: &Counters) -> Result<()> {
    let mut buffer = vec![0; LARGEST];
    loop {
        let [a, b, c, d] = outers.each_ref().map(|outer| outer.socket.as_fd());
        let ready = sys::wait_readable([a, b, c, d, device.as_fd(), stopped.as_fd()], None)
            .map_err(|e| Error::system(format!("wait for packets to the tunnel {}", device.name()), e))?;
        let [.., stray, end] = ready;
        if end {
            return Ok(());
        }
        for (outer, _) in outers.iter().zip(ready).filter(|(_, ready)| *ready) {
            drain(device, outer, &mut buffer, counters)?;
        }
        if stray {
            // Nothing is routed to the device, but the kernel announces itself on it.
            let _ = device.receive(&mut buffer)?;
        }
    }
}

fn drain(device: &Tun, outer: &Outer, buffer: &mut [u8], counters: &Counters) -> Result<()> {
    for _ in 0..BURST {
        let length = match (&outer.socket).read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(Error::system("receive encapsulated packets", error)),
        };
        // A packet that the kernel won't take (too short, say) is the sender's fault, not ours.
        let accepted = outer.inner(&buffer[..length]).is_some_and(|inner| device.send(inner).is_ok());
        let counter = if accepted { &counters.accepted[outer.counter] } else { &counters.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
