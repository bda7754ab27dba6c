//! Who has which address in a testbed. The last number is written the same way in IPv4 and IPv6.
//!
//! | who | clients' subnet | servers' subnet |
//! |---|---|---|
//! | director | `10.80.0.1`, `fd80::1` | `10.80.1.1`, `fd80:0:0:1::1` |
//! | client *n* (from 0) | `10.80.0.`(10+*n*), `fd80::`(10+*n*) | |
//! | virtual address *n* | `10.80.0.`(100+*n*), `fd80::`(100+*n*) | |
//! | server *n* (from 0) | | `10.80.1.`(10+*n*), `fd80:0:0:1::`(10+*n*) |
//!
//! Hardware addresses are `02:80:00:00:`subnet`:`number, locally administered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Number of the clients' subnet.
pub const CLIENT_NET: u8 = 0;
/// Number of the servers' subnet.
pub const SERVER_NET: u8 = 1;

/// A place in the testbed that has an IPv4 and an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The director, towards the clients.
    DirectorToClients,
    /// The director, towards the servers.
    DirectorToServers,
    /// A client, from 0.
    Client(u8),
    /// A real server, from 0.
    Server(u8),
    /// A virtual address, from 0.
    Virtual(u8),
}

impl Place {
    fn numbers(self) -> (u8, u8) {
        match self {
            Place::DirectorToClients => (CLIENT_NET, 1),
            Place::DirectorToServers => (SERVER_NET, 1),
            Place::Client(at) => (CLIENT_NET, 10u8.saturating_add(at)),
            Place::Server(at) => (SERVER_NET, 10u8.saturating_add(at)),
            Place::Virtual(at) => (CLIENT_NET, 100u8.saturating_add(at)),
        }
    }

    /// Its address.
    pub fn address(self, ipv6: bool) -> IpAddr {
        let (net, host) = self.numbers();
        address(net, host, ipv6)
    }

    /// Its address with the length of its subnet's prefix.
    pub fn interface_address(self, ipv6: bool) -> IpNet {
        IpNet::new_assert(self.address(ipv6), prefix(ipv6))
    }

    /// Its hardware address.
    pub fn mac(self) -> [u8; 6] {
        let (net, host) = self.numbers();
        [0x02, 0x80, 0, 0, net, host]
    }
}

/// A subnet by its number.
pub fn subnet(net: u8, ipv6: bool) -> IpNet {
    IpNet::new_assert(address(net, 0, ipv6), prefix(ipv6))
}

fn prefix(ipv6: bool) -> u8 {
    if ipv6 { 64 } else { 24 }
}

fn address(net: u8, host: u8, ipv6: bool) -> IpAddr {
    if !ipv6 {
        return Ipv4Addr::new(10, 80, net, host).into();
    }
    // The decimal digits of the number, read as hexadecimal.
    let digits = u16::from(host / 100) << 8 | u16::from(host / 10 % 10) << 4 | u16::from(host % 10);
    Ipv6Addr::new(0xfd80, 0, 0, net.into(), 0, 0, 0, digits).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_alike_in_both_families() {
        for (place, ipv4, ipv6) in [
            (Place::DirectorToClients, "10.80.0.1/24", "fd80::1/64"),
            (Place::DirectorToServers, "10.80.1.1/24", "fd80:0:0:1::1/64"),
            (Place::Client(49), "10.80.0.59/24", "fd80::59/64"),
            (Place::Server(99), "10.80.1.109/24", "fd80:0:0:1::109/64"),
            (Place::Virtual(0), "10.80.0.100/24", "fd80::100/64"),
        ] {
            assert_eq!(place.interface_address(false), ipv4.parse::<IpNet>().unwrap());
            assert_eq!(place.interface_address(true), ipv6.parse::<IpNet>().unwrap());
        }
        assert_eq!(subnet(SERVER_NET, true), "fd80:0:0:1::/64".parse::<IpNet>().unwrap());
        assert_eq!(Place::Server(1).mac(), [0x02, 0x80, 0, 0, 1, 11]);
    }
}
