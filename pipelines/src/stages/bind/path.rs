//! ICMP errors about segments that the director itself has sent: it is their TCP, so it must act on them.
//!
//! An error is believed if it embeds a number that is on its way (RFC 5927 §4.1). What it changes shows at the next
//! time-out of the binding, which is set to now.

use super::super::connection::Connections;
use super::super::icmp::PathError;
use crate::splice::{Binding, Phase};
use lcs_dataplane::flow::{FlowFlags, Place, TcpState};

/// No path is taken to carry less than this, whatever a router says (RFC 1191 §7.1: the lowest plateau in use), bytes.
const LEAST_MTU: u32 = 296;
/// IPv6 links carry at least this (RFC 8200 §5), bytes.
const LEAST_MTU_V6: u32 = 1280;

/// Acts on an error about a segment to `place`'s side with sequence number `seq`. Returns whether it was the director's own
/// segment; if not, the error is for the other end.
pub(crate) fn told(c: &mut Connections, place: Place, seq: Option<u32>, error: PathError) -> bool {
    let flow = c.table.get(place.flow());
    let (entry, v6) = (place.flow(), flow.is_v6());
    let attached = flow.flags.has(FlowFlags::TRANSLATED);
    let half_open = flow.state == TcpState::SynReceived;
    let Some(seq) = seq else { return false };
    if c.splices.get(entry).is_leg {
        // It is silent; what happened to a probe or an acknowledgement is no client's concern.
        return true;
    }
    let Some(mut b) = c.splices.take(entry) else {
        let e = c.splices.get(entry);
        let of_guess = half_open && attached && !e.response_known && place.side() == Place::SERVER;
        if of_guess && seq == e.numbers[0] && matches!(error, PathError::Unreachable) {
            // Another server may do: the client's SYN, sent again, is answered by the director.
            let flow = c.table.get_mut(place.flow());
            flow.last_seen = flow.last_seen.wrapping_sub(super::guess::UNANSWERED);
        }
        return of_guess;
    };
    let e = *c.splices.get(entry);
    let mss = |mtu: u32| {
        let headers = if v6 { 60 } else { 40 };
        let least = if v6 { LEAST_MTU_V6 } else { LEAST_MTU };
        u16::try_from(mtu.max(least) - headers).unwrap_or(u16::MAX)
    };
    let own = if place.side() == Place::SERVER {
        match (b.phase, error) {
            (Phase::Connect, PathError::Unreachable)
                if attached && seq == e.offsets.seq(Place::CLIENT, b.start.wrapping_sub(1)) =>
            {
                b.retries = u8::MAX;
                b.now();
                true
            }
            // Nothing else has been sent to it: an error about another number is old or forged.
            (Phase::Connect, _) => true,
            (Phase::Deliver | Phase::Replay, _) if attached => {
                let first = e.offsets.seq(Place::CLIENT, b.start.wrapping_add(b.delivered as u32));
                let own = u64::from(seq.wrapping_sub(first)) < b.sent.saturating_sub(b.delivered);
                if let PathError::TooBig(mtu) = error
                    && own
                    && mss(mtu) < b.server_mss
                {
                    b.server_mss = mss(mtu);
                    c.splices.get_mut(entry).server_mss = b.server_mss;
                    b.now();
                }
                own
            }
            _ => false,
        }
    } else {
        let own = (seq.wrapping_sub(b.out_start) as usize) < b.out_sent;
        if let PathError::TooBig(mtu) = error
            && own
            && mss(mtu) < e.client_mss
        {
            c.splices.get_mut(entry).client_mss = mss(mtu);
            if b.phase != Phase::Connect {
                b.now();
            }
        }
        own
    };
    c.splices.put(b);
    own
}

impl Binding {
    /// Sends again at the next opportunity, as if the time-out were over.
    fn now(&mut self) {
        self.resend_at = 0;
    }
}
