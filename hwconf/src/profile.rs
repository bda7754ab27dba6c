//! Ready profiles: what is known of a network card's driver from its documentation, one file each in `hwconf/profiles`.

use serde::{Deserialize, Serialize};

use crate::machine::{Machine, Nic};

/// What is known of the devices of a driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Profile {
    /// What it is called.
    pub name: String,
    /// Kernel drivers.
    pub drivers: Vec<String>,
    /// DPDK's driver, where it has one.
    pub poll_driver: Option<String>,
    /// There is no wire at the other end: frames may come with unfinished checksums.
    pub paravirtual: bool,
    /// How DPDK takes it.
    pub dpdk: Option<DpdkUse>,
    /// How frames are spread over queues.
    pub rss: RssRecipe,
    /// XDP and AF_XDP.
    pub xdp: XdpUse,
    /// Known limits.
    pub limits: Vec<Limit>,
}

/// How DPDK takes a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DpdkUse {
    /// To which kernel driver it is bound.
    pub binding: Binding,
    /// The device's arguments behind its address; often none.
    pub arguments: Vec<String>,
    /// What else is to be known.
    pub note: String,
    /// Where this is from.
    pub source: String,
}

/// To which kernel driver a device is bound while DPDK has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Binding {
    /// To `vfio-pci`.
    VfioPci,
    /// It stays with its own, which shares it with DPDK.
    Stays,
}

/// Which fields a device can hash to choose a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashFields {
    /// Any, so also those of one side only.
    Any,
    /// Those of both sides or none.
    BothSides,
    /// It depends on the device.
    Device,
    /// There is no such hash.
    None,
}

/// How frames are spread over queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RssRecipe {
    /// Which fields can be hashed.
    pub fields: HashFields,
    /// The hash.
    pub function: Option<String>,
    /// In words.
    pub note: String,
    /// Where this is from.
    pub source: String,
}

/// XDP and AF_XDP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct XdpUse {
    /// A program may run in the driver.
    pub native: bool,
    /// AF_XDP without a copy by the kernel.
    pub zero_copy: bool,
    /// The first kernel whose zero-copy sockets are on the queues that we take them for.
    pub zero_copy_from: Option<(u32, u32)>,
    /// Longest frame with a program in the driver, bytes with Ethernet header, tag and check sequence.
    pub frame_max: Option<u32>,
    /// Largest MTU with a program in the driver, bytes.
    pub mtu_max: Option<u32>,
    /// With a program in the driver only half of the queues can be used.
    #[serde(default)]
    pub half_of_queues: bool,
    /// Where this is from.
    pub source: String,
}

impl XdpUse {
    /// The largest MTU with a program in the driver, bytes; `None` where none is known.
    pub fn largest_mtu(&self) -> Option<u32> {
        /// Ethernet header, one 802.1Q tag, check sequence.
        const AROUND: u32 = 14 + 4 + 4;
        self.mtu_max.or_else(|| self.frame_max.map(|frame| frame.saturating_sub(AROUND)))
    }
}

/// A known limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// In words.
    pub what: String,
    /// Where this is from.
    pub source: String,
}

/// The files, each with its text.
const FILES: [(&str, &str); 7] = [
    ("intel-e810.toml", include_str!("../profiles/intel-e810.toml")),
    ("intel-x710.toml", include_str!("../profiles/intel-x710.toml")),
    ("intel-x520.toml", include_str!("../profiles/intel-x520.toml")),
    ("mellanox-connectx.toml", include_str!("../profiles/mellanox-connectx.toml")),
    ("virtio.toml", include_str!("../profiles/virtio.toml")),
    ("ena.toml", include_str!("../profiles/ena.toml")),
    ("veth.toml", include_str!("../profiles/veth.toml")),
];

/// All profiles.
pub fn all() -> Vec<Profile> {
    // A test reads every one of them, so none is left out.
    FILES.iter().filter_map(|(_, text)| toml::from_str(text).ok()).collect()
}

/// The profile for a kernel driver, or for a driver of DPDK.
pub fn of_driver(driver: &str) -> Option<Profile> {
    all().into_iter().find(|p| p.drivers.iter().any(|d| d == driver) || p.poll_driver.as_deref() == Some(driver))
}

/// The profile of an interface.
pub fn of_nic(nic: &Nic) -> Option<Profile> {
    of_driver(nic.driver()?)
}

/// The profile of a PCI device, also of one that `vfio-pci` has: by vendor and device.
pub fn of_pci(machine: &Machine, address: &str) -> Option<Profile> {
    let pci = machine.pci(address)?;
    let by_driver = pci.driver.as_deref().and_then(of_driver);
    by_driver.or_else(|| IDS.iter().find(|(id, _)| pci.id.starts_with(id)).and_then(|(_, driver)| of_driver(driver)))
}

/// Vendor and (the beginning of) device, and the kernel driver that knows it. From the drivers' own tables: `ice_devids.h`,
/// `i40e_devids.h`, `ixgbe_type.h`, `mlx5` (`PCI_DEVICE_ID_MELLANOX_…` of DPDK), virtio 1.2 §4.1.2, `ena_pci_id_tbl.h`.
const IDS: [(&str, &str); 10] = [
    ("8086:159", "ice"),
    ("8086:1572", "i40e"),
    ("8086:158", "i40e"),
    ("8086:10fb", "ixgbe"),
    ("8086:1528", "ixgbe"),
    ("8086:1563", "ixgbe"),
    ("15b3:101", "mlx5_core"),
    ("1af4:1000", "virtio_net"),
    ("1af4:1041", "virtio_net"),
    ("1d0f:ec2", "ena"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_read_and_every_fact_has_a_source() {
        for (file, text) in FILES {
            let profile: Profile = toml::from_str(text).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(!profile.drivers.is_empty() && !profile.limits.is_empty(), "{file}");
            let mut sources = vec![&profile.rss.source, &profile.xdp.source];
            sources.extend(profile.dpdk.iter().map(|dpdk| &dpdk.source));
            sources.extend(profile.limits.iter().map(|limit| &limit.source));
            for source in sources {
                assert!(source.starts_with("https://") || source.starts_with("Linux, "), "{file}: {source}");
            }
        }
        assert_eq!(all().len(), FILES.len());
    }

    #[test]
    fn every_file_of_the_folder_is_there() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/profiles");
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        let mut known: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        names.sort();
        known.sort_unstable();
        assert_eq!(names, known);
    }

    #[test]
    fn a_driver_has_at_most_one_profile() {
        let mut drivers: Vec<String> = all().into_iter().flat_map(|p| p.drivers).collect();
        drivers.sort();
        let count = drivers.len();
        drivers.dedup();
        assert_eq!(drivers.len(), count);
        assert_eq!(of_driver("ice").unwrap().poll_driver.as_deref(), Some("net_ice"));
        assert_eq!(of_driver("no-such-driver"), None);
        for (_, driver) in IDS {
            assert!(of_driver(driver).is_some(), "{driver}");
        }
    }

    #[test]
    fn the_largest_mtu_leaves_room_for_what_is_around_a_packet() {
        assert_eq!(of_driver("ice").unwrap().xdp.largest_mtu(), Some(3050));
        assert_eq!(of_driver("veth").unwrap().xdp.largest_mtu(), Some(3506));
        assert_eq!(of_driver("mlx5_core").unwrap().xdp.largest_mtu(), None);
    }
}
