//! The ways of binding that are compared.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How connections are bound, and over which way of forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Series {
    /// By address and port, with the SYN: layer-4 NAT without any rule. The tutorial's first series.
    Forward,
    /// As [`Series::Forward`], with the rules evaluated on requests and nothing made of what they say: every rule names all servers, so that
    /// the one that a hash of the client's address and port has chosen is right whatever rule takes the request. The tutorial's second series.
    Matching,
    /// By the request: delayed binding and splice.
    Delayed,
    /// By a guess at the SYN that is right in so many of a hundred connections. All and none are the tutorial's third and fourth series.
    Preallocate(u8),
    /// By the request, onto a connection that is open already.
    Pooled,
    /// By the request, which goes to a filter on the server's host; that one answers the client directly.
    Filter,
    /// As [`Series::Forward`], over direct routing: servers answer clients directly.
    ForwardDirect,
    /// As [`Series::Preallocate`], over direct routing: a server that was guessed rightly answers its client directly, and one that was not is
    /// replaced over full NAT. One decision is for a whole connection.
    PreallocateDirect(u8),
}

impl Series {
    /// Those that every point is measured with.
    pub const MAIN: [Series; 10] = [
        Series::Forward,
        Series::Matching,
        Series::Pooled,
        Series::Preallocate(100),
        Series::Delayed,
        Series::Preallocate(0),
        Series::ForwardDirect,
        Series::PreallocateDirect(100),
        Series::Filter,
        Series::PreallocateDirect(0),
    ];

    /// Whether any server may answer any request, because no rule has a say.
    pub(super) fn is_indifferent(self) -> bool {
        matches!(self, Series::Forward | Series::Matching | Series::ForwardDirect)
    }

    /// Right guesses of a hundred connections, where there are guesses.
    pub(super) fn hit_rate(self) -> Option<u8> {
        match self {
            Series::Preallocate(percent) | Series::PreallocateDirect(percent) => Some(percent),
            Series::Matching => Some(100),
            _ => None,
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guessed = |f: &mut fmt::Formatter<'_>, how: &str, percent: u8| match percent {
            100 => f.pad(&format!("{how}, all hits")),
            0 => f.pad(&format!("{how}, all misses")),
            percent => f.pad(&format!("{how}, {percent} % hits")),
        };
        match *self {
            Series::Forward => f.pad("forward"),
            Series::Matching => f.pad("forward, rules matched"),
            Series::Delayed => f.pad("delayed"),
            Series::Pooled => f.pad("pooled"),
            Series::Filter => f.pad("filter"),
            Series::ForwardDirect => f.pad("forward over DR"),
            Series::Preallocate(percent) => guessed(f, "preallocate", percent),
            Series::PreallocateDirect(percent) => guessed(f, "preallocate over DR", percent),
        }
    }
}
