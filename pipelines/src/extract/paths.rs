//! Document paths as one automaton, and where in it a document stands.
//!
//! All paths of a program share their common steps. An element is looked at only if its parent stands on a path; a
//! parent that does not makes its whole subtree uninteresting, which is what the scanners skip at full speed.

use hashbrown::HashMap;

use crate::matching::VarId;
use crate::matching::ir::{Axis, DocPath};

/// Levels of nesting that a document may have.
pub const MAX_DEPTH: usize = 256;

/// The paths, compiled.
#[derive(Debug, Default)]
pub(super) struct PathPlan {
    names: HashMap<Box<[u8]>, u32>,
    nodes: Vec<Node>,
    /// By node and name: a run of `edges`.
    lookup: HashMap<(u32, u32), (u32, u32)>,
    edges: Vec<Edge>,
    variables: Vec<VarId>,
}

#[derive(Debug, Default)]
struct Node {
    /// Variables whose value this element is, by their place in [`PathPlan::variables`].
    values: Vec<u32>,
    attributes: Vec<(Box<[u8]>, u32)>,
    /// Whether some step below may pass over levels.
    descends: bool,
    /// Names of which siblings are counted.
    counters: u32,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    descends: bool,
    index: Option<u32>,
    counter: u32,
    target: u32,
}

impl PathPlan {
    pub(super) fn new<'p>(paths: impl IntoIterator<Item = (VarId, &'p DocPath)>) -> Self {
        let mut plan = Self { nodes: vec![Node::default()], ..Self::default() };
        let mut by_step: HashMap<(u32, bool, u32), Vec<Edge>> = HashMap::new();
        for (variable, path) in paths {
            let mut node = 0;
            for step in &path.steps {
                let next = plan.names.len() as u32;
                let name = *plan.names.entry(step.name.as_bytes().into()).or_insert(next);
                let descends = step.axis == Axis::Descendant;
                let siblings = by_step.entry((node, descends, name)).or_default();
                plan.nodes[node as usize].descends |= descends;
                node = match siblings.iter().find(|edge| edge.index == step.index) {
                    Some(edge) => edge.target,
                    None => {
                        let target = plan.nodes.len() as u32;
                        plan.nodes.push(Node::default());
                        siblings.push(Edge { descends, index: step.index, counter: 0, target });
                        target
                    }
                };
            }
            let local = plan.variables.len() as u32;
            plan.variables.push(variable);
            match &path.attribute {
                Some(name) => plan.nodes[node as usize].attributes.push((name.as_bytes().into(), local)),
                None => plan.nodes[node as usize].values.push(local),
            }
        }
        let mut steps: Vec<_> = by_step.into_iter().collect();
        steps.sort_unstable_by_key(|((node, descends, name), _)| (*node, *name, *descends));
        for ((node, _, name), siblings) in steps {
            let start = plan.edges.len() as u32;
            let counter = plan.nodes[node as usize].counters;
            if siblings.iter().any(|edge| edge.index.is_some()) {
                plan.nodes[node as usize].counters += 1;
            }
            plan.edges.extend(siblings.into_iter().map(|edge| Edge { counter, ..edge }));
            let end = plan.edges.len() as u32;
            plan.lookup.entry((node, name)).and_modify(|run| run.1 = end).or_insert((start, end));
        }
        plan
    }

    pub(super) fn variables(&self) -> usize {
        self.variables.len()
    }

    pub(super) fn variable(&self, local: u32) -> VarId {
        self.variables[local as usize]
    }
}

/// Where in the paths a document stands: one frame an open element, as long as elements are on a path.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    frames: Vec<Frame>,
    active: Vec<Active>,
    counters: Vec<u32>,
    /// One bit a variable: its first value has begun.
    claimed: Vec<u64>,
    left: usize,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    active: u32,
    counters: u32,
}

#[derive(Debug, Clone, Copy)]
struct Active {
    node: u32,
    counters: u32,
    /// Only steps that pass over levels go on from here.
    carried: bool,
}

impl Tracker {
    pub(super) fn reset(&mut self, plan: &PathPlan) {
        self.frames.clear();
        self.active.clear();
        self.counters.clear();
        self.claimed.clear();
        self.claimed.resize(plan.variables().div_ceil(64), 0);
        self.left = plan.variables();
        self.frames.push(Frame { active: 0, counters: 0 });
        self.activate(plan, 0, false);
    }

    /// Frames of open elements.
    pub(super) fn depth(&self) -> usize {
        self.frames.len() - 1
    }

    /// Variables without a value.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Goes down into an element. False if nothing in it can be on a path; then there is no frame for it.
    pub(super) fn enter(&mut self, plan: &PathPlan, name: &[u8]) -> bool {
        let Some(&parent) = self.frames.last() else { return false };
        let (from, to) = (parent.active as usize, self.active.len());
        let name = plan.names.get(name).copied();
        self.frames.push(Frame { active: to as u32, counters: self.counters.len() as u32 });
        for place in from..to {
            let active = self.active[place];
            if let Some(&(start, end)) = name.and_then(|name| plan.lookup.get(&(active.node, name))) {
                let mut counted = [None; 2];
                for edge in &plan.edges[start as usize..end as usize] {
                    if active.carried && !edge.descends {
                        continue;
                    }
                    let fits = edge.index.is_none_or(|index| {
                        let nth = *counted[usize::from(edge.descends)].get_or_insert_with(|| {
                            let counter = &mut self.counters[(active.counters + edge.counter) as usize];
                            *counter += 1;
                            *counter
                        });
                        nth == index
                    });
                    if fits {
                        self.activate(plan, edge.target, false);
                    }
                }
            }
            if plan.nodes[active.node as usize].descends {
                self.activate(plan, active.node, true);
            }
        }
        let alive = self.active.len() > to;
        if !alive {
            self.leave();
        }
        alive
    }

    /// Makes the paths begin anew below the element just entered (or refused, then it gets a frame): a SOAP body.
    pub(super) fn restart(&mut self, plan: &PathPlan, entered: bool) {
        if !entered {
            self.frames.push(Frame { active: self.active.len() as u32, counters: self.counters.len() as u32 });
        }
        self.activate(plan, 0, false);
    }

    /// A frame in which nothing is on a path, for an element that must be followed all the same.
    pub(super) fn enter_idle(&mut self) {
        self.frames.push(Frame { active: self.active.len() as u32, counters: self.counters.len() as u32 });
    }

    pub(super) fn leave(&mut self) {
        if let Some(frame) = self.frames.pop() {
            self.active.truncate(frame.active as usize);
            self.counters.truncate(frame.counters as usize);
        }
    }

    fn activate(&mut self, plan: &PathPlan, node: u32, carried: bool) {
        let from = self.frames.last().map_or(0, |frame| frame.active as usize);
        if let Some(active) = self.active[from..].iter_mut().find(|active| active.node == node) {
            active.carried &= carried;
            return;
        }
        let counters = self.counters.len() as u32;
        self.counters.resize(self.counters.len() + plan.nodes[node as usize].counters as usize, 0);
        self.active.push(Active { node, counters, carried });
    }

    fn top(&self) -> &[Active] {
        self.frames.last().map_or(&[], |frame| &self.active[frame.active as usize..])
    }

    /// Whether an attribute of the element just entered may be asked for.
    pub(super) fn wants_attributes(&self, plan: &PathPlan) -> bool {
        self.top().iter().any(|a| !a.carried && !plan.nodes[a.node as usize].attributes.is_empty())
    }

    /// Claims the variables that the element just entered is the first value of; pushes them on `claimed`.
    pub(super) fn claim(&mut self, plan: &PathPlan, claimed: &mut Vec<VarId>) {
        let from = self.frames.last().map_or(0, |frame| frame.active as usize);
        for place in from..self.active.len() {
            let active = self.active[place];
            if !active.carried {
                for &local in &plan.nodes[active.node as usize].values {
                    if self.claim_one(local) {
                        claimed.push(plan.variable(local));
                    }
                }
            }
        }
    }

    /// Claims the variables that this attribute of the element just entered is the first value of.
    pub(super) fn claim_attribute(&mut self, plan: &PathPlan, name: &[u8], claimed: &mut Vec<VarId>) {
        let from = self.frames.last().map_or(0, |frame| frame.active as usize);
        for place in from..self.active.len() {
            let active = self.active[place];
            if !active.carried {
                for (wanted, local) in &plan.nodes[active.node as usize].attributes {
                    if **wanted == *name && self.claim_one(*local) {
                        claimed.push(plan.variable(*local));
                    }
                }
            }
        }
    }

    fn claim_one(&mut self, local: u32) -> bool {
        let (word, bit) = (local as usize / 64, 1_u64 << (local % 64));
        let new = self.claimed[word] & bit == 0;
        self.claimed[word] |= bit;
        self.left -= usize::from(new);
        new
    }
}
