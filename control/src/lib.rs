//! Configuration, services, weights, next hops and the control socket.
//!
//! This room decides what the workers do; it never touches a packet. A configuration file becomes a [`config`], that
//! becomes the desired state in the [`model`], and the [`director`] sees to it that every worker has it. [`netlink`]
//! follows the kernel's routes and neighbours, [`socket`] serves the `lcs` commands ([`protocol`]), [`render`] shows
//! their answers, and [`run`] joins all of it on the control thread. [`rules`] is the rule language: parsed, checked and
//! explained. May use `lcs-pipelines`, `lcs-dataplane` and `lcs-hwconf`.
#![forbid(unsafe_code)]

pub mod config;
pub mod director;
pub mod health;
pub mod model;
pub mod netlink;
pub mod protocol;
pub mod render;
pub mod rules;
pub mod run;
pub mod socket;
