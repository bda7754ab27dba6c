//! What a driver tells and lets us set through `SIOCETHTOOL`: offloads, channels, driver, speed.
//!
//! Structures and numbers are those of `linux/ethtool.h`, read as arrays of 32-bit words in host order.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::error::{Error, Result};
use crate::netns::Namespace;
use crate::sys;

const GSET: u32 = 0x01;
const GDRVINFO: u32 = 0x03;
const GSTRINGS: u32 = 0x1b;
const GSTATS: u32 = 0x1d;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const GCHANNELS: u32 = 0x3c;
const SCHANNELS: u32 = 0x3d;

/// `ETH_SS_STATS`: the string set that names the driver's counters.
const COUNTER_NAMES: u32 = 1;
/// `ETH_SS_FEATURES`: the string set that names the features.
const FEATURE_NAMES: u32 = 4;
/// `ETH_GSTRING_LEN` in bytes.
const NAME_BYTES: usize = 32;
/// More names than a set of any driver has (a few thousand counters with many queues); bounds what a wrong answer
/// can make us allocate.
const MOST_NAMES: u32 = 65_536;

/// An offload as `ethtool -K` names it in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offload {
    /// Receive checksum validation (`rx`).
    RxChecksum,
    /// Transmit checksum insertion (`tx`). Off, the kernel writes full checksums itself, and then also
    /// leaves segmentation alone, so that frames are no longer than the MTU.
    TxChecksum,
    /// Scatter-gather (`sg`).
    ScatterGather,
    /// TCP segmentation by the device (`tso`).
    Tso,
    /// Late segmentation in software (`gso`).
    Gso,
    /// Joining of received segments in software (`gro`).
    Gro,
}

impl Offload {
    /// All of them, in the order of `ethtool -k`.
    pub const ALL: [Offload; 6] =
        [Offload::RxChecksum, Offload::TxChecksum, Offload::ScatterGather, Offload::Tso, Offload::Gso, Offload::Gro];

    /// The name for `ethtool -K`.
    pub fn name(self) -> &'static str {
        match self {
            Offload::RxChecksum => "rx",
            Offload::TxChecksum => "tx",
            Offload::ScatterGather => "sg",
            Offload::Tso => "tso",
            Offload::Gso => "gso",
            Offload::Gro => "gro",
        }
    }

    /// `ETHTOOL_G…`; the command to set is the next number.
    fn get_command(self) -> u32 {
        match self {
            Offload::RxChecksum => 0x14,
            Offload::TxChecksum => 0x16,
            Offload::ScatterGather => 0x18,
            Offload::Tso => 0x1e,
            Offload::Gso => 0x23,
            Offload::Gro => 0x2b,
        }
    }
}

/// Queues in use and queues that could be, as `ethtool -l`. Zero where the driver has none of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Channels {
    pub max_rx: u32,
    pub max_tx: u32,
    pub max_combined: u32,
    pub rx: u32,
    pub tx: u32,
    pub combined: u32,
}

impl Channels {
    /// Receive queues in use.
    pub fn receive(&self) -> u32 {
        self.rx + self.combined
    }

    /// Transmit queues in use.
    pub fn transmit(&self) -> u32 {
        self.tx + self.combined
    }
}

/// The driver of a link, as `ethtool -i`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driver {
    /// The kernel driver, e.g. `veth`, `ixgbe`.
    pub name: String,
    /// Its version; the kernel's where it has none of its own.
    pub version: String,
    /// Firmware version, often empty.
    pub firmware: String,
    /// Where the device is plugged, e.g. the PCI address `0000:3b:00.0`; empty for a virtual one.
    pub bus: String,
}

/// A way to ask the drivers of one network namespace.
#[derive(Debug)]
pub struct Ethtool {
    socket: Socket,
}

impl Ethtool {
    /// For the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)
            .map_err(|e| Error::system("open a socket to ask drivers", e))?;
        Ok(Ethtool { socket })
    }

    /// For `namespace`; the calling thread stays where it is.
    pub fn open_in(namespace: &Namespace) -> Result<Self> {
        namespace.run(Self::open)?
    }

    fn ask(&self, link: &str, what: &str, words: &mut [u32]) -> Result<()> {
        self.ask_io(link, words).map_err(|e| {
            let what = format!("{what} of the interface {link}");
            match e.raw_os_error() {
                Some(libc::ENODEV) => {
                    Error::system_mend(what, e, "there is no such interface in this network namespace")
                }
                _ => Error::system(what, e),
            }
        })
    }

    fn ask_io(&self, link: &str, words: &mut [u32]) -> io::Result<()> {
        sys::ethtool(self.socket.as_fd(), link, words)
    }

    /// Like [`Self::ask`], but `None` where the driver doesn't offer the command.
    pub(crate) fn ask_if_offered(&self, link: &str, what: &str, words: &mut [u32]) -> Result<Option<()>> {
        match self.ask(link, what, words) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether an offload is on.
    pub fn offload(&self, link: &str, offload: Offload) -> Result<bool> {
        let mut words = [offload.get_command(), 0];
        self.ask(link, &format!("read the offload {}", offload.name()), &mut words)?;
        Ok(words[1] != 0)
    }

    /// Switches an offload on or off, and reads it back: a driver that keeps its setting is an error.
    pub fn set_offload(&self, link: &str, offload: Offload, on: bool) -> Result<()> {
        let mut words = [offload.get_command() + 1, u32::from(on)];
        let state = |on| if on { "on" } else { "off" };
        let what = format!("switch the offload {} {}", offload.name(), state(on));
        self.ask(link, &what, &mut words)?;
        if self.offload(link, offload)? == on {
            return Ok(());
        }
        Err(Error::Invalid {
            what: format!("{what} of the interface {link}"),
            mend: format!(
                "its driver keeps it {}; see `ethtool -k {link}` for what is fixed, or for an offload it depends on",
                state(!on)
            ),
        })
    }

    /// Every feature that the kernel names, and whether it's active: the long list of `ethtool -k`.
    pub fn features(&self, link: &str) -> Result<BTreeMap<String, bool>> {
        let what = "read the features";
        let names = self.names(link, what, FEATURE_NAMES)?;
        // struct ethtool_gfeatures: command, blocks; then available, requested, active, never changed for 32 features.
        let blocks = names.len().div_ceil(32);
        let mut bits = vec![0u32; 2 + blocks * 4];
        (bits[0], bits[1]) = (GFEATURES, blocks as u32);
        self.ask(link, what, &mut bits)?;
        Ok(names
            .into_iter()
            .enumerate()
            .map(|(at, name)| (name, bits[2 + at / 32 * 4 + 2] >> (at % 32) & 1 == 1))
            .filter(|(name, _)| !name.is_empty())
            .collect())
    }

    /// The driver's own counters, as `ethtool -S`; empty where it has none. Names and meaning are the driver's.
    pub fn counters(&self, link: &str) -> Result<BTreeMap<String, u64>> {
        let what = "read the driver's counters";
        let names = match self.names(link, what, COUNTER_NAMES) {
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => return Ok(BTreeMap::new()),
            other => other?,
        };
        // struct ethtool_stats: command, count, 64-bit values.
        let mut words = vec![0u32; 2 + names.len() * 2];
        (words[0], words[1]) = (GSTATS, names.len() as u32);
        self.ask(link, what, &mut words)?;
        let values = words[2..].chunks_exact(2).map(|pair| {
            let ([a, b, c, d], [e, f, g, h]) = (pair[0].to_ne_bytes(), pair[1].to_ne_bytes());
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        });
        Ok(names.into_iter().zip(values).collect())
    }

    /// The names of a string set, in the order of its values.
    fn names(&self, link: &str, what: &str, set: u32) -> Result<Vec<String>> {
        // struct ethtool_sset_info: command, reserved, a 64-bit mask, then one count per set that the driver has.
        let mask = (1u64 << set).to_ne_bytes();
        let half = |at: usize| u32::from_ne_bytes([mask[at], mask[at + 1], mask[at + 2], mask[at + 3]]);
        let mut info = [GSSET_INFO, 0, half(0), half(4), 0];
        self.ask(link, what, &mut info)?;
        let count = info[4].min(MOST_NAMES);

        // struct ethtool_gstrings: command, set, count, names of 32 bytes.
        let mut words = vec![0u32; 3 + count as usize * NAME_BYTES / 4];
        (words[0], words[1], words[2]) = (GSTRINGS, set, count);
        self.ask(link, what, &mut words)?;
        let bytes: Vec<u8> = words[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(bytes.chunks_exact(NAME_BYTES).map(text).collect())
    }

    /// Queues in use and possible; `None` where the driver has no such notion.
    pub fn channels(&self, link: &str) -> Result<Option<Channels>> {
        // struct ethtool_channels: command; max rx, tx, other, combined; rx, tx, other, combined.
        let mut words = [0u32; 9];
        words[0] = GCHANNELS;
        Ok(self.ask_if_offered(link, "read the channels", &mut words)?.map(|()| Channels {
            max_rx: words[1],
            max_tx: words[2],
            max_combined: words[4],
            rx: words[5],
            tx: words[6],
            combined: words[8],
        }))
    }

    /// Sets how many queues are used; the counts stand in `rx`, `tx` and `combined` of `channels`.
    pub fn set_channels(&self, link: &str, channels: Channels) -> Result<()> {
        let mut words = [SCHANNELS, 0, 0, 0, 0, channels.rx, channels.tx, 0, channels.combined];
        let what =
            format!("set {} receive, {} transmit and {} combined queues", channels.rx, channels.tx, channels.combined);
        self.ask(link, &what, &mut words)
    }

    /// The driver; `None` for a link without one (a loopback on old kernels).
    pub fn driver(&self, link: &str) -> Result<Option<Driver>> {
        // struct ethtool_drvinfo: command, then texts of 32 bytes: driver, version, firmware, bus, …
        let mut words = [0u32; 49];
        words[0] = GDRVINFO;
        let found = self.ask_if_offered(link, "read the driver", &mut words)?;
        let bytes: Vec<u8> = words[1..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(found.map(|()| Driver {
            name: text(&bytes[..32]),
            version: text(&bytes[32..64]),
            firmware: text(&bytes[64..96]),
            bus: text(&bytes[96..128]),
        }))
    }

    /// Speed in Mbit/s; `None` where it's unknown or the link is down. A veth says 10,000 whatever it does.
    pub fn speed(&self, link: &str) -> Result<Option<u32>> {
        // struct ethtool_cmd: the low half of the speed at byte 12, the high half at byte 28.
        let mut words = [0u32; 11];
        words[0] = GSET;
        let found = self.ask_if_offered(link, "read the speed", &mut words)?;
        let half = |word: u32| {
            let bytes = word.to_ne_bytes();
            u32::from(u16::from_ne_bytes([bytes[0], bytes[1]]))
        };
        let speed = half(words[7]) << 16 | half(words[3]);
        // SPEED_UNKNOWN is −1, and some drivers wrote 0 or only the low half of it.
        Ok(found.map(|()| speed).filter(|speed| !matches!(speed, 0 | 0xffff | 0xffff_ffff)))
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_names_its_features() {
        let ethtool = Ethtool::open().unwrap();
        let features = ethtool.features("lo").unwrap();
        // The long and the short way to ask agree.
        assert_eq!(features["rx-gro"], ethtool.offload("lo", Offload::Gro).unwrap());
        assert_eq!(features["tx-tcp-segmentation"], ethtool.offload("lo", Offload::Tso).unwrap());
        assert!(features["loopback"]);
    }

    #[test]
    fn a_missing_interface_is_named() {
        let error = Ethtool::open().unwrap().offload("no-such-link", Offload::Tso).unwrap_err().to_string();
        assert!(error.contains("tso of the interface no-such-link"), "{error}");
        assert!(error.contains("no such interface"), "{error}");
        let long = "a".repeat(40);
        assert!(Ethtool::open().unwrap().features(&long).is_err());
    }
}
