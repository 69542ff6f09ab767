//! Any records of a client that has the keys, damaged and cut in any way: what rustls makes of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_tls::fuzzing::records(data));
