//! Veth pairs in a network namespace of a test's own, and a packet socket on the wire's end of each.
//!
//! The namespace belongs to the test's thread and ends with it, so that nothing is left behind.

use crate::wire::root;
use lcs_dataplane::port::af_xdp::{AfXdpError, ModePreference, XdpFilter};
use lcs_hwconf::links;
use lcs_hwconf::netns::Namespace;
use lcs_hwconf::packet::{Direction, PacketSocket};
use lcs_hwconf::rtnl::{Rtnl, VethEnd};
use std::time::{Duration, Instant};

/// How long a test waits for anything before it fails.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Leaves the thread in a new network namespace without IPv6, whose own frames would only disturb;
/// or says why the test is skipped.
pub fn namespace(test: &str) -> Option<Rtnl> {
    root(test).then(|| {
        let namespace = Namespace::create().expect("a namespace");
        namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1").expect("no IPv6");
        namespace.enter().expect("inside");
        Rtnl::open().expect("rtnetlink")
    })
}

/// A veth pair `p<n>`, `w<n>`, both ends up.
pub fn pair(rtnl: &Rtnl, n: u32, queues: u32, mtu: u32) {
    let names = [format!("p{n}"), format!("w{n}")];
    let [port, wire] = [0, 1].map(|i| VethEnd { name: &names[i], namespace: None, mac: None, mtu, queues });
    rtnl.create_veth(&port, &wire).expect("a pair");
    for name in &names {
        rtnl.set_up(name, true).expect("up");
    }
    until("the pair runs", || names.iter().all(|name| rtnl.link(name).is_ok_and(|link| link.running)));
}

pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether an XDP program is attached to an interface: then another one is refused.
pub fn program_on(interface: &str) -> bool {
    let interface = links::interface(interface).expect("an interface");
    let filter = XdpFilter::load().expect("the tables");
    match filter.attach(&interface, ModePreference::Auto) {
        Ok(_) => false,
        Err(AfXdpError::Occupied { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

/// A packet socket on the wire's end.
pub struct Wire(PacketSocket);

impl Wire {
    pub fn new(name: &str) -> Self {
        let namespace = Namespace::current().expect("this namespace");
        Wire(PacketSocket::open(&namespace, name).expect("a packet socket"))
    }

    pub fn send(&self, frame: &[u8]) {
        self.0.send(frame).expect("a frame is sent");
    }

    /// The next frame that this end has received.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 8192];
        loop {
            let (len, direction) = self.0.receive(&mut frame).expect("the packet socket")?;
            if direction == Direction::Received {
                frame.truncate(len);
                return Some(frame);
            }
        }
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
