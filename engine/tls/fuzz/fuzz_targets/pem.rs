//! Any bytes as the files of an operator: refused, or an identity that rustls accepts.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_tls::fuzzing::pem(data));
