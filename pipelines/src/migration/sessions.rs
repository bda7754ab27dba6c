//! A filter's side: which directors speak to it, and which of their messages it has had.
//!
//! A session begins with a ping and has a token of the filter's own, so that nothing which was recorded before the filter
//! started, or before the session was forgotten, counts again. Within a session each number counts once.

use super::message::{ChannelKey, Header};
use hashbrown::HashMap;
use lcs_dataplane::flow::Key;
use lcs_dataplane::worker::Nanos;

/// Numbers below the highest that are still told apart: those before count as had.
const WINDOW: u64 = 1 << 16;
/// Directors' workers, times their services, at most: 8 KiB each.
const SESSIONS: usize = 2048;
/// A session that was silent for so long gives way to another one, nanoseconds.
const SILENT: Nanos = 60_000_000_000;

/// Whether a message was had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Not yet.
    New,
    /// Yes.
    Had,
    /// It is too old to tell.
    Old,
}

/// A director's worker.
#[derive(Debug)]
pub(crate) struct Session {
    token: u64,
    pub(crate) key: ChannelKey,
    /// Packets to it: endpoints, link-layer addresses, interface.
    pub(crate) back: Key,
    pub(crate) link: [u8; 12],
    pub(crate) interface: u8,
    highest: u64,
    had: Vec<u64>,
    heard: Nanos,
}

impl Session {
    fn bit(number: u64) -> (usize, u64) {
        let at = number % WINDOW;
        ((at / 64) as usize, 1 << (at % 64))
    }

    fn freshness(&self, number: u64) -> Freshness {
        if number > self.highest {
            return Freshness::New;
        }
        if self.highest - number >= WINDOW {
            return Freshness::Old;
        }
        let (word, bit) = Self::bit(number);
        if self.had[word] & bit != 0 { Freshness::Had } else { Freshness::New }
    }

    fn mark(&mut self, number: u64) {
        if number > self.highest {
            let ahead = number - self.highest;
            if ahead >= WINDOW {
                self.had.fill(0);
            } else {
                for n in self.highest + 1..number {
                    let (word, bit) = Self::bit(n);
                    self.had[word] &= !bit;
                }
            }
            self.highest = number;
        }
        let (word, bit) = Self::bit(number);
        self.had[word] |= bit;
    }
}

/// The sessions of one filter.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    seed: u64,
    made: u64,
    sessions: HashMap<u64, Session>,
}

impl Sessions {
    pub(crate) fn new(seed: u64) -> Self {
        Sessions { seed, ..Sessions::default() }
    }

    /// A ping has come. Returns the token to answer with, if it is to be answered.
    pub(crate) fn ping(
        &mut self,
        header: &Header,
        key: &ChannelKey,
        (back, link, interface): (Key, [u8; 12], u8),
        now: Nanos,
    ) -> Option<u64> {
        if let Some(s) = self.sessions.get_mut(&header.session) {
            // A repeated ping must not lead answers elsewhere.
            if s.freshness(header.number) != Freshness::New || header.number < s.highest {
                return None;
            }
            s.mark(header.number);
            (s.back, s.link, s.interface, s.heard) = (back, link, interface, now);
            return Some(s.token);
        }
        if self.sessions.len() >= SESSIONS {
            let oldest = self.sessions.iter().min_by_key(|(_, s)| s.heard).map(|(id, s)| (*id, s.heard))?;
            if now.saturating_sub(oldest.1) < SILENT {
                return None;
            }
            self.sessions.remove(&oldest.0);
        }
        self.made += 1;
        let token = super::secret_number(self.seed, &[1, self.made]);
        let had = vec![0; (WINDOW / 64) as usize];
        let mut session = Session { token, key: key.clone(), back, link, interface, highest: 0, had, heard: now };
        session.mark(header.number);
        self.sessions.insert(header.session, session);
        Some(token)
    }

    /// Whether a message was had; `None` when it is of no session.
    pub(crate) fn freshness(&self, header: &Header) -> Option<Freshness> {
        let s = self.sessions.get(&header.session).filter(|s| s.token == header.token)?;
        Some(s.freshness(header.number))
    }

    /// A message counts as had from now on.
    pub(crate) fn mark(&mut self, header: &Header, now: Nanos) {
        if let Some(s) = self.sessions.get_mut(&header.session) {
            s.mark(header.number);
            s.heard = now;
        }
    }

    /// The session of this number.
    pub(crate) fn get(&self, session: u64) -> Option<(&Session, u64)> {
        self.sessions.get(&session).map(|s| (s, s.token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(port: u16) -> (Key, [u8; 12], u8) {
        (Key::new("10.0.0.2:7411".parse().unwrap(), ([10, 0, 0, 1], port).into()).unwrap(), [2; 12], 0)
    }

    fn begun() -> (Sessions, u64) {
        let mut s = Sessions::new(5);
        let key = ChannelKey::from_secret(b"secret");
        let token = s.ping(&Header { session: 1, token: 0, number: 1 }, &key, path(7), 10).unwrap();
        (s, token)
    }

    proptest! {
        #[test]
        fn every_number_counts_once(numbers in prop::collection::vec(2u64..200_000, 1..300)) {
            let (mut s, token) = begun();
            let (mut had, mut highest) = (std::collections::HashSet::from([1]), 1);
            for number in numbers {
                let header = Header { session: 1, token, number };
                let want = if had.contains(&number) && number + WINDOW > highest {
                    Freshness::Had
                } else if number + WINDOW <= highest {
                    Freshness::Old
                } else {
                    Freshness::New
                };
                prop_assert_eq!(s.freshness(&header), Some(want));
                if want == Freshness::New {
                    s.mark(&header, 11);
                    had.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }

    #[test]
    fn a_message_of_another_session_or_time_is_none() {
        let (s, token) = begun();
        let header = Header { session: 1, token, number: 2 };
        assert_eq!(s.freshness(&header), Some(Freshness::New));
        assert_eq!(s.freshness(&Header { token: token ^ 1, ..header }), None);
        assert_eq!(s.freshness(&Header { session: 2, ..header }), None);
        // The filter has started again: what its director said before is nothing.
        let mut again = Sessions::new(6);
        let key = ChannelKey::from_secret(b"secret");
        assert_ne!(again.ping(&Header { session: 1, token: 0, number: 1 }, &key, path(7), 10), Some(token));
    }

    #[test]
    fn a_repeated_ping_leads_answers_nowhere() {
        let (mut s, token) = begun();
        let key = ChannelKey::from_secret(b"secret");
        assert_eq!(s.ping(&Header { session: 1, token: 0, number: 1 }, &key, path(666), 11), None);
        assert_eq!(s.get(1).unwrap().0.back, path(7).0);
        assert_eq!(s.ping(&Header { session: 1, token, number: 2 }, &key, path(8), 11), Some(token));
        assert_eq!(s.get(1).unwrap().0.back, path(8).0);
    }

    #[test]
    fn sessions_are_bounded_and_the_silent_ones_give_way() {
        let mut s = Sessions::new(5);
        let key = ChannelKey::from_secret(b"secret");
        for session in 0..SESSIONS as u64 {
            assert!(s.ping(&Header { session, token: 0, number: 1 }, &key, path(7), session).is_some());
        }
        let more = Header { session: 9999, token: 0, number: 1 };
        assert_eq!(s.ping(&more, &key, path(7), 1000), None);
        assert!(s.ping(&more, &key, path(7), SILENT).is_some());
        assert!(s.get(0).is_none() && s.get(1).is_some());
    }
}
