//! What must hold for any input of the example `resp`, as one function for the fuzzer and for ordinary tests.

use baton::testing::Harness;

use crate::service::Service;

/// Runs `data` as one connection's input through fresh stores: whole, byte by byte, and split in several ways. The
/// output must be the same each time, and so must be whether the connection continues.
///
/// # Panics
/// If they differ, or if the store panics.
pub(crate) fn check(data: &[u8]) {
    let whole = output(&[data]);
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    assert_same("byte by byte", data, &whole, &output(&bytes));
    for seed in 0..3 {
        assert_same("in parts", data, &whole, &output(&parts(data, seed)));
    }
}

fn output(parts: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut store = Harness::new(Service::default());
    let client = store.open();
    for part in parts {
        store.send(client, part);
    }
    (store.take_output(client), store.saw_end(client))
}

/// Splits at positions that depend only on the data and the seed.
fn parts(mut data: &[u8], seed: u64) -> Vec<&[u8]> {
    let mut state = data.iter().fold(seed + 1, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mut parts = Vec::new();
    while !data.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (part, rest) = data.split_at((1 + (state >> 33) as usize % 40).min(data.len()));
        parts.push(part);
        data = rest;
    }
    parts
}

fn assert_same(how: &str, data: &[u8], whole: &(Vec<u8>, bool), other: &(Vec<u8>, bool)) {
    assert!(
        whole == other,
        "{how}, the output differs for\n{}\nwhole: {} {}\nother: {} {}",
        data.escape_ascii(),
        whole.0.escape_ascii(),
        whole.1,
        other.0.escape_ascii(),
        other.1
    );
}
