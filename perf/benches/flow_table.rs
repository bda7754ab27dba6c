//! Why the flow table is our own: a batch of look-ups with prefetch, against `hashbrown`.
//!
//! `cargo bench -p lcs-perf --bench flow_table`. Three ways to find and touch the flow of each packet of a burst of 32, both
//! directions, flows in random order, interleaved round by round:
//!
//! - *ours*: [`FlowTable`], three passes (hash and ask for the bucket, ask for the entry, verify and write);
//! - *hashbrown*: a `HashMap` from key to entry number, then the entry; packet by packet;
//! - *hashbrown, entries prefetched*: the same map for the whole burst first, then the entries. (The map itself has no prefetch.)
//!
//! The map stands on whatever pages the allocator gives; `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` gives it huge pages, which ours
//! asks for itself. Without `--bench` (under `cargo test`) only the smallest size runs, to see that all three find every flow.

use hashbrown::HashMap;
use lcs_dataplane::BURST;
use lcs_dataplane::cycles::tsc;
use lcs_dataplane::flow::{FlowTable, Key, Place};
use lcs_dataplane::prefetch::prefetch;
use lcs_perf::summary::Summary;
use std::hint::black_box;

const TCP: u8 = 6;
const PACKETS: usize = 1 << 16;

/// A flow's entry as ours is: one cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Entry {
    addresses: [u64; 2],
    ports: [u32; 2],
    packets: [u32; 2],
}

/// A packet's addresses and ports.
type Tuple = (u64, u32);

/// Both directions of flow `n`: neighbouring clients and ports, as real ones are.
fn tuples(n: usize) -> [Tuple; 2] {
    let (client, port) = (0x0a00_0001 + (n / 50_000) as u64, 1024 + (n % 50_000) as u32);
    [(client | 0xc612_0000 << 32, port | 80 << 16), ((0xac10_0001 + n as u64 % 3) | client << 32, 8080 | port << 16)]
}

fn next_random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

struct Bench {
    ours: FlowTable,
    map: HashMap<Tuple, u32>,
    entries: Vec<Entry>,
    packets: Vec<Tuple>,
    random: u64,
}

impl Bench {
    fn new(flows: usize) -> Self {
        let mut ours = FlowTable::new(flows + flows / 5, 1);
        let mut map = HashMap::with_capacity(2 * flows);
        let mut entries = Vec::with_capacity(flows);
        for n in 0..flows {
            let both = tuples(n);
            let [client, server] = both.map(|(addresses, ports)| Key::V4 { addresses, ports });
            assert!(ours.insert(TCP, &client, Some(&server)).is_ok(), "flow {n}");
            for (side, tuple) in both.into_iter().enumerate() {
                map.insert(tuple, Place::new(n as u32, side).0);
            }
            entries.push(Entry { addresses: both.map(|t| t.0), ports: both.map(|t| t.1), packets: [0; 2] });
        }
        Bench { ours, map, entries, packets: Vec::with_capacity(PACKETS), random: 0x1234_5678_9abc_def1 }
    }

    /// Other packets, in random order.
    fn draw(&mut self) {
        self.packets.clear();
        let flows = self.entries.len();
        for _ in 0..PACKETS {
            let r = next_random(&mut self.random);
            self.packets.push(tuples((r >> 33) as usize % flows)[(r & 1) as usize]);
        }
    }

    fn ours(&mut self) -> usize {
        let mut found = 0;
        for burst in self.packets.chunks_exact(BURST) {
            let (mut hashes, mut places) = ([0; BURST], [Place(u32::MAX); BURST]);
            let finder = self.ours.finder();
            for (hash, p) in hashes.iter_mut().zip(burst) {
                *hash = finder.hasher().v4(p.0, p.1, TCP);
                finder.prefetch(*hash);
            }
            for (place, hash) in places.iter_mut().zip(hashes) {
                if let Some(p) = finder.candidate(hash) {
                    finder.prefetch_flow(p);
                    *place = p;
                }
            }
            for ((place, hash), p) in places.iter_mut().zip(hashes).zip(burst) {
                if !self.ours.finder().is_tcp_v4(*place, p.0, p.1) {
                    let key = Key::V4 { addresses: p.0, ports: p.1 };
                    let Some(second) = self.ours.find_hashed(&key, TCP, hash) else { continue };
                    *place = second;
                }
                let _ = self.ours.get_mut(place.flow()).count(place.side(), 40);
                found += 1;
            }
        }
        found
    }

    fn hashbrown(&mut self) -> usize {
        let mut found = 0;
        for p in &self.packets {
            let Some(place) = self.map.get(p).map(|&p| Place(p)) else { continue };
            found += usize::from(touch(&mut self.entries, place, p));
        }
        found
    }

    fn hashbrown_prefetched(&mut self) -> usize {
        let mut found = 0;
        for burst in self.packets.chunks_exact(BURST) {
            let mut places = [Place(u32::MAX); BURST];
            for (place, p) in places.iter_mut().zip(burst) {
                if let Some(&at) = self.map.get(p) {
                    *place = Place(at);
                    prefetch(&self.entries[place.flow() as usize]);
                }
            }
            for (place, p) in places.iter().zip(burst) {
                found += usize::from(place.0 != u32::MAX && touch(&mut self.entries, *place, p));
            }
        }
        found
    }
}

/// Verifies and counts, as a director does with the entry that it has found.
fn touch(entries: &mut [Entry], place: Place, p: &Tuple) -> bool {
    let (entry, side) = (&mut entries[place.flow() as usize], place.side());
    entry.packets[side] += 1;
    entry.addresses[side] == p.0 && entry.ports[side] == p.1
}

fn main() {
    let real = std::env::args().any(|a| a == "--bench");
    let (sizes, rounds): (&[usize], usize) =
        if real { (&[1_000, 100_000, 1_000_000, 10_000_000], 31) } else { (&[1_000], 3) };
    println!("TSC cycles a packet, both directions, random order: median (quartiles) of {rounds} interleaved rounds");
    println!("{:>10}  {:>22}  {:>22}  {:>22}", "flows", "ours", "hashbrown", "hashbrown, prefetched");
    for &flows in sizes {
        let mut bench = Bench::new(flows);
        let ways: [fn(&mut Bench) -> usize; 3] = [Bench::ours, Bench::hashbrown, Bench::hashbrown_prefetched];
        let mut cycles: [Vec<f64>; 3] = Default::default();
        for round in 0..rounds + 1 {
            for (way, cycles) in ways.iter().zip(&mut cycles) {
                bench.draw();
                let before = tsc();
                let found = black_box(way(&mut bench));
                let each = (tsc() - before) as f64 / PACKETS as f64;
                assert_eq!(found, PACKETS, "a flow was not found");
                // The first round warms up.
                if round > 0 {
                    cycles.push(each);
                }
            }
        }
        let [a, b, c] = cycles.map(|v| {
            let s = Summary::of(v);
            format!("{:.1} ({:.1} – {:.1})", s.median, s.quartiles.0, s.quartiles.1)
        });
        println!("{flows:>10}  {a:>22}  {b:>22}  {c:>22}");
    }
}
