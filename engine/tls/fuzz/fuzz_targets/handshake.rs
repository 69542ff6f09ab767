//! Any bytes of whoever has connected: the error that rustls gives alone.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_tls::fuzzing::handshake(data));
