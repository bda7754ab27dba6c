//! Fragmentation: packets that exceed their next hop's MTU and may be cut. The last thing that happens to them.
//!
//! - An IPv4 packet without DF is cut as any router cuts it (RFC 791 §3.2), *before* it enters a tunnel, not after: its pieces carry
//!   the client's identification, of which there is one space a client, where fragments of the outer packet would share one of 16 bits between
//!   all connections to a server (RFC 4963); they are put together by the host itself, so that what takes tunnel packets apart there need not
//!   keep any; and RFC 2003 §5.1, RFC 4459 §3.4 and RFC 4213 §3.2 look at a tunnel as a link with an MTU of its own.
//!   (RFC 2473 §7.2 (b) would cut the outer IPv6 packet.)
//! - An IPv6 packet can't be cut. One of at most 1,280 bytes must nevertheless pass a tunnel of less, or it is lost in silence: then
//!   the *outer* packet is cut, by an IPv6 fragment header (RFC 2473 §7.1 (b)) or as IPv4 (RFC 4213 §3.2.2).

use super::connection::Connections;
use lcs_dataplane::batch::{Batch, Places};
use lcs_dataplane::headers::ipv4::Ipv4;
use lcs_dataplane::headers::{ipv4, ipv6};
use lcs_dataplane::port::Port;
use lcs_dataplane::{BURST, DropReason, Frame, Verdict};

/// Pieces of one packet at most: a jumbo frame for the smallest MTU that is common.
const PIECES: usize = 32;
/// Every IPv6 link takes packets of this size (RFC 8200 §5).
pub(crate) const IPV6_MIN: u16 = 1280;
const FRAGMENT_HEADER: usize = 8;
/// Next header of an IPv6 fragment header.
const FRAGMENT: u8 = 44;

/// What is to be cut in a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The IPv4 packet at this offset; what stands in front of it, a tunnel header perhaps, each piece has.
    V4(u16),
    /// The IPv6 packet behind the link-layer header: a fragment header is put in.
    #[default]
    V6,
}

/// Frames of a batch that have everything but the right size.
#[derive(Debug, Default)]
pub(crate) struct Oversized {
    places: Places,
    how: [(Cut, u16); BURST],
}

impl Oversized {
    /// Frame `i`, which is to be forwarded, has to be cut into pieces of at most `mtu` bytes of IP packet.
    pub(crate) fn mark(&mut self, i: usize, cut: Cut, mtu: u16) {
        self.places.push(i);
        self.how[i % BURST] = (cut, mtu);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// Whether frame `i` has an IPv4 packet that may be cut.
pub(crate) fn may_be_cut(batch: &Batch, i: usize) -> bool {
    let l3 = usize::from(batch.l3[i]);
    batch.frames[i]
        .bytes()
        .get(l3..l3 + ipv4::HEADER)
        .is_some_and(|b| b[0] >> 4 == 4 && u16::from_be_bytes([b[6], b[7]]) & ipv4::DF == 0)
}

/// How one packet is cut.
#[derive(Debug, Clone, Copy)]
struct Plan {
    cut: Cut,
    /// Offset of the outermost IP header.
    l3: usize,
    /// Bytes that each piece has of what is in front of the payload.
    head: usize,
    /// Bytes put in behind the head.
    put_in: usize,
    /// Bytes of payload in each piece but the last, a multiple of 8.
    room: usize,
    payload: usize,
    pieces: usize,
    /// Where the payload stands in the packet that it is itself a fragment of, in units of 8 bytes.
    offset: usize,
    /// More of that packet follows.
    more: bool,
    /// Protocol of what is cut, over IPv6.
    next: u8,
    /// Identification of the pieces, over IPv6.
    ident: u32,
}

impl Plan {
    fn new(bytes: &[u8], l3: usize, cut: Cut, mtu: u16, ident: u32) -> Option<Plan> {
        let mtu = usize::from(mtu);
        let none = Plan {
            cut,
            l3,
            head: 0,
            put_in: 0,
            room: 0,
            payload: 0,
            pieces: 0,
            offset: 0,
            more: false,
            next: 0,
            ident,
        };
        let mut plan = match cut {
            Cut::V4(at) => {
                let at = usize::from(at);
                let ip = Ipv4::parse(bytes.get(at..)?).ok()?;
                let (header, flags) = (ip.header_len(), ip.flags());
                let room = mtu.checked_sub(at.checked_sub(l3)? + header)? & !7;
                let (head, payload) = (at + header, ip.total_len().checked_sub(header)?);
                let (offset, more) = (usize::from(flags & ipv4::OFFSET), flags & ipv4::MF != 0);
                Plan { head, room, payload, offset, more, ..none }
            }
            Cut::V6 => {
                let ip = ipv6::Ipv6::parse(bytes.get(l3..)?).ok()?;
                let room = mtu.checked_sub(ipv6::HEADER + FRAGMENT_HEADER)? & !7;
                let (head, payload, next) = (l3 + ipv6::HEADER, ip.payload_len(), ip.next_header());
                Plan { head, put_in: FRAGMENT_HEADER, room, payload, next, ..none }
            }
        };
        if plan.room == 0 || bytes.len() < plan.head + plan.payload {
            return None;
        }
        plan.pieces = plan.payload.div_ceil(plan.room);
        // RFC 791 §3.1: no fragment reaches beyond what 13 bits can say.
        let fits = plan.offset + plan.payload / 8 <= usize::from(ipv4::OFFSET);
        ((2..=PIECES).contains(&plan.pieces) && fits).then_some(plan)
    }

    /// Writes the piece `n` from `whole`, the frame.
    fn write(&self, frame: &mut Frame, whole: &[u8], n: usize) -> bool {
        let len = self.head + self.put_in + self.room;
        let roomy = frame.set_len(len as u16) || frame.reset(0) && frame.set_len(len as u16);
        let from = self.head + n * self.room;
        let (Some(head), Some(part)) = (whole.get(..self.head), whole.get(from..from + self.room)) else {
            return false;
        };
        if !roomy {
            return false;
        }
        let b = frame.bytes_mut();
        b[..self.head].copy_from_slice(head);
        b[self.head + self.put_in..].copy_from_slice(part);
        true
    }

    /// Makes the frame, which is whole, its own last piece.
    fn shrink(&self, frame: &mut Frame) -> bool {
        let gone = (self.pieces - 1) * self.room - self.put_in;
        if !frame.set_len((self.head + self.payload) as u16) {
            return false;
        }
        frame.bytes_mut().copy_within(..self.head, gone);
        frame.pull_front(gone as u16)
    }

    /// Says in the headers of piece `n`, which are the whole packet's, that it is one.
    fn finish(&self, b: &mut [u8], n: usize, outer_ident: u16) -> bool {
        let more = self.more || n + 1 < self.pieces;
        let offset = self.offset + n * self.room / 8;
        let Cut::V4(at) = self.cut else {
            let length = (b.len() - self.l3 - ipv6::HEADER) as u16;
            b[self.l3 + 4..self.l3 + 6].copy_from_slice(&length.to_be_bytes());
            b[self.l3 + 6] = FRAGMENT;
            let header = &mut b[self.head..self.head + FRAGMENT_HEADER];
            header[..2].copy_from_slice(&[self.next, 0]);
            header[2..4].copy_from_slice(&((offset as u16) << 3 | u16::from(more)).to_be_bytes());
            header[4..].copy_from_slice(&self.ident.to_be_bytes());
            return true;
        };
        let at = usize::from(at);
        let length = (b.len() - at) as u16;
        if n > 0 {
            keep_copied_options(&mut b[at + ipv4::HEADER..self.head]);
        }
        b[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
        let flags = offset as u16 | if more { ipv4::MF } else { 0 };
        b[at + 6..at + 8].copy_from_slice(&flags.to_be_bytes());
        let Ok(mut ip) = Ipv4::parse(&mut b[at..]) else { return false };
        ip.fill_checksum();
        match at - self.l3 {
            0 => true,
            ipv4::HEADER => {
                let length = (b.len() - self.l3) as u16;
                b[self.l3 + 2..self.l3 + 4].copy_from_slice(&length.to_be_bytes());
                b[self.l3 + 4..self.l3 + 6].copy_from_slice(&outer_ident.to_be_bytes());
                let Ok(mut ip) = Ipv4::parse(&mut b[self.l3..]) else { return false };
                ip.fill_checksum();
                true
            }
            _ => {
                b[self.l3 + 4..self.l3 + 6].copy_from_slice(&length.to_be_bytes());
                true
            }
        }
    }
}

/// Blanks the options of an IPv4 header that are in the first fragment only (RFC 791 §3.1: the copied flag).
fn keep_copied_options(mut options: &mut [u8]) {
    while let [kind, rest @ ..] = options {
        let len = match *kind {
            0 => return,
            1 => 1,
            _ => match rest.first() {
                Some(&len) if (2..=rest.len() + 1).contains(&usize::from(len)) => usize::from(len),
                _ => return,
            },
        };
        let copied = *kind & 0x80 != 0;
        let (option, others) = std::mem::take(&mut options).split_at_mut(len);
        if !copied {
            option.fill(1);
        }
        options = others;
    }
}

/// Cuts the frames that were marked. The last piece of each stays in the batch and the others go out in front of it, so
/// that no packet is whole at its receiver before those that were sent before it.
#[inline(never)]
pub(crate) fn fragment<P: Port>(c: &mut Connections, port: &mut P, batch: &mut Batch) {
    let places = std::mem::take(&mut c.oversized.places);
    for i in places.iter() {
        if batch.verdict[i] == Verdict::Forward {
            let (cut, mtu) = c.oversized.how[i];
            if let Err(reason) = fragment_one(c, port, batch, i, cut, mtu) {
                batch.drop(i, reason);
            }
        }
    }
}

fn fragment_one<P: Port>(
    c: &mut Connections,
    port: &mut P,
    batch: &mut Batch,
    i: usize,
    cut: Cut,
    mtu: u16,
) -> Result<(), DropReason> {
    let frame = &mut batch.frames[i];
    c.fragment_ident = c.fragment_ident.wrapping_add(1);
    let l3 = usize::from(batch.l3[i]);
    let plan = Plan::new(frame.bytes(), l3, cut, mtu, c.fragment_ident).ok_or(DropReason::TooBig)?;
    let mut pieces: [Frame; PIECES] = Default::default();
    let made = pieces[..plan.pieces - 1].iter_mut().enumerate().all(|(n, piece)| {
        let Some(fresh) = port.allocate() else { return false };
        *piece = fresh;
        c.ident = c.ident.wrapping_add(1);
        plan.write(piece, frame.bytes(), n) && plan.finish(piece.bytes_mut(), n, c.ident)
    });
    let mut fate = Ok(());
    if !made {
        fate = Err(DropReason::NoBuffer);
    }
    for piece in pieces.into_iter().filter(|p| !p.is_placeholder()) {
        let refused = if fate.is_ok() { port.transmit(batch.tx[i], piece).err() } else { Some(piece) };
        if let Some(piece) = refused {
            // The rest alone is of no use to anybody.
            fate = fate.and(Err(DropReason::TransmitFull));
            port.release(piece);
        } else {
            c.fragments_made += 1;
        }
    }
    fate?;
    c.ident = c.ident.wrapping_add(1);
    if !plan.shrink(frame) || !plan.finish(frame.bytes_mut(), plan.pieces - 1, c.ident) {
        return Err(DropReason::BadHeader);
    }
    c.fragments_made += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_first_fragment_only_are_blanked_in_the_others() {
        // Record route (7, not copied), no-operation, security (130, copied), timestamp (68, not copied), end.
        let mut o = [7, 3, 4, 1, 130, 4, 9, 9, 68, 4, 5, 0, 0, 7, 7, 7];
        keep_copied_options(&mut o);
        assert_eq!(o, [1, 1, 1, 1, 130, 4, 9, 9, 1, 1, 1, 1, 0, 7, 7, 7]);
        for broken in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 5, 0, 0], [1, 1, 1, 7]] {
            let mut o = broken;
            keep_copied_options(&mut o);
            assert_eq!(o, broken);
        }
    }

    #[test]
    fn what_cannot_be_cut_has_no_plan() {
        let mut packet = vec![0u8; 14 + 1000];
        let header = |b: &mut [u8], flags: u16| {
            ipv4::write(&mut b[14..], 0, 980, 1, flags, 64, 17, [10, 0, 0, 1].into(), [10, 0, 0, 2].into())
        };
        assert!(header(&mut packet, 0));
        let plan = |b: &[u8], mtu| Plan::new(b, 14, Cut::V4(14), mtu, 0);
        assert_eq!(plan(&packet, 576).map(|p| (p.room, p.pieces)), Some((552, 2)));
        assert_eq!(plan(&packet, 68).map(|p| (p.room, p.pieces)), Some((48, 21)));
        // Too small for any payload, too many pieces, and a packet that needs no cutting.
        assert!(plan(&packet, 27).is_none() && plan(&packet, 28).is_none() && plan(&packet, 1008).is_none());
        assert!(plan(&packet, 0).is_none() && plan(&packet[..900], 576).is_none() && plan(&[], 576).is_none());
        // A fragment at the end of what offsets can say.
        assert!(header(&mut packet, 0x1fff - 122) && plan(&packet, 576).is_some());
        assert!(header(&mut packet, 0x1fff - 121) && plan(&packet, 576).is_none());
    }
}
