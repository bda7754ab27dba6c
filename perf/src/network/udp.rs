//! UDP: a server that answers with its name and what it got, and a client that counts and checks the answers.

use super::host::Application;
use super::stack::Stack;
use super::{MILLISECOND, SECOND};
use crate::network::http::body;
use lcs_dataplane::worker::Nanos;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp;
use smoltcp::wire::IpEndpoint;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

/// Bytes in front of a datagram's pattern: its number.
const NUMBER: usize = 8;

/// Answers every datagram with its own name, a line break, and the datagram.
#[derive(Debug)]
pub struct UdpServer {
    name: String,
    port: u16,
    socket: Option<SocketHandle>,
    /// Datagrams answered.
    pub answered: u64,
}

impl UdpServer {
    /// A server on this port.
    pub fn new(name: &str, port: u16) -> Self {
        UdpServer { name: name.to_owned(), port, socket: None, answered: 0 }
    }
}

impl Application for UdpServer {
    fn poll(&mut self, stack: &mut Stack, _now: Nanos) -> Option<Nanos> {
        if self.socket.is_none() {
            self.socket = stack.bind(self.port);
        }
        let socket = stack.udp(self.socket?);
        while let Ok((data, meta)) = socket.recv() {
            let answer = [self.name.as_bytes(), b"\n", data].concat();
            // Sent from the address that was asked, which for a service is not the host's own.
            let back = udp::UdpMetadata { local_address: meta.local_address, ..meta.endpoint.into() };
            if socket.send_slice(&answer, back).is_ok() {
                self.answered += 1;
            }
        }
        None
    }
}

/// Sends numbered datagrams, each connection from a port of its own, and checks what comes back.
#[derive(Debug)]
pub struct UdpClient {
    target: SocketAddr,
    sockets: u16,
    each: u64,
    size: usize,
    interval: Nanos,
    open: Vec<SocketHandle>,
    next: Nanos,
    waiting: HashSet<u64>,
    deadline: Nanos,
    /// Datagrams sent.
    pub sent: u64,
    /// Answers, each the first to its datagram.
    pub answered: u64,
    /// Answers that came again.
    pub doubled: u64,
    /// Answers that were not right.
    pub wrong: u64,
    /// Answers by server.
    pub per_server: BTreeMap<String, u64>,
}

impl UdpClient {
    /// A client that sends `each` datagrams of `size` bytes (at least 8) from each of `sockets` ports, a round every millisecond.
    pub fn new(target: SocketAddr, sockets: u16, each: u64, size: usize) -> Self {
        UdpClient {
            target,
            sockets,
            each,
            size: size.max(NUMBER),
            interval: MILLISECOND,
            open: vec![],
            next: 0,
            waiting: HashSet::new(),
            deadline: 0,
            sent: 0,
            answered: 0,
            doubled: 0,
            wrong: 0,
            per_server: BTreeMap::new(),
        }
    }

    /// Whether everything was sent and is answered, or will not be (nothing came for 2 s).
    pub fn finished(&self, now: Nanos) -> bool {
        self.sent == self.each * u64::from(self.sockets) && (self.waiting.is_empty() || now >= self.deadline)
    }

    /// Datagrams not answered.
    pub fn lost(&self) -> u64 {
        self.waiting.len() as u64
    }

    fn accept(&mut self, data: &[u8]) {
        let Some(line) = data.iter().position(|&b| b == b'\n') else {
            self.wrong += 1;
            return;
        };
        let (name, rest) = (&data[..line], &data[line + 1..]);
        let number = rest.first_chunk().map(|b| u64::from_be_bytes(*b));
        let right = |n: u64| rest.len() == self.size && body::check(n, 0, &rest[NUMBER..]).is_ok() && n < self.sent;
        match number.filter(|&n| right(n)) {
            Some(n) if self.waiting.remove(&n) => {
                self.answered += 1;
                *self.per_server.entry(String::from_utf8_lossy(name).into_owned()).or_default() += 1;
            }
            Some(_) => self.doubled += 1,
            None => self.wrong += 1,
        }
    }
}

impl Application for UdpClient {
    fn poll(&mut self, stack: &mut Stack, now: Nanos) -> Option<Nanos> {
        if self.open.is_empty() {
            let first = stack.settings().ports.0;
            self.open = (0..self.sockets).filter_map(|i| stack.bind(first + i)).collect();
        }
        for i in 0..self.open.len() {
            let mut got = vec![];
            while let Ok((data, _)) = stack.udp(self.open[i]).recv() {
                got.push(data.to_vec());
            }
            for data in got {
                self.accept(&data);
                self.deadline = now + 2 * SECOND;
            }
        }
        let total = self.each * self.open.len() as u64;
        if now >= self.next && self.sent < total {
            for i in 0..self.open.len() {
                let mut data = vec![0; self.size];
                data[..NUMBER].copy_from_slice(&self.sent.to_be_bytes());
                body::fill(self.sent, 0, &mut data[NUMBER..]);
                if stack.udp(self.open[i]).send_slice(&data, IpEndpoint::from(self.target)).is_ok() {
                    self.waiting.insert(self.sent);
                    self.sent += 1;
                }
            }
            self.next = now + self.interval;
            self.deadline = now + 2 * SECOND;
        }
        Some(if self.sent < total { self.next } else { self.deadline }).filter(|&t| t > now)
    }
}
