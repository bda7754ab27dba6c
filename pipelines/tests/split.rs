//! Other files' tests once more, with content workers: the same segments in, the same segments out.

// Each of these files has its own view of the director's; they share nothing else.
#![allow(clippy::duplicate_mod)]

#[path = "binding.rs"]
mod binding;
#[path = "bursts.rs"]
mod bursts;
#[path = "direct.rs"]
mod direct;
#[path = "guess.rs"]
mod guess;
#[path = "handshake.rs"]
mod handshake;
#[path = "leases.rs"]
mod leases;
#[path = "migration/main.rs"]
mod migration;
#[path = "pooled.rs"]
mod pooled;
#[path = "stamped.rs"]
mod stamped;
