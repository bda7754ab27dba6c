//! Who is measured, and whether it's there.

use std::env;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::workload::{Mode, Workload};

/// What can stand between clients and servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    /// This director, on AF_XDP, with a worker that sleeps where nothing comes.
    Ours,
    /// The kernel's forwarding: nothing chooses, clients name the server by its address.
    Forward,
    /// The kernel's DNAT by nftables: a server for each connection, nothing is read.
    Nftables,
    /// The kernel's IPVS, masquerading: the same.
    Ipvs,
    /// A balancer of our own making that is an XDP program and no more: the same, without conntrack and before the kernel's stack.
    Xdp,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
}

impl Peer {
    /// All of them, in the order of the table.
    pub const ALL: [Peer; 7] =
        [Peer::Ours, Peer::Forward, Peer::Nftables, Peer::Ipvs, Peer::Xdp, Peer::Haproxy, Peer::Nginx];

    /// Its name as an option.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Ours => "ours",
            Peer::Forward => "forward",
            Peer::Nftables => "nftables",
            Peer::Ipvs => "ipvs",
            Peer::Xdp => "xdp",
            Peer::Haproxy => "haproxy",
            Peer::Nginx => "nginx",
        }
    }

    /// Whether it reads requests; what doesn't is sent the same traffic as a bar, and any server's answer is right.
    pub fn reads(self) -> bool {
        matches!(self, Peer::Ours | Peer::Haproxy | Peer::Nginx)
    }

    /// Why it can't be measured here: a sentence with what would mend it.
    pub fn missing(self) -> Option<String> {
        let no_program = |program: &str, package: &str| {
            let text = format!("{program} is not installed: `apt-get install {package}` (or your distribution's way)");
            find(program).is_none().then_some(text)
        };
        match self {
            Peer::Ours | Peer::Forward | Peer::Xdp => None,
            Peer::Nftables => no_program("nft", "nftables"),
            Peer::Haproxy => no_program("haproxy", "haproxy"),
            Peer::Nginx => no_program("nginx", "nginx"),
            // The folder comes with the module.
            Peer::Ipvs if !Path::new("/proc/sys/net/ipv4/vs").exists() => {
                Some("this kernel has no IPVS: `modprobe ip_vs`, or a kernel built with CONFIG_IP_VS".into())
            }
            Peer::Ipvs => no_program("ipvsadm", "ipvsadm"),
        }
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let all = || Peer::ALL.map(Peer::name).join(", ");
        Peer::ALL.into_iter().find(|p| p.name() == word).ok_or_else(|| format!("\"{word}\" is none of {}", all()))
    }
}

/// The program of this name in `PATH`, or where administrators' programs are.
pub(crate) fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// How a peer is configured, where there is more than one good way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// As its manual begins.
    Plain,
    /// HAProxy: one look-up in a map of prefixes instead of a rule for each.
    Map,
    /// HAProxy: a server's connection serves one client after the other (`http-reuse always`).
    Reuse,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Who.
    pub peer: Peer,
    /// How.
    pub variant: Variant,
}

impl Subject {
    /// The rows of a cell for the peers asked for, and for each that can't do it a sentence that says why.
    pub fn of(peers: &[Peer], workload: Workload, mode: Mode) -> (Vec<Subject>, Vec<(Peer, String)>) {
        let (mut subjects, mut not) = (vec![], vec![]);
        for &peer in peers {
            if peer == Peer::Nginx && workload == Workload::Xml {
                let why = "nginx reads no bodies by itself: it would need its njs or Lua module and a script";
                not.push((peer, why.to_owned()));
                continue;
            }
            subjects.push(Subject { peer, variant: Variant::Plain });
            if peer == Peer::Haproxy && workload == Workload::Rules {
                subjects.push(Subject { peer, variant: Variant::Map });
            }
            if peer == Peer::Haproxy && mode == Mode::Close {
                subjects.push(Subject { peer, variant: Variant::Reuse });
            }
        }
        (subjects, not)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.peer.name();
        match self.variant {
            Variant::Plain => f.write_str(name),
            Variant::Map => write!(f, "{name}, map"),
            Variant::Reuse => write!(f, "{name}, reuse"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for peer in Peer::ALL {
            assert_eq!(peer.name().parse(), Ok(peer));
        }
        assert!("squid".parse::<Peer>().unwrap_err().contains("haproxy"));
    }

    #[test]
    fn a_program_that_is_nowhere_is_not_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-of-lcs").is_none());
    }

    #[test]
    fn each_cell_has_the_variants_that_make_a_difference_in_it() {
        let names = |workload, mode| {
            let (subjects, not) = Subject::of(&Peer::ALL, workload, mode);
            (subjects.iter().map(Subject::to_string).collect::<Vec<_>>().join("|"), not.len())
        };
        let all = "ours|forward|nftables|ipvs|xdp|haproxy";
        assert_eq!(names(Workload::Urls, Mode::KeepAlive), (format!("{all}|nginx"), 0));
        assert_eq!(names(Workload::Rules, Mode::Close), (format!("{all}|haproxy, map|haproxy, reuse|nginx"), 0));
        assert_eq!(names(Workload::Xml, Mode::KeepAlive), (all.into(), 1));
    }
}
