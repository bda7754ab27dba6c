//! What is taken of a cell in one round, and what its rounds come to.

use super::Series;
use crate::summary::Summary;
use lcs_dataplane::worker::Nanos;
use lcs_pipelines::tally::{GuessTally, MigrationTally, PoolTally};
use serde::{Deserialize, Serialize};

/// Times, ns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// The middle one.
    pub p50: Nanos,
    /// What one of a hundred exceeds.
    pub p99: Nanos,
    /// The longest.
    pub max: Nanos,
}

impl Spread {
    pub(super) fn of(mut times: Vec<Nanos>) -> Spread {
        times.sort_unstable();
        let at = |q: f64| times.get(((times.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(0);
        let mean = times.iter().sum::<Nanos>() as f64 / times.len().max(1) as f64;
        Spread { mean, p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// What was seen and counted. On the memory port times are simulated and everything is the same for the same seed, each round, so this is of
/// one round. Over real kernels times are real, and this is of all rounds: sums, times of all connections, medians of the rounds' rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Connections that were carried out.
    pub connections: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Requests that were not: where links lose frames, a connection may be given up.
    pub failed: u64,
    /// Connections (of pools: requests) that were bound otherwise than the series says: not guessed, not taken by a filter, not onto an open
    /// connection.
    pub strays: u64,
    /// From a client's SYN to the last byte of the connection's last response, ns.
    pub response: Spread,
    /// Answers a second, all clients together. On the memory port the director takes no simulated time but 2 µs to gather
    /// a burst, so it is the network's round trips that bound this.
    pub requests_per_second: f64,
    /// Frames that came to the director, a connection.
    pub segments_in: f64,
    /// Frames that it sent.
    pub segments_out: f64,
    /// Bytes of these and those, a request; link-layer header included, FCS not.
    pub bytes_per_request: f64,
    /// Bytes of IP packets from clients that the director passed to servers, a request.
    pub to_servers_per_request: f64,
    /// Bytes of IP packets that it passed or said to clients, a request.
    pub to_clients_per_request: f64,
    /// Bytes of requests that the director held at once, at most; over real kernels nobody looks.
    pub buffered_at_most: Option<usize>,
}

impl Seen {
    /// Frames through the director a connection, in and out.
    pub fn segments(&self) -> f64 {
        self.segments_in + self.segments_out
    }

    /// Real rounds in one.
    pub(super) fn merge(rounds: &[Taken]) -> Seen {
        let sum = |of: fn(&Seen) -> u64| rounds.iter().map(|r| of(&r.seen)).sum();
        let median = |of: fn(&Seen) -> f64| Summary::of(rounds.iter().map(|r| of(&r.seen)).collect()).median;
        Seen {
            connections: sum(|s| s.connections),
            requests: sum(|s| s.requests),
            failed: sum(|s| s.failed),
            strays: sum(|s| s.strays),
            response: Spread::of(rounds.iter().flat_map(|r| r.times.iter().copied()).collect()),
            requests_per_second: median(|s| s.requests_per_second),
            segments_in: median(|s| s.segments_in),
            segments_out: median(|s| s.segments_out),
            bytes_per_request: median(|s| s.bytes_per_request),
            to_servers_per_request: median(|s| s.to_servers_per_request),
            to_clients_per_request: median(|s| s.to_clients_per_request),
            buffered_at_most: None,
        }
    }
}

/// Time of the director's core that its threads were charged, µs a request, over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CpuTime {
    /// Its own threads: work and looking for work.
    pub process_us: Summary,
    /// The kernel's receiving threads on that core.
    pub kernel_us: Summary,
}

/// What one round has taken of a cell.
#[derive(Debug)]
pub(super) struct Taken {
    pub seen: Seen,
    /// Real response times, ns.
    pub times: Vec<Nanos>,
    /// Of the director's busy turns.
    pub cycles: u64,
    pub stages: Vec<(String, u64)>,
    /// Own threads and the kernel's, µs a request.
    pub cpu: Option<[f64; 2]>,
    /// What stands out.
    pub note: Option<String>,
}

/// What a director's counters say between two looks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    /// Bytes to servers.
    pub to_servers: u64,
    /// Bytes to clients.
    pub to_clients: u64,
    right: u64,
    wrong: u64,
    accepted: u64,
    reused: u64,
}

impl Counted {
    /// Adds a service's.
    pub fn add(&mut self, guesses: GuessTally, pool: PoolTally, migrations: MigrationTally) {
        self.right += guesses.right;
        self.wrong += guesses.wrong;
        self.accepted += migrations.accepted;
        self.reused += pool.reused;
    }

    /// Since an earlier look.
    pub fn since(&self, before: &Counted) -> Counted {
        Counted {
            to_servers: self.to_servers.saturating_sub(before.to_servers),
            to_clients: self.to_clients.saturating_sub(before.to_clients),
            right: self.right.saturating_sub(before.right),
            wrong: self.wrong.saturating_sub(before.wrong),
            accepted: self.accepted.saturating_sub(before.accepted),
            reused: self.reused.saturating_sub(before.reused),
        }
    }

    /// [`Seen::strays`] of so many connections, of which so many were to be guessed rightly, with so many requests in all.
    pub fn strays(&self, series: Series, connections: u64, hits: u64, requests: u64) -> u64 {
        match series {
            Series::Pooled => requests.saturating_sub(self.reused),
            Series::Filter => connections.saturating_sub(self.accepted),
            _ if series.hit_rate().is_some() => {
                connections.saturating_sub(self.right.min(hits) + self.wrong.min(connections - hits))
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_takes_the_nearest_rank() {
        let s = Spread::of((1..=100).rev().collect());
        assert_eq!((s.mean, s.p50, s.p99, s.max), (50.5, 51, 99, 100));
        assert_eq!(Spread::of(vec![]).max, 0);
    }

    #[test]
    fn what_is_not_bound_as_the_series_says_is_counted() {
        let counted = Counted { right: 7, wrong: 2, accepted: 9, reused: 29, ..Counted::default() };
        let strays = |series, hits| counted.strays(series, 10, hits, 30);
        assert_eq!(strays(Series::Preallocate(80), 8), 1);
        // More right guesses than were to be right are no right ones.
        assert_eq!(strays(Series::PreallocateDirect(50), 5), 3);
        assert_eq!(strays(Series::Matching, 10), 3);
        assert_eq!((strays(Series::Filter, 0), strays(Series::Pooled, 0), strays(Series::Delayed, 0)), (1, 1, 0));
    }
}
