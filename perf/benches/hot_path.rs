//! What the packet path must reach, measured: `cargo bench -p lcs-perf --bench hot_path [-- --record]`.
//!
//! Runs [`lcs_perf::stages`] for every figure that the layer-4 goals name. `--record` also writes the result, dated, into
//! `perf/results/`. Without `--bench` (under `cargo test`) everything runs once and small, to see that it runs.
//! A virtual machine's neighbours show in these figures: compare quiet medians, and pin
//! (`taskset -c 1 cargo bench …`). Under a real-time policy (`chrt -f`) the kernel stops the process for 50 ms of each second
//! unless `kernel.sched_rt_runtime_us` is -1, which shows in the longest turns.

use lcs_perf::stages::{Figures, Options, measure};
use lcs_pipelines::snapshot::Forward;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// The size of everything that is measured.
struct Effort {
    small: usize,
    large: usize,
    huge: usize,
    rounds: usize,
    packets: usize,
    repeats: usize,
    services: usize,
    servers: usize,
}

const REAL: Effort = Effort {
    small: 1_000,
    large: 1_000_000,
    huge: 10_000_000,
    rounds: 15,
    packets: 200_000,
    repeats: 3,
    services: 1024,
    servers: 8192,
};
const SMOKE: Effort =
    Effort { small: 100, large: 2_000, huge: 5_000, rounds: 1, packets: 1_000, repeats: 1, services: 4, servers: 8 };

fn run(o: &Options) -> Figures {
    eprintln!("{:?}, {} flows, {} services, {} servers", o.forward, o.flows, o.services, o.servers);
    measure(o, |_| {}).unwrap_or_else(|e| panic!("{o:?}: {e}"))
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

/// Year, month and day of a number of days since 1970 (proleptic Gregorian).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines().find(|l| l.starts_with(name)).and_then(|l| l.split(": ").nth(1)).unwrap_or("unknown").to_owned()
    };
    format!("{}, family {}, model {}", field("model name"), field("cpu family"), field("model\t"))
}

fn main() -> std::io::Result<()> {
    let has = |flag: &str| std::env::args().any(|a| a == flag);
    let e = if has("--bench") { REAL } else { SMOKE };
    let base = Options { rounds: e.rounds, packets: e.packets, ..Options::default() };
    let mut out = String::new();
    let mut say = |line: String| {
        println!("{line}");
        let _ = writeln!(out, "{line}");
    };

    say("Established flows in random order, 64 B TCP, whole worker loop, TSC cycles a packet: median (quartiles)"
        .into());
    say(format!(
        "{:<14} {:>24} {:>24} {:>7} {:>16} {:>12}",
        "",
        format!("{} flows", e.small),
        format!("{} flows", e.large),
        "ratio",
        "new flow",
        "bytes a flow"
    ));
    let modes = [
        ("nat", Forward::Nat, false),
        ("fullnat", Forward::FullNat, false),
        ("dr", Forward::Dr, false),
        ("tun", Forward::Tunnel, false),
        ("nat over IPv6", Forward::Nat, true),
    ];
    for (name, forward, ipv6) in modes {
        let o = Options { forward, ipv6, size: if ipv6 { 78 } else { 64 }, ..base.clone() };
        let [small, large] = [e.small, e.large].map(|flows| run(&Options { flows, ..o.clone() }));
        let text = |f: &Figures| {
            let s = &f.cycles_per_packet;
            format!("{:.1} ({:.1} – {:.1})", s.median, s.quartiles.0, s.quartiles.1)
        };
        say(format!(
            "{name:<14} {:>24} {:>24} {:>7.2} {:>16.0} {:>12.1}",
            text(&small),
            text(&large),
            large.cycles_per_packet.median / small.cycles_per_packet.median,
            large.new_flow_cycles.map_or(f64::NAN, |n| n.median),
            large.bytes_per_flow
        ));
    }

    // Interleaved, so that the machine's drift falls on both.
    let (mut ratios, mut accounting) = (vec![], vec![]);
    for _ in 0..e.repeats {
        let o = Options { flows: e.large, ..base.clone() };
        let few = run(&o).cycles_per_packet.median;
        let many = run(&Options { services: e.services, servers: e.servers, ..o }).cycles_per_packet.median;
        ratios.push(many / few);
        let with = run(&Options { flows: e.small, accounting: true, ..base.clone() });
        accounting.extend(with.accounting_ratio.map(|r| r.median));
    }
    say(format!(
        "\n{} services, {} servers against 1 and 3, {} flows: {:.3} times the cost",
        e.services,
        e.servers,
        e.large,
        median(ratios)
    ));
    say(format!("cycle accounting, {} flows: {:+.1} %", e.small, (median(accounting) - 1.0) * 100.0));

    let huge = run(&Options { flows: e.huge, rounds: 1, ..base });
    say(format!("{} flows, turns while filling: {}", e.huge, huge.filling));
    say(format!("{} flows, turns while expiring: {}", e.huge, huge.expiring));
    say(huge.bare_loop.to_string());

    if has("--record") {
        let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() / 86_400) as i64;
        let (year, month, day) = civil(days);
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/results");
        std::fs::create_dir_all(dir)?;
        let path = format!("{dir}/{year:04}-{month:02}-{day:02}-hot-path.txt");
        let command = "cargo bench -p lcs-perf --bench hot_path -- --record";
        std::fs::write(&path, format!("{command}\n{}\n\n{out}", processor()))?;
        println!("\nwritten to {path}");
    }
    Ok(())
}
