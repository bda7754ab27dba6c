//! The flow table: one worker's connections. Bounded, preallocated, shared with nobody.
//!
//! Four parts, see `DESIGN.md` beside this file: an index of 64-byte buckets from a connection's key to
//! its place, the [`Flow`] entries of one cache line each, their links on the lists of the timers, and the addresses of IPv6 flows beside them.

pub(crate) mod entry;
mod finder;
mod hash;
mod index;
mod interned;
mod key;
mod slab;
pub(crate) mod table;

pub use entry::{Flow, FlowFlags, Place, TcpState};
pub use finder::{AddressesV6, Finder};
pub use hash::Hasher;
pub use key::{Addresses, Key};
pub use table::{FlowTable, Memory, TableFull};
