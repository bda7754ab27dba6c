//! Load, measurement, the demo and the in-process network.
#![forbid(unsafe_code)]

pub mod demo;
pub mod network;
pub mod replay;
pub mod stages;
pub mod summary;
