//! Clients whose addresses are known to be their own: they have acknowledged a number that only who gets the packets to that
//! address can know.
//!
//! A server that is guessed and answers directly chooses the numbers of a connection unseen by the director, which must then
//! believe what the client acknowledges. Whoever only pretends to have an address could acknowledge anything, and have a
//! response sent there. So a guess of this kind is for addresses that have proven themselves lately, with a connection that
//! was bound in another way.

use super::sticky::hash_address;
use lcs_dataplane::worker::Nanos;
use std::net::{IpAddr, Ipv4Addr};

/// Addresses that one worker remembers: 1 MiB. With more, those proven longest ago are to prove themselves again.
const ADDRESSES: usize = 1 << 15;
/// Places in which one address may stand.
const WAYS: usize = 4;
/// For how long a proof counts, nanoseconds.
const LASTS: Nanos = 600_000_000_000;

/// The addresses, and when each was proven.
#[derive(Debug, Default)]
pub(crate) struct Proven {
    addresses: Vec<(IpAddr, Nanos)>,
}

impl Proven {
    /// Makes room.
    pub(crate) fn reserve(&mut self) {
        if self.addresses.is_empty() {
            self.addresses = vec![(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0); ADDRESSES];
        }
    }

    fn places(&self, address: IpAddr) -> std::ops::Range<usize> {
        let at = hash_address(address) as usize % (ADDRESSES / WAYS) * WAYS;
        at..(at + WAYS).min(self.addresses.len())
    }

    /// An address has proven itself. The one of its places that did so longest ago is forgotten.
    pub(crate) fn prove(&mut self, address: IpAddr, now: Nanos) {
        if self.addresses.is_empty() {
            // No service asks for proofs.
            return;
        }
        let places = self.places(address);
        let place = self.addresses.get_mut(places).unwrap_or_default().iter_mut();
        if let Some(place) = place.min_by_key(|place| if place.0 == address { 0 } else { place.1 }) {
            *place = (address, now);
        }
    }

    /// An address is to prove itself again.
    pub(crate) fn forget(&mut self, address: IpAddr) {
        if self.addresses.is_empty() {
            return;
        }
        let places = self.places(address);
        for place in self.addresses.get_mut(places).unwrap_or_default().iter_mut().filter(|place| place.0 == address) {
            place.1 = 0;
        }
    }

    /// Whether it has, lately.
    pub(crate) fn is(&self, address: IpAddr, now: Nanos) -> bool {
        let places = self.addresses.get(self.places(address)).unwrap_or_default();
        places.iter().any(|&(a, at)| a == address && at > 0 && now < at + LASTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(n))
    }

    #[test]
    fn a_proof_is_of_one_address_and_does_not_last() {
        let mut proven = Proven::default();
        proven.prove(address(1), 5);
        assert!(!proven.is(address(1), 5), "there is no room for any");
        proven.reserve();
        proven.prove(address(1), 5);
        assert!(proven.is(address(1), 4 + LASTS) && !proven.is(address(1), 5 + LASTS));
        assert!(!proven.is(address(2), 5));
        proven.prove(address(1), 99);
        assert!(proven.is(address(1), 50 + LASTS), "the later proof counts");
        proven.forget(address(1));
        assert!(!proven.is(address(1), 100));
    }

    #[test]
    fn however_many_there_are_the_last_one_is_remembered() {
        let mut proven = Proven::default();
        proven.reserve();
        for n in 0..4 * ADDRESSES as u32 {
            proven.prove(address(n), u64::from(n) + 1);
            assert!(proven.is(address(n), u64::from(n) + 1));
        }
        assert_eq!(proven.addresses.len(), ADDRESSES);
    }
}
