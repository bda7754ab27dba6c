//! The largest packet that every server has room for that a service's rules can choose: no client may be promised more, since
//! which server it gets is not known when its SYN is answered (SPLICING, Handshake with the client).

use crate::content::Content;
use crate::matching::Action;
use crate::snapshot::{Forward, NextHop, Server, Snapshot};
use lcs_dataplane::headers::{ipv4, ipv6};
use std::sync::Arc;

/// By slot of services that are switched by content; worked out when a snapshot or a next hop changes.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Slots of servers that the rules can choose, sorted, and of which rules that is true: a million of them are not walked for each snapshot.
    chosen: Vec<Option<(Arc<Content>, Vec<u16>)>>,
    /// Servers that the rules can choose, sorted: their rows in the next-hop table and what a tunnel adds, bytes.
    servers: Vec<Vec<(u16, u16)>>,
    /// Bytes; `u16::MAX` where nothing is known of any of them.
    packets: Vec<u16>,
}

impl Reach {
    /// Follows a new snapshot, whose next hops are in `hops` already.
    pub(crate) fn install(&mut self, snapshot: &Snapshot, hops: &[NextHop]) {
        self.chosen.resize_with(snapshot.services.len(), || None);
        for (chosen, service) in self.chosen.iter_mut().zip(&snapshot.services) {
            let content = service.as_ref().and_then(|s| s.content.as_ref());
            let same = matches!((&*chosen, content), (Some((old, _)), Some(new)) if Arc::ptr_eq(old, new));
            if !same {
                *chosen = content.map(|content| (Arc::clone(content), chosen_by(content)));
            }
        }
        let server = |slot: &u16| snapshot.servers.get(usize::from(*slot))?.as_ref();
        let paths = |slots: &[u16]| {
            let mut paths: Vec<_> = slots.iter().filter_map(server).map(|s| (s.next_hop, outer(s))).collect();
            paths.sort_unstable();
            paths.dedup();
            paths
        };
        self.servers.clear();
        self.servers.extend(self.chosen.iter().map(|c| c.as_ref().map_or_else(Vec::new, |(_, slots)| paths(slots))));
        self.packets.clear();
        self.packets.extend(self.servers.iter().map(|all| narrowest(all, hops)));
    }

    /// Follows a change of one row of the next hops.
    pub(crate) fn look_at(&mut self, row: u16, hops: &[NextHop]) {
        for (all, packet) in self.servers.iter().zip(&mut self.packets) {
            if all.iter().any(|(r, _)| *r == row) {
                *packet = narrowest(all, hops);
            }
        }
    }

    /// The largest IP packet for any server of a service, bytes.
    pub(crate) fn of(&self, service: u16) -> u16 {
        self.packets.get(usize::from(service)).copied().unwrap_or(u16::MAX)
    }
}

/// Slots of the servers that a service's rules can choose, sorted.
fn chosen_by(content: &Content) -> Vec<u16> {
    let (mut slots, mut seen) = (Vec::new(), vec![false; content.groups.len()]);
    for (_, action) in (0..content.program.len() as u32).filter_map(|rule| content.program.rule(rule)) {
        if let Action::Forward { server, .. } = action {
            slots.push(*server);
        }
        // Thousands of rules may share a group.
        if let Some(group) = action.group()
            && let Some(seen) = seen.get_mut(usize::from(group))
            && !std::mem::replace(seen, true)
        {
            slots.extend(content.group(group).map_or(&[][..], |g| &g.servers));
        }
    }
    slots.sort_unstable();
    slots.dedup();
    slots
}

fn narrowest(servers: &[(u16, u16)], hops: &[NextHop]) -> u16 {
    // What was never resolved is not known, and will be said.
    let mtu = |row: u16| hops.get(usize::from(row)).map(|hop| hop.mtu).filter(|&mtu| mtu > 0);
    servers.iter().filter_map(|&(row, outer)| Some(mtu(row)?.saturating_sub(outer))).min().unwrap_or(u16::MAX)
}

/// Bytes that a tunnel puts before packets to a server.
fn outer(server: &Server) -> u16 {
    match (server.forward, server.address.is_ipv6()) {
        (Forward::Tunnel, true) => ipv6::HEADER as u16,
        (Forward::Tunnel, false) => ipv4::HEADER as u16,
        _ => 0,
    }
}
