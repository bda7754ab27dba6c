//! Requests that come in several messages.

use super::Ticket;
use super::message::Migrate;
use hashbrown::HashMap;
use lcs_dataplane::worker::Nanos;

/// Requests put together at once, at most, and bytes of them.
const REQUESTS: usize = 256;
const BYTES: usize = 32 << 20;
/// The part of both that requests may have that are whole and wait: what a client keeps waiting must not close the rest to others.
const WAITING: usize = 4;
/// How long the pieces of one may take, nanoseconds: longer than any director sends again.
const PATIENCE: Nanos = 20_000_000_000;

#[derive(Debug)]
struct Assembly {
    /// What every piece must say.
    like: (u32, u16),
    bytes: Vec<u8>,
    had: Vec<u64>,
    missing: usize,
    until: Nanos,
}

/// What became of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It was the last: the whole request.
    Whole(Vec<u8>),
    /// Others are missing.
    More,
    /// It contradicts one before.
    Strange,
    /// There is no room.
    Full,
}

/// The requests that a filter is putting together.
#[derive(Debug, Default)]
pub(crate) struct Assemblies {
    open: HashMap<(u64, u64), Assembly>,
    bytes: usize,
}

impl Assemblies {
    /// Takes a piece of a request that has several.
    pub(crate) fn put(&mut self, ticket: Ticket, m: &Migrate<'_>, now: Nanos) -> Put {
        let id = (ticket.session, ticket.number);
        let total = m.total as usize;
        if self.open.get(&id).is_some_and(|a| a.missing == 0 && a.like != (m.total, m.piece)) {
            // Kept, and now the link's MTU, and with it the size of the pieces, is another one.
            self.forget(ticket);
        }
        if !self.open.contains_key(&id) {
            if self.open.len() >= REQUESTS || self.bytes + total > BYTES {
                self.expire(now);
            }
            if self.open.len() >= REQUESTS || self.bytes + total > BYTES {
                return Put::Full;
            }
            let (missing, until) = (m.pieces(), now + PATIENCE);
            let had = vec![0; missing.div_ceil(64)];
            self.bytes += total;
            let a = Assembly { like: (m.total, m.piece), bytes: vec![0; total], had, missing, until };
            self.open.insert(id, a);
        }
        let Some(a) = self.open.get_mut(&id) else { return Put::Full };
        if a.missing == 0 && m.offset != 0 {
            // Kept: the first piece asks for it, and the others, sent again beside it, not once more each.
            return Put::More;
        }
        let index = (m.offset / u32::from(m.piece)) as usize;
        let at = m.offset as usize..m.offset as usize + m.bytes.len();
        let (Some(word), Some(place)) = (a.had.get_mut(index / 64), a.bytes.get_mut(at)) else { return Put::Strange };
        if a.like != (m.total, m.piece) {
            return Put::Strange;
        }
        if *word >> (index % 64) & 1 == 0 {
            *word |= 1 << (index % 64);
            place.copy_from_slice(m.bytes);
            a.missing -= 1;
        }
        if a.missing > 0 {
            return Put::More;
        }
        self.bytes -= total;
        self.open.remove(&id).map_or(Put::Strange, |a| Put::Whole(a.bytes))
    }

    /// Keeps a request that was whole and cannot be taken yet, if there is room: its first piece makes it whole again. Returns
    /// whether it is kept.
    pub(crate) fn keep(&mut self, ticket: Ticket, m: &Migrate<'_>, bytes: &[u8], now: Nanos) -> bool {
        if !self.has_room_to_keep(bytes.len()) {
            // Those are among them whose connections have ended meanwhile.
            self.expire(now);
        }
        if bytes.len() != m.total as usize || !self.has_room_to_keep(bytes.len()) {
            return false;
        }
        let had = vec![u64::MAX; m.pieces().div_ceil(64)];
        let a = Assembly { like: (m.total, m.piece), bytes: bytes.to_vec(), had, missing: 0, until: now + PATIENCE };
        if self.open.insert((ticket.session, ticket.number), a).is_none() {
            self.bytes += bytes.len();
        }
        true
    }

    fn has_room_to_keep(&self, more: usize) -> bool {
        let waiting = self.open.values().filter(|a| a.missing == 0);
        let (n, held) = waiting.fold((0, 0), |(n, held), a| (n + 1, held + a.bytes.len()));
        let share = n < REQUESTS / WAITING && held + more <= BYTES / WAITING;
        share && self.open.len() < REQUESTS && self.bytes + more <= BYTES
    }

    /// Forgets what there is of a request that nobody waits for any more.
    pub(crate) fn forget(&mut self, ticket: Ticket) {
        if let Some(a) = self.open.remove(&(ticket.session, ticket.number)) {
            self.bytes -= a.bytes.len();
        }
    }

    /// Forgets those whose time is over.
    fn expire(&mut self, now: Nanos) {
        let bytes = &mut self.bytes;
        self.open.retain(|_, a| {
            let keep = a.until > now;
            if !keep {
                *bytes -= a.bytes.len();
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Ends;
    use super::*;
    use lcs_dataplane::splice::Offer;
    use proptest::prelude::*;

    #[test]
    fn what_is_kept_comes_once_and_counts_for_as_long() {
        let all = vec![7; 2_000];
        let (mut a, ticket) = (Assemblies::default(), Ticket { session: 1, token: 0, number: 2 });
        assert!(a.keep(ticket, &piece(&all, 500, 3), &all, 0));
        assert_eq!(a.bytes, all.len());
        for n in [3, 1, 2] {
            assert_eq!(a.put(ticket, &piece(&all, 500, n), 1), Put::More);
        }
        assert_eq!(a.put(ticket, &piece(&all, 500, 0), 1), Put::Whole(all.clone()));
        assert_eq!((a.bytes, a.open.len()), (0, 0));
        // As a new one: all of it is needed.
        assert_eq!(a.put(ticket, &piece(&all, 500, 0), 2), Put::More);
        // What is not all of it is not kept.
        let other = Ticket { number: 3, ..ticket };
        assert!(!a.keep(other, &piece(&all, 500, 0), &all[..500], 2));
        assert_eq!(a.open.len(), 1);
    }

    #[test]
    fn what_waits_has_a_share_and_leaves_the_rest_to_others() {
        let ticket = |number| Ticket { session: 1, token: 0, number };
        for all in [vec![7; 1_500], vec![7; 1 << 20]] {
            let mut a = Assemblies::default();
            let kept = (0..300).filter(|&n| a.keep(ticket(n), &piece(&all, 1_000, 0), &all, 0)).count();
            assert_eq!(kept, if all.len() == 1_500 { REQUESTS / WAITING } else { BYTES / WAITING / (1 << 20) });
            // Others come, in pieces, as if nobody waited.
            let (first, second) = (piece(&all[..1_500], 1_000, 0), piece(&all[..1_500], 1_000, 1));
            for n in 1_000..1_100 {
                assert_eq!(a.put(ticket(n), &first, 0), Put::More);
                assert_eq!(a.put(ticket(n), &second, 0), Put::Whole(all[..1_500].to_vec()));
            }
            // Those that nobody asks for any more make room when their time is over.
            assert!(!a.keep(ticket(2_000), &first, &all[..1_500], PATIENCE - 1));
            assert!(a.keep(ticket(2_001), &first, &all[..1_500], PATIENCE));
            assert_eq!((a.open.len(), a.bytes), (1, 1_500));
        }
    }

    #[test]
    fn what_is_kept_comes_again_in_pieces_of_another_size() {
        let all: Vec<u8> = (0..2_000).map(|n| n as u8).collect();
        let (mut a, ticket) = (Assemblies::default(), Ticket { session: 1, token: 0, number: 2 });
        assert!(a.keep(ticket, &piece(&all, 1_000, 0), &all, 0));
        for n in [2, 0, 1] {
            assert_eq!(a.put(ticket, &piece(&all, 600, n), 1), Put::More);
        }
        assert_eq!(a.put(ticket, &piece(&all, 600, 3), 1), Put::Whole(all.clone()));
        assert_eq!((a.bytes, a.open.len()), (0, 0));
    }

    fn piece(all: &[u8], piece: u16, index: usize) -> Migrate<'_> {
        let from = (index * usize::from(piece)).min(all.len());
        let to = (from + usize::from(piece)).min(all.len());
        Migrate {
            ends: Ends { client: "192.0.2.1:1".parse().unwrap(), service: "192.0.2.2:80".parse().unwrap() },
            start: 0,
            next: 0,
            window: 0,
            offer: Offer { mss: 1460, scale: None, sack: false },
            own_scale: 0,
            fin: false,
            one_by_one: false,
            continues: false,
            total: all.len() as u32,
            offset: from as u32,
            piece,
            bytes: &all[from..to],
        }
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_make_the_request(
            all in prop::collection::vec(any::<u8>(), 300..3000), order: u64, size in 256u16..700,
        ) {
            let mut a = Assemblies::default();
            let n = piece(&all, size, 0).pieces();
            let mut indices: Vec<usize> = (0..n).flat_map(|i| [i, i]).collect();
            indices.sort_by_key(|&i| (i as u64 + 1).wrapping_mul(order | 1).rotate_left(17));
            let ticket = Ticket { session: 1, token: 0, number: 2 };
            let mut seen = std::collections::HashSet::new();
            for i in indices {
                seen.insert(i);
                let put = a.put(ticket, &piece(&all, size, i), 0);
                if seen.len() == n {
                    prop_assert_eq!(put, Put::Whole(all.clone()));
                    prop_assert_eq!(a.bytes, 0);
                    return Ok(());
                }
                prop_assert_eq!(put, Put::More);
            }
        }
    }

    #[test]
    fn what_is_put_together_is_bounded_and_forgotten_in_time() {
        let all = vec![0; 1 << 20];
        let mut a = Assemblies::default();
        let put = |a: &mut Assemblies, number, now| {
            a.put(Ticket { session: 1, token: 0, number }, &piece(&all, 1000, 0), now)
        };
        for number in 0..32 {
            assert_eq!(put(&mut a, number, 0), Put::More);
        }
        assert_eq!(put(&mut a, 99, 0), Put::Full);
        assert_eq!(put(&mut a, 99, PATIENCE), Put::More);
        assert_eq!((a.open.len(), a.bytes), (1, 1 << 20));
        let ticket = Ticket { session: 1, token: 0, number: 99 };
        assert_eq!(a.put(ticket, &piece(&all, 2000, 0), PATIENCE), Put::Strange);
        a.forget(ticket);
        a.forget(ticket);
        assert_eq!((a.open.len(), a.bytes), (0, 0));
    }
}
