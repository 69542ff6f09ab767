//! Any bytes of a peer: the result is the error that rustls alone gives.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_tls::fuzzing::handshake(data));
