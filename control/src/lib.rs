//! Configuration, services, weights, next hops and the control socket.
#![forbid(unsafe_code)]

pub mod rules;
