//! The fuzzers' seeds, mutations of them, and bytes without a seed.

#[path = "../../../fuzz/mutations.rs"]
mod mutations;

use std::path::Path;

use proptest::prelude::*;

/// Lengths, headers and messages.
const PIECES: &[&[u8]] = &[
    &[20, 3, 3, 0, 1, 1],
    &[23, 3, 3, 0x41, 0x00],
    &[23, 3, 3, 0x41, 0x01],
    &[22, 3, 1, 0xFF, 0xFF],
    &[21, 3, 3, 0, 2, 1, 0],
    &[24, 0, 0, 1, 1],
    &[0x13, 0x01],
    &[0xFF; 8],
];

macro_rules! targets {
    ($($name:ident: $length_max:literal,)+) => {
        mod seeds {
            use super::*;

            $(
                #[test]
                fn $name() {
                    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
                    mutations::run(&corpus.join(stringify!($name)), PIECES, crate::fuzzing::$name);
                }
            )+
        }

        proptest! {
            #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

            $(
                #[test]
                fn $name(data in prop::collection::vec(any::<u8>(), 0..$length_max)) {
                    crate::fuzzing::$name(&data);
                }
            )+
        }
    };
}

targets! {
    records: 80,
    frozen: 220,
    handshake: 300,
    conversation: 120,
}
