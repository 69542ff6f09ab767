//! Any bytes, classified from any place on: every instruction set gives the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_http::fuzzing::scan(data));
