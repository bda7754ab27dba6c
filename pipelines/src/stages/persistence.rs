//! Persistence: for some time, all connections of one client, or of one network, go to the same server (IPVS's `-p`).
//!
//! Which server that is does not depend on who asks: it is the one whose hash with the client is best, by weight (weighted rendezvous
//! hashing, Thaler and Ravishankar, 1998). A client's connections come to several workers, by its ports, and so each of them gives it the same
//! server without asking the others; so does another director, and the same one started again. The service's scheduler says
//! only whether weights count (`wrr`, `wlc`) or not (`rr`, `lc`).
//!
//! A *template* keeps the choice through changes of weights and servers, until `timeout` after the last connection that its client has
//! opened. (IPVS keeps it while the connections live, too.) All workers share the templates, as words that are read and written whole: whoever
//! chose last is right, and nobody waits for anybody. The table is bounded: of eight places where a template may stand, the
//! one that would end first gives way, and its client goes by the hash again. A word says who the client is in 29 bits of a hash: of as many clients
//! as there is room for, one in some thousands finds another one's template, and goes where that one goes.

use super::schedule::Schedulers;
use crate::snapshot::{NO_SLOT, Persistence, ServerState, Service, Snapshot};
use crate::splice::sticky::{hash, hash_address, suits};
use lcs_dataplane::timer;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Templates at most: 512 KiB, taken when the first service with persistence is published.
const TEMPLATES: usize = 1 << 16;
/// Places where one template may stand: a cache line.
const WAYS: usize = 8;

/// The templates of all workers. A word is 0, or who the client is (16 bits), its server's slot and one (16), and the tick at which it ends (32).
#[derive(Debug, Default)]
pub(crate) struct Templates(OnceLock<Box<[AtomicU64]>>);

/// A template that is to be put when the connection is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Template {
    key: u64,
    server: u16,
    ends: u32,
}

impl Template {
    fn word(&self) -> u64 {
        self.key >> 48 << 48 | u64::from(self.server + 1) << 32 | u64::from(self.ends)
    }
}

/// Server and end of a word that is not 0.
fn parts(word: u64) -> Option<(u16, u32)> {
    Some((((word >> 32) as u16).checked_sub(1)?, word as u32))
}

/// Whether a time has come; times are less than half the ticks' range apart.
fn is_over(ends: u32, now: u32) -> bool {
    now.wrapping_sub(ends) <= u32::MAX / 2
}

/// Chooses a server for a new connection of `client` to the service in `slot`, and says what to [`Templates::put`] when the connection is
/// there; `None` when no server takes any.
pub(crate) fn choose(
    templates: &Templates,
    schedulers: &Schedulers,
    snapshot: &Snapshot,
    (slot, service, persistence): (u16, &Service, &Persistence),
    client: IpAddr,
    now: u32,
) -> Option<(u16, Template)> {
    let client = hash_address(persistence.client(client));
    // A server of weight 0 keeps its clients, as with IPVS; one that drains, is down or was removed does not.
    let may_stay = |s: u16| {
        let server = snapshot.servers.get(usize::from(s)).and_then(Option::as_ref);
        server.is_some_and(|server| server.service == slot && server.state == ServerState::Up)
    };
    let key = hash(&[&client.to_ne_bytes()[..], &slot.to_ne_bytes()].concat());
    let server = match templates.find(key, now).filter(|s| may_stay(*s)) {
        Some(server) => server,
        None => best(schedulers, snapshot, service, client),
    };
    let ends = now.wrapping_add(timer::ticks(persistence.timeout));
    (server != NO_SLOT).then_some((server, Template { key, server, ends }))
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
    pub(crate) fn install(&self, snapshot: &Snapshot, gone: &[u16]) {
        if snapshot.services.iter().flatten().any(|s| s.persistence.is_some()) {
            self.0.get_or_init(|| (0..TEMPLATES).map(|_| AtomicU64::new(0)).collect());
        }
        if gone.is_empty() {
            return;
        }
        let mut is_gone = vec![false; usize::from(u16::MAX) + 1];
        gone.iter().for_each(|slot| is_gone[usize::from(*slot)] = true);
        for place in self.words() {
            let word = place.load(Relaxed);
            if parts(word).is_some_and(|(server, _)| is_gone[usize::from(server)]) {
                // What another worker has put there since stays.
                let _ = place.compare_exchange(word, 0, Relaxed, Relaxed);
            }
        }
    }

    fn words(&self) -> &[AtomicU64] {
        self.0.get().map_or(&[], |words| words)
    }

    /// Templates now, by service slot. Reads all of them.
    pub(crate) fn count(&self, snapshot: &Snapshot, now: u32, counts: &mut Vec<u32>) {
        counts.clear();
        counts.resize(snapshot.services.len(), 0);
        for (server, _) in self.words().iter().filter_map(|w| parts(w.load(Relaxed))).filter(|(_, e)| !is_over(*e, now))
        {
            let server = snapshot.servers.get(usize::from(server)).and_then(Option::as_ref);
            if let Some(count) = server.and_then(|s| counts.get_mut(usize::from(s.service))) {
                *count += 1;
            }
        }
    }

    fn ways(&self, key: u64) -> &[AtomicU64] {
        let first = (key >> 20) as usize % (TEMPLATES / WAYS) * WAYS;
        self.words().get(first..first + WAYS).unwrap_or(&[])
    }

    fn find(&self, key: u64, now: u32) -> Option<u16> {
        let known = self.ways(key).iter().map(|w| w.load(Relaxed)).filter(|w| w >> 48 == key >> 48);
        known.filter_map(parts).find(|(_, ends)| !is_over(*ends, now)).map(|(server, _)| server)
    }

    /// Keeps a choice, for every worker.
    pub(crate) fn put(&self, template: &Template, now: u32) {
        // Its own place, else a free one, else that which ends first.
        let rank = |place: &&AtomicU64| match place.load(Relaxed) {
            word if word != 0 && word >> 48 == template.key >> 48 => 0,
            word => match parts(word) {
                Some((_, ends)) if !is_over(ends, now) => u64::from(ends.wrapping_sub(now)) + 2,
                _ => 1,
            },
        };
        if let Some(place) = self.ways(template.key).iter().min_by_key(rank) {
            place.store(template.word(), Relaxed);
        }
    }
}

const _: () = assert!(TEMPLATES.is_multiple_of(WAYS));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Forward, Scheduler, Server};
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;

    struct Site {
        snapshot: Snapshot,
        schedulers: Schedulers,
        templates: Arc<Templates>,
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
        let mut site = Site { snapshot, schedulers: Schedulers::default(), templates: Arc::default() };
        site.schedulers.install(&Snapshot::default(), &site.snapshot);
        site.templates.install(&site.snapshot, &[]);
        site
    }

    impl Site {
        fn choose(&mut self, client: impl Into<IpAddr>, now: u32) -> u16 {
            let service = self.snapshot.services[0].as_ref().unwrap();
            let of = (0, service, service.persistence.as_ref().unwrap());
            let chosen = choose(&self.templates, &self.schedulers, &self.snapshot, of, client.into(), now);
            chosen.map_or(NO_SLOT, |(server, template)| {
                self.templates.put(&template, now);
                server
            })
        }

        fn count(&self, now: u32) -> u32 {
            let mut counts = vec![];
            self.templates.count(&self.snapshot, now, &mut counts);
            counts[0]
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
        assert_eq!(s.count(114), 1);
        assert_eq!(s.choose(client(7), 190), 1 - mine);
        // Who drains gives his clients away at once.
        s.schedulers.set_weight(&s.snapshot, mine, 1);
        s.snapshot.servers[usize::from(1 - mine)].as_mut().unwrap().state = ServerState::Draining;
        s.schedulers.install(&Snapshot::default(), &s.snapshot);
        assert_eq!(s.choose(client(7), 191), mine);
        s.templates.install(&s.snapshot.clone(), &[mine]);
        assert_eq!(s.count(191), 0);
    }

    #[test]
    fn what_one_worker_has_chosen_holds_for_the_others() {
        let (mut a, mut b) = (site(Scheduler::Wrr, &[1, 1, 1], 32), site(Scheduler::Wrr, &[1, 1, 1], 32));
        b.templates = a.templates.clone();
        for n in 0..200 {
            let chosen = a.choose(client(n), 5);
            // Both are told, and it would choose another one now.
            for site in [&mut a, &mut b] {
                site.schedulers.set_weight(&site.snapshot, chosen, 0);
            }
            assert_eq!(b.choose(client(n), 6), chosen);
            assert_ne!(b.choose(client(n), 6 + 76), chosen, "its time is over");
            for site in [&mut a, &mut b] {
                site.schedulers.set_weight(&site.snapshot, chosen, 1);
            }
        }
    }

    #[test]
    fn a_choice_of_which_nothing_came_is_not_kept() {
        let mut s = site(Scheduler::Wrr, &[1, 1], 32);
        let service = s.snapshot.services[0].clone().unwrap();
        let of = (0, &service, service.persistence.as_ref().unwrap());
        assert!(choose(&s.templates, &s.schedulers, &s.snapshot, of, client(1).into(), 0).is_some());
        assert_eq!(s.count(0), 0);
        s.choose(client(1), 0);
        assert_eq!(s.count(0), 1);
    }

    #[test]
    fn a_network_is_one_client() {
        let mut s = site(Scheduler::Wrr, &[1, 1, 1, 1], 24);
        let all: Vec<u16> = (0..256).map(|n| s.choose(client(n), 0)).collect();
        assert!(all.iter().all(|c| *c == all[0]));
        let six = |n: u128| std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | n);
        let one = s.choose(six(1), 0);
        assert!((2..100).all(|n| s.choose(six(n), 0) == one));
        assert_eq!(s.count(0), 2);
    }

    #[test]
    fn the_table_is_bounded_and_forgets() {
        let mut s = site(Scheduler::Wrr, &[1, 1], 32);
        for n in 0..2 * TEMPLATES as u32 {
            s.choose(client(n), n >> 12);
        }
        let full = s.count(31);
        assert!(full as usize <= TEMPLATES && full as usize > TEMPLATES / 2, "{full}");
        assert_eq!(s.count(1000), 0);
    }
}
