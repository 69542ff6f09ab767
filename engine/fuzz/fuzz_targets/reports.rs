//! See `baton::fuzzing::masters::reports`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton::fuzzing::masters::reports(data));
