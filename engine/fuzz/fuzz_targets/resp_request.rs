//! Any bytes as one connection's input: no panic, and the same answers however they are split.
#![no_main]

#[path = "../resp_check.rs"]
mod resp_check;
#[path = "../../examples/resp/service/mod.rs"]
mod service;

libfuzzer_sys::fuzz_target!(|data: &[u8]| resp_check::check(data));
