use lcs_perf::stages::*;
use lcs_pipelines::snapshot::Forward;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let f = match a[1].as_str() {
        "nat" => Forward::Nat,
        "fullnat" => Forward::FullNat,
        "dr" => Forward::Dr,
        _ => Forward::Tunnel,
    };
    let o = Options {
        forward: f,
        flows: a[2].parse().unwrap(),
        rounds: 11,
        packets: 200_000,
        services: a.get(3).map_or(1, |s| s.parse().unwrap()),
        servers: a.get(4).map_or(3, |s| s.parse().unwrap()),
        ipv6: a.get(5).is_some(),
        size: if a.get(5).is_some() { 78 } else { 64 },
        accounting: a[2] == "1000",
        ..Options::default()
    };
    println!("{}", measure(&o, |_| {}).unwrap());
}
