//! Any records of a client that has the keys, damaged and split in any way: the result is that of rustls.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_tls::fuzzing::records(data));
