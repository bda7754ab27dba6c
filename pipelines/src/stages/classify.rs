//! Stage 1: what each frame is, whose it is, and the hash of its connection.

use super::connection::Connections;
use super::fragment;
use super::link::OwnAddresses;
use crate::command::Event;
use lcs_dataplane::batch::{Batch, NO_FLOW, Places};
use lcs_dataplane::flow::{Finder, Key};
use lcs_dataplane::headers::parse::{checksum_is_partial, fill_transport_checksum, plain, plain6};
use lcs_dataplane::headers::tcp::flags::{FIN, RST, SYN, URG};
use lcs_dataplane::headers::{Kind, parse, protocol};
use lcs_dataplane::{BURST, Verdict};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Frames whose first line is asked for ahead of the one being read.
const AHEAD: usize = 4;

/// Index buckets asked for one right after the other. Where the translation of an address takes long (nested page tables), a request
/// delays what is behind it, and requests side by side wait together (measured: `flow/DESIGN.md`).
const TOGETHER: usize = 8;

/// What [`classify`] has sorted the frames into. A frame in none of the lists has its verdict.
#[derive(Debug, Default)]
pub(crate) struct Classified {
    /// TCP and UDP over IPv4, first fragments included: ready for lookup.
    pub v4: Places,
    /// The same over IPv6.
    pub v6: Places,
    /// Everything else that may be for us.
    pub others: Places,
    /// There are first fragments among `v4` and `v6`.
    pub firsts: bool,
}

impl Classified {
    /// All frames that a flow is to be looked up for.
    #[inline(always)]
    pub(crate) fn known(&self) -> Places {
        Places::from_bits(self.v4.bits() | self.v6.bits())
    }
}

/// Reads every frame of the batch, and sorts them into `out`, which is empty.
///
/// (`out` is filled where its owner keeps it: handed back, its words were copied by one wide load right behind their narrow stores, which no store
/// can be forwarded to. What that cost was not measured.)
pub(crate) fn classify(c: &mut Connections, batch: &mut Batch, out: &mut Classified, now: u32) {
    let n = batch.len.min(BURST);
    let verify = !c.settings.capabilities.verifies_ip_checksum;
    for frame in &batch.frames[..AHEAD] {
        frame.prefetch();
    }
    let mut i = 0;
    let mut foreign = 0;
    loop {
        i = plain_run(c.table.finder(), &c.own_addresses, batch, out, &mut foreign, i, n, verify);
        if i >= n {
            break;
        }
        foreign |= u32::from(c.own_addresses.is_foreign(batch.rx[i], batch.frames[i].bytes())) << (i % BURST);
        classify_other(c, batch, i, out, verify);
        i += 1;
    }
    if c.settings.capabilities.partial_checksums {
        for i in out.v4.iter().chain(out.v6.iter()) {
            complete_checksum(c, batch, i, now);
        }
    }
    if foreign != 0 {
        super::link::refuse(c, batch, out, foreign);
    }
    if is_steered(c, batch) && (out.firsts || !out.others.is_empty()) {
        steer(c, batch, out, now);
    }
}

/// Reads plain frames from place `from` on, and returns the place of the first that is not plain.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn plain_run(
    finder: Finder<'_>,
    own: &OwnAddresses,
    batch: &mut Batch,
    out: &mut Classified,
    foreign: &mut u32,
    from: usize,
    n: usize,
    verify: bool,
) -> usize {
    let (mut v4, mut simple, mut others) = (0u32, 0u32, 0u32);
    let (mut i, mut asked) = (from, from);
    while i < n.min(BURST) {
        // Beyond the end it asks for the burst's beginning again, which costs less than not asking.
        batch.frames[(i + AHEAD) % BURST].prefetch();
        // What is the same in every plain frame, `Batch::start` has written.
        let Some(p) = plain(batch.frames[i].bytes(), verify) else { break };
        let hash = finder.hasher().v4(p.addresses, p.ports, protocol::TCP);
        batch.hash[i] = hash;
        if i % TOGETHER == TOGETHER - 1 {
            prefetch_all(&finder, &batch.hash[asked..=i]);
            asked = i + 1;
        }
        batch.end[i] = p.end;
        batch.tcp_flags[i] = p.tcp_flags;
        batch.addresses[i] = p.addresses;
        batch.ports[i] = p.ports;
        v4 |= 1 << i;
        others |= u32::from(own.is_foreign(batch.rx[i], batch.frames[i].bytes())) << i;
        simple |= u32::from(is_simple(p.tcp_flags, p.ttl)) << i;
        i += 1;
    }
    prefetch_all(&finder, &batch.hash[asked..i]);
    out.v4 = Places::from_bits(out.v4.bits() | v4);
    batch.simple |= simple;
    *foreign |= others;
    i
}

#[inline(always)]
fn prefetch_all(finder: &Finder<'_>, hashes: &[u64]) {
    for hash in hashes {
        finder.prefetch(*hash);
    }
}

/// See [`Batch::simple`].
#[inline(always)]
fn is_simple(tcp_flags: u8, ttl: u8) -> bool {
    tcp_flags & (SYN | FIN | RST | URG) == 0 && ttl > 1
}

/// Every frame that is not plain.
#[inline(never)]
fn classify_other(c: &mut Connections, batch: &mut Batch, i: usize, out: &mut Classified, verify: bool) {
    if let Some(p) = plain6(batch.frames[i].bytes()) {
        batch.kind[i] = Kind::Transport6;
        batch.l4[i] = 54;
        batch.end[i] = p.end;
        batch.tcp_flags[i] = p.tcp_flags;
        batch.ports[i] = p.ports;
        hash_v6(c, batch, i);
        out.v6.push(i);
        batch.simple |= u32::from(is_simple(p.tcp_flags, p.hop_limit)) << (i % BURST);
        return;
    }
    let parsed = match parse(batch.frames[i].bytes(), verify) {
        Ok(parsed) => parsed,
        Err(reason) => {
            batch.kind[i] = Kind::Other;
            batch.drop(i, reason);
            return;
        }
    };
    batch.kind[i] = parsed.kind;
    batch.l3[i] = parsed.l3;
    batch.l4[i] = parsed.l4;
    batch.end[i] = parsed.end;
    batch.protocol[i] = parsed.protocol;
    batch.tcp_flags[i] = parsed.tcp_flags;
    batch.addresses[i] = parsed.addresses;
    batch.ports[i] = parsed.ports;
    match parsed.kind {
        Kind::Transport4 | Kind::First4 => {
            let hash = c.table.hasher().v4(parsed.addresses, parsed.ports, parsed.protocol);
            batch.hash[i] = hash;
            c.table.prefetch(hash);
            out.v4.push(i);
        }
        Kind::Transport6 | Kind::First6 => {
            hash_v6(c, batch, i);
            out.v6.push(i);
        }
        _ => out.others.push(i),
    }
    out.firsts |= matches!(parsed.kind, Kind::First4 | Kind::First6);
}

#[inline(always)]
fn hash_v6(c: &Connections, batch: &mut Batch, i: usize) {
    let at = usize::from(batch.l3[i]) + 8;
    if let Some(addresses) = batch.frames[i].bytes().get(at..).and_then(|b| b.first_chunk::<32>()) {
        batch.hash[i] = c.table.hasher().v6(addresses, batch.ports[i], batch.protocol[i]);
        c.table.prefetch(batch.hash[i]);
    }
}

/// Finishes a checksum that an offloading sender has left to the device, and tells the control thread.
fn complete_checksum(c: &mut Connections, batch: &mut Batch, i: usize, now: u32) {
    if !matches!(batch.kind[i], Kind::Transport4 | Kind::Transport6) {
        return;
    }
    let Ok(parsed) = parse(batch.frames[i].bytes(), false) else { return };
    if !checksum_is_partial(batch.frames[i].bytes(), &parsed) {
        return;
    }
    fill_transport_checksum(batch.frames[i].bytes_mut(), &parsed);
    c.checksums_completed += 1;
    let interface = batch.rx[i];
    let source = super::schedule::key_of(batch, i).map(|k| k.source().ip());
    c.say((2, u16::from(interface)), now, Event::PartialChecksums { interface, source });
}

/// Finds the frames of siblings' connections that no flow is looked up for (errors, fragments), and first fragments, whose owner the later ones
/// are to follow; gives them the verdict to hand over. All others wait for [`steer_unknown`].
#[inline(never)]
fn steer(c: &mut Connections, batch: &mut Batch, out: &mut Classified, now: u32) {
    for list in [&mut out.v4, &mut out.v6] {
        let firsts = list.iter().filter(|&i| matches!(batch.kind[i], Kind::First4 | Kind::First6));
        let firsts = firsts.fold(0, |bits, i| bits | 1u32 << i);
        let stay = steer_all(c, batch, Places::from_bits(firsts), now);
        *list = Places::from_bits(list.bits() & !firsts | stay.bits());
    }
    out.others = steer_all(c, batch, out.others, now);
}

/// Whether frames of a batch may be siblings'.
#[inline]
pub(crate) fn is_steered(c: &Connections, batch: &Batch) -> bool {
    c.settings.workers > 1 && !batch.from_sibling
}

/// The same for frames that no flow of this worker was found for; returns those that stay. A flow that is here is this worker's, so that
/// frames that come to the right worker are never asked whose they are.
#[inline]
pub(crate) fn steer_unknown(c: &mut Connections, batch: &mut Batch, unknown: Places, now: u32) -> Places {
    if unknown.is_empty() || !is_steered(c, batch) {
        return unknown;
    }
    let stay = steer_all(c, batch, unknown, now);
    for i in Places::from_bits(unknown.bits() & !stay.bits()).iter() {
        batch.flow[i] = NO_FLOW;
    }
    stay
}

/// Gives the frames of siblings their verdict; returns the others.
#[inline(never)]
fn steer_all(c: &mut Connections, batch: &mut Batch, list: Places, now: u32) -> Places {
    let me = c.settings.worker;
    let mut mine = Places::default();
    for i in list.iter() {
        match worker_of(c, batch, i, now) {
            Some(w) if w != me => {
                batch.tx[i] = w;
                batch.verdict[i] = Verdict::HandOver;
            }
            _ => mine.push(i),
        }
    }
    mine
}

/// The worker that owns the connection of a frame; `None` when any worker may deal with it.
fn worker_of(c: &mut Connections, batch: &Batch, i: usize, now: u32) -> Option<u8> {
    let workers = c.settings.workers;
    match batch.kind[i] {
        Kind::Transport4 | Kind::Transport6 => {
            Some(owner_of_packet(c, &super::schedule::key_of(batch, i)?, batch.protocol[i]))
        }
        Kind::First4 | Kind::First6 => {
            let key = super::schedule::key_of(batch, i)?;
            let w = owner_of_any(c, &key, batch.protocol[i]);
            // The port's receive queue is chosen by addresses alone for all fragments of a packet, so the
            // later ones come to this worker as well.
            let id = fragment::identity(batch, i)?;
            c.fragments.set_owner(id, w, now);
            // Of this worker's own, they wait until it has gone its way: it may have to wait itself.
            if w != c.settings.worker {
                c.holding.has_come(&super::hold::Awaited::First(id));
            }
            Some(w)
        }
        Kind::Fragment4 | Kind::Fragment6 => c.fragments.owner(&fragment::identity(batch, i)?),
        Kind::Icmp4 | Kind::Icmp6 => {
            let (key, transport) = super::icmp::connection_key(batch, i)?;
            Some(owner_of_any(c, &key, transport))
        }
        _ => None,
    }
    .filter(|w| *w < workers)
}

/// The owner of a packet that no flow has been looked up for: this worker, if it has its flow.
fn owner_of_any(c: &Connections, key: &Key, transport: u8) -> u8 {
    if c.table.find(key, transport).is_some() { c.settings.worker } else { owner_of_packet(c, key, transport) }
}

/// The owner of a packet whose flow is not known: by its source when it comes from a client (its destination is a service), by its
/// destination otherwise.
fn owner_of_packet(c: &Connections, key: &Key, transport: u8) -> u8 {
    let from_client = c.snapshot.service_at(key.destination(), transport).is_some();
    let client = if from_client { key.source() } else { key.destination() };
    c.settings.spread().owner(client)
}

/// Source and destination address of an IP packet, whatever it carries.
pub(crate) fn addresses_of(batch: &Batch, i: usize) -> Option<(IpAddr, IpAddr)> {
    let l3 = usize::from(batch.l3[i]);
    let b = batch.frames[i].bytes();
    match batch.kind[i] {
        Kind::Transport4 | Kind::First4 | Kind::Fragment4 | Kind::Icmp4 | Kind::Protocol4 => {
            let a = batch.addresses[i].to_ne_bytes();
            Some((IpAddr::V4(Ipv4Addr::new(a[0], a[1], a[2], a[3])), IpAddr::V4(Ipv4Addr::new(a[4], a[5], a[6], a[7]))))
        }
        Kind::Transport6 | Kind::First6 | Kind::Fragment6 | Kind::Icmp6 | Kind::Protocol6 => {
            let (halves, _) = b.get(l3 + 8..l3 + 40)?.as_chunks::<16>();
            Some((IpAddr::V6(Ipv6Addr::from(*halves.first()?)), IpAddr::V6(Ipv6Addr::from(*halves.get(1)?))))
        }
        Kind::Arp | Kind::Other => None,
    }
}

/// The protocol's name, for traces.
pub(crate) fn protocol_name(p: u8) -> &'static str {
    match p {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::ICMP => "icmp",
        protocol::ICMPV6 => "icmpv6",
        _ => "ip",
    }
}
