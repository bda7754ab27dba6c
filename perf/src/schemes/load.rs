//! What clients ask, and the rules that say who answers: the same on the memory port and over real kernels.

use super::{Options, Point, Series};
use crate::network::random::{Random, mix};

/// Connections' requests and rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub point: Point,
    /// Connections of a hundred that are for the server that is guessed.
    pub share: u8,
    pub clients: usize,
    pub seed: u64,
}

impl Load {
    pub fn new(options: &Options, series: Series, point: Point) -> Self {
        let share = match series {
            Series::Preallocate(percent) | Series::PreallocateDirect(percent) => percent,
            // Where nothing is guessed, both servers get as much.
            _ => 50,
        };
        let seed = mix(options.seed ^ mix((point.size + 1) as u64 ^ mix((point.rules + 1) as u64)));
        Load { point, share, clients: options.clients, seed }
    }

    /// Of so many connections, those that are for the server that is guessed.
    pub fn hits(&self, connections: usize) -> usize {
        (connections * usize::from(self.share) + 50) / 100
    }

    /// For each client its connections: their number, and whether they are for the server that is guessed.
    pub fn connections(&self, connections: usize, random: &mut Random) -> Vec<Vec<(usize, bool)>> {
        let hits = self.hits(connections);
        let mut guessed: Vec<bool> = (0..connections).map(|n| n < hits).collect();
        for n in (1..connections).rev() {
            guessed.swap(n, random.below(n as u64 + 1) as usize);
        }
        let mut clients = vec![vec![]; self.clients];
        for (n, guessed) in guessed.into_iter().enumerate() {
            clients[n % self.clients].push((n, guessed));
        }
        clients
    }

    /// What a request of a connection asks for.
    pub fn path(&self, guessed: bool, connection: usize, request: usize, random: &mut Random) -> String {
        let Point { rules, size, .. } = self.point;
        // Rules with an even number are for the server that is guessed; behind the odd ones comes the default.
        let rule = if guessed {
            2 * random.below(rules.div_ceil(2) as u64)
        } else {
            2 * random.below(rules as u64 / 2 + 1) + 1
        };
        format!("/k{rule}/{connection}-{request}/{size}")
    }

    /// Whether a path's rule names the server that is guessed.
    pub fn is_for_guessed(&self, path: &str) -> bool {
        let rule = path.trim_start_matches("/k").split('/').next().and_then(|n| n.parse::<usize>().ok());
        rule.is_some_and(|n| n % 2 == 0 && n < self.point.rules)
    }
}

/// So many rules about the beginning of a path, each second one for the server that is guessed; what none takes is for the other.
pub(super) fn rule_set(rules: usize) -> String {
    let mut text = String::new();
    for n in 0..rules {
        let group = if n % 2 == 0 { "guessed" } else { "other" };
        text.push_str(&format!("r{n}: if (prefix(url, \"/k{n}/\")) routeTo({group})\n"));
    }
    text.push_str("default: routeTo(other)\n");
    text
}
