//! The scene of a scenario: hosts, servers' ends of tunnels and HTTP servers, and the configuration of the director
//! that belongs to them.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use lcs_control::config::Word;
use lcs_hwconf::decapsulator::Decapsulator;
use lcs_hwconf::testbed::{Arms, ETH0, ETH1, Host, Plan, ReturnPath, Testbed};
use lcs_pipelines::snapshot::Forward;

use super::Error;
use crate::demo::http::Server;

/// Port of the virtual service.
pub const SERVICE_PORT: u16 = 80;
/// Port of the real servers where the director maps ports.
pub const MAPPED_PORT: u16 = 8080;
/// Name of the service.
pub const SERVICE: &str = "web";
/// Name of the service of UDP, where there is one.
pub const DATAGRAM_SERVICE: &str = "datagrams";
/// Weights of the three servers at the beginning.
pub const WEIGHTS: [u32; 3] = [3, 2, 1];

/// Which way the director forwards, and between which families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// How packets reach the servers.
    pub forward: Forward,
    /// Whether clients and the service are IPv6.
    pub ipv6: bool,
    /// Whether the servers are: as the service, but for tunnels through the other family.
    pub server_ipv6: bool,
}

impl Setup {
    /// The setups of the demo: each way over IPv4 and over IPv6.
    pub const ALL: [Setup; 8] = {
        const fn of(forward: Forward, ipv6: bool) -> Setup {
            Setup { forward, ipv6, server_ipv6: ipv6 }
        }
        [
            of(Forward::Nat, false),
            of(Forward::Nat, true),
            of(Forward::FullNat, false),
            of(Forward::FullNat, true),
            of(Forward::Dr, false),
            of(Forward::Dr, true),
            of(Forward::Tunnel, false),
            of(Forward::Tunnel, true),
        ]
    };

    /// The scenario's name.
    pub fn name(&self) -> &'static str {
        match self.forward {
            Forward::Nat => "nat",
            Forward::FullNat => "fullnat",
            Forward::Dr => "dr",
            Forward::Tunnel => "tun",
        }
    }

    /// The same with servers of the other family, where there is such a thing: 4-in-6 and 6-in-4 tunnels.
    pub fn mixed(&self) -> Option<Setup> {
        (self.forward == Forward::Tunnel).then_some(Setup { server_ipv6: !self.ipv6, ..*self })
    }

    /// The clients' family as it is written in reports.
    pub fn ip(&self) -> &'static str {
        if self.ipv6 { "ipv6" } else { "ipv4" }
    }

    /// The network that it stands on.
    pub fn plan(&self) -> Plan {
        let return_path = match self.forward {
            Forward::Nat => ReturnPath::Director,
            // Full NAT too: that answers come back is the doing of the source address, not of a gateway.
            Forward::FullNat | Forward::Dr | Forward::Tunnel => ReturnPath::Direct,
        };
        Plan { return_path, ..Plan::default() }
    }
}

/// A network with its servers running, and no director yet.
#[derive(Debug)]
pub struct Scene {
    setup: Setup,
    datagrams: bool,
    keys: String,
    servers: Vec<Server>,
    tunnels: Vec<Decapsulator>,
    bed: Testbed,
}

impl Scene {
    /// Builds what `setup` needs on the network that `plan` says.
    pub fn build(setup: Setup, plan: Plan) -> Result<Self, Error> {
        let bed = Testbed::build(plan)?;
        let virtual_address = bed.virtual_address(0, setup.ipv6);
        bed.give_virtual_address(virtual_address)?;
        let mut scene =
            Scene { setup, datagrams: false, keys: String::new(), servers: Vec::new(), tunnels: Vec::new(), bed };
        for (at, host) in scene.bed.servers().iter().enumerate() {
            if !setup.forward.replies_return() {
                host.add_hidden_address(virtual_address)?;
            }
            if setup.forward == Forward::Tunnel {
                scene.tunnels.push(host.decapsulate()?);
            }
            scene.servers.push(start_server(host, scene.endpoint(at as u8))?);
        }
        Ok(scene)
    }

    /// The same scene with a second service, of UDP, on the same address and ports. Nothing serves it here.
    #[must_use]
    pub fn with_datagrams(self) -> Self {
        Scene { datagrams: true, ..self }
    }

    /// The same scene with more keys for its service, lines of TOML.
    #[must_use]
    pub fn with_keys(self, keys: impl Into<String>) -> Self {
        Scene { keys: keys.into(), ..self }
    }

    /// Ends the HTTP server number `at`, from 0: its host refuses connections from then on.
    pub fn end_server(&mut self, at: usize) {
        if at < self.servers.len() {
            drop(self.servers.remove(at));
        }
    }

    /// Starts the HTTP server number `at`, from 0, again.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn start_server(&mut self, at: usize) -> Result<(), Error> {
        if let Some(host) = self.bed.servers().get(at) {
            let server = start_server(host, self.endpoint(at as u8))?;
            self.servers.insert(at.min(self.servers.len()), server);
        }
        Ok(())
    }

    /// Whether there is the service of UDP.
    pub fn has_datagrams(&self) -> bool {
        self.datagrams
    }

    /// What it was built for.
    pub fn setup(&self) -> Setup {
        self.setup
    }

    /// The network.
    pub fn bed(&self) -> &Testbed {
        &self.bed
    }

    /// The virtual service.
    pub fn service(&self) -> SocketAddr {
        SocketAddr::new(self.bed.virtual_address(0, self.setup.ipv6), SERVICE_PORT)
    }

    /// Where the HTTP server number `at`, from 0, listens.
    pub fn endpoint(&self, at: u8) -> SocketAddr {
        match self.setup.forward {
            Forward::Nat | Forward::FullNat => {
                SocketAddr::new(self.bed.server_address(at, self.setup.server_ipv6), MAPPED_PORT)
            }
            Forward::Dr | Forward::Tunnel => self.service(),
        }
    }

    /// The running servers; the first is `server1`.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The far ends of the tunnels, one a server, where there are.
    pub fn tunnels(&self) -> &[Decapsulator] {
        &self.tunnels
    }

    /// The source that servers see of a client: the address, and whether the port is the client's own.
    pub fn seen_as(&self) -> (IpAddr, bool) {
        match self.setup.forward {
            Forward::FullNat => (self.bed.director_inner_address(self.setup.server_ipv6), false),
            _ => (self.bed.client_address(0, self.setup.ipv6), true),
        }
    }

    /// The director's configuration, as a user would write it.
    pub fn configuration(&self, socket: &str) -> String {
        let interfaces = match self.bed.plan().arms {
            Arms::One => format!("\"{ETH0}\""),
            Arms::Two => format!("\"{ETH0}\", \"{ETH1}\""),
        };
        let mut text = format!(
            "[director]\nsocket = \"{socket}\"\naddresses = [\"{own4}\", \"{own6}\"]\n\n\
             [workers]\nflows = 16384\nidle = \"adaptive\"\n\n\
             [port]\nkind = \"af-xdp\"\ninterfaces = [{interfaces}]\n",
            own4 = self.bed.director_inner_address(false),
            own6 = self.bed.director_inner_address(true),
        );
        self.add_service(&mut text, SERVICE, "tcp");
        if self.datagrams {
            self.add_service(&mut text, DATAGRAM_SERVICE, "udp");
        }
        text
    }

    fn add_service(&self, text: &mut String, name: &str, protocol: &str) {
        let Setup { forward, server_ipv6, .. } = self.setup;
        let _ = writeln!(
            text,
            "\n[[services]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\naddress = \"{}\"\nport = {SERVICE_PORT}\n\
             scheduler = \"wrr\"\nforward = \"{}\"",
            self.service().ip(),
            forward.word(),
        );
        if name == SERVICE {
            let _ = writeln!(text, "{}", self.keys);
        }
        if forward == Forward::FullNat {
            let _ = writeln!(text, "sources = [\"{}\"]", self.bed.director_inner_address(server_ipv6));
        }
        text.push_str("servers = [\n");
        for (at, host) in (0..).zip(self.bed.servers()) {
            let address = self.bed.server_address(at, server_ipv6);
            let weight = WEIGHTS.get(usize::from(at)).copied().unwrap_or(1);
            let port = if forward.replies_return() { format!(", port = {MAPPED_PORT}") } else { String::new() };
            let name = host.name();
            let _ = writeln!(text, "  {{ name = \"{name}\", address = \"{address}\"{port}, weight = {weight} }},");
        }
        text.push_str("]\n");
    }
}

fn start_server(host: &Host, address: SocketAddr) -> Result<Server, Error> {
    host.run(|| Server::start(host.name(), address))?.map_err(|source| Error::Server {
        name: host.name().into(),
        address,
        source,
    })
}
