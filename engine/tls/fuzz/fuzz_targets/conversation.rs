//! A rustls client and a session that moves, with any order of their actions: both read what was written.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_tls::fuzzing::conversation(data));
