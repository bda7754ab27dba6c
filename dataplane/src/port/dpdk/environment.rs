//! DPDK itself: capsule's runtime, which initialises the EAL and sets up packet pools and devices, on a thread of its own.
//!
//! The EAL and capsule pin the thread that calls them to a core; that thread then only waits until everything that was
//! made from it is gone, and takes it down. Ports and pools each hold a [`Lease`], so none outlives what it stands on.

use super::burst::{Pool, Queue};
use super::error::DpdkError;
use super::preflight;
use crate::headers::MacAddr;
use crate::port::device::Device;
use crate::spread;
use capsule::Runtime;
use capsule::config::RuntimeConfig;
use capsule_ffi as ffi;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::json;
use std::ffi::{CStr, CString};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What to set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The devices, each an interface of the port; 1 to 16.
    pub devices: Vec<Device>,
    /// Cores of the workers, which say how many queues each device gets. Empty: one.
    pub cores: Vec<usize>,
    /// Buffers for each device and worker.
    pub buffers: u32,
    /// Arguments of the EAL. None: [`DEFAULT_ARGUMENTS`].
    pub arguments: Option<Vec<String>>,
    /// Names of the devices that clients are on, which are asked to spread frames by their source, and all others by their destination. None: all
    /// spread by both ends.
    pub clients: Vec<String>,
}

/// Arguments of the EAL where none are given: nothing is left behind in a file system, and programs do not meet there.
pub const DEFAULT_ARGUMENTS: [&str; 1] = ["--in-memory"];

/// A device that is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// Its name.
    pub name: String,
    /// DPDK's number for it.
    pub number: u16,
    /// Its driver.
    pub driver: String,
    /// Its link-layer address; zero where it has none.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// It drops packets whose IPv4 header checksum is wrong.
    pub verifies_ip_checksum: bool,
    /// Asked to spread frames by the client's endpoint ([`crate::spread`]): entries of its table of queues, or why it can't. None where nobody
    /// asked ([`Options::clients`]), or there is one worker and nothing to spread.
    pub by_client: Option<Result<u16, String>>,
    /// Whether it is one of [`Options::clients`].
    pub is_clients: bool,
}

/// Something that DPDK must stay for.
#[derive(Debug, Clone)]
pub(super) struct Lease(Sender<()>);

impl Lease {
    /// Keeps DPDK until the process ends.
    pub(super) fn keep(&self) {
        KEPT.store(true, Ordering::SeqCst);
        std::mem::forget(self.0.clone());
    }
}

/// Whether the EAL is initialised; locked while that changes.
static RUNNING: Mutex<bool> = Mutex::new(false);
/// Whether it has ever been.
static STARTED: AtomicBool = AtomicBool::new(false);
/// Whether it stays until the process ends.
static KEPT: AtomicBool = AtomicBool::new(false);

/// DPDK. It is there until all of its ports are dropped; drop this after them.
#[derive(Debug)]
pub struct Environment {
    devices: Vec<DeviceState>,
    /// Says nothing, and ends when DPDK is taken down.
    down: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Environment {
    /// Starts DPDK and its devices, and gives the packet pool and the queue pairs: those of all devices for each worker.
    pub(super) fn start(options: &Options) -> Result<(Environment, Pool, Vec<Vec<Queue>>), DpdkError> {
        let wanted = Wanted::new(options)?;
        for device in &wanted.devices {
            preflight::check(device)?;
        }
        hugepages(&wanted.arguments)?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(DpdkError::Twice);
        }
        let queues = wanted.cores.len();
        let (lease, leases) = bounded::<()>(0);
        let (gone, down) = bounded::<()>(0);
        let (tell, told) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("lcs-dpdk".to_owned())
            .spawn(move || {
                let _gone = gone;
                serve(&wanted, &tell, &leases);
            })
            .map_err(|error| DpdkError::System { what: "the thread for DPDK cannot be started", error })?;
        let devices: Vec<DeviceState> = match told.recv() {
            Ok(Ok(devices)) => devices,
            Ok(Err(error)) => {
                let _ = thread.join();
                return Err(error);
            }
            Err(_) => return Err(start("DPDK's thread has failed", "report this with DPDK's messages")),
        };
        let lease = Lease(lease);
        let pool = pool_for(&devices, &lease).ok_or_else(|| {
            start("the packet pool is not there", "this version of capsule names its pools differently")
        })?;
        let queue = |device: &DeviceState, n: usize| {
            // SAFETY: `serve` has started every device with this many queue pairs, and each number comes once.
            unsafe { Queue::new(device.number, n as u16, &lease) }
        };
        let queues = (0..queues).map(|n| devices.iter().map(|d| queue(d, n)).collect()).collect();
        Ok((Environment { devices, down, thread: Some(thread) }, pool, queues))
    }

    /// The devices, numbered as the port's interfaces.
    pub fn devices(&self) -> &[DeviceState] {
        &self.devices
    }

    /// The first bytes of the key that a device's RSS hashes with; `None` where it tells none.
    pub fn rss_key(&self, device: &DeviceState) -> Option<[u8; 40]> {
        let mut key = [0; 40];
        // SAFETY: DPDK is up as long as this is, the device's number is its own, and there is room for so many bytes.
        let result = unsafe { ffi::lcs_rss_key(device.number, key.as_mut_ptr(), key.len() as u8) };
        (result == 0).then_some(key)
    }
}

impl Drop for Environment {
    /// Waits, for a short time, until DPDK is taken down: a process that ends meanwhile would leave devices behind.
    fn drop(&mut self) {
        if KEPT.load(Ordering::SeqCst) {
            return;
        }
        if self.down.recv_timeout(Duration::from_secs(2)) != Err(RecvTimeoutError::Timeout)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn start(why: &str, hint: &str) -> DpdkError {
    DpdkError::Start { why: why.to_owned(), hint: hint.to_owned() }
}

/// Options that are in order.
struct Wanted {
    devices: Vec<Device>,
    cores: Vec<usize>,
    buffers: u32,
    arguments: Vec<String>,
    clients: Vec<String>,
}

impl Wanted {
    fn new(options: &Options) -> Result<Self, DpdkError> {
        let mut devices = options.devices.clone();
        if devices.is_empty() || devices.len() > 16 {
            let what = format!("a DPDK port has 1 to 16 devices, not {}", devices.len());
            return Err(DpdkError::Options(what));
        }
        let mut cores = options.cores.clone();
        if cores.is_empty() {
            let here = lcs_hwconf::cores::available().map_err(|e| DpdkError::Options(e.to_string()))?;
            cores.extend(here.first().map(|c| c.id));
        }
        let given = options.arguments.clone();
        let given = given.unwrap_or_else(|| DEFAULT_ARGUMENTS.iter().map(|a| (*a).to_owned()).collect());
        let mut arguments = arguments(given, &mut devices)?;
        // Without hardware to drive, DPDK leaves the machine's alone: it would try every card that it has a driver for.
        let chosen = |a: &String| ["-a", "--allow", "-b", "--block", "--no-pci"].iter().any(|c| a.starts_with(c));
        if !devices.iter().any(Device::is_pci) && !arguments.iter().any(chosen) {
            arguments.push("--no-pci".to_owned());
        }
        Ok(Wanted { devices, cores, buffers: options.buffers, arguments, clients: options.clients.clone() })
    }

    /// What capsule is told. Its types for cores cannot be named, only read.
    fn config(&self) -> Result<RuntimeConfig, DpdkError> {
        let pairs = self.devices.len() * self.cores.len();
        // Descriptors hold buffers: a quarter of them in each direction at most, so that half stay for the workers.
        let descriptors = (self.buffers as usize / 4).clamp(64, 1024);
        let ports: Vec<_> = self
            .devices
            .iter()
            .map(|d| {
                json!({
                    "name": d.name, "device": d.name, "args": d.arguments, "cores": self.cores,
                    "rxd": descriptors, "txd": descriptors, "promiscuous": false, "multicast": true,
                })
            })
            .collect();
        // Threads keep some buffers for themselves (one and a half caches each).
        let caches = (self.cores.len() + 1) * CACHE * 2;
        let config = json!({
            "app_name": "lcs",
            "app_group": format!("lcs-{}", std::process::id()),
            "master_core": self.cores.first(),
            "mempool": { "capacity": self.buffers as usize * pairs + caches, "cache_size": CACHE },
            "ports": ports,
            "dpdk_args": self.arguments.join(" "),
        });
        serde_json::from_value(config)
            .map_err(|e| start(&e.to_string(), "this version of capsule is configured differently"))
    }
}

/// Buffers that a thread takes from a pool, and gives back, at a time.
const CACHE: usize = 256;

/// Checks the EAL's arguments, and moves those of configured virtual devices to them: capsule names these devices itself.
fn arguments(given: Vec<String>, devices: &mut [Device]) -> Result<Vec<String>, DpdkError> {
    let mut kept = Vec::with_capacity(given.len());
    let mut given = given.into_iter();
    while let Some(argument) = given.next() {
        let refuse = |why| Err(DpdkError::Argument { argument: argument.clone(), why });
        if argument.is_empty() || argument.contains(|c: char| c.is_whitespace() || c == '\0') {
            return refuse("it is empty or has a blank in it; write each argument as a string of its own");
        }
        let device = match argument.strip_prefix("--vdev") {
            Some("") => given.next(),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => {
                let own = ["--proc-type", "-l", "--lcores", "--main-lcore", "--master-lcore", "-c"];
                if own.iter().any(|o| argument == *o || argument.starts_with(&format!("{o}="))) {
                    return refuse("it is set from [workers] cores; leave it out");
                }
                kept.push(argument);
                continue;
            }
        };
        let Some(device) = device else { return refuse("a device must follow: --vdev=net_ring1") };
        let (name, arguments) = device.split_once(',').map_or((device.as_str(), None), |(n, a)| (n, Some(a)));
        match devices.iter_mut().find(|d| d.name == name) {
            Some(configured) => {
                if arguments.is_some() {
                    configured.arguments = arguments.map(str::to_owned);
                }
            }
            None => kept.extend(["--vdev".to_owned(), device]),
        }
    }
    let has = |argument: &str| kept.iter().any(|k| k == argument);
    if has("--no-huge") && has("--in-memory") {
        let why = "it does not go with \"--no-huge\", for which \"--no-shconf\" is what leaves nothing behind";
        return Err(DpdkError::Argument { argument: "--in-memory".to_owned(), why });
    }
    Ok(kept)
}

/// Whether there are hugepages, where they are asked for: the EAL's own message does not say what to do.
fn hugepages(arguments: &[String]) -> Result<(), DpdkError> {
    if arguments.iter().any(|a| a == "--no-huge") {
        return Ok(());
    }
    let free = |size: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(size.ok()?.path().join("free_hugepages")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten();
    if sizes.filter_map(free).any(|n| n > 0) { Ok(()) } else { Err(DpdkError::NoHugepages) }
}

/// The thread of DPDK: up, told, waits until nothing needs it, down.
fn serve(wanted: &Wanted, tell: &Sender<Result<Vec<DeviceState>, DpdkError>>, leases: &Receiver<()>) {
    let failed = |e: String| DpdkError::from_capsule(&e, &wanted.devices, wanted.cores.len());
    let config = match wanted.config() {
        Ok(config) => config,
        Err(e) => return drop(tell.send(Err(e))),
    };
    let runtime = match Runtime::build(config) {
        Ok(runtime) => runtime,
        Err(e) => return drop(tell.send(Err(failed(e.to_string())))),
    };
    set_running(true);
    let mut started = Vec::new();
    let result: Result<Vec<DeviceState>, DpdkError> =
        wanted.devices.iter().map(|d| bring_up(wanted, d).inspect(|s| started.push(s.number))).collect();
    let good = result.is_ok();
    if tell.send(result).is_ok() && good {
        // Nothing is ever sent: this ends when the last lease is dropped.
        let _ = leases.recv();
    }
    set_running(false);
    for number in started {
        // SAFETY: the device was started, and with the last lease every handle on its queues is gone.
        unsafe { ffi::rte_eth_dev_stop(number) };
    }
    drop(runtime);
}

fn set_running(running: bool) {
    *RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = running;
}

/// Starts a device that capsule has configured, and asks what it is.
fn bring_up(wanted: &Wanted, device: &Device) -> Result<DeviceState, DpdkError> {
    let refuse = |why: String| DpdkError::Device { device: device.name.clone(), why };
    let name = CString::new(device.name.as_str()).map_err(|e| refuse(e.to_string()))?;
    let mut number = 0u16;
    let mut info = ffi::rte_eth_dev_info::default();
    let mut mac = ffi::rte_ether_addr::default();
    let mut mtu = 0u16;
    // SAFETY: the EAL is initialised, this is its thread; every pointer is to a local of the right type, and the name ends in zero.
    let result = unsafe {
        let found = ffi::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut number);
        if found != 0 { found } else { ffi::rte_eth_dev_start(number) }
    };
    if result != 0 {
        return Err(refuse(std::io::Error::from_raw_os_error(-result).to_string()));
    }
    let is_clients = wanted.clients.contains(&device.name);
    let by_client = (wanted.cores.len() > 1 && !wanted.clients.is_empty()).then(|| {
        let (queues, by_destination) = (wanted.cores.len() as u16, i32::from(!is_clients));
        // SAFETY: the device is started, this is the EAL's thread, and the key is of two bytes.
        let entries = unsafe { ffi::lcs_spread(number, queues, by_destination, spread::KEY.as_ptr()) };
        u16::try_from(entries).map_err(|_| std::io::Error::from_raw_os_error(entries.wrapping_neg()).to_string())
    });
    // SAFETY: as above, for a device that there is.
    unsafe {
        ffi::rte_eth_dev_info_get(number, &raw mut info);
        ffi::rte_eth_macaddr_get(number, &raw mut mac);
        ffi::rte_eth_dev_get_mtu(number, &raw mut mtu);
    }
    let driver = if info.driver_name.is_null() {
        String::new()
    } else {
        // SAFETY: a driver's name is a static string of its library.
        unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
    };
    Ok(DeviceState {
        name: device.name.clone(),
        number,
        driver,
        mac: MacAddr(mac.addr_bytes),
        mtu,
        // capsule-ffi asks for it wherever it is offered.
        verifies_ip_checksum: info.rx_offload_capa & ffi::LCS_RX_OFFLOAD_IPV4_CKSUM != 0,
        by_client,
        is_clients,
    })
}

/// The pool on the first device's NUMA node, or the first there is. Capsule makes one a node: mempool0, mempool1, …
fn pool_for(devices: &[DeviceState], lease: &Lease) -> Option<Pool> {
    let pools: Vec<Pool> =
        (0..64).filter_map(|n| Pool::find(&CString::new(format!("mempool{n}")).ok()?, lease)).collect();
    // SAFETY: the EAL is initialised (the lease), and the number is a device's.
    let node = devices.first().map(|d| unsafe { ffi::rte_eth_dev_socket_id(d.number) });
    let nearest = pools.iter().find(|p| Some(p.node()) == node).or(pools.first())?.clone();
    Some(pools.iter().fold(nearest, Pool::with_sibling))
}

/// A thread's place among DPDK's, which gives it a cache of buffers of its own.
struct Membership(bool);

thread_local! {
    static MEMBERSHIP: Membership = Membership(join());
}

fn join() -> bool {
    let running = RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // SAFETY: the EAL is initialised, and stays so while the lock is held.
    *running && unsafe { ffi::rte_thread_register() } == 0
}

impl Drop for Membership {
    fn drop(&mut self) {
        let running = RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.0 && *running {
            // SAFETY: this thread was registered, and the EAL is still there: the lock is held.
            unsafe { ffi::rte_thread_unregister() };
        }
    }
}

/// Makes the calling thread one of DPDK's, until it ends. Without a place (there are 128) it works too, more slowly.
pub(super) fn register_thread() {
    MEMBERSHIP.with(|_| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn arguments_of_configured_devices_go_to_them_and_others_stay() {
        let mut devices = [Device::parse("net_tap0").unwrap(), Device::parse("net_ring0").unwrap()];
        let given =
            words(&["--no-huge", "--vdev=net_tap0,iface=x", "--vdev", "net_ring0", "--vdev", "net_null7,size=64"]);
        let kept = arguments(given, &mut devices).unwrap();
        assert_eq!(kept.join(" "), "--no-huge --vdev net_null7,size=64");
        assert_eq!((devices[0].arguments.as_deref(), devices[1].arguments.as_deref()), (Some("iface=x"), None));
    }

    #[test]
    fn arguments_that_capsule_would_take_apart_or_that_the_workers_decide_are_refused() {
        let bad: [&[&str]; 6] = [&[""], &["a b"], &["-l"], &["--lcores=1"], &["--vdev"], &["--no-huge", "--in-memory"]];
        for bad in bad {
            let error = arguments(words(bad), &mut []).unwrap_err().to_string();
            assert!(error.contains("is no argument for the EAL"), "{error}");
        }
    }
}
