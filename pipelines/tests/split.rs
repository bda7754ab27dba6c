//! Delayed binding and pools once more, with content workers: the same segments in, the same segments out.

#[path = "binding.rs"]
mod binding;
#[path = "pooled.rs"]
mod pooled;
