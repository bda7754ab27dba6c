//! The content site of the scheme `filter`: on one link clients, the director, and for each server a filter, behind which the
//! server's stack stands alone.

use super::client::ContentClient;
use super::server::ContentServer;
use super::site::{ContentPlan, Health};
use crate::network::director::Director;
use crate::network::host::Host;
use crate::network::link::Faults;
use crate::network::site::{self, PORT, Plan};
use crate::network::switch::Switch;
use crate::network::{Id, LinkId, MILLISECOND, Network};
use lcs_dataplane::cycles::NoMeter;
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
        let channel = Channel {
            key: key(),
            port: CHANNEL,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(3_500),
            fallback: !gone.is_empty(),
        };
        plan.binding.scheme = Scheme::Filter(channel);
        let base = Plan { weights: vec![1; plan.servers().len()], ..plan.base.clone() };
        let mut snapshot = plan.snapshot();
        let own = base.own_addresses();
        for (n, server) in snapshot.servers.iter_mut().flatten().enumerate() {
            if !gone.contains(&n) {
                snapshot.next_hops[n] = NextHop::new(wire(n), site::director_mac(0), 0, 1500);
            }
            server.tunnel_source = own.iter().copied().find(|a| a.is_ipv4() == server.address.is_ipv4());
        }
        let sources: Vec<IpAddr> = ["192.0.2.200", "2001:db8::c8"].into_iter().filter_map(|a| a.parse().ok()).collect();
        for service in snapshot.services.iter_mut().flatten().filter(|_| !gone.is_empty()) {
            service.sources = sources.iter().copied().filter(|a| a.is_ipv4() == service.address.is_ipv4()).collect();
            snapshot.own.extend(&service.sources);
        }
        let mut net = Network::new(base.seed);
        let director = net.add("director", Director::new(site::workers(&base, &NoMeter, &snapshot)));
        let lan = net.add("lan", Switch::new());
        net.connect(director, lan, Faults::NONE);
        let (mut servers, mut filters) = (vec![], vec![]);
        for (n, (name, class, health)) in plan.servers().into_iter().enumerate() {
            let mut settings = site::server_settings(&Plan { forward: Forward::Dr, ..base.clone() }, n);
            let alone = gone.contains(&n);
            if alone {
                let mut host = Host::new(settings).reshaped(plan.server_wire).watched();
                if health == Health::Lives {
                    let server = ContentServer::new(&name, PORT, &[class]).backlog(base.backlog).thinks(plan.thinks);
                    host = host.with(server);
                }
                let host = net.add(&name, host);
                let link = net.connect(host, lan, base.server_faults);
                net.set_up(link, health != Health::Dead);
                servers.push(host);
                continue;
            }
            settings.addresses =
                [format!("10.99.{n}.2/24"), format!("fd99:{n:x}::2/64")].iter().map(|a| address(a)).collect();
            settings.gateways = gateways(n).to_vec();
            let one =
                Plan { forward: Forward::Nat, workers: 1, seed: base.seed ^ (n as u64 + 1) << 32, ..base.clone() };
            let state = behind(&base, n, settings.mac, clients.len());
            let filter = net.add(&format!("filter{}", n + 1), Director::new(site::workers(&one, &NoMeter, &state)));
            let link = net.connect(filter, lan, base.server_faults);
            net.set_up(link, health != Health::Dead);
            let mut host = Host::new(settings).reshaped(plan.server_wire).watched();
            if health == Health::Lives {
                let server = ContentServer::new(&name, PORT, &[class]).backlog(base.backlog).thinks(plan.thinks);
                host = host.with(server);
            }
            let host = net.add(&name, host);
            net.connect(filter, host, Faults::NONE);
            filters.push(filter);
            servers.push(host);
        }
        let living = plan.servers().into_iter().enumerate().filter(|(n, s)| s.2 != Health::Dead && !gone.contains(n));
        let live = living.count() as u64;
        let clients = clients.into_iter().enumerate();
        let (clients, client_links) = clients
            .map(|(n, client)| {
                let host = Host::new(site::client_settings(&base, n)).reshaped(plan.client_wire).watched();
                let host = net.add(&format!("client{}", n + 1), host.with(client));
                let link = net.connect(host, lan, base.client_faults);
                net.set_up(link, false);
                (host, link)
            })
            .unzip();
        FilterSite { net, director, filters, clients, servers, client_links, live, plan }
    }

    /// Lets the clients onto the network as soon as the director has heard of every filter that there is: whoever comes before
    /// is told that no server is there. `false` when it has not by then.
    pub fn open(&mut self, limit: u64) -> bool {
        let there = self.live;
        let workers = u64::from(self.plan.base.workers);
        let end = self.net.now() + limit;
        let live = |reports: Vec<Report>| -> u64 {
            reports.iter().flat_map(|r| r.content.services.iter().flatten()).map(|t| t.migrations.live).sum()
        };
        while live(self.reports().0) < there * workers {
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
        content: Some(Arc::new(content)),
    }));
    s
}
