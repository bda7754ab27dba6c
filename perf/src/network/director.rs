//! The director as a node: the product's own workers over memory ports, polled on the network's clock.

use super::{MICROSECOND, MILLISECOND, Node, Outbox};
use lcs_dataplane::cycles::Meter;
use lcs_dataplane::headers::{ipv4, ipv6, parse};
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::port::{PoolCounts, Port};
use lcs_dataplane::spread;
use lcs_dataplane::worker::{Counters, Nanos, Pipeline, Worker};
use std::net::IpAddr;

/// Which worker gets a frame: from its interface and bytes to the worker's number.
pub type Steering = Box<dyn FnMut(u8, &[u8]) -> usize>;

/// Threads beside the workers take a turn; whether they did something.
pub type Beside = Box<dyn FnMut() -> bool>;

/// Gatherings after which workers look again for what threads beside them have in hand.
const LOOK_AGAIN: Nanos = 50;

/// Turns that workers take for one poll at most; what is left then is done in the next poll.
const TURNS: usize = 4096;

/// A director of one or several workers, each with a memory port that has all the interfaces.
pub struct Director<L: Pipeline, M: Meter> {
    workers: Vec<Worker<MemoryPort, L, M>>,
    steering: Steering,
    beside: Option<Beside>,
    gather: Nanos,
    period: Nanos,
    /// Frames lost because a worker's pool had no free buffer, or the frame was longer than one.
    pub overruns: u64,
}

impl<L: Pipeline, M: Meter> std::fmt::Debug for Director<L, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Director {{ workers: {}, overruns: {} }}", self.workers.len(), self.overruns)
    }
}

impl<L: Pipeline, M: Meter> Director<L, M> {
    /// A director of these workers; all frames go to the first until [`Director::steered`] says otherwise.
    ///
    /// # Panics
    /// Without any worker.
    pub fn new(workers: Vec<Worker<MemoryPort, L, M>>) -> Self {
        assert!(!workers.is_empty(), "a director has at least one worker");
        Director {
            workers,
            steering: Box::new(|_, _| 0),
            beside: None,
            gather: 2 * MICROSECOND,
            period: 50 * MILLISECOND,
            overruns: 0,
        }
    }

    /// The same director with this steering. A number beyond the workers is taken modulo their count.
    #[must_use]
    pub fn steered(mut self, steering: Steering) -> Self {
        self.steering = steering;
        self
    }

    /// The same director with threads beside its workers.
    #[must_use]
    pub fn with_beside(mut self, beside: Beside) -> Self {
        self.beside = Some(beside);
        self
    }

    /// The same director with this time from the arrival of a frame to the turn that receives it, in which others may
    /// join its burst (2 µs), and this time between turns without frames, for timers and commands (50 ms).
    #[must_use]
    pub fn timed(mut self, gather: Nanos, period: Nanos) -> Self {
        (self.gather, self.period) = (gather, period.max(1));
        self
    }

    /// Changes the time between turns without frames: where nothing is left but to wait for time-outs, fewer turns do.
    pub fn set_period(&mut self, period: Nanos) {
        self.period = period.max(1);
    }

    /// The workers.
    pub fn workers(&self) -> &[Worker<MemoryPort, L, M>] {
        &self.workers
    }

    /// The workers, mutable. [`super::Network::wake`] the director after a command.
    pub fn workers_mut(&mut self) -> &mut [Worker<MemoryPort, L, M>] {
        &mut self.workers
    }

    /// Carries out a command on every worker at once, without rings.
    pub fn command(&mut self, mut command: impl FnMut() -> L::Command, now: Nanos) -> Vec<L::Acknowledgement> {
        self.workers.iter_mut().map(|w| w.command(command(), now)).collect()
    }

    /// Checks that every buffer is back in its pool and every received frame has had exactly one end.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        for (i, worker) in self.workers.iter().enumerate() {
            let pool = worker.port().pool();
            if pool != (PoolCounts { total: pool.total, free: pool.total, ..PoolCounts::default() }) {
                return Err(format!("worker {i}: not every buffer has come back: {pool:?}"));
            }
            let c = worker.counters();
            let (begun, ended) = (c.received + c.taken_over, ends(c));
            if begun != ended {
                return Err(format!("worker {i}: {begun} frames were received or taken over and {ended} ended: {c:?}"));
            }
        }
        let sum = |f: fn(&Counters) -> u64| self.workers.iter().map(|w| f(w.counters())).sum::<u64>();
        let (handed, taken) = (sum(|c| c.handed_over), sum(|c| c.taken_over));
        if handed != taken {
            return Err(format!("{handed} frames were handed over and {taken} taken over"));
        }
        Ok(())
    }
}

fn ends(c: &Counters) -> u64 {
    c.forwarded + c.consumed + c.to_kernel + c.handed_over + c.dropped_total()
}

impl<L: Pipeline + 'static, M: Meter + 'static> Node for Director<L, M> {
    fn receive(&mut self, nic: usize, frame: Vec<u8>, now: Nanos, out: &mut Outbox) -> Option<Nanos> {
        let interface = nic as u8;
        let worker = (self.steering)(interface, &frame) % self.workers.len();
        if !self.workers[worker].port_mut().inject(interface, &frame) {
            self.overruns += 1;
        }
        out.recycle(frame);
        Some(now + self.gather)
    }

    fn poll(&mut self, now: Nanos, out: &mut Outbox) -> Option<Nanos> {
        let mut busy = true;
        for _ in 0..TURNS {
            busy = false;
            for worker in &mut self.workers {
                busy |= worker.poll(now) > 0;
            }
            if let Some(beside) = &mut self.beside {
                busy |= beside();
            }
            if !busy {
                break;
            }
        }
        for worker in &mut self.workers {
            worker.between(now);
            worker.port_mut().take_sent(|interface, bytes| {
                let mut frame = out.buffer();
                frame.extend_from_slice(bytes);
                out.send(usize::from(interface), frame);
            });
        }
        let awaits = self.workers.iter().any(|worker| worker.pipeline().awaits());
        let rest = if awaits { (self.gather * LOOK_AGAIN).min(self.period) } else { self.period };
        Some(now + if busy { self.gather } else { rest })
    }
}

/// Steers by the client's endpoint, as RSS does that looks at the source on the client side and at the destination on
/// the server side ([`spread`]): a packet to one of the `services` comes from its client, every other goes to one.
/// Fragments and ICMP are steered by the client's address and no port.
pub fn by_client(services: Vec<IpAddr>) -> Steering {
    Box::new(move |_, frame| {
        let Ok(parsed) = parse(frame, false) else { return 0 };
        let packet = frame.get(usize::from(parsed.l3)..).unwrap_or_default();
        let (source, destination): (IpAddr, IpAddr) = match packet.first().map(|b| b >> 4) {
            Some(4) => match ipv4::Ipv4::parse(packet) {
                Ok(ip) => (ip.source().into(), ip.destination().into()),
                Err(_) => return 0,
            },
            Some(6) => match ipv6::Ipv6::parse(packet) {
                Ok(ip) => (ip.source().into(), ip.destination().into()),
                Err(_) => return 0,
            },
            _ => return 0,
        };
        let ports = parsed.ports.to_ne_bytes();
        let (client, port) = if services.contains(&destination) {
            (source, [ports[0], ports[1]])
        } else {
            (destination, [ports[2], ports[3]])
        };
        spread::hash(client, u16::from_be_bytes(port)).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::headers::build::Packet;

    #[test]
    fn both_directions_of_a_connection_are_steered_alike_and_connections_differ() {
        let vip = "192.0.2.1:80".parse().unwrap();
        let mut steer = by_client(vec!["192.0.2.1".parse().unwrap()]);
        let mut seen = [0; 4];
        for port in 1000..1400 {
            let client = std::net::SocketAddr::new("198.51.100.7".parse().unwrap(), port);
            let there = steer(0, &Packet::tcp(client, vip, 2).frame()) % 4;
            // A reply as the server sends it: from its own address.
            let back = steer(1, &Packet::tcp("10.0.0.9:8080".parse().unwrap(), client, 0x12).frame()) % 4;
            assert_eq!(there, back);
            seen[there] += 1;
        }
        assert!(seen.iter().all(|&n| n > 50), "{seen:?}");
        assert_eq!(steer(0, b"short"), 0);
    }
}
