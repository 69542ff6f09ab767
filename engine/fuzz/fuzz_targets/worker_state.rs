//! See `baton::fuzzing::workers::worker_state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton::fuzzing::workers::worker_state(data));
