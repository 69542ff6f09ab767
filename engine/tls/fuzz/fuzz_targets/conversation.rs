//! A client of rustls and a session that moves, in any order of what they can do: both read what was written.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_tls::fuzzing::conversation(data));
