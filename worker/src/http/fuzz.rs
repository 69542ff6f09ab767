//! What must hold for any input, as functions for the fuzzer and for ordinary tests.

use std::time::Duration;

use baton::testing::Harness;

use baton_http::{Http, HttpConfig};

use super::Site;

/// Runs `data` as one connection's input through fresh servers: whole, split in several ways, and a second time on a
/// server that has seen it. The output must be the same each time.
///
/// # Panics
/// If it is not, or if the server panics.
pub fn check(data: &[u8]) {
    let whole = output(&mut server(), &[data]);
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    assert_same("byte by byte", data, &whole, &output(&mut server(), &bytes));
    for seed in 0..3 {
        let parts = parts(data, seed);
        let mut server = server();
        assert_same("in parts", data, &whole, &output(&mut server, &parts));
        assert_same("again", data, &whole, &output(&mut server, &[data]));
    }
}

/// Takes `data` over as a connection that another worker froze. `data` has seven bytes and then, separated by bytes `ff`:
/// the name of the handler that continues, the head of a request, what is missing of its body, what is kept of it, and
/// input. If it is valid, no more of a body is kept than the server accepts, and all of it can be frozen again. Returns
/// whether it was valid.
///
/// # Panics
/// If that does not hold, or if the server panics.
pub fn check_frozen(data: &[u8]) -> bool {
    let (fixed, rest) = data.split_at(data.len().min(FROZEN_FIXED_BYTES));
    let mut state = fixed[..fixed.len().min(FROZEN_IDLE_BYTES)].to_vec();
    let mut input = rest;
    if let [.., kind, has_timer] = fixed
        && fixed.len() == FROZEN_FIXED_BYTES
        && *kind > 0
    {
        let mut parts = rest.splitn(5, |byte| *byte == 0xff);
        let [name, head, missing, kept, behind] = [(); 5].map(|()| parts.next().unwrap_or_default());
        state.push(*kind);
        for part in [name, head, missing] {
            state.extend_from_slice(&(part.len() as u32).to_le_bytes());
            state.extend_from_slice(part);
        }
        state.push(*has_timer);
        state.extend_from_slice(kept);
        input = behind;
    }
    let mut server = server();
    let Ok(client) = server.take_over(2, &state, input, &[]) else { return false };
    server.send(client, input);
    server.advance(Duration::from_secs(1));
    let successor = super::server(&bounds());
    server.hand_over(successor);
    server.send(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.advance(Duration::from_secs(100));
    true
}

/// The fixed part of every frozen connection, and that part with the kind and the timer of a busy one.
const FROZEN_IDLE_BYTES: usize = 5;
const FROZEN_FIXED_BYTES: usize = 7;

/// Small limits, so that small inputs reach them.
fn bounds() -> HttpConfig {
    HttpConfig { head_bytes_max: 512, target_bytes_max: 128, body_bytes_max: 256, ..HttpConfig::default() }
}

fn server() -> Harness<Http<Site>> {
    Harness::new(super::server(&bounds()))
}

fn output(server: &mut Harness<Http<Site>>, parts: &[&[u8]]) -> Vec<u8> {
    let client = server.open();
    for part in parts {
        server.send(client, part);
    }
    server.take_output(client)
}

/// Splits at positions that depend only on the data and the seed.
fn parts(mut data: &[u8], seed: u64) -> Vec<&[u8]> {
    let mut state = data.iter().fold(seed + 1, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mut parts = Vec::new();
    while !data.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (part, rest) = data.split_at((1 + (state >> 33) as usize % 60).min(data.len()));
        parts.push(part);
        data = rest;
    }
    parts
}

fn assert_same(how: &str, data: &[u8], whole: &[u8], other: &[u8]) {
    assert!(
        whole == other,
        "{how}, the output differs for\n{}\nwhole: {}\nother: {}",
        data.escape_ascii(),
        whole.escape_ascii(),
        other.escape_ascii()
    );
}
