//! Load, measurement, the demo and the in-process network.
#![forbid(unsafe_code)]

pub mod network;
pub mod simulate;
pub mod stages;
pub mod summary;
