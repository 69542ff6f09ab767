//! The fuzzers' seeds, mutations of them, and bytes without a seed.

#[path = "../../../fuzz/mutations.rs"]
mod mutations;

use std::path::Path;

use proptest::prelude::*;

use crate::record::Limits;
use crate::state;

/// Lengths, headers and messages.
const PIECES: &[&[u8]] = &[
    &[20, 3, 3, 0, 1, 1],
    &[23, 3, 3, 0x41, 0x00],
    &[23, 3, 3, 0x41, 0x01],
    &[22, 3, 1, 0xFF, 0xFF],
    &[21, 3, 3, 0, 2, 1, 0],
    &[24, 0, 0, 1, 1],
    &[0x13, 0x01],
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----END PRIVATE KEY-----\n",
    b"Proc-Type: 4,ENCRYPTED\n",
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
    pem: 300,
}

/// Seeds that are refused at once would test nothing.
#[test]
fn seeds_of_pem_are_what_they_are_called() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/pem");
    for (file, is_good) in [
        ("both", true),
        ("chain", true),
        ("der_ecdsa", true),
        ("der_ed25519", true),
        ("der_rsa", true),
        ("disordered", false),
        ("ed25519", true),
        ("encrypted", false),
        ("legacy", false),
        ("old", true),
        ("rsa", true),
    ] {
        let seed = std::fs::read(folder.join(file)).expect("a seed");
        assert_eq!(super::pem::run(&seed), is_good, "{file}");
    }
}

#[test]
fn seeds_of_frozen_are_sessions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frozen");
    for seed in std::fs::read_dir(folder).expect("a folder") {
        let path = seed.expect("a seed").path();
        let thawed = state::thaw(&std::fs::read(&path).expect("a seed"), Limits::default());
        assert!(thawed.is_ok(), "{}: {:?}", path.display(), thawed.err());
    }
}
