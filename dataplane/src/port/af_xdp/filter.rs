//! The XDP program loaded, its tables filled, and attached to interfaces.

use core::fmt;
use core::net::IpAddr;
use std::collections::HashSet;
use std::hash::Hash;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::bpf::{self, Map, MapKind};
use super::error::{AfXdpError, Refusal};
use super::program::{self, FRAGMENT, ProgramMap, XDP_REDIRECT};
use super::socket;
use lcs_hwconf::links::Interface;

/// Most entries of the table of services, and of the table of real servers whose replies come back.
pub const FILTER_KEYS_MAX: usize = 1 << 18;
/// Most addresses of the director itself.
pub const FILTER_LOCALS_MAX: usize = 1 << 14;
/// Receive queues per interface that can have a worker; frames of higher queues go to the kernel.
pub const QUEUES_MAX: u32 = 1024;

/// What the XDP program looks up: an address, a port (0 for any) and an IP protocol number.
///
/// Laid out as the program builds it on its stack: 16 bytes of address (IPv4 as `::ffff:a.b.c.d`), the port
/// in network byte order, the protocol, a zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FilterKey([u8; 20]);

impl FilterKey {
    /// A transport endpoint. `port` is in the machine's byte order, 0 for any; `protocol` as in the IP
    /// header: 6 TCP, 17 UDP, 1 ICMP and 58 ICMPv6 (errors only, with port 0).
    pub fn new(address: IpAddr, port: u16, protocol: u8) -> Self {
        let mut key = [0; 20];
        key[..16].copy_from_slice(&mapped(address));
        key[16..18].copy_from_slice(&port.to_be_bytes());
        key[18] = protocol;
        FilterKey(key)
    }

    /// Fragments, first and later ones alike, to or from an address.
    pub fn fragments(address: IpAddr) -> Self {
        FilterKey::new(address, 0, FRAGMENT)
    }

    /// ICMP or ICMPv6 errors, whichever is the address's family, to a service address.
    pub fn icmp_errors(address: IpAddr) -> Self {
        FilterKey::new(address, 0, if address.is_ipv4() { 1 } else { 58 })
    }

    /// All that belongs to one virtual service, or to a source address of full NAT with port 0: its
    /// endpoint, the ICMP errors to its address, and fragments to it.
    pub fn service(address: IpAddr, port: u16, protocol: u8) -> [FilterKey; 3] {
        [FilterKey::new(address, port, protocol), FilterKey::icmp_errors(address), FilterKey::fragments(address)]
    }

    /// ICMP or ICMPv6 errors about tunnel packets that we send to a server, which belongs among the replies. Such errors are for the
    /// director's own address, whose other traffic is the kernel's: so they are known by whom the offending packet was for.
    pub fn tunnel_errors(server: IpAddr) -> Self {
        FilterKey::icmp_errors(server)
    }

    /// All that belongs to one real server whose replies come back through us: its endpoint, and fragments from it.
    pub fn reply(address: IpAddr, port: u16, protocol: u8) -> [FilterKey; 2] {
        [FilterKey::new(address, port, protocol), FilterKey::fragments(address)]
    }
}

impl fmt::Debug for FilterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address: [u8; 16] = core::array::from_fn(|i| self.0[i]);
        let address = core::net::Ipv6Addr::from(address).to_canonical();
        write!(f, "[{address}]:{}/{}", u16::from_be_bytes([self.0[16], self.0[17]]), self.0[18])
    }
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// How many keys a `set_…` call had to insert and to remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterChange {
    /// Keys that were not there before.
    pub inserted: usize,
    /// Keys that are no longer wanted.
    pub removed: usize,
}

/// Frames seen by the XDP program on all interfaces since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterCounts {
    /// Left to the kernel.
    pub passed: u64,
    /// Redirected to a worker. A frame that the socket then had no room for is counted here too; see
    /// [`SocketStatistics`](super::SocketStatistics).
    pub redirected: u64,
}

/// Where the XDP program may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModePreference {
    /// In the driver where it offers that, otherwise above it.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// Above the driver, on socket buffers: slower, works everywhere.
    Generic,
}

/// Where the XDP program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// Above the driver, on socket buffers.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        })
    }
}

/// What the XDP program would do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterVerdict {
    /// Pass it to the kernel.
    Kernel,
    /// Redirect it to the worker of its queue.
    Worker,
}

/// One table of the program, with a copy on this side so that a change is made by its difference.
#[derive(Debug)]
struct Table<K> {
    name: &'static str,
    limit: usize,
    map: Map,
    keys: HashSet<K>,
}

impl<K: Copy + Eq + Hash + AsRef<[u8]>> Table<K> {
    fn new(name: &'static str, limit: usize) -> Result<Self, AfXdpError> {
        let map = Map::create(MapKind::Hash, name, size_of::<K>() as u32, 4, limit as u32, bpf::NO_PREALLOC)
            .map_err(|error| AfXdpError::map(name, error))?;
        Ok(Table { name, limit, map, keys: HashSet::new() })
    }

    /// Inserts before it removes, so that what stays wanted is in the table throughout.
    fn set(&mut self, wanted: impl IntoIterator<Item = K>) -> Result<FilterChange, AfXdpError> {
        let wanted: HashSet<K> = wanted.into_iter().collect();
        if wanted.len() > self.limit {
            return Err(AfXdpError::TableFull { table: self.name, limit: self.limit, wanted: wanted.len() });
        }
        let gone: Vec<K> = self.keys.difference(&wanted).copied().collect();
        let new: Vec<K> = wanted.difference(&self.keys).copied().collect();
        // Near the limit, old and new keys together might not fit: room is made first, then, which is
        // harmless, as a removed key is one that nobody wants.
        if self.keys.len() + new.len() > self.limit {
            self.remove(&gone)?;
        }
        for key in &new {
            self.map.update(key.as_ref(), &1u32.to_ne_bytes()).map_err(|error| AfXdpError::map(self.name, error))?;
            self.keys.insert(*key);
        }
        self.remove(&gone)?;
        Ok(FilterChange { inserted: new.len(), removed: gone.len() })
    }

    fn remove(&mut self, keys: &[K]) -> Result<(), AfXdpError> {
        for key in keys {
            if !self.keys.contains(key) {
                continue;
            }
            match self.map.delete(key.as_ref()) {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                    return Err(AfXdpError::map(self.name, error));
                }
                _ => self.keys.remove(key),
            };
        }
        Ok(())
    }
}

impl AsRef<[u8]> for FilterKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The tables that decide which frames are ours. One per process; every interface's program reads the same.
#[derive(Debug)]
pub struct XdpFilter {
    services: Table<FilterKey>,
    replies: Table<FilterKey>,
    locals: Table<[u8; 16]>,
    counters: Map,
}

impl XdpFilter {
    /// Makes the tables, empty: every frame is the kernel's until they are filled.
    ///
    /// # Errors
    /// When the kernel does not let this process make BPF maps; the error says what it needs.
    pub fn load() -> Result<Self, AfXdpError> {
        let counters = Map::create(MapKind::PerCpuArray, "lcs_counters", 4, 8, 2, 0)
            .map_err(|error| AfXdpError::map("lcs_counters", error))?;
        Ok(XdpFilter {
            services: Table::new("lcs_services", FILTER_KEYS_MAX)?,
            replies: Table::new("lcs_replies", FILTER_KEYS_MAX)?,
            locals: Table::new("lcs_locals", FILTER_LOCALS_MAX)?,
            counters,
        })
    }

    /// Sets the destinations that are ours; duplicates are fine. What is in both the old and the new
    /// set is never out of the table meanwhile.
    ///
    /// # Errors
    /// When there are more than [`FILTER_KEYS_MAX`], and nothing is changed then; or when the kernel
    /// refuses, and what was changed so far is remembered, so that calling again goes on from there.
    pub fn set_services(&mut self, keys: &[FilterKey]) -> Result<FilterChange, AfXdpError> {
        self.services.set(keys.iter().copied())
    }

    /// Sets the sources whose packets must come back through us, and the ends of tunnels ([`FilterKey::tunnel_errors`]), as
    /// [`Self::set_services`] does.
    ///
    /// # Errors
    /// As for [`Self::set_services`].
    pub fn set_replies(&mut self, keys: &[FilterKey]) -> Result<FilterChange, AfXdpError> {
        self.replies.set(keys.iter().copied())
    }

    /// Sets the director's own addresses, to which even a real server's packets are the kernel's.
    ///
    /// # Errors
    /// As for [`Self::set_services`], with [`FILTER_LOCALS_MAX`].
    pub fn set_locals(&mut self, addresses: &[IpAddr]) -> Result<FilterChange, AfXdpError> {
        self.locals.set(addresses.iter().map(|&address| mapped(address)))
    }

    /// Reads the program's counters.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn counts(&self) -> Result<FilterCounts, AfXdpError> {
        let sum = |index: u32| {
            let values =
                self.counters.lookup(&index.to_ne_bytes()).map_err(|error| AfXdpError::map("lcs_counters", error))?;
            let (values, _) = values.as_chunks::<8>();
            Ok(values.iter().map(|&value| u64::from_ne_bytes(value)).sum())
        };
        Ok(FilterCounts { passed: sum(0)?, redirected: sum(1)? })
    }

    /// Attaches the program to an interface of the calling thread's network namespace, as
    /// [`lcs_hwconf::links::interface`] describes it.
    ///
    /// What the tables say is ours and has no socket yet goes to the kernel, which may refuse connections to an
    /// address that it thinks is its own: fill the tables after the ports are open.
    ///
    /// The attachment is a `bpf_link`: it ends when [`Attached`] is dropped, and, because the kernel closes
    /// the descriptors of a process that ends, also when the process is killed. Nothing is left to clean up at the next start.
    ///
    /// # Errors
    /// When another program is attached already, the driver refuses the mode that was insisted on, or the
    /// process may not: the error says which and what to do.
    pub fn attach(&self, interface: &Interface, preference: ModePreference) -> Result<Attached, AfXdpError> {
        let (program, sockets) = self.instance()?;
        let (link, mode, native_refusal) = attach_program(&program, interface, preference)?;
        Ok(Attached { interface: interface.clone(), mode, native_refusal, sockets, _program: program, _link: link })
    }

    /// What the program would do with a frame, found by running it, with no interface involved.
    /// The frame is counted as if it had been received.
    ///
    /// # Errors
    /// When the frame is shorter than 14 bytes or longer than a page holds, or the process may not run programs.
    pub fn verdict(&self, frame: &[u8]) -> Result<FilterVerdict, AfXdpError> {
        let (program, sockets) = self.instance()?;
        // Redirection falls back to the kernel where no socket stands, so one must.
        let socket = socket::open().map_err(AfXdpError::socket)?;
        sockets
            .update(&0u32.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
            .map_err(|error| AfXdpError::map("lcs_sockets", error))?;
        let verdict =
            bpf::test_run(&program, frame).map_err(|error| AfXdpError::TestRun { len: frame.len(), error })?;
        Ok(if verdict == XDP_REDIRECT { FilterVerdict::Worker } else { FilterVerdict::Kernel })
    }

    /// The program that the binary carries, one instruction a line, with labels and remarks.
    pub fn listing() -> String {
        program::program().listing()
    }

    /// Loads the program with a table of sockets of its own.
    fn instance(&self) -> Result<(OwnedFd, Map), AfXdpError> {
        let sockets = Map::create(MapKind::XskMap, "lcs_sockets", 4, 4, QUEUES_MAX, 0)
            .map_err(|error| AfXdpError::map("lcs_sockets", error))?;
        let code = program::program().link(|map| match map {
            ProgramMap::Services => self.services.map.fd(),
            ProgramMap::Replies => self.replies.map.fd(),
            ProgramMap::Locals => self.locals.map.fd(),
            ProgramMap::Counters => self.counters.fd(),
            ProgramMap::Sockets => sockets.fd(),
        });
        let program = bpf::load_program("lcs_filter", &code).map_err(AfXdpError::load)?;
        Ok((program, sockets))
    }
}

/// Attaches a program to an interface of the calling thread's network namespace: the link, where the program runs, and why the
/// driver did not take it where it was asked and refused.
pub(super) fn attach_program(
    program: &OwnedFd,
    interface: &Interface,
    preference: ModePreference,
) -> Result<(OwnedFd, XdpMode, Option<Refusal>), AfXdpError> {
    let native = || bpf::attach_xdp(program, interface.link.index, bpf::XDP_FLAGS_NATIVE);
    let generic = || bpf::attach_xdp(program, interface.link.index, bpf::XDP_FLAGS_GENERIC);
    let fatal = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::EACCES | libc::ENODEV))
    };
    let failed = |mode, error, native_refusal| AfXdpError::attach(&interface.link.name, mode, error, native_refusal);
    Ok(match preference {
        ModePreference::Native => {
            (native().map_err(|error| failed(XdpMode::Native, error, None))?, XdpMode::Native, None)
        }
        ModePreference::Generic => {
            (generic().map_err(|error| failed(XdpMode::Generic, error, None))?, XdpMode::Generic, None)
        }
        ModePreference::Auto => match native() {
            Ok(link) => (link, XdpMode::Native, None),
            Err(error) if fatal(&error) => return Err(failed(XdpMode::Native, error, None)),
            Err(refusal) => {
                let refusal = Refusal::new(&refusal);
                match generic() {
                    Ok(link) => (link, XdpMode::Generic, Some(refusal)),
                    Err(error) => return Err(failed(XdpMode::Generic, error, Some(refusal))),
                }
            }
        },
    })
}

/// The program attached to one interface; dropping it detaches the program.
///
/// Sockets opened on the interface stay valid then, but nothing is redirected to them any more.
#[derive(Debug)]
pub struct Attached {
    interface: Interface,
    mode: XdpMode,
    native_refusal: Option<Refusal>,
    sockets: Map,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Attached {
    /// The interface.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Where the program runs.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Why the driver did not take the program, when it was asked and refused.
    pub fn native_refusal(&self) -> Option<&Refusal> {
        self.native_refusal.as_ref()
    }

    /// Has the frames of a receive queue redirected to a socket, until the socket is closed.
    pub(super) fn register(&self, queue: u32, socket: &OwnedFd) -> Result<(), AfXdpError> {
        self.sockets
            .update(&queue.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
            .map_err(|error| AfXdpError::map("lcs_sockets", error))
    }
}
