//! What guesses go by: which rule took the last request of a client, and which rules take most requests.
//!
//! Both are bounded and forget: a client by another one that falls on its place, a rule by others that are asked for more.
//! What is remembered is the rule, not the server: the rule's group balances over its servers whether or not it was guessed.

use crate::snapshot::SLOTS;
use crate::splice::sticky::hash;

/// Clients that one worker remembers: 512 KiB.
const CLIENTS: usize = 1 << 15;
/// Rules that are counted of one service: those that most requests are for are among them (Metwally, Agrawal and El
/// Abbadi, *Space-Saving*, 2005).
const COUNTED: usize = 16;
/// After so many requests what was counted before counts half.
const HALF_LIFE: u32 = 4096;

/// The rules that most requests of late were for.
#[derive(Debug, Clone, Copy)]
struct Frequent {
    /// How often the service's rules had been replaced.
    rules: u32,
    seen: u32,
    counts: [(u32, u32); COUNTED],
}

impl Frequent {
    fn new(rules: u32) -> Self {
        Frequent { rules, seen: 0, counts: [(u32::MAX, 0); COUNTED] }
    }

    fn count(&mut self, rule: u32) {
        let place = match self.counts.iter().position(|c| c.0 == rule) {
            Some(at) => at,
            None => (0..COUNTED).min_by_key(|&at| self.counts[at].1).unwrap_or(0),
        };
        self.counts[place].0 = rule;
        self.counts[place].1 += 1;
        self.seen += 1;
        if self.seen >= HALF_LIFE {
            self.seen = 0;
            self.counts.iter_mut().for_each(|c| c.1 /= 2);
        }
    }

    fn most(&self) -> Option<u32> {
        self.counts.iter().filter(|c| c.1 > 0).max_by_key(|c| c.1).map(|c| c.0)
    }
}

/// What one worker remembers of decisions.
#[derive(Debug, Default)]
pub(crate) struct Guesses {
    /// A client's key and the rule; the key says which service, and how often its rules had been replaced.
    clients: Vec<(u64, u32)>,
    /// By service slot.
    frequent: Vec<Option<Box<Frequent>>>,
}

fn key(client: u64, service: u16, rules: u32) -> u64 {
    let mut bytes = [0; 14];
    bytes[..8].copy_from_slice(&client.to_ne_bytes());
    bytes[8..10].copy_from_slice(&service.to_ne_bytes());
    bytes[10..].copy_from_slice(&rules.to_ne_bytes());
    hash(&bytes)
}

impl Guesses {
    /// Makes room, for a service that guesses.
    pub(crate) fn reserve(&mut self, service: usize) {
        if self.clients.is_empty() {
            self.clients = vec![(0, 0); CLIENTS];
        }
        if self.frequent.len() <= service.min(SLOTS) {
            self.frequent.resize_with(service + 1, || None);
        }
        if let Some(place) = self.frequent.get_mut(service) {
            place.get_or_insert_with(|| Box::new(Frequent::new(0)));
        }
    }

    /// A rule has taken a request of a client, known by the hash of its address.
    pub(crate) fn learn(&mut self, client: u64, service: u16, rules: u32, rule: u32) {
        let Some(frequent) = self.frequent.get_mut(usize::from(service)).and_then(Option::as_mut) else { return };
        if frequent.rules != rules {
            **frequent = Frequent::new(rules);
        }
        frequent.count(rule);
        let key = key(client, service, rules);
        if let Some(place) = self.clients.get_mut(key as usize % CLIENTS) {
            *place = (key, rule);
        }
    }

    /// The rule that took this client's last request.
    pub(crate) fn last(&self, client: u64, service: u16, rules: u32) -> Option<u32> {
        let key = key(client, service, rules);
        self.clients.get(key as usize % CLIENTS).filter(|place| place.0 == key).map(|place| place.1)
    }

    /// The rule that most requests of late were for.
    pub(crate) fn most(&self, service: u16, rules: u32) -> Option<u32> {
        let frequent = self.frequent.get(usize::from(service))?.as_ref()?;
        frequent.most().filter(|_| frequent.rules == rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_of_a_client_and_the_most_frequent_one_are_known_until_the_rules_change() {
        let mut g = Guesses::default();
        g.learn(1, 3, 1, 5);
        assert_eq!((g.last(1, 3, 1), g.most(3, 1)), (None, None), "the service does not guess");
        g.reserve(3);
        for n in 0..100_000u64 {
            // Rule 7 takes a third of them, the others change from time to time.
            g.learn(n % 50, 3, 1, if n % 3 == 0 { 7 } else { 100 + (n % 200) as u32 });
        }
        g.learn(9, 3, 1, 11);
        assert_eq!((g.last(9, 3, 1), g.most(3, 1)), (Some(11), Some(7)));
        assert_eq!((g.last(77, 3, 1), g.last(9, 3, 2), g.most(3, 2)), (None, None, None));
        // What is asked for changes, and so does the guess.
        for _ in 0..20_000 {
            g.learn(9, 3, 1, 12);
        }
        assert_eq!(g.most(3, 1), Some(12));
        g.learn(9, 3, 2, 1);
        assert_eq!((g.most(3, 2), g.most(3, 1)), (Some(1), None));
    }
}
