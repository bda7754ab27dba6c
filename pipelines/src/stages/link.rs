//! The link layer: whether a frame is for the director at all, and where answers to on-link clients go.

use super::classify::Classified;
use super::connection::{CONTROL_ROWS, Connections, ROWS};
use super::exceptions::kernel_or;
use crate::snapshot::{Interface, NextHop};
use hashbrown::HashMap;
use lcs_dataplane::batch::{Batch, Places};
use lcs_dataplane::flow::Place;
use lcs_dataplane::headers::{Kind, MacAddr, ethernet, icmp};
use lcs_dataplane::{BURST, DropReason, Verdict};

/// Full batches of which one is looked at for clients that have moved.
const SAMPLE: u32 = 16;

/// The destination that frames of an interface must have, in the low 48 bits; a mask of 0 takes any.
#[derive(Debug, Clone, Copy, Default)]
struct Own {
    address: u64,
    mask: u64,
}

/// The director's link-layer addresses, by interface.
#[derive(Debug)]
pub(crate) struct OwnAddresses(Box<[Own; 256]>);

impl Default for OwnAddresses {
    fn default() -> Self {
        OwnAddresses(Box::new([Own::default(); 256]))
    }
}

impl OwnAddresses {
    /// Takes them from a snapshot. An interface that it does not know, or whose address is zero, takes every frame.
    pub(crate) fn install(&mut self, interfaces: &[Interface]) {
        self.0.fill(Own::default());
        for (own, interface) in self.0.iter_mut().zip(interfaces).filter(|(_, i)| !i.mac.is_zero()) {
            let [a, b, c, d, e, f] = interface.mac.0;
            *own = Own { address: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), mask: (1 << 48) - 1 };
        }
    }

    /// Whether a frame that came in on interface `rx` is for another link-layer address.
    #[inline(always)]
    pub(crate) fn is_foreign(&self, rx: u8, frame: &[u8]) -> bool {
        let head = frame.first_chunk::<8>().map_or(0, |h| u64::from_le_bytes(*h));
        let own = self.0[usize::from(rx)];
        (head ^ own.address) & own.mask != 0
    }
}

/// Takes the `foreign` frames (see [`OwnAddresses::is_foreign`]), one bit each, out of the lists. A port in promiscuous mode, or a switch that floods, brings
/// them; forwarding them would duplicate traffic, and in direct routing send a packet round for ever.
/// Group addresses are for ARP and neighbour discovery only (RFC 1812 §5.3.4).
#[inline(never)]
pub(crate) fn refuse(c: &Connections, batch: &mut Batch, out: &mut Classified, foreign: u32) {
    for list in [&mut out.v4, &mut out.v6, &mut out.others] {
        let mut ours = Places::default();
        for i in list.iter() {
            if foreign >> i & 1 == 0 || may_be_ours(batch, i) {
                ours.push(i);
            } else {
                // A kernel with an interface of its own (bridge, capture) sees all; one that is handed what concerns it does not.
                let concerns_kernel =
                    c.settings.capabilities.kernel_answers || ethernet::destination(batch.frames[i].bytes()).is_group();
                let not_ours = Verdict::Drop(DropReason::NotForUs);
                batch.verdict[i] = if concerns_kernel { kernel_or(c, DropReason::NotForUs) } else { not_ours };
            }
        }
        *list = ours;
    }
}

/// Whether a frame that is not for the interface's own address is for us nevertheless.
fn may_be_ours(batch: &Batch, i: usize) -> bool {
    let to = ethernet::destination(batch.frames[i].bytes());
    if to.is_group() {
        let kind = batch.frames[i].bytes().get(usize::from(batch.l4[i])).copied();
        return match batch.kind[i] {
            Kind::Arp => true,
            Kind::Icmp6 => kind == Some(icmp::v6::NEIGHBOUR_SOLICITATION),
            _ => false,
        };
    }
    // A virtual router's address: whoever is its master takes it (RFC 9568 §7.3).
    matches!(to.0, [0, 0, 0x5e, 0, 1 | 2, _])
}

#[derive(Debug, Clone, Copy)]
struct Row {
    neighbour: (u8, MacAddr),
    flows: u32,
    /// On the list of rows that had no flow at some time.
    idle: bool,
}

/// Next hops learned from the frames of clients that no route is for: rows from [`CONTROL_ROWS`] on.
/// A row that no flow uses any more is given to another neighbour when all are taken.
#[derive(Debug)]
pub(crate) struct Learned {
    by_neighbour: HashMap<(u8, MacAddr), u16>,
    rows: Vec<Row>,
    idle: Vec<u16>,
    /// Place of the row that was asked for last: clients behind one router are most.
    last: usize,
    /// Rows at most.
    limit: usize,
}

impl Default for Learned {
    fn default() -> Self {
        Learned::new(ROWS - CONTROL_ROWS)
    }
}

impl Learned {
    fn new(limit: usize) -> Self {
        Learned {
            by_neighbour: HashMap::with_capacity(limit),
            rows: Vec::with_capacity(limit),
            idle: vec![],
            last: 0,
            limit,
        }
    }

    /// The row of a neighbour, and whether it is new to the row; `None` when every row is in use.
    pub(crate) fn row(&mut self, neighbour: (u8, MacAddr)) -> Option<(u16, bool)> {
        if self.rows.get(self.last).is_some_and(|row| row.neighbour == neighbour) {
            return Some(((CONTROL_ROWS + self.last) as u16, false));
        }
        if let Some(row) = self.by_neighbour.get(&neighbour) {
            self.last = usize::from(*row) - CONTROL_ROWS;
            return Some((*row, false));
        }
        let at = if self.rows.len() < self.limit {
            self.rows.push(Row { neighbour, flows: 0, idle: false });
            self.rows.len() - 1
        } else {
            let at = self.unused()?;
            self.by_neighbour.remove(&self.rows[at].neighbour);
            self.rows[at].neighbour = neighbour;
            at
        };
        let row = (CONTROL_ROWS + at) as u16;
        self.by_neighbour.insert(neighbour, row);
        self.set_idle(at);
        Some((row, true))
    }

    fn unused(&mut self) -> Option<usize> {
        while let Some(row) = self.idle.pop() {
            let at = usize::from(row) - CONTROL_ROWS;
            self.rows[at].idle = false;
            if self.rows[at].flows == 0 {
                return Some(at);
            }
        }
        None
    }

    fn set_idle(&mut self, at: usize) {
        if let Some(row) = self.rows.get_mut(at).filter(|r| r.flows == 0 && !r.idle) {
            row.idle = true;
            self.idle.push((CONTROL_ROWS + at) as u16);
        }
    }

    /// A flow answers through this row from now on.
    pub(crate) fn hold(&mut self, row: u16) {
        if let Some(row) = usize::from(row).checked_sub(CONTROL_ROWS).and_then(|at| self.rows.get_mut(at)) {
            row.flows += 1;
        }
    }

    /// A flow no longer answers through this row.
    pub(crate) fn release(&mut self, row: u16) {
        let Some(at) = usize::from(row).checked_sub(CONTROL_ROWS) else { return };
        if let Some(row) = self.rows.get_mut(at) {
            row.flows = row.flows.saturating_sub(1);
            self.set_idle(at);
        }
    }
}

/// Whether [`follow_clients`] is to look at this batch: at every one that is not full, and at one of [`SAMPLE`] full ones.
#[inline]
pub(crate) fn is_looked_at(c: &mut Connections, batch: &Batch) -> bool {
    if batch.len < BURST {
        return true;
    }
    c.full_batches = c.full_batches.wrapping_add(1);
    c.full_batches.is_multiple_of(SAMPLE)
}

/// Lets the answers of flows follow their clients to another link-layer address (a router that failed over, a client that
/// moved).
#[inline]
pub(crate) fn follow_clients(c: &mut Connections, batch: &Batch, hits: &Places) {
    for i in hits.iter() {
        let place = Place(batch.flow[i]);
        let row = c.table.get(place.flow()).next_hop(Place::CLIENT);
        if place.side() != Place::CLIENT || usize::from(row) < CONTROL_ROWS {
            continue;
        }
        let source = ethernet::source(batch.frames[i].bytes());
        let hop = &c.hops[usize::from(row)];
        if hop.addresses[..6] != source.0 || hop.interface != batch.rx[i] {
            moved(c, batch, i, place.flow(), row, source);
        }
    }
}

#[inline(never)]
fn moved(c: &mut Connections, batch: &Batch, i: usize, flow: u32, old: u16, source: MacAddr) {
    if !super::bind::intact(batch, i) {
        // A frame of another client's, its address damaged on the way, must not turn this one's answers aside.
        return;
    }
    let own = ethernet::destination(batch.frames[i].bytes());
    let Some(client) = c.table.keys(flow).map(|k| k.client.source().ip()) else { return };
    if let Ok(row) = c.row_to_client(client, batch.rx[i], source, own) {
        c.table.get_mut(flow).set_next_hop(Place::CLIENT, row);
        c.learned.hold(row);
        c.learned.release(old);
    }
}

impl Connections {
    /// The learned next hop of a neighbour.
    ///
    /// # Errors
    /// [`DropReason::NextHopTableFull`] when every row has flows of other neighbours.
    pub(crate) fn learn(&mut self, interface: u8, source: MacAddr, own: MacAddr) -> Result<u16, DropReason> {
        let (row, new) = self.learned.row((interface, source)).ok_or(DropReason::NextHopTableFull)?;
        if new {
            let mtu = self.snapshot.interfaces.get(usize::from(interface)).map_or(1500, |i| i.mtu);
            self.hops[usize::from(row)] = NextHop::new(source, own, interface, mtu);
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_flows_are_given_to_others_and_rows_with_flows_are_not() {
        let mac = |n: u8| (0, MacAddr([2, 0, 0, 0, 0, n]));
        let mut l = Learned::new(2);
        let (a, new) = l.row(mac(1)).unwrap();
        assert!(new && usize::from(a) == CONTROL_ROWS);
        l.hold(a);
        assert_eq!(l.row(mac(1)), Some((a, false)));
        let (b, _) = l.row(mac(2)).unwrap();
        l.hold(b);
        l.hold(b);
        assert_eq!(l.row(mac(3)), None);
        l.release(b);
        assert_eq!(l.row(mac(3)), None);
        l.release(b);
        assert_eq!(l.row(mac(3)), Some((b, true)));
        l.hold(b);
        assert_eq!(l.row(mac(2)), None);
        assert_eq!(l.row(mac(1)), Some((a, false)));
        // Rows of the control thread are not counted here.
        l.hold(7);
        l.release(7);
        for n in 0..100 {
            l.release(a);
            assert_eq!(l.row(mac(100 + n)).unwrap(), (a, true));
            l.hold(a);
        }
        assert!(l.idle.len() <= 2 && l.by_neighbour.len() == 2);
    }
}
