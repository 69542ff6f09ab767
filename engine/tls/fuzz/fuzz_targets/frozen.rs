//! Any bytes as a frozen session: refused, or the same bytes again.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_tls::fuzzing::frozen(data));
