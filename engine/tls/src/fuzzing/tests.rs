use std::time::{Duration, Instant};

use super::*;

/// As long as `BATON_FUZZ_SECONDS` says, and no longer than this many calls where it says nothing.
const CALLS: u64 = 3000;

fn run(calls: u64, check: fn(&[u8]), length_max: u64) {
    let seconds = std::env::var("BATON_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut random = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(std::process::id()) * u64::from(until.is_some());
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut done = 0;
    while until.map_or(done < calls, |until| Instant::now() < until) {
        let length = next() % length_max;
        let data: Vec<u8> = (0..length).map(|_| (next() >> 32) as u8).collect();
        let caught = std::panic::catch_unwind(|| check(&data));
        assert!(caught.is_ok(), "after {done} calls, with {data:?}");
        done += 1;
    }
}

#[test]
fn any_records_give_what_rustls_gives() {
    run(CALLS, records, 60);
}

#[test]
fn any_bytes_as_a_frozen_session_are_refused_or_the_same_again() {
    run(CALLS, frozen, 220);
}

#[test]
fn any_bytes_as_a_handshake_end_as_with_rustls_alone() {
    run(CALLS / 10, handshake, 600);
}

#[test]
fn any_conversation_with_a_client_of_rustls_comes_through() {
    run(CALLS, conversation, 120);
}
