//! How every frame ends: one verdict each, and for a drop one reason that a user can look up.

use core::fmt;
use serde::{Deserialize, Serialize};

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame was dropped. Counted per worker; the name is what `lcs stats` prints.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// The reason's name in commands and reports.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One sentence for a user: what happened, and what to do where something can be done.
            pub const fn explanation(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+).trim_ascii_start(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends before its headers do.
    Truncated = "truncated",
    /// A header field contradicts itself: version, header length, total length or extension chain.
    BadHeader = "bad-header",
    /// The IPv4 header checksum is wrong.
    BadIpChecksum = "bad-ip-checksum",
    /// A source address that no host may send from (multicast, loopback, unspecified, or our own).
    BadSource = "bad-source",
    /// The TTL or hop limit is used up.
    TtlExpired = "ttl-expired",
    /// Not for a virtual service, and no kernel behind this port to hand it to.
    NotForUs = "not-for-us",
    /// It is the kernel's, which was given more such frames than may be at once or a second, or has no device to take them (see `lcs stats`).
    KernelBusy = "kernel-busy",
    /// A protocol other than TCP and UDP to a service address, and no kernel behind this port to hand it to.
    Protocol = "protocol",
    /// TCP that belongs to no known connection and opens none: the connection timed out here, or was opened elsewhere.
    NoFlow = "no-flow",
    /// The service has no server that is up with a weight above 0.
    NoServer = "no-server",
    /// The flow table is at its configured size (`workers.flows`) and the policy is to refuse.
    FlowTableFull = "flow-table-full",
    /// No place in the flow index near the connection's hash; the table is as good as full.
    FlowIndexFull = "flow-index-full",
    /// The client's address and port are in use toward the chosen server by another of its connections.
    TupleInUse = "tuple-in-use",
    /// Full NAT has no free source port toward the chosen server; add source addresses.
    PortsExhausted = "ports-exhausted",
    /// The next hop's link-layer address did not become known in three seconds (no neighbour entry), or more wait for it than may.
    NextHopUnresolved = "next-hop-unresolved",
    /// More link-layer neighbours than the worker keeps.
    NextHopTableFull = "next-hop-table-full",
    /// The packet exceeds the path's MTU; the sender was not told because the rate limit on ICMP was reached, or it may not be told.
    TooBig = "too-big",
    /// No room in front of the frame for the tunnel header.
    NoHeadroom = "no-headroom",
    /// No free buffer in the port's pool.
    NoBuffer = "no-buffer",
    /// A later fragment whose first fragment did not come within three seconds, or was dropped.
    FragmentUnknown = "fragment-unknown",
    /// The table of fragmented packets is at its bound.
    FragmentTableFull = "fragment-table-full",
    /// A first fragment too short for the transport header (RFC 1858), or a fragment of a packet that was never whole.
    BadFragment = "bad-fragment",
    /// Content switching: a fragment, of a connection whose every byte must be seen in order. Its sender's path is narrower than its MSS: lower `mss` of the service, or let ICMP `fragmentation needed` through on that path.
    SplicedFragment = "spliced-fragment",
    /// An ICMP error whose embedded packet is truncated or belongs to no connection of ours.
    IcmpUnrelated = "icmp-unrelated",
    /// An ICMP message that is cut short or whose checksum is wrong.
    BadIcmp = "bad-icmp",
    /// A neighbour-discovery or ARP packet that is malformed.
    BadNeighbour = "bad-neighbour",
    /// The transmit ring is full: the device is slower than the worker.
    TransmitFull = "transmit-full",
    /// The ring to the worker that owns the connection is full.
    HandoverFull = "handover-full",
    /// The TCP checksum is wrong, in a segment that the director would have acted on.
    BadTcpChecksum = "bad-tcp-checksum",
    /// A segment whose numbers can't be right at this point of its connection; where the peer may be confused it was told.
    OutOfWindow = "out-of-window",
    /// Content switching: data after a gap, where every byte must be seen. Its sender will send it again.
    OutOfOrder = "out-of-order",
    /// Content switching: more connections are being bound than may be at once.
    RequestsFull = "requests-full",
    /// Content switching: where a message ends can be read in two ways, or bytes came that nobody asked for; both sides were reset.
    BadFraming = "bad-framing",
    /// A message between director and filter that was not made with the key, or is of no session: give both the same `filter-key`.
    BadMigration = "bad-migration",
    /// A message between director and filter that was had before, or is too old to tell: repeated by the network, or by an attacker.
    StaleMigration = "stale-migration",
    /// The frame's transport checksum is not complete (offload at the sender) and cannot be completed; run `ethtool -K IF tx off` at the sender's end.
    PartialChecksum = "partial-checksum",
}

impl DropReason {
    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.name() == name)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for DropReason {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DropReason {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        Self::from_name(&name).ok_or_else(|| serde::de::Error::custom(format!("unknown drop reason {name:?}")))
    }
}

/// What becomes of a frame. Exactly one for each frame of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it on the interface in [`crate::Batch::tx`].
    Forward,
    /// It was for the director itself and has been dealt with.
    Consume,
    /// Hand it to the kernel behind the port.
    Kernel,
    /// Hand it over to the worker in [`crate::Batch::tx`], which owns the connection.
    HandOver,
    /// Kept by the pipeline, which has taken it out of the batch and brings it back ([`crate::worker::Pipeline::released`]).
    Hold,
    /// Drop it, and count why.
    Drop(DropReason),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Forward => f.write_str("forward"),
            Verdict::Consume => f.write_str("consume"),
            Verdict::Kernel => f.write_str("kernel"),
            Verdict::HandOver => f.write_str("hand-over"),
            Verdict::Hold => f.write_str("hold"),
            Verdict::Drop(reason) => write!(f, "drop ({reason})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own_and_a_sentence() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert_eq!(DropReason::from_name(reason.name()), Some(*reason));
            assert!(reason.explanation().ends_with('.') || reason.explanation().contains('`'), "{reason}");
        }
        assert_eq!(core::mem::size_of::<Verdict>(), 1);
    }
}
