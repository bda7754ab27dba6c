//! The harness around a pipeline, proved with the simplest one: a bridge between two interfaces.

use lcs_dataplane::batch::Batch;
use lcs_dataplane::cycles::{Meter, NoMeter, Stopwatch};
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::ring::Handover;
use lcs_dataplane::verdict::{DropReason, Verdict};
use lcs_dataplane::worker::{Counters, Nanos, Pipeline, Worker};
use lcs_perf::network::director::Director;
use lcs_perf::network::host::Host;
use lcs_perf::network::http::{HttpClient, HttpServer, Request, Script};
use lcs_perf::network::link::Faults;
use lcs_perf::network::stack::Settings;
use lcs_perf::network::{Id, Network, SECOND};

/// Sends every frame out of the other interface. With siblings, the first byte of the client's address decides whose it is.
struct Bridge {
    me: u8,
    workers: u8,
    /// Buffers that it takes and never gives back.
    leaks: bool,
    command: u32,
    turns: u64,
}

impl Pipeline for Bridge {
    type Command = u32;
    type Acknowledgement = u32;
    type Event = ();

    fn process<P: Port, M: Meter>(&mut self, port: &mut P, batch: &mut Batch, _: Nanos, _: &mut Stopwatch<'_, M>) {
        for i in 0..batch.len {
            let length = batch.frames[i].len();
            let owner = (length % usize::from(self.workers)) as u8;
            if owner != self.me && !batch.from_sibling {
                (batch.verdict[i], batch.tx[i]) = (Verdict::HandOver, owner);
            } else {
                (batch.verdict[i], batch.tx[i]) = (Verdict::Forward, 1 - batch.rx[i]);
            }
        }
        if self.leaks {
            let _leaked = port.allocate();
        }
    }

    fn command(&mut self, command: u32, _: &Counters, _: Nanos) -> u32 {
        std::mem::replace(&mut self.command, command)
    }

    fn housekeeping<P: Port>(&mut self, _: &mut P, _: Nanos) -> bool {
        self.turns += 1;
        false
    }

    fn event(&mut self) -> Option<()> {
        None
    }
}

type Node = Director<Bridge, NoMeter>;

/// A client and a server with a bridge of this many workers between them.
fn bridged(workers: u8, leaks: bool, buffers: usize) -> (Network, Id<Node>, Id<Host>) {
    let mut net = Network::new(9);
    let mut lanes = Handover::mesh(usize::from(workers)).into_iter();
    let worker = |me| {
        let bridge = Bridge { me, workers, leaks, command: 0, turns: 0 };
        let worker = Worker::new(MemoryPort::new(2, buffers), bridge, NoMeter);
        match lanes.next() {
            Some(lane) if workers > 1 => worker.with_handover(lane),
            _ => worker,
        }
    };
    let mut turn = 0;
    let director = Director::new((0..workers).map(worker).collect());
    let director = director.steered(Box::new(move |_, _| {
        turn += 1;
        turn
    }));
    let director = net.add("bridge", director);
    let to = "192.0.2.2:80".parse().unwrap();
    let script = move |n: u64| (n < 30).then(|| Script::new(to, vec![Request::get(&format!("/{}", n * 700))]));
    let client = Host::new(Settings::new(1, &["192.0.2.1/24"])).with(HttpClient::new(3, script));
    let client = net.add("client", client);
    let server = net.add("server", Host::new(Settings::new(2, &["192.0.2.2/24"])).with(HttpServer::new("s", 80)));
    net.connect(director, client, Faults::NONE);
    net.connect(director, server, Faults::NONE);
    (net, director, client)
}

fn finish(net: &mut Network, client: Id<Host>) -> (u64, u64) {
    let limit = net.now() + 100 * SECOND;
    let done = net.run(limit, |n| n[client].application::<HttpClient>().finished());
    assert!(done, "{:?}", net[client].application::<HttpClient>());
    let seen = &net[client].application::<HttpClient>().seen;
    (seen.answered, seen.failed)
}

#[test]
fn frames_go_through_one_worker_or_several_and_all_are_accounted_for() {
    for workers in [1, 3] {
        let (mut net, director, client) = bridged(workers, false, 256);
        assert_eq!(finish(&mut net, client), (30, 0));
        net.run_for(SECOND);
        let d = &net[director];
        d.check().unwrap();
        let sum = |f: fn(&Counters) -> u64| d.workers().iter().map(|w| f(w.counters())).sum::<u64>();
        assert!(sum(|c| c.forwarded) > 30 * 8);
        assert_eq!(sum(|c| c.handed_over) > 0, workers > 1);
        assert_eq!(d.overruns, 0);
    }
}

#[test]
fn a_leaked_buffer_and_an_empty_pool_are_noticed() {
    let (mut net, director, client) = bridged(1, true, 4096);
    assert_eq!(finish(&mut net, client), (30, 0));
    assert!(net[director].check().unwrap_err().contains("not every buffer has come back"));
    let (mut net, director, _) = bridged(1, true, 40);
    net.run_for(100 * SECOND);
    assert!(net[director].overruns > 0);
}

#[test]
fn workers_are_turned_without_frames_and_take_commands() {
    let (mut net, director, client) = bridged(2, false, 256);
    finish(&mut net, client);
    let before = net[director].workers()[0].pipeline().turns;
    net.run_for(10 * SECOND);
    let after = net[director].workers()[0].pipeline().turns;
    // Every 100 ms.
    assert!((90..=110).contains(&(after - before)), "{}", after - before);
    let now = net.now();
    assert_eq!(net[director].command(|| 7, now), [0, 0]);
    assert_eq!(net[director].command(|| 8, now), [7, 7]);
}

#[test]
fn a_full_transmit_ring_costs_frames_and_not_answers() {
    let (mut net, director, client) = bridged(1, false, 256);
    net[director].workers_mut()[0].port_mut().limit_transmit(1);
    assert_eq!(finish(&mut net, client), (30, 0));
    net[director].check().unwrap();
    assert!(net[director].workers()[0].counters().dropped_for(DropReason::TransmitFull) > 0);
}
