//! Following single frames through the stages, for `lcs trace`.
//!
//! Costs one comparison a batch when no trace is on. When one is, the record is written from the batch's own metadata after each
//! stage, so that the stages know nothing of it.

use crate::command::{Event, SegmentView, TraceFilter, TraceRecord, Way};
use crate::stages::classify::{addresses_of, protocol_name};
use crate::stages::connection::Connections;
use lcs_dataplane::batch::{Batch, NO_FLOW};
use lcs_dataplane::flow::{FlowFlags, Place};
use lcs_dataplane::headers::tcp::Tcp;
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use lcs_dataplane::headers::{Kind, ethernet, ipv4, ipv6, parse, protocol};
use lcs_dataplane::{BURST, Verdict};
use std::net::{IpAddr, SocketAddr};

/// A trace that is on.
#[derive(Debug, Default)]
pub(crate) struct Tracer {
    filter: TraceFilter,
    left: u32,
    records: Vec<(usize, TraceRecord)>,
}

impl Tracer {
    pub(crate) fn set(&mut self, filter: TraceFilter, frames: u32) {
        self.filter = filter;
        self.left = frames;
    }

    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        self.left > 0
    }

    /// Begins records for the frames that match. Called after classification; `before` are the frames in words, taken before it.
    pub(crate) fn begin(&mut self, c: &Connections, batch: &mut Batch, now: u64) {
        self.records.clear();
        for i in 0..batch.len.min(BURST) {
            if self.records.len() as u32 >= self.left && !self.filter.drops_only {
                break;
            }
            if !self.matches(batch, i) {
                continue;
            }
            batch.traced |= 1 << i;
            let mut record = TraceRecord {
                at: now,
                interface: batch.rx[i],
                frame: describe(batch.frames[i].bytes()),
                steps: Vec::with_capacity(6),
                verdict: String::new(),
                sent: None,
                segment: view(c, batch.frames[i].bytes(), true),
                sent_segment: None,
                made: Vec::new(),
            };
            let steered = if batch.verdict[i] == Verdict::HandOver {
                format!(", of worker {}", batch.tx[i])
            } else if batch.from_sibling {
                ", handed over to this worker".to_owned()
            } else {
                String::new()
            };
            let what = match batch.verdict[i] {
                Verdict::Drop(reason) if batch.kind[i] == Kind::Other => format!("{reason}"),
                _ => format!("{:?}{steered}", batch.kind[i]),
            };
            record.steps.push(("classify".to_owned(), what));
            self.records.push((i, record));
        }
    }

    fn matches(&self, batch: &Batch, i: usize) -> bool {
        let f = &self.filter;
        let addresses = addresses_of(batch, i);
        let address = f.address.is_none_or(|a| addresses.is_some_and(|(s, d)| s == a || d == a));
        let ports = batch.ports[i].to_ne_bytes();
        let (source, destination) =
            (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]));
        let port = f.port.is_none_or(|p| addresses.is_some() && (source == p || destination == p));
        let protocol = f.protocol.is_none_or(|p| addresses.is_some() && batch.protocol[i] == p);
        address && port && protocol
    }

    /// Notes what a stage has found out about the traced frames.
    pub(crate) fn step(&mut self, c: &Connections, batch: &Batch, stage: &str) {
        for (i, record) in &mut self.records {
            if record.steps.len() > 1 && batch.verdict[*i] == Verdict::HandOver {
                continue;
            }
            let what = match stage {
                "lookup" | "schedule" => match decided(c, batch, *i) {
                    Some(what) => what,
                    None => continue,
                },
                _ => batch.verdict[*i].to_string(),
            };
            if record.steps.last().is_none_or(|(_, last)| *last != what) {
                record.steps.push((stage.to_owned(), what));
            }
        }
    }

    /// Ends the records and hands them to the control thread.
    pub(crate) fn end(&mut self, c: &mut Connections, batch: &Batch) {
        for (i, mut record) in self.records.drain(..) {
            let verdict = batch.verdict[i];
            if self.left == 0 || self.filter.drops_only && !matches!(verdict, Verdict::Drop(_)) {
                continue;
            }
            record.end(verdict);
            record.made =
                c.made.iter().filter(|(for_frame, _)| *for_frame == i).map(|(_, made)| made.clone()).collect();
            if verdict == Verdict::Forward {
                let sent = view(c, batch.frames[i].bytes(), false);
                record.sent_segment =
                    record.segment.as_ref().and_then(|came| passed_on(c, batch, i, came, &sent)).or(sent);
                record.sent = Some(format!("interface {}: {}", batch.tx[i], describe(batch.frames[i].bytes())));
            }
            if c.push_event(Event::Trace(Box::new(record))) {
                self.left -= 1;
            }
        }
    }
}

/// The flow that was found or made for a frame, in words.
fn decided(c: &Connections, batch: &Batch, i: usize) -> Option<String> {
    if batch.flow[i] == NO_FLOW {
        return match batch.kind[i] {
            _ if batch.verdict[i] == Verdict::HandOver => Some(format!("of worker {}", batch.tx[i])),
            Kind::Transport4 | Kind::Transport6 | Kind::First4 | Kind::First6 => Some("no flow".to_owned()),
            _ => None,
        };
    }
    let place = Place(batch.flow[i]);
    let flow = c.table.get(place.flow());
    let name = |slot: u16| {
        let server = c.snapshot.servers.get(usize::from(slot)).and_then(Option::as_ref);
        server.map_or_else(|| "a server that is gone".to_owned(), |s| s.name.clone())
    };
    let service = c.snapshot.services.get(usize::from(flow.service)).and_then(Option::as_ref);
    let side = if place.side() == Place::CLIENT { "from the client" } else { "from the server" };
    Some(format!(
        "flow {} of {}/{}, {side}, {}",
        place.flow(),
        service.map_or("?", |s| s.name.as_str()),
        name(flow.server),
        flow.state.name()
    ))
}

/// A client's segment on its way to a server by direct routing or a tunnel: the same segment, and the server that it goes to, which
/// its addresses do not say. `None` for everything else that became of it, an ICMP error back to the client among it.
fn passed_on(
    c: &Connections,
    batch: &Batch,
    i: usize,
    came: &SegmentView,
    sent: &Option<SegmentView>,
) -> Option<SegmentView> {
    let place = Place(batch.flow[i]);
    if batch.flow[i] == NO_FLOW || place.side() != Place::CLIENT || came.way != Way::FromClient {
        return None;
    }
    let flow = c.table.get(place.flow());
    let direct = sent.as_ref().is_some_and(|sent| sent.way == Way::ToServer && sent.destination == came.destination);
    let tunnelled = flow.flags.has(FlowFlags::TUNNEL) && {
        let outer = parse(batch.frames[i].bytes(), false).ok();
        outer.is_some_and(|outer| matches!(outer.protocol, protocol::IPIP | protocol::IPV6))
    };
    if !direct && !tunnelled {
        return None;
    }
    let server = c.snapshot.servers.get(usize::from(flow.server))?.as_ref()?;
    let destination = SocketAddr::new(server.address, came.destination.port());
    Some(SegmentView { way: Way::ToServer, destination, ..came.clone() })
}

/// A frame as a TCP segment that has come or is being sent. `None` where it is none.
pub(crate) fn view(c: &Connections, bytes: &[u8], comes: bool) -> Option<SegmentView> {
    let p = parse(bytes, false).ok()?;
    if !matches!(p.kind, Kind::Transport4 | Kind::Transport6) || p.protocol != protocol::TCP {
        return None;
    }
    let (l3, l4, end) = (usize::from(p.l3), usize::from(p.l4), usize::from(p.end));
    let (source, destination): (IpAddr, IpAddr) = match p.kind {
        Kind::Transport4 => {
            let ip = ipv4::Ipv4::parse(bytes.get(l3..)?).ok()?;
            (ip.source().into(), ip.destination().into())
        }
        _ => {
            let ip = ipv6::Ipv6::parse(bytes.get(l3..)?).ok()?;
            (ip.source().into(), ip.destination().into())
        }
    };
    let t = Tcp::parse(bytes.get(l4..end)?).ok()?;
    let source = SocketAddr::new(source, t.source_port());
    let destination = SocketAddr::new(destination, t.destination_port());
    let is_service = |at: SocketAddr| c.snapshot.service_at(at, protocol::TCP).is_some();
    let way = match (comes, is_service(if comes { destination } else { source })) {
        (true, true) => Way::FromClient,
        (true, false) => Way::FromServer,
        (false, true) => Way::ToClient,
        (false, false) => Way::ToServer,
    };
    let payload = t.payload().len() as u32;
    Some(SegmentView { way, source, destination, flags: t.flags(), seq: t.seq().0, ack: t.ack().0, payload })
}

/// A frame in words.
pub(crate) fn describe(bytes: &[u8]) -> String {
    let link = format!("{} > {}", ethernet::source(bytes), ethernet::destination(bytes));
    let Ok(p) = parse(bytes, false) else { return format!("{link}, malformed, {} bytes", bytes.len()) };
    let mut batch = Batch::default();
    (batch.kind[0], batch.l3[0], batch.addresses[0]) = (p.kind, p.l3, p.addresses);
    let l3 = usize::from(p.l3);
    let addresses = match p.kind {
        Kind::Transport6 | Kind::First6 | Kind::Fragment6 | Kind::Icmp6 | Kind::Protocol6 => bytes
            .get(l3 + 8..l3 + 40)
            .map(|a| a.as_chunks::<16>().0)
            .and_then(|h| Some(((*h.first()?).into(), (*h.get(1)?).into()))),
        _ => addresses_of(&batch, 0),
    };
    let Some((source, destination)) = addresses else { return format!("{link}, {:?}, {} bytes", p.kind, bytes.len()) };
    let ports = p.ports.to_ne_bytes();
    let end = |ip, at: usize| {
        let port = u16::from_be_bytes([ports[at], ports[at + 1]]);
        if p.ports == 0 { format!("{ip}") } else { SocketAddr::new(ip, port).to_string() }
    };
    let mut flags = String::new();
    for (bit, name) in [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (PSH, 'P'), (ACK, '.')] {
        if p.tcp_flags & bit != 0 {
            flags.push(name);
        }
    }
    let flags = if flags.is_empty() { flags } else { format!(" [{flags}]") };
    format!(
        "{link}, {} {} > {}{flags}, {} bytes",
        protocol_name(p.protocol),
        end(source, 0),
        end(destination, 2),
        bytes.len()
    )
}
