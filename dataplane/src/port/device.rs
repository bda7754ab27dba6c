//! Naming a device of DPDK: what a configuration says, with or without the feature `dpdk`.

use std::fmt;

/// A device as DPDK names it: a PCI address (`0000:5e:00.0`) or a virtual device (`net_ring0`), with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What stands behind the first comma: `iface=veth0`.
    pub arguments: Option<String>,
}

impl Device {
    /// Longest name, bytes (`RTE_ETH_NAME_MAX_LEN` without its final zero).
    pub const NAME_MAX: usize = 63;

    /// Reads `NAME` or `NAME,ARGUMENTS`.
    ///
    /// # Errors
    /// In words, when DPDK could not be told of it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, arguments) = match text.split_once(',') {
            Some((name, arguments)) => (name, Some(arguments)),
            None => (text, None),
        };
        if name.is_empty() || name.len() > Self::NAME_MAX {
            return Err(format!("the name of a DPDK device has 1 to {} bytes", Self::NAME_MAX));
        }
        let good = |c: char| c.is_ascii_graphic();
        if !text.chars().all(good) || arguments.is_some_and(str::is_empty) {
            return Err(format!("{text:?} is no DPDK device: NAME or NAME,KEY=VALUE,…, without blanks"));
        }
        if !is_pci(name) && !name.starts_with("net_") {
            return Err(format!(
                "{name:?} is neither a PCI address (0000:5e:00.0) nor a virtual network device (net_ring0, net_tap0, …)"
            ));
        }
        Ok(Device { name: name.to_owned(), arguments: arguments.map(str::to_owned) })
    }

    /// Whether it is a piece of hardware.
    pub fn is_pci(&self) -> bool {
        is_pci(&self.name)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.arguments {
            Some(arguments) => write!(f, "{},{arguments}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

fn is_pci(name: &str) -> bool {
    let parts: Vec<&str> = name.split([':', '.']).collect();
    let digits = [4, 2, 2, 1];
    parts.len() == 4
        && name.as_bytes().get(10) == Some(&b'.')
        && parts.iter().zip(digits).all(|(p, n)| p.len() == n && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_arguments_are_told_apart_and_nonsense_is_refused() {
        let d = Device::parse("net_af_packet0,iface=veth0,qpairs=2").unwrap();
        assert_eq!((d.name.as_str(), d.arguments.as_deref()), ("net_af_packet0", Some("iface=veth0,qpairs=2")));
        assert_eq!(d.to_string(), "net_af_packet0,iface=veth0,qpairs=2");
        assert!(Device::parse("0000:5e:00.0").unwrap().is_pci());
        assert!(!Device::parse("net_ring0").unwrap().is_pci());
        for bad in ["", "eth0", "net_ring0,", "net_ring0,a b", "0000:5e:00", "5e:00.0", "net_ring0,\u{e9}"] {
            assert!(Device::parse(bad).is_err(), "{bad}");
        }
    }
}
