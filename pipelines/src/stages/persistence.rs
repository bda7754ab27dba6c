//! Persistence: for some time, all connections of one client, or of one network, go to the same server (IPVS's `-p`).
//!
//! Which server that is does not depend on who asks: it is the one whose hash with the client is best, by weight (weighted rendezvous
//! hashing, Thaler and Ravishankar, 1998). A client's connections come to several workers, by its ports, and so each of them gives it the same
//! server without asking the others; so does another director, and the same one started again. The service's scheduler says
//! only whether weights count (`wrr`, `wlc`) or not (`rr`, `lc`).
//!
//! A *template* keeps the choice through changes of weights and servers: each worker has its own, for the clients that have come to it,
//! until `timeout` after the last connection that it opened. (IPVS keeps it while the connections live, too.) The table is bounded: the template that would
//! end first gives way, and its client goes by the hash again.

use super::schedule::Schedulers;
use crate::snapshot::{NO_SLOT, Persistence, ServerState, Service, Snapshot};
use crate::splice::sticky::{hash_address, suits};
use lcs_dataplane::timer;
use std::net::IpAddr;

/// Templates of one worker at most: 3 MiB, taken when the first service with persistence is published.
const TEMPLATES: usize = 1 << 16;
/// Places where one template may stand.
const WAYS: usize = 8;
/// Places looked at for templates whose time is over, each time.
const SWEEP: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Template {
    client: IpAddr,
    service: u16,
    server: u16,
    /// The tick at which it ends.
    ends: u32,
}

/// The templates of one worker.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    places: Vec<Option<Template>>,
    /// By service slot.
    counts: Vec<u32>,
    /// Where the search for those that have ended goes on.
    hand: usize,
}

/// Whether a time has come; times are less than half the ticks' range apart.
fn is_over(ends: u32, now: u32) -> bool {
    now.wrapping_sub(ends) <= u32::MAX / 2
}

/// Chooses a server for a new connection of `client` to the service in `slot`; [`NO_SLOT`] when none takes any.
pub(crate) fn choose(
    templates: &mut Templates,
    schedulers: &Schedulers,
    snapshot: &Snapshot,
    (slot, service, persistence): (u16, &Service, &Persistence),
    client: IpAddr,
    now: u32,
) -> u16 {
    let client = persistence.client(client);
    let key = hash_address(client);
    // A server of weight 0 keeps its clients, as with IPVS; one that drains, is down or was removed does not.
    let may_stay = |s: u16| {
        let server = snapshot.servers.get(usize::from(s)).and_then(Option::as_ref);
        server.is_some_and(|server| server.service == slot && server.state == ServerState::Up)
    };
    let server = match templates.find(key, client, slot, now).filter(|s| may_stay(*s)) {
        Some(server) => server,
        None => best(schedulers, snapshot, service, key),
    };
    if server != NO_SLOT {
        let ends = now.wrapping_add(timer::ticks(persistence.timeout));
        templates.put(key, Template { client, service: slot, server, ends }, now);
    }
    server
}

/// The server that suits a client best, each as often as its weight says: the one with the least −ln(h) / weight, for a hash h between 0 and 1.
fn best(schedulers: &Schedulers, snapshot: &Snapshot, service: &Service, key: u64) -> u16 {
    let mut best = (f64::INFINITY, NO_SLOT);
    for s in &service.servers {
        let weight = schedulers.weight(service.scheduler, *s);
        let Some(server) = snapshot.servers.get(usize::from(*s)).and_then(Option::as_ref).filter(|_| weight > 0) else {
            continue;
        };
        let hash = ((suits(key, server) >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let cost = -hash.ln() / f64::from(weight);
        if best.1 == NO_SLOT || cost < best.0 {
            best = (cost, *s);
        }
    }
    best.1
}

impl Templates {
    /// Follows a new snapshot, in which the server slots in `gone` have changed hands.
    pub(crate) fn install(&mut self, snapshot: &Snapshot, gone: &[u16]) {
        self.counts.resize(snapshot.services.len(), 0);
        if self.places.is_empty() && snapshot.services.iter().flatten().any(|s| s.persistence.is_some()) {
            self.places = vec![None; TEMPLATES];
        }
        if !gone.is_empty() {
            for at in 0..self.places.len() {
                if self.places[at].is_some_and(|t| gone.contains(&t.server)) {
                    self.clear(at);
                }
            }
        }
    }

    /// Templates now, by service slot.
    pub(crate) fn counts(&self) -> &[u32] {
        &self.counts
    }

    fn ways(&self, key: u64) -> std::ops::Range<usize> {
        if self.places.is_empty() {
            return 0..0;
        }
        let first = (key >> 20) as usize % (TEMPLATES / WAYS) * WAYS;
        first..first + WAYS
    }

    fn find(&self, key: u64, client: IpAddr, service: u16, now: u32) -> Option<u16> {
        let mut known = self.places.get(self.ways(key))?.iter().flatten();
        known.find(|t| t.client == client && t.service == service && !is_over(t.ends, now)).map(|t| t.server)
    }

    fn put(&mut self, key: u64, template: Template, now: u32) {
        let ways = self.ways(key);
        let same = |t: &Template| t.client == template.client && t.service == template.service;
        let place = ways.clone().find(|at| self.places[*at].as_ref().is_some_and(same)).or_else(|| {
            // A free one, or that which ends first.
            ways.min_by_key(|at| {
                self.places[*at].map_or(0, |t| if is_over(t.ends, now) { 0 } else { t.ends.wrapping_sub(now) })
            })
        });
        let Some(at) = place else { return };
        self.clear(at);
        if let Some(count) = self.counts.get_mut(usize::from(template.service)) {
            *count += 1;
        }
        self.places[at] = Some(template);
    }

    fn clear(&mut self, at: usize) {
        if let Some(t) = self.places[at].take()
            && let Some(count) = self.counts.get_mut(usize::from(t.service))
        {
            *count = count.saturating_sub(1);
        }
    }

    /// Forgets some of those whose time is over.
    pub(crate) fn expire(&mut self, now: u32) {
        if self.places.is_empty() {
            return;
        }
        for at in self.hand..self.hand + SWEEP {
            if self.places[at].is_some_and(|t| is_over(t.ends, now)) {
                self.clear(at);
            }
        }
        self.hand = (self.hand + SWEEP) % TEMPLATES;
    }
}

const _: () = assert!(TEMPLATES.is_multiple_of(SWEEP) && TEMPLATES.is_multiple_of(WAYS));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Forward, Scheduler, Server};
    use std::net::Ipv4Addr;
    use std::time::Duration;

    struct Site {
        snapshot: Snapshot,
        schedulers: Schedulers,
        templates: Templates,
    }

    fn site(scheduler: Scheduler, weights: &[u32], mask4: u8) -> Site {
        let mut snapshot = Snapshot::default();
        snapshot.services.push(Some(Service {
            name: "web".into(),
            address: "198.51.100.1".parse().unwrap(),
            port: 80,
            protocol: 6,
            scheduler,
            servers: (0..weights.len() as u16).collect(),
            sources: vec![],
            source_ports: (1, 2),
            content: None,
            persistence: Some(Persistence { timeout: Duration::from_secs(10), mask4, mask6: 64 }),
        }));
        for (i, weight) in weights.iter().enumerate() {
            snapshot.servers.push(Some(Server {
                name: format!("s{i}"),
                service: 0,
                address: Ipv4Addr::new(10, 0, 0, i as u8 + 1).into(),
                port: 80,
                forward: Forward::Nat,
                weight: *weight,
                state: ServerState::Up,
                next_hop: 0,
                tunnel_source: None,
            }));
        }
        let mut site = Site { snapshot, schedulers: Schedulers::default(), templates: Templates::default() };
        site.schedulers.install(&Snapshot::default(), &site.snapshot);
        site.templates.install(&site.snapshot, &[]);
        site
    }

    impl Site {
        fn choose(&mut self, client: impl Into<IpAddr>, now: u32) -> u16 {
            let service = self.snapshot.services[0].as_ref().unwrap();
            let of = (0, service, service.persistence.as_ref().unwrap());
            choose(&mut self.templates, &self.schedulers, &self.snapshot, of, client.into(), now)
        }
    }

    fn client(n: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0a01_0000 + n)
    }

    #[test]
    fn every_worker_gives_a_client_the_same_server_and_servers_get_clients_by_weight() {
        let (mut a, mut b) = (site(Scheduler::Wrr, &[3, 1, 0], 32), site(Scheduler::Wrr, &[3, 1, 0], 32));
        let mut tally = [0; 3];
        for n in 0..4000 {
            // They do not see the clients in the same order.
            let chosen = a.choose(client(n), 0);
            b.choose(client(3999 - n), 0);
            assert_eq!(b.choose(client(n), 0), chosen);
            tally[usize::from(chosen)] += 1;
        }
        assert!((2850..=3150).contains(&tally[0]) && tally[2] == 0, "{tally:?}");
        let mut even = site(Scheduler::Rr, &[3, 1], 32);
        let first = (0..4000).filter(|n| even.choose(client(*n), 0) == 0).count();
        assert!((1850..=2150).contains(&first), "{first}");
        assert_eq!(site(Scheduler::Wrr, &[0, 0], 32).choose(client(1), 0), NO_SLOT);
    }

    #[test]
    fn a_template_outlasts_a_change_of_weights_and_ends_with_its_time() {
        let mut s = site(Scheduler::Wrr, &[1, 1], 32);
        let mine = s.choose(client(7), u32::MAX - 20);
        s.schedulers.set_weight(&s.snapshot, mine, 0);
        // Refreshed by each connection: 10 s are 75 ticks.
        assert_eq!(s.choose(client(7), 40), mine);
        assert_eq!(s.choose(client(7), 114), mine);
        assert_eq!(s.templates.counts(), [1]);
        assert_eq!(s.choose(client(7), 190), 1 - mine);
        // Who drains gives his clients away at once.
        s.schedulers.set_weight(&s.snapshot, mine, 1);
        s.snapshot.servers[usize::from(1 - mine)].as_mut().unwrap().state = ServerState::Draining;
        s.schedulers.install(&Snapshot::default(), &s.snapshot);
        assert_eq!(s.choose(client(7), 191), mine);
        s.templates.install(&s.snapshot.clone(), &[mine]);
        assert_eq!(s.templates.counts(), [0]);
    }

    #[test]
    fn a_network_is_one_client() {
        let mut s = site(Scheduler::Wrr, &[1, 1, 1, 1], 24);
        let all: Vec<u16> = (0..256).map(|n| s.choose(client(n), 0)).collect();
        assert!(all.iter().all(|c| *c == all[0]));
        let six = |n: u128| std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | n);
        let one = s.choose(six(1), 0);
        assert!((2..100).all(|n| s.choose(six(n), 0) == one));
        assert_eq!(s.templates.counts(), [2]);
    }

    #[test]
    fn the_table_is_bounded_and_forgets() {
        let mut s = site(Scheduler::Wrr, &[1, 1], 32);
        for n in 0..2 * TEMPLATES as u32 {
            s.choose(client(n), n >> 12);
        }
        let full = s.templates.counts()[0];
        assert!(full as usize <= TEMPLATES && full as usize > TEMPLATES / 2, "{full}");
        for _ in 0..TEMPLATES / SWEEP {
            s.templates.expire(1000);
        }
        assert_eq!((s.templates.counts()[0], s.templates.places.iter().flatten().count()), (0, 0));
    }
}
