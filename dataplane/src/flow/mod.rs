//! The flow table: one worker's connections. Bounded, preallocated, shared with nobody.
//!
//! Three parts, see `DESIGN.md` beside this file: an index of 64-byte buckets from a connection's key to
//! its place, the [`Flow`] entries of one cache line each, with what packets don't need kept aside, and the addresses of IPv6 flows.

mod counts;
mod entry;
mod finder;
mod hash;
mod index;
mod interned;
mod key;
mod slab;
mod table;

pub use counts::Passed;
pub use entry::{Flow, FlowFlags, Place, TcpState};
pub use finder::{AddressesV6, Finder};
pub use hash::Hasher;
pub use key::{Addresses, Key};
pub use table::{FlowTable, Memory, TableFull};
