//! Load, measurement, the demo and the in-process network.
#![forbid(unsafe_code)]

pub mod demo;
