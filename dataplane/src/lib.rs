//! Mechanism without policy: frames, headers, ports, the flow table, timers, rings and the worker loop.
//!
//! This room knows what a packet, a buffer and a connection entry are. It does not know what a
//! virtual service is: that is policy and lives in `lcs-pipelines`. May use `lcs-hwconf` only.
//!
//! A reader who follows a packet starts at [`worker`], which receives a burst from a [`port`] into a
//! [`batch`], lets a pipeline decide, and transmits; the pipeline's memory is [`flow`] and [`timer`].

pub mod batch;
mod bell;
pub mod checksum;
pub mod cycles;
pub mod errand;
pub mod flow;
pub mod frame;
pub mod headers;
pub mod port;
pub mod prefetch;
pub mod ring;
pub mod share;
pub mod splice;
pub mod spread;
pub mod timer;
pub mod verdict;
pub mod worker;

pub use batch::{BURST, Batch};
pub use frame::Frame;
pub use verdict::{DropReason, Verdict};
