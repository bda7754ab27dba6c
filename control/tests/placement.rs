//! Placement `split` as the control thread sees it: configuration, content workers as workers among others, real threads.

mod lab;

use lab::{HEAD, neighbours, service};
use lcs_control::config::{Configuration, ContentWorkers};
use lcs_control::director::launch::{Plans, Threads, memory_environment, plan, plans};
use lcs_control::director::{About, Control, Rings, Unsteered};
use lcs_control::protocol::{Request, Response};
use lcs_control::render;
use lcs_dataplane::cycles::NoMeter;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::worker::Idle;
use std::time::{Duration, Instant};

fn parse(workers: &str) -> Result<Configuration, lcs_control::config::Invalid> {
    let head = HEAD.replace("flows = 4096\n", &format!("flows = 4096\n{workers}"));
    Configuration::parse("split.toml", &format!("{head}{}{}", neighbours(1), service("web", 10, &[(1, 1)])))
}

#[test]
fn placement_is_read_and_mistakes_are_shown_at_their_place() {
    let content = |text: &str| parse(text).unwrap_or_else(|e| panic!("{e}")).workers.content;
    assert_eq!(content(""), None);
    assert_eq!(content("placement = \"run-to-completion\"\n"), None);
    let one = ContentWorkers { count: 1, cores: vec![], idle: Idle::Adaptive };
    assert_eq!(content("placement = \"split\"\n"), Some(one.clone()));
    assert_eq!(content("placement = \"split\"\ncontent-workers = 3\n"), Some(ContentWorkers { count: 3, ..one }));
    assert_eq!(
        content("placement = \"split\"\ncores = [1]\ncontent-cores = \"2-3\"\nidle = \"poll\"\n"),
        Some(ContentWorkers { count: 2, cores: vec![2, 3], idle: Idle::Poll })
    );
    let idle = "placement = \"split\"\nidle = \"poll\"\ncontent-idle = \"adaptive\"\n";
    assert_eq!(content(idle).map(|c| c.idle), Some(Idle::Adaptive));
    // [workers] flows = … is line 7.
    for (text, line, what, mend) in [
        ("placement = \"spilt\"\n", 8, "is none of", "did you mean \"split\"?"),
        ("content-workers = 2\n", 8, "no content workers in placement", "add placement = \"split\""),
        ("content-cores = [2]\nplacement = \"run-to-completion\"\n", 8, "no content workers", "remove the key"),
        ("content-idle = \"poll\"\n", 8, "`content-idle` is given", "add placement"),
        ("placement = \"split\"\ncontent-workers = 0\n", 9, "out of range", "1 to 64"),
        (
            "placement = \"split\"\ncores = [1, 2]\ncontent-cores = [2]\n",
            10,
            "core 2 is in `cores`",
            "a core of its own",
        ),
        ("placement = \"split\"\ncontent-cores = [2, 2]\n", 9, "`content-cores` names core 2 twice", "different cores"),
        (
            "placement = \"split\"\ncontent-cores = [2]\ncontent-workers = 1\n",
            10,
            "are both given",
            "content-cores for pinned",
        ),
        ("placement = \"split\"\ncontent-core = [2]\n", 9, "unknown key", "`content-cores`"),
    ] {
        let invalid = parse(text).map(|c| c.workers).expect_err(text);
        let problem = &invalid.problems[0];
        assert_eq!(problem.line, line, "{invalid}");
        assert!(problem.what.contains(what) && problem.mend.contains(mend), "{invalid}");
    }
}

#[test]
fn content_workers_get_every_change_and_are_reported() {
    let configuration = parse("placement = \"split\"\ncontent-workers = 2\ncontent-idle = \"adaptive\"\n").unwrap();
    // A loop of one thread has no content workers, whatever the configuration says.
    assert_eq!(plan(&configuration, 1).0.len(), 1);
    let Plans { ports, content, rings } = plans(&configuration, 1);
    assert_eq!((ports.len(), content.len()), (1, 2));
    let environment = memory_environment(&configuration);
    let about = About { configuration: "split.toml".into(), port: vec!["memory".into()], cores: vec![None; 3] };
    let mut control: Control<Rings, Unsteered> = Control::new(rings, Unsteered, environment, about);
    control.configure(configuration.clone()).unwrap();
    let mut content = Threads::start_content(content, &NoMeter).unwrap();
    let mut ports = Threads::start(ports, vec![MemoryPort::new(1, 64)], &NoMeter, &[]).unwrap();
    let start = Instant::now();
    let mut ask = |request: Request| {
        let ticket = control.submit(request);
        loop {
            control.poll(start.elapsed());
            assert!(start.elapsed() < Duration::from_secs(60), "no answer");
            if let Some(reply) = control.reply() {
                assert_eq!(reply.ticket, ticket);
                return reply.result;
            }
            std::thread::yield_now();
        }
    };
    let Ok(Response::Applied(applied)) = ask(Request::Weight { service: "web".into(), server: "s1".into(), weight: 3 })
    else {
        panic!("not applied")
    };
    assert_eq!(applied.workers, 3, "two of them decide requests");
    let Ok(Response::Status(status)) = ask(Request::Status) else { panic!("no status") };
    assert_eq!((status.workers.len(), status.content_workers.len()), (1, 2));
    assert!(status.content_workers.iter().all(|w| w.generation == status.generation));
    assert!(render::status(&status).contains("content worker"));
    let Ok(Response::Stats(stats)) = ask(Request::Stats) else { panic!("no stats") };
    assert_eq!((stats.workers.len(), stats.content_workers.len()), (1, 2));
    let handed = stats.total.handed.expect("there are content workers");
    assert_eq!((handed.out, handed.away, handed.depth), (0, 0, lcs_pipelines::placement::DEPTH));
    let shown = render::stats(&stats, None);
    assert!(shown.contains("undecided requests") && shown.contains("content worker"), "{shown}");
    let Ok(Response::Connections(none)) = ask(Request::Connections { filter: Default::default(), limit: 10 }) else {
        panic!("no list")
    };
    assert!(none.connections.is_empty() && !none.more);
    // Placement stays what it is while the director runs.
    let refused = control.configure(parse("").unwrap()).expect_err("threads cannot come and go");
    assert!(refused.to_string().contains("placement"), "{refused}");
    assert_eq!((ports.stop().len(), content.stop().len()), (1, 2));
    // Content workers that are gone are seen.
    control.poll(start.elapsed());
    assert!(control.ended().is_some());
}
