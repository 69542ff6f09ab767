//! Any bytes as the state of a store and of a client: no panic, whatever a client then requests.
#![no_main]

#[path = "../resp_state_check.rs"]
mod resp_state_check;
#[path = "../../examples/resp/service/mod.rs"]
mod service;

libfuzzer_sys::fuzz_target!(|data: &[u8]| resp_state_check::check(data));
