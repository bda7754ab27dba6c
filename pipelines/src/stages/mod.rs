//! The stages, in the order in which a packet meets them. One file each.
//!
//! | stage | what it decides |
//! |---|---|
//! | [`classify`] | what the frame is; whose it is; the hash of its connection |
//! | [`lookup`] | which known connection it belongs to |
//! | [`schedule`] | which server a new connection gets |
//! | `persistence` | which one, where a client keeps its server |
//! | [`exceptions`] | ICMP, later fragments, ARP and neighbour discovery |
//! | `bind` | services with rules: the handshake, the request, the server's side, and where messages end |
//! | [`forward`] | what is rewritten (`translate`), and where the frame goes |
//! | `fragmentation` | what exceeds its next hop's MTU and may be cut |
//! | `hold` | what waits for its next hop's address, or for its first fragment, and comes again |
//!
//! `reach` says how large a packet all of a service's servers have room for.
//!
//! [`connection`] is what they share: a worker's connections, their counts and time-outs; `state` says what a segment makes of a connection.

pub(crate) mod bind;
pub mod classify;
pub mod connection;
pub(crate) mod decapsulate;
pub mod exceptions;
pub mod forward;
pub mod fragment;
pub(crate) mod fragmentation;
pub(crate) mod hold;
pub mod icmp;
pub(crate) mod link;
pub mod lookup;
pub mod neighbour;
pub(crate) mod persistence;
pub(crate) mod reach;
pub mod schedule;
pub(crate) mod state;
mod translate;
pub mod tunnel;
