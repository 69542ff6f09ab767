//! Any bytes, classified from any position on: every instruction set gives the same result.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_http::fuzzing::scan(data));
