//! Any bytes as a chunked body: the result is the same however they are split.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_http::fuzzing::chunked(data));
