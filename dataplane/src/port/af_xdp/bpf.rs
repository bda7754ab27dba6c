//! The `bpf(2)` system call: maps, programs, links and test runs, and nothing more.
//!
//! The kernel takes a union whose members start at offset 0 and accepts any prefix of it, provided that
//! what it does not know is zero; so every command has its own `repr(C)` structure here, as long as its fields.
//! Layouts are those of `linux/bpf.h`; all of them are kernel ABI and have not moved since Linux 5.9.

use core::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::asm::Instruction;

const MAP_CREATE: c_int = 0;
const MAP_LOOKUP_ELEM: c_int = 1;
const MAP_UPDATE_ELEM: c_int = 2;
const MAP_DELETE_ELEM: c_int = 3;
const PROG_LOAD: c_int = 5;
const PROG_TEST_RUN: c_int = 10;
const LINK_CREATE: c_int = 28;

const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;

/// Elements are allocated as they are inserted. Only system calls insert here, never the program, so
/// nothing on the packet path allocates, and an unused table costs no memory.
pub(super) const NO_PREALLOC: u32 = 1;

/// Attach to the driver (`XDP_FLAGS_DRV_MODE`).
pub(super) const XDP_FLAGS_NATIVE: u32 = 1 << 2;
/// Attach above the driver, on socket buffers (`XDP_FLAGS_SKB_MODE`).
pub(super) const XDP_FLAGS_GENERIC: u32 = 1 << 1;

/// Let the frames of a test run go where the verdict says (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18).
const LIVE_FRAMES: u32 = 1 << 1;

/// Size of the buffer offered for the verifier's log: enough for a program of a few hundred instructions.
const LOG_BYTES: usize = 1 << 20;

/// The kinds of map in use, with the kernel's numbers.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum MapKind {
    Hash = 1,
    Array = 2,
    PerCpuArray = 6,
    XskMap = 17,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct MapElement {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// The context of an XDP program (`struct xdp_md`), as a test run takes it.
#[repr(C)]
#[derive(Default)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Issues one command. The structure is read, and for some commands written, by the kernel.
fn bpf<T>(command: c_int, attr: &mut T) -> io::Result<c_long> {
    // SAFETY: `attr` is a live `repr(C)` structure of the size passed. Addresses inside it point at
    // buffers that the callers below keep borrowed over this call, with the lengths stated beside them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, core::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: c_long) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor to us; nobody else knows or closes it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

fn address<T: ?Sized>(value: &T) -> u64 {
    core::ptr::from_ref(value).cast::<u8>().expose_provenance() as u64
}

fn object_name(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    for (to, from) in out[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    out
}

/// A BPF map, closed (and, when nothing else refers to it, freed) on drop.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    key_size: usize,
    /// What the kernel copies per lookup: for a per-CPU map the value times the possible processors.
    lookup_size: usize,
    value_size: usize,
}

impl Map {
    pub(super) fn create(
        kind: MapKind,
        name: &str,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    ) -> io::Result<Map> {
        let mut attr = MapCreate {
            map_type: kind as u32,
            key_size,
            value_size,
            max_entries,
            map_flags: flags,
            map_name: object_name(name),
            ..MapCreate::default()
        };
        let fd = match bpf(MAP_CREATE, &mut attr) {
            // Before Linux 5.11 maps count as locked memory, of which even root has little by default.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && raise_locked_memory() => {
                bpf(MAP_CREATE, &mut attr)
            }
            result => result,
        };
        let fd = owned(fd?);
        let lookup_size = match kind {
            MapKind::PerCpuArray => (value_size as usize).next_multiple_of(8) * possible_cpus()?,
            MapKind::Hash | MapKind::Array | MapKind::XskMap => value_size as usize,
        };
        Ok(Map { fd, key_size: key_size as usize, lookup_size, value_size: value_size as usize })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Inserts or replaces.
    ///
    /// # Panics
    /// When the lengths are not those the map was made with: a mistake of the caller.
    pub(super) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert!(key.len() == self.key_size && value.len() == self.value_size);
        let mut attr =
            MapElement { map_fd: self.fd() as u32, key: address(key), value: address(value), ..MapElement::default() };
        bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
    }

    /// Removes; an absent key is `NotFound`.
    ///
    /// # Panics
    /// When the key's length is not the one the map was made with.
    pub(super) fn delete(&self, key: &[u8]) -> io::Result<()> {
        assert!(key.len() == self.key_size);
        let mut attr = MapElement { map_fd: self.fd() as u32, key: address(key), ..MapElement::default() };
        bpf(MAP_DELETE_ELEM, &mut attr).map(drop)
    }

    /// Reads a value; for a per-CPU map, the values of all possible processors one after the other.
    ///
    /// # Panics
    /// When the key's length is not the one the map was made with.
    pub(super) fn lookup(&self, key: &[u8]) -> io::Result<Vec<u8>> {
        assert!(key.len() == self.key_size);
        let mut value = vec![0u8; self.lookup_size];
        let mut attr = MapElement {
            map_fd: self.fd() as u32,
            key: address(key),
            value: value.as_mut_ptr().expose_provenance() as u64,
            ..MapElement::default()
        };
        bpf(MAP_LOOKUP_ELEM, &mut attr)?;
        Ok(value)
    }
}

/// Lifts the process's limit on locked memory, where that is allowed.
fn raise_locked_memory() -> bool {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the kernel reads the structure, which outlives the call.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &unlimited) == 0 }
}

/// Highest possible processor number plus one, which is how many values a per-CPU map returns.
fn possible_cpus() -> io::Result<usize> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    list.trim()
        .rsplit([',', '-'])
        .next()
        .and_then(|last| last.parse::<usize>().ok())
        .map(|last| last + 1)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("not a list of processors: {list:?}")))
}

/// Why a program was not loaded: the system call's error, and what the verifier said, if it spoke.
#[derive(Debug)]
pub(super) struct LoadError {
    pub(super) error: io::Error,
    pub(super) log: String,
}

/// Loads an XDP program whose map references are already descriptors.
pub(super) fn load_program(name: &str, instructions: &[Instruction]) -> Result<OwnedFd, LoadError> {
    let license = c"Apache-2.0 OR MIT";
    let attr = || ProgLoad {
        prog_type: PROG_TYPE_XDP,
        insn_cnt: instructions.len() as u32,
        insns: address(instructions),
        license: address(license),
        prog_name: object_name(name),
        expected_attach_type: ATTACH_TYPE_XDP,
        ..ProgLoad::default()
    };
    let error = match bpf(PROG_LOAD, &mut attr()) {
        Ok(fd) => return Ok(owned(fd)),
        Err(error) => error,
    };
    // The log is asked for only after a refusal: with it the verifier runs slower, and a log that does
    // not fit its buffer turns a good program into an error.
    let mut log = vec![0u8; LOG_BYTES];
    let mut with_log = ProgLoad {
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr().expose_provenance() as u64,
        ..attr()
    };
    match bpf(PROG_LOAD, &mut with_log) {
        // The first refusal was a passing one (memory, a signal).
        Ok(fd) => Ok(owned(fd)),
        Err(_) => {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            Err(LoadError { error, log: String::from_utf8_lossy(&log[..end]).trim_end().to_owned() })
        }
    }
}

/// Attaches an XDP program by a `bpf_link`. The interface index is looked up in the calling thread's
/// network namespace. Closing the descriptor detaches the program, however the process ends.
pub(super) fn attach_xdp(program: &OwnedFd, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: ATTACH_TYPE_XDP,
        flags,
    };
    bpf(LINK_CREATE, &mut attr).map(owned)
}

/// Runs a loaded program once on a frame, without any interface, and returns its verdict.
pub(super) fn test_run(program: &OwnedFd, frame: &[u8]) -> io::Result<u32> {
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: address(frame),
        repeat: 1,
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(attr.retval)
}

/// The same, with the frame as the program leaves it.
pub(super) fn test_run_on(program: &OwnedFd, frame: &[u8]) -> io::Result<(u32, Vec<u8>)> {
    // A program may grow the frame by what its headroom holds.
    let mut out = vec![0u8; frame.len() + 256];
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: address(frame),
        data_size_out: out.len() as u32,
        data_out: out.as_mut_ptr().expose_provenance() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval, out))
}

/// Runs a program on a frame as if a queue of an interface had just received it, and does what it says with
/// the frame. The interface index is looked up in the calling thread's network namespace.
pub(super) fn inject(program: &OwnedFd, ifindex: u32, queue: u32, frame: &[u8]) -> io::Result<()> {
    let context =
        Context { data_end: frame.len() as u32, ingress_ifindex: ifindex, rx_queue_index: queue, ..Context::default() };
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: address(frame),
        repeat: 1,
        ctx_size_in: size_of::<Context>() as u32,
        ctx_in: address(&context),
        flags: LIVE_FRAMES,
        batch_size: 1,
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut attr).map(drop)
}
