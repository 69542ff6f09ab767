//! See `baton::fuzzing::masters::control_replies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton::fuzzing::masters::control_replies(data));
