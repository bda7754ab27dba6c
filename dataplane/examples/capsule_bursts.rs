//! What a burst costs in capsule's way (a vector of packets each time, twice) and in ours, on `net_null` devices that bring frames
//! for ever: receive 32, send 32.
//!
//! `cargo run --release -p lcs-dataplane --features dpdk --example capsule_bursts [capsule|port]`; DPDK starts once in a
//! process, so each way is a run of its own.

use capsule::batch::{self, PacketRx, PacketTx};
use capsule::config::RuntimeConfig;
use capsule::{PortQueue, Runtime};
use lcs_dataplane::batch::BURST;
use lcs_dataplane::cycles::{tsc, tsc_hz};
use lcs_dataplane::frame::Frame;
use lcs_dataplane::port::Port;
use lcs_dataplane::port::dpdk::{Device, Options, open};
use std::time::Duration;

/// Short rounds, and many: most are not interrupted by anything else that the machine does.
const ROUNDS: usize = 2001;
const BURSTS: usize = 500;

fn main() {
    let way = std::env::args().nth(1).unwrap_or_else(|| "port".to_owned());
    let result = match way.as_str() {
        "capsule" => by_capsule(),
        "port" => by_port(),
        other => Err(format!("{other:?} is neither capsule nor port")),
    };
    if let Err(why) = result {
        eprintln!("{why}");
        std::process::exit(1);
    }
}

/// Cycles a packet of each round, sorted.
fn measure(name: &str, mut burst: impl FnMut() -> usize) {
    let mut costs: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let started = tsc();
            let packets: usize = (0..BURSTS).map(|_| burst()).sum();
            tsc().wrapping_sub(started) as f64 / packets as f64
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    let (low, middle, high) = (costs[ROUNDS / 4], costs[ROUNDS / 2], costs[ROUNDS * 3 / 4]);
    let ghz = tsc_hz() as f64 / 1e9;
    println!(
        "{name}: {middle:.1} cycles a packet ({low:.1} – {high:.1}), {:.1} Mpps at {ghz:.3} GHz",
        ghz * 1e3 / middle
    );
}

fn by_capsule() -> Result<(), String> {
    let config = serde_json::json!({
        "app_name": "lcs-bursts", "master_core": 0, "duration": 1,
        "mempool": { "capacity": 4095, "cache_size": 256 },
        "ports": [{ "name": "null", "device": "net_null0", "cores": [0] }],
        "dpdk_args": "--no-huge --no-shconf --no-pci -m 64",
    });
    let config: RuntimeConfig = serde_json::from_value(config).map_err(|e| e.to_string())?;
    let mut runtime = Runtime::build(config).map_err(|e| e.to_string())?;
    let install = |mut queue: PortQueue| {
        measure("capsule's PacketRx and PacketTx", || {
            let packets = PacketRx::receive(&mut queue);
            let n = packets.len();
            PacketTx::transmit(&mut queue, packets);
            n
        });
        batch::splice(queue.clone(), queue)
    };
    runtime.add_pipeline_to_port("null", install).map_err(|e| e.to_string())?;
    runtime.execute().map_err(|e| e.to_string())
}

fn by_port() -> Result<(), String> {
    let options = Options {
        devices: vec![Device::parse("net_null0")?],
        cores: vec![],
        buffers: 2048,
        arguments: Some(["--no-huge", "--no-shconf", "-m", "64"].map(str::to_owned).to_vec()),
        clients: vec![],
    };
    let (environment, mut ports) = open(&options).map_err(|e| e.to_string())?;
    let Some(port) = ports.first_mut() else { return Err("there is no queue".to_owned()) };
    let mut frames: [Frame; BURST] = Default::default();
    let mut interfaces = [0; BURST];
    for _ in 0..2 {
        measure("the port", || {
            let n = port.receive(&mut frames, &mut interfaces);
            for frame in &mut frames[..n] {
                if let Err(frame) = port.transmit(0, std::mem::take(frame)) {
                    port.release(frame);
                }
            }
            port.flush();
            n
        });
        measure("the device alone, in C", || port.reflect());
        port.wait(Duration::from_millis(1), None);
    }
    drop(ports);
    drop(environment);
    Ok(())
}
