//! What must hold for any input, as one function for the fuzzer and for ordinary tests.

use baton::testing::Harness;

use super::{Http, HttpConfig};

/// Runs `data` as one connection's input through fresh servers: whole, cut in several ways, with and without the memo,
/// and a second time on a server that has seen it. The output must be the same each time.
///
/// # Panics
/// If it is not, or if the server panics.
pub fn check(data: &[u8]) {
    let whole = output(&mut server(true), &[data]);
    assert_same("without the memo", data, &whole, &output(&mut server(false), &[data]));
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    assert_same("byte by byte", data, &whole, &output(&mut server(true), &bytes));
    for seed in 0..3 {
        let parts = parts(data, seed);
        let mut server = server(seed != 1);
        assert_same("in parts", data, &whole, &output(&mut server, &parts));
        assert_same("again", data, &whole, &output(&mut server, &[data]));
    }
}

/// Small bounds, so that small inputs reach them.
fn server(memo: bool) -> Harness<Http> {
    let bounds =
        HttpConfig { head_bytes_max: 512, target_bytes_max: 128, body_bytes_max: 256, ..HttpConfig::default() };
    Harness::new(Http::new(&HttpConfig { memo, ..bounds }))
}

fn output(server: &mut Harness<Http>, parts: &[&[u8]]) -> Vec<u8> {
    let client = server.open();
    for part in parts {
        server.send(client, part);
    }
    server.take_output(client)
}

/// Cuts at places that depend on the data and the seed only.
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
