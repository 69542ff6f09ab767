//! See `baton::fuzzing::workers::orders`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton::fuzzing::workers::orders(data));
