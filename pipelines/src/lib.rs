//! The stages of the packet path and the pipelines made of them.
//!
//! Read from top to bottom to follow a packet: [`layer4`] is the pipeline of layer-4 services; its stages are in
//! [`stages`], one file each. What the control thread publishes is a [`snapshot`]; what it may ask is a [`command`].
//! A pipeline is a function of (batch, state, `now`): no socket, no clock, no thread. May use `lcs-dataplane` only.
#![forbid(unsafe_code)]

pub mod command;
pub mod content;
pub mod extract;
pub mod layer4;
pub mod matching;
pub mod migration;
pub mod placement;
pub mod snapshot;
mod splice;
pub mod stages;
pub mod tally;
mod trace;

/// Bytes that a spliced connection takes beside its flow once its request is delivered and its response's end is known.
pub const SPLICE_BYTES: usize = splice::ENTRY_BYTES;
/// What it takes more where a service agrees upon timestamps, as every spliced connection does then.
pub const STAMP_BYTES: usize = size_of::<lcs_dataplane::splice::Stamps>();
