//! The content site of the scheme `filter`: on one link clients, the director, and for each server a filter, behind which the
//! server's stack stands alone.

use super::client::ContentClient;
use super::server::ContentServer;
use super::site::{ContentPlan, Health};
use crate::network::director::Director;
use crate::network::host::{Application, Host};
use crate::network::http::{HttpClient, HttpServer};
use crate::network::link::Faults;
use crate::network::site::{self, PORT, Plan, Site};
use crate::network::stack::Settings;
use crate::network::switch::Switch;
use crate::network::{Id, LinkId, MILLISECOND, Network, SECOND};
use lcs_dataplane::cycles::{Meter, NoMeter};
use lcs_dataplane::headers::{MacAddr, protocol};
use lcs_pipelines::command::{Acknowledgement, Command, Report};
use lcs_pipelines::content::{Binding, Channel, Content, Group, Receiver, Scheme, Switching};
use lcs_pipelines::extract;
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::matching::{self, Action, Expr, Rule, RuleSet, Stickiness};
use lcs_pipelines::migration::{PORT as CHANNEL, message::ChannelKey};
use lcs_pipelines::snapshot::{Forward, Interface, NextHop, Scheduler, Server, ServerState, Service, Snapshot, Via};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A site with filters that runs.
pub struct FilterSite {
    /// The network that it stands in.
    pub net: Network,
    /// What it was made from.
    pub plan: ContentPlan,
    /// The director.
    pub director: Id<Director<Layer4, NoMeter>>,
    /// The servers' filters, by slot; of servers that have none, none.
    pub filters: Vec<Id<Director<Layer4, NoMeter>>>,
    /// The clients.
    pub clients: Vec<Id<Host>>,
    /// The servers, by slot.
    pub servers: Vec<Id<Host>>,
    client_links: Vec<LinkId>,
    live: u64,
}

fn key() -> ChannelKey {
    ChannelKey::from_secret(b"the simulation's own secret")
}

fn wire(n: usize) -> MacAddr {
    MacAddr([0x02, 0x6c, 0x63, 0x74, n as u8, 1])
}

fn arm(n: usize) -> MacAddr {
    MacAddr([0x02, 0x6c, 0x63, 0x74, n as u8, 2])
}

fn channel(fallback: bool) -> Channel {
    Channel {
        key: key(),
        port: CHANNEL,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(3_500),
        fallback,
    }
}

/// Builds a site of the scheme `filter` as [`Site::build`] does one of the others: by the plan, with these clients, and with a director that switches
/// by `content`, whose scheme becomes `filter`. The clients have been let in when it returns; `None` when some filter has not been heard of.
///
/// # Panics
/// Where replies would come back through the director.
pub(crate) fn http_site<M: Meter + Clone + 'static>(
    plan: Plan,
    meter: &M,
    content: impl FnOnce(Binding) -> Content,
    clients: Vec<HttpClient>,
) -> Option<Site<M>> {
    assert!(!plan.forward.replies_return(), "filters answer directly");
    let binding =
        Binding { scheme: Scheme::Filter(channel(false)), switching: Switching::Connection, ..Binding::default() };
    let content = Arc::new(content(binding));
    let mut snapshot = plan.snapshot();
    for service in snapshot.services.iter_mut().flatten() {
        service.content = Some(Arc::clone(&content));
    }
    let server = |n: usize, settings| {
        let name = format!("s{}", n + 1);
        let server = HttpServer::new(&name, PORT).backlog(plan.backlog);
        (name, Host::new(settings).with(server), true)
    };
    let parts = assemble((&plan, &[]), meter, snapshot, server, clients, Host::new);
    let there = plan.weights.len() as u64 * u64::from(plan.workers);
    let mut site = Site::of_parts(
        plan,
        parts.net,
        parts.director,
        (parts.clients, parts.servers),
        (parts.client_links, parts.server_links),
        parts.snapshot,
    );
    let end = site.net.now() + 100 * SECOND;
    while live(&site.reports()) < there {
        if site.net.now() >= end {
            return None;
        }
        site.net.run_for(10 * MILLISECOND);
    }
    let links = site.client_links.clone();
    links.iter().for_each(|link| site.net.set_up(*link, true));
    Some(site)
}

/// Filters that were heard of, over all workers.
fn live(reports: &[Report]) -> u64 {
    reports.iter().flat_map(|r| r.content.services.iter().flatten()).map(|t| t.migrations.live).sum()
}

/// What a site with filters is put together from.
struct Parts<M: Meter + 'static> {
    net: Network,
    director: Id<Director<Layer4, M>>,
    filters: Vec<Id<Director<Layer4, NoMeter>>>,
    clients: Vec<Id<Host>>,
    servers: Vec<Id<Host>>,
    client_links: Vec<LinkId>,
    server_links: Vec<LinkId>,
    snapshot: Snapshot,
}

/// Wires a site with filters. `server` makes a server's host: its name, itself, and whether its link is up; `client` one for a client. The clients'
/// links are down. Servers in the slots `gone` have no filter and stand on the link themselves.
fn assemble<M: Meter + Clone + 'static, C: Application>(
    (base, gone): (&Plan, &[usize]),
    meter: &M,
    mut snapshot: Snapshot,
    mut server: impl FnMut(usize, Settings) -> (String, Host, bool),
    clients: Vec<C>,
    client: impl Fn(Settings) -> Host,
) -> Parts<M> {
    let own = base.own_addresses();
    for (n, server) in snapshot.servers.iter_mut().flatten().enumerate() {
        if !gone.contains(&n) {
            snapshot.next_hops[n] = NextHop::new(wire(n), site::director_mac(0), 0, 1500);
        }
        server.tunnel_source = own.iter().copied().find(|a| a.is_ipv4() == server.address.is_ipv4());
    }
    let mut net = Network::new(base.seed);
    let director = net.add("director", Director::new(site::workers(base, meter, &snapshot)));
    let lan = net.add("lan", Switch::new());
    net.connect(director, lan, Faults::NONE);
    let (mut servers, mut filters, mut server_links) = (vec![], vec![], vec![]);
    for n in 0..base.weights.len() {
        let mut settings = site::server_settings(&Plan { forward: Forward::Dr, ..base.clone() }, n);
        if gone.contains(&n) {
            let (name, host, up) = server(n, settings);
            let host = net.add(&name, host);
            let link = net.connect(host, lan, base.server_faults);
            net.set_up(link, up);
            servers.push(host);
            server_links.push(link);
            continue;
        }
        settings.addresses =
            [format!("10.99.{n}.2/24"), format!("fd99:{n:x}::2/64")].iter().map(|a| address(a)).collect();
        settings.gateways = gateways(n).to_vec();
        let one = Plan { forward: Forward::Nat, workers: 1, seed: base.seed ^ (n as u64 + 1) << 32, ..base.clone() };
        let state = behind(base, n, settings.mac, clients.len());
        let filter = net.add(&format!("filter{}", n + 1), Director::new(site::workers(&one, &NoMeter, &state)));
        let link = net.connect(filter, lan, base.server_faults);
        let (name, host, up) = server(n, settings);
        net.set_up(link, up);
        let host = net.add(&name, host);
        net.connect(filter, host, Faults::NONE);
        filters.push(filter);
        servers.push(host);
        server_links.push(link);
    }
    let clients = clients.into_iter().enumerate();
    let (clients, client_links) = clients
        .map(|(n, application)| {
            let host = client(site::client_settings(base, n)).with(application);
            let host = net.add(&format!("client{}", n + 1), host);
            let link = net.connect(host, lan, base.client_faults);
            net.set_up(link, false);
            (host, link)
        })
        .unzip();
    Parts { net, director, filters, clients, servers, client_links, server_links, snapshot }
}

impl FilterSite {
    /// Builds a site with these clients, each on a host of its own, which [`FilterSite::open`] lets in. The plan's way of forwarding is direct routing or a tunnel; its
    /// servers' faults are those of the link between filters and the rest.
    ///
    /// # Panics
    /// With another way of forwarding.
    pub fn build(plan: ContentPlan, clients: Vec<ContentClient>) -> Self {
        FilterSite::build_without(plan, clients, &[])
    }

    /// The same, where the servers in these slots have no filter: they stand on the link themselves, and the director falls back to
    /// full NAT.
    ///
    /// # Panics
    /// With another way of forwarding.
    pub fn build_without(mut plan: ContentPlan, clients: Vec<ContentClient>, gone: &[usize]) -> Self {
        assert!(!plan.base.forward.replies_return(), "filters answer directly");
        plan.binding.scheme = Scheme::Filter(channel(!gone.is_empty()));
        let base = Plan { weights: vec![1; plan.servers().len()], ..plan.base.clone() };
        let all = plan.servers();
        let mut snapshot = plan.snapshot();
        let sources: Vec<IpAddr> = ["192.0.2.200", "2001:db8::c8"].into_iter().filter_map(|a| a.parse().ok()).collect();
        for service in snapshot.services.iter_mut().flatten().filter(|_| !gone.is_empty()) {
            service.sources = sources.iter().copied().filter(|a| a.is_ipv4() == service.address.is_ipv4()).collect();
            snapshot.own.extend(&service.sources);
        }
        let server = |n: usize, settings| {
            let (name, class, health) = all[n].clone();
            let mut host = Host::new(settings).reshaped(plan.server_wire).watched();
            if health == Health::Lives {
                let server = ContentServer::new(&name, PORT, &[class]).backlog(base.backlog).thinks(plan.thinks);
                host = host.with(server);
            }
            (name, host, health != Health::Dead)
        };
        let client = |settings| Host::new(settings).reshaped(plan.client_wire).watched();
        let parts = assemble((&base, gone), &NoMeter, snapshot, server, clients, client);
        let Parts { net, director, filters, clients, servers, client_links, .. } = parts;
        let live = all.iter().enumerate().filter(|(n, s)| s.2 != Health::Dead && !gone.contains(n)).count() as u64;
        FilterSite { net, director, filters, clients, servers, client_links, live, plan }
    }

    /// Lets the clients onto the network as soon as the director has heard of every filter that there is: whoever comes before
    /// is told that no server is there. `false` when it has not by then.
    pub fn open(&mut self, limit: u64) -> bool {
        let there = self.live;
        let workers = u64::from(self.plan.base.workers);
        let end = self.net.now() + limit;
        while live(&self.reports().0) < there * workers {
            if self.net.now() >= end {
                return false;
            }
            self.net.run_for(10 * MILLISECOND);
        }
        self.client_links.iter().for_each(|link| self.net.set_up(*link, true));
        true
    }

    /// What the director's workers, and then the filters, have counted.
    pub fn reports(&mut self) -> (Vec<Report>, Vec<Report>) {
        let now = self.net.now();
        let mut ask = |id: Id<Director<Layer4, NoMeter>>| {
            let answers = self.net[id].command(|| Command::Report(Box::default()), now);
            let reports = answers.into_iter().filter_map(|a| match a {
                Acknowledgement::Report(report) => Some(*report),
                _ => None,
            });
            reports.collect::<Vec<_>>()
        };
        let director = ask(self.director);
        (director, self.filters.clone().into_iter().flat_map(ask).collect())
    }

    /// Runs until every client is done; `false` when they are not by then.
    pub fn finish(&mut self, limit: u64) -> bool {
        let clients = self.clients.clone();
        let limit = self.net.now() + limit;
        self.net.run(limit, |net| clients.iter().all(|c| net[*c].application::<ContentClient>().finished()))
    }

    /// The server applications that there are.
    pub fn living(&self) -> impl Iterator<Item = &ContentServer> {
        let lives = self.plan.servers().into_iter().map(|s| s.2 == Health::Lives);
        self.servers.iter().zip(lives).filter(|s| s.1).map(|(id, _)| self.net[*id].application::<ContentServer>())
    }
}

fn address(text: &str) -> (IpAddr, u8) {
    let (ip, length) = text.split_once('/').expect("address/length");
    (ip.parse().expect("an address"), length.parse().expect("a length"))
}

/// The filter's addresses toward its host's stack.
fn gateways(n: usize) -> [IpAddr; 2] {
    [format!("10.99.{n}.1"), format!("fd99:{n:x}::1")].map(|a| a.parse().expect("an address"))
}

/// What the filter of server `n` works by: one service, whose server is the host's stack.
fn behind(base: &Plan, n: usize, stack: MacAddr, clients: usize) -> Snapshot {
    let at = base.service();
    let interface = |name: &str, mac| Interface { name: name.into(), mac, mtu: 1500 };
    let mut s = Snapshot { generation: 1, timeouts: base.timeouts, ..Snapshot::default() };
    s.interfaces = vec![interface("wire", wire(n)), interface("arm", arm(n))];
    s.next_hops.push(NextHop::new(stack, arm(n), 1, 1500));
    for client in 0..clients {
        let settings = site::client_settings(base, client);
        let row = s.next_hops.len() as u16;
        s.next_hops.push(NextHop::new(settings.mac, wire(n), 0, 1500));
        for (ip, _) in settings.addresses {
            s.routes.insert(ip, 128, Via::NextHop(row));
        }
    }
    // Not the service's address: on the clients' link it is the director's, and who else answers for it takes its place.
    s.own.extend(gateways(n));
    s.by_endpoint.insert((at.ip(), at.port(), protocol::TCP), 0);
    s.servers.push(Some(Server {
        name: "stack".into(),
        service: 0,
        address: at.ip(),
        port: at.port(),
        forward: Forward::Nat,
        weight: 1,
        state: ServerState::Up,
        next_hop: 0,
        tunnel_source: None,
    }));
    let to = Action::RouteTo { group: 0, stickiness: Stickiness::Service };
    let rules = vec![Rule { name: "all".into(), condition: Expr::always(), action: to }];
    let program = matching::compile(&RuleSet { rules }).unwrap_or_else(|e| panic!("{e:?}"));
    let listen = vec![SocketAddr::new(base.server_address(n), CHANNEL)];
    let receiver = Receiver { key: key(), listen, tunnels: base.forward == Forward::Tunnel };
    let content = Content {
        protocol: extract::Protocol::Http,
        plan: extract::Plan::new(&program, extract::Limits::default()),
        program,
        groups: vec![Group { name: "stack".into(), scheduler: Scheduler::Rr, servers: vec![0] }],
        binding: Binding { scheme: Scheme::Migrated(receiver), switching: Switching::Request, ..Binding::default() },
    };
    s.services.push(Some(Service {
        name: "web".into(),
        address: at.ip(),
        port: at.port(),
        protocol: protocol::TCP,
        scheduler: Scheduler::Rr,
        servers: vec![0],
        sources: vec![],
        source_ports: (1024, 65_535),
        persistence: None,
        content: Some(Arc::new(content)),
    }));
    s
}
