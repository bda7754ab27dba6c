//! The stages of the packet path and the pipelines made of them.
