//! What a driver can do with XDP, told by the kernel without attaching anything (generic netlink family `netdev`,
//! Linux 6.3 and newer).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::netdev::{Netdev, attributes, number};

/// `NETDEV_CMD_DEV_GET` and its attributes.
const DEVICE_GET: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_FEATURES: u16 = 3;

/// What a driver can do with XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpAbilities {
    /// A program may run in the driver ("native").
    pub native: bool,
    /// That program may redirect frames, also to AF_XDP sockets.
    pub redirect: bool,
    /// AF_XDP without a copy by the kernel.
    pub zero_copy: bool,
}

impl XdpAbilities {
    /// From `NETDEV_A_DEV_XDP_FEATURES`: basic, redirect, transmission of others' frames, zero-copy, …
    fn from_bits(bits: u64) -> Self {
        XdpAbilities { native: bits & 1 != 0, redirect: bits & 2 != 0, zero_copy: bits & 8 != 0 }
    }
}

/// The abilities of every interface of the calling thread's network namespace, by their index; empty where the kernel
/// has no such family.
pub fn abilities() -> Result<BTreeMap<u32, XdpAbilities>> {
    let what = "ask for what interfaces can do with XDP";
    let mut found = BTreeMap::new();
    let Some(netdev) = Netdev::open(what)? else { return Ok(found) };
    for message in netdev.list(what, DEVICE_GET, &[])? {
        let attributes = attributes(&message);
        let number = |kind: u16| attributes.get(&kind).and_then(|value| number(value));
        if let (Some(index), Some(bits)) = (number(DEVICE_INDEX), number(DEVICE_FEATURES)) {
            found.insert(index as u32, XdpAbilities::from_bits(bits));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_specification() {
        let all = XdpAbilities { native: true, redirect: true, zero_copy: true };
        assert_eq!(XdpAbilities::from_bits(0x7f), all);
        assert_eq!(XdpAbilities::from_bits(0x7), XdpAbilities { zero_copy: false, ..all });
        assert_eq!(XdpAbilities::from_bits(0), XdpAbilities { native: false, redirect: false, zero_copy: false });
    }

    #[test]
    fn the_loopback_has_no_driver_program() {
        // A kernel before 6.3 tells nothing.
        if let Some(lo) = abilities().unwrap().get(&1) {
            assert!(!lo.native && !lo.zero_copy);
        }
    }
}
