//! What is still to be said to servers whose guessed connections were forgotten: by a time-out, or because they had to give way.
//! Such a server would wait for a request that never comes.

use super::Entry;
use lcs_dataplane::flow::{Addresses, Flow, FlowFlags, Key, Place, TcpState};

/// Kept between two batches at most; what is more is not said.
const MOST: usize = 1024;

/// A reset to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Farewell {
    /// From the client's endpoint, or the director's, to the server's or the service's.
    pub(crate) key: Key,
    /// Row of the next hop, and the server.
    pub(crate) hop: u16,
    pub(crate) server: u16,
    /// It goes through a tunnel.
    pub(crate) tunnel: bool,
    /// The number that the server expects, and the next one of its own, if that is known.
    pub(crate) seq: u32,
    pub(crate) ack: Option<u32>,
}

/// Those that are to be sent.
#[derive(Debug, Default)]
pub(crate) struct Farewells(Vec<Farewell>);

impl Farewells {
    /// Notes one for a flow that is about to be forgotten, if its server was guessed and has nothing but a handshake.
    pub(crate) fn note(&mut self, flow: &Flow, keys: Option<Addresses>, e: &Entry) {
        let waits = matches!(flow.state, TcpState::SynReceived | TcpState::Established) && !e.is_leg;
        let (Some(keys), true, true) = (keys, waits, self.0.len() < MOST) else { return };
        let attached = flow.flags.has(FlowFlags::TRANSLATED);
        let unanswered = flow.state == TcpState::SynReceived && e.binding == super::NIL && !e.response_known;
        let key = if e.is_direct() {
            (flow.server != crate::snapshot::NO_SLOT).then_some(keys.client)
        } else if attached && (unanswered || e.is_guess()) {
            keys.server.map(|back| back.reversed())
        } else {
            None
        };
        let ack = (attached && !unanswered).then_some(e.offsets.limit[Place::SERVER]);
        let seq = e.numbers[0].wrapping_add(1);
        let tunnel = flow.flags.has(FlowFlags::TUNNEL);
        let (hop, server) = (flow.next_hop(Place::SERVER), flow.server);
        self.0.extend(key.map(|key| Farewell { key, hop, server, tunnel, seq, ack }));
    }

    /// The next one to send.
    pub(crate) fn next(&mut self) -> Option<Farewell> {
        self.0.pop()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
