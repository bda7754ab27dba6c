//! From one side's timestamps to the other's (RFC 7323).

use crate::checksum::Difference;
use crate::flow::Place;
use crate::headers::be32;
use crate::headers::options::find_timestamps;

/// No stamp is taken to be this much later than another: what seems to be is older, or nobody knows. Half of what RFC 7323
/// §5.2 compares with, so that one that is within this of two others is in the same order to both.
pub const FARTHEST: u32 = (1 << 30) - 1;
/// No honest stamp is this much later than the last one within a second: a tick is a millisecond at least (RFC 7323 §5.4).
/// What seems to be is looked at for damage, and what is not can't have been moved by damage for longer than a second or so.
pub const SOON: u32 = 1 << 10;
/// What one side may say ahead of what the other has echoed: of two such numbers, neither is believed alone.
const NEAR: u32 = 1 << 24;

/// How the timestamps of one spliced connection change on the way through the director, and what its own are. 36 bytes.
///
/// ```text
/// client → server   TSval += up     TSecr −= down
/// server → client   TSval += down   TSecr −= up
/// ```
///
/// `up` is 0 where the director takes the client's place (NAT): a server that the client returns to sees one clock. Where it
/// speaks for itself (full NAT), the server sees the director's. `down` is chosen for every server so that what the client
/// sees never goes back, whatever the servers' clocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamps {
    up: u32,
    down: u32,
    /// The latest stamp that went to a side, in that side's numbers, the director's own included.
    pub said: [u32; 2],
    /// The stamp of the client's last segment in order that the director has read (RFC 7323 §4.3),
    /// in the client's numbers; what it echoed there.
    pub heard: u32,
    /// See `heard`.
    pub echo: u32,
    /// A stamp of the server's, in its own numbers: it is told no earlier one.
    pub floor: u32,
    /// The client's stamp in what the server has had for certain, in the client's numbers: the director's word, or the
    /// server's own, which is its echo.
    pub reference: u32,
    /// `down` is that of the server in turn. Otherwise what the client sees is the director's own clock.
    pub joined: bool,
    /// The client's stamps have gone too far from `reference` to be put in order.
    pub loose: bool,
}

/// The clock, or what was said already where the clock is behind it.
#[inline]
pub fn later(clock: u32, said: u32) -> u32 {
    if clock.wrapping_sub(said) <= FARTHEST { clock } else { said }
}

impl Stamps {
    /// Of a client whose last segment had this value and echo. The echo is what was said to it.
    pub fn new(value: u32, echo: u32) -> Self {
        Stamps { said: [echo, value], heard: value, echo, reference: value, ..Stamps::default() }
    }

    /// Of an idle connection to a server, which was told `told` last and has said `floor` last. `up` as it was.
    pub fn aside(up: u32, told: u32, floor: u32) -> Self {
        let heard = told.wrapping_sub(up);
        Stamps { up, said: [floor, told], heard, echo: floor, floor, reference: heard, ..Stamps::default() }
    }

    /// What is added to the client's stamps.
    pub fn up(&self) -> u32 {
        self.up
    }

    /// Notes what a client's segment said that the director has read, and that was next in order.
    pub fn read(&mut self, (value, echo): (u32, u32)) {
        self.heard = value;
        self.echo = echo;
    }

    /// Whether a segment of the client's is older than one that was read before it (RFC 7323 §5.3, R1).
    pub fn is_old(&self, value: u32) -> bool {
        let behind = self.heard.wrapping_sub(value);
        behind != 0 && behind <= FARTHEST
    }

    /// The latest stamp that the client can have got.
    pub fn client_has(&self) -> u32 {
        // More than the client has echoed may be on the way to it; very much more was forged.
        if self.said[Place::CLIENT].wrapping_sub(self.echo) <= NEAR { self.said[Place::CLIENT] } else { self.echo }
    }

    /// The stamp for a segment of the director's own to the client, whose clock without a server is `clock`.
    pub fn to_client(&mut self, clock: impl FnOnce() -> u32) -> (u32, u32) {
        // The server's next one must not be behind it.
        let value = if self.joined { self.client_has() } else { later(clock(), self.client_has()) };
        self.said[Place::CLIENT] = value;
        (value, self.heard)
    }

    /// The stamp for a segment of the director's own to the server, in the client's place.
    pub fn to_server(&mut self) -> (u32, u32) {
        self.said[Place::SERVER] = self.newest(self.said[Place::SERVER]);
        (self.said[Place::SERVER], self.echo_to_server(self.echo))
    }

    /// A connection to another server begins, whose clock is not known. The server is told the client's own clock, or one
    /// that is at `clock` now and has said `told` already.
    pub fn begin(&mut self, clock: Option<u32>) {
        self.up = clock.map_or(0, |clock| clock.wrapping_sub(self.heard));
        self.joined = false;
        self.said[Place::SERVER] = self.heard.wrapping_add(self.up);
        self.reference = self.heard;
        self.loose = false;
    }

    /// What is read of the client's stamps begins at its last one: the server gets that, or a later one, from the director.
    pub fn restart(&mut self) {
        let (own, told) = (self.heard.wrapping_add(self.up), self.said[Place::SERVER]);
        self.loose |= self.is_far(self.heard) || own.wrapping_sub(told) > FARTHEST && told.wrapping_sub(own) > FARTHEST;
        self.reference = self.heard;
        self.said[Place::SERVER] = self.newest(told);
    }

    /// The client's last stamp in the server's numbers, or `told` where that is later: what the server has been told, it
    /// compares all others with.
    fn newest(&self, told: u32) -> u32 {
        later(self.heard.wrapping_add(self.up), told)
    }

    /// A connection that was set aside ([`Stamps::aside`]) is the client's. It is another's clock that goes on where `clock`
    /// is given, and the same client's otherwise. `own`: the client's clock without a server.
    pub fn adopt(&mut self, aside: &Stamps, clock: Option<u32>, own: u32) {
        let told = aside.said[Place::SERVER];
        self.up = clock.map_or(aside.up, |clock| later(clock, told).wrapping_sub(self.heard));
        let own_to_server = self.heard.wrapping_add(self.up);
        let unordered = own_to_server.wrapping_sub(told) > FARTHEST && told.wrapping_sub(own_to_server) > NEAR;
        self.said[Place::SERVER] = self.newest(told);
        self.reference = self.heard;
        self.loose = aside.loose || unordered;
        self.join(aside.floor, own);
    }

    /// The server has said this to the director itself.
    pub fn server_says(&mut self, value: u32) {
        self.floor = later(value, self.floor);
    }

    /// The server in turn has said `value`; the client's clock without a server is `clock`.
    pub fn join(&mut self, value: u32, clock: u32) {
        let said = later(clock, self.client_has());
        self.down = said.wrapping_sub(value);
        self.said[Place::CLIENT] = said;
        self.floor = value;
        self.joined = true;
    }

    /// The server's last stamp, as far as the client has shown it, or the director has seen it.
    pub fn server_has_said(&self, client_is_believed: bool) -> u32 {
        let shown = self.echo_to_server(self.echo);
        let seen = self.said[Place::CLIENT].wrapping_sub(self.down);
        if client_is_believed || seen.wrapping_sub(shown) <= NEAR { shown } else { seen }
    }

    /// There is no server any more.
    pub fn leave(&mut self) {
        self.said[Place::CLIENT] = self.client_has();
        self.joined = false;
    }

    /// The server's number for an echo of the client's.
    #[inline(always)]
    fn echo_to_server(&self, echo: u32) -> u32 {
        // Far beyond what the client has been told: its server has not said it either.
        let beyond = echo.wrapping_sub(self.said[Place::CLIENT]);
        let unsaid = beyond > NEAR && beyond.wrapping_neg() > FARTHEST;
        let echo = echo.wrapping_sub(self.down);
        // About what the server before has said, or about what the director has.
        if unsaid || self.floor.wrapping_sub(echo) <= FARTHEST { self.floor } else { echo }
    }

    #[inline(always)]
    fn advance(&mut self, to: usize, value: u32) {
        let said = &mut self.said[to & 1];
        if value.wrapping_sub(*said) <= FARTHEST {
            *said = value;
        }
    }

    /// Whether a client's stamp can be put in order with what its server has had: it is not too much later than `reference`.
    #[inline(always)]
    pub fn is_near(&self, value: u32) -> bool {
        value.wrapping_sub(self.reference) <= FARTHEST || self.loose
    }

    /// Whether a client's stamp is at most `far` later than the last one that the director has read. Nothing that only
    /// passes moves what this compares with.
    #[inline(always)]
    pub fn is_near_heard(&self, value: u32, far: u32) -> bool {
        value.wrapping_sub(self.heard) <= far
    }

    /// Whether a client's stamp is neither soon after `reference` nor soon before it: then nobody knows what its server makes of it.
    pub fn is_far(&self, value: u32) -> bool {
        let after = value.wrapping_sub(self.reference);
        after.min(after.wrapping_neg()) > FARTHEST
    }

    /// Whether the server can't ignore a client's segment with this stamp for its age (RFC 7323 §5.3): it has got none
    /// that is later.
    pub fn is_sure(&self, value: u32) -> bool {
        let newest = value.wrapping_add(self.up).wrapping_sub(self.said[Place::SERVER]) <= FARTHEST;
        newest && !self.loose && value.wrapping_sub(self.reference) <= FARTHEST
    }

    /// The client's segment is with the server for certain.
    pub fn refer(&mut self, value: u32) {
        self.reference = value;
    }

    /// Whether what a segment of `side` says may be noted ([`Stamps::translate`]) before anybody has looked at its checksum:
    /// nothing here moves farther by it than an honest clock goes in a second, and the server echoes what it was told.
    #[inline(always)]
    pub fn goes_on(&self, side: usize, stamps: &[u8; 8]) -> bool {
        let (value, echo) = (be32(stamps, 0), be32(stamps, 4));
        let client = side == Place::CLIENT;
        let ahead =
            value.wrapping_add(if client { self.up } else { self.down }).wrapping_sub(self.said[1 - (side & 1)]);
        // Of what is behind nothing is noted.
        (ahead <= SOON || ahead > FARTHEST)
            && (client || self.said[Place::SERVER].wrapping_sub(echo) <= FARTHEST && !self.is_off_floor(value))
    }

    /// Whether a server's stamp is so far from the floor that this must follow.
    #[inline(always)]
    fn is_off_floor(&self, value: u32) -> bool {
        (FARTHEST / 2..3 << 30).contains(&value.wrapping_sub(self.floor))
    }

    /// Moves value and echo, as they stand in a segment of `side`, to the other side's. Returns what the checksum changes by.
    #[inline(always)]
    pub fn translate(&mut self, side: usize, stamps: &mut [u8; 8]) -> Difference {
        let old = *stamps;
        let (value, echo) = (be32(&old, 0), be32(&old, 4));
        let (value, echo) = if side == Place::CLIENT {
            (value.wrapping_add(self.up), self.echo_to_server(echo))
        } else {
            // Far behind, it would seem to be ahead one day.
            if self.is_off_floor(value) {
                self.floor = value.wrapping_sub(NEAR);
            }
            let echo = echo.wrapping_sub(self.up);
            // Of what was said to the server before this client's time it knows nothing. Measured back from the newest, so
            // that it does not matter how long ago `heard` was.
            let newest = self.said[Place::SERVER].wrapping_sub(self.up);
            let before = self.heard.wrapping_sub(echo) <= FARTHEST
                && newest.wrapping_sub(echo) > newest.wrapping_sub(self.heard);
            if !before {
                self.reference = later(echo, self.reference);
            }
            (value.wrapping_add(self.down), if before { self.heard } else { echo })
        };
        self.advance(1 - (side & 1), value);
        stamps[..4].copy_from_slice(&value.to_be_bytes());
        stamps[4..].copy_from_slice(&echo.to_be_bytes());
        Difference::NONE.replacing(&old, stamps)
    }

    /// [`Stamps::translate`] wherever the option stands among a segment's options; an option without effect is not looked for.
    pub fn translate_options(&mut self, side: usize, options: &mut [u8]) -> Difference {
        let Some(at) = find_timestamps(options) else { return Difference::NONE };
        let Some(stamps) = options.get_mut(at..).and_then(|o| o.first_chunk_mut()) else { return Difference::NONE };
        let difference = self.translate(side, stamps);
        // An odd offset puts each byte in the other half of its word (RFC 1071 §2(B)).
        if at % 2 == 1 { Difference::from_bits(difference.bits().swap_bytes()) } else { difference }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::build::{Packet, Transport};
    use crate::headers::options::{read_timestamps, timestamps};
    use crate::headers::parse;
    use crate::headers::parse::transport_checksum_ok;
    use crate::headers::tcp::flags::ACK;
    use crate::splice::Offsets;
    use proptest::prelude::*;

    fn frame(options: &[u8]) -> Vec<u8> {
        let mut p = Packet::tcp("192.0.2.1:1000".parse().unwrap(), "198.51.100.1:80".parse().unwrap(), ACK);
        p.transport = Transport::Tcp { flags: ACK, seq: 5, ack: 6, window: 7, options: options.to_vec() };
        p.payload(b"odd").frame()
    }

    /// A connection whose client has said `value` last, and whose server began with `server` when the clock was at `clock`.
    fn joined(value: u32, server: u32, clock: u32, own: Option<u32>) -> Stamps {
        let mut s = Stamps::new(value, clock);
        s.begin(own);
        s.join(server, clock);
        s
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Stamps>() <= 36);
    }

    proptest! {
        /// Wherever the option stands, up to a data offset of 15; other options stay as they are.
        #[test]
        fn stamps_move_wherever_they_stand(
            value: u32, server: u32, clock: u32, own: Option<u32>, ahead in 0u32..1000, behind in 0u32..1000,
            before in prop::collection::vec(prop_oneof![Just(vec![1u8]), Just(vec![3, 3, 9]), Just(vec![253, 4, 7, 7])], 0..6),
            sack: bool,
        ) {
            let mut s = joined(value, server, clock, own);
            let up = own.map_or(0, |own| own.wrapping_sub(value));
            let later = |n: u32| n.wrapping_add(ahead);
            for (side, given, expected) in [
                // The client answers the server's first stamp or a later one; the server the client's.
                (0, (later(value), later(clock)), (later(value).wrapping_add(up), later(server))),
                (1, (later(server), later(value).wrapping_add(up)), (later(clock), later(value))),
                // What answers neither is taken for their first.
                (0, (later(value), clock.wrapping_sub(behind)), (later(value).wrapping_add(up), server)),
                (1, (later(server), value.wrapping_add(up).wrapping_sub(behind)), (later(clock), value)),
            ] {
                let mut options = before.concat();
                options.extend(&timestamps(given.0, given.1)[2..]);
                if sack && options.len() <= 26 {
                    options.extend([5, 10, 0, 0, 0, 9, 0, 0, 0, 11]);
                }
                options.resize(options.len().next_multiple_of(4), 0);
                prop_assume!(options.len() <= 40);
                let mut f = frame(&options);
                let o = Offsets::new(3, 4);
                prop_assert!(o.rewrite_with_options(side, &mut f[34..], Difference::NONE, Some(&mut s)));
                prop_assert!(transport_checksum_ok(&f, &parse(&f, false).unwrap()));
                let got = &f[54..54 + options.len()];
                prop_assert_eq!(read_timestamps(got), Some(expected));
                prop_assert_eq!(&got[..before.concat().len()], &before.concat()[..]);
            }
        }

        /// Whatever clocks the servers have: what the client gets never goes back, nor what it gets from the director.
        #[test]
        fn the_client_sees_one_clock(
            start: u32, client: u32,
            turns in prop::collection::vec((any::<u32>(), 0u32..5_000, prop_oneof![Just(0u32), Just(1), Just(1000)], 0u32..5_000), 1..20),
        ) {
            let mut s = Stamps::new(client, start);
            let (mut clock, mut last) = (start, start);
            for (server, waits, rate, takes) in turns {
                clock = clock.wrapping_add(waits);
                let own = s.to_client(|| clock).0;
                prop_assert!(own.wrapping_sub(last) <= FARTHEST);
                s.begin(None);
                s.join(server, clock);
                last = own;
                for at in [0, takes / 2, takes] {
                    let mut b = [0; 8];
                    b[..4].copy_from_slice(&server.wrapping_add(at * rate).to_be_bytes());
                    s.translate(Place::SERVER, &mut b);
                    let got = be32(&b, 0);
                    prop_assert!(got.wrapping_sub(last) <= FARTHEST, "{} after {}", got, last);
                    last = got;
                    let own = s.to_client(|| clock.wrapping_add(99_999)).0;
                    prop_assert_eq!(own, last, "the server's next one may be no later");
                    s.read((client, last));
                }
                clock = clock.wrapping_add(takes);
                s.leave();
            }
        }

        /// As a receiver knows it: what it has had of the client's stamps, if all that is sure is passed.
        #[test]
        fn what_is_sure_is_never_too_old_for_the_server(
            first: u32, steps in prop::collection::vec((any::<u32>(), any::<bool>()), 1..60),
        ) {
            let mut s = joined(first, 1, 1, None);
            let mut recent = first;
            for (step, accepted) in steps {
                // A hostile client picks steps as it likes, and segments that its server does not accept.
                let value = [recent, s.reference, s.said[Place::SERVER]][step as usize % 3]
                    .wrapping_add([step, FARTHEST, FARTHEST + 1, 1 << 31, u32::MAX, 1, step % 1000][step as usize / 3 % 7]);
                let sure = s.is_sure(value);
                if sure {
                    prop_assert!((value.wrapping_sub(recent) as i32) >= 0, "{} after {}", value, recent);
                }
                let mut b = [0; 8];
                b[..4].copy_from_slice(&value.to_be_bytes());
                s.loose |= s.is_far(value);
                s.translate(Place::CLIENT, &mut b);
                if sure || accepted && (value.wrapping_sub(recent) as i32) >= 0 {
                    recent = value;
                }
                if sure {
                    s.refer(value);
                }
            }
        }
    }

    /// Value and echo as they stand in a segment.
    fn option(value: u32, echo: u32) -> [u8; 8] {
        let mut b = [0; 8];
        b[..4].copy_from_slice(&value.to_be_bytes());
        b[4..].copy_from_slice(&echo.to_be_bytes());
        b
    }

    proptest! {
        /// Two clocks of any rate up to one of RFC 7323 §5.4, and segments that overtake one another: nobody needs to look.
        /// What a flipped bit makes of one of them either is looked at, or moves nothing by more than `SOON`.
        #[test]
        fn honest_stamps_go_on_and_what_damage_makes_of_them_is_looked_at_or_moves_little(
            client: u32, server: u32, clock: u32, own: Option<u32>, steps in prop::collection::vec((0..=SOON, 0..=SOON), 1..80), bit in 0usize..64,
        ) {
            let mut s = joined(client, server, clock, own);
            let begun = [client, server];
            let up = own.map_or(0, |own| own.wrapping_sub(client));
            // What each side's clock is at, and the stamp that it has had of the other last.
            let (mut now, mut had) = (begun, [clock, client.wrapping_add(up)]);
            for (ticks, late) in steps {
                now = now.map(|clock| clock.wrapping_add(ticks));
                for side in [0, 1] {
                    let overtaken = now[side].wrapping_sub(late.min(now[side].wrapping_sub(begun[side])));
                    for mut b in [now[side], overtaken].map(|value| option(value, had[side])) {
                        prop_assert!(s.goes_on(side, &b), "{:?} of {} in {:?}", b, side, s);
                        let before = s;
                        let mut damaged = b;
                        damaged[bit / 8] ^= 1 << (bit % 8);
                        if s.goes_on(side, &damaged) {
                            s.translate(side, &mut damaged);
                            for to in [0, 1] {
                                prop_assert!(s.said[to].wrapping_sub(before.said[to]) <= SOON, "{:?} {:?}", before, s);
                            }
                            prop_assert_eq!(s.floor, before.floor);
                            let told = before.said[Place::SERVER].wrapping_sub(up).wrapping_sub(before.reference);
                            prop_assert!(s.reference.wrapping_sub(before.reference) <= told, "{:?} {:?}", before, s);
                            s = before;
                        }
                        s.translate(side, &mut b);
                    }
                    had[1 - side] = s.said[1 - side];
                }
            }
        }
    }

    #[test]
    fn a_leap_of_either_clock_and_an_echo_of_what_was_not_said_are_looked_at() {
        let s = joined(100, 1_000, 50_000, None);
        let looked_at = |side, value: u32, echo: u32| !s.goes_on(side, &option(value, echo));
        assert!(!looked_at(Place::CLIENT, 100 + SOON, 0) && looked_at(Place::CLIENT, 101 + SOON, 0));
        assert!(looked_at(Place::CLIENT, 100 + FARTHEST, 50_000));
        assert!(!looked_at(Place::SERVER, 1_000 + SOON, 100) && looked_at(Place::SERVER, 1_001 + SOON, 100));
        assert!(looked_at(Place::SERVER, 1_000, 101));
        // Behind the floor by so much that it would be moved there.
        assert!(!looked_at(Place::SERVER, 999, 100) && looked_at(Place::SERVER, 1_000u32.wrapping_sub(1 << 31), 100));
    }

    /// A connection over which nothing is read any more goes on while its clocks go round.
    #[test]
    fn echoes_are_right_however_long_ago_the_last_request_was() {
        let mut s = joined(100, 1_000, 50_000, Some(9_000));
        let mut b = [0; 8];
        let step = 1u32 << 28;
        for n in 1..40u32 {
            let (client, server) = (n.wrapping_mul(step).wrapping_add(100), n.wrapping_mul(step).wrapping_add(1_000));
            // Each answers what the other has said last; for the first round that was the handshake.
            b[..4].copy_from_slice(&client.to_be_bytes());
            b[4..].copy_from_slice(&server.wrapping_add(49_000).wrapping_sub(step).to_be_bytes());
            assert!(s.is_near(client), "{n}");
            s.translate(Place::CLIENT, &mut b);
            assert_eq!((be32(&b, 0), be32(&b, 4)), (client.wrapping_add(8_900), server.wrapping_sub(step)), "{n}");
            b[..4].copy_from_slice(&server.to_be_bytes());
            b[4..].copy_from_slice(&client.wrapping_add(8_900).to_be_bytes());
            s.translate(Place::SERVER, &mut b);
            assert_eq!((be32(&b, 0), be32(&b, 4)), (server.wrapping_add(49_000), client), "{n}");
            assert_eq!(s.said[Place::SERVER], client.wrapping_add(8_900), "{n}");
        }
    }

    /// What the server echoes is what it has had, though the client has said more since.
    #[test]
    fn an_echo_is_not_raised_to_what_was_read_of_a_body_since() {
        let mut s = joined(100, 1_000, 50_000, None);
        let mut b = [0; 8];
        for value in [110u32, 150, 190] {
            b[..4].copy_from_slice(&value.to_be_bytes());
            s.translate(Place::CLIENT, &mut b);
            s.refer(value);
        }
        b[4..].copy_from_slice(&110u32.to_be_bytes());
        s.translate(Place::SERVER, &mut b);
        assert_eq!(be32(&b, 4), 110);
        assert_eq!(s.reference, 190);
    }

    #[test]
    fn a_forged_stamp_does_not_move_the_clock() {
        let mut s = joined(1, 1_000, 50_000, None);
        let mut b = [0; 8];
        b[..4].copy_from_slice(&(1_000 + (1u32 << 29)).to_be_bytes());
        s.translate(Place::SERVER, &mut b);
        s.read((2, 50_010));
        assert_eq!(s.client_has(), 50_010);
        s.begin(None);
        s.join(7, 50_020);
        assert_eq!(s.said[Place::CLIENT], 50_020);
    }

    #[test]
    fn a_connection_that_was_set_aside_goes_on_where_it_was() {
        let mut s = joined(100, 1_000, 50_000, Some(9_000));
        let mut b = [0; 8];
        b[..4].copy_from_slice(&1_500u32.to_be_bytes());
        s.translate(Place::SERVER, &mut b);
        s.read((180, 50_500));
        let aside = Stamps::aside(s.up(), s.to_server().0, s.server_has_said(true));
        assert_eq!((aside.said[Place::SERVER], aside.floor), (9_080, 1_500));
        // What only the client says is not believed where others are to build on it.
        s.echo = 60_000;
        assert_eq!(s.server_has_said(false), 1_500);
    }
}
