//! Configuration, services, weights, next hops and the control socket.
#![forbid(unsafe_code)]

pub mod config;
pub mod director;
pub mod model;
pub mod protocol;
