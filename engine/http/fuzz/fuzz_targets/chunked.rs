//! Any bytes as a chunked body: the same however they are cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_http::fuzzing::chunked(data));
