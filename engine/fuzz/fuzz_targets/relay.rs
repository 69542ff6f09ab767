//! See `baton::fuzzing::masters::relay`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton::fuzzing::masters::relay(data));
