use lcs_perf::demo::{
    interrupt::Interrupt,
    narrator::Narrator,
    report::{Host, Report},
    root,
    root::scene::Setup,
};
fn main() {
    let begun = std::time::Instant::now();
    let interrupt = Interrupt::on_signals().unwrap();
    let scenarios = root::run(&Setup::ALL, &mut Narrator::new(std::io::stderr()), &interrupt).unwrap();
    let report = Report {
        ok: scenarios.iter().all(|s| s.ok),
        scenarios,
        host: Host::this(),
        seconds: begun.elapsed().as_secs_f64(),
        interrupted: interrupt.is_set(),
    };
    println!("{report}");
    if std::env::args().any(|a| a == "--json") {
        println!("{}", serde_json::to_string(&report).unwrap());
    }
    std::process::exit(i32::from(!report.ok));
}
