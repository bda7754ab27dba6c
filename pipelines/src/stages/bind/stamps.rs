//! Timestamps of connections that have them (RFC 7323): the director's own, what it reads of others', and the change from one
//! server to another.
//!
//! They are agreed upon with a client before its server is known, so a server that does not know them is of no use to it: once
//! agreed upon, a segment without them is to be dropped (RFC 7323 §3.2).

use super::Desk;
use crate::content::{Content, Scheme};
use crate::snapshot::Forward;
use crate::splice::{Arrival, Binding};
use lcs_dataplane::flow::{FlowFlags, Key, Place};
use lcs_dataplane::headers::options::{STAMPED, timestamps};
use lcs_dataplane::headers::tcp::flags::{ACK, RST};
use lcs_dataplane::port::Port;
use lcs_dataplane::splice::{FARTHEST, Segment, Stamps};

/// How far the stamps of a client may go on from the last one that was read, while it has a pool's connection: another
/// client's come after them.
pub(crate) const FAR_IN_POOL: u32 = 1 << 24;

/// Whether timestamps are agreed upon with clients of a service.
pub(super) fn agrees(content: &Content) -> bool {
    content.binding.timestamps && matches!(content.binding.scheme, Scheme::Delayed | Scheme::Pooled(_))
}

impl<P: Port> Desk<'_, P> {
    /// Value and echo for the answer to a SYN with these.
    pub(super) fn answers_stamps(&self, content: &Content, key: &Key, said: Option<(u32, u32)>) -> Option<(u32, u32)> {
        let (value, _) = said.filter(|_| agrees(content))?;
        Some((self.c.splices.cookies.clock(key, self.now), value))
    }

    /// A connection begins whose client was answered with these.
    pub(super) fn stamp(&mut self, flow: u32, answer: Option<(u32, u32)>) {
        if let Some((value, echo)) = answer {
            self.c.splices.stamp(flow, Stamps::new(echo, value));
        }
    }

    /// What a cookie's bringer shows to have been agreed upon: its stamps, turned round.
    pub(super) fn brought_stamps(&self, key: &Key, a: &Arrival) -> Option<(u32, u32)> {
        let (value, echo) = a.stamps?;
        self.c.splices.cookies.echoes(key, echo, self.now).then_some((echo, value))
    }

    /// Bytes that the timestamps of a connection take of every segment.
    pub(super) fn stamped_bytes(&self, entry: u32) -> usize {
        if self.c.splices.get(entry).stamped { STAMPED } else { 0 }
    }

    /// Value and echo for a segment of the director's own toward a side of a flow; `None` where the connection has none.
    pub(super) fn own_stamps(&mut self, flow: u32, side: usize) -> Option<(u32, u32)> {
        let f = self.c.table.get(flow);
        if !f.flags.has(FlowFlags::SPLICED) {
            return None;
        }
        let mut s = *self.c.splices.stamps(flow)?;
        let own = if side == Place::SERVER {
            s.to_server()
        } else {
            let clock = self.client_clock(flow)?;
            s.to_client(|| clock)
        };
        *self.c.splices.stamps(flow)? = s;
        Some(own)
    }

    /// The clock that the client of a flow sees as long as it has no server.
    fn client_clock(&self, flow: u32) -> Option<u32> {
        Some(self.c.splices.cookies.clock(&self.c.table.key(flow, Place::CLIENT)?, self.now))
    }

    /// The clock that the server of a flow sees where the director speaks for itself.
    fn server_clock(&self, flow: u32) -> Option<u32> {
        Some(self.c.splices.cookies.clock(&self.c.table.key(flow, Place::SERVER)?, self.now))
    }

    /// A segment with the timestamps of its connection before its other options, which then stand in `room`; `None` where the
    /// connection has none. Not a SYN.
    pub(super) fn with_stamps<'s>(
        &mut self,
        flow: u32,
        side: usize,
        segment: &Segment<'s>,
        room: &'s mut [u8; 40],
    ) -> Option<Segment<'s>> {
        let (value, echo) = self.own_stamps(flow, side)?;
        let n = STAMPED + segment.options.len();
        let (own, others) = room.get_mut(..n)?.split_at_mut(STAMPED);
        own.copy_from_slice(&timestamps(value, echo));
        others.copy_from_slice(segment.options);
        Some(Segment { options: &room[..n], ..*segment })
    }

    /// Whether a client's segment comes later than it should (RFC 7323 §5.3, R1).
    pub(super) fn is_old(&mut self, a: &Arrival, b: &Binding) -> bool {
        let (Some((value, _)), true) = (a.stamps, b.in_order) else { return false };
        a.flags & RST == 0 && self.c.splices.stamps(b.entry).is_some_and(|s| s.is_old(value))
    }

    /// A client's segment of which nothing is missing before it (RFC 7323 §4.3).
    pub(super) fn read_stamps(&mut self, a: &Arrival, b: &mut Binding) {
        if self.is_old(a, b) {
            return;
        }
        if let (Some(stamps), Some(s)) = (a.stamps, self.c.splices.stamps(b.entry)) {
            s.read(stamps);
            b.in_order = true;
        }
    }

    /// The acknowledgement with which a client's request over a pool's connection ends; what comes `next` of it has not
    /// begun. The server hears of it from the director, and so does the client of what it has said last.
    pub(super) fn last_stamps(&mut self, entry: u32, a: &Arrival, next: u32) {
        if let (Some(stamps), true, Some(s)) = (a.stamps, a.seq == next, self.c.splices.stamps(entry))
            && s.is_near_heard(stamps.0, FAR_IN_POOL)
        {
            s.read(stamps);
        }
    }

    /// A server is going to be asked for a connection.
    pub(super) fn begin_stamps(&mut self, flow: u32, entry: u32, forward: Forward) {
        if !self.c.splices.get(entry).stamped {
            return;
        }
        let clock = if forward == Forward::FullNat { self.server_clock(flow) } else { None };
        if let Some(s) = self.c.splices.stamps(entry) {
            s.begin(clock);
        }
    }

    /// The server has answered with these. `false`: without any, although it was to.
    pub(super) fn join_stamps(&mut self, flow: u32, entry: u32, answer: Option<(u32, u32)>) -> bool {
        if !self.c.splices.get(entry).stamped {
            return true;
        }
        let Some(clock) = self.client_clock(flow) else { return true };
        match (self.c.splices.stamps(entry), answer) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(s), Some((value, _))) => {
                s.join(value, clock);
                true
            }
        }
    }

    /// A server that is to know timestamps does not. Counted; it is not used for this connection.
    pub(super) fn lacks_stamps(&mut self, flow: u32) {
        if let Some(tally) = self.c.splices.tally(self.c.table.get(flow).service) {
            tally.unstamped += 1;
        }
    }

    /// A server's segment that only the director reads.
    pub(super) fn server_stamps(&mut self, entry: u32, a: &Arrival) {
        if let (Some((value, _)), Some(s)) = (a.stamps, self.c.splices.stamps(entry)) {
            s.server_says(value);
        }
    }

    /// The connection to the server gets an entry of its own. `pool`: for any client.
    pub(super) fn set_stamps_aside(&mut self, entry: u32, leg: u32, pool: bool) {
        let Some(s) = self.c.splices.stamps(entry) else { return };
        let told = if pool { s.said[Place::SERVER] } else { s.to_server().0 };
        let mut aside = Stamps::aside(s.up(), told, s.server_has_said(!pool));
        aside.loose = s.loose;
        s.leave();
        self.c.splices.stamp(leg, aside);
    }

    /// The connection of a leg is this client's. `pool`: it was another's before.
    pub(super) fn adopt_stamps(&mut self, flow: u32, entry: u32, leg: u32, pool: bool) {
        let clock = if pool { self.server_clock(flow) } else { None };
        let (Some(own), Some(aside)) = (self.client_clock(flow), self.c.splices.stamps(leg).copied()) else { return };
        if let Some(s) = self.c.splices.stamps(entry) {
            s.adopt(&aside, clock, own);
        }
    }

    /// The stamps of an idle connection that is opened for whoever asks next.
    pub(super) fn stamp_ahead(&mut self, flow: u32, leg: u32) {
        if let Some(clock) = self.server_clock(flow) {
            self.c.splices.stamp(leg, Stamps::aside(0, clock, 0));
        }
    }

    /// Whether a segment that passes says nothing of its stamps that its checksum must vouch for first: that a clock has leapt
    /// ([`Stamps::goes_on`]), or that a client's has run away.
    pub(super) fn stamps_go_on(&mut self, place: Place, entry: u32, a: &Arrival) -> bool {
        let runs_away = place.side() == Place::CLIENT && self.runs_away(place.flow(), entry, a);
        let (Some((value, echo)), Some(s)) = (a.stamps, self.c.splices.stamps(entry)) else { return true };
        let mut option = [0; 8];
        option[..4].copy_from_slice(&value.to_be_bytes());
        option[4..].copy_from_slice(&echo.to_be_bytes());
        !runs_away && s.goes_on(place.side(), &option)
    }

    /// Whether a client's stamps can't be put in order any more, or would be far before those of the client that gets its
    /// pool's connection next.
    fn runs_away(&mut self, flow: u32, entry: u32, a: &Arrival) -> bool {
        let lent = self.is_pooled(flow) && self.has_lent(entry);
        let (Some((value, _)), Some(s)) = (a.stamps, self.c.splices.stamps(entry)) else { return false };
        s.is_far(value) || lent && s.is_near_heard(value, FARTHEST) && !s.is_near_heard(value, FAR_IN_POOL)
    }

    /// A client's segment passes: can what it says of its clock be put in order still?
    pub(super) fn look_at_stamps(&mut self, flow: u32, entry: u32, a: &Arrival) {
        if !self.runs_away(flow, entry, a) {
            return;
        }
        if let (Some((value, _)), Some(s)) = (a.stamps, self.c.splices.stamps(entry)) {
            s.loose |= s.is_far(value);
        }
        // Who comes after it could not go on.
        self.leaves_pool(entry);
    }

    /// Whether nobody knows what the server in turn makes of this client's stamps.
    pub(super) fn is_loose(&mut self, entry: u32) -> bool {
        self.c.splices.stamps(entry).is_some_and(|s| s.loose)
    }

    /// Whether the server in turn takes a client's segment, as far as timestamps go: none that has been passed is later.
    pub(super) fn is_sure(&mut self, entry: u32, a: &Arrival) -> bool {
        match self.c.splices.stamps(entry) {
            None => true,
            Some(s) => a.stamps.is_some_and(|(value, _)| a.flags & ACK != 0 && s.is_sure(value)),
        }
    }

    /// A client's segment has passed of which [`Desk::is_sure`] was true.
    pub(super) fn refer(&mut self, entry: u32, a: &Arrival) {
        if let (Some((value, _)), Some(s)) = (a.stamps, self.c.splices.stamps(entry)) {
            s.refer(value);
        }
    }
}
