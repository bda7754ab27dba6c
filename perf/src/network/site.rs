//! A site: clients, a director with the layer-4 pipeline, and real servers, wired and addressed for one way of forwarding.
//!
//! ```text
//! nat, fullnat (two arms)                         dr, tunnel (one arm)
//!
//! clients ─┐                     ┌─ servers       clients ─┐
//!          ├─ switch ─ D ─ switch ┤                         ├─ switch ─ servers
//!          ┘                     └─                    D ──┘
//! ```
//!
//! The service is 192.0.2.100 and 2001:db8::64, port 80. Clients are 192.0.2.1 to .10 and, from the eleventh on, .110, .111, …; servers
//! `s1`, `s2`, … are 10.0.0.11, .12, … with two arms and 192.0.2.11, .12, … with one; over IPv6 the same in 2001:db8::/64 and
//! 2001:db8:1::/64.

use super::director::{Director, by_client};
use super::host::Host;
use super::http::{HttpClient, HttpServer};
use super::link::Faults;
use super::random::Random;
use super::stack::{Settings, TcpSettings};
use super::switch::Switch;
use super::{BEGIN, Id, LinkId, Network};
use lcs_dataplane::cycles::Meter;
use lcs_dataplane::headers::{MacAddr, protocol};
use lcs_dataplane::port::Port;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::ring::Handover;
use lcs_dataplane::worker::Worker;
use lcs_pipelines::command::{Acknowledgement, Command, Report};
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::placement::PortEnd;
use lcs_pipelines::snapshot::{
    Forward, Interface, NextHop, Scheduler, Server, ServerState, Service, Snapshot, Timeouts,
};
use lcs_pipelines::stages::connection;
use lcs_pipelines::stages::schedule::SharedCounts;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Port of the service.
pub const PORT: u16 = 80;
/// Port that NAT and full NAT rewrite to, so that a missing rewrite shows.
pub const SERVER_PORT: u16 = 8080;

/// What a site is.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Seed of its network.
    pub seed: u64,
    /// How packets reach the servers.
    pub forward: Forward,
    /// Whether clients use IPv6.
    pub v6: bool,
    /// Tunnel: whether the outer header is of the other family than the inner.
    pub cross: bool,
    /// Weights of the servers, of which there are as many.
    pub weights: Vec<u32>,
    /// How a server is chosen.
    pub scheduler: Scheduler,
    /// Workers of the director.
    pub workers: u8,
    /// Whether frames come to any worker (and are handed over to their owner), instead of to their owner, as by cards that hash the client's endpoint.
    pub scatter: bool,
    /// Flows of each worker's table.
    pub flows: usize,
    /// Idle time-outs of the director.
    pub timeouts: Timeouts,
    /// TCP of the clients.
    pub client_tcp: TcpSettings,
    /// TCP of the servers.
    pub server_tcp: TcpSettings,
    /// Sockets of a server that wait for clients.
    pub backlog: usize,
    /// Faults between clients and director.
    pub client_faults: Faults,
    /// Faults between director and servers; with one arm, on the servers' links.
    pub server_faults: Faults,
}

impl Plan {
    /// A site of three servers of weights 1, 2 and 3 and one worker, without faults.
    pub fn new(forward: Forward, v6: bool) -> Self {
        Plan {
            seed: 1,
            forward,
            v6,
            cross: false,
            weights: vec![1, 2, 3],
            scheduler: Scheduler::Wrr,
            workers: 1,
            scatter: false,
            flows: 65_536,
            timeouts: Timeouts::default(),
            client_tcp: TcpSettings::default(),
            server_tcp: TcpSettings::default(),
            backlog: 16,
            client_faults: Faults::NONE,
            server_faults: Faults::NONE,
        }
    }

    /// Whether clients and servers are on different links.
    pub fn two_armed(&self) -> bool {
        self.forward.replies_return()
    }

    /// Where clients connect to.
    pub fn service(&self) -> SocketAddr {
        SocketAddr::new(self.address("192.0.2.100", "2001:db8::64"), PORT)
    }

    fn address(&self, v4: &str, v6: &str) -> IpAddr {
        // Constants of this file: they parse.
        (if self.v6 { v6 } else { v4 }).parse().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }

    /// The director's own address on a link: 0 the clients', 1 the servers'.
    fn own(&self, link: usize) -> IpAddr {
        match link {
            0 => self.address("192.0.2.254", "2001:db8::fe"),
            _ => self.address("10.0.0.254", "2001:db8:1::fe"),
        }
    }

    /// The family of the addresses that the director reaches the servers by.
    fn servers_v6(&self) -> bool {
        self.v6 != (self.cross && self.forward == Forward::Tunnel)
    }

    /// The address that the director knows a server by.
    pub fn server_address(&self, server: usize) -> IpAddr {
        let n = server + 11;
        let text = match (self.two_armed(), self.servers_v6()) {
            (true, false) => format!("10.0.0.{n}"),
            (true, true) => format!("2001:db8:1::{n:x}"),
            (false, false) => format!("192.0.2.{n}"),
            (false, true) => format!("2001:db8::{n:x}"),
        };
        text.parse().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }

    /// Interfaces of the director: the clients', and with two arms the servers'.
    pub fn arms(&self) -> u8 {
        1 + u8::from(self.two_armed())
    }

    /// The director's own addresses, where its tunnels begin and its servers' gateway is.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        let tunnel = if self.servers_v6() { "2001:db8::fd" } else { "192.0.2.253" };
        let tunnel = tunnel.parse().ok().filter(|_| self.forward == Forward::Tunnel);
        tunnel.into_iter().chain((0..usize::from(self.arms())).map(|link| self.own(link))).collect()
    }

    /// Full NAT: the director's addresses toward the servers.
    pub fn sources(&self) -> Vec<IpAddr> {
        match self.forward {
            Forward::FullNat => {
                vec![self.address("10.0.0.200", "2001:db8:1::c8"), self.address("10.0.0.201", "2001:db8:1::c9")]
            }
            _ => vec![],
        }
    }

    /// A server's link-layer address, and the director's interface that it is on.
    pub fn neighbour(&self, server: usize) -> (MacAddr, u8) {
        (server_settings(self, server).mac, self.arms() - 1)
    }

    /// What the control thread would publish.
    pub fn snapshot(&self) -> Snapshot {
        let interface = |n: u8| Interface { name: format!("port{n}"), mac: director_mac(n), mtu: 1500 };
        let mut s = Snapshot { generation: 1, timeouts: self.timeouts, ..Snapshot::default() };
        s.interfaces = (0..self.arms()).map(interface).collect();
        let servers = (0..self.weights.len()).map(|n| self.neighbour(n));
        s.next_hops = servers.map(|(mac, arm)| NextHop::new(mac, director_mac(arm), arm, 1500)).collect();
        let vip = self.service();
        s.own.insert(vip.ip());
        let own = self.own_addresses();
        let tunnel_source = own.first().copied().filter(|_| self.forward == Forward::Tunnel);
        s.own.extend(own);
        let sources = self.sources();
        s.own.extend(&sources);
        let port = if self.two_armed() { SERVER_PORT } else { 0 };
        for (n, weight) in self.weights.iter().enumerate() {
            s.servers.push(Some(Server {
                name: format!("s{}", n + 1),
                service: 0,
                address: self.server_address(n),
                port,
                forward: self.forward,
                weight: *weight,
                state: ServerState::Up,
                next_hop: n as u16,
                tunnel_source,
            }));
        }
        s.by_endpoint.insert((vip.ip(), PORT, protocol::TCP), 0);
        s.services.push(Some(Service {
            name: "web".into(),
            address: vip.ip(),
            port: PORT,
            protocol: protocol::TCP,
            scheduler: self.scheduler,
            servers: (0..self.weights.len() as u16).collect(),
            sources,
            source_ports: (1024, 65_535),
            persistence: None,
            content: None,
        }));
        s
    }
}

/// Link-layer address of an interface of the director, as `lcs_control::director::launch::memory_environment` has it.
pub fn director_mac(interface: u8) -> MacAddr {
    MacAddr([0x02, 0x6c, 0x63, 0x73, 0, interface + 1])
}

/// A site that runs.
pub struct Site<M: Meter + 'static> {
    /// The network that it stands in.
    pub net: Network,
    /// What it was made from.
    pub plan: Plan,
    /// The director.
    pub director: Id<Director<Layer4, M>>,
    /// The clients.
    pub clients: Vec<Id<Host>>,
    /// The servers.
    pub servers: Vec<Id<Host>>,
    /// The clients' links.
    pub client_links: Vec<LinkId>,
    /// The servers' links.
    pub server_links: Vec<LinkId>,
    snapshot: Snapshot,
}

impl<M: Meter + Clone + 'static> Site<M> {
    /// Builds a site with these clients; each gets a host of its own. The director works by [`Plan::snapshot`], and
    /// [`Site::publish`] changes that.
    pub fn build(plan: Plan, meter: M, clients: Vec<HttpClient>) -> Self {
        let workers = workers(&plan, &meter, &plan.snapshot());
        Site::with_workers(plan, workers, clients)
    }
}

impl<M: Meter + 'static> Site<M> {
    /// What somebody else has wired: clients and servers, and their links.
    pub(crate) fn of_parts(
        plan: Plan,
        net: Network,
        director: Id<Director<Layer4, M>>,
        (clients, servers): (Vec<Id<Host>>, Vec<Id<Host>>),
        (client_links, server_links): (Vec<LinkId>, Vec<LinkId>),
        snapshot: Snapshot,
    ) -> Self {
        Site { net, plan, director, clients, servers, client_links, server_links, snapshot }
    }

    /// As [`Site::build`], with workers that somebody else has set up and tells what to do. Their ports have
    /// [`Plan::arms`] interfaces with the addresses of [`director_mac`].
    pub fn with_workers(plan: Plan, workers: Vec<Worker<MemoryPort, Layer4, M>>, clients: Vec<HttpClient>) -> Self {
        let mut net = Network::new(plan.seed);
        let snapshot = plan.snapshot();
        let director = Director::new(workers);
        let director = if plan.scatter {
            let mut random = Random::new(plan.seed ^ 0x5ca7_7e20);
            director.steered(Box::new(move |_, _| random.draw() as usize >> 8))
        } else {
            director.steered(by_client(vec![plan.service().ip()]))
        };
        let director = net.add("director", director);
        let outside = net.add("switch", Switch::new());
        net.connect(director, outside, Faults::NONE);
        let inside = if plan.two_armed() {
            let inside = net.add("inside", Switch::new());
            net.connect(director, inside, Faults::NONE);
            inside
        } else {
            outside
        };
        let mut site = Site {
            director,
            clients: vec![],
            servers: vec![],
            client_links: vec![],
            server_links: vec![],
            snapshot,
            net,
            plan,
        };
        for n in 0..site.plan.weights.len() {
            let name = format!("s{}", n + 1);
            let port = if site.plan.two_armed() { SERVER_PORT } else { PORT };
            let server = HttpServer::new(&name, port).backlog(site.plan.backlog);
            let host = site.net.add(&name, Host::new(server_settings(&site.plan, n)).with(server));
            site.server_links.push(site.net.connect(host, inside, site.plan.server_faults));
            site.servers.push(host);
        }
        for (n, client) in clients.into_iter().enumerate() {
            let host = Host::new(client_settings(&site.plan, n)).with(client);
            let host = site.net.add(&format!("client{}", n + 1), host);
            site.client_links.push(site.net.connect(host, outside, site.plan.client_faults));
            site.clients.push(host);
        }
        site
    }

    /// What the director works by.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Publishes a changed snapshot to every worker, as the control thread would.
    pub fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.snapshot);
        self.snapshot.generation += 1;
        let snapshot = Arc::new(self.snapshot.clone());
        let now = self.net.now();
        self.net[self.director].command(|| Command::Install(Arc::clone(&snapshot)), now);
    }

    /// Sets a server's weight by the command that does only that.
    pub fn set_weight(&mut self, server: u16, weight: u32) {
        if let Some(Some(s)) = self.snapshot.servers.get_mut(usize::from(server)) {
            s.weight = weight;
        }
        let now = self.net.now();
        self.net[self.director].command(|| Command::SetWeight { server, weight }, now);
    }

    /// Takes a server out of its service; its connections go on.
    pub fn remove_server(&mut self, server: u16) {
        self.publish(|s| {
            for service in s.services.iter_mut().flatten() {
                service.servers.retain(|&n| n != server);
            }
            if let Some(Some(s)) = s.servers.get_mut(usize::from(server)) {
                s.state = ServerState::Draining;
            }
        });
    }

    /// Puts a server that was taken out back into its service.
    pub fn restore_server(&mut self, server: u16) {
        self.publish(|s| {
            for service in s.services.iter_mut().flatten() {
                if !service.servers.contains(&server) {
                    service.servers.push(server);
                }
            }
            if let Some(Some(s)) = s.servers.get_mut(usize::from(server)) {
                s.state = ServerState::Up;
            }
        });
    }

    /// What each worker has counted.
    pub fn reports(&mut self) -> Vec<Report> {
        let now = self.net.now();
        let answers = self.net[self.director].command(|| Command::Report(Box::default()), now);
        answers
            .into_iter()
            .filter_map(|a| match a {
                Acknowledgement::Report(report) => Some(*report),
                _ => None,
            })
            .collect()
    }

    /// Runs until every client is done; `false` when they are not by then.
    pub fn finish(&mut self, limit: u64) -> bool {
        let clients = self.clients.clone();
        let limit = self.net.now() + limit;
        let mut at = 0;
        self.net.run(limit, |net| {
            while at < clients.len() && net[clients[at]].application::<HttpClient>().finished() {
                at += 1;
            }
            at == clients.len()
        })
    }
}

pub(crate) fn workers<M: Meter + Clone>(
    plan: &Plan,
    meter: &M,
    snapshot: &Snapshot,
) -> Vec<Worker<MemoryPort, Layer4, M>> {
    placed(plan, meter, snapshot, vec![]).0
}

/// The same with these rings to content workers, in the workers' order; and the counts that rules may ask for.
pub(crate) fn placed<M: Meter + Clone>(
    plan: &Plan,
    meter: &M,
    snapshot: &Snapshot,
    rings: Vec<PortEnd>,
) -> (Vec<Worker<MemoryPort, Layer4, M>>, Arc<SharedCounts>) {
    let mut rings = rings.into_iter();
    let count = plan.workers.max(1);
    let counts = Arc::new(SharedCounts::new(usize::from(count), plan.weights.len()));
    let snapshot = Arc::new(snapshot.clone());
    let lanes = if count > 1 { Handover::mesh(usize::from(count)) } else { vec![] };
    let mut lanes = lanes.into_iter();
    let workers = (0..count)
        .map(|worker| {
            let port = MemoryPort::new(plan.arms(), 2048);
            let settings = connection::Settings {
                flows: plan.flows,
                fragments: 64,
                seed: plan.seed,
                worker,
                workers: count,
                capabilities: port.capabilities(),
            };
            let mut pipeline = Layer4::new(settings, Arc::clone(&counts), BEGIN);
            if let Some(ring) = rings.next() {
                pipeline = pipeline.with_content_workers(ring);
            }
            let mut worker = Worker::new(port, pipeline, meter.clone());
            if let Some(lane) = lanes.next() {
                worker = worker.with_handover(lane);
            }
            worker.command(Command::Install(Arc::clone(&snapshot)), BEGIN);
            worker
        })
        .collect();
    (workers, counts)
}

pub(crate) fn client_settings(plan: &Plan, n: usize) -> Settings {
    // With one arm, .11 and on are the servers'; .100 is the service's. A hundred clients end at .199, below the director's own.
    let host = if n < 10 { n + 1 } else { n + 100 };
    let addresses = [format!("192.0.2.{host}/24"), format!("2001:db8::{host:x}/64")];
    let mut s = Settings::new(0x1001 + n as u32, &addresses.each_ref().map(String::as_str));
    s.tcp = plan.client_tcp;
    s.seed ^= plan.seed;
    s
}

pub(crate) fn server_settings(plan: &Plan, n: usize) -> Settings {
    let host = n + 11;
    let (v4, v6) = if plan.two_armed() {
        (format!("10.0.0.{host}/24"), format!("2001:db8:1::{host:x}/64"))
    } else {
        (format!("192.0.2.{host}/24"), format!("2001:db8::{host:x}/64"))
    };
    let mut s = Settings::new(0x2000 + n as u32, &[&v4, &v6]);
    match plan.forward {
        // Replies to clients must come back through the director.
        Forward::Nat => s.gateways = vec![plan.own(1)],
        // No gateway: only the director can be answered.
        Forward::FullNat => {}
        Forward::Dr => s.services = vec![plan.service().ip()],
        Forward::Tunnel => {
            s.services = vec![plan.service().ip()];
            s.decapsulates = true;
            // What is left for the inner packet.
            s.mtu = 1500 - if plan.servers_v6() { 40 } else { 20 };
        }
    }
    s.tcp = plan.server_tcp;
    s.seed ^= plan.seed;
    s
}
