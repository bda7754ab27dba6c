//! A connection while a request of it is being collected, decided and delivered.
//!
//! Numbers are in the client's space unless they say otherwise. What the director has acknowledged to the client stands
//! in `buffer` until the server has acknowledged it (SPLICING, Collecting the request).

use super::NIL;
use super::ahead::Ahead;
use crate::extract::{BodyFollower, ExtractError, Extraction, Method, Replay};
use crate::migration::Ticket;
use crate::placement::Undecided;
use lcs_dataplane::worker::Nanos;

/// Retransmission time-out before a round trip is known (RFC 6298 §2.1), and its bounds.
pub(crate) const RTO_FIRST: Nanos = 1_000_000_000;
const RTO_LEAST: Nanos = 200_000_000;
const RTO_MOST: Nanos = 16_000_000_000;
/// No deadline.
const NEVER: Nanos = Nanos::MAX;
/// Servers that a request is tried on at most: a bit for each in a byte.
pub(crate) const TRIES: usize = 8;

/// What a binding is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    /// Reading a request.
    #[default]
    Collect,
    /// A rule has taken it; the response before it is not over.
    Hold,
    /// A server has been sent a SYN.
    Connect,
    /// A server's filter has been sent the connection, or its next request.
    Migrate,
    /// The filter that has the connection has been asked for it.
    Recall,
    /// The server is being brought to where the client stands, in a protocol in which it speaks first.
    Replay,
    /// The server is being sent what is buffered.
    Deliver,
    /// The director answers itself, and closes.
    Answer,
}

/// A segment, as far as the binding stage needs it. Numbers in its sender's space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    /// Offset of the payload in the frame, and its length.
    pub(crate) payload: usize,
    pub(crate) len: usize,
    /// Value and echo of its timestamps option.
    pub(crate) stamps: Option<(u32, u32)>,
}

impl Arrival {
    /// The sequence number after its last byte, FIN not counted.
    pub(crate) fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len as u32)
    }
}

/// An acknowledgement that is put off together with the rest of a request ([`Binding::deferred`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Owed {
    #[default]
    Nothing,
    /// One that may be left to the server's first segment.
    Soon,
    /// One at once: a gap was filled (RFC 5681 §4.2), or the client was kept waiting.
    AtOnce,
}

/// What became of a segment's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Some of it is new, or the FIN is.
    New,
    /// All of it was there already.
    Old,
    /// It comes after a gap, and is kept until what lies before it has come.
    Ahead,
    /// It comes after a gap, and there is no room to keep it: the client sends it again.
    Gap,
}

/// One connection's binding.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) entry: u32,
    pub(crate) phase: Phase,
    /// It is over: its box may be used again.
    pub(crate) done: bool,
    /// The client's bytes from `start` on.
    pub(crate) buffer: Vec<u8>,
    pub(crate) start: u32,
    /// How many bytes that `buffer` begins with have a known sum, and that sum, as a checksum has it.
    sum: Option<(usize, u16)>,
    /// What has come beyond a gap.
    ahead: Ahead,
    /// Bytes counted for this binding in what the worker holds.
    pub(crate) held: usize,
    /// The client's FIN follows the buffer's last byte.
    pub(crate) fin: bool,
    /// Whether everything before `start` has been delivered, so that bytes from there on may be acknowledged.
    pub(crate) may_ack: bool,
    /// The response before is over, so that `out_start` is known.
    pub(crate) settled: bool,
    /// How many bytes of the buffer are the request that has been decided; beyond the buffer's end where its body is still coming.
    pub(crate) cut: u64,
    /// All that follows goes to the same server.
    pub(crate) uncut: bool,
    /// The last acknowledgement and window of the client, in its own terms.
    pub(crate) client_ack: u32,
    pub(crate) client_window: u16,
    /// A segment of the client's that was next in order has been read: older ones are told by their timestamps.
    pub(crate) in_order: bool,
    /// The client's last packet with new data, as much of it as rules may look at.
    pub(crate) header: Vec<u8>,
    /// What the director itself says to the client, from number `out_start` (of the client's receiving space) on.
    pub(crate) out: Vec<u8>,
    pub(crate) out_start: u32,
    pub(crate) out_sent: usize,
    pub(crate) out_fin: bool,
    /// The client has been told to go on with its body.
    pub(crate) continued: bool,
    /// Toward the server: delivered, sent. Counted from `start`, FIN included.
    pub(crate) delivered: u64,
    pub(crate) sent: u64,
    /// The decided request's method, and its body as far as it is still to come.
    pub(crate) request: (Method, BodyFollower),
    /// Whether the decided request may be sent again when nobody knows what became of it, and whether its client stays for another.
    pub(crate) repeatable: bool,
    pub(crate) keep_alive: bool,
    /// It went out on a connection that had stood idle, and no byte of the response has come: all of it is kept, to be sent
    /// again on another one should the server turn out to have closed that one.
    pub(crate) lent: bool,
    /// How to bring a server that speaks first to where the client stands, and what it has been sent for that.
    pub(crate) replay: Replay,
    /// The same before it began, for the next server.
    pub(crate) replay_from_start: Replay,
    pub(crate) script: Vec<u8>,
    /// The server's first number, or the next one expected from it: it is never told less.
    pub(crate) ack_floor: u32,
    /// The server's window, bytes; its scale, its MSS.
    pub(crate) server_window: u32,
    pub(crate) server_scale: u8,
    pub(crate) server_mss: u16,
    /// The rule that has taken the request.
    pub(crate) rule: u32,
    /// How often the service's rules had been replaced when it did.
    pub(crate) rules: u32,
    /// The group (none for `forward`) and the server that the request is on its way to.
    pub(crate) toward: Option<(Option<u16>, u16)>,
    /// The message that has given it away, or, at a filter, that has brought it and is not answered yet.
    pub(crate) migration: Option<Ticket>,
    /// It waits in a queue; it has passed its queue.
    pub(crate) queued: bool,
    pub(crate) admitted: bool,
    /// It is gone on with behind the batch that has decided it.
    pub(crate) deferred: bool,
    /// What its client is owed for the bytes that have decided it, when it is gone on with.
    pub(crate) owed: Owed,
    /// Hash of the name of the cookie that the response is looked through for; 0 for none.
    pub(crate) watch: u64,
    /// Servers that did not answer.
    pub(crate) tried: [u16; TRIES],
    pub(crate) tries: usize,
    /// By bit: those of which only the filter was asked.
    by_filter: u8,
    /// Times that the same segment has been sent again.
    pub(crate) retries: u8,
    /// When a segment that is out was first sent, if it was sent once only.
    pub(crate) timed: Option<Nanos>,
    pub(crate) rto: Nanos,
    /// When the server last took something of what is delivered to it, or the delivery began.
    pub(crate) taken_at: Nanos,
    /// When to tell the client at the latest that its request is here.
    pub(crate) tell_at: Nanos,
    /// When to send again; when to give up.
    pub(crate) resend_at: Nanos,
    /// A later request that a filter has all of, and cannot take yet: one message of it asks again.
    pub(crate) known_whole: bool,
    pub(crate) give_up_at: Nanos,
    pub(crate) extraction: Option<Box<Extraction>>,
    /// The errand on which the request is with a content worker, and `extraction` with it; 0 for none.
    pub(crate) errand: u64,
    /// Bytes that came back from one read, and not enough for a decision: all of them are the request's.
    pub(crate) seen: usize,
    /// What it travelled in before, with the bytes that were copied.
    pub(crate) piece: Option<Box<Undecided>>,
    /// Generation of the snapshot whose rules `extraction` is for.
    pub(crate) generation: u64,
    /// Bytes of greetings and replies said so far, and how many of them reading from the beginning will make again.
    pub(crate) said: usize,
    pub(crate) repeats: usize,
}

impl Default for Binding {
    fn default() -> Self {
        Binding {
            entry: NIL,
            phase: Phase::Collect,
            done: false,
            buffer: Vec::new(),
            start: 0,
            sum: None,
            ahead: Ahead::default(),
            held: 0,
            fin: false,
            may_ack: true,
            settled: true,
            cut: 0,
            uncut: false,
            client_ack: 0,
            client_window: 0,
            in_order: false,
            header: Vec::new(),
            out: Vec::new(),
            out_start: 0,
            out_sent: 0,
            out_fin: false,
            continued: false,
            delivered: 0,
            sent: 0,
            request: (Method::Other, BodyFollower::Done),
            repeatable: false,
            lent: false,
            keep_alive: false,
            replay: Replay::default(),
            replay_from_start: Replay::default(),
            script: Vec::new(),
            ack_floor: 0,
            server_window: 0,
            server_scale: 0,
            server_mss: 0,
            rule: 0,
            rules: 0,
            toward: None,
            migration: None,
            queued: false,
            admitted: false,
            deferred: false,
            owed: Owed::Nothing,
            watch: 0,
            tried: [0; TRIES],
            tries: 0,
            by_filter: 0,
            retries: 0,
            timed: None,
            rto: RTO_FIRST,
            taken_at: 0,
            tell_at: NEVER,
            resend_at: NEVER,
            known_whole: false,
            give_up_at: NEVER,
            extraction: None,
            errand: 0,
            seen: 0,
            piece: None,
            generation: 0,
            said: 0,
            repeats: 0,
        }
    }
}

/// Capacity of a buffer that is kept for another connection.
pub(super) const KEEP: usize = 16 << 10;

impl Binding {
    /// As new, keeping buffers of a usual size.
    pub(crate) fn clear(&mut self) {
        let keep = |mut v: Vec<u8>| {
            v.clear();
            v.shrink_to(KEEP);
            v
        };
        self.ahead.clear();
        *self = Binding {
            ahead: std::mem::take(&mut self.ahead),
            buffer: keep(std::mem::take(&mut self.buffer)),
            header: keep(std::mem::take(&mut self.header)),
            out: keep(std::mem::take(&mut self.out)),
            script: keep(std::mem::take(&mut self.script)),
            ..Binding::default()
        };
    }

    /// The next number expected from the client.
    pub(crate) fn next(&self) -> u32 {
        self.start.wrapping_add(self.buffer.len() as u32).wrapping_add(u32::from(self.fin))
    }

    /// Bytes of the client's that are held, in order or not.
    pub(crate) fn holds(&self) -> usize {
        self.buffer.len() + self.ahead.len()
    }

    /// Takes data as far as `room` bytes after those in order go, in any order; what is there already stays as it is (the
    /// first copy wins).
    pub(crate) fn take(&mut self, a: &Arrival, payload: &[u8], fin: bool, room: usize) -> Taken {
        let next = self.next();
        let behind = next.wrapping_sub(a.seq) as i32;
        if self.fin {
            return if behind < 0 { Taken::Gap } else { Taken::Old };
        }
        if behind < 0 {
            let distance = behind.unsigned_abs() as usize;
            if !self.ahead.takes(a.seq) || distance + payload.len() > room {
                return Taken::Gap;
            }
            if fin {
                self.ahead.ends_at(a.end());
            }
            return if self.ahead.keep(next, a.seq, payload) { Taken::Ahead } else { Taken::Gap };
        }
        let behind = behind as usize;
        let new = payload.get(behind..).unwrap_or(&[]);
        let taken = new.len().min(room);
        let whole = taken == new.len() && behind <= payload.len();
        if self.ahead.is_empty() {
            self.buffer.extend_from_slice(&new[..taken]);
            self.fin = fin && whole;
            return if taken > 0 || self.fin { Taken::New } else { Taken::Old };
        }
        // Bytes beyond a gap that came earlier count more than those that come now.
        let known = self.ahead.keep(next, next, &new[..taken]);
        if fin && whole {
            self.ahead.ends_at(a.end());
        }
        let before = self.buffer.len();
        self.fin = self.ahead.drain(next, &mut self.buffer);
        if self.fin || !known {
            self.ahead.clear();
        }
        if self.buffer.len() > before || self.fin { Taken::New } else { Taken::Old }
    }

    /// Notes the sum of all that is in the buffer, if it is known.
    pub(crate) fn note_sum(&mut self, sum: Option<u16>) {
        self.sum = sum.map(|sum| (self.buffer.len(), sum));
    }

    /// The sum of so many bytes that [`Binding::source`] begins with, if it is known.
    pub(crate) fn sum_of(&self, bytes: usize) -> Option<u16> {
        let (summed, sum) = self.sum.filter(|_| self.phase != Phase::Replay)?;
        (summed == bytes).then_some(sum)
    }

    /// Forgets what is in the buffer behind so many bytes.
    pub(crate) fn cut_off(&mut self, bytes: usize) {
        self.buffer.truncate(bytes);
        self.sum = None;
    }

    /// Forgets so many bytes that the buffer begins with, and goes on behind them.
    pub(crate) fn go_on_behind(&mut self, bytes: usize) {
        self.buffer.drain(..bytes);
        self.start = self.start.wrapping_add(bytes as u32);
        self.sum = None;
    }

    /// What has come beyond a gap, in order: number and bytes.
    pub(crate) fn ahead(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.ahead.pieces()
    }

    /// Forgets what has come beyond a gap.
    pub(crate) fn forget_ahead(&mut self) {
        self.ahead.clear();
    }

    /// A SACK option about what is held beyond gaps (RFC 2018 §3), padded to a multiple of four bytes; its length.
    pub(crate) fn sack(&self, out: &mut [u8; 28]) -> usize {
        self.ahead.sack(out)
    }

    /// Whether a segment brings bytes, or others in their place, that are held for the server already. It may go beyond them:
    /// then the client sends the rest again.
    pub(crate) fn out_of_hand(&self, a: &Arrival) -> bool {
        let from = a.seq.wrapping_sub(self.start);
        (from as usize) < self.buffer.len()
    }

    /// What the server is being sent.
    pub(crate) fn source(&self) -> &[u8] {
        if self.phase == Phase::Replay { &self.script } else { &self.buffer }
    }

    /// Bytes of [`Binding::source`] that may be sent to the server now.
    pub(crate) fn sendable(&self) -> usize {
        if self.phase == Phase::Replay {
            return self.script.len();
        }
        if self.uncut { self.buffer.len() } else { self.cut.min(self.buffer.len() as u64) as usize }
    }

    /// Counts what has come of the decided request's body since the decision as its own.
    ///
    /// # Errors
    /// Where its end can't be told.
    pub(crate) fn extend(&mut self) -> Result<(), ExtractError> {
        let body = &mut self.request.1;
        while !self.uncut && !body.is_done() {
            let come = usize::try_from(self.cut).ok().and_then(|cut| self.buffer.get(cut..)).unwrap_or(&[]);
            if come.is_empty() {
                break;
            }
            self.cut += body.feed(come, |_| {})? as u64;
            self.cut += u64::from(body.skip());
        }
        Ok(())
    }

    /// Whether the client's FIN may be sent to the server: after the last request.
    pub(crate) fn sends_fin(&self) -> bool {
        self.phase != Phase::Replay && self.fin && (self.uncut || self.cut >= self.buffer.len() as u64)
    }

    /// All that is to be sent, FIN included.
    pub(crate) fn to_send(&self) -> u64 {
        self.sendable() as u64 + u64::from(self.sends_fin())
    }

    /// How much of it has been sent as far as the server's window goes. What was sent beyond that, to see whether it is still
    /// closed, the server has not taken.
    pub(crate) fn sent_within_window(&self) -> u64 {
        self.sent.min(self.delivered + u64::from(self.server_window))
    }

    /// What the director has still to deliver to the client.
    pub(crate) fn out_pending(&self) -> bool {
        !self.out.is_empty() || self.out_fin
    }

    /// The number after all that the director has said to the client.
    pub(crate) fn out_end(&self) -> u32 {
        self.out_start.wrapping_add(self.out.len() as u32).wrapping_add(u32::from(self.out_fin))
    }

    /// Takes the client's acknowledgement of what the director has said. Returns whether something new is acknowledged.
    pub(crate) fn acknowledge_out(&mut self, ack: u32) -> bool {
        let n = ack.wrapping_sub(self.out_start) as i32;
        let all = self.out.len() + usize::from(self.out_fin);
        if n <= 0 || n as usize > all {
            return false;
        }
        let bytes = (n as usize).min(self.out.len());
        self.out.drain(..bytes);
        self.out_sent = self.out_sent.saturating_sub(n as usize);
        self.out_start = self.out_start.wrapping_add(n as u32);
        if n as usize > bytes {
            self.out_fin = false;
        }
        self.retries = 0;
        true
    }

    /// When it must be looked at again.
    pub(crate) fn deadline(&self) -> Nanos {
        self.resend_at.min(self.give_up_at).min(self.tell_at)
    }

    /// Whether the client is still to be told that its request is here.
    pub(crate) fn is_to_tell(&self) -> bool {
        self.tell_at != NEVER
    }

    /// (Re)starts the retransmission timer.
    pub(crate) fn arm(&mut self, now: Nanos) {
        self.resend_at = now + self.rto;
    }

    /// Stops it.
    pub(crate) fn disarm(&mut self) {
        self.resend_at = NEVER;
        self.retries = 0;
    }

    /// Tells the client at `at`, or never.
    pub(crate) fn tell(&mut self, at: Option<Nanos>) {
        self.tell_at = at.unwrap_or(NEVER);
    }

    /// Gives up at `at`, or never.
    pub(crate) fn give_up(&mut self, at: Option<Nanos>) {
        self.give_up_at = at.unwrap_or(NEVER);
    }

    /// One round trip was measured (RFC 6298 §2.2, with the variance of a first measurement).
    pub(crate) fn measured(&mut self, now: Nanos) {
        if let Some(sent) = self.timed.take() {
            self.rto = (3 * now.saturating_sub(sent)).clamp(RTO_LEAST, RTO_MOST);
        }
    }

    /// Waits twice as long from now on (RFC 6298 §5.5), and counts.
    pub(crate) fn back_off(&mut self, now: Nanos) {
        self.rto = (self.rto * 2).min(RTO_MOST);
        self.retries = self.retries.saturating_add(1);
        self.timed = None;
        self.arm(now);
    }

    /// Whether a server, or its filter, has been tried for this request.
    pub(crate) fn has_tried(&self, server: u16) -> bool {
        self.tried[..self.tries].contains(&server)
    }

    /// Whether a server itself has been tried for this request, not only its filter.
    pub(crate) fn has_tried_itself(&self, server: u16) -> bool {
        let mut tried = self.tried[..self.tries].iter().enumerate();
        tried.any(|(n, s)| *s == server && self.by_filter >> n & 1 == 0)
    }

    /// Notes that a server did not answer.
    pub(crate) fn gave_up_on(&mut self, server: u16) {
        if let Some(place) = self.tried.get_mut(self.tries) {
            *place = server;
            self.by_filter &= !(1 << self.tries);
            self.tries += 1;
        }
    }

    /// Notes that a server's filter did not take the connection, which says nothing about the server.
    pub(crate) fn gave_up_on_filter(&mut self, server: u16) {
        let n = self.tries;
        self.gave_up_on(server);
        if n < self.tries {
            self.by_filter |= 1 << n;
        }
    }

    /// The request is delivered: what follows it in the buffer is the next one's beginning.
    pub(crate) fn next_request(&mut self) {
        let n = self.sendable();
        self.go_on_behind(n);
        self.cut = 0;
        self.request = (Method::Other, BodyFollower::Done);
        self.delivered = 0;
        self.sent = 0;
        self.tries = 0;
        self.queued = false;
        self.admitted = false;
        self.continued = false;
        (self.errand, self.seen) = (0, 0);
        self.lent = false;
        self.settled = false;
        self.phase = Phase::Collect;
        self.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::super::ahead::PIECES;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_segments_give_the_same_request(
            request in proptest::collection::vec(any::<u8>(), 1..200),
            cuts in proptest::collection::vec((0usize..200, 1usize..50), 0..40), start: u32,
        ) {
            let mut b = Binding { start, ..Binding::default() };
            let mut feed = |from: usize, to: usize| {
                let to = to.min(request.len());
                let from = from.min(to);
                let a = Arrival { flags: 0, seq: start.wrapping_add(from as u32), ack: 0, window: 0, payload: 0, stamps: None, len: to - from };
                b.take(&a, &request[from..to], to == request.len(), usize::MAX)
            };
            for (from, len) in cuts {
                feed(from, from + len);
            }
            // The client sends again what was not taken.
            feed(0, 7);
            feed(3, request.len());
            feed(0, request.len());
            prop_assert_eq!(&b.buffer, &request);
            prop_assert!(b.fin);
            prop_assert_eq!(b.next(), start.wrapping_add(request.len() as u32 + 1));
        }
    }

    proptest! {
        #[test]
        fn any_order_gives_the_same_request_at_once(
            request in proptest::collection::vec(any::<u8>(), 1..300), start: u32,
            cuts in proptest::collection::btree_set(1usize..300, 0..PIECES - 1), order: u64,
        ) {
            let mut edges: Vec<usize> = [0].into_iter().chain(cuts).chain([300]).map(|e| e.min(request.len())).collect();
            edges.dedup();
            let mut segments: Vec<_> = edges.windows(2).map(|w| (w[0], w[1])).collect();
            segments.sort_by_key(|&(from, _)| (from as u64 + 1).wrapping_mul(order | 1).rotate_left(17));
            let mut b = Binding { start, ..Binding::default() };
            for (from, to) in segments {
                let seq = start.wrapping_add(from as u32);
                let a = Arrival { flags: 0, seq, ack: 0, window: 0, payload: 0, stamps: None, len: to - from };
                let taken = b.take(&a, &request[from..to], to == request.len(), 300);
                prop_assert!(matches!(taken, Taken::New | Taken::Ahead));
                prop_assert!(b.holds() <= request.len());
            }
            prop_assert_eq!(&b.buffer, &request);
            prop_assert!(b.fin && b.holds() == request.len());
        }
    }

    #[test]
    fn a_sum_is_of_the_bytes_that_it_came_with_and_of_no_others() {
        let a = |seq: u32, len: usize| Arrival { flags: 0, seq, ack: 0, window: 0, payload: 0, stamps: None, len };
        let summed = || {
            let mut b = Binding { cut: 4, ..Binding::default() };
            b.take(&a(0, 4), b"abcd", false, 100);
            b.note_sum(Some(7));
            assert_eq!((b.sum_of(4), b.sum_of(3), b.sum_of(0)), (Some(7), None, None));
            b
        };
        // What follows changes nothing about it.
        let mut b = summed();
        b.take(&a(4, 4), b"efgh", false, 100);
        assert_eq!((b.sum_of(4), b.sum_of(8)), (Some(7), None));
        // From here on the same number of bytes are others.
        b.next_request();
        assert_eq!((&b.buffer[..], b.sum_of(4), b.sum_of(0)), (&b"efgh"[..], None, None));
        let mut b = summed();
        b.go_on_behind(4);
        b.take(&a(4, 4), b"efgh", false, 100);
        assert_eq!((b.start, &b.buffer[..], b.sum_of(4)), (4, &b"efgh"[..], None));
        let mut b = summed();
        b.cut_off(2);
        b.take(&a(2, 2), b"xy", false, 100);
        assert_eq!((&b.buffer[..], b.sum_of(4), b.sum_of(2)), (&b"abxy"[..], None, None));
        let mut b = summed();
        b.clear();
        b.take(&a(0, 4), b"efgh", false, 100);
        assert_eq!(b.sum_of(4), None);
        // A dialogue's replay sends something else than the buffer.
        let b = Binding { phase: Phase::Replay, script: b"wxyz".to_vec(), ..summed() };
        assert_eq!((b.source(), b.sum_of(4)), (&b"wxyz"[..], None));
        let mut b = summed();
        b.note_sum(None);
        assert_eq!(b.sum_of(4), None);
    }

    #[test]
    fn a_server_whose_filter_was_tried_has_not_been_tried_itself() {
        let mut b = Binding::default();
        b.gave_up_on_filter(7);
        assert!(b.has_tried(7) && !b.has_tried_itself(7));
        b.gave_up_on(7);
        assert!(b.has_tried_itself(7) && b.tries == 2);
        b.next_request();
        assert!(!b.has_tried(7));
        b.gave_up_on(7);
        assert!(b.has_tried_itself(7), "nothing is left of the request before");
        for n in 0..100 {
            b.gave_up_on_filter(n);
        }
        assert_eq!(b.tries, TRIES);
        assert!(b.has_tried_itself(7) && !b.has_tried(99));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut b = Binding::default();
        for n in 0..100u32 {
            let a = Arrival { flags: 0, seq: 2 + 2 * n, ack: 0, window: 0, payload: 0, stamps: None, len: 1 };
            let taken = b.take(&a, b"x", false, 1000);
            assert_eq!(taken, if n < PIECES as u32 { Taken::Ahead } else { Taken::Gap });
        }
        let far = Arrival { flags: 0, seq: 999, ack: 0, window: 0, payload: 0, stamps: None, len: 2 };
        assert_eq!(Binding::default().take(&far, b"yy", false, 1000), Taken::Gap, "beyond the room");
        assert_eq!(b.holds(), PIECES);
    }

    #[test]
    fn the_first_copy_wins() {
        let mut b = Binding::default();
        let a = |seq: u32, len: usize| Arrival { flags: 0, seq, ack: 0, window: 0, payload: 0, stamps: None, len };
        assert_eq!(b.take(&a(0, 3), b"abc", false, 100), Taken::New);
        assert_eq!(b.take(&a(1, 4), b"XYde", false, 100), Taken::New);
        assert_eq!(b.take(&a(0, 2), b"ZZ", false, 100), Taken::Old);
        assert_eq!(b.buffer, b"abcde");
        assert_eq!(b.take(&a(5, 4), b"fghi", true, 2), Taken::New);
        assert!(!b.fin, "the FIN comes after bytes that did not fit");
        assert_eq!(b.take(&a(9, 2), b"jk", false, 100), Taken::Ahead);
        assert_eq!(b.take(&a(8, 4), b"IJKL", false, 100), Taken::Ahead);
        assert_eq!(b.holds(), 7 + 4);
        let mut option = [0; 28];
        assert_eq!(b.sack(&mut option), 12);
        assert_eq!(option[..12], [1, 1, 5, 10, 0, 0, 0, 8, 0, 0, 0, 12]);
        assert_eq!(b.take(&a(7, 5), b"hxxxx", true, 100), Taken::New);
        assert_eq!(b.buffer, b"abcdefghIjkL");
        assert!(b.fin && b.sack(&mut option) == 0 && b.holds() == 12);
        assert_eq!(b.take(&a(20, 1), b"z", false, 100), Taken::Gap, "nothing follows a FIN");
    }
}
