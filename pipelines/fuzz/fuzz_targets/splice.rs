#![no_main]

#[path = "../../tests/adversary/mod.rs"]
mod adversary;

libfuzzer_sys::fuzz_target!(|data: &[u8]| adversary::run(data));
