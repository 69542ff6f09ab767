//! Any bytes as one connection's input: no panic, and the same answers however they are cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| batond::http::fuzz::check(data));
