#![no_main]

#[path = "../../tests/hold/mod.rs"]
mod hold;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hold::table(data));
