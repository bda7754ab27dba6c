//! The state of a TCP connection as a director sees it: what a segment makes of it.

use lcs_dataplane::flow::{Flow, FlowFlags, Place, TcpState};
use lcs_dataplane::headers::tcp::flags::{ACK, FIN, RST, SYN};

/// What a segment means for the connection's state.
#[derive(Clone, Copy)]
enum Segment {
    Syn,
    Fin,
    Reset,
    Other,
}

const fn segment(flags: u8) -> Segment {
    if flags & RST != 0 {
        Segment::Reset
    } else if flags & SYN != 0 {
        Segment::Syn
    } else if flags & FIN != 0 {
        Segment::Fin
    } else {
        Segment::Other
    }
}

/// The state after a segment from `side`. `both` says that the director sees both directions.
///
/// The director infers and does not police: a segment out of order moves the state as IPVS would move it, so
/// that a connection is never kept alive, nor cut, by what one side alone may send. RFC 9293 §3.3.2 is the model.
const fn next(state: TcpState, segment: Segment, side: usize, both: bool) -> TcpState {
    use TcpState::*;
    let client = side == Place::CLIENT;
    match (segment, state) {
        (_, Udp) => Udp,
        (Segment::Reset, TimeWait) if !client => TimeWait,
        (Segment::Reset, _) => Close,
        (Segment::Syn, Established) => Established,
        (Segment::Syn, _) if client => SynReceived,
        (Segment::Syn, None) => SynReceived,
        (Segment::Syn, s) => s,
        (Segment::Fin, SynReceived) => TimeWait,
        (Segment::Fin, Established | None) => {
            if client && both {
                CloseWait
            } else {
                FinWait
            }
        }
        // The second FIN.
        (Segment::Fin, FinWait) if client && both => TimeWait,
        (Segment::Fin, CloseWait) if !client => LastAck,
        (Segment::Fin, s) => s,
        (Segment::Other, SynReceived | None) if client => Established,
        (Segment::Other, LastAck) if client => TimeWait,
        (Segment::Other, s) => s,
    }
}

/// [`next`] for every case: `[both][side][flags & (FIN|SYN|RST)][state]`.
static NEXT: [[[[TcpState; 9]; 8]; 2]; 2] = {
    let mut table = [[[[TcpState::None; 9]; 8]; 2]; 2];
    let mut both = 0;
    while both < 2 {
        let mut side = 0;
        while side < 2 {
            let mut flags = 0;
            while flags < 8 {
                let mut s = 0;
                while s < 9 {
                    table[both][side][flags][s] = next(TcpState::ALL[s], segment(flags as u8), side, both == 1);
                    s += 1;
                }
                flags += 1;
            }
            side += 1;
        }
        both += 1;
    }
    table
};

/// Whether a client's SYN in this state begins another connection on the same ports. `both`: the server's segments are
/// seen too. Where they are not, the client's FIN is all that will ever be seen of the end, and its port may be in use
/// again long before the time-out (as IPVS's `conn_reuse_mode` 2 has it).
pub(super) fn may_be_reopened(state: TcpState, both: bool) -> bool {
    match state {
        TcpState::TimeWait | TcpState::Close | TcpState::LastAck => true,
        TcpState::FinWait => !both,
        _ => false,
    }
}

/// The state after a segment with these TCP flags from `side`; `both` says that the director sees both directions.
#[inline(always)]
pub(crate) fn next_state(state: TcpState, tcp_flags: u8, side: usize, both: bool) -> TcpState {
    NEXT[usize::from(both)][side & 1][usize::from(tcp_flags & (FIN | SYN | RST))][state as usize]
}

/// Of what is noted of a connection that is not spliced: the server has answered the client's SYN.
const ANSWERED: u32 = 1;
/// The last reset came from the server.
const RESET_BY_SERVER: u32 = 2;
/// Where the state stands that a reset has ended.
const BEFORE_SHIFT: u32 = 2;
const BEFORE: u32 = 7 << BEFORE_SHIFT;
/// The rest, once the server has answered: its initial sequence number, of which these bits are not known.
const NOTES: u32 = ANSWERED | RESET_BY_SERVER | BEFORE;
/// How far beyond the server's initial number a client's first acknowledgement may be: what is sent before it comes.
const FIRST_WINDOW: u32 = 0xffff;

/// What is noted of a connection that is not spliced. Where it is translated, [`Flow::extra`] has it. Where it is not, the server is not
/// seen: then [`Flow::ip_difference`] has room for it, and `extra` may be the client's initial number (`bind/direct.rs`).
#[inline]
pub(crate) fn notes_of(flow: &Flow) -> u32 {
    if flow.flags.has(FlowFlags::TRANSLATED) { flow.extra } else { u32::from(flow.ip_difference) }
}

/// Keeps such notes.
#[inline]
pub(crate) fn note(flow: &mut Flow, notes: u32) {
    if flow.flags.has(FlowFlags::TRANSLATED) {
        flow.extra = notes;
    } else {
        flow.ip_difference = (notes & NOTES) as u16;
    }
}

/// State and notes ([`notes_of`]) of a connection that is not spliced, after a segment with these TCP flags from `side`. `numbers` gives
/// its sequence and acknowledgement number, and none where it was damaged on its way; they are asked for while the connection is
/// half-open only.
///
/// Three things go beyond [`next_state`], for those who send segments blindly or in masses:
/// - Where the server's segments are seen, a connection is half-open until the server has answered its SYN and the client has acknowledged
///   that answer. Who sends SYN and ACK (or FIN, or RST) without hearing the server takes the table no place that can't be taken
///   back: one in 65,536 of such acknowledgements is believed. Where the server is not seen (direct routing, tunnels), the client's
///   ACK is all there is to go by, as in IPVS.
/// - A client's SYN begins nothing on a connection that is not over, until the server has answered that it does.
/// - A reset makes the time-out short and takes nothing else, since its number can't be checked here; the connection's packets keep
///   their server. Whoever has sent it in earnest sends nothing else any more: another segment from the same side shows that it was
///   somebody else's, and the connection is again what it was. Where the server is not seen, only if it was established:
///   of a closing one nothing else can be known.
pub(crate) fn followed(
    flow: &Flow,
    tcp_flags: u8,
    side: usize,
    numbers: impl FnOnce() -> Option<[u32; 2]>,
) -> (TcpState, u32) {
    use TcpState::{Close, CloseWait, Established, FinWait, SynReceived};
    let (state, notes, both) = (flow.state, notes_of(flow), flow.flags.has(FlowFlags::TRANSLATED));
    let client = side == Place::CLIENT;
    let unchanged = (state, notes);
    if both && client && tcp_flags & (SYN | RST) == SYN {
        // One that is over is reopened by who finds it ([`super::lookup`]), or here, if it has ended in the same burst.
        let reopens = tcp_flags & (ACK | FIN) == 0 && may_be_reopened(state, both);
        return if reopens { (SynReceived, 0) } else { unchanged };
    }
    if both
        && !client
        && tcp_flags & (SYN | ACK | RST) == SYN | ACK
        && matches!(state, SynReceived | FinWait | CloseWait)
    {
        let Some([first, _]) = numbers() else { return unchanged };
        return (SynReceived, first & !NOTES | ANSWERED);
    }
    if both && client && state == SynReceived {
        // The server's number is known but for its last bits.
        let is_answer = |ack: u32| ack.wrapping_sub(notes & !NOTES) <= FIRST_WINDOW;
        let believed =
            notes & ANSWERED != 0 && tcp_flags & ACK != 0 && numbers().is_some_and(|[_, ack]| is_answer(ack));
        if !believed {
            return unchanged;
        }
    }
    if state == Close && tcp_flags & (SYN | FIN | RST) == 0 && client == (notes & RESET_BY_SERVER == 0) {
        let before = TcpState::ALL[((notes & BEFORE) >> BEFORE_SHIFT) as usize];
        let known = if both { before != TcpState::None } else { before == Established };
        return (if known { before } else { Close }, notes);
    }
    let next = next_state(state, tcp_flags, side, both);
    if tcp_flags & RST == 0 {
        return (next, notes);
    }
    let by = if client { 0 } else { RESET_BY_SERVER };
    let before = if state == Close { notes & BEFORE } else { (state as u32) << BEFORE_SHIFT & BEFORE };
    (next, notes & !(RESET_BY_SERVER | BEFORE) | by | before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::flow::{FlowTable, Key};

    /// The server's initial number.
    const ISN: u32 = 0xffff_fffb;

    /// The same by [`followed`], with numbers as they should be.
    fn walk_noting(both: bool, segments: &[(u8, usize)]) -> Vec<TcpState> {
        let with_numbers: Vec<_> = segments
            .iter()
            .map(|&(flags, side)| (flags, side, Some(if side == 1 { [ISN, 0] } else { [7, ISN.wrapping_add(1)] })))
            .collect();
        walk_numbered(both, &with_numbers)
    }

    fn walk_numbered(both: bool, segments: &[(u8, usize, Option<[u32; 2]>)]) -> Vec<TcpState> {
        let mut table = FlowTable::new(1, 1);
        let flow = table.insert(6, &Key::V4 { addresses: 1, ports: 2 }, None).unwrap();
        let f = table.get_mut(flow);
        f.state = TcpState::SynReceived;
        f.flags.set(FlowFlags::TRANSLATED, both);
        segments
            .iter()
            .map(|&(flags, side, numbers)| {
                let (state, notes) = followed(f, flags, side, || numbers);
                f.state = state;
                note(f, notes);
                assert!(both || f.extra == 0, "it is the client's number");
                state
            })
            .collect()
    }

    #[test]
    fn only_who_has_heard_the_server_makes_a_connection_established() {
        use TcpState::*;
        let after = |flags, numbers| walk_numbered(true, &[(SYN | ACK, 1, Some([ISN, 8])), (flags, 0, numbers)])[1];
        for right in [1, 2, 1000, 65_000] {
            assert_eq!(after(ACK, Some([7, ISN.wrapping_add(right)])), Established);
        }
        for wrong in [1 << 31, 70_000, (-100_i32) as u32, (-32_i32) as u32] {
            assert_eq!(after(ACK, Some([7, ISN.wrapping_add(wrong)])), SynReceived, "{wrong}");
        }
        // Damaged; no acknowledgement at all; and what would make it leave the half-open ones otherwise.
        assert_eq!(after(ACK, Option::None), SynReceived);
        assert_eq!(after(0, Some([7, ISN.wrapping_add(1)])), SynReceived);
        for flags in [FIN | ACK, RST | ACK, FIN, RST] {
            assert_eq!(after(flags, Some([7, 123_456])), SynReceived);
        }
        // Of a server that answers anew, the newer number counts; not that of a damaged answer.
        let answers = |second| {
            let first = (SYN | ACK, 1, Some([ISN, 8]));
            walk_numbered(true, &[first, (SYN | ACK, 1, second), (ACK, 0, Some([7, 500_001]))])[2]
        };
        assert_eq!(answers(Some([500_000, 8])), Established);
        assert_eq!(answers(Option::None), SynReceived);
    }

    #[test]
    fn a_spoofed_syn_does_not_reopen_a_half_closed_connection() {
        use TcpState::*;
        let closing = [(SYN | ACK, 1), (ACK, 0)];
        for (fin, state) in [((FIN | ACK, 0), CloseWait), ((FIN | ACK, 1), FinWait)] {
            let after = |more: &[(u8, usize)]| walk_noting(true, &[&closing[..], &[fin], more].concat())[2..].to_vec();
            assert_eq!(after(&[(SYN, 0), (ACK, 1), (ACK, 0)]), [state; 4]);
            assert_eq!(after(&[(SYN | ACK, 0), (SYN | FIN, 0)]), [state; 3]);
            assert_eq!(after(&[(SYN, 0), (SYN | ACK, 1), (ACK, 0)])[1..], [state, SynReceived, Established]);
        }
    }

    #[test]
    fn a_reset_that_was_not_meant_gives_back_what_the_connection_was() {
        use TcpState::*;
        let open = [(SYN | ACK, 1), (ACK, 0)];
        let after = |both, more: &[(u8, usize)]| walk_noting(both, &[&open[..], more].concat())[2..].to_vec();
        assert_eq!(after(true, &[(FIN | ACK, 0), (RST, 0), (ACK, 0)]), [CloseWait, Close, CloseWait]);
        assert_eq!(after(true, &[(FIN | ACK, 1), (RST, 0), (RST, 0), (ACK, 0)]), [FinWait, Close, Close, FinWait]);
        // Half-open it was, and is.
        let s = [(SYN | ACK, 1), (RST | ACK, 0), (ACK, 0), (ACK, 0)];
        assert_eq!(walk_noting(true, &s), [SynReceived, Close, SynReceived, Established]);
        // Nothing but what is established comes back where the server is not seen.
        assert_eq!(after(false, &[(FIN | ACK, 0), (RST, 0), (ACK, 0)]), [FinWait, Close, Close]);
        assert_eq!(walk_noting(false, &[(RST, 0), (ACK, 0)]), [Close, Close]);
    }

    #[test]
    fn a_connection_is_half_open_until_its_server_has_answered() {
        use TcpState::*;
        let blind = [(ACK, 0), (FIN | ACK, 0), (RST, 0), (SYN, 0), (ACK, 0)];
        assert_eq!(walk_noting(true, &blind), [SynReceived; 5]);
        assert_eq!(walk_noting(false, &blind[..2]), [Established, FinWait]);
        // An acknowledgement of the server's is no answer; nor is a refusal.
        let s = [(ACK, 1), (ACK, 0), (SYN | ACK, 1), (ACK, 1), (ACK, 0)];
        assert_eq!(walk_noting(true, &s), [SynReceived, SynReceived, SynReceived, SynReceived, Established]);
        assert_eq!(walk_noting(true, &[(RST | ACK, 1), (ACK, 0)]), [Close, Close]);
        // Who guesses the acknowledgement wrong is refused by the server.
        assert_eq!(walk_noting(true, &[(SYN | ACK, 1), (ACK, 0), (RST, 1), (ACK, 0)])[2..], [Close, Close]);
        // A second connection on the same ports.
        let s = [(SYN | ACK, 1), (ACK, 0), (FIN | ACK, 0), (SYN, 0), (ACK, 0), (SYN | ACK, 1), (ACK, 0)];
        assert_eq!(walk_noting(true, &s)[2..], [CloseWait, CloseWait, CloseWait, SynReceived, Established]);
    }

    #[test]
    fn after_a_reset_another_segment_from_its_side_restores_the_connection() {
        use TcpState::*;
        for both in [false, true] {
            let open = [(SYN | ACK, 1), (ACK, 0)];
            let after = |more: &[(u8, usize)]| walk_noting(both, &[&open[..], more].concat())[2..].to_vec();
            assert_eq!(after(&[(RST, 0), (ACK, 0)]), [Close, Established]);
            assert_eq!(after(&[(RST, 0), (RST, 0), (FIN | ACK, 0), (SYN | ACK, 1)]), [Close; 4]);
        }
        let after =
            |more: &[(u8, usize)]| walk_noting(true, &[&[(SYN | ACK, 1), (ACK, 0)][..], more].concat())[2..].to_vec();
        // What the other side still has on its way does not.
        assert_eq!(after(&[(RST, 0), (ACK, 1), (ACK, 1)]), [Close; 3]);
        assert_eq!(after(&[(RST | ACK, 1), (ACK, 0), (ACK, 1)]), [Close, Close, Established]);
        assert_eq!(after(&[(RST, 0), (RST, 1), (ACK, 0), (ACK, 1)]), [Close, Close, Close, Established]);
    }

    /// Walks a connection through (flags, side) and returns the states on the way.
    fn walk(both: bool, segments: &[(u8, usize)]) -> Vec<TcpState> {
        let mut state = TcpState::None;
        segments
            .iter()
            .map(|&(flags, side)| {
                state = next_state(state, flags, side, both);
                state
            })
            .collect()
    }

    #[test]
    fn a_connection_closed_by_the_client() {
        use TcpState::*;
        let s = [(SYN, 0), (SYN | ACK, 1), (ACK, 0), (ACK, 1), (FIN | ACK, 0), (ACK, 1), (FIN | ACK, 1), (ACK, 0)];
        let want = [SynReceived, SynReceived, Established, Established, CloseWait, CloseWait, LastAck, TimeWait];
        assert_eq!(walk(true, &s), want);
    }

    #[test]
    fn a_connection_closed_by_the_server() {
        use TcpState::*;
        let s = [(SYN, 0), (SYN | ACK, 1), (ACK, 0), (FIN | ACK, 1), (ACK, 0), (FIN | ACK, 0), (ACK, 1)];
        assert_eq!(walk(true, &s), [SynReceived, SynReceived, Established, FinWait, FinWait, TimeWait, TimeWait]);
    }

    #[test]
    fn seen_from_one_side_only() {
        use TcpState::*;
        let s = [(SYN, 0), (ACK, 0), (ACK, 0), (FIN | ACK, 0), (ACK, 0), (RST, 0)];
        assert_eq!(walk(false, &s), [SynReceived, Established, Established, FinWait, FinWait, Close]);
    }

    #[test]
    fn a_closed_connection_gives_way_to_a_new_one_as_soon_as_its_end_is_seen() {
        use TcpState::*;
        let both_sides = [(SYN, 0), (SYN | ACK, 1), (ACK, 0), (FIN | ACK, 0), (FIN | ACK, 1), (ACK, 0)];
        let reopened: Vec<bool> = walk(true, &both_sides).into_iter().map(|s| may_be_reopened(s, true)).collect();
        assert_eq!(reopened, [false, false, false, false, true, true]);
        // The server closes, and waits for the client.
        assert!(!may_be_reopened(FinWait, true));
        let one_side = [(SYN, 0), (ACK, 0), (FIN | ACK, 0), (ACK, 0)];
        let reopened: Vec<bool> = walk(false, &one_side).into_iter().map(|s| may_be_reopened(s, false)).collect();
        assert_eq!(reopened, [false, false, true, true]);
    }

    #[test]
    fn a_reset_closes_and_a_stray_syn_does_not() {
        use TcpState::*;
        assert_eq!(
            walk(true, &[(SYN, 0), (ACK, 0), (SYN, 0), (RST, 1)]),
            [SynReceived, Established, Established, Close]
        );
        assert_eq!(walk(true, &[(SYN, 0), (RST | ACK, 1)]), [SynReceived, Close]);
    }
}
