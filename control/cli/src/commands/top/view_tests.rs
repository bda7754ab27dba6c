//! What a user sees, on terminals of several sizes, and what the keys do.

use super::pages::{Order, all};
use super::panel::text;
use super::rates::{Sample, rates};
use super::view::{Action, View};
use lcs_control::config::Word;
use lcs_control::protocol::{
    AnswerCount, ContentCounts, ContentReport, Drops, GuessCount, Losses, QueueCount, RuleCount, ServerReport,
    ServiceReport, Stage, Stats, Status, WorkerStats, WorkerStatus,
};
use lcs_dataplane::cycles::StageCost;
use lcs_pipelines::command::ServerStats;
use lcs_pipelines::content::Switching;
use lcs_pipelines::snapshot::{Forward, Scheduler};
use lcs_pipelines::tally::{GuessTally, MigrationTally, QueueTally};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::time::Duration;

fn traffic(n: u64) -> ServerStats {
    ServerStats {
        packets_in: n * 600,
        bytes_in: n * 60_000,
        packets_out: n * 400,
        bytes_out: n * 400_000,
        connections: n * 50,
        active: 12,
        inactive: 3,
    }
}

fn server(name: &str, n: u64, state: &str, down: Option<&str>) -> ServerReport {
    ServerReport {
        name: name.into(),
        address: "10.0.0.1".parse().unwrap(),
        port: 8080,
        forward: Forward::Nat,
        weight: 5,
        state: state.into(),
        down: down.map(Into::into),
        problem: None,
        stats: traffic(n),
    }
}

fn counts(n: u64) -> ContentCounts {
    let rule = |name: &str, decisions| RuleCount { rule: name.into(), decisions };
    ContentCounts {
        connections: 7,
        parked: 2,
        in_hand: 1,
        rules: vec![rule("R1", n * 10), rule("R2", n * 30), rule("default", 5)],
        answers: vec![AnswerCount { status: Some(403), requests: n * 4 }],
        queues: vec![QueueCount {
            queue: "slow".into(),
            priority: 1,
            counts: QueueTally { waiting: 6, passed: n * 9, delayed: n, waited: n * 2_500_000, ..Default::default() },
        }],
        guesses: Some(GuessCount {
            by: "network".into(),
            counts: GuessTally { made: n * 20, right: n * 15, wrong: n * 5, undecided: n * 3, ..Default::default() },
        }),
        migrations: Some(MigrationTally { live: 2, accepted: n * 7, recalled: n * 4, ..Default::default() }),
        ..ContentCounts::default()
    }
}

/// A director with two workers after `seconds`, a thousand packets to `web` each of them, half of the cycles in use.
fn sample(seconds: u64) -> Sample {
    let stage = |name: &str, cycles| Stage {
        name: name.into(),
        cycles_per_packet: 0.0,
        share: 0.0,
        cost: StageCost {
            calls: seconds * 100,
            packets: seconds * 1000,
            cycles: seconds * 1000 * cycles,
            ..Default::default()
        },
    };
    let worker = |busy: u64| WorkerStats {
        received: seconds * 1000,
        received_bytes: seconds * 64_000,
        cycles: seconds * busy,
        stages: vec![stage("receive", 100), stage("lookup", 300)],
        flows: 15,
        capacity: 64,
        ..WorkerStats::default()
    };
    let mut total = worker(1_500_000);
    total.received *= 2;
    total.dropped = seconds * 20;
    total.drops = vec![
        Drops { reason: "old".into(), frames: 500, explanation: "Long ago.".into() },
        Drops { reason: "no-server".into(), frames: seconds * 20, explanation: "No server is up.".into() },
    ];
    total.losses = vec![Losses {
        interface: "eth0".into(),
        reason: "rx-missed".into(),
        frames: seconds * 7,
        explanation: "The receive queue was full.".into(),
    }];
    total.states = [("established".to_owned(), 12), ("time-wait".to_owned(), 3)].into();
    let web = ServiceReport {
        persistence: None,
        name: "web".into(),
        protocol: "tcp".into(),
        address: "192.0.2.1".parse().unwrap(),
        port: 80,
        scheduler: Scheduler::Wrr,
        state: "up".into(),
        content: Some(ContentReport {
            application: "http".into(),
            switching: Switching::Request,
            timestamps: false,
            file: "t.rules".into(),
            rules: 2,
            groups: vec![],
            needs: vec![],
            counts: Some(counts(seconds)),
        }),
        servers: vec![server("s1", seconds, "up", None), server("s2", 2 * seconds, "down", Some("timed out"))],
        stats: traffic(3 * seconds),
    };
    let mut dns = web.clone();
    (dns.name, dns.content, dns.stats) = ("dns".into(), None, traffic(9 * seconds));
    dns.servers.clear();
    let status =
        |worker| WorkerStatus { worker, core: Some(worker + 4), generation: 1, flows: 0, capacity: 0, memory: 0 };
    Sample {
        status: Status {
            program: "0.1.0".into(),
            pid: 4711,
            uptime: seconds as f64,
            configuration: "lcs.toml".into(),
            generation: 1,
            port: vec![],
            counts: Default::default(),
            workers: vec![status(0), status(1)],
            content_workers: vec![],
            notices: vec![],
        },
        stats: Stats {
            uptime: seconds as f64,
            tsc_hz: 2_000_000,
            total,
            workers: vec![worker(500_000), worker(1_900_000)],
            content_workers: vec![],
            services: vec![web, dns],
            taps: vec![],
            filter: None,
        },
    }
}

fn live() -> View {
    let mut view = View::new(Duration::from_secs(1));
    view.sampled(Ok(sample(100)));
    view.sampled(Ok(sample(110)));
    view
}

fn screen(view: &mut View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
}

fn press(view: &mut View, code: KeyCode) -> Action {
    view.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn has(screen: &str, lines: &[&str]) {
    for line in lines {
        assert!(screen.contains(line), "{line:?} is not in\n{screen}");
    }
}

#[test]
fn eighty_columns_show_the_overview() {
    has(
        &screen(&mut live(), 80, 24),
        &[
            "lcs 0.1.0, up 1 min 50 s: busy 38 %, 2.00 k packets/s, 750 cycles/packet",
            " 1 overview  2 services  3 connections  4 content",
            "worker    busy            packets/s  cycles/packet    batch  connections",
            "0       25.0 %  ██           1.00 k            500  10.0/32           15",
            "1       95.0 %  ███████▋     1.00 k           1900  10.0/32           15",
            "web       1/2 up     3.00 k  1.80 k  1.38 MB    150      12         3  up",
            "receive     1.00 k            100    50000.0  25.0 %  █████",
            "q quit · tab 1-4 page",
        ],
    );
}

#[test]
fn two_hundred_columns_show_two_columns_with_all_figures() {
    let mut view = live();
    let wide = screen(&mut view, 200, 60);
    let first = wide.lines().find(|l| l.contains("workers")).unwrap();
    assert!(first.contains("stages"), "workers and stages stand beside each other:\n{wide}");
    has(&wide, &["no-server", "lookup", "dns", "drops by reason: 20/s"]);
    press(&mut view, KeyCode::Char('2'));
    has(
        &screen(&mut view, 200, 60),
        &[
            "service/server  address",
            "web             tcp 192.0.2.1:80  wrr",
            "  /s1           10.0.0.1:8080     nat           5     1.00 k     600     400  460.00 kB     50      12",
            "down",
            "web/s2: timed out",
        ],
    );
    press(&mut view, KeyCode::Char('3'));
    has(&screen(&mut view, 200, 60), &["established           12  80.0 %", "No server is up."]);
    press(&mut view, KeyCode::Tab);
    has(
        &screen(&mut view, 200, 60),
        &[
            "web by content: 40 decisions/s; 7 connections spliced, 2 parked, 1 requests in hand",
            "R2                30  75.0 %  ███████████████",
            "default            0   0.0 %",
            "guesses by network: 20/s made, 75.0 % right, 5.0/s wrong, 0/s unanswered",
            "3.0/s undecided, 0/s had nothing to go by",
            "filters: 2 live; 7.0/s took a connection",
            "0/s on the same, 4.0/s after a recall",
            "not to a server: 403 by a rule, 4.0/s",
            "slow         6       9.0          0     2.5 ms",
        ],
    );
}

#[test]
fn a_terminal_that_is_too_small_says_so() {
    let said = screen(&mut live(), 20, 5).replace('\n', " ");
    has(&said, &["This terminal is", "20x5; lcs top needs", "60x10 or more."]);
    // No size panics.
    for (width, height) in [(1, 1), (60, 10), (59, 10), (300, 10), (61, 200)] {
        screen(&mut live(), width, height);
    }
}

#[test]
fn a_narrow_terminal_leaves_columns_out_and_keeps_the_state() {
    let mut view = live();
    press(&mut view, KeyCode::Char('2'));
    for width in 60..180 {
        let shown = screen(&mut view, width, 30);
        let cells = |of: &str| shown.lines().find(|l| l.contains(of)).unwrap().to_owned();
        assert!(cells("service/server").ends_with("state"), "{width}: {shown}");
        assert!(cells("/s1 ").ends_with(" up") && cells("/s2 ").ends_with(" down"), "{width}: {shown}");
    }
}

#[test]
fn what_does_not_fit_is_scrolled_to() {
    let mut view = live();
    let before = screen(&mut view, 60, 12);
    has(&before, &["workers", "more · "]);
    assert!(!before.contains("no-server"));
    press(&mut view, KeyCode::End);
    let after = screen(&mut view, 60, 12);
    has(&after, &["no-server"]);
    assert!(!after.contains("workers") && !after.contains("more · "), "{after}");
    // The end is where Up goes on from.
    press(&mut view, KeyCode::Up);
    assert_ne!(screen(&mut view, 60, 12), after);
    press(&mut view, KeyCode::Home);
    assert_eq!(screen(&mut view, 60, 12), before);
}

#[test]
fn services_and_rules_are_sorted_by_what_the_key_says() {
    let mut view = live();
    let first = |screen: &str| screen.find("web ").unwrap() < screen.find("dns ").unwrap();
    assert!(first(&screen(&mut view, 100, 40)));
    press(&mut view, KeyCode::Char('s'));
    let sorted = screen(&mut view, 100, 40);
    assert!(!first(&sorted), "{sorted}");
    has(&sorted, &["s sort: packets/s"]);
    press(&mut view, KeyCode::Char('2'));
    let servers = screen(&mut view, 100, 40);
    assert!(servers.find("/s2").unwrap() < servers.find("/s1").unwrap(), "{servers}");
}

#[test]
fn pause_keeps_the_picture_and_a_key_sets_the_interval() {
    let mut view = live();
    press(&mut view, KeyCode::Char('p'));
    has(&screen(&mut view, 80, 24), &["PAUSED"]);
    view.sampled(Ok(sample(200)));
    has(&screen(&mut view, 80, 24), &["up 1 min 50 s"]);
    press(&mut view, KeyCode::Char('p'));
    view.sampled(Ok(sample(201)));
    has(&screen(&mut view, 80, 24), &["up 3 min 21 s"]);
    assert_eq!(press(&mut view, KeyCode::Char('+')), Action::Interval(Duration::from_secs(2)));
    assert_eq!(press(&mut view, KeyCode::Char('-')), Action::Interval(Duration::from_secs(1)));
    for _ in 0..20 {
        press(&mut view, KeyCode::Char('-'));
    }
    has(&screen(&mut view, 80, 24), &["every 100 ms"]);
    assert_eq!(press(&mut view, KeyCode::Char('q')), Action::Quit);
    assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Action::Quit);
}

#[test]
fn a_director_that_is_gone_or_started_anew_is_told_and_not_mixed_up() {
    let mut view = live();
    view.sampled(Err("no director answers on lcs.sock".into()));
    has(
        &screen(&mut view, 100, 24),
        &["not reachable, trying again; below is what was last seen: no director answers", "workers"],
    );
    // Another process, whose counters are lower: no rates of the two together.
    let mut anew = sample(3);
    anew.status.pid = 4712;
    view.sampled(Ok(anew.clone()));
    let shown = screen(&mut view, 80, 24);
    has(&shown, &["Measuring"]);
    assert!(!shown.contains("not reachable"));
    let mut later = sample(4);
    later.status.pid = 4712;
    view.sampled(Ok(later));
    has(&screen(&mut view, 80, 24), &["up 4 s", "2.00 k packets/s"]);
    let mut absent = View::new(Duration::from_secs(2));
    absent.sampled(Err("no director answers".into()));
    has(&screen(&mut absent, 80, 24), &["no director answers", "Trying again every 2 s."]);
}

#[test]
fn one_frame_as_text_has_every_panel() {
    let r = rates(&sample(110), &sample(100)).unwrap();
    let shown: String = all(&r, Order::Configured).iter().map(|p| text(&p.lines(160))).collect();
    has(
        &shown,
        &[
            "workers\n",
            "stages\n",
            "services and servers\n",
            "connections by state: 15 of 64",
            "drops by reason: 20/s; lost by the port: 7.0/s",
            "rx-missed on eth0",
            "by content",
            "0       4     25.0 %",
        ],
    );
    // The reason that happens now stands before the one with more frames since the start.
    assert_eq!((r.drops[0].reason.as_str(), r.drops[0].since_start, r.drops[1].frames), ("no-server", 2200, 0.0));
    assert_eq!(r.services[0].scheduler, Scheduler::Wrr.word());
    assert!(rates(&sample(100), &sample(110)).is_none());
}
