//! Splicing: what makes two TCP connections look like one without terminating either.
//!
//! [`Offsets`] moves sequence and acknowledgement numbers, SACK edges and windows from one side's space to the other's,
//! [`Stamps`] timestamps;
//! [`Cookies`] makes initial sequence numbers that remember a SYN; [`Segment`] writes the director's own segments.
//! When and why is policy and lives in `lcs-pipelines`.

mod cookie;
mod offsets;
mod segment;
mod stamps;

pub use cookie::{Cookies, Offer};
pub use offsets::{Lease, NumberSpace, Offsets};
pub use segment::{Payload, Segment};
pub use stamps::{FARTHEST, SOON, Stamps, later};
