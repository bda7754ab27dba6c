//! Where a value was found: nothing is copied that can be pointed at.

use crate::matching::{Found, VarId};

/// What a [`Place`] points into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The request buffer.
    Buffer,
    /// The body after chunks were removed or its encoding was changed.
    Body,
    /// Values that had to be decoded.
    Decoded,
}

/// A value's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What it points into.
    pub source: Source,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Place {
    pub(super) fn new(source: Source, start: usize, end: usize) -> Self {
        Self { source, start: start as u32, end: end as u32 }
    }
}

/// Takes the values that a document scanner finds.
pub(super) struct Sink<'s> {
    pub(super) found: &'s mut Vec<Found<Place>>,
    pub(super) decoded: &'s mut Vec<u8>,
    /// What the document is part of, and where it begins there.
    pub(super) source: Source,
    pub(super) base: usize,
    /// The variables after which to stop, because a rule waits for them; none means any.
    pub(super) wanted: &'s [VarId],
    /// One of them was found.
    pub(super) hit: bool,
}

impl Sink<'_> {
    pub(super) fn document(&self, start: usize, end: usize) -> Place {
        Place::new(self.source, self.base + start, self.base + end)
    }

    pub(super) fn decoded_since(&self, start: usize) -> Place {
        Place::new(Source::Decoded, start, self.decoded.len())
    }

    pub(super) fn put(&mut self, variable: VarId, place: Place) {
        self.found.push(Found { variable, place });
        self.hit |= self.wanted.is_empty() || self.wanted.contains(&variable);
    }
}

/// How far a document scanner got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// All bytes there are have been looked at.
    NeedMore,
    /// A wanted value was found.
    Hit,
    /// No further value can be found.
    Complete,
}
