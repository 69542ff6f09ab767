//! See `baton::fuzzing::workers::messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton::fuzzing::workers::messages(data));
