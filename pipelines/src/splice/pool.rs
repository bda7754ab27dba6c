//! Servers' connections that are open for whoever asks next ([`Scheme::Pooled`](crate::content::Scheme::Pooled)).
//!
//! One of them is a leg without a connection of its own ([`Entry::is_leg`](super::Entry)) while it is idle, and the server's
//! side of a client's connection while it is lent. Here stands what is known of it through both.

use super::NIL;
use crate::content::Content;
use crate::snapshot::Snapshot;
use hashbrown::HashMap;
use lcs_dataplane::worker::Nanos;
use std::collections::VecDeque;

/// What marks the number of a pooled connection in `Entry::main`.
const MARK: u32 = 1 << 31;
/// Connections of one worker's pools at most.
const MOST: usize = 1 << 16;
/// How long a server that refuses is left in peace, at first and at most.
const BACK_OFF: (Nanos, Nanos) = (500_000_000, 30_000_000_000);

/// What `Entry::main` says of a pooled connection with this number.
pub(crate) fn marked(id: u32) -> u32 {
    MARK | id
}

/// The number of a pooled connection in `Entry::main`.
pub(crate) fn unmarked(main: u32) -> Option<u32> {
    (main != NIL && main & MARK != 0).then_some(main & !MARK)
}

/// What a pooled connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Its server has been sent a SYN.
    Opening,
    /// It waits for a request.
    Idle,
    /// It is a client's.
    Lent,
    /// Its server has been sent a FIN.
    Closing,
}

/// One connection to a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pooled {
    pub(crate) doing: Doing,
    pub(crate) service: u16,
    pub(crate) server: u16,
    /// The entry that has it: a leg's, or that of the client's connection.
    pub(crate) entry: u32,
    /// When it was opened.
    pub(crate) opened: Nanos,
    /// When it began to do what it is doing.
    pub(crate) since: Nanos,
    /// When its server was last asked for a sign of life, or gave one.
    pub(crate) asked: Nanos,
    /// Times that it was asked since it has given one.
    pub(crate) unanswered: u8,
    /// Requests that it has been given.
    pub(crate) requests: u32,
    /// The window scale of the server; `None` where neither side scales.
    pub(crate) scale: Option<u8>,
    /// Whether the server sends and understands SACK blocks.
    pub(crate) sack: bool,
    /// MSS that it was told.
    pub(crate) mss: u16,
}

/// The connections to one server of one service.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) service: u16,
    pub(crate) server: u16,
    /// Those that are idle, the one used last at the end.
    pub(crate) idle: VecDeque<u32>,
    /// Those that are being opened, the oldest first.
    pub(crate) opening: VecDeque<u32>,
    pub(crate) lent: u32,
    /// Not before this are more opened ahead.
    pub(crate) not_before: Nanos,
    back_off: Nanos,
    /// Whether the rules name the server still.
    pub(crate) wanted: bool,
    /// Which of the idle ones is looked at next.
    pub(crate) cursor: usize,
}

/// All pools of one worker.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    pools: Vec<Pool>,
    /// Where the pool of a service and a server stands.
    places: HashMap<(u16, u16), u32>,
    connections: Vec<Option<Pooled>>,
    free: Vec<u32>,
    /// When pools are looked after next, and the one that is next.
    pub(crate) next_at: Nanos,
    turn: usize,
}

impl Pools {
    /// Follows a new snapshot: a pool for every server of every service that pools. What is left of others is let go by
    /// whoever looks after them.
    pub(crate) fn install(&mut self, snapshot: &Snapshot) {
        self.pools.retain(|pool| !pool.idle.is_empty() || !pool.opening.is_empty() || pool.lent > 0);
        self.places.clear();
        for (at, pool) in self.pools.iter_mut().enumerate() {
            pool.wanted = false;
            self.places.insert((pool.service, pool.server), at as u32);
        }
        for (slot, service) in snapshot.services.iter().enumerate() {
            let content = service.as_ref().and_then(|s| s.content.as_deref());
            let Some(content) = content.filter(|content| content.binding.scheme.pool().is_some()) else { continue };
            for server in servers(content) {
                let at = self.place(slot as u16, server);
                self.pools[at].wanted = true;
            }
        }
    }

    fn place(&mut self, service: u16, server: u16) -> usize {
        let pools = &mut self.pools;
        *self.places.entry((service, server)).or_insert_with(|| {
            pools.push(Pool {
                service,
                server,
                idle: VecDeque::new(),
                opening: VecDeque::new(),
                lent: 0,
                not_before: 0,
                back_off: 0,
                wanted: false,
                cursor: 0,
            });
            pools.len() as u32 - 1
        }) as usize
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// The pool whose turn it is.
    pub(crate) fn turn(&mut self) -> Option<usize> {
        let n = self.pools.len();
        self.turn = if self.turn + 1 < n { self.turn + 1 } else { 0 };
        (n > 0).then_some(self.turn)
    }

    pub(crate) fn pool(&mut self, at: usize) -> Option<&mut Pool> {
        self.pools.get_mut(at)
    }

    /// Pools that there are.
    pub(crate) fn len(&self) -> usize {
        self.pools.len()
    }

    pub(crate) fn of(&mut self, service: u16, server: u16) -> Option<&mut Pool> {
        let at = *self.places.get(&(service, server))?;
        self.pools.get_mut(at as usize)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Pooled> {
        self.connections.get(id as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Pooled> {
        self.connections.get_mut(id as usize)?.as_mut()
    }

    /// Takes a connection in. `None` when there are as many as may be.
    pub(crate) fn add(&mut self, connection: Pooled) -> Option<u32> {
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.connections.len() < MOST => {
                self.connections.push(None);
                self.connections.len() as u32 - 1
            }
            None => return None,
        };
        *self.connections.get_mut(id as usize)? = Some(connection);
        self.list(id, &connection);
        Some(id)
    }

    /// Puts a connection where its pool finds it.
    fn list(&mut self, id: u32, connection: &Pooled) {
        let at = self.place(connection.service, connection.server);
        let pool = &mut self.pools[at];
        match connection.doing {
            Doing::Opening => pool.opening.push_back(id),
            Doing::Idle => pool.idle.push_back(id),
            Doing::Lent => pool.lent += 1,
            Doing::Closing => {}
        }
    }

    /// Takes it from there.
    fn unlist(&mut self, id: u32, connection: &Pooled) {
        let at = self.place(connection.service, connection.server);
        let pool = &mut self.pools[at];
        match connection.doing {
            Doing::Opening => take_out(&mut pool.opening, id),
            Doing::Idle => take_out(&mut pool.idle, id),
            Doing::Lent => pool.lent = pool.lent.saturating_sub(1),
            Doing::Closing => {}
        }
    }

    /// A connection does something else from now on, and belongs to this entry.
    pub(crate) fn now(&mut self, id: u32, doing: Doing, entry: u32, now: Nanos) {
        let Some(before) = self.get(id).copied() else { return };
        let after = Pooled { doing, entry, since: now, asked: now, unanswered: 0, ..before };
        self.unlist(id, &before);
        self.list(id, &after);
        self.connections[id as usize] = Some(after);
    }

    /// The entry of a connection is gone, and it with that, unless it has gone over to another entry.
    pub(crate) fn gone(&mut self, id: u32, entry: u32) {
        let Some(connection) = self.get(id).copied().filter(|c| c.entry == entry) else { return };
        self.unlist(id, &connection);
        self.connections[id as usize] = None;
        self.free.push(id);
    }

    /// The idle connection to a server that was used last.
    pub(crate) fn latest(&mut self, service: u16, server: u16) -> Option<u32> {
        self.of(service, server)?.idle.back().copied()
    }

    /// Idle and lent connections of a service.
    pub(crate) fn counts(&self, service: u16) -> (u64, u64) {
        let pools = self.pools.iter().filter(|pool| pool.service == service);
        pools.fold((0, 0), |(idle, lent), pool| (idle + pool.idle.len() as u64, lent + u64::from(pool.lent)))
    }
}

impl Pool {
    /// A server has not answered, or has refused: it is left in peace for twice as long as before.
    pub(crate) fn refused(&mut self, now: Nanos) {
        self.back_off = (2 * self.back_off).clamp(BACK_OFF.0, BACK_OFF.1);
        self.not_before = now + self.back_off;
    }

    /// It has answered.
    pub(crate) fn answered(&mut self) {
        (self.back_off, self.not_before) = (0, 0);
    }
}

fn take_out(list: &mut VecDeque<u32>, id: u32) {
    // Mostly the last one.
    if let Some(at) = list.iter().rposition(|&other| other == id) {
        list.remove(at);
    }
}

/// The servers that a service's rules may name.
pub(crate) fn servers(content: &Content) -> impl Iterator<Item = u16> + '_ {
    let named = (0..content.program.len() as u32).filter_map(|rule| match content.program.rule(rule)?.1 {
        crate::matching::Action::Forward { server, .. } => Some(*server),
        _ => None,
    });
    content.groups.iter().flat_map(|group| group.servers.iter().copied()).chain(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(doing: Doing, entry: u32) -> Pooled {
        Pooled {
            doing,
            service: 1,
            server: 2,
            entry,
            opened: 0,
            since: 0,
            asked: 0,
            unanswered: 0,
            requests: 0,
            scale: None,
            sack: true,
            mss: 1440,
        }
    }

    #[test]
    fn the_one_used_last_is_lent_first() {
        let mut p = Pools::default();
        let ids = [10, 11, 12].map(|entry| p.add(connection(Doing::Opening, entry)).unwrap());
        assert_eq!((p.latest(1, 2), p.of(1, 2).unwrap().opening.len()), (None, 3));
        for (n, &id) in ids.iter().enumerate() {
            p.now(id, Doing::Idle, 10 + n as u32, 5);
        }
        assert_eq!((p.latest(1, 2), p.of(1, 2).unwrap().opening.len()), (Some(ids[2]), 0));
        p.now(ids[2], Doing::Lent, 77, 6);
        assert_eq!((p.latest(1, 2), p.counts(1), p.counts(2)), (Some(ids[1]), (2, 1), (0, 0)));
        p.gone(ids[2], 12);
        assert_eq!(p.counts(1), (2, 1), "the leg that it was before is not what it is now");
        p.gone(ids[2], 77);
        p.gone(ids[0], 10);
        assert_eq!((p.latest(1, 2), p.counts(1)), (Some(ids[1]), (1, 0)));
        assert!(p.get(ids[0]).is_none() && p.add(connection(Doing::Idle, 3)).is_some());
    }

    #[test]
    fn a_server_that_refuses_is_asked_less_and_less() {
        let mut p = Pools::default();
        let id = p.add(connection(Doing::Opening, 1)).unwrap();
        p.gone(id, 1);
        let pool = p.of(1, 2).unwrap();
        let waits: Vec<Nanos> = (0..9).map(|_| (pool.refused(0), pool.not_before).1 / 1_000_000).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        pool.answered();
        assert_eq!(pool.not_before, 0);
    }

    #[test]
    fn numbers_and_marks() {
        assert_eq!(unmarked(marked(7)), Some(7));
        assert_eq!((unmarked(NIL), unmarked(7)), (None, None));
    }
}
