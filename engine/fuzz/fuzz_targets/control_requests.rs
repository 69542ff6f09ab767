//! See `baton::fuzzing::masters::control_requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton::fuzzing::masters::control_requests(data));
