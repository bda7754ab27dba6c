//! Other files' tests once more, with content workers: the same segments in, the same segments out.

#[path = "binding.rs"]
mod binding;
#[path = "direct.rs"]
mod direct;
#[path = "migration/main.rs"]
mod migration;
#[path = "pooled.rs"]
mod pooled;
#[path = "stamped.rs"]
mod stamped;
