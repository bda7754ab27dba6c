//! Stage 1: what each frame is, whose it is, and the hash of its connection.

use super::connection::Connections;
use super::fragment;
use crate::command::Event;
use lcs_dataplane::batch::{Batch, Places};
use lcs_dataplane::flow::Hasher;
use lcs_dataplane::headers::parse::{checksum_is_partial, fill_transport_checksum, plain};
use lcs_dataplane::headers::{Kind, parse, protocol};
use lcs_dataplane::prefetch::prefetch;
use lcs_dataplane::{BURST, Verdict};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Frames whose first line is asked for ahead of the one being read.
const AHEAD: usize = 4;

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

/// Reads every frame of the batch.
pub(crate) fn classify(c: &mut Connections, batch: &mut Batch, now: u32) -> Classified {
    let mut out = Classified::default();
    let n = batch.len.min(BURST);
    let verify = !c.settings.capabilities.verifies_ip_checksum;
    for frame in &batch.frames[..AHEAD.min(n)] {
        if let Some(first) = frame.bytes().first() {
            prefetch(first);
        }
    }
    let partial = c.settings.capabilities.partial_checksums;
    for i in 0..n {
        if let Some(first) = batch.frames.get(i + AHEAD).and_then(|f| f.bytes().first()) {
            prefetch(first);
        }
        let Some(p) = plain(batch.frames[i].bytes(), verify) else {
            classify_other(c, batch, i, &mut out, verify, now);
            continue;
        };
        let hash = c.table.hasher().v4(p.addresses, p.ports, protocol::TCP);
        c.table.prefetch(hash);
        batch.hash[i] = hash;
        batch.kind[i] = Kind::Transport4;
        batch.l3[i] = 14;
        batch.l4[i] = 34;
        batch.end[i] = p.end;
        batch.protocol[i] = protocol::TCP;
        batch.tcp_flags[i] = p.tcp_flags;
        batch.addresses[i] = p.addresses;
        batch.ports[i] = p.ports;
        out.v4.push(i);
        if partial {
            complete_checksum(c, batch, i, now);
        }
    }
    if c.settings.workers > 1 && !batch.from_sibling {
        steer(c, batch, &mut out, now);
    }
    out
}

/// Every frame that is not plain.
#[inline(never)]
fn classify_other(c: &mut Connections, batch: &mut Batch, i: usize, out: &mut Classified, verify: bool, now: u32) {
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
    if c.settings.capabilities.partial_checksums {
        complete_checksum(c, batch, i, now);
    }
}

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

/// The worker that owns a client's endpoint, the same in both directions and on every worker. `port` in host order.
pub(crate) fn owner(address: IpAddr, port: u16, workers: u8) -> u8 {
    // Not the table's hash: that one is keyed, and the frames of one worker must still spread over its buckets.
    let hasher = Hasher::new(0x5eed);
    let hash = match address {
        IpAddr::V4(a) => hasher.v4(u64::from(u32::from(a)), u32::from(port), 0),
        IpAddr::V6(a) => {
            let mut b = [0; 32];
            b[..16].copy_from_slice(&a.octets());
            hasher.v6(&b, u32::from(port), 0)
        }
    };
    (((hash >> 32) * u64::from(workers)) >> 32) as u8
}

/// Finds the frames of siblings' connections and gives them the verdict to hand over.
#[inline(never)]
fn steer(c: &mut Connections, batch: &mut Batch, out: &mut Classified, now: u32) {
    let me = c.settings.worker;
    for list in [&mut out.v4, &mut out.v6, &mut out.others] {
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
        *list = mine;
    }
}

/// The worker that owns the connection of a frame; `None` when any worker may deal with it.
fn worker_of(c: &mut Connections, batch: &Batch, i: usize, now: u32) -> Option<u8> {
    let workers = c.settings.workers;
    match batch.kind[i] {
        Kind::Transport4 | Kind::Transport6 | Kind::First4 | Kind::First6 => {
            let key = super::schedule::key_of(batch, i)?;
            let w = owner_of_packet(c, key.source(), key.destination(), batch.protocol[i]);
            if matches!(batch.kind[i], Kind::First4 | Kind::First6) {
                // The port's receive queue is chosen by addresses alone for all fragments of a packet, so the
                // later ones come to this worker as well.
                let id = fragment::identity(batch, i)?;
                c.fragments.set_owner(id, w, now);
            }
            Some(w)
        }
        Kind::Fragment4 | Kind::Fragment6 => c.fragments.owner(&fragment::identity(batch, i)?),
        Kind::Icmp4 | Kind::Icmp6 => {
            let (embedded, transport) = super::icmp::embedded_key(batch, i)?;
            // The embedded packet went the other way.
            Some(owner_of_packet(c, embedded.destination(), embedded.source(), transport))
        }
        _ => None,
    }
    .filter(|w| *w < workers)
}

/// The owner of a packet: by its source when it comes from a client (its destination is a service), by its destination otherwise.
fn owner_of_packet(
    c: &Connections,
    source: std::net::SocketAddr,
    destination: std::net::SocketAddr,
    transport: u8,
) -> u8 {
    let by = &c.snapshot.by_endpoint;
    let (ip, port) = (destination.ip(), destination.port());
    let from_client = by.contains_key(&(ip, port, transport)) || by.contains_key(&(ip, 0, transport));
    let client = if from_client { source } else { destination };
    owner(client.ip(), client.port(), c.settings.workers)
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
