//! From one side's sequence numbers to the other's.

use crate::checksum::Difference;
use crate::flow::Place;
use crate::headers::options::rewrite_sack;
use crate::headers::tcp::flags::ACK;
use crate::headers::{be32, tcp};
use crate::splice::Stamps;

/// Which side's numbers a number is in.
pub type NumberSpace = usize;

/// How the numbers of one spliced connection change on the way through the director. 24 bytes.
///
/// ```text
/// client → server   seq += up     ack −= down   SACK edges −= down
/// server → client   seq += down   ack −= up     SACK edges −= up
/// ```
///
/// `up` is 0 on a connection's first server, since its SYN reuses the client's initial number (but for a guessed server that was let go, and
/// is asked again); `down` is DSEQ − SSEQ
/// (tutorial, slide 36).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    up: u32,
    down: u32,
    /// By side: its segments that end here or before need not be looked at. In that side's own numbers.
    pub limit: [u32; 2],
    /// What adding `up` or `down` to a 32-bit field adds to a checksum, unless it wraps.
    sums: [u16; 2],
    /// By the sending side: its windows are shifted left by so much, or right where negative.
    shifts: [i8; 2],
    /// No segment needs to be looked at: `limit` does not count.
    pub open: bool,
    /// The server does not understand SACK, so the client's blocks are blanked.
    pub blank_sack: bool,
}

/// What most segments of a spliced connection need of its [`Offsets`], if nothing is added to the client's numbers and its windows stay.
/// A flow has room for it in its own line, so that the offsets need not be fetched for each. Whoever changes the offsets, or has to see
/// the connection's segments from then on, takes it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// What is added to the server's numbers.
    pub(crate) down: u32,
    /// By side, in its own numbers: where its segments end that need not be looked at.
    pub(crate) limit: [u32; 2],
    /// By how much the server's windows are shifted (RFC 7323 §2.3: by 14 at most).
    pub(crate) shift: i8,
}

impl Lease {
    /// Whether a segment of `side` that ends before sequence number `end` may pass with it.
    #[inline(always)]
    pub fn passes(&self, side: NumberSpace, end: u32) -> bool {
        self.limit[side & 1].wrapping_sub(end) as i32 >= 0
    }

    /// As [`Offsets::rewrite`]. One number changes: the server's own, or what the client acknowledges of it. Nothing branches on the side: which of
    /// them sent a segment is as good as random.
    #[inline(always)]
    pub fn rewrite(&self, side: NumberSpace, header: &mut [u8; tcp::HEADER], difference: Difference) {
        let client = side == Place::CLIENT;
        let (at, n) = if client { (8, self.down.wrapping_neg()) } else { (4, self.down) };
        // What a client's segment without the flag acknowledges is nothing.
        let n = n & mask(!client | (header[13] & ACK != 0));
        let (new, mut sum) = add(be32(header, at), n, sum_of(n));
        header[at..at + 4].copy_from_slice(&new.to_be_bytes());
        sum += u32::from(difference.bits());
        if self.shift != 0 {
            sum += shift_window(header, if client { 0 } else { self.shift });
        }
        apply(header, sum);
    }
}

/// All bits, or none.
#[inline(always)]
fn mask(yes: bool) -> u32 {
    u32::from(yes).wrapping_neg()
}

impl Default for Offsets {
    fn default() -> Self {
        Offsets::new(0, 0)
    }
}

/// Adds a number that the checksum knows as `sum`: the new value, and what the checksum changes by. 2³² is 1 in one's
/// complement arithmetic modulo 2¹⁶ − 1, so a wrap takes one away.
#[inline(always)]
fn add(old: u32, n: u32, sum: u16) -> (u32, u32) {
    let (new, wrapped) = old.overflowing_add(n);
    (new, u32::from(sum) + if wrapped { u32::from(!1u16.to_be()) } else { 0 })
}

/// The reverse of [`add`].
#[inline(always)]
fn subtract(old: u32, n: u32, sum: u16) -> (u32, u32) {
    let (new, wrapped) = old.overflowing_sub(n);
    (new, u32::from(!sum) + if wrapped { u32::from(1u16.to_be()) } else { 0 })
}

/// A window by another scale.
#[inline(always)]
fn shifted(window: u16, shift: i8) -> u16 {
    // One of them is 0.
    let (left, right) = (shift.clamp(0, 30), shift.clamp(-15, 0).unsigned_abs());
    u16::try_from(u64::from(window) << left >> right).unwrap_or(u16::MAX)
}

/// Rewrites the window of a header; returns what that adds to the checksum.
#[inline(always)]
fn shift_window(header: &mut [u8; tcp::HEADER], shift: i8) -> u32 {
    let old = u16::from_be_bytes([header[14], header[15]]);
    let new = shifted(old, shift);
    header[14..16].copy_from_slice(&new.to_be_bytes());
    (u32::from(!old.to_be()) + u32::from(new.to_be())) & mask(new != old)
}

/// Applies a sum of at most 2¹⁶ differences to a header's checksum.
#[inline(always)]
fn apply(header: &mut [u8; tcp::HEADER], sum: u32) {
    let old = u16::from_ne_bytes([header[16], header[17]]);
    let folded = (sum & 0xffff) + (sum >> 16);
    let bits = ((folded & 0xffff) + (folded >> 16)) as u16;
    header[16..18].copy_from_slice(&Difference::from_bits(bits).apply(old).to_ne_bytes());
}

/// What adding `n` to a 32-bit field adds to a checksum, in memory order.
#[inline(always)]
fn sum_of(n: u32) -> u16 {
    let s = (n >> 16) + (n & 0xffff);
    (((s >> 16) + s) as u16).to_be()
}

impl Offsets {
    /// Nothing changes, and nothing passes.
    pub const NONE: Offsets =
        Offsets { up: 0, down: 0, limit: [0; 2], sums: [0; 2], shifts: [0; 2], open: false, blank_sack: false };

    /// Offsets with nothing let through yet.
    #[inline(always)]
    pub fn new(up: u32, down: u32) -> Self {
        Offsets {
            up,
            down,
            limit: [0; 2],
            sums: [sum_of(up), sum_of(down)],
            shifts: [0; 2],
            open: false,
            blank_sack: false,
        }
    }

    /// The same with window shifts for segments from the client and from the server.
    #[must_use]
    pub fn with_shifts(mut self, from_client: i8, from_server: i8) -> Self {
        self.shifts = [from_client, from_server];
        self
    }

    /// Whether nothing of a segment changes.
    pub fn is_identity(&self) -> bool {
        self.up == 0 && self.down == 0 && self.shifts == [0; 2] && !self.blank_sack
    }

    /// Changes what is added to the server's numbers.
    pub fn move_down(&mut self, down: u32) {
        self.down = down;
        self.sums[1] = sum_of(down);
    }

    /// The window shift of a side's segments.
    pub fn shift(&self, side: NumberSpace) -> i8 {
        self.shifts[side & 1]
    }

    /// The other side's number for a sequence number of `side`.
    #[inline]
    pub fn seq(&self, side: NumberSpace, seq: u32) -> u32 {
        seq.wrapping_add(if side == Place::CLIENT { self.up } else { self.down })
    }

    /// The other side's number for an acknowledgement number of `side`.
    #[inline]
    pub fn ack(&self, side: NumberSpace, ack: u32) -> u32 {
        ack.wrapping_sub(if side == Place::CLIENT { self.down } else { self.up })
    }

    /// The other side's window for a window of `side`: never larger than what was meant (SPLICING, Handshake).
    #[inline]
    pub fn window(&self, side: NumberSpace, window: u16) -> u16 {
        shifted(window, self.shifts[side & 1])
    }

    /// What a flow may know of these by itself for as long as they stay; `None` where that does not suffice. `end` and `ack`: up to
    /// where a segment of `side` that may pass reaches, and what it acknowledges.
    #[inline]
    pub fn lease(&self, side: NumberSpace, end: u32, ack: u32) -> Option<Lease> {
        /// Not so far that a number could be taken for an older one meanwhile.
        const FAR: u32 = 1 << 30;
        let [from_client, shift] = self.shifts;
        if self.up != 0 || from_client != 0 || !(-14..=14).contains(&shift) {
            return None;
        }
        let mut limit = self.limit;
        if self.open {
            limit[side & 1] = end.wrapping_add(FAR);
            limit[1 - (side & 1)] = self.ack(side, ack).wrapping_add(FAR);
        }
        Some(Lease { down: self.down, limit, shift })
    }

    /// Whether a segment of `side` that ends before sequence number `end` may pass without being looked at.
    #[inline(always)]
    pub fn passes(&self, side: NumberSpace, end: u32) -> bool {
        self.open || self.limit[side & 1].wrapping_sub(end) as i32 >= 0
    }

    /// Rewrites sequence number, acknowledgement and window of a segment from `side`, and its checksum for these and
    /// for `difference` (what else has changed). Options are not touched.
    #[inline(always)]
    pub fn rewrite(&self, side: NumberSpace, header: &mut [u8; tcp::HEADER], difference: Difference) {
        let client = side == Place::CLIENT;
        let [up, down] = self.sums;
        let (plus, plus_sum, minus, minus_sum) =
            if client { (self.up, up, self.down, down) } else { (self.down, down, self.up, up) };
        let [_, _, _, _, a, b, c, d, e, f, g, h, ..] = *header;
        let (seq, mut sum) = add(u32::from_be_bytes([a, b, c, d]), plus, plus_sum);
        header[4..8].copy_from_slice(&seq.to_be_bytes());
        sum += u32::from(difference.bits());
        if header[13] & ACK != 0 {
            let (ack, s) = subtract(u32::from_be_bytes([e, f, g, h]), minus, minus_sum);
            header[8..12].copy_from_slice(&ack.to_be_bytes());
            sum += s;
        }
        // Of either side, so that it is the same for all segments of a connection.
        if self.shifts != [0; 2] {
            sum += shift_window(header, self.shifts[side & 1]);
        }
        apply(header, sum);
    }

    /// [`Offsets::rewrite`] for a segment with options: `segment` starts at the TCP header. SACK edges move, too, and
    /// timestamps where `stamps` are given. `false` when the header is not there.
    pub fn rewrite_with_options(
        &self,
        side: NumberSpace,
        segment: &mut [u8],
        difference: Difference,
        stamps: Option<&mut Stamps>,
    ) -> bool {
        let Some(&offset) = segment.get(12) else { return false };
        let length = usize::from(offset >> 4) * 4;
        if length == tcp::HEADER {
            let Some(header) = segment.first_chunk_mut() else { return false };
            self.rewrite(side, header, difference);
            return true;
        }
        let Some(options) = segment.get_mut(tcp::HEADER..length) else { return false };
        let mut old = [0u8; 40];
        let n = options.len().min(40);
        old[..n].copy_from_slice(&options[..n]);
        let blank = self.blank_sack && side == Place::CLIENT;
        let mut difference = difference;
        if rewrite_sack(options, (!blank).then_some(|edge| self.ack(side, edge))) {
            difference = difference.replacing(&old[..n], &options[..n]);
        }
        if let Some(stamps) = stamps {
            difference = difference.plus(stamps.translate_options(side, options));
        }
        let Some(header) = segment.first_chunk_mut() else { return false };
        self.rewrite(side, header, difference);
        true
    }

    /// Rewrites the numbers of a segment that an ICMP error embeds: `side` is who was sent the error, so the segment
    /// was its own, as the other side has seen it. Only the sequence number is promised to be there (RFC 792).
    pub fn rewrite_embedded(&self, side: NumberSpace, segment: &mut [u8]) {
        let from = be32(segment, 4);
        if let Some(field) = segment.get_mut(4..8) {
            // The segment left with its number moved; its sender knows it by the one before.
            let moved = if side == Place::CLIENT { self.up } else { self.down };
            field.copy_from_slice(&from.wrapping_sub(moved).to_be_bytes());
        }
        let ack = be32(segment, 8);
        if let Some(field) = segment.get_mut(8..12) {
            let moved = if side == Place::CLIENT { self.down } else { self.up };
            field.copy_from_slice(&ack.wrapping_add(moved).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::build::{Packet, Transport};
    use crate::headers::parse;
    use crate::headers::parse::transport_checksum_ok;
    use proptest::prelude::*;

    fn frame(seq: u32, ack: u32, window: u16, options: &[u8]) -> Vec<u8> {
        let mut p = Packet::tcp("192.0.2.1:1000".parse().unwrap(), "198.51.100.1:80".parse().unwrap(), ACK);
        p.transport = Transport::Tcp { flags: ACK, seq, ack, window, options: options.to_vec() };
        p.payload(b"GET / HTTP/1.1\r\n\r\n").frame()
    }

    proptest! {
        #[test]
        fn numbers_move_and_the_checksum_stays_right(
            up: u32, down: u32, seq: u32, ack: u32, window: u16, from_server: bool, shift in -14i8..=14,
            edges in proptest::collection::vec(any::<u32>(), 0..=3),
        ) {
            let mut options = vec![];
            if !edges.is_empty() {
                options.extend([1, 1, 5, 2 + 8 * edges.len() as u8]);
                for e in &edges { options.extend(e.to_be_bytes()); options.extend(e.wrapping_add(10).to_be_bytes()); }
            }
            let side = usize::from(from_server);
            let o = Offsets::new(up, down).with_shifts(shift, -shift);
            let mut f = frame(seq, ack, window, &options);
            prop_assert!(o.rewrite_with_options(side, &mut f[34..], Difference::NONE, None));
            let p = parse(&f, false).unwrap();
            prop_assert!(transport_checksum_ok(&f, &p));
            let (plus, minus) = if from_server { (down, up) } else { (up, down) };
            let t = crate::headers::tcp::Tcp::parse(&f[34..]).unwrap();
            prop_assert_eq!(t.seq().0, seq.wrapping_add(plus));
            prop_assert_eq!(t.ack().0, ack.wrapping_sub(minus));
            // Never a larger window than was meant.
            let k = if from_server { -shift } else { shift };
            prop_assert!(f64::from(t.window()) <= f64::from(window) * 2f64.powi(k.into()));
            for (i, e) in edges.iter().enumerate() {
                prop_assert_eq!(be32(t.options(), 4 + 8 * i), e.wrapping_sub(minus));
            }
            // And back.
            let back = Offsets::new(0u32.wrapping_sub(up), 0u32.wrapping_sub(down));
            prop_assert!(back.rewrite_with_options(side, &mut f[34..], Difference::NONE, None));
            prop_assert_eq!(be32(&f, 38), seq);
        }

        /// What passes with a lease passes with the offsets, too, and is changed to the same; and of what passes with these,
        /// nothing near is kept off.
        #[test]
        fn a_lease_is_the_offsets(
            down: u32, shift in -14i8..=14, limit: [u32; 2], open: bool, side in 0usize..2,
            ahead in -100_000i32..100_000, ack: u32, of_other: bool, far in 0u32..1 << 29,
        ) {
            let mut o = Offsets::new(0, down).with_shifts(0, shift);
            (o.limit, o.open) = (limit, open);
            let end = limit[side].wrapping_add_signed(ahead);
            let lease = o.lease(side, end, ack).unwrap();
            let mut flow = crate::flow::Flow::new(6, crate::flow::FlowFlags(0), [0; 2], [0; 2]);
            prop_assert_eq!(flow.lease(), None);
            prop_assert!(flow.lend(lease));
            prop_assert_eq!(flow.lease(), Some(lease));
            let (other, begins) = if of_other { (1 - side, o.ack(side, ack)) } else { (side, end) };
            let at = if open { begins.wrapping_add(far) } else { end };
            prop_assert_eq!(lease.passes(other, at), o.passes(other, at));
            let mut as_leased = frame(end, ack, 1000, &[]);
            let mut as_kept = as_leased.clone();
            lease.rewrite(other, as_leased[34..].first_chunk_mut().unwrap(), Difference::NONE);
            o.rewrite(other, as_kept[34..].first_chunk_mut().unwrap(), Difference::NONE);
            prop_assert_eq!(as_leased, as_kept);
            flow.end_lease();
            prop_assert_eq!(flow.lease(), None);
        }

        #[test]
        fn an_embedded_segment_is_its_senders_again(up: u32, down: u32, seq: u32, ack: u32, side in 0usize..2) {
            let o = Offsets::new(up, down);
            let mut f = frame(seq, ack, 1000, &[]);
            o.rewrite_with_options(side, &mut f[34..], Difference::NONE, None);
            o.rewrite_embedded(side, &mut f[34..]);
            prop_assert_eq!((be32(&f, 38), be32(&f, 42)), (seq, ack));
        }
    }

    #[test]
    fn what_a_lease_can_not_say_has_none() {
        assert_eq!(Offsets::new(1, 7).lease(0, 0, 0), None, "the client's numbers move");
        assert_eq!(Offsets::new(0, 7).with_shifts(1, 0).lease(0, 0, 0), None, "so do its windows");
    }

    #[test]
    fn sack_is_blanked_for_a_server_without_it() {
        let mut o = Offsets::new(0, 77);
        o.blank_sack = true;
        let mut f = frame(1, 2, 3, &[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9]);
        assert!(o.rewrite_with_options(Place::CLIENT, &mut f[34..], Difference::NONE, None));
        assert_eq!(f[54..66], [1; 12]);
        assert!(transport_checksum_ok(&f, &parse(&f, false).unwrap()));
    }

    #[test]
    fn limits_are_compared_across_the_wrap() {
        let mut o = Offsets::new(0, 0);
        o.limit = [5, 0xffff_fff0];
        assert!(o.passes(0, 0xffff_ffff) && o.passes(0, 5) && !o.passes(0, 6));
        assert!(!o.passes(1, 0));
        o.open = true;
        assert!(o.passes(1, 0));
    }
}
