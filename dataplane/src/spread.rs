//! Which worker a client's endpoint belongs to: the one whose queue a card chooses that hashes the client's endpoint alone.
//!
//! Cards spread frames over receive queues by a Toeplitz hash of some header fields under a key that can be set, whose low bits index a table
//! of queues (Microsoft, *RSS hashing functions*). A client's endpoint is the source of what it sends and the destination of what is
//! sent to it, so a card on the clients' side is told to hash the source and one on the servers' side the destination. Cards
//! differ in where among the hash's input they put fields when others are left out, and then the key's position matters. With a key that repeats
//! itself every 16 bits it does not: every 16-bit word is hashed alike, wherever it stands, and the hash is that of all words' exclusive or. So
//! this one function says where any such card puts a frame, in both directions, and software and card agree without having spoken.
//!
//! Where no card does this, frames come to whatever worker, and are handed over to the one that this function names.

use std::net::{IpAddr, SocketAddr};

/// The key that repeats itself: `ethtool -X IF hkey 6d:5a:6d:5a:…`. Nine of its bits are one, so that no two words have one hash (a circulant matrix
/// of odd weight and 16 columns has an inverse).
pub use lcs_hwconf::receive::CLIENT_KEY as KEY;

/// The hash of a 16-bit word by its high and its low byte.
static HASHES: [[u16; 256]; 2] = {
    let key = u16::from_be_bytes(KEY);
    let mut hashes = [[0; 256]; 2];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            if byte >> (7 - bit) & 1 == 1 {
                hashes[0][byte] ^= key.rotate_left(bit);
                hashes[1][byte] ^= key.rotate_left(bit + 8);
            }
            bit += 1;
        }
        byte += 1;
    }
    hashes
};

/// The low 16 bits of a card's hash of this address and port (host order); the high 16 bits are the same again.
#[inline]
pub fn hash(address: IpAddr, port: u16) -> u16 {
    let words = match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    let words = (words >> 64) as u64 ^ words as u64;
    let words = (words >> 32) as u32 ^ words as u32;
    let [high, low] = ((words >> 16) as u16 ^ words as u16 ^ port).to_be_bytes();
    HASHES[0][usize::from(high)] ^ HASHES[1][usize::from(low)]
}

/// How endpoints are divided among workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Workers, at least one.
    pub workers: u8,
    /// Entries of the cards' tables, a power of two, which name the queues in turn (`ethtool -X IF equal N`); 0 where no card has to be agreed with, and
    /// then the whole hash is divided.
    pub table: u16,
}

impl Spread {
    /// The worker that a client's endpoint belongs to.
    #[inline]
    pub fn owner(self, client: SocketAddr) -> u8 {
        // Without a table the mask is all ones.
        ((hash(client.ip(), client.port()) & self.table.wrapping_sub(1)) % u16::from(self.workers.max(1))) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// A card, as the specification has it: for every bit of the input that is set, the 32 bits of the key from there on.
    fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], n: usize| bytes[n / 8] >> (7 - n % 8) & 1 == 1;
        let window = |from: usize| (from..from + 32).fold(0, |w, n| w << 1 | u32::from(bit(key, n)));
        (0..input.len() * 8).filter(|n| bit(input, *n)).fold(0, |hash, n| hash ^ window(n))
    }

    /// Addresses, then ports, each source first.
    fn input(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let ip = |a: SocketAddr| match a.ip() {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
        [ip(source), ip(destination), ports].concat()
    }

    /// *Verifying the RSS hash calculation*, with the key given there.
    #[test]
    fn the_card_of_these_tests_is_one_of_the_specification() {
        const PUBLISHED: [u8; 40] = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
            0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
            0xbe, 0xac, 0x01, 0xfa,
        ];
        for (source, destination, hash) in [
            ("66.9.149.187:2794", "161.142.100.80:1766", 0x51cc_c178),
            ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626_b0ea),
            ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x4020_7d3d),
        ] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            assert_eq!(toeplitz(&PUBLISHED, &input(source, destination)), hash, "{source}");
        }
    }

    proptest! {
        /// Whether a card leaves fields out of the hash's input or puts zeroes there, and whichever end the client is.
        #[test]
        fn every_card_that_hashes_the_client_alone_names_the_same_queue(v6: bool, address: u128, port: u16, workers in 1u8..65, table in 4u32..12) {
            let address: IpAddr =
                if v6 { Ipv6Addr::from(address).into() } else { Ipv4Addr::from(address as u32).into() };
            let nobody: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let (client, nobody) = (SocketAddr::new(address, port), SocketAddr::new(nobody, 0));
            let packed = match address {
                IpAddr::V4(a) => [&a.octets()[..], &port.to_be_bytes()].concat(),
                IpAddr::V6(a) => [&a.octets()[..], &port.to_be_bytes()].concat(),
            };
            let key = KEY.repeat(26);
            let table = 1u16 << table;
            for input in [input(client, nobody), input(nobody, client), packed] {
                let card = toeplitz(&key, &input);
                prop_assert_eq!(card, u32::from(hash(address, port)) * 0x1_0001);
                let queue = (card % u32::from(table)) % u32::from(workers);
                prop_assert_eq!(u32::from(Spread { workers, table }.owner(client)), queue);
            }
        }
    }

    #[test]
    fn no_two_ports_of_a_client_have_one_hash_and_workers_get_like_shares() {
        let client = "198.51.100.7".parse().unwrap();
        let mut seen = vec![false; 65_536];
        let mut shares = [0u32; 4];
        for port in 0..=u16::MAX {
            seen[usize::from(hash(client, port))] = true;
            shares[usize::from(Spread { workers: 4, table: 0 }.owner(SocketAddr::new(client, port)))] += 1;
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(shares, [16_384; 4]);
    }
}
