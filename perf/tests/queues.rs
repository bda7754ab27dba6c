//! Named queues, sticky clients and what is counted of both, between real TCP stacks over good links.

use lcs_dataplane::worker::Pipeline;
use lcs_perf::network::content::{Class, ContentClient, ContentPlan, ContentSite, Exchange, Health, Script};
use lcs_perf::network::site::Plan;
use lcs_perf::network::{MICROSECOND, MILLISECOND, SECOND};
use lcs_pipelines::command::{Command, Event};
use lcs_pipelines::content::{Binding, Queue, Rate, Sticky};
use lcs_pipelines::snapshot::{Forward, Scheduler};
use lcs_pipelines::tally::{Refusal, Tally};
use std::collections::BTreeMap;
use std::time::Duration;

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_second, burst })
}

fn queue(name: &str, requests: Option<Rate>, length: u32) -> Queue {
    Queue { name: name.into(), requests, length, ..Queue::default() }
}

/// A site whose web class has so many servers, all of which live.
fn plan(web: usize, binding: Binding) -> ContentPlan {
    let mut base = Plan::new(Forward::Nat, false);
    base.scheduler = Scheduler::Rr;
    let mut plan = ContentPlan::new(base);
    for (class, servers) in &mut plan.groups {
        if *class == Class::Web {
            *servers = vec![Health::Lives; web];
        }
    }
    plan.binding = binding;
    plan
}

/// The number of the first server of a class, as rules name it.
fn first(plan: &ContentPlan, class: Class) -> String {
    plan.servers().into_iter().find(|s| s.1 == class).unwrap().0
}

/// So many clients, each with connections of so many exchanges, one after the other.
fn clients(
    plan: &ContentPlan,
    of: usize,
    at_once: usize,
    load: impl Fn(usize) -> Vec<Vec<Exchange>>,
) -> Vec<ContentClient> {
    let to = plan.base.service();
    let client = |n| {
        let scripts = load(n).into_iter().map(|exchanges| Script::new(to, exchanges)).collect();
        ContentClient::list(ContentSite::roster(plan), at_once, scripts).patience(200 * SECOND)
    };
    (0..of).map(client).collect()
}

fn get(class: Class, n: u64) -> Exchange {
    Exchange::get((class as u64) << 40 | n << 8 | 0x51, class, 500)
}

fn tally(site: &mut ContentSite) -> Tally {
    let reports = site.reports();
    let mut tallies = reports.iter().flat_map(|r| r.content.services.iter().flatten());
    let mut sum = tallies.next().unwrap().clone();
    tallies.for_each(|t| sum.add(t));
    sum
}

/// Nothing went wrong, and nothing is left of it.
fn sound(site: &mut ContentSite) {
    site.net.run_for(1_500 * SECOND);
    for client in site.clients.clone() {
        let seen = &site.net[client].application::<ContentClient>().seen;
        assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    }
    for server in site.living() {
        assert!(server.served.problems.is_empty(), "{:?}", server.served.problems);
    }
    for host in site.clients.iter().chain(&site.servers) {
        assert_eq!(site.net[*host].monitor().unwrap().findings, Vec::<String>::new());
    }
    site.net[site.director].check().unwrap();
    for report in site.reports() {
        assert_eq!((report.flows, report.content.binding, report.content.buffered), (0, 0, 0));
    }
    let t = tally(site);
    assert_eq!((t.connections, t.parked, t.in_hand), (0, 0, 0));
    assert!(t.queues.iter().all(|q| q.waiting == 0 && q.waiting_packets == 0));
}

#[test]
fn requests_pass_a_queue_at_its_rate_and_all_are_answered() {
    let binding = Binding { queues: vec![queue("slow", rate(10, 2), 100)], ..Binding::default() };
    let plan = plan(2, binding.clone());
    let server = first(&plan, Class::Web);
    // Of a connection's two requests the second finds its server attached.
    let load = |n| vec![vec![get(Class::Web, 2 * n as u64), get(Class::Web, 2 * n as u64 + 1)]];
    let mut site = ContentSite::build(plan.clone(), clients(&plan, 10, 1, load));
    site.replace(&format!("default: forward({server}, slow)"), &binding);
    let begin = site.net.now();
    assert!(site.finish(100 * SECOND));
    // 20 requests, 2 of them at once, the rest 10 a second.
    let took = site.net.now() - begin;
    assert!((1_800 * MILLISECOND..3_000 * MILLISECOND).contains(&took), "{} ms", took / MILLISECOND);
    let t = tally(&mut site);
    let q = t.queues[0];
    assert_eq!((q.passed, q.passed_packets, q.delayed, q.full, q.timed_out), (20, 20, 18, 0, 0));
    assert!(q.waited > 5 * SECOND, "{} ms", q.waited / MILLISECOND);
    assert_eq!((t.rules.clone(), t.forwarded.iter().map(|s| s.1).sum::<u64>()), (vec![20], 20));
    sound(&mut site);
}

#[test]
fn a_full_queue_and_one_that_takes_too_long_answer_503() {
    for (queue, why) in [
        (queue("slow", rate(1, 1), 3), Refusal::QueueFull),
        (Queue { timeout: Duration::from_secs(2), ..queue("slow", rate(1, 1), 100) }, Refusal::QueueTimeout),
    ] {
        let binding = Binding { queues: vec![queue], ..Binding::default() };
        let plan = plan(2, binding.clone());
        let server = first(&plan, Class::Web);
        let load = |n| vec![vec![get(Class::Web, n as u64)]];
        let mut clients = clients(&plan, 12, 1, load);
        // The director may say 503.
        let mut roster = plan.roster();
        roster.excuses = true;
        let roster = std::rc::Rc::new(roster);
        for (n, client) in clients.iter_mut().enumerate() {
            let scripts = vec![Script::new(plan.base.service(), load(n).remove(0))];
            *client = ContentClient::list(std::rc::Rc::clone(&roster), 1, scripts).patience(200 * SECOND);
        }
        let mut site = ContentSite::build(plan.clone(), clients);
        site.replace(&format!("default: forward({server}, slow)"), &binding);
        assert!(site.finish(100 * SECOND));
        let (mut answered, mut excused) = (0, 0);
        for client in &site.clients {
            let seen = &site.net[*client].application::<ContentClient>().seen;
            answered += seen.answered;
            excused += seen.excused;
        }
        let t = tally(&mut site);
        assert_eq!(answered + excused, 12, "{t:?}");
        assert_eq!((t.queues[0].passed, t.refusals[why as usize]), (answered, excused), "{t:?}");
        assert_eq!(t.queues[0].full + t.queues[0].timed_out, excused);
        let expected = if why == Refusal::QueueFull { 4 } else { 3 };
        assert!((expected - 1..=expected).contains(&answered), "{why:?}: {answered} answered");
        sound(&mut site);
    }
}

#[test]
fn under_a_common_rate_the_queue_of_higher_priority_is_served_first() {
    let high = Queue { priority: 7, ..queue("high", None, 100) };
    let binding =
        Binding { queues: vec![high, queue("low", None, 100)], queue_rate: rate(10, 1), ..Binding::default() };
    let plan = plan(2, binding.clone());
    let server = |class| first(&plan, class);
    let load = |n: usize| vec![vec![get(if n < 10 { Class::Web } else { Class::Images }, n as u64)]];
    let mut site = ContentSite::build(plan.clone(), clients(&plan, 20, 1, load));
    let rules = format!(
        "a: if (prefix(url, \"/pictures/\")) forward({}, high)\ndefault: forward({}, low)",
        server(Class::Images),
        server(Class::Web)
    );
    site.replace(&rules, &binding);
    let half = site.net.now() + 1_050 * MILLISECOND;
    site.net.run(half, |_| false);
    let t = tally(&mut site);
    assert!(t.queues[0].passed >= 9 && t.queues[1].passed <= 2, "{:?}", t.queues);
    assert!(site.finish(100 * SECOND));
    let t = tally(&mut site);
    assert_eq!((t.queues[0].passed, t.queues[1].passed), (10, 10));
    sound(&mut site);
}

#[test]
fn what_waits_is_decided_anew_when_rules_are_replaced_and_counts_go_on() {
    let binding = Binding { queues: vec![queue("slow", rate(1, 1), 100)], ..Binding::default() };
    let plan = plan(2, binding.clone());
    let server = first(&plan, Class::Web);
    let load = |n| vec![vec![get(Class::Web, n as u64)]];
    let mut site = ContentSite::build(plan.clone(), clients(&plan, 8, 1, load));
    site.replace(&format!("default: forward({server}, slow)"), &binding);
    let soon = site.net.now() + 500 * MILLISECOND;
    site.net.run(soon, |_| false);
    let t = tally(&mut site);
    assert_eq!((t.queues[0].waiting, t.queues[0].passed, t.in_hand), (7, 1, 7));
    // No queue any more; `default` goes on counting.
    site.replace("a: if (path == \"/a\") reject(403)\ndefault: routeTo(web)", &Binding::default());
    let begin = site.net.now();
    assert!(site.finish(100 * SECOND));
    assert!(site.net.now() - begin < SECOND);
    let t = tally(&mut site);
    assert_eq!(t.rules, [0, 8 + 7]);
    let web = plan.slots().iter().position(|(name, _)| name == "web").unwrap();
    assert_eq!(t.groups[web].iter().sum::<u64>(), 7);
    sound(&mut site);
}

/// Which servers answered each client.
fn servers(site: &ContentSite) -> Vec<BTreeMap<String, u64>> {
    let seen = site.clients.iter().map(|client| &site.net[*client].application::<ContentClient>().seen.per_server);
    seen.map(|answers| answers.iter().map(|((_, server), n)| (server.clone(), *n)).collect()).collect()
}

#[test]
fn sessions_stay_with_the_server_that_has_set_their_cookie() {
    for (sticky, rules) in [
        (Sticky::None, "default: routeTo(web, STICKY, set-cookie.session)"),
        (Sticky::SetCookie("session".into()), "default: routeTo(web)"),
        (Sticky::SetCookie("session".into()), "default: routeTo(web, STICKY)"),
    ] {
        let binding = Binding { sticky, ..Binding::default() };
        let plan = plan(4, binding.clone());
        // Each client: a session's beginning, then six connections of two requests that bring it along.
        let load = |n: usize| {
            let e = |m: u64| Exchange { session: 1 + n as u32, ..get(Class::Web, n as u64 * 100 + m) };
            let again = |m| Exchange { returning: true, interim: true, ..e(m) };
            let mut all = vec![vec![Exchange { interim: true, ..e(0) }]];
            all.extend((1..7).map(|m| vec![again(2 * m), again(2 * m + 1)]));
            all
        };
        let mut site = ContentSite::build(plan.clone(), clients(&plan, 8, 1, load));
        site.replace(rules, &binding);
        assert!(site.finish(100 * SECOND));
        let mut used = BTreeMap::<String, u64>::new();
        for of_client in servers(&site) {
            assert_eq!(of_client.len(), 1, "{rules}: {of_client:?}");
            assert_eq!(of_client.values().sum::<u64>(), 13);
            of_client.into_keys().for_each(|server| *used.entry(server).or_default() += 1);
        }
        assert_eq!(used.values().copied().collect::<Vec<_>>(), [2, 2, 2, 2], "their beginnings go round: {used:?}");
        sound(&mut site);
    }
}

#[test]
fn a_session_is_known_to_every_worker_once_the_control_thread_has_passed_it_on() {
    let binding = Binding { sticky: Sticky::SetCookie("session".into()), ..Binding::default() };
    let mut plan = plan(4, binding.clone());
    (plan.base.workers, plan.base.scatter) = (2, true);
    let load = |n: usize| {
        let e = |m: u64| Exchange { session: 1 + n as u32, returning: m > 0, ..get(Class::Web, n as u64 * 100 + m) };
        (0..10).map(|m| vec![e(m)]).collect()
    };
    let mut site = ContentSite::build(plan.clone(), clients(&plan, 8, 1, load));
    site.replace("default: routeTo(web)", &binding);
    let mut passed_on = 0;
    while !site.finish(20 * MICROSECOND) {
        assert!(site.net.now() < 100 * SECOND);
        let now = site.net.now();
        let workers = site.net[site.director].workers_mut();
        for from in 0..workers.len() {
            while let Some(event) = workers[from].pipeline_mut().event() {
                if let Event::Cookie { key, server } = event {
                    passed_on += 1;
                    workers[1 - from].command(Command::Learn(vec![(key, server)]), now);
                }
            }
        }
    }
    assert_eq!(passed_on, 8, "what is known already is not said again");
    assert!(servers(&site).iter().all(|of| of.len() == 1), "{:?}", servers(&site));
    let used: Vec<bool> =
        site.reports().iter().map(|r| r.content.services[0].as_ref().unwrap().rules[0] > 10).collect();
    assert_eq!(used, [true, true], "both workers have had connections");
    sound(&mut site);
}

#[test]
fn a_cookie_of_the_request_and_the_clients_address_choose_the_same_server_whatever_the_connection() {
    // All clients bring the same four cookies; over one connection, so that every request may go elsewhere.
    let binding = Binding::default();
    let plan = plan(4, binding.clone());
    let session = |n: u32, m: u64| Exchange { session: n, returning: true, ..get(Class::Web, m) };
    let load = |n: usize| {
        let all = |m: u64| (1..=40).map(|s| session(s, n as u64 * 1000 + m * 50 + u64::from(s))).collect();
        vec![all(0), all(1)]
    };
    let mut site = ContentSite::build(plan.clone(), clients(&plan, 3, 1, load));
    site.replace("default: routeTo(web, STICKY, cookie.session)", &binding);
    assert!(site.finish(100 * SECOND));
    let all = servers(&site);
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{all:?}");
    assert!(all[0].len() == 4 && all[0].values().all(|n| n % 2 == 0), "{all:?}");
    sound(&mut site);
    // By source: each client has one server, whatever its cookies.
    let mut site = ContentSite::build(plan.clone(), clients(&plan, 3, 1, load));
    site.replace("default: routeTo(web, STICKY, source)", &binding);
    assert!(site.finish(100 * SECOND));
    assert!(servers(&site).iter().all(|of| of.len() == 1));
    sound(&mut site);
}

#[test]
fn a_session_whose_server_goes_finds_another_and_stays_there() {
    let binding = Binding { sticky: Sticky::SetCookie("session".into()), ..Binding::default() };
    let plan = plan(3, binding.clone());
    let e = |m: u64| Exchange { session: 9, returning: m > 0, ..get(Class::Web, m) };
    let load = |_| (0..20).map(|m| vec![e(m)]).collect();
    let mut site = ContentSite::build(plan.clone(), clients(&plan, 1, 1, load));
    site.replace("default: routeTo(web)", &binding);
    let client = site.clients[0];
    site.net.run(100 * SECOND, |net| net[client].application::<ContentClient>().seen.answered >= 5);
    let before = servers(&site).remove(0);
    assert_eq!(before.len(), 1);
    let name = before.keys().next().unwrap().clone();
    let slot = plan.servers().iter().position(|s| s.0 == name).unwrap();
    site.drain(slot as u16, true);
    assert!(site.finish(100 * SECOND));
    let after = servers(&site).remove(0);
    assert_eq!(after.len(), 2, "{after:?}");
    sound(&mut site);
}
