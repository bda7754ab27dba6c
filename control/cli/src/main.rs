//! The `lcs` command line.
fn main() {}
