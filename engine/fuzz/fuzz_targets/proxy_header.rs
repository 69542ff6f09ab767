//! See `baton::fuzzing::proxy::proxy_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton::fuzzing::proxy::proxy_header(data));
