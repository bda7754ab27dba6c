//! The system calls that no crate of ours wraps, each behind a safe function.
//!
//! Every `unsafe` block of this crate stands here.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::time::Duration;

use socket2::{SockAddr, SockAddrStorage, Socket};

/// Longest interface name in bytes, without the final zero (`IFNAMSIZ` − 1).
pub(crate) const LONGEST_LINK_NAME: usize = libc::IFNAMSIZ - 1;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Moves the calling thread into a new, empty network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: takes no pointer; CLONE_NEWNET may be unshared by one thread of many.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Moves the calling thread into the network namespace that `namespace` refers to.
pub(crate) fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointer; the descriptor is borrowed, so it's open.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Gives the calling thread a table of mounts of its own, in which `/sys` shows its network namespace.
pub(crate) fn mount_own_sysfs() -> io::Result<()> {
    // SAFETY: takes no pointer. CLONE_NEWNS unshares the working directory as well, for this thread alone.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the strings end with a zero and live for the call; type and data may be null for a change of propagation.
    check(unsafe { libc::mount(c"none".as_ptr(), c"/".as_ptr(), ptr::null(), private, ptr::null()) })?;
    // SAFETY: the strings end with a zero and live for the call; sysfs takes no data.
    check(unsafe { libc::mount(c"sysfs".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, ptr::null()) }).map(drop)
}

/// Lets the thread or kernel thread `id` run on `core` only. `core` must be below `CPU_SETSIZE`.
pub(crate) fn pin_thread(id: u32, core: usize) -> io::Result<()> {
    let id = libc::pid_t::try_from(id).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: `cpu_set_t` is a bit field for which all zeroes is a valid value.
    let mut cores: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the bit is within the set, as was just looked at.
    unsafe { libc::CPU_SET(core, &mut cores) };
    // SAFETY: the set is ours and its size is passed with it.
    check(unsafe { libc::sched_setaffinity(id, mem::size_of::<libc::cpu_set_t>(), &cores) }).map(drop)
}

/// Has the program that `command` starts killed when the thread that starts it ends.
pub(crate) fn end_with_thread(command: &mut Command) {
    let request = || {
        // SAFETY: takes no pointer, and is a system call only: nothing of it is unsafe between `fork` and `exec`.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) }).map(drop)
    };
    // SAFETY: the closure makes one system call, and allocates and locks nothing.
    unsafe { command.pre_exec(request) };
}

/// Waits until one of `descriptors` can be read, or has failed, or `timeout` has passed (`None`: for ever).
/// Gives for each whether it's worth reading. An interrupting signal counts as a time-out.
pub(crate) fn wait_readable<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = descriptors.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // What is too long for the kernel's clock is as good as for ever.
    let limit = timeout
        .and_then(|t| Some(libc::timespec { tv_sec: t.as_secs().try_into().ok()?, tv_nsec: t.subsec_nanos().into() }));
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the array is exclusively ours for the call, and its length is passed with it; the time is ours too, or
    // null, and the mask of signals may be null.
    let result = check(unsafe { libc::ppoll(polled.as_mut_ptr(), N as libc::nfds_t, limit, ptr::null()) });
    match result {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
        Err(error) => Err(error),
        Ok(_) => Ok(polled.map(|entry| entry.revents != 0)),
    }
}

fn request_for(name: &str) -> io::Result<libc::ifreq> {
    if name.len() > LONGEST_LINK_NAME || name.bytes().any(|b| b == 0) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// Attaches an opened `/dev/net/tun` to the device `name` with `IFF_…` flags.
pub(crate) fn attach_tun(device: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> io::Result<()> {
    let mut request = request_for(name)?;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is ours for the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &mut request) }).map(drop)
}

/// Asks the driver of `link` something by `SIOCETHTOOL`.
///
/// `words` is the command's structure as 32-bit words, the command first. `ethtool.rs` makes each buffer
/// as large as its command's structure, including the tail whose length stands in it.
pub(crate) fn ethtool(socket: BorrowedFd<'_>, link: &str, words: &mut [u32]) -> io::Result<()> {
    // For names and counters the kernel writes as many as the driver has at that moment, which may be more than
    // when they were counted. So it writes into a buffer that holds twice the most we ever ask for, and of which
    // only the touched pages cost anything.
    const BUFFER_WORDS: usize = 1 << 20;
    assert!(words.len() <= BUFFER_WORDS / 2 + 16, "no driver has so many names");
    let mut padded = vec![0u32; BUFFER_WORDS];
    padded[..words.len()].copy_from_slice(words);
    let mut request = request_for(link)?;
    request.ifr_ifru.ifru_data = padded.as_mut_ptr().cast();
    // SAFETY: `ifru_data` points to a live buffer of 4 MiB; no command used writes more than its own structure, and
    // names and counters are a few hundred KiB at the most that any driver has.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) })?;
    words.copy_from_slice(&padded[..words.len()]);
    Ok(())
}

fn link_address(index: i32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a socket address type and no larger than the storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index;
    address.sll_protocol = protocol.to_be();
    // SAFETY: the storage was filled as a `sockaddr_ll`, whose size is given.
    unsafe { SockAddr::new(storage, mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

/// Binds a packet socket to one interface and to all protocols.
pub(crate) fn bind_packet(socket: &Socket, index: u32) -> io::Result<()> {
    socket.bind(&link_address(index as i32, libc::ETH_P_ALL as u16))
}

/// Lets the kernel keep up to `bytes` for a socket's receiver, beyond what it grants to everybody (needs CAP_NET_ADMIN).
pub(crate) fn force_receive_buffer(socket: &Socket, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let (value, length) = (ptr::from_ref(&bytes).cast(), mem::size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the option takes one `c_int`, which lives for the call and whose size is given.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value, length) })
        .map(drop)
}

/// Frames that the kernel had no room for on a packet socket since this was asked last.
pub(crate) fn packets_missed(socket: &Socket) -> io::Result<u32> {
    let mut counts = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = mem::size_of::<libc::tpacket_stats>() as libc::socklen_t;
    let value = ptr::from_mut(&mut counts).cast();
    // SAFETY: the option gives one `tpacket_stats`, which is ours for the call and whose size is given.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, value, &mut length)
    })?;
    Ok(counts.tp_drops)
}

/// `sll_pkttype` of a packet socket's sender address: `PACKET_HOST`, `PACKET_OUTGOING`, …
pub(crate) fn packet_type(address: &SockAddr) -> Option<u8> {
    if i32::from(address.family()) != libc::AF_PACKET || (address.len() as usize) < mem::size_of::<libc::sockaddr_ll>()
    {
        return None;
    }
    // SAFETY: family and length say that a `sockaddr_ll` lies there; it is aligned as `sockaddr_storage`.
    Some(unsafe { &*address.as_ptr().cast::<libc::sockaddr_ll>() }.sll_pkttype)
}

/// Receives one datagram into `buffer`; gives its length and the sender's address.
pub(crate) fn receive_from(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, SockAddr)> {
    // SAFETY: `MaybeUninit<u8>` has the layout of `u8`, and `recv_from` only ever writes initialised bytes.
    let uninit = unsafe { &mut *(std::ptr::from_mut(buffer) as *mut [mem::MaybeUninit<u8>]) };
    socket.recv_from(uninit)
}

/// Waits until `descriptor` can be read; `Ok(false)` when `timeout` passed first.
pub(crate) fn wait_one(descriptor: &impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    Ok(wait_readable([descriptor.as_fd()], timeout)?[0])
}
