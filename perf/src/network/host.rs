//! An end system: link layer, tunnels and service addresses around a [`Stack`], and the applications on it.

use super::monitor::Monitor;
use super::reshape::{self, Reshape};
use super::sequence::{Helped, Sequences};
use super::stack::{Settings, Stack};
use super::time_wait::Answer;
use super::{BEGIN, Node, Outbox, SECOND};
use lcs_dataplane::headers::arp::{self, Arp};
use lcs_dataplane::headers::build::fill_icmp_checksum;
use lcs_dataplane::headers::{ethernet, ethernet::ethertype, icmp, ipv4, ipv6, protocol};
use lcs_dataplane::worker::Nanos;
use std::any::Any;
use std::net::{IpAddr, Ipv6Addr};

/// A program on a host. It is polled whenever something may have changed for its sockets.
pub trait Application: Any {
    /// Does what can be done now. Returns when its own time comes next, if it has one.
    fn poll(&mut self, stack: &mut Stack, now: Nanos) -> Option<Nanos>;
}

/// From one look for connections that have lost their timers to the next, while something is to be sent.
const LOOK: Nanos = 20 * SECOND;

/// A host with one network interface.
pub struct Host {
    stack: Stack,
    applications: Vec<Box<dyn Application>>,
    sequences: Sequences,
    reshape: Option<Reshape>,
    monitor: Option<Monitor>,
    /// When to look whether a connection has lost its timer.
    look: Nanos,
    /// Packets taken out of a tunnel.
    pub decapsulated: u64,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host {{ {:?}, applications: {} }}", self.stack, self.applications.len())
    }
}

impl Host {
    /// A host without applications.
    ///
    /// # Panics
    /// When the settings name more than eight addresses or four gateways.
    pub fn new(settings: Settings) -> Self {
        Host {
            stack: Stack::new(settings, BEGIN),
            applications: vec![],
            sequences: Sequences::default(),
            reshape: None,
            monitor: None,
            look: Nanos::MAX,
            decapsulated: 0,
        }
    }

    /// The same host with one more application.
    #[must_use]
    pub fn with(mut self, application: impl Application) -> Self {
        self.applications.push(Box::new(application));
        self
    }

    /// The same host with its TCP reshaped on the wire.
    #[must_use]
    pub fn reshaped(mut self, settings: reshape::Settings) -> Self {
        self.reshape = Some(Reshape::new(settings, self.stack.settings().seed));
        self
    }

    /// The same host with a watch on what it receives.
    #[must_use]
    pub fn watched(mut self) -> Self {
        self.monitor = Some(Monitor::default());
        self
    }

    /// What its segments go through, if they are reshaped.
    pub fn reshape(&self) -> Option<&Reshape> {
        self.reshape.as_ref()
    }

    /// The watch on it, if there is one.
    pub fn monitor(&self) -> Option<&Monitor> {
        self.monitor.as_ref()
    }

    /// How often its stack was helped to do what RFC 9293 asks of a host.
    pub fn helped(&self) -> Helped {
        self.sequences.helped
    }

    /// Sends a frame, reshaped and watched.
    fn transmit(&mut self, frame: Vec<u8>, out: &mut Outbox) {
        let frames = match &mut self.reshape {
            Some(reshape) => reshape.sent(frame),
            None => vec![frame],
        };
        for frame in frames {
            if let Some(monitor) = &mut self.monitor {
                monitor.sent(&frame);
            }
            out.send(0, frame);
        }
    }

    /// The host's stack.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The first application of this type.
    ///
    /// # Panics
    /// When the host has none.
    pub fn application<A: Application>(&self) -> &A {
        let mut all = self.applications.iter().map(|a| &**a as &dyn Any);
        all.find_map(|a| a.downcast_ref()).expect("the host has no application of this type")
    }

    /// As [`Host::application`], to change it. [`super::Network::wake`] the host afterwards.
    ///
    /// # Panics
    /// When the host has none.
    pub fn application_mut<A: Application>(&mut self) -> &mut A {
        let mut all = self.applications.iter_mut().map(|a| &mut **a as &mut dyn Any);
        all.find_map(|a| a.downcast_mut()).expect("the host has no application of this type")
    }

    fn is_service(&self, address: IpAddr) -> bool {
        self.stack.settings().services.contains(&address)
    }

    /// Whether the frame asks for the link-layer address of a service address.
    fn asks_for_service(&self, frame: &[u8]) -> bool {
        if self.stack.settings().services.is_empty() {
            return false;
        }
        let body = frame.get(ethernet::HEADER..).unwrap_or_default();
        match frame.get(12..14) {
            Some([0x08, 0x06]) => Arp::parse(body).is_some_and(|a| self.is_service(a.target.into())),
            Some([0x86, 0xdd]) => {
                let target = body.get(ipv6::HEADER + 8..).and_then(|b| b.first_chunk::<16>());
                body.get(6) == Some(&protocol::ICMPV6)
                    && body.get(ipv6::HEADER) == Some(&icmp::v6::NEIGHBOUR_SOLICITATION)
                    && target.is_some_and(|t| self.is_service(Ipv6Addr::from(*t).into()))
            }
            _ => false,
        }
    }

    /// Has a frame that asks for a neighbour give the host's own address as the sender's.
    fn announce_own(&self, frame: &mut [u8]) {
        let Some(own4) = self.stack.address(true) else { return self.announce_own_v6(frame) };
        let body = frame.get(ethernet::HEADER..).unwrap_or_default();
        if let (Some([0x08, 0x06]), Some(mut arp), IpAddr::V4(own)) = (frame.get(12..14), Arp::parse(body), own4)
            && arp.operation == 1
            && self.is_service(arp.sender.into())
        {
            arp.sender = own;
            let anew = arp.frame(ethernet::destination(frame));
            frame[..ethernet::HEADER + arp::PACKET].copy_from_slice(&anew);
        }
        self.announce_own_v6(frame);
    }

    fn announce_own_v6(&self, frame: &mut [u8]) {
        let Some(IpAddr::V6(own)) = self.stack.address(false) else { return };
        let solicits = frame.get(12..14) == Some(&ethertype::IPV6.to_be_bytes())
            && frame.get(20) == Some(&protocol::ICMPV6)
            && frame.get(54) == Some(&icmp::v6::NEIGHBOUR_SOLICITATION);
        if !solicits {
            return;
        }
        let (head, message) = frame.split_at_mut(ethernet::HEADER + ipv6::HEADER);
        let source: [u8; 16] = head[22..38].try_into().unwrap_or_default();
        if self.is_service(Ipv6Addr::from(source).into()) {
            head[22..38].copy_from_slice(&own.octets());
            fill_icmp_checksum(message, Some(&head[22..54]));
        }
    }

    /// Takes a packet for one of our own addresses out of its tunnel; whether it was in one.
    fn decapsulate(&self, frame: &mut Vec<u8>) -> bool {
        let own = |a: IpAddr| self.stack.settings().addresses.iter().any(|&(o, _)| o == a);
        let body = frame.get(ethernet::HEADER..).unwrap_or_default();
        let (outer, inner) = match frame.get(12..14) {
            Some([0x08, 0x00]) => {
                let Ok(ip) = ipv4::Ipv4::parse(body) else { return false };
                let whole = ip.flags() & (ipv4::MF | ipv4::OFFSET) == 0;
                if !ip.checksum_ok() || !whole || !own(ip.destination().into()) {
                    return false;
                }
                (ip.header_len(), ip.protocol())
            }
            Some([0x86, 0xdd]) => {
                let Ok(ip) = ipv6::Ipv6::parse(body) else { return false };
                let Ok(chain) = ip.chain() else { return false };
                if chain.fragment.is_some() || !own(ip.destination().into()) {
                    return false;
                }
                (chain.offset, chain.protocol)
            }
            _ => return false,
        };
        let kind = match inner {
            protocol::IPIP => ethertype::IPV4,
            protocol::IPV6 => ethertype::IPV6,
            _ => return false,
        };
        frame.drain(ethernet::HEADER..ethernet::HEADER + outer);
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        true
    }
}

impl Node for Host {
    fn receive(&mut self, _nic: usize, mut frame: Vec<u8>, now: Nanos, out: &mut Outbox) -> Option<Nanos> {
        let to = ethernet::destination(&frame);
        if (to != self.stack.settings().mac && !to.is_group()) || self.asks_for_service(&frame) {
            out.recycle(frame);
            return None;
        }
        if self.stack.settings().decapsulates && self.decapsulate(&mut frame) {
            self.decapsulated += 1;
        }
        if let Some(monitor) = &mut self.monitor {
            monitor.received(&frame);
        }
        if let Some(reshape) = &mut self.reshape {
            reshape.received(&mut frame);
        }
        match self.stack.time_waits.receive(&frame) {
            Answer::NotOurs => {
                let heard = self.sequences.received(&frame, now);
                if heard.hidden {
                    out.recycle(frame);
                    return None;
                }
                let fin = reshape::take_fin(&mut frame);
                self.stack.wire.waiting.extend(heard.first);
                self.stack.wire.waiting.push_back(frame);
                self.stack.wire.waiting.extend(fin);
                return Some(now);
            }
            Answer::Ignore => {}
            Answer::Acknowledge(reply) => self.transmit(reply, out),
        }
        out.recycle(frame);
        None
    }

    fn poll(&mut self, now: Nanos, out: &mut Outbox) -> Option<Nanos> {
        if now >= self.look {
            let unsent = self.stack.unsent();
            self.look = if unsent.is_empty() { Nanos::MAX } else { now + LOOK };
            for pair in unsent {
                let frames = self.sequences.rouse(pair, self.stack.settings().mac, now);
                self.stack.wire.waiting.extend(frames);
            }
        }
        self.stack.ingress(now);
        let mut next = Nanos::MAX;
        for application in &mut self.applications {
            next = next.min(application.poll(&mut self.stack, now).unwrap_or(Nanos::MAX));
        }
        next = next.min(self.stack.egress(now).unwrap_or(Nanos::MAX));
        let services = !self.stack.settings().services.is_empty();
        for at in 0..self.stack.wire.sent.len() {
            let mut frame = std::mem::take(&mut self.stack.wire.sent[at]);
            if !self.sequences.sent(&mut frame, &self.stack.wire.sent[at + 1..], now) {
                out.recycle(frame);
                continue;
            }
            if services {
                self.announce_own(&mut frame);
            }
            self.transmit(frame, out);
        }
        if self.look == Nanos::MAX && !self.stack.wire.sent.is_empty() && !self.stack.unsent().is_empty() {
            self.look = now + LOOK;
        }
        self.stack.wire.sent.clear();
        next = next.min(self.look);
        // Received buffers serve the next frames that are sent, and the rest goes back.
        for frame in self.stack.wire.consumed.drain(..) {
            if self.stack.wire.spare.len() < 64 {
                self.stack.wire.spare.push(frame);
            } else {
                out.recycle(frame);
            }
        }
        (next < Nanos::MAX).then_some(next)
    }
}
