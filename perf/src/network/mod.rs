//! The in-process network: hosts with real TCP stacks, switches, links with faults, and the director, all on one
//! simulated clock.
//!
//! Everything is deterministic: the same nodes, links and seed give the same run, frame by frame, so that one seed
//! replays one failure. No thread, no socket, no real time. A [`Network`] owns [`Node`]s and the links between them;
//! [`host::Host`] is an end system (`smoltcp` inside), [`switch::Switch`] joins them, [`director::Director`] is the
//! product's own worker over memory ports. May use everything below `perf`.

pub mod capture;
pub mod content;
pub mod director;
pub mod host;
pub mod http;
pub mod link;
pub mod monitor;
pub mod random;
pub mod reshape;
pub mod sequence;
pub mod site;
pub mod stack;
pub mod switch;
pub mod time_wait;
pub mod udp;

use capture::Capture;
use lcs_dataplane::worker::Nanos;
use link::{Arrivals, Direction, Faults, LinkCounts};
use random::Random;
use std::any::Any;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// A microsecond, in the network's unit of time.
pub const MICROSECOND: Nanos = 1_000;
/// A millisecond.
pub const MILLISECOND: Nanos = 1_000_000;
/// A second.
pub const SECOND: Nanos = 1_000_000_000;
/// When a network begins, so that no time is 0.
pub const BEGIN: Nanos = SECOND;

/// Something with network interfaces. It is told when a frame arrives and when its time has come, and sends through the [`Outbox`].
pub trait Node: Any {
    /// It now has this many interfaces.
    fn connected(&mut self, nics: usize) {
        let _ = nics;
    }

    /// A frame arrives. Returns when it wants to be polled for it, if at all.
    fn receive(&mut self, nic: usize, frame: Vec<u8>, now: Nanos, out: &mut Outbox) -> Option<Nanos>;

    /// Its time has come. Returns when it wants to be polled next; that replaces every earlier wish.
    fn poll(&mut self, now: Nanos, out: &mut Outbox) -> Option<Nanos>;
}

/// Frames on their way out of a node, and buffers for new ones.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: Vec<(usize, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    /// Buffers kept for reuse, at most.
    const SPARE: usize = 1024;

    /// Sends a frame on an interface.
    pub fn send(&mut self, nic: usize, frame: Vec<u8>) {
        self.frames.push((nic, frame));
    }

    /// An empty buffer for a frame.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(1600))
    }

    /// Gives back the buffer of a frame that has ended.
    pub fn recycle(&mut self, mut frame: Vec<u8>) {
        if self.spare.len() < Self::SPARE {
            frame.clear();
            self.spare.push(frame);
        }
    }

    /// Takes the frames that were sent: interface and bytes, in order.
    pub fn take(&mut self) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
        self.frames.drain(..)
    }
}

/// Which node, and of what type.
pub struct Id<T>(usize, PhantomData<fn() -> T>);

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// Which link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkId(usize);

/// A place where a link ends: a node and its interface.
#[derive(Debug, Clone, Copy)]
struct End {
    node: usize,
    nic: usize,
}

struct Link {
    ends: [End; 2],
    directions: [Direction; 2],
}

struct Place {
    node: Box<dyn Node>,
    name: String,
    /// For each interface, its link and which end of it.
    nics: Vec<(usize, usize)>,
    /// When it wants to be polled.
    wanted: Nanos,
    /// Polls of it that stand in the queue, latest first.
    queued: Vec<Nanos>,
}

enum What {
    Arrive(End, Vec<u8>),
    Poll(usize),
}

struct Event {
    at: Nanos,
    number: u64,
    what: What,
}

impl Event {
    fn key(&self) -> (Nanos, u64) {
        (self.at, self.number)
    }
}
impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Nodes, links, and the clock that they share.
pub struct Network {
    now: Nanos,
    events: u64,
    number: u64,
    queue: BinaryHeap<Reverse<Event>>,
    places: Vec<Place>,
    links: Vec<Link>,
    random: Random,
    out: Outbox,
    capture: Option<Capture>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.places.iter().map(|p| &p.name).collect();
        write!(f, "Network {{ now: {}, nodes: {names:?}, links: {} }}", self.now, self.links.len())
    }
}

impl Network {
    /// An empty network; `seed` decides every fault of its links.
    pub fn new(seed: u64) -> Self {
        Network {
            now: BEGIN,
            events: 0,
            number: 0,
            queue: BinaryHeap::new(),
            places: vec![],
            links: vec![],
            random: Random::new(seed),
            out: Outbox::default(),
            capture: None,
        }
    }

    /// The time.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Events so far: frames that arrived and polls.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Adds a node and polls it at once.
    pub fn add<T: Node>(&mut self, name: &str, node: T) -> Id<T> {
        let id = self.places.len();
        self.places.push(Place {
            node: Box::new(node),
            name: name.to_owned(),
            nics: vec![],
            wanted: Nanos::MAX,
            queued: vec![],
        });
        if let Some(capture) = &mut self.capture {
            capture.interface(name);
        }
        self.want(id, self.now);
        Id(id, PhantomData)
    }

    /// Joins the next free interfaces of two nodes. The faults are those of both directions; see [`Network::set_faults`].
    pub fn connect<A: Node, B: Node>(&mut self, a: Id<A>, b: Id<B>, faults: Faults) -> LinkId {
        let link = self.links.len();
        let ends = [a.0, b.0].map(|node| End { node, nic: 0 });
        let directions = [0, 1].map(|_| Direction::new(faults, self.random.fork()));
        self.links.push(Link { ends, directions });
        for side in [0, 1] {
            let place = &mut self.places[ends[side].node];
            self.links[link].ends[side].nic = place.nics.len();
            place.nics.push((link, side));
            place.node.connected(place.nics.len());
        }
        LinkId(link)
    }

    /// Sets the faults of a link: from the first node that was named in [`Network::connect`] to the second, and back.
    pub fn set_faults(&mut self, link: LinkId, there: Faults, back: Faults) {
        let [a, b] = &mut self.links[link.0].directions;
        (a.faults, b.faults) = (there, back);
    }

    /// Takes a link down (every frame is lost) or up.
    pub fn set_up(&mut self, link: LinkId, up: bool) {
        for direction in &mut self.links[link.0].directions {
            direction.up = up;
        }
    }

    /// What happened on a link: there, and back.
    pub fn counts(&self, link: LinkId) -> [LinkCounts; 2] {
        self.links[link.0].directions.each_ref().map(|d| d.counts)
    }

    /// The link of a node's first interface.
    pub fn link_of<T>(&self, id: Id<T>) -> Option<LinkId> {
        self.places[id.0].nics.first().map(|&(link, _)| LinkId(link))
    }

    /// What happened on all of a node's links together: to the node, and from it.
    pub fn traffic<T>(&self, id: Id<T>) -> [LinkCounts; 2] {
        let mut sum = [LinkCounts::default(); 2];
        for &(link, side) in &self.places[id.0].nics {
            for (to, from) in sum.iter_mut().zip([1 - side, side]) {
                to.add(&self.links[link].directions[from].counts);
            }
        }
        sum
    }

    /// Captures frames as they enter a link, from now on.
    pub fn capture(&mut self, mut capture: Capture) {
        for place in &self.places {
            capture.interface(&place.name);
        }
        debug_assert_eq!(capture.interfaces(), self.places.len());
        self.capture = Some(capture);
    }

    /// Ends the capture, for [`Capture::finish`].
    pub fn take_capture(&mut self) -> Option<Capture> {
        self.capture.take()
    }

    /// Has a node polled now, after it was changed from outside.
    pub fn wake<T>(&mut self, id: Id<T>) {
        self.want(id.0, self.now);
    }

    /// Carries out the next event; `false` when there is none up to `limit`, and then the time is `limit`.
    pub fn step(&mut self, limit: Nanos) -> bool {
        if self.queue.peek().is_none_or(|Reverse(e)| e.at > limit) {
            self.now = self.now.max(limit);
            return false;
        }
        let Some(Reverse(event)) = self.queue.pop() else { return false };
        self.now = event.at;
        let node = match event.what {
            What::Arrive(end, frame) => {
                self.events += 1;
                let place = &mut self.places[end.node];
                if let Some(at) = place.node.receive(end.nic, frame, self.now, &mut self.out) {
                    self.want(end.node, at);
                }
                end.node
            }
            What::Poll(node) => {
                let place = &mut self.places[node];
                if place.queued.last() == Some(&event.at) {
                    place.queued.pop();
                }
                if place.wanted > self.now {
                    // It was put off since; unless an earlier poll stands in the queue, ask again.
                    let wanted = std::mem::replace(&mut place.wanted, Nanos::MAX);
                    self.want(node, wanted);
                    return true;
                }
                self.events += 1;
                place.wanted = Nanos::MAX;
                if let Some(at) = place.node.poll(self.now, &mut self.out) {
                    // A node that asks for the present again and again must not stop the clock.
                    self.want(node, at.max(self.now + 1));
                }
                node
            }
        };
        self.transmit(node);
        true
    }

    /// Runs until `done`, or to `limit`; whether it was done.
    pub fn run(&mut self, limit: Nanos, mut done: impl FnMut(&Network) -> bool) -> bool {
        while !done(self) {
            if !self.step(limit) {
                return done(self);
            }
        }
        true
    }

    /// Runs for this long.
    pub fn run_for(&mut self, time: Nanos) {
        let limit = self.now + time;
        while self.step(limit) {}
    }

    fn want(&mut self, node: usize, at: Nanos) {
        let place = &mut self.places[node];
        if at >= place.wanted {
            return;
        }
        place.wanted = at;
        if at < Nanos::MAX && place.queued.last().is_none_or(|&q| q > at) {
            place.queued.push(at);
            self.push(at, What::Poll(node));
        }
    }

    fn push(&mut self, at: Nanos, what: What) {
        self.number += 1;
        self.queue.push(Reverse(Event { at, number: self.number, what }));
    }

    /// Puts what a node has sent on its links.
    fn transmit(&mut self, node: usize) {
        for at in 0..self.out.frames.len() {
            let (nic, mut frame) = std::mem::take(&mut self.out.frames[at]);
            let Some(&(link, side)) = self.places[node].nics.get(nic) else {
                self.out.recycle(frame);
                continue;
            };
            let Link { ends, directions } = &mut self.links[link];
            let to = ends[1 - side];
            let direction = &mut directions[side];
            let before = direction.counts;
            let Arrivals { first, second } = direction.offer(self.now, &mut frame);
            if let Some(capture) = &mut self.capture {
                capture.frame(node, self.now, &frame, before.what_since(&direction.counts));
            }
            if let Some(at) = second {
                let mut copy = self.out.buffer();
                copy.extend_from_slice(&frame);
                self.push(at, What::Arrive(to, copy));
            }
            match first {
                Some(at) => self.push(at, What::Arrive(to, frame)),
                None => self.out.recycle(frame),
            }
        }
        self.out.frames.clear();
    }
}

impl<T: Node> Index<Id<T>> for Network {
    type Output = T;
    fn index(&self, id: Id<T>) -> &T {
        let node: &dyn Any = &*self.places[id.0].node;
        // An id is made by `add` alone, with the node's own type; only one of another network can miss.
        node.downcast_ref().expect("the id belongs to another network")
    }
}

impl<T: Node> IndexMut<Id<T>> for Network {
    fn index_mut(&mut self, id: Id<T>) -> &mut T {
        let node: &mut dyn Any = &mut *self.places[id.0].node;
        node.downcast_mut().expect("the id belongs to another network")
    }
}

#[cfg(test)]
mod tests {
    use super::switch::Switch;
    use super::*;

    /// Sends a numbered frame at each of its times and writes down what it gets.
    struct Ticker {
        address: u8,
        to: u8,
        times: Vec<Nanos>,
        got: Vec<(Nanos, u8)>,
    }

    impl Ticker {
        fn new(address: u8, to: u8, times: &[Nanos]) -> Self {
            Ticker { address, to, times: times.to_vec(), got: vec![] }
        }
    }

    impl Node for Ticker {
        fn receive(&mut self, _: usize, frame: Vec<u8>, now: Nanos, out: &mut Outbox) -> Option<Nanos> {
            if frame[5] == self.address {
                self.got.push((now - BEGIN, frame[14]));
            }
            out.recycle(frame);
            None
        }
        fn poll(&mut self, now: Nanos, out: &mut Outbox) -> Option<Nanos> {
            while self.times.first().is_some_and(|&t| BEGIN + t <= now) {
                let mut frame = out.buffer();
                frame.resize(60, 0);
                frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, self.to]);
                frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, self.address]);
                frame[14] = self.times.len() as u8;
                self.times.remove(0);
                out.send(0, frame);
            }
            self.times.first().map(|t| BEGIN + t)
        }
    }

    #[test]
    fn frames_cross_the_switch_when_they_should_and_the_clock_stops_at_the_limit() {
        let mut net = Network::new(1);
        let a = net.add("a", Ticker::new(1, 2, &[0, 5_000, 50_000]));
        let b = net.add("b", Ticker::new(2, 1, &[30_000]));
        let switch = net.add("switch", Switch::new());
        let link = net.connect(a, switch, Faults::NONE);
        net.connect(b, switch, Faults { delay: 1_000, ..Faults::NONE });
        assert!(net.run(BEGIN + SECOND, |n| n[b].got.len() == 3));
        assert_eq!(net[b].got, [(11_000, 3), (16_000, 2), (61_000, 1)]);
        assert_eq!(net[a].got, [(41_000, 1)]);
        assert_eq!(net[switch].flooded, 2); // until address 2 was seen
        net.set_up(link, false);
        net[a].times = vec![70_000];
        net.wake(a);
        net.run_for(SECOND);
        assert_eq!(net[b].got.len(), 3);
        assert_eq!(net.counts(link)[0].lost, 1);
        assert_eq!(net.now(), BEGIN + 61_000 + SECOND);
    }

    #[test]
    fn the_same_seed_gives_the_same_run_and_another_gives_another() {
        let run = |seed| {
            let mut net = Network::new(seed);
            let times: Vec<Nanos> = (0..200).map(|i| i * 10_000).collect();
            let a = net.add("a", Ticker::new(1, 2, &times));
            let b = net.add("b", Ticker::new(2, 1, &[]));
            net.connect(a, b, Faults { corrupt: 0.0, ..Faults::all(0.1) });
            net.run_for(SECOND);
            net[b].got.clone()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(1).len() > 150);
    }
}
