//! Reports: what is asked of the workers for which question, and that servers' traffic is complete however often a worker has to be asked for it.

mod lab;

use lab::{HEAD, Lab, neighbours, parse, service};
use lcs_control::director::launch::memory_environment;
use lcs_control::director::{About, Control, Reply, Said, Unsteered, Workers};
use lcs_control::protocol::{Request, Response};
use lcs_dataplane::ring::SendError;
use lcs_pipelines::command::{Acknowledgement, Command, ServerStats};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// A worker that says what the test wants, and keeps what it is asked.
#[derive(Default)]
struct Told {
    /// Of each report that it was asked for: with traffic, and the sweep's number.
    asked: Vec<(bool, u64)>,
    says: VecDeque<Said>,
    /// Times that a report with traffic is not complete.
    incomplete: usize,
    /// Refusals of the next questions for a report that was asked for before.
    full: usize,
}

const SWEEP: u64 = 7;

#[derive(Clone, Default)]
struct Worker(Rc<RefCell<Told>>);

impl Workers for Worker {
    fn count(&self) -> usize {
        1
    }

    fn send(&mut self, _: usize, id: u64, command: Command) -> Result<(), SendError> {
        let told = &mut *self.0.borrow_mut();
        let answer = match command {
            Command::Install(_) => Acknowledgement::Installed(None),
            Command::Report(mut report) => {
                if report.sweep != 0 && told.full > 0 {
                    told.full -= 1;
                    return Err(SendError::Full);
                }
                told.asked.push((report.traffic, report.sweep));
                report.settled = !report.traffic || told.incomplete == 0;
                if report.settled {
                    // A slot that drains has a connection.
                    report.servers = vec![ServerStats { packets_in: 5, active: 1, ..ServerStats::default() }; 4];
                } else {
                    told.incomplete -= 1;
                    report.sweep = SWEEP;
                }
                Acknowledgement::Report(report)
            }
            _ => Acknowledgement::Done,
        };
        told.says.push_back(Said::Acknowledged(id, answer));
        Ok(())
    }

    fn poll(&mut self, _: usize) -> Option<Said> {
        self.0.borrow_mut().says.pop_front()
    }
}

struct Site {
    worker: Worker,
    control: Control<Worker, Unsteered>,
    now: Duration,
}

impl Site {
    fn new() -> Site {
        let text = format!("{HEAD}{}{}", neighbours(2), service("web", 10, &[(1, 1), (2, 1)]));
        let configuration = parse(&text).unwrap();
        let about = About { configuration: "reports.toml".into(), port: vec!["memory".into()], cores: vec![] };
        let worker = Worker::default();
        let environment = memory_environment(&configuration);
        let mut control = Control::new(worker.clone(), Unsteered, environment, about);
        control.configure(configuration).unwrap();
        let mut site = Site { worker, control, now: Duration::from_secs(1) };
        while !site.control.is_settled() {
            site.turn();
        }
        site
    }

    fn turn(&mut self) {
        self.now += Duration::from_millis(1);
        self.control.poll(self.now);
    }

    fn ask(&mut self, request: Request) -> Response {
        let ticket = self.control.submit(request);
        for _ in 0..100 {
            while let Some(reply @ Reply { .. }) = self.control.reply() {
                if reply.ticket == ticket {
                    return reply.result.unwrap();
                }
            }
            self.turn();
        }
        panic!("no answer");
    }

    fn asked(&mut self) -> Vec<(bool, u64)> {
        std::mem::take(&mut self.worker.0.borrow_mut().asked)
    }
}

#[test]
fn only_who_shows_traffic_has_workers_go_through_their_flows() {
    let mut site = Site::new();
    site.ask(Request::Status);
    assert_eq!(site.asked(), [(false, 0)]);
    site.ask(Request::Stats);
    assert_eq!(site.asked(), [(true, 0)]);
    site.ask(Request::Services);
    assert_eq!(site.asked(), [(true, 0)]);
    // The director's own questions, four a second, whether what drains has drained.
    site.ask(Request::RemoveServer { service: "web".into(), server: "s1".into() });
    site.asked();
    for _ in 0..2000 {
        site.turn();
    }
    let asked = site.asked();
    assert!(asked.len() >= 4 && asked.iter().all(|asked| *asked == (false, 0)), "{asked:?}");
}

#[test]
fn a_worker_is_asked_for_the_same_sweep_until_it_is_done_also_where_its_ring_is_full() {
    for full in [0, 1, 3] {
        let mut site = Site::new();
        (site.worker.0.borrow_mut().incomplete, site.worker.0.borrow_mut().full) = (3, full);
        let Response::Services(services) = site.ask(Request::Services) else { panic!() };
        assert_eq!(services.services[0].stats.packets_in, 10);
        assert_eq!(site.asked(), [(true, 0), (true, SWEEP), (true, SWEEP), (true, SWEEP)], "{full} times full");
        // A report that has come is used again; it is another question's then.
        site.ask(Request::Services);
        site.ask(Request::Status);
        assert_eq!(site.asked(), [(true, 0), (false, 0)]);
    }
}

/// More flows than a worker goes through at once, with a worker of the real kind.
#[test]
fn traffic_is_complete_however_many_flows_have_counted_it() {
    let mut lab = Lab::new(&format!("{HEAD}{}{}", neighbours(2), service("web", 10, &[(1, 1), (2, 1)])));
    for port in 1000..4000 {
        lab.client(10, port, 2).expect("a new connection is served");
    }
    let packets = |lab: &mut Lab| {
        let Ok(Response::Services(services)) = lab.ask(Request::Services) else { panic!() };
        services.services[0].stats.packets_in
    };
    assert_eq!(packets(&mut lab), 3000);
    for port in 2000..2010 {
        lab.client(10, port, 2).expect("it is repeated");
    }
    assert_eq!(packets(&mut lab), 3010);
    // Two who ask at once are both told all.
    lab.client(10, 1000, 2).expect("it is repeated");
    let stats = lab.control.submit(Request::Stats);
    assert_eq!(packets(&mut lab), 3011);
    let mut answers = vec![];
    for _ in 0..100 {
        answers.extend(lab.answers(stats));
        lab.turn();
    }
    let Some(Ok(Response::Stats(stats))) = answers.pop() else { panic!("{answers:?}") };
    assert_eq!(stats.services[0].stats.packets_in, 3011);
    lab.check_buffers();
}
