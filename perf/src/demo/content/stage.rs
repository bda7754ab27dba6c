//! What the content scenarios over kernel TCP are played on: hosts, servers, their filters, and the director.

use std::io::{self, Read, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use lcs_control::config::{Word as _, XdpMode};
use lcs_control::protocol::ServiceReport;
use lcs_control::run::filter::Filter;
use lcs_hwconf::decapsulator::Decapsulator;
use lcs_hwconf::stack_arm;
use lcs_hwconf::testbed::{ETH0, Host, Plan, ReturnPath, Testbed};
use lcs_pipelines::tally::MigrationTally;
use socket2::SockRef;

use super::root::{PATIENCE, read};
use super::{Content, RuleFile};
use crate::demo::interrupt::Interrupt;
use crate::demo::narrator::Narrator;
use crate::demo::root::Error;
use crate::demo::root::director::Director;
use crate::demo::root::relay::Relay;
use crate::demo::root::scene::{MAPPED_PORT, SERVICE_PORT};
use crate::network::link::Faults;

/// A scenario's network, in which everything runs.
pub(super) struct Stage {
    pub(super) service: SocketAddr,
    /// The servers' names.
    pub(super) names: Vec<String>,
    pub(super) director: Director,
    /// The servers' filters, where the scenario has any.
    pub(super) filters: Vec<Director>,
    pub(super) servers: Vec<Server>,
    /// The secret of director and filters.
    pub(super) key: RuleFile,
    /// The far ends of tunnels to servers that have no filter.
    pub(super) tunnels: Vec<Decapsulator>,
    /// The cables that are bad, where some are.
    pub(super) cables: Vec<Relay>,
    pub(super) bed: Testbed,
}

impl Stage {
    pub(super) fn build(
        content: Content,
        ipv6: bool,
        faults: Faults,
        narrator: &mut Narrator<'_>,
        interrupt: &Interrupt,
    ) -> Result<Self, Error> {
        narrator.step("building: client, director and three servers on one bridge");
        let filtered = content.is_filtered();
        let return_path = if content.answers_directly() { ReturnPath::Direct } else { ReturnPath::Director };
        let bed = Testbed::build(Plan { return_path, ..Plan::default() })?;
        let service = SocketAddr::new(bed.virtual_address(0, ipv6), SERVICE_PORT);
        bed.give_virtual_address(service.ip())?;
        let names: Vec<String> = bed.servers().iter().map(|host| host.name().to_owned()).collect();
        let (mut servers, mut tunnels) = (vec![], vec![]);
        for (group, host) in bed.servers().iter().enumerate() {
            let address = if content.answers_directly() {
                host.add_hidden_address(service.ip())?;
                if content.is_tunnelled() && !filtered {
                    tunnels.push(host.decapsulate()?);
                }
                // What is bound over full NAT comes to a server's own address, all else to the service's.
                let any: std::net::IpAddr =
                    if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                if content.needs_sources() { SocketAddr::new(any, SERVICE_PORT) } else { service }
            } else {
                SocketAddr::new(bed.server_address(group as u8, ipv6), MAPPED_PORT)
            };
            let name = host.name();
            let started = host.run(|| Server::start(content, group, name, address))?;
            servers.push(started.map_err(|source| Error::Server { name: name.into(), address, source })?);
        }
        let mut cables = vec![];
        if faults.any() {
            narrator.step(format!(
                "cutting the cables of client and servers: relays lose {} of the frames, deliver {} twice and {} late",
                share(faults.loss),
                share(faults.duplicate),
                share(faults.reorder)
            ));
            for (host, seed) in [bed.client()].into_iter().chain(bed.servers()).zip(1..) {
                cables.push(Relay::start(&bed, host, ETH0, [faults; 2], seed)?);
            }
        }
        interrupt.check()?;
        narrator.step("starting the director on AF_XDP, with the rules");
        for rule in content.rules().lines() {
            narrator.step(format!("  {rule}"));
        }
        let rules = RuleFile::write(content.rules()).map_err(Error::Client)?;
        let key = RuleFile::write_secret("the demo's own secret").map_err(Error::Client)?;
        let mut keys = content.keys(&rules, &names);
        let mut filters = vec![];
        if filtered {
            narrator.step("starting a filter on each server, between its interface and its stack");
            keys += &format!("filter-key = \"{}\"\nfilter-interval = \"200ms\"\n", key.path().display());
            for host in bed.servers() {
                let ends = [(service.ip(), service.port())];
                let names = (stack_arm::FILTER_END, "lcs1");
                stack_arm::create(host.rtnl(), host.ethtool(), names, &ends, 1500)?;
                filters.push(start_filter(content, host, service, key.path())?);
            }
        }
        let text = |socket: &str| configuration(&bed, content, service, &names, &keys, socket);
        let mut director = Director::start_on(bed.director(), text)?;
        if filtered {
            narrator.step("waiting until every filter has answered");
            director.wait_for_filters(bed.servers().len() as u64)?;
        }
        Ok(Stage { service, names, director, filters, servers, key, tunnels, cables, bed })
    }
}

/// A probability as people say it.
fn share(probability: f64) -> String {
    format!("{} %", probability * 100.0)
}

/// Starts the filter of a real server, which has its arm already.
pub(super) fn start_filter(content: Content, host: &Host, service: SocketAddr, key: &Path) -> Result<Director, Error> {
    let filter = Filter {
        interface: ETH0.into(),
        stack: stack_arm::FILTER_END.into(),
        services: vec![service],
        key_file: key.into(),
        listen: vec![],
        port: lcs_pipelines::migration::PORT,
        tunnels: content.is_tunnelled(),
        socket: PathBuf::new(),
        flows: 16_384,
        core: None,
        mode: XdpMode::Auto,
    };
    Director::start_filter(host, filter)
}

/// What became of migrations, over all services.
pub(super) fn migrated(services: &[ServiceReport]) -> MigrationTally {
    let counts = services.iter().filter_map(|s| s.content.as_ref()?.counts.as_ref()?.migrations);
    counts.fold(MigrationTally::default(), |mut sum, n| {
        sum.add(&n);
        sum
    })
}

/// The director's configuration, as a user would write it.
fn configuration(
    bed: &Testbed,
    content: Content,
    service: SocketAddr,
    names: &[String],
    keys: &str,
    socket: &str,
) -> String {
    let forward = content.forward();
    let source = bed.director_inner_address(service.is_ipv6());
    let sources = if content.needs_sources() { format!("sources = [\"{source}\"]\n") } else { String::new() };
    let own = [false, true].map(|v6| bed.director_inner_address(v6));
    let servers: String = names
        .iter()
        .enumerate()
        .map(|(n, name)| {
            let address = bed.server_address(n as u8, service.is_ipv6());
            let port = if content.answers_directly() { String::new() } else { format!(", port = {MAPPED_PORT}") };
            format!("  {{ name = \"{name}\", address = \"{address}\"{port} }},\n")
        })
        .collect();
    format!(
        "[director]\nsocket = \"{socket}\"\naddresses = [\"{}\", \"{}\"]\n\n\
         [workers]\nflows = 16384\nidle = \"adaptive\"\n\n\
         [port]\nkind = \"af-xdp\"\ninterfaces = [\"{ETH0}\"]\n\n\
         [[services]]\nname = \"shop\"\naddress = \"{}\"\nport = {SERVICE_PORT}\nforward = \"{}\"\n{sources}{keys}\
         servers = [\n{servers}]\n",
        own[0],
        own[1],
        service.ip(),
        forward.word(),
    )
}

/// A running server; it ends when this is dropped.
pub(super) struct Server {
    listener: TcpListener,
    stop: Arc<AtomicBool>,
    problems: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(content: Content, group: usize, name: &str, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let (stop, problems) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(vec![])));
        let (accepting, stopped, found) = (listener.try_clone()?, Arc::clone(&stop), Arc::clone(&problems));
        let name = name.to_owned();
        let thread = std::thread::Builder::new().name(format!("{name} {}", content.name())).spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (name, found) = (name.clone(), Arc::clone(&found));
                // A connection's thread ends with it; the client waits for its answers, not for the thread.
                std::thread::spawn(move || serve(content, group, &name, stream, &found));
            }
        })?;
        Ok(Server { listener, stop, problems, thread: Some(thread) })
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes `accept` (Linux: EINVAL from a listener that was shut down).
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(content: Content, group: usize, name: &str, mut stream: TcpStream, found: &Mutex<Vec<String>>) {
    let mut session = content.session(group, name);
    let mut chunk = vec![0; 64 << 10];
    let ended = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE * 2)));
    if ended.is_err() || stream.write_all(&session.greeting()).is_err() {
        return;
    }
    while let Ok(n @ 1..) = read(&mut stream, &mut chunk) {
        match session.hear(&chunk[..n]) {
            Ok((out, closes)) => {
                if stream.write_all(&out).is_err() || closes {
                    break;
                }
            }
            Err(what) => {
                found.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}: {what}"));
                return;
            }
        }
    }
    // The client closes too, or has.
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read(&mut chunk);
}
