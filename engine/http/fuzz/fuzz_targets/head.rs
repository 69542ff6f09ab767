//! Any bytes as the head of a request: as httparse reads it, or refused for a reason.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_http::fuzzing::head(data));
