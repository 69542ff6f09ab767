//! Any bytes as a connection that another worker froze: no panic, and no more than the server takes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    batond::http::fuzz::check_frozen(data);
});
