//! Links, addresses, routes, neighbours and offloads, set and read back from the kernel.

mod support;

use lcs_hwconf::ethtool::{Channels, Ethtool, Offload};
use lcs_hwconf::links;
use lcs_hwconf::netns::Namespace;
use lcs_hwconf::rtnl::{Route, Rtnl, VethEnd};
use support::root;

const MAC: [u8; 6] = [2, 0x80, 0, 0, 0, 7];

fn pair(queues: u32) -> (Namespace, Rtnl) {
    let namespace = Namespace::create().unwrap();
    let rtnl = Rtnl::open_in(&namespace).unwrap();
    rtnl.create_veth(
        &VethEnd { name: "a", namespace: None, mac: Some(MAC), mtu: 1400, queues },
        &VethEnd { name: "b", namespace: None, mac: None, mtu: 1500, queues },
    )
    .unwrap();
    (namespace, rtnl)
}

#[test]
fn a_veth_has_what_it_was_made_with() {
    if !root("a_veth_has_what_it_was_made_with") {
        return;
    }
    let (namespace, rtnl) = pair(3);
    let a = links::interface_in(&namespace, "a").unwrap();
    assert_eq!((a.link.mac, a.link.mtu, a.link.up), (Some(MAC), 1400, false));
    assert_eq!(a.link.kind.as_deref(), Some("veth"));
    assert_eq!((a.receive_queues, a.transmit_queues), (3, 3));
    assert_eq!(a.driver.as_ref().unwrap().name, "veth");
    assert_eq!(a.speed, Some(10_000));

    rtnl.set_mtu("a", 1300).unwrap();
    rtnl.set_mac("a", [2, 0, 0, 0, 0, 9]).unwrap();
    rtnl.set_up("a", true).unwrap();
    let a = rtnl.link("a").unwrap();
    assert_eq!((a.mac, a.mtu, a.up, a.running), (Some([2, 0, 0, 0, 0, 9]), 1300, true, false));
    rtnl.set_up("b", true).unwrap();
    support::eventually("a carrier", || rtnl.link("a").unwrap().running);
    rtnl.set_up("a", false).unwrap();
    assert!(!rtnl.link("a").unwrap().up);

    rtnl.delete_link("a").unwrap();
    assert!(rtnl.link("b").is_err(), "both ends go");
}

#[test]
fn queues_are_counted_and_changed_as_the_driver_allows() {
    if !root("queues_are_counted_and_changed_as_the_driver_allows") {
        return;
    }
    let (namespace, _) = pair(4);
    let ethtool = Ethtool::open_in(&namespace).unwrap();
    let channels = ethtool.channels("a").unwrap().unwrap();
    assert_eq!((channels.receive(), channels.transmit(), channels.max_rx), (4, 4, 4));
    ethtool.set_channels("a", Channels { rx: 2, tx: 1, ..channels }).unwrap();
    let fewer = links::interface_in(&namespace, "a").unwrap();
    assert_eq!((fewer.receive_queues, fewer.transmit_queues), (2, 1));
    let error = ethtool.set_channels("a", Channels { rx: 5, ..channels }).unwrap_err().to_string();
    assert!(error.contains("set 5 receive") && error.contains("interface a"), "{error}");
}

#[test]
fn an_offload_that_is_switched_off_takes_those_that_need_it_along() {
    if !root("an_offload_that_is_switched_off_takes_those_that_need_it_along") {
        return;
    }
    let (namespace, _) = pair(1);
    let ethtool = Ethtool::open_in(&namespace).unwrap();
    assert!(ethtool.offload("a", Offload::TxChecksum).unwrap());
    assert!(ethtool.offload("a", Offload::Tso).unwrap());
    ethtool.set_offload("a", Offload::TxChecksum, false).unwrap();
    let features = ethtool.features("a").unwrap();
    for feature in ["tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation"] {
        assert!(!features[feature], "{feature} is still on");
    }
    assert!(ethtool.features("b").unwrap()["tx-tcp-segmentation"], "the other end is as before");
    // Segmentation can't be had without checksums: the kernel says yes, and does nothing.
    let error = ethtool.set_offload("a", Offload::Tso, true).unwrap_err().to_string();
    assert!(error.contains("tso on of the interface a") && error.contains("keeps it off"), "{error}");
    ethtool.set_offload("a", Offload::Gro, true).unwrap();
    assert!(ethtool.features("a").unwrap()["rx-gro"]);
}

#[test]
fn a_bridge_takes_ports_and_gives_them_back() {
    if !root("a_bridge_takes_ports_and_gives_them_back") {
        return;
    }
    let (_namespace, rtnl) = pair(1);
    rtnl.create_bridge("br0").unwrap();
    let bridge = rtnl.link("br0").unwrap();
    assert_eq!(bridge.kind.as_deref(), Some("bridge"));
    rtnl.set_master("a", Some("br0")).unwrap();
    assert_eq!(rtnl.link("a").unwrap().master, Some(bridge.index));
    rtnl.set_master("a", None).unwrap();
    assert_eq!(rtnl.link("a").unwrap().master, None);
    let error = rtnl.create_bridge("br0").unwrap_err();
    assert_eq!(error.errno(), Some(libc::EEXIST));
    assert!(error.to_string().contains("create the bridge br0"), "{error}");
}

#[test]
fn addresses_routes_and_neighbours_are_read_back() {
    if !root("addresses_routes_and_neighbours_are_read_back") {
        return;
    }
    let (namespace, rtnl) = pair(1);
    for link in ["a", "b"] {
        rtnl.set_up(link, true).unwrap();
    }
    let addresses = ["192.0.2.1/24".parse().unwrap(), "2001:db8::1/64".parse().unwrap()];
    for address in addresses {
        rtnl.add_address("a", address).unwrap();
    }
    assert_eq!(rtnl.addresses("a").unwrap(), addresses);
    // Without duplicate address detection, so a socket can be bound at once.
    namespace.run(|| std::net::UdpSocket::bind("[2001:db8::1]:9").unwrap()).unwrap();

    for (neighbour, far) in [("192.0.2.2", "198.51.100.1"), ("2001:db8::2", "2001:db8:1::1")] {
        let neighbour = neighbour.parse().unwrap();
        let far: std::net::IpAddr = far.parse().unwrap();
        rtnl.set_neighbour("a", neighbour, MAC).unwrap();
        let found = rtnl.neighbours("a").unwrap();
        assert!(found.iter().any(|n| n.address == neighbour && n.mac == MAC && n.permanent), "{found:?}");

        let default = if far.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().unwrap();
        let route = Route { to: default, via: Some(neighbour), dev: Some("a"), source: None };
        let connect = || {
            namespace
                .run(|| {
                    let unspecified = if far.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    std::net::UdpSocket::bind(unspecified)?.connect((far, 9))
                })
                .unwrap()
        };
        assert!(connect().is_err(), "no route yet");
        rtnl.set_route(&route).unwrap();
        connect().unwrap();
        rtnl.delete_route(&route).unwrap();
        assert!(connect().is_err(), "no route any more");
    }
    rtnl.delete_address("a", addresses[0]).unwrap();
    assert_eq!(rtnl.addresses("a").unwrap(), [addresses[1]]);

    let nowhere = Route { to: addresses[0], via: None, dev: None, source: None };
    assert!(rtnl.set_route(&nowhere).unwrap_err().to_string().contains("give it a next hop"));
    let unreachable = Route { via: Some("203.0.113.1".parse().unwrap()), ..nowhere };
    let error = rtnl.set_route(&unreachable).unwrap_err().to_string();
    assert!(error.contains("192.0.2.1/24 via 203.0.113.1") && error.contains("invalid gateway"), "{error}");
}
