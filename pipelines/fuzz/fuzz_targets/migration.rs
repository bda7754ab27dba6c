//! Messages between director and filter: whatever the bytes, and also when they are authentic.
#![no_main]
use lcs_pipelines::migration::message::{Body, ChannelKey, REQUEST_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let key = ChannelKey::from_secret(b"a secret of the fuzzer's own");
    let authentic = key.authenticate(data);
    for bytes in [data, &authentic] {
        if let Some((header, body)) = Body::read(bytes, &key) {
            if let Body::Migrate(m) = &body {
                assert!(m.offset as usize + m.bytes.len() <= m.total as usize && m.total as usize <= REQUEST_MAX);
            }
            let mut out = vec![];
            body.write(&header, &key, &mut out);
            assert_eq!(Body::read(&out, &key), Some((header, body)), "what is read is written and read again");
        }
    }
});
