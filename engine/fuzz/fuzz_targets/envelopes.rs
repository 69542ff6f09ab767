//! See `baton::fuzzing::workers::envelopes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton::fuzzing::workers::envelopes(data));
