//! Next hops on ports without a kernel: who is asked for, when, and what an answer means (ARP: RFC 826; neighbour discovery:
//! RFC 4861 §7.2). Answers are taken only from those who are asked for.

use crate::director::{Control, Steering, Workers};
use crate::model::Learned;
use lcs_dataplane::headers::arp::Arp;
use lcs_dataplane::headers::build::fill_icmp_checksum;
use lcs_dataplane::headers::ethernet::{HEADER, MacAddr, ethertype};
use lcs_dataplane::headers::{icmp, ipv6};
use lcs_dataplane::port::neighbours::{NeighbourFrame, NeighbourLane};
use lcs_pipelines::snapshot::{Interface, NextHop};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Time between questions that are not answered (RFC 4861 §10, RETRANS_TIMER).
const RETRY: Duration = Duration::from_secs(1);
/// The same after [`PATIENCE`] of them: whoever is not there is asked for less often.
const RETRY_SLOWLY: Duration = Duration::from_secs(10);
/// Questions without an answer after which a neighbour is taken to be gone (RFC 4861 §10).
const PATIENCE: u32 = 3;
/// Age at which an answer is asked for again (RFC 4861 §10, REACHABLE_TIME).
const REFRESH: Duration = Duration::from_secs(30);
/// Time between looks at who is wanted.
const LOOK: Duration = Duration::from_millis(500);
/// Answers taken in one turn.
const ANSWERS: usize = 256;
const ETHERNET_IPV6: usize = HEADER + ipv6::HEADER;

/// What is known of a neighbour.
#[derive(Debug, Default)]
struct Neighbour {
    /// When to ask next.
    next: Duration,
    /// Questions since the last answer.
    asked: u32,
    /// Interface and address, while it answers.
    at: Option<(u8, MacAddr)>,
    /// It was told that nobody answers.
    missed: bool,
    wanted: bool,
}

/// Asks for neighbours through the first worker's port, and hears answers on all.
#[derive(Debug)]
pub(super) struct Resolver {
    lanes: Vec<NeighbourLane>,
    interfaces: Vec<Interface>,
    /// The director's addresses, from which it asks.
    own: Vec<IpAddr>,
    neighbours: HashMap<IpAddr, Neighbour>,
    looked: Option<(Duration, u64)>,
}

impl Resolver {
    pub(super) fn new(lanes: Vec<NeighbourLane>, interfaces: Vec<Interface>, own: Vec<IpAddr>) -> Self {
        Resolver { lanes, interfaces, own, neighbours: HashMap::new(), looked: None }
    }

    /// Does what is due, and tells the director what it has learned.
    pub(super) fn turn<W: Workers, S: Steering>(&mut self, control: &mut Control<W, S>, now: Duration) {
        self.look(control, now);
        let mut changed = self.hear(now);
        changed.extend(self.ask(now));
        if changed.is_empty() {
            return;
        }
        let targets: Vec<_> = control.model().targets().map(|(_, target)| target).collect();
        for target in targets {
            let neighbour = control.model().router_toward(target.address).unwrap_or(target.address);
            if changed.contains(&neighbour) {
                control.learn_next_hop(target, self.learned(neighbour));
            }
        }
    }

    /// Looks at who is wanted. Whoever the configuration gives is not asked for.
    fn look<W: Workers, S: Steering>(&mut self, control: &mut Control<W, S>, now: Duration) {
        let version = control.model().targets_version();
        if self.looked.is_some_and(|(at, seen)| seen == version && now < at + LOOK) {
            return;
        }
        self.looked = Some((now, version));
        for neighbour in self.neighbours.values_mut() {
            neighbour.wanted = false;
        }
        let mut known = vec![];
        for (row, target) in control.model().targets() {
            let address = control.model().router_toward(target.address).unwrap_or(target.address);
            let resolved = control.model().next_hop(row).is_some_and(|hop| hop.resolved);
            match self.neighbours.get_mut(&address) {
                Some(neighbour) => {
                    neighbour.wanted = true;
                    if neighbour.at.is_some() && !resolved {
                        known.push((target, address)); // another server behind a router that is known
                    }
                }
                None if resolved => {}
                None => {
                    let neighbour = Neighbour { wanted: true, ..Neighbour::default() };
                    self.neighbours.insert(address, neighbour);
                }
            }
        }
        self.neighbours.retain(|_, n| n.wanted);
        for (target, address) in known {
            control.learn_next_hop(target, self.learned(address));
        }
    }

    /// What the director is told about a neighbour.
    fn learned(&self, address: IpAddr) -> Learned {
        let place = self.neighbours.get(&address).and_then(|n| n.at);
        let hop = place.and_then(|(interface, mac)| {
            let own = self.interfaces.get(usize::from(interface))?;
            Some(NextHop::new(mac, own.mac, interface, own.mtu))
        });
        let names: Vec<&str> = self.interfaces.iter().map(|i| i.name.as_str()).collect();
        let problem = hop.is_none().then(|| {
            format!(
                "nobody on {} answers for {address}; is it up and on that link? A router to it is given by [[routes]], \
                 its link-layer address by [[neighbours]]",
                names.join(", ")
            )
        });
        Learned { hop: hop.unwrap_or_default(), source: None, problem }
    }

    /// Takes what has been answered; returns whose place has changed.
    fn hear(&mut self, now: Duration) -> Vec<IpAddr> {
        let mut changed = vec![];
        for lane in &self.lanes {
            for frame in std::iter::from_fn(|| lane.heard()).take(ANSWERS) {
                let Some((address, mac)) = answer(frame.bytes()) else { continue };
                if mac.is_group() || mac.is_zero() || usize::from(frame.interface) >= self.interfaces.len() {
                    continue;
                }
                let Some(neighbour) = self.neighbours.get_mut(&address) else { continue };
                let place = Some((frame.interface, mac));
                if neighbour.at != place {
                    neighbour.at = place;
                    changed.push(address);
                }
                (neighbour.asked, neighbour.missed, neighbour.next) = (0, false, now + REFRESH);
            }
        }
        changed
    }

    /// Asks whoever it is time to ask; returns who is taken to be gone.
    fn ask(&mut self, now: Duration) -> Vec<IpAddr> {
        let mut gone = vec![];
        for (address, neighbour) in self.neighbours.iter_mut().filter(|(_, n)| n.next <= now) {
            if neighbour.asked >= PATIENCE && !neighbour.missed {
                neighbour.missed = true;
                neighbour.at = None;
                gone.push(*address);
            }
            neighbour.asked = neighbour.asked.saturating_add(1);
            neighbour.next = now + if neighbour.asked <= PATIENCE { RETRY } else { RETRY_SLOWLY };
            let Some(lane) = self.lanes.first() else { continue };
            for (at, interface) in self.interfaces.iter().enumerate() {
                // Asked again where the lane is full: nothing was lost but a second.
                let _ = lane.say(NeighbourFrame::new(at as u8, &question(*address, interface.mac, &self.own)));
            }
        }
        gone
    }
}

/// The link-local address that an interface has of itself (RFC 4291, appendix A).
pub(super) fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let half = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, half(a ^ 2, b), half(c, 0xff), half(0xfe, d), half(e, f))
}

/// The frame that asks for an address.
fn question(address: IpAddr, mac: MacAddr, own: &[IpAddr]) -> Vec<u8> {
    match address {
        IpAddr::V4(target) => {
            // Without an address of its own it asks as a probe does (RFC 5227 §2.1.1), which is answered all the same.
            let sender = own.iter().find_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None });
            let sender = sender.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let arp = Arp { operation: 1, sender_mac: mac, sender, target_mac: MacAddr::default(), target };
            arp.frame(MacAddr::BROADCAST).to_vec()
        }
        IpAddr::V6(target) => {
            let source = own.iter().find_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None });
            let source = source.unwrap_or_else(|| link_local(mac));
            solicitation(target, source, mac)
        }
    }
}

/// A neighbour solicitation to the target's solicited-node address (RFC 4861 §4.3).
fn solicitation(target: Ipv6Addr, source: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    let [.., x, y, z] = target.octets();
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]));
    let mut frame = vec![0; ETHERNET_IPV6 + 32];
    frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, x, y, z]);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..14].copy_from_slice(&ethertype::IPV6.to_be_bytes());
    ipv6::write(&mut frame[HEADER..], 0, 32, 58, 255, source, to);
    let message = &mut frame[ETHERNET_IPV6..];
    message[0] = icmp::v6::NEIGHBOUR_SOLICITATION;
    message[8..24].copy_from_slice(&target.octets());
    message[24] = 1; // source link-layer address, in units of 8 bytes
    message[25] = 1;
    message[26..32].copy_from_slice(&mac.0);
    let mut addresses = [0; 32];
    addresses[..16].copy_from_slice(&source.octets());
    addresses[16..].copy_from_slice(&to.octets());
    fill_icmp_checksum(message, Some(&addresses));
    frame
}

/// Who a frame says is where: an ARP answer, or an advertisement with a link-layer address. The pipeline has checked
/// checksums and lengths; what has VLAN tags is not ours.
fn answer(frame: &[u8]) -> Option<(IpAddr, MacAddr)> {
    let kind = u16::from_be_bytes(*frame.get(12..)?.first_chunk()?);
    if kind == ethertype::ARP {
        let arp = Arp::parse(&frame[HEADER..]).filter(|a| a.operation == 2)?;
        return Some((IpAddr::V4(arp.sender), arp.sender_mac));
    }
    // RFC 4861 §7.1.2: hop limit 255; no extension headers.
    if kind != ethertype::IPV6 || *frame.get(HEADER + 6)? != 58 || *frame.get(HEADER + 7)? != 255 {
        return None;
    }
    let message = frame.get(ETHERNET_IPV6..)?;
    if *message.first()? != icmp::v6::NEIGHBOUR_ADVERTISEMENT {
        return None;
    }
    let target = Ipv6Addr::from(*message.get(8..)?.first_chunk::<16>()?);
    let mut options = message.get(24..)?;
    while let Some((&[kind, units], _)) = options.split_first_chunk::<2>() {
        let len = usize::from(units) * 8;
        if len == 0 || len > options.len() {
            return None;
        }
        if kind == 2 {
            return Some((IpAddr::V6(target), MacAddr(*options.get(2..)?.first_chunk()?)));
        }
        options = &options[len..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcs_dataplane::port::neighbours::{NeighbourEnd, lane};

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn resolver(wanted: &[&str]) -> (Resolver, NeighbourEnd) {
        let (near, far) = lane();
        let interface = Interface { name: "net_ring0".into(), mac: OWN, mtu: 1500 };
        let mut r = Resolver::new(vec![near], vec![interface], vec!["192.0.2.1".parse().unwrap()]);
        for address in wanted {
            r.neighbours.insert(address.parse().unwrap(), Neighbour { wanted: true, ..Default::default() });
        }
        (r, far)
    }

    fn arp_answer(of: &str, mac: MacAddr) -> Vec<u8> {
        let (sender, target) = (of.parse().unwrap(), Ipv4Addr::new(192, 0, 2, 1));
        Arp { operation: 2, sender_mac: mac, sender, target_mac: OWN, target }.frame(OWN).to_vec()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_address_is_asked_for_learned_refreshed_and_given_up() {
        let (mut r, far) = resolver(&["192.0.2.7"]);
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        assert!(r.ask(seconds(0)).is_empty() && r.hear(seconds(0)).is_empty());
        let asked = far.said().unwrap();
        let arp = Arp::parse(&asked.bytes()[HEADER..]).unwrap();
        assert_eq!((asked.interface, arp.operation, arp.target.to_string()), (0, 1, "192.0.2.7".to_owned()));
        assert_eq!((arp.sender.to_string(), arp.sender_mac), ("192.0.2.1".to_owned(), OWN));
        assert!(r.ask(Duration::from_millis(999)).is_empty() && far.said().is_none());
        // Whoever is not asked for is not listened to, nor are questions.
        far.hear(0, &arp_answer("192.0.2.8", OTHER));
        far.hear(0, &Arp { operation: 1, ..Arp::parse(&arp_answer("192.0.2.7", OTHER)[HEADER..]).unwrap() }.frame(OWN));
        assert!(r.hear(seconds(0)).is_empty());
        far.hear(0, &arp_answer("192.0.2.7", OTHER));
        assert_eq!(r.hear(seconds(0)), [address]);
        assert_eq!(r.learned(address).hop, NextHop::new(OTHER, OWN, 0, 1500));
        // Fresh for half a minute; the same answer again changes nothing.
        assert!(r.ask(seconds(29)).is_empty() && far.said().is_none());
        r.ask(seconds(30));
        assert!(far.said().is_some());
        far.hear(0, &arp_answer("192.0.2.7", OTHER));
        assert!(r.hear(seconds(30)).is_empty());
        // Gone after three questions that nobody answered.
        for n in 60..63 {
            assert!(r.ask(seconds(n)).is_empty(), "{n}");
            assert!(far.said().is_some());
        }
        assert_eq!(r.ask(seconds(63)), [address]);
        let learned = r.learned(address);
        assert!(!learned.hop.resolved && learned.problem.unwrap().contains("net_ring0 answers for 192.0.2.7"));
        assert!(far.said().is_some());
        assert!(r.ask(seconds(72)).is_empty() && far.said().is_none(), "more slowly now");
        r.ask(seconds(73));
        assert!(far.said().is_some());
        far.hear(0, &arp_answer("192.0.2.7", OTHER));
        assert_eq!(r.hear(seconds(73)), [address]);
    }

    #[test]
    fn ipv6_is_asked_for_as_neighbour_discovery_does() {
        let (mut r, far) = resolver(&["2001:db8::1:2"]);
        r.ask(seconds(0));
        let asked = far.said().unwrap();
        let b = asked.bytes();
        assert_eq!(b[..6], [0x33, 0x33, 0xff, 1, 0, 2]);
        assert_eq!(b[HEADER + 8..HEADER + 24], link_local(OWN).octets());
        assert_eq!(link_local(OWN).to_string(), "fe80::ff:fe00:1");
        let parsed = lcs_dataplane::headers::parse(b, true).unwrap();
        assert_eq!(parsed.kind, lcs_dataplane::headers::Kind::Icmp6);
        // The answer: an advertisement for the target, with its address in an option behind another one.
        let mut answer = b.to_vec();
        answer[ETHERNET_IPV6] = icmp::v6::NEIGHBOUR_ADVERTISEMENT;
        answer.truncate(ETHERNET_IPV6 + 24);
        answer.extend([14, 1, 0, 0, 0, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 9]);
        far.hear(0, &answer);
        assert_eq!(r.hear(seconds(0)), ["2001:db8::1:2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let good = arp_answer("192.0.2.7", OTHER);
        assert!(answer(&good).is_some());
        for n in 0..good.len() {
            assert!(answer(&good[..n]).is_none());
        }
        let mut advertisement = solicitation("2001:db8::1".parse().unwrap(), Ipv6Addr::LOCALHOST, OTHER);
        advertisement[ETHERNET_IPV6] = icmp::v6::NEIGHBOUR_ADVERTISEMENT;
        advertisement[ETHERNET_IPV6 + 24] = 2;
        assert!(answer(&advertisement).is_some());
        for n in 0..advertisement.len() {
            assert!(answer(&advertisement[..n]).is_none());
        }
        let spoil = |at: usize, to: u8| {
            let mut b = advertisement.clone();
            b[at] = to;
            answer(&b)
        };
        assert_eq!(
            (spoil(HEADER + 7, 64), spoil(ETHERNET_IPV6 + 25, 0), spoil(ETHERNET_IPV6 + 25, 2)),
            (None, None, None)
        );
        assert_eq!(spoil(ETHERNET_IPV6, icmp::v6::NEIGHBOUR_SOLICITATION), None);
    }
}
