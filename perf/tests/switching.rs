//! Switching by content, case by case, over good links: each way that requests, responses and connections can look.

use lcs_perf::network::content::{
    Class, Closing, ContentClient, ContentPlan, ContentSite, Ending, Exchange, Framing, Health, Method, Script,
};
use lcs_perf::network::site::Plan;
use lcs_perf::network::{MILLISECOND, SECOND};
use lcs_pipelines::content::SynPolicy;
use lcs_pipelines::snapshot::Forward;

/// What a case is made of, beside its exchanges.
#[derive(Clone)]
struct Case {
    plan: ContentPlan,
    ending: Ending,
    pipeline: usize,
    piece: usize,
    pause: u64,
}

impl Case {
    fn all() -> Vec<(String, Case)> {
        let mut cases = vec![];
        for (forward, v6) in
            [(Forward::Nat, false), (Forward::Nat, true), (Forward::FullNat, false), (Forward::FullNat, true)]
        {
            for syn in [SynPolicy::State, SynPolicy::Cookie] {
                let mut plan = ContentPlan::new(Plan::new(forward, v6));
                plan.binding.syn = syn;
                let case = Case { plan, ending: Ending::Close, pipeline: 1, piece: 0, pause: 0 };
                cases.push((format!("{forward:?} v6 {v6} {syn:?}"), case));
            }
        }
        cases
    }

    /// Plays these connections, one after the other, and says what was wrong.
    fn play(&self, connections: Vec<Vec<Exchange>>) -> (u64, Vec<String>) {
        let to = self.plan.base.service();
        let scripts = connections
            .into_iter()
            .map(|exchanges| Script {
                pipeline: self.pipeline,
                piece: self.piece,
                pause: self.pause,
                ending: self.ending,
                ..Script::new(to, exchanges)
            })
            .collect();
        let client = ContentClient::list(ContentSite::roster(&self.plan), 1, scripts).patience(100 * SECOND);
        let mut site = ContentSite::build(self.plan.clone(), vec![client]);
        let mut wrong = vec![];
        if !site.finish(2_000 * SECOND) {
            wrong.push("the load was not done".into());
        }
        site.net.run_for(1_500 * SECOND);
        let seen = &site.net[site.clients[0]].application::<ContentClient>().seen;
        wrong.extend(seen.failures.iter().map(ToString::to_string));
        let answered = seen.answered + seen.by_director.values().sum::<u64>();
        wrong.extend(site.living().flat_map(|s| &s.served.problems).map(ToString::to_string));
        for host in site.clients.iter().chain(&site.servers) {
            let monitor = site.net[*host].monitor().unwrap();
            wrong.extend(monitor.findings.iter().take(2).cloned());
        }
        if site.net[site.clients[0]].monitor().unwrap().beyond > 0 {
            wrong.push("the client got more than its window".into());
        }
        if let Err(e) = site.net[site.director].check() {
            wrong.push(e);
        }
        for report in site.reports() {
            if report.flows > 0 {
                wrong.push(format!("{} flows are left: {:?}", report.flows, report.states));
            }
        }
        (answered, wrong)
    }
}

/// Plays a load in every case and names those that go wrong.
fn every(what: &str, change: impl Fn(&mut Case), connections: &dyn Fn() -> Vec<Vec<Exchange>>) {
    let mut bad = vec![];
    for (name, mut case) in Case::all() {
        change(&mut case);
        let connections = connections();
        let wanted = connections.iter().map(Vec::len).sum::<usize>() as u64;
        let (answered, wrong) = case.play(connections);
        if !wrong.is_empty() || answered != wanted {
            bad.push(format!("{name}: {answered} of {wanted} answered: {wrong:#?}"));
        }
    }
    assert!(bad.is_empty(), "{what}: {} cases wrong\n{}", bad.len(), bad.join("\n"));
}

fn number(class: Class, n: u64) -> u64 {
    (class as u64) << 32 | n << 8 | 0x51
}

#[test]
fn one_request_of_each_class() {
    for class in Class::ALL {
        every(class.name(), |_| {}, &|| vec![vec![Exchange::get(number(class, 1), class, 1_000)]]);
    }
}

#[test]
fn requests_in_turn_to_two_groups() {
    let turns = |n: u64| {
        let class = [Class::Images, Class::Web][n as usize % 2];
        Exchange::get(number(class, n), class, 2_000 + 700 * n as u32)
    };
    every("in turn", |_| {}, &|| vec![(0..10).map(turns).collect()]);
    every("in turn, with pauses", |c| c.pause = 700 * MILLISECOND, &|| vec![(0..6).map(turns).collect()]);
    every("pipelined", |c| c.pipeline = 10, &|| vec![(0..10).map(turns).collect()]);
    every("pipelined, half closed", |c| (c.pipeline, c.ending) = (10, Ending::HalfClose), &|| {
        vec![(0..10).map(turns).collect()]
    });
}

#[test]
fn a_request_to_the_other_group_takes_no_longer_than_the_network() {
    let plan = ContentPlan::new(Plan::new(Forward::Nat, false));
    let turns = |n: u64| {
        let class = [Class::Images, Class::Web][n as usize % 2];
        Exchange::get(number(class, n), class, [0, 700, 1_448, 9_000, 60_000][n as usize % 5])
    };
    let script = Script::new(plan.base.service(), (0..40).map(turns).collect());
    let client = ContentClient::list(ContentSite::roster(&plan), 1, vec![script]);
    let mut site = ContentSite::build(plan, vec![client]);
    if let Some(path) = option_env!("CAPTURE") {
        let sink = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
        site.net.capture(lcs_perf::network::capture::Capture::new(Box::new(sink), 1_000_000));
    }
    let begin = site.net.now();
    assert!(site.finish(100 * SECOND));
    let time = site.net.now() - begin;
    if let Some(capture) = site.net.take_capture() {
        capture.finish().unwrap();
    }
    // Round trips are of some 80 µs; servers delay acknowledgements by 10 ms, and hosts ask for neighbours at first.
    assert!(time < 4 * SECOND, "{} ms", time / MILLISECOND);
}

#[test]
fn requests_to_one_group() {
    let same = |n: u64| Exchange::get(number(Class::Lcs1, n), Class::Lcs1, 2_000 + 700 * n as u32);
    every("one group", |_| {}, &|| vec![(0..10).map(same).collect()]);
    every("one group, pipelined", |c| c.pipeline = 10, &|| vec![(0..10).map(same).collect()]);
    every("one group, pipelined by 3", |c| c.pipeline = 3, &|| vec![(0..10).map(same).collect()]);
    every("half closed", |c| c.ending = Ending::HalfClose, &|| vec![(0..3).map(same).collect()]);
}

#[test]
fn bodies_of_requests() {
    for method in [Method::Post, Method::Chunked] {
        for body in [0, 1, 1_400, 5_000, 40_000, 100_000] {
            let post = |n: u64| {
                let class = [Class::Lcs1, Class::Web, Class::Lcs2][n as usize % 3];
                Exchange { method, body, ..Exchange::get(number(class, n), class, 900) }
            };
            every(&format!("{method:?} {body}"), |_| {}, &|| vec![vec![post(1)], (0..4).map(post).collect()]);
        }
    }
}

#[test]
fn documents_that_decide_at_their_end() {
    for method in [Method::Post, Method::Chunked] {
        for body in [600, 3_000, 30_000, 50_000] {
            let post = |n: u64| {
                let class = [Class::Large, Class::Small][n as usize % 2];
                Exchange { method, body, ..Exchange::get(number(class, n), class, 900) }
            };
            every(&format!("{method:?} {body}"), |_| {}, &|| vec![vec![post(1)], (0..4).map(post).collect()]);
        }
    }
}

#[test]
fn framings_of_responses() {
    for framing in [Framing::Length, Framing::Chunked, Framing::NoContent, Framing::NotModified] {
        for (method, reply, interim) in [
            (Method::Get, 0, false),
            (Method::Get, 3_000, true),
            (Method::Get, 100_000, false),
            (Method::Head, 50, true),
        ] {
            let e = |n: u64| {
                let class = [Class::Lcs1, Class::Web][n as usize % 2];
                Exchange { framing, method, interim, ..Exchange::get(number(class, n), class, reply) }
            };
            let what = format!("{framing:?} {method:?} {reply} {interim}");
            every(&what, |_| {}, &|| vec![(0..4).map(e).collect()]);
        }
    }
}

#[test]
fn ends_of_connections() {
    for closing in [Closing::Asked, Closing::Server] {
        for ending in [Ending::Close, Ending::HalfClose] {
            let e = |n: u64| {
                let class = [Class::Lcs1, Class::Web][n as usize % 2];
                let closing = if n == 2 { closing } else { Closing::Keep };
                Exchange { closing, ..Exchange::get(number(class, n), class, 5_000) }
            };
            every(&format!("{closing:?} {ending:?}"), |c| c.ending = ending, &|| vec![(0..3).map(e).collect()]);
        }
    }
    let until = |n: u64| Exchange { framing: Framing::UntilClose, ..Exchange::get(n, Class::Web, 30_000) };
    every("until close", |_| {}, &|| vec![vec![until(1)], vec![Exchange::get(2, Class::Lcs1, 5), until(3)]]);
}

#[test]
fn the_director_answers_head_without_a_body() {
    for class in [Class::Forbidden, Class::Moved, Class::Down] {
        let e = Exchange { method: Method::Head, ..Exchange::get(number(class, 1), class, 0) };
        every(class.name(), |_| {}, &|| vec![vec![Exchange::get(5, Class::Web, 9), e], vec![e]]);
    }
}

#[test]
fn a_request_with_a_body_that_the_director_answers() {
    for class in [Class::Forbidden, Class::Moved, Class::Down] {
        for body in [10, 5_000, 60_000] {
            let e = Exchange { method: Method::Post, body, ..Exchange::get(number(class, 1), class, 0) };
            every(&format!("{class:?} {body}"), |_| {}, &|| vec![vec![e], vec![Exchange::get(5, Class::Web, 9), e]]);
        }
    }
}

#[test]
fn requests_in_small_pieces() {
    for piece in [1, 7, 100] {
        let e = |n: u64| {
            let class = [Class::Images, Class::Lcs1][n as usize % 2];
            Exchange::get(number(class, n), class, 3_000)
        };
        every(&format!("{piece}"), |c| c.piece = piece, &|| vec![(0..3).map(e).collect()]);
    }
}

#[test]
fn sequence_numbers_wrap_and_segments_are_cut() {
    let e = |n: u64| {
        let class = [Class::Images, Class::Lcs1, Class::Large][n as usize % 3];
        Exchange { body: 4_000, ..Exchange::get(number(class, n), class, 9_000) }
    };
    let all = || (0..12).map(|k| (k * 5..k * 5 + 5).map(e).collect()).collect();
    every("wrap", |c| (c.plan.client_wire.wrap, c.plan.server_wire.wrap) = (1.0, 1.0), &all);
    every(
        "cut",
        |c| {
            for wire in [&mut c.plan.client_wire, &mut c.plan.server_wire] {
                (wire.cut, wire.piece, wire.overlap) = (0.5, 50, 0.3);
            }
        },
        &all,
    );
}

#[test]
fn servers_that_refuse_or_are_dead_are_passed_over() {
    for others in [[Health::Refuses, Health::Lives], [Health::Dead, Health::Lives], [Health::Lives, Health::Dead]] {
        let e = |n: u64| {
            let class = [Class::Lcs1, Class::Web][n as usize % 2];
            Exchange::get(number(class, n), class, 500)
        };
        let change = |c: &mut Case| {
            for (class, servers) in &mut c.plan.groups {
                if *class != Class::Down {
                    *servers = others.to_vec();
                }
            }
        };
        every(&format!("{others:?}"), change, &|| (0..4).map(|k| (k * 3..k * 3 + 3).map(e).collect()).collect());
    }
}

#[test]
fn connections_that_say_nothing_or_stop_are_ended() {
    for sent in [0, 1, 40] {
        for (name, mut case) in Case::all() {
            case.ending = Ending::Stall(sent);
            let (_, wrong) = case.play(vec![vec![Exchange::get(1, Class::Web, 10)]; 3]);
            assert!(wrong.is_empty(), "{name} {sent}: {wrong:?}");
        }
    }
    for (sent, received) in [(0, 0), (1, 0), (50, 0), (2_000, 0), (0, 1), (0, 5_000)] {
        for (name, mut case) in Case::all() {
            case.ending = Ending::Reset { sent, received };
            let e = Exchange { method: Method::Post, body: 3_000, ..Exchange::get(1, Class::Lcs1, 20_000) };
            let (_, wrong) = case.play(vec![vec![e]; 3]);
            assert!(wrong.is_empty(), "{name} {sent} {received}: {wrong:?}");
        }
    }
}
