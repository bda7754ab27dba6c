//! What a driver tells of its rings and of receive-side scaling, through `SIOCETHTOOL`.
//!
//! Structures and numbers are those of `linux/ethtool.h`, read as arrays of 32-bit words in host order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ethtool::Ethtool;

const GRXFH: u32 = 0x29;
const GRINGPARAM: u32 = 0x10;
const GRSSH: u32 = 0x46;

/// The hash key, repeated, under which cards that hash the client's endpoint alone agree on the queue, whatever position its fields have in the
/// hash's input (the director's own function for it is in `dataplane/src/spread.rs`).
pub const CLIENT_KEY: [u8; 2] = [0x6d, 0x5a];

/// Larger than the indirection table or key of any driver; bounds what a wrong answer can make us allocate.
const MOST_ENTRIES: u32 = 65_536;
/// Words of `struct ethtool_rxfh` in front of the table.
const RSS_HEADER_WORDS: usize = 7;

/// Descriptors of the receive and transmit rings, as `ethtool -g`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Rings {
    pub rx_max: u32,
    pub tx_max: u32,
    pub rx: u32,
    pub tx: u32,
}

/// How received frames are spread over the queues, as `ethtool -x`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rss {
    /// The queue for each value of the hash's low bits.
    pub indirection: Vec<u32>,
    /// `toeplitz`, `xor` or `crc32`; none where the driver doesn't tell.
    pub function: Option<String>,
    /// Both directions of a connection have one hash, because source and destination are folded into one another.
    pub symmetric: bool,
    /// The hash's key; empty where the driver tells none.
    #[serde(default)]
    pub key: Vec<u8>,
}

impl Rss {
    /// Whether frames of an endpoint come to the queue that the director takes for its owner's, when that endpoint's fields are hashed.
    pub fn names_owners(&self, workers: u32) -> bool {
        let entries = self.indirection.len();
        self.function.as_deref() == Some("toeplitz")
            && !self.symmetric
            && !self.key.is_empty()
            && self.key.chunks(2).all(|pair| CLIENT_KEY.starts_with(pair))
            && entries.is_power_of_two()
            && entries >= workers as usize
            && entries <= usize::from(u16::MAX)
            && (0..).zip(&self.indirection).all(|(at, queue): (u32, _)| *queue == at % workers.max(1))
    }

    /// The queues that frames come to, ascending.
    pub fn queues(&self) -> Vec<u32> {
        let mut queues = self.indirection.clone();
        queues.sort_unstable();
        queues.dedup();
        queues
    }
}

/// A kind of packet that has a set of hashed fields of its own, by its name in `ethtool -N IF rx-flow-hash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum FlowType {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

impl FlowType {
    /// All of them.
    pub const ALL: [FlowType; 4] = [FlowType::Tcp4, FlowType::Tcp6, FlowType::Udp4, FlowType::Udp6];

    /// The name for `ethtool`.
    pub fn name(self) -> &'static str {
        match self {
            FlowType::Tcp4 => "tcp4",
            FlowType::Tcp6 => "tcp6",
            FlowType::Udp4 => "udp4",
            FlowType::Udp6 => "udp6",
        }
    }

    /// `TCP_V4_FLOW`, …
    fn number(self) -> u32 {
        match self {
            FlowType::Tcp4 => 1,
            FlowType::Udp4 => 2,
            FlowType::Tcp6 => 5,
            FlowType::Udp6 => 6,
        }
    }
}

/// `RXH_…` bits and `ethtool`'s letters for them, in the order in which it takes them.
const FIELDS: [(u64, char); 6] =
    [(1 << 1, 'm'), (1 << 2, 'v'), (1 << 4, 's'), (1 << 5, 'd'), (1 << 6, 'f'), (1 << 7, 'n')];

/// The letters of `ethtool -N IF rx-flow-hash`: `s` source address, `d` destination address, `f` source port,
/// `n` destination port (of TCP and UDP), `m` link-layer destination, `v` VLAN.
fn letters(bits: u64) -> String {
    FIELDS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, letter)| *letter).collect()
}

impl Ethtool {
    /// Ring sizes; `None` where the driver has no such notion.
    pub fn rings(&self, link: &str) -> Result<Option<Rings>> {
        // struct ethtool_ringparam: command; max rx, mini, jumbo, tx; rx, mini, jumbo, tx.
        let mut words = [0u32; 9];
        words[0] = GRINGPARAM;
        Ok(self.ask_if_offered(link, "read the ring sizes", &mut words)?.map(|()| Rings {
            rx_max: words[1],
            tx_max: words[4],
            rx: words[5],
            tx: words[8],
        }))
    }

    /// The indirection table and hash function; `None` where the driver tells none.
    pub fn rss(&self, link: &str) -> Result<Option<Rss>> {
        let what = "read the RSS table";
        // struct ethtool_rxfh: command, context, table size, key size, function and transformation, reserved, table, key.
        let mut header = [0u32; RSS_HEADER_WORDS];
        header[0] = GRSSH;
        if self.ask_if_offered(link, what, &mut header)?.is_none()
            || header[2] > MOST_ENTRIES
            || header[3] > MOST_ENTRIES
        {
            return Ok(None);
        }
        let (entries, key_bytes) = (header[2], header[3]);
        let mut words = vec![0u32; RSS_HEADER_WORDS + entries as usize + (key_bytes as usize).div_ceil(4)];
        (words[0], words[2], words[3]) = (GRSSH, entries, key_bytes);
        // Some drivers count a table and then have none.
        if self.ask_if_offered(link, what, &mut words)?.is_none() {
            return Ok(None);
        }
        let [function, transformation, ..] = words[4].to_ne_bytes();
        let function = match function {
            1 => Some("toeplitz".into()),
            2 => Some("xor".into()),
            4 => Some("crc32".into()),
            _ => None,
        };
        let indirection = words[RSS_HEADER_WORDS..RSS_HEADER_WORDS + entries as usize].to_vec();
        let key = words[RSS_HEADER_WORDS + entries as usize..].iter().flat_map(|word| word.to_ne_bytes());
        let key = key.take(key_bytes as usize).collect();
        Ok(Some(Rss { indirection, function, symmetric: transformation != 0, key }))
    }

    /// The fields that are hashed for each kind of packet, in `ethtool`'s letters; kinds of which the driver tells
    /// nothing are left out.
    pub fn hash_fields(&self, link: &str) -> BTreeMap<FlowType, String> {
        let fields = |kind: FlowType| {
            // struct ethtool_rxnfc: command, flow type, 64-bit fields; the rest isn't used for this command.
            let mut words = [0u32; 48];
            (words[0], words[1]) = (GRXFH, kind.number());
            self.ask_if_offered(link, "read the hashed fields", &mut words).ok()??;
            let ([a, b, c, d], [e, f, g, h]) = (words[2].to_ne_bytes(), words[3].to_ne_bytes());
            // No letter: the driver hashes nothing for this kind, or only knows that it does.
            Some(letters(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))).filter(|letters| !letters.is_empty())
        };
        FlowType::ALL.into_iter().filter_map(|kind| Some((kind, fields(kind)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_letters_of_ethtool() {
        assert_eq!(letters(0b1111_0000), "sdfn");
        assert_eq!(letters(1 << 4 | 1 << 6), "sf");
        assert_eq!(letters(0), "");
    }

    #[test]
    fn a_card_names_owners_when_its_key_repeats_itself_and_its_queues_come_in_turn() {
        let good = Rss {
            indirection: (0..128).map(|n| n % 3).collect(),
            function: Some("toeplitz".into()),
            symmetric: false,
            key: CLIENT_KEY.repeat(20),
        };
        assert!(good.names_owners(3));
        let odd = Rss { key: CLIENT_KEY.repeat(20)[..39].to_vec(), ..good.clone() };
        assert!(odd.names_owners(3));
        for bad in [
            Rss { symmetric: true, ..good.clone() },
            Rss { function: None, ..good.clone() },
            Rss { key: vec![], ..good.clone() },
            Rss { key: vec![0x6d; 40], ..good.clone() },
            Rss { indirection: vec![0, 1, 2], ..good.clone() },
        ] {
            assert!(!bad.names_owners(3), "{bad:?}");
        }
        assert!(!good.names_owners(4));
    }

    #[test]
    fn a_link_without_rings_tells_none() {
        let ethtool = Ethtool::open().unwrap();
        assert_eq!(ethtool.rings("lo").unwrap(), None);
        assert_eq!(ethtool.rss("lo").unwrap(), None);
        assert!(ethtool.hash_fields("lo").is_empty());
    }
}
