//! Asking the kernel to resolve neighbours, and to keep them resolved.
//!
//! Our packets pass the kernel by, so its own traffic does not keep its entries alive: they would go stale and be
//! collected. Where the kernel can (Linux 5.16 and later) each neighbour that we use is made a *managed* entry, which it
//! probes by itself; elsewhere a stale entry is probed by us. What was managed by us is given back when it is not needed.

use super::message::What;
use super::tables::{Neighbour, NeighbourKey, Reachability};
use lcs_dataplane::headers::MacAddr;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// The first repetition of a request that brought nothing; each further one waits twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait. The kernel itself sends three probes a request, a second apart.
const LONGEST: Duration = Duration::from_secs(8);
/// How long an entry that the kernel has dropped (collected, or flushed by an administrator) is still used, while it is asked for anew.
const GRACE: Duration = Duration::from_secs(2);
/// Requests under way at most: their answers have to fit in the socket's receive buffer.
const UNDER_WAY: usize = 64;

/// A neighbour that somebody needs.
#[derive(Debug)]
struct Want {
    users: usize,
    /// Not to be asked for before.
    not_before: Instant,
    wait: Duration,
    /// Its place in the schedule.
    scheduled: Option<Instant>,
    /// A request waits for its answer.
    under_way: bool,
    /// The kernel has an entry that it has not told us of: it does not tell of one that it is just resolving.
    untold: bool,
    /// The kernel was asked to manage the entry that is there now.
    asked_to_manage: bool,
    /// We made it managed, so we give it back.
    ours: bool,
    /// Nobody answered the last time.
    failed: bool,
    /// Why the kernel refused, the last time.
    error: Option<String>,
    /// The address that was known when the entry went away, and until when it may be used.
    last: Option<(MacAddr, Instant)>,
}

/// What there is to say about a neighbour that is not resolved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Trouble {
    pub failed: bool,
    pub error: Option<String>,
}

/// A request that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    /// `None` for a release.
    key: Option<NeighbourKey>,
    /// If it succeeds, the entry is managed because of us.
    makes_ours: bool,
}

/// The neighbours that are needed, and the requests under way.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    wants: HashMap<NeighbourKey, Want>,
    /// When to ask for which; only those that need asking.
    schedule: BTreeSet<(Instant, NeighbourKey)>,
    /// Ends of grace, in order.
    graces: VecDeque<(Instant, NeighbourKey)>,
    under_way: HashMap<u32, UnderWay>,
    /// Neighbours that nobody needs any longer and that are managed because of us.
    releases: HashSet<NeighbourKey>,
}

impl Wanted {
    /// Somebody needs `key`, whose entry is `entry`.
    pub fn add(&mut self, now: Instant, key: NeighbourKey, entry: Option<&Neighbour>) {
        let ours = self.releases.remove(&key);
        let want = self.wants.entry(key).or_insert_with(|| Want {
            users: 0,
            not_before: now,
            wait: FIRST,
            scheduled: None,
            under_way: false,
            untold: false,
            asked_to_manage: ours,
            ours,
            failed: entry.is_some_and(|e| e.reachability == Reachability::Failed),
            error: None,
            last: None,
        });
        want.users += 1;
        want.plan(&mut self.schedule, now, key, entry);
    }

    /// Somebody does not need `key` any longer.
    pub fn remove(&mut self, key: &NeighbourKey) {
        let Some(want) = self.wants.get_mut(key) else { return };
        want.users -= 1;
        if want.users == 0 {
            if want.ours {
                self.releases.insert(*key);
            }
            want.unplan(&mut self.schedule, *key);
            self.wants.remove(key);
        }
    }

    /// Takes note of a change of the entry. `true` when it is wanted.
    pub fn changed(
        &mut self,
        now: Instant,
        key: &NeighbourKey,
        before: Option<Neighbour>,
        after: Option<&Neighbour>,
        link_up: bool,
    ) -> bool {
        let Some(want) = self.wants.get_mut(key) else { return false };
        match after {
            Some(entry) => {
                want.untold = false;
                if entry.usable().is_some() {
                    (want.failed, want.error, want.last, want.wait) = (false, None, None, FIRST);
                } else if entry.reachability == Reachability::Failed {
                    (want.failed, want.last) = (true, None);
                }
            }
            None => {
                (want.ours, want.asked_to_manage, want.untold) = (false, false, false);
                (want.not_before, want.wait) = (now, FIRST);
                if !link_up {
                    (want.last, want.failed) = (None, false);
                } else if let Some(mac) = before.and_then(|b| b.usable()) {
                    want.last = Some((mac, now + GRACE));
                    self.graces.push_back((now + GRACE, *key));
                }
            }
        }
        want.plan(&mut self.schedule, now, *key, after);
        true
    }

    /// The link is up again: whoever did not answer may do so now.
    pub fn link_up(&mut self, now: Instant, interface: u32) {
        for (key, want) in self.wants.iter_mut().filter(|(k, _)| k.0 == interface) {
            (want.not_before, want.wait, want.failed, want.error) = (now, FIRST, false, None);
            want.unplan(&mut self.schedule, *key);
            self.schedule.insert((now, *key));
            want.scheduled = Some(now);
        }
    }

    /// The link is down: what was known there counts no longer.
    pub fn link_down(&mut self, interface: u32) {
        for (_, want) in self.wants.iter_mut().filter(|(k, _)| k.0 == interface) {
            (want.last, want.failed, want.error) = (None, false, None);
        }
    }

    /// The address that is used for a moment after its entry has gone.
    pub fn last_known(&self, now: Instant, key: &NeighbourKey) -> Option<MacAddr> {
        let (mac, until) = self.wants.get(key)?.last?;
        (now < until).then_some(mac)
    }

    /// What is known about why `key` is not resolved.
    pub fn trouble(&self, key: &NeighbourKey) -> Trouble {
        let Some(want) = self.wants.get(key) else { return Trouble::default() };
        Trouble { failed: want.failed, error: want.error.clone() }
    }

    /// What to ask of the kernel now; `entry` looks up the table, `link_up` the link.
    pub fn next_request<'a>(
        &mut self,
        now: Instant,
        sequence: u32,
        entry: impl Fn(&NeighbourKey) -> Option<&'a Neighbour>,
        link_up: impl Fn(u32) -> bool,
    ) -> Option<What> {
        if self.under_way.len() >= UNDER_WAY {
            return None;
        }
        while let Some(key) = self.releases.iter().next().copied() {
            self.releases.remove(&key);
            let fixed = entry(&key).is_some_and(|e| e.fixed);
            if !fixed && !self.wants.contains_key(&key) && link_up(key.0) {
                self.under_way.insert(sequence, UnderWay { key: None, makes_ours: false });
                return Some(What::Release(key));
            }
        }
        while let Some(&(at, key)) = self.schedule.first() {
            if at > now {
                return None;
            }
            self.schedule.pop_first();
            let Some(want) = self.wants.get_mut(&key) else { continue };
            want.scheduled = None;
            let there = entry(&key);
            // A link that comes up puts its neighbours back on the schedule.
            if !want.due(there) || !link_up(key.0) {
                continue;
            }
            (want.under_way, want.asked_to_manage) = (true, true);
            want.not_before = now + want.wait;
            want.wait = (want.wait * 2).min(LONGEST);
            let makes_ours = there.is_none_or(|e| !e.managed);
            self.under_way.insert(sequence, UnderWay { key: Some(key), makes_ours });
            return Some(What::Resolve { key, exists: there.is_some() || want.untold });
        }
        None
    }

    /// The kernel's answer to the request `sequence`: 0, or an error number. Gives the key when there may be something
    /// new to say about it.
    pub fn answered<'a>(
        &mut self,
        now: Instant,
        sequence: u32,
        error: i32,
        entry: impl Fn(&NeighbourKey) -> Option<&'a Neighbour>,
    ) -> Option<NeighbourKey> {
        const EPERM: i32 = 1;
        const ENOENT: i32 = 2;
        const EEXIST: i32 = 17;
        const ENOBUFS: i32 = 105;
        let request = self.under_way.remove(&sequence)?;
        let key = request.key?;
        let want = self.wants.get_mut(&key)?;
        want.under_way = false;
        let there = entry(&key);
        want.error = match error {
            0 => {
                want.ours |= request.makes_ours;
                want.untold = there.is_none();
                None
            }
            // It came or went while we asked: ask again, the other way.
            EEXIST | ENOENT => {
                (want.untold, want.asked_to_manage) = (error == EEXIST && there.is_none(), false);
                want.not_before = want.not_before.min(now + FIRST);
                None
            }
            EPERM => Some("not permitted; run the director with the capability CAP_NET_ADMIN".into()),
            ENOBUFS => Some(format!(
                "its neighbour table is full; raise net.{}.neigh.default.gc_thresh3",
                if key.1.is_ipv4() { "ipv4" } else { "ipv6" }
            )),
            e => Some(std::io::Error::from_raw_os_error(e).to_string()),
        };
        want.plan(&mut self.schedule, now, key, there);
        Some(key)
    }

    /// Answers may have been lost: their requests count as not made.
    pub fn forget_under_way<'a>(&mut self, now: Instant, entry: impl Fn(&NeighbourKey) -> Option<&'a Neighbour>) {
        for (_, request) in std::mem::take(&mut self.under_way) {
            let Some(key) = request.key else { continue };
            let Some(want) = self.wants.get_mut(&key) else { continue };
            (want.under_way, want.asked_to_manage) = (false, false);
            // It may have succeeded.
            want.ours |= request.makes_ours;
            want.plan(&mut self.schedule, now, key, entry(&key));
        }
    }

    /// Nobody needs any of them: gives back everything that the kernel manages because of us.
    pub fn release_all(&mut self) {
        self.schedule.clear();
        self.graces.clear();
        self.releases.extend(self.wants.drain().filter(|(_, w)| w.ours).map(|(k, _)| k));
    }

    /// Whether releases wait to be sent or answered.
    pub fn releasing(&self) -> bool {
        !self.releases.is_empty() || self.under_way.values().any(|r| r.key.is_none())
    }

    /// A neighbour whose grace is over, which ends by this call.
    pub fn expire(&mut self, now: Instant) -> Option<NeighbourKey> {
        while self.graces.front().is_some_and(|(until, _)| *until <= now) {
            let (until, key) = self.graces.pop_front()?;
            let Some(want) = self.wants.get_mut(&key) else { continue };
            if want.last.is_some_and(|(_, u)| u <= until) {
                want.last = None;
                return Some(key);
            }
        }
        None
    }

    /// When there is something to do without being told.
    pub fn deadline(&self) -> Option<Instant> {
        let ask = self.schedule.first().filter(|_| self.under_way.len() < UNDER_WAY).map(|(at, _)| *at);
        let grace = self.graces.front().map(|(until, _)| *until);
        [ask, grace].into_iter().flatten().min()
    }
}

impl Want {
    /// Whether there is something to ask, leaving aside when.
    fn due(&self, entry: Option<&Neighbour>) -> bool {
        if self.under_way {
            return false;
        }
        let Some(entry) = entry else { return true };
        if entry.fixed {
            return false;
        }
        match entry.reachability {
            Reachability::Failed | Reachability::Incomplete => true,
            Reachability::Stale => !entry.managed,
            Reachability::Fresh => !entry.managed && !self.asked_to_manage,
        }
    }

    fn unplan(&mut self, schedule: &mut BTreeSet<(Instant, NeighbourKey)>, key: NeighbourKey) {
        if let Some(at) = self.scheduled.take() {
            schedule.remove(&(at, key));
        }
    }

    fn plan(
        &mut self,
        schedule: &mut BTreeSet<(Instant, NeighbourKey)>,
        now: Instant,
        key: NeighbourKey,
        entry: Option<&Neighbour>,
    ) {
        self.unplan(schedule, key);
        if self.due(entry) {
            let at = self.not_before.max(now);
            schedule.insert((at, key));
            self.scheduled = Some(at);
        }
    }
}
