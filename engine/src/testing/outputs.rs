//! The answers of a protocol, wherever its input is split and its connection is handed over.

use super::Harness;
use crate::protocol::Protocol;

/// Runs `input` through fresh protocols in many ways: whole, split in two at every byte, byte by byte, and with a peer
/// that takes one, two, three, … bytes of the answer at a time. Returns the output, which must be the same each time.
///
/// # Panics
/// If the outputs differ.
pub fn output_of_all_splits<P: Protocol>(make: impl Fn() -> P, input: &[u8]) -> Vec<u8> {
    let whole = output_of_parts(&make, &[input]);
    for cut in 1..input.len() {
        let (first, second) = input.split_at(cut);
        assert_eq!(
            output_of_parts(&make, &[first, second]).escape_ascii().to_string(),
            whole.escape_ascii().to_string(),
            "cut at byte {cut}"
        );
    }
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    let by_byte = output_of_parts(&make, &bytes);
    assert_eq!(by_byte.escape_ascii().to_string(), whole.escape_ascii().to_string(), "byte by byte");
    for window in [1, 2, 3, 7, 64, 1000] {
        let taken = output_in_windows(make(), input, window, |_| {});
        assert_eq!(taken.escape_ascii().to_string(), whole.escape_ascii().to_string(), "{window} bytes at a time");
    }
    whole
}

/// The output to `input` for a peer that takes this many bytes at a time. Calls `before` each time something happens.
fn output_in_windows<P: Protocol>(
    protocol: P,
    input: &[u8],
    window: usize,
    before: impl Fn(&mut Harness<P>),
) -> Vec<u8> {
    let mut harness = Harness::new(protocol);
    let client = harness.open();
    harness.set_window(client, Some(0));
    harness.send(client, input);
    let mut taken = Vec::new();
    loop {
        before(&mut harness);
        harness.set_window(client, Some(window));
        let part = harness.take_output(client);
        if part.is_empty() {
            return taken;
        }
        taken.extend_from_slice(&part);
    }
}

/// Runs `input` through fresh protocols that hand the connection over to the next fresh one after every event: at the
/// start, after each byte or few bytes that arrive, and after each few bytes that the peer takes. Returns the output,
/// which must be the same as without handovers.
///
/// # Panics
/// If the outputs differ, and as [`Harness::hand_over`].
pub fn output_of_all_handovers<P: Protocol>(make: impl Fn() -> P, input: &[u8]) -> Vec<u8> {
    let whole = output_of_parts(&make, &[input]);
    for size in [1, 2, 3, 7, 64] {
        let mut harness = Harness::new(make());
        let client = harness.open();
        harness.hand_over(make());
        for part in input.chunks(size) {
            harness.send(client, part);
            harness.hand_over(make());
        }
        let output = harness.take_output(client);
        let (output, whole) = (output.escape_ascii().to_string(), whole.escape_ascii().to_string());
        assert_eq!(output, whole, "handed over after every {size} bytes of input");
    }
    for window in [1, 3, 64, 1000] {
        let taken = output_in_windows(make(), input, window, |harness| harness.hand_over(make()));
        let (taken, whole) = (taken.escape_ascii().to_string(), whole.escape_ascii().to_string());
        assert_eq!(taken, whole, "handed over after every {window} bytes of output");
    }
    whole
}

/// Runs `parts`, which arrive one after the other, through a fresh protocol, and returns the output.
pub fn output_of_parts<P: Protocol>(make: impl Fn() -> P, parts: &[&[u8]]) -> Vec<u8> {
    let mut harness = Harness::new(make());
    let client = harness.open();
    for part in parts {
        harness.send(client, part);
    }
    harness.take_output(client)
}
