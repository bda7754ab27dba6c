#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lcs_pipelines::extract::fuzz::fuzz_chunks(data));
