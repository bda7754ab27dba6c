//! `lcs filter`: a real server's own end of the scheme `filter`. It is a director of a kind: the same worker, control thread and
//! control socket, with services whose only server is this host's stack.

use super::{Director, RunError};
use crate::config::{
    self, Admin, Configuration, Content, Copy, Group, Neighbour, Port, PortKind, Protocol, Server, Service, Workers,
    XdpMode,
};
use crate::rules;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::worker::Idle;
use lcs_hwconf::rtnl::Rtnl;
use lcs_hwconf::stack_arm;
use lcs_pipelines::content::{Binding, Receiver, Scheme, Switching};
use lcs_pipelines::extract;
use lcs_pipelines::snapshot::{Forward, Scheduler, Timeouts, WhenFull};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Longest list of services.
const SERVICES_MAX: usize = 1024;

/// What a filter is to do.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The interface toward director and clients.
    pub interface: String,
    /// Its end of the arm toward this host's stack.
    pub stack: String,
    /// The virtual services that this host serves.
    pub services: Vec<SocketAddr>,
    /// The file of the secret that is shared with directors.
    pub key_file: PathBuf,
    /// Addresses of this host's on which it hears directors; those of the interface where none are given.
    pub listen: Vec<IpAddr>,
    /// UDP port on which it hears them.
    pub port: u16,
    /// Whether clients' packets come in tunnels to these addresses.
    pub tunnels: bool,
    /// The control socket.
    pub socket: PathBuf,
    /// Connections that it can know at once.
    pub flows: usize,
    /// The core that its worker polls on; not pinned where none is given.
    pub core: Option<usize>,
    /// Where the XDP program runs.
    pub mode: XdpMode,
}

impl Filter {
    /// The filter, ready to be run in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the key, the interfaces or the arm are not as they must be; the error says how to make them so.
    pub fn director(&self) -> Result<Director, RunError> {
        Ok(Director {
            configuration: self.configuration()?,
            source: None,
            name: format!("filter on {}", self.interface),
            log: Box::new(|line| eprintln!("lcs: {line}")),
        })
    }

    fn configuration(&self) -> Result<Configuration, RunError> {
        let port_error = |what: String| RunError::Port(what);
        if self.services.is_empty() || self.services.len() > SERVICES_MAX {
            let n = self.services.len();
            return Err(port_error(format!(
                "{n} services are given; name 1 to {SERVICES_MAX}: --service ADDRESS:PORT"
            )));
        }
        if let Some(at) = self.services.iter().find(|at| at.port() == 0) {
            return Err(port_error(format!("service {at} has no port; a filter serves one port each")));
        }
        let key = config::read_filter_key(&self.key_file).map_err(|e| port_error(format!("{e}; {}", e.mend())))?;
        let rtnl = Rtnl::open().map_err(|e| port_error(e.to_string()))?;
        let ends: Vec<(IpAddr, u16)> = self.services.iter().map(|at| (at.ip(), at.port())).collect();
        stack_arm::check(&rtnl, &self.stack, &ends).map_err(|e| port_error(e.to_string()))?;
        let arm = rtnl.link(&self.stack).map_err(|e| port_error(e.to_string()))?;
        let mac = MacAddr(arm.mac.unwrap_or_default());
        for name in [&self.interface, &self.stack] {
            let queues = lcs_hwconf::links::interface(name).map_err(|e| port_error(e.to_string()))?.receive_queues;
            if queues != 1 {
                return Err(port_error(many_queues(name, queues)));
            }
        }
        let mut listen = self.listen.clone();
        if listen.is_empty() {
            let own = rtnl.addresses(&self.interface).map_err(|e| port_error(e.to_string()))?;
            let own = own.into_iter().map(|net| net.addr());
            listen.extend(own.filter(|a| config::check::usable(*a) && !ends.iter().any(|(service, _)| service == a)));
        }
        if listen.is_empty() {
            let what = format!("{} has no address on which directors could be heard", self.interface);
            return Err(port_error(format!("{what}; name one: --listen ADDRESS")));
        }
        let receiver = Receiver {
            key,
            listen: listen.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect(),
            tunnels: self.tunnels,
        };
        let mut addresses: Vec<IpAddr> = ends.iter().map(|(address, _)| *address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Configuration {
            director: config::Director { socket: self.socket.clone(), addresses: Vec::new() },
            workers: Workers {
                content: None,
                cores: self.core.into_iter().collect(),
                flows: self.flows,
                fragments: 4096,
                idle: Idle::Adaptive,
                when_full: WhenFull::Refuse,
            },
            port: Port {
                kind: PortKind::AfXdp,
                interfaces: vec![self.interface.clone(), self.stack.clone()],
                devices: Vec::new(),
                clients: Vec::new(),
                eal: None,
                taps: Vec::new(),
                mode: self.mode,
                copy: Copy::Auto,
                buffers: 4096,
                coalesce: config::COALESCE,
            },
            timeouts: Timeouts::default(),
            neighbours: addresses.into_iter().map(|address| Neighbour { address, mac, interface: 1 }).collect(),
            routes: Vec::new(),
            services: self.services.iter().map(|at| service(*at, &receiver)).collect::<Result<_, _>>()?,
        })
    }
}

/// A message of a director's would reach one worker, and its client's segments another.
fn many_queues(name: &str, queues: u32) -> String {
    format!(
        "{name} has {queues} receive queues, and a filter has one worker, which polls one: set the interface to one \
         (`ethtool -L {name} combined 1`, or rx 1)"
    )
}

/// A service whose server is this host's stack, at the service's own endpoint.
fn service(at: SocketAddr, receiver: &Receiver) -> Result<Service, RunError> {
    let server = Server {
        name: "stack".to_owned(),
        address: at.ip(),
        port: at.port(),
        weight: 1,
        forward: Forward::Nat,
        state: Admin::Up,
    };
    let rules = rules::parse("default: routeTo(stack)\n", &rules::Context::named("filter"))
        .map_err(|e| RunError::Worker(e.to_string()))?;
    let group = Group { name: "stack".to_owned(), scheduler: None, servers: vec!["stack".to_owned()] };
    // Heads as long as any director may take; where it decides for each request, they are read here as well.
    let limits = extract::Limits { head: 65_536, ..extract::Limits::default() };
    let scheme = Scheme::Migrated(receiver.clone());
    let binding = Binding { scheme, switching: Switching::Request, limits, ..Binding::default() };
    Ok(Service {
        name: format!("{}-{}", at.ip().to_string().replace(':', "."), at.port()),
        protocol: Protocol::Tcp,
        address: at.ip(),
        port: at.port(),
        scheduler: Scheduler::Rr,
        forward: Forward::Nat,
        sources: Vec::new(),
        source_ports: Service::SOURCE_PORTS,
        persistence: None,
        servers: vec![server],
        content: Some(Content {
            application: extract::Protocol::Http,
            rules: Arc::new(rules),
            groups: vec![group],
            binding,
            host_name: None,
        }),
        check: None,
    })
}
