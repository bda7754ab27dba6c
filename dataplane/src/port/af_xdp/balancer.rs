//! A layer-4 balancer that is an XDP program and nothing else: what the kernel can do by itself, to be measured beside the director
//! (`lcs perf peers`). No part of the director uses it.
//!
//! It is written as Katran's forwarding path is: the service is looked up in a hash, a hash of the client's endpoint chooses a
//! place in a ring, the ring names a server, and the frame goes back out of the interface with a changed destination. Unlike
//! Katran it translates addresses (NAT in both directions, checksums by their difference, RFC 1624), so that it does what
//! nftables' DNAT and the director do and servers need no tunnel; and it keeps no table of connections, so that it does the
//! least that a balancer can do: a server that is added or removed moves connections. IPv4 and TCP, headers without IP options;
//! everything else is the kernel's.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use super::asm::{Asm, Call, If, Label, Op, Program, Reg, Width};
use super::bpf::{self, Map, MapKind};
use super::error::AfXdpError;
use super::filter::{ModePreference, XdpMode, attach_program};
use super::program::{XDP_PASS, be16};
use Reg::{R0, R1, R2, R3, R4, R7, R8, R9, R10};
use Width::{B8, B16, B32, B64};
use lcs_hwconf::links::Interface;

/// Places in the ring; a power of two.
const RING: u32 = 4096;
/// Most servers: each has a few places in the ring at least.
const SERVERS_MAX: usize = 1024;
const XDP_TX: u32 = 3;

/// The maps that the program refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BalancerMap {
    /// Hash, endpoint to `u32`: what clients connect to.
    Services,
    /// Hash, endpoint to [`Target`]'s bytes: a server's endpoint, and what its packets become.
    Replies,
    /// Array of `u32`: which server has a place.
    Ring,
    /// Array of [`Target`]'s bytes: the servers.
    Servers,
    /// Per-CPU array of two `u64`: packets to servers, packets to clients.
    Counters,
}

/// Stack: an endpoint (address, port, zero), and an index into an array.
const ENDPOINT: i16 = -8;
const INDEX: i16 = -12;
/// Offsets in a frame of Ethernet, IPv4 without options, and TCP.
const TTL: i16 = 22;
const IP_CHECKSUM: i16 = 24;
const SOURCE: (i16, i16) = (26, 34);
const DESTINATION: (i16, i16) = (30, 36);
const TCP_CHECKSUM: i16 = 50;
const HEADERS: i32 = 54;
/// Offsets in a target.
const TARGET_MAC: i16 = 4;
const TARGET_PORT: i16 = 10;

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The endpoint that is put into them.
    pub endpoint: SocketAddrV4,
    /// Link-layer address of the host or router there.
    pub mac: [u8; 6],
}

impl Target {
    fn bytes(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.endpoint.ip().octets());
        bytes[4..10].copy_from_slice(&self.mac);
        bytes[10..].copy_from_slice(&self.endpoint.port().to_be_bytes());
        bytes
    }
}

fn endpoint(of: SocketAddrV4) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&of.ip().octets());
    bytes[4..6].copy_from_slice(&of.port().to_be_bytes());
    bytes
}

/// Packets that the balancer has sent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalancerCounts {
    /// To servers.
    pub to_servers: u64,
    /// To clients.
    pub to_clients: u64,
}

/// A loaded balancer of one service.
#[derive(Debug)]
pub struct XdpBalancer {
    program: OwnedFd,
    counters: Map,
    /// The program refers to them as well.
    _tables: [Map; 4],
}

/// A program attached to an interface; it is detached when this is dropped, and when the process ends.
#[derive(Debug)]
pub struct AttachedProgram {
    mode: XdpMode,
    _link: OwnedFd,
}

impl AttachedProgram {
    /// Where it runs.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }
}

impl XdpBalancer {
    /// Loads it. `clients` is the link-layer address of the router (or of the one host) that clients are behind.
    ///
    /// # Errors
    /// When there are no servers or too many, or the kernel does not let this process load programs.
    pub fn load(service: SocketAddrV4, servers: &[Target], clients: [u8; 6]) -> Result<Self, AfXdpError> {
        if servers.is_empty() || servers.len() > SERVERS_MAX {
            return Err(AfXdpError::Balancer { servers: servers.len(), most: SERVERS_MAX });
        }
        let map = |kind, name: &'static str, key, value, entries| {
            Map::create(kind, name, key, value, entries, 0).map_err(|e| AfXdpError::map(name, e))
        };
        let services = map(MapKind::Hash, "xlb_services", 8, 4, 16)?;
        let replies = map(MapKind::Hash, "xlb_replies", 8, 12, SERVERS_MAX as u32)?;
        let ring = map(MapKind::Array, "xlb_ring", 4, 4, RING)?;
        let reals = map(MapKind::Array, "xlb_servers", 4, 12, SERVERS_MAX as u32)?;
        let counters = map(MapKind::PerCpuArray, "xlb_counters", 4, 8, 2)?;
        let put =
            |map: &Map, name, key: &[u8], value: &[u8]| map.update(key, value).map_err(|e| AfXdpError::map(name, e));
        put(&services, "xlb_services", &endpoint(service), &1u32.to_ne_bytes())?;
        let back = Target { endpoint: service, mac: clients };
        for (at, server) in (0u32..).zip(servers) {
            put(&reals, "xlb_servers", &at.to_ne_bytes(), &server.bytes())?;
            put(&replies, "xlb_replies", &endpoint(server.endpoint), &back.bytes())?;
        }
        for place in 0..RING {
            let server = place % servers.len() as u32;
            put(&ring, "xlb_ring", &place.to_ne_bytes(), &server.to_ne_bytes())?;
        }
        let code = program().link(|map| match map {
            BalancerMap::Services => services.fd(),
            BalancerMap::Replies => replies.fd(),
            BalancerMap::Ring => ring.fd(),
            BalancerMap::Servers => reals.fd(),
            BalancerMap::Counters => counters.fd(),
        });
        let program = bpf::load_program("lcs_balancer", &code).map_err(AfXdpError::load)?;
        Ok(XdpBalancer { program, counters, _tables: [services, replies, ring, reals] })
    }

    /// Attaches it to an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// As for [`super::XdpFilter::attach`].
    pub fn attach(&self, interface: &Interface, preference: ModePreference) -> Result<AttachedProgram, AfXdpError> {
        let (link, mode, _) = attach_program(&self.program, interface, preference)?;
        Ok(AttachedProgram { mode, _link: link })
    }

    /// What it does with a frame, with no interface involved: the frame as it is sent, or `None` where it is left to the kernel.
    ///
    /// # Errors
    /// When the frame is shorter than 14 bytes or longer than a page holds, or the process may not run programs.
    pub fn run(&self, frame: &[u8]) -> Result<Option<Vec<u8>>, AfXdpError> {
        let ran = bpf::test_run_on(&self.program, frame);
        let (verdict, frame) = ran.map_err(|error| AfXdpError::TestRun { len: frame.len(), error })?;
        Ok((verdict == XDP_TX).then_some(frame))
    }

    /// What it has sent on since it was loaded.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn counts(&self) -> Result<BalancerCounts, AfXdpError> {
        let sum = |index: u32| -> Result<u64, AfXdpError> {
            let values = self.counters.lookup(&index.to_ne_bytes());
            let values = values.map_err(|e: io::Error| AfXdpError::map("xlb_counters", e))?;
            Ok(values.as_chunks::<8>().0.iter().map(|&value| u64::from_ne_bytes(value)).sum())
        };
        Ok(BalancerCounts { to_servers: sum(0)?, to_clients: sum(1)? })
    }
}

/// Attaches a program that passes every frame. A veth takes what an XDP program at its other end sends only while it has one
/// (or joins frames, which would change them).
///
/// # Errors
/// As for [`super::XdpFilter::attach`].
pub fn attach_pass(interface: &Interface) -> Result<AttachedProgram, AfXdpError> {
    let mut asm = Asm::<()>::new();
    asm.op(Op::Mov, R0, XDP_PASS as i32);
    asm.exit();
    let program = bpf::load_program("lcs_pass", &asm.finish().link(|()| 0)).map_err(AfXdpError::load)?;
    let (link, mode, _) = attach_program(&program, interface, ModePreference::Native)?;
    Ok(AttachedProgram { mode, _link: link })
}

/// Writes the program. Registers over the whole program: R7 the frame, R8 its end, R9 the target.
fn program() -> Program<BalancerMap> {
    let mut asm = Asm::new();
    let pass = asm.label("pass");
    let to_server = asm.label("to_server");
    asm.comment("Ethernet, IPv4 without options, no fragment, TCP, TTL above 1");
    asm.load(B32, R7, R1, 0);
    asm.load(B32, R8, R1, 4);
    asm.op_reg(Op::Mov, R1, R7);
    asm.op(Op::Add, R1, HEADERS);
    asm.jump_if_reg(R1, If::Greater, R8, pass);
    asm.load(B16, R1, R7, 12);
    asm.jump_if(R1, If::NotEqual, be16(0x0800), pass);
    asm.load(B8, R1, R7, 14);
    asm.jump_if(R1, If::NotEqual, 0x45, pass);
    asm.load(B16, R1, R7, 20);
    asm.op(Op::And, R1, be16(0x3fff));
    asm.jump_if(R1, If::NotEqual, 0, pass);
    asm.load(B8, R1, R7, 23);
    asm.jump_if(R1, If::NotEqual, 6, pass);
    asm.load(B8, R1, R7, TTL);
    asm.jump_if(R1, If::Less, 2, pass);
    asm.store_imm(B16, R10, ENDPOINT + 6, 0);
    asm.comment("to a service?");
    look_up(&mut asm, BalancerMap::Services, DESTINATION);
    asm.jump_if(R0, If::NotEqual, 0, to_server);
    asm.comment("from a server?");
    look_up(&mut asm, BalancerMap::Replies, SOURCE);
    asm.jump_if(R0, If::Equal, 0, pass);
    asm.op_reg(Op::Mov, R9, R0);
    rewrite(&mut asm, SOURCE, 1);
    asm.bind(to_server);
    choose(&mut asm, pass);
    rewrite(&mut asm, DESTINATION, 0);
    asm.bind(pass);
    asm.op(Op::Mov, R0, XDP_PASS as i32);
    asm.exit();
    asm.finish()
}

/// Looks up the endpoint at these offsets; R0 is the value or 0.
fn look_up(asm: &mut Asm<BalancerMap>, map: BalancerMap, (address, port): (i16, i16)) {
    asm.load(B32, R1, R7, address);
    asm.store(B32, R10, ENDPOINT, R1);
    asm.load(B16, R1, R7, port);
    asm.store(B16, R10, ENDPOINT + 4, R1);
    at(asm, map, ENDPOINT);
}

/// Looks up the key at `key` on the stack; R0 is the value or 0.
fn at(asm: &mut Asm<BalancerMap>, map: BalancerMap, key: i16) {
    asm.map(R1, map);
    asm.op_reg(Op::Mov, R2, R10);
    asm.op(Op::Add, R2, key.into());
    asm.call(Call::MapLookupElem);
}

/// The server for the client's endpoint: R9.
fn choose(asm: &mut Asm<BalancerMap>, pass: Label) {
    asm.comment("a hash of the client's address and both ports: two rounds of multiply and fold");
    asm.load(B32, R1, R7, SOURCE.0);
    asm.op(Op::Lsh, R1, 32);
    asm.load(B32, R2, R7, SOURCE.1);
    asm.op_reg(Op::Add, R1, R2);
    for _ in 0..2 {
        asm.op(Op::Mul, R1, 0x9e37_79b1_u32 as i32);
        asm.op_reg(Op::Mov, R2, R1);
        asm.op(Op::Rsh, R2, 32);
        asm.op_reg(Op::Xor, R1, R2);
    }
    asm.op(Op::And, R1, RING as i32 - 1);
    asm.store(B32, R10, INDEX, R1);
    asm.comment("its place in the ring, and the server there");
    at(asm, BalancerMap::Ring, INDEX);
    asm.jump_if(R0, If::Equal, 0, pass);
    asm.load(B32, R1, R0, 0);
    asm.store(B32, R10, INDEX, R1);
    at(asm, BalancerMap::Servers, INDEX);
    asm.jump_if(R0, If::Equal, 0, pass);
    asm.op_reg(Op::Mov, R9, R0);
}

/// `sum += ~old` for a value of 16 bits; uses R1.
fn take_off(asm: &mut Asm<BalancerMap>, sum: Reg, old: Reg) {
    asm.op(Op::Mov, R1, 0xffff);
    asm.op_reg(Op::Sub, R1, old);
    asm.op_reg(Op::Add, sum, R1);
}

/// Folds a sum of up to 34 bits to 16 and complements it; uses R1.
fn fold(asm: &mut Asm<BalancerMap>, sum: Reg) {
    for _ in 0..3 {
        asm.op_reg(Op::Mov, R1, sum);
        asm.op(Op::Rsh, R1, 16);
        asm.op(Op::And, sum, 0xffff);
        asm.op_reg(Op::Add, sum, R1);
    }
    asm.op(Op::Xor, sum, 0xffff);
}

/// Puts the target at R9 in the place of the endpoint at these offsets, counts, and sends the frame back out.
fn rewrite(asm: &mut Asm<BalancerMap>, (address, port): (i16, i16), counter: i32) {
    asm.comment("RFC 1624, equation 3: HC' = ~(~HC + ~m + m'); R3 is the address's difference");
    asm.load(B32, R1, R7, address);
    asm.load(B32, R2, R9, 0);
    asm.store(B32, R7, address, R2);
    asm.op(Op::Mov, R3, -1);
    asm.op(Op::Rsh, R3, 32);
    asm.op_reg(Op::Sub, R3, R1);
    asm.op_reg(Op::Add, R3, R2);
    asm.comment("TTL less one, and the IPv4 checksum");
    asm.load(B16, R4, R7, TTL);
    asm.load(B8, R1, R7, TTL);
    asm.op(Op::Add, R1, -1);
    asm.store(B8, R7, TTL, R1);
    asm.load(B16, R2, R7, TTL);
    asm.op_reg(Op::Add, R2, R3);
    take_off(asm, R2, R4);
    asm.load(B16, R4, R7, IP_CHECKSUM);
    take_off(asm, R2, R4);
    fold(asm, R2);
    asm.store(B16, R7, IP_CHECKSUM, R2);
    asm.comment("the port, and the TCP checksum");
    asm.load(B16, R4, R7, port);
    asm.load(B16, R2, R9, TARGET_PORT);
    asm.store(B16, R7, port, R2);
    asm.op_reg(Op::Add, R3, R2);
    take_off(asm, R3, R4);
    asm.load(B16, R4, R7, TCP_CHECKSUM);
    take_off(asm, R3, R4);
    fold(asm, R3);
    asm.store(B16, R7, TCP_CHECKSUM, R3);
    asm.comment("from our own link-layer address, which the frame was for, to the target's");
    asm.load(B32, R1, R7, 0);
    asm.store(B32, R7, 6, R1);
    asm.load(B16, R1, R7, 4);
    asm.store(B16, R7, 10, R1);
    asm.load(B32, R1, R9, TARGET_MAC);
    asm.store(B32, R7, 0, R1);
    asm.load(B16, R1, R9, TARGET_MAC + 4);
    asm.store(B16, R7, 4, R1);
    let counted = asm.label("counted");
    asm.store_imm(B32, R10, INDEX, counter);
    at(asm, BalancerMap::Counters, INDEX);
    asm.jump_if(R0, If::Equal, 0, counted);
    asm.load(B64, R1, R0, 0);
    asm.op(Op::Add, R1, 1);
    asm.store(B64, R0, 0, R1);
    asm.bind(counted);
    asm.op(Op::Mov, R0, XDP_TX as i32);
    asm.exit();
}
