//! Connections whose server was guessed rightly: how the bench opens them, and what they cost beside those that are only forwarded.
//!
//! Issue: after its first data such a connection must take the very path of a forwarded one. That is measured in cycles, and
//! counted: how often each stage was called, and for how many frames, over the same frames in the same order.

use super::{Bench, NOW, Options, StagesError, check};
use crate::connections::frame;
use crate::pauses::Turns;
use crate::summary::Summary;
use crate::wire::Wire;
use lcs_dataplane::cycles::{Meter, Tsc};
use lcs_dataplane::headers::protocol;
use lcs_dataplane::headers::tcp::flags::{ACK, PSH, RST, SYN};
use lcs_pipelines::snapshot::Forward;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// A port of every client that none of its flows has.
const PROVES: u16 = 1023;
/// Connections that are opened at a time: a worker guesses for no more than 1,024 half-open ones.
const AT_ONCE: usize = 128;

/// Established connections of a right guess against plainly forwarded ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// How packets reach the servers.
    pub forward: Forward,
    /// Established flows.
    pub flows: usize,
    /// Packets of a round.
    pub packets: usize,
    /// TSC cycles a packet, plainly forwarded.
    pub plain: Summary,
    /// TSC cycles a packet, guessed rightly.
    pub guessed: Summary,
    /// The second to the first, by round: each has both twice, in the order plain, guessed, guessed, plain.
    pub ratio: Summary,
    /// What guessed packets cost more, TSC cycles a packet, by round.
    pub extra: Summary,
    /// Stages by name: how many frames more each has worked on for guessed packets than for as many plain ones.
    pub extra_frames: Vec<(String, i64)>,
    /// Calls of stages that guessed packets had and plain ones had not, or the other way round.
    pub other_calls: u64,
    /// Guessed connections that are none of layer 4: somebody still looks at what passes them.
    pub kept: usize,
    /// Connections whose entry chooses another path through the forwarding stage than the plainly forwarded one's does. Stages alone
    /// don't show that: what is spliced and needs nobody is forwarded by the same stage, by other code.
    pub other_paths: usize,
}

impl Against {
    /// Whether both went through the same stages, as often, with as many frames, and by the same way through them.
    pub fn is_same_path(&self) -> bool {
        self.kept == 0
            && self.other_paths == 0
            && self.other_calls == 0
            && self.extra_frames.iter().all(|(_, frames)| *frames == 0)
    }
}

/// Measures established connections of right guesses against plainly forwarded ones, over the memory port. The options' own
/// `splice`, `preallocate` and `accounting` don't count.
///
/// # Errors
/// Options out of range, IPv6, a way of forwarding other than NAT and direct routing; frames that were not forwarded.
pub fn against_forwarding(o: &Options) -> Result<Against, StagesError> {
    let plain = Options { splice: false, preallocate: false, accounting: false, ..o.clone() };
    let guessing = Options { preallocate: true, ..plain.clone() };
    check(&guessing)?;
    let (mut plain, mut guessed) = (Bench::new(&plain, Tsc), Bench::new(&guessing, Tsc));
    plain.fill()?;
    let kept = guessed.guess_all()?;
    against(o, plain, guessed, kept)
}

/// Two benches with the same flows, all open, in turns; `kept` of the second's are none of layer 4.
fn against<P: Wire>(
    o: &Options,
    mut plain: Bench<P, Tsc>,
    mut guessed: Bench<P, Tsc>,
    kept: usize,
) -> Result<Against, StagesError> {
    for bench in [&mut plain, &mut guessed] {
        bench.round()?;
    }
    let (mut all, mut ratios, mut extra) = ([vec![], vec![]], vec![], vec![]);
    let before = [plain.report(), guessed.report()];
    for _ in 0..o.rounds {
        let first = plain.round()?;
        let both = guessed.round()? + guessed.round()?;
        let plains = first + plain.round()?;
        all[0].push(plains / 2.0);
        all[1].push(both / 2.0);
        ratios.push(both / plains);
        extra.push((both - plains) / 2.0);
    }
    let after = [plain.report(), guessed.report()];
    let path = |bench: &Bench<P, Tsc>, k| {
        let (client, service) = bench.traffic.client_side(k);
        bench.worker.pipeline().path(client, service, protocol::TCP)
    };
    let other_paths = (0..o.flows).filter(|&k| path(&plain, k).is_none_or(|p| path(&guessed, k) != Some(p))).count();
    // Both have had the same flows in the same order: benches draw alike.
    let [p, g] = [0, 1].map(|at| {
        let stages = after[at].stages.iter().zip(&before[at].stages);
        let since = |(a, b): (&(String, _), &(String, _))| (a.0.clone(), count(&a.1, &b.1));
        stages.map(since).collect::<Vec<(String, [i64; 2])>>()
    });
    let other_calls = p.iter().zip(&g).map(|((_, p), (_, g))| p[0].abs_diff(g[0])).sum();
    let extra_frames = p.into_iter().zip(g).map(|((name, p), (_, g))| (name, g[1] - p[1])).collect();
    let [plain, guessed] = all.map(Summary::of);
    Ok(Against {
        forward: o.forward,
        flows: o.flows,
        packets: o.packets,
        plain,
        guessed,
        ratio: Summary::of(ratios),
        extra: Summary::of(extra),
        extra_frames,
        other_calls,
        kept,
        other_paths,
    })
}

/// Calls and frames between two reports.
fn count(after: &lcs_dataplane::cycles::StageCost, before: &lcs_dataplane::cycles::StageCost) -> [i64; 2] {
    [(after.calls - before.calls) as i64, (after.packets - before.packets) as i64]
}

impl<P: Wire, M: Meter> Bench<P, M> {
    /// Opens all flows by guesses that are right, up to where nothing of them is looked at any more; how many still are.
    pub(super) fn guess_all(&mut self) -> Result<usize, StagesError> {
        let flows = self.options.flows;
        if !self.options.forward.replies_return() {
            self.prove_all()?;
        }
        let mut from = 0;
        while from < flows {
            let to = flows.min(from + AT_ONCE);
            self.guess(from, to)?;
            from = to;
        }
        Ok(self.report().content.connections)
    }

    /// Has every client prove its address by a connection that the director answers itself: servers that answer directly are
    /// guessed for no others.
    fn prove_all(&mut self) -> Result<(), StagesError> {
        let mut last: Option<IpAddr> = None;
        for k in 0..self.options.flows {
            let (client, service) = self.traffic.client_side(k);
            // Flows of a client are neighbours.
            if last.replace(client.ip()) == Some(client.ip()) {
                continue;
            }
            let client = SocketAddr::new(client.ip(), PROVES);
            let mut isn = None;
            self.put(&frame(client, service, SYN, 0, 0, &[]), |b| isn = Some(sequence(b)));
            let Some(isn) = isn else { return Err(self.lost(1, 0)) };
            self.put(&frame(client, service, ACK, 1, isn.wrapping_add(1), &[]), |_| {});
            self.put(&frame(client, service, RST, 1, 0, &[]), |_| {});
        }
        Ok(())
    }

    /// One frame, and what the director makes of it.
    fn put(&mut self, frame: &[u8], mut sent: impl FnMut(&[u8])) {
        let _ = self.worker.port_mut().inject(0, frame);
        self.drain(&mut Turns::default());
        self.worker.port_mut().take_sent(|_, b| sent(b));
    }

    /// Carries the connections `from..to` to where their request has proved the guess right.
    fn guess(&mut self, from: usize, to: usize) -> Result<(), StagesError> {
        let request = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
        let mut quiet = Turns::default();
        let group = to - from;
        for k in from..to {
            let (client, service) = self.traffic.client_side(k);
            let _ = self.worker.port_mut().inject(0, &frame(client, service, SYN, 0, 0, &[]));
        }
        self.drain(&mut quiet);
        let traffic = &mut self.traffic;
        let sent = self.worker.port_mut().take_sent(|_, b| traffic.opened(b));
        if sent != group {
            return Err(self.lost(group as u64, sent as u64));
        }
        // The guessed server's own answer, where it passes the director, its acknowledgement, and the request.
        for step in 0..3 {
            let mut expected = 0;
            for k in from..to {
                let (client, service) = self.traffic.client_side(k);
                let frame = match (step, self.traffic.server_side(k)) {
                    (0, Some((server, client))) => frame(server, client, SYN | ACK, 0, 1, &[]),
                    (0, None) => continue,
                    (1, _) => frame(client, service, ACK, 1, 1, &[]),
                    _ => frame(client, service, ACK | PSH, 1, 1, request),
                };
                // A directly answering server's acknowledgement is held until its request comes.
                expected += usize::from(step != 1 || self.options.forward.replies_return());
                let _ = self.worker.port_mut().inject(0, &frame);
            }
            self.drain(&mut quiet);
            let sent = self.worker.port_mut().take_sent(|_, _| {});
            if sent < expected {
                return Err(self.lost(expected as u64, sent as u64));
            }
        }
        self.worker.between(NOW);
        self.worker.port_mut().take_sent(|_, _| {});
        Ok(())
    }
}

/// The sequence number of a TCP segment over IPv4 without options.
fn sequence(b: &[u8]) -> u32 {
    b.get(38..42).map_or(0, |n| u32::from_be_bytes([n[0], n[1], n[2], n[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(forward: Forward) -> Options {
        Options { forward, flows: 700, rounds: 2, packets: 3000, servers: 3, ..Options::default() }
    }

    /// The connection of a right guess is one of layer 4: every frame of it goes through the stages of a forwarded one, no more and
    /// no fewer, and none through that which reads requests.
    #[test]
    fn a_right_guess_takes_the_very_path_of_a_forwarded_connection() {
        for forward in [Forward::Nat, Forward::Dr] {
            let against = against_forwarding(&options(forward)).unwrap_or_else(|e| panic!("{forward:?}: {e}"));
            assert!(against.is_same_path(), "{against:?}");
            assert!(against.extra_frames.iter().any(|(name, _)| name == "bind"), "{against:?}");
            assert!(against.ratio.median > 0.0 && against.ratio.rounds == 2, "{against:?}");
        }
    }

    /// What is compared would show it: connections that are spliced take another path, though the same stage forwards them.
    #[test]
    fn a_spliced_connection_does_not() {
        let o = options(Forward::Nat);
        let benches = [false, true].map(|splice| {
            let mut bench = Bench::new(&Options { splice, ..o.clone() }, Tsc);
            bench.fill().unwrap();
            bench
        });
        let [plain, mut spliced] = benches;
        let kept = spliced.report().content.connections;
        let against = against(&o, plain, spliced, kept).unwrap();
        assert!(!against.is_same_path(), "{against:?}");
        assert_eq!((against.kept, against.other_paths), (o.flows, o.flows));
    }

    #[test]
    fn what_cannot_be_guessed_here_is_refused() {
        for o in [Options { ipv6: true, size: 78, ..options(Forward::Nat) }, options(Forward::Tunnel)] {
            assert!(against_forwarding(&o).unwrap_err().to_string().contains("preallocate"), "{o:?}");
        }
    }
}
