//! The director of a scene.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lcs_dataplane::cycles::Tsc;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::Port;
use lcs_dataplane::port::af_xdp::{AfXdpPort, FilterKey, ModePreference, PortOptions, XdpFilter};
use lcs_dataplane::ring::{ControlEnd, rings};
use lcs_dataplane::worker::{Idle, Worker};
use lcs_hwconf::links;
use lcs_hwconf::testbed::ETH0;
use lcs_hwconf::testbed::addresses::Place;
use lcs_pipelines::command::{Acknowledgement, Command, Event, Report};
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::snapshot::{Forward, Interface, NextHop, Scheduler, Server, ServerState, Service, Snapshot};
use lcs_pipelines::stages::connection::Settings;
use lcs_pipelines::stages::schedule::SharedCounts;

use super::scene::{SERVICE_PORT, Scene, WEIGHTS};

/// interim
pub struct Director {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    rings: ControlEnd<Command, Acknowledgement, Event>,
    snapshot: Snapshot,
    /// port
    pub port: String,
    _filter: XdpFilter,
}

impl Director {
    /// start
    pub fn start(scene: &Scene) -> Director {
        let setup = scene.setup();
        let bed = scene.bed();
        let snapshot = Self::snapshot(scene);
        let (control, worker_end) = rings();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let first = snapshot.clone();
        let (filter, thread, port) = bed
            .director()
            .run(|| {
                let mut filter = XdpFilter::load().unwrap();
                let legs: &[&str] =
                    if bed.plan().arms == lcs_hwconf::testbed::Arms::One { &[ETH0] } else { &[ETH0, "eth1"] };
                let attached: Vec<_> = legs
                    .iter()
                    .map(|l| filter.attach(&links::interface(l).unwrap(), ModePreference::Auto).unwrap())
                    .collect();
                let port = AfXdpPort::open(&attached.iter().collect::<Vec<_>>(), 0, &PortOptions::default()).unwrap();
                let report = port.interfaces().next().unwrap().to_string();
                let service = scene.service();
                let mut services = FilterKey::service(service.ip(), service.port(), 6).to_vec();
                services.extend(FilterKey::service(service.ip(), service.port(), 17));
                let mut replies = vec![];
                if setup.forward == Forward::FullNat {
                    services.extend(FilterKey::service(first.services[0].as_ref().unwrap().sources[0], 0, 6));
                    services.extend(FilterKey::service(first.services[0].as_ref().unwrap().sources[0], 0, 17));
                }
                if setup.forward == Forward::Nat {
                    for at in 0..3 {
                        let end = scene.endpoint(at);
                        replies.extend(FilterKey::reply(end.ip(), end.port(), 6));
                        replies.extend(FilterKey::reply(end.ip(), end.port(), 17));
                    }
                }
                filter.set_replies(&replies).unwrap();
                filter
                    .set_locals(&[
                        bed.director_address(false),
                        bed.director_address(true),
                        bed.director_inner_address(false),
                        bed.director_inner_address(true),
                    ])
                    .unwrap();
                filter.set_services(&services).unwrap();
                let settings = Settings {
                    flows: 16384,
                    fragments: 128,
                    seed: 7,
                    worker: 0,
                    workers: 1,
                    capabilities: port.capabilities(),
                };
                let pipeline = Layer4::new(settings, Arc::new(SharedCounts::new(1, 8)), 1_000_000_000);
                let mut worker = Worker::new(port, pipeline, Tsc).with_rings(worker_end).with_idle(Idle::Adaptive);
                worker.command(Command::Install(Arc::new(first.clone())), 1_000_000_000);
                let thread = std::thread::spawn(move || {
                    let _attached = attached;
                    worker.run(&stopped);
                });
                (filter, thread, report)
            })
            .unwrap();
        Director { stop, thread: Some(thread), rings: control, snapshot, port, _filter: filter }
    }

    fn snapshot(scene: &Scene) -> Snapshot {
        let setup = scene.setup();
        let bed = scene.bed();
        let mac = MacAddr(Place::DirectorToClients.mac());
        let mut s = Snapshot { generation: 1, ..Snapshot::default() };
        let forward = setup.forward;
        let inner = bed.director_inner_address(setup.server_ipv6);
        s.services.push(Some(Service {
            name: "web".into(),
            address: scene.service().ip(),
            port: SERVICE_PORT,
            protocol: 6,
            scheduler: Scheduler::Wrr,
            servers: vec![0, 1, 2],
            sources: if forward == Forward::FullNat { vec![inner] } else { vec![] },
            source_ports: (1024, 65535),
        }));
        for at in 0..3u8 {
            s.servers.push(Some(Server {
                name: format!("server{}", at + 1),
                service: 0,
                address: bed.server_address(at, setup.server_ipv6),
                port: if forward.replies_return() { scene.endpoint(at).port() } else { 0 },
                forward,
                weight: WEIGHTS[usize::from(at)],
                state: ServerState::Up,
                next_hop: u16::from(at),
                tunnel_source: (forward == Forward::Tunnel).then_some(inner),
            }));
        }
        if scene.has_datagrams() {
            let mut udp = s.services[0].clone().unwrap();
            udp.protocol = 17;
            udp.servers = vec![3, 4, 5];
            s.services.push(Some(udp));
            for at in 0..3 {
                let mut server = s.servers[at].clone().unwrap();
                server.service = 1;
                s.servers.push(Some(server));
            }
            s.by_endpoint.insert((scene.service().ip(), SERVICE_PORT, 17), 1);
        }
        s.by_endpoint.insert((scene.service().ip(), SERVICE_PORT, 6), 0);
        let legs: &[&str] = if bed.plan().arms == lcs_hwconf::testbed::Arms::One { &[ETH0] } else { &[ETH0, "eth1"] };
        for leg in legs {
            let link = bed.director().rtnl().link(leg).unwrap();
            s.interfaces.push(Interface { name: (*leg).into(), mac: MacAddr(link.mac.unwrap()), mtu: link.mtu as u16 });
        }
        let last = s.interfaces.last().unwrap().clone();
        for at in 0..3 {
            s.next_hops.push(NextHop::new(
                MacAddr(Place::Server(at).mac()),
                last.mac,
                (legs.len() - 1) as u8,
                last.mtu,
            ));
        }
        let _ = mac;
        s.own.insert(scene.service().ip());
        s
    }

    fn ask(&self, command: Command) -> Acknowledgement {
        self.rings.send(1, command).map_err(|e| e.1).unwrap();
        self.rings.acknowledgements.recv_timeout(Duration::from_secs(5)).unwrap().what
    }

    /// weight
    pub fn set_weight(&mut self, server: u16, weight: u32) {
        self.snapshot.servers[usize::from(server)].as_mut().unwrap().weight = weight;
        assert!(matches!(self.ask(Command::SetWeight { server, weight }), Acknowledgement::Done));
    }

    /// remove
    pub fn remove(&mut self, server: u16) {
        self.snapshot.generation += 1;
        self.snapshot.servers[usize::from(server)].as_mut().unwrap().state = ServerState::Draining;
        self.snapshot.services[0].as_mut().unwrap().servers.retain(|s| *s != server);
        assert!(matches!(self.ask(Command::Install(Arc::new(self.snapshot.clone()))), Acknowledgement::Installed(_)));
    }

    /// report
    pub fn report(&self) -> Report {
        match self.ask(Command::Report(Box::default())) {
            Acknowledgement::Report(report) => *report,
            _ => unreachable!(),
        }
    }

    /// events
    pub fn events(&self) -> Vec<Event> {
        self.rings.events.try_iter().collect()
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
        let _ = HashMap::<u8, u8>::new();
    }
}
