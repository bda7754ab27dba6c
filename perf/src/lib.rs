//! Load, measurement, the demo and the in-process network. May use every other library.
#![forbid(unsafe_code)]

pub(crate) mod bed;
pub mod connections;
pub mod cps;
pub mod decisions;
pub mod demo;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub(crate) mod folder;
pub mod linerate;
pub mod neighbour;
pub mod network;
pub mod pauses;
pub mod peers;
pub mod placement;
pub mod plot;
pub mod range;
pub mod replay;
pub mod scaling;
pub mod schemes;
pub mod simulate;
pub mod stages;
pub mod summary;
pub(crate) mod traffic;
pub(crate) mod wire;
