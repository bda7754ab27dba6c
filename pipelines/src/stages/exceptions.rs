//! Stage 4: what is neither TCP nor UDP, or has no ports: ICMP, later fragments, ARP and neighbour discovery.

use super::classify::addresses_of;
use super::connection::Connections;
use super::{forward, fragment, icmp, neighbour};
use lcs_dataplane::batch::{Batch, Places};
use lcs_dataplane::flow::FlowFlags;
use lcs_dataplane::headers::Kind;
use lcs_dataplane::{DropReason, Verdict};

/// Decides on every frame in `others`.
#[inline(never)]
pub(crate) fn exceptions(c: &mut Connections, batch: &mut Batch, others: Places, now: u32) {
    for i in others.iter() {
        batch.verdict[i] = match batch.kind[i] {
            Kind::Arp => neighbour::arp(c, batch, i),
            Kind::Fragment4 | Kind::Fragment6 => match fragment::follow(c, batch, i) {
                Ok(place) if c.table.get(place.flow()).flags.has(FlowFlags::SPLICED) => {
                    Verdict::Drop(DropReason::SplicedFragment)
                }
                Ok(place) => {
                    batch.flow[i] = place.0;
                    forward::forward_without_ports(c, batch, i, place, now)
                }
                Err(reason) => Verdict::Drop(reason),
            },
            Kind::Icmp4 => icmp::receive_v4(c, batch, i, now),
            Kind::Icmp6 => icmp::receive_v6(c, batch, i, now),
            Kind::Protocol4 | Kind::Protocol6 => not_ours(c, batch, i),
            _ => kernel_or(c, DropReason::NotForUs),
        };
    }
}

/// The kernel where there is one behind the port, or the reason.
pub(crate) fn kernel_or(c: &Connections, reason: DropReason) -> Verdict {
    if c.settings.capabilities.exception_path { Verdict::Kernel } else { Verdict::Drop(reason) }
}

/// A protocol that we don't balance: to a service address it is a protocol that the service does not have.
fn not_ours(c: &Connections, batch: &Batch, i: usize) -> Verdict {
    let own = addresses_of(batch, i).is_some_and(|(_, to)| c.snapshot.own.contains(&to));
    kernel_or(c, if own { DropReason::Protocol } else { DropReason::NotForUs })
}
