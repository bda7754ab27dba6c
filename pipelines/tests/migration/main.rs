//! The scheme `filter`, both ends.

mod authentic;
mod bodies;
mod fallback;
mod given;
mod recall;
mod site;
