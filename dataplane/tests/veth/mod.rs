//! Veth pairs in a network namespace of a test's own, and a packet socket on the wire's end of each.
//!
//! The namespace belongs to the test's thread and ends with it, so that nothing is left behind.

use crate::wire::root;
use lcs_dataplane::port::af_xdp::Interface;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a test waits for anything before it fails.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Leaves the thread in a new network namespace, or says why the test is skipped.
pub fn namespace(test: &str) -> bool {
    if !root(test) {
        return false;
    }
    if Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_err() {
        eprintln!("{test}: skipped, as there is no `ip` command");
        return false;
    }
    // SAFETY: changes the network namespace of this thread only, which is the test's own.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    true
}

pub fn run(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().expect("ip");
    assert!(status.success(), "ip {arguments}");
}

/// A veth pair `p<n>`, `w<n>`, without IPv6 noise, both ends up.
pub fn pair(n: u32, queues: u32) {
    let queues = format!("numrxqueues {queues} numtxqueues {queues}");
    run(&format!("link add p{n} {queues} type veth peer name w{n} {queues}"));
    for end in [format!("p{n}"), format!("w{n}")] {
        run(&format!("link set {end} addrgenmode none"));
        run(&format!("link set {end} up"));
    }
}

pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A packet socket on the wire's end.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn new(name: &str) -> Self {
        let interface = Interface::by_name(name).expect("the wire");
        // SAFETY: plain system calls on a descriptor made here; the address outlives its call.
        unsafe {
            let all = (libc::ETH_P_ALL as u16).to_be();
            let fd =
                libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, all.into());
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            let address = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as u16,
                sll_protocol: all,
                sll_ifindex: interface.index as i32,
                ..core::mem::zeroed()
            };
            let len = size_of_val(&address) as libc::socklen_t;
            assert_eq!(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len), 0);
            let one: libc::c_int = 1;
            let len = size_of_val(&one) as libc::socklen_t;
            let result = libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                (&raw const one).cast(),
                len,
            );
            assert_eq!(result, 0);
            Wire(fd)
        }
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the kernel reads the slice.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
    }

    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 4096];
        // SAFETY: the kernel writes into the vector, at most its length.
        let len = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        (len >= 0).then(|| {
            frame.truncate(len as usize);
            frame
        })
    }

    /// Waits for one frame.
    pub fn expect(&self) -> Vec<u8> {
        let mut frame = None;
        until("a frame on the wire", || {
            frame = self.receive();
            frame.is_some()
        });
        frame.unwrap_or_default()
    }
}

/// Whether `ip` shows an XDP program on an interface.
pub fn program_on(interface: &str) -> bool {
    let output = Command::new("ip").args(["link", "show", interface]).output().expect("ip");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
}
