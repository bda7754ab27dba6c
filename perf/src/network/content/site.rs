//! The content site: clients, a director that switches by [`RULES`], and groups of servers, some of which may refuse
//! connections or be dead. Wired and addressed as [`crate::network::site`] has it.

use super::client::ContentClient;
use super::exchange::Class;
use super::rules::{self, Groups, RULES, Roster};
use super::server::ContentServer;
use crate::network::director::Director;
use crate::network::host::Host;
use crate::network::link::Faults;
use crate::network::random::Random;
use crate::network::reshape;
use crate::network::site::{self, Plan, SERVER_PORT};
use crate::network::switch::Switch;
use crate::network::{Id, Network};
use lcs_dataplane::cycles::NoMeter;
use lcs_dataplane::worker::Nanos;
use lcs_pipelines::command::{Acknowledgement, Command, Report};
use lcs_pipelines::content::{Binding, Content};
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::placement::{self, ContentEnd, ContentWorker};
use lcs_pipelines::snapshot::{ServerState, Snapshot};
use lcs_pipelines::stages::schedule::SharedCounts;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// How a server behaves toward connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Lives,
    /// Its host answers a SYN with a reset.
    Refuses,
    /// Nothing comes from it.
    Dead,
}

/// What a content site is.
#[derive(Debug, Clone)]
pub struct ContentPlan {
    /// Addresses, TCP, faults, workers. Its weights are made from the groups.
    pub base: Plan,
    /// For each class that servers answer, its servers.
    pub groups: Vec<(Class, Vec<Health>)>,
    /// How connections are bound.
    pub binding: Binding,
    /// How long servers take before they answer, at most, ns.
    pub thinks: Nanos,
    /// Content workers that decide requests; with none, the port workers do.
    pub content_workers: usize,
    /// What the clients' segments go through.
    pub client_wire: reshape::Settings,
    /// What the servers' segments go through.
    pub server_wire: reshape::Settings,
}

impl ContentPlan {
    /// A site of two servers for each class, all of which live but those of [`Class::Down`].
    pub fn new(mut base: Plan) -> Self {
        let two = |c: &Class| (*c, vec![Health::Lives; 2]);
        let mut groups: Vec<_> = Class::SERVED.iter().map(two).collect();
        groups.push((Class::Down, vec![Health::Dead, Health::Refuses]));
        base.weights = vec![];
        ContentPlan {
            base,
            groups,
            binding: Binding::default(),
            thinks: 0,
            content_workers: 0,
            client_wire: reshape::Settings::default(),
            server_wire: reshape::Settings::default(),
        }
    }

    /// Every server in the order of its slot: its name, its class, how it is.
    pub fn servers(&self) -> Vec<(String, Class, Health)> {
        let all = self.groups.iter().flat_map(|(class, servers)| servers.iter().map(|h| (*class, *h)));
        all.enumerate().map(|(n, (class, health))| (format!("s{}", n + 1), class, health)).collect()
    }

    /// The slots of the servers of each group.
    pub fn slots(&self) -> Groups {
        let mut next = 0;
        let slots = |servers: &Vec<Health>| {
            let first = next;
            next += servers.len() as u16;
            (first..next).collect()
        };
        self.groups
            .iter()
            .map(|(c, _)| c.name().to_owned())
            .zip(self.groups.iter().map(|(_, s)| s).map(slots))
            .collect()
    }

    /// What clients may expect.
    pub fn roster(&self) -> Roster {
        let servers = self.servers();
        let living = |class| {
            let of = servers.iter().filter(|s| s.1 == class && s.2 == Health::Lives);
            of.map(|s| s.0.clone()).collect()
        };
        let base = &self.base;
        Roster::new(living, base.client_faults.any() || base.server_faults.any())
    }

    /// The base plan with a weight for each server.
    fn addressed(&self) -> Plan {
        Plan { weights: vec![1; self.servers().len()], ..self.base.clone() }
    }

    /// What the control thread would publish.
    ///
    /// # Panics
    /// When [`RULES`] do not compile, which their own test rules out.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.addressed().snapshot();
        let content = rules::compile(RULES, &self.slots(), self.base.scheduler, self.binding.clone());
        let content = Arc::new(content.unwrap_or_else(|e| panic!("{e}")));
        // With these, wrong guesses of servers are mended that answer clients themselves.
        let direct = !self.base.two_armed() && self.binding.scheme.guesses();
        let source = if self.base.v6 { "2001:db8::c8" } else { "192.0.2.200" };
        let source: Option<IpAddr> = source.parse().ok().filter(|_| direct);
        snapshot.own.extend(source);
        for service in snapshot.services.iter_mut().flatten() {
            service.content = Some(Arc::clone(&content));
            service.sources.extend(source);
        }
        snapshot
    }
}

/// A content site that runs.
pub struct ContentSite {
    /// The network that it stands in.
    pub net: Network,
    /// What it was made from.
    pub plan: ContentPlan,
    /// The director.
    pub director: Id<Director<Layer4, NoMeter>>,
    /// The clients.
    pub clients: Vec<Id<Host>>,
    /// The servers, by slot.
    pub servers: Vec<Id<Host>>,
    snapshot: Snapshot,
    deciding: Rc<RefCell<Deciding>>,
    /// The same rules, compiled again and again.
    compiled: Vec<Arc<Content>>,
}

/// Content workers that take their turns now and then, and hear of a snapshot sooner or later.
struct Deciding {
    workers: Vec<ContentWorker<NoMeter>>,
    later: Vec<Arc<Snapshot>>,
    random: Random,
}

impl Deciding {
    fn new(ends: Vec<ContentEnd>, counts: Arc<SharedCounts>, seed: u64) -> Self {
        let worker = |ends| ContentWorker::new(ends, Arc::clone(&counts), NoMeter);
        let random = Random::new(seed ^ 0x7b1e_90ad);
        Deciding { workers: ends.into_iter().map(worker).collect(), later: vec![], random }
    }

    fn turn(&mut self) -> bool {
        if !self.later.is_empty() && self.random.chance(0.3) {
            let snapshot = self.later.remove(0);
            for worker in &mut self.workers {
                worker.command(Command::Install(Arc::clone(&snapshot)));
            }
        }
        let random = &mut self.random;
        self.workers.iter_mut().fold(false, |did, worker| {
            let most = if random.chance(0.5) { random.between(1, 4) as usize } else { 0 };
            did | (worker.poll_at_most(most) > 0)
        })
    }
}

impl ContentSite {
    /// Builds a site with these clients, each on a host of its own.
    pub fn build(plan: ContentPlan, clients: Vec<ContentClient>) -> Self {
        let base = plan.addressed();
        let snapshot = plan.snapshot();
        let mut net = Network::new(base.seed);
        let (rings, ends) = match plan.content_workers {
            0 => (vec![], vec![]),
            n => placement::rings_of(usize::from(base.workers.max(1)), n, 8),
        };
        let (workers, counts) = site::placed(&base, &NoMeter, &snapshot, rings);
        let mut director = Director::new(workers);
        let deciding = Rc::new(RefCell::new(Deciding::new(ends, counts, base.seed)));
        if plan.content_workers > 0 {
            deciding.borrow_mut().later.push(Arc::new(snapshot.clone()));
            let deciding = Rc::clone(&deciding);
            director = director.with_beside(Box::new(move || deciding.borrow_mut().turn()));
        }
        if base.scatter {
            let mut random = Random::new(base.seed ^ 0x5ca7_7e20);
            director = director.steered(Box::new(move |_, _| random.draw() as usize >> 8));
        }
        let director = net.add("director", director);
        let outside = net.add("outside", Switch::new());
        net.connect(director, outside, Faults::NONE);
        let inside = if base.two_armed() {
            let inside = net.add("inside", Switch::new());
            net.connect(director, inside, Faults::NONE);
            inside
        } else {
            outside
        };
        let port = if base.two_armed() { SERVER_PORT } else { site::PORT };
        let mut servers = vec![];
        for (n, (name, class, health)) in plan.servers().into_iter().enumerate() {
            let mut host = Host::new(site::server_settings(&base, n)).reshaped(plan.server_wire).watched();
            if health == Health::Lives {
                let server = ContentServer::new(&name, port, &[class]).backlog(base.backlog).thinks(plan.thinks);
                host = host.with(server);
            }
            let host = net.add(&name, host);
            let link = net.connect(host, inside, base.server_faults);
            net.set_up(link, health != Health::Dead);
            servers.push(host);
        }
        let clients = clients.into_iter().enumerate();
        let clients = clients
            .map(|(n, client)| {
                let host = Host::new(site::client_settings(&base, n)).reshaped(plan.client_wire).watched();
                let host = net.add(&format!("client{}", n + 1), host.with(client));
                net.connect(host, outside, base.client_faults);
                host
            })
            .collect();
        ContentSite { net, director, clients, servers, snapshot, plan, deciding, compiled: vec![] }
    }

    /// What clients may expect.
    pub fn roster(plan: &ContentPlan) -> Rc<Roster> {
        Rc::new(plan.roster())
    }

    /// Publishes a changed snapshot to every worker, as the control thread would.
    pub fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.snapshot);
        self.snapshot.generation += 1;
        let snapshot = Arc::new(self.snapshot.clone());
        let now = self.net.now();
        self.net[self.director].command(|| Command::Install(Arc::clone(&snapshot)), now);
        if self.plan.content_workers > 0 {
            self.deciding.borrow_mut().later.push(snapshot);
        }
    }

    /// Has a server take no new connections, or take them again.
    pub fn drain(&mut self, server: u16, draining: bool) {
        self.publish(|s| {
            if let Some(Some(s)) = s.servers.get_mut(usize::from(server)) {
                s.state = if draining { ServerState::Draining } else { ServerState::Up };
            }
        });
    }

    /// Publishes the same rules as another program: requests after this are decided by that one.
    pub fn reload(&mut self) {
        // One that nobody holds any more is as good as new.
        let unused = self.compiled.iter().position(|content| Arc::strong_count(content) == 1);
        let content = match unused {
            Some(at) => Arc::clone(&self.compiled[at]),
            None => {
                let (slots, base) = (self.plan.slots(), &self.plan.base);
                let Ok(content) = rules::compile(RULES, &slots, base.scheduler, self.plan.binding.clone()) else {
                    return;
                };
                let content = Arc::new(content);
                self.compiled.push(Arc::clone(&content));
                content
            }
        };
        self.publish(|s| {
            for service in s.services.iter_mut().flatten() {
                service.content = Some(Arc::clone(&content));
            }
        });
    }

    /// Compiles other rules and publishes them.
    ///
    /// # Panics
    /// When they do not compile.
    pub fn replace(&mut self, rules: &str, binding: &Binding) {
        let content = rules::compile(rules, &self.plan.slots(), self.plan.base.scheduler, binding.clone());
        let content = Arc::new(content.unwrap_or_else(|e| panic!("{e}")));
        self.publish(|s| {
            for service in s.services.iter_mut().flatten() {
                service.content = Some(Arc::clone(&content));
            }
        });
    }

    /// What each worker has counted, servers' packets and bytes up to now among it.
    pub fn reports(&mut self) -> Vec<Report> {
        let now = self.net.now();
        let mut reports: Vec<Box<Report>> = vec![];
        loop {
            let mut again = reports.into_iter();
            let mut next = || again.next().unwrap_or_else(|| Box::new(Report { traffic: true, ..Report::default() }));
            let answers = self.net[self.director].command(|| Command::Report(next()), now);
            let report = |a| if let Acknowledgement::Report(report) = a { Some(report) } else { None };
            reports = answers.into_iter().filter_map(report).collect();
            // Each time it is asked, a worker goes on with it.
            if reports.iter().all(|report| report.settled) {
                return reports.into_iter().map(|report| *report).collect();
            }
        }
    }

    /// Runs until every client is done; `false` when they are not by then.
    pub fn finish(&mut self, limit: u64) -> bool {
        let clients = self.clients.clone();
        let limit = self.net.now() + limit;
        let mut at = 0;
        self.net.run(limit, |net| {
            while at < clients.len() && net[clients[at]].application::<ContentClient>().finished() {
                at += 1;
            }
            at == clients.len()
        })
    }

    /// The server applications that there are.
    pub fn living(&self) -> impl Iterator<Item = &ContentServer> {
        let lives = self.plan.servers().into_iter().map(|s| s.2 == Health::Lives);
        self.servers.iter().zip(lives).filter(|s| s.1).map(|(id, _)| self.net[*id].application::<ContentServer>())
    }
}
