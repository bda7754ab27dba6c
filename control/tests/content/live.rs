//! Services that are switched by content in a director that runs.

use super::lab::{HEAD, Lab, neighbours, service};
use super::{Folder, rules, shop};
use lcs_control::config::{Protocol as Transport, Service};
use lcs_control::protocol::{
    ConnectionFilter, FailureCode, NewContent, Request, Response, ServerSettings, ServiceReport,
};
use lcs_control::render;
use lcs_pipelines::command::RequestState;
use lcs_pipelines::content::Switching;
use lcs_pipelines::snapshot::Scheduler;
use std::path::Path;

fn report(lab: &mut Lab) -> ServiceReport {
    match lab.ask(Request::Services) {
        Ok(Response::Services(all)) => all.services.into_iter().find(|s| s.name == "shop").unwrap(),
        other => panic!("{other:?}"),
    }
}

fn refused(lab: &mut Lab, request: Request) -> (FailureCode, String) {
    let generation = lab.control.model().generation();
    let failure = lab.ask(request).expect_err("this should be refused");
    assert_eq!(lab.control.model().generation(), generation, "nothing may change: {failure}");
    (failure.code, failure.message)
}

fn load(path: &Path) -> Request {
    Request::LoadRules { service: "shop".into(), file: path.to_owned() }
}

fn lab(folder: &Folder) -> Lab {
    let path = folder.write("shop.rules", &rules());
    Lab::new(&format!("{HEAD}{}[[services]]\n{}", neighbours(4), shop(&path.display().to_string())))
}

#[test]
fn rules_are_loaded_while_the_director_runs_and_a_set_with_mistakes_leaves_the_old_one() {
    let folder = Folder::new();
    let mut lab = lab(&folder);
    let content = report(&mut lab).content.unwrap();
    assert_eq!((content.rules, content.application.as_str(), content.switching), (2, "http", Switching::Request));
    let groups: Vec<_> = content.groups.iter().map(|g| (g.name.as_str(), g.servers.join(" "))).collect();
    assert_eq!(groups, [("images", "s3".to_owned()), ("web", "s1 s2".to_owned())]);

    let other = folder.write("other.rules", "a: if (path == /a) forward(s2)\ndefault: routeTo(images)\n");
    let applied = lab.apply(load(&other));
    assert_eq!((applied.workers, applied.changes.len()), (1, 1));
    assert!(applied.changes[0].detail.contains(&format!("1 rule of {}", other.display())), "{applied:?}");
    assert!(applied.note.unwrap().contains("not written"));
    assert!(lab.control.is_settled());
    assert_eq!(report(&mut lab).content.unwrap().rules, 1);

    for (text, what) in [
        ("a: if (path == /a) routeTo(wbe)\ndefault: reject\n", "bad.rules:1:28: error: there is no group `wbe`"),
        ("a: if (path == /a) reject\n", "it has no `default`"),
        ("a: if path\n", "expected"),
    ] {
        let bad = folder.write("bad.rules", text);
        let (code, message) = refused(&mut lab, load(&bad));
        assert!(code == FailureCode::Refused && message.contains(what), "{message}");
        assert!(message.contains("the rules that run stay"), "{message}");
    }
    let (_, message) = refused(&mut lab, load(&folder.0.join("none")));
    assert!(message.contains("cannot be read"), "{message}");
    let (_, message) = refused(&mut lab, load(&folder.0));
    assert!(message.contains("no regular file"), "{message}");
    assert_eq!(refused(&mut lab, load(Path::new("other.rules"))).0, FailureCode::BadRequest);
    let none = Request::LoadRules { service: "shpo".into(), file: other.clone() };
    let (code, message) = refused(&mut lab, none);
    assert!(code == FailureCode::NotFound && message.contains("did you mean shop?"), "{message}");
    assert_eq!(report(&mut lab).content.unwrap().rules, 1);

    // The same again changes nothing; a reload goes back to what the file says.
    assert!(lab.apply(load(&other)).changes.is_empty());
    assert!(lab.apply(Request::Reload).changes[0].detail.contains("2 rules of"));
}

#[test]
fn a_reload_with_mistakes_in_the_rules_leaves_everything_as_it_was() {
    let folder = Folder::new();
    let mut lab = lab(&folder);
    folder.write("shop.rules", "a: if (path == /a) routeTo(nowhere)\ndefault: reject\n");
    let (code, message) = refused(&mut lab, Request::Reload);
    assert!(code == FailureCode::Refused && message.contains("shop.rules:1:28"), "{message}");
    assert_eq!(report(&mut lab).content.unwrap().rules, 2);
}

#[test]
fn servers_come_and_go_with_their_groups() {
    let folder = Folder::new();
    let mut lab = lab(&folder);
    let add = |name: &str, host: u8, groups: &[&str]| Request::AddServer {
        service: "shop".into(),
        server: name.into(),
        set: ServerSettings {
            address: Some([10, 0, 0, host].into()),
            groups: Some(groups.iter().map(|g| (*g).to_owned()).collect()),
            ..Default::default()
        },
    };
    let members = |lab: &mut Lab| {
        let groups = report(lab).content.unwrap().groups;
        groups.iter().map(|g| g.servers.join(" ")).collect::<Vec<_>>().join(", ")
    };
    let remove = |name: &str| Request::RemoveServer { service: "shop".into(), server: name.into() };
    let applied = lab.apply(add("s4", 4, &["images"]));
    assert!(applied.changes.iter().any(|c| c.detail.contains("group images: s3 (lc) → s3 s4 (lc)")), "{applied:?}");
    assert_eq!(members(&mut lab), "s3 s4, s1 s2");
    let set = ServerSettings { groups: Some(vec!["web".into()]), ..Default::default() };
    lab.apply(Request::SetServer { service: "shop".into(), server: "s4".into(), set });
    assert_eq!(members(&mut lab), "s3, s1 s2 s4");
    lab.apply(remove("s2"));
    lab.apply(remove("s3"));
    assert_eq!(members(&mut lab), ", s1 s4");
    // A rule forwards to s1.
    let (code, message) = refused(&mut lab, remove("s1"));
    assert!(code == FailureCode::Refused && message.contains("forwards to server s1"), "{message}");
    let (code, message) = refused(&mut lab, add("s5", 5, &["image"]));
    assert!(code == FailureCode::NotFound && message.contains("did you mean images?"), "{message}");
    let set = ServerSettings { forward: Some(lcs_pipelines::snapshot::Forward::Dr), ..Default::default() };
    let (_, message) = refused(&mut lab, Request::SetServer { service: "shop".into(), server: "s4".into(), set });
    assert!(message.contains("replies bypass the director"), "{message}");
}

/// Opens a connection to the shop from this port and sends the beginning of a request.
fn ask_shop(lab: &mut Lab, port: u16) {
    const SYN: u8 = 2;
    // The director's SYN-ACK comes back to the client.
    assert_eq!(lab.client(10, port, SYN), Some([198, 51, 100, 7].into()));
}

#[test]
fn stats_name_rules_groups_queues_and_connections_that_have_no_server_yet() {
    let folder = Folder::new();
    let path = folder.write(
        "shop.rules",
        "a: if (path == /a) forward(s1, slow)\nno: if (path == /b) reject(403)\ndefault: routeTo(web)\n",
    );
    let keys = "syn = \"state\"\nqueues = { slow = { requests = 50, priority = 2 } }\n";
    let shop = shop(&path.display().to_string());
    let mut lab = Lab::new(&format!("{HEAD}{}[[services]]\n{shop}{keys}", neighbours(4)));
    ask_shop(&mut lab, 4001);
    ask_shop(&mut lab, 4002);
    let Ok(Response::Stats(stats)) = lab.ask(Request::Stats) else { panic!() };
    let counts = stats.services[0].content.as_ref().unwrap().counts.as_ref().unwrap();
    assert_eq!((counts.connections, counts.parked, counts.in_hand), (2, 0, 0));
    let rules: Vec<_> = counts.rules.iter().map(|r| (r.rule.as_str(), r.decisions)).collect();
    assert_eq!(rules, [("a", 0), ("no", 0), ("default", 0)]);
    let groups: Vec<_> = counts.groups.iter().map(|g| (g.group.as_str(), g.servers.len())).collect();
    assert_eq!(groups, [("images", 1), ("web", 2)]);
    assert_eq!((counts.forwarded[0].server.as_str(), counts.answers[0].status), ("s1", Some(403)));
    assert_eq!((counts.queues[0].queue.as_str(), counts.queues[0].priority), ("slow", 2));
    let shown = render::stats(&stats, None);
    for what in ["service shop by content: 2 connections spliced", "(forward)", "default", "slow", "403"] {
        assert!(shown.contains(what), "{what}: {shown}");
    }
    let json = serde_json::to_string(&*stats).unwrap();
    assert!(json.contains("\"queue\":\"slow\",\"priority\":2,\"waiting\":0"), "{json}");
    let none = render::since(&stats, &stats);
    assert!(render::stats(&none, Some(1.0)).contains("2 connections spliced"));
    // They are listed, without a server.
    let filter = ConnectionFilter { state: Some("awaited".into()), ..ConnectionFilter::default() };
    let Ok(Response::Connections(c)) = lab.ask(Request::Connections { filter, limit: 10 }) else { panic!() };
    assert_eq!(c.connections.len(), 2);
    let x = &c.connections[0];
    assert_eq!((&x.server, x.server_address, x.forward, x.request), (&None, None, None, Some(RequestState::Awaited)));
    assert!(render::response(&Response::Connections(c)).contains("syn-received, awaited"));
}

#[test]
fn a_service_by_content_is_added_while_the_director_runs_and_its_servers_after_it() {
    let folder = Folder::new();
    let mut lab = lab(&folder);
    let rules = folder.write("new.rules", "a: if (suffix(path, gif)) routeTo(images)\ndefault: routeTo(web)\n");
    let service = |name: &str| Service {
        name: name.into(),
        protocol: Transport::Tcp,
        address: [192, 0, 2, 77].into(),
        port: 80,
        scheduler: Scheduler::Wrr,
        forward: lcs_pipelines::snapshot::Forward::Nat,
        sources: vec![],
        source_ports: Service::SOURCE_PORTS,
        persistence: None,
        servers: vec![],
        content: None,
        check: None,
    };
    let add = |groups: &[&str], application: &str| Request::AddService {
        service: Box::new(service("new")),
        content: Some(NewContent {
            rules: rules.clone(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            application: application.into(),
        }),
    };
    let (_, message) = refused(&mut lab, add(&["web"], "http"));
    assert!(message.contains("there is no group `images`") && message.contains("no service was added"), "{message}");
    let (code, message) = refused(&mut lab, add(&["web", "images"], "gopher"));
    assert!(code == FailureCode::BadRequest && message.contains("none of http"), "{message}");
    let applied = lab.apply(add(&["web", "images"], "http"));
    assert!(applied.changes[0].detail.contains("1 rule of"), "{applied:?}");
    let set = ServerSettings {
        address: Some([10, 0, 0, 2].into()),
        groups: Some(vec!["images".into(), "web".into()]),
        ..Default::default()
    };
    lab.apply(Request::AddServer { service: "new".into(), server: "x".into(), set });
    let Ok(Response::Services(all)) = lab.ask(Request::Services) else { panic!() };
    let new = all.services.iter().find(|s| s.name == "new").unwrap();
    let groups = &new.content.as_ref().unwrap().groups;
    assert!(groups.iter().all(|g| g.servers == ["x"]) && groups.len() == 2, "{groups:?}");
}

/// Its memory is that of all flows: filled between two batches at once, it would stop the worker for longer than a device's queue lasts.
#[test]
fn the_first_service_by_content_takes_its_memory_in_pieces_while_packets_pass() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let folder = Folder::new();
    let rules = folder.write("new.rules", &rules());
    let plain = format!("{}{}", HEAD.replace("4096", "50000"), neighbours(4));
    let mut lab = Lab::new(&format!("{plain}{}", service("web", 12, &[(1, 1)])));
    let server = lab.client(12, 1000, SYN);
    assert!(server.is_some());
    let shop = format!("[[services]]\n{}", shop(&rules.display().to_string()));
    lab.write(&format!("{plain}{}{shop}", service("web", 12, &[(1, 1)])));
    let ticket = lab.control.submit(Request::Reload);
    let mut turns = 0;
    while lab.control.is_busy() {
        assert_eq!(lab.client(12, 1000, ACK), server, "turn {turns}");
        turns += 1;
        assert!(turns < 1000);
    }
    assert!(turns > 50_000 / 4096, "{turns} turns");
    assert!(matches!(lab.answers(ticket)[..], [Ok(Response::Applied(_))]));
    // The next one needs no more, and both serve.
    lab.write(&format!("{plain}{}{shop}{}", service("web", 12, &[(1, 1)]), service("more", 11, &[(2, 1)])));
    let applied = lab.apply(Request::Reload);
    assert_eq!(applied.workers, 1);
    assert_eq!(lab.client(10, 4001, SYN), Some([198, 51, 100, 7].into()));
}
